"""Files of protocols: MATLAB vectors of the published code, readable JSON, sidecars of BIDS."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.files import (
    InvalidFileError,
    existing_file,
    read_json,
    write_json,
)
from corrsk._utils.mat_files import read_mat
from corrsk.acquisition._plain import normalized
from corrsk.physics import CONTRASTS
from corrsk.physics.contrasts import REPETITION_TIME, scan_quantities

_JSON_FORMAT = "corrsk-protocol"
_SIDECAR = {"InversionTime": "TI", "EchoTime": "TE", "RepetitionTime": "tr"}
_SIDECAR_KEYS = {name: key for key, name in _SIDECAR.items()}
_SIDECAR_EXPECTED = "InversionTime and EchoTime, or one of these,"
_EXPECTED = (
    'an object such as {"ti": [...], "te": [...], "tr": 5000}, {"contrasts": {"TI": [...], '
    '"TE": [...]}} or {"grid": {"TI": [...], "TE": [...]}}, or sidecars of BIDS with '
    "InversionTime and EchoTime in seconds"
)


def contrasts_from_mat(path: str | Path) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """Read the scan parameters of a MATLAB file and its TR.

    Raises
    ------
    FileNotFoundError, InvalidFileError
        See :meth:`AcquisitionProtocol.from_mat`.
    """
    given = read_mat(path)
    content = {key.lower(): value for key, value in given.items()}
    for name in (*CONTRASTS, "tr"):
        same = [key for key in given if key.lower() == name.lower()]
        if len(same) > 1:
            raise InvalidFileError(f"{path} has the vectors {' and '.join(same)}; keep one of them")
    contrasts = {
        name: np.ravel(content[name.lower()]) for name in CONTRASTS if name.lower() in content
    }
    if not contrasts:
        raise InvalidFileError(
            f"{path} holds no protocol: expected one or several of the vectors 'ti' and 'te' (ms) "
            f"and 'b' (ms/um^2), optionally 'tr' (ms); found {sorted(content) or 'nothing'}"
        )
    tr = np.ravel(content.get("tr", ()))
    if np.unique(tr).size <= 1:  # a vector of any length may repeat a single value
        return contrasts, tr[0] if tr.size else None
    return contrasts, tr


class TableContent(NamedTuple):
    """Columns of a text table of measurements.

    Attributes
    ----------
    contrasts : dict of str to ndarray of shape (n_measurements,)
        Scan parameters.
    tr : ndarray of shape (n_measurements,) or None
        Repetition times.
    series : ndarray of int, shape (n_measurements,), or None
        Series of each measurement.
    units : dict of str to str
        Units that the header states, by name.
    """

    contrasts: dict[str, NDArray[np.float64]]
    tr: NDArray[np.float64] | None
    series: NDArray[np.int64] | None
    units: dict[str, str]


_SERIES = "series"
_LABELS = ("file", "filename", "volume", "index")  # columns of a table without scan parameters


def contrasts_from_table(path: str | Path) -> TableContent:
    """Read a text table with one row for each measurement.

    Raises
    ------
    FileNotFoundError, InvalidFileError
        See :meth:`AcquisitionProtocol.from_table`.
    """
    path = existing_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidFileError(f"{path} is not a text table: {error}") from error
    lines = [line.strip(" \r\n") for line in text.splitlines()]
    lines = [line for line in lines if line.strip()]
    if lines and lines[0].startswith("#"):
        lines[0] = lines[0].lstrip("# ")
    lines = [line for line in lines if not line.startswith("#")]
    if len(lines) < 2:
        raise InvalidFileError(
            f"{path} has no measurements: a table needs a first line with names such as TI, TE, "
            "TR and b, and one line for each measurement"
        )
    delimiter = next((mark for mark in "\t;," if mark in lines[0]), None)
    rows = [[cell.strip().strip('"') for cell in line.split(delimiter)] for line in lines]
    if delimiter is None:
        rows[0] = _joined_units(rows[0])
    names, units = _columns_of(rows[0], path)
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(names):
            raise InvalidFileError(
                f"measurement {number} of {path} has {len(row)} cells, but the first line has "
                f"{len(names)} names"
            )
    values = {
        name: _cells([row[column] for row in rows[1:]], name, path)
        for column, name in enumerate(names)
        if name not in _LABELS
    }
    tr, series = values.pop(REPETITION_TIME.name, None), values.pop(_SERIES, None)
    if not values:
        raise InvalidFileError(
            f"{path} has no scan parameter: its columns are {', '.join(rows[0])}, and a table "
            f"needs one or several of {', '.join(CONTRASTS)}"
        )
    number_of = None if series is None else series.astype(np.int64)
    return TableContent(values, tr, number_of, units)


def _joined_units(cells: list[str]) -> list[str]:
    """Cells of a header separated by spaces, with a unit in parentheses joined to its name."""
    joined: list[str] = []
    for cell in cells:
        if joined and cell.startswith(("(", "[")):
            joined[-1] += f" {cell}"
        else:
            joined.append(cell)
    return joined


def _columns_of(cells: list[str], path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of scan parameters, and their units, from the first line of a table."""
    quantities = scan_quantities()
    own = {name.casefold(): name for name in quantities}
    of_bids = {key.casefold(): name for key, name in _SIDECAR.items()}
    own |= of_bids | {label: label for label in (*_LABELS, _SERIES)}
    names, units = [], {}
    for cell in cells:
        match = re.fullmatch(r"([A-Za-z]+?)(?:[\s_]*[(\[](.+)[)\]]|[\s_]+(.+))?", cell)
        name = None if match is None else own.get(match[1].casefold())
        unit = None if match is None else match[2] or match[3]
        valid = name in quantities and (unit is None or quantities[name].has_unit(unit))
        if name is None or match is None or not (valid or (name not in quantities and not unit)):
            raise InvalidFileError(
                f"the column {cell!r} of {path} is not understood: the names of the first line "
                f"are {', '.join(quantities)}, with a unit such as 'TE (s)' or without, "
                f"{_SERIES} and {', '.join(_LABELS)}"
            )
        if name in names:
            raise InvalidFileError(f"{path} has the column {name} twice")
        names.append(name)
        if unit is not None:
            units[name] = unit
        elif match[1].casefold() in of_bids:
            units[name] = "s"
    return names, units


def _cells(cells: list[str], name: str, path: Path) -> NDArray[np.float64]:
    numbers = []
    for number, cell in enumerate(cells, 1):
        try:
            numbers.append(float(cell))
        except ValueError:
            raise InvalidFileError(
                f"{name} of measurement {number} of {path} is no number: {cell!r}"
            ) from None
    return np.array(numbers)


def content_of_json(path: str | Path | Sequence[str | Path]) -> dict[str, Any]:
    """Read the plain values of a protocol from a JSON file, or from several sidecars.

    Returns
    -------
    dict
        Content for :func:`corrsk.acquisition._plain.normalized`.

    Raises
    ------
    FileNotFoundError, InvalidFileError
        See :meth:`AcquisitionProtocol.from_json`.
    """
    if not isinstance(path, (str, Path)):
        return _from_sidecars([(str(file), read_json(file)) for file in path])
    content = read_json(path)
    if isinstance(content, list) and content and all(isinstance(one, dict) for one in content):
        named = [(f"entry {k} of {path}", one) for k, one in enumerate(content)]
        return _from_sidecars(named)
    if not isinstance(content, dict):
        raise InvalidFileError(f"{path} is not a protocol: expected {_EXPECTED}")
    if content.keys() & _SIDECAR.keys() and not content.keys() & {"contrasts", "grid"}:
        return _from_sidecars([(str(path), content)])
    if content.get("format", _JSON_FORMAT) != _JSON_FORMAT or content.get("version", 1) != 1:
        raise InvalidFileError(
            f"{path} is in the format {content.get('format')!r}, version "
            f"{content.get('version')}; this corrsk reads {_JSON_FORMAT!r}, version 1"
        )
    content = {key: value for key, value in content.items() if key not in ("format", "version")}
    try:
        normalized(content)
    except (KeyError, ValueError) as error:
        raise InvalidFileError(
            f"{path} is not a protocol: expected {_EXPECTED}; {error.args[0]}"
        ) from None
    return content


def _from_sidecars(named: list[tuple[str, Any]]) -> dict[str, Any]:
    """Join sidecars of BIDS, each of one or several measurements."""
    measured: dict[str, list[float]] = {}
    tr: list[float] = []
    for where, content in named:
        if not isinstance(content, dict):
            raise InvalidFileError(f"{where} is not a sidecar of BIDS: expected an object")
        # quantitative series have the time between excitations under a name of its own
        content = {"RepetitionTime": content.get("RepetitionTimeExcitation")} | content
        columns = {
            name: _from_seconds(name, content[key], where)
            for key, name in _SIDECAR.items()
            if content.get(key) is not None
        }
        repetition = columns.pop("tr", None)
        if not columns or (measured and columns.keys() != measured.keys()):
            expected = " and ".join(_SIDECAR_KEYS[name] for name in measured) or _SIDECAR_EXPECTED
            found = ", ".join(sorted(name for name in _SIDECAR if content.get(name)))
            raise InvalidFileError(
                f"{where} must have the entries {expected} in seconds, as the other sidecars; "
                f"found {found or 'none of them'}. Read different series apart and join them with "
                "AcquisitionProtocol.concatenate"
            )
        sizes = {name: values.size for name, values in columns.items()}
        if repetition is not None:
            sizes["RepetitionTime"] = repetition.size
        if len(set(sizes.values()) - {1}) > 1:
            raise InvalidFileError(f"the entries of {where} differ in length: {sizes}")
        length = max(sizes.values())
        for name, values in columns.items():
            measured.setdefault(name, []).extend(np.broadcast_to(values, length).tolist())
        # without a RepetitionTime, full recovery
        tr.extend(np.broadcast_to(np.inf if repetition is None else repetition, length).tolist())
    return {"contrasts": measured, "tr": tr}


def _from_seconds(name: str, values: Any, where: str) -> NDArray[np.float64]:
    """Convert the values of a scan parameter or of TR, a number or a list.

    Raises
    ------
    InvalidFileError
        If the values are not numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise InvalidFileError(f"{where} must have numbers for {name}, got {values!r}")
    return scan_quantities()[name].converted(np.ravel(array).astype(np.float64), "s")


def write_protocol(path: str | Path, content: dict[str, Any]) -> None:
    """Write the plain values of a protocol, with their units, to a JSON file."""
    write_json(path, {"format": _JSON_FORMAT, "version": 1} | content)
