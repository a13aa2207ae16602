"""Maps of a large image by `corrsk map`, and fits voxel by voxel.

python benchmarks/map_speed.py                   10^6 voxels, from a NIfTI file to all maps
python benchmarks/map_speed.py --voxels 10000000
python benchmarks/map_speed.py --voxels 100000000 --filled 1000000     others are zero
python benchmarks/map_speed.py --voxels 100000000 --dtype int16 --jobs 1

The image has the 8 x 8 protocol and the tissue of the shipped model `scanner-ir-se-8x8`, with a
signal-to-noise ratio of 30 to 100 in each voxel; the command runs in a process of its own. In the
same run, scipy.optimize.curve_fit fits some of the voxels in a loop, as it is usual (dipy and many
scripts do so): one compartment, and one to three of them with the smallest BIC. Both times are
those of the processor, user and system, so that other processes matter little; the wall time is
beside them. Target: 10^6 voxels in 25 s of wall time on two idle cores, below 1.5 GB. The image and
the maps of 10^8 voxels with signals need 13 GB (int16) and 10 GB of the disk.

Writes results/map_speed.json, one entry for each size; the entries of other sizes are kept.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from _measure import RESULTS, commit, memory_of_process, record
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from corrsk import AcquisitionProtocol, SNRRange, TissuePrior, make_correlation_signals
from corrsk._utils.files import read_json

MODEL, PROTOCOL, PRIOR = "scanner-ir-se-8x8", "ir-se-8x8", "t1t2-detr"
COUNTS = (1, 2, 3)
PER_SLICE, GAIN = 10_000, 1000.0  # at this gain, integers have a tenth of the least noise
TYPES = ("float32", "int16")
N_ONE, N_COUNTED = 200, 40  # voxels that are fitted in a loop
TARGET_SECONDS, TARGET_BYTES = 25, 1.5e9
POLL = 0.1  # seconds

Array = NDArray[Any]


def signals_of(n_signals: int, seed: int) -> Array:
    prior = TissuePrior.named(PRIOR, n_compartments=COUNTS)
    signals, _ = make_correlation_signals(
        n_signals, prior=prior, protocol=PROTOCOL, noise_level=SNRRange(30, 100),
        noise_reference="max", norm=None, random_state=seed, n_jobs=2, verbose=False,
    )  # fmt: skip
    return np.asarray(GAIN * signals, np.float32)


def write_image(path: Path, n_voxels: int, n_filled: int, dtype: str) -> None:
    """Write an image slice by slice, which need not fit in the memory; zero in its last slices."""
    side = int(PER_SLICE**0.5)
    n_slices = n_voxels // PER_SLICE
    protocol = AcquisitionProtocol.named(PROTOCOL)
    shape = (side, side, n_slices, protocol.n_measurements)
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_sform(np.diag([2.0, 2, 2, 1]), "scanner")
    offset = int(header.single_vox_offset)
    header.set_data_offset(offset)
    with path.open("wb") as file:
        header.write_to(file)
        file.truncate(offset + np.dtype(dtype).itemsize * n_voxels * protocol.n_measurements)
    values = np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r+", offset, shape, order="F")
    filled = n_filled // PER_SLICE
    for start in range(0, filled, 100):
        thick = min(100, filled - start)
        part = signals_of(thick * PER_SLICE, start)
        part = np.rint(part) if dtype == "int16" else part
        values[:, :, start : start + thick] = part.reshape(side, side, thick, -1)
    values.flush()


def seconds_of(usage: Any) -> float:
    return float(usage.ru_utime + usage.ru_stime)


def run_command(image: Path, out: Path, jobs: int) -> dict[str, Any]:
    """Run the command in a process of its own: times, and peak memory."""
    before = seconds_of(resource.getrusage(resource.RUSAGE_CHILDREN))
    start = time.perf_counter()
    command = ["map", image, out, "--times", PROTOCOL, "--model", MODEL, "--jobs", jobs]
    process = subprocess.Popen(
        [sys.executable, "-m", "corrsk.cli", *map(str, command)], stderr=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of_process(process.pid))
        time.sleep(POLL)
    wall = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"the command failed with exit status {process.returncode}")
    used = seconds_of(resource.getrusage(resource.RUSAGE_CHILDREN)) - before
    return {"wall seconds": round(wall, 1), "processor seconds": round(used, 1),
            "peak memory in bytes": peak}  # fmt: skip


def model_of(n_compartments: int, ti: Array, te: Array) -> Any:
    """Sum of signals of compartments, of log T1, log T2 and amplitude of each."""

    def predicted(_: Array, *unknowns: float) -> Array:
        total = np.zeros(ti.size)
        for k in range(n_compartments):
            log_t1, log_t2, amplitude = unknowns[3 * k : 3 * k + 3]
            recovery = 1 - 2 * np.exp(-ti / np.exp(log_t1))
            total += amplitude * recovery * np.exp(-te / np.exp(log_t2))
        return total

    return predicted


def fitted(signal: Array, n_compartments: int, ti: Array, te: Array) -> float:
    """BIC of a fit from the usual start; infinite without convergence."""
    size = np.abs(signal).max() / n_compartments
    start = [
        value for k in range(n_compartments) for value in (6.0 + k / 2, 4.0 + k / 2, size)
    ]  # fmt: skip
    model = model_of(n_compartments, ti, te)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # of errors, which are not used
            found, _ = curve_fit(model, ti, signal, p0=start, maxfev=2000)
    except RuntimeError:
        return np.inf
    squares = float(((signal - model(ti, *found)) ** 2).sum())
    return signal.size * np.log(squares / signal.size) + len(start) * np.log(signal.size)


def loops() -> dict[str, float]:
    """Processor seconds of a voxel in loops of fits."""
    protocol = AcquisitionProtocol.named(PROTOCOL)
    ti, te = np.asarray(protocol.ti), np.asarray(protocol.te)
    signals = signals_of(N_ONE, 1).astype(np.float64)
    times = {}
    for name, rows, counts in (
        ("one compartment", signals, (1,)),
        ("one to three compartments", signals[:N_COUNTED], COUNTS),
    ):
        start = time.process_time()
        for signal in rows:
            min(counts, key=lambda count, own=signal: fitted(own, count, ti, te))
        times[name] = (time.process_time() - start) / len(rows)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voxels", type=int, default=1_000_000, help="a multiple of 10,000")
    parser.add_argument("--filled", type=int, help="voxels with a signal; by default all")
    parser.add_argument("--dtype", choices=TYPES, default="float32", help="type of the image")
    parser.add_argument("--image", type=Path, help="file of the image, which is kept; used if it "
                        "is there")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="threads of the command")
    arguments = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)  # the command sets its threads
    with tempfile.TemporaryDirectory() as name, np.errstate(over="ignore"):
        folder = Path(name)
        filled = arguments.filled or arguments.voxels
        image = arguments.image or folder / "image.nii"
        if not image.exists():
            write_image(image, arguments.voxels, filled, arguments.dtype)
        found = run_command(image, folder / "maps", arguments.jobs)
        report = read_json(folder / "maps" / "report.json")
        maps = sorted(path.name for path in (folder / "maps").glob("*.nii.gz"))
    per_voxel = found["processor seconds"] / filled
    alone = loops()
    path = RESULTS / "map_speed.json"
    runs = read_json(path)["runs"] if path.exists() else {}
    runs[f"{arguments.voxels}, {filled} with a signal"] = found | {
        "commit": commit(),
        "voxels": arguments.voxels, "voxels with a signal": filled, "type": arguments.dtype,
        "mapped voxels": report["mask"]["n_voxels"],
        "load average": round(os.getloadavg()[0], 1), "threads": arguments.jobs,
        "seconds of the stages": report["seconds"], "maps": maps,
        "processor microseconds per voxel": round(1e6 * per_voxel, 2),
        "curve_fit, processor microseconds per voxel": {
            key: round(1e6 * value, 1) for key, value in alone.items()
        },
        "ratio of curve_fit to all maps": {
            key: round(value / per_voxel, 1) for key, value in alone.items()
        },
    }  # fmt: skip
    runs = dict(sorted(runs.items(), key=lambda item: item[1]["voxels"]))
    record("map_speed", {"target": {"wall seconds on two idle cores, 10^6 voxels": TARGET_SECONDS,
                                    "peak memory in bytes": TARGET_BYTES},
                         "runs": runs})  # fmt: skip


if __name__ == "__main__":
    main()
