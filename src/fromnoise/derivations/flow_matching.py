"""Checks of the chapter on flow matching."""

from __future__ import annotations

import itertools
from functools import cache

import mpmath
import sympy
import torch
from mpmath import mp
from sympy import Function, Integral, Matrix, diff, expand, integrate, log, pi, sqrt, symbols

from fromnoise.derivations.checking import check, claims
from fromnoise.distributions import laboratory

QUADRATURE = "the trapezoidal rule on analytic functions, in 30 digits"

t, s, end_time = symbols("t s T", positive=True)
alpha, sigma = Function("alpha", positive=True), Function("sigma", positive=True)
d_alpha, d_sigma = diff(alpha(t), t), diff(sigma(t), t)

PLACES, LABELS = range(2), range(3)
CELLS = list(itertools.product(PLACES, LABELS))
place = Matrix(symbols("q_1:3", positive=True))  # the law of (X_t, t), on two places
chance = Matrix(2, 2, symbols("c_11:13 c_21:23", positive=True))
chance = chance.row_join(Matrix([1 - chance[0, 0] - chance[0, 1], 1 - chance[1, 0] - chance[1, 1]]))


def _vectors(name, *numbers, dim=2):
    """A symbolic vector for each index."""
    return {
        index: Matrix(symbols(f"{name}_{'_'.join(str(i + 1) for i in index)}_1:{dim + 1}"))
        for index in itertools.product(*map(range, numbers))
    }


def _upper(matrix):
    """The entries of a symmetric 2 x 2 matrix, each once; expanded, they are quick to compare."""
    return [expand(matrix[i, j]) for i, j in ((0, 0), (0, 1), (1, 1))]


def _mean(function):
    """The expectation of function(place, label)."""
    return sum(
        (place[i] * chance[i, j] * function(i, j) for i, j in CELLS), start=0 * function(0, 0)
    )


def _marginal(labels, i):
    """The conditional mean of the label at a place, and its conditional covariance."""
    mean = sum((chance[i, j] * labels[i, j] for j in LABELS), start=sympy.zeros(2, 1))
    square = sum((chance[i, j] * labels[i, j] * labels[i, j].T for j in LABELS), sympy.zeros(2, 2))
    return mean, square - mean * mean.T


def _trapezoid(function, bound, nodes):
    """The integral of an analytic function, negligible beyond the bound; so many nodes per unit."""
    last = int(nodes * bound)
    return mp.fsum(function(mpmath.mpf(k) / nodes) for k in range(-last, last + 1)) / nodes


class _Atoms:
    """Three data points on the line along a Gaussian path, at one time; everything in mpmath."""

    data = (mpmath.mpf(-1), mpmath.mpf("0.5"), mpmath.mpf(2))
    weights = (mpmath.mpf("0.5"), mpmath.mpf("0.2"), mpmath.mpf("0.3"))

    def __init__(self, time):
        """The straight path at this time."""
        self.alpha, self.sigma = mpmath.mpf(time), 1 - mpmath.mpf(time)

    def over_draws(self, function):
        """E of function(X_t, X_1, epsilon), from the draws."""

        def integrand(e):
            return mp.npdf(e) * mp.fsum(
                w * function(self.alpha * z + self.sigma * e, z, e)
                for w, z in zip(self.weights, self.data, strict=True)
            )

        return _trapezoid(integrand, bound=12, nodes=6)

    def over_places(self, function):
        """E of function(X_t, E[X_1 | X_t], Var[X_1 | X_t]), from the marginal density."""

        def integrand(y):
            x = self.sigma * y
            joint = [
                w * mp.npdf(y - self.alpha * z / self.sigma)
                for w, z in zip(self.weights, self.data, strict=True)
            ]
            density = mp.fsum(joint)
            mean = mp.fsum(p * z for p, z in zip(joint, self.data, strict=True)) / density
            square = mp.fsum(p * z**2 for p, z in zip(joint, self.data, strict=True)) / density
            return density * function(x, mean, square - mean**2)

        return _trapezoid(integrand, bound=12 + 2 * self.alpha / self.sigma, nodes=12)

    def velocity(self, x, mean):
        """The marginal velocity where the posterior has this mean, on the straight path."""
        return mean - (x - self.alpha * mean) / self.sigma


DECOMPOSITION = claims(
    loss=lambda fm, constant: fm + constant,
    constant=lambda target, velocity: (target - velocity).dot(target - velocity),
    trace=lambda covariance: covariance.trace(),
)


@check(
    "thm-cfm-equals-fm",
    claim=DECOMPOSITION,
    mutants={
        "without the constant": DECOMPOSITION.but(loss=lambda fm, constant: fm),
        "the constant subtracted": DECOMPOSITION.but(loss=lambda fm, constant: fm - constant),
        "the second moment of the target for its variance": DECOMPOSITION.but(
            constant=lambda target, velocity: target.dot(target)
        ),
        "half the trace": DECOMPOSITION.but(trace=lambda covariance: covariance.trace() / 2),
    },
    covers="every f and every law with two values of (X_t, t) and three of U at each, in dimension "
    "2; f = 0 and f = sin x for three data points on the straight path, at two times",
    omits="general laws, where the proof conditions under the expectation; the losses that are "
    "infinite",
)
def cfm_equals_fm(steps, claim):
    """Both losses summed from their definitions, for finite laws; quadrature on a Gaussian path."""
    labels, f = _vectors("u", 2, 3), _vectors("f", 2)
    marginal = {i: _marginal(labels, i) for i in PLACES}

    def square(vector):
        return vector.dot(vector)

    cfm = _mean(lambda i, j: square(f[(i,)] - labels[i, j]))
    fm = _mean(lambda i, j: square(f[(i,)] - marginal[i][0]))
    constant = _mean(lambda i, j: claim.constant(labels[i, j], marginal[i][0]))
    trace = _mean(lambda i, j: claim.trace(marginal[i][1]))
    steps.equal(
        "finite law: L_CFM(f) = L_FM(f) + E|U - u|²", expand(cfm), expand(claim.loss(fm, constant))
    )
    steps.equal("finite law: E|U - u|² = E tr Cov[U | X_t]", expand(constant), expand(trace))

    def losses(law, f):
        cfm = law.over_draws(lambda x, z, e: (f(x) - (z - e)) ** 2)
        fm = law.over_places(lambda x, mean, variance: (f(x) - law.velocity(x, mean)) ** 2)
        constant = law.over_places(lambda x, mean, variance: variance / law.sigma**2)
        return cfm, fm, constant

    with mp.workdps(30):
        for time, (name, f) in itertools.product(
            ("0.3", "0.6"), (("0", lambda x: 0), ("sin", mp.sin))
        ):
            cfm, fm, constant = losses(_Atoms(time), f)
            steps.close(
                f"three data points, t = {time}, f = {name}: L_CFM by the draws, L_FM + C by p_t",
                cfm,
                claim.loss(fm, constant),
                tolerance=1e-20,
                why=QUADRATURE,
            )


MINIMIZER = claims(
    minimizer=lambda chances, labels: sum(
        (c * u for c, u in zip(chances, labels, strict=True)), start=0 * labels[0]
    ),
    minimum=lambda constant: constant,
    distance=lambda loss, constant: loss - constant,
)


@check(
    "cor-cfm-minimizer",
    claim=MINIMIZER,
    mutants={
        "the plain mean of the labels that are possible": MINIMIZER.but(
            minimizer=lambda chances, labels: sum(labels[1:], start=labels[0]) / len(labels)
        ),
        "the likeliest label": MINIMIZER.but(minimizer=lambda chances, labels: labels[0]),
        "the minimum zero": MINIMIZER.but(minimum=lambda constant: 0),
        "half the distance": MINIMIZER.but(distance=lambda loss, constant: (loss - constant) / 2),
    },
    covers="every f and every law with two values of (X_t, t) and three of U at each, in dimension "
    "2",
    omits="general laws; sets of probability zero, on which f is free",
)
def cfm_minimizer(steps, claim):
    """The derivative of the conditional loss in the values of f, its value and its growth."""
    labels, f, g = _vectors("u", 2, 3), _vectors("f", 2), _vectors("g", 2)

    def loss(values):
        return _mean(lambda i, j: (values[(i,)] - labels[i, j]).dot(values[(i,)] - labels[i, j]))

    best = {
        (i,): claim.minimizer(list(chance[i, :]), [labels[i, j] for j in LABELS]) for i in PLACES
    }
    at_best = {f[(i,)][k]: best[(i,)][k] for i in PLACES for k in range(2)}
    gradient = Matrix([diff(loss(f), variable) for variable in at_best])
    steps.equal("the derivative of L_CFM in every value of f is 0 at u", gradient.subs(at_best))
    constant = _mean(lambda i, j: _marginal(labels, i)[1].trace())
    steps.equal(
        "the loss of u is C = E tr Cov[U | X_t]",
        expand(loss(best)),
        expand(claim.minimum(constant)),
    )
    moved = {i: best[i] + g[i] for i in best}
    steps.equal(
        "L_CFM(u + g) - C = E|g|², which is positive unless g = 0 almost everywhere",
        expand(claim.distance(loss(moved), constant)),
        expand(sum(place[i] * g[(i,)].dot(g[(i,)]) for i in PLACES)),
    )


GAP = claims(
    kappa=lambda a, sg, da, ds: da - ds * a / sg,
    data=lambda kappa, cov: kappa**2 * cov,
    noise=lambda sg, rate, cov: (sg * rate) ** 2 * cov,
    straight_data=lambda time, variance: variance / (1 - time) ** 2,
    straight_noise=lambda time, variance: variance / time**2,
)


@check(
    "prp-cfm-gap",
    claim=GAP,
    mutants={
        "the other sign in kappa": GAP.but(kappa=lambda a, sg, da, ds: da + ds * a / sg),
        "kappa not squared": GAP.but(data=lambda kappa, cov: kappa * cov),
        "sigma left out in front of the noise": GAP.but(noise=lambda sg, rate, cov: rate**2 * cov),
        "1 - t not squared": GAP.but(straight_data=lambda time, variance: variance / (1 - time)),
        "the two ends swapped": GAP.but(
            straight_noise=lambda time, variance: variance / (1 - time) ** 2
        ),
    },
    covers="every differentiable alpha, sigma > 0, every posterior on three points, in dimension "
    "2; the averages over X_t for three data points on the straight path, by quadrature",
    omits="posteriors that are not finite; the integral over the times, which is the tower rule",
)
def cfm_gap(steps, claim):
    """Covariances from their definition, given X_t = x; C_t from the draws."""
    a, sg, da, ds = symbols("alpha sigma d_alpha d_sigma", positive=True)
    x = Matrix(symbols("x_1:3", real=True))
    chances = [*symbols("c_1:3", positive=True)]
    chances.append(1 - sum(chances))
    data = [Matrix(symbols(f"z_{j}_1:3", real=True)) for j in range(3)]

    def covariance(vectors):
        mean = sum((c * v for c, v in zip(chances, vectors, strict=True)), sympy.zeros(2, 1))
        return sum(
            (c * (v - mean) * (v - mean).T for c, v in zip(chances, vectors, strict=True)),
            sympy.zeros(2, 2),
        )

    noise = [(x - a * z) / sg for z in data]
    target = [da * z + ds * e for z, e in zip(data, noise, strict=True)]
    kappa, of_data = claim.kappa(a, sg, da, ds), covariance(data)
    steps.equal(
        "Cov[U | X_t = x] = kappa² Cov[X_1 | X_t = x]",
        _upper(covariance(target)),
        _upper(claim.data(kappa, of_data)),
    )
    steps.equal(
        "kappa = alpha lambda', with lambda = log(alpha / sigma), for all functions of time",
        claim.kappa(alpha(t), sigma(t), d_alpha, d_sigma),
        alpha(t) * diff(log(alpha(t) / sigma(t)), t),
    )
    steps.equal(
        "Cov[U | X_t = x] = (sigma lambda')² Cov[eps | X_t = x]",
        _upper(covariance(target)),
        _upper(claim.noise(sg, da / a - ds / sg, covariance(noise))),
    )

    def constant(law):
        """C_t from the draws; and the conditional variances of the data and of the noise."""
        whole = law.over_draws(lambda x, z, e: (z - e) ** 2)
        known = law.over_places(lambda x, mean, variance: law.velocity(x, mean) ** 2)
        guess = law.over_places(lambda x, mean, variance: ((x - law.alpha * mean) / law.sigma) ** 2)
        return (
            whole - known,
            law.over_places(lambda x, mean, variance: variance),
            law.over_draws(lambda x, z, e: e**2) - guess,
        )

    with mp.workdps(30):
        law = _Atoms("0.3")
        exact, of_data, of_noise = constant(law)
        steps.close(
            "three data points, straight path, t = 0.3: C_t = E|U|² - E|u|², from the variance of "
            "the data and from that of the noise",
            [
                claim.straight_data(law.alpha, of_data),
                claim.straight_noise(law.alpha, of_noise),
            ],
            [exact, exact],
            tolerance=1e-20,
            why=QUADRATURE,
        )


BOUND = claims(
    worst=lambda a, sg, da, ds, v: (da * sg - a * ds) ** 2 * v / (a**2 * v + sg**2),
    integral=lambda v: pi / 2 * sqrt(v),
    smooth=lambda time, dim, fisher: dim - ((1 - time) / time) ** 2 * fisher,
    ceiling=lambda dim: dim,
    wrong=lambda time, smallest: time * smallest / (2 * (1 - time)),
    finite=lambda time, dim, largest, smallest: (
        16 * largest**2 * dim * (dim + 2) / (time**4 * smallest**4) * (1 - time) ** 2
    ),
)


@cache
def _on_the_laboratory():
    """Eigenvalues of its covariance, its Fisher information, and C_t at four times, on a grid."""
    law, axis = laboratory(), torch.linspace(-7.0, 7.0, 141, dtype=torch.float64)
    plane, cell = torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2
    fisher = float((law.log_prob(plane).exp() * law.score(plane).square().sum(1)).sum() * cell)
    constants = {}
    for time in (0.2, 0.5, 0.8, 0.95):
        p = law.marginal_log_prob(plane, time, 1 - time).exp()
        trace = law.conditional_covariance(plane, time, 1 - time).diagonal(dim1=1, dim2=2).sum(1)
        constants[time] = float((p * trace).sum() * cell) / (1 - time) ** 2
    return torch.linalg.eigvalsh(law.cov).tolist(), fisher, constants


@check(
    "prp-gap-bound",
    claim=BOUND,
    mutants={
        "the difference of the products for their Wronskian": BOUND.but(
            worst=lambda a, sg, da, ds, v: (da * sg + a * ds) ** 2 * v / (a**2 * v + sg**2)
        ),
        "alpha and sigma swapped below": BOUND.but(
            worst=lambda a, sg, da, ds, v: (da * sg - a * ds) ** 2 * v / (sg**2 * v + a**2)
        ),
        "pi for pi / 2": BOUND.but(integral=lambda v: pi * sqrt(v)),
        "the trace of S for that of its root": BOUND.but(integral=lambda v: pi / 2 * v),
        "half the Fisher information": BOUND.but(
            smooth=lambda time, dim, fisher: dim - ((1 - time) / time) ** 2 * fisher / 2
        ),
        "d - 1 for d": BOUND.but(ceiling=lambda dim: dim - 1),
        "d (d + 1) for the fourth moment of the noise": BOUND.but(
            finite=lambda time, dim, largest, smallest: (
                16 * largest**2 * dim * (dim + 1) / (time**4 * smallest**4) * (1 - time) ** 2
            )
        ),
        "a guess safe up to the whole distance": BOUND.but(
            wrong=lambda time, smallest: time * smallest / (1 - time),
            finite=lambda time, dim, largest, smallest: (
                largest**2 * dim * (dim + 2) / (time**4 * smallest**4) * (1 - time) ** 2
            ),
        ),
    },
    covers="part 1: the error of the best affine guess, for all alpha, sigma > 0 and every two "
    "eigenvalues of S, that it is the error for Gaussian data, and the integral over the times; "
    "parts 1 and 2 on the laboratory at four times; the bounds in the proof of part 3 for three "
    "data points on the line at two times",
    omits="that no guess beats the conditional mean (the projection theorem); other densities in "
    "part 2 and other finite sets in part 3, for which it is the proof",
)
def gap_bound(steps, claim):
    """The error of linear regression, an antiderivative, and exact constants on three laws."""
    a, sg, da, ds = symbols("alpha sigma d_alpha d_sigma", positive=True)
    v, other = symbols("v s_2", positive=True)
    basis = Matrix([[3, -4], [4, 3]]) / 5  # a rotation
    data, noise = basis * sympy.diag(v, other) * basis.T, sympy.eye(2)
    both, point = da * a * data + ds * sg * noise, a**2 * data + sg**2 * noise
    error = da**2 * data + ds**2 * noise - both * point.inv() * both
    steps.equal(
        "the best affine guess of U from X_t, in the plane: the error is the trace of "
        "Cov U - Cov(U, X_t) Cov(X_t)^-1 Cov(X_t, U), a sum over the eigenvalues of S",
        error.trace(),
        claim.worst(a, sg, da, ds, v) + claim.worst(a, sg, da, ds, other),
    )
    steps.equal(
        "N(0, v): kappa² over the precision 1 / v + alpha² / sigma² of the posterior",
        (da - ds * a / sg) ** 2 / (1 / v + a**2 / sg**2),
        claim.worst(a, sg, da, ds, v),
    )
    straight = claim.worst(t, 1 - t, sympy.Integer(1), sympy.Integer(-1), v)
    inverse = sqrt(v) * sympy.atan(sqrt(v) * t / (1 - t))
    steps.equal("straight path: an antiderivative in t", diff(inverse, t), straight)
    steps.equal(
        "its limits at 0 and 1",
        sympy.limit(inverse, t, 1, "-") - inverse.subs(t, 0),
        claim.integral(v),
    )

    eigenvalues, fisher, constants = _on_the_laboratory()
    for time, constant in constants.items():
        steps.at_most(
            f"laboratory, t = {time}: C_t, and that of Gaussian data of its covariance",
            constant,
            sum(claim.worst(time, 1 - time, 1.0, -1.0, v) for v in eigenvalues),
        )
        steps.at_most(
            f"laboratory, t = {time}: d - ((1 - t) / t)² J(p) and t² C_t",
            claim.smooth(time, 2, fisher),
            time**2 * constant,
        )
        steps.at_most(f"laboratory, t = {time}: t² C_t and d", time**2 * constant, claim.ceiling(2))
    ratio = sympy.Symbol("r", positive=True)  # (1 - t) / t
    low = claim.smooth(t, 1, 1 / v).subs(t, 1 / (1 + ratio))
    steps.equal(
        "N(0, v), for which J = 1 / v: t² C_t = d - r² J + O(r⁴) with r = (1 - t) / t, so the "
        "bound can't be better",
        sympy.series((t**2 * straight).subs(t, 1 / (1 + ratio)).simplify(), ratio, 0, 4).removeO(),
        sympy.expand(low.simplify()),
    )

    dim, radius = symbols("d r", positive=True)
    weight = radius ** (dim - 1) * sympy.exp(-(radius**2) / 2)
    fourth = integrate(radius**4 * weight, (radius, 0, sympy.oo)) / integrate(
        weight, (radius, 0, sympy.oo)
    )
    largest, smallest = symbols("Delta delta", positive=True)
    steps.equal(
        "finite data: Delta² / (1 - t)² times E|eps|⁴ / r⁴ with r = t delta / 2 (1 - t) (Markov)",
        sympy.gammasimp(fourth) * largest**2 / (1 - t) ** 2 / claim.wrong(t, smallest) ** 4,
        claim.finite(t, dim, largest, smallest),
    )
    with mp.workdps(30):
        for time in ("0.5", "0.8"):
            law, now = _Atoms(time), mpmath.mpf(time)
            chance_of_noise = mp.erfc(claim.wrong(now, mpmath.mpf("1.5")) / mp.sqrt(2))
            steps.at_most(
                f"three data points, t = {time}: C_t, and Delta² / (1 - t)² times P(|eps| >= r)",
                law.over_places(lambda x, mean, variance: variance) / law.sigma**2,
                3**2 * chance_of_noise / law.sigma**2,
            )


GRADIENT = claims(
    conditional=lambda jacobian, f, target: 2 * jacobian.T * (f - target),
    marginal=lambda jacobian, f, velocity: 2 * jacobian.T * (f - velocity),
)


@check(
    "thm-cfm-gradient",
    claim=GRADIENT,
    mutants={
        "without the factor 2": GRADIENT.but(
            conditional=lambda jacobian, f, target: jacobian.T * (f - target)
        ),
        "the other sign": GRADIENT.but(
            marginal=lambda jacobian, f, velocity: 2 * jacobian.T * (velocity - f)
        ),
        "the Jacobian not transposed": GRADIENT.but(
            conditional=lambda jacobian, f, target: 2 * jacobian * (f - target)
        ),
        "the velocity left out": GRADIENT.but(
            marginal=lambda jacobian, f, velocity: 2 * jacobian.T * f
        ),
    },
    covers="every differentiable f with two parameters, for two values of (X_t, t) and three of U "
    "at each, in dimension 2; one neuron with three parameters, on the straight path to three data "
    "points at t = 1/2, at one value of the parameters",
    omits="the domination that allows to differentiate under other expectations; continuity",
)
def cfm_gradient(steps, claim):
    """The derivative of the whole loss against the mean of the gradient of one draw."""
    theta = symbols("theta_1:3", real=True)
    labels = _vectors("u", 2, 3)
    f = {i: Matrix([Function(f"f_{i}_{k}")(*theta) for k in range(2)]) for i in PLACES}
    marginal = {i: _marginal(labels, i)[0] for i in PLACES}

    def gradient(target):
        loss = _mean(lambda i, j: (f[i] - target(i, j)).dot(f[i] - target(i, j)))
        return Matrix([diff(loss, parameter) for parameter in theta])

    conditional = _mean(lambda i, j: claim.conditional(f[i].jacobian(theta), f[i], labels[i, j]))
    whole = gradient(lambda i, j: labels[i, j])
    steps.equal("finite law: the derivative of L_CFM, and the mean over draws", whole, conditional)
    steps.equal(
        "finite law: the derivative of L_FM, and its mean",
        gradient(lambda i, j: marginal[i]),
        _mean(lambda i, j: claim.marginal(f[i].jacobian(theta), f[i], marginal[i])),
    )
    slopes = {i: Matrix(2, 2, symbols(f"j_{i}_1:5")) for i in PLACES}
    values = {i: vector for (i,), vector in _vectors("v", 2).items()}
    steps.equal(
        "finite law: both means agree, for every Jacobian and every value of f",
        _mean(lambda i, j: claim.conditional(slopes[i], values[i], labels[i, j])).expand(),
        _mean(lambda i, j: claim.marginal(slopes[i], values[i], marginal[i])).expand(),
    )

    def neuron(x, a, w, b):
        return a * mp.tanh(w * x + b)

    def jacobian(x, a, w, b):
        slope = a * (1 - mp.tanh(w * x + b) ** 2)
        return mpmath.matrix([[mp.tanh(w * x + b), slope * x, slope]])

    def entry(k, formula, x, target):
        value, row = mpmath.matrix([neuron(x, *at)]), jacobian(x, *at)
        # `jacobian.T * vector` as the claim has it; one row times one number either way round
        return (formula(row, value, mpmath.matrix([target])))[k]

    at = (mpmath.mpf("1.2"), mpmath.mpf("0.7"), mpmath.mpf("-0.3"))
    with mp.workdps(30):
        law = _Atoms("0.5")
        exact = [
            mp.diff(lambda *a: law.over_draws(lambda x, z, e: (neuron(x, *a) - z + e) ** 2), at, n)
            for n in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        ]
        draws = [
            law.over_draws(lambda x, z, e, k=k: entry(k, claim.conditional, x, z - e))
            for k in range(3)
        ]
        places = [
            law.over_places(
                lambda x, mean, _, k=k: entry(k, claim.marginal, x, law.velocity(x, mean))
            )
            for k in range(3)
        ]
        for name, value in (("conditional", draws), ("marginal", places)):
            steps.close(
                f"one neuron, three data points: derivative of L_CFM, mean {name} gradient",
                value,
                exact,
                tolerance=1e-20,
                why="numerical differentiation of the integral in 30 digits",
            )


VARIANCE = claims(
    split=lambda marginal, mean: marginal + 4 * mean(lambda jac, cov: jac.T * cov * jac),
    batch=lambda cov, size: cov / size,
)


@check(
    "prp-gradient-variance",
    claim=VARIANCE,
    mutants={
        "2 for 4": VARIANCE.but(
            split=lambda marginal, mean: marginal + 2 * mean(lambda jac, cov: jac.T * cov * jac)
        ),
        "the Jacobian on the other side": VARIANCE.but(
            split=lambda marginal, mean: marginal + 4 * mean(lambda jac, cov: jac * cov * jac.T)
        ),
        "the noise subtracted": VARIANCE.but(
            split=lambda marginal, mean: marginal - 4 * mean(lambda jac, cov: jac.T * cov * jac)
        ),
        "the root of the batch size": VARIANCE.but(batch=lambda cov, size: cov / sqrt(size)),
        "the pairs of a batch": VARIANCE.but(batch=lambda cov, size: cov / (size * (size - 1))),
    },
    covers="every f, Jacobian and target for two values of (X_t, t) and two of U at each, in "
    "dimension 2 with two parameters; batches of two and of three draws",
    omits="general laws, where it is the law of total covariance; larger batches",
)
def gradient_variance(steps, claim):
    """Covariances of the gradient of one draw, and of two, from their definition."""
    jacobian = [Matrix(2, 2, symbols(f"j_{i}_1:5")) for i in PLACES]
    wrong, apart = _vectors("e", 2), _vectors("d", 2)  # f - u; the distance of the two labels
    p, c = symbols("p c", positive=True)
    outcomes = [(0, 0, p * c), (0, 1, p * (1 - c)), (1, 0, (1 - p) * c), (1, 1, (1 - p) * (1 - c))]
    noise = {(i, 0): (1 - c) * apart[(i,)] for i in PLACES}  # U - u, of mean zero at each place
    noise |= {(i, 1): -c * apart[(i,)] for i in PLACES}
    spread = [
        c * noise[i, 0] * noise[i, 0].T + (1 - c) * noise[i, 1] * noise[i, 1].T for i in PLACES
    ]

    def mean(function):
        return sum((q * function(i, j) for i, j, q in outcomes), start=0 * function(0, 0))

    def covariance(gradient):
        first = mean(gradient)
        return mean(lambda i, j: gradient(i, j) * gradient(i, j).T) - first * first.T

    def of_draw(i, j):
        return 2 * jacobian[i].T * (wrong[(i,)] - noise[i, j])

    def of_place(i, j):
        return 2 * jacobian[i].T * wrong[(i,)]

    steps.equal(
        "Cov(g) = Cov(g of the marginal loss) + 4 E[J^T Cov[U | X_t] J]",
        _upper(covariance(of_draw)),
        _upper(
            claim.split(
                covariance(of_place),
                lambda form: mean(lambda i, j: form(jacobian[i], spread[i])),
            )
        ),
    )
    g = symbols("g_1:4")
    chances = [p, c, 1 - p - c]
    first = sum(q * a for q, a in zip(chances, g, strict=True))
    one = sum(q * (a - first) ** 2 for q, a in zip(chances, g, strict=True))
    draws = list(zip(chances, g, strict=True))
    for size in (2, 3):
        batches = itertools.product(draws, repeat=size)
        variance = sum(
            sympy.prod(q for q, _ in batch) * (sum(a for _, a in batch) / size - first) ** 2
            for batch in batches
        )
        steps.equal(
            f"the mean of {size} independent draws has the variance of one over {size}",
            variance,
            claim.batch(one, size),
        )


TIMES = claims(
    estimator=lambda w, q, g: w / q * g,
    best=lambda w, m, total: w * sqrt(m) / total,
    least=lambda total: total**2,
)


@check(
    "prp-time-sampling",
    claim=TIMES,
    mutants={
        "without the root": TIMES.but(best=lambda w, m, total: w * m / total),
        "without the weight": TIMES.but(best=lambda w, m, total: sqrt(m) / total),
        "the integral not squared": TIMES.but(least=lambda total: total),
        "the density for its inverse": TIMES.but(estimator=lambda w, q, g: w * q * g),
        "the weight forgotten in the estimator": TIMES.but(estimator=lambda w, q, g: g / q),
    },
    covers="every weight w, second moment m and density q, all positive",
    omits="times at which w, m or q vanishes; that the integrals are finite",
)
def time_sampling(steps, claim):
    """The excess over the least second moment as the integral of a square; an example."""
    w, m, q = (Function(name, positive=True)(t) for name in "wmq")
    g = sympy.Symbol("g")
    steps.equal(
        "the mean: q times the estimator is w g, whatever q", q * claim.estimator(w, q, g), w * g
    )
    total = sympy.Symbol("Z", positive=True)  # the integral of w sqrt(m)
    best, least = claim.best(w, m, total), claim.least(total)
    steps.equal(
        "w² m / q - Z² (2 q* - q) = Z² (q - q*)² / q; its integral over t is the second moment "
        "with q, less Z², and not negative",
        q * claim.estimator(w, q, sqrt(m)) ** 2 - least * (2 * best - q),
        least * (q - best) ** 2 / q,
    )
    weight, moment = t, (1 + t) ** 2
    total = integrate(weight * (1 + t), (t, 0, 1))
    best = claim.best(weight, moment, total)
    steps.equal("w = t, m = (1 + t)²: q* is a density", integrate(best, (t, 0, 1)), 1)
    steps.equal(
        "and the second moment with it is the least",
        integrate(sympy.cancel(weight**2 * moment / best), (t, 0, 1)),
        claim.least(total),
    )


ERROR = claims(
    bound=lambda ell, e, end: Integral(
        sympy.exp(Integral(ell(s), (s, t, end))) * e(t), (t, 0, end)
    ),
    loss=lambda lip, end, loss: (sympy.exp(2 * lip * end) - 1) / (2 * lip) * loss,
)


@cache
def _shift(rate, error):
    """Y - X at time T, for u = rate x and v = u + error: SymPy solves y' = rate y + error."""
    y = Function("y")
    solution = sympy.dsolve(diff(y(t), t) - rate * y(t) - error, y(t), ics={y(0): 0})
    return solution.rhs.subs(t, end_time)


@check(
    "thm-velocity-error-w2",
    claim=ERROR,
    mutants={
        "the rate before t instead of after": ERROR.but(
            bound=lambda ell, e, end: Integral(
                sympy.exp(Integral(ell(s), (s, 0, t))) * e(t), (t, 0, end)
            )
        ),
        "without the amplification": ERROR.but(
            bound=lambda ell, e, end: Integral(e(t), (t, 0, end))
        ),
        "the other sign of the rate": ERROR.but(
            bound=lambda ell, e, end: Integral(
                sympy.exp(-Integral(ell(s), (s, t, end))) * e(t), (t, 0, end)
            )
        ),
        "the factor 2 lost": ERROR.but(
            loss=lambda lip, end, loss: (sympy.exp(lip * end) - 1) / lip * loss
        ),
        "the length of the interval forgotten": ERROR.but(
            loss=lambda lip, end, loss: (sympy.exp(2 * lip) - 1) / (2 * lip) * loss
        ),
        "the denominator L": ERROR.but(
            loss=lambda lip, end, loss: (sympy.exp(2 * lip * end) - 1) / lip * loss
        ),
    },
    covers="on the line, u = ell(t) x and v = u + e(t) with every ell and e: Y - X is the bound at "
    "every T; the bound by the loss for ell = L and ell = -L, where it is an equality, at every T; "
    "u = 0 and v = sin x at T = 1, by quadrature",
    omits="general fields: that the one-sided constant bounds their growth is Grönwall's lemma; "
    "dimensions above one",
)
def velocity_error_w2(steps, claim):
    """Linear fields, where the distance solves a linear equation; a field that is not linear."""
    steps.equal(
        "u = x / (1 + t), v = u + 1 + t: Y - X and the bound",
        _shift(1 / (1 + t), 1 + t),
        claim.bound(lambda r: 1 / (1 + r), lambda r: 1 + r, end_time).doit(),
    )
    lip, c = symbols("L c", positive=True)
    for sign in (1, -1):
        rate = sign * lip
        error = c * sympy.exp(rate * (end_time - t))  # then Cauchy-Schwarz is an equality
        steps.equal(
            f"ell = {'-' if sign < 0 else ''}L, e = c exp(ell (T - t)): W_2² and its bound by the "
            "loss are equal at every T",
            _shift(rate, error) ** 2,
            claim.loss(rate, end_time, integrate(error**2, (t, 0, end_time))),
        )

    ell, e = Function("ell", real=True), Function("e", positive=True)
    bound = claim.bound(ell, e, end_time)
    steps.equal(
        "u = ell x, v = ell x + e: the bound solves y' = ell y + e, as Y - X does",
        diff(bound, end_time),
        ell(end_time) * bound + e(end_time),
    )
    steps.equal("and begins at 0, as Y - X does", bound.subs(end_time, 0).doit())

    with mp.workdps(30):
        end = mpmath.mpf(1)
        size = mp.sqrt(mp.quad(lambda x: mp.sin(x) ** 2, [0, 1]))  # X_t uniform on [0, 1]
        moved = mp.sqrt(
            mp.quad(lambda x: (2 * mp.atan(mp.exp(end) * mp.tan(x / 2)) - x) ** 2, [0, 1])
        )
        allowed = claim.bound(lambda _: sympy.Integer(1), lambda _: sympy.Float(size, 30), 1)
        steps.at_most(
            "u = 0, v = sin x, X uniform on [0, 1]: W_2 (the map is increasing) and the bound",
            moved,
            allowed.doit(),
        )
        steps.at_most(
            "the same: W_2² and the bound by the loss", moved**2, claim.loss(1, 1, size**2)
        )
