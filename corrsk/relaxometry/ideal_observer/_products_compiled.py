"""Compiled inner products of signals on a grid.

The signal of a compartment on a grid of two axes is an outer product ``A_k B_k^T`` of its kernels.
The inner product of two outer products is the product of two short inner products: no signal is
computed. States are stored side by side, so that the innermost loops run over states and are
vectorised.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Sums may be reordered (and so vectorised); NaN and infinity keep their meaning.
_MATH = {"reassoc", "contract", "nsz", "arcp"}
_LANES = 32  # states of a block


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def forms(
    first: Array, last: Array, x: Array, ends: NDArray[np.int64], fractions: Array,
    projection: Array, squared: Array, peak: Array,
) -> None:  # fmt: skip
    """Inner products of the signals S of C states with the measured signals of their voxels.

    Parameters
    ----------
    first, last : ndarray of shape (K, n_axis, C)
        Kernels of the K compartments along both axes.
    x : ndarray of shape (V, n_first, n_last)
        Measured signals.
    ends : ndarray of int, shape (V + 1,)
        The states of voxel v are those from ``ends[v]`` to ``ends[v + 1]``.
    fractions : ndarray of shape (K, C)
        Signal fractions.
    projection, squared : ndarray of shape (C,)
        Inner products of S with x and with itself, which are written.
    peak : ndarray of shape (C,) or (0,)
        Largest absolute value of S, which is written unless it is empty.
    """
    K, n_first, _ = first.shape
    n_last = last.shape[1]
    a = np.empty((K, n_first, _LANES))
    b = np.empty((K, n_last, _LANES))
    one, two = np.empty(_LANES), np.empty(_LANES)
    with_x, norm, largest = np.empty(_LANES), np.empty(_LANES), np.empty(_LANES)
    for v in range(len(x)):
        for start in range(ends[v], ends[v + 1], _LANES):
            size = min(_LANES, ends[v + 1] - start)
            for k in range(K):
                fraction = fractions[k, start : start + size]
                for i in range(n_first):
                    kernel, row = first[k, i, start : start + size], a[k, i]
                    for p in range(size):
                        row[p] = fraction[p] * kernel[p]
                for j in range(n_last):
                    kernel, row = last[k, j, start : start + size], b[k, j]
                    for p in range(size):
                        row[p] = kernel[p]
            with_x[:] = 0.0
            norm[:] = 0.0
            largest[:] = 0.0
            for k in range(K):
                for m in range(k + 1):
                    one[:] = 0.0
                    two[:] = 0.0
                    for i in range(n_first):
                        _add(a[k, i], a[m, i], size, one)
                    for j in range(n_last):
                        _add(b[k, j], b[m, j], size, two)
                    twice = 1.0 if m == k else 2.0
                    for p in range(size):
                        norm[p] += twice * one[p] * two[p]
                for i in range(n_first):
                    one[:] = 0.0
                    for j in range(n_last):
                        amount, row = x[v, i, j], b[k, j]
                        for p in range(size):
                            one[p] += amount * row[p]
                    _add(one, a[k, i], size, with_x)
            if len(peak):
                for i in range(n_first):
                    for j in range(n_last):
                        if K == 3:  # sums in registers
                            a0, a1, a2 = a[0, i], a[1, i], a[2, i]
                            b0, b1, b2 = b[0, j], b[1, j], b[2, j]
                            for p in range(size):
                                signal = a0[p] * b0[p] + a1[p] * b1[p] + a2[p] * b2[p]
                                largest[p] = max(largest[p], abs(signal))
                            continue
                        one[:] = 0.0
                        for k in range(K):
                            _add(a[k, i], b[k, j], size, one)
                        for p in range(size):
                            largest[p] = max(largest[p], abs(one[p]))
                for p in range(size):
                    peak[start + p] = largest[p]
            for p in range(size):
                projection[start + p] = with_x[p]
                squared[start + p] = norm[p]


@njit(cache=True, nogil=True, fastmath=_MATH, inline="always")
def _add(a: Array, b: Array, size: int, total: Array) -> None:
    for p in range(size):
        total[p] += a[p] * b[p]
