"""DDPM's betas as a schedule: exact at the steps, smooth and increasing between them."""

import copy
import itertools
import json
import math
import pickle

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromnoise import checkpoints
from fromnoise.discrete_schedules import DiscreteVP, cosine_betas, linear_betas, scaled_linear_betas
from fromnoise.distributions import laboratory
from fromnoise.fields import ExactField
from fromnoise.paths import GaussianPath, change_of_schedule
from fromnoise.predictions import convert
from fromnoise.schedules import EDM, VP, CondOT, Cosine, SubVP

F64 = torch.float64
EPS = torch.finfo(F64).eps
BETAS = {
    "linear": linear_betas(),
    "scaled linear": scaled_linear_betas(),
    "cosine": cosine_betas(),
    "short": linear_betas(7, 0.3, 0.01),  # they may fall, too
    "uneven": torch.tensor([0.5, 1e-4, 0.9, 0.9, 1e-3, 0.2], dtype=F64),
    "one": torch.tensor([0.3], dtype=F64),
    "noisy": torch.tensor([0.999] * 4, dtype=F64),
    "two": torch.tensor([1e-3, 0.7], dtype=F64),
}
every = pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS.keys())


def steps_of(schedule):
    return torch.arange(schedule.steps + 1)


def alpha_bars(betas):
    """The products (1 - beta_1) ... (1 - beta_n), n = 0, ..., T, in 50 digits."""
    with mpmath.workdps(50):
        factors = [1 - mpmath.mpf(beta) for beta in betas.tolist()]
        return list(itertools.accumulate(factors, initial=mpmath.mpf(1), func=lambda a, b: a * b))


# -- the betas ----------------------------------------------------------------------------------


def test_linear_betas():
    betas = linear_betas()
    assert betas.shape == (1000,) and betas.dtype == F64
    expected = [1e-4 + (0.02 - 1e-4) * n / 999 for n in range(1000)]
    assert betas.tolist() == pytest.approx(expected, rel=1e-14, abs=0)  # a few roundings


def test_scaled_linear_betas():
    betas = scaled_linear_betas()
    assert betas.shape == (1000,) and betas.dtype == F64
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    expected = [(low + (high - low) * n / 999) ** 2 for n in range(1000)]
    assert betas.tolist() == pytest.approx(expected, rel=1e-14, abs=0)  # a few roundings


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_cosine_betas_equal_the_paper_in_many_digits(steps):
    with mpmath.workdps(40):
        s = mpmath.mpf("0.008")

        def f(n):
            return mpmath.cos((mpmath.mpf(n) / steps + s) / (1 + s) * mpmath.pi / 2) ** 2

        expected = [
            float(min(1 - f(n) / f(n - 1), mpmath.mpf("0.999"))) for n in range(1, steps + 1)
        ]
    # An angle x <= pi has a relative error of 2 eps, so that sin x has one of 2 eps x / tan x and
    # 1 / cos^2 x one of 4 eps x tan x; besides there are a few roundings. (1 - f(n) / f(n-1) in
    # float64 would be off by eps / beta_1 = 24000 eps.)
    for n, (beta, exact) in enumerate(zip(cosine_betas(steps).tolist(), expected, strict=True), 1):
        before, after = (math.pi / 2 * (k / steps + 0.008) / 1.008 for k in (n - 1, n))
        angles = 2 * (before + after) / abs(math.tan(before + after))
        slack = EPS * (20 + angles + 4 * before * math.tan(before))
        assert beta == pytest.approx(exact, rel=slack, abs=0), n


def test_cosine_betas_are_bounded_in_the_last_step():
    betas = cosine_betas()
    assert betas[-1].item() == 0.999 and betas[-2].item() < 0.999
    assert cosine_betas(20, max_beta=0.5).max().item() == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_betas(0), "steps must be a positive integer"),
        (lambda: scaled_linear_betas(2.0), "steps must be a positive integer"),
        (lambda: cosine_betas(True), "steps must be a positive integer"),
        (lambda: linear_betas(first=0.0), "first and last must lie strictly between"),
        (lambda: linear_betas(last=1.0), "first and last must lie strictly between"),
        (lambda: scaled_linear_betas(last=math.nan), "first and last must lie strictly between"),
        (lambda: cosine_betas(max_beta=1.0), "max_beta must lie strictly between"),
        (lambda: cosine_betas(offset=-0.1), "offset must be finite"),
        (lambda: cosine_betas(offset=math.inf), "offset must be finite"),
        (lambda: DiscreteVP([]), r"betas must have shape \(T,\)"),
        (lambda: DiscreteVP([[0.1]]), r"betas must have shape \(T,\)"),
        (lambda: DiscreteVP([0.1, 0.0]), "beta_2 is 0"),
        (lambda: DiscreteVP([0.1, 0.2, 1.0]), "beta_3 is 1"),
        (lambda: DiscreteVP([math.nan]), "beta_1 is nan"),
    ],
)
def test_bad_betas_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- the steps ----------------------------------------------------------------------------------


@every
def test_exact_at_the_steps(betas):
    schedule = DiscreteVP(betas)
    n = steps_of(schedule)
    t, exact = schedule.time_of_step(n, F64), alpha_bars(betas)
    # A time is rounded by eps / 4 on [1/2, 1] (the unit is eps / 2), hence T (1 - t) by T eps / 4
    # steps; b moves with it by the slope, sigma relatively by half of slope / expm1(b). The sum of
    # n growths has n roundings eps / 2 relative to b, and alpha = exp(-b / 2) half of its error.
    b = [-mpmath.log(a) for a in exact]
    for k in range(schedule.steps + 1):
        slope = schedule.beta(t[k]).item() / schedule.steps
        error = EPS * (schedule.steps * slope / 4 + k * float(b[k]) / 2 + 2 * float(b[k]))
        alpha, sigma = mpmath.sqrt(exact[k]), mpmath.sqrt(1 - exact[k])
        assert schedule.alpha(t[k]).item() == pytest.approx(
            float(alpha), rel=error + 2 * EPS, abs=0
        )
        if k:
            slack = error / 2 / float(mpmath.expm1(b[k])) + 3 * EPS
            assert schedule.sigma(t[k]).item() == pytest.approx(float(sigma), rel=slack, abs=0)
    assert schedule.alpha(t[0]).item() == 1.0 and schedule.sigma(t[0]).item() == 0.0


@every
def test_the_time_of_a_step_and_back(betas):
    schedule = DiscreteVP(betas)
    n = steps_of(schedule)
    t = schedule.time_of_step(n)
    assert t.dtype == torch.get_default_dtype() and t[0] == 1.0 and t[-1] == 0.0
    assert torch.equal(schedule.step_of_time(t).round().long(), n)
    assert torch.equal(schedule.time_of_step(n.to(F64)), schedule.time_of_step(n, F64))
    # t and 1 - t are rounded by eps / 4 at most, and their product with T by T eps / 2
    steps = schedule.step_of_time(schedule.time_of_step(n, F64))
    assert (steps - n).abs().max() <= schedule.steps * EPS
    middle = schedule.time_of_step(torch.tensor(0.5, dtype=F64))
    assert middle.item() == pytest.approx(1 - 0.5 / schedule.steps, rel=EPS, abs=0)
    assert schedule.time_of_step(schedule.steps).shape == ()


@pytest.mark.parametrize("n", [-1, 8, 7.01, float("nan")])
def test_steps_outside_are_refused(n):
    with pytest.raises(ValueError, match=r"n must lie in \[0, 7\]"):
        DiscreteVP(BETAS["short"]).time_of_step(torch.tensor(n))


def test_float32_times():
    """In float32 the times are rounded, and nothing else is lost."""
    schedule = DiscreteVP(BETAS["cosine"])
    t = schedule.time_of_step(steps_of(schedule), torch.float32)
    eps = torch.finfo(torch.float32).eps
    for name in ("alpha", "sigma", "d_alpha", "d_sigma", "half_log_snr", "beta"):
        method = getattr(schedule, name)
        assert torch.allclose(method(t).double(), method(t.double()), rtol=eps), name
    # t is rounded by eps / 4 at most. sigma^2 = 1 - exp(-b) grows at most as fast as n^2, so that
    # a step more is 1 / n of sigma or less; sigma itself is rounded by eps / 2.
    n = steps_of(schedule)[1:]
    exact = [float(mpmath.sqrt(1 - a)) for a in alpha_bars(BETAS["cosine"])[1:]]
    exact = torch.tensor(exact, dtype=F64)
    error = (schedule.sigma(t[1:]).double() - exact) / exact
    assert bool((error.abs() <= eps * (0.5 + schedule.steps / (4 * n)) * 1.01).all())
    assert error.abs().max() > 10 * eps  # so the times' rounding is worth the words


# -- between the steps --------------------------------------------------------------------------


@every
def test_continuously_differentiable_with_geometric_means_as_slopes(betas):
    schedule = DiscreteVP(betas)
    growth = [-math.log1p(-beta) for beta in betas.tolist()]
    for n in range(1, schedule.steps):
        slope = schedule.steps * math.sqrt(growth[n - 1] * growth[n])
        for side in (-1e-9, 0.0, 1e-9):  # of a step
            t = schedule.time_of_step(torch.tensor(n + side, dtype=F64))
            # on the scale of a step the second derivative is at most a few slopes^2 / growth:
            # 1e-9 times ratios of growths of up to 1e4 here
            assert schedule.beta(t).item() == pytest.approx(slope, rel=1e-4, abs=0), (n, side)
    ends = schedule.beta(torch.tensor([1.0, 0.0], dtype=F64)).tolist()
    if schedule.steps == 1:
        assert ends == pytest.approx([growth[0]] * 2, rel=1e-14, abs=0)
    else:
        first, last = growth[0] ** 1.5 / growth[1] ** 0.5, growth[-1] ** 1.5 / growth[-2] ** 0.5
        expected = [schedule.steps * first, schedule.steps * last]
        assert ends == pytest.approx(expected, rel=1e-13, abs=0)


@every
def test_derivatives_equal_finite_differences(betas):
    schedule = DiscreteVP(betas)
    # The middles of the first and last 50 steps, and places between middle and ends.
    cells = torch.cat([steps_of(schedule)[:-1][:50], steps_of(schedule)[:-1][-50:]]).unique()
    n = torch.cat([cells + 0.5, cells + 0.2, cells + 0.9]).to(F64)
    t, h = schedule.time_of_step(n), 5e-7  # 1 / 2000 of a step, or less
    for value, derivative in [
        (schedule.alpha, schedule.d_alpha),
        (schedule.sigma, schedule.d_sigma),
        (schedule.half_log_snr, lambda t: schedule.beta(t) / (2 * schedule.sigma(t) ** 2)),
    ]:
        # Fourth order: h is at most 1 / 200 of the distance to the next place where a derivative
        # jumps or is infinite, so the formula's error is below 1e-10 of the result. Four values,
        # with weights that sum to 1.5, are rounded by a few eps, and so are the times.
        difference = 8 * (value(t + h) - value(t - h)) - (value(t + 2 * h) - value(t - 2 * h))
        error = (difference / (12 * h) - derivative(t)).abs()
        noise = EPS / h * (6 * (1 + value(t).abs()) + 1.5 * derivative(t).abs())
        assert bool((error <= noise + 1e-10 * derivative(t).abs()).all())


@every
def test_derivatives_equal_autograd_in_every_step(betas):
    schedule = DiscreteVP(betas)
    n = torch.cat([steps_of(schedule)[:-1] + u for u in (0.01, 0.5, 0.99)]).to(F64)
    t = schedule.time_of_step(n).requires_grad_()
    for value, derivative in [
        (schedule.alpha, schedule.d_alpha),
        (schedule.sigma, schedule.d_sigma),
        (schedule.half_log_snr, lambda t: schedule.beta(t) / (2 * schedule.sigma(t) ** 2)),
    ]:
        (expected,) = torch.autograd.grad(value(t).sum(), t)
        # Autograd differentiates the quotient, whose two terms cancel by up to ratios of slopes
        # (100 here) where the closed form has positive terms only; and it makes the factor exp(-b)
        # of d_sigma by adding 1 to expm1(-b), which has an absolute rounding.
        slack = 1e-11 * expected.abs() + EPS * schedule.beta(t)
        assert bool(((derivative(t) - expected).abs() <= slack).all())


@every
def test_half_log_snr_increases_within_and_across_steps(betas):
    schedule = DiscreteVP(betas)
    n = torch.linspace(0, schedule.steps, 20 * schedule.steps + 1, dtype=F64).flip(0)
    lam = schedule.half_log_snr(schedule.time_of_step(n))
    assert bool((lam[1:] > lam[:-1]).all())


@every
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_half_log_snr_and_back(betas, dtype):
    schedule = DiscreteVP(betas)
    n = torch.linspace(0, schedule.steps, 10 * min(schedule.steps, 100) + 1, dtype=F64)
    t = schedule.time_of_step(n, dtype)
    lam = schedule.half_log_snr(t)
    slope = schedule.beta(t) / (2 * schedule.sigma(t) ** 2)
    # lambda is rounded by eps |lambda| / 2, which is divided by its slope; the time is rounded by
    # eps / 4; float64 adds a few roundings of a step and of lambda
    eps = torch.finfo(dtype).eps
    slack = eps * (1 + (8 if dtype == F64 else 1) * (1 + lam.abs()) / slope)
    back = schedule.inverse_half_log_snr(lam)
    assert back.dtype == dtype and back[0] == 1.0
    assert bool(((back - t).abs() <= slack.nan_to_num(eps)).all())


@given(betas=st.lists(st.floats(1e-4, 0.999), min_size=1, max_size=8), u=st.floats(0, 1))
def test_any_betas_give_a_schedule(betas, u):
    schedule = DiscreteVP(betas)
    n = torch.cat([torch.arange(schedule.steps) + u, torch.arange(schedule.steps + 1)]).to(F64)
    t = schedule.time_of_step(n.sort(descending=True).values)
    lam, beta = schedule.half_log_snr(t), schedule.beta(t)
    assert bool((beta > 0).all()) and bool(torch.isfinite(beta).all())
    assert bool((lam[1:] >= lam[:-1])[t[1:] > t[:-1]].all())
    inner = t < 1
    # growths between 1e-4 and 6.9 have slopes of up to sqrt(7e4) = 263 times the growth of a step
    # at an inner end, and 7e4^(1/2) at an outer one: a rounding in the step is lambda' as large
    slope = (beta / (2 * schedule.sigma(t) ** 2))[inner]
    error = (schedule.half_log_snr(schedule.inverse_half_log_snr(lam)) - lam)[inner].abs()
    assert bool((error <= 300 * EPS * (1 + lam[inner].abs() + slope)).all())


def test_the_inverse_is_differentiable_everywhere():
    schedule = DiscreteVP(BETAS["uneven"])
    n = torch.cat([steps_of(schedule)[1:-1].to(F64), torch.linspace(0.1, 5.9, 59, dtype=F64)])
    t = schedule.time_of_step(n)
    lam = schedule.half_log_snr(t).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.inverse_half_log_snr(lam).sum(), lam)
    expected = 2 * schedule.sigma(t) ** 2 / schedule.beta(t)
    # at the steps themselves a rounding decides which side is differentiated: 1e-16 of a step on
    # the scale of the second derivative, which ratios of growths of 1e4 multiply
    assert torch.allclose(slope, expected, rtol=1e-9)


def test_the_spline_converges_to_the_squared_cosine():
    """-log alpha_bar is known between the steps, too; the error falls like T^-3."""

    def log_alpha(r):
        return torch.cos((r + 0.008) / 1.008 * math.pi / 2).log()

    r = torch.linspace(0.2, 0.8, 997, dtype=F64)
    exact = log_alpha(r) - log_alpha(torch.zeros((), dtype=F64))
    errors = [
        (DiscreteVP(cosine_betas(steps)).alpha(1 - r).log() - exact).abs().max().item()
        for steps in (80, 160, 320)
    ]
    # The slopes, geometric means of differences, have an error of second order in the width of a
    # step, which a step multiplies by its width.
    orders = [math.log2(errors[k] / errors[k + 1]) for k in range(2)]
    assert all(2.9 < order < 3.3 for order in orders) and errors[-1] < 1e-7


def test_ddpm_is_close_to_vp():
    """T beta_n goes from 0.1 to 20, as beta of `VP`; what differs is of first order in 1 / T."""
    schedule, t = DiscreteVP(BETAS["linear"]), torch.linspace(0, 1, 1001, dtype=F64)
    b = [-2 * s.alpha(t).log() for s in (schedule, VP())]
    # b_n - B(n / T) = sum(beta + beta^2 / 2 + ...) - B: the sum of the betas is the trapezoidal
    # sum but for the half ends, (n beta_T / T + ...) / 2 < 0.005 n / T; sum beta^2 / 2 < 0.068
    assert (b[0] - b[1]).abs().max() < 0.075
    assert (schedule.alpha(t) - VP().alpha(t)).abs().max() < 2e-3


def test_the_clean_end():
    """sigma falls to 0 like sqrt(beta (1 - t)) in the last interval, as that of `VP` does."""
    schedule = DiscreteVP(BETAS["linear"])
    one = torch.tensor(1.0, dtype=F64)
    assert schedule.d_sigma(one).item() == -math.inf
    assert schedule.half_log_snr(one).item() == math.inf
    beta = schedule.beta(one)
    assert schedule.d_alpha(one).item() == 0.5 * beta.item()
    r = torch.tensor([2.0**-40, 2.0**-30, 2.0**-20], dtype=F64)
    # the next term of b is of relative size r T, about 1 / 10 of it here (beta grows by a fifth)
    ratio = schedule.sigma(1 - r) / torch.sqrt(beta * r)
    assert bool(((ratio - 1).abs() < 0.2 * r * schedule.steps + 1e-12).all())
    velocity = GaussianPath(schedule).sample(torch.ones(1, 2), 1.0, torch.ones(1, 2))
    with pytest.raises(ValueError, match="sigma' is not finite at t = 1 under DiscreteVP"):
        _ = velocity.velocity


# -- what is built on schedules -----------------------------------------------------------------


@pytest.mark.parametrize("other", [VP(), Cosine(), CondOT(), SubVP()], ids=lambda s: s.name)
@pytest.mark.parametrize("name", ["linear", "scaled linear", "cosine"])
def test_change_of_schedule(name, other):
    schedule = DiscreteVP(BETAS[name])
    t = torch.linspace(0.3, 1, 50, dtype=F64)
    r, scale = change_of_schedule(t, source=other, target=schedule)
    assert torch.allclose(scale * other.alpha(r), schedule.alpha(t), rtol=1e-12)
    # near the data sigma of the other is read off 1 - r, which has an absolute rounding
    assert torch.allclose(scale * other.sigma(r), schedule.sigma(t), rtol=1e-12, atol=1e-13)
    back, inverse = change_of_schedule(r, source=schedule, target=other)
    assert torch.allclose(back, t, atol=1e-12) and torch.allclose(inverse * scale, scale**0)
    assert r[-1] == 1.0 and scale[-1] == 1.0


def test_the_noise_levels_of_ddpm_in_edms_terms():
    """sigma / alpha of step n is sqrt(1 / alpha_bar - 1), on EDM's schedule up to sigma_max."""
    schedule, exact = DiscreteVP(BETAS["linear"]), alpha_bars(BETAS["linear"])
    n = torch.tensor([1, 10, 100, 500, 900])
    r, scale = change_of_schedule(schedule.time_of_step(n, F64), source=EDM(), target=schedule)
    expected = [float(mpmath.sqrt(1 / exact[k] - 1)) for k in n.tolist()]
    assert EDM().sigma(r).tolist() == pytest.approx(expected, rel=1e-12, abs=0)
    assert torch.allclose(scale, schedule.alpha(schedule.time_of_step(n, F64)), rtol=1e-12)
    with pytest.raises(ValueError, match="half_log_snr must lie in"):  # 157 > 80 at n = T
        change_of_schedule(torch.tensor(0.0), source=EDM(), target=schedule)


@pytest.mark.parametrize(
    "schedule",
    [EDM(), DiscreteVP(BETAS["linear"]), DiscreteVP(BETAS["cosine"])],
    ids=["EDM", "linear", "cosine"],
)
@pytest.mark.parametrize("t", [0.05, 0.4995, 0.95])
def test_all_pairs_of_predictions(schedule, t):
    field = ExactField(laboratory(), GaussianPath(schedule))
    x = torch.randn(16, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    time = torch.tensor(t, dtype=F64)
    data, noise = field.denoise(x, t), field.noise(x, t)
    known = {
        "data": data,
        "noise": noise,
        "score": field.score(x, t),
        "velocity": field.velocity(x, t),
        "v": schedule.alpha(time) * noise - schedule.sigma(time) * data,
    }
    for source, target in itertools.product(known, known):
        made = convert(known[source], x, t, source=source, target=target, schedule=schedule)
        # the worst condition number is sigma^2 = 5e3 of EDM at t = 0.05, from its score to its data
        scale = max(1.0, known[target].abs().max().item())
        assert (made - known[target]).abs().max() < 1e-10 * scale, (source, target)


def test_value_semantics():
    schedule = DiscreteVP(BETAS["short"])
    before = hash(schedule)
    schedule.alpha(0.5)  # computes what it keeps
    same = DiscreteVP(BETAS["short"].tolist())
    assert schedule == same and before == hash(schedule) == hash(same)
    assert schedule != DiscreteVP(BETAS["short"].flip(0))
    assert copy.deepcopy(schedule) == pickle.loads(pickle.dumps(schedule)) == schedule
    assert repr(schedule) == "DiscreteVP(7 betas from 0.3 to 0.01)"


def test_first_use_in_inference_mode():
    """What was computed without autograd must not stand in its way afterwards."""
    schedule = DiscreteVP(BETAS["short"])
    with torch.inference_mode():
        schedule.sigma(0.5)
    t = torch.tensor([0.3], dtype=F64, requires_grad=True)
    schedule.sigma(t).sum().backward()
    assert t.grad.item() == pytest.approx(schedule.d_sigma(t).item(), rel=1e-12, abs=0)


def test_a_record_builds_the_schedule_again():
    for schedule in (DiscreteVP(BETAS["cosine"]), EDM(rho=5.0)):
        spec = json.loads(json.dumps(checkpoints.describe_schedule(schedule)))
        assert checkpoints.build_schedule(spec) == schedule
