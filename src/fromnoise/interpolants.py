"""Stochastic interpolants: source, data and a latent noise, mixed by three functions of time.

I_t = alpha_t X_1 + beta_t X_0 + gamma_t z with z standard normal, independent of the pair. alpha
belongs to the data, as everywhere in this book; Albergo, Boffi and Vanden-Eijnden write alpha for
the factor of x_0 and beta for that of x_1. A Gaussian path is the case gamma = 0 with normal X_0.

Two regressions give everything that a sampler needs (`prp-interpolant-fields`): the velocity
b = E[I'_t | I_t] and the latent denoiser eta = E[z | I_t], with score -eta / gamma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fromnoise._shapes import as_time, check_same_shape
from fromnoise.couplings import Coupling, independent
from fromnoise.paths import GaussianPath
from fromnoise.processes import ODE, SDE
from fromnoise.schedules import Schedule
from fromnoise.targets import Net, squared_error
from fromnoise.time_samplers import TimeSampler, UniformTimes

Scalar = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Latent:
    """gamma_t = scale sqrt(2 t (1 - t)): a Brownian bridge's spread, 0 at both ends.

    gamma gamma' = scale² (1 - 2 t) is finite everywhere, though gamma' is infinite at the ends;
    scale 0 means no latent noise. With scale = g / sqrt(2) it is the spread of a Brownian bridge of
    diffusion g.

    Raises:
        ValueError: scale is negative or not finite.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the scale."""
        if not 0.0 <= self.scale < math.inf:
            raise ValueError(f"scale={self.scale} must be finite and not negative.")

    def gamma(self, t: Tensor) -> Tensor:
        """The factor of the latent noise."""
        return self.scale * (2.0 * t * (1.0 - t)).clamp(min=0.0).sqrt()

    def d_gamma(self, t: Tensor) -> Tensor:
        """Its derivative; infinite at 0 and 1 unless the scale is 0."""
        if self.scale == 0.0:
            return torch.zeros_like(t)
        return self.scale * (1.0 - 2.0 * t) / (2.0 * t * (1.0 - t)).sqrt()


@dataclass(frozen=True)
class InterpolantSample:
    """One draw of an interpolant, with everything it was made of.

    Attributes:
        t: ``()`` or ``(batch, 1, ..., 1)``, the times.
        x: ``(batch, *event)``, I_t.
        data: ``(batch, *event)``, X_1.
        source: ``(batch, *event)``, X_0.
        latent: ``(batch, *event)``, z.
        velocity: ``(batch, *event)``, alpha' X_1 + beta' X_0 + gamma' z; not finite where gamma' is
            not.
    """

    t: Tensor
    x: Tensor
    data: Tensor
    source: Tensor
    latent: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Interpolant:
    """I_t = alpha_t X_1 + beta_t X_0 + gamma_t z (`def-stochastic-interpolant`).

    alpha and beta are those of a schedule (its sigma is beta), so that SiT's linear and GVP
    interpolants are ``Interpolant(CondOT())`` and ``Interpolant(Cosine())`` (Ma et al. 2024).

    Attributes:
        schedule: alpha, and beta in the place of sigma.
        noise: gamma; none unless given.
    """

    schedule: Schedule
    noise: Latent = field(default_factory=lambda: Latent(0.0))

    def sample(
        self,
        source: Tensor,
        data: Tensor,
        t: float | Tensor,
        latent: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> InterpolantSample:
        """Draw I_t given a pair.

        Args:
            source: ``(batch, *event)``, X_0.
            data: ``(batch, *event)``, X_1.
            t: a number or ``(batch,)``, in [0, 1].
            latent: ``(batch, *event)``, z; drawn if not given.
            generator: source of that randomness.

        Raises:
            ValueError: t lies outside [0, 1], or shapes differ.
        """
        path = GaussianPath(self.schedule)
        pair = path.sample(data, t, noise=source)
        if latent is None:
            latent = torch.randn(
                data.shape, generator=generator, dtype=data.dtype, device=data.device
            )
        check_same_shape(latent, data, "latent", "data")
        x = pair.x + self.noise.gamma(pair.t) * latent
        velocity = pair.velocity + self.noise.d_gamma(pair.t) * latent
        return InterpolantSample(pair.t, x, data, source, latent, velocity)


@dataclass(frozen=True)
class InterpolantRegression:
    """Regress the velocity, E|f - I'_t|², or the latent noise, E|f - z|².

    The minimizers are b = E[I'_t | I_t] and eta = E[z | I_t] (`prp-interpolant-fields`).

    Attributes:
        interpolant: what mixes source, data and latent noise.
        kind: "velocity" or "latent".
        coupling: draws the pairs ``(source, data)``; independent normal noise unless said.
        times: draws the times; must not reach an end where gamma' is infinite.

    Raises:
        ValueError: the kind is unknown; or it is the velocity, there is latent noise, and the times
            reach 0 or 1; or it is the latent noise and there is none.
    """

    interpolant: Interpolant
    kind: Literal["velocity", "latent"] = "velocity"
    coupling: Coupling = independent
    times: TimeSampler = field(default_factory=lambda: UniformTimes(t_min=1e-3, t_max=1 - 1e-3))

    def __post_init__(self) -> None:
        """Check that the target exists and is finite."""
        scale = self.interpolant.noise.scale
        if self.kind not in ("velocity", "latent"):
            raise ValueError(f"kind is {self.kind!r}: it must be 'velocity' or 'latent'.")
        if self.kind == "latent" and scale == 0.0:
            raise ValueError("kind='latent', but gamma = 0: there is no latent noise to predict.")
        inside = self.times.t_min > 0.0 and self.times.t_max < 1.0
        if self.kind == "velocity" and scale > 0.0 and not inside:
            raise ValueError(
                f"times reach from {self.times.t_min} to {self.times.t_max}, but gamma' is "
                "infinite at 0 and 1: choose UniformTimes(t_min=1e-3, t_max=1 - 1e-3), say."
            )

    def draw(self, data: Tensor, generator: torch.Generator | None = None) -> InterpolantSample:
        """Pairs, times, latent noise and points for a batch ``(batch, *event)``."""
        source, data = self.coupling(data, generator)
        t = self.times.sample(len(data), generator, dtype=data.dtype, device=data.device)
        return self.interpolant.sample(source, data, t, generator=generator)

    def loss(self, net: Net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The squared error, averaged over the batch and the coordinates.

        Raises:
            ValueError: ``net`` returns another shape than it was given.
        """
        sample = self.draw(data, generator)
        target = sample.velocity if self.kind == "velocity" else sample.latent
        return squared_error(net, sample.x, sample.t, target)


def interpolant_flow(velocity: Net) -> ODE:
    """``dX = b_t(X) dt``: carries the law of I_s to that of I_t (`prp-interpolant-fields`)."""
    return ODE(velocity)


def interpolant_sde(velocity: Net, latent: Net, interpolant: Interpolant, g: float | Scalar) -> SDE:
    """``dX = (b - (g² / 2) eta / gamma) dt + g dW``: the same marginals for every g >= 0.

    `prp-interpolant-sde`; the score is -eta / gamma.

    Args:
        velocity: b, maps ``x: (batch, *event)`` and t to ``(batch, *event)``.
        latent: eta, maps the same.
        interpolant: gamma is its.
        g: a number, or a function of t.

    Raises:
        ValueError: when the drift is evaluated where gamma = 0.
    """

    def g_at(x: Tensor, t: Tensor) -> Tensor:
        return torch.as_tensor(g(t) if callable(g) else g, dtype=x.dtype, device=x.device)

    def drift(x: Tensor, t: Tensor) -> Tensor:
        time = as_time(t, x)
        gamma = interpolant.noise.gamma(time)
        if not bool((gamma > 0.0).all()):
            raise ValueError(
                f"t: gamma = 0 at t = {time.flatten()[0].item():.6g}, where the latent noise says "
                "nothing about the score: keep the times away from 0 and 1."
            )
        return velocity(x, t) - 0.5 * g_at(x, t) ** 2 * latent(x, t) / gamma

    return SDE(drift, lambda x, t: g_at(x, t), additive=True)
