"""Numerical methods for ODEs and SDEs: one-step functions and the loops that repeat them.

A step takes the state from time t to time s; a loop takes it along a grid of times, a 1-D tensor,
which is the only place where step sizes are chosen. ODE grids may run either way; SDE grids run
forward, since an SDE has an arrow of time. Everything keeps the shape, dtype and device of x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.processes import ODE, SDE

ODEStep = Callable[[ODE, Tensor, Tensor, Tensor], Tensor]
SDEStep = Callable[[SDE, Tensor, Tensor, Tensor, Tensor], Tensor]

# -- one-step methods for ODEs -------------------------------------------------------------------


def euler(ode: ODE, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x + h u_t(x) with h = s - t: order 1 (`alg-euler`, `thm-euler-order`)."""
    return x + (s - t) * ode.drift(x, t)


def midpoint(ode: ODE, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Follow the slope found half a step ahead: order 2, two evaluations."""
    h = s - t
    return x + h * ode.drift(x + 0.5 * h * ode.drift(x, t), t + 0.5 * h)


def heun(ode: ODE, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Average the slopes at both ends of an Euler step: order 2 (`eq-heun`, `prp-heun-order`)."""
    h = s - t
    k1 = ode.drift(x, t)
    k2 = ode.drift(x + h * k1, s)
    return x + 0.5 * h * (k1 + k2)


def rk4(ode: ODE, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The classical Runge-Kutta method, four evaluations: order 4 (`prp-rk4-order`)."""
    h = s - t
    k1 = ode.drift(x, t)
    k2 = ode.drift(x + 0.5 * h * k1, t + 0.5 * h)
    k3 = ode.drift(x + 0.5 * h * k2, t + 0.5 * h)
    k4 = ode.drift(x + h * k3, s)
    return x + h * (k1 + 2.0 * k2 + 2.0 * k3 + k4) / 6.0


# -- one-step methods for SDEs -------------------------------------------------------------------


def euler_maruyama(sde: SDE, x: Tensor, t: Tensor, s: Tensor, dw: Tensor) -> Tensor:
    """x + h drift + g dW (`alg-euler-maruyama`).

    Strong order 1/2, and 1 if the noise is additive; weak order 1 (`thm-em-strong`).
    """
    return x + (s - t) * sde.drift(x, t) + sde.diffusion(x, t) * dw


def milstein(sde: SDE, x: Tensor, t: Tensor, s: Tensor, dw: Tensor) -> Tensor:
    """Euler-Maruyama plus (1/2) g g' (dW^2 - h): strong order 1 for diagonal noise.

    `eq-milstein`, `prp-milstein`.

    Each coordinate of g may depend on that coordinate of x only; g g' is the derivative of g in the
    direction g, taken by forward-mode differentiation. The drift runs outside of it.
    """
    h = s - t
    g = sde.diffusion(x, t).expand_as(x)
    if sde.additive:
        return x + h * sde.drift(x, t) + g * dw
    _, g_dg = torch.func.jvp(lambda y: sde.diffusion(y, t).expand_as(y), (x,), (g.contiguous(),))
    return x + h * sde.drift(x, t) + g * dw + 0.5 * g_dg * (dw**2 - h)


def stochastic_heun(sde: SDE, x: Tensor, t: Tensor, s: Tensor, dw: Tensor) -> Tensor:
    """Average drift and diffusion over both ends: weak order 2 for additive noise.

    Raises:
        ValueError: the noise is not additive. There the method would solve the Stratonovich
            equation with the same coefficients, which is another process.
    """
    if not sde.additive:
        raise ValueError(
            "sde: stochastic_heun needs additive noise (SDE(..., additive=True)), because with "
            "multiplicative noise it solves the Stratonovich equation: use milstein instead."
        )
    h = s - t
    k1, g1 = sde.drift(x, t), sde.diffusion(x, t)
    k2, g2 = sde.drift(x + h * k1 + g1 * dw, s), sde.diffusion(x, s)
    return x + 0.5 * h * (k1 + k2) + 0.5 * (g1 + g2) * dw


# -- the loops -----------------------------------------------------------------------------------


def _grid(times: Tensor, x: Tensor, *, forward: bool) -> Tensor:
    times = torch.as_tensor(times, dtype=x.dtype, device=x.device)
    if times.ndim != 1 or times.numel() < 2:
        raise ValueError(
            f"times has shape {tuple(times.shape)}: pass a 1-D tensor of at least two times, "
            "such as torch.linspace(0, 1, 51)."
        )
    gaps = times.diff()
    rising, falling = bool((gaps > 0).all()), bool((gaps < 0).all())
    if not rising and (forward or not falling):
        wanted = "strictly increase" if forward else "strictly increase or strictly decrease"
        raise ValueError(f"times must {wanted} in the dtype of x, {x.dtype}.")
    return times


def solve_ode(
    ode: ODE, x: Tensor, times: Tensor, method: ODEStep = heun, trajectory: bool = False
) -> Tensor:
    """Follow an ODE along a grid of times (`thm-one-step` bounds the error).

    Args:
        ode: the equation.
        x: ``(batch, *event)``, the state at ``times[0]``.
        times: ``(n + 1,)``, strictly increasing or strictly decreasing.
        method: a one-step function such as `euler`, `midpoint`, `heun` or `rk4`.
        trajectory: return the states at all times instead of the last one.

    Returns:
        ``(batch, *event)``, or ``(n + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: `times` is not a strictly monotone 1-D tensor.
    """
    times = _grid(times, x, forward=False)
    states = [x] if trajectory else None
    for t, s in pairwise(times):
        x = method(ode, x, t, s)
        if states is not None:
            states.append(x)
    return torch.stack(states) if states is not None else x


def solve_sde(
    sde: SDE,
    x: Tensor,
    times: Tensor,
    method: SDEStep = euler_maruyama,
    generator: torch.Generator | None = None,
    increments: Tensor | None = None,
    trajectory: bool = False,
) -> Tensor:
    """Simulate an SDE along a grid of times (`def-strong-weak-order` says how well).

    Args:
        sde: the equation.
        x: ``(batch, *event)``, the state at ``times[0]``.
        times: ``(n + 1,)``, strictly increasing.
        method: a one-step function such as `euler_maruyama`, `milstein` or `stochastic_heun`.
        generator: source of the Brownian increments, on the device of x.
        increments: ``(n, batch, *event)``, the Brownian increments to use instead of drawing them,
            so that several methods or grids can share one path of the noise.
        trajectory: return the states at all times instead of the last one.

    Returns:
        ``(batch, *event)``, or ``(n + 1, batch, *event)`` with `trajectory`.

    Raises:
        ValueError: `times` does not increase, or the increments have another shape.
    """
    times = _grid(times, x, forward=True)
    steps = len(times) - 1
    if increments is not None and increments.shape != (steps, *x.shape):
        raise ValueError(
            f"increments has shape {tuple(increments.shape)}, but {steps} steps of x need "
            f"{(steps, *x.shape)}: draw them with brownian_increments(x, times)."
        )
    states = [x] if trajectory else None
    for i in range(steps):
        t, s = times[i], times[i + 1]
        dw = increments[i] if increments is not None else _increment(x, t, s, generator)
        x = method(sde, x, t, s, dw)
        if states is not None:
            states.append(x)
    return torch.stack(states) if states is not None else x


def _increment(x: Tensor, t: Tensor, s: Tensor, generator: torch.Generator | None) -> Tensor:
    xi = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return (s - t).sqrt() * xi


def brownian_increments(
    x: Tensor, times: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """The increments W_{t_{i+1}} - W_{t_i} of one Brownian motion per coordinate of x.

    They are drawn in the order in which `solve_sde` draws its own, so that the same seed gives the
    same path either way.

    Args:
        x: ``(batch, *event)``, for shape, dtype and device.
        times: ``(n + 1,)``, strictly increasing.
        generator: source of the noise.

    Returns:
        ``(n, batch, *event)``.
    """
    times = _grid(times, x, forward=True)
    return torch.stack([_increment(x, t, s, generator) for t, s in pairwise(times)])


def coarsen(increments: Tensor, factor: int) -> Tensor:
    """The increments of the same Brownian path on a grid that keeps every `factor`-th time.

    Args:
        increments: ``(n, batch, *event)``.
        factor: a divisor of n.

    Returns:
        ``(n / factor, batch, *event)``.

    Raises:
        ValueError: `factor` does not divide the number of increments.
    """
    if factor < 1 or len(increments) % factor:
        raise ValueError(
            f"factor={factor} must divide the number of increments, {len(increments)}."
        )
    return increments.unflatten(0, (-1, factor)).sum(1)


# -- adaptive step sizes -------------------------------------------------------------------------

# The Dormand-Prince pair (Dormand and Prince 1980): nodes, stages, and the weights of the solution
# of order 5 and of the difference to the embedded one of order 4.
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0


@dataclass(frozen=True, eq=False)
class Adaptive:
    """What `solve_adaptive` found.

    Attributes:
        x: ``(batch, *event)``, the state at the end.
        evaluations: how often the drift was called.
        accepted: number of steps taken.
        rejected: number of steps tried and thrown away.
        times: ``(accepted + 1,)``, the grid that was chosen.
    """

    x: Tensor
    evaluations: int
    accepted: int
    rejected: int
    times: Tensor


def _combine(x: Tensor, h: Tensor | float, weights: tuple[float, ...], slopes: list[Tensor]):
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = x + (h * weight) * slope
    return x


def _rms(error: Tensor, x: Tensor, y: Tensor, rtol: float, atol: float) -> float:
    """Root mean square of the error in units of the tolerance; at most 1 is acceptable."""
    scale = atol + rtol * torch.maximum(x.abs(), y.abs())
    return (error / scale).square().mean().sqrt().item()


def solve_adaptive(
    ode: ODE,
    x: Tensor,
    start: float,
    end: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 10_000,
) -> Adaptive:
    """Follow an ODE with the Dormand-Prince 5(4) pair and a step size chosen by its error estimate.

    `alg-adaptive`.

    A step is kept if the root mean square of its error estimate, in units of
    ``atol + rtol max(|x|, |y|)``, over all samples and coordinates, is at most 1; the next step
    size is 0.9 of the one that would have met the tolerance exactly, since the error of the
    embedded pair is of order h^5. One step size serves the whole batch.

    Args:
        ode: the equation.
        x: ``(batch, *event)``, the state at `start`.
        start: the first time.
        end: the last time, before or after `start`.
        rtol: tolerance relative to the state.
        atol: absolute tolerance.
        max_steps: give up after so many attempts.

    Raises:
        ValueError: start equals end, or a tolerance is not positive.
        RuntimeError: the step size fell to rounding level, a slope was not finite, or max_steps ran
            out; the message says at which time.
    """
    if not start != end or not (rtol > 0 and atol > 0):
        raise ValueError(
            f"start={start} and end={end} must differ, and rtol={rtol}, atol={atol} be positive."
        )
    span = end - start
    direction = 1.0 if span > 0 else -1.0
    t, times = float(start), [float(start)]
    evaluations = accepted = rejected = 0

    def slope(y: Tensor, time: float) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return ode.drift(y, torch.as_tensor(time, dtype=x.dtype, device=x.device))

    k1 = slope(x, t)
    # First guess: a step over which an Euler step would change x by about a hundredth of its scale.
    size = _rms(x, x, x, rtol, atol)
    speed = _rms(k1, x, x, rtol, atol)
    h = direction * min(abs(span), 0.01 * size / speed if size > 1e-5 < speed else 1e-3 * abs(span))
    for _ in range(max_steps):
        last = abs(end - t) <= abs(h)
        step = end - t if last else h
        slopes = [k1]
        for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
            y = _combine(x, step, weights, slopes)
            slopes.append(slope(y, end if last and node == 1.0 else t + node * step))
        # The last stage's point is the solution of order 5: its slope opens the next step.
        error = _rms(_combine(torch.zeros_like(x), step, _ERROR, slopes), x, y, rtol, atol)
        if error <= 1.0:
            accepted += 1
            x, k1 = y, slopes[-1]
            t = float(end) if last else t + step
            times.append(t)
            if last:
                grid = torch.tensor(times, dtype=torch.float64)
                return Adaptive(x, evaluations, accepted, rejected, grid)
            factor = _SAFETY * error**-0.2 if error > 0 else _GROW
        else:
            rejected += 1
            factor = _SAFETY * error**-0.2 if error < float("inf") else _SHRINK
        h = step * min(_GROW, max(_SHRINK, factor))
        if not abs(h) > 16 * torch.finfo(x.dtype).eps * max(abs(t), abs(span)):
            raise RuntimeError(
                f"solve_adaptive: the step size fell to {abs(h):.3g} at t = {t:.6g}: the drift is "
                "singular or not finite there, or the tolerances are below the rounding of "
                f"{x.dtype}. Stop before that time, raise rtol and atol, or use float64."
            )
    raise RuntimeError(
        f"solve_adaptive: {max_steps} steps reached only t = {t:.6g} of {end}: raise rtol "
        "and atol, or max_steps."
    )
