"""Acquisition protocols: what was measured, in which order."""

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

from corrsk._utils.validation import lookup
from corrsk.acquisition._checks import checked_contrasts, checked_tr
from corrsk.acquisition._files import contrasts_from_json, contrasts_from_mat, contrasts_to_json
from corrsk.physics import CONTRASTS

# The group's published 8 x 8 protocol (the file ti_te_dict.mat beside the code
# of Endt et al., MIDL 2024), in grid order. The file has TR = 20 s as well; without
# it the protocol gives Eq. 1 as the paper states it.
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
    """The combinations of scan parameters at which every voxel is measured.

    An immutable value. Its measurements stand in the order in which they were
    given, the *scanner order*; *grid order* sorts them by TI, then TE, then b.
    Two protocols are equal if they measure the same, in whatever order.

    Parameters
    ----------
    contrasts : mapping of str to array of shape (n_measurements,), optional
        Scan parameters by name: "TI" and "TE" in ms, "b" in ms/um^2. Entry j
        of each belongs to measurement j. Repeated measurements are allowed.
    ti, te, b : array of shape (n_measurements,), optional
        The same, by keyword.
    tr : float, optional
        Repetition time in ms, from inversion to inversion; None (default) for
        full recovery. It acts on contrasts with longitudinal recovery (TI).

    Attributes
    ----------
    contrasts : mapping of str to read-only array of shape (n_measurements,)
    tr : float or None
    n_measurements : int
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
                raise ValueError(f"{name} is given twice, in `contrasts` and by keyword")
            given[name] = values
        object.__setattr__(self, "contrasts", MappingProxyType(checked_contrasts(given)))
        object.__setattr__(self, "tr", checked_tr(tr, self.contrasts))

    # -- constructors ------------------------------------------------------

    @classmethod
    def named(cls, name: str) -> AcquisitionProtocol:
        """A protocol that corrsk ships.

        Parameters
        ----------
        name : {"ir-se-8x8", "ir-se-8x8-tr20s"}
            "ir-se-8x8" is the group's published 8 x 8 protocol, in grid order
            and without TR; the other one has its TR of 20 s.

        Raises
        ------
        ValueError
            If the name is unknown; the message lists the known ones.
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
        """Every combination of the given levels, in grid order.

        Parameters
        ----------
        ti, te, b : array of shape (n_ti,), (n_te,), (n_b,), optional
            Levels of each scan parameter, sorted on the way in.
        tr : float, optional
            Repetition time in ms.
        """
        levels = {
            name: np.sort(np.asarray(values, dtype=np.float64).ravel())
            for name, values in {"TI": ti, "TE": te, "b": b}.items()
            if values is not None
        }
        return cls._outer(levels, tr=tr)

    @classmethod
    def _outer(cls, levels: Mapping[str, ArrayLike], tr: float | None) -> AcquisitionProtocol:
        mesh = np.meshgrid(*levels.values(), indexing="ij")
        return cls({name: axis.ravel() for name, axis in zip(levels, mesh, strict=True)}, tr=tr)

    @classmethod
    def from_mat(cls, path: str | Path) -> AcquisitionProtocol:
        """Read a MATLAB file with vectors `ti` and `te` (or one of them and `b`), optionally `tr`.

        The measurements keep the order of the file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not a readable MATLAB file, or holds fewer than two vectors.
        """
        contrasts, tr = contrasts_from_mat(path)
        return cls(contrasts, tr=tr)

    @classmethod
    def from_json(cls, path: str | Path) -> AcquisitionProtocol:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not JSON, or not a protocol.
        """
        contrasts, tr = contrasts_from_json(path)
        return cls(contrasts, tr=tr)

    @classmethod
    def from_feature_names(cls, names: Iterable[str]) -> AcquisitionProtocol:
        """The protocol that columns named like :attr:`feature_names` belong to.

        Raises
        ------
        ValueError
            If a name does not read like "TI50_TE4.5".
        """
        rows = [_parts_of_name(str(name)) for name in names]
        if not rows or not rows[0] or any(row.keys() != rows[0].keys() for row in rows):
            raise ValueError("feature names must read like 'TI50_TE4.5', all with the same parts")
        return cls({key: [float(row[key]) for row in rows] for key in rows[0]})

    # -- what it holds -----------------------------------------------------

    @property
    def ti(self) -> NDArray[np.float64] | None:
        """Inversion times in ms, shape (n_measurements,), read-only; None if there are none."""
        return self.contrasts.get("TI")

    @property
    def te(self) -> NDArray[np.float64] | None:
        """Echo times in ms, shape (n_measurements,), read-only; None if there are none."""
        return self.contrasts.get("TE")

    @property
    def b(self) -> NDArray[np.float64] | None:
        """Diffusion weightings in ms/um^2, shape (n_measurements,), read-only; None if there are none."""
        return self.contrasts.get("b")

    @property
    def n_measurements(self) -> int:
        """Number N of measurements."""
        return int(self._table.shape[1])

    @property
    def tissue_properties(self) -> tuple[str, ...]:
        """The tissue properties that the protocol probes, such as ("T1", "T2")."""
        return tuple(CONTRASTS[name].tissue for name in self.contrasts)

    @property
    def grid_shape(self) -> tuple[int, ...] | None:
        """Number of levels per scan parameter, or None if they span no full grid."""
        shape = tuple(np.unique(values).size for values in self._table)
        distinct = np.unique(self._table, axis=1).shape[1]
        return shape if math.prod(shape) == distinct == self.n_measurements else None

    @property
    def feature_names(self) -> list[str]:
        """A name for each measurement, such as "TI50_TE4.5"; repeats get "_2", "_3", .."""
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
        """One row per measurement, one column per scan parameter."""
        return pd.DataFrame(dict(self.contrasts))

    @property
    def _table(self) -> NDArray[np.float64]:
        return np.stack(list(self.contrasts.values()))

    # -- order -------------------------------------------------------------

    @property
    def _grid_permutation(self) -> NDArray[np.intp]:
        # lexsort's last key is the primary one, and it is stable for repeats
        return np.lexsort(self._table[::-1])

    def in_grid_order(self) -> AcquisitionProtocol:
        """The same measurements, sorted by TI, then TE, then b."""
        order = self._grid_permutation
        return AcquisitionProtocol(
            {name: values[order] for name, values in self.contrasts.items()}, tr=self.tr
        )

    def to_grid(self, X: Any) -> Any:
        """Bring columns from scanner order to grid order.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements)
            Columns in the protocol's own order.

        Returns
        -------
        array or DataFrame of shape (n_samples, n_measurements)

        Raises
        ------
        ValueError
            If X does not have N columns.
        """
        return self._take_columns(X, self._grid_permutation)

    def to_scan_order(self, X: Any) -> Any:
        """Bring columns from grid order back to scanner order; undoes :meth:`to_grid`."""
        return self._take_columns(X, np.argsort(self._grid_permutation))

    def _take_columns(self, X: Any, order: NDArray[np.intp]) -> Any:
        X = X if hasattr(X, "shape") else np.asarray(X)
        if len(X.shape) != 2 or X.shape[1] != self.n_measurements:
            raise ValueError(
                f"X must have shape (n, {self.n_measurements}), one column for each of the "
                f"protocol's {self.n_measurements} measurements; got {tuple(X.shape)}"
            )
        return X.iloc[:, order] if hasattr(X, "iloc") else X[:, order]

    # -- part of it --------------------------------------------------------

    def subset(self, selection: ArrayLike) -> AcquisitionProtocol:
        """Some of the measurements, in the order that they have here, with the same TR.

        Parameters
        ----------
        selection : array of bool, shape (n_measurements,), or array of int
            A mask over the measurements, or the positions of those to keep, as
            a selector's `get_support` gives them. Columns of signals are in
            grid order: call :meth:`in_grid_order` first where they select.

        Raises
        ------
        ValueError
            If a mask has another length than N, a position lies outside 0..N-1
            or stands there twice, if nothing is selected, or if the selection
            is neither mask nor positions.
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
        if not is_mask and positions.size < chosen.size:  # zeros and ones, meant as a mask
            raise ValueError("a position stands twice in the selection; a mask must be boolean")
        return AcquisitionProtocol(
            {name: values[positions] for name, values in self.contrasts.items()}, tr=self.tr
        )

    # -- a value -----------------------------------------------------------

    def to_json(self, path: str | Path) -> None:
        """Write the protocol, in scanner order, as a JSON file that people can read."""
        contrasts_to_json(path, self.contrasts, self.tr)

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
        return f"AcquisitionProtocol({what}: {spans}{tr})"

    def __copy__(self) -> AcquisitionProtocol:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> AcquisitionProtocol:
        return self  # immutable; a numpy deep copy would be writeable

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (dict(self.contrasts), self.tr)


def _rebuild(contrasts: dict[str, NDArray[np.float64]], tr: float | None) -> AcquisitionProtocol:
    return AcquisitionProtocol(contrasts, tr=tr)


def _parts_of_name(name: str) -> dict[str, str]:
    return dict(re.findall(r"([A-Za-z]\w*?)(\d[\d.]*(?:e[-+]?\d+)?)(?:_|$)", name))


def protocol_of_columns(names: Iterable[str] | None) -> AcquisitionProtocol | None:
    """Return the protocol that the names of columns describe.

    Parameters
    ----------
    names : iterable of str or None

    Returns
    -------
    AcquisitionProtocol or None
        None without names, and where a name is not that of a measurement, such as "TI50_TE4.5".
    """
    given = [] if names is None else [str(name) for name in names]
    if not given or not all(_parts_of_name(name).keys() & CONTRASTS.keys() for name in given):
        return None
    try:
        return AcquisitionProtocol.from_feature_names(given)
    except ValueError:  # other parts besides, or values that no protocol has
        return None


def resolve_protocol(protocol: AcquisitionProtocol | str) -> AcquisitionProtocol:
    """The protocol itself, or the named one.

    Raises
    ------
    TypeError
        If it is neither a protocol nor a name.
    """
    if isinstance(protocol, AcquisitionProtocol):
        return protocol
    if isinstance(protocol, str):
        return AcquisitionProtocol.named(protocol)
    raise TypeError(
        f"protocol must be an AcquisitionProtocol or the name of one "
        f"({', '.join(sorted(_NAMED_GRIDS))}), got {type(protocol).__name__}"
    )
