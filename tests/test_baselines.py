"""The baseline classifiers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier

from corrsk import load_dataset
from corrsk.baselines import (
    BASELINES,
    EncodedLabelsClassifier,
    available_baselines,
    make_baseline,
)

pytestmark = pytest.mark.slow

OPTIONAL = ("lightgbm", "xgboost")


@pytest.fixture(scope="module")
def quiet_data():
    return load_dataset("midl2024-low-noise", n_samples=4000, random_state=1)


@pytest.mark.parametrize("name", BASELINES)
def test_each_baseline_learns_and_is_reproducible(name, quiet_data):
    if name not in available_baselines():
        pytest.skip(f"{BASELINES[name].package} is not installed")
    X, y = quiet_data.data, quiet_data.target
    train, test = quiet_data.train_indices[:700], quiet_data.test_indices
    model = make_baseline(name, random_state=3, n_jobs=1).fit(X[train], y[train])
    probabilities = model.predict_proba(X[test])
    assert model.classes_.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    chance, several = 0.25, 0.75
    assert np.mean(model.predict(X[test]) == y[test]) > chance + 0.03
    # one or more compartments is the easier task
    answer = probabilities[:, 1:].sum(axis=1) > 0.5
    if name not in ("lda", "qda"):
        assert np.mean(answer == (y[test] > 1)) > several
    again = clone(model).fit(X[train], y[train])
    np.testing.assert_array_equal(again.predict_proba(X[test]), probabilities)


@pytest.mark.parametrize("name", ["logistic", "hist-gradient-boosting"])
def test_the_global_output_of_transformers_does_not_matter(name, quiet_data):
    X, y = quiet_data.data[:300], quiet_data.target[:300]
    model = make_baseline(name, random_state=0).fit(X, y)
    expected = model.predict_proba(X)
    with config_context(transform_output="pandas"):  # warnings are errors
        np.testing.assert_array_equal(model.predict_proba(X), expected)
        model = clone(model).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


@pytest.mark.parametrize("name", ["logistic", "knn"])
def test_signals_of_any_scale(name, quiet_data):
    X, y = quiet_data.data[:1000], quiet_data.target[:1000]
    model = make_baseline(name, random_state=0).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(700 * X), model.predict_proba(X), atol=1e-4)


def test_unknown_baselines_and_missing_packages(monkeypatch):
    with pytest.raises(ValueError, match="unknown baseline 'svm'; known baselines: logistic, lda"):
        make_baseline("svm")
    for package in OPTIONAL:
        monkeypatch.setitem(sys.modules, package, None)  # its import then raises an ImportError
    assert set(available_baselines()) == set(BASELINES) - set(OPTIONAL)
    with pytest.raises(ImportError, match=r"pip install 'corrsk\[boosting\]'"):
        make_baseline("lightgbm")


def test_encoded_labels():
    X, y = load_dataset("midl2024", 500, random_state=0).data, np.repeat(["b", "a"], 250)
    model = EncodedLabelsClassifier(LogisticRegression()).fit(X, y)
    plain = LogisticRegression().fit(X, y)
    assert model.classes_.tolist() == ["a", "b"]
    assert model.estimator_.classes_.tolist() == [0, 1]
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))


def test_weights_of_zero_remove_signals(quiet_data):
    X, y = quiet_data.data[:400], np.array(list("abcd"))[quiet_data.target[:400] - 1]
    weight = np.arange(400) % 2
    for learner in (LogisticRegression(), None):
        model = EncodedLabelsClassifier(learner)
        weighted = clone(model).fit(X, y, sample_weight=weight)
        removed = clone(model).fit(X[weight == 1], y[weight == 1])
        np.testing.assert_allclose(weighted.predict_proba(X), removed.predict_proba(X), atol=1e-3)
        np.testing.assert_array_equal(
            weighted.predict_log_proba(X), np.log(weighted.predict_proba(X))
        )
    with pytest.raises(TypeError, match="KNeighborsClassifier has no sample weights"):
        EncodedLabelsClassifier(KNeighborsClassifier()).fit(X, y, sample_weight=weight)


def test_temperature_scaling_with_encoded_labels(quiet_data):
    """The cure of the user guide for the labels 1..K, which scikit-learn takes for positions."""
    X, y = quiet_data.data[:1500], quiet_data.target[:1500]
    fresh, truth = quiet_data.data[1500:3000], quiet_data.target[1500:3000]
    learner = make_baseline("extra-trees", random_state=0, n_jobs=1)
    calibrated = CalibratedClassifierCV(learner, method="temperature", cv=3)
    model = EncodedLabelsClassifier(calibrated).fit(X, y)
    expected = clone(calibrated).fit(X, y - 1).predict_proba(fresh)
    np.testing.assert_allclose(model.predict_proba(fresh), expected)
    assert model.classes_.tolist() == [1, 2, 3, 4]
    plain = clone(learner).fit(X, y).predict_proba(fresh)
    assert log_loss(truth, model.predict_proba(fresh)) < log_loss(truth, plain) + 0.01
