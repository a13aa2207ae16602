"""Acquisition protocols: the measurements and their order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from corrsk._utils.validation import check_entries, lookup
from corrsk.acquisition._checks import checked_contrasts, checked_tr
from corrsk.acquisition._files import contrasts_from_mat, read_protocol, write_protocol
from corrsk.physics import CONTRASTS
from corrsk.physics.contrasts import Contrast, contrasts_beyond, restore_contrasts

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


@dataclass(frozen=True, init=False, eq=False, repr=False)
class AcquisitionProtocol:
    """Combinations of scan parameters at which every voxel is measured.

    Immutable. The measurements keep the order in which they are passed, the *scanner order*;
    *grid order* sorts the measurements by TI, then TE, then b. Two protocols are equal if they
    have the same measurements, in any order.

    Parameters
    ----------
    contrasts : mapping of str to array of shape (n_measurements,), optional
        Scan parameters by name: "TI" and "TE" in ms, "b" in ms/um^2. Entry j
        of each array is the value of measurement j. Repeated measurements are allowed.
    ti, te, b : array of shape (n_measurements,), optional
        The same arrays by keyword.
    tr : float, optional
        Repetition time in ms, from inversion to inversion; None (default) for
        full recovery. TR acts on contrasts with longitudinal recovery (TI).

    Attributes
    ----------
    contrasts : mapping of str to read-only array of shape (n_measurements,)
        Scan parameters in scanner order.
    tr : float or None
        Repetition time in ms.
    n_measurements : int
        Number of measurements.
    grid_shape : tuple of int or None
        (n_ti, n_te[, n_b]) if every combination of the levels is measured
        exactly once, else None.

    Raises
    ------
    ValueError
        If the arrays differ in length or hold NaN, infinite or non-positive
        values, if a name is unknown, or if the values can only be in the wrong
        unit (every TE below 1, every TI below 20, TR below 60 "ms"; every b
        above 100 "ms/um^2").

    Examples
    --------
    >>> from corrsk import AcquisitionProtocol
    >>> AcquisitionProtocol.from_grid(ti=[50, 400, 2000], te=[10, 40]).grid_shape
    (3, 2)
    """

    contrasts: Mapping[str, NDArray[np.float64]]
    tr: float | None

    def __init__(
        self,
        contrasts: Mapping[str, ArrayLike] | None = None,
        *,
        ti: ArrayLike | None = None,
        te: ArrayLike | None = None,
        b: ArrayLike | None = None,
        tr: float | None = None,
    ) -> None:
        given = dict(contrasts or {})
        for name, values in {"TI": ti, "TE": te, "b": b}.items():
            if values is None:
                continue
            if name in given:
                raise ValueError(f"{name} is passed twice, in `contrasts` and by keyword")
            given[name] = values
        object.__setattr__(self, "contrasts", MappingProxyType(checked_contrasts(given)))
        object.__setattr__(self, "tr", checked_tr(tr, self.contrasts))

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
    ) -> AcquisitionProtocol:
        """Protocol of all combinations of levels, in grid order.

        Parameters
        ----------
        ti, te, b : array of shape (n_ti,), (n_te,), (n_b,), optional
            Levels of each scan parameter, in any order.
        tr : float, optional
            Repetition time in ms.

        Returns
        -------
        AcquisitionProtocol
            The protocol.
        """
        levels = {
            name: values
            for name, values in {"TI": ti, "TE": te, "b": b}.items()
            if values is not None
        }
        return cls._outer(levels, tr=tr)

    @classmethod
    def _outer(cls, levels: Mapping[str, ArrayLike], tr: float | None) -> AcquisitionProtocol:
        ascending = [np.sort(np.asarray(x, dtype=np.float64).ravel()) for x in levels.values()]
        mesh = np.meshgrid(*ascending, indexing="ij")
        return cls({name: axis.ravel() for name, axis in zip(levels, mesh, strict=True)}, tr=tr)

    @classmethod
    def from_mat(cls, path: str | Path) -> AcquisitionProtocol:
        """Read a MATLAB file with vectors `ti` and `te`, or one of these and `b`.

        Parameters
        ----------
        path : path-like
            MATLAB file; may also have `tr`.

        Returns
        -------
        AcquisitionProtocol
            The protocol, in the order of the file.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        ValueError
            If the file is not a readable MATLAB file, or has fewer than two of the vectors.
        """
        contrasts, tr = contrasts_from_mat(path)
        return cls(contrasts, tr=tr)

    @classmethod
    def from_json(cls, path: str | Path) -> AcquisitionProtocol:
        """Read a protocol from a file of :meth:`to_json`.

        Parameters
        ----------
        path : path-like
            JSON file.

        Returns
        -------
        AcquisitionProtocol
            The protocol, in the order of the file.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        ValueError
            If the file is not JSON, or not a protocol.
        """
        return cls.from_dict(read_protocol(path))

    @classmethod
    def from_feature_names(cls, names: Iterable[str]) -> AcquisitionProtocol:
        """Protocol of columns with names such as those of :attr:`feature_names`.

        Parameters
        ----------
        names : iterable of str
            Names such as "TI50_TE4.5".

        Returns
        -------
        AcquisitionProtocol
            The protocol, without TR, in the order of the names.

        Raises
        ------
        ValueError
            If a name does not have the form "TI50_TE4.5".
        """
        rows = [_parts_of_name(str(name)) for name in names]
        if not rows or not rows[0] or any(row.keys() != rows[0].keys() for row in rows):
            raise ValueError(
                "feature names must have the form 'TI50_TE4.5', all with the same parts"
            )
        return cls({key: [float(row[key]) for row in rows] for key in rows[0]})

    # -- content -----------------------------------------------------------

    @property
    def ti(self) -> NDArray[np.float64] | None:
        """Inversion times in ms, shape (n_measurements,), read-only; None without "TI"."""
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
    def feature_names(self) -> list[str]:
        """Names of the measurements, such as "TI50_TE4.5"; repeats end in "_2", "_3", .."""
        seen: dict[str, int] = {}
        names = []
        for column in self._table.T:
            name = "_".join(
                f"{key}{value:.10g}" for key, value in zip(self.contrasts, column, strict=True)
            )
            seen[name] = seen.get(name, 0) + 1
            names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
        return names

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

    # -- order -------------------------------------------------------------

    @property
    def _grid_permutation(self) -> NDArray[np.intp]:
        # the last key of lexsort is the primary key; the sort is stable for repeats
        return np.lexsort(self._table[::-1])

    def in_grid_order(self) -> AcquisitionProtocol:
        """Sort the measurements by TI, then TE, then b.

        Returns
        -------
        AcquisitionProtocol
            The sorted protocol.
        """
        order = self._grid_permutation
        return AcquisitionProtocol(
            {name: values[order] for name, values in self.contrasts.items()}, tr=self.tr
        )

    def to_grid(self, X: Any) -> Any:
        """Reorder columns from scanner order to grid order.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements)
            Columns in the order of the protocol.

        Returns
        -------
        array or DataFrame of shape (n_samples, n_measurements)
            Columns in grid order.

        Raises
        ------
        ValueError
            If X does not have n_measurements columns.
        """
        return self._take_columns(X, self._grid_permutation)

    def to_scan_order(self, X: Any) -> Any:
        """Reorder columns from grid order to scanner order; the inverse of :meth:`to_grid`.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements)
            Columns in grid order.

        Returns
        -------
        array or DataFrame of shape (n_samples, n_measurements)
            Columns in the order of the protocol.

        Raises
        ------
        ValueError
            If X does not have n_measurements columns.
        """
        return self._take_columns(X, np.argsort(self._grid_permutation))

    def _take_columns(self, X: Any, order: NDArray[np.intp]) -> Any:
        X = X if hasattr(X, "shape") else np.asarray(X)
        if len(X.shape) != 2 or X.shape[1] != self.n_measurements:
            raise ValueError(
                f"X must have shape (n_samples, {self.n_measurements}), one column for each of the "
                f"protocol's {self.n_measurements} measurements; got {tuple(X.shape)}"
            )
        return X.iloc[:, order] if hasattr(X, "iloc") else X[:, order]

    # -- selection ---------------------------------------------------------

    def subset(self, selection: ArrayLike) -> AcquisitionProtocol:
        """Select measurements, in the order of this protocol and with the same TR.

        Parameters
        ----------
        selection : array of bool, shape (n_measurements,), or array of int
            Mask over the measurements, or positions of the measurements to keep, as returned
            by the `get_support` of a selector. Columns of signals are in
            grid order: call :meth:`in_grid_order` first if the selection refers to columns.

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
        return AcquisitionProtocol(
            {name: values[positions] for name, values in self.contrasts.items()}, tr=self.tr
        )

    # -- files, equality and copies ----------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Convert the protocol to plain values, for files.

        Returns
        -------
        dict
            Entries `contrasts` (a list of scan parameters by name, in scanner order) and `tr`.
        """
        contrasts = {name: values.tolist() for name, values in self.contrasts.items()}
        return {"contrasts": contrasts, "tr": self.tr}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> AcquisitionProtocol:
        """Create the protocol that :meth:`to_dict` converted.

        Parameters
        ----------
        content : mapping
            Entries `contrasts` (one entry per measurement) or `grid` (the levels of a grid) with
            scan parameters by name, and, optionally, `tr`.

        Returns
        -------
        AcquisitionProtocol
            The protocol.

        Raises
        ------
        KeyError
            If there is neither `contrasts` nor `grid`.
        ValueError
            If the scan parameters are invalid, or there is an unknown entry.
        """
        # a misspelt "TR" must not become full recovery
        check_entries("a protocol", content, allowed=["contrasts", "grid", "tr"])
        if "contrasts" in content and "grid" in content:
            raise ValueError("a protocol has either contrasts or grid, not both")
        create = cls._outer if "grid" in content else cls
        contrasts = content["grid"] if "grid" in content else content["contrasts"]
        check_entries("the scan parameters of a protocol", contrasts, allowed=CONTRASTS)
        return create(contrasts, tr=content.get("tr"))

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
        ordered = self._table[:, self._grid_permutation]
        return tuple(self.contrasts), ordered.shape, ordered.tobytes(), self.tr

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
            f"{name} {values.min():g}..{values.max():g} {CONTRASTS[name].unit}"
            for name, values in self.contrasts.items()
        )
        tr = "" if self.tr is None else f", TR {self.tr:g} ms"
        return f"{what}: {spans}{tr}"

    def __copy__(self) -> AcquisitionProtocol:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AcquisitionProtocol:
        return self  # immutable; a numpy deep copy would be writeable

    def __reduce__(self) -> tuple[Any, ...]:
        further = contrasts_beyond(parameters=self.contrasts)
        return _rebuild, (dict(self.contrasts), self.tr, *([] if further is None else [further]))


def _rebuild(
    contrasts: dict[str, NDArray[np.float64]], tr: float | None, further: Iterable[Contrast] = ()
) -> AcquisitionProtocol:
    restore_contrasts(further)
    return AcquisitionProtocol(contrasts, tr=tr)


def _parts_of_name(name: str) -> dict[str, str]:
    return dict(re.findall(r"([A-Za-z]\w*?)(\d[\d.]*(?:e[-+]?\d+)?)(?:_|$)", name))


def protocol_of_columns(names: Iterable[str] | None) -> AcquisitionProtocol | None:
    """Protocol that the names of columns describe, if any.

    Parameters
    ----------
    names : iterable of str or None
        Names of columns.

    Returns
    -------
    AcquisitionProtocol or None
        None without names, or if a name does not describe a measurement, such as "TI50_TE4.5".
    """
    given = [] if names is None else [str(name) for name in names]
    if not given or not all(_parts_of_name(name).keys() & CONTRASTS.keys() for name in given):
        return None
    try:
        return AcquisitionProtocol.from_feature_names(given)
    except ValueError:  # further parts, or values that are invalid in a protocol
        return None


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
