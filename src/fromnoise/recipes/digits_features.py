"""The reader of digits that the quality of samples is measured with (`fromnoise.digit_quality`).

Trained on all 60,000 training digits, each moved by up to two pixels, for a little less than five
epochs. The record has its accuracy on the test split, which it has never seen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fromnoise import data
from fromnoise.quality import proportion
from fromnoise.recipes._recipe import Recipe
from fromnoise.recipes.digits_conditional import CLASSES, labelled_digits
from fromnoise.targets import Classification


@torch.no_grad()
def accuracy(net: nn.Module, test: data.Images) -> dict[str, Any]:
    """Share of test images that are read rightly, with its binomial standard error."""
    weight = next(net.parameters())
    images = data.to_unit(test.images).to(weight)
    read = torch.cat([net(part).argmax(1) for part in images.split(500)]).cpu()
    found = proportion(read == test.labels)
    return {
        "accuracy": round(found.value, 6),
        "standard_error": round(found.error, 6),
        "images": len(test),
        "data_source": f"{test.source}, test",
    }


RECIPE = Recipe(
    name="digits-features",
    summary="reads handwritten digits; its features measure the quality of samples",
    data=labelled_digits,
    event=(1, 28, 28),
    network="DigitFeatures",
    options={"widths": (32, 48, 64), "features": 64, "classes": CLASSES},
    schedule=None,
    prediction=None,
    budgets={
        "cpu": {
            "steps": 2300,  # a little less than five epochs
            "batch_size": 128,
            "lr": 2e-3,
            "warmup": 100,
            "ema_decay": 0.99,
            "weight_decay": 1e-3,
        },
        "gpu": {
            "steps": 20_000,
            "batch_size": 256,
            "lr": 2e-3,
            "warmup": 500,
            "ema_decay": 0.999,
            "weight_decay": 1e-3,
        },
    },
    target=lambda path: Classification(shift=2),
    evaluate=lambda net: accuracy(net, data.digits("test")),
)
