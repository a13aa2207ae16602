"""Wheel and sdist that are built, installed in a clean environment, and used there.

    python -m tests.packages                      # installs all dependencies: minutes, 1 GB
    python -m tests.packages --borrow             # uses the packages of this environment but corrsk
    python -m tests.packages --folder env         # keeps the environment

builds both from a copy of the files of this folder. The wheel and the sdist must have every file of
the package. The wheel, and a wheel that is built from the sdist, are installed one after the other;
a script in an empty folder then imports, simulates, saves, loads and predicts with a shipped model,
and runs the command. At last mypy checks a program of a user against the installed package, whose
types it has by ``py.typed``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from tests.test_public_api import MISTAKES, PROGRAM

ROOT = Path(__file__).parents[1]
_COPIED = ("corrsk", "pyproject.toml", "README.md", "LICENSE")
_IGNORED = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
_BUILD = "import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
SMOKE = """
import subprocess, sys
from pathlib import Path
import numpy as np
import corrsk
from corrsk import SignalNormalizer, load, load_pretrained, make_correlation_signals, save
from corrsk.pretrained import pretrained_names

assert Path(corrsk.__file__).is_relative_to(sys.prefix), corrsk.__file__
X, y = make_correlation_signals(200, random_state=0, verbose=False)
for name in pretrained_names():
    load_pretrained(name)
probabilities = load_pretrained("midl2024").predict_proba(X)
assert probabilities.shape == (200, 4)
assert (probabilities.argmax(axis=1) + 1 == y).mean() > 0.5
save(SignalNormalizer().fit(X), "normalizer.safetensors")
assert np.array_equal(load("normalizer.safetensors").transform(X), SignalNormalizer().fit_transform(X))
command = Path(sys.executable).with_name("corrsk")
subprocess.run([command, "simulate", "data.npz", "--samples", "1000"], check=True)
assert np.load("data.npz")["data"].shape == (1000, 64)
version = subprocess.run([command, "--version"], check=True, capture_output=True, text=True).stdout
assert version.split() == ["corrsk", corrsk.__version__]
"""  # noqa: E501


def package_files(folder: Path) -> set[str]:
    """Files of the package in a folder, such as 'corrsk/py.typed'."""
    return {
        path.relative_to(folder).as_posix()
        for path in (folder / "corrsk").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def built(kind: str, source: Path, out: Path) -> Path:
    """Build a "wheel" or an "sdist" in a folder, from an unpacked source; its path."""
    out.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-c", _BUILD.format(kind=kind), str(out)], cwd=source, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (found,) = out.iterdir()
    return found


def build_all(folder: Path) -> tuple[Path, Path]:
    """Build the wheel, the sdist, and a wheel of the sdist.

    Parameters
    ----------
    folder : Path
        A new folder.

    Returns
    -------
    wheel, wheel_of_sdist : Path
        Paths of both wheels.

    Raises
    ------
    RuntimeError
        If the wheels or the sdist have other files than the package.
    """
    source = folder / "source"
    source.mkdir(parents=True)
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=_IGNORED)
        else:
            shutil.copy(ROOT / name, source)
    expected = package_files(source)
    wheel = built("wheel", source, folder / "wheel")
    with tarfile.open(built("sdist", source, folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    wheel_of_sdist = built("wheel", unpacked, folder / "wheel-of-sdist")
    contents = {"sdist": package_files(unpacked)}
    for path in (wheel, wheel_of_sdist):
        with zipfile.ZipFile(path) as archive:
            names = {name for name in archive.namelist() if name.startswith("corrsk/")}
        contents[str(path.relative_to(folder))] = names
    for name, found in contents.items():
        if found != expected:
            raise RuntimeError(f"the {name} has other files: {sorted(found ^ expected)}")
    return wheel, wheel_of_sdist


def environment(folder: Path, borrow: bool) -> Path:
    """Python of a new environment, or of one that is there."""
    python = folder.resolve() / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        if borrow:
            # a path in a file .pth; the files .pth in that folder have no effect, and those of an
            # editable corrsk are among them
            (site,) = folder.resolve().glob("lib/python*/site-packages")
            (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def mypy(python: Path, folder: Path) -> list[int]:
    """Lines with errors of a script of a user, by the mypy of this environment."""
    (folder / "program.py").write_text(PROGRAM)
    command = [
        sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-incremental",
        "--python-executable", str(python), "program.py",
    ]  # fmt: skip
    lines = subprocess.run(
        command, cwd=folder, env=_clean(), check=False, capture_output=True, text=True
    ).stdout.splitlines()
    print("mypy:", *lines, sep="\n    ", flush=True)
    return [int(line.split(":", 2)[1]) for line in lines if ": error: " in line]


def _clean() -> dict[str, str]:
    """Environment variables without paths of this project."""
    return {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")
    }


def main() -> int:
    """Build, install, use; return whether something failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="folder of the environment, which is kept")
    parser.add_argument("--borrow", action="store_true", help="use the packages of this one")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wheels = build_all(work / "build")
        print("wheel and sdist have every file of the package", flush=True)
        python = environment(given.folder or work / "env", given.borrow)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for wheel in wheels:
            name = str(wheel.relative_to(work / "build"))
            extra = ["--no-deps"] if given.borrow or wheel != wheels[0] else []
            what = str(wheel) if extra else f"{wheel}[cli]"
            constraint = ["--constraint", str(ROOT / "constraints.txt")]
            subprocess.run(
                [*pip, *constraint, *extra, "--force-reinstall" if extra else "--upgrade", what],
                cwd=work, env=_clean(), check=True,
            )  # fmt: skip
            place = work / f"used-{wheel.parent.name}"
            place.mkdir()
            subprocess.run([str(python), "-c", SMOKE], cwd=place, env=_clean(), check=True)
            print(f"{name}: installed and used", flush=True)
        return int(mypy(python, work) != list(MISTAKES))


if __name__ == "__main__":
    sys.exit(main())
