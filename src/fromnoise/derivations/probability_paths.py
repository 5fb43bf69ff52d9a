"""Checks of the chapter on probability paths."""

from __future__ import annotations

import mpmath
import numpy as np
import sympy
import torch
from mpmath import mp
from sympy import Function, diff, erf, exp, log, oo, pi, sqrt, symbols

from fromnoise.derivations.checking import check, claims
from fromnoise.distributions import laboratory
from fromnoise.schedules import CondOT, Cosine

t, s = symbols("t s", positive=True)
alpha, sigma = Function("alpha", positive=True), Function("sigma", positive=True)
d_alpha, d_sigma = diff(alpha(t), t), diff(sigma(t), t)

# A schedule at one time: its two values and their derivatives, as four free symbols.
a, sg = symbols("alpha sigma", positive=True)
da, ds = symbols("alpha' sigma'", real=True)
d_lambda = da / a - ds / sg

# A data law of two atoms with arbitrary weights; its Gaussian path is known in closed form.
x, z1, z2 = symbols("x z_1 z_2", real=True)
w1, w2 = symbols("w_1 w_2", positive=True)


def _rate(f):
    """The time derivative of an expression in alpha and sigma."""
    return da * diff(f, a) + ds * diff(f, sg)


def _mean(f):
    """The sum over the two atoms, with the weights of the data law."""
    return w1 * f(z1) + w2 * f(z2)


def _given(z, x=x, a=a, sg=sg):
    """The conditional density p_t(x | z)."""
    return exp(-((x - a * z) ** 2) / (2 * sg**2)) / (sg * sqrt(2 * pi))


def _density(x=x, a=a, sg=sg):
    """The marginal density p_t(x)."""
    return _mean(lambda z: _given(z, x, a, sg))


def _posterior(f, x=x, a=a, sg=sg):
    """The mean of f(X_1) given X_t = x, by Bayes."""
    return _mean(lambda z: f(z) * _given(z, x, a, sg)) / _density(x, a, sg)


def _noise(x=x, a=a, sg=sg):
    """The mean of eps given X_t = x, by Bayes."""
    return _posterior(lambda z: (x - a * z) / sg, x, a, sg)


def _cdf():
    """The distribution function of X_t."""
    return _mean(lambda z: (1 + erf((x - a * z) / (sg * sqrt(2)))) / 2)


def _carrier():
    """The one velocity on the line that carries the mass: F_t(Y_t) is constant."""
    return -_rate(_cdf()) / diff(_cdf(), x)


def _total(*factors):
    """The sum over the data points of a product of lists; vectors last."""
    total = 0
    for row in zip(*factors, strict=True):
        product = row[-1]
        for factor in row[:-1]:
            product = product * factor
        total = product if isinstance(total, int) else total + product
    return total


def _expect(f, variable, mean, variance):
    """E of a polynomial times exp(kx) for x ~ N(mean, variance), from its generating function."""
    k = symbols("k", real=True)
    polynomial = sympy.Poly(sympy.simplify(f * exp(-k * variable)), variable)
    generating = exp(mean * k + variance * k**2 / 2)
    return sum(c * diff(generating, k, n) for (n,), c in polynomial.terms())


beta_min = symbols("beta_min", positive=True)
gap = symbols("gap", nonnegative=True)  # beta_max - beta_min
s_min, ratio = symbols("sigma_min ratio", positive=True)  # ratio = sigma_max / sigma_min
ell = symbols("lambda", real=True)
r, b = symbols("r b", positive=True)
B = Function("B", positive=True)  # of t: the integral of beta from 0 to 1 - t
beta = -diff(B(t), t)

VP_ROW = claims(
    alpha=lambda B: exp(-B / 2),
    sigma=lambda B: sqrt(1 - exp(-B)),
    d_alpha=lambda a, sg: beta * a / 2,
    d_sigma=lambda a, sg: -beta * a**2 / (2 * sg),
    half_log_snr=lambda B: -log(exp(B) - 1) / 2,
    d_half_log_snr=lambda a, sg: beta / (2 * sg**2),
    inverse=log(1 + exp(-2 * ell)),
)
SUBVP_ROW = VP_ROW.but(
    sigma=lambda B: 1 - exp(-B),
    d_sigma=lambda a, sg: -beta * a**2,
    half_log_snr=lambda B: -log(2 * sympy.sinh(B / 2)),
    d_half_log_snr=lambda a, sg: beta * (1 + a**2) / (2 * sg),
    inverse=2 * sympy.asinh(exp(-ell) / 2),
)
CONDOT_ROW = claims(
    alpha=lambda t: t,
    sigma=lambda t: 1 - t,
    d_alpha=lambda a, sg: 1,
    d_sigma=lambda a, sg: -1,
    half_log_snr=lambda t: log(t / (1 - t)),
    d_half_log_snr=lambda a, sg: 1 / (t * (1 - t)),
    inverse=1 / (1 + exp(-ell)),
)
COSINE_ROW = claims(
    alpha=lambda t: sympy.sin(pi * t / 2),
    sigma=lambda t: sympy.cos(pi * t / 2),
    d_alpha=lambda a, sg: pi / 2 * sg,
    d_sigma=lambda a, sg: -pi / 2 * a,
    half_log_snr=lambda t: log(sympy.tan(pi * t / 2)),
    d_half_log_snr=lambda a, sg: pi / sympy.sin(pi * t),
    inverse=2 / pi * sympy.atan(exp(ell)),
)
VE_ROW = claims(
    alpha=lambda t: sympy.Integer(1),
    sigma=lambda t: s_min**t * (s_min * ratio) ** (1 - t),
    d_alpha=lambda a, sg: 0,
    d_sigma=lambda a, sg: -sg * log(ratio),
    half_log_snr=lambda t: -log(s_min**t * (s_min * ratio) ** (1 - t)),
    d_half_log_snr=lambda a, sg: log(ratio),
    inverse=(ell + log(s_min * ratio)) / log(ratio),
)
SCHEDULES = claims(
    condot=CONDOT_ROW,
    cosine=COSINE_ROW,
    vp=VP_ROW,
    subvp=SUBVP_ROW,
    ve=VE_ROW,
    integral=lambda r: beta_min * r + gap * r**2 / 2,
    root=lambda b: 2 * b / (beta_min + sqrt(beta_min**2 + 2 * gap * b)),
    start=exp(-(beta_min + (beta_min + gap)) / 4),
)


@check(
    "prp-schedules",
    claim=SCHEDULES,
    mutants={
        "VP: sigma not squared in the rate of lambda": SCHEDULES.but(
            vp=VP_ROW.but(d_half_log_snr=lambda a, sg: beta / (2 * sg))
        ),
        "VP: the half lost in lambda": SCHEDULES.but(
            vp=VP_ROW.but(half_log_snr=lambda B: -log(exp(B) - 1))
        ),
        "VP: alpha not squared in the derivative of sigma": SCHEDULES.but(
            vp=VP_ROW.but(d_sigma=lambda a, sg: -beta * a / (2 * sg))
        ),
        "sub-VP: the derivative of sigma with VP's half": SCHEDULES.but(
            subvp=SUBVP_ROW.but(d_sigma=lambda a, sg: -beta * a**2 / 2)
        ),
        "sub-VP: cosh for sinh": SCHEDULES.but(
            subvp=SUBVP_ROW.but(half_log_snr=lambda B: -log(2 * sympy.cosh(B / 2)))
        ),
        "sub-VP: the inverse without the factor 2": SCHEDULES.but(
            subvp=SUBVP_ROW.but(inverse=sympy.asinh(exp(-ell) / 2))
        ),
        "cosine: pi / 2 for pi in the rate of lambda": SCHEDULES.but(
            cosine=COSINE_ROW.but(d_half_log_snr=lambda a, sg: pi / 2 / sympy.sin(pi * t))
        ),
        "VE: the derivative of sigma with the other sign": SCHEDULES.but(
            ve=VE_ROW.but(d_sigma=lambda a, sg: sg * log(ratio))
        ),
        "the root without the factor 2": SCHEDULES.but(
            root=lambda b: b / (beta_min + sqrt(beta_min**2 + 2 * gap * b))
        ),
        "the other root": SCHEDULES.but(
            root=lambda b: 2 * b / (beta_min - sqrt(beta_min**2 + 2 * gap * b))
        ),
        "alpha_0 with a half for the quarter": SCHEDULES.but(
            start=exp(-(beta_min + (beta_min + gap)) / 2)
        ),
    },
    covers="both tables (VP and sub-VP with any beta), the root r(B), the ends, and the limits of "
    "the derivative of sigma, for all beta_min <= beta_max and sigma_min < sigma_max",
    omits="the signs that make the schedules monotone: they are read off the formulas",
)
def schedules(steps, claim):
    """Each row of the tables, differentiated and inverted by SymPy."""
    for name in ("CondOT", "cosine", "VP", "sub-VP", "VE"):
        row = getattr(claim, name.lower().replace("-", ""))
        clock = B(t) if "VP" in name else t
        at, st = row.alpha(clock), row.sigma(clock)
        steps.equal(f"{name}: differentiate α", diff(at, t), row.d_alpha(at, st))
        steps.equal(f"{name}: differentiate σ", diff(st, t), row.d_sigma(at, st))
        half_log_snr = row.half_log_snr(clock).rewrite(exp) if name == "sub-VP" else None
        half_log_snr = half_log_snr or row.half_log_snr(clock)
        steps.equal(f"{name}: exp λ is α / σ", exp(half_log_snr), at / st)
        rate = diff(at, t) / at - diff(st, t) / st
        steps.equal(f"{name}: λ' is α'/α − σ'/σ", row.d_half_log_snr(at, st), rate)
        inverse = row.inverse.rewrite(log)
        steps.equal(
            f"{name}: α and σ at the inverse of λ have the ratio exp λ",
            row.alpha(inverse) / row.sigma(inverse)
            if "VP" in name
            else exp(row.half_log_snr(row.inverse)),
            exp(ell),
        )
    steps.equal("B integrates β(r)", diff(claim.integral(r), r), beta_min + r * gap)
    steps.equal("B at the root is B", claim.integral(claim.root(b)), b)
    root = claim.root(sympy.Integer(2)).subs({beta_min: 1, gap: 2})
    steps.equal("and it is the positive root: with beta from 1 to 3, r = 1 at B = 2", root, 1)

    for name in ("condot", "cosine"):
        row = getattr(claim, name)
        ends = [row.alpha(0), row.sigma(0) - 1, row.alpha(1) - 1, row.sigma(1)]
        steps.equal(f"{name} is standard", [sympy.sympify(end) for end in ends])
    for name in ("vp", "subvp"):
        row = getattr(claim, name)
        steps.equal(f"{name}: α₁ = 1, σ₁ = 0", [row.alpha(0) - 1, row.sigma(sympy.Integer(0))])
        steps.equal(f"{name}: α₀", row.alpha(claim.integral(1)), claim.start)
    steps.equal("VE: σ₀ = σ_max", claim.ve.sigma(0), s_min * ratio)
    steps.equal("VE: σ₁ = σ_min", claim.ve.sigma(1), s_min)

    slope = -diff(claim.vp.sigma(claim.integral(r)), r)
    steps.equal(
        "VP: r σ'² tends to β_min / 4 as r → 0, so σ' → −∞",
        sympy.limit(r * slope**2, r, 0),
        beta_min / 4,
    )
    slope = -diff(claim.subvp.sigma(claim.integral(r)), r)
    steps.equal("sub-VP: σ' → −β_min", slope.subs(r, 0), -beta_min)
    steps.equal("cosine: σ' → −π/2", diff(claim.cosine.sigma(t), t).subs(t, 1), -pi / 2)
    steps.equal("VE: σ' stays finite", diff(claim.ve.sigma(t), t).subs(t, 1), -s_min * log(ratio))


END_ERROR = claims(
    start=lambda a0, second: a0 * mpmath.sqrt(second),
    divergence=lambda a0, s0, second: (a0 / s0) ** 2 * second / 2,
    end=lambda a1, s1, second, d: mpmath.sqrt((1 - a1) ** 2 * second + s1**2 * d),
)


@check(
    "prp-end-error",
    claim=END_ERROR,
    mutants={
        "alpha_0 squared in the distance": END_ERROR.but(
            start=lambda a0, second: a0**2 * mpmath.sqrt(second)
        ),
        "the second moment without its root": END_ERROR.but(start=lambda a0, second: a0 * second),
        "without the half": END_ERROR.but(
            divergence=lambda a0, s0, second: (a0 / s0) ** 2 * second
        ),
        "exp(lambda) for exp(2 lambda)": END_ERROR.but(
            divergence=lambda a0, s0, second: a0 / s0 * second / 2
        ),
        "without the dimension": END_ERROR.but(
            end=lambda a1, s1, second, d: mpmath.sqrt((1 - a1) ** 2 * second + s1**2)
        ),
        "without the scaling of the data": END_ERROR.but(
            end=lambda a1, s1, second, d: s1 * mpmath.sqrt(d)
        ),
        "the errors added, not their squares": END_ERROR.but(
            end=lambda a1, s1, second, d: abs(1 - a1) * mpmath.sqrt(second) + s1 * mpmath.sqrt(d)
        ),
        "1 - alpha_1 not squared": END_ERROR.but(
            end=lambda a1, s1, second, d: mpmath.sqrt(abs(1 - a1) * second + s1**2 * d)
        ),
    },
    covers="round Gaussian data in three dimensions, where W2 and KL are known, with the single "
    "datum as the case of equality; what the bound on KL loses, for data of two atoms",
    omits="other data laws; for them the proof's couplings are needed",
)
def end_error(steps, claim):
    """Closed forms of W2 and KL for Gaussian data against the bounds, and KL by quadrature."""
    d, exact = 3, "round-off with 40 digits"
    with mp.workdps(40):
        ends = [(mp.mpf(p) / 10, mp.mpf(q) / 10) for p in (1, 4, 10, 13) for q in (0, 1, 8)]
        laws = [(mp.mpf(m), mp.mpf(c)) for m in (0, 2) for c in (0, 0.5, 2)]
        cases = [(A, S, m, c) for A, S in ends for m, c in laws if m or c]
        root = mpmath.sqrt

        def gaussians(apart, width, other):
            """W2 of two round Gaussians: distance of the means, standard deviations."""
            return root(apart**2 + d * (width - other) ** 2)

        for text, distance, bound in (
            (
                "W2(p₀, N(0, σ₀² I))",
                lambda A, S, m, c: gaussians(A * m, root(A**2 * c**2 + S**2), S),
                lambda A, S, second: claim.start(A, second),
            ),
            (
                "W2(p₁, p_data)",
                lambda A, S, m, c: gaussians((1 - A) * m, root(A**2 * c**2 + S**2), c),
                lambda A, S, second: claim.end(A, S, second, d),
            ),
        ):
            steps.at_most(
                f"data N(m, c² I): {text} against the bound",
                [distance(A, S, m, c) for A, S, m, c in cases],
                [bound(A, S, m**2 + d * c**2) for A, S, m, c in cases],
                tolerance=1e-30,
                why=exact,
            )
            single = [(A, S, m) for A, S, m, c in cases if c == 0]
            steps.close(
                f"a single datum m: {text} attains the bound",
                [distance(A, S, m, 0) for A, S, m in single],
                [bound(A, S, m**2) for A, S, m in single],
                tolerance=1e-30,
                why=exact,
            )
        values, bounds = [], []
        for A, S, m, c in cases:
            if S:
                q = (A**2 * c**2 + S**2) / S**2
                values.append((d * (q - 1 - mpmath.log(q)) + (A * m / S) ** 2) / 2)
                bounds.append(claim.divergence(A, S, m**2 + d * c**2))
        steps.at_most(
            "data N(m, c² I): KL(p₀ ‖ N(0, σ₀² I)) against the bound",
            values,
            bounds,
            tolerance=1e-30,
            why=exact,
        )

        A, S = mp.mpf("0.7"), mp.mpf("0.9")
        atoms = ((mp.mpf("0.3"), mp.mpf(-1)), (mp.mpf("0.7"), mp.mpf("1.5")))

        def pair(y):
            joint = [w * mpmath.npdf(y, A * z, S) for w, z in atoms]
            p = sum(joint)
            posterior = [j / p for j in joint]
            lost = sum(q * mpmath.log(q / w) for q, (w, _) in zip(posterior, atoms, strict=True))
            return p * mpmath.log(p / mpmath.npdf(y, 0, S)), p * lost

        points = [mp.mpf(k) / 2 for k in range(-24, 27, 2)]
        divergence = mpmath.quad(lambda y: pair(y)[0], points)
        lost = mpmath.quad(lambda y: pair(y)[1], points)
        steps.close(
            "two atoms: the bound is KL(p₀ ‖ N) plus the mean KL of posterior from prior",
            claim.divergence(A, S, sum(w * z**2 for w, z in atoms)),
            divergence + lost,
            tolerance=1e-30,
            why="quadrature with 40 digits; the tails beyond 12 are left out",
        )


VELOCITY = claims(
    velocity=lambda x, x1: d_sigma / sigma(t) * (x - alpha(t) * x1) + d_alpha * x1,
    flow=lambda x, x1: alpha(t) * x1 + sigma(t) / sigma(s) * (x - alpha(s) * x1),
)


@check(
    "prp-conditional-velocity",
    claim=VELOCITY,
    mutants={
        "alpha and sigma swapped in the rate": VELOCITY.but(
            velocity=lambda x, x1: d_alpha / alpha(t) * (x - alpha(t) * x1) + d_alpha * x1
        ),
        "without the drift of the mean": VELOCITY.but(
            velocity=lambda x, x1: d_sigma / sigma(t) * (x - alpha(t) * x1)
        ),
        "times swapped in the flow": VELOCITY.but(
            flow=lambda x, x1: alpha(t) * x1 + sigma(s) / sigma(t) * (x - alpha(s) * x1)
        ),
    },
    covers="parts 1 and 3 for every differentiable alpha and sigma, in dimension 2; part 2 follows "
    "from the flow, which is affine",
    omits="uniqueness of the solutions, which is Picard-Lindelöf; other dimensions, in which the "
    "coordinates do not interact",
)
def conditional_velocity(steps, claim):
    """The curve solves the ODE, the flow joins its points, the continuity equation holds."""
    x, x1, eps = (
        sympy.Matrix(symbols(f"{name}_1 {name}_2", real=True)) for name in ("x", "z", "e")
    )
    curve = alpha(t) * x1 + sigma(t) * eps
    steps.equal(
        "the curve alpha x_1 + sigma eps has velocity u", diff(curve, t), claim.velocity(curve, x1)
    )
    steps.equal(
        "the flow takes the curve's point at s to its point at t",
        claim.flow(curve.subs(t, s), x1),
        curve,
    )
    log_p = -2 * log(sigma(t)) - (x - alpha(t) * x1).dot(x - alpha(t) * x1) / (2 * sigma(t) ** 2)
    u = claim.velocity(x, x1)
    divergence = sum(diff(u[i], x[i]) for i in range(2))
    gradient = sympy.Matrix([diff(log_p, x[i]) for i in range(2)])
    steps.equal(
        "continuity equation: d_t log p + div u + u . grad log p = 0",
        diff(log_p, t) + divergence + u.dot(gradient),
    )


@check(
    "thm-marginalization",
    claim=lambda weights, densities, velocities: (
        _total(weights, densities, velocities) / _total(weights, densities)
    ),
    mutants={
        "without the densities": lambda weights, densities, velocities: (
            _total(weights, velocities) / sum(weights)
        ),
        "without the weights of the data": lambda weights, densities, velocities: (
            _total(densities, velocities) / sum(densities)
        ),
        "not divided by p_t": lambda weights, densities, velocities: _total(
            weights, densities, velocities
        ),
        "the densities squared": lambda weights, densities, velocities: (
            _total(weights, densities, densities, velocities)
            / _total(weights, densities, densities)
        ),
    },
    covers="the continuity equation for two data points with any conditional densities and "
    "velocities in the plane that satisfy their own, and for the uniform law on [-1, 1] under the "
    "Gaussian path",
    omits="that derivatives may be taken under the integral, which the domination ensures",
)
def marginalization(steps, claim):
    """Conditional densities and fluxes come from potentials, so that nothing else is assumed."""
    y = symbols("y", real=True)
    densities, velocities = [], []
    for i in (1, 2):
        # p = div F and p u = -dF/dt + rotated gradient of a stream function: every solution of
        # the continuity equation can be written in this way.
        first, second, stream = (Function(f"{name}{i}")(x, y, t) for name in ("F", "G", "psi"))
        p = diff(first, x) + diff(second, y)
        flux = sympy.Matrix([diff(stream, y) - diff(first, t), -diff(stream, x) - diff(second, t)])
        steps.equal(
            f"data point {i} is transported", diff(p, t) + diff(flux[0], x) + diff(flux[1], y)
        )
        densities.append(p)
        velocities.append(flux / p)
    u = claim((w1, w2), densities, velocities)
    p = w1 * densities[0] + w2 * densities[1]
    residual = diff(p, t) + diff(p * u[0], x) + diff(p * u[1], y)
    steps.equal("two data points: d_t p + div(p u) = 0", residual)

    nodes, weights = np.polynomial.legendre.leggauss(40)

    def velocity(x, t):
        z = [torch.tensor(node) for node in nodes]
        p = [torch.exp(-0.5 * ((x - t * z) / (1 - t)) ** 2) / (1 - t) for z in z]
        return claim([w / 2 for w in weights], p, [(z - x) / (1 - t) for z in z])

    def density(x, t):
        scale = (1 - t) * 2**0.5
        return (torch.erf((x + t) / scale) - torch.erf((x - t) / scale)) / (4 * t)

    times = torch.full((9,), 0.5, dtype=torch.float64, requires_grad=True)
    points = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    p = density(points, times)
    (change,) = torch.autograd.grad(p.sum(), times, retain_graph=True)
    (outflow,) = torch.autograd.grad((p * velocity(points, times)).sum(), points)
    steps.close(
        "uniform data on [−1, 1], CondOT: the same, with p_t in closed form",
        change,
        -outflow,
        tolerance=1e-13,
        why="round-off; 40 Gauss-Legendre nodes are exact to that for these entire functions",
    )


@check(
    "lem-gaussian-domination",
    claim=lambda z, low, high, a, R, d: (
        (2 * mpmath.pi * low**2) ** (-mp.mpf(d) / 2)
        * mpmath.exp(-(max(a * z - R, 0) ** 2) / (2 * high**2))
    ),
    mutants={
        "the lower bound of sigma in the exponent": lambda z, low, high, a, R, d: (
            (2 * mpmath.pi * low**2) ** (-mp.mpf(d) / 2)
            * mpmath.exp(-(max(a * z - R, 0) ** 2) / (2 * low**2))
        ),
        "the upper bound of sigma in front": lambda z, low, high, a, R, d: (
            (2 * mpmath.pi * high**2) ** (-mp.mpf(d) / 2)
            * mpmath.exp(-(max(a * z - R, 0) ** 2) / (2 * high**2))
        ),
        "without R": lambda z, low, high, a, R, d: (
            (2 * mpmath.pi * low**2) ** (-mp.mpf(d) / 2)
            * mpmath.exp(-((a * z) ** 2) / (2 * high**2))
        ),
        "without the positive part": lambda z, low, high, a, R, d: (
            (2 * mpmath.pi * low**2) ** (-mp.mpf(d) / 2)
            * mpmath.exp(-((a * z - R) ** 2) / (2 * high**2))
        ),
    },
    covers="the bound of the proof for one compact set in the plane, on a grid that holds cases of "
    "equality; that it beats every power of |x_1|; that the quantities of hypothesis 2 are the "
    "density times polynomials (in one dimension)",
    omits="other compact sets, each of which lies in such a rectangle; hypotheses 1 and 3",
)
def gaussian_domination(steps, claim):
    """The Gaussian density against the bound, and its derivatives divided by it."""
    low, high, least, radius, d = map(mp.mpf, ("0.5", "2", "0.25", "1", "2"))
    with mp.workdps(40):
        spreads = [low + k * (high - low) / 6 for k in range(7)]
        scales = [least, 2 * least, mp.mpf(1)]
        places = [radius * mp.mpf(k) / 4 for k in range(-4, 5)]
        values, bounds = [], []
        for z in [mp.mpf(k) for k in range(0, 60, 2)]:
            bounds.append(claim(z, low, high, least, radius, d))
            # x and x_1 on one line: the worst case, as |x - a x_1| is least there
            values.append(
                max(
                    (2 * mpmath.pi * S**2) ** (-d / 2)
                    * mpmath.exp(-((y - A * z) ** 2) / (2 * S**2))
                    for S in spreads
                    for A in scales
                    for y in places
                )
            )
        steps.at_most(
            "p_t(x | x₁) over α ≥ 1/4, 1/2 ≤ σ ≤ 2, |x| ≤ 1, for |x₁| from 0 to 58",
            [value / bound for value, bound in zip(values, bounds, strict=True)],
            1,
            tolerance=1e-30,
            why="round-off with 40 digits",
        )
        exact = claim(mp.mpf(10), mp.mpf(2), mp.mpf(2), least, radius, d)
        steps.close(
            "with one σ, and x as near to x₁ as it can be, the bound is attained",
            exact,
            mpmath.npdf(radius, least * 10, 2) * mpmath.npdf(0, 0, 2),
            tolerance=1e-30,
            why="round-off with 40 digits",
        )
    k, least = symbols("k a", positive=True)
    tail = sympy.limit(k * log(z1) - (least * z1 - 1) ** 2, z1, oo)
    steps.true("the bound decays faster than any power |x₁|^k grows", sympy.Eq(tail, -oo))
    p, u = _given(z1), ds / sg * (x - a * z1) + da * z1
    for name, quantity in (
        ("∂_t p", _rate(p)),
        ("∇p", diff(p, x)),
        ("p u", p * u),
        ("D(p u)", diff(p * u, x)),
    ):
        factor = sympy.expand(sympy.simplify(quantity / p))
        steps.true(f"{name} is p times a polynomial in x and x₁", factor.is_polynomial(x, z1))


def _length(mean, deviation):
    """E|Z| for Z normal: the folded normal law."""
    if deviation == 0:
        return abs(mean)
    q = mean / (deviation * mpmath.sqrt(2))
    return deviation * mpmath.sqrt(2 / mp.pi) * mpmath.exp(-(q**2)) + mean * mpmath.erf(q)


TRANSPORT = claims(
    length=lambda alphas, sigmas, data, noise: (
        (alphas[1] - alphas[0]) * data + (sigmas[0] - sigmas[1]) * noise
    ),
    cdf=lambda x, a, sg, atoms, Phi: sum(w * Phi((x - a * z) / sg) for w, z in atoms),
)


@check(
    "thm-transport",
    claim=TRANSPORT,
    mutants={
        "the means of data and noise swapped": TRANSPORT.but(
            length=lambda alphas, sigmas, data, noise: (
                (alphas[1] - alphas[0]) * noise + (sigmas[0] - sigmas[1]) * data
            )
        ),
        "sigma_1 - sigma_0": TRANSPORT.but(
            length=lambda alphas, sigmas, data, noise: (
                (alphas[1] - alphas[0]) * data + (sigmas[1] - sigmas[0]) * noise
            )
        ),
        "the root of the sum of the squares": TRANSPORT.but(
            length=lambda alphas, sigmas, data, noise: mpmath.hypot(
                (alphas[1] - alphas[0]) * data, (sigmas[0] - sigmas[1]) * noise
            )
        ),
        "the noise left out of the length": TRANSPORT.but(
            length=lambda alphas, sigmas, data, noise: (alphas[1] - alphas[0]) * data
        ),
        "Y_t has the law of sigma X_1 + alpha eps": TRANSPORT.but(
            cdf=lambda x, a, sg, atoms, Phi: sum(w * Phi((x - sg * z) / a) for w, z in atoms)
        ),
        "the atoms equally likely": TRANSPORT.but(
            cdf=lambda x, a, sg, atoms, Phi: sum(Phi((x - a * z) / sg) / 2 for w, z in atoms)
        ),
    },
    covers="the lengths for Gaussian data on the line, with cases of equality, and for a rare far "
    "datum; for two atoms on the line and every schedule, that the flow carries p_s to p_t, and "
    "under CondOT both ends",
    omits="other dimensions and data laws, and that almost no trajectory explodes: the proof",
)
def transport(steps, claim):
    """Lengths by quadrature; on the line, the flow keeps the distribution function constant."""
    rounding = "quadrature with 30 digits"
    with mp.workdps(30):
        # name, alpha, sigma, their derivatives, mean and deviation of the data, equality
        cases = (
            ("CondOT, N(2, 1)", lambda t: t, lambda t: 1 - t, 1, -1, 2, 1, False),
            ("α = 1, σ = 2 − t, N(2, 1)", lambda t: 1, lambda t: 2 - t, 0, -1, 2, 1, True),
            ("α = t, σ = 1, N(3, 1)", lambda t: t, lambda t: 1, 1, 0, 3, 1, True),
        )
        for name, al, si, d_al, d_si, m, c, attained in cases:

            def straight(t, d_al=d_al, d_si=d_si, m=m, c=c):
                return _length(d_al * m, mpmath.hypot(d_al * c, d_si))

            def flow(t, al=al, si=si, d_al=d_al, d_si=d_si, m=m, c=c):
                deviation = mpmath.hypot(al(t) * c, si(t))
                return _length(d_al * m, abs(al(t) * d_al * c**2 + si(t) * d_si) / deviation)

            ends = [mp.mpf(0), mp.mpf("0.5"), mp.mpf(1)]
            paths, curves = mpmath.quad(straight, ends), mpmath.quad(flow, ends)
            bound = claim.length(
                (al(0), al(1)), (si(0), si(1)), _length(m, c), mpmath.sqrt(2 / mp.pi)
            )
            steps.at_most(f"{name}: the flow's length is at most that of the paths", curves, paths)
            if attained:
                steps.close(
                    f"{name}: the paths have the length of the bound",
                    paths,
                    bound,
                    tolerance=1e-20,
                    why=rounding,
                )
            else:
                steps.at_most(f"{name}: length of the paths against the bound", paths, bound)

        rare, noise = mp.mpf(10) ** -25, mpmath.sqrt(2 / mp.pi)
        steps.close(
            "CondOT, data 0 but for one in 1e25, which is at 1e25: the bound can't be improved",
            (1 - rare) * noise + rare * _length(1 / rare, 1),
            claim.length((0, 1), (1, 0), 1, noise),
            tolerance=1e-20,
            why="the difference is of the size of the rare probability",
        )

    atoms = ((w1, z1), (w2, z2))
    cdf = claim.cdf(x, a, sg, atoms, lambda q: (1 + erf(q / sqrt(2))) / 2)
    u = _posterior(lambda z: ds / sg * (x - a * z) + da * z)
    steps.equal("the law claimed for Y_t has the density p_t", diff(cdf, x), _density())
    steps.equal(
        "two atoms: d/dt F_t(Y_t) = ∂_t F_t + u_t p_t = 0, so Y_t keeps its quantile in p_t",
        _rate(cdf) + u * diff(cdf, x),
    )
    with mp.workdps(50):
        tiny, atoms = mp.mpf(10) ** -30, ((mp.mpf("0.3"), mp.mpf(-1)), (mp.mpf("0.7"), mp.mpf(2)))

        def place(level, t):
            """Where the trajectory of this quantile is at time t, by bisection."""
            low, high = mp.mpf(-9), mp.mpf(9)
            for _ in range(140):
                middle = (low + high) / 2
                if claim.cdf(middle, t, 1 - t, atoms, mpmath.ncdf) < level:
                    low = middle
                else:
                    high = middle
            return low

        levels = [mp.mpf(q) for q in ("0.2", "0.4", "0.9")]
        steps.close(
            "CondOT, at t = 1 − 1e−30: the trajectories are at the data of their quantiles",
            [place(q, 1 - tiny) for q in levels],
            [-1, 2, 2],
            tolerance=1e-20,
            why="the limit is reached up to some multiples of sigma = 1e-30",
        )
        steps.close(
            "CondOT, at t = 1e−30: the same trajectories are spread as noise",
            [mpmath.ncdf(place(q, tiny)) for q in levels],
            levels,
            tolerance=1e-20,
            why="the limit is reached up to some multiples of alpha = 1e-30",
        )


CONDITIONAL = claims(
    velocity=lambda mean: mean(lambda z, eps: da * z + ds * eps),
    weak=lambda f, v: diff(f, x) * v,
)


@check(
    "prp-conditional-expectation",
    claim=CONDITIONAL,
    mutants={
        "the other sign at the noise": CONDITIONAL.but(
            velocity=lambda mean: mean(lambda z, eps: da * z - ds * eps)
        ),
        "the mean of X_t in place of its derivative": CONDITIONAL.but(
            velocity=lambda mean: mean(lambda z, eps: a * z + sg * eps)
        ),
        "the test function not differentiated": CONDITIONAL.but(weak=lambda f, v: f * v),
        "the gradient on the wrong factor": CONDITIONAL.but(weak=lambda f, v: -f * diff(v, x)),
    },
    covers="part 1 for two atoms on the line, the second time by means against exp(kx), which "
    "determine a function of x; part 2 at every time for curves a_t A + b_t B with dependent "
    "Gaussian A, B",
    omits="other random curves, for which the proof is the chain rule and Fubini",
)
def conditional_expectation(steps, claim):
    """Both sides of the defining property of a conditional mean, by Gaussian integrals."""
    k = symbols("k", real=True)
    u = _posterior(lambda z: ds / sg * (x - a * z) + da * z)
    v = claim.velocity(lambda f: _posterior(lambda z: f(z, (x - a * z) / sg)))
    steps.equal("E[X' | X_t = x] is the posterior mean of u_t(x | x₁)", v, u)
    # X = α z + σ eps: the variable of the first mean is σ eps, that of the second X itself
    over_noise = _mean(
        lambda z: exp(k * a * z) * _expect((da * z + ds * x / sg) * exp(k * x), x, 0, sg**2)
    )
    over_place = _mean(
        lambda z: _expect((ds / sg * (x - a * z) + da * z) * exp(k * x), x, a * z, sg**2)
    )
    steps.equal("E[exp(k X_t) X'] = ∫ exp(kx) u_t(x) p_t(x) dx, every k", over_noise, over_place)

    c, slope = symbols("c q", real=True)  # covariance of A and B, of unit variances
    first, second, d_first, d_second = symbols("A B A' B'", real=True)  # a_t, b_t, derivatives

    def rate(f):
        return d_first * diff(f, first) + d_second * diff(f, second)

    spread = first**2 + 2 * c * first * second + second**2
    covariance = first * d_first + second * d_second + c * (first * d_second + second * d_first)
    weak = _expect(claim.weak(exp(k * x), slope * x), x, 0, spread)
    steps.equal(
        "d/dt E f(X_t) = E[f'(X_t) v_t(X_t)] for f = exp(kx), every k",
        rate(exp(k**2 * spread / 2)),
        weak.subs(slope, covariance / spread),  # v, the regression of X' on X
    )


MARGINAL_SCORE = claims(
    score=lambda weights, densities, scores: (
        _total(weights, densities, scores) / _total(weights, densities)
    ),
    gaussian=lambda noise, sg: -noise / sg,
)


@check(
    "thm-marginal-score",
    claim=MARGINAL_SCORE,
    mutants={
        "averaged with the data's weights only": MARGINAL_SCORE.but(
            score=lambda weights, densities, scores: _total(weights, scores) / sum(weights)
        ),
        "averaged without the data's weights": MARGINAL_SCORE.but(
            score=lambda weights, densities, scores: _total(densities, scores) / sum(densities)
        ),
        "the other sign": MARGINAL_SCORE.but(gaussian=lambda noise, sg: noise / sg),
        "sigma squared": MARGINAL_SCORE.but(gaussian=lambda noise, sg: -noise / sg**2),
    },
    covers="two data points with any positive conditional densities in the plane; the Gaussian "
    "path of two atoms",
    omits="other data laws, for which the derivative is taken under the integral",
)
def marginal_score(steps, claim):
    """The gradient of log p_t by SymPy."""
    y = symbols("y", real=True)
    densities = [Function(f"p{i}", positive=True)(x, y) for i in (1, 2)]
    p = w1 * densities[0] + w2 * densities[1]
    for i in (x, y):
        scores = [diff(log(q), i) for q in densities]
        steps.equal(
            f"any densities: the derivative of log p_t by {i}",
            claim.score((w1, w2), densities, scores),
            diff(log(p), i),
        )
    steps.equal(
        "Gaussian path: s = −E[eps | X_t = x] / σ",
        claim.gaussian(_noise(), sg),
        diff(log(_density()), x),
    )


AFFINE = claims(
    place=lambda D, eps: a * D + sg * eps,
    score=lambda D, eps: -eps / sg,
    velocity=lambda D, eps: da * D + ds * eps,
)


@check(
    "prp-affine-facts",
    claim=AFFINE,
    mutants={
        "alpha and sigma swapped": AFFINE.but(place=lambda D, eps: sg * D + a * eps),
        "the score's other sign": AFFINE.but(score=lambda D, eps: eps / sg),
        "the score times sigma": AFFINE.but(score=lambda D, eps: -eps * sg),
        "data minus noise": AFFINE.but(velocity=lambda D, eps: da * D - ds * eps),
        "the derivatives swapped": AFFINE.but(velocity=lambda D, eps: ds * D + da * eps),
    },
    covers="two atoms on the line, every schedule",
    omits="other data laws and dimensions",
)
def affine_facts(steps, claim):
    """Posterior means by Bayes; the score and the velocity come from p_t alone."""
    D, eps = _posterior(lambda z: z), _noise()
    steps.equal("α D + σ eps is x", claim.place(D, eps), x)
    steps.equal(
        "the score is the derivative of log p_t", claim.score(D, eps), diff(log(_density()), x)
    )
    steps.equal(
        "the velocity is the one that carries the mass: u = −∂_t F_t / p_t",
        claim.velocity(D, eps),
        _carrier(),
    )


TWEEDIE = claims(
    denoiser=lambda x, score: (x + sg**2 * score) / a,
    velocity=lambda x, score: da / a * x + d_lambda * sg**2 * score,
)


@check(
    "cor-tweedie",
    claim=TWEEDIE,
    mutants={
        "minus the score": TWEEDIE.but(denoiser=lambda x, score: (x - sg**2 * score) / a),
        "sigma for sigma squared": TWEEDIE.but(denoiser=lambda x, score: (x + sg * score) / a),
        "x not divided by alpha": TWEEDIE.but(denoiser=lambda x, score: x + sg**2 * score / a),
        "half of the score's factor": TWEEDIE.but(
            velocity=lambda x, score: da / a * x + d_lambda * sg**2 * score / 2
        ),
        "without the rate of lambda": TWEEDIE.but(
            velocity=lambda x, score: da / a * x + sg**2 * score
        ),
        "sigma's rate for alpha's": TWEEDIE.but(
            velocity=lambda x, score: ds / sg * x + d_lambda * sg**2 * score
        ),
    },
    covers="two atoms on the line, every schedule",
    omits="other data laws and dimensions",
)
def tweedie(steps, claim):
    """The score is SymPy's derivative of log p_t, D the posterior mean, u carries the mass."""
    score = diff(_density(), x) / _density()
    steps.equal("D is the posterior mean", claim.denoiser(x, score), _posterior(lambda z: z))
    steps.equal("u = −∂_t F_t / p_t", claim.velocity(x, score), _carrier())


JACOBIAN = claims(
    denoiser=lambda a, s, cov: a / s**2 * cov,
    velocity=lambda a, s, da, ds, one, cov: ds / s * one + (da / a - ds / s) * a**2 / s**2 * cov,
    bound=lambda R: R**2,
)


@check(
    "prp-jacobian",
    claim=JACOBIAN,
    mutants={
        "sigma not squared": JACOBIAN.but(denoiser=lambda a, s, cov: a / s * cov),
        "alpha not squared": JACOBIAN.but(
            velocity=lambda a, s, da, ds, one, cov: (
                ds / s * one + (da / a - ds / s) * a / s**2 * cov
            )
        ),
        "the contraction with the other sign": JACOBIAN.but(
            velocity=lambda a, s, da, ds, one, cov: (
                -ds / s * one + (da / a - ds / s) * a**2 / s**2 * cov
            )
        ),
        "without the rate of lambda": JACOBIAN.but(
            velocity=lambda a, s, da, ds, one, cov: ds / s * one + a**2 / s**2 * cov
        ),
        "R not squared in the bound": JACOBIAN.but(bound=lambda R: R),
        "2 R for the square": JACOBIAN.but(bound=lambda R: 2 * R),
    },
    covers="two atoms on the line, every schedule; the laboratory under two schedules, at twelve "
    "points and one time; the bound for two opposite atoms, which attain it",
    omits="other data laws and dimensions; the lower bound 0, which every covariance obeys",
)
def jacobian(steps, claim):
    """Derivatives by SymPy and by automatic differentiation, the covariance by Bayes."""
    D = _posterior(lambda z: z)
    variance = _posterior(lambda z: z**2) - D**2
    u = _posterior(lambda z: ds / sg * (x - a * z) + da * z)
    steps.equal("two atoms: the derivative of D", claim.denoiser(a, sg, variance), diff(D, x))
    steps.equal(
        "two atoms: the derivative of u", claim.velocity(a, sg, da, ds, 1, variance), diff(u, x)
    )
    R = symbols("R", positive=True)
    opposite = variance.subs({w1: w2, z1: -R, z2: R})
    steps.equal("atoms at -R and R: C_t(0) is the bound", opposite.subs(x, 0), claim.bound(R))
    steps.equal(
        "and C_t(x) is less, by the square of R tanh(alpha R x / sigma²)",
        claim.bound(R) - opposite,
        (R * sympy.tanh(a * R * x / sg**2)) ** 2,
    )

    law = laboratory()
    places = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64).reshape(12, 2)
    for schedule in (CondOT(), Cosine()):
        time = torch.tensor(0.6, dtype=torch.float64)
        scales = [
            f(time) for f in (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma)
        ]

        def denoiser(y, scales=scales):
            return law.denoise(y[None], *scales[:2])[0]

        def velocity(y, scales=scales):
            at, st, d_at, d_st = scales
            D, eps = (f(y[None], at, st)[0] for f in (law.denoise, law.predict_noise))
            return d_at * D + d_st * eps

        cov = law.conditional_covariance(places, *scales[:2])
        for name, function, value in (
            ("D", denoiser, claim.denoiser(*scales[:2], cov)),
            ("u", velocity, claim.velocity(*scales, torch.eye(2, dtype=cov.dtype), cov)),
        ):
            exact = torch.stack([torch.func.jacrev(function)(place) for place in places])
            steps.close(
                f"laboratory, {schedule.name}: Jacobian of {name}",
                value,
                exact,
                tolerance=1e-14,
                why="round-off of some hundred operations in double precision",
            )


CONVERSION = claims(
    data=lambda x, q, A, b: (b * x - sg * q) / (a * b - sg * A),
    noise=lambda x, q, A, b: (a * q - A * x) / (a * b - sg * A),
    data_error=lambda delta, A, b: -sg * delta / (a * b - sg * A),
    noise_error=lambda delta, A, b: a * delta / (a * b - sg * A),
)


@check(
    "prp-conversion",
    claim=CONVERSION,
    mutants={
        "a and b swapped in the numerator": CONVERSION.but(
            data=lambda x, q, A, b: (A * x - sg * q) / (a * b - sg * A)
        ),
        "the determinant with a plus": CONVERSION.but(
            noise=lambda x, q, A, b: (a * q - A * x) / (a * b + sg * A)
        ),
        "the numerator's other sign": CONVERSION.but(
            noise=lambda x, q, A, b: (A * x - a * q) / (a * b - sg * A)
        ),
        "the error of D without its sign": CONVERSION.but(
            data_error=lambda delta, A, b: sg * delta / (a * b - sg * A)
        ),
        "sigma for alpha in the error of eps": CONVERSION.but(
            noise_error=lambda delta, A, b: sg * delta / (a * b - sg * A)
        ),
    },
    covers="the whole statement, in one coordinate",
    omits="nothing: the coordinates do not interact",
)
def conversion(steps, claim):
    """Insert x = alpha D + sigma eps and q = a D + b eps."""
    D, eps, A, b, delta = symbols("D eps a b delta", real=True)
    place, q = a * D + sg * eps, A * D + b * eps
    steps.equal("D from x and q", claim.data(place, q, A, b), D)
    steps.equal("eps from x and q", claim.noise(place, q, A, b), eps)
    off = q + delta
    steps.equal(
        "an error in q, seen in D", claim.data(place, off, A, b) - D, claim.data_error(delta, A, b)
    )
    steps.equal(
        "an error in q, seen in eps",
        claim.noise(place, off, A, b) - eps,
        claim.noise_error(delta, A, b),
    )
    singular = sympy.solve(a * b - sg * A, A)[0]
    steps.equal("Δ = 0: q is a multiple of x", q.subs(A, singular), b / sg * place)


GAUSSIAN = claims(
    covariance=lambda a, sg, C, one: a**2 * C + sg**2 * one,
    rate=lambda C, one: 2 * (a * da * C + sg * ds * one),
    velocity=lambda place, mean, S, rate: da * mean + rate / 2 / S * (place - a * mean),
    flow=lambda place, before, after, S_before, S_after: (
        after + sqrt(S_after) / sqrt(S_before) * (place - before)
    ),
    journey=lambda place, mean, C: mean + sqrt(C) * place,
)


@check(
    "prp-gaussian-transport",
    claim=GAUSSIAN,
    mutants={
        "without the half": GAUSSIAN.but(
            velocity=lambda place, mean, S, rate: da * mean + rate / S * (place - a * mean)
        ),
        "without the mean's motion": GAUSSIAN.but(
            velocity=lambda place, mean, S, rate: rate / 2 / S * (place - a * mean)
        ),
        "alpha not squared": GAUSSIAN.but(covariance=lambda a, sg, C, one: a * C + sg**2 * one),
        "the rate without the noise": GAUSSIAN.but(rate=lambda C, one: 2 * a * da * C),
        "covariances for their roots": GAUSSIAN.but(
            flow=lambda place, before, after, S_before, S_after: (
                after + S_after / S_before * (place - before)
            )
        ),
        "C for its root": GAUSSIAN.but(journey=lambda place, mean, C: mean + C * place),
        "the root the wrong way round": GAUSSIAN.but(
            journey=lambda place, mean, C: mean + place / sqrt(C)
        ),
    },
    covers="every mean and covariance, in the axes of the covariance, where all matrices are "
    "diagonal and each axis is a case of one dimension; every schedule",
    omits="that no map costs less, which is the formula for W2 of Gaussians in an earlier chapter",
)
def gaussian_transport(steps, claim):
    """One eigenvalue of C at a time: Gaussian conditioning, the ODE along the flow, the ends."""
    C, m, place = symbols("C", positive=True), *symbols("m x", real=True)
    S = claim.covariance(a, sg, C, 1)
    k = symbols("k", real=True)
    data, noise = exp(m * (a * k) + C * (a * k) ** 2 / 2), exp((sg * k) ** 2 / 2)
    steps.equal(
        "p_t is N(α m, S): E exp(kX_t) is that of α X₁ times that of σ eps, every k",
        exp(a * m * k + S * k**2 / 2),
        data * noise,
    )
    steps.equal("the time derivative of S", claim.rate(C, 1), _rate(S))
    u = claim.velocity(place, m, S, claim.rate(C, 1))
    gain = (place - a * m) / (a**2 * C + sg**2)
    steps.equal(
        "u = α' E[X₁ | x] + σ' E[eps | x], by the regression of Gaussians",
        u,
        da * (m + a * C * gain) + ds * sg * gain,
    )
    early = claim.covariance(alpha(s), sigma(s), C, 1)
    late = claim.covariance(alpha(t), sigma(t), C, 1)
    curve = claim.flow(place, alpha(s) * m, alpha(t) * m, early, late)
    now = {a: alpha(t), sg: sigma(t), da: d_alpha, ds: d_sigma}
    steps.equal("the flow map solves the ODE", diff(curve, t), u.subs(now).subs(place, curve))
    steps.equal("and starts at x", curve.subs(t, s), place)
    ends = claim.flow(place, 0, m, claim.covariance(0, 1, C, 1), claim.covariance(1, 0, C, 1))
    steps.equal("α: 0 to 1, σ: 1 to 0: the whole journey", ends, claim.journey(place, m, C))
    moved = sympy.Poly(claim.journey(place, m, C) - place, place)
    cost = moved.coeff_monomial(place) ** 2 + moved.coeff_monomial(1) ** 2
    steps.equal("its mean square is W2² = m² + 1 + C − 2 C^(1/2)", cost, m**2 + 1 + C - 2 * sqrt(C))


REPARAMETERIZATION = claims(
    density=lambda p, place, c: p(place / c) / c,
    denoiser=lambda D, place, c: D(place / c),
    score=lambda score, place, c: score(place / c) / c,
    velocity=lambda u, place, c, rate_c, rate_tau: rate_c * place + c * rate_tau * u(place / c),
    rate_tau=lambda rate_bar, rate: rate_bar / rate,
    rate_c=lambda rate_bar, rate_tau, rate: rate_bar - rate_tau * rate,
    flow=lambda flow, place, c_before, c_after: c_after * flow(place / c_before),
)


@check(
    "thm-reparameterization",
    claim=REPARAMETERIZATION,
    mutants={
        "the density without its factor": REPARAMETERIZATION.but(
            density=lambda p, place, c: p(place / c)
        ),
        "the ruler the wrong way round": REPARAMETERIZATION.but(
            denoiser=lambda D, place, c: D(place * c)
        ),
        "the score without 1/c": REPARAMETERIZATION.but(
            score=lambda score, place, c: score(place / c)
        ),
        "without the motion of the ruler": REPARAMETERIZATION.but(
            velocity=lambda u, place, c, rate_c, rate_tau: c * rate_tau * u(place / c)
        ),
        "without c before the velocity": REPARAMETERIZATION.but(
            velocity=lambda u, place, c, rate_c, rate_tau: rate_c * place + rate_tau * u(place / c)
        ),
        "the clock's rate upside down": REPARAMETERIZATION.but(
            rate_tau=lambda rate_bar, rate: rate / rate_bar
        ),
        "the ruler's rate without that of the clock": REPARAMETERIZATION.but(
            rate_c=lambda rate_bar, rate_tau, rate: rate_bar - rate
        ),
        "the rulers of the flow swapped": REPARAMETERIZATION.but(
            flow=lambda flow, place, c_before, c_after: c_before * flow(place / c_after)
        ),
    },
    covers="two atoms on the line under any two schedules: parts 1 and 2; part 3 for every law; "
    "part 4 for Gaussian data, whose flow is explicit",
    omits="part 4 for other laws, which is the uniqueness of solutions; other dimensions; that "
    "every second schedule has the form c alpha(tau), c sigma(tau), as tau and c are defined so",
)
def reparameterization(steps, claim):
    """The second schedule is c alpha(tau), c sigma(tau) with any functions c and tau."""
    c = symbols("c", positive=True)
    bar = {"a": c * a, "sg": c * sg}
    steps.equal(
        "1: the density under (c α, c σ)",
        claim.density(lambda y: _density(y), x, c),
        _density(**bar),
    )
    steps.equal(
        "2: the denoiser",
        claim.denoiser(lambda y: _posterior(lambda z: z, y), x, c),
        _posterior(lambda z: z, **bar),
    )
    steps.equal("2: the noise", claim.denoiser(lambda y: _noise(y), x, c), _noise(**bar))
    score = diff(_density(), x) / _density()
    steps.equal(
        "2: the score",
        claim.score(lambda y: score.subs(x, y), x, c),
        diff(_density(**bar), x) / _density(**bar),
    )

    d_c, d_tau, D, eps = symbols("c' tau' D eps", real=True)

    def rate(f):
        """The time derivative of an expression in c(t), alpha(tau(t)), sigma(tau(t))."""
        return d_c * diff(f, c) + d_tau * _rate(f)

    rates = [rate(log(f)) for f in (c * a, c * sg)]
    rate_tau = claim.rate_tau(rates[0] - rates[1], d_lambda)
    rate_c = claim.rate_c(rates[0], rate_tau, da / a)
    steps.equal("3: the rate of the clock", rate_tau, d_tau)
    steps.equal("3: the rate of the ruler", rate_c, d_c / c)
    # at x = α D + σ eps both velocities are affine in the same conditional means D and eps
    bar_place = c * (a * D + sg * eps)
    noise = (x - a * D) / sg
    steps.equal(
        "3: the velocity is ᾱ' D + σ̄' eps",
        claim.velocity(lambda y: (da * D + ds * noise).subs(x, y), bar_place, c, rate_c, rate_tau),
        rate(c * a) * D + rate(c * sg) * eps,
    )

    C, m = symbols("C", positive=True), symbols("m", real=True)
    pairs = [symbols(f"alpha_{i} sigma_{i}", positive=True) for i in (1, 2)]
    rulers = symbols("c_1 c_2", positive=True)

    def flow(place, scales):
        """The flow for Gaussian data: each point keeps its distance in standard deviations."""
        (a1, s1), (a2, s2) = scales
        return a2 * m + (place - a1 * m) * sqrt(a2**2 * C + s2**2) / sqrt(a1**2 * C + s1**2)

    longer = [[c * f for f in pair] for c, pair in zip(rulers, pairs, strict=True)]
    steps.equal(
        "4: the flows, for data N(m, C)",
        claim.flow(lambda place: flow(place, pairs), x, *rulers),
        flow(x, longer),
    )


CANONICAL = claims(
    rate=lambda Y, D: D - Y,
    noise=lambda level: exp(-level),
)


@check(
    "cor-canonical-ode",
    claim=CANONICAL,
    mutants={
        "the other sign": CANONICAL.but(rate=lambda Y, D: Y - D),
        "without Y": CANONICAL.but(rate=lambda Y, D: D),
        "twice as fast": CANONICAL.but(rate=lambda Y, D: 2 * (D - Y)),
        "exp(lambda) for exp(-lambda)": CANONICAL.but(noise=lambda level: exp(level)),
    },
    covers="two atoms on the line, every schedule",
    omits="other data laws and dimensions",
)
def canonical_ode(steps, claim):
    """The derivative of X/alpha along the flow, over that of lambda."""
    level = log(a / sg)
    # D_lambda(y): the posterior mean for X_1 + noise · eps, a path with alpha = 1
    y, spread = symbols("y", real=True), symbols("varsigma", positive=True)
    denoiser = _posterior(lambda z: z, y, sympy.Integer(1), spread)
    denoiser = denoiser.subs({y: x / a, spread: claim.noise(level)})
    motion = (_carrier() / a - da / a**2 * x) / _rate(level)
    steps.equal(
        "d(X/α)/dt / λ' with u = −∂_t F_t / p_t, against D_λ(Y) − Y",
        motion,
        claim.rate(x / a, denoiser),
    )
