"""The variational view: a chain of noising steps, its posterior, and bounds on the likelihood.

A grid of times t_0 < ... < t_T runs from noise to data as everywhere in this package. Read
backwards it is a Markov chain that adds noise; `posterior` undoes one of its steps when the datum
is known; a model that does not know the datum puts its denoiser in the datum's place, and pays a
relative entropy for it. The sum over the steps bounds -log p (`DiscreteELBO`); the limit of ever
finer grids is an integral over the half log-SNR (`ContinuousELBO`).

References: Sohl-Dickstein et al. 2015; Ho et al. 2020 (DDPM), whose equations are named below;
Nichol & Dhariwal 2021 (the learned variance); Kingma et al. 2021 (the continuous bound).
All results are in nats unless a name says bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from fromnoise._shapes import as_time, check_same_shape, expand, sum_event
from fromnoise.fields import Field
from fromnoise.schedules import Schedule
from fromnoise.time_samplers import LowDiscrepancyTimes, TimeSampler, UniformTimes

Variance = Literal["small", "large", "learned"]
LEVELS = 256  # grey levels of a pixel
_WIDTH = 2.0 / (LEVELS - 1)  # distance of two levels in [-1, 1]


def chain_times(steps: int) -> Tensor:
    """The grid 0, 1/T, ..., 1 of a chain of T steps, float64 ``(T + 1,)``: DDPM's n = T, ..., 0.

    Raises:
        ValueError: there are fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"steps={steps}: a chain has at least two, a denoising and a decoding one")
    return torch.arange(steps + 1, dtype=torch.float64) / steps


# One step of the chain ---------------------------------------------------------------------------


def _step_scales(t: Tensor, s: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """alpha_s, alpha_t / alpha_s and 1 - SNR_t / SNR_s, finite at both ends of the path.

    The last is computed from the difference of the half log-SNRs, so that it keeps its relative
    accuracy for steps that are short, where SNR_t and SNR_s agree to many digits.
    """
    alpha_s = schedule.alpha(s)
    keep = schedule.alpha(t) / alpha_s
    fresh = -torch.expm1(2.0 * (schedule.half_log_snr(t) - schedule.half_log_snr(s)))
    return alpha_s, keep, fresh


def _check_order(t: Tensor, s: Tensor) -> None:
    if not bool((t < s).all()):
        raise ValueError(
            "s must lie after t: time runs from noise to data, so s is the cleaner of the two; "
            f"here t reaches {t.max().item():.6g} and s goes down to {s.min().item():.6g}."
        )


def noising_step(t: float | Tensor, s: float | Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """How the chain goes from X_s back to X_t: X_t = keep X_s + sqrt(variance) xi, t < s.

    keep = alpha_t / alpha_s and variance = sigma_t^2 - keep^2 sigma_s^2 = sigma_t^2 (1 - SNR_t /
    SNR_s): the one Gaussian step, with noise independent of the past, that has the path's marginals
    (`prp-noising-chain`). For DDPM's times it is sqrt(1 - beta_n) and beta_n (Ho et al. 2020,
    Eq. 2).

    Args:
        t: the noisier time, in [0, 1).
        s: the cleaner time, in (t, 1].
        schedule: alpha and sigma.

    Returns:
        Two tensors of the shape of the times.

    Raises:
        ValueError: not t < s, or a time outside [0, 1].
    """
    t, s = torch.as_tensor(t), torch.as_tensor(s)
    _check_order(t, s)
    _, keep, fresh = _step_scales(t, s, schedule)
    return keep, schedule.sigma(t).square() * fresh


def posterior(
    x: Tensor, data: Tensor, t: float | Tensor, s: float | Tensor, schedule: Schedule
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the law of X_s given X_t = x and X_1 = data, t < s.

    With r = SNR_t / SNR_s (`prp-forward-posterior`; Ho et al. 2020, Eq. 6 and 7):

        mean = r (alpha_s / alpha_t) x + (1 - r) alpha_s data,   variance = (1 - r) sigma_s^2.

    Args:
        x: ``(batch, *event)``, the noisier state.
        data: ``(batch, *event)``; a prediction of it gives the mean of the model's step.
        t: its time, a number or ``(batch,)``, in [0, 1).
        s: the cleaner time, a number or ``(batch,)``, in (t, 1].
        schedule: alpha and sigma.

    Returns:
        The mean ``(batch, *event)``, and the variance, which broadcasts against it. At s = 1 with
        sigma_1 = 0 they are the data and 0; at alpha_t = 0 the law of X_s given the data alone.

    Raises:
        ValueError: shapes differ, not t < s, or a time outside [0, 1].
    """
    check_same_shape(x, data, "x", "data")
    t, s = as_time(t, x), as_time(s, x, "s")
    _check_order(t, s)
    alpha_s, keep, fresh = _step_scales(t, s, schedule)
    # r alpha_s / alpha_t = keep (sigma_s / sigma_t)^2, which is finite where alpha_t = 0
    shrink = keep * (schedule.sigma(s) / schedule.sigma(t)).square()
    return shrink * x + fresh * alpha_s * data, fresh * schedule.sigma(s).square()


def gaussian_kl(mean_a: Tensor, variance_a: Tensor, mean_b: Tensor, variance_b: Tensor) -> Tensor:
    """KL(N(mean_a, variance_a I) || N(mean_b, variance_b I)), summed over the event: ``(batch,)``.

    The variances are positive and broadcast against the means.
    """
    ratio = variance_a / variance_b
    square = (mean_a - mean_b).square() / variance_b
    # ratio - 1 - log ratio, without cancellation where the variances are nearly equal
    excess = ratio - 1.0
    return 0.5 * sum_event(square + excess - torch.log1p(excess))


# Pixels ------------------------------------------------------------------------------------------


def pixel_log_prob(x: Tensor, mean: Tensor, std: float | Tensor) -> Tensor:
    """Log-probability of grey levels under a discretized normal law: Ho et al. 2020, Eq. 13.

    Level x in {-1, -1 + 2/255, ..., 1} gets the normal law's mass within 1/255 of it, the two
    extreme levels all that lies beyond. In the far tail the difference of two nearly equal
    distribution functions is taken between logarithms, on the side where they are small.

    Args:
        x: ``(batch, *event)``, grey levels in [-1, 1] as `fromnoise.data.to_unit` makes them.
        mean: ``(batch, *event)``.
        std: positive, broadcasts against x.

    Returns:
        ``(batch,)``, in nats.

    Raises:
        ValueError: x is not on the grid of levels.
    """
    level = (x + 1.0) / _WIDTH
    nearest = level.round()
    if not bool(((level - nearest).abs() < 0.01).all() and (x.abs() <= 1.0 + 1e-6).all()):
        raise ValueError(
            f"x is not on the grid of {LEVELS} levels in [-1, 1] (its values span "
            f"[{x.min().item():.6g}, {x.max().item():.6g}]): pass images from data.to_unit."
        )
    low = (x - 0.5 * _WIDTH - mean) / std
    high = (x + 0.5 * _WIDTH - mean) / std
    low = torch.where(nearest == 0, torch.full_like(low, -math.inf), low)
    high = torch.where(nearest == LEVELS - 1, torch.full_like(high, math.inf), high)
    # mirrored, so that both ends lie on the side of the left tail
    mirror = low + high > 0
    a, b = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    return sum_event(log_b + torch.log1p(-torch.exp((log_a - log_b).clamp(max=-1e-38))))


def bits_per_dim(nats: Tensor, event: tuple[int, ...] | torch.Size) -> Tensor:
    """-log-probability in nats of a whole image as bits for each of its numbers.

    `eq-bits-per-dim`.
    """
    return nats / (math.prod(event) * math.log(2.0))


def dequantize(pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Grey levels plus uniform noise of one level's width, in the units of `data.to_unit`.

    Args:
        pixels: uint8 ``(n, height, width)``.
        generator: source of the noise, on the device of the pixels.

    Returns:
        float32 ``(n, 1, height, width)``: (pixel + u) / 127.5 - 1 with u uniform in [0, 1).

    Raises:
        TypeError: pixels is not uint8.
    """
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels is {pixels.dtype}: dequantize takes uint8 in [0, 255]")
    u = torch.rand(pixels.shape, generator=generator, device=pixels.device)
    return ((pixels.float() + u) / 127.5 - 1.0)[:, None]


def dequantized_nats(log_prob: Tensor, event: tuple[int, ...] | torch.Size) -> Tensor:
    """A bound on -log P(pixels), from the log-density of dequantized images (`prp-dequantization`).

    -log P(pixels) <= E_u[-log p(x)] + d log 127.5: a level is 1/127.5 wide in the units of x, and
    Jensen's inequality takes the logarithm inside the mean over u.

    Args:
        log_prob: ``(batch,)``, log p at `dequantize`'s points, in nats.
        event: shape of one image, for d.
    """
    return -log_prob + math.prod(event) * math.log(127.5)


# The bound of a chain ----------------------------------------------------------------------------


class VarianceField(Protocol):
    """A field that also says where between the two variances its own lies."""

    def both(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """The noise prediction, and w: the log-variance is w log(large) + (1 - w) log(small)."""
        ...


@dataclass(frozen=True)
class Bound:
    """The parts of a bound on -log p, each ``(batch,)`` in nats; their sum is the bound.

    Attributes:
        prior: KL of the noisiest state's law, given the datum, from the prior.
        diffusion: what the steps cost.
        reconstruction: -log-probability of the datum given the cleanest state.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """-log p is at most this, in expectation over the draws."""
        return self.prior + self.diffusion + self.reconstruction


def prior_nats(data: Tensor, t: float, schedule: Schedule) -> Tensor:
    """KL(N(alpha_t data, sigma_t^2 I) || N(0, (alpha_t^2 + sigma_t^2) I)), ``(batch,)``.

    The prior is normal with the variance that X_t has for data of unit variance: N(0, I) on the
    variance-preserving paths, and wherever alpha_t = 0 the cost is 0.
    """
    time = as_time(t, data)
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    whole = alpha.square() + sigma.square()
    return gaussian_kl(alpha * data, sigma.square(), torch.zeros_like(data), whole)


@dataclass(frozen=True, eq=False)
class DiscreteELBO:
    """The variational bound of the reverse chain over a grid of times (`thm-ddpm-elbo`).

    The model goes from X_t to X_s by the posterior with its denoiser in place of the datum, and a
    variance that is the posterior's ("small"), that of the noising step ("large"), or between them
    in the logarithm ("learned": Nichol & Dhariwal 2021, Eq. 15). Each step costs the relative
    entropy of the posterior from the model's step (Ho et al. 2020, Eq. 5); with the small variance
    it is (1/2) (SNR_s - SNR_t) |data - D|^2 (`prp-elbo-weights`). The last step, to the data, is a
    decoder: its mean is the denoiser's, and the small variance, which would be 0, is that of the
    step before it.

    Attributes:
        times: ``(T + 1,)``, increasing from noise to data, T >= 2.
        schedule: alpha and sigma.
        variance: which variance the model's steps have.
        pixels: whether the data are grey levels; the decoder is then discretized. Otherwise it is a
            density.

    Raises:
        ValueError: the times do not increase, or are fewer than three, or an option is unknown.
    """

    times: Tensor
    schedule: Schedule
    variance: Variance = "small"
    pixels: bool = False

    def __post_init__(self) -> None:
        """Check the grid."""
        if self.times.ndim != 1 or len(self.times) < 3 or not bool((self.times.diff() > 0).all()):
            raise ValueError(
                f"times has shape {tuple(self.times.shape)}: it must increase from noise to data "
                "and hold at least three times."
            )
        if self.variance not in ("small", "large", "learned"):
            raise ValueError(f"variance={self.variance!r} must be 'small', 'large' or 'learned'.")

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return len(self.times) - 1

    def log_variances(self, n: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """log of the small and of the large variance of step n, ``(batch, 1, ..., 1)``.

        Step n goes from ``times[n]`` to ``times[n + 1]``. In float64, whatever the data.
        """
        t, s = self.times[n].double(), self.times[n + 1].double()
        _, _, fresh = _step_scales(t, s, self.schedule)
        large = self.schedule.sigma(t).square() * fresh
        # the last step borrows the small variance of the one before it
        m = n.clamp(max=self.steps - 2)
        before, after = self.times[m].double(), self.times[m + 1].double()
        small = self.schedule.sigma(after).square() * _step_scales(before, after, self.schedule)[2]
        return expand(small.log(), like), expand(large.log(), like)

    def step_nats(
        self, x: Tensor, data: Tensor, n: Tensor, denoised: Tensor, fraction: Tensor | None = None
    ) -> Tensor:
        """What step n costs at x, ``(batch,)``: a relative entropy, or the decoder's -log-prob.

        Args:
            x: ``(batch, *event)``, X at ``times[n]``.
            data: ``(batch, *event)``.
            n: ``(batch,)``, integers in [0, T).
            denoised: ``(batch, *event)``, the model's prediction of the data.
            fraction: ``(batch, *event)``, w of the learned variance; needed for that one only.

        Raises:
            ValueError: the variance is learned and there is no fraction.
        """
        t, s = self.times[n].to(x), self.times[n + 1].to(x)
        small, large = self.log_variances(n, x)
        if self.variance == "learned":
            if fraction is None:
                raise ValueError("fraction: the learned variance needs the network's second output")
            log_variance = fraction * large + (1.0 - fraction) * small
        else:
            log_variance = (small if self.variance == "small" else large).expand_as(x)
        last = n == self.steps - 1
        mean, _ = posterior(x, denoised, t, s, self.schedule)
        truth, _ = posterior(x, data, t, s, self.schedule)
        cost = gaussian_kl(truth, small.exp().to(x), mean, log_variance.exp())
        if bool(last.any()):
            std = (0.5 * log_variance).exp()
            decoder = self._decoder_nats(data[last], denoised[last], std[last])
            cost = cost.masked_scatter(last, decoder)
        return cost

    def _decoder_nats(self, data: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        if self.pixels:
            return -pixel_log_prob(data, mean, std)
        return -sum_event(torch.distributions.Normal(mean, std).log_prob(data))

    @torch.no_grad()
    def __call__(
        self,
        model: Field,
        data: Tensor,
        generator: torch.Generator | None = None,
        draws: int | None = None,
    ) -> Bound:
        """The bound for each datum, with one draw of the noise at each step that is visited.

        Args:
            model: the denoiser; for the learned variance a `VarianceField` too.
            data: ``(batch, *event)``.
            generator: source of the noise, on the device of the data.
            draws: visit so many of the T - 1 steps for each datum, one in each of as many equal
                stretches, and weigh them accordingly: unbiased. The last step is always visited.
                All of them if None.
        """
        batch = len(data)
        inner = self.steps - 1
        diffusion = torch.zeros(batch, dtype=data.dtype, device=data.device)
        if draws is None:
            for n in range(inner):
                diffusion += self._visit(model, data, torch.full((batch,), n), generator)
        else:
            if not 1 <= draws <= inner:
                raise ValueError(f"draws={draws} must lie in [1, {inner}], the steps but the last.")
            for k in range(draws):
                first, beyond = k * inner // draws, (k + 1) * inner // draws
                n = torch.randint(first, beyond, (batch,), generator=generator)
                diffusion += (beyond - first) * self._visit(model, data, n, generator)
        last = torch.full((batch,), inner)
        return Bound(
            prior=prior_nats(data, float(self.times[0]), self.schedule),
            diffusion=diffusion,
            reconstruction=self._visit(model, data, last, generator),
        )

    def _visit(self, model: Field, data: Tensor, n: Tensor, generator) -> Tensor:
        t = self.times[n].to(data)
        noise = torch.randn(data.shape, generator=generator, dtype=data.dtype, device=data.device)
        time = as_time(t, data)
        x = self.schedule.alpha(time) * data + self.schedule.sigma(time) * noise
        if self.variance != "learned":
            return self.step_nats(x, data, n, model.denoise(x, t))
        noise, fraction = model.both(x, t)  # one call of the network
        denoised = (x - self.schedule.sigma(time) * noise) / self.schedule.alpha(time)
        return self.step_nats(x, data, n, denoised, fraction)


# The bound without steps -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ContinuousELBO:
    """The limit of ever finer grids: an integral over time that knows no steps.

    -log p <= prior + int lambda' E|eps - eps_hat|^2 dt + reconstruction (`thm-continuous-elbo`;
    Kingma et al. 2021), the integral over the sampler's range. It depends on the schedule through
    lambda at the two ends only (`prp-schedule-invariance`). At the cleanest time the decoder is
    N(D, (sigma / alpha)^2 I), discretized for pixels.

    Attributes:
        schedule: alpha and sigma.
        times: draws the times, within a range where lambda is finite; one offset a batch unless
            another sampler is given.
        pixels: whether the data are grey levels.
    """

    schedule: Schedule
    times: TimeSampler = field(
        default_factory=lambda: LowDiscrepancyTimes(UniformTimes(1e-3, 1 - 1e-3))
    )
    pixels: bool = False

    @torch.no_grad()
    def __call__(
        self,
        model: Field,
        data: Tensor,
        generator: torch.Generator | None = None,
        draws: int = 1,
    ) -> Bound:
        """The bound for each datum, from so many draws of a time and of the noise for each."""
        schedule = self.schedule

        def noised(t: Tensor | float) -> tuple[Tensor, Tensor]:
            noise = torch.randn(
                data.shape, generator=generator, dtype=data.dtype, device=data.device
            )
            time = as_time(t, data)
            return schedule.alpha(time) * data + schedule.sigma(time) * noise, noise

        total = torch.zeros(len(data), dtype=data.dtype, device=data.device)
        for _ in range(draws):
            t = self.times.sample(len(data), generator, dtype=data.dtype, device=data.device)
            x, noise = noised(t)
            rate = schedule.d_alpha(t) / schedule.alpha(t) - schedule.d_sigma(t) / schedule.sigma(t)
            error = sum_event((noise - model.noise(x, t)).square())
            total += rate * error / self.times.density(t)
        end = self.times.t_max
        x, _ = noised(end)
        time = as_time(end, data)
        std = schedule.sigma(time) / schedule.alpha(time)
        mean = model.denoise(x, end)
        if self.pixels:
            reconstruction = -pixel_log_prob(data, mean, std)
        else:
            normal = torch.distributions.Normal(mean, std.expand_as(mean))
            reconstruction = -sum_event(normal.log_prob(data))
        return Bound(prior_nats(data, self.times.t_min, schedule), total / draws, reconstruction)


# Learning the variance ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LearnedVarianceField(Field):
    """A network with two outputs, noise and v, seen as a field with a variance.

    Attributes:
        net: maps ``(batch, channels, ...)`` and ``(batch,)`` to ``(batch, 2 channels, ...)``: the
            noise first, then a number y with w = (y + 1) / 2.
        schedule_of: the path's schedule.
    """

    net: Callable[[Tensor, Tensor], Tensor]
    schedule_of: Schedule

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma of the path."""
        return self.schedule_of

    def both(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """The noise prediction and w, each ``(batch, *event)``."""
        time = as_time(t, x).flatten().expand(len(x))
        return split_output(self.net(x, time), x)

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[eps | X_t = x], as far as the network has learned it."""
        return self.both(x, t)[0]

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_1 | X_t = x], from the noise.

        Raises:
            ValueError: alpha_t = 0 at one of the times.
        """
        time = as_time(t, x)
        alpha = self.schedule.alpha(time)
        if not bool((alpha > 0).all()):
            raise ValueError("t: alpha_t = 0, where the noise says nothing about the data.")
        return (x - self.schedule.sigma(time) * self.noise(x, t)) / alpha

    def fraction(self, x: Tensor, t: float | Tensor) -> Tensor:
        """w, ``(batch, *event)``: 0 for the small variance, 1 for the large one."""
        return self.both(x, t)[1]


def split_output(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two outputs of a network that learns the variance: the noise, and w.

    Raises:
        ValueError: the output does not have twice the channels of x.
    """
    expected = (x.shape[0], 2 * x.shape[1], *x.shape[2:])
    if output.shape != expected:
        raise ValueError(
            f"net returned shape {tuple(output.shape)} for x of shape {tuple(x.shape)}: a network "
            f"that learns the variance returns {expected}, the noise and the variance."
        )
    noise, raw = output.chunk(2, dim=1)
    return noise, 0.5 * (raw + 1.0)


@dataclass(frozen=True, eq=False)
class LearnedVariance:
    """Improved DDPM's hybrid loss: L_simple + weight L_vlb (Nichol & Dhariwal 2021, section 3.1).

    The first term trains the noise prediction; the second, the variational bound with the noise
    held fixed, trains w alone (the paper's v). A step is drawn uniformly, so that T times its cost
    is an unbiased estimate of the bound; both terms are means over coordinates, the second in bits.

    Attributes:
        bound: the chain and its bound; its variance must be "learned".
        weight: of the bound; 0.001 in the paper.

    Raises:
        ValueError: the variance is not "learned".
    """

    bound: DiscreteELBO
    weight: float = 1e-3

    def __post_init__(self) -> None:
        """Check that there is a variance to learn."""
        if self.bound.variance != "learned":
            raise ValueError(f"bound has variance={self.bound.variance!r}: it must be 'learned'.")

    def loss(self, net: Callable, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss on a batch of data, a scalar.

        Raises:
            ValueError: ``net`` does not return twice the channels of its input.
        """
        bound = self.bound
        n = torch.randint(bound.steps, (len(data),), generator=generator, device=data.device).cpu()
        noise = torch.randn(data.shape, generator=generator, dtype=data.dtype, device=data.device)
        t = bound.times[n].to(data)
        time = as_time(t, data)
        alpha, sigma = bound.schedule.alpha(time), bound.schedule.sigma(time)
        x = alpha * data + sigma * noise
        predicted, fraction = split_output(net(x, t), x)
        simple = (predicted - noise).square().mean()
        denoised = (x - sigma * predicted.detach()) / alpha
        nats = bound.step_nats(x, data, n, denoised, fraction).mean()
        return simple + self.weight * bound.steps * bits_per_dim(nats, data.shape[1:])
