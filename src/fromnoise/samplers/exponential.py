"""Exponential multistep methods in lambda = log(alpha / sigma): the formula behind DEIS and DPM.

The probability-flow ODE, solved for its linear part (`thm-variation-of-constants`), is

    X_q = (sigma_q / sigma_p) X_p + alpha_q int_0^1 h e^(-h (1 - v)) D dv        (data prediction)
    X_q = (alpha_q / alpha_p) X_p - sigma_q int_0^1 h e^( h (1 - v)) eps dv      (noise prediction)

with h = lambda_q - lambda_p and D, eps along the trajectory at lambda_p + v h. A multistep method
replaces D or eps by the polynomial through its last values; the integrals of a polynomial are known
(`moments`), and so the step is a sum of the state and those values with weights that depend on the
grid alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from fromnoise.fields import Field, Predicted
from fromnoise.grids import Grid, Number, Point
from fromnoise.samplers._loop import normal, walk

Weights = Callable[[Grid, int, int], tuple[Number, list[Number]]]
"""(grid, step, values at hand) -> (coefficient of x, of the predictions, the newest first)."""
Start = Literal["corrected", "low"]


def moments(h: Number, degree: int, sign: float = -1.0) -> list[Number]:
    """int_0^1 h e^(sign h (1 - v)) v^k dv for k = 0, ..., degree (`lem-exponential-moments`).

    For small h by its series, where the recursion in k would lose digits.

    Args:
        h: positive; with sign = -1 it may be inf.
        degree: the largest power.
        sign: -1 for data prediction, 1 for noise prediction.
    """
    if isinstance(h, Tensor):
        rows = [moments(value, degree, sign) for value in h.double().flatten().tolist()]
        columns = torch.tensor(rows, dtype=torch.float64).to(h.device, h.dtype)
        return [column.reshape(h.shape) for column in columns.T]
    if h < 1.0:
        found = []
        for k in range(degree + 1):
            term = total = 1.0 / (k + 1)
            for j in range(1, 20):
                term *= sign * h / (k + j + 1)
                total += term
            found.append(h * total)
        return found
    found = [sign * math.expm1(sign * h)]
    for k in range(1, degree + 1):
        # by parts, integrating the exponential
        found.append(sign * ((k / h) * found[-1] - 1.0))
    return found


def lagrange_weights(nodes: Sequence[Number], integrals: Sequence[Number]) -> list[Number]:
    """Integrals of the Lagrange polynomials of the nodes, from the integrals of v^k.

    Args:
        nodes: distinct numbers, at most as many as integrals.
        integrals: of 1, v, v^2, ...
    """
    weights = []
    for i, node in enumerate(nodes):
        powers: list[Number] = [1.0]  # of the product of (v - other) / (node - other)
        for j, other in enumerate(nodes):
            if j != i:
                gap = node - other
                raised = [0.0, *powers]
                for k, c in enumerate(powers):
                    raised[k] = raised[k] - other * c
                powers = [c / gap for c in raised]
        weights.append(sum(c * m for c, m in zip(powers, integrals, strict=False)))
    return weights


def need_signal(grid: Grid) -> None:
    """Raise where a sampler that divides by alpha begins at a point without signal.

    Raises:
        ValueError: alpha = 0 at the first point.
    """
    alpha = grid[0].alpha
    if bool((alpha == 0.0).any()) if isinstance(alpha, Tensor) else alpha == 0.0:
        raise ValueError(
            f"times: at t = {grid[0].t} there is no signal (alpha = 0), and this sampler divides "
            "by alpha: begin a little later, or use one that integrates the data (ddim, dpmpp, "
            "adams)."
        )


def step_in_lambda(p: Point, q: Point) -> Number:
    """h = lambda_q - lambda_p; inf if p has no signal or q no noise."""
    return q.half_log_snr - p.half_log_snr


def usable(grid: Grid, i: int, values: int) -> int:
    """How many of the last values lie at a finite lambda, and so can carry a polynomial."""
    if isinstance(grid[i].alpha, Tensor):
        return values
    if math.isinf(grid[i].half_log_snr):
        return 1
    while values > 1 and math.isinf(grid[i - values + 1].half_log_snr):
        values -= 1
    return values


def transfer(p: Point, q: Point, kind: Predicted) -> tuple[Number, Number]:
    """(c, s) with X_q = c X_p + s prediction if the prediction is constant: DDIM's step."""
    if kind == "data":
        keep = q.sigma / p.sigma
        return keep, q.alpha - p.alpha * keep
    keep = q.alpha / p.alpha
    return keep, q.sigma - p.sigma * keep


def polynomial_weights(kind: Predicted) -> Weights:
    """The exact integral of the polynomial through the last values (`prp-exponential-multistep`).

    With one value it is `transfer`. The step to sigma = 0 takes one value: no polynomial in lambda
    reaches infinity.
    """

    def weights(grid: Grid, i: int, values: int) -> tuple[Number, list[Number]]:
        return polynomial_step(grid, i, values, kind)

    return weights


def polynomial_step(
    grid: Grid, i: int, values: int, kind: Predicted, ahead: bool = False
) -> tuple[Number, list[Number]]:
    """c and the weights of the predictions at p, before p, ...; with `ahead`, first of that at q.

    Args:
        grid: the points; the step leads from p = grid[i] to q = grid[i + 1].
        i: the step.
        values: how many predictions there are up to p.
        kind: which prediction is integrated.
        ahead: the polynomial also goes through a prediction at q (a corrector).
    """
    p, q = grid[i], grid[i + 1]
    keep, scale = transfer(p, q, kind)
    values = usable(grid, i, values)
    h = step_in_lambda(p, q)
    if isinstance(h, float) and math.isinf(h):
        return keep, [0.0, scale] if ahead else [scale]
    if values == 1 and not ahead:
        return keep, [scale]
    sign, scale = (-1.0, q.alpha) if kind == "data" else (1.0, -q.sigma)
    nodes: list[Number] = [1.0] if ahead else []
    nodes += [step_in_lambda(p, grid[i - j]) / h for j in range(values)]
    parts = lagrange_weights(nodes, moments(h, len(nodes) - 1, sign))
    return keep, [scale * part for part in parts]


def combine(x: Tensor, keep: Number, terms: Sequence[tuple[Number, Tensor]]) -> Tensor:
    """keep x + sum of weight times tensor."""
    if isinstance(keep, Tensor) or keep != 1.0:
        x = x * keep
    for weight, value in terms:
        tensor = isinstance(weight, Tensor)
        x = x + weight * value if tensor else torch.add(x, value, alpha=weight)
    return x


def noise_free(grid: Grid) -> bool:
    """Whether the grid ends at sigma = 0."""
    last = grid[grid.steps].sigma
    return not isinstance(last, Tensor) and last == 0.0


def extrapolated(grid: Grid, last: Tensor, before: Tensor) -> Tensor:
    """D at sigma = 0 from its last two values: linear in (sigma / alpha)^2 (`prp-final-step`)."""
    n = grid.steps
    a, b = grid[n - 1].ratio ** 2, grid[n - 2].ratio ** 2
    return torch.add(last, last - before, alpha=a / (b - a))


def multistep(
    field: Field,
    x: Tensor,
    grid: Grid,
    *,
    kind: Predicted,
    order: int,
    weights: Weights,
    start: Start = "low",
    lower_final: int = 0,
    extrapolate: bool = False,
    fresh: Callable[[Point, Point], Number] | None = None,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """X_q = c X_p + sum_j w_j prediction_j (+ fresh noise), over the last `order` predictions.

    Args:
        field: of the path.
        x: ``(batch, *event)``.
        grid: the points.
        kind: which prediction is integrated.
        order: the largest number of predictions used; the first steps have fewer.
        weights: c and w of a step.
        start: the first steps have fewer predictions than `order`. "low" leaves it at that, which
            bounds the order of the whole by 2; "corrected" takes each of them again once the
            prediction at its end is there, at no cost, and the bound is 3 (`prp-corrected-start`).
        lower_final: the last `lower_final` steps use at most 1, 2, ... predictions, counted from
            the end, so that the end is not extrapolated by a polynomial of high degree.
        extrapolate: a last step to sigma = 0 extrapolates D instead of returning its last value.
        fresh: standard deviation of the noise that a step adds; None for an ODE.
        generator: source of that noise.
        trajectory: return all states.
        progress: show a progress bar.

    Raises:
        ValueError: the noise is to be predicted from a point without signal.
    """
    if kind == "noise":
        need_signal(grid)
    if start not in ("corrected", "low"):
        raise ValueError(f"start must be 'corrected' or 'low', but it is {start!r}.")
    n = grid.steps
    past: list[Tensor] = []  # the newest first
    before: list[Tensor] = []  # the state that the last step began with, if it is to be redone
    extrapolate = extrapolate and noise_free(grid) and n > 1 and not math.isinf(grid[n - 2].ratio)

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        past.insert(0, field.predict(x, p, kind))
        if before:
            keep, parts = polynomial_step(grid, i - 1, len(past) - 1, kind, ahead=True)
            x = combine(before.pop(), keep, list(zip(parts, past, strict=False)))
        del past[order:]
        if start == "corrected" and len(past) < order:
            before.append(x)
        if extrapolate and i == n - 1 and len(past) > 1:
            return extrapolated(grid, past[0], past[1])
        at_hand = len(past) if n - i > lower_final else min(len(past), n - i)
        keep, parts = weights(grid, i, at_hand)
        x = combine(x, keep, list(zip(parts, past, strict=False)))
        if fresh is not None:
            x = combine(x, 1.0, [(fresh(p, q), normal(x, generator))])
        return x

    return walk(step, x, n, trajectory=trajectory, progress=progress)
