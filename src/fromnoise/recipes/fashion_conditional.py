"""Clothes of a wanted kind: the conditional digit models, trained on Fashion-MNIST.

Nothing differs from ``digits-conditional`` and ``digits-dit`` but the data, so that what changes
between the two data sets is the data. ``fashion-features`` reads clothes as ``digits-features``
reads digits. They need the files of Fashion-MNIST, from the folder ``fashion-mnist`` of
``FROMNOISE_DATA`` or from the network.
"""

from __future__ import annotations

import dataclasses

from fromnoise import data
from fromnoise.labels import Labelled
from fromnoise.recipes import digits_conditional, digits_features
from fromnoise.recipes._recipe import Recipe


def labelled_clothes() -> tuple[Labelled, str]:
    """The training images in [-1, 1] with their labels, and where they came from."""
    found = data.fashion("train")
    return Labelled(data.to_unit(found.images), found.labels), f"{found.source}, with labels"


def _like(digits: str, name: str, summary: str) -> Recipe:
    recipe = next(r for r in digits_conditional.RECIPES if r.name == digits)
    return dataclasses.replace(recipe, name=name, summary=summary, data=labelled_clothes)


RECIPES = (
    _like(
        "digits-conditional",
        "fashion-conditional",
        "clothes of a wanted kind (Fashion-MNIST); the U-Net of digits-conditional",
    ),
    _like(
        "digits-dit",
        "fashion-dit",
        "clothes of a wanted kind (Fashion-MNIST); the transformer of digits-dit",
    ),
    dataclasses.replace(
        digits_features.RECIPE,
        name="fashion-features",
        summary="reads clothes (Fashion-MNIST); its features measure the quality of samples",
        data=labelled_clothes,
        evaluate=lambda net: digits_features.accuracy(net, data.fashion("test")),
    ),
)
