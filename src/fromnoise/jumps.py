"""Jump processes on the line with given marginals, and their superposition with a flow.

A generator needs no velocity: a process may also stand still and jump. For a path of densities p_t
the jumps that change nothing but what must change have the rate (d/dt p_t)_- / p_t and land with
the density (d/dt p_t)_+, normalized (`prp-jump-path`). `LinePath` has them for any path known on a
grid. `PointsPath` has them in closed form for the conditional laws of the straight path, and
averages them with the posterior (`thm-generator-marginalization`).
"""

from __future__ import annotations

import math
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


@dataclass(frozen=True, eq=False)
class PointsPath:
    """The straight path from N(0, 1) to finitely many points of the line, and its generators.

    Given X_1 the law of X_t is N(t X_1, (1 - t)^2). With z = (x - t X_1) / (1 - t) its frugal jumps
    leave at the rate (z^2 - X_1 z - 1)_+ / (1 - t) and land with a density in proportion to
    (1 + X_1 z - z^2)_+ exp(-z^2 / 2) (`prp-gaussian-jump`; Holderrieth et al. 2025).

    Attributes:
        data: ``(k,)``, the points.
        weights: ``(k,)``, positive; they are normalized.

    Raises:
        ValueError: the shapes differ, or a weight is not positive.
    """

    data: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        """Check points and weights."""
        if self.data.ndim != 1 or self.data.shape != self.weights.shape:
            raise ValueError(
                f"data has shape {tuple(self.data.shape)} and weights "
                f"{tuple(self.weights.shape)}: both must be (k,)."
            )
        if not bool((self.weights > 0).all()):
            raise ValueError("weights must be positive: leave out points that have none.")

    def posterior(self, x: Tensor, t: float | Tensor) -> Tensor:
        """P(X_1 = data_i | X_t = x), ``(n,)`` to ``(n, k)``; t in [0, 1)."""
        z = (x[:, None] - t * self.data) / (1.0 - t)
        return torch.softmax(self.weights.log() - 0.5 * z.square(), -1)

    def density(self, x: Tensor, t: float | Tensor) -> Tensor:
        """p_t(x), ``(n,)``."""
        z = (x[:, None] - t * self.data) / (1.0 - t)
        bells = torch.exp(-0.5 * z.square()) / (math.sqrt(2.0 * math.pi) * (1.0 - t))
        return bells @ self.weights / self.weights.sum()

    def cdf(self, x: Tensor, t: float | Tensor) -> Tensor:
        """P(X_t <= x), ``(n,)``."""
        below = torch.special.ndtr((x[:, None] - t * self.data) / (1.0 - t))
        return below @ self.weights / self.weights.sum()

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """u_t(x) = E[(X_1 - x) / (1 - t) | X_t = x], ``(n,)``."""
        return (self.posterior(x, t) @ self.data - x) / (1.0 - t)

    def conditional_rate(self, x: Tensor, data: Tensor, t: float | Tensor) -> Tensor:
        """lambda_t(x | X_1 = data), ``(n,)`` each (`prp-gaussian-jump`)."""
        z = (x - t * data) / (1.0 - t)
        return (z.square() - data * z - 1.0).clamp(min=0.0) / (1.0 - t)

    def jump_rate(self, x: Tensor, t: float | Tensor) -> Tensor:
        """lambda_t(x) = E[lambda_t(x | X_1) | X_t = x], ``(n,)``."""
        rates = self.conditional_rate(x[:, None], self.data, t)
        return (self.posterior(x, t) * rates).sum(-1)

    def conditional_landings(
        self, data: Tensor, t: float | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Where a jump given X_1 = data lands, one draw for each, ``(n,)``.

        By bisection of the distribution function, (G(z) - G(z_-)) / (G(z_+) - G(z_-)) with
        G(z) = (z - X_1) exp(-z^2 / 2), between the roots z_- and z_+ of z^2 - X_1 z - 1.
        """
        root = torch.sqrt(data.square() + 4.0)
        # their product is -1: the root without cancellation first, and the other from it
        far = 0.5 * (data + torch.where(data < 0, -root, root))
        low, high = torch.minimum(far, -1.0 / far), torch.maximum(far, -1.0 / far)

        def primitive(z: Tensor) -> Tensor:
            return (z - data) * torch.exp(-0.5 * z.square())

        u = torch.rand(data.shape, generator=generator, dtype=data.dtype)
        level = (1.0 - u) * primitive(low) + u * primitive(high)
        for _ in range(math.ceil(-math.log2(torch.finfo(data.dtype).eps))):
            middle = 0.5 * (low + high)
            under = primitive(middle) < level
            low, high = torch.where(under, middle, low), torch.where(under, high, middle)
        return t * data + (1.0 - t) * 0.5 * (low + high)

    def conditional_intensity(self, data: Tensor) -> Tensor:
        """(1 - t) times the mean rate of jumps given X_1 = data, ``(n,)``: it is the same at all t.

        (G(z_+) - G(z_-)) / sqrt(2 pi) with G(z_+-) = exp(-z_+-^2 / 2) / z_+-.
        """
        far = 0.5 * (data.abs() + torch.sqrt(data.square() + 4.0))  # |z_-| = 1 / z_+
        total = torch.exp(-0.5 * far.square()) / far + far * torch.exp(-0.5 / far.square())
        return total / math.sqrt(2.0 * math.pi)


def simulate_averaged(
    path: PointsPath,
    x: Tensor,
    times: Tensor,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
) -> Tensor:
    """The jump process whose generator is the posterior mean of the conditional ones.

    In a step of length h a datum is drawn from the posterior at x, and with the probability
    1 - exp(-h lambda_t(x | datum)) x jumps as given that datum: so the measure of jumps is
    E[lambda_t(x | X_1) J_t(. | X_1) | X_t = x], to first order in h (`prp-generators`).

    Args:
        path: points and conditional generators.
        x: ``(n,)``, the states at ``times[0]``.
        times: ``(steps + 1,)``, strictly increasing, below 1: towards the end jumps never cease.
        generator: source of the data and the jumps.
        trajectory: return the states at all times instead of the last one.

    Returns:
        ``(n,)``, or ``(steps + 1, n)`` with `trajectory`.

    Raises:
        ValueError: the times do not increase, or leave [0, 1).
    """
    if times.ndim != 1 or not bool((times.diff() > 0).all()):
        raise ValueError("times must be a 1-D tensor that strictly increases.")
    if not (times[0] >= 0.0 and times[-1] < 1.0):
        raise ValueError(
            f"times run from {times[0].item():.4g} to {times[-1].item():.4g}: they must lie in "
            "[0, 1), since the rates grow like 1 / (1 - t)."
        )
    states = [x]
    for t, s in pairwise(times):
        drawn = torch.multinomial(path.posterior(x, t), 1, generator=generator)[:, 0]
        data = path.data[drawn]
        chance = -torch.expm1(-(s - t) * path.conditional_rate(x, data, t))
        jumps = torch.rand(len(x), generator=generator, dtype=x.dtype) < chance
        x = x.clone()
        x[jumps] = path.conditional_landings(data[jumps], 0.5 * (t + s), generator)
        if trajectory:
            states.append(x)
    return torch.stack(states) if trajectory else x
