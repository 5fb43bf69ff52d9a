"""DDIM run backwards: from data to the noise that DDIM would have made them of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.fields import Field
from fromnoise.grids import Grid, as_grid
from fromnoise.samplers._loop import sampler, walk
from fromnoise.samplers.exponential import combine, need_signal, transfer


@sampler
def ddim_invert(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    iterations: int = 1,
    tolerance: float | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """The noise z with ddim(field, z, times) = x, approximately or to rounding.

    A step of DDIM from q to the cleaner p is X_p = a X_q + b eps_q(X_q), so that X_q is a fixed
    point of z -> (X_p - b eps_q(z)) / a. The usual "DDIM inversion" takes eps_p(X_p) for eps_q(X_q)
    (`prp-naive-inversion`, order 1); iterating from there converges to the exact inverse where
    alpha_q (rho_q - rho_p) times the Lipschitz constant of eps_q is below 1
    (`prp-fixed-point-inversion`). At sigma_p = 0 there is no noise to predict: the first step
    begins with eps_q at (alpha_q / alpha_p) X_p.

    Args:
        field: of the path.
        x: ``(batch, *event)``, the state at the *last* time: clean data if that is t = 1.
        times: the grid that DDIM would use, from noise to data; there must be signal at its
            beginning.
        iterations: evaluations a step, at least 1; 1 is the usual inversion.
        tolerance: stop iterating a step when no coordinate moves by more than this, and raise if
            that does not happen within `iterations`.
        trajectory: return the states at all times, from the last to the first.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: iterations < 1, or there is no signal at the first time.
        RuntimeError: `tolerance` was not reached.
        NotFiniteError: a prediction was not finite.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, but it is {iterations}.")
    grid = as_grid(times, field.schedule)
    need_signal(grid)
    n = grid.steps

    def step(x: Tensor, i: int) -> Tensor:
        p, q = grid[n - i], grid[n - i - 1]  # from the cleaner p to the noisier q
        keep, scale = transfer(q, p, "noise")  # of DDIM's step from q to p
        clean = not isinstance(p.sigma, Tensor) and p.sigma == 0.0
        z = combine(x, q.alpha / p.alpha, [])
        if not clean:
            z = combine(x, 1.0 / keep, [(-scale / keep, field.predict(x, p, "noise"))])
        before = z
        for _ in range(iterations if clean else iterations - 1):
            before = z
            z = combine(x, 1.0 / keep, [(-scale / keep, field.predict(z, q, "noise"))])
            if tolerance is not None and float((z - before).abs().max()) <= tolerance:
                return z
        if tolerance is not None:
            moved = float((z - before).abs().max())
            raise RuntimeError(
                f"ddim_invert: after {iterations} iterations at t = {q.t} a coordinate still moves "
                f"by {moved:.3g}, more than tolerance = {tolerance:.3g}: allow more iterations, "
                "take more steps (the iteration contracts faster), or a lower guidance scale."
            )
        return z

    return walk(step, x, n, trajectory=trajectory, progress=progress)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Between two noises along the great circle of their directions, with their mean length.

    Normal noise in many dimensions lies near a sphere, which a straight line leaves: at its middle
    the length is smaller by sqrt(2) (`rem-slerp`).

    Args:
        a: ``(batch, *event)``.
        b: ``(batch, *event)``.
        share: 0 gives a, 1 gives b.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}: pass equal shapes.")
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    length_a, length_b = (v.norm(dim=1, keepdim=True) for v in (flat_a, flat_b))
    u, v = flat_a / length_a, flat_b / length_b
    angle = torch.atan2((v - (u * v).sum(1, keepdim=True) * u).norm(dim=1, keepdim=True),
                        (u * v).sum(1, keepdim=True))  # fmt: skip
    tiny = angle.sin().clamp(min=torch.finfo(a.dtype).eps)
    between = (torch.sin((1 - share) * angle) * u + torch.sin(share * angle) * v) / tiny
    length = (1 - share) * length_a + share * length_b
    between = torch.where(angle < 1e-6, u, between)
    return (length * between).reshape(a.shape)
