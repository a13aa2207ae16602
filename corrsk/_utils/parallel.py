"""Parallel processing of blocks of rows in threads, with a progress bar."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from corrsk._utils.rng import BLOCK_ROWS

PROGRESS_DELAY = 2.0  # seconds of work before a progress bar appears
_BLOCKS_PER_RUN = 8
_RUNS_PER_THREAD = 2
_KEPT_BYTES = 2**23  # larger than the temporary arrays of a block

_this_thread = threading.local()


def in_worker() -> bool:
    """Whether this code runs in a worker: of joblib, of a dask cluster, or of `for_each_chunk`."""
    if getattr(_this_thread, "is_ours", False):
        return True
    backend, _ = get_active_backend()
    # in workers of joblib's dask backend the nesting level is that of the outermost call
    return bool(getattr(backend, "nesting_level", 0)) or _threads_of_dask_worker() is not None


def share_of_cores() -> int:
    """Number of cores for this code: all cores or OMP_NUM_THREADS, but in a worker only its share.

    The share of a worker process is OMP_NUM_THREADS, which loky (cores divided by
    workers) and dask's nanny (1) set; the threads of a dask worker divide it by
    their number. Without OMP_NUM_THREADS, and in a worker thread, the share is one
    core, because the other workers use the other cores.
    """
    # a list, such as "4,2", has the numbers of nested levels
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if not in_worker():
        cores = int(joblib.cpu_count())
        return max(1, min(cores, int(given))) if given.isdigit() else cores
    cores = int(given) if given.isdigit() else 1
    threads = _threads_of_dask_worker()
    if threads is None:
        return max(1, cores) if threading.current_thread() is threading.main_thread() else 1
    return max(1, cores // threads)


def _threads_of_dask_worker() -> int | None:
    # worker processes of a dask cluster have imported distributed; others need not
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return int(distributed.get_worker().state.nthreads)
    except ValueError:  # this thread does not run tasks of a worker
        return None


def effective_n_jobs(n_jobs: int | None) -> int:
    """Number of threads for `n_jobs`; None is :func:`share_of_cores`."""
    if n_jobs is None:
        return share_of_cores()
    if n_jobs == 0:
        raise ValueError("n_jobs must be None, -1 or a positive number, got 0")
    return n_jobs if n_jobs > 0 else max(1, joblib.cpu_count() + 1 + n_jobs)


class _OneBlasThread:
    """Context manager that limits the BLAS to one thread.

    The limit holds for the whole process. If several threads need the limit at the
    same time, the first thread sets it and the last thread removes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limits: threadpool_limits | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limits = threadpool_limits(1, user_api="blas")
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limits is not None:
                self._limits.restore_original_limits()
                self._limits = None


one_blas_thread = _OneBlasThread()


def for_each_chunk(
    work: Callable[[slice], object],
    n_rows: int,
    chunk_rows: int,
    *,
    n_jobs: int | None,
    description: str,
    unit: str,
    verbose: bool,
) -> None:
    """Call ``work(rows)`` for every chunk of `chunk_rows` rows, in threads, with a progress bar."""
    waiting = deque(range(0, n_rows, chunk_rows))
    one_at_a_time = threading.Lock()

    def work_off() -> None:
        while True:
            try:
                start = waiting.popleft()
            except IndexError:
                return
            rows = slice(start, min(start + chunk_rows, n_rows))
            try:
                with np.errstate(under="ignore"):  # exponentials vanish, whatever users set
                    work(rows)
            except BaseException:
                waiting.clear()  # the other threads end after their current chunks
                raise
            with one_at_a_time:
                bar.update(rows.stop - rows.start)

    threads = min(effective_n_jobs(n_jobs), len(waiting))
    with tqdm(
        total=n_rows, desc=description, unit=unit, unit_scale=True,
        delay=PROGRESS_DELAY, disable=not verbose or in_worker(), leave=False,
    ) as bar:  # fmt: skip
        if threads <= 1:
            work_off()
            return
        # not joblib's threads: joblib polls for results every 10 ms, the time in which ten
        # thousand signals are simulated
        with ThreadPoolExecutor(
            threads, "corrsk-chunk", initializer=setattr, initargs=(_this_thread, "is_ours", True)
        ) as pool:
            try:
                for ended in [pool.submit(work_off) for _ in range(threads)]:
                    ended.result()
            finally:
                waiting.clear()  # also if this thread is interrupted


def for_each_run(
    work: Callable[[int, slice], object],
    n_rows: int,
    *,
    first_row: int = 0,
    n_jobs: int | None = None,
    description: str,
    verbose: bool = True,
) -> None:
    """Call ``work(first_block, rows)`` for runs of blocks of `BLOCK_ROWS` rows.

    The runs are processed by threads and not by processes, because numpy releases
    the interpreter lock and the results are written into shared arrays. The rows
    may be a part of a longer table: `first_row`, a multiple of `BLOCK_ROWS`, is the
    position of the part. Block numbers count from the start of the table, `rows`
    from the start of the part.

    Parameters
    ----------
    work : callable
        Function of the number of the first block and the rows of a run.
    n_rows : int
        Number of rows.
    first_row : int, default=0
        Position of the first row in the table.
    n_jobs : int or None, default=None
        Number of threads; see :func:`effective_n_jobs`.
    description : str
        Label of the progress bar.
    verbose : bool, default=True
        Whether to show the progress bar.

    Raises
    ------
    ValueError
        If `first_row` is not a multiple of `BLOCK_ROWS`, or `n_jobs` is 0.
    """
    first_block, left = divmod(first_row, BLOCK_ROWS)
    if left:
        raise ValueError(f"first_row must be a multiple of {BLOCK_ROWS}, got {first_row}")
    # glibc returns arrays above a threshold to the system, which fills the memory with zeros
    # again for each block. Freeing a larger array raises the threshold.
    np.empty(_KEPT_BYTES, dtype=np.uint8)
    for_each_chunk(
        lambda rows: work(first_block + rows.start // BLOCK_ROWS, rows),
        n_rows, BLOCK_ROWS * _blocks_per_run(n_rows, effective_n_jobs(n_jobs)),
        n_jobs=n_jobs, description=description, unit="rows", verbose=verbose,
    )  # fmt: skip


def _blocks_per_run(n_rows: int, threads: int) -> int:
    # several runs for each thread, because cores may differ in speed
    return min(max(-(-n_rows // BLOCK_ROWS) // (_RUNS_PER_THREAD * threads), 1), _BLOCKS_PER_RUN)


def blocks_of_run(first_block: int, rows: slice) -> Iterator[tuple[int, slice]]:
    """Iterate over the blocks of a run: number and rows of each block."""
    for block, start in enumerate(range(rows.start, rows.stop, BLOCK_ROWS), start=first_block):
        yield block, slice(start, min(start + BLOCK_ROWS, rows.stop))


def for_each_block(work: Callable[[int, slice], object], n_rows: int, **options: Any) -> None:
    """Call ``work(block, rows)`` for every block; see :func:`for_each_run` for the `options`."""

    def run(first_block: int, rows: slice) -> None:
        for block, part in blocks_of_run(first_block, rows):
            work(block, part)

    for_each_run(run, n_rows, **options)
