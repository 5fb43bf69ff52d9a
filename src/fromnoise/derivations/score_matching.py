"""Checks of the chapter on score matching."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import sympy
import torch
from scipy.special import softmax
from scipy.stats import norm
from sympy import Function, Matrix, Rational, diff, exp, expand, log, sqrt, symbols

from fromnoise.derivations.checking import check, claims
from fromnoise.distributions import laboratory
from fromnoise.likelihood import value_and_divergence

SUM = "sums over a fine grid of analytic functions, in double precision"

t, h, sg, v, rho, s = symbols("t h sigma v rho s", positive=True)
x, mu = symbols("x mu", real=True)


def _gaussian_mean(expression, *variables):
    """E of a polynomial in independent standard normal variables."""
    polynomial = sympy.Poly(expand(expression), *variables)
    total = sympy.Integer(0)
    for powers, coefficient in polynomial.terms():
        if not any(n % 2 for n in powers):
            total += coefficient * sympy.prod(sympy.factorial2(n - 1) for n in powers)
    return total


# -- integration by parts ------------------------------------------------------------------------

IMPLICIT = claims(
    stein=lambda divergence, dot: divergence + dot,
    loss=lambda square, divergence: square + 2 * divergence,
    offset=lambda fisher: fisher,
)


def _swirl(points, time):
    """A field that is no gradient, with a divergence that varies."""
    first, second = points[:, 0], points[:, 1]
    return torch.stack([torch.sin(second) + first, first * second / 3 - second], dim=1)


@cache
def _plane():
    """The laboratory on a grid: mean over it, score, and a field with its divergence."""
    law, axis = laboratory(), torch.linspace(-7.0, 7.0, 201, dtype=torch.float64)
    points, cell = torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2
    weight = law.log_prob(points).exp() * cell
    value, divergence = value_and_divergence(_swirl, points, torch.zeros(()), create_graph=False)
    return weight, law.score(points), value.detach(), divergence.detach()


@check(
    "thm-implicit-score-matching",
    claim=IMPLICIT,
    mutants={
        "the other sign in Stein's identity": IMPLICIT.but(
            stein=lambda divergence, dot: divergence - dot
        ),
        "the divergence once": IMPLICIT.but(loss=lambda square, divergence: square + divergence),
        "the divergence subtracted": IMPLICIT.but(
            loss=lambda square, divergence: square - 2 * divergence
        ),
        "without the Fisher information": IMPLICIT.but(offset=lambda fisher: 0),
    },
    covers="every cubic f and every normal law on the line; a field that is no gradient on the "
    "laboratory, by quadrature",
    omits="general densities, where it is the argument of the vanishing spheres",
)
def implicit_score_matching(steps, claim):
    """Integrals by moments, and by sums over the plane."""
    a, b, c, z = symbols("a b c z", real=True)
    place = mu + sqrt(v) * z
    f, slope = a + b * place + c * place**3, b + 3 * c * place**2
    score = -z / sqrt(v)

    def mean(expression):
        return _gaussian_mean(expression, z)

    steps.equal("N(mu, v), cubic f: E[f' + f s] = 0", mean(claim.stein(slope, f * score)))
    steps.equal(
        "N(mu, v), cubic f: E(f - s)² = E[f² + 2 f'] + J",
        mean((f - score) ** 2),
        mean(claim.loss(f**2, slope)) + claim.offset(mean(score**2)),
    )
    weight, score, value, divergence = _plane()
    explicit = (weight * (value - score).square().sum(1)).sum()
    implicit = (weight * claim.loss(value.square().sum(1), divergence)).sum()
    fisher = (weight * score.square().sum(1)).sum()
    steps.close(
        "laboratory: E[div f + f·s] = 0",
        (weight * claim.stein(divergence, (value * score).sum(1))).sum(),
        0,
        tolerance=1e-11,
        why=SUM,
    )
    steps.close(
        "laboratory: the explicit loss, and the implicit one plus J",
        explicit,
        implicit + claim.offset(fisher),
        tolerance=1e-11,
        why=SUM,
    )


UNBOUNDED = claims(
    value=lambda k, dim: -2 * k * dim,
    radius=lambda smallest: Rational(49, 100) * smallest,
)


@check(
    "prp-implicit-unbounded",
    claim=UNBOUNDED,
    mutants={
        "half the value": UNBOUNDED.but(value=lambda k, dim: -k * dim),
        "independent of the dimension": UNBOUNDED.but(value=lambda k, dim: -2 * k),
        "pits that reach the next point": UNBOUNDED.but(
            radius=lambda smallest: Rational(3, 2) * smallest
        ),
    },
    covers="three points in the plane and every depth k, with one smooth function of compact "
    "support",
    omits="other points and dimensions, where it is the same line",
)
def implicit_unbounded(steps, claim):
    """The loss of the pits from their derivatives, at the points."""
    points = [Matrix([0, 0]), Matrix([1, 0]), Matrix([0, 2])]
    k, radius = symbols("k", positive=True), claim.radius(sympy.Integer(1))
    place = Matrix(symbols("x_1:3", real=True))

    def pit(centre, at):
        """-k (x - centre) chi as an expression near `at`; 0 outside the support of chi."""
        if (at - centre).dot(at - centre) >= radius**2:
            return sympy.zeros(2, 1)
        offset = place - centre
        square = offset.dot(offset) / radius**2
        return -k * offset * exp(1 - 1 / (1 - square))

    total = sympy.Integer(0)
    for at in points:
        f = sum((pit(centre, at) for centre in points), sympy.zeros(2, 1))
        here = dict(zip(place, at, strict=True))
        divergence = sum(diff(f[i], place[i]) for i in range(2)).subs(here)
        total += f.dot(f).subs(here) + 2 * divergence
    steps.equal("the mean loss at three points", total / 3, claim.value(k, 2))
    steps.true(
        "it falls without bound with k", sympy.limit(claim.value(k, 2), k, sympy.oo) == -sympy.oo
    )


# -- slices --------------------------------------------------------------------------------------

SIGNS = [Matrix(pair) for pair in itertools.product((-1, 1), repeat=2)]
AXES = [sqrt(2) * sign * Matrix(e) for sign in (-1, 1) for e in ((1, 0), (0, 1))]
f2 = Matrix(symbols("f_1:3", real=True))
s2 = Matrix(symbols("s_1:3", real=True))
A2 = Matrix(2, 2, symbols("A_11:13 A_21:23", real=True))
B2 = (A2 + A2.T) / 2

SLICED = claims(
    explicit=lambda z, f, score: z.dot(f - score) ** 2,
    full=lambda z, f, jacobian: z.dot(f) ** 2 + 2 * z.dot(jacobian * z),
    reduced=lambda z, f, jacobian: f.dot(f) + 2 * z.dot(jacobian * z),
    directions=lambda z: z,
)


@check(
    "prp-sliced",
    claim=SLICED,
    mutants={
        "directions of length 1": SLICED.but(directions=lambda z: z / sqrt(2)),
        "the trace once": SLICED.but(
            full=lambda z, f, jacobian: z.dot(f) ** 2 + z.dot(jacobian * z)
        ),
        "the square not of the slice": SLICED.but(
            explicit=lambda z, f, score: z.dot(f - score) * (f - score)[0]
        ),
        "twice the reduced square": SLICED.but(
            reduced=lambda z, f, jacobian: 2 * f.dot(f) + 2 * z.dot(jacobian * z)
        ),
    },
    covers="every value of f, s and the Jacobian at a point of the plane, for two laws of the "
    "directions",
    omits="other dimensions; the average over the points",
)
def sliced(steps, claim):
    """Averages over finite laws of directions with E[v vᵀ] = I."""
    for name, law in (("signs", SIGNS), ("axes", AXES)):
        drawn = [claim.directions(z) for z in law]

        def mean(function, drawn=drawn):
            return expand(sum(function(z) for z in drawn) / len(drawn))

        implicit = f2.dot(f2) + 2 * A2.trace()
        steps.equal(
            f"{name}: E(v·(f - s))² = |f - s|²",
            mean(lambda z: claim.explicit(z, f2, s2)),
            expand((f2 - s2).dot(f2 - s2)),
        )
        for form in ("full", "reduced"):
            steps.equal(
                f"{name}, {form}: the mean is |f|² + 2 tr A",
                mean(lambda z, form=form: getattr(claim, form)(z, f2, A2)),
                expand(implicit),
            )


def _squares(matrix):
    return sum(entry**2 for entry in matrix)


VARIANCE = claims(
    normal_reduced=lambda b, f: 8 * _squares(b),
    normal_full=lambda b, f: 8 * _squares(b) + 8 * f.dot(b * f) + 2 * f.dot(f) ** 2,
    signs_reduced=lambda b, f: 8 * (_squares(b) - sum(b[i, i] ** 2 for i in range(b.rows))),
    signs_full=lambda b, f: (
        2
        * sum(
            (2 * b[i, j] + f[i] * f[j]) ** 2 for i in range(b.rows) for j in range(b.rows) if i != j
        )
    ),
    example=lambda dim: [8 * dim, 2 * dim * (dim + 2), 0, 2 * dim * (dim - 1)],
)


@check(
    "prp-sliced-variance",
    claim=VARIANCE,
    mutants={
        "half the variance of the trace": VARIANCE.but(normal_reduced=lambda b, f: 4 * _squares(b)),
        "without the cross term": VARIANCE.but(
            normal_full=lambda b, f: 8 * _squares(b) + 2 * f.dot(f) ** 2
        ),
        "signs with the diagonal": VARIANCE.but(signs_reduced=lambda b, f: 8 * _squares(b)),
        "signs with half the trace": VARIANCE.but(
            signs_full=lambda b, f: 4 * (b[0, 1] + f[0] * f[1]) ** 2
        ),
        "d (d + 1) in the example": VARIANCE.but(
            example=lambda dim: [8 * dim, 2 * dim * (dim + 1), 0, 2 * dim * (dim - 1)]
        ),
    },
    covers="parts 1 and 2 for every f and Jacobian in the plane; part 3 for d = 1, 2, 3",
    omits="other dimensions, where the formula for Hutchinson's estimator is the proof",
)
def sliced_variance(steps, claim):
    """Second moments of polynomials in the directions, from the definition of a variance."""
    z = Matrix(symbols("z_1:3", real=True))

    def of_signs(form):
        values = [form.subs(dict(zip(z, e, strict=True))) for e in SIGNS]
        mean = sum(values) / 4
        return expand(sum((value - mean) ** 2 for value in values) / 4)

    def of_normals(form):
        mean = _gaussian_mean(form, *z)
        return expand(_gaussian_mean((form - mean) ** 2, *z))

    trace = 2 * z.dot(A2 * z)
    forms = {"reduced": f2.dot(f2) + trace, "full": z.dot(f2) ** 2 + trace}
    for name, form in forms.items():
        for law, variance in (("normal", of_normals), ("signs", of_signs)):
            steps.equal(
                f"{law} directions, {name}: the variance",
                variance(form),
                expand(getattr(claim, f"{law}_{name}")(B2, f2)),
            )
    for dim in (1, 2, 3):
        place = Matrix(symbols(f"y_1:{dim + 1}", real=True))
        formulas = (
            VARIANCE.normal_reduced,
            VARIANCE.normal_full,
            VARIANCE.signs_reduced,
            VARIANCE.signs_full,
        )
        means = [
            _gaussian_mean(formula(-sympy.eye(dim), -place) + 0 * place[0], *place)
            for formula in formulas
        ]
        steps.equal(
            f"standard normal data, d = {dim}: the four means", means, list(claim.example(dim))
        )


# -- noise ---------------------------------------------------------------------------------------


class _Atoms:
    """Three data points on the line, alpha X_1 + sigma eps, on a grid of the noise."""

    data = np.array([-1.0, 0.5, 2.0])
    chances = np.array([0.5, 0.2, 0.3])

    def __init__(self, alpha, sigma):
        self.alpha, self.sigma = alpha, sigma
        self.noise = np.linspace(-11, 11, 1401)
        step = self.noise[1] - self.noise[0]
        self.weight = self.chances[:, None] * norm.pdf(self.noise) * step  # (3, nodes)
        self.x = alpha * self.data[:, None] + sigma * self.noise

    def mean(self, values):
        """E over the draws of values, (3, nodes)."""
        return float((self.weight * values).sum())

    def posterior(self, y):
        """P(X_1 = data_j | x = y), with a last axis j; and the density."""
        log_joint = np.log(self.chances) + norm.logpdf(
            y[..., None], self.alpha * self.data, self.sigma
        )
        return softmax(log_joint, axis=-1), np.exp(log_joint).sum(-1)

    def moments(self, y):
        """Mean and variance of X_1 given x = y."""
        chance, _ = self.posterior(y)
        mean = chance @ self.data
        return mean, chance @ self.data**2 - mean**2

    def score(self, y):
        """The derivative of the log-density, by a complex step: no formula for it is used."""
        shifted = y[..., None] + 1e-30j - self.alpha * self.data
        density = (self.chances * np.exp(-(shifted**2) / (2 * self.sigma**2))).sum(-1)
        return np.log(density).imag / 1e-30


DENOISING = claims(
    loss=lambda esm, constant: esm + constant,
    by_fisher=lambda dim, sigma, fisher: dim / sigma**2 - fisher,
    by_noise=lambda trace, sigma: trace / sigma**2,
    by_data=lambda trace, alpha, sigma: alpha**2 * trace / sigma**4,
    ceiling=lambda dim, sigma: dim / sigma**2,
)


@check(
    "thm-denoising-score-matching",
    claim=DENOISING,
    mutants={
        "without the constant": DENOISING.but(loss=lambda esm, constant: esm),
        "the Fisher information added": DENOISING.but(
            by_fisher=lambda dim, sigma, fisher: dim / sigma**2 + fisher
        ),
        "sigma not squared": DENOISING.but(by_noise=lambda trace, sigma: trace / sigma),
        "alpha left out": DENOISING.but(by_data=lambda trace, alpha, sigma: trace / sigma**4),
        "half the ceiling": DENOISING.but(ceiling=lambda dim, sigma: dim / sigma**2 / 2),
    },
    covers="three functions f and three data points on the line, at two noise levels; that the "
    "conditional mean of -eps / sigma is the score",
    omits="general laws, which is the projection theorem; infinite losses",
)
def denoising(steps, claim):
    """Losses over the draws; the score differentiated, the posterior by Bayes."""
    for alpha, sigma in ((0.8, 0.5), (1.0, 2.0)):
        law = _Atoms(alpha, sigma)
        score = law.score(law.x)
        _, variance = law.moments(law.x)
        fisher = law.mean(score**2)
        constant = claim.by_fisher(1, sigma, fisher)
        where = f"alpha = {alpha}, sigma = {sigma}"
        for name, f in (("0", 0 * law.x), ("sin", np.sin(law.x)), ("the score", score)):
            dsm = law.mean((f + law.noise / sigma) ** 2)
            steps.close(
                f"{where}, f = {name}: the loss is the explicit one plus C",
                dsm,
                claim.loss(law.mean((f - score) ** 2), constant),
                tolerance=1e-11,
                why=SUM,
            )
        of_noise = law.mean(((alpha / sigma) ** 2) * variance)
        guess = law.moments(law.x)[0]
        spread = law.mean((law.noise - (law.x - alpha * guess) / sigma) ** 2)
        steps.close(
            f"{where}: C from the variance of the noise, and of the data",
            [claim.by_noise(spread, sigma), claim.by_data(law.mean(variance), alpha, sigma)],
            [law.mean((score + law.noise / sigma) ** 2)] * 2,
            tolerance=1e-11,
            why=SUM,
        )
        steps.close(
            f"{where}: variances of noise and data", spread, of_noise, tolerance=1e-11, why=SUM
        )
        steps.at_most(f"{where}: J and d / sigma²", fisher, claim.ceiling(1, sigma))
    wide = _Atoms(1.0, 20.0)
    steps.at_most(
        "sigma = 20: J and d / sigma², nearly equal",
        wide.mean(wide.score(wide.x) ** 2),
        claim.ceiling(1, 20.0),
    )


VELOCITY = claims(
    velocity=lambda a, sigma, da, rate, place, f: da / a * place + rate * sigma**2 * f,
    error=lambda sigma, rate, f, noise: rate * sigma**2 * (f + noise / sigma),
)


@check(
    "prp-score-velocity-loss",
    claim=VELOCITY,
    mutants={
        "sigma for sigma²": VELOCITY.but(
            velocity=lambda a, sigma, da, rate, place, f: da / a * place + rate * sigma * f
        ),
        "the other sign of the noise": VELOCITY.but(
            error=lambda sigma, rate, f, noise: rate * sigma**2 * (f - noise / sigma)
        ),
        "without the rate": VELOCITY.but(
            error=lambda sigma, rate, f, noise: sigma**2 * (f + noise / sigma)
        ),
        "alpha' without alpha": VELOCITY.but(
            velocity=lambda a, sigma, da, rate, place, f: da * place + rate * sigma**2 * f
        ),
    },
    covers="all differentiable alpha, sigma > 0 and all values of data, noise and f",
    omits="the expectation of the squares, which is immediate",
)
def score_velocity_loss(steps, claim):
    """The draw's velocity by differentiating the path in time."""
    alpha, sigma = Function("alpha", positive=True)(t), Function("sigma", positive=True)(t)
    datum, noise, f = symbols("z epsilon f", real=True)
    rate = diff(log(alpha / sigma), t)
    place = alpha * datum + sigma * noise
    found = claim.velocity(alpha, sigma, diff(alpha, t), rate, place, f) - diff(place, t)
    steps.equal("u_f(X_t) - U_t, draw by draw", found, claim.error(sigma, rate, f, noise))


JACOBIAN = claims(
    jacobian=lambda alpha, sigma, cov: -np.eye(2) / sigma**2 + alpha**2 * cov / sigma**4,
    covariance=lambda alpha, sigma, slope: sigma**2 / alpha**2 * (np.eye(2) + sigma**2 * slope),
    least=lambda sigma: -1 / sigma**2,
    largest=lambda alpha, sigma, radius: -(sigma**2 - alpha**2 * radius**2) / sigma**4,
)


@check(
    "cor-score-jacobian",
    claim=JACOBIAN,
    mutants={
        "sigma² below the covariance": JACOBIAN.but(
            jacobian=lambda alpha, sigma, cov: -np.eye(2) / sigma**2 + alpha**2 * cov / sigma**2
        ),
        "alpha not squared": JACOBIAN.but(
            jacobian=lambda alpha, sigma, cov: -np.eye(2) / sigma**2 + alpha * cov / sigma**4
        ),
        "the identity subtracted": JACOBIAN.but(
            covariance=lambda alpha, sigma, slope: (
                sigma**2 / alpha**2 * (sigma**2 * slope - np.eye(2))
            )
        ),
        "half the curvature of the noise": JACOBIAN.but(least=lambda sigma: -0.5 / sigma**2),
        "half the radius": JACOBIAN.but(
            largest=lambda alpha, sigma, radius: -(sigma**2 - (alpha * radius / 2) ** 2) / sigma**4
        ),
    },
    covers="four data points in the plane at nine places and two noise levels; that the upper "
    "bound is attained between two opposite points",
    omits="laws that are not finite",
)
def score_jacobian(steps, claim):
    """Automatic second derivatives of the log-density; covariances by Bayes."""
    data = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.6], [-0.3, -0.8]], dtype=torch.float64)
    chances = torch.tensor([0.3, 0.3, 0.3, 0.1], dtype=torch.float64)
    places = torch.cartesian_prod(*[torch.linspace(-1.5, 1.5, 3, dtype=torch.float64)] * 2)
    for alpha, sigma in ((0.7, 0.6), (1.0, 1.4)):

        def log_joint(y, data=data, chances=chances, alpha=alpha, sigma=sigma):
            return torch.log(chances) - (y - alpha * data).square().sum(-1) / (2 * sigma**2)

        slopes, covariances = [], []
        for y in places:
            slope = torch.func.hessian(lambda z: torch.logsumexp(log_joint(z), 0))(y)
            weight = torch.softmax(log_joint(y), 0)
            centred = data - weight @ data
            slopes.append(slope.numpy())
            covariances.append((centred.T * weight @ centred).numpy())
        where = f"alpha = {alpha}, sigma = {sigma}"
        why = "second derivatives by automatic differentiation"
        steps.close(
            f"{where}: the Jacobian of the score",
            [claim.jacobian(alpha, sigma, c).tolist() for c in covariances],
            [slope.tolist() for slope in slopes],
            tolerance=1e-12,
            why=why,
        )
        steps.close(
            f"{where}: the covariance of the data",
            [claim.covariance(alpha, sigma, slope).tolist() for slope in slopes],
            [c.tolist() for c in covariances],
            tolerance=1e-12,
            why=why,
        )
        eigenvalues = np.linalg.eigvalsh(np.stack(slopes))
        steps.at_most(
            f"{where}: -1 / sigma² and the least curvature",
            claim.least(sigma),
            float(eigenvalues.min()),
            tolerance=1e-12,
            why="rounding",
        )
        steps.at_most(
            f"{where}: the largest curvature and its bound",
            float(eigenvalues.max()),
            claim.largest(alpha, sigma, 1.0),
            tolerance=1e-12,
            why="rounding",
        )
    a, radius = symbols("alpha R", positive=True)
    density = sum(exp(-((x - sign * a * radius) ** 2) / (2 * sg**2)) for sign in (-1, 1))
    steps.equal(
        "two opposite points on the line: the bound is attained in the middle",
        sympy.simplify(diff(log(density), x, 2).subs(x, 0)),
        claim.largest(a, sg, radius),
    )


LAST = claims(
    noisy=lambda sigma, dim: sigma**2 * dim,
    denoised=lambda sigma, dim, fisher: sigma**2 * dim - sigma**4 * fisher,
    gauss_noisy=lambda var, sigma: (sympy.sqrt(var + sigma**2) - sympy.sqrt(var)) ** 2,
    gauss_denoised=lambda var, sigma: (
        var / (var + sigma**2) * (sympy.sqrt(var + sigma**2) - sympy.sqrt(var)) ** 2
    ),
)


@check(
    "prp-last-step",
    claim=LAST,
    mutants={
        "sigma for sigma²": LAST.but(noisy=lambda sigma, dim: sigma**3 * dim),
        "sigma² before the Fisher information": LAST.but(
            denoised=lambda sigma, dim, fisher: sigma**2 * dim - sigma**2 * fisher
        ),
        "the factor squared": LAST.but(
            gauss_denoised=lambda var, sigma: (
                (var / (var + sigma**2)) ** 2 * (sympy.sqrt(var + sigma**2) - sympy.sqrt(var)) ** 2
            )
        ),
        "noise adds deviations": LAST.but(gauss_noisy=lambda var, sigma: sigma**2),
    },
    covers="every Gaussian on the line and every sigma; three data points on the line: the error "
    "of the denoiser, and both distances by the sorted coupling",
    omits="the bounds for other laws, which are one coupling",
)
def last_step(steps, claim):
    """Standard deviations of Gaussians; for atoms the optimal plan on the line."""
    gain = 1 / (1 + sg**2 / s)  # regression of X_1 on X
    deviation = sqrt(s + sg**2)
    steps.equal(
        "Gaussian: noisy and clean deviations",
        (deviation - sqrt(s)) ** 2,
        claim.gauss_noisy(s, sg),
    )
    steps.equal(
        "Gaussian: denoised and clean deviations",
        (sqrt(s) - gain * deviation) ** 2,
        claim.gauss_denoised(s, sg),
    )
    for sigma in (0.2, 0.7):
        law = _Atoms(1.0, sigma)
        grid = np.linspace(-10, 11, 40_001)
        _, density = law.posterior(grid)
        mass = density * (grid[1] - grid[0])
        rank = np.searchsorted(np.cumsum(law.chances)[:-1], np.cumsum(mass))
        nearest = law.data[rank]  # the sorted coupling sends each x to this atom
        denoised = law.moments(grid)[0]
        fisher = law.mean(law.score(law.x) ** 2)
        steps.close(
            f"sigma = {sigma}: the error of the denoiser, over the draws",
            claim.denoised(sigma, 1, fisher),
            law.mean((law.moments(law.x)[0] - law.data[:, None]) ** 2),
            tolerance=1e-11,
            why=SUM,
        )
        steps.at_most(
            f"sigma = {sigma}: W2² of noisy and clean",
            float((mass * (grid - nearest) ** 2).sum()),
            claim.noisy(sigma, 1),
            tolerance=1e-3,
            why="the grid decides where an atom ends",
        )
        steps.at_most(
            f"sigma = {sigma}: W2² of denoised and clean",
            float((mass * (denoised - nearest) ** 2).sum()),
            claim.denoised(sigma, 1, fisher),
            tolerance=1e-3,
            why="the grid decides where an atom ends",
        )


# -- one noise level is not enough ---------------------------------------------------------------


def _entropy(w, other):
    return w * np.log(w / other) + (1 - w) * np.log((1 - w) / (1 - other))


BLIND = claims(
    posterior=lambda w, other, p1, p2, mixed, mixed_other: (
        (w - other) * p1 * p2 / (mixed * mixed_other)
    ),
    fisher=lambda w, other, distance, var: (
        (w - other) ** 2
        / (8 * other * (1 - other) * np.sqrt(w * (1 - w)))
        * distance**2
        / var**2
        * np.exp(-(distance**2) / (8 * var))
    ),
    lost=lambda w, other, distance, var: (
        (w - other) ** 2
        / (2 * other * (1 - other) * np.sqrt(w * (1 - w)))
        * np.exp(-(distance**2) / (8 * var))
    ),
)


@check(
    "prp-score-blindness",
    claim=BLIND,
    mutants={
        "the exponent over 4 v": BLIND.but(
            fisher=lambda w, other, distance, var: (
                BLIND.fisher(w, other, distance, var) * np.exp(-(distance**2) / (8 * var))
            )
        ),
        "half the constant": BLIND.but(
            fisher=lambda w, other, distance, var: BLIND.fisher(w, other, distance, var) / 2
        ),
        "v for v²": BLIND.but(
            fisher=lambda w, other, distance, var: BLIND.fisher(w, other, distance, var) * var
        ),
        "without the root of w (1 - w)": BLIND.but(
            fisher=lambda w, other, distance, var: (
                BLIND.fisher(w, other, distance, var) * np.sqrt(w * (1 - w))
            )
        ),
        "a quarter of what the divergence loses": BLIND.but(
            lost=lambda w, other, distance, var: BLIND.lost(w, other, distance, var) / 4
        ),
        "the divergence loses the square of the overlap": BLIND.but(
            lost=lambda w, other, distance, var: (
                BLIND.lost(w, other, distance, var) * np.exp(-(distance**2) / (8 * var))
            )
        ),
        "the difference of the weights left out": BLIND.but(
            posterior=lambda w, other, p1, p2, mixed, mixed_other: p1 * p2 / (mixed * mixed_other)
        ),
    },
    covers="the difference of the posteriors for all densities; both bounds on the line for eleven "
    "choices of weights, distance and variance, from nearly tight to exponentially small",
    omits="more dimensions, in which the integrals factor",
)
def score_blindness(steps, claim):
    """Both divergences by sums over a grid."""
    w, other, p1, p2 = symbols("w w_2 p_1 p_2", positive=True)
    mixed, mixed_other = (a * p1 + (1 - a) * p2 for a in (w, other))
    steps.equal(
        "the difference of the posteriors",
        w * p1 / mixed - other * p1 / mixed_other,
        claim.posterior(w, other, p1, p2, mixed, mixed_other),
    )
    grid = np.linspace(-14, 14, 56_001)
    step = grid[1] - grid[0]
    cases = [
        *itertools.product((0.8,), (0.5,), (0.2, 1.0, 2.0, 4.0, 6.0), (0.25, 1.0)),
        (0.05, 0.5, 0.2, 0.25),
        (0.5, 0.49, 0.05, 0.25),
    ]
    for w, other, distance, var in cases:
        p1, p2 = (norm.pdf(grid, m, np.sqrt(var)) for m in (distance / 2, -distance / 2))
        mixed, mixed_other = (a * p1 + (1 - a) * p2 for a in (w, other))
        scores = [
            (a * p1 * (distance / 2 - grid) + (1 - a) * p2 * (-distance / 2 - grid)) / var / m
            for a, m in ((w, mixed), (other, mixed_other))
            if not (m == 0).any()
        ]
        difference = (mixed * (scores[0] - scores[1]) ** 2).sum() * step
        kl = (mixed * np.log(mixed / mixed_other)).sum() * step
        where = f"w = {w}, w' = {other}, distance {distance}, v = {var}"
        steps.at_most(
            f"{where}: ratio of Fisher divergence and bound",
            difference / claim.fisher(w, other, distance, var),
            1.0,
            tolerance=1e-9,
            why=SUM,
        )
        lost = _entropy(w, other) - kl
        steps.at_most(
            f"{where}: what the divergence loses",
            [lost, -lost],
            [claim.lost(w, other, distance, var), 0.0],
            tolerance=1e-12,
            why=SUM,
        )
        # a lower bound by the same measure: at least a hundredth of the bound is there
        if distance**2 / (8 * var) < 6:
            steps.at_most(
                f"{where}: a hundredth of the bound on it, and it",
                claim.lost(w, other, distance, var) / 100,
                lost,
            )


CROSSING = claims(
    time=lambda w, a, var, g: (
        w * var * np.sqrt(2 * np.pi * var) / (np.e * g**2 * a) * np.exp(a**2 / (2 * var))
    ),
    along=lambda direction, score: direction.dot(score),
)


@check(
    "prp-crossing-time",
    claim=CROSSING,
    mutants={
        "a² / v in the exponent": CROSSING.but(
            time=lambda w, a, var, g: CROSSING.time(w, a, var, g) * np.exp(a**2 / (2 * var))
        ),
        "without the weight": CROSSING.but(
            time=lambda w, a, var, g: CROSSING.time(w, a, var, g) / w
        ),
        "without v": CROSSING.but(time=lambda w, a, var, g: CROSSING.time(w, a, var, g) / var),
        "g for g²": CROSSING.but(time=lambda w, a, var, g: CROSSING.time(w, a, var, g) * g),
        "the whole score for its part along the line": CROSSING.but(
            along=lambda direction, score: sum(score)
        ),
    },
    covers="that the dynamics along the line are those of the mixture on the line, in the plane; "
    "the bound against the exact mean time for seven choices of weight, distance, variance and g",
    omits="the formula for the mean time itself, which is that of the chapter on diffusions",
)
def crossing_time(steps, claim):
    """The mean time by nested sums; the projected score by differentiation."""
    a, first, second = symbols("a x_1 x_2", real=True)
    w = symbols("w", positive=True)
    direction, place = Matrix([Rational(3, 5), Rational(4, 5)]), Matrix([first, second])

    def density(centre, point):
        return exp(-((point - centre).dot(point - centre)) / (2 * v))

    whole = w * density(-a * direction, place) + (1 - w) * density(a * direction, place)
    score = Matrix([diff(log(whole), z) for z in place])
    line = w * exp(-((x + a) ** 2) / (2 * v)) + (1 - w) * exp(-((x - a) ** 2) / (2 * v))
    steps.equal(
        "the score along the line is that of the mixture on the line",
        claim.along(direction, score).subs(w, Rational(1, 4)),
        diff(log(line), x).subs({x: direction.dot(place), w: Rational(1, 4)}),
    )
    for w, a, var, g in (
        (0.2, 2.0, 0.25, 1.0),
        (0.2, 1.0, 1.0, 1.0),
        (0.0001, 4.0, 0.25, 1.0),
        (0.5, 0.9, 0.04, 1.0),
        (0.5, 2.0, 0.5, 50.0),
        (0.9, 3.0, 0.25, 0.1),
        (0.2, 4.0, 0.25, 1.0),
    ):
        deviation = np.sqrt(var)
        grid = np.linspace(-a, 0, 20_001)
        q = w * norm.pdf(grid, -a, deviation) + (1 - w) * norm.pdf(grid, a, deviation)
        below = w * norm.cdf(grid, -a, deviation) + (1 - w) * norm.cdf(grid, a, deviation)
        exact = 2 / g**2 * np.trapezoid(below / q, grid)
        steps.at_most(
            f"w = {w}, a = {a}, v = {var}, g = {g}: ratio of the bound and the exact mean time",
            claim.time(w, a, var, g) / exact,
            1.0,
        )


# -- many noise levels ---------------------------------------------------------------------------

LARGE = claims(
    rate=lambda g, sigma, alpha, radius: (
        g**2 / (2 * sigma**2) * (1 - alpha**2 * radius**2 / sigma**2)
    ),
)


@check(
    "prp-large-noise",
    claim=LARGE,
    mutants={
        "twice the rate": LARGE.but(
            rate=lambda g, sigma, alpha, radius: 2 * LARGE.rate(g, sigma, alpha, radius)
        ),
        "half the radius": LARGE.but(
            rate=lambda g, sigma, alpha, radius: LARGE.rate(g, sigma, alpha, radius / 2)
        ),
        "alpha left out": LARGE.but(
            rate=lambda g, sigma, alpha, radius: LARGE.rate(g, sigma, 1, radius)
        ),
    },
    covers="that two opposite points have this curvature in the middle, and on a grid nowhere "
    "less; the rate of contraction of a point's noise, which is exact",
    omits="other laws; that curvature implies contraction (the chapter on diffusions)",
)
def large_noise(steps, claim):
    """Curvatures by differentiation; an Ornstein-Uhlenbeck mean from its equation."""
    alpha, radius, g = symbols("alpha R g", positive=True)
    density = sum(exp(-((x - sign * alpha * radius) ** 2) / (2 * sg**2)) for sign in (-1, 1))
    curvature = -diff(log(density), x, 2)
    steps.equal(
        "two opposite points: g² / 2 times the curvature in the middle",
        sympy.simplify(g**2 / 2 * curvature.subs(x, 0)),
        claim.rate(g, sg, alpha, radius),
    )
    mean = Function("m")(t)
    solved = sympy.dsolve(sympy.Eq(diff(mean, t), -(g**2) / (2 * sg**2) * mean), ics={})
    free = solved.rhs.subs(sympy.Symbol("C1"), 1)
    steps.equal(
        "one point: the mean error of the linear equation",
        free,
        exp(-claim.rate(g, sg, alpha, sympy.Integer(0)) * t),
    )
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    for a, sigma, r in ((0.5, 1.3, 2.0), (1.0, 1.5, 1.0)):

        def log_density(y, a=a, sigma=sigma, r=r):
            at = torch.tensor([-r, 0.3 * r, r], dtype=torch.float64)
            return torch.logsumexp(-((y - a * at) ** 2) / (2 * sigma**2), 0)

        curvatures = -torch.func.vmap(torch.func.hessian(log_density))(grid)
        steps.at_most(
            f"three points, alpha = {a}, sigma = {sigma}, R = {r}: the rate with g² = 2, and the "
            "least curvature",
            float(claim.rate(2**0.5, sigma, a, r)),
            float(curvatures.min()),
        )


ANNEALED = claims(
    factor=lambda step, var, sigma: 1 - step * sigma**2 / (var + sigma**2),
    limit=lambda step, var, sigma: (var + sigma**2) / (1 - step / 2 * sigma**2 / (var + sigma**2)),
    variance=lambda n, factor, limit, start: limit + factor ** (2 * n) * (start - limit),
    mean=lambda step, n, var, sigmas: np.exp(
        -step * n * sum(sigma**2 / (var + sigma**2) for sigma in sigmas)
    ),
)


@check(
    "prp-annealed-gaussian",
    claim=ANNEALED,
    mutants={
        "the step of the plain curvature": ANNEALED.but(
            factor=lambda step, var, sigma: 1 - step * sigma**2 / var
        ),
        "no bias of the step": ANNEALED.but(limit=lambda step, var, sigma: var + sigma**2),
        "the whole step in the bias": ANNEALED.but(
            limit=lambda step, var, sigma: (
                (var + sigma**2) / (1 - step * sigma**2 / (var + sigma**2))
            )
        ),
        "n for 2 n": ANNEALED.but(
            variance=lambda n, factor, limit, start: limit + factor**n * (start - limit)
        ),
        "twice the exponent": ANNEALED.but(
            mean=lambda step, n, var, sigmas: np.exp(
                -2 * step * n * sum(sigma**2 / (var + sigma**2) for sigma in sigmas)
            )
        ),
    },
    covers="mean and variance after one, two and three steps of a level, for all rho, s, sigma; "
    "the bound on the mean error for two ladders",
    omits="more steps, where it is the same recursion; the eigenbasis",
)
def annealed_gaussian(steps, claim):
    """The moments of x + h s(x) + sqrt(2 h) xi, step by step."""
    start, error = symbols("V delta", positive=True)
    precision, size = 1 / (s + sg**2), rho * sg**2
    variance, mean = start, error
    for n in (1, 2, 3):
        variance = (1 - size * precision) ** 2 * variance + 2 * size
        mean = mean - size * precision * mean
        factor, limit = claim.factor(rho, s, sg), claim.limit(rho, s, sg)
        steps.equal(f"{n} steps: the mean error", mean, factor**n * error)
        steps.equal(f"{n} steps: the variance", variance, claim.variance(n, factor, limit, start))
    for var, step in ((0.3, 0.2), (4.0, 0.02)):
        sigmas = np.geomspace(10.0, 0.1, 8)
        exact = np.prod([(1 - step * k**2 / (var + k**2)) ** 3 for k in sigmas])
        steps.at_most(
            f"eight levels, s = {var}, rho = {step}: the factor of the mean error and its bound",
            float(exact),
            float(claim.mean(step, 3, var, sigmas)),
        )
