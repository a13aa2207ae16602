"""Candidates of compartments: places that the draws of a posterior visit, by their probability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SharesNear = Callable[[Array, Array, Array], Array]

_N_TRIED = 24  # draws whose compartments are tried as places
_KEPT = 0.95  # of the draws near the best place, near their mean, which then replaces it


@dataclass(frozen=True)
class Candidates:
    """Candidates of the compartments of V voxels, in about descending order of their probability.

    Parameters
    ----------
    values : ndarray of shape (V, P, C)
        Logarithms of the P properties in units of their ranges; NaN for no candidate.
    fractions : ndarray of shape (V, C)
        Mean fraction of the compartments near each candidate; 0 for no candidate.
    probabilities : ndarray of shape (V, C)
        Probability of a compartment near each candidate that no earlier candidate has claimed.
    """

    values: Array
    fractions: Array
    probabilities: Array


def find_candidates(
    logs: Array,
    fractions: Array,
    n_candidates: int,
    smallest: float,
    tolerance: float,
    shares_near: SharesNear,
) -> Candidates:
    """Find candidates one by one, each where most draws have a compartment that is not yet claimed.

    A candidate claims, of each draw, the nearest compartment within the tolerance.

    Parameters
    ----------
    logs : ndarray of shape (V, n, P, K)
        Logarithms of the properties of draws of equal weight, in units of their ranges; NaN for
        absent compartments.
    fractions : ndarray of shape (V, n, K)
        Their fractions.
    n_candidates : int
        Number C of candidates.
    smallest : float
        Smallest probability of a candidate.
    tolerance : float
        Largest distance in each property.
    shares_near : callable
        Weights (V, C) of draws (V, n, P, K) with weights (V, n) near places (V, P, C).

    Returns
    -------
    Candidates
        The candidates.
    """
    free = logs.copy()
    V, n, P, _ = logs.shape
    values = np.full((V, P, n_candidates), np.nan)
    shares, probabilities = np.zeros((V, n_candidates)), np.zeros((V, n_candidates))
    tried = np.unique(np.linspace(0, n - 1, min(_N_TRIED, n)).astype(np.intp))
    voxels = np.arange(V)
    for number in range(n_candidates):
        own = free[voxels]
        places = np.moveaxis(own[:, tried], 1, 2).reshape(len(own), P, -1)
        weights = np.full(own.shape[:2], 1 / n)
        best = shares_near(own, weights, places).argmax(axis=1)
        place = places[np.arange(len(own)), :, best]
        index, near = _nearest(own, place, tolerance)
        moved = _mean(np.take_along_axis(own, index[:, :, None, None], axis=3)[..., 0], near)
        moved_index, moved_near = _nearest(own, moved, tolerance)
        # the mean of the draws near the best place has less noise than this one draw
        better = moved_near.sum(axis=1) >= _KEPT * near.sum(axis=1)
        place = np.where(better[:, None], moved, place)
        index = np.where(better[:, None], moved_index, index)
        near = np.where(better[:, None], moved_near, near)
        found = near.mean(axis=1) >= smallest
        voxels, place, index, near = voxels[found], place[found], index[found], near[found]
        if not voxels.size:
            break
        values[voxels, :, number] = place
        probabilities[voxels, number] = near.mean(axis=1)
        share = np.take_along_axis(fractions[voxels], index[:, :, None], axis=2)
        shares[voxels, number] = _mean(share, near)[:, 0]
        row, draw = np.nonzero(near)
        free[voxels[row], draw, :, index[row, draw]] = np.nan
    return Candidates(values, shares, probabilities)


def scaled_logs(parameters: Array, ranges: Mapping[str, tuple[float, float]]) -> Array:
    """Logarithms (.., P, K) of properties in units of their ranges.

    Parameters
    ----------
    parameters : ndarray of shape (.., P or more, K)
        Properties in the order of the ranges.
    ranges : mapping of str to (float, float)
        Range of each property.

    Returns
    -------
    ndarray of shape (.., P, K)
        0 at the lower end of the range, 1 at the upper one.
    """
    low, high = np.array(list(ranges.values())).T[:, :, None]
    return np.asarray(np.log(parameters[..., : len(low), :] / low) / np.log(high / low))


def _nearest(
    logs: Array, place: Array, tolerance: float
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Nearest compartment (V, n) of each draw to a place (V, P), and whether it is near."""
    apart = np.abs(logs - place[:, None, :, None])
    distance = np.where((apart <= tolerance).all(axis=2), apart.sum(axis=2), np.inf)
    index = distance.argmin(axis=2)
    return index, np.isfinite(np.take_along_axis(distance, index[:, :, None], axis=2)[:, :, 0])


def _mean(values: Array, chosen: NDArray[np.bool_]) -> Array:
    """Mean (V, P) of the chosen draws of values (V, n, P); NaN without one."""
    number = chosen.sum(axis=1)[:, None]
    total = np.where(chosen[:, :, None], values, 0.0).sum(axis=1)
    return np.asarray(np.where(number > 0, total / np.maximum(number, 1), np.nan))
