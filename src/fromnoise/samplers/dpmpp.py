"""DPM-Solver++: multistep methods for the data prediction, of the ODE and of the SDE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, Number, Point, as_grid
from fromnoise.samplers._loop import sampler
from fromnoise.samplers.exponential import (
    Weights,
    lagrange_weights,
    moments,
    multistep,
    polynomial_weights,
    step_in_lambda,
    transfer,
    usable,
)

Form = Literal["exact", "paper", "taylor"]


def taylor_weights(
    integrals: Sequence[Number], nodes: Sequence[Number], form: Form
) -> list[Number]:
    """Weights of the last two or three predictions from integrals of 1, v, v^2.

    "paper" replaces the integral of v by half that of 1 for two predictions (Lu et al. 2022b,
    algorithm 2). For three, both forms take the quadratic term of Newton's interpolation with half
    its weight, as the authors' code does: that costs the third order (`prp-dpmpp-third-order`).

    Args:
        integrals: of 1, v, v^2 against the exponential.
        nodes: places of the predictions in units of the step, 0 first.
        form: "paper" or "taylor".
    """
    zeroth, first = integrals[0], integrals[1]
    if len(nodes) == 2:
        slope = 0.5 * zeroth if form == "paper" else first
        share = slope / -nodes[1]
        return [zeroth + share, -share]
    r0, r1 = -nodes[1], nodes[1] - nodes[2]
    near, far, total = 1.0 / r0, 1.0 / r1, r0 + r1
    # slopes between neighbours, each as weights of (m0, m1, m2)
    d10, d11 = (near, -near, 0.0), (0.0, far, -far)
    weights = [zeroth, 0.0, 0.0]
    for k in range(3):
        bend = d10[k] - d11[k]
        weights[k] = weights[k] + first * (d10[k] + r0 / total * bend)
        weights[k] = weights[k] + 0.5 * integrals[2] * bend / total
    return weights


def _weights(form: Form, stochastic: bool) -> Weights:
    if form == "exact" and not stochastic:
        return polynomial_weights("data")
    rate = 2.0 if stochastic else 1.0  # the SDE forgets twice as fast

    def weights(grid: Grid, i: int, values: int) -> tuple[Number, list[Number]]:
        p, q = grid[i], grid[i + 1]
        h = step_in_lambda(p, q)
        keep, scale = transfer(p, q, "data")
        if stochastic:
            share = p.alpha * q.sigma / (q.alpha * p.sigma)  # e^(-h)
            keep, scale = keep * share, q.alpha * (1.0 - share**2)
        values = usable(grid, i, values)
        if values == 1 or (isinstance(h, float) and math.isinf(h)):
            return keep, [scale]
        nodes = [step_in_lambda(p, grid[i - j]) / h for j in range(values)]
        integrals = moments(rate * h, max(values - 1, 1), -1.0)
        parts = (
            lagrange_weights(nodes, integrals)
            if form == "exact"
            else taylor_weights(integrals, nodes, form)
        )
        return keep, [q.alpha * part for part in parts]

    return weights


def fresh_noise(p: Point, q: Point) -> Number:
    """sigma_q sqrt(1 - e^(-2h)), h = lambda_q - lambda_p (`prp-sde-in-lambda`)."""
    left = 1.0 - (p.alpha * q.sigma / (q.alpha * p.sigma)) ** 2
    return q.sigma * left**0.5


@sampler
def dpmpp(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    order: int = 2,
    form: Form = "exact",
    stochastic: bool = False,
    lower_final: int = 0,
    extrapolate: bool = False,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """DPM-Solver++ of the multistep kind, "2M" and "3M", and with `stochastic` their SDE versions.

    Lu et al. 2022b. The step integrates a polynomial in lambda through the last data predictions
    (`prp-exponential-multistep`); a step to sigma = 0 returns the last of them, or with
    `extrapolate` continues them (`prp-final-step`). One evaluation a step.

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the first time; alpha = 0 is allowed there.
        times: a grid, or increasing times ``(steps + 1,)``.
        order: 1, 2 or 3; order 1 is DDIM.
        form: how the polynomial is integrated: "exact" (order 3 is of third order; the first steps
            are corrected), "paper" (the published formula of order 2), or "taylor" (as other
            libraries call it, "heun"; with order 3 "paper" and "taylor" are the published code).
        stochastic: solve the reversed noising SDE instead of the ODE (`prp-sde-in-lambda`).
        lower_final: bound the order of that many last steps by the number of steps left.
        extrapolate: extrapolate the data prediction in the last step, if that leads to sigma = 0.
        generator: source of the noise, on the device of x.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: order or form are unknown.
        NotFiniteError: a prediction was not finite.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, but it is {order}.")
    if form not in ("exact", "paper", "taylor"):
        raise ValueError(f"form must be 'exact', 'paper' or 'taylor', but it is {form!r}.")
    return multistep(
        field,
        x,
        as_grid(times, field.schedule),
        kind="data",
        order=order,
        weights=_weights(form, stochastic),
        start="corrected" if form == "exact" and not stochastic else "low",
        lower_final=lower_final,
        extrapolate=extrapolate,
        fresh=fresh_noise if stochastic else None,
        generator=generator,
        trajectory=trajectory,
        progress=progress,
    )
