"""Loss weights: how much the squared error at each noise level counts.

The reference is the *data* prediction: a weight w(lambda), a function of the half log-SNR lambda,
stands for the loss ``w(lambda) |D_θ - X_1|^2``, as in most papers. Two predictions made at the same
point x both satisfy ``x = alpha D + sigma eps`` (`prp-affine-facts`), so their errors satisfy
``0 = alpha e_D + sigma e_eps``: all errors are multiples of one r,

    e_D = -sigma r,   e_eps = alpha r,   and for a D + b eps:   e = (b alpha - a sigma) r.

The same loss therefore has another weight in front of another prediction's error. For the noise it
is ``w(lambda) exp(-2 lambda)``, that is w / SNR; `error_ratio` has all pairs. Both forms are
written out in each class (`of_data`, `of_noise`), because the quotient is 0/0 at an end point where
the result is finite: there, a network that predicts noise and one that predicts data must be served
alike.

Weights depend on alpha and sigma only through SNR = alpha^2 / sigma^2 = exp(2 lambda), so they mean
the same on every schedule; papers whose lambda is the *full* log-SNR are translated here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fromnoise.predictions import Kind, coefficients
from fromnoise.schedules import Schedule


def _require_positive(value: float, name: str) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, but it is {value}.")


def error_ratio(of: Kind, kind: Kind, t: Tensor, schedule: Schedule) -> Tensor:
    """The number c with (error of `of`) = c (error of `kind`), at the same point and time.

    With the pairs (c, d) of `of` and (a, b) of `kind` it is ``(d alpha - c sigma) / (b alpha - a
    sigma)``, the ratio of the two multiples of r above. A weight w of the error of `of` is the
    weight c^2 w of the error of `kind`.

    Args:
        of: the prediction whose error is wanted.
        kind: the prediction whose error is known.
        t: any shape, in [0, 1].
        schedule: the Gaussian path's schedule.

    Returns:
        The shape of `t`; not finite where `kind` does not determine `of` (the data from the noise
        where alpha = 0) or where `of` itself is infinite (the score where sigma = 0).

    Raises:
        ValueError: a kind is unknown, or t lies outside [0, 1].
    """
    a, b = coefficients(kind, t, schedule)
    c, d = coefficients(of, t, schedule)
    if of == kind:
        return torch.ones_like(a)
    if {of, kind} == {"noise", "score"}:
        return d / b  # alpha cancels; at alpha = 0 the quotient below would be 0/0
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return (d * alpha - c * sigma) / (b * alpha - a * sigma)


class Weighting(Protocol):
    """What a target needs of a weighting."""

    def weight(self, kind: Kind, t: Tensor, schedule: Schedule) -> Tensor:
        """The factor of the squared error of a prediction of `kind`, of the shape of `t`."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Weight 1 for the error of one kind of prediction, whichever kind the network predicts.

    ``Uniform("velocity")`` is the loss of flow matching, ``Uniform("noise")`` the simplified loss
    of DDPM (Ho et al. 2020) and, for a network that predicts the score, the weight sigma^2 of
    denoising score matching (Song & Ermon 2019): sigma^2 |s_θ + eps / sigma|^2 is the error of the
    noise.

    Attributes:
        of: the prediction whose error is to count equally at all times.
    """

    of: Kind

    def weight(self, kind: Kind, t: Tensor, schedule: Schedule) -> Tensor:
        """The square of `error_ratio`; exactly 1 if `kind` is `of`."""
        return error_ratio(self.of, kind, t, schedule).square()


class SNRWeighting(ABC):
    """A weighting that is a function of the half log-SNR alone: subclasses give its two forms."""

    @abstractmethod
    def of_data(self, half_log_snr: Tensor) -> Tensor:
        """w(lambda), the weight of the squared error of the data prediction."""

    @abstractmethod
    def of_noise(self, half_log_snr: Tensor) -> Tensor:
        """w(lambda) exp(-2 lambda), the same loss as a weight of the error of the noise."""

    def weight(self, kind: Kind, t: Tensor, schedule: Schedule) -> Tensor:
        """The factor of the squared error of a prediction of `kind`.

        Args:
            kind: what the network predicts.
            t: any shape, in [0, 1].
            schedule: the Gaussian path's schedule.

        Returns:
            The shape of `t`, at least 0; infinite where this weighting asks for infinitely much of
            this kind (`TruncatedSNR` for the noise at alpha = 0).

        Raises:
            ValueError: the kind is unknown, or t lies outside [0, 1].
        """
        half_log_snr = schedule.half_log_snr(t)
        from_data = self.of_data(half_log_snr) * error_ratio("data", kind, t, schedule).square()
        from_noise = self.of_noise(half_log_snr) * error_ratio("noise", kind, t, schedule).square()
        if kind == "data":
            return from_data
        if kind in ("noise", "score"):
            return from_noise
        # velocity and v: the form of the smaller of the two errors is finite up to the end point
        return torch.where(half_log_snr >= 0, from_noise, from_data)


@dataclass(frozen=True)
class SNR(SNRWeighting):
    """w = SNR, that is weight 1 for the noise: DDPM's simplified loss (Ho et al. 2020).

    The same as ``Uniform("noise")``; "SNR weighting" is its name where the data is predicted.
    """

    def of_data(self, half_log_snr: Tensor) -> Tensor:
        """exp(2 lambda)."""
        return torch.exp(2.0 * half_log_snr)

    def of_noise(self, half_log_snr: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(half_log_snr)


@dataclass(frozen=True)
class TruncatedSNR(SNRWeighting):
    """w = max(SNR, 1): the larger of the errors of data and noise (Salimans & Ho 2022, Section 4).

    Unlike `SNR` it does not forget the data prediction where there is next to no signal.
    """

    def of_data(self, half_log_snr: Tensor) -> Tensor:
        """max(exp(2 lambda), 1)."""
        return torch.exp(2.0 * half_log_snr).clamp(min=1.0)

    def of_noise(self, half_log_snr: Tensor) -> Tensor:
        """max(1, exp(-2 lambda))."""
        return torch.exp(-2.0 * half_log_snr).clamp(min=1.0)


@dataclass(frozen=True)
class MinSNR(SNRWeighting):
    """w = min(SNR, gamma): small noise levels do not drown the others (Hang et al. 2023).

    On a schedule with alpha^2 + sigma^2 = 1 the weight of v is min(SNR, gamma) / (SNR + 1).

    Attributes:
        gamma: where the SNR is cut, positive; 5 in the paper. As gamma grows this becomes `SNR`;
            divided by gamma it becomes ``Uniform("data")`` as gamma falls to 0.

    Raises:
        ValueError: gamma is not positive.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        """Check gamma."""
        _require_positive(self.gamma, "gamma")

    def of_data(self, half_log_snr: Tensor) -> Tensor:
        """min(exp(2 lambda), gamma)."""
        return torch.exp(2.0 * half_log_snr).clamp(max=self.gamma)

    def of_noise(self, half_log_snr: Tensor) -> Tensor:
        """min(1, gamma exp(-2 lambda))."""
        return (self.gamma * torch.exp(-2.0 * half_log_snr)).clamp(max=1.0)


@dataclass(frozen=True)
class EDM(SNRWeighting):
    """w = (s^2 + sigma_data^2) / (s sigma_data)^2 with s = sigma / alpha (Karras et al. 2022).

    In the half log-SNR it is 1 / sigma_data^2 + exp(2 lambda): ``Uniform("data")``, scaled, plus
    `SNR`. Behind EDM's preconditioning it is weight 1 for the output of the inner network.
    EDM's noise levels, log s normal with mean -1.2 and deviation 1.2, are on `CondOT` the times
    ``LogitNormalTimes(1.2, 1.2)`` of :mod:`fromnoise.time_samplers`.

    Attributes:
        sigma_data: standard deviation of a coordinate of the data, positive; 0.5 in the paper.

    Raises:
        ValueError: sigma_data is not positive.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        """Check sigma_data."""
        _require_positive(self.sigma_data, "sigma_data")

    def of_data(self, half_log_snr: Tensor) -> Tensor:
        """1 / sigma_data^2 + exp(2 lambda)."""
        return self.sigma_data**-2 + torch.exp(2.0 * half_log_snr)

    def of_noise(self, half_log_snr: Tensor) -> Tensor:
        """exp(-2 lambda) / sigma_data^2 + 1."""
        return self.sigma_data**-2 * torch.exp(-2.0 * half_log_snr) + 1.0


@dataclass(frozen=True)
class Sigmoid(SNRWeighting):
    """sigmoid(bias - log SNR) for the *noise*: fades out the smallest noise levels.

    Kingma & Gao 2023; Hoogeboom et al. 2024 (SiD2), whose loss for the data has the factor
    exp(bias) sigmoid(log SNR - bias). In both papers a weight counts per unit of log-SNR, not per
    unit of time: theirs is ``PerHalfLogSNR(Sigmoid(bias))``. `Sigmoid` alone leaves that measure to
    the time sampler.

    Attributes:
        bias: the log-SNR at which the weight is 1/2, finite; lower values move it to more noise.

    Raises:
        ValueError: bias is not finite.
    """

    bias: float = 0.0

    def __post_init__(self) -> None:
        """Check the bias."""
        if not math.isfinite(self.bias):
            raise ValueError(f"bias must be finite, but it is {self.bias}.")

    def of_data(self, half_log_snr: Tensor) -> Tensor:
        """exp(bias) sigmoid(2 lambda - bias)."""
        return math.exp(self.bias) * torch.sigmoid(2.0 * half_log_snr - self.bias)

    def of_noise(self, half_log_snr: Tensor) -> Tensor:
        """sigmoid(bias - 2 lambda)."""
        return torch.sigmoid(self.bias - 2.0 * half_log_snr)


@dataclass(frozen=True)
class PerHalfLogSNR:
    """Another weighting times d lambda / dt: it counts per unit of half log-SNR, not of time.

    With uniform times (or any, divided by their density) the loss is an integral over lambda, and
    the schedule matters through its two ends only. With `SNR` it is the diffusion term of the
    variational bound, (1/2) E[(d log SNR / dt) |eps_θ - eps|^2] (Kingma et al. 2021), because a
    half log-SNR changes half as fast as the log-SNR; with another weighting it is the weighted loss
    of Kingma & Gao 2023.

    The rate alpha' / alpha - sigma' / sigma is infinite where alpha or sigma vanishes: the time
    sampler needs t_min and t_max inside.

    Attributes:
        weighting: the weight per unit of half log-SNR.
    """

    weighting: Weighting

    def weight(self, kind: Kind, t: Tensor, schedule: Schedule) -> Tensor:
        """(d lambda / dt) times the weight of `weighting`."""
        rate = schedule.d_alpha(t) / schedule.alpha(t) - schedule.d_sigma(t) / schedule.sigma(t)
        return rate * self.weighting.weight(kind, t, schedule)
