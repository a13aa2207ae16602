"""What happens at the end of a batch or an epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from skorch.callbacks import Callback
from tqdm.auto import tqdm


class StopTraining(Exception):
    """Raised by a callback to end the training early."""


class LearningRateSchedule(Callback):
    """Set the learning rate before every batch, as a function of progress alone.

    Parameters
    ----------
    schedule : callable
        Factor on the learning rate for a progress in [0, 1].
    learning_rate : float
        The full learning rate.
    n_steps : int
        Number of batches of the whole training.
    """

    def __init__(
        self, schedule: Callable[[float], float], learning_rate: float, n_steps: int
    ) -> None:
        self.schedule = schedule
        self.learning_rate = learning_rate
        self.n_steps = n_steps
        self.step = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * self.schedule(step / self.n_steps)

    def on_batch_begin(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        if not training:
            return
        rate = self.rate(self.step)
        for group in net.optimizer_.param_groups:
            group["lr"] = rate
        self.step += 1

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        net.history.record("learning_rate", self.rate(self.step - 1))

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


class BestEpoch(Callback):
    """Keep a copy of the weights of the best epoch, and stop when none gets better.

    Parameters
    ----------
    monitor : {"valid_loss", "train_loss"}
        The loss that makes an epoch the best.
    restore : bool
        Whether to put the best weights back at the end of the training.
    patience : int or None
        Number of epochs without a lower loss to stop after.
    """

    def __init__(self, monitor: str, restore: bool, patience: int | None) -> None:
        self.monitor = monitor
        self.restore = restore
        self.patience = patience
        self.best_loss = math.inf
        self.best_epoch = 0
        self.weights: dict[str, Any] | None = None

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        epoch, loss = net.history[-1]["epoch"], net.history[-1][self.monitor]
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            if self.restore:
                # a reference would go on training with the network, as in the paper's code
                self.weights = copy.deepcopy(net.module_.state_dict())
        elif self.patience is not None and epoch - self.best_epoch >= self.patience:
            raise StopTraining

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        if self.weights is not None:
            net.module_.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_loss": self.best_loss, "best_epoch": self.best_epoch, "weights": self.weights
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_loss, self.best_epoch = state["best_loss"], state["best_epoch"]
        self.weights = state["weights"]


class EpochProgress(Callback):
    """A progress bar over the epochs, with the losses behind it.

    Parameters
    ----------
    n_epochs : int
        Length of the bar.
    delay : float
        Seconds of training before the bar appears.
    """

    def __init__(self, n_epochs: int, delay: float) -> None:
        self.n_epochs = n_epochs
        self.delay = delay

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.bar = tqdm(
            total=self.n_epochs, initial=len(net.history), desc="training", unit="epoch",
            delay=self.delay,
        )  # fmt: skip

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        row = net.history[-1]
        shown = {key: f"{row[key]:.4f}" for key in ("train_loss", "valid_loss") if key in row}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def close(self) -> None:
        """End the bar and let go of it: it cannot be pickled."""
        if hasattr(self, "bar"):
            self.bar.close()
            del self.bar
