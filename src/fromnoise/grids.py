"""Grids of sampling times, and alpha, sigma, lambda at each: all that a sampler's formula needs.

A sampler walks from noise to data along a :class:`Grid`. Its coefficients are functions of alpha,
sigma and lambda at the grid's points; they are computed here once, in double precision, and are
plain numbers afterwards, so that a step costs no more than its tensor operations and the loop
compiles. Grids differ in where they put their points:

- `uniform`: equal steps of t.
- `uniform_log_snr`: equal steps of lambda = log(alpha / sigma).
- `karras`: equal steps of (sigma / alpha)^(1/rho), Karras et al. 2022.
- `exponential`: equal steps of log(sigma / alpha), then zero: `uniform_log_snr` and one last step.
- `of_steps`: a part of DDPM's integer steps, "leading", "linspace" or "trailing".
- `uniform_straight`: equal steps of alpha / (alpha + sigma), the time of the straight path.
- `shifted`: a uniform grid after the time shift of Esser et al. 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fromnoise._shapes import check_time
from fromnoise.discrete_schedules import DiscreteVP
from fromnoise.schedules import Schedule

Number = float | Tensor
Spacing = Literal["leading", "linspace", "trailing"]


@dataclass(frozen=True, eq=False)
class Point:
    """One time of a grid, with what the schedule says about it.

    The entries are numbers, or, for times that differ between samples, tensors
    ``(batch, 1, ..., 1)`` (`t` itself: ``(batch,)``).

    Attributes:
        index: its place in the grid, from 0.
        t: the time, in [0, 1].
        alpha: scale of the data.
        sigma: scale of the noise.
        d_alpha: time derivative of alpha; nan if the grid was made without a schedule.
        d_sigma: time derivative of sigma; nan if the grid was made without a schedule.
    """

    index: int
    t: Number
    alpha: Number
    sigma: Number
    d_alpha: Number = math.nan
    d_sigma: Number = math.nan

    @property
    def half_log_snr(self) -> Number:
        """lambda = log(alpha / sigma): -inf without signal, inf without noise."""
        if isinstance(self.alpha, Tensor):
            return self.alpha.log() - self.sigma.log()
        if self.alpha == 0.0:
            return -math.inf
        return math.inf if self.sigma == 0.0 else math.log(self.alpha / self.sigma)

    @property
    def ratio(self) -> Number:
        """sigma / alpha, the noise level that EDM calls sigma: inf without signal."""
        if isinstance(self.alpha, Tensor):
            return self.sigma / self.alpha
        return math.inf if self.alpha == 0.0 else self.sigma / self.alpha


@dataclass(frozen=True, eq=False)
class Grid:
    """Points from noise to data; ``grid[i]`` is the i-th, and there are ``grid.steps + 1``.

    Attributes:
        points: at least two, at increasing times.
        schedule: what alpha and sigma come from; None if they were given as numbers.
    """

    points: tuple[Point, ...]
    schedule: Schedule | None = None

    @property
    def steps(self) -> int:
        """How many steps a sampler takes."""
        return len(self.points) - 1

    def __getitem__(self, i: int) -> Point:
        """The i-th point."""
        return self.points[i]

    def __len__(self) -> int:
        """The number of points."""
        return len(self.points)

    @property
    def times(self) -> Tensor:
        """The times ``(steps + 1,)``, or ``(steps + 1, batch)``, in double precision."""
        return torch.stack([torch.as_tensor(p.t, dtype=torch.float64) for p in self.points])

    @classmethod
    def of(cls, schedule: Schedule, times: Tensor | Sequence[float]) -> Grid:
        """The points of a schedule at the given times.

        Args:
            schedule: alpha and sigma, and their derivatives.
            times: ``(steps + 1,)``, strictly increasing in [0, 1].

        Raises:
            ValueError: the times are fewer than two, do not increase, or leave [0, 1].
        """
        if not isinstance(times, Tensor):
            times = torch.tensor(times, dtype=torch.float64)
        times = times.detach().to("cpu", torch.float64)
        if times.ndim != 1 or len(times) < 2:
            raise ValueError(
                f"times has shape {tuple(times.shape)}: pass a 1-D tensor of at least two times, "
                "such as torch.linspace(0, 1, 51)."
            )
        check_time(times, "times")
        if not bool((times.diff() > 0).all()):
            raise ValueError(
                "times must strictly increase, from noise (0) to data (1): flip them if they run "
                "the other way, and ask for fewer steps if two of them coincide."
            )
        rows = [
            getattr(schedule, name)(times).to(torch.float64).tolist()
            for name in ("alpha", "sigma", "d_alpha", "d_sigma")
        ]
        points = zip(times.tolist(), *rows, strict=True)
        return cls(tuple(Point(i, *row) for i, row in enumerate(points)), schedule)

    @staticmethod
    def point(schedule: Schedule, t: float, index: int = 0) -> Point:
        """One time of a schedule, not part of a grid.

        Raises:
            ValueError: t lies outside [0, 1].
        """
        time = torch.tensor(t, dtype=torch.float64)
        names = ("alpha", "sigma", "d_alpha", "d_sigma")
        return Point(index, float(t), *(getattr(schedule, name)(time).item() for name in names))

    @classmethod
    def of_samples(cls, schedule: Schedule, times: Tensor, ndim: int = 2) -> Grid:
        """A grid of its own for every sample.

        Args:
            schedule: alpha and sigma, and their derivatives.
            times: ``(steps + 1, batch)``, strictly increasing along the first axis.
            ndim: the number of axes of x, ``(batch, *event)``.

        Raises:
            ValueError: the shape is another, the times do not increase, or they leave [0, 1].
        """
        if times.ndim != 2 or len(times) < 2 or ndim < 1:
            raise ValueError(
                f"times has shape {tuple(times.shape)} and ndim is {ndim}: pass times of shape "
                "(steps + 1, batch) and the number of axes of x."
            )
        check_time(times, "times")
        if not bool((times.diff(dim=0) > 0).all()):
            raise ValueError("times must strictly increase along their first axis.")
        shape = (-1, *([1] * (ndim - 1)))
        points = []
        for i, t in enumerate(times):
            row = (getattr(schedule, name)(t) for name in ("alpha", "sigma", "d_alpha", "d_sigma"))
            points.append(Point(i, t, *(value.reshape(shape) for value in row)))
        return cls(tuple(points), schedule)

    @classmethod
    def of_levels(
        cls, times: Sequence[float], alpha: Sequence[float], sigma: Sequence[float]
    ) -> Grid:
        """From numbers, where another library's tables are to be followed to the last digit.

        Args:
            times: what the field is called with, strictly increasing, but for the last one.
            alpha: scale of the data at each.
            sigma: scale of the noise at each.

        Raises:
            ValueError: the lengths differ, or the signal-to-noise ratio does not rise.
        """
        if not len(times) == len(alpha) == len(sigma) or len(times) < 2:
            raise ValueError(
                f"there are {len(times)} times, {len(alpha)} values of alpha and {len(sigma)} of "
                "sigma: pass equally many, at least two."
            )
        rows = zip(times, alpha, sigma, strict=True)
        grid = cls(tuple(Point(i, *map(float, row)) for i, row in enumerate(rows)))
        if not all(p.half_log_snr < q.half_log_snr for p, q in pairwise(grid.points)):
            raise ValueError("alpha / sigma must rise from point to point, from noise to data.")
        return grid

    def between(self, i: int, share: float) -> Point:
        """The point at lambda_i + share (lambda_{i+1} - lambda_i).

        Raises:
            ValueError: the grid has no schedule to ask, or lambda is not finite at one of the two.
        """
        p, q = self[i], self[i + 1]
        return self.at_half_log_snr(
            p.half_log_snr + share * (q.half_log_snr - p.half_log_snr), p.index
        )

    def at_half_log_snr(self, half_log_snr: float, index: int = 0) -> Point:
        """The time of the grid's schedule at which lambda has a given value.

        Raises:
            ValueError: the grid has no schedule to ask, or the schedule never reaches the value.
        """
        if self.schedule is None or isinstance(half_log_snr, Tensor):
            raise ValueError(
                "times: this sampler evaluates the field between the points of the grid, and needs "
                "a grid of one schedule for all samples: make it with Grid.of(schedule, times)."
            )
        return _point_at(self.schedule, half_log_snr, index)

    def reversed(self) -> Grid:
        """The same points from data to noise, for inversion."""
        points = reversed(self.points)
        return Grid(
            tuple(
                Point(i, p.t, p.alpha, p.sigma, p.d_alpha, p.d_sigma) for i, p in enumerate(points)
            ),
            self.schedule,
        )


@torch.compiler.assume_constant_result
def _point_at(schedule: Schedule, half_log_snr: float, index: int) -> Point:
    # a number: under torch.compile it is worked out once, not traced
    value = torch.tensor(half_log_snr, dtype=torch.float64)
    return Grid.point(schedule, schedule.inverse_half_log_snr(value).item(), index)


def as_grid(times: Grid | Tensor | Sequence[float], schedule: Schedule) -> Grid:
    """A grid as it is; times as the grid of this schedule."""
    return times if isinstance(times, Grid) else Grid.of(schedule, times)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, but it is {steps}.")


def _ends(schedule: Schedule, start: float, end: float) -> tuple[float, float]:
    low, high = schedule.half_log_snr(torch.tensor([start, end], dtype=torch.float64)).tolist()
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"start={start} and end={end}: {schedule.name} has log(alpha / sigma) from {low:.6g} "
            f"to {high:.6g} there, and equal parts of it need finite ends: choose start > 0 and "
            "end < 1, such as 1e-3 and 1 - 1e-3 (final=True adds the step to t = 1)."
        )
    return low, high


def _at_ratios(
    schedule: Schedule, log_ratio: Tensor, start: float, end: float, final: bool
) -> Grid:
    times = schedule.inverse_half_log_snr(-log_ratio)
    times[0], times[-1] = start, end  # not what rounding makes of them
    if final and end < 1.0:
        times = torch.cat([times, torch.ones(1, dtype=times.dtype)])
    return Grid.of(schedule, times)


def uniform(schedule: Schedule, steps: int, *, start: float = 0.0, end: float = 1.0) -> Grid:
    """Equal steps of t.

    Args:
        schedule: of the path.
        steps: how many, at least 1.
        start: the first time.
        end: the last time.

    Raises:
        ValueError: steps < 1, or start is not below end.
    """
    _check_steps(steps)
    return Grid.of(schedule, torch.linspace(start, end, steps + 1, dtype=torch.float64))


def uniform_log_snr(
    schedule: Schedule, steps: int, *, start: float = 1e-3, end: float = 1.0 - 1e-3, final=False
) -> Grid:
    """Equal steps of lambda = log(alpha / sigma).

    Args:
        schedule: of the path.
        steps: how many, at least 1; with `final`, the last of them leads from `end` to t = 1.
        start: the first time.
        end: the last of the equal parts.
        final: add t = 1 as the last point.

    Raises:
        ValueError: steps < 1, or lambda is not finite at an end.
    """
    return karras(schedule, steps, rho=math.inf, start=start, end=end, final=final)


def exponential(
    schedule: Schedule, steps: int, *, start: float = 1e-3, end: float = 1.0 - 1e-3
) -> Grid:
    """Equal steps of log(sigma / alpha) from `start` to `end`, then one to t = 1.

    As in k-diffusion, of all `steps` the last leads from the smallest noise level to none.
    """
    return uniform_log_snr(schedule, steps, start=start, end=end, final=True)


def karras(
    schedule: Schedule,
    steps: int,
    *,
    rho: float = 7.0,
    start: float = 1e-3,
    end: float = 1.0 - 1e-3,
    final: bool = True,
) -> Grid:
    """Equal steps of (sigma / alpha)^(1/rho) from `start` to `end`, then one to t = 1.

    Karras et al. 2022, eq. 5, where sigma / alpha is called sigma and the last step leads to 0.
    With rho = 1 the noise levels are equally spaced, with rho = inf their logarithms.

    Args:
        schedule: of the path.
        steps: how many, at least 1; with `final`, the last of them leads from `end` to t = 1.
        rho: positive, or inf.
        start: the first time, of the largest noise level.
        end: the time of the smallest positive noise level.
        final: add t = 1 as the last point.

    Raises:
        ValueError: steps < 1, rho is not positive, or lambda is not finite at an end.
    """
    _check_steps(steps)
    if not rho > 0:
        raise ValueError(f"rho must be positive, but it is {rho}.")
    low, high = _ends(schedule, start, end)
    inner = steps - 1 if final and end < 1.0 else steps
    if inner == 0:
        return Grid.of(schedule, [start, 1.0])
    part = torch.linspace(0.0, 1.0, inner + 1, dtype=torch.float64)
    if math.isinf(rho):
        log_ratio = -low + part * (low - high)
    else:
        first, last = math.exp(-low / rho), math.exp(-high / rho)
        log_ratio = rho * torch.log(first + part * (last - first))
    return _at_ratios(schedule, log_ratio, start, end, final)


def uniform_straight(
    schedule: Schedule, steps: int, *, start: float = 0.0, end: float = 1.0, power: float = 1.0
) -> Grid:
    """Equal steps of s = alpha / (alpha + sigma), the time at which `CondOT` has the same noise.

    On `CondOT` it is `uniform`. With power > 1 the steps shrink towards the data, as
    1 - (1 - u)^power does for u in equal steps.

    Args:
        schedule: of the path.
        steps: how many, at least 1.
        start: the first time.
        end: the last time.
        power: positive.

    Raises:
        ValueError: steps < 1, power is not positive, or start is not below end.
    """
    _check_steps(steps)
    if not power > 0.0:
        raise ValueError(f"power must be positive, but it is {power}.")
    first, last = (
        p.alpha / (p.alpha + p.sigma) for p in (Grid.point(schedule, t) for t in (start, end))
    )
    part = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)[1:-1]
    s = first + (last - first) * (1.0 - (1.0 - part) ** power)
    inner = schedule.inverse_half_log_snr(torch.log(s) - torch.log1p(-s))
    return Grid.of(schedule, [start, *inner.tolist(), end])


def shifted(
    schedule: Schedule, steps: int, shift: float = 3.0, *, start: float = 0.0, end: float = 1.0
) -> Grid:
    """A uniform grid whose noise time r = 1 - t becomes shift r / (1 + (shift - 1) r).

    Esser et al. 2024: shift > 1 puts more of the steps where there is much noise. On the straight
    path it subtracts log(shift) from lambda (`prp-flow-shift`).

    Args:
        schedule: of the path.
        steps: how many, at least 1.
        shift: positive; 1 changes nothing.
        start: the first time, before the shift.
        end: the last time, before the shift.

    Raises:
        ValueError: steps < 1, or the shift is not positive.
    """
    _check_steps(steps)
    if not 0.0 < shift < math.inf:
        raise ValueError(f"shift must be positive and finite, but it is {shift}.")
    r = 1.0 - torch.linspace(start, end, steps + 1, dtype=torch.float64)
    return Grid.of(schedule, 1.0 - shift * r / (1.0 + (shift - 1.0) * r))


def of_steps(schedule: DiscreteVP, steps: int, spacing: Spacing = "trailing") -> Grid:
    """Part of the T integer steps of DDPM, then the clean end.

    Of the T noisy steps n = 1, ..., T (n = T is pure noise, up to what the betas leave):

    - "leading" takes n = 1 + k floor(T / steps): it leaves out the noisiest;
    - "linspace" spreads them from 1 to T, both included;
    - "trailing" takes every (T / steps)-th down from T: it leaves out the cleanest.

    The names are those of Lin et al. 2024 (table 2), who count from 1 as here.

    Args:
        schedule: of the T steps.
        steps: how many to take, at most T.
        spacing: which of them.

    Raises:
        ValueError: steps < 1 or above T, or an unknown spacing.
    """
    _check_steps(steps)
    total = schedule.steps
    if steps > total:
        raise ValueError(
            f"steps={steps} is more than the {total} steps of the schedule: ask for at most "
            f"{total}, or use a grid of continuous times (uniform, karras)."
        )
    k = torch.arange(steps, dtype=torch.float64)
    if spacing == "leading":
        n = 1 + k.flip(0) * (total // steps)
    elif spacing == "linspace":
        n = 1 + torch.linspace(total - 1, 0, steps, dtype=torch.float64).round()
    elif spacing == "trailing":
        n = (total - k * (total / steps)).round()
    else:
        raise ValueError(
            f"spacing must be 'leading', 'linspace' or 'trailing', but it is {spacing!r}."
        )
    times = 1.0 - torch.cat([n, torch.zeros(1, dtype=torch.float64)]) / total
    return Grid.of(schedule, times)
