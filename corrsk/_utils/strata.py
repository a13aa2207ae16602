"""Even shares that any run of rows can work out for itself.

Counts, noise levels and parts of a split are dealt to rows like cards, in turn
and in random order, so that each is equally frequent to within one. How many of
a stratum came before a row follows from its number alone; a block of rows can
therefore be dealt without the rows before it having been drawn.
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

    def deal(self, n_cards: int, rngs: Sequence[Generator]) -> tuple[_Counts, Strata]:
        """Deal cards 0..n_cards-1 in turn, stratum after stratum.

        The turn goes on from one stratum to the next, so that over the table the
        cards come out even, to within one, both within each stratum and in all.
        `rngs` are the generators of the blocks that the rows are.

        Returns
        -------
        cards : ndarray of shape (rows,)
            In random order within each stratum.
        strata : Strata
            Stratum s with card c is number ``s * n_cards + c``.
        """
        turn = np.cumsum(self.totals) - self.totals  # where each stratum's first card comes from
        order = _shuffled(self.of_row.size, rngs)
        if self.totals.size > 1:
            # numpy sorts 16-bit keys by radix, in a fraction of the time
            keys = np.take(self.of_row.astype(np.uint16), order)
            order = np.take(order, np.argsort(keys, kind="stable"))
        here = np.bincount(self.of_row, minlength=self.totals.size)
        first = turn + self.before - (np.cumsum(here) - here)
        place = np.arange(order.size) + np.take(first, np.take(self.of_row, order))
        cards = np.empty_like(order)
        cards[order] = place % n_cards
        # how often each card comes up in each stratum's first rows, until the run and in all
        last = np.stack([turn, turn + self.before, turn + self.totals])[..., None]
        # of the numbers 0..last-1, those that leave the card as remainder
        up_to = (last + np.arange(n_cards - 1, -1, -1)) // n_cards
        before, totals = (up_to[1:] - up_to[0]).reshape(2, -1)
        return cards, Strata(self.of_row * n_cards + cards, before, totals)


def _shuffled(n_rows: int, rngs: Sequence[Generator]) -> _Counts:
    """The rows, block after block, each block in random order."""
    order = np.arange(n_rows)
    for start, rng in zip(range(0, n_rows, BLOCK_ROWS), rngs, strict=True):
        rng.shuffle(order[start : start + BLOCK_ROWS])
    return order
