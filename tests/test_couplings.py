"""Couplings, against brute force, other solvers, closed forms and bounds with proofs."""

import math
from itertools import permutations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linear_sum_assignment

from fromnoise import assignment
from fromnoise.couplings import (
    FromSource,
    MinibatchOT,
    ReflowPairs,
    Sinkhorn,
    entropic_plan,
    independent,
    optimal_assignment,
    reflow_pairs,
)
from fromnoise.distributions import Gaussian, laboratory
from fromnoise.fields import ExactField, NetworkField
from fromnoise.paths import GaussianPath
from fromnoise.schedules import VP, CondOT, Cosine
from fromnoise.solvers import euler, heun, rk4
from fromnoise.targets import ConditionalFlowMatching, Regression

F32, F64 = torch.float32, torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def given_pairs(source):
    """The coupling that returns a fixed source, whatever the generator."""
    return lambda data, generator: (source, data)


def squared_distances(source, data):
    """Data by source, by differences: no formula of the module."""
    gaps = data.double().flatten(1)[:, None] - source.double().flatten(1)[None]
    return gaps.square().sum(-1)


def cost_of(source, data):
    return (source.double() - data.double()).square().sum().item()


# -- the optimal assignment -----------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("n", range(1, 8))
def test_the_assignment_is_the_best_of_all_permutations(n, dim):
    source, data = normal(n, dim, seed=n), normal(n, dim, seed=100 + n) ** 3
    cost = squared_distances(source, data)
    every = torch.tensor(list(permutations(range(n))))
    totals = cost[torch.arange(n), every].sum(1)
    # the best is unique almost surely: the permutations themselves must agree
    assert torch.equal(optimal_assignment(source, data), every[totals.argmin()])


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("event", [(2,), (1, 7, 7), ()])
def test_the_cost_is_that_of_other_solvers(event, dtype):
    source, data = normal(64, *event, dtype=dtype), 2 * normal(64, *event, seed=1, dtype=dtype) + 1
    cost = squared_distances(source.reshape(64, -1), data.reshape(64, -1)).numpy()
    ours = cost_of(source[optimal_assignment(source, data)], data)
    # one takes plain distances and weights of 1/64, the other is another algorithm; all in float64,
    # where a sum of 64 terms of one sign has a relative error of at most 64 * 1.1e-16
    assert ours == pytest.approx(64 * ot.emd2([], [], cost), rel=1e-13)
    rows, columns = linear_sum_assignment(cost)
    assert ours == pytest.approx(cost[rows, columns].sum(), rel=1e-13)


@given(n=st.integers(1, 40), dim=st.integers(1, 4), seed=st.integers(0, 1000))
def test_never_dearer_than_the_independent_pairing_and_every_point_used_once(n, dim, seed):
    data = normal(n, dim, seed=seed) * torch.linspace(0, 3, dim, dtype=F64)
    noise, _ = independent(data, seeded(seed + 1))
    paired, same = MinibatchOT()(data, seeded(seed + 1))
    assert same is data
    index = optimal_assignment(noise, data)
    assert torch.equal(index.sort().values, torch.arange(n))
    assert torch.equal(paired, noise[index])
    assert cost_of(paired, data) <= cost_of(noise, data) * (1 + 1e-12)


def test_on_the_line_it_sorts_and_no_two_lines_cross():
    data = normal(200, 1) ** 3
    noise, _ = MinibatchOT()(data, seeded(1))
    assert torch.equal(noise[:, 0].argsort(), data[:, 0].argsort())
    path = GaussianPath(CondOT())
    # along the path the points keep their order; those of the independent pairing do not
    for pairs, kept in ((noise, True), (independent(data, seeded(1))[0], False)):
        orders = [
            path.sample(data, t, noise=pairs).x[:, 0].argsort() for t in torch.linspace(0, 1, 21)
        ]
        assert all(torch.equal(order, orders[-1]) for order in orders) is kept


def test_straight_lines_of_optimal_pairs_do_not_meet():
    """<x_i - x_j, y_i - y_j> >= 0 for optimal pairs: else swapping i and j would be cheaper.

    Then |(1-t)(x_i - x_j) + t(y_i - y_j)|² is a sum of three terms >= 0, positive inside.
    """
    data = laboratory().sample(128, seeded(0))

    def products(noise):
        gaps = [z[:, None] - z[None] for z in (noise, data)]
        return (gaps[0] * gaps[1]).sum(-1)

    noise, _ = MinibatchOT()(data, seeded(1))
    assert products(noise).min() > -1e-12
    assert products(independent(data, seeded(1))[0]).min() < -1.0  # what is excluded does occur


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**-15, 2.0**40])
def test_the_scale_of_the_points_changes_nothing(scale):
    """Powers of two change no rounding. The solver alone would take tiny costs for zero."""
    source, data = normal(100, 2), normal(100, 2, seed=1)
    expected = optimal_assignment(source, data)
    assert torch.equal(optimal_assignment(scale * source, scale * data), expected)
    assert torch.equal(optimal_assignment(source, scale * data), expected)


@pytest.mark.parametrize(("shift", "dtype"), [(1e8, F64), (1e3, F32)])
def test_far_away_points_lose_no_digits(shift, dtype):
    source = normal(256, 2, dtype=dtype) + shift
    data = normal(256, 2, seed=1, dtype=dtype) + shift
    # the reference takes differences, exact for numbers so close to each other (Sterbenz)
    cost = squared_distances(source, data).numpy()
    _, columns = linear_sum_assignment(cost)
    assert torch.equal(optimal_assignment(source, data), torch.as_tensor(columns))


@pytest.mark.parametrize(
    "data",
    [torch.zeros(50, 2), torch.ones(50, 2), (4 * torch.rand(50, 2, generator=seeded(3))).floor()],
    ids=["zeros", "one point", "ties"],
)
def test_ties_still_give_a_permutation_of_least_cost(data):
    noise, _ = independent(data, seeded(1))
    index = optimal_assignment(noise, data)
    assert torch.equal(index.sort().values, torch.arange(50))
    cost = squared_distances(noise, data).numpy()
    rows, columns = linear_sum_assignment(cost)
    assert cost_of(noise[index], data) == pytest.approx(cost[rows, columns].sum(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, F32, F64])
@pytest.mark.parametrize("event", [(3,), (1, 4, 4)])
@pytest.mark.parametrize("coupling", [MinibatchOT(), Sinkhorn(20.0)], ids=["ot", "sinkhorn"])
def test_dtype_order_and_generator(coupling, event, dtype):
    data = normal(32, *event, dtype=dtype).requires_grad_()
    first, same = coupling(data, seeded(5))
    again, _ = coupling(data, seeded(5))
    other, _ = coupling(data, seeded(6))
    assert same is data
    assert first.shape == data.shape and first.dtype == dtype and not first.requires_grad
    assert torch.equal(first, again) and not torch.equal(first, other)
    # the noise is that of `independent`: the same draws, in another order
    noise, _ = independent(data, seeded(5))
    drawn = {tuple(row.flatten().tolist()) for row in noise}
    used = [tuple(row.flatten().tolist()) for row in first]
    assert set(used) <= drawn
    if isinstance(coupling, MinibatchOT):
        assert set(used) == drawn and len(drawn) == 32


def test_a_solver_that_gives_up_says_so(monkeypatch):
    monkeypatch.setattr(assignment, "_MAX_PIVOTS", 3)
    with (
        pytest.warns(UserWarning, match="numItermax"),
        pytest.raises(RuntimeError, match=r"batch 64.*smaller batch"),
    ):
        optimal_assignment(normal(64, 2), normal(64, 2, seed=1))


def bad_batches():
    good = normal(4, 2)
    nan, huge = good.clone(), 1e200 * good
    nan[1, 0] = math.nan
    yield good[:0], good[:0], r"data has shape \(0, 2\).*at least one point"
    yield good, good[:3], r"source has shape \(4, 2\) and data has shape \(3, 2\)"
    yield good, good[:, :1], r"source has shape \(4, 2\) and data has shape \(4, 1\)"
    yield good, nan, "data: 1 of its 8 values are not finite"
    yield nan, good, "source: 1 of its 8 values are not finite"
    yield huge, huge, r"cost: the squared distances.*rescale"


@pytest.mark.parametrize("solve", [optimal_assignment, lambda x, y: entropic_plan(x, y, 1.0)])
@pytest.mark.parametrize(("source", "data", "message"), list(bad_batches()))
def test_bad_batches_are_refused(solve, source, data, message):
    with pytest.raises(ValueError, match=message):
        solve(source, data)


# -- entropic plans -------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_plan_of_two_points_in_closed_form(dtype, eps):
    """P = [[p, q], [q, p]] / 2, where p / q = exp(-(c_11 + c_22 - c_12 - c_21) / (2 eps)).

    The potentials cancel in p² / q².
    """
    source, data = normal(2, 3, dtype=dtype), normal(2, 3, seed=1, dtype=dtype)
    cost = squared_distances(source, data)
    gap = (cost[0, 0] + cost[1, 1] - cost[0, 1] - cost[1, 0]).item() / (2 * eps)
    p = 0.5 / (1 + math.exp(gap))
    expected = torch.tensor([[p, 0.5 - p], [0.5 - p, p]], dtype=F64)
    plan = entropic_plan(source, data, eps, tolerance=1e-12)
    assert plan.dtype == F64
    torch.testing.assert_close(plan, expected, rtol=1e-10, atol=1e-14)


def test_the_plan_is_that_of_the_kernel_iteration():
    """Sinkhorn's matrix scaling itself, on plain distances: another algorithm for the same plan."""
    source, data = normal(40, 2), 1 + normal(40, 2, seed=1)
    cost = squared_distances(source, data).numpy()
    expected = ot.sinkhorn([], [], cost, 0.7, method="sinkhorn", stopThr=1e-13, numItermax=10_000)
    plan = entropic_plan(source, data, 0.7, tolerance=1e-11)
    # an error of the columns of 1e-11 leaves one of that order in the potentials
    np.testing.assert_allclose(plan.numpy(), expected, rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("eps", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_the_plans_marginals(eps, tolerance):
    n = 64
    plan = entropic_plan(normal(n, 2), 1 + normal(n, 2, seed=1), eps, tolerance=tolerance)
    assert plan.min() >= 0
    assert (n * plan.sum(1) - 1).abs().max() < 1e-11  # rows to rounding
    assert (n * plan.sum(0) - 1).square().mean().sqrt() <= tolerance  # columns to the tolerance


def test_small_eps_gives_the_cost_of_optimal_transport():
    """0 <= <P, C> - OT <= eps log n, from the minimality of P.

    <P, C> + eps KL(P | 1/n²) <= OT + eps KL(P_0 | 1/n²) for the optimal plan P_0, and
    KL(P_0 | 1/n²) = 2 log n - H(P_0) <= log n, as no plan has less entropy than its rows' law.
    """
    n = 12
    source, data = normal(n, 2), 1 + normal(n, 2, seed=1)
    cost = squared_distances(source, data)
    best = cost_of(source[optimal_assignment(source, data)], data) / n
    # P is optimal for its own columns, which are off by 1e-4 in the mean: moving half of that mass
    # by the longest way bounds what this changes in OT
    slack = 0.5e-4 * cost.max().item()
    excesses = []
    for eps in (3.0, 0.3, 0.03):
        plan = entropic_plan(source, data, eps, tolerance=1e-4)
        excesses.append((plan * cost).sum().item() - best)
        assert -slack <= excesses[-1] <= eps * math.log(n) + slack
    assert excesses[0] > excesses[1] > excesses[2]


def test_large_eps_gives_independence():
    """exp(-2R/eps) <= n² P_ij <= exp(2R/eps), where R is the range of the cost.

    P_ij = a_i b_j K_ij with K in [exp(-R/eps), 1]; with A, B the sums of a, b the rows give
    1/(n B) <= a_i <= exp(R/eps)/(n B), the columns the same for b with A, and the total
    1 <= A B <= exp(R/eps).
    """
    n, eps = 30, 200.0
    source, data = normal(n, 2), 1 + normal(n, 2, seed=1)
    cost = squared_distances(source, data)
    bound = 2 * (cost.max() - cost.min()).item() / eps
    logs = (n**2 * entropic_plan(source, data, eps, tolerance=1e-9)).log().abs()
    assert 0 < logs.max() <= bound < 0.6


def test_partners_are_drawn_from_the_plan():
    """Three kinds of points, a hundred copies of each: partners of each kind follow 3 P."""
    source = torch.tensor([[0.0], [1.0], [2.5]], dtype=F64)
    data = torch.tensor([[0.3], [0.9], [1.4]], dtype=F64)
    law = 3 * entropic_plan(source, data, 1.0, tolerance=1e-9)
    kinds = torch.arange(3).repeat(100)
    coupling = Sinkhorn(1.0, source=given_pairs(source[kinds]), tolerance=1e-9)
    generator = seeded(0)
    counts = torch.zeros(3, 3, dtype=F64)
    for _ in range(10):
        drawn, _ = coupling(data[kinds], generator)
        partner = (drawn[:, None, 0] - source[None, :, 0]).abs().argmin(1)
        counts += torch.bincount(3 * kinds + partner, minlength=9).reshape(3, 3)
    chi_square = ((counts - 1000 * law).square() / (1000 * law)).sum().item()
    assert chi_square < stats.chi2.isf(1e-6, df=6)  # false alarm 1e-6


def test_sinkhorn_between_optimal_transport_and_independence():
    data = normal(64, 2)
    # points near a permutation of themselves, distances 1 and more: the plan is that permutation
    # up to exp(-1 / 0.02)
    grid = torch.cartesian_prod(*[torch.arange(8.0, dtype=F64)] * 2)
    shuffled = grid[torch.randperm(64, generator=seeded(2))]
    drawn, _ = Sinkhorn(0.02, source=given_pairs(shuffled))(grid + 0.01 * data, seeded(3))
    assert torch.equal(drawn, grid)
    # a plan near the uniform one: 64 independent draws are no permutation (probability 3e-27)
    drawn, _ = Sinkhorn(1e4)(data, seeded(4))
    assert len(drawn.unique(dim=0)) < 64


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan, math.inf])
def test_eps_must_be_positive(eps):
    with pytest.raises(ValueError, match=r"eps=.*positive.*MinibatchOT"):
        Sinkhorn(eps)
    with pytest.raises(ValueError, match=r"eps=.*positive.*MinibatchOT"):
        entropic_plan(normal(4, 2), normal(4, 2, seed=1), eps)


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"max_iterations": 0}])
def test_other_numbers_must_be_positive(options):
    with pytest.raises(ValueError, match="must be positive"):
        Sinkhorn(1.0, **options)


def test_a_plan_that_is_not_reached_is_an_error():
    with pytest.raises(RuntimeError, match=r"after 5 iterations.*tolerance=0.001.*raise eps=0.001"):
        Sinkhorn(0.001, max_iterations=5)(normal(32, 2), seeded(0))


# -- another source -------------------------------------------------------------------------------


def test_a_law_as_the_source():
    law = laboratory()
    data = normal(50, 2, dtype=F32)
    points, same = FromSource(law)(data, seeded(3))
    assert same is data and points.dtype == F32
    assert torch.equal(points, law.sample(50, seeded(3)).float())


@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_data_set_as_the_source(dtype):
    """Rows with replacement, each as likely as another."""
    rows = normal(5, 1, 2, 2)
    points, _ = FromSource(rows)(torch.zeros(5000, 1, 2, 2, dtype=dtype), seeded(0))
    assert points.dtype == dtype
    hit = (points[:, None] == rows.to(dtype)[None]).flatten(2).all(-1)
    assert bool((hit.sum(1) == 1).all())
    assert stats.chisquare(hit.sum(0).numpy()).pvalue > 1e-6  # false alarm 1e-6


@pytest.mark.parametrize("source", [laboratory(), normal(300, 2, seed=9)], ids=["law", "tensor"])
def test_another_source_with_optimal_transport(source):
    data = 2 * normal(60, 2) - 1
    unpaired, _ = FromSource(source)(data, seeded(1))
    paired, same = MinibatchOT(FromSource(source))(data, seeded(1))
    assert same is data
    assert torch.equal(paired, unpaired[optimal_assignment(unpaired, data)])
    assert cost_of(paired, data) < cost_of(unpaired, data)
    entropic, _ = Sinkhorn(1e-1, FromSource(source))(data, seeded(1))
    assert cost_of(entropic, data) < cost_of(unpaired, data)


def test_bad_sources_are_refused():
    with pytest.raises(ValueError, match=r"source has shape \(0, 2\)"):
        FromSource(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="source is of type str"):
        FromSource("moons")
    with pytest.raises(ValueError, match=r"source has shape \(4, 2\) and data has shape \(4, 3\)"):
        FromSource(laboratory())(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"data has shape \(0, 2\)"):
        FromSource(laboratory())(torch.zeros(0, 2))


# -- pairs made by a flow -------------------------------------------------------------------------

GAUSSIAN = Gaussian(
    torch.tensor([1.0, -0.5], dtype=F64), torch.tensor([[1.2, 0.7], [0.7, 0.6]], dtype=F64)
)
VALUES, AXES = torch.linalg.eigh(GAUSSIAN.cov)
ROOT = AXES @ torch.diag(VALUES.sqrt()) @ AXES.T


def monge(x):
    """m + C^(1/2) x: the flow map from noise to data (`prp-gaussian-transport`)."""
    return GAUSSIAN.mean.to(x) + x @ ROOT.to(x)


def displacement_velocity(x, t):
    """The velocity of the lines from z to m + C^(1/2) z, which never meet."""
    t = t.reshape(-1, 1)
    scale = (1 - t) + t * VALUES.sqrt()  # of z in the axes of C, at time t
    z = ((x - t * GAUSSIAN.mean) @ AXES) / scale
    return GAUSSIAN.mean + (z * (VALUES.sqrt() - 1)) @ AXES.T


@pytest.mark.parametrize(("method", "order"), [(euler, 1), (heun, 2), (rk4, 4)])
@pytest.mark.parametrize("schedule", [CondOT(), Cosine()], ids=lambda s: s.name)
def test_reflow_of_a_gaussian_is_its_monge_map(schedule, method, order):
    noise = normal(100, 2)
    field = ExactField(GAUSSIAN, GaussianPath(schedule))
    errors = []
    for steps in (64, 128):
        same, data = reflow_pairs(field, noise, torch.linspace(0, 1, steps + 1, dtype=F64), method)
        assert same is noise
        errors.append((data - monge(noise)).abs().max().item())
    assert errors[1] < {1: 0.1, 2: 2e-3, 4: 1e-6}[order]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_reflow_in_single_precision_in_chunks_and_short_of_the_ends():
    noise = normal(100, 2, dtype=F32)
    field = ExactField(GAUSSIAN, GaussianPath(VP()))
    # VP's velocity is infinite at t = 1; at these ends the flow is the closed form's psi_{s,t}
    times = 1 - torch.linspace(1, 1e-2, 51, dtype=F64) ** 2
    whole, parts = (reflow_pairs(field, noise, times, rk4, chunk=c)[1] for c in (4096, 30))
    assert whole.dtype == F32
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    s, t = times[[0, -1]]
    start, end = (
        (v.square() * VALUES + w.square()).sqrt()
        for v, w in ((VP().alpha(u), VP().sigma(u)) for u in (s, t))
    )
    alphas = VP().alpha(torch.stack([s, t]))
    z = (noise.double() - alphas[0] * GAUSSIAN.mean) @ AXES
    expected = alphas[1] * GAUSSIAN.mean + (z * (end / start)) @ AXES.T
    # 50 additions to values up to 4, each rounded by 6e-8 of them; the method's error is 2e-7
    assert (whole.double() - expected).abs().max() < 2e-5


def test_reflow_of_a_network_has_no_gradients():
    net = torch.nn.Linear(16, 16)

    def unfold(x, t):
        return net(x.flatten(1)).reshape(x.shape)

    field = NetworkField(unfold, GaussianPath(CondOT()))
    noise, data = reflow_pairs(field, normal(9, 1, 4, 4, dtype=F32), torch.linspace(0, 1, 5))
    assert data.shape == noise.shape and not data.requires_grad


def test_the_second_round_on_a_gaussian_is_straight():
    """Pairs on lines that never meet: the lines' velocity has loss 0, and Euler's step is exact."""
    field = ExactField(GAUSSIAN, GaussianPath(CondOT()))
    pairs = reflow_pairs(field, normal(400, 2), torch.linspace(0, 1, 129, dtype=F64), rk4)
    target = ConditionalFlowMatching(GaussianPath(CondOT()), coupling=ReflowPairs(*pairs))
    batch = torch.zeros(256, 2, dtype=F64)
    loss = target.loss(displacement_velocity, batch, seeded(0)).item()
    # the solver's error of 1e-8, over a scale of 0.3 at least, squared
    assert loss < 1e-13
    first = ConditionalFlowMatching(GaussianPath(CondOT()))
    data = GAUSSIAN.sample(256, seeded(1))
    assert first.loss(displacement_velocity, data, seeded(0)) > 0.5
    step = pairs[0] + displacement_velocity(pairs[0], torch.zeros(400, dtype=F64))
    assert (step - pairs[1]).abs().max() < 1e-7


@pytest.mark.parametrize("dtype", [F32, F64])
def test_stored_pairs_stay_pairs(dtype):
    noise = torch.arange(5.0).reshape(5, 1, 1)
    coupling = ReflowPairs(noise, 2 * noise + 1)
    first, data = coupling(torch.full((5000, 1, 1), 7.0, dtype=dtype), seeded(0))
    assert first.dtype == data.dtype == dtype and first.shape == data.shape == (5000, 1, 1)
    assert torch.equal(data, 2 * first + 1)
    counts = torch.bincount(first.flatten().long(), minlength=5)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6  # false alarm 1e-6
    again, _ = coupling(torch.zeros(5000, 1, 1, dtype=dtype), seeded(0))
    assert torch.equal(first, again)


def test_bad_pairs_are_refused():
    good = normal(4, 2)
    with pytest.raises(ValueError, match=r"data has shape \(0, 2\)"):
        ReflowPairs(good[:0], good[:0])
    with pytest.raises(ValueError, match=r"noise has shape \(4, 2\) and data has shape \(3, 2\)"):
        ReflowPairs(good, good[:3])
    with pytest.raises(ValueError, match="data: 8 of its 8 values are not finite"):
        ReflowPairs(good, good / 0)
    with pytest.raises(ValueError, match="noise: 8 of its 8 values are not finite"):
        ReflowPairs(good / 0, good)
    with pytest.raises(ValueError, match=r"data has events of shape \(3,\).*pairs.*\(2,\)"):
        ReflowPairs(good, good)(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"data has shape \(0, 2\)"):
        ReflowPairs(good, good)(good[:0])


def test_bad_flows_are_refused():
    field = ExactField(GAUSSIAN, GaussianPath(CondOT()))
    noise, times = normal(4, 2), torch.linspace(0, 1, 3)
    with pytest.raises(ValueError, match=r"noise has shape \(0, 2\)"):
        reflow_pairs(field, noise[:0], times)
    with pytest.raises(ValueError, match="chunk=0"):
        reflow_pairs(field, noise, times, chunk=0)
    with pytest.raises(ValueError, match="must strictly increase, from noise"):
        reflow_pairs(field, noise, times.flip(0))
    with pytest.raises(ValueError, match="times has shape"):
        reflow_pairs(field, noise, torch.zeros(1))
    broken = NetworkField(lambda x, t: x / 0, GaussianPath(CondOT()))
    with pytest.raises(ValueError, match="the flow's end: 8 of its 8 values are not finite"):
        reflow_pairs(broken, noise, times)


# -- couplings in a target ------------------------------------------------------------------------


def test_optimal_pairs_lower_the_least_loss_on_a_gaussian():
    """The independent coupling's least loss is exact; any field's loss bounds the other from above.

    On CondOT, in the axes of C, Var(X_1 - eps | X_t) = s / ((1-t)² + t² s) for a variance s, whose
    integral over t is (pi / 2) sqrt(s).
    """
    path = GaussianPath(CondOT())
    least = (math.pi / 2 * VALUES.sqrt()).mean().item()
    batches = [GAUSSIAN.sample(256, seeded(i)) for i in range(20)]

    def losses(coupling, net):
        target = ConditionalFlowMatching(path, coupling=coupling)
        return torch.stack(
            [target.loss(net, data, seeded(100 + i)) for i, data in enumerate(batches)]
        )

    exact = ExactField(GAUSSIAN, path)
    unpaired = losses(independent, lambda x, t: exact.velocity(x, t.flatten()))
    # the formula itself: the mean of 20 independent batches, within 5 standard errors
    assert abs(unpaired.mean().item() - least) < 5 * unpaired.std().item() / math.sqrt(20)
    paired = losses(MinibatchOT(), displacement_velocity)
    # 0.041 here with a standard error of 0.002, where 1.30 is the least without pairing
    assert paired.mean().item() < 0.1 * least


@pytest.mark.parametrize(
    "coupling",
    [MinibatchOT(), Sinkhorn(0.5), FromSource(laboratory()), MinibatchOT(FromSource(laboratory()))],
    ids=["ot", "sinkhorn", "source", "source with ot"],
)
@pytest.mark.parametrize("target", [ConditionalFlowMatching, Regression])
def test_targets_take_couplings(target, coupling):
    data = normal(32, 2, dtype=F32)
    sample = target(GaussianPath(CondOT()), coupling=coupling).draw(data, seeded(0))
    noise, _ = coupling(data, seeded(0))
    assert torch.equal(sample.noise, noise) and sample.data is data
    torch.testing.assert_close(sample.velocity, data - noise)
