"""Reliability of the classifiers: calibration, abstention, and novelty detection.

For each data set, on fresh signals that are in no training data:

- calibration errors, over all signals and at each noise level, and reliability diagrams;
- accuracy over coverage, and the thresholds for accuracies of 70, 80 and 90 %
  (chosen on one half of the signals, tested on the other);
- false alarms of a `SignalNoveltyDetector` fitted to the data set, and its detection rates for
  signals with one kind of corruption each: wrong protocols, noise, artefacts.

The models are those of `corrsk.load_pretrained` for the very signals of each data set, so
that "t1t2-detr", whose signals have M0 = 1, is judged with "t1t2-detr-m0". `--quick` trains a
CNN for a few epochs instead and records nothing. Writes results/trust.json, and figures and tables
to results/trust/.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _measure import RESULTS, record
from matplotlib.figure import Figure
from numpy.typing import NDArray

from corrsk import AcquisitionProtocol, CorrelationCNNClassifier, make_correlation_signals
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.evaluation import (
    AccuracyCoverageDisplay,
    ReliabilityDisplay,
    abstain,
    area_under_risk_coverage,
    calibration_by_noise_level,
    expected_calibration_error,
    threshold_for_accuracy,
)
from corrsk.novelty.detector import SignalNoveltyDetector
from corrsk.simulation.datasets import DatasetDefinition, dataset_definition

NAMES = ("midl2024", "midl2024-low-noise", "t1t2-detr")
CHUNK = 100_000
# independent random streams without common signals
FRESH_SEED, DETECTOR_SEED, CASES_SEED, TRAINING_SEED = 7_000, 8_000, 9_000, 6_000


def simulate(definition: DatasetDefinition, n: int, seed: int, **changes: Any) -> Any:
    """Simulate signals, counts and noise levels of a data set with changed settings."""
    settings = {
        "prior": definition.prior, "protocol": definition.protocol,
        "noise_level": definition.noise_levels, "noise_reference": definition.noise_reference,
        "norm": definition.norm,
    } | changes  # fmt: skip
    return make_correlation_signals(
        n, **settings, random_state=seed, return_tissue=True, verbose=False
    )[:3]


def quick_model(name: str) -> Any:
    X, y, _ = simulate(dataset_definition(name), 100_000, TRAINING_SEED)
    return CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=8, random_state=0, verbose=False
    ).fit(X, y)


def pretrained_model(name: str) -> Any:
    from corrsk import load_pretrained
    from corrsk.pretrained.models import model_of_dataset

    return load_pretrained(model_of_dataset(name))


def fresh(
    name: str, n: int, work: Callable[[Any], Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Counts, noise levels and ``work(signals)`` of n fresh signals, chunk by chunk."""
    parts = []
    for number, start in enumerate(range(0, n, CHUNK)):
        X, y, level = simulate(dataset_definition(name), min(CHUNK, n - start), FRESH_SEED + number)
        parts.append((y, level, work(X)))
    y, level, answers = (np.concatenate(column) for column in zip(*parts, strict=True))
    return y, level, answers


def thresholds(y: Any, probabilities: Any, classes: Any) -> dict[str, Any]:
    """Choose thresholds on every other signal, and test the thresholds on the rest."""
    found: dict[str, Any] = {}
    for wanted in (0.7, 0.8, 0.9):
        try:
            threshold = threshold_for_accuracy(y[::2], probabilities[::2], wanted, classes)
        except ValueError as error:
            found[f"{wanted:.0%}"] = str(error)
            continue
        labels = abstain(probabilities[1::2], classes, threshold)
        answered = labels != 0
        found[f"{wanted:.0%}"] = {
            "threshold": threshold,
            "coverage": round(float(answered.mean()), 4),
            "accuracy": round(float((labels == y[1::2])[answered].mean()), 4),
        }
    return found


def cases(name: str, n: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield signals with one kind of corruption each, before the normalisation."""
    definition = dataset_definition(name)
    protocol = resolve_protocol(definition.protocol)
    ti, te = np.unique(protocol.ti), np.unique(protocol.te)
    levels = definition.noise_levels
    low, high = (min(levels), max(levels)) if isinstance(levels, tuple) else (1 / 150, 1 / 30)

    def drawn(ti: Any = ti, te: Any = te, tr: Any = protocol.tr, **changes: Any) -> Any:
        other = AcquisitionProtocol.from_grid(ti, te, tr=tr)
        return simulate(definition, n, CASES_SEED, **{"protocol": other, "norm": None} | changes)[0]

    def longer(times: Any, which: slice) -> Any:
        times = times.copy()
        times[which] *= 1.5
        return times

    X = drawn()
    largest = np.abs(X).max(axis=1)
    rng = np.random.default_rng(CASES_SEED)
    rows, one = np.arange(n), rng.integers(0, X.shape[1], n)
    sign = rng.choice([-1, 1], n)

    yield "none (false alarms)", X
    yield "TI x 1.5, long half", drawn(ti=longer(ti, slice(4, None)))
    yield "TI x 1.5, short half", drawn(ti=longer(ti, slice(4)))
    yield "TI evenly spaced", drawn(ti=np.linspace(ti[0], ti[-1], ti.size))
    yield "TI x 1.5, all", drawn(ti=1.5 * ti)
    yield "TE x 1.5, long half", drawn(te=longer(te, slice(4, None)))
    yield "TE evenly spaced", drawn(te=np.linspace(te[0], te[-1], te.size))
    yield "TE + 10 ms", drawn(te=te + 10)
    yield "TR 20 s", drawn(tr=20_000.0)
    yield "TR 3 s", drawn(tr=3_000.0)
    yield "inversion efficiency 0.9", drawn(inversion_efficiency=0.9)
    yield "columns shuffled", X[:, rng.permutation(X.shape[1])]
    yield "noise 3 x the highest", drawn(noise_level=3 * high)
    yield "noise 2 x the highest", drawn(noise_level=2 * high)
    yield "noise 1/3 of the lowest", drawn(noise_level=low / 3)
    yield "no noise", drawn(noise_level=0.0)
    for height in (0.3, 0.1):
        spiked = X.copy()
        spiked[rows, one] += (height * sign * largest).astype(X.dtype)
        yield f"spike of {height:.0%} of the maximum", spiked
    dead = X.copy()
    dead[rows, one] = 0
    yield "a dead measurement", dead
    dead = X.reshape(n, ti.size, te.size).copy()
    dead[rows, rng.integers(0, ti.size, n)] = 0
    yield "a dead TI", dead.reshape(X.shape)
    yield "magnitude (Rician) data", drawn(noise_distribution="rician")
    moved = X.copy()
    moved[:, X.shape[1] // 2 :] *= (1 + 0.2 * sign[:, None]).astype(X.dtype)
    yield "long TI scaled by 0.8 or 1.2", moved
    moved = X.copy()
    moved[rng.random(X.shape) < 0.25] *= 0.8
    yield "a quarter of all scaled by 0.8", moved
    yield "every other scaled by 0.9", X * np.where(rows[: X.shape[1]] % 2, 1, 0.9).astype(X.dtype)
    yield "sign flipped", -X
    yield "noise alone", rng.normal(size=X.shape).astype(X.dtype)
    yield "background (zero)", np.zeros_like(X)


def judged_detector(name: str, n_fit: int, n_fresh: int, n_cases: int) -> dict[str, Any]:
    """Measure false alarms and detection rates of a detector fitted to the data set."""
    X, *_ = simulate(dataset_definition(name), n_fit, DETECTOR_SEED)
    start = time.perf_counter()
    detector = SignalNoveltyDetector(random_state=0, verbose=False).fit(X)
    fit_seconds = time.perf_counter() - start
    X = X[:CHUNK]
    start = time.perf_counter()
    detector.predict(X)
    speed = len(X) / (time.perf_counter() - start)
    y, level, flagged = fresh(name, n_fresh, lambda X: detector.predict(X) == -1)
    groups = level if np.unique(level).size < 20 else pd.qcut(level, 5)
    alarms = pd.Series(flagged)
    table = {}
    for case, signals in cases(name, n_cases):
        found = detector.explain(signals)
        odd = found["reason"] != "explained"
        reasons = found["reason"][odd].value_counts(normalize=True)
        table[case] = {
            "flagged": round(float(odd.mean()), 4),
            "main reason": f"{reasons.index[0]} ({reasons.iloc[0]:.0%})" if len(reasons) else "",
        }
    return {
        "fitted on": n_fit,
        "fit (s)": round(fit_seconds, 1),
        "signals per second": round(speed),
        "kB": round(sum(v.nbytes for v in vars(detector).values() if hasattr(v, "nbytes")) / 1e3),
        "false alarms": {
            "nominal": detector.false_alarm_rate,
            "signals": n_fresh,
            "all": round(float(flagged.mean()), 5),
            "by noise level": {
                str(key): round(value, 4)
                for key, value in alarms.groupby(groups, observed=True).mean().items()
            },
            "by n_c": {
                str(key): round(value, 4) for key, value in alarms.groupby(y).mean().items()
            },
        },
        "cases": table,
    }


def judged_model(name: str, model: Any, n: int, folder: Path) -> dict[str, Any]:
    """Measure calibration and selective accuracy of a model, and write the figures."""
    classes = model.classes_
    y, level, probabilities = fresh(name, n, model.predict_proba)
    judged = {"y": y, "probabilities": probabilities, "classes": classes}
    shown = judged | {"noise_level": level, "dataset": name}
    figure = Figure((11, 5.2), layout="constrained")
    for ax, task in zip(figure.subplots(1, 2), ("count", "multicompartment"), strict=True):
        ReliabilityDisplay.from_predictions(**shown, task=task, ax=ax)
    figure.savefig(folder / f"{name}-reliability.png", dpi=120)
    coverage = AccuracyCoverageDisplay.from_predictions(**shown)
    coverage.figure_.savefig(folder / f"{name}-coverage.png", dpi=120)
    by_level = calibration_by_noise_level(**judged, noise_level=level)
    return {
        "signals": n,
        "accuracy": round(float((classes[probabilities.argmax(axis=1)] == y).mean()), 4),
        "calibration error": round(expected_calibration_error(**judged), 5),
        "binary calibration error": round(
            expected_calibration_error(**judged, task="multicompartment"), 5
        ),
        "by noise level": by_level.round(5).reset_index().to_dict(orient="records"),
        "area under risk over coverage": round(area_under_risk_coverage(**judged), 4),
        "thresholds": thresholds(y, probabilities, classes),
    }


def markdown(results: dict[str, Any]) -> str:
    """Format the results as tables."""
    flagged = pd.DataFrame(
        {
            name: {
                case: f"{row['flagged']:.1%}" for case, row in found["detector"]["cases"].items()
            }
            for name, found in results.items()
        }
    ).rename_axis("flagged of")
    text = ["# Trust", "", flagged.to_markdown(), ""]
    for name, found in results.items():
        if "model" in found:
            levels = pd.DataFrame(found["model"]["by noise level"]).set_index("noise_level")
            error = found["model"]["calibration error"]
            chosen = json.dumps(found["model"]["thresholds"], indent=1)
            text += [f"## {name}", "", f"Calibration error {error:.4f}.", "", levels.to_markdown()]
            text += ["", "```", chosen, "```", ""]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", default=list(NAMES), help="data sets")
    parser.add_argument("--n-signals", type=int, default=1_000_000, help="fresh signals")
    parser.add_argument("--n-fit", type=int, default=400_000, help="signals for the detector")
    parser.add_argument("--n-cases", type=int, default=10_000, help="signals of each corruption")
    parser.add_argument("--folder", type=Path, default=RESULTS / "trust", help="for the figures")
    parser.add_argument("--detector-only", action="store_true", help="skip the models")
    parser.add_argument("--quick", action="store_true", help="small models, nothing recorded")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name in arguments.names:
        results[name] = {}
        if not arguments.detector_only:
            model = (quick_model if arguments.quick else pretrained_model)(name)
            results[name]["model"] = judged_model(
                name, model, arguments.n_signals, arguments.folder
            )
        results[name]["detector"] = judged_detector(
            name, arguments.n_fit, arguments.n_signals, arguments.n_cases
        )
    (arguments.folder / "README.md").write_text(markdown(results), encoding="utf-8")
    if arguments.quick:
        print(json.dumps(results, indent=1))
    else:
        record("trust", results)


if __name__ == "__main__":
    main()
