"""Comparing samples with data in a feature space: what each number sees, with its standard error.

All take features, ``(n, d)``: the data themselves in the plane, the last hidden layer of a network
for images. None of them is "Inception-FID": a distance between features is as good as the features.

- `frechet`: means and covariances only; biased upward, in proportion to 1 / n.
- `kernel_distance`: the squared MMD with a cubic kernel (KID); unbiased.
- `difference`: of two models in one of these distances, from paired samples.
- `precision_recall`: how many samples lie among the data, and the other way round.
- `two_sample_test`: can a nearest-neighbour rule tell the two apart?
- `memorization`: are samples nearer to the training data than fresh data are?
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from fromnoise.metrics import frechet_distance


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error.

    Attributes:
        value: the estimate.
        error: its standard error.
    """

    value: float
    error: float

    def __str__(self) -> str:
        """The number with its error."""
        return f"{self.value:.4g} ± {self.error:.2g}"


def proportion(right: Tensor) -> Estimate:
    """The share of trues among independent ``(n,)``, with its binomial standard error."""
    p = right.double().mean().item()
    return Estimate(p, math.sqrt(p * (1.0 - p) / len(right)))


def _check(real: Tensor, fake: Tensor, least: int) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real has shape {tuple(real.shape)} and fake {tuple(fake.shape)}: pass features of "
            "one width, (n, d); flatten images, or take a network's features."
        )
    if min(len(real), len(fake)) < least:
        raise ValueError(
            f"real has {len(real)} rows and fake {len(fake)}: at least {least} of each are needed."
        )


def _check_blocks(blocks: int) -> None:
    if blocks < 2:
        raise ValueError(f"blocks is {blocks}: an error needs at least 2.")


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])


def frechet(real: Tensor, fake: Tensor, blocks: int = 10) -> Estimate:
    """The squared Fréchet distance of normal laws with the samples' moments ("FID").

    Heusel et al. 2017. Its bias is of the order of 1 / n (`prp-frechet-bias`): compare equal n. The
    jackknife's error is that of the chance alone, not of the bias; for equal laws, where the
    derivative vanishes, it is too large (with ten blocks by up to 1.45, in the limit by the root of
    2).

    Args:
        real: ``(n, d)``.
        fake: ``(m, d)``.
        blocks: of the jackknife that gives the error, at least 2.

    Raises:
        ValueError: the widths differ, there is one block, or one of the sets has fewer rows than
            d + 1 after leaving one block out, so that a covariance would be singular.
    """
    real, fake = real.double(), fake.double()
    _check(real, fake, 2 * blocks)
    _check_blocks(blocks)
    least = min(len(real), len(fake))
    if (least * (blocks - 1)) // blocks <= real.shape[1]:
        raise ValueError(
            f"{least} rows of {real.shape[1]} features, less one of {blocks} blocks: take more "
            "samples or fewer features, or use kernel_distance, which needs no covariance."
        )
    value = frechet_distance(*_moments(real), *_moments(fake)) ** 2
    left = []
    for k in range(blocks):
        parts = [x[torch.arange(len(x)) * blocks // len(x) != k] for x in (real, fake)]
        left.append(frechet_distance(*_moments(parts[0]), *_moments(parts[1])) ** 2)
    spread = torch.tensor(left, dtype=torch.float64)
    error = math.sqrt((blocks - 1) * (spread - spread.mean()).square().mean().item())
    return Estimate(value, error)


def kernel_distance(
    real: Tensor, fake: Tensor, blocks: int = 10, strata: Tensor | None = None
) -> Estimate:
    """The squared MMD with the kernel (x . y / d + 1)^3, unbiased ("KID").

    Bińkowski et al. 2018, who average over subsets; this takes all pairs at once, which has a
    smaller error. For equal laws the jackknife's error is too large, by up to the root of 2
    (the statistic is then degenerate).

    Args:
        real: ``(n, d)``.
        fake: ``(m, d)``; rows beyond the smaller of the two sets are not used.
        blocks: of the jackknife that gives the error, at least 2.
        strata: ``(n,)``, the class of row i of both, if both were drawn with a fixed number of each
            class. Pairs of one class are then rarer within a set than across, by a part in n; they
            count for more by n_c / (n_c - 1), which makes the estimate unbiased again.

    Raises:
        ValueError: the widths differ, there are fewer than 2 blocks of 2 rows, there is not one
            stratum for each row, or a class has fewer than two rows outside of a block.
    """
    _check(real, fake, 2 * blocks)
    _check_blocks(blocks)
    n = min(len(real), len(fake))
    x, y = real[:n].double(), fake[:n].double()
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1.0).pow(3) for a, b in ((x, x), (y, y), (x, y)))
    within = (xx + yy).fill_diagonal_(0.0)
    number = torch.arange(n) * blocks // n  # of the block that a row is in

    if strata is not None and strata.shape != (n,):
        raise ValueError(f"strata has shape {tuple(strata.shape)} for {n} rows: pass one for each.")
    classes = [] if strata is None else [(strata == k).double() for k in strata.unique()]

    def statistic(kept: Tensor) -> float:
        count = kept.sum()
        if strata is None:
            same = kept @ within @ kept / (count * (count - 1.0))
        else:
            same = kept @ within @ kept / count**2
            for few in (kept * one for one in classes):
                if few.sum() < 2.0:
                    raise ValueError("strata: each class needs two rows outside of every block.")
                same += few @ within @ few / (count**2 * (few.sum() - 1.0))
        return (same - 2.0 * (kept @ xy @ kept) / count**2).item()

    left = torch.tensor(
        [statistic((number != k).double()) for k in range(blocks)], dtype=torch.float64
    )
    error = math.sqrt((blocks - 1) * left.var(correction=0).item())
    return Estimate(statistic(torch.ones(n, dtype=torch.float64)), error)


def difference(
    measure: Callable[[Tensor, Tensor, int], Estimate],
    real: Tensor,
    first: Tensor,
    second: Tensor,
    blocks: int = 10,
) -> Estimate:
    """How much farther the first model is from the data than the second one, from paired samples.

    Both are compared with the same data, and row i of both was made from the same noise. Their two
    distances then move together, and the difference has a smaller error than independent ones
    would have, ``hypot`` of both; a jackknife that leaves the same rows out everywhere measures it.

    Args:
        measure: `frechet` or `kernel_distance`.
        real: ``(n, d)``.
        first: ``(n, d)``, of one model.
        second: ``(n, d)``, of the other one.
        blocks: of the jackknife, at least 2.

    Raises:
        ValueError: the shapes differ, or there are too few rows for `measure` without one block.
    """
    if not real.shape == first.shape == second.shape:
        raise ValueError(
            f"real, first and second have shapes {tuple(real.shape)}, {tuple(first.shape)} and "
            f"{tuple(second.shape)}: pass as many rows of each, paired."
        )
    _check_blocks(blocks)

    def gap(kept: Tensor) -> float:
        data = real[kept]
        # two blocks: the errors of the single distances are not used
        return measure(data, first[kept], 2).value - measure(data, second[kept], 2).value

    number = torch.arange(len(real)) * blocks // len(real)  # of the block that a row is in
    left = torch.tensor([gap(number != k) for k in range(blocks)], dtype=torch.float64)
    error = math.sqrt((blocks - 1) * left.var(correction=0).item())
    return Estimate(gap(number >= 0), error)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double())


def _nearest(x: Tensor, y: Tensor, rows: int = 500) -> Tensor:
    """The distance of each x to its nearest y, a block at a time: the whole matrix can be large."""
    y = y.double()
    return torch.cat([torch.cdist(part, y).min(1).values for part in x.double().split(rows)])


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> tuple[Estimate, Estimate]:
    """Share of samples inside the data's manifold, and of data inside the samples'.

    The manifold of a set is the union of balls about its points that reach to their k-th neighbour
    (Kynkäänniemi et al. 2019). It is random too, and all points are compared with the one
    manifold, so that the binomial error of a share would be too small, two to three times where
    few balls decide. The error is the spread over 20 random halves of both sets, which for a mean
    is its standard error; for shares near 1 it is up to half as much too large.

    Args:
        real: ``(n, d)``.
        fake: ``(m, d)``.
        neighbours: k.

    Returns:
        precision and recall.

    Raises:
        ValueError: the widths differ, or half of the rows are not more than k.
    """
    _check(real, fake, 2 * (neighbours + 1))
    across = _distances(fake, real)
    generator = torch.Generator().manual_seed(0)

    def share(points_to_set: Tensor, inside: Tensor) -> Estimate:
        def covered(points: Tensor, members: Tensor) -> float:
            # the point itself is its own nearest neighbour, at distance 0
            ring = inside[members[:, None], members].topk(neighbours + 1, dim=1, largest=False)
            within = points_to_set[points[:, None], members] <= ring.values[:, -1]
            return within.any(1).double().mean().item()

        def part(n: int, kept: int) -> Tensor:
            return torch.randperm(n, generator=generator)[:kept]

        n, m = points_to_set.shape
        halves = [covered(part(n, n // 2), part(m, m // 2)) for _ in range(20)]
        value = covered(torch.arange(n), torch.arange(m))
        return Estimate(value, torch.tensor(halves, dtype=torch.float64).std().item())

    return share(across, _distances(real, real)), share(across.T, _distances(fake, fake))


def two_sample_test(real: Tensor, fake: Tensor) -> tuple[Estimate, float]:
    """Leave-one-out accuracy of a nearest-neighbour rule that tells real from fake, and a p-value.

    1/2 for equal laws; 1 if they can be told apart (Lopez-Paz & Oquab 2017 with the simplest
    classifier; Schilling 1986). The error is that for equal laws: if coins give the rows their
    labels, two rows guess independently unless each is the other's nearest neighbour, so that the
    variance is (1 + the share of such rows) / (4 rows). The p-value is one-sided, from the normal
    approximation with this error.

    Args:
        real: ``(n, d)``.
        fake: ``(n, d)``, as many.

    Raises:
        ValueError: the widths or the numbers of rows differ, or there are fewer than two rows.
    """
    _check(real, fake, 2)
    if len(real) != len(fake):
        raise ValueError(f"real has {len(real)} rows and fake {len(fake)}: pass as many of both.")
    both = torch.cat([real, fake])
    label = torch.arange(len(both)) < len(real)
    distance = _distances(both, both)
    distance.fill_diagonal_(math.inf)
    nearest = distance.argmin(1)
    p = (label[nearest] == label).double().mean().item()
    mutual = (nearest[nearest] == torch.arange(len(both))).double().mean().item()
    error = 0.5 * math.sqrt((1.0 + mutual) / len(both))
    return Estimate(p, error), float(stats.norm.sf((p - 0.5) / error))


def memorization(fake: Tensor, train: Tensor, held_out: Tensor) -> tuple[Estimate, float]:
    """Are samples nearer to the training data than held-out data are? Share, and a p-value.

    The share of pairs (sample, held-out datum) in which the sample is the nearer one to its nearest
    training datum: 1/2 for a model that generalizes, 1 for one that copies (Meehan et al. 2020 in
    its simplest form). The p-value of the one-sided rank test of Mann and Whitney.

    Args:
        fake: ``(m, d)``.
        train: ``(n, d)``, what the model has seen.
        held_out: ``(k, d)``, what it has not.

    Raises:
        ValueError: the widths differ.
    """
    _check(train, fake, 1)
    _check(train, held_out, 1)
    near, fresh = (_nearest(x, train).numpy() for x in (fake, held_out))
    test = stats.mannwhitneyu(near, fresh, alternative="less")
    pairs = len(near) * len(fresh)
    share = 1.0 - test.statistic / pairs
    error = math.sqrt((len(near) + len(fresh) + 1) / (12.0 * pairs))
    return Estimate(float(share), error), float(test.pvalue)
