"""Checks of the chapter on couplings."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import sympy
import torch
from scipy import integrate, optimize
from scipy.stats import norm
from sympy import Function, Matrix, Rational, cos, diff, exp, log, sin, sqrt, symbols

from fromnoise.bridges import GaussianBridge, fitting_step
from fromnoise.derivations.checking import check, claims

QUADRATURE = "adaptive or trapezoidal quadrature of smooth functions in double precision"
SUMS = "finite sums of positive numbers in double precision"
RK4 = "RK4 with 64 steps on a smooth linear equation"

t, a, b, g = symbols("t a b g", positive=True)  # a = Var X_0, b = Var X_1
c, x, m = symbols("c x m", real=True)  # c = Cov(X_0, X_1)

VARIANCE = (1 - t) ** 2 * a + t**2 * b + 2 * t * (1 - t) * c  # of the linear path
U_WITH_X = (1 - t) * (c - a) + t * (b - c)  # Cov(X_1 - X_0, X_t)


def _normal(place, mean, variance):
    return exp(-((place - mean) ** 2) / (2 * variance)) / sqrt(2 * sympy.pi * variance)


# -- any coupling --------------------------------------------------------------------------------

FLOW = claims(velocity=lambda mean, with_x, variance, offset: mean + with_x / variance * offset)


@check(
    "thm-coupling-flow",
    claim=FLOW,
    mutants={
        "the mean alone": FLOW.but(velocity=lambda mean, with_x, variance, offset: mean),
        "twice the regression": FLOW.but(
            velocity=lambda mean, with_x, variance, offset: mean + 2 * with_x / variance * offset
        ),
        "the other sign": FLOW.but(
            velocity=lambda mean, with_x, variance, offset: mean - with_x / variance * offset
        ),
    },
    covers="every jointly normal pair on the line, whatever its correlation; mixtures of such "
    "pairs, as the flux is linear in the pair",
    omits="couplings without a density; part 2, which is the theorem on the continuity equation; "
    "part 3, which is the projection theorem",
)
def coupling_flow(steps, claim):
    """The continuity equation of a coupled pair."""
    m0, m1 = symbols("m_0 m_1", real=True)
    mean = (1 - t) * m0 + t * m1
    density = _normal(x, mean, VARIANCE)
    flux = density * claim.velocity(m1 - m0, U_WITH_X, VARIANCE, x - mean)
    steps.equal("∂p/∂t + ∂(p u)/∂x = 0", (diff(density, t) + diff(flux, x)) / density)


@check(
    "prp-coupled-score",
    claim=lambda: 1 + t * c / (1 - t),
    mutants={
        "no factor": lambda: sympy.Integer(1),
        "the other sign": lambda: 1 - t * c / (1 - t),
        "the times exchanged": lambda: 1 + (1 - t) * c / t,
    },
    covers="every jointly normal pair with a standard normal source",
    omits="nothing",
)
def coupled_score(steps, claim):
    """Differentiate the density; regress by the inverse of the covariance."""
    variance = VARIANCE.subs(a, 1)
    score = diff(log(_normal(x, 0, variance)), x)
    joint = Matrix([[1, c], [c, b]])
    mix = Matrix([[1 - t, t]])
    regression = (joint * mix.T)[0] / (mix * joint * mix.T)[0] * x
    steps.equal("-E[X_0 | X_t] / (1 - t)", -regression / (1 - t), claim() * score)


ENERGY = claims(constant=lambda cost, energy: cost - energy, bound=lambda cost, w2: cost - w2)


@check(
    "prp-coupling-energy",
    claim=ENERGY,
    mutants={
        "half the energy": ENERGY.but(constant=lambda cost, energy: cost - energy / 2),
        "the sum": ENERGY.but(constant=lambda cost, energy: cost + energy),
        "twice the distance": ENERGY.but(bound=lambda cost, w2: cost - 2 * w2),
    },
    covers="jointly normal pairs: the identity at every time and correlation, the bound at nine "
    "pairs",
    omits="other laws, for which it is the projection theorem",
)
def coupling_energy(steps, claim):
    """The conditional variance from the inverse of the joint covariance."""
    cost = a + b - 2 * c
    joint = Matrix([[cost, U_WITH_X], [U_WITH_X, VARIANCE]])
    conditional = 1 / joint.inv()[0, 0]
    energy = U_WITH_X**2 / VARIANCE
    steps.equal("Var(U | X_t)", conditional, claim.constant(cost, energy))
    constants, bounds = [], []
    integrand = sympy.lambdify((t, a, b, c), conditional)
    for va, vb, rho in itertools.product((0.5, 1.0, 4.0), (1.0,), (-0.5, 0.0, 0.9)):
        cov = rho * math.sqrt(va * vb)
        constants.append(integrate.quad(lambda s: integrand(s, va, vb, cov), 0, 1)[0])  # noqa: B023
        w2 = (math.sqrt(va) - math.sqrt(vb)) ** 2
        bounds.append(claim.bound(va + vb - 2 * cov, w2))
    steps.at_most("C <= cost - W2²", constants, bounds, tolerance=1e-12, why=QUADRATURE)


# -- batches -------------------------------------------------------------------------------------


def _batches(n, choose):
    """Exactly: the law of the source as training sees it, and the mean cost, for batches of n."""
    source = {Fraction(0): Fraction(1, 3), Fraction(1): Fraction(2, 3)}
    data = {Fraction(1, 5): Fraction(1, 2), Fraction(2): Fraction(1, 2)}
    seen, cost = dict.fromkeys(source, Fraction(0)), Fraction(0)
    for xs in itertools.product(source, repeat=n):
        for ys in itertools.product(data, repeat=n):
            weight = math.prod(source[v] for v in xs) * math.prod(data[v] for v in ys)
            pairing = choose(xs, ys)
            for i, j in enumerate(pairing):
                seen[xs[j]] += weight / n
                cost += weight / n * (xs[j] - ys[i]) ** 2
    return seen, cost


def _optimal(xs, ys):
    def cost(order):
        return sum((xs[j] - y) ** 2 for j, y in zip(order, ys, strict=True))

    return min(itertools.permutations(range(len(xs))), key=cost)


def _nearest(xs, ys):
    return [min(range(len(xs)), key=lambda j: abs(xs[j] - y)) for y in ys]


BATCH = claims(
    pairing=_optimal,
    falls=lambda costs: all(u >= v for u, v in itertools.pairwise(costs)),
    first=lambda mean0, mean1, square0, square1: square0 + square1 - 2 * mean0 * mean1,
)


@check(
    "prp-minibatch-ot",
    claim=BATCH,
    mutants={
        "the nearest source point": BATCH.but(pairing=_nearest),
        "the batch in its order": BATCH.but(pairing=lambda xs, ys: list(range(len(xs)))),
        "the cost grows": BATCH.but(
            falls=lambda costs: all(u <= v for u, v in itertools.pairwise(costs))
        ),
        "the means left out": BATCH.but(first=lambda m0, m1, s0, s1: s0 + s1),
    },
    covers="two laws on two points each, all batches of 1 to 4, in exact arithmetic",
    omits="the limit of large batches, which is the convergence of empirical laws; part 3, which "
    "is the bound on the constant",
)
def minibatch_ot(steps, claim):
    """Enumerate all batches."""
    found = [_batches(n, claim.pairing) for n in (1, 2, 3, 4)]
    for n, (seen, _) in enumerate(found, 1):
        steps.true(
            f"batches of {n}: the source keeps its law",
            list(seen.values()) == [Fraction(1, 3), Fraction(2, 3)],
        )
    costs = [cost for _, cost in found]
    mean0, mean1 = Fraction(2, 3), Fraction(11, 10)
    square1 = (Fraction(1, 25) + 4) / 2
    steps.true(
        "one pair: the independent cost",
        costs[0] == claim.first(mean0, mean1, Fraction(2, 3), square1),
    )
    # W2² by the monotone coupling: 1/3 from 0 to 1/5, 1/6 from 1 to 1/5, 1/2 from 1 to 2
    w2 = Fraction(1, 3) / 25 + Fraction(1, 6) * Fraction(16, 25) + Fraction(1, 2)
    steps.true("the cost falls with the batch", claim.falls(costs))
    steps.true("and more than once", costs[0] > costs[1] > costs[3])
    steps.true("it stays above W2²", costs[-1] >= w2)


GAIN = claims(
    cost=lambda dim, square: dim + square,
    gain=lambda inner: 2 * inner,
    maximum=lambda n: math.sqrt(2 * math.log(n)),
)


@check(
    "prp-minibatch-gain",
    claim=GAIN,
    mutants={
        "the cost without the data": GAIN.but(cost=lambda dim, square: dim),
        "the inner product once": GAIN.but(gain=lambda inner: inner),
        "without the 2 in the root": GAIN.but(maximum=lambda n: math.sqrt(math.log(n))),
        "the logarithm without the root": GAIN.but(maximum=lambda n: math.log(n) / 4),
    },
    covers="the largest of up to a million normal numbers; on the line, the gain of batches of two "
    "with two data",
    omits="the gain of larger batches and in more dimensions, where the proof bounds it by the "
    "maximum",
)
def minibatch_gain(steps, claim):
    """The expected maximum by quadrature; a batch of two in closed form."""
    sizes = (2, 10, 1000, 10**6)
    expected = [
        integrate.quad(lambda y, n=n: y * n * norm.pdf(y) * norm.cdf(y) ** (n - 1), -9, 9)[0]
        for n in sizes
    ]
    steps.at_most("E max of n normals", expected, [claim.maximum(n) for n in sizes], why=QUADRATURE)
    # n = 2, data m ± s on the line: both pairings of every batch, on a grid of source points
    s, mid = 1.3, 0.4
    axis = np.linspace(-8.0, 8.0, 641)
    weight = norm.pdf(axis) / norm.pdf(axis).sum()
    first, second, joint = axis[:, None], axis[None], weight[:, None] * weight[None]
    free = paired = inner = 0.0
    for y, z in itertools.product((mid - s, mid + s), repeat=2):
        straight = (first - y) ** 2 + (second - z) ** 2
        crossed = (second - y) ** 2 + (first - z) ** 2
        stay = straight <= crossed
        free += 0.25 * float((joint * straight).sum()) / 2
        paired += 0.25 * float((joint * np.where(stay, straight, crossed)).sum()) / 2
        product = np.where(
            stay,
            first * (y - mid) + second * (z - mid),
            second * (y - mid) + first * (z - mid),
        )
        inner += 0.25 * float((joint * product).sum()) / 2
    steps.close(
        "cost of independent pairs",
        free,
        claim.cost(1, mid**2 + s**2),
        tolerance=1e-9,
        why=QUADRATURE,
    )
    steps.close(
        "gain of a batch of two", free - paired, claim.gain(inner), tolerance=1e-9, why=SUMS
    )
    bound = claim.gain(claim.maximum(2) * s)  # E|X_1 - m| = s
    steps.at_most("and its bound", free - paired, bound, why=QUADRATURE)


# -- rectified flow ------------------------------------------------------------------------------


def _monotone():
    """Quantiles of N(0, 1) and of a mixture, and a grid of probabilities: the flow on the line."""
    grid = np.linspace(-6.0, 6.0, 4001)
    weight = norm.pdf(grid)
    weight = weight / weight.sum()
    y = np.linspace(-6.0, 8.0, 40001)
    cdf = 0.3 * norm.cdf(y, -2.0, 0.4) + 0.7 * norm.cdf(y, 2.5, 0.7)
    return grid, weight, np.interp(norm.cdf(grid), cdf, y)


CONVEX = claims(
    costs={
        "|x|": np.abs,
        "x²": np.square,
        "x⁴": lambda v: v**4,
        "the positive part": lambda v: np.maximum(v - 1.0, 0.0),
        "exp": np.exp,
    },
    relation=lambda new, old: (new, old),
)


@check(
    "thm-convex-cost",
    claim=CONVEX,
    mutants={
        "concave costs too": CONVEX.but(costs={"-x²": lambda v: -(v**2)}),
        "the negative of a convex cost": CONVEX.but(costs={"-|x|": lambda v: -np.abs(v)}),
        "half the cost": CONVEX.but(relation=lambda new, old: (new, old / 2)),
    },
    covers="normal noise and a mixture of two normals on the line, paired independently, for five "
    "convex costs; the flow on the line is the monotone map",
    omits="more dimensions, where the proof is the same",
)
def convex_cost(steps, claim):
    """Costs of the monotone pairs and of the independent ones."""
    grid, weight, mapped = _monotone()
    y = np.linspace(-5.0, 7.0, 1201)
    law = 0.3 * norm.pdf(y, -2.0, 0.4) + 0.7 * norm.pdf(y, 2.5, 0.7)
    law = law / law.sum()
    coarse = slice(None, None, 8)
    w = weight[coarse] / weight[coarse].sum()
    for name, cost in claim.costs.items():
        new = float((weight * cost(mapped - grid)).sum())
        old = float(w @ cost(y[None] - grid[coarse, None]) @ law)
        left, right = claim.relation(new, old)
        steps.at_most(f"{name}: rectified and before", left, right, tolerance=1e-3, why=QUADRATURE)


def _gaussian_flow(va, vb, cov):
    """Cost, new cost, straightness and constant of a normal pair on the line, by quadrature."""

    def variance(s):
        return (1 - s) ** 2 * va + s**2 * vb + 2 * s * (1 - s) * cov

    def slope(s):  # of sqrt(V_t / V_0)
        return (-2 * (1 - s) * va + 2 * s * vb + 2 * (1 - 2 * s) * cov) / (
            2 * math.sqrt(variance(s) * va)
        )

    end = math.sqrt(vb / va) - 1
    bend = integrate.quad(lambda s: va * (slope(s) - end) ** 2, 0, 1)[0]
    cost = va + vb - 2 * cov
    energy = integrate.quad(lambda s: va * slope(s) ** 2, 0, 1)[0]
    noise = integrate.quad(lambda s: (va * vb - cov**2) / variance(s), 0, 1)[0]
    return cost, va * end**2, bend, noise, energy


@check(
    "prp-cost-decomposition",
    claim=lambda new, bend, constant: new + bend + constant,
    mutants={
        "without the straightness": lambda new, bend, constant: new + constant,
        "without the constant": lambda new, bend, constant: new + bend,
        "half the straightness": lambda new, bend, constant: new + bend / 2 + constant,
    },
    covers="six normal pairs on the line; the constant from the determinant of the joint "
    "covariance",
    omits="other laws",
)
def cost_decomposition(steps, claim):
    """All four terms by quadrature, each from its own formula."""
    for va, vb, cov in ((1, 1, 0), (1, 4, 0), (1, 4, 1.5), (2, 0.5, -0.7), (1, 1, -0.9), (3, 1, 1)):
        cost, new, bend, constant, _ = _gaussian_flow(va, vb, cov)
        steps.close(
            f"variances {va}, {vb}, covariance {cov}",
            claim(new, bend, constant),
            cost,
            tolerance=1e-9,
            why=QUADRATURE,
        )


STRAIGHTEN = claims(
    term=lambda bend, constant: bend + constant,
    total=lambda first, last: first - last,
    least=lambda first, w2, rounds: (first - w2) / rounds,
)
_D = torch.float64
_A = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=_D)
_B = torch.tensor([[2.0, -1.2], [-1.2, 1.0]], dtype=_D)


def _root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def _linear_flow(bridge, nodes=400):
    """Straightness, constant and map of the rectified flow of a normal pair in the plane."""
    times = torch.linspace(0, 1, nodes + 1, dtype=_D)
    phi, path, h = torch.eye(2, dtype=_D), [torch.eye(2, dtype=_D)], 1.0 / nodes
    for s in times[:-1]:
        k1 = bridge.slope(s) @ phi
        k2 = bridge.slope(s + h / 2) @ (phi + h / 2 * k1)
        k3 = bridge.slope(s + h / 2) @ (phi + h / 2 * k2)
        k4 = bridge.slope(s + h) @ (phi + h * k3)
        phi = phi + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(phi)
    bends, noises = [], []
    u_cov = bridge.cov0 + bridge.cov1 - bridge.cross - bridge.cross.mT
    for s, p in zip(times, path, strict=True):
        error = bridge.slope(s) @ p - (phi - torch.eye(2, dtype=_D))
        bends.append(torch.trace(error @ bridge.cov0 @ error.mT))
        gain = bridge.slope(s)
        noises.append(torch.trace(u_cov - gain @ bridge.cov(s) @ gain.mT))
    simpson = torch.ones(nodes + 1, dtype=_D)
    simpson[1:-1:2], simpson[2:-1:2] = 4.0, 2.0
    simpson /= 3 * nodes
    return float(simpson @ torch.stack(bends)), float(simpson @ torch.stack(noises)), phi


@check(
    "thm-straightening",
    claim=STRAIGHTEN,
    mutants={
        "without the constants": STRAIGHTEN.but(term=lambda bend, constant: bend),
        "without the straightness": STRAIGHTEN.but(term=lambda bend, constant: constant),
        "twice": STRAIGHTEN.but(total=lambda first, last: 2 * (first - last)),
        "half the bound": STRAIGHTEN.but(
            least=lambda first, w2, rounds: (first - w2) / (2 * rounds)
        ),
    },
    covers="three rounds of reflow of two normal laws in the plane with turned axes",
    omits="other laws (normal pairs are at rest after one round); the limit",
)
def straightening(steps, claim):
    """Reflow with exact linear fields; Simpson's rule."""
    zero = torch.zeros(2, dtype=_D)
    bridge = GaussianBridge(zero, _A, zero, _B, torch.zeros(2, 2, dtype=_D), 0.0)

    def cost(pair):
        return float(torch.trace(pair.cov0 + pair.cov1 - 2 * pair.cross))

    root = _root(_A.numpy())
    w2 = float(torch.trace(_A + _B)) - 2 * np.trace(_root(root @ _B.numpy() @ root))
    first, terms = cost(bridge), []
    for rounds in (1, 2, 3):
        bend, constant, phi = _linear_flow(bridge)
        terms.append(claim.term(bend, constant))
        bridge = GaussianBridge(zero, _A, zero, _B, _A @ phi.mT, 0.0)
        steps.close(
            "the sum of S + C, and the fall of the cost",
            sum(terms),
            claim.total(first, cost(bridge)),
            tolerance=1e-6,
            why="Simpson's rule and RK4 with 400 steps",
        )
        steps.at_most(
            f"the least of {rounds}", min(terms), claim.least(first, w2, rounds), why=QUADRATURE
        )


STRAIGHT = claims(
    step=lambda start, velocity: start + velocity,
    constant=lambda va, vb, cov: va * vb - cov**2,
)


@check(
    "prp-straight",
    claim=STRAIGHT,
    mutants={
        "half a step": STRAIGHT.but(step=lambda start, velocity: start + velocity / 2),
        "backwards": STRAIGHT.but(step=lambda start, velocity: start - velocity),
        "no fixed point at the monotone pair": STRAIGHT.but(
            constant=lambda va, vb, cov: va * vb - cov**2 + va
        ),
    },
    covers="every invertible linear map of the plane with invertible mixtures; all normal pairs "
    "on the line",
    omits="other laws",
)
def straight(steps, claim):
    """The velocity along lines; the pairs whose constant vanishes."""
    entries = symbols("p q r s", real=True)
    maps = Matrix(2, 2, entries)
    start = Matrix(symbols("y_1 y_2", real=True))
    eye = sympy.eye(2)

    def velocity(point, time):
        return (maps - eye) * ((1 - time) * eye + time * maps).inv() * point

    line = (1 - t) * start + t * maps * start
    steps.equal("u is constant along a line", velocity(line, t), velocity(start, 0))
    steps.equal("one Euler step is the map", claim.step(start, velocity(start, 0)), maps * start)
    monotone = sqrt(a) * sqrt(b)
    steps.equal("the monotone pair has C = 0", claim.constant(a, b, monotone), 0)
    after = sqrt(b / a) * a  # the flow on the line is sqrt(b / a) x
    steps.equal("and is what any pair becomes", after, monotone)


ROTATION = claims(
    cost=lambda th: 4 * (1 - cos(th)),
    modulus=lambda th: 1 - 2 * t * (1 - t) * (1 - cos(th)),
)


@check(
    "prp-rotation",
    claim=ROTATION,
    mutants={
        "half the cost": ROTATION.but(cost=lambda th: 2 * (1 - cos(th))),
        "the sine": ROTATION.but(cost=lambda th: 4 * sin(th)),
        "the modulus without the 2": ROTATION.but(
            modulus=lambda th: 1 - t * (1 - t) * (1 - cos(th))
        ),
    },
    covers="every angle",
    omits="nothing",
)
def rotation(steps, claim):
    """Traces and determinants."""
    th = symbols("theta", real=True)
    turn = Matrix([[cos(th), -sin(th)], [sin(th), cos(th)]])
    eye = sympy.eye(2)
    steps.equal("E|X_1 - X_0|²", ((turn - eye).T * (turn - eye)).trace(), claim.cost(th))
    steps.equal("the determinant of A_t", ((1 - t) * eye + t * turn).det(), claim.modulus(th))
    steps.equal("the law is kept", turn * turn.T, eye)
    field = (turn - eye) * ((1 - t) * eye + t * turn).inv()
    steps.equal("u along the line is X_1 - X_0", field * ((1 - t) * eye + t * turn), turn - eye)


# -- interpolants --------------------------------------------------------------------------------

al, be, ga = (Function(n, positive=True)(t) for n in ("alpha", "beta", "gamma"))
SPREAD = al**2 * b + be**2 * a + 2 * al * be * c + ga**2

FIELDS = claims(
    score=lambda latent, gamma: -latent / gamma,
    velocity=lambda with_x, spread: with_x / spread,
)


@check(
    "prp-interpolant-fields",
    claim=FIELDS,
    mutants={
        "the other sign": FIELDS.but(score=lambda latent, gamma: latent / gamma),
        "over gamma squared": FIELDS.but(score=lambda latent, gamma: -latent / gamma**2),
        "half the velocity": FIELDS.but(velocity=lambda with_x, spread: with_x / spread / 2),
    },
    covers="normal pairs with every alpha, beta and gamma; the score for two-point mixtures",
    omits="general couplings, where it is differentiation under the integral",
)
def interpolant_fields(steps, claim):
    """Symbolic schedules."""
    with_x = diff(SPREAD, t) / 2  # E[I' I] = (d/dt) E[I²] / 2, checked term by term below
    direct = (
        al * diff(al, t) * b
        + be * diff(be, t) * a
        + (al * diff(be, t) + be * diff(al, t)) * c
        + ga * diff(ga, t)
    )
    steps.equal("Cov(I', I)", direct, with_x)
    density = _normal(x, 0, SPREAD)
    velocity = claim.velocity(direct, SPREAD) * x
    steps.equal("continuity", (diff(density, t) + diff(density * velocity, x)) / density)
    steps.equal("score", diff(log(density), x), claim.score(ga / SPREAD * x, ga))
    weight, place = (Rational(1, 3), Rational(2, 3)), (-1, 2)
    parts = [w * _normal(x, y, g**2) for w, y in zip(weight, place, strict=True)]
    mixed = sum(parts)
    latent = sum(p * (x - y) / g for p, y in zip(parts, place, strict=True)) / mixed
    steps.equal("score of two points", diff(mixed, x) / mixed, claim.score(latent, g))


@check(
    "prp-interpolant-sde",
    claim=lambda velocity, latent, gamma: velocity - g**2 / (2 * gamma) * latent,
    mutants={
        "the other sign": lambda velocity, latent, gamma: velocity + g**2 / (2 * gamma) * latent,
        "without the half": lambda velocity, latent, gamma: velocity - g**2 / gamma * latent,
        "without the correction": lambda velocity, latent, gamma: velocity,
    },
    covers="normal pairs with every alpha, beta, gamma and g",
    omits="other laws",
)
def interpolant_sde(steps, claim):
    """The Fokker-Planck equation."""
    density = _normal(x, 0, SPREAD)
    drift = claim(diff(SPREAD, t) / (2 * SPREAD) * x, ga / SPREAD * x, ga)
    right = -diff(drift * density, x) + g**2 / 2 * diff(density, x, 2)
    steps.equal("∂p/∂t = -∂(drift p)/∂x + (g²/2) ∂²p/∂x²", (diff(density, t) - right) / density)


REDUNDANT = claims(sigma=lambda u, v: sqrt(u**2 + v**2))


@check(
    "prp-latent-redundant",
    claim=REDUNDANT,
    mutants={
        "the sum": REDUNDANT.but(sigma=lambda u, v: u + v),
        "the source alone": REDUNDANT.but(sigma=lambda u, v: u),
    },
    covers="every alpha, beta, gamma",
    omits="that given the noise the data add nothing, which is their independence",
)
def latent_redundant(steps, claim):
    """Variance of the noise, and its covariance with its derivative."""
    sigma = claim.sigma(be, ga)
    steps.equal("variance", be**2 + ga**2, sigma**2)
    steps.equal(
        "E[β'X_0 + γ'z | ε] = σ'ε",
        (be * diff(be, t) + ga * diff(ga, t)) / sigma,
        diff(sigma, t),
    )


# -- Schrödinger bridges -------------------------------------------------------------------------

STATES = 3


def _kernel(step):
    """Transition matrix of a walk on three states over `step` of a unit of time."""
    rates = np.array([[-1.0, 0.7, 0.3], [0.4, -0.9, 0.5], [0.2, 0.6, -0.8]])
    values, vectors = np.linalg.eig(rates)
    return np.real(vectors @ np.diag(np.exp(step * values)) @ np.linalg.inv(vectors))


P0 = np.array([0.5, 0.2, 0.3])
R01 = P0[:, None] * _kernel(1.0)
STEP = _kernel(1.0 / 3.0)  # a grid of times 0, 1/3, 2/3, 1
REFERENCE = np.einsum("i,ij,jk,kl->ijkl", P0, STEP, STEP, STEP)


def _kl(p, q):
    return float((p * np.log(p / q)).sum())


def _ends(p):
    return p.sum((1, 2))


def _reciprocal(p):
    """The reference's bridges over the ends of p."""
    return REFERENCE * (_ends(p) / _ends(REFERENCE))[:, None, None, :]


def _markov(p):
    """The chain with the pairs of neighbours of p."""
    pairs = [p.sum((2, 3)), p.sum((0, 3)), p.sum((0, 1))]
    steps = [q / q.sum(1, keepdims=True) for q in pairs]
    return np.einsum("i,ij,jk,kl->ijkl", p.sum((1, 2, 3)), *steps)


def _sinkhorn(end):
    """The coupling e^{f+h} R01 of P0 and `end`."""
    f, h = np.ones(STATES), np.ones(STATES)
    for _ in range(200):
        f = P0 / (R01 @ h)
        h = end / (R01.T @ f)
    return f[:, None] * R01 * h[None]


END = np.array([0.25, 0.45, 0.3])
STATIC = _sinkhorn(END)
OTHER = np.outer(P0, END)  # another coupling of the same laws
TURNED = STATIC + 0.02 * np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 0.0]])


def _law(scale):
    """A law on the grid that is neither Markov nor reciprocal, with ends like OTHER's."""
    bump = np.cos(scale * np.arange(STATES**4)).reshape((STATES,) * 4)
    p = _reciprocal(REFERENCE / REFERENCE.sum()) * np.exp(0.5 * bump)
    return p * (OTHER / _ends(p))[:, None, None, :]


LAW = _law(1.7)

STATIC_DYNAMIC = claims(
    split=lambda ends, inner: ends + inner,
    eps=lambda diffusion: 2 * diffusion**2,
)


@check(
    "thm-static-dynamic",
    claim=STATIC_DYNAMIC,
    mutants={
        "the ends alone": STATIC_DYNAMIC.but(split=lambda ends, inner: ends),
        "g² in front of the entropy": STATIC_DYNAMIC.but(eps=lambda diffusion: diffusion**2),
        "4 g² in front of the entropy": STATIC_DYNAMIC.but(eps=lambda diffusion: 4 * diffusion**2),
    },
    covers="a walk on three states at four times; normal couplings on the line",
    omits="existence and uniqueness of the minimizer",
)
def static_dynamic(steps, claim):
    """Finite sums; derivative in the covariance."""
    bridge = LAW / _ends(LAW)[:, None, None, :]
    reference = REFERENCE / _ends(REFERENCE)[:, None, None, :]
    inner = float((LAW * np.log(bridge / reference)).sum())
    steps.close(
        "KL splits into the ends and the bridges",
        claim.split(_kl(_ends(LAW), _ends(REFERENCE)), inner),
        _kl(LAW, REFERENCE),
        tolerance=1e-12,
        why=SUMS,
    )
    information = -log(1 - c**2 / (a * b)) / 2
    # KL(pi | R_01) of normal laws, by entropies: -H(pi) + H(p_0) - E log r(x_1 | x_0)
    full = (
        -log((2 * sympy.pi * sympy.E) ** 2 * (a * b - c**2)) / 2
        + log(2 * sympy.pi * sympy.E * a) / 2
        + log(2 * sympy.pi * g**2) / 2
        + (a + b - 2 * c) / (2 * g**2)
    )
    objective = a + b - 2 * c + claim.eps(g) * information
    steps.equal("same derivative in c", diff(objective, c), 2 * g**2 * diff(full, c))


FORM = claims(pythagoras=lambda to_bridge, bridge: to_bridge + bridge, coupling=STATIC)


@check(
    "thm-bridge-form",
    claim=FORM,
    mutants={
        "without the distance to the bridge": FORM.but(pythagoras=lambda to_bridge, bridge: bridge),
        "the difference": FORM.but(pythagoras=lambda to_bridge, bridge: bridge - to_bridge),
        "over another coupling": FORM.but(coupling=OTHER),
    },
    covers="a walk on three states at four times, with two other couplings",
    omits="laws on the line: integrability of f and h",
)
def bridge_form(steps, claim):
    """Finite sums."""
    for name, other in (("independent", OTHER), ("turned", TURNED)):
        steps.close(
            f"{name}: KL(other | R)",
            claim.pythagoras(_kl(other, claim.coupling), _kl(claim.coupling, R01)),
            _kl(other, R01),
            tolerance=1e-12,
            why=SUMS,
        )
    process = REFERENCE * (claim.coupling / _ends(REFERENCE))[:, None, None, :]
    steps.close("the process is Markov", process, _markov(process), tolerance=1e-12, why=SUMS)


CHARACTERIZATION = claims(coupling=STATIC, form=lambda coupling: np.log(coupling / R01))


def _bridges_over(coupling):
    return REFERENCE * (coupling / _ends(REFERENCE))[:, None, None, :]


def _markov_coupling(start):
    """The coupling near `start` whose bridges are Markov, by least squares over all couplings."""
    corners = [np.outer(u, v) for u in ((1, 0, -1), (0, 1, -1)) for v in ((1, 0, -1), (0, 1, -1))]

    def move(w):
        return start + sum(wi * c for wi, c in zip(w, corners, strict=True))

    def defect(w):
        process = _bridges_over(move(w))
        return (process - _markov(process)).ravel()

    found = optimize.least_squares(defect, np.zeros(4), xtol=1e-15, ftol=1e-15, gtol=1e-15)
    return move(found.x)


@check(
    "thm-bridge-characterization",
    claim=CHARACTERIZATION,
    mutants={
        "any coupling": CHARACTERIZATION.but(coupling=OTHER),
        "a coupling nearby": CHARACTERIZATION.but(coupling=TURNED),
        "the plan itself is a product": CHARACTERIZATION.but(form=np.log),
    },
    covers="a walk on three states at four times; the Markov mixtures found from two starts",
    omits="densities, where the same division is made almost everywhere",
)
def bridge_characterization(steps, claim):
    """Look for a Markov mixture of bridges, knowing no form; mixed differences of the logarithm."""
    process = _bridges_over(claim.coupling)
    steps.close("Markov", process, _markov(process), tolerance=1e-12, why=SUMS)
    for name, start in (("independent", OTHER), ("turned", TURNED)):
        found = _markov_coupling(start)
        process = _bridges_over(found)
        steps.close(
            f"{name}: moved to a Markov one",
            process,
            _markov(process),
            tolerance=1e-9,
            why="least squares",
        )
        form = claim.form(found)
        mixed = form - form[:1] - form[:, :1] + form[0, 0]
        steps.close(
            f"{name}: the logarithm of its density is f + h",
            mixed,
            0 * mixed,
            tolerance=1e-6,
            why="least squares",
        )
        steps.close(
            f"{name}: it is the bridge", found, claim.coupling, tolerance=1e-7, why="least squares"
        )


def _cross(first, second, diffusion, power=4, factor=0.5, four=4.0):
    root = _root(first)
    inner = _root(four * root @ second @ root + diffusion**power * np.eye(2))
    return factor * (root @ inner @ np.linalg.inv(root) - diffusion**2 * np.eye(2))


GAUSSIAN = claims(
    cross=_cross,
    cov=lambda s, first, second, cross, diffusion: (
        (1 - s) ** 2 * first
        + s**2 * second
        + s * (1 - s) * (cross + cross.T + diffusion**2 * np.eye(2))
    ),
)


@check(
    "thm-gaussian-bridge",
    claim=GAUSSIAN,
    mutants={
        "g² under the root": GAUSSIAN.but(cross=lambda u, v, d: _cross(u, v, d, power=2)),
        "without the half": GAUSSIAN.but(cross=lambda u, v, d: _cross(u, v, d, factor=1.0)),
        "without the 4": GAUSSIAN.but(cross=lambda u, v, d: _cross(u, v, d, four=1.0)),
        "covariance without the bridge": GAUSSIAN.but(
            cov=lambda s, u, v, cross, d: (
                (1 - s) ** 2 * u + s**2 * v + s * (1 - s) * (cross + cross.T)
            )
        ),
    },
    covers="covariances of the plane with turned axes, three diffusions",
    omits="more dimensions; the mean",
)
def gaussian_bridge(steps, claim):
    """The off-diagonal block of the inverse covariance; the covariance by way of another time."""
    first, second = _A.numpy(), _B.numpy()
    for diffusion in (0.5, 1.3, 3.0):
        cross = claim.cross(first, second, diffusion)
        joint = np.block([[first, cross], [cross.T, second]])
        steps.true(f"g = {diffusion}: a covariance", bool(np.linalg.eigvalsh(joint).min() > 0))
        steps.close(
            f"g = {diffusion}: the mixed block of the precision is -1/g²",
            np.linalg.inv(joint)[:2, 2:],
            -np.eye(2) / diffusion**2,
            tolerance=1e-9,
            why="inverse of a 4 × 4 matrix",
        )
        # Given the end X_1 and a point at time s < r, the Brownian bridge goes on to r: the
        # covariance at r from that at s must not depend on the route.
        s, r = 0.3, 0.7
        middle = claim.cov(s, first, second, cross, diffusion)
        with_end = (1 - s) * cross + s * second  # Cov(X_s, X_1)
        share = (r - s) / (1 - s)
        noise = diffusion**2 * (r - s) * (1 - r) / (1 - s)
        onward = (
            (1 - share) ** 2 * middle
            + share**2 * second
            + share * (1 - share) * (with_end + with_end.T)
            + noise * np.eye(2)
        )
        steps.close(
            f"g = {diffusion}: the covariance at 0.7, directly and by way of 0.3",
            claim.cov(r, first, second, cross, diffusion),
            onward,
            tolerance=1e-12,
            why="sums of 2 × 2 matrices",
        )


PROJECTION = claims(
    markov=_markov,
    reciprocal=_reciprocal,
    sum=lambda first, second: first + second,
)


@check(
    "thm-markovian-projection",
    claim=PROJECTION,
    mutants={
        "the first term only": PROJECTION.but(sum=lambda first, second: first),
        "the difference": PROJECTION.but(sum=lambda first, second: first - second),
        "independent times as projection": PROJECTION.but(
            markov=lambda p: np.einsum(
                "i,j,k,l->ijkl",
                p.sum((1, 2, 3)),
                p.sum((0, 2, 3)),
                p.sum((0, 1, 3)),
                p.sum((0, 1, 2)),
            )
        ),
        "the reference as projection": PROJECTION.but(reciprocal=lambda p: REFERENCE),
    },
    covers="a law on three states at four times that is neither Markov nor reciprocal",
    omits="densities; the limit of fine grids",
)
def markovian_projection(steps, claim):
    """Finite sums."""
    for name, projected, other in (
        ("Markov", claim.markov(LAW), _markov(_law(0.9))),
        ("reciprocal", claim.reciprocal(LAW), _reciprocal(_law(0.9) * (1 + 0 * LAW))),
    ):
        if name == "reciprocal":
            other = _reciprocal(_markov(_law(2.3)))
            steps.close("the ends stay", _ends(projected), _ends(LAW), tolerance=1e-12, why=SUMS)
        else:
            for axes in ((2, 3), (0, 3), (0, 1)):
                steps.close(
                    "the neighbours stay",
                    projected.sum(axes),
                    LAW.sum(axes),
                    tolerance=1e-12,
                    why=SUMS,
                )
        steps.close(
            f"{name}: Pythagoras",
            claim.sum(_kl(LAW, projected), _kl(projected, other)),
            _kl(LAW, other),
            tolerance=1e-12,
            why=SUMS,
        )


IMF = claims(step=lambda now, move, after: now - move - after, project=(_markov, _reciprocal))


@check(
    "thm-imf",
    claim=IMF,
    mutants={
        "the move counts twice": IMF.but(step=lambda now, move, after: now - 2 * move - after),
        "the distance stays": IMF.but(step=lambda now, move, after: now - after),
        "only the Markovian projection": IMF.but(project=(_markov, _markov)),
    },
    covers="forty projections of a law on three states at four times",
    omits="convergence in general",
)
def imf(steps, claim):
    """Iterate, and compare with Sinkhorn's bridge."""
    bridge = REFERENCE * (STATIC / _ends(REFERENCE))[:, None, None, :]
    now, moves, first = LAW, [], _kl(LAW, bridge)
    for k in range(40):
        after = claim.project[k % 2](now)
        moves.append(_kl(now, after))
        if k < 4:
            rest = claim.step(_kl(now, bridge), moves[-1], _kl(after, bridge))
            steps.close("KL before = move + KL after", rest, 0.0, tolerance=1e-12, why=SUMS)
        now = after
    steps.close("the start stays", now.sum((1, 2, 3)), P0, tolerance=1e-12, why=SUMS)
    steps.close("the end stays", now.sum((0, 1, 2)), END, tolerance=1e-12, why=SUMS)
    steps.at_most(
        "the moves sum to at most the first KL", sum(moves), first, tolerance=1e-12, why=SUMS
    )
    steps.close("it has arrived", now, bridge, tolerance=1e-6, why="forty contractions")


@check(
    "prp-bridge-matching",
    claim=lambda end, point: (end - point) / (1 - t),
    mutants={
        "without the division": lambda end, point: end - point,
        "divided by the time gone": lambda end, point: (end - point) / t,
        "half the drift": lambda end, point: (end - point) / (2 * (1 - t)),
    },
    covers="normal pairs on the line with every means, variances and covariance; fixed ends",
    omits="other laws, by averaging over fixed ends",
)
def bridge_matching(steps, claim):
    """The Fokker-Planck equation."""
    m0, m1 = symbols("m_0 m_1", real=True)
    mean = (1 - t) * m0 + t * m1
    spread = VARIANCE + g**2 * t * (1 - t)
    end = m1 + ((1 - t) * c + t * b) / spread * (x - mean)
    for name, values in (("normal pairs", {}), ("fixed ends", {a: 0, b: 0, c: 0})):
        density = _normal(x, mean, spread).subs(values)
        drift = claim(end, x).subs(values)
        right = -diff(drift * density, x) + g**2 / 2 * diff(density, x, 2)
        steps.equal(f"{name}: ∂p/∂t", (diff(density, t) - right) / density)


FITTING = claims(
    after=lambda va, vb, d, integral: math.sqrt(va * vb) * math.exp(-(d**2) / 2 * integral),
    fixed=lambda va, vb, d: (math.sqrt(4 * va * vb + d**4) - d**2) / 2,
)


@check(
    "prp-gaussian-fitting",
    claim=FITTING,
    mutants={
        "without the half": FITTING.but(
            after=lambda va, vb, d, integral: math.sqrt(va * vb) * math.exp(-(d**2) * integral)
        ),
        "without the root": FITTING.but(
            after=lambda va, vb, d, integral: va * vb * math.exp(-(d**2) / 2 * integral)
        ),
        "another fixed point": FITTING.but(fixed=lambda va, vb, d: math.sqrt(va * vb) - d**2 / 2),
    },
    covers="nine pairs; one round against the linear SDE solved by RK4, the fixed point against "
    "quadrature",
    omits="other parameters",
)
def gaussian_fitting(steps, claim):
    """One round by formula and by solving the equation of the regression."""

    def integral(va, vb, cov, d):
        def variance(s):
            return (1 - s) ** 2 * va + s**2 * vb + s * (1 - s) * (2 * cov + d**2)

        return integrate.quad(lambda s: 1 / variance(s), 0, 1)[0]

    one = torch.ones(1, 1, dtype=_D)
    for va, vb, d in itertools.product((0.5, 2.0, 1.0), (1.5,), (0.0, 0.6, 1.7)):
        for cov in (0.0, 0.5 * math.sqrt(va * vb)):
            pair = GaussianBridge(0 * one[0], va * one, 0 * one[0], vb * one, cov * one, d)
            steps.close(
                f"A = {va}, B = {vb}, g = {d}, c = {cov:.2f}",
                claim.after(va, vb, d, integral(va, vb, cov, d)),
                fitting_step(pair).cross.item(),
                tolerance=1e-5,
                why=RK4,
            )
        fixed = claim.fixed(va, vb, d)
        image = math.sqrt(va * vb) * math.exp(-(d**2) / 2 * integral(va, vb, fixed, d))
        steps.close(
            f"A = {va}, B = {vb}, g = {d}: fixed",
            image,
            fixed,
            tolerance=1e-9,
            why=QUADRATURE,
        )
