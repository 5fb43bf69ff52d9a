"""Checks of the chapter on guidance."""

from __future__ import annotations

import sympy
from mpmath import mp
from sympy import Function, Rational, diff, exp, log, sqrt, symbols

from fromnoise.derivations.checking import check, claims

x, y, t, w, m, z = symbols("x y t w m z", real=True)
alpha, sigma, kappa, s, v0, v1 = symbols("alpha sigma kappa s v_0 v_1", positive=True)

WEIGHT = (Rational(1, 4), Rational(1, 4), Rational(1, 2))  # a mixture on the line, as in the text
MEAN = (-Rational(1, 2), Rational(9, 5), -Rational(8, 5))
VAR = (Rational(1, 16), Rational(49, 400), Rational(4, 25))
INSIDE = (0, 1)  # the components of the class


def _density(at, a, b, parts=(0, 1, 2)):
    """The density of a X_1 + b eps, X_1 from some components, each with its weight."""
    return sum(
        mp.mpf(WEIGHT[k].p)
        / WEIGHT[k].q
        * mp.npdf(at, a * mp.mpf(MEAN[k]), mp.sqrt(a**2 * mp.mpf(VAR[k]) + b**2))
        for k in parts
    )


def _denoiser(at, a, b, parts=(0, 1, 2)):
    """E[X_1 | a X_1 + b eps = x] from the posterior of each component, without any score."""
    total = 0
    for k in parts:
        v, mu = mp.mpf(VAR[k]), mp.mpf(MEAN[k])
        total += _density(at, a, b, (k,)) * (mu + a * v * (at - a * mu) / (a**2 * v + b**2))
    return total / _density(at, a, b, parts)


# -- conditioning ---------------------------------------------------------------------------------

DROPOUT = claims(
    label=lambda given, anyway, drop: given,
    null=lambda conditional, weights: sum(a * b for a, b in zip(conditional, weights, strict=True)),
)


@check(
    "prp-label-dropout",
    claim=DROPOUT,
    mutants={
        "the labelled answer mixed with the unlabelled one": DROPOUT.but(
            label=lambda given, anyway, drop: (1 - drop) * given + drop * anyway
        ),
        "the average over labels without their posterior": DROPOUT.but(
            null=lambda conditional, weights: sum(conditional) / len(conditional)
        ),
    },
    covers="two labels and one point of observation, with symbols for all probabilities, values "
    "and for the share of hidden labels: the gradient of the risk vanishes at the claim, and the "
    "risk is strictly convex",
    omits="measurability and more than two labels: thm-projection, label by label",
)
def label_dropout(steps, claim):
    """The risk as an explicit quadratic function of three answers."""
    p, a, b, d = symbols("p a b d", positive=True)  # P(Y = 1 | x), E[Z | x, y], share hidden
    first, second, null = symbols("f_1 f_2 f_0", real=True)
    risk = (1 - d) * (p * (first - a) ** 2 + (1 - p) * (second - b) ** 2)
    risk += d * (p * (null - a) ** 2 + (1 - p) * (null - b) ** 2)
    anyway = p * a + (1 - p) * b
    point = {
        first: claim.label(a, anyway, d),
        second: claim.label(b, anyway, d),
        null: claim.null([a, b], [p, 1 - p]),
    }
    for name, answer in (("label 1", first), ("label 2", second), ("no label", null)):
        steps.equal(f"the gradient in the answer to {name}", diff(risk, answer).subs(point), 0)
    curvature = [diff(risk, answer, 2) for answer in (first, second, null)]
    steps.equal("curvatures", curvature, [2 * (1 - d) * p, 2 * (1 - d) * (1 - p), 2 * d])


BAYES = claims(
    score=lambda a, b, rate: 1,
    data=lambda a, b, rate: b**2 / a,
    noise=lambda a, b, rate: -b,
    velocity=lambda a, b, rate: b**2 * rate,
    classifier=lambda at, a, b: "noised",
)


@check(
    "thm-classifier-guidance",
    claim=BAYES,
    mutants={
        "the denoiser moved by sigma": BAYES.but(data=lambda a, b, rate: b / a),
        "the noise with the other sign": BAYES.but(noise=lambda a, b, rate: b),
        "half of the velocity, as for an SDE's drift": BAYES.but(
            velocity=lambda a, b, rate: b**2 * rate / 2
        ),
        "the classifier of clean points": BAYES.but(classifier=lambda at, a, b: "clean"),
    },
    covers="a mixture of three Gaussians on the line, a class of two, on the straight path at "
    "four times: the noised classifier by quadrature of its definition, and score, denoiser, "
    "noise and velocity of the class from component formulas that know no classifier",
    omits="general laws and dimensions: Bayes' rule is the proof; the minimizer of cross-entropy",
)
def classifier_guidance(steps, claim):
    """Everything about the class, twice."""
    prior = sum(mp.mpf(WEIGHT[k]) for k in INSIDE)
    with mp.workdps(30):
        for time in (0.1, 0.4, 0.7, 0.95):
            a, b = mp.mpf(time), 1 - mp.mpf(time)
            rate = 1 / (a * b)  # lambda'
            for at in (mp.mpf("-0.7"), mp.mpf("0.45")):

                def noised(v, a=a, b=b):
                    return _density(v, a, b, INSIDE) / _density(v, a, b)

                def clean(v, a=a):
                    return _density(v / a, 1, 0, INSIDE) / _density(v / a, 1, 0)

                chosen = {"noised": noised, "clean": clean}[claim.classifier(at, a, b)]

                def integrand(u, a=a, b=b, at=at):
                    return _density(u, 1, 0, INSIDE) * mp.npdf(at, a * u, b)

                places = sorted({-6, -2, -1, 0, 1, 2, 3, 6, float(at / a)})
                mean = mp.quad(integrand, places) / _density(at, a, b)
                steps.close(
                    f"E[L(X_1) | X_t] at t = {time}, x = {at}",
                    chosen(at),
                    mean,
                    tolerance=1e-12,
                    why="quadrature",
                )
                gradient = mp.diff(lambda v, f=chosen: mp.log(f(v)), at)
                inside, outside = (_denoiser(at, a, b, part) for part in (INSIDE, (0, 1, 2)))
                shift = inside - outside
                noise = -a / b * shift
                found = {
                    "data": shift,
                    "noise": noise,
                    "score": -noise / b,
                    "velocity": shift - noise,
                }
                for kind, value in found.items():
                    factor = getattr(claim, kind)(a, b, rate)
                    steps.close(
                        f"{kind} at t = {time}, x = {at}",
                        factor * gradient,
                        value,
                        tolerance=1e-12,
                        why="numerical derivative with 30 digits",
                    )
    steps.close("prior", prior, Rational(1, 2), tolerance=0.0, why="exact")


@check(
    "prp-mixing-kinds",
    claim=lambda weak, strong: weak + w * (strong - weak),
    mutants={
        "weights that do not sum to one": lambda weak, strong: w * strong - weak,
        "only the difference": lambda weak, strong: w * (strong - weak),
        "the weights exchanged": lambda weak, strong: strong + w * (weak - strong),
    },
    covers="all alpha, sigma, a, b: mixing q = a D + b eps and converting is converting and "
    "mixing; w = 0 and w = 1 give the two fields",
    omits="nothing",
)
def mixing_kinds(steps, claim):
    """Conversion is affine, and the weights sum to one."""
    a, b, weak, strong = symbols("a b D_0 D_1", real=True)

    def prediction(denoised):
        return a * denoised + b * (x - alpha * denoised) / sigma

    def denoiser(q):
        return (b * x - sigma * q) / (alpha * b - sigma * a)

    mixed = claim(prediction(weak), prediction(strong))
    steps.equal("the denoiser of the mixture", denoiser(mixed), claim(weak, strong))
    steps.equal("w = 0", claim(weak, strong).subs(w, 0), weak)
    steps.equal("w = 1", claim(weak, strong).subs(w, 1), strong)


# -- the tilted law and the powered densities -----------------------------------------------------

POWER = claims(
    noised=lambda p, power_mean, mean, total: p * power_mean / total,
    powered=lambda p, power_mean, mean, prior: p * mean**w / prior**w,
    renyi=lambda ratio_mean: log(ratio_mean),
)


@check(
    "prp-power-mean",
    claim=POWER,
    mutants={
        "the power of the mean in the noised law": POWER.but(
            noised=lambda p, power_mean, mean, total: p * mean**w / total
        ),
        "the mean of the powers in the powered density": POWER.but(
            powered=lambda p, power_mean, mean, prior: p * power_mean / prior**w
        ),
        "not normalized": POWER.but(noised=lambda p, power_mean, mean, total: p * power_mean),
    },
    covers="data on three points with any probabilities and likelihoods, one coordinate, every w: "
    "both densities against their definitions; the quotient as a Renyi divergence of the two "
    "posteriors; Jensen's inequality at w = 2, 1/2 and -1; hard labels",
    omits="general laws: the same lines with integrals",
)
def power_mean(steps, claim):
    """Three data, so that every integral is a sum."""
    place, p, like = (
        (-1, Rational(1, 2), 2),
        symbols("p_1:4", positive=True),
        symbols("L_1:4", positive=True),
    )
    kernel = [exp(-((x - alpha * a) ** 2) / (2 * sigma**2)) for a in place]
    total, prior = sum(p), sum(a * b for a, b in zip(p, like, strict=True))
    law = [a / total for a in p]
    density = sum(a * k for a, k in zip(law, kernel, strict=True))
    posterior = [a * k / density for a, k in zip(law, kernel, strict=True)]
    mean = sum(a * b for a, b in zip(posterior, like, strict=True))
    power = sum(a * b**w for a, b in zip(posterior, like, strict=True))
    whole = sum(a * b**w for a, b in zip(law, like, strict=True))
    tilted = [a * b**w / whole for a, b in zip(law, like, strict=True)]
    noised = sum(a * k for a, k in zip(tilted, kernel, strict=True))
    steps.equal("the noised tilted law", claim.noised(density, power, mean, whole), noised)
    prior = prior / total
    conditional = [a * b / prior for a, b in zip(law, like, strict=True)]
    noisy_class = sum(a * k for a, k in zip(conditional, kernel, strict=True))
    at = {x: Rational(1, 3), alpha: Rational(2, 3), sigma: Rational(1, 2)}
    at |= dict(zip(p, (2, 3, 5), strict=True))
    at |= dict(zip(like, (Rational(1, 5), Rational(9, 10), Rational(2, 5)), strict=True))
    for power_of in (2, Rational(1, 2), -1):
        values = {**at, w: power_of}
        direct = (density ** (1 - w) * noisy_class**w).subs(values)
        made = claim.powered(density, power, mean, prior).subs(values)
        steps.close(
            f"the powered density at w = {power_of}",
            sympy.N(made, 30),
            sympy.N(direct, 30),
            tolerance=1e-20,
            why="rounding",
        )
        sign = 1 if power_of * (power_of - 1) > 0 else -1
        gap = sign * (sympy.N((mean**w - power).subs(values), 30))
        steps.at_most(f"Jensen at w = {power_of}", gap, 0.0)
        of_class = [a * b / mean for a, b in zip(posterior, like, strict=True)]
        ratio = sum(
            q * (c / q) ** w for q, c in zip(posterior, of_class, strict=True)
        )  # exp((w - 1) R_w)
        steps.close(
            f"the Renyi divergence at w = {power_of}",
            sympy.N(claim.renyi(ratio).subs(values), 30),
            sympy.N(log(power / mean**w).subs(values), 30),
            tolerance=1e-20,
            why="rounding",
        )
    hard = {like[0]: 0, like[1]: 1, like[2]: 1}
    for power_of in (Rational(1, 2), 1, 7):
        steps.equal(
            f"hard labels: w = {power_of} is w = 1",
            noised.subs(w, power_of).subs(hard),
            noised.subs(w, 1).subs(hard),
        )


def _plane():
    """Two log-densities f, g of (x, y, t), and what the path's equation says of d/dt."""
    f, g = Function("f", real=True)(x, y, t), Function("g", real=True)(x, y, t)
    drift = symbols("a", real=True)  # alpha' / alpha

    def rate(h):
        gradient = [diff(h, v) for v in (x, y)]
        transport = drift * (2 + x * gradient[0] + y * gradient[1])
        return -transport - kappa * (
            diff(h, x, 2) + diff(h, y, 2) + gradient[0] ** 2 + gradient[1] ** 2
        )

    return f, g, drift, rate


def _square(h):
    return diff(h, x) ** 2 + diff(h, y) ** 2


@check(
    "lem-powered-density",
    claim=lambda: w * (w - 1) * kappa,
    mutants={
        "the other sign": lambda: w * (1 - w) * kappa,
        "half": lambda: w * (w - 1) * kappa / 2,
        "w squared": lambda: w**2 * kappa,
        "no source": lambda: sympy.Integer(0),
    },
    covers="in the plane, for all smooth log-densities, every w and kappa, with the time "
    "derivatives that the path's continuity equation prescribes: the balance of r",
    omits="smoothness of noised densities: lem-gaussian-domination",
)
def powered_density(steps, claim):
    """d r / dt against minus the divergence of r u_w plus the source."""
    f, g, drift, rate = _plane()
    h = (1 - w) * f + w * g
    left = (1 - w) * rate(f) + w * rate(g)  # of log r
    u = [drift * v + kappa * diff(h, v) for v in (x, y)]
    divergence = diff(u[0], x) + diff(u[1], y) + u[0] * diff(h, x) + u[1] * diff(h, y)
    steps.equal("per unit of r", left, -divergence + claim() * _square(g - f))


TILTED = claims(
    gap=lambda square: w * (w - 1) * kappa * square,
    line=lambda phi: [diff(_square(phi), v) / 2 for v in (x, y)],
)


@check(
    "thm-no-tilted-path",
    claim=TILTED,
    mutants={
        "the gap vanishes at w = -1": TILTED.but(gap=lambda square: w * (w + 1) * kappa * square),
        "no gap": TILTED.but(gap=lambda square: 0 * square),
        "the gradient without its half": TILTED.but(
            line=lambda phi: [diff(_square(phi), v) for v in (x, y)]
        ),
    },
    covers="in the plane: the rate at which log r and the log of a path with the same score drift "
    "apart; the gradient of |grad phi|^2 is twice the Hessian along grad phi, so that a constant "
    "norm makes flow lines straight; an affine log-likelihood is the exception: Gaussians of equal "
    "variance",
    omits="that bounded phi has no straight flow line with slope, and injectivity of noising",
)
def no_tilted_path(steps, claim):
    """The two formulas of the proof, and the exception."""
    f, g, _, rate = _plane()
    h = (1 - w) * f + w * g
    powered = (1 - w) * rate(f) + w * rate(g)
    steps.equal("d/dt (log r - log q)", powered - rate(h), claim.gap(_square(g - f)))
    phi = Function("phi", real=True)(x, y)
    gradient = [diff(phi, v) for v in (x, y)]
    pairs = list(zip((x, y), gradient, strict=True))
    along = [sum(diff(phi, a, b) * c for b, c in pairs) for a in (x, y)]
    steps.equal("the Hessian along the gradient", claim.line(phi), along)
    # Gaussians N(0, v), N(m, v): the tilted law is N(w m, v), noised it has the guided score
    noised = v0 * alpha**2 + sigma**2
    guided = -(1 - w) * x / noised - w * (x - alpha * m) / noised
    steps.equal("equal variances", guided, -(x - alpha * w * m) / noised)


def _phi2(at, w_, a, b):
    """Variance of the guided law at s = (sigma / alpha)^2, for two centred Gaussians."""
    return (a + at) ** (1 - w_) * (b + at) ** w_


GUIDED = claims(
    log_weight=lambda w_, integral: w_ * (w_ - 1) * integral,
    density=lambda r, weight: r - weight,
    divergence=lambda log_mean, mean_log: log_mean - mean_log,
)


@check(
    "thm-guided-law",
    claim=GUIDED,
    mutants={
        "the weight inverted": GUIDED.but(
            log_weight=lambda w_, integral: -w_ * (w_ - 1) * integral
        ),
        "w in place of w (w - 1)": GUIDED.but(log_weight=lambda w_, integral: w_ * integral),
        "the weight on the wrong side": GUIDED.but(density=lambda r, weight: r + weight),
        "the divergence with the other sign": GUIDED.but(
            divergence=lambda log_mean, mean_log: mean_log - log_mean
        ),
    },
    covers="two centred Gaussians of variances 1 and 0.3, w = -1, 1/2, 2 and 4, three starting "
    "points: density of the guided law times the weight, by quadrature along the exact trajectory, "
    "is the powered density; the divergence from the tilted law against the formula for Gaussians",
    omits="laws whose trajectories are not known in closed form: the chapter's cells do those "
    "numerically; regularity of the guided field",
)
def guided_law(steps, claim):
    """In the clock s = (sigma / alpha)^2, in which kappa dt = -ds / 2 and Y = X / alpha."""
    a, b = mp.mpf(1), mp.mpf("0.3")
    with mp.workdps(25):
        for w_ in (mp.mpf(-1), mp.mpf("0.5"), mp.mpf(2), mp.mpf(4)):

            def rate(at, w_=w_):
                return _phi2(at, w_, a, b) * (1 / (a + at) - 1 / (b + at)) ** 2 / 2

            unit = mp.quad(rate, [0, b, 1, 4, 20, 200, mp.inf])
            end = _phi2(0, w_, a, b)
            for start in (mp.mpf("0.3"), mp.mpf(1), mp.mpf(-2)):
                at = start * mp.sqrt(end)
                weight = claim.log_weight(w_, unit * start**2)
                powered = (1 - w_) * mp.log(mp.npdf(at, 0, mp.sqrt(a)))
                powered += w_ * mp.log(mp.npdf(at, 0, mp.sqrt(b)))
                guided = mp.log(mp.npdf(at, 0, mp.sqrt(end)))
                steps.close(
                    f"log-density at w = {w_}, from {start}",
                    claim.density(powered, weight),
                    guided,
                    tolerance=1e-12,
                    why="quadrature",
                )
            precision = (1 - w_) / a + w_ / b
            c = claim.log_weight(w_, unit)
            if precision > 0 and c < 0.5:
                ratio = end * precision
                exact = (ratio - 1 - mp.log(ratio)) / 2
                made = claim.divergence(-mp.log(1 - 2 * c) / 2, c)
                steps.close(
                    f"divergence at w = {w_}", made, exact, tolerance=1e-12, why="quadrature"
                )


# -- Gaussians ------------------------------------------------------------------------------------


GAUSSIAN = claims(
    variance=lambda: v0 ** (1 - w) * v1**w,
    rate=lambda size: w * m / 2 / ((v1 + s) * size),
    precision=lambda: (1 - w) / v0 + w / v1,
)


@check(
    "thm-gaussian-guidance",
    claim=GAUSSIAN,
    mutants={
        "the harmonic mean": GAUSSIAN.but(variance=lambda: 1 / ((1 - w) / v0 + w / v1)),
        "the arithmetic mean": GAUSSIAN.but(variance=lambda: (1 - w) * v0 + w * v1),
        "the mean twice as fast": GAUSSIAN.but(rate=lambda size: w * m / ((v1 + s) * size)),
        "the tilted law's variance for its precision": GAUSSIAN.but(
            precision=lambda: (1 - w) * v0 + w * v1
        ),
    },
    covers="all v_0, v_1, m, w: the stated solution solves the guided equation in the clock "
    "s = (sigma / alpha)^2 and starts as sqrt(s) times the noise; the tilted law's precision; "
    "the inequality between the two variances at five scales; the mean for equal variances",
    omits="several dimensions: coordinate by coordinate where the covariances commute",
)
def gaussian_guidance(steps, claim):
    """dY/ds = ((1 - w) Y / (v0 + s) + w (Y - m) / (v1 + s)) / 2."""
    size = sqrt(claim.variance().subs({v0: v0 + s, v1: v1 + s}))
    tail = Function("I", real=True)(s)  # the integral from s to infinity
    solution = size * (z + tail)
    slope = diff(solution, s).subs(diff(tail, s), -claim.rate(size))
    field = ((1 - w) * solution / (v0 + s) + w * (solution - m) / (v1 + s)) / 2
    steps.equal("it solves the equation", slope, field)
    for value in (-1, Rational(1, 2), 2, 5):
        ratio = sympy.limit(size.subs({w: value, v0: 2, v1: 1}) / sqrt(s), s, sympy.oo)
        steps.true(f"it starts as sqrt(s) z, w = {value}", sympy.Eq(sympy.simplify(ratio), 1))
    log_tilted = -(1 - w) * x**2 / (2 * v0) - w * (x - m) ** 2 / (2 * v1)
    steps.equal("the tilted precision", claim.precision(), -diff(log_tilted, x, 2))
    for value in (-Rational(1, 4), Rational(1, 2), 2, 3, 10):
        at = {w: value, v0: 2, v1: 1}
        guided, tilted = (sympy.N(e.subs(at)) for e in (claim.variance(), 1 / claim.precision()))
        sign = 1 if value * (value - 1) > 0 else -1
        steps.at_most(f"w = {value}: which is narrower", sign * (guided - tilted), 0.0)
    equal = sympy.integrate(claim.rate(size).subs(v1, v0), (s, 0, sympy.oo))
    steps.equal("equal variances: the mean is w m", sqrt(v0) * sympy.simplify(equal), w * m)


SCALES = claims(
    limit=lambda: m * v0 / (v0 - v1),
    tilted=lambda: v0 * v1 / (v0 - v1),
    least=lambda: -v1 / (v0 - v1),
)


@check(
    "cor-gaussian-scales",
    claim=SCALES,
    mutants={
        "the class's mean": SCALES.but(limit=lambda: m),
        "the other variance": SCALES.but(limit=lambda: m * v1 / (v0 - v1)),
        "the tilted variance without the difference": SCALES.but(tilted=lambda: v1),
        "negative scales as far as -1": SCALES.but(least=lambda: -sympy.Integer(1)),
    },
    covers="all v_0 > v_1 and m: the integrand of the mean after s = tau / w has the stated limit, "
    "whose integral is the limit of the mean; it is where the likelihood is largest; the tilted "
    "variance times w; the scale at which the tilted law ends",
    omits="the dominating function, for which the text gives the bound",
)
def gaussian_scales(steps, claim):
    """Laplace's method, one factor at a time."""
    d = symbols("d", positive=True)  # v0 = v1 + d
    tau, k = symbols("tau k", positive=True)
    large = {v0: v1 + d}
    at = tau / k
    base = (v0 + at) * v1 / (v0 * (v1 + at))
    rest = sqrt(v0 / (v0 + at)) / (v1 + at)
    exponent = sympy.limit(sympy.simplify((k / 2 * log(base)).subs(large)), k, sympy.oo)
    limit = exp(exponent) * sympy.limit(rest.subs(large), k, sympy.oo) * m / 2
    mean = sympy.integrate(limit, (tau, 0, sympy.oo))
    steps.equal("the mean", claim.limit().subs(large), mean)
    likelihood = -((x - m) ** 2) / (2 * v1) + x**2 / (2 * v0)
    top = diff(likelihood, x).subs(x, claim.limit())
    steps.equal("the gradient of the log-likelihood there", top.subs(large), 0)
    variance = 1 / ((1 - k) / v0 + k / v1)
    steps.equal(
        "w times the tilted variance",
        sympy.limit(k * variance.subs(large), k, sympy.oo),
        claim.tilted().subs(large),
    )
    precision = ((1 - w) / v0 + w / v1).subs(w, claim.least())
    steps.equal("the precision at the least scale", precision.subs(large), 0)


@check(
    "prp-negation",
    claim=lambda p: -p / (1 - p),
    mutants={
        "minus the probability": lambda p: -p,
        "minus one": lambda p: -sympy.Integer(1),
        "the odds with the other sign": lambda p: p / (1 - p),
    },
    covers="all probabilities in (0, 1) and all denoisers",
    omits="that the unconditional denoiser is the mean over labels: the tower property",
)
def negation(steps, claim):
    """Solve D = p D_y + (1 - p) D_not."""
    p = symbols("p", positive=True)
    given, other = symbols("D_y D_n", real=True)
    denoised = p * given + (1 - p) * other
    steps.equal("the guided denoiser", denoised + claim(p) * (given - denoised), other)


# -- SDEs -----------------------------------------------------------------------------------------

g2 = symbols("g_2", positive=True)  # g squared
CORRECTOR = claims(
    power=lambda: w + (w - 1) * 2 * kappa / g2,
    source=lambda: w * (w - 1) * kappa,
)


@check(
    "prp-guided-sde",
    claim=CORRECTOR,
    mutants={
        "the power w": CORRECTOR.but(power=lambda: w),
        "2 w - 1 for every g": CORRECTOR.but(power=lambda: 2 * w - 1),
        "the half lost": CORRECTOR.but(power=lambda: w + (w - 1) * kappa / g2),
        "the source depends on g": CORRECTOR.but(source=lambda: w * (w - 1) * (kappa + g2 / 2)),
    },
    covers="in the plane, for all smooth log-densities, every w, kappa and g: the drift of the "
    "guided SDE is the conditional velocity plus Langevin's drift for the stated power; the "
    "balance of r under the SDE has the source of the flow; 2 w - 1 for the reversal",
    omits="nothing of the formulas; that weights represent the source: the Feynman-Kac formula",
)
def guided_sde(steps, claim):
    """Split the drift; then the Fokker-Planck equation of r."""
    f, g, drift, rate = _plane()
    h = (1 - w) * f + w * g
    power = claim.power()
    for v in (x, y):
        whole = drift * v + kappa * diff(h, v) + g2 / 2 * diff(h, v)
        conditional = drift * v + kappa * diff(g, v)
        langevin = g2 / 2 * ((1 - power) * diff(f, v) + power * diff(g, v))
        steps.equal(f"the drift in {v}", conditional + langevin, whole)
    b = [drift * v + (kappa + g2 / 2) * diff(h, v) for v in (x, y)]
    flux = diff(b[0], x) + diff(b[1], y) + b[0] * diff(h, x) + b[1] * diff(h, y)
    spread = g2 / 2 * (diff(h, x, 2) + diff(h, y, 2) + _square(h))
    left = (1 - w) * rate(f) + w * rate(g)
    steps.equal("per unit of r", left, -flux + spread + claim.source() * _square(g - f))
    steps.equal("the reversal", power.subs(g2, 2 * kappa), 2 * w - 1)


eta = symbols("eta", positive=True)
SPREAD = claims(
    size=lambda at, k: (v0 + at) ** ((1 + k) * (1 - w)) * (v1 + at) ** ((1 + k) * w),
    closed=lambda ratio: v1 * (ratio - ratio ** (2 - 2 * w)) / ((2 * w - 1) * (ratio - 1)),
)


@check(
    "prp-gaussian-guided-sde",
    claim=SPREAD,
    mutants={
        "the flow's exponents": SPREAD.but(
            size=lambda at, k: (v0 + at) ** (1 - w) * (v1 + at) ** w
        ),
        "the exponent 1 - 2 w": SPREAD.but(
            closed=lambda ratio: v1 * (ratio - ratio ** (1 - 2 * w)) / ((2 * w - 1) * (ratio - 1))
        ),
        "the other variance in front": SPREAD.but(
            closed=lambda ratio: v0 * (ratio - ratio ** (2 - 2 * w)) / ((2 * w - 1) * (ratio - 1))
        ),
    },
    covers="the straight path: the moment equation of the guided SDE in t against the stated "
    "integral, for all v_0, v_1, w, eta; the closed form at eta = 1 against quadrature at four "
    "scales, and its values at w = 0, 1; the example of Bradley & Nakkiran; the derivative of "
    "log Psi at 0, which decides the limit of large eta",
    omits="that the limits of eta may be taken under the integral",
)
def gaussian_guided_sde(steps, claim):
    """d Var / dt = 2 slope Var + g^2, written in s."""
    a, b = t, 1 - t
    level = (b / a) ** 2
    rate = b**2 * (1 / a + 1 / b)  # kappa = sigma^2 lambda'
    tail = Function("J", positive=True)(s)  # the integral of 1 / Psi from s to infinity
    variance = eta * claim.size(s, eta) * tail
    slope_in_s = diff(variance, s).subs(diff(tail, s), -1 / claim.size(s, eta))
    precision = (1 - w) / (a**2 * v0 + b**2) + w / (a**2 * v1 + b**2)
    slope = 1 / a - (1 + eta) * rate * precision
    time = symbols("t", positive=True)
    values = {v0: 2, v1: Rational(1, 2), w: 3, eta: Rational(3, 2), tail: Rational(2, 7)}
    for at in (Rational(1, 4), Rational(2, 3)):
        put = {s: level.subs(t, at)}
        var = variance.subs(values).subs(put)
        left = a**2 * slope_in_s * diff(level, t) + 2 * a * variance
        left = left.subs(values).subs(put).subs(t, at)
        right = 2 * slope.subs(values).subs(t, at) * at**2 * var
        right += 2 * values[eta] * rate.subs(t, at)
        steps.equal(f"the moment equation at t = {at}", sympy.nsimplify(left - right), 0)
    del time
    with mp.workdps(25):
        for value in (-1, Rational(1, 4), 2, 5):
            at = {w: value, v0: 2, v1: 1}
            size = sympy.lambdify(s, claim.size(s, 1).subs(at), "mpmath")
            made = size(mp.mpf(0)) * mp.quad(lambda q, f=size: 1 / f(q), [0, 1, 10, mp.inf])
            steps.close(
                f"eta = 1, w = {value}",
                made,
                claim.closed(v0 / v1).subs(at),
                tolerance=1e-12,
                why="quadrature",
            )
    ratio = symbols("R", positive=True)
    steps.equal("w = 1", claim.closed(ratio).subs(w, 1), v1)
    steps.equal("w = 0", claim.closed(ratio).subs(w, 0), v1 * ratio)
    published = (2 - 2 ** (2 - 2 * w)) / (2 * w - 1)
    steps.equal("variances 2 and 1", claim.closed(sympy.Integer(2)).subs(v1, 1), published)
    first = diff(log(claim.size(s, eta)), s).subs(s, 0) / (1 + eta)
    steps.equal("the precision that large eta finds", first, (1 - w) / v0 + w / v1)


# -- variants -------------------------------------------------------------------------------------

low, high = symbols("rho_1 rho_2", positive=True)


@check(
    "prp-interval",
    claim=lambda a, b: v1 * ((v1 + a**2) * (v0 + b**2) / ((v0 + a**2) * (v1 + b**2))) ** (w - 1),
    mutants={
        "the ends exchanged": lambda a, b: (
            v1 * ((v1 + b**2) * (v0 + a**2) / ((v0 + b**2) * (v1 + a**2))) ** (w - 1)
        ),
        "the exponent w": lambda a, b: (
            v1 * ((v1 + a**2) * (v0 + b**2) / ((v0 + a**2) * (v1 + b**2))) ** w
        ),
        "half of the exponent": lambda a, b: (
            v1 * ((v1 + a**2) * (v0 + b**2) / ((v0 + a**2) * (v1 + b**2))) ** ((w - 1) / 2)
        ),
    },
    covers="all variances, w and interval: the logarithm of the variance against the integral of "
    "the rate of contraction; intervals that touch; the whole axis",
    omits="the mean",
)
def interval(steps, claim):
    """Twice the integral of the rate at which two trajectories approach each other."""
    r = symbols("r", positive=True)
    extra = r * (1 / (v1 + r**2) - 1 / (v0 + r**2))

    def integral(a, b):  # the antiderivative is checked, not trusted
        inner = (log(v1 + r**2) - log(v0 + r**2)) / 2
        steps.equal("antiderivative", diff(inner, r), extra)
        return inner.subs(r, b) - inner.subs(r, a)

    exact = log(v1) - 2 * (w - 1) * integral(low, high)
    steps.equal("the logarithm of the variance", log(claim(low, high)), exact)
    middle = symbols("rho_3", positive=True)
    both = claim(low, middle) * claim(middle, high) / v1
    steps.equal("intervals that touch", log(both), log(claim(low, high)))
    for value in (0, 2, 3):
        whole = sympy.limit(claim(sympy.Integer(0), high).subs(w, value), high, sympy.oo)
        steps.equal(f"everywhere, w = {value}", whole, v0 ** (1 - value) * v1**value)


AUTO = claims(
    best=lambda bad_extra, extra: bad_extra / extra,
    spread=lambda vb, vg, v: 1 + log(vg / v) / log(vb / vg),
)


@check(
    "prp-autoguidance",
    claim=AUTO,
    mutants={
        "the good model's error": AUTO.but(best=lambda bad_extra, extra: bad_extra / extra - 1),
        "the inverse": AUTO.but(best=lambda bad_extra, extra: extra / bad_extra),
        "one too few": AUTO.but(spread=lambda vb, vg, v: log(vg / v) / log(vb / vg)),
        "against the true law": AUTO.but(spread=lambda vb, vg, v: 1 + log(vg / v) / log(vb / v)),
    },
    covers="errors with three components and symbols for all of them: the minimizer, that it is "
    "above 1 exactly if the good error and the extra error have a positive product, proportional "
    "errors; Gaussians: the guided variance at the stated scale",
    omits="random errors: the same lines with expectations",
)
def autoguidance(steps, claim):
    """A quadratic function of w."""
    good, bad = symbols("g_1:4", real=True), symbols("b_1:4", real=True)
    extra = [p - q for p, q in zip(bad, good, strict=True)]
    risk = sum((p - w * e) ** 2 for p, e in zip(bad, extra, strict=True))
    product = sum(p * e for p, e in zip(bad, extra, strict=True))
    norm = sum(e**2 for e in extra)
    best = claim.best(product, norm)
    steps.equal("the derivative at the best scale", diff(risk, w).subs(w, best), 0)
    inner = sum(p * e for p, e in zip(good, extra, strict=True))
    steps.equal("its distance from 1", best - 1, inner / norm)
    r = symbols("r", positive=True)
    scaled = best.subs({b: r * a for a, b in zip(good, bad, strict=True)})
    steps.equal("proportional errors", scaled, r / (r - 1))
    vb, vg, v = symbols("v_b v_g v", positive=True)
    guided = vb ** (1 - w) * vg**w
    for values in ((4, 2, 1), (9, 3, Rational(1, 3)), (5, 2, Rational(3, 2))):
        at = dict(zip((vb, vg, v), map(sympy.sympify, values), strict=True))
        made = log(guided.subs(at).subs(w, claim.spread(*(at[k] for k in (vb, vg, v)))))
        steps.close(
            f"variances {values}",
            sympy.N(made, 30),
            sympy.N(log(at[v]), 30),
            tolerance=1e-20,
            why="rounding",
        )


RESCALE = claims(
    factor=lambda phi, strong, guided: phi * strong / guided + 1 - phi,
    deviation=lambda phi, strong, guided: phi * strong + (1 - phi) * guided,
    shift=lambda c, q, det: -(c - 1) * sigma * q / det,
)


@check(
    "prp-rescale",
    claim=RESCALE,
    mutants={
        "the ratio inverted": RESCALE.but(
            factor=lambda phi, strong, guided: phi * guided / strong + 1 - phi
        ),
        "the geometric mean": RESCALE.but(
            deviation=lambda phi, strong, guided: strong**phi * guided ** (1 - phi)
        ),
        "the denoiser scaled alike": RESCALE.but(shift=lambda c, q, det: (c - 1) * q),
    },
    covers="predictions with three coordinates, all values: the deviation after rescaling, and "
    "what it does to the denoiser when another kind is rescaled",
    omits="nothing",
)
def rescale(steps, claim):
    """The deviation of a multiple, and the conversion of one."""
    phi, strong = symbols("phi tau_1", positive=True)
    q = symbols("q_1:4", real=True)

    def deviation(values):
        mean = sum(values) / 3
        return sqrt(sum((v - mean) ** 2 for v in values) / 2)

    at = dict(zip(q, (Rational(1, 2), -1, 3), strict=True))
    guided = deviation(q).subs(at)
    factor = claim.factor(phi, strong, guided)
    made = deviation([factor * value.subs(at) for value in q])
    expected = claim.deviation(phi, strong, guided)
    for share in (0, Rational(1, 3), 1):
        put = {phi: share, strong: Rational(4, 5)}
        steps.equal(f"the deviation, phi = {share}", made.subs(put) - expected.subs(put), 0)
    a, b, c, value = symbols("a b c q", real=True)
    det = alpha * b - sigma * a

    def denoiser(prediction):
        return (b * x - sigma * prediction) / det

    steps.equal(
        "what it adds to the denoiser",
        denoiser(c * value) - denoiser(value),
        claim.shift(c, value, det),
    )
