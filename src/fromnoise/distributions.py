"""Laws with samples, densities and scores; the exact Gaussian-mixture laboratory; toy targets.

A law that can be pushed along a Gaussian path ``X_t = alpha X_1 + sigma eps`` in closed form
offers, for numbers or one value per sample of alpha and sigma:

- ``marginal_log_prob(x, alpha, sigma)``: log p_t(x), ``(batch,)``
- ``marginal_score(x, alpha, sigma)``: the score grad log p_t(x), ``(batch, *event)``
- ``denoise(x, alpha, sigma)``: E[X_1 | X_t = x], ``(batch, *event)``
- ``predict_noise(x, alpha, sigma)``: E[eps | X_t = x], ``(batch, *event)``
- ``posterior_weights(x, alpha, sigma)``: which component x came from, ``(batch, k)``

Sampling takes a ``torch.Generator`` on the device of the law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fromnoise._shapes import expand

_LOG_2PI = math.log(2.0 * math.pi)


class Law(Protocol):
    """Anything that can be sampled: ``sample(n, generator) -> (n, *event)``."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n independent samples."""
        ...


class PathLaw(Law, Protocol):
    """A law whose image under a Gaussian path is known in closed form."""

    def denoise(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """E[X_1 | alpha X_1 + sigma eps = x]."""
        ...

    def predict_noise(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """E[eps | alpha X_1 + sigma eps = x]."""
        ...

    def marginal_score(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of the log-density of alpha X_1 + sigma eps at x."""
        ...


def _check_points(x: Tensor, dim: int) -> None:
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, but this law lives in dimension {dim}: "
            f"pass points of shape (batch, {dim})."
        )


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """The law sum_k w_k N(m_k, C_k) on R^d, exact along every Gaussian path.

    Everything follows from one fact (`prp-mixture-marginal`): if X_1 is drawn from component k,
    then alpha X_1 + sigma eps is N(alpha m_k, alpha^2 C_k + sigma^2 I). The covariances are
    diagonalized once, so that no inverse is formed again at each time.

    Args:
        weights: ``(k,)``, nonnegative, normalized here to sum 1.
        means: ``(k, d)``.
        covs: ``(k, d, d)``, symmetric and positive definite.

    Raises:
        ValueError: shapes disagree, a weight is negative, or a covariance is not positive definite.
    """

    weights: Tensor
    means: Tensor
    covs: Tensor
    _variances: Tensor = field(init=False, repr=False, compare=False)
    _axes: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the parameters and diagonalize the covariances, C_k = A_k diag(v_k) A_k^T."""
        k, d = self.means.shape if self.means.ndim == 2 else (-1, -1)
        if k < 1 or self.weights.shape != (k,) or self.covs.shape != (k, d, d):
            raise ValueError(
                f"weights, means, covs have shapes {tuple(self.weights.shape)}, "
                f"{tuple(self.means.shape)}, {tuple(self.covs.shape)}: "
                "they must be (k,), (k, d), (k, d, d)."
            )
        if not bool((self.weights >= 0).all()) or not float(self.weights.sum()) > 0:
            raise ValueError(
                f"weights must be nonnegative with a positive sum, not {self.weights.tolist()}."
            )
        if not torch.allclose(self.covs, self.covs.mT):
            raise ValueError("covs must be symmetric: symmetrize with 0.5 * (covs + covs.mT).")
        variances, axes = torch.linalg.eigh(self.covs)
        if not bool((variances > 0).all()):
            raise ValueError(
                "covs must be positive definite, but an eigenvalue is "
                f"{variances.min().item():.3g}: add a small multiple of the identity."
            )
        object.__setattr__(self, "weights", self.weights / self.weights.sum())
        object.__setattr__(self, "_variances", variances)
        object.__setattr__(self, "_axes", axes)

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.means.shape[1]

    @property
    def mean(self) -> Tensor:
        """The mean, ``(d,)``."""
        return self.weights @ self.means

    @property
    def cov(self) -> Tensor:
        """The covariance, ``(d, d)``: mean of the covariances plus covariance of the means."""
        centred = self.means - self.mean
        outer = centred[:, :, None] * centred[:, None, :]
        return torch.einsum("k,kij->ij", self.weights, self.covs + outer)

    def to(self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None):
        """The same law in another dtype or on another device."""
        return GaussianMixture(
            self.weights.to(dtype=dtype, device=device),
            self.means.to(dtype=dtype, device=device),
            self.covs.to(dtype=dtype, device=device),
        )

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n samples, ``(n, d)``: a component, then a point of it."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(
            n, self.dim, generator=generator, dtype=self.means.dtype, device=self.means.device
        )
        spread = self._axes[k] * self._variances[k].sqrt()[:, None, :]
        return self.means[k] + torch.einsum("nij,nj->ni", spread, z)

    # -- the law itself: alpha = 1, sigma = 0 ----------------------------------------------------

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at x, ``(n, d) -> (n,)``."""
        return self.marginal_log_prob(x, 1.0, 0.0)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log-density at x, ``(n, d) -> (n, d)``."""
        return self.marginal_score(x, 1.0, 0.0)

    # -- the law of alpha X_1 + sigma eps --------------------------------------------------------

    def marginal(self, alpha: float | Tensor, sigma: float | Tensor) -> GaussianMixture:
        """The law of alpha X_1 + sigma eps for numbers alpha, sigma (`prp-mixture-marginal`)."""
        alpha, sigma = float(alpha), float(sigma)
        eye = torch.eye(self.dim, dtype=self.means.dtype, device=self.means.device)
        return GaussianMixture(
            self.weights, alpha * self.means, alpha**2 * self.covs + sigma**2 * eye
        )

    def part(self, components: Sequence[int]) -> GaussianMixture:
        """The law given that the component is one of these: of a class, if they make one up.

        Raises:
            ValueError: there is no such component, or none is named, or one is named twice.
        """
        chosen = sorted(set(components))
        if (
            not chosen
            or len(chosen) != len(components)
            or not 0 <= chosen[0] <= chosen[-1] < len(self.weights)
        ):
            raise ValueError(
                f"components={list(components)} must be distinct numbers from 0 to "
                f"{len(self.weights) - 1}, at least one."
            )
        return GaussianMixture(self.weights[chosen], self.means[chosen], self.covs[chosen])

    def _like(self, x: Tensor) -> GaussianMixture:
        """The same law in the dtype and on the device of x, so that every result follows x."""
        if (self.means.dtype, self.means.device) == (x.dtype, x.device):
            return self
        return self.to(dtype=x.dtype, device=x.device)

    def _at(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor):
        """Each component at x: deviations and variances in its own axes, and its log-density."""
        _check_points(x, self.dim)
        alpha = expand(alpha, x, "alpha").reshape(-1, 1, 1)
        sigma = expand(sigma, x, "sigma").reshape(-1, 1, 1)
        variances = alpha**2 * self._variances + sigma**2  # (1 or n, k, d)
        deviations = torch.einsum("kij,nki->nkj", self._axes, x[:, None, :] - alpha * self.means)
        log_joint = torch.log(self.weights) - 0.5 * (
            deviations**2 / variances + torch.log(variances) + _LOG_2PI
        ).sum(-1)  # (n, k)
        return alpha, variances, deviations, log_joint

    def marginal_log_prob(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """log p_t(x), ``(n,)`` (`prp-mixture-marginal`)."""
        return torch.logsumexp(self._like(x)._at(x, alpha, sigma)[-1], dim=-1)

    def posterior_weights(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """P(component = k | X_t = x), ``(n, k)``: a softmax of the components' log-densities."""
        return torch.softmax(self._like(x)._at(x, alpha, sigma)[-1], dim=-1)

    def marginal_score(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """grad log p_t(x), ``(n, d)``: the components' scores, mixed by their posterior weights.

        See `prp-mixture-score`.
        """
        law = self._like(x)
        _, variances, deviations, log_joint = law._at(x, alpha, sigma)
        scores = torch.einsum("kij,nkj->nki", law._axes, -deviations / variances)
        return torch.einsum("nk,nki->ni", torch.softmax(log_joint, -1), scores)

    def predict_noise(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """E[eps | X_t = x] = -sigma grad log p_t(x), ``(n, d)``; 0 where sigma = 0."""
        return -expand(sigma, x, "sigma") * self.marginal_score(x, alpha, sigma)

    def _component_means(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor):
        """E[X_1 | X_t = x, component k], ``(n, k, d)``, and the posterior weights ``(n, k)``."""
        alpha, variances, deviations, log_joint = self._at(x, alpha, sigma)
        gain = alpha * self._variances / variances
        shift = torch.einsum("kij,nkj->nki", self._axes, gain * deviations)
        return self.means + shift, torch.softmax(log_joint, -1)

    def denoise(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """E[X_1 | X_t = x], ``(n, d)`` (`prp-mixture-denoiser`)."""
        means, weights = self._like(x)._component_means(x, alpha, sigma)
        return torch.einsum("nk,nki->ni", weights, means)

    def conditional_covariance(
        self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor
    ) -> Tensor:
        """Cov[X_1 | X_t = x], ``(n, d, d)``: within the components plus between them.

        `prp-mixture-denoiser`; `prp-jacobian` says what it does to the velocity.
        """
        law = self._like(x)
        means, weights = law._component_means(x, alpha, sigma)
        alpha = expand(alpha, x, "alpha").reshape(-1, 1, 1)
        sigma = expand(sigma, x, "sigma").reshape(-1, 1, 1)
        remaining = law._variances * sigma**2 / (alpha**2 * law._variances + sigma**2)
        remaining = remaining.expand(len(x), -1, -1)
        within = torch.einsum("kij,nkj,klj->nkil", law._axes, remaining, law._axes)
        centred = means - torch.einsum("nk,nki->ni", weights, means)[:, None, :]
        between = centred[..., :, None] * centred[..., None, :]
        return torch.einsum("nk,nkij->nij", weights, within + between)


class Gaussian(GaussianMixture):
    """The normal law N(mean, cov) on R^d: a mixture of one component.

    Args:
        mean: ``(d,)``.
        cov: ``(d, d)``, symmetric and positive definite.
    """

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        super().__init__(torch.ones_like(mean[:1]), mean[None], cov[None])


def standard_normal(dim: int, dtype: torch.dtype = torch.float32) -> Gaussian:
    """N(0, I) in the given dimension, the law p_0 of the noise."""
    return Gaussian(torch.zeros(dim, dtype=dtype), torch.eye(dim, dtype=dtype))


@dataclass(frozen=True, eq=False)
class Empirical:
    """The uniform law on n given data, with its exact optimal denoiser (`thm-empirical-denoiser`).

    Args:
        data: ``(n, *event)``, at least one point.
        chunk: how many data are compared with a batch at a time; bounds the memory, not the result.

    Raises:
        ValueError: no data are given.
    """

    data: Tensor
    chunk: int = 4096

    def __post_init__(self) -> None:
        """Check that there are data."""
        if self.data.ndim < 2 or self.data.shape[0] < 1:
            raise ValueError(
                f"data has shape {tuple(self.data.shape)}: pass at least one point, (n, *event)."
            )

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n data with replacement, ``(n, *event)``."""
        index = torch.randint(len(self.data), (n,), generator=generator, device=self.data.device)
        return self.data[index]

    def _log_joint(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """log of (1/n) N(x; alpha data_i, sigma^2 I), ``(batch, n)``."""
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(
                f"x has events of shape {tuple(x.shape[1:])}, but the data have events of shape "
                f"{tuple(self.data.shape[1:])}: they must be equal."
            )
        flat, data = x.flatten(1), self.data.flatten(1).to(x)
        alpha, sigma = expand(alpha, flat, "alpha"), expand(sigma, flat, "sigma")
        if not bool((sigma > 0).all()):
            raise ValueError(
                "sigma must be positive: at sigma = 0 the empirical law has no density. "
                "Stop the path before t = 1."
            )
        squares = [
            torch.cdist(
                flat,
                alpha * part,
                # the faster mode expands |a - b|^2 and loses the small distances to rounding
                compute_mode="donot_use_mm_for_euclid_dist",
            )
            ** 2
            if alpha.ndim == 0
            else ((flat[:, None] - alpha[..., None] * part) ** 2).sum(-1)
            for part in data.split(self.chunk)
        ]
        distance = torch.cat(squares, dim=1)  # (batch, n)
        d = flat.shape[1]
        log_norm = 0.5 * d * (_LOG_2PI + 2.0 * torch.log(sigma)) + math.log(len(self.data))
        return -0.5 * distance / sigma**2 - log_norm

    def marginal_log_prob(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """log p_t(x), ``(batch,)``: a mixture of n Gaussians of covariance sigma^2 I."""
        return torch.logsumexp(self._log_joint(x, alpha, sigma), dim=-1)

    def posterior_weights(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """P(X_1 = data_i | X_t = x), ``(batch, n)``: a softmax over the data."""
        return torch.softmax(self._log_joint(x, alpha, sigma), dim=-1)

    def denoise(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """E[X_1 | X_t = x], ``(batch, *event)``: the data, averaged with the posterior weights."""
        weights = self.posterior_weights(x, alpha, sigma)
        return (weights @ self.data.flatten(1).to(x)).reshape(x.shape)

    def predict_noise(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """E[eps | X_t = x] = (x - alpha D) / sigma, ``(batch, *event)``."""
        denoised = self.denoise(x, alpha, sigma)
        return (x - expand(alpha, x, "alpha") * denoised) / expand(sigma, x, "sigma")

    def marginal_score(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        """grad log p_t(x) = (alpha D - x) / sigma^2, ``(batch, *event)``."""
        return -self.predict_noise(x, alpha, sigma) / expand(sigma, x, "sigma")


# -- targets in the plane, all roughly within [-3, 3]^2 ------------------------------------------


def laboratory(dtype: torch.dtype = torch.float64) -> GaussianMixture:
    """The book's laboratory: three unequal, anisotropic Gaussians in the plane (`def-laboratory`).

    Weights 0.5, 0.3, 0.2; the components differ in scale, shape and direction, so that no symmetry
    can hide a mistake.
    """
    return GaussianMixture(
        weights=torch.tensor([0.5, 0.3, 0.2], dtype=dtype),
        means=torch.tensor([[-1.6, -0.8], [1.5, -1.0], [0.4, 1.7]], dtype=dtype),
        covs=torch.tensor(
            [
                [[0.30, 0.18], [0.18, 0.25]],
                [[0.10, -0.06], [-0.06, 0.30]],
                [[0.40, 0.05], [0.05, 0.06]],
            ],
            dtype=dtype,
        ),
    )


def eight_gaussians(
    radius: float = 2.0, scale: float = 0.15, dtype: torch.dtype = torch.float32
) -> GaussianMixture:
    """Eight equal round Gaussians on a circle."""
    angles = torch.arange(8, dtype=dtype) * (math.pi / 4.0)
    means = radius * torch.stack([torch.cos(angles), torch.sin(angles)], dim=1)
    covs = (scale**2 * torch.eye(2, dtype=dtype)).expand(8, 2, 2).clone()
    return GaussianMixture(torch.full((8,), 0.125, dtype=dtype), means, covs)


def _uniform(n: int, generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
    device = generator.device if generator is not None else None
    return torch.rand(n, generator=generator, dtype=dtype, device=device)


def _blur(x: Tensor, noise: float, generator: torch.Generator | None) -> Tensor:
    return x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class TwoMoons:
    """Two interleaved half circles, uniform along each, blurred by isotropic Gaussian noise.

    Args:
        noise: standard deviation of the blur, in the units of the plane.
    """

    noise: float = 0.1
    dtype: torch.dtype = torch.float32

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, ``(n, 2)``."""
        angle = math.pi * _uniform(n, generator, self.dtype)
        upper = _uniform(n, generator, self.dtype) < 0.5
        moon = torch.where(
            upper[:, None],
            torch.stack([torch.cos(angle), torch.sin(angle)], 1),
            torch.stack([1.0 - torch.cos(angle), 0.5 - torch.sin(angle)], 1),
        )
        centre = torch.tensor([0.5, 0.25], dtype=self.dtype, device=moon.device)
        return _blur(1.6 * (moon - centre), self.noise, generator)


@dataclass(frozen=True)
class Checkerboard:
    """The uniform law on the dark squares of a 4 by 4 board that fills [-2, 2]^2.

    The dark squares are those whose column and row numbers have an even sum; there are eight, each
    of area 1, so that the density is 1/8 on them and 0 elsewhere.
    """

    dtype: torch.dtype = torch.float32

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, ``(n, 2)``: a square, then a point of it."""
        square = (8.0 * _uniform(n, generator, self.dtype)).floor().clamp(max=7.0)
        column = (square / 2.0).floor()
        row = 2.0 * (square % 2.0) + column % 2.0
        corner = torch.stack([column, row], 1) - 2.0
        inside = torch.stack([_uniform(n, generator, self.dtype) for _ in range(2)], 1)
        return corner + inside

    def log_prob(self, x: Tensor) -> Tensor:
        """-log 8 on the dark squares and -inf elsewhere, ``(n, 2) -> (n,)``."""
        _check_points(x, 2)
        on_board = (x.abs() < 2.0).all(dim=1)
        dark = (x.floor().sum(dim=1) % 2.0) == 0.0
        inside = torch.full_like(x[:, 0], -math.log(8.0))
        return torch.where(on_board & dark, inside, torch.full_like(inside, -math.inf))


@dataclass(frozen=True)
class Spiral:
    """Two arms of an Archimedean spiral, uniform in arc angle, blurred by Gaussian noise.

    Args:
        noise: standard deviation of the blur, in the units of the plane.
        turns: how often an arm goes round the centre.
    """

    noise: float = 0.05
    turns: float = 1.5
    dtype: torch.dtype = torch.float32

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, ``(n, 2)``; the square root spreads them along the growing arm."""
        progress = torch.sqrt(_uniform(n, generator, self.dtype))
        angle = 2.0 * math.pi * self.turns * progress
        side = torch.where(_uniform(n, generator, self.dtype) < 0.5, 1.0, -1.0)
        radius = 2.5 * progress * side
        arm = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1)
        return _blur(arm, self.noise, generator)
