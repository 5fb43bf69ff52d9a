"""The conventions page says the truth: checks of its table that do not use its own formulas.

The page's cells already test themselves on the laboratory while the book is built. Here the cells
that define the table are run, and its rows are compared with numbers typed in from the papers'
public code, and with the package.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fromnoise.distributions import laboratory
from fromnoise.fields import ExactField
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT, Cosine

PAGE = Path(__file__).parents[1] / "book" / "appendices" / "conventions.md"


@pytest.fixture(scope="module")
def page() -> dict:
    """The names that the first two cells of the page define."""
    names = {"__name__": "page"}
    text = PAGE.read_text(encoding="utf-8")
    for cell in re.findall(r"```\{code-cell\} ipython3\n(.*?)```", text, flags=re.S)[:2]:
        exec(compile(cell, str(PAGE), "exec"), names)
    names["rows"] = {c.name: c for c in names["conventions"]}
    return names


def scales(page: dict, name: str, clock: float) -> tuple[float, float]:
    c = page["rows"][name]
    return c.number(page["alpha"], clock), c.number(page["sigma"], clock)


def test_every_convention_promised_is_there(page):
    assert {
        "DDPM",
        "Score-SDE, VP",
        "Score-SDE, sub-VP",
        "Score-SDE, VE",
        "EDM",
        "Flow Matching",
        "Rectified Flow",
        "Interpolants, linear",
        "SiT, linear",
        "SiT, GVP",
        "Stable Diffusion 3",
        "MIT 6.S184, CondOT",
    } == set(page["rows"])


def test_the_clock_runs_from_noise_to_data(page):
    for c in page["rows"].values():
        clocks = [c.at_noise + q * (c.at_data - c.at_noise) for q in (0.1, 0.5, 0.9)]
        low, middle, high = (c.half_log_snr(clock) for clock in clocks)
        assert low < middle < high, c.name


def test_ddpm_end_points(page):
    """Ho et al.: nearly no signal at step 1000, and beta_1 = 1e-4 at step 1."""
    alpha, sigma = scales(page, "DDPM", 1)
    assert alpha == pytest.approx(math.sqrt(1 - 1e-4), rel=1e-12)
    assert sigma == pytest.approx(0.01, rel=1e-9)
    log_bar = math.fsum(math.log1p(-b) for b in np.linspace(1e-4, 0.02, 1000))
    assert scales(page, "DDPM", 1000)[0] == pytest.approx(math.exp(log_bar / 2), rel=1e-9)


@pytest.mark.parametrize("r", [0.1, 0.5, 0.9])
def test_score_sde_marginals(page, r):
    """`marginal_prob` of the authors' public code, in its own words."""
    log_mean_coeff = -0.25 * r**2 * (20.0 - 0.1) - 0.5 * r * 0.1
    mean = math.exp(log_mean_coeff)
    assert scales(page, "Score-SDE, VP", r) == pytest.approx(
        (mean, math.sqrt(1.0 - math.exp(2.0 * log_mean_coeff))), rel=1e-12
    )
    assert scales(page, "Score-SDE, sub-VP", r) == pytest.approx(
        (mean, 1.0 - math.exp(2.0 * log_mean_coeff)), rel=1e-12
    )
    assert scales(page, "Score-SDE, VE", r) == pytest.approx((1.0, 0.01 * 5000.0**r), rel=1e-12)


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
def test_velocities_are_ours_or_the_negative_of_ours(page, name, schedule):
    """Clock with ours: f = u. Clock against ours: f = -u, at the mirrored time."""
    law, c = laboratory(), page["rows"][name]
    forwards = c.at_data == 1
    x = law.sample(30, torch.Generator().manual_seed(0))
    for t in (0.2, 0.7):
        clock = t if forwards else 1.0 - t
        alpha, sigma = scales(page, name, clock)
        a, b = (c.number(formula, clock) for formula in c.coefficients)
        output = a * law.denoise(x, alpha, sigma) + b * law.predict_noise(x, alpha, sigma)
        ours = ExactField(law, GaussianPath(schedule)).velocity(x, t)
        sign = 1.0 if forwards else -1.0
        assert (output - sign * ours).abs().max() < 1e-12 * (1 + ours.abs().max())
        of_x, of_f = (c.number(formula, clock) for formula in c.denoiser)
        recovered = of_x * x + of_f * output
        assert (recovered - law.denoise(x, alpha, sigma)).abs().max() < 1e-12


def test_data_from_outputs_that_readers_know_by_heart(page):
    """x0 = (x - sqrt(1 - abar) eps) / sqrt(abar); x + sigma^2 s; D; x - sigma v."""
    alpha, sigma = scales(page, "DDPM", 400)
    for name, clock, expected in (
        ("DDPM", 400, (1 / alpha, -sigma / alpha)),
        ("Score-SDE, VE", 0.4, (1.0, (0.01 * 5000.0**0.4) ** 2)),
        ("EDM", 3.0, (0.0, 1.0)),
        ("Stable Diffusion 3", 0.3, (1.0, -0.3)),
        ("Rectified Flow", 0.3, (1.0, 0.7)),
    ):
        c = page["rows"][name]
        got = tuple(c.number(formula, clock) for formula in c.denoiser)
        assert got == pytest.approx(expected, rel=1e-12, abs=1e-15), name


def test_tables_are_valid_markdown_with_one_row_a_convention(page):
    text = PAGE.read_text(encoding="utf-8")
    cells = re.findall(r"```\{code-cell\} ipython3\n---\n.*?\n---\n(.*?)```", text, flags=re.S)
    assert len(cells) == 3
    for cell in cells:
        names = dict(page)
        exec(compile(cell, str(PAGE), "exec"), names)
        head, rule, *body = names["rows"]
        assert len(body) == 12 and set(rule) <= set("|-")
        for row in body:
            assert row.count("|") == head.count("|") and row.count("$") % 2 == 0
            assert not re.search(r"nan|inf|zoo", row)
