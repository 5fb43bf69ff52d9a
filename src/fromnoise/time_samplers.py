"""At which times a network is trained: samplers of t, each with its density.

A sampler draws ``(n,)`` times in [t_min, t_max] and knows their density p(t) there, so that a loss
can be made independent of it: E[f(t) / p(t)] is the integral of f over [t_min, t_max] whatever p
is. All samplers invert a distribution function: t = `quantile`(u) with u uniform.

t_min and t_max are exact bounds. They are how a loss keeps away from an end point at which its
target or weight is infinite (the score where sigma = 0, the velocity of VP at t = 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Protocol

import torch
from torch import Tensor

from fromnoise._shapes import check_time


class TimeSampler(Protocol):
    """What a target needs of a sampler of times."""

    @property
    def t_min(self) -> float:
        """The earliest time it may draw."""
        ...

    @property
    def t_max(self) -> float:
        """The latest time it may draw."""
        ...

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> Tensor:
        """Draw n times, ``(n,)``."""
        ...

    def quantile(self, u: Tensor) -> Tensor:
        """The time below which a draw lies with probability u, of the shape of `u`."""
        ...

    def density(self, t: Tensor) -> Tensor:
        """p(t), of the shape of `t`; 0 outside [t_min, t_max]."""
        ...


def _check_range(t_min: float, t_max: float) -> None:
    if not 0.0 <= t_min < t_max <= 1.0:
        raise ValueError(
            f"t_min and t_max must satisfy 0 <= t_min < t_max <= 1 (0 is noise, 1 is data), but "
            f"t_min={t_min} and t_max={t_max}."
        )


def _inside(t: Tensor, sampler: TimeSampler) -> Tensor:
    """Whether each time lies in the sampler's range, whose bounds are rounded as `t` was."""
    check_time(t)
    low, high = (torch.as_tensor(v, dtype=t.dtype) for v in (sampler.t_min, sampler.t_max))
    return (t >= low.item()) & (t <= high.item())


class _Independent:
    """Independent draws, from the quantile function."""

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> Tensor:
        """Draw n independent times, ``(n,)``; the generator lives on `device`."""
        return self.quantile(torch.rand(n, generator=generator, dtype=dtype, device=device))


@dataclass(frozen=True)
class UniformTimes(_Independent):
    """Times uniform in [t_min, t_max]: the default of flow matching.

    On [0, 1] the draws are those of ``torch.rand``, so t = 0 itself is possible, t = 1 is not.

    Attributes:
        t_min: the earliest time, in [0, 1).
        t_max: the latest time, in (t_min, 1].

    Raises:
        ValueError: not 0 <= t_min < t_max <= 1.
    """

    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        """Check the range."""
        _check_range(self.t_min, self.t_max)

    def quantile(self, u: Tensor) -> Tensor:
        """t_min + (t_max - t_min) u."""
        return (self.t_min + (self.t_max - self.t_min) * u).clamp(self.t_min, self.t_max)

    def density(self, t: Tensor) -> Tensor:
        """1 / (t_max - t_min) inside.

        Raises:
            ValueError: t lies outside [0, 1].
        """
        return _inside(t, self).to(t.dtype) / (self.t_max - self.t_min)


@dataclass(frozen=True)
class LogitNormalTimes(_Independent):
    """Times whose logit log(t / (1 - t)) is normal, restricted to [t_min, t_max].

    Esser et al. 2024 (Stable Diffusion 3): more draws in the middle, where the velocity is hard to
    predict, and a density that vanishes at 0 and 1. Their time runs from data to noise, so their
    location m is ``mean = -m`` here. On `CondOT` the logit *is* the half log-SNR.

    Attributes:
        mean: location of the logit; positive values draw more times near the data.
        std: scale of the logit, positive.
        t_min: the earliest time, in [0, 1).
        t_max: the latest time, in (t_min, 1].

    Raises:
        ValueError: not 0 <= t_min < t_max <= 1, mean or std is not finite, std is not positive, or
            the normal law has a mass below 1e-6 in that range.
    """

    mean: float = 0.0
    std: float = 1.0
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_range(self.t_min, self.t_max)
        if not (math.isfinite(self.mean) and 0.0 < self.std < math.inf):
            raise ValueError(
                f"mean must be finite and std positive, but mean={self.mean} and std={self.std}."
            )
        if self._cut[1] < 1e-6:
            raise ValueError(
                f"t_min={self.t_min}, t_max={self.t_max}: the logit-normal law with mean="
                f"{self.mean} and std={self.std} has mass {self._cut[1]:.3g} there: widen the "
                "range or move the mean into it."
            )

    @property
    def _cut(self) -> tuple[float, float]:
        """The mass of the unrestricted law below t_min, and in [t_min, t_max]."""
        law = NormalDist(self.mean, self.std)
        low = law.cdf(math.log(self.t_min / (1.0 - self.t_min))) if self.t_min > 0 else 0.0
        high = law.cdf(math.log(self.t_max / (1.0 - self.t_max))) if self.t_max < 1 else 1.0
        return low, high - low

    def quantile(self, u: Tensor) -> Tensor:
        """sigmoid(mean + std Phi^{-1}(F(t_min) + u (F(t_max) - F(t_min)))), F unrestricted.

        The probability under Phi^{-1} is kept half a spacing of the dtype away from 0 and 1:
        torch.rand does return 0, every 2^24th time in float32, and Phi^{-1}(0) is infinite.
        """
        below, mass = self._cut
        eps = torch.finfo(u.dtype).eps
        probability = (below + mass * u).clamp(0.25 * eps, 1.0 - 0.5 * eps)
        logit = self.mean + self.std * torch.special.ndtri(probability)
        return torch.sigmoid(logit).clamp(self.t_min, self.t_max)

    def density(self, t: Tensor) -> Tensor:
        """exp(-(logit t - mean)^2 / (2 std^2)) / (std sqrt(2 pi) t (1 - t)) / mass of the range.

        0 at t = 0 and t = 1, which is its limit.

        Raises:
            ValueError: t lies outside [0, 1].
        """
        inside = _inside(t, self) & (t > 0) & (t < 1)
        safe = torch.where(inside, t, torch.full_like(t, 0.5))
        z = (torch.logit(safe) - self.mean) / self.std
        log_density = -0.5 * z.square() - torch.log(safe) - torch.log1p(-safe)
        scale = self.std * math.sqrt(2.0 * math.pi) * self._cut[1]
        return torch.where(inside, torch.exp(log_density) / scale, torch.zeros_like(t))


@dataclass(frozen=True, eq=False)
class TabulatedTimes(_Independent):
    """Times from a density given by a table, constant on each bin: importance sampling.

    Where the loss is large and noisy, draw more times, and divide by the density: heights in
    proportion to the root mean square of the loss in each bin give the least variance. (Kingma &
    Gao 2023 keep such a table in the log-SNR while they train.)

    Attributes:
        edges: ``(k + 1,)``, increasing, in [0, 1]: the bins; the first is t_min, the last t_max.
        heights: ``(k,)``, positive: the density up to a factor; normalized here.

    Raises:
        ValueError: the shapes do not match, the edges do not increase within [0, 1], or a height
            is not positive and finite (a bin that is never drawn would be missing from the loss).
    """

    edges: Tensor
    heights: Tensor
    _below: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the table and normalize it."""
        k = self.heights.numel()
        if k < 1 or self.heights.shape != (k,) or self.edges.shape != (k + 1,):
            raise ValueError(
                f"edges and heights have shapes {tuple(self.edges.shape)} and "
                f"{tuple(self.heights.shape)}: they must be (k + 1,) and (k,)."
            )
        edges, heights = self.edges.double(), self.heights.double()
        check_time(edges, "edges")
        if not bool((edges.diff() > 0).all()):
            raise ValueError(f"edges must increase, but they are {edges.tolist()}.")
        if not bool(((heights > 0) & torch.isfinite(heights)).all()):
            raise ValueError(
                f"heights must be positive and finite, but they are {heights.tolist()}: a bin that "
                "is never drawn would be missing from the loss."
            )
        mass = heights * edges.diff()
        below = torch.cat([torch.zeros_like(mass[:1]), torch.cumsum(mass, 0)]) / mass.sum()
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "heights", heights / mass.sum())
        object.__setattr__(self, "_below", below)

    @property
    def t_min(self) -> float:
        """The first edge."""
        return self.edges[0].item()

    @property
    def t_max(self) -> float:
        """The last edge."""
        return self.edges[-1].item()

    def quantile(self, u: Tensor) -> Tensor:
        """The inverse of the distribution function, which is linear on each bin."""
        edges, heights, below = (v.to(u) for v in (self.edges, self.heights, self._below))
        k = (torch.searchsorted(below, u.contiguous(), right=True) - 1).clamp(0, len(heights) - 1)
        t = edges[k] + (u - below[k]) / heights[k]
        return torch.minimum(torch.maximum(t, edges[k]), edges[k + 1])

    def density(self, t: Tensor) -> Tensor:
        """The height of the bin that t lies in; at an edge, of the bin after it.

        Raises:
            ValueError: t lies outside [0, 1].
        """
        edges, heights = self.edges.to(t), self.heights.to(t)
        k = (torch.searchsorted(edges, t.contiguous(), right=True) - 1).clamp(0, len(heights) - 1)
        return torch.where(_inside(t, self), heights[k], torch.zeros_like(t))


@dataclass(frozen=True)
class LowDiscrepancyTimes:
    """One draw in each n-th of the probability, by one random offset for the whole batch.

    u_i = (u_0 + i / n) mod 1 with one uniform u_0 (Kingma et al. 2021, Appendix I.1), and t_i =
    quantile(u_i) of another sampler. Every single t_i has that sampler's law, so the expected loss
    and the density are unchanged, while the part of the variance that comes from *which* times a
    batch happens to hold nearly disappears. The t_i are not independent.

    Attributes:
        times: the sampler whose law each time has.
    """

    times: TimeSampler = field(default_factory=UniformTimes)

    @property
    def t_min(self) -> float:
        """The earliest time of `times`."""
        return self.times.t_min

    @property
    def t_max(self) -> float:
        """The latest time of `times`."""
        return self.times.t_max

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> Tensor:
        """Draw n times, ``(n,)``, one in each stratum, in cyclic order.

        The offset u_0 = (j + v) / n is drawn as its stratum j and its place v in the stratum: the
        same law, but v keeps all its digits, and no sum can round into the next stratum.
        """
        v = torch.rand(1, generator=generator, dtype=dtype, device=device)
        j = torch.randint(n, (1,), generator=generator, device=device)
        stratum = (torch.arange(n, device=device) + j) % n
        top = (stratum + 1).to(v.dtype) / n
        u = torch.minimum((stratum + v) / n, torch.nextafter(top, torch.zeros_like(top)))
        return self.quantile(u)

    def quantile(self, u: Tensor) -> Tensor:
        """That of `times`."""
        return self.times.quantile(u)

    def density(self, t: Tensor) -> Tensor:
        """That of `times`: the density of each draw."""
        return self.times.density(t)
