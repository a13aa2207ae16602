"""Wall time of one grid search for several ways to use the cores, and memory of its workers.

The search has 4 candidates x 3 folds of simulation, normalisation and the CNN, with
no final fit. The alternatives take turns within a round, with warm
workers, and every ratio is to one process with one thread. "oversubscribed" means
two workers with two threads each, as in a search without limits on threads. The
network is trained by torch (backend="torch"), because its threads compete with the workers.

The memory is the private memory (resident, not shared) of two workers after reading a table
that joblib maps into the workers, or copies to the workers, minus that after reading
a few rows.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import joblib
import numpy as np
import pandas as pd
import psutil
from _measure import paired_rounds, ratio, record
from distributed import Client, LocalCluster
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from corrsk import (
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    SignalNormalizer,
    TissuePrior,
    make_correlation_signals,
)
from corrsk.model_selection.cluster import cluster_search
from corrsk.neural.training.device import limited_threads

RATES = [0.001, 0.003, 0.01, 0.03]
FULL = {"n_voxels": 10_000, "candidates": 4, "rounds": 2, "table_rows": 1_000_000}
QUICK = {"n_voxels": 500, "candidates": 2, "rounds": 1, "table_rows": 200_000}
MAX_EPOCHS = 2
SERIAL = "n_jobs=1, one thread"


def wall_times(n_voxels: int, candidates: int, rounds: int) -> dict[str, Any]:
    tissue, n_c = TissuePrior.named("midl2024").sample(n_voxels, random_state=0)

    def search(n_jobs: int, cv: Any = 3, threads: int | None = None) -> np.ndarray:
        pipeline = make_pipeline(
            CorrelationSignalGenerator(noise_level=0.001, random_state=0, n_jobs=threads),
            SignalNormalizer(),
            CorrelationCNNClassifier(
                protocol="ir-se-8x8",
                max_epochs=MAX_EPOCHS,
                device="cpu",
                backend="torch",
                random_state=0,
                verbose=False,
            ),
        )
        rates = {"correlationcnnclassifier__learning_rate": RATES[:candidates]}
        found = GridSearchCV(pipeline, rates, cv=cv, n_jobs=n_jobs, refit=False)
        return found.fit(tissue, n_c).cv_results_["mean_test_score"]

    def one_thread() -> np.ndarray:
        with limited_threads(1):
            return search(1, threads=1)

    def on_loky(threads: int) -> np.ndarray:
        with joblib.parallel_config("loky", inner_max_num_threads=threads):
            return search(2)

    def warm(threads: int) -> None:
        # loky replaces its workers if the number of threads changes; new ones import torch again
        with joblib.parallel_config("loky", inner_max_num_threads=threads):
            joblib.Parallel(n_jobs=2)(joblib.delayed(small_fit)() for _ in range(4))

    def on_cluster() -> np.ndarray:
        with cluster_search(tissue, n_c, cv=3) as splits:
            return search(-1, splits)

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.run(small_fit)
        rivals = {
            SERIAL: one_thread,
            "n_jobs=1, all threads": lambda: search(1),
            "warm one": lambda: warm(1),
            "n_jobs=2": lambda: on_loky(1),
            "warm two": lambda: warm(2),
            "n_jobs=2, oversubscribed": lambda: on_loky(2),
            "dask, 2 processes": on_cluster,
        }
        times = paired_rounds(rivals, rounds)
        same = np.array_equal(one_thread(), on_cluster())
    names = [name for name in rivals if not name.startswith("warm")]
    return {
        "n_voxels": n_voxels,
        "fits": 3 * candidates,
        "max_epochs": MAX_EPOCHS,
        "seconds": {name: round(min(times[name]), 2) for name in names},
        "ratio of its time to that of one thread": {
            name: ratio(times, name, SERIAL) for name in names[1:]
        },
        "the cluster's scores are those of one thread, bit for bit": bool(same),
    }


def small_fit() -> None:
    """Warm up a worker: imports and set-up of the first fit."""
    X, y = make_correlation_signals(100, random_state=0, n_jobs=1)
    CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False).fit(
        X, y
    )
    time.sleep(0.5)  # so that each worker gets a task


def own_memory(table: pd.DataFrame) -> tuple[int, int]:
    """Return the process id, and the private resident memory in bytes, after reading a table."""
    np.add.reduce(table.to_numpy(copy=False), axis=None)
    time.sleep(1)  # so that each worker gets a task
    # not USS, which counts a mapped file as private once the other worker has released the file
    held = psutil.Process().memory_info()
    return os.getpid(), held.rss - held.shared


def memory(table_rows: int) -> dict[str, Any]:
    tissue, _ = TissuePrior.named("midl2024").sample(table_rows, random_state=0)

    def grown(max_nbytes: str | None) -> float:
        with joblib.parallel_config("loky", inner_max_num_threads=1, max_nbytes=max_nbytes):
            # a few rows first, to exclude the imports of reading a table
            few, all_rows = (
                dict(joblib.Parallel(n_jobs=2)(joblib.delayed(own_memory)(table) for _ in range(6)))
                for table in (tissue[:10], tissue)
            )
        return round(max(all_rows[pid] - few[pid] for pid in all_rows if pid in few) / 1e6, 1)

    return {
        "table (MB)": round(int(tissue.memory_usage().sum()) / 1e6, 1),
        "a worker's own memory grows by (MB), mapped": grown("1M"),
        "a worker's own memory grows by (MB), copied": grown(None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, and not recorded")
    quick = parser.parse_args().quick
    settings = dict(QUICK if quick else FULL)
    held = memory(settings.pop("table_rows"))
    results = {**wall_times(**settings), **held}
    if quick:
        print(results)
    else:
        record("search_scaling", results)


if __name__ == "__main__":
    main()
