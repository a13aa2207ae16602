"""Axes of the measurements: one per contrast of a grid, a single one for scattered measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from corrsk.physics._arrays import Array
from corrsk.physics.contrasts import CONTRASTS, Contrast, check_distinct_properties
from corrsk.physics.echo_train_tables import EchoTrainTable
from corrsk.physics.echo_trains import EchoTrain

Readout = EchoTrain | Sequence[EchoTrain | None] | None


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
        self,
        values: Array,
        arranged: Callable[[np.ndarray], Array] = lambda levels: levels,
        more: Mapping[str, Any] | None = None,
    ) -> Array:
        """Evaluate the kernel at the levels and at values of the tissue property.

        Parameters
        ----------
        values : array
            Values of the tissue property.
        arranged : callable
            Function that turns an array with one entry per level into the array that is broadcast
            against `values`.
        more : mapping of str to array, optional
            Arguments of the kernel in the place of `options`, such as an inversion efficiency of
            each voxel.

        Returns
        -------
        array
            The kernel, of the broadcast shape.
        """
        options = {
            name: arranged(option) if isinstance(option, np.ndarray) else option
            for name, option in self.options.items()
        } | dict(more or {})
        return self.contrast.kernel(arranged(self.levels), values, **options)


@dataclass(frozen=True)
class EchoFactor(Factor):
    """Echoes along an axis, some or all of echo trains, whose kernel depends on T1 and B1 too.

    Parameters
    ----------
    tables : tuple of (EchoTrainTable or None, slice)
        Echo trains, and the levels that each has; None for single spin echoes.
    """

    tables: tuple[tuple[EchoTrainTable | None, slice], ...] = ()

    def echoes(self, t1: Array | None, t2: Array, b1: Array | None = None) -> Array:
        """Amplitudes of the echoes at the levels.

        Parameters
        ----------
        t1 : array or None
            T1 in ms, broadcast against `t2`; None for the T1 that each echo train assumes.
        t2 : array
            T2 in ms.
        b1 : array, optional
            Transmit field relative to the nominal one, broadcast against `t2`; None for 1.

        Returns
        -------
        array of shape (..., n_levels)
            Amplitudes for M0 = 1.
        """
        xp = array_namespace(t2)
        parts = []
        for table, levels in self.tables:
            if table is None:
                te = xp.asarray(self.levels[levels], dtype=t2.dtype, device=device(t2))
                parts.append(self.contrast.kernel(te, t2[..., None]))
            else:
                own = xp.full_like(t2, table.train.t1) if t1 is None else t1
                parts.append(table(own, t2, b1))
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1)


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
    readout: Readout = None,
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
    readout : EchoTrain or sequence of EchoTrain or None, optional
        Echo train of all measurements or of each one; None for single spin echoes.

    Returns
    -------
    tuple of Axis
        For a grid one axis per contrast, with each level once; otherwise, and where TR differs
        between measurements of the same longitudinal parameter or the readout between those of the
        same TE, a single axis of n_measurements points.

    Raises
    ------
    KeyError
        If a scan parameter is unknown, or there is none.
    ValueError
        If two scan parameters encode the same tissue property, `tr` or `readout` has not one entry
        per measurement, or an echo train has no TE or other echo times.
    """
    unknown = [name for name in measurements if name not in CONTRASTS]
    if unknown or not measurements:
        raise KeyError(f"unknown scan parameters {unknown}; available: {sorted(CONTRASTS)}")
    check_distinct_properties(measurements)
    n_measurements = np.size(next(iter(measurements.values())))
    trains = readout_of_each(readout, n_measurements)
    if trains is not None and "TE" not in measurements:
        raise ValueError("an echo train needs echo times, TE")
    factors = [
        _echo_factor(contrast, np.asarray(measurements[name], np.float64), trains)
        if name == "TE" and trains is not None
        else _factor(contrast, np.asarray(measurements[name], np.float64), tr, inversion_efficiency)
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


def readout_of_each(readout: Readout, n_measurements: int) -> tuple[EchoTrain | None, ...] | None:
    """Echo train of each measurement.

    Parameters
    ----------
    readout : EchoTrain or sequence of EchoTrain or None, optional
        Echo train of all measurements or of each one.
    n_measurements : int
        Number of measurements.

    Returns
    -------
    tuple of (EchoTrain or None), or None
        One entry per measurement; None if all measurements are single spin echoes.

    Raises
    ------
    ValueError
        If there is not one entry per measurement.
    TypeError
        If an entry is neither an EchoTrain nor None.
    """
    if readout is None:
        return None
    each = (readout,) * n_measurements if isinstance(readout, EchoTrain) else tuple(readout)
    wrong = [one for one in each if not (one is None or isinstance(one, EchoTrain))]
    if wrong:
        raise TypeError(f"a readout must be an EchoTrain or None, got {wrong[0]!r}")
    if len(each) != n_measurements:
        raise ValueError(
            f"readout must be an EchoTrain or have one entry for each of the {n_measurements} "
            f"measurements, got {len(each)} entries"
        )
    return None if all(one is None for one in each) else each


def _echo_factor(
    contrast: Contrast, te: np.ndarray, trains: tuple[EchoTrain | None, ...]
) -> EchoFactor:
    distinct = list(dict.fromkeys(trains))
    numbers = np.array([distinct.index(train) for train in trains])
    pairs, positions = np.unique(np.stack([numbers, te]), axis=1, return_inverse=True)
    tables: list[tuple[EchoTrainTable | None, slice]] = []
    for number, train in enumerate(distinct):
        start, stop = np.searchsorted(pairs[0], [number, number + 1])
        levels = slice(int(start), int(stop))
        table = None
        if train is not None:
            table = EchoTrainTable(train, train.echo_numbers(pairs[1, levels]))
        tables.append((table, levels))
    return EchoFactor(contrast, pairs[1], positions.ravel(), {}, tuple(tables))
