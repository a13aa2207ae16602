"""Honesty of the posterior of CompartmentRegressor on the data set t1t2-detr, scale unknown.

    python benchmarks/compartment_calibration.py --model "FOLDER/scale unknown.safetensors"

The model is that of `python benchmarks/compartments.py --train FOLDER`. On fresh voxels, from the
draws of the true count:

- the share of true values inside of central 90 % intervals, by property, true count and SNR;
- ranks of the truth among draws (simulation-based calibration: Talts et al., arXiv:1804.06788), of
  each property and compartment, with the p-values of Kolmogorov-Smirnov tests, and the smallest one
  after Holm's correction for their number;
- the expected coverage of balls around random points (TARP: Lemos et al., ICML 2023), and its
  largest difference from the level;

and the mean probability of the predicted counts beside their accuracy.
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

N_VOXELS, CHUNK, N_RANKED, SEED = 50_000, 1000, 63, 77
GROUPS = {"all": (0.0, np.inf), "SNR 30..60": (30.0, 60.0), "SNR 120..150": (120.0, 150.0)}
QUANTITIES = ("T1", "T2", "f")


def sorted_truth(table: Any, counts: Any, K: int) -> np.ndarray:
    """True values (V, 3, K) of the voxels of a count, with compartments in the order of T2."""
    own = table[counts == K]
    values = [own[[f"{q}_{k + 1}" for k in range(K)]].to_numpy() for q in QUANTITIES]
    order = np.argsort(values[1], axis=1)
    return np.stack([np.take_along_axis(each, order, axis=1) for each in values], axis=1)


def of_truth(
    posterior: CompartmentPosterior, table: Any, counts: Any, rng: np.random.Generator
) -> dict[int, dict[str, np.ndarray]]:
    """Of the voxels of each count: inside of intervals, ranks (V, 3, K), TARP's levels (V,)."""
    found = {}
    for index, K in enumerate(posterior.counts):
        here = np.flatnonzero(counts == K)
        chosen = np.full(len(counts), index)
        low, high = (posterior._quantiles(chosen, level)[index][here] for level in (0.05, 0.95))
        truth = sorted_truth(table, counts, K)
        draws = posterior.draws[index].take(here)
        every = np.stack([*(draws.values[q] for q in QUANTITIES[:-1]), draws.fractions], axis=2)
        # systematic resampling
        points = (np.arange(N_RANKED) + rng.random((len(here), 1))) / N_RANKED
        cumulative = np.cumsum(draws.weights, axis=1)
        at = np.stack([np.searchsorted(*each) for each in zip(cumulative, points, strict=True)])
        at = np.minimum(at, every.shape[1] - 1)
        ranked = np.take_along_axis(every, at[:, :, None, None], axis=1)
        rank = (ranked < truth[:, None]).sum(axis=1) + rng.random(truth.shape)
        scale = [np.log(high / low) for low, high in posterior.ranges.values()]

        def distance(points: np.ndarray, reference: np.ndarray, scale: list[float] = scale) -> Any:
            away = np.concatenate(
                [
                    np.log(points[..., :2, :] / reference[..., :2, :]) / np.c_[scale],
                    points[..., 2:, :] - reference[..., 2:, :],
                ],
                axis=-2,
            )
            return (away**2).sum(axis=(-2, -1))

        logs = rng.random((len(here), 2, K))
        reference = np.concatenate(
            [
                np.stack([lo * (hi / lo) ** logs[:, p]
                          for p, (lo, hi) in enumerate(posterior.ranges.values())], axis=1),
                rng.dirichlet(np.ones(K), (len(here), 1)),
            ],
            axis=1,
        )  # fmt: skip
        nearer = distance(every, reference[:, None]) < distance(truth, reference)[:, None]
        found[K] = {
            "inside": (low <= truth) & (truth <= high), "ranks": rank / (N_RANKED + 1),
            "tarp": (draws.weights * nearer).sum(axis=1),
        }  # fmt: skip
    return found


def coverages(inside: np.ndarray, snr: np.ndarray, K: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (least, most) in GROUPS.items():
        part = (snr >= least) & (snr <= most)
        found[f"{K}, {name}"] = {"n": int(part.sum())} | {
            q: round(float(inside[part, p].mean()), 4)
            for p, q in enumerate(QUANTITIES)
            if K > 1 or q != "f"
        }
    return found


def uniform_ranks(ranks: dict[int, np.ndarray]) -> dict[str, float]:
    """P-values of each property and compartment; the fractions of two are one."""
    return {
        f"{q}_{k + 1} of {K}": float(kstest(each[:, p, k], "uniform").pvalue)
        for K, each in ranks.items()
        for p, q in enumerate(QUANTITIES)
        for k in range(K)
        if q != "f" or k + 1 < K
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--voxels", type=int, default=N_VOXELS)
    given = parser.parse_args()
    model = load(given.model).set_params(verbose=False)
    stream = SignalStream.from_definition(replace(DATASETS["t1t2-detr"], norm="l2"), SEED)
    X, rows = stream.draw_rows(0, given.voxels)
    rng = np.random.default_rng(0)
    parts, probabilities, reliable, degenerate = [], [], [], []
    for start in range(0, given.voxels, CHUNK):
        part = slice(start, start + CHUNK)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unreliable posteriors, whose share is recorded
            posterior = model.posterior(X[part])
        parts.append(of_truth(posterior, rows.table.iloc[part], rows.n_c[part], rng))
        probabilities.append(posterior.probabilities)
        reliable.append(posterior.reliable)
        degenerate.append(posterior.degenerate)
    counts, classes = rows.n_c, np.asarray(model.classes_)
    joined = {
        K: {name: np.concatenate([part[K][name] for part in parts]) for name in parts[0][K]}
        for K in model.classes_.tolist()
    }
    p_values = uniform_ranks({K: each["ranks"] for K, each in joined.items()})
    levels = np.sort(np.concatenate([each["tarp"] for each in joined.values()]))
    found = np.concatenate(probabilities)
    own = found[np.arange(len(counts)), np.searchsorted(classes, counts)]
    record(
        "compartment_calibration",
        {
            "n_voxels": given.voxels,
            "coverage of 90 % intervals": {
                name: row
                for K, each in joined.items()
                for name, row in coverages(
                    each["inside"], 1 / rows.noise_levels[counts == K], K
                ).items()
            },
            "p-values of uniform ranks": {name: round(p, 5) for name, p in p_values.items()},
            "smallest p-value, Holm": round(min(1.0, min(p_values.values()) * len(p_values)), 5),
            "largest difference of a distribution of ranks": round(
                max(
                    float(kstest(each["ranks"][:, p, k], "uniform").statistic)
                    for K, each in joined.items() for p in range(3) for k in range(K)
                    if p < 2 or k + 1 < K
                ), 4,
            ),
            "TARP, largest difference": round(
                float(kstest(levels, "uniform").statistic), 4
            ),
            "counts": {
                "mean probability": round(float(found.max(axis=1).mean()), 4),
                "accuracy": round(float((classes[found.argmax(axis=1)] == counts).mean()), 4),
                "log loss": round(float(-np.log(np.maximum(own, 1e-12)).mean()), 4),
            },
            "share of reliable voxels": round(float(np.concatenate(reliable).mean()), 4),
            "share of degenerate voxels": round(float(np.concatenate(degenerate).mean()), 4),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
