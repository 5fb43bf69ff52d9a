"""Checks of the chapter on parameterizations."""

from __future__ import annotations

import itertools
from fractions import Fraction
from functools import cache

import mpmath
import sympy
import torch
from mpmath import mp
from sympy import (
    Function,
    Integer,
    Matrix,
    Rational,
    Symbol,
    cancel,
    cosh,
    diff,
    exp,
    integrate,
    log,
    pi,
    sqrt,
    symbols,
    tanh,
)

from fromnoise.derivations.checking import check, claims

KINDS = ("data", "noise", "score", "velocity", "v")
PAIRS = list(itertools.permutations(KINDS, 2))

t = Symbol("t", positive=True)
a, sg, da, ds = symbols("alpha sigma d_alpha d_sigma", positive=True)
X, E, r, x = symbols("X epsilon r x", real=True)
lam = Symbol("lambda", real=True)


def _pair(kind, alpha, sigma, d_alpha, d_sigma):
    """The coefficients (a, b) of a prediction a D + b eps, from its definition."""
    return {
        "data": (1, 0),
        "noise": (0, 1),
        "score": (0, -1 / sigma),
        "velocity": (d_alpha, d_sigma),
        "v": (-sigma, alpha),
    }[kind]


MULTIPLES = claims(
    data=lambda a, sg, da, ds: -sg,
    noise=lambda a, sg, da, ds: a,
    score=lambda a, sg, da, ds: -a / sg,
    velocity=lambda a, sg, da, ds: -a * sg * (da / a - ds / sg),
    v=lambda a, sg, da, ds: a**2 + sg**2,
    ratio=lambda mine, other: other / mine,
)


@check(
    "prp-error-multiples",
    claim=MULTIPLES,
    mutants={
        "the score's multiple without sigma": MULTIPLES.but(score=lambda a, sg, da, ds: -a),
        "a minus in v": MULTIPLES.but(v=lambda a, sg, da, ds: a**2 - sg**2),
        "the velocity's multiple without alpha": MULTIPLES.but(
            velocity=lambda a, sg, da, ds: -sg * (da / a - ds / sg)
        ),
        "the ratio upside down": MULTIPLES.but(ratio=lambda mine, other: mine / other),
        "data and noise with one sign": MULTIPLES.but(data=lambda a, sg, da, ds: sg),
    },
    covers="all twenty pairs, every alpha, sigma, their derivatives, point and error; in one "
    "coordinate",
    omits="nothing: the coordinates do not interact",
)
def error_multiples(steps, claim):
    """Two pairs (D, eps) at one x, subtracted; every kind from its definition."""
    D, off = symbols("D delta", real=True)
    true, made = (D, (x - a * D) / sg), (D + off, (x - a * (D + off)) / sg)
    error = {}
    for kind in KINDS:
        A, B = _pair(kind, a, sg, da, ds)
        error[kind] = A * (made[0] - true[0]) + B * (made[1] - true[1])
    size = -off / sg  # r
    for kind in KINDS:
        multiple = getattr(claim, kind)(a, sg, da, ds)
        steps.equal(f"the error of {kind} is its multiple of r", error[kind], multiple * size)
    for kind, of in PAIRS:
        ratio = claim.ratio(*(getattr(claim, k)(a, sg, da, ds) for k in (kind, of)))
        steps.equal(f"the error of {of} from that of {kind}", error[of], ratio * error[kind])


p, q = symbols("p q", positive=True)
REGULAR = (t * (p + (1 - p) * t), (1 - t) * (1 + q * t))  # alpha'_0 = p, sigma'_1 = -(1 + q)


@cache
def _conversion(source, target):
    """The factors of the prediction and of x, by solving the two equations."""
    alpha, sigma = REGULAR
    slopes = diff(alpha, t), diff(sigma, t)
    A, B = _pair(source, alpha, sigma, *slopes)
    C, D = _pair(target, alpha, sigma, *slopes)
    inverse = Matrix([[A, B], [alpha, sigma]]).inv()
    row = Matrix([[C, D]]) * inverse
    return tuple(sympy.fraction(cancel(e)) for e in row)


@cache
def _order_and_value(source, target, which, end):
    """The order of the pole (0: none) and the limit, or the factor of the pole, at an end."""
    numerator, denominator = _conversion(source, target)[which]
    h = Symbol("h", positive=True)
    at = h if end == 0 else 1 - h
    lowest = []
    for part in (numerator, denominator):
        terms = sympy.Poly(sympy.expand(part.subs(t, at)), h).terms()
        lowest.append(min(((power[0], factor) for power, factor in terms), default=(99, 0)))
    (top, above), (bottom, below) = lowest
    if numerator == 0 or top > bottom:
        return 0, Integer(0)
    return bottom - top, cancel(above / below)


def _ends(slope_0, slope_1):
    """At both ends, which kinds are one another's multiple, and the kinds' multiples there."""
    return claims(
        carriers={0: ("data", "velocity", "v"), 1: ("noise", "velocity", "v")},
        multiple={
            0: {"data": -1, "velocity": -slope_0, "v": 1},
            1: {"noise": 1, "velocity": slope_1, "v": 1},
        },
        point={0: {"noise": 1, "score": -1}, 1: {"data": 1}},
        pole=claims(
            first=lambda target: 1,  # from noise or score, at t = 0
            last=lambda target: 2 if target == "score" else 1,  # from the data, at t = 1
            score=1,  # to the score from a carrier, at t = 1
        ),
        from_score={"data": 1, "noise": 0, "velocity": lambda: 2 - p, "v": 0},
    )


ENDS = _ends(p, -(1 + q))


@check(
    "prp-conversion-ends",
    claim=ENDS,
    mutants={
        "the noise determines the data at t = 0": ENDS.but(
            carriers={0: ("data", "noise", "v"), 1: ("noise", "velocity", "v")},
            multiple={
                0: {"data": -1, "noise": 1, "v": 1},
                1: {"noise": 1, "velocity": -(1 + q), "v": 1},
            },
        ),
        "the slope of sigma without its sign": _ends(p, 1 + q),
        "the slope of alpha forgotten": _ends(1, -(1 + q)),
        "the score is the point at t = 0, with a plus": ENDS.but(
            point={0: {"noise": 1, "score": 1}, 1: {"data": 1}}
        ),
        "the score from the data has a simple pole": ENDS.but(
            pole=ENDS.pole.but(last=lambda target: 1)
        ),
        "the data from the score is 0": ENDS.but(
            from_score={"data": 0, "noise": 0, "velocity": lambda: 2 - p, "v": 0}
        ),
    },
    covers="all twenty conversions at both ends, for a family of schedules with every slope "
    "alpha'_0 > 0 and sigma'_1 < 0",
    omits="schedules outside the family: the limits depend on values and slopes at the ends only",
)
def conversion_ends(steps, claim):
    """Lowest powers of the distance to the end, of the factors found by solving two equations."""
    for end, carriers in claim.carriers.items():
        for source, target in itertools.permutations(carriers, 2):
            order, value = _order_and_value(source, target, 0, end)
            steps.equal(f"t = {end}, {source} to {target}: no pole", order)
            steps.equal(
                f"t = {end}, {source} to {target}: the limit of the factor",
                value,
                sympy.sympify(claim.multiple[end][target]) / claim.multiple[end][source],
            )
        for target, sign in claim.point[end].items():
            for source in carriers:
                kept, added = (_order_and_value(source, target, which, end) for which in (0, 1))
                steps.equal(
                    f"t = {end}, {source} to {target}: the point itself, times {sign}",
                    [kept[0], kept[1], added[0], added[1]],
                    [0, 0, 0, sign],
                )
    for source, target in itertools.product(("noise", "score"), ("data", "velocity", "v")):
        order = _order_and_value(source, target, 0, 0)[0]
        steps.equal(f"t = 0, {source} to {target}: the pole", order, claim.pole.first(target))
    for target in ("noise", "velocity", "v", "score"):
        order = _order_and_value("data", target, 0, 1)[0]
        steps.equal(f"t = 1, data to {target}: the pole", order, claim.pole.last(target))
    for source in ("noise", "velocity", "v"):
        order = _order_and_value(source, "score", 0, 1)[0]
        steps.equal(f"t = 1, {source} to score: the pole", order, claim.pole.score)
    for target, limit in claim.from_score.items():
        kept, added = (_order_and_value("score", target, which, 1) for which in (0, 1))
        limit = limit() if callable(limit) else limit
        steps.equal(
            f"t = 1, score to {target}: nothing of the score is left",
            [kept[0], kept[1], added[0], added[1]],
            [0, 0, 0, limit],
        )


ROUNDING = claims(
    constant=lambda k: 4 * k + 10,
    bound=lambda keep, q, ad, bc, m, x: abs(keep * q) + (abs(ad) + abs(bc)) / abs(m) * abs(x),
)


def _float32_conversion(source, target, time, prediction, point):
    """The package's formula with every operation rounded to float32, and the exact result."""
    f = {"t": torch.tensor(time, dtype=torch.float32)}
    alpha, sigma = f["t"], 1 - f["t"]
    one = torch.ones(())
    A, B = (one * v for v in _pair(source, alpha, sigma, one, -one))
    C, D = (one * v for v in _pair(target, alpha, sigma, one, -one))
    determinant = A * sigma - B * alpha
    keep, add = (C * sigma - D * alpha) / determinant, (A * D - B * C) / determinant
    made = keep * torch.tensor(prediction, dtype=torch.float32) + add * torch.tensor(
        point, dtype=torch.float32
    )
    s = Fraction(f["t"].item())
    A, B = (Fraction(v) for v in _pair(source, s, 1 - s, Fraction(1), Fraction(-1)))
    C, D = (Fraction(v) for v in _pair(target, s, 1 - s, Fraction(1), Fraction(-1)))
    m = B * s - A * (1 - s)
    keep, terms = (D * s - C * (1 - s)) / m, (A * D, B * C)
    y, z = (Fraction(float(torch.tensor(v, dtype=torch.float32))) for v in (prediction, point))
    exact = keep * y + (terms[1] - terms[0]) / m * z
    return abs(Fraction(made.item()) - exact), (keep, y, *terms, m, z)


@cache
def _roundings():
    """Errors of all conversions at points that are no round numbers, in units of 2^-24."""
    found = []
    times = [0.001, 0.0123, 0.1, 0.301, 0.4999, 0.5003, 0.77, 0.9, 0.987, 0.999]
    values = [(0.0, 1.234567), (0.7654321, 0.0), (1.9, -0.31), (-0.1, 2.7), (1.1, 1.3), (-3.3, 0.2)]
    for (source, target), time, (y, z) in itertools.product(PAIRS, times, values):
        found.append(_float32_conversion(source, target, time, y, z))
    return found


@check(
    "prp-conversion-rounding",
    claim=ROUNDING,
    mutants={
        "without the point": ROUNDING.but(bound=lambda keep, q, ad, bc, m, x: abs(keep * q)),
        "without the prediction": ROUNDING.but(
            bound=lambda keep, q, ad, bc, m, x: (abs(ad) + abs(bc)) / abs(m) * abs(x)
        ),
        "the terms of the determinant without their moduli": ROUNDING.but(
            bound=lambda keep, q, ad, bc, m, x: abs(keep * q) + abs((bc - ad) / m * x)
        ),
        "without the division by m": ROUNDING.but(
            bound=lambda keep, q, ad, bc, m, x: abs(keep * q) + (abs(ad) + abs(bc)) * abs(x)
        ),
        "a twentieth of the constant": ROUNDING.but(constant=lambda k: Fraction(4 * k + 10, 20)),
    },
    covers="all twenty conversions on the straight path (k = 1) at ten times from 0.001 to 0.999 "
    "in float32, against rational arithmetic",
    omits="other schedules and precisions; the terms of second order",
)
def conversion_rounding(steps, claim):
    """The package's formula in float32 against rational numbers."""
    unit = Fraction(1, 2**24)
    worst = Fraction(0)
    for error, parts in _roundings():
        allowed = claim.constant(1) * unit * claim.bound(*parts)
        if allowed == 0:
            worst = max(worst, Fraction(0) if error == 0 else Fraction(10**6))
        else:
            worst = max(worst, error / allowed)
    steps.at_most(
        "the largest quotient of error and bound, of 1200 conversions",
        mpmath.mpf(worst.numerator) / worst.denominator,
        1,
    )


BEST = claims(
    amplification=lambda A, B, a, sg: sqrt(A**2 + B**2) * sqrt(a**2 + sg**2) / (B * a - A * sg),
    best=lambda a, sg: (-sg, a),
    straight=lambda time: sqrt(2) * sqrt(time**2 + (1 - time) ** 2),
    data=lambda a, sg: sqrt(a**2 + sg**2) / sg,
    noise=lambda a, sg: sqrt(a**2 + sg**2) / a,
)


@check(
    "prp-v-best",
    claim=BEST,
    mutants={
        "the other diagonal": BEST.but(best=lambda a, sg: (sg, a)),
        "without the size of the coefficients": BEST.but(
            amplification=lambda A, B, a, sg: sqrt(a**2 + sg**2) / (B * a - A * sg)
        ),
        "the straight path without the root of 2": BEST.but(
            straight=lambda time: sqrt(time**2 + (1 - time) ** 2)
        ),
        "data and noise swapped": BEST.but(
            data=lambda a, sg: sqrt(a**2 + sg**2) / a, noise=lambda a, sg: sqrt(a**2 + sg**2) / sg
        ),
    },
    covers="every combination a D + b eps, every alpha and sigma; v, the velocity of the straight "
    "path, data and noise",
    omits="nothing",
)
def v_best(steps, claim):
    """Errors of D and eps by solving the equations; the excess over 1 as a square."""
    A, B, delta = symbols("a b delta", real=True)
    inverse = Matrix([[A, B], [a, sg]]).inv()
    error = inverse * Matrix([delta, 0])  # of (D, eps), for an error delta of the prediction
    size = (error.T * error)[0] / delta**2
    found = size * (A**2 + B**2)
    steps.equal(
        "the squared amplification", cancel(found), cancel(claim.amplification(A, B, a, sg) ** 2)
    )
    steps.equal(
        "it exceeds 1 by a square over m²",
        cancel(claim.amplification(A, B, a, sg) ** 2 - 1),
        (A * a + B * sg) ** 2 / (B * a - A * sg) ** 2,
    )
    steps.equal(
        "the best: a square that vanishes", claim.amplification(*claim.best(a, sg), a, sg), 1
    )
    steps.equal(
        "the velocity of the straight path",
        cancel(found.subs({A: 1, B: -1, a: t, sg: 1 - t})),
        claim.straight(t) ** 2,
    )
    steps.equal("the data", found.subs({A: 1, B: 0}), claim.data(a, sg) ** 2)
    steps.equal("the noise", found.subs({A: 0, B: 1}), claim.noise(a, sg) ** 2)


WEIGHTS = claims(
    change=lambda weight, m, other: weight * (m / other) ** 2,
    noise=lambda w, a, sg: w * (sg / a) ** 2,
    score=lambda w, a, sg: w * sg**4 / a**2,
    v=lambda w, a, sg: w * sg**2 / (a**2 + sg**2) ** 2,
    velocity=lambda w, a, sg: w * sg**2 / (a * ds - sg * da) ** 2,
)


@check(
    "prp-loss-weights",
    claim=WEIGHTS,
    mutants={
        "the ratio upside down": WEIGHTS.but(
            change=lambda weight, m, other: weight * (other / m) ** 2
        ),
        "the ratio not squared": WEIGHTS.but(change=lambda weight, m, other: weight * m / other),
        "the noise's weight times the SNR": WEIGHTS.but(noise=lambda w, a, sg: w * (a / sg) ** 2),
        "the score's weight that of the noise": WEIGHTS.but(
            score=lambda w, a, sg: w * (sg / a) ** 2
        ),
        "v for a path that keeps variance": WEIGHTS.but(v=lambda w, a, sg: w * sg**2),
    },
    covers="one draw of every datum and noise, all twenty pairs, every weight; the derivative in a "
    "parameter",
    omits="nothing: expectations are over equal variables",
)
def loss_weights(steps, claim):
    """One draw, a network's output and its conversion; the squares and their derivatives."""
    w = Symbol("w", positive=True)
    theta = Symbol("theta", real=True)
    D = Function("D", real=True)(theta)
    place = a * X + sg * E
    guess, errors = (D, (place - a * D) / sg), {}
    for kind in KINDS:
        A, B = _pair(kind, a, sg, da, ds)
        errors[kind] = sympy.expand(A * (guess[0] - X) + B * (guess[1] - E))
    multiple = {}
    for kind in KINDS:
        A, B = _pair(kind, a, sg, da, ds)
        multiple[kind] = B * a - A * sg
    for kind, other in PAIRS:
        changed = claim.change(w, multiple[kind], multiple[other])
        steps.equal(
            f"the weight of {kind} and that of {other}: the loss of one draw",
            w * errors[kind] ** 2,
            changed * errors[other] ** 2,
        )
    for kind in ("noise", "score", "v", "velocity"):
        weight = getattr(claim, kind)(w, a, sg)
        steps.equal(
            f"the weight w of the data as one of {kind}: the derivative of the loss",
            diff(w * errors["data"] ** 2, theta),
            diff(weight * errors[kind] ** 2, theta),
        )


COMMON = claims(
    weight=lambda omega, m, alpha, density, rate: omega * (m / alpha) ** 2 * density / rate,
)


@check(
    "thm-common-loss",
    claim=COMMON,
    mutants={
        "times the rate": COMMON.but(
            weight=lambda omega, m, alpha, density, rate: omega * (m / alpha) ** 2 * density * rate
        ),
        "without the density": COMMON.but(
            weight=lambda omega, m, alpha, density, rate: omega * (m / alpha) ** 2 / rate
        ),
        "the multiple not squared": COMMON.but(
            weight=lambda omega, m, alpha, density, rate: omega * m / alpha * density / rate
        ),
        "the multiples upside down": COMMON.but(
            weight=lambda omega, m, alpha, density, rate: omega * (alpha / m) ** 2 * density / rate
        ),
    },
    covers="every schedule, weight, density and error for the integrand; the straight and the "
    "cosine path with three kinds, integrated over t and over lambda by quadrature",
    omits="that the integrals are finite",
)
def common_loss(steps, claim):
    """The substitution t to lambda, symbolically and by quadrature."""
    al, si = (Function(n, positive=True)(t) for n in ("alpha", "sigma"))
    omega, density = (Function(n, positive=True)(t) for n in ("omega", "p"))
    error = Function("e", positive=True)
    half = log(al / si)
    for kind in KINDS:
        A, B = _pair(kind, al, si, diff(al, t), diff(si, t))
        m = B * al - A * si
        by_time = density * omega * (m / al) ** 2 * error(half)  # |e_q| = |m / alpha| |e_eps|
        by_lambda = claim.weight(omega, m, al, density, diff(half, t)) * error(half) * diff(half, t)
        steps.equal(
            f"{kind}: the integrand in t is that in lambda times lambda'", by_time, by_lambda
        )
    with mp.workdps(20):
        low, high = mpmath.mpf(-1), mpmath.mpf("1.5")

        def loss(path, kind):
            alpha, sigma, d_alpha, d_sigma, inverse = path

            def integrand(s):
                A, B = _pair(kind, alpha(s), sigma(s), d_alpha(s), d_sigma(s))
                m = B * alpha(s) - A * sigma(s)
                rate = d_alpha(s) / alpha(s) - d_sigma(s) / sigma(s)
                half = mp.log(alpha(s) / sigma(s))
                # a density and a weight for which W = 1 / (1 + lambda²)
                density = 1 + s
                W = claim.weight(mpmath.mpf(1), m, alpha(s), density, rate)
                omega = 1 / (1 + half**2) / W
                return density * omega * (m / alpha(s)) ** 2 * (2 + mp.cos(half))

            return mp.quad(integrand, [inverse(low), inverse(high)])

        straight = (
            lambda s: s,
            lambda s: 1 - s,
            lambda s: mpmath.mpf(1),
            lambda s: mpmath.mpf(-1),
            lambda v: 1 / (1 + mp.exp(-v)),
        )
        cosine = (
            lambda s: mp.sin(mp.pi * s / 2),
            lambda s: mp.cos(mp.pi * s / 2),
            lambda s: mp.pi / 2 * mp.cos(mp.pi * s / 2),
            lambda s: -mp.pi / 2 * mp.sin(mp.pi * s / 2),
            lambda v: 2 / mp.pi * mp.atan(mp.exp(v)),
        )
        exact = mp.quad(lambda v: (2 + mp.cos(v)) / (1 + v**2), [low, high])
        for name, path in (("straight", straight), ("cosine", cosine)):
            for kind in ("data", "velocity", "v"):
                steps.close(
                    f"{name} path, {kind}: the loss over t with the weight that makes W = "
                    "1/(1 + lambda²), and the integral over lambda",
                    loss(path, kind),
                    exact,
                    tolerance=1e-15,
                    why="Gauss-Legendre in 20 digits",
                )


def _normal(v, mean, std):
    return exp(-((v - mean) ** 2) / (2 * std**2)) / (std * sqrt(2 * pi))


TABLE = claims(
    flow=lambda v: exp(-v),
    ddpm=lambda v: 1 / (pi * cosh(v)),
    v_cosine=lambda v: 2 / pi * exp(-v),
    edm=lambda v, c: _normal(v, Rational(6, 5), Rational(6, 5)) * (1 + exp(-2 * v) / c**2),
    sd3=lambda v: _normal(v, 0, 1) * (1 + exp(-v)) ** 2,
    ancestral=lambda v: 1,
    min_snr=lambda v, c: sympy.Min(1, c * exp(-2 * v)) / (pi * cosh(v)),
    truncated=lambda v: sympy.Max(1, exp(-2 * v)) / (pi * cosh(v)),
    sigmoid=lambda v, b: 1 / (1 + exp(2 * v - b)),
)


@check(
    "prp-common-weights",
    claim=TABLE,
    mutants={
        "flow matching with the other sign": TABLE.but(flow=exp),
        "the hyperbolic secant of twice lambda": TABLE.but(ddpm=lambda v: 1 / (pi * cosh(2 * v))),
        "v without the 2": TABLE.but(v_cosine=lambda v: exp(-v) / pi),
        "EDM with the SNR for its inverse": TABLE.but(
            edm=lambda v, c: _normal(v, Rational(6, 5), Rational(6, 5)) * (1 + exp(2 * v) / c**2)
        ),
        "the square lost in SD3": TABLE.but(sd3=lambda v: _normal(v, 0, 1) * (1 + exp(-v))),
        "the bound's weight a half": TABLE.but(ancestral=lambda v: Rational(1, 2)),
        "the truncated SNR of the data": TABLE.but(
            truncated=lambda v: sympy.Max(exp(2 * v), 1) / (pi * cosh(v))
        ),
        "the sigmoid of the data": TABLE.but(sigmoid=lambda v, b: 1 / (1 + exp(b - 2 * v))),
        "min-SNR of the data": TABLE.but(
            min_snr=lambda v, c: sympy.Min(exp(2 * v), c) / (pi * cosh(v))
        ),
    },
    covers="every row of the table, at every noise level",
    omits="nothing",
)
def common_weights(steps, claim):
    """From each loss as its paper states it: kind, weight, law of the times, schedule."""
    c = Symbol("c", positive=True)
    E_ = Symbol("E", positive=True)  # |eps_θ - eps|²
    straight_t = 1 / (1 + exp(-lam))
    angle = sympy.atan(exp(lam))  # pi t / 2 on the cosine path
    sin, cos = exp(lam) / sqrt(1 + exp(2 * lam)), 1 / sqrt(1 + exp(2 * lam))
    dt_straight, dt_cosine = diff(straight_t, lam), diff(2 * angle / pi, lam)

    data = (cos / sin) ** 2 * E_  # |e_D|² = e^{-2 lambda} |e_eps|² on any path
    velocity = E_ / straight_t**2  # straight path: u = D - eps, e_D = -(1-t)/t e_eps
    steps.equal("flow matching: uniform times", velocity * dt_straight, claim.flow(lam) * E_)
    steps.equal("noise, cosine path, uniform times", E_ * dt_cosine, claim.ddpm(lam) * E_)
    v_error = (sin + cos**2 / sin) ** 2 * E_  # v = alpha eps - sigma D
    steps.equal("v, cosine path, uniform times", v_error * dt_cosine, claim.v_cosine(lam) * E_)
    level = exp(-lam)  # EDM's sigma; log sigma normal with mean -1.2 and deviation 1.2
    weight = (level**2 + c**2) / (level * c) ** 2
    density = _normal(log(level), -Rational(6, 5), Rational(6, 5))
    steps.equal(
        "EDM", sympy.expand_log(density, force=True) * weight * data, claim.edm(lam, c) * E_
    )
    logit = log(straight_t / (1 - straight_t))
    of_times = _normal(logit, 0, 1) / (straight_t * (1 - straight_t))
    steps.equal(
        "the velocity with logit-normal times",
        sympy.simplify((of_times * dt_straight).subs(logit, lam)) * velocity,
        claim.sd3(lam) * E_,
    )
    snr = exp(2 * lam)
    steps.equal(
        "the variational bound: half d SNR / dt |e_D|² dt, in SNR",
        diff(snr, lam) / 2 * data,
        claim.ancestral(lam) * E_,
    )
    bias = Symbol("b", real=True)
    of_data = exp(bias) / (1 + exp(bias - 2 * lam))
    steps.equal(
        "the sigmoid, as exp(b) sigmoid(log SNR - b) of the data, per unit of lambda",
        of_data * data,
        claim.sigmoid(lam, bias) * E_,
    )
    for place in (Integer(-1), Rational(1, 3), Integer(2)):
        steps.close(
            f"truncated SNR, cosine path, at lambda = {place}",
            (sympy.Max(snr, 1) * data * dt_cosine).subs({lam: place, E_: 1}),
            claim.truncated(place),
            tolerance=1e-30,
            why="40 digits",
        )
    for value in (Rational(1, 2), Integer(5)):
        for place in (Integer(-1), Rational(1, 3), Integer(2)):
            steps.close(
                f"min-SNR with gamma = {value}, cosine path, at lambda = {place}",
                (sympy.Min(snr, value) * data * dt_cosine).subs({lam: place, E_: 1}),
                claim.min_snr(place, value),
                tolerance=1e-30,
                why="40 digits",
            )


KL = claims(
    factor=lambda rate, sg, g: (rate * sg**2 + g**2 / 2) ** 2 / (2 * g**2 * sg**2),
    best=lambda rate, sg: sg * sqrt(2 * rate),
    least=lambda rate: rate,
)


@check(
    "prp-kl-weight",
    claim=KL,
    mutants={
        "without the quarter of Young's inequality": KL.but(
            factor=lambda rate, sg, g: (rate * sg**2 + g**2 / 2) ** 2 / (4 * g**2 * sg**2)
        ),
        "the score's part left out": KL.but(
            factor=lambda rate, sg, g: (rate * sg**2) ** 2 / (2 * g**2 * sg**2)
        ),
        "the best g without the 2": KL.but(best=lambda rate, sg: sg * sqrt(rate)),
        "half the least": KL.but(least=lambda rate: rate / 2),
    },
    covers="the difference of the drifts for every schedule; the least factor over g; the "
    "derivative of the divergence and the bound for all centred Gaussians on the line with linear "
    "drifts",
    omits="laws that are not Gaussian: there the proof integrates by parts",
)
def kl_weight(steps, claim):
    """Drifts from the affine facts; Gaussians, whose divergence is explicit."""
    g, rate = symbols("g lambda'", positive=True)
    e = Symbol("e", real=True)  # error of the noise prediction
    slopes = {ds: sg * (da / a - rate)}
    velocity = da * (-sg / a * e) + ds.subs(slopes) * e  # error of u = alpha' D + sigma' eps
    drift = velocity + g**2 / 2 * (-e / sg)
    steps.equal(
        "|b - b_θ|² / (2 g²) for every error of the noise",
        drift**2 / (2 * g**2),
        claim.factor(rate, sg, g) * e**2,
    )
    steps.equal(
        "the factor is least where its derivative in g vanishes",
        diff(claim.factor(rate, sg, g), g).subs(g, claim.best(rate, sg)),
    )
    steps.equal("the least factor", claim.factor(rate, sg, claim.best(rate, sg)), claim.least(rate))
    steps.equal(
        "and the excess is a square",
        claim.factor(rate, sg, g) - claim.least(rate),
        (rate * sg**2 - g**2 / 2) ** 2 / (2 * g**2 * sg**2),
    )
    v, w = symbols("v w", positive=True)
    b, c = symbols("b c", real=True)  # drifts b x and c x
    divergence = (v / w - 1 - log(v / w)) / 2
    slope = diff(divergence, v) * (2 * b * v + g**2) + diff(divergence, w) * (2 * c * w + g**2)
    h = 1 / w - 1 / v  # gradient of log(p / q) is h x
    steps.equal(
        "Gaussians: the derivative of KL(p || q)",
        slope,
        (b - c) * h * v - g**2 / 2 * h**2 * v,
    )
    steps.equal(
        "and the bound less it is a square",
        (b - c) ** 2 * v / (2 * g**2) - slope,
        v * ((b - c) / g - g * h) ** 2 / 2,
    )


MONOTONE = claims(
    measure=lambda W, v: -diff(W, v),
    atom=lambda W, v, last: W.subs(v, last),
    law=lambda v, first: exp(-(v - first)),
)


@check(
    "thm-monotone-weight",
    claim=MONOTONE,
    mutants={
        "without the atom at the data": MONOTONE.but(atom=lambda W, v, last: 0),
        "the derivative with the other sign": MONOTONE.but(measure=lambda W, v: diff(W, v)),
        "the atom at the first level": MONOTONE.but(atom=lambda W, v, last: W.subs(v, 0)),
        "flow matching's law twice as fast": MONOTONE.but(
            law=lambda v, first: exp(-2 * (v - first))
        ),
    },
    covers="smooth weights on an interval with every error, as functions; steps as weights; the "
    "law of flow matching",
    omits="weights with jumps and a continuous part at once; that the measure is unique, which is "
    "proved in the text",
)
def monotone_weight(steps, claim):
    """Integration by parts, for concrete and for undefined functions."""
    first, last = Integer(0), Symbol("l", positive=True)
    W, M = Function("W", positive=True)(lam), Function("M", positive=True)(lam)
    # with M' the error and M(first) = 0: d(W M) = W M' + W' M
    steps.equal(
        "W e - (density of the measure) L is the derivative of W L",
        W * diff(M, lam) - claim.measure(W, lam) * M,
        diff(W * M, lam),
    )
    for name, weight, error in (
        ("e^{-lambda}, 1 + lambda²", exp(-lam), 1 + lam**2),
        ("1/(1 + lambda)², 1 + lambda", 1 / (1 + lam) ** 2, 1 + lam),
        ("2 - lambda/l, lambda", 2 - lam / last, lam),
    ):
        v = Symbol("v", positive=True)
        total = integrate(error.subs(lam, v), (v, first, lam))
        direct = integrate(sympy.simplify(weight * error), (lam, first, last))
        atom = claim.atom(weight, lam, last) * total.subs(lam, last)
        rest = integrate(sympy.simplify(claim.measure(weight, lam) * total), (lam, first, last))
        steps.equal(f"W, e = {name}: both integrals", direct, rest + atom)
    low = Symbol("l_0", real=True)
    steps.equal(
        "flow matching: the share of the measure above lambda is W(lambda) / W(lambda_0)",
        claim.law(lam, low),
        exp(-lam) / exp(-low),
    )


PRE = claims(
    skip=lambda a, sg, c: a * c**2 / (a**2 * c**2 + sg**2),
    out=lambda a, sg, c: sg * c / sqrt(a**2 * c**2 + sg**2),
    into=lambda a, sg, c: 1 / sqrt(a**2 * c**2 + sg**2),
    weight=lambda a, sg, c: 1 / c**2 + (a / sg) ** 2,
)
scale = Symbol("sigma_data", positive=True)


@check(
    "thm-preconditioning",
    claim=PRE,
    mutants={
        "the skip of alpha = 1": PRE.but(skip=lambda a, sg, c: c**2 / (a**2 * c**2 + sg**2)),
        "out without sigma_data": PRE.but(out=lambda a, sg, c: sg / sqrt(a**2 * c**2 + sg**2)),
        "into without the root": PRE.but(into=lambda a, sg, c: 1 / (a**2 * c**2 + sg**2)),
        "the weight with the inverse SNR": PRE.but(
            weight=lambda a, sg, c: 1 / c**2 + (sg / a) ** 2
        ),
    },
    covers="every alpha, sigma and sigma_data: the second moments, the unique minimum over c_skip, "
    "the orthogonality, the weight",
    omits="nothing",
)
def preconditioning(steps, claim):
    """Second moments per coordinate: E X² = sigma_data², E eps² = 1, E X eps = 0."""
    skip = Symbol("c_s", real=True)
    c = scale
    c_skip, c_out, c_in = (getattr(claim, n)(a, sg, c) for n in ("skip", "out", "into"))

    def moment(one, two):
        """E of a product of combinations (coefficient of X, coefficient of eps)."""
        return one[0] * two[0] * c**2 + one[1] * two[1]

    place = (a, sg)

    def rest(s):
        return (1 - s * a, -s * sg)  # X - s X_t

    steps.equal("the input has unit mean square", c_in**2 * moment(place, place), 1)
    size = moment(rest(skip), rest(skip))
    steps.equal("c_skip: the derivative of c_out² vanishes", diff(size, skip).subs(skip, c_skip))
    steps.equal(
        "and c_out² exceeds its least value by a square, so there is no other",
        size - size.subs(skip, c_skip),
        (a**2 * c**2 + sg**2) * (skip - c_skip) ** 2,
    )
    steps.equal("the effective target has unit mean square", size.subs(skip, c_skip), c_out**2)
    steps.equal("it is orthogonal to the input", moment(rest(c_skip), place))
    steps.equal("the weight is 1 / c_out²", claim.weight(a, sg, c) * c_out**2, 1)


IS_V = claims(
    inner=lambda a_, s_, z, e: -(a_ * e - s_ * z),
    alpha=lambda a, sg, c: a * c / sqrt(a**2 * c**2 + sg**2),
    sigma=lambda a, sg, c: sg / sqrt(a**2 * c**2 + sg**2),
)


@check(
    "prp-edm-is-v",
    claim=IS_V,
    mutants={
        "v itself": IS_V.but(inner=lambda a_, s_, z, e: a_ * e - s_ * z),
        "the noise": IS_V.but(inner=lambda a_, s_, z, e: -e),
        "sigma_data in the wrong place": IS_V.but(
            alpha=lambda a, sg, c: a / sqrt(a**2 * c**2 + sg**2)
        ),
    },
    covers="every draw, schedule and sigma_data; Gaussian data, for which the two are uncorrelated",
    omits="nothing",
)
def edm_is_v(steps, claim):
    """The effective target of EDM, one draw."""
    c, root = scale, sqrt(a**2 * scale**2 + sg**2)
    place = a * X + sg * E
    inner = (X - a * c**2 / root**2 * place) / (sg * c / root)
    new = claim.alpha(a, sg, c), claim.sigma(a, sg, c)
    steps.equal("the new schedule keeps variance", new[0] ** 2 + new[1] ** 2, 1)
    steps.equal("the input is its point", place / root, new[0] * X / c + new[1] * E)
    steps.equal("the effective target is minus its v", inner, claim.inner(*new, X / c, E))
    z = X / c
    covariance = sympy.Poly(sympy.expand((new[0] * z + new[1] * E) * claim.inner(*new, z, E)), X, E)
    moments = {(2, 0): c**2, (0, 2): 1, (1, 1): 0}
    steps.equal(
        "point and target are uncorrelated: Gaussian data leave nothing to predict",
        sum(factor * moments[power] for power, factor in covariance.terms()),
    )


SAME = claims(skip=lambda k, skip: skip / k, out=lambda k, out: out, into=lambda k, into: into / k)


@check(
    "prp-preconditioning-schedule",
    claim=SAME,
    mutants={
        "c_skip unchanged": SAME.but(skip=lambda k, skip: skip),
        "c_out divided": SAME.but(out=lambda k, out: out / k),
        "c_in multiplied": SAME.but(into=lambda k, into: into * k),
    },
    covers="every schedule and every factor",
    omits="nothing: two schedules at one noise level differ by a factor",
)
def preconditioning_schedule(steps, claim):
    """The formulas at (k alpha, k sigma)."""
    k, c = Symbol("k", positive=True), scale
    root = sqrt(a**2 * c**2 + sg**2)
    before = {"skip": a * c**2 / root**2, "out": sg * c / root, "into": 1 / root}
    for name, value in before.items():
        after = value.subs({a: k * a, sg: k * sg}, simultaneous=True)
        steps.equal(f"c_{name} at (k alpha, k sigma)", after, getattr(claim, name)(k, value))
    inner = Function("F", real=True)
    now = claims(**{n: getattr(claim, n)(k, v) for n, v in before.items()})
    steps.equal(
        "the denoiser at k x is the denoiser at x",
        now.skip * k * x + now.out * inner(sympy.simplify(now.into * k * x)),
        before["skip"] * x + before["out"] * inner(sympy.simplify(before["into"] * x)),
    )


LOGIT = claims(
    density=lambda s, m, d: (
        exp(-((log(s / (1 - s)) - m) ** 2) / (2 * d**2)) / (d * sqrt(2 * pi) * s * (1 - s))
    ),
    mode=lambda z, m, d: z - m - d**2 * tanh(z / 2),
    peak=lambda d: 4 / (d * sqrt(2 * pi)),
    critical=Integer(2),
)


@check(
    "prp-logit-normal",
    claim=LOGIT,
    mutants={
        "without the derivative of the logit": LOGIT.but(
            density=lambda s, m, d: (
                exp(-((log(s / (1 - s)) - m) ** 2) / (2 * d**2)) / (d * sqrt(2 * pi))
            )
        ),
        "the tangent of the whole logit": LOGIT.but(mode=lambda z, m, d: z - m - d**2 * tanh(z)),
        "the other sign": LOGIT.but(mode=lambda z, m, d: z - m + d**2 * tanh(z / 2)),
        "the critical variance 1": LOGIT.but(critical=Integer(1)),
        "half the peak": LOGIT.but(peak=lambda d: 2 / (d * sqrt(2 * pi))),
    },
    covers="the density, from the normal law; the equation of the modes and the critical variance",
    omits="nothing",
)
def logit_normal(steps, claim):
    """The change of variables; the derivative of the logarithm of the density."""
    m, z = symbols("m z", real=True)
    d = Symbol("s", positive=True)
    time = 1 / (1 + exp(-z))
    density = claim.density(time, m, d)
    steps.equal(
        "density in t times dt/dz is the normal density",
        density.subs(log(time / (1 - time)), z) * diff(time, z)
        if density.has(log(time / (1 - time)))
        else density * diff(time, z),
        exp(-((z - m) ** 2) / (2 * d**2)) / (d * sqrt(2 * pi)),
    )
    logarithm = -((z - m) ** 2) / (2 * d**2) - log(time) - log(1 - time)
    steps.equal(
        "the slope of its logarithm in the logit, times -s²",
        -(d**2) * diff(logarithm, z),
        claim.mode(z, m, d),
    )
    steps.equal("at m = 0 the middle is stationary", claim.mode(Integer(0), 0, d))
    steps.equal(
        "and a maximum until s² = 2: the slope of the equation there",
        diff(claim.mode(z, 0, d), z).subs(z, 0),
        1 - d**2 / claim.critical,
    )
    steps.equal("the density in the middle", claim.density(Rational(1, 2), 0, d), claim.peak(d))


STRATA = claims(
    between=lambda n: Rational(1, 12) / n**2,
    bound=lambda variation, n: variation**2 / n**2,
    total=lambda within, between, n: within / n + between,
)


@check(
    "prp-low-discrepancy",
    claim=STRATA,
    mutants={
        "independent draws": STRATA.but(between=lambda n: Rational(1, 12) / n),
        "the bound for the cube": STRATA.but(bound=lambda variation, n: variation**2 / n**3),
        "within not divided": STRATA.but(total=lambda within, between, n: within + between),
    },
    covers="the mean, the law of every draw and the variance for the mean u, for 1 to 4 draws; the "
    "bound for a step, u² and a wave with 1 to 64 draws; the split of the variance for two draws",
    omits="general functions, where the bound is proved by cells",
)
def low_discrepancy(steps, claim):
    """The offset integrated out exactly, stratum by stratum."""
    u = Symbol("u", real=True)
    for n in range(1, 5):
        mean, square = Integer(0), Integer(0)
        for k in range(n):  # offsets in [k/n, (k+1)/n): then the draws are (u + i/n) mod 1
            places = [u + Rational(i, n) - (1 if k + i >= n else 0) for i in range(n)]
            average = sum(places) / n
            limits = (u, Rational(k, n), Rational(k + 1, n))
            mean += integrate(average, limits)
            square += integrate(sympy.expand(average**2), limits)
        steps.equal(f"{n} draws: the mean is that of one uniform draw", mean, Rational(1, 2))
        steps.equal(f"{n} draws: the variance of the mean", square - mean**2, claim.between(n))
    with mp.workdps(15):
        functions = {
            "a step at 0.3": (lambda v: mpmath.mpf(v < 0.3), 1, mpmath.mpf("0.3")),
            "u²": (lambda v: v**2, 1, mpmath.mpf(1) / 3),
            "cos 2 pi u": (lambda v: mp.cos(2 * mp.pi * v), 4, mpmath.mpf(0)),
        }
        for (name, (f, variation, mean)), n in itertools.product(functions.items(), (1, 5, 64)):
            grid = [(j + mpmath.mpf("0.5")) / (40 * n) for j in range(40)]  # offsets in a stratum
            values = [mp.fsum(f(v + mpmath.mpf(i) / n) for i in range(n)) / n for v in grid]
            steps.at_most(
                f"{name}, {n} draws: the largest squared error over the offsets",
                max((v - mean) ** 2 for v in values),
                claim.bound(variation, n),
                tolerance=1e-12,
                why="rounding",
            )
    # two draws, times on two values with probability 1/2 each, noise independent given the times
    m1, m2, v1, v2 = symbols("m_1 m_2 v_1 v_2", positive=True)
    middle = (m1 + m2) / 2
    within, n = (v1 + v2) / 2, 2
    one_each = (v1 + v2) / n**2  # stratified: one draw at each value, in either order
    steps.equal("two strata: Var is within / n + 0", one_each, claim.total(within, 0, n))
    independent = sum(
        Rational(1, 4) * ((va + vb) / 4 + ((ma + mb) / 2 - middle) ** 2)
        for (ma, va), (mb, vb) in itertools.product(((m1, v1), (m2, v2)), repeat=2)
    )
    between = ((m1 - middle) ** 2 + (m2 - middle) ** 2) / 2
    steps.equal(
        "independent: within / n + between / n", independent, claim.total(within, between / n, n)
    )


LAG = claims(
    lag=lambda b: b / (1 - b),
    variance=lambda V, b, c: V * (1 - b) / (1 + b) * (1 + b * c) / (1 - b * c),
    number=lambda b: (1 + b) / (1 - b),
)


@check(
    "prp-ema-lag",
    claim=LAG,
    mutants={
        "the lag 1/(1 - beta)": LAG.but(lag=lambda b: 1 / (1 - b)),
        "without the correlation": LAG.but(variance=lambda V, b, c: V * (1 - b) / (1 + b)),
        "the correlation with the other sign": LAG.but(
            variance=lambda V, b, c: V * (1 - b) / (1 + b) * (1 - b * c) / (1 + b * c)
        ),
        "the number of steps 1/(1 - beta)": LAG.but(number=lambda b: 1 / (1 - b)),
    },
    covers="every rate and correlation: the fixed point of the recursion",
    omits="weights that are no first-order autoregression around a line",
)
def ema_lag(steps, claim):
    """The recursion of the average as a fixed point of means, variances and covariances."""
    b, c, v = symbols("beta c v", positive=True)
    V = Symbol("V", positive=True)
    lag = sympy.solve(Symbol("L") - b * (Symbol("L") + 1), Symbol("L"))[0]
    steps.equal("the mean follows b (lag + 1) = lag: a line is trailed by", lag, claim.lag(b))
    # with z' = c z + noise (variance V stationary) and m' = b m + (1 - b) z'
    K, S = symbols("K S")  # Cov(m, z), Var m
    K = sympy.solve(K - (b * c * K + (1 - b) * V), K)[0]  # Cov(m', z')
    cross = c * K  # Cov(m, z')
    S = sympy.solve(S - (b**2 * S + (1 - b) ** 2 * V + 2 * b * (1 - b) * cross), S)[0]
    steps.equal("the stationary variance", S, claim.variance(V, b, c))
    steps.equal("independent noise is averaged over", V / S.subs(c, 0), claim.number(b))
    steps.equal("a line with slope v has the bias", -v * lag, -v * claim.lag(b))


POWER = claims(
    weight=lambda i, n, g: (i ** (g + 1) - (i - 1) ** (g + 1)) / n ** (g + 1),
    decay=lambda n, g: (1 - Rational(1) / n) ** (g + 1),
    width=lambda g: sqrt(g + 1) / ((g + 2) * sqrt(g + 3)),
    cubic=lambda g, w: g**3 + 7 * g**2 + (16 - w**-2) * g + (12 - w**-2),
)


@check(
    "prp-power-ema",
    claim=POWER,
    mutants={
        "the exponent gamma": POWER.but(decay=lambda n, g: (1 - Rational(1) / n) ** g),
        "the profile at the upper edge": POWER.but(
            weight=lambda i, n, g: (g + 1) * i**g / n ** (g + 1)
        ),
        "the width of the second moment": POWER.but(width=lambda g: sqrt((g + 1) / (g + 3))),
        "another cubic": POWER.but(
            cubic=lambda g, w: g**3 + 7 * g**2 + (16 - w**-2) * g + (12 + w**-2)
        ),
    },
    covers="the recursion for every gamma up to step 5 and its step of induction; mean, width, its "
    "monotone decrease and the cubic",
    omits="nothing",
)
def power_ema(steps, claim):
    """The recursion unrolled; moments of the density."""
    g = Symbol("gamma", positive=True)
    profile = {}
    for step in range(1, 6):
        decay = claim.decay(Integer(step), g) if step > 1 else Integer(0)
        profile = {j: decay * w for j, w in profile.items()}
        profile[step] = 1 - decay
        steps.equal(
            f"step {step}: the weights",
            [profile[j] for j in range(1, step + 1)],
            [claim.weight(Integer(j), Integer(step), g) for j in range(1, step + 1)],
        )
    s = Symbol("s", positive=True)
    density = (g + 1) * s**g
    mean = integrate(density * s, (s, 0, 1))
    steps.equal("the mean of the density", mean, (g + 1) / (g + 2))
    variance = sympy.simplify(integrate(density * s**2, (s, 0, 1)) - mean**2)
    steps.equal("its variance is the squared width", variance, claim.width(g) ** 2)
    steps.equal("the width solves the cubic", claim.cubic(g, sqrt(variance)))
    steps.equal(
        "the logarithm of the squared width falls for gamma >= 0",
        diff(log(variance), g),
        -g / ((g + 1) * (g + 2)) - 1 / (g + 3),
    )


POSTHOC = claims(
    overlap=lambda g, n, k, m: (
        (g + 1) * (k + 1) / (g + k + 1) * (n / m) ** k / m  # for n <= m
    ),
    solve=lambda A, b, one: (
        A.inv() * (b + one * (1 - (one.T * A.inv() * b)[0]) / (one.T * A.inv() * one)[0])
    ),
    error=lambda misfit, spread: misfit * spread,
)


@check(
    "prp-posthoc-ema",
    claim=POSTHOC,
    mutants={
        "the overlap without the quotient of the steps": POSTHOC.but(
            overlap=lambda g, n, k, m: (g + 1) * (k + 1) / (g + k + 1) / m
        ),
        "without the constraint": POSTHOC.but(solve=lambda A, b, one: A.inv() * b),
        "divided by its sum afterwards": POSTHOC.but(
            solve=lambda A, b, one: A.inv() * b / (one.T * A.inv() * b)[0]
        ),
        "half the bound": POSTHOC.but(error=lambda misfit, spread: misfit * spread / 2),
    },
    covers="every overlap with n <= m; the minimum under the constraint for every symmetric 2 x 2 "
    "matrix and for three stored profiles; the bound for the trajectory that attains it",
    omits="general trajectories, where the bound is Cauchy-Schwarz",
)
def posthoc_ema(steps, claim):
    """The integral of a product; the conditions of a constrained minimum; an equality case."""
    g, k = symbols("gamma kappa", positive=True)
    n, m, s = symbols("n m s", positive=True)
    first = (g + 1) * s**g / n ** (g + 1)
    second = (k + 1) * s**k / m ** (k + 1)
    steps.equal(
        "the overlap of two profiles",
        integrate(sympy.powsimp(first * second), (s, 0, n)),
        claim.overlap(g, n, k, m),
    )
    A = Matrix(2, 2, symbols("A_11 A_12 A_12 A_22", positive=True))
    b = Matrix(symbols("b_1:3", positive=True))
    one = Matrix([1, 1])
    c = claim.solve(A, b, one)
    gradient = A * c - b
    steps.equal("the coefficients sum to 1", sympy.simplify(sum(c)), 1)
    steps.equal(
        "and the gradient is a multiple of (1, 1)", sympy.simplify(gradient[0] - gradient[1])
    )

    stored, wanted = ((6, 1), (6, 2), (16, 2)), (3, 2)
    u = Symbol("u", positive=True)

    def profile(gamma, step):
        return (gamma + 1) * u**gamma / Integer(step) ** (gamma + 1)

    def product(one_, two):
        return integrate(profile(*one_) * profile(*two), (u, 0, min(one_[1], two[1])))

    A = Matrix(3, 3, [product(p_, q_) for p_ in stored for q_ in stored])
    b = Matrix([product(p_, wanted) for p_ in stored])
    one = Matrix([1, 1, 1])
    c = claim.solve(A, b, one)
    steps.equal("three stored profiles: the sum", sum(c), 1)
    least = product(wanted, wanted) - 2 * (b.T * c)[0] + (c.T * A * c)[0]
    for move in (Matrix([1, -1, 0]), Matrix([1, 1, -2])):
        other = c + move / 100
        value = product(wanted, wanted) - 2 * (b.T * other)[0] + (other.T * A * other)[0]
        steps.at_most("no neighbour with the same sum is closer", least, value)
    # the trajectory theta = the misfit itself: both averages are integrals against it
    pieces = [
        (
            lower,
            upper,
            sum(ci * profile(*p_) for ci, p_ in zip(c, stored, strict=True) if p_[1] >= upper)
            - profile(*wanted),
        )
        for lower, upper in ((0, 1), (1, 2))
    ]
    square = sum(integrate(sympy.expand(f**2), (u, lo, hi)) for lo, hi, f in pieces)
    steps.equal("the square of the misfit from the overlaps", square, least)
    mean = sum(integrate(sympy.expand(f), (u, lo, hi)) for lo, hi, f in pieces)
    steps.equal("profiles integrate to 1: constants are kept", mean)
    steps.at_most(
        "the trajectory equal to the misfit: the error of the reconstruction and its bound",
        square,
        claim.error(sqrt(square), sqrt(square)),
        tolerance=1e-30,
        why="an equality",
    )
