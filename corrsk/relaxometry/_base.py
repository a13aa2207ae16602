"""Base class of the model-based classifiers: protocol, labels and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.counts import as_counts, is_multicompartment, multicompartment_probability
from corrsk._utils.parallel import effective_n_jobs
from corrsk._utils.validation import EFFICIENCY, N_JOBS
from corrsk.acquisition.protocol import (
    AcquisitionProtocol,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.preprocessing.signals import measured_signals, protocol_of_fit, signals_of_protocol
from corrsk.relaxometry._kernels import Array, KernelModel, checked_bounds
from corrsk.relaxometry._voxels import Solver, solve_voxels
from corrsk.tissue.ranges import PropertyRange

_DEFAULT_PROTOCOL = "ir-se-8x8"


class _CompartmentCounter(ClassifierMixin, BaseEstimator):
    """Base class of classifiers that solve an inverse problem in each voxel."""

    protocol: AcquisitionProtocol | str
    bounds: Mapping[str, tuple[float, float] | PropertyRange] | None
    inversion_efficiency: float
    n_jobs: int | None
    verbose: bool

    _parameter_constraints: dict[str, list[Any]] = {
        "protocol": [AcquisitionProtocol, str],
        "bounds": [dict, None],
        "inversion_efficiency": EFFICIENCY,
        "n_jobs": N_JOBS,
        "verbose": ["verbose"],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Validate the parameters, the protocol and the labels; signals are not used for training.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol.
        y : array of shape (n_samples,)
            Compartment counts. Their distinct values are the classes.

        Returns
        -------
        self
            The classifier itself.

        Raises
        ------
        ValueError
            If the signals have NaN or infinite values, the protocol has another
            number of measurements, the names of the columns or the axes of X contradict the
            protocol, a label is not a compartment count, or a parameter is out of range.
        """
        effective_n_jobs(self.n_jobs)  # so that `fit` refuses 0, not a later `predict`
        _, labels = measured_signals(self, X, y, reset=True)
        check_classification_targets(labels)
        classes = np.unique(labels)
        counts = self._as_counts(classes)
        protocol = self._resolve_protocol()
        self._set_up(protocol.in_grid_order(), counts)
        self._counts = counts
        self.protocol_ = protocol
        self.classes_ = classes
        return self

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probability of each count.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`. NaN for voxels that could
            not be solved, such as signals that are all zero.

        Warns
        -----
        ConvergenceWarning
            Once, with the number of voxels that could not be solved.
        """
        signals = self._checked_signals(X)
        (probabilities,) = self._solve_voxels(
            signals, lambda unit: (self._probabilities(unit),), [(len(self.classes_),)]
        )
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the most probable count, or the smallest count for voxels that were not solved.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels.
        """
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[self._best(probabilities)]
        return labels

    def predict_multicompartment_proba(self, X: ArrayLike) -> Array:
        """Probability of more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale.

        Returns
        -------
        ndarray of shape (n_samples,)
            Probabilities; NaN for voxels that could not be solved.
        """
        check_is_fitted(self)
        is_multicompartment(self.classes_)
        return multicompartment_probability(self.predict_proba(X), self.classes_)

    # -- methods of the subclasses ----------------------------------------------

    def _set_up(self, protocol: AcquisitionProtocol, counts: NDArray[np.int64]) -> None:
        bounds = checked_bounds(self.bounds, protocol.tissue_properties)
        model = KernelModel(protocol, bounds, self.inversion_efficiency)
        self._prepare(model, counts)
        self._model = model

    def _prepare(self, model: KernelModel, counts: NDArray[np.int64]) -> None:
        raise NotImplementedError

    def _probabilities(self, unit: Array) -> Array:
        """Probabilities (V, n_classes) of signals (V, N) with norm 1."""
        raise NotImplementedError

    # -- labels, protocol and signals ----------------------------------------

    def _as_counts(self, classes: NDArray[Any]) -> NDArray[np.int64]:
        return as_counts(classes)

    def _best(self, probabilities: Array) -> NDArray[np.intp]:
        best = np.where(np.isnan(probabilities), -1.0, probabilities).argmax(axis=1)
        # counts as strings are not in numerical order: "10" < "2"
        best[np.isnan(probabilities).all(axis=1)] = self._counts.argmin()
        return best

    def _resolve_protocol(self) -> AcquisitionProtocol:
        n = self.n_features_in_
        if isinstance(self.protocol, str) and self.protocol == "auto":
            named = protocol_of_columns(getattr(self, "feature_names_in_", None))
            default = resolve_protocol(_DEFAULT_PROTOCOL)
            if named is None and n != default.n_measurements:
                raise ValueError(
                    f"protocol='auto' cannot determine the protocol of these {n} columns: they "
                    "have no names such as TI50_TE4.5, and the default protocol "
                    f"{_DEFAULT_PROTOCOL!r} has {default.n_measurements} measurements; "
                    "pass protocol="
                )
            given = default if named is None else named
        else:
            given = resolve_protocol(self.protocol)
        return protocol_of_fit(self, given) or given

    def _checked_signals(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Validate signals in the order of `protocol_`, and reorder them to grid order."""
        check_is_fitted(self)
        signals = signals_of_protocol(self, X)
        in_grid_order: NDArray[np.floating[Any]] = self.protocol_.to_grid(signals, copy=False)
        return in_grid_order

    def _solve_voxels(
        self, signals: NDArray[np.floating[Any]], solve: Solver, shapes: Sequence[tuple[int, ...]]
    ) -> list[Array]:
        return solve_voxels(signals, solve, shapes, n_jobs=self.n_jobs, verbose=self.verbose)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
