"""Scorers for scikit-learn's searches: P(n_c >= 2), and a log loss that accepts NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn import metrics

from corrsk._utils.counts import (
    guess_unanswered,
    is_multicompartment,
    multicompartment_probability,
)
from corrsk.evaluation.predictions import measured_probabilities


@dataclass(frozen=True)
class MulticompartmentScorer:
    """Scorer of P(n_c >= 2) for fitted classifiers of compartment counts.

    Called like every scikit-learn scorer, ``scorer(estimator, X, y)``, optionally
    with `sample_weight`; greater is better. The estimator needs `predict_proba` and `classes_`.

    Parameters
    ----------
    name : str
        Name of the score, for the representation.
    score : callable
        Function ``score(truth, probability, sample_weight)`` of arrays of shape (n_samples,).
    """

    name: str
    score: Callable[[Any, Any, Any], float]

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score a fitted classifier on signals (n_samples, n_measurements) and counts."""
        probability = multicompartment_probability(
            guess_unanswered(measured_probabilities(estimator, X)), estimator.classes_
        )
        several = is_multicompartment(y, estimator.classes_)
        return float(self.score(several, probability, sample_weight))

    def _accept_sample_weight(self) -> bool:
        return True  # scikit-learn's searches call this method of their scorers

    def __repr__(self) -> str:
        return self.name


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


class CountLogLossScorer:
    """Scorer like scikit-learn's "neg_log_loss" that counts a row of NaN as a guess.

    scikit-learn's own scorer refuses NaN: one voxel without a prediction would invalidate a whole
    fold.
    """

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score a fitted classifier on signals (n_samples, n_measurements) and labels."""
        probabilities = guess_unanswered(measured_probabilities(estimator, X))
        # sums in single precision deviate from 1 enough for a warning of scikit-learn
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        loss = metrics.log_loss(
            y, probabilities, labels=estimator.classes_, sample_weight=sample_weight
        )
        return -float(loss)

    def _accept_sample_weight(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "neg_log_loss"


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
