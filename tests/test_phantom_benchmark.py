"""The benchmark on measured signals of a phantom, with simulated images in its form."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pandas as pd
import pytest

from corrsk import AcquisitionProtocol, CorrelationSignalGenerator
from corrsk._utils.files import read_json
from corrsk.physics import EchoTrain
from tests._helpers import ROOT

pytest.importorskip("nibabel")

T1 = [6000.0, 1000.0, 400.0, 150.0]
T2 = [4500.0, 500.0, 150.0, 40.0]
TI = np.array([50.0, 100, 200, 400, 600, 800])
TE = 10.0 * np.arange(1, 17)


@pytest.fixture
def phantom(monkeypatch, tmp_path):
    """The module of the benchmark, which writes its results to a temporary folder."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measure = importlib.import_module("_measure")
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    module = importlib.import_module("phantom")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "N_TRIPLES", 1)
    return module


def simulated(protocol, labels, seed):
    spheres = labels[labels > 0] - 1
    tissue = pd.DataFrame({"f_1": np.ones(len(spheres))})
    for name, values in (("T1", T1), ("T2", T2)):
        if name in protocol.tissue_properties:
            tissue[f"{name}_1"] = np.array(values)[spheres]
    signals = CorrelationSignalGenerator(
        protocol, noise_level=0.002, random_state=seed, verbose=False
    ).fit_transform(tissue)
    image = np.zeros((*labels.shape, signals.shape[1]), np.float32)
    image[labels > 0] = 1000 * np.abs(signals)
    return image


def write_images(folder, name, image, labels, **header):
    import nibabel

    reference = {"ReferenceT1_ms": T1, "ReferenceT2_ms": T2}
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), folder / f"{name}.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(labels.astype(np.uint8), np.eye(4)), folder / f"{name}_labels.nii.gz"
    )
    text = json.dumps({**header, **reference, "Signed": False})
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_spheres_of_a_simulated_phantom_are_read_counted_and_recorded(
    phantom, monkeypatch, tmp_path
):
    labels = np.zeros((5, 16, 1), np.int64)
    for k in range(1, 5):
        labels[:4, 4 * (k - 1) : 4 * k - 1] = k
    recovery = AcquisitionProtocol(ti=TI, te=10.0, tr=1500.0)
    echoes = AcquisitionProtocol(te=TE, tr=3000.0, readout=EchoTrain(10.0, refocusing_angle=165.0))
    write_images(
        tmp_path, "a_T1", simulated(recovery, labels, 0), labels,
        InversionTime=(TI / 1e3).tolist(), EchoTime=[0.01] * 6, RepetitionTime=[1.5] * 6,
    )  # fmt: skip
    # concatenated, so that the echoes depend on T1, through TR, too
    signals = CorrelationSignalGenerator(
        AcquisitionProtocol.concatenate([recovery, echoes]), noise_level=0.002, random_state=1,
        verbose=False,
    ).fit_transform(
        pd.DataFrame({"T1_1": np.array(T1)[labels[labels > 0] - 1],
                      "T2_1": np.array(T2)[labels[labels > 0] - 1], "f_1": 1.0})
    )  # fmt: skip
    image = np.zeros((*labels.shape, TE.size), np.float32)
    image[labels > 0] = 1300 * signals[:, TI.size :]
    write_images(
        tmp_path, "a_T2", image, labels, EchoTime=(TE / 1e3).tolist(), RepetitionTime=[3.0] * 16
    )
    every_variant = phantom.variants
    monkeypatch.setattr(  # a calibration takes seconds
        phantom, "variants", lambda site: dict(list(every_variant(site).items())[:1])
    )
    phantom.main(["--data", str(tmp_path), "--sums", "2"])
    record = read_json(tmp_path / "results" / "phantom.json")
    site = record["sites"]["a"]
    every = site["singles"]["all echoes"]
    assert set(site["singles"]) == {"all echoes"}
    assert 1 not in every["seen"]  # its T2 is longer than the echoes resolve
    assert every["seen"] == [2, 3, 4]
    assert every["called one"] >= 0.8
    assert every["largest deviation of T1"] < 0.05
    assert every["largest deviation of T2"] < 0.05
    pairs = {tuple(row["spheres"]): row for row in site["sums"]["pairs"]}
    assert set(pairs) == {(2, 3), (2, 4), (3, 4)}
    assert pairs[2, 4]["mean count"] >= 1.5
    assert site["reliability"]["all"]["signals"] == 36 + 6 + 2
    text = (tmp_path / "results" / "phantom.md").read_text(encoding="utf-8")
    assert "## a" in text
    assert "Sums of two spheres" in text


def test_spacings_are_found_whichever_echoes_there_are(phantom):
    for spacing, numbers in ((5.0, range(2, 33)), (13.18, range(1, 33)), (10.0, (1, 3, 5, 8))):
        te = np.round(spacing * np.array(numbers), 1)
        assert phantom.echo_spacing(te) == pytest.approx(spacing, rel=0.005)
    assert phantom.echo_spacing(np.array([10.0, 14.4, 31.7, 77.2])) is None


def test_three_parameter_fits_find_t1_of_magnitudes(phantom):
    t1 = np.array([300.0, 700.0, 1200.0])
    signals = 5 * (1 - 1.9 * np.exp(-TI / t1[:, None]))
    for magnitude, given in ((False, signals), (True, np.abs(signals))):
        np.testing.assert_allclose(phantom.three_parameter_t1(TI, given, magnitude), t1, rtol=2e-3)


def test_without_data_the_benchmark_is_skipped(phantom, capsys):
    phantom.main([])
    assert "skipped" in capsys.readouterr().out
