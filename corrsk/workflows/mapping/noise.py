"""Directions of the measurements in which signals of a training have noise only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from corrsk.acquisition.protocol import resolve_protocol
from corrsk.physics import noise_sigma
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.streams import SignalStream
from corrsk.trained.expectation import expected_signals

_N_VOXELS, _SEED = 4000, 7
_LEAST_FREEDOM = 4  # directions for an estimate of the noise
_LARGEST_BIAS = 0.2  # signal in the directions, as a part of the noise


def noise_directions(definition: DatasetDefinition) -> NDArray[np.float64] | None:
    """Find orthonormal directions that hold little of the noise-free signals.

    Parameters
    ----------
    definition : DatasetDefinition
        Definition of the training signals.

    Returns
    -------
    ndarray of shape (n_measurements, n_directions) or None
        As many directions as leave, of signals without noise, at most a fifth of the noise (of the
        geometric mean of the trained levels, median over the voxels) in each; None if there are
        fewer than 4, so that the noise cannot be separated from the signals.
    """
    clean_definition = replace(definition, noise_levels=(0.0,), norm=None,
                               noise_distribution="gaussian", n_coils=1)  # fmt: skip
    stream = SignalStream.from_definition(clean_definition, _SEED)
    clean = stream.draw(0, _N_VOXELS, n_jobs=1)[0].astype(np.float64)
    if definition.noise_distribution == "rician":
        clean = np.abs(clean)
    low, high = expected_signals(definition).trained_levels
    level = float(np.sqrt(low * high)) or high
    in_order = resolve_protocol(definition.protocol).to_grid(clean, copy=False)
    reference = noise_sigma(in_order, np.ones(len(clean)), definition.noise_reference)
    norms = np.linalg.norm(clean, axis=1)
    bright = norms > 0
    unit = clean[bright] / norms[bright, None]
    sigma = float(np.median(level * reference[bright] / norms[bright]))
    squared, vectors = np.linalg.eigh(unit.T @ unit / len(unit))
    # ascending: the mean square of the signals in the first k directions
    means = np.sqrt(np.cumsum(np.maximum(squared, 0)) / np.arange(1, len(squared) + 1))
    n = int(np.searchsorted(means, _LARGEST_BIAS * sigma, side="right"))
    return None if n < _LEAST_FREEDOM else np.asarray(vectors[:, :n])
