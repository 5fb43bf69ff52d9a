"""Distances between laws: exact for Gaussians, estimated from samples otherwise."""

from __future__ import annotations

import ot
import torch
from torch import Tensor


def _clouds(x: Tensor, y: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    x, y = x.flatten(1), y.flatten(1)
    if x.shape[1] != y.shape[1] or len(x) < least or len(y) < least:
        raise ValueError(
            f"x has {len(x)} points of dimension {x.shape[1]} and y has {len(y)} of dimension "
            f"{y.shape[1]}: pass two sets of one dimension, each with at least {least} points."
        )
    return x.double(), y.double()


def wasserstein2(x: Tensor, y: Tensor) -> float:
    """The 2-Wasserstein distance between two point clouds, by exact optimal transport (POT).

    `def-wasserstein`.

    The empirical laws' distance is exact; as an estimate of the laws' it is biased upwards: two
    independent samples of one law have a positive distance, the floor to compare with.

    Args:
        x: ``(n, *event)``.
        y: ``(m, *event)``.

    Returns:
        The distance, not squared.

    Raises:
        ValueError: dimensions differ, or a cloud is empty.
    """
    x, y = _clouds(x, y)
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    cost_of_plan = ot.emd2([], [], cost.cpu().numpy(), numItermax=2_000_000)
    return float(max(cost_of_plan, 0.0)) ** 0.5


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))


def _two_sample(xx: Tensor, yy: Tensor, xy: Tensor, unbiased: bool) -> float:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) from kernel matrices."""
    within = _mean_off_diagonal if unbiased else torch.mean
    return (within(xx) + within(yy) - 2.0 * xy.mean()).item()


def energy_distance(x: Tensor, y: Tensor, unbiased: bool = True) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, which is 0 only between equal laws.

    `def-energy-distance`, `prp-energy-mmd`; the bias of the plug-in estimate is `prp-plug-in-bias`.

    Székely and Rizzo's energy distance (in their squared form), estimated from samples.

    Args:
        x: ``(n, *event)``, n >= 2.
        y: ``(m, *event)``, m >= 2.
        unbiased: leave out the pairs of a point with itself; the estimate may then be negative.
            With them it is nonnegative and biased upwards.

    Raises:
        ValueError: dimensions differ, or a cloud has fewer than two points.
    """
    x, y = _clouds(x, y, least=2)
    return -_two_sample(torch.cdist(x, x), torch.cdist(y, y), torch.cdist(x, y), unbiased)


def mmd(x: Tensor, y: Tensor, bandwidth: float, unbiased: bool = True) -> float:
    """Squared maximum mean discrepancy with the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

    `def-energy-distance`, `prp-energy-mmd`.

    Gretton et al. 2012: the unbiased estimate is their Eq. 3, the biased one their Eq. 5.

    Args:
        x: ``(n, *event)``, n >= 2.
        y: ``(m, *event)``, m >= 2.
        bandwidth: positive, in the units of x.
        unbiased: leave out the pairs of a point with itself; the estimate may then be negative.

    Raises:
        ValueError: dimensions differ, a cloud has fewer than two points, or the bandwidth is not
            positive.
    """
    if not bandwidth > 0:
        raise ValueError(
            f"bandwidth={bandwidth} must be positive: take a typical distance of the data."
        )
    x, y = _clouds(x, y, least=2)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2.0 * bandwidth**2))

    return _two_sample(kernel(x, x), kernel(y, y), kernel(x, y), unbiased)


def _check_gaussians(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> None:
    d = mean_a.shape[-1]
    shapes = [tuple(v.shape) for v in (mean_a, cov_a, mean_b, cov_b)]
    if shapes != [(d,), (d, d), (d,), (d, d)]:
        raise ValueError(
            f"mean_a, cov_a, mean_b, cov_b have shapes {shapes}: pass (d,), (d, d), (d,), (d, d)."
        )


def _sqrt_psd(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0.0).sqrt()) @ vectors.mT


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """The 2-Wasserstein distance of two Gaussians (`prp-frechet-gaussians`), not squared.

    ``|m_a - m_b|^2 + tr(A + B - 2 (A^{1/2} B A^{1/2})^{1/2})``, and the root of it.

    Args:
        mean_a: ``(d,)``.
        cov_a: ``(d, d)``, symmetric, positive semidefinite.
        mean_b: ``(d,)``.
        cov_b: ``(d, d)``, symmetric, positive semidefinite.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check_gaussians(mean_a, cov_a, mean_b, cov_b)
    root = _sqrt_psd(cov_a.double())
    cross = torch.linalg.eigvalsh(root @ cov_b.double() @ root).clamp(min=0.0).sqrt().sum()
    spread = torch.trace(cov_a.double()) + torch.trace(cov_b.double()) - 2.0 * cross
    square = (mean_a - mean_b).double().square().sum() + spread
    return square.clamp(min=0.0).sqrt().item()


def gaussian_kl(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """KL(N(mean_a, cov_a) || N(mean_b, cov_b)) in nats (`prp-kl-gaussians`).

    Args:
        mean_a: ``(d,)``.
        cov_a: ``(d, d)``, symmetric, positive definite.
        mean_b: ``(d,)``.
        cov_b: ``(d, d)``, symmetric, positive definite.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check_gaussians(mean_a, cov_a, mean_b, cov_b)
    a = torch.distributions.MultivariateNormal(mean_a.double(), cov_a.double())
    b = torch.distributions.MultivariateNormal(mean_b.double(), cov_b.double())
    return torch.distributions.kl_divergence(a, b).item()


def straightness(trajectory: Tensor, times: Tensor) -> float:
    """S = integral of E|Z_1 - Z_0 - Z'_t|² dt: 0 only for straight lines at constant speed.

    `def-straightness`; Liu et al. 2023. Exact for the broken line through the states given; of a
    curve the broken line is a little straighter, so take a fine grid.

    Args:
        trajectory: ``(steps + 1, n, *event)``, states at the times.
        times: ``(steps + 1,)``, from 0 to 1.

    Raises:
        ValueError: the numbers of states and times differ, or times do not run from 0 to 1.
    """
    if len(trajectory) != len(times) or len(times) < 2:
        raise ValueError(f"there are {len(trajectory)} states and {len(times)} times.")
    if float(times[0]) != 0.0 or abs(float(times[-1]) - 1.0) > 1e-6:
        raise ValueError(f"times run from {float(times[0])} to {float(times[-1])}, not 0 to 1.")
    states, h = trajectory.double().flatten(2), times.double().diff()
    speed = states.diff(dim=0) / h[:, None, None]
    error = (speed - (states[-1] - states[0])).square().sum(2).mean(1)
    return float((h * error).sum())


def transport_cost(source: Tensor, data: Tensor, power: float = 2.0) -> float:
    """E|X_1 - X_0|^power over given pairs, Euclidean norm.

    Convex in X_1 - X_0 for power >= 1, so that rectified flow does not raise it
    (`thm-convex-cost`).

    Args:
        source: ``(n, *event)``.
        data: ``(n, *event)``, row i paired with row i of the source.
        power: positive.

    Raises:
        ValueError: the shapes differ, or the power is not positive.
    """
    if source.shape != data.shape:
        raise ValueError(
            f"source has shape {tuple(source.shape)} and data {tuple(data.shape)}: pass pairs."
        )
    if not power > 0:
        raise ValueError(f"power={power} must be positive.")
    distance = (data - source).double().flatten(1).norm(dim=1)
    return distance.pow(power).mean().item()
