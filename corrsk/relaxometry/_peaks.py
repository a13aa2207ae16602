"""Maxima of spectra on a grid, and the mass of each maximum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from corrsk.relaxometry._kernels import Array


def ascent(spectra: Array) -> NDArray[np.intp]:
    """Largest cell in the neighbourhood of each cell.

    Parameters
    ----------
    spectra : ndarray of shape (V, n_1, .., n_P)
        Spectra.

    Returns
    -------
    ndarray of shape (V, n_1 .. n_P)
        Flat index of the largest of the 3^P cells around and including each cell;
        a local maximum has its own index. Among equal cells the cell with the
        lowest index counts as the largest, so that a plateau has a single maximum.
    """
    shape = spectra.shape[1:]
    padded = np.pad(spectra, [(0, 0)] + [(1, 1)] * len(shape), constant_values=-np.inf)
    index = np.pad(np.arange(np.prod(shape)).reshape(shape), 1, constant_values=-1)
    best, target = None, None
    # shifts in ascending order of the neighbour's index: a later neighbour must be strictly larger
    for shift in product(range(3), repeat=len(shape)):
        window = tuple(slice(s, s + n) for s, n in zip(shift, shape, strict=True))
        values = padded[(slice(None), *window)]
        if best is None or target is None:
            best, target = values.copy(), np.broadcast_to(index[window], values.shape).copy()
            continue
        larger = values > best
        np.copyto(best, values, where=larger)
        np.copyto(target, np.broadcast_to(index[window], values.shape), where=larger)
    assert target is not None
    return target.reshape(len(spectra), -1)


def peak_masses(spectra: Array) -> Array:
    """Mass of each local maximum, in the cell of the maximum: (V, n_1, .., n_P) to (V, n_1 .. n_P).

    The mass of every cell is added to the maximum that steepest ascent from the cell reaches.
    """
    return _sums(_basins(spectra), spectra.reshape(len(spectra), -1))


def peak_positions(
    spectra: Array,
    logs: Sequence[Array],
    min_fraction: float,
    n_peaks: int | None,
    order_by: int,
) -> tuple[Array, Array]:
    """Mean logarithms of the properties and fractions of the peaks of each spectrum.

    Parameters
    ----------
    spectra : ndarray of shape (V, n_1, .., n_P)
        Spectra without negative values.
    logs : sequence of P ndarrays of shape (n_p,)
        Logarithms of the properties along each axis.
    min_fraction : float
        Smallest fraction of the mass in a peak.
    n_peaks : int or None
        Number of the largest peaks; None for all.
    order_by : int
        Property by which the peaks are sorted.

    Returns
    -------
    positions : ndarray of shape (V, K, P)
        Means weighted by mass; NaN for absent peaks, which are last.
    fractions : ndarray of shape (V, K)
        Fractions of the mass of the spectrum; 0 for absent peaks.
    """
    V = len(spectra)
    basins, flat = _basins(spectra), spectra.reshape(V, -1)
    masses = _sums(basins, flat)
    total = masses.sum(axis=1, keepdims=True)
    counted = np.where((masses > 0) & (masses >= min_fraction * total), masses, 0.0)
    K = int((counted > 0).sum(axis=1).max(initial=0)) if n_peaks is None else n_peaks
    K = max(min(K, counted.shape[1]), 1)
    largest = np.argsort(-counted, axis=1, kind="stable")[:, :K]
    mass = np.take_along_axis(counted, largest, axis=1)
    positions = np.full((V, K, len(logs)), np.nan)
    for number, mesh in enumerate(np.meshgrid(*logs, indexing="ij")):
        moments = np.take_along_axis(_sums(basins, flat * mesh.ravel()), largest, axis=1)
        np.divide(moments, mass, out=positions[:, :, number], where=mass > 0)
    order = np.argsort(positions[:, :, order_by], axis=1, kind="stable")  # NaN is last
    positions = np.take_along_axis(positions, order[:, :, None], axis=1)
    mass = np.take_along_axis(mass, order, axis=1)
    return positions, np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)


def _basins(spectra: Array) -> NDArray[np.intp]:
    """Flat index of the maximum that steepest ascent from each cell reaches, (V, n_1 .. n_P)."""
    target = ascent(spectra)
    while True:  # pointer jumping: every iteration halves the paths
        further = np.take_along_axis(target, target, axis=1)
        if np.array_equal(further, target):
            return target
        target = further


def _sums(basins: NDArray[np.intp], values: Array) -> Array:
    """Sum of values (V, M) over the cells of each basin, in the cell of its maximum."""
    V, n_cells = values.shape
    flat = (basins + n_cells * np.arange(V)[:, None]).ravel()
    sums = np.bincount(flat, weights=values.ravel(), minlength=V * n_cells)
    return sums.astype(np.float64).reshape(V, n_cells)


def count_peaks(spectra: Array, min_fraction: float) -> NDArray[np.int64]:
    """Number of maxima with at least `min_fraction` of the mass of the spectrum.

    Parameters
    ----------
    spectra : ndarray of shape (V, n_1, .., n_P)
        Spectra without negative values.
    min_fraction : float
        Smallest fraction of the mass.

    Returns
    -------
    ndarray of shape (V,)
        Numbers of peaks.
    """
    masses = peak_masses(spectra)
    total = masses.sum(axis=1, keepdims=True)
    counted: NDArray[np.int64] = ((masses > 0) & (masses >= min_fraction * total)).sum(axis=1)
    return counted
