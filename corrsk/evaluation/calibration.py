"""Whether probabilities mean what they say: of answers given with 80 %, 80 % are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta
from sklearn.utils import check_consistent_length

from corrsk._utils.counts import (
    as_counts,
    guess_unanswered,
    is_multicompartment,
    multicompartment_probability,
)
from corrsk._utils.validation import checked_count

N_BINS = 15
QUESTIONS = ("count", "multicompartment")
_MOST_LEVELS, _BINS_OF_A_RANGE = 20, 5


def expected_calibration_error(
    y: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike | None = None,
    *,
    n_bins: int = N_BINS,
    question: str = "count",
) -> float:
    """Mean gap between probability and frequency, over bins of equally many signals.

    Parameters
    ----------
    y : array of shape (n,)
        Reference counts.
    probabilities : array of shape (n, K)
        Predicted probabilities. A row of NaN, a signal without an answer, counts as a
        guess: every class equally probable, as in :func:`corrsk.evaluation.evaluate`.
    classes : array of shape (K,), optional
        The count that each column stands for. Default: the distinct values of y, ascending.
    n_bins : int, default=15
    question : {"count", "multicompartment"}, default="count"
        "count" judges the probability of the most probable class (top label) by how
        often it is right; "multicompartment" judges P(n_c >= 2) by how often there is
        more than one compartment.

    Returns
    -------
    float
        ``sum_b n_b / n |observed_b - mean predicted_b|``.

    Raises
    ------
    ValueError
        If the shapes do not belong together, labels are unknown or not counts, the
        probabilities are none, or the question is unknown.

    Notes
    -----
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, Eq. 3, with the
    equal-mass bins of Nixon et al., "Measuring Calibration in Deep Learning", CVPR
    Workshops 2019: bins of equal width would judge most signals in a few of them.
    Signals of one probability are never parted, so that the order of the signals does
    not matter. Chance adds to it: of a perfectly calibrated classifier at
    accuracy a it is about ``sqrt(2 a (1 - a) n_bins / (pi n))``, 0.0015 for 10^6 signals.
    """
    table = reliability_table(y, probabilities, classes, n_bins=n_bins, question=question)
    return _mean_gap(table)


def reliability_table(
    y: ArrayLike,
    probabilities: ArrayLike,
    classes: ArrayLike | None = None,
    *,
    n_bins: int = N_BINS,
    question: str = "count",
) -> pd.DataFrame:
    """Predicted probability and observed frequency, bin by bin.

    Parameters and errors are those of :func:`expected_calibration_error`.

    Returns
    -------
    DataFrame
        For each bin, by rising probability: predicted (the mean probability), observed
        (the frequency), low and high (the 95 % Clopper-Pearson interval of the
        frequency), n_samples. Fewer rows than `n_bins` where many probabilities are equal.
    """
    if question not in QUESTIONS:
        raise ValueError(f"unknown question {question!r}; known: {', '.join(QUESTIONS)}")
    y, rows, classes = checked_predictions(y, probabilities, classes)
    if question == "count":
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
    """Calibration error of both questions at each noise level.

    Parameters
    ----------
    y, probabilities, classes, n_bins
        See :func:`expected_calibration_error`.
    noise_level : array of shape (n,)
        Noise level of each signal.

    Returns
    -------
    DataFrame
        For each noise level (of more than 20 for each fifth of the signals, by its
        median level): calibration_error, binary_calibration_error, confidence (mean
        probability of the answer), accuracy, n_samples.

    Raises
    ------
    ValueError
        As :func:`expected_calibration_error`, or if a noise level is NaN.
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
    """Reference counts, probabilities without NaN, and ascending classes, checked.

    Raises
    ------
    ValueError
        If they do not belong together; see :func:`expected_calibration_error`.
    """
    counts = as_counts(y)
    known = np.unique(counts) if classes is None else as_counts(classes)
    rows = guess_unanswered(probabilities)
    check_consistent_length(counts, rows)
    if not counts.size:
        raise ValueError("there are no signals to judge")
    if rows.ndim != 2 or rows.shape[1] != known.size:
        raise ValueError(
            f"probabilities must have a column for each of the {known.size} classes "
            f"{known.tolist()}, got shape {rows.shape}"
        )
    if np.unique(known).size < known.size:
        raise ValueError(f"classes holds a count twice: {known.tolist()}")
    unknown = np.setdiff1d(counts, known)
    if unknown.size:
        raise ValueError(f"y holds {unknown.tolist()}, which is not among {known.tolist()}")
    if not ((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-4)):
        raise ValueError("probabilities must not be negative or partly NaN, and rows must sum to 1")
    order = np.argsort(known)  # some learners order the classes otherwise
    return counts, rows[:, order], known[order]


def top_label_answers(
    y: NDArray[Any], probabilities: NDArray[np.float64], classes: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether the most probable class is right, and its probability, (n,) each."""
    return classes[probabilities.argmax(axis=1)] == y, probabilities.max(axis=1)


def grouped_noise_levels(noise_level: ArrayLike, n_samples: int) -> NDArray[np.float64]:
    """Noise levels; those drawn from a range as the median of their fifth.

    Raises
    ------
    ValueError
        If there are not n_samples levels, or one is NaN.
    """
    levels = np.asarray(noise_level, dtype=np.float64)
    if levels.shape != (n_samples,) or np.isnan(levels).any():
        raise ValueError(
            f"noise_level must be one number for each of the {n_samples} signals, without NaN"
        )
    if np.unique(levels).size <= _MOST_LEVELS:
        return levels
    column = pd.Series(levels)
    fifths = column.groupby(pd.qcut(column, _BINS_OF_A_RANGE, duplicates="drop"), observed=True)
    return np.asarray(fifths.transform("median"))


def clopper_pearson(
    successes: ArrayLike, trials: ArrayLike, tail: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact bounds of binomial probabilities, either of which fails with probability `tail`.

    Parameters
    ----------
    successes, trials : arrays of shape (k,)
    tail : float
        0.025 for a two-sided 95 % interval.

    Returns
    -------
    low, high : ndarrays of shape (k,)

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
