"""Gain of accuracy from the grid of the paper's tissue: T1 in steps of 50, T2 of 5 ms.

Real tissue has no such grid, but an observer whose prior has the grid can exploit it: if the best
two compartments fall between the values of the grid, a third one is more probable. This benchmark
applies the ideal observer to the signals of ceiling.py with a continuous prior of the same ranges.
Its loss of accuracy relative to the observer with the grid is the gain from the grid; an equal
loss of a network is no shortcoming of the network.

An observer with half of the runs is noisier and loses more accuracy: its regret is also given
for half of the runs, which shows how much of the regret is Monte Carlo noise.

Results: results/grid.json; predictions are stored in results/grid/<data set>-grid-unknown.npz,
in the format of ceiling.py, which has to run first. The same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from _measure import RESULTS, record
from ceiling import CHUNK, PARTICLES, SEED, Task, answered, in_percent, joined
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from corrsk import load_pretrained
from corrsk._utils.rng import STREAMS_VERSION
from corrsk.evaluation import multicompartment_probability, regret
from corrsk.simulation.datasets import dataset_definition
from corrsk.tissue.prior import resolve_prior

DATASETS = ("midl2024", "midl2024-low-noise")  # the third data set has no grid
Array = NDArray[np.float64]


def probabilities(run_log_evidence: Array) -> Array:
    pooled: Array = softmax(logsumexp(run_log_evidence, axis=0), axis=1)
    return pooled


def gain(ideal: Array, p: Array, other: Array) -> dict[str, float]:
    """Accuracy of the predictions of `p` minus that of `other`, in percentage points.

    Computed from the probabilities of the ideal observer, not from the drawn counts.
    """
    rows = np.arange(len(ideal))
    gains = 100 * (ideal[rows, p.argmax(axis=1)] - ideal[rows, other.argmax(axis=1)])
    error = 1.96 * gains.std() / np.sqrt(len(gains))
    found = {"value": gains.mean(), "low": gains.mean() - error, "high": gains.mean() + error}
    return {key: round(float(value), 2) for key, value in found.items()}


def compared(name: str, n_signals: int, n_runs: int, n_jobs: int | None) -> dict[str, Any]:
    definition = dataset_definition(name)
    counts = np.array(resolve_prior(definition.prior).n_compartments)
    task = Task(definition, grid_unknown=True)
    settings = {
        "n_particles": PARTICLES[name], "n_runs": n_runs, "random_state": 0, "seed": SEED,
        "streams": STREAMS_VERSION,
    }  # fmt: skip
    path = RESULTS / "ceiling" / f"{name}.npz"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: run ceiling.py first")
    with np.load(path) as found:
        known = {key: found[key] for key in ("X", "y", "noise_level", "run_log_evidence")}
    first = slice(0, min(n_signals, len(known["y"])))
    X, y, levels = (known[key][first] for key in ("X", "y", "noise_level"))
    evidence = known["run_log_evidence"][:, first].astype(np.float64)
    if not np.array_equal(task.simulate(0)[0], X[:CHUNK]):
        raise SystemExit(f"{path} contains other signals: run ceiling.py first")
    n = len(y)
    unaware = joined(answered(task, settings, n, RESULTS / "grid", n_jobs))
    without = unaware["run_log_evidence"][:, :n].astype(np.float64)
    p = {
        "observer that knows the grid": probabilities(evidence),
        "observer that does not": probabilities(without),
        "the same, half of its runs": probabilities(without[: n_runs // 2]),
        "network": load_pretrained(name).predict_proba(X),
    }
    true = np.searchsorted(counts, y)
    asked = {
        who: {
            "count": counts[each.argmax(axis=1)],
            "multicompartment": multicompartment_probability(each, counts) > 0.5,
        }
        for who, each in list(p.items())[1:]
    }
    groups = task.groups(levels)
    ideal, unknown, _, network = p.values()
    return {
        "n_signals": n,
        "settings": settings,
        "log loss": {
            who: round(float(-np.log(each[np.arange(n), true]).mean()), 4)
            for who, each in p.items()
        },
        **{
            f"regret, {task} (points)": {
                who: {
                    str(group): in_percent(row)
                    for group, row in regret(
                        evidence, counts, answers[task], groups, task=task
                    ).iterrows()
                }
                for who, answers in asked.items()
            }
            for task in ("count", "multicompartment")
        },
        "network less observer that does not know the grid (points)": gain(ideal, network, unknown),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--n-signals", type=int, default=720)
    parser.add_argument("--n-runs", type=int, default=8)
    parser.add_argument("--n-jobs", type=int, help="number of threads; default: every core")
    given = parser.parse_args()
    if given.n_runs < 4:
        parser.error("--n-runs must be at least 4, so that half of the runs are at least 2")
    found = {
        name: compared(name, given.n_signals, given.n_runs, given.n_jobs) for name in given.datasets
    }
    record("grid", found)


if __name__ == "__main__":
    main()
