"""Tests on a dask cluster of two processes: searches with killed workers, large data."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingRandomSearchCV, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from corrsk import (
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    SignalNormalizer,
    TissuePrior,
    make_correlation_signals,
)
from corrsk._utils.parallel import effective_n_jobs, in_worker
from corrsk.model_selection.cluster import cluster_search
from corrsk.neural.training.device import limited_threads

pytestmark = pytest.mark.slow

pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

PATIENCE = 180  # timeout in seconds for work on the cluster


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def table():
    return TissuePrior.named("midl2024").sample(1200, random_state=0)


def scores(search) -> dict[str, np.ndarray]:
    found = {key: value for key, value in search.cv_results_.items() if "test_score" in key}
    assert len(found) > 3
    return found


def assert_same_scores(search, expected):
    for key, values in scores(expected).items():
        np.testing.assert_array_equal(scores(search)[key], values, err_msg=key)


def cnn_search(**options) -> GridSearchCV:
    pipeline = make_pipeline(
        CorrelationSignalGenerator(noise_level=0.001, random_state=0),
        SignalNormalizer(),
        CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, random_state=0),
    )
    rates = {"correlationcnnclassifier__learning_rate": [0.001, 0.01, 0.03]}
    return GridSearchCV(pipeline, rates, refit=False, **options)


# -- searches ----------------------------------------------------------------


def test_a_search_gives_the_scores_of_a_local_search(client, table):
    with cluster_search(*table, cv=3) as splits:
        search = cnn_search(cv=splits).fit(*table)
    with limited_threads(1):  # as many as in a worker, because sums depend on the number
        assert_same_scores(search, cnn_search(cv=3).fit(*table))


def test_the_splits_equal_those_of_a_local_search(client, table):
    expected = list(StratifiedKFold(4).split(*table))
    wait_until(lambda: not client.who_has())  # the data of an earlier search are released late
    with cluster_search(*table, cv=4, client=client) as splits:
        for parts, expected_parts in zip(splits, expected, strict=True):
            for rows, expected_rows in zip(parts, expected_parts, strict=True):
                np.testing.assert_array_equal(rows, expected_rows)
        # X, y and the row numbers, with a copy on each worker
        copies = client.who_has()
        assert len(copies) == 2 + 2 * 4
        assert all(len(workers) == 2 for workers in copies.values())


class Leaves(GaussianNB):
    """Classifier that records fits; with `patient`, waits until a killed worker is replaced."""

    def __init__(self, var_smoothing=1e-9, folder=None, patient=False):
        super().__init__(var_smoothing=var_smoothing)
        self.folder = folder
        self.patient = patient

    def fit(self, X, y):
        if self.folder is not None:
            (Path(self.folder) / f"{os.getpid()}-{time.monotonic_ns()}").touch()
            wait_until(lambda: not self.patient or len(workers_seen(self.folder)) > 2)
        return super().fit(X, y)


def workers_seen(folder) -> set[str]:
    return {path.name.partition("-")[0] for path in Path(folder).iterdir()}


def wait_until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def light_search(kind: str, folder=None, **options):
    pipeline = make_pipeline(
        CorrelationSignalGenerator(random_state=0), Leaves(folder=folder, patient=bool(folder))
    )
    smoothing = {"leaves__var_smoothing": [1e-9, 1e-6, 1e-3, 1e-1]}
    if kind == "grid":
        return GridSearchCV(pipeline, smoothing, **options)
    return HalvingRandomSearchCV(
        pipeline, smoothing, n_candidates=4, factor=2, min_resources=300, random_state=0, **options
    )


@pytest.mark.parametrize(("kind", "victim"), [("grid", 0), ("halving over voxels", 1)])
def test_a_search_survives_a_killed_worker(kind, victim, client, table, tmp_path):
    """A worker is killed in its first fit; the search ends only if its replacement works."""
    client.wait_for_workers(2, timeout=PATIENCE)
    pids = sorted(client.run(os.getpid).values())

    def kill():
        wait_until(lambda: len(workers_seen(tmp_path)) == 2)
        os.kill(pids[victim], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with cluster_search(*table, cv=3) as splits:
        search = light_search(kind, tmp_path, cv=splits, refit=False).fit(*table)
    killer.join()
    assert len(workers_seen(tmp_path)) == 3
    assert_same_scores(search, light_search(kind, cv=3).fit(*table))


@pytest.fixture
def hears_interrupts():
    """Restore the handling of SIGINT, which a test run in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_cluster_is_unchanged_after_a_failed_block(client, table, tmp_path, hears_interrupts):
    """Waiting tasks are cancelled and no data stay, also after Ctrl-C."""
    client.wait_for_workers(2, timeout=PATIENCE)

    def interrupt():
        wait_until(lambda: workers_seen(tmp_path))
        os.kill(os.getpid(), signal.SIGINT)

    assert client.amm.running()
    interrupter = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt), cluster_search(*table, cv=3) as splits:
        assert not client.amm.running()
        interrupter.start()
        light_search("grid", tmp_path, cv=splits, pre_dispatch="all").fit(*table)
    interrupter.join()
    assert client.amm.running()
    for name in "ab":  # lets running fits end
        (tmp_path / name).touch()
    wait_until(lambda: not any(client.processing().values()))
    assert len(list(tmp_path.iterdir())) <= 2 + 2  # of 12 fits, one on each worker had started


def test_bad_clients_give_clear_errors(table, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(distributed, "default_client", _no_client)
        with pytest.raises(ValueError, match="no dask client"), cluster_search(*table):
            pass
        patched.setitem(sys.modules, "distributed", None)
        with pytest.raises(ImportError, match=r"corrsk\[dask\]"), cluster_search(*table):
            pass
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as idle,
        pytest.raises(ValueError, match="no workers"),
        cluster_search(*table, client=idle),
    ):
        pass
    with pytest.raises(ValueError, match="closed"), cluster_search(*table, client=idle):
        pass


def _no_client():
    raise ValueError("No clients found")


# -- threads -----------------------------------------------------------------


def share() -> tuple[bool, int, int]:
    from corrsk.neural.training.device import share_of_threads

    with share_of_threads():
        return in_worker(), effective_n_jobs(None), torch.get_num_threads()


def test_a_worker_uses_its_share_of_the_cores(client):
    wanted = int(os.environ.get("OMP_NUM_THREADS", "1"))  # of the user, which comes first
    assert client.submit(share, pure=False).result(PATIENCE) == (True, wanted, wanted)


def test_threads_of_a_worker_share_its_cores(monkeypatch):
    with (
        limited_threads(4),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as threads,
    ):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert threads.submit(share, pure=False).result(PATIENCE) == (True, 1, 1)
        monkeypatch.setenv("OMP_NUM_THREADS", "6")
        assert threads.submit(share, pure=False).result(PATIENCE)[:2] == (True, 3)
        assert not in_worker()


# -- data larger than memory -------------------------------------------------


@pytest.mark.parametrize("chunk_rows", [1, 5000, 100_000])
def test_chunks_drawn_on_a_cluster_are_bit_identical_to_local_draws(client, chunk_rows):
    options = {"noise_level": (0.01, 0.02), "random_state": 3, "return_tissue": True}
    *arrays, tissue = make_correlation_signals(15_000, **options)
    *lazy, lazy_tissue = make_correlation_signals(15_000, chunk_rows=chunk_rows, **options)
    assert lazy[0].numblocks[0] == {1: 4, 5000: 2, 100_000: 1}[chunk_rows]
    for part, expected in zip(client.gather(client.compute(lazy)), arrays, strict=True):
        np.testing.assert_array_equal(part, expected)
        assert part.dtype == expected.dtype
    pd.testing.assert_frame_equal(client.compute(lazy_tissue).result(PATIENCE), tissue)


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak in /proc")
def test_a_worker_has_only_a_few_chunks_in_memory(client):
    def mean(n_samples: int):
        X, _ = make_correlation_signals(n_samples, random_state=0, chunk_rows=8192)
        return X, client.compute(X.mean(axis=0)).result(PATIENCE)

    mean(4 * 8192)  # imports its modules
    before = client.run(peak_bytes)
    X, averages = mean(60 * 8192)
    grown = [peak - before[worker] for worker, peak in client.run(peak_bytes).items()]
    assert max(grown) < X.nbytes / 4 < 32e6
    assert averages.shape == (64,)
