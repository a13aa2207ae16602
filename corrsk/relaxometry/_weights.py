"""Choice of the weight of a penalty, from the residual, the spectrum or the evidence.

Every rule starts at the nearly unregularised spectrum, whose neighbours are found in few steps.
"""

from __future__ import annotations

import math

import numpy as np

from corrsk.relaxometry._kernels import Array
from corrsk.relaxometry._nnls import SMALLEST_ALPHA, DualSolver
from corrsk.relaxometry._penalties import PenaltySolver

# The search for a residual: first alpha, and logarithm of the ratio of the excess over the smallest
# residual to the required excess
_FIRST_ALPHA, _RESIDUAL, _MAX_TRIALS = 3e-7, 0.01, 60
_PATH = 10.0 ** np.arange(math.log10(SMALLEST_ALPHA), 0.1, 0.5)  # weights of the other rules
Solver = DualSolver | PenaltySolver
RULES = ("chi2", "discrepancy", "l-curve", "gcv", "evidence")


def by_factor(solver: Solver, x: Array, factor: float) -> tuple[Array, Array]:
    """Solutions whose residual is `factor` times that of the nearly unregularised ones.

    Parameters
    ----------
    solver : DualSolver or PenaltySolver
        Solver.
    x : ndarray of shape (V, N)
        Signals.
    factor : float
        Factor above 1 of the residual sum of squares.

    Returns
    -------
    dual : ndarray of shape (V, ..)
        Solutions, as `solver` represents them.
    alpha : ndarray of shape (V,)
        Between `SMALLEST_ALPHA` and 1; at these bounds the residual may differ from the
        required one.
    """
    data, rest = solver.compress(x)
    dual = solver.solve_all(data, SMALLEST_ALPHA)
    smallest = solver.rss(data, dual, np.full(len(x), SMALLEST_ALPHA), rest)
    return _at_residual(solver, data, rest, factor * smallest, dual)


def by_noise(solver: Solver, x: Array, variance: Array) -> tuple[Array, Array]:
    """Solutions whose residual is that of the noise (Morozov's discrepancy principle).

    Parameters
    ----------
    solver : DualSolver or PenaltySolver
        Solver.
    x : ndarray of shape (V, N)
        Signals.
    variance : ndarray of shape (V,)
        Variance of the noise of each signal.

    Returns
    -------
    dual, alpha
        As of :func:`by_factor`.
    """
    data, rest = solver.compress(x)
    dual = solver.solve_all(data, SMALLEST_ALPHA)
    return _at_residual(solver, data, rest, solver.n_measurements * variance, dual)


def by_criterion(solver: Solver, x: Array, rule: str) -> tuple[Array, Array]:
    """Solutions at the optimum of a criterion along the weights.

    Parameters
    ----------
    solver : DualSolver or PenaltySolver
        Solver.
    x : ndarray of shape (V, N)
        Signals.
    rule : {"l-curve", "gcv", "evidence"}
        Corner of the logarithm of the penalty over that of the residual (Hansen, SIAM Rev. 34,
        561 (1992)); generalised cross-validation (Golub, Heath and Wahba, Technometrics 21, 215
        (1979)); evidence of a Gaussian prior whose variance is that of the noise over alpha, with
        the noise's variance at its maximum (MacKay, Neural Comput. 4, 415 (1992)). The degrees of
        freedom and the determinant are those of the cells that are not zero.

    Returns
    -------
    dual, alpha
        As of :func:`by_factor`.
    """
    data, rest = solver.compress(x)
    N = solver.n_measurements
    costs, log_rss, log_penalty = [], [], []
    dual = solver.solve_all(data, SMALLEST_ALPHA)
    for value in _PATH:
        alpha = np.full(len(x), value)
        dual = solver.solve(data, alpha, dual)
        rss, penalty = solver.rss(data, dual, alpha, rest), solver.penalty(dual)
        log_rss.append(np.log(np.maximum(rss, 1e-300)))
        log_penalty.append(np.log(np.maximum(penalty, 1e-300)))
        if rule == "gcv":
            freedom, _ = solver.freedom(dual, alpha)
            costs.append(log_rss[-1] - 2 * np.log(1 - freedom / N))
        elif rule == "evidence":
            _, determinant = solver.freedom(dual, alpha)
            costs.append(N * np.log(np.maximum(rss + value * penalty, 1e-300)) + determinant)
    z = np.log(_PATH)
    cost = -_curvature(np.stack(log_rss), np.stack(log_penalty), z) if rule == "l-curve" else (
        np.stack(costs)
    )  # fmt: skip
    alpha = np.exp(_minimum(z, cost))
    return solver.solve(data, alpha, dual), alpha


def _at_residual(
    solver: Solver, data: Array, rest: Array, target: Array, dual: Array
) -> tuple[Array, Array]:
    """Solutions with given residual sums of squares, from those for `SMALLEST_ALPHA`."""
    V, dual = len(data), dual.copy()
    smallest = solver.rss(data, dual, np.full(V, SMALLEST_ALPHA), rest)
    excess = target - smallest  # over the smallest residual; it grows with a power of alpha
    low, high = np.full(V, math.log(SMALLEST_ALPHA)), np.zeros(V)
    found, trial = low.copy(), np.full(V, math.log(_FIRST_ALPHA))
    slope, before = np.full(V, 1.3), np.full((2, V), np.nan)
    reached = solver.solve_largest(data)
    if reached is not None:  # the solution of the largest weight, where its residual suffices
        enough = solver.rss(data, reached, np.ones(V), rest) <= target
        dual[enough], found[enough] = reached[enough], 0.0
        excess = np.where(enough, 0.0, excess)
    live = np.flatnonzero(excess > 0)
    for _ in range(_MAX_TRIALS):
        if not live.size:
            break
        z = trial[live]
        part = solver.solve(data[live], np.exp(z), dual[live])
        over = solver.rss(data[live], part, np.exp(z), rest[live]) - smallest[live]
        # a residual below the smallest one is a rounding error
        ratio = np.log(np.maximum(over / excess[live], 1e-6))
        steeper = (ratio - before[1, live]) / (z - before[0, live])
        usable = np.isfinite(steeper) & (steeper > 0.2) & (steeper < 5)
        slope[live] = np.where(usable, steeper, slope[live])
        before[:, live] = z, ratio
        dual[live], found[live] = part, z
        low[live] = np.where(ratio <= 0, z, low[live])
        high[live] = np.where(ratio <= 0, high[live], z)
        after = z - ratio / slope[live]
        inside = (after > low[live]) & (after < high[live])
        trial[live] = np.where(inside, after, (low[live] + high[live]) / 2)
        done = (np.abs(ratio) <= _RESIDUAL) | (high[live] - low[live] <= 1e-3)
        live = live[~done & ~np.isnan(ratio)]
    return dual, np.exp(found)


def _curvature(a: Array, b: Array, z: Array) -> Array:
    """Curvature of the curves (a, b) of shape (n, V) along z."""
    da, db = (np.gradient(each, z, axis=0) for each in (a, b))
    dda, ddb = (np.gradient(each, z, axis=0) for each in (da, db))
    curvature = (da * ddb - dda * db) / np.maximum(da**2 + db**2, 1e-12) ** 1.5
    curvature[[0, -1]] = -np.inf  # a corner is inside
    return np.asarray(curvature)


def _minimum(z: Array, cost: Array) -> Array:
    """Position (V,) of the smallest cost (n, V), by a parabola through its neighbours."""
    best = np.where(np.isnan(cost), np.inf, cost).argmin(axis=0)
    middle = np.clip(best, 1, len(z) - 2)
    columns = np.arange(cost.shape[1])
    left, centre, right = (cost[middle + shift, columns] for shift in (-1, 0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = 0.5 * (left - right) / (left - 2 * centre + right)
    usable = (best == middle) & np.isfinite(shift) & (np.abs(shift) <= 1)
    return np.asarray(z[best] + np.where(usable, shift, 0.0) * (z[1] - z[0]))
