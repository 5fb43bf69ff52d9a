"""Schedules: end points, derivatives against autograd, half log-SNR and its inverse."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.schedules import VE, VP, CondOT, Cosine, SubVP

ALL = [CondOT(), Cosine(), VP(), SubVP(), VE()]
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


@pytest.mark.parametrize("schedule", [Cosine(), VP()], ids=lambda s: s.name)
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


@pytest.mark.parametrize(
    "make", [lambda: VP(0.0, 1.0), lambda: VP(2.0, 1.0), lambda: VE(0.0, 1.0), lambda: VE(2.0, 1.0)]
)
def test_bad_parameters_are_refused(make):
    with pytest.raises(ValueError, match="must be positive"):
        make()


def test_an_incomplete_schedule_cannot_be_made():
    from fromnoise.schedules import Schedule

    with pytest.raises(TypeError):
        Schedule()
