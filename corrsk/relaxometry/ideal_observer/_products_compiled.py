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
    first: Array, last: Array, x: Array, ends: NDArray[np.int64], projections: Array, among: Array
) -> None:
    """Inner products of the signals of the compartments of C states.

    Parameters
    ----------
    first, last : ndarray of shape (K, n_axis, C)
        Kernels of the K compartments along both axes.
    x : ndarray of shape (V, n_first, n_last)
        Measured signals.
    ends : ndarray of int, shape (V + 1,)
        The states of voxel v are those from ``ends[v]`` to ``ends[v + 1]``.
    projections : ndarray of shape (K, C)
        Inner products with the measured signals, which are written.
    among : ndarray of shape (K, K, C)
        Inner products of compartments i and j <= i, which are written.
    """
    K, n_first, _ = first.shape
    n_last = last.shape[1]
    a, b = np.empty((K, n_first, _LANES)), np.empty((K, n_last, _LANES))
    one, two = np.empty(_LANES), np.empty(_LANES)
    for v in range(len(x)):
        for start in range(ends[v], ends[v + 1], _LANES):
            size = min(_LANES, ends[v + 1] - start)
            lanes = slice(start, start + size)
            _copy(first, lanes, size, a)
            _copy(last, lanes, size, b)
            for k in range(K):
                for m in range(k + 1):
                    one[:] = 0.0
                    two[:] = 0.0
                    for i in range(n_first):
                        _add(a[k, i], a[m, i], size, one)
                    for j in range(n_last):
                        _add(b[k, j], b[m, j], size, two)
                    product = among[k, m, lanes]
                    for p in range(size):
                        product[p] = one[p] * two[p]
                two[:] = 0.0
                for i in range(n_first):
                    one[:] = 0.0
                    for j in range(n_last):
                        amount, row = x[v, i, j], b[k, j]
                        for p in range(size):
                            one[p] += amount * row[p]
                    _add(one, a[k, i], size, two)
                projection = projections[k, lanes]
                for p in range(size):
                    projection[p] = two[p]


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def peaks(first: Array, last: Array, fractions: Array, found: Array) -> None:
    """Largest absolute values (C,) of the signals of C states, which are written.

    Parameters
    ----------
    first, last : ndarray of shape (K, n_axis, C)
        Kernels of the K compartments along both axes.
    fractions : ndarray of shape (K, C)
        Signal fractions.
    found : ndarray of shape (C,)
        The values.
    """
    K, n_first, C = first.shape
    n_last = last.shape[1]
    a, b = np.empty((K, n_first, _LANES)), np.empty((K, n_last, _LANES))
    total = np.empty(_LANES)
    for start in range(0, C, _LANES):
        size = min(_LANES, C - start)
        lanes = slice(start, start + size)
        _copy(first, lanes, size, a)
        _copy(last, lanes, size, b)
        for k in range(K):
            fraction = fractions[k, lanes]
            for i in range(n_first):
                row = a[k, i]
                for p in range(size):
                    row[p] *= fraction[p]
        largest = found[lanes]
        largest[:] = 0.0
        for i in range(n_first):
            for j in range(n_last):
                if K == 3:  # sums in registers
                    a0, a1, a2 = a[0, i], a[1, i], a[2, i]
                    b0, b1, b2 = b[0, j], b[1, j], b[2, j]
                    for p in range(size):
                        signal = a0[p] * b0[p] + a1[p] * b1[p] + a2[p] * b2[p]
                        largest[p] = max(largest[p], abs(signal))
                    continue
                total[:] = 0.0
                for k in range(K):
                    _add(a[k, i], b[k, j], size, total)
                for p in range(size):
                    largest[p] = max(largest[p], abs(total[p]))


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _copy(kernels: Array, lanes: slice, size: int, found: Array) -> None:
    """Copy the kernels (K, n_axis, C) of some states to (K, n_axis, lanes)."""
    for k in range(len(kernels)):
        for i in range(kernels.shape[1]):
            kernel, row = kernels[k, i, lanes], found[k, i]
            for p in range(size):
                row[p] = kernel[p]


@njit(cache=True, nogil=True, fastmath=_MATH, inline="always")
def _add(a: Array, b: Array, size: int, total: Array) -> None:
    for p in range(size):
        total[p] += a[p] * b[p]
