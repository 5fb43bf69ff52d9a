"""DDPM with the learned variance of Improved DDPM, on handwritten digits.

Ho et al. 2020's chain: 1000 steps, betas linear from 1e-4 to 0.02. The network is that of the
ablation with a second output, from which the variance of each step is interpolated (Nichol &
Dhariwal 2021). Trained by their hybrid loss, so that the bound on the likelihood can be reported in
bits per dimension.
"""

from __future__ import annotations

from fromnoise.discrete_schedules import DiscreteVP, linear_betas
from fromnoise.paths import GaussianPath
from fromnoise.recipes._recipe import Recipe
from fromnoise.recipes.digits_ablation import BUDGETS, NETWORK, digits
from fromnoise.variational import DiscreteELBO, LearnedVariance, chain_times

SCHEDULE = DiscreteVP(linear_betas())


def bound(variance: str = "learned") -> DiscreteELBO:
    """The variational bound of the recipe's chain, over all its steps."""
    return DiscreteELBO(chain_times(SCHEDULE.steps), SCHEDULE, variance, pixels=True)


def _target(path: GaussianPath) -> LearnedVariance:
    return LearnedVariance(bound())


RECIPE = Recipe(
    name="digits-ddpm",
    summary="handwritten digits; DDPM's 1000 steps with a learned variance",
    data=digits,
    event=(1, 28, 28),
    network="UNet",
    options={**NETWORK, "outputs": 2},
    schedule=SCHEDULE,
    budgets=BUDGETS,
    target=_target,
    prediction="noise",
    variance="learned",
)
