"""Commands that write to a full disk, to a read-only folder, or where another process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from corrsk import AcquisitionProtocol, make_correlation_signals
from corrsk._utils.locks import exclusive
from corrsk.cli.app import app

CONFIG = """
prior: {n_compartments: [1, 2], ranges: {T2: {low: 10, high: 500, scale: log}}}
protocol: {grid: {TE: [10, 30, 60, 150]}}
noise: {snr: [50, 300], reference: max}
training: {samples: 10000, validation: 100, novelty: false}
"""
COMMANDS = {
    "simulate": ["simulate", "{out}/data.npz", "--samples", "2000"],
    "train": ["train", "{folder}/mine.yaml", "--out", "{out}/mine.safetensors"],
    "pretrain": ["pretrain", "midl2024-low-noise", "--samples", "2000", "--out", "{out}"],
    "reproduce": ["reproduce", "--samples", "1000", "--epochs", "1", "--out", "{out}"],
    "compare": [
        "compare", "--models", "lda", "--samples", "1000", "--test-samples", "200",
        "--train-sizes", "200", "--out", "{out}",
    ],
    "map": [
        "map", "{folder}/scan.nii", "{out}", "--times", "{folder}/times.json",
        "--model", "midl2024",
    ],
}  # fmt: skip
# the file or folder in the folder `out` that a command claims
CLAIMED = {"simulate": "data.npz", "train": "mine.safetensors",
           "pretrain": "midl2024-low-noise.safetensors"}  # fmt: skip

# runs the commands in one process; `state` prepares files and folders
SCRIPT = """
import ctypes, json, resource, signal, sys
from pathlib import Path
from typer.testing import CliRunner
import corrsk.neural.training.checkpoint
from corrsk.cli.app import app

state, commands = sys.argv[1], json.loads(sys.argv[2])
corrsk.neural.training.checkpoint.INTERVAL = 0
if state == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
else:  # without capabilities, root cannot write to a read-only folder either
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, data) == 0
found = {}
for name, arguments in commands.items():
    result = CliRunner().invoke(app, arguments)
    found[name] = [result.exit_code, result.output[-2000:], repr(result.exception)]
print(json.dumps(found))
"""


@pytest.fixture
def folder(tmp_path):
    """Folder with the inputs of the commands, and a folder of results for each of them."""
    (tmp_path / "mine.yaml").write_text(CONFIG)
    X, _ = make_correlation_signals(30, random_state=0, norm=None, verbose=False)
    image = nibabel.Nifti1Image(X.reshape(5, 3, 2, 64).astype(np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "scan.nii")
    AcquisitionProtocol.named("ir-se-8x8").to_json(tmp_path / "times.json")
    for name in COMMANDS:
        (tmp_path / name).mkdir()
    return tmp_path


def arguments_of(name, folder):
    return [one.format(folder=folder, out=folder / name) for one in COMMANDS[name]]


def refusals(state, folder, names):
    """Sentence of the error of commands, in a process of their own."""
    commands = {name: arguments_of(name, folder) for name in names}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, state, json.dumps(commands)],
        capture_output=True, text=True, check=False, cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "COLUMNS": "500"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {}
    for name, (code, output, exception) in json.loads(done.stdout.splitlines()[-1]).items():
        assert (code, exception) == (1, "SystemExit(1)"), f"{name}: {output} {exception}"
        (found[name],) = [line for line in output.splitlines() if line.startswith("Error: ")]
    return found


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(sys.platform != "linux", reason="needs capabilities of Linux")
def test_a_read_only_folder_is_an_error_before_any_work(folder):
    for name in COMMANDS:
        (folder / name).chmod(0o555)
    for name, sentence in refusals("read-only", folder, COMMANDS).items():
        assert sentence == (
            f"Error: the folder {folder / name} cannot be written to: Permission denied"
        )
        assert not files_of(folder / name)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
def test_a_full_disk_leaves_no_partial_file(folder):
    # tests/cli/test_cli.py has a full disk of `reproduce`, tests/_utils/test_files.py of data sets
    for name, sentence in refusals("full", folder, ("train", "compare", "map")).items():
        assert str(folder / name) in sentence, sentence
        assert "File too large" in sentence, sentence
        left = files_of(folder / name)
        assert not [path for path in left if ".partial" in path or path.endswith(".lock")], left


@pytest.mark.parametrize("name", COMMANDS)
def test_one_process_at_a_time_writes_to_a_place(folder, name):
    with exclusive(folder / name / CLAIMED.get(name, "")):
        result = CliRunner().invoke(app, arguments_of(name, folder))
        assert result.exit_code == 1
        assert "another process is writing to" in " ".join(result.output.split())
    assert not files_of(folder / name)
