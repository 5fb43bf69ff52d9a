"""What the chapter on flows (book/part1/flows.md) measures, asserted.

The test problem is the chapter's "galaxy" (`exa-galaxy`): a nonlinear field that depends on time
and whose flow map, Jacobian determinant and densities are known in closed form.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fromnoise.distributions import GaussianMixture, laboratory
from fromnoise.fields import ExactField
from fromnoise.likelihood import (
    divergence,
    hutchinson_divergence,
    log_likelihood,
    rademacher_like,
    standard_normal_log_prob,
)
from fromnoise.paths import GaussianPath
from fromnoise.processes import ODE, probability_flow
from fromnoise.schedules import CondOT
from fromnoise.solvers import euler, heun, midpoint, rk4, solve_adaptive, solve_ode

EXPANSION, ROTATION = 0.5, 6.0
QUARTER_TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def grid(n: int, start: float = 0.0, end: float = 1.0) -> Tensor:
    return torch.linspace(start, end, n + 1, dtype=torch.float64)


def clock(t: Tensor | float) -> Tensor:
    t = torch.as_tensor(t, dtype=torch.float64)
    return t - torch.sin(2 * math.pi * t) / (4 * math.pi)


def galaxy(x: Tensor, t: Tensor, c: float = ROTATION) -> Tensor:
    rate = 1 - 0.5 * torch.cos(2 * math.pi * torch.as_tensor(t))
    radius2 = x.square().sum(-1, keepdim=True)
    return rate * (EXPANSION * x + c * (x @ QUARTER_TURN.T) / (1 + radius2))


def galaxy_flow(x: Tensor, t: Tensor | float, c: float = ROTATION) -> Tensor:
    radius2, s = x.square().sum(-1, keepdim=True), clock(t)
    ratio = (1 + radius2 * torch.exp(2 * EXPANSION * s)) / (1 + radius2)
    angle = c * (s - torch.log(ratio) / (2 * EXPANSION))
    return torch.exp(EXPANSION * s) * (
        torch.cos(angle) * x + torch.sin(angle) * (x @ QUARTER_TURN.T)
    )


@pytest.fixture(scope="module")
def field() -> ExactField:
    return ExactField(laboratory(), GaussianPath(CondOT()))


# -- the flow map --------------------------------------------------------------------------------


def test_closed_form_flow_solves_the_ode():
    x, t = normal(20, 2, seed=0), torch.tensor(0.37, dtype=torch.float64)
    _, rate = torch.func.jvp(lambda t: galaxy_flow(x, t), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(rate, galaxy(galaxy_flow(x, t), t), rtol=1e-12, atol=1e-12)


def test_variational_equation_and_liouville():
    """`thm-flow-diffeomorphism`: J' = Du J gives the flow's derivative, det J = exp(int div u)."""

    def with_jacobian(state: Tensor, t: Tensor) -> Tensor:
        x, jacobian = state[:, :2], state[:, 2:].reshape(-1, 2, 2)
        slope = torch.vmap(torch.func.jacrev(lambda y: galaxy(y, t)))(x)
        return torch.cat([galaxy(x, t), (slope @ jacobian).flatten(1)], dim=1)

    x = normal(20, 2, seed=1)
    identity = torch.eye(2, dtype=torch.float64).flatten().expand(20, 4)
    end = solve_ode(ODE(with_jacobian), torch.cat([x, identity], 1), grid(100), method=rk4)
    jacobian = end[:, 2:].reshape(-1, 2, 2)
    exact = torch.vmap(torch.func.jacrev(lambda y: galaxy_flow(y, 1.0)))(x)
    # RK4 with h = 1/100 is right to about 2e-6 here; its order is tested below.
    torch.testing.assert_close(jacobian, exact, rtol=0, atol=2e-5)
    determinant = math.exp(2 * EXPANSION)
    torch.testing.assert_close(
        exact.det(), torch.full((20,), determinant, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_flow_property_and_inverse():
    """`prp-flow-property`: stopping on the way changes nothing, and backward undoes forward."""
    x = normal(50, 2, seed=2)
    whole = solve_ode(ODE(galaxy), x, grid(400), method=rk4)
    half = solve_ode(ODE(galaxy), x, grid(200, 0.0, 0.5), method=rk4)
    both = solve_ode(ODE(galaxy), half, grid(200, 0.5, 1.0), method=rk4)
    torch.testing.assert_close(both, whole, rtol=0, atol=1e-12)  # the same steps, up to rounding
    back = solve_ode(ODE(galaxy), whole, grid(400, 1.0, 0.0), method=rk4)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-8)


def test_stability_bound():
    """`prp-stability`, {eq-stability}: the bound holds, and u(x) = L x attains it."""
    rate, delta, gap = 1.3, 0.2, 0.1
    start = torch.ones(1, 1, dtype=torch.float64)
    exact = solve_ode(ODE(lambda x, t: rate * x), start + gap, grid(200), method=rk4)
    wrong = solve_ode(ODE(lambda x, t: rate * x - delta), start, grid(200), method=rk4)
    bound = math.exp(rate) * gap + delta / rate * (math.exp(rate) - 1)
    assert (exact - wrong).item() == pytest.approx(bound, rel=1e-9)


def test_blow_up_and_branching():
    """`exa-blow-up` and `exa-not-unique`: where theory has no answer, or many, a solver has one."""
    one = torch.ones(1, 1, dtype=torch.float64)
    ends = [solve_ode(ODE(lambda x, t: x**2), 2 * one, grid(n), method=euler) for n in (8, 14)]
    assert ends[0] < 1e4 and ends[1] > 1e15
    root = ODE(lambda x, t: x.abs().sqrt())
    assert solve_ode(root, 0 * one, grid(1000), method=rk4).item() == 0.0
    left = solve_ode(root, 1e-300 * one, grid(1000), method=rk4).item()
    assert left == pytest.approx(0.25, abs=2e-3)


# -- orders --------------------------------------------------------------------------------------


def mean_error(method, n: int) -> float:
    start = normal(64, 2, seed=3)
    end = solve_ode(ODE(galaxy), start, grid(n), method=method)
    return (end - galaxy_flow(start, 1.0)).norm(dim=1).mean().item()


@pytest.mark.parametrize(("method", "order"), [(euler, 1), (heun, 2), (midpoint, 2), (rk4, 4)])
def test_global_order(method, order):
    """`thm-euler-order`, `prp-heun-order`, `prp-rk4-order`: slopes 1, 2, 2, 4 to within 0.1."""
    slope = math.log(mean_error(method, 128) / mean_error(method, 512), 4)
    assert slope == pytest.approx(order, abs=0.1)


def test_euler_error_constant_and_bound():
    """`exr-euler-sharp`: for x' = x the error is (e/2) h, below the bound of `thm-euler-order`."""
    n = 2000
    one = torch.ones(1, 1, dtype=torch.float64)
    error = math.e - solve_ode(ODE(lambda x, t: x), one, grid(n), method=euler).item()
    assert error * n == pytest.approx(math.e / 2, rel=2e-3)
    assert error <= math.e / 2 * (math.e - 1) / n


def order_conditions(a: list[list[str]], b: list[str]) -> list[Fraction]:
    n = len(b)
    weights = [Fraction(v) for v in b]
    matrix = [[Fraction(v) for v in row + ["0"] * (n - len(row))] for row in a]
    c = [sum(row) for row in matrix]

    def a_times(v):
        return [sum(x * y for x, y in zip(row, v, strict=True)) for row in matrix]

    def b_sum(*vectors):
        return sum(math.prod(entry) for entry in zip(weights, *vectors, strict=True))

    c2, ac = [v * v for v in c], a_times(c)
    left = [b_sum(), b_sum(c), b_sum(c2), b_sum(ac), b_sum(c2, c), b_sum(c, ac)]
    left += [b_sum(a_times(c2)), b_sum(a_times(ac))]
    return [x - Fraction(1, m) for x, m in zip(left, (1, 2, 3, 6, 4, 8, 12, 24), strict=True)]


@pytest.mark.parametrize(
    ("a", "b", "met"),
    [
        ([[]], ["1"], 1),
        ([[], ["1"]], ["1/2", "1/2"], 2),
        (
            [[], ["1/2"], ["0", "1/2"], ["0", "0", "1"]],
            ["1/6", "1/3", "1/3", "1/6"],
            8,
        ),
    ],
    ids=["euler", "heun", "rk4"],
)
def test_order_conditions_in_exact_fractions(a, b, met):
    """`prp-rk4-order`: the classical tableau meets all eight, Heun two, Euler one."""
    conditions = order_conditions(a, b)
    assert all(v == 0 for v in conditions[:met])
    assert met == 8 or conditions[met] != 0


@pytest.mark.parametrize(
    ("method", "a", "b"),
    [
        (heun, [[], [1.0]], [0.5, 0.5]),
        (rk4, [[], [0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    ],
)
def test_the_package_steps_with_the_tableau_of_the_chapter(method, a, b):
    x, t, s = normal(10, 2, seed=4), torch.tensor(0.2).double(), torch.tensor(0.5).double()
    slopes: list[Tensor] = []
    for row in a:
        y = x + (s - t) * sum((w * k for w, k in zip(row, slopes, strict=True)), 0.0 * x)
        slopes.append(galaxy(y, t + sum(row) * (s - t)))
    expected = x + (s - t) * sum(w * k for w, k in zip(b, slopes, strict=True))
    torch.testing.assert_close(method(ODE(galaxy), x, t, s), expected, rtol=1e-13, atol=1e-13)


def test_adaptive_steps_follow_the_tolerance():
    """`alg-adaptive`: on the galaxy the error at the end stays within ten tolerances."""
    start = normal(64, 2, seed=3)
    for tolerance in (1e-3, 1e-6, 1e-9):
        run = solve_adaptive(ODE(galaxy), start, 0.0, 1.0, rtol=tolerance, atol=tolerance)
        error = (run.x - galaxy_flow(start, 1.0)).norm(dim=1).mean()
        assert error < 10 * tolerance
        assert run.evaluations == 1 + 6 * (run.accepted + run.rejected)


# -- densities -----------------------------------------------------------------------------------


def test_continuity_equation_of_the_laboratory(field):
    """{eq-continuity}, divided by p: closed-form p_t and u_t balance to round-off at any t."""
    x = 2 * normal(500, 2, seed=5)
    t = torch.rand(500, generator=seeded(6), dtype=torch.float64)
    t[:2] = torch.tensor([0.0, 1.0])  # the end points too
    t.requires_grad_()
    rate = torch.autograd.grad(field.law.marginal_log_prob(x, t, 1 - t).sum(), t)[0]
    t = t.detach()
    advection = (field.velocity(x, t) * field.score(x, t)).sum(1)
    residual = rate + advection + divergence(field.velocity, x, t)
    # Terms reach a few hundred; double precision leaves 1e-13 of that.
    assert rate.abs().max() > 50
    assert residual.abs().max() < 1e-9


def test_pushed_particles_have_the_exact_marginals(field):
    """`thm-continuity` (3), by characteristic functions.

    E cos(w.X) and E sin(w.X) of a Gaussian mixture are known. The averages over n particles lie in
    [-1, 1], so Hoeffding bounds each deviation: P(> r) <= 2 exp(-n r^2 / 2). With 96 comparisons
    and r as below, a correct flow fails with probability under 1e-9 over the choice of the seed.
    """
    n, comparisons = 20_000, 96
    radius = math.sqrt(2 * math.log(2 * comparisons / 1e-9) / n)
    noise = normal(n, 2, seed=7)
    with torch.no_grad():
        paths = solve_ode(probability_flow(field), noise, grid(40), method=rk4, trajectory=True)
    frequencies = 1.5 * normal(12, 2, seed=8)
    for k in (10, 20, 30, 40):
        t = k / 40
        exact = field.law.marginal(t, 1 - t)
        decay = torch.einsum("fi,kij,fj->fk", frequencies, exact.covs, frequencies)
        phase = torch.complex(torch.zeros_like(decay), frequencies @ exact.means.T)
        characteristic = (exact.weights * torch.exp(phase - 0.5 * decay)).sum(1)
        angles = paths[k] @ frequencies.T
        # The discretization error of RK4 with 40 steps is below 1e-4, small against the radius.
        assert (angles.cos().mean(0) - characteristic.real).abs().max() < radius + 1e-4
        assert (angles.sin().mean(0) - characteristic.imag).abs().max() < radius + 1e-4


def test_rotation_leaves_density_and_likelihood_alone():
    """The marginals don't determine the field: the galaxy's c changes paths, not densities."""
    y = torch.tensor([[1.0, 2.0], [-0.3, 0.8]], dtype=torch.float64)
    expected = standard_normal_log_prob(y / math.exp(EXPANSION)) - 2 * EXPANSION
    ends = []
    for c in (6.0, 0.0, -20.0):
        process = ODE(partial(galaxy, c=c))
        origin = solve_ode(process, y, grid(400, 1.0, 0.0), method=rk4)
        ends.append(origin)
        value = standard_normal_log_prob(origin) - 2 * EXPANSION
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    assert (ends[0] - ends[2]).norm(dim=1).min() > 0.1


def test_score_moves_with_the_inverse_transpose(field):
    """`exr-score-along-flow`: d/dt s_t(X_t) = -Du^T s - grad div u, on the laboratory."""
    x, t = normal(20, 2, seed=9), torch.tensor(0.6, dtype=torch.float64)
    velocity, score = field.velocity(x, t), field.score(x, t)
    h = 1e-5
    moved = (field.score(x + h * velocity, t + h) - field.score(x - h * velocity, t - h)) / (2 * h)

    def one(y: Tensor) -> Tensor:
        return field.velocity(y[None], t.item())[0]

    def expected(y: Tensor, s: Tensor) -> Tensor:
        jacobian = torch.autograd.functional.jacobian(one, y)
        trace = torch.autograd.functional.jacobian(
            lambda z: torch.autograd.functional.jacobian(one, z, create_graph=True).trace(), y
        )
        return -jacobian.T @ s - trace

    right = torch.stack([expected(y, s) for y, s in zip(x, score, strict=True)])
    # Central differences with h = 1e-5: about 1e-9 of truncation and of rounding each.
    torch.testing.assert_close(moved, right, rtol=1e-6, atol=1e-6)


# -- likelihood ----------------------------------------------------------------------------------


def test_exact_likelihood_matches_the_mixture(field):
    """`cor-log-density`: from t = 1 itself, right to 1e-6 with 160 RK4 steps, and of order 4."""
    data = field.law.sample(64, generator=seeded(10))
    truth = field.law.log_prob(data)
    error = {
        n: (log_likelihood(field, data, grid(n, 1.0, 0.0), method=rk4) - truth).abs().max().item()
        for n in (40, 80, 160)
    }
    assert error[160] < 1e-6
    # Pre-asymptotically the ratio exceeds 16; order 3 would give 8.
    assert error[40] / error[80] > 12 and error[80] / error[160] > 12


def test_hutchinson_variance_formula():
    """`prp-hutchinson`: E z.Az and Var z.Az over all sign vectors, and for Gaussian probes.

    Over all 2^d sign vectors the Rademacher moments are exact sums. For the Gaussian, 200,000
    probes: the relative error of a sample variance is sqrt((kurtosis - 1) / n) < 0.009 (kurtosis of
    a quadratic form in Gaussians is at most 15), so 0.05 is more than five standard deviations.
    """
    d = 6
    matrix = normal(d, d, seed=11)
    symmetric = 0.5 * (matrix + matrix.T)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * d)
    values = torch.einsum("ni,ij,nj->n", signs, matrix, signs)
    off = symmetric.square().sum() - symmetric.diagonal().square().sum()
    torch.testing.assert_close(values.mean(), matrix.trace())
    torch.testing.assert_close(values.var(correction=0), 2 * off)

    probes = normal(200_000, d, seed=12)
    values = torch.einsum("ni,ij,nj->n", probes, matrix, probes)
    assert values.var().item() == pytest.approx(2 * symmetric.square().sum().item(), rel=0.05)


def test_hutchinson_on_a_field_of_sixteen_dimensions():
    """The package's estimator, within five of the standard errors that the formula predicts.

    By Chebyshev a correct estimator fails with probability under 1/25; as the mean of 20,000
    values is nearly normal, in truth under 1e-6.
    """
    d, generator = 16, seeded(14)
    roots = torch.randn(3, d, d, generator=generator, dtype=torch.float64) / math.sqrt(2 * d)
    law = GaussianMixture(
        weights=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        means=torch.randn(3, d, generator=generator, dtype=torch.float64),
        covs=roots @ roots.mT + 0.1 * torch.eye(d, dtype=torch.float64),
    )
    velocity = ExactField(law, GaussianPath(CondOT())).velocity
    x = law.marginal(0.5, 0.5).sample(1, generator=generator)
    jacobian = torch.autograd.functional.jacobian(lambda y: velocity(y, 0.5), x)[0, :, 0]
    symmetric = 0.5 * (jacobian + jacobian.T)
    off = symmetric.square().sum() - symmetric.diagonal().square().sum()
    copies = x.expand(20_000, d)
    estimate = hutchinson_divergence(velocity, copies, 0.5, rademacher_like(copies, generator))
    standard_error = math.sqrt(2 * off.item() / len(copies))
    assert abs(estimate.mean() - jacobian.trace()) < 5 * standard_error
    assert estimate.var().item() == pytest.approx(2 * off.item(), rel=0.1)
    torch.testing.assert_close(divergence(velocity, x, 0.5)[0], jacobian.trace())


def test_in_the_plane_two_rademacher_values_surround_the_exact_one(field):
    """One probe of each sign of z1 z2 is exact; exponentials are biased by cosh (`exr-jensen`)."""
    data, times = field.law.sample(4, generator=seeded(15)), grid(40, 1.0, 0.0)
    exact = log_likelihood(field, data, times)
    draws = log_likelihood(
        field, data.repeat(30, 1), times, divergence="hutchinson", generator=seeded(16)
    ).reshape(30, 4)
    low, high = draws.min(0).values, draws.max(0).values
    assert ((draws - low < 1e-9) | (high - draws < 1e-9)).all()
    torch.testing.assert_close((low + high) / 2, exact, rtol=0, atol=1e-9)
    bias = (low.exp() + high.exp()) / 2
    torch.testing.assert_close(bias, exact.exp() * torch.cosh((high - low) / 2))


def test_thin_data_is_harmless_with_a_density_and_steep_near_the_end():
    """`exr-thin-data`: psi_t(x) = sqrt(v_t) x, and the steepest rate is about 1 / (2 delta)."""
    delta = 0.02
    law = GaussianMixture(
        weights=torch.ones(1, dtype=torch.float64),
        means=torch.zeros(1, 2, dtype=torch.float64),
        covs=delta**2 * torch.eye(2, dtype=torch.float64)[None],
    )
    thin = ExactField(law, GaussianPath(CondOT()))
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    rate = thin.velocity(torch.ones(len(t), 2, dtype=torch.float64), t)[:, 0]
    assert rate.abs().max().item() == pytest.approx(1 / (2 * delta), rel=0.02)
    assert 1 - t[rate.abs().argmax()].item() == pytest.approx(delta, rel=0.1)
    x = normal(10, 2, seed=17)
    coarse, fine = (
        solve_ode(probability_flow(thin), x, grid(n), method=rk4) / (delta * x) - 1
        for n in (25, 400)
    )
    # Steps of 2 delta are wrong by percents, steps of delta / 8 by a millionth.
    assert coarse.abs().max() > 1e-2
    assert fine.abs().max() < 1e-6


def test_two_crossed_gaussians_have_no_global_lipschitz_constant():
    """`exr-not-lipschitz`: along the diagonal |Du| grows with the square of the distance."""
    law = GaussianMixture(
        weights=torch.tensor([0.5, 0.5], dtype=torch.float64),
        means=torch.zeros(2, 2, dtype=torch.float64),
        covs=torch.tensor([[0.25, 1.0], [1.0, 0.25]], dtype=torch.float64).diag_embed(),
    )
    velocity = ExactField(law, GaussianPath(CondOT())).velocity

    def steepness(rho: float) -> float:
        x = torch.full((1, 2), rho, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda y: velocity(y, 0.5), x)[0, :, 0]
        return torch.linalg.matrix_norm(jacobian, 2).item()

    assert steepness(100.0) / steepness(10.0) == pytest.approx(100, rel=0.02)


# -- the code of the exercises' solutions, taken from the chapter --------------------------------

CHAPTER = Path(__file__).parents[1] / "book" / "part1" / "flows.md"


@pytest.fixture
def solution():
    """Run the python block of a solution after the cells it builds on: what it prints."""
    text = CHAPTER.read_text(encoding="utf-8")
    cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```$", text, re.S | re.M)

    def part(first: str, stop: str) -> str:
        """The one cell that contains `first`, up to the line that starts with `stop`."""
        (cell,) = [cell for cell in cells if first in cell]
        return cell.split(f"\n{stop}", 1)[0]

    before = [
        cells[0],
        part("law = laboratory()", "times ="),
        part("def galaxy(", "x ="),
        part("def mean_error(", "methods ="),
        part("truth = law.log_prob(data)", "truth ="),
    ]

    def run(label: str) -> list[tuple]:
        printed: list[tuple] = []
        names: dict = {"__name__": "chapter", "print": lambda *values: printed.append(values)}
        needed = [*before, part("draws =", "print(")] if label == "exr-jensen" else before
        body = text.split(f"{{solution}} {label}\n", 1)[1]
        for code in (*needed, re.search(r"^```python\n(.*?)^```$", body, re.S | re.M)[1]):
            exec(compile(code, label, "exec"), names)
        return printed

    dtype = torch.get_default_dtype()
    yield run
    torch.set_default_dtype(dtype)  # the chapter's first cell sets another


def test_solution_stiff_spring(solution):
    ends = dict(solution("exr-explode"))
    assert ends[20] > 3e3 and ends[50] == 0.0
    assert ends[25] == pytest.approx(-1) and ends[26] == pytest.approx(0.12, abs=0.005)


def test_solution_midpoint_and_richardson(solution):
    ((ratios,),) = solution("exr-midpoint")
    assert [float(v) for v in ratios] == pytest.approx([4, 4], abs=0.1)
    for order, ratios in solution("exr-richardson"):
        assert [float(v) for v in ratios] == pytest.approx([2 ** (order + 1)] * 2, abs=0.3)


def test_solution_same_marginals(solution):
    """Far apart as particles, close as samples.

    0.02 is twice the largest energy distance between two exact samples in the chapter's table.
    """
    (apart,), (distance,) = solution("exr-same-marginals")
    assert apart > 1 and abs(distance) < 0.02


def test_solution_jensen(solution):
    ((factor,),) = solution("exr-jensen")
    assert factor.shape == (6,) and (factor > 1).all() and (factor < 2).all()


def test_solution_not_lipschitz(solution):
    norms = dict(solution("exr-not-lipschitz"))
    assert norms[100.0] / norms[10.0] == pytest.approx(100, rel=0.02)
