"""The option --config of every command: data defined in a file."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat
from typer.testing import CliRunner

from corrsk import AcquisitionProtocol, load, load_pretrained, model_card
from corrsk.cli.app import app
from corrsk.pretrained import training as pretraining
from corrsk.simulation import DatasetDefinition, simulate_dataset

TEXT = """\
prior:
  ranges:
    T1: {low: 200, high: 2000, scale: log}
    T2: {low: 5, high: 100, scale: log}
  n_compartments: [1, 2]
protocol:
  grid: {TI: [50, 200, 800, 2000], TE: [5, 15, 40, 90]}
noise: {snr: [50, 200], reference: max, distribution: rician}
inversion_efficiency: 0.95
norm: max
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "knee.yaml"
    path.write_text(TEXT)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("suffix", ["npz", "parquet", "mat"])
def test_simulate(tmp_path, config, suffix):
    out = tmp_path / f"data.{suffix}"
    assert "signals of knee" in succeed("simulate", out, "--config", config, "--samples", 200)
    definition = DatasetDefinition.from_file(config)
    expected = simulate_dataset(definition, 200)
    if suffix == "npz":
        with np.load(out) as content:
            np.testing.assert_array_equal(content["data"], expected.data)
            stored = json.loads(str(content["definition"]))
    elif suffix == "parquet":
        table = pd.read_parquet(out)
        np.testing.assert_array_equal(table[expected.feature_names], expected.data)
        stored = table.attrs["definition"]
    else:
        content = loadmat(out)
        rows = expected.train_indices
        np.testing.assert_array_equal(content["input_train"].reshape(140, 16), expected.data[rows])
        stored = json.loads(content["definition"].item())
    # a file of data has its own definition
    again = DatasetDefinition.from_dict(stored)
    np.testing.assert_array_equal(simulate_dataset(again, 200).data, expected.data)


def test_options_of_simulate_replace_entries_of_the_file(tmp_path, config):
    out = tmp_path / "data.npz"
    options = ["--noise-level", 0.02, "--noise-reference", "m0", "--protocol", "ir-se-8x8"]
    succeed("simulate", out, "--config", config, "--samples", 100, *options)
    with np.load(out) as content:
        assert set(content["noise_level"]) == {0.02}
        assert content["data"].shape == (100, 64)
        stored = json.loads(str(content["definition"]))
    assert stored["noise"] == {
        "levels": [0.02], "reference": "m0", "distribution": "rician"
    }  # fmt: skip
    # other data than those of the file have another name
    assert stored["name"] == "knee with other protocol and noise_levels and noise_reference"


COMMANDS = {
    "simulate": ["simulate", "data.npz"],
    "compare": ["compare", "--out", "out"],
    "reproduce": ["reproduce", "--out", "out"],
    "pretrain": ["pretrain", "knee", "--out", "out"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("snr:", "sigma:", "unknown entries of noise: sigma; the entries of noise are levels, snr"),
        ("[1, 2]", "[2]", "the prior of knee has voxels of 2 compartments only"),
        ("grid:", "gird:", "unknown entries of a protocol: gird; the entries of a protocol are"),
        ("0.95", "95", "inversion_efficiency must be in (0, 1], got 95"),
        ("prior:", "name: midl2024\nprior:", "the name 'midl2024' belongs to another data set"),
    ],
)
def test_a_bad_file_is_an_error_before_any_work(
    tmp_path, config, monkeypatch, command, old, new, message
):
    if command == "simulate" and "only" in message:
        pytest.skip("signals of one class can be simulated")
    if command == "pretrain" and "belongs" in message:
        pytest.skip("the name of the model replaces that of the file")
    config.write_text(TEXT.replace(old, new))
    monkeypatch.chdir(tmp_path)
    result = run(*COMMANDS[command], "--config", "knee.yaml")
    assert result.exit_code == 1
    assert message in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["knee.yaml"]


@pytest.mark.parametrize("command", ["simulate", "compare", "reproduce"])
def test_two_definitions_of_the_data_are_refused(tmp_path, config, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    result = run(*COMMANDS[command], "--config", config, "--dataset", "midl2024")
    assert result.exit_code == 1
    assert f"--dataset midl2024 and --config {config} both define the data" in result.output
    if command == "reproduce":
        result = run(*COMMANDS[command], "--config", config, "--mat", "data.mat")
        assert f"--mat data.mat and --config {config} both define the data" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["knee.yaml"]


def test_the_name_of_a_shipped_model_is_refused(tmp_path, config):
    result = run("pretrain", "midl2024", "--config", config, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "the name 'midl2024' belongs to another data set" in result.output


def test_a_scattered_protocol_has_no_cnn(tmp_path, config):
    scattered = "{contrasts: {TI: [50, 200, 800], TE: [5, 15, 40]}}"
    text = TEXT.replace("\n  grid: {TI: [50, 200, 800, 2000], TE: [5, 15, 40, 90]}", scattered)
    config.write_text(text.replace("protocol:{", "protocol: {"))
    result = run("reproduce", "--config", config, "--out", tmp_path / "out")
    assert "needs a protocol on a full grid, not 3 measurements of TI, TE" in result.output
    assert "'residual-mlp' takes any protocol" in result.output


@pytest.mark.slow
def test_compare(tmp_path, config):
    out = tmp_path / "out"
    command = [
        "compare", "--models", "lda,multi-exponential", "--train-sizes", 300,
        "--samples", 1500, "--test-samples", 100, "--jobs", 1, "--out", out,
    ]  # fmt: skip
    succeed(*command, "--config", config)
    definition = DatasetDefinition.from_file(config)
    assert DatasetDefinition.from_file(out / "config.json") == definition
    summary = json.loads((out / "summary.json").read_text())["run"]
    assert DatasetDefinition.from_dict(summary["config"]) == definition
    assert "corrsk compare --config config.json" in (out / "report.md").read_text()
    # model-based methods have the ranges and the inversion efficiency of the file
    fit = json.loads((out / "cells" / "multi-exponential_n0_seed0.json").read_text())["estimator"]
    assert re.search(r"PropertyRange\(low=200(\.0)?, high=2000(\.0)?,", fit)
    assert '"multiexponentialclassifier__inversion_efficiency": "0.95"' in fit
    # the same definition resumes, also by the stored file; another one does not
    succeed(*command, "--config", out / "config.json", "--resume")
    config.write_text(TEXT.replace("0.95", "0.9"))
    result = run(*command, "--config", config, "--resume")
    assert result.exit_code == 1
    assert "config.inversion_efficiency was 0.95 and is 0.9" in result.output
    result = run(*command, "--resume")
    assert "dataset was 'knee' and is 'midl2024'" in result.output


@pytest.mark.slow
def test_reproduce(tmp_path, config):
    out = tmp_path / "out"
    command = ["reproduce", "--out", out, "--samples", 1000, "--epochs", 1, "--jobs", 1]
    succeed(*command, "--config", config)
    definition = DatasetDefinition.from_file(config)
    assert DatasetDefinition.from_file(out / "config.json") == definition
    metrics = json.loads((out / "metrics.json").read_text())
    stored = metrics["run"]["configuration"]
    assert stored["dataset"] == "knee"
    assert DatasetDefinition.from_dict(stored["config"]) == definition
    assert metrics["noise_unit"] == "snr"
    report = (out / "report.md").read_text()
    assert "--config config.json" in report
    assert "--dataset" not in report
    assert "| SNR " in report
    config.write_text(TEXT.replace("rician", "gaussian"))
    result = run(*command, "--config", config, "--resume")
    assert "config.noise.distribution was 'rician' and is 'gaussian'" in result.output


@pytest.mark.slow
def test_reproduce_a_protocol_in_scan_order(tmp_path, config):
    command = ["reproduce", "--samples", 1000, "--epochs", 2, "--jobs", 1]
    succeed(*command, "--config", config, "--out", tmp_path / "grid")
    definition = DatasetDefinition.from_file(config)
    grid = definition.protocol
    scan = AcquisitionProtocol({name: values[::-1] for name, values in grid.contrasts.items()})
    dataclasses.replace(definition, protocol=scan).to_file(config)
    succeed(*command, "--config", config, "--out", tmp_path / "scan")
    # the CNN finds the grid by the names of the columns, and the model takes them in scan order
    data = simulate_dataset(definition, 100, 1).data
    in_scan_order = pd.DataFrame(scan.to_scan_order(data), columns=scan.feature_names)
    models = {name: load(tmp_path / name / "model.safetensors") for name in ("grid", "scan")}
    np.testing.assert_allclose(
        models["scan"].predict_proba(in_scan_order), models["grid"].predict_proba(data), atol=1e-4
    )


@pytest.mark.slow
def test_pretrain(tmp_path, config, monkeypatch):
    for name, value in {"_N_VALIDATION": 300, "_N_TEST": 1000, "_N_RESAMPLES": 5}.items():
        monkeypatch.setattr(pretraining, name, value)
    out = tmp_path / "models"
    arguments = ["--samples", 4000, "--out", out, "--jobs", 1]
    succeed("pretrain", "my-knee", "--config", config, *arguments)
    card, model = model_card("my-knee", out), load_pretrained("my-knee", folder=out)
    assert card.training["command"].startswith("corrsk pretrain my-knee --config my-knee.config")
    assert card.noise == {"reference": "max", "distribution": "rician", "snr": [50, 200]}
    assert card.protocol["inversion_efficiency"] == 0.95
    assert "inversion efficiency 0.95" in card.to_markdown()
    assert "rician" in card.to_markdown()
    assert model[0].noise_distribution == "rician"
    definition = DatasetDefinition.from_file(out / "my-knee.config.json")
    assert card.metrics == pretraining.measure(model, definition)
    # the stored file trains the same model
    again = tmp_path / "again"
    config = out / "my-knee.config.json"
    succeed("pretrain", "my-knee", "--config", config, *arguments[:2], "--out", again, "--jobs", 1)
    assert model_card("my-knee", again).metrics == card.metrics
