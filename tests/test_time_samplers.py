"""Samplers of times: densities against quadrature, laws against scipy, strata, importance."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from fromnoise.schedules import CondOT
from fromnoise.time_samplers import (
    LogitNormalTimes,
    LowDiscrepancyTimes,
    TabulatedTimes,
    UniformTimes,
)

F64 = torch.float64
EDGES, HEIGHTS = [0.05, 0.1, 0.4, 0.5, 0.95], [3.0, 0.5, 2.0, 1.0]


def table():
    return TabulatedTimes(torch.tensor(EDGES, dtype=F64), torch.tensor(HEIGHTS, dtype=F64))


def logit_normal_cdf(mean, std, low=0.0, high=1.0):
    """scipy's normal law of the logit, conditioned on the range."""

    def free(t):
        with np.errstate(divide="ignore"):
            return stats.norm.cdf(np.log(t) - np.log1p(-t), mean, std)

    return lambda t: (free(t) - free(low)) / (free(high) - free(low))


def tabulated_cdf(t):
    mass = np.array(HEIGHTS) * np.diff(EDGES)
    return np.interp(t, EDGES, np.concatenate([[0.0], np.cumsum(mass)]) / mass.sum())


CASES = {
    "uniform": (UniformTimes(), lambda t: t),
    "uniform inside": (UniformTimes(0.1, 0.7), lambda t: (t - 0.1) / 0.6),
    "logit-normal": (LogitNormalTimes(), logit_normal_cdf(0.0, 1.0)),
    "logit-normal, shifted": (LogitNormalTimes(-0.8, 0.5), logit_normal_cdf(-0.8, 0.5)),
    "logit-normal inside": (
        LogitNormalTimes(1.2, 1.2, t_min=0.05, t_max=0.9),
        logit_normal_cdf(1.2, 1.2, 0.05, 0.9),
    ),
    "tabulated": (table(), tabulated_cdf),
}
each = pytest.mark.parametrize("name", CASES)


def evaluate(sampler, t):
    return sampler.density(torch.tensor(t, dtype=F64)).item()


@each
def test_density_is_the_derivative_of_the_law_and_has_mass_one(name):
    sampler, cdf = CASES[name]
    breaks = [sampler.t_min, *(EDGES[1:-1] if name == "tabulated" else []), sampler.t_max]
    mass = sum(
        quad(lambda t: evaluate(sampler, t), low, high, epsabs=1e-12)[0]
        for low, high in pairwise(breaks)
    )
    assert mass == pytest.approx(1.0, abs=1e-9)
    # Central differences of the independent distribution function: h^2 times its third derivative
    # (below 1000), plus its rounding over h.
    h = 1e-6
    for t in np.linspace(sampler.t_min, sampler.t_max, 14)[1:-1]:
        slope = (cdf(t + h) - cdf(t - h)) / (2 * h)
        assert evaluate(sampler, t) == pytest.approx(slope, abs=1e-8)
    outside = [t for t in (sampler.t_min - 0.01, sampler.t_max + 0.01) if 0 <= t <= 1]
    assert all(evaluate(sampler, t) == 0.0 for t in outside)


@each
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_draws_follow_the_law(name, dtype, generator):
    sampler, cdf = CASES[name]
    n = 20_000
    t = sampler.sample(n, generator, dtype=dtype)
    assert t.shape == (n,) and t.dtype == dtype
    assert (sampler.density(t) > 0).all()
    # Kolmogorov-Smirnov: exceeded with probability below 1e-5 (2 exp(-2 * 2.5^2) = 7e-6).
    assert stats.kstest(t.double().numpy(), cdf).statistic < 2.5 / n**0.5
    again = sampler.sample(n, torch.Generator().manual_seed(20240117), dtype=dtype)
    assert torch.equal(t, again) and not torch.equal(t, sampler.sample(n, generator, dtype=dtype))


@each
def test_quantile_inverts_the_law(name):
    sampler, cdf = CASES[name]
    u = torch.linspace(0.001, 0.999, 333, dtype=F64)
    t = sampler.quantile(u)
    assert np.abs(cdf(t.numpy()) - u.numpy()).max() < 1e-12  # slope at most 5, a few roundings
    # The extremes of torch.rand stay in the range, and off the ends where the density vanishes.
    for dtype, last in ((torch.float32, 1 - 2.0**-24), (F64, 1 - 2.0**-53)):
        ends = sampler.quantile(torch.tensor([0.0, last], dtype=dtype))
        assert (sampler.density(ends) > 0).all()
        if "logit-normal" not in name:
            assert ends[0] == torch.tensor(sampler.t_min, dtype=dtype)


def test_uniform_times_are_those_of_rand():
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    assert torch.equal(UniformTimes().sample(100, first), torch.rand(100, generator=second))


def test_density_keeps_shape_and_vanishes_at_the_ends_of_the_logit_normal():
    t = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1)
    density = LogitNormalTimes().density(t)
    assert density.shape == (3, 1, 1) and density.dtype == torch.float32
    # at t = 1/2: 1 / (sqrt(2 pi) / 4)
    expected = [0.0, 4 / math.sqrt(2 * math.pi), 0.0]
    assert density.flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert table().density(torch.tensor([0.4, 0.95])).tolist() == pytest.approx(
        [2.0 / 0.95, 1.0 / 0.95]  # total mass 0.15 + 0.15 + 0.2 + 0.45 = 0.95
    )


@each
def test_importance_weights_undo_the_sampler(name, generator):
    """E[f(t) / p(t)] is the integral of f over the range."""
    sampler, _ = CASES[name]
    low, high = max(sampler.t_min, 0.02), min(sampler.t_max, 0.98)

    def f(t):  # 0 outside [low, high], so that f / p is bounded for each of the laws
        return torch.where((t >= low) & (t <= high), torch.exp(-t) * (1 + t), 0.0)

    n = 20_000
    t = sampler.sample(n, generator, dtype=F64)
    values = f(t) / sampler.density(t)
    known = (2 + low) * math.exp(-low) - (2 + high) * math.exp(-high)
    # five standard errors: false alarm 6e-7
    assert abs(values.mean().item() - known) < 5 * values.std().item() / n**0.5 + 1e-12


def test_edm_noise_levels_are_logit_normal_on_condot(generator):
    """log(sigma / alpha) is normal with mean -1.2 and deviation 1.2 (EDM's P_mean, P_std)."""
    n = 20_000
    t = LogitNormalTimes(1.2, 1.2).sample(n, generator, dtype=F64)
    log_sigma = -CondOT().half_log_snr(t)
    assert stats.kstest(log_sigma.numpy(), stats.norm(-1.2, 1.2).cdf).statistic < 2.5 / n**0.5


# -- low discrepancy ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("n", [1, 2, 7, 256, 1000, 65_536])
def test_exactly_one_draw_in_each_stratum(n, dtype, generator):
    sampler = LowDiscrepancyTimes()
    edges = torch.arange(n + 1).to(dtype) / n
    for _ in range(20):
        t = sampler.sample(n, generator, dtype=dtype)
        ordered = t.sort().values
        assert ((ordered >= edges[:-1]) & (ordered < edges[1:])).all()
        # one offset: the next draw is 1/n further, cyclically; each is rounded, and the difference
        steps = (t.roll(-1) - t).remainder(1.0)
        assert (steps - (1.0 / n) % 1.0).abs().max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_last_place_in_a_stratum_does_not_round_into_the_next(dtype, monkeypatch):
    """The largest number torch.rand returns, in strata too narrow to resolve it from their end."""
    last = 1.0 - 0.5 * torch.finfo(dtype).eps
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), last, dtype=dtype))
    n = 1000
    t = LowDiscrepancyTimes().sample(n, torch.Generator().manual_seed(0), dtype=dtype)
    edges = torch.arange(n + 1).to(dtype) / n
    ordered = t.sort().values
    assert ((ordered >= edges[:-1]) & (ordered < edges[1:])).all()


@each
def test_draws_are_made_on_the_device_asked_for(name):
    for sampler in (CASES[name][0], LowDiscrepancyTimes(CASES[name][0])):
        assert sampler.sample(3, device="meta").device.type == "meta"


@each
def test_low_discrepancy_keeps_the_law(name, generator):
    base, cdf = CASES[name]
    sampler = LowDiscrepancyTimes(base)
    n, batches = 5, 4000
    t = torch.stack([sampler.sample(n, generator, dtype=F64) for _ in range(batches)])
    for place in range(n):  # every place in the batch, since data may come in a fixed order
        # Kolmogorov-Smirnov, false alarm 7e-6 each
        assert stats.kstest(t[:, place].numpy(), cdf).statistic < 2.5 / batches**0.5
    for batch in t[:20]:  # one draw a stratum: the empirical law is within 1/n, surely
        assert stats.kstest(batch.numpy(), cdf).statistic <= 1 / n + 1e-12
    grid = torch.linspace(0.0, 1.0, 11)
    assert torch.equal(sampler.density(grid), base.density(grid))
    assert (sampler.t_min, sampler.t_max) == (base.t_min, base.t_max)


# -- errors -------------------------------------------------------------------------------------


def tabulated(edges, heights):
    return TabulatedTimes(torch.tensor(edges), torch.tensor(heights))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformTimes(-0.1, 1.0), r"t_min=-0.1"),
        (lambda: UniformTimes(0.6, 0.6), r"0 <= t_min < t_max <= 1"),
        (lambda: UniformTimes(0.0, 1.5), r"t_max=1.5"),
        (lambda: LogitNormalTimes(t_min=math.nan), r"t_min=nan"),
        (lambda: LogitNormalTimes(std=0.0), r"std=0.0"),
        (lambda: LogitNormalTimes(mean=math.inf), r"mean=inf"),
        (lambda: LogitNormalTimes(9.0, 0.5, t_max=0.1), "mass.*widen the range"),
        (lambda: tabulated([0.0, 1.0], [1.0, 2.0]), r"edges and heights have shapes \(2,\)"),
        (lambda: tabulated([0.0, 0.5, 0.5], [1.0, 2.0]), "edges must increase"),
        (lambda: tabulated([0.0, 0.5, 1.5], [1.0, 2.0]), r"edges must lie in \[0, 1\]"),
        (lambda: tabulated([0.0, 0.5, 1.0], [1.0, 0.0]), "heights must be positive"),
        (lambda: tabulated([0.0, 0.5, 1.0], [1.0, math.nan]), "heights must be positive"),
        (lambda: UniformTimes().density(torch.tensor([1.5])), r"t must lie in \[0, 1\]"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
