"""Highest accuracy that any classifier can have on the named data sets.

The ideal observer classifies fresh signals of each data set with the prior, the noise and
the norm of the simulation. Its probabilities give the ceilings, as
several estimates (see corrsk.evaluation.accuracy_ceiling), for all signals and by noise level, or
by bins of a range of SNRs.

Results: results/ceiling/<data set>.json, and <data set>.npz with the signals X, their
counts y, noise_level, and run_log_evidence (n_runs, n_samples, n_classes), with which the
predictions of any classifier for the same signals can be compared (corrsk.evaluation.regret).

Signals are simulated and classified in chunks of 60 with separate seeds, and every finished
chunk is stored in <data set>.parts: the same command resumes after Ctrl-C, and a larger
--n-signals adds to the results of an earlier run.

--snr sets a fixed SNR for "t1t2-detr", one run each (t1t2-detr-snr40, ..). The prior of the
observer still has any SNR between 30 and 150, like the training data of a classifier. An SNR
outside this range is outside the prior, and the result is no ceiling.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _measure import RESULTS, record
from sklearn.exceptions import ConvergenceWarning

import corrsk.evaluation
from corrsk import load_pretrained, make_correlation_signals, pretrained_names
from corrsk._utils.files import read_json, write_atomically, write_json
from corrsk._utils.rng import STREAMS_VERSION
from corrsk.evaluation import accuracy_ceiling, multicompartment_probability, regret
from corrsk.physics.noise_levels import SNRRange
from corrsk.pretrained.models import model_of_dataset
from corrsk.relaxometry import CountPosterior, IdealObserverClassifier
from corrsk.simulation.datasets import DatasetDefinition, dataset_definition
from corrsk.tissue.prior import TissuePrior, resolve_prior

DATASETS = ("midl2024", "midl2024-low-noise", "t1t2-detr")
CHUNK = 60  # a multiple of counts x noise levels, so that each chunk is balanced
SEED = 20_000  # of the first chunk
# less noise makes the posterior modes narrower, which requires more particles
PARTICLES = {"midl2024": 8192, "midl2024-low-noise": 16384, "t1t2-detr": 8192}
SNR_BINS = (30, 50, 70, 90, 110, 130, 150)
SHIPPED = Path(corrsk.evaluation.__file__).with_name("ceilings.json")
ARRAYS = ("X", "y", "noise_level", "run_log_evidence")


@dataclass(frozen=True)
class Task:
    """Simulated data, and assumptions of the observer.

    Parameters
    ----------
    definition : DatasetDefinition
        Definition of the data.
    snr : float, optional
        SNR of the signals in place of that of the definition.
    grid_unknown : bool
        Whether the prior of the observer is continuous where the tissue is on a grid.
    """

    definition: DatasetDefinition
    snr: float | None = None
    grid_unknown: bool = False

    @property
    def name(self) -> str:
        return (
            self.definition.name
            + ("" if self.snr is None else f"-snr{self.snr:g}")
            + ("-grid-unknown" if self.grid_unknown else "")
        )

    @property
    def believed_prior(self) -> TissuePrior:
        prior = resolve_prior(self.definition.prior)
        return prior.continuous() if self.grid_unknown else prior

    def simulate(self, chunk: int) -> tuple[Any, Any, Any]:
        drawn = self.definition
        level = drawn.noise_levels if self.snr is None else 1.0 / self.snr
        X, y, levels, _ = make_correlation_signals(
            CHUNK, prior=drawn.prior, protocol=drawn.protocol, noise_level=level,
            noise_reference=drawn.noise_reference, norm=drawn.norm,
            random_state=SEED + chunk, return_tissue=True, verbose=False,
        )  # fmt: skip
        return X, y, levels

    def observer(self, settings: dict[str, Any], n_jobs: int | None) -> IdealObserverClassifier:
        known = self.definition
        return IdealObserverClassifier(
            prior=self.believed_prior, protocol=known.protocol,
            noise_level=known.noise_levels,
            noise_reference=known.noise_reference, norm=known.norm,
            n_particles=settings["n_particles"], n_runs=settings["n_runs"],
            random_state=settings["random_state"], n_jobs=n_jobs, verbose=False,
        )  # fmt: skip

    def groups(self, levels: Any) -> Any:
        """Group of each signal: its noise level in %, or its bin of SNRs."""
        if not isinstance(self.definition.noise_levels, SNRRange):
            return np.array([f"{100 * level:g} %" for level in levels])
        if self.snr is not None:
            return np.full(len(levels), f"SNR {self.snr:g}")
        bins = np.clip(np.digitize(1.0 / levels, SNR_BINS) - 1, 0, len(SNR_BINS) - 2)
        return np.array([f"SNR {SNR_BINS[b]}-{SNR_BINS[b + 1]}" for b in bins])

    @property
    def outside_of_prior(self) -> bool:
        levels = self.definition.noise_levels
        return (
            self.snr is not None
            and isinstance(levels, SNRRange)
            and not (levels.low <= self.snr <= levels.high)
        )


def stored(path: Path, settings: str) -> Iterator[dict[str, Any]]:
    """Yield the chunks of an earlier run of the same settings."""
    if not path.is_file():
        return
    with np.load(path) as found:
        if str(found["settings"]) != settings:
            print(f"{path} has other settings: starting from scratch")
            return
        arrays = {name: found[name] for name in (*ARRAYS, "seconds")}
    for first in range(0, len(arrays["y"]) // CHUNK * CHUNK, CHUNK):
        part = {name: arrays[name][first : first + CHUNK] for name in ARRAYS[:-1]}
        part["run_log_evidence"] = arrays["run_log_evidence"][:, first : first + CHUNK]
        part["seconds"] = arrays["seconds"][first // CHUNK]
        yield part


def answered(
    task: Task, settings: dict[str, Any], n_signals: int, folder: Path, n_jobs: int | None
) -> list[dict[str, Any]]:
    """Return the chunks with the predictions of the observer; stored chunks are reused."""
    key = json.dumps(settings, sort_keys=True)
    parts = folder / f"{task.name}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    done = list(stored(folder / f"{task.name}.npz", key))
    n_chunks = max(len(done), math.ceil(n_signals / CHUNK))
    counts = resolve_prior(task.definition.prior).n_compartments
    for chunk in range(len(done), n_chunks):
        path = parts / f"{chunk:05d}.npz"
        found = list(stored(path, key))
        if not found:
            X, y, levels = task.simulate(chunk)
            observer = task.observer(settings, n_jobs).fit(X, np.resize(counts, len(X)))
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # counted in the summary
                posterior = observer.posterior(X)
            seconds = time.perf_counter() - start
            evidence = posterior.run_log_evidence.astype(np.float32)
            with write_atomically(path) as partial:
                np.savez(
                    partial, X=X, y=y, noise_level=levels, run_log_evidence=evidence,
                    seconds=[seconds], settings=key,
                )  # fmt: skip
            print(
                f"{task.name}: {(chunk + 1) * CHUNK} of {n_chunks * CHUNK} signals, "
                f"{seconds / CHUNK:.2f} s each",
                flush=True,
            )
            found = list(stored(path, key))
        done += found
    with write_atomically(folder / f"{task.name}.npz") as partial:
        np.savez_compressed(partial, **joined(done), settings=key)
    shutil.rmtree(parts)
    return done


def joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    arrays = {name: np.concatenate([c[name] for c in chunks]) for name in ARRAYS[:-1]}
    arrays["run_log_evidence"] = np.concatenate([c["run_log_evidence"] for c in chunks], axis=1)
    arrays["seconds"] = np.array([c["seconds"] for c in chunks])
    return arrays


def ceilings(task: Task, arrays: dict[str, Any]) -> pd.DataFrame:
    counts = np.array(resolve_prior(task.definition.prior).n_compartments)
    evidence = arrays["run_log_evidence"].astype(np.float64)
    return accuracy_ceiling(evidence, counts, arrays["y"], task.groups(arrays["noise_level"]))


def in_percent(row: pd.Series) -> dict[str, Any]:
    return {
        str(name): round(100 * float(value), 2) if name != "n" else int(value)
        for name, value in row.items()
    }


def summary(task: Task, arrays: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """Summarise the ceilings in %, with Monte Carlo errors and calibration of the observer."""
    counts = np.array(resolve_prior(task.definition.prior).n_compartments)
    evidence = arrays["run_log_evidence"].astype(np.float64)
    posterior = CountPosterior(counts, evidence)
    groups = task.groups(arrays["noise_level"])
    # sorted by noise level, not by text
    first = {group: np.mean(arrays["noise_level"][groups == group]) for group in set(groups)}
    order = ["all", *sorted(first, key=first.__getitem__)]
    p = posterior.probabilities
    right = counts[p.argmax(axis=1)] == arrays["y"]
    return {
        "data set": task.name,
        "n_signals": len(arrays["y"]),
        "outside of the observer's prior": task.outside_of_prior,
        "seconds per signal": round(float(arrays["seconds"].sum()) / len(arrays["y"]), 3),
        "ceilings (%)": {
            group: {
                task: in_percent(table.loc[(group, task)])
                for task in ("count", "multicompartment")
            }
            for group in order
        },
        "Monte Carlo": {
            "mean standard error of the largest probability": round(
                float(np.take_along_axis(
                    posterior.standard_error, p.argmax(axis=1)[:, None], axis=1
                ).mean()), 4,
            ),
            "median standard error of log evidence by count": [
                round(float(each), 3) for each in np.median(posterior.log_evidence_error, axis=0)
            ],
            "signals not to be trusted": int((~posterior.trustworthy).sum()),
            "median effective sample size": round(
                float(np.median(posterior.effective_sample_size))
            ),
        },
        "calibration": {
            f"{low:.1f}-{low + 0.1:.1f}": {
                "n": int(inside.sum()),
                "mean probability": round(float(p.max(axis=1)[inside].mean()), 3),
                "hits": round(float(right[inside].mean()), 3),
            }
            for low in np.arange(0.2, 1.0, 0.1)
            if (inside := (p.max(axis=1) >= low) & (p.max(axis=1) < low + 0.1 + 1e-9)).any()
        },
    }  # fmt: skip


def regrets(task: Task, arrays: dict[str, Any]) -> dict[str, Any]:
    """Measure the regret of the shipped model, in percentage points on the same signals."""
    model = load_pretrained(model_of_dataset(task.definition.name))
    evidence = arrays["run_log_evidence"].astype(np.float64)
    groups = task.groups(arrays["noise_level"])
    probabilities = model.predict_proba(arrays["X"])
    answers = {
        "count": model.classes_[probabilities.argmax(axis=1)],
        "multicompartment": multicompartment_probability(probabilities, model.classes_) > 0.5,
    }
    found: dict[str, Any] = {}
    for task, given in answers.items():
        table = regret(evidence, model.classes_, given, groups, task=task)
        found[task] = {str(group): in_percent(row) for group, row in table.iterrows()}
    return found


def ship(task: Task, arrays: dict[str, Any], table: pd.DataFrame) -> None:
    """Store the ceilings in the package, for the figures of `corrsk compare`."""
    groups = task.groups(arrays["noise_level"])
    levels = {"all": float("nan")} | {
        group: float(np.median(arrays["noise_level"][groups == group])) for group in set(groups)
    }
    rows = []
    for group in sorted(levels, key=lambda g: (g != "all", levels[g])):
        row: dict[str, Any] = {"noise_level": levels[group]}
        for task, metric in (("count", "accuracy"), ("multicompartment", "binary_accuracy")):
            found = table.loc[(group, task)]
            row["n_signals"] = int(found["n"])
            row[f"{metric}_low"] = round(float(found["cross_fitted"]), 5)
            row[f"{metric}_high"] = round(float(found["upper"]), 5)
            row[metric] = round(float(found["corrected"]), 5)
            spread = found["corrected_high"] - found["corrected_low"]
            row[f"{metric}_error"] = round(float(spread) / (2 * 1.96), 5)
        rows.append(row)
    known = read_json(SHIPPED) if SHIPPED.exists() else {}
    write_json(SHIPPED, known | {task.definition.name: rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--n-signals", type=int, default=2000)
    parser.add_argument("--n-particles", type=int, help=f"default by data set: {PARTICLES}")
    parser.add_argument("--n-runs", type=int, default=8)
    parser.add_argument(
        "--snr", nargs="+", type=float, help="t1t2-detr at these SNRs instead of the data sets"
    )
    parser.add_argument("--n-jobs", type=int, help="number of threads; default: every core")
    parser.add_argument("--folder", type=Path, default=RESULTS / "ceiling")
    arguments = parser.parse_args()
    if arguments.snr:
        tasks = [Task(dataset_definition("t1t2-detr"), snr) for snr in arguments.snr]
    else:
        tasks = [Task(dataset_definition(name)) for name in arguments.datasets]
    for task in tasks:
        settings = {
            "n_particles": arguments.n_particles or PARTICLES[task.definition.name],
            "n_runs": arguments.n_runs, "random_state": 0, "seed": SEED,
            "streams": STREAMS_VERSION,
        }  # fmt: skip
        chunks = answered(task, settings, arguments.n_signals, arguments.folder, arguments.n_jobs)
        arrays = joined(chunks)
        table = ceilings(task, arrays)
        results = {
            "command": f"python benchmarks/ceiling.py --n-signals {arguments.n_signals} "
            + (f"--snr {task.snr:g}" if task.snr else f"--datasets {task.name}")
            + f" --n-particles {settings['n_particles']} --n-runs {arguments.n_runs}",
            "settings": settings,
            **summary(task, arrays, table),
        }
        if model_of_dataset(task.definition.name) in pretrained_names():
            results["regret of the model that comes with corrsk (%)"] = regrets(task, arrays)
        # an absolute path replaces the folder that it is joined to
        record(str(arguments.folder.resolve() / task.name), results)
        if task.snr is None and arguments.folder == RESULTS / "ceiling":
            ship(task, arrays, table)


if __name__ == "__main__":
    main()
