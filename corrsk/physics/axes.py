"""Axes of the measurements: one per contrast of a grid, a single one for scattered measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from corrsk.physics._arrays import Array
from corrsk.physics.contrasts import CONTRASTS, Contrast, check_distinct_properties


@dataclass(frozen=True)
class Factor:
    """Contrast along an axis.

    Parameters
    ----------
    contrast : Contrast
        The contrast.
    levels : ndarray of shape (n_levels,)
        Distinct values of the scan parameter, ascending.
    positions : ndarray of int, shape (n_points,)
        Index of the level at each point of the axis.
    options : dict
        Further arguments of the kernel: TR and inversion efficiency of a longitudinal contrast.
    """

    contrast: Contrast
    levels: np.ndarray
    positions: np.ndarray
    options: dict[str, Any]

    def kernel(self, levels: Array, values: Array) -> Array:
        """Evaluate the kernel at levels of the scan parameter and values of the property."""
        return self.contrast.kernel(levels, values, **self.options)


@dataclass(frozen=True)
class Axis:
    """Axis of the measurements; the kernels of its factors are multiplied point by point.

    Parameters
    ----------
    factors : tuple of Factor
        Contrasts that vary along the axis.
    """

    factors: tuple[Factor, ...]

    @property
    def size(self) -> int:
        """Number of points of the axis."""
        return int(self.factors[0].positions.size)


def measurement_axes(
    measurements: Mapping[str, Array],
    *,
    grid: bool,
    tr: float | None = None,
    inversion_efficiency: float = 1.0,
) -> tuple[Axis, ...]:
    """Find the axes of measurements, in the order TI, TE, b.

    Parameters
    ----------
    measurements : mapping of str to array of shape (n_measurements,)
        Scan parameters by name, one entry per measurement.
    grid : bool
        Whether the measurements are a full grid in grid order.
    tr : float, optional
        Repetition time in ms; see :func:`corrsk.physics.inversion_recovery`.
    inversion_efficiency : float, default=1.0
        See :func:`corrsk.physics.inversion_recovery`.

    Returns
    -------
    tuple of Axis
        For a grid one axis per contrast, with each level once; otherwise a single axis of
        n_measurements points.

    Raises
    ------
    KeyError
        If a scan parameter is unknown, or there is none.
    ValueError
        If two scan parameters encode the same tissue property.
    """
    unknown = [name for name in measurements if name not in CONTRASTS]
    if unknown or not measurements:
        raise KeyError(f"unknown scan parameters {unknown}; available: {sorted(CONTRASTS)}")
    check_distinct_properties(measurements)
    longitudinal = {"tr": tr, "inversion_efficiency": inversion_efficiency}
    factors = []
    for contrast in (CONTRASTS[name] for name in CONTRASTS if name in measurements):
        values = np.asarray(measurements[contrast.parameter], np.float64)
        levels, positions = np.unique(values, return_inverse=True)
        if grid:
            positions = np.arange(levels.size)
        options = longitudinal if contrast.longitudinal else {}
        factors.append(Factor(contrast, levels, positions, options))
    return tuple(Axis((factor,)) for factor in factors) if grid else (Axis(tuple(factors)),)
