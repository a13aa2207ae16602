"""One cell of the comparison: a rival, a training size, a seed; judged and kept as files."""

from __future__ import annotations

import io
import json
import pickle
import time
import warnings
import zipfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch

from corrsk._utils.counts import (
    guess_unanswered,
    is_multicompartment,
    multicompartment_probability,
)
from corrsk._utils.files import read_json, write_atomically, write_json
from corrsk.evaluation import evaluate
from corrsk.neural.training import device_name
from corrsk.workflows.comparison.rivals import RIVALS, Rival, Task


@dataclass(frozen=True)
class Cell:
    """What is trained and judged at once.

    Parameters
    ----------
    rival : str
        Its name.
    n_train : int
        Number of training signals; 0 for a method that learns nothing.
    seed : int
        Of the data and of the rival.
    """

    rival: str
    n_train: int
    seed: int

    @property
    def stem(self) -> str:
        """Name of its files, without a suffix."""
        return f"{self.rival}_n{self.n_train}_seed{self.seed}"


@dataclass(frozen=True)
class CellResult:
    """What came of a cell.

    Parameters
    ----------
    cell : Cell
    status : {"done", "failed", "skipped"}
    reason : str
        Why it failed or was skipped.
    content : dict
        Of a cell that is done: estimator, n_test, n_failed, seconds_fit (wall
        time), cpu_seconds_fit (of all threads), seconds_predict, size_bytes,
        metrics, by_noise_level, warnings, device, environment.
    right, right_binary : arrays of bool, shape (n_test,), or None
        Whether each test signal was answered rightly; in the order of the
        data set's test signals.
    """

    cell: Cell
    status: str
    reason: str
    content: dict[str, Any]
    right: NDArray[np.bool_] | None = None
    right_binary: NDArray[np.bool_] | None = None


def run_cell(cell: Cell, data: Bunch, task: Task, max_test: int) -> CellResult:
    """Train a rival on the first `n_train` training signals and judge it.

    Parameters
    ----------
    cell : Cell
    data : Bunch
        See :func:`corrsk.load_dataset`.
    task : Task
    max_test : int
        Number of test signals to judge it on, at most.
    """
    rival = RIVALS[cell.rival]
    test = data.test_indices[: min(max_test, rival.max_test or max_test)]
    # a method that learns nothing is shown a few signals, from which it takes the classes
    train = data.train_indices[: cell.n_train or min(1000, len(data.train_indices))]
    resumed = task.checkpoint is not None and task.checkpoint.exists()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = rival.make(task)
        started, started_cpu = time.perf_counter(), time.process_time()
        model.fit(data.data[train], data.target[train])
        fitted, fitted_cpu = time.perf_counter(), time.process_time()
        probabilities = np.asarray(model.predict_proba(data.data[test]))
        judged = time.perf_counter()
    seconds_fit, cpu_seconds_fit = fitted - started, fitted_cpu - started_cpu
    if resumed:  # the epochs' own times, which those before the interruption belong to as well
        seconds_fit = sum(row["seconds"] for row in model[-1].history_)
        cpu_seconds_fit = float("nan")
    y = data.target[test]
    evaluation = evaluate(
        y, probabilities, classes=model.classes_, noise_level=data.noise_level[test],
        dataset=data.name,
    )  # fmt: skip
    guess = guess_unanswered(probabilities)
    several = multicompartment_probability(guess, model.classes_) > 0.5
    return CellResult(
        cell, "done", "",
        {
            "estimator": fingerprint(rival, task),
            "n_test": len(test),
            "n_failed": evaluation.n_failed,
            "seconds_fit": seconds_fit if rival.learns else 0.0,
            "cpu_seconds_fit": cpu_seconds_fit if rival.learns else 0.0,
            "seconds_predict": judged - fitted,
            "device": _device(model),
            "size_bytes": len(pickle.dumps(model, protocol=pickle.HIGHEST_PROTOCOL)),
            "metrics": evaluation.metrics,
            "by_noise_level": evaluation.by_noise_level.reset_index().to_dict(orient="list"),
            "warnings": dict(Counter(f"{w.category.__name__}: {w.message}" for w in caught)),
        },
        right=model.classes_[guess.argmax(axis=1)] == y,
        right_binary=several == is_multicompartment(y),
    )  # fmt: skip


def _device(model: Any) -> str:
    last = model[-1] if isinstance(model, Pipeline) else model
    net = getattr(last, "net_", None)
    return "cpu" if net is None else device_name(net)


def fingerprint(rival: Rival, task: Task) -> str:
    """What the rival is made of: a stored cell of other parameters is not this one."""
    model = rival.make(Task(task.protocol, task.seed, task.norm))
    parameters = {
        key: repr(value)
        for key, value in model.get_params().items()
        if key.rpartition("__")[2] not in _NO_PARAMETER_OF_THE_RESULT
    }
    return json.dumps(parameters, sort_keys=True)


_NO_PARAMETER_OF_THE_RESULT = ("n_jobs", "verbose", "device", "checkpoint", "steps", "memory")


def write_cell(folder: Path, result: CellResult) -> None:
    """Keep a cell; its .json is written last and marks it as whole."""
    if result.right is not None and result.right_binary is not None:
        with write_atomically(folder / f"{result.cell.stem}.npz") as partial:
            np.savez_compressed(
                partial,
                right=np.packbits(result.right),
                right_binary=np.packbits(result.right_binary),
            )
    content = {
        **asdict(result.cell), "status": result.status, "reason": result.reason, **result.content
    }  # fmt: skip
    write_json(folder / f"{result.cell.stem}.json", content)


def read_cell(folder: Path, cell: Cell) -> CellResult | None:
    """A cell that is done, or None: what failed or is damaged is worth another try."""
    path = folder / f"{cell.stem}.json"
    try:
        content = read_json(path)
        if content["status"] != "done" or "estimator" not in content:
            return None
        # through bytes: numpy leaves a damaged file open
        with np.load(io.BytesIO((folder / f"{cell.stem}.npz").read_bytes())) as file:
            right, right_binary = (
                np.unpackbits(file[name])[: content["n_test"]].astype(bool)
                for name in ("right", "right_binary")
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    known = {*asdict(cell), "status", "reason"}
    rest = {key: value for key, value in content.items() if key not in known}
    return CellResult(cell, "done", "", rest, right, right_binary)
