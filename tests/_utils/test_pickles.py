"""Pickles of estimators of earlier versions, which lack the parameters that were added since."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator

import corrsk
from corrsk import (
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    MultiExponentialClassifier,
    ProtocolAligner,
    TissuePrior,
    make_correlation_signals,
)
from corrsk.baselines import EncodedLabelsClassifier, ScaledBatchClassifier
from corrsk.model_selection import StackedGridSearchCV

PUBLIC = [getattr(corrsk, name) for name in corrsk.__all__]
ESTIMATORS = [
    *(each for each in PUBLIC if inspect.isclass(each) and issubclass(each, BaseEstimator)),
    EncodedLabelsClassifier, ScaledBatchClassifier, StackedGridSearchCV,
]  # fmt: skip


def earlier(estimator, *lacking):
    """The estimator from a pickle without some attributes."""
    for name in lacking:
        del vars(estimator)[name]
    return pickle.loads(pickle.dumps(estimator))


@pytest.mark.parametrize("cls", dict.fromkeys(ESTIMATORS), ids=lambda cls: cls.__name__)
def test_parameters_that_a_pickle_lacks_have_their_defaults(cls):
    parameters = inspect.signature(cls).parameters.values()
    required = {each.name: [] for each in parameters if each.default is each.empty}
    optional = {each.name for each in parameters if each.default is not each.empty}
    expected = cls(**required).get_params(deep=False)
    again = earlier(cls(**required), *optional)
    assert vars(again).keys() >= optional
    assert again.get_params(deep=False) == expected


def test_a_generator_without_units():
    tissue, _ = TissuePrior.named("midl2024").sample(20, random_state=0)
    generator = CorrelationSignalGenerator(random_state=0).fit(tissue)
    expected = generator.transform(tissue)
    np.testing.assert_array_equal(earlier(generator, "units").transform(tissue), expected)


def test_a_classifier_without_counts():
    X, y = make_correlation_signals(20, random_state=0, verbose=False)
    model = MultiExponentialClassifier("ir-se-8x8", n_starts=2, max_steps=5, verbose=False).fit(
        X, y
    )
    expected = model.predict(X[:4])
    np.testing.assert_array_equal(earlier(model, "counts").predict(X[:4]), expected)


def test_a_network_and_an_aligner_keep_their_own_parameters():
    X, y = make_correlation_signals(200, random_state=0, verbose=False)
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, dropout=0.1, random_state=0, verbose=False
    )
    expected = model.fit(X, y).predict_proba(X)
    again = earlier(model, "warm_start", "protocol")
    assert again.dropout == 0.1
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    aligner = ProtocolAligner(norm="max").fit(X)
    expected = aligner.transform(X)
    again = earlier(aligner, "noise_distribution")
    assert again.norm == "max"
    np.testing.assert_array_equal(again.transform(X), expected)
