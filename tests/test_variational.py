"""The variational view, against Bayes' rule, closed forms for Gaussian data, and the mixture.

Statistical checks compare a mean of n draws with its exact value in units of its standard error; a
correct program exceeds 5.5 with probability below 4e-8 per comparison, and the seeds are fixed.
"""

import dataclasses
import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromnoise.discrete_schedules import DiscreteVP, linear_betas
from fromnoise.distributions import Gaussian, laboratory
from fromnoise.fields import ExactField
from fromnoise.networks import UNet
from fromnoise.paths import GaussianPath
from fromnoise.schedules import VE, VP, CondOT, Cosine, SubVP
from fromnoise.time_samplers import LowDiscrepancyTimes, UniformTimes
from fromnoise.variational import (
    ContinuousELBO,
    DiscreteELBO,
    LearnedVariance,
    LearnedVarianceField,
    bits_per_dim,
    chain_times,
    dequantize,
    dequantized_nats,
    gaussian_kl,
    noising_step,
    pixel_log_prob,
    posterior,
    prior_nats,
    split_output,
)

Z = 5.5
F64 = torch.float64
LAW = laboratory()
DDPM = DiscreteVP(linear_betas())
SCHEDULES = [CondOT(), Cosine(), VP(), SubVP(), VE()]
named = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


def z_score(draws: torch.Tensor, exact: float = 0.0) -> float:
    return float((draws.mean() - exact).abs() / (draws.std() / len(draws) ** 0.5))


# -- the chain ---------------------------------------------------------------------------------


def test_a_step_of_ddpm_is_its_beta():
    betas = linear_betas()
    times = chain_times(1000)
    keep, variance = noising_step(times[:-1], times[1:], DDPM)
    # the last step of the grid is the first of the paper's, n = 1
    assert torch.allclose(variance.flip(0), betas, rtol=1e-11)
    assert torch.allclose(keep.flip(0), (1 - betas).sqrt(), rtol=1e-13)


@named
@given(t=st.floats(0.0, 0.9), a=st.floats(0.01, 1.0), b=st.floats(0.01, 1.0))
def test_two_steps_are_one(schedule, t, a, b):
    s = t + a * (1 - t) / 2
    r = s + b * (1 - s)
    first, noise_first = noising_step(number(t), number(s), schedule)
    second, noise_second = noising_step(number(s), number(r), schedule)
    keep, variance = noising_step(number(t), number(r), schedule)
    assert keep.item() == pytest.approx((first * second).item(), rel=1e-12)
    assert variance.item() == pytest.approx(
        (first**2 * noise_second + noise_first).item(), rel=1e-9
    )


@named
@pytest.mark.parametrize(("t", "s"), [(0.1, 0.4), (0.5, 0.55), (0.3, 0.95)])
def test_posterior_is_bayes_rule(schedule, t, s):
    """The product of the two densities, normalized and integrated on a grid, on the line."""
    x, data = number(0.7), number(-0.4)
    keep, variance = noising_step(number(t), number(s), schedule)
    alpha, sigma = schedule.alpha(number(s)), schedule.sigma(number(s))
    mean, spread = posterior(x[None], data[None], t, s, schedule)
    width = 14 * spread.sqrt()
    grid = torch.linspace(float(mean - width), float(mean + width), 4001, dtype=F64)
    log_density = -((grid - alpha * data) ** 2) / (2 * sigma**2)
    log_density = log_density - (x - keep * grid) ** 2 / (2 * variance)
    weight = torch.softmax(log_density, 0)
    # the trapezoidal rule on a Gaussian is exact to rounding; 4001 points cover 14 deviations
    assert (weight * grid).sum().item() == pytest.approx(mean.item(), abs=1e-9)
    second = (weight * (grid - mean) ** 2).sum().item()
    assert second == pytest.approx(spread.item(), rel=1e-8)


def test_posterior_is_ddpms():
    """Ho et al. 2020, Eq. 7, in its own letters."""
    betas = linear_betas()
    bars = torch.cumprod(1 - betas, 0)
    x, data = torch.randn(2, 4, dtype=F64, generator=seeded(0))
    for n in (2, 10, 500, 1000):
        beta, bar, before = betas[n - 1], bars[n - 1], bars[n - 2]
        mean = before.sqrt() * beta / (1 - bar) * data
        mean = mean + (1 - beta).sqrt() * (1 - before) / (1 - bar) * x
        variance = (1 - before) / (1 - bar) * beta
        got = posterior(x, data, 1 - n / 1000, 1 - (n - 1) / 1000, DDPM)
        assert torch.allclose(got[0], mean, rtol=1e-9)
        assert got[1].item() == pytest.approx(variance.item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=lambda s: s.name)
def test_posterior_at_the_ends_is_finite(schedule, dtype):
    x, data = torch.randn(2, 5, dtype=dtype, generator=seeded(1))
    mean, variance = posterior(x, data, 0.4, 1.0, schedule)
    assert torch.equal(mean, data) and variance.item() == 0.0
    mean, variance = posterior(x, data, 0.0, 0.5, schedule)
    half = torch.tensor(0.5, dtype=dtype)
    assert torch.equal(mean, schedule.alpha(half) * data)
    assert variance == schedule.sigma(half) ** 2


def test_posterior_of_a_short_step_in_float32():
    """The variance of a step of 2^-14 from t = 1/2 on the straight path, against 40 digits."""
    h = 2.0**-14
    x = torch.zeros(1)
    _, variance = posterior(x, x, 0.5, 0.5 + h, CondOT())
    with mpmath.workdps(40):
        t, s = mpmath.mpf("0.5"), mpmath.mpf("0.5") + mpmath.mpf(h)
        snr = (t / (1 - t)) ** 2 / (s / (1 - s)) ** 2
        exact = float((1 - snr) * (1 - s) ** 2)
    # lambda is of size 1e-4 there with an absolute rounding of 6e-8: relative 2e-3 at worst;
    # subtracting the variances instead would leave one digit
    assert variance.item() == pytest.approx(exact, rel=2e-3)


def test_times_in_the_wrong_order_are_refused():
    x = torch.zeros(2, 1)
    for t, s in ((0.5, 0.5), (0.6, 0.5)):
        with pytest.raises(ValueError, match="s must lie after t"):
            posterior(x, x, t, s, CondOT())
        with pytest.raises(ValueError, match="s must lie after t"):
            noising_step(t, s, CondOT())
    with pytest.raises(ValueError, match="x has shape"):
        posterior(x, torch.zeros(3, 1), 0.1, 0.2, CondOT())
    with pytest.raises(ValueError, match="steps=1"):
        chain_times(1)


def test_kl_is_torchs():
    generator = seeded(2)
    a, b = torch.randn(2, 6, 3, dtype=F64, generator=generator)
    va, vb = torch.rand(2, 6, 1, dtype=F64, generator=generator) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(a, va.sqrt().expand_as(a)), normal(b, vb.sqrt().expand_as(b))
    ).sum(1)
    assert torch.allclose(gaussian_kl(a, va, b, vb), expected, rtol=1e-12)


# -- pixels ------------------------------------------------------------------------------------

GREYS = torch.linspace(-1, 1, 256, dtype=F64)[:, None]


@pytest.mark.parametrize("std", [1e-3, 0.02, 0.5, 20.0])
@pytest.mark.parametrize("mean", [-1.3, -1.0, 0.013, 1.0, 4.0])
def test_probabilities_of_the_levels_sum_to_one(mean, std):
    total = pixel_log_prob(GREYS, torch.full_like(GREYS, mean), std).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-12)


def test_a_wide_level_is_density_times_width_and_tails_are_finite():
    mean, std = torch.full_like(GREYS, 0.1), 0.4
    density = torch.distributions.Normal(0.1, std).log_prob(GREYS[:, 0])
    inner = slice(1, -1)
    got = pixel_log_prob(GREYS, mean, std)[inner]
    # the second difference of the density: relative (1/255)^2 / (6 std^2) |z^2 - 1|
    assert torch.allclose(got, (density + math.log(2 / 255))[inner], atol=2e-4)
    for dtype in (torch.float32, F64):
        far = pixel_log_prob(GREYS.to(dtype), torch.full((256, 1), -30.0, dtype=dtype), 0.3)
        assert bool(torch.isfinite(far).all()) and far.min() < -4000


def test_far_tail_in_float32_agrees_with_high_precision():
    x, mean, std = 127 * 2 / 255 - 1, -1.5, 0.05
    got = pixel_log_prob(torch.tensor([[x]]), torch.tensor([[mean]]), std)
    with mpmath.workdps(300):
        a, b = (mpmath.mpf(x) + k * mpmath.mpf(1) / 255 for k in (-1, 1))
        exact = mpmath.log(mpmath.ncdf(b, mean, std) - mpmath.ncdf(a, mean, std))
    # z is about 30: its rounding, 2e-6, is multiplied by 30
    assert got.item() == pytest.approx(float(exact), rel=1e-5)


def test_values_between_the_levels_are_refused():
    for x in (0.0, 1.02):
        with pytest.raises(ValueError, match="not on the grid of 256 levels"):
            pixel_log_prob(torch.full((2, 1), x), torch.zeros(2, 1), 0.1)


def test_uniform_pixels_cost_eight_bits():
    pixels = torch.randint(0, 256, (50, 3, 4), dtype=torch.uint8, generator=seeded(3))
    x = dequantize(pixels, seeded(4))
    assert x.shape == (50, 1, 3, 4) and x.dtype == torch.float32
    assert torch.equal(((x[:, 0] + 1) * 127.5).floor().to(torch.uint8), pixels)
    # the density of uniform pixels is one over the length of the range, 256 / 127.5, for each
    log_prob = torch.full((50,), -12 * math.log(256 / 127.5))
    bits = bits_per_dim(dequantized_nats(log_prob, (1, 3, 4)), (1, 3, 4))
    assert torch.allclose(bits, torch.tensor(8.0))
    with pytest.raises(TypeError, match=r"pixels is torch\.float32"):
        dequantize(pixels.float())


def test_dequantization_is_a_bound_and_tight_for_a_density_constant_on_levels():
    """Of one pixel: density proportional to exp(c x), against the mass of each level."""
    c = 3.0
    edges = (torch.arange(257, dtype=F64)) / 127.5 - 1
    mass = (c * edges).exp().diff() / ((c * edges[-1]).exp() - (c * edges[0]).exp())
    log_norm = math.log((math.exp(c * edges[-1]) - math.exp(c * edges[0])) / c)
    middle = (edges[1:] + edges[:-1]) / 2  # E_u of a linear log-density is its value there
    bound = dequantized_nats(c * middle - log_norm, (1,))
    gap = bound + mass.log()
    assert bool((gap > 0).all()) and gap.max() < (c / 127.5) ** 2 / 20


# -- bounds ------------------------------------------------------------------------------------

ONE = Gaussian(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))  # data N(0, 1)


def mmse(snr: torch.Tensor) -> torch.Tensor:
    """E|X_1 - D|^2 for standard normal data on the line."""
    return 1 / (1 + snr)


def grid_to(schedule, last: float, steps: int) -> torch.Tensor:
    """Equal steps to the time `last`, and from there to the data."""
    return torch.cat([torch.linspace(0, last, steps, dtype=F64), torch.ones(1, dtype=F64)])


def test_steps_with_the_small_variance_cost_half_the_rise_of_the_snr():
    """`prp-elbo-weights`, draw by draw, for any denoiser."""
    schedule = Cosine()
    bound = DiscreteELBO(torch.linspace(0, 1, 9, dtype=F64), schedule)
    x, data, denoised = torch.randn(3, 6, 4, dtype=F64, generator=seeded(5))
    for n in range(1, 7):  # at n = 0 SNR_t = 0; the last is the decoder
        place = torch.full((6,), n)
        t, s = bound.times[n], bound.times[n + 1]
        snr_t, snr_s = (schedule.half_log_snr(v).mul(2).exp() for v in (t, s))
        expected = 0.5 * (snr_s - snr_t) * (data - denoised).square().sum(1)
        assert torch.allclose(bound.step_nats(x, data, place, denoised), expected, rtol=1e-10)


@pytest.mark.parametrize("steps", [8, 32])
def test_the_diffusion_term_of_gaussian_data(steps):
    schedule = Cosine()
    bound = DiscreteELBO(grid_to(schedule, 0.9, steps), schedule)
    data = ONE.sample(40_000, seeded(6))
    found = bound(ExactField(ONE, GaussianPath(schedule)), data, seeded(7))
    snr = schedule.half_log_snr(bound.times[:-1]).mul(2).exp()
    exact = (0.5 * snr.diff() * mmse(snr[:-1])).sum().item()
    assert z_score(found.diffusion, exact) < Z
    assert found.prior.abs().max() == 0.0  # alpha_0 = 0 on this path


def test_the_discrete_term_tends_to_the_continuous_one_like_one_over_t():
    schedule = Cosine()
    top = schedule.half_log_snr(number(0.9)).mul(2).exp()
    limit = 0.5 * math.log1p(top)  # the integral of half the mmse
    gaps = []
    for steps in (64, 128, 256, 512):
        snr = schedule.half_log_snr(grid_to(schedule, 0.9, steps + 1)[:-1]).mul(2).exp()
        gaps.append((0.5 * snr.diff() * mmse(snr[:-1])).sum().item() - limit)
    assert all(gap > 0 for gap in gaps)  # a bound from above, and finer is better
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(gaps)]
    # the next term of the expansion in 1/T makes the first slope differ by O(1/64)
    assert slopes[-1] == pytest.approx(1.0, abs=0.01) and slopes[0] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("schedule", [CondOT(), Cosine(), VP()], ids=lambda s: s.name)
def test_the_bound_is_above_the_exact_likelihood_of_the_mixture(schedule, variance):
    data = LAW.sample(4000, seeded(8))
    exact = -LAW.log_prob(data)
    field = ExactField(LAW, GaussianPath(schedule))
    fine = DiscreteELBO(grid_to(schedule, 0.95, 80), schedule, variance)
    coarse = dataclasses.replace(fine, times=grid_to(schedule, 0.95, 10))
    means = []
    for bound in (coarse, fine):
        gap = bound(field, data, seeded(9)).total - exact
        assert gap.mean() > -Z * gap.std() / len(gap) ** 0.5
        means.append(gap.mean().item())
    if variance == "large":  # with the small one the decoder of a fine grid is far too sure
        assert means[1] < means[0]


def test_the_continuous_bound_of_gaussian_data_in_closed_form():
    for schedule in (Cosine(), CondOT()):
        # the same half log-SNRs at the ends, at other times
        ends = [schedule.inverse_half_log_snr(number(v)).item() for v in (-3.0, 2.0)]
        bound = ContinuousELBO(schedule, LowDiscrepancyTimes(UniformTimes(*ends)))
        data = ONE.sample(60_000, seeded(10))
        found = bound(ExactField(ONE, GaussianPath(schedule)), data, seeded(11), draws=2)
        low, high = math.exp(-6.0), math.exp(4.0)
        integral = 0.5 * (math.log1p(high) - math.log1p(low))
        assert z_score(found.diffusion, integral) < Z
        # N(data; D, 1/SNR): E|data - D|^2 = 1 / (1 + SNR)
        decoder = 0.5 * (math.log(2 * math.pi / high) + high / (1 + high))
        assert z_score(found.reconstruction, decoder) < Z
        # the law of X_t given the datum, from N(0, alpha^2 + sigma^2): its mean over the data
        ratio = low / (1 + low)
        prior = 0.5 * (-math.log1p(-ratio))
        assert z_score(found.prior, prior) < Z


def test_the_continuous_bound_is_above_the_likelihood_by_what_its_ends_cost():
    """Gaussian data: prior + integral + decoder - entropy, term by term from the formulas above."""
    schedule = Cosine()
    ends = [schedule.inverse_half_log_snr(number(v)).item() for v in (-4.0, 4.0)]
    bound = ContinuousELBO(schedule, LowDiscrepancyTimes(UniformTimes(*ends)))
    data = ONE.sample(60_000, seeded(12))
    found = bound(ExactField(ONE, GaussianPath(schedule)), data, seeded(13), draws=2)
    gap = found.total + ONE.log_prob(data)
    high = math.exp(8.0)
    # everything else cancels: log(1 + 1/SNR) / 2 and the decoder's variance, which is too large
    exact = 0.5 * math.log1p(1 / high) + 0.5 * (high / (1 + high) - 1)
    exact_prior = 0.5 * -math.log1p(-math.exp(-8.0) / (1 + math.exp(-8.0)))
    start = -0.5 * math.log1p(math.exp(-8.0))
    assert z_score(gap, exact + exact_prior + start) < Z
    assert abs(exact + exact_prior + start) < 1e-3


def test_a_few_steps_estimate_all_of_them():
    schedule = Cosine()
    field = ExactField(LAW, GaussianPath(schedule))
    bound = DiscreteELBO(grid_to(schedule, 0.95, 30), schedule)
    data = LAW.sample(20_000, seeded(14))
    whole, few = bound(field, data, seeded(15)), bound(field, data, seeded(16), draws=4)
    assert z_score(few.diffusion - whole.diffusion) < Z
    for draws in (0, 30):
        with pytest.raises(ValueError, match=f"draws={draws} must lie in"):
            bound(field, data, draws=draws)


def test_prior_of_a_path_that_keeps_some_signal():
    data = torch.randn(5, 3, dtype=F64, generator=seeded(17))
    time = number(0.0)
    alpha, sigma = VP().alpha(time), VP().sigma(time)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(alpha * data, sigma.expand_as(data)), normal(0 * data, torch.ones_like(data))
    ).sum(1)
    assert torch.allclose(prior_nats(data, 0.0, VP()), expected, rtol=1e-6, atol=1e-12)


def test_bad_chains():
    for times in (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5, 0.4, 1.0]), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="it must increase from noise to data"):
            DiscreteELBO(times, CondOT())
    with pytest.raises(ValueError, match="variance='medium' must be"):
        DiscreteELBO(chain_times(4), CondOT(), "medium")
    with pytest.raises(ValueError, match="it must be 'learned'"):
        LearnedVariance(DiscreteELBO(chain_times(4), CondOT()))
    bound = DiscreteELBO(chain_times(4), Cosine(), "learned")
    x = torch.zeros(2, 1, 2, 2)
    with pytest.raises(ValueError, match="the learned variance needs"):
        bound.step_nats(x, x, torch.tensor([1, 2]), x)


# -- the learned variance ----------------------------------------------------------------------


def test_the_learned_variance_lies_between_the_two():
    x, data, denoised = torch.randn(3, 7, 1, 2, 2, dtype=F64, generator=seeded(18))
    learned = DiscreteELBO(chain_times(50), Cosine(), "learned")
    n = torch.tensor([0, 1, 10, 20, 30, 47, 48])
    for fraction, name in ((0.0, "small"), (1.0, "large")):
        fixed = dataclasses.replace(learned, variance=name)
        got = learned.step_nats(x, data, n, denoised, torch.full_like(x, fraction))
        assert torch.allclose(got, fixed.step_nats(x, data, n, denoised), rtol=1e-12)
    # per coordinate, the best fraction is never worse than either end
    best = torch.stack(
        [
            learned.step_nats(x, data, n, denoised, torch.full_like(x, f))
            for f in torch.linspace(0, 1, 21).tolist()
        ]
    )
    assert bool((best.min(0).values <= torch.minimum(best[0], best[-1])).all())
    small, large = learned.log_variances(n, x)
    assert bool((small <= large).all())


class TwoOutputs(torch.nn.Module):
    """Noise and variance, from a parameter each."""

    def __init__(self):
        super().__init__()
        self.noise = torch.nn.Parameter(torch.tensor(0.3))
        self.raw = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, x, t):
        return torch.cat([self.noise * x, self.raw * torch.ones_like(x)], dim=1)


def test_each_part_of_the_hybrid_loss_trains_its_own_output():
    net, data = TwoOutputs(), torch.randn(64, 1, 2, 2, generator=seeded(19)).clamp(-1, 1)
    bound = DiscreteELBO(chain_times(20), DiscreteVP(linear_betas(20)), "learned")
    target, simple = LearnedVariance(bound), LearnedVariance(bound, weight=0.0)
    whole = torch.autograd.grad(target.loss(net, data, seeded(20)), list(net.parameters()))
    alone = torch.autograd.grad(
        simple.loss(net, data, seeded(20)), list(net.parameters()), allow_unused=True
    )
    assert torch.equal(whole[0], alone[0])  # the bound does not touch the noise
    assert whole[1] != 0 and (alone[1] is None or alone[1] == 0)  # and only it trains the variance


def test_the_hybrid_loss_estimates_the_bound():
    """Its second part, for a fixed network, is 0.001 times the bound in bits, but for the prior."""
    net = TwoOutputs()
    schedule = DiscreteVP(linear_betas(20))
    bound = DiscreteELBO(chain_times(20), schedule, "learned")
    data = torch.randn(20_000, 1, 2, 2, generator=seeded(21))
    field = LearnedVarianceField(net, schedule)
    found = bound(field, data, seeded(22))
    whole = bits_per_dim(found.diffusion + found.reconstruction, (1, 2, 2))
    parts = []
    for k in range(40):
        batch = data[k::40]
        hybrid = LearnedVariance(bound, 1.0).loss(net, batch, seeded(100 + k))
        simple = LearnedVariance(bound, 0.0).loss(net, batch, seeded(100 + k))
        parts.append(hybrid.detach() - simple.detach())
    assert z_score(torch.stack(parts), whole.mean().item()) < Z


def test_the_field_of_two_outputs():
    net, schedule = TwoOutputs(), Cosine()
    field = LearnedVarianceField(net, schedule)
    x = torch.randn(3, 1, 2, 2, generator=seeded(23))
    noise, fraction = field.both(x, 0.4)
    assert torch.equal(noise, 0.3 * x) and torch.allclose(fraction, torch.full_like(x, 0.55))
    assert torch.equal(field.noise(x, 0.4), noise) and torch.equal(field.fraction(x, 0.4), fraction)
    t = torch.tensor(0.4)
    back = schedule.alpha(t) * field.denoise(x, 0.4) + schedule.sigma(t) * noise
    assert torch.allclose(back, x, atol=1e-6)
    with pytest.raises(ValueError, match="alpha_t = 0"):
        field.denoise(x, 0.0)
    with pytest.raises(ValueError, match="returns \\(3, 2, 2, 2\\), the noise and the variance"):
        split_output(x, x)


def test_a_unet_with_two_outputs():
    torch.manual_seed(0)
    net = UNet(widths=(8, 16), embedding=16, outputs=2)
    assert net(torch.randn(2, 1, 28, 28), 0.5).shape == (2, 2, 28, 28)
    assert UNet(widths=(8, 16), embedding=16)(torch.randn(2, 1, 28, 28), 0.5).shape[1] == 1
