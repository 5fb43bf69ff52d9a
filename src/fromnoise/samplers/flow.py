"""Euler's and Heun's method in t for the path's velocity, as flow-matching models are sampled."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, as_grid
from fromnoise.samplers._loop import sampler, walk
from fromnoise.samplers.exponential import combine


@sampler
def flow_euler(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """x + (t_q - t_p) u (`alg-flow-sampling`). On `CondOT` it is DDIM (`prp-ddim-is-euler`).

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the first time.
        times: a grid, or increasing times ``(steps + 1,)``.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: the times do not increase, or the velocity cannot be had at one of them.
        NotFiniteError: a prediction was not finite.
    """
    grid = as_grid(times, field.schedule)

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        return combine(x, 1.0, [(_h(q.t - p.t, x), field.predict(x, p, "velocity"))])

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)


@sampler
def flow_heun(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    euler_last: bool = False,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Heun's method in t: the mean of the velocities at both ends of a step (`prp-heun-order`).

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the first time.
        times: a grid, or increasing times ``(steps + 1,)``.
        euler_last: take the last step by Euler's method, where the velocity has no limit at t = 1.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: the times do not increase, or the velocity cannot be had at one of them.
        NotFiniteError: a prediction was not finite.
    """
    grid = as_grid(times, field.schedule)

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        h = _h(q.t - p.t, x)
        u = field.predict(x, p, "velocity")
        guess = combine(x, 1.0, [(h, u)])
        if euler_last and i == grid.steps - 1:
            return guess
        u = u + field.predict(guess, q, "velocity")
        return combine(x, 1.0, [(0.5 * h, u)])

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)


def _h(h: float | Tensor, x: Tensor) -> float | Tensor:
    return h.reshape(-1, *([1] * (x.ndim - 1))) if isinstance(h, Tensor) else h
