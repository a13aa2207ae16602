"""The examples run unchanged and write their figures and tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests._helpers import ROOT

EXAMPLES = ROOT / "examples"
PROMISED = {
    "abstain_and_warn.py": "abstain_and_warn.png",
    "simulate_signals.py": "simulate_signals.png",
    "fit_and_judge.py": "fit_and_judge.png",
    "grid_search.py": "grid_search.csv",
    "search_on_a_cluster.py": "search_on_a_cluster.csv",
    "search_protocols.py": "search_protocols.png",
    "select_measurements.py": "select_measurements.png",
    "use_pretrained.py": "use_pretrained.csv",
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_example(name, tmp_path):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / PROMISED[name]).stat().st_size > 100


def test_the_quick_start_of_the_readme_runs(tmp_path):
    """Code of an example, with fewer voxels and epochs."""
    text = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    smaller = {
        "100_000": "3_000",
        "20_000": "2_000",
        "CNNClassifier(random_state=0)": "CNNClassifier(random_state=0, max_epochs=2)",
        "40_000_000": "3_000",
        '"residual-mlp", random_state=0': '"residual-mlp", random_state=0, max_epochs=2',
        "to_grid(signals)": "to_grid([[0.0] * 20])",
    }
    for long, short in smaller.items():
        assert long in script
        script = script.replace(long, short)
    (tmp_path / "quick_start.py").write_text(script, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "quick_start.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.safetensors").exists()
