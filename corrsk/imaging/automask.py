"""Masks made of the images themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.extras import require

_LEAST_CONTRAST = 5.0  # between tissue and background; between tissues it is smaller
_SMALLEST_PART = 0.02  # of the largest connected part
_FEWEST = 64  # voxels with a histogram
_MOST_COMPARED = 1_000_000  # voxels for the threshold, evenly spaced


def tissue_mask(strength: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find the voxels of tissue from the strength of their signals.

    Parameters
    ----------
    strength : ndarray of float32, shape (n_x, n_y, n_z), C-contiguous
        Root mean square of the measurements of each voxel; 0 for voxels without signal. Its memory
        is used again: the values are lost.

    Returns
    -------
    ndarray of bool, shape (n_x, n_y, n_z)
        Voxels above the threshold of Li and Tam (Pattern Recognit. Lett. 19, 771 (1998)), without
        small parts and with filled holes; all voxels with a signal if there is no background: the
        mean strength above the threshold is less than 5 times that below it, or the background is
        zero already.

    Raises
    ------
    ImportError
        If scikit-image is not installed.
    """
    require("skimage", extra="imaging", purpose="a mask made of the images")
    from scipy.ndimage import binary_fill_holes, label
    from skimage import filters

    threshold_li: Any = filters.threshold_li  # without types

    # large images leave no room for copies of all voxels
    bright = strength > 0
    n_bright = int(bright.sum())
    if n_bright < _FEWEST:
        return bright
    compared = strength.ravel()[:: -(-n_bright // _MOST_COMPARED)]
    tissue = strength > threshold_li(compared[compared > 0])
    background = bright & ~tissue
    if not background.any() or (
        _mean(strength, tissue) < _LEAST_CONTRAST * _mean(strength, background)
    ):
        return bright
    del background
    parts = strength.view(np.int32)
    n_parts = label(tissue, output=parts)
    sizes = np.zeros(n_parts + 1, np.int64)
    for one in parts:
        sizes += np.bincount(one.ravel(), minlength=n_parts + 1)
    sizes[0] = 0
    large = sizes >= _SMALLEST_PART * sizes.max()
    # holes of slices: the nose and ears connect most holes of a head in three dimensions
    for k in range(parts.shape[2]):
        tissue[..., k] = binary_fill_holes(large[parts[..., k]])
    return np.asarray(tissue & bright)


def _mean(strength: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Mean over some voxels, without a copy of them."""
    return float(strength.sum(where=inside, dtype=np.float64)) / int(inside.sum())
