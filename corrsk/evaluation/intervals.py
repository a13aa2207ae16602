"""Confidence intervals of accuracies, and tests of the difference of two classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from corrsk._utils.rng import RandomStateLike, entropy, keyed_generator


def bootstrap_interval(
    correct: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    n_resamples: int = 10_000,
    random_state: RandomStateLike = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of an accuracy.

    Parameters
    ----------
    correct : sequence of arrays of bool, each of shape (n_samples,)
        Whether each prediction is right, for each test set (one per seed). The accuracy is the
        mean of the accuracies of the test sets; each test set is resampled separately.
    level : float, default=0.95
        Confidence level.
    n_resamples : int, default=10_000
        Number of bootstrap samples.
    random_state : int, RandomState, Generator or None, default=0
        Seed of the resampling.

    Returns
    -------
    low : float
        Lower bound of the accuracy.
    high : float
        Upper bound of the accuracy.

    Raises
    ------
    ValueError
        If there is no test set, or an empty one.

    Notes
    -----
    Efron, Ann. Statist. 7, 1 (1979). Resampling n predictions, a share p of them right, with
    replacement gives a binomial number of right ones; this number is drawn directly. The
    interval covers the choice of the test signals, not the scatter between trainings.
    """
    sets = [np.asarray(each, dtype=bool) for each in correct]
    if not sets or not all(each.size for each in sets):
        raise ValueError("an accuracy needs at least one test set, and no empty one")
    rng = keyed_generator(entropy(random_state))
    accuracies = np.mean(
        [rng.binomial(each.size, each.mean(), n_resamples) / each.size for each in sets], axis=0
    )
    low, high = np.quantile(accuracies, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_difference(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    level: float = 0.95,
    n_resamples: int = 10_000,
    random_state: RandomStateLike = 0,
) -> tuple[float, float, float]:
    """Difference of two accuracies on the same signals, with its percentile bootstrap interval.

    Parameters
    ----------
    pairs : sequence of (first, second), arrays of bool of shape (n_samples,)
        Whether each classifier is right on each signal, for each test set. Signals are resampled
        together with both predictions.
    level : float, default=0.95
        Confidence level.
    n_resamples : int, default=10_000
        Number of bootstrap samples.
    random_state : int, RandomState, Generator or None, default=0
        Seed of the resampling.

    Returns
    -------
    difference : float
        Accuracy of the first classifier minus that of the second.
    low : float
        Lower bound of the difference.
    high : float
        Upper bound of the difference.

    Raises
    ------
    ValueError
        If there is no test set, an empty one, or two arrays differ in shape.
    """
    if not pairs:
        raise ValueError("a difference needs at least one test set")
    rng = keyed_generator(entropy(random_state))
    differences, resampled = [], []
    for first, second in pairs:
        a, b = _paired(first, second)
        if not a.size:
            raise ValueError("a difference needs test sets that are not empty")
        shares = np.array([_count(a & ~b), _count(b & ~a), _count(a == b)]) / a.size
        drawn = rng.multinomial(a.size, shares, n_resamples) / a.size
        differences.append(shares[0] - shares[1])
        resampled.append(drawn[:, 0] - drawn[:, 1])
    low, high = np.quantile(np.mean(resampled, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(np.mean(differences)), float(low), float(high)


@dataclass(frozen=True)
class McNemarResult:
    """Result of McNemar's test.

    Parameters
    ----------
    only_first : int
        Number of signals on which only the first classifier is right.
    only_second : int
        Number of signals on which only the second classifier is right.
    p_value : float
        Two-sided p-value: the probability of two numbers at least as unequal if both classifiers
        are equally accurate.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar_test(first: ArrayLike, second: ArrayLike) -> McNemarResult:
    """Test whether two classifiers differ in accuracy on the same signals.

    Parameters
    ----------
    first : array of bool, shape (n_samples,)
        Whether the first classifier is right on each signal.
    second : array of bool, shape (n_samples,)
        Whether the second classifier is right on each signal.

    Returns
    -------
    McNemarResult
        Numbers of discordant signals and the p-value.

    Raises
    ------
    ValueError
        If the arrays differ in shape.

    Notes
    -----
    McNemar, Psychometrika 12, 153 (1947), in its exact form: if both classifiers are equally
    accurate, each is right on half of the discordant signals on average.
    """
    a, b = _paired(first, second)
    only_first, only_second = _count(a & ~b), _count(b & ~a)
    discordant = only_first + only_second
    p = binomtest(only_first, discordant).pvalue if discordant else 1.0
    return McNemarResult(only_first, only_second, float(p))


def _paired(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            "a paired comparison needs two arrays of the same shape (n_samples,), got "
            f"{a.shape} and {b.shape}"
        )
    return a, b


def _count(mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))
