"""Data sets larger than memory, as dask arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import clone

from corrsk._utils.extras import require
from corrsk._utils.rng import BLOCK_ROWS
from corrsk._utils.validation import checked_count
from corrsk.simulation._source import SignalSource, fitted


def dask_signals(source: SignalSource, chunk_rows: int) -> tuple[Any, Any, Any, Any]:
    """Signals, counts, noise levels and tissue as dask collections, simulated when computed.

    Parameters
    ----------
    source : SignalSource
        Signals to simulate.
    chunk_rows : int
        Number of rows per chunk, rounded up to a multiple of `BLOCK_ROWS`, so that the result is
        bit-identical to that of a single chunk.

    Returns
    -------
    X : dask array of shape (n_samples, n_measurements)
        Signals.
    n_c, noise_level : dask array of shape (n_samples,)
        Counts and noise levels.
    tissue : dask DataFrame
        Tissue table, with the row numbers as index.

    Raises
    ------
    ImportError
        If dask is not installed.
    """
    require("dask", extra="dask", purpose="chunk_rows")
    import dask.array
    import dask.dataframe
    from dask.delayed import delayed

    da: Any = dask.array  # without type annotations
    dd: Any = dask.dataframe

    checked_count("chunk_rows", chunk_rows, at_least=1)
    step = -(-chunk_rows // BLOCK_ROWS) * BLOCK_ROWS
    n = source.n_samples
    runs = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    # one thread per chunk, since dask computes chunks in parallel
    source = _in_one_thread(source)
    draw = delayed(_draw, nout=4, pure=True)
    parts = [draw(source, rows) for rows in runs]

    def column(which: int, dtype: Any, *width: int) -> Any:
        return da.concatenate(
            [
                da.from_delayed(part[which], (rows.stop - rows.start, *width), dtype=dtype)
                for part, rows in zip(parts, runs, strict=True)
            ]
        )

    X = column(0, source.generator.dtype, source.generator.protocol_.n_measurements)
    # columns and dtypes, without rows
    meta = source.rows(slice(0, 1))[1].table.iloc[:0]
    divisions = (*(rows.start for rows in runs), n - 1)
    tissue = dd.from_delayed([part[3] for part in parts], meta=meta, divisions=divisions)
    return X, column(1, np.int64), column(2, np.float64), tissue


def _in_one_thread(source: SignalSource) -> SignalSource:
    generator = clone(source.generator).set_params(n_jobs=1, verbose=False)
    return replace(source, generator=fitted(generator, source.prior))


def _draw(source: SignalSource, rows: slice) -> tuple[Any, Any, Any, Any]:
    X, drawn = source.rows(rows)
    tissue = drawn.table
    tissue.index = np.arange(rows.start, rows.stop)
    return X, drawn.n_c, drawn.noise_levels, tissue
