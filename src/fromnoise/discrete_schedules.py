"""Discrete schedules embedded in continuous time: DDPM's betas as a `Schedule`.

DDPM noises data in T steps, ``x_n = sqrt(1 - beta_n) x_{n-1} + sqrt(beta_n) noise``. Given the
data, the law after n of them is Gaussian with mean ``sqrt(alpha_bar_n) data`` and covariance
``(1 - alpha_bar_n) I``, where ``alpha_bar_n = (1 - beta_1) ... (1 - beta_n)`` (Ho et al. 2020).
`DiscreteVP` is the Gaussian path through these T + 1 laws; three functions give the betas of the
literature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fromnoise.schedules import Schedule, _times

F64 = torch.float64


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, not {steps!r}: DDPM has 1000.")


def _check_ends(first: float, last: float) -> None:
    if not (0.0 < first < 1.0 and 0.0 < last < 1.0):
        raise ValueError(
            f"first and last must lie strictly between 0 and 1, but first={first} and last={last}: "
            "beta is the share of the variance that a step replaces by noise."
        )


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Betas that grow linearly with n (Ho et al. 2020), ``(steps,)`` in float64.

    The betas of DDPM at the default values; "linear" in Diffusers. They do not become larger when
    `steps` is smaller: fewer steps end with more signal. (Nichol & Dhariwal's code keeps the end by
    multiplying `first` and `last` by 1000 / steps.)

    Args:
        steps: T, at least 1.
        first: beta_1, in (0, 1).
        last: beta_T, in (0, 1).

    Raises:
        ValueError: `steps` is no positive integer, or `first` or `last` lies outside (0, 1).
    """
    _check_steps(steps)
    _check_ends(first, last)
    return torch.linspace(first, last, steps, dtype=F64)


def scaled_linear_betas(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """Betas whose square roots grow linearly with n (latent diffusion), ``(steps,)`` in float64.

    Called "linear" in the code of Rombach et al. 2022 and "scaled_linear" in Diffusers; the default
    values are those of Stable Diffusion 1.

    Args:
        steps: T, at least 1.
        first: beta_1, in (0, 1).
        last: beta_T, in (0, 1).

    Raises:
        ValueError: `steps` is no positive integer, or `first` or `last` lies outside (0, 1).
    """
    _check_steps(steps)
    _check_ends(first, last)
    return torch.linspace(math.sqrt(first), math.sqrt(last), steps, dtype=F64) ** 2


def cosine_betas(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """Betas of the squared cosine (Nichol & Dhariwal 2021), ``(steps,)`` in float64.

    ``beta_n = min(1 - f(n) / f(n-1), max_beta)`` with ``f(n) = cos^2(theta_n)`` and
    ``theta_n = (pi / 2) (n / T + s) / (1 + s)``. Without the bound beta_T would be 1, since
    f(T) = 0: nothing of the data would be left. "squaredcos_cap_v2" in Diffusers.

    Args:
        steps: T, at least 1.
        offset: s, at least 0; it keeps the first betas from being too small.
        max_beta: the bound, in (0, 1).

    Raises:
        ValueError: `steps` is no positive integer, `offset` is negative or not finite, or
            `max_beta` lies outside (0, 1).
    """
    _check_steps(steps)
    if not 0.0 <= offset < math.inf:
        raise ValueError(f"offset must be finite and at least 0, not {offset}: the paper has 0.008")
    if not 0.0 < max_beta < 1.0:
        raise ValueError(
            f"max_beta must lie strictly between 0 and 1, not {max_beta}: the paper has 0.999."
        )
    theta = (torch.arange(steps + 1, dtype=F64) / steps + offset) / (1.0 + offset) * (math.pi / 2)
    before, after = theta[:-1], theta[1:]
    # cos^2 a - cos^2 b = sin(b - a) sin(b + a): 1 - f(n) / f(n-1) without subtracting from 1, which
    # would leave twelve digits of the first betas.
    width = math.pi / (2.0 * steps * (1.0 + offset))
    betas = math.sin(width) * torch.sin(before + after) / torch.cos(before) ** 2
    return betas.clamp(max=max_beta)


@dataclass(frozen=True, repr=False)
class DiscreteVP(Schedule):
    """The variance-preserving path through the laws of T discrete noising steps (DDPM).

    **Steps and times.** n counts the noising steps that were done, as in Ho et al. 2020, and
    ``t = 1 - n / T``: n = 0 is clean data at t = 1, n = T the noisiest law at t = 0. Libraries with
    indices 0, ..., T - 1 (Diffusers' ``timesteps``) mean the state n = index + 1. At these times

        alpha = sqrt(alpha_bar_n),  sigma = sqrt(1 - alpha_bar_n),  alpha_bar_n = prod (1 - beta_i).

    **Between them.** Write ``alpha_bar = exp(-b)``, so that b grows by ``-log(1 - beta_n)`` in step
    n. b is interpolated by the monotone rational quadratic spline (Gregory & Delbourgo 1982; in the
    form of Durkan et al. 2019), the slope at a grid time being the geometric mean of the growths in
    the steps on both sides. b is continuously differentiable with db/dt < 0 everywhere, hence
    ``lambda = log(alpha / sigma) = -log(exp(b) - 1) / 2`` is continuously differentiable and
    strictly increasing, and alpha^2 + sigma^2 = 1: all that `def-schedule` asks.

    **The ends.** It is b that is interpolated and not lambda, because at the clean data b = 0 while
    lambda is infinite: so the last interval (1 - 1/T, 1) needs no rule of its own. This is `VP`
    with b for int_0^{1-t} beta, and its end points are those of `VP`: alpha_1 = 1; sigma falls to
    sigma_1 = 0 like sqrt(beta (1 - t)), with d_sigma(1) = -inf; and alpha_0 = sqrt(alpha_bar_T) is
    not 0. DDPM never visits the inside of the last interval, where lambda exceeds that of n = 1: a
    network that was trained on the T steps has not seen such times.

    **Rounding.** Everything is computed in float64 and rounded to the dtype of the times. But a
    float32 time near the data is itself off by up to 3e-8, which is compared with 1 - t = n / T:
    sigma at step n inherits a relative error of up to about 3e-8 T / n.

    Attributes:
        betas: beta_1, ..., beta_T, each in (0, 1): a sequence or ``(T,)`` tensor, kept as a tuple.

    Raises:
        ValueError: `betas` is empty, has not one dimension, or has a value outside (0, 1).
    """

    betas: Sequence[float] | Tensor

    def __post_init__(self) -> None:
        """Check the betas and keep them as numbers, so that schedules compare by value."""
        betas = torch.as_tensor(self.betas, dtype=F64)
        if betas.ndim != 1 or betas.numel() == 0:
            raise ValueError(f"betas must have shape (T,) with T >= 1, not {tuple(betas.shape)}.")
        bad = ~((betas > 0.0) & (betas < 1.0))  # also catches nan
        if bool(bad.any()):
            n = int(bad.nonzero()[0]) + 1
            value = betas[n - 1].item()
            raise ValueError(
                f"betas must lie strictly between 0 and 1, but beta_{n} is {value:.6g}. "
                "At 0 a step would add no noise, at 1 it would leave no data: bound the betas, as "
                "`cosine_betas` does by 0.999."
            )
        object.__setattr__(self, "betas", tuple(betas.tolist()))

    def __repr__(self) -> str:
        return f"{self.name}({self.steps} betas from {self.betas[0]:.6g} to {self.betas[-1]:.6g})"

    @property
    def steps(self) -> int:
        """T, the number of noising steps."""
        return len(self.betas)

    def time_of_step(self, n: int | Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The time t = 1 - n / T of the law after n noising steps, of the shape of `n`.

        Args:
            n: how many noising steps were done, in [0, T]: 0 is clean data. Fractions are allowed.
            dtype: of the times; by default that of `n`, or torch's default if n is an integer.

        Raises:
            ValueError: n lies outside [0, T].
        """
        n = torch.as_tensor(n)
        if not bool(((n >= 0) & (n <= self.steps)).all()):
            raise ValueError(
                f"n must lie in [0, {self.steps}], but its values span [{n.min().item():.6g}, "
                f"{n.max().item():.6g}]: n = 0 is clean data, and the state that a library calls "
                "0 in its array of alpha_bar is n = 1."
            )
        if dtype is None:
            dtype = n.dtype if n.is_floating_point() else torch.get_default_dtype()
        return ((self.steps - n.to(F64)) / self.steps).to(dtype)

    def step_of_time(self, t: float | Tensor) -> Tensor:
        """The number n = T (1 - t) of noising steps at time t, in [0, T]: fractional between steps.

        Round it before it serves as an index: a float32 time is off by up to 3e-8 T steps.

        Raises:
            ValueError: t lies outside [0, 1].
        """
        t = _times(t)
        return (self.steps * (1.0 - t.to(F64))).to(t.dtype)

    @cached_property
    def _knots(self) -> tuple[Tensor, Tensor, Tensor]:
        """b at n = 0, ..., T, ``(T+1,)``; its growth in each step, ``(T,)``; slopes, ``(T+1,)``."""
        growth = -torch.log1p(-torch.tensor(self.betas, dtype=F64))
        b = torch.cat([torch.zeros(1, dtype=F64), growth.cumsum(0)])
        # The log of the slope is linear in n through the middles of the steps. That is positive
        # whatever the betas, at the two ends too, where it is an extrapolation by half a step.
        log = growth.log()
        middle = 0.5 * (log[1:] + log[:-1])
        ends = (1.5 * log[:1] - 0.5 * log[1:2], 1.5 * log[-1:] - 0.5 * log[-2:-1])
        slope = torch.cat([ends[0], middle, ends[1]]).exp() if self.steps > 1 else growth.repeat(2)
        return b, growth, slope

    def _cell(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """b at the start of step index + 1, its growth in it, and its slopes at start and end."""
        b, growth, slope = (knots.to(index.device) for knots in self._knots)
        return b[index], growth[index], slope[index], slope[index + 1]

    def _b(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """b = -log alpha_bar and -db/dt at the times, in float64."""
        n = self.steps * (1.0 - t.to(F64))
        index = n.detach().floor().clamp(max=self.steps - 1)
        u, index = n - index, index.long()
        start, growth, slope_0, slope_1 = self._cell(index)
        v = 1.0 - u
        # A quotient of sums of positive terms: nothing cancels, and the derivative is positive.
        total = growth * (u**2 + v**2) + (slope_0 + slope_1) * u * v
        b = start + growth * (growth * u**2 + slope_0 * u * v) / total
        rate = slope_1 * u**2 + 2.0 * growth * u * v + slope_0 * v**2
        return b, self.steps * (growth / total) ** 2 * rate

    def beta(self, t: float | Tensor) -> Tensor:
        """The rate of noising at noising time 1 - t, -db/dt: about T beta_n at step n; positive."""
        t = _times(t)
        return self._b(t)[1].to(t.dtype)

    def alpha(self, t: float | Tensor) -> Tensor:
        """exp(-b / 2), the square root of alpha_bar."""
        t = _times(t)
        return torch.exp(-0.5 * self._b(t)[0]).to(t.dtype)

    def sigma(self, t: float | Tensor) -> Tensor:
        """sqrt(1 - exp(-b)); expm1 keeps it accurate where alpha is close to 1."""
        t = _times(t)
        return torch.sqrt(-torch.expm1(-self._b(t)[0])).to(t.dtype)

    def d_alpha(self, t: float | Tensor) -> Tensor:
        """beta alpha / 2."""
        t = _times(t)
        b, beta = self._b(t)
        return (0.5 * beta * torch.exp(-0.5 * b)).to(t.dtype)

    def d_sigma(self, t: float | Tensor) -> Tensor:
        """-beta alpha^2 / (2 sigma), from differentiating sigma^2 = 1 - alpha^2; -inf at t = 1."""
        t = _times(t)
        b, beta = self._b(t)
        return (-0.5 * beta * torch.exp(-b) / torch.sqrt(-torch.expm1(-b))).to(t.dtype)

    def noising_g(self, t: float | Tensor) -> Tensor:
        """sqrt(beta), at t = 1 too, where sigma' is infinite (`prp-linear-noising`)."""
        return torch.sqrt(self.beta(t))

    def half_log_snr(self, t: float | Tensor) -> Tensor:
        """-b / 2 - log(1 - exp(-b)) / 2; +inf at t = 1."""
        t = _times(t)
        b, _ = self._b(t)
        return (-0.5 * b - 0.5 * torch.log(-torch.expm1(-b))).to(t.dtype)

    def inverse_half_log_snr(self, half_log_snr: float | Tensor) -> Tensor:
        """Solve alpha^2 = sigmoid(2 lambda) for the time: in each step a quadratic equation."""
        value = self._reached(half_log_snr)
        b = -torch.nn.functional.logsigmoid(2.0 * value.to(F64))
        knots = self._knots[0].to(b.device)
        index = torch.searchsorted(knots, b.detach().contiguous(), right=True) - 1
        index = index.clamp(0, self.steps - 1)
        start, growth, slope_0, slope_1 = self._cell(index)
        # With q the part of the step's growth that is done, p = 1 - q and w = u / (1 - u), the
        # spline says growth p w^2 + (slope_0 p - slope_1 q) w - growth q = 0, which has one
        # positive root.
        q = (b - start) / growth
        p = 1.0 - q
        linear = slope_0 * p - slope_1 * q
        root = torch.sqrt(linear**2 + 4.0 * growth**2 * p * q)
        u = 2.0 * growth * q / (2.0 * growth * q + linear + root)
        return (1.0 - (index + u) / self.steps).clamp(0.0, 1.0).to(value.dtype)
