"""Tissue tables that are drawn from a prior block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from corrsk._utils.parallel import for_each_run
from corrsk._utils.rng import (
    BLOCK_ROWS,
    RandomStateLike,
    Stream,
    block_generators,
    entropy,
)
from corrsk._utils.strata import Strata
from corrsk._utils.validation import checked_count
from corrsk.physics.noise_levels import (
    NoiseLevels,
    SNRRange,
    checked_noise_levels,
    number_of_levels,
)
from corrsk.tissue.nuisances import Nuisances
from corrsk.tissue.ranges import PropertyRange
from corrsk.tissue.table import NOISE_LEVEL_COLUMN


class SampledPrior(ABC):
    """Base class of distributions of the tissue of voxels, from which tissue tables are drawn.

    Attributes
    ----------
    ranges : mapping of str to PropertyRange
        Range of each tissue property.
    n_compartments : tuple of int
        Values of n_c, ascending, all equally frequent.
    nuisances : Nuisances or None
        Ranges of nuisance parameters.
    """

    ranges: Mapping[str, PropertyRange]
    n_compartments: tuple[int, ...]
    nuisances: Nuisances | None

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Column names of the tissue table: T1_1.., T2_1.., (D_1..,) f_1.., and nuisances."""

    @abstractmethod
    def _draw(
        self,
        rng: Generator | Sequence[Generator],
        n_c: NDArray[np.int64],
        out: NDArray[np.float64],
    ) -> None:
        """Fill `out` of shape (n_columns, n_rows), from one generator or one per block of rows."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Convert the prior to plain values, for files."""

    def sample(
        self,
        n_samples: int,
        random_state: RandomStateLike = None,
        *,
        noise_level: NoiseLevels | None = None,
        n_jobs: int | None = None,
        verbose: bool = True,
    ) -> tuple[pd.DataFrame, NDArray[np.int64]]:
        """Draw voxels.

        Parameters
        ----------
        n_samples : int
            Number of voxels.
        random_state : int, RandomState, Generator or None
            Seed. An integer makes the result bit-identical for any `n_jobs`.
        noise_level : float, sequence of float or SNRRange, optional
            Noise levels of an additional column `noise_level`. Several levels are
            equally frequent within every compartment count, to within one voxel; from
            a range every voxel draws its own level.
        n_jobs : int, optional
            Number of threads; None uses every core.
        verbose : bool, default=True
            Whether to show progress once the sampling takes a few seconds.

        Returns
        -------
        tissue : DataFrame of shape (n_samples, n_columns)
            Tissue table with the columns T1_1.., T2_1.., (D_1..,) f_1.. in ms, um^2/ms and
            fractions, each group up to the largest compartment count, the nuisance parameters of
            the prior, and optionally noise_level.
            Absent compartments have f = 0 and NaN properties.
        n_c : ndarray of shape (n_samples,)
            Number of compartments; all counts are equally frequent, to within one voxel.
        """
        checked_count("n_samples", n_samples, at_least=1)
        seed = entropy(random_state)
        rows = TissueRows(self, slice(0, n_samples), n_samples, seed, noise_level)
        for_each_run(rows.draw, n_samples, n_jobs=n_jobs, description="tissue", verbose=verbose)
        return rows.table, rows.n_c

    def allocate_rows(
        self, first_block: int, rows: slice, n_samples: int, seed: int, *, n_levels: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Strata]:
        """Allocate a count and a noise level, as indices, to each row of consecutive blocks.

        Parameters
        ----------
        first_block : int
            Number of the first block.
        rows : slice
            Rows of the blocks within all samples.
        n_samples : int
            Number of all samples.
        seed : int
            Seed of the random streams.
        n_levels : int
            Number of noise levels.

        Returns
        -------
        count : ndarray of shape (n_rows,)
            Indices of `n_compartments`.
        level : ndarray of shape (n_rows,)
            Indices of the noise levels.
        strata : Strata
            Strata ``count * n_levels + level``, for further allocations.
        """

        def generators(stream: int) -> list[Generator]:
            return block_generators(seed, stream, first_block, rows.stop - rows.start)

        strata = Strata.from_rows(rows, n_samples)
        count, strata = strata.allocate(len(self.n_compartments), generators(Stream.COUNT))
        level, strata = strata.allocate(n_levels, generators(Stream.NOISE_LEVEL))
        return count, level, strata


class TissueRows:
    """Rows of the table that :meth:`SampledPrior.sample` draws, filled block by block.

    Parameters
    ----------
    prior : SampledPrior
        Distribution of the tissue.
    rows : slice
        Rows to draw; the start must be a multiple of `corrsk._utils.rng.BLOCK_ROWS`.
    n_samples : int
        Number of voxels of the complete table.
    seed : int
        Seed of the random streams.
    noise_level : float, sequence of float or SNRRange, optional
        As for :meth:`SampledPrior.sample`.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_columns)
        Values of the rows, column by column in memory, so that pandas need not copy them.
    n_c : ndarray of shape (n_rows,)
        Number of compartments.
    """

    def __init__(
        self,
        prior: SampledPrior,
        rows: slice,
        n_samples: int,
        seed: int,
        noise_level: NoiseLevels | None,
    ) -> None:
        self._prior, self._rows, self._n_samples, self._seed = prior, rows, n_samples, seed
        self._levels = None if noise_level is None else checked_noise_levels(noise_level)
        self._n_levels = 1 if noise_level is None else number_of_levels(noise_level)
        self._counts = np.asarray(prior.n_compartments)
        self._columns = prior.columns + ([] if noise_level is None else [NOISE_LEVEL_COLUMN])
        self.n_c = np.empty(rows.stop - rows.start, dtype=np.int64)
        self.values = np.empty((self.n_c.size, len(self._columns)), order="F")

    def draw(self, first_block: int, part: slice) -> Strata:
        """Draw consecutive blocks, the rows `part` relative to the first row of the object.

        Returns
        -------
        Strata
            Strata of count and noise level, from :meth:`SampledPrior.allocate_rows`.
        """
        prior, seed, levels = self._prior, self._seed, self._levels
        start, n_rows = self._rows.start, part.stop - part.start
        count, level, strata = prior.allocate_rows(
            first_block, slice(start + part.start, start + part.stop), self._n_samples, seed,
            n_levels=self._n_levels,
        )  # fmt: skip
        columns = self.values[part].T
        if isinstance(levels, SNRRange):
            rngs = block_generators(seed, Stream.NOISE_LEVEL, first_block, n_rows)
            for rng, first in zip(rngs, range(0, n_rows, BLOCK_ROWS), strict=True):
                drawn = columns[-1, first : first + BLOCK_ROWS]
                drawn[:] = levels.sample(rng, drawn.size)
        elif levels is not None:
            columns[-1] = levels[level]
        self.n_c[part] = self._counts[count]
        tissue = columns if levels is None else columns[:-1]
        if prior.nuisances is not None:
            n_tissue = len(tissue) - len(prior.nuisances.names)
            rngs = block_generators(seed, Stream.NUISANCES, first_block, n_rows)
            for rng, first in zip(rngs, range(0, n_rows, BLOCK_ROWS), strict=True):
                rows = slice(first, min(first + BLOCK_ROWS, n_rows))
                for name, column in zip(prior.nuisances.names, tissue[n_tissue:], strict=True):
                    column[rows] = prior.nuisances.draw(name, rng, rows.stop - rows.start)
            tissue = tissue[:n_tissue]
        rngs = block_generators(seed, Stream.TISSUE, first_block, n_rows)
        prior._draw(rngs, self.n_c[part], tissue)
        return strata

    @property
    def columns(self) -> list[str]:
        """Names of the columns of `values`."""
        return list(self._columns)

    @property
    def noise_levels(self) -> NDArray[np.float64]:
        """Noise level of each row; only with `noise_level`."""
        return self.values[:, self._columns.index(NOISE_LEVEL_COLUMN)]

    @property
    def table(self) -> pd.DataFrame:
        """The rows as a tissue table."""
        return pd.DataFrame(self.values, columns=self._columns, copy=False)
