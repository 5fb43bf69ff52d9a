"""A flow from noise to the checkerboard: the smallest model worth training."""

from fromnoise.distributions import Checkerboard
from fromnoise.recipes._recipe import Recipe
from fromnoise.schedules import CondOT


def _checkerboard():
    return Checkerboard(), "drawn anew at every step"


RECIPE = Recipe(
    name="checkerboard-flow",
    summary="the checkerboard in the plane by conditional flow matching with an MLP",
    data=_checkerboard,
    event=(2,),
    network="MLP",
    options={"dim": 2, "hidden": 128, "depth": 3},
    schedule=CondOT(),
    budgets={
        "cpu": {
            "steps": 8_000,
            "batch_size": 512,
            "lr": 2e-3,
            "warmup": 200,
            "ema_decay": 0.999,
        },
        "gpu": {
            "steps": 40_000,
            "batch_size": 4096,
            "lr": 2e-3,
            "warmup": 200,
            "ema_decay": 0.999,
        },
    },
)
