"""
Search on a cluster, and data larger than memory
================================================

A randomised search on dask workers that may be lost, and a reduction over chunks of signals that
are simulated where they are needed. Needs ``pip install "corrsk[dask]"``.
"""

import logging

import pandas as pd
from distributed import Client, LocalCluster
from scipy.stats import loguniform
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import make_pipeline

from corrsk import (
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    SignalNormalizer,
    TissuePrior,
    make_correlation_signals,
)
from corrsk.model_selection import cluster_search

# %%
# The search
# ----------
# The data and the splits are placed on every worker, so that none is indispensable.


def search() -> pd.DataFrame:
    """Candidates with their scores, the best one first."""
    tissue, n_c = TissuePrior.named("midl2024").sample(2_000, random_state=0)
    pipeline = make_pipeline(
        CorrelationSignalGenerator("ir-se-8x8", noise_level=(0.001, 0.005), random_state=0),
        SignalNormalizer(),
        CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=3, random_state=0),
    )
    candidates = {
        "correlationcnnclassifier__learning_rate": loguniform(1e-3, 1e-1),
        "correlationcnnclassifier__batch_size": [16, 32, 64],
    }
    with cluster_search(tissue, n_c, cv=3) as splits:
        found = RandomizedSearchCV(
            pipeline, candidates, n_iter=3, cv=splits, refit=False, random_state=0
        ).fit(tissue, n_c)
    return pd.DataFrame(
        {
            "learning rate": found.cv_results_["param_correlationcnnclassifier__learning_rate"],
            "batch size": found.cv_results_["param_correlationcnnclassifier__batch_size"],
            "accuracy": found.cv_results_["mean_test_score"],
        }
    ).sort_values("accuracy", ascending=False)


# %%
# Chunks of signals
# -----------------
# 100,000 signals are 26 MB; with 400,000,000 (100 GB) the lines are the same, with chunks of
# 1,000,000 rows (256 MB).


def column_means():
    """Mean of each measurement; a worker holds a few chunks at a time."""
    X, _ = make_correlation_signals(100_000, chunk_rows=25_000, random_state=0)
    return X.mean(axis=0).compute()


# %%
# The cluster
# -----------
# One thread per worker: a fit of this network gains little from more. With SLURM it would be
# ``dask_jobqueue.SLURMCluster(cores=1, memory="4GB", ..)`` and ``cluster.scale(50)``; with a
# scheduler that runs already, ``Client("tcp://its-address:8786")``.

if __name__ == "__main__":
    logging.getLogger("distributed.nanny").setLevel(logging.ERROR)  # workers that stop slowly
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        print(search().round(4).to_string(index=False))
        print("mean of the first measurements:", column_means().round(3)[:4])
