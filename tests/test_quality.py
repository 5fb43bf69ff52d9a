"""Distances of samples in feature space: exact cases, biases, errors, bad input."""

import math

import pytest
import torch

from fromnoise.quality import (
    Estimate,
    difference,
    frechet,
    kernel_distance,
    memorization,
    precision_recall,
    two_sample_test,
)

F64 = torch.float64


def normal(n, d=3, seed=0, shift=0.0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, d, generator=g, dtype=F64)


def test_frechet_of_shifted_and_scaled_normals():
    """|shift|^2 d + d (scale - 1)^2, within 5 of its errors and its bias of order 1 / n."""
    found = frechet(normal(20_000, seed=1), normal(20_000, seed=2, shift=0.5, scale=1.5))
    exact = 3 * 0.25 + 3 * 0.25
    assert abs(found.value - exact) < 5 * found.error + 0.01
    assert 0.002 < found.error < 0.1


def test_frechet_is_biased_in_proportion_to_one_over_n():
    """Equal laws: the mean over 40 pairs falls by 4 when n grows by 4."""
    means = []
    for n in (200, 800):
        pairs = [frechet(normal(n, seed=2 * k), normal(n, seed=2 * k + 1)) for k in range(40)]
        means.append(sum(p.value for p in pairs) / 40)
    assert means[0] > 0
    assert means[0] / means[1] == pytest.approx(4.0, rel=0.25)


@pytest.mark.parametrize(("shift", "most"), [(0.0, 1.7), (0.5, 1.2)])
def test_the_error_of_the_frechet_distance(shift, most):
    """The jackknife against the spread of 200 repetitions, known to 5 %.

    At 0 ten blocks give sqrt(2 + 1 / 9) = 1.45 times the spread, as for the square of a mean.
    """
    values = [
        frechet(normal(200, seed=2 * k), normal(200, seed=2 * k + 1, shift=shift))
        for k in range(200)
    ]
    spread = torch.tensor([v.value for v in values]).std().item()
    typical = math.sqrt(sum(v.error**2 for v in values) / 200)
    assert 0.82 * spread < typical < most * spread


@pytest.mark.parametrize(("shift", "most"), [(0.0, 1.6), (1.0, 1.15)])
def test_the_error_of_the_kernel_distance(shift, most):
    """The jackknife against the spread of 200 repetitions, and at most sqrt(2) above it at 0.

    The spread is known to 5 %, the mean of 200 jackknives with 9 degrees of freedom better.
    """
    values = [kernel_distance(normal(200, seed=2 * k), normal(200, seed=2 * k + 1, shift=shift))
              for k in range(200)]  # fmt: skip
    spread = torch.tensor([v.value for v in values]).std().item()
    typical = math.sqrt(sum(v.error**2 for v in values) / 200)
    assert 0.85 * spread < typical < most * spread
    if not shift:
        mean = sum(v.value for v in values) / 200
        assert abs(mean) < 5 * spread / math.sqrt(200)  # false alarm below 1e-6


def test_kernel_distance_against_its_definition():
    """The U-statistic of the cubic kernel, and the jackknife by leaving out halves."""
    x, y = normal(30, seed=3), normal(30, seed=4, shift=0.3)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    def mean(a, b, same):
        rows = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        return sum(k(a[i], b[j]).item() for i, j in rows) / len(rows)

    def statistic(p, q):
        return mean(p, p, True) + mean(q, q, True) - 2 * mean(p, q, False)

    found = kernel_distance(x, y, 2)
    assert found.value == pytest.approx(statistic(x, y), rel=1e-12)
    halves = statistic(x[:15], y[:15]), statistic(x[15:], y[15:])
    assert found.error == pytest.approx(abs(halves[0] - halves[1]) / 2, rel=1e-12)


def test_the_kernel_distance_of_strata_is_unbiased():
    """Fixed numbers of two distant classes, without whose names the mean is far below 0.

    The mean over 200 pairs, within 5 of its errors.
    """
    strata = torch.arange(40) // 20
    pairs = [[normal(40, 2, 2 * k + i) + 3.0 * strata[:, None] for i in (0, 1)] for k in range(200)]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    known = torch.tensor(
        [kernel_distance(x[order], y[order], 4, strata[order]).value for x, y in pairs]
    )
    blind = torch.tensor([kernel_distance(x, y, 4).value for x, y in pairs])
    error = known.std().item() / math.sqrt(200)
    assert abs(known.mean()) < 5 * error and blind.mean() < -5 * error


def test_the_kernel_distance_of_strata_against_its_definition():
    """The classes' own distances, mixed with their shares."""
    x, y, names = normal(12, 2, 3), normal(12, 2, 4, shift=0.3), torch.arange(12) % 3 // 2

    def mean(a, b, same):
        k = (a @ b.T / 2 + 1) ** 3
        total = k.sum() - k.diagonal().sum() if same else k.sum()
        return (total / (len(a) * (len(b) - same))).item()

    by_hand = 0.0
    for c in (0, 1):
        for d in (0, 1):
            share = (names == c).double().mean() * (names == d).double().mean()
            a, b = [v[names == c] for v in (x, y)], [v[names == d] for v in (x, y)]
            across = mean(a[0], b[1], False) + mean(a[1], b[0], False)
            within = mean(a[0], b[0], c == d) + mean(a[1], b[1], c == d)
            by_hand += share.item() * (within - across)
    assert kernel_distance(x, y, 2, names).value == pytest.approx(by_hand, rel=1e-12)
    with pytest.raises(ValueError, match="one for each"):
        kernel_distance(x, y, 2, names[1:])
    with pytest.raises(ValueError, match="two rows outside of every block"):
        kernel_distance(x, y, 2, torch.arange(12) // 3)


@pytest.mark.parametrize("measure", [frechet, kernel_distance])
def test_the_error_of_a_paired_difference(measure):
    """Against the spread of 100 repetitions, known to 7 %; unpaired errors are far too large."""

    def models(k):
        real, noise = normal(200, seed=2 * k), normal(200, seed=2 * k + 1)
        return real, 1.3 * noise + 0.3, 1.2 * noise + 0.2

    sets = [models(k) for k in range(100)]
    found = [difference(measure, *s) for s in sets]
    real, first, second = sets[0]
    apart = [measure(real, x) for x in (first, second)]
    assert found[0].value == pytest.approx(apart[0].value - apart[1].value, rel=1e-9)
    spread = torch.tensor([f.value for f in found]).std().item()
    typical = math.sqrt(sum(f.error**2 for f in found) / len(found))
    assert 0.78 * spread < typical < 1.35 * spread
    unpaired = math.sqrt(
        sum(measure(r, x).error ** 2 for r, *both in sets for x in both) / len(sets)
    )
    assert unpaired > 1.4 * typical
    assert difference(measure, real, first, first) == Estimate(0.0, 0.0)


def test_precision_and_recall_see_different_faults():
    left, right = normal(400, 2, 5, shift=-5.0), normal(400, 2, 6, shift=5.0)
    data = torch.cat([left, right])
    one_mode = normal(800, 2, 7, shift=5.0)
    precision, recall = precision_recall(data, one_mode)
    assert precision.value > 0.85 and recall.value < 0.55  # half of the data is missed
    wide = normal(800, 2, 8, scale=12.0)
    precision, recall = precision_recall(data, wide)
    assert precision.value < 0.5 and recall.value > 0.85
    same = precision_recall(data, torch.cat([normal(400, 2, 9, -5.0), normal(400, 2, 10, 5.0)]))
    assert same[0].value > 0.85 and same[1].value > 0.85


def test_two_sample_test():
    same, p = two_sample_test(normal(500, seed=11), normal(500, seed=12))
    assert abs(same.value - 0.5) < 5 * same.error and p > 1e-4
    apart, p = two_sample_test(normal(500, seed=11), normal(500, seed=12, shift=2.0))
    assert apart.value > 0.8 and p < 1e-10


def test_the_error_of_the_two_sample_test():
    """Against the spread of 300 repetitions, known to 4 %.

    In the plane six rows of ten are the nearest neighbour of their nearest neighbour: the error of
    independent guesses is 21 % too small.
    """
    found = [two_sample_test(normal(60, 2, 2 * k), normal(60, 2, 2 * k + 1))[0] for k in range(300)]
    spread = torch.tensor([f.value for f in found]).std().item()
    typical = math.sqrt(sum(f.error**2 for f in found) / len(found))
    assert 0.87 * spread < typical < 1.16 * spread
    assert typical > 1.2 * 0.5 / math.sqrt(120)


def test_the_error_of_precision():
    """Against the spread of 100 repetitions, known to 7 %; the binomial one is half of it or less.

    Data in two lumps and samples between them, where a few balls cover many samples.
    """

    def pair(k):
        parts = [normal(100, 2, 3 * k + j, shift, 0.5) for j, shift in enumerate((-1.5, 1.5))]
        return precision_recall(torch.cat(parts), normal(200, 2, 3 * k + 2))[0]

    found = [pair(k) for k in range(100)]
    spread = torch.tensor([f.value for f in found]).std().item()
    typical = math.sqrt(sum(f.error**2 for f in found) / len(found))
    binomial = math.sqrt(sum(f.value * (1.0 - f.value) / 200 for f in found) / len(found))
    assert 0.75 * spread < typical < 1.4 * spread
    assert binomial < 0.7 * spread


def test_memorization_finds_copies_and_leaves_others_alone():
    train, held_out = normal(1000, seed=13), normal(300, seed=14)
    honest, p = memorization(normal(300, seed=15), train, held_out)
    assert abs(honest.value - 0.5) < 5 * honest.error and p > 1e-4
    copies = train[:300] + 0.01 * normal(300, seed=16)
    found, p = memorization(copies, train, held_out)
    assert found.value > 0.95 and p < 1e-20


def test_bad_input():
    with pytest.raises(ValueError, match="one width"):
        frechet(normal(50, 2), normal(50, 3))
    with pytest.raises(ValueError, match="features"):
        frechet(normal(25, 30), normal(25, 30))
    with pytest.raises(ValueError, match="25 rows of 30"):
        frechet(normal(100, 30), normal(25, 30))
    with pytest.raises(ValueError, match="blocks is 1"):
        frechet(normal(50), normal(50), 1)
    with pytest.raises(ValueError, match="paired"):
        difference(frechet, normal(50), normal(50), normal(49))
    with pytest.raises(ValueError, match="at least 8"):
        precision_recall(normal(50), normal(7))
    with pytest.raises(ValueError, match="rows"):
        kernel_distance(normal(3), normal(3))
    with pytest.raises(ValueError, match="blocks is 1"):
        kernel_distance(normal(30), normal(30), 1)
    with pytest.raises(ValueError, match="as many"):
        two_sample_test(normal(5), normal(6))
    assert str(Estimate(0.25, 0.001)) == "0.25 ± 0.001"
