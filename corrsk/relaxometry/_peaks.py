"""Maxima of spectra on a grid, and the mass that belongs to each."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from corrsk.relaxometry._kernels import Array


def ascent(spectra: Array) -> NDArray[np.intp]:
    """The largest cell in the neighbourhood of each cell.

    Parameters
    ----------
    spectra : ndarray of shape (V, n_1, .., n_P)

    Returns
    -------
    ndarray of shape (V, n_1 .. n_P)
        Flat index of the largest of the 3^P cells around (and with) each cell;
        its own index marks a local maximum. Of equal cells the one with the
        lowest index counts as the largest, so that a plateau has one maximum.
    """
    shape = spectra.shape[1:]
    padded = np.pad(spectra, [(0, 0)] + [(1, 1)] * len(shape), constant_values=-np.inf)
    index = np.pad(np.arange(np.prod(shape)).reshape(shape), 1, constant_values=-1)
    best, target = None, None
    # shifts in ascending order of the neighbour's index: a later one must be truly larger
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
    """Mass of each local maximum, at its cell: (V, n_1, .., n_P) to (V, n_1 .. n_P).

    Every cell belongs to the maximum at which steepest ascent from it ends.
    """
    V = len(spectra)
    target = ascent(spectra)
    while True:  # pointer jumping: the paths halve each time
        further = np.take_along_axis(target, target, axis=1)
        if np.array_equal(further, target):
            break
        target = further
    n_cells = target.shape[1]
    flat = (target + n_cells * np.arange(V)[:, None]).ravel()
    masses = np.bincount(flat, weights=spectra.ravel(), minlength=V * n_cells)
    return masses.astype(np.float64).reshape(V, n_cells)


def count_peaks(spectra: Array, min_fraction: float) -> NDArray[np.int64]:
    """Number of maxima that hold at least `min_fraction` of the mass of their spectrum.

    Parameters
    ----------
    spectra : ndarray of shape (V, n_1, .., n_P)
        Not negative.
    min_fraction : float

    Returns
    -------
    ndarray of shape (V,)
    """
    masses = peak_masses(spectra)
    total = masses.sum(axis=1, keepdims=True)
    counted: NDArray[np.int64] = ((masses > 0) & (masses >= min_fraction * total)).sum(axis=1)
    return counted
