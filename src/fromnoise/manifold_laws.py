"""Laws on the sphere and the torus whose densities are known exactly, and paths of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.manifolds import TWO_PI, FlatTorus, Sphere


def wrapped_normal_log_prob(angle: Tensor, std: Tensor) -> Tensor:
    """log-density of a normal angle of mean 0, modulo 2 pi (`prp-wrapped-normal`).

    The sum over the windings where the law is narrow (std < 2), the Fourier series where it is
    wide; either way the first term left out is below 1e-17.

    Args:
        angle: any shape, in [-pi, pi).
        std: positive, broadcasts against it.

    Raises:
        ValueError: std is not positive.
    """
    angle, std = torch.broadcast_tensors(angle, torch.as_tensor(std).to(angle))
    if not bool((std > 0).all()):
        raise ValueError(f"std must be positive, but its smallest value is {std.min().item():.4g}.")
    k = torch.arange(-4, 5, dtype=angle.dtype, device=angle.device)
    turned = (angle[..., None] + TWO_PI * k) / std[..., None]
    narrow = torch.logsumexp(-0.5 * turned.square(), -1) - std.log() - 0.5 * math.log(TWO_PI)
    m = torch.arange(1, 8, dtype=angle.dtype, device=angle.device)
    wave = torch.exp(-0.5 * (m * std[..., None].clamp(min=2.0)).square())
    series = 1.0 + 2.0 * (wave * torch.cos(m * angle[..., None])).sum(-1)
    return torch.where(std < 2.0, narrow, series.log() - math.log(TWO_PI))


@dataclass(frozen=True, eq=False)
class WrappedMixture:
    """A mixture of wrapped normal laws with independent angles on the flat torus.

    Attributes:
        weights: ``(k,)``, positive; they are normalized.
        means: ``(k, d)``, angles.
        stds: ``(k, d)``, of the normal laws before they are wrapped.

    Raises:
        ValueError: the shapes do not fit, or a weight or std is not positive.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.means.ndim != 2 or self.stds.shape != self.means.shape:
            raise ValueError(
                f"means has shape {tuple(self.means.shape)} and stds {tuple(self.stds.shape)}: "
                "both must be (k, d)."
            )
        if self.weights.shape != self.means.shape[:1] or not bool((self.weights > 0).all()):
            raise ValueError(f"weights must be positive, one for each of {len(self.means)} means.")

    @property
    def manifold(self) -> FlatTorus:
        """Where it lives."""
        return FlatTorus(self.means.shape[1])

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points, ``(n, d)``."""
        row = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.manifold.project(self.means[row] + self.stds[row] * noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """log-density at x, ``(batch, d)`` to ``(batch,)``."""
        means, stds, weights = (v.to(x) for v in (self.means, self.stds, self.weights))
        angle = self.manifold.project(x[:, None] - means)
        parts = wrapped_normal_log_prob(angle, stds).sum(-1)
        return torch.logsumexp(parts + torch.log(weights / weights.sum()), -1)


@dataclass(frozen=True, eq=False)
class VonMisesFisherMixture:
    """A mixture of von Mises-Fisher laws on the sphere of R^3.

    A component has the density kappa / (4 pi sinh kappa) exp(kappa <mean, x>) (`prp-vmf`).

    Attributes:
        weights: ``(k,)``, positive; they are normalized.
        means: ``(k, 3)``, unit vectors.
        kappas: ``(k,)``, concentrations, positive.

    Raises:
        ValueError: the shapes do not fit, a mean is no unit vector, or a number is not positive.
    """

    weights: Tensor
    means: Tensor
    kappas: Tensor

    def __post_init__(self) -> None:
        """Check shapes and signs."""
        Sphere(2).check(self.means, "means")
        if not self.weights.shape == self.kappas.shape == self.means.shape[:1]:
            raise ValueError(
                f"weights has shape {tuple(self.weights.shape)} and kappas "
                f"{tuple(self.kappas.shape)}: pass one of each for {len(self.means)} means."
            )
        if not bool((self.weights > 0).all()) or not bool((self.kappas > 0).all()):
            raise ValueError("weights and kappas must be positive.")

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points, ``(n, 3)``: the height along the mean by the inverse of its distribution."""
        row = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        mean, kappa = self.means[row], self.kappas[row]
        u = torch.rand(n, generator=generator, dtype=mean.dtype)
        # <mean, x> has a density in proportion to exp(kappa w) on [-1, 1]
        w = 1.0 + torch.log(u + (1.0 - u) * torch.exp(-2.0 * kappa)) / kappa
        side = Sphere(2).tangent(mean, torch.randn(n, 3, generator=generator, dtype=mean.dtype))
        side = Sphere(2).project(side)
        w = w.clamp(-1.0, 1.0)[:, None]
        return Sphere(2).project(w * mean + torch.sqrt(1.0 - w**2) * side)

    def log_prob(self, x: Tensor) -> Tensor:
        """log-density at x, ``(batch, 3)`` to ``(batch,)``."""
        means, kappas, weights = (v.to(x) for v in (self.means, self.kappas, self.weights))
        # log(kappa / (4 pi sinh kappa)) = log kappa - kappa - log(2 pi (1 - exp(-2 kappa)))
        constant = kappas.log() - kappas - torch.log(TWO_PI * -torch.expm1(-2.0 * kappas))
        parts = constant + kappas * (x @ means.T)
        return torch.logsumexp(parts + torch.log(weights / weights.sum()), -1)


def sphere_path_density(angle: Tensor, t: float) -> Tensor:
    """Density of X_t given X_1 on the sphere of R^3, for a uniform source (`prp-sphere-path`).

    sin(theta / (1 - t)) / (4 pi (1 - t) sin theta) for theta < (1 - t) pi, and 0 beyond.

    Args:
        angle: theta, the distance to X_1, in [0, pi].
        t: in [0, 1).

    Raises:
        ValueError: t lies outside [0, 1).
    """
    if not 0.0 <= t < 1.0:
        raise ValueError(f"t must lie in [0, 1): at t = 1 the law is a point, but t is {t}.")
    left = 1.0 - t
    inside = angle < left * math.pi
    # sin(theta / left) / (left sin theta), whose limit at theta = 0 is 1 / left^2
    ratio = torch.sinc(angle / (left * math.pi)) / torch.sinc(angle / math.pi) / left**2
    return torch.where(inside, ratio, torch.zeros_like(ratio)) / (4.0 * math.pi)


@dataclass(frozen=True, eq=False)
class TorusPath:
    """The marginal path from the uniform law to a wrapped mixture, in closed form.

    X_t = X_1 + (1 - t) U, modulo 2 pi, with U uniform on [-pi, pi)^d and independent of X_1
    (`prp-torus-path`): so density and velocity are sums of normal distribution functions.

    Attributes:
        law: the law of X_1.
    """

    law: WrappedMixture

    def _parts(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """For each component and angle: log of its density at x, and the mean of U given both.

        ``(batch, k, d)`` each. Logarithms, since a density in the tail is too small for a number
        long before the mean of U, a quotient of two such, means nothing.
        """
        if not 0.0 <= t < 1.0:
            raise ValueError(
                f"t must lie in [0, 1), but it is {t}: at t = 1 use the density of the law itself."
            )
        left = 1.0 - t
        means, std = self.law.means.to(x), self.law.stds.to(x)[..., None]
        # windings up to nine standard deviations beyond the window, which is a turn wide at most
        turns = math.ceil(9.0 * self.law.stds.max().item() / TWO_PI) + 1
        k = torch.arange(-turns, turns + 1, dtype=x.dtype, device=x.device)
        # X_1 + left U = x + 2 pi k with X_1 normal before it is wrapped. By symmetry place >= 0
        place = self.law.manifold.project(x[:, None] - means)[..., None] + TWO_PI * k
        side = torch.where(place < 0, -1.0, 1.0).to(x)
        place = place * side
        near, far = (place - left * math.pi) / std, (place + left * math.pi) / std
        # log of P(near < N < far) = P(N > near) - P(N > far); log_ndtr is exact in the tail
        tail = torch.special.log_ndtr(-near)
        beyond = torch.special.log_ndtr(-far) - tail
        mass = tail + torch.log(-torch.expm1(beyond))
        # E[N | near < N < far] is the difference of the bells over the mass. A bell over the tail
        # beyond it by erfcx, in which the two exponentials cancel before they underflow
        bell = math.sqrt(2.0 / math.pi) / torch.special.erfcx(near / math.sqrt(2.0))
        mean = bell * torch.expm1(0.5 * (near.square() - far.square())) / torch.expm1(beyond)
        mean_u = side * (place - std * mean) / left  # of U = (place - X_1) / left
        log_density = torch.logsumexp(mass, -1)
        share = torch.exp(mass - log_density[..., None])
        return log_density - math.log(TWO_PI * left), (share * mean_u).sum(-1)

    def _log_joint(self, log_density: Tensor) -> Tensor:
        """log of weight times density of each component, ``(batch, k)``."""
        weights = self.law.weights.to(log_density)
        return log_density.sum(-1) + torch.log(weights / weights.sum())

    def log_prob(self, x: Tensor, t: float) -> Tensor:
        """log p_t(x), ``(batch, d)`` to ``(batch,)``.

        Raises:
            ValueError: t lies outside [0, 1).
        """
        return torch.logsumexp(self._log_joint(self._parts(x, t)[0]), -1)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """u_t(x) = -E[U | X_t = x], ``(batch, d)``.

        Raises:
            ValueError: t lies outside [0, 1).
        """
        log_density, mean_u = self._parts(x, float(t))
        posterior = torch.softmax(self._log_joint(log_density), -1)
        return -(posterior[..., None] * mean_u).sum(1)


@dataclass(frozen=True, eq=False)
class CirclePoints:
    """The path from the uniform law on the circle to finitely many angles, exactly.

    At time t a datum is possible at x if it is closer than (1 - t) pi, and the possible ones keep
    their weights: there is no density that fades. So the velocity jumps where a datum drops out,
    and trajectories are broken lines (`prp-cut-locus`).

    Attributes:
        data: ``(k,)``, different angles in [-pi, pi).
        weights: ``(k,)``, positive; they are normalized.

    Raises:
        ValueError: the shapes differ, a weight is not positive, or data are no such angles.
    """

    data: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        """Check angles and weights."""
        if self.data.ndim != 1 or self.data.shape != self.weights.shape:
            raise ValueError(
                f"data has shape {tuple(self.data.shape)} and weights "
                f"{tuple(self.weights.shape)}: both must be (k,)."
            )
        FlatTorus(1).check(self.data[:, None], "data")
        if len(self.data.unique()) < len(self.data):
            raise ValueError(
                "data must be different: give a repeated angle the sum of its weights."
            )
        if not bool((self.weights > 0).all()):
            raise ValueError("weights must be positive: leave out angles that have none.")

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """u_t(x), ``(n, 1)`` as a tangent vector; 0 where the path has no mass; t in [0, 1)."""
        gap = FlatTorus(1).log(x, self.data)  # (n, k)
        possible = (gap.abs() < (1.0 - t) * math.pi) * self.weights
        total = possible.sum(-1, keepdim=True)
        mean = (possible * gap).sum(-1, keepdim=True) / torch.where(total > 0, total, 1.0)
        return mean / (1.0 - t)

    def trajectory(self, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The flow's broken lines from ``start``, ``(n,)``, without any time step.

        Between two losses a point runs straight towards the mean of the data that are possible,
        each unrolled to the side on which it lies from the start.

        Returns:
            times: ``(k + 1, n)``, 0, when each datum but one is lost, and 1.
            places: ``(k + 1, n)``, unrolled angles at these times: start, corners, end.
            index: ``(n,)``, which datum is reached.
        """
        side = start[:, None] + FlatTorus(1).log(start[:, None, None], self.data[:, None])[..., 0]
        possible = torch.ones_like(side, dtype=torch.bool)
        weights = self.weights / self.weights.sum()
        x, t = start, torch.zeros_like(start)
        times, places = [t], [x]
        for _ in range(len(self.data) - 1):
            w = possible * weights
            mean = (w * side).sum(-1) / w.sum(-1)
            # x - mean shrinks like 1 - t, so the distance to datum i equals (1 - t) pi when
            # 1 - t = |side_i - mean| / (pi +- slope); the sign is that of side_i - mean
            slope = (x - mean) / (1.0 - t)
            off = side - mean[:, None]
            left = off.abs() / (math.pi + torch.sign(off) * slope[:, None])
            left = torch.where(possible, left, -torch.ones_like(left))
            lost = left.argmax(-1, keepdim=True)
            left = left.gather(-1, lost)[:, 0]
            possible = possible.scatter(-1, lost, False)
            x, t = mean + slope * left, 1.0 - left
            times.append(t)
            places.append(x)
        index = possible.long().argmax(-1)
        end = side.gather(-1, index[:, None])[:, 0]
        return (
            torch.stack([*times, torch.ones_like(start)]),
            torch.stack([*places, end]),
            index,
        )
