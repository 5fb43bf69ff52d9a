"""Noising, its reversal, the flow of an SDE: closed forms, published coefficients, end points."""

import math
from itertools import pairwise

import pytest
import torch

from fromnoise.discrete_schedules import DiscreteVP, linear_betas
from fromnoise.distributions import Gaussian, laboratory
from fromnoise.fields import ExactField
from fromnoise.paths import GaussianPath
from fromnoise.processes import (
    geometric_brownian,
    langevin,
    noising,
    ornstein_uhlenbeck,
    probability_flow,
    probability_flow_of,
    reverse,
    stochastic_flow,
)
from fromnoise.schedules import EDM, VE, VP, CondOT, Cosine, SubVP
from fromnoise.solvers import rk4, solve_ode, solve_sde

SCHEDULES = [CondOT(), Cosine(), VP(), SubVP(), VE(), EDM(), DiscreteVP(linear_betas())]
NAMES = [schedule.name for schedule in SCHEDULES]


def times(dtype=torch.float64):
    return torch.linspace(0.02, 0.98, 49, dtype=dtype)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
def test_noising_g_is_the_growth_of_the_variance_less_what_the_drift_explains(schedule):
    # v = sigma^2 grows in noising time like v' = -2 (alpha'/alpha) v + g^2; differentiated by
    # autograd, from alpha and sigma alone. DiscreteVP's alpha is a spline with its own derivative.
    t = times().requires_grad_(True)
    (d_v,) = torch.autograd.grad(schedule.sigma(t).square().sum(), t)
    log_alpha = torch.log(schedule.alpha(t)) + 0.0 * t  # VE's alpha does not look at t
    (d_log,) = torch.autograd.grad(log_alpha.sum(), t)
    expected = 2 * d_log * schedule.sigma(t).square() - d_v
    torch.testing.assert_close(schedule.noising_g(t).square(), expected, rtol=1e-9, atol=1e-12)


def test_noising_g_agrees_with_the_published_coefficients():
    t = times()
    vp, sub, ve = VP(), SubVP(), VE()
    torch.testing.assert_close(vp.noising_g(t) ** 2, vp.beta(t))
    decay = torch.exp(-2 * (0.1 * (1 - t) + 0.5 * 19.9 * (1 - t) ** 2))
    torch.testing.assert_close(sub.noising_g(t) ** 2, sub.beta(t) * (1 - decay))
    growth = math.sqrt(2 * math.log(50 / 0.01))
    torch.testing.assert_close(ve.noising_g(t), ve.sigma(t) * growth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noising_g_at_the_end_points(dtype):
    one, zero = torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype)
    assert CondOT().noising_g(one) == 0 and Cosine().noising_g(one) == 0
    assert VP().noising_g(one) == pytest.approx(math.sqrt(0.1))
    assert SubVP().noising_g(one) == 0
    assert DiscreteVP(linear_betas()).noising_g(one).isfinite()
    assert CondOT().noising_g(zero) == math.inf  # alpha_0 = 0: no linear SDE forgets all in time 1
    assert VP().noising_g(zero) == pytest.approx(math.sqrt(20.0))
    for schedule in SCHEDULES:
        assert schedule.noising_g(one).dtype == dtype


@pytest.mark.parametrize("schedule", [CondOT(), VP(), SubVP()], ids=lambda s: s.name)
def test_noising_has_the_conditional_laws(schedule):
    # Mean and variance of the Euler-Maruyama chain, exactly: linear, so no sampling. Order 1 in h:
    # Richardson's 2 fine - coarse leaves the error of order h^2.
    def moments(n):
        grid = torch.linspace(0, 0.7, n + 1, dtype=torch.float64)
        mean, variance = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        sde = noising(schedule)
        for r, s in pairwise(grid):
            factor = 1 + (s - r) * sde.drift(torch.ones(1, dtype=torch.float64), r)
            mean, variance = factor * mean, factor**2 * variance
            variance = variance + (s - r) * sde.diffusion(mean, r) ** 2
        return torch.stack([mean, variance])

    fine, coarse = moments(4000), moments(2000)
    t = torch.tensor(0.3, dtype=torch.float64)
    exact = torch.stack([schedule.alpha(t), schedule.sigma(t) ** 2])[:, None]
    assert (fine - exact).abs().max() < 5e-3
    torch.testing.assert_close(2 * fine - coarse, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
def test_the_reversed_noising_process_is_a_member_of_the_family(schedule):
    field = ExactField(laboratory(), GaussianPath(schedule))
    reversed_ = reverse(noising(schedule), lambda x, r: field.score(x, 1.0 - r))
    member = stochastic_flow(field, schedule.noising_g)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in times()[::12]:
        torch.testing.assert_close(reversed_.drift(x, t), member.drift(x, t), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(reversed_.diffusion(x, t), member.diffusion(x, t))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=NAMES)
def test_the_flow_of_the_noising_process_is_minus_the_velocity(schedule):
    field = ExactField(laboratory(), GaussianPath(schedule))
    flow = probability_flow_of(noising(schedule), lambda x, r: field.score(x, 1.0 - r))
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for r in times()[::12]:
        expected = -field.velocity(x, 1.0 - r)
        torch.testing.assert_close(flow.drift(x, r), expected, rtol=1e-8, atol=1e-8)


def test_reversing_twice_gives_the_process_back():
    field = ExactField(laboratory(), GaussianPath(CondOT()))
    sde = stochastic_flow(field, lambda t: 0.5 + t)
    there = reverse(sde, field.score)
    back = reverse(there, lambda x, r: field.score(x, 1.0 - r))
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for t in times()[::12]:
        torch.testing.assert_close(back.drift(x, t), sde.drift(x, t))
        torch.testing.assert_close(back.diffusion(x, t), sde.diffusion(x, t))


def test_a_stationary_process_is_its_own_reversal_and_stands_still_as_a_flow():
    law = Gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64) * 0.5)
    sde = langevin(law.score, g=1.0)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    t = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(reverse(sde, lambda x, t: law.score(x)).drift(x, t), sde.drift(x, t))
    flow = probability_flow_of(sde, lambda x, t: law.score(x))
    torch.testing.assert_close(flow.drift(x, t), torch.zeros_like(x))


def test_flow_of_ornstein_uhlenbeck_reaches_its_exact_law():
    # From N(1, 0.04), theta = g = 1: the flow is affine, x -> m_t + sqrt(v_t / v_0) (x - 1).
    def mean_variance(t):
        return torch.exp(-t), 0.5 + (0.04 - 0.5) * torch.exp(-2 * t)

    def score(x, t):
        mean, variance = mean_variance(t)
        return -(x - mean) / variance

    x = torch.linspace(0.4, 1.6, 7, dtype=torch.float64)[:, None]
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    end = solve_ode(probability_flow_of(ornstein_uhlenbeck(1.0, 1.0), score), x, grid, method=rk4)
    mean, variance = mean_variance(grid[-1])
    torch.testing.assert_close(end, mean + (variance / 0.04).sqrt() * (x - 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [reverse, probability_flow_of])
def test_multiplicative_noise_is_refused(make):
    with pytest.raises(ValueError, match="additive"):
        make(geometric_brownian(0.1, 0.2), lambda x, t: x)


def test_noising_runs_in_float32_from_the_data_on():
    data = laboratory(torch.float32).sample(16, torch.Generator().manual_seed(3))
    for schedule in (VP(), SubVP(), CondOT()):
        end = solve_sde(noising(schedule), data, torch.linspace(0, 0.99, 50))
        assert end.dtype == torch.float32 and end.isfinite().all()


def test_the_family_at_g_0_is_the_flow():
    field = ExactField(laboratory(), GaussianPath(CondOT()))
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    t = torch.tensor(0.4, dtype=torch.float64)
    flow, sde = probability_flow(field), stochastic_flow(field, 0.0)
    torch.testing.assert_close(sde.drift(x, t), flow.drift(x, t))
