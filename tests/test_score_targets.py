"""Score targets: the losses against closed forms, autograd and their exact expectations."""

import pytest
import torch

from fromnoise.distributions import Gaussian, laboratory
from fromnoise.networks import MLP
from fromnoise.paths import GaussianPath
from fromnoise.schedules import VE, CondOT
from fromnoise.score_targets import (
    ImplicitScoreMatching,
    SlicedScoreMatching,
    denoising_score_matching,
)
from fromnoise.targets import Regression
from fromnoise.time_samplers import UniformTimes
from fromnoise.training import train
from fromnoise.weightings import Uniform

F64 = torch.float64
LAW = laboratory(F64)
TARGETS = [
    ImplicitScoreMatching(),
    SlicedScoreMatching(),
    SlicedScoreMatching(reduced=False, probes="gaussian", projections=2),
]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def network(seed=0):
    torch.manual_seed(seed)
    return MLP(2, hidden=16, depth=1).double()


def by_hand(net, x, v=None, reduced=True):
    """The loss from full Jacobians, one point at a time."""
    values = []
    for i, point in enumerate(x):
        f = net(point[None], torch.ones(1, dtype=F64))[0]
        jacobian = torch.func.jacrev(lambda y: net(y[None], torch.ones(1, dtype=F64))[0])(point)
        if v is None:
            values.append(f @ f + 2 * jacobian.trace())
            continue
        for z in v[:, i]:
            square = f @ f if reduced else (z @ f) ** 2
            values.append((square + 2 * z @ jacobian @ z) / len(v))
    return sum(values) / len(x) / x.shape[1]


def test_implicit_loss_is_its_formula():
    net, x = network(), LAW.sample(6, seeded(0))
    loss = ImplicitScoreMatching().loss(net, x)
    torch.testing.assert_close(loss, by_hand(net, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("probes", ["rademacher", "gaussian"])
def test_sliced_loss_is_its_formula(reduced, probes):
    net, x = network(), LAW.sample(6, seeded(0))
    target = SlicedScoreMatching(projections=3, probes=probes, reduced=reduced)
    v = target.directions(x, seeded(1))
    assert v.shape == (3, 6, 2)
    loss = target.loss(net, x, seeded(1))
    torch.testing.assert_close(loss, by_hand(net, x, v, reduced), rtol=1e-12, atol=1e-12)


def test_one_dimension_with_signs_needs_no_estimate():
    # v = +-1 on the line: both sliced losses are the implicit one, whatever the signs.
    torch.manual_seed(0)
    net = MLP(1, hidden=8, depth=1).double()
    x = torch.randn(50, 1, dtype=F64, generator=seeded(0))
    exact = ImplicitScoreMatching().loss(net, x)
    for reduced in (True, False):
        loss = SlicedScoreMatching(reduced=reduced).loss(net, x, seeded(3))
        torch.testing.assert_close(loss, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
def test_gradients_are_those_of_finite_differences(target):
    net, x = network(), LAW.sample(20, seeded(0))
    target.loss(net, x, seeded(1)).backward()
    weight = net.first.weight
    slope, h = weight.grad[0, 0].item(), 1e-5
    with torch.no_grad():
        weight[0, 0] += h
        above = target.loss(net, x, seeded(1)).item()
        weight[0, 0] -= 2 * h
        below = target.loss(net, x, seeded(1)).item()
    # central differences: an error of h^2 times a third derivative, and rounding of 1e-16 / h
    assert slope == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-8)


def test_linear_network_on_a_gaussian_has_the_closed_form():
    # f = -a x on N(0, v): E[a^2 x^2 - 2 a] = a^2 v - 2 a, least at a = 1 / v.
    law = Gaussian(torch.zeros(3, dtype=F64), 0.5 * torch.eye(3, dtype=F64))
    x = law.sample(20_000, seeded(0))
    for a in (0.5, 2.0, 3.0):
        loss = ImplicitScoreMatching().loss(lambda y, t, a=a: -a * y, x).item()
        # the mean of 60,000 squares of variance 2 v^2: 5.5 deviations, false alarms below 4e-8
        slack = 5.5 * a**2 * (2 * 0.25 / 60_000) ** 0.5
        assert loss == pytest.approx(a**2 * 0.5 - 2 * a, abs=slack)


def test_path_and_time_choose_the_points():
    data = LAW.sample(200, seeded(0))
    path = GaussianPath(VE(0.1, 3.0))
    target = ImplicitScoreMatching(path, t=0.25)
    expected = path.sample(data, 0.25, generator=seeded(5)).x
    assert torch.equal(target.draw(data, seeded(5)), expected)
    seen = []
    target.loss(lambda x, t: (seen.append(t), x)[1], data, seeded(5))
    assert torch.equal(seen[0], torch.full((200,), 0.25, dtype=F64))
    assert torch.equal(ImplicitScoreMatching().draw(data), data)


def test_images_are_points_too():
    x = torch.randn(4, 1, 2, 3, dtype=F64, generator=seeded(0))
    loss = ImplicitScoreMatching().loss(lambda y, t: -2 * y, x)
    torch.testing.assert_close(loss, (4 * x.square() - 4).mean(), rtol=1e-12, atol=1e-12)
    loss = SlicedScoreMatching(reduced=True).loss(lambda y, t: -2 * y, x, seeded(1))
    torch.testing.assert_close(loss, (4 * x.square() - 4).mean(), rtol=1e-12, atol=1e-12)


def test_constant_network_has_no_divergence():
    x = torch.randn(4, 2, generator=seeded(0))
    loss = ImplicitScoreMatching().loss(lambda y, t: torch.full_like(y, 3.0), x)
    assert loss.item() == pytest.approx(9.0)


def test_denoising_score_matching_is_the_regression_it_names():
    path = GaussianPath(VE(0.1, 3.0))
    data = LAW.sample(50, seeded(0))
    net = network()
    sample = Regression(path, "score").draw(data, seeded(1))
    sigma = path.schedule.sigma(sample.t)
    error = net(sample.x, sample.t) + sample.noise / sigma
    for weighted, weight in ((True, sigma**2), (False, 1.0)):
        loss = denoising_score_matching(path, weighted=weighted).loss(net, data, seeded(1))
        torch.testing.assert_close(loss, (weight * error**2).mean(), rtol=1e-12, atol=1e-12)
    assert denoising_score_matching(path) == Regression(path, "score", Uniform("noise"))
    with pytest.raises(ValueError, match="the score is not finite"):
        denoising_score_matching(GaussianPath(CondOT()))
    denoising_score_matching(GaussianPath(CondOT()), UniformTimes(1e-3, 1 - 1e-3))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
def test_the_training_loop_takes_them(target):
    torch.manual_seed(0)
    law = laboratory(torch.float32)
    fit = train(MLP(2, hidden=16, depth=1), target, law, steps=30, batch_size=64, progress=False)
    assert sum(fit.losses[-10:]) < sum(fit.losses[:10])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        ImplicitScoreMatching(t=1.5)
    with pytest.raises(ValueError, match="projections must be at least 1"):
        SlicedScoreMatching(projections=0)
    with pytest.raises(ValueError, match="probes must be"):
        SlicedScoreMatching(probes="uniform")
    for target in TARGETS:
        with pytest.raises(ValueError, match="the network's output has shape"):
            target.loss(lambda x, t: x[:, :1], LAW.sample(4, seeded(0)), seeded(0))
