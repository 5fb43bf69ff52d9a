"""EDM's preconditioning for any schedule: the paper's formulas, unit sizes, its inner target."""

import math

import pytest
import torch

from fromnoise import checkpoints
from fromnoise.distributions import Gaussian
from fromnoise.networks import MLP, Preconditioned
from fromnoise.networks.preconditioned import preconditioning
from fromnoise.paths import GaussianPath
from fromnoise.schedules import EDM, VE, VP, CondOT, Cosine, SubVP
from fromnoise.targets import Regression
from fromnoise.weightings import EDM as EDMWeighting

F64 = torch.float64
SCHEDULES = [CondOT(), Cosine(), VP(), SubVP(), VE(), EDM()]
named = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)


def test_at_alpha_one_it_is_the_table_of_the_paper():
    t = torch.linspace(0, 1, 11, dtype=F64)
    schedule, scale = EDM(), 0.5
    sigma = schedule.sigma(t)
    c = preconditioning(t, schedule, scale)
    # Karras et al. 2022, Table 1, last column
    expected = {
        "skip": scale**2 / (sigma**2 + scale**2),
        "out": sigma * scale / (sigma**2 + scale**2).sqrt(),
        "into": 1 / (sigma**2 + scale**2).sqrt(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(c, name), value, rtol=1e-14, atol=0)
    # c_noise is a function of theirs, (1/4) log sigma
    theirs = 0.25 * torch.log(sigma)
    torch.testing.assert_close(c.noise, torch.sigmoid(math.log(scale) - 4 * theirs))


@named
@pytest.mark.parametrize("scale", [0.5, 0.962, 3.0])
def test_input_and_inner_target_have_unit_mean_square(schedule, scale):
    """Exactly, from second moments: E x^2 = (alpha scale)^2 + sigma^2, E x X_1 = alpha scale^2."""
    t = torch.linspace(0, 1, 21, dtype=F64)[1:-1]
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    c = preconditioning(t, schedule, scale)
    xx, xy, yy = alpha**2 * scale**2 + sigma**2, alpha * scale**2, scale**2
    one = torch.ones_like(t)
    torch.testing.assert_close(c.into**2 * xx, one, rtol=1e-13, atol=0)
    # E (X_1 - c_skip x)^2 = c_out^2, and X_1 - c_skip x is orthogonal to x; relative to the size of
    # the terms, which cancel to c_out^2 / scale^2 of them where there is little noise
    target = (yy - 2 * c.skip * xy + c.skip**2 * xx) / c.out**2
    bound = 8 * torch.finfo(F64).eps * (scale / c.out) ** 2
    assert ((target - 1).abs() <= bound).all()
    assert ((xy - c.skip * xx).abs() <= 8 * torch.finfo(F64).eps * xy).all()
    # the weighting EDM(scale) is 1 / c_out^2
    weight = EDMWeighting(scale).weight("data", t, schedule)
    torch.testing.assert_close(weight * c.out**2, one, rtol=1e-12, atol=0)
    assert (c.noise.diff() > 0).all() and (c.noise >= 0).all() and (c.noise <= 1).all()


@named
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_ends_are_finite_and_follow_the_dtype(schedule, dtype):
    for value in preconditioning(torch.tensor([0.0, 1.0], dtype=dtype), schedule, 0.7):
        assert torch.isfinite(value).all() and value.dtype == dtype
    if schedule.sigma(1.0) == 0:
        c = preconditioning(torch.tensor([1.0]), schedule, 0.7)
        assert c.skip.item() == pytest.approx(1.0) and c.out.item() == 0.0


@pytest.mark.parametrize("schedule", [CondOT(), Cosine(), VP()], ids=lambda s: s.name)
def test_the_inner_target_is_minus_v_of_scaled_data(schedule):
    """`prp-edm-is-v`, draw by draw."""
    scale, g = 1.7, torch.Generator().manual_seed(0)
    data = scale * torch.randn(50, 3, dtype=F64, generator=g)
    t = torch.rand(50, dtype=F64, generator=g) * 0.98 + 0.01
    s = GaussianPath(schedule).sample(data, t, generator=g)
    c = preconditioning(s.t, schedule, scale)
    inner = (s.data - c.skip * s.x) / c.out
    a, b = schedule.alpha(s.t) * scale * c.into, schedule.sigma(s.t) * c.into
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(a))
    torch.testing.assert_close(c.into * s.x, a * s.data / scale + b * s.noise)
    torch.testing.assert_close(inner, -(a * s.noise - b * s.data / scale), rtol=1e-9, atol=1e-9)


def test_gaussian_data_leave_nothing_to_learn():
    """With F = 0 the module is the exact denoiser of N(0, scale^2 I)."""

    class Nothing(torch.nn.Module):
        def forward(self, x, t):
            return torch.zeros_like(x)

    scale = 0.6
    law = Gaussian(torch.zeros(2, dtype=F64), scale**2 * torch.eye(2, dtype=F64))
    x = torch.randn(20, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    for schedule in SCHEDULES:
        net = Preconditioned(Nothing(), schedule, scale)
        for t in (0.1, 0.5, 0.9):
            time = torch.tensor(t, dtype=F64)
            exact = law.denoise(x, schedule.alpha(time), schedule.sigma(time))
            torch.testing.assert_close(net(x, t), exact)


def test_another_schedule_gives_the_same_denoiser():
    """`prp-preconditioning-schedule`: D'_t(x) = D_r(x / c), with the same inner network."""
    from fromnoise.paths import change_of_schedule

    torch.manual_seed(0)
    inner = MLP(2, hidden=16, depth=1).double()
    x = torch.randn(30, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    source, target = CondOT(), VP()
    t = torch.linspace(0.05, 0.95, 30, dtype=F64)
    r, scale = change_of_schedule(t, source, target)
    first = Preconditioned(inner, target, 0.8)(x, t)
    second = Preconditioned(inner, source, 0.8)(x / scale[:, None], r)
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


def test_its_loss_is_the_plain_loss_of_the_inner_network():
    """EDM's weight of the data's error is 1 for F: the same number, draw by draw."""
    torch.manual_seed(0)
    inner = MLP(2, hidden=16, depth=1).double()
    path, scale = GaussianPath(Cosine()), 1.3
    net = Preconditioned(inner, path.schedule, scale)
    from fromnoise.time_samplers import UniformTimes

    target = Regression(path, "data", EDMWeighting(scale), UniformTimes(0.01, 0.99))
    data = scale * torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    loss = target.loss(net, data, torch.Generator().manual_seed(2))
    s = target.draw(data, torch.Generator().manual_seed(2))
    c = preconditioning(s.t, path.schedule, scale)
    plain = (inner(c.into * s.x, c.noise) - (s.data - c.skip * s.x) / c.out).square().mean()
    torch.testing.assert_close(loss, plain, rtol=1e-9, atol=0)


def test_it_is_built_from_a_description():
    spec = {
        "name": "Preconditioned",
        "options": {
            "network": {"name": "MLP", "options": {"dim": 2, "hidden": 8, "depth": 1}},
            "schedule": checkpoints.describe_schedule(VP(beta_max=12.0)),
            "sigma_data": 0.4,
        },
    }
    net = checkpoints.build_network(spec)
    assert isinstance(net.network, MLP) and net.schedule == VP(beta_max=12.0)
    assert net.sigma_data == 0.4 and net(torch.zeros(3, 2), 0.5).shape == (3, 2)
    with pytest.raises(ValueError, match="no network is called 'Nix'"):
        checkpoints.build_network(
            {**spec, "options": {**spec["options"], "network": {"name": "Nix", "options": {}}}}
        )


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_scale_is_refused(scale):
    with pytest.raises(ValueError, match="sigma_data must be positive and finite"):
        Preconditioned(MLP(2), CondOT(), scale)
