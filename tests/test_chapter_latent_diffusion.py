"""What the chapter on latent diffusion claims, measured."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from fromnoise import checkpoints, records
from fromnoise.data import small_digits, to_unit
from fromnoise.evaluation import confidence, ink_classifier, mean_and_error
from fromnoise.latents import (
    Posteriors,
    aggregate,
    encode_dataset,
    flow_bound,
    linear_two_stage,
    two_stage_terms,
)
from fromnoise.networks import LinearVAE
from fromnoise.solvers import heun

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    """Images and labels, in a random order."""
    found = small_digits()
    order = torch.randperm(5000, generator=seeded(0))
    return to_unit(found.images)[order], found.labels[order]


@pytest.fixture(scope="module")
def vae():
    return checkpoints.load("digits-kl-vae").net.requires_grad_(False)


@pytest.fixture(scope="module")
def latent():
    return checkpoints.load("digits-latent-dit")


@pytest.fixture(scope="module")
def posteriors(digits, vae):
    return encode_dataset(vae, digits[0][1000:3000])


def test_a_better_bound_can_be_a_worse_likelihood():
    """The linear example: 0.27 nats up, 0.26 down; nothing is random but by a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = LinearVAE(5, 2, noise=0.4).double().requires_grad_(False)
    x = torch.randn(2000, 5, generator=seeded(3), dtype=F64)
    x[:, :2] += 2.0 * torch.sign(x[:, :1])
    standard = linear_two_stage(net, x, torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    fitted = linear_two_stage(net, x, *aggregate(Posteriors(*net.encode(x))))
    up = (fitted.terms.total - standard.terms.total).mean().item()
    down = (standard.log_prob - fitted.log_prob).mean().item()
    assert up == pytest.approx(0.269, abs=2e-3) and down == pytest.approx(0.259, abs=2e-3)
    closed = (standard.gap - fitted.gap).mean().item()
    assert closed == pytest.approx(up + down, abs=1e-10)


def standard(z):
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)


def test_the_second_stage_wins_back_a_part_of_the_price(digits, vae, latent, posteriors):
    """On digits that gave no moments: the Gaussian wins 15 nats or more, the flow not less."""
    few = digits[0][:200]
    mean, cov = aggregate(posteriors)
    law = torch.distributions.MultivariateNormal(mean, cov)

    def price(log_prob, statistics=None, rounds=3):
        parts = [
            two_stage_terms(vae, few, log_prob, seeded(k), statistics=statistics).kl.mean()
            for k in range(rounds)
        ]
        return mean_and_error(torch.stack(parts))

    alone = price(standard)[0]
    gauss = price(lambda z: law.log_prob(z.flatten(1)))[0]
    flow, error = price(
        flow_bound(latent.field, seeded(9), draws=2), latent.decoder.statistics, rounds=5
    )
    assert 170 < alone < 185 and alone - gauss > 15
    assert flow < alone - 15 and abs(flow - gauss) < 5 * error + 5
    unused = 0.5 * (
        posteriors.mean.square() + posteriors.log_variance.exp() - 1 - posteriors.log_variance
    ).mean(0)
    assert 130 < int((unused > 0.1).sum()) < 160


def test_ten_gaussians_win_back_more_than_one(digits, vae):
    """So neither the Gaussian nor the flow is near the aggregated posterior: 8 nats or more."""
    few, labels = digits[0][:200], digits[1][1000:4000]
    posteriors = encode_dataset(vae, digits[0][1000:4000])  # 300 of a class, for 196 coordinates
    laws = [torch.distributions.MultivariateNormal(*aggregate(posteriors))]
    for k in range(10):
        of = labels == k
        part = Posteriors(posteriors.mean[of], posteriors.log_variance[of])
        laws.append(torch.distributions.MultivariateNormal(*aggregate(part)))

    def one(z):
        return laws[0].log_prob(z.flatten(1))

    def ten(z):
        each = torch.stack([law.log_prob(z.flatten(1)) for law in laws[1:]])
        return each.logsumexp(0) - math.log(10)

    nats = [two_stage_terms(vae, few, law, seeded(0), draws=4).kl.mean() for law in (one, ten)]
    assert 8 < nats[0] - nats[1] < 14


def test_the_learned_variance_has_not_arrived_and_what_that_costs(digits, vae, posteriors):
    """`prp-kl-against-reconstruction` on weights: the formula and the difference of the terms."""
    x = digits[0][1000:3000]
    square = (vae.decode(posteriors.sample(seeded(4))) - x).square().flatten(1).sum(1)
    v, best = vae.noise.item(), square.mean().item() / 784
    r = v / best
    assert 1.5 < r < 2.2
    now, then = (
        -0.5 * (square / w + 784 * math.log(2 * math.pi * w)).double().mean().item()
        for w in (v, best)
    )
    assert then - now == pytest.approx(392 * (1 / r - 1 + math.log(r)), rel=1e-3)
    assert then - now > 30


def test_a_draw_errs_by_the_variance_more_than_the_mean(digits, vae, latent):
    """`prp-decode-mean`; the mixed term has mean 0, and 5 of its errors are allowed."""
    x = digits[0][:500]
    codes = latent.decoder.encode(x, seeded(5))
    plain, noisy = latent.decoder(codes), latent.decoder.noisy(codes, seeded(6))
    more = ((noisy - x).square() - (plain - x).square()).flatten(1).mean(1)
    value, error = mean_and_error(more)
    assert abs(value - vae.noise.item()) < 5 * error and value > 50 * error


def test_the_means_alone_have_another_scale(posteriors):
    """`prp-latent-scale`: the std of draws near 1, of means near 0.73; the channels apart."""
    assert posteriors.statistics().std[0] == pytest.approx(0.983, abs=0.01)
    assert posteriors.mean.std().item() == pytest.approx(0.726, abs=0.02)
    by_channel = posteriors.statistics(per_channel=True).std
    assert 0.95 < min(by_channel) < max(by_channel) < 1.03


def test_guided_digits_are_read_and_standard_normal_latents_are_not(digits, vae, latent):
    """60 guided samples: at least 57 as asked; decoded N(0, I) far less sure than either."""
    reader = ink_classifier(*digits, epochs=4)
    wanted = torch.arange(10).repeat(6)
    x = latent.sample(
        60, steps=8, method=heun, generator=seeded(7), labels=wanted, guidance=2.0
    ).clamp(-1, 1)
    assert (reader(x).argmax(1) == wanted).sum() >= 57
    off = vae.decode(torch.randn(200, *vae.latent_shape, generator=seeded(8))).clamp(-1, 1)
    (sure, error), (unsure, other) = (mean_and_error(confidence(reader, y)[0]) for y in (x, off))
    assert sure - unsure > 5 * math.hypot(error, other) and unsure < 0.7


def test_the_sizes_of_stable_diffusion():
    """The counts that the text names, of classes that are not ours."""
    with torch.device("meta"):
        first = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        second = UNet2DConditionModel(cross_attention_dim=768)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (first, second)]
    assert sizes == [83_653_863, 859_520_964]
    assert sizes[1] / sum(sizes) == pytest.approx(0.91, abs=0.005)
    assert first.config.scaling_factor == 0.18215
    std = 1 / first.config.scaling_factor
    assert std == pytest.approx(5.49, abs=5e-3)
    assert 1 / (1 + std) == pytest.approx(0.154, abs=5e-4)  # where t std = 1 - t


def apart(a, b):
    """The difference of two numbers with errors, in errors of the difference."""
    return (a[0] - b[0]) / math.hypot(a[1], b[1])


def test_the_record_says_what_the_chapter_says_of_the_factor():
    """Reconstruction and bound get worse with the factor, samples better; operations fall at 8."""
    run = records.load("latents")
    first, second = run["first"], run["second"]
    kernel = {name: found["samples"]["kernel"] for name, found in second.items()}
    for finer, coarser in pairwise(("2", "4", "8")):
        assert apart(first[coarser]["squared_error"], first[finer]["squared_error"]) > 5
        assert apart(second[finer]["bound"], second[coarser]["bound"]) > 5
        assert abs(apart(kernel[finer], kernel[coarser])) < 3
    assert apart(kernel["pixels"], kernel["8"]) > 5
    assert apart(kernel["2"], kernel["8"]) > 3
    for f in ("2", "4", "8"):
        assert first[f]["numbers"] == math.prod(first[f]["latent"])
        assert apart(first[f]["from_standard_normal"]["kernel"], kernel[f]) > 10
        assert abs(apart(first[f]["rebuilt"]["kernel"], run["real"]["kernel"])) < 2
        assert 29 < first[f]["kl"][0] - second[f]["kl"][0] < 43
    assert 3.5 < apart(run["real"]["recall"], first["8"]["rebuilt"]["recall"]) < 4
    assert second["8"]["operations"] < second["4"]["operations"] / 3
    assert second["pixels"]["tokens"] == second["2"]["tokens"] == second["4"]["tokens"] == 49
    parameters = [second[name]["parameters"] for name in second]
    assert max(parameters) < 1.02 * min(parameters)


def test_the_record_says_what_the_chapter_says_of_the_weight_and_the_scale():
    """A small weight: less error, four times the nats. A wrong scale: worse by three."""
    run = records.load("latents")
    whole, small = run["first"]["4"], run["first"]["4, small KL"]
    assert whole["beta"] == 1.0 and small["beta"] == 1e-3
    assert small["squared_error"][0] / whole["squared_error"][0] == pytest.approx(0.71, abs=0.01)
    assert small["kl"][0] / whole["kl"][0] == pytest.approx(4.0, abs=0.1)
    assert small["std"] == pytest.approx(0.70, abs=0.01)
    flows = [run["second"][name] for name in ("4", "4, small KL")]
    assert abs(apart(flows[0]["samples"]["frechet"], flows[1]["samples"]["frechet"])) < 2
    assert apart(flows[0]["bound"], flows[1]["bound"]) > 10
    assert run["too_large"] == pytest.approx(5.49, abs=5e-3)
    right, wrong = run["second"]["4"], run["second"]["4, too large"]
    assert apart(wrong["samples"]["frechet"], right["samples"]["frechet"]) > 3
    assert apart(right["samples"]["recall"], wrong["samples"]["recall"]) > 3
    assert apart(right["bound"], wrong["bound"]) > 3
