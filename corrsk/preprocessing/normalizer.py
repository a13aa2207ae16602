"""Transformer that divides signals by their norms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from corrsk import physics
from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.validation import refuse_volume
from corrsk._utils.voxels import warn_if_volume
from corrsk.preprocessing.signals import measured_signals, volume_as_rows


class SignalNormalizer(OneToOneFeatureMixin, TransformerMixin, EarlierPicklesMixin, BaseEstimator):
    """Divide each signal by its norm.

    Parameters
    ----------
    norm : {"l2", "rms", "max"} or None, default="l2"
        2-norm (as in the paper), root mean square, or largest absolute value; None
        leaves the signals unchanged, as an option for searches.

    Attributes
    ----------
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    feature_names_in_ : ndarray of str
        Names of the measurements, if the signals of `fit` have names.

    Notes
    -----
    A signal that is all zero (background) stays zero.

    Examples
    --------
    >>> from corrsk import SignalNormalizer
    >>> SignalNormalizer().fit_transform([[3.0, 4.0]])
    array([[0.6, 0.8]])
    """

    _parameter_constraints: dict[str, list[Any]] = {"norm": [StrOptions(set(physics.NORMS)), None]}

    def __init__(self, norm: str | None = "l2") -> None:
        self.norm = norm

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> SignalNormalizer:
        """Validate the parameters and the signals.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals.
        y : array of shape (n_samples,), optional
            Ignored, but for its shape: a volume with labels is refused.

        Returns
        -------
        SignalNormalizer
            The transformer itself.

        Raises
        ------
        ValueError
            If the signals contain NaN or infinite values, or X and y are a volume.

        Warns
        -----
        UserWarning
            If X without y is probably a volume: three axes or more, and more measurements than
            signals.
        """
        refuse_volume(X, y)
        warn_if_volume(X, y)
        measured_signals(self, X, reset=True)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Normalise signals.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals. Also a volume, an array of shape (.., n_measurements).

        Returns
        -------
        ndarray of shape (n_samples, n_measurements), or of the shape of the volume
            Normalised signals.

        Raises
        ------
        ValueError
            If the signals contain NaN or infinite values, their number or layout differs from
            that of `fit`, or X is a volume and the output is set to DataFrames.
        """
        check_is_fitted(self)
        rows, volume = volume_as_rows(self, X)
        signals: NDArray[np.floating[Any]] = measured_signals(self, rows, reset=False)
        if self.norm is None:
            normalised = signals.copy()
        else:
            normalised = physics.normalize_signals(signals, self.norm)
        return normalised if volume is None else normalised.reshape(*volume, -1)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
