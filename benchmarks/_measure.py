"""Shared functions of the benchmarks: paired rounds, ratios, memory, and records."""

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
LOAD = os.getloadavg()[0]  # load average of the last minute before the benchmark


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Measure the time of one call, by default the wall time."""
    start = clock()
    work()
    return clock() - start


def paired_rounds(
    rivals: dict[str, Callable[[], Any]],
    rounds: int,
    warm_up: Collection[str] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Measure the seconds of each alternative in each round; a round runs all alternatives.

    Ratios within a round are robust to slow drifts of the machine's speed; if the speed
    changes within rounds, the ratios of the rounds scatter. An initial round is
    not counted; it runs `warm_up` only, if some alternatives warm up the others.
    """
    for name in rivals if warm_up is None else warm_up:
        rivals[name]()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, work in rivals.items():
            times[name].append(seconds(work, clock))
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> dict[str, float]:
    """Ratio of the times of two alternatives: over the rounds, and of the best times."""
    ratios = [a / b for a, b in zip(times[name], times[to], strict=True)]
    return {
        "min": round(min(ratios), 3),
        "median": round(statistics.median(ratios), 3),
        "max": round(max(ratios), 3),
        "best times": round(min(times[name]) / min(times[to]), 3),
    }


def memory_now(what: str) -> int:
    """Memory of this process in bytes: VmRSS for the current value, VmHWM for the peak.

    `ru_maxrss` is not used, because it includes the peak of the parent process.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith(what))


def memory_of_process(number: int) -> int:
    """Peak memory of another process in bytes; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{number}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    return 0


def memory_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """Return the result of a call, and the growth of the peak memory in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = memory_now("VmRSS")
    made = work()
    return made, memory_now("VmHWM") - before


def in_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a new process, and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def processor() -> str:
    """Model name of the processor, or its architecture if the name is not available."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the measured commit, with "+" if files have changed since; None outside git."""
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
    """Return the version of a package; None if the package is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def record(name: str, results: dict[str, Any]) -> None:
    """Print the results and write them to a file with date, machine and versions."""
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
