"""Compartment counts as class labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_multicompartment(labels: Any) -> NDArray[np.bool_]:
    """Which labels stand for two compartments or more.

    Parameters
    ----------
    labels : array of shape (n,)
        Compartment counts: 1, 2, 3, .., as numbers or as strings of them.

    Returns
    -------
    ndarray of bool, shape (n,)

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
    if not ((counts >= 1) & (counts == np.floor(counts))).all():
        raise ValueError(
            "the question whether there is more than one compartment needs labels that are "
            f"counts (1, 2, 3, ..); got the labels {np.unique(labels).tolist()}"
        )
    return counts >= 2
