"""What the benchmarks share: paired rounds, ratios, and a record beside the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("corrsk", "numba", "numpy", "scikit-learn", "skorch", "torch")


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired_rounds(rivals: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each rival in each round; the rivals take turns within a round.

    A ratio within a round then holds even where the machine's speed drifts. One
    round before the first is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, work in rivals.items():
            took = seconds(work)
            if number:
                times[name].append(took)
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> dict[str, float]:
    """Minimum, median and maximum over the rounds of one rival's time over another's."""
    ratios = [a / b for a, b in zip(times[name], times[to], strict=True)]
    return {
        "min": round(min(ratios), 3),
        "median": round(statistics.median(ratios), 3),
        "max": round(max(ratios), 3),
    }


def record(name: str, results: dict[str, Any]) -> None:
    """Print the results and write them beside the machine's class and the versions."""
    content = {
        "command": f"python benchmarks/{name}.py",
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        **results,
    }
    text = json.dumps(content, indent=1)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
