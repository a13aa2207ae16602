"""Layout and validation of tissue tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk.physics import CONTRASTS
from corrsk.physics.contrasts import tissue_quantity
from corrsk.physics.noise_levels import above_one
from corrsk.physics.units import Units, units_by_name
from corrsk.tissue.nuisances import NUISANCE_COLUMNS, Nuisances

NOISE_LEVEL_COLUMN = "noise_level"
_SUM_TOLERANCE = 1e-4  # accepts tables rounded to float32 or to four decimals


def table_columns(properties: tuple[str, ...], n_compartments: int) -> list[str]:
    """Columns of a tissue table in their canonical order."""
    return [f"{name}_{i}" for name in (*properties, "f") for i in range(1, n_compartments + 1)]


def _value_text(values: NDArray[np.float64], row: int) -> str:
    return f" ({values[row]:g})"


@dataclass(frozen=True)
class TableLayout:
    """Column indices of the quantities of a tissue table."""

    groups: dict[str, NDArray[np.intp]]
    noise_level: int | None
    nuisances: dict[str, int] = field(default_factory=dict)

    @cached_property
    def columns(self) -> NDArray[np.intp] | slice:
        """Indices of the columns of the tissue, by group; a slice if they are contiguous."""
        places = np.concatenate(list(self.groups.values()))
        one_run = (np.diff(places) == 1).all()
        return slice(places[0], places[-1] + 1) if one_run else places

    @classmethod
    def from_columns(cls, columns: Sequence[str] | int, properties: tuple[str, ...]) -> TableLayout:
        """Find T1_1.., T2_1.., f_1.., nuisance parameters and noise_level among named columns.

        For an integer, the number of columns without names, the columns are assumed to have
        their canonical order.

        Raises
        ------
        ValueError
            If columns are missing or unknown; the message lists these columns.
        """
        names = (*properties, "f")
        if isinstance(columns, int):
            n_compartments, left = divmod(columns, len(names))
            if left or not n_compartments:
                raise ValueError(
                    f"a tissue table without column names must have {len(names)} columns "
                    f"({', '.join(names)}) for each possible compartment, in the order "
                    f"{', '.join(table_columns(properties, 2))}; got {columns} columns"
                )
            columns = table_columns(properties, n_compartments)
        position = {name: index for index, name in enumerate(columns)}
        n_compartments = sum(bool(re.fullmatch(r"f_\d+", name)) for name in position)
        expected = table_columns(properties, max(n_compartments, 1))
        missing = [name for name in expected if name not in position]
        # properties that this protocol does not measure, such as D, are allowed too
        every = tuple(contrast.tissue for contrast in CONTRASTS.values())
        further = (*NUISANCE_COLUMNS, NOISE_LEVEL_COLUMN)
        allowed = {*further, *table_columns(every, max(n_compartments, 1))}
        unexpected = [name for name in position if name not in allowed]
        if missing:
            raise ValueError(
                f"the tissue table lacks the columns {', '.join(missing)}: the protocol requires "
                f"{', '.join(names)} of every compartment"
                + (f"; unknown columns: {', '.join(unexpected)}" if unexpected else "")
            )
        if unexpected:
            raise ValueError(
                f"unknown columns in the tissue table: {', '.join(unexpected)}; drop these "
                f"columns. Valid are {', '.join((*expected, *further))}"
            )
        groups = {
            name: np.array([position[f"{name}_{i}"] for i in range(1, n_compartments + 1)])
            for name in names
        }
        nuisances = {name: position[name] for name in NUISANCE_COLUMNS if name in position}
        return cls(groups, position.get(NOISE_LEVEL_COLUMN), nuisances)

    def in_own_units(self, table: NDArray[np.float64], units: Units) -> NDArray[np.float64]:
        """Convert a complete table to the units of corrsk, or refuse values of another unit.

        Parameters
        ----------
        table : array of shape (n_samples, n_columns)
            Tissue table.
        units : str, mapping of str to str, or None
            Units of the properties; a property without a stated unit must be plausible.

        Returns
        -------
        array of shape (n_samples, n_columns)
            The table itself, or a converted copy.

        Raises
        ------
        ValueError
            If the largest value of a property is too small or too large for its unit, or a unit
            is unknown.
        """
        quantities = {name: tissue_quantity(name) for name in self.groups if name != "f"}
        stated = units_by_name(units, quantities)
        converted = table
        for name, quantity in quantities.items():
            if name not in stated:
                columns = self.groups[name]
                largest = max(np.nanmax(table[:, column], initial=0.0) for column in columns)
                if not quantity.is_plausible(float(largest)):  # perhaps of absent compartments
                    quantity.check(self._largest(table, name))
            elif power := quantity.power_of(stated[name]):
                converted = converted.copy() if converted is table else converted
                # one rounding in each direction
                scale, values = 10.0 ** abs(power), table[:, self.groups[name]]
                converted[:, self.groups[name]] = values * scale if power > 0 else values / scale
        return converted

    def _largest(self, table: NDArray[np.float64], name: str) -> float:
        """Largest finite value of a property among the compartments that are present."""
        largest = 0.0
        for column, fraction in zip(self.groups[name], self.groups["f"], strict=True):
            values = table[:, column]
            counted = (table[:, fraction] > 0) & np.isfinite(values)
            largest = max(largest, float(values.max(initial=0.0, where=counted)))
        return largest

    def check(self, table: NDArray[np.float64], first_row: int = 0) -> None:
        """Validate a block of rows; `first_row` is the index of its first row in the table.

        Raises
        ------
        ValueError
            If a row is invalid; the message has its number and the reason.
        """
        fractions = table[:, self.groups["f"]]
        present = fractions > 0
        # comparisons with NaN are false: each test is the negation of the valid case
        self._refuse(~np.isfinite(fractions).all(axis=1), first_row, "NaN or infinite fractions")
        self._refuse((fractions < 0).any(axis=1), first_row, "negative fractions")
        total = fractions.sum(axis=1)
        self._refuse(
            ~(np.abs(total - 1) <= _SUM_TOLERANCE), first_row, "fractions that do not sum to 1",
            lambda row: f" (the sum is {total[row]:g})",
        )  # fmt: skip
        for name, columns in self.groups.items():
            if name == "f":
                continue
            values = table[:, columns]
            self._refuse(
                (present & ~np.isfinite(values)).any(axis=1), first_row,
                f"NaN or infinite {name} where the fraction is not 0",
            )  # fmt: skip
            self._refuse(
                (present & ~(values > 0)).any(axis=1), first_row,
                f"{name} <= 0 where the fraction is not 0",
            )  # fmt: skip
        for name, column in self.nuisances.items():
            bad = Nuisances.check_values(name, table[:, column])
            self._refuse(
                bad, first_row, f"a value of {name} that is not allowed",
                partial(_value_text, table[:, column]),
            )  # fmt: skip
        if self.noise_level is not None:
            level = table[:, self.noise_level]
            self._refuse(
                ~(np.isfinite(level) & (level >= 0)), first_row,
                "a noise_level that is NaN, infinite or negative",
            )  # fmt: skip
            self._refuse(
                level > 1, first_row, "a noise_level above 1",
                lambda row: f" ({above_one(level[row])})",
            )  # fmt: skip

    @staticmethod
    def _refuse(
        bad: Any,
        first_row: int,
        what: str,
        detail: Callable[[int], str] = lambda row: "",
    ) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"row {first_row + row} of the tissue table has {what}{detail(row)}")
