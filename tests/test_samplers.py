"""Langevin samplers against the closed form of their own law on Gaussians."""

import math

import pytest
import torch
from scipy import stats

from fromnoise.distributions import Gaussian, laboratory
from fromnoise.fields import ExactField, TransformedField
from fromnoise.paths import GaussianPath
from fromnoise.processes import langevin
from fromnoise.samplers import annealed_langevin, level_ratio, unadjusted_langevin
from fromnoise.schedules import EDM, VE, CondOT
from fromnoise.solvers import solve_sde

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_unadjusted_langevin_is_euler_maruyama():
    law, h = laboratory(F64), 0.01
    x = torch.randn(50, 2, dtype=F64, generator=seeded(0))
    ours = unadjusted_langevin(law.score, x, step=h, steps=20, generator=seeded(1))
    theirs = solve_sde(
        langevin(law.score, g=math.sqrt(2.0)),
        x,
        h * torch.arange(21, dtype=F64),
        generator=seeded(1),
    )
    # the grid's differences round at 1e-16, over 20 steps
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_trajectory_and_no_step():
    x = torch.randn(5, 2, generator=seeded(0))
    states = unadjusted_langevin(
        lambda y: -y, x, step=0.1, steps=4, generator=seeded(1), trajectory=True
    )
    assert states.shape == (5, 5, 2) and torch.equal(states[0], x)
    last = unadjusted_langevin(lambda y: -y, x, step=0.1, steps=4, generator=seeded(1))
    assert torch.equal(states[-1], last)
    assert torch.equal(unadjusted_langevin(lambda y: -y, x, step=0.1, steps=0), x)


def recursion(mean, variance, data_mean, s, sigmas, steps, step):
    """Mean and variance of annealed Langevin on the line, for data N(data_mean, s)."""
    for sigma in sigmas:
        h, rate = step * sigma**2, 1.0 / (s + sigma**2)
        for _ in range(steps):
            mean = mean - h * rate * (mean - data_mean)
            variance = (1 - h * rate) ** 2 * variance + 2 * h
    return mean, variance


@pytest.mark.parametrize("s", [0.0, 0.3, 4.0])
@pytest.mark.parametrize("denoise", [False, True])
def test_law_of_annealed_langevin_on_gaussian_data(s, denoise):
    schedule, n = VE(0.1, 5.0), 40_000
    law = Gaussian(torch.tensor([1.5], dtype=F64), torch.tensor([[max(s, 1e-12)]], dtype=F64))
    field = ExactField(law, GaussianPath(schedule))
    times = torch.linspace(0, 1, 6, dtype=F64)
    x = 5.0 * torch.randn(n, 1, dtype=F64, generator=seeded(0))
    x = annealed_langevin(
        field, x, times, steps_per_level=3, step=0.4, generator=seeded(1), denoise=denoise
    )[:, 0]
    sigmas = schedule.sigma(times).tolist()
    mean, variance = recursion(0.0, 25.0, 1.5, s, sigmas, 3, 0.4)
    if denoise:  # D(x) = m + s / (s + sigma^2) (x - m)
        gain = s / (s + sigmas[-1] ** 2)
        mean, variance = 1.5 + gain * (mean - 1.5), gain**2 * variance
    # mean and variance of n Gaussian draws; false alarms below 1e-6 for the eight comparisons each
    z = stats.norm.isf(1e-7)
    assert abs(x.mean().item() - mean) <= z * math.sqrt(variance / n) + 1e-9
    assert abs(x.var().item() - variance) <= z * variance * math.sqrt(2 / n) * 1.05 + 1e-9


def test_trajectory_of_levels():
    field = ExactField(laboratory(), GaussianPath(EDM(0.1, 5.0)))
    times = torch.linspace(0, 1, 4)
    x = 5 * torch.randn(7, 2, generator=seeded(0))
    options = {"steps_per_level": 2, "step": 0.1}
    states = annealed_langevin(field, x, times, generator=seeded(1), trajectory=True, **options)
    assert states.shape == (6, 7, 2) and torch.equal(states[0], x)
    last = annealed_langevin(field, x, times, generator=seeded(1), **options)
    assert torch.equal(states[-1], last) and last.dtype == torch.float32
    torch.testing.assert_close(last, field.denoise(states[-2], times[-1]))


def test_any_field_along_ve():
    law, schedule = laboratory(F64), VE(0.1, 5.0)
    straight = TransformedField(ExactField(law, GaussianPath(CondOT())), schedule)
    direct = ExactField(law, GaussianPath(schedule))
    x = 5 * torch.randn(7, 2, dtype=F64, generator=seeded(0))
    times = torch.linspace(0, 1, 4, dtype=F64)
    made = [
        annealed_langevin(f, x, times, steps_per_level=2, step=0.1, generator=seeded(1))
        for f in (straight, direct)
    ]
    torch.testing.assert_close(*made, rtol=1e-8, atol=1e-8)


def test_bad_input_is_named():
    field = ExactField(laboratory(), GaussianPath(VE()))
    x, times = torch.zeros(3, 2), torch.linspace(0, 1, 3)
    for bad in (torch.tensor([0.5, 0.2]), torch.zeros(2, 2), torch.tensor([])):
        with pytest.raises(ValueError, match="strictly increasing"):
            annealed_langevin(field, x, bad, steps_per_level=1, step=0.1)
    with pytest.raises(ValueError, match="steps_per_level must be at least 1"):
        annealed_langevin(field, x, times, steps_per_level=0, step=0.1)
    for step in (0.0, 2.0, float("nan")):
        with pytest.raises(ValueError, match=r"step must lie in \(0, 2\)"):
            annealed_langevin(field, x, times, steps_per_level=1, step=step)
    straight = ExactField(laboratory(), GaussianPath(CondOT()))
    with pytest.raises(ValueError, match="TransformedField"):
        annealed_langevin(straight, x, times, steps_per_level=1, step=0.1)
    for step in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="step must be positive and finite"):
            unadjusted_langevin(lambda y: -y, x, step=step, steps=1)
    with pytest.raises(ValueError, match="steps must be at least 0"):
        unadjusted_langevin(lambda y: -y, x, step=0.1, steps=-1)


@pytest.mark.parametrize("dim", [20, 784, 3072])
def test_level_ratio_solves_its_equation(dim):
    ratio = level_ratio(dim)
    apart = math.sqrt(2 * dim) * (ratio - 1)
    found = stats.norm.cdf(apart + 3 * ratio) - stats.norm.cdf(apart - 3 * ratio)
    assert found == pytest.approx(0.5, abs=1e-9)
    # the exact radius of noise, a chi variable; its normal approximation errs by about 1 / sqrt(d)
    low, high = (math.sqrt(dim) + k / math.sqrt(2) for k in (-3, 3))
    exact = stats.chi(dim).cdf(ratio * high) - stats.chi(dim).cdf(ratio * low)
    assert exact == pytest.approx(0.5, abs=1.0 / math.sqrt(dim))


def test_level_ratio_says_where_it_has_no_answer():
    with pytest.raises(ValueError, match="in low dimension"):
        level_ratio(2)
    for dim, overlap in ((0, 0.5), (10, 1.0), (10, 0.0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            level_ratio(dim, overlap)
