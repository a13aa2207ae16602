"""Tail probabilities of values, from the quantiles of a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_LOG = -700.0  # exp underflows below


def upper_quantiles(values: NDArray[np.float64], tail: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values that a new value reaches with the given probabilities.

    Parameters
    ----------
    values : array of shape (n_samples,)
        Sample.
    tail : array of shape (q,)
        Probabilities, descending, not below 1 / (n_samples + 1).

    Returns
    -------
    ndarray of shape (q,)
        Quantiles, ascending.
    """
    ordered = np.sort(values)[::-1]
    # a new value exceeds the j-th largest of n with probability j / (n + 1), for any
    # distribution
    return np.interp(tail * (ordered.size + 1), np.arange(1, ordered.size + 1), ordered)


def log_tail(
    quantiles: NDArray[np.float64], tail: NDArray[np.float64], values: NDArray[Any]
) -> NDArray[np.float64]:
    """Logarithm of the probability that a new value reaches each of the given values.

    The tail is extrapolated exponentially beyond the largest quantile, with the slope of its last
    factor of ten.

    Parameters
    ----------
    quantiles : array of shape (q,)
        Result of :func:`upper_quantiles`.
    tail : array of shape (q,)
        Probabilities of the quantiles, descending.
    values : array of shape (n_samples,)
        Values.

    Returns
    -------
    ndarray of shape (n_samples,)
        Logarithms, not below `LEAST_LOG`.
    """
    # of equal quantiles, the most probable one is used
    quantiles, first = np.unique(quantiles, return_index=True)
    logs = np.log(tail[first])
    inside = np.interp(values, quantiles, logs)
    earlier = quantiles[np.searchsorted(-logs, -logs[-1] - np.log(10))]
    width = max(quantiles[-1] - earlier, 1e-9 * max(1.0, abs(quantiles[-1])))
    beyond = np.maximum(values - quantiles[-1], 0) * (np.log(10) / width)
    return np.maximum(inside - beyond, LEAST_LOG)
