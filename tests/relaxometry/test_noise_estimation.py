"""Noise of measured signals: residuals of mixtures, background, repeats, and real data."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pandas as pd
import pytest

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    PropertyRange,
    SNRRange,
    TissuePrior,
    estimate_noise,
    make_correlation_signals,
    physics,
)
from corrsk.pretrained import model_advice, pretrained_names
from corrsk.relaxometry._subspace import noise_outside
from tests._helpers import SHARED_DATA

GRID = AcquisitionProtocol.named("ir-se-8x8")
ECHOES = AcquisitionProtocol(te=10.0 * np.arange(1, 33))


def simulated(n=1000, *, protocol=GRID, prior="t1t2-detr", seed=1, **parameters):
    X, _ = make_correlation_signals(
        n, prior=prior, protocol=protocol, norm=None, random_state=seed, verbose=False, **parameters
    )
    return X


@pytest.mark.parametrize("level", [0.001, 0.005, 0.02, 0.05])
@pytest.mark.parametrize("distribution", ["gaussian", "rician"])
@pytest.mark.parametrize("protocol", [GRID, ECHOES], ids=["8x8", "32 echoes"])
@pytest.mark.parametrize("prior", ["t1t2-detr", "midl2024"])
def test_residuals(protocol, distribution, level, prior):
    X = simulated(
        protocol=protocol, prior=prior, noise_level=level, noise_distribution=distribution
    )
    noise = estimate_noise(1234 * X, protocol)
    assert noise.method == "residuals"
    # the standard error is 0.4 to 1.5 %, the largest bias 2 %
    assert noise.sigma / 1234 == pytest.approx(level, rel=0.06)
    assert noise.noise_level == pytest.approx(level, rel=0.3)
    assert noise.noise_reference == "m0"
    # signed echoes without noise are positive, as magnitudes are
    assert noise.noise_distribution == ("gaussian" if (X < 0).any() else "rician")


@pytest.mark.parametrize("distribution", ["gaussian", "rician"])
def test_an_imperfect_inversion_is_no_noise(distribution):
    X = simulated(noise_level=0.005, inversion_efficiency=0.8, noise_distribution=distribution)
    assert estimate_noise(X, GRID).sigma == pytest.approx(0.005, rel=0.06)


def test_order_and_names_of_the_columns():
    order = np.random.default_rng(0).permutation(64)
    X = simulated(noise_level=0.01)
    expected = estimate_noise(X, GRID)
    protocol = AcquisitionProtocol(ti=GRID.ti[order], te=GRID.te[order])
    shuffled = estimate_noise(X[:, order], protocol)
    named = estimate_noise(pd.DataFrame(X, columns=GRID.feature_names).iloc[:, order])
    for noise in (shuffled, named):
        assert noise.sigma == pytest.approx(expected.sigma, rel=1e-4)
        assert noise.noise_level == pytest.approx(expected.noise_level, rel=1e-4)


def test_volumes_and_voxels_without_signal():
    X = simulated(400, noise_level=0.01)
    volume = X.reshape(20, 5, 4, 64).copy()
    mask = np.ones((20, 5, 4), dtype=bool)
    mask[:3] = False
    volume[:3] = 1e6  # outside of the mask
    volume[3] = 0
    volume[4, 0, 0] = np.nan
    noise = estimate_noise(volume, GRID, mask=mask)
    assert noise.sigma == pytest.approx(0.01, rel=0.06)
    assert noise.n_voxels <= 400 - 60 - 20 - 1


def test_voxels_that_are_no_mixtures_hardly_matter():
    X = simulated(noise_level=0.01)
    X[:80] += np.random.default_rng(0).standard_normal((80, 64))
    assert estimate_noise(X, GRID).sigma == pytest.approx(0.01, rel=0.12)


def test_what_the_signal_model_lacks_is_no_noise():
    """Stimulated echoes of imperfect refocusing, which alternate from echo to echo."""
    rng = np.random.default_rng(0)
    t2 = rng.uniform(40, 150, 1500)
    clean = np.asarray(
        physics.echo_train(32, 10.0, np.full(1500, 1000.0), t2, refocusing_angle=130.0)
    )
    noisy = clean + 0.003 * rng.standard_normal(clean.shape)
    noise = estimate_noise(noisy, ECHOES)
    assert noise.sigma == pytest.approx(0.003, rel=0.15)
    assert noise.model_error > 0.002
    assert "the signal model lacks something" in str(noise)
    without = estimate_noise(simulated(protocol=ECHOES, noise_level=0.003), ECHOES)
    assert without.model_error < 0.001


@pytest.mark.parametrize("n_coils", [1, 8])
def test_background(n_coils):
    X = simulated(600, noise_level=0.02, noise_distribution="rician", n_coils=n_coils).reshape(
        20, 30, 64
    )
    air = np.zeros((20, 30), dtype=bool)
    air[:4] = True
    rng = np.random.default_rng(0)
    X[air] = 0.02 * np.linalg.norm(rng.standard_normal((2 * n_coils, 120, 64)), axis=0)
    X[0, 0] = 0  # masked by the scanner
    for background in (air, X[air]):
        noise = estimate_noise(X, background=background, n_coils=n_coils, mask=~air)
        assert noise.sigma == pytest.approx(0.02, rel=0.05)
        assert noise.method == "background"
        assert noise.noise_reference == "max"
    assert estimate_noise(X, background=air, n_coils=n_coils).n_voxels == 119
    of_m0 = estimate_noise(X, GRID, background=air, n_coils=n_coils)
    assert of_m0.noise_level == pytest.approx(0.02, rel=0.3)


def test_background_of_signed_signals():
    X = simulated(noise_level=0.02)
    dark = 0.02 * np.random.default_rng(0).standard_normal(20_000)
    assert estimate_noise(X, background=dark).sigma == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("distribution", ["gaussian", "rician"])
def test_repeats(distribution):
    protocol = AcquisitionProtocol.concatenate(2 * [GRID])
    X = simulated(protocol=protocol, noise_level=0.02, noise_distribution=distribution)
    by_protocol = estimate_noise(X, protocol)
    by_labels = estimate_noise(X, repeats=np.tile(np.arange(64), 2))
    by_names = estimate_noise(pd.DataFrame(X, columns=protocol.feature_names))
    for noise in (by_protocol, by_labels, by_names):
        assert noise.method == "repeats"
        assert noise.sigma == pytest.approx(0.02, rel=0.04)
    assert by_labels.noise_reference == "max"
    assert by_names.noise_reference == "m0"


def test_few_measurements():
    few = AcquisitionProtocol(ti=[50, 150, 400, 900, 1800, 4000], te=10)
    ranges = {"T1": PropertyRange(300, 3500), "T2": PropertyRange(10, 500)}
    prior = TissuePrior(ranges, n_compartments=(1, 2))
    X = simulated(3000, protocol=few, prior=prior, noise_level=0.02)
    with pytest.raises(ValueError, match=r"the 6 measurements .* too few.* bounds="):
        estimate_noise(X, few)
    noise = estimate_noise(X, few, bounds=prior)
    assert noise.sigma == pytest.approx(0.02, rel=0.12)
    magnitudes = np.abs(X)
    with pytest.raises(ValueError, match="too few"):
        estimate_noise(magnitudes, few, bounds=prior)


def test_levels_are_parameters_of_a_generator():
    tissue, _ = TissuePrior.named("t1t2-detr").sample(1500, random_state=0)
    X = CorrelationSignalGenerator(
        noise_level=SNRRange(40, 60), noise_reference="max", random_state=0
    ).fit_transform(tissue)
    noise = estimate_noise(X, "ir-se-8x8")
    expected = 0.02 * np.median(np.abs(X).max(axis=1))
    assert noise.sigma == pytest.approx(expected, rel=0.15)
    assert noise.snr == pytest.approx(50, rel=0.15)
    low, median, high = noise.levels["max"]
    assert low < median < high
    assert noise.snr_range() == SNRRange(1 / high, 1 / low)
    again = CorrelationSignalGenerator(
        noise_level=noise.snr_range("max"), noise_reference="max", random_state=0
    ).fit_transform(tissue)
    assert estimate_noise(again, "ir-se-8x8").sigma == pytest.approx(noise.sigma, rel=0.3)
    of_repeats = estimate_noise(np.c_[X, X + 0.01], repeats=np.tile(np.arange(64), 2))
    with pytest.raises(ValueError, match="one of max, rms .*got 'm0'"):
        of_repeats.snr_range("m0")


@pytest.mark.parametrize(("level", "model"), [(0.003, "midl2024-low-noise"), (0.03, "midl2024")])
def test_advice_on_models(level, model):
    X = simulated(prior="midl2024", noise_level=level)
    advice = model_advice(estimate_noise(X, GRID))
    assert advice.startswith("trained with this noise")
    assert f"{model} (" in advice
    assert f"{model} (gaussian" not in advice
    magnitudes = simulated(prior="midl2024", noise_level=level, noise_distribution="rician")
    other = model_advice(estimate_noise(magnitudes, GRID))
    signed = [name for name in pretrained_names() if not name.endswith("magnitude")]
    assert all(f"{name} (gaussian)" in other for name in signed)


def test_advice_for_noise_of_no_model(tmp_path):
    X = simulated(prior="midl2024", noise_level=0.2)
    noise = estimate_noise(X, GRID)
    assert "no model was trained with this noise; the closest is" in model_advice(noise)
    with pytest.raises(ValueError, match="no model has a noise reference"):
        model_advice(noise, tmp_path)


X = simulated(20, noise_level=0.01)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((X,), {}, "needs a protocol, background= .* or repeats="),
        ((X[:, :10], GRID), {}, "10 entries, but the protocol has 64"),
        ((X[0], GRID), {}, "of shape"),
        ((X, GRID), {"mask": np.ones(5)}, r"mask has the shape \(5,\)"),
        ((X, GRID), {"mask": np.zeros(20)}, "no voxel has a signal"),
        ((X, GRID), {"background": np.zeros(100)}, "0 values that are not zero"),
        ((X, GRID), {"repeats": np.arange(64)}, "no label twice"),
        ((X, GRID), {"repeats": [1, 1]}, "must have 64 labels"),
        ((X, GRID), {"noise_distribution": "rician"}, "magnitudes are not negative"),
        ((X, GRID), {"noise_distribution": "poisson"}, "got 'poisson'"),
        ((X, GRID), {"n_coils": 0}, "n_coils must be"),
        ((np.ones((20, 64)),), {"repeats": np.zeros(64)}, "the repeats are equal"),
    ],
)
def test_errors(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        estimate_noise(*arguments, **keywords)


def image(path):
    """Voxels of a NIfTI file: little-endian, float32 or int, without scaling."""
    content = gzip.decompress(path.read_bytes())
    rank, *shape = np.frombuffer(content, "<i2", 8, 40)
    kind = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 512: "<u2"}[
        int(np.frombuffer(content, "<i2", 1, 70)[0])
    ]
    start = int(np.frombuffer(content, "<f4", 1, 108)[0])
    shape = shape[:rank]
    return np.frombuffer(content, kind, math.prod(map(int, shape)), start).reshape(shape, order="F")


def test_a_phantom():
    """Spheres of one compartment, magnitudes of 32 echoes with imperfect refocusing."""
    name = SHARED_DATA / "phantom" / "site4_philips_plate5_T2"
    if not name.with_suffix(".nii.gz").exists():
        pytest.skip("needs shared data")
    volume = image(name.with_suffix(".nii.gz")).astype(float)
    labels = image(name.parent / f"{name.name}_labels.nii.gz")
    protocol = AcquisitionProtocol(
        te=json.loads(name.with_suffix(".json").read_text())["EchoTime"], units="s"
    )
    spheres = (labels >= 3) & (labels <= 11)
    noise = estimate_noise(volume, protocol, mask=spheres)
    # without a model: voxels minus the mean of their sphere, scaled
    rest = []
    for sphere in range(3, 12):
        voxels = volume[labels == sphere]
        shape = np.vander(np.linspace(-1, 1, 32), 3) * voxels.mean(axis=0)[:, None]
        fit = shape @ np.linalg.lstsq(shape, voxels.T, rcond=None)[0]
        rest.append(np.mean((voxels.T - fit) ** 2) * 32 / 29 * 25 / 24)
    assert noise.noise_distribution == "rician"
    assert noise.sigma == pytest.approx(math.sqrt(np.median(rest)), rel=0.2)


def test_the_noise_outside_a_subspace_is_that_of_the_signals():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(32, 6)))
    signals = rng.normal(size=(400, 6)) @ basis.T + 0.01 * rng.normal(size=(400, 32))
    # 400 voxels with 26 degrees of freedom: a relative standard error of 0.7 %
    assert np.sqrt(np.mean(noise_outside(signals, basis) ** 2)) == pytest.approx(0.01, rel=0.04)
