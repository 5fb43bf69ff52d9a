"""What all samplers share: the loop, the noise, the progress bar, and finding where a NaN began."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fromnoise.fields import Field, Predicted
from fromnoise.grids import Point
from fromnoise.schedules import Schedule


class NotFiniteError(FloatingPointError):
    """A prediction or a state stopped being finite; the message says at which step, and why."""


def walk(
    step: Callable[[Tensor, int], Tensor],
    x: Tensor,
    steps: int,
    *,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Repeat ``x = step(x, i)`` for i = 0, ..., steps - 1.

    Args:
        step: takes the state at point i of the grid to that at point i + 1.
        x: ``(batch, *event)``. Half precision is carried in float32 and given back.
        steps: how many.
        trajectory: return the states at all points; memory grows with `steps` only then.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.
    """
    dtype = x.dtype
    if dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    states = [x] if trajectory else None
    for i in tqdm(range(steps), desc="sampling") if progress else range(steps):
        x = step(x, i)
        if states is not None:
            states.append(x)
    return (torch.stack(states) if states is not None else x).to(dtype)


def normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of x."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


@dataclass(frozen=True, eq=False)
class _Watched(Field):
    """A field that says at which point of the grid its predictions stop being finite."""

    field: Field
    steps: int

    @property
    def schedule(self) -> Schedule:
        return self.field.schedule

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        return self.field.denoise(x, t)

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        return self.field.noise(x, t)

    def predict(self, x: Tensor, point: Point, kind: Predicted = "data") -> Tensor:
        self._check(x, point, "the state")
        out = self.field.predict(x, point, kind)
        self._check(out, point, f"the {kind} prediction")
        return out

    def _check(self, value: Tensor, point: Point, what: str) -> None:
        bad = ~torch.isfinite(value.flatten(1)).all(1)
        if bool(bad.any()):
            raise NotFiniteError(
                f"{what} is not finite at point {point.index} (t = {point.t}, alpha = "
                f"{point.alpha}, sigma = {point.sigma}) in {int(bad.sum())} of {len(value)} "
                "samples: check the network's weights and its precision (float32 instead of "
                "float16), begin the grid at a larger signal if this is its first point, take "
                "more steps or a method of lower order if the states grew, or lower the guidance "
                "scale."
            )


def sampler(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a sampler check its result, and say where it went wrong.

    Checking every step would cost as much as the step. So only the result is looked at; if it is
    not finite, the sampler runs once more from the same noise, watching every prediction.

    Raises:
        NotFiniteError: (the sampler) with the first point of the grid where that happened.
    """

    @functools.wraps(function)
    def run(field: Field, x: Tensor, times: Any, *args: Any, **kwargs: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return function(field, x, times, *args, **kwargs)
        generator = kwargs.get("generator")
        state = torch.get_rng_state() if generator is None else generator.get_state()
        with torch.no_grad():
            result = function(field, x, times, *args, **kwargs)
            if bool(torch.isfinite(result).all()):
                return result
            if generator is None:
                torch.set_rng_state(state)
            else:
                generator.set_state(state)
            function(_Watched(field, len(times) - 1), x, times, *args, **kwargs)
        raise NotFiniteError(
            f"{function.__name__}: all predictions were finite and the result is not: a "
            "coefficient of the last step overflowed; take more steps, or a method of lower order."
        )

    return run
