"""Checks of the chapter on reversing time, and of its tools in the appendix."""

from __future__ import annotations

import itertools
from fractions import Fraction
from functools import cache

import numpy as np
import sympy
from mpmath import mp
from scipy import integrate
from sympy import Function, Rational, diff, exp, log, sqrt, symbols

from fromnoise.derivations.checking import check, claims, unchecked

x, y, mu = symbols("x y mu", real=True)
t, c, h, theta = symbols("t c h theta", positive=True)


# -- tools in the appendix ----------------------------------------------------------------------

STOPPED = claims(
    factor=lambda k, tau: 1 if tau > k else 0,  # 1_{s <= tau} on the step from k to k + 1
    second=lambda values, tau: sum(values[k] ** 2 for k in range(min(tau, len(values)))),
)


@check(
    "lem-ito-stopping",
    claim=STOPPED,
    mutants={
        "one step too many": STOPPED.but(factor=lambda k, tau: 1 if tau >= k else 0),
        "one step too few": STOPPED.but(factor=lambda k, tau: 1 if tau > k + 1 else 0),
        "not stopped": STOPPED.but(factor=lambda k, tau: 1),
        "the second moment runs on": STOPPED.but(
            second=lambda values, tau: sum(v**2 for v in values)
        ),
    },
    covers="every path of a random walk of six steps of size 1, an integrand that depends on the "
    "past, a stopping time that depends on the past: pathwise equality, mean, second moment",
    omits="the limit to Brownian motion and to general integrands, which is the isometry",
)
def ito_stopping(steps, claim):
    """All 64 paths, with exact fractions."""
    mean, second, norm = Fraction(0), Fraction(0), Fraction(0)
    for signs in itertools.product((-1, 1), repeat=6):
        walk = [0, *itertools.accumulate(signs)]
        tau = next((k for k, w in enumerate(walk) if abs(w) >= 2), 99)
        values = [1 + walk[k] ** 2 - k * walk[k] for k in range(6)]
        stopped = sum(values[k] * signs[k] for k in range(min(tau, 6)))
        integral = sum(values[k] * claim.factor(k, tau) * signs[k] for k in range(6))
        if integral != stopped:
            steps.close(f"path {signs}", integral, stopped, tolerance=0.0, why="integers")
        mean += Fraction(stopped, 64)
        second += Fraction(stopped**2, 64)
        norm += Fraction(claim.second(values, tau), 64)
    steps.close("mean of the stopped integral", float(mean), 0.0, tolerance=0.0, why="fractions")
    steps.close("second moment", float(second), float(norm), tolerance=0.0, why="fractions")


unchecked(
    "thm-uniqueness-in-law",
    why="its content is that a law on path space is the image of another one under a measurable "
    "map, and passes to a limit: there is no formula that a number could refute",
)

PATHWISE = claims(rate=lambda b, z, n, dn: b(z + n), solution=lambda z, n: z + n)


@check(
    "prp-additive-noise",
    claim=PATHWISE,
    mutants={
        "the noise left out of the drift": PATHWISE.but(rate=lambda b, z, n, dn: b(z)),
        "the noise twice": PATHWISE.but(rate=lambda b, z, n, dn: b(z + n) + dn),
        "Z taken for X": PATHWISE.but(solution=lambda z, n: z),
    },
    covers="for every smooth path n and b = -theta x: Z + n solves X = x + int b(X) + n; the "
    "kernel of the Ornstein-Uhlenbeck solution comes out by parts",
    omits="continuity of the solution map, measurability, densities: the proof",
)
def additive_noise(steps, claim):
    """Differentiate X = Z + n with a polynomial path n that has general coefficients."""
    a1, a2, a3 = symbols("a_1:4", real=True)
    n = a1 * t + a2 * t**2 + a3 * t**3
    z = Function("z")(t)
    rate = claim.rate(lambda v: -theta * v, z, n, diff(n, t))
    slope = diff(claim.solution(z, n), t).subs(diff(z, t), rate)
    steps.equal("dX = b(X) dt + dn", slope, -theta * (z + n) + diff(n, t))
    steps.equal("at time 0 they agree", claim.solution(z, n).subs(t, 0).subs(z.subs(t, 0), x), x)
    s = sympy.Symbol("s", positive=True)
    kernel = sympy.integrate(sympy.expand(exp(-theta * (t - s)) * diff(n, t).subs(t, s)), (s, 0, t))
    zz = sympy.expand(x * exp(-theta * t) + kernel - n)
    rate = claim.rate(lambda v: -theta * v, zz, n, diff(n, t))
    steps.equal("with the solution of Ornstein-Uhlenbeck", diff(zz, t), rate)


COMMUTATOR = claims(
    remainder=lambda w, b, db, z, d: w(x - d * z) * (b(x - d * z) - b(x)) / d,
    limit=lambda w, b: 0 * x,
    gap=lambda w, e: e - e**2 / sqrt(w**2 + e**2),
)


@check(
    "thm-fokker-planck-regular",
    claim=COMMUTATOR,
    mutants={
        "the limit is the divergence": COMMUTATOR.but(limit=lambda w, b: w(x) * diff(b(x), x)),
        "the quotient reversed": COMMUTATOR.but(
            remainder=lambda w, b, db, z, d: w(x - d * z) * (b(x) - b(x - d * z)) / d
        ),
        "w b' - b without the square": COMMUTATOR.but(gap=lambda w, e: e - e / sqrt(w**2 + e**2)),
    },
    covers="on the line, for polynomials w and b and the kernel 15 (1 - z²)² / 16: the formula "
    "for the error of smoothing against its definition, for every width, and its limit; the "
    "convex function and its bounds 0 and epsilon",
    omits="rough w, by density in L¹; the cut-off; more dimensions",
)
def fokker_planck_regular(steps, claim):
    """The commutator of smoothing and transport, exactly."""
    z, d, e = symbols("z delta epsilon", positive=True)

    def w(v):
        return 1 - 2 * v + v**2 / 3

    def b(v):
        return v - v**3 / 4

    rho = Rational(15, 16) * (1 - z**2) ** 2

    def smooth(f):
        return sympy.integrate(sympy.expand(f(x - d * z) * rho), (z, -1, 1))

    definition = diff(smooth(lambda v: b(v) * w(v)) - b(x) * smooth(w), x)
    integrand = sympy.expand(sympy.cancel(claim.remainder(w, b, None, z, d)) * diff(rho, z))
    formula = sympy.integrate(integrand, (z, -1, 1)) - diff(b(x), x) * smooth(w)
    steps.equal("the error of smoothing", sympy.expand(formula), sympy.expand(definition))
    steps.equal("its limit", sympy.expand(definition).subs(d, 0), claim.limit(w, b))
    beta = sqrt(x**2 + e**2) - e
    steps.equal("w beta' - beta", x * diff(beta, x) - beta, claim.gap(x, e))
    values = [float(claim.gap(v, Rational(1, 7))) for v in (-3, -1, 0, Rational(1, 9), 2)]
    steps.at_most("it is at most epsilon", values, 1 / 7, tolerance=1e-15, why="rounding")
    steps.at_most("and at least 0", [-v for v in values], 0.0)


# -- flows and SDEs -----------------------------------------------------------------------------


def _div(field, at):
    return sum(diff(f, v) for f, v in zip(field, at, strict=True))


def _plane():
    """A positive density and a drift in the plane, undefined functions of x, y, t."""
    p = Function("p", positive=True)(x, y, t)
    first, second = Function("b_1", real=True)(x, y, t), Function("b_2", real=True)(x, y, t)
    g = Function("g", positive=True)(t)
    score = [diff(log(p), v) for v in (x, y)]
    return p, (first, second), g, score


def _fokker_planck(p, b, g):
    flux = [p * part for part in b]
    return -_div(flux, (x, y)) + g**2 / 2 * (diff(p, x, 2) + diff(p, y, 2))


@check(
    "prp-probability-flow",
    claim=lambda b, g, s: b - g**2 * s / 2,
    mutants={
        "all of the score, as in the reversal": lambda b, g, s: b - g**2 * s,
        "the other sign": lambda b, g, s: b + g**2 * s / 2,
        "g not squared": lambda b, g, s: b - g * s / 2,
    },
    covers="in the plane, for every smooth positive density, drift and g: the continuity equation "
    "with this velocity is the Fokker-Planck equation; for Ornstein-Uhlenbeck from a Gaussian, "
    "that the velocity moves the exact mean and variance",
    omits="that a regular velocity has no other solution: thm-continuity",
)
def probability_flow(steps, claim):
    """The two right-hand sides as expressions in undefined functions."""
    p, b, g, score = _plane()
    velocity = [claim(part, g, s) for part, s in zip(b, score, strict=True)]
    flux = [p * v for v in velocity]
    steps.equal("-div(p v)", -_div(flux, (x, y)), _fokker_planck(p, b, g))
    g0, v0 = symbols("g_0 v_0", positive=True)
    v = g0**2 / (2 * theta) + (v0 - g0**2 / (2 * theta)) * exp(-2 * theta * t)
    m = mu * exp(-theta * t)
    velocity = claim(-theta * x, g0, -(x - m) / v)
    steps.equal("Ornstein-Uhlenbeck: the mean moves", velocity.subs(x, m), diff(m, t))
    steps.equal("and the variance", 2 * v * diff(velocity, x), diff(v, t))


@check(
    "thm-sde-extension",
    claim=lambda u, g, s: u + g**2 * s / 2,
    mutants={
        "the score without the half": lambda u, g, s: u + g**2 * s,
        "the score with the other sign": lambda u, g, s: u - g**2 * s / 2,
        "no score": lambda u, g, s: u,
        "g not squared": lambda u, g, s: u + g * s / 2,
    },
    covers="in the plane, for every smooth positive density, velocity and g(t): the right-hand "
    "side of Fokker-Planck is that of the continuity equation; Gaussian marginals at all times",
    omits="that densities that satisfy it are the laws of the process: thm-fokker-planck-regular",
)
def sde_extension(steps, claim):
    """The one-line computation, with undefined functions; then the variance of a linear SDE."""
    p, u, g, score = _plane()
    drift = [claim(part, g, s) for part, s in zip(u, score, strict=True)]
    flux = [p * part for part in u]
    steps.equal("Fokker-Planck of the member", _fokker_planck(p, drift, g), -_div(flux, (x, y)))
    v = Function("v", positive=True)(t)
    slope = diff(claim(diff(v, t) / (2 * v) * x, g, -x / v), x)
    steps.equal("the variance of a linear SDE stays v", 2 * slope * v + g**2, diff(v, t))


# -- noising and its reversal -------------------------------------------------------------------

alpha, sigma = Function("alpha", positive=True)(t), Function("sigma", positive=True)(t)
d_lambda = diff(log(alpha / sigma), t)

NOISING = claims(
    kappa=lambda: -diff(alpha, t) / alpha,
    gamma2=lambda: 2 * sigma**2 * d_lambda,
    rest=lambda a, s, a2, s2: s**2 - a**2 / a2**2 * s2**2,
)


@check(
    "prp-linear-noising",
    claim=NOISING,
    mutants={
        "the drift not reversed": NOISING.but(kappa=lambda: diff(alpha, t) / alpha),
        "half the variance": NOISING.but(gamma2=lambda: sigma**2 * d_lambda),
        "the growth of the variance alone": NOISING.but(gamma2=lambda: -2 * sigma * diff(sigma, t)),
        "the transition without the square": NOISING.but(
            rest=lambda a, s, a2, s2: s**2 - a / a2 * s2**2
        ),
    },
    covers="for every schedule: the equations for the mean and the variance in noising time; VP, "
    "sub-VP and VE of Song et al. (equations 11, 12, 9); the transition kernels compose",
    omits="that a linear SDE is Gaussian: lem-wiener-integral",
)
def linear_noising(steps, claim):
    """d/dr = -d/dt on the mean alpha and the variance sigma²."""
    kappa, gamma2 = claim.kappa(), claim.gamma2()
    steps.equal("the mean", -diff(alpha, t), kappa * alpha)
    steps.equal("the variance", -diff(sigma**2, t), 2 * kappa * sigma**2 + gamma2)
    r = sympy.Symbol("r", positive=True)
    b0, b1, low, high = symbols("b_0 b_1 sigma_min sigma_max", positive=True)
    beta = b0 + r * b1
    total = sympy.integrate(beta, (r, 0, r))
    published = {  # alpha and sigma² in noising time, and f / x and g² in the paper
        "VP": (exp(-total / 2), 1 - exp(-total), -beta / 2, beta),
        "sub-VP": (
            exp(-total / 2),
            (1 - exp(-total)) ** 2,
            -beta / 2,
            beta * (1 - exp(-2 * total)),
        ),
        "VE": (
            sympy.Integer(1),
            low**2 * (high / low) ** (2 * r),
            sympy.Integer(0),
            2 * low**2 * (high / low) ** (2 * r) * log(high / low),
        ),
    }
    for name, (mean, variance, f, g2) in published.items():
        in_t = {alpha: mean.subs(r, 1 - t), sigma: sqrt(variance.subs(r, 1 - t))}
        value = gamma2.subs(in_t).doit().subs(t, 1 - r)
        steps.equal(f"{name}: the paper's g²", value, g2)
        steps.equal(f"{name}: the paper's f", kappa.subs(in_t).doit().subs(t, 1 - r), f)
    a1, a2, a3, s1, s2, s3 = symbols("alpha_1:4 sigma_1:4", positive=True)
    chained = claim.rest(a1, s1, a2, s2) + (a1 / a2) ** 2 * claim.rest(a2, s2, a3, s3)
    steps.equal("two transitions are one", chained, claim.rest(a1, s1, a3, s3))


REVERSAL = claims(drift=lambda f, g, s: -f + g**2 * s)


@check(
    "thm-time-reversal",
    claim=REVERSAL,
    mutants={
        "the forward drift kept": REVERSAL.but(drift=lambda f, g, s: f + g**2 * s),
        "half of the score, as in the flow": REVERSAL.but(drift=lambda f, g, s: -f + g**2 * s / 2),
        "no score": REVERSAL.but(drift=lambda f, g, s: -f),
        "the score with the other sign": REVERSAL.but(drift=lambda f, g, s: -f - g**2 * s),
    },
    covers="in the plane, for every smooth density, forward drift and solution w of the backward "
    "equation: p w solves the Fokker-Planck equation of the reversed SDE; for Ornstein-Uhlenbeck "
    "from any Gaussian, the covariance of two times forward and backward",
    omits="that the backward equation has smooth solutions, and uniqueness: the appendix",
)
def time_reversal(steps, claim):
    """The product of p and w, with undefined functions; then two-time covariances."""
    p, f, g, score = _plane()
    w = Function("w", positive=True)(x, y, t)
    d_p = _div([part * p for part in f], (x, y)) - g**2 / 2 * (diff(p, x, 2) + diff(p, y, 2))
    d_w = f[0] * diff(w, x) + f[1] * diff(w, y) + g**2 / 2 * (diff(w, x, 2) + diff(w, y, 2))
    drift = [claim.drift(part, g, s) for part, s in zip(f, score, strict=True)]
    steps.equal("d(p w)/dt", w * d_p + p * d_w, _fokker_planck(p * w, drift, g))
    # Forward: Cov(Y_r, Y_q) = exp(-theta (q - r)) V_r for r < q. Backward from q: the slope of the
    # reversed drift is -(theta') and the covariance with the start decays by exp(int slope).
    r, q, g0, v0 = symbols("r q g_0 v_0", positive=True)
    v = g0**2 / (2 * theta) + (v0 - g0**2 / (2 * theta)) * exp(-2 * theta * r)
    forward = exp(-theta * (q - r)) * v  # as a function of the earlier time r
    slope = diff(claim.drift(-theta * x, g0, -x / v), x)
    steps.equal("Cov(X_s, X_t) backward, as an equation in r", -diff(forward, r), slope * forward)
    steps.equal("the variance backward", -diff(v, r), 2 * slope * v + g0**2)


@check(
    "cor-reversal-in-family",
    claim=lambda: 2 * sigma**2 * d_lambda,
    mutants={
        "half of it": lambda: sigma**2 * d_lambda,
        "without sigma": lambda: 2 * d_lambda,
        "the growth of the variance": lambda: -2 * sigma * diff(sigma, t),
        "alpha for sigma": lambda: 2 * alpha**2 * d_lambda,
    },
    covers="for every schedule and every score: the reversed drift of the linear noising process "
    "is the member's, and for no other g",
    omits="the path laws: thm-time-reversal",
)
def reversal_in_family(steps, claim):
    """Both drifts, with Tweedie's velocity."""
    s = sympy.Symbol("s", real=True)
    g2 = claim()
    velocity = diff(alpha, t) / alpha * x + d_lambda * sigma**2 * s
    noising = -diff(alpha, t) / alpha * x
    steps.equal("the drifts", -noising + g2 * s, velocity + g2 * s / 2)
    kappa, grow = -diff(alpha, t) / alpha, -diff(sigma**2, t)
    steps.equal("and g is that of the noising process", grow - 2 * kappa * sigma**2, g2)


FAMILY = claims(
    rate=lambda g, v: -(g**2) / (2 * v),
    reversal=lambda a, v, a2, v2: a / a2 * sqrt(v2 / v),
    variation=lambda steps_, d: d * sum(steps_),
)


@check(
    "prp-gaussian-family",
    claim=FAMILY,
    mutants={
        "without the half": FAMILY.but(rate=lambda g, v: -(g**2) / v),
        "not in units of the spread": FAMILY.but(rate=lambda g, v: -(g**2) / 2),
        "the root upside down": FAMILY.but(reversal=lambda a, v, a2, v2: a / a2 * sqrt(v / v2)),
        "the dimension left out": FAMILY.but(variation=lambda steps_, d: sum(steps_)),
    },
    covers="the drift of X divided by its spread, for every v and g; the reversal's correlation "
    "for every schedule; mean and variance of the quadratic variation of the noise, in three "
    "dimensions and four steps",
    omits="that the drift's share of the quadratic variation vanishes: the proof",
)
def gaussian_family(steps, claim):
    """Ito for x / sqrt(v) is linear: no second-order term."""
    v, g = Function("v", positive=True)(t), Function("g", positive=True)(t)
    z = Function("z", real=True)(t)
    drift = (diff(v, t) / (2 * v) - g**2 / (2 * v)) * z * sqrt(v)
    d_z = drift / sqrt(v) - z * diff(v, t) / (2 * v)
    steps.equal("the drift of Z", d_z, claim.rate(g, v) * z)
    v = alpha**2 * c + sigma**2
    g2 = 2 * sigma**2 * d_lambda
    late_a, late_v = symbols("alpha_2 v_2", positive=True)
    # log of the correlation, as a function of the earlier time s: derivative +g²/(2 v)
    log_corr = log(claim.reversal(alpha, v, late_a, late_v))
    steps.equal("the reversal's correlation", diff(log_corr, t), -claim.rate(sqrt(g2), v))
    a2, s2 = symbols("alpha_3 sigma_3", positive=True)
    same = claim.reversal(a2, s2, a2, s2)
    steps.equal("equal times have correlation 1", same, 1)
    sizes = [Rational(k, 10) for k in (1, 2, 3, 4)]  # int g² over the steps
    a = symbols("xi_1:4", real=True)
    mean = 0
    for size in sizes:  # E |N|² from the moment-generating function of a normal vector
        moments = exp(size * sum(part**2 for part in a) / 2)
        mean += sum(diff(moments, part, 2) for part in a).subs(dict.fromkeys(a, 0))
    steps.equal("E of the sum of squares", mean, claim.variation(sizes, 3))


# -- Girsanov -----------------------------------------------------------------------------------

# Euler-Maruyama chains of linear SDEs are Gaussian vectors: with N steps of length h,
# x_{k+1} = (1 + a h) x_k + g sqrt(h) xi. All expectations below are determinants.


@cache
def _chain(n: int = 40, a: float = -1.0, b: float = 0.6, g: float = 0.8, v0: float = 0.3):
    """h, the covariance of the path under slope a, its means of dW, and the parameters."""
    size = 1.0 / n
    lower = np.zeros((n + 1, n + 1))  # x = lower @ (x_0 / sqrt(v0), xi_1 ... xi_n)
    lower[0, 0] = np.sqrt(v0)
    for k in range(n):
        lower[k + 1] = (1 + a * size) * lower[k]
        lower[k + 1, k + 1] = g * np.sqrt(size)
    return size, lower, a, b, g, v0


def _exponent(claim):
    """The quadratic form Q with log Z = - xi^T Q xi / 2 in the standard normal variables."""
    size, lower, a, b, g, _ = _chain()
    n = len(lower) - 1
    linear = np.zeros((n + 1, n + 1))
    energy = np.zeros((n + 1, n + 1))
    for k in range(n):
        delta = (b - a) / g * lower[k]  # as a linear form in xi
        unit = np.zeros(n + 1)
        unit[k + 1] = np.sqrt(size)
        linear += np.outer(delta, unit)
        energy += np.outer(delta, delta) * size
    form = claim(linear, energy)
    return -(form + form.T)


@check(
    "thm-girsanov",
    claim=lambda stochastic, energy: stochastic - energy / 2,
    mutants={
        "the energy without the half": lambda stochastic, energy: stochastic - energy,
        "no energy": lambda stochastic, energy: stochastic,
        "the energy with the other sign": lambda stochastic, energy: stochastic + energy / 2,
        "the stochastic integral reversed": lambda stochastic, energy: -stochastic - energy / 2,
    },
    covers="Ornstein-Uhlenbeck against a linear SDE with another slope, from one Gaussian start, "
    "as chains of 40 steps, for which the formula is exact too: E Z = 1, and the covariance of the "
    "whole path under the weight Z is that of the other chain; continuous time with constant "
    "drifts, symbolically",
    omits="the limit of continuous time for other drifts, and the localization: the appendix",
)
def girsanov(steps, claim):
    """Weights that are exponentials of quadratic forms have determinants for their means."""
    size, lower, _, b, g, v0 = _chain()
    n = len(lower) - 1
    matrix = np.eye(n + 1) + _exponent(claim)
    eigenvalues = np.linalg.eigvalsh(matrix)
    steps.at_most("the weight is integrable", -eigenvalues.min(), 0.0)
    mean = 1 / np.sqrt(np.prod(eigenvalues))
    steps.close("E Z", mean, 1.0, tolerance=1e-10, why="rounding of a determinant")
    weighted = lower @ np.linalg.inv(matrix) @ lower.T
    expected = np.zeros((n + 1, n + 1))
    expected[0, 0] = np.sqrt(v0)
    for k in range(n):
        expected[k + 1] = (1 + b * size) * expected[k]
        expected[k + 1, k + 1] = g * np.sqrt(size)
    steps.close(
        "the covariance of the path under Z",
        weighted,
        expected @ expected.T,
        tolerance=1e-10,
        why="rounding",
    )
    d = sympy.Symbol("delta", real=True)
    w = sympy.Symbol("w", real=True)
    weight = exp(claim(d * w, d**2 * t)) * exp(-(w**2) / (2 * t)) / sqrt(2 * sympy.pi * t)
    shifted = exp(-((w - d * t) ** 2) / (2 * t)) / sqrt(2 * sympy.pi * t)
    steps.equal("constant drift: W_t moves by delta t", weight, shifted)


PATH_KL = claims(
    start=lambda kl: kl,
    density=lambda difference, g: difference**2 / (2 * g**2),
)


@check(
    "thm-path-kl",
    claim=PATH_KL,
    mutants={
        "without the half": PATH_KL.but(density=lambda difference, g: difference**2 / g**2),
        "g not squared": PATH_KL.but(density=lambda difference, g: difference**2 / (2 * g)),
        "the start left out": PATH_KL.but(start=lambda kl: 0.0 * kl),
        "the difference not squared": PATH_KL.but(
            density=lambda difference, g: abs(difference) / (2 * g**2)
        ),
    },
    covers="two Ornstein-Uhlenbeck processes with different starts, as chains of 40 steps, whose "
    "path laws are Gaussian in 41 dimensions: the determinant formula for their relative entropy "
    "against the sum over steps; two Brownian motions with drift in continuous time",
    omits="the limit of the step size, which is the theorem's proof; infinite values",
)
def path_kl(steps, claim):
    """KL of two Gaussian vectors against the formula."""
    size, lower, a, b, g, v0 = _chain()
    n = len(lower) - 1
    other = np.zeros((n + 1, n + 1))
    v1 = 0.5
    other[0, 0] = np.sqrt(v1)
    for k in range(n):
        other[k + 1] = (1 + b * size) * other[k]
        other[k + 1, k + 1] = g * np.sqrt(size)
    p, q = lower @ lower.T, other @ other.T
    exact = 0.5 * (
        np.trace(np.linalg.solve(q, p)) - n - 1 + np.linalg.slogdet(q)[1] - np.linalg.slogdet(p)[1]
    )
    start = 0.5 * (v0 / v1 - 1 + np.log(v1 / v0))
    mean_square = np.diag(p)[:-1]
    rate = [claim.density((a - b) * np.sqrt(m), g) for m in mean_square]
    total = claim.start(start) + size * sum(rate)
    steps.close("KL of the path laws", total, exact, tolerance=1e-9, why="rounding of solves")
    m1, m2, g0 = symbols("m_1 m_2 g_0", positive=True)
    ends = (m1 - m2) ** 2 * t**2 / (2 * g0**2 * t)
    steps.equal("constant drifts: the end is sufficient", t * claim.density(m1 - m2, g0), ends)


# Gaussian data on the straight path, a second Gaussian law: everything is a function of time.
C_P, C_Q, START = 0.25, 0.6, 0.1


def _v(c_: float, time: float) -> float:
    return c_ * time**2 + (1 - time) ** 2


def _score_gap(time: float) -> float:
    """E |s - s_q|² under p for the two Gaussians: p has variance v."""
    v, w = _v(C_P, time), _v(C_Q, time)
    return (1 / w - 1 / v) ** 2 * v


def _kl(v: float, w: float) -> float:
    return 0.5 * (v / w - 1 + np.log(w / v))


def _quad(f) -> float:
    return integrate.quad(f, START, 1.0, epsabs=1e-12, epsrel=1e-12)[0]


@check(
    "cor-kl-bound",
    claim=lambda u_gap, s_gap, g: (u_gap + g**2 * s_gap / 2) ** 2 / (2 * g**2),
    mutants={
        "a quarter": lambda u_gap, s_gap, g: (u_gap + g**2 * s_gap / 2) ** 2 / (4 * g**2),
        "the errors subtracted": lambda u_gap, s_gap, g: (
            (u_gap - g**2 * s_gap / 2) ** 2 / (2 * g**2)
        ),
        "without the velocity": lambda u_gap, s_gap, g: (g**2 * s_gap / 2) ** 2 / (2 * g**2),
        "multiplied by g²": lambda u_gap, s_gap, g: (u_gap + g**2 * s_gap / 2) ** 2 * g**2 / 2,
    },
    covers="two Gaussian data laws on the straight path from t = 0.1 with the reversal's g and "
    "multiples of it, and constant g: the true relative entropy is below, and equal for the "
    "reversal, by quadrature",
    omits="other laws; the general proof is thm-path-kl and the chain rule",
)
def kl_bound(steps, claim):
    """Velocity and score of Gaussians differ by multiples of x."""
    start = _kl(_v(C_P, START), _v(C_Q, START))
    end = _kl(C_P, C_Q)

    def total(g):
        def rate(time):
            v, w = _v(C_P, time), _v(C_Q, time)
            slopes = [(2 * c_ * time - 2 * (1 - time)) / (2 * s) for c_, s in ((C_P, v), (C_Q, w))]
            return claim(slopes[0] - slopes[1], 1 / w - 1 / v, g(time)) * v

        return start + _quad(rate)

    def reversal(time):
        return np.sqrt(2 * (1 - time) / time) + 1e-12

    for m in (0.5, 2.0, 3.0):
        value = total(lambda time, m=m: m * reversal(time))
        steps.at_most(f"true KL against the bound for g = {m} times the reversal's", end, value)
    for g in (0.5, 1.0, 2.0):
        steps.at_most(f"g = {g}", end, total(lambda time, g=g: g))
    value = total(reversal)
    steps.close("the reversal: equality", value, end, tolerance=1e-7, why="quadrature at t = 1")


COST = claims(
    velocity=lambda s_gap, g: g**2 * s_gap**2 / 8,
    score=lambda u_gap, g: u_gap**2 / (2 * g**2),
    best=lambda a: 2 * a,
    ratio=lambda m: (m + 1 / m) ** 2 / 4,
)


@check(
    "prp-error-cost",
    claim=COST,
    mutants={
        "a half for an eighth": COST.but(velocity=lambda s_gap, g: g**2 * s_gap**2 / 2),
        "noise hurts an exact score": COST.but(score=lambda u_gap, g: u_gap**2 * g**2 / 2),
        "the best g² is a": COST.but(best=lambda a: a),
        "the ratio without the quarter": COST.but(ratio=lambda m: (m + 1 / m) ** 2),
    },
    covers="the three cases as expressions; the minimum over g², by differentiating; its value; "
    "the ratio for a multiple of g; the weight of the denoiser for every schedule",
    omits="nothing but the bound itself: cor-kl-bound",
)
def error_cost(steps, claim):
    """The integrand of the bound as a function of g²."""
    u_gap, s_gap = symbols("e_u e_s", real=True)
    a, g2, m = symbols("a G m", positive=True)
    integrand = (u_gap + g2 * s_gap / 2) ** 2 / (2 * g2)
    steps.equal("exact velocity", integrand.subs(u_gap, 0), claim.velocity(s_gap, sqrt(g2)))
    steps.equal("exact score", integrand.subs(s_gap, 0), claim.score(u_gap, sqrt(g2)))
    one = integrand.subs(u_gap, a * s_gap)
    best = claim.best(a)
    steps.equal("the derivative in g² vanishes", diff(one, g2).subs(g2, best))
    steps.true("and the second is positive", diff(one, g2, 2).subs({s_gap: 1, g2: best}) > 0)
    steps.equal("the minimum", one.subs(g2, best), a * s_gap**2)
    ratio = one.subs(g2, m**2 * best) / one.subs(g2, best)
    steps.equal("a multiple of g", ratio, claim.ratio(m))
    snr = alpha**2 / sigma**2
    d_gap = sympy.Symbol("e_D", real=True)
    weighted = sigma**2 * d_lambda * (alpha / sigma**2 * d_gap) ** 2
    steps.equal("in terms of the denoiser", weighted, d_gap**2 * diff(snr, t) / 2)


@check(
    "prp-kl-equality",
    claim=lambda a, gap: a * gap,
    mutants={
        "with a half": lambda a, gap: a * gap / 2,
        "twice": lambda a, gap: 2 * a * gap,
        "without the noise level": lambda a, gap: gap,
    },
    covers="two Gaussian data laws on every schedule, symbolically, as a derivative in t; the "
    "integral on the straight path",
    omits="other data laws, for which the chapter computes both sides on the laboratory",
)
def kl_equality(steps, claim):
    """d KL / dt of the two marginals."""
    other = sympy.Symbol("c_q", positive=True)
    v, w = alpha**2 * c + sigma**2, alpha**2 * other + sigma**2
    kl = (v / w - 1 + log(w / v)) / 2
    gap = (1 / w - 1 / v) ** 2 * v
    steps.equal("the rate", diff(kl, t), claim(sigma**2 * d_lambda, gap))
    value = _quad(lambda time: claim((1 - time) / time, _score_gap(time)))
    exact = _kl(C_P, C_Q) - _kl(_v(C_P, START), _v(C_Q, START))
    steps.close("integrated", value, exact, tolerance=1e-10, why="quadrature")


RATE = claims(
    transport=lambda gap, grad: gap * grad,
    decay=lambda g, grad: -(g**2) * grad**2 / 2,
    bound=lambda gap, g: gap**2 / (2 * g**2),
)


@check(
    "prp-kl-rate",
    claim=RATE,
    mutants={
        "without the half": RATE.but(decay=lambda g, grad: -(g**2) * grad**2),
        "noise adds differences": RATE.but(decay=lambda g, grad: g**2 * grad**2 / 2),
        "the transport reversed": RATE.but(transport=lambda gap, grad: -gap * grad),
        "the bound a quarter": RATE.but(bound=lambda gap, g: gap**2 / (4 * g**2)),
    },
    covers="two linear SDEs with Gaussian laws of any means and variances, on the line: the "
    "derivative of the closed-form relative entropy; the completed square",
    omits="the integration by parts for other laws",
)
def kl_rate(steps, claim):
    """Means and variances obey linear equations; the KL of Gaussians is differentiated."""
    a, b, a2, b2 = symbols("a b a_2 b_2", real=True)
    g, v, w = symbols("g v w", positive=True)
    m, n = symbols("m n", real=True)
    kl = (v / w - 1 + (m - n) ** 2 / w + log(w / v)) / 2
    rates = {m: a * m + b, n: a2 * n + b2, v: 2 * a * v + g**2, w: 2 * a2 * w + g**2}
    derivative = sum(diff(kl, variable) * rate for variable, rate in rates.items())
    z = sympy.Symbol("z", real=True)
    at = m + z
    gap = a * at + b - a2 * at - b2
    grad = -(at - m) / v + (at - n) / w
    integrand = sympy.Poly(
        sympy.expand(claim.transport(gap, grad) + claim.decay(g, grad)), z
    )  # E z = 0, E z² = v
    mean = integrand.coeff_monomial(1) + integrand.coeff_monomial(z**2) * v
    steps.equal("the rate", sympy.together(derivative), sympy.together(mean))
    yy, zz = symbols("gap grad", real=True)
    square = claim.bound(yy, g) - claim.transport(yy, zz) - claim.decay(g, zz)
    steps.equal("the room is a square", square, (yy / g - g * zz) ** 2 / 2)


@check(
    "prp-ode-kl-gap",
    claim=lambda root: mp.log((1 + root) / 2) + 1 - root,
    mutants={
        "the mean of the logarithm alone": lambda root: mp.log((1 + root) / 2),
        "it vanishes": lambda root: 0 * root,
        "the other sign of the root": lambda root: mp.log((1 + root) / 2) + root - 1,
        "without the half in the logarithm": lambda root: mp.log(1 + root) + 1 - root,
    },
    covers="the mean over a period for four values of c, by quadrature; the relative entropy of "
    "the actual flow at c = 0.9 and epsilon = 0.01, by quadrature over the line; that the limit is "
    "positive",
    omits="the limit itself: fast oscillations average",
)
def ode_kl_gap(steps, claim):
    """Two quadratures."""
    for value in (0.1, 0.5, 0.9, 0.99):
        root = mp.sqrt(1 - mp.mpf(value) ** 2)
        grid = np.arange(20_000) * (2 * np.pi / 20_000)  # the trapezoid rule, exact for analytic
        slope = 1 + value * np.cos(grid)
        mean = float(np.mean(slope * np.log(slope)))
        steps.close(f"c = {value}", mean, claim(root), tolerance=1e-12, why="periodic trapezoid")
        steps.true(f"c = {value}: positive", bool(claim(root) > 1e-4))
    z = np.linspace(-9, 9, 400_001)
    eps, c_ = 0.01, 0.9
    image, slope = z + eps * np.sin(c_ * z / eps), 1 + c_ * np.cos(c_ * z / eps)
    phi = np.exp(-(image**2) / 2) / np.sqrt(2 * np.pi)
    gap = (z**2 - image**2) / 2 + np.log(slope)
    kl = float(integrate.trapezoid(phi * slope * gap, z))
    root = mp.sqrt(1 - mp.mpf(c_) ** 2)
    steps.close("the flow", kl, claim(root), tolerance=2e-4, why="of order epsilon squared")


ERRORS = claims(
    equation=lambda k, rate, e, rho: k * rho + rate * (1 - (1 + e) * rho),
    score=lambda e, forgotten: 1 / (1 + e) + e / (1 + e) * exp(-(1 + e) * forgotten),
    velocity=lambda k, rate, time: rate / (rate - k) - k / (rate - k) * exp(-(rate - k) * time),
    bound=lambda e, forgotten: e**2 * forgotten / 8,
)


@check(
    "prp-gaussian-errors",
    claim=ERRORS,
    mutants={
        "the noise without its score": ERRORS.but(
            equation=lambda k, rate, e, rho: k * rho + rate * (1 - rho)
        ),
        "the limit 1 - e": ERRORS.but(
            score=lambda e, forgotten: 1 - e + e * exp(-(1 + e) * forgotten)
        ),
        "the velocity's sign": ERRORS.but(
            velocity=lambda k, rate, time: rate / (rate + k) + k / (rate + k) * exp(-rate * time)
        ),
        "a half for an eighth": ERRORS.but(bound=lambda e, forgotten: e**2 * forgotten / 2),
    },
    covers="the equation from that of the variance, for every v, g, k, e; both solutions and "
    "their starts; that the relative entropy lies below the bound on a grid of e and K, and that "
    "the bound is its value to leading order for small e",
    omits="that a linear SDE is Gaussian",
)
def gaussian_errors(steps, claim):
    """V = rho v, differentiated."""
    v, g, k = (Function(name, positive=True)(t) for name in ("v", "g", "k"))
    rho = Function("rho", positive=True)(t)
    e, rate, k0, forgotten = symbols("e G k_0 K", positive=True)
    slope = diff(v, t) / (2 * v) + k / 2 - g**2 * (1 + e) / (2 * v)
    d_rho = (2 * slope * rho * v + g**2 - rho * diff(v, t)) / v
    steps.equal("the equation", d_rho, claim.equation(k, g**2 / v, e, rho))
    solution = claim.score(e, forgotten)
    steps.equal("score: start", solution.subs(forgotten, 0), 1)
    steps.equal(
        "score: equation in K",
        diff(solution, forgotten),
        ERRORS.equation(0, 1, e, solution),
    )
    solution = claim.velocity(k0, rate, t)
    steps.equal("velocity: start", solution.subs(t, 0), 1)
    steps.equal("velocity: equation", diff(solution, t), ERRORS.equation(k0, rate, 0, solution))
    small = sympy.series(claim.score(e, forgotten), e, 0, 2).removeO()
    first = sympy.expand(small).coeff(e, 1)
    for e0, kk in itertools.product((Rational(-1, 5), Rational(1, 10), Rational(1, 2)), (1, 3, 9)):
        ratio = float(ERRORS.score(e0, sympy.Integer(kk)))
        kl = 0.5 * (1 / ratio - 1 + np.log(ratio))
        steps.at_most(f"e = {e0}, K = {kk}", kl, float(claim.bound(e0, sympy.Integer(kk))))
    # For small K the relative entropy is (e K)² / 4, the path's e² K / 8: a bound, not an equality.
    steps.equal("to first order in e the variance moves by", first, exp(-forgotten) - 1)
    bound = _quad(lambda time: 0.01 * (1.0 / _v(C_P, time)) * 1.0 / 8)
    kk = _quad(lambda time: 1.0 / _v(C_P, time))
    steps.close(
        "the bound as the integral of g² E|s|² e² / 8",
        float(claim.bound(sympy.Float(0.1), sympy.Float(kk))),
        bound,
        tolerance=1e-10,
        why="quadrature",
    )
