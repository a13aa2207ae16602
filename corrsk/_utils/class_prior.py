"""Class probabilities under another class prior than that of the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

ClassPrior = Mapping[Any, float] | ArrayLike


def checked_class_prior(class_prior: ClassPrior, classes: ArrayLike) -> NDArray[np.float64]:
    """Validate a class prior; return it as frequencies with sum 1.

    Parameters
    ----------
    class_prior : mapping or Series of class to weight, or array of shape (n_classes,)
        Frequency of each class, up to a common factor; an array in the order of the
        classes. A class that does not occur has weight 0.
    classes : array of shape (n_classes,)
        The classes.

    Returns
    -------
    ndarray of shape (n_classes,)
        Frequencies in the order of the classes.

    Raises
    ------
    ValueError
        If a class is unknown or missing, the number of weights is not the number of
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
            raise ValueError(
                f"class_prior has the unknown classes {unknown}; the classes are {labels}"
            )
        if missing:
            raise ValueError(
                f"class_prior lacks the classes {missing}; a class that does not occur has weight 0"
            )
        class_prior = [given[label] for label in labels]
    try:
        weights = np.asarray(class_prior, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"class_prior must hold numbers, got {class_prior!r}") from None
    if weights.shape != (len(labels),):
        raise ValueError(
            f"class_prior must have one weight for each of the {len(labels)} classes {labels}, got "
            f"an array of shape {weights.shape}"
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            "the weights of class_prior must be finite and not negative, with at least one "
            f"positive weight; got {weights.tolist()}"
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
    """Class probabilities under `class_prior`, from those under `trained_prior`.

    Parameters
    ----------
    probabilities : array of shape (n_samples, n_classes)
        Predicted under `trained_prior`; rows of NaN stay NaN.
    classes : array of shape (n_classes,)
        The class of each column.
    class_prior : mapping of class to weight, or array of shape (n_classes,)
        See :func:`checked_class_prior`.
    trained_prior : mapping of class to weight, or array of shape (n_classes,)
        Frequencies in the training data, all positive.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Rows sum to 1. A row with probability only for classes of weight 0 has no
        evidence about the other classes, and becomes `class_prior` itself.

    Raises
    ------
    ValueError
        If the shapes do not match, a prior is invalid, or a class has weight 0 in
        `trained_prior`.

    Notes
    -----
    ``p'_k = p_k (c_k / t_k) / sum_j p_j (c_j / t_j)`` with the frequencies c of
    `class_prior` and t of `trained_prior`: Saerens, Latinne and Decaestecker,
    "Adjusting the outputs of a classifier to new a priori probabilities", Neural
    Computation 14, 21 (2002), Eq. 2.4. The equation holds if the signals of each class have
    the distribution of the training, and only the frequencies of the classes differ.
    """
    wanted = checked_class_prior(class_prior, classes)
    trained = checked_class_prior(trained_prior, classes)
    if not trained.all():
        raise ValueError(
            "trained_prior must be positive: every class must occur in the training; "
            f"got {dict(zip(np.asarray(classes).tolist(), trained.tolist(), strict=True))}"
        )
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != wanted.size:
        raise ValueError(
            f"probabilities must have one column for each of the {wanted.size} classes, got an "
            f"array of shape {rows.shape}"
        )
    ratio = wanted / trained
    with np.errstate(under="ignore"):  # small probabilities vanish
        weighted = rows * (ratio / ratio.max())
        total = weighted.sum(axis=1, keepdims=True)
        excluded = total == 0
        answer: NDArray[np.float64] = np.where(
            excluded, wanted, weighted / np.where(excluded, 1.0, total)
        )
    return answer


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label
