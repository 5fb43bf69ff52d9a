"""Gaussian probability paths: how noise becomes data, X_t = alpha_t X_1 + sigma_t eps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise._shapes import as_time, check_same_shape, sum_event
from fromnoise.distributions import GaussianMixture
from fromnoise.schedules import Schedule


def require_finite(value: Tensor, t: Tensor, what: str, schedule: Schedule) -> Tensor:
    """Return `value` if it is finite at every time; else say at which time `what` is not.

    Raises:
        ValueError: `value` is infinite or undefined at one of the times.
    """
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        raise ValueError(
            f"t: {what} is not finite at t = {t.expand_as(bad)[bad].flatten()[0].item():.6g} under "
            f"{schedule.name}: keep the times away from that end point."
        )
    return value


@dataclass(frozen=True, eq=False)
class PathSample:
    """One draw from a Gaussian path, with everything it was made of.

    Attributes:
        t: ``()`` or ``(batch, 1, ..., 1)``, the times.
        x: ``(batch, *event)``, the point alpha_t data + sigma_t noise.
        data: ``(batch, *event)``, X_1.
        noise: ``(batch, *event)``, eps.
        schedule: alpha and sigma.
    """

    t: Tensor
    x: Tensor
    data: Tensor
    noise: Tensor
    schedule: Schedule

    @property
    def velocity(self) -> Tensor:
        """The velocity of this path, alpha'_t data + sigma'_t noise, ``(batch, *event)``.

        Raises:
            ValueError: sigma' is infinite at one of the times (VP at t = 1).
        """
        d_sigma = require_finite(self.schedule.d_sigma(self.t), self.t, "sigma'", self.schedule)
        return self.schedule.d_alpha(self.t) * self.data + d_sigma * self.noise


@dataclass(frozen=True)
class GaussianPath:
    """The conditional path p_t(. | data) = N(alpha_t data, sigma_t^2 I) (`def-gaussian-path`).

    Args:
        schedule: alpha and sigma.
    """

    schedule: Schedule

    def sample(
        self,
        data: Tensor,
        t: float | Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> PathSample:
        """Draw X_t given the data.

        Args:
            data: ``(batch, *event)``.
            t: a number or ``(batch,)``, in [0, 1].
            noise: ``(batch, *event)``; drawn from N(0, I) if not given.
            generator: source of that randomness, on the device of the data.

        Raises:
            ValueError: t lies outside [0, 1], or the noise has another shape than the data.
        """
        t = as_time(t, data)
        if noise is None:
            noise = torch.randn(
                data.shape, generator=generator, dtype=data.dtype, device=data.device
            )
        check_same_shape(noise, data, "noise", "data")
        x = self.schedule.alpha(t) * data + self.schedule.sigma(t) * noise
        return PathSample(t, x, data, noise, self.schedule)

    def _given(self, x: Tensor, t: float | Tensor, data: Tensor):
        check_same_shape(x, data, "x", "data")
        t = as_time(t, x)
        sigma = self.schedule.sigma(t)
        if not bool((sigma > 0).all()):
            raise ValueError(
                f"t: sigma_t = 0 at t = {t[sigma <= 0].flatten()[0].item():.6g} under "
                f"{self.schedule.name}, where the conditional law is a point: stop before it."
            )
        return t, self.schedule.alpha(t), sigma

    def conditional_velocity(self, x: Tensor, t: float | Tensor, data: Tensor) -> Tensor:
        """u_t(x | data) = (sigma' / sigma)(x - alpha data) + alpha' data, ``(batch, *event)``.

        `prp-conditional-velocity`; Lipman et al. 2023, Theorem 3.

        Raises:
            ValueError: shapes differ, t lies outside [0, 1], or sigma_t = 0.
        """
        t, alpha, sigma = self._given(x, t, data)
        rate = self.schedule.d_sigma(t) / sigma
        return rate * (x - alpha * data) + self.schedule.d_alpha(t) * data

    def conditional_score(self, x: Tensor, t: float | Tensor, data: Tensor) -> Tensor:
        """Gradient of log p_t(x | data), (alpha data - x) / sigma^2, ``(batch, *event)``.

        Raises:
            ValueError: shapes differ, t lies outside [0, 1], or sigma_t = 0.
        """
        _, alpha, sigma = self._given(x, t, data)
        return (alpha * data - x) / sigma**2

    def conditional_log_prob(self, x: Tensor, t: float | Tensor, data: Tensor) -> Tensor:
        """log N(x; alpha_t data, sigma_t^2 I), ``(batch,)``.

        Raises:
            ValueError: shapes differ, t lies outside [0, 1], or sigma_t = 0.
        """
        _, alpha, sigma = self._given(x, t, data)
        density = -0.5 * ((x - alpha * data) / sigma) ** 2 - torch.log(sigma)
        return sum_event(density - 0.5 * math.log(2.0 * math.pi))

    def marginal(self, law: GaussianMixture, t: float) -> GaussianMixture:
        """The law p_t of X_t when X_1 follows the mixture, at one time (`prp-mixture-marginal`).

        Raises:
            ValueError: t lies outside [0, 1].
        """
        return law.marginal(*self.scales(t))

    def scales(self, t: float) -> tuple[float, float]:
        """The numbers (alpha_t, sigma_t) at one time, computed in double precision."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return self.schedule.alpha(t).item(), self.schedule.sigma(t).item()


def change_of_schedule(
    t: float | Tensor, source: Schedule, target: Schedule
) -> tuple[Tensor, Tensor]:
    """Write the path of one schedule as the path of another (`thm-reparameterization`).

    The pair (r, c) returned satisfies alpha_target(t) = c alpha_source(r) and
    sigma_target(t) = c sigma_source(r): in law, the target's X_t is c times the source's X_r.
    r has the same half log-SNR as t, and c is a ratio of root mean squares, which is defined at the
    end points too.

    Args:
        t: times in the target schedule, in [0, 1].
        source: the schedule to express the target by.
        target: the schedule whose times are given.

    Returns:
        The times in the source schedule and the scales, each of the shape of `t`.

    Raises:
        ValueError: the source never reaches the signal-to-noise ratio of one of the times.
    """
    r = source.inverse_half_log_snr(target.half_log_snr(t))
    scale = torch.hypot(target.alpha(t), target.sigma(t)) / torch.hypot(
        source.alpha(r), source.sigma(r)
    )
    return r, scale
