"""Checks of the chapter beyond Euclidean space."""

from __future__ import annotations

import math

import numpy as np
import sympy
import torch
from scipy import integrate
from sympy import (
    Function,
    Matrix,
    Rational,
    acos,
    cos,
    cosh,
    diff,
    exp,
    log,
    oo,
    pi,
    simplify,
    sin,
    sinh,
    sqrt,
    symbols,
)
from sympy import (
    integrate as integral,
)

from fromnoise.derivations.checking import check, claims
from fromnoise.manifold_laws import TorusPath, WrappedMixture
from fromnoise.manifolds import FlatTorus

SUMS = "finite sums in double precision"
QUADRATURE = "adaptive quadrature of smooth functions in double precision"

t, h, g, lam, kappa = symbols("t h g lambda kappa", positive=True)
x, y, m, w = symbols("x y m w", real=True)

# -- generators ----------------------------------------------------------------------------------

GENERATORS = claims(
    flow=lambda slope, bend, velocity: slope * velocity,
    diffusion=lambda slope, bend, drift: slope * drift + g**2 / 2 * bend,
    jump=lambda rate, here, there: rate * (there - here),
)


@check(
    "prp-generators",
    claim=GENERATORS,
    mutants={
        "g² in place of g²/2": GENERATORS.but(
            diffusion=lambda slope, bend, drift: slope * drift + g**2 * bend
        ),
        "the flow backwards": GENERATORS.but(flow=lambda slope, bend, velocity: -slope * velocity),
        "only what lands": GENERATORS.but(jump=lambda rate, here, there: rate * there),
    },
    covers="the limit in the definition: for a linear flow and any test function, for the "
    "Ornstein-Uhlenbeck process and polynomials of degree 4, for jumps among two points",
    omits="the martingale property; unbounded coefficients",
)
def generators(steps, claim):
    """Differentiate the expectation at h = 0."""
    f = Function("f")
    # dx/dt = -x: at time h it is x e^(-h)
    moved = diff(f(x * exp(-h)), h).subs(h, 0).doit()
    steps.equal("flow", moved, claim.flow(diff(f(x), x), diff(f(x), x, 2), -x))
    place, spread = x * exp(-h), g**2 * (1 - exp(-2 * h)) / 2
    for power, mean in (
        (2, place**2 + spread),
        (4, place**4 + 6 * place**2 * spread + 3 * spread**2),
    ):
        wanted = claim.diffusion(diff(x**power, x), diff(x**power, x, 2), -x)
        steps.equal(f"diffusion, x^{power}", diff(mean, h).subs(h, 0), wanted)
    # two states, rate lambda from x to y and back: the chance to be away is (1 - e^(-2 lambda h))/2
    away = (1 - exp(-2 * lam * h)) / 2
    mean = (1 - away) * f(x) + away * f(y)
    steps.equal("jump", diff(mean, h).subs(h, 0), claim.jump(lam, f(x), f(y)))


RATES = np.array([[-1.0, 0.7, 0.3], [0.2, -0.9, 0.7], [0.5, 0.1, -0.6]])
START = np.array([0.2, 0.5, 0.3])
TEST = np.array([1.0, -2.0, 0.5])


def _law(time: float, rates=RATES) -> np.ndarray:
    from scipy.linalg import expm

    return START @ expm(time * rates)


@check(
    "thm-forward-equation",
    claim=lambda law, rates, test: law @ (rates @ test),
    mutants={
        "the adjoint": lambda law, rates, test: law @ (rates.T @ test),
        "minus": lambda law, rates, test: -law @ (rates @ test),
        "twice": lambda law, rates, test: 2 * law @ (rates @ test),
    },
    covers="a chain with three states, whose law is a matrix exponential",
    omits="other spaces (the continuity and Fokker-Planck equations have checks of their own)",
)
def forward_equation(steps, claim):
    """The change of an expectation is the integral of the generator's."""
    change = (_law(0.8) - _law(0.1)) @ TEST
    found, _ = integrate.quad(lambda r: claim(_law(r), RATES, TEST), 0.1, 0.8, epsabs=1e-14)
    steps.close("Ef(X_t) - Ef(X_s)", found, change, tolerance=1e-12, why=QUADRATURE)


JUMPS = claims(
    rate=lambda change, density: np.maximum(-change, 0) / density,
    landing=lambda change: np.maximum(change, 0),
)


def _generated(rate: np.ndarray, landing: np.ndarray, law: np.ndarray) -> np.ndarray:
    """What lands minus what leaves, on a finite set."""
    leaving = law * rate
    return leaving.sum() * landing / landing.sum() - leaving


@check(
    "prp-jump-path",
    claim=JUMPS,
    mutants={
        "leaves where it rises": JUMPS.but(
            rate=lambda change, density: np.maximum(change, 0) / density
        ),
        "rate without the density": JUMPS.but(rate=lambda change, density: np.maximum(-change, 0)),
        "lands everywhere": JUMPS.but(landing=np.abs),
        "more jumps than needed": JUMPS.but(
            rate=lambda change, density: (np.maximum(-change, 0) + 0.1) / density,
            landing=lambda change: np.maximum(change, 0) + 0.1,
        ),
    },
    covers="a path of laws on seven points; that no other rate out of a point is smaller",
    omits="densities on R^d (sums become integrals)",
)
def jump_path(steps, claim):
    """Finite sums."""
    k = np.arange(7)

    def law(time):
        weight = np.exp(np.sin(k + 3 * time) + 0.2 * k * time)
        return weight / weight.sum()

    time = 0.4
    phase = np.sin(k + 3 * time) + 0.2 * k * time
    weight, slope = np.exp(phase), 3 * np.cos(k + 3 * time) + 0.2 * k
    density = weight / weight.sum()
    change = density * (slope - (density * slope).sum())
    rate, landing = claim.rate(change, density), claim.landing(change)
    steps.close("dp/dt", _generated(rate, landing, density), change, tolerance=1e-13, why=SUMS)
    steps.close("sum of dp/dt", change.sum(), 0.0, tolerance=1e-13, why=SUMS)
    steps.close(
        "mean rate Z = sum of (dp/dt)_+",
        (rate * density).sum(),
        np.maximum(change, 0).sum(),
        tolerance=1e-13,
        why=SUMS,
    )
    steps.close("law at 0.4", law(time), density, tolerance=1e-15, why=SUMS)


FRUGAL_LAW = np.array([0.2, 0.3, 0.5])


def _keeps(law: np.ndarray) -> np.ndarray:
    """A reversible generator that keeps a law."""
    rates = np.array([[0, 1.0, 2.0], [1.0, 0, 3.0], [2.0, 3.0, 0]]) / law[:, None]
    return rates - np.diag(rates.sum(1))


@check(
    "prp-superposition",
    claim=lambda first, second, weight: (1 - weight) * first + weight * second,
    mutants={
        "the sum": lambda first, second, weight: first + second,
        "both with the weight": lambda first, second, weight: weight * (first + second),
        "the difference": lambda first, second, weight: first - weight * second,
    },
    covers="two generators on three states with the same derivative of the law, three weights; "
    "adding one that keeps the law",
    omits="time-dependent weights (the statement is one for each time)",
)
def superposition(steps, claim):
    """Finite sums."""
    law = FRUGAL_LAW
    change = law @ RATES
    rate = np.maximum(-change, 0) / law
    other = rate[:, None] * (np.maximum(change, 0) / np.maximum(change, 0).sum()) - np.diag(rate)
    steps.close("the jump generator", law @ other, change, tolerance=1e-14, why=SUMS)
    for weight in (0.25, 0.5, 0.8):
        mixed = claim(RATES, other, weight)
        steps.close(f"weight {weight}", law @ mixed, change, tolerance=1e-14, why=SUMS)
    kept = RATES + 0.7 * _keeps(law)
    steps.close("plus one that keeps the law", law @ kept, change, tolerance=1e-14, why=SUMS)


@check(
    "thm-generator-marginalization",
    claim=lambda posterior, rates: np.einsum("xk,kxy->xy", posterior, rates),
    mutants={
        "the prior in place of the posterior": lambda posterior, rates: np.einsum(
            "k,kxy->xy", np.array([0.3, 0.7]), rates
        ),
        "the posterior of the target": lambda posterior, rates: np.einsum(
            "yk,kxy->xy", posterior, rates
        ),
        "the sum": lambda posterior, rates: rates.sum(0),
    },
    covers="two conditional chains on three states, at two times",
    omits="infinite spaces and integrability",
)
def generator_marginalization(steps, claim):
    """The law of the mixture moves by the averaged generator."""
    others = np.array([[-0.5, 0.5, 0.0], [1.0, -2.0, 1.0], [0.3, 0.3, -0.6]])
    prior, rates = np.array([0.3, 0.7]), np.stack([RATES, others])
    for time in (0.2, 0.9):
        laws = np.stack([_law(time), _law(time, others)])
        joint = prior[:, None] * laws
        marginal = joint.sum(0)
        change = (prior[:, None] * np.einsum("kx,kxy->ky", laws, rates)).sum(0)
        averaged = claim((joint / marginal).T, rates)
        steps.close(f"t = {time}", marginal @ averaged, change, tolerance=1e-14, why=SUMS)


BREGMAN = claims(
    divergence=lambda phi, a, b: phi(a) - phi(b) - diff(phi(y), y).subs(y, b) * (a - b),
    constant=lambda phi, values, mean: sum(phi(v) for v in values) / len(values) - phi(mean),
)


@check(
    "thm-bregman-loss",
    claim=BREGMAN,
    mutants={
        "arguments exchanged": BREGMAN.but(
            divergence=lambda phi, a, b: phi(b) - phi(a) - diff(phi(y), y).subs(y, a) * (b - a)
        ),
        "no constant": BREGMAN.but(constant=lambda phi, values, mean: 0),
        "the slope at the wrong point": BREGMAN.but(
            divergence=lambda phi, a, b: phi(a) - phi(b) - diff(phi(y), y).subs(y, a) * (a - b)
        ),
    },
    covers="a target with three equally likely positive values, all values, phi = a^2, a log a, "
    "e^a and -log a",
    omits="more dimensions; integrability",
)
def bregman_loss(steps, claim):
    """The difference of the losses, symbolically."""
    values = symbols("y_1:4", positive=True)
    f = symbols("f", positive=True)
    mean = sum(values) / 3
    for phi in (lambda a: a**2, lambda a: a * log(a), exp, lambda a: -log(a)):
        conditional = sum(claim.divergence(phi, v, f) for v in values) / 3
        marginal = claim.divergence(phi, mean, f)
        steps.equal(f"phi = {phi(y)}", conditional - marginal, claim.constant(phi, values, mean))


def _bregman(phi, a, b):
    """The Bregman divergence of phi, from its definition."""
    slope = diff(phi(y), y).subs(y, b)
    return phi(a) - phi(b) - slope * (a - b)


@check(
    "prp-bregman-only",
    claim=lambda loss, c: lambda a: loss(a, c),
    mutants={
        "the second argument": lambda loss, c: lambda a: loss(c, a),
        "twice": lambda loss, c: lambda a: 2 * loss(a, c),
        "the square": lambda loss, c: lambda a: loss(a, c) ** 2,
    },
    covers="the function that is recovered, for four divergences of one variable, every a, b, c; "
    "that the hypothesis fails for two losses that are none",
    omits="more dimensions; differentiability",
)
def bregman_only(steps, claim):
    """Recover the convex function of a loss, and fail to for losses without the property."""
    a, b, c, p = symbols("a b c p", positive=True)
    a2 = symbols("a_2", positive=True)
    for phi in (lambda v: v**2, lambda v: v * log(v), exp, lambda v: -log(v)):

        def loss(first, second, phi=phi):
            return _bregman(phi, first, second)

        found = claim(loss, c)
        steps.equal(f"phi = {phi(y)}", _bregman(found, a, b), loss(a, b))
    mean = p * a + (1 - p) * a2
    for name, loss in (
        ("(a - b)^4", lambda u, v: (u - v) ** 4),
        ("log(u / v)^2", lambda u, v: log(u / v) ** 2),
    ):
        slope = diff(loss(a, b), b)
        gap = p * slope + (1 - p) * slope.subs(a, a2) - slope.subs(a, mean)
        value = gap.subs({a: 1, a2: 3, b: 2, p: Rational(1, 3)})
        steps.true(f"{name}: the gradients differ", sympy.Abs(sympy.N(value)) > Rational(1, 10))


GAUSSIAN_JUMP = claims(
    rate=lambda z, datum, time: (z**2 - datum * z - 1) / (1 - time),
    landing=lambda z, datum: 1 + datum * z - z**2,
    primitive=lambda z, datum: (z - datum) * exp(-(z**2) / 2),
    root=lambda datum: (datum + sqrt(datum**2 + 4)) / 2,
)


@check(
    "prp-gaussian-jump",
    claim=GAUSSIAN_JUMP,
    mutants={
        "without the product": GAUSSIAN_JUMP.but(
            rate=lambda z, datum, time: (z**2 - 1) / (1 - time),
            landing=lambda z, datum: 1 - z**2,
        ),
        "the square of the time left": GAUSSIAN_JUMP.but(
            rate=lambda z, datum, time: (z**2 - datum * z - 1) / (1 - time) ** 2
        ),
        "the primitive without the datum": GAUSSIAN_JUMP.but(
            primitive=lambda z, datum: z * exp(-(z**2) / 2)
        ),
        "the root without the 4": GAUSSIAN_JUMP.but(
            root=lambda datum: (datum + sqrt(datum**2 + 1)) / 2
        ),
    },
    covers="every datum, place and time: rate, landing density, its primitive, roots and total",
    omits="that the process exists (rates are not bounded): the statement is of generators",
)
def gaussian_jump(steps, claim):
    """Differentiate the normal density in time."""
    datum, time = symbols("x_1", real=True), symbols("tau", positive=True)
    z = (x - time * datum) / (1 - time)
    density = exp(-(z**2) / 2) / (sqrt(2 * pi) * (1 - time))
    change = simplify(diff(density, time) / density)
    steps.equal("-(d/dt p) / p is the rate", -change, claim.rate(z, datum, time))
    steps.equal("(d/dt p) (1 - t) / p", change * (1 - time), claim.landing(z, datum))
    w_ = symbols("w", real=True)
    slope = diff(claim.primitive(w_, datum), w_) * exp(w_**2 / 2)
    steps.equal("the primitive of the landing density", simplify(slope), claim.landing(w_, datum))
    root = claim.root(datum)
    steps.equal("the upper root", root**2 - datum * root - 1)
    steps.equal("the lower one is -1 / root", 1 / root**2 + datum / root - 1)
    steps.equal("G at the root", root - datum, 1 / root)


# -- geodesics -----------------------------------------------------------------------------------

SPHERE = claims(
    exp=lambda point, v, size: cos(size) * point + sin(size) / size * v,
    length=lambda inner, other: acos(inner),
)
s, size = symbols("s size", positive=True)
a1, a2 = symbols("a_1 a_2", real=True)
POINT = Matrix([cos(a1) * cos(a2), cos(a1) * sin(a2), sin(a1)])
EAST = Matrix([-sin(a2), cos(a2), 0])
NORTH = Matrix([-sin(a1) * cos(a2), -sin(a1) * sin(a2), cos(a1)])


@check(
    "prp-sphere-maps",
    claim=SPHERE,
    mutants={
        "the sine without the length": SPHERE.but(
            exp=lambda point, v, size: cos(size) * point + sin(size) * v
        ),
        "the other cosine": SPHERE.but(
            exp=lambda point, v, size: -cos(size) * point + sin(size) / size * v
        ),
        "half the angle": SPHERE.but(length=lambda inner, other: acos(inner) / 2),
        "the straight step": SPHERE.but(exp=lambda point, v, size: point + v),
    },
    covers="every point of S^2 and every direction: on the sphere, start, normal acceleration; "
    "log after exp for lengths below pi",
    omits="uniqueness; the cut locus; the torus, where the formulas are those of R^d",
)
def sphere_maps(steps, claim):
    """The geodesic equation, symbolically."""
    turn = symbols("b", real=True)
    v = size * (cos(turn) * EAST + sin(turn) * NORTH)
    curve = claim.exp(POINT, s * v, s * size)
    steps.equal("on the sphere", simplify(curve.dot(curve)), 1)
    steps.equal("starts at x", simplify(curve.limit(s, 0)), POINT)
    steps.equal("with the velocity v", simplify(diff(curve, s).limit(s, 0)), v)
    steps.equal("acceleration is normal", simplify(diff(curve, s, 2) + size**2 * curve))
    # the angle between x and exp_x(v) is |v|, at numbers below pi
    for number in (Rational(1, 7), 1, 3):
        there = claim.exp(POINT, v, size).subs(size, number)
        inner = simplify(POINT.dot(there))
        steps.close(
            f"|log| at {number}", claim.length(inner, None), number, tolerance=1e-15, why="exact"
        )


VELOCITY = claims(ahead=lambda left, time: left / (1 - time), behind=lambda done, time: done / time)


@check(
    "prp-geodesic-velocity",
    claim=VELOCITY,
    mutants={
        "without the time that is left": VELOCITY.but(ahead=lambda left, time: left),
        "divided by t": VELOCITY.but(ahead=lambda left, time: left / time),
        "from the source by 1 - t": VELOCITY.but(behind=lambda done, time: done / (1 - time)),
    },
    covers="a great circle of S^2 of any length below pi: the angles to both ends and the speed",
    omits="the torus, where it is the same on a line",
)
def geodesic_velocity(steps, claim):
    """Distances along a great circle."""
    start, side = Matrix([1, 0, 0]), Matrix([0, 1, 0])

    def at(time):
        return cos(time * size) * start + sin(time * size) * side

    # d(x_t, x_1) = (1 - t) size: both inner products are cosines of those angles
    steps.equal("the angle left", simplify(at(t).dot(at(1))), cos((1 - t) * size))
    steps.equal("the angle done", simplify(at(t).dot(at(0))), cos(t * size))
    speed = simplify(diff(at(t), t).dot(diff(at(t), t)))
    steps.equal("speed from the data", speed, claim.ahead((1 - t) * size, t) ** 2)
    steps.equal("speed from the source", speed, claim.behind(t * size, t) ** 2)


@check(
    "prp-riemannian-fm",
    claim=lambda path, points, time: path.velocity(points, time),
    mutants={
        "the other way": lambda path, points, time: -path.velocity(points, time),
        "half the speed": lambda path, points, time: 0.5 * path.velocity(points, time),
        "a later velocity": lambda path, points, time: path.velocity(points, time + 0.2),
    },
    covers="the continuity equation for the circle with the uniform source and a mixture of two "
    "wrapped normal laws, weakly, against four test functions at two times",
    omits="the sphere, where the chapter's tests compare trained densities; uniqueness",
)
def riemannian_fm(steps, claim):
    """d/dt E f(X_t) = E f'(X_t) u_t(X_t), by the trapezoidal rule on the circle."""
    law = WrappedMixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        torch.tensor([[2.5], [-1.0]], dtype=torch.float64),
        torch.tensor([[0.7], [0.9]], dtype=torch.float64),
    )
    path = TorusPath(law)
    grid = torch.linspace(-math.pi, math.pi, 513, dtype=torch.float64)[:-1, None]
    cell = 2 * math.pi / 512
    for time in (0.2, 0.5):
        density = path.log_prob(grid, time).exp()
        velocity = claim(path, grid, time)[:, 0]
        for n in (1, 2, 3, 4):
            # E cos(n X_t) = E cos(n X_1) sinc(n (1 - t)), its time derivative in closed form
            mean = (law.log_prob(grid).exp() * torch.cos(n * grid[:, 0])).sum().item() * cell
            left = n * (1 - time) * math.pi
            slope = n * math.pi * (math.sin(left) - left * math.cos(left)) / left**2
            found = (density * -n * torch.sin(n * grid[:, 0]) * velocity).sum().item() * cell
            steps.close(
                f"t = {time}, f = cos {n}x",
                found,
                mean * slope,
                tolerance=1e-12,
                why="the trapezoidal rule is exact to rounding for smooth periodic functions",
            )


@check(
    "prp-torus-path",
    claim=lambda time: 1 - time,
    mutants={
        "the width t": lambda time: time,
        "no width": lambda time: 0.3,
        "the square": lambda time: (1 - time) ** 2,
    },
    covers="Fourier coefficients of X_t = X_1 + (1 - t) U on the circle from those of the geodesic "
    "path with a uniform source, for one datum",
    omits="that the geodesic is the shortest one (its proposition)",
)
def torus_path(steps, claim):
    """Geodesics from a fine grid of sources to one datum."""
    manifold = FlatTorus(1)
    n = 20001
    source = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 * math.pi - math.pi
    data = torch.full((n, 1), 0.7, dtype=torch.float64)
    for time in (0.25, 0.6):
        place = manifold.geodesic(manifold.project(source[:, None] + 0.7), data, time)[:, 0]
        width = claim(time) * math.pi
        spread = manifold.project(place - 0.7)
        steps.close(
            f"t = {time}: E|X_t - X_1|^2 = width^2 / 3",
            spread.square().mean().item(),
            width**2 / 3 * (1 - 1 / n**2),
            tolerance=1e-12,
            why="equally spaced sources: the discrete second moment is exact",
        )
        steps.close(
            f"t = {time}: E|X_t - X_1|^4 = width^4 / 5",
            spread.pow(4).mean().item(),
            width**4 * (1 / 5 - 2 / (3 * n**2) + 7 / (15 * n**4)),
            tolerance=1e-12,
            why="equally spaced sources: the discrete fourth moment is exact",
        )


CUT = claims(
    mean=lambda weights, places: (weights * places).sum() / weights.sum(),
    inside=lambda others, mine, outer, edge: (others * outer + mine * edge) / (others + mine),
)
ANGLES, SHARES = np.array([-2.4, -0.4, 1.5]), np.array([0.2, 0.5, 0.3])


def _reached(start: float, claim) -> int:
    """Follow a broken line in the unrolled angle and drop data as they leave the window."""
    side = start + (ANGLES - start + math.pi) % (2 * math.pi) - math.pi
    alive = [0, 1, 2]
    place, left = start, 1.0  # left = 1 - t
    while len(alive) > 1:
        mean = claim.mean(SHARES[alive], side[alive])
        slope = (place - mean) / left
        # |mean + slope l - side_i| = pi l, the larger of both solutions
        events = {
            i: max((side[i] - mean) / (slope - math.pi), (side[i] - mean) / (slope + math.pi))
            for i in alive
        }
        lost = max(events, key=events.get)
        left = events[lost]
        place = mean + slope * left
        alive.remove(lost)
    return alive[0]


@check(
    "prp-cut-locus",
    claim=CUT,
    mutants={
        "the mean without weights": CUT.but(mean=lambda weights, places: places.mean()),
        "squared weights": CUT.but(
            mean=lambda weights, places: (weights**2 * places).sum() / (weights**2).sum()
        ),
        "the edge does not move": CUT.but(
            inside=lambda others, mine, outer, edge: others * outer / (others + mine)
        ),
    },
    covers="three data: the share of starts that reach each, by bisection; what flows through a "
    "moving edge, symbolically",
    omits="that trajectories do not meet (the text's argument about relative speeds)",
)
def cut_locus(steps, claim):
    """Flux through an edge, and the lengths of the intervals of starts."""
    others, mine = symbols("W w", positive=True)
    outer, edge = symbols("u e", real=True)
    # densities inside and outside are in proportion to W + w and W
    flux_in = (others + mine) * (claim.inside(others, mine, outer, edge) - edge)
    steps.equal("what arrives at the edge leaves it", simplify(flux_in), others * (outer - edge))
    grid = np.linspace(-math.pi, math.pi, 65)[:-1] + 0.013
    found = [_reached(v, claim) for v in grid]
    cuts = []
    for k, start in enumerate(grid):
        low, high = start, start + 2 * math.pi / 64
        if found[k] == found[(k + 1) % 64]:
            continue
        for _ in range(60):
            middle = (low + high) / 2
            at = _reached((middle + math.pi) % (2 * math.pi) - math.pi, claim)
            low, high = (middle, high) if at == found[k] else (low, middle)
        cuts.append((low, found[k]))
    lengths = np.zeros(3)
    for (place, index), (before, _) in zip(cuts, [cuts[-1], *cuts[:-1]], strict=True):
        lengths[index] += (place - before) % (2 * math.pi)
    steps.close(
        "shares of the starts", lengths / (2 * math.pi), SHARES, tolerance=1e-13, why="bisection"
    )


WRAPPED = claims(decay=lambda n, std: exp(-(n**2) * std**2 / 2), factor=2)


@check(
    "prp-wrapped-normal",
    claim=WRAPPED,
    mutants={
        "no factor 2": WRAPPED.but(factor=1),
        "n in place of n^2": WRAPPED.but(decay=lambda n, std: exp(-n * std**2 / 2)),
        "without the half": WRAPPED.but(decay=lambda n, std: exp(-(n**2) * std**2)),
    },
    covers="both series at three standard deviations and three angles, to thirty digits; the "
    "Fourier coefficients for every n",
    omits="nothing",
)
def wrapped_normal(steps, claim):
    """Both sums, and the characteristic function."""
    n = symbols("n", positive=True)
    std = symbols("s", positive=True)
    bell = exp(-(x**2) / (2 * std**2)) / (sqrt(2 * pi) * std)
    mean = integral(bell * cos(n * x), (x, -oo, oo), conds="none")
    steps.equal("E cos nX of the normal law", mean, claim.decay(n, std))
    for width in (Rational(1, 2), sympy.Integer(1), sympy.Integer(2)):
        for angle in (0, 1, 3):
            winding = sum(bell.subs({std: width, x: angle + 2 * pi * k}) for k in range(-9, 10))
            waves = sum(claim.decay(k, width) * cos(k * angle) for k in range(1, 25))
            steps.close(
                f"s = {width}, angle {angle}",
                sympy.N(winding, 35),
                sympy.N((1 + claim.factor * waves) / (2 * pi), 35),
                tolerance=1e-30,
                why="terms left out are below e^(-70)",
            )


@check(
    "prp-sphere-path",
    claim=lambda angle, time: sin(angle / (1 - time)) / (4 * pi * (1 - time) * sin(angle)),
    mutants={
        "without the time that is left": lambda angle, time: (
            sin(angle / (1 - time)) / (4 * pi * sin(angle))
        ),
        "the uniform law": lambda angle, time: 1 / (4 * pi),
        "the angle not stretched": lambda angle, time: 1 / (4 * pi * (1 - time)),
    },
    covers="every t and every ring: the share of X_t within an angle is that of X_0 within the "
    "stretched angle",
    omits="nothing",
)
def sphere_path(steps, claim):
    """Differentiate the share of a cap."""
    angle, time = symbols("theta tau", positive=True)
    # X_0 is within theta / (1 - t) of the pole with this probability (Archimedes)
    cap = (1 - cos(angle / (1 - time))) / 2
    ring = 2 * pi * sin(angle) * claim(angle, time)
    steps.equal("density of the angle", diff(cap, angle), ring)


VMF = claims(
    constant=lambda k: k / (4 * pi * sinh(k)),
    draw=lambda k, v: 1 + log(v + (1 - v) * exp(-2 * k)) / k,
)


@check(
    "prp-vmf",
    claim=VMF,
    mutants={
        "cosh": VMF.but(constant=lambda k: k / (4 * pi * cosh(k))),
        "2 pi": VMF.but(constant=lambda k: k / (2 * pi * sinh(k))),
        "one kappa in the exponent": VMF.but(draw=lambda k, v: 1 + log(v + (1 - v) * exp(-k)) / k),
    },
    covers="every kappa: normalization, and the distribution function at the drawn height",
    omits="nothing",
)
def von_mises_fisher(steps, claim):
    """Integrals over the height."""
    v = symbols("v", positive=True)
    total = 2 * pi * claim.constant(kappa) * integral(exp(kappa * w), (w, -1, 1))
    steps.equal("integral is 1", total.rewrite(exp), 1)
    height = claim.draw(kappa, v)
    share = (exp(kappa * height) - exp(-kappa)) / (exp(kappa) - exp(-kappa))
    steps.equal("distribution function", simplify(sympy.expand(share)), v)


def _sphere_field(point):
    """A polynomial tangent field on S^2."""
    x1, x2, x3 = point
    raw = Matrix([x2 * x3, x1**2, x1 - x2])
    return raw - point.dot(raw) * point


def _extended_divergence(point):
    x1, x2, x3 = point
    names = symbols("z_1:4", real=True)
    z = Matrix(names)
    unit = z / sqrt(z.dot(z))
    raw = Matrix([unit[1] * unit[2], unit[0] ** 2, unit[0] - unit[1]])
    field = raw - unit.dot(raw) * unit
    total = sum(diff(field[i], names[i]) for i in range(3))
    return total.subs(dict(zip(names, (x1, x2, x3), strict=True)))


@check(
    "prp-sphere-divergence",
    claim=_extended_divergence,
    mutants={
        "minus": lambda point: -_extended_divergence(point),
        "of the field not extended by a constant": lambda point: (
            _extended_divergence(point) + 2 * point[0]
        ),
        "half": lambda point: _extended_divergence(point) / 2,
    },
    covers="a field on S^2 that is no gradient, at every point, against latitude and longitude",
    omits="other dimensions",
)
def sphere_divergence(steps, claim):
    """(1 / cos a_1) (d(cos a_1 u^1)/d a_1 + d u^2/d a_2), in latitude and longitude."""
    field = _sphere_field(POINT)
    north, east = field.dot(NORTH), field.dot(EAST)
    intrinsic = (diff(cos(a1) * north, a1) + diff(east, a2)) / cos(a1)
    found = claim(tuple(POINT))
    for place in ((Rational(1, 3), Rational(1, 2)), (-1, 2), (Rational(5, 4), -3)):
        values = dict(zip((a1, a2), place, strict=True))
        steps.close(
            f"latitude {place[0]}, longitude {place[1]}",
            sympy.N(found.subs(values), 40),
            sympy.N(intrinsic.subs(values), 40),
            tolerance=1e-30,
            why="exact expressions, evaluated to forty digits",
        )


@check(
    "prp-manifold-density",
    claim=lambda density, divergence: -density * divergence,
    mutants={
        "plus": lambda density, divergence: density * divergence,
        "twice": lambda density, divergence: -2 * density * divergence,
        "nothing": lambda density, divergence: 0 * density,
    },
    covers="the flow towards the north pole from the uniform law on S^2, whose density is known",
    omits="other fields; the torus",
)
def manifold_density(steps, claim):
    """d/dt of the density along the flow of the field north = cos(latitude)."""
    z0, time = symbols("z_0 tau", positive=True)
    # the height z = sin(latitude) moves by z' = 1 - z^2, so z = tanh(artanh z_0 + t)
    artanh = log((1 + z0) / (1 - z0)) / 2
    height = sympy.tanh(artanh + time)
    # the height is uniform at first and area is height times longitude (Archimedes)
    density = 1 / (4 * pi) / diff(height, z0)
    divergence = -2 * height  # (1 / cos a) d(cos^2 a)/da = -2 sin a
    left = diff(density, time)
    right = claim(density, divergence)
    steps.equal("d/dt p(Z_t)", simplify((left - right).rewrite(exp)))


@check(
    "prp-projected-solver",
    claim=claims(factor=2, order=1),
    mutants={
        "half the error": claims(factor=Rational(1, 2), order=1),
        "the geodesic step is of order 2": claims(factor=2, order=2),
    },
    covers="the bound for every point near the circle; the local error of the geodesic step for a "
    "field on the circle of which the exact solution is known",
    omits="more dimensions (the bound is the triangle inequality)",
)
def projected_solver(steps, claim):
    """Distances before and after projecting; expansion of the geodesic step."""
    z = np.array([1.0, 0.0])
    spread = np.stack(np.meshgrid(np.linspace(-0.9, 0.9, 41), np.linspace(-0.9, 0.9, 41)), -1)
    points = (z + spread).reshape(-1, 2)
    points = points[np.linalg.norm(points, axis=1) > 0.05]
    projected = points / np.linalg.norm(points, axis=1, keepdims=True)
    before = np.linalg.norm(points - z, axis=1)
    after = np.linalg.norm(projected - z, axis=1)
    steps.at_most("|pi(y) - z| - c |y - z|", after - float(claim.factor) * before, 0.0)
    # angle' = -sin(angle): the exact angle after h, and the geodesic step's
    angle = Rational(1, 2)
    exact = 2 * sympy.atan(sympy.tan(angle / 2) * exp(-h))
    local = sympy.series(exact - (angle - h * sin(angle)), h, 0, claim.order + 1).removeO()
    steps.equal("local error starts at h^(p+1)", sympy.simplify(local))
