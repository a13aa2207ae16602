"""Compiled inner products of signals on a grid, and of their derivatives.

The signal of a compartment on a grid of two axes is an outer product ``A_k B_k^T`` of its kernels,
and so is its derivative with respect to a property. The inner product of two outer products is the
product of two short inner products: no signal is computed. Problems are stored side by side, so
that the innermost loops run over problems and are vectorised.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Sums may be reordered (and so vectorised); NaN and infinity keep their meaning.
_MATH = {"reassoc", "contract", "nsz", "arcp"}
_LANES = 32  # problems of a block


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def products(
    first: Array, last: Array, step: float, x: Array, fractions: Array, of_fractions: Array,
    weight: Array, axes: NDArray[np.int64], projection: Array, squared: Array, peak: Array,
    of_signal: Array, with_signal: Array, among: Array,
) -> None:  # fmt: skip
    """Inner products of B problems with K compartments and d coordinates.

    Parameters
    ----------
    first, last : ndarray of shape (n_axis, 3, K, B)
        Kernels along both axes: at the coordinates, and a step before and behind them.
    step : float
        Distance of both ends.
    x : ndarray of shape (n_first, n_last, B)
        Measured signals.
    fractions : ndarray of shape (K, B)
        Signal fractions.
    of_fractions : ndarray of shape (K, d - P K, B)
        Derivatives of the fractions with respect to the last coordinates.
    weight : ndarray of shape (P K, B)
        Derivatives of the units times the fractions.
    axes : ndarray of int, shape (P,)
        Axis, 0 or 1, that depends on each property.
    projection, squared : ndarray of shape (B,)
        Inner products of the signal S with x and with itself, which are written.
    peak : ndarray of shape (B,) or (0,)
        Largest absolute value of S, which is written unless it is empty.
    of_signal, with_signal : ndarray of shape (d, B)
        Inner products of the derivatives of S with x and with S, which are written.
    among : ndarray of shape (d, d, B)
        Inner products of the derivatives, which are written.
    """
    K, B = fractions.shape
    P, F = len(axes), of_fractions.shape[1]
    n_first, n_last = len(first), len(last)
    a, b = np.empty((2 * K, n_first, _LANES)), np.empty((2 * K, n_last, _LANES))
    of_a, of_b = np.empty((2 * K, 2 * K, _LANES)), np.empty((2 * K, 2 * K, _LANES))
    part = np.empty((n_first, _LANES))
    # kinds 0 to 2 of each compartment: its signal, its derivatives along both axes
    with_x = np.zeros((3, K, _LANES))
    inner = np.empty((3 * K, 3 * K, _LANES))
    with_s = np.zeros((3, K, _LANES))
    total = np.empty(_LANES)
    for start in range(0, B, _LANES):
        size = min(_LANES, B - start)
        lanes = slice(start, start + size)
        _load(first, step, start, size, a)
        _load(last, step, start, size, b)
        _grams(a, size, of_a)
        _grams(b, size, of_b)
        with_x[:] = 0.0
        for j in range(2 * K):
            for i in range(n_first):
                row = part[i]
                row[:] = 0.0
                for c in range(n_last):
                    given, kernel = x[i, c, lanes], b[j, c]
                    for p in range(size):
                        row[p] += given[p] * kernel[p]
            if j < K:
                for i in range(n_first):
                    _add(part[i], a[j, i], size, with_x[0, j])
                    _add(part[i], a[K + j, i], size, with_x[1, j])
            else:
                for i in range(n_first):
                    _add(part[i], a[j - K, i], size, with_x[2, j - K])
        for e in range(3 * K):
            for f in range(e + 1):
                # kind 1 has the derivative of a, kind 2 that of b
                one = of_a[e % K + K * (e // K == 1), f % K + K * (f // K == 1)]
                two = of_b[e % K + K * (e // K == 2), f % K + K * (f // K == 2)]
                low, high = inner[e, f], inner[f, e]
                for p in range(size):
                    product = one[p] * two[p]
                    low[p] = product
                    high[p] = product
        with_s[:] = 0.0
        projection[lanes] = 0.0
        squared[lanes] = 0.0
        for k in range(K):
            fraction = fractions[k, lanes]
            _add(fraction, with_x[0, k], size, projection[lanes])
            for e in range(3 * K):
                _add(fraction, inner[k, e], size, with_s[e // K, e % K])
        for k in range(K):
            _add(fractions[k, lanes], with_s[0, k], size, squared[lanes])
        if len(peak):
            largest = peak[lanes]
            largest[:] = 0.0
            for i in range(n_first):
                for c in range(n_last):
                    total[:] = 0.0
                    for k in range(K):
                        fraction, one, two = fractions[k, lanes], a[k, i], b[k, c]
                        for p in range(size):
                            total[p] += fraction[p] * one[p] * two[p]
                    for p in range(size):
                        largest[p] = max(largest[p], abs(total[p]))
        for r in range(P * K):
            own, kind, k = weight[r, lanes], 1 + axes[r // K], r % K
            of_x, of_s = of_signal[r, lanes], with_signal[r, lanes]
            one, two = with_x[kind, k], with_s[kind, k]
            for p in range(size):
                of_x[p] = own[p] * one[p]
                of_s[p] = own[p] * two[p]
            for s in range(r + 1):
                other, product = (
                    weight[s, lanes],
                    inner[kind * K + k, (1 + axes[s // K]) * K + s % K],
                )
                low, high = among[r, s, lanes], among[s, r, lanes]
                for p in range(size):
                    value = own[p] * other[p] * product[p]
                    low[p] = value
                    high[p] = value
        for g in range(F):
            r = P * K + g
            of_signal[r, lanes] = 0.0
            with_signal[r, lanes] = 0.0
            for k in range(K):
                slope = of_fractions[k, g, lanes]
                _add(slope, with_x[0, k], size, of_signal[r, lanes])
                _add(slope, with_s[0, k], size, with_signal[r, lanes])
            for s in range(P * K):
                total[:] = 0.0
                for k in range(K):
                    product = inner[k, (1 + axes[s // K]) * K + s % K]
                    _add(of_fractions[k, g, lanes], product, size, total)
                other, low, high = weight[s, lanes], among[r, s, lanes], among[s, r, lanes]
                for p in range(size):
                    low[p] = total[p] * other[p]
                    high[p] = low[p]
            for h in range(g + 1):
                total[:] = 0.0
                for k in range(K):
                    one = of_fractions[k, g, lanes]
                    for m in range(K):
                        two, product = of_fractions[m, h, lanes], inner[k, m]
                        for p in range(size):
                            total[p] += one[p] * two[p] * product[p]
                low, high = among[r, P * K + h, lanes], among[P * K + h, r, lanes]
                for p in range(size):
                    low[p] = total[p]
                    high[p] = total[p]


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


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _load(kernels: Array, step: float, start: int, size: int, found: Array) -> None:
    """Copy kernels of K compartments, and their derivatives, to (2 K, n_axis, lanes)."""
    n, _, K, _ = kernels.shape
    scale = 1.0 / step
    lanes = slice(start, start + size)
    for k in range(K):
        for i in range(n):
            value, slope = found[k, i], found[K + k, i]
            here = kernels[i, 0, k, lanes]
            ahead, behind = kernels[i, 1, k, lanes], kernels[i, 2, k, lanes]
            for p in range(size):
                value[p] = here[p]
                slope[p] = scale * (ahead[p] - behind[p])


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _grams(vectors: Array, size: int, found: Array) -> None:
    """Inner products of vectors (m, n, lanes) with each other, (m, m, lanes)."""
    for i in range(len(vectors)):
        for j in range(i + 1):
            low, high = found[i, j], found[j, i]
            low[:] = 0.0
            for c in range(vectors.shape[1]):
                _add(vectors[i, c], vectors[j, c], size, low)
            for p in range(size):
                high[p] = low[p]


@njit(cache=True, nogil=True, fastmath=_MATH, inline="always")
def _add(a: Array, b: Array, size: int, total: Array) -> None:
    for p in range(size):
        total[p] += a[p] * b[p]
