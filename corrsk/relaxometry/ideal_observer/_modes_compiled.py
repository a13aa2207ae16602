"""Compiled Gauss-Newton steps to modes, for signals that are outer products of two kernels.

The steps are those of :class:`corrsk.relaxometry.ideal_observer._modes.ModeFinder`. Kernels, and
the shares of the fractions, are cubic splines of the coordinates, so that a step has no exponential
function. The inner product of two outer products is the product of two short inner products: no
signal is computed. Problems are solved one after the other, so that a result depends on its problem
only.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Sums may be reordered (and so vectorised); NaN and infinity keep their meaning.
_MATH = {"reassoc", "contract", "nsz", "arcp"}


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def find(
    first: Array, last: Array, shares: Array, spacing: float, axes: NDArray[np.int64],
    floor: float, free: float, reference: int, normalize: bool, levels: Array, limits: Array,
    x: Array, centre: Array, pull: float, max_steps: int,
    z: Array, cost: Array, curvature: Array, forms: Array, settled: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Take steps from the coordinates of B problems.

    Parameters
    ----------
    first, last : ndarray of shape (n_cells, 4, n_axis)
        Coefficients of the splines of the kernels along both axes, from the highest power, in
        cells of the coordinate around 0.
    shares : ndarray of shape (F, n_cells, 4)
        Splines of the share of a fraction in what is left, with 1, 2, .. F later fractions; F is
        the number of free fractions.
    spacing : float
        Width of the cells.
    axes : ndarray of int, shape (2,)
        Axis, 0 or 1, that depends on each property.
    floor, free : float
        Smallest fraction, and what K of these leave.
    reference : int
        Noise reference: 0 for "m0", 1 for "rms", 2 for "max".
    normalize : bool
        Whether signals have norm 1 and an unknown scale.
    levels : ndarray of shape (2,)
        Smallest and largest squared noise level.
    limits : ndarray of shape (7,)
        First damping, smallest and largest damping, longest step in a coordinate, largest
        coordinate, the expected gain of a step that is not taken, and the part of the expected gain
        with which the damping is reduced.
    x : ndarray of shape (B, n_first, n_last)
        Measured signals.
    centre : ndarray of shape (B, d)
        Centres of the prior term.
    pull : float
        Curvature of the prior term.
    max_steps : int
        Largest number of steps.
    z : ndarray of shape (B, d)
        Coordinates, which are replaced.
    cost : ndarray of shape (B,)
        Negative log density up to a constant, which is written.
    curvature : ndarray of shape (B, d, d)
        Its curvature, which is written.
    forms : ndarray of shape (B, 3)
        Inner products of the signal S with x and with itself, and the largest absolute value of S
        (only for the reference "max"), which are written.
    settled : ndarray of bool, shape (B,)
        Whether a further step would gain little, which is written.
    """
    B, d = z.shape
    K = (d + 1) // 3 if len(shares) else d // 2
    n_first, n_last = x.shape[1:]
    a, b = np.empty((2 * K, n_first)), np.empty((2 * K, n_last))
    of_x = np.empty((2 * K, n_last))
    inner, with_x, with_s = np.empty((3 * K, 3 * K)), np.empty(3 * K), np.empty(3 * K)
    f, of_f = np.empty(K), np.zeros((K, len(shares)))
    trial, step, factor = np.empty(d), np.empty(d), np.empty((d, d))
    gradient, new_gradient = np.empty(d), np.empty(d)
    new_curvature, new_forms = np.empty((d, d)), np.empty(3)
    with_signal = np.empty(d)
    for v in range(B):
        place, matrix = z[v], curvature[v]
        x_squared = 0.0
        for i in range(n_first):
            x_squared += _dot(x[v, i], x[v, i])
        damping = limits[0]
        settled[v] = False
        expected = 0.0
        for number in range(max_steps + 1):
            if number == 0:
                for i in range(d):  # an assignment of arrays compiles messages of errors
                    trial[i] = place[i]
            else:
                for i in range(d):
                    for j in range(i + 1):
                        factor[i, j] = matrix[i, j]
                    factor[i, i] += damping * matrix[i, i]
                _solve(factor, gradient, step)
                expected = 0.5 * _dot(step, gradient)
                if expected < limits[5]:
                    settled[v] = True
                    break
                for i in range(d):
                    move = min(max(step[i], -limits[3]), limits[3])
                    trial[i] = min(max(place[i] + move, -limits[4]), limits[4])
            _kernels(first, spacing, K, trial[axes[0] * K :], a)
            _kernels(last, spacing, K, trial[axes[1] * K :], b)
            _fractions(shares, spacing, floor, free, trial[2 * K :], f, of_f)
            _inner_products(a, b, x[v], of_x, inner, with_x)
            peak = _peak(a, b, f) if reference == 2 else 0.0
            new_cost = _cost(
                inner, with_x, f, of_f, axes, x_squared, n_first * n_last, peak,
                reference, normalize, levels, trial, centre[v], pull,
                cost[v] if number else math.inf, with_s, with_signal, new_gradient, new_curvature,
                new_forms,
            )  # fmt: skip
            gain = cost[v] - new_cost if number else 0.0
            if gain > 0 or number == 0:
                cost[v] = new_cost
                for i in range(d):
                    place[i], gradient[i] = trial[i], new_gradient[i]
                    for j in range(d):
                        matrix[i, j] = new_curvature[i, j]
                for i in range(3):
                    forms[v, i] = new_forms[i]
                if gain > limits[6] * expected:
                    damping = max(0.1 * damping, limits[1])
            else:
                damping *= 8.0
            if damping > limits[2]:
                settled[v] = True
                break


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _kernels(table: Array, spacing: float, K: int, z: Array, found: Array) -> None:
    """Kernels of K compartments, and their derivatives with respect to z, (2 K, n_axis)."""
    n_cells, _, n = table.shape
    for k in range(K):
        at, t = _cell(z[k], spacing, n_cells)
        cubic, square, linear, constant = table[at]
        value, slope = found[k], found[K + k]
        for i in range(n):
            value[i] = ((cubic[i] * t + square[i]) * t + linear[i]) * t + constant[i]
            slope[i] = (3.0 * cubic[i] * t + 2.0 * square[i]) * t + linear[i]


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _fractions(
    shares: Array, spacing: float, floor: float, free: float, z: Array, f: Array, of_f: Array
) -> None:
    """Fractions (K,) and their derivatives (K, F) with respect to z; see TissueCoordinates."""
    F = len(shares)
    if F == 0:
        f[:] = 1.0 / len(f)
        return
    left = 1.0
    f[F] = 0.0  # the derivatives of what is left are in the last row
    of_f[F] = 0.0
    for k in range(F):
        table = shares[F - 1 - k]
        at, t = _cell(z[k], spacing, len(table))
        cubic, square, linear, constant = table[at]
        share = ((cubic * t + square) * t + linear) * t + constant
        slope = (3.0 * cubic * t + 2.0 * square) * t + linear
        for g in range(F):
            of_f[k, g] = of_f[F, g] * share
            of_f[F, g] *= 1.0 - share
        of_f[k, k] += left * slope
        of_f[F, k] -= left * slope
        f[k] = left * share
        left *= 1.0 - share
    f[F] = left
    for k in range(F + 1):
        f[k] = floor + free * f[k]
        for g in range(F):
            of_f[k, g] *= free


@njit(cache=True, nogil=True, fastmath=_MATH, inline="always")
def _cell(z: float, spacing: float, n_cells: int) -> tuple[int, float]:
    """Cell of a coordinate, and the distance from its start."""
    start = -0.5 * spacing * n_cells
    at = min(max(int((z - start) / spacing), 0), n_cells - 1)
    return at, z - start - at * spacing


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _inner_products(a: Array, b: Array, x: Array, of_x: Array, inner: Array, with_x: Array) -> None:
    """Inner products of the compartments' signals and derivatives with each other, and with x.

    Kinds 0 to 2 of each compartment are its signal and its derivatives along both axes.
    """
    K = len(a) // 2
    for j in range(2 * K):
        row = of_x[j]
        row[:] = 0.0
        for i in range(len(x)):
            amount, given = a[j, i], x[i]
            for c in range(len(row)):
                row[c] += amount * given[c]
    for k in range(K):
        with_x[k] = _dot(of_x[k], b[k])
        with_x[K + k] = _dot(of_x[K + k], b[k])
        with_x[2 * K + k] = _dot(of_x[k], b[K + k])
    for k in range(K):
        for m in range(k + 1):
            a00, a01, a10, a11 = _four(a, k, m, K)
            b00, b01, b10, b11 = _four(b, k, m, K)
            inner[k, m] = a00 * b00
            inner[k, K + m] = a01 * b00
            inner[k, 2 * K + m] = a00 * b01
            inner[K + k, m] = a10 * b00
            inner[K + k, K + m] = a11 * b00
            inner[K + k, 2 * K + m] = a10 * b01
            inner[2 * K + k, m] = a00 * b10
            inner[2 * K + k, K + m] = a01 * b10
            inner[2 * K + k, 2 * K + m] = a00 * b11
            if m < k:
                for e in range(3):
                    for g in range(3):
                        inner[g * K + m, e * K + k] = inner[e * K + k, g * K + m]


@njit(cache=True, nogil=True, fastmath=_MATH, inline="always")
def _four(a: Array, k: int, m: int, K: int) -> tuple[float, float, float, float]:
    """Inner products of kernels k and m and their derivatives: none, of m, of k, of both."""
    none, of_m, of_k, both = 0.0, 0.0, 0.0, 0.0
    one, two, of_one, of_two = a[k], a[m], a[K + k], a[K + m]
    for i in range(a.shape[1]):
        none += one[i] * two[i]
        of_m += one[i] * of_two[i]
        of_k += of_one[i] * two[i]
        both += of_one[i] * of_two[i]
    return none, of_m, of_k, both


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _peak(a: Array, b: Array, f: Array) -> float:
    """Largest absolute value of the signal of compartments."""
    K = len(f)
    largest = 0.0
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            signal = 0.0
            for k in range(K):
                signal += f[k] * a[k, i] * b[k, j]
            largest = max(largest, abs(signal))
    return largest


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _cost(
    inner: Array, with_x: Array, f: Array, of_f: Array, axes: NDArray[np.int64], x_squared: float,
    N: int, peak: float, reference: int, normalize: bool, levels: Array, z: Array,
    centre: Array, pull: float, largest: float, with_s: Array, with_signal: Array,
    gradient: Array, curvature: Array, forms: Array,
) -> float:  # fmt: skip
    """Cost, and its negative gradient (d,), its curvature (d, d) and forms (3,), written.

    The derivatives are left out if the cost is not below the largest one.
    """
    K, d = len(f), len(z)
    projection, squared = 0.0, 0.0
    for e in range(3 * K):
        with_s[e] = 0.0
        for k in range(K):
            with_s[e] += f[k] * inner[k, e]
    for k in range(K):
        projection += f[k] * with_x[k]
        squared += f[k] * with_s[k]
    forms[0], forms[1], forms[2] = projection, squared, peak
    scale = 1.0
    if normalize:
        squared = max(squared, 1e-12)
        scale = projection / squared
        misfit = max(squared - projection * projection, 1e-14)
    else:
        misfit = max(x_squared - 2.0 * projection + squared, 0.0)
    size = 1.0
    if reference == 1:
        size = squared / N
    elif reference == 2:
        size = max(peak * peak, 1e-12)
    variance = min(max(misfit / size / max(1, N - d), levels[0]), levels[1]) * size
    # with the variance at its most probable value
    cost = 0.5 * misfit / variance + 0.5 * N * math.log(variance / size)
    if normalize:
        variance /= squared  # in the units of x, whose scale is not that of the signals
    else:
        cost += 0.5 * N * math.log(size)
    for r in range(d):
        away = z[r] - centre[r]
        cost += 0.5 * pull * away * away
    if not cost < largest:
        return cost
    weight = scale * scale / variance
    for r in range(d):
        if r < 2 * K:
            p, k = r // K, r % K
            e = (1 + axes[p]) * K + k
            of_signal, with_signal[r] = f[k] * with_x[e], f[k] * with_s[e]
            for s in range(r + 1):
                g = (1 + axes[s // K]) * K + s % K
                curvature[r, s] = f[k] * f[s % K] * inner[e, g]
        else:
            of_signal, with_signal[r] = 0.0, 0.0
            for k in range(K):
                of_signal += of_f[k, r - 2 * K] * with_x[k]
                with_signal[r] += of_f[k, r - 2 * K] * with_s[k]
            for s in range(r + 1):
                total = 0.0
                if s < 2 * K:
                    g = (1 + axes[s // K]) * K + s % K
                    for k in range(K):
                        total += of_f[k, r - 2 * K] * inner[k, g]
                    total *= f[s % K]
                else:
                    for k in range(K):
                        for m in range(K):
                            total += of_f[k, r - 2 * K] * of_f[m, s - 2 * K] * inner[k, m]
                curvature[r, s] = total
        gradient[r] = scale * (of_signal - scale * with_signal[r]) / variance
        gradient[r] -= pull * (z[r] - centre[r])
    for r in range(d):
        for s in range(r + 1):
            value = curvature[r, s]
            if normalize:  # only the parts that are orthogonal to the signal
                value -= with_signal[r] * with_signal[s] / squared
            value *= weight
            curvature[r, s] = value
            curvature[s, r] = value
        curvature[r, r] += pull
    return cost


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _solve(matrix: Array, right: Array, found: Array) -> None:
    """Solve with a positive matrix, whose lower triangle becomes its Cholesky factor."""
    d = len(right)
    for j in range(d):
        for i in range(j, d):
            rest = matrix[i, j]
            for k in range(j):
                rest -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = math.sqrt(rest) if i == j else rest / matrix[j, j]
    for i in range(d):
        rest = right[i]
        for j in range(i):
            rest -= matrix[i, j] * found[j]
        found[i] = rest / matrix[i, i]
    for i in range(d - 1, -1, -1):
        rest = found[i]
        for j in range(i + 1, d):
            rest -= matrix[j, i] * found[j]
        found[i] = rest / matrix[i, i]


@njit(cache=True, nogil=True, fastmath=_MATH, inline="always")
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
