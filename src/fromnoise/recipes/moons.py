"""Flows from eight Gaussians to two moons that differ in nothing but the coupling.

``moons-flow`` pairs source and data independently, ``moons-ot`` by optimal transport within a
batch. ``moons-reflow-1`` is trained on pairs that the flow of ``moons-flow`` makes (rectified flow,
Liu et al. 2023) and starts from its weights; ``moons-reflow-2`` does the same with
``moons-reflow-1``. So "reflow k" has been rectified k times after the first training; Liu et al.
call ``moons-flow`` the 1-rectified flow already.
"""

from __future__ import annotations

from functools import partial

from fromnoise.couplings import FromSource, MinibatchOT
from fromnoise.distributions import TwoMoons, eight_gaussians
from fromnoise.recipes._recipe import Recipe
from fromnoise.recipes._reflow import reflow_target
from fromnoise.schedules import CondOT
from fromnoise.targets import ConditionalFlowMatching

SOURCE = {"name": "eight_gaussians", "options": {"radius": 2.0, "scale": 0.15}}
PAIRS, STEPS = 50_000, 64  # of Heun's method, in making the pairs

_BUDGETS = {
    "cpu": {"steps": 6_000, "batch_size": 256, "lr": 2e-3, "warmup": 100, "ema_decay": 0.999},
    "gpu": {"steps": 40_000, "batch_size": 1024, "lr": 2e-3, "warmup": 200, "ema_decay": 0.9995},
}


def _moons():
    return TwoMoons(), "two moons, drawn anew at every step"


def _recipe(name, summary, target, coupling=None, start=None):
    return Recipe(
        name=name,
        summary=summary,
        data=_moons,
        event=(2,),
        network="MLP",
        options={"dim": 2, "hidden": 128, "depth": 3},
        schedule=CondOT(),
        budgets=_BUDGETS,
        target=target,
        source=SOURCE,
        coupling=coupling,
        start=start,
    )


def _reflow(k: int, of: str):
    return _recipe(
        f"moons-reflow-{k}",
        f"eight Gaussians to two moons, on pairs made by {of}",
        partial(
            reflow_target, of=of, pairs=PAIRS, steps=STEPS, seed=k, target=ConditionalFlowMatching
        ),
        coupling=f"{PAIRS} pairs made by {of}: Heun, {STEPS} steps, seed {k}",
        start=of,
    )


_EIGHT = FromSource(eight_gaussians(**SOURCE["options"]))

RECIPES = (
    _recipe(
        "moons-flow",
        "eight Gaussians to two moons, paired independently",
        partial(ConditionalFlowMatching, coupling=_EIGHT),
    ),
    _recipe(
        "moons-ot",
        "eight Gaussians to two moons, paired by optimal transport within a batch",
        partial(ConditionalFlowMatching, coupling=MinibatchOT(_EIGHT)),
        coupling="optimal transport within a batch",
    ),
    _reflow(1, "moons-flow"),
    _reflow(2, "moons-reflow-1"),
)
