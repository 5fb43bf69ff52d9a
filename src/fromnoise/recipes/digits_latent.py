"""Latent diffusion of digits in two stages: an autoencoder, and a model of its latents.

``digits-kl-vae`` maps a digit to 4 x 7 x 7 numbers and back (Rombach et al. 2022, with a learned
scale of the decoder's noise and the whole KL term, so that its loss is the bound of `thm-elbo`).
``digits-latent-dit`` is the transformer of ``digits-dit`` on those latents: draws of the posterior,
anew in every batch, brought to variance 1. Its tokens are single places of the latent, as many as
``digits-dit`` has patches of 4 x 4 pixels.
"""

from __future__ import annotations

import functools
from typing import Any

from fromnoise import checkpoints, latents
from fromnoise.labels import Labelled
from fromnoise.paths import GaussianPath
from fromnoise.recipes import digits_ablation, digits_conditional
from fromnoise.recipes._recipe import Recipe
from fromnoise.targets import LabelDropout, Regression, VariationalAutoencoder
from fromnoise.time_samplers import UniformTimes

FIRST_STAGE = "digits-kl-vae"
LATENT = (4, 7, 7)


@functools.lru_cache(maxsize=1)
def _encoded() -> tuple[latents.Posteriors, Labelled, str]:
    """The latents of the *registered* first stage, the digits, and where these came from."""
    digits, source = digits_conditional.labelled_digits()
    net = checkpoints.load(FIRST_STAGE).net
    return latents.encode_dataset(net, digits.x), digits, source


def _data() -> tuple[Labelled, str]:
    posteriors, digits, source = _encoded()
    return Labelled(posteriors.stacked(), digits.labels), f"{source}, encoded by {FIRST_STAGE}"


def _target(path: GaussianPath) -> latents.LatentTarget:
    flow = LabelDropout(
        Regression(path, "velocity", times=UniformTimes()),
        digits_conditional.CLASSES,
        digits_conditional.DROP,
    )
    return latents.LatentTarget(flow, _encoded()[0].statistics())


def _first_stage() -> dict[str, Any]:
    """What the record says of the latents: whose they are, and how they were standardized."""
    return checkpoints.describe_latents(FIRST_STAGE, _encoded()[0].statistics())


RECIPES = (
    Recipe(
        name=FIRST_STAGE,
        summary="an autoencoder of handwritten digits; the first stage of latent diffusion",
        data=digits_ablation.digits,
        event=(1, 28, 28),
        network="ImageVAE",
        options={"event": (1, 28, 28), "factor": 4, "channels": 4, "widths": (32, 64),
                 "noise": 0.05},
        schedule=None,
        prediction=None,
        budgets={
            "cpu": {**digits_ablation.BUDGETS["cpu"], "steps": 2000, "lr": 2e-3},
            "gpu": digits_ablation.BUDGETS["gpu"],
        },
        target=lambda path: VariationalAutoencoder(),
    ),
    Recipe(
        name="digits-latent-dit",
        summary=f"handwritten digits of a wanted class; a transformer on latents of {FIRST_STAGE}",
        data=_data,
        event=LATENT,
        network="DiT",
        options={"channels": LATENT[0], "size": LATENT[1], "patch": 1, "dim": 96, "depth": 4,
                 "heads": 4, "classes": digits_conditional.CLASSES},
        schedule=digits_ablation.PATH,
        budgets=digits_ablation.BUDGETS,
        target=_target,
        latents=_first_stage,
    ),
)  # fmt: skip
