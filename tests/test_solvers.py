"""Solvers and processes: empirical orders, peers (torchdiffeq, torchsde), shapes, errors."""

import math

import numpy as np
import pytest
import torch
import torchsde
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchdiffeq import odeint

from fromnoise.distributions import laboratory
from fromnoise.fields import ExactField
from fromnoise.paths import GaussianPath
from fromnoise.processes import (
    ODE,
    SDE,
    brownian,
    geometric_brownian,
    langevin,
    ornstein_uhlenbeck,
    probability_flow,
    stochastic_flow,
)
from fromnoise.schedules import CondOT
from fromnoise.solvers import (
    brownian_increments,
    coarsen,
    euler,
    euler_maruyama,
    heun,
    midpoint,
    milstein,
    rk4,
    solve_adaptive,
    solve_ode,
    solve_sde,
    stochastic_heun,
)

F64 = torch.float64
LAB = laboratory()
FLOW = probability_flow(ExactField(LAB, GaussianPath(CondOT())))
ONE_STEP = {"euler": euler, "midpoint": midpoint, "heun": heun, "rk4": rk4}
# x' = -x + sin t: nonautonomous, so that a method which mistakes its inner times loses its order
NONAUTONOMOUS = ODE(lambda x, t: -x + torch.sin(t))


def exact_nonautonomous(x, t):
    return (x + 0.5) * math.exp(-t) + 0.5 * (math.sin(t) - math.cos(t))


def noise(n=32, seed=0, dtype=F64):
    return torch.randn(n, 2, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def slope(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


# -- ODEs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "order"), [(euler, 1), (midpoint, 2), (heun, 2), (rk4, 4)])
def test_global_order_against_a_closed_form(method, order):
    x, steps = noise(), [16, 32, 64, 128]
    errors = [
        (
            solve_ode(NONAUTONOMOUS, x, torch.linspace(0, 2, n + 1, dtype=F64), method)
            - exact_nonautonomous(x, 2.0)
        )
        .abs()
        .max()
        .item()
        for n in steps
    ]
    # the next term of the expansion bends the slope by O(h), at most 0.15 at these sizes
    assert slope(steps, errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("method", "order"), [(euler, 1), (midpoint, 2), (heun, 2), (rk4, 4)])
def test_global_order_on_the_laboratory(method, order):
    x, steps = noise(8), [40, 80, 160]
    reference = solve_adaptive(FLOW, x, 0.0, 0.9, rtol=1e-12, atol=1e-12).x
    errors = [
        (solve_ode(FLOW, x, torch.linspace(0, 0.9, n + 1, dtype=F64), method) - reference)
        .square()
        .mean()
        .sqrt()
        .item()
        for n in steps
    ]
    # the field bends sharply between components, so the asymptotic slope is reached more slowly
    assert slope(steps, errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", ["euler", "midpoint", "rk4", "heun"])
def test_steps_equal_torchdiffeq(name):
    times = torch.linspace(0, 0.95, 20, dtype=F64)
    # torchdiffeq's "rk4" is the 3/8 rule, "heun2" is Heun's method of order 2
    peer = {"heun": "heun2"}.get(name, name)
    x = noise()
    ours = solve_ode(FLOW, x, times, ONE_STEP[name], trajectory=True)
    theirs = odeint(lambda t, y: FLOW.drift(y, t), x, times, method=peer)
    if name == "rk4":
        theirs_like_ours = solve_ode(FLOW, x, times, three_eighths, trajectory=True)
        assert torch.allclose(theirs, theirs_like_ours, atol=1e-13)
        assert (ours - theirs).abs().max() < 1e-3  # two methods of order 4 with h = 1/20
    else:
        # the same arithmetic in another order: a few roundings a step, grown by the flow
        assert torch.allclose(ours, theirs, atol=1e-13)


def three_eighths(ode, x, t, s):
    h = s - t
    k1 = ode.drift(x, t)
    k2 = ode.drift(x + h * k1 / 3, t + h / 3)
    k3 = ode.drift(x + h * (k2 - k1 / 3), t + 2 * h / 3)
    k4 = ode.drift(x + h * (k1 - k2 + k3), s)
    return x + h * (k1 + 3 * (k2 + k3) + k4) / 8


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_adaptive_meets_its_tolerance_and_torchdiffeqs_answer(tolerance):
    x = noise()
    # torchdiffeq steps past the end and interpolates back, so the end lies inside [0, 1]
    found = solve_adaptive(FLOW, x, 0.0, 0.9, rtol=tolerance, atol=tolerance)
    theirs = odeint(
        lambda t, y: FLOW.drift(y, t),
        x,
        torch.tensor([0.0, 0.9], dtype=F64),
        method="dopri5",
        rtol=1e-10,
        atol=1e-10,
    )[-1]
    # the tolerance bounds the error of one step; over ~20-40 of them it adds up and grows with the
    # flow, so a factor 100 is allowed, and no less than 1/1000 would show a wasted effort
    error = (found.x - theirs).square().mean().sqrt().item()
    assert 1e-3 * tolerance < error < 100 * tolerance
    assert found.evaluations == 1 + 6 * (found.accepted + found.rejected)
    assert len(found.times) == found.accepted + 1
    assert found.times[0] == 0 and found.times[-1] == 0.9 and bool((found.times.diff() > 0).all())


def test_adaptive_has_order_five():
    x, pairs = noise(), []
    for tolerance in (1e-7, 1e-9, 1e-11, 1e-13):
        found = solve_adaptive(NONAUTONOMOUS, x, 0.0, 2.0, rtol=tolerance, atol=tolerance)
        pairs.append((found.accepted, (found.x - exact_nonautonomous(x, 2.0)).abs().max().item()))
    steps, errors = zip(*pairs, strict=True)
    # grids differ in shape as well as size, which is worth about half an order
    assert slope(steps, errors) == pytest.approx(5, abs=0.7)


def test_adaptive_runs_backward_and_returns():
    x = noise()
    end = solve_adaptive(FLOW, x, 0.0, 1.0, rtol=1e-9, atol=1e-9).x
    back = solve_adaptive(FLOW, end, 1.0, 0.0, rtol=1e-9, atol=1e-9).x
    assert torch.allclose(back, x, atol=1e-6)


def test_adaptive_serves_float32():
    found = solve_adaptive(FLOW, noise(dtype=torch.float32), 0.0, 1.0)
    assert found.x.dtype == torch.float32


def test_adaptive_names_a_singularity():
    blow_up = ODE(lambda x, t: x**2)  # x = 1 / (1 - t)
    with pytest.raises(RuntimeError, match=r"step size fell to .* at t = (0\.99|1)"):
        solve_adaptive(blow_up, torch.ones(1, 1, dtype=F64), 0.0, 2.0)
    with pytest.raises(RuntimeError, match="3 steps reached only t"):
        solve_adaptive(FLOW, noise(), 0.0, 1.0, rtol=1e-10, atol=1e-10, max_steps=3)


def test_adaptive_stands_still_where_the_drift_is_zero():
    found = solve_adaptive(ODE(lambda x, t: torch.zeros_like(x)), noise(), 0.0, 1.0)
    assert torch.equal(found.x, noise())


@given(
    event=st.sampled_from([(), (2,), (1, 3, 3)]),
    dtype=st.sampled_from([torch.float32, F64]),
    name=st.sampled_from(sorted(ONE_STEP)),
    falling=st.booleans(),
)
def test_ode_loop_keeps_shape_and_dtype(event, dtype, name, falling):
    x = torch.ones(4, *event, dtype=dtype)
    times = torch.linspace(0, 1, 5)
    times = times.flip(0) if falling else times
    states = solve_ode(ODE(lambda y, t: -y * t), x, times, ONE_STEP[name], trajectory=True)
    assert states.shape == (5, *x.shape) and states.dtype == dtype
    last = solve_ode(ODE(lambda y, t: -y * t), x, times, ONE_STEP[name])
    assert torch.equal(states[-1], last) and torch.equal(states[0], x)


@pytest.mark.parametrize(
    "times", [[0.0], [[0.0, 1.0]], [0.0, 0.5, 0.5], [0.0, 1.0, 0.5], [0, math.nan]]
)
def test_bad_grids_are_refused(times):
    with pytest.raises(ValueError, match="times"):
        solve_ode(FLOW, noise(), torch.tensor(times))
    with pytest.raises(ValueError, match="times"):
        solve_sde(brownian(), noise(), torch.tensor(times))


def test_sde_grids_run_forward():
    with pytest.raises(ValueError, match="times must strictly increase"):
        solve_sde(brownian(), noise(), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("bad", [{"start": 1.0, "end": 1.0}, {"rtol": 0.0}, {"atol": -1.0}])
def test_bad_adaptive_arguments(bad):
    with pytest.raises(ValueError, match="must differ"):
        solve_adaptive(FLOW, noise(), **{"start": 0.0, "end": 1.0, **bad})


# -- SDEs ---------------------------------------------------------------------------------------


def strong_errors(sde, exact, method, paths=2000, finest=256):
    g = torch.Generator().manual_seed(1)
    x = torch.ones(paths, 1, dtype=F64)
    times = torch.linspace(0, 1, finest + 1, dtype=F64)
    dw = brownian_increments(x, times, g)
    truth = exact(x, times, dw)
    steps, errors = [8, 16, 32, 64], []
    for n in steps:
        grid = torch.linspace(0, 1, n + 1, dtype=F64)
        end = solve_sde(sde, x, grid, method, increments=coarsen(dw, finest // n))
        errors.append((end - truth).square().mean().sqrt().item())
    return slope(steps, errors)


def exact_gbm(x, times, dw):
    return x * torch.exp(torch.tensor(0.5 - 0.5 * 0.8**2) + 0.8 * dw.sum(0))


def test_strong_order_half_for_multiplicative_noise():
    measured = strong_errors(geometric_brownian(0.5, 0.8), exact_gbm, euler_maruyama)
    # 2000 paths fix each root mean square to a few per cent, and shared paths make it less
    assert measured == pytest.approx(0.5, abs=0.12)


def test_milstein_has_strong_order_one():
    assert strong_errors(geometric_brownian(0.5, 0.8), exact_gbm, milstein) == pytest.approx(
        1.0, abs=0.12
    )


def test_strong_order_one_for_additive_noise():
    """OU against its own exact solution on the finest grid, whose sums approximate the integral."""

    def fine(x, times, dw):
        return solve_sde(ornstein_uhlenbeck(2.0, 0.7), x, times, stochastic_heun, increments=dw)

    measured = strong_errors(ornstein_uhlenbeck(2.0, 0.7), fine, euler_maruyama)
    assert measured == pytest.approx(1.0, abs=0.15)


def ou_moments_after(method, n, theta=1.5, g=0.9):
    """Mean factor and variance of one method on OU over [0, 1], exactly: the step is affine."""
    h = 1.0 / n
    one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
    t, s = torch.tensor(0.0, dtype=F64), torch.tensor(h, dtype=F64)
    sde = ornstein_uhlenbeck(theta, g)
    factor = method(sde, one, t, s, zero).item()
    gain = method(sde, zero, t, s, one).item()
    variance = sum(factor ** (2 * i) for i in range(n)) * gain**2 * h
    return factor**n, variance


@pytest.mark.parametrize(("method", "order"), [(euler_maruyama, 1), (stochastic_heun, 2)])
def test_weak_order_on_ou_without_sampling(method, order):
    theta, g = 1.5, 0.9
    steps = [16, 32, 64, 128]
    truth = (math.exp(-theta), g**2 * (1 - math.exp(-2 * theta)) / (2 * theta))
    moments = [ou_moments_after(method, n) for n in steps]
    for i in range(2):
        errors = [abs(m[i] - truth[i]) for m in moments]
        assert slope(steps, errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("method", [euler_maruyama, stochastic_heun, milstein])
def test_methods_without_noise_are_ode_methods(method):
    sde = SDE(FLOW.drift, lambda x, t: torch.zeros(()).to(x), additive=True)
    times = torch.linspace(0, 0.9, 10, dtype=F64)
    partner = heun if method is stochastic_heun else euler
    ours = solve_sde(sde, noise(), times, method)
    assert torch.allclose(ours, solve_ode(FLOW, noise(), times, partner), atol=1e-14)


def test_milstein_equals_torchsde():
    x = torch.ones(8, 3, dtype=F64)
    times = torch.linspace(0, 1, 17, dtype=F64)
    dw = brownian_increments(x, times, torch.Generator().manual_seed(0))
    w = torch.cat([torch.zeros_like(dw[:1]), dw.cumsum(0)])

    class Peer(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return 0.5 * y

        def g(self, t, y):
            return 0.8 * torch.sin(y)

    class Path(torchsde.BaseBrownian):
        dtype, device, shape, levy_area_approximation = F64, x.device, x.shape, "none"

        def __repr__(self):
            return "the path of the increments above"

        def __call__(self, ta, tb=None, return_U=False, return_A=False):
            index = [int(torch.argmin((times - v).abs())) for v in (ta, tb)]
            return w[index[1]] - w[index[0]]

    sde = SDE(lambda y, t: 0.5 * y, lambda y, t: 0.8 * torch.sin(y))
    for method, peer in ((euler_maruyama, "euler"), (milstein, "milstein")):
        ours = solve_sde(sde, x, times, method, increments=dw, trajectory=True)
        theirs = torchsde.sdeint(Peer(), x, times, bm=Path(), method=peer, dt=1 / 16)
        assert torch.allclose(ours, theirs, atol=1e-12), peer


def test_stochastic_heun_refuses_multiplicative_noise():
    with pytest.raises(ValueError, match="needs additive noise"):
        solve_sde(geometric_brownian(0.1, 0.2), noise(), torch.tensor([0.0, 1.0]), stochastic_heun)


def test_seed_makes_the_path_and_increments_share_it():
    x, times = noise(), torch.linspace(0, 1, 9, dtype=F64)
    sde = ornstein_uhlenbeck(1.0, 1.0, mean=0.5)
    ends = [solve_sde(sde, x, times, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    dw = brownian_increments(x, times, torch.Generator().manual_seed(5))
    assert torch.equal(*ends) and torch.equal(ends[0], solve_sde(sde, x, times, increments=dw))


def test_coarse_increments_are_sums():
    x, times = noise(3), torch.linspace(0, 1, 13, dtype=F64)
    dw = brownian_increments(x, times, torch.Generator().manual_seed(5))
    assert torch.allclose(coarsen(dw, 4), torch.stack([dw[i : i + 4].sum(0) for i in (0, 4, 8)]))
    with pytest.raises(ValueError, match="factor=5 must divide"):
        coarsen(dw, 5)
    with pytest.raises(ValueError, match="increments has shape"):
        solve_sde(brownian(), x, times, increments=dw[:3])


def test_brownian_increments_are_independent_gaussians(generator):
    x = torch.zeros(20_000, 1, dtype=F64)
    times = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=F64)
    dw = brownian_increments(x, times, generator)[..., 0]
    z = dw / times.diff().sqrt()[:, None]
    for row in z:
        # Kolmogorov-Smirnov against N(0, 1) for each of three increments, false alarm 1e-6 each
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-6
    correlation = torch.corrcoef(z)[~torch.eye(3, dtype=torch.bool)]
    assert correlation.abs().max() < 6 / math.sqrt(20_000)


def test_ou_law_at_all_times(generator):
    theta, g, n = 1.3, 0.8, 20_000
    times = torch.linspace(0, 2, 201, dtype=F64)
    x = torch.full((n, 1), 2.0, dtype=F64)
    states = solve_sde(
        ornstein_uhlenbeck(theta, g), x, times, stochastic_heun, generator, trajectory=True
    )[..., 0]
    for i in (20, 50, 100, 200):
        t = times[i].item()
        variance = g**2 * (1 - math.exp(-2 * theta * t)) / (2 * theta)
        # 5.5 standard errors on 8 numbers: false alarm 3e-7; the method's own bias is O(h^2) = 1e-4
        mean_error = states[i].mean().item() - 2 * math.exp(-theta * t)
        assert abs(mean_error) < 5.5 * math.sqrt(variance / n) + 2e-4
        ratio = states[i].var().item() / variance
        assert abs(ratio - 1) < 5.5 * math.sqrt(2 / n) + 2e-4


def test_langevin_keeps_the_laboratory(generator):
    n = 4000
    x = LAB.sample(n, generator)
    sde = langevin(LAB.score, g=0.6)
    end = solve_sde(sde, x, torch.linspace(0, 1, 101, dtype=F64), stochastic_heun, generator)
    z = (end.mean(0) - LAB.mean) / (LAB.cov.diagonal() / n).sqrt()
    assert z.abs().max() < 5.5  # false alarm 8e-8; the bias at h = 0.01 is far below 1 / sqrt(n)


@pytest.mark.parametrize("g", [0.0, 0.7, lambda t: 1.0 - t])
def test_stochastic_flow_has_the_paths_marginals(g, generator):
    n, end = 4000, 0.8
    x = torch.randn(n, 2, dtype=F64, generator=generator)
    field = ExactField(LAB, GaussianPath(CondOT()))
    times = torch.linspace(0, end, 81, dtype=F64)
    y = solve_sde(stochastic_flow(field, g), x, times, stochastic_heun, generator)
    law = GaussianPath(CondOT()).marginal(LAB, end)
    z = (y.mean(0) - law.mean) / (law.cov.diagonal() / n).sqrt()
    centred = y - law.mean
    products = (centred[:, :, None] * centred[:, None, :]).flatten(1)
    z_cov = (products.mean(0) - law.cov.flatten()) / (products.std(0) / math.sqrt(n))
    # 6 z-scores at 5.5: false alarm 2e-7
    assert z.abs().max() < 5.5 and z_cov.abs().max() < 5.5
