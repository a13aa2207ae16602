"""The examples run unchanged and print what they promise."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import warnings

import matplotlib.pyplot as plt
import pytest

from tests._helpers import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
# a part of the last lines of each
PROMISED = {
    "a_head_in_one_command.py": "lesion        2 compartments, mean P(more than one) ",
    "abstain_and_warn.py": "70 % single: [",
    "compare_learners.py": "one of your own, brier: 0.",
    "data_sets.py": "from .mat: (5000, 64) of grid (8, 8)",
    "fit_and_judge.py": "P(more than one compartment): [",
    "how_noisy_are_my_data.py": "simulated with this noise: (1600, 64)",
    "my_scanners_data.py": "of the voxels counted right",
    "imperfect_pulses.py": "at a loss of 2 % per echo",
    "grid_search.py": "best learning rate: 0.01",
    "images_to_maps.py": "of the voxels",
    "ideal_observer.py": "accuracy_low",
    "magnitude_or_signed.py": "all signs right: 0.9",
    "relaxometry_fits.py": "T1_2",
    "run_workflows.py": "count accuracy of the thesis",
    "search_on_a_cluster.py": "mean of the first measurements: [",
    "search_protocols.py": "published 8 x 8, afresh",
    "select_measurements.py": "binary accuracy",
    "signal_model.py": "1 TE x 4 tau",
    "simulate_signals.py": "10 TI x 8 TE",
    "spectra_and_windows.py": "mean T2: [",
    "spatial_context.py": "noise 0.03",
    "train_a_model_of_my_scanner.py": "the loaded model gives the same map: True",
    "train_networks.py": "b 0..2 ms/um^2: accuracy 0.",
    "which_compartments.py": "predicted",
    "use_pretrained.py": "read ResidualMLPClassifier",
}
# those whose own processes need the script of a main process
WITH_PROCESSES = {"run_workflows.py", "search_on_a_cluster.py", "search_protocols.py"}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PROMISED)


@pytest.mark.parametrize("name", sorted(WITH_PROCESSES))
def test_example_with_processes(name, tmp_path):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONWARNINGS": "ignore", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert PROMISED[name] in result.stdout
    assert not list(tmp_path.iterdir())  # nothing is left behind


@pytest.mark.parametrize("name", [name for name in PROMISED if name not in WITH_PROCESSES])
def test_example(name, tmp_path, monkeypatch, capsys, contrasts):
    """In this process, in a namespace of its own: a new process would import torch for seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name)])
    plt.switch_backend("Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    plt.close("all")
    assert PROMISED[name] in capsys.readouterr().out
    assert not list(tmp_path.iterdir())  # nothing is left behind
