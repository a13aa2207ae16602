"""Selective classification: accuracy over coverage, thresholds, abstention."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corrsk._utils.counts import guess_unanswered
from corrsk.evaluation.calibration import checked_predictions, clopper_pearson, top_label_answers

_STEPS = 200  # thresholds between 0 and 1


def accuracy_coverage_curve(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy of confident predictions over coverage, the share of signals classified.

    Parameters
    ----------
    y : array of shape (n_samples,)
        Reference counts.
    probabilities : array of shape (n_samples, n_classes)
        Predicted probabilities; a row of NaN counts as a guess.
    classes : array of shape (n_classes,), optional
        The count of each column. Default: the distinct values of y, ascending.

    Returns
    -------
    coverage : ndarray of shape (n_thresholds,)
        Share of the signals with a confidence of at least each threshold, ascending to 1.
    accuracy : ndarray of shape (n_thresholds,)
        Accuracy on these signals.
    thresholds : ndarray of shape (n_thresholds,)
        The distinct confidences, descending.

    Raises
    ------
    ValueError
        If shapes are inconsistent, labels are not counts or not among the classes, or a row of
        the probabilities is not a distribution.

    Notes
    -----
    El-Yaniv and Wiener, "On the foundations of noise-free selective classification",
    JMLR 11, 1605 (2010). The confidence is the probability of the most probable class.
    """
    answered, right, thresholds = _cumulative(y, probabilities, classes)
    return answered / answered[-1], right / answered, thresholds


def area_under_risk_coverage(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike | None = None
) -> float:
    """Area under the risk-coverage curve (AURC): error rate averaged over all coverages.

    Parameters
    ----------
    y : array of shape (n_samples,)
        Reference counts.
    probabilities : array of shape (n_samples, n_classes)
        Predicted probabilities; a row of NaN counts as a guess.
    classes : array of shape (n_classes,), optional
        The count of each column. Default: the distinct values of y, ascending.

    Returns
    -------
    float
        Area ``1 / n_samples sum_i (errors among the i most confident) / i``; lower is better.
        Errors are spread evenly over equally confident predictions.

    Raises
    ------
    ValueError
        For the same reasons as in :func:`accuracy_coverage_curve`.

    Notes
    -----
    Geifman, Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural
    classifiers", ICLR 2019.
    """
    answered, right, _ = _cumulative(y, probabilities, classes)
    each = np.arange(1, int(answered[-1]) + 1)
    wrong = np.interp(each, np.append(0, answered), np.append(0, answered - right))
    return float(np.mean(wrong / each))


def threshold_for_accuracy(
    y: ArrayLike,
    probabilities: ArrayLike,
    accuracy: float,
    classes: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> float:
    """Smallest probability threshold that guarantees an accuracy.

    Parameters
    ----------
    y : array of shape (n_samples,)
        Reference counts of held-out signals. The guarantee holds for signals of the same
        distribution only.
    probabilities : array of shape (n_samples, n_classes)
        Predicted probabilities; a row of NaN counts as a guess.
    accuracy : float
        Required accuracy of the predictions above the threshold, in (0, 1).
    classes : array of shape (n_classes,), optional
        The count of each column. Default: the distinct values of y, ascending.
    confidence : float, default=0.95
        Probability that the accuracy holds on fresh signals, in (0, 1).

    Returns
    -------
    float
        Threshold for :func:`abstain`, a multiple of 0.005. At 1 / n_classes every signal is
        classified.

    Raises
    ------
    ValueError
        For the same reasons as in :func:`accuracy_coverage_curve`, if the accuracy or the
        confidence is not within (0, 1), or if no threshold reaches the accuracy; the message
        gives the highest accuracy that a threshold reaches.

    Notes
    -----
    At each threshold the number of right predictions is binomial, and its Clopper-Pearson
    lower bound must reach the accuracy. The thresholds do not depend on the signals, and the
    bounds hold for all thresholds at once (Bonferroni), so that choosing the smallest one keeps
    the guarantee; compare Geifman and El-Yaniv, "Selective classification for deep neural
    networks", NeurIPS 2017.
    """
    for name, value in (("accuracy", accuracy), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
    answered, right, given = _cumulative(y, probabilities, classes)
    n_classes = np.asarray(probabilities).shape[1]
    thresholds = np.arange(_STEPS // n_classes, _STEPS + 1) / _STEPS
    # the last of the descending confidences that is at least the threshold
    last = np.searchsorted(-given, -thresholds, side="right")
    answered, right = (np.append(0, counts)[last] for counts in (answered, right))
    tail = (1 - confidence) / thresholds.size
    low = np.where(answered > 0, clopper_pearson(right, np.maximum(answered, 1), tail)[0], 0.0)
    enough = np.flatnonzero(low >= accuracy)
    if not enough.size:
        best = int(low.argmax())
        raise ValueError(
            f"no threshold guarantees an accuracy of {accuracy:.1%} with confidence "
            f"{confidence:.0%}: the best one, {thresholds[best]:g}, guarantees {low[best]:.1%} on "
            f"{answered[best]:,.0f} of the signals; lower the accuracy or pass more signals"
        )
    return float(thresholds[enough[0]])


def abstain(
    probabilities: ArrayLike, classes: ArrayLike, threshold: float, *, abstained: Any = 0
) -> NDArray[Any]:
    """Predict the most probable class, but abstain below a probability threshold.

    Parameters
    ----------
    probabilities : array of shape (n_samples, n_classes)
        Predicted probabilities. Rows of NaN are abstained from.
    classes : array of shape (n_classes,)
        The label of each column: `classes_` of the classifier.
    threshold : float
        Least probability of a prediction, in [0, 1]; see :func:`threshold_for_accuracy`.
    abstained : object, default=0
        Label of signals without a prediction; none of the classes.

    Returns
    -------
    ndarray of shape (n_samples,)
        Predicted labels, `abstained` where no class is probable enough.

    Raises
    ------
    ValueError
        If shapes are inconsistent, the threshold is not in [0, 1], or `abstained` is a class.

    Examples
    --------
    >>> from corrsk.evaluation import abstain
    >>> abstain([[0.9, 0.1], [0.45, 0.55]], classes=[1, 2], threshold=0.7)
    array([1, 0])
    """
    rows, labels = np.asarray(probabilities), np.asarray(classes)
    if rows.ndim != 2 or labels.shape != rows.shape[1:]:
        raise ValueError(
            "probabilities and classes must have the shapes (n_samples, n_classes) and "
            f"(n_classes,), got {rows.shape} and {labels.shape}"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a probability in [0, 1], got {threshold!r}")
    if abstained in labels.tolist():
        raise ValueError(f"abstained={abstained!r} is a class; choose another label")
    answered = ~np.isnan(rows).any(axis=1)
    rows = guess_unanswered(rows)
    return np.where(
        answered & (rows.max(axis=1) >= threshold), labels[rows.argmax(axis=1)], abstained
    )


def _cumulative(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Numbers of predictions and of right ones above each distinct confidence, descending."""
    correct, confidence = top_label_answers(*checked_predictions(y, probabilities, classes))
    given, group = np.unique(-confidence, return_inverse=True)
    answered = np.bincount(group).cumsum().astype(np.float64)
    right = np.bincount(group, weights=correct).cumsum()
    return answered, right, -given
