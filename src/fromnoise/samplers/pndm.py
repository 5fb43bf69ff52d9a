"""PNDM and iPNDM: Adams-Bashforth weights of the noise prediction, in DDIM's step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, Number, as_grid
from fromnoise.samplers._loop import sampler, walk
from fromnoise.samplers.exponential import combine, multistep, need_signal, transfer

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def _weights(grid: Grid, i: int, values: int) -> tuple[Number, list[Number]]:
    keep, scale = transfer(grid[i], grid[i + 1], "noise")
    return keep, [scale * part for part in ADAMS_BASHFORTH[values - 1]]


@sampler
def ipndm(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    order: int = 4,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Improved PNDM: Adams-Bashforth of rising order from the first step on, no warm-up.

    Zhang and Chen 2023 use it as a baseline of that name. The weights are those of equal steps,
    whatever the grid: on a smooth grid that is not equal in sigma / alpha the order is 2
    (`prp-pndm-order`).

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the first time; there must be signal (alpha > 0).
        times: a grid, or increasing times ``(steps + 1,)``.
        order: 1 to 4, the number of predictions used.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: the order is unknown, or the first time has no signal.
        NotFiniteError: a prediction was not finite.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order must be 1, 2, 3 or 4, but it is {order}.")
    return multistep(
        field,
        x,
        as_grid(times, field.schedule),
        kind="noise",
        order=order,
        weights=_weights,
        trajectory=trajectory,
        progress=progress,
    )


@sampler
def pndm(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """PLMS, the multistep half of PNDM (Liu et al. 2022), as Stable Diffusion made it known.

    The first step is taken twice: DDIM's, then again with the mean of the noise predictions at its
    two ends; after that Adams-Bashforth of order 2, 3 and 4. So n steps cost n + 1 evaluations.

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the first time; there must be signal (alpha > 0).
        times: a grid, or increasing times ``(steps + 1,)``.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: the first time has no signal.
        NotFiniteError: a prediction was not finite.
    """
    grid = as_grid(times, field.schedule)
    need_signal(grid)
    past: list[Tensor] = []

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        keep, scale = transfer(p, q, "noise")
        past.insert(0, field.predict(x, p, "noise"))
        del past[4:]
        if i == 0:
            guess = combine(x, keep, [(scale, past[0])])
            if q.sigma == 0.0:
                return guess
            mean = 0.5 * (past[0] + field.predict(guess, q, "noise"))
            return combine(x, keep, [(scale, mean)])
        parts = [scale * part for part in ADAMS_BASHFORTH[len(past) - 1]]
        return combine(x, keep, list(zip(parts, past, strict=True)))

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)
