"""Paths, predictions and fields: conversions, conditional quantities, change of schedule."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.discrete_schedules import DiscreteVP, linear_betas
from fromnoise.distributions import Empirical, laboratory
from fromnoise.fields import ExactField, NetworkField, TransformedField
from fromnoise.paths import GaussianPath, change_of_schedule
from fromnoise.predictions import convert
from fromnoise.schedules import EDM, VE, VP, CondOT, Cosine, SubVP

ALL = [CondOT(), Cosine(), VP(), SubVP(), VE(), EDM(), DiscreteVP(linear_betas())]
KINDS = ["data", "noise", "score", "velocity", "v"]
LAB = laboratory()
F64 = torch.float64


def named(schedules):
    return pytest.mark.parametrize("schedule", schedules, ids=lambda s: s.name)


def draw(n=64, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, 2, dtype=dtype, generator=g) for _ in range(2))


# -- conversions --------------------------------------------------------------------------------


def exact_predictions(x, t, schedule):
    field = ExactField(LAB, GaussianPath(schedule))
    data, noise = field.denoise(x, t), field.noise(x, t)
    alpha, sigma = (
        schedule.alpha(torch.tensor(t, dtype=F64)),
        schedule.sigma(torch.tensor(t, dtype=F64)),
    )
    return {
        "data": data,
        "noise": noise,
        "score": field.score(x, t),
        "velocity": field.velocity(x, t),
        "v": alpha * noise - sigma * data,
    }


@named(ALL)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_all_pairs_of_predictions(schedule, t):
    x, _ = draw()
    known = exact_predictions(x, t, schedule)
    for source, target in itertools.product(KINDS, KINDS):
        made = convert(known[source], x, t, source=source, target=target, schedule=schedule)
        scale = known[target].abs().max()
        # the worst condition number is ~1e4 (VE at t = 0.05); 1e-10 leaves two digits
        assert (made - known[target]).abs().max() < 1e-10 * max(scale, 1.0), (source, target)


@named(ALL)
@given(t=st.floats(0.02, 0.98), pair=st.sampled_from(list(itertools.product(KINDS, KINDS))))
def test_there_and_back(schedule, t, pair):
    source, target = pair
    x, prediction = draw(8)
    there = convert(prediction, x, t, source=source, target=target, schedule=schedule)
    back = convert(there, x, t, source=target, target=source, schedule=schedule)
    # VE's data is found from its noise by x - sigma eps with sigma up to 50
    assert torch.allclose(back, prediction, atol=1e-8)


@pytest.mark.parametrize(
    ("source", "target", "t"),
    [
        ("noise", "data", 0.0),
        ("score", "data", 0.0),
        ("data", "noise", 1.0),
        ("data", "score", 1.0),
        ("noise", "score", 1.0),
        ("data", "velocity", 1.0),
        ("velocity", "score", 1.0),
    ],
)
def test_singular_conversions_are_refused(source, target, t):
    x, prediction = draw()
    with pytest.raises(ValueError, match=f"from {source} to {target} under CondOT is singular"):
        convert(prediction, x, t, source=source, target=target, schedule=CondOT())


def test_velocity_converts_at_both_ends_of_condot():
    data, noise = draw()
    for t in (0.0, 1.0):
        x = GaussianPath(CondOT()).sample(data, t, noise).x
        for target, expected in (("data", data), ("noise", noise)):
            made = convert(data - noise, x, t, source="velocity", target=target, schedule=CondOT())
            assert torch.allclose(made, expected, atol=1e-14)


def test_v_on_the_trigonometric_path_is_the_velocity_rescaled():
    x, velocity = draw()
    v = convert(velocity, x, 0.3, source="velocity", target="v", schedule=Cosine())
    assert torch.allclose(v, -velocity * (2 / torch.pi), atol=1e-14)


def test_unknown_kind_and_shape_are_refused():
    x, p = draw()
    with pytest.raises(ValueError, match="kind must be one of data, noise"):
        convert(p, x, 0.5, source="epsilon", target="data", schedule=CondOT())
    with pytest.raises(ValueError, match="prediction has shape"):
        convert(p[:3], x, 0.5, source="noise", target="data", schedule=CondOT())


# -- conditional paths ---------------------------------------------------------------------------


@named(ALL)
@given(
    t=st.floats(0.0, 1.0),
    event=st.sampled_from([(), (2,), (1, 4, 4)]),
    dtype=st.sampled_from([torch.float32, F64]),
    per_sample=st.booleans(),
)
def test_sample_is_alpha_data_plus_sigma_noise(schedule, t, event, dtype, per_sample):
    data, noise = torch.ones(3, *event, dtype=dtype), 2 * torch.ones(3, *event, dtype=dtype)
    time = torch.full((3,), t, dtype=dtype) if per_sample else t
    sample = GaussianPath(schedule).sample(data, time, noise)
    assert sample.x.shape == data.shape and sample.x.dtype == dtype
    at = torch.tensor(t, dtype=dtype)
    expected = schedule.alpha(at) + 2 * schedule.sigma(at)
    assert torch.allclose(sample.x, expected.expand_as(sample.x))


@named(ALL)
def test_conditional_velocity_is_the_time_derivative(schedule):
    data, noise = draw()
    path, t = GaussianPath(schedule), torch.tensor(0.4, dtype=F64)
    _, derivative = torch.func.jvp(
        lambda s: schedule.alpha(s) * data + schedule.sigma(s) * noise, (t,), (torch.ones_like(t),)
    )
    sample = path.sample(data, t, noise)
    # VE's derivative is ~50 in size
    assert torch.allclose(sample.velocity, derivative, atol=1e-11)
    assert torch.allclose(path.conditional_velocity(sample.x, t, data), derivative, atol=1e-11)


@named(ALL)
def test_conditional_score_and_density(schedule):
    data, noise = draw()
    path = GaussianPath(schedule)
    x = path.sample(data, 0.4, noise).x.requires_grad_(True)
    log_prob = path.conditional_log_prob(x, 0.4, data)
    sigma = schedule.sigma(torch.tensor(0.4, dtype=F64))
    alpha = schedule.alpha(torch.tensor(0.4, dtype=F64))
    expected = torch.distributions.Normal(alpha * data, sigma).log_prob(x).sum(1)
    assert torch.allclose(log_prob, expected, atol=1e-12)
    (score,) = torch.autograd.grad(log_prob.sum(), x)
    assert torch.allclose(path.conditional_score(x, 0.4, data), score, atol=1e-12)


def test_path_draws_are_reproducible_and_standard(generator):
    data = torch.zeros(50_000, 2)
    sample = GaussianPath(CondOT()).sample(data, 0.0, generator=generator)
    assert torch.equal(sample.x, sample.noise)
    # mean of 1e5 standard normals: 5 sigma is 5 / sqrt(1e5) = 0.016, false alarm 6e-7
    assert abs(sample.noise.mean().item()) < 0.016
    again = GaussianPath(CondOT()).sample(
        data, 0.0, generator=torch.Generator().manual_seed(20240117)
    )
    assert torch.equal(again.noise, sample.noise)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, d: p.sample(d, 1.5), r"t must lie in \[0, 1\]"),
        (lambda p, d: p.sample(d, torch.zeros(7)), "one value per sample"),
        (lambda p, d: p.sample(d, 0.5, noise=d[:2]), "noise has shape"),
        (lambda p, d: p.conditional_velocity(d, 1.0, d), "sigma_t = 0"),
        (lambda p, d: p.conditional_score(d, 0.5, d[:2]), "x has shape"),
    ],
)
def test_bad_calls_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(GaussianPath(CondOT()), torch.zeros(5, 2))


def test_infinite_velocity_is_refused():
    sample = GaussianPath(VP()).sample(torch.zeros(3, 2), 1.0)
    with pytest.raises(ValueError, match="sigma' is not finite at t = 1"):
        _ = sample.velocity


# -- change of schedule and fields --------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (CondOT(), Cosine()),
        (Cosine(), CondOT()),
        (CondOT(), VP()),
        (CondOT(), VE()),
        (VP(), SubVP()),
    ],
    ids=lambda s: s.name,
)
def test_change_of_schedule(source, target):
    t = torch.linspace(0.001, 1.0, 40, dtype=F64)
    r, c = change_of_schedule(t, source, target)
    assert torch.allclose(c * source.alpha(r), target.alpha(t), atol=1e-12)
    assert torch.allclose(c * source.sigma(r), target.sigma(t), atol=1e-11)


def test_change_of_schedule_at_the_end_points():
    r, c = change_of_schedule(torch.tensor([0.0, 1.0]), CondOT(), Cosine())
    assert r.tolist() == [0.0, 1.0] and c.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="half_log_snr must lie in"):
        change_of_schedule(0.0, VP(), CondOT())


@pytest.mark.parametrize("target", [Cosine(), VP(), SubVP(), VE()], ids=lambda s: s.name)
def test_transformed_field_is_the_exact_field(target):
    x, _ = draw()
    t = torch.linspace(0.05, 0.95, len(x), dtype=F64)
    known = ExactField(LAB, GaussianPath(target))
    seen = TransformedField(ExactField(LAB, GaussianPath(CondOT())), target)
    for method in ("denoise", "noise", "score", "velocity"):
        expected = getattr(known, method)(x, t)
        error = (getattr(seen, method)(x, t) - expected).abs().max()
        assert error < 1e-12 * max(1.0, expected.abs().max()), method


@pytest.mark.parametrize("kind", KINDS)
@named([CondOT(), Cosine()])
def test_network_field_serves_every_prediction(kind, schedule):
    path = GaussianPath(schedule)
    exact = ExactField(LAB, path)

    def net(x, t):
        assert t.shape == (len(x),)
        known = {
            "data": exact.denoise,
            "noise": exact.noise,
            "score": exact.score,
            "velocity": exact.velocity,
        }
        if kind in known:
            return known[kind](x, t)
        return convert(exact.noise(x, t), x, t, source="noise", target="v", schedule=schedule)

    field = NetworkField(net, path, prediction=kind)
    x, _ = draw()
    for method in ("denoise", "noise", "score", "velocity"):
        assert torch.allclose(
            getattr(field, method)(x, 0.3), getattr(exact, method)(x, 0.3), atol=1e-11
        )


def test_network_field_names_a_wrong_output_shape():
    field = NetworkField(lambda x, t: x[:, :1], GaussianPath(CondOT()))
    with pytest.raises(ValueError, match="the network's output has shape"):
        field.velocity(torch.zeros(3, 2), 0.5)


def test_exact_velocity_at_the_end_points():
    field = ExactField(LAB, GaussianPath(CondOT()))
    x, _ = draw()
    # at t = 0 the posterior is the prior: u = E[X_1] - x; at t = 1, noise is independent: u = x
    assert torch.allclose(field.velocity(x, 0.0), LAB.mean - x, atol=1e-12)
    assert torch.allclose(field.velocity(x, 1.0), x, atol=1e-12)
    assert torch.allclose(field.score(x, 1.0), LAB.score(x), atol=1e-12)


def test_empirical_field_on_images():
    data = torch.rand(6, 1, 3, 3)
    field = ExactField(Empirical(data), GaussianPath(CondOT()))
    x, t = torch.rand(4, 1, 3, 3), torch.tensor([0.1, 0.4, 0.6, 0.9])
    for method in ("denoise", "noise", "score", "velocity"):
        together = getattr(field, method)(x, t)
        assert together.shape == x.shape
        alone = torch.cat([getattr(field, method)(x[i : i + 1], t[i].item()) for i in range(4)])
        assert torch.allclose(together, alone, atol=1e-5), method


def test_marginal_of_the_path():
    marginal = GaussianPath(Cosine()).marginal(LAB, 0.5)
    root = 0.5**0.5
    assert torch.allclose(marginal.mean, root * LAB.mean)
    with pytest.raises(ValueError, match="t must lie"):
        GaussianPath(Cosine()).marginal(LAB, -0.5)
