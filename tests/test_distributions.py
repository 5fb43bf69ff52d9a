"""Laws: against SciPy, autograd, brute-force quadrature and Monte Carlo with stated error rates."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fromnoise.distributions import (
    Checkerboard,
    Empirical,
    Gaussian,
    GaussianMixture,
    Spiral,
    TwoMoons,
    eight_gaussians,
    laboratory,
    standard_normal,
)

LAB = laboratory()
SCALES = [(0.0, 1.0), (0.3, 0.7), (0.8, 0.05), (1.0, 0.0)]


def points(n=200, seed=0):
    return 2.0 * torch.randn(
        n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def scipy_mixture(law, x):
    parts = [
        w * stats.multivariate_normal(m.numpy(), c.numpy()).pdf(x.numpy())
        for w, m, c in zip(law.weights.tolist(), law.means, law.covs, strict=True)
    ]
    return np.log(sum(parts))


def test_log_prob_equals_scipy():
    x = points()
    # SciPy forms the density before the logarithm; both carry ~1e-13 relative error
    np.testing.assert_allclose(LAB.log_prob(x).numpy(), scipy_mixture(LAB, x), atol=1e-10)
    gauss = Gaussian(LAB.mean, LAB.cov)
    expected = stats.multivariate_normal(LAB.mean.numpy(), LAB.cov.numpy()).logpdf(x.numpy())
    np.testing.assert_allclose(gauss.log_prob(x).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("alpha", "sigma"), SCALES)
def test_marginal_is_a_mixture_with_scipys_density(alpha, sigma):
    x = points()
    law = LAB.marginal(alpha, sigma)
    np.testing.assert_allclose(law.log_prob(x).numpy(), scipy_mixture(law, x), atol=1e-10)
    assert torch.allclose(law.log_prob(x), LAB.marginal_log_prob(x, alpha, sigma), atol=1e-10)
    assert torch.allclose(law.mean, alpha * LAB.mean)
    assert torch.allclose(law.cov, alpha**2 * LAB.cov + sigma**2 * torch.eye(2).double())


@pytest.mark.parametrize(("alpha", "sigma"), SCALES)
def test_score_equals_autograd(alpha, sigma):
    x = points().requires_grad_(True)
    (expected,) = torch.autograd.grad(LAB.marginal_log_prob(x, alpha, sigma).sum(), x)
    # scores reach ~1e2 for far points at sigma = 0; 1e-10 is ~1e4 roundings of that
    assert torch.allclose(LAB.marginal_score(x, alpha, sigma), expected, atol=1e-10)


def test_tweedie_links_denoiser_noise_and_score():
    x, alpha, sigma = points(), 0.6, 0.5
    denoised, noise = LAB.denoise(x, alpha, sigma), LAB.predict_noise(x, alpha, sigma)
    assert torch.allclose(alpha * denoised + sigma * noise, x, atol=1e-12)
    assert torch.allclose(
        denoised, (x + sigma**2 * LAB.marginal_score(x, alpha, sigma)) / alpha, atol=1e-12
    )


def posterior_by_quadrature(x, alpha, sigma, half_width=6.0, n=1201):
    """E[X_1 | x] and Cov[X_1 | x] by a fine grid over data space."""
    axis = torch.linspace(-half_width, half_width, n, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_weight = LAB.log_prob(grid) - 0.5 * ((x - alpha * grid) ** 2).sum(1) / sigma**2
    weight = torch.softmax(log_weight, 0)
    mean = weight @ grid
    centred = grid - mean
    return mean, torch.einsum("n,ni,nj->ij", weight, centred, centred)


@pytest.mark.parametrize(("alpha", "sigma"), [(0.3, 0.7), (0.7, 0.3)])
def test_denoiser_and_covariance_equal_quadrature(alpha, sigma):
    x = torch.tensor([[0.1, 0.2], [-1.5, 0.8]], dtype=torch.float64)
    for i in range(2):
        mean, cov = posterior_by_quadrature(x[i], alpha, sigma)
        # the trapezoidal rule converges faster than any power for these smooth decaying integrands
        assert torch.allclose(LAB.denoise(x, alpha, sigma)[i], mean, atol=1e-8)
        assert torch.allclose(LAB.conditional_covariance(x, alpha, sigma)[i], cov, atol=1e-8)


def test_denoiser_limits():
    x = points(20)
    assert torch.allclose(LAB.denoise(x, 0.0, 1.0), LAB.mean.expand(20, 2), atol=1e-12)
    assert torch.allclose(LAB.denoise(x, 1.0, 0.0), x, atol=1e-12)
    assert torch.equal(LAB.predict_noise(x, 1.0, 0.0), torch.zeros_like(x))
    assert torch.allclose(LAB.predict_noise(x, 0.0, 1.0), x, atol=1e-12)


def test_scales_per_sample_equal_scales_one_by_one():
    x = points(4)
    alpha = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    sigma = 1 - alpha
    for method in (
        "marginal_log_prob",
        "marginal_score",
        "denoise",
        "predict_noise",
        "posterior_weights",
        "conditional_covariance",
    ):
        together = getattr(LAB, method)(x, alpha, sigma)
        for i in range(4):
            alone = getattr(LAB, method)(x[i : i + 1], alpha[i].item(), sigma[i].item())
            assert torch.allclose(together[i : i + 1], alone, atol=1e-12), method


@pytest.mark.parametrize("law", [LAB, eight_gaussians(dtype=torch.float64)])
def test_samples_have_the_laws_moments(law, generator):
    n = 40_000
    x = law.sample(n, generator)
    # z-scores of 2 means and 4 second moments; P(any > 5) < 6 * 5.8e-7 = 3.5e-6
    z_mean = (x.mean(0) - law.mean) / (law.cov.diagonal() / n).sqrt()
    products = ((x - law.mean)[:, :, None] * (x - law.mean)[:, None, :]).flatten(1)
    z_cov = (products.mean(0) - law.cov.flatten()) / (products.std(0) / math.sqrt(n))
    assert z_mean.abs().max() < 5 and z_cov.abs().max() < 5


def test_samples_follow_the_density(generator):
    """A chi-square test of component counts; the false-alarm rate is 1e-6."""
    n = 20_000
    x = LAB.sample(n, generator)
    mean_weights = LAB.posterior_weights(x, 1.0, 0.0).mean(0)
    spread = LAB.posterior_weights(x, 1.0, 0.0).std(0) / math.sqrt(n)
    assert ((mean_weights - LAB.weights) / spread).abs().max() < stats.norm.isf(1e-6 / 6)


@given(
    d=st.integers(1, 4),
    k=st.integers(1, 4),
    n=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10**6),
)
def test_mixture_shapes_and_dtypes(d, k, n, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(k, d, d, generator=g, dtype=dtype)
    covs = a @ a.mT + torch.eye(d, dtype=dtype)
    law = GaussianMixture(torch.rand(k, generator=g, dtype=dtype) + 0.1, torch.randn(k, d), covs)
    law = law.to(dtype=dtype)
    x = law.sample(n, g)
    assert x.shape == (n, d) and x.dtype == dtype
    alpha = torch.full((n,), 0.5, dtype=dtype)
    for method, shape in [
        ("marginal_log_prob", (n,)),
        ("marginal_score", (n, d)),
        ("denoise", (n, d)),
        ("predict_noise", (n, d)),
        ("posterior_weights", (n, k)),
        ("conditional_covariance", (n, d, d)),
    ]:
        value = getattr(law, method)(x, alpha, 1 - alpha)
        assert value.shape == shape and value.dtype == dtype
        assert bool(torch.isfinite(value).all())
    assert torch.allclose(law.weights.sum(), torch.ones((), dtype=dtype))


def test_samples_are_reproducible():
    for law in (LAB, TwoMoons(), Checkerboard(), Spiral(), Empirical(points(10))):
        one = law.sample(16, torch.Generator().manual_seed(3))
        two = law.sample(16, torch.Generator().manual_seed(3))
        assert torch.equal(one, two)


# -- the empirical law ------------------------------------------------------------------------


def as_mixture(data, sigma):
    """N(alpha data_i, sigma^2) as a mixture, without the empirical law's own formulas."""
    d = data.shape[1]
    log_parts = [stats.multivariate_normal(m.numpy(), sigma**2 * np.eye(d)) for m in data]
    return lambda x: np.log(np.mean([p.pdf(x.numpy()) for p in log_parts], axis=0))


@pytest.mark.parametrize("chunk", [3, 4096])
def test_empirical_density_and_score(chunk):
    data, x, alpha, sigma = points(10), points(6, seed=1), 0.8, 0.6
    law = Empirical(data, chunk=chunk)
    expected = as_mixture(alpha * data, sigma)(x)
    np.testing.assert_allclose(law.marginal_log_prob(x, alpha, sigma), expected, atol=1e-12)
    y = x.clone().requires_grad_(True)
    (score,) = torch.autograd.grad(law.marginal_log_prob(y, alpha, sigma).sum(), y)
    assert torch.allclose(law.marginal_score(x, alpha, sigma), score, atol=1e-10)
    per_sample = torch.full((6,), alpha, dtype=torch.float64)
    again = law.marginal_score(x, per_sample, torch.full((6,), sigma, dtype=torch.float64))
    assert torch.allclose(again, score, atol=1e-10)


def test_empirical_denoiser_of_images_collapses_to_the_nearest(generator):
    data = torch.rand(20, 1, 4, 4, generator=generator, dtype=torch.float64)
    x = data[:5] + 0.01 * torch.randn(5, 1, 4, 4, generator=generator, dtype=torch.float64)
    denoised = Empirical(data).denoise(x, 1.0, 0.02)
    assert torch.allclose(denoised, data[:5], atol=1e-6)
    far = Empirical(data).denoise(x, 1.0, 1e3)
    assert torch.allclose(far, data.mean(0).expand(5, 1, 4, 4), atol=1e-3)


def test_empirical_at_zero_noise_is_refused():
    with pytest.raises(ValueError, match="sigma must be positive"):
        Empirical(points(4)).denoise(points(2), 1.0, 0.0)


# -- toys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [TwoMoons(), Checkerboard(), Spiral(), eight_gaussians(), LAB])
def test_toys_fill_the_plane_they_promise(law, generator):
    x = law.sample(5000, generator)
    assert x.shape == (5000, 2) and bool(torch.isfinite(x).all())
    assert x.abs().max() < 4.5
    assert x.std(0).min() > 0.5


def test_checkerboard_is_uniform_on_its_squares(generator):
    board, n = Checkerboard(), 16_000
    x = board.sample(n, generator)
    assert torch.allclose(board.log_prob(x), torch.full((n,), -math.log(8.0)))
    squares, counts = (x + 2).floor().unique(dim=0, return_counts=True)
    assert len(squares) == 8
    # chi-square with 7 degrees of freedom; false alarm 1e-6
    statistic = ((counts - n / 8) ** 2 / (n / 8)).sum().item()
    assert statistic < stats.chi2.isf(1e-6, 7)
    light = torch.tensor([[-1.5, -0.5], [0.5, 1.5], [2.5, 0.5]])
    assert board.log_prob(light).tolist() == [-math.inf] * 3


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture(torch.ones(2), torch.zeros(3, 2), torch.eye(2)), "shapes"),
        (lambda: Gaussian(torch.zeros(2), torch.zeros(2, 2)), "positive definite"),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
        (
            lambda: GaussianMixture(
                torch.tensor([1.0, -1.0]), torch.zeros(2, 1), torch.ones(2, 1, 1)
            ),
            "nonnegative",
        ),
        (lambda: standard_normal(2).log_prob(torch.zeros(5, 3)), "dimension 2"),
        (lambda: standard_normal(2).denoise(torch.zeros(5, 2), torch.ones(4), 1.0), "alpha"),
        (lambda: Empirical(torch.zeros(0, 2)), "at least one"),
        (lambda: Empirical(torch.zeros(3, 2)).denoise(torch.zeros(3, 5), 1.0, 1.0), "events"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_follow_the_dtype_of_the_points(dtype):
    """A law made in one precision answers in that of the question."""
    x = points(5).to(dtype)
    for law in (LAB, Empirical(points(10))):
        for method in ("marginal_log_prob", "marginal_score", "denoise", "predict_noise"):
            assert getattr(law, method)(x, 0.5, 0.5).dtype == dtype, method
