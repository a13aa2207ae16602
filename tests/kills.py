"""Tasks that are killed at a random moment and resumed: the results must have the same bits.

    python -m tests.kills                     # a few kills of every task
    python -m tests.kills --kills 50 --task training --task map

Each task runs once without disturbance, which gives the expected results and its duration. It is
then run in an empty folder again and again, ended by SIGKILL at a random moment (one of four from
its start, the others from its first file on, if that is not near its end), and started a second
time as a user would start it (with ``--resume`` where there is such an option). The results must be
equal, and no partial files may be left. The script prints a table, with the number of kills before
which the task had left a file, such as a checkpoint.

The tasks are small, and write a checkpoint after each epoch. They run in forked processes, which
have the imports of this one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import corrsk
from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    ResidualMLPClassifier,
    SignalStream,
    load,
    make_correlation_signals,
    save,
)
from corrsk.cli import main as command
from corrsk.model_selection import StackedGridSearchCV
from corrsk.neural.training import checkpoint
from corrsk.pretrained import training as pretraining

_CONFIG = """
prior:
  n_compartments: [1, 2]
  ranges: {T1: {low: 200, high: 4000, scale: log}, T2: {low: 10, high: 500, scale: log}}
protocol:
  grid: {TI: [50, 500, 2000], TE: [10, 60, 150]}
noise: {snr: [50, 300], reference: max}
training: {samples: 10000, validation: 200, novelty: false, seed: 4}
"""
_LITTER = (".partial", ".tmp", ".lock")
_MOST_TRIALS = 3  # for each kill; the task may end before its moment
Results = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Work that is killed.

    Parameters
    ----------
    run : callable
        Does the work in a folder, or resumes it there.
    results : callable
        Plain results of the work in a folder.
    """

    run: Callable[[Path], None]
    results: Callable[[Path], Results]


def _signals() -> Any:
    return make_correlation_signals(1000, random_state=0, n_jobs=1, verbose=False)


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "checkpoint": folder / "checkpoint", "random_state": 0, "device": "cpu", "n_jobs": 1,
        "verbose": False,
    }  # fmt: skip


def _train(folder: Path) -> None:
    network = ResidualMLPClassifier(
        width=8, n_blocks=1, max_epochs=10, batch_size=100, **_settings(folder)
    )
    save(network.fit(*_signals()), folder / "model.safetensors")


def _train_compiled(folder: Path) -> None:
    network = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=4, backend="numba", **_settings(folder)
    )
    save(network.fit(*_signals()), folder / "model.safetensors")


def _stream(folder: Path) -> None:
    network = ResidualMLPClassifier(width=8, n_blocks=1, batch_size=200, **_settings(folder))
    network.fit_stream(SignalStream.named("midl2024-low-noise"), n_samples=10_000)
    save(network, folder / "model.safetensors")


def _probabilities(folder: Path) -> Results:
    (path,) = folder.glob("*.safetensors")
    model = load(path)
    n = model.n_features_in_
    X = np.random.default_rng(1).normal(size=(20, n)) if n != 64 else _signals()[0][:20]
    return {"probabilities": np.asarray(model.predict_proba(X)).tobytes()}


def _corrsk(*arguments: Any) -> None:
    """The command, as the shell runs it."""
    sys.argv = ["corrsk", *map(str, arguments)]
    try:
        command()
    except SystemExit as error:
        if error.code:
            raise RuntimeError(f"corrsk ended with {error.code}") from error


def _simulate(folder: Path) -> None:
    # as a user who finds no file, or a whole one
    _corrsk(
        "simulate", folder / "data.npz", "--samples", 20_000, "--seed", 3, "--force", "--jobs", 1
    )


def _arrays(folder: Path) -> Results:
    with np.load(folder / "data.npz") as file:
        return {name: file[name].tobytes() for name in file.files}


def _compare(folder: Path) -> None:
    _corrsk(
        "compare", "--models", "lda,logistic", "--train-sizes", "500,1000", "--samples", 3000,
        "--test-samples", 200, "--jobs", 1, "--device", "cpu", "--out", folder, "--resume",
    )  # fmt: skip


def _runs(folder: Path) -> Results:
    found: Results = {}
    for path in sorted(folder.rglob("*_seed*.npz")):
        with np.load(path) as file:
            found |= {f"{path.name}, {name}": file[name].tobytes() for name in file.files}
    for path in sorted(folder.rglob("*_seed*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[path.name] = content["metrics"]  # without times
    assert found
    return found


def _map(folder: Path) -> None:
    import nibabel

    from corrsk.workflows.mapping import MapSettings, find_subjects, map_subjects

    scan = folder / "scan.nii.gz"
    if not (folder / "times.json").exists():
        X = make_correlation_signals(4000, random_state=0, n_jobs=1, verbose=False, norm=None)[0]
        image = nibabel.Nifti1Image(X.reshape(10, 20, 20, 64).astype(np.float32), np.eye(4))
        nibabel.save(image, scan)
        AcquisitionProtocol.named("ir-se-8x8").to_json(folder / "times.json")
    settings = MapSettings("midl2024", slab_bytes=50_000)
    subjects = find_subjects(scan, times=folder / "times.json")
    map_subjects(subjects, folder / "out", settings, resume=True, verbose=False)


def _maps(folder: Path) -> Results:
    import nibabel

    paths = sorted((folder / "out").glob("*.nii.gz"))
    assert paths
    return {path.name: np.asarray(nibabel.load(path).dataobj).tobytes() for path in paths}


def _corrsk_train(folder: Path) -> None:
    config = folder / "mine.yaml"
    config.write_text(_CONFIG, encoding="utf-8")
    out = folder / "mine.safetensors"
    if not out.exists():
        _corrsk("train", config, "--out", out, "--device", "cpu", "--jobs", 1, "--resume")


def _pretrain(folder: Path) -> None:
    if not (folder / "midl2024-low-noise.json").exists():
        _corrsk(
            "pretrain", "midl2024-low-noise", "--samples", 6_000, "--device", "cpu", "--jobs", 1,
            "--out", folder,
        )  # fmt: skip


def _search(folder: Path) -> None:
    X, y = _signals()
    network = ResidualMLPClassifier(
        width=8, n_blocks=1, max_epochs=2, batch_size=200, random_state=0, device="cpu",
        verbose=False,
    )  # fmt: skip
    grid = {"learning_rate": [1e-3, 5e-3, 2e-2], "weight_decay": [0.0, 0.01]}
    search = StackedGridSearchCV(network, grid, cv=2).fit(X, y)
    scores = search.cv_results_["mean_test_score"].tolist()
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")


def _scores(folder: Path) -> Results:
    return {"scores": json.loads((folder / "scores.json").read_text(encoding="utf-8"))}


TASKS: dict[str, Task] = {
    "training": Task(_train, _probabilities),
    "compiled training": Task(_train_compiled, _probabilities),
    "stream": Task(_stream, _probabilities),
    "search": Task(_search, _scores),
    "simulate": Task(_simulate, _arrays),
    "pretrain": Task(_pretrain, _probabilities),
    "train": Task(_corrsk_train, _probabilities),
    "map": Task(_map, _maps),
    "compare": Task(_compare, _runs),
}


def _import_all() -> None:
    """Import what the tasks use, once for all forked processes."""
    for name in ("corrsk.cli.app", "corrsk.workflows.mapping", "nibabel", "numba", "torch._dynamo"):
        importlib.import_module(name)


def _shrink() -> None:
    """Make the parts of tasks small that have no parameter, in this process."""
    checkpoint.INTERVAL = 0.0
    pretraining._N_TEST = pretraining._N_VALIDATION = 300


def start(work: Callable[[], None], log: Path) -> int:
    """Start work in a forked process, whose imports are those of this one; its number."""
    number = os.fork()
    if number:
        return number
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            _shrink()
            work()
            os._exit(0)
        except BaseException:
            file.write(traceback.format_exc().encode())
            file.flush()
            os._exit(1)


def finish(work: Callable[[], None], log: Path) -> None:
    """Do work in a process of its own, to its end."""
    _, status = os.waitpid(start(work, log), 0)
    if status:
        raise RuntimeError(f"the work failed:\n{log.read_text(errors='replace')[-3000:]}")


def results_of(task: Task, folder: Path, log: Path) -> str:
    """Results of a task as text; computed in another process, so that this one may fork on."""
    path = folder.with_suffix(".results")
    finish(lambda: path.write_text(repr(task.results(folder)), encoding="utf-8") and None, log)
    return path.read_text(encoding="utf-8")


def litter(folder: Path) -> list[str]:
    """Names of partial files."""
    return [path.name for path in folder.rglob("*") if any(end in path.name for end in _LITTER)]


def kill(task: Task, moment: float, folder: Path, log: Path) -> bool:
    """Run a task and end it after some seconds; whether it was still running."""
    number = start(lambda: task.run(folder), log)
    time.sleep(moment)
    ended, _ = os.waitpid(number, os.WNOHANG)
    if ended:
        return False
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return True


def timed(task: Task, folder: Path, log: Path) -> tuple[float, float]:
    """Seconds of an undisturbed run until its first file, and until its end."""
    started = time.monotonic()
    number = start(lambda: task.run(folder), log)
    first = 0.0
    while True:
        ended, status = os.waitpid(number, os.WNOHANG)
        passed = time.monotonic() - started
        if not first and any(path.is_file() for path in folder.rglob("*")):
            first = passed
        if ended:
            break
        time.sleep(0.01)
    if status:
        raise RuntimeError(f"the work failed:\n{log.read_text(errors='replace')[-3000:]}")
    return first, passed


def check(name: str, n_kills: int, seed: int, root: Path) -> tuple[int, int, list[str]]:
    """Kill a task again and again.

    Returns
    -------
    n_running : int
        Number of kills of a running task; fewer if the task often ended before.
    n_resumed : int
        Number of those that had left a file.
    faults : list of str
        Moments after which the results differed, files were left, or the second run failed.
    """
    task, rng = TASKS[name], random.Random(seed)
    log = root / "log"
    whole = root / "whole"
    whole.mkdir()
    first, duration = timed(task, whole, log)
    expected = results_of(task, whole, log)
    n_running = n_resumed = 0
    faults = []
    late = first > duration / 2
    for trial in range(_MOST_TRIALS * n_kills):
        if n_running == n_kills:
            break
        folder = root / f"killed{trial}"
        folder.mkdir()
        moment = rng.uniform(0 if late or trial % 4 == 0 else first, duration)
        if not kill(task, moment, folder, log):
            continue  # the task was faster this time
        n_running += 1
        n_resumed += any(path.is_file() for path in folder.rglob("*"))
        try:
            finish(lambda folder=folder: task.run(folder), log)
            if results_of(task, folder, log) != expected:
                faults.append(f"other results after {moment:.2f} of {duration:.2f} s")
        except RuntimeError as error:
            faults.append(f"failed after {moment:.2f} of {duration:.2f} s: {error}")
        if litter(folder):
            faults.append(f"{litter(folder)} left after {moment:.2f} of {duration:.2f} s")
        shutil.rmtree(folder)
    return n_running, n_resumed, faults


def main() -> int:
    """Kill the tasks, print a table, and return whether there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"corrsk {corrsk.__version__}")
    print(f"{'task':20} {'kills':>6} {'had files':>10} {'faults':>7} {'seconds':>8}", flush=True)
    _import_all()
    n_faults = 0
    for name in given.task or TASKS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            n_running, n_files, faults = check(name, given.kills, given.seed, Path(folder))
        passed = time.monotonic() - started
        print(f"{name:20} {n_running:6} {n_files:10} {len(faults):7} {passed:8.0f}", flush=True)
        for fault in faults:
            print(f"    {fault}", flush=True)
        n_faults += len(faults)
    return min(n_faults, 1)


if __name__ == "__main__":
    sys.exit(main())
