"""Variational autoencoders: the linear one is probabilistic PCA; the bound against quadrature."""

import math

import pytest
import torch

from fromnoise.networks import VAE, LinearVAE
from fromnoise.targets import VariationalAutoencoder
from fromnoise.training import train

F64 = torch.float64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data_with_spectrum(n: int = 4000):
    """Gaussian data in five dimensions, standardized so that the sample has exactly this law."""
    values = torch.tensor([4.0, 2.0, 0.3, 0.2, 0.1], dtype=F64)
    raw = torch.randn(n, 5, dtype=F64, generator=seeded(0))
    raw = raw - raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(raw.T @ raw / n)).T
    basis, _ = torch.linalg.qr(torch.randn(5, 5, dtype=F64, generator=seeded(1)))
    return white * values.sqrt() @ basis.T + 1.5, values


def tipping_bishop(values: torch.Tensor, k: int) -> tuple[float, float]:
    """The best noise and the mean log-likelihood of probabilistic PCA."""
    noise = values[k:].mean().item()
    spectrum = torch.cat([values[:k], torch.full((len(values) - k,), noise, dtype=F64)])
    nats = 0.5 * (spectrum.log().sum() + len(values) * (1 + math.log(2 * math.pi)))
    return noise, -nats.item()


def optimal(values, k, data) -> LinearVAE:
    """The linear autoencoder of `thm-linear-vae`, set by hand from the eigenvectors."""
    centred = data - data.mean(0)
    spectrum, basis = torch.linalg.eigh(centred.T @ centred / len(data))
    order = spectrum.argsort(descending=True)
    spectrum, basis = spectrum[order], basis[:, order]
    noise = spectrum[k:].mean()
    net = LinearVAE(5, k).double()
    W = basis[:, :k] * (spectrum[:k] - noise).sqrt()
    with torch.no_grad():
        net.mean.copy_(data.mean(0))
        net.weight.copy_(W)
        net.encoder.copy_((W / spectrum[:k]).T)  # M^{-1} W^T with M = W^T W + noise = spectrum
        net.log_variance.copy_((noise / spectrum[:k]).log())
        net.log_noise.copy_(noise.log())
    return net


def test_at_the_optimum_the_bound_is_the_likelihood_of_ppca():
    data, values = data_with_spectrum()
    net = optimal(values, 2, data)
    noise, nats = tipping_bishop(values, 2)
    assert net.noise.item() == pytest.approx(noise, rel=1e-10)
    mean, covariance = net.marginal()
    law = torch.distributions.MultivariateNormal(mean, covariance)
    assert law.log_prob(data).mean().item() == pytest.approx(nats, rel=1e-10)
    # the bound is tight for every x and every draw averages to it; 5.5 standard errors
    draws = torch.stack([net.elbo(data, seeded(k)) for k in range(40)]).mean(0)
    gap = draws - law.log_prob(data)
    assert abs(gap.mean()) < 5.5 * gap.std() / len(gap) ** 0.5


def test_training_reaches_probabilistic_pca():
    data, values = data_with_spectrum()
    torch.manual_seed(0)
    net = train(
        LinearVAE(5, 2), VariationalAutoencoder(), data.float(), steps=1500, batch_size=500,
        lr=0.02, ema_decay=0.99, progress=False, clip=None,
    ).net  # fmt: skip
    noise, _ = tipping_bishop(values, 2)
    assert net.noise.item() == pytest.approx(noise, rel=0.02)
    mean, covariance = (v.double() for v in net.marginal())
    spectrum = torch.linalg.eigvalsh(covariance).flip(0)
    best = torch.cat([values[:2], torch.full((3,), noise, dtype=F64)])
    assert torch.allclose(spectrum, best, rtol=0.03)
    # the likelihood is stationary at its maximum, so it is far closer than its parameters
    law = torch.distributions.MultivariateNormal(mean, covariance)
    assert law.log_prob(data).mean().item() == pytest.approx(tipping_bishop(values, 2)[1], abs=2e-3)


def test_the_bound_is_below_the_likelihood_for_any_encoder():
    """One latent dimension: log p(x) by quadrature over z, for an untrained network."""
    torch.manual_seed(1)
    net = VAE((2,), latent=1, hidden=16, noise=0.5).double()
    x = torch.randn(30, 2, dtype=F64, generator=seeded(2))
    z = torch.linspace(-9, 9, 4001, dtype=F64)[:, None]
    with torch.no_grad():
        square = (x[:, None] - net.decode(z)).square().sum(-1)
        log_joint = -0.5 * (square / net.noise + 2 * (net.log_noise + math.log(2 * math.pi)))
        log_joint = log_joint - 0.5 * (z[:, 0] ** 2 + math.log(2 * math.pi))
        exact = torch.logsumexp(log_joint, 1) + math.log(18 / 4000)
        bound = torch.stack([net.elbo(x, seeded(k)) for k in range(4000)])
    slack = 5.5 * bound.std(0) / 4000**0.5
    assert bool((bound.mean(0) <= exact + slack).all())
    assert (exact - bound.mean(0)).max() > 0.01  # and not equal to it


def test_beta_weighs_the_entropy_alone():
    torch.manual_seed(2)
    net = VAE((3,), latent=2, hidden=8).double()
    x = torch.randn(5, 3, dtype=F64, generator=seeded(3))
    one, two, none = (net.elbo(x, seeded(4), beta) for beta in (1.0, 2.0, 0.0))
    assert torch.allclose(none - one, one - two) and bool((none > one).all())


def test_samples_and_bad_sizes():
    net = VAE((1, 4, 4), latent=2, hidden=8, noise=0.25)
    assert net.sample(3, seeded(5)).shape == (3, 1, 4, 4)
    clean, noisy = net.sample(2000, seeded(6)), net.sample(2000, seeded(6), noisy=True)
    assert (noisy - clean).std().item() == pytest.approx(0.5, rel=0.03)
    with pytest.raises(ValueError, match="latent is 0"):
        LinearVAE(3, 0)
    with pytest.raises(ValueError, match="noise is -1"):
        LinearVAE(3, 1, noise=-1.0)
    with pytest.raises(ValueError, match="decoder's mean has shape"):
        net.elbo(torch.zeros(2, 16))
