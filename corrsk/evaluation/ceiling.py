"""How good any classifier could be: what the ideal observer's answers say of a data set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from scipy.stats import norm

from corrsk._utils.counts import is_multicompartment
from corrsk._utils.files import read_json
from corrsk.evaluation.intervals import bootstrap_interval

Array = NDArray[np.float64]

QUESTIONS = ("count", "multicompartment")
ALL = "all"
_FILE = Path(__file__).with_name("ceilings.json")  # of the named data sets
_MAX_SPLITS = 70  # of the runs into halves; of eight runs there are 35


def accuracy_ceiling(
    run_log_evidence: ArrayLike,
    classes: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> pd.DataFrame:
    """The highest accuracy that any classifier can have on signals like these.

    Parameters
    ----------
    run_log_evidence : array of shape (n_runs, n, K)
        Log evidence of each count for n signals, from independent runs: that of
        :class:`corrsk.relaxometry.CountPosterior`.
    classes : array of shape (K,)
        The count of each column.
    y : array of shape (n,)
        The true counts.
    groups : array of shape (n,), optional
        Such as noise levels; each distinct value gets rows of its own beside
        those of all signals.
    level : float, default=0.95
        Confidence level.

    Returns
    -------
    DataFrame
        Rows (group, question): "all" and each group; "count" (which n_c) and
        "multicompartment" (whether n_c >= 2). Columns n, and for each of the
        three estimates its value and interval (``_low``, ``_high``):

        - upper: the mean probability of the most probable answer. Monte-Carlo
          errors make the largest of several probabilities too large, so that
          this one is biased upwards;
        - cross_fitted: the answer is chosen from half of the runs and its
          probability comes from the other half, averaged over the ways to
          halve them. What was chosen is now and then not the best, so that this
          one is biased downwards;
        - corrected: twice `upper` less its mean over halves of the runs, which
          removes the bias that falls with the number of runs (Richardson's
          extrapolation, as in the jackknife); the best single figure;
        - hits: how often the most probable answer is right.

    Raises
    ------
    ValueError
        If the shapes disagree, there is a single run, or a signal has no
        answer (NaN).

    Notes
    -----
    ``E max_k P(k | x)`` is the accuracy of Bayes' rule. Intervals are for the
    choice of signals: normal for the first two, the bootstrap for the hits. The
    first two vary less than the hits, since they do not depend on which count
    was drawn for a signal.
    """
    evidence, counts, several = _checked(run_log_evidence, classes)
    truth = np.asarray(y)
    if truth.shape != evidence.shape[1:2]:
        raise ValueError(
            f"y must have one count for each of {evidence.shape[1]} signals, got {truth.shape}"
        )
    upper, fitted, corrected, hits = {}, {}, {}, {}
    for question in QUESTIONS:
        pooled = _answers(evidence, several, question)
        upper[question] = pooled.max(axis=1)
        fitted[question] = np.mean(
            [
                second[np.arange(len(second)), first.argmax(axis=1)]
                for first, second in _halves(evidence, several, question)
            ],
            axis=0,
        )
        by_half = [half.max(axis=1) for half, _ in _halves(evidence, several, question)]
        corrected[question] = 2 * upper[question] - np.mean(by_half, axis=0)
        right = pooled.argmax(axis=1)
        hits[question] = (
            counts[right] == truth
            if question == "count"
            else (right == 1) == is_multicompartment(truth)
        )
    rows = []
    for group, member in _members(groups, len(truth)):
        for question in QUESTIONS:
            row = {"group": group, "question": question, "n": int(member.sum())}
            row |= _mean("upper", upper[question][member], level)
            row |= _mean("cross_fitted", fitted[question][member], level)
            row |= _mean("corrected", corrected[question][member], level)
            right = hits[question][member]
            low, high = bootstrap_interval([right], level=level)
            row |= {"hits": float(right.mean()), "hits_low": low, "hits_high": high}
            rows.append(row)
    return pd.DataFrame(rows).set_index(["group", "question"])


def regret(
    run_log_evidence: ArrayLike,
    classes: ArrayLike,
    answers: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    question: str = "count",
    level: float = 0.95,
) -> pd.DataFrame:
    """How much accuracy a classifier leaves, signal by signal.

    Parameters
    ----------
    run_log_evidence, classes, groups, level
        See :func:`accuracy_ceiling`.
    answers : array of shape (n,)
        The classifier's answers to the same signals: counts, or for the
        question "multicompartment" booleans, True for n_c >= 2.
    question : {"count", "multicompartment"}

    Returns
    -------
    DataFrame
        Rows by group, "all" first. Columns n, and with intervals ``upper`` (the
        mean of ``max_k p_k - p_answer``, biased upwards) and ``cross_fitted``
        (the same with the best answer chosen from other runs than those that
        judge, biased downwards), and ``corrected``, as for
        :func:`accuracy_ceiling`.

    Raises
    ------
    ValueError
        As :func:`accuracy_ceiling`, and if an answer is none of the classes.

    Notes
    -----
    The mean is the difference of the ceiling and the classifier's accuracy,
    but varies far less than the difference of two counts of hits: it does not
    depend on which count was drawn for a signal.
    """
    evidence, counts, several = _checked(run_log_evidence, classes)
    if question not in QUESTIONS:
        raise ValueError(f"question must be one of {QUESTIONS}, got {question!r}")
    given = np.asarray(answers)
    if given.shape != evidence.shape[1:2]:
        raise ValueError(
            f"there must be one answer to each of {evidence.shape[1]} signals, got {given.shape}"
        )
    if question == "count":
        chosen = (given[:, None] == counts).argmax(axis=1)
        if not (counts[chosen] == given).all():
            raise ValueError(f"answers must be among the classes {counts.tolist()}")
    else:
        if given.dtype != bool:
            raise ValueError(
                f"answers to the question whether n_c >= 2 must be booleans, got {given.dtype}"
            )
        chosen = given.astype(np.intp)
    rows_of = np.arange(len(given))
    pooled = _answers(evidence, several, question)
    upper = pooled.max(axis=1) - pooled[rows_of, chosen]
    fitted = np.mean(
        [
            second[rows_of, first.argmax(axis=1)] - second[rows_of, chosen]
            for first, second in _halves(evidence, several, question)
        ],
        axis=0,
    )
    by_half = [
        half.max(axis=1) - half[rows_of, chosen] for half, _ in _halves(evidence, several, question)
    ]
    corrected = 2 * upper - np.mean(by_half, axis=0)
    rows = []
    for group, member in _members(groups, len(given)):
        row = {"group": group, "n": int(member.sum())}
        row |= _mean("upper", upper[member], level)
        row |= _mean("cross_fitted", fitted[member], level)
        row |= _mean("corrected", corrected[member], level)
        rows.append(row)
    return pd.DataFrame(rows).set_index("group")


def known_ceiling(dataset: str) -> pd.DataFrame | None:
    """The highest accuracy that any classifier can have on a named data set.

    Parameters
    ----------
    dataset : str
        Name of the data set.

    Returns
    -------
    DataFrame or None
        None if nobody has measured it. Else the first row is of all signals
        (noise_level NaN), the others are of noise levels. Columns noise_level,
        n_signals, accuracy and binary_accuracy, and for each of these `_low` and
        `_high`: estimates that are biased downwards and upwards, between which the
        ceiling lies but for the choice of signals, and `_error`, the standard error
        that this choice leaves.

    Notes
    -----
    Written by ``python benchmarks/ceiling.py``, from answers of
    :class:`corrsk.relaxometry.IdealObserverClassifier`; see
    :func:`accuracy_ceiling`.
    """
    rows = read_json(_FILE).get(dataset)
    if rows is None:
        return None
    table = pd.DataFrame(rows)
    table["noise_level"] = table["noise_level"].astype(np.float64)
    return table


def _checked(
    run_log_evidence: ArrayLike, classes: ArrayLike
) -> tuple[Array, NDArray[np.generic], NDArray[np.bool_]]:
    evidence = np.asarray(run_log_evidence, dtype=np.float64)
    counts = np.asarray(classes)
    if evidence.ndim != 3 or evidence.shape[1] == 0 or evidence.shape[2:] != counts.shape:
        raise ValueError(
            "run_log_evidence must have the shape (n_runs, n, K) for K classes and at least one "
            f"signal; got {evidence.shape} for {counts.size} classes"
        )
    if len(evidence) < 2:
        raise ValueError("two runs at least are needed to judge the answers of one by the other")
    without = int(np.isnan(evidence).any(axis=(0, 2)).sum())
    if without:
        raise ValueError(f"{without} signals have no answer (NaN); leave them out")
    return evidence, counts, is_multicompartment(counts)


def _answers(evidence: Array, several: NDArray[np.bool_], question: str) -> Array:
    """Probabilities of the possible answers by runs (r, n, K): (n, K), or (n, 2)."""
    pooled = logsumexp(evidence, axis=0)
    p = np.exp(pooled - logsumexp(pooled, axis=1, keepdims=True))
    if question == "count":
        return np.asarray(p)
    return np.column_stack([p[:, ~several].sum(axis=1), p[:, several].sum(axis=1)])


def _halves(
    evidence: Array, several: NDArray[np.bool_], question: str
) -> Iterator[tuple[Array, Array]]:
    """Probabilities by half of the runs and by the others, for each way to halve them."""
    runs = range(len(evidence))
    ways = itertools.combinations(runs, len(evidence) // 2)
    for some in itertools.islice(ways, _MAX_SPLITS):
        others = [run for run in runs if run not in some]
        yield (
            _answers(evidence[list(some)], several, question),
            _answers(evidence[others], several, question),
        )


def _members(groups: ArrayLike | None, n: int) -> Iterator[tuple[object, NDArray[np.bool_]]]:
    yield ALL, np.ones(n, dtype=bool)
    if groups is None:
        return
    of = np.asarray(groups)
    if of.shape != (n,):
        raise ValueError(f"groups must have one value for each of {n} signals, got {of.shape}")
    for value in np.unique(of):
        yield value.item() if isinstance(value, np.generic) else value, of == value


def _mean(name: str, values: Array, level: float) -> dict[str, float]:
    """Mean and normal interval; none of a single value."""
    mean = float(values.mean())
    error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")
    half = float(norm.ppf(0.5 + level / 2)) * error
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
