"""The masker: rows of signals, images of results, and searches over the whole pipeline."""

from __future__ import annotations

import pickle
import re

import nibabel
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    NoSignalWarning,
    ProtocolAligner,
    ProtocolMismatchError,
    SignalMasker,
    SignalNormalizer,
    SignalPhaser,
    TissuePrior,
    load_images,
)
from corrsk.acquisition.labels import attached_protocol
from tests.imaging.conftest import AFFINE


@pytest.fixture
def images(volume, protocol):
    return load_images(nibabel.Nifti1Image(volume, AFFINE), protocol)


def test_rows_have_the_protocol(images, protocol, volume):
    X = SignalMasker().fit_transform(images)
    assert X.shape == (48, 12)
    assert list(X.columns) == protocol.feature_names
    found = attached_protocol(X)
    assert found == protocol
    assert found.tr == 8000
    np.testing.assert_array_equal(X.to_numpy(), volume[1:].reshape(48, 12))
    # a selection of columns and rows keeps the protocol of what is left
    assert attached_protocol(X.iloc[3:9, [5, 2]]).feature_names == list(X.columns[[5, 2]])


def test_fit_sets_the_attributes(images, protocol):
    masker = SignalMasker().fit(images)
    assert masker.n_elements_ == 48
    assert masker.n_features_in_ == 12
    assert masker.protocol_ == protocol
    assert list(masker.get_feature_names_out()) == protocol.feature_names
    mask = masker.mask_img_
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, AFFINE)
    assert np.asarray(mask.dataobj).sum() == 48


def test_results_become_images(images):
    masker = SignalMasker().fit(images)
    labels = masker.inverse_transform(np.arange(48) % 4 + 1)
    assert labels.shape == (5, 4, 3)
    assert labels.get_data_dtype() == np.uint8
    assert (np.asarray(labels.dataobj)[0] == 0).all()
    np.testing.assert_array_equal(masker.transform_map(labels), np.arange(48) % 4 + 1)
    probabilities = masker.inverse_transform(np.full((48, 4), 0.25))
    assert probabilities.shape == (5, 4, 3, 4)
    assert probabilities.get_data_dtype() == np.float32
    assert np.isnan(np.asarray(probabilities.dataobj)[0]).all()
    np.testing.assert_array_equal(probabilities.affine, AFFINE)
    with pytest.raises(ValueError, match=r"shape \(48,\) or \(48, n_maps\)"):
        masker.inverse_transform(np.zeros(47))
    with pytest.raises(ValueError, match="needs numbers"):
        masker.inverse_transform(np.full(48, "one"))


def test_the_way_there_and_back(images, protocol):
    masker = SignalMasker(protocol=protocol).fit(images)
    X = masker.transform(images)
    again = masker.transform(masker.inverse_transform(X))
    np.testing.assert_array_equal(again, X)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_masks_with_few_axes_and_values_without_signal(slice_axis, volume, protocol):
    values = np.take(volume[1:], [0], axis=slice_axis)
    values[(0,) * 3] = np.nan
    images = load_images(values, protocol)
    mask = np.ones(values.shape[:3])
    with pytest.warns(NoSignalWarning, match=f"1 of {mask.size} voxels"):
        masker = SignalMasker(mask_img=mask.squeeze()).fit(images)
    found = np.asarray(masker.inverse_transform(np.ones(mask.size - 1)).dataobj)
    assert found.shape == mask.shape
    assert np.isnan(found[0, 0, 0])
    assert np.isfinite(found).sum() == mask.size - 1


def test_other_images_have_their_own_mask(images, volume, protocol):
    masker = SignalMasker().fit(images)
    mask = np.zeros((5, 4, 3))
    mask[2, :2] = 1
    other = images.with_mask(mask)
    assert masker.transform(other).shape == (6, 12)
    assert np.asarray(masker.inverse_transform(np.ones(6, int), other).dataobj).sum() == 6
    # a mask of the masker is for all images
    masker = SignalMasker(mask_img=mask).fit(images)
    assert masker.transform(images).shape == (6, 12)


def test_the_order_of_fit(images, volume, protocol):
    masker = SignalMasker().fit(images)
    order = np.random.default_rng(1).permutation(12)
    shuffled = load_images(volume[..., order], protocol._take(order))
    assert list(SignalMasker().fit_transform(shuffled).columns) != protocol.feature_names
    pd.testing.assert_frame_equal(masker.transform(shuffled), masker.transform(images))
    both = SignalMasker().fit_transform([images, shuffled])
    np.testing.assert_array_equal(both.to_numpy()[:48], both.to_numpy()[48:])


def test_several_images_of_other_protocols(images, volume, protocol):
    other = images.with_protocol(AcquisitionProtocol(te=10.0 * np.arange(1, 13)))
    with pytest.raises(ProtocolMismatchError, match="several images need one protocol"):
        SignalMasker().fit([images, other])
    masker = SignalMasker().fit(images)
    assert list(masker.transform(other).columns) == other.protocol.feature_names
    with pytest.raises(ProtocolMismatchError, match="names the output would have"):
        masker.set_output(transform="pandas").transform(other)


def test_rows_pass_unchanged(images):
    X = SignalMasker().fit_transform(images)
    masker = SignalMasker()
    pd.testing.assert_frame_equal(masker.fit_transform(X), X)
    assert attached_protocol(masker.transform(X.iloc[:5])) == images.protocol
    assert masker.mask_img_ is None
    assert masker.protocol_ == images.protocol
    values = masker.transform(X.to_numpy())
    np.testing.assert_array_equal(values, X.to_numpy())
    with pytest.raises(ValueError, match="fit had rows"):
        masker.inverse_transform(np.zeros(48))
    assert masker.inverse_transform(np.zeros(48), images).shape == (5, 4, 3)
    with pytest.raises(ValueError, match="NaN in row 0"):
        masker.transform(X * np.nan)


def test_groups_are_images_or_slices(images):
    masker = SignalMasker().fit([images, images])
    np.testing.assert_array_equal(masker.groups(), np.repeat([0, 1], 48))
    slices = masker.groups(by="slice")
    np.testing.assert_array_equal(slices[:48], np.tile([0, 1, 2], 16))
    np.testing.assert_array_equal(slices[48:], slices[:48] + 3)
    maps = masker.inverse_transform(slices)
    assert len(maps) == 2
    assert (np.asarray(maps[1].dataobj)[1:, :, 2] == 5).all()
    with pytest.raises(ValueError, match="by must be one of image, slice"):
        masker.groups(by="subject")
    with pytest.raises(ValueError, match="1 maps for 2 images"):
        masker.transform_map([maps[0]])


def test_images_are_opened(save, volume, times, protocol):
    path = save(volume)
    masker = SignalMasker(protocol=times).fit(str(path))
    assert masker.transform([path, nibabel.load(path)]).shape == (96, 12)
    with pytest.raises(ValueError, match="labels.nii.gz has the shape"):
        masker.transform_map(save(volume[..., 0, 0], "labels.nii.gz"))


def test_clones_and_pickles(images):
    masker = SignalMasker(mask_img=np.ones((5, 4, 3)), dtype="float64")
    with pytest.warns(NoSignalWarning):
        masker.fit(images)
    copy = pickle.loads(pickle.dumps(masker))
    assert copy.n_elements_ == 48
    assert copy.inverse_transform(np.ones(48)).shape == (5, 4, 3)
    assert clone(masker).dtype == "float64"


def test_set_output(images, protocol):
    masker = SignalMasker().set_output(transform="pandas")
    assert attached_protocol(masker.fit_transform(images)) == protocol


# -- in pipelines ---------------------------------------------------------------------


PROTOCOL = AcquisitionProtocol.from_grid(ti=[50, 300, 900, 3000], te=[10, 40, 120], tr=6000)


def subject(seed, protocol=PROTOCOL, noise=0.002):
    """Images (6, 5, 4) of one and two compartments, and their labels."""
    tissue, n_c = TissuePrior.named("t1t2-detr", n_compartments=(1, 2)).sample(120, seed)
    signals = CorrelationSignalGenerator(
        protocol, noise_level=noise, random_state=seed, verbose=False
    ).fit_transform(tissue)
    images = load_images(signals.reshape(6, 5, 4, -1), protocol, name=f"subject {seed}")
    return images, n_c.reshape(6, 5, 4)


@pytest.fixture(scope="module")
def subjects():
    return [subject(seed) for seed in range(3)]


def pipeline(**aligner):
    prior = TissuePrior.named("t1t2-detr")
    return make_pipeline(
        SignalMasker(), ProtocolAligner(PROTOCOL, prior=prior, noise_level=0.01, **aligner),
        SignalNormalizer(), LogisticRegression(max_iter=2000),
    )  # fmt: skip


def test_a_pipeline_from_images_to_a_map(subjects):
    images, labels = subjects[0]
    masker = SignalMasker().fit(images)
    model = pipeline().fit(images, masker.transform_map(labels))
    other, _ = subjects[1]
    found = model.predict(other)
    image = model[0].inverse_transform(found, other)
    assert image.shape == (6, 5, 4)
    assert set(np.unique(image.dataobj)) <= {1, 2}
    assert model[0].inverse_transform(model.predict_proba(other), other).shape == (6, 5, 4, 2)


def test_the_scanner_may_measure_in_another_order(subjects):
    images, labels = subjects[0]
    model = pipeline().fit(images, labels.ravel())
    order = np.random.default_rng(0).permutation(12)
    other = load_images(images.to_array()[..., order], PROTOCOL._take(order))
    np.testing.assert_array_equal(model.predict(other), model.predict(images))
    # also if fit has measured in the other order
    model = pipeline().fit(other, labels.ravel())
    np.testing.assert_array_equal(model.predict(other), model.predict(images))


@pytest.mark.parametrize(
    "changed",
    [
        AcquisitionProtocol(PROTOCOL.contrasts, tr=3500),  # no name of a column has a common TR
        AcquisitionProtocol.from_grid(ti=[50, 300, 900, 3000], te=[15, 60, 180], tr=6000),
    ],
)
def test_another_protocol_is_refused(changed, subjects):
    images, labels = subjects[0]
    model = pipeline().fit(images, labels.ravel())
    with pytest.raises(ProtocolMismatchError, match="differs from that of the model"):
        model.predict(images.with_protocol(changed))
    with pytest.raises(ValueError, match="contradicts measured_protocol"):
        pipeline(measured_protocol=changed).fit(images, labels.ravel())


def test_a_search_with_subjects_or_slices_as_groups(subjects):
    scans = [images for images, _ in subjects]
    masker = SignalMasker().fit(scans)
    X, y = masker.transform(scans), masker.transform_map([labels for _, labels in subjects])
    search = GridSearchCV(
        pipeline(), {"logisticregression__C": [0.1, 100.0]}, cv=GroupKFold(3), error_score="raise"
    ).fit(X, y, groups=masker.groups())
    assert search.best_score_ > 0.5
    # the same fitted pipeline maps images
    assert search.best_estimator_.predict(scans[0]).shape == (120,)
    np.testing.assert_array_equal(search.predict(scans[0]), search.predict(X.iloc[:120]))
    slices = masker.groups(by="slice")
    found = cross_val_predict(pipeline(), X, y, groups=slices, cv=GroupKFold(4))
    assert found.shape == y.shape


def test_complex_images_are_phased(subjects):
    images, labels = subjects[0]
    phases = np.exp(1j * np.random.default_rng(0).uniform(-3, 3, (6, 5, 4, 1)))
    measured = load_images(images.to_array() * phases, PROTOCOL)
    steps = pipeline().steps
    model = make_pipeline(
        steps[0][1],
        SignalPhaser(protocol=PROTOCOL, kind="complex"),
        *[step for _, step in steps[1:]],
    )
    model.fit(measured, labels.ravel())
    X = model[0].transform(measured)
    assert re.match("complex", str(X.dtypes.iloc[0]))
    np.testing.assert_array_equal(model.predict(X.to_numpy()), model.predict(measured))


def test_images_are_no_array(images):
    for take in (np.asarray, ProtocolAligner(images.protocol).fit):
        with pytest.raises(TypeError, match="SignalMasker"):
            take(images)
