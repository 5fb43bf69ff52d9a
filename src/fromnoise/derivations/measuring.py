"""Checks of the chapter on measuring generators."""

from __future__ import annotations

from itertools import product

import sympy
from mpmath import mp
from sympy import Matrix, Rational, binomial, det, diff, integrate, log, sqrt, symbols, trace

from fromnoise.derivations.checking import check, claims

m, m2 = symbols("m m_2", real=True)
v, v2, n = symbols("v v_2 n", positive=True)


# -- the bias of the Fréchet distance -------------------------------------------------------------


def _bias(lam, count, diagonal=2, means=2):
    first = Rational(means) / count * sum(lam)
    return first + sum(
        a * b * (diagonal if i == j else 1) / (a + b) / (count - 1)
        for i, a in enumerate(lam)
        for j, b in enumerate(lam)
    )


@check(
    "prp-frechet-bias",
    claim=_bias,
    mutants={
        "every entry of the covariance as variable as one off the diagonal": lambda lam, count: (
            _bias(lam, count, diagonal=1)
        ),
        "the mean of one sample known": lambda lam, count: _bias(lam, count, means=1),
        "the means alone": lambda lam, count: 2 * sum(lam) / count,
    },
    covers="two features, with symbols for the eigenvalues and the number of samples, both "
    "covariances disturbed in all directions; the identity for d = 1, 3, 8, which is every d, as "
    "the sum over pairs is of degree two in d",
    omits="more features, where the second-order term is the same sum over pairs; the order of the "
    "remainder, which is Taylor's theorem",
)
def frechet_bias(steps, claim):
    """The trace of a root of a 2 x 2 matrix is explicit; its series gives the second order."""
    p, q, s = symbols("lambda_1 lambda_2 s", positive=True)
    a = symbols("a11 a12 a22", real=True)
    b = symbols("b11 b12 b22", real=True)
    base = Matrix([[p, 0], [0, q]])
    first, second = (base + s * Matrix([[e[0], e[1]], [e[1], e[2]]]) for e in (a, b))
    root = sqrt(trace(first * second) + 2 * sqrt(det(first) * det(second)))
    gap = trace(first) + trace(second) - 2 * root

    def at_zero(expression):
        return sympy.simplify(expression.subs(s, 0).subs(p**2 + 2 * p * q + q**2, (p + q) ** 2))

    steps.equal("no distance without errors", at_zero(gap), 0)
    steps.equal("no first order", at_zero(diff(gap, s)), 0)
    quadratic = sympy.expand(at_zero(diff(gap, s, 2) / 2))
    y = symbols("y_1 y_2", real=True)
    variances = {}
    for i, j, entry in ((0, 0, 0), (0, 1, 1), (1, 1, 2)):
        # with two samples the covariance is y y^T, y ~ N(0, diag(p, q)); n samples: n - 1 of them
        moment = 1
        for k, scale in enumerate((p, q)):
            power = (i == k) + (j == k)
            density = sympy.exp(-(y[k] ** 2) / (2 * scale)) / sqrt(2 * sympy.pi * scale)
            moment *= integrate(y[k] ** (2 * power) * density, (y[k], -sympy.oo, sympy.oo))
        variances[entry] = (moment - (p if i == 0 else q) ** 2 * int(i == j)) / (n - 1)
    series = sympy.Poly(quadratic, *a, *b)
    average = sum(
        series.coeff_monomial(x**2) * variances[entry] for e in (a, b) for entry, x in enumerate(e)
    )
    mixed = [series.coeff_monomial(x * z) for x in a for z in a if x != z]
    steps.equal("no products of different entries of one covariance", sum(c**2 for c in mixed), 0)
    total = 2 * (p + q) / n + average
    steps.equal("the mean of the second order", sympy.simplify(total - claim([p, q], n)), 0)
    for d in (1, 3, 8):
        leading = sympy.limit(n * claim([sympy.Integer(1)] * d, n), n, sympy.oo)
        steps.equal(f"identity, d = {d}", leading, Rational(d * (d + 5), 2))


# -- the kernel distance --------------------------------------------------------------------------

KERNEL = claims(
    within=lambda count: 1 / (count * (count - 1)),
    moments=lambda order, d: binomial(3, order) / d**order,
)


@check(
    "prp-kid-unbiased",
    claim=KERNEL,
    mutants={
        "divided by the number of all pairs": KERNEL.but(within=lambda count: 1 / count**2),
        "the expansion without binomial coefficients": KERNEL.but(
            moments=lambda order, d: 1 / sympy.Integer(d) ** order
        ),
        "the expansion without the scale": KERNEL.but(moments=lambda order, d: binomial(3, order)),
    },
    covers="any kernel on two points and any two laws on them (symbols), samples of two and three: "
    "the mean over all outcomes; the cubic kernel in two and three dimensions as a sum over "
    "tensors of moments",
    omits="general spaces, where the proof is the same linearity",
)
def kid_unbiased(steps, claim):
    """All outcomes of small samples, each with its probability."""
    p, q = symbols("p q", positive=True)
    k00, k01, k11 = symbols("k_00 k_01 k_11", real=True)
    kernel = {(0, 0): k00, (0, 1): k01, (1, 0): k01, (1, 1): k11}
    law, other = (1 - p, p), (1 - q, q)

    def pairs(first, second):
        return sum(first[i] * second[j] * kernel[i, j] for i in (0, 1) for j in (0, 1))

    exact = pairs(law, law) + pairs(other, other) - 2 * pairs(law, other)
    for count in (2, 3):
        mean = 0
        for xs in product((0, 1), repeat=count):
            for ys in product((0, 1), repeat=count):
                chance = sympy.prod([law[x] for x in xs]) * sympy.prod([other[y] for y in ys])
                off = [(i, j) for i in range(count) for j in range(count) if i != j]
                value = sum(kernel[xs[i], xs[j]] + kernel[ys[i], ys[j]] for i, j in off)
                value *= claim.within(sympy.Integer(count))
                value -= Rational(2, count**2) * sum(kernel[x, y] for x in xs for y in ys)
                mean += chance * value
        steps.equal(f"the mean over all samples of {count}", sympy.expand(mean - exact), 0)
    for d in (2, 3):
        x = symbols(f"x_1:{d + 1}", real=True)
        y = symbols(f"y_1:{d + 1}", real=True)
        tensors = sum(
            claim.moments(order, sympy.Integer(d))
            * sum(
                sympy.prod([x[i] * y[i] for i in index])
                for index in product(range(d), repeat=order)
            )
            for order in range(4)
        )
        cubic = (sum(a * b for a, b in zip(x, y, strict=True)) / d + 1) ** 3
        steps.equal(f"the cubic kernel, d = {d}", sympy.expand(cubic - tensors), 0)


# -- what is not seen -----------------------------------------------------------------------------


@check(
    "prp-frechet-blind",
    claim=lambda a, va, b, vb: (a - b) ** 2 + (sqrt(va) - sqrt(vb)) ** 2,
    mutants={
        "the means alone": lambda a, va, b, vb: (a - b) ** 2,
        "variances in place of deviations": lambda a, va, b, vb: (a - b) ** 2 + (va - vb) ** 2,
    },
    covers="one feature: the distance is the transport of quantiles of the two normal laws, is "
    "zero for equal means and variances and positive for three pairs that differ in one of them; a "
    "coin has the moments of a normal law",
    omits="several features: prp-frechet-gaussians",
)
def frechet_blind(steps, claim):
    """Quantiles on the line, then the zeros of the formula."""
    u = symbols("u", real=True)  # a standard normal variable that drives both quantile functions
    density = sympy.exp(-(u**2) / 2) / sqrt(2 * sympy.pi)
    moved = sympy.expand((m + sqrt(v) * u - m2 - sqrt(v2) * u) ** 2)
    cost = integrate(sympy.expand(moved * density), (u, -sympy.oo, sympy.oo))
    steps.equal("transport of quantiles", sympy.expand(cost - claim(m, v, m2, v2)), 0)
    steps.equal("no distance for equal moments", claim(m, v, m, v), 0)
    for shift, factor in ((1, 1), (0, 2), (0, Rational(1, 2))):
        value = claim(sympy.Integer(0), sympy.Integer(1), sympy.Integer(shift), factor)
        steps.true(f"positive for a shift {shift}, a factor {factor}", value > 0)
    mean, variance = Rational(1, 2) * (1 - 1), Rational(1, 2) * (1 + 1)
    steps.equal("a coin and a normal law", claim(mean, variance, 0, 1), 0)


@check(
    "prp-best-accuracy",
    claim=lambda p, q: (
        Rational(1, 2) + Rational(1, 4) * sum(abs(a - b) for a, b in zip(p, q, strict=True))
    ),
    mutants={
        "the whole integral of the difference": lambda p, q: (
            Rational(1, 2) + Rational(1, 2) * sum(abs(a - b) for a, b in zip(p, q, strict=True))
        ),
        "a guess": lambda p, q: Rational(1, 2),
        "the squared difference": lambda p, q: (
            Rational(1, 2) + Rational(1, 4) * sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
        ),
    },
    covers="laws on four points, three pairs of them: every one of the sixteen rules is tried",
    omits="densities, where the set {p > q} takes the place of the best rule",
)
def best_accuracy(steps, claim):
    """Brute force over all rules."""
    laws = (
        ((1, 2, 3, 4), (4, 3, 2, 1)),
        ((1, 1, 4, 4), (5, 5, 0, 0)),
        ((2, 3, 1, 4), (1, 3, 2, 4)),
    )
    for p, q in laws:
        p, q = (tuple(Rational(c, 10) for c in law) for law in (p, q))
        best = max(
            sum((a if says else b) / 2 for a, b, says in zip(p, q, rule, strict=True))
            for rule in product((True, False), repeat=4)
        )
        steps.equal(f"the best of sixteen rules for {p}, {q}", best, claim(p, q))


@check(
    "prp-likelihood-blind",
    claim=log,
    mutants={
        "half of it": lambda count: log(count) / 2,
        "the log-odds": lambda count: log(count - 1),
    },
    covers="three values of N, laws on four points: the bound holds, and is attained when the "
    "garbage lies elsewhere",
    omits="densities: the same inequality under the integral",
)
def likelihood_blind(steps, claim):
    """The excess of the cross-entropy, with garbage on and off the data's support."""
    p = [Rational(c, 10) for c in (1, 2, 3, 4)]
    for count in (2, 10, 100):
        share = Rational(1, count)
        excess = sum(a * (log(a) - log(share * a)) for a in p)
        steps.equal(f"garbage elsewhere, N = {count}", excess, claim(sympy.Integer(count)))
        garbage = [Rational(c, 10) for c in (4, 3, 2, 1)]
        inside = sum(
            a * (log(a) - log(share * a + (1 - share) * b)) for a, b in zip(p, garbage, strict=True)
        )
        steps.at_most(
            f"garbage on the data's support, N = {count}",
            mp.mpf(sympy.N(inside, 40)),
            mp.mpf(sympy.N(claim(sympy.Integer(count)), 40)),
        )


# -- copying --------------------------------------------------------------------------------------


@check(
    "prp-memorization",
    claim=lambda size: Rational(1, 2),
    mutants={
        "one place among the training points": lambda size: Rational(1, size + 1),
        "a third": lambda size: Rational(1, 3),
    },
    covers="data uniform on [0, 1], training sets of one, two and three points: the law of the "
    "distance exactly, then the chance that the one is smaller",
    omits="other laws, for which the proof is the same exchange",
)
def memorization(steps, claim):
    """The distribution function of the distance is piecewise linear; integrate it exactly."""
    r = symbols("r", nonnegative=True)
    for training in ((Rational(1, 3),), (Rational(1, 5), Rational(1, 2)), (0, Rational(2, 7), 1)):
        # |{x in [0, 1]: some training point within r}| grows with slope = number of free fronts
        stops = set()
        for point in training:
            stops |= {point, 1 - point}
        stops |= {abs(a - b) / 2 for a in training for b in training if a != b}
        stops = sorted(sympy.sympify(s) for s in stops if s > 0)

        def covered(radius, points=training):
            ends, total = sympy.Integer(0), sympy.Integer(0)
            for point in sorted(points):
                low, high = max(point - radius, ends), min(point + radius, sympy.Integer(1))
                if high > low:
                    total += high - low
                    ends = high
            return total

        chance, last = sympy.Integer(0), sympy.Integer(0)
        for stop in stops:
            low, high = covered(last), covered(stop)
            line = low + (high - low) * (r - last) / (stop - last)
            chance += integrate(line * diff(line, r), (r, last, stop))
            last = stop
        steps.equal("the farthest datum is within reach", covered(last), 1)
        steps.equal(f"training points {training}", chance, claim(len(training)))
