"""Predictions of any classifier for measured voxels, with or without signal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.counts import is_multicompartment, multicompartment_probability
from corrsk._utils.steps import simulates_signals, without_codes
from corrsk._utils.voxels import Voxels, has_nan
from corrsk.acquisition.labels import with_column_names


def measured_probabilities(
    estimator: Any, X: Any, predict: Callable[[Any], Any] | None = None
) -> NDArray[np.float64]:
    """Class probabilities of any fitted classifier; NaN for voxels without signal.

    Parameters
    ----------
    estimator : classifier
        Fitted classifier with `predict_proba` and `classes_`.
    X : array or DataFrame of shape (n_samples, n_features)
        Input of the classifier, usually signals. Also a volume, an array of shape
        (.., n_features).
    predict : callable, optional
        Function from rows of X to probabilities; the default is ``estimator.predict_proba``.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Probabilities. NaN for rows of zeros, and for rows with NaN if the classifier refuses NaN.
        Of a volume maps of shape (.., n_classes).

    Raises
    ------
    ValueError
        If the classifier refuses X for another reason than NaN, or refuses a tissue table.

    Warns
    -----
    NoSignalWarning
        If voxels have no signal; once, with their number.
    """

    def probabilities(rows: Any) -> NDArray[np.float64]:
        return np.asarray((predict or estimator.predict_proba)(rows))

    if not hasattr(estimator, "n_features_in_"):
        return probabilities(X)
    if simulates_signals(estimator):  # NaN marks the absent compartments of a tissue table
        return probabilities(X)
    if has_nan(X):
        try:  # NaN is valid for some learners, and for a SignalPipeline
            return probabilities(X)
        except ValueError as error:
            if "NaN" not in str(error):
                raise
    voxels = Voxels.from_measured(with_column_names(X), estimator)
    return voxels.answer(probabilities, len(estimator.classes_))


def predict_multicompartment_proba(estimator: Any, X: Any, **params: Any) -> NDArray[np.float64]:
    """Predict the probability of more than one compartment, P(n_c >= 2), with any classifier.

    The function is the method of the same name of corrsk's classifiers, for other classifiers and
    for Pipelines, such as ``pipeline[1:]`` of a pipeline that simulates its signals.

    Parameters
    ----------
    estimator : classifier
        Fitted classifier of compartment counts, or of binary labels (False and True, or 0 and 1,
        for more than one compartment).
    X : array or DataFrame of shape (n_samples, n_features)
        Input of the classifier, usually signals. Also a volume, an array of shape
        (.., n_features).
    **params : dict
        Parameters of `predict_proba`, such as `class_prior`.

    Returns
    -------
    ndarray of shape (n_samples,), or of the shape of the volume
        Sum of the probabilities of the counts >= 2; NaN for voxels without signal (all zero, or
        with NaN).

    Raises
    ------
    ValueError
        If the labels are neither compartment counts nor binary, or the classifier refuses X.

    Warns
    -----
    NoSignalWarning
        If voxels have no signal; once, with their number.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from corrsk import make_correlation_signals, predict_multicompartment_proba
    >>> X, y = make_correlation_signals(400, random_state=0)
    >>> predict_multicompartment_proba(LogisticRegression().fit(X, y), X).shape
    (400,)
    """
    counts = without_codes(estimator, estimator.classes_)
    is_multicompartment(counts)  # other labels are an error before the prediction
    predict = partial(estimator.predict_proba, **params)
    return multicompartment_probability(measured_probabilities(estimator, X, predict), counts)
