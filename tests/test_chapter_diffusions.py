"""The closed forms of the chapter on diffusions, checked against the package (`ch-diffusions`).

Stochastic bounds state the probability with which an honest implementation would fail them under
fresh randomness. Seeds are fixed, so that a run either always passes or always fails.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from fromnoise.distributions import Gaussian, GaussianMixture, laboratory
from fromnoise.processes import (
    brownian,
    geometric_brownian,
    langevin,
    ornstein_uhlenbeck,
)
from fromnoise.solvers import (
    brownian_increments,
    coarsen,
    euler_maruyama,
    milstein,
    solve_sde,
    stochastic_heun,
)

CHAPTER = Path(__file__).parents[1] / "book" / "part1" / "diffusions.md"


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def line_mixture(weights, means, scale):
    means = torch.tensor(means)[:, None]
    return GaussianMixture(torch.tensor(weights), means, torch.full((len(means), 1, 1), scale**2))


def variance_bounds(n: int, false_alarm: float) -> tuple[float, float]:
    """Two-sided bounds on (sum of n squares of N(0, v)) / (n v), which is chi-square over n."""
    low, high = stats.chi2(n).ppf([false_alarm / 2, 1 - false_alarm / 2]) / n
    return float(low), float(high)


def slope(h, error) -> float:
    return float(np.polyfit(np.log(h), np.log(error), 1)[0])


# -- Brownian motion and the Itô integral ----------------------------------------------------------


def test_quadratic_variation_has_mean_T_and_variance_2_T_squared_over_n():
    n, paths, end = 256, 4000, 2.0
    times = torch.linspace(0.0, end, n + 1)
    dw = brownian_increments(torch.zeros(paths, 1), times, seeded(0))
    squares = dw.square().sum(0)[:, 0]
    # the sum of all squares is chi-square with n * paths degrees of freedom, times h
    low, high = variance_bounds(n * paths, 1e-6)
    assert low < squares.mean() / end < high
    # the n-path variance is that of a scaled chi-square; the CLT for its variance estimate has
    # relative standard error sqrt((kurtosis - 1) / paths), kurtosis = 3 + 12 / n; 5 sigma: 6e-7
    exact = 2 * end**2 / n
    assert abs(squares.var() / exact - 1) < 5 * math.sqrt((2 + 12 / n) / paths)


def test_coarse_increments_are_increments_of_the_same_path():
    times = torch.linspace(0.0, 1.0, 13)
    x = torch.zeros(5, 2)
    fine = brownian_increments(x, times, seeded(1))
    path = solve_sde(brownian(1.0), x, times, increments=fine, trajectory=True)
    coarse = solve_sde(brownian(1.0), x, times[::4], increments=coarsen(fine, 4), trajectory=True)
    torch.testing.assert_close(path[::4], coarse, rtol=0, atol=1e-14)


def test_left_sums_obey_the_isometry_and_right_sums_are_shifted_by_T():
    n, paths = 200, 20_000
    dw = brownian_increments(torch.zeros(paths, 1), torch.linspace(0.0, 1.0, n + 1), seeded(2))
    w = torch.cat([torch.zeros(1, paths, 1), dw.cumsum(0)])
    left, right = (w[:-1] * dw).sum(0), (w[1:] * dw).sum(0)
    torch.testing.assert_close(right - left, dw.square().sum(0))
    second = 0.5 * (1 - 1 / n)  # the isometry for the simple integrand, exactly
    # 5 standard errors, estimated from the sample: false-alarm rate 6e-7 each
    assert abs(left.mean()) < 5 * left.std() / math.sqrt(paths)
    squares = left.square()
    assert abs(squares.mean() - second) < 5 * squares.std() / math.sqrt(paths)


# -- Ornstein–Uhlenbeck ----------------------------------------------------------------------------


@pytest.mark.parametrize(("theta", "g"), [(1.5, 0.8), (0.25, 0.5)])
def test_ou_mean_and_variance_at_all_times(theta, g):
    n, steps, checks, x0 = 20_000, 600, 40, 1.0
    times = torch.linspace(0.0, 1.5, steps + 1)
    start = torch.full((n, 1), x0)
    # for additive noise stochastic_heun has a bias of order h^2, here below 1e-5: nothing but
    # sampling error remains
    paths = solve_sde(
        ornstein_uhlenbeck(theta, g), start, times, stochastic_heun, seeded(3), trajectory=True
    )[:, :, 0]
    at = torch.arange(1, checks + 1) * (steps // checks)
    t = times[at]
    mean = x0 * torch.exp(-theta * t)
    variance = g**2 / (2 * theta) * (1 - torch.exp(-2 * theta * t))
    ratio = (paths[at] - mean[:, None]).square().mean(1) / variance
    low, high = variance_bounds(n, 1e-6 / checks)  # 1e-6 over all checks (Bonferroni)
    assert low < ratio.min() and ratio.max() < high
    z = (paths[at].mean(1) - mean) / (variance / n).sqrt()
    assert z.abs().max() < stats.norm.isf(0.5e-6 / checks)


def test_equal_ratio_of_g_squared_and_theta_gives_one_stationary_law():
    n = 20_000
    low, high = variance_bounds(n, 1e-6)
    for seed, (theta, g) in enumerate([(0.25, 0.5), (1.0, 1.0), (4.0, 2.0)]):
        h = 0.05 / theta
        x = solve_sde(
            ornstein_uhlenbeck(theta, g),
            torch.full((n, 1), 3.0),
            h * torch.arange(301.0),
            stochastic_heun,
            seeded(seed),
        )
        residual = 3.0 * math.exp(-15.0)  # what is left of the start
        assert low < (x - residual).square().mean() / 0.5 < high * (1 + 0.05**2)


def test_ou_is_langevin_for_a_gaussian():
    mean, variance, g = 0.7, 0.3, 1.3
    law = Gaussian(torch.full((2,), mean), variance * torch.eye(2))
    x, t = torch.randn(50, 2, generator=seeded(4)), torch.tensor(0.0)
    ours = langevin(law.score, g=g)
    theirs = ornstein_uhlenbeck(g**2 / (2 * variance), g, mean=mean)
    torch.testing.assert_close(ours.drift(x, t), theirs.drift(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.diffusion(x, t), theirs.diffusion(x, t))


@pytest.mark.parametrize("z", [0.1, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("method", [euler_maruyama, stochastic_heun])
def test_stationary_variance_of_the_scheme_on_ou(method, z):
    theta, g, n = 2.0, 1.2, 30_000
    h = z / theta
    bias = 1 / (1 - z / 2) if method is euler_maruyama else (1 - z / 2) / (1 - z / 2 + z**2 / 4)
    rate = max(abs(1 - z) if method is euler_maruyama else 1 - z + z**2 / 2, 0.1)
    steps = math.ceil(math.log(1e-8) / math.log(rate)) + 2
    x = solve_sde(
        ornstein_uhlenbeck(theta, g),
        torch.zeros(n, 1),
        h * torch.arange(steps + 1.0),
        method,
        seeded(5),
    )
    low, high = variance_bounds(n, 1e-6)
    assert low < x.square().mean() / (g**2 / (2 * theta) * bias) < high


def test_euler_maruyama_explodes_beyond_the_stability_limit():
    x = solve_sde(
        ornstein_uhlenbeck(1.0, 1.0),
        torch.zeros(100, 1),
        2.2 * torch.arange(151.0),
        generator=seeded(6),
    )
    assert x.abs().max() > 1e8


def test_weak_order_one_on_ou_exactly():
    theta, g, end = 1.0, math.sqrt(2.0), 1.0
    errors, hs = [], [0.04, 0.02, 0.01, 0.005]
    for h in hs:
        rho, scheme = 1 - theta * h, 0.0
        for _ in range(round(end / h)):  # one step multiplies by rho and adds variance g^2 h
            scheme = rho**2 * scheme + g**2 * h
        closed = g**2 / (2 * theta) * (1 - rho ** (2 * round(end / h))) / (1 - theta * h / 2)
        assert abs(scheme / closed - 1) < 1e-12  # `prp-em-ou`
        errors.append(scheme - g**2 / (2 * theta) * (1 - math.exp(-2 * theta * end)))
    constant = 0.5 * (1 - math.exp(-2.0)) + math.exp(-2.0)
    assert abs(slope(hs, errors) - 1) < 0.02  # the next term of the expansion is h^2
    assert abs(errors[-1] / hs[-1] / constant - 1) < 0.01


# -- strong order ----------------------------------------------------------------------------------


def exact_gbm_error(mu, g, h, end, with_milstein):
    """Root mean square error of the scheme at time `end` (`prp-gbm-error`)."""
    steps = round(end / h)
    c = g**2 * h + (0.5 * g**4 * h**2 if with_milstein else 0.0)
    return math.sqrt(
        math.exp((2 * mu + g**2) * end)
        - 2 * (math.exp(mu * h) * (1 + mu * h + c)) ** steps
        + ((1 + mu * h) ** 2 + c) ** steps
    )


@pytest.mark.parametrize(("method", "order"), [(euler_maruyama, 0.5), (milstein, 1.0)])
def test_strong_order_on_geometric_brownian_motion(method, order):
    mu, g, batch, finest = 0.5, 0.6, 6_000, 256
    times = torch.linspace(0.0, 1.0, finest + 1)
    dw = brownian_increments(torch.zeros(batch, 1), times, seeded(7))
    exact = torch.exp((mu - 0.5 * g**2) + g * dw.sum(0))
    hs, errors = [], []
    for factor in (32, 16, 8, 4, 2):
        end = solve_sde(
            geometric_brownian(mu, g),
            torch.ones(batch, 1),
            times[::factor],
            method,
            increments=coarsen(dw, factor),
        )
        squares = (end - exact).square()
        h = factor / finest
        known = exact_gbm_error(mu, g, h, 1.0, method is milstein)
        # 6 standard errors of the mean of squares, estimated: the squares are skewed, so that the
        # normal tail (2e-9) is optimistic; with 6000 of them the rate is still far below 1e-4
        assert abs(squares.mean() - known**2) < 6 * squares.std() / math.sqrt(batch)
        hs.append(h)
        errors.append(squares.mean().sqrt().item())
    # the exact errors themselves have slopes 0.49 and 0.98 on this grid
    assert abs(slope(hs, errors) - order) < 0.06


def test_exact_gbm_errors_have_the_leading_terms_of_the_proposition():
    g, h = 0.8, 1 / 4096
    lead = g**2 * math.sqrt(0.5) * math.exp(g**2 / 2) * math.sqrt(h)
    assert abs(exact_gbm_error(0.0, g, h, 1.0, False) / lead - 1) < 1e-3
    lead = g**3 * math.sqrt(1 / 6) * math.exp(g**2 / 2) * h
    # squares cancel to 1e-9 of their size, so that round-off leaves 1e-6 relative
    assert abs(exact_gbm_error(0.0, g, h, 1.0, True) / lead - 1) < 2e-3


def test_strong_order_one_for_additive_noise():
    batch, finest = 1000, 1024
    times = torch.linspace(0.0, 2.0, finest + 1)
    x = torch.zeros(batch, 1)
    dw = brownian_increments(x, times, seeded(8))
    process = langevin(lambda y: -torch.tanh(y / 2), g=2.0)
    reference = solve_sde(process, x, times, increments=dw)
    factors = (128, 64, 32, 16)
    ends = [solve_sde(process, x, times[::f], increments=coarsen(dw, f)) for f in factors]
    errors = [(end - reference).square().mean().sqrt().item() for end in ends]
    # the reference, 16 times finer than the finest, shifts the slope up by about 0.03
    assert abs(slope(factors, errors) - 1.0) < 0.1


# -- Fokker–Planck and Langevin --------------------------------------------------------------------


def test_particles_follow_the_fokker_planck_equation():
    hills = line_mixture([0.35, 0.65], [-1.3, 1.2], 0.55)
    process = langevin(hills.score, g=1.0)
    edges = torch.linspace(-5.0, 5.0, 201)
    dx = 0.05
    centres = 0.5 * (edges[1:] + edges[:-1])
    drift = process.drift(edges[1:-1, None], torch.tensor(0.0))[:, 0]
    start = Gaussian(torch.tensor([-1.3]), torch.tensor([[0.04]]))
    p = start.log_prob(centres[:, None]).exp()
    p, dt = p / (p.sum() * dx), 1e-3
    for _ in range(2000):
        flux = 0.5 * drift * (p[1:] + p[:-1]) - 0.5 * (p[1:] - p[:-1]) / dx
        p[:-1] -= dt / dx * flux
        p[1:] += dt / dx * flux
    assert abs(p.sum() * dx - 1) < 1e-12  # finite volumes conserve mass to round-off
    n = 20_000
    cloud = solve_sde(
        process,
        start.sample(n, seeded(9)),
        torch.linspace(0.0, 2.0, 201),
        stochastic_heun,
        seeded(10),
    )
    cells = p.reshape(25, 8).sum(1) * dx
    counts = torch.histc(cloud[:, 0], bins=25, min=-5.0, max=5.0)
    full = cells * n > 20
    observed = torch.cat([counts[full], counts[~full].sum()[None]])
    expected = n * torch.cat([cells[full], cells[~full].sum()[None]])
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    # Pearson's test; the grid's own error of order dx^2 is far below the sampling error here
    assert stats.chi2(len(expected) - 1).sf(statistic) > 1e-6


def test_langevin_velocity_vanishes_at_its_own_density():
    """The Fokker–Planck right-hand side at p: b p - g^2/2 grad p = 0 pointwise (`thm-langevin`)."""
    law, g = laboratory(), 1.7
    x = law.sample(200, seeded(11)).requires_grad_(True)
    p = law.log_prob(x).exp()
    (gradient,) = torch.autograd.grad(p.sum(), x)
    current = langevin(law.score, g).drift(x, torch.tensor(0.0)) * p[:, None] - g**2 / 2 * gradient
    assert current.abs().max() < 1e-12


def mixture_cdf(weights, means, scales):
    """The distribution function of a Gaussian mixture on the line."""
    parts = [(float(w), float(m), float(s)) for w, m, s in zip(weights, means, scales, strict=True)]
    return lambda y: sum(w * stats.norm.cdf(y, m, s) for w, m, s in parts)


def test_langevin_keeps_the_laboratory_where_it_is():
    """From exact samples Langevin dynamics stays at exact samples: both marginals are mixtures."""
    law = laboratory()
    times = torch.linspace(0.0, 3.0, 301)
    start = law.sample(5000, seeded(12))
    x = solve_sde(langevin(law.score), start, times, stochastic_heun, seeded(13))
    for i in range(2):
        cdf = mixture_cdf(law.weights, law.means[:, i], law.covs[:, i, i].sqrt())
        # a wrong drift shows: twice the score gives p-values of 2e-8 and 7e-23
        assert stats.kstest(x[:, i].numpy(), cdf).pvalue > 0.5e-6


def test_langevin_finds_a_mixture_whose_modes_overlap():
    """From one point to the exact law, weights included: a Kolmogorov-Smirnov test."""
    weights, means, scale, n = [0.35, 0.65], [-1.0, 0.8], 0.6, 8_000
    target = line_mixture(weights, means, scale)
    x = solve_sde(
        langevin(target.score),
        torch.full((n, 1), -3.0),
        torch.linspace(0.0, 10.0, 334),
        stochastic_heun,
        seeded(20),
    )

    cdf = mixture_cdf(weights, means, [scale, scale])
    # the scheme's own bias, about (h / scale^2)^2 / 4 = 0.002 of the variance, is far below the
    # test's resolution, a difference of 0.03 between the distribution functions
    assert stats.kstest(x[:, 0].numpy(), cdf).pvalue > 1e-6


def test_langevin_contracts_at_the_rate_of_the_proposition():
    """Two copies with the same kicks, Gaussian target (`prp-langevin-contraction`)."""
    cov = torch.tensor([[0.5, 0.2], [0.2, 1.0]])
    law, g, end = Gaussian(torch.zeros(2), cov), 1.0, 1.0
    kappa = 1 / torch.linalg.eigvalsh(cov).max().item()
    times = torch.linspace(0.0, end, 401)
    x, y = torch.randn(2, 100, 2, generator=seeded(16)) * 2
    dw = brownian_increments(x, times, seeded(17))
    a = solve_sde(langevin(law.score, g), x, times, increments=dw)
    b = solve_sde(langevin(law.score, g), y, times, increments=dw)
    before, after = (x - y).norm(dim=1), (a - b).norm(dim=1)
    # Euler's factor (1 - h k)^n is below exp(-k T): the bound holds for the scheme too
    assert (after <= math.exp(-0.5 * g**2 * kappa * end) * before * (1 + 1e-12)).all()


def test_de_bruijn_identity_along_ornstein_uhlenbeck():
    """d KL / dt = -g^2/2 * (relative Fisher information), in closed form for Gaussians."""
    theta, g, m0, v0 = 0.8, 1.1, 1.5, 0.2
    v = g**2 / (2 * theta)
    t = torch.tensor(0.7, requires_grad=True)
    m, w = m0 * torch.exp(-theta * t), v + (v0 - v) * torch.exp(-2 * theta * t)
    kl = 0.5 * (w / v + m**2 / v - 1 - torch.log(w / v))
    (rate,) = torch.autograd.grad(kl, t)
    # grad log(q/p) = -(x - m) / w + x / v = x (1/v - 1/w) + m / w, with x ~ N(m, w)
    a, b = 1 / v - 1 / w, m / w
    fisher = a**2 * (w + m**2) + 2 * a * b * m + b**2
    assert abs(rate + 0.5 * g**2 * fisher) < 1e-12


def test_plain_langevin_does_not_find_the_weights_of_separated_modes():
    """From the left mode, the share that has crossed by time t is at most t / (lower bound)."""
    target = line_mixture([0.2, 0.8], [-2.0, 2.0], 0.5)
    n = 500
    x = -2.0 + 0.5 * torch.randn(n, 1, generator=seeded(18))
    x = solve_sde(
        langevin(target.score, g=1.0), x, torch.linspace(0.0, 30.0, 1201), generator=seeded(19)
    )
    share = (x > 0).double().mean().item()
    # the mean crossing time is 587: about 30/587 = 5 % have crossed, where 80 % should be
    assert share < 0.15


# -- the page --------------------------------------------------------------------------------------


def _solution_blocks() -> list[tuple[str, str]]:
    text = CHAPTER.read_text(encoding="utf-8")
    found = re.findall(r"^````\{solution\} (\S+)\n(.*?)^````$", text, re.S | re.M)
    return [
        (name, code)
        for name, body in found
        for code in re.findall(r"^```python\n(.*?)^```$", body, re.S | re.M)
    ]


def _chapter_space() -> dict[str, object]:
    """The names of the chapter's first cell (imports and helpers) and its `exit_time`."""
    text = CHAPTER.read_text(encoding="utf-8")
    cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```$", text, re.S | re.M)
    space: dict[str, object] = {}
    exec(cells[0], space)
    (cell,) = [cell for cell in cells if "def exit_time(" in cell]
    exec(cell[: cell.index("\n\n\n")], space)
    return space


def test_exit_time_formula_on_a_case_with_a_closed_form():
    """For p proportional to exp(k x) the score is k, and tau is 2 (c - x) / (k g^2).

    The chapter's quadrature cuts the integral off 6 below the start: exp(-6 k) is lost.
    """

    class Exponential:
        def log_prob(self, x):
            return 5.0 * x[:, 0]

    tau = _chapter_space()["exit_time"](Exponential(), -2.0, -0.5, 1.3)
    assert abs(tau / (2 * 1.5 / (5.0 * 1.3**2)) - 1) < 1e-5


@pytest.mark.parametrize(
    ("name", "code"), _solution_blocks(), ids=lambda v: v if "\n" not in v else ""
)
def test_code_in_solutions_runs_and_confirms_its_numbers(name, code):
    exec(compile(code, name, "exec"), _chapter_space())
