"""Grids: their points against the schedule, their spacing against its definition, bad input."""

import math

import pytest
import torch

from fromnoise import grids
from fromnoise.discrete_schedules import DiscreteVP, cosine_betas, linear_betas
from fromnoise.grids import Grid, as_grid
from fromnoise.schedules import EDM, VE, VP, CondOT, Cosine

ALL = [CondOT(), Cosine(), VP(), VE(), EDM()]
F64 = torch.float64


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: s.name)
def test_points_hold_the_schedule_in_double_precision(schedule):
    times = torch.tensor([0.1, 0.35, 0.9], dtype=F64)
    grid = Grid.of(schedule, times)
    assert grid.steps == 2 and len(grid) == 3
    for p, t in zip(grid.points, times, strict=True):
        assert p.alpha == schedule.alpha(t).item() and p.sigma == schedule.sigma(t).item()
        assert p.half_log_snr == pytest.approx(schedule.half_log_snr(t).item(), abs=1e-12)
        assert p.ratio == pytest.approx(math.exp(-p.half_log_snr), rel=1e-12)
    assert torch.equal(grid.times, times)


def test_ends_without_signal_or_noise():
    grid = Grid.of(CondOT(), [0.0, 0.5, 1.0])
    assert grid[0].half_log_snr == -math.inf and grid[0].ratio == math.inf
    assert grid[2].half_log_snr == math.inf and grid[2].ratio == 0.0


@pytest.mark.parametrize("schedule", [CondOT(), VP(), EDM()], ids=lambda s: s.name)
@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0, math.inf])
def test_karras_is_equally_spaced_in_its_power(schedule, rho):
    grid = grids.karras(schedule, 9, rho=rho, start=0.05, end=0.95)
    assert grid.steps == 9 and grid[0].t == 0.05 and grid[8].t == 0.95
    inner = [p.ratio for p in grid.points[:9]]
    levels = torch.tensor(inner, dtype=F64)
    spaced = levels.log() if math.isinf(rho) else levels ** (1 / rho)
    gaps = spaced.diff()
    assert (gaps - gaps[0]).abs().max() < 1e-9 * gaps.abs().max() + 1e-12
    if schedule.sigma(1.0) == 0:
        assert grid[9].t == 1.0 and grid[9].sigma == 0.0


def test_karras_on_edm_is_the_published_formula():
    """Their sigma_i for 18 levels from 80 to 0.002, rho = 7."""
    n, rho, high, low = 18, 7.0, 80.0, 0.002
    exact = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    grid = grids.karras(EDM(), n - 1, start=0.0, end=1.0, final=False)
    found = [p.ratio for p in grid.points]
    assert found == pytest.approx(exact, rel=1e-9)


def test_one_step_and_many():
    assert [p.t for p in grids.karras(CondOT(), 1, start=0.1).points] == [0.1, 1.0]
    assert grids.uniform(CondOT(), 1).steps == 1
    assert grids.uniform_straight(VP(), 1).steps == 1
    assert grids.uniform(VP(), 2000).steps == 2000


@pytest.mark.parametrize("schedule", ALL[:3], ids=lambda s: s.name)
def test_straight_grid_is_uniform_in_the_straight_time(schedule):
    grid = grids.uniform_straight(schedule, 7, start=0.02, end=0.97)
    s = torch.tensor([p.alpha / (p.alpha + p.sigma) for p in grid.points], dtype=F64)
    assert (s.diff() - s.diff()[0]).abs().max() < 1e-10
    on_line = grids.uniform_straight(CondOT(), 10)
    assert (on_line.times - torch.linspace(0, 1, 11, dtype=F64)).abs().max() < 1e-12


def test_shift_subtracts_a_constant_from_lambda():
    """`prp-flow-shift`, on the straight path."""
    plain, moved = grids.uniform(CondOT(), 8), grids.shifted(CondOT(), 8, 3.0)
    for p, q in zip(plain.points[1:-1], moved.points[1:-1], strict=True):
        assert q.half_log_snr == pytest.approx(p.half_log_snr - math.log(3.0), abs=1e-12)
    assert moved[0].t == 0.0 and moved[8].t == 1.0


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 7, 10, 1000])
def test_spacings_agree_with_diffusers(spacing, steps):
    """Their timesteps are ours less one. One step of "linspace" is the cleanest one there."""
    if (spacing, steps) == ("linspace", 1):
        pytest.skip("theirs would denoise pure noise as if it were nearly clean")
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    schedule = DiscreteVP(linear_betas())
    grid = grids.of_steps(schedule, steps, spacing)
    n = (1000 * (1 - grid.times[:-1])).round().long()
    assert torch.equal(n - 1, torch.as_tensor(theirs.timesteps).long())


def test_between_and_at_ratio():
    grid = Grid.of(VP(), [0.2, 0.8])
    middle = grid.between(0, 0.5)
    lam = [p.half_log_snr for p in (grid[0], middle, grid[1])]
    assert lam[1] == pytest.approx(0.5 * (lam[0] + lam[2]), abs=1e-10)
    bare = Grid.of_levels([0.2, 0.8], [0.5, 0.9], [0.8, 0.3])
    with pytest.raises(ValueError, match="one schedule"):
        bare.between(0, 0.5)


def test_own_grids_for_samples_have_the_schedule_of_each():
    times = torch.tensor([[0.1, 0.2], [0.5, 0.9]], dtype=F64)
    grid = Grid.of_samples(VP(), times, ndim=3)
    assert grid[0].alpha.shape == (2, 1, 1)
    assert torch.equal(grid[1].sigma.flatten(), VP().sigma(times[1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Grid.of(VP(), [0.5]), "at least two"),
        (lambda: Grid.of(VP(), [0.5, 0.2]), "strictly increase"),
        (lambda: Grid.of(VP(), [0.5, 1.2]), "lie in"),
        (lambda: Grid.of_levels([0, 1], [0.5], [0.5, 0.5]), "equally many"),
        (lambda: Grid.of_levels([0, 1], [0.9, 0.5], [0.1, 0.8]), "rise"),
        (lambda: Grid.of_samples(VP(), torch.zeros(3), 2), "steps"),
        (lambda: grids.uniform(VP(), 0), "at least 1"),
        (lambda: grids.karras(CondOT(), 5, start=0.0), "finite ends"),
        (lambda: grids.karras(CondOT(), 5, rho=0.0), "rho"),
        (lambda: grids.shifted(CondOT(), 5, 0.0), "shift"),
        (lambda: grids.uniform_straight(CondOT(), 5, power=0.0), "power"),
        (lambda: grids.of_steps(DiscreteVP(linear_betas(10)), 11), "at most 10"),
        (lambda: grids.of_steps(DiscreteVP(linear_betas(10)), 2, "middle"), "spacing"),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_cosine_betas_reach_an_enormous_level_that_a_grid_can_leave_out():
    """Why Heun and the Karras option fail there: sigma / alpha begins at about 20,000."""
    schedule = DiscreteVP(cosine_betas())
    first = grids.uniform(schedule, 10)[0].ratio
    assert 10_000 < first < 50_000
    assert grids.uniform(schedule, 10, start=0.02)[0].ratio < 60


def test_as_grid_keeps_a_grid():
    grid = grids.uniform(VP(), 3)
    assert as_grid(grid, CondOT()) is grid
    assert as_grid([0.0, 1.0], CondOT()).schedule == CondOT()
