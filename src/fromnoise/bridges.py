"""Schrödinger bridges: Brownian bridges, bridge matching, iterative Markovian fitting, Gaussians.

The reference is Brownian motion of diffusion g, ``dX = g dW`` on [0, 1]. The Schrödinger bridge
between two laws is the process with these ends that is closest to it in relative entropy
(`def-schroedinger-bridge`). It is a mixture of Brownian bridges over the entropic plan of its ends
(`thm-static-dynamic`), it is Markov, and no other process with these ends is both
(`thm-bridge-characterization`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from fromnoise._shapes import as_time, check_same_shape
from fromnoise.couplings import Coupling, ReflowPairs, independent
from fromnoise.distributions import Law
from fromnoise.processes import SDE
from fromnoise.solvers import solve_sde
from fromnoise.targets import Net, squared_error
from fromnoise.time_samplers import TimeSampler, UniformTimes
from fromnoise.training import train

Direction = Literal["forward", "backward"]


def _check_g(g: float) -> None:
    if not 0.0 < g < float("inf"):
        raise ValueError(f"g={g} must be positive and finite: the diffusion of the reference.")


@dataclass(frozen=True)
class BridgeSample:
    """A point of a Brownian bridge from ``source`` to ``data``.

    Attributes:
        t: ``()`` or ``(batch, 1, ..., 1)``.
        x: ``(batch, *event)``, X_t.
        source: ``(batch, *event)``, X_0.
        data: ``(batch, *event)``, X_1.
    """

    t: Tensor
    x: Tensor
    source: Tensor
    data: Tensor

    @property
    def drift(self) -> Tensor:
        """(X_1 - X_t) / (1 - t), the drift of the bridge to X_1; not finite at t = 1."""
        return (self.data - self.x) / (1.0 - self.t)


def brownian_bridge(
    source: Tensor,
    data: Tensor,
    t: float | Tensor,
    g: float,
    generator: torch.Generator | None = None,
) -> BridgeSample:
    """X_t ~ N((1 - t) X_0 + t X_1, g² t (1 - t) I), the reference given its ends (`eq-bridge`).

    Args:
        source: ``(batch, *event)``.
        data: ``(batch, *event)``.
        t: a number or ``(batch,)``, in [0, 1].
        g: diffusion of the Brownian motion, positive.
        generator: source of the noise.

    Raises:
        ValueError: shapes differ, t lies outside [0, 1], or g is not positive.
    """
    _check_g(g)
    check_same_shape(source, data, "source", "data")
    t = as_time(t, data)
    z = torch.randn(data.shape, generator=generator, dtype=data.dtype, device=data.device)
    spread = g * (t * (1.0 - t)).clamp(min=0.0).sqrt()
    return BridgeSample(t, (1.0 - t) * source + t * data + spread * z, source, data)


@dataclass(frozen=True)
class BridgeMatching:
    """Regress the end of the bridge that lies ahead: E|f(X_t, t) - X_1|², or X_0 backward.

    The minimizer E[X_1 | X_t] gives the drift (E[X_1 | X_t] - X_t) / (1 - t) of the Markovian
    projection (`thm-markovian-projection`). The end is regressed and not the drift, whose target
    has unbounded variance at the end.

    Attributes:
        g: diffusion of the reference.
        coupling: draws the pairs ``(source, data)``.
        direction: "forward" predicts X_1, "backward" X_0.
        times: draws the times.

    Raises:
        ValueError: g is not positive, or the direction unknown.
    """

    g: float
    coupling: Coupling = independent
    direction: Direction = "forward"
    times: TimeSampler = field(default_factory=UniformTimes)

    def __post_init__(self) -> None:
        """Check g and the direction."""
        _check_g(self.g)
        if self.direction not in ("forward", "backward"):
            raise ValueError(f"direction={self.direction!r}: it must be 'forward' or 'backward'.")

    def draw(self, data: Tensor, generator: torch.Generator | None = None) -> BridgeSample:
        """Pairs, times and points on their bridges for a batch ``(batch, *event)``."""
        source, data = self.coupling(data, generator)
        t = self.times.sample(len(data), generator, dtype=data.dtype, device=data.device)
        return brownian_bridge(source, data, t, self.g, generator)

    def loss(self, net: Net, data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The squared error, averaged over the batch and the coordinates.

        Raises:
            ValueError: ``net`` returns another shape than it was given.
        """
        sample = self.draw(data, generator)
        end = sample.data if self.direction == "forward" else sample.source
        return squared_error(net, sample.x, sample.t, end)


def bridge_sde(end: Net, g: float) -> SDE:
    """``dX = (E[X_1 | X_t] - X) / (1 - t) dt + g dW``, the Markovian projection forward.

    For the backward one give E[X_0 | X_t] at the reversed time: ``lambda x, t: end(x, 1 - t)``.

    Args:
        end: predicts the end ahead, ``(x, t)`` to ``(batch, *event)``.
        g: diffusion of the reference.
    """
    _check_g(g)
    return SDE(
        lambda x, t: (end(x, t) - x) / (1.0 - t),
        lambda x, t: torch.as_tensor(g, dtype=x.dtype, device=x.device),
        additive=True,
    )


@dataclass(frozen=True, eq=False)
class Fitting:
    """One half of a round of iterative Markovian fitting.

    Attributes:
        direction: which network was trained.
        net: predicts the end ahead.
        source: ``(n, *event)``, X_0 of the pairs that its process makes.
        data: ``(n, *event)``, X_1 of the same pairs.
    """

    direction: Direction
    net: nn.Module
    source: Tensor
    data: Tensor


def iterative_markovian_fitting(
    source: Law,
    data: Law,
    g: float,
    make_net: Callable[[], nn.Module],
    *,
    rounds: int = 4,
    pairs: int = 4096,
    steps: int = 50,
    seed: int = 0,
    **settings,
) -> list[Fitting]:
    """Iterative Markovian fitting with networks (`alg-imf`; Shi et al. 2023, Peluchetti 2023).

    Begins with independent pairs. In each round the bridges between the pairs are projected on the
    Markov processes, forward then backward in time, and the processes make new pairs. That the
    directions alternate keeps one end of the pairs exact in each half: the forward process starts
    at true sources, the backward one at true data.

    Args:
        source: law at t = 0.
        data: law at t = 1.
        g: diffusion of the reference.
        make_net: makes a network for the first rounds; later ones start from the last of their
            direction.
        rounds: halves count singly: 4 is forward, backward, forward, backward.
        pairs: how many pairs each half makes.
        steps: of Euler-Maruyama, in making them.
        seed: of everything random.
        settings: of :func:`fromnoise.training.train`, such as ``batch_size`` and ``lr``; its number
            of steps is ``train_steps``.

    Returns:
        The halves in order, with their networks and pairs.

    Raises:
        ValueError: g is not positive, or rounds < 1.
    """
    _check_g(g)
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1.")
    generator = torch.Generator().manual_seed(seed)
    coupling = ReflowPairs(source.sample(pairs, generator), data.sample(pairs, generator))
    nets: dict[str, nn.Module] = {}
    times = torch.linspace(0.0, 1.0, steps + 1)
    found = []
    train_steps = settings.pop("train_steps", 1000)
    for k in range(rounds):
        direction: Direction = "forward" if k % 2 == 0 else "backward"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = nets.get(direction) or make_net()
        target = BridgeMatching(g, coupling, direction)
        net = train(
            net, target, coupling.data, steps=train_steps, seed=seed + k, progress=False, **settings
        ).net
        nets[direction] = net.requires_grad_(True)
        start = (source if direction == "forward" else data).sample(pairs, generator)
        with torch.no_grad():
            sde = bridge_sde(_ahead(net, direction), g)
            end = solve_sde(sde, start, times, generator=generator)
        ends = (start, end) if direction == "forward" else (end, start)
        coupling = ReflowPairs(*ends)
        found.append(Fitting(direction, net, *ends))
    return found


def _ahead(net: nn.Module, direction: Direction) -> Net:
    if direction == "forward":
        return lambda x, t: net(x, t)
    return lambda x, t: net(x, 1.0 - t)


# -- Gaussians, in closed form --------------------------------------------------------------------


def _sqrt(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.mT


@dataclass(frozen=True, eq=False)
class GaussianBridge:
    """Brownian bridges of diffusion g over a Gaussian pair (X_0, X_1): all laws in closed form.

    The Schrödinger bridge of two Gaussians if ``cross`` is that of `schroedinger_bridge`.

    Attributes:
        mean0: ``(d,)``, of X_0.
        cov0: ``(d, d)``.
        mean1: ``(d,)``, of X_1.
        cov1: ``(d, d)``.
        cross: ``(d, d)``, Cov(X_0, X_1).
        g: diffusion of the bridges.
    """

    mean0: Tensor
    cov0: Tensor
    mean1: Tensor
    cov1: Tensor
    cross: Tensor
    g: float

    def mean(self, t: float | Tensor) -> Tensor:
        """The mean of X_t, ``(d,)``."""
        return (1.0 - t) * self.mean0 + t * self.mean1

    def cov(self, t: float | Tensor) -> Tensor:
        """The covariance of X_t, ``(d, d)`` (`eq-gaussian-bridge-cov`)."""
        eye = torch.eye(len(self.mean0), dtype=self.cov0.dtype)
        mixed = t * (1.0 - t) * (self.cross + self.cross.mT)
        ends = (1.0 - t) ** 2 * self.cov0 + t**2 * self.cov1
        return ends + mixed + self.g**2 * t * (1.0 - t) * eye

    def end(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[X_1 | X_t = x] for x ``(batch, d)``."""
        with_end = (1.0 - t) * self.cross.mT + t * self.cov1  # Cov(X_1, X_t)
        gain = torch.linalg.solve(self.cov(t), with_end.mT).mT
        return self.mean1 + (x - self.mean(t)) @ gain.mT

    def drift(self, x: Tensor, t: float | Tensor) -> Tensor:
        """The drift of the Markovian projection, (E[X_1 | X_t = x] - x) / (1 - t)."""
        return (self.end(x, t) - x) / (1.0 - t)

    def slope(self, t: float | Tensor) -> Tensor:
        """The matrix K_t of the drift K_t (x - mean) + mean1 - mean0, ``(d, d)``; finite at 1."""
        eye = torch.eye(len(self.mean0), dtype=self.cov0.dtype)
        # Cov((X_1 - X_t) / (1 - t), X_t), with the factor 1 - t divided out
        step = (1.0 - t) * (self.cross.mT - self.cov0) + t * (self.cov1 - self.cross)
        return torch.linalg.solve(self.cov(t), (step - self.g**2 * t * eye).mT).mT


def schroedinger_bridge(
    mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor, g: float
) -> GaussianBridge:
    """The Schrödinger bridge of two Gaussians for Brownian motion of diffusion g, in closed form.

    Cov(X_0, X_1) = (A^{1/2} (4 A^{1/2} B A^{1/2} + g⁴)^{1/2} A^{-1/2} - g²) / 2 with A = cov0 and
    B = cov1 (`thm-gaussian-bridge`; Bunne et al. 2023, Mallasto et al. 2022).

    Args:
        mean0: ``(d,)``.
        cov0: ``(d, d)``, positive definite.
        mean1: ``(d,)``.
        cov1: ``(d, d)``, positive definite.
        g: diffusion of the reference, positive.

    Raises:
        ValueError: g is not positive, shapes do not fit, or cov0 is singular.
    """
    _check_g(g)
    d = mean0.shape[-1]
    shapes = [tuple(v.shape) for v in (mean0, cov0, mean1, cov1)]
    if shapes != [(d,), (d, d), (d,), (d, d)]:
        raise ValueError(f"shapes are {shapes}: pass (d,), (d, d), (d,), (d, d).")
    if not float(torch.linalg.eigvalsh(cov0).min()) > 0.0:
        raise ValueError("cov0 is singular: the closed form divides by it; exchange the two ends.")
    root = _sqrt(cov0)
    eye = torch.eye(d, dtype=cov0.dtype)
    middle = _sqrt(4.0 * root @ cov1 @ root + g**4 * eye)
    cross = 0.5 * (root @ middle @ torch.linalg.inv(root) - g**2 * eye)
    return GaussianBridge(mean0, cov0, mean1, cov1, cross, g)


def fitting_step(bridge: GaussianBridge, nodes: int = 64) -> GaussianBridge:
    """One exact round of iterative Markovian fitting on Gaussians.

    The Markovian projection is a linear SDE; its pair (X_0, X_1) has Cov(X_0, X_1) = cov0 Phi^T
    with Phi' = K_t Phi, Phi_0 = I. It is integrated by RK4 with ``nodes`` steps.

    Raises:
        ValueError: nodes < 1.
    """
    if nodes < 1:
        raise ValueError(f"nodes={nodes} must be at least 1.")
    phi, h = torch.eye(len(bridge.mean0), dtype=bridge.cov0.dtype), 1.0 / nodes
    for i in range(nodes):
        t = i * h
        k1 = bridge.slope(t) @ phi
        k2 = bridge.slope(t + h / 2) @ (phi + h / 2 * k1)
        k3 = bridge.slope(t + h / 2) @ (phi + h / 2 * k2)
        k4 = bridge.slope(t + h) @ (phi + h * k3)
        phi = phi + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    cross = bridge.cov0 @ phi.mT
    return GaussianBridge(bridge.mean0, bridge.cov0, bridge.mean1, bridge.cov1, cross, bridge.g)
