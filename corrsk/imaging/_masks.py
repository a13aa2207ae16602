"""Masks: reading, axes of length 1, and comparison with the images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.files import existing_file
from corrsk._utils.voxels import user_level
from corrsk._utils.wording import worded
from corrsk.imaging._nifti import check_sum, is_image, is_packed, open_image, read_values
from corrsk.imaging.grid import Grid


def read_mask(mask: Any, grid: Grid, name: str) -> NDArray[np.bool_]:
    """Read a mask of images; see :meth:`corrsk.imaging.MeasuredImages.with_mask`.

    Parameters
    ----------
    mask : path-like, nibabel image or array
        The mask.
    grid : Grid
        Voxels of the images.
    name : str
        Name of the images, for messages.

    Returns
    -------
    ndarray of bool, shape (n_x, n_y, n_z)
        The mask.
    """
    values, what = read_map(mask, grid, name, "the mask")
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
    levels = _few_levels(values)
    if not values.any():
        raise ValueError(f"{what} is empty: all {values.size} values are 0")
    if levels is None or (levels.size > 1 and (levels.size > 2 or levels.min() != 0)):
        raise ValueError(
            f"{what} has more than two values, from {values.min():g} to {values.max():g}; a mask "
            "has 0 outside and one other value inside. "
            + worded(
                "Pass an array, such as labels == 3",
                "Write a mask with 1 in place of the wanted label and 0 elsewhere",
            )
        )
    return np.asarray(values != 0)


def read_map(source: Any, grid: Grid, name: str, role: str) -> tuple[NDArray[Any], str]:
    """Read a map of the voxels of images, such as a mask or labels.

    Parameters
    ----------
    source : path-like, nibabel image or array
        The map.
    grid : Grid
        Voxels of the images.
    name, role : str
        Names of the images and the map, for messages.

    Returns
    -------
    values : ndarray of shape (n_x, n_y, n_z)
        The map.
    what : str
        Name of the map, for messages.

    Raises
    ------
    ValueError
        If the map has another shape, up to axes of length 1, or another affine.
    """
    what, affine = role, None
    if isinstance(source, (str, Path)):
        what = f"{role} {source}"
        if is_packed(Path(source)):
            check_sum(existing_file(source))
        source = open_image(source)
    shape = tuple(np.shape(source.dataobj if is_image(source) else source))
    if _long(shape) != _long(grid.shape):
        raise ValueError(
            f"{what} has the shape {shape}, but {name} has {grid.shape}; resample it to the images"
        )
    if is_image(source):
        affine = source.affine
        values = read_values(source.dataobj, (slice(None),) * len(shape), what)
    else:
        values = np.asarray(source)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{what} must have real numbers, not {values.dtype}")
    if affine is not None:
        _compare_affines(Grid(grid.shape, np.asarray(affine, np.float64)), grid, name, what)
    return values.reshape(grid.shape), what


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _few_levels(values: NDArray[Any]) -> NDArray[Any] | None:
    """Distinct values; None if there are more than two."""
    low, high = values.min(), values.max()
    return np.unique([low, high]) if ((values == low) | (values == high)).all() else None


def _compare_affines(own: Grid, grid: Grid, name: str, what: str) -> None:
    differs = grid.difference(own)
    if differs is None:
        return
    if not (own.has_identity or grid.has_identity):
        raise ValueError(
            f"{what} has another position than {name}: {differs}. Resample it to the images, or "
            + worded(
                "pass its array if only the header is wrong",
                "write it with the header of the images if only its header is wrong",
            )
        )
    which = what if own.has_identity else name
    warnings.warn(
        f"the affine of {which} is the identity, so that the positions of {what} and {name} cannot "
        "be compared; equal indices are taken for equal voxels",
        UserWarning,
        stacklevel=user_level(),
    )
