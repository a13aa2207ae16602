"""The skorch net that trains on whole batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochTimer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from corrsk.neural.training.callbacks import StopTraining


class TensorSignals(Dataset[tuple[Tensor, Tensor]]):
    """Signals and class indices as two tensors, possibly on a GPU.

    Parameters
    ----------
    X : Tensor of shape (n, N)
    y : Tensor of shape (n,)
        Class indices 0..K-1.
    """

    def __init__(self, X: Tensor, y: Tensor) -> None:
        self.X = X
        self.y = y

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return self.X[index], self.y[index]


def as_tensor(array: NDArray[np.float32]) -> torch.Tensor:
    """A tensor on the array's memory, if torch may write there."""
    # torch warns of arrays that it must not write to, such as memory maps
    return torch.from_numpy(array if array.flags.writeable else array.copy())


@dataclass(frozen=True)
class SignalRows:
    """Some rows of many signals, for code that takes them from there itself.

    Parameters
    ----------
    signals : Tensor of shape (n_signals, N)
    index : Tensor of shape (n,)
    """

    signals: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)


class WholeBatches:
    """Iterate over batches that are taken from the tensors at once.

    A per-sample loader indexes and collates one signal at a time, which takes
    several times as long as this network's arithmetic.

    Parameters
    ----------
    dataset : TensorSignals
    batch_size : int
    shuffle : bool, default=False
        Whether to visit the samples in a new random order in each iteration.
    generator : torch.Generator, optional
        Source of that order, on the device of the tensors.
    gather : bool, default=True
        Whether to take the signals of a batch together, or to give them as `SignalRows`.
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

    def __iter__(self) -> Iterator[tuple[Tensor | SignalRows, Tensor]]:
        X, y, size = self.dataset.X, self.dataset.y, self.batch_size
        if not self.shuffle:
            for start in range(0, len(X), size):
                yield X[start : start + size], y[start : start + size]
            return
        order = torch.randperm(len(X), generator=self.generator, device=X.device)
        for start in range(0, len(X), size):
            index = order[start : start + size]
            rows = X.index_select(0, index) if self.gather else SignalRows(X, index)
            yield rows, y.index_select(0, index)


class CountLoss(nn.Module):
    """Cross-entropy of logits, optionally as the paper's code computes it.

    Parameters
    ----------
    weight : Tensor of shape (n_classes,), optional
        Class weights, of mean 1 over the training signals.
    softmax_first : bool, default=False
        Whether to apply softmax before the cross-entropy, which applies it
        again. The published code does; it bounds the loss from below by
        log(1 + (K - 1) / e), 0.744 for four classes.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, softmax_first: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.softmax_first = softmax_first

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss, a scalar."""
        if self.softmax_first:
            logits = torch.softmax(logits, dim=1)
        if self.weight is None:
            return F.cross_entropy(logits, target)
        # torch's weighted mean divides by the weights that happen to be in the batch,
        # which gives a light class full weight wherever a batch holds nothing else
        total = F.cross_entropy(logits, target, weight=self.weight, reduction="sum")
        return total / len(target)


def divergence(prefix: str, epoch: int, loss: float) -> ValueError:
    """The error of a training whose loss is no number any more."""
    return ValueError(
        f"the training diverged: the {prefix} loss of epoch {epoch} is {loss}; use a lower "
        "learning_rate, or bring the signals to the order of 1"
    )


class SignalNet(NeuralNetClassifier):
    """skorch's classifier without a history row and a synchronisation per batch.

    The history holds one row per epoch. Losses are summed on the device and
    read once an epoch, which keeps a GPU's queue full.
    """

    autocast = False  # whether to train with matrix products in bfloat16
    micro_batch: int | None = None  # signals that go through the network at a time in training
    compiled_step: Any = None  # what computes loss and gradients in place of torch's autograd
    graphed_epoch: Any = None  # what trains an epoch in place of a loop over batches

    @property
    def is_trimmed(self) -> bool:
        """Whether the net can only predict."""
        return bool(getattr(self, "_trimmed_for_prediction", False))

    def infer(self, x: Any, **fit_params: Any) -> Any:
        """Output of the network; in training in mixed precision, if that is wanted."""
        if not (self.autocast and self.module_.training):
            return super().infer(x, **fit_params)
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16):
            output = super().infer(x, **fit_params)
        return output.float()  # the loss and its softmax want single precision

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Compute the gradients of a batch, and let the optimiser make its step."""
        if self.compiled_step is not None:
            loss = self.compiled_step(*batch)
        else:
            loss = self._add_gradients(*batch)
        self.optimizer_.step()
        return {"loss": loss, "y_pred": None}

    def _add_gradients(self, X: Tensor, y: Tensor) -> Tensor:
        """Mean loss of a batch and its gradients, if need be from equal parts of it in turn."""
        self._set_training(True)
        self.optimizer_.zero_grad()
        n_parts = 1 if self.micro_batch is None else math.ceil(len(X) / self.micro_batch)
        if n_parts == 1:
            loss = self.criterion_(self.infer(X), y)
            loss.backward()
            whole: Tensor = loss.detach()
            return whole
        rows = math.ceil(len(X) / n_parts)
        total = torch.zeros(())
        for signals, targets in zip(torch.split(X, rows), torch.split(y, rows), strict=True):
            loss = self.criterion_(self.infer(signals), targets) * (len(targets) / len(y))
            loss.backward()
            total += loss.detach()
        return total

    def validation_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Compute the loss of a batch, and the answers."""
        if self.compiled_step is None:
            return super().validation_step(batch, **fit_params)
        signals, targets = batch
        logits = self.compiled_step.logits(signals)
        return {"loss": self.criterion_(logits, targets), "y_pred": logits}

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        return [("epoch_timer", EpochTimer())]

    def on_batch_begin(
        self, net: Any, batch: Any = None, training: bool = False, **kw: Any
    ) -> None:
        """Open no history row for the batch."""

    def _set_training(self, training: bool = True) -> None:
        # skorch's walks through all modules for every batch, to tell them what they know
        if self.module_.training != training:
            super()._set_training(training)

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Any, **fit_params: Any
    ) -> None:
        """Run the batches of one epoch; record their mean loss."""
        if iterator is None:
            return
        total: Any = 0.0
        correct: Any = 0
        n_samples = 0
        if training and self.graphed_epoch is not None:
            total, n_samples = self.graphed_epoch()
            iterator = ()  # it knows the batches, and there is nothing to do for each of them
        for batch in iterator:
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            size = len(batch[0])
            total = total + step["loss"].detach() * size
            n_samples += size
            if not training:
                correct = correct + (step["y_pred"].argmax(dim=1) == batch[1]).sum()
            self.notify("on_batch_end", batch=batch, training=training, **step)
        loss = float(total) / n_samples
        if not math.isfinite(loss):
            raise divergence(prefix, len(self.history), loss)
        self.history.record(f"{prefix}_loss", loss)
        if not training:
            self.history.record(f"{prefix}_accuracy", float(correct) / n_samples)

    def train(
        self, train: Dataset[tuple[Tensor, Tensor]], valid: TensorSignals | None, epochs: int
    ) -> None:
        """Run `epochs` epochs with this net's callbacks.

        Unlike skorch's `fit`, which ends the training quietly and leaves the
        net looking fitted, this lets Ctrl-C through.
        """
        self.train_split = (lambda dataset, y=None: (dataset, valid)) if valid else None
        try:
            self.notify("on_train_begin", X=train, y=None)
            with suppress(StopTraining):
                self.fit_loop(train, epochs=epochs)
            self.notify("on_train_end", X=train, y=None)
        finally:
            self.train_split = None  # it holds the data, and cannot be pickled

    def check_data(self, X: Any, y: Any = None) -> None:
        """The estimator has checked them."""
