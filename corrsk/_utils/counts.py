"""Class labels: compartment counts, one compartment against several, voxels without an answer."""

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
    counts = _as_numbers(labels)
    if labels.dtype == bool or not ((counts >= 1) & (counts == np.floor(counts))).all():
        raise ValueError(f"labels must be compartment counts (1, 2, 3, ..), got {_listed(labels)}")
    return counts.astype(np.int64)


def as_evaluated_counts(labels: Any, classes: Any = None) -> NDArray[np.int64]:
    """Convert labels of either task to compartment counts.

    Parameters
    ----------
    labels : array of shape (n_samples,)
        Compartment counts 1, 2, 3, ..; or binary labels, False and True or 0 and 1, of voxels with
        one compartment and with more. Numbers may be strings.
    classes : array of shape (n_classes,), optional
        All labels that occur, which decide whether the labels are binary; by default `labels`.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        The counts; of binary labels 1 and 2, where 2 means two compartments or more.

    Raises
    ------
    ValueError
        If a label is neither a compartment count nor binary, or labels and classes are of different
        kinds.
    """
    labels = np.asarray(labels)
    known = labels if classes is None else np.asarray(classes)
    numbers = _as_numbers(known)
    binary = known.dtype == bool or (np.isin(numbers, (0, 1)).all() and (numbers == 0).any())
    values = _as_numbers(labels)
    if binary and np.isin(values, (0, 1)).all():
        return values.astype(np.int64) + 1
    if not binary and labels.dtype != bool and ((values >= 1) & (values == np.floor(values))).all():
        return values.astype(np.int64)
    raise ValueError(
        "labels must be compartment counts (1, 2, 3, ..) or binary (False and True, or 0 and 1, "
        f"for more than one compartment), got {_listed(labels)}"
        + ("" if classes is None else f" for the classes {_listed(known)}")
        + "; convert other labels first, for example y = labels == 'several'"
    )


def is_multicompartment(labels: Any, classes: Any = None) -> NDArray[np.bool_]:
    """Mask of the labels with two compartments or more; see :func:`as_evaluated_counts`."""
    return as_evaluated_counts(labels, classes) >= 2


def unanswered_label(classes: NDArray[Any]) -> Any:
    """Label of voxels without an answer, which is not among the classes.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Labels of a classifier.

    Returns
    -------
    int, float or str
        0 (no compartment), or one less than the smallest label if 0 is a label; of text "0", or
        the empty text if "0" is a label.
    """
    known = classes.tolist()
    if any(isinstance(label, str) for label in known):
        return "" if "0" in known else "0"
    return min(known) - 1 if 0 in known else 0


def most_probable(probabilities: NDArray[np.float64], classes: NDArray[Any]) -> NDArray[Any]:
    """Most probable class of each voxel.

    Parameters
    ----------
    probabilities : ndarray of shape (.., n_classes)
        Class probabilities; NaN for voxels without an answer.
    classes : ndarray of shape (n_classes,)
        The label of each column.

    Returns
    -------
    ndarray of shape (..,)
        Labels; :func:`unanswered_label` for voxels without an answer.
    """
    unanswered = np.asarray(np.isnan(probabilities).any(axis=-1))
    if not unanswered.any():
        labels: NDArray[Any] = classes[probabilities.argmax(axis=-1)]
        return labels
    best = np.where(unanswered[..., None], 0.0, probabilities).argmax(axis=-1)
    return with_unanswered(classes[best], unanswered, classes)


def with_unanswered(
    labels: NDArray[Any], unanswered: NDArray[np.bool_], classes: NDArray[Any]
) -> NDArray[Any]:
    """Replace the labels of voxels without an answer by :func:`unanswered_label`.

    Parameters
    ----------
    labels : ndarray of shape (..,)
        Labels.
    unanswered : ndarray of bool, shape (..,)
        Mask of the voxels without an answer.
    classes : ndarray of shape (n_classes,)
        All labels of the classifier.

    Returns
    -------
    ndarray of shape (..,)
        Labels; of a signed type if the label of the voxels without an answer is negative.
    """
    missing = unanswered_label(classes)
    if classes.dtype.kind in "bu":
        labels = labels.astype(np.int64)
    filled: NDArray[Any] = np.where(unanswered, missing, labels)
    return filled if classes.dtype.kind in "buUS" else filled.astype(classes.dtype, copy=False)


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
    probabilities : array of shape (.., n_classes)
        Class probabilities.
    classes : array of shape (n_classes,)
        The label of each column: compartment counts, or binary labels (False and True, or 0 and
        1, for more than one compartment).

    Returns
    -------
    ndarray of shape (..,)
        Sum of the columns of the counts >= 2.

    Raises
    ------
    ValueError
        If the classes are neither compartment counts nor binary.
    """
    total = np.asarray(probabilities)[..., is_multicompartment(classes)].sum(axis=-1)
    # a sum of rounded terms can be 1 + 2e-16, which is not a probability
    clipped: NDArray[np.float64] = np.clip(total, 0.0, 1.0)
    return clipped


def _as_numbers(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Labels as numbers; all NaN if one of the labels is no number."""
    try:
        return labels.astype(np.float64)
    except (TypeError, ValueError):
        return np.full(labels.shape, np.nan)


def _listed(labels: NDArray[Any]) -> str:
    return str(np.unique(labels.astype(str)).tolist()[:8])
