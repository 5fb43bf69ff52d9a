"""Checks of the appendix that refreshes probability and linear algebra."""

from __future__ import annotations

import itertools

import mpmath
import sympy
from mpmath import mp
from sympy import Matrix, Rational, diff, eye, log, symbols

from fromnoise.derivations.checking import check, claims

QUADRATURE = "tanh-sinh quadrature of smooth functions, in 30 digits"

PLACES, LABELS = range(2), range(3)
place = Matrix(symbols("q_1:3", positive=True))  # a law on two values of X ...
chance = Matrix(2, 3, symbols("c_11:14 c_21:24", positive=True))  # ... and on three of Z given X
TOTAL = sum(place)
value = Matrix(2, 3, symbols("z_11:14 z_21:24", real=True))


def _weight(i, j):
    """P(X = i, Z = z_ij): any positive numbers, brought to total one."""
    return place[i] / TOTAL * chance[i, j] / sum(chance[i, :])


def _mean(function):
    """The expectation of function(i, j)."""
    return sum(_weight(i, j) * function(i, j) for i, j in itertools.product(PLACES, LABELS))


def _given(i, function):
    """The conditional expectation of function(j) at X = i."""
    return sum(chance[i, j] * function(j) for j in LABELS) / sum(chance[i, :])


@check(
    "lem-cauchy-schwarz",
    claim=lambda xx, yy: xx * yy,
    mutants={
        "half the bound": lambda xx, yy: xx * yy / 2,
        "the arithmetic mean of the squares for the product": lambda xx, yy: (xx + yy) / 4,
        "one square root too many": lambda xx, yy: sympy.sqrt(xx * yy),
    },
    covers="every pair of variables with two equally likely values (the difference is a square), "
    "and equality for proportional ones",
    omits="general laws, where the proof subtracts a projection",
)
def cauchy_schwarz(steps, claim):
    """The difference of the two sides is a square; equality where X is a multiple of Y."""
    a, b, c, d = symbols("a b c d", real=True)
    xx, yy, xy = (a**2 + b**2) / 2, (c**2 + d**2) / 2, (a * c + b * d) / 2
    steps.equal(
        "two values: bound - (E XY)^2 = (a d - b c)^2 / 4",
        claim(xx, yy) - xy**2,
        (a * d - b * c) ** 2 / 4,
    )


@check(
    "lem-jensen",
    claim=lambda gap: gap,
    mutants={
        "the other direction": lambda gap: -gap,
        "with a margin": lambda gap: gap - Rational(1, 1000),
    },
    covers="the square (the gap is the variance, for every law with two values) and, at rational "
    "points, the exponential, |x|^3 and -log",
    omits="general convex functions, where the proof takes a supremum of affine ones",
)
def jensen(steps, claim):
    """The gap is nonnegative, and vanishes where the variable is constant."""
    a, b, p = symbols("a b p", positive=True)
    w = p / (1 + p)
    square = w * a**2 + (1 - w) * b**2 - (w * a + (1 - w) * b) ** 2
    steps.equal("the square: the gap is w (1 - w) (a - b)^2", square, w * (1 - w) * (a - b) ** 2)
    functions = {"exp": mp.exp, "|x|^3": lambda x: abs(x) ** 3, "-log": lambda x: -mp.log(x)}
    with mp.workdps(30):
        for name, phi in functions.items():
            for x, y, w in ((1, 3, 0.25), (2, 2, 0.5), (0.1, 5, 0.9)):
                x, y, w = map(mpmath.mpf, (x, y, w))
                gap = w * phi(x) + (1 - w) * phi(y) - phi(w * x + (1 - w) * y)
                steps.at_most(
                    f"{name}, values {mp.nstr(x, 2)} and {mp.nstr(y, 2)}: minus the gap",
                    -claim(gap),
                    0,
                    tolerance=1e-28,
                    why="rounding in 30 digits",
                )


CHEBYSHEV = claims(markov=lambda mean, a: mean / a, chebyshev=lambda v, a: v / a**2)


@check(
    "lem-chebyshev",
    claim=CHEBYSHEV,
    mutants={
        "Markov with the square of a": CHEBYSHEV.but(markov=lambda mean, a: mean / a**2),
        "Chebyshev with one a": CHEBYSHEV.but(chebyshev=lambda v, a: v / a),
        "half of Chebyshev": CHEBYSHEV.but(chebyshev=lambda v, a: v / a**2 / 2),
    },
    covers="the laws for which the two are equalities, for all values of their parameters",
    omits="that no other law exceeds the bounds, which the proof shows",
)
def chebyshev(steps, claim):
    """Both are attained: by {0, a}, and by {m - a, m, m + a}."""
    a, p = symbols("a p", positive=True)
    w = p / (1 + p)
    steps.equal("Z in {0, a}: P(Z >= a) = w", w, claim.markov(w * a, a))
    steps.equal("Z in {m - a, m, m + a}: P(|Z - m| >= a) = w", w, claim.chebyshev(w * a**2, a))


@check(
    "lem-pinsker",
    claim=2,
    mutants={"4 for 2": 4, "2.01 for 2": Rational(201, 100), "log 2 times 4": 4 * log(2)},
    covers="laws on two points, on a grid, with equality to second order; hence all laws, by the "
    "chain rule",
    omits="the chain rule, which has a check of its own; events other than those of the grid",
)
def pinsker(steps, claim):
    """The derivative that the proof uses, values on a grid, and the limit of equal laws."""
    p, q = symbols("p q", positive=True)
    k = p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))
    steps.equal(
        "the derivative in q", diff(k - 2 * (p - q) ** 2, q), (q - p) * (1 / (q * (1 - q)) - 4)
    )
    constant = sympy.N(claim, 30)
    with mp.workdps(30):
        constant = mpmath.mpf(str(constant))
        grid = [mpmath.mpf(i) / 20 for i in range(1, 20)]
        # near one half the inequality is nearly an equality, and a larger constant fails
        grid += [mpmath.mpf("0.5") + mpmath.mpf(10) ** -3, mpmath.mpf("0.5") - mpmath.mpf(10) ** -3]

        def divergence(x, y):
            return x * mp.log(x / y) + (1 - x) * mp.log((1 - x) / (1 - y))

        pairs = list(itertools.product(grid, grid))
        steps.at_most(
            "constant times TV^2 against KL, at 441 pairs",
            [constant * (x - y) ** 2 for x, y in pairs],
            [divergence(x, y) for x, y in pairs],
            tolerance=1e-25,
            why="rounding in 30 digits",
        )


RULES = claims(
    tower=lambda inner: inner,
    known=lambda h, mean: h * mean,
    independent=lambda mean: mean,
)


@check(
    "lem-conditional-rules",
    claim=RULES,
    mutants={
        "the tower doubled": RULES.but(tower=lambda inner: 2 * inner),
        "the square of what is known": RULES.but(known=lambda h, mean: h**2 * mean),
        "what is known left in": RULES.but(known=lambda h, mean: mean),
        "independence with the opposite mean": RULES.but(independent=lambda mean: -mean),
    },
    covers="every law of X with two values, of Z given X with three, and of Y given X with two; "
    "rules 1 to 3",
    omits="general laws; rule 4, which is Fubini's theorem",
)
def conditional_rules(steps, claim):
    """Finite sums over the joint law."""
    h = symbols("h_1:3", real=True)
    # the law of Y given X, and of Z given both: three values whose chances depend on X and Y
    first = symbols("y_1:3", positive=True)
    weights = {(i, y): symbols(f"w_{i}{y}_1:4", positive=True) for i in PLACES for y in range(2)}
    z = symbols("z_1:4", real=True)

    def given_both(i, y):
        w = weights[i, y]
        return sum(a * b for a, b in zip(w, z, strict=True)) / sum(w)

    def law_of_y(i):
        return [first[i] / (1 + first[i]), 1 / (1 + first[i])]

    for i in PLACES:
        inner = sum(c * given_both(i, y) for y, c in enumerate(law_of_y(i)))
        direct = sum(
            law_of_y(i)[y] * weights[i, y][j] / sum(weights[i, y]) * z[j]
            for y in range(2)
            for j in LABELS
        )
        steps.equal(f"tower, at the value {i + 1} of X", direct, claim.tower(inner))
        mean = _given(i, lambda j, i=i: value[i, j])
        steps.equal(
            f"taking out, at the value {i + 1} of X",
            _given(i, lambda j, i=i: h[i] * value[i, j]),
            claim.known(h[i], mean),
        )
    c = symbols("c_1:4", positive=True)
    same = sum(a * b for a, b in zip(c, z, strict=True)) / sum(c)
    joint = [place[0] / TOTAL * a / sum(c) for a in c]  # P(X = 1, Z = z_j) under independence
    conditional = sum(a * b for a, b in zip(joint, z, strict=True)) / (place[0] / TOTAL)
    steps.equal("independence", conditional, claim.independent(same))


@check(
    "lem-total-variance",
    claim=lambda within, between: within + between,
    mutants={
        "without the part between": lambda within, between: within,
        "without the part within": lambda within, between: between,
        "the difference": lambda within, between: within - between,
    },
    covers="every law of X with two values and of Z in R given X with three",
    omits="general laws; vectors, whose covariances are this for every projection on a line",
)
def total_variance(steps, claim):
    """All three variances from the joint law."""
    means = [_given(i, lambda j, i=i: value[i, j]) for i in PLACES]
    within = sum(
        place[i] / TOTAL * (_given(i, lambda j, i=i: value[i, j] ** 2) - means[i] ** 2)
        for i in PLACES
    )
    grand = _mean(lambda i, j: value[i, j])
    between = sum(place[i] / TOTAL * means[i] ** 2 for i in PLACES) - grand**2
    whole = _mean(lambda i, j: value[i, j] ** 2) - grand**2
    steps.equal("Var Z", whole, claim(within, between))


AFFINE = claims(
    mean=lambda A, mu, b: A * mu + b,
    covariance=lambda A, Sigma: A * Sigma * A.T,
    total=lambda Sigma, T: Sigma + T,
)


@check(
    "lem-gaussian-affine",
    claim=AFFINE,
    mutants={
        "without the shift": AFFINE.but(mean=lambda A, mu, b: A * mu),
        "the transpose first": AFFINE.but(covariance=lambda A, Sigma: A.T * Sigma * A),
        "A once": AFFINE.but(covariance=lambda A, Sigma: A * Sigma),
        "the difference of the covariances": AFFINE.but(total=lambda Sigma, T: Sigma - T),
    },
    covers="every affine map of the plane and every two Gaussian laws there, by their "
    "characteristic functions; on the line the density of a sum, by quadrature",
    omits="other dimensions; that characteristic functions determine laws",
)
def gaussian_affine(steps, claim):
    """Exponents of characteristic functions; a convolution of two normal densities."""
    A = Matrix(2, 2, symbols("a_11 a_12 a_21 a_22", real=True))
    mu, b, xi = (Matrix(symbols(f"{n}_1:3", real=True)) for n in ("m", "b", "xi"))
    s = symbols("s_11 s_12 s_22", real=True)
    Sigma = Matrix([[s[0], s[1]], [s[1], s[2]]])
    r = symbols("t_11 t_12 t_22", real=True)
    T = Matrix([[r[0], r[1]], [r[1], r[2]]])

    def exponent(mean, covariance, at):
        return (sympy.I * at.dot(mean) - at.dot(covariance * at) / 2).expand()

    image = (exponent(mu, Sigma, A.T * xi) + sympy.I * xi.dot(b)).expand()
    steps.equal(
        "E exp(i xi (A X + b))",
        image,
        exponent(claim.mean(A, mu, b), claim.covariance(A, Sigma), xi),
    )
    steps.equal(
        "the exponents of independent X and Y add",
        exponent(mu, Sigma, xi) + exponent(b, T, xi),
        exponent(mu + b, claim.total(Sigma, T), xi),
    )
    with mp.workdps(30):
        v, w = mpmath.mpf("0.7"), mpmath.mpf("1.9")
        total = claim.total(v, w)
        for x in (mpmath.mpf(0), mpmath.mpf("1.3")):
            direct = mp.quad(
                lambda y, x=x: mp.npdf(y, 0, mp.sqrt(v)) * mp.npdf(x - y, 0, mp.sqrt(w)),
                [-12, -3, 0, 3, 12],
            )
            formula = mp.exp(-(x**2) / (2 * total)) / mp.sqrt(2 * mp.pi * total)
            steps.close(
                f"density of a sum at {mp.nstr(x, 2)}",
                direct,
                formula,
                tolerance=1e-18,
                why=QUADRATURE,
            )


@check(
    "lem-stein",
    claim=lambda f, x: diff(f, x),
    mutants={
        "the opposite sign": lambda f, x: -diff(f, x),
        "f for its derivative": lambda f, x: f,
        "twice the derivative": lambda f, x: 2 * diff(f, x),
    },
    covers="polynomials of degree up to 6, the exponential and the sine with any rate, on the line",
    omits="general functions, where the proof cuts off; more dimensions",
)
def stein(steps, claim):
    """Both sides integrated against the normal density by SymPy."""
    x = symbols("x", real=True)
    a = symbols("a", positive=True)

    def mean(f):
        density = sympy.exp(-(x**2) / 2) / sympy.sqrt(2 * sympy.pi)
        return sympy.integrate(sympy.expand(f * density), (x, -sympy.oo, sympy.oo))

    coefficients = symbols("c_0:7", real=True)
    polynomial = sum(c * x**k for k, c in enumerate(coefficients))
    steps.equal("a polynomial", mean(x * polynomial), mean(claim(polynomial, x)))
    for f in (sympy.exp(a * x), sympy.sin(a * x)):
        steps.equal(f"f = {f}", mean(x * f), mean(claim(f, x)))


NORM = claims(
    second=lambda d: d,
    fourth=lambda d: d * (d + 2),
    below=lambda d: sympy.sqrt(d - 1),
    above=lambda d: sympy.sqrt(d),
)


@check(
    "lem-gaussian-norm",
    claim=NORM,
    mutants={
        "the fourth moment d^2": NORM.but(fourth=lambda d: d**2),
        "the fourth moment d (d + 1)": NORM.but(fourth=lambda d: d * (d + 1)),
        "the lower bound sqrt(d - 0.4)": NORM.but(below=lambda d: sympy.sqrt(d - Rational(2, 5))),
        "the upper bound sqrt(d - 0.5)": NORM.but(above=lambda d: sympy.sqrt(d - Rational(1, 2))),
    },
    covers="d = 1, 2, 3, 10, 784, from the density of the norm",
    omits="other d",
)
def gaussian_norm(steps, claim):
    """Moments of r with density proportional to r^(d - 1) exp(-r^2 / 2), by gamma functions."""

    def moment(d, k):
        # integral of r^(n) exp(-r^2 / 2) is 2^((n - 1) / 2) Gamma((n + 1) / 2)
        half = Rational(k, 2)
        return sympy.simplify(
            2**half * sympy.gamma(Rational(d, 2) + half) / sympy.gamma(Rational(d, 2))
        )

    for d in (1, 2, 3, 10, 784):
        steps.equal(f"d = {d}: the second moment", moment(d, 2), claim.second(d))
        steps.equal(f"d = {d}: the fourth moment", moment(d, 4), claim.fourth(d))
        first = sympy.N(moment(d, 1), 30)
        steps.at_most(
            f"d = {d}: the lower bound",
            sympy.N(claim.below(d), 30),
            first,
            tolerance=1e-25,
            why="rounding in 30 digits",
        )
        steps.at_most(
            f"d = {d}: the upper bound",
            first,
            sympy.N(claim.above(d), 30),
            tolerance=1e-25,
            why="rounding in 30 digits",
        )


ERROR = claims(variance=lambda v, n: v / n, divisor=lambda n: n - 1)


@check(
    "prp-standard-error",
    claim=ERROR,
    mutants={
        "the variance of a mean v / n^2": ERROR.but(variance=lambda v, n: v / n**2),
        "the variance not divided": ERROR.but(variance=lambda v, n: v),
        "the divisor n": ERROR.but(divisor=lambda n: n),
        "the divisor n - 2": ERROR.but(divisor=lambda n: n - 2),
    },
    covers="n = 3 and 4 draws of every law with two values, by all 8 and 16 outcomes",
    omits="other laws and n",
)
def standard_error(steps, claim):
    """The mean and the variance of the mean, and the mean of the estimate, outcome by outcome."""
    a, b = symbols("a b", real=True)
    p = symbols("p", positive=True)
    w = p / (1 + p)
    m = w * a + (1 - w) * b
    v = w * (1 - w) * (a - b) ** 2
    for n in (3, 4):
        mean_of_mean = mean_of_square = mean_of_estimate = 0
        for outcome in itertools.product(((a, w), (b, 1 - w)), repeat=n):
            probability = sympy.prod(q for _, q in outcome)
            mean = sum(z for z, _ in outcome) / n
            mean_of_mean += probability * mean
            mean_of_square += probability * (mean - m) ** 2
            mean_of_estimate += probability * sum((z - mean) ** 2 for z, _ in outcome)
        steps.equal(f"n = {n}: the mean", mean_of_mean, m)
        steps.equal(f"n = {n}: the variance of the mean", mean_of_square, claim.variance(v, n))
        steps.equal(f"n = {n}: the estimate", mean_of_estimate / claim.divisor(n), v)


@check(
    "lem-jacobi",
    claim=lambda A, dA: (A.inv() * dA).trace(),
    mutants={
        "without the inverse": lambda A, dA: dA.trace(),
        "the trace of A dA": lambda A, dA: (A * dA).trace(),
        "the opposite sign": lambda A, dA: -(A.inv() * dA).trace(),
    },
    covers="every differentiable path of invertible 2 x 2 matrices, and a path of 3 x 3 matrices",
    omits="other sizes",
)
def jacobi(steps, claim):
    """The derivative of the determinant by SymPy."""
    t = symbols("t", positive=True)
    A = Matrix(2, 2, [sympy.Function(f"a_{i}{j}")(t) for i in (1, 2) for j in (1, 2)])
    steps.equal("2 x 2: d det / det", diff(A.det(), t) / A.det(), claim(A, diff(A, t)))
    B = Matrix([[2 + t, t**2, 0], [sympy.sin(t), 3, t], [1, -t, 4 + t**2]])
    steps.equal("a path of 3 x 3", diff(B.det(), t) / B.det(), claim(B, diff(B, t)))


EXPONENTIAL = claims(
    derivative=lambda A, E: A * E,
    determinant=lambda A: sympy.exp(A.trace()),
    product=lambda Es, Et: Es * Et,
)


@check(
    "lem-matrix-exponential",
    claim=EXPONENTIAL,
    mutants={
        "the derivative without A": EXPONENTIAL.but(derivative=lambda A, E: E),
        "the determinant exp(det A)": EXPONENTIAL.but(determinant=lambda A: sympy.exp(A.det())),
        "the determinant exp(2 tr A)": EXPONENTIAL.but(
            determinant=lambda A: sympy.exp(2 * A.trace())
        ),
        "the sum for the product": EXPONENTIAL.but(product=lambda Es, Et: Es + Et),
    },
    covers="a rotation with growth, a shear and a full 2 x 2 matrix, each scaled by any time; "
    "conjugation by a full matrix",
    omits="other sizes and matrices; uniqueness, which is the theorem of Picard and Lindelöf",
)
def matrix_exponential(steps, claim):
    """Closed forms that SymPy finds by Jordan's form, against the series' properties."""
    s, t = symbols("s t", positive=True)
    g, w = symbols("g w", positive=True)
    matrices = {
        "rotation with growth": Matrix([[g, -w], [w, g]]),
        "shear": Matrix([[g, 1], [0, g]]),
        "full": Matrix([[1, 2], [3, 2]]),
    }
    for name, A in matrices.items():
        E = _exponential(A, t)
        steps.equal(f"{name}: the derivative", diff(E, t), claim.derivative(A, E))
        steps.equal(f"{name}: at t = 0 it is I", E.subs(t, 0), eye(2))
        steps.equal(f"{name}: the determinant", sympy.simplify(E.det()), claim.determinant(t * A))
        steps.equal(
            f"{name}: the product", _exponential(A, s + t), claim.product(_exponential(A, s), E)
        )
    A, Q = matrices["full"], Matrix([[1, 1], [0, 2]])
    steps.equal("conjugation", _exponential(Q * A * Q.inv(), t), Q * _exponential(A, t) * Q.inv())


def _exponential(A, t):
    """exp(t A) for a 2 x 2 matrix, by Sylvester's formula or its limit, not by a power series."""
    half, square = A.trace() / 2, sympy.simplify((A.trace() / 2) ** 2 - A.det())
    traceless = A - half * eye(2)
    if square == 0:
        return sympy.exp(half * t) * (eye(2) + t * traceless)
    root = sympy.sqrt(square)
    cosh, sinh = sympy.cosh(root * t), sympy.sinh(root * t) / root
    return (sympy.exp(half * t) * (cosh * eye(2) + sinh * traceless)).applyfunc(
        lambda e: sympy.expand(e.rewrite(sympy.exp))
    )


RULE = claims(
    product=lambda gradient, u, f, divergence: gradient.dot(u) + f * divergence,
    parts=lambda right: -right,
    logarithm=lambda laplacian, f, gradient: laplacian / f - gradient.dot(gradient) / f**2,
)


@check(
    "lem-divergence",
    claim=RULE,
    mutants={
        "the product rule without its second term": RULE.but(
            product=lambda gradient, u, f, divergence: gradient.dot(u)
        ),
        "integration by parts without the sign": RULE.but(parts=lambda right: right),
        "the logarithm without the square": RULE.but(
            logarithm=lambda laplacian, f, gradient: laplacian / f
        ),
        "the logarithm with half the square": RULE.but(
            logarithm=lambda laplacian, f, gradient: (
                laplacian / f - gradient.dot(gradient) / f**2 / 2
            )
        ),
    },
    covers="every function and field of the plane for the pointwise rules; a polynomial on the "
    "unit square that vanishes on its edge for the integral",
    omits="other dimensions; general functions of compact support under the integral",
)
def divergence_rules(steps, claim):
    """Undefined functions for the rules, polynomials for the integral."""
    x, y = symbols("x y", positive=True)
    f = sympy.Function("f", positive=True)(x, y)
    u = Matrix([sympy.Function(name)(x, y) for name in ("u", "v")])

    def gradient(g):
        return Matrix([diff(g, x), diff(g, y)])

    def div(w):
        return diff(w[0], x) + diff(w[1], y)

    steps.equal("div (f u)", div(f * u), claim.product(gradient(f), u, f, div(u)))
    laplacian = diff(f, x, 2) + diff(f, y, 2)
    steps.equal("div grad f", div(gradient(f)), laplacian)
    steps.equal(
        "the Laplacian of log f",
        div(gradient(log(f))),
        claim.logarithm(laplacian, f, gradient(f)),
    )
    bump = (x * (1 - x) * y * (1 - y)) ** 2
    field = Matrix([x**2 + y, x * y + 1])

    def over_square(g):
        return sympy.integrate(sympy.expand(g), (x, 0, 1), (y, 0, 1))

    steps.equal(
        "by parts on the square",
        over_square(gradient(bump).dot(field)),
        claim.parts(over_square(bump * div(field))),
    )
