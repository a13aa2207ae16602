"""What unknown pulses cost the ideal observer, and the networks.

Two sets of signals of the tissue and noise of "scanner-ir-se-8x8", of unknown scale: perfect
pulses (Eq. 1), and an inversion efficiency of 0.9 with a loss of 3 % per echo. Two ideal
observers classify the same signals: one has these values, the other has the ranges of the data
set (0.8 to 1 and 0 to 5 %) and integrates over both. The first is the best possible
classifier of the set, and the regret of the second under the first is the cost of unknown
pulses, which no training can avoid. The networks "exact" (trained on perfect pulses) and
"scanner-ir-se-8x8" have their regrets beside it, where they are available.

Results: results/scanner_ceiling.json, and results/ceiling/scanner-<set>-<observer>.npz
with the signals and the evidence of each observer. As in ceiling.py, the same command resumes, and
a larger --n-signals adds to the results of an earlier run; stored evidence is used again.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, record
from ceiling import CHUNK, SEED, Task, answered, in_percent, joined
from scanner import SNR_STRATA, at, models_of, stratum_names

from corrsk import Nuisances, TissuePrior
from corrsk._utils.rng import STREAMS_VERSION
from corrsk.evaluation import accuracy_ceiling, multicompartment_probability, regret
from corrsk.relaxometry import CountPosterior
from corrsk.simulation.datasets import dataset_definition

DATASET = "scanner-ir-se-8x8"
# (inversion efficiency, loss per echo)
SETS = {"perfect": (1.0, 0.0), "imperfect": (0.9, 0.03)}
OBSERVERS = ("known", "unknown")


@dataclass(frozen=True)
class PulseTask(Task):
    """Signals with the same pulses in every voxel, and the prior of an observer.

    Parameters
    ----------
    label : str
        Name of the set and of the observer.
    believed : TissuePrior
        Prior of the observer.
    """

    label: str = ""
    believed: TissuePrior | None = None

    @property
    def name(self) -> str:
        return f"scanner-{self.label}"

    @property
    def believed_prior(self) -> TissuePrior:
        assert self.believed is not None
        return self.believed

    def groups(self, levels: Any) -> Any:
        return np.array(stratum_names())[np.digitize(1 / levels, SNR_STRATA[1:-1])]


def task(name: str, observer: str) -> PulseTask:
    efficiency, loss = SETS[name]
    definition = dataset_definition(DATASET)
    nuisances = Nuisances(inversion_efficiency=efficiency, echo_loss=loss)
    simulated = at(definition, nuisances)
    believed = simulated.prior if observer == "known" else definition.prior
    return PulseTask(simulated, label=f"{name}-{observer}", believed=believed)


def first(arrays: dict[str, Any], n: int) -> dict[str, Any]:
    """The first n signals, and the evidence of each run for these."""
    own = {name: arrays[name][:n] for name in ("X", "y", "noise_level")}
    return own | {"run_log_evidence": arrays["run_log_evidence"][:, :n]}


def judged(name: str, arrays: dict[str, dict[str, Any]], models: dict[str, Any]) -> dict[str, Any]:
    """Ceiling of a set, and the regrets of the other observer and of the networks."""
    n = min(len(each["y"]) for each in arrays.values())  # an interrupted run may have more of one
    best, other = (first(arrays[observer], n) for observer in OBSERVERS)
    assert np.array_equal(best["X"], other["X"])
    counts = np.array(dataset_definition(DATASET).prior.n_compartments)
    evidence, its = (a["run_log_evidence"].astype(np.float64) for a in (best, other))
    groups = task(name, "known").groups(best["noise_level"])
    table = accuracy_ceiling(evidence, counts, best["y"], groups)
    answers = {"observer with the ranges": CountPosterior(counts, its).probabilities}
    answers |= {key: model.predict_proba(best["X"]) for key, model in models.items()}
    order = ["all", *stratum_names()]
    found: dict[str, Any] = {
        "n_signals": len(best["y"]),
        "signals not to be trusted": {
            observer: int((~CountPosterior(counts, e).trustworthy).sum())
            for observer, e in zip(OBSERVERS, (evidence, its), strict=True)
        },
        "seconds per signal": {
            observer: round(float(arrays[observer]["seconds"].mean()) / CHUNK, 2)
            for observer in OBSERVERS
        },
    }
    for question in ("count", "multicompartment"):
        rows: dict[str, Any] = {
            "best possible (%)": {g: in_percent(table.loc[(g, question)]) for g in order}
        }
        for key, p in answers.items():
            given = (
                counts[p.argmax(axis=1)]
                if question == "count"
                else multicompartment_probability(p, counts) > 0.5
            )
            lost = regret(evidence, counts, given, groups, task=question)
            rows[f"regret of {key} (points)"] = {g: in_percent(lost.loc[g]) for g in order}
        found[question] = rows
    found["regret of the observer with the ranges, for many runs (points)"] = extrapolated(
        evidence, its, counts
    )
    return found


def extrapolated(evidence: Any, its: Any, counts: Any) -> dict[str, float]:
    """Regret for the count with half of the runs, with all, and twice the latter less the former.

    Monte Carlo errors of the second observer make its answers worse, and its regret too large.
    """
    n_runs = len(its)

    def lost(runs: Any) -> float:
        given = counts[CountPosterior(counts, its[list(runs)]).probabilities.argmax(axis=1)]
        return float(regret(evidence, counts, given).loc["all", "corrected"])

    halves = [lost(runs) for runs in itertools.combinations(range(n_runs), n_runs // 2)]
    half, full = 100 * float(np.mean(halves)), 100 * lost(range(n_runs))
    found = {"half of the runs": half, "all runs": full, "extrapolated": 2 * full - half}
    return {key: round(value, 2) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-signals", type=int, default=300)
    parser.add_argument("--n-particles", type=int, default=8192)
    parser.add_argument("--n-runs", type=int, default=6)
    parser.add_argument("--n-jobs", type=int, help="number of threads; default: every core")
    parser.add_argument("--models", type=Path, help="folder of networks; default: those of corrsk")
    arguments = parser.parse_args()
    settings = {
        "n_particles": arguments.n_particles, "n_runs": arguments.n_runs, "random_state": 0,
        "seed": SEED, "streams": STREAMS_VERSION,
    }  # fmt: skip
    models = models_of(arguments.models, (DATASET, "exact"))
    results: dict[str, Any] = {"settings": settings, "models": sorted(models)}
    for name, (efficiency, loss) in SETS.items():
        arrays = {
            observer: joined(
                answered(
                    task(name, observer), settings, arguments.n_signals, RESULTS / "ceiling",
                    arguments.n_jobs,
                )
            )
            for observer in OBSERVERS
        }  # fmt: skip
        title = f"inversion efficiency {efficiency:g}, loss {100 * loss:g} % per echo"
        results[title] = judged(name, arrays, models)
    record("scanner_ceiling", results)


if __name__ == "__main__":
    main()
