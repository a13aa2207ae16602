"""The CNN of the paper as a scikit-learn classifier."""

from __future__ import annotations

import math
import os
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.random import Generator, RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import Tags, compute_class_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from corrsk import _random, training
from corrsk._checks import lookup
from corrsk._counts import is_multicompartment, multicompartment_probability
from corrsk._parallel import PROGRESS_DELAY, in_worker
from corrsk.generator import flatten_signals, layout_of
from corrsk.networks import resolve_grid
from corrsk.recipes import RECIPES


class CorrelationCNNClassifier(ClassifierMixin, BaseEstimator):
    """Tell the number of compartments of a signal with the paper's CNN.

    The network is :class:`corrsk.networks.CorrelationCNN`, trained by skorch.
    The defaults are the best training found for it within minutes on two
    cores; :meth:`from_recipe` has the published one.

    Parameters
    ----------
    grid_shape : tuple of int or "auto", default="auto"
        (n_ti, n_te) or (n_ti, n_te, n_b): how the N columns, in grid order, are
        laid out. "auto" takes it from the shape of X, if that is (n, n_ti, n_te),
        else from the feature names (TI50_TE4.5), else a square, else the smallest
        grid of at least 6 x 6 that holds the columns, filled up with zeros. In a
        Pipeline, ``set_output(transform="pandas")`` hands the names on, which a
        protocol that is not square needs.
    dropout : float, default=0.0
        Dropout rate.
    standardize : bool, default=True
        Whether to shift and scale each column to mean 0 and variance 1 over the
        training signals, before the network.
    optimizer : {"adamw", "sgd"}, default="adamw"
    learning_rate : float, default=0.01
        Full learning rate.
    learning_rate_schedule : {"one-cycle", "steps", "constant"}, default="one-cycle"
        See :mod:`corrsk.training.schedules`.
    momentum : float, default=0.9
        For "sgd".
    weight_decay : float, default=0.01
    max_epochs : int, default=40
    batch_size : int or "auto", default="auto"
        "auto" is 500, and less for fewer than 50,000 signals: a hundredth of
        their number, but at least 16.
    softmax_before_loss : bool, default=False
        Whether to apply softmax before the cross-entropy, which applies it
        again; as in the code published with the paper.
    class_weight : dict, "balanced" or None, default=None
    validation_fraction : float or None, default=None
        Part of the training signals to hold out, stratified, where `fit` gets no
        validation data. None trains on all.
    n_iter_no_change : int or None, default=None
        Stop after so many epochs without a lower loss: the validation loss, or
        without validation data the training loss. None never stops early.
    restore_best : bool, default=True
        Whether to end with the weights of the epoch with the lowest validation
        loss, where there is validation data; else with the last ones.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        "auto" takes a GPU if there is one.
    checkpoint : path-like or None, default=None
        File in which the state of the training is kept. A `fit` that finds
        there the state of the same training, cut off, goes on with it and ends
        with the same bits; that needs an integer `random_state`. One file serves
        one training: not for searches and cross-validation.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the weights, the order of the signals, dropout and the split.
    verbose : bool, default=True
        Whether to show progress once the training takes a few seconds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    net_ : skorch.NeuralNetClassifier
        The trained net; `net_.module_` is the torch module.
    grid_shape_ : tuple of int
    history_ : list of dict
        For each epoch: epoch, train_loss, learning_rate, seconds, and with
        validation data valid_loss and valid_accuracy. `pandas.DataFrame(history_)`.
        The losses are weighted by `class_weight`, if that is given.
    best_epoch_ : int or None
        The epoch with the lowest validation loss.
    n_iter_ : int
        Number of epochs run.
    n_features_in_ : int
    feature_names_in_ : ndarray of str

    Notes
    -----
    Endt, Lachermeier and Menzel, "Classification of multiparametric
    correlation MRI signals using deep neural networks", MIDL 2024.

    On the processor the same `random_state` gives the same bits, on the same
    machine with the same number of threads. On a GPU, sums may differ in order.

    Examples
    --------
    >>> from corrsk import CorrelationCNNClassifier, make_correlation_signals
    >>> X, y = make_correlation_signals(500, random_state=0)
    >>> model = CorrelationCNNClassifier(max_epochs=2, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:3]).shape
    (3, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "grid_shape": [StrOptions({"auto"}), tuple, list],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "standardize": ["boolean"],
        "optimizer": [StrOptions({"adamw", "sgd"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "learning_rate_schedule": [StrOptions(set(training.SCHEDULES))],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "softmax_before_loss": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
        "restore_best": ["boolean"],
        "device": [str],
        "checkpoint": [str, os.PathLike, None],
        "random_state": [Interval(Integral, 0, None, closed="left"), RandomState, Generator, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        grid_shape: tuple[int, ...] | str = "auto",
        dropout: float = 0.0,
        standardize: bool = True,
        optimizer: str = "adamw",
        learning_rate: float = 0.01,
        learning_rate_schedule: str = "one-cycle",
        momentum: float = 0.9,
        weight_decay: float = 0.01,
        max_epochs: int = 40,
        batch_size: int | str = "auto",
        softmax_before_loss: bool = False,
        class_weight: dict[Any, float] | str | None = None,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        restore_best: bool = True,
        device: str = "auto",
        checkpoint: Any = None,
        random_state: _random.RandomState = None,
        verbose: bool = True,
    ) -> None:
        self.grid_shape = grid_shape
        self.dropout = dropout
        self.standardize = standardize
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.softmax_before_loss = softmax_before_loss
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.restore_best = restore_best
        self.device = device
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def from_recipe(cls, name: str, **changes: Any) -> CorrelationCNNClassifier:
        """A classifier with the parameters of a named training.

        Parameters
        ----------
        name : {"default", "paper"}
            "paper" is the published training: SGD with momentum 0.9, learning
            rate 1 falling in 5 steps, 3000 epochs, batches of 10,000, dropout
            0.2, and softmax before a cross-entropy that applies it again. One
            difference: corrsk ends with the best epoch's weights where the
            published code keeps the last.
        **changes
            Parameters that replace those of the recipe.

        Raises
        ------
        ValueError
            If the name is unknown; the message lists the known ones.
        """
        return cls(**{**lookup(RECIPES, name, "recipe"), **changes})

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> CorrelationCNNClassifier:
        """Train the network.

        Parameters
        ----------
        X : array of shape (n, N) or (n, n_ti, n_te)
            Signals in grid order.
        y : array of shape (n,)
            Labels: the compartment counts.
        X_val, y_val : arrays like X and y, optional
            Validation data, for the choice of the best epoch and early
            stopping. In a Pipeline: ``transform_input=["X_val"]``.

        Returns
        -------
        CorrelationCNNClassifier
            The classifier itself.

        Raises
        ------
        ValueError
            If the signals hold NaN or infinite values, y has a single class,
            validation data do not fit, a parameter is out of range, or the training
            diverges.
        """
        if hasattr(self, "net_"):
            delattr(self, "net_")  # a fit that fails must not leave the net of an earlier one
        device = training.resolve_device(self.device)
        if self.checkpoint is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                "a checkpoint needs an integer random_state, by which a later fit can tell that it "
                f"is the same training; got {self.random_state!r}"
            )
        layout = layout_of(X)
        signals, labels = validate_data(self, flatten_signals(X), y, dtype=np.float32, order="C")
        check_classification_targets(labels)
        classes, index = np.unique(labels, return_inverse=True)
        if classes.size < 2:
            raise ValueError(
                f"y must hold at least two classes; got 1 class, {classes.tolist()[0]!r}"
            )
        seed = _random.entropy(self.random_state)
        grid_shape = resolve_grid(
            self.grid_shape, self.n_features_in_, layout, getattr(self, "feature_names_in_", ())
        )
        validation = self._validation_data(X_val, y_val, classes)
        if validation is None and self.validation_fraction is not None:
            signals, held_out, index, held_out_index = train_test_split(
                signals, index, test_size=self.validation_fraction, stratify=index,
                random_state=int(_random.generator(seed, 2).integers(2**32)),
            )  # fmt: skip
            validation = (held_out, held_out_index)
        net, history = training.train_network(
            self._settings(classes, index, grid_shape, seed),
            (signals, index), validation, device=device, checkpoint=self.checkpoint,
            progress_delay=PROGRESS_DELAY if self.verbose and not in_worker() else math.inf,
        )  # fmt: skip
        self.classes_ = classes
        self.grid_shape_ = grid_shape
        self.history_ = history
        self.n_iter_ = len(self.history_)
        losses = [row["valid_loss"] for row in self.history_ if "valid_loss" in row]
        self.best_epoch_ = int(np.argmin(losses)) + 1 if losses else None
        self.net_ = net
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class.

        Parameters
        ----------
        X : array of shape (n, N) or (n, n_ti, n_te)
            Signals, in any number: they are worked off in chunks.

        Returns
        -------
        ndarray of shape (n, n_classes)
            In the order of `classes_`.
        """
        check_is_fitted(self)
        signals = validate_data(
            self, flatten_signals(X), reset=False, dtype=(np.float32, np.float64), order="C"
        )
        return training.predict_probabilities(self.net_, signals)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class.

        Parameters
        ----------
        X : array of shape (n, N) or (n, n_ti, n_te)
            Signals.

        Returns
        -------
        ndarray of shape (n,)
            Labels.
        """
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def predict_multicompartment_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability that there is more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array of shape (n, N) or (n, n_ti, n_te)
            Signals.

        Returns
        -------
        ndarray of shape (n,)

        Raises
        ------
        ValueError
            If the labels are not counts.
        """
        check_is_fitted(self)
        is_multicompartment(self.classes_)  # labels that are no counts: an error before the work
        return multicompartment_probability(self.predict_proba(X), self.classes_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    # -- from parameters to parts -------------------------------------------

    def _validation_data(
        self, X_val: ArrayLike | None, y_val: ArrayLike | None, classes: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            raise ValueError("validation data need both X_val and y_val")
        signals = validate_data(
            self, flatten_signals(X_val), reset=False, dtype=np.float32, order="C"
        )
        labels = column_or_1d(y_val)
        if signals.shape[0] != labels.shape[0]:
            raise ValueError(
                f"X_val has {signals.shape[0]} signals but y_val {labels.shape[0]} labels"
            )
        extra = np.setdiff1d(labels, classes).tolist()
        if extra:
            raise ValueError(f"y_val holds labels that y does not: {extra}")
        return signals, np.searchsorted(classes, labels)

    def _settings(
        self,
        classes: NDArray[Any],
        index: NDArray[np.int64],
        grid_shape: tuple[int, ...],
        seed: int,
    ) -> training.TrainingSettings:
        weights = None
        if self.class_weight is not None:
            weights = compute_class_weight(self.class_weight, classes=classes, y=classes[index])
            if weights.min() < 0 or weights[index].mean() == 0:
                raise ValueError(
                    f"class_weight must not be negative or all zero, got {self.class_weight}"
                )
            weights = weights / weights[index].mean()  # the learning rate keeps its meaning
        return training.TrainingSettings(
            grid_shape=grid_shape,
            n_classes=len(classes),
            dropout=self.dropout,
            standardize=self.standardize,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            learning_rate_schedule=self.learning_rate_schedule,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            max_epochs=self.max_epochs,
            batch_size=training.resolve_batch_size(self.batch_size, len(index)),
            softmax_before_loss=self.softmax_before_loss,
            class_weights=None if weights is None else tuple(map(float, weights)),
            patience=self.n_iter_no_change,
            restore_best=self.restore_best,
            seed=seed,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
