"""Metrics of predicted probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from corrsk._utils.counts import is_multicompartment, multicompartment_probability
from corrsk.evaluation.calibration import expected_calibration_error
from corrsk.evaluation.tasks import Task


def count_metrics(
    y: NDArray[Any], probabilities: NDArray[np.float64], classes: NDArray[Any]
) -> dict[str, float]:
    """Metrics of the compartment count.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Reference counts.
    probabilities : ndarray of shape (n_samples, n_classes)
        Predicted probabilities.
    classes : ndarray of shape (n_classes,)
        The count of each column.

    Returns
    -------
    dict of str to float
        Accuracy; precision, recall and F1 (macro and per class); one-vs-rest, micro and macro
        ROC AUC; log loss; calibration error. The ROC AUC of a class that does not occur in `y`
        is NaN.
    """
    predicted = classes[probabilities.argmax(axis=1)]
    results = {"accuracy": float(metrics.accuracy_score(y, predicted))}
    names = ("precision", "recall", "f1")
    macro = metrics.precision_recall_fscore_support(
        y, predicted, labels=classes, average="macro", zero_division=0
    )
    results |= {f"{name}_macro": float(value) for name, value in zip(names, macro, strict=False)}
    each = metrics.precision_recall_fscore_support(
        y, predicted, labels=classes, average=None, zero_division=0
    )
    for name, values in zip(names, each, strict=False):
        results |= {
            f"{name}_{label}": float(value) for label, value in zip(classes, values, strict=True)
        }
    one_hot = y[:, None] == classes
    areas = [_roc_auc(one_hot[:, k], probabilities[:, k]) for k in range(classes.size)]
    results |= {f"roc_auc_{label}": area for label, area in zip(classes, areas, strict=True)}
    results["roc_auc_micro"] = _roc_auc(one_hot.ravel(), probabilities.ravel())
    results["roc_auc_macro"] = float(np.mean(areas))
    results["log_loss"] = float(metrics.log_loss(y, probabilities, labels=classes))
    results["calibration_error"] = expected_calibration_error(y, probabilities, classes)
    return results


def binary_metrics(
    y: NDArray[Any], probabilities: NDArray[np.float64], classes: NDArray[Any]
) -> dict[str, float]:
    """Metrics of the binary classification: one compartment or several.

    Two decision rules are evaluated: P(n_c >= 2) > 0.5, which is optimal (``binary_*``), and
    whether the most probable count is at least 2, as in the paper (``binary_argmax_*``).

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Reference counts.
    probabilities : ndarray of shape (n_samples, n_classes)
        Predicted probabilities.
    classes : ndarray of shape (n_classes,)
        The count of each column.

    Returns
    -------
    dict of str to float
        Accuracy, and precision, recall and F1 of either side, for both rules; ROC AUC, log loss
        and calibration error of P(n_c >= 2).
    """
    several = is_multicompartment(y)
    probability = multicompartment_probability(probabilities, classes)
    by_argmax = is_multicompartment(classes)[probabilities.argmax(axis=1)]
    results: dict[str, float] = {}
    for prefix, answer in (("binary", probability > 0.5), ("binary_argmax", by_argmax)):
        results[f"{prefix}_accuracy"] = float(np.mean(answer == several))
        for side, positive in (("single", False), ("multi", True)):
            precision, recall, f1, _ = metrics.precision_recall_fscore_support(
                several == positive, answer == positive, average="binary", zero_division=0
            )
            results[f"{prefix}_precision_{side}"] = float(precision)
            results[f"{prefix}_recall_{side}"] = float(recall)
            results[f"{prefix}_f1_{side}"] = float(f1)
    results["binary_roc_auc"] = _roc_auc(several, probability)
    results["binary_log_loss"] = float(
        metrics.log_loss(several, np.column_stack([1 - probability, probability]), labels=[0, 1])
    )
    results["binary_calibration_error"] = expected_calibration_error(
        y, probabilities, classes, task=Task.MULTICOMPARTMENT
    )
    return results


def _roc_auc(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    if truth.all() or not truth.any():
        return float("nan")
    return float(metrics.roc_auc_score(truth, score))
