"""Search on a dask cluster that may lose workers, and data that no memory holds.

Prints a table of the candidates and writes search_on_a_cluster.csv. Needs
`pip install 'corrsk[dask]'`.
"""

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
from corrsk.model_selection.cluster import cluster_search

N_VOXELS = 3_000
N_SIGNALS = 200_000  # 400_000_000 are 100 GB, with the same lines
CHUNK_ROWS = 50_000  # 13 MB a chunk; 1_000_000 (256 MB) for such data


def main() -> None:
    """Run the search and the reduction."""
    # one thread per worker: a fit of this network gains little from more.
    # With SLURM: dask_jobqueue.SLURMCluster(cores=1, memory="4GB", ..) and cluster.scale(50);
    # with a scheduler that runs already: Client("tcp://its-address:8786")
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        print(search().round(4).to_string(index=False))
        print("mean of the first measurements:", column_means().round(3)[:4])


def search() -> pd.DataFrame:
    """The candidates with their scores, the best one first."""
    tissue, n_c = TissuePrior.named("midl2024").sample(N_VOXELS, random_state=0)
    pipeline = make_pipeline(
        CorrelationSignalGenerator(noise_level=(0.001, 0.005), random_state=0),
        SignalNormalizer(),
        CorrelationCNNClassifier(max_epochs=3, random_state=0),
    )
    candidates = {
        "correlationcnnclassifier__learning_rate": loguniform(1e-3, 1e-1),
        "correlationcnnclassifier__batch_size": [16, 32, 64],
    }
    # the data and the splits lie on every worker, so that none is indispensable
    with cluster_search(tissue, n_c, cv=3) as splits:
        found = RandomizedSearchCV(
            pipeline, candidates, n_iter=4, cv=splits, random_state=0, verbose=1
        ).fit(tissue, n_c)
    table = pd.DataFrame(
        {
            "learning rate": found.cv_results_["param_correlationcnnclassifier__learning_rate"],
            "batch size": found.cv_results_["param_correlationcnnclassifier__batch_size"],
            "accuracy": found.cv_results_["mean_test_score"],
            "fit time (s)": found.cv_results_["mean_fit_time"],
        }
    ).sort_values("accuracy", ascending=False)
    table.to_csv("search_on_a_cluster.csv", index=False)
    return table


def column_means():
    """Mean of each measurement; every worker holds a few chunks at a time."""
    X, _ = make_correlation_signals(N_SIGNALS, chunk_rows=CHUNK_ROWS, random_state=0)
    return X.mean(axis=0).compute()


if __name__ == "__main__":
    main()
