"""The conventions say the truth: checks that do not use their own formulas.

The page's cells already test themselves on the laboratory while the book is built. Here the rows
are compared with numbers typed in from the papers' public code, formulas with schedules, losses
with the losses as the papers write them, and conversions with exact networks.
"""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fromnoise import conventions
from fromnoise.conventions import ALL, Convention, alpha, convention, convert_prediction, sigma
from fromnoise.distributions import laboratory
from fromnoise.fields import ExactField, TransformedField
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT, Cosine

PAGE = Path(__file__).parents[1] / "book" / "appendices" / "conventions.md"
BIBLIOGRAPHY = PAGE.parents[1] / "references.bib"
LAW = laboratory()


def scales(name: str, clock: float) -> tuple[float, float]:
    c = convention(name)
    return c.number(alpha, clock), c.number(sigma, clock)


def draws(n: int = 40):
    generator = torch.Generator().manual_seed(0)
    data = LAW.sample(n, generator)
    return data, torch.randn(n, 2, generator=generator, dtype=torch.float64)


def exact_call(c: Convention, half_log_snr: float, dtype=torch.float64):
    """Input, clock and output of a perfect network of this convention."""
    time = c.schedule.inverse_half_log_snr(torch.tensor(half_log_snr, dtype=torch.float64))
    data, noise = draws()
    x = c.schedule.alpha(time) * data + c.schedule.sigma(time) * noise
    field = ExactField(LAW, GaussianPath(c.schedule))
    kinds = {"noise": field.noise, "data": field.denoise}
    kinds |= {"score": field.score, "velocity": field.velocity}
    output = c.from_ours(kinds[c.output](x, time))
    return x.to(dtype), c.clock_of(time).to(dtype), output.to(dtype)


def test_every_convention_promised_is_there():
    assert {c.name for c in ALL} == {
        "DDPM",
        "Improved DDPM, cosine",
        "Score-SDE, VP",
        "Score-SDE, sub-VP",
        "Score-SDE, VE",
        "VDM, linear",
        "EDM",
        "Flow Matching",
        "Rectified Flow",
        "Interpolants, linear",
        "SiT, linear",
        "SiT, GVP",
        "Stable Diffusion 3",
        "MIT 6.S184, CondOT",
    }
    text = BIBLIOGRAPHY.read_text(encoding="utf-8")
    assert all(f"{{{c.key}," in text for c in ALL)
    with pytest.raises(ValueError, match=r"name='DDIM' is none of 'DDPM', "):
        convention("DDIM")


def test_the_clock_runs_from_noise_to_data():
    for c in ALL:
        clocks = [c.at_noise + q * (c.at_data - c.at_noise) for q in (0.1, 0.5, 0.9)]
        ratios = [math.log(c.number(alpha / sigma, clock)) for clock in clocks]
        assert ratios[0] < ratios[1] < ratios[2], c.name


@pytest.mark.parametrize("c", ALL, ids=lambda c: c.name)
def test_clock_and_time_are_inverse_and_formulas_are_the_schedule(c):
    times = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    clocks = c.clock_of(times)
    # a step number is 1000 times a time, a level an exponential of up to 7 lambda / rho
    assert torch.allclose(c.time_of(clocks), times, atol=1e-12)
    for time, clock in zip(times.tolist(), clocks.tolist(), strict=True):
        here = torch.tensor(time, dtype=torch.float64)
        for formula, value in ((alpha, c.schedule.alpha), (sigma, c.schedule.sigma)):
            # steps and integrals take their letter from the schedule; the rest are formulas
            assert c.number(formula, clock) == pytest.approx(value(here).item(), abs=2e-12)


def test_clocks_out_of_range_are_refused():
    for c in ALL:
        for beyond in (c.at_noise, c.at_data):
            clock = beyond + 0.1 * (beyond - (c.at_noise + c.at_data) / 2)
            with pytest.raises(ValueError):
                c.time_of(clock)


@pytest.mark.parametrize("half_log_snr", [-2.0, 0.0, 2.0, 4.0])
def test_every_pair_converts_to_the_exact_answer_and_back(half_log_snr):
    """Relative to the size of the output.

    The clock passes through lambda: its rounding, 1e-16 |lambda|, is multiplied by at most
    |d log(sigma / alpha) / d lambda| = 1 in every scale, and by the reciprocal slope of lambda in
    the clock, below 1e4 for the square cosine in steps; predictions add a factor exp(|lambda|).
    """
    tolerance = 1e-11 if half_log_snr == 4.0 else 1e-12
    for source, target in itertools.permutations(ALL, 2):
        x, clock, output = exact_call(source, half_log_snr)
        other_x, other_clock, other = exact_call(target, half_log_snr)
        got = convert_prediction(output, x, clock, source=source, target=target)
        pair = f"{source.name} to {target.name}"
        assert (got.output - other).abs().max() < tolerance * other.abs().max(), pair
        assert (got.x - other_x).abs().max() < tolerance * other_x.abs().max(), pair
        assert got.clock.item() == pytest.approx(other_clock.item(), rel=1e-9), pair
        back = convert_prediction(got.output, got.x, got.clock, source=target, target=source)
        assert (back.output - output).abs().max() < tolerance * output.abs().max(), pair
        assert (back.x - x).abs().max() < tolerance * x.abs().max(), pair


def test_clocks_of_a_batch_are_converted_each_by_itself():
    x, _, _ = exact_call(conventions.DDPM, 0.0)
    output = torch.randn_like(x)
    clocks = torch.linspace(50.0, 900.0, len(x), dtype=torch.float64)
    arguments = {"source": conventions.DDPM, "target": conventions.SIT_LINEAR}
    whole = convert_prediction(output, x, clocks, **arguments)
    for i in (0, 7, len(x) - 1):
        one = convert_prediction(output[i : i + 1], x[i : i + 1], clocks[i], **arguments)
        assert torch.allclose(one.output[0], whole.output[i], rtol=1e-12)
        assert torch.allclose(one.clock, whole.clock[i], rtol=1e-12)


def test_a_noise_level_that_the_target_never_has_is_refused():
    x, clock, output = exact_call(conventions.RECTIFIED_FLOW, -4.9)
    with pytest.raises(ValueError, match="half_log_snr must lie in"):
        convert_prediction(
            output, x, clock, source=conventions.RECTIFIED_FLOW, target=conventions.EDM
        )
    with pytest.raises(ValueError, match="output has shape"):
        convert_prediction(
            output[:2], x, clock, source=conventions.RECTIFIED_FLOW, target=conventions.DDPM
        )


@pytest.mark.parametrize("c", ALL, ids=lambda c: c.name)
def test_a_foreign_network_is_a_field(c):
    """An exact network of each convention, wrapped, is the exact field on the straight path."""
    data, noise = draws()
    exact = ExactField(LAW, GaussianPath(c.schedule))
    kinds = {"noise": exact.noise, "data": exact.denoise}
    kinds |= {"score": exact.score, "velocity": exact.velocity}

    def net(x, clock):
        assert clock.shape == (len(x),)
        return c.from_ours(kinds[c.output](x, c.time_of(clock)))

    field, straight = (
        TransformedField(c.field(net), CondOT()),
        ExactField(LAW, GaussianPath(CondOT())),
    )
    for t in (0.15, 0.5, 0.9):
        x = t * data + (1 - t) * noise
        for name in ("velocity", "denoise", "noise", "score"):
            expected = getattr(straight, name)(x, t)
            error = (getattr(field, name)(x, t) - expected).abs().max()
            assert error < 1e-10 * expected.abs().max(), name


def test_a_network_of_the_wrong_shape_is_refused():
    x, _ = draws()
    with pytest.raises(ValueError, match="the network's output has shape"):
        conventions.DDPM.field(lambda x, clock: x[:, :1]).denoise(x, 0.5)


# What the papers minimize, written as they write it: density of their clock times weight times the
# squared factor from the noise's error to their output's, per unit of lambda.


def normal(z: float, mean: float, spread: float) -> float:
    return math.exp(-(((z - mean) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))


def papers_weight(name: str, lam: float) -> float:
    ratio = math.exp(-lam)  # sigma / alpha
    if name == "EDM":
        # ln sigma ~ N(-1.2, 1.2^2), weight (s^2 + sd^2) / (s sd)^2, |D - y|^2 = s^2 |eps error|^2
        weight = (ratio**2 + 0.25) / (ratio * 0.5) ** 2
        return normal(-lam, -1.2, 1.2) * weight * ratio**2
    if name in ("Rectified Flow", "SiT, linear", "Interpolants, linear", "MIT 6.S184, CondOT"):
        # clock uniform, v = x_1 - x_0: its error is (1 + sigma / alpha) times the noise's
        t = 1 / (1 + ratio)
        return t * (1 - t) * (1 + ratio) ** 2
    if name == "Stable Diffusion 3":
        t = 1 / (1 + ratio)
        return normal(-lam, 0.0, 1.0) / (t * (1 - t)) * t * (1 - t) * (1 + ratio) ** 2
    if name == "VDM, linear":
        # (1 / 2) gamma'(t) |eps error|^2 with t uniform, and gamma = -2 lambda
        slope = 5.0 + 13.3
        return 0.5 * slope * (2 / slope)
    if name == "Score-SDE, VE":
        # t uniform, sigma^2 |score error|^2, and lambda = -log sigma has slope log 5000
        return 1 / math.log(5000.0)
    raise KeyError(name)


@pytest.mark.parametrize("lam", [-2.0, -0.3, 1.0, 3.0])
@pytest.mark.parametrize(
    "name",
    [
        "EDM",
        "Rectified Flow",
        "SiT, linear",
        "Interpolants, linear",
        "MIT 6.S184, CondOT",
        "Stable Diffusion 3",
        "VDM, linear",
        "Score-SDE, VE",
    ],
)
def test_losses_are_the_papers_own(name, lam):
    loss = convention(name).loss
    time = loss.path.schedule.inverse_half_log_snr(torch.tensor(lam, dtype=torch.float64))
    assert loss.common_weight(time).item() == pytest.approx(papers_weight(name, lam), rel=1e-10)


def test_ddpm_weights_levels_by_how_many_steps_pass_them():
    """W is the steps per unit of lambda over T: compare with a count on the paper's own betas."""
    bars = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    lam = 0.5 * np.log(bars / (1.0 - bars))
    loss = conventions.DDPM.loss
    for center in (-2.0, 0.0, 2.0):
        share = np.mean(np.abs(lam - center) < 0.25) / 0.5
        time = loss.path.schedule.inverse_half_log_snr(torch.tensor(center, dtype=torch.float64))
        # one step more or less at each end of the window, and its curvature
        assert loss.common_weight(time).item() == pytest.approx(share, abs=2 / 500 + 0.02 * share)


def test_ddpm_end_points():
    """Ho et al.: nearly no signal at step 1000, and beta_1 = 1e-4 at step 1."""
    alpha, sigma = scales("DDPM", 1)
    assert alpha == pytest.approx(math.sqrt(1 - 1e-4), rel=1e-12)
    assert sigma == pytest.approx(0.01, rel=1e-9)
    log_bar = math.fsum(math.log1p(-b) for b in np.linspace(1e-4, 0.02, 1000))
    assert scales("DDPM", 1000)[0] == pytest.approx(math.exp(log_bar / 2), rel=1e-9)


@pytest.mark.parametrize("r", [0.1, 0.5, 0.9])
def test_score_sde_marginals(r):
    """`marginal_prob` of the authors' public code, in its own words."""
    log_mean_coeff = -0.25 * r**2 * (20.0 - 0.1) - 0.5 * r * 0.1
    mean = math.exp(log_mean_coeff)
    assert scales("Score-SDE, VP", r) == pytest.approx(
        (mean, math.sqrt(1.0 - math.exp(2.0 * log_mean_coeff))), rel=1e-12
    )
    assert scales("Score-SDE, sub-VP", r) == pytest.approx(
        (mean, 1.0 - math.exp(2.0 * log_mean_coeff)), rel=1e-12
    )
    assert scales("Score-SDE, VE", r) == pytest.approx((1.0, 0.01 * 5000.0**r), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("Rectified Flow", CondOT()),
        ("Interpolants, linear", CondOT()),
        ("MIT 6.S184, CondOT", CondOT()),
        ("SiT, linear", CondOT()),
        ("SiT, GVP", Cosine()),
        ("Stable Diffusion 3", CondOT()),
    ],
)
def test_velocities_are_ours_or_the_negative_of_ours(name, schedule):
    """Clock with ours: f = u. Clock against ours: f = -u, at the mirrored time."""
    law, c = laboratory(), convention(name)
    forwards = c.at_data == 1
    x = law.sample(30, torch.Generator().manual_seed(0))
    for t in (0.2, 0.7):
        clock = t if forwards else 1.0 - t
        alpha, sigma = scales(name, clock)
        a, b = (c.number(formula, clock) for formula in c.coefficient_formulas)
        output = a * law.denoise(x, alpha, sigma) + b * law.predict_noise(x, alpha, sigma)
        ours = ExactField(law, GaussianPath(schedule)).velocity(x, t)
        sign = 1.0 if forwards else -1.0
        assert (output - sign * ours).abs().max() < 1e-12 * (1 + ours.abs().max())
        of_x, of_f = (c.number(formula, clock) for formula in c.denoiser_formulas)
        recovered = of_x * x + of_f * output
        assert (recovered - law.denoise(x, alpha, sigma)).abs().max() < 1e-12


def test_data_from_outputs_that_readers_know_by_heart():
    """x0 = (x - sqrt(1 - abar) eps) / sqrt(abar); x + sigma^2 s; D; x - sigma v."""
    alpha, sigma = scales("DDPM", 400)
    for name, clock, expected in (
        ("DDPM", 400, (1 / alpha, -sigma / alpha)),
        ("Score-SDE, VE", 0.4, (1.0, (0.01 * 5000.0**0.4) ** 2)),
        ("EDM", 3.0, (0.0, 1.0)),
        ("Stable Diffusion 3", 0.3, (1.0, -0.3)),
        ("Rectified Flow", 0.3, (1.0, 0.7)),
    ):
        c = convention(name)
        got = tuple(c.number(formula, clock) for formula in c.denoiser_formulas)
        assert got == pytest.approx(expected, rel=1e-12, abs=1e-15), name


def test_tables_are_valid_markdown_with_one_row_a_convention():
    text = PAGE.read_text(encoding="utf-8")
    cells = re.findall(r"```\{code-cell\} ipython3\n(.*?)```", text, flags=re.S)
    names: dict = {}
    tables = 0
    for cell in cells:
        plain = re.sub(r"^---\n.*?\n---\n", "", cell, flags=re.S)
        if plain.startswith(":tags:"):  # the figure
            continue
        exec(compile(plain, str(PAGE), "exec"), names)
        if "markdown_format" not in cell:
            continue
        tables += 1
        head, rule, *body = names["rows"]
        assert len(body) == len(ALL) and set(rule) <= set("|-")
        for row in body:
            assert row.count("|") == head.count("|") and row.count("$") % 2 == 0
            assert not re.search(r"nan|inf\b|zoo", row)
    assert tables == 4
