"""What the chapter on DDIM claims: marginals of the family, limits, inversion."""

import math

import pytest
import torch

from fromnoise import checkpoints, grids, samplers
from fromnoise.data import small_digits, to_unit
from fromnoise.distributions import Gaussian, laboratory
from fromnoise.fields import ExactField, NetworkField
from fromnoise.grids import Grid
from fromnoise.paths import GaussianPath
from fromnoise.processes import probability_flow
from fromnoise.schedules import VP, CondOT, Cosine
from fromnoise.solvers import rk4, solve_ode

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def lab(schedule):
    return ExactField(laboratory(), GaussianPath(schedule))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_family_has_the_conditional_marginals_at_every_time(eta):
    """With the true datum for D: mean and variance of X_t given X_1, 5 standard errors."""
    schedule, datum, n = VP(), 1.7, 40_000
    law = Gaussian(torch.tensor([datum], dtype=F64), torch.tensor([[1e-24]], dtype=F64))
    field = ExactField(law, GaussianPath(schedule))
    grid = Grid.of(schedule, [0.0, 0.2, 0.5, 0.8, 0.95])
    first = grid[0]
    x = first.alpha * datum + first.sigma * torch.randn(n, 1, generator=seeded(1), dtype=F64)
    path = samplers.ddim(field, x, grid, eta=eta, generator=seeded(2), trajectory=True)
    for p, state in zip(grid.points, path, strict=True):
        assert abs(state.mean().item() - p.alpha * datum) < 5 * p.sigma / math.sqrt(n)
        assert abs(state.var().item() / p.sigma**2 - 1) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("schedule", [VP(), CondOT(), Cosine()], ids=lambda s: s.name)
def test_ddim_tends_to_the_probability_flow_with_slope_one(schedule):
    field = lab(schedule)
    x = torch.randn(60, 2, generator=seeded(3), dtype=F64)
    exact = solve_ode(probability_flow(field), x, torch.linspace(0.05, 0.95, 1501, dtype=F64), rk4)
    errors = []
    for n in (200, 400):
        y = samplers.ddim(field, x, torch.linspace(0.05, 0.95, n + 1, dtype=F64))
        errors.append((y - exact).square().mean().sqrt().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.1)


def test_gaussian_variance_step_by_step():
    """`prp-ddim-gaussian`: exact, to rounding."""
    schedule, b = Cosine(), 3.0
    law = Gaussian(torch.zeros(1, dtype=F64), torch.tensor([[b]], dtype=F64))
    field = ExactField(law, GaussianPath(schedule))
    grid = grids.uniform(schedule, 7, start=0.1, end=0.9)
    path = samplers.ddim(field, torch.ones(1, 1, dtype=F64), grid, trajectory=True)
    for i in range(7):
        p, q = grid[i], grid[i + 1]
        v, w = p.alpha**2 * b + p.sigma**2, q.alpha**2 * b + q.sigma**2
        exact = w / v * (1 - b * (q.alpha * p.sigma - p.alpha * q.sigma) ** 2 / (v * w))
        assert ((path[i + 1] / path[i]) ** 2).item() == pytest.approx(exact, rel=1e-12)


def test_eta_one_is_ancestral_sampling_with_the_small_variance():
    for schedule in (VP(), CondOT()):
        field, x = lab(schedule), torch.randn(9, 2, generator=seeded(4), dtype=F64)
        grid = grids.uniform(schedule, 8)
        a = samplers.ddim(field, x, grid, eta=1.0, generator=seeded(5))
        b = samplers.ancestral(field, x, grid, generator=seeded(5))
        assert (a - b).abs().max() < 1e-12


def test_round_trip_of_the_usual_inversion_has_slope_one():
    field = lab(VP())
    x = laboratory().sample(100, seeded(6))
    errors = []
    for n in (200, 400):
        grid = grids.uniform(VP(), n, start=0.05, end=0.97)
        z = samplers.ddim_invert(field, x, grid)
        errors.append((samplers.ddim(field, z, grid) - x).norm(dim=1).median().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.15)


def test_iterated_inversion_is_exact_to_rounding_from_clean_data():
    field = lab(VP())
    x = laboratory().sample(100, seeded(7))
    grid = grids.uniform(VP(), 80, start=0.05)
    z = samplers.ddim_invert(field, x, grid, iterations=60, tolerance=1e-13)
    assert (samplers.ddim(field, z, grid) - x).abs().max() < 1e-10
    path = samplers.ddim_invert(field, x, grid, iterations=60, trajectory=True)
    assert path.shape == (81, 100, 2) and torch.equal(path[0], x)


def test_contraction_factor_of_a_point_mass():
    """theta = 1 - rho_p / rho_q exactly (`prp-fixed-point-inversion`)."""
    law = Gaussian(torch.zeros(1, dtype=F64), torch.tensor([[1e-24]], dtype=F64))
    field = ExactField(law, GaussianPath(VP()))
    grid = Grid.of(VP(), [0.3, 0.6])
    x = torch.full((1, 1), 0.7, dtype=F64)
    steps = [samplers.ddim_invert(field, x, grid, iterations=k).item() for k in (2, 3, 4)]
    theta = 1 - grid[1].ratio / grid[0].ratio
    if abs(steps[1] - steps[0]) > 1e-13:  # the first guess may be the fixed point already
        assert (steps[2] - steps[1]) / (steps[1] - steps[0]) == pytest.approx(theta, rel=1e-6)
    exact = samplers.ddim(field, torch.tensor([[steps[2]]], dtype=F64), grid)
    assert exact.item() == pytest.approx(0.7, abs=1e-9)


def test_inversion_says_when_it_does_not_converge():
    steep = NetworkField(lambda x, t: 40.0 * torch.sin(9.0 * x), GaussianPath(VP()), "noise")
    with pytest.raises(RuntimeError, match="more iterations"):
        samplers.ddim_invert(steep, torch.ones(3, 1), [0.2, 0.9], iterations=5, tolerance=1e-6)
    with pytest.raises(ValueError, match="iterations"):
        samplers.ddim_invert(steep, torch.ones(3, 1), [0.2, 0.9], iterations=0)
    with pytest.raises(ValueError, match="no signal"):
        samplers.ddim_invert(lab(CondOT()), torch.ones(3, 2, dtype=F64), [0.0, 0.9])
    with pytest.raises(ValueError, match="noise cannot be had from data"):
        from_data = NetworkField(lambda x, t: 0.5 * x, GaussianPath(VP()), "data")
        samplers.ddim_invert(from_data, torch.ones(3, 1), [0.5, 1.0]).sum()
        from_data.predict(torch.ones(3, 1), Grid.point(VP(), 1.0), "noise")


def test_a_digit_survives_the_round_trip():
    model = checkpoints.load("digits-velocity")
    x = to_unit(small_digits().images[:2])
    grid = grids.uniform(CondOT(), 10, start=0.02)
    once, often = (
        samplers.ddim(model.field, samplers.ddim_invert(model.field, x, grid, iterations=k), grid)
        for k in (1, 6)
    )
    assert (often - x).square().mean() < 0.1 * (once - x).square().mean()


def test_slerp_keeps_the_length_and_the_ends():
    a, b = torch.randn(2, 5, 3, 4, generator=seeded(8), dtype=F64)
    assert torch.allclose(samplers.slerp(a, b, 0.0), a)
    assert torch.allclose(samplers.slerp(a, b, 1.0), b)
    middle = samplers.slerp(a, b, 0.5).flatten(1).norm(dim=1)
    mean = 0.5 * (a.flatten(1).norm(dim=1) + b.flatten(1).norm(dim=1))
    assert torch.allclose(middle, mean)
    assert torch.allclose(samplers.slerp(a, a, 0.3), a)
    with pytest.raises(ValueError, match="equal shapes"):
        samplers.slerp(a, b[:2], 0.5)
