"""Sampling what agrees with a measurement, a mask, an input image or a loss, without training.

Conditioning is a change of the score, s_t(x) + grad log p_t(y | x) (`thm-posterior-score`), and so
of the denoiser, D + (sigma^2 / alpha) grad log p_t(y | x): a :class:`ConditionedField` is a field
that any sampler takes. What differs between methods is the guess of p_t(y | x):

- `dps`: as if the denoised datum were the datum (Chung et al. 2023);
- `pigdm`: as if the datum were normal about it (Song et al. 2023);
- `loss_guidance`: exp(-loss) in place of a likelihood.

`inpaint` puts the known pixels back in every step (RePaint: Lugmayr et al. 2022), `sdedit` starts
from a noised input (Meng et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise._shapes import check_same_shape
from fromnoise.fields import Field, Predicted
from fromnoise.grids import Grid, Point, as_grid
from fromnoise.measurements import Mask, Measurement
from fromnoise.predictions import weights_at
from fromnoise.samplers import ddim
from fromnoise.samplers._loop import normal, walk
from fromnoise.samplers.ddim import ddim_split
from fromnoise.schedules import Schedule

# (denoised, point) -> cotangent: the gradient of log p(y | x) is its product with the Jacobian of D
Pull = Callable[[Tensor, Point], Tensor]


@dataclass(frozen=True, eq=False)
class ConditionedField(Field):
    """A field whose score has grad log p_t(y | x) added, for some guess of that law.

    Attributes:
        field: the unconditional field; its network is differentiated, so an evaluation costs two
            to three times as much.
        pull: what is pushed through the transposed Jacobian of D, a function of D and the point.
        scale: multiplies the gradient; 1 for the law that `pull` states.
    """

    field: Field
    pull: Pull
    scale: float = 1.0

    @property
    def schedule(self) -> Schedule:
        """alpha and sigma of the path."""
        return self.field.schedule

    def predict(self, x: Tensor, point: Point, kind: Predicted = "data") -> Tensor:
        """D + (sigma^2 / alpha) scale J^T pull(D), or the noise or velocity that belongs to it.

        Raises:
            ValueError: alpha = 0 at the point, where the gradient needs a limit.
        """
        if not isinstance(point.alpha, Tensor) and point.alpha == 0.0:
            raise ValueError(
                f"times: at t = {point.t} there is no signal, and conditioning divides by alpha: "
                "begin a little later."
            )
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            denoised = self.field.predict(state, point, "data")
            cotangent = self.pull(denoised.detach(), point)
            check_same_shape(cotangent, denoised, "pull(D)", "D")
            (gradient,) = torch.autograd.grad(denoised, state, cotangent)
        guided = denoised.detach() + (self.scale * point.sigma**2 / point.alpha) * gradient
        if kind == "data":
            return guided
        keep, add = weights_at(point, "data", kind)
        return keep * guided + add * x

    def denoise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The guided D at one time for the whole batch."""
        return self.predict(x, Grid.point(self.schedule, float(t)), "data")

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The noise that belongs to the guided D."""
        return self.predict(x, Grid.point(self.schedule, float(t)), "noise")


def _check_std(std: float, least: float) -> None:
    if not std >= least:
        what = "positive" if least > 0 else "at least 0"
        raise ValueError(f"noise_std must be {what}, but it is {std}.")


def dps(
    field: Field, measurement: Measurement, y: Tensor, noise_std: float, scale: float = 1.0
) -> ConditionedField:
    """p_t(y | x) = N(y; A D_t(x), noise_std^2 I): the datum taken for its mean (`prp-dps-bias`).

    Chung et al. 2023 multiply the gradient by a factor of their own in every step; `scale` is one
    for all.

    Args:
        field: of the path.
        measurement: A.
        y: ``(batch, *measured)``, or one for all.
        noise_std: of the measurement, positive.
        scale: of the gradient.

    Raises:
        ValueError: noise_std is not positive; when used: shapes do not fit.
    """
    _check_std(noise_std, 1e-12)

    def pull(denoised: Tensor, point: Point) -> Tensor:
        residual = y - measurement.forward(denoised)
        return measurement.adjoint(residual) / noise_std**2

    return ConditionedField(field, pull, scale)


def pigdm(
    field: Field,
    measurement: Measurement,
    y: Tensor,
    noise_std: float = 0.0,
    data_std: float = 1.0,
    scale: float = 1.0,
) -> ConditionedField:
    """p_t(y | x) = N(y; A D, r^2 A A^T + noise_std^2 I): the datum normal about its mean.

    r^2 = b sigma^2 / (alpha^2 b + sigma^2) with b = data_std^2 is the variance of the datum given
    the state for data N(m, b I), for which this is exact (`prp-pigdm`; Song et al. 2023 take
    b = 1).

    Args:
        field: of the path.
        measurement: A.
        y: ``(batch, *measured)``, or one for all.
        noise_std: of the measurement, at least 0.
        data_std: standard deviation of the data.
        scale: of the gradient.

    Raises:
        ValueError: noise_std is negative or data_std not positive.
    """
    _check_std(noise_std, 0.0)
    if not data_std > 0.0:
        raise ValueError(f"data_std must be positive, but it is {data_std}.")

    def pull(denoised: Tensor, point: Point) -> Tensor:
        b = data_std**2
        variance = b * point.sigma**2 / (point.alpha**2 * b + point.sigma**2)
        residual = y - measurement.forward(denoised)
        return measurement.adjoint(measurement.solve(residual, variance, noise_std**2))

    return ConditionedField(field, pull, scale)


def loss_guidance(
    field: Field, loss: Callable[[Tensor], Tensor], scale: float = 1.0
) -> ConditionedField:
    """exp(-scale loss(D)) for the likelihood: any differentiable wish (`prp-loss-guidance`).

    Args:
        field: of the path.
        loss: maps ``(batch, *event)`` to ``(batch,)`` or to a sum over the batch.
        scale: of the gradient.
    """

    def pull(denoised: Tensor, point: Point) -> Tensor:
        with torch.enable_grad():
            guess = denoised.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(guess).sum(), guess)
        return -gradient

    return ConditionedField(field, pull, scale)


def sdedit(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    *,
    sampler: Callable[[Field, Tensor, Grid], Tensor] = ddim,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Noise an input to the first time of the grid, and sample from there (`prp-sdedit`).

    Args:
        field: of the path.
        x: ``(batch, *event)``, an input that need not be data: a sketch, another image.
        times: a grid; the earlier it begins, the less is left of the input.
        sampler: called with field, state and grid: `ddim`, or such as
            ``lambda f, x, g: ancestral(f, x, g, generator=generator)``.
        generator: source of the noise of the start, on the device of x.

    Returns:
        ``(batch, *event)``.
    """
    grid = as_grid(times, field.schedule)
    first = grid[0]
    return sampler(field, first.alpha * x + first.sigma * normal(x, generator), grid)


@torch.no_grad()
def inpaint(
    field: Field,
    x: Tensor,
    times: Grid | Tensor | Sequence[float],
    data: Tensor,
    mask: Mask,
    *,
    rounds: int = 1,
    eta: float = 1.0,
    generator: torch.Generator | None = None,
    trajectory: bool = False,
    progress: bool = False,
) -> Tensor:
    """Put the known part back, at the right noise level, after every step (`alg-repaint`).

    With rounds = 1 this is replacement; with more, every step is taken, noised back and taken
    again, so that the unknown part can adapt to the known one (RePaint). Neither samples the
    posterior (`prp-replacement-bias`).

    Args:
        field: of the path.
        x: ``(batch, *event)``, noise.
        times: a grid, or increasing times ``(steps + 1,)``.
        data: ``(batch, *event)`` or ``(*event)``, of which only the seen part is used.
        mask: which part is seen.
        rounds: how often every step is taken, at least 1.
        eta: share of fresh noise of a step, as in `ddim`.
        generator: source of the noise, on the device of x.
        trajectory: return the states at all times instead of the last one.
        progress: show a progress bar.

    Returns:
        ``(batch, *event)``, or ``(steps + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: rounds < 1, eta outside [0, 1], or shapes do not fit.
    """
    if rounds < 1 or not 0.0 <= eta <= 1.0:
        raise ValueError(f"rounds={rounds} must be at least 1 and eta={eta} in [0, 1].")
    data = data.expand_as(x)
    seen = mask.seen.to(x)
    check_same_shape(x[0], seen, "a datum", "mask.seen")
    grid = as_grid(times, field.schedule)

    def known(p: Point) -> Tensor:
        return p.alpha * data + (p.sigma * normal(x, generator) if p.sigma else 0.0)

    def step(state: Tensor, i: int) -> Tensor:
        p, q = grid[i], grid[i + 1]
        if i == 0:
            state = seen * known(p) + (1.0 - seen) * state
        for k in range(rounds):
            denoised = field.predict(state, p, "data")
            held, fresh = ddim_split(p, q, eta)
            keep = held / p.sigma
            free = keep * state + (q.alpha - p.alpha * keep) * denoised
            if fresh:
                free = free + fresh * normal(x, generator)
            result = seen * known(q) + (1.0 - seen) * free
            if k + 1 < rounds:
                # noise from q back to p
                gain = p.alpha / q.alpha
                spread = (p.sigma**2 - gain**2 * q.sigma**2) ** 0.5
                state = gain * result + spread * normal(x, generator)
        return result

    return walk(step, x, grid.steps, trajectory=trajectory, progress=progress)
