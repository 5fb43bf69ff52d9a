"""Latents as data, and the bound of both stages against closed forms."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from fromnoise import checkpoints, data, latents, recipes
from fromnoise._files import sha256
from fromnoise.checkpoints import CheckpointError
from fromnoise.distributions import Gaussian
from fromnoise.fields import ExactField
from fromnoise.labels import Labelled
from fromnoise.latents import (
    LatentDecoder,
    LatentStatistics,
    LatentTarget,
    Posteriors,
    flow_bound,
    linear_two_stage,
    two_stage_terms,
)
from fromnoise.networks import ImageVAE, LinearVAE
from fromnoise.paths import GaussianPath
from fromnoise.recipes import digits_conditional, digits_latent
from fromnoise.schedules import CondOT
from fromnoise.targets import LabelDropout, Regression
from fromnoise.time_samplers import LowDiscrepancyTimes, UniformTimes
from fromnoise.training import train
from fromnoise.variational import ContinuousELBO

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_posteriors(n: int = 50) -> Posteriors:
    """Two channels of different means and spreads."""
    mean = torch.randn(n, 2, 3, 3, generator=seeded(), dtype=F64)
    mean = mean * torch.tensor([1.0, 4.0], dtype=F64)[:, None, None] + 2.0
    return Posteriors(mean, torch.randn(n, 2, 3, 3, generator=seeded(1), dtype=F64) - 1.0)


def small_vae() -> ImageVAE:
    torch.manual_seed(0)
    return ImageVAE(event=(1, 8, 8), channels=2, widths=(8, 8)).double()


def linear(seed: int = 0, dim: int = 5, k: int = 2) -> LinearVAE:
    torch.manual_seed(seed)
    net = LinearVAE(dim, k, noise=0.4).double()
    with torch.no_grad():
        net.mean.normal_(generator=seeded(seed))
        net.log_variance.normal_(generator=seeded(seed + 1))
    return net.requires_grad_(False)


def spd(k: int, seed: int) -> torch.Tensor:
    a = torch.randn(k, k, generator=seeded(seed), dtype=F64)
    return a @ a.T + 0.3 * torch.eye(k, dtype=F64)


# Latents as data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("per_channel", [False, True])
def test_standardized_draws_have_variance_one(per_channel):
    """Exactly, over the law of z: the mixture of the posteriors has the moments that are named."""
    q = some_posteriors()
    found = q.statistics(per_channel)
    assert len(found.std) == (2 if per_channel else 1)
    first, second = q.mean, q.mean.square() + q.log_variance.exp()  # E[z | x], E[z^2 | x]
    std = torch.tensor(found.std, dtype=F64).reshape(-1, 1, 1)
    mean = torch.tensor(found.mean, dtype=F64).reshape(-1, 1, 1)
    dims = (0, 2, 3) if per_channel else (0, 1, 2, 3)
    assert ((first - mean) / std).mean(dims).abs().max() < 1e-14
    square = (second - 2 * mean * first + mean**2) / std**2
    assert (square.mean(dims) - 1.0).abs().max() < 1e-13
    # and draws agree: 900 a channel and round, 400 rounds; 5 standard errors of a variance
    z = torch.stack([found.standardize(q.sample(seeded(k))) for k in range(400)])
    assert z.var().item() == pytest.approx(1.0, abs=5 * (2 / 50 / 18) ** 0.5 / 2)


def test_standardizing_is_inverted_and_its_volume_is_its_jacobian():
    found = some_posteriors().statistics(per_channel=True)
    z = torch.randn(4, 2, 3, 3, generator=seeded(2), dtype=F64)
    assert torch.allclose(found.restore(found.standardize(z)), z, atol=1e-14)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: found.restore(v.reshape(1, 2, 3, 3)).flatten(), z[0].flatten()
    )
    assert found.log_volume((2, 3, 3)) == pytest.approx(
        torch.linalg.slogdet(jacobian).logabsdet.item(), rel=1e-13
    )
    single = LatentStatistics((0.5,), (2.0,))
    assert single.log_volume((2, 3, 3)) == pytest.approx(18 * math.log(2.0))


def test_posteriors_agree_with_torch():
    q = some_posteriors(5)
    law = Independent(Normal(q.mean, (0.5 * q.log_variance).exp()), 3)
    standard = Independent(Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean)), 3)
    assert torch.allclose(q.entropy(), law.entropy(), rtol=1e-13)
    assert torch.allclose(q.kl(), kl_divergence(law, standard), rtol=1e-13)
    assert len(q) == 5
    again = Posteriors.unstacked(q.stacked())
    assert torch.equal(again.mean, q.mean) and torch.equal(again.log_variance, q.log_variance)


def test_encoding_in_batches_is_the_same():
    net, x = small_vae(), torch.randn(7, 1, 8, 8, generator=seeded(), dtype=F64)
    whole, parts = (latents.encode_dataset(net, x, size) for size in (100, 3))
    assert torch.allclose(whole.mean, parts.mean, atol=1e-12)
    assert torch.allclose(whole.log_variance, net.encode(x)[1], atol=1e-12)
    assert not whole.mean.requires_grad
    with pytest.raises(ValueError, match="x is empty"):
        latents.encode_dataset(net, x[:0])


def test_decoding_restores_the_scale():
    net, x = small_vae(), torch.randn(6, 1, 8, 8, generator=seeded(), dtype=F64)
    q = latents.encode_dataset(net, x)
    decoder = LatentDecoder(net, q.statistics())
    z = decoder.encode(x, seeded(4))
    assert torch.allclose(decoder(z, batch_size=4), net.decode(q.sample(seeded(4))), atol=1e-12)
    noise = torch.stack([decoder.noisy(z, seeded(k)) - decoder(z) for k in range(100)])
    # 38,400 draws: 5 standard errors of a variance are 5 sqrt(2 / n) of it
    assert noise.var().item() == pytest.approx(net.noise.item(), rel=5 * (2 / 38_400) ** 0.5)


def test_the_decoders_mean_has_the_least_error():
    """`prp-decode-mean`: a draw of p(x | z) has the error of the mean plus the noise, per pixel."""
    net = linear()
    z = torch.randn(4000, 2, generator=seeded(), dtype=F64)
    with torch.no_grad():
        x = net.decode(z) + net.noise.sqrt() * torch.randn(4000, 5, generator=seeded(1), dtype=F64)
    decoder = LatentDecoder(net, LatentStatistics((0.0,), (1.0,)))
    of_mean = (decoder(z) - x).square().mean().item()
    of_draw = (decoder.noisy(z, seeded(2)) - x).square().mean().item()
    noise = net.noise.item()
    tolerance = 5 * (2 / 20_000) ** 0.5
    assert of_mean == pytest.approx(noise, rel=tolerance)
    assert of_draw == pytest.approx(2 * noise, rel=tolerance)


def test_the_target_draws_anew_and_standardizes():
    q = some_posteriors(4)
    statistics = q.statistics()

    class Keep:
        def loss(self, net, data, generator=None):
            self.seen = data
            return data.x.sum() if isinstance(data, Labelled) else data.sum()

    keep = Keep()
    target, source = LatentTarget(keep, statistics), seeded(3)
    target.loss(None, q.stacked(), source)
    first = keep.seen
    assert torch.equal(first, statistics.standardize(q.sample(seeded(3))))
    target.loss(None, Labelled(q.stacked(), torch.arange(4)), source)
    assert torch.equal(keep.seen.labels, torch.arange(4))
    assert not torch.equal(keep.seen.x, first)


def test_the_target_trains_on_the_loop_with_labels():
    """On wide posteriors of one mean, the flow learns N(0, 1): the velocity is then known."""
    n = 400
    q = Posteriors(torch.full((n, 2, 1, 1), 3.0), torch.zeros(n, 2, 1, 1))

    class Slope(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(3))  # of features 1, (2t - 1), t(1 - t)

        def forward(self, x, t, labels=None):
            t = t.reshape(-1, 1, 1, 1)
            a, b, c = self.slope
            return (a + b * (2 * t - 1) + c * (2 * t - 1) ** 3) * x

    flow = LabelDropout(Regression(GaussianPath(CondOT()), "velocity"), classes=2)
    target = LatentTarget(flow, q.statistics())
    data = Labelled(q.stacked(), torch.zeros(n, dtype=torch.int64))
    net = train(Slope(), target, data, steps=600, batch_size=400, lr=0.03, progress=False).net
    t = torch.linspace(0.1, 0.9, 5)
    # of N(0, 1) data on the straight path: u = (2t - 1) x / (t^2 + (1 - t)^2)
    exact = (2 * t - 1) / (t**2 + (1 - t) ** 2)
    found = net(torch.ones(5, 1, 1, 1), t).flatten()
    assert (found - exact).abs().max() < 0.12  # a cubic in place of the fraction errs by 0.09


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LatentStatistics((0.0,), (1.0, 2.0)), "mean has 1 entries and std has 2"),
        (lambda: LatentStatistics((), ()), "mean has 0 entries"),
        (lambda: LatentStatistics((0.0,), (0.0,)), "never varies"),
        (lambda: LatentStatistics((0.0,), (math.nan,)), "positive and finite"),
        (
            lambda: LatentStatistics((0.0,) * 3, (1.0,) * 3).standardize(torch.zeros(2, 4, 1)),
            "statistics are of 3 channels",
        ),
        (lambda: Posteriors(torch.zeros(2, 3), torch.zeros(2, 4)), "mean has shape"),
        (lambda: Posteriors.unstacked(torch.zeros(2, 3, 4)), "pass \\(n, 2, \\*event\\)"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The bound ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_bound_plus_gap_is_the_likelihood(seed):
    """Three formulas computed apart; the gap is a divergence, so never negative."""
    net, x = linear(seed), torch.randn(20, 5, generator=seeded(seed), dtype=F64)
    prior = torch.randn(2, generator=seeded(9), dtype=F64), spd(2, seed)
    found = linear_two_stage(net, x, *prior)
    whole = found.terms.total + found.gap
    assert (whole - found.log_prob).abs().max() < 1e-11 * float(found.log_prob.abs().max())
    assert bool((found.gap > 1e-6).all())
    # the likelihood itself, by averaging p(x | z) over a fine grid of z in two dimensions
    side = torch.linspace(-12, 12, 481, dtype=F64)
    z = torch.cartesian_prod(side, side)
    log_joint = MultivariateNormal(*prior).log_prob(z) + torch.stack(
        [net.log_likelihood(row.expand(len(z), -1), z) for row in x[:3]]
    )
    exact = torch.logsumexp(log_joint, 1) + 2 * math.log(24 / 480)
    assert torch.allclose(exact, found.log_prob[:3], atol=1e-6)


def test_the_bound_is_tight_for_the_exact_posterior():
    net, x = linear(3), torch.randn(20, 5, generator=seeded(1), dtype=F64)
    with torch.no_grad():  # orthogonal columns and a diagonal prior: the posterior is diagonal
        net.weight.copy_(torch.linalg.qr(net.weight)[0] * torch.tensor([2.0, 0.7], dtype=F64))
    a, c = torch.tensor([0.3, -1.0], dtype=F64), torch.tensor([1.7, 0.6], dtype=F64)
    precision = 1 / c + net.weight.square().sum(0) / net.noise
    with torch.no_grad():
        net.encoder.copy_((net.weight / net.noise / precision).T)
        net.log_variance.copy_(-precision.log())
        # this encoder has no offset: a prior centred at 0 is the one that it can serve exactly
        tight = linear_two_stage(net, x, 0 * a, c.diag())
        loose = linear_two_stage(net, x, a, c.diag())
    assert tight.gap.abs().max() < 1e-12
    assert (tight.terms.total - tight.log_prob).abs().max() < 1e-11
    # the offset of the posterior's mean is P C^-1 a whatever x is, and the gap its half square
    shift = a / c / precision
    assert torch.allclose(loose.gap, (0.5 * (shift**2 * precision).sum()).expand(20), rtol=1e-9)


def test_estimates_agree_with_the_closed_form():
    net, x = linear(4), torch.randn(6, 5, generator=seeded(2), dtype=F64)
    prior = MultivariateNormal(torch.ones(2, dtype=F64), spd(2, 3))
    exact = linear_two_stage(net, x, prior.mean, prior.covariance_matrix).terms
    rounds = [two_stage_terms(net, x, prior.log_prob, seeded(k), draws=50) for k in range(40)]
    for name in ("reconstruction", "cross_entropy"):
        each = torch.stack([getattr(r, name) for r in rounds])
        error = (each.mean(0) - getattr(exact, name)).abs()
        assert bool((error < 5 * each.std(0) / 40**0.5).all())
    assert torch.equal(rounds[0].entropy, exact.entropy)
    assert torch.allclose(exact.kl, exact.cross_entropy - exact.entropy)


def test_standardized_densities_are_brought_back():
    """The same second stage, told in standardized latents: the same bound, to round-off."""
    net, x = linear(5), torch.randn(6, 5, generator=seeded(3), dtype=F64)
    mean, covariance = torch.ones(2, dtype=F64), spd(2, 4)
    statistics = LatentStatistics((0.4, -0.2), (2.0, 0.1))
    std, shift = (torch.tensor(v, dtype=F64) for v in (statistics.std, statistics.mean))
    inside = MultivariateNormal((mean - shift) / std, covariance / (std[:, None] * std))
    raw = two_stage_terms(net, x, MultivariateNormal(mean, covariance).log_prob, seeded(6))
    told = two_stage_terms(net, x, inside.log_prob, seeded(6), statistics=statistics)
    assert torch.allclose(raw.total, told.total, rtol=1e-11)


def test_a_bound_on_the_second_stage_keeps_the_whole_a_bound():
    """`ContinuousELBO` of the exact field in place of log p(z): below it, and near."""
    net, x = linear(6), torch.randn(200, 5, generator=seeded(4), dtype=F64)
    mean, covariance = torch.tensor([0.5, -0.5], dtype=F64), spd(2, 5)
    prior = Gaussian(mean, covariance)
    field = ExactField(prior, GaussianPath(CondOT()))
    bound = ContinuousELBO(CondOT(), LowDiscrepancyTimes(UniformTimes(2e-3, 1 - 2e-3)))

    def below(z):
        return -bound(field, z, seeded(8), draws=64).total

    exact = linear_two_stage(net, x, mean, covariance)
    found = two_stage_terms(net, x, below, seeded(7), draws=4)
    same = two_stage_terms(net, x, prior.log_prob, seeded(7), draws=4)
    slack = found.total - same.total  # of the latent bound alone: the same draws of z
    spread = 5 * slack.std() / 200**0.5
    assert slack.mean() < spread
    assert abs(slack.mean()) < spread + 0.05
    assert found.total.mean() < exact.log_prob.mean()


def test_the_bound_of_a_flow_is_near_and_less_noisy_with_even_times():
    """`flow_bound` of an exact field against log p(z) and against the same with uniform times."""
    mean, covariance = torch.tensor([0.5, -0.5], dtype=F64), spd(2, 5)
    law = Gaussian(mean, covariance)
    field = ExactField(law, GaussianPath(CondOT()))
    z = law.sample(400, seeded(1)).to(F64)
    exact = law.log_prob(z)
    even = flow_bound(field, seeded(2), draws=32)(z) - exact
    assert even.mean() < 5 * even.std() / 20 and abs(even.mean()) < 5 * even.std() / 20 + 0.05
    uniform = ContinuousELBO(CondOT(), UniformTimes(2e-3, 0.99))
    noisy = -uniform(field, z, seeded(2), draws=32).total - exact
    assert even.std() < 0.8 * noisy.std()
    with pytest.raises(ValueError, match="0 < t_min < t_max < 1"):
        flow_bound(field, t_max=1.0)


def test_the_moments_of_the_aggregated_posterior_give_the_best_gaussian_second_stage():
    net, x = linear(7), 2 * torch.randn(300, 5, generator=seeded(5), dtype=F64) + 1
    with torch.no_grad():
        q = Posteriors(*net.encode(x))
    mean, covariance = latents.aggregate(q)
    draws = torch.cat([q.sample(seeded(k)) for k in range(300)])
    # 90,000 draws of numbers of size s: 5 standard errors of a covariance are 5 s^2 sqrt(2 / n)
    tolerance = 5 * float(covariance.diagonal().max()) * (2 / 90_000) ** 0.5
    assert (torch.cov(draws.T) - covariance).abs().max() < tolerance

    def nats(mean, covariance):
        with torch.no_grad():
            return linear_two_stage(net, x, mean, covariance).terms.total.mean().item()

    best = nats(mean, covariance)
    assert best > nats(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    for seed in range(6):
        other = mean + 0.1 * torch.randn(2, generator=seeded(seed), dtype=F64)
        assert best > nats(other, covariance) and best > nats(mean, covariance + 0.1 * spd(2, seed))
    # and its cross-entropy is the entropy of that Gaussian (the linear term vanishes)
    found = linear_two_stage(net, x, mean, covariance).terms.cross_entropy.mean()
    assert found.item() == pytest.approx(
        MultivariateNormal(mean, covariance).entropy().item(), rel=1e-12
    )


def test_bad_bounds():
    net, x = linear(), torch.zeros(3, 5, dtype=F64)
    with pytest.raises(ValueError, match="draws is 0"):
        two_stage_terms(net, x, lambda z: z.sum(1), draws=0)
    with pytest.raises(ValueError, match="log_prob's output has shape"):
        two_stage_terms(net, x, lambda z: z)
    with pytest.raises(ValueError, match="mean has shape"):
        linear_two_stage(net, x, torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64))
    torch.distributions.Distribution.set_default_validate_args(False)  # as torch.compile leaves it
    try:
        with pytest.raises(ValueError, match="PositiveDefinite"):
            linear_two_stage(net, x, torch.zeros(2, dtype=F64), -torch.eye(2, dtype=F64))
    finally:
        torch.distributions.Distribution.set_default_validate_args(__debug__)


# Weights -----------------------------------------------------------------------------------------


@pytest.fixture
def two_stages(tmp_path, monkeypatch):
    """A registered autoencoder and a file with a model of its latents."""
    vae = {"name": "ImageVAE", "options": {"event": [1, 8, 8], "channels": 2, "widths": [8, 8]}}
    path = tmp_path / "small-vae.safetensors"
    checkpoints.save(
        path, checkpoints.build_network(vae), {"recipe": "small-vae", "network": vae,
                                               "event": [1, 8, 8]},
    )  # fmt: skip
    content = path.read_bytes()
    entry = {"file": path.name, "sha256": sha256(content), "bytes": len(content)}
    monkeypatch.setattr(checkpoints, "registry", lambda: {"small-vae": entry})
    monkeypatch.setattr(checkpoints, "checkout_folder", lambda: tmp_path)
    dit = {"name": "DiT", "options": {"channels": 2, "size": 2, "patch": 1, "dim": 8, "depth": 1,
                                      "heads": 2, "classes": 3}}  # fmt: skip
    record = {
        "recipe": "small-latent",
        "network": dit,
        "schedule": checkpoints.describe_schedule(CondOT()),
        "prediction": "velocity",
        "event": [2, 2, 2],
        "latents": checkpoints.describe_latents("small-vae", LatentStatistics((1.0,), (3.0,))),
    }
    second = tmp_path / "second.safetensors"
    checkpoints.save(second, checkpoints.build_network(dit), record)
    return path, second, entry


def test_a_model_of_latents_comes_back_with_its_decoder(two_stages):
    _, second, _ = two_stages
    vae, model = checkpoints.load("small-vae"), checkpoints.load(second)
    assert vae.field is None and vae.decoder is None and vae.classes is None
    z = model.sample(3, steps=2, generator=seeded(), labels=torch.tensor([0, 1, 2]), decode=False)
    x = model.sample(3, steps=2, generator=seeded(), labels=torch.tensor([0, 1, 2]))
    assert z.shape == (3, 2, 2, 2) and x.shape == (3, 1, 8, 8)
    # the untrained velocity is 0, so z is the noise
    assert torch.equal(z, torch.randn(3, 2, 2, 2, generator=seeded()))
    with torch.no_grad():
        assert torch.equal(x, vae.net.decode(1.0 + 3.0 * z))
    with pytest.raises(ValueError, match="small-vae has no time"):
        vae.sample(2)


def test_another_first_stage_is_refused(two_stages, monkeypatch):
    _, second, entry = two_stages
    monkeypatch.setattr(checkpoints, "registry", lambda: {"small-vae": {**entry, "sha256": "0"}})
    with pytest.raises(CheckpointError, match="its decoder would not fit"):
        checkpoints.load(second)


def test_the_recipe_of_the_second_stage(tmp_path, monkeypatch):
    """From its name, on a few digits and an untrained first stage; its samples are images."""
    first = recipes.get("digits-kl-vae")
    path = tmp_path / "digits-kl-vae.safetensors"
    record = {"recipe": first.name, "network": first._network, "event": list(first.event)}
    checkpoints.save(path, first.build(), record)
    content = path.read_bytes()
    entry = {"file": path.name, "sha256": sha256(content), "bytes": len(content)}
    monkeypatch.setattr(checkpoints, "registry", lambda: {first.name: entry})
    monkeypatch.setattr(checkpoints, "checkout_folder", lambda: tmp_path)
    found = data.small_digits()
    few = Labelled(data.to_unit(found.images[::250]), found.labels[::250])  # two of each class
    monkeypatch.setattr(digits_conditional, "labelled_digits", lambda: (few, "twenty digits"))
    digits_latent._encoded.cache_clear()
    out = tmp_path / "second.safetensors"
    try:
        recipes.train("digits-latent-dit", out=out, steps=2, batch_size=8, warmup=1, progress=False)
    finally:
        digits_latent._encoded.cache_clear()  # others shall not find these latents
    model = checkpoints.load(out)
    assert model.record["latents"]["sha256"] == entry["sha256"]
    assert model.record["data_source"] == "twenty digits, encoded by digits-kl-vae"
    net = checkpoints.load(path).net
    q = latents.encode_dataset(net, few.x)
    assert model.decoder.statistics == q.statistics() and model.event == net.latent_shape
    assert model.classes == 10
    assert model.sample(3, steps=2, labels=7, guidance=2.0).shape == (3, 1, 28, 28)
