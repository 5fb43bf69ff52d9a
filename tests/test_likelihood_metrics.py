"""Likelihood of flows and distances between laws, against closed forms and peers."""

import math

import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats

from fromnoise import likelihood, metrics
from fromnoise.couplings import independent
from fromnoise.distributions import Gaussian, laboratory
from fromnoise.fields import ExactField
from fromnoise.likelihood import hutchinson_divergence, log_likelihood, rademacher_like
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT, Cosine

F64 = torch.float64
LAB = laboratory()


def spd(d, seed):
    a = torch.randn(d, d, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return a @ a.T + 0.1 * torch.eye(d, dtype=F64)


# -- divergence and likelihood ----------------------------------------------------------------


def test_divergence_of_a_linear_field_is_its_trace():
    a = spd(5, 0) + torch.triu(torch.ones(5, 5, dtype=F64))
    x = torch.randn(7, 5, dtype=F64)
    found = likelihood.divergence(lambda y, t: y @ a.T, x, torch.tensor(0.0))
    assert torch.allclose(found, a.trace().expand(7))


def test_divergence_of_images_equals_jacobians():
    x = torch.randn(3, 1, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))

    def velocity(y, t):
        return torch.sin(y) * y.roll(1, -1) + t * y.roll(1, -2)

    t = torch.tensor(0.3, dtype=F64)
    found = likelihood.divergence(velocity, x, t)
    for i in range(3):
        jacobian = torch.func.jacrev(lambda y: velocity(y[None], t)[0])(x[i]).reshape(9, 9)
        assert found[i].item() == pytest.approx(jacobian.trace().item(), abs=1e-12)


def test_hutchinson_over_all_signs_is_exact():
    """In three dimensions the eight sign vectors average to the trace, off-diagonals cancelling."""
    a = torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 3)
    x = torch.zeros(2, 3, dtype=F64)
    probes = signs[:, None, :].expand(8, 2, 3)
    found = hutchinson_divergence(lambda y, t: y @ a.T, x, torch.tensor(0.0), probes)
    assert torch.allclose(found, a.trace().expand(2), atol=1e-14)


def test_hutchinson_variance_for_signs(generator):
    a = torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    n = 20_000
    x = torch.zeros(n, 3, dtype=F64)
    found = hutchinson_divergence(
        lambda y, t: y @ a.T, x, torch.tensor(0.0), rademacher_like(x, generator)
    )
    symmetric = 0.5 * (a + a.T)
    variance = 2 * (symmetric.square().sum() - symmetric.diagonal().square().sum()).item()
    # bounds of five standard errors: false alarm 6e-7 for the mean; the variance's own error is
    # at most sqrt(kurtosis / n) ~ 2 %
    assert abs(found.mean().item() - a.trace().item()) < 5 * math.sqrt(variance / n)
    assert found.var().item() == pytest.approx(variance, rel=0.1)
    with pytest.raises(ValueError, match="probes has shape"):
        hutchinson_divergence(lambda y, t: y, x, torch.tensor(0.0), torch.ones(2, 3))


@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=lambda s: s.name)
def test_log_likelihood_of_the_laboratory(schedule, generator):
    x = LAB.sample(8, generator)
    field = ExactField(LAB, GaussianPath(schedule))
    errors = []
    for n in (50, 100):
        times = torch.linspace(1, 0, n + 1, dtype=F64)
        errors.append((log_likelihood(field, x, times) - LAB.log_prob(x)).abs().max().item())
    # RK4 at h = 1/100 on a field whose fifth derivatives reach ~1e4; halving h gains about 2^4
    assert errors[1] < 1e-4 and errors[1] < errors[0] / 6


def test_log_likelihood_with_probes_is_unbiased(generator):
    x = LAB.sample(1, generator)
    field = ExactField(LAB, GaussianPath(CondOT()))
    times = torch.linspace(1, 0, 21, dtype=F64)
    exact = log_likelihood(field, x, times).item()
    many = log_likelihood(
        field, x.expand(1000, 2), times, divergence="hutchinson", generator=generator
    )
    error = many.std().item() / math.sqrt(1000)
    assert abs(many.mean().item() - exact) < 5 * error  # false alarm 6e-7
    two = log_likelihood(
        field, x.expand(500, 2), times, divergence="hutchinson", generator=generator, probes=4
    )
    assert two.std().item() < 0.7 * many.std().item()


def test_log_likelihood_refuses_bad_arguments():
    field = ExactField(LAB, GaussianPath(CondOT()))
    x = torch.zeros(2, 2, dtype=F64)
    with pytest.raises(ValueError, match="times must decrease"):
        log_likelihood(field, x, torch.linspace(0, 1, 3))
    with pytest.raises(ValueError, match="divergence must be"):
        log_likelihood(field, x, torch.linspace(1, 0, 3), divergence="approximate")


def test_independent_coupling(generator):
    data = torch.ones(20_000, 1, 2, 2)
    noise, same = independent(data, generator)
    assert same is data and noise.shape == data.shape
    assert abs(noise.mean().item()) < 5 / math.sqrt(80_000)


# -- metrics --------------------------------------------------------------------------------------


@given(d=st.integers(1, 5), seed=st.integers(0, 1000))
def test_frechet_distance_against_scipy_and_symmetry(d, seed):
    a, b = spd(d, seed), spd(d, seed + 1)
    m = torch.randn(2, d, dtype=F64, generator=torch.Generator().manual_seed(seed))
    root = linalg.sqrtm(a.numpy())
    middle = linalg.sqrtm(root @ b.numpy() @ root).real
    square = ((m[0] - m[1]) ** 2).sum().item() + a.trace().item() + b.trace().item()
    expected = math.sqrt(max(square - 2 * middle.trace(), 0))
    assert metrics.frechet_distance(m[0], a, m[1], b) == pytest.approx(expected, abs=1e-6)
    assert metrics.frechet_distance(m[1], b, m[0], a) == pytest.approx(expected, abs=1e-6)
    # the distance to itself: rounding of the square, 1e-15, becomes 1e-7 under the root
    assert metrics.frechet_distance(m[0], a, m[0], a) < 1e-6


def test_frechet_distance_equals_pots():
    a, b, zero = spd(3, 0), spd(3, 1), torch.zeros(3, dtype=F64)
    one = torch.ones(3, dtype=F64)
    expected = float(ot.gaussian.bures_wasserstein_distance(zero, one, a, b))
    assert metrics.frechet_distance(zero, a, one, b) == pytest.approx(expected, rel=1e-9)


def test_wasserstein2_on_known_pairs():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 4.0, 0.0])
    assert metrics.wasserstein2(x, x + shift) == pytest.approx(5.0, rel=1e-6)
    assert metrics.wasserstein2(x, x) < 1e-9
    # on the line the optimal coupling sorts
    y = torch.randn(50, 1, generator=torch.Generator().manual_seed(1))
    sorted_cost = (x[:, :1].sort(0).values - y.sort(0).values).square().mean().sqrt().item()
    assert metrics.wasserstein2(x[:, :1], y) == pytest.approx(sorted_cost, rel=1e-6)
    # unequal sizes: one point against two at distance 1 and 2
    line = torch.tensor([[1.0], [-2.0]])
    assert metrics.wasserstein2(torch.zeros(1, 1), line) == pytest.approx(math.sqrt(2.5))


def test_energy_distance_against_scipy_and_a_loop():
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    y = torch.randn(30, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    # SciPy's is the root of the biased statistic on the line
    theirs = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert metrics.energy_distance(x, y, unbiased=False) == pytest.approx(theirs, rel=1e-5)
    loop_x = sum(abs(a - b) for a in x for b in x).item() / (40 * 39)
    loop_y = sum(abs(a - b) for a in y for b in y).item() / (30 * 29)
    cross = sum(abs(a - b) for a in x for b in y).item() / (40 * 30)
    expected = 2 * cross - loop_x - loop_y
    assert metrics.energy_distance(x, y) == pytest.approx(expected, abs=1e-5)


def test_mmd_against_its_closed_form(generator):
    """N(0, 1) and N(m, 1) with a Gaussian kernel of bandwidth b, all integrals being Gaussian."""
    m, b, n = 1.0, 0.8, 1500
    x = torch.randn(n, 1, generator=generator, dtype=F64)
    y = torch.randn(n, 1, generator=generator, dtype=F64) + m
    scale = b / math.sqrt(b**2 + 2)
    expected = 2 * scale * (1 - math.exp(-(m**2) / (2 * (b**2 + 2))))
    # the kernel lies in [0, 1]: Hoeffding for U-statistics gives P(|error| > 0.15) < 1e-6
    found = metrics.mmd(x, y, bandwidth=b)
    assert abs(found - expected) < 0.15
    assert abs(found - expected) < 0.03  # what this seed has, some standard errors (~0.012)
    assert metrics.mmd(x, y, bandwidth=b, unbiased=False) > found


def test_unbiased_estimates_average_to_zero(generator):
    energies, discrepancies = [], []
    for _ in range(300):
        x = torch.randn(12, 2, generator=generator)
        y = torch.randn(12, 2, generator=generator)
        energies.append(metrics.energy_distance(x, y))
        discrepancies.append(metrics.mmd(x, y, bandwidth=1.0))
    for values in (torch.tensor(energies), torch.tensor(discrepancies)):
        z = values.mean() / (values.std() / math.sqrt(300))
        assert z.abs() < 5  # false alarm 6e-7
        assert values.min() < 0


def test_gaussian_kl_against_quadrature():
    a = Gaussian(torch.tensor([0.3], dtype=F64), torch.tensor([[0.5]], dtype=F64))
    b = Gaussian(torch.tensor([-0.2], dtype=F64), torch.tensor([[1.5]], dtype=F64))
    x = torch.linspace(-10, 10, 20_001, dtype=F64)[:, None]
    log_a, log_b = a.log_prob(x), b.log_prob(x)
    expected = torch.trapezoid(log_a.exp() * (log_a - log_b), x[:, 0]).item()
    found = metrics.gaussian_kl(a.mean, a.cov, b.mean, b.cov)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.wasserstein2(torch.zeros(3, 2), torch.zeros(3, 1)), "one dimension"),
        (lambda: metrics.energy_distance(torch.zeros(1, 2), torch.zeros(3, 2)), "at least 2"),
        (lambda: metrics.mmd(torch.zeros(3, 2), torch.zeros(3, 2), bandwidth=0.0), "bandwidth"),
        (
            lambda: metrics.frechet_distance(
                torch.zeros(2), torch.eye(2), torch.zeros(3), torch.eye(3)
            ),
            "shapes",
        ),
    ],
)
def test_bad_clouds_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- straightness and transport cost --------------------------------------------------------------


def test_straightness_of_lines_is_zero_and_of_an_arc_is_known():
    times = torch.linspace(0, 1, 2001, dtype=torch.float64)
    lines = times[:, None, None] * torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.float64)
    assert metrics.straightness(lines, times) < 1e-20
    angle = math.pi / 2 * times
    arc = torch.stack([angle.cos(), angle.sin()], 1)[:, None]
    # E|Z'|² - |Z_1 - Z_0|² = (pi / 2)² - 2; a broken line of 2000 pieces is off by its square
    assert metrics.straightness(arc, times) == pytest.approx(math.pi**2 / 4 - 2, abs=1e-5)
    with pytest.raises(ValueError, match="not 0 to 1"):
        metrics.straightness(arc, times / 2)
    with pytest.raises(ValueError, match="2001 states and 2000 times"):
        metrics.straightness(arc, times[1:])


def test_transport_cost():
    x = torch.zeros(2, 2)
    y = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert metrics.transport_cost(x, y) == pytest.approx((25 + 4) / 2)
    assert metrics.transport_cost(x, y, power=1) == pytest.approx((5 + 2) / 2)
    with pytest.raises(ValueError, match="pass pairs"):
        metrics.transport_cost(x, y[:1])
    with pytest.raises(ValueError, match="power=0"):
        metrics.transport_cost(x, y, power=0)
