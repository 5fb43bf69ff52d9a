"""Samplers in EDM's coordinates y = x / alpha and r = sigma / alpha, where the ODE is y' = eps.

In them every Gaussian path is the same (`thm-reparameterization`): y at the noise level r is data
plus r times noise, and dy / dr = (y - D) / r. Papers and libraries write sigma for r and x for y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, Point, as_grid
from fromnoise.samplers._loop import normal, sampler, walk
from fromnoise.samplers.exponential import combine, need_signal


def _slope(field: Field, y: Tensor, p: Point) -> Tensor:
    """(y - D) / r, the noise in y."""
    return field.predict(p.alpha * y, p, "noise")


def churned(grid: Grid, i: int, churn: float, low: float, high: float) -> Point:
    """The noisier point at which step i begins: r_hat = (1 + gamma) r (`alg-edm`)."""
    p = grid[i]
    gamma = min(churn / grid.steps, math.sqrt(2.0) - 1.0) if low <= p.ratio <= high else 0.0
    if gamma == 0.0:
        return p
    return grid.at_half_log_snr(p.half_log_snr - math.log1p(gamma), p.index)


@sampler
def edm_heun(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    churn: float = 0.0,
    churn_from: float = 0.0,
    churn_to: float = math.inf,
    churn_noise: float = 1.0,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Heun's method in the noise level, with or without churn (`alg-edm`).

    Karras et al. 2022, algorithm 2: before a step the noise level r is raised to (1 + gamma) r by
    fresh noise, gamma = min(churn / steps, sqrt 2 - 1) for levels between `churn_from` and
    `churn_to`; then one step of Heun's method leads to the next level. A step to level 0 is
    Euler's, and returns D. Two evaluations a step, one in the last.

    Args:
        field: of the path; with churn its schedule must reach the raised levels.
        x: ``(batch, *event)``, the state at the first time, in the path's own scale; there must be
            signal (alpha > 0).
        times: a grid, or increasing times ``(steps + 1,)``; with churn, of a schedule.
        churn: S_churn of the paper, at least 0; 0 is the ODE.
        churn_from: S_tmin, in units of sigma / alpha.
        churn_to: S_tmax.
        churn_noise: S_noise, the standard deviation of the fresh noise in units of the exact one.
        generator: source of the noise, on the device of x.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: churn is negative, the first time has no signal, or the schedule does not reach
            a raised level.
        NotFiniteError: a prediction was not finite.
    """
    if not churn >= 0.0:
        raise ValueError(f"churn must be at least 0, but it is {churn}.")
    grid = as_grid(times, field.schedule)
    need_signal(grid)
    starts = [
        churned(grid, i, churn, churn_from, churn_to) if churn else grid[i]
        for i in range(grid.steps)
    ]

    def step(x: Tensor, i: int) -> Tensor:
        p, start, q = grid[i], starts[i], grid[i + 1]
        y = x / p.alpha
        if start is not p:
            extra = churn_noise * math.sqrt(start.ratio**2 - p.ratio**2)
            y = combine(y, 1.0, [(extra, normal(y, generator))])
        h = q.ratio - start.ratio
        slope = _slope(field, y, start)
        after = combine(y, 1.0, [(h, slope)])
        if isinstance(q.sigma, Tensor) or q.sigma != 0.0:
            slope = slope + _slope(field, after, q)
            after = combine(y, 1.0, [(0.5 * h, slope)])
        return q.alpha * after

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)


@sampler
def euler_ancestral(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    eta: float = 1.0,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Euler's method in the noise level to below the next one, then noise up to it.

    The noise added is eta times what DDPM's posterior has; with eta = 1 it is `ddim` with eta = 1
    (`prp-euler-ancestral`). The name and the form are k-diffusion's.

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the first time; there must be signal (alpha > 0).
        times: a grid, or increasing times ``(steps + 1,)``.
        eta: at least 0; the noise is bounded by the level it leads to.
        generator: source of the noise, on the device of x.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: eta is negative, or the first time has no signal.
        NotFiniteError: a prediction was not finite.
    """
    if not eta >= 0.0:
        raise ValueError(f"eta must be at least 0, but it is {eta}.")
    grid = as_grid(times, field.schedule)
    need_signal(grid)

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        r, s = p.ratio, q.ratio
        up = eta * s * (1.0 - (s / r) ** 2) ** 0.5
        up = up.clamp(max=s) if isinstance(up, Tensor) else min(up, s)
        down = (s**2 - up**2) ** 0.5
        y = x / p.alpha
        y = combine(y, 1.0, [(down - r, _slope(field, y, p))])
        return q.alpha * (combine(y, 1.0, [(up, normal(y, generator))]) if eta else y)

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)


@sampler
def restart(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    low: float,
    high: float,
    rounds: int = 1,
    inner: int = 4,
    rho: float = 7.0,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Heun's method, that goes back up once it is at a low noise level, some times (`alg-restart`).

    Xu et al. 2023: at the last grid level not below `low` fresh noise raises the level to `high`,
    and `inner` steps of Heun's method lead down again; `rounds` times. Noise contracts the error
    that has piled up, in one large portion instead of many small ones.

    Args:
        field: of the path; its schedule must reach the levels in between.
        x: ``(batch, *event)``, the state at the first time; there must be signal (alpha > 0).
        times: a grid with a schedule, or increasing times ``(steps + 1,)``.
        low: t_min of the paper, in units of sigma / alpha.
        high: t_max of the paper, above `low`.
        rounds: K, at least 0.
        inner: steps of each way down, at least 1, equally spaced in r^(1/rho).
        rho: as for `fromnoise.grids.karras`.
        generator: source of the noise, on the device of x.
        trajectory: return the states at the times of the grid instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: not 0 < low < high, `low` is below all or above all levels of the grid, or the
            schedule does not reach one.
        NotFiniteError: a prediction was not finite.
    """
    if not 0.0 < low < high:
        raise ValueError(f"low={low} and high={high}: pass 0 < low < high.")
    if rounds < 0 or inner < 1:
        raise ValueError(f"rounds={rounds} must be at least 0 and inner={inner} at least 1.")
    grid = as_grid(times, field.schedule)
    need_signal(grid)
    at = max((i for i in range(1, len(grid)) if grid[i].ratio >= low), default=0)
    if at == 0 or grid[at].sigma == 0.0:
        raise ValueError(
            f"low={low}: the grid's levels sigma / alpha run from {grid[0].ratio:.4g} to "
            f"{grid[len(grid) - 1].ratio:.4g}; choose one between, after the first step."
        )
    bottom = grid[at]
    levels = torch.linspace(high ** (1 / rho), bottom.ratio ** (1 / rho), inner + 1).double() ** rho
    way = [grid.at_half_log_snr(-math.log(level), at) for level in levels.tolist()]
    way[-1] = bottom

    def heun(x: Tensor, p: Point, q: Point) -> Tensor:
        y, h = x / p.alpha, q.ratio - p.ratio
        slope = _slope(field, y, p)
        after = combine(y, 1.0, [(h, slope)])
        if q.sigma != 0.0:
            after = combine(y, 1.0, [(0.5 * h, slope + _slope(field, after, q))])
        return q.alpha * after

    def step(x: Tensor, i: int) -> Tensor:
        x = heun(x, grid[i], grid[i + 1])
        for _ in range(rounds if i + 1 == at else 0):
            y = x / bottom.alpha
            raised = math.sqrt(high**2 - bottom.ratio**2)
            x = way[0].alpha * combine(y, 1.0, [(raised, normal(y, generator))])
            for p, q in pairwise(way):
                x = heun(x, p, q)
        return x

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)
