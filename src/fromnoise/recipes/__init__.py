"""Named recipes: what the book trains, each in one small file of this folder.

``recipes.train("digits-flow")`` and ``fromnoise train digits-flow`` do the same thing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fromnoise.recipes import (
    checkerboard_flow,
    digits_ablation,
    digits_conditional,
    digits_couplings,
    digits_ddpm,
    digits_features,
    digits_flow,
    digits_latent,
    digits_ncsn,
    fashion_conditional,
    moons,
)
from fromnoise.recipes._recipe import Recipe
from fromnoise.training import Trained

__all__ = ["Recipe", "get", "names", "train"]

_RECIPES = {
    r.name: r
    for r in (
        checkerboard_flow.RECIPE,
        digits_flow.RECIPE,
        *digits_ablation.RECIPES,
        *digits_conditional.RECIPES,
        *digits_couplings.RECIPES,
        digits_ddpm.RECIPE,
        digits_features.RECIPE,
        *digits_latent.RECIPES,
        digits_ncsn.RECIPE,
        *fashion_conditional.RECIPES,
        *moons.RECIPES,
    )
}


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(_RECIPES)


def get(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        ValueError: if there is none; the message lists those there are.
    """
    if name not in _RECIPES:
        raise ValueError(f"no recipe is called {name!r}: there are {', '.join(names())}")
    return _RECIPES[name]


def train(name: str, budget: str = "cpu", out: str | Path | None = None, **options: Any) -> Trained:
    """Train a recipe by name; ``options`` are those of :meth:`Recipe.train`."""
    return get(name).train(budget, out=out, **options)
