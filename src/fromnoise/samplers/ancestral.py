"""Ancestral sampling: draw each state from the model's step of the reversed chain (DDPM)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, Number, Point, as_grid
from fromnoise.samplers._loop import normal, sampler, walk
from fromnoise.samplers.exponential import combine

Variance = Literal["small", "large", "learned"]


def step_variances(p: Point, q: Point) -> tuple[Number, Number]:
    """The small and the large variance of X_q given X_p (`prp-ancestral-variances`).

    small: of X_q given X_p *and the datum*, sigma_q^2 (1 - e^(-2h)). large: of X_q given X_p where
    the data are standard normal; on a variance-preserving path that is DDPM's beta. The truth lies
    between them for data that spread no more than a standard normal law.
    """
    fresh = 1.0 - (p.alpha * q.sigma / (q.alpha * p.sigma)) ** 2
    small = q.sigma**2 * fresh
    # X_p given X_q has the variance sigma_p^2 fresh
    large = p.sigma**2 * fresh * (q.alpha**2 + q.sigma**2) / (p.alpha**2 + p.sigma**2)
    return small, large


@sampler
def ancestral(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    variance: Variance = "small",
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Draw X_q from a normal law with the posterior's mean at the denoised datum (`alg-ancestral`).

    Ho et al. 2020, algorithm 2, for any path and any grid: the mean of X_q given X_p = x and
    X_1 = D (`prp-forward-posterior`), plus noise of the variance chosen; none in a step to
    sigma = 0, which returns D.

    Args:
        field: of the path; for "learned" one with a method ``both(x, t)`` that returns the noise
            and the fraction v, as `fromnoise.variational.LearnedVarianceField`.
        x: ``(batch, *event)``, the state at the first time.
        times: a grid, or increasing times ``(steps + 1,)``.
        variance: "small", "large" (`step_variances`), or "learned", small^(1 - v) large^v.
        generator: source of the noise, on the device of x.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: the variance is unknown, or "learned" and the field has none.
        NotFiniteError: a prediction was not finite.
    """
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"variance must be 'small', 'large' or 'learned', but it is {variance!r}.")
    learned = getattr(field, "both", None) or getattr(getattr(field, "field", None), "both", None)
    if variance == "learned" and learned is None:
        raise ValueError(
            f"variance='learned', but {type(field).__name__} predicts no variance: train with "
            "fromnoise.variational.LearnedVariance, or choose 'small' or 'large'."
        )
    grid = as_grid(times, field.schedule)

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        fraction = None
        if variance == "learned":
            noise, fraction = learned(x, p.t)
            denoised = (x - p.sigma * noise) / p.alpha
        else:
            denoised = field.predict(x, p, "data")
        share = (p.alpha * q.sigma / (q.alpha * p.sigma)) ** 2  # e^(-2h)
        # e^(-2h) alpha_q / alpha_p, which is finite where alpha_p = 0
        shrink = p.alpha * q.sigma**2 / (q.alpha * p.sigma**2)
        x = combine(x, shrink, [(q.alpha * (1.0 - share), denoised)])
        if not isinstance(q.sigma, Tensor) and q.sigma == 0.0:
            return x
        small, large = step_variances(p, q)
        if fraction is None:
            std = (small if variance == "small" else large) ** 0.5
            return combine(x, 1.0, [(std, normal(x, generator))])
        low, high = math.log(small), math.log(large)
        return x + torch.exp(0.5 * (low + (high - low) * fraction)) * normal(x, generator)

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)
