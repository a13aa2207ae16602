"""Voxels worked off in chunks, each of which may fail alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from corrsk._utils.parallel import for_each_chunk, one_blas_thread
from corrsk.relaxometry._kernels import Array

# Not `for_each_block`, whose chunks of 32768 rows suit work that is a thousand times quicker:
# a chunk's problems shall fit in a core's cache, and 1000 voxels keep all threads busy.
_CHUNK_VOXELS = 64

Solver = Callable[[Array], tuple[Array, ...]]


def signal_norms(signals: NDArray[np.floating[Any]]) -> Array:
    """2-norm of each signal (n_samples, n_measurements), where its square would overflow too."""
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
) -> list[Array]:
    """Apply `solve` to signals of norm 1, chunk by chunk, in threads.

    A voxel without a finite answer costs that voxel only: its rows are NaN.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, n_measurements)
    solve : callable
        From (V, N) to a tuple of arrays (V, ..); must treat each row alone.
    shapes : sequence of tuple of int
        Shape of each of these per voxel.
    n_jobs : int or None
        Threads.
    verbose : bool

    Returns
    -------
    list of ndarray of shape (n_samples, ..)

    Warns
    -----
    ConvergenceWarning
        Once, with the number of voxels without an answer.
    """
    n = len(signals)
    results = [np.full((n, *shape), np.nan) for shape in shapes]

    def chunk(part_of: slice) -> None:
        rows = np.arange(part_of.start, part_of.stop)
        part = signals[rows].astype(np.float64)
        with np.errstate(all="ignore"):
            # by the largest value first, so that no square overflows
            part /= np.abs(part).max(axis=1, keepdims=True)
            part /= np.linalg.norm(part, axis=1, keepdims=True)
            possible = np.flatnonzero(np.isfinite(part).all(axis=1))
            solved = _solve_one_by_one(solve, part[possible]) if possible.size else ()
        finite = np.ones(possible.size, dtype=bool)
        for values in solved:
            finite &= np.isfinite(values).reshape(len(values), -1).all(axis=1)
        for result, values in zip(results, solved, strict=False):
            result[rows[possible[finite]]] = values[finite]

    # matrices this small are several times slower with threads of the BLAS in each thread
    with one_blas_thread:
        for_each_chunk(
            chunk, n, _CHUNK_VOXELS, n_jobs=n_jobs, description="solving voxels", unit="voxels",
            verbose=verbose,
        )  # fmt: skip
    failed = int(np.isnan(results[0].reshape(n, -1)).any(axis=1).sum())
    if failed:
        warnings.warn(
            f"{failed} of {n} voxels could not be solved (a signal that is all zero, or no "
            "finite answer); they have NaN for their probabilities",
            ConvergenceWarning,
            stacklevel=4,
        )
    return results


def _solve_one_by_one(solve: Solver, unit: Array) -> tuple[Array, ...]:
    """The answers of a chunk; where the solver gives up on it, of its voxels one by one."""
    try:
        return solve(unit)
    except np.linalg.LinAlgError:
        single: list[tuple[Array, ...] | None] = []
        for row in range(len(unit)):
            try:
                single.append(solve(unit[row : row + 1]))
            except np.linalg.LinAlgError:
                single.append(None)
    solved = next((answer for answer in single if answer is not None), None)
    if solved is None:
        return ()
    lost = tuple(np.full_like(values, np.nan) for values in solved)
    return tuple(np.concatenate(parts) for parts in zip(*(s or lost for s in single), strict=True))
