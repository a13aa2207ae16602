"""Balanced allocation that every block of rows can compute independently.

Counts, noise levels and parts of a split are allocated to rows in random order,
so that their frequencies differ by at most one. The number of rows of a stratum
before a given row follows from the row's position. A block of rows can therefore
be allocated without drawing the earlier blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from corrsk._utils.rng import BLOCK_ROWS

_Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Strata:
    """Strata of a run of rows.

    Parameters
    ----------
    of_row : array of shape (n_rows,)
        The stratum of each row, 0..n_strata-1.
    before, totals : arrays of shape (n_strata,)
        Number of rows of each stratum before the run, and in the whole table.
    """

    of_row: _Counts
    before: _Counts
    totals: _Counts

    @classmethod
    def from_rows(cls, rows: slice, n_rows: int) -> Strata:
        """Make a single stratum for rows of a table of `n_rows` rows."""
        return cls(
            np.zeros(rows.stop - rows.start, dtype=np.int64),
            np.array([rows.start], dtype=np.int64),
            np.array([n_rows], dtype=np.int64),
        )

    def allocate(self, n_labels: int, rngs: Sequence[Generator]) -> tuple[_Counts, Strata]:
        """Allocate the labels 0..n_labels-1 cyclically, stratum after stratum.

        The cycle continues from one stratum to the next, so that the frequencies of
        the labels differ by at most one, both in each stratum and in the whole table.

        Parameters
        ----------
        n_labels : int
            Number of labels.
        rngs : sequence of Generator
            Generators of the blocks that contain the rows.

        Returns
        -------
        labels : ndarray of shape (n_rows,)
            The label of each row, in random order within each stratum.
        strata : Strata
            Finer strata: stratum s with label c has the number ``s * n_labels + c``.
        """
        cycle_start = (
            np.cumsum(self.totals) - self.totals
        )  # position in the cycle of each stratum's start
        order = _shuffled(self.of_row.size, rngs)
        if self.totals.size > 1:
            # numpy sorts 16-bit keys by radix sort, which is several times faster
            keys = np.take(self.of_row.astype(np.uint16), order)
            order = np.take(order, np.argsort(keys, kind="stable"))
        here = np.bincount(self.of_row, minlength=self.totals.size)
        first = cycle_start + self.before - (np.cumsum(here) - here)
        place = np.arange(order.size) + np.take(first, np.take(self.of_row, order))
        labels = np.empty_like(order)
        labels[order] = place % n_labels
        # frequency of each label in each stratum: before the run, and in the whole table
        last = np.stack([cycle_start, cycle_start + self.before, cycle_start + self.totals])[
            ..., None
        ]
        # number of integers in 0..last-1 with the label as remainder
        up_to = (last + np.arange(n_labels - 1, -1, -1)) // n_labels
        before, totals = (up_to[1:] - up_to[0]).reshape(2, -1)
        return labels, Strata(self.of_row * n_labels + labels, before, totals)


def _shuffled(n_rows: int, rngs: Sequence[Generator]) -> _Counts:
    """Positions of the rows, shuffled within each block."""
    order = np.arange(n_rows)
    for start, rng in zip(range(0, n_rows, BLOCK_ROWS), rngs, strict=True):
        rng.shuffle(order[start : start + BLOCK_ROWS])
    return order
