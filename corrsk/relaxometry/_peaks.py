"""Maxima of spectra on a grid, and the mass of each maximum."""

from __future__ import annotations

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
    V = len(spectra)
    target = ascent(spectra)
    while True:  # pointer jumping: every iteration halves the paths
        further = np.take_along_axis(target, target, axis=1)
        if np.array_equal(further, target):
            break
        target = further
    n_cells = target.shape[1]
    flat = (target + n_cells * np.arange(V)[:, None]).ravel()
    masses = np.bincount(flat, weights=spectra.ravel(), minlength=V * n_cells)
    return masses.astype(np.float64).reshape(V, n_cells)


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
