"""Which compartments: count, T1, T2 and fractions on the data set t1t2-detr.

    python benchmarks/compartments.py --train FOLDER     two models of CompartmentRegressor
    python benchmarks/compartments.py --models FOLDER    the table, with these models

`--data midl2024-low-noise` takes the paper's data set, which has up to four compartments.

The metrics are those of the thesis t1t2-detr (TH Ingolstadt, 2026), by
`corrsk.evaluation.compartment_metrics`, on fresh signals (SNR uniform in 30..150), and the strict
accuracy at fixed SNRs. The fits and spectra are free of scale, and do not know M0; the network
"t1t2-detr" was trained on signals with M0 = 1, and knows it. Rows:

- constant: one compartment at the middle of the prior's ranges;
- fits of multi-exponentials (MultiExponentialClassifier with the prior's limits): with the count
  of BIC, of AICc, of the network "t1t2-detr", and with the true count (an upper limit of what a
  better count could bring to these fits);
- CompartmentRegressor, trained on 10 million signals of unknown scale, and on signals with M0 = 1
  (rows without a model are missing), with draws and with Laplace's approximation; the
  confidences are those of each compartment. The average precision is also that of the candidates
  of its posterior, up to six a voxel with their probabilities: the thesis counts all proposals of
  a voxel, not the compartments of one answer;
- NNLS peaks: maxima of regularised spectra on 32 x 32 bins, on fewer voxels, because it is slow;
- published: the thesis's figures, on its own test voxels.

Intervals are bootstraps over voxels; differences of strict accuracies to BIC are paired.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _measure import record
from sklearn.exceptions import ConvergenceWarning

from corrsk import CompartmentRegressor, load, load_pretrained, make_correlation_signals, save
from corrsk.evaluation import (
    bootstrap_difference,
    bootstrap_interval,
    compartment_metrics,
    compartments_right,
)
from corrsk.relaxometry import MultiExponentialClassifier, NNLSPeakClassifier
from corrsk.relaxometry._peaks import peak_masses
from corrsk.simulation.datasets import DATASETS
from corrsk.simulation.definition import DatasetDefinition
from corrsk.tissue.prior import resolve_prior

N_VOXELS = 30_000
N_LADDER = 5_000
N_PAPER, N_PAPER_LADDER = 10_000, 2_000  # fits of four compartments are slower
N_NNLS = 3_000
N_AT_ONCE = 1_000  # posteriors in memory
DATA, PAPER = "t1t2-detr", "midl2024-low-noise"
# SNRs of the thesis, and those of the paper's data set
LADDERS = {DATA: (20.0, 40.0, 60.0, 100.0, 150.0), PAPER: (1000.0, 500.0, 1000 / 3, 250.0, 200.0)}
SEED = 40_000
CANDIDATES, LAPLACE = ", candidates", ", laplace"
Limits = dict[str, tuple[float, float]]
# thesis: means of four seeds
PUBLISHED = {
    "t1t2-detr, reference": {
        "count_accuracy": 0.764, "strict_accuracy": 0.576, "strict_accuracy_1": 0.979,
        "strict_accuracy_2": 0.655, "strict_accuracy_3": 0.095, "average_precision": 0.664,
        "f1": 0.757, "T1_error": 0.0540, "T2_error": 0.0656, "f_error": 0.026,
        "T1_error_p90": 0.348,
    },
    "t1t2-detr, final": {
        "count_accuracy": 0.731, "strict_accuracy": 0.614, "strict_accuracy_1": 0.977,
        "strict_accuracy_2": 0.705, "strict_accuracy_3": 0.162,
        "strict_accuracy_with_fractions": 0.573, "average_precision": 0.764, "f1": 0.805,
        "T1_error": 0.0496, "T2_error": 0.0602, "f_error": 0.024, "T1_error_p90": 0.275,
        "strict accuracy by SNR": {
            "20": 0.376, "40": 0.511, "60": 0.588, "100": 0.649, "150": 0.671,
        },
    },
}  # fmt: skip


def signals(
    n: int, snr: float | None, seed: int, data: str = DATA
) -> tuple[Any, Any, pd.DataFrame]:
    definition = DATASETS[data]
    X, y, _, tissue = make_correlation_signals(
        n, prior=definition.prior, protocol=definition.protocol,
        noise_level=definition.noise_levels if snr is None else 1 / snr,
        noise_reference=definition.noise_reference, norm=None, random_state=seed,
        return_tissue=True,
    )  # fmt: skip
    return X, y, tissue


def constant(n: int, limits: Limits) -> pd.DataFrame:
    middle = {name: float(np.sqrt(low * high)) for name, (low, high) in limits.items()}
    return pd.DataFrame([{"T1_1": middle["T1"], "T2_1": middle["T2"], "f_1": 1.0}] * n)


def selected(tables: dict[int, pd.DataFrame], counts: Any) -> pd.DataFrame:
    """Rows of the fits with the given counts."""
    parts = [each.loc[counts == k] for k, each in tables.items()]
    return pd.concat(parts).sort_index()


def fitted(
    X: Any, y: Any, definition: DatasetDefinition, network: Any, seconds: dict[str, float]
) -> dict[str, Any]:
    """Tissue tables and confidences by row."""
    start = time.perf_counter()
    prior = resolve_prior(definition.prior)
    models = {
        criterion: MultiExponentialClassifier(
            definition.protocol, bounds=prior, criterion=criterion,
            counts=prior.n_compartments, random_state=0, verbose=False,
        ).fit(X, y)
        for criterion in ("bic", "aicc")
    }  # fmt: skip
    probabilities = {name: model.predict_proba(X) for name, model in models.items()}
    seconds["a fit with selection"] = (time.perf_counter() - start) / 2
    tables = {
        k: models["bic"].estimate_compartments(X, n_compartments=k) for k in prior.n_compartments
    }
    probabilities["network's count"] = network.predict_proba(X)
    found = {}
    for name, each in probabilities.items():
        counts = np.array(prior.n_compartments)[each.argmax(axis=1)]
        label = {"bic": "fits, BIC", "aicc": "fits, AICc"}.get(name, f"fits, {name}")
        found[label] = selected(tables, counts), each.max(axis=1)
    found["fits, true count"] = selected(tables, y), None
    return found


def definitions(data: str = DATA) -> dict[str, DatasetDefinition]:
    """Data sets of the two models by the names of their files."""
    known = DATASETS[data]
    return {"scale unknown": replace(known, norm="l2"), "M0 known": replace(known, norm=None)}


def train(folder: Path, data: str) -> None:
    for name, definition in definitions(data).items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            model = CompartmentRegressor.from_definition(
                definition, novelty=False, random_state=0, checkpoint=folder / f"{name}.checkpoint"
            )
            save(model.fit(), path)


def regressed(X: Any, folder: Path | None, seconds: dict[str, float]) -> dict[str, Any]:
    """Tissue tables of the models in a folder, of the answers and of all candidates."""
    found = {}
    for name in definitions():
        path = None if folder is None else folder / f"{name}.safetensors"
        if path is None or not path.exists():
            continue
        model = load(path).set_params(verbose=False)
        answers, candidates, seconds[name] = [], [], 0.0
        for at in range(0, len(X), N_AT_ONCE):
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of unreliable draws; see compartment_calibration
                posterior = model.posterior(X[at : at + N_AT_ONCE])
            answers.append(posterior.table())
            seconds[name] += time.perf_counter() - start
            candidates.append(posterior.candidates())
        for label, parts in (("", answers), (CANDIDATES, candidates)):
            table = pd.concat(parts, ignore_index=True)
            found[f"CompartmentRegressor, {name}{label}"] = table, None
        start, label = time.perf_counter(), f"{name}{LAPLACE}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of modes that were not found
            table = model.set_params(method="laplace").predict(X)
        found[f"CompartmentRegressor, {label}"] = table, None
        seconds[label] = time.perf_counter() - start
    return found


def peaks(X: Any, y: Any, definition: DatasetDefinition) -> tuple[pd.DataFrame, None]:
    """Maxima of spectra as compartments, up to as many of the largest as the prior has."""
    prior = resolve_prior(definition.prior)
    most = max(prior.n_compartments)
    model = NNLSPeakClassifier(
        definition.protocol, n_bins=32, bounds=prior, counts=prior.n_compartments
    ).fit(X, y)
    masses = peak_masses(model.spectra(X))
    masses = np.where(masses >= model.min_fraction * masses.sum(axis=1, keepdims=True), masses, 0)
    order = np.argsort(-masses, axis=1)[:, :most]
    mass = np.take_along_axis(masses, order, axis=1)
    shares = mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-30)
    rows, columns = np.unravel_index(order, (32, 32))
    values = {"T1": model.axes_["T1"][rows], "T2": model.axes_["T2"][columns], "f": shares}
    table = {f"{q}_{k + 1}": values[q][:, k] for q in values for k in range(most)}
    return pd.DataFrame(table), None


def judged(
    found: dict[str, Any], tissue: pd.DataFrame, limits: Limits, baseline: str | None
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    right = {name: compartments_right(table, tissue, limits) for name, (table, _) in found.items()}
    for name, (table, confidence) in found.items():
        if "confidence_1" in table:
            columns = [name for name in table if str(name).startswith("confidence_")]
            confidence = table[columns].fillna(0.0).to_numpy()
        metrics = compartment_metrics(table, tissue, limits, confidence=confidence)
        only = ("average_precision",) if name.endswith(CANDIDATES) else metrics  # no answers
        row: dict[str, Any] = {key: round(metrics[key], 4) for key in only}
        for tolerance in (0.05, 0.10):
            found_at = compartment_metrics(
                table, tissue, limits, confidence=confidence, tolerance=tolerance
            )
            row[f"average_precision at {tolerance}"] = round(found_at["average_precision"], 4)
        rows[name] = row
        if name.endswith(CANDIDATES):
            continue
        row["strict accuracy, interval"] = [round(v, 4) for v in bootstrap_interval([right[name]])]
        if baseline is not None and name != baseline:
            difference = bootstrap_difference([(right[name], right[baseline])])
            row[f"strict accuracy less that of {baseline}"] = [round(v, 4) for v in difference]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, metavar="FOLDER")
    parser.add_argument("--models", type=Path, metavar="FOLDER")
    parser.add_argument("--data", choices=list(LADDERS), default=DATA)
    given = parser.parse_args()
    if given.train is not None:
        train(given.train, given.data)
        return
    # fits of one compartment to signals of three do not explain them, and end at bounds
    warnings.simplefilter("ignore", ConvergenceWarning)
    definition, network = DATASETS[given.data], load_pretrained(given.data)
    ranges = resolve_prior(definition.prior).ranges
    limits = {name: (each.low, each.high) for name, each in ranges.items()}
    n_voxels, n_ladder = (N_VOXELS, N_LADDER) if given.data == DATA else (N_PAPER, N_PAPER_LADDER)
    X, y, tissue = signals(n_voxels, None, SEED, given.data)
    seconds: dict[str, float] = {}
    found = {"constant": (constant(n_voxels, limits), None)}
    found |= fitted(X, y, definition, network, seconds) | regressed(X, given.models, seconds)
    rows = judged(found, tissue, limits, "fits, BIC")
    few = {"NNLS": peaks(X[:N_NNLS], y[:N_NNLS], definition)}
    rows["NNLS peaks, some voxels"] = judged(few, tissue[:N_NNLS], limits, None)["NNLS"]
    ladder: dict[str, dict[str, float]] = {}
    for number, snr in enumerate(LADDERS[given.data], start=1):
        X, y, tissue = signals(n_ladder, snr, SEED + number, given.data)
        tables = fitted(X, y, definition, network, {}) | regressed(X, given.models, {})
        for name, (table, _) in tables.items():
            if name.endswith(CANDIDATES):
                continue
            strict = compartments_right(table, tissue, limits).mean()
            ladder.setdefault(name, {})[f"{snr:.0f}"] = round(float(strict), 4)
    published = {"published": PUBLISHED} if given.data == DATA else {}
    record(
        "compartments" if given.data == DATA else "compartments_of_the_paper",
        {
            "data": given.data,
            "n_voxels": n_voxels,
            "n_voxels of NNLS": N_NNLS,
            "n_voxels of each SNR": n_ladder,
            "voxels per second, fits with selection": round(
                n_voxels / seconds["a fit with selection"]
            ),
            "voxels per second, CompartmentRegressor": {
                name: round(n_voxels / each)
                for name, each in seconds.items()
                if name.removesuffix(LAPLACE) in definitions()
            },
            "rows": rows,
            "strict accuracy by SNR": ladder,
        } | published,
    )  # fmt: skip


if __name__ == "__main__":
    main()
