"""Base class of the model-based classifiers: protocol, labels and predictions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from corrsk._utils.counts import as_counts, most_probable, multicompartment_probability
from corrsk._utils.parallel import effective_n_jobs
from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.probabilities import LogProbabilityMixin
from corrsk._utils.validation import EFFICIENCY, N_JOBS
from corrsk._utils.voxels import Voxels, as_rows, user_level
from corrsk._utils.wording import worded
from corrsk.acquisition.bounds import Bounds, checked_bounds
from corrsk.acquisition.protocol import (
    DEFAULT_PROTOCOL,
    AcquisitionProtocol,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.preprocessing.signals import (
    advice_for_volume,
    measured_signals,
    protocol_of_fit,
    signals_of_protocol,
    warn_of_assumption,
)
from corrsk.relaxometry._identifiability import check_levels
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._labels import checked_counts, classes_of_counts
from corrsk.relaxometry._misfit import NoiseSubspace
from corrsk.relaxometry._voxels import Solver, solve_voxels
from corrsk.relaxometry.calibration import (
    CalibrationWarning,
    PulseCalibration,
    calibrate_pulses,
)
from corrsk.tissue.prior import TissuePrior


class _VoxelModel(EarlierPicklesMixin, BaseEstimator):
    """Base class of estimators that solve an inverse problem in each voxel."""

    protocol: AcquisitionProtocol | str
    bounds: Bounds
    inversion_efficiency: float
    n_jobs: int | None
    verbose: bool

    _parameter_constraints: dict[str, list[Any]] = {
        "protocol": [AcquisitionProtocol, str],
        "bounds": [dict, TissuePrior, str, None],
        "inversion_efficiency": EFFICIENCY,
        "n_jobs": N_JOBS,
        "verbose": ["verbose"],
    }

    def calibrate(self, X: ArrayLike, *, magnitude: bool | None = None) -> Self:
        """Find the pulses of an image from its voxels, and use them from now on.

        The inversion efficiency, an offset of the inversion times, the angle and slice profile of
        the refocusing pulses of an echo train, and the relative scale of two series and the
        saturation of the second are common to the voxels of an image. They are found from all
        voxels; see :class:`corrsk.relaxometry.PulseCalibration`. Multi-exponential fits also find
        the residual variance of the voxels, for their criteria. A calibration holds for one image.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements), or a volume (.., n_measurements)
            Signals of the voxels of an image, most of which have one compartment, with columns in
            the order of the protocol, in the same units for all voxels.
        magnitude : bool, optional
            Whether the signals are magnitudes; None (default) if no signal is negative.

        Returns
        -------
        self
            The classifier itself, with the attribute `calibration_`.

        Raises
        ------
        ValueError
            If there are too few voxels, several different echo trains, or more than two series; or
            if the signals are magnitudes after an inversion and the classifier is for signed ones.

        Warns
        -----
        CalibrationWarning
            If several compartments explain most of the voxels much better than one, so that the
            pulses may have taken up a part of them.
        """
        check_is_fitted(self)
        self.__dict__.pop("calibration_", None)
        signals, _ = self._voxels(X, scaled=False)
        if magnitude is None:
            magnitude = bool((signals >= 0).all())
        inverts = "TI" in self.protocol_.contrasts
        if magnitude and inverts and getattr(self, "noise_distribution", "gaussian") != "rician":
            raise ValueError(
                f"the signals are magnitudes after an inversion, but {type(self).__name__} is for "
                "signed signals: use MultiExponentialClassifier(noise_distribution='rician'), or "
                "restore the signs with SignalPhaser first"
            )
        seed = getattr(self, "random_state", None)
        calibration = calibrate_pulses(
            signals.astype(np.float64), self.protocol_.in_grid_order(), magnitude=magnitude,
            n_coils=getattr(self, "n_coils", 1), random_state=seed if isinstance(seed, int) else 0,
        )  # fmt: skip
        self._use_calibration(calibration)
        self.calibration_ = self._with_residuals(signals)
        if self.calibration_.is_doubtful:
            warnings.warn(
                "several compartments explain most voxels of the image much better than one (the "
                "residual variance of one, with the calibrated pulses, too, is "
                f"{self.calibration_.variance_ratio:.2g} times that of a spectrum), but a "
                "calibration is for images most of whose voxels have one compartment: the pulses "
                "may have taken up a part of the other compartments, which are then too small or "
                "missing. "
                + worded(
                    "Calibrate on voxels of one compartment, or state the pulses in the protocol",
                    "State the pulses that were measured: b1 or inversion_efficiency in a file of "
                    "settings of spectra, or a model that was calibrated on other voxels",
                ),
                CalibrationWarning,
                stacklevel=user_level(),
            )
        return self

    def _use_calibration(self, calibration: PulseCalibration) -> None:
        self._set_up(
            calibration.protocol.in_grid_order(), self._counts, calibration.inversion_efficiency
        )
        self.calibration_ = calibration

    def _with_residuals(self, signals: NDArray[np.floating[Any]]) -> PulseCalibration:
        """Return the calibration, with the residuals of the voxels if the method has any."""
        return self.calibration_

    # -- methods of the subclasses ----------------------------------------------

    def _fit_protocol(self, counts: NDArray[np.int64]) -> None:
        """Set up the kernels of the protocol, without a calibration of an earlier image."""
        protocol = self._resolve_protocol()
        self.__dict__.pop("calibration_", None)
        self._set_up(protocol.in_grid_order(), counts)
        self.protocol_ = protocol

    def _set_up(
        self,
        protocol: AcquisitionProtocol,
        counts: NDArray[np.int64],
        inversion_efficiency: float | None = None,
    ) -> None:
        check_levels(protocol)
        efficiency = (
            self.inversion_efficiency if inversion_efficiency is None else inversion_efficiency
        )
        bounds = checked_bounds(self.bounds, protocol, efficiency)
        model = KernelModel(protocol, bounds, efficiency, self._fitted_nuisances(protocol))
        self._prepare(protocol, model, counts)
        self._model = model
        with_offset = "offset" in model.nuisances
        self._noise = NoiseSubspace(protocol, bounds, efficiency, with_offset=with_offset)
        self.bounds_ = bounds

    def _fitted_nuisances(self, protocol: AcquisitionProtocol) -> dict[str, tuple[float, float]]:
        """Ranges of the nuisance parameters that are fitted in each voxel."""
        return {}

    def _prepare(
        self, protocol: AcquisitionProtocol, model: KernelModel, counts: NDArray[np.int64]
    ) -> None:
        raise NotImplementedError

    _model_in_words = "fitted compartments"
    # of a misfit, besides those of every method, and what follows from it
    _further_causes = ", more compartments"
    _after_misfit = ". The probabilities of these voxels are less certain"

    def _warn_of_misfits(self, misfit: NDArray[np.bool_]) -> None:
        if misfit.any():
            warnings.warn(
                f"{misfit.sum()} of {misfit.size} voxels are not explained by the "
                f"{self._model_in_words}: the residual exceeds the noise. Possible causes are a "
                "flipped sign, magnitude images, another protocol or inversion efficiency, echoes "
                "of a train taken for single spin echoes, properties beyond the bounds"
                f"{self._further_causes}{self._after_misfit}",
                ConvergenceWarning,
                stacklevel=user_level(),
            )

    # -- protocol and signals ------------------------------------------------

    def _resolve_protocol(self) -> AcquisitionProtocol:
        n = self.n_features_in_
        if isinstance(self.protocol, str) and self.protocol == "auto":
            named = protocol_of_columns(getattr(self, "feature_names_in_", None))
            default = resolve_protocol(DEFAULT_PROTOCOL)
            if named is None and n != default.n_measurements:
                raise ValueError(
                    f"protocol='auto' cannot determine the protocol of these {n} columns: they "
                    "have no names such as TI50_TE4.5, and the default protocol "
                    f"{DEFAULT_PROTOCOL!r} has {default.n_measurements} measurements; "
                    "pass protocol=" + advice_for_volume(self.layout_, default)
                )
            if named is None:
                warn_of_assumption("protocol", n, repr(DEFAULT_PROTOCOL))
            given = default if named is None else None
        else:
            given = resolve_protocol(self.protocol)
        protocol = protocol_of_fit(self, given)
        assert protocol is not None
        return protocol

    def _voxels(
        self, X: ArrayLike, *, scaled: bool = True
    ) -> tuple[NDArray[np.floating[Any]], tuple[int, ...]]:
        """Validate the signals of a method that SignalPipeline lacks.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te), or a volume
            Signals.
        scaled : bool, default=True
            Whether to bring the series to the same scale.

        Returns
        -------
        signals : ndarray of shape (n_voxels, n_measurements)
            Signals in grid order.
        shape : tuple of int
            Shape of the maps of results: (n_samples,), or that of the volume.
        """
        check_is_fitted(self)
        rows, volume = as_rows(X, self)
        advice = "set them to 0, the value of voxels without signal, whose results are NaN"
        signals = self._checked_signals(rows, nan_advice=advice, scaled=scaled)
        return signals, (len(signals),) if volume is None else volume

    def _checked_signals(
        self, X: ArrayLike, *, scaled: bool = True, **options: Any
    ) -> NDArray[np.floating[Any]]:
        """Validate signals in the order of `protocol_`, and reorder them to grid order."""
        check_is_fitted(self)
        signals = signals_of_protocol(self, X, **options)
        in_grid_order: NDArray[np.floating[Any]] = self.protocol_.to_grid(signals, copy=False)
        series = self.protocol_.series
        if not scaled or series is None:
            return in_grid_order
        if not hasattr(self, "calibration_"):
            raise ValueError(
                f"the protocol has {series.max() + 1} series, whose relative scale is unknown: "
                "call calibrate(X) with the voxels of the image first, or join series of equal "
                "gain by AcquisitionProtocol.concatenate(..)"
            )
        return self._at_one_scale(in_grid_order)

    def _at_one_scale(self, in_grid_order: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        series = self.protocol_.series
        if series is None:
            return in_grid_order
        ordered = self.protocol_.to_grid(series[None], copy=False)[0]
        return in_grid_order / np.where(ordered > 0, self.calibration_.gain, 1.0)

    @property
    def _counts(self) -> NDArray[np.int64]:
        """Counts of compartments that the estimator distinguishes."""
        return np.empty(0, dtype=np.int64)

    def _solve_voxels(
        self,
        signals: NDArray[np.floating[Any]],
        solve: Solver,
        shapes: Sequence[tuple[int, ...]],
        given: Sequence[Array] = (),
    ) -> list[Array]:
        voxels = Voxels.from_rows(signals)
        if voxels.dark.all():
            return [voxels.fill(np.empty((0, *shape))) for shape in shapes]
        results = solve_voxels(
            voxels.signals, solve, shapes, n_jobs=self.n_jobs, verbose=self.verbose,
            given=[values[~voxels.dark] for values in given],
        )  # fmt: skip
        return [voxels.fill(values) for values in results]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class _CompartmentCounter(LogProbabilityMixin, ClassifierMixin, _VoxelModel):
    """Base class of classifiers of the compartment count."""

    counts: Sequence[int] | None

    _parameter_constraints: dict[str, list[Any]] = {
        **_VoxelModel._parameter_constraints,
        "counts": ["array-like", None],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Validate the parameters, the protocol and the labels; signals are not used for training.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol.
        y : array of shape (n_samples,), optional
            Compartment counts; required unless `counts` is given. Without `counts`, the distinct
            values of y are the classes. With `counts`, the labels must be among them, and all
            counts are classes. The labels may then also be the codes 0..n_classes - 1 that
            meta-estimators such as `VotingClassifier` assign to the counts in ascending order;
            the classes are then the codes.
        sample_weight : array of shape (n_samples,), optional
            Validated, but without effect, because signals are not used for training; for
            meta-estimators that pass weights to all their classifiers.

        Returns
        -------
        self
            The classifier itself.

        Raises
        ------
        ValueError
            If the signals have NaN or infinite values, the protocol has another
            number of measurements or cannot identify the tissue properties, the names of the
            columns or the axes of X contradict the protocol, a label is not a compartment count or
            not among `counts`, both y and `counts` are missing, or a parameter is out of range.

        Warns
        -----
        ProtocolWarning
            If `protocol` is "auto" and 64 columns without names of measurements are taken for
            "ir-se-8x8".
        UserWarning
            If the measurements are too few for one of the counts.
        """
        effective_n_jobs(self.n_jobs)  # so that `fit` refuses 0, not a later `predict`
        given = None if self.counts is None else checked_counts(self.counts)
        if y is None and given is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None; pass "
                "the possible counts, counts=(1, 2, 3), if the signals have no labels"
            )
        labels = None
        if y is None:
            signals = measured_signals(self, X, reset=True)
        else:
            signals, labels = measured_signals(self, X, y, reset=True)
            check_classification_targets(labels)
        if sample_weight is not None:
            _check_sample_weight(sample_weight, signals, ensure_non_negative=True)
        classes, counts = self._classes(given, labels)
        self._fit_protocol(counts)
        self.counts_ = counts
        self.classes_ = classes
        return self

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probability of each count.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale. Also a volume, an
            array of shape (.., n_measurements).

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`. NaN for signals that are all zero, and for
            voxels that could not be solved. Where no count explains the signal, the probabilities
            are less certain, by the misfit; see Notes of the class. Of a volume maps of shape
            (.., n_classes).

        Warns
        -----
        NoSignalWarning
            If signals are all zero; once, with their number.
        ConvergenceWarning
            Once, with the number of voxels that could not be solved, and once with the number of
            voxels that no count explains.
        """
        check_is_fitted(self)
        voxels = Voxels.from_checked(X, self, self._checked_signals)
        return voxels.answer(self._class_probabilities, len(self.classes_))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the most probable count.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale, or a volume; see
            :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Labels; 0 for voxels without signal, and for voxels that could not be solved ("0" if
            the labels are text).
        """
        return most_probable(self.predict_proba(X), self.classes_)

    def predict_multicompartment_proba(self, X: ArrayLike) -> Array:
        """Probability of more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol, at any scale, or a volume; see
            :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Probabilities; NaN for voxels without signal or solution.
        """
        check_is_fitted(self)
        return multicompartment_probability(self.predict_proba(X), self.counts_)

    def _class_probabilities(self, signals: NDArray[np.floating[Any]]) -> Array:
        """Probabilities (n_samples, n_classes) of valid signals."""
        probabilities, misfit = self._solve_voxels(
            signals, self._probabilities, [(len(self.classes_),), ()]
        )
        self._warn_of_misfits(misfit == 1)
        return probabilities

    def _probabilities(self, unit: Array) -> tuple[Array, Array]:
        """Probabilities (V, n_classes), and 1 for misfits (V,), of signals (V, N) with norm 1."""
        raise NotImplementedError

    # -- labels --------------------------------------------------------------

    def _classes(
        self, given: NDArray[np.int64] | None, labels: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        if given is not None:
            return classes_of_counts(given, labels)
        assert labels is not None
        classes = np.unique(labels)
        return classes, self._as_counts(classes)

    @property
    def _counts(self) -> NDArray[np.int64]:
        return self.counts_

    def _as_counts(self, classes: NDArray[Any]) -> NDArray[np.int64]:
        try:
            return as_counts(classes)
        except ValueError as error:
            hint = "; for labels that a meta-estimator has encoded as 0, 1, .., pass counts="
            raise ValueError(f"{error}{hint if classes[0] == 0 else ''}") from None

    def _best(self, probabilities: Array) -> NDArray[np.intp]:
        best = np.where(np.isnan(probabilities), -1.0, probabilities).argmax(axis=1)
        # counts as strings are not in numerical order: "10" < "2"
        best[np.isnan(probabilities).all(axis=1)] = self.counts_.argmin()
        return best

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.counts is None
        return tags
