"""The examples run unchanged and print what they promise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests._helpers import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
# a part of the last lines of each
PROMISED = {
    "abstain_and_warn.py": "70 % single: [",
    "compare_learners.py": "one of your own, brier: 0.",
    "data_sets.py": "from .mat: (5000, 64) of grid (8, 8)",
    "fit_and_judge.py": "P(more than one compartment): [",
    "imperfect_pulses.py": "at a loss of 2 % per echo",
    "grid_search.py": "best learning rate: 0.01",
    "ideal_observer.py": "accuracy_low",
    "relaxometry_fits.py": "T1_2",
    "run_workflows.py": "count accuracy of the thesis",
    "search_on_a_cluster.py": "mean of the first measurements: [",
    "search_protocols.py": "published 8 x 8, afresh",
    "select_measurements.py": "binary accuracy",
    "signal_model.py": "1 TE x 4 tau",
    "simulate_signals.py": "10 TI x 8 TE",
    "train_networks.py": "b 0..2 ms/um^2: accuracy 0.",
    "use_pretrained.py": "read ResidualMLPClassifier",
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_example(name, tmp_path):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert PROMISED[name] in result.stdout
    assert not list(tmp_path.iterdir())  # nothing is left behind
