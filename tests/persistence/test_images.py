"""Saving and loading of estimators of images: maskers, spatial classifiers, and their masks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from safetensors import safe_open
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    SignalMasker,
    load,
    load_pretrained,
    make_correlation_signals,
    save,
)
from corrsk.imaging import load_images
from corrsk.spatial import SpatialClassifier, make_parcel_phantom

nibabel = pytest.importorskip("nibabel")
pytestmark = [
    pytest.mark.filterwarnings("ignore::corrsk.spatial.SpatialContextWarning"),
    pytest.mark.filterwarnings("ignore::corrsk.MeasuredSignalWarning"),
]


@pytest.fixture(scope="module")
def phantom():
    return make_parcel_phantom((16, 14), n_parcels=3, noise_level=0.03, random_state=1)


@pytest.fixture(scope="module")
def models():
    return [FrozenEstimator(load_pretrained(name)) for name in ("midl2024", "midl2024-low-noise")]


def saved(estimator, folder, **options):
    save(estimator, folder / "model.safetensors", **options)
    return load(folder / "model.safetensors")


def n_weights(folder):
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return sum(file.get_tensor(key).size for key in file.keys())  # noqa: SIM118


def test_a_spatial_classifier_of_several_models_is_restored(models, phantom, tmp_path):
    mask = np.ones((16, 14), bool)
    mask[3:6, 2:7] = False
    context = SpatialClassifier(
        models, mask=mask, voxel_size=(1.0, 1.5), n_neighbors=60, sigma=0.03
    ).fit()
    again = saved(context, tmp_path)
    expected = context.predict_proba(phantom.signals)
    np.testing.assert_array_equal(again.predict_proba(phantom.signals), expected)
    np.testing.assert_array_equal(again.mask, mask)
    assert again.voxel_size == (1.0, 1.5)
    assert again.n_features_in_ == 64
    # frozen models are those that were passed: stored once
    assert [type(each) for each in again.estimator] == [FrozenEstimator] * 2
    assert all(a is b for a, b in zip(again.estimator, again.estimators_, strict=True))
    size = n_weights(tmp_path)
    saved(models[0].estimator, tmp_path)
    assert size < 2.5 * n_weights(tmp_path)
    again.fit()
    np.testing.assert_array_equal(again.predict_proba(phantom.signals), expected)


def test_a_single_frozen_model_is_restored(models, phantom, tmp_path):
    context = SpatialClassifier(models[0], n_neighbors=20, method="field").fit()
    again = saved(context, tmp_path)
    np.testing.assert_array_equal(again.predict(phantom.signals), context.predict(phantom.signals))
    assert again.estimator is again.estimators_[0]


def test_models_that_were_fitted_here_keep_their_range(phantom, tmp_path):
    rows, counts = phantom.signals.reshape(-1, 64), phantom.counts.ravel()
    context = SpatialClassifier(
        LogisticRegression(max_iter=50, tol=1e-2), noise_range=(1e-4, 1), n_neighbors=20
    ).fit(rows, counts)
    again = saved(context, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = again.predict_proba(phantom.signals)
    np.testing.assert_array_equal(found, context.predict_proba(phantom.signals))
    assert not hasattr(again.estimator, "coef_")


def test_a_mask_that_is_an_image_keeps_its_voxel_size(models, phantom, tmp_path):
    affine = np.diag([1.0, 3.0, 5.0, 1.0])
    image = nibabel.Nifti1Image(np.ones((16, 14), np.uint8), affine)
    context = SpatialClassifier(models[0], mask=image, n_neighbors=30).fit()
    again = saved(context, tmp_path)
    np.testing.assert_array_equal(again.mask.affine, affine)
    assert again.mask.header.get_zooms() == image.header.get_zooms()
    np.testing.assert_array_equal(
        again.predict_proba(phantom.signals), context.predict_proba(phantom.signals)
    )


@pytest.mark.parametrize("wide", [False, True])
def test_a_masker_makes_the_same_images_again(wide, tmp_path):
    X, _ = make_correlation_signals(60, random_state=0)
    volume = X.reshape(5, 4, 3, 64)
    volume[0, 0] = 0
    kind = nibabel.Nifti2Image if wide else nibabel.Nifti1Image
    source = kind(volume, np.diag([2.0, 3, 4, 1]))
    source.header.set_xyzt_units("mm")
    mask = np.ones((5, 4, 3), np.uint8)
    mask[:, :, 2] = 0
    masker = SignalMasker(mask_img=nibabel.Nifti1Image(mask, source.affine))
    images = load_images(source, "ir-se-8x8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of voxels without signal
        rows = masker.fit_transform(images)
    again = saved(masker, tmp_path)
    assert again.protocol_ == AcquisitionProtocol.named("ir-se-8x8")
    assert again.n_elements_ == masker.n_elements_ == len(rows)
    labels = np.arange(len(rows)) % 3
    found, expected = again.inverse_transform(labels), masker.inverse_transform(labels)
    assert type(found) is type(expected)
    assert found.header == expected.header
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_array_equal(
        np.asarray(again.mask_img_.dataobj), np.asarray(masker.mask_img_.dataobj)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(again.transform(images), rows)


def test_a_masker_of_rows_and_a_pipeline_with_one(models, tmp_path):
    X, y = make_correlation_signals(30, random_state=0)
    again = saved(SignalMasker(protocol=tmp_path / "times.json").fit(X), tmp_path)
    assert again.protocol == str(tmp_path / "times.json")
    assert again.mask_img_ is None
    np.testing.assert_array_equal(again.transform(X), X)
    pipeline = make_pipeline(SignalMasker(), models[0]).fit(X, y)
    found = saved(pipeline, tmp_path).predict_proba(X)
    np.testing.assert_array_equal(found, pipeline.predict_proba(X))


def test_a_mask_without_a_meaning_is_refused(models, tmp_path):
    context = SpatialClassifier(models[0]).fit()
    context.mask = object()
    with pytest.raises(TypeError, match="cannot save mask"):
        save(context, tmp_path / "model.safetensors")
