"""What the chapter on the variational view says of its record and of the laboratory."""

import re
from pathlib import Path

import pytest
import torch

from fromnoise import checkpoints, records
from fromnoise.discrete_schedules import DiscreteVP, linear_betas
from fromnoise.distributions import laboratory
from fromnoise.schedules import Cosine
from fromnoise.variational import DiscreteELBO, chain_times

PAGE = Path(__file__).parents[1] / "book" / "part2" / "variational.md"


@pytest.fixture(scope="module")
def record() -> dict:
    return records.load("likelihood")


def test_the_record_is_of_the_landed_weights_and_of_the_whole_test_split(record):
    known = checkpoints.registry()
    for name, digest in record["sha256"].items():
        assert known[name]["sha256"] == digest
    assert record["split"] == "test" and record["chain"]["images"] == 10_000
    assert record["chain"]["steps"] == 1000


def test_parts_add_up_and_the_learned_variance_has_the_least_bound(record):
    variance = record["chain"]["variance"]
    for parts in variance.values():
        total = sum(parts[k]["bits"] for k in ("prior", "diffusion", "reconstruction"))
        # four numbers of six digits
        assert total == pytest.approx(parts["total"]["bits"], rel=1e-5)
        assert 0 < parts["total"]["bits"] < 8 and parts["total"]["standard_error"] > 0
    least = min(variance, key=lambda name: variance[name]["total"]["bits"])
    assert least == "learned"


def test_prose_quotes_the_record(record):
    text = PAGE.read_text(encoding="utf-8")
    said = re.search(r"between \$([\d.]+)\$ \(learned\)", text)
    assert float(said[1]) == round(record["chain"]["variance"]["learned"]["total"]["bits"], 2)
    flow = re.search(r"the flow's density says \$([\d.]+)\$", text)
    assert float(flow[1]) == round(record["flow"]["total"]["bits"], 2)


def test_weights_of_ddpms_steps_in_the_bound():
    """The printed ones, from the paper's Eq. 12 with the small variance, in its own letters."""
    beta = linear_betas()
    bar = torch.cumprod(1 - beta, 0)
    for n, printed in ((2, 0.59967), (10, 0.08644), (100, 0.01027), (500, 0.00551)):
        b, before = beta[n - 1], bar[n - 2]
        small = (1 - before) / (1 - bar[n - 1]) * b
        weight = b**2 / (2 * small * (1 - b) * (1 - bar[n - 1]))
        assert weight.item() == pytest.approx(printed, abs=6e-6)


def test_the_step_cost_of_ddpm_is_equation_12():
    schedule = DiscreteVP(linear_betas())
    bound = DiscreteELBO(chain_times(1000), schedule)
    generator = torch.Generator().manual_seed(0)
    noise, guess, data = torch.randn(3, 4, 5, dtype=torch.float64, generator=generator)
    n = 300  # the paper's step
    place = 1000 - n
    t = bound.times[place]
    x = schedule.alpha(t) * data + schedule.sigma(t) * noise
    denoised = (x - schedule.sigma(t) * guess) / schedule.alpha(t)
    got = bound.step_nats(x, data, torch.full((4,), place), denoised)
    beta = linear_betas()
    bar = torch.cumprod(1 - beta, 0)
    small = (1 - bar[n - 2]) / (1 - bar[n - 1]) * beta[n - 1]
    weight = beta[n - 1] ** 2 / (2 * small * (1 - beta[n - 1]) * (1 - bar[n - 1]))
    assert torch.allclose(got, weight * (noise - guess).square().sum(1), rtol=1e-9)


def test_the_laboratory_has_more_than_unit_variance():
    assert laboratory().cov.trace().item() / 2 == pytest.approx(1.73, abs=5e-3)
    assert Cosine().alpha(0.0) == 0.0  # so the prior costs nothing in the first table
