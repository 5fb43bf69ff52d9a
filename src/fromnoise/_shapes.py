"""Shape and range checks shared by every room, so that bad input fails with one clear sentence."""

from __future__ import annotations

import torch
from torch import Tensor


def as_float(value: float | Tensor, like: Tensor) -> Tensor:
    """Return `value` as a tensor of the dtype and device of `like`; its shape is kept."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def expand(value: float | Tensor, x: Tensor, name: str = "t") -> Tensor:
    """Give a number per sample the shape that broadcasts against `x`.

    Args:
        value: a number, a 0-dimensional tensor, or one value per sample, ``(batch,)``.
        x: ``(batch, *event)``.
        name: how the error calls the argument.

    Returns:
        ``()`` or ``(batch, 1, ..., 1)``, in the dtype and on the device of `x`.

    Raises:
        ValueError: `value` has another shape.
    """
    value = as_float(value, x)
    if value.ndim == 0:
        return value
    if value.ndim == 1 and x.ndim >= 1 and value.shape[0] in (1, x.shape[0]):
        return value.reshape(-1, *([1] * (x.ndim - 1)))
    raise ValueError(
        f"{name} has shape {tuple(value.shape)}, but x has shape {tuple(x.shape)}: "
        f"pass a number or one value per sample, shape ({x.shape[0] if x.ndim else 1},)."
    )


def check_time(t: float | Tensor, name: str = "t") -> None:
    """Raise unless every time lies in [0, 1] (t = 0 is noise, t = 1 is data).

    Raises:
        ValueError: a time is not finite or lies outside [0, 1].
    """
    t = torch.as_tensor(t)
    if t.numel() == 0:
        return
    low, high = t.min().item(), t.max().item()
    if not (low >= 0.0 and high <= 1.0):  # also catches nan
        raise ValueError(
            f"{name} must lie in [0, 1] (0 is noise, 1 is data), but its values span "
            f"[{low:.6g}, {high:.6g}]: clip or rescale the times you pass."
        )


def as_time(t: float | Tensor, x: Tensor, name: str = "t") -> Tensor:
    """Check that `t` lies in [0, 1] and give it the shape that broadcasts against `x`.

    See `check_time` and `expand` for the arguments, the result and the errors.
    """
    check_time(t, name)
    return expand(t, x, name)


def check_same_shape(a: Tensor, b: Tensor, name_a: str, name_b: str) -> None:
    """Raise unless the two tensors have one shape.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} has shape {tuple(a.shape)} and {name_b} has shape {tuple(b.shape)}: "
            "they must be equal, (batch, *event)."
        )


def sum_event(x: Tensor) -> Tensor:
    """Sum over everything but the batch: ``(batch, *event) -> (batch,)``."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x
