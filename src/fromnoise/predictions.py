"""What a network can predict, and the affine maps between the predictions.

Along a Gaussian path the conditional means of data and noise given x satisfy
``x = alpha D + sigma eps`` (`eq-affine-facts`). Each prediction is ``a D + b eps`` with its own
pair (a, b), so two of these linear equations determine D and eps, and with them every other
prediction (`prp-affine-facts`).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from fromnoise._shapes import as_time, check_same_shape
from fromnoise.grids import Number, Point
from fromnoise.schedules import Schedule

Kind = Literal["data", "noise", "score", "velocity", "v"]
"""data: D; noise: eps; score: -eps / sigma; velocity: alpha' D + sigma' eps;
v: alpha eps - sigma D."""


def coefficients(kind: Kind, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """The pair (a, b) with ``prediction = a D + b eps``, each of the shape of `t`.

    The score is the one kind whose pair is singular, (0, -1/sigma) at sigma = 0.

    Raises:
        ValueError: `kind` is none of those in `Kind`.
    """
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    if kind == "data":
        return one, zero
    if kind == "noise":
        return zero, one
    if kind == "score":
        return zero, -1.0 / schedule.sigma(t)
    if kind == "velocity":
        return schedule.d_alpha(t), schedule.d_sigma(t)
    if kind == "v":
        return -schedule.sigma(t), schedule.alpha(t)
    raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {kind!r}.")


def convert(
    prediction: Tensor,
    x: Tensor,
    t: float | Tensor,
    *,
    source: Kind,
    target: Kind,
    schedule: Schedule,
) -> Tensor:
    """Turn one prediction into another at the same point and time.

    Solving ``x = alpha D + sigma eps`` and ``prediction = a D + b eps`` for D and eps and inserting
    them into ``c D + d eps`` gives (`prp-conversion`)

        ((c sigma - d alpha) prediction + (a d - b c) x) / (a sigma - b alpha).

    At an end point it gives the limit, where there is one (`prp-conversion-ends`); what rounding
    does on the way there is `prp-conversion-rounding`.

    Args:
        prediction: ``(batch, *event)``, of kind `source`.
        x: ``(batch, *event)``, the point X_t = x.
        t: a number or ``(batch,)``, in [0, 1].
        source: what the prediction is.
        target: what it shall become.
        schedule: the Gaussian path's schedule.

    Returns:
        ``(batch, *event)``.

    Raises:
        ValueError: shapes differ, t lies outside [0, 1], a kind is unknown, or the conversion is
            singular at one of the times (data from noise where alpha = 0, noise from data where
            sigma = 0, the score where sigma = 0, the velocity where its schedule has a vertical
            tangent).
    """
    check_same_shape(prediction, x, "prediction", "x")
    t = as_time(t, x)
    for kind in (source, target):
        coefficients(kind, t, schedule)  # refuses an unknown kind
    if source == target:
        return prediction
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    # The score is -noise / sigma. Converted as the noise, it meets no quotient 0/0 at alpha = 0 and
    # no infinity over infinity at sigma = 0.
    inner, outer = ("noise" if kind == "score" else kind for kind in (source, target))
    a, b = coefficients(inner, t, schedule)
    c, d = coefficients(outer, t, schedule)
    if inner == outer:
        keep, add = torch.ones_like(alpha), torch.zeros_like(alpha)
    else:
        determinant = a * sigma - b * alpha
        keep = (c * sigma - d * alpha) / determinant
        add = (a * d - b * c) / determinant
    if source == "score":
        keep = -sigma * keep
    if target == "score":
        keep, add = keep / -sigma, (add if inner == outer else add / -sigma)
    singular = ~(torch.isfinite(keep) & torch.isfinite(add))
    if bool(singular.any()):
        raise ValueError(
            f"t: the conversion from {source} to {target} under {schedule.name} is singular at "
            f"t = {t[singular].flatten()[0].item():.6g}: keep the times away from that end point, "
            "or predict another quantity there."
        )
    return keep * prediction + add * x


def _number(value: Number) -> float:
    return value if isinstance(value, float) else value.flatten()[0].item()


def weights_at(
    point: Point, source: Kind, target: Literal["data", "noise", "velocity"]
) -> tuple[Number, Number]:
    """The numbers (k, m) with ``target = k prediction + m x`` at a point of a grid.

    `convert` for samplers: the same two linear equations, solved once for a whole batch in double
    precision, so that a conversion costs what its two products cost.

    Args:
        point: a time of a grid, with alpha and sigma.
        source: what the prediction is.
        target: what it shall become.

    Raises:
        ValueError: the conversion is singular there (data from noise where alpha = 0, noise from
            data where sigma = 0, a velocity where sigma' is infinite), or a kind is unknown.
    """
    alpha, sigma = point.alpha, point.sigma
    pairs = {
        "data": (1.0, 0.0),
        "noise": (0.0, 1.0),
        "score": (0.0, 1.0),  # minus sigma times it: the noise
        "velocity": (point.d_alpha, point.d_sigma),
        "v": (-sigma, alpha),
    }
    if source not in pairs:
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {source!r}.")
    (a, b), (c, d) = pairs[source], pairs[target]
    if source == target:
        return 1.0, 0.0
    determinant = a * sigma - b * alpha
    numerators = c * sigma - d * alpha, a * d - b * c
    if isinstance(determinant, Tensor):
        keep, add = (value / determinant for value in numerators)
        sound = bool((torch.isfinite(keep) & torch.isfinite(add)).all())
    else:
        sound = determinant != 0.0 and math.isfinite(determinant)
        keep, add = (value / determinant for value in numerators) if sound else (math.nan, math.nan)
        sound = sound and math.isfinite(keep) and math.isfinite(add)
    if not sound:
        why = (
            "the grid was made without a schedule, which the velocity needs (Grid.of)"
            if "velocity" in (source, target) and math.isnan(_number(point.d_alpha))
            else "begin the grid a little later or end it a little earlier (Grid.of(schedule, "
            "times)), or use a network that predicts another quantity"
        )
        raise ValueError(
            f"t: {target} cannot be had from {source} at t = {point.t}, where alpha = {alpha} and "
            f"sigma = {sigma}: {why}."
        )
    return (-sigma * keep if source == "score" else keep), add
