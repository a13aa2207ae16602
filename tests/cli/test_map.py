"""The commands map and train."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from corrsk import AcquisitionProtocol, make_correlation_signals
from corrsk.cli.app import app

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("skimage")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def scan(tmp_path):
    signals, _ = make_correlation_signals(60, norm=None, noise_level=0.01, random_state=0)
    image = nibabel.Nifti1Image(500 * signals.reshape(5, 4, 3, 64), np.diag([2.0, 2, 3, 1]))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_the_two_forms_of_the_command_write_the_same_maps(scan, tmp_path):
    first = run("map", scan, tmp_path / "a", "--times", "ir-se-8x8", "--model", "midl2024")
    assert first.exit_code == 0, first.output
    second = run(
        "map", "-i", scan, "-o", tmp_path / "b", "--times", "ir-se-8x8", "--model", "midl2024",
        "--manifest", tmp_path / "manifest.json",
    )  # fmt: skip
    assert second.exit_code == 0, second.output
    for name in ("labels", "probabilities", "T1"):
        content = [(tmp_path / out / f"{name}.nii.gz").read_bytes() for out in "ab"]
        assert content[0] == content[1]
    (record,) = json.loads((tmp_path / "manifest.json").read_text())
    assert record["model"]["Name"] == "midl2024"
    again = run("map", scan, tmp_path / "a", "--times", "ir-se-8x8", "--model", "midl2024")
    assert again.exit_code == 1
    assert "--resume" in again.output


def test_dry_prints_what_is_read_and_writes_nothing(scan, tmp_path):
    result = run("map", scan, tmp_path / "out", "--times", "ir-se-8x8", "--dry")
    assert result.exit_code == 0, result.output
    assert "60 voxels (5 x 4 x 3, 2 x 2 x 3 mm)" in result.output
    assert "labels.nii.gz" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OUT"], "Error: the folder of the maps is needed once"),
        (["SCAN", "OUT", "group"], "must be 'participant', got 'group'"),
        (
            ["SCAN", "OUT", "--times", "ir-se-8x8", "--model", "midl2025"],
            "unknown model 'midl2025'",
        ),
        (["SCAN", "OUT"], "have no sidecar"),
        (["SCAN", "OUT", "--times", "TIMES"], "has 64 volumes, but the protocol has 4"),
        (["SCAN", "OUT", "--times", "ir-se-8x8", "--select", "MESE"], "as suffix=MESE"),
        (["SCAN", "OUT", "--times", "ir-se-8x8", "--join"], "are for a folder in BIDS"),
        (["SCAN", "OUT", "--times", "ir-se-8x8", "--device", "tpu"], "device must be"),
        (["SCAN", "OUT", "--times", "ir-se-8x8", "--mask", "absent.nii"], "no file absent.nii"),
        (["absent.nii", "OUT"], "there is no file absent.nii"),
    ],
)
def test_an_error_is_one_sentence_and_nothing_is_written(scan, tmp_path, arguments, message):
    AcquisitionProtocol(te=[10, 20, 40, 80]).to_json(tmp_path / "times.json")
    places = {"SCAN": scan, "OUT": tmp_path / "out", "TIMES": tmp_path / "times.json"}
    result = run("map", *[places.get(item, item) for item in arguments])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["prior: midl2024", "training: {steps: 3}"])
def test_a_configuration_that_lacks_entries_is_refused(tmp_path, content):
    pytest.importorskip("yaml")
    (tmp_path / "mine.yaml").write_text(content)
    result = run("train", tmp_path / "mine.yaml", "--out", tmp_path / "m.safetensors")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
