"""Parallel processing of blocks and chunks of rows in threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from corrsk._utils import parallel as _parallel
from corrsk._utils.parallel import (
    blocks_of_run,
    effective_n_jobs,
    for_each_block,
    for_each_chunk,
    for_each_run,
    in_worker,
)
from corrsk._utils.rng import BLOCK_ROWS

QUIET = {"description": "", "verbose": False}
N = 20 * BLOCK_ROWS + 7


@pytest.mark.parametrize("n_jobs", [1, 2, 5])
@pytest.mark.parametrize("first_row", [0, 3 * BLOCK_ROWS])
def test_every_row_is_in_its_block(n_jobs, first_row):
    block_of_row = np.full(N, -1)

    def work(block, rows):
        assert (block_of_row[rows] == -1).all()
        block_of_row[rows] = block

    for_each_block(work, N, first_row=first_row, n_jobs=n_jobs, **QUIET)
    np.testing.assert_array_equal(block_of_row, (first_row + np.arange(N)) // BLOCK_ROWS)


@pytest.mark.parametrize(("n_jobs", "per_run"), [(1, 8), (2, 5), (50, 1)])
def test_a_run_has_whole_blocks(n_jobs, per_run):
    runs = []
    for_each_run(lambda *run: runs.append(run), N, n_jobs=n_jobs, **QUIET)
    runs.sort()
    starts = list(range(0, N, per_run * BLOCK_ROWS))
    stops = [*starts[1:], N]
    assert runs == [(a // BLOCK_ROWS, slice(a, b)) for a, b in zip(starts, stops, strict=True)]
    blocks = [block for run in runs for block in blocks_of_run(*run)]
    assert blocks[:2] == [(0, slice(0, BLOCK_ROWS)), (1, slice(BLOCK_ROWS, 2 * BLOCK_ROWS))]
    assert blocks[-1] == (20, slice(20 * BLOCK_ROWS, N))


def test_threads_of_for_each_chunk_count_as_workers():
    seen = []
    for n_jobs in (1, 3):
        for_each_chunk(
            lambda rows: seen.append((in_worker(), effective_n_jobs(None))), 3, 1,
            n_jobs=n_jobs, unit="rows", **QUIET,
        )  # fmt: skip
    assert seen == 3 * [(False, effective_n_jobs(None))] + 3 * [(True, 1)]
    assert not in_worker()


def test_first_row_must_be_the_start_of_a_block():
    with pytest.raises(ValueError, match="first_row must be a multiple of 4096, got 5"):
        for_each_run(lambda *run: None, 10, first_row=5, **QUIET)


@pytest.mark.parametrize(("n_jobs", "n_chunks", "n_threads"), [(1, 6, 1), (3, 6, 3), (8, 2, 2)])
def test_chunks_run_in_the_given_number_of_threads(n_jobs, n_chunks, n_threads):
    together = threading.Barrier(n_threads, timeout=20)
    threads = set()

    def work(rows):
        if len(threads) < n_threads:
            threads.add(threading.get_ident())
            together.wait()  # no thread processes two of the first chunks

    for_each_chunk(work, n_chunks, 1, n_jobs=n_jobs, unit="rows", **QUIET)
    assert len(threads) == n_threads
    assert (threading.get_ident() in threads) == (n_threads == 1)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_error_in_a_chunk_is_raised_and_stops_the_others(n_jobs):
    done = []

    def work(rows):
        if rows.start == 1:
            raise ZeroDivisionError("in a chunk")
        done.append(rows.start)

    with pytest.raises(ZeroDivisionError, match="in a chunk"):
        for_each_chunk(work, 100_000, 1, n_jobs=n_jobs, unit="rows", **QUIET)
    assert len(done) < 100_000 - 1


def test_zero_rows_call_no_work():
    for_each_block(lambda block, rows: pytest.fail("there is nothing to do"), 0, n_jobs=2, **QUIET)


def test_progress_is_shown_for_long_work(monkeypatch, capsys):
    monkeypatch.setattr(_parallel, "PROGRESS_DELAY", 0)
    for_each_chunk(
        lambda rows: None, 10, 2, n_jobs=2, description="counting", unit="rows", verbose=True
    )
    assert "counting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"), [("1", 1), ("2,4", 2), ("1000", 8), ("", 8), ("many", 8)]
)
def test_the_number_of_threads_respects_omp_num_threads(monkeypatch, given, expected):
    monkeypatch.setattr("corrsk._utils.parallel.joblib.cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert effective_n_jobs(None) == expected
    assert effective_n_jobs(-1) == 8
    assert effective_n_jobs(3) == 3
