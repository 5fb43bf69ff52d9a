"""The digit model of ``digits-velocity`` that can be told which digit to draw.

``digits-conditional`` differs from it in one table of eleven vectors, ten labels and "no label",
and in 500 more steps, since it learns two fields: every tenth label is hidden, so that the network
predicts the velocity with and without a label (Ho & Salimans 2022). ``digits-conditional-weak`` is
the same thing done badly: half of the features and a quarter of the steps. It is what autoguidance
(Karras et al. 2024) guides away from.

``digits-dit`` is a transformer (Peebles & Xie 2023) in place of the U-Net: the same data, target,
batches and steps, and as many operations for each image (57 million, `networks.cost`). Its
parameters are twice as many, since a convolution uses each of its own at every pixel.
"""

from __future__ import annotations

import dataclasses

from fromnoise import data
from fromnoise.labels import Labelled
from fromnoise.paths import GaussianPath
from fromnoise.recipes import digits_ablation
from fromnoise.recipes._recipe import Recipe
from fromnoise.targets import LabelDropout, Regression

CLASSES, DROP = 10, 0.1


def labelled_digits() -> tuple[Labelled, str]:
    """The training digits in [-1, 1] with their labels, and where they came from."""
    found = data.digits("train")
    return Labelled(data.to_unit(found.images), found.labels), f"{found.source}, with labels"


def _target(path: GaussianPath) -> LabelDropout:
    return LabelDropout(Regression(path, "velocity", times=digits_ablation.TIMES), CLASSES, DROP)


_VELOCITY = next(r for r in digits_ablation.RECIPES if r.name == "digits-velocity")


def _recipe(
    name: str, summary: str, options: dict, network: str = "UNet", **changes: int
) -> Recipe:
    return dataclasses.replace(
        _VELOCITY,
        name=name,
        summary=summary,
        data=labelled_digits,
        network=network,
        options={**options, "classes": CLASSES},
        budgets={k: {**v, "steps": changes[k]} for k, v in _VELOCITY.budgets.items()},
        target=_target,
    )


RECIPES = (
    _recipe(
        "digits-conditional",
        "handwritten digits of a wanted class; the U-Net of digits-velocity with a label",
        digits_ablation.NETWORK,
        cpu=2000,
        gpu=20_000,
    ),
    _recipe(
        "digits-conditional-weak",
        "the same with half of the features and a quarter of the steps, for autoguidance",
        {**digits_ablation.NETWORK, "widths": (16, 32)},
        cpu=500,
        gpu=5_000,
    ),
    _recipe(
        "digits-dit",
        "handwritten digits of a wanted class; a transformer with the U-Net's operations per image",
        {"patch": 4, "dim": 104, "depth": 4, "heads": 4},
        network="DiT",
        cpu=2000,
        gpu=20_000,
    ),
)
