"""A flow from noise to handwritten digits, without classes: the book's first image model."""

from fromnoise import data
from fromnoise.recipes._recipe import Recipe
from fromnoise.schedules import CondOT


def _digits():
    found = data.digits("train")
    return data.to_unit(found.images), found.source


RECIPE = Recipe(
    name="digits-flow",
    summary="handwritten digits (MNIST, 28 × 28) by conditional flow matching with a U-Net",
    data=_digits,
    event=(1, 28, 28),
    network="UNet",
    options={"widths": (64, 96), "embedding": 128, "patch": 2},  # 1.08 million parameters
    schedule=CondOT(),
    budgets={
        "cpu": {
            "steps": 2400,  # five epochs
            "batch_size": 128,
            "lr": 1e-3,
            "warmup": 100,
            "ema_decay": 0.995,
            "betas": (0.9, 0.99),
        },
        "gpu": {
            "steps": 20_000,
            "batch_size": 256,
            "lr": 1e-3,
            "warmup": 500,
            "ema_decay": 0.9995,
            "betas": (0.9, 0.99),
        },
    },
)
