"""Checks of the chapter on editing and inverse problems."""

from __future__ import annotations

import sympy
from sympy import Matrix, diff, exp, integrate, log, oo, pi, simplify, symbols

from fromnoise.derivations.checking import check, claims

a, s, b, n, k = symbols("alpha sigma b varsigma A", positive=True)  # n: measurement noise
x, y, m, z, w, c = symbols("x y m z w c", real=True)
V = a**2 * b + s**2
D = m + a * b / V * (x - a * m)  # the denoiser of N(m, b)
SPREAD = b * s**2 / V  # variance of X_1 given X_t


def _log_normal(place, mean, variance):
    return -((place - mean) ** 2) / (2 * variance) - log(2 * pi * variance) / 2


@check(
    "thm-posterior-score",
    claim=lambda gradient: D + s**2 / a * gradient,
    mutants={
        "without alpha": lambda gradient: D + s**2 * gradient,
        "minus": lambda gradient: D - s**2 / a * gradient,
        "sigma": lambda gradient: D + s / a * gradient,
    },
    covers="normal data and a normal likelihood on the line, for every schedule: the denoiser of "
    "the posterior, computed from the posterior itself",
    omits="other laws (the proof is Bayes' rule)",
)
def posterior_score(steps, claim):
    """The posterior is N(mu, v): its own denoiser against the guided one."""
    v = 1 / (1 / b + k**2 / n**2)
    mu = m + b * k / (k**2 * b + n**2) * (y - k * m)
    own = mu + a * v / (a**2 * v + s**2) * (x - a * mu)
    evidence = _log_normal(y, k * D, k**2 * SPREAD + n**2)
    steps.equal("denoiser of the posterior", simplify(claim(diff(evidence, x)) - own))


LINEAR = claims(
    spread=lambda: k**2 * SPREAD + n**2,
    jacobian=lambda: a / s**2 * SPREAD,
    mean=lambda: m + b * k / (k**2 * b + n**2) * (y - k * m),
    variance=lambda: 1 / (1 / b + k**2 / n**2),
)


@check(
    "thm-linear-gaussian",
    claim=LINEAR,
    mutants={
        "no measurement noise": LINEAR.but(spread=lambda: k**2 * SPREAD),
        "A once": LINEAR.but(spread=lambda: k * SPREAD + n**2),
        "the Jacobian without sigma": LINEAR.but(jacobian=lambda: a * SPREAD),
        "the prior's variance": LINEAR.but(variance=lambda: b),
    },
    covers="the line: posterior by completing the square, p_t(y | x) by integrating over the "
    "datum, the Jacobian by differentiating",
    omits="more dimensions (tests compare matrices)",
)
def linear_gaussian(steps, claim):
    """Exponents of normal laws."""
    exponent = _log_normal(z, m, b) + _log_normal(y, k * z, n**2)
    curvature = -diff(exponent, z, 2)
    steps.equal("posterior variance", 1 / curvature, claim.variance())
    steps.equal("posterior mean", simplify(diff(exponent, z).subs(z, claim.mean())))
    # y given x: datum N(D, SPREAD); integrate it out
    inner = exp(_log_normal(z, D, SPREAD) + _log_normal(y, k * z, n**2))
    for values in ({a: 1, s: 2, b: 3, n: 1, k: 2, m: 1, x: 2, y: -1},):
        total = integrate(inner.subs(values), (z, -oo, oo))
        density = exp(_log_normal(y, k * D, claim.spread())).subs(values)
        steps.close(
            "p_t(y | x)",
            sympy.N(total, 30),
            sympy.N(density, 30),
            tolerance=1e-25,
            why="an integral done by SymPy",
        )
    steps.equal("Jacobian", diff(D, x), simplify(claim.jacobian()))


@check(
    "prp-dps-bias",
    claim=lambda: 1 + k**2 * SPREAD / n**2,
    mutants={
        "no factor": lambda: sympy.Integer(1),
        "inverse": lambda: 1 / (1 + k**2 * SPREAD / n**2),
        "without A": lambda: 1 + SPREAD / n**2,
    },
    covers="the line, every schedule and measurement: the ratio of both gradients and its limits",
    omits="more dimensions",
)
def dps_bias(steps, claim):
    """Differentiate both logarithms."""
    exact = diff(_log_normal(y, k * D, k**2 * SPREAD + n**2), x)
    guess = diff(_log_normal(y, k * D, n**2), x)
    steps.equal("ratio", simplify(guess / exact), claim())
    steps.equal("at the data", claim().subs(s, 0), 1)
    steps.equal("at the noise", claim().subs(a, 0), 1 + k**2 * b / n**2)


@check(
    "prp-pigdm",
    claim=lambda: b * s**2 / (a**2 * b + s**2),
    mutants={
        "sigma^2": lambda: s**2,
        "b = 1": lambda: s**2 / (a**2 + s**2),
        "sigma^2 / alpha^2": lambda: s**2 / a**2,
    },
    covers="data N(m, b I) in the plane and every measurement of one number: the guessed against "
    "the exact covariance",
    omits="more measurements; the limit of no noise",
)
def pigdm(steps, claim):
    """A Sigma_t A^T with Sigma_t by conditioning."""
    row = Matrix([[symbols("A_1", real=True), symbols("A_2", real=True)]])
    identity = sympy.eye(2)
    conditional = s**2 * (a**2 * b * identity + s**2 * identity).inv() * (b * identity)
    exact = row * conditional * row.T + n**2 * sympy.eye(1)
    guess = claim() * row * row.T + n**2 * sympy.eye(1)
    steps.equal("covariance", (exact - guess).applyfunc(simplify))


REPLACEMENT = claims(
    posterior=c * s**2 / (a**2 * (1 - c**2) + s**2),
    replaced=c * a**2 * s**2 / ((a**2 + s**2) ** 2 - c**2 * a**4),
)


@check(
    "prp-replacement-bias",
    claim=REPLACEMENT,
    mutants={
        "the same": REPLACEMENT.but(replaced=REPLACEMENT.posterior),
        "alpha once": REPLACEMENT.but(replaced=c * a * s**2 / ((a**2 + s**2) ** 2 - c**2 * a**4)),
        "without the correlation": REPLACEMENT.but(posterior=c * s**2 / (a**2 + s**2)),
    },
    covers="every correlation and schedule: both regressions by inverting covariance matrices; the "
    "ratio, and that it is below one",
    omits="nothing",
)
def replacement_bias(steps, claim):
    """Linear regression of X_1^(2)."""
    # on (X_t^(2), X_1^(1)): covariances with X_1^(2) are (alpha, c)
    first = Matrix([[a**2 + s**2, a * c], [a * c, 1]])
    gain = first.inv() * Matrix([a, c])
    steps.equal("posterior", simplify(gain[1]), claim.posterior)
    # on (X_t^(1), X_t^(2)), the first being alpha y in the mean
    second = Matrix([[a**2 + s**2, a**2 * c], [a**2 * c, a**2 + s**2]])
    gain = second.inv() * Matrix([a * c, a])
    steps.equal("replacement", simplify(a * gain[0]), claim.replaced)
    gap = (a**2 + s**2) ** 2 - c**2 * a**4 - a**2 * (a**2 + s**2 - c**2 * a**2)
    left = sympy.expand(s**2 * (a**2 + s**2))
    steps.equal("difference of the ratio from 1", sympy.expand(gap), left)
    ratio = claim.replaced / claim.posterior
    steps.equal(
        "ratio",
        simplify(ratio),
        a**2 * (a**2 + s**2 - c**2 * a**2) / ((a**2 + s**2) ** 2 - c**2 * a**4),
    )


@check(
    "prp-sdedit",
    claim=lambda distance: a**2 / (2 * s**2) * distance,
    mutants={
        "a quarter": lambda distance: a**2 / (4 * s**2) * distance,
        "alpha": lambda distance: a / (2 * s**2) * distance,
        "minus": lambda distance: -(a**2) / (2 * s**2) * distance,
    },
    covers="one datum, where it is an equality before the sampler; normal data on the line at "
    "numbers, where it is an inequality",
    omits="that the sampler does not increase relative entropy",
)
def sdedit(steps, claim):
    """Relative entropy of two normal laws."""
    start, datum = symbols("a_in x_1", real=True)
    ratio = _log_normal(z, a * start, s**2) - _log_normal(z, a * datum, s**2)
    expanded = sympy.expand(sympy.expand_log(ratio, force=True))
    mean = (
        expanded.coeff(z, 2) * ((a * start) ** 2 + s**2)
        + expanded.coeff(z, 1) * a * start
        + expanded.coeff(z, 0)
    )
    steps.equal("one datum", simplify(mean), claim((start - datum) ** 2))
    total = a**2 * b + s**2
    full = (s**2 / total - 1 + (a * start) ** 2 / total + log(total / s**2)) / 2
    bound = claim(start**2 + b)
    for values in ({a: 1, s: 1, b: 1, start: 2}, {a: 1, s: 3, b: 4, start: 1}):
        steps.at_most("normal data", sympy.N(full.subs(values)), sympy.N(bound.subs(values)))


@check(
    "prp-loss-guidance",
    claim=lambda slope: exp(slope * D + slope**2 * SPREAD / 2),
    mutants={
        "without the variance": lambda slope: exp(slope * D),
        "twice the variance": lambda slope: exp(slope * D + slope**2 * SPREAD),
        "a variance that depends on x": lambda slope: exp(
            slope * D + slope**2 * SPREAD * (1 + x**2) / 2
        ),
    },
    covers="normal data on the line and every linear loss; the gradient of its logarithm",
    omits="other losses",
)
def loss_guidance(steps, claim):
    """The moment generating function, by completing the square."""
    value = claim(w)
    # E e^(w X) for X ~ N(D, SPREAD): the exponent minus its value at the maximum
    exponent = w * z - (z - D) ** 2 / (2 * SPREAD)
    top = sympy.solve(diff(exponent, z), z)[0]
    steps.equal("mean of the exponential", simplify(log(value) - exponent.subs(z, top)))
    steps.equal("gradient", diff(log(value), x), w * diff(D, x))
