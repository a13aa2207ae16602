"""How rare a value is, by the values of a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_LOG = -700.0  # below it exp gives no number


def upper_quantiles(values: NDArray[np.float64], tail: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values that a new one reaches with the given probabilities.

    Parameters
    ----------
    values : array of shape (n,)
    tail : array of shape (q,)
        Falling, not below 1 / (n + 1).

    Returns
    -------
    ndarray of shape (q,)
        Rising.
    """
    ordered = np.sort(values)[::-1]
    # a new value beyond the j-th largest of n is among the first j of n + 1: as likely as
    # j / (n + 1), whatever its distribution
    return np.interp(tail * (ordered.size + 1), np.arange(1, ordered.size + 1), ordered)


def log_tail(
    quantiles: NDArray[np.float64], tail: NDArray[np.float64], values: NDArray[Any]
) -> NDArray[np.float64]:
    """Logarithm of the probability that a new value reaches each of these.

    Beyond the largest quantile the tail is taken for exponential, as steep as over
    its last factor of ten.

    Parameters
    ----------
    quantiles, tail : arrays of shape (q,)
        See :func:`upper_quantiles`.
    values : array of shape (n,)

    Returns
    -------
    ndarray of shape (n,)
        Not below `LEAST_LOG`.
    """
    # of equal quantiles the most probable counts
    quantiles, first = np.unique(quantiles, return_index=True)
    logs = np.log(tail[first])
    inside = np.interp(values, quantiles, logs)
    earlier = quantiles[np.searchsorted(-logs, -logs[-1] - np.log(10))]
    width = max(quantiles[-1] - earlier, 1e-9 * max(1.0, abs(quantiles[-1])))
    beyond = np.maximum(values - quantiles[-1], 0) * (np.log(10) / width)
    return np.maximum(inside - beyond, LEAST_LOG)
