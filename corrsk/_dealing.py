"""Even shares that any run of rows can work out for itself.

Counts, noise levels and parts of a split are dealt to rows like cards, in turn
and in random order, so that each is equally frequent to within one. How many of
a stratum came before a row follows from its number alone; a block of rows can
therefore be dealt without the rows before it having been drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

_Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Strata:
    """The strata of a run of rows.

    Parameters
    ----------
    of_row : array of shape (rows,)
        The stratum of each row, 0..S-1.
    before, totals : arrays of shape (S,)
        How many rows of each stratum come before the run, and how many there
        are in the whole table.
    """

    of_row: _Counts
    before: _Counts
    totals: _Counts

    @classmethod
    def whole(cls, rows: slice, n_rows: int) -> Strata:
        """One stratum: rows of a table of `n_rows`."""
        return cls(
            np.zeros(rows.stop - rows.start, dtype=np.int64),
            np.array([rows.start], dtype=np.int64),
            np.array([n_rows], dtype=np.int64),
        )

    def deal(self, n_cards: int, rng: Generator) -> tuple[_Counts, Strata]:
        """Deal cards 0..n_cards-1 in turn, stratum after stratum.

        The turn goes on from one stratum to the next, so that over the table the
        cards come out even, to within one, both within each stratum and in all.

        Returns
        -------
        cards : ndarray of shape (rows,)
            In random order within each stratum.
        strata : Strata
            Stratum s with card c is number ``s * n_cards + c``.
        """
        turn = np.cumsum(self.totals) - self.totals  # where each stratum's first card comes from
        shuffled = rng.permutation(self.of_row.size)
        # numpy sorts 16-bit keys by radix, in a fraction of the time
        order = shuffled[np.argsort(self.of_row.astype(np.uint16)[shuffled], kind="stable")]
        here = np.bincount(self.of_row, minlength=self.totals.size)
        rank = np.arange(self.of_row.size) - np.repeat(np.cumsum(here) - here, here)
        cards = np.empty(self.of_row.size, dtype=np.int64)
        cards[order] = (rank + np.repeat(turn + self.before, here)) % n_cards
        strata = Strata(
            self.of_row * n_cards + cards,
            _dealt(turn, self.before, n_cards),
            _dealt(turn, self.totals, n_cards),
        )
        return cards, strata


def _dealt(turn: _Counts, rows: _Counts, n_cards: int) -> _Counts:
    """How often each card comes up in each stratum's first `rows`, shape (S * n_cards,)."""

    def up_to(number: _Counts) -> _Counts:
        # of the numbers 0..number-1, those that leave the card as remainder
        return (number[:, None] + n_cards - 1 - np.arange(n_cards)) // n_cards

    return (up_to(turn + rows) - up_to(turn)).ravel()
