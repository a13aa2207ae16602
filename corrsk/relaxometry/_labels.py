"""Classes of the model-based classifiers, from the parameter `counts`, from labels, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.counts import as_counts
from corrsk._utils.validation import checked_count


def checked_counts(counts: Sequence[int]) -> NDArray[np.int64]:
    """Validate the parameter `counts`.

    Parameters
    ----------
    counts : sequence of int
        Possible compartment counts, in any order.

    Returns
    -------
    ndarray of int, shape (n_classes,)
        The counts in ascending order.

    Raises
    ------
    TypeError
        If a count is not an integer.
    ValueError
        If there is no count, a count is smaller than 1, or a count occurs twice.
    """
    values = np.asarray(counts)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"counts must be compartment counts such as (1, 2, 3), got {counts!r}")
    for value in values.tolist():
        checked_count("each of counts", value, at_least=1)
    if np.unique(values).size != values.size:
        raise ValueError(f"each of counts must occur once, got {counts!r}")
    return np.sort(values).astype(np.int64)


def classes_of_counts(
    counts: NDArray[np.int64], labels: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Classes of a classifier whose counts are given, and the count of each class.

    Meta-estimators (`VotingClassifier`, `StackingClassifier`, `BaggingClassifier`) replace labels
    by the codes 0..n_classes - 1, in ascending order of the labels. Only the complete set of codes
    is accepted: each code then has one count. The codes of other labels, such as 2 and 3 of the
    counts 1, 2, 3, would be those of other counts. Counts are never 0 and complete codes always
    have 0, so that the two cannot be confused.

    Parameters
    ----------
    counts : ndarray of int, shape (n_classes,)
        Possible compartment counts in ascending order.
    labels : ndarray of shape (n_samples,) or None
        Labels of the signals; None without labels.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The counts, of the type of the labels, sorted as labels are; or the codes.
    counts : ndarray of int, shape (n_classes,)
        The count of each class.

    Raises
    ------
    ValueError
        If a label is not one of the counts, and the labels are not the codes of all counts.
    """
    if labels is None:
        return counts, counts
    found = np.unique(labels)
    if found.dtype.kind in "iu" and np.array_equal(found, np.arange(counts.size)):
        return found, counts
    if 0 in found.tolist() or not np.isin(as_counts(found), counts).all():
        raise ValueError(
            f"y has the labels {', '.join(map(str, found.tolist()[:8]))}; with counts="
            f"{tuple(counts.tolist())} the labels must be among these counts, or the complete "
            f"codes 0..{counts.size - 1} that meta-estimators assign to them"
        )
    if found.dtype.kind in "iuf":
        return counts.astype(found.dtype), counts
    written = dict(zip(as_counts(found).tolist(), found.tolist(), strict=True))
    names = [written.get(count, str(count)) for count in counts.tolist()]
    classes = np.array(names, dtype=object if found.dtype == object else None)
    order = np.argsort(classes)  # "10" < "2", as in the classes of every other classifier
    return classes[order], counts[order]
