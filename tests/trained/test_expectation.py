"""Warnings of batches that a model was not made for."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest

from corrsk import (
    AcquisitionProtocol,
    MeasuredSignalWarning,
    PropertyRange,
    ResidualMLPClassifier,
    SignalNoveltyDetector,
    SimulationTrainedClassifier,
    SNRRange,
    TissuePrior,
    load_pretrained,
)
from corrsk.simulation import DatasetDefinition, dataset_definition, simulate_dataset

GRID = AcquisitionProtocol.from_grid(ti=[40, 150, 500, 1800], te=[8, 20, 50, 120])
DIFFUSION = AcquisitionProtocol.from_grid(te=[10, 30, 60, 100], b=[0, 0.5, 1, 2])
PRIOR = TissuePrior(
    ranges={
        "T1": PropertyRange(200, 4000),
        "T2": PropertyRange(15, 500),
        "D": PropertyRange(0.1, 3),
    }
)
DEFINITIONS = {
    "M0": dataset_definition("midl2024"),
    "range of SNR": DatasetDefinition("a", PRIOR, GRID, SNRRange(50, 200), "max"),
    "magnitudes": DatasetDefinition(
        "b", PRIOR, GRID, 0.02, "rms", noise_distribution="rician"
    ),
    "without inversion": DatasetDefinition("c", PRIOR, DIFFUSION, (0.01, 0.02), "max"),
}  # fmt: skip


def fitted(definition, novelty=False):
    return SimulationTrainedClassifier.from_definition(
        definition, n_samples=4000, n_validation=100, random_state=0, verbose=False,
        network=ResidualMLPClassifier(width=16, n_blocks=1, max_epochs=1, batch_size=500),
        novelty=novelty,
    ).fit()  # fmt: skip


@pytest.fixture(scope="module")
def models():
    return {name: fitted(definition) for name, definition in DEFINITIONS.items()}


def drawn(definition, n=200, **changes):
    definition = replace(definition, name="drawn", norm=None, **changes)
    return 700 * simulate_dataset(definition, n, random_state=5, verbose=False).data


def message_of(model, X):
    with pytest.warns(MeasuredSignalWarning) as caught:
        model.predict(X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    return str(caught[0].message)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_signals_of_the_simulation_do_not_warn(models, name):
    X = drawn(DEFINITIONS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models[name].predict(X)
        for n in (1, 2, 3, 10, 30):
            models[name].predict(X[-n:])


@pytest.mark.parametrize("name", ["M0", "range of SNR"])
@pytest.mark.parametrize("n", [3, 200])
def test_magnitudes(models, name, n):
    X = drawn(DEFINITIONS[name])[:n]
    message = message_of(models[name], np.abs(X))
    assert re.search(r"magnitudes: at the shortest TI, \d+ ms, 0% of the voxels", message)
    assert "noise_distribution='rician'" in message


def test_some_positive_voxels_are_possible(models):
    X = drawn(DEFINITIONS["M0"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models["M0"].predict(np.vstack([np.abs(X[:20]), X[20:]]))


def test_the_opposite_sign(models):
    assert "pass -X" in message_of(models["M0"], -drawn(DEFINITIONS["M0"]))


def test_magnitudes_are_expected_of_other_models(models):
    for name in ("magnitudes", "without inversion"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            models[name].predict(np.abs(drawn(DEFINITIONS[name])))


@pytest.mark.parametrize(
    ("name", "levels", "side", "trained"),
    [
        ("M0", 0.1, "above", "1 to 5 % of M0"),
        ("M0", 0.002, "below", "1 to 5 % of M0"),
        ("range of SNR", 0.05, "above", "0.5 to 2 % of the largest signal"),
        ("range of SNR", 0.0005, "below", "0.5 to 2 % of the largest signal"),
        ("magnitudes", 0.06, "above", "2 to 2 % of the root mean square signal"),
        ("without inversion", 0.08, "above", "1 to 2 % of the largest signal"),
    ],
)
def test_noise_outside_of_the_trained_range(models, name, levels, side, trained):
    message = message_of(models[name], drawn(DEFINITIONS[name], noise_levels=levels))
    assert f"the noise is {side} the range of the training" in message
    assert f"trained {trained}" in message
    found = float(re.search(r"training: ([\d.e-]+) %", message)[1]) / 100
    if side == "above":
        # the median of 200 estimates, with the bias of the subspace and of M0
        assert found == pytest.approx(levels, rel=0.25)


def test_a_background_of_noise_does_not_hide_the_tissue(models):
    X = drawn(DEFINITIONS["M0"])
    air = np.random.default_rng(0).normal(scale=0.02 * 700 / 20, size=(600, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models["M0"].predict(np.vstack([X, air]))


def test_mostly_novel_signals():
    definition = DEFINITIONS["range of SNR"]
    model = fitted(definition, SignalNoveltyDetector(n_clusters=4))
    X = drawn(definition)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(X)
    artefact = X.copy()
    artefact[:, 5] *= 0.3
    message = message_of(model, artefact)
    share = float(re.search(r"(\d+)% of 200 voxels differ", message)[1])
    assert share == pytest.approx(100 * np.mean(model.predict_novelty(artefact) < 0.01), abs=1)
    assert "single measurement off" in message
    artefact[80:] = X[80:]  # less than half
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(artefact)


def test_the_warning_comes_before_any_answer(models):
    X = drawn(DEFINITIONS["M0"], noise_levels=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MeasuredSignalWarning)
        with pytest.raises(MeasuredSignalWarning):
            models["M0"].predict_proba(X)


def test_shipped_models_warn():
    X = drawn(dataset_definition("midl2024-low-noise"))
    model = load_pretrained("midl2024-low-noise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(X)
    assert "magnitudes" in message_of(model, np.abs(X))
    noisy = drawn(dataset_definition("midl2024"))
    assert "trained 0.1 to 0.5 % of M0" in message_of(model, noisy)
