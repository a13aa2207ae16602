"""Ceilings of compartments on the data set t1t2-detr, and the regressor's posterior beside others.

    python benchmarks/compartment_ceiling.py --models FOLDER

The models are those of `python benchmarks/compartments.py --train FOLDER`. On fresh voxels the
posterior of many draws, whose decision has the largest probability of the right compartments:
the strict accuracy and the count accuracy that no method exceeds on average, up to the remaining
error of the draws. Beside it the regressor with its own number of draws, on the same voxels.

On some voxels, draws of the ideal observer (sequential Monte Carlo from the prior, without a
network) beside those of both: the accuracy of a random forest that tells the draws of the most
probable count apart (0.5 for equal ones; copies of a draw are in the same fold), the
Wasserstein distance of the marginal distributions in standard deviations, and the log score of
the count. The distance of two halves of the observer's draws is that of its own noise.

Chunks of voxels are stored in a folder; a run that was interrupted goes on with the next chunk.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _measure import record
from scipy.special import logsumexp
from scipy.stats import wasserstein_distance
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold

from corrsk import CompartmentRegressor, IdealObserverClassifier, SignalStream, load
from corrsk._utils.files import write_atomically
from corrsk.evaluation import bootstrap_difference, bootstrap_interval, compartments_right
from corrsk.simulation.datasets import DATASETS
from corrsk.tissue.table import table_columns
from corrsk.trained.posterior import TOLERANCE, CompartmentPosterior, CountDraws

NORMS = {"scale unknown": "l2", "M0 known": None}
COUNTS, QUANTITIES = (1, 2, 3), ("T1", "T2", "f")
N_VOXELS, N_OBSERVED, CHUNK, SEED = 2000, 300, 100, 50_000
N_DRAWS = 2048  # of each count, for the ceiling
N_CANDIDATES, N_SHIFTS = 64, 2
N_PARTICLES, N_RUNS = 2048, 4  # of the observer
N_KEPT, N_COMPARED = 2048, 256  # draws of the observer, and those of them for the random forest


def signals(name: str, n: int) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    stream = SignalStream.from_definition(replace(DATASETS["t1t2-detr"], norm=NORMS[name]), SEED)
    X, rows = stream.draw_rows(0, n)
    return X, rows.table, rows.n_c


def best_box(draws: CountDraws, ranges: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Compartments (V, P + 1, K) with the largest probability of a box, and this probability."""
    logs, weights = draws.logs(ranges), draws.weights
    V, n, P, K = logs.shape
    flat = logs.reshape(V, n, P * K)
    best, mass = np.full((V, P + 1, K), np.nan), np.zeros(V)
    for v in range(V):
        if not weights[v].any():
            continue
        places = flat[v, rng.choice(n, N_CANDIDATES, p=weights[v])]
        for _ in range(N_SHIFTS + 1):
            near = (np.abs(flat[v] - places[:, None]) <= TOLERANCE).all(axis=2) * weights[v]
            shares = near.sum(axis=1)
            top = shares.argmax()
            if shares[top] > mass[v]:
                mass[v] = shares[top]
                for p, (low, high) in enumerate(ranges.values()):
                    best[v, p] = low * (high / low) ** places[top].reshape(P, K)[p]
                best[v, -1] = near[top] @ draws.fractions[v] / mass[v]
            # to the mean of the draws inside, of the better half of the places
            kept = np.argsort(-shares)[: len(places) // 2]
            places = near[kept] @ flat[v] / shares[kept, None]
    return best, mass


def decided(posterior: CompartmentPosterior, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Compartments of each voxel with the largest probability that all are right."""
    found = [best_box(draws, posterior.ranges, rng) for draws in posterior.draws]
    expected = posterior.probabilities * np.stack([mass for _, mass in found], axis=1)
    chosen = expected.argmax(axis=1)
    values = np.full((len(chosen), len(QUANTITIES), max(COUNTS)), np.nan)
    values[:, -1] = 0.0
    for index, (best, _) in enumerate(found):
        rows = np.flatnonzero(chosen == index)
        values[rows, :, : COUNTS[index]] = best[rows]
    return {"values": values, "expected": expected.max(axis=1)}


def as_table(values: np.ndarray) -> pd.DataFrame:
    columns = table_columns(QUANTITIES[:-1], max(COUNTS))
    return pd.DataFrame(values.reshape(len(values), -1), columns=columns)


def answers(model: CompartmentRegressor, X: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """Decisions and probabilities of many draws, in stored chunks, and those of the model."""
    folder.mkdir(parents=True, exist_ok=True)
    own = (model.n_draws, model.max_rounds)
    chunks = []
    for start in range(0, len(X), CHUNK):
        x, path = X[start : start + CHUNK], folder / f"{start}.npz"
        rng = np.random.default_rng(start)
        if not path.exists():
            many = model.set_params(n_draws=N_DRAWS, max_rounds=1).posterior(x)
            model.set_params(n_draws=own[0], max_rounds=own[1])
            with write_atomically(path) as partial:
                np.savez(
                    partial, **decided(many, rng), probabilities=many.probabilities,
                    effective=many.effective_sample_size,
                )  # fmt: skip
            print(f"{folder.name}: {start + len(x)} of {len(X)} voxels", flush=True)
        with np.load(path) as file:
            chunk = dict(file)
        few = model.posterior(x)
        columns = table_columns(QUANTITIES[:-1], max(COUNTS))
        chunks.append(
            chunk | {
                "own_probabilities": few.probabilities,
                "own_values": few.table("strict")[columns].to_numpy(),
                "own_best": decided(few, rng)["values"],
            }
        )  # fmt: skip
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def summary(found: dict[str, np.ndarray], tissue: pd.DataFrame, n_c: np.ndarray) -> dict[str, Any]:
    limits = {"T1": (50.0, 3500.0), "T2": (5.0, 500.0)}
    right = {
        name: compartments_right(as_table(found[key]), tissue, limits)
        for name, key in (
            ("ceiling", "values"), ("regressor", "own_values"),
            ("regressor, best box of its draws", "own_best"),
        )
    }  # fmt: skip
    counted = {
        "ceiling": np.array(COUNTS)[found["probabilities"].argmax(axis=1)] == n_c,
        "regressor": np.array(COUNTS)[found["own_probabilities"].argmax(axis=1)] == n_c,
    }
    rows: dict[str, Any] = {
        name: {
            "strict": round(float(each.mean()), 4),
            "strict, interval": [round(v, 4) for v in bootstrap_interval([each])],
            **{f"strict {K}": round(float(each[n_c == K].mean()), 4) for K in COUNTS},
            **({"count": round(float(counted[name].mean()), 4)} if name in counted else {}),
        }
        for name, each in right.items()
    }
    rows["ceiling"]["strict, expected by the posterior"] = round(float(found["expected"].mean()), 4)
    rows["ceiling"]["count, expected by the posterior"] = round(
        float(found["probabilities"].max(axis=1).mean()), 4
    )
    rows["regressor less ceiling"] = {
        "strict": [
            round(v, 4) for v in bootstrap_difference([(right["regressor"], right["ceiling"])])
        ],
        "count": [
            round(v, 4) for v in bootstrap_difference([(counted["regressor"], counted["ceiling"])])
        ],
    }
    rows["median effective draws"] = round(float(np.median(found["effective"])))
    return rows


# -- the ideal observer ----------------------------------------------------------------


def observed(X: np.ndarray, folder: Path) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Log evidence (V, n_counts), and draws (N_KEPT, 3, K) of each voxel and count."""
    definition = DATASETS["t1t2-detr"]
    observer = IdealObserverClassifier(
        definition.prior, definition.protocol, definition.noise_levels,
        definition.noise_reference, "l2", n_particles=N_PARTICLES, n_runs=N_RUNS,
        random_state=0, n_jobs=1, verbose=False, counts=COUNTS,
    ).fit(X)  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    evidence, draws = [], []
    for start in range(0, len(X), 20):
        path = folder / f"{start}.npz"
        if not path.exists():
            x = X[start : start + 20].astype(np.float64)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            bound = observer._compartments.bind(x)
            kept: dict[str, np.ndarray] = {}
            for sampler in observer._samplers:
                streams = [np.random.default_rng([start + v, sampler.K]) for v in range(len(x))]
                with np.errstate(all="ignore"):
                    log_evidence, every = sampler.draws(bound, streams)
                kept[f"evidence{sampler.K}"] = log_evidence
                kept[f"draws{sampler.K}"] = np.stack([drawn(each, streams[0]) for each in every])
            with write_atomically(path) as partial:
                np.savez(partial, **kept)
            print(f"ideal observer: {start + len(x)} of {len(X)} voxels", flush=True)
        with np.load(path) as file:
            runs = np.stack([file[f"evidence{K}"] for K in COUNTS], axis=2)
            evidence.append(logsumexp(runs, axis=1) - np.log(N_RUNS))
            draws += [list(each) for each in zip(*(file[f"draws{K}"] for K in COUNTS), strict=True)]
    return np.concatenate(evidence), draws


def drawn(draws: Any, rng: np.random.Generator) -> np.ndarray:
    """Draws (N_KEPT, 3, K) of equal weight: logarithms in units of the ranges, fractions."""
    chosen = rng.choice(draws.weights.size, N_KEPT, p=draws.weights)
    order = np.argsort(draws.units[1][:, chosen], axis=0)
    values = np.concatenate([draws.units[:2][:, :, chosen], draws.fractions[None, :, chosen]])
    return np.moveaxis(np.take_along_axis(values, order[None], axis=1), -1, 0)


def weighted(posterior: CompartmentPosterior, index: int, v: int) -> tuple[Any, Any]:
    """Draws (n, 3, K) of a voxel and count as :func:`drawn`, and their weights (n,)."""
    draws = posterior.draws[index].take(np.array([v]))
    logs = draws.logs(posterior.ranges)[0]
    return np.concatenate([logs, draws.fractions[0][:, None]], axis=1), draws.weights[0]


def told_apart(one: np.ndarray, other: np.ndarray) -> float:
    """Accuracy of a random forest between draws, by cross-validation."""
    features = np.concatenate([one, other]).reshape(2 * N_COMPARED, -1)
    labels = np.repeat([0, 1], N_COMPARED)
    groups = np.unique(features, axis=0, return_inverse=True)[1].ravel()
    right = np.empty(len(labels), dtype=bool)
    for train, test in StratifiedGroupKFold(2, shuffle=True, random_state=0).split(
        features, labels, groups
    ):
        forest = RandomForestClassifier(20, min_samples_leaf=5, random_state=0, n_jobs=1)
        right[test] = (
            forest.fit(features[train], labels[train]).predict(features[test]) == labels[test]
        )
    return float(right.mean())


def distance(one: np.ndarray, weights: np.ndarray, other: np.ndarray) -> float:
    """Mean Wasserstein distance of the marginals over the standard deviations of the second."""
    columns = zip(one.reshape(len(one), -1).T, other.reshape(len(other), -1).T, strict=True)
    return float(np.mean([
        wasserstein_distance(a, b, weights) / b.std() for a, b in columns if b.std() > 1e-9
    ]))  # fmt: skip


def beside_observer(
    model: CompartmentRegressor, X: np.ndarray, n_c: np.ndarray, folder: Path
) -> dict[str, Any]:
    evidence, reference = observed(X, folder)
    log_proba = evidence - np.logaddexp.reduce(evidence, axis=1, keepdims=True)
    rows, at = np.arange(len(X)), n_c - 1
    own = (model.n_draws, model.max_rounds)
    posteriors = {"regressor": model.posterior(X)}
    model.set_params(n_draws=N_DRAWS, max_rounds=1)
    posteriors["many draws"] = CompartmentPosterior.concatenate(
        [model.posterior(X[s : s + CHUNK]) for s in range(0, len(X), CHUNK)]
    )
    model.set_params(n_draws=own[0], max_rounds=own[1])
    found: dict[str, Any] = {
        "n_voxels": len(X),
        "log score of the count by the observer": round(float(log_proba[rows, at].mean()), 4),
        "W1 of two halves of the draws of the observer": round(
            float(np.mean([
                distance(draws[: N_KEPT // 2], np.ones(N_KEPT // 2), draws[N_KEPT // 2 :])
                for draws in (reference[v][log_proba[v].argmax()] for v in rows)
            ])), 4,
        ),
    }  # fmt: skip
    for name, posterior in posteriors.items():
        scores, apart, moved = posterior.log_proba[rows, at], [], []
        for v, index in enumerate(posterior.log_proba.argmax(axis=1)):
            draws, weights = weighted(posterior, index, v)
            some = draws[np.random.default_rng(v).choice(len(draws), N_COMPARED, p=weights)]
            apart.append(told_apart(some, reference[v][index][:N_COMPARED]))
            moved.append(distance(draws, weights, reference[v][index]))
        less = scores - log_proba[rows, at]
        found[name] = {
            "C2ST, mean": round(float(np.mean(apart)), 4),
            "C2ST, share above 0.55": round(float(np.mean(np.array(apart) > 0.55)), 4),
            "W1, mean": round(float(np.mean(moved)), 4),
            "W1, median": round(float(np.median(moved)), 4),
            "log score of the count": round(float(scores.mean()), 4),
            "log score less that of the observer": round(float(less.mean()), 4),
            "standard error": round(float(less.std() / np.sqrt(len(less))), 4),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--folder", type=Path, help="of the chunks; default: in that of the models")
    parser.add_argument("--voxels", type=int, default=N_VOXELS)
    parser.add_argument("--observed", type=int, default=N_OBSERVED)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of unreliable draws
    folder = given.folder or given.models / "ceiling"
    results: dict[str, Any] = {"n_voxels": given.voxels, "draws of each count": N_DRAWS}
    for name in NORMS:
        model = load(given.models / f"{name}.safetensors").set_params(verbose=False, n_jobs=1)
        X, tissue, n_c = signals(name, given.voxels)
        results[name] = summary(answers(model, X, folder / name), tissue, n_c)
        if name == "scale unknown" and given.observed:
            few, _, n_c = signals(name, given.observed)
            results["ideal observer"] = beside_observer(model, few, n_c, folder / "observer")
    record("compartment_ceiling", results)


if __name__ == "__main__":
    main()
