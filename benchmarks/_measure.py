"""What the benchmarks share: paired rounds, ratios, memory, and a record beside the machine."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from corrsk._utils.files import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("corrsk", "numba", "numpy", "scikit-learn", "skorch", "torch")
LOAD = os.getloadavg()[0]  # of the last minute before the benchmark: what else the machine did


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired_rounds(
    rivals: dict[str, Callable[[], Any]], rounds: int, warm_up: Collection[str] | None = None
) -> dict[str, list[float]]:
    """Seconds of each rival in each round; the rivals take turns within a round.

    A ratio within a round then holds where the machine's speed drifts slowly; where it
    changes within a round, the rounds' ratios lie far apart. One round before the first is
    not counted; it is of `warm_up` alone, if some rivals warm up what the others need.
    """
    for name in rivals if warm_up is None else warm_up:
        rivals[name]()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, work in rivals.items():
            times[name].append(seconds(work))
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> dict[str, float]:
    """One rival's time over another's: over the rounds, and of their best times."""
    ratios = [a / b for a, b in zip(times[name], times[to], strict=True)]
    return {
        "min": round(min(ratios), 3),
        "median": round(statistics.median(ratios), 3),
        "max": round(max(ratios), 3),
        "best times": round(min(times[name]) / min(times[to]), 3),
    }


def memory_now(what: str) -> int:
    """Bytes of this process: VmRSS it holds, VmHWM it held at its peak.

    Not `ru_maxrss`, in which a process has the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith(what))


def memory_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and how many bytes its peak lies over what was there before."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget earlier peaks
    before = memory_now("VmRSS")
    made = work()
    return made, memory_now("VmHWM") - before


def in_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns that a new process calls."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def processor() -> str:
    """Model name of the processor, or its kind where the system does not tell the name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit that was measured, "+" if files were changed since; None outside git."""
    here: dict[str, Any] = {
        "cwd": Path(__file__).parent,
        "capture_output": True,
        "text": True,
        "check": True,
    }
    try:
        name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **here).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "../corrsk", "*.py"], **here
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{name}+" if changed else name


def installed(package: str) -> str | None:
    """Version of a package; None where it is not installed, as an extra need not be."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def record(name: str, results: dict[str, Any]) -> None:
    """Print the results and write them, with the day, the machine and the versions."""
    content = {
        "command": f"python benchmarks/{name}.py",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "load average before": round(LOAD, 2),
        "machine": {
            "cores": os.cpu_count(),
            "processor": processor(),
            "architecture": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
            **{package: installed(package) for package in PACKAGES},
        },
        **results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_json(path, content)
    print(path.read_text(encoding="utf-8"), end="")
