"""Jump processes on the line with given marginals, and their superposition with a flow.

A generator needs no velocity: a process may also stand still and jump. For a path of densities p_t
the jumps that change nothing but what must change have the rate (d/dt p_t)_- / p_t and land with
the density (d/dt p_t)_+, normalized (`prp-jump-path`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Density = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LinePath:
    """A path of densities on an interval, known at the points of a grid.

    Attributes:
        density: p_t(x), maps points ``(n,)`` and a time to ``(n,)``; differentiable in the time.
        grid: ``(m,)``, increasing and equally spaced; outside of it the path has no mass to speak
            of.

    Raises:
        ValueError: the grid is not increasing and equally spaced.
    """

    density: Density
    grid: Tensor

    def __post_init__(self) -> None:
        """Check the grid."""
        gaps = self.grid.diff()
        if self.grid.ndim != 1 or len(self.grid) < 3 or not bool((gaps > 0).all()):
            raise ValueError("grid must be a 1-D tensor of at least 3 increasing points.")
        if float(gaps.max() - gaps.min()) > 1e-3 * float(gaps.mean()):
            raise ValueError("grid must be equally spaced: use torch.linspace.")

    def density_and_rate(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """p_t and its time derivative on the grid, ``(m,)`` each."""
        time = torch.as_tensor(t, dtype=self.grid.dtype)
        return torch.func.jvp(
            lambda s: self.density(self.grid, s), (time,), (torch.ones_like(time),)
        )

    def jump_rate(self, x: Tensor, t: float | Tensor) -> Tensor:
        """lambda_t(x) = (d/dt p_t)_- / p_t, linearly between the points of the grid, ``(n,)``."""
        density, rate = self.density_and_rate(t)
        return _interpolate(self.grid, (-rate).clamp(min=0.0) / density.clamp(min=1e-300), x)

    def landings(self, n: int, t: float | Tensor, generator=None) -> Tensor:
        """n draws of the density (d/dt p_t)_+ / its mass, ``(n,)``.

        Raises:
            ValueError: the path stands still at t, so that nothing lands.
        """
        _, rate = self.density_and_rate(t)
        mass = rate.clamp(min=0.0)
        if not float(mass.sum()) > 0.0:
            raise ValueError(f"t: the path does not change at t = {float(t):.4g}: nothing jumps.")
        cell = torch.multinomial(mass, n, replacement=True, generator=generator)
        offset = torch.rand(n, generator=generator, dtype=self.grid.dtype) - 0.5
        return self.grid[cell] + offset * (self.grid[1] - self.grid[0])


def _interpolate(grid: Tensor, values: Tensor, x: Tensor) -> Tensor:
    place = ((x - grid[0]) / (grid[1] - grid[0])).clamp(0.0, len(grid) - 1.000001)
    left = place.floor().long()
    part = place - left
    return (1.0 - part) * values[left] + part * values[left + 1]


def simulate(
    path: LinePath,
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    times: Tensor,
    share: float,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
) -> Tensor:
    """The superposition of flow and jumps: (1 - share) of the one, share of the other.

    In a step of length h a point moves by (1 - share) u h and jumps with the probability
    1 - exp(-share lambda h) (`prp-superposition`). share = 0 is the flow, 1 the jump process.

    Args:
        path: the densities.
        velocity: u_t(x) of the flow with these densities.
        x: ``(n,)``, the states at ``times[0]``.
        times: ``(steps + 1,)``, strictly increasing.
        share: in [0, 1].
        generator: source of the jumps.
        trajectory: return the states at all times instead of the last one.

    Returns:
        ``(n,)``, or ``(steps + 1, n)`` with `trajectory`.

    Raises:
        ValueError: share lies outside [0, 1], or the times do not increase.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must lie in [0, 1] (0 the flow, 1 the jumps), not {share}.")
    if times.ndim != 1 or not bool((times.diff() > 0).all()):
        raise ValueError("times must be a 1-D tensor that strictly increases.")
    states = [x]
    for t, s in pairwise(times):
        h = s - t
        y = x + (1.0 - share) * h * velocity(x, t) if share < 1.0 else x
        if share > 0.0:
            chance = -torch.expm1(-share * h * path.jump_rate(x, t))
            jumps = torch.rand(len(x), generator=generator, dtype=x.dtype) < chance
            # landings are drawn at the middle of the step
            fresh = path.landings(len(x), t + 0.5 * h, generator).to(x)
            y = torch.where(jumps, fresh, y)
        x = y
        if trajectory:
            states.append(x)
    return torch.stack(states) if trajectory else x
