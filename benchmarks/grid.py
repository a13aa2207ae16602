"""What the grid of the paper's tissue is worth: T1 in steps of 50 ms, T2 in steps of 5 ms.

Tissue has no such grid, but an observer that knows of it can use it: two compartments whose
fit falls between the grid's values are less likely than three. This command asks the ideal
observer again without that knowledge (the same ranges, continuous):

- on the signals of ceiling.py: how much of a network's regret an observer has, too, that
  merely does not know the grid;
- on signals of tissue off the grid, for which that observer is the ideal one: the ceiling
  there, and the network's regret against it;
- on the same, the observer that believes in the grid: what that belief costs on tissue
  that does not keep to it.

Results: results/grid.json; the answers are kept in results/grid/<task>.npz, as those of
ceiling.py are, which has to run first.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pandas as pd
from _measure import RESULTS, record
from ceiling import PARTICLES, Task, answered, ceilings, in_percent, joined
from scipy.special import logsumexp

from corrsk import _random, load_pretrained
from corrsk.datasets import dataset_definition
from corrsk.evaluation import regret
from corrsk.relaxometry import CountPosterior
from corrsk.tissue import resolve_prior

DATASETS = ("midl2024", "midl2024-low-noise")


def answers_of(arrays: dict[str, Any], counts: Any) -> Any:
    """The most probable count of each signal."""
    evidence = logsumexp(arrays["run_log_evidence"].astype(np.float64), axis=0)
    return counts[evidence.argmax(axis=1)]


def accuracy_gain(
    arrays: dict[str, Any], counts: Any, answers: Any, others: Any
) -> dict[str, float]:
    """By how many points `answers` are more often right than `others`, with an interval.

    By the probabilities of the signals' own ideal observer, not by the counts drawn.
    """
    p = CountPosterior(counts, arrays["run_log_evidence"].astype(np.float64)).probabilities
    rows = np.arange(len(p))
    gain = p[rows, np.searchsorted(counts, answers)] - p[rows, np.searchsorted(counts, others)]
    error = 1.96 * gain.std() / np.sqrt(len(gain))
    bounds = {"value": gain.mean(), "low": gain.mean() - error, "high": gain.mean() + error}
    return {name: round(100 * float(value), 2) for name, value in bounds.items()} | {"n": len(p)}


def rounded(table: pd.DataFrame) -> dict[str, Any]:
    return {str(group): in_percent(row) for group, row in table.iterrows()}


def compared(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    definition = dataset_definition(name)
    counts = np.array(resolve_prior(definition.prior).n_compartments)
    model = load_pretrained(name)
    settings = {
        "n_particles": PARTICLES["midl2024"], "n_runs": arguments.n_runs, "random_state": 0,
        "streams": _random.STREAMS_VERSION,
    }  # fmt: skip

    def asked(task: Task, n_signals: int) -> dict[str, Any]:
        folder = RESULTS / "grid"
        return joined(answered(task, settings, n_signals, folder, arguments.n_jobs))

    with np.load(RESULTS / "ceiling" / f"{name}.npz") as found:
        ideal = {key: found[key] for key in ("X", "y", "noise_level", "run_log_evidence")}
    on_grid = asked(Task(definition, grid_unknown=True), len(ideal["y"]))
    if not np.array_equal(on_grid["X"], ideal["X"]):
        raise SystemExit(f"the signals of ceiling.py are others for {name}: run it first")
    task = Task(definition, off_grid=True, grid_unknown=True)
    off_grid = asked(task, arguments.n_signals)
    believer = asked(Task(definition, off_grid=True), arguments.n_believer)

    evidence = ideal["run_log_evidence"].astype(np.float64)
    without_grid, network = answers_of(on_grid, counts), model.predict(ideal["X"])
    groups = task.groups(ideal["noise_level"])
    beyond = off_grid["run_log_evidence"].astype(np.float64)
    beyond_groups = task.groups(off_grid["noise_level"])
    few = {key: off_grid[key][: len(believer["y"])] for key in ("X", "y", "noise_level")}
    few["run_log_evidence"] = off_grid["run_log_evidence"][:, : len(believer["y"])]
    return {
        "settings": settings,
        "on the grid: regret (%)": {
            who: rounded(regret(evidence, counts, answers, groups))
            for who, answers in (("observer without the grid", without_grid), ("network", network))
        },
        "on the grid: network less observer without the grid (points)": accuracy_gain(
            ideal, counts, network, without_grid
        ),
        "off the grid: ceiling (%)": {
            f"{group}, {question}": in_percent(row)
            for (group, question), row in ceilings(task, off_grid).iterrows()
        },
        "off the grid: regret of the network (%)": rounded(
            regret(beyond, counts, model.predict(off_grid["X"]), beyond_groups)
        ),
        "off the grid: observer that believes in the grid less network (points)": accuracy_gain(
            few, counts, answers_of(believer, counts), model.predict(few["X"])
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--n-signals", type=int, default=1020, help="off the grid")
    parser.add_argument("--n-believer", type=int, default=300, help="asked with a false belief")
    parser.add_argument("--n-runs", type=int, default=4)
    parser.add_argument("--n-jobs", type=int, help="threads; every core by default")
    arguments = parser.parse_args()
    found = {name: compared(name, arguments) for name in arguments.datasets}
    record("grid", {"command": "python benchmarks/grid.py", **found})


if __name__ == "__main__":
    main()
