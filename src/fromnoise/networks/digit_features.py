"""A small reader of digits, whose last hidden layer measures the quality of samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fromnoise.networks.mlp import check_dtype


class DigitFeatures(nn.Module):
    """Images of digits to logits of their classes, through a few features.

    It takes the part that Inception-v3 has in the Fréchet inception distance, on digits only:
    distances between its features say nothing beyond this project. Patches of 2 x 2 pixels become
    channels, as in the digit U-Net, since most of a digit is empty. The features are standardized
    by their mean and variance over the training data, so that none rules a distance by its unit.

    Args:
        widths: channels of the three convolutions; the last runs at a quarter of the sides.
        features: number of features.
        classes: number of classes.
        size: height and width of the images, a multiple of 4.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 48, 64),
        features: int = 64,
        classes: int = 10,
        size: int = 28,
    ):
        super().__init__()
        if size < 4 or size % 4:
            raise ValueError(f"size is {size}: it must be a positive multiple of 4")
        if features < 1 or classes < 2 or min(widths) < 1:
            raise ValueError(
                f"widths={widths}, features={features}, classes={classes}: pass positive numbers, "
                "and at least 2 classes"
            )
        first, second, third = widths
        self.size, self.classes = size, classes
        self.num_features = features  # the name under which torchmetrics asks for it
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(third * (size // 4) ** 2, features, bias=False),
            nn.BatchNorm1d(features, affine=False),
        )
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """The features of images ``(batch, 1, size, size)`` in [-1, 1]: ``(batch, features)``.

        Raises:
            ValueError: x has another shape.
            TypeError: x has another dtype than the weights.
        """
        if x.ndim != 4 or x.shape[1:] != (1, self.size, self.size):
            raise ValueError(
                f"x has shape {tuple(x.shape)}: this reader takes (batch, 1, {self.size}, "
                f"{self.size}) in [-1, 1]; see fromnoise.data.to_unit"
            )
        check_dtype(x, self)
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)``; `features` says what x is and what is raised."""
        return self.head(torch.relu(self.features(x)))
