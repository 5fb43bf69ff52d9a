"""What the chapter on reversing time claims, asserted (`ch-reversal`).

Stochastic bounds state the probability with which an honest implementation would fail them under
fresh randomness; seeds are fixed.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from fromnoise.distributions import GaussianMixture, laboratory
from fromnoise.fields import ExactField
from fromnoise.likelihood import divergence
from fromnoise.metrics import energy_distance, wasserstein2
from fromnoise.path_kl import path_kl
from fromnoise.paths import GaussianPath
from fromnoise.processes import noising, stochastic_flow
from fromnoise.schedules import VP, CondOT, Cosine, SubVP
from fromnoise.solvers import solve_sde

SCHEDULE = CondOT()
PATH = GaussianPath(SCHEDULE)
FAMILY = {
    "0": lambda t: 0.0 * t,
    "1": lambda t: 0.0 * t + 1.0,
    "reversal": SCHEDULE.noising_g,
    "2 sigma": lambda t: 2.0 * SCHEDULE.sigma(t),
    "3": lambda t: 0.0 * t + 3.0,
}
START = 0.05


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def residual(law, schedule, g, x, t, half=0.5):
    field = ExactField(law, GaussianPath(schedule))
    y, r = x.clone().requires_grad_(), t.clone().requires_grad_()
    log_p = law.marginal_log_prob(y, schedule.alpha(r), schedule.sigma(r))
    s, d_t = torch.autograd.grad(log_p.sum(), (y, r))

    def drift(y, r):
        return field.velocity(y, r) + half * g(r)[:, None] ** 2 * field.score(y, r)

    noise = -0.5 * g(t) ** 2 * (divergence(field.score, x, t) + s.square().sum(1))
    terms = torch.stack([d_t, divergence(drift, x, t) + (drift(x, t) * s).sum(1), noise])
    return (terms.sum(0).abs().max() / terms.abs().max()).item()


@pytest.mark.parametrize("schedule", [CondOT(), Cosine(), VP(), SubVP()], ids=lambda s: s.name)
def test_every_member_satisfies_fokker_planck_to_round_off(schedule):
    law = laboratory()
    x = 2.0 * torch.randn(200, 2, generator=seeded(0))
    t = 0.05 + 0.9 * torch.rand(200, generator=seeded(1))
    for name, g in {**FAMILY, "reversal": schedule.noising_g}.items():
        assert residual(law, schedule, g, x, t) < 1e-11, name
        if name != "0":
            assert residual(law, schedule, g, x, t, half=0.505) > 1e-4, name


@pytest.fixture(scope="module")
def runs():
    law = laboratory(torch.float64)
    n, clouds = 250, 12
    start = PATH.sample(law.sample(n * clouds, seeded(5)), START, generator=seeded(6)).x
    grid = torch.linspace(START, 1.0, 381, dtype=torch.float64)
    field = ExactField(law, PATH)
    done = {
        name: solve_sde(
            stochastic_flow(field, g), start, grid, generator=seeded(20 + i), trajectory=True
        )
        for i, (name, g) in enumerate(FAMILY.items())
    }
    return law, grid, done


def test_marginals_of_all_five_agree_with_the_exact_law(runs):
    law, _, done = runs
    fresh, again = (law.sample(3000, seeded(seed)).chunk(12) for seed in (7, 8))

    def values(first):
        pairs = list(zip(first, fresh, strict=True))
        return torch.tensor([(wasserstein2(a, b), energy_distance(a, b)) for a, b in pairs])

    floor = values(again)
    for name, run in done.items():
        found = values(run[-1].chunk(12))
        # Means of 12 pairs each: five standard errors of the difference, false alarm ~1e-4 each
        # with 12 pairs (Student), plus 0.01 for Euler-Maruyama's own error.
        error = ((found.var(0) + floor.var(0)) / 12).sqrt()
        assert ((found.mean(0) - floor.mean(0)).abs() < 5 * error + 0.01).all(), name
        # component weights: binomial, five standard deviations
        weights = law.posterior_weights(run[-1], 1.0, 0.0).mean(0)
        bound = 5 * (law.weights * (1 - law.weights) / 3000).sqrt()
        assert ((weights - law.weights).abs() < bound).all(), name


def correlation(early, late):
    early, late = early - early.mean(0), late - late.mean(0)
    return ((early * late).sum() / (early.square().sum() * late.square().sum()).sqrt()).item()


def test_only_the_reversal_has_the_path_law_of_the_noising_process(runs):
    law, grid, done = runs
    k = int((grid - 0.3).abs().argmin())
    spread = law.cov.trace().item()
    exact = 0.3 * math.sqrt(spread / (0.09 * spread + 2 * 0.49))
    # Fisher: standard error at most (1 - rho^2) / sqrt(n) = 0.014 for n = 3000 vectors.
    for name, run in done.items():
        gap = abs(correlation(run[k], run[-1]) - exact)
        assert (gap < 0.07) == (name == "reversal"), (name, gap)
    data = law.sample(20_000, seeded(50))
    noised = solve_sde(noising(SCHEDULE), data, torch.linspace(0, 0.7, 281), generator=seeded(51))
    assert abs(correlation(noised, data) - exact) < 5 * 0.0054 + 0.002  # chain's bias of order h


def test_correlation_and_quadratic_variation_of_gaussian_data():
    c, n = 0.25, 4000
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1, 1), c))
    field = ExactField(law, PATH)
    start = PATH.sample(law.sample(n, seeded(30)), 0.2, generator=seeded(31)).x
    fine = torch.linspace(0.2, 1.0, 801)
    v = c * fine**2 + (1 - fine) ** 2
    for i, (name, g) in enumerate(FAMILY.items()):
        run = solve_sde(
            stochastic_flow(field, g), start, fine, generator=seeded(40 + i), trajectory=True
        )[..., 0]
        forgotten = torch.trapezoid(g(fine) ** 2 / v, fine).item()
        rho = math.exp(-0.5 * forgotten)
        found = torch.corrcoef(torch.stack([run[0], run[-1]]))[0, 1].item()
        # five standard errors, and the chain's bias of order h
        assert abs(found - rho) < 5 * (1 - rho**2) / n**0.5 + 0.01, name
        variation = run.diff(dim=0).square().sum(0).mean().item()
        exact = torch.trapezoid(g(fine) ** 2, fine).item()
        assert abs(variation - exact) < 0.02 * exact + 0.005, name
    direct = 0.2 * math.sqrt(c / v[0].item())
    forgotten = torch.trapezoid(SCHEDULE.noising_g(fine) ** 2 / v, fine).item()
    assert math.exp(-0.5 * forgotten) == pytest.approx(direct, abs=1e-5)


@pytest.fixture(scope="module")
def two_laws():
    law = laboratory(torch.float64)
    weights = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
    other = GaussianMixture(weights, law.means + 0.1, 1.1 * law.covs)
    line = torch.linspace(-7.0, 7.0, 121, dtype=torch.float64)
    plane, cell = torch.cartesian_prod(line, line), (line[1] - line[0]) ** 2

    def mean(t, value):
        return ((law.marginal_log_prob(plane, *PATH.scales(t)).exp() * value).sum() * cell).item()

    def kl(t):
        scales = PATH.scales(t)
        return mean(
            t, law.marginal_log_prob(plane, *scales) - other.marginal_log_prob(plane, *scales)
        )

    right, wrong = ExactField(law, PATH), ExactField(other, PATH)
    times = torch.linspace(START, 1.0, 191, dtype=torch.float64)
    gaps = torch.tensor(
        [
            mean(t, (right.score(plane, t) - wrong.score(plane, t)).square().sum(1))
            for t in times.tolist()
        ],
        dtype=torch.float64,
    )
    return law, right, wrong, kl, times, gaps


def test_kl_bound_on_the_laboratory_is_least_and_sharp_for_the_reversal(two_laws):
    _, _, _, kl, times, gaps = two_laws
    a = 0.5 * SCHEDULE.noising_g(times) ** 2

    def bound(m):
        g2 = 2 * m**2 * a + 1e-300
        integrand = torch.where(a > 0, (a + 0.5 * g2) ** 2 / (2 * g2), 0.0) * gaps
        return kl(START) + torch.trapezoid(integrand, times).item()

    assert bound(1.0) == pytest.approx(kl(1.0), abs=5e-6)
    for m in (0.25, 0.5, 2.0, 4.0):
        assert bound(m) > kl(1.0)
        ratio = (bound(m) - kl(START)) / (bound(1.0) - kl(START))
        assert ratio == pytest.approx(0.25 * (m + 1 / m) ** 2, rel=1e-9)


def test_path_kl_estimates_the_bound(two_laws):
    law, right, wrong, kl, times, gaps = two_laws
    a = 0.5 * SCHEDULE.noising_g(times) ** 2
    exact = torch.trapezoid(a * gaps, times).item()
    n = 1000
    start = PATH.sample(law.sample(n, seeded(60)), START, generator=seeded(61)).x
    value = path_kl(
        stochastic_flow(right, SCHEDULE.noising_g),
        stochastic_flow(wrong, SCHEDULE.noising_g),
        start,
        times,
        seeded(62),
    )
    # five standard errors, and 3 % for the steps of 0.005
    assert abs(value.mean() - exact) < 5 * value.std() / n**0.5 + 0.03 * exact
    assert abs(kl(1.0) - kl(START) - exact) < 1e-5


def test_a_small_velocity_error_keeps_a_relative_entropy():
    c = 0.9
    root = math.sqrt(1 - c**2)
    limit = math.log((1 + root) / 2) + 1 - root
    x = np.linspace(-8, 8, 400_001)
    for eps, tolerance in ((0.1, 4e-3), (0.01, 1e-4)):
        image, slope = x + eps * np.sin(c * x / eps), 1 + c * np.cos(c * x / eps)
        density = np.exp(-(image**2) / 2) / math.sqrt(2 * math.pi)
        kl = np.trapezoid(density * slope * (0.5 * (x**2 - image**2) + np.log(slope)), x)
        assert kl == pytest.approx(limit, abs=tolerance)
        assert kl > 20 * eps**2 / 2  # far above what an SDE with g = 1 would pay


def variance_ratio(g, steps, c=0.05, start=0.2):
    grid = torch.linspace(start, 1.0, steps + 1).tolist()
    value = c * start**2 + (1 - start) ** 2
    for t, s in pairwise(grid):
        g2, v = float(g(torch.tensor(t))) ** 2, c * t**2 + (1 - t) ** 2
        rate = (2 * c * t - 2 * (1 - t) - g2) / (2 * v)
        value = (1 + (s - t) * rate) ** 2 * value + (s - t) * g2
    return value / c


def test_a_large_g_is_stiff():
    assert variance_ratio(FAMILY["3"], 20) > 1e4
    assert variance_ratio(FAMILY["3"], 100) == pytest.approx(1.56, abs=0.01)
    assert abs(variance_ratio(FAMILY["reversal"], 50) - 1) < 0.01
    # weak order 1: halving the step halves the error
    errors = [variance_ratio(FAMILY["1"], steps) - 1 for steps in (400, 800)]
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.1)
    # the recursion is the chain's: against a simulation, chi-square with 20000 degrees of freedom
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1, 1), 0.05))
    start = PATH.sample(law.sample(20_000, seeded(80)), 0.2, generator=seeded(81)).x
    end = solve_sde(
        stochastic_flow(ExactField(law, PATH), 1.0),
        start,
        torch.linspace(0.2, 1.0, 51),
        generator=seeded(82),
    )
    expected = variance_ratio(FAMILY["1"], 50)
    assert end.square().mean().item() / 0.05 == pytest.approx(expected, rel=0.06)  # 6 sd
