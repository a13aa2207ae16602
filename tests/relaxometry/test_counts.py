"""Model-based classifiers without labels, and within scikit-learn's meta-estimators."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    IdealObserverClassifier,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    NoSignalWarning,
    SignalNormalizer,
    SignalPipeline,
    TissuePrior,
    make_correlation_signals,
)

PROTOCOL = AcquisitionProtocol.from_grid(ti=[50, 200, 800, 3000], te=[5, 15, 45, 135])
PRIOR = TissuePrior(n_compartments=(1, 2, 3), min_fraction=0.2)
METHODS = {
    "multi-exponential": MultiExponentialClassifier(
        PROTOCOL, criterion="bic", n_starts=1, max_steps=8, random_state=0, verbose=False
    ),
    "nnls": NNLSPeakClassifier(PROTOCOL, n_bins=12, bounds=PRIOR, verbose=False),
    "ideal observer": IdealObserverClassifier(
        PRIOR, PROTOCOL, 0.1, n_particles=64, n_runs=2, random_state=0, verbose=False
    ),
}
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def data():
    return make_correlation_signals(
        36, prior=PRIOR, protocol=PROTOCOL, noise_level=0.1, random_state=0, verbose=False
    )


@pytest.fixture(autouse=True)
def few_particles():
    with warnings.catch_warnings():  # 64 particles are too few for reliable probabilities
        warnings.filterwarnings("ignore", ".*unreliable", ConvergenceWarning)
        yield


def build(method, **changes):
    return clone(METHODS[method]).set_params(**changes)


@every_method
def test_counts_replace_labels(method, data):
    X, y = data
    expected = build(method).fit(X, y)
    model = build(method, counts=[3, 1, 2]).fit(X)
    assert model.classes_.tolist() == model.counts_.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    piped = make_pipeline(SignalNormalizer(), build(method, counts=(1, 2, 3))).fit(X)
    assert piped.predict_proba(X[:3]).shape == (3, 3)


@every_method
def test_labels_beside_counts(method, data):
    X, y = data
    model = build(method, counts=(1, 2, 3))
    expected = model.fit(X).predict_proba(X)
    assert model.fit(X, y).classes_.tolist() == [1, 2, 3]
    assert model.fit(X, np.minimum(y, 2)).classes_.tolist() == [1, 2, 3]
    assert model.fit(X, y.astype(float)).classes_.dtype == np.float64
    assert set(model.fit(X, y.astype(str)).predict(X)) <= {"1", "2", "3"}
    codes = model.fit(X, y - 1)
    assert codes.classes_.tolist() == [0, 1, 2]
    assert codes.counts_.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(codes.predict_proba(X), expected)
    np.testing.assert_array_equal(
        codes.predict_multicompartment_proba(X), np.clip(expected[:, 1:].sum(axis=1), 0, 1)
    )
    for wrong in (y + 1, np.minimum(y - 1, 1), np.where(y > 1, y, 0)):
        with pytest.raises(ValueError, match=r"counts=\(1, 2, 3\) the labels must be among"):
            model.fit(X, wrong)


@every_method
def test_counts_as_strings_are_sorted_as_labels(method, data):
    if method == "ideal observer":
        pytest.skip("the prior has no 10 compartments")
    X = data[0]
    if method == "multi-exponential":
        model, counts = build(method, counts=(2, 3)), ["2", "3"]
    else:
        model, counts = build(method, counts=(2, 10)), ["10", "2"]
    model.fit(X[:2], np.array(counts))
    assert model.classes_.tolist() == counts
    assert model.counts_.tolist() == [int(count) for count in counts]


@every_method
def test_neither_labels_nor_counts(method, data):
    with pytest.raises(ValueError, match="requires y.*target y is None.*counts="):
        build(method).fit(data[0])


@every_method
@pytest.mark.parametrize(
    ("counts", "error", "match"),
    [
        ((), ValueError, "such as"),
        ((0, 1), ValueError, "at least 1"),
        ((1, 1), ValueError, "once"),
        ((1, 2.5), TypeError, "integer"),
        ("12", ValueError, "'counts'"),
    ],
)
def test_bad_counts(method, counts, error, match, data):
    with pytest.raises(error, match=match):
        build(method, counts=counts).fit(data[0])


# -- estimates besides the counts -----------------------------------------------------------

RESULTS = {
    "multi-exponential": lambda model, X: {"table": model.estimate_compartments(X)},
    "nnls": lambda model, X: {"spectra": model.spectra(X)},
    "ideal observer": lambda model, X: {
        name: getattr(model.posterior(X), name)
        for name in (
            "probabilities", "standard_error", "log_evidence", "log_evidence_error",
            "effective_sample_size", "trustworthy", "probability_unexplained", "unexplained",
        )
    },
}  # fmt: skip


@every_method
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimates_of_volumes(method, data):
    X = data[0][:12].astype(np.float64)
    X[5] = 0
    model = build(method, counts=(1, 2)).fit(X)
    with pytest.warns(NoSignalWarning, match="1 of 12 voxels"):
        expected = RESULTS[method](model, X)
    with pytest.warns(NoSignalWarning, match="1 of 12 voxels"):
        found = RESULTS[method](model, X.reshape(2, 3, 2, 16))
    for name, values in expected.items():
        if name == "table":  # one row per voxel
            pd.testing.assert_frame_equal(found[name], values)
        else:
            maps = np.asarray(values).reshape(2, 3, 2, *values.shape[1:])
            np.testing.assert_array_equal(found[name], maps)


@every_method
def test_estimates_of_nan(method, data):
    X = data[0].copy()
    model = build(method, counts=(1, 2)).fit(X)
    X[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN in row 3.* set them to 0") as refused:
        RESULTS[method](model, X)
    assert "SignalPipeline" not in str(refused.value)
    with pytest.raises(ValueError, match="last axis has 16 entries"):
        RESULTS[method](model, X[:, :15].reshape(6, 6, 15))


# -- meta-estimators, which replace the labels 1, 2, 3 by 0, 1, 2 --------------------------


@every_method
def test_voting(method, data):
    X, y = data
    model = build(method, counts=(1, 2, 3))
    voting = VotingClassifier([("a", model), ("b", model)], voting="soft").fit(X, y)
    assert voting.classes_.tolist() == [1, 2, 3]
    np.testing.assert_allclose(voting.predict_proba(X), model.fit(X).predict_proba(X))
    np.testing.assert_array_equal(voting.predict(X), model.predict(X))
    hard = VotingClassifier([("a", model)], voting="hard").fit(X, y)
    np.testing.assert_array_equal(hard.predict(X), model.predict(X))


@every_method
@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_votes_on_voxels_without_signal(method, voting, data):
    X, y = data
    model = build(method, counts=(1, 2, 3))
    vote = VotingClassifier([("a", model), ("b", model)], voting=voting)
    voxels = SignalPipeline([("vote", vote)]).fit(X, y)
    broken = X[:12].copy()
    broken[3], broken[7, 2] = 0, np.nan
    lit = np.delete(np.arange(12), [3, 7])
    with pytest.warns(NoSignalWarning, match="2 of 12 voxels"):
        labels = voxels.predict(broken)
    np.testing.assert_array_equal(labels[lit], model.fit(X).predict(X[lit]))
    assert labels[[3, 7]].tolist() == [0, 0]
    if voting == "soft":
        with pytest.warns(NoSignalWarning, match="2 of 12 voxels"):
            maps = voxels.predict_proba(broken.reshape(3, 4, 16))
        assert np.isnan(maps[[0, 1], [3, 3]]).all()
        np.testing.assert_allclose(maps.reshape(12, 3)[lit], model.predict_proba(X[lit]))


@every_method
def test_calibration_of_voxels_without_signal(method, data):
    X, y = data
    calibrated = CalibratedClassifierCV(build(method, counts=(1, 2, 3)), cv=2)
    voxels = SignalPipeline([("calibrated", calibrated)]).fit(X, y)
    broken = X[:6].copy()
    broken[3] = 0
    with pytest.warns(NoSignalWarning, match="1 of 6 voxels"):
        assert voxels.predict(broken)[3] == 0
    with pytest.warns(NoSignalWarning, match="1 of 6 voxels"):
        assert np.isnan(voxels.predict_proba(broken)[3]).all()


@every_method
def test_stacking(method, data):
    X, y = data
    model = build(method, counts=(1, 2, 3))
    stacking = StackingClassifier(
        [("a", model), ("b", LogisticRegression())], LogisticRegression(), cv=2
    ).fit(X, y)
    np.testing.assert_allclose(stacking.transform(X)[:, :3], model.fit(X).predict_proba(X))
    assert set(stacking.predict(X)) <= {1, 2, 3}


@every_method
def test_bagging(method, data):
    X, y = data
    model = build(method, counts=(1, 2, 3))
    bagging = BaggingClassifier(model, n_estimators=2, random_state=0).fit(X, y)
    assert bagging.classes_.tolist() == [1, 2, 3]
    members = [member.predict_proba(X) for member in bagging.estimators_]  # seeds of their own
    np.testing.assert_allclose(bagging.predict_proba(X), np.mean(members, axis=0))
    assert [member.counts_.tolist() for member in bagging.estimators_] == [[1, 2, 3]] * 2
    np.testing.assert_array_equal(bagging.predict(X), 1 + np.mean(members, axis=0).argmax(axis=1))


@every_method
def test_codes_of_other_counts_are_refused(method, data):
    X, y = data
    voting = VotingClassifier([("a", build(method, counts=(1, 2, 3)))], voting="soft")
    with pytest.raises(ValueError, match="complete codes 0..2"):
        voting.fit(X[y > 1], y[y > 1])  # the code 0 would be the count 2


@every_method
@pytest.mark.parametrize("counts", [None, (1, 2, 3)])
def test_cross_validation_and_calibration(method, counts, data):
    X, y = data
    model = build(method, counts=counts)
    probabilities = model.fit(X, y).predict_proba(X)
    accuracy = np.mean(model.predict(X) == y)
    assert np.mean(cross_val_score(model, X, y, cv=3)) == pytest.approx(accuracy)
    if counts is None:  # cross_val_predict replaces labels by codes, too
        with pytest.raises(ValueError, match=r"got \['0', '1', '2'\].*pass counts="):
            cross_val_predict(model, X, y, cv=3, method="predict_proba")
    else:
        predicted = cross_val_predict(model, X, y, cv=3, method="predict_proba")
        np.testing.assert_allclose(predicted, probabilities)
    assert np.isfinite(cross_val_score(model, X, y, cv=3, scoring="neg_log_loss")).all()
    calibrated = CalibratedClassifierCV(model, cv=2, method="sigmoid").fit(X, y)
    assert calibrated.classes_.tolist() == [1, 2, 3]
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    search = GridSearchCV(model, {"inversion_efficiency": [0.9, 1.0]}, cv=2).fit(X, y)
    assert search.best_score_ >= 0
