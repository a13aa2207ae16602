"""Runs of the comparison (a model, a training size, a seed): training, test and stored files."""

from __future__ import annotations

import json
import pickle
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch

from corrsk._utils.archives import read_npz
from corrsk._utils.counts import (
    guess_unanswered,
    is_multicompartment,
    multicompartment_probability,
)
from corrsk._utils.files import (
    InvalidFileError,
    digest,
    existing_file,
    read_json,
    refuse_misfits,
    without_nan,
    write_atomically,
    write_json,
)
from corrsk.evaluation import evaluate
from corrsk.neural.training.prediction import device_name
from corrsk.workflows._caught import texts_of
from corrsk.workflows.comparison._stored import as_stored
from corrsk.workflows.comparison.models import MODELS, BuildOptions, ComparedModel


@dataclass(frozen=True)
class Run:
    """Run of the comparison: a model, a training size and a seed.

    Parameters
    ----------
    model : str
        Name of the model.
    n_train : int
        Number of training signals; 0 for a model-based method.
    seed : int
        Seed of the data and of the model.
    """

    model: str
    n_train: int
    seed: int

    @property
    def stem(self) -> str:
        """Name of the files of the run, without a suffix."""
        return f"{self.model}_n{self.n_train}_seed{self.seed}"


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Parameters
    ----------
    run : Run
        The run.
    status : {"done", "failed", "skipped"}
        Outcome of the run.
    reason : str
        Reason of a failed or skipped run.
    content : dict
        Entries of a finished run: estimator, n_test, n_failed, seconds_fit (wall
        time), cpu_seconds_fit (of all threads), seconds_predict, size_bytes,
        metrics, by_noise_level, warnings, device, environment.
    right : array of bool, shape (n_test,), or None
        Whether the count of each test signal is right, in the order of the test signals of the
        data set.
    right_binary : array of bool, shape (n_test,), or None
        Whether the binary prediction for each test signal is right, in the same order.
    """

    run: Run
    status: str
    reason: str
    content: dict[str, Any]
    right: NDArray[np.bool_] | None = None
    right_binary: NDArray[np.bool_] | None = None


def train_and_judge(run: Run, data: Bunch, options: BuildOptions, max_test: int) -> RunResult:
    """Train a model on the first `n_train` training signals and test it.

    Parameters
    ----------
    run : Run
        The run.
    data : Bunch
        Data set; see :func:`corrsk.load_dataset`.
    options : BuildOptions
        Options of the model.
    max_test : int
        Largest number of test signals.

    Returns
    -------
    RunResult
        Result of the run.
    """
    compared = MODELS[run.model]
    test = data.test_indices[: min(max_test, compared.max_test or max_test)]
    # a model-based method takes only the classes from its training signals: a few are enough
    train = data.train_indices[: run.n_train or min(1000, len(data.train_indices))]
    resumed = options.checkpoint is not None and options.checkpoint.exists()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = compared.make(options)
        started, started_cpu = time.perf_counter(), time.process_time()
        model.fit(data.data[train], data.target[train])
        fitted, fitted_cpu = time.perf_counter(), time.process_time()
        probabilities = np.asarray(model.predict_proba(data.data[test]))
        judged = time.perf_counter()
    seconds_fit, cpu_seconds_fit = fitted - started, fitted_cpu - started_cpu
    if resumed:  # times of the epochs, including those before the interruption
        seconds_fit = sum(row["seconds"] for row in model[-1].history_)
        cpu_seconds_fit = float("nan")
    y = data.target[test]
    evaluation = evaluate(
        y, probabilities, classes=model.classes_, noise_level=data.noise_level[test],
        dataset=data.name,
    )  # fmt: skip
    guess = guess_unanswered(probabilities)
    several = multicompartment_probability(guess, model.classes_) > 0.5
    last = model[-1] if isinstance(model, Pipeline) else model
    if hasattr(last, "checkpoint"):  # its path is no part of the size of the model
        last.set_params(checkpoint=None)
    return RunResult(
        run, "done", "",
        {
            "estimator": fingerprint(compared, options),
            "n_test": len(test),
            "n_failed": evaluation.n_failed,
            "seconds_fit": seconds_fit if compared.learns else 0.0,
            "cpu_seconds_fit": cpu_seconds_fit if compared.learns else 0.0,
            "seconds_predict": judged - fitted,
            "device": _device(model),
            "size_bytes": len(pickle.dumps(model, protocol=pickle.HIGHEST_PROTOCOL)),
            "metrics": evaluation.metrics,
            "by_noise_level": evaluation.by_noise_level.reset_index().to_dict(orient="list"),
            "warnings": dict(Counter(f"{name}: {text}" for name, text in texts_of(caught))),
        },
        right=model.classes_[guess.argmax(axis=1)] == y,
        right_binary=several == is_multicompartment(y),
    )  # fmt: skip


def _device(model: Any) -> str:
    last = model[-1] if isinstance(model, Pipeline) else model
    net = getattr(last, "net_", None)
    return "cpu" if net is None else device_name(net)


def fingerprint(compared: ComparedModel, options: BuildOptions) -> str:
    """Return the parameters of a model as text, which identifies stored runs of the model.

    The names are those of the first version of the files, so that stored runs stay valid.
    """
    plain = replace(options, n_jobs=1, device="auto", checkpoint=None)
    model = as_stored(compared.make(plain))
    parameters = {
        key: repr(value)
        for key, value in model.get_params().items()
        if key.rpartition("__")[2] not in _NO_PARAMETER_OF_THE_RESULT
    }
    return json.dumps(parameters, sort_keys=True)


# of a finished run, with their types
_ENTRIES: dict[str, Any] = {
    "n_test": int, "n_failed": int, "seconds_fit": int | float, "seconds_predict": int | float,
    "size_bytes": int, "metrics": dict, "by_noise_level": dict, "environment": dict,
}  # fmt: skip
# `counts` came later than the first stored runs; the labels of the comparison have all counts
_NO_PARAMETER_OF_THE_RESULT = (
    "n_jobs", "verbose", "device", "checkpoint", "steps", "memory", "counts",
)  # fmt: skip


def write_run(folder: Path, result: RunResult) -> None:
    """Store a run; the .json file is written last and marks the run as complete."""
    archive = folder / f"{result.run.stem}.npz"
    if result.right is not None and result.right_binary is not None:
        with write_atomically(archive) as partial:
            np.savez_compressed(
                partial,
                right=np.packbits(result.right),
                right_binary=np.packbits(result.right_binary),
            )
    content: dict[str, Any] = {
        **_stored(result.run), "status": result.status, "reason": result.reason, **result.content
    }  # fmt: skip
    if result.right is not None:
        content = json.loads(json.dumps(without_nan(content)))  # as it is read later
        content["digest"] = _digest(content, archive)
    write_json(folder / f"{result.run.stem}.json", content)


def _stored(run: Run) -> dict[str, Any]:
    """Return a run under the names of the first version of the files."""
    content = asdict(run)
    return {"rival": content.pop("model"), **content}


def stored_run(content: dict[str, Any]) -> Run:
    """Return the run of a stored file.

    Raises
    ------
    KeyError
        If an entry is missing.
    """
    return Run(content["rival"], content["n_train"], content["seed"])


def read_run(folder: Path, run: Run) -> RunResult | None:
    """Read a finished run; None if the run did not finish, failed, or its files are damaged.

    Warns
    -----
    UserWarning
        If the files are damaged.
    """
    path = folder / f"{run.stem}.json"
    if not path.exists():
        return None
    try:
        return _finished_run(path, run)
    except (InvalidFileError, FileNotFoundError) as error:
        warnings.warn(
            f"the stored result of {run.stem} is damaged, and is computed again: {error}",
            stacklevel=2,
        )
        return None


def _finished_run(path: Path, run: Run) -> RunResult | None:
    content, archive = read_json(path), path.with_suffix(".npz")
    with refuse_misfits(path, "the result of a run"):
        expected = content.pop("digest", None)  # which failed runs and the first version lack
        if expected is not None and expected != _digest(content, existing_file(archive)):
            raise ValueError("its digest is not that of its content")
        if content["status"] != "done" or "estimator" not in content:
            return None
        if stored_run(content) != run:
            raise ValueError("it is that of another run")
        for name, kind in _ENTRIES.items():
            if not isinstance(content[name], kind):
                raise ValueError(f"{name} is {content[name]!r:.60}")
        for name in ("accuracy", "binary_accuracy"):
            if not 0 <= content["metrics"][name] <= 1:
                raise ValueError(f"{name} is {content['metrics'][name]!r:.60}")
    bits = read_npz(archive, ("right", "right_binary"))
    with refuse_misfits(archive, "the result of a run"):
        right, right_binary = (
            _unpacked(bits[name], content["n_test"]) for name in ("right", "right_binary")
        )
    known = {*_stored(run), "status", "reason"}
    rest = {key: value for key, value in content.items() if key not in known}
    return RunResult(run, "done", "", rest, right, right_binary)


def _digest(content: dict[str, Any], archive: Path) -> str:
    """Digest of the entries of a run, as read from its file, and of the file beside it."""
    return digest(json.dumps(content, sort_keys=True).encode() + archive.read_bytes())


def _unpacked(packed: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(packed)
    if bits.ndim != 1 or not 0 <= bits.size - size < 8:
        raise ValueError(f"there are {bits.size} entries for {size} test signals")
    return bits[:size].astype(bool)
