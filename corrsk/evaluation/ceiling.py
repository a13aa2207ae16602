"""Highest accuracy that any classifier can have, estimated with the ideal observer."""

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
from corrsk._utils.deprecation import renamed_parameters
from corrsk._utils.files import read_json
from corrsk.evaluation.intervals import bootstrap_interval
from corrsk.evaluation.tasks import Task

Array = NDArray[np.float64]

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
    """Highest accuracy that any classifier can have on signals of the same distribution.

    Parameters
    ----------
    run_log_evidence : array of shape (n_runs, n_samples, n_classes)
        Log evidence of each count for each signal, from independent runs: the attribute of
        :class:`corrsk.relaxometry.CountPosterior`.
    classes : array of shape (n_classes,)
        The count of each column.
    y : array of shape (n_samples,)
        The true counts.
    groups : array of shape (n_samples,), optional
        Group of each signal, such as its noise level; each group gets rows beside those of all
        signals.
    level : float, default=0.95
        Confidence level.

    Returns
    -------
    DataFrame
        Rows (group, task): "all" and each group; "count" (n_c) and "multicompartment"
        (n_c >= 2). Columns n (number of signals), and the value and the interval (``_low``,
        ``_high``) of each estimate:

        - upper: the mean probability of the most probable class. Monte Carlo errors increase
          the largest of several probabilities, so that this estimate is biased upwards;
        - cross_fitted: the class is chosen from half of the runs, its probability is taken from
          the other half, and the result is averaged over the ways to halve the runs. The chosen
          class is sometimes not the best, so that this estimate is biased downwards;
        - corrected: twice `upper` minus its mean over halves of the runs, which removes the bias
          of first order in 1 / n_runs (Richardson extrapolation, as in the jackknife); the best
          single estimate;
        - hits: the accuracy of the most probable class.

    Raises
    ------
    ValueError
        If shapes are inconsistent, there is a single run, or a signal has NaN evidence.

    Notes
    -----
    ``E max_k P(k | x)`` is the accuracy of Bayes' rule. Intervals cover the choice of signals:
    bootstrap intervals for the hits, normal ones for the others. The hits vary most, because
    only they depend on the count that was drawn for each signal.
    """
    evidence, counts, several = _checked(run_log_evidence, classes)
    truth = np.asarray(y)
    if truth.shape != evidence.shape[1:2]:
        raise ValueError(
            f"y must have the shape ({evidence.shape[1]},), one count per signal, got {truth.shape}"
        )
    upper, fitted, corrected, hits = {}, {}, {}, {}
    for task in Task:
        pooled = _answers(evidence, several, task)
        upper[task] = pooled.max(axis=1)
        fitted[task] = np.mean(
            [
                second[np.arange(len(second)), first.argmax(axis=1)]
                for first, second in _halves(evidence, several, task)
            ],
            axis=0,
        )
        by_half = [half.max(axis=1) for half, _ in _halves(evidence, several, task)]
        corrected[task] = 2 * upper[task] - np.mean(by_half, axis=0)
        right = pooled.argmax(axis=1)
        hits[task] = (
            counts[right] == truth
            if task is Task.COUNT
            else (right == 1) == is_multicompartment(truth)
        )
    rows = []
    for group, member in _members(groups, len(truth)):
        for task in Task:
            row = {"group": group, "task": str(task), "n": int(member.sum())}
            row |= _mean("upper", upper[task][member], level)
            row |= _mean("cross_fitted", fitted[task][member], level)
            row |= _mean("corrected", corrected[task][member], level)
            right = hits[task][member]
            low, high = bootstrap_interval([right], level=level)
            row |= {"hits": float(right.mean()), "hits_low": low, "hits_high": high}
            rows.append(row)
    return pd.DataFrame(rows).set_index(["group", "task"])


@renamed_parameters(question="task")
def regret(
    run_log_evidence: ArrayLike,
    classes: ArrayLike,
    answers: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    task: str = Task.COUNT,
    level: float = 0.95,
) -> pd.DataFrame:
    """Accuracy that a classifier loses against the ideal observer on the same signals.

    Parameters
    ----------
    run_log_evidence : array of shape (n_runs, n_samples, n_classes)
        Log evidence of each count for each signal; see :func:`accuracy_ceiling`.
    classes : array of shape (n_classes,)
        The count of each column.
    answers : array of shape (n_samples,)
        Predictions of the classifier for the same signals: counts, or booleans (True for
        n_c >= 2) for the task "multicompartment".
    groups : array of shape (n_samples,), optional
        Group of each signal, such as its noise level.
    task : {"count", "multicompartment"}, default="count"
        Kind of the predictions.
    level : float, default=0.95
        Confidence level.

    Returns
    -------
    DataFrame
        One row per group, "all" first. Columns n (number of signals), and with intervals
        ``upper`` (the mean of ``max_k p_k - p_answer``, biased upwards), ``cross_fitted`` (the
        same with the best class chosen from one half of the runs and compared by the other half,
        biased downwards), and ``corrected``, as in :func:`accuracy_ceiling`.

    Raises
    ------
    ValueError
        For the same reasons as in :func:`accuracy_ceiling`, or if a prediction is not among the
        classes.

    Notes
    -----
    The mean equals the ceiling minus the classifier's accuracy, but varies much less than a
    difference of two hit rates, because it does not depend on the count that was drawn for each
    signal.
    """
    evidence, counts, several = _checked(run_log_evidence, classes)
    task = Task.from_name(task)
    given = np.asarray(answers)
    if given.shape != evidence.shape[1:2]:
        raise ValueError(
            f"answers must have the shape ({evidence.shape[1]},), one per signal, got {given.shape}"
        )
    if task is Task.COUNT:
        chosen = (given[:, None] == counts).argmax(axis=1)
        if not (counts[chosen] == given).all():
            raise ValueError(f"answers must be among the classes {counts.tolist()}")
    else:
        if given.dtype != bool:
            raise ValueError(
                f"answers must be booleans for task='multicompartment', got {given.dtype}"
            )
        chosen = given.astype(np.intp)
    rows_of = np.arange(len(given))
    pooled = _answers(evidence, several, task)
    upper = pooled.max(axis=1) - pooled[rows_of, chosen]
    fitted = np.mean(
        [
            second[rows_of, first.argmax(axis=1)] - second[rows_of, chosen]
            for first, second in _halves(evidence, several, task)
        ],
        axis=0,
    )
    by_half = [
        half.max(axis=1) - half[rows_of, chosen] for half, _ in _halves(evidence, several, task)
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
    """Precomputed accuracy ceiling of a named data set.

    Parameters
    ----------
    dataset : str
        Name of the data set.

    Returns
    -------
    DataFrame or None
        None if no ceiling is stored for the data set. Otherwise the first row is for all signals
        (noise_level NaN), the others are for one noise level each. Columns noise_level,
        n_signals, accuracy and binary_accuracy, and for each accuracy `_low` and `_high`
        (estimates biased downwards and upwards, which bracket the ceiling up to sampling errors)
        and `_error` (the standard error due to the choice of signals).

    Notes
    -----
    Written by ``python benchmarks/ceiling.py``, from predictions of
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
            "run_log_evidence must have the shape (n_runs, n_samples, n_classes) with at least "
            f"one signal; got {evidence.shape} for {counts.size} classes"
        )
    if len(evidence) < 2:
        raise ValueError(f"run_log_evidence must have at least two runs, got {len(evidence)}")
    without = int(np.isnan(evidence).any(axis=(0, 2)).sum())
    if without:
        raise ValueError(f"run_log_evidence is NaN for {without} signals; remove these signals")
    return evidence, counts, is_multicompartment(counts)


@np.errstate(under="ignore")  # probabilities vanish where the evidence is small
def _answers(evidence: Array, several: NDArray[np.bool_], task: Task) -> Array:
    """Probabilities pooled over the runs, (n_samples, n_classes) or (n_samples, 2)."""
    pooled = logsumexp(evidence, axis=0)
    p = np.exp(pooled - logsumexp(pooled, axis=1, keepdims=True))
    if task is Task.COUNT:
        return np.asarray(p)
    return np.column_stack([p[:, ~several].sum(axis=1), p[:, several].sum(axis=1)])


def _halves(
    evidence: Array, several: NDArray[np.bool_], task: Task
) -> Iterator[tuple[Array, Array]]:
    """Probabilities from one half of the runs and from the other, for each way to halve them."""
    runs = range(len(evidence))
    ways = itertools.combinations(runs, len(evidence) // 2)
    for some in itertools.islice(ways, _MAX_SPLITS):
        others = [run for run in runs if run not in some]
        yield (
            _answers(evidence[list(some)], several, task),
            _answers(evidence[others], several, task),
        )


def _members(groups: ArrayLike | None, n: int) -> Iterator[tuple[object, NDArray[np.bool_]]]:
    yield ALL, np.ones(n, dtype=bool)
    if groups is None:
        return
    of = np.asarray(groups)
    if of.shape != (n,):
        raise ValueError(f"groups must have the shape ({n},), one per signal, got {of.shape}")
    for value in np.unique(of):
        yield value.item() if isinstance(value, np.generic) else value, of == value


def _mean(name: str, values: Array, level: float) -> dict[str, float]:
    """Mean and normal interval (NaN for a single value)."""
    mean = float(values.mean())
    error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")
    half = float(norm.ppf(0.5 + level / 2)) * error
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
