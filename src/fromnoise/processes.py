"""Ordinary and stochastic differential equations, as drift and diffusion.

``dX = drift(X, t) dt`` (`eq-ode`) and ``dX = drift(X, t) dt + diffusion(X, t) dW`` (`eq-sde`), with
diagonal noise: each coordinate has its own Brownian motion. The diffusion coefficient is called g;
sigma is the path's. Here t is any real number; only fields live on [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise._shapes import as_float
from fromnoise.fields import Field
from fromnoise.schedules import Schedule

Drift = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ODE:
    """``dX = drift(X, t) dt`` (`def-trajectory`, `eq-ode`).

    Args:
        drift: maps ``x: (batch, *event)`` and a 0-dimensional t to ``(batch, *event)``.
    """

    drift: Drift


@dataclass(frozen=True)
class SDE:
    """``dX = drift(X, t) dt + diffusion(X, t) dW`` in the sense of Itô (`def-sde`, `eq-sde`).

    Args:
        drift: maps ``x: (batch, *event)`` and a 0-dimensional t to ``(batch, *event)``.
        diffusion: maps the same to g, a tensor that broadcasts against x; coordinate i of the
            result multiplies coordinate i of dW.
        additive: promise that g does not depend on x; some methods need it.
    """

    drift: Drift
    diffusion: Drift
    additive: bool = False


def brownian(g: float = 1.0) -> SDE:
    """g times Brownian motion, ``dX = g dW`` (`def-brownian`)."""
    return SDE(lambda x, t: torch.zeros_like(x), lambda x, t: as_float(g, x), additive=True)


def ornstein_uhlenbeck(theta: float, g: float, mean: float | Tensor = 0.0) -> SDE:
    """``dX = -theta (X - mean) dt + g dW`` (`prp-ou-law`)."""
    return SDE(
        lambda x, t: -theta * (x - as_float(mean, x)),
        lambda x, t: as_float(g, x),
        additive=True,
    )


def geometric_brownian(mu: float, g: float) -> SDE:
    """``dX = mu X dt + g X dW``, solved by X_0 exp((mu - g^2 / 2) t + g W_t) (`prp-gbm`)."""
    return SDE(lambda x, t: mu * x, lambda x, t: g * x)


def langevin(score: Callable[[Tensor], Tensor], g: float = math.sqrt(2.0)) -> SDE:
    """``dX = (g^2 / 2) score(X) dt + g dW``, which leaves the density with that score unchanged.

    `thm-langevin`.
    """
    return SDE(lambda x, t: 0.5 * g**2 * score(x), lambda x, t: as_float(g, x), additive=True)


def noising(schedule: Schedule) -> SDE:
    """The linear SDE from data to noise with the path's conditional laws (`prp-linear-noising`).

    ``dY = -(alpha' / alpha) Y dr + sqrt(2 sigma^2 lambda') dB``, coefficients at t = 1 - r. It runs
    in *noising time* r, forward from data (r = 0) to noise (r = 1), so that `solve_sde` runs it as
    it runs every SDE; Song et al. 2021 write f and g for its coefficients. With ``Y_0 = alpha_1 X_1
    + sigma_1 eps``, given X_1 the law of ``Y_{1-t}`` is N(alpha_t X_1, sigma_t^2 I).

    Args:
        schedule: alpha and sigma. Where alpha_t = 0 (t = 0 of the standard schedules) the
            coefficients are infinite: stop short of r = 1 there.
    """

    def drift(y: Tensor, r: Tensor) -> Tensor:
        t = 1.0 - as_float(r, y)
        return -(schedule.d_alpha(t) / schedule.alpha(t)) * y

    return SDE(drift, lambda y, r: schedule.noising_g(1.0 - as_float(r, y)), additive=True)


def _need_additive(sde: SDE, what: str) -> None:
    if not sde.additive:
        raise ValueError(
            f"sde: {what} needs additive noise (SDE(..., additive=True)), because for noise that "
            "depends on x the formula has a further term, the divergence of g g^T."
        )


def reverse(sde: SDE, score: Drift) -> SDE:
    """Anderson's reversed process: the law of the SDE's paths, read from time 1 to time 0.

    ``dX = (-b(X, 1 - t) + g^2 score(X, 1 - t)) dt + g dW`` with g at 1 - t (`thm-time-reversal`;
    Anderson 1982). The result runs forward in its own time, the SDE's time counted from 1 down.

    Args:
        sde: with additive noise, on times in [0, 1].
        score: of the law of the SDE at each of *its* times, maps x and time to ``(batch, *event)``.

    Raises:
        ValueError: the noise is not additive.
    """
    _need_additive(sde, "reverse")

    def drift(x: Tensor, t: Tensor) -> Tensor:
        r = 1.0 - as_float(t, x)
        return sde.diffusion(x, r) ** 2 * score(x, r) - sde.drift(x, r)

    return SDE(drift, lambda x, t: sde.diffusion(x, 1.0 - as_float(t, x)), additive=True)


def probability_flow_of(sde: SDE, score: Drift) -> ODE:
    """The ODE ``dX = (b - (g^2 / 2) score) dt`` with the SDE's marginals.

    `prp-probability-flow`; Song et al. 2021, Eq. 13.

    Args:
        sde: with additive noise.
        score: of the law of the SDE at each time.

    Raises:
        ValueError: the noise is not additive.
    """
    _need_additive(sde, "probability_flow_of")
    return ODE(lambda x, t: sde.drift(x, t) - 0.5 * sde.diffusion(x, t) ** 2 * score(x, t))


def probability_flow(field: Field) -> ODE:
    """``dX = u_t(X) dt``: the flow of the path's velocity (`thm-transport`)."""
    return ODE(field.velocity)


def stochastic_flow(field: Field, g: float | Callable[[Tensor], Tensor]) -> SDE:
    """``dX = (u_t + (g_t^2 / 2) s_t) dt + g_t dW``: for any g >= 0 it has the path's marginals.

    `thm-sde-extension`; ``g = schedule.noising_g`` is the reversed noising process
    (`cor-reversal-in-family`).

    Args:
        field: velocity and score.
        g: a number, or a function of t.
    """

    def g_at(t: Tensor, x: Tensor) -> Tensor:
        return as_float(g(t) if callable(g) else g, x)

    def drift(x: Tensor, t: Tensor) -> Tensor:
        return field.velocity(x, t) + 0.5 * g_at(t, x) ** 2 * field.score(x, t)

    return SDE(drift, lambda x, t: g_at(t, x), additive=True)
