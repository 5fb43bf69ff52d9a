"""Checks of the chapter on latent diffusion."""

from __future__ import annotations

import itertools

import sympy
from sympy import Matrix, Rational, diff, expand_log, log, symbols

from fromnoise.derivations.checking import check, claims

# Two data, two latents: every law of x, every encoder and decoder, every second stage.
PLACES = list(itertools.product(range(2), range(2)))


def _simplex(name, n):
    """n positive numbers with sum 1, from n free ones."""
    free = symbols(f"{name}_1:{n + 1}", positive=True)
    return [v / sum(free) for v in free]


def _logs(expression):
    return expand_log(expression, force=True)


BOUND = claims(
    total=lambda reconstruction, entropy, cross: reconstruction + entropy - cross,
    gap=lambda total, gap: total + gap,
    second=lambda total, gap: total - gap,
)


@check(
    "thm-two-stage-bound",
    claim=BOUND,
    mutants={
        "the entropy subtracted": BOUND.but(total=lambda r, h, c: r - h - c),
        "the entropy left out": BOUND.but(total=lambda r, h, c: r - c),
        "the cross-entropy added": BOUND.but(total=lambda r, h, c: r + h + c),
        "no gap": BOUND.but(gap=lambda total, gap: total),
        "the second stage's gap added": BOUND.but(second=lambda total, gap: total + gap),
    },
    covers="every decoder, encoder and second stage with three latent values and one x; the second "
    "stage's own bound with two hidden values for each latent",
    omits="general latents, where the same logarithms are integrated",
)
def two_stage_bound(steps, claim):
    """Finite sums: log p(x), the three terms and the relative entropies, from the definitions."""
    p, q = _simplex("p", 3), _simplex("q", 3)
    likelihood = symbols("l_1:4", positive=True)
    evidence = sum(a * b for a, b in zip(p, likelihood, strict=True))
    reconstruction = sum(c * log(b) for b, c in zip(likelihood, q, strict=True))
    entropy = -sum(c * log(c) for c in q)
    cross = -sum(c * log(a) for a, c in zip(p, q, strict=True))
    total = claim.total(reconstruction, entropy, cross)
    gap = sum(c * log(c * evidence / (a * b)) for a, b, c in zip(p, likelihood, q, strict=True))
    steps.equal("log p(x)", _logs(log(evidence)), _logs(claim.gap(total, gap)))
    # The second stage bounds log p(z) by E_r[log p(z, h) - log r(h | z)], with a gap for each z.
    joint = [symbols(f"j_{i}_1:3", positive=True) for i in range(3)]
    hidden = [_simplex(f"r_{i}", 2) for i in range(3)]
    bounds = [
        sum(r * log(j / r) for j, r in zip(js, rs, strict=True))
        for js, rs in zip(joint, hidden, strict=True)
    ]
    gaps = [
        sum(r * log(r * sum(js) / j) for j, r in zip(js, rs, strict=True))
        for js, rs in zip(joint, hidden, strict=True)
    ]
    exact = -sum(c * log(sum(js)) for js, c in zip(joint, q, strict=True))
    bounded = -sum(c * b for b, c in zip(bounds, q, strict=True))
    lost = sum(c * g for g, c in zip(gaps, q, strict=True))
    steps.equal(
        "with a bound on log p(z) the total is less by that bound's mean gap",
        _logs(reconstruction + entropy - bounded),
        _logs(claim.second(reconstruction + entropy - exact, lost)),
    )


AGGREGATE = claims(
    mean=lambda information, divergence: information + divergence,
    best=lambda aggregated, i: aggregated[i],
    gaussian=lambda mean, variance: (mean, variance),
)


@check(
    "prp-aggregated-posterior",
    claim=AGGREGATE,
    mutants={
        "without the information": AGGREGATE.but(mean=lambda i, d: d),
        "without the divergence": AGGREGATE.but(mean=lambda i, d: i),
        "the divergence subtracted": AGGREGATE.but(mean=lambda i, d: i - d),
        "a uniform second stage": AGGREGATE.but(best=lambda aggregated, i: Rational(1, 2)),
        "a Gaussian about 0": AGGREGATE.but(gaussian=lambda m, v: (0, v)),
        "the second moment for the variance": AGGREGATE.but(gaussian=lambda m, v: (m, v + m**2)),
    },
    covers="two data with any weights, two latents, every encoder and every second stage; Gaussian "
    "second stages in one dimension, of every aggregated posterior, by its two moments",
    omits="general latents, where the same logarithms are integrated; Gaussians in more dimensions",
)
def aggregated_posterior(steps, claim):
    """The mean of KL(q(z | x) || p) over x, by its definition, and its stationary point."""
    weights, p = _simplex("w", 2), _simplex("p", 2)
    encoder = [_simplex(f"q_{x}", 2) for x in range(2)]
    aggregated = [sum(weights[x] * encoder[x][z] for x in range(2)) for z in range(2)]
    price = sum(weights[x] * encoder[x][z] * (log(encoder[x][z]) - log(p[z])) for x, z in PLACES)
    information = sum(
        weights[x] * encoder[x][z] * (log(encoder[x][z]) - log(aggregated[z])) for x, z in PLACES
    )
    divergence = sum(a * (log(a) - log(b)) for a, b in zip(aggregated, p, strict=True))
    steps.equal("the mean price", _logs(price), _logs(claim.mean(information, divergence)))
    s = sympy.Symbol("s", positive=True)
    cross = -aggregated[0] * log(s) - aggregated[1] * log(1 - s)
    at = claim.best(aggregated, 0)
    steps.equal("the best second stage is stationary", diff(cross, s).subs(s, at), 0)
    # E[-log N(z; a, c)] for z with these moments, less its value at the claimed a and c
    m, a = symbols("m a", real=True)
    v, c = symbols("v c", positive=True)
    nats = log(2 * sympy.pi * c) / 2 + (v + (m - a) ** 2) / (2 * c)
    best = dict(zip((a, c), claim.gaussian(m, v), strict=True))
    # KL(N(m, v) || N(a, c)), from the formula of two normal laws: 0 only for equal ones
    divergence = (log(c / v) + (v + (m - a) ** 2) / c - 1) / 2
    steps.equal(
        "another Gaussian costs its divergence from the best one more",
        _logs(nats - nats.subs(best, simultaneous=True)),
        _logs(divergence),
    )


SCALE = claims(
    variance=lambda of_means, mean_variance: of_means + mean_variance,
    density=lambda log_density, d, std: log_density - d * log(std),
)


@check(
    "prp-latent-scale",
    claim=SCALE,
    mutants={
        "the variance of the means alone": SCALE.but(variance=lambda a, b: a),
        "the mean variance alone": SCALE.but(variance=lambda a, b: b),
        "the logarithm added": SCALE.but(density=lambda p, d, std: p + d * log(std)),
        "the variance for the std": SCALE.but(density=lambda p, d, std: p - 2 * d * log(std)),
        "one coordinate's volume for all": SCALE.but(density=lambda p, d, std: p - log(std)),
    },
    covers="three posteriors with any weights, means and variances; the density of normal latents "
    "in two dimensions, every mean, variance and scale",
    omits="other laws, by the law of total variance and the change of variables",
)
def latent_scale(steps, claim):
    """Moments of a mixture from its definition; the density of a scaled normal law, both ways."""
    weights = _simplex("w", 3)
    means, variances = symbols("m_1:4", real=True), symbols("v_1:4", positive=True)
    mean = sum(w * m for w, m in zip(weights, means, strict=True))
    second = sum(w * (m**2 + v) for w, m, v in zip(weights, means, variances, strict=True))
    of_means = sum(w * (m - mean) ** 2 for w, m in zip(weights, means, strict=True))
    inside = sum(w * v for w, v in zip(weights, variances, strict=True))
    total = claim.variance(of_means, inside)
    steps.equal("the variance of the mixture", second - mean**2, total)
    steps.equal("after scaling it is 1", (second - mean**2) / total, 1)
    z = symbols("z_1:3", real=True)
    m, a = symbols("mu a", real=True)
    s, v = symbols("s v", positive=True)

    def log_normal(points, mean, variance):
        return sum(
            -((y - mean) ** 2) / (2 * variance) - log(2 * sympy.pi * variance) / 2 for y in points
        )

    # if (z - a) / s is N(m, v) in each coordinate, then z is N(a + s m, s^2 v)
    inside = log_normal([(y - a) / s for y in z], m, v)
    steps.equal(
        "the density of z",
        _logs(log_normal(z, a + s * m, s**2 * v)),
        _logs(claim.density(inside, 2, s)),
    )


DECODE = claims(
    draw=lambda error, noise, d: error + d * noise,
    other=lambda error, distance: error + distance,
)


@check(
    "prp-decode-mean",
    claim=DECODE,
    mutants={
        "a draw as good as the mean": DECODE.but(draw=lambda e, v, d: e),
        "the noise once for all coordinates": DECODE.but(draw=lambda e, v, d: e + v),
        "the noise twice": DECODE.but(draw=lambda e, v, d: e + 2 * d * v),
        "another function as good": DECODE.but(other=lambda e, g: e),
        "another function better": DECODE.but(other=lambda e, g: e - g),
    },
    covers="three values of x in the plane with any weights given z, every function of z, and "
    "noise with mean 0 and four equally likely values",
    omits="general laws: only first and second moments enter",
)
def decode_mean(steps, claim):
    """The squared error given z, summed over the values of x and of the noise."""
    weights = _simplex("w", 3)
    points = [Matrix(symbols(f"x_{i}_1:3", real=True)) for i in range(3)]
    v = sympy.Symbol("v", positive=True)
    mean = sum((w * p for w, p in zip(weights, points, strict=True)), sympy.zeros(2, 1))

    def error(guess):
        return sum(w * (p - guess).dot(p - guess) for w, p in zip(weights, points, strict=True))

    shift = Matrix(symbols("h_1:3", real=True))
    steps.equal(
        "another function of z",
        error(mean + shift),
        claim.other(error(mean), shift.dot(shift)),
    )
    noises = [sympy.sqrt(v) * Matrix(signs) for signs in itertools.product((1, -1), repeat=2)]
    drawn = sum(error(mean + e) for e in noises) / 4
    steps.equal("a draw", drawn, claim.draw(error(mean), v, 2))


NOISE = claims(
    best=lambda square, d: square / d,
    value=lambda square, d: -Rational(1, 2) * d * (1 + log(2 * sympy.pi * square / d)),
    less=lambda d, r: d * (1 / r - 1 + log(r)) / 2,
    beta=lambda beta, noise: beta * noise,
)


@check(
    "prp-kl-against-reconstruction",
    claim=NOISE,
    mutants={
        "the sum for the mean": NOISE.but(best=lambda square, d: square),
        "half of it": NOISE.but(best=lambda square, d: square / (2 * d)),
        "the value without the 1": NOISE.but(
            value=lambda square, d: -d * log(2 * sympy.pi * square / d) / 2
        ),
        "r for 1 / r": NOISE.but(less=lambda d, r: d * (r - 1 - log(r)) / 2),
        "the loss twice": NOISE.but(less=lambda d, r: d * (1 / r - 1 + log(r))),
        "beta the other way": NOISE.but(beta=lambda beta, noise: noise / beta),
        "beta squared": NOISE.but(beta=lambda beta, noise: beta**2 * noise),
    },
    covers="every mean squared error, dimension, noise and beta",
    omits="nothing",
)
def kl_against_reconstruction(steps, claim):
    """The Gaussian reconstruction term as a function of its variance, and of beta."""
    square, d, v, beta, kl = symbols("S d v beta K", positive=True)

    def fit(variance):
        return -square / (2 * variance) - d * log(2 * sympy.pi * variance) / 2

    best = claim.best(square, d)
    steps.equal("stationary in the variance", diff(fit(v), v).subs(v, best), 0)
    r = symbols("r", positive=True)  # variance = r S / d
    less = claim.less(d, r)
    steps.equal("elsewhere it is less", _logs(fit(best) - fit(r * square / d)), _logs(less))
    # which falls up to r = 1 and grows from there: a maximum, and the only one
    steps.equal("the loss is 0 at r = 1", less.subs(r, 1), 0)
    steps.equal("its slope has the sign of r - 1", diff(less, r), d * (r - 1) / (2 * r**2))
    steps.equal("the value there", _logs(fit(best)), _logs(claim.value(square, d)))
    # Encoder and decoder's mean enter by S and K alone: the objective with beta and v, and beta
    # times the bound with the variance beta v, differ by what depends on neither.
    one = fit(v) - beta * kl
    bound = fit(v).subs(v, claim.beta(beta, v)) - kl
    for name, by in (("S", square), ("K", kl)):
        steps.equal(f"beta is a variance: slopes in {name}", diff(one, by), beta * diff(bound, by))
