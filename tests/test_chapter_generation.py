"""What the chapter "Generation is sampling" claims, on cases with a known answer.

Stochastic checks compare a mean with its exact value in units of its standard error. By the
central limit theorem such a number exceeds 6 with probability 2e-9 (1e-7 for the few means of only
60 values, by Student's law), so that a false alarm comes about once in a million seeds; the seeds
are fixed besides.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from fromnoise import data, metrics
from fromnoise.distributions import Empirical, Gaussian, GaussianMixture, laboratory
from fromnoise.fields import ExactField
from fromnoise.paths import GaussianPath
from fromnoise.schedules import CondOT

F64 = torch.float64
Z_MAX = 6.0
TIMES = (0.0, 0.1, 0.5, 0.9, 0.99)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noised(law, n: int, t: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs (X_1, X_t) on the path alpha = t, sigma = 1 - t."""
    clean = law.sample(n, generator)
    return clean, t * clean + (1 - t) * torch.randn(clean.shape, generator=generator, dtype=F64)


def z_score(samples: Tensor, exact: float | Tensor) -> Tensor:
    """(mean - exact) / standard error along the first axis."""
    return (samples.mean(0) - exact) / (samples.std(0) / len(samples) ** 0.5)


# -- conditional expectation ----------------------------------------------------------------------


def test_conditional_expectation_is_the_projection():
    """`thm-projection` for a noisy sign: loss = irreducible error + distance to tanh."""
    grid = torch.linspace(-12, 12, 24001, dtype=F64)
    density = {z: torch.exp(-0.5 * (grid - z) ** 2) / math.sqrt(2 * math.pi) for z in (-1, 1)}

    def expected(value):
        # The trapezoidal rule converges faster than any power for smooth integrands; sign(x)^2
        # is constant and sign(x) odd about a grid point, so 1e-9 holds for it as well.
        return sum(0.5 * (value(z) * density[z]).sum() for z in (-1, 1)).item() * 24 / 24000

    best = grid.tanh()
    floor = expected(lambda z: (z - best) ** 2)
    losses = {}
    for name, f in {"0": 0 * grid, "sign": grid.sign(), "half": grid / 2}.items():
        losses[name] = expected(lambda z, f=f: (z - f) ** 2)
        excess = expected(lambda z, f=f: (best - f) ** 2)
        assert losses[name] == pytest.approx(floor + excess, abs=1e-9)
    assert losses["half"] == pytest.approx(0.5, abs=1e-9)  # 1 - Cov^2 / Var
    four_tails = 2 * math.erfc(1 / math.sqrt(2))  # the sign is wrong where noise exceeds 1
    assert losses["sign"] == pytest.approx(four_tails, abs=1e-3)  # a jump costs the rule O(step)
    assert floor < losses["half"] < losses["sign"]


def test_pythagoras_on_the_laboratory():
    """The cross term E (X_1 - D).(D - f) vanishes, so the losses differ by E|D - f|^2."""
    law, t = laboratory(), 0.5
    clean, x = noised(law, 100_000, t, seeded(0))
    best = law.denoise(x, t, 1 - t)
    for f in (x / t, law.mean.expand_as(x), best.roll(1, dims=1)):
        cross = ((clean - best) * (best - f)).sum(1)
        assert z_score(cross, 0.0).abs() < Z_MAX
    loss = ((clean - best) ** 2).sum(1)
    floor = law.conditional_covariance(x, t, 1 - t).diagonal(dim1=1, dim2=2).sum(1)
    assert z_score(loss - floor, 0.0).abs() < Z_MAX


# -- the laboratory -------------------------------------------------------------------------------


@pytest.mark.parametrize("t", TIMES)
def test_score_is_the_gradient_of_the_log_density(t):
    """`prp-mixture-score` against autograd of `prp-mixture-marginal`, to round-off."""
    law = laboratory()
    _, x = noised(law, 500, t, seeded(1))
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(law.marginal_log_prob(x, t, 1 - t).sum(), x)
    score = law.marginal_score(x.detach(), t, 1 - t)
    torch.testing.assert_close(score, gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("t", TIMES)
def test_denoiser_noise_and_score_are_one_function(t):
    """alpha D = x + sigma^2 s and x = alpha D + sigma eps (`prp-mixture-denoiser`)."""
    law = laboratory()
    _, x = noised(law, 500, t, seeded(2))
    alpha, sigma = t, 1 - t
    denoised, score = law.denoise(x, alpha, sigma), law.marginal_score(x, alpha, sigma)
    noise = law.predict_noise(x, alpha, sigma)
    torch.testing.assert_close(alpha * denoised, x + sigma**2 * score, rtol=0, atol=1e-10)
    torch.testing.assert_close(alpha * denoised + sigma * noise, x, rtol=0, atol=1e-10)


def test_mixture_density_against_quadrature():
    """p_t integrates to one and has the mean and covariance of alpha X_1 + sigma eps."""
    law, t = laboratory(), 0.6
    side = torch.linspace(-8, 8, 401, dtype=F64)  # smooth and tiny at the border: exact to 1e-9
    x = torch.cartesian_prod(side, side)
    mass = law.marginal_log_prob(x, t, 1 - t).exp() * (16 / 400) ** 2
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-9)
    mean = mass @ x
    second = torch.einsum("n,ni,nj->ij", mass, x - mean, x - mean)
    torch.testing.assert_close(mean, t * law.mean, rtol=0, atol=1e-9)
    exact = t**2 * law.cov + (1 - t) ** 2 * torch.eye(2, dtype=F64)
    torch.testing.assert_close(second, exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("t", (0.25, 0.5, 0.75))
def test_denoiser_satisfies_the_definition_of_conditional_expectation(t):
    """E h(X)(X_1 - D(X)) = 0 for test functions h: Monte Carlo that knows no algebra."""
    law = laboratory()
    clean, x = noised(law, 100_000, t, seeded(3))
    residual = clean - law.denoise(x, t, 1 - t)
    tests = torch.stack(
        [
            torch.ones(len(x), dtype=F64),
            x[:, 0],
            x[:, 1],
            x.prod(1),
            torch.sin(3 * x[:, 0]),
            (x[:, 1] > 0.5).to(F64),
            torch.exp(-(x**2).sum(1)),
            torch.cos(x[:, 0] - 2 * x[:, 1]),
        ]
    )
    terms = (tests[:, :, None] * residual).permute(1, 0, 2)
    assert z_score(terms, 0.0).abs().max() < Z_MAX
    if t >= 0.5:  # the test sees an error of one per cent
        wrong = tests[:, :, None] * (clean - 1.01 * law.denoise(x, t, 1 - t))
        assert z_score(wrong.permute(1, 0, 2), 0.0).abs().max() > Z_MAX


def test_velocity_is_the_average_velocity_of_the_particles():
    """`def-laboratory-velocity`: E h(X_t)(X_1 - eps - u_t(X_t)) = 0, and the field at both ends."""
    law = laboratory()
    field = ExactField(law, GaussianPath(CondOT()))
    for t in (0.25, 0.5, 0.75):
        generator = seeded(20)
        clean = law.sample(100_000, generator)
        noise = torch.randn(clean.shape, generator=generator, dtype=F64)
        x = t * clean + (1 - t) * noise
        residual = clean - noise - field.velocity(x, t)
        for h in (torch.ones(len(x), dtype=F64), x[:, 0], x[:, 1], torch.sin(3 * x[:, 0])):
            assert z_score(h[:, None] * residual, 0.0).abs().max() < Z_MAX
    x = torch.randn(20, 2, generator=seeded(21), dtype=F64)
    torch.testing.assert_close(field.velocity(x, 0.0), law.mean - x, rtol=0, atol=1e-12)
    torch.testing.assert_close(field.velocity(x, 1.0), x, rtol=0, atol=1e-12)


def test_denoiser_against_importance_sampling():
    """D(x) as the quotient of `lem-bayes`, both integrals by samples of p_1 at fixed x."""
    law, t = laboratory(), 0.5
    clean = law.sample(200_000, seeded(4))
    for point in ([0.0, 0.0], [-0.5, 0.3], [0.8, -0.7]):
        x = torch.tensor(point, dtype=F64)
        weight = torch.exp(-((x - t * clean) ** 2).sum(1) / (2 * (1 - t) ** 2))
        exact = law.denoise(x[None], t, 1 - t)[0]
        # numerator - D * denominator has mean zero exactly, which a quotient has not
        assert z_score(weight[:, None] * (clean - exact), 0.0).abs().max() < Z_MAX


def test_jacobian_of_the_denoiser_is_a_covariance():
    """`exr-denoiser-jacobian`: grad D = alpha / sigma^2 Cov[X_1 | X = x]."""
    law, alpha, sigma = laboratory(), 0.6, 0.4
    x = torch.randn(5, 2, generator=seeded(5), dtype=F64)
    jacobian = torch.stack(
        [torch.func.jacrev(lambda y: law.denoise(y[None], alpha, sigma)[0])(point) for point in x]
    )
    covariance = alpha / sigma**2 * law.conditional_covariance(x, alpha, sigma)
    torch.testing.assert_close(jacobian, covariance, rtol=0, atol=1e-9)


# -- distances ------------------------------------------------------------------------------------

MEAN_A = torch.tensor([-2.0, 0.0], dtype=F64)
COV_A = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=F64)
MEAN_B = torch.tensor([2.0, 0.5], dtype=F64)
COV_B = torch.tensor([[0.3, -0.3], [-0.3, 1.2]], dtype=F64)


def root(matrix: Tensor) -> Tensor:
    values, axes = torch.linalg.eigh(matrix)
    return axes * values.clamp(min=0).sqrt() @ axes.mT


def test_kl_of_gaussians_and_the_chain_rule():
    """`prp-kl-gaussians` and `prp-kl-chain-rule` on random Gaussians, KL >= 0 and 0 if equal."""
    generator = seeded(6)
    for _ in range(5):
        a, b = torch.randn(2, 2, generator=generator, dtype=F64)
        m, n = torch.randn(2, 2, 2, generator=generator, dtype=F64)
        p, q = m @ m.T + 0.1 * torch.eye(2), n @ n.T + 0.1 * torch.eye(2)
        kl = metrics.gaussian_kl(a, p, b, q)
        inverse = torch.linalg.inv(q)
        formula = 0.5 * (
            torch.trace(inverse @ p) - 2 + (a - b) @ inverse @ (a - b) + q.logdet() - p.logdet()
        )
        assert kl == pytest.approx(formula.item(), rel=1e-9)
        assert kl > 0 and metrics.gaussian_kl(a, p, a, p) == pytest.approx(0, abs=1e-9)
        # first coordinate, then the second given the first: slopes and leftover variances
        first = metrics.gaussian_kl(a[:1], p[:1, :1], b[:1], q[:1, :1])
        slope_p, slope_q = p[1, 0] / p[0, 0], q[1, 0] / q[0, 0]
        left_p, left_q = p[1, 1] - slope_p * p[0, 1], q[1, 1] - slope_q * q[0, 1]
        # mean difference of the conditionals at x = a_0 + z, z ~ N(0, p_00), squared and averaged
        gap = (a[1] - b[1] - slope_q * (a[0] - b[0])) ** 2 + (slope_p - slope_q) ** 2 * p[0, 0]
        second = 0.5 * ((left_p + gap) / left_q - 1 + torch.log(left_q / left_p))
        assert kl == pytest.approx(first + second.item(), rel=1e-9)


def test_frechet_distance_and_the_optimal_map():
    """`prp-frechet-gaussians`: T pushes A to B at the cost of the formula; no coupling beats it."""
    half = root(COV_A)
    transport = half.inverse() @ root(half @ COV_B @ half) @ half.inverse()
    torch.testing.assert_close(transport @ COV_A @ transport, COV_B, rtol=0, atol=1e-12)
    square = metrics.frechet_distance(MEAN_A, COV_A, MEAN_B, COV_B) ** 2
    cost = ((MEAN_A - MEAN_B) ** 2).sum() + torch.trace(COV_A + COV_B - 2 * COV_A @ transport)
    assert square == pytest.approx(cost.item(), rel=1e-12)
    for seed in range(20):  # C = A^1/2 K B^1/2 with any orthogonal K is a coupling
        k, _ = torch.linalg.qr(torch.randn(2, 2, generator=seeded(seed), dtype=F64))
        cross = half @ k @ root(COV_B)
        other = ((MEAN_A - MEAN_B) ** 2).sum() + torch.trace(COV_A + COV_B - 2 * cross)
        assert cost <= other + 1e-12


def test_frechet_distance_of_singular_gaussians():
    """The proposition needs no invertibility: a line segment's law against a point mass."""
    flat = torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=F64)
    other = torch.tensor([[0.0, 0.0], [0.0, 9.0]], dtype=F64)
    zero = torch.zeros(2, dtype=F64)
    assert metrics.frechet_distance(zero, flat, zero, 0 * flat) == pytest.approx(2.0, abs=1e-9)
    assert metrics.frechet_distance(zero, flat, zero, other) == pytest.approx(13**0.5, abs=1e-9)


def kappa(m: Tensor, s: Tensor, h: float) -> float:
    shifted = s + h**2 * torch.eye(len(m), dtype=F64)
    value = torch.exp(-0.5 * m @ torch.linalg.solve(shifted, m)) / shifted.det().sqrt()
    return value.item() * h ** len(m)


def mean_distance(m: float, v: float) -> float:
    tail = 0.5 * math.erfc(m / math.sqrt(2 * v))
    return math.sqrt(2 * v / math.pi) * math.exp(-(m**2) / (2 * v)) + m * (1 - 2 * tail)


@pytest.fixture(scope="module")
def estimates() -> dict[str, Tensor]:
    """Sixty estimates of each distance from 150 points of each law."""
    n, generator = 150, seeded(7)
    line_a = Gaussian(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))
    line_b = Gaussian(torch.full((1,), 0.5, dtype=F64), torch.full((1, 1), 0.25, dtype=F64))
    plane_a, plane_b = Gaussian(MEAN_A, COV_A), Gaussian(MEAN_B, COV_B)
    rows = []
    for _ in range(60):
        u, v = line_a.sample(n, generator), line_b.sample(n, generator)
        x, y = plane_a.sample(n, generator), plane_b.sample(n, generator)
        same = plane_a.sample(n, generator)
        rows.append(
            [
                metrics.energy_distance(u, v),
                metrics.energy_distance(u, v, unbiased=False),
                metrics.mmd(x, y, 1.0),
                metrics.mmd(x, y, 1.0, unbiased=False),
                metrics.wasserstein2(x, y) ** 2,
                metrics.wasserstein2(x, same) ** 2,
                metrics.energy_distance(x, same),
                metrics.mmd(x, same, 1.0),
            ]
        )
    names = ["energy", "energy+", "mmd", "mmd+", "w2", "w2-same", "energy-same", "mmd-same"]
    return dict(zip(names, torch.tensor(rows, dtype=F64).T, strict=True))


ENERGY = 2 * mean_distance(-0.5, 1.25) - 2 / math.sqrt(math.pi) * 1.5
MMD = kappa(0 * MEAN_A, 2 * COV_A, 1.0) + kappa(0 * MEAN_A, 2 * COV_B, 1.0)
MMD -= 2 * kappa(MEAN_A - MEAN_B, COV_A + COV_B, 1.0)


def test_unbiased_estimates_hit_the_closed_forms(estimates):
    """`prp-energy-mmd-gaussians`; and zero for two samples of one law."""
    assert z_score(estimates["energy"], ENERGY).abs() < Z_MAX
    assert z_score(estimates["mmd"], MMD).abs() < Z_MAX
    assert z_score(estimates["energy-same"], 0.0).abs() < Z_MAX
    assert z_score(estimates["mmd-same"], 0.0).abs() < Z_MAX
    assert estimates["energy-same"].min() < 0 and estimates["mmd-same"].min() < 0


def test_plug_in_estimates_have_the_predicted_bias(estimates):
    """`prp-plug-in-bias`, claims 1 and 2, on the difference of the two estimators."""
    energy_bias = 2 / math.sqrt(math.pi) * 1.5 / 150
    mmd_bias = (2 - kappa(0 * MEAN_A, 2 * COV_A, 1.0) - kappa(0 * MEAN_A, 2 * COV_B, 1.0)) / 150
    assert z_score(estimates["energy+"] - estimates["energy"], energy_bias).abs() < Z_MAX
    assert z_score(estimates["mmd+"] - estimates["mmd"], mmd_bias).abs() < Z_MAX
    assert (estimates["energy+"] >= 0).all() and (estimates["mmd+"] >= 0).all()


def test_wasserstein_plug_in_is_biased_upwards(estimates):
    """`prp-plug-in-bias`, claim 3: the mean is not below the truth, and positive at distance 0."""
    exact = metrics.frechet_distance(MEAN_A, COV_A, MEAN_B, COV_B) ** 2
    z = z_score(estimates["w2"], exact)
    assert z > -Z_MAX
    assert estimates["w2"].mean() == pytest.approx(exact, rel=0.05)
    assert (estimates["w2-same"] > 0).all()


def test_wasserstein_plug_in_fails_in_high_dimension():
    """The answer to the chapter's question: one law in dimension 50, 400 points each."""
    law = Gaussian(torch.zeros(50, dtype=F64), torch.eye(50, dtype=F64))
    x, y = law.sample(400, seeded(8)), law.sample(400, seeded(9))
    assert 7 < metrics.wasserstein2(x, y) < 9  # independent points are 10 apart
    assert abs(metrics.energy_distance(x, y)) < 0.05


def test_energy_distance_is_twice_the_squared_difference_of_cdfs():
    """`exr-energy-cdf` for the two empirical laws, where both sides are finite sums."""
    x, y = (
        torch.randn(40, generator=seeded(10), dtype=F64),
        2 * torch.rand(30, generator=seeded(19), dtype=F64),
    )
    knots = torch.cat([x, y]).sort().values
    f = (x[:, None] <= knots[:-1]).double().mean(0)
    g = (y[:, None] <= knots[:-1]).double().mean(0)
    exact = 2 * ((f - g) ** 2 * knots.diff()).sum().item()
    assert metrics.energy_distance(x[:, None], y[:, None], unbiased=False) == pytest.approx(exact)


def test_frechet_distance_is_blind_where_energy_is_not():
    """`exr-frechet-blind`: signs and a standard normal have equal means and variances."""
    generator = seeded(11)
    x = torch.randint(0, 2, (1500, 1), generator=generator).to(F64) * 2 - 1
    y = torch.randn(1500, 1, generator=generator, dtype=F64)
    frechet = metrics.frechet_distance(
        x.mean(0), x.T.cov().reshape(1, 1), y.mean(0), y.T.cov().reshape(1, 1)
    )
    assert frechet < 0.15  # mean and standard deviation err by about 0.03 each
    exact = 2 * mean_distance(1.0, 1.0) - 1 - 2 / math.sqrt(math.pi)
    assert exact == pytest.approx(0.2049, abs=1e-4)
    assert metrics.energy_distance(x, y) == pytest.approx(exact, abs=0.03)
    assert metrics.wasserstein2(x, y) ** 2 == pytest.approx(2 - 2 * math.sqrt(2 / math.pi), abs=0.1)


# -- the empirical denoiser -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor]:
    """1,500 training digits, 100 held out, and the labels of all."""
    small = data.small_digits()
    order = torch.randperm(5000, generator=seeded(8))[:1600]
    flat = data.to_unit(small.images[order]).flatten(1).double()
    return flat[:1500], flat[1500:], small.labels[order]


def test_empirical_denoiser_is_the_mixture_formula_without_covariance():
    """`thm-empirical-denoiser` as the limit of `prp-mixture-denoiser` for shrinking components."""
    points = torch.randn(7, 2, generator=seeded(12), dtype=F64)
    covs = 1e-12 * torch.eye(2, dtype=F64).expand(7, 2, 2)
    mixture = GaussianMixture(torch.ones(7, dtype=F64), points, covs)
    x = torch.randn(50, 2, generator=seeded(13), dtype=F64)
    for t in (0.1, 0.5, 0.9):
        for name in ("denoise", "marginal_score", "marginal_log_prob", "posterior_weights"):
            exact = getattr(mixture, name)(x, t, 1 - t)
            found = getattr(Empirical(points), name)(x, t, 1 - t)
            torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


def test_empirical_denoiser_tends_to_the_nearest_point():
    """Claim 2, with its bound, and a tie that tends to the average."""
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]], dtype=F64)
    law, x = Empirical(points), torch.tensor([[0.4, 0.5]], dtype=F64)
    squares = ((x - points) ** 2).sum(1).sort().values
    gamma, diameter = squares[1] - squares[0], 13**0.5
    for sigma in (0.5, 0.2, 0.1):
        bound = 2 * torch.exp(-gamma / (2 * sigma**2)).item()
        assert 1 - law.posterior_weights(x, 1.0, sigma)[0, 0].item() <= bound
        assert law.denoise(x, 1.0, sigma).norm().item() <= bound * diameter
    tie = law.denoise(torch.tensor([[1.0, -1.0]], dtype=F64), 1.0, 0.05)
    torch.testing.assert_close(tie, torch.tensor([[1.0, 0.0]], dtype=F64))
    far = law.denoise(torch.tensor([[1.0, -1.0]], dtype=F64), 1e-6, 1.0)
    torch.testing.assert_close(far[0], points.mean(0), rtol=0, atol=1e-4)


def test_confusion_is_as_rare_as_claim_3_says():
    """Two points at distance 2: the noisy one is nearer the other with chance Phi(-1/sigma)."""
    sigma = 0.6
    points = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=F64)
    x = points[0] + sigma * torch.randn(100_000, 3, generator=seeded(14), dtype=F64)
    wrong = (Empirical(points).posterior_weights(x, 1.0, sigma).argmax(1) == 1).double()
    assert z_score(wrong, 0.5 * math.erfc(1 / sigma / math.sqrt(2))).abs() < Z_MAX


def test_the_optimal_denoiser_of_digits_memorizes(digits):
    """Training loss near zero; fresh digits come back as somebody else's."""
    train, held, _ = digits
    law, generator, t = Empirical(train), seeded(15), 0.7
    clean = torch.cat([train[:50], held[:50]])
    x = t * clean + (1 - t) * torch.randn(clean.shape, generator=generator, dtype=F64)
    loss = ((law.denoise(x, t, 1 - t) - clean) ** 2).sum(1)
    assert (law.posterior_weights(x[:50], t, 1 - t).argmax(1) == torch.arange(50)).all()
    assert loss[:50].max() < 1e-3
    nearest = torch.cdist(held[:50], train).min(1).values ** 2
    sharp = law.posterior_weights(x[50:], t, 1 - t).max(1).values > 1 - 1e-6
    assert sharp.double().mean() > 0.5
    assert (loss[50:][sharp] >= nearest[sharp] - 1e-2).all()  # D is within 1e-6 diam of a datum
    assert loss[50:].mean() == pytest.approx(nearest.mean().item(), rel=0.1)


def test_following_the_empirical_velocity_ends_in_the_training_set(digits):
    """Fifty Euler steps of the velocity alpha' D + sigma' eps of the empirical law."""
    train, _, _ = digits
    law = Empirical(train)
    x = torch.randn(4, 784, generator=seeded(16), dtype=F64)
    times = torch.linspace(0, 1, 41, dtype=F64).tolist()
    for t, s in itertools.pairwise(times):
        denoised = law.denoise(x, t, 1 - t)
        x = s * denoised + (1 - s) * (x - t * denoised) / (1 - t)
    index = torch.cdist(x, train).argmin(1)
    assert (x - train[index]).norm(dim=1).max() < 1e-6
    assert len(index.unique()) > 1


def test_a_patch_denoiser_generalizes_better(digits):
    """`exr-patch-denoiser`: at t = 0.7 small patches halve the held-out error, and more."""
    train, held, _ = digits
    t, r, pictures = 0.7, 1, train.reshape(-1, 28, 28)
    clean = held[:30]
    x = t * clean + (1 - t) * torch.randn(clean.shape, generator=seeded(17), dtype=F64)
    noisy, out = x.reshape(-1, 28, 28), torch.empty(30, 28, 28, dtype=F64)
    for i in range(28):
        for j in range(28):
            rows, columns = slice(max(i - r, 0), i + r + 1), slice(max(j - r, 0), j + r + 1)
            a = noisy[:, rows, columns].flatten(1)
            b = t * pictures[:, rows, columns].flatten(1)
            squared = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
            out[:, i, j] = torch.softmax(-squared / (2 * (1 - t) ** 2), 1) @ pictures[:, i, j]
    patches = ((out.flatten(1) - clean) ** 2).sum(1).mean()
    whole = ((Empirical(train).denoise(x, t, 1 - t) - clean) ** 2).sum(1).mean()
    assert patches < 0.3 * whole


def test_the_posterior_weights_classify(digits):
    """`exr-label-posterior`: the weights, summed by label, tell noisy digits apart."""
    train, held, labels = digits
    generator, t = seeded(18), 0.5
    x = t * held + (1 - t) * torch.randn(held.shape, generator=generator, dtype=F64)
    law = Empirical(train)
    weights = law.posterior_weights(x, t, 1 - t)
    one_hot = torch.nn.functional.one_hot(labels[:1500].long(), 10).to(F64)
    posterior = weights @ one_hot
    assert (posterior.argmax(1) == labels[1500:]).double().mean() > 0.75
    # D = sum over y of P(y | x) D(x, y)
    pieces = torch.stack(
        [Empirical(train[labels[:1500] == y]).denoise(x, t, 1 - t) for y in range(10)], 1
    )
    mixed = torch.einsum("ny,nyd->nd", posterior, pieces)
    torch.testing.assert_close(mixed, law.denoise(x, t, 1 - t), rtol=0, atol=1e-9)
