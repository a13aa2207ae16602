"""Compartment counts as class labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_counts(labels: Any) -> NDArray[np.int64]:
    """Convert labels to compartment counts.

    Parameters
    ----------
    labels : array of shape (n_samples,)
        Compartment counts 1, 2, 3, .., as numbers or as strings.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        The counts.

    Raises
    ------
    ValueError
        If a label is not a compartment count.
    """
    labels = np.asarray(labels)
    try:
        counts = labels.astype(np.float64)
    except (TypeError, ValueError):
        counts = np.full(labels.shape, np.nan)
    if labels.dtype == bool or not ((counts >= 1) & (counts == np.floor(counts))).all():
        raise ValueError(
            "labels must be compartment counts (1, 2, 3, ..), got "
            f"{np.unique(labels.astype(str)).tolist()[:8]}"
        )
    return counts.astype(np.int64)


def is_multicompartment(labels: Any) -> NDArray[np.bool_]:
    """Mask of the labels (compartment counts) with two compartments or more."""
    return as_counts(labels) >= 2


def tasks_coincide(classes: Any) -> bool:
    """Whether the classes are 1 and another count, so that both classification tasks are one."""
    return len(classes) == 2 and is_multicompartment(classes).sum() == 1


def guess_unanswered(probabilities: Any) -> NDArray[np.float64]:
    """Replace rows of NaN by equal class probabilities.

    A voxel without a solution then counts as a guess.

    Parameters
    ----------
    probabilities : array of shape (n_samples, n_classes)
        Class probabilities.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Class probabilities without rows of NaN.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    unanswered = np.isnan(rows).all(axis=-1, keepdims=True)
    guessed: NDArray[np.float64] = np.where(unanswered, 1 / rows.shape[-1], rows)
    return guessed


def multicompartment_probability(
    probabilities: NDArray[np.float64], classes: Any
) -> NDArray[np.float64]:
    """Probability of two compartments or more, P(n_c >= 2).

    Parameters
    ----------
    probabilities : array of shape (n_samples, n_classes)
        Class probabilities.
    classes : array of shape (n_classes,)
        The compartment count of each column.

    Returns
    -------
    ndarray of shape (n_samples,)
        Sum of the columns of the counts >= 2.

    Raises
    ------
    ValueError
        If the classes are not compartment counts.
    """
    total = probabilities[:, is_multicompartment(classes)].sum(axis=1)
    # a sum of rounded terms can be 1 + 2e-16, which is not a probability
    clipped: NDArray[np.float64] = np.clip(total, 0.0, 1.0)
    return clipped
