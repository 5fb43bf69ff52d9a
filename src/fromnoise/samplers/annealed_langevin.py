"""Annealed Langevin dynamics: steps at falling noise levels (`alg-annealed-langevin`)."""

from __future__ import annotations

import math

import torch
from scipy import optimize, stats
from torch import Tensor

from fromnoise.fields import Field
from fromnoise.samplers.langevin import unadjusted_langevin


@torch.no_grad()
def annealed_langevin(
    field: Field,
    x: Tensor,
    times: Tensor,
    *,
    steps_per_level: int,
    step: float,
    generator: torch.Generator | None = None,
    denoise: bool = True,
    trajectory: bool = False,
) -> Tensor:
    """Langevin dynamics of p_t for one time after another, from much noise to little.

    At each level the step is ``h = step * sigma_t^2`` (Song & Ermon 2019, whose
    epsilon is 2 `step` sigma_L^2 with the last level sigma_L). A step of 2 or more overshoots in
    the directions in which the data do not spread. At the end the noise of the last level may be
    removed by the denoiser, D(x) = x + sigma^2 s(x) (Song & Ermon 2020).

    Args:
        field: score and denoiser of a path with alpha = 1 (`VE`, `EDM`); see any other field as
            ``TransformedField(field, VE(...))``.
        x: ``(batch, *event)``, where it begins, such as ``sigma_max * torch.randn(...)``.
        times: ``(levels,)``, strictly increasing in [0, 1]. On `VE`, equidistant times are
            geometric levels.
        steps_per_level: Langevin steps at each level, at least 1.
        step: the step in units of sigma_t^2, in (0, 2).
        generator: source of the noise, on the device of x.
        denoise: apply the denoiser of the last level in the end.
        trajectory: return the states after each level (after denoising, too) instead of the last.

    Returns:
        ``(batch, *event)``, or with `trajectory` ``(levels + 1, batch, *event)``, the first of them
        x, and one more with `denoise`.

    Raises:
        ValueError: the times do not increase or the path has another alpha than 1,
            `steps_per_level` is less than 1, or `step` lies outside (0, 2).
    """
    if times.ndim != 1 or len(times) < 1 or not bool((times.diff() > 0).all()):
        raise ValueError(
            f"times has shape {tuple(times.shape)}: pass a 1-D tensor of strictly increasing "
            "times, such as torch.linspace(0, 1, 20)."
        )
    if not bool((field.schedule.alpha(times) == 1.0).all()):
        raise ValueError(
            f"field: the schedule {field.schedule.name} scales the data, alpha is not 1 at all "
            "times: see it along VE by TransformedField(field, VE(sigma_min, sigma_max))."
        )
    if steps_per_level < 1:
        raise ValueError(f"steps_per_level must be at least 1, but it is {steps_per_level}.")
    if not 0.0 < step < 2.0:
        raise ValueError(
            f"step must lie in (0, 2), in units of sigma^2, but it is {step}: at 2 the variance of "
            "Langevin steps on a Gaussian of variance sigma^2 is infinite."
        )
    states = [x]
    for t in times:
        h = step * float(field.schedule.sigma(t)) ** 2
        x = unadjusted_langevin(
            lambda y, t=t: field.score(y, t), x, step=h, steps=steps_per_level, generator=generator
        )
        states.append(x)
    if denoise:
        x = field.denoise(x, times[-1])
        states.append(x)
    return torch.stack(states) if trajectory else x


def level_ratio(dim: int, overlap: float = 0.5) -> float:
    """The ratio of neighbouring noise levels at which their shells of noise overlap so much.

    Noise of scale sigma in dimension d lies near the sphere of radius sqrt(d) sigma, within about
    sigma / sqrt(2). The ratio gamma solves (Song & Ermon 2020, Technique 2)

        Phi(sqrt(2 d) (gamma - 1) + 3 gamma) - Phi(sqrt(2 d) (gamma - 1) - 3 gamma) = overlap,

    the probability that noise of one level has a radius within three deviations of the radii of
    the next larger level, in the normal approximation of the radius.

    Args:
        dim: dimension d of the data, at least 1.
        overlap: the probability, in (0, 1).

    Raises:
        ValueError: an argument is out of its range.
    """
    if dim < 1 or not 0.0 < overlap < 1.0:
        raise ValueError(
            f"dim={dim} must be at least 1 and overlap={overlap} lie between 0 and 1: the paper "
            "takes the number of pixels and 0.5."
        )

    def excess(ratio: float) -> float:
        apart = math.sqrt(2.0 * dim) * (ratio - 1.0)
        shell = stats.norm.cdf([apart - 3.0 * ratio, apart + 3.0 * ratio])
        return float(shell[1] - shell[0]) - overlap

    # In low dimension shells of any ratio overlap by more than asked: then there is no solution.
    high = 2.0
    while excess(high) > 0.0:
        high *= 2.0
        if high > 1e6:
            raise ValueError(
                f"dim={dim}: noise of any two levels overlaps by more than {overlap}; in low "
                "dimension choose the ratio by how far the law of one level is from the next."
            )
    return float(optimize.brentq(excess, 1.0, high))
