"""What the chapter on measuring generators claims, measured."""

import math
from itertools import pairwise

import pytest
import torch

from fromnoise.distributions import laboratory
from fromnoise.quality import frechet, kernel_distance, memorization, precision_recall

D = torch.float64
SPECTRUM = torch.tensor([2.0, 1.0, 0.6, 0.3, 0.1], dtype=D)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(n, seed):
    return SPECTRUM.sqrt() * torch.randn(n, 5, generator=seeded(seed), dtype=D)


def bias(n):
    """`eq-frechet-bias`, written with loops."""
    total = 2.0 / n * SPECTRUM.sum().item()
    for i, a in enumerate(SPECTRUM.tolist()):
        for j, b in enumerate(SPECTRUM.tolist()):
            total += a * b * (2 if i == j else 1) / (a + b) / (n - 1)
    return total


def test_the_bias_of_the_frechet_distance_falls_as_one_over_n():
    """`prp-frechet-bias`: 300 pairs at each size; a mean outside 4.5 errors has odds of 1e-5.

    Terms of the next order are below 2 / n of the value, hence the allowance.
    """
    sizes, means = (100, 200, 400, 800), []
    for n in sizes:
        values = [frechet(normal(n, 2 * k), normal(n, 2 * k + 1), 2).value for k in range(300)]
        values = torch.tensor(values, dtype=D)
        error = values.std().item() / math.sqrt(len(values))
        assert abs(values.mean().item() - bias(n)) < 4.5 * error + 2 / n * bias(n)
        means.append(values.mean().item())
    steps = [math.log2(b / a) for a, b in pairwise(means)]
    # each ratio has a relative error of sqrt(2) * 4 %, 0.08 in log2; three steps average it
    assert sum(steps) / 3 == pytest.approx(-1.0, abs=4.5 * 0.08 / 3)


@pytest.mark.parametrize("n", [4, 10, 40])
def test_the_kernel_distance_is_unbiased(n):
    """`prp-kid-unbiased`: the exact squared MMD, by moments, at every n; odds of failure 1e-5."""
    shift = torch.tensor([0.5, 0.0, 0.0, 0.0, 0.0], dtype=D)
    exact = 0.0
    # E prod over tensors of moments up to the third of two normal laws: one Monte-Carlo-free sum
    for order, binomial in ((1, 3), (2, 3), (3, 1)):
        gap = _moment(order, shift) - _moment(order, torch.zeros(5, dtype=D))
        exact += binomial / 5**order * gap.square().sum().item()
    values = [
        kernel_distance(normal(n, 2 * k), normal(n, 2 * k + 1) + shift, min(10, n // 2)).value
        for k in range(4000)
    ]
    values = torch.tensor(values, dtype=D)
    assert abs(values.mean().item() - exact) < 4.5 * values.std().item() / math.sqrt(len(values))


def _moment(order, mean):
    """E X^(tensor order) of N(mean, diag SPECTRUM), by Isserlis."""
    cov = torch.diag(SPECTRUM)
    if order == 1:
        return mean
    if order == 2:
        return cov + mean[:, None] * mean
    pairs = torch.einsum("ij,k->ijk", cov, mean)
    return (
        torch.einsum("i,j,k->ijk", mean, mean, mean)
        + pairs
        + pairs.permute(0, 2, 1)
        + pairs.permute(2, 1, 0)
    )


def test_a_normal_law_with_the_same_moments_is_at_no_frechet_distance():
    """`prp-frechet-blind`: Fréchet within its errors, the kernel 10 errors away, precision low."""
    law = laboratory()
    x = law.sample(3000, seeded(0))
    noise = torch.randn(3000, 2, generator=seeded(1), dtype=D)
    lookalike = law.mean + noise @ torch.linalg.cholesky(law.cov).T
    distance = frechet(x, lookalike)
    assert distance.value < 4.5 * distance.error + 0.02
    kernel = kernel_distance(x, lookalike)
    assert kernel.value > 10 * kernel.error
    precision, recall = precision_recall(x, lookalike)
    assert precision.value < 0.85 < recall.value


def test_copies_are_nearer_than_fresh_data_and_fresh_data_are_not():
    """`prp-memorization`: fresh data share 1/2 within 4.5 errors; copies all nearer."""
    law = laboratory()
    training, fresh, other = (law.sample(1000, seeded(k)) for k in range(3))
    share, _ = memorization(other, training, fresh)
    assert abs(share.value - 0.5) < 4.5 * share.error
    copies, p = memorization(training + 1e-6, training, fresh)
    assert copies.value > 0.99 and p < 1e-9
