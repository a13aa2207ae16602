"""Units of scan parameters and tissue properties, and the check for values in a wrong unit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

STATED_BY = "units={unit!r}"  # how a caller states a unit
# Powers of ten that convert other units to the unit of corrsk.
_CONVERSIONS: dict[str, dict[str, int]] = {
    "ms": {"s": 3, "us": -3},
    "ms/um^2": {"s/mm^2": -3, "s/m^2": -9},
    "um^2/ms": {"mm^2/s": 3, "um^2/s": -3, "m^2/s": 9},
}
_IN_WORDS = {"s": "seconds", "us": "microseconds"}
_SPELLINGS = {
    "²": "^2", "\N{MICRO SIGN}": "u", "\N{GREEK SMALL LETTER MU}": "u",
    "mm2": "mm^2", "um2": "um^2", "m2": "m^2",
}  # fmt: skip
# Whole words, such as those of the CF conventions in files of xarray.
_WORDS = {
    "sec": "s", "second": "s", "seconds": "s",
    "msec": "ms", "millisecond": "ms", "milliseconds": "ms",
    "usec": "us", "microsecond": "us", "microseconds": "us",
}  # fmt: skip

# Units of a whole set of quantities: one for all that have it, or one for each name.
Units = str | Mapping[str, str] | None


@dataclass(frozen=True)
class Quantity:
    """Quantity with a unit, and the range in which its largest value is plausible.

    Parameters
    ----------
    name : str
        Name of the quantity, such as "TE".
    unit : str
        Unit of the quantity in corrsk.
    smallest_maximum, largest_maximum : float
        Plausible range of the largest value of a protocol, a prior or a tissue table. Smaller
        and larger values are refused unless the user states the unit.
    """

    name: str
    unit: str
    smallest_maximum: float = 0.0
    largest_maximum: float = math.inf

    @property
    def units(self) -> tuple[str, ...]:
        """Units that can be converted, that of corrsk first."""
        return (self.unit, *_CONVERSIONS.get(self.unit, {}))

    @property
    def spellings(self) -> list[str]:
        """Spellings of the units, such as "us", "usec" and "ms/um2"; the longest first."""
        found = set(self.units)
        for word, own in _WORDS.items():
            found |= {re.sub(rf"(?<![a-z]){own}(?![a-z])", word, unit) for unit in found}
        for spelling, own in _SPELLINGS.items():
            found |= {unit.replace(own, spelling) for unit in found}
        return sorted((unit for unit in found if self.has_unit(unit)), key=len, reverse=True)

    def is_plausible(self, largest: float) -> bool:
        """Whether a largest value is plausible in the unit of the quantity; 0 is in every unit."""
        return largest == 0 or self.smallest_maximum <= largest <= self.largest_maximum

    def check(self, largest: float, stated_by: str = STATED_BY) -> None:
        """Refuse values whose largest value is not plausible in the unit of the quantity.

        Parameters
        ----------
        largest : float
            Largest finite value.
        stated_by : str
            How the user states a unit, for the message; {unit!r} is replaced.

        Raises
        ------
        ValueError
            If the value is out of the plausible range.
        """
        if self.is_plausible(largest):
            return
        low, high = self.smallest_maximum, self.largest_maximum
        # units in which the value is plausible, the nearest first
        powers = sorted(_CONVERSIONS.get(self.unit, {}).items(), key=lambda item: abs(item[1]))
        likely = [(unit, power) for unit, power in powers if low <= shifted(largest, power) <= high]
        if not likely:
            raise ValueError(
                f"{self.name} must be in {self.unit}; a largest value of {largest:g} {self.unit} "
                f"is not plausible (expected {low:g} to {high:g}). If the values are right, "
                + self._stated(stated_by, self.unit)
            )
        unit, power = likely[0]
        raise ValueError(
            f"{self.name} must be in {self.unit}, but a largest value of {largest:g} can only be "
            f"in {_IN_WORDS.get(unit, unit)}; multiply by {10.0**power:g} or "
            f"{self._stated(stated_by, unit)}. If the values really are in {self.unit}, state that "
            f"in the same way, such as {stated_by.format(unit=self.unit)}"
        )

    def _stated(self, stated_by: str, unit: str) -> str:
        """Advice to state a unit: by an argument, or in a file."""
        argument = stated_by.format(unit=unit)
        if stated_by != STATED_BY:
            return f"pass {argument}"
        return (
            f"state the unit: by a column {f'{self.name} ({unit})'!r} of a table, an entry "
            f'"units": {{"{self.name}": "{unit}"}} of JSON, or {argument} in Python'
        )

    def has_unit(self, unit: str) -> bool:
        """Whether values in a unit can be converted."""
        return _spelled(unit) in self.units

    def power_of(self, unit: str) -> int:
        """Power of ten that converts a unit to that of the quantity.

        Raises
        ------
        ValueError
            If the unit is none of the quantity.
        """
        if not self.has_unit(unit):
            raise ValueError(
                f"{self.name} has no unit {unit!r}; valid units are {', '.join(self.units)}"
            )
        return _CONVERSIONS.get(self.unit, {}).get(_spelled(unit), 0)

    def converted(self, values: NDArray[np.float64], unit: str | None) -> NDArray[np.float64]:
        """Convert values to the unit of the quantity, or check values without a stated unit.

        Parameters
        ----------
        values : ndarray
            Values; infinite ones stay infinite.
        unit : str or None
            Unit of the values; None if it is not stated.

        Returns
        -------
        ndarray
            Values in the unit of the quantity.

        Raises
        ------
        ValueError
            If the unit is none of the quantity, or no unit is stated and the largest
            value is not plausible.
        """
        if unit is None:
            finite = values[np.isfinite(values)]
            self.check(float(finite.max(initial=0.0)))
            return values
        power = self.power_of(unit)
        if power == 0:
            return values
        converted = [shifted(value, power) for value in values.ravel().tolist()]
        return np.array(converted, dtype=np.float64).reshape(values.shape)


def units_by_name(units: Units, quantities: Mapping[str, Quantity]) -> dict[str, str]:
    """Units of single quantities, from the argument `units` of a user.

    Parameters
    ----------
    units : str, mapping of str to str, or None
        One unit, which applies to all quantities that can have it, or units by the names of
        quantities (in upper or lower case).
    quantities : mapping of str to Quantity
        Quantities by name.

    Returns
    -------
    dict of str to str
        Units by name; a quantity without an entry has no stated unit.

    Raises
    ------
    ValueError
        If a name or a unit is unknown.
    TypeError
        If `units` is neither a string nor a mapping.
    """
    if units is None:
        return {}
    if isinstance(units, str):
        found = {name: units for name, own in quantities.items() if own.has_unit(units)}
        if not found:
            valid = dict.fromkeys(unit for own in quantities.values() for unit in own.units)
            raise ValueError(
                f"units={units!r} is no unit of {', '.join(quantities)}; valid units are "
                f"{', '.join(valid)}"
            )
        return found
    if not isinstance(units, Mapping):
        raise TypeError(
            "units must be a unit such as 'ms', or units by name such as {'TE': 's'}; "
            f"got {units!r}"
        )
    names = {name.lower(): name for name in quantities}
    unknown = [name for name in units if str(name).lower() not in names]
    if unknown:
        raise ValueError(
            f"units has {', '.join(map(repr, unknown))}; valid names are {', '.join(quantities)}"
        )
    found = {names[str(name).lower()]: _checked_text(unit) for name, unit in units.items()}
    if len(found) < len(units):
        raise ValueError(f"units has a name twice: {', '.join(map(repr, units))}")
    return found


def unit_and_power(unit: str) -> tuple[str, int]:
    """Unit of corrsk to which a unit is converted, and the power of ten of the conversion.

    Raises
    ------
    ValueError
        If the unit is unknown.
    """
    spelled = _spelled(_checked_text(unit))
    for own, others in _CONVERSIONS.items():
        if spelled == own:
            return own, 0
        if spelled in others:
            return own, others[spelled]
    valid = [unit for own, others in _CONVERSIONS.items() for unit in (own, *others)]
    raise ValueError(f"unknown unit {unit!r}; valid units are {', '.join(valid)}")


def _checked_text(unit: Any) -> str:
    if not isinstance(unit, str):
        raise TypeError(f"a unit must be a string such as 'ms', got {unit!r}")
    return unit


def _spelled(unit: str) -> str:
    unit = unit.strip()
    for spelling, own in _SPELLINGS.items():
        unit = unit.replace(spelling, own)
    return re.sub(r"[a-z]+", lambda word: _WORDS.get(word[0], word[0]), unit)


def shifted(value: float, power: int) -> float:
    """Value times a power of ten, rounded once: 0.0045 s are exactly 4.5 ms."""
    return float(Decimal(repr(float(value))).scaleb(power))
