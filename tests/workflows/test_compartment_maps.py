"""Maps of regressors of compartments, and of Pipelines."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

from corrsk import (
    AcquisitionProtocol,
    CompartmentRegressor,
    ProtocolAligner,
    ProtocolMismatchError,
    SignalMasker,
    SignalNormalizer,
    SNRRange,
    TissuePrior,
    make_correlation_signals,
    save,
)
from corrsk.cli.app import app
from corrsk.workflows.mapping import MapSettings, describe_plan, find_subjects, map_subjects
from tests.workflows._browser import CHROMIUM, Tab, browser
from tests.workflows.test_report import data_of, unpacked

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")
pytest.importorskip("skimage")

PROTOCOL = AcquisitionProtocol.from_grid(ti=[50, 300, 900, 2500], te=[10, 30, 70, 150])
PRIOR = TissuePrior.named("t1t2-detr", n_compartments=(1, 2))
NOISE = {"noise_level": SNRRange(50, 200), "noise_reference": "max"}
SHAPE, N_INVERTED = (10, 4, 1), 4
AFFINE = np.diag([2.0, 2, 3, 1])


def signals_of(n, **options):
    return make_correlation_signals(
        n, prior=PRIOR, protocol=PROTOCOL, norm=None, random_state=1, **NOISE, **options
    )


@pytest.fixture(scope="module")
def regressor():
    return CompartmentRegressor(
        PROTOCOL, PRIOR, **NOISE, n_samples=4000, n_validation=200, width=16, n_blocks=1,
        n_components=2, max_epochs=4, n_draws=32, max_rounds=1, random_state=0, verbose=False,
    ).fit()  # fmt: skip


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    signals = 700 * signals_of(40)[0].astype(np.float32)
    signals[:N_INVERTED] *= -1
    nibabel.save(nibabel.Nifti1Image(signals.reshape(*SHAPE, 16), AFFINE), folder / "scan.nii")
    PROTOCOL.to_json(folder / "times.json")
    return folder / "scan.nii"


@pytest.fixture(scope="module")
def mapped(scan, regressor, tmp_path_factory):
    """Folder of the maps of the regressor with a report, and the record."""
    out = tmp_path_factory.mktemp("maps") / "out"
    settings = MapSettings(regressor, mask="none", n_draws=64, max_rounds=2, report=True)
    (record,) = map_subjects(subjects_of(scan), out, settings, n_jobs=1, verbose=False)
    return out, record


def subjects_of(scan):
    return find_subjects(scan, times=scan.parent / "times.json")


def read(path):
    values = np.asarray(nibabel.load(path).dataobj)
    return values.reshape(40, *values.shape[3:])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_maps_of_a_regressor_are_those_of_its_posterior(scan, regressor, mapped):
    out, record = mapped
    model = regressor.matched_to(PROTOCOL).set_params(n_draws=64, max_rounds=2)
    signals = np.asarray(nibabel.load(scan).dataobj).reshape(40, 16)
    posterior = model.posterior(signals)
    table = posterior.table()
    np.testing.assert_allclose(
        read(out / "probabilities.nii.gz"), posterior.probabilities, atol=1e-6
    )
    np.testing.assert_allclose(read(out / "confidence.nii.gz"), table["confidence"], atol=1e-6)
    np.testing.assert_allclose(read(out / "M0.nii.gz"), table["scale"], rtol=1e-5)
    np.testing.assert_allclose(
        read(out / "confidences.nii.gz"), table[["confidence_1", "confidence_2"]], atol=1e-6
    )
    _, upper = posterior.interval(0.9)
    np.testing.assert_allclose(
        1e3 * read(out / "T2_upper.nii.gz"), upper[["T2_1", "T2_2"]], rtol=1e-5
    )
    np.testing.assert_array_equal(read(out / "degenerate.nii.gz"), posterior.degenerate)
    unreliable = read(out / "unreliable.nii.gz") > 0
    assert unreliable[:N_INVERTED].all()
    np.testing.assert_array_equal(unreliable, ~(posterior.reliable & (table["scale"] > 0)))
    novel = model.predict_novelty(signals) < 0.01
    np.testing.assert_array_equal(read(out / "novelty.nii.gz"), novel)
    assert novel[:N_INVERTED].all()
    assert {"T1", "T2", "fractions", "entropy"} <= record["maps"].keys()
    assert (record["settings"]["n_draws"], record["settings"]["max_rounds"]) == (64, 2)
    notes = [one["message"] for one in record["warnings"]]
    assert any("of the voxels is unreliable" in text and "n_draws=1024" in text for text in notes)
    assert json.loads((out / "T1_lower.json").read_text())["Units"] == "s"
    # other draws are another run
    with pytest.raises(FileExistsError, match="n_draws"):
        map_subjects(
            subjects_of(scan), out, MapSettings(regressor, mask="none"), resume=True, verbose=False
        )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_maps_without_draws_are_those_of_the_modes(scan, regressor, tmp_path):
    settings = MapSettings(regressor, mask="none", n_draws=0)
    (record,) = map_subjects(subjects_of(scan), tmp_path / "out", settings, verbose=False)
    signals = np.asarray(nibabel.load(scan).dataobj).reshape(40, 16)
    modes = regressor.matched_to(PROTOCOL).modes(signals)
    table = modes.table()
    out = tmp_path / "out"
    np.testing.assert_allclose(read(out / "probabilities.nii.gz"), modes.probabilities, atol=1e-6)
    np.testing.assert_allclose(
        1e3 * read(out / "T2_compartments.nii.gz"), table[["T2_1", "T2_2"]], rtol=1e-5
    )
    unreliable = read(out / "unreliable.nii.gz") > 0
    assert (unreliable | (read(out / "novelty.nii.gz") > 0))[:N_INVERTED].all()
    np.testing.assert_array_equal(unreliable, ~(modes.reliable & (table["scale"] > 0)))
    assert not {"T1_lower", "T2_upper", "degenerate"} & record["maps"].keys()
    assert record["settings"]["method"] == "laplace"
    assert any(one["message"].startswith("no intervals") for one in record["warnings"])


def test_the_report_has_the_compartments_of_the_maps(mapped):
    out, _ = mapped
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "In brackets: 90 % interval" in page
    assert "Degenerate: 1 where" in page
    data = data_of(page)
    found = unpacked(data["voxels"]["arrays"]["compartments"])
    place = unpacked(data["voxels"]["arrays"]["place"])[7]
    at = tuple(np.array(data["start"]) + np.array(data["steps"]) * place)
    expected = [np.asarray(nibabel.load(out / "fractions.nii.gz").dataobj)[at]]
    for name in ("T1", "T2"):
        for key in ("compartments", "lower", "upper"):
            path = out / f"{name}_{key}.nii.gz"
            expected.append(1000 * np.asarray(nibabel.load(path).dataobj)[at])
    np.testing.assert_allclose(found[7], np.stack(expected, axis=1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not there")
def test_a_click_shows_the_compartments_with_their_intervals(mapped):
    out, _ = mapped

    async def visit(address):
        async with Tab.open(address) as tab:
            await tab.go(f"{(out / 'report.html').as_uri()}#voxel=6,2,0", 1000)
            shown = await tab.run("element('compartments').textContent")
            fractions = np.asarray(nibabel.load(out / "fractions.nii.gz").dataobj)[6, 2, 0]
            assert shown.count(" to ") == 2 * (fractions > 0).sum()
            assert shown.startswith("fractionT1 (ms)T2 (ms)")
            assert tab.errors == []

    with browser() as address:
        asyncio.run(visit(address))


def test_draws_are_options_of_the_command(scan, regressor, tmp_path):
    save(regressor, tmp_path / "model.safetensors")
    times = scan.parent / "times.json"
    arguments = ["map", str(scan), str(tmp_path / "out"), "--times", str(times), "--mask", "none",
                 "--dry"]  # fmt: skip
    runner = CliRunner()
    shown = runner.invoke(
        app, [*arguments, "--model", str(tmp_path / "model.safetensors"), "--draws", "64"]
    )
    assert shown.exit_code == 0, shown.output
    assert "unreliable.nii.gz" in shown.output
    refused = runner.invoke(app, [*arguments, "--model", "multi-exponential", "--rounds", "2"])
    assert refused.exit_code == 1
    assert "--draws and --rounds are for a CompartmentRegressor" in refused.output
    for options, message in (
        (["--draws", "5"], "--draws must be at least 16, or 0"),
        (["--draws", "0", "--rounds", "2"], "which --draws 0 does not have"),
    ):
        refused = runner.invoke(app, [*arguments, "--model", "midl2024", *options])
        assert refused.exit_code == 1
        assert message in refused.output
    with pytest.raises(ValueError, match="n_draws"):
        describe_plan(subjects_of(scan), tmp_path / "out", MapSettings(regressor, n_draws=3))
    with pytest.raises(ValueError, match="has no spectra"):
        describe_plan(subjects_of(scan), tmp_path / "out", MapSettings(regressor, spectra=True))


def pipeline_of(*first):
    X, y = signals_of(300)
    steps = [ProtocolAligner(PROTOCOL, prior=PRIOR, **NOISE), SignalNormalizer(),
             LinearDiscriminantAnalysis()]  # fmt: skip
    return make_pipeline(*first, *steps).fit(X, y)


def test_a_saved_pipeline_from_images_is_a_model(scan, tmp_path):
    plain = pipeline_of()
    save(pipeline_of(SignalMasker()), tmp_path / "model.safetensors")
    out = tmp_path / "out"
    settings = MapSettings(tmp_path / "model.safetensors", mask="none")
    (record,) = map_subjects(subjects_of(scan), out, settings, verbose=False)
    signals = np.asarray(nibabel.load(scan).dataobj).reshape(40, 16)
    np.testing.assert_allclose(
        read(out / "probabilities.nii.gz"), plain.predict_proba(signals), atol=1e-6
    )
    assert record["model"]["Class"] == "Pipeline"
    assert record["settings"]["steps"][-1] == "LinearDiscriminantAnalysis"
    assert any("counts only" in one["message"] for one in record["warnings"])
    # the aligner compares the protocol, and sorts the measurements
    order = np.random.default_rng(0).permutation(16)
    mixed = tmp_path / "mixed.npz"
    protocol = AcquisitionProtocol(ti=PROTOCOL.ti[order], te=PROTOCOL.te[order])
    np.savez(
        mixed, S=signals[:, order].reshape(*SHAPE, 16), protocol=json.dumps(protocol.to_dict())
    )
    again = tmp_path / "again"
    map_subjects(find_subjects(mixed), again, settings, verbose=False)
    np.testing.assert_array_equal(read(again / "labels.nii.gz"), read(out / "labels.nii.gz"))
    other = AcquisitionProtocol(ti=1.2 * PROTOCOL.ti, te=PROTOCOL.te)
    with pytest.raises(ProtocolMismatchError, match="TI 60"):
        describe_plan(find_subjects(scan, times=other), tmp_path / "no", settings)


def test_a_pipeline_that_is_no_map_is_one_sentence(scan, regressor, tmp_path):
    X, y = signals_of(300)
    for steps, message in (
        ((SignalNormalizer(), LinearDiscriminantAnalysis()), "without a ProtocolAligner"),
        ((ProtocolAligner(PROTOCOL, prior=PRIOR, **NOISE), SignalNormalizer()), "predict_proba"),
    ):
        model = make_pipeline(*steps).fit(X, y)
        with pytest.raises(ValueError, match=message):
            describe_plan(subjects_of(scan), tmp_path / "out", MapSettings(model))
    named = make_pipeline(
        ProtocolAligner(PROTOCOL, prior=PRIOR, **NOISE), LinearDiscriminantAnalysis()
    ).fit(X, np.where(y > 1, "several", "one"))
    with pytest.raises(ValueError, match="whose classes are no counts"):
        describe_plan(subjects_of(scan), tmp_path / "out", MapSettings(named))
    # a masker in front of a model that compares protocols itself
    images = nibabel.Nifti1Image(np.asarray(nibabel.load(scan).dataobj), AFFINE)
    whole = make_pipeline(SignalMasker(protocol=PROTOCOL).fit(images), regressor)
    plan = describe_plan(subjects_of(scan), tmp_path / "out", MapSettings(whole))
    assert "unreliable.nii.gz" in plan
