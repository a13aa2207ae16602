"""Tissue and its signals, of which any run of rows can be drawn by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk import _random
from corrsk._parallel import for_each_block
from corrsk.generator import CorrelationSignalGenerator
from corrsk.physics import normalize_signals
from corrsk.tissue import NOISE_LEVEL_COLUMN, TissuePrior


@dataclass(frozen=True)
class SignalSource:
    """Signals of which any run of rows can be drawn by itself.

    Parameters
    ----------
    prior : TissuePrior
    generator : CorrelationSignalGenerator
        Fitted; with an integer `random_state`, which seeds the tissue as well.
    n_samples : int
        Number of rows in all.
    normalize : bool
        Whether to divide each signal by its 2-norm.
    """

    prior: TissuePrior
    generator: CorrelationSignalGenerator
    n_samples: int
    normalize: bool

    def rows(
        self, rows: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64], pd.DataFrame]:
        """Signals, counts, noise levels and tissue of rows from a multiple of `BLOCK_ROWS` on."""
        generator = self.generator
        tissue, n_c = self.prior.sample_rows(
            rows, self.n_samples, _random.entropy(generator.random_state),
            noise_level=generator.noise_level,
            n_jobs=generator.n_jobs, verbose=generator.verbose,
        )  # fmt: skip
        X = generator.simulate_rows(tissue, rows.start)
        if self.normalize:
            _normalize_in_place(X, n_jobs=generator.n_jobs, verbose=generator.verbose)
        return X, n_c, tissue[NOISE_LEVEL_COLUMN].to_numpy(), tissue


def _normalize_in_place(X: NDArray[np.float32], *, n_jobs: int | None, verbose: bool) -> None:
    # block by block, so that no second copy of the signals is held
    def normalize(block: int, rows: slice) -> None:
        X[rows] = normalize_signals(X[rows])

    for_each_block(normalize, X.shape[0], n_jobs=n_jobs, description="normalising", verbose=verbose)
