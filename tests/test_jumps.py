"""Jump processes with the laws of a path, and their superposition with the flow."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from fromnoise.jumps import LinePath, PointsPath, simulate, simulate_averaged

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def moving(x, t):
    """N(2t, 1)."""
    return torch.exp(-0.5 * (x - 2 * t) ** 2) / math.sqrt(2 * math.pi)


def path():
    return LinePath(moving, torch.linspace(-8, 10, 3601, dtype=F64))


def test_rate_and_density_against_the_formula():
    """lambda = m (x - t m)_- for N(t m, 1)."""
    found = path().jump_rate(torch.tensor([-1.0, 0.0, 0.5, 3.0], dtype=F64), 0.5)
    exact = 2 * torch.tensor([2.0, 1.0, 0.5, 0.0], dtype=F64)
    assert (found - exact).abs().max() < 1e-9
    _, rate = path().density_and_rate(0.5)
    # the mass that leaves is the mass that lands, Z = m / sqrt(2 pi)
    cell = 18 / 3600
    assert rate.sum().item() * cell == pytest.approx(0.0, abs=1e-10)
    assert rate.clamp(min=0).sum().item() * cell == pytest.approx(
        2 / math.sqrt(2 * math.pi), abs=1e-5
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_superpositions_have_the_laws_of_the_path(share):
    """Mean and variance at t = 1 of N(2, 1), 5 standard errors plus the step's first order."""
    n, h = 40_000, 1 / 200
    x = simulate(
        path(), lambda x, t: torch.full_like(x, 2.0),
        torch.randn(n, generator=seeded(1), dtype=F64),
        torch.linspace(0, 1, 201, dtype=F64), share, seeded(2),
    )  # fmt: skip
    assert abs(x.mean().item() - 2) < 5 / math.sqrt(n) + 2 * h
    assert abs(x.var().item() - 1) < 5 * math.sqrt(2 / n) + 4 * h


def test_mean_number_of_jumps():
    """m / sqrt(2 pi) = 0.80 in all for m = 2: stationary points in between count."""
    n = 20_000
    states = simulate(
        path(), lambda x, t: x, torch.randn(n, generator=seeded(3), dtype=F64),
        torch.linspace(0, 1, 201, dtype=F64), 1.0, seeded(4), trajectory=True,
    )  # fmt: skip
    jumps = (states.diff(dim=0) != 0).double().sum(0)
    exact = 2 / math.sqrt(2 * math.pi)
    assert abs(jumps.mean().item() - exact) < 5 * jumps.std().item() / math.sqrt(n) + 0.01


def test_bad_input():
    with pytest.raises(ValueError, match="share"):
        simulate(path(), lambda x, t: x, torch.zeros(3, dtype=F64), torch.tensor([0.0, 1.0]), 1.5)
    with pytest.raises(ValueError, match="increas"):
        simulate(path(), lambda x, t: x, torch.zeros(3, dtype=F64), torch.tensor([1.0, 0.0]), 0.5)
    with pytest.raises(ValueError, match="equally spaced"):
        LinePath(moving, torch.tensor([0.0, 1.0, 3.0]))
    still = LinePath(lambda x, t: torch.exp(-(x**2)) + 0 * t, torch.linspace(-3, 3, 101, dtype=F64))
    with pytest.raises(ValueError, match="does not change"):
        still.landings(5, 0.5, seeded())


def points():
    return PointsPath(
        torch.tensor([-1.5, 0.3, 1.2], dtype=F64), torch.tensor([3.0, 3.0, 4.0], dtype=F64)
    )


@pytest.mark.parametrize("datum", [-3.0, 0.0, 0.7, 8.0])
def test_conditional_jumps_against_the_path_itself(datum):
    """Rate and landings of N(t m, (1 - t)^2): by differences of SciPy's normal law in time."""
    t, step = 0.6, 1e-5
    law = [stats.norm(r * datum, 1 - r) for r in (t - step, t, t + step)]
    x = np.linspace(t * datum - 2, t * datum + 2, 401)
    change = (law[2].pdf(x) - law[0].pdf(x)) / (2 * step)
    one = torch.full((401,), datum, dtype=F64)
    found = points().conditional_rate(torch.tensor(x), one, t).numpy()
    where = law[1].pdf(x) > 1e-3
    exact = np.maximum(-change, 0) / law[1].pdf(x)
    # central differences: step^2 times a third derivative below 1e6, over a density above 1e-3
    assert np.abs(found - exact)[where].max() < 1e-3 * (1 + exact[where].max())
    # landings: where the density rises, with the mass that rises below
    draws = points().conditional_landings(torch.full((50_000,), datum, dtype=F64), t, seeded(5))
    mass = np.maximum(change, 0)
    below = integrate.cumulative_trapezoid(mass, x, initial=0.0)
    share = np.interp(draws.numpy(), x, below / below[-1])
    # Kolmogorov-Smirnov: 2.5 / sqrt(n) is exceeded with probability 7e-6; 1e-3 for the grid
    assert stats.kstest(share, "uniform").statistic < 2.5 / 50_000**0.5 + 1e-3
    total = points().conditional_intensity(torch.tensor([datum], dtype=F64)).item() / (1 - t)
    assert total == pytest.approx(below[-1], rel=2e-3)  # the grid cuts the rising part at its edges


def test_averaged_jumps_have_the_marginal_laws_and_the_mean_number():
    """`thm-generator-marginalization` for jumps. The step's bias is of first order, h / (1 - t).

    200 steps of 1.15 % each: 0.005 was measured with ten times as many particles, and half of it
    with half the step.
    """
    path, n, steps = points(), 20_000, 200
    times = -torch.expm1(-torch.linspace(0, math.log(10), steps + 1, dtype=F64))
    start = torch.randn(n, generator=seeded(6), dtype=F64)
    run = simulate_averaged(path, start, times, seeded(7), trajectory=True)
    grid = torch.linspace(-4, 4, 2001, dtype=F64)
    for k in (steps // 2, steps):
        found = torch.searchsorted(run[k].sort().values, grid) / n
        assert (found - path.cdf(grid, times[k])).abs().max() < 2.5 / n**0.5 + 0.01
    jumps = (run.diff(dim=0) != 0).double().sum(0)
    weights = path.weights / path.weights.sum()
    exact = (weights @ path.conditional_intensity(path.data)).item() * math.log(10)
    assert abs(jumps.mean().item() - exact) < 5 * jumps.std().item() / n**0.5 + 0.03


def test_averaged_rate_is_at_least_the_frugal_one():
    """Both move the same mass; the average also moves mass that comes back (`prp-jump-path`)."""
    path = points()
    line = LinePath(path.density, torch.linspace(-4, 4, 801, dtype=F64))
    for t in (0.0, 0.4, 0.8):
        averaged = path.jump_rate(line.grid, t)
        frugal = line.jump_rate(line.grid, t)
        assert bool((averaged > frugal - 1e-9).all())
        assert ((averaged - frugal) * path.density(line.grid, t)).sum() * 0.01 > 0.05


def test_velocity_of_points_is_the_derivative_of_the_distribution():
    """d/dt P(X_t <= x) = -p_t(x) u_t(x), by differences: step^2 times a third derivative."""
    path, x, step = points(), torch.linspace(-2, 2, 81, dtype=F64), 1e-5
    for t in (0.2, 0.6):
        change = (path.cdf(x, t + step) - path.cdf(x, t - step)) / (2 * step)
        density = (path.cdf(x + step, t) - path.cdf(x - step, t)) / (2 * step)
        assert (density - path.density(x, t)).abs().max() < 1e-7
        assert (change + density * path.velocity(x, t)).abs().max() < 1e-7


def test_bad_points():
    with pytest.raises(ValueError, match="both must be"):
        PointsPath(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="positive"):
        PointsPath(torch.zeros(2), torch.tensor([1.0, 0.0]))
    x = torch.zeros(3, dtype=F64)
    with pytest.raises(ValueError, match="since the rates grow"):
        simulate_averaged(points(), x, torch.tensor([0.0, 1.0], dtype=F64))
    with pytest.raises(ValueError, match="increases"):
        simulate_averaged(points(), x, torch.tensor([0.5, 0.4], dtype=F64))
