"""Targets that teach a network a score: implicit, sliced and denoising score matching.

All losses are divided by the number of coordinates, as those of :mod:`fromnoise.targets`. The first
two match the score of one density, that of the data or of the path at one time; the network is told
this time, so that it is called as every other network of the book.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fromnoise._shapes import check_same_shape, sum_event
from fromnoise.likelihood import rademacher_like, value_and_divergence
from fromnoise.paths import GaussianPath
from fromnoise.targets import Net, Regression
from fromnoise.time_samplers import TimeSampler, UniformTimes
from fromnoise.weightings import Uniform

Probes = Literal["rademacher", "gaussian"]


@dataclass(frozen=True)
class ImplicitScoreMatching:
    """Hyvärinen's loss E[‖f(X)‖² + 2 div f(X)], which needs samples of the law only.

    It is E‖f(X) − s(X)‖² less E‖s(X)‖² for a smooth density (`thm-implicit-score-matching`;
    Hyvärinen 2005, who has half of it). The divergence is exact, so that one evaluation costs
    a backward pass a coordinate, and training differentiates them again: for a plane, not for
    images. `SlicedScoreMatching` estimates it instead. On a data set without noise the loss is not
    bounded below (`prp-implicit-unbounded`).

    Attributes:
        path: a Gaussian path whose X_t is matched at the time `t`; None to match the data's law.
        t: the time in [0, 1] at which the path is taken, and which the network is told.

    Raises:
        ValueError: `t` lies outside [0, 1].
    """

    path: GaussianPath | None = None
    t: float = 1.0

    def __post_init__(self) -> None:
        """Check the time."""
        if not 0.0 <= self.t <= 1.0:
            raise ValueError(f"t must lie in [0, 1] (0 is noise, 1 is data), but it is {self.t}.")

    def draw(self, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The points at which the score is matched, ``(batch, *event)``."""
        if self.path is None:
            return data
        return self.path.sample(data, self.t, generator=generator).x

    def loss(self, net: Net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss on one batch, a scalar; it may be negative.

        Raises:
            ValueError: ``net`` returns another shape than it was given.
        """
        x = self.draw(data, generator)
        return _loss(*_evaluate(net, x, self.t), x)


@dataclass(frozen=True)
class SlicedScoreMatching(ImplicitScoreMatching):
    """The same loss along random directions v with E[v vᵀ] = I: one backward pass a direction.

    E[(v·f(X))² + 2 v·∇f(X) v], unbiased for `ImplicitScoreMatching` (`prp-sliced`; Song et al.
    2020). With ``reduced`` the first term is replaced by its mean over v, ‖f(X)‖²: the divergence
    alone is estimated, by Hutchinson's method. That has the smaller variance in high dimension, not
    always in low (`prp-sliced-variance`).

    Attributes:
        path: as in `ImplicitScoreMatching`.
        t: as in `ImplicitScoreMatching`.
        projections: number of independent directions for each point, at least 1.
        probes: ``"rademacher"`` (independent signs) or ``"gaussian"`` directions.
        reduced: use ‖f‖² instead of (v·f)².

    Raises:
        ValueError: `t` lies outside [0, 1], `projections` is less than 1 or `probes` unknown.
    """

    projections: int = 1
    probes: Probes = "rademacher"
    reduced: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.projections < 1:
            raise ValueError(f"projections must be at least 1, but it is {self.projections}.")
        if self.probes not in ("rademacher", "gaussian"):
            raise ValueError(f"probes must be 'rademacher' or 'gaussian', not {self.probes!r}.")

    def directions(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Random directions for the points x, ``(projections, batch, *event)``."""
        many = x.expand(self.projections, *x.shape)
        if self.probes == "rademacher":
            return rademacher_like(many, generator)
        return torch.randn(many.shape, generator=generator, dtype=x.dtype, device=x.device)

    def loss(self, net: Net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss on one batch, a scalar; it may be negative.

        Raises:
            ValueError: ``net`` returns another shape than it was given.
        """
        x = self.draw(data, generator)
        v = self.directions(x, generator)
        f, trace = _evaluate(net, x, self.t, v)
        if self.reduced:
            return _loss(f, trace, x)
        along = (v * f).flatten(2).sum(2).square().mean(0)  # (v·f)², averaged over directions
        return (along + 2.0 * trace).mean() / x[0].numel()


def denoising_score_matching(
    path: GaussianPath, times: TimeSampler | None = None, weighted: bool = True
) -> Regression:
    """Regress -eps / sigma: denoising score matching (`thm-denoising-score-matching`).

    Vincent 2011 at one noise level; at many, with the weight sigma^2, the loss of noise-conditional
    score networks (Song & Ermon 2019). It is `Regression` with ``kind="score"``.

    Args:
        path: the Gaussian path from noise to data.
        times: draws the noise levels; uniform on [0, 1] unless given. On a `VE` path that makes
            log sigma uniform.
        weighted: multiply the squared error by sigma^2, which makes it that of the noise.

    Raises:
        ValueError: sigma = 0 at one end of the times, where the target is infinite.
    """
    weighting = Uniform("noise") if weighted else None
    return Regression(path, "score", weighting, UniformTimes() if times is None else times)


def _evaluate(net: Net, x: Tensor, t: float, probes: Tensor | None = None):
    """The network at x, and its divergence: exact, or estimated by probes."""
    times = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    f, trace = value_and_divergence(net, x, times, probes)
    check_same_shape(f, x, "the network's output", "x")
    return f, trace


def _loss(f: Tensor, trace: Tensor, x: Tensor) -> Tensor:
    """E[‖f‖² + 2 div f] over the batch, divided by the number of coordinates."""
    return (sum_event(f.square()) + 2.0 * trace).mean() / x[0].numel()
