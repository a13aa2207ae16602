"""Optional dependencies: corrsk works without them, and names the extra that installs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

# As if the packages of the extra `cli` were not installed; skorch installs tabulate.
WITHOUT_CLI = """
import importlib.abc, importlib.util, sys

MISSING = {"typer", "rich", "jinja2", "pyarrow", "yaml"}


class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name.partition(".")[0] in MISSING else found(name, package)
)
sys.meta_path.insert(0, Hidden())
"""


def run(code: str, missing: str = "") -> subprocess.CompletedProcess[str]:
    hidden = f"MISSING |= {{{missing!r}}}\n"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_CLI + hidden + code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_modules_import_without_the_extra_cli():
    code = """
import pkgutil, corrsk
for module in pkgutil.walk_packages(corrsk.__path__, "corrsk."):
    if not module.name.startswith(("corrsk.cli", "corrsk.workflows.comparison")):
        importlib.import_module(module.name)
"""
    result = run("import importlib\n" + code)
    assert result.returncode == 0, result.stderr


def test_the_command_without_its_extra_is_one_sentence():
    result = run("from corrsk.cli import main\nsys.argv = ['corrsk', '--help']\nmain()")
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "pip install 'corrsk[cli]'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_comparison_names_the_extra_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(
        "from corrsk.workflows.comparison import ComparisonSettings, compare\n"
        "compare(ComparisonSettings(), 'absent-folder')"
    )
    assert "ImportError" in result.stderr.splitlines()[-1]
    assert "pip install 'corrsk[cli]'" in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_images_without_nibabel_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = """
import numpy as np
from corrsk import SignalMasker, load_images
images = load_images(np.ones((2, 3, 64)), "ir-se-8x8")  # arrays need no nibabel
assert SignalMasker().fit(images).transform(images).shape == (6, 64)
open("scan.nii", "w").close()
load_images("scan.nii", "ir-se-8x8")
"""
    result = run(code, missing="nibabel")
    assert "ImportError: reading and writing NIfTI images needs nibabel" in result.stderr
    assert "pip install 'corrsk[imaging]'" in result.stderr.splitlines()[-1]


def test_the_import_of_corrsk_and_its_images_leaves_nibabel_out():
    result = run("import corrsk, corrsk.imaging\nprint('nibabel' in sys.modules)")
    assert result.stdout.strip() == "False", result.stderr


def test_a_report_without_nilearn_names_the_extra_before_the_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = """
import numpy as np
from corrsk.workflows.mapping import MapSettings, find_subjects, map_subjects
np.savez("scan.npz", S=np.ones((2, 3, 1, 64)))
subjects = find_subjects("scan.npz", times="ir-se-8x8")
map_subjects(subjects, "out", MapSettings("midl2024", report=True))
"""
    result = run(code, missing="nilearn")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: an HTML report needs jinja2 and nilearn"), result.stderr
    assert "pip install 'corrsk[report]'" in last
    assert not (tmp_path / "out").exists()
