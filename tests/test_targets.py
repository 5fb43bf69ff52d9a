"""Training targets: the loss against its formula, and what may go wrong."""

import pytest
import torch

from fromnoise.distributions import laboratory
from fromnoise.fields import ExactField
from fromnoise.networks import MLP
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT, Cosine
from fromnoise.targets import ConditionalFlowMatching


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=lambda s: s.name)
@pytest.mark.parametrize("event", [(2,), (1, 4, 4)])
def test_cfm_loss_is_its_formula(schedule, event):
    """The loss, computed from the schedule's numbers alone, by hand."""
    data = torch.randn(32, *event, generator=torch.Generator().manual_seed(0))
    target = ConditionalFlowMatching(GaussianPath(schedule))

    def net(x, t):
        return 2.0 * x + t.reshape(-1, *[1] * (x.ndim - 1))

    sample = target.draw(data, torch.Generator().manual_seed(1))
    loss = target.loss(net, data, torch.Generator().manual_seed(1))
    total = 0.0
    for i in range(len(data)):
        t = sample.t.flatten()[i]
        x = schedule.alpha(t) * data[i] + schedule.sigma(t) * sample.noise[i]
        velocity = schedule.d_alpha(t) * data[i] + schedule.d_sigma(t) * sample.noise[i]
        total += ((2.0 * x + t - velocity) ** 2).sum().item()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(total / data.numel(), rel=1e-5)


def test_draws_are_uniform_in_time_and_fresh():
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    first, second = (target.draw(torch.zeros(n, 1), generator) for _ in range(2))
    t = first.t.flatten().sort().values
    # Kolmogorov-Smirnov: exceeded with probability below 1e-5 (2 exp(-2 * 2.5^2) = 7e-6).
    assert (t - torch.arange(1, n + 1) / n).abs().max() < 2.5 / n**0.5
    assert not torch.equal(first.t, second.t)
    assert not torch.equal(first.noise, second.noise)
    again = target.draw(torch.zeros(n, 1), torch.Generator().manual_seed(0))
    assert torch.equal(first.x, again.x)


def test_the_marginal_velocity_beats_its_neighbours():
    """The exact marginal velocity minimizes the loss: on the same draws, a changed one loses."""
    law = laboratory()
    path = GaussianPath(CondOT())
    exact = ExactField(law, path)
    target = ConditionalFlowMatching(path)
    data = law.sample(20_000, torch.Generator().manual_seed(0))

    def loss(change):
        def net(x, t):
            return exact.velocity(x, t.flatten()) + change(x)

        return target.loss(net, data, torch.Generator().manual_seed(1)).item()

    best = loss(torch.zeros_like)
    # The excess of a constant shift c is c^2 up to Monte Carlo error, of std < 2 c / sqrt(20,000)
    # times the spread of the conditional velocity (< 3): 0.09 against at most 5 * 0.013.
    for change in (lambda x: 0 * x + 0.3, lambda x: 0 * x - 0.3, lambda x: 0.2 * x):
        assert loss(change) > best + 0.02


def test_the_coupling_is_used():
    def opposite(data, generator):
        return -data, data

    target = ConditionalFlowMatching(GaussianPath(CondOT()), coupling=opposite)
    data = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    sample = target.draw(data, torch.Generator().manual_seed(1))
    assert torch.equal(sample.noise, -data)
    assert torch.allclose(sample.velocity, 2 * data)


def test_gradient_reaches_every_weight():
    net = MLP(2, hidden=16, depth=2)
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    target.loss(net, torch.randn(64, 2), torch.Generator().manual_seed(0)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_wrong_shape_of_the_output_is_named():
    target = ConditionalFlowMatching(GaussianPath(CondOT()))
    with pytest.raises(ValueError, match=r"net returned shape \(4, 1\).*shape of x"):
        target.loss(lambda x, t: x[:, :1], torch.zeros(4, 2), torch.Generator())
