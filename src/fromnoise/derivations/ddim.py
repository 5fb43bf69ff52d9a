"""Checks of the chapter on DDIM and inversion."""

from __future__ import annotations

import sympy
from sympy import Function, Rational, diff, simplify, sqrt, symbols

from fromnoise.derivations.checking import check, claims

ap, aq, sp, sq = symbols("alpha_p alpha_q sigma_p sigma_q", positive=True)
b, mu, h = symbols("b mu h", positive=True)
x, data, guess = symbols("x x_1 D", real=True)
t = symbols("t", real=True)

FAMILY = claims(
    mean=lambda state, datum, fresh: (
        aq * datum + sqrt(sq**2 - fresh**2) * (state - ap * datum) / sp
    ),
    variance=lambda fresh: fresh**2,
)
GAMMA = symbols("gamma", positive=True)


@check(
    "prp-ddim-family",
    claim=FAMILY,
    mutants={
        "all of the old noise": FAMILY.but(
            mean=lambda state, datum, fresh: aq * datum + sq * (state - ap * datum) / sp
        ),
        "the difference of the deviations": FAMILY.but(
            mean=lambda state, datum, fresh: aq * datum + (sq - fresh) * (state - ap * datum) / sp
        ),
        "the noise not scaled": FAMILY.but(
            mean=lambda state, datum, fresh: (
                aq * datum + sqrt(sq**2 - fresh**2) * (state - ap * datum)
            )
        ),
        "fresh noise with the variance gamma": FAMILY.but(variance=lambda fresh: fresh),
    },
    covers="mean and variance of X_q given X_1, for every schedule and gamma: one step of the "
    "induction",
    omits="normality (sums of independent normal vectors)",
)
def ddim_family(steps, claim):
    """Mean and variance through one step."""
    noise = symbols("eps", real=True)
    state = ap * data + sp * noise
    mean = sympy.expand(claim.mean(state, data, GAMMA))
    steps.equal("mean", mean.subs(noise, 0), aq * data)
    old = diff(mean, noise) ** 2
    steps.equal("variance", old + claim.variance(GAMMA), sq**2)


@check(
    "prp-ddim-loss",
    claim=lambda: (aq - ap * sqrt(sq**2 - GAMMA**2) / sp) ** 2 / (2 * GAMMA**2),
    mutants={
        "without the half": lambda: (aq - ap * sqrt(sq**2 - GAMMA**2) / sp) ** 2 / GAMMA**2,
        "alpha alone": lambda: aq**2 / (2 * GAMMA**2),
        "plus": lambda: (aq + ap * sqrt(sq**2 - GAMMA**2) / sp) ** 2 / (2 * GAMMA**2),
    },
    covers="one coordinate, every schedule and gamma: the integral of the logarithm of the ratio "
    "of the two normal densities",
    omits="several coordinates (they add up); that the conditional mean minimizes",
)
def ddim_loss(steps, claim):
    """KL of two normal laws from their densities."""
    z = symbols("z", real=True)
    first = FAMILY.mean(x, data, GAMMA)
    second = FAMILY.mean(x, guess, GAMMA)
    # E[(z - second)^2 - (z - first)^2] / (2 gamma^2), z with mean `first` and variance gamma^2
    gap = sympy.expand((z - second) ** 2 - (z - first) ** 2)
    mean = gap.coeff(z, 1) * first + gap.coeff(z, 0) + gap.coeff(z, 2) * (first**2 + GAMMA**2)
    steps.equal("relative entropy", mean / (2 * GAMMA**2), claim() * (data - guess) ** 2)


ENDS = claims(fresh=lambda share: sq * sqrt(1 - share), share=(ap * sq / (aq * sp)) ** 2)


@check(
    "prp-ddim-ends",
    claim=ENDS,
    mutants={
        "e^(-h)": ENDS.but(share=ap * sq / (aq * sp)),
        "the noise of p": ENDS.but(fresh=lambda share: sp * sqrt(1 - share)),
        "the large variance": ENDS.but(fresh=lambda share: sp * sqrt(1 - share) * aq / ap),
    },
    covers="mean and variance of DDPM's posterior by conditioning of the jointly normal X_p, X_q, "
    "for every schedule",
    omits="nothing",
)
def ddim_ends(steps, claim):
    """Condition X_q on X_p given X_1: covariance alpha_p / alpha_q sigma_q^2."""
    fresh = claim.fresh(claim.share)
    covariance = ap / aq * sq**2
    gain = covariance / sp**2
    steps.equal("variance", fresh**2, sq**2 - gain * covariance)
    mean = aq * data + gain * (x - ap * data)
    # both roots are positive: compare their squares through the coefficient of x
    coefficient = (sq**2 - fresh**2) / sp**2
    steps.equal("square of the coefficient of x", coefficient, diff(mean, x) ** 2)


@check(
    "prp-ddim-ratio",
    claim=lambda clean, noise: noise,
    mutants={
        "the data": lambda clean, noise: clean,
        "minus": lambda clean, noise: -noise,
        "the velocity of the straight path": lambda clean, noise: clean - noise,
    },
    covers="the derivative for every schedule, D and eps; that Euler's step in rho is DDIM's",
    omits="the order (Euler's theorem)",
)
def ddim_ratio(steps, claim):
    """dy / drho by the chain rule, then one step."""
    alpha, sigma, clean, noise = (Function(n)(t) for n in ("alpha", "sigma", "D", "eps"))
    slope = diff(alpha, t) * clean + diff(sigma, t) * noise
    state = alpha * clean + sigma * noise
    dy = slope / alpha - state * diff(alpha, t) / alpha**2
    steps.equal("dy / drho", dy / diff(sigma / alpha, t), claim(clean, noise))
    e = symbols("e", real=True)
    start = ap * guess + sp * e
    step = aq * (start / ap + (sq / aq - sp / ap) * claim(guess, e))
    steps.equal("Euler's step", step, aq * guess + sq * e)


@check(
    "prp-ddim-is-euler",
    claim=lambda alpha: sympy.Poly(alpha, t).degree() <= 1,
    mutants={
        "every polynomial": lambda alpha: True,
        "no schedule": lambda alpha: False,
        "degree two": lambda alpha: sympy.Poly(alpha, t).degree() <= 2,
    },
    covers="schedules that are polynomials of degree up to three",
    omits="other schedules (the proof is for all)",
)
def ddim_is_euler(steps, claim):
    """alpha_q = alpha_p + (q - p) alpha'_p for all p, q?"""
    p, q = symbols("p q", real=True)
    for alpha in (t, 2 * t / 3 + Rational(1, 3), t**2, t**3 - t):
        step = alpha.subs(t, p) + (q - p) * diff(alpha, t).subs(t, p)
        agrees = sympy.expand(step - alpha.subs(t, q)) == 0
        steps.true(f"alpha = {alpha}", sympy.Eq(sympy.Integer(agrees), int(claim(alpha))))


GAUSSIAN = claims(
    square=lambda vp, vq: vq / vp * (1 - b * (aq * sp - ap * sq) ** 2 / (vp * vq)),
    density=lambda v, da, ds: b * (da * sp - ap * ds) ** 2 / v**2,
)


@check(
    "prp-ddim-gaussian",
    claim=GAUSSIAN,
    mutants={
        "no loss": GAUSSIAN.but(square=lambda vp, vq: vq / vp),
        "without b": GAUSSIAN.but(
            square=lambda vp, vq: vq / vp * (1 - (aq * sp - ap * sq) ** 2 / (vp * vq))
        ),
        "a gain": GAUSSIAN.but(
            square=lambda vp, vq: vq / vp * (1 + b * (aq * sp - ap * sq) ** 2 / (vp * vq))
        ),
        "the derivative of V": GAUSSIAN.but(
            density=lambda v, da, ds: b * (da * ap + sp * ds) ** 2 / v**2
        ),
        "V once": GAUSSIAN.but(density=lambda v, da, ds: b * (da * sp - ap * ds) ** 2 / v),
    },
    covers="every schedule and variance: the factor, and the lost share of a short step up to "
    "second order",
    omits="the sum over the steps (a Riemann sum)",
)
def ddim_gaussian(steps, claim):
    """The factor from linear regression; then a step of length delta."""
    vp, vq = ap**2 * b + sp**2, aq**2 * b + sq**2
    clean, noise = ap * b / vp, sp / vp
    factor = aq * clean + sq * noise
    steps.equal("factor squared", simplify(factor**2), claim.square(vp, vq))
    delta, da, ds = symbols("delta alpha_dot sigma_dot", real=True)
    lost = (1 - factor**2 * vp / vq).subs({aq: ap + da * delta, sq: sp + ds * delta})
    steps.equal("no share of order 0", simplify(lost.subs(delta, 0)))
    steps.equal("no share of order 1", simplify(diff(lost, delta).subs(delta, 0)))
    second = simplify(diff(lost, delta, 2).subs(delta, 0) / 2)
    steps.equal("share of order 2", second, claim.density(vp, da, ds))


@check(
    "prp-naive-inversion",
    claim=claims(order=2),
    mutants={"order 3 in a step": claims(order=3), "order 4": claims(order=4)},
    covers="a step for eps = (mu + nu rho) y: the lowest power of the step in the difference of "
    "the usual and the exact inverse",
    omits="nonlinear fields; the sum over the steps",
)
def naive_inversion(steps, claim):
    """y_q = y_p + h (mu + nu (rho + h)) y_q against y_p + h (mu + nu rho) y_p."""
    nu, rho = symbols("nu rho", positive=True)
    exact = 1 / (1 - h * (mu + nu * (rho + h)))
    usual = 1 + h * (mu + nu * rho)
    gap = sympy.series(exact - usual, h, 0, 6).removeO()
    for k in range(claim.order):
        steps.equal(f"no power {k}", gap.coeff(h, k))
    there = gap.coeff(h, claim.order).subs({mu: 1, nu: 2, rho: 3})
    steps.true("the next is there", sympy.Ne(there, 0))


@check(
    "prp-fixed-point-inversion",
    claim=lambda rho_p, rho_q: 1 - rho_p / rho_q,
    mutants={
        "the step alone": lambda rho_p, rho_q: (rho_q - rho_p) / 10,
        "half": lambda rho_p, rho_q: (1 - rho_p / rho_q) / 2,
        "no bound below one": lambda rho_p, rho_q: 1 + rho_p / rho_q,
    },
    covers="data concentrated at a point, where the bound is attained, for every schedule: the "
    "factor by which an iteration shrinks the error; that it is at most that for normal data of "
    "every variance",
    omits="several coordinates",
)
def fixed_point_inversion(steps, claim):
    """The iteration is affine: its slope is the factor."""
    rho_p, rho_q = sp / ap, sq / aq
    slope = aq * (rho_q - rho_p) * sq / (aq**2 * b + sq**2)
    steps.equal("limit of small variance", slope.subs(b, 0), claim(rho_p, rho_q))
    # with variance b it is smaller by sigma^2 / (alpha^2 b + sigma^2)
    steps.equal("ratio", simplify(slope / claim(rho_p, rho_q)), sq**2 / (aq**2 * b + sq**2))
