"""Latent diffusion: an autoencoder's latents as data, and the bound that both stages share.

The first stage (:mod:`fromnoise.networks.image_vae`) gives each datum x a posterior q(z | x) and a
decoder p(x | z). The second stage is a model p(z) of the latents, trained on draws of q(z | x) that
are first brought to variance 1. Together they are one model of the data, and

    log p(x) >= E_q[log p(x | z)] + H(q(z | x)) + E_q[log p(z)]      (`thm-two-stage-bound`)

holds for any encoder; a lower bound on log p(z) may stand in for it. Everything is in nats for a
whole datum unless a name says otherwise. Rombach et al. 2022; Vahdat et al. 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise._shapes import check_same_shape
from fromnoise.fields import Field
from fromnoise.labels import Labelled
from fromnoise.networks.vae import LinearVAE, kl_from_standard
from fromnoise.targets import Net, Target
from fromnoise.time_samplers import LowDiscrepancyTimes, TabulatedTimes
from fromnoise.variational import ContinuousELBO

# Latents as data ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of latents: one of each, or one for each channel.

    Attributes:
        mean: ``(1,)`` or ``(channels,)``.
        std: the same length, positive.

    Raises:
        ValueError: the lengths differ or are 0, or a std is not positive and finite.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"mean has {len(self.mean)} entries and std has {len(self.std)}: pass one of each, "
                "or one for each channel"
            )
        if not all(0.0 < s < math.inf for s in self.std):
            raise ValueError(
                f"std is {self.std}: each must be positive and finite; a channel that never varies "
                "holds nothing, use fewer channels"
            )

    def standardize(self, z: Tensor) -> Tensor:
        """(z - mean) / std, ``(batch, channels, *sides)``: variance 1 over the training set.

        This is the scale factor of Rombach et al. 2022, 1 / std, with the mean taken away first.

        Raises:
            ValueError: z has another number of channels.
        """
        mean, std = self._shaped(z)
        return (z - mean) / std

    def restore(self, z: Tensor) -> Tensor:
        """The inverse of `standardize`: mean + std z, ``(batch, channels, *sides)``.

        Raises:
            ValueError: z has another number of channels.
        """
        mean, std = self._shaped(z)
        return mean + std * z

    def log_volume(self, event: tuple[int, ...] | torch.Size) -> float:
        """log |d restore(z) / dz|, the sum of log std over the coordinates of one latent.

        log p(z) = log p'(standardize(z)) - log_volume, if p' is the density of what is standardized
        (`prp-latent-scale`).

        Raises:
            ValueError: the event has another number of channels.
        """
        z = torch.empty((1, *event), device="meta")
        self._shaped(z)
        return sum(math.log(s) for s in self.std) * (z.numel() / len(self.std))

    def _shaped(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if z.ndim < 2 or len(self.std) not in (1, z.shape[1]):
            raise ValueError(
                f"z has shape {tuple(z.shape)} and the statistics are of {len(self.std)} channels: "
                f"pass (batch, {len(self.std)}, ...)"
            )
        shape = (-1, *([1] * (z.ndim - 2)))
        like = {"dtype": z.dtype, "device": z.device}
        return (
            torch.tensor(self.mean, **like).reshape(shape),
            torch.tensor(self.std, **like).reshape(shape),
        )


@dataclass(frozen=True, eq=False)
class Posteriors:
    """The diagonal normal posteriors q(z | x) of many data.

    Attributes:
        mean: ``(n, *event)``.
        log_variance: the same shape.

    Raises:
        ValueError: the shapes differ.
    """

    mean: Tensor
    log_variance: Tensor

    def __post_init__(self) -> None:
        """Check the shapes."""
        check_same_shape(self.mean, self.log_variance, "mean", "log_variance")

    def __len__(self) -> int:
        """The number of data."""
        return len(self.mean)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw of each, mean + std eps, ``(n, *event)``."""
        mean = self.mean
        eps = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + torch.exp(0.5 * self.log_variance) * eps

    def entropy(self) -> Tensor:
        """H(q(z | x)) of each in nats, ``(n,)``: the sum of (1 + log 2 pi + log variance) / 2."""
        return 0.5 * (self.log_variance + 1.0 + math.log(2.0 * math.pi)).flatten(1).sum(1)

    def kl(self) -> Tensor:
        """KL(q(z | x) || N(0, I)) of each in nats, ``(n,)``: the price of the first stage alone."""
        return kl_from_standard(self.mean, self.log_variance)

    def statistics(self, per_channel: bool = False) -> LatentStatistics:
        """Mean and std of z, for x from these data and z from q(z | x): the law of total variance.

        Var z = Var(mean) + E[variance], exactly, without drawing (`prp-latent-scale`). The place in
        the latent is one more random index, uniform; so is the channel, unless ``per_channel``.
        """
        mean, variance = self.mean.double(), self.log_variance.double().exp()
        if per_channel:
            mean, variance = (v.transpose(0, 1).flatten(1) for v in (mean, variance))
        else:
            mean, variance = mean.reshape(1, -1), variance.reshape(1, -1)
        total = mean.var(1, correction=0) + variance.mean(1)
        return LatentStatistics(tuple(mean.mean(1).tolist()), tuple(total.sqrt().tolist()))

    def stacked(self) -> Tensor:
        """Mean and log-variance in one tensor ``(n, 2, *event)``, as `LatentTarget` takes them."""
        return torch.stack([self.mean, self.log_variance], dim=1)

    @classmethod
    def unstacked(cls, x: Tensor) -> Posteriors:
        """The inverse of `stacked`.

        Raises:
            ValueError: x is not ``(n, 2, *event)``.
        """
        if x.ndim < 3 or x.shape[1] != 2:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: pass (n, 2, *event), mean and log-variance of each "
                "posterior, as Posteriors.stacked makes them"
            )
        return cls(x[:, 0], x[:, 1])


@torch.no_grad()
def encode_dataset(net: nn.Module, x: Tensor, batch_size: int = 256) -> Posteriors:
    """The posterior of each datum, computed in batches.

    Args:
        net: an autoencoder of :mod:`fromnoise.networks`.
        x: ``(n, *event)``, in the dtype and on the device of the weights.
        batch_size: how many are encoded at once; it changes nothing else.

    Raises:
        ValueError: there are no data.
    """
    if len(x) == 0:
        raise ValueError("x is empty: pass a tensor (n, *event) with n >= 1")
    parts = [net.encode(part) for part in x.split(batch_size)]
    mean, log_variance = (torch.cat(column) for column in zip(*parts, strict=True))
    return Posteriors(mean, log_variance)


@dataclass(frozen=True)
class LatentTarget:
    """Another target, on latents: it draws z from q(z | x) anew each time, and standardizes it.

    Draws, and not means: the bound of both stages averages log p(z) over q(z | x), so that the
    second stage must model the aggregated posterior (`prp-aggregated-posterior`).

    Attributes:
        target: on standardized latents, such as `fromnoise.targets.Regression`.
        statistics: of the latents.
    """

    target: Target
    statistics: LatentStatistics

    def loss(self, net: Net, data: Any, generator: torch.Generator | None = None) -> Tensor:
        """The target's loss on one draw for each posterior.

        Args:
            net: the network of the second stage.
            data: ``(batch, 2, *event)`` of `Posteriors.stacked`, or these with labels.
            generator: source of the draws and of what the target draws.

        Raises:
            ValueError: data have another shape, or the target's own errors.
        """
        x = data.x if isinstance(data, Labelled) else data
        z = self.statistics.standardize(Posteriors.unstacked(x).sample(generator))
        if isinstance(data, Labelled):
            z = Labelled(z, data.labels)
        return self.target.loss(net, z, generator)


@dataclass(frozen=True, eq=False)
class LatentDecoder:
    """From samples of the second stage to data: restore the scale, then decode by the mean.

    The mean E[x | z] has the smallest squared error of all functions of z, and a draw of p(x | z)
    adds independent noise to every pixel (`prp-decode-mean`).

    Attributes:
        net: an autoencoder of :mod:`fromnoise.networks`.
        statistics: with which the second stage's latents were standardized.
    """

    net: nn.Module
    statistics: LatentStatistics

    @torch.no_grad()
    def __call__(self, z: Tensor, batch_size: int = 256) -> Tensor:
        """The decoder's mean at standardized latents z ``(n, *latent)``: ``(n, *event)``."""
        parts = z.split(batch_size)
        return torch.cat([self.net.decode(self.statistics.restore(part)) for part in parts])

    @torch.no_grad()
    def noisy(
        self, z: Tensor, generator: torch.Generator | None = None, batch_size: int = 256
    ) -> Tensor:
        """A draw of p(x | z): the decoder's mean and noise of the decoder's variance."""
        x = self(z, batch_size)
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return x + self.net.noise.sqrt() * eps

    @torch.no_grad()
    def encode(
        self, x: Tensor, generator: torch.Generator | None = None, batch_size: int = 256
    ) -> Tensor:
        """Standardized draws of q(z | x), ``(n, *latent)``: the data of the second stage."""
        posteriors = encode_dataset(self.net, x, batch_size)
        return self.statistics.standardize(posteriors.sample(generator))


# The bound of both stages ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TwoStageTerms:
    """The parts of the bound on log p(x), each ``(batch,)`` in nats (`thm-two-stage-bound`).

    Attributes:
        reconstruction: E_q[log p(x | z)], the first stage's fit.
        entropy: H(q(z | x)), what the encoder leaves open.
        cross_entropy: -E_q[log p(z)], or a bound on it from above: the second stage's part.
    """

    reconstruction: Tensor
    entropy: Tensor
    cross_entropy: Tensor

    @property
    def kl(self) -> Tensor:
        """KL(q(z | x) || p(z)), or a bound on it from above."""
        return self.cross_entropy - self.entropy

    @property
    def total(self) -> Tensor:
        """The lower bound on log p(x)."""
        return self.reconstruction - self.kl


@torch.no_grad()
def two_stage_terms(
    net: nn.Module,
    x: Tensor,
    log_prob: Callable[[Tensor], Tensor],
    generator: torch.Generator | None = None,
    draws: int = 1,
    statistics: LatentStatistics | None = None,
) -> TwoStageTerms:
    """An unbiased estimate of the bound for each x, from so many draws of z.

    Args:
        net: an autoencoder of :mod:`fromnoise.networks`.
        x: ``(batch, *event)``.
        log_prob: log p(z) of the second stage in nats, ``(batch, *latent) -> (batch,)``, or a lower
            bound on it, such as minus ``ContinuousELBO(...)(field, z).total``.
        generator: source of the draws.
        draws: how many.
        statistics: if ``log_prob`` is of standardized latents, what standardizes them: the density
            of z itself is less by `LatentStatistics.log_volume`. None if it is of z itself.

    Raises:
        ValueError: there is not at least one draw, or log_prob returns another shape.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}: it must be at least 1")
    posteriors = Posteriors(*net.encode(x))
    reconstruction, cross_entropy = torch.zeros(2, len(x), dtype=x.dtype, device=x.device)
    for _ in range(draws):
        z = posteriors.sample(generator)
        reconstruction += net.log_likelihood(x, z) / draws
        nats = log_prob(z if statistics is None else statistics.standardize(z))
        check_same_shape(nats, reconstruction, "log_prob's output", "one number for each datum")
        if statistics is not None:
            nats = nats - statistics.log_volume(z.shape[1:])
        cross_entropy -= nats / draws
    return TwoStageTerms(reconstruction, posteriors.entropy(), cross_entropy)


def flow_bound(
    field: Field,
    generator: torch.Generator | None = None,
    draws: int = 8,
    t_min: float = 2e-3,
    t_max: float = 0.99,
    bins: int = 64,
) -> Callable[[Tensor], Tensor]:
    """A lower bound on log p(z) of a flow model of latents, ``(batch, *latent) -> (batch,)``.

    Minus the bound of `thm-continuous-elbo`, for `two_stage_terms`. It is of the chain that samples
    with fresh noise, not of the ODE with the same network. As an integral over lambda its integrand
    is the error of the noise prediction, between 0 and d for a good one; so the times are drawn
    uniformly in lambda (up to `bins` steps). Drawn uniformly in t they would meet the factor
    lambda', 1 / t + 1 / (1 - t) on the straight path, and the estimate would be noisier for it.

    Args:
        field: the second stage, on any schedule that is finite in [t_min, t_max].
        generator: source of times and noise.
        draws: of both, for each z.
        t_min: the noisiest time; below it lies the prior's term.
        t_max: the cleanest time; beyond it a normal law about the denoised z takes over, so that
            sigma / alpha there should be small beside the spread of q(z | x).
        bins: of the table of times.

    Raises:
        ValueError: the times are not 0 < t_min < t_max < 1.
    """
    if not 0.0 < t_min < t_max < 1.0:
        raise ValueError(f"t_min={t_min}, t_max={t_max}: they must satisfy 0 < t_min < t_max < 1")
    schedule = field.schedule
    t = torch.tensor([t_min, t_max], dtype=torch.float64)
    low, high = schedule.half_log_snr(t).tolist()
    edges = schedule.inverse_half_log_snr(torch.linspace(low, high, bins + 1, dtype=torch.float64))
    edges[0], edges[-1] = t
    bound = ContinuousELBO(schedule, LowDiscrepancyTimes(TabulatedTimes(edges, 1.0 / edges.diff())))
    return lambda z: -bound(field, z, generator, draws).total


@dataclass(frozen=True, eq=False)
class LinearTwoStage:
    """The bound of a linear first and a Gaussian second stage, and what it bounds, in closed form.

    Attributes:
        terms: the bound.
        log_prob: log p(x) of the two stages together, ``(batch,)``.
        gap: KL(q(z | x) || p(z | x)), ``(batch,)``: log_prob - terms.total.
    """

    terms: TwoStageTerms
    log_prob: Tensor
    gap: Tensor


def linear_two_stage(net: LinearVAE, x: Tensor, mean: Tensor, covariance: Tensor) -> LinearTwoStage:
    """The bound with p(z) = N(mean, covariance), exactly (`exa-linear-two-stage`).

    With q(z | x) = N(mu, S), decoder N(W z + m, s I) and prior N(a, C):

        E_q[log p(x | z)] = log N(x; W mu + m, s I) - tr(W^T W S) / 2s,
        -E_q[log p(z)]    = -log N(mu; a, C) + tr(C^-1 S) / 2,
        p(x)     = N(m + W a, W C W^T + s I),
        p(z | x) = N(P (C^-1 a + W^T (x - m) / s), P),   P = (C^-1 + W^T W / s)^-1.

    The three are computed apart, so that bound + gap = log p(x) is a test of each.

    Args:
        net: the first stage.
        x: ``(batch, dim)``.
        mean: ``(latent,)``, a.
        covariance: ``(latent, latent)``, C, symmetric and positive definite.

    Raises:
        ValueError: mean or covariance have another shape, or C is not positive definite.
    """
    k = net.latent
    if mean.shape != (k,) or covariance.shape != (k, k):
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} and covariance {tuple(covariance.shape)}: this "
            f"autoencoder's latent takes ({k},) and ({k}, {k})"
        )
    normal = torch.distributions.MultivariateNormal
    # raises if C is not positive definite; said here, since torch.compile turns these checks off
    prior = normal(mean, covariance, validate_args=True)
    mu, log_variance = net.encode(x)  # (b, k)
    variance, W, noise = log_variance.exp(), net.weight, net.noise
    precision = torch.linalg.inv(covariance)  # (k, k)

    spread = (W.square().sum(0) * variance).sum(1)  # tr(W^T W S)
    reconstruction = net.log_likelihood(x, mu) - spread / (2.0 * noise)
    cross = -prior.log_prob(mu) + 0.5 * (precision.diagonal() * variance).sum(1)
    terms = TwoStageTerms(reconstruction, Posteriors(mu, log_variance).entropy(), cross)

    identity = torch.eye(len(W), dtype=W.dtype, device=W.device)
    law = normal(net.mean + W @ mean, W @ covariance @ W.T + noise * identity)

    information = precision + W.T @ W / noise  # (k, k), P^-1
    exact = torch.linalg.solve(
        information, (precision @ mean + (x - net.mean) @ W / noise).T
    ).T  # (b, k), the mean of p(z | x)
    offset = mu - exact
    gap = 0.5 * (
        (information.diagonal() * variance).sum(1)
        + torch.einsum("bi,ij,bj->b", offset, information, offset)
        - k
        - torch.logdet(information)
        - log_variance.sum(1)
    )
    return LinearTwoStage(terms, law.log_prob(x), gap)


def aggregate(posteriors: Posteriors) -> tuple[Tensor, Tensor]:
    """Mean ``(d,)`` and covariance ``(d, d)`` of z for x from the data and z from q(z | x).

    The Gaussian second stage with these moments has the least cross-entropy of all Gaussian ones,
    hence the best bound for this encoder (`prp-aggregated-posterior`).
    """
    mean = posteriors.mean.flatten(1)
    variance = posteriors.log_variance.exp().flatten(1)
    return mean.mean(0), torch.cov(mean.T, correction=0).reshape(
        mean.shape[1], mean.shape[1]
    ) + variance.mean(0).diag()
