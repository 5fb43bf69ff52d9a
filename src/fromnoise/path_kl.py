"""Relative entropy of path laws: two SDEs that share their noise, compared along simulated paths.

`thm-path-kl`: for one start and additive noise g, ``KL(P || Q) = E_P int |b_P - b_Q|^2 / (2 g^2)``.
On a grid, with the coefficients frozen over each step, the two functions here are *exact* for the
chains of Euler-Maruyama, whose transitions are Gaussian (`prp-kl-chain-rule`,
`prp-kl-gaussians`): the step size changes the law that is measured, and not the formula.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from fromnoise._shapes import as_float, sum_event
from fromnoise.processes import SDE


def _shift(sde: SDE, other: SDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The drift of `sde`, g, and (b_other - b_sde) / g at x."""
    g, other_g = sde.diffusion(x, t), other.diffusion(x, t)
    if not bool(torch.isclose(g, other_g).all()) or not bool((g > 0).all()):
        raise ValueError(
            f"g is {g.min().item():.6g} for sde and {other_g.min().item():.6g} for other at "
            f"t = {t.item():.6g}: two path laws have a finite relative entropy only if their noise "
            "is the same, and here it must be positive. Give both the same g > 0."
        )
    drift = sde.drift(x, t)
    return drift, g, (other.drift(x, t) - drift) / g


def _along(
    sde: SDE, other: SDE, x: Tensor, times: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The end of a path of `sde`, and ``int delta . dW`` and ``int |delta|^2 dt`` along it."""
    if not (sde.additive and other.additive):
        raise ValueError(
            "sde and other must have additive noise (SDE(..., additive=True)): path laws are "
            "compared here for a g that depends on time only."
        )
    times = as_float(times, x)
    if times.ndim != 1 or len(times) < 2 or not bool((times.diff() > 0).all()):
        raise ValueError(
            f"times has shape {tuple(times.shape)} and must be a 1-D tensor of at least two "
            "strictly increasing times, such as torch.linspace(0, 1, 51)."
        )
    martingale, energy = x.new_zeros(len(x)), x.new_zeros(len(x))
    for t, s in pairwise(times):
        dw = (s - t).sqrt() * torch.randn(
            x.shape, generator=generator, dtype=x.dtype, device=x.device
        )
        drift, g, delta = _shift(sde, other, x, t)
        martingale = martingale + sum_event(delta * dw)
        energy = energy + (s - t) * sum_event(delta**2)
        x = x + (s - t) * drift + g * dw
    return x, martingale, energy


def girsanov(
    sde: SDE,
    other: SDE,
    x: Tensor,
    times: Tensor,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Simulate `sde` and return, with the end point, log dQ/dP of `other` against it on the path.

    ``int delta . dW - (1/2) int |delta|^2 dt`` with ``delta = (b_other - b_sde) / g``
    (`thm-girsanov`, `eq-girsanov`). Expectations under `other` are expectations under `sde` with
    the weights ``exp(log dQ/dP)``, whose mean is 1; both processes start at x.

    Args:
        sde: the process that is simulated, P.
        other: the process of the other path law, Q, with the same g > 0.
        x: ``(batch, *event)``, the start.
        times: ``(n + 1,)``, strictly increasing.
        generator: source of the Brownian increments, on the device of x.

    Returns:
        The state at the end, ``(batch, *event)``, and log dQ/dP, ``(batch,)``.

    Raises:
        ValueError: the noise is not additive, not positive, or not the same; `times` is no
            increasing grid.
    """
    end, martingale, energy = _along(sde, other, x, times, generator)
    return end, martingale - 0.5 * energy


def path_kl(
    sde: SDE,
    other: SDE,
    x: Tensor,
    times: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``int |b_sde - b_other|^2 / (2 g^2) dt`` along paths of `sde`, whose mean is KL(P || Q).

    `thm-path-kl`, `eq-path-kl`. The mean of ``-log dQ/dP`` of `girsanov` is the same number; this
    estimate leaves out the stochastic integral, which has mean zero, and so is nonnegative and has
    the smaller variance.

    Args:
        sde: the process that is simulated, P.
        other: the process of the other path law, Q, with the same g > 0.
        x: ``(batch, *event)``, a sample of the start, common to both.
        times: ``(n + 1,)``, strictly increasing.
        generator: source of the Brownian increments, on the device of x.

    Returns:
        ``(batch,)``, one value a path.

    Raises:
        ValueError: as `girsanov`.
    """
    return 0.5 * _along(sde, other, x, times, generator)[2]
