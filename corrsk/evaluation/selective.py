"""Answering only where it is safe: accuracy over coverage, thresholds, abstaining."""

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
    """Accuracy of the answers over the share of signals answered, least confident left out.

    Parameters
    ----------
    y : array of shape (n,)
        Reference counts.
    probabilities : array of shape (n, K)
        Predicted probabilities; a row of NaN counts as a guess.
    classes : array of shape (K,), optional
        The count that each column stands for. Default: the distinct values of y, ascending.

    Returns
    -------
    coverage : ndarray of shape (m,)
        Share of the signals that are answered at each threshold, rising to 1.
    accuracy : ndarray of shape (m,)
        Share of these answers that is right.
    thresholds : ndarray of shape (m,)
        The distinct probabilities of the answers, falling: those of at least the
        threshold are given.

    Raises
    ------
    ValueError
        If the shapes do not belong together, labels are unknown or not counts, or the
        probabilities are none.

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
    """Share of wrong answers, averaged over all coverages: the lower, the better (AURC).

    Parameters and errors are those of :func:`accuracy_coverage_curve`.

    Returns
    -------
    float
        ``1 / n sum_i (wrong answers among the i most confident) / i``; among equally
        confident ones the errors are spread evenly.

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
    """The smallest probability threshold above which answers are accurate enough.

    Parameters
    ----------
    y, probabilities, classes
        Of held-out signals; see :func:`accuracy_coverage_curve`. They must be drawn as
        the signals will be to which the threshold is applied: it is no guarantee for others.
    accuracy : float
        The accuracy wanted of the answers, in (0, 1).
    confidence : float, default=0.95
        Probability that answers at the threshold are as accurate as that on fresh signals.

    Returns
    -------
    float
        A multiple of 0.005, for :func:`abstain`. At 1 / K every signal is answered.

    Raises
    ------
    ValueError
        As :func:`accuracy_coverage_curve`; or if the accuracy or the confidence is not within
        (0, 1), or no threshold reaches the accuracy. The message tells which accuracy can be
        had.

    Notes
    -----
    At each threshold the number of right answers is binomial, and its Clopper-Pearson
    lower bound must reach the accuracy. The thresholds are fixed before the signals are
    seen, and the bounds hold for all of them at once (Bonferroni), so that the choice of
    the smallest does not cost the guarantee; compare Geifman and El-Yaniv,
    "Selective classification for deep neural networks", NeurIPS 2017.
    """
    for name, value in (("accuracy", accuracy), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
    answered, right, given = _cumulative(y, probabilities, classes)
    n_classes = np.asarray(probabilities).shape[1]
    thresholds = np.arange(_STEPS // n_classes, _STEPS + 1) / _STEPS
    # the last of the falling probabilities that is at least the threshold
    last = np.searchsorted(-given, -thresholds, side="right")
    answered, right = (np.append(0, counts)[last] for counts in (answered, right))
    tail = (1 - confidence) / thresholds.size
    low = np.where(answered > 0, clopper_pearson(right, np.maximum(answered, 1), tail)[0], 0.0)
    enough = np.flatnonzero(low >= accuracy)
    if not enough.size:
        best = int(low.argmax())
        raise ValueError(
            f"no threshold makes answers {accuracy:.1%} accurate with confidence {confidence:.0%}: "
            f"at {thresholds[best]:g}, where {answered[best]:,.0f} of the signals are answered, it "
            f"is {low[best]:.1%}; ask for less, or bring more signals"
        )
    return float(thresholds[enough[0]])


def abstain(
    probabilities: ArrayLike, classes: ArrayLike, threshold: float, *, abstained: Any = 0
) -> NDArray[Any]:
    """The most probable class where it is probable enough, and no answer elsewhere.

    Parameters
    ----------
    probabilities : array of shape (n, K)
        Of a classifier's `predict_proba`. A row of NaN is never answered.
    classes : array of shape (K,)
        The label of each column, a classifier's `classes_`.
    threshold : float
        Least probability of an answer, in [0, 1]; see :func:`threshold_for_accuracy`.
    abstained : default=0
        What stands for no answer; not one of the classes.

    Returns
    -------
    ndarray of shape (n,)
        Labels. With 0 for no answer, a map of them shows background there.

    Raises
    ------
    ValueError
        If the shapes do not belong together, the threshold is not in [0, 1], or
        `abstained` is a class.

    Examples
    --------
    >>> from corrsk.evaluation import abstain
    >>> abstain([[0.9, 0.1], [0.45, 0.55]], classes=[1, 2], threshold=0.7)
    array([1, 0])
    """
    rows, labels = np.asarray(probabilities), np.asarray(classes)
    if rows.ndim != 2 or labels.shape != rows.shape[1:]:
        raise ValueError(
            f"probabilities of shape (n, K) need K classes, got shapes {rows.shape} and "
            f"{labels.shape}"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a probability in [0, 1], got {threshold!r}")
    if abstained in labels.tolist():
        raise ValueError(f"{abstained!r} is a class; no answer needs a label of its own")
    answered = ~np.isnan(rows).any(axis=1)
    rows = guess_unanswered(rows)
    return np.where(
        answered & (rows.max(axis=1) >= threshold), labels[rows.argmax(axis=1)], abstained
    )


def _cumulative(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Answers and right answers at every distinct confidence or above, confidences falling."""
    correct, confidence = top_label_answers(*checked_predictions(y, probabilities, classes))
    given, group = np.unique(-confidence, return_inverse=True)
    answered = np.bincount(group).cumsum().astype(np.float64)
    right = np.bincount(group, weights=correct).cumsum()
    return answered, right, -given
