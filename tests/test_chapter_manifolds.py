"""What the chapter beyond Euclidean space measures: superpositions, exact paths, trained flows."""

import pytest
import torch

from fromnoise.distributions import GaussianMixture
from fromnoise.fields import ExactField
from fromnoise.jumps import LinePath, simulate
from fromnoise.manifold_laws import TorusPath, VonMisesFisherMixture, WrappedMixture
from fromnoise.manifolds import FlatTorus, Sphere, TangentMLP, log_likelihood
from fromnoise.paths import GaussianPath
from fromnoise.riemannian import RiemannianFlowMatching
from fromnoise.schedules import CondOT
from fromnoise.training import train

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_flow_jumps_and_their_superposition_have_the_marginals_of_the_path(share):
    """Kolmogorov-Smirnov: 2.5 / sqrt(n) is exceeded with probability 7e-6; 0.01 for the step."""
    law = GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=F64),
        torch.tensor([[-1.5], [1.2]], dtype=F64),
        torch.tensor([[[0.09]], [[0.25]]], dtype=F64),
    )
    schedule = CondOT()
    field = ExactField(law, GaussianPath(schedule))

    def density(x, t):
        return law.marginal_log_prob(x[:, None], schedule.alpha(t), schedule.sigma(t)).exp()

    path = LinePath(density, torch.linspace(-5, 5, 2001, dtype=F64))
    n, times = 10_000, torch.linspace(0, 0.9, 181, dtype=F64)
    x = simulate(
        path, lambda x, t: field.velocity(x[:, None], t)[:, 0],
        torch.randn(n, generator=seeded(1), dtype=F64), times, share, seeded(2),
    )  # fmt: skip
    cell = 10 / 2000
    exact = (density(path.grid, times[-1]).cumsum(0) - 0.5 * density(path.grid, times[-1])) * cell
    found = torch.searchsorted(x.sort().values, path.grid) / n
    assert (found - exact).abs().max() < 2.5 / n**0.5 + 0.01


@pytest.mark.parametrize("space", ["sphere", "torus"])
def test_trained_flows_have_the_exact_densities(space):
    """Mean log-density of data within 0.1 nats of the exact one: training noise, not a theorem.

    The uniform law, that is no training, is 0.9 (sphere) and 1.4 (torus) nats below.
    """
    if space == "sphere":
        manifold = Sphere(2)
        means = manifold.project(torch.tensor([[1.0, 0.0, 0.3], [-0.5, 1.0, 0.0]]))
        law = VonMisesFisherMixture(torch.ones(2), means, torch.tensor([20.0, 6.0]))
    else:
        manifold = FlatTorus(2)
        law = WrappedMixture(
            torch.ones(2),
            torch.tensor([[3.0, -3.0], [-1.0, 1.0]]),
            torch.tensor([[0.5, 0.5], [0.8, 0.4]]),
        )
    torch.manual_seed(0)
    net = train(
        TangentMLP(manifold, hidden=64, depth=2), RiemannianFlowMatching(manifold), law,
        steps=700, batch_size=256, lr=4e-3, ema_decay=0.99, seed=0, progress=False,
    ).net  # fmt: skip
    data = law.sample(400, seeded(3))
    found = log_likelihood(manifold, net, data, torch.linspace(1, 0, 33))
    exact = law.log_prob(data)
    assert abs((found - exact).mean().item()) < 0.1
    assert (exact.mean() + manifold.log_volume).item() > 0.8


def test_exact_velocity_of_the_torus_gives_the_exact_wrapped_density():
    law = WrappedMixture(
        torch.ones(2, dtype=F64),
        torch.tensor([[3.0, -3.0], [-1.0, 1.0]], dtype=F64),
        torch.tensor([[0.5, 0.5], [0.8, 0.4]], dtype=F64),
    )
    path, x = TorusPath(law), law.sample(200, seeded(4))
    found = log_likelihood(FlatTorus(2), path.velocity, x, torch.linspace(0.95, 0, 81, dtype=F64))
    # the midpoint rule of 80 steps; at t = 0.95 the law itself is p_1 blurred by 0.16
    assert (found - path.log_prob(x, 0.95)).abs().mean() < 2e-3
