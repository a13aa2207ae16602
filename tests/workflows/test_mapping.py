"""Maps of measured images: from files to a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.exceptions import ConvergenceWarning

from corrsk import (
    AcquisitionProtocol,
    MultiExponentialClassifier,
    ProtocolMismatchError,
    ResidualMLPClassifier,
    SimulationTrainedClassifier,
    SNRRange,
    TissuePrior,
    make_correlation_signals,
    save,
)
from corrsk.imaging import load_images
from corrsk.workflows.mapping import MapSettings, describe_plan, find_subjects, map_subjects
from corrsk.workflows.mapping.survey import survey_images
from tests._helpers import SHARED_DATA

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("skimage")

AFFINE = np.array([[2.0, 0, 0, -30], [0, 2, 0, 10], [0, 0, 4, 5], [0, 0, 0, 1]])
SHAPE = (12, 10, 4)
PROTOCOL = AcquisitionProtocol.from_grid(ti=[50, 300, 900, 2500], te=[10, 30, 70, 150])
PRIOR = TissuePrior.named("t1t2-detr", n_compartments=(1, 2))
NOISE = {"noise_level": SNRRange(100, 400), "noise_reference": "max"}


@pytest.fixture(scope="module")
def values():
    """Volume with tissue inside of a cylinder and noise outside."""
    signals, _ = make_correlation_signals(
        int(np.prod(SHAPE)), prior=PRIOR, protocol=PROTOCOL, norm=None, random_state=1, **NOISE
    )
    volume = 900 * signals.reshape(*SHAPE, -1)
    x, y = np.meshgrid(np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1]), indexing="ij")
    outside = np.hypot(x, y) > 0.95
    rng = np.random.default_rng(0)
    volume[outside] = rng.normal(0, 4, volume[outside].shape)
    return volume.astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return SimulationTrainedClassifier(
        PROTOCOL, PRIOR, **NOISE, n_samples=10_000, n_validation=500, random_state=0,
        network=ResidualMLPClassifier(width=16, n_blocks=1, max_epochs=3, device="cpu"),
        verbose=False,
    ).fit()  # fmt: skip


@pytest.fixture
def scan(tmp_path, values):
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "scan.nii.gz")
    PROTOCOL.to_json(tmp_path / "times.json")
    return tmp_path / "scan.nii.gz"


def subjects_of(scan):
    return find_subjects(scan, times=scan.parent / "times.json")


def read(path):
    return np.asarray(nibabel.load(path).dataobj)


def test_maps_have_the_values_of_the_model_and_the_geometry_of_the_images(
    scan, values, model, tmp_path
):
    out = tmp_path / "out"
    (record,) = map_subjects(
        subjects_of(scan), out, MapSettings(model, slab_bytes=20_000), verbose=False
    )
    mask = read(out / "mask.nii.gz") > 0
    assert 0.5 < mask.mean() < 0.8  # the cylinder
    expected = model.predict_proba(values[mask], protocol=PROTOCOL)
    found = read(out / "probabilities.nii.gz")
    np.testing.assert_allclose(found[mask], expected, atol=1e-5)
    assert np.isnan(found[~mask]).all()
    labels = nibabel.load(out / "labels.nii.gz")
    np.testing.assert_array_equal(labels.affine, AFFINE)
    assert labels.get_data_dtype() == np.uint8
    classes = model.classes_[expected.argmax(axis=1)]
    assert (read(out / "labels.nii.gz")[mask] == classes).mean() > 0.999
    np.testing.assert_allclose(read(out / "multicompartment.nii.gz")[mask], expected[:, 1],
                               atol=1e-5)  # fmt: skip
    entropy = -(expected * np.log2(np.maximum(expected, 1e-300))).sum(axis=1)
    np.testing.assert_allclose(read(out / "entropy.nii.gz")[mask], entropy, atol=1e-4)
    novel = model.predict_novelty(values[mask], protocol=PROTOCOL) < 0.01
    assert (read(out / "novelty.nii.gz")[mask] == novel).mean() > 0.99
    sidecar = json.loads((out / "T1.json").read_text())
    assert sidecar["Units"] == "s"
    assert sidecar["Sources"] == ["../scan.nii.gz"]
    assert sidecar["Model"]["Name"] == "SimulationTrainedClassifier"
    assert record == json.loads((out / "report.json").read_text())
    assert len(record["sources"][0]["sha256"]) == 64
    assert record["mask"]["n_voxels"] == mask.sum()


def test_properties_and_noise_are_those_of_the_simulated_tissue(tmp_path):
    one = TissuePrior.named("midl2024", n_compartments=(1,))
    signals, _ = make_correlation_signals(
        400, prior=one, norm=None, random_state=3, noise_level=0.02, noise_reference="m0"
    )
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    np.savez(tmp_path / "scan.npz", S=1000 * signals.reshape(20, 20, 1, 64),
             protocol=json.dumps(protocol.to_dict()))  # fmt: skip
    out = tmp_path / "out"
    subjects = find_subjects(tmp_path / "scan.npz")
    (record,) = map_subjects(subjects, out, MapSettings("midl2024"), verbose=False)
    assert any("no novelty map" in warning["message"] for warning in record["warnings"])
    assert 18 < np.median(read(out / "noise.nii.gz")) < 22
    t1, t2 = (read(out / f"{name}.nii.gz").ravel() for name in ("T1", "T2"))
    reference = MultiExponentialClassifier(
        protocol, counts=(1,), random_state=0, verbose=False
    ).fit(signals)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference = reference.estimate_compartments(signals, 1)
    inside = ~reference["at_bound"].to_numpy()
    for found, name in ((t1, "T1_1"), (t2, "T2_1")):
        ratio = 1000 * found[inside] / reference[name].to_numpy()[inside]
        assert np.quantile(np.abs(np.log(ratio)), 0.95) < 0.02


def test_a_folder_in_bids_becomes_a_derivative(tmp_path, values, model):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    for sub in ("01", "02", "03"):
        anat = raw / f"sub-{sub}" / "anat"
        anat.mkdir(parents=True)
        for k, (ti, te) in enumerate(zip(PROTOCOL.ti, PROTOCOL.te, strict=True)):
            name = f"sub-{sub}_acq-TI{k // 4 + 1}_echo-{k % 4 + 1}_MESE"
            nibabel.save(nibabel.Nifti1Image(values[..., k], AFFINE), anat / f"{name}.nii")
            times = {"InversionTime": ti / 1e3, "EchoTime": te / 1e3}
            (anat / f"{name}.json").write_text(json.dumps(times))
    out = raw / "derivatives" / "corrsk"
    with pytest.raises(ValueError, match="no images of 07 in"):
        find_subjects(raw, participants=["07"])
    subjects = find_subjects(raw, participants=["sub-01", "03"])
    labels = tmp_path / "atlas.nii"
    atlas = np.zeros(SHAPE, np.int16)
    atlas[:6], atlas[6:] = 3, 8
    nibabel.save(nibabel.Nifti1Image(atlas, AFFINE), labels)
    map_subjects(subjects, out, MapSettings(model, atlas=labels, preview=True), verbose=False)
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert (out / description["DatasetLinks"]["raw"]).resolve() == raw.resolve()
    anat = out / "sub-01" / "anat"
    sidecar = json.loads((anat / "sub-01_seg-compartments_probseg.json").read_text())
    assert sidecar["Sources"][0] == "bids:raw:sub-01/anat/sub-01_acq-TI1_echo-1_MESE.nii"
    assert sidecar["LabelMap"] == ["1", "2"]
    assert (anat / "sub-01_seg-compartments_dseg.tsv").read_text().startswith("index\tname\n1\t")
    assert (anat / "sub-01_preview.png").read_bytes()[:4] == b"\x89PNG"
    rows = [line.split("\t") for line in (anat / "sub-01_statistics.tsv").read_text().split("\n")]
    assert [row[0] for row in rows[:3]] == ["label", "3", "8"]
    mapped = read(anat / "sub-01_desc-mapped_mask.nii.gz") > 0
    assert int(rows[1][2]) == mapped[:6].sum()
    shares = [float(rows[1][rows[0].index(f"share_{k}")]) for k in (1, 2)]
    assert sum(shares) == pytest.approx(1)
    assert not (out / "sub-02").exists()
    assert (out / "sub-03").exists()
    # a further subject joins the folder
    before = (anat / "sub-01_seg-compartments_dseg.nii.gz").stat().st_mtime_ns
    settings = MapSettings(model, atlas=labels, preview=True)
    records = map_subjects(find_subjects(raw), out, settings, resume=True, verbose=False)
    assert [record["subject"] for record in records] == ["sub-01", "sub-02", "sub-03"]
    assert (anat / "sub-01_seg-compartments_dseg.nii.gz").stat().st_mtime_ns == before


def test_resume_compares_the_content_of_the_inputs(scan, values, model, tmp_path, caplog):
    save(model, tmp_path / "model.safetensors")
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:8, 3:8] = 1
    nibabel.save(nibabel.Nifti1Image(mask, AFFINE), tmp_path / "mask.nii")
    settings = MapSettings(tmp_path / "model.safetensors", mask=tmp_path / "mask.nii")
    out = tmp_path / "out"

    def mapped_again(source=scan):
        caplog.clear()
        with caplog.at_level("INFO", "corrsk"):
            map_subjects(subjects_of(source), out, settings, resume=True, verbose=False)
        texts = [record.getMessage() for record in caplog.records]
        assert any("finished before" in text for text in texts) != any(
            "mapping" in text for text in texts
        )
        return [text.partition("made: ")[2] for text in texts if "mapped again" in text]

    map_subjects(subjects_of(scan), out, settings, verbose=False)
    assert mapped_again() == []
    nibabel.save(nibabel.Nifti1Image(2 * values, AFFINE), scan)
    assert mapped_again() == ["scan.nii.gz"]
    assert mapped_again() == []
    # unusable images leave the maps of the earlier ones
    before = (out / "report.json").read_bytes()
    nibabel.save(nibabel.Nifti1Image(0 * values, AFFINE), scan)
    with pytest.raises(ValueError, match="has no voxel with a signal"):
        map_subjects(subjects_of(scan), out, settings, resume=True, verbose=False)
    assert (out / "report.json").read_bytes() == before
    nibabel.save(nibabel.Nifti1Image(2 * values, AFFINE), scan)
    assert mapped_again() == []
    mask[3] = 0
    nibabel.save(nibabel.Nifti1Image(mask, AFFINE), tmp_path / "mask.nii")
    assert mapped_again() == ["the mask"]
    assert (read(out / "mask.nii.gz") == mask).all()
    (out / "T1.nii.gz").unlink()
    assert mapped_again() == ["maps that are missing or were changed"]
    (out / "T1.nii.gz").write_bytes(b"garbage")
    assert mapped_again() == ["maps that are missing or were changed"]
    content = (out / "T1.nii.gz").read_bytes()
    (out / "T1.nii.gz").write_bytes(content[::-1])  # of the same size
    assert mapped_again() == ["maps that are missing or were changed"]
    assert mapped_again() == []
    assert (out / "T1.nii.gz").exists()
    # the same content in another place is the same input, another content is not
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / scan.name
    moved.write_bytes(scan.read_bytes())
    PROTOCOL.to_json(tmp_path / "moved" / "times.json")
    assert mapped_again(moved) == []
    nibabel.save(nibabel.Nifti1Image(3 * values, AFFINE), moved)
    with pytest.raises(
        FileExistsError, match=r"other images of scan: of .*scan\.nii\.gz, not of .*moved"
    ):
        mapped_again(moved)
    other = sklearn.base.clone(model).set_params(random_state=1)
    other.set_params(n_samples=10_000).fit()
    save(other, tmp_path / "model.safetensors")
    with pytest.raises(FileExistsError, match=r"model\.SHA256 was"):
        mapped_again()


def test_another_protocol_is_refused_before_anything_is_written(scan, values, model, tmp_path):
    changed = AcquisitionProtocol.from_grid(ti=[50, 300, 900, 2500], te=[10, 30, 70, 190])
    with pytest.raises(ProtocolMismatchError, match="190"):
        map_subjects(find_subjects(scan, times=changed), tmp_path / "out", MapSettings(model))
    with pytest.raises(ProtocolMismatchError, match="train a model for your protocol"):
        map_subjects(subjects_of(scan), tmp_path / "out", MapSettings("auto"))
    assert not (tmp_path / "out").exists()


def test_a_model_of_some_measurements_uses_these(values, model, tmp_path):
    more = AcquisitionProtocol.from_grid(ti=[50, 300, 500, 900, 2500], te=[10, 20, 30, 70, 150])
    kept = [more.feature_names.index(name) for name in PROTOCOL.feature_names]
    volume = np.full((*SHAPE, 25), np.nan_to_num(values.mean()), np.float32)
    volume += np.random.default_rng(0).normal(size=volume.shape)
    volume[..., kept] = values
    nibabel.save(nibabel.Nifti1Image(volume, AFFINE), tmp_path / "scan.nii.gz")
    more.to_json(tmp_path / "times.json")
    out = tmp_path / "out"
    (record,) = map_subjects(
        subjects_of(tmp_path / "scan.nii.gz"), out, MapSettings(model, mask="none"), verbose=False
    )
    assert any("16 of the 25 measurements" in one["message"] for one in record["warnings"])
    expected = model.predict_proba(values.reshape(-1, 16), protocol=PROTOCOL)
    np.testing.assert_allclose(
        read(out / "probabilities.nii.gz").reshape(-1, 2), expected, atol=1e-5
    )
    # a measurement that the images lack is no part of them
    other = AcquisitionProtocol.from_grid(ti=[50, 300, 500, 900], te=[10, 20, 30, 70, 150])
    other.to_json(tmp_path / "times.json")
    nibabel.save(nibabel.Nifti1Image(volume[..., :20], AFFINE), tmp_path / "scan.nii.gz")
    with pytest.raises(ProtocolMismatchError, match="20 measurements in place of 16"):
        map_subjects(subjects_of(tmp_path / "scan.nii.gz"), tmp_path / "no", MapSettings(model))


def test_the_number_of_compartments_is_for_fits(scan, model, tmp_path):
    with pytest.raises(
        ValueError, match=r"n_compartments is for the model multi-exponential; .* counts 1, 2"
    ):
        map_subjects(subjects_of(scan), tmp_path / "out", MapSettings(model, n_compartments=4))
    assert not (tmp_path / "out").exists()
    plan = describe_plan(
        subjects_of(scan), tmp_path / "out", MapSettings("multi-exponential", n_compartments=1)
    )
    assert "fractions" in plan


def test_bad_input_is_one_sentence(scan, values, model, tmp_path):
    out = tmp_path / "out"

    def run(**settings):
        return map_subjects(subjects_of(scan), out, MapSettings(model, **settings), verbose=False)

    with pytest.raises(ValueError, match="unknown model 'sopu'"):
        map_subjects(subjects_of(scan), out, MapSettings("sopu"))
    wrong = tmp_path / "mask.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), np.uint8), AFFINE), wrong)
    with pytest.raises(ValueError, match=r"has the shape \(3, 3, 3\)"):
        run(mask=wrong)
    with pytest.raises(ValueError, match=r"has the shape \(3, 3, 3\)"):
        run(atlas=wrong)
    assert not out.exists()
    for content, message in (
        (np.zeros_like(values), "has no voxel with a signal"),
        (np.ones_like(values), "same value in all voxels"),
    ):
        nibabel.save(nibabel.Nifti1Image(content, AFFINE), scan)
        with pytest.raises(ValueError, match=message):
            run()
        assert not out.exists()
    out.mkdir()
    out.joinpath("thesis.tex").write_text("ten years")
    with pytest.raises(FileExistsError, match="contains other files"):
        run()


def test_the_plan_writes_nothing(scan, model, tmp_path):
    text = describe_plan(subjects_of(scan), tmp_path / "out", MapSettings(model))
    assert "480 voxels (12 x 10 x 4, 2 x 2 x 4 mm)" in text
    assert str(tmp_path / "out" / "labels.nii.gz") in text
    assert "mask of the maps: made of the images" in text
    assert "preview.png" not in text
    more = describe_plan(subjects_of(scan), tmp_path / "out", MapSettings(model, preview=True))
    assert str(tmp_path / "out" / "preview.png") in more
    assert not (tmp_path / "out").exists()
    # the folder is judged as the run would
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="contains other files"):
        describe_plan(subjects_of(scan), tmp_path / "other", MapSettings(model))
    (tmp_path / "other" / "run.json").write_text("{}")
    with pytest.raises(FileExistsError, match="another configuration"):
        describe_plan(subjects_of(scan), tmp_path / "other", MapSettings(model), resume=True)
    assert len(list((tmp_path / "other").iterdir())) == 2


def test_warnings_come_before_the_maps_and_are_in_the_record(scan, values, model, tmp_path, caplog):
    nibabel.save(nibabel.Nifti1Image(np.abs(values), AFFINE), scan)
    with caplog.at_level("INFO", "corrsk"):
        (record,) = map_subjects(
            subjects_of(scan), tmp_path / "out", MapSettings(model), verbose=False
        )
    texts = [message.getMessage() for message in caplog.records]
    warned = next(
        k for k, text in enumerate(texts) if "the signals probably are magnitudes" in text
    )
    assert warned < next(k for k, text in enumerate(texts) if "mapping" in text)
    kinds = [warning["category"] for warning in record["warnings"]]
    assert kinds.count("MeasuredSignalWarning") == 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_give_compartments_with_errors(tmp_path):
    prior = TissuePrior.named("t1t2-detr", n_compartments=(1, 2))
    signals, _ = make_correlation_signals(
        60, prior=prior, protocol=PROTOCOL, norm=None, noise_level=0.002, random_state=0
    )
    np.savez(tmp_path / "scan.npz", S=1000 * signals.reshape(10, 6, 1, 16),
             protocol=json.dumps(PROTOCOL.to_dict()))  # fmt: skip
    fits = MultiExponentialClassifier(
        PROTOCOL, counts=(1, 2), criterion="bic", random_state=0, verbose=False
    ).fit(signals)
    save(fits, tmp_path / "fits.safetensors")
    out = tmp_path / "out"
    settings = MapSettings(tmp_path / "fits.safetensors")
    map_subjects(find_subjects(tmp_path / "scan.npz"), out, settings, verbose=False)
    table = fits.estimate_compartments(signals)
    labels = read(out / "labels.nii.gz").ravel()
    assert (labels == table["n_c"]).mean() > 0.95
    t2 = read(out / "T2_compartments.nii.gz").reshape(60, 2)
    same = labels == table["n_c"]
    np.testing.assert_allclose(1000 * t2[same], table[["T2_1", "T2_2"]].to_numpy()[same], rtol=1e-3)
    assert np.isfinite(read(out / "T1_error.nii.gz")).any()
    fractions = read(out / "fractions.nii.gz").reshape(60, 2)
    np.testing.assert_allclose(fractions.sum(axis=1), 1, atol=1e-5)


# the process ends itself in its second slab, however fast or busy the machine is
KILLED = """
import os
import signal
import sys
import tracemalloc
from corrsk import load
from corrsk.workflows.mapping import MapSettings, find_subjects, map_subjects
from corrsk.workflows.mapping import networks

whole, slabs = networks.NetworkMapper.compute, []


def compute(self, signals):
    slabs.append(signals)
    if len(slabs) == 2:
        os.kill(os.getpid(), int(number))
    return whole(self, signals)


# a test run in the background of a script inherits an ignored SIGINT
signal.signal(signal.SIGINT, signal.default_int_handler)
networks.NetworkMapper.compute = compute
scan, times, model, out, number = sys.argv[1:]
map_subjects(find_subjects(scan, times=times), out, MapSettings(model, slab_bytes=10_000))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_whole_maps_and_is_resumed(scan, model, tmp_path, number):
    save(model, tmp_path / "model.safetensors")
    out = tmp_path / "out"
    arguments = [scan, scan.parent / "times.json", tmp_path / "model.safetensors", out, int(number)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)], stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert killed.returncode == -number
    visible = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert visible == {"run.json"}
    settings = MapSettings(tmp_path / "model.safetensors", slab_bytes=10_000)
    map_subjects(subjects_of(scan), out, settings, resume=True, verbose=False)
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert read(out / "labels.nii.gz").any()


@pytest.mark.slow
def test_measured_slices_with_the_series_of_a_head(tmp_path):
    folder = SHARED_DATA / "bids_mini"
    if not folder.exists():
        pytest.skip("bids_mini is not there")
    with pytest.raises(ValueError, match="sub-head has 2 sets of images"):
        find_subjects(folder, participants=["head"])
    with pytest.raises(ValueError, match="te=10"):
        find_subjects(folder, participants=["head"], join=True)
    (subject,) = find_subjects(folder, participants=["head"], join=True, te=10.0)
    assert subject.images.protocol.n_measurements == 12
    assert any("identity" in text for _, text in subject.warnings)
    subjects = find_subjects(folder, participants=["ir"])
    with pytest.raises(ProtocolMismatchError, match="TI were varied in place of TI, TE"):
        map_subjects(subjects, tmp_path / "out")


def test_a_survey_holds_few_bytes_of_each_voxel():
    """Its sample is a copy: a view would hold the positions of all voxels, 8 bytes of each."""
    protocol = AcquisitionProtocol({"TE": [10.0, 30.0]})
    values = np.random.default_rng(0).uniform(200, 1000, (50, 50, 200, 2)).astype(np.float32)
    images = load_images(values, protocol).with_mask(np.ones(values.shape[:3], bool))
    tracemalloc.start()
    try:
        survey = survey_images(images, "auto", slab_bytes=2**16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert survey.n_voxels == 500_000
    assert peak < 6 * survey.n_voxels
