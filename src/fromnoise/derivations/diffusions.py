"""Checks of the chapter on diffusions."""

from __future__ import annotations

import itertools
from functools import cache

import mpmath
import numpy as np
import sympy
from mpmath import mp
from sympy import Expr, Function, Matrix, Rational, diff, exp, expand, log, sqrt, symbols

from fromnoise.derivations.checking import check, claims

t, h, theta, g, v = symbols("t h theta g v", positive=True)
mu, x, y, w = symbols("mu x y w", real=True)


def _mean(expression: Expr, gaussians: dict[sympy.Symbol, Expr]) -> Expr:
    """E of a polynomial in independent centred Gaussians of the given variances.

    E Z^n is 0 for odd n, and (n - 1)!! times a power of the variance for even n.
    """
    polynomial = sympy.Poly(expand(expression), *gaussians)
    total = sympy.Integer(0)
    for powers, coefficient in polynomial.terms():
        if any(n % 2 for n in powers):
            continue
        for n, variance in zip(powers, gaussians.values(), strict=True):
            coefficient *= sympy.factorial2(n - 1) * variance ** (n // 2)
        total += coefficient
    return total


def _integral(expression: Expr, z: sympy.Symbol, variance: Expr) -> Expr:
    """E of a function of one centred Gaussian, integrated by SymPy against its density."""
    density = exp(-(z**2) / (2 * variance)) / sqrt(2 * sympy.pi * variance)
    oo = sympy.oo
    return sympy.simplify(sympy.integrate(expand(expression) * density, (z, -oo, oo)))


QUADRATIC_VARIATION = claims(
    mean=lambda steps: sum(steps),
    variance=lambda steps: 2 * sum(step**2 for step in steps),
    bound=lambda total, mesh: 2 * total * mesh,
)


@check(
    "prp-quadratic-variation",
    claim=QUADRATIC_VARIATION,
    mutants={
        "the mean of an increment's size": QUADRATIC_VARIATION.but(
            mean=lambda steps: sum(sqrt(step) for step in steps)
        ),
        "the fourth moment without subtracting 1": QUADRATIC_VARIATION.but(
            variance=lambda steps: 3 * sum(step**2 for step in steps)
        ),
        "the bound without the factor 2": QUADRATIC_VARIATION.but(
            bound=lambda total, mesh: total * mesh
        ),
        "the mesh squared in the bound": QUADRATIC_VARIATION.but(
            bound=lambda total, mesh: 2 * total * mesh**2
        ),
    },
    covers="mean and variance for every partition into four steps; the bound, with equality for "
    "equal steps; that the bounds of the dyadic partitions have a finite sum, which gives almost "
    "sure convergence; that the mean length grows to infinity while its variance stays bounded",
    omits="more steps, for which means and variances add; from finite sums and means to the path: "
    "the proof",
)
def quadratic_variation(steps, claim):
    """Q as a polynomial in four independent Gaussian increments."""
    sizes = symbols("h_1:5", positive=True)
    increments = symbols("w_1:5", real=True)
    law = dict(zip(increments, sizes, strict=True))
    q = sum(dw**2 for dw in increments)
    steps.equal("E Q is the length T of the interval", _mean(q, law), claim.mean(sizes))
    variance = _mean((q - sum(sizes)) ** 2, law)
    steps.equal("E (Q - T)²", variance, claim.variance(sizes))
    equal = variance.subs(dict.fromkeys(sizes, h))
    steps.equal("equal steps: Var Q = 2 T h, the bound itself", equal, claim.bound(4 * h, h))
    unequal = [Rational(k, 10) for k in (1, 2, 3, 5)]
    steps.true(
        "unequal steps: Var Q is at most 2 T max h",
        variance.subs(dict(zip(sizes, unequal, strict=True)))
        <= claim.bound(sum(unequal), max(unequal)),
    )
    n = sympy.Symbol("n", integer=True, nonnegative=True)
    total = sympy.summation(claim.bound(t, t / 2**n), (n, 0, sympy.oo))
    steps.true("over all dyadic partitions the bounds have a finite sum", total.is_finite)
    size = 2 * sympy.integrate(w * exp(-(w**2) / (2 * h)), (w, 0, sympy.oo))
    size = (size / sqrt(2 * sympy.pi * h)).subs(h, t / n)
    steps.true("with n equal steps the mean length grows to infinity", _to_infinity(n * size, n))
    steps.equal(
        "while the variance of the length stays T (1 - 2/pi)",
        n * (t / n - size**2),
        t * (1 - 2 / sympy.pi),
    )


def _to_infinity(expression: Expr, n: sympy.Symbol) -> bool:
    m = sympy.Symbol("m", positive=True)
    return sympy.limit(expression.subs(n, m), m, sympy.oo) == sympy.oo


ISOMETRY = claims(
    integral=lambda values, increments: sum(
        value * dw for value, dw in zip(values[:-1], increments, strict=True)
    ),
    norm2=lambda values, sizes: sum(
        value**2 * size for value, size in zip(values[:-1], sizes, strict=True)
    ),
    matrix_norm2=lambda matrix: sum(entry**2 for entry in matrix),
)


@check(
    "thm-ito-isometry",
    claim=ISOMETRY,
    mutants={
        "the integrand at the right end": ISOMETRY.but(
            integral=lambda values, increments: sum(
                value * dw for value, dw in zip(values[1:], increments, strict=True)
            )
        ),
        "the average of both ends": ISOMETRY.but(
            integral=lambda values, increments: sum(
                (a + b) / 2 * dw
                for (a, b), dw in zip(itertools.pairwise(values), increments, strict=True)
            )
        ),
        "the steps squared": ISOMETRY.but(
            norm2=lambda values, sizes: sum(
                value**2 * size**2 for value, size in zip(values[:-1], sizes, strict=True)
            )
        ),
        "the integrand not squared": ISOMETRY.but(
            norm2=lambda values, sizes: sum(
                value * size for value, size in zip(values[:-1], sizes, strict=True)
            )
        ),
        "the trace instead of the Frobenius norm": ISOMETRY.but(
            matrix_norm2=lambda matrix: sympy.trace(matrix) ** 2
        ),
    },
    covers="simple integrands on any three steps whose values are quadratic polynomials in the "
    "past increments, with general coefficients; the conditional form given the first step; one "
    "step with a constant 2 x 2 matrix; the extension for the integrand W, whose integral is "
    "(W² - T)/2",
    omits="density of the simple integrands in general, which is measure theory; integrands that "
    "aren't polynomials",
)
def ito_isometry(steps, claim):
    """All moments are those of Gaussian increments; then the limit for the integrand W."""
    sizes = symbols("h_1:4", positive=True)
    dw = symbols("w_1:4", real=True)
    a = symbols("a_0:7", real=True)
    law = dict(zip(dw, sizes, strict=True))
    values = [
        a[0],
        a[1] + a[2] * dw[0] + a[3] * dw[0] ** 2,
        a[4] + a[5] * dw[0] * dw[1] + a[6] * dw[1] ** 2,
        dw[0] + dw[1] + dw[2],
    ]
    integral = claim.integral(values, dw)
    steps.equal("the integral has mean 0", _mean(integral, law))
    norm2 = claim.norm2(values, sizes)
    steps.equal("isometry", _mean(integral**2, law), _mean(norm2, law))
    late = claim.integral([0, *values[1:]], dw)
    late_norm2 = claim.norm2([0, *values[1:]], sizes)
    future = dict(list(law.items())[1:])
    steps.equal(
        "given the first increment, the rest of the integral has mean 0", _mean(late, future)
    )
    steps.equal(
        "and second moment E[integral of H² | the first increment]",
        _mean(late**2, future),
        _mean(late_norm2, future),
    )

    one, two = symbols("u_1 u_2", real=True)
    entries = Matrix(2, 2, symbols("c_11 c_12 c_21 c_22", real=True))
    noise = entries * Matrix([one, two])
    steps.equal(
        "one step with a matrix: E|H dW|² = |H|² h",
        _mean(noise.dot(noise), {one: h, two: h}),
        claim.matrix_norm2(entries) * h,
    )

    n, k = symbols("n k", integer=True, positive=True)
    level = sympy.Symbol("s", positive=True)  # the variance of W at a grid point
    error = claim.integral([x, x + w], [w]) - ((x + w) ** 2 - x**2 - h) / 2
    steps.equal(
        "integrand W: over a step the sum misses the increment of (W² - t)/2 by mean 0",
        _mean(error, {w: h}),
    )
    square = _mean(error**2, {x: level, w: h}).subs(h, t / n)
    steps.equal(
        "so the n squares add, and the sums tend to (W² - T)/2 in mean square",
        sympy.limit(sympy.summation(square, (k, 1, n)), n, sympy.oo),
    )
    norm2 = _mean(claim.norm2([x, x + w], [h]), {x: level, w: h}) / h
    steps.equal(
        "whose second moment is the integral of E W_t² over [0, T]",
        _mean((w**2 - t) ** 2 / 4, {w: t}),
        sympy.integrate(norm2, (level, 0, t)),
    )


WIENER = claims(
    variance=lambda integrand, start, end: sympy.integrate(
        integrand.dot(integrand), (t, start, end)
    )
)


@check(
    "lem-wiener-integral",
    claim=WIENER,
    mutants={
        "the integral squared": WIENER.but(
            variance=lambda f, start, end: sum(
                sympy.integrate(part, (t, start, end)) ** 2 for part in f
            )
        ),
        "the coordinates added first": WIENER.but(
            variance=lambda f, start, end: sympy.integrate(sum(f) ** 2, (t, start, end))
        ),
        "half of it": WIENER.but(
            variance=lambda f, start, end: sympy.integrate(f.dot(f), (t, start, end)) / 2
        ),
    },
    covers="step functions with three values: six moments, odd ones 0; every cubic integrand with "
    "values in the plane: the variance, by integration by parts and Cov(W_s, W_t) = min(s, t)",
    omits="general square-integrable integrands, which are limits; independence of the past",
)
def wiener_integral(steps, claim):
    """Moments of a sum of Gaussians; the variance again from the covariance of W."""
    sizes = symbols("h_1:4", positive=True)
    dw = symbols("w_1:4", real=True)
    values = symbols("c_1:4", real=True)
    law = dict(zip(dw, sizes, strict=True))
    integral = sum(c * z for c, z in zip(values, dw, strict=True))
    variance = sum(
        claim.variance(Matrix([c]), 0, size) for c, size in zip(values, sizes, strict=True)
    )
    for n in range(1, 7):
        normal = 0 if n % 2 else sympy.factorial2(n - 1) * variance ** (n // 2)
        steps.equal(
            f"step function: moment {n} is that of N(0, v)", _mean(integral**n, law), normal
        )
    # Integration by parts: the integral is h(T) W_T minus the integral of h'(s) W_s ds.
    s, r = symbols("s r", positive=True)
    end = sympy.Symbol("T", positive=True)
    coefficients = symbols("a_0:8", real=True)
    integrand = Matrix([sum(coefficients[4 * i + j] * t**j for j in range(4)) for i in range(2)])
    by_parts = 0
    for part in integrand:
        slope = diff(part, t)
        last = part.subs(t, end)
        cross = sympy.integrate(expand(slope * t), (t, 0, end))
        inner = sympy.integrate(expand(slope.subs(t, r) * r), (r, 0, s))
        double = 2 * sympy.integrate(expand(slope.subs(t, s) * inner), (s, 0, end))
        by_parts += last**2 * end - 2 * last * cross + double
    steps.equal("cubic integrand: variance by parts", claim.variance(integrand, 0, end), by_parts)


ITO = claims(
    drift=lambda f, b, G, z: (
        diff(f, t)
        + sum(diff(f, z[i]) * b[i] for i in range(len(z)))
        + sympy.trace(G * G.T * sympy.hessian(f, list(z))) / 2
    ),
    noise=lambda f, G, z: Matrix([[diff(f, part) for part in z]]) * G,
)


def _ito_without(z: Matrix, f: Expr, b: Matrix, half: Expr, square: Matrix) -> Expr:
    first = sum(diff(f, z[i]) * b[i] for i in range(len(z)))
    return diff(f, t) + first + half * sympy.trace(square * sympy.hessian(f, list(z)))


@check(
    "thm-ito",
    claim=ITO,
    mutants={
        "the classical chain rule": ITO.but(
            drift=lambda f, b, G, z: _ito_without(z, f, b, sympy.Integer(0), G * G.T)
        ),
        "without the factor 1/2": ITO.but(
            drift=lambda f, b, G, z: _ito_without(z, f, b, sympy.Integer(1), G * G.T)
        ),
        "G transposed in the second-order term": ITO.but(
            drift=lambda f, b, G, z: _ito_without(z, f, b, Rational(1, 2), G.T * G)
        ),
        "without the derivative in time": ITO.but(
            drift=lambda f, b, G, z: _ito_without(z, f, b, Rational(1, 2), G * G.T) - diff(f, t)
        ),
        "G transposed in the noise": ITO.but(
            noise=lambda f, G, z: Matrix([[diff(f, part) for part in z]]) * G.T
        ),
    },
    covers="the drift and the noise at one instant for every exponential f = exp(k·x + c t) in the "
    "plane, whose superpositions are all smooth f, with any drift and any 2 x 2 matrix G; over a "
    "whole path the formula for W³, in mean square",
    omits="the limit for general integrands, localization, f that is only C²",
)
def ito(steps, claim):
    """One short step with frozen coefficients, whose mean is a Gaussian integral; a whole path."""
    z = Matrix(symbols("x_1:3", real=True))
    k = Matrix(symbols("k_1:3", real=True))
    b = Matrix(symbols("b_1:3", real=True))
    c = sympy.Symbol("c", real=True)
    matrix = Matrix(2, 2, symbols("G_11 G_12 G_21 G_22", real=True))
    f = exp(k.dot(z) + c * t)
    # E exp(k · G dW) = exp(h |G^T k|² / 2): the characteristic function of the increment.
    kick = matrix.T * k
    mean = f * exp(k.dot(b) * h + kick.dot(kick) * h / 2 + c * h)
    steps.equal(
        "d/dh of E f(x + b h + G dW, t + h) at h = 0 is the drift",
        diff(mean, h).subs(h, 0),
        claim.drift(f, b, matrix, z),
    )
    dw = Matrix(symbols("w_1:3", real=True))
    moved = f.subs(dict(zip(z, z + matrix * dw, strict=True)), simultaneous=True)
    steps.equal(
        "the derivative of f(x + G dW) in dW at 0 is the noise",
        Matrix([[diff(moved, part) for part in dw]]).subs({part: 0 for part in dw}),
        claim.noise(f, matrix, z),
    )

    f = x**3
    one, place = Matrix([[1]]), Matrix([x])
    rest = (x + w) ** 3 - f - claim.drift(f, Matrix([0]), one, place) * h
    rest -= claim.noise(f, one, place)[0] * w
    steps.equal("W³ over one step: what the formula leaves has mean 0", _mean(rest, {w: h}))
    level = sympy.Symbol("s", positive=True)
    n, j = symbols("n j", integer=True, positive=True)
    square = _mean(rest**2, {x: level, w: h}).subs({level: (j - 1) * t / n, h: t / n})
    total = sympy.summation(expand(square), (j, 1, n))
    steps.equal("and over n steps mean square 0 as n grows", sympy.limit(total, n, sympy.oo))


def _gbm(rate):
    return lambda time, kick: exp((mu + rate * g**2) * time + g * kick)


@check(
    "prp-gbm",
    claim=_gbm(-Rational(1, 2)),
    mutants={
        "the classical chain rule": _gbm(0),
        "with the other sign": _gbm(Rational(1, 2)),
        "without the factor 1/2": _gbm(-1),
    },
    covers="every mu and g > 0; the moments of all orders against the equation that the SDE gives "
    "them; one step of the path to second order in the kick",
    omits="nothing of the formula; X_0 is a factor",
)
def geometric_brownian_motion(steps, claim):
    """Moments by Gaussian integrals, and the ratio of the path over a short step."""
    n = sympy.Symbol("n", positive=True)
    moment = _integral(claim(t, w) ** n, w, t)
    steps.equal(
        "d/dt E X^n = (n mu + n(n-1)/2 g²) E X^n, from the coefficients of the SDE",
        diff(moment, t),
        (n * mu + n * (n - 1) / 2 * g**2) * moment,
    )
    eps = sympy.Symbol("epsilon", positive=True)  # the root of the step
    ratio = sympy.series(claim(eps**2, eps * y), eps, 0, 3).removeO()
    steps.equal(
        "ratio over a step h with kick dW: 1 + mu h + g dW + g² (dW² - h)/2",
        expand(ratio),
        expand(1 + mu * eps**2 + g * eps * y + g**2 * eps**2 * (y**2 - 1) / 2),
    )


def _dynkin(half, square, time=1):
    """What is integrated on the right: d_t phi + L phi."""

    def rate(f: Expr, b: Matrix, G: Matrix, z: Matrix) -> Expr:
        second = sympy.trace(square(G) * sympy.hessian(f, list(z)))
        first = sum(diff(f, z[i]) * b[i] for i in range(len(z)))
        return time * diff(f, t) + first + half * second

    return rate


@check(
    "cor-dynkin",
    claim=_dynkin(Rational(1, 2), lambda G: G * G.T),
    mutants={
        "without the factor 1/2": _dynkin(1, lambda G: G * G.T),
        "without the second derivatives": _dynkin(0, lambda G: G * G.T),
        "g not squared": _dynkin(Rational(1, 2), lambda G: G),
        "g transposed": _dynkin(Rational(1, 2), lambda G: G.T * G),
        "without the derivative in time": _dynkin(Rational(1, 2), lambda G: G * G.T, time=0),
    },
    covers="a linear drift that rotates and contracts in the plane with any matrix G, for "
    "Gaussian X and phi = exp(k·x + c t); geometric Brownian motion and phi = x^n, whose means are "
    "known though phi has no compact support; one phi of compact support for the "
    "Ornstein-Uhlenbeck process",
    omits="other coefficients; the exchange of expectation and integral, which is Fubini's theorem",
)
def dynkin(steps, claim):
    """The derivative of the exact E phi(X_t, t) against E[d_t phi + L phi]."""
    z = Matrix(symbols("x_1:3", real=True))
    k = Matrix(symbols("k_1:3", real=True))
    c, omega = symbols("c omega", real=True)
    matrix = Matrix(2, 2, symbols("G_11 G_12 G_21 G_22", real=True))
    drift = Matrix([[-theta, omega], [-omega, -theta]])
    # For exp(k·x) of a Gaussian, only d/dt mean = A mean and d/dt cov = A cov + cov A^T + G G^T
    # are needed: those come from E X and E X X^T of the recursion over a short step.
    mean = Matrix(symbols("m_1:3", real=True))
    cov = Matrix(2, 2, [*symbols("v_11 v_12", real=True), *symbols("v_12 v_22", real=True)])
    dw = Matrix(symbols("w_1:3", real=True))
    spread = Matrix(symbols("s_1:3", real=True))
    step = (sympy.eye(2) + drift * h) * spread + matrix * dw
    outer = (step * step.T).applyfunc(lambda e: _mean(e, dict.fromkeys(dw, h)))
    pairs = {spread[0] ** 2: cov[0, 0], spread[0] * spread[1]: cov[0, 1], spread[1] ** 2: cov[1, 1]}
    new_cov = outer.applyfunc(lambda e: expand(e).subs(pairs))
    d_cov = diff(new_cov, h).subs(h, 0)
    d_log = k.dot(drift * mean) + (k.T * d_cov * k)[0] / 2 + c
    phi = exp(k.dot(z) + c * t)
    rate = expand(sympy.simplify(claim(phi, drift * z, matrix, z) / phi))
    # E[exp(k·X) q(X)] = E exp(k·X) E q(X + cov k), by completing the square; q is linear here.
    shifted = rate.subs(dict(zip(z, mean + cov * k, strict=True)), simultaneous=True)
    steps.equal("linear SDE in the plane, phi = exp(k·x + c t)", d_log, shifted)

    n = sympy.Symbol("n", positive=True)
    place = sympy.Symbol("x", positive=True)
    moment = exp(n * mu * t + n * (n - 1) / 2 * g**2 * t)  # E X_t^n for X_0 = 1, log-normal
    found = claim(place**n, Matrix([mu * place]), Matrix([[g * place]]), Matrix([place])) / place**n
    steps.equal("geometric Brownian motion, phi = x^n", diff(moment, t), found * moment)
    _dynkin_bump(steps, claim)


def _dynkin_bump(steps, claim) -> None:
    """phi = (1 - x²)³ cos t on [-1, 1], 0 elsewhere, for dX = -X dt + dW from 1/5, up to t = 1."""
    phi = (1 - x**2) ** 3 * sympy.cos(t)
    inside = claim(phi, Matrix([-x]), Matrix([[1]]), Matrix([x]))
    inside, phi = (sympy.lambdify((x, t), f, "numpy") for f in (inside, phi))
    nodes, weights = np.polynomial.legendre.leggauss(80)

    def average(function, time):
        mean, variance = np.exp(-time) / 5, (1 - np.exp(-2 * time)) / 2
        density = np.exp(-((nodes - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        return float(weights @ (function(nodes, time) * density))

    start, end = 0.25, 1.0
    times = (start + end) / 2 + (end - start) / 2 * nodes
    gain = (
        (end - start)
        / 2
        * sum(weight * average(inside, time) for weight, time in zip(weights, times, strict=True))
    )
    steps.close(
        "test function of compact support, from t = 1/4 to 1, by quadrature",
        average(phi, end),
        average(phi, start) + gain,
        tolerance=1e-15,
        why="round-off; for smooth functions 80 Gauss-Legendre nodes are exact to that",
    )


def _fokker_planck(b: Matrix, a: Matrix, p: Expr, z: Matrix) -> Expr:
    """-div(b p) + 1/2 sum of d_i d_j (a_ij p)."""
    index = range(len(z))
    transport = -sum(diff(b[i] * p, z[i]) for i in index)
    return transport + sum(diff(a[i, j] * p, z[i], z[j]) for i in index for j in index) / 2


def _gradient(f: Expr, z: Matrix) -> Matrix:
    return Matrix([diff(f, part) for part in z])


OU_LAW = claims(
    mean=lambda time, start: mu + exp(-theta * time) * (start - mu),
    kernel=lambda time, s: exp(-theta * (time - s)),
    variance=lambda time: g**2 / (2 * theta) * (1 - exp(-2 * theta * time)),
    stationary=g**2 / (2 * theta),
)


@check(
    "prp-ou-law",
    claim=OU_LAW,
    mutants={
        "without the 2 in the exponent": OU_LAW.but(
            variance=lambda time: g**2 / (2 * theta) * (1 - exp(-theta * time))
        ),
        "without the 2 below the line": OU_LAW.but(
            variance=lambda time: g**2 / theta * (1 - exp(-2 * theta * time))
        ),
        "g not squared": OU_LAW.but(
            variance=lambda time: g / (2 * theta) * (1 - exp(-2 * theta * time))
        ),
        "mean that forgets mu": OU_LAW.but(mean=lambda time, start: exp(-theta * time) * start),
        "kernel that reads time from the start": OU_LAW.but(kernel=lambda time, s: exp(-theta * s)),
        "stationary variance doubled": OU_LAW.but(stationary=g**2 / theta),
    },
    covers="the solution, its mean and variance, the density, the stationary law and the limits "
    "of mean and variance, for all theta, g > 0, mu and fixed X_0 on the line",
    omits="other dimensions, in which the coordinates are independent; g = 0, an ODE; random X_0 "
    "other than the stationary one",
)
def ou_law(steps, claim):
    """The formula put into the equation; the variance by integration; the density by its PDE."""
    s, x0 = sympy.Symbol("s", positive=True), sympy.Symbol("x_0", real=True)
    path = claim.mean(t, x0)  # the solution without noise
    kernel = claim.kernel(t, s)
    steps.equal(
        "without noise: d/dt X = -theta (X - mu), X_0 = x_0",
        [diff(path, t) + theta * (path - mu), path.subs(t, 0) - x0],
    )
    steps.equal(
        "a kick at time s enters with factor 1 and then decays at the rate theta",
        [kernel.subs(t, s) - 1, diff(kernel, t) + theta * kernel],
    )
    variance = claim.variance(t)
    steps.equal(
        "v_t is g² times the integral of the squared kernel",
        g**2 * sympy.integrate(kernel**2, (s, 0, t)),
        variance,
    )
    p = exp(-((x - path) ** 2) / (2 * variance)) / sqrt(variance)
    right = _fokker_planck(Matrix([-theta * (x - mu)]), Matrix([[g**2]]), p, Matrix([x]))
    steps.equal(
        "the density N(mean, v_t) solves the Fokker-Planck equation", (diff(p, t) - right) / p
    )
    steps.equal(
        "started with the stationary variance, the variance stays",
        exp(-2 * theta * t) * claim.stationary + variance,
        claim.stationary,
    )
    steps.equal(
        "mean and v_t tend to mu and to the stationary variance",
        [sympy.limit(f, t, sympy.oo) for f in (path, variance)],
        [mu, claim.stationary],
    )


@check(
    "thm-fokker-planck",
    claim=_fokker_planck,
    mutants={
        "the drift with the other sign": lambda b, a, p, z: _fokker_planck(-b, a, p, z),
        "without the factor 1/2": lambda b, a, p, z: _fokker_planck(b, 2 * a, p, z),
        "a in front of the derivatives": lambda b, a, p, z: (
            _fokker_planck(b, sympy.zeros(*a.shape), p, z)
            + sympy.trace(a * sympy.hessian(p, list(z))) / 2
        ),
        "a between the derivatives": lambda b, a, p, z: (
            _fokker_planck(b, sympy.zeros(*a.shape), p, z)
            + sum(diff(flux, part) for flux, part in zip(a * _gradient(p, z), z, strict=True)) / 2
        ),
        "without the mixed derivatives": lambda b, a, p, z: _fokker_planck(
            b, sympy.diag(*a.diagonal()), p, z
        ),
    },
    covers="part 1: its integration by parts, for every b, a, p and test function in the plane; "
    "the exact density of geometric Brownian motion, whose noise depends on x. The same identity, "
    "with the solution v of the backward equation for the test function, is the sketch of part 2",
    omits="part 2 otherwise: that v is smooth and that the flux at infinity vanishes",
)
def fokker_planck(steps, claim):
    """phi times the right-hand side, minus p times the generator on phi, is a divergence."""
    z = Matrix(symbols("x_1:3", real=True))
    b = Matrix([Function(f"b_{i}")(*z) for i in (1, 2)])
    mixed = Function("a_12")(*z)
    a = Matrix([[Function("a_11")(*z), mixed], [mixed, Function("a_22")(*z)]])
    p, phi = Function("p", positive=True)(*z), Function("phi")(*z)
    generator = b.dot(_gradient(phi, z)) + sympy.trace(a * sympy.hessian(phi, list(z))) / 2
    flux = [
        -b[i] * p * phi
        + sum(phi * diff(a[i, j] * p, z[j]) - a[i, j] * p * diff(phi, z[j]) for j in range(2)) / 2
        for i in range(2)
    ]
    steps.equal(
        "phi (right-hand side) - p (generator on phi) = div of a flux that vanishes with phi",
        phi * claim(b, a, p, z) - p * generator,
        sum(diff(flux[i], z[i]) for i in range(2)),
    )
    place = sympy.Symbol("x", positive=True)
    spread = (log(place) - (mu - g**2 / 2) * t) ** 2 / (2 * g**2 * t)
    density = exp(-spread) / (place * sqrt(t))  # of exp((mu - g²/2) t + g W_t)
    right = claim(Matrix([mu * place]), Matrix([[g**2 * place**2]]), density, Matrix([place]))
    steps.equal(
        "the log-normal density of geometric Brownian motion solves the equation",
        (diff(density, t) - right) / density,
    )


TRANSPORT = claims(
    diffusion=lambda b, noise, p, z: (
        -sum(diff(b[i] * p, z[i]) for i in range(len(z)))
        + noise**2 / 2 * sum(diff(p, part, 2) for part in z)
    ),
    velocity=lambda b, noise, p, z: b - noise**2 / 2 * _gradient(log(p), z),
)


@check(
    "cor-fp-transport",
    claim=TRANSPORT,
    mutants={
        "the score added": TRANSPORT.but(
            velocity=lambda b, noise, p, z: b + noise**2 / 2 * _gradient(log(p), z)
        ),
        "without the factor 1/2": TRANSPORT.but(
            velocity=lambda b, noise, p, z: b - noise**2 * _gradient(log(p), z)
        ),
        "the gradient of p for the score": TRANSPORT.but(
            velocity=lambda b, noise, p, z: b - noise**2 / 2 * _gradient(p, z)
        ),
        "g not squared": TRANSPORT.but(
            velocity=lambda b, noise, p, z: b - noise / 2 * _gradient(log(p), z)
        ),
        "the Laplacian without the factor 1/2": TRANSPORT.but(
            diffusion=lambda b, noise, p, z: (
                -sum(diff(b[i] * p, z[i]) for i in range(len(z)))
                + noise**2 * sum(diff(p, part, 2) for part in z)
            )
        ),
    },
    covers="both lines for every drift b(x, t), every g(t) and every positive p(x, t) in the plane",
    omits="other dimensions, which add terms of the same form",
)
def fp_transport(steps, claim):
    """All three right-hand sides written out with general functions."""
    z = Matrix(symbols("x_1:3", real=True))
    noise = Function("g")(t)
    b = Matrix([Function(f"b_{i}")(*z, t) for i in (1, 2)])
    p = Function("p", positive=True)(*z, t)
    exact = _fokker_planck(b, noise**2 * sympy.eye(2), p, z)
    steps.equal("first line", claim.diffusion(b, noise, p, z), exact)
    velocity = claim.velocity(b, noise, p, z)
    steps.equal(
        "second line: minus the divergence of the velocity times p",
        -sum(diff(velocity[i] * p, z[i]) for i in range(2)),
        exact,
    )


@check(
    "thm-langevin",
    claim=lambda noise, score: noise**2 / 2 * score,
    mutants={
        "without the factor 1/2": lambda noise, score: noise**2 * score,
        "down the density": lambda noise, score: -(noise**2) / 2 * score,
        "g not squared": lambda noise, score: noise / 2 * score,
        "the drift of g = sqrt(2)": lambda noise, score: score,
    },
    covers="stationarity for every positive p in the plane and every g(t); that the generator has "
    "mean 0 under p, for every test function",
    omits="from the equation to the law of X_t, which is part 2 of the theorem on Fokker-Planck",
)
def langevin_stationary(steps, claim):
    """The right-hand side of the Fokker-Planck equation at p itself."""
    z = Matrix(symbols("x_1:3", real=True))
    noise = Function("g")(t)
    p, phi = Function("p", positive=True)(*z), Function("phi")(*z)
    b = claim(noise, _gradient(log(p), z))
    steps.equal(
        "the right-hand side of the Fokker-Planck equation vanishes at p",
        _fokker_planck(b, noise**2 * sympy.eye(2), p, z),
    )
    slope = _gradient(phi, z)
    generator = b.dot(slope) + noise**2 / 2 * sum(diff(phi, part, 2) for part in z)
    steps.equal(
        "p (generator on phi) = div(g²/2 p grad phi), whose integral is 0",
        p * generator,
        sum(diff(noise**2 / 2 * p * slope[i], z[i]) for i in range(2)),
    )


OU_IS_LANGEVIN = claims(
    theta=lambda noise, variance: noise**2 / (2 * variance),
    variance=lambda noise, rate: noise**2 / (2 * rate),
)


@check(
    "cor-ou-is-langevin",
    claim=OU_IS_LANGEVIN,
    mutants={
        "theta without the factor 1/2": OU_IS_LANGEVIN.but(theta=lambda noise, var: noise**2 / var),
        "g not squared": OU_IS_LANGEVIN.but(theta=lambda noise, var: noise / (2 * var)),
        "theta upside down": OU_IS_LANGEVIN.but(theta=lambda noise, var: 2 * var / noise**2),
        "v without the factor 1/2": OU_IS_LANGEVIN.but(
            variance=lambda noise, rate: noise**2 / rate
        ),
    },
    covers="every mu, v, g and theta, in the plane",
    omits="nothing but other dimensions, in which the coordinates do not interact",
)
def ou_is_langevin(steps, claim):
    """The drift of Langevin dynamics from SymPy's derivative of the Gaussian log-density."""
    z, centre = (Matrix(symbols(f"{name}_1:3", real=True)) for name in ("x", "mu"))

    def drift(variance):
        away = z - centre
        return g**2 / 2 * _gradient(-away.dot(away) / (2 * variance), z)

    steps.equal(
        "Langevin drift for N(mu, v I) is -theta (x - mu)",
        drift(v),
        -claim.theta(g, v) * (z - centre),
    )
    steps.equal("and every theta arises so", drift(claim.variance(g, theta)), -theta * (z - centre))


def _contraction(rate):
    return lambda noise, kappa, time: exp(-rate(noise, kappa) * time)


@check(
    "prp-langevin-contraction",
    claim=_contraction(lambda noise, kappa: noise**2 * kappa / 2),
    mutants={
        "the rate of the square": _contraction(lambda noise, kappa: noise**2 * kappa),
        "g not squared": _contraction(lambda noise, kappa: noise * kappa / 2),
        "kappa upside down": _contraction(lambda noise, kappa: noise**2 / (2 * kappa)),
        "without g": _contraction(lambda noise, kappa: kappa),
    },
    covers="Gaussians on the line: equality when q_0 is p shifted, the bound for other variances; "
    "for the density of score -k x - x³, how fast two copies with the same kicks approach",
    omits="other densities and dimensions; that the copy started in p stays in p, which is the "
    "theorem on Langevin dynamics",
)
def langevin_contraction(steps, claim):
    """Exact laws and the closed form of W_2 between Gaussians on the line."""
    rate = g**2 / (2 * v)
    start, width = symbols("m_0 s_0", positive=True)
    mean = exp(-rate * t) * start  # p has mean 0
    variance = exp(-2 * rate * t) * width**2 + v * (1 - exp(-2 * rate * t))
    square = mean**2 + (sqrt(variance) - sqrt(v)) ** 2  # of the distance of q_t and p
    shifted = sympy.simplify(square.subs(width, sqrt(v)))
    steps.equal(
        "q_0 = p shifted by m_0: W_2(q_t, p) = factor · m_0",
        shifted,
        (claim(g, 1 / v, t) * start) ** 2,
    )
    for scale, offset in ((Rational(1, 5), 0), (3, 0), (2, 1), (Rational(1, 2), 2)):
        point = {g: Rational(6, 5), v: Rational(9, 4), start: offset, width: scale}
        ratio = (square / square.subs(t, 0)).subs(point)
        factor = claim(g, 1 / v, t).subs(point) ** 2
        steps.true(
            f"q_0 = N({offset}, {scale}²), t = 1/10, 1, 4: W_2 at most factor · W_2 at t = 0",
            all(ratio.subs(t, s) <= factor.subs(t, s) for s in (Rational(1, 10), 1, 4)),
        )
    kappa = sympy.Symbol("kappa", positive=True)
    score = -kappa * x - x**3
    rate = -diff(claim(g, kappa, t), t) / claim(g, kappa, t)
    growth = g**2 * (score - score.subs(x, y)) * (x - y) + 2 * rate * (x - y) ** 2
    steps.equal(
        "score -k x - x³: d/dt|X - Y|² + 2 rate |X - Y|² is minus a sum of squares times |X - Y|²",
        growth,
        -(g**2) / 2 * ((x + y) ** 2 + x**2 + y**2) * (x - y) ** 2,
    )


DE_BRUIJN = claims(
    density=lambda noise, q, r, z: -(noise**2) / 2 * q * _gradient(r, z).dot(_gradient(r, z)),
    sobolev=lambda kappa, fisher: fisher / (2 * kappa),
    decay=lambda noise, kappa, time: exp(-(noise**2) * kappa * time),
)


@check(
    "prp-de-bruijn",
    claim=DE_BRUIJN,
    mutants={
        "without the factor 1/2": DE_BRUIJN.but(
            density=lambda noise, q, r, z: -(noise**2) * q * _gradient(r, z).dot(_gradient(r, z))
        ),
        "with the other sign": DE_BRUIJN.but(
            density=lambda noise, q, r, z: noise**2 / 2 * q * _gradient(r, z).dot(_gradient(r, z))
        ),
        "weighted by p": DE_BRUIJN.but(
            density=lambda noise, q, r, z: (
                -(noise**2) / 2 * q * exp(-r) * _gradient(r, z).dot(_gradient(r, z))
            )
        ),
        "the score of q alone": DE_BRUIJN.but(
            density=lambda noise, q, r, z: (
                -(noise**2) / 2 * q * _gradient(log(q), z).dot(_gradient(log(q), z))
            )
        ),
        "the rate of W_2": DE_BRUIJN.but(
            decay=lambda noise, kappa, time: exp(-(noise**2) * kappa * time / 2)
        ),
        "the Sobolev inequality without the factor 1/2": DE_BRUIJN.but(
            sobolev=lambda kappa, fisher: fisher / kappa
        ),
    },
    covers="the identity for every p and q_t in the plane, up to a divergence whose flux at "
    "infinity is assumed to vanish; the integrals for Gaussians on the line, with equality in the "
    "inequality and in the decay for a shifted p; that the one gives the other",
    omits="differentiation under the integral and the logarithmic Sobolev inequality, both "
    "assumed in the statement",
)
def de_bruijn(steps, claim):
    """The density of d/dt KL with general functions, then all integrals for Gaussians."""
    z = Matrix(symbols("x_1:3", real=True))
    p, q = (Function(name, positive=True)(*z) for name in "pq")
    r = log(q) - log(p)
    d_q = _fokker_planck(g**2 / 2 * _gradient(log(p), z), g**2 * sympy.eye(2), q, z)
    flux = g**2 / 2 * q * (r + 1) * _gradient(r, z)
    steps.equal(
        "(r + 1) d_t q = claimed density + div of g²/2 q (r + 1) grad r",
        (r + 1) * d_q,
        claim.density(g, q, r, z) + sum(diff(flux[i], z[i]) for i in range(2)),
    )

    start, width = symbols("m_0 s_0", positive=True)
    rate = g**2 / (2 * v)
    mean = exp(-rate * t) * start
    variance = exp(-2 * rate * t) * width**2 + v * (1 - exp(-2 * rate * t))
    m, s2 = symbols("m s2", positive=True)
    log_q = -((x - m) ** 2) / (2 * s2) - log(s2) / 2
    log_p = -(x**2) / (2 * v) - log(v) / 2

    def average(f):  # under N(m, s2)
        return _mean(f.subs(x, m + w), {w: s2})

    exact = {m: mean, s2: variance}
    kl = average(expand(log_q - log_p)).subs(exact)
    # The claim is linear in q: with 1 for q it is what is averaged under q.
    local = claim.density(g, sympy.Integer(1), log_q - log_p, Matrix([x]))
    steps.equal("Gaussians: d/dt KL is the integral", diff(kl, t), average(local).subs(exact))
    shifted = sympy.simplify(kl.subs(width, sqrt(v)))
    fisher = -diff(kl, t).subs(width, sqrt(v)) / (g**2 / 2)
    steps.equal(
        "q_0 = p shifted: equality in the logarithmic Sobolev inequality with kappa = 1/v",
        shifted,
        claim.sobolev(1 / v, fisher),
    )
    kappa = sympy.Symbol("kappa", positive=True)
    steps.equal(
        "the identity with the inequality: d/dt KL = -(rate of decay) KL if both are equalities",
        -(g**2) / 2,
        diff(claim.decay(g, kappa, t), t) / claim.decay(g, kappa, t) * claim.sobolev(kappa, 1),
    )
    steps.equal(
        "q_0 = p shifted: KL(q_t, p) = e^(-g² kappa t) KL(q_0, p) with kappa = 1/v",
        shifted,
        claim.decay(g, 1 / v, t) * shifted.subs(t, 0),
    )


def _root(step: mpmath.mpf, exponent: Expr) -> mpmath.mpf:
    """The root of h^exponent: the size of an error whose mean square is that."""
    return step ** (mpmath.mpmathify(sympy.sympify(exponent)) / 2)


STRONG_ORDER = claims(
    systematic=lambda gamma: 2 * gamma + 2,
    centred=lambda gamma: 2 * gamma + 1,
    overall=lambda gamma: 2 * gamma,
)


@check(
    "lem-strong-order",
    claim=STRONG_ORDER,
    mutants={
        "a systematic error as large as a centred one": STRONG_ORDER.but(
            systematic=lambda gamma: 2 * gamma + 1
        ),
        "a centred error half an order larger": STRONG_ORDER.but(centred=lambda gamma: 2 * gamma),
        "half an order more overall": STRONG_ORDER.but(overall=lambda gamma: 2 * gamma + 1),
        "half an order less overall": STRONG_ORDER.but(overall=lambda gamma: 2 * gamma - 1),
        "a centred error half an order smaller": STRONG_ORDER.but(
            centred=lambda gamma: 2 * gamma + 2, systematic=lambda gamma: 2 * gamma + 3
        ),
    },
    covers="scalar errors e_{k+1} = (1 + a h + b sqrt(h) Z) e_k + R + M with the largest R and M "
    "that are allowed, for orders 1/2, 1 and 3/2: with steps down to 2^-40 the exact mean square "
    "stays below the bound with the constants of the proof; at steps of 2^-80 the order is gamma, "
    "neither less nor more",
    omits="general maps, for which only the proof's chain of inequalities speaks",
)
def strong_order(steps, claim):
    """First and second moments of the error by their exact recursion, a power of a matrix."""
    c = end = 1
    growth = max(4 * c + 1 + 3 * c * end, 4 * c + 2 * c * end)  # the proof's C''

    def square(gamma, level):
        """E e_N² with steps h = 2^-level. R and M are as large as C = 1 allows."""
        step = mpmath.mpf(2) ** -level
        a, b = mpmath.mpf(3) / 5, mpmath.mpf(4) / 5  # a² + b² = C: the stability holds for h <= 1
        systematic = _root(step, claim.systematic(gamma))
        centred = _root(step, claim.centred(gamma))
        both = (1 + a * step) * systematic + b * mpmath.sqrt(step) * centred  # one Z in D and M
        matrix = mpmath.matrix(  # takes (E e², E e, 1) to the next step
            [
                [(1 + a * step) ** 2 + b**2 * step, 2 * both, systematic**2 + centred**2],
                [0, 1 + a * step, systematic],
                [0, 0, 1],
            ]
        )
        return (matrix ** (2**level))[0, 2]

    for gamma in (Rational(1, 2), 1, Rational(3, 2)):
        with mp.workdps(40):
            worst = max(
                square(gamma, level)
                / (mpmath.exp(growth * end) - 1)
                / _root(mpmath.mpf(2) ** -level, claim.overall(gamma)) ** 2
                for level in range(0, 41, 4)
            )
        steps.at_most(f"order {gamma}: E e_N² / bound, steps 1 to 2^-40", worst, 1)
        with mp.workdps(120):
            order = mpmath.log(square(gamma, 80) / square(gamma, 81), 2)
        steps.close(
            f"order {gamma} is attained: log_2 of the ratio of E e_N² at steps 2^-80 and 2^-81",
            order,
            claim.overall(gamma),
            tolerance=1e-20,
            why="next order in h, which is 2^-80",
        )


def _local_error(b: Expr, noise: Expr, step) -> tuple[list[Expr], list[Expr]]:
    """Coefficients of 1, h, h² in E e and E e², where e = X_h - step, from X_0 = 0.

    The generator of the pair (X, W), applied n times, gives the n-th derivative of E f(X_h, W_h) at
    h = 0. The fields are polynomials in x and t with general coefficients: two applications see no
    more than their second derivatives.
    """
    error = x - step(h, w)
    letters = sorted((error + b + noise).free_symbols | {x, w, t, h}, key=str)
    b, noise, error = (sympy.Poly(f, *letters) for f in (b, noise, error))
    here = {x: 0, w: 0, t: 0}

    def generator(f):
        slope = f.diff(x)
        second = (noise * slope.diff(x) / 2 + slope.diff(w)) * noise + f.diff(w).diff(w) / 2
        return f.diff(t) + b * slope + second

    found = []
    for f in (error, error**2):
        total = sympy.Integer(0)
        for n in range(3):
            f = generator(f) if n else f
            total += f.as_expr().subs(here) * h**n / sympy.factorial(n)
        total = expand(total)
        found.append([total.coeff(h, n) for n in range(3)])
    return found[0], found[1]


def _field(name: str, in_time: bool) -> Expr:
    """A general smooth function near (0, 0), to the order that matters."""
    space = sum(sympy.Symbol(f"{name}_{i}", real=True) * x**i for i in range(3))
    if not in_time:
        return space
    return space + t * sum(sympy.Symbol(f"{name}_{i}t", real=True) * x**i for i in range(2))


@cache
def _tilted(n: int) -> Expr:
    """E W^n exp(v W), for W of variance h, by integration."""
    return _integral(w**n * exp(v * w), w, h)


def _gbm_moments(step, drift, noise) -> list[Expr]:
    """E Y², E Y Ŷ, E Ŷ² of one step from 1: exact solution and scheme, which is a polynomial."""
    scheme = sympy.Poly(step(h, w), w)
    decay = (drift - noise**2 / 2) * h
    mixed = sum(c * _tilted(n).subs(v, noise) for (n,), c in scheme.terms())
    squares = exp(2 * decay) * _tilted(0).subs(v, 2 * noise), _mean(scheme.as_expr() ** 2, {w: h})
    return [squares[0], exp(decay) * mixed, squares[1]]


def _gbm_order(step) -> mpmath.mpf:
    """log_2 of the ratio of the errors on geometric Brownian motion, steps 2^-80 and 2^-81."""
    drift, noise = Rational(1, 3), Rational(3, 4)
    moments = [sympy.lambdify(h, m, "mpmath") for m in _gbm_moments(step, drift, noise)]

    def square(level):
        size, number = mpmath.mpf(2) ** -level, 2**level
        both, mixed, scheme = (m(size) ** number for m in moments)
        return both - 2 * mixed + scheme

    with mp.workdps(120):
        return mpmath.log(square(80) / square(81), 2) / 2


def _ou_order() -> mpmath.mpf:
    """The same for Euler-Maruyama on dX = -X dt + dW from 1 to time 1, whose noise is additive."""

    def square(level):
        size, number = mpmath.mpf(2) ** -level, 2**level
        exact, scheme = mpmath.exp(-size), 1 - size

        def total(a, b, one):  # E of the product of two Gaussians that obey linear recursions
            return one * (1 - (a * b) ** number) / (1 - a * b) + (a * b) ** number

        return (
            total(exact, exact, (1 - exact**2) / 2)
            - 2 * total(exact, scheme, 1 - exact)
            + total(scheme, scheme, size)
        )

    with mp.workdps(120):
        return mpmath.log(square(80) / square(81), 2) / 2


EM_STRONG = claims(general=Rational(1, 2), additive=sympy.Integer(1))


@check(
    "thm-em-strong",
    claim=EM_STRONG,
    mutants={
        "order 1 in general, as for ODEs": EM_STRONG.but(general=sympy.Integer(1)),
        "no gain from additive noise": EM_STRONG.but(additive=Rational(1, 2)),
        "order 3/2 for additive noise": EM_STRONG.but(additive=Rational(3, 2)),
        "a quarter in general": EM_STRONG.but(general=Rational(1, 4)),
    },
    covers="the local error for all smooth b(x, t) and g(x, t), or g(t), on the line, to leading "
    "order, as the lemma on strong order needs it; that the orders are attained and not exceeded "
    "on geometric Brownian motion and on the Ornstein-Uhlenbeck process",
    omits="remainder terms, coefficients that are less smooth, several dimensions",
)
def em_strong(steps, claim):
    """Derivatives of E f(X_h, W_h) from the generator; exact errors at tiny steps."""
    b = _field("b", in_time=True)
    general = _field("g", in_time=True)
    additive = sum(sympy.Symbol(f"g_{i}", real=True) * t**i for i in range(3))
    for name, noise, gamma in (
        ("general noise", general, claim.general),
        ("additive noise", additive, claim.additive),
    ):
        start = {x: 0, t: 0}

        def step(size, kick, noise=noise, start=start):
            return b.subs(start) * size + noise.subs(start) * kick

        mean, square = _local_error(b, noise, step)
        steps.equal(
            f"{name}: E[local error] has no power of h below gamma + 1 = {gamma + 1}",
            [c for n, c in enumerate(mean) if n < gamma + 1],
        )
        steps.equal(
            f"{name}: E[local error²] has no power of h below 2 gamma + 1 = {2 * gamma + 1}",
            [c for n, c in enumerate(square) if n < 2 * gamma + 1],
        )
    why = "next order in h, which is 2^-80"
    order = _gbm_order(lambda size, kick: 1 + size / 3 + Rational(3, 4) * kick)
    steps.close(
        "order on geometric Brownian motion", order, claim.general, tolerance=1e-20, why=why
    )
    steps.close(
        "order on the Ornstein-Uhlenbeck process",
        _ou_order(),
        claim.additive,
        tolerance=1e-20,
        why=why,
    )


def _milstein(correction):
    def step(b: Expr, noise: Expr, place: Expr, size: Expr, kick: Expr) -> Expr:
        slope = diff(noise, x)
        at = [f.subs(x, place) for f in (b, noise, slope)]
        return place + at[0] * size + at[1] * kick + correction(at[1], at[2], size, kick)

    return step


MILSTEIN = claims(
    step=_milstein(lambda noise, slope, size, kick: noise * slope * (kick**2 - size) / 2),
    order=sympy.Integer(1),
)


@check(
    "prp-milstein",
    claim=MILSTEIN,
    mutants={
        "without the factor 1/2": MILSTEIN.but(
            step=_milstein(lambda noise, slope, size, kick: noise * slope * (kick**2 - size))
        ),
        "without subtracting h": MILSTEIN.but(
            step=_milstein(lambda noise, slope, size, kick: noise * slope * kick**2 / 2)
        ),
        "g' alone": MILSTEIN.but(
            step=_milstein(lambda noise, slope, size, kick: slope * (kick**2 - size) / 2)
        ),
        "no correction": MILSTEIN.but(
            step=_milstein(lambda noise, slope, size, kick: sympy.Integer(0))
        ),
        "order 3/2": MILSTEIN.but(order=Rational(3, 2)),
        "order 1/2": MILSTEIN.but(order=Rational(1, 2)),
    },
    covers="the local error for all smooth b(x) and g(x), to leading order, as the lemma on strong "
    "order needs it; that order 1 is attained and not exceeded on geometric Brownian motion",
    omits="remainder terms; coefficients that are only C²",
)
def milstein_order(steps, claim):
    """Derivatives of E f(X_h, W_h) from the generator; exact errors at tiny steps."""
    b, noise = _field("b", in_time=False), _field("g", in_time=False)
    mean, square = _local_error(
        b, noise, lambda size, kick: claim.step(b, noise, sympy.Integer(0), size, kick)
    )
    gamma = claim.order
    steps.equal(
        f"E[local error] has no power of h below gamma + 1 = {gamma + 1}",
        [c for n, c in enumerate(mean) if n < gamma + 1],
    )
    steps.equal(
        f"E[local error²] has no power of h below 2 gamma + 1 = {2 * gamma + 1}",
        [c for n, c in enumerate(square) if n < 2 * gamma + 1],
    )
    order = _gbm_order(
        lambda size, kick: claim.step(x / 3, Rational(3, 4) * x, sympy.Integer(1), size, kick)
    )
    steps.close(
        "order on geometric Brownian motion",
        order,
        gamma,
        tolerance=1e-20,
        why="next order in h, which is 2^-80",
    )


def _gbm_square(factor):
    def square(drift: Expr, noise: Expr, size: Expr, number: int, c: Expr) -> Expr:
        mixed = exp(drift * size) * (1 + drift * size + c)
        return (
            exp((2 * drift + noise**2) * number * size)
            - factor * mixed**number
            + ((1 + drift * size) ** 2 + c) ** number
        )

    return square


GBM_ERROR = claims(
    square=_gbm_square(2),
    euler=lambda noise, size: noise**2 * size,
    milstein=lambda noise, size: noise**2 * size + noise**4 * size**2 / 2,
    euler_leading=lambda noise, end: noise**2 * sqrt(end / 2) * exp(noise**2 * end / 2),
    milstein_leading=lambda noise, end: noise**3 * sqrt(end / 6) * exp(noise**2 * end / 2),
)


@check(
    "prp-gbm-error",
    claim=GBM_ERROR,
    mutants={
        "the mixed term once": GBM_ERROR.but(square=_gbm_square(1)),
        "Milstein's c without the factor 1/2": GBM_ERROR.but(
            milstein=lambda noise, size: noise**2 * size + noise**4 * size**2
        ),
        "g not squared in c": GBM_ERROR.but(euler=lambda noise, size: noise * size),
        "leading term of Euler-Maruyama without 1/2 under the root": GBM_ERROR.but(
            euler_leading=lambda noise, end: noise**2 * sqrt(end) * exp(noise**2 * end / 2)
        ),
        "leading term of Milstein with 1/3 for 1/6": GBM_ERROR.but(
            milstein_leading=lambda noise, end: noise**3 * sqrt(end / 3) * exp(noise**2 * end / 2)
        ),
        "leading term of Euler-Maruyama without the root of T/2": GBM_ERROR.but(
            euler_leading=lambda noise, end: noise**2 * exp(noise**2 * end / 2)
        ),
        "leading term that grows like the variance": GBM_ERROR.but(
            euler_leading=lambda noise, end: noise**2 * sqrt(end / 2) * exp(noise**2 * end)
        ),
    },
    covers="the formula for one, two and three steps with every mu, g and h, by integrating over "
    "the kicks; the leading terms at g = 3/4, T = 3 with 2^80 steps",
    omits="more steps, which multiply in the same way",
)
def gbm_error(steps, claim):
    """Gaussian integrals over one step; the steps are independent factors."""

    def euler(size, kick):
        return 1 + mu * size + g * kick

    def milstein(size, kick):
        return euler(size, kick) + g**2 * (kick**2 - size) / 2

    why = "next order in h, which is 2^-79"
    for name, step, c, leading, power in (
        ("Euler-Maruyama", euler, claim.euler, claim.euler_leading, 1),
        ("Milstein", milstein, claim.milstein, claim.milstein_leading, 2),
    ):
        both, mixed, scheme = _gbm_moments(step, mu, g)
        for number in (1, 2, 3):
            steps.equal(
                f"{name}, {number} step(s): E(product of Y - product of Ŷ)²",
                both**number - 2 * mixed**number + scheme**number,
                claim.square(mu, g, h, number, c(g, h)),
            )
        with mp.workdps(120):
            noise, end, number = mpmath.mpf(3) / 4, mpmath.mpf(3), 2**80
            size = end / number
            # With mu = 0 the mixed moment equals that of the scheme.
            one = sympy.lambdify((g, h), scheme.subs(mu, 0), "mpmath")(noise, size)
            square = mpmath.exp(noise**2 * end) - one**number
            constant = mpmath.sqrt(square / size**power)
            predicted = leading(Rational(3, 4), sympy.Integer(3))
        steps.close(
            f"{name}, mu = 0: error / h^({power}/2) with 2^80 steps",
            constant,
            predicted,
            tolerance=1e-20,
            why=why,
        )


EM_OU = claims(
    mean=lambda start, k: mu + (1 - theta * h) ** k * (start - mu),
    variance=lambda k: g**2 / (2 * theta) * (1 - (1 - theta * h) ** (2 * k)) / (1 - theta * h / 2),
    limit=g**2 / (2 * theta) / (1 - theta * h / 2),
    threshold=sympy.Integer(2),
    constant=lambda end: (
        g**2
        / (2 * theta)
        * (theta / 2 * (1 - exp(-2 * theta * end)) + theta**2 * end * exp(-2 * theta * end))
    ),
    mean_constant=lambda start, end: -(theta**2) / 2 * end * exp(-theta * end) * (start - mu),
)


@check(
    "prp-em-ou",
    claim=EM_OU,
    mutants={
        "a plus below the line": EM_OU.but(
            variance=lambda k: (
                g**2 / (2 * theta) * (1 - (1 - theta * h) ** (2 * k)) / (1 + theta * h / 2)
            )
        ),
        "rho^k for rho^(2k)": EM_OU.but(
            variance=lambda k: g**2 / (2 * theta) * (1 - (1 - theta * h) ** k) / (1 - theta * h / 2)
        ),
        "mean that forgets mu": EM_OU.but(mean=lambda start, k: (1 - theta * h) ** k * start),
        "no bias": EM_OU.but(limit=g**2 / (2 * theta)),
        "the threshold of monotone decay": EM_OU.but(threshold=sympy.Integer(1)),
        "error constant without its second term": EM_OU.but(
            constant=lambda end: g**2 / 4 * (1 - exp(-2 * theta * end))
        ),
        "error of the mean without the factor 1/2": EM_OU.but(
            mean_constant=lambda start, end: -(theta**2) * end * exp(-theta * end) * (start - mu)
        ),
    },
    covers="mean and variance of every step, by induction; limit and threshold; the constants C "
    "of the errors of mean and variance that the proof gives, at one theta, g, mu, x_0 and T",
    omits="that the law is Gaussian; test functions other than the first two powers",
)
def em_ou(steps, claim):
    """The recursion of mean and variance; limits by SymPy and at a tiny step."""
    k = sympy.Symbol("k", integer=True, positive=True)
    start = sympy.Symbol("x_0", real=True)
    mean, variance = claim.mean(start, k), claim.variance(k)
    # X' - mu = (1 - theta h)(X - mu) + g dW
    steps.equal(
        "mean: the first value, and from each to the next",
        [
            claim.mean(start, 0) - start,
            mean - theta * h * (mean - mu) - claim.mean(start, k + 1),
        ],
    )
    steps.equal(
        "variance: 0 at first, and from each to the next",
        [claim.variance(0), (1 - theta * h) ** 2 * variance + g**2 * h - claim.variance(k + 1)],
    )
    steps.equal(
        "the limit is the fixed point of the recursion",
        (1 - theta * h) ** 2 * claim.limit + g**2 * h,
        claim.limit,
    )
    edge = claim.threshold
    steps.true("at the threshold of theta h the factor is 1 in size", abs(1 - edge) == 1)
    tiny = Rational(1, 1000)
    steps.true(
        "below it the size is less than 1, above it more",
        abs(1 - edge + tiny) < 1 < abs(1 - edge - tiny),
    )
    with mp.workdps(120):
        number, end = 2**80, mpmath.mpf(3)
        size = end / number
        at = {theta: Rational(3, 4), g: Rational(6, 5), mu: Rational(1, 3), start: 2}
        scheme = [
            sympy.lambdify((h, k), f.subs(at), "mpmath")(size, number) for f in (variance, mean)
        ]
        rate, noise = mpmath.mpf(3) / 4, mpmath.mpf(6) / 5
        decay = mpmath.exp(-rate * end)
        # The exact variance solves v' = -2 theta v + g², the exact mean m' = -theta (m - mu).
        exact = noise**2 / (2 * rate) * (1 - decay**2), mpmath.mpf(1) / 3 * (1 - decay) + 2 * decay
        slopes = [(a - b) / size for a, b in zip(scheme, exact, strict=True)]
    constant = claim.constant(sympy.Integer(3)).subs(at)
    why = "next order in h, which is 2^-79"
    steps.close(
        "(variance of the scheme - exact) / h at T = 3 with 2^80 steps",
        slopes[0],
        constant,
        tolerance=1e-20,
        why=why,
    )
    steps.true("the constant is positive: no better than order 1", constant > 0)
    steps.close(
        "(mean of the scheme - exact) / h at T = 3: -theta² T e^(-theta T) (x_0 - mu) / 2",
        slopes[1],
        claim.mean_constant(start, sympy.Integer(3)).subs(at),
        tolerance=1e-20,
        why=why,
    )
