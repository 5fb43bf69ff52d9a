"""DPM-Solver: methods for the noise prediction, with stages inside a step and with memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, Number, as_grid
from fromnoise.samplers._loop import sampler, walk
from fromnoise.samplers.dpmpp import Form, taylor_weights
from fromnoise.samplers.exponential import (
    combine,
    moments,
    multistep,
    need_signal,
    polynomial_weights,
    step_in_lambda,
    transfer,
    usable,
)


def _check(order: int, form: str) -> None:
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, but it is {order}.")
    if form not in ("exact", "paper", "taylor"):
        raise ValueError(f"form must be 'exact', 'paper' or 'taylor', but it is {form!r}.")


@sampler
def dpm_solver_multistep(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    order: int = 2,
    form: Form = "exact",
    lower_final: int = 0,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """DPM-Solver with memory: one evaluation a step, `order` noise predictions in each.

    Lu et al. 2022a, in the multistep form of the authors' code. With form = "exact" it is `deis`.

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the first time; there must be signal (alpha > 0).
        times: a grid, or increasing times ``(steps + 1,)``.
        order: 1, 2 or 3.
        form: as for `fromnoise.samplers.dpmpp.dpmpp`.
        lower_final: bound the order of that many last steps by the number of steps left.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: order or form are unknown, or the first time has no signal.
        NotFiniteError: a prediction was not finite.
    """
    _check(order, form)

    def weights(grid: Grid, i: int, values: int) -> tuple[Number, list[Number]]:
        p, q = grid[i], grid[i + 1]
        keep, scale = transfer(p, q, "noise")
        h = step_in_lambda(p, q)
        values = usable(grid, i, values)
        if values == 1 or (isinstance(h, float) and math.isinf(h)):
            return keep, [scale]
        nodes = [step_in_lambda(p, grid[i - j]) / h for j in range(values)]
        parts = taylor_weights(moments(h, values - 1, 1.0), nodes, form)
        return keep, [-q.sigma * part for part in parts]

    return multistep(
        field,
        x,
        as_grid(times, field.schedule),
        kind="noise",
        order=order,
        weights=polynomial_weights("noise") if form == "exact" else weights,
        start="corrected" if form == "exact" else "low",
        lower_final=lower_final,
        trajectory=trajectory,
        progress=progress,
    )


@sampler
def dpm_solver(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    order: int = 2,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """DPM-Solver-1, -2 and -3 of the single-step kind (Lu et al. 2022a, algorithms 1 and 2).

    A step has `order` evaluations, at lambda_p, and at 1/2, or 1/3 and 2/3, of the way in lambda;
    nothing is remembered (`prp-dpm-solver-2`, `prp-dpm-solver-3`). Order 1 is DDIM. A step to
    sigma = 0 is of order 1.

    Args:
        field: of the path; its schedule gives the times between those of the grid.
        x: ``(batch, *event)``, the state at the first time; there must be signal (alpha > 0).
        times: a grid with a schedule, or increasing times ``(steps + 1,)``.
        order: 1, 2 or 3; the number of evaluations in a step.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: the order is unknown, the first time has no signal, or the grid has no schedule.
        NotFiniteError: a prediction was not finite.
    """
    _check(order, "exact")
    grid = as_grid(times, field.schedule)
    need_signal(grid)
    inner = {1: (), 2: (0.5,), 3: (1.0 / 3.0, 2.0 / 3.0)}[order]
    between = [
        [] if q.sigma == 0.0 else [grid.between(i, share) for share in inner]
        for i, q in enumerate(grid.points[1:])
    ]

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        eps = field.predict(x, p, "noise")
        keep, scale = transfer(p, q, "noise")
        if not between[i]:
            return combine(x, keep, [(scale, eps)])
        h = step_in_lambda(p, q)
        first = between[i][0]
        keep_1, scale_1 = transfer(p, first, "noise")
        eps_1 = field.predict(combine(x, keep_1, [(scale_1, eps)]), first, "noise")
        if order == 2:
            return combine(x, keep, [(scale, eps_1)])
        second = between[i][1]
        keep_2, scale_2 = transfer(p, second, "noise")
        # the slope (eps_1 - eps) / r_1, weighted with the integral of v up to r_2
        slope = -second.sigma * 2.0 * moments(2.0 / 3.0 * h, 1, 1.0)[1]
        eps_2 = field.predict(
            combine(x, keep_2, [(scale_2 - slope, eps), (slope, eps_1)]), second, "noise"
        )
        slope = -q.sigma * 1.5 * moments(h, 1, 1.0)[1]
        return combine(x, keep, [(scale - slope, eps), (slope, eps_2)])

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)
