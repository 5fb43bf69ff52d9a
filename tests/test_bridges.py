"""Bridges, against the Gaussian closed form and against Sinkhorn's plan."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from fromnoise.bridges import (
    BridgeMatching,
    GaussianBridge,
    bridge_sde,
    brownian_bridge,
    fitting_step,
    iterative_markovian_fitting,
    schroedinger_bridge,
)
from fromnoise.distributions import Gaussian
from fromnoise.networks import MLP
from fromnoise.solvers import solve_sde

D = torch.float64
A = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=D)
B = torch.tensor([[0.6, -0.4], [-0.4, 2.0]], dtype=D)
M0, M1 = torch.tensor([0.0, 1.0], dtype=D), torch.tensor([2.0, -1.0], dtype=D)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_joint_precision_has_the_block_of_brownian_motion():
    """log density = f(x) + h(y) + x·y / g², so the off-diagonal block is -I / g²."""
    for g in (0.5, 1.0, 3.0):
        c = schroedinger_bridge(M0, A, M1, B, g).cross
        joint = torch.cat([torch.cat([A, c], 1), torch.cat([c.mT, B], 1)])
        assert torch.linalg.eigvalsh(joint).min() > 0
        block = torch.linalg.inv(joint)[:2, 2:]
        assert torch.allclose(block, -torch.eye(2, dtype=D) / g**2, atol=1e-9)


def test_limits_are_optimal_transport_and_independence():
    root = torch.linalg.cholesky(A)  # the map T = L^-T (L^T B L)^{1/2} L^-1 by another square root
    values, vectors = torch.linalg.eigh(root.mT @ B @ root)
    middle = (vectors * values.sqrt()) @ vectors.mT
    transport = torch.linalg.inv(root).mT @ middle @ torch.linalg.inv(root)
    assert torch.allclose(schroedinger_bridge(M0, A, M1, B, 1e-3).cross, A @ transport, atol=1e-5)
    assert schroedinger_bridge(M0, A, M1, B, 100.0).cross.abs().max() < 1e-3


def test_cross_covariance_agrees_with_sinkhorn_on_a_grid():
    """An independent solution: Sinkhorn's iteration on a fine grid of the line."""
    a, b, g = 0.7, 1.6, 0.9
    x = np.linspace(-8.0, 8.0, 401)
    log_p, log_q = -(x**2) / (2 * a), -(x**2) / (2 * b)
    log_p, log_q = log_p - logsumexp(log_p), log_q - logsumexp(log_q)
    kernel = -((x[:, None] - x[None]) ** 2) / (2 * g**2)
    f, h = np.zeros_like(x), np.zeros_like(x)
    for _ in range(200):
        f = log_p - logsumexp(kernel + h[None], axis=1)
        h = log_q - logsumexp(kernel + f[:, None], axis=0)
    plan = np.exp(kernel + f[:, None] + h[None])
    one = torch.ones(1, dtype=D)
    exact = schroedinger_bridge(0 * one, a * one[:, None], 0 * one, b * one[:, None], g)
    assert (plan * np.outer(x, x)).sum() == pytest.approx(exact.cross.item(), abs=1e-8)


def test_the_bridge_is_a_fixed_point_and_fitting_goes_there():
    exact = schroedinger_bridge(M0, A, M1, B, 0.8)
    assert torch.allclose(fitting_step(exact).cross, exact.cross, atol=1e-6)
    bridge = GaussianBridge(M0, A, M1, B, torch.zeros(2, 2, dtype=D), 0.8)
    errors = []
    for _ in range(25):
        bridge = fitting_step(bridge)
        errors.append((bridge.cross - exact.cross).norm().item())
    assert all(b < a for a, b in itertools.pairwise(errors)) and errors[-1] < 1e-4


def test_drift_and_slope_agree():
    bridge = schroedinger_bridge(M0, A, M1, B, 0.8)
    x = torch.randn(5, 2, dtype=D, generator=seeded(1))
    for t in (0.0, 0.3, 0.99):
        linear = (x - bridge.mean(t)) @ bridge.slope(t).mT + M1 - M0
        assert torch.allclose(bridge.drift(x, t), linear, atol=1e-9)


def test_the_sde_has_the_marginals_and_the_pairs():
    bridge = schroedinger_bridge(M0, A, M1, B, 0.8)
    n = 20000
    start = Gaussian(M0, A).sample(n, seeded(2))
    end = solve_sde(
        bridge_sde(bridge.end, 0.8), start, torch.linspace(0, 1, 201, dtype=D), generator=seeded(3)
    )
    joint = torch.cov(torch.cat([start, end], 1).T)
    # entries have standard errors up to sqrt(2) * 2 / sqrt(n) = 0.02; Euler's bias is of order h
    assert (joint[2:, 2:] - B).abs().max() < 0.1
    assert (joint[:2, 2:] - bridge.cross).abs().max() < 0.06
    assert (end.mean(0) - M1).abs().max() < 0.05


def test_brownian_bridge_moments_and_drift():
    x, y = torch.zeros(40000, 1), torch.ones(40000, 1)
    sample = brownian_bridge(x, y, 0.25, 2.0, seeded(4))
    sd = 2.0 * math.sqrt(0.25 * 0.75)
    assert sample.x.mean().item() == pytest.approx(0.25, abs=5 * sd / 200)
    assert sample.x.std().item() == pytest.approx(sd, rel=0.02)  # 5 standard errors
    assert torch.allclose(sample.drift, (1 - sample.x) / 0.75)
    ends = [brownian_bridge(x, y, t, 2.0, seeded(4)).x for t in (0.0, 1.0)]
    assert torch.equal(ends[0], x) and torch.equal(ends[1], y)


def test_matching_is_least_at_the_end_predicted():
    bridge = GaussianBridge(M0, A, M1, B, torch.zeros(2, 2, dtype=D), 1.0)
    data = Gaussian(M1, B).sample(100000, seeded(5))

    def coupling(y, generator=None):
        return Gaussian(M0, A).sample(len(y), generator), y

    def end(scale):
        def f(x, t):
            times = t.flatten().tolist()
            return torch.stack(
                [scale * bridge.end(x[i : i + 1], s)[0] for i, s in enumerate(times)]
            )

        return f

    target = BridgeMatching(1.0, coupling)
    losses = [target.loss(end(c), data[:3000], seeded(6)) for c in (0.9, 1.0, 1.1)]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_fitting_with_networks_approaches_the_bridge():
    one = torch.ones(1)
    source, data = Gaussian(0 * one, one[:, None]), Gaussian(0 * one, 2.0 * one[:, None])
    found = iterative_markovian_fitting(
        source,
        data,
        0.7,
        lambda: MLP(1, hidden=32, depth=1),
        rounds=4,
        pairs=4000,
        steps=20,
        train_steps=300,
        batch_size=512,
        lr=5e-3,
        ema_decay=0.95,
    )
    assert [f.direction for f in found] == ["forward", "backward"] * 2
    exact = schroedinger_bridge(0 * one, one[:, None], 0 * one, 2 * one[:, None], 0.7).cross.item()
    cross = [torch.cov(torch.cat([f.source, f.data], 1).T)[0, 1].item() for f in found]
    assert abs(cross[-1] - exact) < 0.15 < exact  # independent pairs have 0; exact is 1.19


def test_bad_input():
    with pytest.raises(ValueError, match="g=0"):
        schroedinger_bridge(M0, A, M1, B, 0.0)
    with pytest.raises(ValueError, match="cov0 is singular"):
        schroedinger_bridge(M0, 0 * A, M1, B, 1.0)
    with pytest.raises(ValueError, match="shapes are"):
        schroedinger_bridge(M0, A[:1], M1, B, 1.0)
    with pytest.raises(ValueError, match="direction='sideways'"):
        BridgeMatching(1.0, direction="sideways")
    with pytest.raises(ValueError, match="nodes=0"):
        fitting_step(schroedinger_bridge(M0, A, M1, B, 1.0), nodes=0)
    with pytest.raises(ValueError, match="rounds=0"):
        iterative_markovian_fitting(Gaussian(M0, A), Gaussian(M1, B), 1.0, None, rounds=0)
    with pytest.raises(ValueError, match="output"):
        BridgeMatching(1.0).loss(lambda x, t: x[:1], torch.zeros(3, 1))
