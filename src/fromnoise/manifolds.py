"""The sphere and the flat torus: geodesics, exponential and logarithm, in coordinates of R^n.

Points of the sphere are unit vectors of R^(d+1); points of the torus are d angles in [-pi, pi).
Tangent vectors are arrays of the same shape as points; on the sphere they are orthogonal to the
point. All functions act on the last axis and broadcast over the others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fromnoise._shapes import check_same_shape
from fromnoise.networks import MLP

TWO_PI = 2.0 * math.pi


@dataclass(frozen=True)
class Manifold(ABC):
    """What flow matching needs of a compact manifold (`def-geodesic-path`).

    Attributes:
        dim: its dimension d, at least 1.

    Raises:
        ValueError: dim is less than 1.
    """

    dim: int

    def __post_init__(self) -> None:
        """Check the dimension."""
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, but it is {self.dim}.")

    @property
    @abstractmethod
    def ambient(self) -> int:
        """How many coordinates a point has."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The point of the manifold nearest to x, ``(..., ambient)``."""

    @abstractmethod
    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The part of v that is tangent at x."""

    @abstractmethod
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Where the geodesic from x with the velocity v is at time 1 (`prp-sphere-maps`)."""

    @abstractmethod
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The velocity at x of the shortest geodesic to y, that is there at time 1.

        Where there are several shortest ones (the cut locus) one of them is chosen.
        """

    @abstractmethod
    def uniform(
        self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """n independent points of the uniform law, ``(n, ambient)``."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """log of the volume: minus the log-density of the uniform law."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Smooth functions of the point that a network may take as input, ``(..., features)``."""

    def distance_off(self, x: Tensor) -> Tensor:
        """How far each coordinate is from that of the nearest point of the manifold."""
        return (self.project(x) - x).abs()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Length of the shortest geodesic, ``(...)``."""
        return self.log(x, y).norm(dim=-1)

    def geodesic(self, x: Tensor, y: Tensor, t: Tensor | float) -> Tensor:
        """The point at time t of the shortest geodesic from x (t = 0) to y (t = 1).

        Args:
            x: ``(batch, ambient)``.
            y: ``(batch, ambient)``.
            t: a number, or ``(batch,)``.

        Raises:
            ValueError: x and y have different shapes.
        """
        check_same_shape(x, y, "x", "y")
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        return self.exp(x, (t[..., None] if t.ndim else t) * self.log(x, y))

    def check(self, x: Tensor, name: str = "x") -> None:
        """Raise unless x has the shape of points and lies on the manifold, to rounding.

        Raises:
            ValueError: it does not; the message says by how much.
        """
        if x.shape[-1:] != (self.ambient,):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}: points of {self} have {self.ambient} "
                "coordinates, (..., ambient)."
            )
        off = self.distance_off(x).max().item() if x.numel() else 0.0
        if not off <= 1e-3:  # also catches nan
            raise ValueError(
                f"{name} lies {off:.3g} off {self}: pass manifold.project({name}), or, if these "
                "are other coordinates (degrees, latitude and longitude), convert them."
            )


@dataclass(frozen=True)
class Sphere(Manifold):
    """The unit sphere of R^(d+1)."""

    @property
    def ambient(self) -> int:
        """d + 1."""
        return self.dim + 1

    def project(self, x: Tensor) -> Tensor:
        """x / |x|; x = 0 has no nearest point and becomes nan."""
        return x / x.norm(dim=-1, keepdim=True)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v - <x, v> x."""
        return v - (x * v).sum(-1, keepdim=True) * x

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """cos|v| x + sin|v| v / |v| (`prp-sphere-maps`), and normalized against rounding."""
        angle = v.norm(dim=-1, keepdim=True)
        # torch.sinc is sin(pi z) / (pi z), 1 at 0
        return self.project(torch.cos(angle) * x + torch.sinc(angle / math.pi) * v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """theta w / |w|, w = y - <x, y> x, theta the angle of x and y (`prp-sphere-maps`).

        The angle comes from atan2(|w|, <x, y>), which keeps its digits near 0 and near pi, where
        arccos loses half of them; w is the tangent part of y - x, or of y + x if that is shorter,
        so that nothing cancels at either end. For y = -x a tangent direction is chosen.
        """
        x, y = torch.broadcast_tensors(x, y)
        inner = (x * y).sum(-1, keepdim=True)
        w = self.tangent(x, torch.where(inner < 0, y + x, y - x))
        w = self.tangent(x, w)  # again: what is left of x in a short w would be its direction
        size = w.norm(dim=-1, keepdim=True)
        near = size == 0
        # theta / |w|, with the limit 1 at y = x, so that there is a gradient too
        stretch = torch.atan2(size, inner) / torch.where(near, torch.ones_like(size), size)
        v = torch.where(near, torch.ones_like(size), stretch) * w
        opposite = (size <= 4.0 * torch.finfo(x.dtype).eps) & (inner < 0)
        if bool(opposite.any()):
            axis = nn.functional.one_hot(x.abs().argmin(-1), self.ambient).to(x)
            v = torch.where(opposite, math.pi * self.project(self.tangent(x, axis)), v)
        return v

    def uniform(
        self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Normal vectors, divided by their lengths."""
        return self.project(torch.randn(n, self.ambient, generator=generator, dtype=dtype))

    @property
    def log_volume(self) -> float:
        """log of 2 pi^((d+1)/2) / Gamma((d+1)/2)."""
        half = 0.5 * self.ambient
        return math.log(2.0) + half * math.log(math.pi) - math.lgamma(half)

    def features(self, x: Tensor) -> Tensor:
        """The coordinates themselves."""
        return x


@dataclass(frozen=True)
class FlatTorus(Manifold):
    """d angles, each modulo 2 pi, with the metric of R^d."""

    @property
    def ambient(self) -> int:
        """d."""
        return self.dim

    def project(self, x: Tensor) -> Tensor:
        """The angles modulo 2 pi, in [-pi, pi)."""
        turned = torch.remainder(x + math.pi, TWO_PI) - math.pi
        # remainder rounds a number just below 0 to 2 pi itself
        return torch.where(turned >= math.pi, turned - TWO_PI, turned)

    def distance_off(self, x: Tensor) -> Tensor:
        """How far an angle lies outside of [-pi, pi]; both ends are the same point."""
        return (x.abs() - math.pi).clamp(min=0.0)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """v: every vector is tangent."""
        return v

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """x + v, modulo 2 pi."""
        return self.project(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x, modulo 2 pi, in [-pi, pi)."""
        return self.project(y - x)

    def uniform(
        self, n: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Independent uniform angles."""
        return self.project(
            TWO_PI * torch.rand(n, self.dim, generator=generator, dtype=dtype) - math.pi
        )

    @property
    def log_volume(self) -> float:
        """d log(2 pi)."""
        return self.dim * math.log(TWO_PI)

    def features(self, x: Tensor) -> Tensor:
        """Cosines and sines of the angles: a function of them is periodic."""
        return torch.cat([x.cos(), x.sin()], -1)


class TangentMLP(nn.Module):
    """A multilayer perceptron of point and time whose values are tangent at the point.

    Args:
        manifold: where the points lie.
        hidden: width of the hidden layers.
        depth: number of residual blocks.
    """

    def __init__(self, manifold: Manifold, hidden: int = 128, depth: int = 3):
        super().__init__()
        self.manifold = manifold
        probe = manifold.features(torch.zeros(1, manifold.ambient))
        self.net = MLP(probe.shape[-1], hidden=hidden, depth=depth)

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """A tangent vector at each point, ``(batch, ambient)``."""
        values = self.net(self.manifold.features(x), t)[..., : self.manifold.ambient]
        return self.manifold.tangent(x, values)


Velocity = Callable[[Tensor, Tensor], Tensor]


def euler_step(manifold: Manifold, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Follow the geodesic with the velocity at (x, t) for the time s - t: order 1."""
    return manifold.exp(x, (s - t) * velocity(x, t))


def midpoint_step(
    manifold: Manifold, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor
) -> Tensor:
    """The midpoint rule in coordinates, then the nearest point: order 2 (`prp-projected-solver`).

    The velocity is asked on the manifold only: the half step is projected before it.
    """
    h = s - t
    half = manifold.project(x + 0.5 * h * velocity(x, t))
    return manifold.project(x + h * velocity(half, t + 0.5 * h))


def solve(
    manifold: Manifold,
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    step: Callable[..., Tensor] = midpoint_step,
    trajectory: bool = False,
) -> Tensor:
    """Follow a tangent velocity along a grid of times; every state lies on the manifold.

    Args:
        manifold: where the points lie.
        velocity: maps ``(batch, ambient)`` and a time to tangent vectors.
        x: ``(batch, ambient)``, the states at ``times[0]``.
        times: ``(n + 1,)``, strictly increasing or strictly decreasing.
        step: `euler_step` or `midpoint_step`.
        trajectory: return the states at all times instead of the last one.

    Returns:
        ``(batch, ambient)``, or ``(n + 1, batch, ambient)`` with `trajectory`.

    Raises:
        ValueError: x does not lie on the manifold, or the times are not strictly monotone.
    """
    manifold.check(x)
    gaps = times.diff()
    if times.ndim != 1 or len(times) < 2 or not bool((gaps > 0).all() | (gaps < 0).all()):
        raise ValueError(
            f"times has shape {tuple(times.shape)}: pass a 1-D tensor of at least two times that "
            "strictly increase or strictly decrease."
        )
    states = [x] if trajectory else None
    for t, s in zip(times[:-1].to(x), times[1:].to(x), strict=True):
        x = step(manifold, velocity, x, t, s)
        if states is not None:
            states.append(x)
    return torch.stack(states) if states is not None else x


def divergence(manifold: Manifold, velocity: Velocity, x: Tensor, t: Tensor) -> Tensor:
    """The divergence on the manifold, ``(batch,)`` (`prp-sphere-divergence`).

    The trace of the Jacobian of the velocity, extended off the manifold by its value at the
    nearest point: constant along the normal, so that the normal adds nothing to the trace.

    Args:
        manifold: where the points lie.
        velocity: maps ``(batch, ambient)`` and a time to tangent vectors; rows do not interact.
        x: ``(batch, ambient)``.
        t: one time.
    """

    def extended(y: Tensor) -> Tensor:
        return velocity(manifold.project(y), t).sum(0)

    jacobian = torch.autograd.functional.jacobian(extended, x)  # (ambient, batch, ambient)
    return torch.einsum("ibi->b", jacobian)


def log_likelihood(
    manifold: Manifold,
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    base_log_prob: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """log p_1(x) of the flow from a base law at t = 0, ``(batch,)`` (`prp-manifold-density`).

    Runs the flow back from t = 1 to 0 by the midpoint rule and adds up minus the divergence at the
    same midpoints.

    Args:
        manifold: where the points lie.
        velocity: of the flow.
        x: ``(batch, ambient)``, points at t = 1.
        times: ``(n + 1,)``, strictly decreasing from 1 to 0.
        base_log_prob: of the base law; the uniform one unless given.

    Raises:
        ValueError: x does not lie on the manifold.
    """
    manifold.check(x)
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for t, s in zip(times[:-1].to(x), times[1:].to(x), strict=True):
        h = s - t
        half = manifold.project(x + 0.5 * h * velocity(x, t))
        total = total + h * divergence(manifold, velocity, half, t + 0.5 * h)
        x = manifold.project(x + h * velocity(half, t + 0.5 * h))
    base = -manifold.log_volume if base_log_prob is None else base_log_prob(x)
    return base + total
