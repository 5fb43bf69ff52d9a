"""Errors per noise level against closed forms, the affine denoiser, the jackknife, the reader."""

import math

import pytest
import torch

from fromnoise.data import small_digits, to_unit
from fromnoise.distributions import Gaussian, laboratory
from fromnoise.evaluation import (
    AffineField,
    confidence,
    denoising_errors,
    ink_classifier,
    jackknife,
    mean_and_error,
)
from fromnoise.fields import ExactField
from fromnoise.metrics import energy_distance
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT

F64 = torch.float64


def test_denoising_error_of_a_gaussian_is_the_known_variance(generator):
    """s sigma^2 / (alpha^2 s + sigma^2) per coordinate, for N(0, s)."""
    s, t, n = 2.0, 0.3, 20_000
    law = Gaussian(torch.zeros(1, dtype=F64), torch.tensor([[s]], dtype=F64))
    field = ExactField(law, GaussianPath(CondOT()))
    errors = denoising_errors(field, law.sample(n, generator), t, generator)
    exact = s * 0.7**2 / (t**2 * s + 0.7**2)
    # the error is exact times a chi-square: standard deviation sqrt 2; five of them, 6e-7
    assert abs(errors.mean() - exact) < 5 * exact * math.sqrt(2 / n)


def test_draws_do_not_depend_on_the_batch_or_the_field(generator):
    law = laboratory(torch.float32)
    field = ExactField(law, GaussianPath(CondOT()))
    data = law.sample(50, generator)
    whole, parts = (
        denoising_errors(field, data, 0.4, torch.Generator().manual_seed(1), size)
        for size in (64, 7)
    )
    assert torch.allclose(whole, parts, atol=1e-6)


def test_the_affine_field_is_the_gaussian_of_the_same_moments(generator):
    data = laboratory().sample(500, generator)
    field = AffineField.of(data, CondOT())
    law = Gaussian(data.mean(0), torch.cov(data.T))
    exact = ExactField(law, GaussianPath(CondOT()))
    x = torch.randn(20, 2, dtype=F64, generator=generator)
    for t in (0.0, 0.3, torch.linspace(0.1, 0.9, 20, dtype=F64), 1.0):
        torch.testing.assert_close(field.denoise(x, t), exact.denoise(x, t))
        torch.testing.assert_close(field.noise(x, t), exact.noise(x, t))


def test_the_affine_field_takes_images(generator):
    data = torch.randn(30, 1, 4, 4, dtype=F64, generator=generator)
    field = AffineField.of(data, CondOT())
    x = data[:5]
    assert field.denoise(x, 0.5).shape == x.shape
    torch.testing.assert_close(
        field.schedule.alpha(0.5) * field.denoise(x, 0.5) + 0.5 * field.noise(x, 0.5), x
    )


def test_jackknife_of_a_mean_is_its_standard_error(generator):
    """For differences of means leaving out blocks of one gives the textbook formula exactly."""
    x, y = torch.randn(2, 40, dtype=F64, generator=generator)
    value, error = jackknife(lambda a, b: (a - b).mean().item(), x, y, blocks=20)
    pairs = (x - y).reshape(20, 2).mean(1)
    assert value == pytest.approx((x - y).mean().item())
    assert error == pytest.approx((pairs.std() / math.sqrt(20)).item(), rel=1e-6)


def test_jackknife_refuses_what_does_not_fit():
    x = torch.zeros(10, 2)
    with pytest.raises(ValueError, match="10 draws, y 9"):
        jackknife(energy_distance, x, x[:9])
    with pytest.raises(ValueError, match="blocks = 6"):
        jackknife(energy_distance, x, x, blocks=6)


def test_mean_and_error():
    assert mean_and_error(torch.tensor([1.0, 3.0])) == pytest.approx((2.0, 1.0))


def test_the_reader_of_digits_reads_and_doubts_what_is_no_digit(generator):
    """Nine tenths of digits it was not trained on; half of two digits laid over another is none."""
    small = small_digits()
    images, labels = to_unit(small.images), small.labels
    held = torch.arange(len(images)) % 5 == 4
    reader = ink_classifier(images[~held], labels[~held], epochs=5)
    sure, seen = confidence(reader, images[held])
    assert (seen == labels[held]).float().mean() > 0.88
    turned = images[held][torch.randperm(int(held.sum()), generator=generator)]
    mixed, _ = confidence(reader, 0.5 * (images[held] + turned))
    assert sure.mean() > mixed.mean() + 0.1
    again = ink_classifier(images[~held], labels[~held], epochs=5)
    assert torch.equal(again[1].weight, reader[1].weight)
