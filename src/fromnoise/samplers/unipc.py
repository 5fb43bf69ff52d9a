"""UniPC: a multistep predictor, corrected with the evaluation that the next step needs anyway."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fromnoise.fields import Field, Predicted
from fromnoise.grids import Grid, Number, as_grid
from fromnoise.samplers._loop import sampler, walk
from fromnoise.samplers.exponential import (
    combine,
    need_signal,
    polynomial_step,
    step_in_lambda,
    transfer,
    usable,
)

Variant = Literal["bh1", "bh2", "exact"]


def _step_weights(
    grid: Grid, i: int, values: int, kind: Predicted, variant: Variant, corrector: bool
) -> tuple[Number, list[Number]]:
    """c and the weights of the last `values` predictions at p, and of the one at q if `corrector`.

    The predictions are ordered (at q,) at p, before p, ...
    """
    p, q = grid[i], grid[i + 1]
    slopes = usable(grid, i, values) - 1 + corrector
    h = step_in_lambda(p, q)
    if variant == "exact" or slopes != 1 or (isinstance(h, float) and math.isinf(h)):
        return polynomial_step(grid, i, values, kind, ahead=corrector)
    # one slope only: the paper sets its weight to 1/2 instead of solving for it
    keep, scale = transfer(p, q, kind)
    sign, outer = (-1.0, q.alpha) if kind == "data" else (1.0, -q.sigma)
    slope = 0.5 * outer * (h if variant == "bh1" else sign * _expm1(sign * h))
    if corrector:
        return keep, [slope, scale - slope]
    slope = slope / -(step_in_lambda(p, grid[i - 1]) / h)
    return keep, [scale + slope, -slope]


def _expm1(h: Number) -> Number:
    return h.expm1() if isinstance(h, Tensor) else math.expm1(h)


@sampler
def unipc(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    order: int = 2,
    kind: Predicted = "data",
    variant: Variant = "bh2",
    lower_final: bool = True,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """UniPC of Zhao et al. 2023: UniP-p predicts, UniC-p corrects, one evaluation a step.

    The predictor's result is where the field is evaluated; with that value the step is done again,
    now with a polynomial that also goes through its end (`prp-unipc`). The corrected state has no
    evaluation of its own: the next step uses the one at the predicted state. The first steps have
    fewer predictions than `order`, which bounds the order of the whole by 3.

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the first time.
        times: a grid, or increasing times ``(steps + 1,)``.
        order: 1, 2 or 3, of the predictor; the corrector has one more.
        kind: which prediction is integrated.
        variant: "bh1" and "bh2" set the weight of a single slope to B(h) / 2 with B(h) = h and
            B(h) = e^h - 1, for the data 1 - e^(-h) (the paper's); "exact" integrates the polynomial
            there too. With two or more slopes all three are the same.
        lower_final: bound the order of the last steps by the number of steps left.
        trajectory: return the states at all times instead of the last one: those before they are
            corrected, and the final one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: order or variant are unknown, or kind is "noise" and the first time has no
            signal.
        NotFiniteError: a prediction was not finite.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, but it is {order}.")
    if variant not in ("bh1", "bh2", "exact"):
        raise ValueError(f"variant must be 'bh1', 'bh2' or 'exact', but it is {variant!r}.")
    grid = as_grid(times, field.schedule)
    if kind == "noise":
        need_signal(grid)
    past: list[Tensor] = []  # predictions, the newest first
    before: list[Tensor] = []  # the state that the last predictor began with
    used: list[int] = []  # how many predictions it used

    def step(x: Tensor, i: int) -> Tensor:
        value = field.predict(x, grid[i], kind)
        if i > 0:
            keep, parts = _step_weights(grid, i - 1, used[0], kind, variant, True)
            x = combine(before[0], keep, list(zip(parts, [value, *past], strict=False)))
        past.insert(0, value)
        del past[order:]
        at_hand = min(len(past), grid.steps - i) if lower_final else len(past)
        before[:], used[:] = [x], [at_hand]
        keep, parts = _step_weights(grid, i, at_hand, kind, variant, False)
        return combine(x, keep, list(zip(parts, past, strict=False)))

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)
