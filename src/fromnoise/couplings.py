"""Couplings of noise and data: which noise is paired with which datum in training."""

from __future__ import annotations

import torch
from torch import Tensor


def independent(data: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Pair every datum with its own standard normal noise, drawn without looking at it.

    Args:
        data: ``(batch, *event)``.
        generator: source of the noise, on the device of the data.

    Returns:
        noise and data, each ``(batch, *event)``.
    """
    noise = torch.randn(data.shape, generator=generator, dtype=data.dtype, device=data.device)
    return noise, data
