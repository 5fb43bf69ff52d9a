"""Path laws compared: Gaussian closed forms, weights of mean one, the chain's own law, errors."""

import math

import pytest
import torch

from fromnoise.path_kl import girsanov, path_kl
from fromnoise.processes import (
    SDE,
    brownian,
    geometric_brownian,
    ornstein_uhlenbeck,
)
from fromnoise.solvers import solve_sde


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def grid(n=50, end=1.0):
    return torch.linspace(0, end, n + 1, dtype=torch.float64)


def drifting(m, g=1.0):
    return SDE(
        lambda x, t: torch.full_like(x, m), lambda x, t: torch.full_like(x, g), additive=True
    )


def test_constant_drifts_have_the_closed_form_on_every_path():
    # KL(N(a t, g^2 t) paths || N(b t, ...) paths) = |a - b|^2 T d / (2 g^2): no randomness is left.
    x = torch.zeros(5, 3, dtype=torch.float64)
    value = path_kl(drifting(0.7, 0.5), drifting(-0.2, 0.5), x, grid(7, 2.0), seeded(0))
    torch.testing.assert_close(value, torch.full((5,), 3 * 0.9**2 * 2 / (2 * 0.25)).double())


def test_girsanov_with_constant_drift_is_the_ratio_of_the_end_points():
    # For constant drifts the end point is sufficient: dQ/dP = N(end; b T) / N(end; a T).
    x = torch.zeros(200, 1, dtype=torch.float64)
    end, log_ratio = girsanov(drifting(0.3), drifting(-0.4), x, grid(9), seeded(1))
    expected = (-((end + 0.4) ** 2) + (end - 0.3) ** 2) / 2
    torch.testing.assert_close(log_ratio, expected[:, 0])


def test_girsanov_agrees_with_the_densities_of_the_chain():
    p, q = ornstein_uhlenbeck(1.0, 0.8), ornstein_uhlenbeck(0.2, 0.8, mean=1.0)
    x, times = torch.randn(40, 2, dtype=torch.float64, generator=seeded(2)), grid(20)
    end, log_ratio = girsanov(p, q, x, times, seeded(3))
    path = solve_sde(p, x, times, generator=seeded(3), trajectory=True)
    torch.testing.assert_close(path[-1], end)
    expected = torch.zeros(40, dtype=torch.float64)
    for k in range(20):
        h = times[k + 1] - times[k]
        for sign, sde in ((1, q), (-1, p)):
            step = torch.distributions.Normal(
                path[k] + h * sde.drift(path[k], times[k]), 0.8 * h**0.5
            )
            expected = expected + sign * step.log_prob(path[k + 1]).sum(1)
    torch.testing.assert_close(log_ratio, expected)


def test_path_kl_and_girsanov_estimate_one_number():
    # Ornstein-Uhlenbeck against Brownian motion, from 0, theta = g = 1: KL = (1/2) int E X^2 dt,
    # E X_t^2 = (1 - exp(-2t)) / 2. The chain's bias is of order h = 0.01.
    p, q = ornstein_uhlenbeck(1.0, 1.0), brownian(1.0)
    n = 20_000
    x = torch.zeros(n, 1, dtype=torch.float64)
    exact = 0.25 * (1 - (1 - math.exp(-2)) / 2)
    energy = path_kl(p, q, x, grid(100), seeded(4))
    _, log_ratio = girsanov(p, q, x, grid(100), seeded(5))
    # False alarms below 1e-6: five standard errors (the variances are finite), plus the bias.
    assert abs(energy.mean() - exact) < 5 * energy.std() / n**0.5 + 0.004
    assert abs(-log_ratio.mean() - exact) < 5 * log_ratio.std() / n**0.5 + 0.004
    weights = log_ratio.exp()
    assert abs(weights.mean() - 1) < 5 * weights.std() / n**0.5  # a martingale: no bias in h
    assert energy.min() >= 0 and energy.std() < log_ratio.std()


def test_weights_turn_one_process_into_the_other():
    p, q = ornstein_uhlenbeck(1.0, 1.0), ornstein_uhlenbeck(1.0, 1.0, mean=0.5)
    n = 20_000
    end, log_ratio = girsanov(p, q, torch.zeros(n, 1, dtype=torch.float64), grid(), seeded(6))
    weighted = log_ratio.exp() * end[:, 0]
    exact = 0.5 * (1 - (1 - 1 / 50) ** 50)  # the mean of the chain of q
    assert abs(weighted.mean() - exact) < 5 * weighted.std() / n**0.5


def test_equal_processes_have_no_entropy():
    p = ornstein_uhlenbeck(1.0, 1.0)
    x = torch.randn(6, 2, generator=seeded(7))
    value = path_kl(p, p, x, torch.linspace(0, 1, 9), seeded(8))
    assert value.dtype == torch.float32 and (value == 0).all()


def test_errors_name_the_remedy():
    x = torch.zeros(3, 1)
    times = torch.linspace(0, 1, 5)
    with pytest.raises(ValueError, match="same g > 0"):
        path_kl(brownian(1.0), brownian(2.0), x, times)
    with pytest.raises(ValueError, match="same g > 0"):
        path_kl(brownian(0.0), brownian(0.0), x, times)
    with pytest.raises(ValueError, match="additive"):
        girsanov(geometric_brownian(0.1, 0.2), brownian(1.0), x, times)
    with pytest.raises(ValueError, match="strictly increasing"):
        path_kl(brownian(1.0), brownian(1.0), x, times.flip(0))
