"""Checks of the chapter on fast ODE solvers."""

from __future__ import annotations

import sympy
from sympy import Function, Rational, diff, exp, integrate, log, simplify, symbols

from fromnoise.derivations.checking import check, claims

h, lam, rho, s = symbols("h lambda rho s", positive=True)
t, v, y, x, c = symbols("t v y x c", real=True)
ALPHA, SIGMA, DATA, NOISE = (Function(name)(t) for name in ("alpha", "sigma", "D", "eps"))


def _series(expression, order):
    return sympy.series(sympy.expand(expression), h, 0, order).removeO()


VARIATION = claims(
    data=lambda at, end: exp(-(end - at)), noise=lambda at, end: -exp(end - at), split=True
)


@check(
    "thm-variation-of-constants",
    claim=VARIATION,
    mutants={
        "the exponents exchanged": VARIATION.but(
            data=lambda at, end: exp(end - at), noise=lambda at, end: -exp(-(end - at))
        ),
        "plus for the noise": VARIATION.but(noise=lambda at, end: exp(end - at)),
        "twice the rate": VARIATION.but(data=lambda at, end: exp(-2 * (end - at))),
    },
    covers="the derivative of X / sigma and X / alpha for every schedule and every D, eps; the "
    "kernels, for D and eps that are any power of lambda",
    omits="regularity of the trajectory",
)
def variation_of_constants(steps, claim):
    """Differentiate; then the formula solves the linear equation in lambda."""
    state = ALPHA * DATA + SIGMA * NOISE
    slope = diff(ALPHA, t) * DATA + diff(SIGMA, t) * NOISE
    over_sigma = slope / SIGMA - state * diff(SIGMA, t) / SIGMA**2
    over_alpha = slope / ALPHA - state * diff(ALPHA, t) / ALPHA**2
    steps.equal("d(X/sigma) = D d(alpha/sigma)", over_sigma, DATA * diff(ALPHA / SIGMA, t))
    steps.equal("d(X/alpha) = eps d(sigma/alpha)", over_alpha, NOISE * diff(SIGMA / ALPHA, t))
    # on alpha = e^lambda sigma with sigma = 1: x' = x + ... in lambda; insert powers
    at, end, begin = symbols("u b a", real=True)
    for power in (0, 1, 2):
        kernel = integrate(claim.data(at, end) * at**power, (at, begin, end))
        # X/sigma grows by int e^u u^k du; alpha_q = e^b with sigma_q = 1
        steps.equal(
            f"data, D = lambda^{power}",
            exp(end) * kernel,
            integrate(exp(at) * at**power, (at, begin, end)),
        )
        kernel = integrate(claim.noise(at, end) * at**power, (at, begin, end))
        steps.equal(
            f"noise, eps = lambda^{power}",
            exp(-end) * kernel,
            -integrate(exp(-at) * at**power, (at, begin, end)),
        )


def _moment(k, sign=-1):
    return sympy.expand(integrate(h * exp(sign * h * (1 - v)) * v**k, (v, 0, 1)))


MOMENTS = claims(
    data=lambda k, before: 1 - k * before / h,
    noise=lambda k, before: k * before / h - 1,
    coefficient=lambda j, k: sympy.factorial(k) / sympy.factorial(k + j + 1),
)


@check(
    "lem-exponential-moments",
    claim=MOMENTS,
    mutants={
        "without k": MOMENTS.but(data=lambda k, before: 1 - before / h),
        "the other sign": MOMENTS.but(noise=lambda k, before: 1 - k * before / h),
        "no factorial": MOMENTS.but(coefficient=lambda j, k: 1 / sympy.factorial(k + j + 1)),
        "one less": MOMENTS.but(
            coefficient=lambda j, k: sympy.factorial(k) / sympy.factorial(k + j)
        ),
    },
    covers="k up to 3 for every h: both recursions; eight terms of both series",
    omits="nothing",
)
def exponential_moments(steps, claim):
    """Integrate by SymPy."""
    for k in (1, 2, 3):
        steps.equal(f"M_{k}", _moment(k), claim.data(k, _moment(k - 1)))
        steps.equal(f"N_{k}", _moment(k, 1), claim.noise(k, _moment(k - 1, 1)))
    for k in (0, 1, 2):
        for sign in (-1, 1):
            found = h * sum((sign * h) ** j * claim.coefficient(j, k) for j in range(8))
            steps.equal(f"series, k = {k}, sign {sign}", found, _series(_moment(k, sign), 9))


def _weights(nodes, k, sign=-1, first=None):
    """Integrals of the Lagrange polynomials of the nodes against the exponential."""
    found = []
    for i, node in enumerate(nodes):
        product = sympy.prod([(v - o) / (node - o) for j, o in enumerate(nodes) if j != i])
        poly = sympy.Poly(sympy.expand(product), v)
        total = sum(
            coefficient * (first(power) if first else _moment(power, sign))
            for (power,), coefficient in poly.terms()
        )
        found.append(sympy.simplify(total))
    return found


@check(
    "prp-exponential-multistep",
    claim=lambda values: values,
    mutants={
        "one order more": lambda values: values + 1,
        "order 1 always": lambda values: sympy.Integer(1),
    },
    covers="the local error for one, two and three values with unequal steps, data and noise: "
    "polynomials of lower degree are integrated exactly and the next is not",
    omits="stability (the discrete Groenwall argument); four values",
)
def exponential_multistep(steps, claim):
    """Exactness for powers of v, which is where the remainder starts."""
    sets = {1: [0], 2: [0, -Rational(2, 3)], 3: [0, -Rational(2, 3), -Rational(5, 3)]}
    for values, nodes in sets.items():
        for sign in (-1, 1):
            weights = _weights([sympy.Integer(0) + n for n in nodes], values, sign)
            exact = 0
            while True:
                guess = sum(w * n**exact for w, n in zip(weights, nodes, strict=True))
                if exact == 0:
                    guess = sum(weights)
                if simplify(guess - _moment(exact, sign)) != 0:
                    break
                exact += 1
            steps.true(f"{values} values, sign {sign}", sympy.Eq(exact, claim(values)))


@check(
    "prp-dpmpp-third-order",
    claim=claims(share=Rational(1, 2), leading=Rational(1, 12), order=3),
    mutants={
        "the full weight": claims(share=sympy.Integer(1), leading=Rational(1, 12), order=3),
        "1/6": claims(share=Rational(1, 2), leading=Rational(1, 6), order=3),
        "of fourth order": claims(share=Rational(1, 2), leading=Rational(1, 12), order=4),
    },
    covers="the published coefficients against M_1 and M_2 for every h; the leading term of the "
    "difference for a D that is any parabola in lambda",
    omits="that errors of this size add up (they do: the chapter measures the slope)",
)
def dpmpp_third_order(steps, claim):
    """The published weights, typed off, in terms of moments."""
    first = (exp(-h) - 1) / h + 1
    second = -((exp(-h) - 1 + h) / h**2 - Rational(1, 2))
    steps.equal("weight of D_1 is M_1", first, _moment(1))
    steps.equal("weight of D_2", second, claim.share * _moment(2))
    bend = symbols("D_bend", real=True)  # d^2 D / d lambda^2
    missing = -(1 - claim.share) * _moment(2) * (h**2 * bend / 2)
    leading = _series(missing, claim.order + 1)
    steps.equal("leading term", leading, -claim.leading * bend * h**claim.order)


@check(
    "prp-corrected-start",
    claim=claims(low=2, corrected=3),
    mutants={
        "a low start of order 3": claims(low=3, corrected=3),
        "corrected of order 4": claims(low=2, corrected=4),
        "low and corrected exchanged": claims(low=3, corrected=2),
    },
    covers="the local error of the first step for a D that is any parabola in lambda: its lowest "
    "power of h, uncorrected and corrected",
    omits="the value at the end being taken at a predicted state (its size is in the proof)",
)
def corrected_start(steps, claim):
    """Expand the errors of one step in h."""
    a0, a1, a2 = symbols("a_0 a_1 a_2", real=True)

    def data(place):
        return a0 + a1 * h * place + a2 * (h * place) ** 2

    exact = sum(
        coefficient * _moment(power) for (power,), coefficient in sympy.Poly(data(v), v).terms()
    )
    for name, nodes, order in (("low", [0], claim.low), ("corrected", [0, 1], claim.corrected)):
        weights = _weights([sympy.Integer(n) for n in nodes], len(nodes))
        error = sum(w * data(n) for w, n in zip(weights, nodes, strict=True)) - exact
        expanded = sympy.series(sympy.expand(error), h, 0, 6).removeO()
        steps.equal(f"{name}: nothing below h^{order}", _truncate(expanded, order))
        steps.true(f"{name}: h^{order} is there", _is_there(expanded.coeff(h, order)))


def _is_there(expression):
    """Not identically zero: at symbols set to distinct primes."""
    primes = dict(zip(sorted(expression.free_symbols, key=str), (2, 3, 5, 7, 11), strict=False))
    return sympy.Ne(sympy.nsimplify(expression.subs(primes)), 0)


def _truncate(expression, order):
    return sum(sympy.expand(expression).coeff(h, k) * h**k for k in range(order))


@check(
    "prp-dpm-solver-2",
    claim=Rational(1, 2),
    mutants={
        "a stage at 1/3": Rational(1, 3),
        "a stage at 2/3": Rational(2, 3),
        "a stage at the end": sympy.Integer(1),
    },
    covers="the local error for eps that is mu times the state in the scale of x / alpha, for "
    "every mu: it begins with h^3",
    omits="nonlinear fields (the proof does not use linearity)",
)
def dpm_solver_2(steps, claim):
    """eps = mu e^lambda y, y = x / alpha: then dy / dlambda = -mu y."""
    mu = symbols("mu", real=True)
    # sigma / alpha = e^(-lambda), lambda_p = 0; DDIM's step: y_q = y_p + (rho_q - rho_p) eps
    stage = 1 + (exp(-claim * h) - 1) * mu
    slope = mu * exp(claim * h) * stage
    result = 1 + (exp(-h) - 1) * slope
    error = sympy.series(result - exp(-mu * h), h, 0, 5).removeO()
    steps.equal("nothing below h^3", _truncate(error, 3))


@check(
    "prp-dpm-solver-3",
    claim=claims(first=Rational(1, 3), second=Rational(2, 3)),
    mutants={
        "stages at 1/2 and 1": claims(first=Rational(1, 2), second=sympy.Integer(1)),
        "second stage at 3/4": claims(first=Rational(1, 3), second=Rational(3, 4)),
        "second stage at 1/2": claims(first=Rational(1, 3), second=Rational(1, 2)),
    },
    covers="the local error for the same linear field, for every mu: it begins with h^4",
    omits="nonlinear fields; that the first node may be another",
)
def dpm_solver_3(steps, claim):
    """Two stages and lines integrated exactly."""
    mu = symbols("mu", real=True)

    def line(end, node, slope):
        """y after a step to lambda = end h with the line through eps at 0 and at node."""
        n0, n1 = _moment(0, 1), _moment(1, 1)
        n0, n1 = n0.subs(h, end * h), n1.subs(h, end * h)
        # x_q / alpha_q: the weights carry sigma_q / alpha_q = e^(-end h)
        return 1 - exp(-end * h) * (n0 * mu + n1 * end / node * (slope - mu))

    first = 1 + (exp(-claim.first * h) - 1) * mu
    slope_1 = mu * exp(claim.first * h) * first
    second = line(claim.second, claim.first, slope_1)
    slope_2 = mu * exp(claim.second * h) * second
    result = line(sympy.Integer(1), claim.second, slope_2)
    error = sympy.series(result - exp(-mu * h), h, 0, 5).removeO()
    steps.equal("nothing below h^4", _truncate(error, 4))


@check(
    "prp-unipc",
    claim=lambda values: values + 2,
    mutants={
        "no gain": lambda values: values + 1,
        "two orders": lambda values: values + 3,
    },
    covers="the local error of the corrector with one and two values before, unequal steps, for a "
    "D that is any polynomial of degree 4 in lambda; that B(h) / 2 for M_1 changes a step by h^3",
    omits="the sum over the steps; p = 3",
)
def unipc(steps, claim):
    """Expand the error of one corrected step in h."""
    coefficients = symbols("a_0:5", real=True)

    def data(place):
        return sum(a * (h * place) ** k for k, a in enumerate(coefficients))

    exact = sum(
        coefficient * _moment(power) for (power,), coefficient in sympy.Poly(data(v), v).terms()
    )
    for values, nodes in ((1, [0, 1]), (2, [-Rational(2, 3), 0, 1])):
        weights = _weights([sympy.Integer(0) + n for n in nodes], values)
        error = sum(w * data(n) for w, n in zip(weights, nodes, strict=True)) - exact
        expanded = sympy.series(sympy.expand(error), h, 0, 7).removeO()
        order = claim(values)
        steps.equal(f"{values} values: nothing below h^{order}", _truncate(expanded, order))
        steps.true(f"{values} values: h^{order} is there", _is_there(expanded.coeff(h, order)))
    for name, b in (("bh1", h), ("bh2", 1 - exp(-h))):
        change = (b / 2 - _moment(1)) * (data(1) - data(0))
        steps.equal(f"{name}: nothing below h^3", _truncate(_series(change, 5), 3))


@check(
    "prp-pndm-order",
    claim=claims(order=2),
    mutants={"order 3": claims(order=3), "order 4": claims(order=4)},
    covers="Adams-Bashforth weights of 2, 3 and 4 values on the grid rho = (1 - i/n)^2, for eps "
    "any cubic in rho: the power of 1/n in the local error, and its coefficient for 3 and 4",
    omits="other grids",
)
def pndm_order(steps, claim):
    """The local error at a point of the grid, in powers of 1/n."""
    tables = {
        2: (Rational(3, 2), Rational(-1, 2)),
        3: (Rational(23, 12), Rational(-16, 12), Rational(5, 12)),
        4: (Rational(55, 24), Rational(-59, 24), Rational(37, 24), Rational(-9, 24)),
    }
    coefficients = symbols("a_0:4", real=True)

    def noise(level):
        return sum(a * level**k for k, a in enumerate(coefficients))

    # h is 1/n; at u = 1/3 the levels are (2/3 - j h)^2
    def level(j):
        return (Rational(2, 3) - j * h) ** 2

    for values, weights in tables.items():
        mean = sum(b * noise(level(-j)) for j, b in enumerate(weights))
        step = (level(1) - level(0)) * mean
        exact = integrate(noise(rho), (rho, level(0), level(1)))
        error = sympy.expand(step - exact)
        order = claim.order + 1
        steps.equal(f"{values} values: nothing below", _truncate(error, order))
        steps.true(f"{values} values: n^-{order} is there", _is_there(error.coeff(h, order)))
        if values > 2:
            # -(a / 6) eta^2 eps' with a = rho'' / (2 n rho') and eta = rho' / n
            first, second = (diff(level(s), s, k).subs(s, 0) / h**k for k in (1, 2))
            slope = diff(noise(rho), rho).subs(rho, level(0))
            left = -first * second * slope / 12
            steps.equal(f"{values} values: leading", error.coeff(h, 3), left)


@check(
    "prp-final-step",
    claim=claims(state=Rational(-1, 2), data=Rational(1, 2)),
    mutants={
        "the signs exchanged": claims(state=Rational(1, 2), data=Rational(-1, 2)),
        "without the half": claims(state=sympy.Integer(-1), data=sympy.Integer(1)),
        "D as near as y": claims(state=Rational(-1, 2), data=sympy.Integer(0)),
    },
    covers="normal data of every variance: state and denoiser along the exact trajectory to second "
    "order in rho, that the line in rho^2 cancels it, and that what it leaves has a limit for "
    "equal levels; for every law the remainder of its part w g(w)",
    omits="other smooth laws (the proof is a Taylor expansion)",
)
def final_step(steps, claim):
    """For N(0, b): y = y_0 sqrt(1 + rho^2 / b), D = b y / (b + rho^2)."""
    b, y0, k = symbols("b y_0 k", positive=True)
    place = y0 * sympy.sqrt(1 + rho**2 / b)
    data = b * place / (b + rho**2)
    score = -y0 / b
    for name, value, number in (("y", place, claim.state), ("D", data, claim.data)):
        expanded = sympy.series(value, rho, 0, 4).removeO()
        steps.equal(name, expanded, y0 + number * score * rho**2)
    far = data.subs(rho, k * rho)
    guess = data + (data - far) / (k**2 - 1)
    steps.equal("the line in rho^2", sympy.series(guess, rho, 0, 4).removeO(), y0)
    left = sympy.series(guess, rho, 0, 6).removeO().coeff(rho, 4)
    steps.true("what is left, at equal levels", sympy.limit(simplify(left), k, 1).is_finite)
    w, w2, g, g2 = symbols("w w_2 g g_2", real=True)
    line = w * g + w / (w2 - w) * (w * g - w2 * g2)
    steps.equal("the line at 0 of w g(w)", line, -w * w2 * (g2 - g) / (w2 - w))


@check(
    "prp-flow-shift",
    claim=lambda shift: -log(shift),
    mutants={
        "plus": lambda shift: log(shift),
        "half": lambda shift: -log(shift) / 2,
        "the shift itself": lambda shift: 1 - shift,
    },
    covers="every time and every shift",
    omits="nothing",
)
def flow_shift(steps, claim):
    """lambda after minus lambda before, exponentiated."""
    r, shift = symbols("r c", positive=True)
    after = shift * r / (1 + (shift - 1) * r)
    ratio = ((1 - after) / after) / ((1 - r) / r)
    steps.equal("e^(change of lambda)", simplify(ratio), exp(claim(shift)))


@check(
    "prp-straight-ode",
    claim=claims(slope=lambda data, noise, place: data - noise, left=lambda at: 1 - at),
    mutants={
        "plus": claims(slope=lambda data, noise, place: data + noise, left=lambda at: 1 - at),
        "the data alone": claims(slope=lambda data, noise, place: data, left=lambda at: 1 - at),
        "divided by s": claims(slope=lambda data, noise, place: data - noise, left=lambda at: at),
    },
    covers="every schedule, every D and eps",
    omits="smoothness at s = 1",
)
def straight_ode(steps, claim):
    """dy / ds by the chain rule in t."""
    state = ALPHA * DATA + SIGMA * NOISE
    slope = diff(ALPHA, t) * DATA + diff(SIGMA, t) * NOISE
    size = ALPHA + SIGMA
    place, time = state / size, ALPHA / size
    moved = slope / size - state * diff(size, t) / size**2
    steps.equal("dy / ds", moved / diff(time, t), claim.slope(DATA, NOISE, place))
    steps.equal(
        "(D - y) / (1 - s)", (DATA - place) / claim.left(time), claim.slope(DATA, NOISE, place)
    )


@check(
    "prp-adams",
    claim=lambda values, ahead: values + ahead,
    mutants={
        "no gain by the corrector": lambda values, ahead: values,
        "one more": lambda values, ahead: values + ahead + 1,
    },
    covers="one to three slopes, with and without that at the end, unequal steps: the degree up to "
    "which polynomials are integrated exactly",
    omits="stability and the end s = 1",
)
def adams(steps, claim):
    """Exactness for powers of v against ds."""
    nodes = [sympy.Integer(0), -Rational(3, 4), -Rational(7, 4)]
    for values in (1, 2, 3):
        for ahead in (0, 1):
            used = ([sympy.Integer(1)] if ahead else []) + nodes[:values]
            weights = _weights(used, values, first=lambda power: Rational(1, power + 1))
            exact = 0
            while True:
                powers = [n**exact if exact else sympy.Integer(1) for n in used]
                total = sum(w * p for w, p in zip(weights, powers, strict=True))
                if total != Rational(1, exact + 1):
                    break
                exact += 1
            steps.true(
                f"{values} slopes, {'with' if ahead else 'without'} the end",
                sympy.Eq(exact, claim(values, ahead)),
            )
