"""Couplings of noise and data: which noise is paired with which datum in training.

A coupling is a function ``(data, generator) -> (noise, data)`` of tensors ``(batch, *event)``: row
i of the first goes with row i of the second. Flow matching is right for every coupling with the
right marginals; they differ in how much the lines from noise to data cross, that is in how much of
the target X_1 - X_0 the network cannot predict.

- `independent`: nobody looks at anybody.
- `MinibatchOT`: the cheapest one-to-one pairing of a batch.
- `Sinkhorn`: a partner drawn from the entropic plan of a batch, between these two.
- `FromSource`: another law or data set in place of the noise; alone, or inside the two above.
- `ReflowPairs`: pairs that a flow has made, by `reflow_pairs`.

All but `ReflowPairs` leave the data and their order as they are, so that labels stay aligned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise._shapes import check_same_shape
from fromnoise.assignment import assign
from fromnoise.distributions import Law
from fromnoise.fields import Field
from fromnoise.processes import probability_flow
from fromnoise.solvers import ODEStep, heun, solve_ode

Coupling = Callable[[Tensor, torch.Generator | None], tuple[Tensor, Tensor]]


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


# -- another source ------------------------------------------------------------------------------


def _check_batch(x: Tensor, name: str) -> None:
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}: pass a batch of at least one point, "
            "(batch, *event)."
        )


def _check_finite(x: Tensor, name: str) -> None:
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad} of its {x.numel()} values are not finite: find where they come from, "
            "or leave these rows out."
        )


def _rows(n: int, data: Tensor, generator: torch.Generator | None) -> Tensor:
    """One of n rows for each datum, with replacement; drawn where the generator lives."""
    return torch.randint(n, (len(data),), generator=generator, device=data.device)


@dataclass(frozen=True, eq=False)
class FromSource:
    """Pair every datum with a point drawn from another law or data set, without looking at it.

    This is `independent` with a general p_0 in place of the noise. For pairs that belong together,
    put it inside: ``MinibatchOT(FromSource(law))``. On a path with alpha = t, sigma = 1 - t, such
    as `CondOT`, the flow then runs from p_0 to the data. What a field says about score and denoiser
    rests on Gaussian noise and does not hold for another source; the velocity does.

    Attributes:
        source: a law, which is sampled on its own device, or a data set ``(n, *event)``, from which
            rows are drawn with replacement. Points take the dtype and device of the data.

    Raises:
        ValueError: source is neither, or an empty data set; when called: the batch is empty, or the
            source's points have another shape than the data.
    """

    source: Law | Tensor

    def __post_init__(self) -> None:
        """Check that there is something to draw from."""
        if isinstance(self.source, Tensor):
            _check_batch(self.source, "source")
        elif not hasattr(self.source, "sample"):
            raise ValueError(
                f"source is of type {type(self.source).__name__}: pass a law with "
                "sample(n, generator) or a tensor of points, (n, *event)."
            )

    def __call__(
        self, data: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Points of the source and the data, each ``(batch, *event)``."""
        _check_batch(data, "data")
        if isinstance(self.source, Tensor):
            row = _rows(len(self.source), data, generator)
            points = self.source[row.to(self.source.device)]
        else:
            points = self.source.sample(len(data), generator)
        check_same_shape(points, data, "source", "data")
        return points.to(data), data


# -- optimal transport within a batch -------------------------------------------------------------

# From here on the costs of a batch are alike enough for the other methods of `assign`.
_HIGH_DIMENSION = 32


def _cost(source: Tensor, data: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """-2 x·y for every datum y (rows) and source point x (columns), float64 on the CPU.

    |x - y|² = |x|² + |y|² - 2 x·y, and only the last term depends on who is paired with whom: a
    term for each x and one for each y are paid by every plan with the same marginals. For the same
    reason both clouds may be centred, each at its own mean, so that far-away data lose no digits.
    The product is taken in `dtype`, the result is float64, which the solvers work in.
    """
    _check_batch(data, "data")
    check_same_shape(source, data, "source", "data")
    _check_finite(source, "source")
    _check_finite(data, "data")
    x, y = (z.detach().to("cpu", dtype).reshape(len(z), -1) for z in (source, data))
    cost = (-2.0 * (y - y.mean(0)) @ (x - x.mean(0)).T).double()
    if not bool(torch.isfinite(cost).all()):
        raise ValueError(
            "cost: the squared distances of source and data are not finite in float64; the largest "
            f"values are {x.abs().max().item():.3g} (source) and {y.abs().max().item():.3g} "
            "(data): rescale them."
        )
    return cost


def optimal_assignment(source: Tensor, data: Tensor) -> Tensor:
    """The one-to-one pairing of two batches with the least sum of squared distances.

    min over permutations π of sum_i |x_π(i) - y_i|². Between two uniform laws on n points a
    permutation is as good as any plan (Birkhoff), so its mean cost is `wasserstein2` squared
    (`def-wasserstein`). Solved exactly, see :mod:`fromnoise.assignment`; of order batch³ at worst,
    a few milliseconds for 256 points.

    Args:
        source: ``(batch, *event)``.
        data: ``(batch, *event)``.

    Returns:
        ``(batch,)``, integers on the device of the data: datum i belongs to ``source[index[i]]``.

    Raises:
        ValueError: a batch is empty, the shapes differ, or a value or distance is not finite.
        RuntimeError: the solver gave up.
    """
    # Half the time of float64; a pairing that float32 mistakes for the best is dearer by roundings.
    low = source.dtype != torch.float64 and data.dtype != torch.float64
    cost = _cost(source, data, torch.float32 if low else torch.float64).numpy()
    alike = data[0].numel() >= _HIGH_DIMENSION
    return torch.as_tensor(assign(cost, alike=alike), device=data.device)


@dataclass(frozen=True)
class MinibatchOT:
    """Pair the noise and the data of a batch one to one at the least sum of squared distances.

    Minibatch optimal transport: BatchOT of Pooladian et al. 2023, OT-CFM of Tong et al. 2024 (whose
    code draws pairs from the plan with replacement; here every point is used exactly once). The
    noise is permuted, the data stay in place.

    It keeps the marginals exactly: a permutation that is chosen by the whole batch leaves the noise
    standard normal and the data a sample of their law. It does not make the optimal plan of the
    *laws*: that is reached only as the batch grows, slowly in high dimension. The pairs of one
    batch depend on each other. And it looks at no labels: given its class a datum's noise is *not*
    standard normal, which a class-conditional network learns and a sampler does not know (Cheng and
    Schwing 2025).

    Attributes:
        source: draws what is paired with the data; `independent` noise unless said.

    Raises:
        ValueError: when called: see `optimal_assignment`.
    """

    source: Coupling = independent

    def __call__(
        self, data: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The permuted noise and the data, each ``(batch, *event)``."""
        source, data = self.source(data, generator)
        return source[optimal_assignment(source, data)], data


def _check_entropic(eps: float, tolerance: float, max_iterations: int) -> None:
    if not 0.0 < eps < math.inf:  # also catches nan
        raise ValueError(
            f"eps={eps} must be positive and finite, in the units of a squared distance: for the "
            "limit 0 use MinibatchOT, for the limit infinity use independent."
        )
    if not (tolerance > 0.0 and max_iterations >= 1):
        raise ValueError(
            f"tolerance={tolerance} and max_iterations={max_iterations} must be positive."
        )


def entropic_plan(
    source: Tensor,
    data: Tensor,
    eps: float,
    tolerance: float = 1e-3,
    max_iterations: int = 10_000,
) -> Tensor:
    """The plan P that minimizes sum_ij P_ij |x_j - y_i|² + eps sum_ij P_ij log P_ij (Cuturi 2013).

    Among all P >= 0 whose rows and columns sum to 1/batch. It has the form
    P_ij = exp((f_i + g_j - |x_j - y_i|²) / eps); Sinkhorn's iteration fits f and g in turn, here in
    the log domain (``ot.sinkhorn`` of POT), since exp(-cost / eps) underflows for small eps. The
    last turn is the rows': they are right to rounding, the columns to the tolerance.

    Args:
        source: ``(batch, *event)``.
        data: ``(batch, *event)``.
        eps: the regularization, positive, in the units of a squared distance: the smaller, the
            more iterations.
        tolerance: root mean square of the relative errors of the columns' sums.
        max_iterations: give up after so many.

    Returns:
        ``(batch, batch)``, data by source, sum 1, float64 on the CPU.

    Raises:
        ValueError: eps, tolerance or max_iterations is not positive; a batch is empty, the shapes
            differ, or a value or distance is not finite.
        RuntimeError: the tolerance was not reached.
    """
    _check_entropic(eps, tolerance, max_iterations)
    cost = _cost(source, data)
    import ot  # here, because importing it takes seconds

    n = len(cost)
    weights = torch.full((n,), 1.0 / n, dtype=cost.dtype)
    # POT stops on the Euclidean norm of the errors of the columns' sums, each of which is 1/n.
    plan = ot.sinkhorn(
        weights,
        weights,
        cost,
        eps,
        method="sinkhorn_log",
        numItermax=max_iterations,
        stopThr=tolerance / math.sqrt(n),
        warn=False,
    )
    error = (n * plan.sum(0) - 1.0).square().mean().sqrt().item()
    if not error <= tolerance:
        raise RuntimeError(
            f"entropic_plan: after {max_iterations} iterations the columns' sums are off by "
            f"{error:.2g}, more than tolerance={tolerance}: raise eps={eps} (the mean squared "
            "distance is a scale for it) or max_iterations, or use MinibatchOT."
        )
    return plan


@dataclass(frozen=True)
class Sinkhorn:
    """Draw a partner for every datum from the entropic plan of the batch.

    eps -> 0 is `MinibatchOT`, eps -> infinity draws partners without looking. With eps = 2 s² the
    plan is the batch's static Schrödinger bridge for Brownian motion of scale s, whose transition
    density is proportional to exp(-|x - y|² / (2 s²)); Tong et al. 2024 use it so (SB-CFM).

    What it does not do: it is no one-to-one pairing. Every datum is used once, but the partners are
    drawn independently, so that a noise point is used once *in the mean* only: some come twice,
    some never. And on a CPU it is slower than the exact `MinibatchOT` for batches of some hundreds.

    Attributes:
        eps: the regularization, positive, in the units of a squared distance.
        source: draws what is paired with the data; `independent` noise unless said.
        tolerance: see `entropic_plan`.
        max_iterations: see `entropic_plan`.

    Raises:
        ValueError: eps, tolerance or max_iterations is not positive; when called: see
            `entropic_plan`.
        RuntimeError: when called: the tolerance was not reached.
    """

    eps: float
    source: Coupling = independent
    tolerance: float = 1e-3
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_entropic(self.eps, self.tolerance, self.max_iterations)

    def __call__(
        self, data: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise drawn for every datum and the data, each ``(batch, *event)``."""
        source, data = self.source(data, generator)
        plan = entropic_plan(source, data, self.eps, self.tolerance, self.max_iterations)
        # Row i times n is the law of datum i's partner; multinomial normalizes by itself. float32
        # is what every device has.
        law = (len(plan) * plan).to(data.device, torch.float32)
        partner = torch.multinomial(law, 1, generator=generator).squeeze(1)
        return source[partner], data


# -- pairs made by a flow -------------------------------------------------------------------------


@torch.no_grad()
def reflow_pairs(
    field: Field,
    noise: Tensor,
    times: Tensor,
    method: ODEStep = heun,
    chunk: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Pair noise with the point to which a field's flow carries it (Liu et al. 2023, reflow).

    (Z_0, Z_1) with dZ_t = u_t(Z_t) dt and Z_0 = noise. For the exact field of a path Z_1 follows
    the law of the data (`thm-transport`), and on `CondOT` the pairs cost no more than those of the
    coupling that the field averages, for every convex cost of the difference (Liu et al. 2023,
    Theorem 3.5). For Gaussian data they are (x, m + C^{1/2} x), optimal at once
    (`prp-gaussian-transport`).

    The errors of the field and of the solver go into the pairs, and from there into whatever is
    trained on them: spend the steps here. Put a network with dropout into eval mode first.

    Args:
        field: the exact or learned field.
        noise: ``(n, *event)``, the states at ``times[0]``.
        times: ``(steps + 1,)``, strictly increasing: from 0, or just after, to 1, or just before,
            where the field is singular.
        method: a one-step method such as `heun` or `rk4`.
        chunk: how many points are moved at a time; bounds the memory.

    Returns:
        noise and data, each ``(n, *event)``, without gradients.

    Raises:
        ValueError: no noise, times that do not increase, chunk < 1, or a value that is not finite
            at the end.
    """
    _check_batch(noise, "noise")
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1: the points moved at a time.")
    times = torch.as_tensor(times)
    if bool((times.diff() <= 0).any()):  # `solve_ode` would also run backwards
        raise ValueError(
            f"times={times.tolist()} must strictly increase, from noise (0) to data (1)."
        )
    flow = probability_flow(field)
    data = torch.cat([solve_ode(flow, part, times, method) for part in noise.split(chunk)])
    _check_finite(data, "the flow's end")
    return noise, data


@dataclass(frozen=True, eq=False)
class ReflowPairs:
    """Draw from stored pairs, with replacement: the coupling of rectified flow's second round.

    Only the size, dtype and device of the batch of data that it is given are used; the data of the
    pairs take its place, so that labels of that batch do *not* belong to what is returned.

    Attributes:
        noise: ``(n, *event)``, as from `reflow_pairs`; kept where it is.
        data: ``(n, *event)``, row i paired with row i of the noise.

    Raises:
        ValueError: there are no pairs, the shapes differ, or a value is not finite; when called:
            the batch is empty or of another event shape than the pairs.
    """

    noise: Tensor
    data: Tensor

    def __post_init__(self) -> None:
        """Check the pairs."""
        _check_batch(self.data, "data")
        check_same_shape(self.noise, self.data, "noise", "data")
        _check_finite(self.noise, "noise")
        _check_finite(self.data, "data")

    def __call__(
        self, data: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """As many of the stored pairs as ``data`` has rows: noise and data of its shape."""
        _check_batch(data, "data")
        if data.shape[1:] != self.data.shape[1:]:
            raise ValueError(
                f"data has events of shape {tuple(data.shape[1:])}, but the stored pairs have "
                f"events of shape {tuple(self.data.shape[1:])}: they must be equal."
            )
        row = _rows(len(self.data), data, generator)
        return (
            self.noise[row.to(self.noise.device)].to(data),
            self.data[row.to(self.data.device)].to(data),
        )
