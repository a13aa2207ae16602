"""Noise of signals as their part outside the subspace of all signals without noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def squares_outside(signals: Array, basis: Array) -> tuple[Array, int]:
    """Sum of squares of the part of signals outside a subspace.

    Parameters
    ----------
    signals : ndarray of shape (V, N)
        Signals.
    basis : ndarray of shape (N, d)
        Orthonormal basis of the signals without noise.

    Returns
    -------
    squares : ndarray of shape (V,)
        Sums of squares.
    freedom : int
        Their degrees of freedom, N - d.
    """
    outside = signals - signals @ basis @ basis.T
    return np.einsum("vn,vn->v", outside, outside), int(np.subtract(*basis.shape))


def noise_outside(signals: Array, basis: Array) -> Array:
    """Standard deviation (V,) of the noise of each signal; see :func:`squares_outside`."""
    squares, freedom = squares_outside(signals, basis)
    return np.asarray(np.sqrt(squares / max(freedom, 1)))
