"""Axes of the measurements: one per contrast of a grid, a single one for scattered measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
        Values of the scan parameter, ascending: the distinct ones, or with one TR for each
        measurement those of the distinct pairs of a longitudinal parameter and TR.
    positions : ndarray of int, shape (n_points,)
        Index of the level at each point of the axis.
    options : dict
        Further arguments of the kernel: TR (one number, or an array with one entry per level)
        and inversion efficiency of a longitudinal contrast.
    """

    contrast: Contrast
    levels: np.ndarray
    positions: np.ndarray
    options: dict[str, Any]

    def kernel(
        self, values: Array, arranged: Callable[[np.ndarray], Array] = lambda levels: levels
    ) -> Array:
        """Evaluate the kernel at the levels and at values of the tissue property.

        Parameters
        ----------
        values : array
            Values of the tissue property.
        arranged : callable
            Function that turns an array with one entry per level into the array that is broadcast
            against `values`.

        Returns
        -------
        array
            The kernel, of the broadcast shape.
        """
        options = {
            name: arranged(option) if isinstance(option, np.ndarray) else option
            for name, option in self.options.items()
        }
        return self.contrast.kernel(arranged(self.levels), values, **options)


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
    tr: Array | None = None,
    inversion_efficiency: float = 1.0,
) -> tuple[Axis, ...]:
    """Find the axes of measurements, in the order TI, TE, b.

    Parameters
    ----------
    measurements : mapping of str to array of shape (n_measurements,)
        Scan parameters by name, one entry per measurement.
    grid : bool
        Whether the measurements are a full grid in grid order.
    tr : float or array of shape (n_measurements,), optional
        Repetition time in ms; see :func:`corrsk.physics.inversion_recovery`.
    inversion_efficiency : float, default=1.0
        See :func:`corrsk.physics.inversion_recovery`.

    Returns
    -------
    tuple of Axis
        For a grid one axis per contrast, with each level once; otherwise, and where TR differs
        between measurements of the same longitudinal parameter, a single axis of
        n_measurements points.

    Raises
    ------
    KeyError
        If a scan parameter is unknown, or there is none.
    ValueError
        If two scan parameters encode the same tissue property, or `tr` is an array and does not
        have one entry per measurement.
    """
    unknown = [name for name in measurements if name not in CONTRASTS]
    if unknown or not measurements:
        raise KeyError(f"unknown scan parameters {unknown}; available: {sorted(CONTRASTS)}")
    check_distinct_properties(measurements)
    factors = [
        _factor(contrast, np.asarray(measurements[name], np.float64), tr, inversion_efficiency)
        for name, contrast in CONTRASTS.items()
        if name in measurements
    ]
    if not grid or any(np.unique(f.levels).size < f.levels.size for f in factors):
        return (Axis(tuple(factors)),)
    return tuple(Axis((replace(f, positions=np.arange(f.levels.size)),)) for f in factors)


def _factor(
    contrast: Contrast, values: np.ndarray, tr: Array | None, inversion_efficiency: float
) -> Factor:
    options: dict[str, Any] = {}
    if contrast.longitudinal:
        options = {"tr": tr, "inversion_efficiency": inversion_efficiency}
        if tr is not None and np.ndim(tr) > 0:
            each = np.asarray(tr, np.float64)
            if each.shape != values.shape:
                raise ValueError(
                    f"tr must be a number or have one entry for each of the {values.size} "
                    f"measurements, got shape {each.shape}"
                )
            pairs, positions = np.unique(np.stack([values, each]), axis=1, return_inverse=True)
            return Factor(contrast, pairs[0], positions.ravel(), options | {"tr": pairs[1]})
    levels, positions = np.unique(values, return_inverse=True)
    return Factor(contrast, levels, positions, options)
