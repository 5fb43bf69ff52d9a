"""Checks of the appendix with the longer proofs."""

from __future__ import annotations

import itertools
import math

import mpmath
import sympy
from mpmath import mp
from sympy import Function, Matrix, Rational, diff, exp, integrate, sqrt, symbols

from fromnoise.derivations.checking import check, claims

x, w = symbols("x w", real=True)
t, s = symbols("t s", positive=True)


def _tent(height, n, k, time):
    """The tent over the k-th dyadic interval of length 2^-n, at a time."""
    centre = Rational(2 * k + 1, 2 ** (n + 1))
    return height * sympy.Max(0, 1 - abs(time - centre) * 2 ** (n + 1))


SERIES = claims(
    first=lambda time: time,
    height=lambda n: 2 ** (-Rational(n, 2) - 1),
    covariance=sympy.Min,
    tail=lambda n: 2**n * 2 * mp.exp(-2 * n),
)


@check(
    "thm-brownian-exists",
    claim=SERIES,
    mutants={
        "the tents twice as high": SERIES.but(height=lambda n: 2 ** (-Rational(n, 2))),
        "the tents as high as the intervals are long": SERIES.but(
            height=lambda n: 2 ** (-Rational(n) - 1)
        ),
        "a constant for the first function": SERIES.but(first=lambda time: sympy.Integer(1)),
        "the covariance of the bridge": SERIES.but(covariance=lambda a, b: sympy.Min(a, b) - a * b),
        "the square forgotten in the tail": SERIES.but(tail=lambda n: 2**n * 2 * mp.exp(-4 * n)),
    },
    covers="the tents of the first four levels as integrals of Haar functions; the covariance at "
    "all multiples of 1/8, where the first three levels are the whole series; the tail bound that "
    "makes it converge, to level 30",
    omits="the step from the summable bound to a continuous limit (Borel-Cantelli), and the law at "
    "other times (Parseval)",
)
def brownian_exists(steps, claim):
    """The Haar functions integrated; sums of products of tents; the exact tail by mpmath."""
    cells = [Rational(i, 16) for i in range(16)]  # on each of them all Haar functions are constant
    for n in range(4):
        root = 2 ** Rational(n, 2)
        for k in range(2**n):
            halves = [(time * 2**n - k) * 2 // 1 for time in cells]  # 0: left, 1: right
            haar = [{0: root, 1: -root}.get(half, 0) for half in halves]
            steps.equal(
                f"level {n}: the integral of the Haar function {k} up to each multiple of 1/16",
                [sum(haar[: i + 1]) / 16 for i in range(16)],
                [_tent(claim.height(n), n, k, time + Rational(1, 16)) for time in cells],
            )
    grid = [Rational(i, 8) for i in range(9)]
    levels = [(n, k) for n in range(3) for k in range(2**n)]

    def covariance(a, b):
        tents = sum(
            _tent(claim.height(n), n, k, a) * _tent(claim.height(n), n, k, b) for n, k in levels
        )
        return claim.first(a) * claim.first(b) + tents

    pairs = list(itertools.combinations_with_replacement(grid, 2))
    steps.equal(
        "the sum of S(s) S(t) over all functions is min(s, t), at all multiples of 1/8",
        [covariance(a, b) for a, b in pairs],
        [claim.covariance(a, b) for a, b in pairs],
    )
    steps.true(
        "so increments over disjoint intervals have covariance 0, and variance t - s",
        all(
            covariance(b, d) - covariance(b, c) - covariance(a, d) + covariance(a, c)
            == (b - a if (a, b) == (c, d) else 0)
            for (a, b), (c, d) in itertools.product(itertools.pairwise(grid), repeat=2)
        ),
    )
    with mp.workdps(40):
        # log1p keeps the digits of 1 - (1 - p)^N for tiny p
        exact = [
            -mp.expm1(2**n * mp.log1p(-mp.erfc(mp.sqrt(2 * mpmath.mpf(n))))) for n in range(1, 31)
        ]
        steps.at_most(
            "P(some |Z| of 2^n exceeds 2 sqrt(n)), in 40 digits, over its bound, n = 1 to 30",
            [p / claim.tail(n) for n, p in enumerate(exact, start=1)],
            1,
        )
        steps.at_most(
            "these bounds are summable: each is less than a third of the one before",
            [claim.tail(n + 1) / claim.tail(n) for n in range(1, 31)],
            mpmath.mpf(1) / 3,
        )


@check(
    "lem-doob",
    claim=lambda last: 4 * last,
    mutants={
        "3 for 4": lambda last: 3 * last,
        "slightly less than 4": lambda last: Rational(399, 100) * last,
        "2, without the square": lambda last: 2 * last,
        "1: the maximum is no larger than the end": lambda last: last,
    },
    covers="walks of ten steps on the line, of five in the plane; a martingale of 10000 steps for "
    "which 3.56 is needed, and such ones for which every constant below 4 is too small",
    omits="other martingales, for which it is the proof",
)
def doob(steps, claim):
    """Sums over all paths; a martingale that rises in small steps until it falls, once."""
    for name, moves, length in (
        ("line", [(1,), (-1,)], 10),
        ("plane", [(1, 0), (-1, 0), (0, 1), (0, -1)], 5),
    ):
        largest = last = 0
        for path in itertools.product(moves, repeat=length):
            points = itertools.accumulate(
                path, lambda p, q: tuple(map(sum, zip(p, q, strict=True)))
            )
            squares = [sum(c * c for c in point) for point in points]
            largest, last = largest + max(squares), last + squares[-1]
        steps.at_most(
            f"walk of {length} steps ({name}): E max |M|² and 4 E |M_n|²",
            largest / len(moves) ** length,
            claim(last / len(moves) ** length),
        )
    # Each step: with probability p on to c times the value, else down to b times it, for good
    r, q = symbols("r q", positive=True)
    up, fall, length = 1 + r * q, 1 - r + r * q, 10000
    steps.equal(
        "a martingale: p c + (1 - p) b = 1 for p = 1 - q, c = 1 + r q, b = 1 - r + r q",
        (1 - q) * up + q * fall,
        1,
    )
    p, c, b = (v.subs({r: Rational(12, 25), q: Rational(1, 50)}) for v in (1 - q, up, fall))
    steps.true("it falls when it does not rise: 0 < b < 1 < c", bool(0 < b < 1 < c))
    with mp.workdps(40):
        p, c, b = (mpmath.mpf(v.p) / v.q for v in (p, c, b))
        stopped = mp.fsum((1 - p) * (p * c**2) ** k for k in range(length))
        survived = (p * c**2) ** length
        steps.at_most(
            f"{length} steps: E max M² and 4 E M_n², both over E M_n²",
            (stopped + survived) / (b**2 * stopped + survived),
            claim(1),
        )
    steps.equal(
        "p c² = 1 - (1 - 2 r) q + ..., below 1 for r < 1/2 and small q: who has not fallen in many "
        "steps counts for nothing, and the quotient tends to 1 / b²",
        diff((1 - q) * up**2, q).subs(q, 0),
        2 * r - 1,
    )
    steps.at_most(
        "1 / b² at the end of these r and q, r = 1/2 and q = 0, where it is 4, and the constant",
        1 / fall.subs({r: Rational(1, 2), q: 0}) ** 2,
        claim(1),
    )


@check(
    "lem-ito-continuous",
    claim=lambda energy: 4 * energy,
    mutants={
        "3 for 4": lambda energy: 3 * energy,
        "slightly less than 4": lambda energy: Rational(399, 100) * energy,
        "1: the isometry at the end only": lambda energy: energy,
        "the norm for its square": lambda energy: 4 * sqrt(energy),
        "the fourth power of the norm": lambda energy: 4 * energy**2,
    },
    covers="Brownian motion itself (H = 1) at three times, and H = 1 up to stopping times for "
    "which every constant below 4 is too small",
    omits="the continuous version, which is the proof; other integrands",
)
def ito_continuous(steps, claim):
    """E sup W² from the exit time of an interval; a stopping rule through its boundary problem."""
    with mp.workdps(30):
        # sup |W| on [0, T] is sqrt(T / exit time of (-1, 1)); E exp(-u² exit / 2) = 1 / cosh u
        peak_square = mp.quad(lambda u: u * mp.sech(u), [0, 10, 100])
        steps.close(
            "E sup W² on [0, 1] = integral of u / cosh u = 2 G, G Catalan's constant",
            peak_square,
            2 * mp.catalan,
            tolerance=1e-25,
            why="quadrature in 30 digits",
        )
        for end in (mpmath.mpf("0.04"), 1, 25):
            steps.at_most(
                f"H = 1 on [0, {mp.nstr(end)}]: E sup W² and 4 E integral of H²",
                peak_square * end,
                claim(end),
            )
    b, peak = symbols("b S", positive=True)
    # W from |W| = 1, reached after time 1 on average, until |W| has fallen to b times its peak
    end_square = peak**2 / (2 * b - 1) * (2 * w / peak - 1)
    rest = -(w**2) + 2 * b**2 / (2 * b - 1) * peak * w + (b**2 - 2 * b**3 / (2 * b - 1)) * peak**2
    for name, value, source, target in (
        ("the square of the final peak", end_square, 0, peak**2),
        ("the time that is left", rest, 1, 0),
    ):
        steps.equal(
            f"the mean of {name}: F'' / 2 + source = 0, F(b S, S) known, dF/dS = 0 at w = S",
            [
                diff(value, w, 2) / 2 + source,
                value.subs(w, b * peak) - target,
                diff(value, peak).subs(w, peak),
            ],
            [0, 0, 0],
        )
    supremum = end_square.subs({w: 1, peak: 1})
    energy = 1 + rest.subs({w: 1, peak: 1})
    steps.equal("their ratio is 1 / b², for every 1/2 < b < 1", supremum / energy, 1 / b**2)
    near = Rational(5001, 10000)
    steps.at_most(
        "b = 0.5001, on a long enough interval: E sup I² and 4 E integral of H²",
        supremum.subs(b, near),
        claim(energy.subs(b, near)),
    )


PICARD = claims(
    moment=lambda lip, end, start, m: 3 * start + 3 * (end + 4) * end * 2 * lip**2 * (1 + m),
    contraction=lambda lip, end: 2 * (end + 4) * lip**2,
    iterates=lambda k, end, n: (k * end) ** n / sympy.factorial(n),
    supremum=lambda lip, end, start: (1 + 3 * start) * exp(6 * (end + 4) * lip**2 * end) - 1,
    increment=lambda lip, end, m, h: 2 * (end + 1) * h * 2 * lip**2 * (1 + m),
)


@check(
    "thm-sde-existence",
    claim=PICARD,
    mutants={
        "the 3 of the initial value forgotten": PICARD.but(
            moment=lambda lip, end, start, m: start + 3 * (end + 4) * end * 2 * lip**2 * (1 + m)
        ),
        "Doob's constant forgotten": PICARD.but(contraction=lambda lip, end: 2 * end * lip**2),
        "the length of the interval forgotten": PICARD.but(contraction=lambda lip, end: 8 * lip**2),
        "the factorial squared": PICARD.but(
            iterates=lambda k, end, n: (k * end) ** n / sympy.factorial(n) ** 2
        ),
        "the factorial forgotten": PICARD.but(iterates=lambda k, end, n: (k * end) ** n),
        "the Lipschitz constant not squared": PICARD.but(
            supremum=lambda lip, end, start: (1 + 3 * start) * exp(6 * (end + 4) * lip * end) - 1
        ),
        "half the rate": PICARD.but(
            supremum=lambda lip, end, start: (1 + 3 * start) * exp(3 * (end + 4) * lip**2 * end) - 1
        ),
        "the 2 of the linear growth forgotten": PICARD.but(
            moment=lambda lip, end, start, m: 3 * start + 3 * (end + 4) * end * lip**2 * (1 + m)
        ),
        "the 2 of the key estimate forgotten": PICARD.but(
            contraction=lambda lip, end: (end + 4) * lip**2
        ),
        "increments without the length of the interval": PICARD.but(
            increment=lambda lip, end, m, h: 2 * h * 2 * lip**2 * (1 + m)
        ),
        "increments by the second moment alone": PICARD.but(
            increment=lambda lip, end, m, h: 2 * (end + 1) * h * 2 * lip**2 * m
        ),
        "increments of the order of a differentiable path": PICARD.but(
            increment=lambda lip, end, m, h: 2 * (end + 1) * h**2 * 2 * lip**2 * (1 + m)
        ),
    },
    covers="that the constants of the proof come from Cauchy-Schwarz, Doob, linear growth and "
    "Grönwall, for all L and T; that the estimates hold for dX = L X dt, dX = L X dW and constant "
    "coefficients, where both sides are known",
    omits="other equations, and the convergence of the iterates as processes: that is the proof; "
    "whether smaller constants would do",
)
def sde_existence(steps, claim):
    """The constants put together; Picard iterates of linear equations, with exact moments."""
    lip, end, h, start, size = symbols("L T h y M", positive=True)  # E |X_0|² = y, E sup |Y|² <= M
    growth = 2 * lip**2 * (1 + size)  # bounds E |b|² and E |g|², since (1 + |x|)² <= 2 (1 + |x|²)
    steps.equal(
        "E sup |Phi(Y)|² is at most 3 (E |X_0|² + T² E |b|² + 4 T E |g|²): three squares, "
        "Cauchy-Schwarz, Doob; put in the linear growth",
        3 * (start + end**2 * growth + 4 * end * growth),
        claim.moment(lip, end, start, size),
    )
    steps.equal(
        "the key estimate: 2 (T L² + 4 L²), from two squares, Cauchy-Schwarz, Doob, and Lipschitz",
        2 * (end * lip**2 + 4 * lip**2),
        claim.contraction(lip, end),
    )
    steps.equal(
        "E |X_{t+h} - X_t|² is at most 2 (T h E |b|² + h E |g|²): two squares, Cauchy-Schwarz with "
        "h <= T, the isometry; put in the linear growth",
        2 * (end * h * growth + h * growth),
        claim.increment(lip, end, size, h),
    )
    k = sympy.Symbol("K", positive=True)
    iterates = [claim.iterates(k, t, n) for n in range(5)]
    steps.equal(
        "(K t)^n / n! is K times the integral of the one before, n = 1 to 4; the first is 1",
        iterates,
        [1, *(k * integrate(bound, (t, 0, t)) for bound in iterates[:-1])],
    )
    m, rate = Function("m"), diff(claim.moment(lip, end, start, size), size) / end
    gronwall = sympy.dsolve(diff(m(t), t) - rate * m(t), m(t), ics={m(0): 1 + 3 * start})
    steps.equal(
        "Grönwall for m(t) = 1 + E sup |X|² up to t: m' = 6 (T + 4) L² m, m(0) = 1 + 3 E |X_0|²",
        gronwall.rhs.subs(t, end),
        1 + claim.supremum(lip, end, start),
    )
    # exp(L w - L² t / 2) expanded in L: the n-th term is the n-th difference of iterates
    series = sympy.series(exp(lip * w - lip**2 * t / 2), lip, 0, 6).removeO()
    terms = [series.coeff(lip, n) * lip**n for n in range(6)]
    gauss = exp(-(w**2) / (2 * t)) / sqrt(2 * sympy.pi * t)
    for n in range(1, 6):
        steps.equal(
            f"dX = L X dW, X_0 = 1: difference {n} is the Itô integral of L times the last",
            [
                diff(terms[n], w) - lip * terms[n - 1],
                diff(terms[n], t) + diff(terms[n], w, 2) / 2,
                terms[n].subs({w: 0, t: 0}),
            ],
            [0, 0, 0],
        )
        steps.equal(
            f"and has the second moment (L² t)^{n} / {n}!",
            integrate(sympy.expand(terms[n] ** 2) * gauss, (w, -sympy.oo, sympy.oo)),
            (lip**2 * t) ** n / sympy.factorial(n),
        )
    with mp.workdps(40):
        peak = 2 * mp.catalan  # E sup W² on [0, 1]
        pairs = [
            (mpmath.mpf(c), mpmath.mpf(end))
            for c, end in itertools.product(("0.01", "0.5", "3", "100"), ("0.01", "1", "20"))
        ]
        steps.at_most(
            "two processes at distance 1: E sup |Phi(Y) - Phi(Z)|² for b = L x, and for g = L x",
            [v for c, end in pairs for v in ((c * end) ** 2, peak * c**2 * end)],
            [claim.contraction(c, end) * end for c, end in pairs for _ in range(2)],
        )
        orders = range(1, 61)
        c = end = mpmath.mpf(1)
        k = claim.contraction(c, end)
        steps.at_most(
            "difference n of the iterates, squared mean over the bound with n!: dX = X dW, n to 60",
            [
                (end**n * end / mp.factorial(n + 1)) / (peak * end * claim.iterates(k, end, n))
                for n in orders
            ],
            1,
        )
        steps.at_most(
            "the same for dX = X dt",
            [
                (end ** (n + 1) / mp.factorial(n + 1)) ** 2 / (end**2 * claim.iterates(k, end, n))
                for n in orders
            ],
            1,
        )
        starts = [mpmath.mpf(v) for v in (0, 1, 10)]
        steps.at_most(
            "b or g = L (1 + |x|): E |Phi(Y)_T|² for the constant Y = X_0, and the bound for E sup",
            [
                v
                for (c, end), y in itertools.product(pairs, starts)
                for v in (
                    (y + c * end * (1 + y)) ** 2,
                    y**2 + (c + c * y) ** 2 * end,
                )
            ],
            [
                claim.moment(c, end, y**2, y**2)
                for (c, end), y in itertools.product(pairs, starts)
                for _ in range(2)
            ],
        )
        steps.at_most(
            "log of 1 + E |X_T|² for dX = L X dt and dX = L X dW, and of 1 + the bound for E sup",
            [
                mp.log(1 + y**2 * mp.exp(rate))
                for (c, end), y in itertools.product(pairs, starts)
                for rate in (2 * c * end, c**2 * end)
            ],
            [
                mp.log(1 + claim.supremum(c, end, y**2))
                for (c, end), y in itertools.product(pairs, starts)
                for _ in range(2)
            ],
        )
        steps.at_most(
            "E |X_{t+h} - X_t|² for dX = L dt, dX = L dW, and for dX = L X dW before T = 1",
            [
                v
                for h in ("1e-6", "0.01", "1")
                for v in (
                    (2 * mpmath.mpf(h)) ** 2,
                    4 * mpmath.mpf(h),
                    mp.exp(4) - mp.exp(4 * (1 - mpmath.mpf(h))),
                )
            ],
            [
                claim.increment(mpmath.mpf(2), 1, m, mpmath.mpf(h))
                for h in ("1e-6", "0.01", "1")
                for m in (4, 4, mp.exp(4))
            ],
        )
        small = mpmath.mpf("0.01")
        steps.at_most(
            "the same from 0 to T for L = 0.01: dX = L dt to T = 20, dX = L dW to T = 1",
            [(20 * small) ** 2, small**2],
            [
                claim.increment(small, 20, (20 * small) ** 2, 20),
                claim.increment(small, 1, small**2, 1),
            ],
        )


CONVERSE = claims(
    generator=lambda b, a, f, at: b.dot(_gradient(f, at)) + (a * sympy.hessian(f, at)).trace() / 2,
    duality=lambda error, a, v, chi, of_chi, at: (
        chi * error.dot(_gradient(v, at))
        + v * of_chi
        + (a * _gradient(v, at)).dot(_gradient(chi, at))
    ),
    gradient=lambda lip, end: exp(lip * end),
    distance=lambda lip, end, delta: delta * (exp(lip * end) - 1),
)


def _gradient(f, at):
    return Matrix([diff(f, c) for c in at])


@check(
    "thm-fokker-planck-converse",
    claim=CONVERSE,
    mutants={
        "the generator without 1/2": CONVERSE.but(
            generator=lambda b, a, f, at: (
                b.dot(_gradient(f, at)) + (a * sympy.hessian(f, at)).trace()
            )
        ),
        "the cross term halved": CONVERSE.but(
            duality=lambda error, a, v, chi, of_chi, at: (
                chi * error.dot(_gradient(v, at))
                + v * of_chi
                + (a * _gradient(v, at)).dot(_gradient(chi, at)) / 2
            )
        ),
        "the generator of chi forgotten": CONVERSE.but(
            duality=lambda error, a, v, chi, of_chi, at: (
                chi * error.dot(_gradient(v, at)) + (a * _gradient(v, at)).dot(_gradient(chi, at))
            )
        ),
        "the gradient as if the flow contracted": CONVERSE.but(
            gradient=lambda lip, end: exp(-lip * end)
        ),
        "the distance without the -1": CONVERSE.but(
            distance=lambda lip, end, delta: delta * exp(lip * end)
        ),
    },
    covers="the identity of step 4 for every v, chi, drift and noise in the plane; the theorem for "
    "the first four moments under a linear drift; the bounds of steps 3 and 5 where they are sharp",
    omits="other drifts and all test functions: smoothness of v, compact support and the limits "
    "are the proof",
)
def fokker_planck_converse(steps, claim):
    """The product rule in the plane; moments, backward equation and bounds of a linear drift."""
    at = symbols("x_1 x_2", real=True)
    v, chi = Function("v")(*at, t), Function("chi")(*at)
    drift, smooth = (Matrix([Function(f"{n}_{i}")(*at, t) for i in (1, 2)]) for n in "bd")
    a = Matrix(2, 2, [Function(n)(t) for n in ("a_1", "a_2", "a_2", "a_3")])
    product = diff(v * chi, t) + claim.generator(drift, a, v * chi, at)
    steps.equal(
        "d_t v = -L^delta v gives (d_t + L)(v chi) = chi (b - b^delta) . grad v + v L chi "
        "+ (a grad v) . grad chi",
        product.subs(diff(v, t), -claim.generator(smooth, a, v, at)),
        claim.duality(drift - smooth, a, v, chi, claim.generator(drift, a, chi, at), at),
    )

    lip, g, end, delta, k = symbols("L g T delta k", positive=True)
    of_start = [sympy.Integer(1), *symbols("m_1:5", real=True)]
    variance = g**2 * (exp(2 * lip * t) - 1) / (2 * lip)

    def moment(n):
        """E X_t^n for X_t = exp(L t) X_0 + N(0, variance)."""
        noise = [1, 0, variance, 0, 3 * variance**2]
        return sum(
            math.comb(n, j) * exp(lip * t * j) * of_start[j] * noise[n - j] for j in range(n + 1)
        )

    at, b, a = (x,), Matrix([lip * x]), Matrix([[g**2]])
    for n in range(1, 5):
        image = sympy.Poly(claim.generator(b, a, x**n, at), x)
        steps.equal(
            f"b = L x, every law of X_0: the weak equation of x^{n} gives d_t m_{n} by moments; "
            "those of X_t solve it, and begin right",
            [
                diff(moment(n), t) - sum(c * moment(j) for (j,), c in image.terms()),
                moment(n).subs(t, 0) - of_start[n],
            ],
            [0, 0],
        )
    left = variance.subs(t, end - t)
    v = exp(-(k**2) * left / 2) * sympy.cos(k * exp(lip * (end - t)) * x)
    steps.equal(
        "v = E cos(k X_T) from x at time t solves d_t v + L v = 0, with v = cos(k x) at T",
        [diff(v, t) + claim.generator(b, a, v, at), v.subs(t, end) - sympy.cos(k * x)],
        [0, 0],
    )
    slope = diff(v, x).subs(t, 0).subs(x, -sympy.pi / (2 * k) * exp(-lip * end))
    steps.equal(
        "its largest slope tends to exp(L T) k as the noise vanishes: the bound is sharp",
        sympy.limit(slope, g, 0),
        claim.gradient(lip, end) * k,
    )
    gap = Function("gap")
    steps.equal(
        "b = L x against L (x + delta): the distance of the solutions at T",
        sympy.dsolve(
            diff(gap(t), t) - lip * gap(t) - lip * delta, gap(t), ics={gap(0): 0}
        ).rhs.subs(t, end),
        claim.distance(lip, end, delta),
    )
