"""Stochastic interpolants, against Gaussian laws, for which everything is linear algebra."""

import itertools

import pytest
import torch

from fromnoise.interpolants import (
    Interpolant,
    InterpolantRegression,
    Latent,
    interpolant_flow,
    interpolant_sde,
)
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT, Cosine
from fromnoise.solvers import rk4, solve_ode, solve_sde
from fromnoise.time_samplers import UniformTimes

A, B, CROSS = 0.5, 2.0, 0.4  # variances of X_0 and X_1, and their covariance


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fields(interpolant):
    """b and eta of centred Gaussians on the line."""
    s, n = interpolant.schedule, interpolant.noise

    def variance(t):
        al, be, ga = s.alpha(t), s.sigma(t), n.gamma(t)
        return al**2 * B + be**2 * A + 2 * al * be * CROSS + ga**2

    def b(x, t):
        al, be = s.alpha(t), s.sigma(t)
        da, db = s.d_alpha(t), s.d_sigma(t)
        c = al * da * B + be * db * A + (al * db + da * be) * CROSS
        return (c + n.gamma(t) * n.d_gamma(t)) / variance(t) * x

    def eta(x, t):
        return n.gamma(t) / variance(t) * x

    return b, eta, variance


def test_without_latent_noise_it_is_the_gaussian_path():
    x, e = torch.randn(6, 3, generator=seeded(1)), torch.randn(6, 3, generator=seeded(2))
    t = torch.rand(6, generator=seeded(3))
    for schedule in (CondOT(), Cosine()):
        ours = Interpolant(schedule).sample(e, x, t)
        theirs = GaussianPath(schedule).sample(x, t, noise=e)
        assert torch.equal(ours.x, theirs.x) and torch.equal(ours.velocity, theirs.velocity)


def test_velocity_is_the_derivative_in_time():
    data, source, z = torch.randn(3, 5, 2, dtype=torch.float64, generator=seeded(4))
    it = Interpolant(Cosine(), Latent(0.7))
    for t in (0.01, 0.5, 0.99):
        t = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        slope = torch.autograd.functional.jacobian(lambda s: it.sample(source, data, s, z).x, t)
        found = it.sample(source, data, t.detach(), z)
        assert torch.allclose(found.velocity, slope, atol=1e-12)


def test_ends_are_source_and_data():
    data, source, z = torch.randn(3, 5, 2, generator=seeded(5))
    it = Interpolant(CondOT(), Latent(1.3))
    assert torch.equal(it.sample(source, data, 0.0, z).x, source)
    assert torch.equal(it.sample(source, data, 1.0, z).x, data)


def test_flow_and_sde_have_the_marginals_of_the_interpolant():
    """Deterministic: the flow maps std to std; the SDE's variance obeys its linear ODE."""
    it = Interpolant(CondOT(), Latent(0.6))
    b, eta, variance = fields(it)
    t0, t1 = (torch.tensor(v, dtype=torch.float64) for v in (0.01, 0.99))
    start = variance(t0).sqrt().reshape(1, 1)
    end = solve_ode(interpolant_flow(b), start, torch.linspace(0.01, 0.99, 400), rk4)
    assert end.item() == pytest.approx(variance(t1).sqrt().item(), rel=1e-5)
    sde = interpolant_sde(b, eta, it, g=lambda t: 0.8 * (1 + t))
    one, v = torch.ones(1, 1, dtype=torch.float64), variance(t0)
    times = torch.linspace(0.01, 0.99, 20001, dtype=torch.float64)
    for t, s in itertools.pairwise(times):  # midpoint rule for v' = 2 k v + g²
        m = (t + s) / 2
        k, g = sde.drift(one, m).item(), sde.diffusion(one, m).item()
        half = v + (s - t) / 2 * (2 * k * v + g**2)
        v = v + (s - t) * (2 * k * half + g**2)
    assert v.item() == pytest.approx(variance(t1).item(), rel=1e-5)  # second order, h = 5e-5


def test_sde_samples():
    it = Interpolant(CondOT(), Latent(1.0))
    b, eta, variance = fields(it)
    t0, t1 = torch.tensor(0.02), torch.tensor(0.98)
    x = variance(t0).sqrt() * torch.randn(20000, 1, generator=seeded(6))
    end = solve_sde(
        interpolant_sde(b, eta, it, 1.0), x, torch.linspace(0.02, 0.98, 400), generator=seeded(7)
    )
    # standard deviation of a sample variance: sqrt(2 / n) = 1 %; four of them and the weak error
    assert end.var().item() == pytest.approx(variance(t1).item(), rel=0.05)


@pytest.mark.parametrize("kind", ["velocity", "latent"])
def test_regression_is_least_at_the_conditional_mean(kind):
    """Among c times the exact field, c = 1 is best; common random numbers."""
    it = Interpolant(CondOT(), Latent(0.8))
    b, eta, _ = fields(it)

    def coupling(data, generator=None):
        # X_0 given X_1 of the Gaussian pair
        z = torch.randn(data.shape, generator=generator, dtype=data.dtype)
        return CROSS / B * data + (A - CROSS**2 / B) ** 0.5 * z, data

    target = InterpolantRegression(it, kind, coupling, UniformTimes(t_min=0.05, t_max=0.95))
    data = B**0.5 * torch.randn(200000, 1, dtype=torch.float64, generator=seeded(8))
    exact = b if kind == "velocity" else eta
    losses = [
        target.loss(lambda x, t, c=c: c * exact(x, t), data, seeded(9)) for c in (0.9, 1.0, 1.1)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_bad_input():
    it = Interpolant(CondOT(), Latent(0.5))
    with pytest.raises(ValueError, match="scale=-1"):
        Latent(-1.0)
    with pytest.raises(ValueError, match="kind is 'drift'"):
        InterpolantRegression(it, "drift")
    with pytest.raises(ValueError, match="no latent noise"):
        InterpolantRegression(Interpolant(CondOT()), "latent")
    with pytest.raises(ValueError, match="infinite at 0 and 1"):
        InterpolantRegression(it, times=UniformTimes())
    with pytest.raises(ValueError, match="latent has shape"):
        it.sample(torch.zeros(2, 1), torch.zeros(2, 1), 0.5, torch.zeros(3, 1))
    b, eta, _ = fields(it)
    with pytest.raises(ValueError, match="gamma = 0 at t = 0"):
        interpolant_sde(b, eta, it, 1.0).drift(torch.zeros(1, 1), torch.tensor(0.0))
    with pytest.raises(ValueError, match="output"):
        InterpolantRegression(it).loss(lambda x, t: x[:1], torch.zeros(3, 1))
