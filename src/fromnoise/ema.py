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
    """Standard deviation of the profile as a fraction of the training (Eq. 123 there).

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

    `average <- beta average + (1 - beta) weights` with these decays has exactly the profile above.
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


def reconstruct(snapshots: Sequence[Snapshot], gamma: float, step: int) -> dict[str, Tensor]:
    """The average that another profile would have given, from stored ones.

    The combination of the stored profiles that is closest, in least squares, to the wanted one; its
    coefficients solve a linear system of overlaps. They are applied in float64 and the result has
    the precision of the snapshots.

    Args:
        snapshots: at least one; two exponents stored at several steps serve well.
        gamma: the wanted exponent.
        step: the wanted number of steps, at most that of the latest snapshot.

    Raises:
        ValueError: there is no snapshot, they hold different parameters, or step lies outside
            [1, latest].
    """
    if not snapshots:
        raise ValueError("snapshots: at least one is needed.")
    latest = max(s.step for s in snapshots)
    if not 1 <= step <= latest:
        raise ValueError(
            f"step = {step}: stored averages reach from step 1 to {latest}; store later ones."
        )
    relative_width(gamma)
    shapes = {name: value.shape for name, value in snapshots[0].weights.items()}
    for other in snapshots[1:]:
        if {name: value.shape for name, value in other.weights.items()} != shapes:
            raise ValueError("snapshots: they hold parameters of different names or shapes.")
    matrix = torch.tensor(
        [[overlap(a.gamma, a.step, b.gamma, b.step) for b in snapshots] for a in snapshots],
        dtype=torch.float64,
    )
    wanted = torch.tensor(
        [overlap(s.gamma, s.step, gamma, step) for s in snapshots], dtype=torch.float64
    )
    # least squares by eigenvalues: nearly equal profiles make the matrix nearly singular
    scale = matrix.diagonal().rsqrt()
    solution = torch.linalg.lstsq(
        scale[:, None] * matrix * scale, (scale * wanted)[:, None], rcond=1e-12, driver="gelsd"
    ).solution
    coefficients = (scale * solution[:, 0]).tolist()
    return {
        name: sum(
            c * s.weights[name].double() for c, s in zip(coefficients, snapshots, strict=True)
        ).to(value.dtype)
        for name, value in snapshots[0].weights.items()
    }
