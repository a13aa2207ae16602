"""Scorers for scikit-learn's searches: P(n_c >= 2), and a log loss that accepts NaN."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.metrics._scorer import _BaseScorer, _cached_call

from corrsk._utils.counts import (
    guess_unanswered,
    is_multicompartment,
    multicompartment_probability,
)
from corrsk._utils.steps import without_codes
from corrsk.evaluation.predictions import measured_probabilities


class _Predicted(NamedTuple):
    """Class probabilities, (n_samples, n_classes), and the classes."""

    probabilities: NDArray[np.float64]
    classes: Any


class _ProbabilityScorer(_BaseScorer):
    """Scorer of class probabilities, with one prediction for all such scorers of a search.

    scikit-learn caches the predictions of its own type of scorer, which this class extends: a
    score function of `make_scorer` does not get the classes.
    """

    def __init__(self, name: str) -> None:
        super().__init__(self._value, 1, {}, "predict_proba")
        self.name = name

    def _value(self, y_true: Any, y_pred: _Predicted, sample_weight: Any = None) -> float:
        """Score of labels and predicted probabilities."""
        raise NotImplementedError

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score a fitted classifier on signals (n_samples, n_measurements) and counts."""
        return self._score(partial(_cached_call, None), estimator, X, y, sample_weight)

    def _score(
        self, method_caller: Any, estimator: Any, X: Any, y_true: Any, sample_weight: Any = None
    ) -> float:
        # for two classes scikit-learn returns a single column, that of its positive label, which
        # another scorer can change: the entry of the cache must be that of these scorers
        two = len(estimator.classes_) == 2

        def predict(signals: Any) -> Any:
            method = ("predict_proba",) if two else "predict_proba"
            predicted = method_caller(estimator, method, signals)
            if predicted.ndim == 1:
                predicted = np.column_stack([1 - predicted, predicted])
            return predicted

        rows = guess_unanswered(measured_probabilities(estimator, X, predict))
        classes = without_codes(estimator, estimator.classes_)
        return self._value(
            without_codes(estimator, y_true), _Predicted(rows, classes), sample_weight
        )

    def __repr__(self) -> str:
        return self.name


class MulticompartmentScorer(_ProbabilityScorer):
    """Scorer of P(n_c >= 2) for fitted classifiers of compartment counts.

    Called like every scikit-learn scorer, ``scorer(estimator, X, y)``, optionally
    with `sample_weight`; greater is better. The estimator needs `predict_proba` and `classes_`.
    Scorers of this class share the prediction of a fold in searches and `cross_validate`.

    Parameters
    ----------
    name : str
        Name of the score, for the representation.
    score : callable
        Function ``score(truth, probability, sample_weight)`` of arrays of shape (n_samples,).
    """

    def __init__(self, name: str, score: Callable[[Any, Any, Any], float]) -> None:
        super().__init__(name)
        self.score = score

    def _value(self, y_true: Any, y_pred: _Predicted, sample_weight: Any = None) -> float:
        probability = multicompartment_probability(*y_pred)
        several = is_multicompartment(y_true, y_pred.classes)
        return float(self.score(several, probability, sample_weight))


def _accuracy(truth: Any, probability: Any, weight: Any) -> float:
    return float(metrics.accuracy_score(truth, probability > 0.5, sample_weight=weight))


def _balanced_accuracy(truth: Any, probability: Any, weight: Any) -> float:
    return float(metrics.balanced_accuracy_score(truth, probability > 0.5, sample_weight=weight))


def _roc_auc(truth: Any, probability: Any, weight: Any) -> float:
    return float(metrics.roc_auc_score(truth, probability, sample_weight=weight))


def _negative_log_loss(truth: Any, probability: Any, weight: Any) -> float:
    return -float(metrics.log_loss(truth, probability, labels=[False, True], sample_weight=weight))


multicompartment_accuracy = MulticompartmentScorer("multicompartment_accuracy", _accuracy)
multicompartment_balanced_accuracy = MulticompartmentScorer(
    "multicompartment_balanced_accuracy", _balanced_accuracy
)
multicompartment_roc_auc = MulticompartmentScorer("multicompartment_roc_auc", _roc_auc)
multicompartment_neg_log_loss = MulticompartmentScorer(
    "multicompartment_neg_log_loss", _negative_log_loss
)


class CountLogLossScorer(_ProbabilityScorer):
    """Scorer like scikit-learn's "neg_log_loss" that counts a row of NaN as a guess.

    scikit-learn's own scorer refuses NaN: one voxel without a prediction would invalidate a whole
    fold.
    """

    def __init__(self) -> None:
        super().__init__("neg_log_loss")

    def _value(self, y_true: Any, y_pred: _Predicted, sample_weight: Any = None) -> float:
        # sums in single precision deviate from 1 enough for a warning of scikit-learn
        rows = y_pred.probabilities / y_pred.probabilities.sum(axis=1, keepdims=True)
        loss = metrics.log_loss(y_true, rows, labels=y_pred.classes, sample_weight=sample_weight)
        return -float(loss)


neg_log_loss = CountLogLossScorer()

# for `GridSearchCV(scoring=SCORERS, refit="accuracy")`
SCORERS: dict[str, Any] = {
    "accuracy": "accuracy",
    "neg_log_loss": neg_log_loss,
    **{
        scorer.name: scorer
        for scorer in (
            multicompartment_accuracy,
            multicompartment_balanced_accuracy,
            multicompartment_roc_auc,
            multicompartment_neg_log_loss,
        )
    },
}
