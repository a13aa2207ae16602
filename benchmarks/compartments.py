"""Which compartments: count, T1, T2 and fractions on the data set t1t2-detr.

    python benchmarks/compartments.py --train FOLDER     two models of CompartmentRegressor
    python benchmarks/compartments.py --models FOLDER    the table, with these models

The metrics are those of the thesis t1t2-detr (TH Ingolstadt, 2026), by
`corrsk.evaluation.compartment_metrics`, on fresh signals (SNR uniform in 30..150), and the strict
accuracy at fixed SNRs. The fits and spectra are free of scale, and do not know M0; the network
"t1t2-detr" was trained on signals with M0 = 1, and knows it. Rows:

- constant: one compartment at the middle of the prior's ranges;
- fits of multi-exponentials (MultiExponentialClassifier with the prior's limits): with the count
  of BIC, of AICc, of the network "t1t2-detr", and with the true count (an upper limit of what a
  better count could bring to these fits);
- CompartmentRegressor, trained on 10 million signals of unknown scale, and on signals with M0 = 1
  (without models these rows are missing); the confidences are those of each compartment. The
  average precision is also that of the candidates of its posterior, up to six a voxel with their
  probabilities: the thesis counts all proposals of a voxel, not the compartments of one answer;
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
from corrsk.tissue.prior import resolve_prior

N_VOXELS = 30_000
N_LADDER = 5_000
N_NNLS = 3_000
N_AT_ONCE = 1_000  # posteriors in memory
LADDER = (20.0, 40.0, 60.0, 100.0, 150.0)
COUNTS = (1, 2, 3)
LIMITS = {"T1": (50.0, 3500.0), "T2": (5.0, 500.0)}
SEED = 40_000
CANDIDATES = ", candidates"
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


def signals(n: int, snr: float | None, seed: int) -> tuple[Any, Any, pd.DataFrame]:
    definition = DATASETS["t1t2-detr"]
    X, y, _, tissue = make_correlation_signals(
        n, prior=definition.prior, protocol=definition.protocol,
        noise_level=definition.noise_levels if snr is None else 1 / snr,
        noise_reference=definition.noise_reference, norm=definition.norm, random_state=seed,
        return_tissue=True,
    )  # fmt: skip
    return X, y, tissue


def constant(n: int) -> pd.DataFrame:
    middle = {name: float(np.sqrt(low * high)) for name, (low, high) in LIMITS.items()}
    return pd.DataFrame([{"T1_1": middle["T1"], "T2_1": middle["T2"], "f_1": 1.0}] * n)


def selected(tables: dict[int, pd.DataFrame], counts: Any) -> pd.DataFrame:
    """Rows of the fits with the given counts."""
    parts = [tables[k].loc[counts == k] for k in COUNTS]
    return pd.concat(parts).sort_index()


def fitted(X: Any, y: Any, network: Any, seconds: dict[str, float]) -> dict[str, Any]:
    """Tissue tables and confidences by row."""
    definition = DATASETS["t1t2-detr"]
    start = time.perf_counter()
    models = {
        criterion: MultiExponentialClassifier(
            definition.protocol, bounds=resolve_prior(definition.prior), criterion=criterion,
            counts=COUNTS, random_state=0, verbose=False,
        ).fit(X, y)
        for criterion in ("bic", "aicc")
    }  # fmt: skip
    probabilities = {name: model.predict_proba(X) for name, model in models.items()}
    seconds["a fit with selection"] = (time.perf_counter() - start) / 2
    tables = {k: models["bic"].estimate_compartments(X, n_compartments=k) for k in COUNTS}
    probabilities["network's count"] = network.predict_proba(X)
    found = {}
    for name, each in probabilities.items():
        counts = np.array(COUNTS)[each.argmax(axis=1)]
        label = {"bic": "fits, BIC", "aicc": "fits, AICc"}.get(name, f"fits, {name}")
        found[label] = selected(tables, counts), each.max(axis=1)
    found["fits, true count"] = selected(tables, y), None
    return found


def definitions() -> dict[str, Any]:
    """Data sets of the two models by the names of their files."""
    known = DATASETS["t1t2-detr"]
    return {"scale unknown": replace(known, norm="l2"), "M0 known": replace(known, norm=None)}


def train(folder: Path) -> None:
    for name, definition in definitions().items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            model = CompartmentRegressor.from_definition(
                definition, novelty=False, random_state=0, checkpoint=folder / f"{name}.checkpoint"
            )
            save(model.fit(), path)


def regressed(X: Any, folder: Path | None, seconds: dict[str, float]) -> dict[str, Any]:
    """Tissue tables of the models in a folder, of the answers and of all candidates."""
    found = {}
    for name in definitions() if folder is not None else ():
        assert folder is not None
        model = load(folder / f"{name}.safetensors").set_params(verbose=False)
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
    return found


def peaks(X: Any, y: Any) -> tuple[pd.DataFrame, None]:
    """Maxima of spectra as compartments, up to the three largest."""
    definition = DATASETS["t1t2-detr"]
    model = NNLSPeakClassifier(
        definition.protocol, n_bins=32, bounds=resolve_prior(definition.prior), counts=COUNTS
    ).fit(X, y)
    masses = peak_masses(model.spectra(X))
    masses = np.where(masses >= model.min_fraction * masses.sum(axis=1, keepdims=True), masses, 0)
    order = np.argsort(-masses, axis=1)[:, : max(COUNTS)]
    mass = np.take_along_axis(masses, order, axis=1)
    shares = mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-30)
    rows, columns = np.unravel_index(order, (32, 32))
    values = {"T1": model.axes_["T1"][rows], "T2": model.axes_["T2"][columns], "f": shares}
    table = {f"{q}_{k + 1}": values[q][:, k] for q in values for k in range(max(COUNTS))}
    return pd.DataFrame(table), None


def judged(
    found: dict[str, Any], tissue: pd.DataFrame, baseline: str | None
) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    right = {name: compartments_right(table, tissue, LIMITS) for name, (table, _) in found.items()}
    for name, (table, confidence) in found.items():
        if "confidence_1" in table:
            columns = [name for name in table if str(name).startswith("confidence_")]
            confidence = table[columns].fillna(0.0).to_numpy()
        metrics = compartment_metrics(table, tissue, LIMITS, confidence=confidence)
        only = ("average_precision",) if name.endswith(CANDIDATES) else metrics  # no answers
        row: dict[str, Any] = {key: round(metrics[key], 4) for key in only}
        for tolerance in (0.05, 0.10):
            found_at = compartment_metrics(
                table, tissue, LIMITS, confidence=confidence, tolerance=tolerance
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
    given = parser.parse_args()
    if given.train is not None:
        train(given.train)
        return
    # fits of one compartment to signals of three do not explain them, and end at bounds
    warnings.simplefilter("ignore", ConvergenceWarning)
    network = load_pretrained("t1t2-detr")
    X, y, tissue = signals(N_VOXELS, None, SEED)
    seconds: dict[str, float] = {}
    found = {"constant": (constant(N_VOXELS), None)} | fitted(X, y, network, seconds)
    found |= regressed(X, given.models, seconds)
    rows = judged(found, tissue, "fits, BIC")
    few = X[:N_NNLS], y[:N_NNLS]
    rows["NNLS peaks, some voxels"] = judged({"NNLS": peaks(*few)}, tissue[:N_NNLS], None)["NNLS"]
    ladder: dict[str, dict[str, float]] = {}
    for number, snr in enumerate(LADDER, start=1):
        X, y, tissue = signals(N_LADDER, snr, SEED + number)
        tables = fitted(X, y, network, {}) | regressed(X, given.models, {})
        for name, (table, _) in tables.items():
            if name.endswith(CANDIDATES):
                continue
            strict = compartments_right(table, tissue, LIMITS).mean()
            ladder.setdefault(name, {})[f"{snr:g}"] = round(float(strict), 4)
    record(
        "compartments",
        {
            "n_voxels": N_VOXELS,
            "n_voxels of NNLS": N_NNLS,
            "n_voxels of each SNR": N_LADDER,
            "voxels per second, fits with selection": round(
                N_VOXELS / seconds["a fit with selection"]
            ),
            "voxels per second, CompartmentRegressor": {
                name: round(N_VOXELS / seconds[name]) for name in definitions() if name in seconds
            },
            "rows": rows,
            "strict accuracy by SNR": ladder,
            "published": PUBLISHED,
        },
    )


if __name__ == "__main__":
    main()
