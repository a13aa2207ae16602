"""scikit-learn scorers for the binary question, for use in searches."""

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


@dataclass(frozen=True)
class MulticompartmentScorer:
    """Score P(n_c >= 2) of any fitted classifier of compartment counts.

    Called like every scikit-learn scorer, ``scorer(estimator, X, y)``, optionally
    with `sample_weight`; greater is better. The estimator needs `predict_proba` and `classes_`.

    Parameters
    ----------
    name : str
        What is scored, for the representation.
    score : callable
        ``score(truth, probability, sample_weight)`` of arrays of shape (n,).
    """

    name: str
    score: Callable[[Any, Any, Any], float]

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score a fitted classifier on signals X of shape (n, N) and counts y of shape (n,)."""
        probability = multicompartment_probability(
            guess_unanswered(estimator.predict_proba(X)), estimator.classes_
        )
        return float(self.score(is_multicompartment(y), probability, sample_weight))

    def _accept_sample_weight(self) -> bool:
        return True  # scikit-learn asks this of the scorers of a search

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
    """scikit-learn's "neg_log_loss", but a signal without an answer (NaN) costs a guess.

    scikit-learn's own refuses NaN, so that one voxel that a method cannot solve
    would cost a whole fold.
    """

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score a fitted classifier on signals X of shape (n, N) and labels y of shape (n,)."""
        probabilities = guess_unanswered(estimator.predict_proba(X))
        # single precision leaves sums that scikit-learn warns of
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

# ready for `GridSearchCV(scoring=SCORERS, refit="accuracy")`
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
