"""Probabilities for tissue in which the counts are not as frequent as in the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

ClassPrior = Mapping[Any, float] | ArrayLike


def checked_class_prior(class_prior: ClassPrior, classes: ArrayLike) -> NDArray[np.float64]:
    """Frequencies of the classes, in their order, with sum 1.

    Parameters
    ----------
    class_prior : mapping or Series of class to weight, or array of shape (K,)
        How frequent each class is, up to a common factor; an array in the order of
        the classes. A class that does not occur has weight 0.
    classes : array of shape (K,)

    Returns
    -------
    ndarray of shape (K,)

    Raises
    ------
    ValueError
        If a class is unknown or missing, the number of weights is not that of the
        classes, or the weights are negative, not finite or all zero.
    """
    labels = np.asarray(classes).tolist()
    if isinstance(class_prior, pd.Series):  # by its labels: value_counts is in another order
        class_prior = class_prior.to_dict()
    if isinstance(class_prior, Mapping):
        given = {_plain(label): weight for label, weight in class_prior.items()}
        unknown = [label for label in given if label not in labels]
        missing = [label for label in labels if label not in given]
        if unknown:
            raise ValueError(f"class_prior names {unknown}, which are not among {labels}")
        if missing:
            raise ValueError(
                f"class_prior lacks {missing}; a class that does not occur has weight 0"
            )
        class_prior = [given[label] for label in labels]
    try:
        weights = np.asarray(class_prior, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"class_prior must hold numbers, got {class_prior!r}") from None
    if weights.shape != (len(labels),):
        raise ValueError(
            f"class_prior must have a weight for each of the {len(labels)} classes {labels}, got "
            f"shape {weights.shape}"
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            "the weights of class_prior must be finite and not negative, and one of them "
            f"positive; got {weights.tolist()}"
        )
    scaled = weights / weights.max()  # the sum of huge weights would be infinite
    frequencies: NDArray[np.float64] = scaled / scaled.sum()
    return frequencies


def reweighted(
    probabilities: ArrayLike,
    classes: ArrayLike,
    class_prior: ClassPrior,
    trained_prior: ClassPrior,
) -> NDArray[np.float64]:
    """Class probabilities as if the classes were as frequent as `class_prior` says.

    Parameters
    ----------
    probabilities : array of shape (n, K)
        Predicted under `trained_prior`; rows of NaN stay NaN.
    classes : array of shape (K,)
    class_prior : mapping of class to weight, or array of shape (K,)
        See :func:`checked_class_prior`.
    trained_prior : mapping of class to weight, or array of shape (K,)
        Frequencies in the training data, all positive.

    Returns
    -------
    ndarray of shape (n, K)
        Rows sum to 1. A row that puts everything on classes which `class_prior`
        excludes holds no evidence among the others, and becomes `class_prior` itself.

    Raises
    ------
    ValueError
        If the shapes do not belong together, a prior is none, or a class was never trained on.

    Notes
    -----
    ``p'_k = p_k (c_k / t_k) / sum_j p_j (c_j / t_j)`` with the frequencies c of
    `class_prior` and t of `trained_prior`: Saerens, Latinne and Decaestecker,
    "Adjusting the outputs of a classifier to new a priori probabilities", Neural
    Computation 14, 21 (2002), Eq. 2.4. It holds where tissue of one count looks as in
    the training, and only the counts differ in frequency.
    """
    wanted = checked_class_prior(class_prior, classes)
    trained = checked_class_prior(trained_prior, classes)
    if not trained.all():
        raise ValueError("a class of weight 0 in the training has no probability to re-weight")
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != wanted.size:
        raise ValueError(
            f"probabilities must have a column for each of the {wanted.size} classes, got shape "
            f"{rows.shape}"
        )
    ratio = wanted / trained
    weighted = rows * (ratio / ratio.max())
    total = weighted.sum(axis=1, keepdims=True)
    excluded = total == 0
    answer: NDArray[np.float64] = np.where(
        excluded, wanted, weighted / np.where(excluded, 1.0, total)
    )
    return answer


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label
