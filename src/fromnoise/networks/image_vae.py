"""A variational autoencoder of images whose latent is a smaller image: the first stage of LDM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromnoise.networks.mlp import check_dtype
from fromnoise.networks.vae import Autoencoder

LOG_VARIANCE = 10.0  # the posterior's log-variance lies in (-10, 10) unless said otherwise


class ImageVAE(Autoencoder):
    """Images ``(batch, c, h, w)`` to latents ``(batch, channels, h / f, w / f)`` and back.

    The encoder of Rombach et al. 2022, reduced: a diagonal normal posterior for each place of a
    latent image, and no layer that mixes places other than by convolution, so that the latent keeps
    the layout of the image. The first factor of 2 is a fold of 2 x 2 pixels into channels; each
    further one is a convolution of stride 2.

    The log-variance is r tanh(raw / r): it lies in (-r, r), is the network's raw output near 0, and
    has a gradient everywhere, which a clamp has not.

    Args:
        event: ``(c, height, width)``; height + 2 pad and width + 2 pad are multiples of `factor`.
        factor: f, by which the sides shrink: 2, 4 or 8.
        channels: of the latent.
        widths: features at resolutions 1/2, 1/4, ..., 1/f; the last is repeated where the list is
            short, and a longer one is cut. Multiples of `groups`.
        blocks: residual blocks at each resolution, on each way.
        groups: groups of the group normalization.
        pad: pixels of `fill` that are put around the image before encoding; cut off after decoding.
        fill: their value, the background of the digits.
        noise: the decoder's variance (to begin with, if it is learned).
        learn_noise: whether that variance is learned with the rest.
        log_variance_range: r, above.

    Raises:
        ValueError: event is no image, the factor is another or does not divide the sides, or one of
            the numbers is out of its range.
    """

    def __init__(
        self,
        event: Sequence[int] = (1, 28, 28),
        factor: int = 4,
        channels: int = 4,
        widths: Sequence[int] = (32, 64, 64),
        blocks: int = 1,
        groups: int = 8,
        pad: int = 0,
        fill: float = -1.0,
        noise: float = 0.1,
        learn_noise: bool = True,
        log_variance_range: float = LOG_VARIANCE,
    ):
        event = tuple(event)
        if factor not in (2, 4, 8):
            raise ValueError(f"factor is {factor}: choose 2, 4 or 8")
        if channels < 1 or blocks < 1 or pad < 0 or not log_variance_range > 0.0:
            raise ValueError(
                f"channels={channels}, blocks={blocks}, pad={pad}, log_variance_range="
                f"{log_variance_range}: the first two must be at least 1, pad at least 0 and the "
                "range positive"
            )
        if len(event) != 3 or any((n + 2 * pad) % factor for n in event[1:]):
            raise ValueError(
                f"event is {event}: pass (channels, height, width) with sides that are multiples "
                f"of factor={factor} once pad={pad} pixels are added at each end; choose another "
                "factor, or another pad (2 takes 28 to 32)"
            )
        if not widths or any(w % groups or w < 1 for w in widths):
            raise ValueError(
                f"widths is {tuple(widths)}: each must be a positive multiple of groups={groups}"
            )
        colours, height, width = event
        sides = ((height + 2 * pad) // factor, (width + 2 * pad) // factor)
        super().__init__((channels, *sides), noise)
        self.log_noise.requires_grad_(learn_noise)
        self.event, self.factor, self.channels = event, factor, channels
        self.pad, self.fill, self.range = pad, float(fill), float(log_variance_range)

        levels = factor.bit_length() - 1  # 1, 2 or 3
        w = [widths[min(i, len(widths) - 1)] for i in range(levels)]
        down: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * colours, w[0], 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(channels, w[-1], 3, padding=1)]
        for i in range(levels):
            if i:
                down.append(nn.Conv2d(w[i - 1], w[i], 3, stride=2, padding=1))
            down += [Residual(w[i], groups) for _ in range(blocks)]
        for i in reversed(range(levels)):
            up += [Residual(w[i], groups) for _ in range(blocks)]
            if i:
                up += [nn.Upsample(scale_factor=2.0), nn.Conv2d(w[i], w[i - 1], 3, padding=1)]
        self.encoder = nn.Sequential(*down, *_leave(w[-1], 2 * channels, groups))
        self.decoder = nn.Sequential(*up, *_leave(w[0], 4 * colours, groups), nn.PixelShuffle(2))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each ``(batch, channels, h / f, w / f)``.

        Args:
            x: ``(batch, *event)``, in [-1, 1].

        Raises:
            ValueError: x is not a batch of images of the network's shape.
            TypeError: x has another dtype than the weights.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != self.event:
            raise ValueError(
                f"x has shape {tuple(x.shape)}: this autoencoder takes (batch, "
                f"{', '.join(map(str, self.event))}); resize x, or build one with event="
                f"{tuple(x.shape[1:])}"
            )
        check_dtype(x, self)
        padded = functional.pad(x, (self.pad,) * 4, value=self.fill) if self.pad else x
        mean, raw = self.encoder(padded).chunk(2, dim=1)
        return mean, self.range * torch.tanh(raw / self.range)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z), ``(batch, *event)``, for z ``(batch, channels, h / f, w / f)``.

        Raises:
            ValueError: z is not a batch of latents of the network's shape.
            TypeError: z has another dtype than the weights.
        """
        if z.ndim != 4 or tuple(z.shape[1:]) != self.latent_shape:
            raise ValueError(
                f"z has shape {tuple(z.shape)}: this autoencoder decodes (batch, "
                f"{', '.join(map(str, self.latent_shape))})"
            )
        check_dtype(z, self)
        x = self.decoder(z)
        return x[..., self.pad : -self.pad, self.pad : -self.pad] if self.pad else x

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction: the decoder's mean at the posterior's mean, ``(batch, *event)``."""
        return self.decode(self.encode(x)[0])


class Residual(nn.Module):
    """x plus two 3 x 3 convolutions of it, each behind a group normalization; x itself at first."""

    def __init__(self, width: int, groups: int):
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(groups, width), nn.SiLU(), last,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``(b, width, h, w)`` to the same shape."""
        return x + self.layers(x)


def _leave(width: int, outputs: int, groups: int) -> tuple[nn.Module, ...]:
    """Normalize, bend, and convolve to the outputs."""
    return nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, outputs, 3, padding=1)
