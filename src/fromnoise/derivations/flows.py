"""Checks of the chapter on flows."""

from __future__ import annotations

import itertools
import math

import numpy as np
import sympy
import torch
from mpmath import mp, mpf
from numpy.polynomial import chebyshev
from sympy import QQ, Abs, Function, Integral, Matrix, Rational, diff, exp, log, symbols
from sympy.polys.rings import ring

from fromnoise.derivations.checking import check, claims
from fromnoise.distributions import laboratory
from fromnoise.fields import ExactField
from fromnoise.likelihood import divergence as exact_divergence
from fromnoise.paths import GaussianPath
from fromnoise.processes import ODE
from fromnoise.schedules import CondOT
from fromnoise.solvers import euler, solve_ode

ROUND_OFF = "round-off in double precision"
DIGITS = "arithmetic in 30 digits"
t, s, r = symbols("t s r", positive=True)
a = symbols("a", positive=True)
tau = Function("tau", real=True)  # a clock of any speed
x = Matrix(symbols("x_1 x_2", real=True))


def _fan_field(point):
    """A nonlinear field that is not symmetric, with a divergence that varies in space and time."""
    x1, x2 = point
    return diff(tau(t), t) * a * Matrix([x1, 2 * x1**2 / (1 + x1**2) * x2])


def _fan(start, end, point):
    """The flow map of `_fan_field`; the checks below differentiate it to see that it is."""
    x1, x2 = point
    y1 = x1 * exp(a * (tau(end) - tau(start)))
    return Matrix([y1, x2 * (1 + y1**2) / (1 + x1**2)])


def _fan_jacobian(point):
    """The Jacobian matrix of the field, at a point."""
    z = Matrix(symbols("z_1 z_2", real=True))
    return _fan_field(z).jacobian(z).subs(dict(zip(z, point, strict=True)))


def _fan_divergence(point):
    """The divergence of the field, at a point."""
    return _fan_jacobian(point).trace()


def _fan_integral(start, end, point):
    """The integral of the divergence along the trajectory through `point` at `start`."""
    y1 = _fan(start, end, point)[0]
    return a * (tau(end) - tau(start)) + log((1 + y1**2) / (1 + point[0] ** 2))


@check(
    "lem-gronwall",
    claim=lambda c, b, L, time, start: (
        c * exp(L * Abs(time - start)) + b / L * (exp(L * Abs(time - start)) - 1)
    ),
    mutants={
        "b not divided by L": lambda c, b, L, time, start: (
            c * exp(L * Abs(time - start)) + b * (exp(L * Abs(time - start)) - 1)
        ),
        "without the -1": lambda c, b, L, time, start: (c + b / L) * exp(L * Abs(time - start)),
        "c not amplified": lambda c, b, L, time, start: (
            c + b / L * (exp(L * Abs(time - start)) - 1)
        ),
        "valid after s only": lambda c, b, L, time, start: (
            c * exp(L * (time - start)) + b / L * (exp(L * (time - start)) - 1)
        ),
    },
    covers="every continuous v, through the slack that it leaves in the hypothesis; before and "
    "after s",
    omits="nothing but that a linear equation has one solution",
)
def gronwall(steps, claim):
    """The bound minus the right-hand side of the hypothesis is an integral of the slack."""
    c, b, L, lag = symbols("c b L l", positive=True)
    lost = Function("G", positive=True)
    slack = exp(L * lag) * diff(lost(lag), lag)
    for name, time in (("after s", s + lag), ("before s", s - lag)):
        steps.say(
            f"{name}, at distance l: v = w - g, where w = c + ∫ (L v + b) is the right-hand side "
            "and g ≥ 0 the slack, so w' = L (w - g) + b and w = c at l = 0"
        )
        w = claim(c, b, L, time, s) - L * exp(L * lag) * lost(lag)
        steps.equal(
            f"{name}: w = bound - L exp(L l) G with G' = exp(-L l) g, so G ≥ 0, solves it",
            diff(w, lag),
            L * (w - slack) + b,
        )
        steps.equal(f"{name}: and starts at c, as G(0) = 0", w.subs(lost(lag), 0).subs(lag, 0), c)
    steps.say("so v ≤ w ≤ bound, with equality for v without slack")


PICARD = claims(
    weight=lambda L, lag: mp.exp(-2 * L * abs(lag)),
    factor=lambda: mpf(1) / 2,
)


@check(
    "thm-picard-lindelof",
    claim=PICARD,
    mutants={
        "a factor of one quarter": PICARD.but(factor=lambda: mpf(1) / 4),
        "half the exponent in the weight": PICARD.but(weight=lambda L, lag: mp.exp(-L * abs(lag))),
        "no weight": PICARD.but(weight=lambda L, lag: mpf(1)),
        "a weight for later times only": PICARD.but(weight=lambda L, lag: mp.exp(-2 * L * lag)),
    },
    covers="the contraction by 1/2 in the weighted norm, before and after s, for the worst pair of "
    "curves and L = 1/2, 3 and 40; Picard's iterates for one nonlinear field, which converge to "
    "its trajectory",
    omits="completeness of the space of curves, and with it existence for a general field",
)
def picard(steps, claim):
    """Picard's map on the curves that it spreads most, and its iterates for L sin x."""
    with mp.workdps(30):
        lags = [mpf(k) / 8 for k in range(-8, 9)]
        for L in (mpf(1) / 2, 3, 40):
            images = [
                claim.weight(L, lag) * abs(mp.quad(lambda q, L=L: L / claim.weight(L, q), [0, lag]))
                for lag in lags
            ]
            steps.at_most(
                f"L = {mp.nstr(L, 2)}: u = L x on two curves at weighted distance 1 everywhere: "
                "the distance of their images",
                images,
                claim.factor(),
                tolerance=1e-20,
                why=DIGITS,
            )
    L, start, begin, size = 3.0, 0.3, 1.0, 64
    nodes = (1 - np.cos(np.pi * (np.arange(size) + 0.5) / size)) / 2
    weights = np.array([float(claim.weight(L, node - start)) for node in nodes])

    def picard_map(curve):
        series = chebyshev.Chebyshev.fit(nodes, L * np.sin(curve), size - 1, domain=[0, 1])
        return begin + series.integ(lbnd=start)(nodes)

    curves = [np.full(size, begin)]
    for _ in range(40):
        curves.append(picard_map(curves[-1]))
    moves = [np.max(weights * np.abs(q - p)) for p, q in itertools.pairwise(curves)]
    steps.at_most(
        "u = 3 sin x: the move of each iterate, against that of the one before",
        moves[1:20],
        [float(claim.factor()) * move for move in moves[:19]],
        tolerance=1e-13,
        why=ROUND_OFF,
    )
    exact = 2 * np.arctan(np.tan(begin / 2) * np.exp(L * (nodes - start)))
    steps.close(
        "the iterates end at the solution, tan(X/2) = tan(x/2) exp(3 (t - s))",
        curves[-1],
        exact,
        tolerance=1e-13,
        why="64 Chebyshev nodes in double precision",
    )


@check(
    "cor-linear-growth",
    claim=lambda size, rate, time, start: (1 + size) * exp(rate * Abs(time - start)),
    mutants={
        "half the rate": lambda size, rate, time, start: (
            (1 + size) * exp(rate * Abs(time - start) / 2)
        ),
        "the 1 not amplified": lambda size, rate, time, start: (
            1 + size * exp(rate * Abs(time - start))
        ),
        "valid after s only": lambda size, rate, time, start: (
            (1 + size) * exp(rate * (time - start))
        ),
    },
    covers="the growth bound: attained by a (1 + |x|) in both directions of time, obeyed by a "
    "spiral that is not globally Lipschitz",
    omits="existence and uniqueness, which the proof takes from the Lipschitz case",
)
def linear_growth(steps, claim):
    """The field that grows as fast as allowed; then a field that spins ever faster outside."""
    x0, lag = symbols("x_0 l", positive=True)
    for name, time, sign in (("forward", s + lag, 1), ("backward", s - lag, -1)):
        # Backward in time from a negative start the curve runs away from zero, too.
        curve = sign * ((1 + x0) * exp(a * lag) - 1)
        steps.equal(
            f"{name}: u = a (1 + |x|) has the trajectory ±((1 + |x|) exp(a |t - s|) - 1)",
            sign * diff(curve, lag),
            a * (1 + sign * curve),
        )
        steps.equal(f"{name}: it attains the bound", 1 + sign * curve, claim(x0, a, time, s))
    # In z = x_1 + i x_2 and its conjugate w: radius exp(b l), angle sin(ρ²)/ρ².
    z, w, b = symbols("z w b", positive=True)
    start, end = z * w, z * w * exp(2 * b * lag)
    turn = sympy.sin(end) / end - sympy.sin(start) / start
    spiral = z * exp(b * lag + sympy.I * turn)
    speed = b + 2 * sympy.I * b * (sympy.cos(end) - sympy.sin(end) / end)
    steps.equal(
        "the spiral u = (b + 2ib (cos ρ² - sin ρ²/ρ²)) z", diff(spiral, lag), speed * spiral
    )
    lags = [Rational(k, 5) for k in range(-5, 6)]
    steps.true(
        "it grows linearly with a = √17 b, and its radius obeys the bound (b = 1, radius 2)",
        all(1 + 2 * exp(q) <= claim(2, sympy.sqrt(17), q, 0) for q in lags),
    )


STABILITY = claims(
    upper=lambda L, lag, gap, delta: gap * exp(L * lag) + delta / L * (exp(L * lag) - 1),
    lower=lambda L, lag, gap: gap * exp(-L * lag),
)


@check(
    "prp-stability",
    claim=STABILITY,
    mutants={
        "the field's error not divided by L": STABILITY.but(
            upper=lambda L, lag, gap, delta: gap * exp(L * lag) + delta * (exp(L * lag) - 1)
        ),
        "the start's error not amplified": STABILITY.but(
            upper=lambda L, lag, gap, delta: gap + delta / L * (exp(L * lag) - 1)
        ),
        "the field's error not fed back": STABILITY.but(
            upper=lambda L, lag, gap, delta: gap * exp(L * lag) + delta * lag
        ),
        "trajectories never approach": STABILITY.but(lower=lambda L, lag, gap: gap),
    },
    covers="both bounds: attained by u = L x and u = -L x, obeyed by a nonlinear field beside a "
    "curve that follows another, forward and backward in time",
    omits="general fields, for which the proof rests on Grönwall's lemma",
)
def stability(steps, claim):
    """Fields that attain the bounds; then L sin x against a parabola."""
    L, delta, lag, gap, y = symbols("L delta l e y", positive=True)
    upper = (y + gap) * exp(L * lag)
    # dY/dl = L Y - delta, the field with the error -delta
    other = (y - delta / L) * exp(L * lag) + delta / L
    steps.equal("X' = L X", diff(upper, lag), L * upper)
    steps.equal("Y' = L Y - delta", diff(other, lag), L * other - delta)
    steps.equal(
        "their distance attains the upper bound", upper - other, claim.upper(L, lag, gap, delta)
    )
    steps.equal(
        "two trajectories of u = -L x attain the lower one",
        (y + gap) * exp(-L * lag) - y * exp(-L * lag),
        claim.lower(L, lag, gap),
    )
    rate, start = 2, Rational(2, 5)
    times = [Rational(k, 10) for k in range(11) if k != 4]

    def sine(begin, time):
        """tan(X/2) = tan(begin/2) exp(2 (t - s)): the trajectory of 2 sin x."""
        return 2 * sympy.atan(sympy.tan(begin / 2) * exp(rate * (time - start)))

    pairs = [(Rational(1, 2), 1), (1, Rational(5, 2)), (Rational(1, 100), Rational(1, 50))]
    for one, two in pairs:
        gaps = [sympy.N(Abs(sine(one, q) - sine(two, q)), 30) for q in times]
        distance = two - one
        steps.at_most(
            f"2 sin x from {one} and {two}: lower bound",
            [sympy.N(claim.lower(rate, Abs(q - start), distance), 30) for q in times],
            gaps,
            tolerance=1e-20,
            why=DIGITS,
        )
        steps.at_most(
            f"2 sin x from {one} and {two}: upper bound",
            gaps,
            [sympy.N(claim.upper(rate, Abs(q - start), distance, 0), 30) for q in times],
            tolerance=1e-20,
            why=DIGITS,
        )

    def parabola(time):
        return 1 + time**2

    grid = [mpf(k) / 1000 for k in range(1001)]
    error = max(abs(2 * mp.sin(parabola(q)) - 2 * q) for q in grid)
    steps.at_most(
        "2 sin x from 1 at t = 0.4 against the curve 1 + t², which solves X' = 2t",
        [sympy.N(Abs(sine(1, q) - parabola(q)), 30) for q in times],
        [
            sympy.N(claim.upper(rate, Abs(q - start), start**2, sympy.Float(str(error))), 30)
            for q in times
        ],
        tolerance=1e-20,
        why=DIGITS,
    )


FLOW = claims(
    compose=lambda psi, start, middle, end, point: psi(middle, end, psi(start, middle, point)),
    inverse=lambda psi, start, end, point: psi(end, start, point),
)


@check(
    "prp-flow-property",
    claim=FLOW,
    mutants={
        "composed in the other order": FLOW.but(
            compose=lambda psi, start, middle, end, point: psi(
                start, middle, psi(middle, end, point)
            )
        ),
        "only the time that passes counts": FLOW.but(
            inverse=lambda psi, start, end, point: psi(0, start - end, point)
        ),
        "the flow is its own inverse": FLOW.but(
            inverse=lambda psi, start, end, point: psi(start, end, point)
        ),
    },
    covers="the affine fields of the line, of any rate and drift in time, and a nonlinear field of "
    "the plane, at all times",
    omits="other fields, for which the proof needs only that trajectories are unique",
)
def flow_property(steps, claim):
    """Two families of flows in closed form, of which the affine one does not commute."""
    y = symbols("y", real=True)
    rate, drift = Function("A", real=True), Function("beta", real=True)

    def affine(start, end, point):
        """The flow of A' x + exp(A) β', that is of any rate and any drift."""
        return exp(rate(end) - rate(start)) * point + exp(rate(end)) * (drift(end) - drift(start))

    def affine_field(point):
        return diff(rate(t), t) * point + exp(rate(t)) * diff(drift(t), t)

    for name, psi, field, point in (
        ("affine", affine, affine_field, y),
        ("nonlinear", _fan, _fan_field, x),
    ):
        curve = psi(s, t, point)
        steps.equal(f"{name}: ψ_{{s,t}}(x) follows the field", diff(curve, t), field(curve))
        steps.equal(f"{name}: ψ_{{s,s}} = id", psi(s, s, point), point)
        through = claim.compose(psi, s, r, t, point)
        steps.equal(f"{name}: ψ_{{r,t}} ∘ ψ_{{s,r}} = ψ_{{s,t}}", through, curve)
        steps.equal(f"{name}: ψ_{{t,s}} undoes ψ_{{s,t}}", claim.inverse(psi, s, t, curve), point)


DIFFEOMORPHISM = claims(
    variational=lambda derivative, jacobian: derivative * jacobian,
    integrand=lambda divergence, start, now: divergence(now),
    determinant=lambda integral: exp(integral),
)


@check(
    "thm-flow-diffeomorphism",
    claim=DIFFEOMORPHISM,
    mutants={
        "the factors swapped": DIFFEOMORPHISM.but(
            variational=lambda derivative, jacobian: jacobian * derivative
        ),
        "the field's Jacobian transposed": DIFFEOMORPHISM.but(
            variational=lambda derivative, jacobian: derivative.T * jacobian
        ),
        "the divergence at the starting point": DIFFEOMORPHISM.but(
            integrand=lambda divergence, start, now: divergence(start)
        ),
        "the divergence with the other sign": DIFFEOMORPHISM.but(
            determinant=lambda integral: exp(-integral)
        ),
        "not compounded": DIFFEOMORPHISM.but(determinant=lambda integral: 1 + integral),
    },
    covers="the variational equation, Liouville's formula and the inverse for one nonlinear field "
    "of the plane with a clock of any speed; for any field in dimension 3 that the determinant "
    "grows at the rate div u, if the variational equation holds",
    omits="claims 1 and 4, that the flow of a general regular field is smooth; other dimensions",
)
def flow_diffeomorphism(steps, claim):
    """SymPy's Jacobian of a flow in closed form; the determinant of a general matrix curve."""
    point = _fan(s, t, x)
    jacobian = point.jacobian(x)
    derivative = _fan_jacobian(point)
    steps.equal("the flow map follows the field", diff(point, t), _fan_field(point))
    steps.equal("J_s = I", jacobian.subs(t, s), sympy.eye(2))
    steps.equal("J' = Du J", diff(jacobian, t), claim.variational(derivative, jacobian))
    integral = _fan_integral(s, t, x)
    steps.equal(
        "the integral of div u along the trajectory, differentiated",
        diff(integral, t),
        claim.integrand(_fan_divergence, x, point),
    )
    steps.equal("which is zero at t = s", integral.subs(t, s))
    steps.equal("Liouville: det J = exp ∫ div u", jacobian.det(), claim.determinant(integral))
    back = _fan(t, s, x).jacobian(x).subs(dict(zip(x, point, strict=True)), simultaneous=True)
    steps.equal("the Jacobian of the way back is the inverse of J", back * jacobian, sympy.eye(2))

    curve = Matrix(3, 3, [Function(f"J_{i}{j}")(t) for i in range(3) for j in range(3)])
    rate = Matrix(3, 3, symbols("D_1:4(1:4)"))
    growth = Function("I")
    moving = dict(zip(diff(curve, t), claim.variational(rate, curve), strict=True))
    ratio = diff(claim.determinant(growth(t)), t) / claim.determinant(growth(t))
    steps.equal(
        "any J with J' = Du J in dimension 3: (det J)' / det J, with the integral's rate tr Du",
        diff(curve.det(), t).subs(moving),
        ratio.subs(diff(growth(t), t), rate.trace()).subs(growth(t), 0) * curve.det(),
    )


@check(
    "thm-one-step",
    claim=lambda K, Lambda, p, h, elapsed: K / Lambda * (sympy.exp(Lambda * elapsed) - 1) * h**p,
    mutants={
        "half the constant": lambda K, Lambda, p, h, elapsed: (
            K / (2 * Lambda) * (sympy.exp(Lambda * elapsed) - 1) * h**p
        ),
        "the local order": lambda K, Lambda, p, h, elapsed: (
            K / Lambda * (sympy.exp(Lambda * elapsed) - 1) * h ** (p + 1)
        ),
        "errors not carried on": lambda K, Lambda, p, h, elapsed: K * elapsed * h**p,
    },
    covers="the induction step for every order, constant and step; the bound for a method that "
    "makes the largest error allowed, on even and uneven grids",
    omits="the passage from the method to the recursion of its errors, which is the triangle "
    "inequality",
)
def one_step(steps, claim):
    """The induction step in closed form; then the worst method, run exactly."""
    K, Lambda, p, h, step, T = symbols("K Lambda p h h_k T", positive=True)
    steps.equal(
        "(1 + h_k Λ) E_k + K h^p h_k is E_{k+1} less K h^p exp(ΛT) (exp(Λ h_k) - 1 - Λ h_k) / Λ, "
        "which is not negative",
        (1 + step * Lambda) * claim(K, Lambda, p, h, T) + K * h**p * step,
        claim(K, Lambda, p, h, T + step)
        - K / Lambda * h**p * exp(Lambda * T) * (exp(Lambda * step) - 1 - Lambda * step),
    )
    even = [Rational(1, 1000)] * 1000
    uneven = [Rational(k % 7 + 1, 400) for k in range(100)]
    for name, grid in (("1000 even steps", even), ("100 uneven steps", uneven)):
        for order, rate in ((1, sympy.Integer(3)), (2, Rational(1, 2)), (4, sympy.Integer(2))):
            error, elapsed, errors, bounds = mpf(0), 0, [], []
            with mp.workdps(30):
                for k, size in enumerate(grid):
                    # X = 0 is the trajectory of u = 0; the method's increment is Λ x + h^p.
                    length = mpf(size.p) / size.q
                    error += length * (mpf(rate.p) / rate.q * error + length**order)
                    elapsed += size
                    if k % 20 == 19:
                        errors.append(error)
                        bounds.append(claim(1, rate, order, max(grid), elapsed))
            steps.at_most(
                f"{name}, order {order}, Λ = {rate}, K = 1: the error",
                errors,
                bounds,
                tolerance=1e-20,
                why=DIGITS,
            )


EULER = claims(
    acceleration=lambda u, u_t, derivative: u_t + derivative * u,
    bound=lambda M, L, h, elapsed: M / (2 * L) * (exp(L * elapsed) - 1) * h,
)


@check(
    "thm-euler-order",
    claim=EULER,
    mutants={
        "the field taken as constant in time": EULER.but(
            acceleration=lambda u, u_t, derivative: derivative * u
        ),
        "the Jacobian transposed": EULER.but(
            acceleration=lambda u, u_t, derivative: u_t + derivative.T * u
        ),
        "a quarter for the half": EULER.but(
            bound=lambda M, L, h, elapsed: M / (4 * L) * (exp(L * elapsed) - 1) * h
        ),
        "not divided by L": EULER.but(
            bound=lambda M, L, h, elapsed: M / 2 * (exp(L * elapsed) - 1) * h
        ),
        "without the -1": EULER.but(
            bound=lambda M, L, h, elapsed: M / (2 * L) * exp(L * elapsed) * h
        ),
        "errors not carried on": EULER.but(bound=lambda M, L, h, elapsed: M / 2 * elapsed * h),
    },
    covers="the acceleration along the trajectories of a nonlinear field with a clock of any "
    "speed; the bound for one field, on an even and an uneven grid, and that it is attained in the "
    "limit of small steps, so that no smaller constant would do",
    omits="general fields, for which the proof applies the theorem on one-step methods",
)
def euler_order(steps, claim):
    """The second derivative of a flow in closed form; the book's solver on a curved path."""
    point = _fan(s, t, x)
    z = Matrix(symbols("z_1 z_2", real=True))
    u_t = diff(_fan_field(z), t).subs(dict(zip(z, point, strict=True)))
    steps.equal(
        "X'' = ∂_t u + Du u",
        diff(point, t, 2),
        claim.acceleration(_fan_field(point), u_t, _fan_jacobian(point)),
    )
    L, M, h, gap, T = symbols("L M h e T", positive=True)
    k = symbols("k", integer=True, positive=True)

    def field(y, time, L, M):
        return L * (y - M * time**2 / 2) + M * time

    ahead = M * t**2 / 2 - gap
    steps.equal(
        "u = L (x - M t²/2) + M t, with the trajectory M t²/2 of acceleration M: a step of Euler "
        "takes the error e to (1 + hL) e + M h²/2",
        M * (t + h) ** 2 / 2 - (ahead + h * field(ahead, t, L, M)),
        (1 + h * L) * gap + M * h**2 / 2,
    )

    def error(steps_taken):
        return M * h / (2 * L) * ((1 + h * L) ** steps_taken - 1)

    steps.equal(
        "so after k steps from 0 it is M h ((1 + hL)^k - 1) / (2L)",
        error(k + 1),
        (1 + h * L) * error(k) + M * h**2 / 2,
    )
    steps.equal(
        "the limit of error over h at time T attains the bound",
        sympy.limit(error(T / h) / h, h, 0),
        claim.bound(M, L, h, T) / h,
    )
    L, M = 2.0, 3.0
    parabola = ODE(lambda y, time: field(y, time, L, M))
    even = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for name, grid in (("even", even), ("uneven", even[::10] ** 2)):
        start = torch.zeros(1, 1, dtype=torch.float64)
        states = solve_ode(parabola, start, grid, method=euler, trajectory=True).flatten()
        steps.at_most(
            f"the book's solver for this field, L = 2 and M = 3: the error at all times of an "
            f"{name} grid",
            (states - M * grid**2 / 2).abs(),
            [claim.bound(M, L, grid.diff().max().item(), time) for time in grid.tolist()],
            tolerance=1e-14,
            why=ROUND_OFF,
        )


class _Jets:
    """Exact Taylor expansion of the steps of a method, for every smooth field at once.

    The field F(z) has any first, second and third derivatives at the point z = 0: they are symbols
    of a polynomial ring, next to the step h. A coordinate may be the time, with the speed 1, so
    that a field that depends on time needs nothing else. Powers of h beyond the fourth, to which
    fourth derivatives would contribute, are dropped.
    """

    def __init__(self, dimension, parameters=()):
        self.dimension = dimension
        self.derivatives = {
            (i, *along): f"F{i}_" + "".join(map(str, along))
            for i in range(dimension)
            for order in range(4)
            for along in itertools.combinations_with_replacement(range(dimension), order)
        }
        names = ["h", *self.derivatives.values(), *parameters]
        self.ring, *generators = ring(names, QQ)
        self.symbol = dict(zip(names, generators, strict=True))
        self.h = self.symbol["h"]

    def field(self, point):
        """F at a point of order h, by Taylor's formula up to h^3."""
        values = [self.ring(0)] * self.dimension
        for (i, *along), name in self.derivatives.items():
            term = self.symbol[name]
            for j in along:
                term = term * point[j]
                term = self.ring.from_dict({k: v for k, v in term.items() if k[0] <= 3})
            repeats = math.prod(math.factorial(along.count(j)) for j in set(along))
            values[i] += term * QQ(1, repeats)
        return values

    def differential(self, *directions):
        """The derivative of F at 0 in these directions, as a multilinear map."""
        values = [self.ring(0)] * self.dimension
        for i in range(self.dimension):
            for along in itertools.product(range(self.dimension), repeat=len(directions)):
                entries = [v[j] for v, j in zip(directions, along, strict=True)]
                name = self.derivatives[(i, *sorted(along))]
                values[i] += math.prod(entries, start=self.symbol[name])
        return values

    def trajectory(self):
        """The solution of Z' = F(Z) from 0, up to h^4, by Picard's iteration."""
        curve = [self.ring(0)] * self.dimension
        for _ in range(4):
            curve = [
                self.ring.from_dict({(k[0] + 1, *k[1:]): v / (k[0] + 1) for k, v in q.items()})
                for q in self.field(curve)
            ]
        return curve

    def step(self, a, b):
        """The step of the Runge-Kutta method with these coefficients, up to h^4."""
        slopes = []
        for row in a:
            slopes.append(self.field(self.combine(row, slopes)))
        return self.combine(b, slopes)

    def combine(self, weights, slopes):
        """h times the weighted sum."""
        pairs = list(zip(weights, slopes, strict=True))
        return [
            self.h * sum((w * slope[i] for w, slope in pairs), self.ring(0))
            for i in range(self.dimension)
        ]

    def coefficient(self, vector, power):
        """The coefficient of h^power, for SymPy."""
        return [
            self.ring.from_dict({(0, *k[1:]): v for k, v in q.items() if k[0] == power}).as_expr()
            for q in vector
        ]


HEUN = claims(
    consistency=lambda M2, M3, L: M3 / 12 + L * M2 / 4,
    stability=lambda L, h: L * (1 + h * L / 2),
)


@check(
    "prp-heun-order",
    claim=HEUN,
    mutants={
        "the midpoint rule's constant": HEUN.but(
            consistency=lambda M2, M3, L: M3 / 24 + L * M2 / 4
        ),
        "a half for the quarter": HEUN.but(consistency=lambda M2, M3, L: M3 / 12 + L * M2 / 2),
        "L squared": HEUN.but(consistency=lambda M2, M3, L: M3 / 12 + L**2 * M2 / 4),
        "only the trapezoidal rule": HEUN.but(consistency=lambda M2, M3, L: M3 / 12),
        "as stable as Euler": HEUN.but(stability=lambda L, h: L),
        "h for h/2 in the stability": HEUN.but(stability=lambda L, h: L * (1 + h * L)),
    },
    covers="the leading term of the local error for every smooth field of the plane, of which one "
    "coordinate may be time; K for one field with two step sizes, and attained in the limit of "
    "small steps; Lambda attained by u = L x: neither constant can be smaller",
    omits="remainders for general fields; the last step to the global error, which is the theorem "
    "on one-step methods",
)
def heun_order(steps, claim):
    """Taylor expansion with general derivatives; then the local error on an exponential."""
    jets = _Jets(2)
    method = jets.step([[], [QQ(1)]], [QQ(1, 2), QQ(1, 2)])
    local = [p - q for p, q in zip(jets.trajectory(), method, strict=True)]
    steps.equal(
        "any field: the local error has no terms in h and h²",
        [*jets.coefficient(local, 1), *jets.coefficient(local, 2)],
    )
    F = jets.field([jets.ring(0)] * 2)
    second = jets.differential(F)
    pulled = jets.differential(second)  # Du X''
    third = [p + q for p, q in zip(jets.differential(F, F), pulled, strict=True)]
    # K is linear in M2 and M3: with the vectors -X''' and Du X'' for them it gives a vector.
    sizes = [claim.consistency(M2=p, M3=-q, L=1) for p, q in zip(pulled, third, strict=True)]
    steps.equal(
        "any field: its term in h³ is -X'''/12 + Du X''/4, of size K at most",
        jets.coefficient([p - jets.h**3 * q for p, q in zip(local, sizes, strict=True)], 3),
    )
    y, h, L, rate = symbols("y h L r", positive=True)

    def field(y, time):
        curve = exp(-rate * time)
        return L * (y - curve) - rate * curve

    first = field(1, 0)
    error = exp(-rate * h) - 1 - h / 2 * (first + field(1 + h * first, h))
    K = claim.consistency(M2=rate**2, M3=rate**3, L=L)
    steps.equal(
        "u = L (x - e) + e' with e = exp(-rt), a trajectory with M2 = r² and M3 = r³: the limit of "
        "local error over h³ is K",
        sympy.limit(error / h**3, h, 0),
        K,
    )
    for numbers in ({L: 3, rate: 2, h: 1}, {L: Rational(1, 2), rate: 2, h: Rational(1, 8)}):
        steps.true(
            "its local error over h³ is at most K for "
            + ", ".join(f"{n} = {v}" for n, v in numbers.items()),
            Abs(error / h**3).subs(numbers) <= K.subs(numbers),
        )
    steps.equal(
        "u = L x: the increment is L (1 + hL/2) x, which attains the stability constant",
        (L * y + L * (y + h * L * y)) / 2,
        claim.stability(L, h) * y,
    )


def _order_conditions(a, b, eighth=8, twelfth=12):
    """By order: the left side of each condition, and one over its right side."""
    c = [sum(row) for row in a]

    def a_times(v):
        return [sum(p * q for p, q in zip(row, v, strict=False)) for row in a]

    def b_sum(*vectors):
        return sum(math.prod(entries) for entries in zip(b, *vectors, strict=True))

    return {
        1: [(b_sum(), 1)],
        2: [(b_sum(c), 2)],
        3: [(b_sum(c, c), 3), (b_sum(a_times(c)), 6)],
        4: [
            (b_sum(c, c, c), 4),
            (b_sum(c, a_times(c)), eighth),
            (b_sum(a_times([q * q for q in c])), twelfth),
            (b_sum(a_times(a_times(c))), 24),
        ],
    }


STAGES = [[], [QQ(1, 2)], [QQ(0), QQ(1, 2)], [QQ(0), QQ(0), QQ(1)]]
WEIGHTS = [QQ(1, 6), QQ(1, 3), QQ(1, 3), QQ(1, 6)]
RK4 = claims(conditions=_order_conditions, tableau=(STAGES, WEIGHTS))


@check(
    "prp-rk4-order",
    claim=RK4,
    mutants={
        "1/6 for 1/8": RK4.but(conditions=lambda a, b: _order_conditions(a, b, eighth=6)),
        "1/24 for 1/12": RK4.but(conditions=lambda a, b: _order_conditions(a, b, twelfth=24)),
        "the weights of the three-eighths rule": RK4.but(
            tableau=(STAGES, [QQ(1, 8), QQ(3, 8), QQ(3, 8), QQ(1, 8)])
        ),
        "the third stage from the first slope": RK4.but(
            tableau=([[], [QQ(1, 2)], [QQ(1, 2), QQ(0)], [QQ(0), QQ(0), QQ(1)]], WEIGHTS)
        ),
    },
    covers="all methods of four stages and all smooth fields of the plane, of which one "
    "coordinate may be time: the expansion of the local error up to h^4; RK4's coefficients",
    omits="other dimensions and numbers of stages, and the remainder, which the proof covers; the "
    "last step to the global error, which is the theorem on one-step methods",
)
def rk4_order(steps, claim):
    """The local error, expanded with general coefficients and general derivatives of the field."""
    names_a = [[f"a{i}{j}" for j in range(i)] for i in range(4)]
    names_b = [f"b{i}" for i in range(4)]
    jets = _Jets(2, [*itertools.chain(*names_a), *names_b])
    a, b = [[jets.symbol[n] for n in row] for row in names_a], [jets.symbol[n] for n in names_b]
    local = [p - q for p, q in zip(jets.step(a, b), jets.trajectory(), strict=True)]
    D = jets.differential
    F = jets.field([jets.ring(0)] * 2)
    # What comes with each condition: a number, and a differential of the field.
    differentials = {
        1: [(1, F)],
        2: [(1, D(F))],
        3: [(2, D(F, F)), (1, D(D(F)))],
        4: [(6, D(F, F, F)), (1, D(F, D(F))), (2, D(D(F, F))), (1, D(D(D(F))))],
    }
    written = {
        1: "F",
        2: "F'F",
        3: "F''(F,F)/2, F'F'F",
        4: "F'''(F,F,F)/6, F''(F,F'F), F'F''(F,F)/2, F'F'F'F",
    }
    for power, conditions in claim.conditions(a, b).items():
        expected = [jets.ring(0)] * 2
        for (left, inverse), (symmetry, vector) in zip(
            conditions, differentials[power], strict=True
        ):
            gap = (left - QQ(1, inverse)) * QQ(1, symmetry)
            expected = [p + gap * q for p, q in zip(expected, vector, strict=True)]
        steps.equal(
            f"h^{power} in method minus trajectory: left minus right sides of the conditions, "
            f"times {written[power]}",
            jets.coefficient(
                [p - jets.h**power * q for p, q in zip(local, expected, strict=True)], power
            ),
        )
    rows, weights = claim.tableau
    for power, conditions in claim.conditions(rows, weights).items():
        steps.true(
            f"RK4 satisfies the conditions of order {power}",
            all(left == QQ(1, inverse) for left, inverse in conditions),
        )


def _determinants(function, points):
    """Determinants of the Jacobians of a map of the plane, by automatic differentiation."""
    jacobian = torch.func.jacrev(lambda point: function(point[None])[0])
    return torch.linalg.det(torch.func.vmap(jacobian)(points))


CHANGE = claims(
    at_target=lambda p, inverse, y: p(inverse(y)) * _determinants(inverse, y).abs(),
    at_source=lambda p, determinant: p / abs(determinant),
)


@check(
    "thm-change-of-variables",
    claim=CHANGE,
    mutants={
        "without the absolute value": CHANGE.but(
            at_target=lambda p, inverse, y: p(inverse(y)) * _determinants(inverse, y)
        ),
        "divided by the inverse's determinant": CHANGE.but(
            at_target=lambda p, inverse, y: p(inverse(y)) / _determinants(inverse, y).abs()
        ),
        "without the determinant": CHANGE.but(at_target=lambda p, inverse, y: p(inverse(y))),
        "multiplied by the determinant": CHANGE.but(
            at_source=lambda p, determinant: p * abs(determinant)
        ),
    },
    covers="the second formula for every density of the plane under every map (x_1, x_2) to "
    "(g(x_1), c(x_1) x_2 + m(x_1)); the first for one nonlinear map that reverses orientation, "
    "tested with one function f",
    omits="general maps and dimensions, for which the proof uses the substitution rule",
)
def change_of_variables(steps, claim):
    """The distribution function of the image, differentiated; two integrals by quadrature."""
    x1, x2, y2, lowest = symbols("x_1 x_2 y_2 l", real=True)
    gamma, kappa, m = (Function(name, real=True) for name in ("gamma", "kappa", "m"))
    below = Function("P")  # the integral of the density over the second coordinate, up to x_2
    for name, sign in (("keeps", 1), ("reverses", -1)):
        steps.say(
            f"Y = (g(x_1), ± exp(κ(x_1)) x_2 + m(x_1)) with g' = exp(γ), a map that {name} "
            "orientation"
        )
        # P(Y_1 ≤ g(x_1), Y_2 ≤ y_2) but for what does not depend on y_2
        cut = sign * (y2 - m(x1)) * exp(-kappa(x1))
        probability = Integral((sign * below(x1, cut)).subs(x1, r), (r, lowest, x1))
        density = diff(diff(probability, x1) / exp(gamma(x1)), y2)
        steps.equal(
            "the mixed derivative of the distribution function of Y is q(ψ(x)) = p(x) / |det Dψ|",
            density.subs(y2, sign * exp(kappa(x1)) * x2 + m(x1)),
            claim.at_source(diff(below(x1, x2), x2), sign * exp(gamma(x1) + kappa(x1))),
        )

    def forward(z):
        return torch.stack([z[:, 1] * (1 + z[:, 0] ** 2 / (1 + z[:, 0] ** 2)), 2 * z[:, 0]], dim=1)

    def backward(y):
        first = y[:, 1] / 2
        return torch.stack([first, y[:, 0] / (1 + first**2 / (1 + first**2))], dim=1)

    def p(z):
        gap = z - torch.tensor([0.5, -0.3], dtype=torch.float64)
        return torch.exp(-gap.square().sum(1) / 2) / (2 * math.pi)

    def f(y):
        return torch.cos(y[:, 0] + 0.4 * y[:, 1]) + y[:, 0] * y[:, 1]

    h = 0.15
    line = h * torch.arange(-120, 121, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    steps.close(
        "∫ f q dy = ∫ f(ψ(x)) p(x) dx for ψ(x) = (x_2 (1 + 2 x_1²) / (1 + x_1²), 2 x_1), whose "
        "determinant is negative",
        h**2 * (f(grid) * claim.at_target(p, backward, grid)).sum(),
        h**2 * (f(forward(grid)) * p(grid)).sum(),
        tolerance=1e-14,
        why="the trapezoidal rule, exponentially accurate here, in double precision",
    )


LOG_DENSITY = claims(
    integrand=lambda divergence, start, now: divergence(now),
    along=lambda log_p0, integral: log_p0 - integral,
    rate=lambda divergence, advection: -divergence,
)


@check(
    "cor-log-density",
    claim=LOG_DENSITY,
    mutants={
        "the divergence at the starting point": LOG_DENSITY.but(
            integrand=lambda divergence, start, now: divergence(start)
        ),
        "the other sign": LOG_DENSITY.but(along=lambda log_p0, integral: log_p0 + integral),
        "the rate with the other sign": LOG_DENSITY.but(
            rate=lambda divergence, advection: divergence
        ),
        "the rate at a fixed point": LOG_DENSITY.but(
            rate=lambda divergence, advection: -divergence - advection
        ),
    },
    covers="both formulas for every starting density under one nonlinear field of the plane with a "
    "clock of any speed",
    omits="other fields and dimensions",
)
def log_density(steps, claim):
    """The density of the image under a flow in closed form, and its derivative."""
    log_p0 = Function("log p_0", real=True)
    point = _fan(0, t, x)
    z = Matrix(symbols("z_1 z_2", real=True))
    there = dict(zip(z, point, strict=True))
    back = _fan(t, 0, z)
    volume = back.jacobian(z).det()
    score = Matrix([diff(log_p0(*back) + log(volume), q) for q in z]).subs(there)
    steps.equal("the way back from ψ_t(x) leads to x", _fan(t, 0, point), x)
    log_p = log_p0(*x) + log(volume.subs(there))
    integral = _fan_integral(0, t, x)
    steps.equal(
        "the integral of div u along the trajectory, differentiated",
        diff(integral, t),
        claim.integrand(_fan_divergence, x, point),
    )
    steps.equal("which is zero at t = 0", integral.subs(t, 0))
    steps.equal(
        "log p_t(ψ_t(x)), from the density of an image and SymPy's Jacobian of the way back",
        log_p,
        claim.along(log_p0(*x), integral),
    )
    steps.equal(
        "its derivative in t",
        diff(log_p, t),
        claim.rate(_fan_divergence(point), _fan_field(point).dot(score)),
    )


def _laboratory_points():
    """The laboratory, and points and times for it."""
    line = torch.linspace(-1.8, 1.9, 3, dtype=torch.float64)
    times = torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)
    grid = torch.cartesian_prod(line, line, times)
    return laboratory(), grid[:, :2].contiguous(), grid[:, 2].contiguous()


def _laboratory_rate(law, points, times):
    """The derivative of the laboratory's log-density in time, at fixed points."""
    times = times.clone().requires_grad_()
    total = law.marginal_log_prob(points, times, 1 - times).sum()
    return torch.autograd.grad(total, times)[0]


CONTINUITY = claims(
    weak=lambda f, gradient, u, divergence: gradient.dot(u),
    strong=lambda p, p_t, gradient, u, divergence: p_t + gradient.dot(u) + p * divergence,
)


@check(
    "thm-continuity",
    claim=CONTINUITY,
    mutants={
        "transport without compression": CONTINUITY.but(
            strong=lambda p, p_t, gradient, u, divergence: p_t + gradient.dot(u)
        ),
        "compression without transport": CONTINUITY.but(
            strong=lambda p, p_t, gradient, u, divergence: p_t + p * divergence
        ),
        "the other sign": CONTINUITY.but(
            strong=lambda p, p_t, gradient, u, divergence: p_t - gradient.dot(u) - p * divergence
        ),
        "the weak form with the divergence": CONTINUITY.but(
            weak=lambda f, gradient, u, divergence: gradient.dot(u) + f * divergence
        ),
        "the weak form with the other sign": CONTINUITY.but(
            weak=lambda f, gradient, u, divergence: -gradient.dot(u)
        ),
    },
    covers="parts 1 and 2 under one nonlinear field of the plane: the weak form for a point mass "
    "at any place, hence for every law, and the strong form for every density; the strong form "
    "for the laboratory, at 36 points in space and time; of the proof of part 3 two steps: (a) for "
    "the nonlinear field, (c) for any field and density of the plane",
    omits="that the flow of a general regular field is smooth enough; measures without densities "
    "in part 3; boundary terms, which compact support removes",
)
def continuity(steps, claim):
    """A flow in closed form, with general densities and test functions; then general fields."""
    f, p0 = Function("f", real=True), Function("p_0", positive=True)
    u = _fan_field(x)
    divergence = u.jacobian(x).trace()
    z = Matrix(symbols("z_1 z_2", real=True))
    point = _fan(0, t, x)
    there = dict(zip(z, point, strict=True))
    gradient = Matrix([diff(f(*z), q) for q in z])
    steps.equal(
        "(1) a point mass carried along: d/dt f(X_t) = grad f . u for every f",
        diff(f(*point), t),
        claim.weak(f(*z), gradient, _fan_field(z), _fan_jacobian(z).trace()).subs(there),
    )
    back = _fan(t, 0, x)
    p = p0(*back) * back.jacobian(x).det()
    steps.equal(
        "(2) the density p_0(ψ_t^{-1}) det Dψ_t^{-1} of the image solves the equation",
        claim.strong(p, diff(p, t), Matrix([diff(p, q) for q in x]), u, divergence),
    )
    law, points, times = _laboratory_points()
    field = ExactField(law, GaussianPath(CondOT()))
    steps.close(
        "(2) the laboratory: the equation over p",
        [
            claim.strong(1.0, rate, score, velocity, div)
            for rate, score, velocity, div in zip(
                _laboratory_rate(law, points, times),
                field.score(points, times),
                field.velocity(points, times),
                exact_divergence(field.velocity, points, times),
                strict=True,
            )
        ],
        [0.0] * len(points),
        tolerance=1e-12,
        why=ROUND_OFF,
    )
    end = symbols("T", positive=True)
    final = _fan(t, end, x)
    phi = f(*final)
    steps.equal(
        "(3a) φ_t = f(ψ_{t,T}) solves ∂_t φ + u . grad φ = 0",
        diff(phi, t) + sum(u[i] * diff(phi, x[i]) for i in range(2)),
    )
    density, test = Function("p", positive=True)(t, *x), Function("phi", real=True)(t, *x)
    any_field = Matrix([Function(name, real=True)(t, *x) for name in ("u_1", "u_2")])
    gradients = [Matrix([diff(g, q) for q in x]) for g in (density, test)]
    any_divergence = sum(diff(any_field[i], x[i]) for i in range(2))
    unknown = symbols("p_t")
    (p_t,) = sympy.solve(
        claim.strong(density, unknown, gradients[0], any_field, any_divergence), unknown
    )
    steps.equal(
        "(3c) any field, p and φ that solve the two equations: ∂_t (φ p) = -div(φ p u), so ∫ φ p "
        "is constant",
        test * p_t - density * gradients[1].dot(any_field),
        -sum(diff(test * density * any_field[i], x[i]) for i in range(2)),
    )


HUTCHINSON = claims(
    mean=lambda A: A.trace(),
    variance=lambda A, kappa: (
        2 * _off_diagonal(A) + (kappa - 1) * sum(A[i, i] ** 2 for i in range(A.rows))
    ),
    rademacher=lambda A: 2 * _off_diagonal(A),
    gaussian=lambda A: 2 * sum(entry**2 for entry in (A + A.T) / 2),
)


def _off_diagonal(A):
    """The sum of S_ij² over i ≠ j, with S the symmetric part."""
    S = (A + A.T) / 2
    return sum(S[i, j] ** 2 for i in range(A.rows) for j in range(A.rows) if i != j)


@check(
    "prp-hutchinson",
    claim=HUTCHINSON,
    mutants={
        "the sum of all entries": HUTCHINSON.but(mean=lambda A: sum(A)),
        "each pair counted once": HUTCHINSON.but(
            variance=lambda A, kappa: (
                _off_diagonal(A) + (kappa - 1) * sum(A[i, i] ** 2 for i in range(A.rows))
            )
        ),
        "kappa for kappa - 1": HUTCHINSON.but(
            variance=lambda A, kappa: (
                2 * _off_diagonal(A) + kappa * sum(A[i, i] ** 2 for i in range(A.rows))
            )
        ),
        "A for its symmetric part": HUTCHINSON.but(
            rademacher=lambda A: sum(
                2 * A[i, j] ** 2 for i in range(A.rows) for j in range(A.rows) if i != j
            )
        ),
        "Gaussian probes without the diagonal": HUTCHINSON.but(
            gaussian=lambda A: 2 * _off_diagonal(A)
        ),
    },
    covers="every matrix of size 4: the mean for every z, the variance for every law of the "
    "coordinates with four moments, and once more over all sixteen sign vectors; the smallest "
    "fourth moment among laws on two points",
    omits="other sizes; that no law has a fourth moment below one, which is Jensen's inequality",
)
def hutchinson(steps, claim):
    """All moments written out, coordinate by coordinate."""
    size = 4
    A = Matrix(size, size, symbols(f"A_1:{size + 1}(1:{size + 1})", real=True))
    third, kappa = symbols("mu_3 kappa", real=True)
    z = Matrix(symbols(f"z_1:{size + 1}", real=True))
    moments = {0: 1, 1: 0, 2: 1, 3: third, 4: kappa}
    form = sympy.Poly((z.T * A * z)[0], *z)

    def mean(polynomial, values):
        return sum(
            coefficient * math.prod((values[power] for power in powers), start=sympy.Integer(1))
            for powers, coefficient in polynomial.terms()
        )

    axes = [sympy.sqrt(size) * sympy.eye(size)[:, i] for i in range(size)]
    steps.equal(
        "probes 2 e_i with i uniform, which are not independent but have E z z^T = I: the mean",
        sum((axis.T * A * axis)[0] for axis in axes) / size,
        claim.mean(A),
    )
    steps.equal(
        "the mean, from E z_i² = 1 and E z_i z_j = 0 alone", mean(form, moments), claim.mean(A)
    )
    centred = form - sympy.Poly(A.trace(), *z)
    variance = mean(centred**2, moments)
    steps.equal("independent coordinates: the variance", variance, claim.variance(A, kappa))
    signs = [Matrix(v) for v in itertools.product((-1, 1), repeat=size)]
    steps.equal(
        "Rademacher: the mean square over all sign vectors",
        sum(((v.T * A * v)[0] - A.trace()) ** 2 for v in signs) / len(signs),
        claim.rademacher(A),
    )
    gaussian = {n: sympy.factorial2(n - 1) if n % 2 == 0 else 0 for n in range(5)}
    steps.equal("Gaussian: the variance", mean(centred**2, gaussian), claim.gaussian(A))
    chance = symbols("q", positive=True)
    high, low = sympy.sqrt((1 - chance) / chance), -sympy.sqrt(chance / (1 - chance))
    steps.equal(
        "two values with chances q and 1 - q, mean 0 and variance 1: kappa - 1 is a square over "
        "q (1 - q), zero for signs only",
        chance * high**4 + (1 - chance) * low**4 - 1,
        (1 - 2 * chance) ** 2 / (chance * (1 - chance)),
    )
