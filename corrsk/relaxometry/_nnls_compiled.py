"""Compiled solution of regularised non-negative least squares, voxel by voxel.

Two methods for the problem of `corrsk.relaxometry._nnls`. The Newton iteration of that module needs
few steps from the solution of a neighbouring weight. The method of active sets (Lawson and Hanson,
"Solving Least Squares Problems", 1974, chapter 23) starts from an empty spectrum, and is the
faster one where the spectrum has few cells: at small weights. It adds several cells in a step,
whose amounts start at zero, so that the residual decreases as with one. Both solve the smaller one
of two equivalent systems: an equation for each singular value, or for each cell that is not zero.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Sums may be reordered (and so vectorised); NaN and infinity keep their meaning.
_MATH = {"reassoc", "contract", "nsz", "arcp"}
# of active sets: parts of the spectrum; each may add a cell per step, if its gradient is
# at least this fraction of the largest one
_PARTS, _STEEP = 8, 0.5


@njit(cache=True, nogil=True, fastmath=_MATH)
def newton(
    kernel: Array,
    cells: Array,
    data: Array,
    alpha: Array,
    prior: Array,
    start: Array,
    max_steps: int,
    tolerance: float,
    dual: Array,
) -> None:
    """Solve ``K max(0, p + K^T c) + alpha c = x`` for each signal.

    Parameters
    ----------
    kernel : ndarray of shape (r, M)
        Compressed kernel K.
    cells : ndarray of shape (M, r)
        Its transpose, contiguous.
    data : ndarray of shape (V, r)
        Compressed signals x.
    alpha : ndarray of shape (V,)
        Regularisation of each signal.
    prior : ndarray of shape (V, M) or (0, M)
        Spectra p from which the penalty is measured; none for zero.
    start : ndarray of shape (V, M)
        Initial spectra ``p + K^T c``; only their signs matter.
    max_steps : int
        Largest number of Newton steps.
    tolerance : float
        Largest norm of the gradient relative to that of the signal.
    dual : ndarray of shape (V, r)
        Solutions c, which are written; NaN where the iteration does not converge.
    """
    r, M = kernel.shape
    active = np.empty(M, np.int64)
    n_before = 0
    before = np.empty(M, np.int64)
    part = np.empty((M, r))
    matrix = np.empty((r, r))
    small = np.empty((r, r))
    right = np.empty(r)
    c, new, step = np.empty(r), np.empty(r), np.empty(r)
    gradient = np.empty(r)
    image, change, trial = np.empty(M), np.empty(M), np.empty(M)
    zero = np.zeros(M)
    for v in range(len(data)):
        x = data[v]
        a = alpha[v]
        p = prior[v] if len(prior) > 0 else zero
        size = math.sqrt(_dot(x, x))
        n_before = _positive(start[v], before)
        _newton_point(cells, x, a, p, before, n_before, part, matrix, small, right, c)
        _images(kernel, c, p, image)
        whole = True
        converged = False
        for _ in range(max_steps):
            n = _positive(image, active)
            _gradient(cells, image, active, n, c, a, x, gradient)
            norm = math.sqrt(_dot(gradient, gradient))
            if (whole and _equal(active, n, before, n_before)) or norm <= tolerance * size:
                converged = True
                break
            if not norm < math.inf:
                break
            _newton_point(cells, x, a, p, active, n, part, matrix, small, right, new)
            for k in range(r):
                step[k] = new[k] - c[k]
            _images(kernel, step, zero, change)
            n_before = n
            for k in range(n):
                before[k] = active[k]
            slope = _dot(gradient, step)
            value = _value(image, c, a, x)
            slack = 1e-12 * abs(value)
            length = 1.0
            whole = True
            while True:
                for m in range(M):
                    trial[m] = image[m] + length * change[m]
                for k in range(r):
                    new[k] = c[k] + length * step[k]
                now = _value(trial, new, a, x)
                if now <= value + 1e-4 * length * slope + slack or length <= 1e-6:
                    break
                length *= 0.5
                whole = False
            for m in range(M):
                image[m] = trial[m]
            for k in range(r):
                c[k] = new[k]
        for k in range(r):
            dual[v, k] = c[k] if converged else math.nan


@njit(cache=True, nogil=True, fastmath=_MATH)
def active_sets(
    kernel: Array, cells: Array, data: Array, alpha: float, max_steps: int, dual: Array
) -> None:
    """Solve the problem of :func:`newton` for one weight from empty spectra.

    Parameters
    ----------
    kernel : ndarray of shape (r, M)
        Compressed kernel K.
    cells : ndarray of shape (M, r)
        Its transpose, contiguous.
    data : ndarray of shape (V, r)
        Compressed signals x.
    alpha : float
        Regularisation.
    max_steps : int
        Largest number of cells that are added to a spectrum.
    dual : ndarray of shape (V, r)
        Solutions c, which are written; NaN where the iteration does not converge.
    """
    r, M = kernel.shape
    largest = min(M, 2 * r)  # with more cells, the system of the singular values is the smaller one
    active = np.empty(largest, np.int64)
    part = np.empty((largest, r))
    matrix = np.empty((largest, largest))
    right, amount = np.empty(largest), np.empty(largest)
    inside = np.zeros(M, np.bool_)
    image, residual, zero = np.empty(M), np.empty(r), np.zeros(M)
    top, tops = np.empty(_PARTS), np.empty(_PARTS, np.int64)
    for v in range(len(data)):
        x = data[v]
        size = math.sqrt(_dot(x, x))
        n = 0
        inside[:] = False
        converged = False
        for k in range(r):
            residual[k] = x[k]
        for _ in range(max_steps):
            _images(kernel, residual, zero, image)
            steepest = 0.0
            for part_of in range(_PARTS):
                first, last = part_of * M // _PARTS, (part_of + 1) * M // _PARTS
                best, top[part_of] = -1, 0.0
                for m in range(first, last):
                    if image[m] > top[part_of] and not inside[m]:
                        top[part_of], best = image[m], m
                tops[part_of] = best
                steepest = max(steepest, top[part_of])
            # cells inside have an image of alpha times their amount
            if steepest <= 1e-4 * alpha * size:
                converged = True
                break
            if n == largest:
                break
            for part_of in range(_PARTS):
                if top[part_of] < _STEEP * steepest or n == largest:
                    continue
                best = tops[part_of]
                inside[best] = True
                active[n] = best
                amount[n] = 0.0
                for k in range(r):
                    part[n, k] = cells[best, k]
                n += 1
            n = _nonnegative(part, x, alpha, active, inside, amount, n, matrix, right)
            for k in range(r):
                residual[k] = x[k]
            for j in range(n):
                for k in range(r):
                    residual[k] -= amount[j] * part[j, k]
        for k in range(r):
            dual[v, k] = residual[k] / alpha if converged else math.nan


@njit(cache=True, nogil=True, fastmath=_MATH)
def _nonnegative(
    part: Array,
    x: Array,
    alpha: float,
    active: NDArray[np.int64],
    inside: NDArray[np.bool_],
    amount: Array,
    n: int,
    matrix: Array,
    right: Array,
) -> int:
    """Solve for the amounts of n cells, and remove those that become negative on the way."""
    while n:
        for i in range(n):
            for j in range(i + 1):
                matrix[i, j] = _dot(part[i], part[j])
            matrix[i, i] += alpha
            right[i] = _dot(part[i], x)
        _solve_lower(matrix, n, right)
        length, negative = 1.0, False
        for i in range(n):
            if not right[i] > 0:
                negative = True
                if amount[i] > right[i]:
                    length = min(length, amount[i] / (amount[i] - right[i]))
        if not negative:
            for i in range(n):
                amount[i] = right[i]
            break
        kept = 0
        for i in range(n):
            moved = amount[i] + length * (right[i] - amount[i])
            if not (right[i] > 0 or moved > 1e-12 * amount[i]):
                inside[active[i]] = False
                continue
            active[kept], amount[kept] = active[i], moved
            if kept != i:
                for k in range(part.shape[1]):
                    part[kept, k] = part[i, k]
            kept += 1
        if kept == n:  # no progress by rounding
            break
        n = kept
    return n


@njit(cache=True, nogil=True, fastmath=_MATH, inline="always")
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@njit(cache=True, nogil=True)
def _positive(image: Array, active: NDArray[np.int64]) -> int:
    n = 0
    for m in range(len(image)):
        if image[m] > 0:
            active[n] = m
            n += 1
    return n


@njit(cache=True, nogil=True)
def _equal(a: NDArray[np.int64], n_a: int, b: NDArray[np.int64], n_b: int) -> bool:
    if n_a != n_b:
        return False
    for k in range(n_a):  # noqa: SIM110 (compiled)
        if a[k] != b[k]:
            return False
    return True


@njit(cache=True, nogil=True, fastmath=_MATH)
def _images(kernel: Array, c: Array, p: Array, image: Array) -> None:
    """Image ``p + K^T c``."""
    r, M = kernel.shape
    for m in range(M):
        image[m] = p[m]
    k = 0
    while k + 4 <= r:  # four rows at once: fewer passes over the result
        a, b, d, e = kernel[k], kernel[k + 1], kernel[k + 2], kernel[k + 3]
        ca, cb, cd, ce = c[k], c[k + 1], c[k + 2], c[k + 3]
        for m in range(M):
            image[m] += ca * a[m] + cb * b[m] + cd * d[m] + ce * e[m]
        k += 4
    while k < r:
        a = kernel[k]
        ca = c[k]
        for m in range(M):
            image[m] += ca * a[m]
        k += 1


@njit(cache=True, nogil=True, fastmath=_MATH)
def _gradient(
    cells: Array,
    image: Array,
    active: NDArray[np.int64],
    n: int,
    c: Array,
    a: float,
    x: Array,
    gradient: Array,
) -> None:
    """Gradient ``K max(0, p + K^T c) + alpha c - x`` of the dual function."""
    for k in range(len(c)):
        gradient[k] = a * c[k] - x[k]
    for j in range(n):
        row = cells[active[j]]
        amount = image[active[j]]
        for k in range(len(c)):
            gradient[k] += amount * row[k]


@njit(cache=True, nogil=True, fastmath=_MATH)
def _value(image: Array, c: Array, a: float, x: Array) -> float:
    total = 0.0
    for m in range(len(image)):
        positive = max(image[m], 0.0)
        total += positive * positive
    return 0.5 * total + 0.5 * a * _dot(c, c) - _dot(x, c)


@njit(cache=True, nogil=True, fastmath=_MATH)
def _newton_point(
    cells: Array,
    x: Array,
    a: float,
    p: Array,
    active: NDArray[np.int64],
    n: int,
    part: Array,
    matrix: Array,
    small: Array,
    right: Array,
    c: Array,
) -> None:
    """Solution of ``(K A K^T + alpha) c = x - K A p`` for fixed active cells."""
    r = len(x)
    for j in range(n):
        row = cells[active[j]]
        for k in range(r):
            part[j, k] = row[k]
    if n < r:
        # s of the active cells from (B^T B + alpha) s = B^T x + alpha p, and c = (x - B s) / alpha
        for i in range(n):
            for j in range(i + 1):
                small[i, j] = _dot(part[i], part[j])
            small[i, i] += a
            right[i] = _dot(part[i], x) + a * p[active[i]]
        _solve_lower(small, n, right)
        for k in range(r):
            c[k] = x[k]
        for j in range(n):
            for k in range(r):
                c[k] -= right[j] * part[j, k]
        for k in range(r):
            c[k] /= a
        return
    for i in range(r):
        for j in range(i + 1):
            matrix[i, j] = 0.0
    for m in range(n):
        row = part[m]
        for i in range(r):
            amount = row[i]
            for j in range(i + 1):
                matrix[i, j] += amount * row[j]
    for i in range(r):
        matrix[i, i] += a
        c[i] = x[i]
    for m in range(n):
        amount = p[active[m]]
        if amount != 0:
            for i in range(r):
                c[i] -= amount * part[m, i]
    _solve_lower(matrix, r, c)


@njit(cache=True, nogil=True, fastmath=_MATH)
def _solve_lower(matrix: Array, n: int, right: Array) -> None:
    """Solve a positive definite system in place, by Cholesky's decomposition of its lower half."""
    for i in range(n):
        row = matrix[i]
        for j in range(i):
            other = matrix[j]
            total = row[j]
            for k in range(j):
                total -= row[k] * other[k]
            row[j] = total / other[j]
        total = row[i]
        for k in range(i):
            total -= row[k] * row[k]
        row[i] = math.sqrt(total) if total > 0 else math.nan
    for i in range(n):
        total = right[i]
        for k in range(i):
            total -= matrix[i, k] * right[k]
        right[i] = total / matrix[i, i]
    for i in range(n - 1, -1, -1):
        right[i] /= matrix[i, i]
        amount = right[i]
        for k in range(i):
            right[k] -= matrix[i, k] * amount
