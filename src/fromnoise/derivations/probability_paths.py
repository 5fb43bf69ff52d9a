"""Checks of the chapter on probability paths."""

from __future__ import annotations

import sympy
import torch
from sympy import Function, diff, log, symbols

from fromnoise.derivations.checking import check, claims
from fromnoise.distributions import laboratory
from fromnoise.schedules import CondOT, Cosine

t, s = symbols("t s", positive=True)
alpha, sigma = Function("alpha", positive=True), Function("sigma", positive=True)
d_alpha, d_sigma = diff(alpha(t), t), diff(sigma(t), t)

VELOCITY = claims(
    velocity=lambda x, x1: d_sigma / sigma(t) * (x - alpha(t) * x1) + d_alpha * x1,
    flow=lambda x, x1: alpha(t) * x1 + sigma(t) / sigma(s) * (x - alpha(s) * x1),
)


@check(
    "prp-conditional-velocity",
    claim=VELOCITY,
    mutants={
        "alpha and sigma swapped in the rate": VELOCITY.but(
            velocity=lambda x, x1: d_alpha / alpha(t) * (x - alpha(t) * x1) + d_alpha * x1
        ),
        "without the drift of the mean": VELOCITY.but(
            velocity=lambda x, x1: d_sigma / sigma(t) * (x - alpha(t) * x1)
        ),
        "times swapped in the flow": VELOCITY.but(
            flow=lambda x, x1: alpha(t) * x1 + sigma(s) / sigma(t) * (x - alpha(s) * x1)
        ),
    },
    covers="parts 1 and 3 for every differentiable alpha and sigma, in dimension 2; part 2 follows "
    "from the flow, which is affine",
    omits="uniqueness of the solutions, which is Picard-Lindelöf; other dimensions, in which the "
    "coordinates do not interact",
)
def conditional_velocity(steps, claim):
    """The curve solves the ODE, the flow joins its points, the continuity equation holds."""
    x, x1, eps = (
        sympy.Matrix(symbols(f"{name}_1 {name}_2", real=True)) for name in ("x", "z", "e")
    )
    curve = alpha(t) * x1 + sigma(t) * eps
    steps.equal(
        "the curve alpha x_1 + sigma eps has velocity u", diff(curve, t), claim.velocity(curve, x1)
    )
    steps.equal(
        "the flow takes the curve's point at s to its point at t",
        claim.flow(curve.subs(t, s), x1),
        curve,
    )
    log_p = -2 * log(sigma(t)) - (x - alpha(t) * x1).dot(x - alpha(t) * x1) / (2 * sigma(t) ** 2)
    u = claim.velocity(x, x1)
    divergence = sum(diff(u[i], x[i]) for i in range(2))
    gradient = sympy.Matrix([diff(log_p, x[i]) for i in range(2)])
    steps.equal(
        "continuity equation: d_t log p + div u + u . grad log p = 0",
        diff(log_p, t) + divergence + u.dot(gradient),
    )


JACOBIAN = claims(
    denoiser=lambda a, s, cov: a / s**2 * cov,
    velocity=lambda a, s, da, ds, cov: (
        ds / s * torch.eye(2, dtype=cov.dtype) + (da / a - ds / s) * a**2 / s**2 * cov
    ),
)


@check(
    "prp-jacobian",
    claim=JACOBIAN,
    mutants={
        "sigma not squared": JACOBIAN.but(denoiser=lambda a, s, cov: a / s * cov),
        "alpha not squared": JACOBIAN.but(
            velocity=lambda a, s, da, ds, cov: (
                ds / s * torch.eye(2, dtype=cov.dtype) + (da / a - ds / s) * a / s**2 * cov
            )
        ),
        "the contraction with the other sign": JACOBIAN.but(
            velocity=lambda a, s, da, ds, cov: (
                -ds / s * torch.eye(2, dtype=cov.dtype) + (da / a - ds / s) * a**2 / s**2 * cov
            )
        ),
    },
    covers="the laboratory under two schedules, at twelve points",
    omits="other data laws",
)
def jacobian(steps, claim):
    """Derivatives by automatic differentiation against the covariance of the posterior."""
    law = laboratory()
    x = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64).reshape(12, 2)
    for schedule in (CondOT(), Cosine()):
        time = torch.tensor(0.6, dtype=torch.float64)
        a, sg, da, ds = (
            f(time) for f in (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma)
        )

        def denoiser(y, a=a, sg=sg):
            return law.denoise(y[None], a, sg)[0]

        def velocity(y, a=a, sg=sg, da=da, ds=ds):
            return da * law.denoise(y[None], a, sg)[0] + ds * law.predict_noise(y[None], a, sg)[0]

        cov = law.conditional_covariance(x, a, sg)
        for name, function, value in (
            ("D", denoiser, claim.denoiser(a, sg, cov)),
            ("u", velocity, claim.velocity(a, sg, da, ds, cov)),
        ):
            exact = torch.stack([torch.func.jacrev(function)(point) for point in x])
            steps.close(
                f"{schedule.name}: Jacobian of {name}",
                value,
                exact,
                tolerance=1e-12,
                why="round-off of some hundred operations in double precision",
            )
