"""How good a trained denoiser is, and how digit-like its samples: crude measures, named as such.

`denoising_errors` compares networks noise level by noise level, in a unit that none of them was
trained in. `ink_classifier` is a small network that reads digits; its confidence in samples is no
Fréchet distance and no inception score of a published kind, but it needs no download and shows
which of two models makes more legible digits. Both are for comparisons within this book.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromnoise._shapes import as_time
from fromnoise.fields import Field
from fromnoise.paths import GaussianPath
from fromnoise.schedules import Schedule


@torch.no_grad()
def denoising_errors(
    field: Field,
    data: Tensor,
    t: float,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> Tensor:
    """|D_t(X_t) - X_1|^2 over the number of coordinates, for each datum, ``(n,)``.

    The error in any other unit is this times the same number for every model at that time
    (`prp-error-multiples`), so that ratios between models need no unit.

    Args:
        field: of the path that it was trained on.
        data: ``(n, *event)``.
        t: one time, in [0, 1].
        generator: source of the noise; equal generators give equal draws for every field.
        batch_size: how many are denoised at once; does not change the noise.

    Raises:
        ValueError: t lies outside [0, 1], or the field has no denoiser there.
    """
    sample = GaussianPath(field.schedule).sample(data, t, generator=generator)
    parts = zip(sample.x.split(batch_size), data.split(batch_size), strict=True)
    return torch.cat([(field.denoise(x, t) - y).square().flatten(1).mean(1) for x, y in parts])


@dataclass(frozen=True, eq=False)
class AffineField(Field):
    """The best affine denoiser of some data: that of the Gaussian law with their mean and spread.

    What a network is worth is what it does better than this one (`prp-gap-bound`).

    Attributes:
        path_schedule: alpha and sigma.
        mean: ``(*event)``.
        spectrum: ``(d,)``, eigenvalues of the covariance.
        basis: ``(d, d)``, its eigenvectors in columns.
    """

    path_schedule: Schedule
    mean: Tensor
    spectrum: Tensor
    basis: Tensor

    @classmethod
    def of(cls, data: Tensor, schedule: Schedule) -> AffineField:
        """From data ``(n, *event)``, n >= 2."""
        flat = data.flatten(1)
        spectrum, basis = torch.linalg.eigh(torch.cov(flat.T))
        return cls(schedule, data.mean(0), spectrum.clamp(min=0.0), basis)

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma."""
        return self.path_schedule

    def _project(self, x: Tensor, t: float | Tensor, gain: Callable[..., Tensor]) -> Tensor:
        time = as_time(t, x)
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        place = (x - alpha * self.mean).flatten(1) @ self.basis
        alpha, sigma = (v if v.ndim == 0 else v.reshape(-1, 1) for v in (alpha, sigma))
        return ((gain(alpha, sigma) * place) @ self.basis.T).reshape(x.shape)

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """mean + alpha S (alpha^2 S + sigma^2)^{-1} (x - alpha mean)."""
        s = self.spectrum
        return self.mean + self._project(x, t, lambda a, b: a * s / (a**2 * s + b**2))

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """sigma (alpha^2 S + sigma^2)^{-1} (x - alpha mean)."""
        return self._project(x, t, lambda a, b: b / (a**2 * self.spectrum + b**2))


def ink_classifier(images: Tensor, labels: Tensor, *, epochs: int = 20, seed: int = 0) -> nn.Module:
    """A small reader of digits: 784 pixels, 256 hidden units, 10 classes; trained in seconds.

    Args:
        images: ``(n, 1, 28, 28)`` in [-1, 1].
        labels: ``(n,)``, 0 to 9.
        epochs: passes over the images.
        seed: of the initial weights and of the order.

    Returns:
        A network from images to logits ``(n, 10)``, in evaluation mode.
    """
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(images[0].numel(), 256), nn.ReLU(), nn.Linear(256, 10)
        )
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=order).split(128):
            loss = functional.cross_entropy(net(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def confidence(classifier: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest class probability of each image, and that class, ``(n,)`` each."""
    return functional.softmax(classifier(x), dim=1).max(dim=1)


def diversity(x: Tensor, labels: Tensor) -> Tensor:
    """Mean squared distance of two samples with the same label, for each label that occurs.

    Twice the total variance of the class, estimated without bias.

    Args:
        x: ``(n, *event)``.
        labels: ``(n,)``; every label that occurs must occur at least twice.

    Returns:
        One number for each label in increasing order.

    Raises:
        ValueError: a label occurs once.
    """
    flat, out = x.flatten(1).double(), []
    for label in labels.unique():
        part = flat[labels == label]
        if len(part) < 2:
            raise ValueError(f"label {int(label)} occurs once: distances need two samples of it.")
        out.append(2.0 * part.var(dim=0).sum())
    return torch.stack(out)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of independent values and its standard error."""
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def jackknife(
    statistic: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor, blocks: int = 10
) -> tuple[float, float]:
    """A two-sample statistic and its standard error, by leaving out one block of both at a time.

    Args:
        statistic: of two samples, such as `fromnoise.metrics.energy_distance`.
        x: ``(n, *event)``, independent draws.
        y: ``(n, *event)``, independent draws.
        blocks: at least 2, at most n / 2.

    Raises:
        ValueError: the samples differ in size, or `blocks` does not fit.
    """
    if len(x) != len(y) or not 2 <= blocks <= len(x) // 2:
        raise ValueError(
            f"x has {len(x)} draws, y {len(y)}, blocks = {blocks}: pass as many of the one as of "
            "the other, and from 2 blocks to half as many."
        )
    block = torch.arange(len(x)) * blocks // len(x)
    left = torch.tensor([statistic(x[block != k], y[block != k]) for k in range(blocks)])
    spread = (blocks - 1) * (left - left.mean()).square().mean()
    return statistic(x, y), spread.sqrt().item()
