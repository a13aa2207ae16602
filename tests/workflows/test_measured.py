"""Measured signals through the maps: brains, a rock and water, by the same calls."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corrsk import (
    AcquisitionProtocol,
    PropertyRange,
    ResidualMLPClassifier,
    SimulationTrainedClassifier,
    SNRRange,
    TissuePrior,
)
from corrsk.physics import EchoTrain
from corrsk.workflows.mapping import MapSettings, find_subjects, map_subjects
from tests._helpers import SHARED_DATA

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("skimage")
pytestmark = pytest.mark.skipif(not SHARED_DATA.exists(), reason="no measured data")

BRAINS = SHARED_DATA / "bids_mini"


def read(folder, name):
    return np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj)


def spaced(path, te, out):
    """Write a part of the echoes, evenly spaced in the logarithm, to another file."""
    content = dict(np.load(path))
    last = np.searchsorted(content["te_ms"], te)
    kept = np.unique(np.geomspace(1, last + 1, 60).astype(int)) - 1
    axis = content["S"].shape.index(content["te_ms"].size)
    content["S"] = np.take(content["S"], kept, axis=axis)
    del content["imag"]
    np.savez(out, **content | {"te_ms": content["te_ms"][kept]})
    return out


def one_voxel(source, out, model, **options):
    (record,) = map_subjects(
        find_subjects(source), out, MapSettings(model, **options), verbose=False, device="cpu"
    )
    return record


def test_a_rock_is_more_than_one_and_its_fit_reproduces_the_signal(tmp_path):
    source = spaced(SHARED_DATA / "berea_ir_cpmg.npz", 102, tmp_path / "rock.npz")
    out = tmp_path / "maps"
    record = one_voxel(source, out, "multi-exponential", n_compartments=5)
    messages = " ".join(one["message"] for one in record["warnings"])
    # pores of all sizes are no few compartments, and a single voxel has no calibration
    assert "1 of 1 voxels are not explained" in messages
    assert "an inversion efficiency of 0.7 to 1 is fitted in each voxel" in messages
    assert read(out, "multicompartment").item() > 0.9
    assert read(out, "labels").item() >= 3
    assert read(out, "misfit").item() == 1
    largest = np.abs(np.load(source)["S"]).max()
    assert read(out, "noise").item() < 0.005 * largest
    t2 = 1000 * read(out, "T2_compartments").ravel()
    assert np.nanmin(t2) < 2 < 20 < np.nanmax(t2)


def test_water_is_one_with_its_diffusion_coefficient(tmp_path):
    source = spaced(SHARED_DATA / "water_dt2.npz", 800, tmp_path / "water.npz")
    out = tmp_path / "maps"
    one_voxel(source, out, "multi-exponential")
    assert read(out, "labels").item() == 1
    assert read(out, "multicompartment").item() < 0.5
    assert read(out, "D").item() == pytest.approx(1.7, abs=0.2)
    assert 0.1 < read(out, "T2").item() < 0.16


@pytest.mark.slow
def test_a_network_of_a_part_of_the_echoes_maps_a_whole_train(tmp_path):
    content = np.load(SHARED_DATA / "berea_ir_cpmg.npz")
    protocol = AcquisitionProtocol.from_grid(
        ti=content["ti_ms"], te=[0.1, 0.5, 1.5, 3.7, 9.2, 22.7, 56]
    )
    ranges = {"T1": PropertyRange(0.3, 2000, scale="log"),
              "T2": PropertyRange(0.1, 1000, scale="log")}  # fmt: skip
    prior = TissuePrior(n_compartments=(1, 2, 3), ranges=ranges)
    model = SimulationTrainedClassifier(
        protocol, prior, noise_level=SNRRange(200, 5000, scale="log"), noise_reference="max",
        n_samples=10_000, n_validation=500, random_state=0, novelty=False, verbose=False,
        network=ResidualMLPClassifier(width=32, n_blocks=1, max_epochs=10, device="cpu"),
    ).fit()  # fmt: skip
    out = tmp_path / "maps"
    record = one_voxel(SHARED_DATA / "berea_ir_cpmg.npz", out, model)
    assert record["warnings"][0]["message"].startswith(
        "the model is for 112 of the 16384 measurements"
    )
    assert len(record["protocol"]["contrasts"]["TE"]) == 112
    assert read(out, "multicompartment").item() > 0.95


@pytest.mark.parametrize("train", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_echoes_of_a_brain_are_explained_as_a_train(train, tmp_path):
    mask = SHARED_DATA / "bids_mini/derivatives/masks/sub-mese/anat/sub-mese_desc-brain_mask.nii.gz"
    image = nibabel.load(mask)
    few = np.zeros(image.shape, np.uint8)
    few[::7, ::7] = np.asarray(image.dataobj)[::7, ::7] > 0
    nibabel.save(nibabel.Nifti1Image(few, image.affine), tmp_path / "few.nii.gz")
    (subject,) = find_subjects(BRAINS, participants=["mese"])
    protocol = subject.images.protocol
    if train:
        protocol = AcquisitionProtocol(protocol.contrasts, readout=EchoTrain(12.8))
    protocol.to_json(tmp_path / "times.json")
    subjects = find_subjects(BRAINS, participants=["mese"], times=tmp_path / "times.json")
    out = tmp_path / "maps"
    (record,) = map_subjects(
        subjects, out, MapSettings("multi-exponential", tmp_path / "few.nii.gz", n_compartments=2),
        verbose=False,
    )  # fmt: skip
    folder = out / "sub-mese" / "anat"
    inside = read(folder, "sub-mese_desc-mapped_mask") > 0
    misfit = read(folder, "sub-mese_desc-misfit_mask")[inside].mean()
    messages = " ".join(one["message"] for one in record["warnings"])
    if train:
        assert misfit < 0.2
    else:  # imperfect refocusing weakens the first echo and feeds the next ones
        assert misfit > 0.3
        assert "echoes of a train taken for single spin echoes" in messages
    t2 = 1000 * read(folder, "sub-mese_desc-onecompartment_T2map")[inside]
    assert 70 < np.nanmedian(t2) < 115
    sidecar = json.loads((folder / "sub-mese_desc-misfit_mask.json").read_text())
    assert len(sidecar["Sources"]) == 30


def test_a_recovery_of_magnitudes_gives_t1_and_warns_of_fluid(tmp_path):
    (subject,) = find_subjects(BRAINS, participants=["ir"])
    mask = np.zeros(subject.images.grid.shape, np.uint8)
    mask[30:100:6, 30:100:6] = 1
    nibabel.save(nibabel.Nifti1Image(mask, subject.images.affine), tmp_path / "few.nii.gz")
    out = tmp_path / "maps"
    settings = MapSettings("multi-exponential", tmp_path / "few.nii.gz", n_compartments=2)
    (record,) = map_subjects([subject], out, settings, verbose=False)
    # fluid recovers too slowly for a longest TI of 1700 ms
    assert any("T1 in" in one["message"] for one in record["warnings"])
    folder = out / "sub-ir" / "anat"
    t1 = read(folder, "sub-ir_desc-onecompartment_T1map")[mask > 0]
    assert 0.5 < np.nanmedian(t1) < 1.5
