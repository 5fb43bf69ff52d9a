"""Langevin dynamics of a fixed score, in steps of one size (`alg-langevin`)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def unadjusted_langevin(
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    step: float,
    steps: int,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
) -> Tensor:
    """Repeat ``x + h s(x) + sqrt(2 h) xi``, h = `step`: the unadjusted Langevin algorithm.

    It is Euler-Maruyama for the equation of `thm-langevin` with g = sqrt(2), so that h is time
    (`alg-langevin`). Nothing is accepted or rejected: the law that it settles in differs from
    the one with the score s by a bias of the order of h (`prp-em-ou` for a Gaussian).

    Args:
        score: maps ``(batch, *event)`` to ``(batch, *event)``.
        x: ``(batch, *event)``, where it begins.
        step: h, positive.
        steps: how often, at least 0.
        generator: source of the noise, on the device of x.
        trajectory: return all states instead of the last one.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: `step` is not positive and finite, or `steps` is negative.
    """
    if not 0.0 < step < math.inf:
        raise ValueError(f"step must be positive and finite, but it is {step}.")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, but it is {steps}.")
    states = [x] if trajectory else None
    for _ in range(steps):
        xi = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = x + step * score(x) + math.sqrt(2.0 * step) * xi
        if states is not None:
            states.append(x)
    return torch.stack(states) if states is not None else x
