"""Base classes of the network estimators: validation, settings, training, prediction."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import Tags, compute_class_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
)

from corrsk._utils.class_prior import ClassPrior, checked_class_prior, reweighted
from corrsk._utils.counts import is_multicompartment, multicompartment_probability
from corrsk._utils.deprecation import Renamed, renamed_parameters, with_new_names
from corrsk._utils.parallel import PROGRESS_DELAY, effective_n_jobs, in_worker
from corrsk._utils.rng import RandomStateLike, Stream, entropy, keyed_generator
from corrsk._utils.validation import (
    N_JOBS,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_INTEGER,
    RANDOM_STATE,
    checked_count,
    checked_signals,
    layout_of,
)
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.neural.networks import n_multiplications
from corrsk.neural.onnx import write_onnx
from corrsk.neural.training.device import resolve_device, threads_for
from corrsk.neural.training.fitting import train_further, train_network
from corrsk.neural.training.optimizers import OPTIMIZERS
from corrsk.neural.training.prediction import (
    SMALL_PREDICTION,
    predict_outputs,
    predict_probabilities,
)
from corrsk.neural.training.schedules import SCHEDULES
from corrsk.neural.training.settings import (
    DEFAULT_MOMENTUM,
    INPUT_SCALINGS,
    PRECISIONS,
    ClassifierSettings,
    TrainingSettings,
    has_small_steps,
    resolve_batch_size,
    without_single_signals,
)
from corrsk.neural.training.sources import ArraySource, Source, Split, StreamSource
from corrsk.neural.training.streaming import StreamPlan
from corrsk.simulation.streams import SignalStream

RENAMED_PARAMETERS = {
    "kernel": Renamed("backend", lambda name: "numba" if name == "compiled" else name)
}


class NetworkEstimator(BaseEstimator):
    """Base class of the network estimators, for any type of target.

    A subclass has the parameters below in its `__init__`, defines the network
    (:meth:`_architecture`), and converts targets to the input of the loss in its settings.
    """

    input_scaling: str | None
    optimizer: str
    learning_rate: float
    learning_rate_schedule: str
    momentum: float | None
    weight_decay: float
    max_epochs: int
    batch_size: int | str
    precision: str
    backend: str
    validation_fraction: float | None
    n_iter_no_change: int | None
    restore_best: bool
    device: str
    checkpoint: Any
    random_state: RandomStateLike
    verbose: bool
    n_jobs: int | None = None

    _parameter_constraints: dict[str, list[Any]] = {
        "input_scaling": [StrOptions(set(INPUT_SCALINGS)), None],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "learning_rate": [POSITIVE],
        "learning_rate_schedule": [StrOptions(set(SCHEDULES))],
        "momentum": [Interval(Real, 0, 1, closed="left"), None],
        "weight_decay": [NOT_NEGATIVE],
        "max_epochs": [POSITIVE_INTEGER],
        "batch_size": [StrOptions({"auto"}), POSITIVE_INTEGER],
        "precision": [StrOptions(set(PRECISIONS))],
        "backend": [StrOptions({"auto", "torch"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "n_iter_no_change": [POSITIVE_INTEGER, None],
        "restore_best": ["boolean"],
        "device": [str],
        "checkpoint": [str, os.PathLike, None],
        "random_state": RANDOM_STATE,
        "verbose": ["verbose"],
        "n_jobs": N_JOBS,
    }
    _architecture_name: ClassVar[str]  # name of the network in files and model cards
    _largest_auto_batch: ClassVar[int] = 500

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the estimator.

        Parameters
        ----------
        **params : dict
            Values by parameter name.

        Returns
        -------
        object
            The estimator itself.
        """
        params = with_new_names(params, RENAMED_PARAMETERS, type(self).__name__, stacklevel=3)
        self_: Self = super().set_params(**params)
        return self_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # -- the network ---------------------------------------------------------

    def _choose_network(
        self, layout: tuple[int, ...] | None, protocol: AcquisitionProtocol | None
    ) -> None:
        """Store the properties of the network that depend on the signals of a fit.

        Parameters
        ----------
        layout : tuple of int or None
            Shape of each signal, if X has more than two dimensions.
        protocol : AcquisitionProtocol or None
            Protocol of the signals of a stream.
        """

    def _architecture(self) -> dict[str, Any]:
        """Return the fields network, grid_shape, width, n_blocks and dropout of the settings.

        Fields without effect on the network may be missing.
        """
        raise NotImplementedError

    # -- from parameters and data to a training ------------------------------

    def _reset(self) -> None:
        """Become unfitted, so that a failed fit does not leave the net of an earlier fit."""
        if hasattr(self, "net_"):
            delattr(self, "net_")

    def _check_combination(self) -> None:
        """Check that no parameter is without effect because of another one.

        Raises
        ------
        ValueError
            If momentum is given for an optimiser other than "sgd", or `n_jobs` is 0.
        """
        effective_n_jobs(self.n_jobs)
        if self.momentum is not None and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} is for optimizer='sgd'; with optimizer="
                f"{self.optimizer!r}, momentum must be None"
            )

    def _checked_seed(self) -> int:
        if self.checkpoint is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                "a checkpoint needs an integer random_state, which identifies the training in a "
                f"later fit; got random_state={self.random_state!r}"
            )
        return entropy(self.random_state)

    def _common_settings(self, seed: int, n_samples: int) -> dict[str, Any]:
        """Return the fields of the settings that do not depend on the type of target."""
        return {
            **self._architecture(),
            "n_features": self.n_features_in_,
            "input_scaling": self.input_scaling,
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate,
            "learning_rate_schedule": self.learning_rate_schedule,
            "momentum": DEFAULT_MOMENTUM if self.momentum is None else self.momentum,
            "weight_decay": self.weight_decay,
            "max_epochs": self.max_epochs,
            "batch_size": resolve_batch_size(self.batch_size, n_samples, self._largest_auto_batch),
            "precision": self.precision,
            "backend": self.backend,
            "patience": self.n_iter_no_change,
            "restore_best": self.restore_best,
            "seed": seed,
        }

    def _first_signals(
        self,
        X: ArrayLike,
        y: Any = "no_validation",
        protocol: AcquisitionProtocol | None = None,
    ) -> Any:
        """Validate the signals of a new training, and choose the network.

        `protocol` is that of the signals of a stream.
        """
        self._check_combination()
        layout = layout_of(X) if protocol is None else protocol.grid_shape
        checked = checked_signals(self, X, y, reset=True, dtype=np.float32, order="C")
        self._choose_network(layout, protocol)
        return checked

    def _train(
        self, settings: TrainingSettings, source: Source, validation: Split | None, device: Any
    ) -> Self:
        with threads_for(self.n_jobs, small=has_small_steps(settings)):
            net, history = train_network(
                settings, source, validation, device=device, checkpoint=self.checkpoint,
                progress_delay=PROGRESS_DELAY if self.verbose and not in_worker() else math.inf,
            )  # fmt: skip
        return self._set_fitted(net, history)

    def _set_fitted(self, net: Any, history: list[dict[str, Any]]) -> Self:
        """Store the results of a training as fitted attributes."""
        self.history_ = history
        self.n_iter_ = len(history)
        losses = [row["valid_loss"] for row in history if "valid_loss" in row]
        self.best_epoch_ = int(np.argmin(losses)) + 1 if losses else None
        self.net_ = net
        return self

    def _outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        """Validate signals; return the outputs of the network, shape (n_samples, n_outputs)."""
        check_is_fitted(self)
        signals = checked_signals(self, X, reset=False, order="C")
        with self._threads_for_prediction(signals):
            return predict_outputs(self.net_, signals, lambda outputs: outputs)

    def _threads_for_prediction(self, signals: NDArray[Any]) -> AbstractContextManager[None]:
        small = len(signals) * n_multiplications(self.net_.module_) < SMALL_PREDICTION
        return threads_for(self.n_jobs, small=small)


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    """Base class of the network classifiers: labels, class weights, fit and prediction."""

    class_weight: Mapping[Any, float] | str | None
    softmax_before_loss: bool = False
    class_count_: NDArray[Any]
    class_prior_: NDArray[Any]

    _parameter_constraints: dict[str, list[Any]] = {
        **NetworkEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals.
        y : array of shape (n_samples,)
            Labels: the compartment counts.
        sample_weight : array of shape (n_samples,), optional
            Weight of each signal in the loss, up to a common factor.
        X_val, y_val : arrays like X and y, optional
            Validation data, for the choice of the best epoch and for early stopping. In a
            Pipeline, set ``transform_input=["X_val"]``.

        Returns
        -------
        object
            The fitted classifier itself.

        Raises
        ------
        ValueError
            If the signals contain NaN or infinite values, y has a single class, the validation
            data do not match X and y, a parameter is invalid or without effect because of
            another one, or the training diverges.
        """
        self._reset()
        device = resolve_device(self.device)
        signals, index = self._first_labelled(X, y, None)
        weights = self._checked_weights(sample_weight, signals)
        seed = self._checked_seed()
        validation = self._validation_data(X_val, y_val, self.classes_)
        if self.validation_fraction is not None:
            if validation is not None:
                raise ValueError(
                    f"validation_fraction={self.validation_fraction} contradicts X_val and y_val; "
                    "with X_val and y_val leave it None"
                )
            kept, held_out = train_test_split(
                np.arange(len(index)), test_size=self.validation_fraction, stratify=index,
                random_state=int(keyed_generator(seed, Stream.HELD_OUT).integers(2**32)),
            )  # fmt: skip
            validation = (signals[held_out], index[held_out])
            signals, index = signals[kept], index[kept]
            weights = None if weights is None else weights[kept]
        if weights is not None:
            weights = weights / weights.mean()  # the learning rate keeps its meaning
        count = np.bincount(index, minlength=len(self.classes_)).astype(np.float64)
        settings = self._settings(count, seed, len(index), (index, weights))
        settings = without_single_signals(settings, len(index))
        return self._train(settings, ArraySource(signals, index, weights), validation, device)

    @renamed_parameters(n_signals="n_samples")
    @_fit_context(prefer_skip_nested_validation=True)
    def fit_stream(
        self,
        stream: SignalStream,
        n_samples: int = 20_000_000,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Train the network on signals simulated during the training, each used once.

        On a GPU, the signals are simulated on the GPU: from the same distributions, but with
        other random numbers than on the processor.

        Parameters
        ----------
        stream : SignalStream
            Source of the signals.
        n_samples : int, default=20_000_000
            Number of signals, divided into `max_epochs` equal epochs; rounded up to whole batches.
        X_val, y_val : arrays, optional
            Validation data; see :meth:`fit`.

        Returns
        -------
        object
            The fitted classifier itself.

        Raises
        ------
        TypeError
            If `stream` is not a SignalStream.
        ValueError
            As for :meth:`fit`; or if `validation_fraction` is given, or `n_samples` is smaller
            than `max_epochs`.

        Examples
        --------
        >>> from corrsk import ResidualMLPClassifier, SignalStream
        >>> model = ResidualMLPClassifier(max_epochs=2)
        >>> model.fit_stream(SignalStream.named("midl2024"), n_samples=4000).n_iter_
        2
        """
        self._reset()
        device = resolve_device(self.device)
        if not isinstance(stream, SignalStream):
            raise TypeError(
                f"stream must be a SignalStream, such as SignalStream.named('midl2024'); got "
                f"{type(stream).__name__}"
            )
        checked_count("n_samples", n_samples, at_least=self.max_epochs)
        if self.validation_fraction is not None:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} is not for fit_stream; leave it "
                "None and pass X_val and y_val, for example simulated with another random_state"
            )
        seed = self._checked_seed()
        X, y = stream.draw(0, 100)
        self._first_labelled(X, y, stream.classes, resolve_protocol(stream.protocol))
        count = np.full(len(self.classes_), n_samples / len(self.classes_))
        settings = self._settings(count, seed, n_samples // self.max_epochs)
        plan = StreamPlan.from_n_samples(n_samples, self.max_epochs, settings.batch_size)
        validation = self._validation_data(X_val, y_val, self.classes_)
        return self._train(settings, StreamSource(stream, plan), validation, device)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Continue the training of the network with one pass over some signals.

        The pass uses the full `learning_rate`, without schedule, early stopping or checkpoint.
        Between calls the parameters of the learning rate, loss and precision may be changed;
        network, input scaling and optimiser are those of the first call.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals. The signals of the first call define the input scaling.
        y : array of shape (n_samples,)
            Labels.
        classes : array of shape (n_classes,), optional
            All labels of all calls; needed in the first call if its y lacks some of the labels.
        sample_weight : array of shape (n_samples,), optional
            Weight of each signal in the loss, up to a common factor.

        Returns
        -------
        object
            The fitted classifier itself.

        Raises
        ------
        ValueError
            As for :meth:`fit`; or if y contains labels that are not in the classes of the first
            call, or `class_weight` is "balanced".
        """
        device = resolve_device(self.device)
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels at once; for partial_fit, class_weight "
                "must be a dictionary or None"
            )
        if hasattr(self, "net_"):
            self._check_combination()
            signals, labels = self._labelled(X, y, reset=False)
            index = class_index(labels, self.classes_, "y", "the classes of the first call")
        else:
            signals, index = self._first_labelled(X, y, classes)
            self.history_, self.n_iter_, self.best_epoch_ = [], 0, None
            self.class_count_ = np.zeros(len(self.classes_))
        self._check_kept("class_count_", "partial_fit")
        weights = self._checked_weights(sample_weight, signals)
        if weights is not None:
            weights = weights / weights.mean()
        drawn = np.bincount(index, minlength=len(self.classes_))
        count = np.asarray(self.class_count_ + drawn, np.float64)
        settings = self._settings(count, self._checked_seed(), len(index))
        settings = without_single_signals(settings, len(index))
        with threads_for(self.n_jobs, small=has_small_steps(settings)):
            self.net_, row = train_further(
                settings, ArraySource(signals, index, weights), net=getattr(self, "net_", None),
                call=self.n_iter_, device=device,
            )  # fmt: skip
        self.n_iter_ += 1
        self.history_ = [*self.history_, row | {"epoch": self.n_iter_}]
        return self

    # -- predictions ---------------------------------------------------------

    def predict_proba(
        self, X: ArrayLike, class_prior: ClassPrior | None = None
    ) -> NDArray[np.float64]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, in any number; they are processed in chunks.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            Frequency of each class in the tissue of the signals, up to a common factor. Bayes'
            rule gives the probabilities under this prior. By default, the prior is
            `class_prior_`, the frequencies in the training.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities; the columns are in the order of `classes_`.

        Raises
        ------
        ValueError
            If the signals contain NaN or infinite values, the number or the names of the
            columns differ from those of `fit`, or `class_prior` does not match the classes.
        """
        check_is_fitted(self)
        if class_prior is not None:
            # an invalid prior is an error before the prediction starts
            checked_class_prior(class_prior, self.classes_)
            self._check_kept("class_prior_", "class_prior")
        signals = checked_signals(self, X, reset=False, order="C")
        with self._threads_for_prediction(signals):
            probabilities = predict_probabilities(self.net_, signals)
        if class_prior is None:
            return probabilities
        return reweighted(probabilities, self.classes_, class_prior, self.class_prior_)

    def predict(self, X: ArrayLike, class_prior: ClassPrior | None = None) -> NDArray[Any]:
        """Predict the most probable class.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels.

        Raises
        ------
        ValueError
            As for :meth:`predict_proba`.
        """
        probabilities = self.predict_proba(X, class_prior)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def predict_multicompartment_proba(
        self, X: ArrayLike, class_prior: ClassPrior | None = None
    ) -> NDArray[np.float64]:
        """Predict the probability of more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Sum of the probabilities of the counts >= 2.

        Raises
        ------
        ValueError
            If the labels are not compartment counts; or as for :meth:`predict_proba`.
        """
        check_is_fitted(self)
        is_multicompartment(self.classes_)  # other labels are an error before the prediction
        return multicompartment_probability(self.predict_proba(X, class_prior), self.classes_)

    def to_onnx(self, path: str | Path) -> None:
        """Write the trained network as an ONNX file, which runs without torch and corrsk.

        Parameters
        ----------
        path : path-like
            Name of the file.

        Raises
        ------
        ImportError
            If the libraries of the extra `onnx` are not installed.
        FileNotFoundError
            If the folder of the file does not exist.

        Notes
        -----
        The input of the file is "signals", float32 of shape (n_samples, n_measurements), in the
        order and with the normalisation of the training signals. Its output is "probabilities",
        float32 of shape (n_samples, n_classes). Its metadata contain the labels, under "classes",
        as JSON.
        """
        check_is_fitted(self)
        write_onnx(self.net_, path, n_features=self.n_features_in_, classes=self.classes_.tolist())

    # -- labels and settings -------------------------------------------------

    def _labelled(
        self, X: ArrayLike, y: ArrayLike, *, reset: bool
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        signals, labels = checked_signals(self, X, y, reset=reset, dtype=np.float32, order="C")
        check_classification_targets(labels)
        return signals, labels

    def _first_labelled(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None,
        protocol: AcquisitionProtocol | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Validate the data of a new training; store its classes and choose the network."""
        signals, labels = self._first_signals(X, y, protocol)
        check_classification_targets(labels)
        known = np.unique(labels if classes is None else np.asarray(classes))
        if known.size < 2:
            raise ValueError(
                f"y must contain at least two classes; got 1 class, {known.tolist()[0]!r}"
            )
        index = class_index(labels, known, "y", "classes")
        self.classes_ = known
        return signals, index

    def _validation_data(
        self, X_val: ArrayLike | None, y_val: ArrayLike | None, classes: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            raise ValueError(
                "validation data need both X_val and y_val; "
                f"{'X_val' if X_val is None else 'y_val'} is None"
            )
        signals = checked_signals(self, X_val, reset=False, dtype=np.float32, order="C")
        labels = column_or_1d(y_val)
        if signals.shape[0] != labels.shape[0]:
            raise ValueError(
                f"X_val has {signals.shape[0]} signals but y_val has {labels.shape[0]} labels"
            )
        return signals, class_index(labels, classes, "y_val", "y")

    @staticmethod
    def _checked_weights(
        sample_weight: ArrayLike | None, X: NDArray[Any]
    ) -> NDArray[np.float32] | None:
        """Validate sample weights; return None if not given or all equal."""
        if sample_weight is None:
            return None
        weights: NDArray[np.float32] = _check_sample_weight(
            sample_weight, X, dtype=np.float32, ensure_non_negative=True
        )
        if not weights.any():
            raise ValueError("sample_weight must not be all zero")
        return None if (weights == weights[0]).all() else weights

    def _check_kept(self, attribute: str, purpose: str) -> None:
        if not hasattr(self, attribute):
            raise ValueError(
                f"{purpose} needs the attribute {attribute}, which the file of this classifier "
                "does not contain because an older version of corrsk wrote the file; fit the "
                "classifier again"
            )

    def _settings(
        self,
        class_count: NDArray[np.floating[Any]],
        seed: int,
        n_samples: int,
        weighted: tuple[NDArray[np.int64], NDArray[np.float32] | None] | None = None,
    ) -> ClassifierSettings:
        """Return the settings of a training; store `class_count_` and `class_prior_`."""
        self.class_count_ = class_count
        frequency: NDArray[Any] = class_count
        if weighted is not None and weighted[1] is not None:
            index, sample_weight = weighted
            frequency = np.bincount(index, weights=sample_weight, minlength=len(self.classes_))
        self.class_prior_ = frequency / frequency.sum()
        weights = None
        if self.class_weight is not None:
            weights = class_weights(self.class_weight, self.classes_, self.class_prior_)
            # class weights multiply the prior of the predicted probabilities
            self.class_prior_ = self.class_prior_ * weights
        return ClassifierSettings(
            **self._common_settings(seed, n_samples),
            n_classes=len(self.classes_),
            softmax_before_loss=self.softmax_before_loss,
            class_weights=None if weights is None else tuple(map(float, weights)),
        )


def class_index(
    labels: NDArray[Any], classes: NDArray[Any], name: str, known_from: str
) -> NDArray[np.int64]:
    """Return the position of each label in the sorted classes.

    Parameters
    ----------
    labels : array of shape (n_samples,)
        Labels.
    classes : array of shape (n_classes,)
        All valid labels, sorted.
    name, known_from : str
        Names of labels and classes, for the message.

    Returns
    -------
    ndarray of shape (n_samples,)
        Positions.

    Raises
    ------
    ValueError
        If a label is not in `classes`.
    """
    extra = np.setdiff1d(labels, classes).tolist()
    if extra:
        raise ValueError(f"{name} contains labels that are not in {known_from}: {extra}")
    return np.searchsorted(classes, labels)


def class_weights(
    class_weight: Mapping[Any, float] | str,
    classes: NDArray[Any],
    frequencies: NDArray[np.floating[Any]],
) -> NDArray[np.float64]:
    """Return the weight of each class, with mean 1 over the training signals.

    Parameters
    ----------
    class_weight : mapping of label to float, or "balanced"
        Parameter of the classifier.
    classes : array of shape (n_classes,)
        The labels.
    frequencies : array of shape (n_classes,)
        Frequencies of the classes in the training.

    Returns
    -------
    ndarray of shape (n_classes,)
        Weights.

    Raises
    ------
    ValueError
        If a weight is negative, or all weights are 0.
    """
    if class_weight == "balanced":
        weights = 1 / (len(classes) * frequencies)
    else:
        weights = compute_class_weight(class_weight, classes=classes, y=classes)
    mean = float((weights * frequencies).sum())
    if weights.min() < 0 or mean == 0:
        raise ValueError(f"class_weight must not be negative or all zero, got {class_weight}")
    normalised: NDArray[np.float64] = weights / mean  # the learning rate keeps its meaning
    return normalised
