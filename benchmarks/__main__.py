"""Run benchmarks one after another, each in a process of its own.

python -m benchmarks                     the yardsticks of speed, named below
python -m benchmarks simulation scaling  these, in this order
python -m benchmarks --all               all there are, which takes hours
python -m benchmarks --list              their names, and what each measures
python -m benchmarks --table             write the README's figures from what is recorded

Each writes results/NAME.json, and is a program of its own as well: python
benchmarks/NAME.py, some with options (--help). A benchmark that fails does not
stop the others, but the exit status is then 1.
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
    "simulation", "training_epoch", "streaming", "prediction", "grid_search", "search_scaling",
    "scaling",
)  # fmt: skip
NEED_GPU = ("gpu", "stacked_search")


def known_names() -> list[str]:
    """The benchmarks that there are, sorted."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def first_line(name: str) -> str:
    """The first line of a benchmark's docstring, without importing what it imports."""
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def has_gpu() -> bool:
    import torch  # not before it is known that something is to be run

    return torch.cuda.is_available()


def selected(arguments: argparse.Namespace) -> list[str]:
    """Names of the benchmarks to run."""
    if arguments.names:
        return list(dict.fromkeys(arguments.names))
    known = known_names()
    names = known if arguments.all else [*YARDSTICKS, *NEED_GPU]
    if has_gpu():
        return names
    print(f"no GPU here: without {', '.join(NEED_GPU)}")
    return [name for name in names if name not in NEED_GPU]


def run(names: Sequence[str]) -> list[str]:
    """Run benchmarks in turn; the names of those that failed."""
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
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"Yardsticks: {', '.join(YARDSTICKS)}; with a GPU also {', '.join(NEED_GPU)}, which "
        "--all leaves out too where there is none.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run")
    parser.add_argument("--all", action="store_true", help="run all of them")
    parser.add_argument("--list", action="store_true", help="list them, and run none")
    parser.add_argument("--table", action="store_true", help="write the README, and run none")
    arguments = parser.parse_args(argv)
    known = known_names()
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"unknown benchmarks: {', '.join(unknown)}; known: {', '.join(known)}")
    if arguments.all and arguments.names:
        parser.error("--all runs every benchmark: give it no names")
    if arguments.list:
        for name in known:
            print(f"{name:16} {first_line(name)}")
        return 0
    if arguments.table:
        from benchmarks import _table  # and with it corrsk, which nothing else here needs

        _table.rewrite()
        return 0
    return 1 if run(selected(arguments)) else 0


if __name__ == "__main__":
    sys.exit(main())
