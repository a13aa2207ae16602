"""skorch net, batches and loss of the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping, EpochTimer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from corrsk.neural.training.callbacks import StopTraining, TrainingCallback

FORWARD_ROWS = 2048  # signals at a time, of a net that predicts by itself


class Batch(NamedTuple):
    """Signals, targets and sample weights of a batch.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_measurements) or SignalRows
        Signals.
    y : Tensor of shape (n_samples,)
        Targets.
    weight : Tensor of shape (n_samples,) or None
        Sample weights.
    """

    X: Tensor | SignalRows
    y: Tensor
    weight: Tensor | None = None


class TensorSignals(Dataset[tuple[Tensor, Tensor]]):
    """Signals and targets as tensors, on any device.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_measurements)
        Signals.
    y : Tensor of shape (n_samples,)
        Class indices 0..n_classes-1, or targets of a regression.
    weight : Tensor of shape (n_samples,), optional
        Sample weights with mean 1.
    """

    def __init__(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> None:
        self.X = X
        self.y = y
        self.weight = weight

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return self.X[index], self.y[index]


def as_tensor(array: NDArray[np.float32]) -> Tensor:
    """Return a tensor that shares the memory of an array, or a copy of a read-only array."""
    # torch warns about read-only arrays, such as memory maps
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def views_like(vector: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Split a vector into views with the shapes of tensors."""
    parts = torch.split(vector, [tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


@dataclass(frozen=True)
class SignalRows:
    """Selection of rows of a table of signals, not gathered yet.

    Parameters
    ----------
    signals : Tensor of shape (n_signals, n_measurements)
        All signals.
    index : Tensor of shape (n_samples,)
        Positions of the selected rows.
    """

    signals: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)


class WholeBatches:
    """Iterate over batches, and index each batch as a whole.

    A per-sample loader indexes and collates one signal at a time, which takes several times as
    long as the arithmetic of the paper's network.

    Parameters
    ----------
    dataset : TensorSignals
        Signals and targets.
    batch_size : int
        Number of signals of a batch.
    shuffle : bool, default=False
        Whether to use a new random order of the signals in each iteration.
    generator : torch.Generator, optional
        Generator of the random order, on the device of the tensors.
    gather : bool, default=True
        Whether to gather the signals of a batch, or to yield `SignalRows`.
    """

    def __init__(
        self,
        dataset: TensorSignals,
        batch_size: int,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        gather: bool = True,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = generator
        self.gather = gather

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        X, y, weight, size = self.dataset.X, self.dataset.y, self.dataset.weight, self.batch_size
        if not self.shuffle:
            for start in range(0, len(X), size):
                rows = slice(start, start + size)
                yield Batch(X[rows], y[rows], None if weight is None else weight[rows])
            return
        order = torch.randperm(len(X), generator=self.generator, device=X.device)
        for start in range(0, len(X), size):
            index = order[start : start + size]
            yield Batch(
                X.index_select(0, index) if self.gather else SignalRows(X, index),
                y.index_select(0, index),
                None if weight is None else weight.index_select(0, index),
            )


class CountLoss(nn.Module):
    """Cross-entropy of logits, optionally as the code published with the paper computes it.

    Parameters
    ----------
    weight : Tensor of shape (n_classes,), optional
        Class weights with mean 1 over the training signals.
    softmax_first : bool, default=False
        Whether to apply softmax before the cross-entropy, which applies softmax again, as in the
        published code. The lower bound of the loss is then log(1 + (n_classes - 1) / e), 0.744
        for four classes.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, softmax_first: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.softmax_first = softmax_first

    def forward(
        self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the mean loss.

        Parameters
        ----------
        logits : Tensor of shape (n_samples, n_classes)
            Outputs of the network.
        target : Tensor of shape (n_samples,)
            Class indices.
        sample_weight : Tensor of shape (n_samples,), optional
            Weight of each signal.

        Returns
        -------
        Tensor
            The mean loss, a scalar.
        """
        if self.softmax_first:
            logits = torch.softmax(logits, dim=1)
        if sample_weight is not None:
            losses = F.cross_entropy(logits, target, weight=self.weight, reduction="none")
            return (losses * sample_weight).sum() / len(target)
        if self.weight is None:
            return F.cross_entropy(logits, target)
        # torch's weighted mean divides by the sum of the weights in the batch, so that a class
        # with a small weight has full weight in a batch of this class only
        total = F.cross_entropy(logits, target, weight=self.weight, reduction="sum")
        return total / len(target)


class Step(Protocol):
    """Implementation of the training steps: torch, compiled kernels or CUDA graphs.

    Threads, compiled code and graphs exist only within this context manager.
    """

    def __enter__(self) -> Self:
        """Prepare the training."""
        ...

    def __exit__(self, *_: object) -> None:
        """Release the resources of the training."""
        ...

    def train_epoch(self, batches: Any) -> tuple[Any, int]:
        """Train one epoch.

        Parameters
        ----------
        batches : iterable of Batch
            Batches of the epoch.

        Returns
        -------
        total : Tensor or float
            Sum of the losses of all signals.
        n_samples : int
            Number of signals.
        """
        ...

    def logits(self, X: Tensor) -> Tensor:
        """Return the outputs of the network for signals.

        Parameters
        ----------
        X : Tensor of shape (n_samples, n_measurements)
            Signals.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
            Outputs of the network.
        """
        ...


def divergence(prefix: str, epoch: int, loss: float) -> ValueError:
    """Return the error for a training with a loss that is not finite."""
    return ValueError(
        f"the training diverged: the {prefix} loss of epoch {epoch} is {loss}; use a lower "
        "learning_rate, or scale the signals to the order of 1"
    )


class SignalNet(NeuralNet):
    """skorch's net without history rows and synchronisation per batch.

    The history has one row for each epoch. Losses are summed on the device and read once per
    epoch, so that a GPU need not wait. A :class:`Step` does the arithmetic. The net predicts
    (`forward`, `predict`, `predict_proba`); the estimator trains it.
    """

    step: Step | None = None

    @property
    def is_trimmed(self) -> bool:
        """Whether the net lacks the parts that only the training needs."""
        return bool(getattr(self, "_trimmed_for_prediction", False))

    def trim_for_prediction(self) -> None:
        """Delete the optimiser and all else that only the training needs.

        The input scaling gets the memory layout that it has after saving and loading, on which the
        rounding of products depends.
        """
        super().trim_for_prediction()
        for part in self.module_.modules():
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer.contiguous())

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        return [("epoch_timer", EpochTimer())]

    @property
    def has_guests(self) -> bool:
        """Whether the net has callbacks of the user."""
        return any(
            not isinstance(callback, TrainingCallback | EpochTimer)
            for _, callback in self.callbacks_
        )

    # -- events ----------------------------------------------------------------

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Call a method of the net and of all its callbacks.

        A callback of the user that stops the training (StopTraining, or the KeyboardInterrupt of
        skorch's EarlyStopping) stops it after the other callbacks, which restore the best epoch.
        """
        getattr(self, method_name)(self, **cb_kwargs)
        stopped = False
        for _, callback in self.callbacks_:
            try:
                getattr(callback, method_name)(self, **cb_kwargs)
            except StopTraining:
                if isinstance(callback, TrainingCallback):
                    raise
                stopped = True
            except KeyboardInterrupt:
                if not isinstance(callback, EarlyStopping):
                    raise
                stopped = True
        if stopped:
            raise StopTraining

    def on_batch_begin(
        self, net: Any, batch: Any = None, training: bool = False, **kw: Any
    ) -> None:
        """Open no history row for the batch."""

    # -- training ----------------------------------------------------------------

    def set_training(self, training: bool) -> None:
        """Switch the module to training or prediction mode, unless already in this mode."""
        # skorch's method visits all modules for every batch
        if self.module_.training != training:
            self._set_training(training)

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Any, **fit_params: Any
    ) -> None:
        """Process the batches of one epoch; record mean loss and validation accuracy."""
        if iterator is None:
            return
        assert self.step is not None
        correct: Any = None
        if training:
            total, n_samples = self.step.train_epoch(iterator)
        else:
            total, correct, n_samples = self._validated(self.step, iterator)
        loss = float(total) / n_samples
        if not math.isfinite(loss):
            raise divergence(prefix, len(self.history), loss)
        self.history.record(f"{prefix}_loss", loss)
        if correct is not None:
            self.history.record(f"{prefix}_accuracy", float(correct) / n_samples)

    def _validated(self, step: Step, batches: Any) -> tuple[Any, Any, int]:
        """Sum of losses, number of correct classes (None for a regression), number of signals."""
        total: Any = 0.0
        correct: Any = None
        n_samples = 0
        for X, y, weight in batches:
            outputs = step.logits(X)
            with torch.no_grad():
                total = total + self.criterion_(outputs, y, weight) * len(y)
            n_samples += len(y)
            if not y.is_floating_point():
                hits = (outputs.argmax(dim=1) == y).sum()
                correct = hits if correct is None else correct + hits
            if self.has_guests:  # skorch's EpochScoring collects the outputs
                self.notify("on_batch_end", batch=(X, y), training=False, y_pred=outputs)
        return total, correct, n_samples

    def train(
        self,
        train: Dataset[tuple[Tensor, Tensor]],
        valid: TensorSignals | None,
        epochs: int,
        step: Step,
    ) -> None:
        """Train for `epochs` epochs with the callbacks of this net.

        A KeyboardInterrupt (Ctrl-C) is passed on. skorch's `fit` catches it, so that the net
        seems to be fitted.
        """
        self.train_split = (lambda dataset, y=None: (dataset, valid)) if valid else None
        self.step = step
        try:
            self.notify("on_train_begin", X=train, y=None)
            with suppress(StopTraining):
                self.fit_loop(train, epochs=epochs)
            self.notify("on_train_end", X=train, y=None)
        finally:
            # both refer to data, threads and graphs, which cannot be pickled
            self.train_split = self.step = None

    def check_data(self, X: Any, y: Any = None) -> None:
        """Skip skorch's validation, because the estimator has validated the data."""

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Raise an error: the estimator trains the net."""
        raise _untrainable("fit")

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any) -> Any:
        """Raise an error: the estimator trains the net."""
        raise _untrainable("partial_fit")

    # -- prediction ----------------------------------------------------------------

    def forward_iter(self, X: Any, training: bool = False, device: Any = "cpu") -> Iterator[Tensor]:
        """Yield the outputs of the network for signals, in chunks.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, n_measurements), or TensorSignals
            Signals.
        training : bool
            Whether to use the network in training mode, with dropout.
        device : str or torch.device
            Device of the outputs.

        Yields
        ------
        Tensor of shape (n_rows, n_outputs)
            Outputs of the network.
        """
        self.check_is_fitted()
        if isinstance(X, TensorSignals):
            X = X.X
        elif isinstance(X, Dataset):
            raise TypeError(
                f"the net predicts for arrays and tensors of signals, not for a {type(X).__name__}"
            )
        signals = torch.as_tensor(np.asarray(X) if not isinstance(X, Tensor) else X)
        was_training = self.module_.training
        try:
            for rows in torch.split(signals.to(torch.float32), FORWARD_ROWS):
                self.set_training(training)
                with torch.set_grad_enabled(training):
                    yield self.infer(rows).to(device)
        finally:
            self.set_training(was_training)


class ClassifierNet(ClassifierMixin, SignalNet):
    """Net of a classifier, as skorch's NeuralNetClassifier: `predict_proba` gives probabilities.

    The classes of the net are the positions 0..n_outputs-1 of the classes of the estimator.
    """

    @property
    def classes_(self) -> NDArray[np.int64]:
        """Positions of the classes, shape (n_outputs,)."""
        return np.arange(self.n_outputs)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Predict the position of the most probable class.

        Parameters
        ----------
        X : array or Tensor of shape (n_samples, n_measurements)
            Signals.

        Returns
        -------
        ndarray of shape (n_samples,)
            Positions of the classes of the estimator.
        """
        positions: NDArray[np.int64] = self.predict_proba(X).argmax(axis=1)
        return positions


def _softmax(logits: Tensor) -> Tensor:
    # in double precision, the sums of rows are as close to 1 as scikit-learn's metrics require
    return torch.softmax(logits.double(), dim=1)


def make_net(module: nn.Module, criterion: nn.Module, n_classes: int | None, **options: Any) -> Any:
    """Return an initialised net.

    Parameters
    ----------
    module : torch.nn.Module
        Network.
    criterion : torch.nn.Module
        Loss.
    n_classes : int or None
        Number of classes; None for a net that is no classifier.
    **options
        Further parameters of the net.

    Returns
    -------
    SignalNet
        ClassifierNet if there are classes.
    """
    cls = SignalNet if n_classes is None else ClassifierNet
    nonlinearity = None if n_classes is None else _softmax
    net = cls(
        module=module, criterion=criterion, train_split=None, verbose=0,
        predict_nonlinearity=nonlinearity, **options,
    )  # fmt: skip
    if n_classes is not None:
        net.n_outputs = n_classes
    net.initialize()
    return net


def _untrainable(method: str) -> TypeError:
    return TypeError(
        f"net_.{method} is not available, because the estimator validates the signals and trains "
        f"its net; call {method} of the estimator"
    )


def history_rows(net: Any) -> list[dict[str, Any]]:
    """Return the history of a net as one dictionary per epoch."""
    return [
        {("seconds" if key == "dur" else key): row[key] for key in row if key != "batches"}
        for row in net.history
    ]
