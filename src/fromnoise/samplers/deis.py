"""DEIS: the exponential Adams-Bashforth method for the noise prediction."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, as_grid
from fromnoise.samplers._loop import sampler
from fromnoise.samplers.exponential import Start, multistep, polynomial_weights


@sampler
def deis(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    order: int = 3,
    start: Start = "corrected",
    lower_final: int = 0,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Integrate the polynomial in lambda through the last noise predictions, exactly.

    Zhang and Chen 2023, in Diffusers' variant "logrho": the paper's polynomials are in t (tAB-DEIS)
    or in rho = sigma / alpha, these in lambda = -log rho (`prp-exponential-multistep`). Order 1 is
    DDIM.

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the first time; there must be signal (alpha > 0).
        times: a grid, or increasing times ``(steps + 1,)``.
        order: 1 to 4, the number of predictions that the polynomial goes through.
        start: "corrected" takes the first steps again once the prediction at their end is there,
            which bounds the order of the whole by 3 (`prp-corrected-start`); "low" does not, as
            published, which bounds it by 2.
        lower_final: bound the order of that many last steps by the number of steps left.
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
        weights=polynomial_weights("noise"),
        start=start,
        lower_final=lower_final,
        trajectory=trajectory,
        progress=progress,
    )
