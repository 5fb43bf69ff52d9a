"""Data that carry a label each: what a conditional model is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Labelled:
    """Data and their labels, indexed together.

    Attributes:
        x: ``(n, *event)``.
        labels: int64 ``(n,)``, from 0.

    Raises:
        ValueError: there is not one label for each datum, or a label is negative.
        TypeError: the labels are no whole numbers.
    """

    x: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check that data and labels belong together."""
        if self.labels.shape != self.x.shape[:1]:
            raise ValueError(
                f"labels has shape {tuple(self.labels.shape)} and x has shape "
                f"{tuple(self.x.shape)}: pass one label for each datum."
            )
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels is {self.labels.dtype}: pass int64 (labels.long()).")
        if len(self.labels) and int(self.labels.min()) < 0:
            raise ValueError("labels has negative entries: labels count from 0.")

    def __len__(self) -> int:
        """The number of data."""
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Labelled:
        """The data of some rows, with their labels."""
        return _checked(self.x[rows], self.labels[rows])

    @property
    def device(self) -> torch.device:
        """Where the data are."""
        return self.x.device

    def to(self, device: torch.device, dtype: torch.dtype) -> Labelled:
        """On another device, the data (not the labels) in another precision."""
        return _checked(self.x.to(device, dtype), self.labels.to(device))


def _checked(x: Tensor, labels: Tensor) -> Labelled:
    # What comes of checked data needs no second look: a GPU would be waited for at every batch.
    made = object.__new__(Labelled)
    object.__setattr__(made, "x", x)
    object.__setattr__(made, "labels", labels)
    return made
