"""The same digit model six times: it predicts data, noise, score, velocity or v, or as EDM does.

Network, path, data, times, steps and seed are equal; only the target differs, and each target has
the loss that its papers give it: the plain squared error, but for the score, whose error counts
with the weight sigma^2 (denoising score matching as Song & Ermon 2019 weight it; unweighted it
would be the error of the noise over sigma^2, up to a million times as much near the data).

``digits-edm`` puts the same network inside EDM's preconditioning (Karras et al. 2022), with EDM's
weights and noise levels. Theirs are for data of scale 0.5; noise levels and data have one unit, so
that for data of another scale log(sigma / alpha) has the mean -1.2 + log(scale / 0.5).
"""

from __future__ import annotations

import math
from functools import partial

from fromnoise import checkpoints, data
from fromnoise.predictions import Kind
from fromnoise.recipes._recipe import Recipe
from fromnoise.schedules import CondOT
from fromnoise.targets import Regression
from fromnoise.time_samplers import LogitNormalTimes, UniformTimes
from fromnoise.weightings import EDM, Uniform

# On the straight path the noise is singular as a denoiser at t = 0, and the score at t = 1.
TIMES = UniformTimes(t_min=1e-3, t_max=1 - 1e-3)
KINDS: tuple[Kind, ...] = ("data", "noise", "score", "velocity", "v")
PATH = CondOT()
SIGMA_DATA = 0.962  # root mean square of a pixel of the training digits in [-1, 1]

NETWORK = {"widths": (32, 64), "embedding": 64, "patch": 2}  # 0.41 million parameters
BUDGETS = {
    "cpu": {
        "steps": 1500,  # a little more than three epochs
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
}


def digits():
    """The training digits in [-1, 1], and where they came from."""
    found = data.digits("train")
    return data.to_unit(found.images), found.source


def _recipe(kind: Kind) -> Recipe:
    weighting = Uniform("noise") if kind == "score" else None
    return Recipe(
        name=f"digits-{kind}",
        summary=f"handwritten digits; a small U-Net that predicts the {kind} (equal budgets)",
        data=digits,
        event=(1, 28, 28),
        network="UNet",
        options=NETWORK,
        schedule=PATH,
        budgets=BUDGETS,
        target=partial(Regression, kind=kind, weighting=weighting, times=TIMES),
        prediction=kind,
    )


EDM_TIMES = LogitNormalTimes(  # of the logit, which on this path is log(alpha / sigma)
    mean=1.2 - math.log(SIGMA_DATA / 0.5), std=1.2, t_min=TIMES.t_min, t_max=TIMES.t_max
)
_EDM = Recipe(
    name="digits-edm",
    summary="handwritten digits; the same U-Net with EDM's preconditioning, weights and times",
    data=digits,
    event=(1, 28, 28),
    network="Preconditioned",
    options={
        "network": {"name": "UNet", "options": NETWORK},
        "schedule": checkpoints.describe_schedule(PATH),
        "sigma_data": SIGMA_DATA,
    },
    schedule=PATH,
    budgets=BUDGETS,
    target=partial(Regression, kind="data", weighting=EDM(SIGMA_DATA), times=EDM_TIMES),
    prediction="data",
)

RECIPES = (*(_recipe(kind) for kind in KINDS), _EDM)
