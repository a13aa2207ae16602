"""Training steps with torch's autograd, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor

from corrsk.neural.training.net import Batch, SignalNet

BatchStep = Callable[..., Tensor]  # from signals, targets and weights to the mean loss


def train_by_batches(net: SignalNet, batches: Iterable[Batch], step: BatchStep) -> tuple[Any, int]:
    """Take a step for each batch, and notify the callbacks of the net.

    Parameters
    ----------
    net : SignalNet
        Net with callbacks.
    batches : iterable of Batch
        Batches of an epoch.
    step : callable
        Function that trains on signals, targets and weights, and returns the mean loss.

    Returns
    -------
    total : Tensor
        Sum of the losses of all signals.
    n_samples : int
        Number of signals.
    """
    total: Any = 0.0
    n_samples = 0
    for batch in batches:
        net.notify("on_batch_begin", batch=batch, training=True)
        loss = step(*batch)
        total = total + loss.detach() * len(batch.y)
        n_samples += len(batch.y)
        net.notify("on_batch_end", batch=batch, training=True, loss=loss, y_pred=None)
    return total, n_samples


class TorchStep:
    """Training steps with torch's autograd.

    Parameters
    ----------
    net : SignalNet
        Initialised net.
    bfloat16 : bool, default=False
        Whether to train with matrix products in bfloat16.
    micro_batch : int, optional
        Largest number of signals in a forward pass; a larger batch is divided into equal parts,
        whose gradients are added. Only for networks that process each signal of a batch
        independently.
    """

    def __init__(
        self, net: SignalNet, *, bfloat16: bool = False, micro_batch: int | None = None
    ) -> None:
        self._net = net
        self._bfloat16 = bfloat16
        self._micro_batch = micro_batch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Release nothing."""

    def train_epoch(self, batches: Iterable[Batch]) -> tuple[Any, int]:
        """Train one epoch; see :class:`corrsk.neural.training.net.Step`."""
        return train_by_batches(self._net, batches, self)

    def __call__(self, X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Train on one batch; return its mean loss."""
        loss = self._add_gradients(X, y, weight)
        if self._net.has_guests:
            self._net.notify(
                "on_grad_computed", named_parameters=list(self._net.module_.named_parameters()),
                batch=Batch(X, y, weight), training=True,
            )  # fmt: skip
        self._net.optimizer_.step()
        return loss

    def _add_gradients(self, X: Tensor, y: Tensor, weight: Tensor | None) -> Tensor:
        net = self._net
        net.set_training(True)
        net.optimizer_.zero_grad()
        n_parts = 1 if self._micro_batch is None else math.ceil(len(X) / self._micro_batch)
        if n_parts == 1:
            loss = net.criterion_(self._outputs(X), y, weight)
            loss.backward()
            whole: Tensor = loss.detach()
            return whole
        rows = math.ceil(len(X) / n_parts)
        total = torch.zeros(())
        for start in range(0, len(X), rows):
            part = slice(start, start + rows)
            weights = None if weight is None else weight[part]
            loss = net.criterion_(self._outputs(X[part]), y[part], weights)
            loss = loss * (len(y[part]) / len(y))
            loss.backward()
            total += loss.detach()
        return total

    def _outputs(self, X: Tensor) -> Tensor:
        mixed = (
            # within autocast of the user, a cache would keep the weights of earlier steps
            torch.autocast(X.device.type, dtype=torch.bfloat16, cache_enabled=False)
            if self._bfloat16
            else nullcontext()
        )
        with mixed:
            outputs: Tensor = self._net.infer(X)
        # the loss and its softmax need single precision
        return outputs.float() if self._bfloat16 else outputs

    def logits(self, X: Tensor) -> Tensor:
        """Return the outputs of the network for signals (n_samples, n_measurements)."""
        self._net.set_training(False)
        with torch.no_grad():
            outputs: Tensor = self._net.infer(X)
        return outputs
