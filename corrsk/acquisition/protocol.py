"""Acquisition protocols: the measurements and their order."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from corrsk._utils.files import refuse_misfits
from corrsk._utils.validation import lookup
from corrsk.acquisition._checks import (
    checked_contrasts,
    checked_readout,
    checked_series,
    checked_tr,
)
from corrsk.acquisition._files import (
    content_of_json,
    contrasts_from_mat,
    contrasts_from_table,
    write_protocol,
)
from corrsk.acquisition._plain import normalized, plain_readout, readout_of_plain
from corrsk.acquisition.column_names import NamedMeasurements, measurements_of_names
from corrsk.physics import CONTRASTS, EchoTrain
from corrsk.physics.axes import Readout, readout_of_each
from corrsk.physics.contrasts import (
    contrasts_beyond,
    own_units,
    restore_contrasts,
    scan_quantities,
)
from corrsk.physics.units import Units, units_by_name

# Published 8 x 8 protocol (the file ti_te_dict.mat of the code of Endt et al., MIDL 2024), in grid
# order. The file also has TR = 20 s; without TR the protocol yields Eq. 1 of the paper.
_PUBLISHED_GRID: dict[str, tuple[float, ...]] = {
    "TI": (50, 85, 143, 243, 412, 697, 1181, 2000),
    "TE": (4.5, 7.5, 12, 20, 33, 55, 91, 150),
}
_NAMED_GRIDS: dict[str, tuple[dict[str, tuple[float, ...]], float | None]] = {
    "ir-se-8x8": (_PUBLISHED_GRID, None),
    "ir-se-8x8-tr20s": (_PUBLISHED_GRID, 20_000.0),
}
DEFAULT_PROTOCOL = "ir-se-8x8"  # assumed, with a warning, for 64 columns that nothing describes


@dataclass(frozen=True, init=False, eq=False, repr=False)
class AcquisitionProtocol:
    """Combinations of scan parameters at which every voxel is measured.

    Immutable. The measurements keep the order in which they are passed, the *scanner order*,
    which is the order of the columns of signals everywhere in corrsk; *grid order* sorts the
    measurements by TI, then TE, then b. Two protocols are equal if they have the same
    measurements, in any order.

    Parameters
    ----------
    contrasts : mapping of str to array of shape (n_measurements,), optional
        Scan parameters by name: "TI" and "TE" in ms, "b" in ms/um^2. Entry j
        of each array is the value of measurement j; a single number is the value of every
        measurement. Repeated measurements are allowed. An infinite TI is a measurement without
        inversion.
    ti, te, b : array of shape (n_measurements,), optional
        The same arrays by keyword.
    tr : float or array of shape (n_measurements,), optional
        Repetition time in ms, from inversion to inversion; None (default) or infinity for
        full recovery. TR acts on contrasts with longitudinal recovery (TI).
    units : str or mapping of str to str, optional
        Units of the values: "ms", "s" or "us" for all times, or units by name, such as
        ``{"TE": "s", "b": "s/mm^2"}``; the values are converted to ms and ms/um^2. A stated unit
        is believed: pass ``units="ms"`` for times that are shorter than usual. By default, times
        are in ms and b in ms/um^2, and values that are not plausible in these units are refused.
    readout : EchoTrain or sequence of EchoTrain or None, optional
        How the echoes are formed. None (default) for single spin echoes, one excitation per echo
        time: ``exp(-TE / T2)``. An :class:`corrsk.physics.EchoTrain` if each measurement is an
        echo of such a train, or one entry (EchoTrain or None) per measurement. The times of an
        EchoTrain are in ms.
    series : array of int, shape (n_measurements,), optional
        Series of each measurement. The receiver gain may differ between series, so that the
        relative scale of their signals is unknown. None (default) for a single series.

    Attributes
    ----------
    contrasts : mapping of str to read-only array of shape (n_measurements,)
        Scan parameters in scanner order.
    tr : float, read-only array of shape (n_measurements,), or None
        Repetition time in ms; an array only if it differs between the measurements.
    readout : EchoTrain, tuple of (EchoTrain or None), or None
        Echo train of all measurements, or of each one if it differs; None for single spin echoes.
    series : read-only array of int, shape (n_measurements,), or None
        Series of each measurement, numbered from 0 in the order of their first measurements; None
        for a single series.
    n_measurements : int
        Number of measurements.
    grid_shape : tuple of int or None
        (n_ti, n_te[, n_b]) if every combination of the levels is measured
        exactly once, else None.
    grid_layout : tuple of int or None
        The grid shape if the measurements are in grid order, so that a signal can be
        reshaped to it, else None.

    Raises
    ------
    ValueError
        If the arrays differ in length or hold NaN or negative values (or infinite ones, except
        TI), if a name or a unit is unknown, if a TR does not exceed its TI, or if the largest
        value of a scan parameter is not plausible in its unit: TI of 20 to 60,000 ms, TE of 2.5 to
        10,000 ms, TR of 60 to 100,000 ms and b of 0.01 to 50 ms/um^2 are. If a TE is no multiple
        of the spacing of its echo train, or `readout` or `series` has not one entry per
        measurement.

    Warns
    -----
    UserWarning
        If two or more of `ti`, `te` and `b` are strictly ascending: these may be the levels of a
        grid, for which there is :meth:`from_grid`. In `contrasts` such values give no warning.

    Examples
    --------
    >>> from corrsk import AcquisitionProtocol
    >>> AcquisitionProtocol.from_grid(ti=[50, 400, 2000], te=[10, 40]).grid_shape
    (3, 2)
    """

    contrasts: Mapping[str, NDArray[np.float64]]
    tr: float | NDArray[np.float64] | None
    readout: EchoTrain | tuple[EchoTrain | None, ...] | None
    series: NDArray[np.int64] | None

    def __init__(
        self,
        contrasts: Mapping[str, ArrayLike] | None = None,
        *,
        ti: ArrayLike | None = None,
        te: ArrayLike | None = None,
        b: ArrayLike | None = None,
        tr: ArrayLike | None = None,
        units: Units = None,
        readout: Readout = None,
        series: ArrayLike | None = None,
    ) -> None:
        given = dict(contrasts or {})
        for name, values in {"TI": ti, "TE": te, "b": b}.items():
            if values is None:
                continue
            if name in given:
                raise ValueError(f"{name} is passed twice, in `contrasts` and by keyword")
            given[name] = values
        object.__setattr__(self, "contrasts", MappingProxyType(checked_contrasts(given, units)))
        object.__setattr__(self, "tr", checked_tr(tr, self.contrasts, units))
        object.__setattr__(self, "readout", checked_readout(readout, self.contrasts))
        object.__setattr__(self, "series", checked_series(series, self.n_measurements))
        if not contrasts:
            _warn_of_levels(self.contrasts, stacklevel=2)

    # -- constructors ------------------------------------------------------

    @classmethod
    def named(cls, name: str) -> AcquisitionProtocol:
        """Return a protocol that corrsk ships.

        Parameters
        ----------
        name : {"ir-se-8x8", "ir-se-8x8-tr20s"}
            "ir-se-8x8" is the published 8 x 8 protocol of the paper, in grid order
            and without TR; "ir-se-8x8-tr20s" has the published TR of 20 s.

        Returns
        -------
        AcquisitionProtocol
            The protocol.

        Raises
        ------
        ValueError
            If the name is unknown; the message lists the valid names.
        """
        levels, tr = lookup(_NAMED_GRIDS, name, "protocol")
        return cls._outer(levels, tr=tr)

    @classmethod
    def from_grid(
        cls,
        ti: ArrayLike | None = None,
        te: ArrayLike | None = None,
        b: ArrayLike | None = None,
        *,
        tr: float | None = None,
        units: Units = None,
        readout: EchoTrain | None = None,
    ) -> AcquisitionProtocol:
        """Protocol of all combinations of levels, in grid order.

        Parameters
        ----------
        ti, te, b : array of shape (n_ti,), (n_te,), (n_b,), optional
            Levels of each scan parameter, in any order.
        tr : float, optional
            Repetition time in ms, of all measurements.
        units : str or mapping of str to str, optional
            Units of the levels and of TR; see :class:`AcquisitionProtocol`.
        readout : EchoTrain, optional
            Echo train whose echoes are the echo times; None (default) for single spin echoes.

        Returns
        -------
        AcquisitionProtocol
            The protocol.

        Raises
        ------
        ValueError
            If the levels or TR are invalid; see :class:`AcquisitionProtocol`.
        """
        levels = {
            name: values
            for name, values in {"TI": ti, "TE": te, "b": b}.items()
            if values is not None
        }
        return cls._outer(levels, tr=tr, units=units, readout=readout)

    @classmethod
    def _outer(
        cls,
        levels: Mapping[str, ArrayLike],
        tr: float | None,
        units: Units = None,
        readout: Readout = None,
    ) -> AcquisitionProtocol:
        if tr is not None and np.ndim(tr) > 0:
            raise ValueError(
                "the tr of a grid is a single number; pass a tr of each measurement as "
                "AcquisitionProtocol(ti=.., te=.., tr=..)"
            )
        # in grid order, whatever the order of the scan parameters and of their levels
        ascending = {
            name: np.sort(np.asarray(levels[name], dtype=np.float64).ravel())
            for name in CONTRASTS
            if name in levels
        }
        mesh = np.meshgrid(*ascending.values(), indexing="ij")
        contrasts = {name: axis.ravel() for name, axis in zip(ascending, mesh, strict=True)}
        return cls(contrasts, tr=tr, units=units, readout=readout)

    @classmethod
    def concatenate(
        cls, protocols: Iterable[AcquisitionProtocol], *, same_gain: bool = True
    ) -> AcquisitionProtocol:
        """Join series of measurements of the same slice to one protocol.

        Parameters
        ----------
        protocols : iterable of AcquisitionProtocol
            The series, in the order in which their signals are stacked:
            ``np.hstack([X_first, X_second])``.
        same_gain : bool, default=True
            Whether the signals have the same scale (receiver gain) in all protocols. With False
            each protocol becomes a series with a scale of its own.

        Returns
        -------
        AcquisitionProtocol
            All measurements, those of the first series first, each with TR and readout of its
            series. A
            series without TI was measured without inversion (TI is infinite), one without b
            without diffusion weighting (b = 0).

        Raises
        ------
        ValueError
            If there is no protocol, or a series lacks a scan parameter that has no such value:
            every measurement has a TE.
        TypeError
            If an element is no AcquisitionProtocol.

        Examples
        --------
        >>> from corrsk import AcquisitionProtocol
        >>> inversion = AcquisitionProtocol(ti=[50, 400, 1200, 3000], te=10, tr=8000)
        >>> echoes = AcquisitionProtocol(te=[10, 30, 60, 120], tr=3000)
        >>> protocol = AcquisitionProtocol.concatenate([inversion, echoes])
        >>> protocol.ti
        array([  50.,  400., 1200., 3000.,   inf,   inf,   inf,   inf])
        """
        series = list(protocols)
        wrong = [one for one in series if not isinstance(one, AcquisitionProtocol)]
        if wrong:
            raise TypeError(f"protocols must be AcquisitionProtocol objects, got {wrong[0]!r}")
        if not series:
            raise ValueError("concatenate needs at least one protocol")
        names = [name for name in CONTRASTS if any(name in one.contrasts for one in series)]
        for name, (number, one) in itertools.product(names, enumerate(series)):
            if name not in one.contrasts and CONTRASTS[name].absent is None:
                raise ValueError(
                    f"series {number}, {one!r}, has no {name}, and every measurement has one: pass "
                    f"it, such as AcquisitionProtocol(.., {name.lower()}=10)"
                )
        contrasts = {
            name: np.concatenate(
                [
                    one.contrasts.get(name, np.full(one.n_measurements, CONTRASTS[name].absent))
                    for one in series
                ]
            )
            for name in names
        }
        tr = np.concatenate([one._tr_of_each for one in series])
        readout = [train for one in series for train in one._readout_of_each]
        numbers = np.repeat(np.arange(len(series)), [one.n_measurements for one in series])
        own = np.concatenate([one._series_of_each for one in series])
        # series within a protocol stay separate
        own = own if same_gain else numbers * (own.max() + 1) + own
        return cls(contrasts, tr=tr, units=own_units(), readout=readout, series=own)

    @classmethod
    def from_mat(cls, path: str | Path, *, units: Units = None) -> AcquisitionProtocol:
        """Read a MATLAB file with one or several of the vectors `ti`, `te` and `b`.

        Parameters
        ----------
        path : path-like
            MATLAB file; may also have `tr`, a number or a vector.
        units : str or mapping of str to str, optional
            Units of the file; see :class:`AcquisitionProtocol`.

        Returns
        -------
        AcquisitionProtocol
            The protocol, in the order of the file.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        InvalidFileError
            If the file is not a readable MATLAB file, or has none of the vectors.

        Warns
        -----
        UserWarning
            If two or more vectors are strictly ascending; see :class:`AcquisitionProtocol`.
        """
        with refuse_misfits(path, None):
            contrasts, tr = contrasts_from_mat(path)
            protocol = cls(contrasts, tr=tr, units=units)
        _warn_of_levels(protocol.contrasts, stacklevel=2)
        return protocol

    @classmethod
    def from_json(cls, path: str | Path | Sequence[str | Path]) -> AcquisitionProtocol:
        """Read a protocol from a JSON file: of :meth:`to_json`, written by hand, or of BIDS.

        Parameters
        ----------
        path : path-like or sequence of path-like
            One of these: a file of :meth:`to_json`; a file written by hand, with the entries of
            :meth:`from_dict`, such as ``{"ti": [50, 400], "te": [10, 10], "tr": 5000}``, in ms and
            ms/um^2 or with an entry `units`, which is a unit of times such as "s" or a mapping
            such as ``{"ti": "s", "b": "s/mm^2"}``; or sidecars of BIDS, with
            `InversionTime`, `EchoTime` and `RepetitionTime` (or
            `RepetitionTimeExcitation`) in seconds: a file with one sidecar or
            a list of sidecars, or a sequence of files, in the order of the columns.

        Returns
        -------
        AcquisitionProtocol
            The protocol, in the order of the file or files.

        Raises
        ------
        FileNotFoundError
            If a file does not exist.
        InvalidFileError
            If a file is not JSON, or not a protocol.

        Warns
        -----
        UserWarning
            If two or more of the lists written by hand are strictly ascending; see
            :class:`AcquisitionProtocol`.
        """
        names = path if isinstance(path, (str, Path)) else ", ".join(map(str, path))
        with refuse_misfits(names, None):
            return cls._from_plain(content_of_json(path), stacklevel=2)

    @classmethod
    def from_table(cls, path: str | Path, *, units: Units = None) -> AcquisitionProtocol:
        """Read a text table with one line for each measurement.

        Parameters
        ----------
        path : path-like
            Text file whose columns are separated by tabs, semicolons, commas or spaces. The first
            line has their names: one or several of TI, TE and b, and optionally TR and series, in
            any case and with a unit or without (``TE``, ``TE (s)``, ``te_ms``); or InversionTime,
            EchoTime and RepetitionTime, which are in seconds. Columns file, filename, volume and
            index are ignored.
        units : str or mapping of str to str, optional
            Units of columns whose name has none; see :class:`AcquisitionProtocol`.

        Returns
        -------
        AcquisitionProtocol
            The protocol, in the order of the lines.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        InvalidFileError
            If the file has no scan parameter, a column is not understood, a cell is no number, or
            a value is invalid.
        """
        with refuse_misfits(path, None):
            table = contrasts_from_table(path)
            stated = units_by_name(units, scan_quantities()) | table.units
            return cls(table.contrasts, tr=table.tr, units=stated, series=table.series)

    @classmethod
    def from_feature_names(
        cls, names: Iterable[str], *, units: Units = None
    ) -> AcquisitionProtocol:
        """Protocol of columns with names such as those of :attr:`feature_names`.

        Parameters
        ----------
        names : iterable of str
            Names such as "TI50_TE4.5", "TIinf_TE4.5" without inversion, or "TI50_TE4.5_TR9000"
            with TR. Other cases, separators, units and prefixes are understood: "ti_50_te_4.5",
            "TI=0.05s TE=4.5ms", "signals__TI50_TE4.5". A unit in every name is a stated unit.
        units : str or mapping of str to str, optional
            Units of the numbers without a unit; see :class:`AcquisitionProtocol`.

        Returns
        -------
        AcquisitionProtocol
            The protocol, in the order of the names; without TR unless the names have it.

        Raises
        ------
        ValueError
            If a name does not have the form "TI50_TE4.5", names have different scan parameters, or
            a value is invalid.
        """
        given = [str(name) for name in names]
        stated = units_by_name(units, scan_quantities())
        read = measurements_of_names(given, stated)
        if read is None:
            raise ValueError(
                "feature names must have the form 'TI50_TE4.5', all with the same parts; got "
                f"{', '.join(map(repr, given[:3])) or 'none'}"
            )
        return _of_names(read, given[0], read.stated)

    # -- content -----------------------------------------------------------

    @property
    def ti(self) -> NDArray[np.float64] | None:
        """Inversion times in ms, shape (n_measurements,), read-only; None without "TI".

        Infinite for measurements without inversion.
        """
        return self.contrasts.get("TI")

    @property
    def te(self) -> NDArray[np.float64] | None:
        """Echo times in ms, shape (n_measurements,), read-only; None without "TE"."""
        return self.contrasts.get("TE")

    @property
    def b(self) -> NDArray[np.float64] | None:
        """Diffusion weightings in ms/um^2, shape (n_measurements,), read-only; None without "b"."""
        return self.contrasts.get("b")

    @property
    def n_measurements(self) -> int:
        """Number of measurements."""
        return int(self._table.shape[1])

    @property
    def tissue_properties(self) -> tuple[str, ...]:
        """Tissue properties that the protocol measures, such as ("T1", "T2")."""
        return tuple(CONTRASTS[name].tissue for name in self.contrasts)

    @property
    def grid_shape(self) -> tuple[int, ...] | None:
        """Number of levels per scan parameter; None if the measurements are not a full grid."""
        shape = tuple(np.unique(values).size for values in self._table)
        distinct = np.unique(self._table, axis=1).shape[1]
        return shape if math.prod(shape) == distinct == self.n_measurements else None

    @property
    def grid_layout(self) -> tuple[int, ...] | None:
        """Shape of a signal on its grid, as `grid_shape`; None unless in grid order."""
        return self.grid_shape if self._is_in_grid_order else None

    @property
    def feature_names(self) -> list[str]:
        """Names of the measurements, such as "TI50_TE4.5"; repeats end in "_2", "_3", ..

        If TR differs between the measurements, the names have it: "TI50_TE4.5_TR9000".
        """
        seen: dict[str, int] = {}
        names = []
        for name in self._names(with_tr=isinstance(self.tr, np.ndarray)):
            seen[name] = seen.get(name, 0) + 1
            names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
        return names

    def _names(self, with_tr: bool) -> list[str]:
        """Names of the measurements; repeats have the same name."""
        columns = dict(self.contrasts) | ({"TR": self._tr_of_each} if with_tr else {})
        return [
            "_".join(f"{key}{value:.10g}" for key, value in zip(columns, row, strict=True))
            for row in zip(*columns.values(), strict=True)
        ]

    def to_frame(self) -> pd.DataFrame:
        """Convert the protocol to a table.

        Returns
        -------
        DataFrame of shape (n_measurements, n_parameters)
            One row per measurement, one column per scan parameter.
        """
        return pd.DataFrame(dict(self.contrasts))

    @property
    def _table(self) -> NDArray[np.float64]:
        return np.stack(list(self.contrasts.values()))

    @property
    def _tr_of_each(self) -> NDArray[np.float64]:
        """TR of each measurement; infinite for full recovery."""
        return np.full(self.n_measurements, np.inf if self.tr is None else self.tr)

    @property
    def _readout_of_each(self) -> tuple[EchoTrain | None, ...]:
        n = self.n_measurements
        return readout_of_each(self.readout, n) or (None,) * n

    @property
    def _series_of_each(self) -> NDArray[np.int64]:
        return np.zeros(self.n_measurements, np.int64) if self.series is None else self.series

    def _take(self, positions: NDArray[np.intp]) -> AcquisitionProtocol:
        """Measurements at positions, in the order of the positions."""
        contrasts = {name: values[positions] for name, values in self.contrasts.items()}
        tr = self.tr[positions] if isinstance(self.tr, np.ndarray) else self.tr
        readout = self.readout
        if isinstance(readout, tuple):
            readout = tuple(readout[position] for position in positions)
        series = None if self.series is None else self.series[positions]
        return AcquisitionProtocol(
            contrasts, tr=tr, units=own_units(), readout=readout, series=series
        )

    # -- order -------------------------------------------------------------

    @property
    def _grid_permutation(self) -> NDArray[np.intp]:
        # the last key of lexsort is the primary key; the sort is stable for repeats
        keys = list(self._table[::-1])
        if isinstance(self.tr, np.ndarray):
            keys.insert(0, self.tr)
        if isinstance(self.readout, tuple):
            keys.insert(0, np.array([repr(train) for train in self.readout]))
        if self.series is not None:
            keys.insert(0, self._series_by_content)
        return np.lexsort(keys)

    @cached_property
    def _series_by_content(self) -> NDArray[np.int64]:
        """Series of each measurement, numbered by their measurements, whose order does not matter.

        Equal measurements of different series have the same grid order in equal protocols.
        """
        rows = list(
            zip(*self._table, self._tr_of_each, map(repr, self._readout_of_each), strict=True)
        )
        numbers = self._series_of_each
        content = [
            sorted(rows[j] for j in np.flatnonzero(numbers == number))
            for number in range(numbers.max() + 1)
        ]
        ranks: NDArray[np.int64] = np.argsort(sorted(range(len(content)), key=content.__getitem__))[
            numbers
        ]
        return ranks

    @cached_property
    def _is_in_grid_order(self) -> bool:
        return np.array_equal(self._grid_permutation, np.arange(self.n_measurements))

    def in_grid_order(self) -> AcquisitionProtocol:
        """Sort the measurements by TI, then TE, then b.

        Returns
        -------
        AcquisitionProtocol
            The sorted protocol.
        """
        return self._take(self._grid_permutation)

    def to_grid(self, X: Any, *, copy: bool = True) -> Any:
        """Reorder columns from scanner order to grid order.

        Estimators of a protocol take columns in the order of the protocol. Grid order is for
        displays of signals as images, and for other programs.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements)
            Columns in the order of the protocol.
        copy : bool, default=True
            Whether to return a copy even if the protocol is in grid order.

        Returns
        -------
        array or DataFrame of shape (n_samples, n_measurements)
            Columns in grid order.

        Raises
        ------
        ValueError
            If X does not have n_measurements columns.
        """
        return self._take_columns(X, self._grid_permutation, copy)

    def to_scan_order(self, X: Any, *, copy: bool = True) -> Any:
        """Reorder columns from grid order to scanner order; the inverse of :meth:`to_grid`.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements)
            Columns in grid order.
        copy : bool, default=True
            Whether to return a copy even if the protocol is in grid order.

        Returns
        -------
        array or DataFrame of shape (n_samples, n_measurements)
            Columns in the order of the protocol.

        Raises
        ------
        ValueError
            If X does not have n_measurements columns.
        """
        return self._take_columns(X, np.argsort(self._grid_permutation), copy)

    def _take_columns(self, X: Any, order: NDArray[np.intp], copy: bool) -> Any:
        X = X if hasattr(X, "shape") else np.asarray(X)
        if len(X.shape) != 2 or X.shape[1] != self.n_measurements:
            raise ValueError(
                f"X must have shape (n_samples, {self.n_measurements}), one column for each of the "
                f"protocol's {self.n_measurements} measurements; got {tuple(X.shape)}"
            )
        if not copy and self._is_in_grid_order:
            return X
        if hasattr(X, "iloc"):
            return X.iloc[:, order]
        # C order in memory, on which the rounding of sums depends
        return np.take(X, order, axis=1) if isinstance(X, np.ndarray) else X[:, order]

    # -- selection ---------------------------------------------------------

    def subset(self, selection: ArrayLike) -> AcquisitionProtocol:
        """Select measurements, in the order of this protocol and with the same TR.

        Parameters
        ----------
        selection : array of bool, shape (n_measurements,), or array of int
            Mask over the measurements, or positions of the measurements to keep, as returned
            by the `get_support` of a selector that was fitted to signals of this protocol.

        Returns
        -------
        AcquisitionProtocol
            Protocol of the selected measurements.

        Raises
        ------
        ValueError
            If a mask does not have n_measurements entries, a position is duplicated or lies
            outside 0..n_measurements - 1, if nothing is selected, or if the selection
            is neither a mask nor positions.
        """
        chosen, n = np.asarray(selection), self.n_measurements
        is_mask = chosen.dtype == bool
        if chosen.size == 0 or (is_mask and not chosen.any()):
            raise ValueError("nothing is selected; a protocol needs at least one measurement")
        if chosen.ndim != 1 or chosen.dtype.kind not in "biu":
            raise ValueError(
                f"selection must be a mask of {n} booleans or a list of positions 0..{n - 1}, "
                f"got an array of shape {chosen.shape} and type {chosen.dtype}"
            )
        if is_mask and chosen.size != n:
            raise ValueError(f"a mask of {n} measurements needs {n} entries, got {chosen.size}")
        if not is_mask and (chosen.min() < 0 or chosen.max() >= n):
            raise ValueError(
                f"positions must lie in 0..{n - 1}, got {chosen.min()}..{chosen.max()}"
            )
        positions = np.flatnonzero(chosen) if is_mask else np.unique(chosen)
        if not is_mask and positions.size < chosen.size:  # such as zeros and ones meant as a mask
            raise ValueError("the selection has duplicate positions; a mask must be boolean")
        return self._take(positions)

    # -- files, equality and copies ----------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Convert the protocol to plain values, for files.

        Returns
        -------
        dict
            Entries `contrasts` (a list of scan parameters by name, in scanner order), `tr` (a
            number, a list or None) and `units` (units by name), and `readout` and `series` where
            they are not None. Infinite values are "inf", which JSON can store.
        """
        contrasts = {name: _plain(values) for name, values in self.contrasts.items()}
        tr = _plain(self.tr) if isinstance(self.tr, np.ndarray) else self.tr
        units = {name: unit for name, unit in own_units().items() if name in (*contrasts, "tr")}
        content: dict[str, Any] = {"contrasts": contrasts, "tr": tr, "units": units}
        if self.readout is not None:
            content["readout"] = plain_readout(self.readout)
        if self.series is not None:
            content["series"] = self.series.tolist()
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> AcquisitionProtocol:
        """Create the protocol that :meth:`to_dict` converted, or one of a file of a user.

        Parameters
        ----------
        content : mapping
            Entries `contrasts` (one entry per measurement) or `grid` (the levels of a grid) with
            scan parameters by name, or the scan parameters themselves (one entry per measurement);
            and, optionally, `tr`, `units`, `readout` (a mapping with the parameters of
            :class:`corrsk.physics.EchoTrain`, or a list of such mappings and None) and `series`,
            as for the class. Keys in any case.

        Returns
        -------
        AcquisitionProtocol
            The protocol.

        Raises
        ------
        KeyError
            If there is neither `contrasts` nor `grid` nor a scan parameter.
        ValueError
            If the scan parameters are invalid, or an entry is unknown, or given twice (`TI` and
            `ti`).

        Warns
        -----
        UserWarning
            If two or more lists of scan parameters without `contrasts` or `grid` are strictly
            ascending; see :class:`AcquisitionProtocol`.
        """
        return cls._from_plain(content, stacklevel=2)

    @classmethod
    def _from_plain(cls, content: Mapping[str, Any], stacklevel: int) -> AcquisitionProtocol:
        plain = normalized(content)
        readout = readout_of_plain(plain.readout)
        if plain.form == "grid":
            if plain.series is not None:
                raise ValueError("a grid is a single series; drop the entry series")
            protocol = cls._outer(plain.values, plain.tr, plain.units, readout)
        else:
            protocol = cls(
                plain.values, tr=plain.tr, units=plain.units, readout=readout, series=plain.series
            )
        if not plain.form:
            _warn_of_levels(protocol.contrasts, stacklevel=stacklevel + 1)
        return protocol

    def to_json(self, path: str | Path) -> None:
        """Write the protocol, in scanner order, as a readable JSON file.

        Parameters
        ----------
        path : path-like
            File to write.
        """
        write_protocol(path, self.to_dict())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AcquisitionProtocol):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        order = self._grid_permutation
        ordered = self._table[:, order]
        tr = self.tr[order].tobytes() if isinstance(self.tr, np.ndarray) else self.tr
        readout, series = self.readout, self.series
        if isinstance(readout, tuple):
            readout = tuple(readout[position] for position in order)
        # series have no order among each other
        numbers = None
        if series is not None:
            renumbered = checked_series(series[order], order.size)
            numbers = None if renumbered is None else renumbered.tobytes()
        return tuple(self.contrasts), ordered.shape, ordered.tobytes(), tr, readout, numbers

    def __repr__(self) -> str:
        return f"AcquisitionProtocol({self})"

    def __str__(self) -> str:
        if self.grid_shape is not None:
            what = " x ".join(
                f"{size} {name}" for size, name in zip(self.grid_shape, self.contrasts, strict=True)
            )
        else:
            what = f"{self.n_measurements} measurements of {', '.join(self.contrasts)}"
        spans = ", ".join(
            f"{name} {span(values)} {CONTRASTS[name].unit}"
            for name, values in self.contrasts.items()
        )
        tr = "" if self.tr is None else f", TR {span(self.tr)} ms"
        trains = {train.spacing for train in self._readout_of_each if train is not None}
        spacings = ", ".join(f"{spacing:g}" for spacing in sorted(trains))
        echoes = f", echo train of spacing {spacings} ms" if trains else ""
        series = "" if self.series is None else f", {self.series.max() + 1} series"
        return f"{what}: {spans}{tr}{echoes}{series}"

    def __copy__(self) -> AcquisitionProtocol:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AcquisitionProtocol:
        return self  # immutable; a numpy deep copy would be writeable

    def __getstate__(self) -> dict[str, Any]:
        # plain types: a mappingproxy can neither be pickled nor stored by skops
        state: dict[str, Any] = {"contrasts": dict(self.contrasts), "tr": self.tr}
        if self.readout is not None:
            state["readout"] = plain_readout(self.readout)
        if self.series is not None:
            state["series"] = self.series
        further = contrasts_beyond(parameters=self.contrasts)
        return state if further is None else state | {"registered": further}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore_contrasts(state.get("registered", ()))  # own_units() needs their units
        AcquisitionProtocol.__init__(
            self, state["contrasts"], tr=state["tr"], units=own_units(),
            readout=readout_of_plain(state.get("readout")), series=state.get("series"),
        )  # fmt: skip


def _rebuild(contrasts: dict[str, NDArray[np.float64]], tr: float | None) -> AcquisitionProtocol:
    """Create a protocol; pickles of earlier versions name this function."""
    return AcquisitionProtocol(contrasts, tr=tr, units=own_units())


def span(values: ArrayLike) -> str:
    """Text of the smallest and largest value, such as "50..2000", "50..2000 and inf" or "3000"."""
    given = np.atleast_1d(values)
    finite = given[np.isfinite(given)]
    if not finite.size:
        return "inf"
    text = f"{finite.min():g}" if np.ndim(values) == 0 else f"{finite.min():g}..{finite.max():g}"
    return text if finite.size == given.size else f"{text} and inf"


def _plain(values: NDArray[np.float64]) -> list[float | str]:
    """Values as a list; JSON has no infinite numbers."""
    return [value if math.isfinite(value) else "inf" for value in values.tolist()]


def _warn_of_levels(lists: Mapping[str, NDArray[np.float64]], stacklevel: int) -> None:
    """Warn if lists of measurements look like lists of levels."""
    values = np.stack(list(lists.values()))
    if len(values) > 1 and values.shape[1] > 1 and (values[:, 1:] > values[:, :-1]).all():
        names = list(lists)
        warnings.warn(
            f"the lists {' and '.join(names)} are strictly ascending and give "
            f"{values.shape[1]} measurements, one for each pair. For all combinations of these "
            "levels use AcquisitionProtocol.from_grid; for pairs pass one mapping, "
            f"AcquisitionProtocol({{{', '.join(f'{name!r}: ..' for name in names)}}}), which gives "
            "no warning",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def protocol_of_columns(
    names: Iterable[str] | None, expected: AcquisitionProtocol | None = None
) -> AcquisitionProtocol | None:
    """Protocol of named columns, in the order of the names.

    Parameters
    ----------
    names : iterable of str or None
        Names of columns; see :meth:`AcquisitionProtocol.from_feature_names`.
    expected : AcquisitionProtocol, optional
        Protocol that the columns have, in any order. The result has its TR, and values that are
        not plausible in the units of corrsk are not refused.

    Returns
    -------
    AcquisitionProtocol or None
        The measurements of `expected`, or else those of the names, in the order of the names.
        None without names, or if no name has a scan parameter.

    Raises
    ------
    ValueError
        If some names have a scan parameter and another name is not understood, a value is
        invalid, or the names do not describe the measurements of `expected`.
    """
    given = [] if names is None else [str(name) for name in names]
    if expected is not None:
        order = column_order(expected, given)
        return None if order is None else expected._take(np.argsort(order))
    read = measurements_of_names(given)
    return None if read is None else _of_names(read, given[0], read.stated)


def _of_names(read: NamedMeasurements, first: str, units: Units) -> AcquisitionProtocol:
    try:
        return AcquisitionProtocol(read.contrasts, tr=read.tr, units=units)
    except ValueError as error:
        raise ValueError(f"the column names {first!r}, .. are invalid: {error}") from error


def column_order(
    protocol: AcquisitionProtocol, names: Sequence[str] | None
) -> NDArray[np.intp] | None:
    """Positions of the measurements of a protocol among named columns.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        The protocol.
    names : sequence of str or None
        Names of the columns. Their TR, if any, is compared with that of the protocol.

    Returns
    -------
    ndarray of int, shape (n_measurements,), or None
        ``X[:, positions]`` has the columns in the order of the protocol. None without names, or
        if no name has a scan parameter.

    Raises
    ------
    NamesOfOtherProtocolError
        If the names describe other measurements than the protocol has.
    ValueError
        If a name is not understood, a value is invalid, or the names lack TR and are those of
        measurements with different TR.
    """
    read = measurements_of_names(names or ())
    if names is None or read is None:
        return None
    # the protocol has been checked: its times may be shorter than usual
    with_tr = read.tr is not None
    found = _of_names(read, names[0], own_units())._names(with_tr)
    wanted = protocol._names(with_tr)
    lacking, extra = Counter(wanted), Counter(found)
    lacking, extra = lacking - extra, extra - lacking
    if lacking or extra:
        raise NamesOfOtherProtocolError(
            f"the names of the columns are not those of the protocol: {extra.total()} of the "
            f"columns ({', '.join(list(extra)[:3]) or 'none'}) are not among its measurements, "
            f"and {lacking.total()} of its measurements ({', '.join(list(lacking)[:3]) or 'none'}) "
            "are missing"
        )
    if not with_tr and isinstance(protocol.tr, np.ndarray):
        _refuse_names_without_tr(wanted, protocol)
    # repeats in the order of their numbers
    by_name: dict[str, list[int]] = {}
    for column in sorted(range(len(found)), key=lambda column: read.repeats[column]):
        by_name.setdefault(found[column], []).append(column)
    columns = {name: iter(positions) for name, positions in by_name.items()}
    return np.array([next(columns[name]) for name in wanted], dtype=np.intp)


class NamesOfOtherProtocolError(ValueError):
    """Names of columns that describe other measurements than those of a protocol."""


def _refuse_names_without_tr(names: list[str], protocol: AcquisitionProtocol) -> None:
    """Refuse names that measurements with different TR share."""
    tr_of: dict[str, float] = {}
    for name, tr in zip(names, protocol._tr_of_each.tolist(), strict=True):
        if tr_of.setdefault(name, tr) != tr:
            raise ValueError(
                f"the column name {name!r} is ambiguous: the protocol has this measurement with "
                f"TR {tr_of[name]:g} and {tr:g} ms; name the columns as "
                f"protocol.feature_names, such as {f'{name}_TR{tr:.10g}'!r}"
            )


def resolve_protocol(protocol: AcquisitionProtocol | str) -> AcquisitionProtocol:
    """Return a protocol, given the protocol or its name.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str
        A protocol, or the name of a protocol; see :meth:`AcquisitionProtocol.named`.

    Returns
    -------
    AcquisitionProtocol
        The protocol.

    Raises
    ------
    TypeError
        If `protocol` is neither a protocol nor a name.
    """
    if isinstance(protocol, AcquisitionProtocol):
        return protocol
    if isinstance(protocol, str):
        return AcquisitionProtocol.named(protocol)
    raise TypeError(
        f"protocol must be an AcquisitionProtocol or the name of a protocol "
        f"({', '.join(sorted(_NAMED_GRIDS))}), got {type(protocol).__name__}"
    )
