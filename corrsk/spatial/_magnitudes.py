"""Noise floor of averaged magnitudes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk import physics

_LARGEST, _N_NODES = 10.0, 1001  # of the table of signals, in units of sigma


def with_floor_of(
    averages: NDArray[Any], sigma: float, remaining: NDArray[Any]
) -> NDArray[np.float32]:
    """Replace the noise floor of averaged magnitudes by that of single ones with less noise.

    The average of magnitudes estimates their mean for the noise sigma. Its inverse is the signal,
    and the mean of the magnitude of this signal for the remaining noise is what a model of such
    noise was trained for.

    Parameters
    ----------
    averages : ndarray of shape (n_voxels, n_measurements)
        Averages of magnitudes.
    sigma : float
        Standard deviation of the noise of the real and imaginary parts before the average.
    remaining : ndarray of shape (n_voxels,)
        That of the average, at most sigma.

    Returns
    -------
    ndarray of float32, shape (n_voxels, n_measurements)
        Magnitudes; those whose remaining noise is sigma are unchanged.
    """
    nodes = np.linspace(0, _LARGEST, _N_NODES)
    means = np.asarray(physics.magnitude_mean(nodes, 1.0))
    relative = averages.astype(np.float64) / sigma
    signals = np.where(
        relative < means[-1],
        np.interp(relative, means, nodes),
        # of strong signals, up to the third order of 1 / SNR
        np.sqrt(np.maximum(relative**2 - 1, 0)),
    )
    found = physics.magnitude_mean(sigma * signals, np.asarray(remaining, dtype=np.float64))
    unchanged = remaining >= sigma
    return np.where(unchanged[:, None], averages, found).astype(np.float32)
