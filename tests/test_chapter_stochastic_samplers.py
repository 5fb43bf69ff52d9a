"""What the chapter on stochastic samplers claims: exact laws, the SDE limit, forgetting."""

import itertools
import math

import pytest
import torch

from fromnoise import grids, samplers
from fromnoise.distributions import Gaussian, laboratory
from fromnoise.fields import ExactField, Field
from fromnoise.grids import Grid
from fromnoise.metrics import wasserstein2
from fromnoise.paths import GaussianPath
from fromnoise.samplers.ancestral import step_variances
from fromnoise.schedules import VP, CondOT
from fromnoise.variational import posterior

F64 = torch.float64
B = 0.4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal_field(schedule, b=B):
    law = Gaussian(torch.zeros(1, dtype=F64), torch.tensor([[b]], dtype=F64))
    return ExactField(law, GaussianPath(schedule))


def spread(p, b=B):
    return p.alpha**2 * b + p.sigma**2


def affine(sampler, field, grid, **options):
    """Slope and standard deviation of a sampler that is affine in x and its noise."""
    n = 100_000
    zero = torch.zeros(n, 1, dtype=F64)
    y = sampler(field, zero, grid, generator=seeded(1), **options)
    z = sampler(field, zero + 1.0, grid, generator=seeded(1), **options)
    return (z - y).mean().item(), y.var().item(), n


@pytest.mark.parametrize("kind", ["small", "large"])
@pytest.mark.parametrize("schedule", [VP(), CondOT()], ids=lambda s: s.name)
def test_ancestral_law_on_a_gaussian_is_the_recursion(schedule, kind):
    """Slope to rounding; variance within 5 standard errors."""
    grid = grids.uniform(schedule, 6, start=0.1, end=0.9)
    slope, v = 1.0, 0.0
    for p, q in itertools.pairwise(grid.points):
        share = (p.alpha * q.sigma / (q.alpha * p.sigma)) ** 2
        gain = share * q.alpha / p.alpha + (1 - share) * q.alpha * p.alpha * B / spread(p)
        slope, v = gain * slope, gain**2 * v + step_variances(p, q)[kind == "large"]
    found, variance, n = affine(samplers.ancestral, normal_field(schedule), grid, variance=kind)
    assert found == pytest.approx(slope, rel=1e-10)
    assert abs(variance / v - 1) < 5 * math.sqrt(2 / n)


def test_small_variance_is_the_forward_posterior_s():
    grid = Grid.of(VP(), [0.3, 0.7])
    x = torch.zeros(1, 1, dtype=F64)
    _, variance = posterior(x, x, 0.3, 0.7, VP())
    assert step_variances(grid[0], grid[1])[0] == pytest.approx(float(variance), rel=1e-12)


def test_large_variance_is_beta_and_exact_for_standard_normal_data():
    p, q = Grid.of(VP(), [0.3, 0.7]).points
    assert step_variances(p, q)[1] == pytest.approx(1 - p.alpha**2 / q.alpha**2, rel=1e-12)
    for schedule in (VP(), CondOT()):
        grid = grids.uniform(schedule, 4, start=0.1, end=0.9)
        field = normal_field(schedule, 1.0)
        found, variance, n = affine(samplers.ancestral, field, grid, variance="large")
        v0, v1 = spread(grid[0], 1.0), spread(grid[4], 1.0)
        assert abs((found**2 * v0 + variance) / v1 - 1) < 5 * math.sqrt(2 / n)


def test_ddpm_with_many_steps_tends_to_the_sde():
    """Ancestral steps have the exact slope on a Gaussian; their variances err at first order.

    So does Euler-Maruyama's slope.
    """
    schedule, field = VP(), normal_field(VP())
    p, q = Grid.of(schedule, [0.2, 0.9]).points
    exact = p.alpha / q.alpha * spread(q) / spread(p)
    zero, one = (torch.full((1, 1), v, dtype=F64) for v in (0.0, 1.0))
    slopes, variances = [], {"small": [], "large": []}
    for n in (200, 400):
        grid = grids.uniform(schedule, n, start=0.2, end=0.9)
        for kind, errors in variances.items():
            ends = [
                samplers.ancestral(field, x, grid, variance=kind, generator=seeded(2))
                for x in (zero, one)
            ]
            assert (ends[1] - ends[0]).item() == pytest.approx(exact, rel=1e-9)
            v = spread(grid[0])
            for i in range(n):
                r, s = grid[i], grid[i + 1]
                gain = r.alpha / s.alpha * spread(s) / spread(r)
                v = gain**2 * v + step_variances(r, s)[kind == "large"]
            errors.append(abs(v / spread(q) - 1))
        ends = [
            samplers.reverse_sde(field, x, grid, generator=seeded(2), denoise=False)
            for x in (zero, one)
        ]
        slopes.append(abs((ends[1] - ends[0]).item() - exact))
    for errors in (slopes, *variances.values()):
        assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.15)


def test_the_exponential_step_is_exact_for_constant_data():
    """One point: one step from noise gives the exact law of the cleaner time."""
    law = Gaussian(torch.tensor([0.8], dtype=F64), torch.tensor([[1e-24]], dtype=F64))
    field, n = ExactField(law, GaussianPath(VP())), 100_000
    grid = Grid.of(VP(), [0.1, 0.8])
    p, q = grid.points
    x = p.alpha * 0.8 + p.sigma * torch.randn(n, 1, generator=seeded(3), dtype=F64)
    for sampler, options in (
        (samplers.ancestral, {}), (samplers.dpmpp, {"stochastic": True, "order": 1}),
    ):  # fmt: skip
        y = sampler(field, x, grid, generator=seeded(4), **options)
        assert abs(y.mean().item() - q.alpha * 0.8) < 5 * q.sigma / math.sqrt(n)
        assert abs(y.var().item() / q.sigma**2 - 1) < 5 * math.sqrt(2 / n)


def test_ancestral_is_the_sde_solver_of_order_one():
    field = ExactField(laboratory(), GaussianPath(VP()))
    x = torch.randn(20, 2, generator=seeded(5), dtype=F64)
    grid = grids.uniform(VP(), 5)
    a = samplers.ancestral(field, x, grid, generator=seeded(6))
    b = samplers.dpmpp(field, x, grid, stochastic=True, order=1, generator=seeded(6))
    c = samplers.euler_ancestral(field, x, Grid.of(VP(), grid.times), generator=seeded(6))
    assert (a - b).abs().max() < 1e-12 and (a - c).abs().max() < 1e-10


def test_reversed_process_forgets_the_start_and_the_flow_does_not():
    schedule, field = VP(), normal_field(VP())
    p, q = Grid.of(schedule, [0.2, 0.9]).points
    fine = grids.uniform(schedule, 3000, start=0.2, end=0.9)
    zero, one = (torch.full((1, 1), v, dtype=F64) for v in (0.0, 1.0))
    flow = samplers.ddim(field, one, fine) - samplers.ddim(field, zero, fine)
    assert flow.item() == pytest.approx(math.sqrt(spread(q) / spread(p)), rel=2e-3)
    sde = samplers.reverse_sde(
        field, one, fine, generator=seeded(7), denoise=False
    ) - samplers.reverse_sde(field, zero, fine, generator=seeded(7), denoise=False)
    exact = p.alpha / q.alpha * spread(q) / spread(p)
    assert sde.item() == pytest.approx(exact, rel=2e-2)
    assert sde.item() < 0.1 * flow.item()


class Wrong(Field):
    """A noise prediction that errs."""

    schedule = VP()

    def noise(self, x, t):
        exact = ExactField(laboratory(), GaussianPath(VP()))
        return exact.noise(x, t) + 0.35 * torch.sin(2.0 * x.flip(-1))

    def denoise(self, x, t):
        return (x - self.schedule.sigma(t) * self.noise(x, t)) / self.schedule.alpha(t)


def test_with_a_wrong_field_noise_is_nearer_to_the_law():
    """Distances 0.85 and 0.55 in the chapter; the estimates spread by 0.04."""
    x = torch.randn(800, 2, generator=seeded(8), dtype=F64)
    data = laboratory().sample(800, seeded(9))
    grid = grids.uniform(VP(), 60)
    flow = wasserstein2(samplers.ddim(Wrong(), x, grid), data)
    noisy = wasserstein2(samplers.ancestral(Wrong(), x, grid, generator=seeded(10)), data)
    assert noisy < 0.85 * flow


@pytest.mark.parametrize("g", [0.0, 0.5, None])
def test_every_g_has_the_marginals(g):
    """Mean and variance on a Gaussian, 5 standard errors and the step's first order."""
    schedule, n = VP(), 40_000
    field, grid = normal_field(schedule), grids.uniform(schedule, 200, start=0.2, end=0.9)
    x = math.sqrt(spread(grid[0])) * torch.randn(n, 1, generator=seeded(11), dtype=F64)
    y = samplers.reverse_sde(field, x, grid, g=g, generator=seeded(12), denoise=False)
    v = spread(grid[200])
    assert abs(y.var().item() / v - 1) < 5 * math.sqrt(2 / n) + 0.03
    assert abs(y.mean().item()) < 5 * math.sqrt(v / n)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_and_euler_maruyama_with_the_same_noise_differ_by_the_step(variance):
    """`prp-ancestral-limit`: root mean square proportional to the step, within a fifth."""
    field, gaps = normal_field(VP()), []
    x = torch.randn(4000, 1, generator=seeded(30), dtype=F64)
    for n in (200, 400):
        grid = grids.uniform(VP(), n, start=0.2, end=0.9)
        a = samplers.ancestral(field, x, grid, variance=variance, generator=seeded(31))
        b = samplers.reverse_sde(field, x, grid, generator=seeded(31))
        gaps.append((a - b).square().mean().sqrt().item())
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(1.0, abs=0.2)


def test_first_step_from_pure_noise_has_a_quarter_too_much_variance():
    """`rem-first-step`: (1/2 - delta) x + xi on standard normal data, 5 standard errors."""
    n, delta = 100_000, 1e-3
    x = torch.randn(n, 1, generator=seeded(32), dtype=F64)
    grid = Grid.of(CondOT(), [0.0, delta])
    field = normal_field(CondOT(), 1.0)
    y = samplers.reverse_sde(field, x, grid, generator=seeded(33))
    assert abs(y.var().item() / ((0.5 - delta) ** 2 + 1.0) - 1) < 5 * math.sqrt(2 / n)
    z = samplers.ancestral(field, x, grid, generator=seeded(33))
    q = grid[1]
    # alpha_q D + sigma_q xi with D = E X_1 = 0
    assert abs(z.var().item() / q.sigma**2 - 1) < 5 * math.sqrt(2 / n)


def test_first_step_from_no_signal_is_finite():
    field = ExactField(laboratory(), GaussianPath(CondOT()))
    x = torch.randn(50, 2, generator=seeded(13), dtype=F64)
    for sampler in (samplers.reverse_sde, samplers.predictor_corrector, samplers.ancestral):
        y = sampler(field, x, grids.uniform(CondOT(), 20), generator=seeded(14))
        assert torch.isfinite(y).all() and y.abs().max() < 10


def test_churn_and_restart_keep_the_law():
    """Mean and covariance from exact draws at the first level, 5 standard errors of each entry."""
    schedule, n, law = VP(), 20_000, laboratory()
    field = ExactField(law, GaussianPath(schedule))
    grid = grids.karras(schedule, 40, start=0.1, end=0.998)
    first = grid[0]
    x = first.alpha * law.sample(n, seeded(22))
    x = x + first.sigma * torch.randn(n, 2, generator=seeded(15), dtype=F64)
    for y in (
        samplers.edm_heun(field, x, grid, churn=10.0, churn_to=2.0, generator=seeded(18)),
        samplers.restart(field, x, grid, low=0.3, high=2.0, rounds=2, generator=seeded(19)),
    ):
        assert ((y.mean(0) - law.mean).abs() < 5 * law.cov.diagonal().sqrt() / n**0.5).all()
        # products of two coordinates spread by at most sqrt(3) times the two deviations
        scale = law.cov.diagonal().sqrt()
        allowed = 5 * math.sqrt(3 / n) * scale[:, None] * scale
        assert ((torch.cov(y.T) - law.cov).abs() < allowed + 0.01).all()


def test_bad_cases():
    field = ExactField(laboratory(), GaussianPath(VP()))
    x = torch.zeros(3, 2, dtype=F64)
    with pytest.raises(ValueError, match="corrections"):
        samplers.predictor_corrector(field, x, [0.1, 0.5], corrections=-1)
    plain = samplers.predictor_corrector(
        field, x, [0.1, 0.5, 0.9], corrections=0, generator=seeded(20)
    )
    sde = samplers.reverse_sde(field, x, [0.1, 0.5, 0.9], generator=seeded(20))
    assert torch.equal(plain, sde)
    with pytest.raises(ValueError, match="levels"):
        samplers.restart(field, x, [0.1, 0.5, 0.9], low=100.0, high=200.0)
    one = samplers.ancestral(field, x, [0.0, 1.0], generator=seeded(21))
    assert torch.allclose(one, field.denoise(x, 0.0))
