"""Compiled search for compartments with many draws of a posterior around them."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Sums may be reordered (and so vectorised); NaN and infinity keep their meaning.
_MATH = {"reassoc", "contract", "nsz", "arcp"}


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def densest(
    logs: Array, weights: Array, order: NDArray[np.int64], tolerance: float, kept: float,
    centres: Array, inside: Array,
) -> None:  # fmt: skip
    """Find a centre with a large weight of draws within the tolerance.

    Parameters
    ----------
    logs : ndarray of shape (V, n, D)
        Coordinates of the draws.
    weights : ndarray of shape (V, n)
        Weights of the draws.
    order : ndarray of int, shape (V, m)
        Draws that are tried as centres, besides the mean of all.
    tolerance : float
        Largest distance in each coordinate.
    kept : float
        Part of the largest weight that the mean of the draws around a centre needs to replace it.
    centres : ndarray of shape (V, D)
        Centres, which are written.
    inside : ndarray of shape (V, n)
        Weights of the draws within the tolerance of the centre, 0 elsewhere, which are written.
    """
    V, n, D = logs.shape
    draws, weight = np.empty((D, n)), np.empty(n)
    place, best, distance = np.empty(D), np.empty(D), np.empty(n)
    for v in range(V):
        size = 0
        for p in range(n):  # draws without weight do not matter
            if weights[v, p] > 0:
                weight[size] = weights[v, p]
                for i in range(D):
                    draws[i, size] = logs[v, p, i]
                size += 1
        largest = -1.0
        for c in range(order.shape[1] + 1):
            if c < order.shape[1]:
                for i in range(D):
                    place[i] = logs[v, order[v, c], i]
            else:
                for i in range(D):
                    place[i] = _dot(weight, draws[i], size)
            mass = _near(draws, weight, place, tolerance, size, distance)
            if mass > largest:
                largest = mass
                for i in range(D):  # an assignment of arrays compiles messages of errors
                    best[i] = place[i]
        # the mean of the draws near the best centre has less noise than this one draw
        if largest > 0:
            _near(draws, weight, best, tolerance, size, distance)
            for i in range(D):
                place[i] = _dot(distance, draws[i], size) / largest
        mass = _near(draws, weight, place, tolerance, size, distance)
        if mass >= largest * kept:
            for i in range(D):
                best[i] = place[i]
        for i in range(D):
            centres[v, i] = best[i]
        _near(draws, weight, best, tolerance, size, distance)
        size = 0
        for p in range(n):
            inside[v, p] = 0.0
            if weights[v, p] > 0:
                inside[v, p] = distance[size]
                size += 1


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def shares_near(
    logs: Array, weights: Array, centres: Array, tolerance: float, shares: Array
) -> None:
    """Weight of the draws that have a compartment within the tolerance of given ones.

    Parameters
    ----------
    logs : ndarray of shape (V, n, P, K)
        Properties of the K compartments of the draws.
    weights : ndarray of shape (V, n)
        Weights of the draws.
    centres : ndarray of shape (V, P, C)
        Properties of the given compartments; NaN for absent ones, which no draw is near.
    tolerance : float
        Largest distance in each property.
    shares : ndarray of shape (V, C)
        Weights, which are written.
    """
    V, n, P, K = logs.shape
    for v in range(V):
        for c in range(centres.shape[2]):
            total = 0.0
            for p in range(n):
                if weights[v, p] == 0:
                    continue
                for k in range(K):
                    is_near = True
                    for i in range(P):
                        if not abs(logs[v, p, i, k] - centres[v, i, c]) <= tolerance:
                            is_near = False
                            break
                    if is_near:
                        total += weights[v, p]
                        break
            shares[v, c] = total


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def normal_masses(
    K: int, means: Array, curvature: Array, points: Array, lower: Array, upper: Array,
    each: Array, joint: Array,
) -> None:  # fmt: skip
    """Masses of normal distributions in boxes around given compartments, by points.

    Parameters
    ----------
    K : int
        Number of compartments.
    means : ndarray of shape (V, d)
        Means: P properties, each of K compartments, then other coordinates.
    curvature : ndarray of shape (V, d, d)
        Inverse covariances.
    points : ndarray of shape (d, n)
        Points of the standard normal distribution.
    lower, upper : ndarray of shape (V, P, C)
        Limits of C boxes in the coordinates of the properties; NaN for absent ones.
    each : ndarray of shape (V, C) or (V, 0)
        Masses with any compartment in each box, which are written unless empty.
    joint : ndarray of shape (V,) or (0,)
        Masses with the first compartment in the first box, and so on, which are written unless
        empty.
    """
    V, d = means.shape
    n = points.shape[1]
    factor, z = np.empty((d, d)), np.empty((d, n))
    inside, whole = np.empty(n), np.empty(n)
    for v in range(V):
        for j in range(d):  # the Cholesky factor
            for i in range(j, d):
                rest = curvature[v, i, j]
                for k in range(j):
                    rest -= factor[i, k] * factor[j, k]
                factor[i, j] = math.sqrt(rest) if i == j else rest / factor[j, j]
        for j in range(d - 1, -1, -1):
            row, standard = z[j], points[j]
            for p in range(n):
                row[p] = standard[p]
            for i in range(j + 1, d):
                other, amount = z[i], factor[i, j]
                for p in range(n):
                    row[p] -= amount * other[p]
            inverse = 1.0 / factor[j, j]
            for p in range(n):
                row[p] *= inverse
        for j in range(d):
            row, place = z[j], means[v, j]
            for p in range(n):
                row[p] += place
        if len(joint):
            whole[:] = 1.0
            for k in range(K):
                _in_box(z[k::K], lower[v, :, k], upper[v, :, k], inside)
                for p in range(n):
                    whole[p] *= inside[p]
            joint[v] = whole.mean()
        for c in range(each.shape[1]):
            whole[:] = 0.0
            for k in range(K):
                _in_box(z[k::K], lower[v, :, c], upper[v, :, c], inside)
                for p in range(n):
                    whole[p] = max(whole[p], inside[p])
            each[v, c] = whole.mean()


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _in_box(rows: Array, lower: Array, upper: Array, inside: Array) -> None:
    """Whether points (P, n) lie in a box: 1 or 0."""
    inside[:] = 1.0
    for i in range(len(lower)):
        row, low, high = rows[i], lower[i], upper[i]
        for p in range(len(inside)):
            inside[p] = inside[p] if (low <= row[p]) & (row[p] <= high) else 0.0


@njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
def _near(
    draws: Array, weight: Array, place: Array, tolerance: float, size: int, inside: Array
) -> float:
    """Weight of the draws within the tolerance of a place; the weight of each is written."""
    for p in range(size):
        inside[p] = 0.0
    for i in range(len(draws)):
        row, at = draws[i], place[i]
        for p in range(size):
            inside[p] = max(inside[p], abs(row[p] - at))
    total = 0.0
    for p in range(size):
        inside[p] = weight[p] if inside[p] <= tolerance else 0.0
        total += inside[p]
    return total


@njit(cache=True, nogil=True, fastmath=_MATH, inline="always")
def _dot(a: Array, b: Array, size: int) -> float:
    total = 0.0
    for p in range(size):
        total += a[p] * b[p]
    return total
