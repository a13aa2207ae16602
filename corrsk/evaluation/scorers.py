"""scikit-learn scorers for the binary question, for use in searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics

from corrsk._counts import is_multicompartment, multicompartment_probability


@dataclass(frozen=True)
class MulticompartmentScorer:
    """Score P(n_c >= 2) of any fitted classifier of compartment counts.

    Called like every scikit-learn scorer, ``scorer(estimator, X, y)``; greater
    is better. The estimator needs `predict_proba` and `classes_`.

    Parameters
    ----------
    name : str
        What is scored, for the representation.
    score : callable
        ``score(truth, probability)`` of arrays of shape (n,).
    """

    name: str
    score: Callable[[Any, Any], float]

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Score a fitted classifier on signals X of shape (n, N) and counts y."""
        probability = multicompartment_probability(
            np.asarray(estimator.predict_proba(X)), estimator.classes_
        )
        return float(self.score(is_multicompartment(y), probability))

    def _accept_sample_weight(self) -> bool:
        return False  # scikit-learn asks this of scorers in a multi-metric search

    def __repr__(self) -> str:
        return self.name


def _accuracy(truth: Any, probability: Any) -> float:
    return float(metrics.accuracy_score(truth, probability > 0.5))


def _balanced_accuracy(truth: Any, probability: Any) -> float:
    return float(metrics.balanced_accuracy_score(truth, probability > 0.5))


def _roc_auc(truth: Any, probability: Any) -> float:
    return float(metrics.roc_auc_score(truth, probability))


def _negative_log_loss(truth: Any, probability: Any) -> float:
    return -float(metrics.log_loss(truth, probability, labels=[False, True]))


multicompartment_accuracy = MulticompartmentScorer("multicompartment_accuracy", _accuracy)
multicompartment_balanced_accuracy = MulticompartmentScorer(
    "multicompartment_balanced_accuracy", _balanced_accuracy
)
multicompartment_roc_auc = MulticompartmentScorer("multicompartment_roc_auc", _roc_auc)
multicompartment_neg_log_loss = MulticompartmentScorer(
    "multicompartment_neg_log_loss", _negative_log_loss
)

# ready for `GridSearchCV(scoring=SCORERS, refit="accuracy")`
SCORERS: dict[str, Any] = {
    "accuracy": "accuracy",
    "neg_log_loss": "neg_log_loss",
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
