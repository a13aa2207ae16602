"""The CNN of the paper, and its successors, as a scikit-learn classifier."""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.random import Generator, RandomState
from numpy.typing import ArrayLike
from sklearn.base import _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils._param_validation import Interval, StrOptions

from corrsk._utils.rng import RandomStateLike, keyed_generator
from corrsk._utils.validation import checked_count, lookup
from corrsk.neural import training
from corrsk.neural._base import _NetworkClassifier, class_index
from corrsk.neural.recipes import RECIPES
from corrsk.simulation.streams import SignalStream


class CorrelationCNNClassifier(_NetworkClassifier):
    """Tell the number of compartments of a signal with the paper's CNN, or another network.

    The default is the paper's, :class:`corrsk.neural.networks.CorrelationCNN`, with the best
    training found for it within minutes on two cores; :meth:`from_recipe` has the published
    one, and that of a larger network which comes close to the best possible classifier.

    Parameters
    ----------
    network : {"cnn", "residual-mlp"} or torch.nn.Module, default="cnn"
        "cnn" is the paper's; "residual-mlp", :class:`corrsk.neural.networks.ResidualMLP`, takes
        any protocol. A module of one's own turns signals (n, N) into logits (n, n_classes);
        a copy of it is trained, from the weights that it has.
    grid_shape : tuple of int or "auto", default="auto"
        For the CNN alone. (n_ti, n_te) or (n_ti, n_te, n_b): how the N columns, in grid
        order, are laid out. "auto" takes it from the shape of X, if that is (n, n_ti, n_te),
        else from the feature names (TI50_TE4.5), else a square, else the smallest
        grid of at least 6 x 6 that holds the columns, filled up with zeros. In a
        Pipeline, ``set_output(transform="pandas")`` hands the names on, which a
        protocol that is not square needs.
    dropout : float, default=0.0
    width, n_blocks : int, default=256, 3
        Of the residual MLP.
    input_scaling : {"standardize", "half-whiten"} or None, default="standardize"
        What happens to the signals before the network: each column is brought to
        mean 0 and variance 1 over the training signals; or they become their
        principal components, :class:`corrsk.neural.networks.HalfWhitenedNetwork`, which
        have no grid and so are not for the CNN.
    optimizer : {"adamw", "sgd", "muon"}, default="adamw"
        "muon" is :class:`corrsk.neural.training.optimizers.MuonWithAdamW`.
    learning_rate : float, default=0.01
    learning_rate_schedule : {"one-cycle", "steps", "constant"}, default="one-cycle"
        See :mod:`corrsk.neural.training.schedules`.
    momentum : float, default=0.9
        For "sgd".
    weight_decay : float, default=0.01
    max_epochs : int, default=40
    batch_size : int or "auto", default="auto"
        "auto" is 500, and less for fewer than 50,000 signals: a hundredth of
        their number, but at least 16.
    precision : {"float32", "bfloat16", "auto"}, default="float32"
        Of the matrix products in training; "auto" is bfloat16 where the machine has
        instructions for it. Predictions are in float32.
    kernel : {"auto", "torch", "compiled"}, default="auto"
        What computes gradients: torch, or for the CNN of 8 x 8 grids, on the processor,
        kernels of the extra `fast`; "auto" takes these if it can, CUDA graphs on a GPU.
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
        File in which the state of the training is kept. A `fit` that finds there the state
        of the same training, cut off, goes on with it and ends with the same bits; that
        needs an integer `random_state`. One file serves one training: not for searches.
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
    class_count_ : ndarray of shape (n_classes,)
        Number of training signals of each class.
    class_prior_ : ndarray of shape (n_classes,)
        Frequencies of the classes in training, with the class weights if there are any:
        what the probabilities presume, see :meth:`predict_proba`.
    grid_shape_ : tuple of int
    history_ : list of dict
        For each epoch: epoch, train_loss, learning_rate, seconds, and with
        validation data valid_loss and valid_accuracy. `pandas.DataFrame(history_)`.
        The losses are weighted by `class_weight`, if that is given.
    best_epoch_ : int or None
        The epoch with the lowest validation loss.
    n_iter_ : int
        Number of epochs run, and of calls of :meth:`partial_fit`.
    n_features_in_ : int
    feature_names_in_ : ndarray of str

    Notes
    -----
    Endt, Lachermeier and Menzel, "Classification of multiparametric
    correlation MRI signals using deep neural networks", MIDL 2024.

    On the processor the same `random_state` gives the same bits, on the same machine with the
    same number of threads and the same kernel. On a GPU, sums may differ in order.

    Examples
    --------
    >>> from corrsk import CorrelationCNNClassifier, make_correlation_signals
    >>> X, y = make_correlation_signals(500, random_state=0)
    >>> model = CorrelationCNNClassifier(max_epochs=2, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:3]).shape
    (3, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "network": [StrOptions(set(training.NETWORKS)), callable],
        "grid_shape": [StrOptions({"auto"}), tuple, list],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "width": [Interval(Integral, 1, None, closed="left")],
        "n_blocks": [Interval(Integral, 0, None, closed="left")],
        "input_scaling": [StrOptions(set(training.INPUT_SCALINGS)), None],
        "optimizer": [StrOptions(set(training.OPTIMIZERS))],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "learning_rate_schedule": [StrOptions(set(training.SCHEDULES))],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions(set(training.PRECISIONS))],
        "kernel": [StrOptions(set(training.KERNELS))],
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
        network: Any = "cnn",
        grid_shape: tuple[int, ...] | str = "auto",
        width: int = 256,
        n_blocks: int = 3,
        dropout: float = 0.0,
        input_scaling: str | None = "standardize",
        optimizer: str = "adamw",
        learning_rate: float = 0.01,
        learning_rate_schedule: str = "one-cycle",
        momentum: float = 0.9,
        weight_decay: float = 0.01,
        max_epochs: int = 40,
        batch_size: int | str = "auto",
        precision: str = "float32",
        kernel: str = "auto",
        softmax_before_loss: bool = False,
        class_weight: dict[Any, float] | str | None = None,
        validation_fraction: float | None = None,
        n_iter_no_change: int | None = None,
        restore_best: bool = True,
        device: str = "auto",
        checkpoint: Any = None,
        random_state: RandomStateLike = None,
        verbose: bool = True,
    ) -> None:
        self.network = network
        self.grid_shape = grid_shape
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
        self.kernel = kernel
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
        name : {"default", "paper", "residual-mlp"}
            "paper" is the published training: SGD with momentum 0.9, learning
            rate 1 falling in 5 steps, 3000 epochs, batches of 10,000, dropout
            0.2, and softmax before a cross-entropy that applies it again. One
            difference: corrsk ends with the best epoch's weights where the
            published code keeps the last. "residual-mlp" is the training of the
            residual MLP, of which :meth:`fit_stream` makes the most.
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
        self._forget()
        device = training.resolve_device(self.device)
        signals, index = self._first_signals(X, y, None)
        seed = self._checked_seed()
        validation = self._validation_data(X_val, y_val, self.classes_)
        if validation is None and self.validation_fraction is not None:
            signals, held_out, index, held_out_index = train_test_split(
                signals, index, test_size=self.validation_fraction, stratify=index,
                random_state=int(keyed_generator(seed, 2).integers(2**32)),
            )  # fmt: skip
            validation = (held_out, held_out_index)
        settings = self._settings(np.bincount(index).astype(np.float64), seed, len(index))
        return self._train(settings, training.Source((signals, index)), validation, device)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_stream(
        self,
        stream: SignalStream,
        n_signals: int = 20_000_000,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
    ) -> CorrelationCNNClassifier:
        """Train the network on signals that are simulated meanwhile, each seen once.

        A prior and a protocol take the place of arrays. A GPU draws the signals that it
        trains on itself: other bits of the same distributions.

        Parameters
        ----------
        stream : SignalStream
            What to draw.
        n_signals : int, default=20_000_000
            How many, in `max_epochs` equal epochs; rounded up to whole batches.
        X_val, y_val : arrays, optional
            Validation data; see :meth:`fit`.

        Returns
        -------
        CorrelationCNNClassifier
            The classifier itself.

        Raises
        ------
        ValueError
            As :meth:`fit`; or if `validation_fraction` is given, or there is less than
            a signal for each epoch.

        Examples
        --------
        >>> from corrsk import CorrelationCNNClassifier, SignalStream
        >>> model = CorrelationCNNClassifier.from_recipe("residual-mlp", max_epochs=2)
        >>> model.fit_stream(SignalStream.named("midl2024"), n_signals=4000).n_iter_
        2
        """
        self._forget()
        device = training.resolve_device(self.device)
        if not isinstance(stream, SignalStream):
            raise TypeError(
                f"stream must be a SignalStream, such as SignalStream.named('midl2024'); got "
                f"{type(stream).__name__}"
            )
        checked_count("n_signals", n_signals, at_least=self.max_epochs)
        if self.validation_fraction is not None:
            raise ValueError(
                "a stream has nothing to hold out: leave validation_fraction None, and pass "
                "X_val and y_val, such as those of another random_state"
            )
        seed = self._checked_seed()
        self._first_signals(*stream.draw(0, 100), stream.classes, stream.grid_shape)
        count = np.full(len(self.classes_), n_signals / len(self.classes_))
        settings = self._settings(count, seed, n_signals // self.max_epochs)
        plan = training.StreamPlan.of(n_signals, self.max_epochs, settings.batch_size)
        source = training.Source(stream=stream, plan=plan)
        validation = self._validation_data(X_val, y_val, self.classes_)
        return self._train(settings, source, validation, device)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> CorrelationCNNClassifier:
        """Train the network further, by one pass over some signals.

        At the full `learning_rate`, without schedule, early stopping and checkpoint.
        Between calls the rate, the loss and the precision may be changed; the network,
        its scaling and the optimiser stay those of the first call.

        Parameters
        ----------
        X : array of shape (n, N) or (n, n_ti, n_te)
            Signals in grid order. Those of the first call scale the input.
        y : array of shape (n,)
            Labels.
        classes : array of shape (n_classes,), optional
            All labels that there will be; needed in the first call only, if not all
            are in its y.

        Returns
        -------
        CorrelationCNNClassifier
            The classifier itself.

        Raises
        ------
        ValueError
            As :meth:`fit`; or if y holds labels beyond the classes of the first call.
        """
        device = training.resolve_device(self.device)
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels at once; give partial_fit a dictionary"
            )
        if hasattr(self, "net_"):
            signals, labels = self._checked_signals(X, y, reset=False)
            index = class_index(labels, self.classes_, "y", "the classes of the first call")
        else:
            signals, index = self._first_signals(X, y, classes)
            self.history_, self.n_iter_, self.best_epoch_ = [], 0, None
            self.class_count_ = np.zeros(len(self.classes_))
        self._check_kept("class_count_", "partial_fit")
        count = self.class_count_ + np.bincount(index, minlength=len(self.classes_))
        settings = self._settings(count, self._checked_seed(), len(index))
        self.net_, row = training.train_further(
            settings, (signals, index), net=getattr(self, "net_", None), call=self.n_iter_,
            device=device,
        )  # fmt: skip
        self.n_iter_ += 1
        self.history_ = [*self.history_, row | {"epoch": self.n_iter_}]
        return self
