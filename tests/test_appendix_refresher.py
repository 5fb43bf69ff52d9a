"""The numbers that the refresher quotes."""

import math

import pytest
from scipy import stats


def test_the_chances_of_large_z():
    assert 2 * stats.norm.sf(4) == pytest.approx(6e-5, rel=0.06)
    assert 3.7e-8 < 2 * stats.norm.sf(5.5) < 4e-8  # once in more than twenty million
    assert 1 / (2 * stats.norm.sf(5.5)) > 2e7
    assert pytest.approx(0.033, abs=5e-4) == 1 / 5.5**2


def test_the_radius_of_noise_on_a_digit():
    mean, variance = stats.chi(784).stats()
    assert mean == pytest.approx(28.0, abs=0.02)
    assert math.sqrt(variance) < 1


@pytest.mark.parametrize("d", [1, 2, 5, 784])
def test_the_norm_lies_between_its_bounds(d):
    mean, variance = stats.chi(d).stats()
    assert math.sqrt(d - 1) <= mean <= math.sqrt(d) and variance <= 1 + 1e-9
