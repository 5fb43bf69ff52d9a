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


def probability_flow(field: Field) -> ODE:
    """``dX = u_t(X) dt``: the flow of the path's velocity (`thm-transport`)."""
    return ODE(field.velocity)


def stochastic_flow(field: Field, g: float | Callable[[Tensor], Tensor]) -> SDE:
    """``dX = (u_t + (g_t^2 / 2) s_t) dt + g_t dW``: for any g >= 0 it has the path's marginals.

    Args:
        field: velocity and score.
        g: a number, or a function of t.
    """

    def g_at(t: Tensor, x: Tensor) -> Tensor:
        return as_float(g(t) if callable(g) else g, x)

    def drift(x: Tensor, t: Tensor) -> Tensor:
        return field.velocity(x, t) + 0.5 * g_at(t, x) ** 2 * field.score(x, t)

    return SDE(drift, lambda x, t: g_at(t, x), additive=True)
