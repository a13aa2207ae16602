"""Compiled densities and points of mixtures, voxel by voxel.

The functions of `corrsk._utils.normal_mixtures` in numba, to rounding. A block of points is stored
dimension by dimension, so that the innermost loops run over contiguous points and are vectorised.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Sums may be reordered (and so vectorised); NaN and infinity keep their meaning.
_MATH = {"reassoc", "contract", "nsz", "arcp"}
_BLOCK = 256  # points of a block, which fit in the first cache


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def density(
    constant: Array, means: Array, factors: Array, z: Array, wanted: NDArray[np.bool_],
    freedom: int, total: Array,
) -> None:  # fmt: skip
    """Sum of the densities of the components at points.

    Parameters
    ----------
    constant : ndarray of shape (V, M)
        Densities at the means; components of 0 are left out.
    means : ndarray of shape (V, M, d)
        Means.
    factors : ndarray of shape (V, M, d, d)
        Lower triangular matrices L.
    z : ndarray of shape (V, n, d)
        Points.
    wanted : ndarray of bool, shape (V, n)
        Points whose density is computed.
    freedom : int
        Degrees of freedom.
    total : ndarray of shape (V, n)
        Densities, which are written; 0 at the other points.
    """  # fmt: skip
    V, n, d = z.shape
    block, centred = np.empty((d, _BLOCK)), np.empty((d, _BLOCK))
    y, found, whole = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    chosen = np.empty(_BLOCK, np.int64)
    for v in range(V):
        total[v] = 0.0
        start = 0
        while start < n:
            start, size = _load(z[v], wanted[v], start, chosen, block)
            whole[:] = 0.0
            for m in range(means.shape[1]):
                if constant[v, m] == 0:
                    continue
                _component(
                    constant[v, m], means[v, m], factors[v, m], block, centred, size, freedom,
                    y, found,
                )  # fmt: skip
                for p in range(size):
                    whole[p] += found[p]
            for p in range(size):
                total[v, chosen[p]] = whole[p]


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def points(
    cumulative: Array, means: Array, factors: Array, uniform: Array, standard: Array, found: Array
) -> None:
    """Points of a mixture: the means plus standard points times L^-1.

    Parameters
    ----------
    cumulative : ndarray of shape (V, M)
        Cumulative weights of the components.
    means, factors
        See :func:`density`.
    uniform : ndarray of shape (V, n)
        Uniform numbers, which choose the components.
    standard : ndarray of shape (V, n, d)
        Standard points.
    found : ndarray of shape (V, n, d)
        Points, which are written.
    """
    V, n, d = standard.shape
    for v in range(V):
        bounds = cumulative[v]
        for p in range(n):
            m = 0
            while m < len(bounds) - 1 and uniform[v, p] > bounds[m]:
                m += 1
            factor, mean, y, away = factors[v, m], means[v, m], standard[v, p], found[v, p]
            for j in range(d - 1, -1, -1):
                rest = y[j]
                for i in range(j + 1, d):
                    rest -= away[i] * factor[i, j]
                away[j] = rest / factor[j, j]
            for j in range(d):
                away[j] += mean[j]


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def inverse_factors(covariances: Array, factors: Array) -> None:
    """Lower triangular L with ``L L^T`` the inverse of each covariance (B, d, d); written.

    The covariance is U U^T with an upper triangular U, and L the transpose of U^-1.
    """
    B, d, _ = covariances.shape
    upper = np.empty((d, d))
    for b in range(B):
        for j in range(d - 1, -1, -1):
            for i in range(j, -1, -1):
                rest = covariances[b, i, j]
                for k in range(j + 1, d):
                    rest -= upper[i, k] * upper[j, k]
                if i == j:
                    upper[j, j] = math.sqrt(rest) if rest > 0 else math.nan
                else:
                    upper[i, j] = rest / upper[j, j]
        _inverse_of_transposed(upper, factors[b])


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def covariances(factors: Array, found: Array) -> None:
    """Inverse of ``L L^T`` for each lower triangular L (B, d, d), which is written."""
    B, d, _ = factors.shape
    inverse = np.empty((d, d))
    transposed = np.empty((d, d))
    for b in range(B):
        for i in range(d):
            for j in range(i + 1):
                transposed[j, i] = factors[b, i, j]
        _inverse_of_transposed(transposed, inverse)  # L^-1
        for i in range(d):
            for j in range(i + 1):
                total = 0.0
                for k in range(i, d):
                    total += inverse[k, i] * inverse[k, j]
                found[b, i, j] = total
                found[b, j, i] = total


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _inverse_of_transposed(upper: Array, lower: Array) -> None:
    """Inverse of the transpose of an upper triangular matrix: a lower triangular one."""
    d = len(upper)
    for j in range(d):
        for i in range(j):
            lower[i, j] = 0.0
        lower[j, j] = 1.0 / upper[j, j]
        for i in range(j + 1, d):
            total = 0.0
            for k in range(j, i):
                total -= upper[k, i] * lower[k, j]
            lower[i, j] = total / upper[i, i]


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _load(
    z: Array, wanted: NDArray[np.bool_], start: int, chosen: NDArray[np.int64], block: Array
) -> tuple[int, int]:
    """Copy the next wanted points of (n, d) to a block (d, size); return the end and the size."""
    size, p = 0, start
    while p < len(z) and size < _BLOCK:
        if wanted[p]:
            chosen[size] = p
            size += 1
        p += 1
    for i in range(len(block)):
        row = block[i]
        for q in range(size):
            row[q] = z[chosen[q], i]
    return p, size


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _component(
    constant: float, mean: Array, factor: Array, block: Array, centred: Array, size: int,
    freedom: int, y: Array, found: Array,
) -> None:  # fmt: skip
    """Density of a component at a block of points (d, size)."""
    d = len(block)
    for i in range(d):
        row, every, place = centred[i], block[i], mean[i]
        for p in range(size):
            row[p] = every[p] - place
    for p in range(size):
        found[p] = 0.0
    for j in range(d):
        i = j
        for p in range(size):
            y[p] = 0.0
        while d - i > 4:  # four dimensions at once: fewer passes over the sums
            a, b, c, e = factor[i, j], factor[i + 1, j], factor[i + 2, j], factor[i + 3, j]
            za, zb, zc, ze = centred[i], centred[i + 1], centred[i + 2], centred[i + 3]
            for p in range(size):
                y[p] += a * za[p] + b * zb[p] + c * zc[p] + e * ze[p]
            i += 4
        if d - i == 4:
            a, b, c, e = factor[i, j], factor[i + 1, j], factor[i + 2, j], factor[i + 3, j]
            za, zb, zc, ze = centred[i], centred[i + 1], centred[i + 2], centred[i + 3]
            for p in range(size):
                length = y[p] + a * za[p] + b * zb[p] + c * zc[p] + e * ze[p]
                found[p] += length * length
        elif d - i == 3:
            a, b, c = factor[i, j], factor[i + 1, j], factor[i + 2, j]
            za, zb, zc = centred[i], centred[i + 1], centred[i + 2]
            for p in range(size):
                length = y[p] + a * za[p] + b * zb[p] + c * zc[p]
                found[p] += length * length
        elif d - i == 2:
            a, b = factor[i, j], factor[i + 1, j]
            za, zb = centred[i], centred[i + 1]
            for p in range(size):
                length = y[p] + a * za[p] + b * zb[p]
                found[p] += length * length
        else:
            a, za = factor[i, j], centred[i]
            for p in range(size):
                length = y[p] + a * za[p]
                found[p] += length * length
    # (1 + |y|^2 / freedom)^-(freedom + d) / 2, by repeated squares
    scale = 1.0 / freedom
    twice = freedom + d
    power = twice // 2
    for p in range(size):
        y[p] = 1.0 / (1.0 + scale * found[p])
    if twice % 2:
        for p in range(size):
            found[p] = constant * math.sqrt(y[p])
    else:
        for p in range(size):
            found[p] = constant
    while power:
        if power % 2:
            for p in range(size):
                found[p] *= y[p]
        power //= 2
        if power:
            for p in range(size):
                y[p] *= y[p]
