"""The public interface: changes are announced, and its types reach the programs of users."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys

import pytest

from tests._helpers import ROOT
from tests._public_api import RECORD, lines


def test_no_name_or_signature_changes_unannounced():
    recorded = RECORD.read_text(encoding="utf-8").splitlines()
    changes = list(difflib.unified_diff(recorded, lines(), "recorded", "now", lineterm="", n=0))
    assert not changes, (
        "the public interface changed. Keep the old names for one release (SECURITY.md and "
        "CONTRIBUTING.md describe the policy), describe the change in CHANGELOG.md, and run "
        "python -m tests._public_api:\n" + "\n".join(changes)
    )


def test_the_record_describes_classes_functions_and_commands():
    recorded = RECORD.read_text(encoding="utf-8")
    assert "corrsk.evaluation.bootstrap_interval(" in recorded
    assert (
        "corrsk.acquisition.AcquisitionProtocol.from_grid(ti=None, te=None, b=None, *" in recorded
    )
    assert "$ corrsk map " in recorded
    assert "0x" not in recorded


PROGRAM = """
from typing import assert_type

import corrsk
from corrsk import AcquisitionProtocol, CorrelationCNNClassifier, load_pretrained
from corrsk.trained import SimulationTrainedClassifier

protocol = AcquisitionProtocol.from_grid(ti=[50, 400], te=[10, 40], tr=5000.0)
assert_type(protocol, AcquisitionProtocol)
assert_type(protocol.n_measurements, int)
assert_type(load_pretrained("midl2024"), SimulationTrainedClassifier)
network = CorrelationCNNClassifier(protocol=protocol, max_epochs=2)
assert_type(network, CorrelationCNNClassifier)
assert_type(corrsk.trained.SimulationTrainedClassifier, type[SimulationTrainedClassifier])
corrsk.save(network, "model.safetensors")
corrsk.save(network, 5)  # line 16
AcquisitionProtocol(ti=[50], te=[10], tm=[3])  # line 17
corrsk.lod("model.safetensors")  # line 18
"""
MISTAKES = (16, 17, 18)


@pytest.mark.slow
def test_a_type_checker_finds_the_mistakes_of_a_user(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    # as an installed package: on the path of Python, not on that of the type checker
    result = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--config-file=", "program.py",
            f"--cache-dir={ROOT / '.mypy_cache' / 'user'}",
        ],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    found = [line.split(": ", 2)[0] for line in result.stdout.splitlines() if ": error: " in line]
    assert found == [f"program.py:{number}" for number in MISTAKES], result.stdout
