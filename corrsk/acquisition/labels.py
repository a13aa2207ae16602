"""Labels of signals: names of columns, levels of a MultiIndex, dimensions of a DataArray."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk.acquisition.column_names import measurements_of_names
from corrsk.acquisition.protocol import AcquisitionProtocol, column_order
from corrsk.physics import CONTRASTS
from corrsk.physics.contrasts import own_units

_TR = "TR"
_PROTOCOL = "protocol"  # entry of `attrs` of tables, also of the files of data sets
# names of scan parameters in BIDS, in the unit of the coordinate
_BIDS_DIMENSIONS = {"inversiontime": "TI", "echotime": "TE", "repetitiontime": _TR}


def with_column_names(X: Any) -> Any:
    """Convert labels that describe measurements to names of columns, such as "TI50_TE4.5".

    Parameters
    ----------
    X : array, DataFrame or DataArray
        Signals. A DataFrame may have a MultiIndex of columns, or numbers as columns, whose levels
        are named after scan parameters. A DataArray (of xarray) has one dimension of samples and
        one for each scan parameter, in any order and case (TI, te, .., or InversionTime, EchoTime
        and RepetitionTime as in BIDS). The coordinates, of all these dimensions or of none, are
        the values of the scan parameter, in the unit of the attribute "units" (default: the unit
        of corrsk).

    Returns
    -------
    array or DataFrame
        DataFrame with names, if the labels describe measurements. A DataArray without coordinates
        becomes an array (n_samples, n_ti, n_te), ... Other signals are returned as they are.

    Raises
    ------
    ValueError
        If some labels describe measurements and others do not, or a DataArray does not have
        exactly one dimension of samples, has coordinates for some of its scan parameters only, or
        has more than two dimensions and none is named after a scan parameter.
    """
    if hasattr(X, "dims") and hasattr(X, "transpose"):
        return _from_dimensions(X)
    columns = getattr(X, "columns", None)
    levels = getattr(columns, "names", None)
    if columns is None or levels is None or all(isinstance(column, str) for column in columns):
        return X
    if len(levels) != len(tuple(_as_tuple(columns[0]))):  # tuples in a plain index have one name
        levels = [None] * len(tuple(_as_tuple(columns[0])))
    levels = [_BIDS_DIMENSIONS.get(str(level).casefold(), level) for level in levels]
    names = [
        "__".join(itertools.starmap(_label, zip(levels, _as_tuple(column), strict=True)))
        for column in columns
    ]
    described = _described(names)
    return X if described is None else X.set_axis(described, axis=1)


def column_names(X: Any) -> list[str] | None:
    """Names of the columns of a table.

    Parameters
    ----------
    X : array or table
        Signals.

    Returns
    -------
    list of str or None
        Names; None for arrays, and for columns that are not all named by strings.
    """
    columns = getattr(X, "columns", None)
    if columns is None and hasattr(X, "__dataframe__"):
        columns = X.__dataframe__().column_names()
    if columns is None or callable(columns):
        return None
    names = list(columns)
    return names if names and all(isinstance(name, str) for name in names) else None


def in_protocol_order(X: Any, protocol: AcquisitionProtocol) -> Any:
    """Reorder columns whose names describe measurements into the order of a protocol.

    Parameters
    ----------
    X : array or table of shape (n_samples, n_measurements)
        Signals; see :func:`with_column_names`.
    protocol : AcquisitionProtocol
        The protocol.

    Returns
    -------
    array or table
        Columns in the order of the protocol, without names, if the columns have such names,
        otherwise X.

    Raises
    ------
    ValueError
        If the names describe other measurements than the protocol has.
    """
    order = column_order(protocol, column_names(X))
    if order is None:
        return X
    if hasattr(X, "iloc"):  # with its types of columns
        return X.iloc[:, order].set_axis(range(order.size), axis=1)
    return np.take(np.asarray(X), order, axis=1)


def signals_table(signals: NDArray[Any], protocol: AcquisitionProtocol) -> pd.DataFrame:
    """Table of signals with the names of the measurements and, in `attrs`, their protocol.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, n_measurements)
        Signals in the order of the protocol; not copied.
    protocol : AcquisitionProtocol
        The protocol.

    Returns
    -------
    DataFrame of shape (n_samples, n_measurements)
        The table.
    """
    table = pd.DataFrame(signals, columns=protocol.feature_names, copy=False)
    table.attrs[_PROTOCOL] = protocol.to_dict()
    return table


def attached_protocol(X: Any) -> AcquisitionProtocol | None:
    """Protocol in `attrs` of a table, for its columns in their order.

    The names of columns lack what `attrs` has: a TR that all measurements share, echo trains, and
    series.

    Parameters
    ----------
    X : array or table
        Signals.

    Returns
    -------
    AcquisitionProtocol or None
        The protocol; None if there is none, or a column is none of its measurements.

    Raises
    ------
    ValueError
        If the entry is no protocol.
    """
    content = getattr(X, "attrs", {}).get(_PROTOCOL) if hasattr(X, "columns") else None
    names = column_names(X)
    if content is None or names is None:
        return None
    protocol = AcquisitionProtocol.from_dict(content)
    place = {name: position for position, name in enumerate(protocol.feature_names)}
    if not set(names) <= place.keys() or len(set(names)) < len(names):
        return None
    return protocol._take(np.array([place[name] for name in names], dtype=np.intp))


def _from_dimensions(X: Any) -> Any:
    by_name = {name.casefold(): name for name in (*CONTRASTS, _TR)} | _BIDS_DIMENSIONS
    found: dict[str, Hashable] = {}
    for dim in X.dims:
        name = by_name.get(str(dim).casefold())
        if name in found:
            raise ValueError(f"the dimensions {found[name]} and {dim} are both {name}")
        if name is not None:
            found[name] = dim
    if not found and len(X.dims) > 2:
        raise ValueError(
            f"none of the dimensions {', '.join(map(str, X.dims))} of the DataArray is named "
            f"after a scan parameter ({', '.join(CONTRASTS)}, in any case); rename the dimensions "
            "of scan parameters, or pass the array, X.values"
        )
    if not found:
        return np.asarray(X.values)
    samples = [dim for dim in X.dims if dim not in found.values()]
    if len(samples) != 1:
        raise ValueError(
            f"a DataArray must have one dimension of samples beside {', '.join(map(str, found))}; "
            f"got the dimensions {', '.join(map(str, X.dims))}; combine the dimensions of voxels "
            "with X.stack"
        )
    ordered = {name: found[name] for name in (*CONTRASTS, _TR) if name in found}
    values = np.asarray(X.transpose(*samples, *ordered.values()).values)
    lacking = [str(dim) for dim in ordered.values() if dim not in X.coords]
    if lacking and (len(lacking) < len(ordered) or _TR in ordered):
        raise ValueError(
            f"the DataArray has no coordinates for the dimensions {', '.join(lacking)}; the "
            "dimensions of scan parameters need coordinates, all or none of them"
            + (" (all, with TR)" if _TR in ordered else "")
        )
    if lacking:
        return values
    levels = []
    for name, dim in ordered.items():
        coordinate = X.coords[dim]
        unit = coordinate.attrs.get("units", "")
        levels.append([f"{_label(name, value)}{unit}" for value in np.asarray(coordinate.values)])
    names = ["__".join(combination) for combination in itertools.product(*levels)]
    return pd.DataFrame(
        values.reshape(len(values), len(names)), columns=_described(names), copy=False
    )


def _described(names: list[str]) -> list[str] | None:
    """Names of the measurements that labels describe, if any."""
    read = measurements_of_names(names)
    if read is None:
        return None
    try:
        return AcquisitionProtocol(read.contrasts, tr=read.tr, units=read.stated).feature_names
    except ValueError:  # not plausible: a reader with a protocol may accept the names
        AcquisitionProtocol(read.contrasts, tr=read.tr, units=own_units())
        return names


def _label(level: Hashable, value: Any) -> str:
    """Value of a level, preceded by the name of the level unless the value already has it."""
    if isinstance(value, Real):
        return f"{'' if level is None else level}{float(value):.10g}"
    text = str(value)
    named = level is None or text.casefold().startswith(str(level).casefold())
    return text if named else f"{level}{text}"


def _as_tuple(column: Any) -> Sequence[Any] | Iterable[Any]:
    return column if isinstance(column, tuple) else (column,)
