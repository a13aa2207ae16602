"""Time per signal over the number of signals, the size of the protocol, and the threads.

Three panels of curves; each point is the median of a few rounds in which all points of the
panel take turns:

- samples: simulation, a training epoch (`fit` with max_epochs=1, including validation and
  set-up) with torch and with the compiled kernels, prediction, and the fit of a classical
  learner, over the number of signals. A flat curve is a cost proportional to this number;
- measurements: simulation, training and prediction of the CNN and of the residual MLP, over
  the number of measurements of a grid of TI and TE;
- threads: the same work and a grid search, over threads and, for the search, workers.

Each time is recorded with explanatory facts: page faults of the process, the share of the epoch in
`fit`, the floating-point operations of torch, and the machine's caches.
Training uses batches of 500, which is "auto" from 50,000 signals on. Results:
results/scaling.json and scaling.png; --draw redraws the figure from the record.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
from _measure import RESULTS, paired_rounds, record
from _scaling_figure import draw
from networks import flop_per_signal
from sklearn.model_selection import GridSearchCV

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    ResidualMLPClassifier,
    make_correlation_signals,
)
from corrsk._utils.files import read_json, write_atomically
from corrsk.baselines import make_baseline
from corrsk.neural.training.device import limited_threads

BATCH_SIZE = 500
FEWEST = 100_000  # least number of signals per time: shorter times are uncertain
BYTES = 4 * 64  # of a signal on the 8 x 8 grid
MEMORY = 3  # required memory over that of the signals
RATES = (0.001, 0.003, 0.01, 0.03)  # learning rates of the grid search
FOLDS = 3
BACKENDS = ("torch", *(["numba"] if importlib.util.find_spec("numba") else []))

Row = dict[str, Any]
Panel = dict[str, list[Row]]


@dataclass
class Point:
    """Point of a curve: work on a number of signals, and explanatory facts.

    A call executes the work and records the page faults.

    Parameters
    ----------
    curve : str
        One of `_scaling_figure.STYLES`.
    x : int
        Position: number of signals, measurements or threads.
    n_signals : int
        Number of signals that a call of `work` processes.
    work : callable
        The work.
    facts : callable
        Function ``facts(rounds)`` that returns further entries of the record, for the last rounds.
    calls : int
        Number of calls per time; more than 1 for short work.
    prepare : callable, optional
        Preparation before each call, which is not measured.
    """

    curve: str
    x: int
    n_signals: int
    work: Callable[[], object]
    facts: Callable[[int], Row] = lambda rounds: {}
    calls: int = 1
    prepare: Callable[[], object] | None = None
    faults: list[int] = field(default_factory=list)

    def __call__(self) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(self.calls):
            self.work()
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def measured(over: str, points: Sequence[Point], rounds: int) -> Panel:
    """Measure the curves of a panel; the first point of each curve warms up the others."""
    rivals: dict[str, Callable[[], Any]] = {}
    warm_up: dict[str, str] = {}
    for number, point in enumerate(points):
        if point.prepare is not None:
            rivals[f"before {number}"] = point.prepare
        rivals[f"{number}"] = point
        warm_up.setdefault(point.curve, f"{number}")
    times = paired_rounds(rivals, rounds, warm_up=list(warm_up.values()))
    panel: Panel = {}
    for number, point in enumerate(points):
        handled = point.n_signals * point.calls
        per_signal = [took / handled for took in times[f"{number}"]]
        panel.setdefault(point.curve, []).append(
            {
                over: point.x,
                "signals": point.n_signals,
                "microseconds per signal": rounded(1e6 * statistics.median(per_signal)),
                "signals per second": round(1 / statistics.median(per_signal)),
                "seconds of each round": [rounded(took) for took in times[f"{number}"]],
                "page faults per signal": None  # not available for worker processes
                if point.prepare
                # in the rounds, without the warm-up
                else rounded(statistics.median(point.faults[-rounds:]) / handled),
                **point.facts(rounds),
            }
        )
    return panel


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def network(backend: str = "torch", **parameters: Any) -> CorrelationCNNClassifier:
    """Create a classifier for one epoch on the processor."""
    parameters = {"protocol": "ir-se-8x8"} | parameters
    return CorrelationCNNClassifier(
        max_epochs=1, batch_size=BATCH_SIZE, backend=backend, device="cpu",
        random_state=0, verbose=False, **parameters,
    )  # fmt: skip


def training(
    curve: str, x: int, model: CorrelationCNNClassifier, X: Any, y: Any, calls: int = 1
) -> Point:
    epochs: list[float] = []

    def fit() -> None:
        model.fit(X, y)
        epochs.append(model.history_[0]["seconds"])

    def facts(rounds: int) -> Row:
        each_round = np.reshape(epochs[-rounds * calls :], (rounds, calls)).mean(axis=1)
        epoch = 1e6 * float(np.median(each_round)) / len(X)
        row: Row = {"of which the epoch itself (microseconds per signal)": rounded(epoch)}
        if model.backend == "torch":  # the kernels need fewer operations
            row["floating-point operations per signal"] = flop_per_signal(model)
        return row

    return Point(curve, x, len(X), fit, facts, calls)


# -- the three panels --------------------------------------------------------


def over_samples(sizes: Sequence[int], torch_up_to: int, rival_up_to: int, rounds: int) -> Panel:
    """Measure the cost over the number of signals, on all cores."""
    X, y = make_correlation_signals(max(sizes), random_state=0)
    predictor = network().fit(X[: sizes[0]], y[: sizes[0]])
    points = []
    for n in sizes:
        calls = -(-FEWEST // n)
        points += [
            Point(
                "simulation", n, n, lambda n=n: make_correlation_signals(n, random_state=0),
                calls=calls,
            ),
            Point(
                "CNN, prediction", n, n, lambda n=n: predictor.predict_proba(X[:n]), calls=calls
            ),
            *(
                training(f"CNN, epoch, {backend}", n, network(backend), X[:n], y[:n], calls)
                for backend in BACKENDS
                if backend == "numba" or n <= torch_up_to
            ),
        ]  # fmt: skip
        if n <= rival_up_to:
            rival = make_baseline("logistic", random_state=0)
            points.append(
                Point(
                    "logistic regression, fit", n, n,
                    lambda n=n, rival=rival: rival.fit(X[:n], y[:n]),
                    lambda rounds, rival=rival: {"iterations": int(rival[-1].n_iter_[0])},
                    calls,
                )
            )  # fmt: skip
    return measured("samples", points, rounds)


def over_measurements(
    grids: Sequence[tuple[int, int]], n_simulated: int, n_signals: int, rounds: int
) -> Panel:
    """Measure the cost over the number of measurements, on all cores."""
    points = []
    for rows, columns in grids:
        size = rows * columns
        protocol = AcquisitionProtocol.from_grid(
            ti=np.geomspace(50, 2000, rows), te=np.geomspace(4.5, 150, columns)
        )

        def simulate(n: int, protocol: AcquisitionProtocol = protocol) -> Any:
            return make_correlation_signals(n, protocol=protocol, random_state=0)

        X, y = simulate(n_signals)
        points.append(
            Point("simulation", size, n_simulated, lambda simulate=simulate: simulate(n_simulated))
        )
        for backend in BACKENDS:
            cnn = network(backend, protocol=protocol)
            points.append(training(f"CNN, epoch, {backend}", size, cnn, X, y))
        mlp = ResidualMLPClassifier(
            max_epochs=1, batch_size=BATCH_SIZE, device="cpu", random_state=0, verbose=False,
            input_scaling="standardize", optimizer="adamw", precision="float32",
        )  # fmt: skip
        points.append(training("MLP, epoch", size, mlp, X, y))
        for name, model in (("CNN", cnn), ("MLP", mlp)):
            # the model is fitted by then, because the points of a round run in this order
            points.append(
                Point(
                    f"{name}, prediction", size, n_signals,
                    lambda model=model, X=X: model.predict_proba(X),
                )
            )  # fmt: skip
    return measured("measurements", points, rounds)


def over_threads(
    counts: Sequence[int], n_simulated: int, n_signals: int, n_searched: int, rounds: int
) -> Panel:
    """Measure the cost over the number of threads, or of workers of a grid search."""
    X, y = make_correlation_signals(n_signals, random_state=0)
    predictor = network().fit(X[:BATCH_SIZE], y[:BATCH_SIZE])
    trained_on = len(RATES) * n_searched * (FOLDS - 1)

    def limited(point: Point) -> Point:
        work, n_threads = point.work, point.x

        def in_threads() -> None:
            with limited_threads(n_threads):
                work()

        point.work = in_threads
        return point

    def search(n_jobs: int) -> None:
        with limited_threads(1), joblib.parallel_config("loky", inner_max_num_threads=1):
            GridSearchCV(
                network(BACKENDS[-1]),
                {"learning_rate": RATES},
                cv=FOLDS,
                n_jobs=n_jobs,
                refit=False,
            ).fit(X[:n_searched], y[:n_searched])

    def workers(n_jobs: int) -> None:
        """Start and warm up workers: imports and compilation of the first fit."""
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            joblib.Parallel(n_jobs)(joblib.delayed(small_fit)() for _ in range(2 * n_jobs))

    points = []
    for k in counts:
        points += [
            Point(
                "simulation", k, n_simulated,
                lambda k=k: make_correlation_signals(n_simulated, random_state=0, n_jobs=k),
            ),
            *(
                limited(training(f"CNN, epoch, {backend}", k, network(backend), X, y))
                for backend in BACKENDS
            ),
            limited(Point("CNN, prediction", k, n_signals, lambda: predictor.predict_proba(X))),
            Point(
                "CNN, grid search", k, trained_on, lambda k=k: search(k),
                prepare=lambda k=k: workers(k),
            ),
        ]  # fmt: skip
    panel = measured("threads", points, rounds)
    for rows in panel.values():
        for row in rows:
            row["times as fast as with the first"] = rounded(
                rows[0]["microseconds per signal"] / row["microseconds per signal"]
            )
    return panel


def small_fit() -> None:
    X, y = make_correlation_signals(100, random_state=0, n_jobs=1)
    network(BACKENDS[-1]).fit(X, y)
    time.sleep(0.5)  # so that each worker gets a task


def caches() -> dict[str, str]:
    """Sizes of the caches of the first core, if available."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with suppress(OSError):
            level, kind, size = (
                (folder / name).read_text(encoding="utf-8").strip()
                for name in ("level", "type", "size")
            )
            found[f"L{level} {kind.lower()}"] = size
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--draw", action="store_true", help="redraw the figure from the record, measure nothing"
    )
    if not parser.parse_args().draw:
        sizes = (10_000, 100_000, 1_000_000, 10_000_000)
        free = psutil.virtual_memory().available
        fitting = [n for n in sizes if MEMORY * n * BYTES <= free]
        cores = os.cpu_count() or 1
        counts = sorted({*(2**k for k in range(cores.bit_length())), cores})
        grids = ((4, 4), (6, 6), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32))
        record(
            "scaling",
            {
                "batch size": BATCH_SIZE,
                "caches": caches(),
                "left out for want of memory": [n for n in sizes if n not in fitting],
                "samples": over_samples(fitting, 1_000_000, 1_000_000, rounds=3),
                "measurements": over_measurements(grids, 131_072, 20_000, rounds=3),
                "threads": over_threads(counts, 524_288, 100_000, 30_000, rounds=3),
            },
        )
    with write_atomically(RESULTS / "scaling.png") as partial:
        draw(read_json(RESULTS / "scaling.json")).savefig(partial, dpi=150)


if __name__ == "__main__":
    main()
