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


def tissue_mask(strength: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Find the voxels of tissue from the strength of their signals.

    Parameters
    ----------
    strength : ndarray of shape (n_x, n_y, n_z)
        Root mean square of the measurements of each voxel; 0 for voxels without signal.

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
    from scipy.ndimage import binary_fill_holes
    from skimage import filters, measure

    threshold_li: Any = filters.threshold_li  # without types
    label: Any = measure.label

    bright = strength > 0
    values = strength[bright]
    if values.size < _FEWEST:
        return bright
    threshold = threshold_li(values[:: -(-values.size // _MOST_COMPARED)])
    tissue = strength > threshold
    background = bright & ~tissue
    if not background.any() or (
        strength[tissue].mean() < _LEAST_CONTRAST * strength[background].mean()
    ):
        return bright
    parts = label(tissue, connectivity=1)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept = (sizes >= _SMALLEST_PART * sizes.max())[parts]
    # holes of slices: the nose and ears connect most holes of a head in three dimensions
    for k in range(kept.shape[2]):
        kept[..., k] = binary_fill_holes(kept[..., k])
    return np.asarray(kept & bright)
