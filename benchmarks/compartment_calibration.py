"""Honesty of the posterior of CompartmentRegressor on the data set t1t2-detr, scale unknown.

    python benchmarks/compartment_calibration.py --model "FOLDER/scale unknown.safetensors"

The model is that of `python benchmarks/compartments.py --train FOLDER`. On fresh voxels: the share
of true values inside of central 90 % intervals, by property, true count and SNR, from the draws of
the true count; ranks of the truth among draws (simulation-based calibration: Talts et al.,
arXiv:1804.06788), with the p-value of a Kolmogorov-Smirnov test; and the mean probability of the
predicted counts beside their accuracy.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import record
from scipy.stats import kstest

from corrsk import SignalStream, load
from corrsk.simulation.datasets import DATASETS
from corrsk.trained.posterior import CompartmentPosterior

N_VOXELS, N_RANKED, SEED = 6000, 63, 77
GROUPS = {"all": (0.0, np.inf), "SNR 30..60": (30.0, 60.0), "SNR 120..150": (120.0, 150.0)}
QUANTITIES = ("T1", "T2", "f")


def sorted_truth(table: Any, counts: Any, K: int) -> np.ndarray:
    """True values (V, 3, K) of the voxels of a count, with compartments in the order of T2."""
    own = table[counts == K]
    values = [own[[f"{q}_{k + 1}" for k in range(K)]].to_numpy() for q in QUANTITIES]
    order = np.argsort(values[1], axis=1)
    return np.stack([np.take_along_axis(each, order, axis=1) for each in values], axis=1)


def coverages(posterior: CompartmentPosterior, table: Any, counts: Any, snr: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for index, K in enumerate(posterior.counts):
        chosen = np.full(len(counts), index)
        low, high = (posterior._quantiles(chosen, level)[index] for level in (0.05, 0.95))
        here = counts == K
        truth = sorted_truth(table, counts, K)
        inside = (low[here] <= truth) & (truth <= high[here])
        for name, (least, most) in GROUPS.items():
            part = (snr[here] >= least) & (snr[here] <= most)
            found[f"{K}, {name}"] = {"n": int(part.sum())} | {
                q: round(float(inside[part, p].mean()), 3)
                for p, q in enumerate(QUANTITIES)
                if K > 1 or q != "f"
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    model = load(parser.parse_args().model).set_params(verbose=False)
    stream = SignalStream.from_definition(replace(DATASETS["t1t2-detr"], norm="l2"), SEED)
    X, rows = stream.draw_rows(0, N_VOXELS)
    table, counts = rows.table, rows.n_c
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unreliable posteriors, whose share is in the record
        posterior = model.posterior(X)
    draws = posterior.samples(N_RANKED, 0)
    first = {q: np.empty(N_VOXELS) for q in ("T1", "T2")}
    for K in posterior.counts:
        truth = sorted_truth(table, counts, K)
        first["T1"][counts == K], first["T2"][counts == K] = truth[:, 0, 0], truth[:, 1, 0]
    jitter = np.random.default_rng(0).random(N_VOXELS)
    p_values = {}
    for q, values in first.items():
        cells = draws[f"{q}_1"].to_numpy().reshape(N_VOXELS, N_RANKED)
        rank = (cells < values[:, None]).sum(axis=1) + jitter
        p_values[f"{q} of the first compartment"] = round(
            float(kstest(rank / (N_RANKED + 1), "uniform").pvalue), 4
        )
    probabilities = posterior.probabilities
    own = probabilities[np.arange(N_VOXELS), np.searchsorted(posterior.counts, counts)]
    record(
        "compartment_calibration",
        {
            "n_voxels": N_VOXELS,
            "coverage of 90 % intervals": coverages(
                posterior, table, counts, 1 / rows.noise_levels
            ),
            "p-values of uniform ranks": p_values,
            "counts": {
                "mean probability": round(float(probabilities.max(axis=1).mean()), 4),
                "accuracy": round(float((np.asarray(posterior.counts)[
                    probabilities.argmax(axis=1)] == counts).mean()), 4),
                "log loss": round(float(-np.log(np.maximum(own, 1e-12)).mean()), 4),
            },
            "share of reliable voxels": round(float(posterior.reliable.mean()), 4),
            "share of degenerate voxels": round(float(posterior.degenerate.mean()), 4),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
