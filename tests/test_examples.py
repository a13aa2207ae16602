"""The examples run as they stand, and leave the picture or the table that they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PROMISED = {
    "simulate_signals.py": "simulate_signals.png",
    "fit_and_judge.py": "fit_and_judge.png",
    "grid_search.py": "grid_search.csv",
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
