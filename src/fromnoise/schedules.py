"""Schedules of Gaussian paths: alpha_t and sigma_t in ``X_t = alpha_t X_1 + sigma_t eps``.

Time runs from noise (t = 0) to data (t = 1). A schedule owns its derivatives and its half
log-SNR ``lambda_t = log(alpha_t / sigma_t)`` with the inverse of it (`def-schedule` in the book).
Every method takes a number or a tensor of times in [0, 1] and returns a tensor of its shape.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise._shapes import check_time


def _times(t: float | Tensor) -> Tensor:
    check_time(t)
    t = torch.as_tensor(t)
    return t if t.is_floating_point() else t.to(torch.get_default_dtype())


@dataclass(frozen=True)
class Schedule(ABC):
    """What every schedule offers (`def-schedule`). Subclasses give alpha, sigma, their derivatives.

    All methods raise ValueError for a time outside [0, 1].
    """

    @property
    def name(self) -> str:
        """The name of the class, for labels and records."""
        return type(self).__name__

    @abstractmethod
    def alpha(self, t: float | Tensor) -> Tensor:
        """Scale of the data, alpha_t, in [0, 1]."""

    @abstractmethod
    def sigma(self, t: float | Tensor) -> Tensor:
        """Scale of the noise, sigma_t, at least 0."""

    @abstractmethod
    def d_alpha(self, t: float | Tensor) -> Tensor:
        """Time derivative of alpha_t."""

    @abstractmethod
    def d_sigma(self, t: float | Tensor) -> Tensor:
        """Time derivative of sigma_t; minus infinity where the schedule has a vertical tangent."""

    def noising_g(self, t: float | Tensor) -> Tensor:
        """g_t with g^2 = 2 sigma^2 lambda', the noise of the linear SDE from data to noise.

        `prp-linear-noising`: with the drift ``-(alpha' / alpha) y`` in noising time it has the
        path's conditional laws. Infinite where alpha_t = 0. Computed as
        ``2 sigma (sigma alpha' / alpha - sigma')``, which is finite where sigma = 0 if sigma' is.
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        squared = 2.0 * sigma * (sigma * self.d_alpha(t) / alpha - self.d_sigma(t))
        return torch.sqrt(squared)

    def half_log_snr(self, t: float | Tensor) -> Tensor:
        """lambda_t = log(alpha_t / sigma_t); -inf where alpha_t = 0 and +inf where sigma_t = 0."""
        return torch.log(self.alpha(t)) - torch.log(self.sigma(t))

    @abstractmethod
    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """The time t in [0, 1] at which lambda_t has the given value.

        Raises:
            ValueError: the schedule never reaches that value.
        """

    def _reached(self, half_log_snr: float | Tensor) -> Tensor:
        """Check that lambda lies between lambda_0 and lambda_1, up to rounding."""
        value = torch.as_tensor(half_log_snr)
        if not value.is_floating_point():
            value = value.to(torch.get_default_dtype())
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        low, high = self.half_log_snr(ends).tolist()
        slack = 1e-5 * (1.0 + value.abs().clamp(max=100.0))  # a few roundings of float32
        if bool((torch.isnan(value) | (value < low - slack) | (value > high + slack)).any()):
            raise ValueError(
                f"half_log_snr must lie in [{low:.6g}, {high:.6g}], the range of {self.name}, but "
                f"its values span [{value.min().item():.6g}, {value.max().item():.6g}]: choose "
                "times of the other schedule at which this one has the same signal-to-noise ratio."
            )
        return value.clamp(low, high)


@dataclass(frozen=True)
class CondOT(Schedule):
    """alpha_t = t, sigma_t = 1 - t: straight conditional paths (`prp-schedules`).

    The path of Rectified Flow and, at sigma_min = 0, of Flow Matching (Lipman et al. 2023, Ex. II).
    """

    def alpha(self, t: float | Tensor) -> Tensor:
        """t."""
        return _times(t).clone()

    def sigma(self, t: float | Tensor) -> Tensor:
        """1 - t."""
        return 1.0 - _times(t)

    def d_alpha(self, t: float | Tensor) -> Tensor:
        """1."""
        return torch.ones_like(_times(t))

    def d_sigma(self, t: float | Tensor) -> Tensor:
        """-1."""
        return -torch.ones_like(_times(t))

    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """t = 1 / (1 + exp(-lambda))."""
        return torch.sigmoid(self._reached(half_log_snr))


@dataclass(frozen=True)
class NarrowCondOT(Schedule):
    """alpha_t = t, sigma_t = 1 - (1 - sigma_min) t: straight paths that end in a narrow Gaussian.

    The conditional path of Flow Matching as its authors state it (Lipman et al. 2023, Example II).
    At sigma_min = 0 it would be `CondOT`. X_1 is data plus noise of scale sigma_min, so that lambda
    is finite at t = 1.

    Attributes:
        sigma_min: sigma_1, in (0, 1).

    Raises:
        ValueError: not 0 < sigma_min < 1.
    """

    sigma_min: float

    def __post_init__(self) -> None:
        """Check the scale at the end."""
        if not 0.0 < self.sigma_min < 1.0:
            raise ValueError(
                f"sigma_min must lie in (0, 1), not {self.sigma_min}: at 0 the path is CondOT."
            )

    def alpha(self, t: float | Tensor) -> Tensor:
        """t."""
        return _times(t).clone()

    def sigma(self, t: float | Tensor) -> Tensor:
        """1 - (1 - sigma_min) t, computed as (1 - t) + sigma_min t: exactly sigma_min at t = 1."""
        t = _times(t)
        return (1.0 - t) + self.sigma_min * t

    def d_alpha(self, t: float | Tensor) -> Tensor:
        """1."""
        return torch.ones_like(_times(t))

    def d_sigma(self, t: float | Tensor) -> Tensor:
        """sigma_min - 1."""
        return torch.full_like(_times(t), self.sigma_min - 1.0)

    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """t = 1 / (1 - sigma_min + exp(-lambda))."""
        value = self._reached(half_log_snr)
        return (1.0 / (1.0 - self.sigma_min + torch.exp(-value))).clamp(0.0, 1.0)


@dataclass(frozen=True)
class LinearLogSNR(Schedule):
    """alpha_t^2 = 1 / (1 + exp(-2 lambda_t)), sigma_t^2 = 1 - alpha_t^2, with lambda_t a line in t.

    The variance-preserving schedule of Variational Diffusion Models in its simplest form (Kingma et
    al. 2021, Eq. 3 to 5): their gamma = -2 lambda runs from ``gamma_min`` at the data to
    ``gamma_max`` at the noise; by default -13.3 to 5, as in their public code. Neither end is
    standard: alpha_0 and sigma_1 are positive.

    Attributes:
        first: lambda at t = 0, the noise.
        last: lambda at t = 1, the data.

    Raises:
        ValueError: not first < last, or one of them is not finite.
    """

    first: float = -2.5
    last: float = 6.65

    def __post_init__(self) -> None:
        """Check that lambda increases."""
        if not -math.inf < self.first < self.last < math.inf:
            raise ValueError(
                f"first={self.first} must be below last={self.last} and both finite: lambda rises "
                "from the noise to the data."
            )

    def half_log_snr(self, t: float | Tensor) -> Tensor:
        """(1 - t) first + t last."""
        t = _times(t)
        return (1.0 - t) * self.first + t * self.last

    def alpha(self, t: float | Tensor) -> Tensor:
        """sqrt(sigmoid(2 lambda))."""
        return torch.sigmoid(2.0 * self.half_log_snr(t)).sqrt()

    def sigma(self, t: float | Tensor) -> Tensor:
        """sqrt(sigmoid(-2 lambda))."""
        return torch.sigmoid(-2.0 * self.half_log_snr(t)).sqrt()

    def d_alpha(self, t: float | Tensor) -> Tensor:
        """lambda' alpha sigma^2."""
        return (self.last - self.first) * self.alpha(t) * self.sigma(t) ** 2

    def d_sigma(self, t: float | Tensor) -> Tensor:
        """-lambda' alpha^2 sigma."""
        return -(self.last - self.first) * self.alpha(t) ** 2 * self.sigma(t)

    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """t = (lambda - first) / (last - first)."""
        value = self._reached(half_log_snr)
        return ((value - self.first) / (self.last - self.first)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha_t = sin(pi t / 2), sigma_t = cos(pi t / 2): the trigonometric path on the unit circle.

    `prp-schedules`.

    It preserves variance, alpha^2 + sigma^2 = 1, and moves at constant angular speed.
    """

    def alpha(self, t: float | Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return torch.sin(0.5 * math.pi * _times(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        """cos(pi t / 2), computed as sin(pi (1 - t) / 2) so that it is exactly 0 at t = 1."""
        return torch.sin(0.5 * math.pi * (1.0 - _times(t)))

    def d_alpha(self, t: float | Tensor) -> Tensor:
        """(pi / 2) sigma_t."""
        return 0.5 * math.pi * self.sigma(t)

    def d_sigma(self, t: float | Tensor) -> Tensor:
        """-(pi / 2) alpha_t."""
        return -0.5 * math.pi * self.alpha(t)

    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """t = (2 / pi) arctan(exp(lambda))."""
        return torch.atan(torch.exp(self._reached(half_log_snr))) * (2.0 / math.pi)


@dataclass(frozen=True)
class VP(Schedule):
    """The variance-preserving path with linear beta (Song et al. 2021, Eq. 32-33), time reversed.

    `prp-schedules`.

    With r = 1 - t the noising time, ``beta(r) = beta_min + r (beta_max - beta_min)`` and
    ``log alpha = -r^2 (beta_max - beta_min) / 4 - r beta_min / 2``, ``sigma = sqrt(1 - alpha^2)``.
    alpha_0 = exp(-(beta_max + beta_min) / 4) is small but not 0. Near the data sigma is like
    sqrt(beta_min r), so d_sigma(1) = -inf.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        """Check the range of the betas."""
        if not 0.0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min must be positive and at most beta_max, but beta_min={self.beta_min} and "
                f"beta_max={self.beta_max}."
            )

    def beta(self, t: float | Tensor) -> Tensor:
        """The rate of noising at noising time 1 - t."""
        return self.beta_min + (1.0 - _times(t)) * (self.beta_max - self.beta_min)

    def _log_alpha(self, t: float | Tensor) -> Tensor:
        r = 1.0 - _times(t)
        return -0.25 * r**2 * (self.beta_max - self.beta_min) - 0.5 * r * self.beta_min

    def alpha(self, t: float | Tensor) -> Tensor:
        """exp(-(1/2) int_0^{1-t} beta)."""
        return torch.exp(self._log_alpha(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        """sqrt(1 - alpha^2); expm1 keeps it accurate where alpha is close to 1."""
        return torch.sqrt(-torch.expm1(2.0 * self._log_alpha(t)))

    def d_alpha(self, t: float | Tensor) -> Tensor:
        """beta alpha / 2."""
        return 0.5 * self.beta(t) * self.alpha(t)

    def d_sigma(self, t: float | Tensor) -> Tensor:
        """-beta alpha^2 / (2 sigma), from differentiating sigma^2 = 1 - alpha^2."""
        return -0.5 * self.beta(t) * self.alpha(t) ** 2 / self.sigma(t)

    def noising_g(self, t: float | Tensor) -> Tensor:
        """sqrt(beta), at t = 1 too, where sigma' is infinite (Song et al. 2021, Eq. 11)."""
        return torch.sqrt(self.beta(t))

    def half_log_snr(self, t: float | Tensor) -> Tensor:
        """log alpha - (1/2) log(1 - alpha^2), without forming the quotient."""
        log_alpha = self._log_alpha(t)
        return log_alpha - 0.5 * torch.log(-torch.expm1(2.0 * log_alpha))

    def _time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        # -log alpha = a r^2 + b r; the root is written with the sum in the denominator, because
        # the textbook formula subtracts nearly equal numbers when r is small.
        a, b = 0.25 * (self.beta_max - self.beta_min), 0.5 * self.beta_min
        r = -2.0 * log_alpha / (b + torch.sqrt(b**2 - 4.0 * a * log_alpha))
        return (1.0 - r).clamp(0.0, 1.0)

    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """Solve alpha^2 = sigmoid(2 lambda) for the noising time, a quadratic equation."""
        value = self._reached(half_log_snr)
        return self._time_of_log_alpha(0.5 * torch.nn.functional.logsigmoid(2.0 * value))


@dataclass(frozen=True)
class SubVP(VP):
    """The sub-VP path (Song et al. 2021, Eq. 36, App. B): alpha as in `VP`, sigma = 1 - alpha^2.

    `prp-schedules`.

    Its variance is at most that of `VP` at every time; d_sigma(1) is finite, -beta_min.
    """

    def sigma(self, t: float | Tensor) -> Tensor:
        """1 - alpha^2."""
        return -torch.expm1(2.0 * self._log_alpha(t))

    def d_sigma(self, t: float | Tensor) -> Tensor:
        """-beta alpha^2."""
        return -self.beta(t) * self.alpha(t) ** 2

    def noising_g(self, t: float | Tensor) -> Tensor:
        """sqrt(beta (1 - alpha^4)) (`prp-linear-noising`; Song et al. 2021, Eq. 12)."""
        return torch.sqrt(-self.beta(t) * torch.expm1(4.0 * self._log_alpha(t)))

    def half_log_snr(self, t: float | Tensor) -> Tensor:
        """log alpha - log(1 - alpha^2)."""
        log_alpha = self._log_alpha(t)
        return log_alpha - torch.log(-torch.expm1(2.0 * log_alpha))

    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """alpha solves alpha^2 + alpha exp(-lambda) = 1: log alpha = -arcsinh(exp(-lambda) / 2)."""
        value = self._reached(half_log_snr)
        return self._time_of_log_alpha(-torch.asinh(0.5 * torch.exp(-value)))


@dataclass(frozen=True)
class VE(Schedule):
    """The variance-exploding path (Song et al. 2021, Eq. 30-31), time reversed: alpha = 1.

    `prp-schedules`.

    ``sigma_t = sigma_max (sigma_min / sigma_max)^t`` falls geometrically from sigma_max at t = 0 to
    sigma_min at t = 1: neither end is standard. X_0 is data plus noise of scale sigma_max, and X_1
    keeps noise of scale sigma_min.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        """Check the range of the scales."""
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min must be positive and below sigma_max, but sigma_min={self.sigma_min} "
                f"and sigma_max={self.sigma_max}."
            )

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_min / self.sigma_max)

    def alpha(self, t: float | Tensor) -> Tensor:
        """1."""
        return torch.ones_like(_times(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        """sigma_max (sigma_min / sigma_max)^t."""
        return self.sigma_max * torch.exp(_times(t) * self._log_ratio)

    def d_alpha(self, t: float | Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(_times(t))

    def d_sigma(self, t: float | Tensor) -> Tensor:
        """sigma_t log(sigma_min / sigma_max)."""
        return self.sigma(t) * self._log_ratio

    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """sigma = exp(-lambda), so t is affine in lambda."""
        value = self._reached(half_log_snr)
        return ((-value - math.log(self.sigma_max)) / self._log_ratio).clamp(0.0, 1.0)


@dataclass(frozen=True)
class EDM(Schedule):
    """EDM's noise levels in time (Karras et al. 2022, Eq. 5): alpha = 1, sigma_t a power of a line.

    ``sigma_t = ((1 - t) sigma_max^(1/rho) + t sigma_min^(1/rho))^rho``: N equidistant times from 0
    to 1 have the noise levels sigma_0, ..., sigma_{N-1} of EDM's N sampling steps. The last of
    these steps goes on to sigma = 0, which is not on this schedule. rho = 1 spaces sigma evenly and
    rho to infinity gives `VE`; between them, a larger rho makes the steps near the data shorter.

    In law X_t is X / alpha of any other schedule at the time of the same sigma / alpha
    (`thm-reparameterization`; `fromnoise.paths.change_of_schedule`): EDM's sigma is sigma / alpha.
    Neither end is standard: X_0 is data plus noise of scale sigma_max, and X_1 keeps noise of scale
    sigma_min.

    Attributes:
        sigma_min: sigma_1, positive; in the units of the data.
        sigma_max: sigma_0, above sigma_min.
        rho: positive; the paper has 7.

    Raises:
        ValueError: not 0 < sigma_min < sigma_max < inf, or `rho` is not positive and finite.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        """Check the range of the scales and the power."""
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                "sigma_min must be positive and below sigma_max, which is finite, but "
                f"sigma_min={self.sigma_min} and sigma_max={self.sigma_max}."
            )
        if not 0.0 < self.rho < math.inf:
            raise ValueError(f"rho must be positive and finite, not {self.rho}: the paper has 7.")

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_max ** (1.0 / self.rho), self.sigma_min ** (1.0 / self.rho)

    def _line(self, t: float | Tensor) -> Tensor:
        # A weighted mean rather than "first plus t times difference": at t = 1 it is the second end
        # without the rounding of the first, which the power would multiply by rho.
        t, (first, last) = _times(t), self._ends
        return (1.0 - t) * first + t * last

    def alpha(self, t: float | Tensor) -> Tensor:
        """1."""
        return torch.ones_like(_times(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        """((1 - t) sigma_max^(1/rho) + t sigma_min^(1/rho))^rho."""
        return self._line(t) ** self.rho

    def d_alpha(self, t: float | Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(_times(t))

    def d_sigma(self, t: float | Tensor) -> Tensor:
        """rho (sigma_min^(1/rho) - sigma_max^(1/rho)) sigma_t^(1 - 1/rho)."""
        first, last = self._ends
        return self.rho * (last - first) * self._line(t) ** (self.rho - 1.0)

    def half_log_snr(self, t: float | Tensor) -> Tensor:
        """-rho log((1 - t) sigma_max^(1/rho) + t sigma_min^(1/rho))."""
        return -self.rho * torch.log(self._line(t))

    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """sigma^(1/rho) = exp(-lambda / rho) is affine in t."""
        value, (first, last) = self._reached(half_log_snr), self._ends
        return ((first - torch.exp(-value / self.rho)) / (first - last)).clamp(0.0, 1.0)
