"""Mutants of the numerical code that the narrow tests do not notice, by mutmut.

    python -m tests.mutation                         # every mutant of every room: hours
    python -m tests.mutation --room physics --sample 200

Each room is a part of corrsk with the tests that must notice a change of it. mutmut (extra `dev`)
changes an operator, number, argument or name at a time in a copy of the project, and runs the tests
that reach it. The script prints the share of mutants that are noticed, and the diff of each of the
others: it has the same behaviour (an equivalent mutant), is a text of a message, or shows that a
test is missing. Docs of the survivors that were looked at: docs/results/robustness.md.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_COPIED = ("corrsk", "tests", "examples", "pyproject.toml", "setup.cfg")
# patterns of the mutated files, and the tests that must notice
ROOMS: dict[str, tuple[list[str], list[str]]] = {
    "physics": (["corrsk/physics/*"], ["tests/physics"]),
    "tissue": (["corrsk/tissue/*"], ["tests/tissue"]),
    "acquisition": (["corrsk/acquisition/*"], ["tests/acquisition"]),
    "generator": (
        ["corrsk/simulation/generator.py", "corrsk/simulation/_blocks.py"],
        ["tests/simulation/test_generator.py", "tests/tissue/test_nuisances.py"],
    ),
    "evaluation": (
        [f"corrsk/evaluation/{name}.py" for name in (
            "calibration", "compartments", "evaluation", "intervals", "metrics", "predictions",
            "scorers", "selective", "tasks",
        )],
        ["tests/evaluation"],
    ),
}  # fmt: skip
_KILLED, _SURVIVED, _UNTESTED = 1, 0, 33  # exit codes of mutmut; others: time, memory


class Project:
    """Copy of the project in which mutmut changes one room.

    Parameters
    ----------
    room : str
        Name of the room.
    folder : Path
        Folder of the copy, which keeps the results of an interrupted run.
    """

    def __init__(self, room: str, folder: Path) -> None:
        self.folder = folder
        patterns, tests = ROOMS[room]
        folder.mkdir(parents=True, exist_ok=True)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / name, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy(source, folder / name)
        settings = {
            "source_paths": ["corrsk"],
            "only_mutate": patterns,
            "also_copy": ["corrsk"],
            "pytest_add_cli_args_test_selection": tests,
            "pytest_add_cli_args": ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly"],
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
            file.write("\n[tool.mutmut]\n" + "\n".join(lines) + "\n")

    def run(self, *names: str) -> int:
        """Run mutmut for mutants of these names or patterns."""
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
        with (self.folder / "mutmut.log").open("ab") as log:
            return subprocess.run(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, check=False
            ).returncode

    def outcomes(self) -> dict[str, int | None]:
        """Exit code of each mutant; None before its run."""
        found: dict[str, int | None] = {}
        for path in sorted((self.folder / "mutants").rglob("*.meta")):
            found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        return found

    def difference(self, name: str) -> str:
        """Changed lines of a mutant."""
        shown = subprocess.run(
            [sys.executable, "-m", "mutmut", "show", name],
            cwd=self.folder, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        lines = shown.splitlines()
        return "\n".join(
            f"    {line}" for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")
        )


def main() -> None:
    """Run the rooms; print a table and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--room", choices=ROOMS, action="append")
    parser.add_argument("--sample", type=int, help="number of mutants of a room, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keeps the copies, to continue a run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for room in given.room or ROOMS:
            project = Project(room, (given.folder or Path(temporary)) / room)
            project.run("no mutant has this name")  # makes the mutants, and runs the tests once
            names = sorted(project.outcomes())
            if not names:
                raise SystemExit((project.folder / "mutmut.log").read_text(encoding="utf-8"))
            if given.sample is not None:
                drawn = random.Random(given.seed).sample(names, min(given.sample, len(names)))
                names = sorted(drawn)
            project.run(*names)
            outcomes = {name: project.outcomes()[name] for name in names}
            counts = collections.Counter(outcomes.values())
            n_left = counts[_SURVIVED] + counts[_UNTESTED]
            print(
                f"{room}: {len(names)} mutants, {len(names) - n_left - counts[None]} noticed "
                f"({counts[_KILLED]} by a failure), {n_left} not, {counts[None]} not run; "
                f"{1 - n_left / max(len(names) - counts[None], 1):.1%}", flush=True,
            )  # fmt: skip
            for name, code in outcomes.items():
                if code in (_SURVIVED, _UNTESTED):
                    print(f"  {name}{' (no test)' * (code == _UNTESTED)}", flush=True)
                    print(project.difference(name), flush=True)


if __name__ == "__main__":
    main()
