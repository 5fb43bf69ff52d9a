"""The closed-form claims of the chapter on probability paths (`ch-paths`).

Everything runs in float64. "Round-off" means 1e-10 relative to the size of the numbers compared,
four digits above what is seen, since the conditioning of a formula varies over the sampled times.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fromnoise import metrics
from fromnoise.distributions import Empirical, Gaussian, GaussianMixture, laboratory
from fromnoise.fields import ExactField, TransformedField
from fromnoise.likelihood import divergence, log_likelihood
from fromnoise.paths import GaussianPath, change_of_schedule
from fromnoise.predictions import convert
from fromnoise.processes import ODE, probability_flow
from fromnoise.schedules import VE, VP, CondOT, Cosine, Schedule, SubVP
from fromnoise.solvers import euler, rk4, solve_ode

CHAPTER = Path(__file__).parents[1] / "book" / "part2" / "probability-paths.md"
ALL = [CondOT(), Cosine(), VP(), SubVP(), VE()]
STANDARD = [CondOT(), Cosine()]
LAW = laboratory()
INSIDE = torch.linspace(0.03, 0.97, 48, dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, seed: int, dim: int = 2) -> torch.Tensor:
    return torch.randn(n, dim, generator=seeded(seed), dtype=torch.float64)


def grid(steps: int, start: float = 0.0, end: float = 1.0) -> torch.Tensor:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def by_name(schedule: Schedule) -> str:
    return schedule.name


# -- schedules (`prp-schedules`) ----------------------------------------------------------------


def closed_forms(schedule: Schedule, t: torch.Tensor) -> dict[str, torch.Tensor]:
    """The columns of the chapter's two tables, typed in from the text."""
    r, zero, one = 1.0 - t, torch.zeros_like(t), torch.ones_like(t)
    beta = 0.1 + 19.9 * r
    B = 0.1 * r + 0.5 * 19.9 * r**2
    ratio = math.log(50.0 / 0.01)
    if isinstance(schedule, CondOT):
        return {
            "alpha": t,
            "sigma": r,
            "d_alpha": one,
            "d_sigma": -one,
            "half_log_snr": torch.log(t / r),
            "d_lambda": 1 / (t * r),
        }
    if isinstance(schedule, Cosine):
        a, s = torch.sin(math.pi * t / 2), torch.cos(math.pi * t / 2)
        return {
            "alpha": a,
            "sigma": s,
            "d_alpha": math.pi / 2 * s,
            "d_sigma": -math.pi / 2 * a,
            "half_log_snr": torch.log(torch.tan(math.pi * t / 2)),
            "d_lambda": math.pi / torch.sin(math.pi * t),
        }
    if isinstance(schedule, SubVP):
        a = torch.exp(-B / 2)
        return {
            "alpha": a,
            "sigma": 1 - a**2,
            "d_alpha": beta * a / 2,
            "d_sigma": -beta * a**2,
            "half_log_snr": -torch.log(2 * torch.sinh(B / 2)),
            "d_lambda": beta * (1 + a**2) / (2 * (1 - a**2)),
        }
    if isinstance(schedule, VP):
        a = torch.exp(-B / 2)
        s = torch.sqrt(1 - a**2)
        return {
            "alpha": a,
            "sigma": s,
            "d_alpha": beta * a / 2,
            "d_sigma": -beta * a**2 / (2 * s),
            "half_log_snr": -0.5 * torch.log(torch.exp(B) - 1),
            "d_lambda": beta / (2 * s**2),
        }
    s = 0.01**t * 50.0**r
    return {
        "alpha": one,
        "sigma": s,
        "d_alpha": zero,
        "d_sigma": -s * ratio,
        "half_log_snr": -torch.log(s),
        "d_lambda": ratio * one,
    }


@pytest.mark.parametrize("schedule", ALL, ids=by_name)
def test_schedules_equal_the_tables_and_their_derivatives(schedule):
    for name, expected in closed_forms(schedule, INSIDE).items():
        if name != "d_lambda":
            torch.testing.assert_close(
                getattr(schedule, name)(INSIDE), expected, rtol=1e-10, atol=1e-12
            )
    t = INSIDE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.half_log_snr(t).sum(), t)
    torch.testing.assert_close(
        slope, closed_forms(schedule, INSIDE)["d_lambda"], rtol=1e-10, atol=0.0
    )
    assert (schedule.d_alpha(INSIDE) >= 0).all() and (schedule.d_sigma(INSIDE) <= 0).all()


def test_inverses_of_vp_and_sub_vp_as_the_proposition_writes_them():
    for schedule, B_of in (
        (VP(), lambda lam: np.log1p(np.exp(-2 * lam))),
        (SubVP(), lambda lam: 2 * np.arcsinh(np.exp(-lam) / 2)),
    ):
        lam = schedule.half_log_snr(INSIDE).numpy()
        B = B_of(lam)
        r = 2 * B / (0.1 + np.sqrt(0.1**2 + 2 * 19.9 * B))
        np.testing.assert_allclose(1 - r, INSIDE.numpy(), atol=1e-12)


def test_end_points():
    for schedule in STANDARD:
        values = schedule.alpha(grid(1)).tolist() + schedule.sigma(grid(1)).tolist()
        assert values == [0.0, 1.0, 1.0, 0.0]
    for schedule in (VP(), SubVP()):
        assert schedule.alpha(grid(1))[0].item() == pytest.approx(math.exp(-20.1 / 4), rel=1e-12)
        assert (schedule.alpha(grid(1))[1], schedule.sigma(grid(1))[1]) == (1.0, 0.0)
    assert VP().d_sigma(grid(1))[1] == -math.inf
    r = torch.tensor(1e-8, dtype=torch.float64)  # and it diverges like sqrt(beta_min / r) / 2
    assert VP().d_sigma(1 - r).item() == pytest.approx(-0.5 * math.sqrt(0.1 / 1e-8), rel=1e-4)
    slopes = [s.d_sigma(grid(1))[1].item() for s in (CondOT(), Cosine(), SubVP(), VE())]
    expected = [-1.0, -math.pi / 2, -0.1, -0.01 * math.log(5000)]
    assert slopes == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", [VP(), SubVP(), VE()], ids=by_name)
def test_cost_of_a_missed_end_is_bounded(schedule):
    """`prp-end-error` for Gaussian data, where both sides are exact."""
    law = Gaussian(
        torch.tensor([1.0, -0.5], dtype=torch.float64),
        torch.tensor([[1.2, 0.7], [0.7, 0.6]], dtype=torch.float64),
    )
    second = (law.mean.square().sum() + law.cov.trace()).item()
    eye, zero = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    a0, s0 = GaussianPath(schedule).scales(0.0)
    a1, s1 = GaussianPath(schedule).scales(1.0)
    start, start_cov = a0 * law.mean, a0**2 * law.cov + s0**2 * eye
    w2 = metrics.frechet_distance(start, start_cov, zero, s0**2 * eye)
    kl = metrics.gaussian_kl(start, start_cov, zero, s0**2 * eye)
    end = metrics.frechet_distance(a1 * law.mean, a1**2 * law.cov + s1**2 * eye, law.mean, law.cov)
    assert float(w2) <= a0 * math.sqrt(second)
    assert 0 < float(kl) <= 0.5 * (a0 / s0) ** 2 * second
    assert float(end) <= math.sqrt((1 - a1) ** 2 * second + 2 * s1**2) + 1e-7


# -- conditional paths (`prp-conditional-velocity`) ---------------------------------------------


@pytest.mark.parametrize("schedule", ALL, ids=by_name)
def test_conditional_flow_is_the_affine_map(schedule):
    path, data, start = GaussianPath(schedule), LAW.sample(40, seeded(0)), normal(40, 1)
    (a_s, s_s), (a_t, s_t) = path.scales(0.2), path.scales(0.8)
    ode = ODE(lambda x, t: path.conditional_velocity(x, t, data))
    end = solve_ode(ode, start, grid(400, 0.2, 0.8), method=rk4)
    exact = a_t * data + s_t / s_s * (start - a_s * data)
    # RK4 with 400 steps: h^4 = 5e-12 times derivatives that are largest for VP
    torch.testing.assert_close(end, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", ALL, ids=by_name)
def test_conditional_velocity_solves_the_continuity_equation(schedule):
    path, n = GaussianPath(schedule), 100
    data, x = LAW.sample(n, seeded(2)), normal(n, 3)
    times = 0.05 + 0.9 * torch.rand(n, generator=seeded(4), dtype=torch.float64)
    a, s = schedule.alpha(times)[:, None], schedule.sigma(times)[:, None]
    x = (a * data + s * x).requires_grad_()
    t = times.clone().requires_grad_()
    d_x, d_t = torch.autograd.grad(path.conditional_log_prob(x, t, data).sum(), (x, t))
    velocity = path.conditional_velocity(x, times, data)
    div = 2 * schedule.d_sigma(times) / schedule.sigma(times)
    residual = d_t + (velocity * d_x).sum(-1) + div
    assert residual.abs().max() < 1e-10 * d_t.abs().max()


# -- marginalization (`thm-marginalization`, `thm-marginal-score`) ------------------------------


@pytest.mark.parametrize("schedule", ALL, ids=by_name)
def test_marginal_velocity_solves_the_continuity_equation_on_the_laboratory(schedule):
    """d_t log p + u . grad log p + div u = 0 by automatic differentiation, to round-off."""
    n, field = 300, ExactField(LAW, GaussianPath(schedule))
    times = 0.02 + 0.96 * torch.rand(n, generator=seeded(5), dtype=torch.float64)
    x = GaussianPath(schedule).sample(LAW.sample(n, seeded(6)), times, noise=normal(n, 7)).x
    y, t = x.clone().requires_grad_(), times.clone().requires_grad_()
    log_p = LAW.marginal_log_prob(y, schedule.alpha(t), schedule.sigma(t))
    d_x, d_t = torch.autograd.grad(log_p.sum(), (y, t))
    terms = (field.velocity(x, times) * d_x).sum(-1) + divergence(field.velocity, x, times)
    scale = 1.0 + d_t.abs()
    assert ((d_t + terms).abs() / scale).max() < 1e-11
    assert ((d_t + 1.01 * terms).abs() / scale).max() > 1e-3  # the check can fail


@pytest.mark.parametrize("schedule", [CondOT(), VP(), VE()], ids=by_name)
@pytest.mark.parametrize("t", [0.2, 0.6, 0.95])
def test_posterior_average_over_a_finite_law_is_the_marginal_velocity(schedule, t):
    """On an empirical law the average over the posterior is a finite sum: exact to round-off."""
    path, data = GaussianPath(schedule), LAW.sample(300, seeded(8))
    law = Empirical(data)
    alpha, sigma = path.scales(t)
    x = alpha * data[:20] + sigma * normal(20, 9)
    points = x[:, None].expand(20, 300, 2).reshape(-1, 2)
    targets = data[None].expand(20, 300, 2).reshape(-1, 2)
    weights = torch.softmax(path.conditional_log_prob(points, t, targets).reshape(20, 300), 1)
    field = ExactField(law, path)
    for conditional, marginal in (
        (path.conditional_velocity(points, t, targets), field.velocity(x, t)),
        (path.conditional_score(points, t, targets), field.score(x, t)),
    ):
        average = torch.einsum("mn,mnd->md", weights, conditional.reshape(20, 300, 2))
        assert (average - marginal).abs().max() < 1e-9 * (1 + marginal.abs().max())


def test_posterior_average_over_samples_converges_to_the_marginal_velocity():
    """The self-normalized Monte Carlo average lies within its own error bars.

    With the delta method, sqrt(n) (estimate - exact) / deviation is close to standard normal. 40
    points times 2 coordinates at a bound of 5.5 deviations: a false alarm in about 3e-6 of seeds,
    were the normal limit exact; the seed is fixed.
    """
    path, t, n = GaussianPath(CondOT()), 0.5, 40_000
    x = path.sample(LAW.sample(40, seeded(10)), t, noise=normal(40, 11)).x
    data = LAW.sample(n, seeded(12))
    exact = ExactField(LAW, path).velocity(x, t)
    for point, truth in zip(x, exact, strict=True):
        points = point.expand(n, 2)
        weights = torch.softmax(path.conditional_log_prob(points, t, data), 0)[:, None]
        velocities = path.conditional_velocity(points, t, data)
        average = (weights * velocities).sum(0)
        deviation = (weights**2 * (velocities - average) ** 2).sum(0).sqrt()
        assert ((average - truth).abs() < 5.5 * deviation).all()


# -- the flow transports (`thm-transport`, `prp-gaussian-transport`) ----------------------------


def test_marginal_flow_carries_noise_to_the_laboratory():
    """The transported cloud is at the two-sample floor, by W2 and by the energy distance.

    The null law of the statistic is simulated: 12 pairs of fresh clouds. The mean of 6 distances of
    the flow must not exceed the null mean by more than 4.5 standard errors of the difference; for
    normal means the false-alarm rate is 3e-6, and the seeds are fixed.
    """
    n, clouds, path = 300, 6, GaussianPath(CondOT())
    start = normal(n * clouds, 13)
    end = solve_ode(probability_flow(ExactField(LAW, path)), start, grid(48), method=rk4)
    fresh = LAW.sample(3 * 2 * n * clouds, seeded(14)).chunk(6 * clouds)
    for distance in (metrics.wasserstein2, metrics.energy_distance):
        moved = torch.tensor(
            [float(distance(a, b)) for a, b in zip(end.chunk(clouds), fresh, strict=False)]
        )
        null = torch.tensor(
            [float(distance(a, b)) for a, b in zip(fresh[6:18], fresh[18:30], strict=True)]
        )
        error = math.sqrt(moved.var() / 6 + null.var() / 12)
        assert abs(moved.mean() - null.mean()) < 4.5 * error
        pairs = zip(end.chunk(clouds), fresh, strict=False)
        shifted = [float(distance(a + 0.5, b)) for a, b in pairs]
        assert sum(shifted) / clouds - null.mean() > 4.5 * error  # and the check can fail


@pytest.mark.parametrize("schedule", STANDARD, ids=by_name)
def test_marginal_flow_carries_the_density_of_noise_to_that_of_the_laboratory(schedule):
    """p_1(Y_1) J = p_0(Y_0), the heart of `thm-transport`, to the solver's accuracy."""
    x = LAW.sample(50, seeded(37))
    exact = LAW.log_prob(x)
    errors = []
    for steps in (20, 40):
        density = log_likelihood(ExactField(LAW, GaussianPath(schedule)), x, grid(steps, 1.0, 0.0))
        errors.append((density - exact).abs().max().item())
    assert errors[1] < 2e-5 and 10 < errors[0] / errors[1] < 30  # fourth order: 16


@pytest.mark.parametrize("schedule", STANDARD, ids=by_name)
def test_gaussian_data_flow_along_the_monge_map(schedule):
    law = Gaussian(
        torch.tensor([1.0, -0.5], dtype=torch.float64),
        torch.tensor([[1.2, 0.7], [0.7, 0.6]], dtype=torch.float64),
    )
    path, start = GaussianPath(schedule), normal(100, 15)
    values, axes = torch.linalg.eigh(law.cov)

    def exact(s: float, t: float, x: torch.Tensor) -> torch.Tensor:
        (a_s, s_s), (a_t, s_t) = path.scales(s), path.scales(t)
        stretch = torch.sqrt((a_t**2 * values + s_t**2) / (a_s**2 * values + s_s**2))
        return a_t * law.mean + (x - a_s * law.mean) @ axes * stretch @ axes.T

    process = probability_flow(ExactField(law, path))
    errors = []
    for steps in (20, 40):
        end = solve_ode(process, start, grid(steps), method=rk4)
        errors.append((end - exact(0.0, 1.0, start)).abs().max().item())
    assert errors[1] < 1e-6 and 10 < errors[0] / errors[1] < 24  # fourth order: 16
    root = axes * values.sqrt() @ axes.T
    torch.testing.assert_close(exact(0.0, 1.0, start), law.mean + start @ root)
    middle = solve_ode(process, start, grid(40, 0.3, 0.7), method=rk4)
    torch.testing.assert_close(middle, exact(0.3, 0.7, start), rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("schedule", STANDARD, ids=by_name)
def test_expected_length_is_at_most_that_of_the_conditional_curves(schedule):
    """E int |u(X)| dt <= E int |X'| dt <= E|X_1| + E|eps|, with room above Monte Carlo error."""
    n, path = 4000, GaussianPath(schedule)
    data, noise, times = LAW.sample(n, seeded(16)), normal(n, 17), grid(60, 0.005, 0.995)
    field, marginal, conditional = ExactField(LAW, path), 0.0, 0.0
    for t in times:
        sample = path.sample(data, t, noise=noise)
        marginal += field.velocity(sample.x, t).norm(dim=-1).mean().item() / len(times)
        conditional += sample.velocity.norm(dim=-1).mean().item() / len(times)
    bound = data.norm(dim=-1).mean().item() + noise.norm(dim=-1).mean().item()
    assert marginal < 0.9 * conditional and conditional < bound


def test_data_set_is_reached_by_its_flow():
    """Singular at t = 1, and still every trajectory ends at a datum (`exr-two-points` in 2-D)."""
    data = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.5]], dtype=torch.float64)
    field = ExactField(Empirical(data), GaussianPath(CondOT()))
    times = 1.0 - torch.logspace(0, -4, 400, dtype=torch.float64)
    end = solve_ode(probability_flow(field), normal(200, 18), times, method=rk4)
    assert torch.cdist(end, data).min(1).values.max() < 5e-3


# -- affine facts and conversions (`prp-affine-facts`, `prp-conversion`, `prp-jacobian`) --------


@pytest.mark.parametrize("schedule", ALL, ids=by_name)
def test_affine_facts_and_tweedie(schedule):
    field, t = ExactField(LAW, GaussianPath(schedule)), INSIDE
    a, s = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    da, ds = schedule.d_alpha(t)[:, None], schedule.d_sigma(t)[:, None]
    x = a * LAW.sample(len(t), seeded(19)) + s * normal(len(t), 20)
    D, eps, score = field.denoise(x, t), field.noise(x, t), field.score(x, t)
    d_lambda = da / a - ds / s
    for left, right in (
        (x, a * D + s * eps),
        (score, -eps / s),
        (field.velocity(x, t), da * D + ds * eps),
        (D, (x + s**2 * score) / a),
        (field.velocity(x, t), da / a * x + d_lambda * s**2 * score),
    ):
        assert (left - right).abs().max() < 1e-10 * (1 + right.abs().max())


@pytest.mark.parametrize("schedule", ALL, ids=by_name)
def test_conversions_between_all_predictions(schedule):
    field = ExactField(LAW, GaussianPath(schedule))
    kinds = ("data", "noise", "score", "velocity", "v")
    for t in torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64):
        a, s = schedule.alpha(t), schedule.sigma(t)
        x = a * LAW.sample(50, seeded(21)) + s * normal(50, 22)
        D, eps = field.denoise(x, t), field.noise(x, t)
        exact = {
            "data": D,
            "noise": eps,
            "score": field.score(x, t),
            "velocity": field.velocity(x, t),
            "v": a * eps - s * D,
        }
        for source in kinds:
            for target in kinds:
                got = convert(exact[source], x, t, source=source, target=target, schedule=schedule)
                assert (got - exact[target]).abs().max() < 1e-9 * (1 + exact[target].abs().max())


@pytest.mark.parametrize("schedule", ALL, ids=by_name)
def test_amplification_of_errors_is_the_fifth_column(schedule):
    t = torch.tensor(0.4, dtype=torch.float64)
    a, s = schedule.alpha(t).item(), schedule.sigma(t).item()
    d_lambda = (schedule.d_alpha(t) / a - schedule.d_sigma(t) / s).item()
    column = {
        "data": 1.0,
        "noise": s / a,
        "score": s**2 / a,
        "velocity": 1 / (a * d_lambda),
        "v": s / (a**2 + s**2),
    }
    x, delta = normal(4, 23), 1e-3
    for kind, factor in column.items():
        one, two = (
            convert(x + d, x, t, source=kind, target="data", schedule=schedule)
            for d in (0.0, delta)
        )
        assert ((two - one).abs() / delta).max().item() == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_velocity_and_v_of_cond_ot_are_never_singular(t):
    x = normal(3, 25)
    for kind in ("velocity", "v"):
        assert convert(x, x, t, source=kind, target="data", schedule=CondOT()).isfinite().all()


@pytest.mark.parametrize("schedule", [CondOT(), VP(), VE()], ids=by_name)
def test_jacobian_of_denoiser_and_velocity(schedule):
    field, t = ExactField(LAW, GaussianPath(schedule)), torch.tensor(0.6, dtype=torch.float64)
    a, s = schedule.alpha(t), schedule.sigma(t)
    da, ds = schedule.d_alpha(t), schedule.d_sigma(t)
    x = a * LAW.sample(8, seeded(26)) + s * normal(8, 27)
    cov, eye = LAW.conditional_covariance(x, a, s), torch.eye(2, dtype=torch.float64)
    for i in range(8):
        jac_D = torch.autograd.functional.jacobian(lambda y: field.denoise(y[None], t)[0], x[i])
        jac_u = torch.autograd.functional.jacobian(lambda y: field.velocity(y[None], t)[0], x[i])
        torch.testing.assert_close(jac_D, a / s**2 * cov[i], rtol=1e-9, atol=1e-9)
        expected = ds / s * eye + (da / a - ds / s) * (a / s) ** 2 * cov[i]
        torch.testing.assert_close(jac_u, expected, rtol=1e-9, atol=1e-9)


# -- reparameterization (`thm-reparameterization`, `cor-canonical-ode`) -------------------------


PAIRS = [
    (CondOT(), Cosine()),
    (Cosine(), CondOT()),
    (CondOT(), VP()),
    (VP(), CondOT()),
    (CondOT(), VE()),
    (VE(), SubVP()),
    (Cosine(), VP()),
]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda s: s.name)
def test_fields_agree_after_a_change_of_schedule(source, target):
    mapped = TransformedField(ExactField(LAW, GaussianPath(source)), target)
    direct = ExactField(LAW, GaussianPath(target))
    for t in (0.1, 0.5, 0.9):
        a, s = GaussianPath(target).scales(t)
        lam = math.log(a / s)
        low, high = source.half_log_snr(grid(1)).tolist()
        if not low < lam < high:
            continue
        x = a * LAW.sample(60, seeded(28)) + s * normal(60, 29)
        for verb in ("velocity", "score", "denoise", "noise"):
            exact = getattr(direct, verb)(x, t)
            error = (getattr(mapped, verb)(x, t) - exact).abs().max()
            assert error < 1e-12 * (1 + exact.abs().max()), verb


@pytest.mark.parametrize(("source", "target"), PAIRS[:3], ids=lambda s: s.name)
def test_velocity_formula_of_the_theorem(source, target):
    """Part 3 as printed, with c and tau differentiated by autograd through the definition."""
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64, requires_grad=True)
    tau = source.inverse_half_log_snr(target.half_log_snr(t))
    c = target.alpha(t) / source.alpha(tau)
    d_tau, d_c = (torch.autograd.grad(v.sum(), t, retain_graph=True)[0] for v in (tau, c))
    t, tau, c = t.detach(), tau.detach(), c.detach()
    torch.testing.assert_close(c, target.sigma(t) / source.sigma(tau), rtol=1e-12, atol=0.0)
    x = GaussianPath(target).sample(LAW.sample(3, seeded(30)), t, noise=normal(3, 31)).x
    u = ExactField(LAW, GaussianPath(source)).velocity(x / c[:, None], tau)
    formula = (d_c / c)[:, None] * x + (c * d_tau)[:, None] * u
    exact = ExactField(LAW, GaussianPath(target)).velocity(x, t)
    torch.testing.assert_close(formula, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("target", [Cosine(), VP()], ids=by_name)
def test_trajectories_map_to_each_other(target):
    """Part 4: both ODEs are solved on grids that correspond, so only RK4's error remains."""
    source, times = CondOT(), grid(150, 0.05, 0.95)
    tau, c = change_of_schedule(times, source, target)
    begin = normal(50, 32)
    there = solve_ode(
        probability_flow(ExactField(LAW, GaussianPath(source))),
        begin,
        tau,
        method=rk4,
        trajectory=True,
    )
    here = solve_ode(
        probability_flow(ExactField(LAW, GaussianPath(target))),
        c[0] * begin,
        times,
        method=rk4,
        trajectory=True,
    )
    assert (here - c[:, None, None] * there).abs().max() < 2e-6


def test_canonical_equation_in_lambda():
    """dY / d lambda = D(Y) - Y along Y = X / alpha, by finite differences of a fine solution."""
    schedule = Cosine()
    field, times = ExactField(LAW, GaussianPath(schedule)), grid(200, 0.4, 0.6)
    x = solve_ode(probability_flow(field), normal(20, 33), times, method=rk4, trajectory=True)
    lam, y = schedule.half_log_snr(times), x / schedule.alpha(times)[:, None, None]
    slope = (y[101] - y[99]) / (lam[101] - lam[99])
    alpha, sigma = schedule.alpha(times[100]), schedule.sigma(times[100])
    right = LAW.denoise(y[100], 1.0, sigma / alpha) - y[100]
    assert (slope - right).abs().max() < 1e-4  # second order in the step of 1e-3


# -- the code of the exercises' solutions -------------------------------------------------------


def solution(label: str, names: dict) -> list[tuple]:
    """Run the python block of a solution of the chapter; returns the arguments of its prints."""
    body = CHAPTER.read_text(encoding="utf-8").split(f"{{solution}} {label}\n", 1)[1]
    code = re.search(r"```python\n(.*?)```", body, flags=re.S)[1]
    printed = []
    names["print"] = lambda *values: printed.append(values)
    exec(compile(code, label, "exec"), names)
    return printed


@pytest.fixture
def names() -> dict:
    """What the chapter's cells have defined by the time of the exercises."""
    text = CHAPTER.read_text(encoding="utf-8")
    names = {"__name__": "chapter"}  # the first cell: imports, seeded, normal, law, path, field
    exec(re.search(r"```\{code-cell\} ipython3\n(.*?)```", text, flags=re.S)[1], names)
    exec(re.search(r"^def residual\(.*?\n\n", text, flags=re.S | re.M)[0], names)
    exec(re.search(r"^gaussian = .*?\n\)\n", text, flags=re.S | re.M)[0], names)
    names["noise"], names["x_1"] = normal(400, 61), torch.full((1, 2), 1.5, dtype=torch.float64)
    flow = probability_flow(names["field"])
    names["truth"] = solve_ode(flow, names["noise"], grid(128), method=rk4)
    return names


def test_solution_of_own_schedule(names):
    (residual,), (difference,), (error,) = solution("exr-own-schedule", names)
    assert residual < 1e-9 and difference < 1e-12
    cond_ot = solve_ode(probability_flow(names["field"]), names["noise"], grid(10), method=euler)
    expected = (cond_ot - names["truth"]).square().sum(-1).mean().sqrt()
    assert 0.8 < error / expected < 1.2  # "about CondOT's"


def test_solution_of_not_unique(names):
    (plain, turned), (moved,) = solution("exr-not-unique", names)
    assert abs(plain) < 0.02 and abs(turned) < 0.02  # the null scatters by about 0.002
    assert moved > 1.0
    x, t = normal(2000, 34), 0.5  # (c): the energies add, since the cross term vanishes
    x = names["path"].sample(LAW.sample(2000, seeded(35)), t, noise=x).x
    u, s = names["field"].velocity(x, t), names["field"].score(x, t)
    cross = (u * torch.stack([-s[:, 1], s[:, 0]], 1)).sum(-1)
    assert cross.mean().abs() < 5 * cross.std() / math.sqrt(2000)  # false alarm 6e-7


def test_solution_of_conditional_sde(names):
    solution("exr-conditional-sde", names)
    end = names["end"]
    # Euler-Maruyama with h = 1e-3 leaves a bias of a few per cent in the variance
    assert (end.mean(0) - 1.35).abs().max() < 6 * 0.1 / math.sqrt(20000)
    assert (end.var(0) / 0.01 - 1).abs().max() < 0.1


def test_solution_of_not_optimal(names):
    laboratory_row, gaussian_row = solution("exr-not-optimal", names)  # name, moved, best, excess
    assert 3e-4 < laboratory_row[3] < 3e-3
    assert abs(gaussian_row[3]) < 1e-10


def test_solution_of_two_points():
    a, data = 1.0, torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    field = ExactField(Empirical(data), GaussianPath(CondOT()))
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    for t in (0.3, 0.6):
        expected = a * torch.tanh(t * a * x / (1 - t) ** 2)
        torch.testing.assert_close(field.denoise(x, t), expected, rtol=1e-10, atol=1e-10)
    switch = (3 - math.sqrt(5)) / 2
    zero = torch.zeros(1, 1, dtype=torch.float64)
    slopes = [
        divergence(field.velocity, zero, torch.tensor(t, dtype=torch.float64)).item()
        for t in (switch - 0.01, switch, switch + 0.01)
    ]
    assert slopes[0] < 0 < slopes[2] and abs(slopes[1]) < 1e-9
    exact = 1 / 0.4 * (0.6 / 0.16 - 1)  # the formula at t = 0.6
    got = divergence(field.velocity, zero, torch.tensor(0.6, dtype=torch.float64)).item()
    assert got == pytest.approx(exact, rel=1e-9)


def test_solution_of_straight():
    """One Euler step of the marginal ODE sends everything to the mean of the data."""
    flow, noise = probability_flow(ExactField(LAW, GaussianPath(CondOT()))), normal(20, 38)
    end = solve_ode(flow, noise, grid(1), method=euler)
    torch.testing.assert_close(end, LAW.mean.expand(20, 2), rtol=0.0, atol=1e-12)


def test_solution_of_vp_flow_and_v_prediction():
    x = normal(20, 36)
    for t in (0.2, 0.7):
        field = ExactField(LAW, GaussianPath(VP()))
        beta = 0.1 + (1 - t) * 19.9
        expected = 0.5 * beta * (x + field.score(x, t))
        torch.testing.assert_close(field.velocity(x, t), expected, rtol=1e-10, atol=1e-10)
        round_law = GaussianMixture(
            torch.ones(1, dtype=torch.float64),
            torch.zeros(1, 2, dtype=torch.float64),
            torch.eye(2, dtype=torch.float64)[None],
        )
        assert ExactField(round_law, GaussianPath(VP())).velocity(x, t).abs().max() < 1e-12
        cosine = ExactField(LAW, GaussianPath(Cosine()))
        v = convert(cosine.noise(x, t), x, t, source="noise", target="v", schedule=Cosine())
        torch.testing.assert_close(v, -2 / math.pi * cosine.velocity(x, t), rtol=1e-10, atol=1e-10)
