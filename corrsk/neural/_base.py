"""Base classes of the network estimators: validation, settings, training, prediction."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
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
from corrsk._utils.counts import (
    is_multicompartment,
    most_probable,
    multicompartment_probability,
)
from corrsk._utils.deprecation import Renamed, renamed_parameters, with_new_names
from corrsk._utils.fit_callbacks import CallbackSupportMixin, with_callbacks
from corrsk._utils.parallel import PROGRESS_DELAY, effective_n_jobs, in_worker
from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.probabilities import log_probabilities
from corrsk._utils.rng import RandomStateLike, Stream, entropy, keyed_generator
from corrsk._utils.validation import (
    N_JOBS,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_INTEGER,
    RANDOM_STATE,
    as_numpy,
    checked_count,
)
from corrsk._utils.voxels import Voxels
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.neural._warm_start import EarlierFit
from corrsk.neural.networks import n_multiplications
from corrsk.neural.onnx import to_onnx
from corrsk.neural.training.callbacks import checked_callbacks
from corrsk.neural.training.device import resolve_device, threads_for
from corrsk.neural.training.fit_tasks import FitTasks
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
from corrsk.preprocessing.signals import layout_of_protocol, measured_signals, signals_of_protocol
from corrsk.simulation.streams import SignalStream

RENAMED_PARAMETERS = {
    "kernel": Renamed("backend", lambda name: "numba" if name == "compiled" else name)
}


# The rate of partial_fit after a whole training, over `learning_rate`. Trainings with a schedule
# end with small steps, and the full rate undoes the last third of the training.
FINE_TUNING = 0.005
# A training has probably memorised its signals if the loss is below this part of the loss of a
# guess; smaller data sets, where this is common, are usually cross-validated.
_MEMORISED = 0.2
_MEMORISABLE = 2000  # signals


class NetworkEstimator(CallbackSupportMixin, EarlierPicklesMixin, BaseEstimator):
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
    callbacks: Any = None
    warm_start: bool = False
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
        "callbacks": [list, tuple, None],
        "warm_start": ["boolean"],
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

    def _choose_network(self) -> None:
        """Store the properties of the network that depend on the signals of a fit.

        The signals are described by `n_features_in_`, `layout_`, `feature_names_in_` if the
        columns have names, and `protocol_` for the signals of a stream.
        """

    def _in_order_of_network(self, signals: NDArray[Any]) -> NDArray[Any]:
        """Reorder columns in the order of `fit` into that of the network's input."""
        return signals

    def _stream_of_network(self, stream: SignalStream) -> SignalStream:
        """Return the stream with its columns in the order of the network's input."""
        return stream

    def _architecture(self) -> dict[str, Any]:
        """Return the fields network, grid_shape, width, n_blocks and dropout of the settings.

        Fields without effect on the network may be missing.
        """
        raise NotImplementedError

    @property
    def _n_outputs(self) -> int:
        """Number of outputs of the fitted network."""
        raise NotImplementedError

    # -- from parameters and data to a training ------------------------------

    def _reset(self) -> None:
        """Become unfitted, so that a failed fit does not leave the net of an earlier fit."""
        for attribute in ("net_", "protocol_"):
            if hasattr(self, attribute):
                delattr(self, attribute)

    def _check_combination(self) -> None:
        """Check that no parameter is without effect because of another one.

        Raises
        ------
        ValueError
            If momentum is given for an optimiser other than "sgd", `n_jobs` is 0, or a checkpoint
            is given together with callbacks or a warm start.
        """
        effective_n_jobs(self.n_jobs)
        if self.checkpoint is not None and (self.callbacks or self.warm_start):
            raise ValueError(
                "a checkpoint stores neither the state of callbacks nor the weights of an earlier "
                "fit; with checkpoint=, callbacks must be None and warm_start False"
            )
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
        self, X: ArrayLike, y: Any = "no_validation", protocol: AcquisitionProtocol | None = None
    ) -> Any:
        """Validate the signals of a new training, and choose the network.

        `protocol` is that of the columns, if the signals are simulated for this training.
        """
        self._check_combination()
        checked = measured_signals(self, X, y, reset=True, dtype=np.float32, order="C")
        _check_precision(checked[0] if isinstance(checked, tuple) else checked, X)
        if hasattr(self, "protocol_"):
            delattr(self, "protocol_")
        if protocol is not None:
            self.protocol_ = protocol
            self.layout_ = layout_of_protocol(None, protocol)
        self._choose_network()
        if isinstance(checked, tuple):
            signals, targets = checked
            return self._in_order_of_network(signals), targets
        return self._in_order_of_network(checked)

    def _further_signals(self, X: ArrayLike, y: Any = "no_validation", **options: Any) -> Any:
        """Validate signals, and targets if given, after :meth:`_first_signals`."""
        checked = signals_of_protocol(self, X, y=y, order="C", **options)
        if isinstance(checked, tuple):
            signals, targets = checked
            return self._in_order_of_network(signals), targets
        return self._in_order_of_network(checked)

    def _train(
        self,
        settings: TrainingSettings,
        source: Source,
        validation: Split | None,
        device: Any,
        earlier: Any = None,
    ) -> Self:
        """Train a net, from the weights of an earlier net if given; store the results."""
        callbacks = checked_callbacks(self.callbacks, has_validation=validation is not None)
        tasks = FitTasks.from_estimator(self, source, settings)
        with threads_for(self.n_jobs, small=has_small_steps(settings)):
            net, history = train_network(
                settings, source, validation, device=device, checkpoint=self.checkpoint,
                progress_delay=PROGRESS_DELAY if self.verbose and not in_worker() else math.inf,
                callbacks=[*callbacks, *tasks.callbacks], earlier=earlier,
            )  # fmt: skip
        self._set_fitted(net, history)
        tasks.end()
        return self

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
        signals = self._further_signals(X)
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

    @property
    def _n_outputs(self) -> int:
        return len(self.classes_)

    @with_callbacks
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
            another one, the training diverges, or a warm start gets other classes or measurements
            than the earlier fit.

        Warns
        -----
        ProtocolWarning
            If a network that needs a grid has to assume the grid of X (the CNN).
        UserWarning
            If the training signals are probably memorised: without validation data, the loss of
            at least 2,000 signals, fewer than the weights of the network, has fallen to a fifth
            of the loss of a guess. Also if, of a warm start and the earlier fit, only one has
            names of columns, and no protocol gives the order.
        """
        earlier = self._earlier_fit()
        self._reset()
        device = resolve_device(self.device)
        protocol = None
        if earlier is not None:
            X = earlier.aligned(X)
            X_val = None if X_val is None else earlier.aligned(X_val)
            protocol = earlier.protocol if earlier.names is None else None
        signals, index = self._first_labelled(X, y, None, protocol)
        if earlier is not None:
            earlier.check(self.classes_, self.n_features_in_)
        weights = self._checked_weights(sample_weight, signals)
        seed = self._checked_seed()
        validation = self._validation_data(X_val, y_val, self.classes_)
        if self.validation_fraction is not None:
            if validation is not None:
                raise ValueError(
                    f"validation_fraction={self.validation_fraction} contradicts X_val and y_val; "
                    "with X_val and y_val leave it None"
                )
            check_held_out(index, self.classes_, self.validation_fraction)
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
        source = ArraySource(signals, index, weights)
        self._train(settings, source, validation, device, earlier.net if earlier else None)
        if validation is None:
            self._warn_if_memorised(len(index))
        return self

    @with_callbacks
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
        earlier = self._earlier_fit()
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
        if earlier is not None:
            stream = earlier.aligned_stream(stream)
            X_val = None if X_val is None else earlier.aligned(X_val)
        X, y = stream.draw(0, 100)
        if earlier is not None:
            X = earlier.with_names(X)
        self._first_labelled(X, y, stream.classes, resolve_protocol(stream.protocol))
        if earlier is not None:
            earlier.check(self.classes_, self.n_features_in_)
        count = np.full(len(self.classes_), n_samples / len(self.classes_))
        settings = self._settings(count, seed, n_samples // self.max_epochs)
        plan = StreamPlan.from_n_samples(n_samples, self.max_epochs, settings.batch_size)
        validation = self._validation_data(X_val, y_val, self.classes_)
        source = StreamSource(self._stream_of_network(stream), plan)
        return self._train(settings, source, validation, device, earlier.net if earlier else None)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Continue the training of the network with one pass over some signals.

        The pass has a constant learning rate, without schedule, early stopping, checkpoint or
        callbacks. A network that only :meth:`partial_fit` has trained learns with the full
        `learning_rate`. After :meth:`fit` or :meth:`fit_stream` with a schedule, also of a loaded
        or pretrained model, the rate is 0.005 times `learning_rate`: schedules end with small
        steps, and steps of the full size would undo the end of the training.

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
            signals, labels = self._further_signals(X, y, dtype=np.float32)
            check_classification_targets(labels)
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
        settings = replace(settings, learning_rate=self._further_rate())
        settings = without_single_signals(settings, len(index))
        with threads_for(self.n_jobs, small=has_small_steps(settings)):
            self.net_, row = train_further(
                settings, ArraySource(signals, index, weights), net=getattr(self, "net_", None),
                call=self.n_iter_, device=device,
            )  # fmt: skip
        self.n_iter_ += 1
        self.history_ = [*self.history_, row | {"epoch": self.n_iter_}]
        return self

    def _further_rate(self) -> float:
        """Learning rate of partial_fit."""
        # only the epochs of a whole training have a rate, also in files of earlier versions
        after_schedule = self.learning_rate_schedule != "constant" and any(
            "learning_rate" in row for row in self.history_
        )
        return self.learning_rate * (FINE_TUNING if after_schedule else 1)

    # -- predictions ---------------------------------------------------------

    def predict_proba(
        self, X: ArrayLike, class_prior: ClassPrior | None = None
    ) -> NDArray[np.float64]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, in any number; they are processed in chunks. Also a volume, an array of shape
            (.., n_measurements).
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            Frequency of each class in the tissue of the signals, up to a common factor. Bayes'
            rule gives the probabilities under this prior. By default, the prior is
            `class_prior_`, the frequencies in the training.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities; the columns are in the order of `classes_`. NaN for signals that are all
            zero. Of a volume maps of shape (.., n_classes).

        Raises
        ------
        ValueError
            If the signals contain NaN or infinite values, the number or the names of the
            columns differ from those of `fit`, or `class_prior` does not match the classes.

        Warns
        -----
        NoSignalWarning
            If signals are all zero; once, with their number.
        """
        check_is_fitted(self)
        if class_prior is not None:
            # an invalid prior is an error before the prediction starts
            checked_class_prior(class_prior, self.classes_)
            self._check_kept("class_prior_", "class_prior")

        def probabilities(signals: NDArray[Any]) -> NDArray[np.float64]:
            with self._threads_for_prediction(signals):
                found = predict_probabilities(self.net_, signals)
            if class_prior is None:
                return found
            return reweighted(found, self.classes_, class_prior, self.class_prior_)

        voxels = Voxels.from_checked(X, self, self._further_signals)
        return voxels.answer(probabilities, len(self.classes_))

    def predict_log_proba(
        self, X: ArrayLike, class_prior: ClassPrior | None = None
    ) -> NDArray[np.float64]:
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Natural logarithms of the probabilities; -inf for a probability of 0.

        Raises
        ------
        ValueError
            As for :meth:`predict_proba`.
        """
        return log_probabilities(self.predict_proba(X, class_prior))

    def predict(self, X: ArrayLike, class_prior: ClassPrior | None = None) -> NDArray[Any]:
        """Predict the most probable class.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, or a volume; see :meth:`predict_proba`.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Labels. Signals that are all zero have the label 0 (no compartment), or, if 0 is a
            class, one less than the smallest label; of text labels "0", or the empty text.

        Raises
        ------
        ValueError
            As for :meth:`predict_proba`.
        """
        return most_probable(self.predict_proba(X, class_prior), self.classes_)

    def predict_multicompartment_proba(
        self, X: ArrayLike, class_prior: ClassPrior | None = None
    ) -> NDArray[np.float64]:
        """Predict the probability of more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, or a volume; see :meth:`predict_proba`.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Sum of the probabilities of the counts >= 2; NaN for signals that are all zero.

        Raises
        ------
        ValueError
            If the labels are neither compartment counts nor binary (False and True, or 0 and 1,
            for more than one compartment); or as for :meth:`predict_proba`.
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
        order and with the normalisation of the training signals; :func:`corrsk.to_onnx` writes a
        Pipeline with these steps. Its output is "probabilities",
        float32 of shape (n_samples, n_classes): NaN for signals that are all zero, and for signals
        with NaN or infinite values. Its metadata contain the labels, under "classes", as JSON.
        """
        to_onnx(self, path)

    # -- labels and settings -------------------------------------------------

    def _warn_if_memorised(self, n_samples: int) -> None:
        """Warn if a training without validation data has probably memorised its signals."""
        if not hasattr(self, "net_") or n_samples < _MEMORISABLE:
            return
        n_weights = sum(parameter.numel() for parameter in self.net_.module_.parameters())
        frequency = self.class_count_[self.class_count_ > 0] / self.class_count_.sum()
        guess = float(-(frequency * np.log(frequency)).sum())
        loss = self.history_[-1]["train_loss"]
        if n_weights > n_samples and loss < _MEMORISED * guess:
            warnings.warn(
                f"the network, with {n_weights:,} weights, has probably memorised the "
                f"{n_samples:,} training signals: the training loss fell to {loss:.2g}. "
                "Predictions for other signals are then overconfident and less accurate. Keep the "
                "best epoch with validation data (X_val and y_val, or validation_fraction=0.1), "
                "use a smaller max_epochs, or train on fresh signals with fit_stream",
                stacklevel=5,
            )

    def _earlier_fit(self) -> EarlierFit | None:
        """Return the earlier fit from which a fit starts; None without a warm start."""
        if not self.warm_start or not hasattr(self, "net_"):
            return None
        return EarlierFit.from_estimator(self)

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
        signals = self._further_signals(X_val, dtype=np.float32)
        labels = column_or_1d(as_numpy(y_val))
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


def check_held_out(index: NDArray[np.int64], classes: NDArray[Any], fraction: float) -> None:
    """Check that a validation fraction leaves training and validation signals of every class.

    Parameters
    ----------
    index : array of shape (n_samples,)
        Position of the class of each signal.
    classes : array of shape (n_classes,)
        The labels.
    fraction : float
        Part of the signals that is held out.

    Raises
    ------
    ValueError
        If a class has a single signal, or one of the two parts has fewer signals than there are
        classes.
    """
    instead = "or pass validation data as X_val and y_val, with validation_fraction=None"
    count = np.bincount(index, minlength=len(classes))
    rare = [repr(label) for label in classes[count == 1].tolist()]
    if rare:
        raise ValueError(
            f"validation_fraction={fraction} needs at least 2 signals of each label, one to train "
            f"and one to validate; y has 1 signal with the label {' and 1 with '.join(rare)}: add "
            f"signals, remove the label, {instead}"
        )
    n_held_out = math.ceil(fraction * len(index))
    sizes = {"validation": n_held_out, "training": len(index) - n_held_out}
    for part, size in sizes.items():
        if size < len(classes):
            # rounded inwards
            low = math.ceil(1000 * len(classes) / len(index)) / 1000
            valid = f"{low:g} to {1 - low:g}" if low <= 0.5 else "none, add signals"
            raise ValueError(
                f"validation_fraction={fraction} of {len(index)} signals leaves {size} {part} "
                f"signals for {len(classes)} classes; valid fractions: {valid}, {instead}"
            )


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


def _check_precision(signals: NDArray[np.float32], X: ArrayLike) -> None:
    """Refuse signals that single precision rounds to zero, or nearly so.

    Raises
    ------
    ValueError
        If no signal is large enough.
    """
    if max(signals.max(), -signals.min()) < np.finfo(np.float32).smallest_normal:
        largest = np.abs(np.asarray(as_numpy(X), dtype=np.float64)).max()
        if largest > 0:
            raise ValueError(
                "X contains only values that are too small for single precision (float32); the "
                f"largest is {largest:.3g}: scale the signals to the order of 1"
            )
