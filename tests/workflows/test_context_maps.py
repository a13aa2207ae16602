"""Maps with the neighbours of each voxel: equal to the classifier of volumes, in slabs as well."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.naive_bayes import GaussianNB
from typer.testing import CliRunner

from corrsk import SpatialClassifier, load_pretrained, make_parcel_phantom, save
from corrsk.cli.app import app
from corrsk.workflows.mapping import MapSettings, find_subjects, map_subjects

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("skimage")
# the noise of averages between the ranges of the two models, with few neighbours
pytestmark = [
    pytest.mark.filterwarnings("ignore::corrsk.spatial.SpatialContextWarning"),
    pytest.mark.filterwarnings("ignore::corrsk.MeasuredSignalWarning"),
]

SHAPE = (12, 10, 40)
SIZE = (1.0, 1.0, 1.5)
SLICE = 12 * 10 * 64 * 4  # bytes


@pytest.fixture(scope="module")
def phantom():
    return make_parcel_phantom(
        SHAPE, n_parcels=8, noise_level=0.03, voxel_size=SIZE, random_state=3
    )


@pytest.fixture(scope="module")
def context():
    models = [load_pretrained(name) for name in ("midl2024", "midl2024-low-noise")]
    return SpatialClassifier([FrozenEstimator(one) for one in models], n_neighbors=40).fit()


@pytest.fixture
def scan(tmp_path, phantom):
    volume = phantom.signals.astype(np.float32)
    volume[:2, :2] = 0
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([*SIZE, 1])), tmp_path / "scan.nii.gz")
    phantom.protocol.to_json(tmp_path / "times.json")
    return tmp_path / "scan.nii.gz"


def mapped(scan, out, model, **options):
    subjects = find_subjects(scan, times=scan.parent / "times.json")
    (record,) = map_subjects(
        subjects, out, MapSettings(model, "none", **options), verbose=False, device="cpu"
    )
    return record, np.asarray(nibabel.load(out / "probabilities.nii.gz").dataobj)


def test_maps_are_those_of_the_classifier_of_volumes(scan, phantom, context, tmp_path):
    record, found = mapped(scan, tmp_path / "out", context)
    mask = np.ones(SHAPE, bool)
    mask[:2, :2] = False
    expected = context.set_params(voxel_size=SIZE).predict_proba(phantom.signals, mask=mask)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    labels = np.asarray(nibabel.load(tmp_path / "out" / "labels.nii.gz").dataobj)
    alone = context.estimators_[0].predict(phantom.signals)
    right = (labels == phantom.counts)[mask].mean()
    assert right > (alone == phantom.counts)[mask].mean()
    settings = record["settings"]["context"]
    assert settings["n_neighbors"] == 40
    assert settings["noise"] == pytest.approx(0.03, rel=0.05)


def test_slabs_have_no_seams(scan, context, tmp_path, monkeypatch):
    record, whole = mapped(scan, tmp_path / "whole", context)
    reach = record["settings"]["context"]["reach"][2]
    assert 2 <= reach <= 8
    monkeypatch.setattr("corrsk.workflows.mapping.networks.CONTEXT_BYTES", (2 * reach + 5) * SLICE)
    _, slabs = mapped(scan, tmp_path / "slabs", context)
    np.testing.assert_allclose(slabs, whole, atol=1e-4)
    for name in ("novelty", "noise", "T1", "mask"):
        paths = [tmp_path / folder / f"{name}.nii.gz" for folder in ("whole", "slabs")]
        if paths[0].exists():
            one, other = (np.asarray(nibabel.load(path).dataobj) for path in paths)
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_margins_that_exceed_the_memory_are_refused(scan, context, tmp_path, monkeypatch):
    monkeypatch.setattr("corrsk.workflows.mapping.networks.CONTEXT_BYTES", 5 * SLICE)
    with pytest.raises(ValueError, match=r"slices on either side.*fewer neighbours than 40"):
        mapped(scan, tmp_path / "out", context)
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_the_command_has_context(scan, context, tmp_path):
    times = str(scan.parent / "times.json")
    arguments = ["map", str(scan), str(tmp_path / "out"), "--times", times, "--mask", "none"]
    result = CliRunner().invoke(app, [*arguments, "--context", "--model", "multi-exponential"])
    assert result.exit_code != 0
    assert "--context is for networks" in " ".join(result.output.split())
    save(context, tmp_path / "context.safetensors")
    result = CliRunner().invoke(app, [*arguments, "--model", str(tmp_path / "context.safetensors")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["model"]["Class"] == "SpatialClassifier"
    arguments[2] = str(tmp_path / "flag")
    result = CliRunner().invoke(app, [*arguments, "--context", "--model", "midl2024-low-noise"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "flag" / "report.json").read_text())
    assert record["model"] | {"SHA256": ""} == {
        "Name": "midl2024-low-noise", "Class": "SimulationTrainedClassifier", "SHA256": "",
        "Context": "SpatialClassifier",
    }  # fmt: skip


def test_context_of_other_classifiers_is_refused(scan, phantom, context, tmp_path):
    rows, counts = phantom.signals.reshape(-1, 64), phantom.counts.ravel()
    other = SpatialClassifier(FrozenEstimator(GaussianNB().fit(rows, counts))).fit()
    with pytest.raises(ValueError, match="SpatialClassifier of a GaussianNB; maps need"):
        mapped(scan, tmp_path / "out", other)
    field = SpatialClassifier(context.estimator, method="field").fit()
    with pytest.raises(ValueError, match="slab by slab and need method='average'"):
        mapped(scan, tmp_path / "out", field)
