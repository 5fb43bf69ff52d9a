"""The digit model of ``digits-velocity`` with other couplings of noise and data.

``digits-ot`` differs from it in the coupling alone: optimal transport within a batch of 128.
``digits-reflow-1`` is trained on pairs that the flow of ``digits-velocity`` makes and starts from
its weights (rectified flow, Liu et al. 2023); ``digits-reflow-2`` likewise from
``digits-reflow-1``. In time, the pairs of a round cost as much as its training.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from fromnoise.couplings import MinibatchOT
from fromnoise.recipes import digits_ablation
from fromnoise.recipes._recipe import Recipe
from fromnoise.recipes._reflow import reflow_target
from fromnoise.targets import Regression

PAIRS, STEPS = 8192, 16  # of Heun's method, in making the pairs
# From trained weights fewer steps do, on few pairs.
_FEWER = {"cpu": {"steps": 800}, "gpu": {"steps": 10_000}}

_VELOCITY = next(r for r in digits_ablation.RECIPES if r.name == "digits-velocity")
_TARGET = partial(Regression, kind="velocity", times=digits_ablation.TIMES)


def _reflow(k: int, of: str) -> Recipe:
    return dataclasses.replace(
        _VELOCITY,
        name=f"digits-reflow-{k}",
        summary=f"handwritten digits; the U-Net of digits-velocity on pairs made by {of}",
        budgets={k: {**v, **_FEWER[k]} for k, v in _VELOCITY.budgets.items()},
        target=partial(reflow_target, of=of, pairs=PAIRS, steps=STEPS, seed=k, target=_TARGET),
        coupling=f"{PAIRS} pairs made by {of}: Heun, {STEPS} steps, seed {k}",
        start=of,
    )


RECIPES = (
    dataclasses.replace(
        _VELOCITY,
        name="digits-ot",
        summary="handwritten digits; digits-velocity with optimal transport within a batch",
        target=partial(_TARGET, coupling=MinibatchOT()),
        coupling="optimal transport within a batch",
    ),
    _reflow(1, "digits-velocity"),
    _reflow(2, "digits-reflow-1"),
)
