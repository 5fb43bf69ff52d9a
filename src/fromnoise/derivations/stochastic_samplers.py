"""Checks of the chapter on ancestral, Langevin and predictor-corrector samplers."""

from __future__ import annotations

import sympy
from sympy import Function, diff, exp, integrate, log, simplify, sqrt, symbols

from fromnoise.derivations.checking import check, claims

ap, aq, sp, sq, b, delta = symbols("alpha_p alpha_q sigma_p sigma_q b delta", positive=True)
x, data, noise, t, v = symbols("x D eps t v", real=True)
SHARE = (ap * sq / (aq * sp)) ** 2  # e^(-2h)

STEP = claims(
    mean=lambda state, clean: SHARE * aq / ap * state + (1 - SHARE) * aq * clean,
    variance=lambda spread: (1 - SHARE) * sq**2 + (1 - SHARE) ** 2 * aq**2 * spread,
)


@check(
    "prp-exact-step",
    claim=STEP,
    mutants={
        "the small variance": STEP.but(variance=lambda spread: (1 - SHARE) * sq**2),
        "the spread once": STEP.but(
            variance=lambda spread: (1 - SHARE) * sq**2 + (1 - SHARE) * aq**2 * spread
        ),
        "e^(-h)": STEP.but(
            mean=lambda state, clean: sqrt(SHARE) * aq / ap * state + (1 - sqrt(SHARE)) * aq * clean
        ),
    },
    covers="normal data of every variance, for which X_q given X_p follows by conditioning",
    omits="other data (the proof is the law of total variance)",
)
def exact_step(steps, claim):
    """Condition X_q on X_p: their covariance is alpha_p / alpha_q V_q."""
    vp, vq = ap**2 * b + sp**2, aq**2 * b + sq**2
    gain = ap / aq * vq / vp
    clean, spread = ap * b / vp * x, b * sp**2 / vp
    steps.equal("mean", claim.mean(x, clean), gain * x)
    steps.equal("variance", claim.variance(spread), vq - gain**2 * vp)


LARGE = claims(
    large=(1 - SHARE) * sp**2 * (aq**2 + sq**2) / (ap**2 + sp**2),
    small=(1 - SHARE) * sq**2,
    best=lambda spread: STEP.variance(spread),
)


@check(
    "prp-ancestral-variances",
    claim=LARGE,
    mutants={
        "without the scale": LARGE.but(large=(1 - SHARE) * sp**2),
        "p and q exchanged": LARGE.but(
            large=(1 - SHARE) * sq**2 * (ap**2 + sp**2) / (aq**2 + sq**2)
        ),
        "the spread without alpha": LARGE.but(
            best=lambda spread: (1 - SHARE) * sq**2 + (1 - SHARE) ** 2 * spread
        ),
        "small with the noise of p": LARGE.but(small=(1 - SHARE) * sp**2),
    },
    covers="the best variance minimizes the mean relative entropy; standard normal data give the "
    "large one, one point the small one; beta on a variance-preserving path; monotone in b",
    omits="that the affine error bounds the conditional variance (projection); that only one point "
    "has no conditional variance",
)
def ancestral_variances(steps, claim):
    """Derivatives and special cases."""
    spread = symbols("S", positive=True)
    value = symbols("w", positive=True)
    # relative entropy up to constants: log w / 2 + (variance of the exact step) / (2 w)
    objective = log(value) / 2 + STEP.variance(spread) / (2 * value)
    steps.equal("stationary", simplify(diff(objective, value).subs(value, claim.best(spread))))
    affine = b * sp**2 / (ap**2 * b + sp**2)
    steps.equal("standard normal", claim.best(affine.subs(b, 1)), claim.large)
    steps.equal("one point", claim.best(sympy.Integer(0)), claim.small)
    preserving = claim.large.subs({sp: sqrt(1 - ap**2), sq: sqrt(1 - aq**2)})
    steps.equal("beta", simplify(preserving), 1 - ap**2 / aq**2)
    growth = diff(affine, b) * (ap**2 * b + sp**2) ** 2
    steps.equal("the affine error grows with b", simplify(growth), sp**4)


LAMBDA = claims(
    pull=lambda lam_dot, sig, d_sig: d_sig / sig - lam_dot,
    push=lambda alpha, lam_dot: 2 * alpha * lam_dot,
    rate=2,
)


@check(
    "prp-sde-in-lambda",
    claim=LAMBDA,
    mutants={
        "the ODE's push": LAMBDA.but(push=lambda alpha, lam_dot: alpha * lam_dot),
        "the ODE's pull": LAMBDA.but(pull=lambda lam_dot, sig, d_sig: d_sig / sig),
        "the rate of the ODE": LAMBDA.but(rate=1),
    },
    covers="the drift for every schedule, D and eps; the integrals with constant D; the variance",
    omits="Ito's formula",
)
def sde_in_lambda(steps, claim):
    """Coefficients of X and D in u + g^2 s / 2, then the exponential integrals."""
    alpha, sigma = (Function(n)(t) for n in ("alpha", "sigma"))
    lam_dot = diff(alpha, t) / alpha - diff(sigma, t) / sigma
    state = alpha * data + sigma * noise
    drift = diff(alpha, t) * data + diff(sigma, t) * noise - sigma * lam_dot * noise
    found = claim.pull(lam_dot, sigma, diff(sigma, t)) * state + claim.push(alpha, lam_dot) * data
    steps.equal("drift", found, drift)
    h = symbols("h", positive=True)
    kernel = claim.rate * h * exp(-claim.rate * h * (1 - v))
    steps.equal("constant D", integrate(kernel, (v, 0, 1)), 1 - exp(-2 * h))
    # ancestral: e^(-2h) alpha_q / alpha_p = sigma_q / sigma_p e^(-h)
    steps.equal("coefficient of X", SHARE * aq / ap, sq / sp * sqrt(SHARE))
    spread = integrate(2 * h * exp(-2 * h * (1 - v)), (v, 0, 1))
    steps.equal("variance", sq**2 * spread.subs(h, -log(SHARE) / 2), (1 - SHARE) * sq**2)


LIMIT = claims(
    drift=lambda a, s, da, ds: (ds / s - (da / a - ds / s), 2 * a * (da / a - ds / s)),
    g2=lambda a, s, da, ds: 2 * s**2 * (da / a - ds / s),
)


@check(
    "prp-ancestral-limit",
    claim=LIMIT,
    mutants={
        "half of g^2": LIMIT.but(g2=lambda a, s, da, ds: s**2 * (da / a - ds / s)),
        "the flow's drift": LIMIT.but(drift=lambda a, s, da, ds: (ds / s, a * (da / a - ds / s))),
        "g^2 with alpha": LIMIT.but(g2=lambda a, s, da, ds: 2 * a**2 * (da / a - ds / s)),
    },
    covers="every schedule: the terms of first order in the step of mean and both variances",
    omits="the sum over the steps (lem-strong-order)",
)
def ancestral_limit(steps, claim):
    """Expand one step in its length."""
    a, s = symbols("a s", positive=True)
    da, ds = symbols("a_dot s_dot", real=True)
    values = {ap: a, sp: s, aq: a + da * delta, sq: s + ds * delta}
    clean = symbols("D", real=True)
    mean = STEP.mean(x, clean).subs(values)
    slope = diff(mean, delta).subs(delta, 0)
    of_x, of_d = claim.drift(a, s, da, ds)
    steps.equal("mean at 0", mean.subs(delta, 0), x)
    steps.equal("drift", simplify(slope), of_x * x + of_d * clean)
    for name in ("small", "large"):
        variance = getattr(LARGE, name).subs(values)
        steps.equal(f"{name} at 0", simplify(variance.subs(delta, 0)))
        found = simplify(diff(variance, delta).subs(delta, 0))
        steps.equal(f"{name}: g^2", found, claim.g2(a, s, da, ds))


r, rp = symbols("rho rho_plus", positive=True)
EULER = claims(up=rp * sqrt(1 - rp**2 / r**2), down=lambda up: sqrt(rp**2 - up**2))


@check(
    "prp-euler-ancestral",
    claim=EULER,
    mutants={
        "up with the difference of levels": EULER.but(up=sqrt(r**2 - rp**2)),
        "down to the next level": EULER.but(down=lambda up: rp),
        "up without the root": EULER.but(up=rp * (1 - rp**2 / r**2)),
    },
    covers="every pair of levels, on every path",
    omits="nothing",
)
def euler_ancestral(steps, claim):
    """Coefficients against the ancestral step in y = x / alpha."""
    share = (rp / r) ** 2
    steps.equal("variance of the noise", claim.up**2, rp**2 * (1 - share))
    down = claim.down(claim.up)
    steps.equal("coefficient of y, squared", simplify(down**2 / r**2), share**2)


FORGET = claims(
    factor=lambda vp, vq, g2: sqrt(vq / vp) * exp(-g2 / 2), reverse=lambda vp, vq: ap / aq * vq / vp
)


@check(
    "prp-forgetting",
    claim=FORGET,
    mutants={
        "no half": FORGET.but(factor=lambda vp, vq, g2: sqrt(vq / vp) * exp(-g2)),
        "noise remembers": FORGET.but(factor=lambda vp, vq, g2: sqrt(vq / vp) * exp(g2 / 2)),
        "the correlation alone": FORGET.but(reverse=lambda vp, vq: ap / aq * sqrt(vq / vp)),
    },
    covers="the linear equation, and the reversed process by its integral, for every schedule, "
    "variance and pair of times",
    omits="several coordinates (they do not interact)",
)
def forgetting(steps, claim):
    """Differentiate the factor; then the integral of g^2 / V for the reversed process."""
    spread, squared = Function("V", positive=True)(t), Function("G")(t)  # G' = g^2 / V
    factor = claim.factor(symbols("V_p", positive=True), spread, squared)
    rate = diff(spread, t) / (2 * spread) - diff(squared, t) / 2
    steps.equal("error' / error", simplify(diff(factor, t) / factor), rate)
    alpha, sigma = (Function(n, positive=True)(t) for n in ("alpha", "sigma"))
    variance = alpha**2 * b + sigma**2
    density = 2 * sigma**2 * diff(log(alpha) - log(sigma), t) / variance
    primitive = 2 * log(alpha) - log(variance)
    steps.equal("primitive of g^2 / V", simplify(diff(primitive, t) - density))
    vp, vq = symbols("V_p V_q", positive=True)
    total = 2 * log(aq) - log(vq) - (2 * log(ap) - log(vp))
    squares = claim.factor(vp, vq, total) ** 2
    steps.equal("reversed process", simplify(squares), claim.reverse(vp, vq) ** 2)
