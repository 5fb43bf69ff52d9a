"""Averages of weights whose length is chosen after training (EDM2, Karras et al. 2024, section 3).

The average of the weights theta_1, ..., theta_n with the power function's profile

    weight of theta_i = (i^(gamma + 1) - (i - 1)^(gamma + 1)) / n^(gamma + 1)

remembers a fixed *fraction* of the training, however long that is, while an exponential average
remembers a fixed number of steps. A few such averages, stored now and then, span the others: any
gamma at any step is approximately a combination of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]


def relative_width(gamma: float) -> float:
    """Standard deviation of the profile as a fraction of the training (`prp-power-ema`).

    For the density (gamma + 1) s^gamma on [0, 1]: sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)).

    Args:
        gamma: exponent, greater than -1.

    Raises:
        ValueError: gamma is -1 or less.
    """
    if not gamma > -1.0:
        raise ValueError(f"gamma = {gamma}: the exponent of a profile must exceed -1.")
    return math.sqrt(gamma + 1.0) / ((gamma + 2.0) * math.sqrt(gamma + 3.0))


def gamma_of(width: float) -> float:
    """The exponent, at least 0, of the profile with this relative standard deviation.

    `prp-power-ema`.

    The positive root of gamma^3 + 7 gamma^2 + (16 - width^-2) gamma + (12 - width^-2) = 0, which
    is `relative_width` squared and cleared of fractions.

    Args:
        width: in (0, 12^(-1/2)]; 12^(-1/2), about 0.289, is the plain mean, gamma = 0.

    Raises:
        ValueError: width lies outside that interval.
    """
    if not 0.0 < width <= 12.0**-0.5 * (1.0 + 1e-12):
        raise ValueError(
            f"width = {width}: a profile with gamma >= 0 has a relative width in (0, 0.2887]."
        )
    # Newton's method from the right end; the function is convex and increasing there
    square = width**-2
    gamma = 1.0 / width  # relative_width(gamma) < 1 / gamma, so the root lies to the left
    for _ in range(100):
        value = ((gamma + 7.0) * gamma + 16.0 - square) * gamma + 12.0 - square
        step = value / ((3.0 * gamma + 14.0) * gamma + 16.0 - square)
        gamma -= step
        if abs(step) <= 1e-15 * max(1.0, gamma):
            break
    return max(gamma, 0.0)


def decay(step: int, gamma: float) -> float:
    """The decay beta of step 1, 2, ...: (1 - 1 / step)^(gamma + 1); 0 at the first.

    `average <- beta average + (1 - beta) weights` with these decays has exactly the profile above
    (`prp-power-ema`).
    """
    if step < 1:
        raise ValueError(f"step = {step}: steps are counted from 1.")
    relative_width(gamma)  # refuses an impossible exponent
    return (1.0 - 1.0 / step) ** (gamma + 1.0)


class PowerAverage:
    """A running average of a network's parameters with the power function's profile.

    Args:
        net: the network; its parameters are copied, in their own precision or in float32 if that
            is higher.
        gamma: exponent of the profile.
    """

    def __init__(self, net: nn.Module, gamma: float) -> None:
        relative_width(gamma)
        self.gamma, self.step = gamma, 0
        self.weights = {
            name: value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
            for name, value in net.named_parameters()
        }

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take the parameters after one more step of training into the average."""
        self.step += 1
        share = 1.0 - decay(self.step, self.gamma)
        for name, value in net.named_parameters():
            kept = self.weights[name]
            kept.lerp_(value.to(kept.dtype), share)

    def snapshot(self) -> Snapshot:
        """A copy of the average as it is now."""
        copies = {name: value.clone() for name, value in self.weights.items()}
        return Snapshot(self.gamma, self.step, copies)


@dataclass(frozen=True)
class Snapshot:
    """An average as it was after a step.

    Attributes:
        gamma: exponent of its profile.
        step: number of weights in it, at least 1.
        weights: the averaged parameters by name.
    """

    gamma: float
    step: int
    weights: Weights


def overlap(gamma_a: float, step_a: int, gamma_b: float, step_b: int) -> float:
    """The integral of the product of two profiles, as densities over steps.

    The density of a profile is (gamma + 1) s^gamma / step^(gamma + 1) for s in [0, step].
    """
    a, b, least = gamma_a + 1.0, gamma_b + 1.0, min(step_a, step_b)
    # powers of ratios at most 1, so that nothing overflows
    power = (least / step_a) ** gamma_a * (least / step_b) ** gamma_b
    return a * b / (a + b - 1.0) * power * least / (step_a * step_b)


def combination(profiles: Sequence[tuple[float, int]], gamma: float, step: int) -> Tensor:
    """The average of stored profiles that is closest to the wanted one, in least squares.

    Its coefficients c minimize ``c A c - 2 b c`` under sum c = 1, with A the overlaps of the stored
    profiles with each other and b those with the wanted one (`prp-posthoc-ema`). Some may be
    negative. The constraint makes a reconstruction of constant weights exact; without it, and with
    few profiles, the result would be shrunk.

    Args:
        profiles: pairs (gamma, step) of the stored averages, at least one.
        gamma: the wanted exponent.
        step: the wanted number of steps, at most that of the latest profile.

    Returns:
        The coefficients, ``(len(profiles),)`` in float64.

    Raises:
        ValueError: there is no profile, an exponent is -1 or less, or step lies outside
            [1, latest].
    """
    if not profiles:
        raise ValueError("profiles: at least one is needed.")
    latest = max(n for _, n in profiles)
    if not 1 <= step <= latest:
        raise ValueError(
            f"step = {step}: stored averages reach from step 1 to {latest}; store later ones."
        )
    for exponent in (gamma, *(g for g, _ in profiles)):
        relative_width(exponent)  # refuses an impossible one
    matrix = torch.tensor(
        [[overlap(*a, *b) for b in profiles] for a in profiles], dtype=torch.float64
    )
    wanted = torch.tensor([overlap(*a, gamma, step) for a in profiles], dtype=torch.float64)
    # c = scale y, so that the profiles have unit norm; y = a first solution of scale y = 1, plus a
    # vector orthogonal to scale
    scale = matrix.diagonal().rsqrt()
    matrix, wanted = scale[:, None] * matrix * scale, scale * wanted
    first = scale / scale.square().sum()
    free = torch.linalg.qr(scale[:, None], mode="complete").Q[:, 1:]
    # least squares by singular values: nearly equal profiles make the matrix nearly singular
    rest = torch.linalg.lstsq(
        free.T @ matrix @ free,
        (free.T @ (wanted - matrix @ first))[:, None],
        rcond=1e-12,
        driver="gelsd",
    ).solution[:, 0]
    return scale * (first + free @ rest)


def misfit(profiles: Sequence[tuple[float, int]], gamma: float, step: int) -> float:
    """How far `combination` stays from the wanted profile, |sum c_i p_i - p| / |p|, in L2.

    The error of a reconstruction is at most this times |p| times the norm, over steps, of the
    weights' distance from any constant (`prp-posthoc-ema`). Arguments and errors are those of
    `combination`.
    """
    c = combination(profiles, gamma, step).tolist()
    members = [*profiles, (gamma, step)]
    factors = [*c, -1.0]
    square = sum(
        a * b * overlap(*p, *q)
        for a, p in zip(factors, members, strict=True)
        for b, q in zip(factors, members, strict=True)
    )
    return math.sqrt(max(square, 0.0) / overlap(gamma, step, gamma, step))


def reconstruct(snapshots: Sequence[Snapshot], gamma: float, step: int) -> dict[str, Tensor]:
    """The average that another profile would have given, from stored ones.

    The `combination` of the stored averages, applied in float64; the result has the precision of
    the snapshots.

    Args:
        snapshots: at least one; two exponents stored at several steps serve well.
        gamma: the wanted exponent.
        step: the wanted number of steps, at most that of the latest snapshot.

    Raises:
        ValueError: there is no snapshot, they hold different parameters, an exponent is -1 or
            less, or step lies outside [1, latest].
    """
    if not snapshots:
        raise ValueError("snapshots: at least one is needed.")
    shapes = {name: value.shape for name, value in snapshots[0].weights.items()}
    for other in snapshots[1:]:
        if {name: value.shape for name, value in other.weights.items()} != shapes:
            raise ValueError("snapshots: they hold parameters of different names or shapes.")
    coefficients = combination([(s.gamma, s.step) for s in snapshots], gamma, step).tolist()
    return {
        name: sum(
            c * s.weights[name].double() for c, s in zip(coefficients, snapshots, strict=True)
        ).to(value.dtype)
        for name, value in snapshots[0].weights.items()
    }
