"""Pipeline for measured voxels: volumes, and voxels without signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.counts import (
    is_multicompartment,
    multicompartment_probability,
    with_unanswered,
)
from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.probabilities import log_probabilities
from corrsk._utils.steps import simulates_signals, without_codes
from corrsk._utils.voxels import Voxels
from corrsk.acquisition.labels import with_column_names


def _last_step_has(name: str) -> Callable[[Any], bool]:
    return lambda pipeline: hasattr(pipeline.steps[-1][1], name)


class SignalPipeline(EarlierPicklesMixin, Pipeline):
    """Pipeline of a classifier for measured voxels.

    As scikit-learn's Pipeline, but predictions accept volumes, arrays of shape
    (.., n_measurements), and voxels without signal: all zero, or with NaN. Their probabilities are
    NaN, and their label is 0 (no compartment). :func:`corrsk.load_pretrained` returns such a
    pipeline; for a fitted Pipeline behind a generator, use ``SignalPipeline(pipeline[1:].steps)``.

    Parameters
    ----------
    steps : list of tuple
        Names and estimators: transformers of signals, and a classifier. A step that simulates
        signals, such as :class:`corrsk.CorrelationSignalGenerator`, is refused.
    transform_input : list of str, default=None
        See :class:`sklearn.pipeline.Pipeline`.
    memory : str or object with the joblib.Memory interface, default=None
        See :class:`sklearn.pipeline.Pipeline`.
    verbose : bool, default=False
        See :class:`sklearn.pipeline.Pipeline`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    n_features_in_ : int
        Number of measurements.
    feature_names_in_ : ndarray of str
        Names of the measurements, if the signals of `fit` have names.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from corrsk import SignalNormalizer, SignalPipeline, make_correlation_signals
    >>> X, y = make_correlation_signals(400, random_state=0)
    >>> model = SignalPipeline([("norm", SignalNormalizer()), ("count", LogisticRegression())])
    >>> volume = X.reshape(10, 20, 2, 64)
    >>> model.fit(X, y).predict(volume).shape
    (10, 20, 2)
    """

    @available_if(_last_step_has("predict_proba"))
    def predict_proba(self, X: ArrayLike, **params: Any) -> NDArray[np.float64]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Signals. Also a volume, an array of shape (.., n_measurements).
        **params : dict
            Parameters of the `predict_proba` of the classifier, such as `class_prior`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`; NaN for voxels without signal. Of a volume
            maps of shape (.., n_classes).

        Raises
        ------
        ValueError
            If a step refuses the signals.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        voxels = self._voxels(X)
        return voxels.answer(
            lambda signals: Pipeline.predict_proba(self, signals, **params), len(self.classes_)
        )

    @available_if(_last_step_has("predict_proba"))
    def predict_log_proba(self, X: ArrayLike, **params: Any) -> NDArray[np.float64]:
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Signals, or a volume; see :meth:`predict_proba`.
        **params : dict
            Parameters of the `predict_proba` of the classifier, such as `class_prior`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Natural logarithms of the probabilities of :meth:`predict_proba`: -inf for a
            probability of 0, NaN for voxels without signal. Of a volume maps of shape
            (.., n_classes).

        Raises
        ------
        ValueError
            If a step refuses the signals.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        return log_probabilities(self.predict_proba(X, **params))

    @available_if(_last_step_has("predict"))
    def predict(self, X: ArrayLike, **params: Any) -> NDArray[Any]:
        """Predict the most probable class.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Signals, or a volume; see :meth:`predict_proba`.
        **params : dict
            Parameters of the `predict` of the classifier, such as `class_prior`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Labels. Voxels without signal have the label 0 (no compartment), or, if 0 is a class,
            one less than the smallest label; of text labels "0", or the empty text.

        Raises
        ------
        ValueError
            If a step refuses the signals.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        voxels = self._voxels(X)
        classes = np.asarray(self.classes_)
        if voxels.dark.size and voxels.dark.all():
            labels = voxels.fill(classes[:0], classes[0])
        else:
            found = np.asarray(Pipeline.predict(self, voxels.signals, **params))
            labels = voxels.fill(found, classes[0])
        if not voxels.dark.any():
            return labels
        return with_unanswered(labels, voxels.dark.reshape(voxels.shape), classes)

    @available_if(_last_step_has("predict_proba"))
    def predict_multicompartment_proba(self, X: ArrayLike, **params: Any) -> NDArray[np.float64]:
        """Predict the probability of more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Signals, or a volume; see :meth:`predict_proba`.
        **params : dict
            Parameters of the `predict_proba` of the classifier, such as `class_prior`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Sum of the probabilities of the counts >= 2; NaN for voxels without signal.

        Raises
        ------
        ValueError
            If the labels are neither compartment counts nor binary, or a step refuses the signals.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        self._refuse_simulation()
        check_is_fitted(self)
        counts = without_codes(self, self.classes_)
        is_multicompartment(counts)  # other labels are an error before the prediction
        return multicompartment_probability(self.predict_proba(X, **params), counts)

    @available_if(_last_step_has("score"))
    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, **params: Any
    ) -> float:
        """Accuracy of the predicted labels, where voxels without signal count as errors.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Signals, or a volume; see :meth:`predict_proba`.
        y : array of shape (n_samples,), or of the shape of the volume
            Reference labels.
        sample_weight : array like y, optional
            Weight of each voxel.
        **params : dict
            Parameters of the `predict` of the classifier.

        Returns
        -------
        float
            Share of the right labels.
        """
        weight = None if sample_weight is None else np.ravel(sample_weight)
        labels = self.predict(X, **params).ravel()
        return float(accuracy_score(np.ravel(y), labels, sample_weight=weight))

    def _voxels(self, X: ArrayLike) -> Voxels:
        self._refuse_simulation()
        check_is_fitted(self)
        return Voxels.from_measured(with_column_names(X), self)

    def _validate_steps(self) -> None:  # of every method of scikit-learn's Pipeline that fits
        super()._validate_steps()
        self._refuse_simulation()

    def _refuse_simulation(self) -> None:
        """Refuse steps that simulate: NaN marks absent compartments of their tissue tables."""
        if simulates_signals(self):
            raise ValueError(
                "SignalPipeline is for measured signals, but a step simulates signals from a "
                "tissue table, in which NaN is no missing signal; use Pipeline for the table, and "
                "SignalPipeline(pipeline[1:].steps) for signals"
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
