"""Targets of rectified flow's further rounds: pairs that an earlier flow has made."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fromnoise import checkpoints
from fromnoise.couplings import Coupling, ReflowPairs, reflow_pairs
from fromnoise.paths import GaussianPath
from fromnoise.targets import Target


def reflow_target(
    path: GaussianPath,
    *,
    of: str,
    pairs: int,
    steps: int,
    seed: int,
    target: Callable[..., Target],
) -> Target:
    """``target(path, coupling=...)`` with pairs drawn from the flow of the *registered* weights.

    The pairs depend on those weights and on the numbers here alone, not on the seed of the
    training, and are made anew whenever training begins or resumes.

    Args:
        path: the path of the recipe.
        of: registered name of the earlier flow.
        pairs: how many.
        steps: of Heun's method, from t = 0 to t = 1.
        seed: of the starting points.
        target: makes the target from the path and a coupling.
    """
    flow = checkpoints.load(of)
    start = flow.draw_source(pairs, torch.Generator().manual_seed(seed))
    times = torch.linspace(0.0, 1.0, steps + 1)
    coupling: Coupling = ReflowPairs(*reflow_pairs(flow.field, start, times, chunk=256))
    return target(path, coupling=coupling)
