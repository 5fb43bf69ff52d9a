"""The assignment problem: three methods, one optimum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from fromnoise import assignment
from fromnoise.assignment import assign

METHODS = [assignment._whole, assignment._priced]


def clouds(n: int, dim: int, seed: int) -> np.ndarray:
    """Squared distances between normal points and points in clusters."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim))
    y = 0.1 * rng.normal(size=(n, dim)) + 3 * rng.integers(-1, 2, size=(n, dim))
    return ((x[:, None] - y) ** 2).sum(-1)


def total(cost: np.ndarray, chosen: np.ndarray) -> float:
    assert sorted(chosen.tolist()) == list(range(len(cost)))  # a permutation
    return float(cost[np.arange(len(cost)), chosen].sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dim", [1, 2, 64])
@given(n=st.integers(1, 60), seed=st.integers(0, 1000))
def test_all_methods_reach_the_optimum(method, dim, n, seed):
    cost = clouds(n, dim, seed)
    best = cost[linear_sum_assignment(cost)].sum()
    # entries below 1e-12 of the largest cost may be missed, each of n once
    assert total(cost, method(cost / cost.max())) <= best + 1e-11 * n * cost.max()


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("n", [1, 2, 100, 900])  # 900 is beyond the limit for prices
def test_assign_reaches_the_optimum_at_any_size_and_scale(n, alike):
    for scale, shift in ((1.0, 0.0), (1e-14, 0.0), (1e150, 0.0), (1.0, -1e6)):
        cost = scale * clouds(n, 40, 3) + shift
        best = cost[linear_sum_assignment(cost)].sum()
        found = total(cost, assign(cost, alike=alike))
        assert found <= best + 1e-11 * n * np.abs(cost).max()


@pytest.mark.parametrize("alike", [False, True])
def test_equal_costs_are_no_difficulty(alike):
    for cost in (np.zeros((800, 800)), np.ones((800, 800)), np.eye(800)):
        best = cost[linear_sum_assignment(cost)].sum()
        assert total(cost, assign(cost, alike=alike)) == best


def test_a_permutation_is_found_again():
    rng = np.random.default_rng(0)
    hidden = rng.permutation(900)
    cost = rng.uniform(1.0, 2.0, size=(900, 900))
    cost[np.arange(900), hidden] = 0.5
    assert np.array_equal(assign(cost, alike=True), hidden)
    assert np.array_equal(assign(cost), hidden)


def test_too_few_entries_at_first_are_made_up_for(monkeypatch):
    """With one entry a row at first more are added; with no round left the whole is solved."""
    cost = clouds(200, 2, 1)
    best = cost[linear_sum_assignment(cost)].sum()
    monkeypatch.setattr(assignment, "_PER_ROW", 1)
    for rounds in (1, 40):
        monkeypatch.setattr(assignment, "_ROUNDS", rounds)
        found = total(cost, assignment._priced(cost / cost.max()))
        assert found == pytest.approx(best, rel=1e-12)


def test_prices_that_say_nothing_cost_time_only(monkeypatch):
    n = 60
    cost = clouds(n, 30, 2)
    nothing = np.zeros(n, dtype=np.float32)
    monkeypatch.setattr(assignment, "_entropic_prices", lambda cost: (nothing, nothing))
    best = cost[linear_sum_assignment(cost)].sum()
    assert total(cost, assignment._priced(cost / cost.max())) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\): an assignment needs a square matrix"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "not finite"),
        (np.array([[0.0, np.inf], [1.0, 2.0]]), "not finite"),
    ],
)
def test_bad_costs(cost, message):
    with pytest.raises(ValueError, match=message):
        assign(cost)
