"""Phantoms of the benchmark of spatial context, and the benchmark of measured data without data."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

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


def test_measured_data_are_needed(module, capsys):
    module("measured").main([])
    assert "skipped" in capsys.readouterr().out
