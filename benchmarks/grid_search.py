"""Grid search over the training of the CNN, relative to the same search with plain skorch.

24 candidates (learning rates and weight decays) x 3 folds on 70,000 signals, each in
GridSearchCV(n_jobs=2) with warm workers and without a final fit:

- plain skorch: StandardScaler and a NeuralNetClassifier with its default loader;
- backend="torch" and backend="numba": corrsk's classifier, whose network standardises.

All train the same network for the same epochs and batches, with AdamW at a constant rate.
Targets: backend="torch" at least 1.6 and backend="numba" at least 4 times as fast as plain
skorch; differences of scores no larger than those of plain skorch with another seed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import torch
from _measure import paired_rounds, ratio, record
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier

from corrsk import CorrelationCNNClassifier, make_correlation_signals
from corrsk.neural.networks import CorrelationCNN

N_SIGNALS = 70_000
EPOCHS = 2
BATCH_SIZE = 2000
ROUNDS = 3
RATES = [0.001, 0.002, 0.004, 0.008, 0.015, 0.03]
DECAYS = [0.0, 0.001, 0.01, 0.1]


class SeededNet(NeuralNetClassifier):
    """Plain skorch with a fixed seed for each fit."""

    seed = 0

    def initialize(self) -> SeededNet:
        torch.manual_seed(self.seed)
        return super().initialize()


class OtherSeed(SeededNet):
    """Plain skorch with another seed."""

    seed = 1


def plain_skorch(
    kind: type[SeededNet] = SeededNet,
) -> tuple[BaseEstimator, dict[str, Any]]:
    net = kind(
        CorrelationCNN, module__dropout=0.0, criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW, max_epochs=EPOCHS, batch_size=BATCH_SIZE,
        iterator_train__shuffle=True, train_split=None, verbose=0,
    )  # fmt: skip
    step = kind.__name__.lower()
    names = {
        f"{step}__lr": RATES,
        f"{step}__optimizer__weight_decay": DECAYS,
    }
    return make_pipeline(StandardScaler(), net), names


def ours(backend: str) -> tuple[BaseEstimator, dict[str, Any]]:
    classifier = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=EPOCHS, batch_size=BATCH_SIZE,
        learning_rate_schedule="constant", backend=backend, device="cpu", random_state=0,
        verbose=False,
    )  # fmt: skip
    return classifier, {"learning_rate": RATES, "weight_decay": DECAYS}


def small_fit(backend: str) -> None:
    """Warm up a worker: imports and compilation of the first fit."""
    X, y = make_correlation_signals(200, random_state=0, n_jobs=1)
    CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, backend=backend, random_state=0, verbose=False
    ).fit(X, y)


def main() -> None:
    X, y = make_correlation_signals(N_SIGNALS, noise_level=0.003, random_state=0)
    found: dict[str, Any] = {}

    def search(name: str, made: tuple[BaseEstimator, dict[str, Any]]) -> None:
        searched = GridSearchCV(*made, cv=3, n_jobs=2, refit=False)
        found[name] = searched.fit(X, y - 1).cv_results_

    backends = ["torch", *(["numba"] if importlib.util.find_spec("numba") else [])]
    joblib.Parallel(n_jobs=2)(joblib.delayed(small_fit)(backends[-1]) for _ in range(4))
    rivals: dict[str, Callable[[], None]] = {
        "plain skorch": lambda: search("plain skorch", plain_skorch()),
        **{
            f"backend={backend!r}": lambda backend=backend: search(
                f"backend={backend!r}", ours(backend)
            )
            for backend in backends
        },
    }
    times = paired_rounds(rivals, ROUNDS)
    search("another seed", plain_skorch(OtherSeed))
    scores = {name: results["mean_test_score"] for name, results in found.items()}
    record(
        "grid_search",
        {
            "n_signals": N_SIGNALS,
            "fits": 3 * len(RATES) * len(DECAYS),
            "epochs": EPOCHS,
            "batch size": BATCH_SIZE,
            "seconds": {name: [round(t, 1) for t in row] for name, row in times.items()},
            "how many times as fast as plain skorch": {
                name: ratio(times, "plain skorch", name) for name in times
            },
            "best score": {name: round(float(each.max()), 4) for name, each in scores.items()},
            "mean difference of a candidate's score from plain skorch's": {
                name: round(float(np.mean(np.abs(each - scores["plain skorch"]))), 4)
                for name, each in scores.items()
            },
        },
    )


if __name__ == "__main__":
    main()
