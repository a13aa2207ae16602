"""Compiled step of the averages of like neighbours; needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# contraction of products and sums, but no new order of sums
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": True}


@njit(**_OPTIONS)
def step(
    source: Any, averages: Any, variance: Any, inside: Any, offsets: Any, closeness: Any,
    limit: Any, total: Any, n_averaged: Any,
) -> None:  # fmt: skip
    """Average the values of a source over the neighbours of each voxel, in place.

    Parameters
    ----------
    source : ndarray of float32, shape (n_x, n_y, n_z, n)
        Values to average.
    averages : ndarray of float32, shape (n_x, n_y, n_z, k)
        Averages of the step before, which are compared.
    variance : ndarray of float32, shape (n_x, n_y, n_z)
        Their variance relative to that of a signal.
    inside : ndarray of bool, shape (n_x, n_y, n_z)
        Voxels to use.
    offsets : ndarray of int64, shape (n_offsets, 3)
        Offsets of half of the neighbours; the others have the opposite sign.
    closeness : ndarray of float32, shape (n_offsets,)
        Weights by distance.
    limit : float32
        Squared difference with half of the weight, for a variance of 1.
    total : ndarray of float32, shape (n_x, n_y, n_z, n)
        Averages, written.
    n_averaged : ndarray of float32, shape (n_x, n_y, n_z)
        Effective number of voxels, written.
    """
    n_x, n_y, n_z, n = source.shape
    k = averages.shape[3]
    sums = np.empty(n, np.float32)
    own = np.empty(k, np.float32)
    for x in range(n_x):
        for y in range(n_y):
            for z in range(n_z):
                if not inside[x, y, z]:
                    total[x, y, z] = 0
                    n_averaged[x, y, z] = 1
                    continue
                here = variance[x, y, z]
                for c in range(n):
                    sums[c] = source[x, y, z, c]
                for c in range(k):
                    own[c] = averages[x, y, z, c]
                weights = squared = np.float32(1)
                for place in range(2 * offsets.shape[0]):
                    sign = 1 - 2 * (place % 2)
                    i, j = place // 2, x + sign * offsets[place // 2, 0]
                    v, w = y + sign * offsets[i, 1], z + sign * offsets[i, 2]
                    outside = j < 0 or j >= n_x or v < 0 or v >= n_y or w < 0 or w >= n_z
                    if outside or not inside[j, v, w]:
                        continue
                    statistic = np.float32(0)
                    for c in range(k):
                        difference = own[c] - averages[j, v, w, c]
                        statistic += difference * difference
                    weight = np.float32(2) - statistic / (limit * (here + variance[j, v, w]))
                    if weight <= 0:
                        continue
                    weight = min(weight, np.float32(1)) * closeness[i]
                    weights += weight
                    squared += weight * weight
                    row = source[j, v, w]
                    for c in range(n):
                        sums[c] += weight * row[c]
                for c in range(n):
                    total[x, y, z, c] = sums[c] / weights
                n_averaged[x, y, z] = weights * weights / squared
