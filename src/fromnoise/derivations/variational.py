"""Checks of the chapter on the variational view."""

from __future__ import annotations

import itertools

import mpmath
import sympy
from mpmath import mp
from sympy import Matrix, Rational, diff, exp, log, sqrt, symbols

from fromnoise.derivations.checking import check, claims

QUADRATURE = "tanh-sinh quadrature of smooth functions, in 30 digits"

# A step of the chain: alpha and sigma at the noisier and at the cleaner time. The SNR of the
# cleaner one is larger by a positive number, so that every value of the symbols is allowed.
at, st, ss, rise = symbols("alpha_t sigma_t sigma_s rise", positive=True)
snr_t = at**2 / st**2
snr_s = snr_t + rise
al = sqrt(snr_s) * ss  # alpha_s
x, data = symbols("x X_1", real=True)
RATIO = snr_t / snr_s


def _gaussian_kl(mean_a, a, mean_b, b):
    """KL of two normal laws on the line with variances a and b."""
    return ((mean_a - mean_b) ** 2 / b + a / b - 1 - log(a / b)) / 2


ELBO = claims(
    total=lambda elbo, kl: elbo + kl,
    split=lambda reconstruction, kl: reconstruction - kl,
)


@check(
    "thm-elbo",
    claim=ELBO,
    mutants={
        "the bound without the gap": ELBO.but(total=lambda elbo, kl: elbo),
        "the gap with the opposite sign": ELBO.but(total=lambda elbo, kl: elbo - kl),
        "the price added": ELBO.but(split=lambda reconstruction, kl: reconstruction + kl),
    },
    covers="every joint law of x and a latent with three values, and every q on them",
    omits="general latents, where the same logarithms are integrated",
)
def elbo(steps, claim):
    """Finite sums: log p(x), the bound, and both relative entropies."""
    prior = symbols("p_1:4", positive=True)
    likelihood = symbols("l_1:4", positive=True)
    weights = symbols("q_1:4", positive=True)
    q = [w / sum(weights) for w in weights]
    p = [v / sum(prior) for v in prior]
    evidence = sum(a * b for a, b in zip(p, likelihood, strict=True))
    bound = sum(c * (log(a * b) - log(c)) for a, b, c in zip(p, likelihood, q, strict=True))
    gap = sum(c * log(c * evidence / (a * b)) for a, b, c in zip(p, likelihood, q, strict=True))
    steps.equal(
        "log p(x) = ELBO + KL",
        sympy.expand_log(log(evidence), force=True),
        sympy.expand_log(claim.total(bound, gap), force=True),
    )
    reconstruction = sum(c * log(b) for b, c in zip(likelihood, q, strict=True))
    price = sum(c * log(c / a) for a, c in zip(p, q, strict=True))
    steps.equal(
        "ELBO = reconstruction - KL from the prior",
        sympy.expand_log(bound, force=True),
        sympy.expand_log(claim.split(reconstruction, price), force=True),
    )


@check(
    "prp-reparameterization-gradient",
    claim=lambda df, dm, ds, e: df * (dm + ds * e),
    mutants={
        "without the derivative of s": lambda df, dm, ds, e: df * dm,
        "without epsilon": lambda df, dm, ds, e: df * (dm + ds),
        "the derivative of f left out": lambda df, dm, ds, e: dm + ds * e,
    },
    covers="polynomials of degree up to 5 in z and exp(z), every m and s",
    omits="other functions, where dominated convergence exchanges mean and derivative",
)
def reparameterization(steps, claim):
    """Both sides by SymPy's integrals against the normal density."""
    phi, e = symbols("phi e", real=True)
    m, s = sympy.Function("m")(phi), sympy.Function("s", positive=True)(phi)
    mv, sv, dm, ds = symbols("m s dm ds", positive=True)
    c = symbols("c_0:6", real=True)
    moments = {0: 1, 1: 0, 2: 1, 3: 0, 4: 3, 5: 0, 6: 15}

    def mean(polynomial):
        """E of a polynomial in e, by the moments of the normal law."""
        terms = sympy.Poly(sympy.expand(polynomial), e).all_terms()
        return sum(coefficient * moments[power[0]] for power, coefficient in terms)

    def plain(expression):
        return expression.subs({diff(m, phi): dm, diff(s, phi): ds}).subs({m: mv, s: sv})

    z = symbols("z", real=True)
    f = sum(a * z**k for k, a in enumerate(c))
    left = plain(diff(mean(f.subs(z, m + s * e)), phi))
    right = mean(claim(diff(f, z).subs(z, mv + sv * e), dm, ds, e))
    steps.equal("a polynomial", left, right)
    # E exp(m + s e) = exp(m + s^2 / 2), and E e exp(s e) = s exp(s^2 / 2)
    left = plain(diff(exp(m + s**2 / 2), phi))
    factor = sympy.expand(sympy.simplify(claim(exp(mv + sv * e), dm, ds, e) / exp(sv * e)))
    if not factor.has(exp(-sv * e)):  # a mutant without the exponential has no such factor
        constant, slope = factor.subs(e, 0), diff(factor, e)
        steps.equal("the exponential", left, exp(sv**2 / 2) * (constant + slope * sv))


PPCA = claims(
    posterior_mean=lambda W, M, y: M.inv() * W.T * y,
    posterior_covariance=lambda M, v: v * M.inv(),
    noise=lambda rest: sum(rest) / len(rest),
    value=lambda d, k, kept, noise: (
        -(d * log(2 * sympy.pi) + d + sum(map(log, kept)) + (d - k) * log(noise)) / 2
    ),
)


@check(
    "thm-linear-vae",
    claim=PPCA,
    mutants={
        "the posterior mean without the transpose's inverse": PPCA.but(
            posterior_mean=lambda W, M, y: W.T * y
        ),
        "the posterior covariance without the noise": PPCA.but(
            posterior_covariance=lambda M, v: M.inv()
        ),
        "the largest of the rest for the noise": PPCA.but(noise=lambda rest: rest[0]),
        "the sum of the rest for the noise": PPCA.but(noise=sum),
        "the value with d + k": PPCA.but(
            value=lambda d, k, kept, noise: (
                -(d * log(2 * sympy.pi) + d + sum(map(log, kept)) + (d + k) * log(noise)) / 2
            )
        ),
    },
    covers="part 1 for every W in dimension 3 with 2 latents; part 2 in an eigenbasis with d = 4, "
    "k = 2, every spectrum: the point is stationary, and the best of a grid around it",
    omits="that the maximum is global, which the proof shows by Birkhoff's theorem",
)
def linear_vae(steps, claim):
    """The posterior by completing the square; the likelihood of probabilistic PCA."""
    W = Matrix(3, 2, symbols("w_1:7", real=True))
    y, z = Matrix(symbols("y_1:4", real=True)), Matrix(symbols("z_1:3", real=True))
    v = symbols("v", positive=True)
    M = W.T * W + v * sympy.eye(2)
    exponent = -((y - W * z).dot(y - W * z)) / (2 * v) - z.dot(z) / 2
    gradient = Matrix([diff(exponent, a) for a in z])
    mean = claim.posterior_mean(W, M, y)
    steps.equal(
        "the posterior's mode", gradient.subs(dict(zip(z, mean, strict=True))), sympy.zeros(2, 1)
    )
    hessian = sympy.hessian(exponent, list(z))
    steps.equal("its precision", -hessian * claim.posterior_covariance(M, v), sympy.eye(2))

    base = symbols("l", positive=True)
    gaps = symbols("g_1:4", positive=True)
    l4, l3, l2, l1 = base, base + gaps[0], base + gaps[0] + gaps[1], base + sum(gaps)
    noise = claim.noise([l3, l4])
    c1, c2 = symbols("c_1 c_2", positive=True)

    def likelihood(a, b, v):
        determinant = log(a) + log(b) + 2 * log(v)
        trace = l1 / a + l2 / b + (l3 + l4) / v
        return -(4 * log(2 * sympy.pi) + determinant + trace) / 2

    for variable, value in ((c1, l1), (c2, l2), (v, noise)):
        slope = diff(likelihood(c1, c2, v), variable)
        steps.equal(f"stationary in {variable}", slope.subs({variable: value}), 0)
    steps.equal(
        "the value",
        sympy.expand_log(likelihood(l1, l2, noise), force=True),
        sympy.expand_log(claim.value(4, 2, [l1, l2], noise), force=True),
    )
    with mp.workdps(30):
        spectrum = [mpmath.mpf(str(a)) for a in (4, 2, "0.3", "0.1")]
        best = -sum(map(mp.log, spectrum[:2])) - 2 * mp.log((spectrum[2] + spectrum[3]) / 2)
        for factors in itertools.product((0.8, 1, 1.3), repeat=3):
            a, b, n = (f * s for f, s in zip(factors, (spectrum[0], spectrum[1], 0.2), strict=True))
            value = (
                -(
                    mp.log(a)
                    + mp.log(b)
                    + 2 * mp.log(n)
                    + spectrum[0] / a
                    + spectrum[1] / b
                    + (spectrum[2] + spectrum[3]) / n
                )
                + 4
            )
            steps.at_most(
                f"factors {factors}",
                value,
                best,
                tolerance=1e-15,
                why="0.2 and the factors are rounded to double precision",
            )


STEP = claims(keep=lambda a, b: a / b, variance=lambda v, r: v * (1 - r))


@check(
    "prp-noising-chain",
    claim=STEP,
    mutants={
        "k inverted": STEP.but(keep=lambda a, b: b / a),
        "the variance without the ratio": STEP.but(variance=lambda v, r: v),
        "the ratio of the SNRs inverted": STEP.but(variance=lambda v, r: v * (1 - 1 / r)),
        "the square of the ratio": STEP.but(variance=lambda v, r: v * (1 - r**2)),
    },
    covers="every alpha, sigma with increasing signal-to-noise ratio; composition of two steps",
    omits="nothing but that Gaussian laws are determined by mean and variance",
)
def noising_chain(steps, claim):
    """Mean and variance after a step, and two steps after one another."""
    k, v = claim.keep(at, al), claim.variance(st**2, RATIO)
    steps.equal("the mean", k * al, at)
    steps.equal("the variance", k**2 * ss**2 + v, st**2)
    # a third, cleaner time r
    sr, more = symbols("sigma_r more", positive=True)
    snr_r = snr_s + more
    ar = sqrt(snr_r) * sr
    k2, v2 = claim.keep(al, ar), claim.variance(ss**2, snr_s / snr_r)
    steps.equal("two steps: the factor", k * k2, claim.keep(at, ar))
    steps.equal("two steps: the variance", k**2 * v2 + v, claim.variance(st**2, snr_t / snr_r))


POSTERIOR = claims(
    mean=lambda r: r * al / at * x + (1 - r) * al * data,
    variance=lambda r: (1 - r) * ss**2,
)


@check(
    "prp-forward-posterior",
    claim=POSTERIOR,
    mutants={
        "the shares exchanged": POSTERIOR.but(mean=lambda r: (1 - r) * al / at * x + r * al * data),
        "alpha_t for alpha_s": POSTERIOR.but(mean=lambda r: r * x + (1 - r) * at * data),
        "the variance of the noisier time": POSTERIOR.but(variance=lambda r: (1 - r) * st**2),
        "the variance r sigma_s^2": POSTERIOR.but(variance=lambda r: r * ss**2),
    },
    covers="every alpha, sigma with increasing signal-to-noise ratio, on the line; DDPM's Eq. 7",
    omits="more dimensions, whose coordinates are independent; the case alpha_t = 0",
)
def forward_posterior(steps, claim):
    """The exponent of the product of the two densities, and the paper's own formula."""
    y = symbols("y", real=True)
    k = at / al
    v = st**2 - k**2 * ss**2
    exponent = -((y - al * data) ** 2) / (2 * ss**2) - (x - k * y) ** 2 / (2 * v)
    mean, variance = claim.mean(RATIO), claim.variance(RATIO)
    steps.equal("the mode", diff(exponent, y).subs(y, mean), 0)
    steps.equal("the precision", -diff(exponent, y, 2) * variance, 1)
    # DDPM: bar = alpha^2 at the noisier step, before at the cleaner one, beta = 1 - bar / before
    before, q = symbols("b q", positive=True)
    b = before / (1 + before)  # in (0, 1)
    beta = q / (1 + q)
    bar = b * (1 - beta)
    ddpm = {at: sqrt(bar), st: sqrt(1 - bar), ss: sqrt(1 - b), rise: b / (1 - b) - bar / (1 - bar)}
    paper_mean = sqrt(b) * beta / (1 - bar) * data + sqrt(1 - beta) * (1 - b) / (1 - bar) * x
    steps.equal("DDPM's mean", sympy.simplify(mean.subs(ddpm) - paper_mean), 0)
    steps.equal("DDPM's variance", sympy.simplify(variance.subs(ddpm)), (1 - b) / (1 - bar) * beta)


CHAIN = claims(total=lambda prior, middle, last: prior + middle - last)


@check(
    "thm-ddpm-elbo",
    claim=CHAIN,
    mutants={
        "without the prior": CHAIN.but(total=lambda prior, middle, last: middle - last),
        "without the steps": CHAIN.but(total=lambda prior, middle, last: prior - last),
        "the reconstruction with the opposite sign": CHAIN.but(
            total=lambda prior, middle, last: prior + middle + last
        ),
        "the steps twice": CHAIN.but(total=lambda prior, middle, last: prior + 2 * middle - last),
    },
    covers="two latents with two values each, every Markov chain q and every model on them: the "
    "three parts add up to minus the bound of thm-elbo",
    omits="Gaussian chains, where the sums are integrals; more latents",
)
def chain_bound(steps, claim):
    """Sums over the four values of the latents."""
    far = symbols("u_1:3", positive=True)  # q(x_0 | x_1), of the noisiest state
    near = [symbols(f"w_{i}1:{i}3", positive=True) for i in (1, 2)]  # q(next | noisiest, x_1)
    pi = symbols("pi_1:3", positive=True)
    model = [symbols(f"m_{i}1:{i}3", positive=True) for i in (1, 2)]
    decoder = symbols("d_1:3", positive=True)

    def normalized(row):
        return [value / sum(row) for value in row]

    far, pi = normalized(far), normalized(pi)
    near, model = [normalized(row) for row in near], [normalized(row) for row in model]
    cells = list(itertools.product(range(2), range(2)))
    whole = -sum(
        far[i] * near[i][j] * (log(pi[i] * model[i][j] * decoder[j]) - log(far[i] * near[i][j]))
        for i, j in cells
    )
    prior = sum(a * log(a / b) for a, b in zip(far, pi, strict=True))
    middle = sum(
        far[i] * sum(a * log(a / b) for a, b in zip(near[i], model[i], strict=True))
        for i in range(2)
    )
    last = sum(far[i] * near[i][j] * log(decoder[j]) for i, j in cells)
    steps.equal(
        "minus the bound",
        sympy.expand(sympy.expand_log(whole, force=True)),
        sympy.expand(sympy.expand_log(claim.total(prior, middle, last), force=True)),
    )


guess, spread = symbols("D v", positive=True)
COST = claims(
    general=lambda r: (
        (1 - r) ** 2 * al**2 / (2 * spread) * (data - guess) ** 2
        + ((1 - r) * ss**2 / spread - 1 - log((1 - r) * ss**2 / spread)) / 2
    ),
    small=lambda s, t: (s - t) / 2 * (data - guess) ** 2,
    noise=lambda s, t, e: (s / t - 1) / 2 * e**2,
)


@check(
    "prp-elbo-weights",
    claim=COST,
    mutants={
        "one factor (1 - r)": COST.but(
            general=lambda r: (
                (1 - r) * al**2 / (2 * spread) * (data - guess) ** 2
                + ((1 - r) * ss**2 / spread - 1 - log((1 - r) * ss**2 / spread)) / 2
            )
        ),
        "without the second term": COST.but(
            general=lambda r: (1 - r) ** 2 * al**2 / (2 * spread) * (data - guess) ** 2
        ),
        "without the half": COST.but(small=lambda s, t: (s - t) * (data - guess) ** 2),
        "the SNR of the cleaner time alone": COST.but(
            small=lambda s, t: s / 2 * (data - guess) ** 2
        ),
        "the quotient without 1": COST.but(noise=lambda s, t, e: s / t / 2 * e**2),
    },
    covers="every alpha, sigma with increasing signal-to-noise ratio, on the line; DDPM's Eq. 12",
    omits="more dimensions, where squares add",
)
def elbo_weights(steps, claim):
    """The divergence of the two Gaussians of a step."""
    r = RATIO
    mean, variance = (f(r) for f in (POSTERIOR.mean, POSTERIOR.variance))
    model = mean.subs(data, guess)
    cost = _gaussian_kl(mean, variance, model, spread)
    steps.equal(
        "any variance",
        sympy.expand_log(cost, force=True),
        sympy.expand_log(claim.general(r), force=True),
    )
    small = _gaussian_kl(mean, variance, model, variance)
    steps.equal("the small variance", small, claim.small(snr_s, snr_t))
    error = ((x - at * data) - (x - at * guess)) / st
    steps.equal("in the noise", small, claim.noise(snr_s, snr_t, error))
    q, b0 = symbols("q b", positive=True)
    b, beta = b0 / (1 + b0), q / (1 + q)
    bar = b * (1 - beta)
    ddpm = {at: sqrt(bar), st: sqrt(1 - bar), ss: sqrt(1 - b), rise: b / (1 - b) - bar / (1 - bar)}
    ours = ((1 - r) ** 2 * al**2 * st**2 / (2 * spread * at**2)).subs(ddpm)
    paper = beta**2 / (2 * spread * (1 - beta) * (1 - bar))
    steps.equal("DDPM's weight", sympy.simplify(ours / paper), 1)


VARIANCE = claims(
    best=lambda small, gain: small + gain,
    cost=lambda best, small: log(best / small) / 2,
)


@check(
    "prp-reverse-variance",
    claim=VARIANCE,
    mutants={
        "the small variance": VARIANCE.but(best=lambda small, gain: small),
        "twice the error": VARIANCE.but(best=lambda small, gain: small + 2 * gain),
        "the cost without the half": VARIANCE.but(cost=lambda best, small: log(best / small)),
    },
    covers="every step and every error, on the line; that standard normal data with a "
    "variance-preserving schedule have the large variance as the best",
    omits="that no law of unit variance exceeds it, which is the bound on the floor of the error",
)
def reverse_variance(steps, claim):
    """Stationarity of the expected cost, its value, and the case of normal data."""
    small, gain, v = symbols("small gain v", positive=True)
    # E of the step's cost: gain is (1 - r)^2 alpha_s^2 m
    cost = (gain / v + small / v - 1 - log(small / v)) / 2
    best = claim.best(small, gain)
    steps.equal("stationary", diff(cost, v).subs(v, best), 0)
    steps.equal(
        "convex in log v",
        sympy.simplify((v * diff(v * diff(cost, v), v)).subs(v, small + gain)),
        Rational(1, 2),
    )
    steps.equal(
        "its value",
        sympy.expand_log(cost.subs(v, best), force=True),
        sympy.expand_log(claim.cost(best, small), force=True),
    )
    # alpha^2 + sigma^2 = 1 at both times: alpha = 1 / sqrt(1 + e), with e the noise-to-signal ratio
    e, more = symbols("e more", positive=True)
    a2, b2 = 1 / (1 + e + more), 1 / (1 + e)  # alpha^2 at t and at s
    r = (a2 / (1 - a2)) / (b2 / (1 - b2))
    tilde, large = (1 - r) * (1 - b2), (1 - r) * (1 - a2)
    error = 1 - a2  # of standard normal data
    steps.equal("normal data", sympy.simplify(claim.best(tilde, (1 - r) ** 2 * b2 * error)), large)


@check(
    "prp-refinement",
    claim=lambda spans, values: sum(a * b for a, b in zip(spans, values, strict=True)) / 2,
    mutants={
        "without the half": lambda spans, values: sum(
            a * b for a, b in zip(spans, values, strict=True)
        ),
        "the value at the cleaner end": lambda spans, values: (
            sum(a * b for a, b in zip(spans, [*values[1:], 0], strict=True)) / 2
        ),
    },
    covers="standard normal data on the line: the cost of a grid, step by step from the Gaussians; "
    "that a further time lowers it, for every place; and the bound on the excess, for equal steps",
    omits="other laws, whose error is not known in closed form",
)
def refinement(steps, claim):
    """M = 1 / (1 + SNR); the mean of a step's cost computed from the laws of data and noise."""
    s0 = symbols("s_0", positive=True)
    rises = symbols("h_1:4", positive=True)
    snrs = [s0, s0 + rises[0], s0 + rises[0] + rises[1], s0 + sum(rises)]

    def step_cost(low, high):
        """E KL of posterior and model on the path alpha = sqrt(snr), sigma = 1, data N(0, 1)."""
        r = low / high
        # X_t = sqrt(low) X_1 + eps; D = sqrt(low) X_t / (1 + low); E(X_1 - D)^2 from these
        c = sqrt(low) / (1 + low)
        square = (1 - c * sqrt(low)) ** 2 + c**2
        return (1 - r) ** 2 * high * square / (2 * (1 - r))

    whole = sum(step_cost(a, b) for a, b in itertools.pairwise(snrs))
    values = [1 / (1 + s) for s in snrs[:-1]]
    steps.equal("three steps", whole, claim(list(rises), values))
    coarse = claim([rises[0] + rises[1]], [1 / (1 + s0)])
    fine = claim(list(rises[:2]), [1 / (1 + s0), 1 / (1 + s0 + rises[0])])
    expected = rises[0] * rises[1] / (2 * (1 + s0) * (1 + s0 + rises[0]))
    steps.equal("what a further time saves, a positive number", coarse - fine, expected)
    with mp.workdps(30):
        low, high = mpmath.mpf("0.1"), mpmath.mpf(9)
        limit = mp.log((1 + high) / (1 + low)) / 2
        for count in (1, 4, 32):
            h = (high - low) / count
            nodes = [low + k * h for k in range(count)]
            cost = claim([h] * count, [1 / (1 + s) for s in nodes])
            bound = h * (1 / (1 + low) - 1 / (1 + high)) / 2
            steps.at_most(f"{count} equal steps: the excess", cost - limit, bound)
            steps.at_most(f"{count} equal steps: it is positive", limit, cost)


CONTINUOUS = claims(
    rate=lambda dl, snr, square: dl * snr * square,
    total=lambda H, start, end: H + start + end,
)


@check(
    "thm-continuous-elbo",
    claim=CONTINUOUS,
    mutants={
        "half the rate": CONTINUOUS.but(rate=lambda dl, snr, square: dl * snr * square / 2),
        "the rate without the SNR": CONTINUOUS.but(rate=lambda dl, snr, square: dl * square),
        "without the decoder's part": CONTINUOUS.but(total=lambda H, start, end: H + start),
        "without the prior's part": CONTINUOUS.but(total=lambda H, start, end: H + end),
        "the entropy twice": CONTINUOUS.but(total=lambda H, start, end: 2 * H + start + end),
    },
    covers="the two forms of the integrand for every schedule; the sum of all parts for normal "
    "data of any variance, any signal-to-noise ratios at the ends, and a decoder of any variance",
    omits="other laws, where the derivative of the mutual information is quoted",
)
def continuous_elbo(steps, claim):
    """The integrand, and every part of the bound for Gaussian data in closed form."""
    t, square = symbols("t square", positive=True)
    lam = sympy.Function("lambda")(t)
    snr = exp(2 * lam)
    steps.equal("the integrand", diff(snr, t) * square / 2, claim.rate(diff(lam, t), snr, square))
    # data N(0, s), path alpha = sqrt(snr), sigma = 1 between the ratios a < b
    s, a, h, w = symbols("s a h w", positive=True)
    b = a + h
    prior_variance = symbols("pi", positive=True)
    prior = (1 / prior_variance - 1 - log(1 / prior_variance) + a * s / prior_variance) / 2
    y = symbols("y", positive=True)
    middle = sympy.integrate(s / (1 + y * s), (y, a, b)) / 2
    # decoder N(D, w): E -log density, with E(X_1 - D)^2 = s / (1 + b s)
    decoder = log(2 * sympy.pi * w) / 2 + s / (1 + b * s) / (2 * w)
    entropy = log(2 * sympy.pi) / 2 + log(s) / 2 + Rational(1, 2)
    start = _gaussian_kl(0, 1 + a * s, 0, prior_variance)
    end = _gaussian_kl(0, s / (1 + b * s), 0, w)
    left = sympy.expand_log(prior + middle + decoder, force=True)
    right = sympy.expand_log(claim.total(entropy, start, end), force=True)
    steps.equal(
        "prior + integral + decoder for normal data", sympy.expand(left), sympy.expand(right)
    )


@check(
    "prp-schedule-invariance",
    claim=lambda error, low, high, y: sympy.Integral(error, (y, low, high)),
    mutants={
        "twice the integral": lambda error, low, high, y: 2 * sympy.Integral(error, (y, low, high)),
        "from the other end": lambda error, low, high, y: sympy.Integral(error, (y, high, low)),
    },
    covers="standard normal data along the straight and the cosine schedule between equal half "
    "log-SNRs, by quadrature; the corresponding points for every pair of schedules",
    omits="other laws, for which the substitution is the same",
)
def schedule_invariance(steps, claim):
    """The integral over time for two schedules against the one over lambda."""
    c = symbols("c", positive=True)
    e = symbols("e", real=True)
    steps.equal(
        "c (alpha X_1 + sigma eps) is the other path's point",
        c * (at * data + st * e),
        (c * at) * data + (c * st) * e,
    )
    y = symbols("lambda", real=True)
    with mp.workdps(30):
        low, high = mpmath.mpf(-2), mpmath.mpf("1.5")
        # SNR / (1 + SNR), the mean error of the noise for standard normal data
        integral = claim(1 / (1 + exp(-2 * y)), Rational(-2), Rational(3, 2), y)
        value = mpmath.mpf(str(sympy.N(integral.doit(), 30)))
        schedules = {
            "straight": (
                lambda u: mp.log(u / (1 - u)),
                lambda u: 1 / (u * (1 - u)),
                lambda z: 1 / (1 + mp.exp(-z)),
            ),
            "cosine": (
                lambda u: mp.log(mp.tan(mp.pi * u / 2)),
                lambda u: mp.pi / mp.sin(mp.pi * u),
                lambda z: 2 / mp.pi * mp.atan(mp.exp(z)),
            ),
        }
        for name, (lam, rate, inverse) in schedules.items():
            found = mp.quad(
                lambda u, lam=lam, rate=rate: rate(u) / (1 + mp.exp(-2 * lam(u))),
                [inverse(low), inverse(high)],
            )
            steps.close(
                f"{name}: the integral over time", found, value, tolerance=1e-20, why=QUADRATURE
            )


BITS = claims(scale=Rational(255, 2), bound=lambda mean_log: mean_log)


@check(
    "prp-dequantization",
    claim=BITS,
    mutants={
        "128 for 127.5": BITS.but(scale=128),
        "255 for 127.5": BITS.but(scale=255),
        "the bound the other way round": BITS.but(bound=lambda mean_log: -mean_log),
    },
    covers="the Jacobian; Jensen's inequality for exponential densities on a pixel; eight bits for "
    "uniform pixels",
    omits="other densities",
)
def dequantization(steps, claim):
    """One pixel."""
    k, u = symbols("k u", positive=True)
    steps.equal("dx / d(k + u)", 1 / diff((k + u) * 2 / 255 - 1, u), claim.scale)
    steps.equal(
        "uniform pixels in bits",
        (log(Rational(256) / Rational(255, 2)) + log(claim.scale)) / log(2),
        8,
    )
    with mp.workdps(30):
        for rate in (mpmath.mpf("0.1"), mpmath.mpf(1), mpmath.mpf(4)):
            # density proportional to exp(-rate y) on [0, 1): log of the mean and mean of the log
            mass = mp.log((1 - mp.exp(-rate)) / rate)
            mean_log = -rate / 2
            steps.at_most(f"rate {mp.nstr(rate, 2)}: E log p <= log P", claim.bound(mean_log), mass)
