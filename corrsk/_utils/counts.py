"""Compartment counts as class labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_counts(labels: Any) -> NDArray[np.int64]:
    """Labels as compartment counts.

    Parameters
    ----------
    labels : array of shape (n,)
        Compartment counts: 1, 2, 3, .., as numbers or as strings of them.

    Returns
    -------
    ndarray of int, shape (n,)

    Raises
    ------
    ValueError
        If a label is not a count.
    """
    labels = np.asarray(labels)
    try:
        counts = labels.astype(np.float64)
    except (TypeError, ValueError):
        counts = np.full(labels.shape, np.nan)
    if labels.dtype == bool or not ((counts >= 1) & (counts == np.floor(counts))).all():
        raise ValueError(
            "labels must be compartment counts (1, 2, 3, ..), which tell whether there is more "
            f"than one; got {np.unique(labels.astype(str)).tolist()[:8]}"
        )
    return counts.astype(np.int64)


def is_multicompartment(labels: Any) -> NDArray[np.bool_]:
    """Which labels, compartment counts, stand for two compartments or more."""
    return as_counts(labels) >= 2


def guess_unanswered(probabilities: Any) -> NDArray[np.float64]:
    """Class probabilities in which every class is as probable where a row is all NaN.

    A voxel that a method could not solve has no answer; it counts as a guess.

    Parameters
    ----------
    probabilities : array of shape (n, K)

    Returns
    -------
    ndarray of shape (n, K)
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    unanswered = np.isnan(rows).all(axis=-1, keepdims=True)
    guessed: NDArray[np.float64] = np.where(unanswered, 1 / rows.shape[-1], rows)
    return guessed


def multicompartment_probability(
    probabilities: NDArray[np.float64], classes: Any
) -> NDArray[np.float64]:
    """P(n_c >= 2) of class probabilities.

    Parameters
    ----------
    probabilities : array of shape (n, K)
    classes : array of shape (K,)
        The compartment count of each column.

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If the classes are not compartment counts.
    """
    total = probabilities[:, is_multicompartment(classes)].sum(axis=1)
    # a sum of rounded terms may come out at 1 + 2e-16, which is no probability
    clipped: NDArray[np.float64] = np.clip(total, 0.0, 1.0)
    return clipped
