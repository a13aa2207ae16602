"""What the benchmarks share: paired rounds, ratios, and a record beside the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from corrsk._files import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("corrsk", "numba", "numpy", "scikit-learn", "skorch", "torch")


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired_rounds(
    rivals: dict[str, Callable[[], Any]], rounds: int, warm_up: Collection[str] | None = None
) -> dict[str, list[float]]:
    """Seconds of each rival in each round; the rivals take turns within a round.

    A ratio within a round then holds even where the machine's speed drifts. One
    round before the first is not counted; it is of `warm_up` alone, if some rivals
    warm up what the others need.
    """
    for name in rivals if warm_up is None else warm_up:
        rivals[name]()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, work in rivals.items():
            times[name].append(seconds(work))
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> dict[str, float]:
    """Minimum, median and maximum over the rounds of one rival's time over another's."""
    ratios = [a / b for a, b in zip(times[name], times[to], strict=True)]
    return {
        "min": round(min(ratios), 3),
        "median": round(statistics.median(ratios), 3),
        "max": round(max(ratios), 3),
    }


def processor() -> str:
    """Model name of the processor, or its kind where the system does not tell the name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


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
