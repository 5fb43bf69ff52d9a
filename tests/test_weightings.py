"""Loss weights: the papers' formulas in many digits, conversions between kinds, end points."""

import itertools
import math

import mpmath
import pytest
import torch
from scipy.integrate import quad

from fromnoise.predictions import convert
from fromnoise.schedules import VE, VP, CondOT, Cosine, SubVP
from fromnoise.weightings import (
    EDM,
    SNR,
    MinSNR,
    PerHalfLogSNR,
    Sigmoid,
    TruncatedSNR,
    Uniform,
    error_ratio,
)

ALL = [CondOT(), Cosine(), VP(), SubVP(), VE()]
KINDS = ["data", "noise", "score", "velocity", "v"]
F64 = torch.float64
named = pytest.mark.parametrize("schedule", ALL, ids=lambda s: s.name)


@named
@pytest.mark.parametrize("t", [0.02, 0.5, 0.98])
def test_error_ratio_is_what_conversion_does_to_errors(schedule, t):
    """Convert a prediction and a disturbed one: their difference is the converted error."""
    g = torch.Generator().manual_seed(0)
    x, prediction, error = (torch.randn(8, 2, dtype=F64, generator=g) for _ in range(3))
    time = torch.tensor(t, dtype=F64)
    for kind, of in itertools.product(KINDS, KINDS):
        made = [
            convert(p, x, t, source=kind, target=of, schedule=schedule)
            for p in (prediction, prediction + error)
        ]
        expected = error_ratio(of, kind, time, schedule) * error
        # a difference of two numbers of the size of `made`, each good to a few roundings, which the
        # conversion of VE's noise (sigma up to 42) and score amplifies by up to 1e4
        slack = 1e-11 * (made[0].abs().max() + 1.0)
        assert (made[1] - made[0] - expected).abs().max() < slack, (kind, of)


def paper(name):
    """w of the data prediction, in alpha and sigma, as the papers print it."""
    return {
        "constant": lambda a, s: mpmath.mpf(1),
        "snr": lambda a, s: a**2 / s**2,
        "truncated": lambda a, s: max(a**2 / s**2, mpmath.mpf(1)),
        "min": lambda a, s: min(a**2 / s**2, mpmath.mpf(5)),
        # EDM's noise level is that of x / alpha
        "edm": lambda a, s: (
            ((s / a) ** 2 + mpmath.mpf("0.25")) / ((s / a) * mpmath.mpf("0.5")) ** 2
        ),
        # stated for the noise, with the full log-SNR; |e_D|^2 SNR = |e_eps|^2
        "sigmoid": lambda a, s: a**2 / s**2 / (1 + mpmath.exp(2 * mpmath.log(a / s) + 3)),
    }[name]


WEIGHTINGS = {
    "constant": Uniform("data"),
    "snr": SNR(),
    "truncated": TruncatedSNR(),
    "min": MinSNR(),
    "edm": EDM(),
    "sigmoid": Sigmoid(-3.0),
}

# How the squared error of the data shows in the other predictions, from their usual definitions:
# eps = (x - alpha D) / sigma, s = (alpha D - x) / sigma^2, and on CondOT u = (D - x) / (1 - t) and
# v = alpha eps - sigma D = alpha x / sigma - (alpha^2 + sigma^2) D / sigma.
FROM_DATA = {
    "data": lambda a, s: 1,
    "noise": lambda a, s: (a / s) ** 2,
    "score": lambda a, s: (a / s**2) ** 2,
    "velocity": lambda a, s: 1 / s**2,
    "v": lambda a, s: ((a**2 + s**2) / s) ** 2,
}


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_formulas_in_thirty_digits(name, kind, dtype):
    t = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.69, 0.9, 1.0 - 2.0**-20], dtype=dtype)
    weights = WEIGHTINGS[name].weight(kind, t, CondOT())
    assert weights.dtype == dtype and weights.shape == t.shape
    eps = torch.finfo(dtype).eps
    with mpmath.workdps(30):
        for time, weight in zip(t.tolist(), weights.tolist(), strict=True):
            # 1 - t as the schedule rounds it, at most half an eps away
            alpha = mpmath.mpf(time)
            sigma = mpmath.mpf((1.0 - torch.tensor(time, dtype=dtype)).item())
            known = paper(name)(alpha, sigma) / FROM_DATA[kind](alpha, sigma)
            # |log alpha|, |log sigma| <= 14, doubled in the exponent, each rounded once or twice
            assert abs(weight - known) < 100 * eps * known, time


@pytest.mark.parametrize("schedule", [Cosine(), VP()], ids=lambda s: s.name)
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_of_v_where_variance_is_preserved(schedule, gamma):
    """min(SNR, gamma) / (SNR + 1), the factor in the authors' public code."""
    t = torch.linspace(0.05, 0.95, 19, dtype=F64)
    snr = torch.exp(2 * schedule.half_log_snr(t))
    expected = torch.minimum(snr, torch.tensor(gamma, dtype=F64)) / (snr + 1)
    assert torch.allclose(MinSNR(gamma).weight("v", t, schedule), expected, rtol=1e-10, atol=0)


@named
@pytest.mark.parametrize("kind", KINDS)
def test_limits_of_min_snr(schedule, kind):
    t = torch.linspace(0.05, 0.95, 19, dtype=F64)

    def weight(weighting):
        return weighting.weight(kind, t, schedule)

    # The SNR lies between e^-10 and e^10 here: a large gamma cuts nothing, a small one everything.
    assert torch.equal(weight(MinSNR(1e30)), weight(SNR()))
    low = weight(MinSNR(1e-30)) / 1e-30
    assert torch.allclose(low, weight(Uniform("data")), rtol=1e-10, atol=0)
    # max(a, 1) + min(a, 1) = a + 1
    both = weight(TruncatedSNR()) + weight(MinSNR(1.0))
    assert torch.allclose(both, weight(SNR()) + weight(Uniform("data")), rtol=1e-10, atol=0)
    assert torch.allclose(weight(SNR()), weight(Uniform("noise")), rtol=1e-10, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_undoes_its_preconditioning(sigma_data):
    """D = c_skip x + c_out F, c_out = s sigma_data / sqrt(s^2 + sigma_data^2): w c_out^2 = 1."""
    t = torch.linspace(0.01, 0.99, 21, dtype=F64)
    s = (1 - t) / t
    c_out = s * sigma_data / torch.hypot(s, torch.tensor(sigma_data, dtype=F64))
    weight = EDM(sigma_data).weight("data", t, CondOT())
    assert torch.allclose(weight * c_out**2, torch.ones_like(t), rtol=1e-12, atol=0)


@named
@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
def test_per_half_log_snr_integrates_over_lambda(schedule, bias):
    """The integral over t of the noise's weight is that over lambda, whatever the schedule."""
    low, high = -2.0, 2.5
    ends = schedule.inverse_half_log_snr(torch.tensor([low, high], dtype=F64))
    weighting = PerHalfLogSNR(Sigmoid(bias))

    def weight(t):
        return weighting.weight("noise", torch.tensor(t, dtype=F64), schedule).item()

    def softplus(z):
        return math.log1p(math.exp(z))

    expected = 0.5 * (softplus(bias - 2 * low) - softplus(bias - 2 * high))
    assert quad(weight, *ends.tolist(), epsabs=1e-11)[0] == pytest.approx(expected, abs=1e-9)


FINITE = [  # weighting, kind, end point, limit on CondOT
    (SNR(), "noise", 0.0, 1.0),
    (SNR(), "score", 1.0, 0.0),
    (SNR(), "velocity", 0.0, 0.0),
    (SNR(), "velocity", 1.0, 1.0),
    (SNR(), "v", 1.0, 1.0),
    (TruncatedSNR(), "data", 0.0, 1.0),
    (TruncatedSNR(), "noise", 1.0, 1.0),
    (TruncatedSNR(), "velocity", 0.0, 1.0),
    (TruncatedSNR(), "velocity", 1.0, 1.0),
    (MinSNR(), "noise", 0.0, 1.0),
    (MinSNR(), "score", 0.0, 1.0),
    (MinSNR(), "data", 1.0, 5.0),
    (MinSNR(), "v", 1.0, 0.0),
    (EDM(), "velocity", 0.0, 4.0),
    (EDM(), "noise", 1.0, 1.0),
    (Sigmoid(1.0), "noise", 0.0, 1.0),
    (Sigmoid(1.0), "data", 1.0, math.e),
    (Sigmoid(1.0), "velocity", 1.0, 0.0),
    (Uniform("noise"), "score", 0.0, 1.0),
    (Uniform("velocity"), "noise", 1.0, 1.0),
    (Uniform("velocity"), "data", 0.0, 1.0),
]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("weighting", "kind", "t", "limit"), FINITE)
def test_finite_at_the_end_points(weighting, kind, t, limit, dtype):
    weight = weighting.weight(kind, torch.tensor([t], dtype=dtype), CondOT())
    assert weight.item() == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize(
    ("weighting", "kind", "t"),
    [
        (TruncatedSNR(), "noise", 0.0),
        (EDM(), "noise", 0.0),
        (SNR(), "data", 1.0),
        (EDM(), "data", 1.0),
        (Uniform("noise"), "data", 1.0),
        (Uniform("data"), "noise", 0.0),
        (PerHalfLogSNR(SNR()), "noise", 0.0),
    ],
)
def test_infinite_weights_are_infinite_not_undefined(weighting, kind, t):
    assert weighting.weight(kind, torch.tensor([t]), CondOT()).item() == math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_in_its_own_kind_is_exactly_one(kind):
    t = torch.tensor([0.0, 0.3, 1.0]).reshape(3, 1, 1)
    assert torch.equal(Uniform(kind).weight(kind, t, VP()), torch.ones(3, 1, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinSNR(0.0), "gamma must be positive.*0.0"),
        (lambda: MinSNR(math.inf), "gamma"),
        (lambda: EDM(-0.5), "sigma_data must be positive.*-0.5"),
        (lambda: Sigmoid(math.nan), "bias must be finite"),
        (lambda: SNR().weight("velocitee", torch.tensor(0.5), CondOT()), "kind must be one of"),
        (lambda: SNR().weight("data", torch.tensor(1.5), CondOT()), r"must lie in \[0, 1\]"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
