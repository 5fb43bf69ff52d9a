"""The assignment problem, solved exactly: which row goes with which column at the least total cost.

Three exact methods, each the fastest somewhere (benchmarks/cost.py):

- POT's network simplex (``ot.emd``) on the whole matrix, for costs between points of the plane;
- SciPy's shortest augmenting paths (``linear_sum_assignment``), for small matrices whose entries
  are alike, as between noise and images: it is quick where nearly everybody gets a first choice,
  and slow where many points compete for few;
- the network simplex on few entries a row, chosen by the prices of an entropic plan, after which
  all entries are asked whether one of them would lower the cost; for large matrices of that kind.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

# Pivots of the network simplex before giving up; a batch of 1024 takes some ten thousand.
_MAX_PIVOTS = 100_000_000

# Rows from which prices are faster than augmenting paths.
_LARGE = 768

# Of the priced method. None of them touches the result, only the time it takes.
_TEMPERATURE = 0.02  # of the entropic plan, in units of the largest cost
_SWEEPS = 10  # of Sinkhorn's iteration: prices need not be good, only better than none
_PER_ROW = 15  # entries a row to begin with
_ADDED_PER_ROW = 6  # at most so many more a round
_ROUNDS = 6  # then the whole matrix, with the prices found so far

# A reduced cost above minus this, relative to the largest cost, is rounding.
_ROUNDING = 1e-12


def assign(cost: NDArray[np.float64], *, alike: bool = False) -> NDArray[np.int64]:
    """The permutation p that minimizes the sum over rows i of ``cost[i, p[i]]``.

    Args:
        cost: ``(n, n)``, finite, float64.
        alike: whether the entries of a row are alike, as costs between points of high dimension
            are. Decides the method, not the result: all are exact, but where several permutations
            are optimal they may find different ones.

    Returns:
        ``(n,)``, the column of each row.

    Raises:
        ValueError: the matrix is not square or not finite.
        RuntimeError: the solver gave up.
    """
    cost = np.asarray(cost, dtype=np.float64)
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(f"cost has shape {cost.shape}: an assignment needs a square matrix.")
    if not np.isfinite(cost).all():
        raise ValueError("cost holds values that are not finite: find where they come from.")
    # Divided by its largest entry, because the solver takes costs below about 1e-15 for zero.
    cost = cost / (np.abs(cost).max(initial=0.0) or 1.0)
    if not alike:
        return _whole(cost)
    return _priced(cost) if len(cost) > _LARGE else linear_sum_assignment(cost)[1]


def _whole(cost, prices=None) -> NDArray[np.int64]:
    """The whole matrix, if prices are known beginning with them."""
    import ot  # here, because importing it takes seconds

    ones = np.ones(len(cost))  # with whole weights the flows are whole too: 0 and 1, no rounding
    plan, log = ot.emd(ones, ones, cost, numItermax=_MAX_PIVOTS, log=True, potentials_init=prices)
    _check(log, len(cost))
    return plan.argmax(1)


def _priced(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """A few entries a row, then all entries that their prices show to be missing, until none is.

    With prices u, v of the small problem, ``cost[i, j] >= u[i] + v[j]`` for every entry makes its
    optimum one of the whole problem (linear duality: every permutation then costs at least
    sum u + sum v, which is what this one costs).
    """
    import ot

    n = len(cost)
    ones = np.ones(n)
    single = cost.astype(np.float32)  # good enough to choose entries
    row, column = _entropic_prices(single)
    chosen = _cheapest(single - row[:, None] - column, _PER_ROW)
    np.fill_diagonal(chosen, True)  # so that there is a permutation among the entries
    for _ in range(_ROUNDS):
        i, j = np.nonzero(chosen)
        plan, log = ot.emd(
            ones,
            ones,
            coo_array((cost[i, j], (i, j)), shape=(n, n)),
            numItermax=_MAX_PIVOTS,
            log=True,
            check_marginals=False,
        )
        _check(log, n)
        u, v = log["u"], log["v"]
        reduced = cost - u[:, None]
        reduced -= v
        missing = reduced < -_ROUNDING
        if not missing.any():
            return plan.tocsr().argmax(1).ravel()
        chosen |= missing & _cheapest(reduced, _ADDED_PER_ROW)
    return _whole(cost, (u, v))


def _entropic_prices(cost: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
    """f, g of a plan exp((f_i + g_j - cost_ij) / temperature) with marginals nearly uniform."""
    least = cost.min(1)
    kernel = np.exp((least[:, None] - cost) / np.float32(_TEMPERATURE))
    v = np.ones(len(cost), dtype=np.float32)
    tiny = np.finfo(np.float32).tiny
    for _ in range(_SWEEPS):
        u = 1.0 / np.maximum(kernel @ v, tiny)
        v = 1.0 / np.maximum(u @ kernel, tiny)
    return least + _TEMPERATURE * np.log(u), _TEMPERATURE * np.log(v)


def _cheapest(reduced: NDArray, per_row: int) -> NDArray[np.bool_]:
    """The cheapest entries, about `per_row` a row; the threshold comes from a sample of them."""
    n = len(reduced)
    sample = reduced.ravel()[:: max(1, n * n // 20_000) | 1]  # an odd stride meets all columns
    return reduced <= np.quantile(sample, min(1.0, per_row / n))


def _check(log: dict, n: int) -> None:
    if log["warning"] is not None:
        raise RuntimeError(f"ot.emd, batch {n}: {log['warning']} Try a smaller batch.")
