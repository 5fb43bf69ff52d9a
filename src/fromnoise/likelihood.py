"""Log-likelihood of a flow: the instantaneous change of variables, solved along the trajectory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fromnoise.fields import Field
from fromnoise.processes import ODE
from fromnoise.solvers import ODEStep, rk4, solve_ode

Velocity = Callable[[Tensor, Tensor], Tensor]


def value_and_divergence(
    velocity: Velocity,
    x: Tensor,
    t: Tensor,
    probes: Tensor | None = None,
    create_graph: bool = True,
) -> tuple[Tensor, Tensor]:
    """u_t(x) and the trace of its Jacobian, for losses that contain both.

    Args:
        velocity: maps ``x: (batch, *event)`` and t to ``(batch, *event)``, each sample by itself
            (no batch normalization).
        x: ``(batch, *event)``.
        t: the time, as `velocity` takes it.
        probes: None for the exact trace, with one backward pass a dimension; or ``(m, batch,
            *event)`` for the mean of ``z . J z`` over m probes (`prp-hutchinson`).
        create_graph: keep the graph of the divergence too, so that it can be differentiated in the
            parameters of `velocity`.

    Returns:
        ``(batch, *event)`` and ``(batch,)``.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        u = velocity(x, t)
        total = torch.zeros(x.shape[0], dtype=x.dtype, device=x.device)
        if not u.requires_grad:  # it depends neither on x nor on parameters
            return u, total
        keep = {"retain_graph": True, "create_graph": create_graph, "materialize_grads": True}
        if probes is None:
            for i, u_i in enumerate(u.flatten(1).unbind(1)):
                # Samples do not interact, so the gradient of the sum holds every sample's own row.
                (row,) = torch.autograd.grad(u_i.sum(), x, **keep)
                total = total + row.flatten(1)[:, i]
            return u, total
        for z in probes:
            (jacobian_z,) = torch.autograd.grad((u * z).sum(), x, **keep)
            total = total + (jacobian_z * z).flatten(1).sum(1)
    return u, total / len(probes)


def divergence(velocity: Velocity, x: Tensor, t: Tensor) -> Tensor:
    """The trace of the Jacobian of u_t at each x, exactly, with one backward pass a dimension.

    Args:
        velocity: maps ``x: (batch, *event)`` and t to ``(batch, *event)``, each sample by itself
            (no batch normalization).
        x: ``(batch, *event)``.
        t: the time.

    Returns:
        ``(batch,)``.
    """
    return value_and_divergence(velocity, x, t, create_graph=False)[1].detach()


exact_divergence = divergence  # `log_likelihood` has an argument of that name


def rademacher_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent signs, +1 or -1 with equal probability, in the shape of x."""
    signs = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
    return 2.0 * signs.to(x.dtype) - 1.0


def hutchinson_divergence(velocity: Velocity, x: Tensor, t: Tensor, probes: Tensor) -> Tensor:
    """Estimate the divergence by the mean of ``z . J z`` over random probes z (`prp-hutchinson`).

    Unbiased for any probes with E[z z^T] = I; one backward pass a probe, whatever the dimension.

    Args:
        velocity: as in `divergence`.
        x: ``(batch, *event)``.
        t: the time.
        probes: ``(batch, *event)`` or ``(m, batch, *event)``, such as `rademacher_like(x)`.

    Returns:
        ``(batch,)``.

    Raises:
        ValueError: the probes' shape does not end in that of x.
    """
    if probes.shape == x.shape:
        probes = probes[None]
    if probes.shape[1:] != x.shape:
        raise ValueError(
            f"probes has shape {tuple(probes.shape)}: it must be {tuple(x.shape)}, or (m, *that)."
        )
    return value_and_divergence(velocity, x, t, probes, create_graph=False)[1].detach()


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """Log-density of N(0, I), ``(batch, *event) -> (batch,)``."""
    flat = x.flatten(1)
    return torch.distributions.Normal(0.0, 1.0).log_prob(flat).sum(1)


def log_likelihood(
    field: Field,
    x: Tensor,
    times: Tensor,
    method: ODEStep = rk4,
    divergence: Literal["exact", "hutchinson"] = "exact",
    generator: torch.Generator | None = None,
    probes: int = 1,
    base: Callable[[Tensor], Tensor] = standard_normal_log_prob,
) -> Tensor:
    """Log-density of the flow's endpoint at x: follow the flow back and add up its divergence.

    ``log p_1(x) = log p_0(X_0) - int_0^1 div u_t(X_t) dt`` along the trajectory that ends in x
    (`cor-log-density`; Chen et al. 2018; with random probes, FFJORD, Grathwohl et al. 2019). A
    probe is drawn once and kept along the whole trajectory, so that the equation solved is an
    ordinary one.

    Args:
        field: the velocity.
        x: ``(batch, *event)``, points at ``times[0]``.
        times: ``(n + 1,)``, strictly decreasing, from the data's end (1) to the noise's (0).
        method: a one-step function of `solvers`.
        divergence: exact, or Hutchinson's estimate.
        generator: source of the probes.
        probes: number of probes for Hutchinson's estimate.
        base: log-density at ``times[-1]``, ``(batch, *event) -> (batch,)``.

    Returns:
        ``(batch,)``, in nats.

    Raises:
        ValueError: `times` does not decrease, or `divergence` is unknown.
    """
    if times[0] < times[-1]:
        raise ValueError("times must decrease, from data to noise: pass times.flip(0).")
    if divergence not in ("exact", "hutchinson"):
        raise ValueError(f"divergence must be 'exact' or 'hutchinson', not {divergence!r}.")
    shape = x.shape
    if divergence == "hutchinson":
        z = torch.stack([rademacher_like(x, generator) for _ in range(probes)])

    def drift(state: Tensor, t: Tensor) -> Tensor:
        y = state[:, :-1].reshape(shape)
        with torch.no_grad():
            u = field.velocity(y, t)
        if divergence == "exact":
            trace = exact_divergence(field.velocity, y, t)
        else:
            trace = hutchinson_divergence(field.velocity, y, t, z)
        return torch.cat([u.flatten(1), trace[:, None]], dim=1)

    state = torch.cat([x.flatten(1), torch.zeros_like(x.flatten(1)[:, :1])], dim=1)
    end = solve_ode(ODE(drift), state, times, method)
    # The last column holds the integral of the divergence from 1 down to 0.
    return base(end[:, :-1].reshape(shape)) + end[:, -1]
