"""Speed of CompartmentRegressor on one core, beside fits of multi-exponentials.

python benchmarks/compartment_speed.py                         trains a small model first
python benchmarks/compartment_speed.py --model model.safetensors --voxels 2000

Signals of "t1t2-detr" with unknown scale. In rounds of the same process: the probabilities of the
counts and tables of compartments, of Laplace's approximation and of draws, 256 draws per voxel, and
`MultiExponentialClassifier` with BIC, once the probabilities and once with the compartments of the
most probable count. Times are those of the processor, so that other processes matter less. The
effective number of draws of the small model, and so its number of rounds, is that of a worse
network than a shipped one; its width is the same. Targets: 2,000 voxels per second for the draws,
20,000 for tables (of Laplace's approximation).
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from _measure import record
from sklearn.base import clone

from corrsk import CompartmentRegressor, MultiExponentialClassifier, SignalStream, load
from corrsk.simulation.datasets import DATASETS
from corrsk.tissue.prior import resolve_prior

DATA = replace(DATASETS["t1t2-detr"], norm="l2")
N_TRAINING, N_VALIDATION, N_DRAWS = 1_000_000, 2_000, 256
COUNTS = (1, 2, 3)
FITS = "fit, BIC: probabilities"


def small_model() -> CompartmentRegressor:
    return CompartmentRegressor.from_definition(
        DATA, n_samples=N_TRAINING, n_validation=N_VALIDATION, max_epochs=10, novelty=False,
        random_state=0, n_jobs=1, verbose=False,
    ).fit()  # fmt: skip


def processor_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="file of a CompartmentRegressor of 8 x 8 signals")
    parser.add_argument("--voxels", type=int, default=1000, help="number of voxels (1000)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (3)")
    chosen = parser.parse_args()
    start = time.process_time()
    model = load(chosen.model) if chosen.model else small_model()
    training = time.process_time() - start
    model.set_params(n_jobs=1, verbose=False)
    model.network_.set_params(n_jobs=1)
    X, rows = SignalStream.from_definition(DATA, random_state=1).draw_rows(0, chosen.voxels)
    fits = MultiExponentialClassifier(
        DATA.protocol, bounds=resolve_prior(DATA.prior), criterion="bic", counts=COUNTS,
        random_state=0, n_jobs=1, verbose=False,
    ).fit(X, rows.n_c)  # fmt: skip
    laplace = clone(model).set_params(method="laplace")
    vars(laplace).update({k: v for k, v in vars(model).items() if k.endswith("_")})
    works: dict[str, Callable[[], Any]] = {
        "predict_proba, laplace": lambda: laplace.predict_proba(X),
        "predict, laplace": lambda: laplace.predict(X),
        "predict_proba": lambda: model.predict_proba(X),
        "predict": lambda: model.predict(X),
        f"sample_posterior, {N_DRAWS} draws": lambda: model.sample_posterior(
            X, N_DRAWS, random_state=0
        ),
        "posterior": lambda: model.posterior(X),
        FITS: lambda: fits.predict_proba(X),
        "fit, BIC: compartments": lambda: fits.estimate_compartments(X),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of voxels whose posterior is unreliable
        reliable = float(model.posterior(X).reliable.mean())  # also compiles
        laplace.predict(X[:100])
        fits.predict_proba(X[:100])
        for _ in range(chosen.rounds):
            for name, work in works.items():
                times[name].append(processor_seconds(work) / chosen.voxels)
    record(
        "compartment_speed",
        {
            "model": "from a file" if chosen.model else f"trained on {N_TRAINING} signals",
            "seconds of the training": None if chosen.model else round(training, 1),
            "n_voxels": chosen.voxels,
            "reliable voxels": round(reliable, 4),
            "voxels per second of a core": {
                name: round(1 / min(each)) for name, each in times.items()
            },
            "speed over that of fits": {
                name: round(
                    statistics.median(a / b for a, b in zip(times[FITS], each, strict=True)), 2
                )
                for name, each in times.items()
                if name != FITS
            },
        },
    )


if __name__ == "__main__":
    main()
