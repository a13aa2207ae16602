"""Reader of column names: the scan parameters in names such as "TI50_TE4.5"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from corrsk.physics import CONTRASTS
from corrsk.physics.units import shifted

_SEPARATORS = r"[\s_\-=,;:()\[\]]*"
_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf)"


class _Name(NamedTuple):
    """Values of the scan parameters in a name, in the units of corrsk, and the repeat."""

    values: dict[str, float]
    repeat: int


def contrasts_of_names(
    names: Iterable[str], units: Mapping[str, str] = MappingProxyType({})
) -> dict[str, list[float]] | None:
    """Read the scan parameters in the names of columns.

    Case, separators (such as "TI_50_TE_4.5" and "TI=50 ms, TE=4.5 ms"), units (ms, s or us for
    times; ms/um^2 or s/mm^2 for b), prefixes that end in "__" and suffixes of repeated
    measurements ("_2") are understood.

    Parameters
    ----------
    names : iterable of str
        Names of columns.
    units : mapping of str to str, optional
        Units of numbers without a unit, by scan parameter; the default is that of corrsk.

    Returns
    -------
    dict of str to list of float, or None
        Values by scan parameter, in the units of corrsk and in the order of the names. None if no
        name has a scan parameter.

    Raises
    ------
    ValueError
        If some names have a scan parameter and another name is not understood; the message has
        the first such name.
    """
    given = list(names)
    if not any(map(_has_scan_parameter, given)):
        return None
    read = [_read(name, units) for name in given]
    example = next((k for k, name in enumerate(read) if name is not None), None)
    first = None if example is None else read[example]
    rows: list[_Name] = []
    for text, name in zip(given, read, strict=True):
        if name is None or first is None:
            other = "" if example is None else f", but {given[example]!r} is"
            raise ValueError(
                f"the column name {text!r} is not understood as a measurement{other}; if one name "
                "has a scan parameter, every name must have the form 'TI50_TE4.5' (scan "
                f"parameters {', '.join(CONTRASTS)}, in any case and with units such as ms or s)"
            )
        if name.values.keys() != first.values.keys():
            raise ValueError(
                f"the column name {text!r} has the scan parameters {', '.join(name.values)}, but "
                f"{given[example or 0]!r} has {', '.join(first.values)}; all names must have the "
                "same scan parameters"
            )
        rows.append(name)
    _check_repeats(given, rows)
    return {key: [row.values[key] for row in rows] for key in CONTRASTS if key in rows[0].values}


def _check_repeats(names: list[str], rows: list[_Name]) -> None:
    # "TE4_5" may be 4.5 ms or the fifth measurement at 4 ms: a repeat has predecessors
    least: dict[tuple[float, ...], int] = {}
    for row in rows:
        key = tuple(row.values.values())
        least[key] = min(least.get(key, row.repeat), row.repeat)
    for name, row in zip(names, rows, strict=True):
        if least[tuple(row.values.values())] > 1:
            raise ValueError(
                f"the column name {name!r} is ambiguous: it ends in the number of a repeat, "
                f"_{row.repeat}, but no column has the first measurement of this combination"
            )


def _has_scan_parameter(name: str) -> bool:
    return _mention(tuple(CONTRASTS)).search(name) is not None or _read(name, {}) is not None


def _read(name: str, units: Mapping[str, str]) -> _Name | None:
    """Read a name, with or without a prefix such as that of scikit-learn's ColumnTransformer."""
    pieces = name.split("__")
    for start in range(len(pieces)):
        if _mention(tuple(CONTRASTS)).search("__".join(pieces[:start])) is not None:
            return None  # such as "TI50x__TE4.5": the prefix has a scan parameter itself
        read = _read_whole("__".join(pieces[start:]), units)
        if read is not None:
            return read
    return None


def _read_whole(text: str, units: Mapping[str, str]) -> _Name | None:
    values: dict[str, float] = {}
    position = 0
    while (found := _first_part(text, position, units)) is not None:
        parameter, value, position = found
        if parameter in values:
            return None
        values[parameter] = value
    rest = re.fullmatch(r"[\s)\]]*(?:_([2-9]|[1-9]\d+))?", text[position:])
    if not values or rest is None:
        return None
    return _Name(values, int(rest[1] or 1))


def _first_part(
    text: str, position: int, units: Mapping[str, str]
) -> tuple[str, float, int] | None:
    """Scan parameter at a position of a name, its value, and the position after the value."""
    for parameter, pattern in _patterns(tuple(CONTRASTS)).items():
        match = pattern.match(text, position)
        if match is None:
            continue
        before, number, after = match.groups()
        if before and after:
            return None
        quantity = CONTRASTS[parameter].scan_quantity
        unit = (before or after or units.get(parameter, quantity.unit)).lower()
        return parameter, shifted(float(number), quantity.power_of(unit)), match.end()
    return None


@lru_cache(maxsize=8)
def _patterns(parameters: tuple[str, ...]) -> dict[str, re.Pattern[str]]:
    patterns = {}
    for parameter in sorted(parameters, key=len, reverse=True):  # "TSL" before "T"
        units = map(re.escape, CONTRASTS[parameter].scan_quantity.spellings)
        unit = rf"({'|'.join(units)})(?![a-z])"
        patterns[parameter] = re.compile(
            rf"{_SEPARATORS}{re.escape(parameter)}{_SEPARATORS}(?:{unit}{_SEPARATORS})?"
            rf"{_NUMBER}(?:{_SEPARATORS}{unit})?",
            re.IGNORECASE,
        )
    return patterns


@lru_cache(maxsize=8)
def _mention(parameters: tuple[str, ...]) -> re.Pattern[str]:
    """Pattern of a scan parameter with a number anywhere in a name.

    One-letter names such as b are too frequent in other names ("sample_b_1").
    """
    names = [re.escape(name) for name in parameters if len(name) > 1]
    some = "|".join(names) or r"(?!)"
    # "sigTI50" and "sig_ti50", but not "multi5"
    return re.compile(
        rf"(?:(?<![A-Za-z])(?i:{some})|(?<=[a-z])(?:{some})){_SEPARATORS}(?:[a-zA-Z]{{1,4}}"
        rf"{_SEPARATORS})?(?:\.?\d|inf)"
    )
