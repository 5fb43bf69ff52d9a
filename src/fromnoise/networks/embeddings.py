"""How a network is told the time (sinusoids, then a small MLP) and a label (a table)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def time_vector(t: float | Tensor, x: Tensor) -> Tensor:
    """One time per item of the batch: shape ``(batch,)``, dtype and device of ``x``.

    ``t`` is a float, a 0-dim tensor, or a tensor with one entry or with ``batch`` entries (so a
    time already shaped ``(batch, 1, ..., 1)`` serves too). Its value is not checked here: paths
    and fields do that, and a network may well be conditioned on another label of the noise level.

    Raises:
        ValueError: if ``t`` has neither 1 nor ``batch`` entries.
    """
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if t.numel() not in (1, len(x)):
        raise ValueError(
            f"t has shape {tuple(t.shape)} but x has a batch of {len(x)}: "
            "pass one time, or one time for each item of the batch"
        )
    return t.reshape(-1).expand(len(x))


def sinusoids(t: Tensor, dim: int, highest: float = 1000.0) -> Tensor:
    """Sinusoidal features of the time, shape ``(batch, dim)``.

    Cosines and sines of ``t`` at ``dim / 2`` angular frequencies, geometrically spaced from 1 (so
    that the slowest one is monotone on [0, 1]) to ``highest``. The idea is the positional
    encoding of the Transformer, applied to a time in [0, 1].

    Raises:
        ValueError: if ``dim`` is odd or smaller than 4.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"dim is {dim}: it must be even and at least 4")
    exponent = torch.linspace(0.0, 1.0, dim // 2, dtype=t.dtype, device=t.device)
    angle = t[:, None] * torch.exp(exponent * math.log(highest))  # (batch, dim / 2)
    return torch.cat([angle.cos(), angle.sin()], dim=1)  # (batch, dim)


class TimeEmbedding(nn.Module):
    """Sinusoids of the time through a two-layer MLP: ``(batch,)`` to ``(batch, width)``."""

    def __init__(self, width: int, frequencies: int = 64):
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(
            nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, t: Tensor) -> Tensor:
        """Embed the times ``t`` of shape ``(batch,)``."""
        return self.mlp(sinusoids(t, self.frequencies))  # (batch, width)


class LabelEmbedding(nn.Module):
    """A learned vector for each label 0, ..., classes - 1, and one more for "no label".

    "No label" is the label ``classes``, the last row of the table. A network that was trained with
    some of its labels replaced by it is a conditional and an unconditional one
    (`prp-label-dropout`).

    Args:
        classes: how many labels there are, at least 1.
        width: of a vector.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes is {classes}: it must be at least 1")
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, labels: int | Tensor | None, batch: int) -> Tensor:
        """The vectors ``(batch, width)`` of the labels: one, one for each item, or None for none.

        Raises:
            ValueError: there is neither one label nor one for each item.
        """
        labels = self.classes if labels is None else labels
        labels = torch.as_tensor(labels, device=self.table.weight.device)
        if labels.numel() not in (1, batch):
            raise ValueError(
                f"labels has shape {tuple(labels.shape)} but x has a batch of {batch}: pass one "
                "label, or one label for each item of the batch"
            )
        return self.table(labels.reshape(-1).expand(batch))


def check_conditional(embedding: nn.Module | None, labels: int | Tensor | None) -> None:
    """Raise a ``ValueError`` if there are labels and the network was built without a table."""
    if embedding is None and labels is not None:
        raise ValueError(
            "labels: this network was built without classes and cannot be told a label; leave "
            "labels out, or train one with classes, such as the recipe digits-conditional"
        )
