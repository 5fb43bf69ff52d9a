"""DDIM: a family of samplers from DDPM's (eta = 1) to a method for the ODE (eta = 0)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, Number, Point, as_grid
from fromnoise.samplers._loop import normal, sampler, walk


def ddim_split(p: Point, q: Point, eta: float) -> tuple[Number, Number]:
    """How the noise at q is made up: (of what x holds, fresh); their squares sum to sigma_q^2.

    The fresh part is gamma = eta sigma_q sqrt(1 - e^(-2h)) with h = lambda_q - lambda_p: at eta = 1
    gamma^2 is the variance of X_q given X_p and X_1 (`prp-ddim-family`; Song et al. 2021, eq. 16).
    """
    if eta == 0.0:
        return q.sigma, 0.0
    new = eta**2 * (1.0 - (p.alpha * q.sigma / (q.alpha * p.sigma)) ** 2)
    return q.sigma * (1.0 - new) ** 0.5, q.sigma * new**0.5


@sampler
def ddim(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Denoise, then noise again to the next level, with a part eta of fresh noise.

        X_q = alpha_q D + sqrt(sigma_q^2 - gamma^2) eps + gamma xi

    with D the denoised data, eps = (x - alpha_p D) / sigma_p the noise that x still holds, and
    gamma from `ddim_split` (`alg-ddim`; Song, Meng and Ermon 2021, eq. 12). eta = 0 is a method of
    order 1 for the probability-flow ODE, exact where D is constant; eta = 1 is DDPM's ancestral
    sampling with the small variance. A step to sigma = 0 returns D.

    Args:
        field: of the path; exact or learned.
        x: ``(batch, *event)``, the state at the first time: sigma_0 times noise, at the start.
        times: a `fromnoise.grids.Grid`, or increasing times ``(steps + 1,)`` of the field's path.
        eta: share of fresh noise, in [0, 1].
        generator: source of the noise, on the device of x; not needed with eta = 0.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: eta lies outside [0, 1], the times do not increase, or a prediction cannot be
            had at one of them.
        NotFiniteError: a prediction was not finite; the message says where.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie in [0, 1] (0: no fresh noise, 1: DDPM's), not {eta}.")
    grid = as_grid(times, field.schedule)

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        denoised = field.predict(x, p, "data")
        held, fresh = ddim_split(p, q, eta)
        keep = held / p.sigma
        x = keep * x + (q.alpha - p.alpha * keep) * denoised
        return x + fresh * normal(x, generator) if eta else x

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)
