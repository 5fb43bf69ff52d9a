"""Variational autoencoders: an encoder, a decoder, and the bound that trains both."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fromnoise._shapes import check_same_shape


def kl_from_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag exp log_variance) || N(0, I)) in nats, summed over the event: ``(batch,)``.

    Args:
        mean: ``(batch, *event)``.
        log_variance: the same shape.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).flatten(1).sum(1)


class Autoencoder(nn.Module, ABC):
    """What the variants share: latent z ~ N(0, I), decoder N(mean(z), noise I), and the bound.

    A subclass gives `encode` and `decode`. ``latent_shape`` is the shape of z, ``latent`` the
    number of its coordinates.
    """

    def __init__(self, latent: int | tuple[int, ...], noise: float):
        super().__init__()
        self.latent_shape = (latent,) if isinstance(latent, int) else tuple(latent)
        self.latent = math.prod(self.latent_shape)
        if self.latent < 1:
            raise ValueError(f"latent is {latent}: it must be at least 1")
        if not noise > 0.0:
            raise ValueError(f"noise is {noise}: the decoder's variance must be positive")
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise)))

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each ``(batch, *latent_shape)``."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z), ``(batch, *event)``, for z ``(batch, *latent_shape)``."""

    @property
    def noise(self) -> Tensor:
        """The decoder's variance, learned with the rest."""
        return self.log_noise.exp()

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) of each pair, in nats, ``(batch,)``.

        Raises:
            ValueError: the decoder's output has another shape than x.
        """
        decoded = self.decode(z)
        check_same_shape(decoded, x, "the decoder's mean", "x")
        square = (x - decoded).square().flatten(1)
        return -0.5 * (square / self.noise + self.log_noise + math.log(2 * math.pi)).sum(1)

    def elbo(
        self, x: Tensor, generator: torch.Generator | None = None, beta: float = 1.0
    ) -> Tensor:
        """A draw of the evidence lower bound for each x, ``(batch,)`` in nats (`thm-elbo`).

        log p(x | z) - beta KL(q(z | x) || N(0, I)) with z = mean + std eps, so that the draw is a
        differentiable function of the encoder (`prp-reparameterization-gradient`; Kingma & Welling
        2014).

        Args:
            x: ``(batch, *event)``.
            generator: source of eps, on the device of x.
            beta: weight of the KL term; 1 for the bound.
        """
        mean, log_variance = self.encode(x)
        eps = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        log_prob = self.log_likelihood(x, mean + torch.exp(0.5 * log_variance) * eps)
        return log_prob - beta * kl_from_standard(mean, log_variance)

    @torch.no_grad()
    def sample(
        self, n: int, generator: torch.Generator | None = None, noisy: bool = False
    ) -> Tensor:
        """n samples: the decoder's mean at z ~ N(0, I), with its noise added if ``noisy``."""
        z = torch.randn((n, *self.latent_shape), generator=generator, dtype=self.log_noise.dtype)
        x = self.decode(z.to(self.log_noise.device))
        if not noisy:
            return x
        eps = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        return x + self.noise.sqrt() * eps


class LinearVAE(Autoencoder):
    """Linear encoder and decoder: its best bound is the likelihood of probabilistic PCA.

    `thm-linear-vae`. The encoder's covariance is diagonal and the same for all x.

    Args:
        dim: dimension d of the data.
        latent: dimension of the latent, below d.
        noise: the decoder's variance to begin with.
    """

    def __init__(self, dim: int, latent: int, noise: float = 1.0):
        super().__init__(latent, noise)
        self.mean = nn.Parameter(torch.zeros(dim))
        self.weight = nn.Parameter(torch.randn(dim, latent) / dim**0.5)  # W
        self.encoder = nn.Parameter(torch.randn(latent, dim) / dim**0.5)  # V
        self.log_variance = nn.Parameter(torch.zeros(latent))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """V (x - m) and the log-variance, each ``(batch, latent)``."""
        mean = (x - self.mean) @ self.encoder.T
        return mean, self.log_variance.expand_as(mean)

    def decode(self, z: Tensor) -> Tensor:
        """W z + m, ``(batch, dim)``."""
        return z @ self.weight.T + self.mean

    def marginal(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance W W^T + noise I of the model's law of x."""
        identity = torch.eye(len(self.mean), dtype=self.weight.dtype, device=self.weight.device)
        return self.mean, self.weight @ self.weight.T + self.noise * identity


class VAE(Autoencoder):
    """Encoder and decoder of two hidden layers, for points or flattened images.

    Args:
        event: shape of one datum.
        latent: dimension of the latent.
        hidden: width of the hidden layers.
        noise: the decoder's variance to begin with.
    """

    def __init__(self, event: tuple[int, ...], latent: int, hidden: int = 128, noise: float = 0.1):
        super().__init__(latent, noise)
        self.event = tuple(event)
        dim = math.prod(self.event)

        def layers(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                nn.Linear(hidden, outputs),
            )  # fmt: skip

        self.encoder, self.decoder = layers(dim, 2 * latent), layers(latent, dim)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each ``(batch, latent)``."""
        return self.encoder(x.flatten(1)).chunk(2, dim=1)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z), ``(batch, *event)``."""
        return self.decoder(z).reshape(-1, *self.event)


class ConvVAE(Autoencoder):
    """Convolutions that halve the sides of an image twice, and their mirror image.

    Args:
        event: ``(channels, height, width)``, the sides multiples of 4.
        latent: dimension of the latent.
        channels: of the first convolution; the second has twice as many.
        noise: the decoder's variance to begin with.

    Raises:
        ValueError: event is no image, or a side is not a multiple of 4.
    """

    def __init__(self, event: tuple[int, ...], latent: int, channels: int = 32, noise: float = 0.1):
        super().__init__(latent, noise)
        if len(event) != 3 or event[1] % 4 or event[2] % 4:
            raise ValueError(
                f"event is {tuple(event)}: pass (channels, height, width) with sides that are "
                "multiples of 4; pad the images, or use VAE, which flattens them."
            )
        colours, height, width = event
        self.small = (2 * channels, height // 4, width // 4)
        inner = math.prod(self.small)
        self.encoder = nn.Sequential(
            nn.Conv2d(colours, channels, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(inner, 2 * latent),
        )  # fmt: skip
        self.widen = nn.Linear(latent, inner)
        self.decoder = nn.Sequential(
            nn.SiLU(), nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.SiLU(), nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1),
            nn.SiLU(), nn.Conv2d(channels, colours, 3, padding=1),
        )  # fmt: skip

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each ``(batch, latent)``."""
        return self.encoder(x).chunk(2, dim=1)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z), ``(batch, *event)``."""
        return self.decoder(self.widen(z).unflatten(1, self.small))
