"""Flow matching on manifolds: the velocity along geodesics from source to data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromnoise.couplings import Coupling
from fromnoise.manifolds import Manifold
from fromnoise.targets import Net, squared_error
from fromnoise.time_samplers import TimeSampler, UniformTimes


@dataclass(frozen=True)
class GeodesicSample:
    """A draw of the geodesic path.

    Attributes:
        x: ``(batch, ambient)``, the points at their times.
        t: ``(batch,)``.
        velocity: ``(batch, ambient)``, log_x(data) / (1 - t), tangent at x.
        source: ``(batch, ambient)``.
        data: ``(batch, ambient)``.
    """

    x: Tensor
    t: Tensor
    velocity: Tensor
    source: Tensor
    data: Tensor


def geodesic_sample(
    manifold: Manifold, source: Tensor, data: Tensor, t: Tensor | float
) -> GeodesicSample:
    """Points and velocities of the geodesics from source to data (`def-geodesic-path`).

    The velocity is computed from the end that is farther away, the source for t > 1/2 and the
    data before: neither 1 - t nor t is then small as a divisor (`prp-geodesic-velocity`).

    Args:
        manifold: where the points lie.
        source: ``(batch, ambient)``.
        data: ``(batch, ambient)``.
        t: a number or ``(batch,)``, in [0, 1].

    Raises:
        ValueError: the shapes differ, or source or data do not lie on the manifold.
    """
    manifold.check(source, "source")
    manifold.check(data, "data")
    x = manifold.geodesic(source, data, t)
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))
    column = t[:, None]
    ahead = manifold.log(x, data) / (1.0 - column).clamp(min=0.5)
    behind = -manifold.log(x, source) / column.clamp(min=0.5)
    return GeodesicSample(x, t, torch.where(column > 0.5, behind, ahead), source, data)


@dataclass(frozen=True, eq=False)
class RiemannianFlowMatching:
    """Regress the velocity along geodesics (`prp-riemannian-fm`; Chen & Lipman 2024).

    Attributes:
        manifold: where source and data lie.
        coupling: pairs source and data; the uniform law, independent of the data, unless given.
        times: sampler of the times.
    """

    manifold: Manifold
    coupling: Coupling | None = None
    times: TimeSampler = field(default_factory=UniformTimes)

    def draw(self, data: Tensor, generator: torch.Generator | None = None) -> GeodesicSample:
        """Pairs, times and points for a batch ``(batch, ambient)``."""
        if self.coupling is None:
            source = self.manifold.uniform(len(data), generator, data.dtype).to(data.device)
        else:
            source, data = self.coupling(data, generator)
        t = self.times.sample(len(data), generator, dtype=data.dtype, device=data.device)
        return geodesic_sample(self.manifold, source, data, t)

    def loss(self, net: Net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The squared error, averaged over the batch and the coordinates.

        Both manifolds have the metric of the space that their coordinates live in, so that the
        Euclidean norm of tangent vectors is the Riemannian one.

        Raises:
            ValueError: the data do not lie on the manifold, or the network's output has another
                shape.
        """
        sample = self.draw(data, generator)
        return squared_error(net, sample.x, sample.t, sample.velocity)
