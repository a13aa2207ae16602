"""Logarithms of predicted probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class LogProbabilityMixin:
    """Mixin of classifiers with `predict_proba` that adds `predict_log_proba`."""

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Natural logarithms of the probabilities of `predict_proba`; -inf for a probability of
            0.

        Raises
        ------
        ValueError
            As for `predict_proba`.
        """
        return log_probabilities(self.predict_proba(X))  # type: ignore[attr-defined]


def log_probabilities(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return the natural logarithm of probabilities, -inf for 0, without a warning."""
    with np.errstate(divide="ignore"):
        return np.log(probabilities)
