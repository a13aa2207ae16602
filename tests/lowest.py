"""A short list of tests with the lowest versions that the metadata admit.

    python -m tests.lowest                       # all lower bounds of the core
    python -m tests.lowest --only numpy scikit-learn
    python -m tests.lowest --folder env          # keeps the environment for a next run

makes a virtual environment of its own in a temporary folder, installs the lower bounds of
pyproject.toml exactly, corrsk from this folder, and runs the numerical tests. With ``--only``, the
other packages have the versions of constraints.txt. torch is left at that of constraints.txt unless
it is named, because its earlier builds come with gigabytes for GPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/physics", "tests/tissue", "tests/simulation/test_generator.py",
    "tests/test_reference.py", "tests/persistence/test_files_of_versions.py",
)  # fmt: skip
_TOOLS = (
    "hypothesis", "jinja2", "nibabel", "numba", "pyarrow", "pytest", "pyyaml", "rich",
    "scikit-image", "skops", "tabulate", "typer",
)  # fmt: skip


def lower_bounds(metadata: str) -> dict[str, str]:
    """Lowest version of each package that pyproject.toml bounds, the extras included."""
    project = tomllib.loads(metadata)["project"]
    requirements = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        requirements += extra
    found = (re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=([0-9.]+)", one) for one in requirements)
    return {each[1]: each[2] for each in found if each}


def pinned(constraints: str) -> dict[str, str]:
    """Versions of constraints.txt."""
    lines = (line for line in constraints.splitlines() if "==" in line)
    return dict(line.lower().split("==", 1) for line in lines)


def chosen(only: list[str] | None) -> list[str]:
    """Requirements of the core and the tools, at their lowest or at their pinned version."""
    bounds = lower_bounds((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = lower_bounds(f"[project]\ndependencies = {project['dependencies']!r}\n"
                        "[project.optional-dependencies]\n")  # fmt: skip
    named = only or [name for name in core if name != "torch"]
    lowest = [f"{name}=={bounds[name]}" for name in named]
    rest = [name for name in (*core, *_TOOLS) if name not in named]
    return lowest + [f"{name}=={pins[name]}" if name in pins else name for name in rest]


def install(python: Path, only: list[str] | None) -> None:
    """Install the requirements and corrsk in an environment."""
    requirements = chosen(only)
    print("\n".join(requirements), flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)


def main() -> int:
    """Install and test; return the exit status of the tests."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--tests", nargs="+", default=TESTS)
    parser.add_argument("--folder", type=Path, help="folder of the environment, which is kept")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        python = folder.resolve() / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
            install(python, given.only)
        # old libraries warn of newer ones
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
        return subprocess.run(
            [*command, "-o", "filterwarnings=default", *given.tests], cwd=ROOT, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
