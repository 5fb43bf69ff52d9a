"""A noise-conditional score network on handwritten digits (Song & Ermon 2019, 2020).

Denoising score matching at all noise levels of a variance-exploding path, each level's error of the
score with the weight sigma^2, which is weight 1 for the error of the noise. Uniform times are noise
levels with uniform logarithm, the limit of many geometric levels.

sigma_max follows the rule of Song & Ermon 2020 (Technique 1): the largest Euclidean distance
between two training images, which is 33.75 on [-1, 1]. sigma_min is their 0.01 for pixels in [0, 1]
on the range [-1, 1], twice as wide.

The network is the denoiser `Preconditioned` around the U-Net of the ablation: its score (D - x) /
sigma^2 is (c_skip x + c_out F(c_in x) - x) / sigma^2, whose size is 1 / sigma at every level as in
NCSNv2 (Technique 3 there divides the network by sigma), and what F sees has unit size.
"""

from __future__ import annotations

from functools import partial

from fromnoise import checkpoints
from fromnoise.recipes._recipe import Recipe
from fromnoise.recipes.digits_ablation import BUDGETS, NETWORK, SIGMA_DATA, digits
from fromnoise.schedules import VE
from fromnoise.targets import Regression
from fromnoise.weightings import Uniform

SCHEDULE = VE(sigma_min=0.02, sigma_max=34.0)

RECIPE = Recipe(
    name="digits-ncsn",
    summary="handwritten digits; denoising score matching at noise levels from 34 to 0.02",
    data=digits,
    event=(1, 28, 28),
    network="Preconditioned",
    options={
        "network": {"name": "UNet", "options": NETWORK},
        "schedule": checkpoints.describe_schedule(SCHEDULE),
        "sigma_data": SIGMA_DATA,
    },
    schedule=SCHEDULE,
    budgets=BUDGETS,
    target=partial(Regression, kind="data", weighting=Uniform("noise")),
    prediction="data",
)
