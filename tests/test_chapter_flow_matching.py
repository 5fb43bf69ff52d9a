"""What the chapter on flow matching claims, checked against closed forms.

Statistical checks compare a mean of n draws with its exact value in units of its standard error.
By the central limit theorem a correct program exceeds the bound of 5.5 with probability below
4e-8 per comparison; the seeds are fixed, so that a run is repeatable anyway.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap

from fromnoise.distributions import Empirical, Gaussian, GaussianMixture, laboratory
from fromnoise.fields import ExactField, NetworkField
from fromnoise.likelihood import divergence
from fromnoise.metrics import frechet_distance, wasserstein2
from fromnoise.networks import MLP
from fromnoise.paths import GaussianPath
from fromnoise.processes import ODE, probability_flow
from fromnoise.schedules import VP, CondOT, Cosine, Schedule, SubVP
from fromnoise.solvers import euler, rk4, solve_ode
from fromnoise.targets import ConditionalFlowMatching
from fromnoise.training import train

Z = 5.5
STRAIGHT = GaussianPath(CondOT())
LAW = laboratory(torch.float64)
AXIS = torch.linspace(-6.5, 6.5, 181, dtype=torch.float64)
PLANE = torch.cartesian_prod(AXIS, AXIS)
CELL = float((AXIS[1] - AXIS[0]) ** 2)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def factor(schedule: Schedule, t: Tensor) -> Tensor:
    """kappa_t of `prp-cfm-gap`."""
    return schedule.d_alpha(t) - schedule.d_sigma(t) * schedule.alpha(t) / schedule.sigma(t)


def gap_at(t: float, schedule: Schedule, law: GaussianMixture = LAW) -> float:
    """C_t by a sum over the plane: spectrally accurate, since the integrand is a smooth bump."""
    t = double(t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    density = law.marginal_log_prob(PLANE, alpha, sigma).exp()
    trace = law.conditional_covariance(PLANE, alpha, sigma).diagonal(dim1=1, dim2=2).sum(1)
    return float(factor(schedule, t) ** 2 * (density * trace).sum() * CELL)


def legendre(n: int) -> tuple[Tensor, Tensor]:
    k = torch.arange(1, n, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


def draw(law, schedule: Schedule, n: int, seed: int, last: float = 1.0):
    g = seeded(seed)
    t = last * torch.rand(n, generator=g, dtype=torch.float64)
    return GaussianPath(schedule).sample(law.sample(n, g), t, generator=g), t


def z_score(draws: Tensor, exact: float = 0.0) -> float:
    return float((draws.mean() - exact).abs() / (draws.std() / len(draws) ** 0.5))


# -- thm-cfm-equals-fm -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def constant() -> float:
    nodes, weights = legendre(24)
    return float(sum(w * gap_at(float(t), CondOT()) for t, w in zip(nodes, weights, strict=True)))


def test_constant_of_the_laboratory_is_the_one_on_the_page(constant):
    # 24 nodes and 32 nodes agree to more digits than the page prints.
    nodes, weights = legendre(32)
    finer = sum(w * gap_at(float(t), CondOT()) for t, w in zip(nodes, weights, strict=True))
    assert constant == pytest.approx(float(finer), abs=1e-6)
    assert constant == pytest.approx(3.520, abs=5e-4)


@pytest.mark.parametrize("which", ["zero", "network", "exact", "wrong"])
def test_gap_of_the_losses_is_the_conditional_variance(which, constant):
    sample, t = draw(LAW, CondOT(), 100_000, seed=0)
    truth = ExactField(LAW, STRAIGHT).velocity(sample.x, t)
    torch.manual_seed(0)
    value = {
        "zero": torch.zeros_like(truth),
        "network": MLP(2, hidden=32, depth=1).double()(sample.x, t).detach(),
        "exact": truth,
        "wrong": 3.0 * torch.sin(sample.x) - t[:, None],
    }[which]
    cfm = (value - sample.velocity).square().sum(1)
    fm = (value - truth).square().sum(1)
    assert z_score(cfm - fm, constant) < Z


@pytest.mark.parametrize("schedule", [CondOT(), Cosine(), VP(), SubVP()], ids=lambda s: s.name)
@pytest.mark.parametrize("t", [0.2, 0.6, 0.95])
def test_conditional_variance_at_one_time(schedule, t):
    g = seeded(1)
    sample = GaussianPath(schedule).sample(LAW.sample(40_000, g), t, generator=g)
    deviation = sample.velocity - ExactField(LAW, GaussianPath(schedule)).velocity(sample.x, t)
    assert z_score(deviation.square().sum(1), gap_at(t, schedule)) < Z


# -- prp-cfm-gap -------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [CondOT(), Cosine(), VP()], ids=lambda s: s.name)
def test_target_deviates_as_the_data_and_as_the_noise_do(schedule):
    # U - u = kappa (X_1 - D) = -sigma lambda' (eps - eps_hat), draw by draw.
    sample, t = draw(LAW, schedule, 500, seed=2, last=0.99)
    t = t.clamp(min=0.01)
    sample = GaussianPath(schedule).sample(sample.data, t, noise=sample.noise)
    field = ExactField(LAW, GaussianPath(schedule))
    deviation = sample.velocity - field.velocity(sample.x, t)
    kappa = factor(schedule, t)[:, None]
    ratio = (schedule.sigma(t) / schedule.alpha(t))[:, None]
    by_data = kappa * (sample.data - field.denoise(sample.x, t))
    by_noise = -kappa * ratio * (sample.noise - field.noise(sample.x, t))
    torch.testing.assert_close(deviation, by_data, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(deviation, by_noise, rtol=1e-8, atol=1e-8)


# -- prp-gap-bound -----------------------------------------------------------------------------

COV = torch.tensor([[2.0, 0.7], [0.7, 0.6]], dtype=torch.float64)


def gaussian_gap(t: Tensor, schedule: Schedule, cov: Tensor) -> Tensor:
    s = torch.linalg.eigvalsh(cov)
    alpha, sigma = schedule.alpha(t)[..., None], schedule.sigma(t)[..., None]
    wronskian = schedule.d_alpha(t) * schedule.sigma(t) - schedule.alpha(t) * schedule.d_sigma(t)
    return wronskian**2 * (s / (alpha**2 * s + sigma**2)).sum(-1)


@pytest.mark.parametrize("schedule", [CondOT(), Cosine(), VP()], ids=lambda s: s.name)
def test_gaussian_data_attain_the_bound(schedule):
    gaussian = Gaussian(torch.tensor([0.3, -1.0], dtype=torch.float64), COV)
    for t in (0.1, 0.5, 0.9):
        exact = factor(schedule, double(t)) ** 2 * gaussian.conditional_covariance(
            PLANE[:1], schedule.alpha(double(t)), schedule.sigma(double(t))
        )
        expected = gaussian_gap(double(t), schedule, COV)
        torch.testing.assert_close(exact[0].trace(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("schedule", "ratio"), [(CondOT(), math.pi / 2), (Cosine(), math.pi**2 / 4)]
)
def test_integral_of_the_bound_is_a_trace_of_a_root(schedule, ratio):
    nodes, weights = legendre(60)
    integral = (weights * gaussian_gap(nodes, schedule, COV)).sum()
    root = torch.linalg.eigvalsh(COV).sqrt().sum()
    assert float(integral) == pytest.approx(float(ratio * root), rel=1e-9)


def test_gaussian_data_are_the_worst_case(constant):
    for schedule in (CondOT(), Cosine(), VP()):
        for t in (0.05, 0.3, 0.5, 0.7, 0.95):
            bound = float(gaussian_gap(double(t), schedule, LAW.cov))
            assert gap_at(t, schedule) <= bound * (1 + 1e-9)
    assert constant < math.pi / 2 * float(torch.linalg.eigvalsh(LAW.cov).sqrt().sum())


def test_ends_for_smooth_data():
    fisher = float((LAW.log_prob(PLANE).exp() * LAW.score(PLANE).square().sum(1)).sum() * CELL)
    assert gap_at(1e-6, CondOT()) == pytest.approx(float(LAW.cov.trace()), rel=1e-4)
    for t in (0.8, 0.95, 0.999):
        value = t**2 * gap_at(t, CondOT())
        assert 2 - ((1 - t) / t) ** 2 * fisher <= value <= 2 + 1e-9


def test_end_for_finitely_many_data():
    points = Empirical(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64))
    values = []
    for t in (0.5, 0.8, 0.9, 0.95):
        g = seeded(3)
        s = STRAIGHT.sample(points.sample(20_000, g), t, generator=g)
        error = (s.data - points.denoise(s.x, t, 1 - t)).square().sum(1).mean()
        values.append(float(error) / (1 - t) ** 2)
        bound = 16 * 5 * 2 * 4 * (1 - t) ** 2 / t**4  # Delta^2 = 5, delta = 1, d = 2
        assert values[-1] <= bound
    assert values[0] > 0.5
    assert values[-1] < 1e-6


def test_constant_of_the_variance_preserving_schedule_diverges():
    def up_to(eta: float) -> float:
        edges = torch.logspace(math.log10(eta), 0, 8001, dtype=torch.float64)
        values = gaussian_gap(1 - edges, VP(), torch.eye(1, dtype=torch.float64))
        return float(torch.trapezoid(values, edges))

    step = up_to(1e-7) - up_to(1e-6)
    assert step == pytest.approx(0.1 / 4 * math.log(10), rel=1e-2)


def test_gap_is_a_rate_of_entropy():
    field = ExactField(LAW, STRAIGHT)
    for t in (0.3, 0.7):
        grid = PLANE[::3]
        density = LAW.marginal_log_prob(grid, t, 1 - t).exp()
        rate = (density * divergence(field.velocity, grid, t)).sum() * 3 * CELL
        expected = (t * gap_at(t, CondOT()) - 2) / (1 - t)
        assert float(rate) == pytest.approx(expected, abs=1e-5)


# -- thm-cfm-gradient, prp-gradient-variance ---------------------------------------------------


def test_gradients_agree_and_their_noise_splits():
    torch.manual_seed(0)
    net = MLP(2, hidden=6, depth=1, frequencies=4).double()
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def value(parameters, x, t):
        return functional_call(net, parameters, (x[None], t[None]))[0]

    def error(parameters, x, t, target):
        return (value(parameters, x, t) - target).square().sum()

    def flat(tree: dict[str, Tensor], start: int) -> Tensor:
        return torch.cat([v.flatten(start) for v in tree.values()], dim=-1)

    sample, t = draw(LAW, CondOT(), 12_000, seed=4)
    field = ExactField(LAW, STRAIGHT)
    per_draw = vmap(grad(error), in_dims=(None, 0, 0, 0))
    cfm = flat(per_draw(parameters, sample.x, t, sample.velocity), 1)
    fm = flat(per_draw(parameters, sample.x, t, field.velocity(sample.x, t)), 1)

    difference = cfm - fm
    spread = difference.std(0)
    alive = spread > 0
    z = difference.mean(0)[alive] / (spread[alive] / len(t) ** 0.5)
    # 6.3 for some 300 coordinates: false alarm below 300 * 3e-10 = 1e-7.
    assert float(z.abs().max()) < 6.3

    jacobian = flat(vmap(jacrev(value), in_dims=(None, 0, 0))(parameters, sample.x, t), 2)
    kappa = factor(CondOT(), t)[:, None, None]
    covariance = kappa**2 * LAW.conditional_covariance(sample.x, t, 1 - t)
    irreducible = 4 * torch.einsum("nip,nij,njp->n", jacobian, covariance, jacobian)
    # The means of cfm and fm agree, so the traces of the covariances differ as the squares do.
    assert z_score(cfm.square().sum(1) - fm.square().sum(1) - irreducible) < Z


def test_best_times_have_the_smallest_second_moment():
    nodes, weights = legendre(40)
    w, m = 1 + nodes, torch.exp(3 * torch.sin(5 * nodes))
    best = (weights * w * m.sqrt()).sum() ** 2
    g = seeded(5)
    for _ in range(20):
        q = torch.exp(
            torch.randn(3, generator=g, dtype=torch.float64)
            @ torch.stack([torch.ones(40, dtype=torch.float64), nodes, nodes**2])
        )
        q = q / (weights * q).sum()
        assert (weights * w**2 * m / q).sum() >= best
    q = w * m.sqrt() / (weights * w * m.sqrt()).sum()
    torch.testing.assert_close((weights * w**2 * m / q).sum(), best)


# -- thm-velocity-error-w2 ---------------------------------------------------------------------


@pytest.mark.parametrize("rate", [-2.0, 1.5])
def test_bound_is_attained_by_linear_fields(rate):
    shift = torch.tensor([0.3, -0.4], dtype=torch.float64)
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    start = torch.randn(200, 2, generator=seeded(6), dtype=torch.float64)
    right = solve_ode(ODE(lambda x, t: rate * x), start, times, method=rk4)
    wrong = solve_ode(ODE(lambda x, t: rate * x + shift), start, times, method=rk4)
    bound = 0.5 * math.expm1(rate) / rate
    assert wasserstein2(wrong, right) == pytest.approx(bound, rel=1e-6)
    coupled = (wrong - right).square().sum(1).mean().sqrt()
    assert float(coupled) == pytest.approx(bound, rel=1e-6)


def test_bound_holds_for_a_perturbed_gaussian_flow():
    mean = torch.tensor([1.0, -0.5], dtype=torch.float64)
    field = ExactField(Gaussian(mean, COV), STRAIGHT)

    def perturbed(x: Tensor, t: Tensor) -> Tensor:
        return field.velocity(x, t) + 0.2 * torch.stack([x[:, 1], -x[:, 0]], 1) + 0.1

    # Both flows are affine, so that 2-d standard normals of exact mean 0 and covariance I, given
    # by antithetic axes, are carried to the exact first two moments.
    start = math.sqrt(2) * torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    times = torch.linspace(0, 1, 401, dtype=torch.float64)
    X = solve_ode(probability_flow(field), start, times, method=rk4, trajectory=True)
    Y = solve_ode(ODE(perturbed), start, times, method=rk4, trajectory=True)
    e = torch.stack(
        [
            (perturbed(x, t) - field.velocity(x, t)).square().sum(1).mean().sqrt()
            for x, t in zip(X, times, strict=True)
        ]
    )
    s = torch.linalg.eigvalsh(COV)[-1]
    # The rotation is antisymmetric and adds nothing to the one-sided constant of the exact field.
    ell = (times * s - (1 - times)) / (times**2 * s + (1 - times) ** 2)
    remaining = torch.stack([torch.trapezoid(ell[k:], times[k:]) for k in range(len(times))])
    bound = float(torch.trapezoid(remaining.exp() * e, times))
    coupled = float((Y[-1] - X[-1]).square().sum(1).mean().sqrt())

    def moments(points: Tensor) -> tuple[Tensor, Tensor]:
        return points.mean(0), torch.cov(points.T, correction=0)

    torch.testing.assert_close(moments(X[-1])[1], COV, rtol=1e-6, atol=1e-6)
    distance = frechet_distance(*moments(Y[-1]), *moments(X[-1]))
    assert distance <= coupled * (1 + 1e-9)
    assert coupled <= bound * (1 + 1e-4)  # the trapezoidal rule for the bound
    assert bound < 2 * coupled  # and it is not a triviality here


@pytest.mark.parametrize("eta", [0.2, 0.05])
def test_snow_plough_has_a_small_loss_and_bad_samples(eta):
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return 2 * (1 - (x - t).abs() / eta).clamp(min=0)

    x = (torch.arange(2000, dtype=torch.float64)[:, None] + 0.5) / 2000
    times = torch.linspace(0, 1, 1001, dtype=torch.float64)
    loss = torch.stack([velocity(x, t).square().mean() for t in times]).mean()
    end = solve_ode(ODE(velocity), x, times, method=euler)
    distance = float((end - x).square().mean().sqrt())
    assert float(loss) <= 8 / 3 * eta
    assert bool((end > 1).all()) and bool((end < 1 + eta).all())
    assert 3**-0.5 < distance < 3**-0.5 + eta


# -- the algorithms, and the exercises that change code ----------------------------------------


def quick_fit(law, depth, steps):
    torch.manual_seed(0)
    return train(
        MLP(law.dim, hidden=32, depth=depth),
        ConditionalFlowMatching(STRAIGHT),
        law,
        steps=steps,
        lr=5e-3,
        ema_decay=0.97,
        progress=False,
    )


def test_training_approaches_the_exact_velocity():
    law = laboratory(torch.float32)
    fit = quick_fit(law, depth=2, steps=250)
    g = seeded(7)
    t = torch.rand(4000, generator=g)
    s = STRAIGHT.sample(law.sample(4000, g), t, generator=g)
    with torch.no_grad():
        error = fit.net(s.x, t) - ExactField(law, STRAIGHT).velocity(s.x, t)
    # Zero has the error 1.47, the best affine function 0.75; a run of this length reaches 0.2.
    assert float(error.square().sum(1).mean().sqrt()) < 0.4


# -- the code of the exercises' solutions, taken from the chapter ------------------------------

CHAPTER = Path(__file__).parents[1] / "book" / "part2" / "flow-matching.md"


def solution(label: str) -> tuple[dict, list[tuple]]:
    """Run the python block of a solution after the chapter's first cell: its names and prints."""
    text = CHAPTER.read_text(encoding="utf-8")
    names: dict = {"__name__": "chapter"}
    exec(re.search(r"```\{code-cell\} python3\n(.*?)```", text, flags=re.S)[1], names)
    body = text.split(f"{{solution}} {label}\n", 1)[1]
    code = re.search(r"```python\n(.*?)```", body, flags=re.S)[1]
    printed: list[tuple] = []
    names["print"] = lambda *values: printed.append(tuple(float(v) for v in values))
    exec(compile(code, label, "exec"), names)
    return names, printed


def test_stratified_times_keep_the_loss():
    target = solution("exr-stratified-times")[0]["Stratified"](STRAIGHT)
    t = target.draw(LAW.sample(64, seeded(8)), seeded(9)).t.flatten()
    assert torch.equal((64 * t).floor(), torch.arange(64, dtype=torch.float64))

    def spread(target) -> tuple[float, float]:
        def zero(x, t):
            return torch.zeros_like(x)

        values = torch.stack(
            [
                2 * target.loss(zero, LAW.sample(64, seeded(b)), seeded(b + 10_000))
                for b in range(1000)
            ]
        )
        return float(values.mean()), float(values.std() / 1000**0.5)

    (plain, a), (even, b) = spread(ConditionalFlowMatching(STRAIGHT)), spread(target)
    assert abs(plain - even) < Z * math.hypot(a, b)


def one_step(net) -> float:
    """Standard deviation of samples after one Euler step."""
    with torch.no_grad():
        end = solve_ode(
            probability_flow(NetworkField(net, STRAIGHT)),
            torch.randn(4000, 1, generator=seeded(10)),
            torch.linspace(0, 1, 2),
            method=euler,
        )
    return float(end.std())


def test_sorted_pairs_remove_the_floor():
    fit = solution("exr-sorted-coupling")[0]["fit"]
    assert sum(fit.losses[-100:]) / 100 < 0.1
    assert one_step(fit.net) == pytest.approx(2.0, abs=0.1)


def test_independent_pairs_have_the_floor():
    law = Gaussian(torch.zeros(1), torch.tensor([[4.0]]))
    fit = quick_fit(law, depth=1, steps=300)
    # 100 batches of 256 draws scatter by about 0.03 around (pi/2) sqrt(4) = 3.14, plus the error
    # of a network that has hardly been trained.
    assert sum(fit.losses[-100:]) / 100 == pytest.approx(math.pi, abs=0.3)
    assert one_step(fit.net) < 0.6


def test_weights_shake_as_the_exercise_says():
    _, [(theta, mean)] = solution("exr-sgd-floor")
    variance = 0.1 * 4 / (2 - 0.1)
    averaged = 0.01 / 1.99 * (1 + 0.99 * 0.9) / (1 - 0.99 * 0.9) * variance
    # A sample variance of n normals has the relative standard error sqrt(2 / n) = 0.01.
    assert theta == pytest.approx(variance, rel=Z * 0.01)
    assert mean == pytest.approx(averaged, rel=Z * 0.01)
    assert variance == pytest.approx(0.2105, abs=5e-5)
    assert averaged == pytest.approx(0.01835, abs=5e-6)


def test_exact_flow_of_a_finite_set_returns_the_set():
    names, [(largest,), (fresh,)] = solution("exr-memorize")
    # What is left of the noise has the scale 1 - t = 0.001.
    assert largest < 0.02
    assert fresh > 0.1
    nearest = torch.cdist(names["end"], names["points"].data).argmin(1)
    assert len(nearest.unique()) == 100
