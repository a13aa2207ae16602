"""SpatialClassifier: context, choice of the model by the remaining noise, and warnings."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.naive_bayes import GaussianNB

from corrsk import load_pretrained
from corrsk.preprocessing import NoSignalWarning
from corrsk.spatial import SpatialClassifier, SpatialContextWarning, make_parcel_phantom

NAMES = ("midl2024", "midl2024-low-noise")


@pytest.fixture(scope="module")
def models():
    return [FrozenEstimator(load_pretrained(name)) for name in NAMES]


@pytest.fixture(scope="module")
def phantom():
    return make_parcel_phantom((40, 40), n_parcels=6, noise_level=0.03, random_state=5)


@pytest.fixture(scope="module")
def linear(phantom):
    rows = phantom.signals.reshape(-1, 64)
    return FrozenEstimator(GaussianNB().fit(rows, phantom.counts.ravel()))


def test_averages_with_both_models_close_most_of_the_gap(models):
    right = []
    for seed in range(4):
        phantom = make_parcel_phantom((40, 40), n_parcels=5, noise_level=0.03, random_state=seed)
        means, _ = phantom.parcel_means()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            oracle = models[1].predict(means)[phantom.parcels]
        context = SpatialClassifier(models, n_neighbors=400).fit().predict(phantom.signals)
        alone = models[0].predict(phantom.signals)
        right.append([(found == phantom.counts).mean() for found in (alone, context, oracle)])
    alone, context, oracle = np.mean(right, axis=0)
    assert context > alone + 0.7 * (oracle - alone)


@pytest.mark.filterwarnings("ignore::corrsk.MeasuredSignalWarning")
def test_the_model_of_single_voxels_alone_warns_of_the_remaining_noise(models, phantom):
    context = SpatialClassifier(models[0], n_neighbors=400).fit()
    with pytest.warns(SpatialContextWarning, match="outside the range of the training"):
        context.predict(phantom.signals)


def test_a_model_of_unknown_noise_warns(linear, phantom):
    context = SpatialClassifier(linear, n_neighbors=20).fit()
    with pytest.warns(SpatialContextWarning, match="is unknown"):
        context.predict_proba(phantom.signals)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context.set_params(noise_range=(1e-4, 1)).fit().predict_proba(phantom.signals)


def test_rows_of_a_mask_are_voxels_of_the_volume(linear, phantom):
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:30, 8:36] = True
    context = SpatialClassifier(linear, n_neighbors=20, noise_range=(1e-4, 1)).fit()
    maps = context.predict_proba(phantom.signals, mask=mask)
    assert maps.shape == (40, 40, len(context.classes_))
    assert np.isnan(maps[~mask]).all()
    rows = phantom.signals[mask]
    np.testing.assert_array_equal(context.predict_proba(rows, mask=mask), maps[mask])
    context.set_params(mask=mask)
    np.testing.assert_array_equal(context.predict_proba(rows), maps[mask])
    assert (context.predict(phantom.signals)[~mask] == 0).all()


def test_columns_keep_their_names(models, phantom):
    protocol = phantom.protocol
    order = np.random.default_rng(0).permutation(64)
    mask = np.ones((40, 40), dtype=bool)
    rows = phantom.signals[mask]
    table = pd.DataFrame(rows[:, order], columns=np.asarray(protocol.feature_names)[order])
    context = SpatialClassifier(models, mask=mask, n_neighbors=100).fit()
    # sums in another order differ by rounding
    np.testing.assert_allclose(context.predict_proba(table), context.predict_proba(rows), atol=2e-3)


def test_rows_without_a_mask_are_classified_one_by_one_with_a_warning(linear, phantom):
    rows = phantom.signals.reshape(-1, 64)
    context = SpatialClassifier(linear).fit()
    with pytest.warns(SpatialContextWarning, match="without its neighbours"):
        found = context.predict_proba(rows)
    np.testing.assert_array_equal(found, linear.predict_proba(rows))


def test_voxels_without_signal_have_no_result(linear, phantom):
    dark = phantom.signals.copy()
    dark[3, 4], dark[5, 6, 7] = 0, np.nan
    context = SpatialClassifier(linear, n_neighbors=20, noise_range=(1e-4, 1)).fit()
    with pytest.warns(NoSignalWarning, match="2 "):
        found = context.predict_proba(dark)
    assert np.isnan(found[3, 4]).all()
    assert np.isnan(found[5, 6]).all()
    assert np.isfinite(found).all(axis=-1).sum() == 40 * 40 - 2


@pytest.mark.parametrize("method", ["field", "average+field"])
def test_fields_have_probabilities(linear, phantom, method):
    context = SpatialClassifier(linear, method=method, n_neighbors=20, noise_range=(1e-4, 1))
    found = context.fit().predict_proba(phantom.signals)
    np.testing.assert_allclose(found.sum(axis=-1), 1)
    several = context.predict_multicompartment_proba(phantom.signals)
    assert several.shape == (40, 40)
    assert context.score(phantom.signals, phantom.counts) > 0.5


def test_unfitted_classifiers_are_cloned_and_fitted(phantom):
    inner = GaussianNB()
    context = SpatialClassifier(inner, noise_range=(1e-4, 1), n_neighbors=20)
    rows = phantom.signals.reshape(-1, 64)
    clone(context).fit(rows, phantom.counts.ravel()).predict(phantom.signals)
    assert not hasattr(inner, "classes_")


def test_magnitudes_need_sigma(linear, phantom):
    context = SpatialClassifier(linear, noise_distribution="rician", noise_range=(1e-4, 1)).fit()
    with pytest.raises(ValueError, match="need sigma"):
        context.predict(np.abs(phantom.signals))


def test_invalid_input_is_refused(models, linear, phantom):
    with pytest.raises(ValueError, match="need noise_range"):
        SpatialClassifier([linear, linear]).fit()
    with pytest.raises(ValueError, match="one pair 0 < low <= high"):
        SpatialClassifier(linear, noise_range=(0.1, 0.01)).fit()
    with pytest.raises(ValueError, match="same classes"):
        few = GaussianNB().fit(np.eye(64), np.arange(64) % 2)
        SpatialClassifier([linear, FrozenEstimator(few)], noise_range=[(0.01, 1), (0.01, 1)]).fit()
    with pytest.raises(ValueError, match="empty list"):
        SpatialClassifier([]).fit()
    context = SpatialClassifier(models).fit()
    with pytest.raises(ValueError, match="shape"):
        context.predict(phantom.signals, mask=np.ones((3, 3), dtype=bool))
    with pytest.raises(ValueError, match="one voxel for each of the 10 rows"):
        context.predict(phantom.signals[0][:10], mask=np.ones((3, 3), dtype=bool))
    with pytest.raises(ValueError, match="60 measurements"):
        context.predict(phantom.signals[..., :60])
    with pytest.raises(ValueError, match="real"):
        context.predict(phantom.signals + 1j)
