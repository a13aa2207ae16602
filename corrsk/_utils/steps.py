"""Parts of composite estimators: simulating steps, the classifier, the layout of the signals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def simulates_signals(estimator: Any) -> bool:
    """Return whether an estimator, or a part of a composite estimator, simulates its signals.

    The input of such an estimator is a tissue table, in which NaN marks absent compartments.

    Parameters
    ----------
    estimator : estimator
        An estimator, such as a Pipeline or a search of a Pipeline.

    Returns
    -------
    bool
        True if a :class:`corrsk.CorrelationSignalGenerator` is among the parts.
    """
    parts = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    # a mark, because evaluation and preprocessing do not import the simulation
    return any(getattr(part, "_simulates_signals", False) is True for part in (estimator, *parts))


def without_codes(estimator: Any, labels: Any) -> NDArray[np.generic]:
    """Replace codes that a classifier was fitted to by the compartment counts that they denote.

    Parameters
    ----------
    estimator : classifier
        Fitted classifier, or a Pipeline or search of one.
    labels : array of shape (n_samples,)
        Labels; the counts themselves if the classifier was fitted to counts.

    Returns
    -------
    ndarray of shape (n_samples,)
        The counts if the classifier has `counts_`, its classes are codes 0, 1, .., and all labels
        are among them; otherwise `labels`.
    """
    labels = np.asarray(labels)
    classifier = estimator
    while not hasattr(classifier, "counts_"):
        if hasattr(classifier, "best_estimator_"):
            classifier = classifier.best_estimator_
        elif hasattr(classifier, "steps"):
            classifier = classifier.steps[-1][1]
        else:
            return labels
    codes, counts = np.asarray(classifier.classes_), np.asarray(classifier.counts_)
    # counts are never 0, and complete codes always have 0
    if codes.dtype.kind not in "iu" or codes.min() != 0 or not np.isin(labels, codes).all():
        return labels
    found: NDArray[np.generic] = counts[np.searchsorted(codes, labels)]
    return found
