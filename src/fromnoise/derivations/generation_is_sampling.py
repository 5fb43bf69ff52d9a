"""Checks of the chapter on generation as sampling."""

from __future__ import annotations

import itertools
import math
from functools import cache

import sympy
import torch
from mpmath import mp
from sympy import Matrix, Rational, diff, exp, log, symbols

from fromnoise.derivations.checking import check, claims
from fromnoise.distributions import laboratory

QUADRATURE = "quadrature in 30 digits"
ROUND_OFF = "round-off in double precision"
PROJECTION = claims(
    minimizer=lambda joint, values: joint.dot(values) / sum(joint),
    loss=lambda irreducible, distance: irreducible + distance,
    minimum=lambda second_moment, of_the_mean: second_moment - of_the_mean,
)


@check(
    "thm-projection",
    claim=PROJECTION,
    mutants={
        "the joint probabilities for the conditional ones": PROJECTION.but(
            minimizer=lambda joint, values: joint.dot(values)
        ),
        "the average of the values that are possible": PROJECTION.but(
            minimizer=lambda joint, values: sum(values) / len(values)
        ),
        "the distance counted twice": PROJECTION.but(
            loss=lambda rest, distance: rest + 2 * distance
        ),
        "the distance subtracted": PROJECTION.but(loss=lambda rest, distance: rest - distance),
        "the minimum with a plus": PROJECTION.but(minimum=lambda z2, m2: z2 + m2),
    },
    covers="any law of a pair (X, Z) in which X takes two values and Z three numbers, and every f; "
    "by quadrature the chapter's sign seen through noise, with four of its predictors",
    omits="other laws, for which the proof needs limits; vectors Z, whose coordinates add up; "
    "predictors of infinite second moment",
)
def projection(steps, claim):
    """All sums written out for a finite law; then the example of the chapter by quadrature."""
    # Probabilities up to a factor: the identities hold for any total.
    joint = Matrix(2, 3, symbols("p_11:14 p_21:24", positive=True))
    z = Matrix(symbols("z_1:4", real=True))
    f = Matrix(symbols("f_1:3", real=True))
    h = Matrix(symbols("h_1:3", real=True))
    m = Matrix([claim.minimizer(joint[i, :].T, z) for i in range(2)])
    cells = list(itertools.product(range(2), range(3)))

    def mean(function):
        return sum(joint[i, j] * function(i, j) for i, j in cells)

    steps.equal(
        "definition: E[h(X) Z] = E[h(X) m(X)] for every h",
        mean(lambda i, j: h[i] * z[j]),
        mean(lambda i, j: h[i] * m[i]),
    )
    loss = mean(lambda i, j: (z[j] - f[i]) ** 2)
    steps.equal(
        "the derivative of the loss E|Z - f(X)|² in f vanishes at m",
        [diff(loss, f[i]).subs(f[i], m[i]) for i in range(2)],
    )
    steps.equal(
        "E|Z - f(X)|² is the irreducible error and the distance of f from m",
        loss,
        claim.loss(mean(lambda i, j: (z[j] - m[i]) ** 2), mean(lambda i, j: (m[i] - f[i]) ** 2)),
    )
    steps.equal(
        "the minimum, E Z² - E m(X)²; as a mean of squares it shows that E m(X)² ≤ E Z²",
        mean(lambda i, j: (z[j] - m[i]) ** 2),
        claim.minimum(mean(lambda i, j: z[j] ** 2), mean(lambda i, j: m[i] ** 2)),
    )
    with mp.workdps(30):
        for name, predict in (
            ("0", lambda x: 0),
            ("x", lambda x: x),
            ("sign(x)", mp.sign),
            ("x / 2", lambda x: x / 2),
        ):
            total = mp.quad(
                lambda x, f=predict: sum((s - f(x)) ** 2 * mp.npdf(x, s) / 2 for s in (-1, 1)),
                [-14, -6, 0, 6, 14],
            )
            distance, m2 = (
                mp.quad(
                    lambda x, g=gap: g(x) ** 2 * (mp.npdf(x, -1) + mp.npdf(x, 1)) / 2,
                    [-14, -6, 0, 6, 14],
                )
                for gap in (lambda x, f=predict: mp.tanh(x) - f(x), mp.tanh)
            )
            steps.close(
                f"a sign seen through noise, predicted by {name}",
                claim.loss(claim.minimum(1, m2), distance),
                total,
                tolerance=1e-25,
                why=QUADRATURE,
            )


BAYES = claims(
    density=lambda average, kernel: average(kernel),
    conditional=lambda average, psi, kernel: (
        average(lambda u: psi(u) * kernel(u)) / average(kernel)
    ),
)


@check(
    "lem-bayes",
    claim=BAYES,
    mutants={
        "not divided by p(x)": BAYES.but(
            conditional=lambda average, psi, kernel: average(lambda u: psi(u) * kernel(u))
        ),
        "psi averaged by itself": BAYES.but(
            conditional=lambda average, psi, kernel: average(psi) * average(kernel)
        ),
        "averages of psi alone": BAYES.but(conditional=lambda average, psi, kernel: average(psi)),
        "the density of the mean datum": BAYES.but(
            density=lambda average, kernel: kernel(average(lambda u: u))
        ),
    },
    covers="a law of two data, with any conditional density, any psi and any h; X_1 exponential of "
    "any rate and X, given X_1 = u, exponential of rate u, with psi(u) = u and u²",
    omits="general laws, for which the exchange of integrals is Fubini's theorem",
)
def bayes(steps, claim):
    """The definition of conditional expectation, tested with all h or with all half-lines."""
    x, u, rate = symbols("x u lambda", positive=True)
    weight = symbols("pi", positive=True)
    first, second = symbols("u_1 u_2", real=True)
    psi, h = sympy.Function("psi"), sympy.Function("h")
    below = sympy.Function("K")  # P(X <= x | X_1 = u)

    def two_data(function):
        return weight * function(first) + (1 - weight) * function(second)

    def given(u):
        return diff(below(x, u), x)

    density = claim.density(two_data, given)
    steps.equal(
        "two data: p(x) is the derivative of P(X ≤ x)",
        density,
        diff(two_data(lambda u: below(x, u)), x),
    )
    steps.equal(
        "two data: E[h(X) psi(X_1)] and E[h(X) m(X)] integrate the same function of x",
        two_data(lambda u: h(x) * psi(u) * given(u)),
        h(x) * claim.conditional(two_data, psi, given) * density,
    )

    def exponential(function):
        return sympy.integrate(function(u) * rate * exp(-rate * u), (u, 0, sympy.oo))

    def kernel(u):
        return u * exp(-u * x)  # X given X_1 = u is exponential of rate u

    density = sympy.simplify(claim.density(exponential, kernel))
    steps.equal(
        "exponential law: -p(x) is the derivative of P(X > x)",
        diff(exponential(lambda u: exp(-u * x)), x),
        -density,
    )
    for power in (1, 2):
        m = sympy.simplify(claim.conditional(exponential, lambda u, n=power: u**n, kernel))
        steps.equal(
            f"exponential law, psi(u) = u^{power}: -m(x) p(x) is the derivative of "
            "E[psi(X_1); X > x]",
            diff(exponential(lambda u, n=power: u**n * exp(-u * x)), x),
            -m * density,
        )


GIBBS = claims(least=0, minimizer=lambda q: q)


@check(
    "prp-kl-nonnegative",
    claim=GIBBS,
    mutants={
        "the bound of the integrand, -1/e": GIBBS.but(least=-exp(-1)),
        "a positive bound": GIBBS.but(least=Rational(1, 100)),
        "equality at the uniform law": GIBBS.but(minimizer=lambda q: Matrix([1, 1, 1]) / 3),
        "equality at the square of the law": GIBBS.but(
            minimizer=lambda q: q.applyfunc(lambda v: v**2) / q.dot(q)
        ),
    },
    covers="all pairs of positive laws on three points, where P = Q is shown to be the only "
    "minimum; nine pairs of laws on the line by quadrature, three of them equal",
    omits="general measures, to which the inequality of the integrand carries over; KL = infinity",
)
def gibbs(steps, claim):
    """On three points KL is strictly convex in P, and stationary at Q with the value 0."""
    p1, p2, p3 = symbols("p_1:4", positive=True)
    w = Matrix(symbols("w_1:4", positive=True))
    q = w / sum(w)
    last = 1 - p1 - p2
    kl = p1 * log(p1 / q[0]) + p2 * log(p2 / q[1]) + last * log(last / q[2])
    least = claim.minimizer(q)
    at = {p1: least[0], p2: least[1]}
    steps.equal("a law", sum(least), 1)
    steps.equal("KL is stationary there", [diff(kl, p).subs(at) for p in (p1, p2)])
    steps.equal("its value there", kl.subs(at), claim.least)
    hessian = sympy.hessian(kl, (p1, p2)).subs(last, p3)
    steps.true("strictly convex in P: the first minor is positive", hessian[0, 0].is_positive)
    steps.true(
        "strictly convex in P: so is the determinant",
        sympy.factor(hessian.det()).is_positive,
    )
    with mp.workdps(30):
        laws = {
            "normal": lambda x: -(x**2) / 2 - mp.log(2 * mp.pi) / 2,
            "shifted": lambda x: -((x - 1) ** 2) / 2 - mp.log(2 * mp.pi) / 2,
            "logistic": lambda x: -abs(x) - 2 * mp.log1p(mp.exp(-abs(x))),
        }
        for a, b in itertools.product(laws, repeat=2):
            value = mp.quad(
                lambda x, p=laws[a], q=laws[b]: mp.exp(p(x)) * (p(x) - q(x)), [-60, -9, 0, 9, 60]
            )
            steps.at_most(
                f"KL({a} || {b}) is at least the bound",
                claim.least,
                value,
                tolerance=1e-25,
                why=QUADRATURE,
            )


class _Pair:
    """A law of (X, Y) as a table: the law of X, and the laws of Y given each x."""

    def __init__(self, table):
        rows = [table[i, :] for i in range(table.rows)]
        self.first = [sum(row) for row in rows]
        self.given = [row / weight for row, weight in zip(rows, self.first, strict=True)]


CHAIN = claims(
    total=lambda kl, P, Q: (
        kl(P.first, Q.first)
        + sum(w * kl(p, q) for w, p, q in zip(P.first, P.given, Q.given, strict=True))
    ),
    of_the_pair=lambda full: full,
)


@check(
    "prp-kl-chain-rule",
    claim=CHAIN,
    mutants={
        "averaged over Q_X": CHAIN.but(
            total=lambda kl, P, Q: (
                kl(P.first, Q.first)
                + sum(w * kl(p, q) for w, p, q in zip(Q.first, P.given, Q.given, strict=True))
            )
        ),
        "not averaged": CHAIN.but(
            total=lambda kl, P, Q: kl(P.first, Q.first) + sum(map(kl, P.given, Q.given))
        ),
        "without the first coordinate": CHAIN.but(
            total=lambda kl, P, Q: CHAIN.total(kl, P, Q) - kl(P.first, Q.first)
        ),
        "the conditional laws the other way round": CHAIN.but(
            total=lambda kl, P, Q: (
                kl(P.first, Q.first)
                + sum(w * kl(q, p) for w, p, q in zip(P.first, P.given, Q.given, strict=True))
            )
        ),
        "forgetting halves the divergence": CHAIN.but(of_the_pair=lambda full: full / 2),
    },
    covers="the chain rule for any two positive laws on 2 x 3 pairs (x, y); that forgetting y "
    "can't increase KL: three such pairs of laws, with equality when the conditional laws agree",
    omits="laws on infinitely many points, for which the proof splits densities; infinite values; "
    "that conditional laws exist",
)
def chain_rule(steps, claim):
    """Sums over a table of probabilities, with general entries."""
    p = Matrix(2, 3, symbols("p_11:14 p_21:24", positive=True))
    q = Matrix(2, 3, symbols("q_11:14 q_21:24", positive=True))
    p, q = p / sum(p), q / sum(q)

    def kl(a, b):
        return sum(u * log(u / v) for u, v in zip(a, b, strict=True))

    steps.equal(
        "KL of the pair, split",
        _logs(kl(p, q)),
        _logs(claim.total(kl, _Pair(p), _Pair(q))),
    )
    table = Matrix([[3, 1, 2], [2, 4, 4]]) / 16
    uniform = sympy.ones(2, 3) / 6
    same_conditionals = Matrix([[6, 2, 4], [1, 2, 2]]) / 17
    for name, a, b in (
        ("a table, the uniform law", table, uniform),
        ("the uniform law, a table", uniform, table),
        ("equal conditional laws", table, same_conditionals),
    ):
        steps.at_most(
            f"{name}: KL of the first coordinate is at most KL of the pair",
            kl(_Pair(a).first, _Pair(b).first),
            claim.of_the_pair(kl(a, b)),
            tolerance=1e-30,
            why="40 digits, in the case of equality",
        )


def _logs(expression):
    return sympy.expand_log(expression, force=True)


GAUSSIAN_KL = claims(
    kl=lambda a, A, b, B: (
        (
            (B.inv() * A).trace()
            - len(a)
            + (a - b).dot(B.inv() * (a - b))
            + log(B.det())
            - log(A.det())
        )
        / 2
    )
)


@check(
    "prp-kl-gaussians",
    claim=GAUSSIAN_KL,
    mutants={
        "the other direction": GAUSSIAN_KL.but(kl=lambda a, A, b, B: GAUSSIAN_KL.kl(b, B, a, A)),
        "without the dimension": GAUSSIAN_KL.but(
            kl=lambda a, A, b, B: GAUSSIAN_KL.kl(a, A, b, B) + Rational(len(a), 2)
        ),
        "means compared in the metric of A": GAUSSIAN_KL.but(
            kl=lambda a, A, b, B: (
                GAUSSIAN_KL.kl(a, A, b, B) + (a - b).dot((A.inv() - B.inv()) * (a - b)) / 2
            )
        ),
        "determinants exchanged": GAUSSIAN_KL.but(
            kl=lambda a, A, b, B: GAUSSIAN_KL.kl(a, A, b, B) + log(A.det() / B.det())
        ),
        "without the half": GAUSSIAN_KL.but(kl=lambda a, A, b, B: 2 * GAUSSIAN_KL.kl(a, A, b, B)),
    },
    covers="all means and positive definite covariances in the plane",
    omits="other dimensions, where the same algebra holds",
)
def kl_gaussians(steps, claim):
    """The mean of the log-ratio of the densities, a polynomial in two standard normals."""
    a, b = (Matrix(symbols(f"{n}_1:3", real=True)) for n in "ab")
    r1, r2, s1, s2 = symbols("r_1 r_2 s_1 s_2", positive=True)
    r3, s3 = symbols("r_3 s_3", real=True)
    left, right = Matrix([[r1, 0], [r3, r2]]), Matrix([[s1, 0], [s3, s2]])
    A, B = left * left.T, right * right.T
    xi = Matrix(symbols("xi_1:3", real=True))
    x = a + left * xi  # has the law N(a, A)

    def log_density(mean, root):
        """Of N(mean, root root^T): the substitution y = root^-1 (x - mean)."""
        y = root.LUsolve(x - mean)
        return -log(2 * sympy.pi) - log(root[0, 0] * root[1, 1]) - y.dot(y) / 2

    ratio = log_density(a, left) - log_density(b, right)
    steps.equal(
        "E[log p(X) - log q(X)]",
        _logs(_gaussian_mean(ratio, xi)),
        _logs(claim.kl(a, A, b, B)),
    )


def _gaussian_mean(polynomial, variables):
    """The mean of a polynomial in independent standard normal variables."""
    total = sympy.Poly(sympy.expand(polynomial), *variables)
    return sum(
        coefficient * math.prod(0 if k % 2 else sympy.factorial2(k - 1) for k in powers)
        for powers, coefficient in total.terms()
    )


FRECHET = claims(
    square=lambda a, A, b, B: (
        _norm2(a - b) + _trace(A) + _trace(B) - 2 * _trace(_root(_root(A) * B * _root(A)))
    ),
    transport=lambda A, B: _root(A) ** -1 * _root(_root(A) * B * _root(A)) * _root(A) ** -1,
)


def _root(matrix):
    """The positive semidefinite square root of an mpmath matrix."""
    values, axes = mp.eigsy(matrix)
    return axes * mp.diag([mp.sqrt(max(v, 0)) for v in values]) * axes.T


def _trace(matrix):
    return mp.fsum(matrix[i, i] for i in range(matrix.rows))


def _norm2(matrix):
    return mp.fsum(entry**2 for entry in matrix)


@check(
    "prp-frechet-gaussians",
    claim=FRECHET,
    mutants={
        "roots multiplied: A^(1/2) B^(1/2)": FRECHET.but(
            square=lambda a, A, b, B: (
                _norm2(a - b) + _trace(A) + _trace(B) - 2 * _trace(_root(A) * _root(B))
            )
        ),
        "the last trace once": FRECHET.but(
            square=lambda a, A, b, B: (
                _norm2(a - b) + _trace(A) + _trace(B) - _trace(_root(_root(A) * B * _root(A)))
            )
        ),
        "the means not squared": FRECHET.but(
            square=lambda a, A, b, B: (
                FRECHET.square(a, A, b, B) - _norm2(a - b) + mp.sqrt(_norm2(a - b))
            )
        ),
        "the map B^(1/2) A^(-1/2)": FRECHET.but(transport=lambda A, B: _root(B) * _root(A) ** -1),
        "the map without the second A^(-1/2)": FRECHET.but(
            transport=lambda A, B: _root(A) ** -1 * _root(_root(A) * B * _root(A))
        ),
    },
    covers="one pair A, B in three dimensions: the map T attains F, and no coupling of any two "
    "laws with these moments costs less; the value for one singular A; claim 1 for six pairs of "
    "point sets of the plane",
    omits="other covariances, for which the proof argues with the singular value decomposition",
)
def frechet_gaussians(steps, claim):
    """Matrices in 30 digits: the cost of couplings from above, a dual bound from below."""
    with mp.workdps(30):
        number = dict(tolerance=1e-20, why="matrices in 30 digits")
        a, b = mp.matrix([-2, 0, 1]), mp.matrix([2, mp.mpf(1) / 2, 0])
        A = mp.matrix([[2, 1, 0], [1, 3, -1], [0, -1, 1]])
        B = mp.matrix([[1, -1, 1], [-1, 4, 0], [1, 0, 5]]) / 2
        square, T = claim.square(a, A, b, B), claim.transport(A, B)
        steps.close("the map T is symmetric", T, T.T, **number)
        steps.at_most("and its eigenvalues are not negative", [-v for v in mp.eigsy(T)[0]], 0)
        steps.close("b + T (X - a) has the covariance B", T * A * T.T, B, **number)
        cost = _norm2(a - b) + _norm2((mp.eye(3) - T) * _root(A))
        steps.close("the map costs F²: E|X - b - T (X - a)|²", cost, square, **number)
        # For centred X, Y of any laws E X.Y is at most E[X.TX + Y.T^-1 Y] / 2, as T is positive.
        least = _norm2(a - b) + _trace(A) + _trace(B) - _trace(T * A) - _trace(T**-1 * B)
        steps.close("no coupling costs less than F²: the dual bound", least, square, **number)
        v = mp.matrix([1, 2, 0])
        # X = a + v xi, and Y = b + B v xi / |v|_B + the rest attains the Cauchy-Schwarz bound.
        steps.close(
            "A = v v^T, singular: the cost of the best joint Gaussian",
            claim.square(a, v * v.T, b, B),
            _norm2(a - b) + _norm2(v) + _trace(B) - 2 * mp.sqrt((v.T * B * v)[0]),
            **number,
        )
        cloud = mp.matrix([[0, 0], [3, 1], [1, 4], [-2, 1]])
        others = {
            "itself, moved": cloud + mp.matrix([[5, 1]] * 4),
            "itself under a positive definite map": cloud * mp.matrix([[2, 1], [1, 3]]),
            "a second set": mp.matrix([[1, 1], [-4, 2], [0, -3], [2, 2]]),
            "its mirror image": cloud * mp.diag([-1, 1]),
            "a set on a line": mp.matrix([[0, 0], [1, 1], [2, 2], [7, 7]]),
            "one point": mp.matrix([[1, 2]] * 4),
        }
        for name, other in others.items():
            best = min(
                sum(_norm2(cloud[i, :] - other[j, :]) for i, j in enumerate(order)) / 4
                for order in itertools.permutations(range(4))
            )
            steps.at_most(
                f"four points and {name}: F² is at most W2², the cheapest permutation",
                claim.square(*_moments(cloud), *_moments(other)),
                best,
                **number,
            )


def _moments(points):
    """Mean and covariance of the uniform law on the rows of a matrix."""
    n = points.rows
    mean = mp.matrix([mp.fsum(points[:, i]) / n for i in range(points.cols)])
    centred = points - mp.matrix([list(mean)] * n)
    return mean, centred.T * centred / n


@cache
def _constants():
    """c_d = J(e_1) for d = 1, 2, 3: in each direction a line of frequencies, then all directions.

    The first coordinate of a direction is cos(theta) on the circle, and uniform on the sphere.
    """
    w, theta, c = symbols("omega theta c", positive=True)
    ray = sympy.integrate((1 - sympy.cos(w)) / w**2, (w, 0, sympy.oo))
    circle = 4 * sympy.integrate(sympy.cos(theta), (theta, 0, sympy.pi / 2))
    sphere = 2 * sympy.integrate(2 * sympy.pi * c, (c, 0, 1))
    return {1: 2 * ray, 2: circle * ray, 3: sphere * ray}


FOURIER = claims(
    gap=lambda p, q: abs(p - q) ** 2,
    weight=lambda norm, d: norm ** -(d + 1),
    frequencies=lambda h: 1 / h**2,
)


@check(
    "prp-energy-mmd",
    claim=FOURIER,
    mutants={
        "the power d": FOURIER.but(weight=lambda norm, d: norm**-d),
        "the power 2 in every dimension": FOURIER.but(weight=lambda norm, d: norm**-2),
        "the gap not squared": FOURIER.but(gap=lambda p, q: abs(p - q)),
        "the moduli compared": FOURIER.but(gap=lambda p, q: (abs(p) - abs(q)) ** 2),
        "frequencies of variance h²": FOURIER.but(frequencies=lambda h: h**2),
        "frequencies of variance 1/2h²": FOURIER.but(frequencies=lambda h: 1 / (2 * h**2)),
    },
    covers="energy distance: two pairs of normal laws on the line, two of centred round ones in "
    "two and in three dimensions, with c_d = pi^((d+1)/2) / Gamma((d+1)/2); MMD: a law of two "
    "points and one of three on the line, for two bandwidths",
    omits="other laws; MMD in higher dimension; that only equal laws have distance zero, which "
    "rests on the characteristic function determining the law",
)
def energy_mmd(steps, claim):
    """Integrals over frequencies against distances computed from distribution functions."""
    constants = _constants()
    for d, value in constants.items():
        half = Rational(d + 1, 2)
        steps.equal(
            f"d = {d}: c_d = J(e_1), in spherical coordinates",
            value,
            sympy.pi**half / sympy.gamma(half),
        )
    with mp.workdps(30):
        number = dict(tolerance=1e-20, why=QUADRATURE)
        for a, A, b, B in ((0, 1, mp.mpf(1) / 2, mp.mpf(1) / 4), (-1, 2, 1, 2)):
            steps.close(
                f"d = 1: N({a}, {A}) and N({mp.nstr(b)}, {mp.nstr(B)})",
                2
                * mp.quad(
                    lambda x, a=a, b=b, A=A, B=B: (
                        claim.gap(
                            mp.exp(1j * a * x - A * x**2 / 2), mp.exp(1j * b * x - B * x**2 / 2)
                        )
                        * claim.weight(x, 1)
                    ),
                    [0, 2, 6, 12, 30],
                )
                / mp.mpmathify(sympy.N(constants[1], 40)),
                2 * mp.quad(lambda x, a=a, b=b, A=A, B=B: _cdf_gap(x, a, A, b, B), _LINE),
                **number,
            )
        for d, spread in itertools.product((2, 3), (1, 3)):
            # E|N(0, v I)| is sqrt(v) times the mean of a chi variable of d degrees of freedom.
            chi = mp.sqrt(2) * mp.gamma(mp.mpf(d + 1) / 2) / mp.gamma(mp.mpf(d) / 2)
            exact = chi * (2 * mp.sqrt(spread + 2) - mp.sqrt(2 * spread) - 2)
            sphere = 2 * mp.pi ** (mp.mpf(d) / 2) / mp.gamma(mp.mpf(d) / 2)
            integral = mp.quad(
                lambda r, d=d, v=spread: (
                    claim.gap(mp.exp(-v * r**2 / 2), mp.exp(-(r**2)))
                    * claim.weight(r, d)
                    * r ** (d - 1)
                ),
                [0, 2, 6, 12, 20],
            )
            steps.close(
                f"d = {d}: N(0, {spread} I) and N(0, 2 I)",
                sphere * integral / mp.mpmathify(sympy.N(constants[d], 40)),
                exact,
                **number,
            )
        points, others = {0: mp.mpf("0.3"), 2: mp.mpf("0.7")}, {-1: 0.5, 0: 0.25, 3: 0.25}
        for h in (mp.mpf(1) / 2, 2):
            scale = mp.sqrt(claim.frequencies(h))

            def transform(law, x):
                return sum(weight * mp.expj(x * point) for point, weight in law.items())

            def kernel(p, q, h=h):
                return sum(
                    u * v * mp.exp(-(mp.mpf(x - y) ** 2) / (2 * h**2))
                    for (x, u), (y, v) in itertools.product(p.items(), q.items())
                )

            # The trapezoidal rule on the whole line is exact up to exp(-2 (pi/step)²) and the like.
            step = mp.mpf(1) / 8
            steps.close(
                f"MMD² of two laws of points, h = {mp.nstr(h)}",
                mp.fsum(
                    step
                    * mp.npdf(k * step)
                    * claim.gap(
                        transform(points, scale * k * step), transform(others, scale * k * step)
                    )
                    for k in range(-100, 101)
                ),
                kernel(points, points) + kernel(others, others) - 2 * kernel(points, others),
                **number,
            )


_LINE = [-25, -10, -4, 0, 4, 10, 25]


def _cdf_gap(x, a, A, b, B):
    """(F - G)² of N(a, A) and N(b, B); its integral is half the energy distance."""
    return (mp.ncdf((x - a) / mp.sqrt(A)) - mp.ncdf((x - b) / mp.sqrt(B))) ** 2


CLOSED = claims(
    distance=lambda m, v: (
        mp.sqrt(2 * v / mp.pi) * mp.exp(-(m**2) / (2 * v)) + m * (1 - 2 * mp.ncdf(-m / mp.sqrt(v)))
    ),
    energy=lambda distance, a, A, b, B: (
        2 * distance(a - b, A + B) - 2 / mp.sqrt(mp.pi) * (mp.sqrt(A) + mp.sqrt(B))
    ),
    kappa=lambda m, S, h: (
        (_eye(m) + S / h**2).det() ** Rational(-1, 2)
        * exp(-m.dot((S + h**2 * _eye(m)).inv() * m) / 2)
    ),
    mmd=lambda kappa, a, A, b, B: (
        kappa(0 * a, 2 * A) + kappa(0 * b, 2 * B) - 2 * kappa(a - b, A + B)
    ),
)


def _eye(vector):
    return sympy.eye(len(vector))


@check(
    "prp-energy-mmd-gaussians",
    claim=CLOSED,
    mutants={
        "the tail with the other sign": CLOSED.but(
            distance=lambda m, v: CLOSED.distance(m, v) - 2 * m * (1 - 2 * mp.ncdf(-m / mp.sqrt(v)))
        ),
        "the bell too narrow": CLOSED.but(
            distance=lambda m, v: (
                CLOSED.distance(m, v)
                + mp.sqrt(2 * v / mp.pi) * (mp.exp(-(m**2) / v) - mp.exp(-(m**2) / (2 * v)))
            )
        ),
        "1/sqrt(pi) for 2/sqrt(pi)": CLOSED.but(
            energy=lambda distance, a, A, b, B: (
                2 * distance(a - b, A + B) - (mp.sqrt(A) + mp.sqrt(B)) / mp.sqrt(mp.pi)
            )
        ),
        "h² left out of the exponent": CLOSED.but(
            kappa=lambda m, S, h: (
                (_eye(m) + S / h**2).det() ** Rational(-1, 2) * exp(-m.dot(S.inv() * m) / 2)
            )
        ),
        "h for h² in the determinant": CLOSED.but(
            kappa=lambda m, S, h: (
                CLOSED.kappa(m, S, h)
                * ((_eye(m) + S / h**2).det() / (_eye(m) + S / h).det()) ** Rational(1, 2)
            )
        ),
        "variances not doubled": CLOSED.but(
            mmd=lambda kappa, a, A, b, B: (
                kappa(0 * a, A) + kappa(0 * b, B) - 2 * kappa(a - b, A + B)
            )
        ),
    },
    covers="claim 1: E|Z| for three normal laws and the energy distance of two pairs, by "
    "quadrature; claim 2: kappa on the line for all m, S and h; kappa and MMD in the plane for two "
    "laws and two bandwidths",
    omits="other dimensions and numbers, for which the proof argues with densities",
)
def energy_mmd_gaussians(steps, claim):
    """Integrals of |z|, of distribution functions, of the kernel and over frequencies."""
    half, third = mp.mpf(1) / 2, mp.mpf(1) / 3
    with mp.workdps(30):
        number = dict(tolerance=1e-20, why=QUADRATURE)
        for m, v in ((0, 1), (1, 2), (-2, third)):
            root = mp.sqrt(v)
            steps.close(
                f"E|Z| for Z of law N({m}, {mp.nstr(v, 3)})",
                claim.distance(m, v),
                mp.quad(
                    lambda z, m=m, r=root: abs(z) * mp.npdf(z, m, r),
                    sorted([m - 14 * root, m, 0, m + 14 * root]),
                ),
                **number,
            )
        for a, A, b, B in ((0, 1, half, half / 2), (1, 2, -1, 2)):
            steps.close(
                f"energy distance of N({a}, {A}) and N({mp.nstr(b)}, {mp.nstr(B)}): twice the "
                "integral of (F - G)²",
                claim.energy(claim.distance, a, A, b, B),
                2 * mp.quad(lambda x, a=a, A=A, b=b, B=B: _cdf_gap(x, a, A, b, B), _LINE),
                **number,
            )
    a, b = Matrix([-2, 0]), Matrix([Rational(-1, 2), 1])
    A, B = Matrix([[10, 6], [6, 5]]) / 10, Matrix([[3, -3], [-3, 12]]) / 10
    double = dict(tolerance=1e-14, why="trapezoidal rule, exact up to " + ROUND_OFF)
    grid, cell = _grid(12.0, 0.1)
    for h in (1, 2):

        def kappa(m, S, h=h):
            return claim.kappa(m, S, sympy.Integer(h))

        steps.close(
            f"kappa in the plane, h = {h}: the integral of the kernel against the density",
            kappa(a, A),
            cell * (_normal(grid, a, A) * torch.exp(-(grid**2).sum(1) / (2 * h**2))).sum(),
            **double,
        )
        p, q = (_transform(grid / h, mean, cov) for mean, cov in ((a, A), (b, B)))
        standard = _normal(grid, 0 * a, sympy.eye(2))
        steps.close(
            f"MMD² in the plane, h = {h}: the average over frequencies",
            claim.mmd(kappa, a, A, b, B),
            cell * (standard * (p - q).abs() ** 2).sum(),
            **double,
        )
    z, m = symbols("z m", real=True)
    s, h = symbols("s h", positive=True)
    normal = exp(-((z - m) ** 2) / (2 * s**2)) / sympy.sqrt(2 * sympy.pi * s**2)
    steps.equal(
        "kappa on the line: the integral of the kernel against the density",
        claim.kappa(Matrix([m]), Matrix([[s**2]]), h),
        sympy.integrate(sympy.expand(normal * exp(-(z**2) / (2 * h**2))), (z, -sympy.oo, sympy.oo)),
    )


def _tensor(matrix):
    """A SymPy matrix in double precision; columns become vectors."""
    values = torch.tensor(matrix.tolist(), dtype=torch.float64)
    return values[:, 0] if matrix.cols == 1 else values


def _grid(reach, step):
    """Points of a square grid of the plane and the area of its cells."""
    line = torch.arange(-reach, reach + step / 2, step, dtype=torch.float64)
    return torch.cartesian_prod(line, line), step**2


def _normal(x, mean, cov):
    """The density of a normal law at the rows of x."""
    mean, cov = (_tensor(v) if isinstance(v, sympy.MatrixBase) else v for v in (mean, cov))
    y = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), (x - mean).mT, upper=False)
    d = x.shape[-1]
    return torch.exp(-(y**2).sum(0) / 2) / ((2 * math.pi) ** d * torch.linalg.det(cov)).sqrt()


def _transform(frequencies, mean, cov):
    """The characteristic function of a normal law."""
    mean, cov = _tensor(mean), _tensor(cov)
    decay = ((frequencies @ cov) * frequencies).sum(1) / 2
    return torch.exp(torch.complex(-decay, frequencies @ mean))


PLUG_IN = claims(
    energy=lambda true, xx, yy, n, m: true + xx / n + yy / m,
    mmd=lambda true, xx, yy, n, m: true + (1 - xx) / n + (1 - yy) / m,
    different_pairs=lambda n: Rational(1, n * (n - 1)),
    least=lambda wasserstein2: wasserstein2,
)


@check(
    "prp-plug-in-bias",
    claim=PLUG_IN,
    mutants={
        "a bias downwards": PLUG_IN.but(
            energy=lambda true, xx, yy, n, m: true - xx / n - yy / m,
            mmd=lambda true, xx, yy, n, m: true - (1 - xx) / n - (1 - yy) / m,
        ),
        "the sizes exchanged": PLUG_IN.but(
            energy=lambda true, xx, yy, n, m: true + xx / m + yy / n
        ),
        "1/(n-1) for 1/n": PLUG_IN.but(
            energy=lambda true, xx, yy, n, m: true + xx / (n - 1) + yy / (m - 1)
        ),
        "the bias of the energy distance in MMD": PLUG_IN.but(
            mmd=lambda true, xx, yy, n, m: true + xx / n + yy / m
        ),
        "all pairs counted in the mean of different pairs": PLUG_IN.but(
            different_pairs=lambda n: Rational(1, n**2)
        ),
        "W2² biased by a percent at least": PLUG_IN.but(
            least=lambda wasserstein2: wasserstein2 * Rational(101, 100)
        ),
    },
    covers="claims 1 and 2 and the unbiased estimates: all laws on two points each, with any "
    "distances or kernel, for n = 2 and m = 3; claim 3: six pairs of laws on the line, n = 2 and "
    "3, with equality for a law on one point; a negative value of each unbiased estimate",
    omits="other laws and sample sizes, for which the proof counts pairs (claims 1 and 2) or "
    "builds a coupling (claim 3)",
)
def plug_in_bias(steps, claim):
    """All samples of a finite law, with their probabilities."""
    n, m = 2, 3
    u, v = symbols("u v", positive=True)
    p, q = {0: u, 1: 1 - u}, {2: v, 3: 1 - v}
    for name, diagonal, sign in (("energy", 0, -1), ("mmd", 1, 1)):
        k = Matrix(
            4, 4, lambda i, j, on=diagonal: on if i == j else symbols(f"k_{min(i, j)}{max(i, j)}")
        )

        def mean(law, other, k=k):
            return sum(law[i] * other[j] * k[i, j] for i, j in itertools.product(law, other))

        def cross(x, y, k=k):
            return sum(k[i, j] for i, j in itertools.product(x, y)) / sympy.Integer(len(x) * len(y))

        def different(x, k=k):
            pairs = itertools.permutations(range(len(x)), 2)
            return claim.different_pairs(len(x)) * sum(k[x[i], x[j]] for i, j in pairs)

        xx, yy = mean(p, p), mean(q, q)
        true = sign * (xx + yy - 2 * mean(p, q))
        samples = [
            (x, y, math.prod(p[i] for i in x) * math.prod(q[j] for j in y))
            for x in itertools.product(p, repeat=n)
            for y in itertools.product(q, repeat=m)
        ]
        plug_in = sum(
            w * sign * (cross(x, x) + cross(y, y) - 2 * cross(x, y)) for x, y, w in samples
        )
        steps.equal(
            f"{name}: the mean of the plug-in estimate over all samples",
            plug_in,
            getattr(claim, name)(true, xx, yy, sympy.Integer(n), sympy.Integer(m)),
        )
        unbiased = sum(
            w * sign * (different(x) + different(y) - 2 * cross(x, y)) for x, y, w in samples
        )
        steps.equal(f"{name}: averages over different points are unbiased", unbiased, true)
        x, y = (0, 1), (2, 2, 3)
        estimate = sign * (different(x) + different(y) - 2 * cross(x, y))
        # Points 0 and 2 at one place, 1 and 3 at another, 1 apart.
        near, far = (0, 1) if name == "energy" else (1, exp(Rational(-1, 2)))
        together = {k[i, j]: near if (j - i) % 2 == 0 else far for i in range(4) for j in range(i)}
        steps.true(
            f"{name}: the unbiased estimate is negative for the samples 0, 1 and 0, 0, 1",
            estimate.subs(together) < 0,
        )
    third = Rational(1, 3)
    coin, lopsided = {0: 1 - third, 1: third}, {0: third, 1: third, 4: third}
    for (first, p), (second, q) in itertools.product(
        (("a coin", coin), ("three points", lopsided)),
        (
            ("the same coin", coin),
            ("a distant point", {7: Rational(1)}),
            ("a wide law", {-2: third, 5: 1 - third}),
        ),
    ):
        steps.true(
            f"W2² of {first} and {second} is at most its mean over all samples of 2, and of 3",
            claim.least(_wasserstein2(p, q))
            <= min(_mean_wasserstein2(p, q, size) for size in (2, 3)),
        )


def _wasserstein2(p, q):
    """W2² of two laws on the line: quantiles of equal level are paired."""
    total, p, q = 0, sorted(p.items()), sorted(q.items())
    while p and q:
        (x, a), (y, b) = p[0], q[0]
        mass = min(a, b)
        total += mass * (x - y) ** 2
        p = [(x, a - mass)] * bool(a > mass) + p[1:]
        q = [(y, b - mass)] * bool(b > mass) + q[1:]
    return total


def _mean_wasserstein2(p, q, n):
    """The mean of the plug-in estimate over all samples; the cheapest pairing of each."""
    return sum(
        math.prod(p[a] for a in x)
        * math.prod(q[b] for b in y)
        * min(
            sum((a - b) ** 2 for a, b in zip(x, order, strict=True))
            for order in itertools.permutations(y)
        )
        / n
        for x in itertools.product(p, repeat=n)
        for y in itertools.product(q, repeat=n)
    )


MARGINAL = claims(
    mixture=lambda weights, densities: sum(w * p for w, p in zip(weights, densities, strict=True)),
    mean=lambda alpha, sigma, mu: alpha * mu,
    cov=lambda alpha, sigma, cov, eye: alpha**2 * cov + sigma**2 * eye,
)


@check(
    "prp-mixture-marginal",
    claim=MARGINAL,
    mutants={
        "alpha for alpha²": MARGINAL.but(
            cov=lambda alpha, sigma, cov, eye: alpha * cov + sigma**2 * eye
        ),
        "sigma for sigma²": MARGINAL.but(
            cov=lambda alpha, sigma, cov, eye: alpha**2 * cov + sigma * eye
        ),
        "means not scaled": MARGINAL.but(mean=lambda alpha, sigma, mu: mu),
        "variances interpolated": MARGINAL.but(
            cov=lambda alpha, sigma, cov, eye: (1 - sigma**2) * cov + sigma**2 * eye
        ),
        "equal weights": MARGINAL.but(
            mixture=lambda weights, densities: sum(densities) / len(densities)
        ),
    },
    covers="one component of any mean and covariance, singular ones included, in the plane; the "
    "density of the laboratory at twelve points and three noise levels",
    omits="other dimensions; other mixtures, whose densities add up in the same way",
)
def mixture_marginal(steps, claim):
    """Moment generating functions; then the convolution with the noise, by quadrature."""
    alpha, sigma = symbols("alpha sigma", positive=True)
    mu, omega, xi, eps = (Matrix(symbols(f"{n}_1:3", real=True)) for n in ("m", "w", "x", "e"))
    root = Matrix(2, 2, symbols("r_11 r_12 r_21 r_22", real=True))
    x = alpha * (mu + root * xi) + sigma * eps  # Sigma = root root^T is any covariance
    tilt = sympy.expand(omega.dot(x))
    # E exp(c N) = exp(c² / 2) for each of the four independent standard normal variables.
    constant = tilt.subs(dict.fromkeys([*xi, *eps], 0))
    squares = sum(diff(tilt, variable) ** 2 for variable in [*xi, *eps])
    cov = claim.cov(alpha, sigma, root * root.T, sympy.eye(2))
    steps.equal(
        "one component: log E exp(w . X) is w . mean + w . C w / 2, as for a normal law",
        constant + squares / 2,
        omega.dot(claim.mean(alpha, sigma, mu)) + omega.dot(cov * omega) / 2,
    )
    law, eye = laboratory(), torch.eye(2, dtype=torch.float64)
    points = _points()
    for alpha, sigma in ((0.2, 0.8), (0.5, 0.5), (0.8, 0.6)):
        densities = [
            _normal(points, claim.mean(alpha, sigma, mu), claim.cov(alpha, sigma, cov, eye))
            for mu, cov in zip(law.means, law.covs, strict=True)
        ]
        p = claim.mixture(law.weights, densities)
        exact = _joint(points, alpha, sigma)[1].sum(1)
        steps.close(
            "100 times the density of the laboratory, against an integral over x_1, "
            f"alpha = {alpha}, sigma = {sigma}",
            100 * p,
            100 * exact,
            tolerance=1e-14,
            why="trapezoidal rule, exact up to " + ROUND_OFF,
        )


def _points():
    """Twelve points of the plane."""
    return torch.tensor(
        [[x, y] for x in (-2.1, -0.7, 0.4, 1.6) for y in (-1.3, 0.2, 1.9)], dtype=torch.float64
    )


def _joint(x, alpha, sigma):
    """Points x_1 of a grid, and p_1(x_1) N(x; alpha x_1, sigma² I) d x_1 there, (points, grid)."""
    law = laboratory()
    grid, cell = _grid(8.0, 0.08)
    prior = sum(
        weight * _normal(grid, mean, cov)
        for weight, mean, cov in zip(law.weights, law.means, law.covs, strict=True)
    )
    squared = ((x[:, None] - alpha * grid) ** 2).sum(-1)
    noise = torch.exp(-squared / (2 * sigma**2)) / (2 * math.pi * sigma**2)
    return grid, cell * prior * noise


SCORE = claims(
    weight=lambda joint, k: joint[k] / sum(joint),
    score=lambda weights, inverses, alpha, mu, x: sum(
        (w * C * (alpha * m - x) for w, C, m in zip(weights, inverses, mu, strict=True)),
        sympy.zeros(2, 1),
    ),
)


@check(
    "prp-mixture-score",
    claim=SCORE,
    mutants={
        "the other sign": SCORE.but(score=lambda w, C, a, mu, x: -SCORE.score(w, C, a, mu, x)),
        "the covariance for its inverse": SCORE.but(
            score=lambda w, C, a, mu, x: SCORE.score(w, [c.inv() for c in C], a, mu, x)
        ),
        "means not scaled": SCORE.but(score=lambda w, C, a, mu, x: SCORE.score(w, C, 1, mu, x)),
        "not divided by p": SCORE.but(weight=lambda joint, k: joint[k]),
        "equal weights": SCORE.but(weight=lambda joint, k: Rational(1, 2)),
        "weights of the square roots": SCORE.but(
            weight=lambda joint, k: sympy.sqrt(joint[k]) / sum(map(sympy.sqrt, joint))
        ),
    },
    covers="two components of any weights, means mu_k and positive definite C_k, in the plane",
    omits="more components or dimensions, whose terms do not interact",
)
def mixture_score(steps, claim):
    """SymPy's derivatives of the log-density, in x and in the logarithm of a weight."""
    x = Matrix(symbols("x_1:3", real=True))
    alpha = symbols("alpha", positive=True)
    means, inverses, roots, log_weights = [], [], [], symbols("l_1 l_2", real=True)
    for k in (1, 2):
        means.append(Matrix(symbols(f"m_{k}1 m_{k}2", real=True)))
        # C^-1 = R^T R with R upper triangular, so that det C = 1 / (r_1 r_2)².
        r = symbols(f"r_{k}1 r_{k}2", positive=True)
        roots.append(Matrix([[r[0], symbols(f"s_{k}", real=True)], [0, r[1]]]))
        inverses.append(roots[-1].T * roots[-1])
    joint = []
    for mean, root, log_weight in zip(means, roots, log_weights, strict=True):
        y = root * (x - alpha * mean)
        density = root[0, 0] * root[1, 1] * exp(-y.dot(y) / 2) / (2 * sympy.pi)
        joint.append(exp(log_weight) * density)
    log_p = log(sum(joint))
    weights = [claim.weight(joint, k) for k in range(2)]
    steps.equal(
        "w_k is the derivative of log p in log pi_k: how much of p comes from k",
        weights,
        [diff(log_p, log_weight) for log_weight in log_weights],
    )
    gradient = Matrix([diff(log_p, entry) for entry in x])
    steps.equal("the score", gradient, claim.score(weights, inverses, alpha, means, x))


CONDITIONING = claims(
    mean=lambda a, s, mu, cov, x: mu + a * cov * _noised(a, s, cov).inv() * (x - a * mu),
    cov=lambda a, s, cov: cov - a**2 * cov * _noised(a, s, cov).inv() * cov,
)


def _noised(alpha, sigma, cov):
    return alpha**2 * cov + sigma**2 * sympy.eye(cov.rows)


@check(
    "lem-gaussian-conditioning",
    claim=CONDITIONING,
    mutants={
        "the gain without alpha": CONDITIONING.but(
            mean=lambda a, s, mu, cov, x: mu + cov * _noised(a, s, cov).inv() * (x - a * mu)
        ),
        "mu not scaled": CONDITIONING.but(
            mean=lambda a, s, mu, cov, x: mu + a * cov * _noised(a, s, cov).inv() * (x - mu)
        ),
        "the covariance with a plus": CONDITIONING.but(
            cov=lambda a, s, cov: cov + a**2 * cov * _noised(a, s, cov).inv() * cov
        ),
        "alpha for alpha²": CONDITIONING.but(
            cov=lambda a, s, cov: cov - a * cov * _noised(a, s, cov).inv() * cov
        ),
    },
    covers="every mean and covariance in the plane: positive definite ones by the joint density, "
    "those of rank one by the joint moments, from which independence of the rest follows",
    omits="other dimensions; alpha = 0 or sigma = 0; that uncorrelated jointly Gaussian vectors "
    "are independent",
)
def gaussian_conditioning(steps, claim):
    """The logarithm of the joint density as a quadratic function of x_1; or moments."""
    alpha, sigma = symbols("alpha sigma", positive=True)
    mu, x, x1 = (Matrix(symbols(f"{n}_1:3", real=True)) for n in ("m", "x", "z"))
    r1, r2 = symbols("r_1 r_2", positive=True)
    r3 = symbols("r_3", real=True)
    root = Matrix([[r1, 0], [r3, r2]])
    cov = root * root.T
    y = root.LUsolve(x1 - mu)
    log_joint = -y.dot(y) / 2 - (x - alpha * x1).dot(x - alpha * x1) / (2 * sigma**2)
    gradient = Matrix([diff(log_joint, entry) for entry in x1])
    mean, V = claim.mean(alpha, sigma, mu, cov, x), claim.cov(alpha, sigma, cov)
    steps.equal(
        "the density of X_1 given x has its maximum, so its mean, at m(x)",
        gradient.subs(dict(zip(x1, mean, strict=True)), simultaneous=True),
    )
    steps.equal(
        "V is the inverse of minus the second derivatives",
        -sympy.hessian(log_joint, list(x1)) * V,
        sympy.eye(2),
    )
    v = Matrix([r1, r3])
    normals = symbols("xi e_1 e_2", real=True)
    data = mu + v * normals[0]
    seen = alpha * data + sigma * Matrix(normals[1:])
    rest = data - claim.mean(alpha, sigma, mu, v * v.T, seen)
    for text, left, right in (
        ("the rest X_1 - m(X) has mean 0", rest, sympy.zeros(2, 1)),
        ("the rest is uncorrelated with X", rest * seen.T, sympy.zeros(2, 2)),
        ("the rest has covariance V", rest * rest.T, claim.cov(alpha, sigma, v * v.T)),
    ):
        moments = left.applyfunc(lambda entry: _gaussian_mean(entry, normals))
        steps.equal(f"Sigma = v v^T, singular: {text}", moments, right)


DENOISER = claims(
    law=lambda w, averages: (w * averages).sum(1),
    mean=lambda w, m: torch.einsum("nk,nki->ni", w, m),
    cov=lambda w, m, V, D: (
        torch.einsum("nk,nkij->nij", w, V + m[..., :, None] * m[..., None, :])
        - D[:, :, None] * D[:, None, :]
    ),
    scaled=lambda alpha, sigma, x, score: x + sigma**2 * score,
    noise=lambda alpha, sigma, x, score: -sigma * score,
)


@check(
    "prp-mixture-denoiser",
    claim=DENOISER,
    mutants={
        "the law of the likeliest component": DENOISER.but(
            law=lambda w, averages: averages.gather(1, w.argmax(1, keepdim=True))[:, 0]
        ),
        "unweighted means": DENOISER.but(mean=lambda w, m: m.mean(1)),
        "the covariance of each component alone": DENOISER.but(
            cov=lambda w, m, V, D: torch.einsum("nk,kij->nij", w, V)
        ),
        "second moments not centred": DENOISER.but(
            cov=lambda w, m, V, D: DENOISER.cov(w, m, V, 0 * D)
        ),
        "sigma for sigma² before the score": DENOISER.but(
            scaled=lambda alpha, sigma, x, score: x + sigma * score
        ),
        "the noise with the other sign": DENOISER.but(
            noise=lambda alpha, sigma, x, score: sigma * score
        ),
        "the noise without sigma": DENOISER.but(noise=lambda alpha, sigma, x, score: -score),
    },
    covers="denoiser and noise in terms of the score: two components on the line, all parameters "
    "free; mean, covariance and law of X_1 given x (of the law the mean of one cosine): the "
    "laboratory, at twelve points and three noise levels",
    omits="other mixtures and dimensions; singular covariances",
)
def mixture_denoiser(steps, claim):
    """SymPy's derivative of the log-density; posterior averages by quadrature."""
    alpha, sigma = symbols("alpha sigma", positive=True)
    z, x = symbols("z x", real=True)
    joint, means = [], []
    for k in (1, 2):
        mu, s, weight = symbols(f"m_{k}", real=True), *symbols(f"s_{k} pi_{k}", positive=True)
        C = alpha**2 * s**2 + sigma**2
        joint.append(
            weight * exp(-((x - alpha * mu) ** 2) / (2 * C)) / sympy.sqrt(2 * sympy.pi * C)
        )
        # The posterior of a component is Gaussian; its mean is where its density is largest.
        log_posterior = -((z - mu) ** 2) / (2 * s**2) - (x - alpha * z) ** 2 / (2 * sigma**2)
        means.append(sympy.solve(diff(log_posterior, z), z)[0])
    D = sum(p * m for p, m in zip(joint, means, strict=True)) / sum(joint)
    score = diff(log(sum(joint)), x)
    steps.equal("alpha D(x) = x + sigma² s(x)", alpha * D, claim.scaled(alpha, sigma, x, score))
    steps.equal(
        "E[eps | X = x] = (x - alpha D(x)) / sigma = -sigma s(x)",
        (x - alpha * D) / sigma,
        claim.noise(alpha, sigma, x, score),
    )
    law, points = laboratory(), _points()
    eye = torch.eye(2, dtype=torch.float64)
    frequency = torch.tensor([0.7, -1.1], dtype=torch.float64)
    number = dict(tolerance=1e-12, why="trapezoidal rule, exact up to " + ROUND_OFF)
    for alpha, sigma in ((0.2, 0.8), (0.5, 0.5), (0.8, 0.6)):
        grid, joint = _joint(points, alpha, sigma)
        posterior = joint / joint.sum(1, keepdim=True)
        mean = posterior @ grid
        centred = grid - mean[:, None]
        cov = torch.einsum("ng,ngi,ngj->nij", posterior, centred, centred)
        # The formulas of `prp-mixture-marginal`, `prp-mixture-score`, `lem-gaussian-conditioning`.
        C = alpha**2 * law.covs + sigma**2 * eye
        weights = torch.stack(
            [
                weight * _normal(points, alpha * mu, c)
                for weight, mu, c in zip(law.weights, law.means, C, strict=True)
            ],
            1,
        )
        weights = weights / weights.sum(1, keepdim=True)
        gain = alpha * law.covs @ torch.linalg.inv(C)
        m = law.means + torch.einsum("kij,nkj->nki", gain, points[:, None] - alpha * law.means)
        V = law.covs - alpha * gain @ law.covs
        D = claim.mean(weights, m)
        at = f"alpha = {alpha}, sigma = {sigma}"
        steps.close(f"E[X_1 | X = x], {at}", D, mean, **number)
        steps.close(f"Cov[X_1 | X = x], {at}", claim.cov(weights, m, V, mean), cov, **number)
        decay = torch.einsum("i,kij,j->k", frequency, V, frequency) / 2
        steps.close(
            f"law of X_1 given x: E[cos(w . X_1) | X = x], {at}",
            claim.law(weights, torch.exp(-decay) * torch.cos(m @ frequency)),
            posterior @ torch.cos(grid @ frequency),
            **number,
        )
        density = points.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(
            _joint(density, alpha, sigma)[1].sum(1).log().sum(), density
        )
        steps.close(
            f"alpha D(x) = x + sigma² s(x), the score by automatic differentiation, {at}",
            alpha * D,
            claim.scaled(alpha, sigma, points, gradient),
            **number,
        )


EMPIRICAL = claims(
    exponent=lambda squared, sigma: -squared / (2 * sigma**2),
    excess=lambda squared: squared,
    gamma=lambda nearest, second: second**2 - nearest**2,
    far=lambda n, gamma, sigma: (n - 1) * mp.exp(-gamma / (2 * sigma**2)),
    distance=lambda bound, diameter: bound * diameter,
    confusion=lambda n, alpha, sigma, gap: (n - 1) * mp.ncdf(-alpha * gap / (2 * sigma)),
)


@check(
    "thm-empirical-denoiser",
    claim=EMPIRICAL,
    mutants={
        "sigma² for 2 sigma² in the softmax": EMPIRICAL.but(
            exponent=lambda squared, sigma: -squared / sigma**2
        ),
        "distances not squared": EMPIRICAL.but(
            exponent=lambda squared, sigma: -sympy.sqrt(squared) / (2 * sigma**2)
        ),
        "half the squared distance": EMPIRICAL.but(excess=lambda squared: squared / 2),
        "distances not squared in gamma": EMPIRICAL.but(
            gamma=lambda nearest, second: second - nearest
        ),
        "sigma² for 2 sigma² in the bound": EMPIRICAL.but(
            far=lambda n, gamma, sigma: (n - 1) * mp.exp(-gamma / sigma**2)
        ),
        "sigma for sigma² in the bound": EMPIRICAL.but(
            far=lambda n, gamma, sigma: (n - 1) * mp.exp(-gamma / (2 * sigma))
        ),
        "one other datum counted": EMPIRICAL.but(
            far=lambda n, gamma, sigma: mp.exp(-gamma / (2 * sigma**2))
        ),
        "half the diameter": EMPIRICAL.but(distance=lambda bound, diameter: bound * diameter / 2),
        "without the diameter": EMPIRICAL.but(distance=lambda bound, diameter: bound),
        "the diameter squared": EMPIRICAL.but(distance=lambda bound, diameter: bound * diameter**2),
        "the gap for half the gap": EMPIRICAL.but(
            confusion=lambda n, alpha, sigma, gap: (n - 1) * mp.ncdf(-alpha * gap / sigma)
        ),
        "alpha left out": EMPIRICAL.but(
            confusion=lambda n, alpha, sigma, gap: (n - 1) * mp.ncdf(-gap / (2 * sigma))
        ),
        "alpha²": EMPIRICAL.but(
            confusion=lambda n, alpha, sigma, gap: (
                (n - 1) * mp.ncdf(-(alpha**2) * gap / (2 * sigma))
            )
        ),
        "the gap squared": EMPIRICAL.but(
            confusion=lambda n, alpha, sigma, gap: (n - 1) * mp.ncdf(-alpha * gap**2 / (2 * sigma))
        ),
        "no union bound": EMPIRICAL.but(
            confusion=lambda n, alpha, sigma, gap: mp.ncdf(-alpha * gap / (2 * sigma))
        ),
    },
    covers="claim 1: any three data in the plane, with what the loss integrates over x compared at "
    "every x; claims 2 and 3: two data on a line, and crosses in up to five dimensions, where the "
    "bounds are attained or nearly so",
    omits="claim 1 for more data; claims 2 and 3 for data in general position",
)
def empirical_denoiser(steps, claim):
    """Exact weights and probabilities for regular data; the loss at a point, differentiated."""
    with mp.workdps(30):
        number = dict(tolerance=1e-25, why="30 digits")
        noises = [mp.mpf(s) for s in ("2", "1", "0.3", "0.1")]
        for d, arm, alpha in ((1, 1, 1), (2, 8, 1), (5, 1, 0.5)):
            # x = 0 is the centre of a cross: a datum, with 2d others at distance arm.
            others = [2 * d * mp.exp(-((alpha * arm) ** 2) / (2 * s**2)) for s in noises]
            steps.at_most(
                f"claim 2: 1 - w at the centre of a cross of {2 * d + 1} data, arms of {arm}, "
                f"alpha = {alpha}, four noise levels",
                [w / (1 + w) for w in others],
                [claim.far(2 * d + 1, claim.gamma(0, alpha * arm), s) for s in noises],
                **number,
            )
        for size, x, alpha in ((0.5, 0, 1), (0.5, 0.125, 1), (8, 0.125, 0.5)):
            x = mp.mpf(x)
            # The denoiser is the weight of the second datum times the datum.
            odds = [mp.exp(((alpha * size - x) ** 2 - x**2) / (2 * s**2)) for s in noises]
            gamma = claim.gamma(x, alpha * size - x)
            steps.at_most(
                f"claim 2: |D(x) - 0| for the data 0 and {size}, x = {mp.nstr(x)}, "
                f"alpha = {alpha}, four noise levels",
                [size / (1 + ratio) for ratio in odds],
                [claim.distance(claim.far(2, gamma, s), size) for s in noises],
                **number,
            )
        for d, arm, alpha in ((1, 1, 1), (1, 2, 0.5), (1, 0.5, 2), (2, 1, 0.5), (3, 1, 1)):
            # The centre is confused if a coordinate of sigma eps leaves ± alpha arm / 2.
            steps.at_most(
                f"claim 3: the centre of a cross in d = {d}, arms of {arm}, alpha = {alpha}"
                + ", which attains the bound" * (d == 1),
                [1 - mp.erf(alpha * arm / (2 * s) / mp.sqrt(2)) ** d for s in noises],
                [claim.confusion(2 * d + 1, alpha, s, arm) for s in noises],
                **number,
            )
    alpha, sigma = symbols("alpha sigma", positive=True)
    x, f = (Matrix(symbols(f"{n}_1:3", real=True)) for n in "xf")
    data = [Matrix(symbols(f"z_{i}1 z_{i}2", real=True)) for i in (1, 2, 3)]

    def square(v):
        return v.dot(v)

    density = [exp(-square((x - alpha * z) / sigma) / 2) / (6 * sympy.pi * sigma**2) for z in data]
    soft = [exp(claim.exponent(square(x - alpha * z), sigma)) for z in data]
    D = sum((w * z for w, z in zip(soft, data, strict=True)), sympy.zeros(2, 1)) / sum(soft)

    def loss(value):
        """What L_n(f) integrates over x, if f(x) is this value."""
        return sum(p * square(z - value) for p, z in zip(density, data, strict=True))

    at_denoiser = dict(zip(f, D, strict=True))
    for i in range(2):
        steps.equal(
            f"claim 1: the derivative of the loss in f_{i + 1} vanishes at the denoiser",
            diff(loss(f), f[i]).subs(at_denoiser, simultaneous=True),
        )
    point = Matrix(symbols("D_1:3", real=True))
    steps.equal(
        "claim 1: its second derivatives are those of p |D - f|², so that it exceeds its minimum "
        "by p |D - f|²",
        sympy.hessian(loss(f), list(f)),
        sum(density) * sympy.hessian(claim.excess(square(point - f)), list(f)),
    )
