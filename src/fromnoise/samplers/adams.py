"""Adams methods on the straight path: multistep methods for y = x / (alpha + sigma).

Every Gaussian path is the straight one up to scale and time (`thm-reparameterization`): with
y = x / (alpha + sigma) and s = alpha / (alpha + sigma), dy / ds = D - eps (`prp-straight-ode`).
That equation has no linear part left to solve for, no singular coefficient at either end, and, for
data with a smooth density, a slope that is smooth up to s = 1: a polynomial in s through the last
slopes reaches the clean end, which a polynomial in lambda does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, Number, Point, as_grid
from fromnoise.samplers._loop import sampler, walk
from fromnoise.samplers.exponential import combine, lagrange_weights


def straight_time(p: Point) -> Number:
    """s = alpha / (alpha + sigma): the time at which the straight path has this noise level."""
    return p.alpha / (p.alpha + p.sigma)


def adams_weights(grid: Grid, i: int, values: int, ahead: bool) -> list[Number]:
    """Weights of the slopes at p, before p, ...; with `ahead`, first of that at q.

    The integral over the step of the polynomial through them (`prp-adams`).
    """
    s, to = straight_time(grid[i]), straight_time(grid[i + 1])
    h = to - s
    nodes: list[Number] = [1.0] if ahead else []
    nodes += [(straight_time(grid[i - j]) - s) / h for j in range(values)]
    parts = lagrange_weights(nodes, [1.0 / (k + 1) for k in range(len(nodes))])
    return [h * part for part in parts]


@sampler
def adams(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    order: int = 3,
    corrected: bool = True,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Adams-Bashforth-Moulton on the straight path: one evaluation a step.

    The Adams-Bashforth step predicts; the field is evaluated there; with that slope the step is
    taken again, now by a polynomial through its end as well, and the next prediction starts from
    the result. So all but the last step are of one order more, at no cost (`prp-adams`). The first
    steps have fewer slopes than `order`, which bounds the order of the whole by 3.

    Args:
        field: of any Gaussian path.
        x: ``(batch, *event)``, the state at the first time.
        times: a grid, or increasing times ``(steps + 1,)``; equal steps of s are a good choice
            (`fromnoise.grids.uniform_straight`).
        order: 1 to 4, the number of slopes that the predictor uses.
        corrected: take each step again once the slope at its end is there.
        trajectory: return the states at all times instead of the last one: those before they are
            corrected, and the final one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: the order is unknown, or a prediction cannot be had at one of the times.
        NotFiniteError: a prediction was not finite.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order must be 1, 2, 3 or 4, but it is {order}.")
    grid = as_grid(times, field.schedule)
    past: list[Tensor] = []  # slopes, the newest first
    before: list[Tensor] = []  # the state that the last step began with

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        size = p.alpha + p.sigma
        # D - eps with eps = (x - alpha D) / sigma
        slope = combine(field.predict(x, p, "data"), size / p.sigma, [(-1.0 / p.sigma, x)])
        past.insert(0, slope)
        y = combine(x, 1.0 / size, [])
        if before and corrected:
            parts = adams_weights(grid, i - 1, len(past) - 1, True)
            y = combine(before[0], 1.0, list(zip(parts, past, strict=True)))
        del past[order:]
        before[:] = [y]
        parts = adams_weights(grid, i, len(past), False)
        y = combine(y, 1.0, list(zip(parts, past, strict=True)))
        return combine(y, q.alpha + q.sigma, [])

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)
