"""The path's own SDEs by Euler-Maruyama, alone or with a Langevin corrector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, Number, Point, as_grid
from fromnoise.samplers._loop import normal, sampler, walk
from fromnoise.samplers.exponential import combine

Diffusion = float | Callable[[Tensor], Tensor] | None


def _squared_noise(field: Field, p: Point, q: Point, g: Diffusion) -> float:
    """g^2 at the step's beginning; for the reversed noising process its mean over the step.

    The mean, of 2 sigma^2 lambda', keeps a first step from alpha = 0 finite (`rem-first-step`).
    """
    if g is None:
        # the variance of noising from q to p, per time: what Euler-Maruyama's noise should have
        return (p.sigma**2 - (p.alpha * q.sigma / q.alpha) ** 2) / (q.t - p.t)
    value = g(torch.tensor(p.t, dtype=torch.float64)) if callable(g) else g
    return float(value) ** 2


@sampler
def reverse_sde(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    g: Diffusion = None,
    denoise: bool = True,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Euler-Maruyama for dX = (u + g^2 s / 2) dt + g dW (`thm-sde-extension`).

    All g >= 0 have the path's marginals; g = None is the reversed noising process of Song et al.
    2021, with the variance of a step in place of g^2 times its length ("reverse diffusion" there).
    A first step from alpha = 0 is finite then, its variance a quarter too large (`rem-first-step`).

    Args:
        field: velocity and score of the path.
        x: ``(batch, *event)``, the state at the first time.
        times: a grid with a schedule, or increasing times ``(steps + 1,)``.
        g: None, a number, or a function of t that is finite at the beginning of every step.
        denoise: in a last step to sigma = 0, return the denoised state.
        generator: source of the noise, on the device of x.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: the times do not increase, or velocity or noise cannot be had at one of them.
        NotFiniteError: a prediction was not finite.
    """
    grid = as_grid(times, field.schedule)
    squared = [_squared_noise(field, p, q, g) for p, q in pairwise(grid.points)]

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        if denoise and q.sigma == 0.0:
            return field.predict(x, p, "data")
        return _euler_maruyama(field, x, p, q, squared[i], generator)

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)


def _euler_maruyama(field, x, p, q, squared: Number, generator) -> Tensor:
    h = q.t - p.t
    eps = field.predict(x, p, "noise")
    # u = (alpha' / alpha) (x - sigma eps) + sigma' eps and s = -eps / sigma
    if p.alpha == 0.0:
        drift = field.predict(x, p, "velocity")
        drift = torch.add(drift, eps, alpha=-0.5 * squared / p.sigma)
    else:
        rate = p.d_alpha / p.alpha
        weight = p.d_sigma - rate * p.sigma - 0.5 * squared / p.sigma
        drift = torch.add(rate * x, eps, alpha=weight)
    x = combine(x, 1.0, [(h, drift)])
    return combine(x, 1.0, [(math.sqrt(squared * h), normal(x, generator))]) if squared else x


@sampler
def predictor_corrector(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    corrections: int = 1,
    snr: float = 0.16,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """A step of the reversed SDE, then Langevin steps at the level reached (`alg-pc`).

    Song et al. 2021, algorithms 1 to 5. A Langevin step is x + h s + sqrt(2 h) xi, as in
    `alg-langevin`, of the size h = 2 (snr |xi| / |s|)^2 that they use, with norms averaged over
    the batch. The corrector makes no step in time: it costs an evaluation and leaves p_t
    unchanged but for its bias (`prp-em-ou`).

    Args:
        field: velocity and score of the path.
        x: ``(batch, *event)``, the state at the first time.
        times: a grid with a schedule, or increasing times ``(steps + 1,)``.
        corrections: Langevin steps after each step, at least 0; none after a step to sigma = 0.
        snr: "signal-to-noise ratio" r of the paper, positive.
        generator: source of the noise, on the device of x.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: corrections < 0, snr is not positive, or a prediction cannot be had.
        NotFiniteError: a prediction was not finite.
    """
    if corrections < 0 or not snr > 0.0:
        raise ValueError(f"corrections={corrections} must be at least 0 and snr={snr} positive.")
    grid = as_grid(times, field.schedule)
    squared = [_squared_noise(field, p, q, None) for p, q in pairwise(grid.points)]

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        if q.sigma == 0.0:
            return field.predict(x, p, "data")
        x = _euler_maruyama(field, x, p, q, squared[i], generator)
        for _ in range(corrections):
            score = field.predict(x, q, "noise") / -q.sigma
            xi = normal(x, generator)
            size = xi.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
            h = 2.0 * (snr * size) ** 2
            x = x + h * score + (2.0 * h).sqrt() * xi
        return x

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)
