"""Run benchmarks one after another, each in a process of its own.

python -m benchmarks                     the standard benchmarks of speed, listed below
python -m benchmarks simulation scaling  the named benchmarks, in this order
python -m benchmarks --all               all benchmarks, which takes hours
python -m benchmarks --list              names and descriptions
python -m benchmarks --table             write the figures of docs/results/speed.md

Each benchmark writes results/NAME.json and can be run separately: python
benchmarks/NAME.py, some with options (--help). If a benchmark fails, the others
still run, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
YARDSTICKS = (
    "simulation", "echo_trains", "training_epoch", "streaming", "prediction", "grid_search",
    "search_scaling", "scaling",
)  # fmt: skip
NEED_GPU = ("gpu", "stacked_search")


def known_names() -> list[str]:
    """List the available benchmarks, sorted."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def first_line(name: str) -> str:
    """Return the first line of a benchmark's docstring, without importing the benchmark."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def has_gpu() -> bool:
    import torch  # slow; imported only if benchmarks are run

    return torch.cuda.is_available()


def selected(arguments: argparse.Namespace) -> list[str]:
    """Return the names of the benchmarks to run."""
    if arguments.names:
        return list(dict.fromkeys(arguments.names))
    known = known_names()
    names = known if arguments.all else [*YARDSTICKS, *NEED_GPU]
    if has_gpu():
        return names
    print(f"no GPU is available: skipping {', '.join(NEED_GPU)}")
    return [name for name in names if name not in NEED_GPU]


def run(names: Sequence[str]) -> list[str]:
    """Run benchmarks one after another; return the names of those that failed."""
    outcomes = {}
    for name in names:
        print(f"\n== {name}: {first_line(name)}", flush=True)
        start = time.perf_counter()
        status = subprocess.run([sys.executable, FOLDER / f"{name}.py"], check=False).returncode
        outcomes[name] = status, time.perf_counter() - start
    print()
    for name, (status, took) in outcomes.items():
        print(f"{name:16} {took:8.0f} s  {f'failed, exit status {status}' if status else 'done'}")
    return [name for name, (status, _) in outcomes.items() if status]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"Standard benchmarks: {', '.join(YARDSTICKS)}; with a GPU also "
        f"{', '.join(NEED_GPU)}, which --all skips without a GPU, too.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run")
    parser.add_argument("--all", action="store_true", help="run all benchmarks")
    parser.add_argument("--list", action="store_true", help="list the benchmarks, run none")
    parser.add_argument("--table", action="store_true", help="write the page of speed, run none")
    arguments = parser.parse_args(argv)
    known = known_names()
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"unknown benchmarks: {', '.join(unknown)}; known: {', '.join(known)}")
    if arguments.all and arguments.names:
        parser.error("--all runs every benchmark and accepts no names")
    if arguments.list:
        for name in known:
            print(f"{name:16} {first_line(name)}")
        return 0
    if arguments.table:
        from benchmarks import _table  # imports corrsk, which the other options do not need

        _table.rewrite()
        return 0
    return 1 if run(selected(arguments)) else 0


if __name__ == "__main__":
    sys.exit(main())
