"""Batches of small linear systems and non-negative least squares problems."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RIDGE = 1e-13  # relative; regularises the Gram matrix of two equal compartments


def solve_each(matrices: Array, right: Array) -> Array:
    """Solve linear systems (B, K, K), (B, K, m); a singular system yields NaN, not an error."""
    solutions: Array
    if matrices.shape[-1] == 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(matrices != 0, right / matrices, np.nan))
    try:
        solutions = np.linalg.solve(matrices, right).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        solutions = np.full(right.shape, np.nan)
        for index in range(len(matrices)):
            try:
                solutions[index] = np.linalg.solve(matrices[index], right[index])
            except np.linalg.LinAlgError:
                continue
    return solutions


def nonnegative_amplitudes(gram: Array, projection: Array) -> Array:
    """Amplitudes a >= 0 that minimise ``a^T G a - 2 h^T a``.

    Parameters
    ----------
    gram : ndarray of shape (B, K, K)
        Gram matrices G, with ones on the diagonal.
    projection : ndarray of shape (B, K)
        Projections h.

    Returns
    -------
    ndarray of shape (B, K)
        Exact minimum: if the unconstrained minimum has a negative amplitude, the
        best minimum of all supports without negative amplitudes.
    """
    K = gram.shape[-1]
    gram = gram + RIDGE * np.eye(K)
    amplitudes = solve_each(gram, projection[..., None])[..., 0]
    rows = np.flatnonzero((amplitudes < 0).any(axis=-1))
    if not rows.size:
        return amplitudes
    gram, projection = gram[rows], projection[rows]
    best, gain = np.zeros((rows.size, K)), np.zeros(rows.size)
    for size in range(1, K):
        for members in combinations(range(K), size):
            index = np.array(members)
            part = projection[:, index]
            found = solve_each(gram[:, index[:, None], index], part[..., None])[..., 0]
            found_gain = np.where((found >= 0).all(axis=-1), (part * found).sum(axis=-1), -1.0)
            better = np.flatnonzero(found_gain > gain)
            gain[better] = found_gain[better]
            best[better] = 0.0
            best[better[:, None], index] = found[better]
    amplitudes[rows] = best
    return amplitudes
