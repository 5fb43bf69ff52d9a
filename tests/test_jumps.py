"""Jump processes with the laws of a path, and their superposition with the flow."""

import math

import pytest
import torch

from fromnoise.jumps import LinePath, simulate

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
