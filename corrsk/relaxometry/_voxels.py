"""Processing of voxels in chunks, where single voxels may fail."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from corrsk._utils.parallel import for_each_chunk, one_blas_thread
from corrsk._utils.voxels import user_level
from corrsk.relaxometry._kernels import Array

# Not `for_each_block`, whose chunks of 32768 rows are for work that is a thousand times faster:
# the problems of a chunk should fit in the cache of a core, and 1000 voxels should use all threads.
_CHUNK_VOXELS = 64

Solver = Callable[..., tuple[Array, ...]]


def signal_norms(signals: NDArray[np.floating[Any]]) -> Array:
    """2-norms of signals (n_samples, n_measurements), without overflow of the squares."""
    signals = signals.astype(np.float64)
    largest = np.abs(signals).max(axis=1)
    safe = np.where(largest > 0, largest, 1.0)
    return largest * np.asarray(np.linalg.norm(signals / safe[:, None], axis=1))


def solve_voxels(
    signals: NDArray[np.floating[Any]],
    solve: Solver,
    shapes: Sequence[tuple[int, ...]],
    *,
    n_jobs: int | None,
    verbose: bool,
    given: Sequence[Array] = (),
) -> list[Array]:
    """Apply `solve` to signals with norm 1, chunk by chunk, in threads.

    The results of voxels without a finite solution are NaN; other voxels are not affected.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, n_measurements)
        Signals.
    solve : callable
        Function from signals (V, N), and the rows of the arrays in `given`, to a tuple of arrays
        (V, ..); must solve each row independently.
    shapes : sequence of tuple of int
        Shapes of the arrays per voxel.
    n_jobs : int or None
        Number of threads.
    verbose : bool
        Whether to show progress.
    given : sequence of ndarray of shape (n_samples, ..), default=()
        Further arguments of `solve`.

    Returns
    -------
    list of ndarray of shape (n_samples, ..)
        Results.

    Warns
    -----
    ConvergenceWarning
        Once, with the number of voxels that could not be solved.
    """
    n = len(signals)
    results = [np.full((n, *shape), np.nan) for shape in shapes]

    def chunk(part_of: slice) -> None:
        rows = np.arange(part_of.start, part_of.stop)
        part = signals[rows].astype(np.float64)
        with np.errstate(all="ignore"):
            # division by the largest value first, so that no square overflows
            part /= np.abs(part).max(axis=1, keepdims=True)
            part /= np.linalg.norm(part, axis=1, keepdims=True)
            possible = np.flatnonzero(np.isfinite(part).all(axis=1))
            more = [values[rows[possible]] for values in given]
            solved = _solve_one_by_one(solve, part[possible], *more) if possible.size else ()
        finite = np.ones(possible.size, dtype=bool)
        for values in solved:
            finite &= np.isfinite(values).reshape(len(values), -1).all(axis=1)
        for result, values in zip(results, solved, strict=False):
            result[rows[possible[finite]]] = values[finite]

    # multithreaded BLAS within each thread is several times slower for matrices this small
    with one_blas_thread:
        for_each_chunk(
            chunk, n, _CHUNK_VOXELS, n_jobs=n_jobs, description="solving voxels", unit="voxels",
            verbose=verbose,
        )  # fmt: skip
    failed = int(np.isnan(results[0].reshape(n, -1)).any(axis=1).sum())
    if failed:
        warnings.warn(
            f"{failed} of {n} voxels could not be solved (no finite solution); the results of "
            "these voxels are NaN",
            ConvergenceWarning,
            stacklevel=user_level(),
        )
    return results


def _solve_one_by_one(solve: Solver, unit: Array, *more: Array) -> tuple[Array, ...]:
    """Solve a chunk of voxels; if the solver fails, solve the voxels one by one."""
    try:
        return solve(unit, *more)
    except np.linalg.LinAlgError:
        single: list[tuple[Array, ...] | None] = []
        for row in range(len(unit)):
            try:
                single.append(solve(*(values[row : row + 1] for values in (unit, *more))))
            except np.linalg.LinAlgError:
                single.append(None)
    solved = next((answer for answer in single if answer is not None), None)
    if solved is None:
        return ()
    lost = tuple(np.full_like(values, np.nan) for values in solved)
    return tuple(np.concatenate(parts) for parts in zip(*(s or lost for s in single), strict=True))
