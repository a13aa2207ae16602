"""The official validator of BIDS on what `corrsk map` writes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from typer.testing import CliRunner

from corrsk import AcquisitionProtocol, make_correlation_signals
from corrsk.cli.app import app
from tests._helpers import SHARED_DATA

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("skimage")
if find_spec("bids_validator_deno") is None or find_spec("deno") is None:
    pytest.skip("bids-validator-deno is not installed", allow_module_level=True)

AFFINE = np.diag([2.0, 2, 3, 1])
SHAPE = (4, 4, 2)


def map_images(*arguments):
    result = CliRunner().invoke(app, ["map", *map(str, arguments)])
    assert result.exit_code == 0, result.output


def errors_of(folder):
    """Errors of the validator, with no configuration but the files of the folder."""
    command = "from bids_validator_deno import cli; cli()"
    result = subprocess.run(
        [sys.executable, "-c", command, folder, "--format", "json"], capture_output=True, text=True
    )
    assert result.stdout, result.stderr
    report = json.loads(result.stdout)
    assert report["summary"]["totalFiles"] > 10
    issues = report["issues"]["issues"]
    return [
        (issue["code"], issue.get("subCode"), issue.get("location"))
        for issue in issues if issue["severity"] == "error"
    ]  # fmt: skip


@pytest.fixture
def raw(tmp_path):
    """Two subjects with sessions, and an 8 x 8 protocol."""
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    signals, _ = make_correlation_signals(
        int(np.prod(SHAPE)), norm=None, noise_level=0.01, random_state=0
    )
    values = (900 * signals.reshape(*SHAPE, -1)).astype(np.float32)
    for labels in (("sub-01", "ses-a"), ("sub-02", "ses-b")):
        anat = folder.joinpath(*labels, "anat")
        anat.mkdir(parents=True)
        for k, (ti, te) in enumerate(zip(protocol.ti, protocol.te, strict=True)):
            stem = anat / f"{'_'.join(labels)}_acq-TI{k // 8 + 1}_echo-{k % 8 + 1}_MESE"
            nibabel.save(nibabel.Nifti1Image(values[..., k], AFFINE), f"{stem}.nii")
            times = {"InversionTime": ti / 1e3, "EchoTime": te / 1e3}
            stem.with_suffix(".json").write_text(json.dumps(times))
    return folder


@pytest.mark.network
@pytest.mark.slow
def test_a_derivative_of_compartments_is_valid(raw):
    out = raw / "derivatives" / "corrsk"
    model = ("--model", "scanner-ir-se-8x8-compartments", "--draws", 32, "--rounds", 1)
    map_images(raw, out, "participant", "--participant-label", "01", *model, "--mask", "none")
    assert errors_of(out) == []


@pytest.mark.network
def test_a_derivative_is_valid(raw, tmp_path):
    atlas = np.ones(SHAPE, np.int16)
    nibabel.save(nibabel.Nifti1Image(atlas, AFFINE), tmp_path / "atlas.nii")
    out = raw / "derivatives" / "corrsk"
    map_images(raw, out, "participant", "--statistics", tmp_path / "atlas.nii", "--preview")
    assert errors_of(out) == []
    # a missing entry must be found, or the test above finds none at all
    sidecar = next(out.rglob("*_T1map.json"))
    content = json.loads(sidecar.read_text())
    assert content.pop("SkullStripped") is False
    sidecar.write_text(json.dumps(content))
    assert [error[:2] for error in errors_of(out)] == [("SIDECAR_KEY_REQUIRED", "SkullStripped")]


def test_the_maps_of_spectra_are_valid(raw):
    out = raw / "derivatives" / "corrsk"
    map_images(
        raw, out, "participant", "--participant-label", "01", "--model", "spectrum", "--spectra",
        "--window", "myelin water=T2:0-40", "--window", "long T2=T2:40-2000",
    )  # fmt: skip
    assert errors_of(out) == []
    (mwf,) = out.rglob("*_MWFmap.nii.gz")
    percent = np.asarray(nibabel.load(mwf).dataobj)
    assert 0 <= np.nanmin(percent) < 5 < np.nanmax(percent) <= 100
    (fraction,) = out.rglob("*_desc-longT2_fractionmap.nii.gz")
    share = np.asarray(nibabel.load(fraction).dataobj)
    assert np.nanmax(percent / 100 + share) <= 1 + 1e-6
    # spectra are no file of BIDS, and are left out of its checks
    assert len(list(out.rglob("*_spectrum.nii.gz"))) == 1
    assert "*_spectrum.*" in (out / ".bidsignore").read_text().split()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_maps_of_measured_slices_are_valid(tmp_path):
    folder = SHARED_DATA / "bids_mini"
    if not folder.exists():
        pytest.skip("bids_mini is not there")
    out = tmp_path / "maps"
    for number, (subject, more) in enumerate(
        {"ir": (), "mese": (), "head": ("--join", "--te", "10")}.items()
    ):
        brain = (
            folder / f"derivatives/masks/sub-{subject}/anat/sub-{subject}_desc-brain_mask.nii.gz"
        )
        whole = nibabel.load(brain)
        inside = np.argwhere(np.asarray(whole.dataobj))
        few = np.zeros(whole.shape, np.uint8)
        few[tuple(inside[:: len(inside) // 40].T)] = 1
        nibabel.save(
            nibabel.Nifti1Image(few, whole.affine), tmp_path / f"sub-{subject}_desc-brain_mask.nii"
        )
        map_images(
            folder, out, "participant", "--participant-label", subject, *more,
            "--model", "multi-exponential", "--mask", f"{tmp_path}/{{subject}}_desc-brain_mask.nii",
            *(("--resume",) if number else ()),
        )  # fmt: skip
    assert errors_of(out) == []
    sidecars = [json.loads(path.read_text()) for path in out.rglob("*T[12]map.json")]
    assert sidecars
    assert all(content["SkullStripped"] for content in sidecars)
