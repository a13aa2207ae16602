"""Reader of column names: the scan parameters in names such as "TI50_TE4.5"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from corrsk.physics import CONTRASTS
from corrsk.physics.contrasts import REPETITION_TIME, scan_quantities
from corrsk.physics.units import shifted

_SEPARATORS = r"[\s_\-=,;:()\[\]]*"
_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf)"


class NamedMeasurements(NamedTuple):
    """Content of the names of columns, in the order of the names.

    Attributes
    ----------
    contrasts : dict of str to list of float
        Values by scan parameter, in the units of corrsk.
    tr : list of float or None
        Repetition times in ms; None if the names have no TR.
    repeats : list of int
        Numbers of repeated measurements, 1 for the first.
    stated : dict of str to str
        Units of corrsk of the quantities whose unit every name has.
    """

    contrasts: dict[str, list[float]]
    tr: list[float] | None
    repeats: list[int]
    stated: dict[str, str]


class _Part(NamedTuple):
    """Value of a scan parameter in a name, in the unit of corrsk, and the end of its text."""

    parameter: str
    value: float
    has_unit: bool
    has_hyphen: bool
    end: int


class _Name(NamedTuple):
    """Scan parameters in a name: values, those with a unit or a hyphen, and the repeat."""

    values: dict[str, float]
    stated: frozenset[str]
    hyphens: frozenset[str]
    repeat: int


def measurements_of_names(
    names: Iterable[str], units: Mapping[str, str] = MappingProxyType({})
) -> NamedMeasurements | None:
    """Read the scan parameters, and TR, in the names of columns.

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
    NamedMeasurements or None
        The measurements, in the order of the names. None if no name has a scan parameter.

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
    _check_hyphens(given, rows)
    _check_repeats(given, rows)
    lists = {key: [row.values[key] for row in rows] for key in rows[0].values}
    everywhere = frozenset.intersection(*(row.stated for row in rows))
    return NamedMeasurements(
        contrasts={key: lists[key] for key in CONTRASTS if key in lists},
        tr=lists.get(REPETITION_TIME.name),
        repeats=[row.repeat for row in rows],
        stated={key: own.unit for key, own in scan_quantities().items() if key in everywhere},
    )


def _check_hyphens(names: list[str], rows: list[_Name]) -> None:
    # "TE-5" is a separator and a number if every name has the hyphen, otherwise a minus sign
    everywhere = frozenset.intersection(*(row.hyphens for row in rows))
    for name, row in zip(names, rows, strict=True):
        for parameter in sorted(row.hyphens - everywhere):
            raise ValueError(
                f"the column name {name!r} is ambiguous: the hyphen before the number of "
                f"{parameter} may be a minus sign, because other names have none; write the names "
                "without hyphens, or all with them"
            )


def _check_repeats(names: list[str], rows: list[_Name]) -> None:
    # "TE4_5" may be 4.5 ms or the fifth measurement at 4 ms: a repeat has predecessors
    least: dict[frozenset[tuple[str, float]], int] = {}
    for row in rows:
        key = frozenset(row.values.items())
        least[key] = min(least.get(key, row.repeat), row.repeat)
    for name, row in zip(names, rows, strict=True):
        if least[frozenset(row.values.items())] > 1:
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
    stated, hyphens = set(units), set()
    position = 0
    while (part := _first_part(text, position, units)) is not None:
        if part.parameter in values:
            return None
        values[part.parameter] = part.value
        position = part.end
        if part.has_unit:
            stated.add(part.parameter)
        if part.has_hyphen:
            hyphens.add(part.parameter)
    rest = re.fullmatch(r"[\s)\]]*(?:_([2-9]|[1-9]\d+))?", text[position:])
    if rest is None or not values.keys() - {REPETITION_TIME.name}:  # TR alone is no measurement
        return None
    known = frozenset(stated & values.keys())
    return _Name(values, known, frozenset(hyphens), int(rest[1] or 1))


def _first_part(text: str, position: int, units: Mapping[str, str]) -> _Part | None:
    """Scan parameter at a position of a name, if any."""
    quantities = scan_quantities()
    for parameter, pattern in _patterns(tuple(quantities)).items():
        match = pattern.match(text, position)
        if match is None:
            continue
        separators, before, further, number, after = match.groups()
        between = separators + (further or "")
        if (before and after) or re.search(r"[=:,;(\[]\s*-", between):  # "TE=-5" is negative
            return None
        quantity = quantities[parameter]
        unit = (before or after or units.get(parameter, quantity.unit)).lower()
        value = shifted(float(number), quantity.power_of(unit))
        return _Part(parameter, value, bool(before or after), "-" in between, match.end())
    return None


@lru_cache(maxsize=8)
def _patterns(parameters: tuple[str, ...]) -> dict[str, re.Pattern[str]]:
    patterns, quantities = {}, scan_quantities()
    for parameter in sorted(parameters, key=len, reverse=True):  # "TSL" before "T"
        units = map(re.escape, quantities[parameter].spellings)
        unit = rf"({'|'.join(units)})(?![a-z])"
        patterns[parameter] = re.compile(
            rf"{_SEPARATORS}{re.escape(parameter)}({_SEPARATORS})(?:{unit}({_SEPARATORS}))?"
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
