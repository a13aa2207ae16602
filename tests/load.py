"""Long work whose memory, threads, descriptors and temporary files must stay level.

    python -m tests.load --fits 10000
    python -m tests.load --candidates 500
    python -m tests.load --voxels 30000000 --limit-mb 3000

prints ten rows of what the process holds, and fails if the last is above the second: `fits` fits
and saves small models in a loop, `candidates` is one search, and `voxels` maps an image from disk
to disk while the system refuses more memory than the limit.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from corrsk import (
    AcquisitionProtocol,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    ResidualMLPClassifier,
    SignalNormalizer,
    SignalPipeline,
    SimulationTrainedClassifier,
    load,
    make_correlation_signals,
    save,
)
from corrsk.model_selection import StackedGridSearchCV

_N_ROWS = 10
_SLACK_MB = 30.0  # of the allocator, which keeps freed memory
_PROTOCOL = AcquisitionProtocol.from_grid(ti=[50, 400, 2000], te=[10, 50, 150])


@dataclass(frozen=True)
class Held:
    """What a process holds.

    Parameters
    ----------
    memory_mb : float
        Resident memory.
    threads, descriptors : int
        Numbers of both.
    shared, temporary : int
        Numbers of its files in /dev/shm and in the folder of temporary files.
    """

    memory_mb: float
    threads: int
    descriptors: int
    shared: int
    temporary: int


def held(folder: Path) -> Held:
    """What this process holds now; temporary files are those of a folder."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Held(
        int(status["VmRSS"].split()[0]) / 1024,
        int(status["Threads"]),
        len(list(Path("/proc/self/fd").iterdir())),
        # joblib and torch name theirs by the process; other programs have files there too
        sum(f"_{os.getpid()}_" in path.name for path in Path("/dev/shm").iterdir()),
        sum(1 for _ in folder.rglob("*")),
    )


def grown(first: Held, last: Held) -> list[str]:
    """Names of what has grown."""
    return [
        field.name
        for field, before, after in zip(fields(Held), astuple(first), astuple(last), strict=True)
        if after > before + (_SLACK_MB + 0.05 * before if field.name == "memory_mb" else 0)
    ]


def watch(steps: Iterator[int], n_steps: int, folder: Path) -> list[str]:
    """Go through steps, print ten rows, and return what has grown since the second row."""
    print("      done  " + "  ".join(f"{field.name:>11}" for field in fields(Held)) + "     time")
    rows: list[Held] = []
    started = time.monotonic()
    for done in steps:
        if done >= (len(rows) + 1) * n_steps / _N_ROWS:
            rows.append(held(folder))
            values = "  ".join(f"{value:11.6g}" for value in astuple(rows[-1]))
            print(f"{done:10}  {values}  {time.monotonic() - started:5.0f} s", flush=True)
    return grown(rows[1], rows[-1])


def fits(n_fits: int, folder: Path) -> Iterator[int]:
    """Fit, save, load and use small models."""
    X, y = make_correlation_signals(60, protocol=_PROTOCOL, random_state=0, verbose=False)
    y = np.minimum(y, 2)
    path = folder / "model.safetensors"
    makers: list[Callable[[int], object]] = [
        lambda seed: ResidualMLPClassifier(
            width=4, n_blocks=1, max_epochs=1, random_state=seed, device="cpu", verbose=False
        ),
        lambda seed: NNLSPeakClassifier(_PROTOCOL, n_bins=6, verbose=False),
        lambda seed: MultiExponentialClassifier(
            _PROTOCOL, counts=(1, 2), n_starts=1, max_steps=3, random_state=seed, verbose=False
        ),
    ]
    for number in range(n_fits):
        estimator = makers[number % len(makers)](number)
        model = SignalPipeline([("norm", SignalNormalizer()), ("model", estimator)])
        save(model.fit(X, y), path)
        load(path).predict(X[:3])
        yield number + 1


def search(n_candidates: int, folder: Path) -> Iterator[int]:
    """One search of many candidates, which reports its fits."""
    X, y = make_correlation_signals(200, protocol=_PROTOCOL, random_state=0, verbose=False)
    done = 0
    grid = {"learning_rate": np.geomspace(1e-4, 1e-1, n_candidates // 10).tolist(),
            "weight_decay": np.linspace(0, 0.1, 10).tolist()}  # fmt: skip
    network = ResidualMLPClassifier(
        width=4, n_blocks=1, max_epochs=1, random_state=0, device="cpu", verbose=False
    )
    for part in np.array_split(np.array(grid["learning_rate"]), _N_ROWS):
        own = grid | {"learning_rate": part.tolist()}
        found = StackedGridSearchCV(network, own, cv=2).fit(X, y)
        assert np.isfinite(found.cv_results_["mean_test_score"]).all()
        done += len(found.cv_results_["params"])
        yield done


def maps(n_voxels: int, folder: Path) -> Iterator[int]:
    """Map an image that is larger than the memory, in ten parts."""
    import nibabel

    from corrsk.workflows.mapping import MapSettings, find_subjects, map_subjects

    network = ResidualMLPClassifier(width=8, n_blocks=1, max_epochs=1, device="cpu")
    model = SimulationTrainedClassifier(
        _PROTOCOL, network=network, novelty=False, n_samples=2000, n_validation=100,
        random_state=0, verbose=False,
    )  # fmt: skip
    save(model.fit(), folder / "model.safetensors")
    _PROTOCOL.to_json(folder / "times.json")
    side = 1000
    depth = max(n_voxels // side**2 // _N_ROWS, 1)
    header = nibabel.Nifti1Header()
    header.set_data_shape((side, side, depth, _PROTOCOL.n_measurements))
    header.set_data_dtype(np.int16)
    header.set_slope_inter(1e-4, 0)
    header["magic"], header["vox_offset"] = b"n+1", 352
    scan = folder / "scan.nii"
    rng = np.random.default_rng(0)
    with scan.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(_PROTOCOL.n_measurements * depth):
            file.write((1000 + rng.integers(0, 9000, side**2)).astype("<i2").tobytes())
    for part in range(_N_ROWS):
        subjects = find_subjects(scan, times=folder / "times.json")
        settings = MapSettings(folder / "model.safetensors")
        map_subjects(subjects, folder / "out", settings, verbose=False)
        for path in (folder / "out").rglob("*"):
            if path.is_file():
                path.unlink()
        yield (part + 1) * side**2 * depth


def main() -> int:
    """Run one kind of work; return whether something has grown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fits", type=int)
    parser.add_argument("--candidates", type=int)
    parser.add_argument("--voxels", type=int)
    parser.add_argument("--limit-mb", type=int, default=3000)
    given = parser.parse_args()
    if given.voxels:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (given.limit_mb * 2**20, most))
    works = [
        (work, number)
        for work, number in ((fits, given.fits), (search, given.candidates), (maps, given.voxels))
        if number
    ]
    all_grown = []
    for work, number in works:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            all_grown += watch(work(number, Path(folder)), number, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB; {', '.join(all_grown) or 'nothing'} has grown")
    return int(bool(all_grown))


if __name__ == "__main__":
    sys.exit(main())
