"""Schedules: end points, derivatives against autograd, half log-SNR and its inverse."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.discrete_schedules import DiscreteVP, cosine_betas, linear_betas
from fromnoise.paths import change_of_schedule
from fromnoise.schedules import EDM, VE, VP, CondOT, Cosine, LinearLogSNR, NarrowCondOT, SubVP

DISCRETE = [DiscreteVP(linear_betas()), DiscreteVP(cosine_betas(50))]
NARROW = [NarrowCondOT(0.01), LinearLogSNR()]
ALL = [CondOT(), Cosine(), VP(), SubVP(), VE(), EDM(), EDM(rho=1.0), *NARROW, *DISCRETE]
STANDARD = [CondOT(), Cosine()]
inner_times = st.floats(min_value=1e-3, max_value=1 - 1e-3)


def named(schedules):
    return pytest.mark.parametrize("schedule", schedules, ids=lambda s: s.name)


@named(STANDARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standard_end_points_are_exact(schedule, dtype):
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    assert schedule.alpha(ends).tolist() == [0.0, 1.0]
    assert schedule.sigma(ends).tolist() == [1.0, 0.0]
    assert schedule.half_log_snr(ends).tolist() == [-math.inf, math.inf]


@pytest.mark.parametrize("schedule", [VP(), SubVP()], ids=lambda s: s.name)
def test_vp_end_points(schedule):
    ends = torch.tensor([0.0, 1.0])
    alpha, sigma = schedule.alpha(ends), schedule.sigma(ends)
    # The noise end is not standard: alpha_0 = exp(-(beta_min + beta_max) / 4) = exp(-5.025).
    assert alpha[0].item() == pytest.approx(math.exp(-5.025), rel=1e-5)
    assert alpha[1].item() == 1.0 and sigma[1].item() == 0.0
    derivative = schedule.d_sigma(torch.tensor(1.0, dtype=torch.float64)).item()
    assert derivative == (-math.inf if type(schedule) is VP else pytest.approx(-0.1))


def test_ve_end_points():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert VE().sigma(ends).tolist() == pytest.approx([50.0, 0.01], rel=1e-12)
    assert VE().alpha(ends).tolist() == [1.0, 1.0]


def test_narrow_end_points():
    ends = torch.tensor([0.0, 1.0])
    path = NarrowCondOT(0.01)
    assert path.alpha(ends).tolist() == [0.0, 1.0]
    assert path.sigma(ends).tolist() == [1.0, pytest.approx(0.01, rel=1e-7)]
    # Lipman et al. 2023, Eq. 22: sigma_t = 1 - (1 - sigma_min) t
    assert path.sigma(0.3).item() == pytest.approx(1 - 0.99 * 0.3, rel=1e-6)
    for wrong in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="sigma_min must lie in"):
            NarrowCondOT(wrong)


def test_linear_log_snr_is_a_line_between_the_published_ends():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    path = LinearLogSNR()
    gamma = -2 * path.half_log_snr(t)
    assert torch.allclose(gamma, 5.0 + (-13.3 - 5.0) * t, atol=1e-14)
    assert torch.allclose(path.alpha(t) ** 2, torch.sigmoid(-gamma), rtol=1e-14)
    for ends in ((1.0, 1.0), (2.0, 1.0), (-math.inf, 1.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match="must be below"):
            LinearLogSNR(*ends)


# Next to an end in float32: the smallest normal number after 0, the last number before 1.
NEXT = [0.0, 1.2e-38, 1e-30, 1e-7, 0.5, 1 - 2.0**-24, 1 - 2.0**-20, 1.0]


@named(ALL)
def test_float32_is_float64_rounded_at_and_next_to_the_end_points(schedule):
    """Value by value, at the same times; infinite in one is infinite in the other."""
    t = torch.tensor(NEXT, dtype=torch.float32)
    eps = torch.finfo(torch.float32).eps
    for name in ("alpha", "sigma", "d_alpha", "d_sigma", "half_log_snr"):
        low = getattr(schedule, name)(t)
        high = getattr(schedule, name)(t.double())
        assert low.dtype == torch.float32 and high.dtype == torch.float64
        infinite = torch.isinf(high)
        assert torch.equal(torch.isinf(low), infinite), name
        assert torch.equal(low[infinite].double(), high[infinite]), name
        low, high = low[~infinite].double(), high[~infinite]
        # A few roundings of the value itself, and where the exponent of an exponential or of a
        # power is of size 20 (sigma of VE and EDM, alpha of VP) 20 times as much. Nothing absolute:
        # sigma near the data keeps its relative accuracy, because 1 - t is exact there.
        allowed = 60 * eps * high.abs() + (60 * eps if name == "half_log_snr" else 1e-38)
        assert bool(((low - high).abs() <= allowed).all()), (name, low - high, allowed)


@named(ALL)
def test_inverse_of_half_log_snr_at_the_end_points_in_float32(schedule):
    ends = torch.tensor([0.0, 1.0])
    again = schedule.inverse_half_log_snr(schedule.half_log_snr(ends))
    assert again.dtype == torch.float32
    # lambda of size 7 is known to 5e-7, and its slope at the ends is at least about 1
    assert (again - ends).abs().max() < 2e-6, again


@named([Cosine(), VP(), LinearLogSNR(), *DISCRETE])
def test_variance_is_preserved(schedule):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    total = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    # one rounding each of two squares and a root
    assert (total - 1).abs().max() < 4 * torch.finfo(torch.float64).eps


def test_sub_vp_has_less_variance_than_vp():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert bool((SubVP().sigma(t) <= VP().sigma(t)).all())
    assert torch.allclose(SubVP().sigma(t), VP().sigma(t) ** 2, atol=1e-15)


@named(ALL)
@given(t=inner_times)
def test_derivatives_equal_autograd(schedule, t):
    time = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    for value, derivative in [
        (schedule.alpha(time), schedule.d_alpha(time)),
        (schedule.sigma(time), schedule.d_sigma(time)),
    ]:
        expected = torch.zeros(())
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value, time, allow_unused=True)
            expected = torch.zeros(()) if expected is None else expected
        # both sides are a few roundings from the exact derivative
        assert derivative.item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-12)


@named(ALL)
@given(t=inner_times)
def test_half_log_snr_definition_and_inverse(schedule, t):
    time = torch.tensor(t, dtype=torch.float64)
    lam = schedule.half_log_snr(time)
    assert lam.item() == pytest.approx(
        math.log(schedule.alpha(time).item() / schedule.sigma(time).item()), abs=1e-9
    )
    # lambda is O(10) and its slope at least about 1, so t loses a digit or two of sixteen
    assert schedule.inverse_half_log_snr(lam).item() == pytest.approx(t, abs=1e-12)


@named(ALL)
def test_inverse_at_the_end_points_in_float32(schedule):
    ends = torch.tensor([0.0, 1.0])
    back = schedule.inverse_half_log_snr(schedule.half_log_snr(ends))
    # VP is steep in r at the noise end; 1e-5 is about a hundred roundings of float32
    assert torch.allclose(back, ends, atol=1e-5)


@named(ALL)
def test_half_log_snr_increases(schedule):
    lam = schedule.half_log_snr(torch.linspace(0, 1, 201, dtype=torch.float64))
    assert bool((lam[1:] > lam[:-1]).all())


@named(ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (3, 1, 1)])
def test_shape_and_dtype_follow_the_times(schedule, dtype, shape):
    t = torch.full(shape, 0.4, dtype=dtype)
    for method in ("alpha", "sigma", "d_alpha", "d_sigma", "half_log_snr"):
        value = getattr(schedule, method)(t)
        assert value.shape == shape and value.dtype == dtype, method


@named(ALL)
def test_alpha_does_not_alias_the_times(schedule):
    t = torch.tensor([0.25, 0.5])
    schedule.alpha(t).mul_(0)
    assert t.tolist() == [0.25, 0.5]


@named(ALL)
@pytest.mark.parametrize("t", [-0.01, 1.01, float("nan"), [0.5, 2.0]])
def test_times_outside_are_refused(schedule, t):
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        schedule.alpha(torch.tensor(t))


def test_unreachable_snr_is_refused():
    with pytest.raises(ValueError, match="half_log_snr must lie in"):
        VP().inverse_half_log_snr(torch.tensor(-30.0))
    with pytest.raises(ValueError, match="half_log_snr must lie in"):
        VE().inverse_half_log_snr(torch.tensor(float("nan")))
    with pytest.raises(ValueError, match="half_log_snr must lie in"):
        EDM().inverse_half_log_snr(torch.tensor(6.3))  # sigma_min = 0.002 is lambda = 6.21


@pytest.mark.parametrize(
    "make",
    [
        lambda: VP(0.0, 1.0),
        lambda: VP(2.0, 1.0),
        lambda: VE(0.0, 1.0),
        lambda: VE(2.0, 1.0),
        lambda: EDM(sigma_min=0.0),
        lambda: EDM(sigma_min=80.0),
        lambda: EDM(sigma_max=math.inf),
        lambda: EDM(rho=0.0),
        lambda: EDM(rho=math.inf),
        lambda: EDM(rho=math.nan),
    ],
)
def test_bad_parameters_are_refused(make):
    with pytest.raises(ValueError, match="must be positive"):
        make()


def test_an_incomplete_schedule_cannot_be_made():
    from fromnoise.schedules import Schedule

    with pytest.raises(TypeError):
        Schedule()


# -- EDM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_edm_end_points(dtype, rho):
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    # the root is rounded to the dtype of the times, and the power multiplies that by rho; the
    # power itself is good to about one rounding
    slack = (0.5 * rho + 1.5) * torch.finfo(dtype).eps
    assert EDM(rho=rho).sigma(ends).tolist() == pytest.approx([80.0, 0.002], rel=slack, abs=0)
    assert EDM(rho=rho).alpha(ends).tolist() == [1.0, 1.0]


def edm_in_many_digits(rho):
    """sigma as printed in the paper, i / (N - 1) = t; 50 digits, from the decimal parameters."""
    low, high, power = mpmath.mpf("0.002"), mpmath.mpf(80), 1 / mpmath.mpf(rho)
    return lambda t: (high**power + t * (low**power - high**power)) ** rho


@pytest.mark.parametrize("rho", [1, 2, 7])
def test_edm_equals_the_paper_in_many_digits(rho):
    with mpmath.workdps(50):
        sigma, schedule = edm_in_many_digits(rho), EDM(rho=float(rho))
        for t in (0.0, 2.0**-20, 0.1, 0.5, 0.9, 1.0 - 2.0**-20, 1.0):
            time = torch.tensor(t, dtype=torch.float64)
            exact, slope = sigma(mpmath.mpf(t)), mpmath.diff(sigma, mpmath.mpf(t))
            # the weighted mean of the roots loses up to 2 roundings, which the power multiplies by
            # rho; rho = 1 is sigma itself, at whose small end 80 (1 - t) is exact
            slack = (2 * rho + 4) * torch.finfo(torch.float64).eps
            assert schedule.sigma(time).item() == pytest.approx(float(exact), rel=slack, abs=0)
            assert schedule.d_sigma(time).item() == pytest.approx(
                float(slope), rel=2 * slack, abs=0
            )
            lam = schedule.half_log_snr(time).item()
            assert lam == pytest.approx(float(-mpmath.log(exact)), abs=2 * slack)


def test_edm_between_even_spacing_and_ve():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    even = EDM(0.01, 50.0, rho=1.0).sigma(t)
    assert torch.allclose(even, 50.0 + t * (0.01 - 50.0), rtol=0, atol=1e-13)  # roundings of 50
    # log sigma = rho log(mean of exp(log(sigma_end) / rho)): the mean of the logarithms plus
    # their variance over 2 rho and higher orders. The variance is at most (log 5000 / 2)^2 = 18.1.
    rho = 1e4
    gap = EDM(0.01, 50.0, rho=rho).sigma(t).log() - VE(0.01, 50.0).sigma(t).log()
    assert gap.abs().max().item() == pytest.approx(18.14 / (2 * rho), rel=1e-2, abs=0)


@named([CondOT(), Cosine(), VP(), SubVP(), *DISCRETE])
def test_edm_is_x_over_alpha(schedule):
    """sigma_EDM = sigma / alpha: EDM expressed by another schedule, and the other by EDM."""
    t = torch.linspace(0.1, 0.9, 33, dtype=torch.float64)
    r, scale = change_of_schedule(t, source=schedule, target=EDM())
    # lambda is at most 7 in size and good to a few roundings; so is a factor exp(lambda)
    assert torch.allclose(scale * schedule.alpha(r), torch.ones_like(r), rtol=1e-13)
    assert torch.allclose(scale * schedule.sigma(r), EDM().sigma(t), rtol=1e-13)
    assert torch.allclose(schedule.sigma(r) / schedule.alpha(r), EDM().sigma(t), rtol=1e-13)
    back, inverse = change_of_schedule(r, source=EDM(), target=schedule)
    assert torch.allclose(back, t, atol=1e-13) and torch.allclose(inverse * scale, scale / scale)


def test_edm_does_not_reach_clean_data():
    with pytest.raises(ValueError, match="half_log_snr must lie in"):
        change_of_schedule(torch.tensor(1.0), source=EDM(), target=CondOT())
