"""Phantoms of the benchmark of spatial context, and the benchmark of measured data without data."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from corrsk.spatial import make_parcel_phantom
from tests._helpers import ROOT


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def test_shapes_have_bars_and_partial_volume(module):
    phantoms = module("_phantoms")
    made = phantoms.shapes_phantom(3, noise_level=0.03, shape=(60, 50), n_shapes=30, n_bars=3)
    again = phantoms.shapes_phantom(3, noise_level=0.0, shape=(60, 50), n_shapes=30, n_bars=3)
    np.testing.assert_array_equal(made.clean, again.clean)
    np.testing.assert_array_equal(again.signals, again.clean)
    noise = made.signals - made.clean
    # standard error 0.03 / sqrt(2 * 192000)
    assert noise.std() == pytest.approx(0.03, rel=0.01)
    _, sizes = np.unique(made.parcels[made.lesions], return_counts=True)
    assert len(sizes) >= 2
    assert sizes.max() <= 40
    assert (made.shares < 1).any()
    assert made.inside.all()
    assert (made.shares[~made.borders] == 1).mean() > 0.99


def test_local_means_are_those_of_the_pure_voxels_of_a_parcel(module):
    phantoms = module("_phantoms")
    made = phantoms.shapes_phantom(3, noise_level=0.03, shape=(40, 30), n_shapes=12, n_bars=2)
    means, numbers = phantoms.local_means(made)
    x, y = np.argwhere(made.shares == 1)[100]
    i, j = np.indices(made.parcels.shape)
    own = (made.parcels == made.parcels[x, y]) & (made.shares == 1)
    own &= np.hypot(i - x, j - y) <= 10
    assert numbers[x, y] == own.sum()
    np.testing.assert_allclose(means[x, y], made.signals[own].mean(axis=0), atol=1e-5)


def test_a_head_has_three_tissues_and_lesions(module):
    phantoms = module("_phantoms")
    if not phantoms.has_templates():
        pytest.skip("nilearn, whose wheel has the templates, is not installed")
    made = phantoms.anatomical_phantom(1, noise_level=0.03)
    assert set(np.unique(made.counts[made.inside])) == {1, 2, 3}
    assert set(np.unique(made.parcels)) == {-1, 0, 1, 2, 3, 4, 5, 6}
    assert 100 <= made.lesions.sum() <= 140
    assert not made.signals[~made.inside].any()
    near = made.parcels[made.lesions & (made.shares == 1)]
    assert (made.counts[made.lesions] == 2).all()
    assert near.size > 50


def test_remaining_noise_of_correlated_noise(module):
    spatial, phantoms = module("spatial"), module("_phantoms")
    given = {"shape": (40, 30), "n_shapes": 6, "n_bars": 1, "noise_fwhm": 2.0}
    made = phantoms.shapes_phantom(3, noise_level=0.03, **given)
    errors = (made.signals - made.clean)[..., None, :]
    inside = (made.shares == 1)[..., None] & (made.parcels[..., None] == np.arange(8))
    large = inside.sum(axis=(0, 1)) > 30
    means = (errors * inside[..., None]).sum(axis=(0, 1)) / inside.sum(axis=(0, 1))[:, None]
    found = spatial.remaining_noise(made, 2.0)
    white = spatial.remaining_noise(made, 0.0)
    # 64 measurements: a standard error of 9 %
    ratios = means[large].std(axis=1) / found[large]
    assert len(ratios) >= 3
    assert 0.65 < ratios.min() <= ratios.max() < 1.35
    assert (found[large] > 1.5 * white[large]).all()


def test_calibration_errors_of_right_probabilities_and_of_too_confident_ones(module):
    spatial = module("spatial")
    rng = np.random.default_rng(0)
    parcels = np.repeat(np.arange(300), 5)
    right = rng.dirichlet(np.ones(4), 300)
    counts = 1 + (rng.random(300)[:, None] > np.cumsum(right, axis=1)[:, :-1]).sum(axis=1)
    sure = right**4 / (right**4).sum(axis=1, keepdims=True)
    whole = np.ones(len(parcels), dtype=bool)
    made = [spatial.calibration(counts[parcels], p[parcels], parcels, whole) for p in (right, sure)]
    errors, expected = (
        [each[f"calibration error{which}, how many"] for each in made]
        for which in ("", " of right probabilities")
    )
    assert errors[0] < 1.5 * expected[0]  # 0.04 to 0.08
    assert errors[1] > 2.5 * expected[1]
    labels = np.eye(4)[counts - 1][parcels]
    assert spatial.calibration(counts[parcels], labels, parcels, whole) == {}


def test_a_network_has_the_classes_of_a_classifier(module, monkeypatch):
    rivals = module("_spatial_rivals")
    monkeypatch.setattr(rivals, "TRAINING_SHAPE", (12, 12))
    phantom = rivals.training_phantom(np.random.default_rng(1))

    class Even:
        """Classifier of four counts."""

        def predict_proba(self, signals):
            return np.full((*signals.shape[:-1], 4), 0.25)

    network = rivals.SpatialNetwork(Even(), n_phantoms=3, steps=2)
    three = np.full((*phantom.counts.shape, 3), 1 / 3)
    found = network.predict_proba(phantom, three)
    assert found.shape == three.shape
    np.testing.assert_allclose(found.sum(axis=-1), 1)
    again = rivals.SpatialNetwork(Even(), n_phantoms=3, steps=2).predict_proba(phantom, three)
    np.testing.assert_array_equal(found, again)


def test_a_graph_cut_removes_single_voxels(module):
    pytest.importorskip("maxflow", reason="PyMaxflow is not installed")
    cut = module("_spatial_rivals").graph_cut
    probabilities = np.full((9, 8, 3), [0.6, 0.3, 0.1])
    probabilities[:, 4:] = [0.2, 0.2, 0.6]
    probabilities[4, 1] = [0.3, 0.6, 0.1]
    inside = np.ones((9, 8), dtype=bool)
    inside[0] = False
    labels = cut(probabilities, inside, 1.0)
    assert (labels[inside].sum(axis=1) == 1).all()
    assert not labels[~inside].any()
    assert (labels[1:, :4, 0] == 1).all()
    assert (labels[1:, 4:, 2] == 1).all()
    assert cut(probabilities, inside, 0.0)[4, 1, 1] == 1


def test_mppca_denoises_signed_signals(module):
    pytest.importorskip("dipy", reason="dipy is not installed")
    rivals = module("_spatial_rivals")
    phantom = make_parcel_phantom((20, 20), n_parcels=3, noise_level=0.03, random_state=0)
    found = rivals.mppca_denoised(phantom)
    error, before = (np.sqrt(np.mean((each - phantom.clean) ** 2))
                     for each in (found, phantom.signals))  # fmt: skip
    assert (found < -0.1).any()
    assert error < before / 3


def test_measured_data_are_needed(module, capsys):
    module("measured").main([])
    assert "skipped" in capsys.readouterr().out
