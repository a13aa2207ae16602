"""Calibration: agreement of predicted probabilities with observed frequencies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta
from sklearn.utils import check_consistent_length

from corrsk._utils.counts import (
    as_evaluated_counts,
    guess_unanswered,
    is_multicompartment,
    multicompartment_probability,
)
from corrsk._utils.deprecation import renamed_parameters
from corrsk._utils.validation import checked_count
from corrsk.evaluation.tasks import Task
from corrsk.physics.noise_levels import above_one

N_BINS = 15
_MOST_LEVELS, _BINS_OF_A_RANGE = 20, 5


@renamed_parameters(question="task")
def expected_calibration_error(
    y: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike | None = None,
    *,
    n_bins: int = N_BINS,
    task: str = Task.COUNT,
) -> float:
    """Expected calibration error: mean gap between probability and frequency in equal-mass bins.

    Parameters
    ----------
    y : array of shape (n_samples,)
        Reference counts.
    probabilities : array of shape (n_samples, n_classes)
        Predicted probabilities. A row of NaN (a signal without a prediction) counts as a guess
        with every class equally probable, as in :func:`corrsk.evaluation.evaluate`.
    classes : array of shape (n_classes,), optional
        The count of each column. Default: the distinct values of y, ascending.
    n_bins : int, default=15
        Number of bins.
    task : {"count", "multicompartment"}, default="count"
        "count" compares the probability of the most probable class (top label) with the
        accuracy; "multicompartment" compares P(n_c >= 2) with the frequency of more than one
        compartment.

    Returns
    -------
    float
        Calibration error ``sum_b n_b / n_samples |observed_b - mean predicted_b|``.

    Raises
    ------
    ValueError
        If shapes are inconsistent, labels are not counts or not among the classes, a row of the
        probabilities is not a distribution, or the task is unknown.

    Notes
    -----
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, Eq. 3, with the
    equal-mass bins of Nixon et al., "Measuring Calibration in Deep Learning", CVPR
    Workshops 2019: with bins of equal width, most signals would fall into a few bins.
    Signals of equal probability share a bin, so that the result does not depend on the order of
    the signals. Sampling noise makes the error positive: for a perfectly calibrated classifier
    of accuracy a the error is about ``sqrt(2 a (1 - a) n_bins / (pi n_samples))``, 0.0015 for
    10^6 signals.
    """
    table = reliability_table(y, probabilities, classes, n_bins=n_bins, task=task)
    return _mean_gap(table)


@renamed_parameters(question="task")
def reliability_table(
    y: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike | None = None,
    *,
    n_bins: int = N_BINS,
    task: str = Task.COUNT,
) -> pd.DataFrame:
    """Predicted probability and observed frequency in each bin.

    Parameters
    ----------
    y : array of shape (n_samples,)
        Reference counts.
    probabilities : array of shape (n_samples, n_classes)
        Predicted probabilities; a row of NaN counts as a guess.
    classes : array of shape (n_classes,), optional
        The count of each column. Default: the distinct values of y, ascending.
    n_bins : int, default=15
        Number of bins.
    task : {"count", "multicompartment"}, default="count"
        See :func:`expected_calibration_error`.

    Returns
    -------
    DataFrame
        One row per bin, by ascending probability: predicted (the mean probability), observed
        (the frequency), low and high (the 95 % Clopper-Pearson interval of the frequency),
        n_samples. Fewer rows than `n_bins` if many probabilities are equal.

    Raises
    ------
    ValueError
        For the same reasons as in :func:`expected_calibration_error`.
    """
    task = Task.from_name(task)
    y, rows, classes = checked_predictions(y, probabilities, classes)
    if task is Task.COUNT:
        happened, predicted = top_label_answers(y, rows, classes)
    else:
        happened = is_multicompartment(y)
        predicted = multicompartment_probability(rows, classes)
    return _table(happened, predicted, n_bins)


def calibration_by_noise_level(
    y: ArrayLike,
    probabilities: ArrayLike,
    noise_level: ArrayLike,
    classes: ArrayLike | None = None,
    *,
    n_bins: int = N_BINS,
) -> pd.DataFrame:
    """Calibration errors of the count and of P(n_c >= 2) at each noise level.

    Parameters
    ----------
    y : array of shape (n_samples,)
        Reference counts.
    probabilities : array of shape (n_samples, n_classes)
        Predicted probabilities; a row of NaN counts as a guess.
    noise_level : array of shape (n_samples,)
        Noise level of each signal.
    classes : array of shape (n_classes,), optional
        The count of each column. Default: the distinct values of y, ascending.
    n_bins : int, default=15
        Number of bins.

    Returns
    -------
    DataFrame
        One row per noise level, or, if there are more than 20 levels, per fifth of the signals
        with its median level: calibration_error, binary_calibration_error, confidence (mean
        probability of the most probable class), accuracy, n_samples.

    Raises
    ------
    ValueError
        For the same reasons as in :func:`expected_calibration_error`, or if a noise level is NaN.
    """
    y, rows, classes = checked_predictions(y, probabilities, classes)
    correct, confidence = top_label_answers(y, rows, classes)
    several, probability = is_multicompartment(y), multicompartment_probability(rows, classes)
    levels = grouped_noise_levels(noise_level, y.size)
    table = {}
    for level in np.unique(levels):
        at = levels == level
        table[level] = {
            "calibration_error": _mean_gap(_table(correct[at], confidence[at], n_bins)),
            "binary_calibration_error": _mean_gap(_table(several[at], probability[at], n_bins)),
            "confidence": confidence[at].mean(),
            "accuracy": correct[at].mean(),
            "n_samples": int(at.sum()),
        }
    frame = pd.DataFrame.from_dict(table, orient="index").rename_axis("noise_level")
    return frame.astype({"n_samples": np.int64})


def checked_predictions(
    y: ArrayLike, probabilities: ArrayLike, classes: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Validate predictions: return counts, probabilities without NaN, and ascending classes.

    Raises
    ------
    ValueError
        If shapes or labels are inconsistent; see :func:`expected_calibration_error`.
    """
    counts = as_evaluated_counts(y, classes)
    known = np.unique(counts) if classes is None else as_evaluated_counts(classes)
    rows = guess_unanswered(probabilities)
    check_consistent_length(counts, rows)
    if not counts.size:
        raise ValueError("y is empty: an evaluation needs at least one signal")
    if rows.ndim != 2 or rows.shape[1] != known.size:
        raise ValueError(
            f"probabilities must have a column for each of the {known.size} classes "
            f"{known.tolist()}, got shape {rows.shape}"
        )
    if np.unique(known).size < known.size:
        raise ValueError(f"classes must be distinct, got {known.tolist()}")
    unknown = np.setdiff1d(counts, known)
    if unknown.size:
        raise ValueError(
            f"y contains {unknown.tolist()}, which is not among the classes {known.tolist()}"
        )
    if not ((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-4)):
        raise ValueError("probabilities must not be negative or partly NaN, and rows must sum to 1")
    order = np.argsort(known)  # some learners have another order of classes
    return counts, rows[:, order], known[order]


def top_label_answers(
    y: NDArray[Any], probabilities: NDArray[np.float64], classes: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return whether the most probable class is right, and its probability, (n_samples,) each."""
    return classes[probabilities.argmax(axis=1)] == y, probabilities.max(axis=1)


def grouped_noise_levels(noise_level: ArrayLike, n_samples: int) -> NDArray[np.float64]:
    """Noise levels; if there are more than 20, each is replaced by the median of its fifth.

    Raises
    ------
    ValueError
        If there are not n_samples levels, or one is NaN or above 1.
    """
    levels = np.asarray(noise_level, dtype=np.float64)
    if levels.shape != (n_samples,) or np.isnan(levels).any():
        raise ValueError(
            f"noise_level must have the shape ({n_samples},) and no NaN, got shape {levels.shape}"
        )
    if levels.size and levels.max() > 1:
        raise ValueError(f"noise_level must not exceed 1: {above_one(levels.max())}")
    if np.unique(levels).size <= _MOST_LEVELS:
        return levels
    column = pd.Series(levels)
    fifths = column.groupby(pd.qcut(column, _BINS_OF_A_RANGE, duplicates="drop"), observed=True)
    return np.asarray(fifths.transform("median"))


def clopper_pearson(
    successes: ArrayLike, trials: ArrayLike, tail: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact confidence bounds of binomial probabilities.

    Parameters
    ----------
    successes : array of shape (k,)
        Numbers of successes.
    trials : array of shape (k,)
        Numbers of trials.
    tail : float
        Probability that a bound fails, on either side: 0.025 for a 95 % interval.

    Returns
    -------
    low : ndarray of shape (k,)
        Lower bounds.
    high : ndarray of shape (k,)
        Upper bounds.

    Notes
    -----
    Clopper and Pearson, Biometrika 26, 404 (1934).
    """
    won, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    low = np.where(won > 0, beta.ppf(tail, np.maximum(won, 1), n - won + 1), 0.0)
    high = np.where(won < n, beta.isf(tail, won + 1, np.maximum(n - won, 1)), 1.0)
    return low, high


def _table(
    happened: NDArray[np.bool_], predicted: NDArray[np.float64], n_bins: int
) -> pd.DataFrame:
    checked_count("n_bins", n_bins, at_least=1)
    ordered = np.sort(predicted)
    edges = ordered[np.arange(1, n_bins) * ordered.size // n_bins]
    bins = np.searchsorted(np.unique(edges), predicted, side="right")
    size = np.bincount(bins, minlength=n_bins)
    filled = size > 0
    hits = np.bincount(bins, weights=happened, minlength=n_bins)[filled]
    total = np.bincount(bins, weights=predicted, minlength=n_bins)[filled]
    size = size[filled]
    low, high = clopper_pearson(hits, size, 0.025)
    return pd.DataFrame(
        {"predicted": total / size, "observed": hits / size,
         "low": low, "high": high, "n_samples": size}
    ).rename_axis("bin")  # fmt: skip


def _mean_gap(table: pd.DataFrame) -> float:
    gaps = (table["observed"] - table["predicted"]).abs()
    return float(np.average(gaps, weights=table["n_samples"]))
