"""Grid search on a GPU: networks trained together, relative to one after another.

24 candidates (learning rates and weight decays) x 3 folds on 70,000 signals, with the
classifier's default training and without a final fit, in corrsk's StackedGridSearchCV and in
scikit-learn's GridSearchCV, whose fits use the same kernels one after another (backend="auto").
Targets: stacks at least 10 times as fast; differences of scores no larger than between two seeds.

Without a GPU nothing is measured, and the exit status is 1.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from _measure import paired_rounds, ratio, record
from grid_search import DECAYS, RATES
from numpy.typing import NDArray
from sklearn.model_selection import GridSearchCV

from corrsk import CorrelationCNNClassifier, StackedGridSearchCV, make_correlation_signals

N_SIGNALS = 70_000
EPOCHS = 40
ROUNDS = 1


def measured(
    device: str, n_signals: int = N_SIGNALS, epochs: int = EPOCHS, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Measure times and scores of both searches."""
    X, y = make_correlation_signals(n_signals, noise_level=0.003, random_state=0)
    grid = {"learning_rate": RATES, "weight_decay": DECAYS}
    scores: dict[str, NDArray[np.float64]] = {}

    def search(name: str, kind: type[GridSearchCV], seed: int = 0, **options: Any) -> None:
        classifier = CorrelationCNNClassifier(
            protocol="ir-se-8x8", max_epochs=epochs, device=device, random_state=seed, verbose=False
        )
        found = kind(classifier, grid, cv=3, refit=False, **options).fit(X, y)
        scores[name] = found.cv_results_["mean_test_score"]

    one_by_one, stacked = "one after another", "stacked"
    times = paired_rounds(
        {
            one_by_one: lambda: search(one_by_one, GridSearchCV),
            stacked: lambda: search(stacked, StackedGridSearchCV, stack=True),
        },
        rounds,
    )
    search("another seed", StackedGridSearchCV, seed=1, stack=True)
    return {
        "n_signals": n_signals,
        "fits": 3 * len(RATES) * len(DECAYS),
        "epochs": epochs,
        "seconds": {name: [round(t, 2) for t in row] for name, row in times.items()},
        "how many times as fast as one after another": ratio(times, one_by_one, stacked),
        "best score": {name: round(float(each.max()), 4) for name, each in scores.items()},
        "mean difference of a candidate's score from one after another's": {
            name: round(float(np.mean(np.abs(each - scores[one_by_one]))), 4)
            for name, each in scores.items()
        },
    }


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU is available: nothing was measured or written", file=sys.stderr)
        return 1
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    record("stacked_search", gpu | measured("cuda"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
