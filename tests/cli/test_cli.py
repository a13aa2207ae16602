"""The commands reproduce and simulate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import corrsk
from corrsk.cli.app import app

SMALL = ["--samples", "1500", "--epochs", "2", "--seed", "3"]
FIGURES = {
    "confusion_matrices.png", "roc_curves.png", "accuracy_over_noise.png", "loss_curves.png"
}  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduce") / "run"
    result = run("reproduce", "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    return out, result.output


@pytest.mark.slow
def test_reproduce_writes_all_files_of_its_folder(finished):
    out, output = finished
    names = {path.name for path in out.iterdir()}
    assert names == FIGURES | {
        "report.md", "metrics.json", "model.safetensors", "run.json", "history.csv"
    }  # fmt: skip
    assert "Endt et al., MIDL 2024" in output
    assert "0.612" in output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["dataset"] == "midl2024-low-noise"
    assert metrics["n_samples"] == 150
    assert metrics["run"]["parameters"]["max_epochs"] == 2
    report = (out / "report.md").read_text()
    for figure in FIGURES:
        assert f"]({figure})" in report
        assert (out / figure).read_bytes()[:4] == b"\x89PNG"
    assert "midl2024-low-noise" in report
    assert f"| {metrics['metrics']['accuracy']:.3f}" in report


def test_the_saved_model_is_the_evaluated_model(finished):
    out, _ = finished
    data = corrsk.load_dataset("midl2024-low-noise", 1500, random_state=3)
    model = corrsk.load(out / "model.safetensors")
    accuracy = model.score(data.data[data.test_indices], data.target[data.test_indices])
    assert accuracy == json.loads((out / "metrics.json").read_text())["metrics"]["accuracy"]


def test_a_finished_run_is_not_run_again(finished):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    result = run("reproduce", "--out", out, *SMALL)
    assert result.exit_code == 1
    assert "--resume" in result.output
    again = run("reproduce", "--out", out, *SMALL, "--resume")
    assert again.exit_code == 0
    assert "finished run" in again.output
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_another_configuration_is_refused(finished):
    out, _ = finished
    result = run("reproduce", "--out", out, *SMALL, "--resume", "--recipe", "paper")
    assert result.exit_code == 1
    assert "recipe was 'default' and is 'paper'" in result.output


@pytest.mark.slow
def test_a_folder_of_a_run_without_results_can_be_reused(tmp_path):
    (tmp_path / "run.json").write_text('{"samples": 5}')
    assert run("reproduce", "--out", tmp_path, *SMALL).exit_code == 0


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years")
    result = run("reproduce", "--out", tmp_path, *SMALL)
    assert result.exit_code == 1
    assert "contains other files (thesis.tex)" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    result = run("reproduce", "--out", tmp_path / "thesis.tex", *SMALL)
    assert result.exit_code == 1
    assert "is a file" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "midl2025"], "known data sets: midl2024"),
        (["--recipe", "soup"], "known recipes: default, paper"),
        (["--device", "tpu"], "'auto', 'cpu', 'cuda'"),
        (["--mat", "absent.mat"], "no file absent.mat"),
        (["--jobs", "0"], "n_jobs"),
        (["--samples", "50"], "samples must be at least 100"),
    ],
)
def test_bad_options_are_errors_before_the_run(tmp_path, arguments, message):
    result = run("reproduce", "--out", tmp_path / "run", *SMALL, *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_mat_data(tmp_path):
    mat = tmp_path / "demo_data.mat"
    assert run("simulate", mat, "--samples", "600").exit_code == 0
    result = run("reproduce", "--out", tmp_path / "run", "--mat", mat, "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert "demo_data.mat" in result.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["n_samples"] == 60
    assert [row["noise_level"] for row in metrics["by_noise_level"]] == [
        0.01, 0.02, 0.03, 0.04, 0.05
    ]  # fmt: skip
    whole = mat.read_bytes()
    mat.write_bytes(whole[:5000])
    other = ["reproduce", "--out", tmp_path / "other", "--mat", mat, "--epochs", "1"]
    result = run(*other)
    assert result.exit_code == 1
    assert "not a readable MATLAB file" in result.output
    mat.write_bytes(whole)  # with a repaired file, the same command works: the folder is still free
    assert run(*other).exit_code == 0


@pytest.mark.slow
def test_mat_data_with_the_required_keys_only(tmp_path):
    from scipy.io import savemat

    X, y = corrsk.make_correlation_signals(300, random_state=0)
    images = X.reshape(-1, 1, 8, 8)
    mat = tmp_path / "bare.mat"
    savemat(mat, {"input_train": images, "label_train": y, "input_test": images, "label_test": y})
    result = run("reproduce", "--out", tmp_path / "run", "--mat", mat, "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "run" / "accuracy_over_noise.png").exists()
    assert "valid_loss" in (tmp_path / "run" / "history.csv").read_text()


@pytest.mark.parametrize("suffix", ["npz", "parquet", "mat"])
def test_simulate(tmp_path, suffix):
    out = tmp_path / f"data.{suffix}"
    result = run("simulate", out, "--samples", "200", "--dataset", "midl2024-low-noise")
    assert result.exit_code == 0, result.output
    before = out.read_bytes()
    result = run("simulate", out, "--samples", "100")
    assert result.exit_code == 1
    assert "--force" in result.output
    assert out.read_bytes() == before
    assert run("simulate", out, "--samples", "100", "--force").exit_code == 0


SCANNER = ["scanner-ir-se-8x8", "scanner-ir-se-8x8-magnitude"]


@pytest.mark.parametrize("name", SCANNER)
def test_simulate_signals_as_scanners_measure_them(tmp_path, name):
    out = tmp_path / "data.npz"
    result = run("simulate", out, "--samples", 300, "--dataset", name)
    assert result.exit_code == 0, result.output
    with np.load(out) as content:
        columns = content["tissue_columns"].tolist()
        tissue = dict(zip(columns, content["tissue"].T, strict=True))
        assert columns[-3:] == ["inversion_efficiency", "echo_loss", "noise_level"]
        assert 0.8 <= tissue["inversion_efficiency"].min() < tissue["inversion_efficiency"].max()
        assert 0 <= tissue["echo_loss"].min() < tissue["echo_loss"].max() <= 0.05
        snr = 1 / content["noise_level"]
        assert 20 <= snr.min() < 60 < 300 < snr.max() <= 1000
        assert (content["data"].min() >= 0) == name.endswith("magnitude")
        stored = json.loads(str(content["definition"]))
    assert corrsk.simulation.DatasetDefinition.from_dict(stored) == corrsk.simulation.DATASETS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCANNER)
def test_reproduce_with_signals_as_scanners_measure_them(tmp_path, name):
    out = tmp_path / "run"
    result = run("reproduce", "--dataset", name, "--out", out, "--samples", 900, "--epochs", 1)
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["dataset"] == name
    report = (out / "report.md").read_text()
    assert "SNR" in report
    assert name in report


def test_compare_with_signals_as_scanners_measure_them(tmp_path):
    out = tmp_path / "run"
    options = ["--dataset", SCANNER[1], "--models", "lda,multi-exponential", "--samples", 1000]
    options += ["--train-sizes", "200,500", "--test-samples", 20, "--out", out, "--jobs", 1]
    result = run("compare", *options)
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    assert {row["model"] for row in summary["summary"]} == {"lda", "multi-exponential"}
    assert summary["run"]["dataset"] == SCANNER[1]
    again = run("compare", *options, "--resume")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("command", ["simulate", "reproduce", "compare", "pretrain"])
def test_the_help_names_every_data_set(command):
    # not the printed help, which cuts long words in a narrow terminal
    parameters = typer.main.get_command(app).commands[command].params
    text = " ".join(parameter.help or "" for parameter in parameters)
    assert all(name in text for name in corrsk.simulation.DATASETS)


def test_simulate_your_own_protocol(tmp_path):
    protocol = corrsk.AcquisitionProtocol.from_grid(ti=[60, 900], te=[8, 30, 90], tr=4000)
    protocol.to_json(tmp_path / "mine.json")
    out = tmp_path / "data.npz"
    result = run(
        "simulate", out, "--samples", 100, "--protocol", tmp_path / "mine.json",
        "--noise-level", 0.02, "--noise-level", 0.1, "--noise-reference", "max",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    with np.load(out) as content:
        assert content["feature_names"].tolist() == protocol.feature_names
        assert set(content["noise_level"]) == {0.02, 0.1}


def test_simulate_a_protocol_written_by_hand_in_scan_order(tmp_path):
    (tmp_path / "mine.json").write_text('{"ti": [900, 60, 300], "te": [8, 90, 30]}')
    out = tmp_path / "data.npz"
    result = run("simulate", out, "--samples", 20, "--protocol", tmp_path / "mine.json")
    assert result.exit_code == 0, result.output
    with np.load(out) as content:
        names = content["feature_names"].tolist()
    assert names == ["TI900_TE8", "TI60_TE90", "TI300_TE30"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.csv"], ".npz, .parquet, .mat"),
        (["absent/data.npz"], "the folder absent does not exist"),
        (["data.npz", "--dataset", "x"], "known data sets"),
        (["data.npz", "--protocol", "x"], "known protocols"),
        (["data.npz", "--protocol", "x.json"], "no file x.json"),
        (["data.npz", "--noise-reference", "snr"], "noise reference must be one of m0, max, rms"),
        (["data.npz", "--noise-level", "50"], "SNRRange(50, 50)"),
        (["data.npz", "--noise-level", "1", "--noise-level", "3"], "for 3 % pass 0.03"),
    ],
)
def test_simulate_bad_options(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run("simulate", *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


def test_help_and_version():
    assert corrsk.__version__ in run("--version").output
    options = {
        "reproduce": "dataset mat samples epochs recipe device jobs seed out resume",
        "simulate": "dataset samples protocol noise-level noise-reference seed jobs force",
    }
    for command, names in options.items():
        text = run(command, "--help").output
        for name in names.split():
            assert f"--{name}" in text


def test_simulate_warns_about_levels_that_the_published_code_cannot_read(tmp_path):
    result = run("simulate", tmp_path / "a.mat", "--samples", 50, "--dataset", "midl2024-low-noise")
    assert "whole percents" in result.output
    assert "whole percents" not in run("simulate", tmp_path / "b.mat", "--samples", 50).output


FULL_DISK = """
import resource, signal, sys
import corrsk.neural.training.checkpoint
from corrsk.cli import main

corrsk.neural.training.checkpoint.INTERVAL = 0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv[1:] = sys.argv[2:]
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [20_000, 110_000])  # fails at the checkpoint, and at a figure
def test_a_full_disk_gives_a_clear_error(tmp_path, limit):
    out = tmp_path / "run"
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(limit), "reproduce", "--out", str(out), *SMALL],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    # without any result the folder is removed
    assert not [path.name for path in out.rglob("*") if "partial" in path.name]
    assert not (out / "metrics.json").exists()  # the file that marks a run as finished
    again = run("reproduce", "--out", out, *SMALL, "--resume")
    assert again.exit_code == 0, again.output


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_a_run_interrupted_by_ctrl_c_is_resumed(tmp_path):
    """A real interrupt of a real process; the resumed run gives the same result."""
    out = tmp_path / "run"
    long = ["--samples", "6000", "--epochs", "20", "--device", "cpu"]
    code = (
        "import corrsk.neural.training.checkpoint as c; c.INTERVAL = 0;"
        "from corrsk.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "reproduce", "--out", str(out), *long]
    environment = dict(os.environ, COLUMNS="200")
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        # a test run in the background of a script inherits an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (out / "training.checkpoint").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume resumes" in errors
    assert "Traceback" not in errors
    left = {path.name for path in out.iterdir()}
    assert left == {"run.json", "training.checkpoint"}
    result = run("reproduce", "--out", out, *long, "--resume")
    assert result.exit_code == 0, result.output
    assert (out / "metrics.json").exists()
    assert not (out / "training.checkpoint").exists()
    history = (out / "history.csv").read_text().splitlines()
    assert len(history) == 21
