"""Network classifiers of the number of compartments."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from corrsk._utils.deprecation import removed_parameters, renamed_parameters
from corrsk._utils.rng import RandomStateLike
from corrsk._utils.validation import POSITIVE_INTEGER, lookup
from corrsk.acquisition.protocol import (
    AcquisitionProtocol,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.neural._base import RENAMED_PARAMETERS, NetworkClassifier
from corrsk.neural._grid import grid_in_fingerprint, resolve_grid
from corrsk.neural.recipes import RECIPES
from corrsk.neural.training.settings import ModuleFactory
from corrsk.simulation.streams import SignalStream

_MODULE_PREFIX = "module__"
_DROPOUT = [Interval(Real, 0, 1, closed="left")]


def _without_keywords(function: Callable[..., None]) -> Callable[..., None]:
    """Hide `**kwargs` from the signature, which for scikit-learn is the list of parameters."""
    signature = inspect.signature(function)
    kept = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    function.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return function


def _accepting_other_networks(function: Callable[..., None]) -> Callable[..., None]:
    """Accept the parameter `network` of earlier versions in `__init__` for one release."""
    ignored = removed_parameters(
        **dict.fromkeys(("network", "width", "n_blocks"), "the CNN has no such parameter")
    )(function)

    @functools.wraps(function)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        network = kwargs.get("network", "cnn")
        if network == "cnn":
            ignored(self, *args, **kwargs)
            return
        cls: Any = ResidualMLPClassifier if network == "residual-mlp" else ModuleClassifier
        warnings.warn(
            f"CorrelationCNNClassifier trains only the paper's network; for network={network!r} "
            f"use {cls.__name__}; the parameter network will be removed in the next release",
            FutureWarning,
            stacklevel=2,
        )
        if cls is ModuleClassifier:
            kwargs["module"] = network
        given = {
            RENAMED_PARAMETERS[name].name if name in RENAMED_PARAMETERS else name: value
            for name, value in kwargs.items()
        }
        # with network=, the defaults were those of the CNN
        defaults = {
            name: getattr(CorrelationCNNClassifier(), name)
            for name in ("input_scaling", "optimizer", "learning_rate", "precision")
        }
        names = cls._get_param_names()
        self.__class__ = cls
        cls.__init__(self, *args, **{k: v for k, v in (defaults | given).items() if k in names})

    return init


class CorrelationCNNClassifier(NetworkClassifier):
    """Count the compartments of a signal with the convolutional network of the paper.

    The network is :class:`corrsk.neural.networks.CorrelationCNN`. The default parameters are the
    best found for a training of minutes on two cores; :meth:`from_recipe` has the published
    parameters. The network needs signals on a grid of inversion and echo times; for
    other protocols use :class:`ResidualMLPClassifier`.

    Parameters
    ----------
    grid_shape : tuple of int or "auto", default="auto"
        Layout (n_ti, n_te) or (n_ti, n_te, n_b) of the columns; (n_te,) is a single series. "auto"
        is the grid of `protocol`, otherwise that of the feature names (TI50_TE4.5) or of the
        stream, otherwise the shape of X if it is (n_samples, n_ti, n_te). Columns with none of
        these get an assumed layout, with a warning: a square (64 columns the published 8 x 8
        grid), or the smallest grid of at least 6 x 6 with room for the columns. Columns of a known
        protocol may have any order; other columns must be in grid order.
    dropout : float, default=0.0
        Dropout rate after the pooling and after each fully connected layer.
    input_scaling : {"standardize"} or None, default="standardize"
        "standardize" scales each column to mean 0 and variance 1 over the training signals. None
        leaves the signals unchanged.
    optimizer : {"adamw", "sgd", "muon"}, default="adamw"
        Optimiser; "muon" is :class:`corrsk.neural.training.optimizers.MuonWithAdamW`.
    learning_rate : float, default=0.01
        Largest learning rate; the schedule multiplies it with a factor of at most 1.
    learning_rate_schedule : {"one-cycle", "steps", "constant"}, default="one-cycle"
        Learning rate during the training; see :mod:`corrsk.neural.training.schedules`.
    momentum : float or None, default=None
        Momentum of the optimiser "sgd", for which None means 0.9. The momenta of the other
        optimisers are fixed; a number is an error.
    weight_decay : float, default=0.01
        Decoupled weight decay; with "sgd", an L2 penalty on the weights.
    max_epochs : int, default=40
        Largest number of epochs.
    batch_size : int or "auto", default="auto"
        Number of signals of a training step. "auto" is a hundredth of the training signals, but at
        least 16 and at most 500.
    precision : {"float32", "bfloat16", "auto"}, default="float32"
        Precision of the matrix products in training; "auto" is bfloat16 if the machine has
        instructions for bfloat16. Predictions are in float32.
    backend : {"auto", "torch", "numba"}, default="auto"
        Implementation of the training step: torch, or on the processor the compiled kernels of
        the extra `fast`. "auto" is "numba" if possible; on a GPU it is fused kernels if possible,
        otherwise CUDA graphs.
    softmax_before_loss : bool, default=False
        Whether to apply softmax before the cross-entropy, which applies softmax again, as in the
        code published with the paper.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, up to a common factor. "balanced" weights are inversely
        proportional to the frequencies of the classes; None gives equal weights.
    validation_fraction : float or None, default=None
        Fraction of the training signals that `fit` holds out, stratified, as validation data.
        None trains on all signals.
    n_iter_no_change : int or None, default=None
        Number of epochs without a lower loss after which the training stops. The loss is the
        validation loss, or the training loss if there are no validation data. None never stops
        early.
    restore_best : bool, default=True
        Whether to keep the weights of the epoch with the lowest validation loss. Without
        validation data, or with False, the weights of the last epoch are kept.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Device of the training and the predictions. "auto" is a GPU if available.
    checkpoint : path-like or None, default=None
        File in which the state of the training is stored. If the file holds an interrupted run of
        the same training, `fit` resumes it with bit-identical results. A checkpoint needs an
        integer `random_state`. One file serves one training, so that searches cannot use it.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the initial weights, the order of the signals, dropout and the split.
    verbose : bool, default=True
        Whether to show a progress bar if the training takes more than a few seconds.
    callbacks : list of skorch callbacks, or of (name, callback), default=None
        Callbacks of `fit` and `fit_stream`, such as skorch's EpochScoring and EarlyStopping or
        optuna's pruning callback. A callback ends the training by raising
        `corrsk.neural.training.callbacks.StopTraining`; other errors leave `fit`. The net of a
        callback has the positions 0..n_classes-1 as classes. `set_callbacks` has
        scikit-learn's callbacks (from version 1.9 on).
    warm_start : bool, default=False
        Whether a further `fit` or `fit_stream` starts from the weights and the input scaling of
        the earlier fit, instead of random weights. `history_` has the epochs of the last fit.
        The columns keep the names, protocol and order of the earlier fit: the same measurements in
        another order are reordered, and others refused.
    n_jobs : int or None, default=None
        Number of threads on the processor; -1 is all cores. None is one thread if the steps of the
        training, or the whole prediction, are so small that threads would mostly wait for each
        other, and otherwise torch's number (OMP_NUM_THREADS; one within a joblib worker). A
        forked process has one thread.
    protocol : AcquisitionProtocol, str or "auto", default="auto"
        Protocol of the columns, in their order, or its name; its measurements must be a full grid.
        "auto" reads the protocol from the feature names, if any.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    net_ : skorch.NeuralNet
        The trained net, whose `module_` is the torch module. Its `predict_proba` gives
        probabilities and its `predict` positions in `classes_`; signals are not validated. The
        estimator trains the net: `net_.fit` and `net_.partial_fit` are errors.
    class_count_ : ndarray of shape (n_classes,)
        Number of training signals of each class.
    class_prior_ : ndarray of shape (n_classes,)
        Frequencies of the classes in the training, multiplied by class weights and sample weights
        if given: the prior of the predicted probabilities, see :meth:`predict_proba`.
    grid_shape_ : tuple of int
        Layout of the columns.
    column_order_ : ndarray of int or None
        Order of the network's input: ``X[:, column_order_]`` is in grid order. None if X is.
    history_ : list of dict
        For each epoch: epoch, train_loss, learning_rate, seconds, and with validation data
        valid_loss and valid_accuracy. Losses are weighted by `class_weight`, if given.
        `pandas.DataFrame(history_)` is a table of the epochs.
    best_epoch_ : int or None
        The epoch, counted from 1, with the lowest validation loss; None without validation data.
    n_iter_ : int
        Number of epochs, or of calls of :meth:`partial_fit`.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    protocol_ : AcquisitionProtocol
        Protocol of the columns in their order, if `protocol` or their names give it, or the network
        was trained on a stream.
    feature_names_in_ : ndarray of str
        Names of the columns of X, if X is a DataFrame.

    Notes
    -----
    A Pipeline hands only arrays from step to step, so that the classifier cannot see the protocol
    of a :class:`corrsk.CorrelationSignalGenerator` before it. There are two ways to pass the
    protocol on: ``CorrelationCNNClassifier(protocol=protocol)``, with the protocol of the
    generator, or ``pipeline.set_output(transform="pandas")``, upon which the columns have names,
    also in a search over protocols. Without either, each fit warns of the assumed grid with one
    :class:`corrsk.ProtocolWarning`. Names that contradict `protocol` are an error; arrays are
    taken for the measurements of `protocol` if their number is right.

    Endt, Lachermeier and Menzel, "Classification of multiparametric correlation MRI signals using
    deep neural networks", MIDL 2024.

    On the processor, the same `random_state` gives bit-identical results on the same machine with
    the same number of threads and the same backend. On a GPU, the order of sums may differ.

    Examples
    --------
    >>> from corrsk import CorrelationCNNClassifier, make_correlation_signals
    >>> X, y = make_correlation_signals(500, random_state=0)
    >>> model = CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=2, random_state=0)
    >>> model.fit(X, y).predict_proba(X[:3]).shape
    (3, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **NetworkClassifier._parameter_constraints,
        "grid_shape": [StrOptions({"auto"}), tuple, list],
        "dropout": _DROPOUT,
        "input_scaling": [StrOptions({"standardize"}), None],
        "backend": [StrOptions({"auto", "torch", "numba"})],
        "softmax_before_loss": ["boolean"],
        "protocol": [AcquisitionProtocol, str],
    }
    _architecture_name: ClassVar[str] = "cnn"

    @_accepting_other_networks
    @renamed_parameters(**RENAMED_PARAMETERS)
    def __init__(
        self,
        grid_shape: tuple[int, ...] | str = "auto",
        dropout: float = 0.0,
        input_scaling: str | None = "standardize",
        optimizer: str = "adamw",
        learning_rate: float = 0.01,
        learning_rate_schedule: str = "one-cycle",
        momentum: float | None = None,
        weight_decay: float = 0.01,
        max_epochs: int = 40,
        batch_size: int | str = "auto",
        precision: str = "float32",
        backend: str = "auto",
        softmax_before_loss: bool = False,
        class_weight: dict[Any, float] | str | None = None,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        restore_best: bool = True,
        device: str = "auto",
        checkpoint: Any = None,
        random_state: RandomStateLike = None,
        verbose: bool = True,
        callbacks: Any = None,
        warm_start: bool = False,
        n_jobs: int | None = None,
        protocol: AcquisitionProtocol | str = "auto",
    ) -> None:
        self.grid_shape = grid_shape
        self.dropout = dropout
        self.input_scaling = input_scaling
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.precision = precision
        self.backend = backend
        self.softmax_before_loss = softmax_before_loss
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.restore_best = restore_best
        self.device = device
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.protocol = protocol

    @classmethod
    def from_recipe(cls, name: str, **changes: Any) -> Any:
        """Make a classifier with the parameters of a named training.

        Parameters
        ----------
        name : {"default", "paper"}
            "paper" is the published training: SGD with momentum 0.9, a learning rate that falls
            from 1 in 5 steps, 3000 epochs, batches of 10,000, dropout 0.2, and softmax both before
            and in the cross-entropy. One difference: with validation data, corrsk keeps the
            weights of the best epoch; the published code keeps the last.
        **changes
            Parameters that replace those of the recipe.

        Returns
        -------
        CorrelationCNNClassifier
            Unfitted classifier.

        Raises
        ------
        ValueError
            If the name is unknown; the message lists the valid names.
        """
        recipe = lookup(RECIPES, name, "recipe")
        if recipe.estimator != cls.__name__:
            warnings.warn(
                f"the recipe {name!r} is for {recipe.estimator}; call {recipe.estimator}."
                "from_recipe, because CorrelationCNNClassifier.from_recipe will not accept it "
                "from the next release on",
                FutureWarning,
                stacklevel=2,
            )
            return classifier_from_recipe(name, **changes)
        return cls(**{**recipe.parameters, **changes})

    def _choose_network(self) -> None:
        of_stream: AcquisitionProtocol | None = getattr(self, "protocol_", None)
        protocol = self._protocol_of_columns(of_stream)
        layout = self.layout_ if of_stream is None else None
        grid = resolve_grid(self.grid_shape, self.n_features_in_, layout, protocol)
        self.grid_shape_, self.column_order_ = grid
        if protocol is not None:
            self.protocol_ = protocol
        if grid.order is None and (protocol is not None or self.grid_shape != "auto"):
            self.layout_ = self.grid_shape_

    def _in_order_of_network(self, signals: NDArray[Any]) -> NDArray[Any]:
        order = getattr(self, "column_order_", None)  # absent in files of earlier versions
        return signals if order is None else np.take(signals, order, axis=1)

    def _stream_of_network(self, stream: SignalStream) -> SignalStream:
        if self.column_order_ is None:
            return stream
        # equal protocols have the same signals in any order of the columns
        protocol = resolve_protocol(stream.protocol).in_grid_order()
        return replace(stream, protocol=protocol)

    def _protocol_of_columns(
        self, of_stream: AcquisitionProtocol | None
    ) -> AcquisitionProtocol | None:
        """Return the protocol of the columns, in their order; None if unknown."""
        given = None if self.protocol == "auto" else resolve_protocol(self.protocol)
        if of_stream is None:
            return protocol_of_columns(getattr(self, "feature_names_in_", None), given) or given
        if given is not None and given != of_stream:
            raise ValueError(
                f"protocol is {given!r}, but the earlier fit or stream has {of_stream!r}"
            )
        return of_stream

    def _architecture(self) -> dict[str, Any]:
        return {"network": "cnn", "grid_shape": self.grid_shape_, "dropout": self.dropout}


class ResidualMLPClassifier(NetworkClassifier):
    """Count the compartments of a signal with a residual multilayer perceptron.

    The network is :class:`corrsk.neural.networks.ResidualMLP`, for any protocol and any order of
    the measurements. Trained on a stream of fresh signals (:meth:`fit_stream`), the network comes
    close to the best possible classifier.

    Parameters
    ----------
    width : int, default=256
        Width of the residual blocks.
    n_blocks : int, default=3
        Number of residual blocks.
    dropout : float, default=0.0
        Dropout rate within the blocks.
    input_scaling : {"half-whiten", "standardize"} or None, default="half-whiten"
        "half-whiten" replaces signals by their half-whitened principal components, see
        :class:`corrsk.neural.networks.HalfWhitenedNetwork`; "standardize" scales each column to
        mean 0 and variance 1 over the training signals. None leaves the signals unchanged.
    optimizer : {"adamw", "sgd", "muon"}, default="muon"
        Optimiser; "muon" is :class:`corrsk.neural.training.optimizers.MuonWithAdamW`.
    learning_rate : float, default=0.005
        Largest learning rate; the schedule multiplies it with a factor of at most 1.
    learning_rate_schedule : {"one-cycle", "steps", "constant"}, default="one-cycle"
        Learning rate during the training; see :mod:`corrsk.neural.training.schedules`.
    momentum : float or None, default=None
        Momentum of the optimiser "sgd", for which None means 0.9. The momenta of the other
        optimisers are fixed; a number is an error.
    weight_decay : float, default=0.01
        Decoupled weight decay; with "sgd", an L2 penalty on the weights.
    max_epochs : int, default=40
        Largest number of epochs.
    batch_size : int or "auto", default="auto"
        Number of signals of a training step. "auto" is a hundredth of the training signals, but at
        least 16 and at most 2,000.
    precision : {"float32", "bfloat16", "auto"}, default="auto"
        Precision of the matrix products in training; "auto" is bfloat16 if the machine has
        instructions for bfloat16. Predictions are in float32.
    backend : {"auto", "torch"}, default="auto"
        Implementation of the training step. "auto" is CUDA graphs on a GPU, otherwise "torch".
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, up to a common factor. "balanced" weights are inversely
        proportional to the frequencies of the classes; None gives equal weights.
    validation_fraction : float or None, default=None
        Fraction of the training signals that `fit` holds out, stratified, as validation data.
        None trains on all signals.
    n_iter_no_change : int or None, default=None
        Number of epochs without a lower loss after which the training stops. The loss is the
        validation loss, or the training loss if there are no validation data. None never stops
        early.
    restore_best : bool, default=True
        Whether to keep the weights of the epoch with the lowest validation loss. Without
        validation data, or with False, the weights of the last epoch are kept.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Device of the training and the predictions. "auto" is a GPU if available.
    checkpoint : path-like or None, default=None
        File in which the state of the training is stored. If the file holds an interrupted run of
        the same training, `fit` resumes it with bit-identical results. A checkpoint needs an
        integer `random_state`. One file serves one training, so that searches cannot use it.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the initial weights, the order of the signals, dropout and the split.
    verbose : bool, default=True
        Whether to show a progress bar if the training takes more than a few seconds.
    callbacks : list of skorch callbacks, or of (name, callback), default=None
        Callbacks of `fit` and `fit_stream`, such as skorch's EpochScoring and EarlyStopping or
        optuna's pruning callback. A callback ends the training by raising
        `corrsk.neural.training.callbacks.StopTraining`; other errors leave `fit`. The net of a
        callback has the positions 0..n_classes-1 as classes. `set_callbacks` has
        scikit-learn's callbacks (from version 1.9 on).
    warm_start : bool, default=False
        Whether a further `fit` or `fit_stream` starts from the weights and the input scaling of
        the earlier fit, instead of random weights. `history_` has the epochs of the last fit.
        The columns keep the names, protocol and order of the earlier fit: the same measurements in
        another order are reordered, and others refused.
    n_jobs : int or None, default=None
        Number of threads on the processor; -1 is all cores. None is one thread if the steps of the
        training, or the whole prediction, are so small that threads would mostly wait for each
        other, and otherwise torch's number (OMP_NUM_THREADS; one within a joblib worker). A
        forked process has one thread.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    net_ : skorch.NeuralNet
        The trained net, whose `module_` is the torch module. Its `predict_proba` gives
        probabilities and its `predict` positions in `classes_`; signals are not validated. The
        estimator trains the net: `net_.fit` and `net_.partial_fit` are errors.
    class_count_ : ndarray of shape (n_classes,)
        Number of training signals of each class.
    class_prior_ : ndarray of shape (n_classes,)
        Frequencies of the classes in the training, multiplied by class weights and sample weights
        if given: the prior of the predicted probabilities, see :meth:`predict_proba`.
    history_ : list of dict
        For each epoch: epoch, train_loss, learning_rate, seconds, and with validation data
        valid_loss and valid_accuracy. Losses are weighted by `class_weight`, if given.
        `pandas.DataFrame(history_)` is a table of the epochs.
    best_epoch_ : int or None
        The epoch, counted from 1, with the lowest validation loss; None without validation data.
    n_iter_ : int
        Number of epochs, or of calls of :meth:`partial_fit`.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    protocol_ : AcquisitionProtocol
        Protocol of the columns, if the network was trained on a stream.
    feature_names_in_ : ndarray of str
        Names of the columns of X, if X is a DataFrame.

    Notes
    -----
    On the processor, the same `random_state` gives bit-identical results on the same machine with
    the same number of threads and the same backend. On a GPU, the order of sums may differ.

    Examples
    --------
    >>> from corrsk import ResidualMLPClassifier, make_correlation_signals
    >>> X, y = make_correlation_signals(500, random_state=0)
    >>> model = ResidualMLPClassifier(max_epochs=2, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:3]).shape
    (3, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **NetworkClassifier._parameter_constraints,
        "width": [POSITIVE_INTEGER],
        "n_blocks": [Interval(Integral, 0, None, closed="left")],
        "dropout": _DROPOUT,
    }
    _architecture_name: ClassVar[str] = "residual-mlp"
    _largest_auto_batch: ClassVar[int] = 2000

    def __init__(
        self,
        width: int = 256,
        n_blocks: int = 3,
        dropout: float = 0.0,
        input_scaling: str | None = "half-whiten",
        optimizer: str = "muon",
        learning_rate: float = 0.005,
        learning_rate_schedule: str = "one-cycle",
        momentum: float | None = None,
        weight_decay: float = 0.01,
        max_epochs: int = 40,
        batch_size: int | str = "auto",
        precision: str = "auto",
        backend: str = "auto",
        class_weight: dict[Any, float] | str | None = None,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        restore_best: bool = True,
        device: str = "auto",
        checkpoint: Any = None,
        random_state: RandomStateLike = None,
        verbose: bool = True,
        callbacks: Any = None,
        warm_start: bool = False,
        n_jobs: int | None = None,
    ) -> None:
        self.width = width
        self.n_blocks = n_blocks
        self.dropout = dropout
        self.input_scaling = input_scaling
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.precision = precision
        self.backend = backend
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.restore_best = restore_best
        self.device = device
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.n_jobs = n_jobs

    @classmethod
    def from_recipe(cls, name: str = "residual-mlp", **changes: Any) -> ResidualMLPClassifier:
        """Make a classifier with the parameters of a named training.

        Parameters
        ----------
        name : {"residual-mlp"}
            "residual-mlp" is the training of the pretrained models, with batches of 2,000 signals.
        **changes
            Parameters that replace those of the recipe.

        Returns
        -------
        ResidualMLPClassifier
            Unfitted classifier.

        Raises
        ------
        ValueError
            If the name is unknown or the recipe is for another estimator; the message lists the
            valid names.
        """
        known = {key: recipe for key, recipe in RECIPES.items() if recipe.estimator == cls.__name__}
        return cls(**{**lookup(known, name, "recipe").parameters, **changes})

    def _choose_network(self) -> None:
        # the grid is part of a checkpoint's fingerprint, but without effect on the network
        self._stored_grid = grid_in_fingerprint(
            self.n_features_in_, self.layout_, getattr(self, "feature_names_in_", None)
        )

    def _architecture(self) -> dict[str, Any]:
        return {
            "network": "residual-mlp", "grid_shape": getattr(self, "_stored_grid", ()),
            "width": self.width, "n_blocks": self.n_blocks, "dropout": self.dropout,
        }  # fmt: skip


class ModuleClassifier(NetworkClassifier):
    """Count the compartments of a signal with a torch module of your choice.

    Parameters
    ----------
    module : torch.nn.Module, class of modules, or None, default=None
        Module that maps signals (n_samples, n_measurements) to logits (n_samples, n_classes). The
        training starts from the weights of the module and changes a copy only. A class, or
        another function that returns a module, is called in each fit with the further parameters
        whose names begin with `module__`, which may be set and searched like the others: with
        ``ModuleClassifier(MyNetwork, module__hidden=64)`` as ``MyNetwork(hidden=64)``. Its
        weights are drawn with `random_state`. None is a linear layer, that is, logistic
        regression.
    input_scaling : {"standardize", "half-whiten"} or None, default="standardize"
        Transformation of the signals before the module. "standardize" scales each column to mean 0
        and variance 1 over the training signals; "half-whiten" replaces signals by their
        half-whitened principal components, see
        :class:`corrsk.neural.networks.HalfWhitenedNetwork`. None leaves the signals unchanged.
    optimizer : {"adamw", "sgd", "muon"}, default="adamw"
        Optimiser; "muon" is :class:`corrsk.neural.training.optimizers.MuonWithAdamW`.
    learning_rate : float, default=0.01
        Largest learning rate; the schedule multiplies it with a factor of at most 1.
    learning_rate_schedule : {"one-cycle", "steps", "constant"}, default="one-cycle"
        Learning rate during the training; see :mod:`corrsk.neural.training.schedules`.
    momentum : float or None, default=None
        Momentum of the optimiser "sgd", for which None means 0.9. The momenta of the other
        optimisers are fixed; a number is an error.
    weight_decay : float, default=0.01
        Decoupled weight decay; with "sgd", an L2 penalty on the weights.
    max_epochs : int, default=40
        Largest number of epochs.
    batch_size : int or "auto", default="auto"
        Number of signals of a training step. "auto" is a hundredth of the training signals, but at
        least 16 and at most 500. If the module has batch normalisation, batches are
        enlarged where the last one would be a single signal.
    precision : {"float32", "bfloat16", "auto"}, default="float32"
        Precision of the matrix products in training; "auto" is bfloat16 if the machine has
        instructions for bfloat16. Predictions are in float32.
    backend : {"auto", "torch"}, default="auto"
        Implementation of the training step. "auto" is "torch", but CUDA graphs on a GPU if the
        module has only layers of torch.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, up to a common factor. "balanced" weights are inversely
        proportional to the frequencies of the classes; None gives equal weights.
    validation_fraction : float or None, default=None
        Fraction of the training signals that `fit` holds out, stratified, as validation data.
        None trains on all signals.
    n_iter_no_change : int or None, default=None
        Number of epochs without a lower loss after which the training stops. The loss is the
        validation loss, or the training loss if there are no validation data. None never stops
        early.
    restore_best : bool, default=True
        Whether to keep the weights of the epoch with the lowest validation loss. Without
        validation data, or with False, the weights of the last epoch are kept.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Device of the training and the predictions. "auto" is a GPU if available.
    checkpoint : path-like or None, default=None
        File in which the state of the training is stored. If the file holds an interrupted run of
        the same training, `fit` resumes it with bit-identical results. A checkpoint needs an
        integer `random_state`. One file serves one training, so that searches cannot use it.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the initial weights, the order of the signals, dropout and the split.
    verbose : bool, default=True
        Whether to show a progress bar if the training takes more than a few seconds.
    callbacks : list of skorch callbacks, or of (name, callback), default=None
        Callbacks of `fit` and `fit_stream`, such as skorch's EpochScoring and EarlyStopping or
        optuna's pruning callback. A callback ends the training by raising
        `corrsk.neural.training.callbacks.StopTraining`; other errors leave `fit`. The net of a
        callback has the positions 0..n_classes-1 as classes. `set_callbacks` has
        scikit-learn's callbacks (from version 1.9 on).
    warm_start : bool, default=False
        Whether a further `fit` or `fit_stream` starts from the weights and the input scaling of
        the earlier fit, instead of those of `module`. `history_` has the epochs of the last fit.
        The columns keep the names, protocol and order of the earlier fit: the same measurements in
        another order are reordered, and others refused.
    n_jobs : int or None, default=None
        Number of threads on the processor; -1 is all cores. None is one thread if the steps of the
        training, or the whole prediction, are so small that threads would mostly wait for each
        other, and otherwise torch's number (OMP_NUM_THREADS; one within a joblib worker). A
        forked process has one thread.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    net_ : skorch.NeuralNet
        The trained net, whose `module_` is the torch module. Its `predict_proba` gives
        probabilities and its `predict` positions in `classes_`; signals are not validated. The
        estimator trains the net: `net_.fit` and `net_.partial_fit` are errors.
    class_count_ : ndarray of shape (n_classes,)
        Number of training signals of each class.
    class_prior_ : ndarray of shape (n_classes,)
        Frequencies of the classes in the training, multiplied by class weights and sample weights
        if given: the prior of the predicted probabilities, see :meth:`predict_proba`.
    history_ : list of dict
        For each epoch: epoch, train_loss, learning_rate, seconds, and with validation data
        valid_loss and valid_accuracy. Losses are weighted by `class_weight`, if given.
        `pandas.DataFrame(history_)` is a table of the epochs.
    best_epoch_ : int or None
        The epoch, counted from 1, with the lowest validation loss; None without validation data.
    n_iter_ : int
        Number of epochs, or of calls of :meth:`partial_fit`.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    protocol_ : AcquisitionProtocol
        Protocol of the columns, if the network was trained on a stream.
    feature_names_in_ : ndarray of str
        Names of the columns of X, if X is a DataFrame.

    Notes
    -----
    On the processor, the same `random_state` gives bit-identical results on the same machine with
    the same number of threads and the same backend. On a GPU, the order of sums may differ.

    Examples
    --------
    >>> import torch
    >>> from corrsk import ModuleClassifier, make_correlation_signals
    >>> X, y = make_correlation_signals(500, random_state=0)
    >>> module = torch.nn.Sequential(
    ...     torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
    ... )
    >>> ModuleClassifier(module, max_epochs=2, random_state=0).fit(X, y).predict(X[:3]).shape
    (3,)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **NetworkClassifier._parameter_constraints,
        "module": [callable, None],
    }
    _architecture_name: ClassVar[str] = "module"

    @_without_keywords
    def __init__(
        self,
        module: nn.Module | Callable[..., nn.Module] | None = None,
        input_scaling: str | None = "standardize",
        optimizer: str = "adamw",
        learning_rate: float = 0.01,
        learning_rate_schedule: str = "one-cycle",
        momentum: float | None = None,
        weight_decay: float = 0.01,
        max_epochs: int = 40,
        batch_size: int | str = "auto",
        precision: str = "float32",
        backend: str = "auto",
        class_weight: dict[Any, float] | str | None = None,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        restore_best: bool = True,
        device: str = "auto",
        checkpoint: Any = None,
        random_state: RandomStateLike = None,
        verbose: bool = True,
        callbacks: Any = None,
        warm_start: bool = False,
        n_jobs: int | None = None,
        **module_parameters: Any,
    ) -> None:
        unknown = [name for name in module_parameters if not name.startswith(_MODULE_PREFIX)]
        if unknown:
            raise TypeError(
                f"ModuleClassifier got unexpected parameters {', '.join(unknown)}; arguments of "
                f"the module have the prefix {_MODULE_PREFIX}"
            )
        self.__dict__.update(module_parameters)
        self.module = module
        self.input_scaling = input_scaling
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.precision = precision
        self.backend = backend
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.restore_best = restore_best
        self.device = device
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.n_jobs = n_jobs

    def _choose_network(self) -> None:
        # the grid is part of a checkpoint's fingerprint, but without effect on the module
        self._stored_grid = grid_in_fingerprint(
            self.n_features_in_, self.layout_, getattr(self, "feature_names_in_", None)
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the estimator.

        Parameters
        ----------
        deep : bool, default=True
            Without effect, because no parameter is an estimator.

        Returns
        -------
        dict
            Values by parameter name, with the arguments of the module's class.
        """
        return super().get_params(deep=deep) | self._module_parameters

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the estimator.

        Parameters
        ----------
        **params : dict
            Values by parameter name; names with the prefix `module__` are arguments of the
            module's class.

        Returns
        -------
        object
            The estimator itself.
        """
        own = {name: value for name, value in params.items() if name.startswith(_MODULE_PREFIX)}
        super().set_params(**{name: params[name] for name in params.keys() - own.keys()})
        self.__dict__.update(own)
        return self

    @property
    def _module_parameters(self) -> dict[str, Any]:
        return {
            name: value for name, value in vars(self).items() if name.startswith(_MODULE_PREFIX)
        }

    def _check_combination(self) -> None:
        super()._check_combination()
        given = self._module_parameters
        if given and (self.module is None or isinstance(self.module, nn.Module)):
            raise ValueError(
                f"{', '.join(given)} are arguments of a class of modules, but module is "
                f"{'None' if self.module is None else 'a module'}; pass the class itself"
            )

    def _architecture(self) -> dict[str, Any]:
        network = "linear" if self.module is None else self.module
        if not isinstance(network, str | nn.Module):
            network = ModuleFactory(
                network,
                {
                    name.removeprefix(_MODULE_PREFIX): value
                    for name, value in self._module_parameters.items()
                },
            )
        return {
            "network": network,
            "grid_shape": getattr(self, "_stored_grid", ()),
        }


# the network classifiers by class name
NETWORK_CLASSIFIERS: dict[str, type[NetworkClassifier]] = {
    cls.__name__: cls for cls in (CorrelationCNNClassifier, ResidualMLPClassifier, ModuleClassifier)
}


def classifier_from_recipe(name: str, **changes: Any) -> NetworkClassifier:
    """Make the classifier of a named training.

    Parameters
    ----------
    name : {"default", "paper", "residual-mlp"}
        See :meth:`CorrelationCNNClassifier.from_recipe` and
        :meth:`ResidualMLPClassifier.from_recipe`.
    **changes
        Parameters that replace those of the recipe.

    Returns
    -------
    CorrelationCNNClassifier or ResidualMLPClassifier
        Unfitted classifier.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid names.
    """
    recipe = lookup(RECIPES, name, "recipe")
    return NETWORK_CLASSIFIERS[recipe.estimator](**{**recipe.parameters, **changes})
