"""Maps of spectra, and of compartments with intervals, from files to a folder."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from typer.testing import CliRunner

from corrsk import (
    AcquisitionProtocol,
    EchoTrain,
    MultiExponentialClassifier,
    NNLSSpectrum,
    TissuePrior,
    make_correlation_signals,
    save,
)
from corrsk.cli.app import app
from corrsk.workflows.mapping import MapSettings, describe_plan, find_subjects, map_subjects
from corrsk.workflows.mapping.spectra import (
    SpectrumMapper,
    parse_windows,
    spectrum_of_images,
)

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("skimage")

SHAPE = (5, 4, 3)
AFFINE = np.diag([2.0, 2, 3, 1])
PROTOCOL = AcquisitionProtocol.from_grid(ti=[50, 300, 900, 2500], te=[10, 30, 70, 150])
WINDOWS = {"myelin water": {"T2": (0, 40)}, "long T1": {"T1": (1000, 1e4), "T2": (40, 1e4)}}


def signals_of(protocol=PROTOCOL, n=60):
    prior = TissuePrior.named("t1t2-detr", n_compartments=(1, 2))
    signals, _ = make_correlation_signals(
        n, prior=prior, protocol=protocol, norm=None, noise_level=0.005, random_state=0
    )
    return (500 * signals).astype(np.float32)


@pytest.fixture
def scan(tmp_path):
    values = signals_of().reshape(*SHAPE, -1)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "scan.nii.gz")
    PROTOCOL.to_json(tmp_path / "times.json")
    return tmp_path / "scan.nii.gz"


def subjects_of(scan):
    return find_subjects(scan, times=scan.parent / "times.json")


def read(path):
    return np.asarray(nibabel.load(path).dataobj)


def run(*arguments):
    return CliRunner().invoke(app, ["map", *map(str, arguments)])


def test_maps_are_those_of_the_spectra(scan, tmp_path):
    model = NNLSSpectrum(PROTOCOL, n_bins=12, verbose=False).fit(signals_of())
    save(model, tmp_path / "model.safetensors")
    settings = MapSettings(
        tmp_path / "model.safetensors", windows=WINDOWS, spectra=True, mask="none", preview=True
    )
    out = tmp_path / "out"
    (record,) = map_subjects(subjects_of(scan), out, settings, n_jobs=1, verbose=False)
    found = model.invert(signals_of())
    fractions = found.window_fractions(WINDOWS)
    expected = {
        "MWF": 100 * fractions["myelin water"], "fraction_longT1": fractions["long T1"],
        "M0": found.amplitudes.sum(axis=(1, 2)), "weight": found.weight,
        "residual": found.residual, "T1": found.geometric_mean("T1") / 1e3,
        "T2": found.geometric_mean("T2") / 1e3, "misfit": found.misfit,
        "n_peaks": (found.peaks().filter(regex="^f_") > 0).sum(axis=1),
    }  # fmt: skip
    for key, values in expected.items():
        np.testing.assert_allclose(read(out / f"{key}.nii.gz").ravel(), values, rtol=1e-5)
    assert len(set(expected["n_peaks"])) > 1
    spectra = read(out / "spectra.nii.gz")
    np.testing.assert_allclose(spectra.reshape(60, 12, 12), found.amplitudes, rtol=1e-5, atol=1e-4)
    sidecar = json.loads((out / "spectra.json").read_text())
    np.testing.assert_allclose(sidecar["Axes"]["T2"], found.axes["T2"] / 1e3, rtol=1e-5)
    assert json.loads((out / "MWF.json").read_text())["Units"] == "percent"
    assert record["settings"]["windows"]["myelin water"] == "T2 0 to 40"
    assert (out / "preview.png").read_bytes()[:4] == b"\x89PNG"
    assert not (out / "labels.nii.gz").exists()


def test_a_command_with_a_file_of_settings(scan, tmp_path):
    (tmp_path / "spectrum.json").write_text(
        json.dumps({"n_bins": 8, "bounds": {"T2": [5, 500]}, "regularization": 0.01,
                    "windows": {"MWF": {"T2": [0, 40]}}})
    )  # fmt: skip
    atlas = np.ones(SHAPE, np.int16)
    atlas[2:] = 2
    nibabel.save(nibabel.Nifti1Image(atlas, AFFINE), tmp_path / "atlas.nii")
    out = tmp_path / "out"
    arguments = (scan, out, "--times", tmp_path / "times.json", "--model",
                 tmp_path / "spectrum.json", "--statistics", tmp_path / "atlas.nii")  # fmt: skip
    dry = run(*arguments, "--spectra", "--dry")
    assert dry.exit_code == 0, dry.output
    text = " ".join(dry.output.split())
    assert f"{60 * 4 * 64 / 1e6:.1f} MB of which are the spectra" in text
    assert str(out / "MWF.nii.gz") in dry.output.replace("\n", "")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert not (out / "spectra.nii.gz").exists()
    record = json.loads((out / "report.json").read_text())
    assert record["settings"]["bounds"]["T2"] == [5, 500]
    assert record["settings"]["regularization"] == 0.01
    assert "calibration" in record["settings"] or any(
        "not calibrated" in one["message"] for one in record["warnings"]
    )
    table = pd.read_csv(out / "statistics.tsv", sep="\t")
    mwf = read(out / "MWF.nii.gz")
    assert table["MWF_mean"][1] == pytest.approx(np.nanmean(mwf[2:]), rel=1e-4)
    assert "share_1" not in table
    # messages have the words of the command
    again = run(*arguments, "--compartments", "2", "--resume")
    assert "--compartments is for the model multi-exponential" in again.output
    # the windows of the command replace those of the file, and are another run
    again = run(*arguments, "--window", "short=T2:0-30", "--resume")
    assert again.exit_code == 1
    assert "windows was None" in again.output


def test_the_model_spectrum_is_set_up_for_the_images(scan, tmp_path):
    out = tmp_path / "out"
    settings = MapSettings("spectrum", mask="none")
    plan = describe_plan(subjects_of(scan), out, settings, n_jobs=1)
    assert "before compression" in plan
    mapper = SpectrumMapper(spectrum_of_images(), subjects_of(scan)[0].images, 1)
    assert [axis.size for axis in mapper.spectra.axes_.values()] == [24, 24]
    assert "inversion_efficiency" not in mapper.settings  # the pulses are calibrated
    for pulses in ({"inversion_efficiency": 1.0}, {"inversion_efficiency": 0.9}):
        stated = SpectrumMapper(spectrum_of_images(**pulses), subjects_of(scan)[0].images, 1)
        sample = signals_of()
        stated.prepare(sample, np.ones(SHAPE, bool))
        assert "calibration" not in stated.settings
        assert stated.settings["inversion_efficiency"] == pulses["inversion_efficiency"]
    assert any("no window is given, such as windows=" in note for note in mapper.notes)


def echoes(b1):
    train = EchoTrain(10.0, refocusing_angle=180 * b1, excitation_angle=90 * b1)
    return AcquisitionProtocol({"TE": 10.0 * np.arange(1, 17)}, readout=train)


@pytest.mark.parametrize("scope", ["voxel", "image"])
def test_refocusing_angles_are_a_map_or_a_setting(tmp_path, scope):
    rows = signals_of(echoes(0.8))
    nominal = echoes(1.0)
    nominal.to_json(tmp_path / "times.json")
    nibabel.save(nibabel.Nifti1Image(rows.reshape(*SHAPE, -1), AFFINE), tmp_path / "scan.nii.gz")
    model = NNLSSpectrum(n_bins=20, b1=(0.7, 0.9), b1_scope=scope)
    out = tmp_path / "out"
    (record,) = map_subjects(
        subjects_of(tmp_path / "scan.nii.gz"), out, MapSettings(model, mask="none"), n_jobs=1,
        verbose=False,
    )  # fmt: skip
    t2 = read(out / "T2.nii.gz")
    if scope == "voxel":
        assert np.median(read(out / "b1.nii.gz")) == pytest.approx(0.8, abs=0.03)
    else:
        assert record["settings"]["relative refocusing angle"] == pytest.approx(0.8, abs=0.02)
        assert not (out / "b1.nii.gz").exists()
        # the same spectra as those with the true pulses
        true = NNLSSpectrum(echoes(0.8), n_bins=20, verbose=False).fit(rows).invert(rows)
        np.testing.assert_allclose(1e3 * t2.ravel(), true.geometric_mean("T2"), rtol=0.03)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("T2:0-40", "needs a name and limits"), ("a=T2", "needs a name and limits"),
        ("a=T2:0-40,T1", "needs a name and limits"), ("a=T2:-1-40", "needs a name and limits"),
    ],
)  # fmt: skip
def test_windows_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        parse_windows([text])


def test_windows_of_a_command():
    assert parse_windows(None) is None
    assert parse_windows(["a b=T1:0-600,T2:1.5-inf"]) == {
        "a b": {"T1": (0, 600), "T2": (1.5, np.inf)}
    }
    with pytest.raises(ValueError, match="two windows have the name 'a'"):
        parse_windows(["a=T2:0-40", "a=T2:40-90"])


def test_bad_input_is_one_sentence_before_any_file(scan, tmp_path):
    def refused(message, model="spectrum", **settings):
        with pytest.raises(ValueError, match=message):
            map_subjects(subjects_of(scan), tmp_path / "out", MapSettings(model, **settings))
        assert not (tmp_path / "out").exists()

    refused("contains no bin", windows={"a": {"T2": (1e5, 1e6)}})
    refused("no property 'D'", windows={"a": {"D": (0, 1)}})
    refused("would have one file", windows={"a b": {"T2": (0, 40)}, "ab": {"T2": (0, 50)}})
    refused("needs letters or digits", windows={"--": {"T2": (0, 40)}})
    refused("windows and spectra are for the model spectrum", "multi-exponential", spectra=True)
    refused(
        "n_compartments is for the model multi-exponential; spectrum has no counts",
        n_compartments=2,
    )
    refused("context is for networks", context=True)
    refused("penalty", NNLSSpectrum(penalty="none"))
    path = tmp_path / "spectrum.json"
    for content, message in (
        ({"bins": 3}, "unknown entries of a spectrum: bins"),
        ({"windows": {"a": {"T2": ["x", 3]}}}, "a limit of T2 of the window 'a' must be a number"),
        ({"windows": [1]}, "windows must be a mapping"),
        ({"windows": {"a": 3}}, "the window 'a' needs the lower and upper limit"),
        ({"windows": {"a": {"T2": 40}}}, "the window 'a' needs the lower and upper limit"),
        ({"n_bins": "many"}, "n_bins"),
        ({"n_bins": {"T1": 8, "T2": "x"}}, "n_bins of T2 must be an integer, got 'x'"),
        ({"b1": [0.5, 1.0]}, "the protocol has no echo train"),
    ):
        path.write_text(json.dumps(content))
        refused(message, path)
    values = np.abs(signals_of().reshape(*SHAPE, -1))
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), scan)
    refused("magnitudes of an inversion recovery")


class Regressor(BaseEstimator):
    """Compartments with intervals, from fits: what a learned regressor would predict."""

    def __init__(self, fits=None):
        self.fits = fits

    @property
    def protocol_(self):
        return self.fits.protocol_

    @property
    def classes_(self):
        return self.fits.classes_

    def predict_proba(self, X):
        return self.fits.predict_proba(X)

    def predict(self, X):
        return self.fits.estimate_compartments(X).filter(regex=r"^\w+_\d$")

    def predict_interval(self, X, coverage=0.9):
        table = self.predict(X)
        return (1 - coverage) * table, (1 + coverage) * table


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_any_estimator_with_intervals_gives_maps_of_them(scan, tmp_path):
    fits = MultiExponentialClassifier(
        PROTOCOL, counts=(1, 2), criterion="bic", random_state=0, verbose=False
    ).fit(signals_of())
    model = Regressor(fits)
    out = tmp_path / "out"
    map_subjects(subjects_of(scan), out, MapSettings(model, mask="none"), n_jobs=1, verbose=False)
    table = model.predict(signals_of())
    for key, factor in (("compartments", 1), ("lower", 0.1), ("upper", 1.9)):
        values = read(out / f"T2_{key}.nii.gz").reshape(60, 2)
        np.testing.assert_allclose(1e3 * values, factor * table[["T2_1", "T2_2"]], rtol=1e-3)
    assert "90 % interval of T1" in json.loads((out / "T1_upper.json").read_text())["Description"]
    fractions = read(out / "fractions.nii.gz").reshape(60, 2)
    np.testing.assert_allclose(fractions.sum(axis=1), 1, atol=1e-5)
    assert set(np.unique(read(out / "labels.nii.gz"))) == {1, 2}


def test_a_calibration_on_voxels_of_two_compartments_is_in_the_record(tmp_path):
    protocol = AcquisitionProtocol(te=10.0 * np.arange(1, 33), tr=3000.0)
    rng = np.random.default_rng(0)
    water, myelin = rng.uniform(60, 100, (60, 1)), rng.uniform(15, 25, (60, 1))
    te = protocol.te
    signals = 0.85 * np.exp(-te / water) + 0.15 * np.exp(-te / myelin)
    signals += rng.normal(0, 0.005, signals.shape)
    np.savez(tmp_path / "scan.npz", S=signals.reshape(10, 6, 1, 32),
             protocol=json.dumps(protocol.to_dict()))  # fmt: skip
    subjects = find_subjects(tmp_path / "scan.npz")
    settings = MapSettings("spectrum", mask="none")
    (record,) = map_subjects(subjects, tmp_path / "out", settings, n_jobs=1, verbose=False)
    (found,) = [one for one in record["warnings"] if one["category"] == "CalibrationWarning"]
    assert "most of whose voxels have one compartment" in found["message"]
