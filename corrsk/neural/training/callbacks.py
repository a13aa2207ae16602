"""skorch callbacks: learning rate, best epoch and progress bar."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from skorch.callbacks import (
    BatchScoring,
    Callback,
    EarlyStopping,
    EpochScoring,
    LRScheduler,
    PassthroughScoring,
    ProgressBar,
)
from tqdm.auto import tqdm

# events of callbacks that occur for every batch
_BATCH_EVENTS = ("on_batch_begin", "on_batch_end", "on_grad_computed")
_UNSUPPORTED = {
    LRScheduler: "learning_rate_schedule sets the learning rate before every batch",
    BatchScoring: "the history has one row for each epoch; use EpochScoring",
    PassthroughScoring: "the history has one row for each epoch; use EpochScoring",
    ProgressBar: "verbose=True shows a progress bar",
}


class StopTraining(Exception):
    """Exception that a callback raises to end the training early."""


class TrainingCallback(Callback):
    """Base class of the callbacks that belong to a training, unlike those of the user."""


class LearningRateSchedule(TrainingCallback):
    """Set the learning rate before every batch, as a function of the progress only.

    Parameters
    ----------
    schedule : callable
        Function from the progress in [0, 1] to a factor on the learning rate.
    learning_rate : float
        Learning rate for a factor of 1.
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
        """Return the learning rate of a step, counted from 0."""
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


class BestEpoch(TrainingCallback):
    """Keep a copy of the best epoch's weights, and stop the training without improvement.

    Parameters
    ----------
    monitor : {"valid_loss", "train_loss"}
        Loss that is lowest in the best epoch.
    restore : bool
        Whether to restore the best weights at the end of the training.
    patience : int or None
        Number of epochs without a lower loss after which the training stops; None never stops.
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
                # a reference would change with the network, as in the paper's code
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


class EpochProgress(TrainingCallback):
    """Progress bar over the epochs, with their losses.

    Parameters
    ----------
    n_epochs : int
        Number of epochs.
    delay : float
        Time in seconds before the bar appears.
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
        """Close and delete the bar, which cannot be pickled."""
        if hasattr(self, "bar"):
            self.bar.close()
            del self.bar


def checked_callbacks(callbacks: Any, *, has_validation: bool) -> list[Any]:
    """Validate callbacks of the user.

    Parameters
    ----------
    callbacks : list of callbacks, classes of callbacks or (name, callback), or None
        Parameter of the estimator.
    has_validation : bool
        Whether the training has validation data.

    Returns
    -------
    list
        The callbacks, for the parameter `callbacks` of a skorch net.

    Raises
    ------
    TypeError
        If an entry is no callback of skorch.
    ValueError
        If a callback would be without effect.
    """
    checked = []
    for item in callbacks or ():
        callback = item[1] if isinstance(item, (tuple, list)) and len(item) == 2 else item
        if not (
            isinstance(callback, Callback)
            or (isinstance(callback, type) and issubclass(callback, Callback))
        ):
            raise TypeError(
                "callbacks must be a list of skorch callbacks, or of (name, callback); got "
                f"{item!r}"
            )
        kind = callback if isinstance(callback, type) else type(callback)
        for unsupported, reason in _UNSUPPORTED.items():
            if issubclass(kind, unsupported):
                raise ValueError(f"the callback {kind.__name__} is not supported: {reason}")
        # of a class, skorch's default: EarlyStopping monitors the validation loss
        monitored = getattr(callback, "monitor", None)
        if monitored is None and issubclass(kind, EarlyStopping):
            monitored = "valid_loss"
        if not has_validation and isinstance(monitored, str) and monitored.startswith("valid"):
            raise ValueError(
                f"{kind.__name__} monitors {monitored!r} and needs validation data: pass X_val and "
                "y_val, set validation_fraction, or monitor 'train_loss'"
            )
        if issubclass(kind, EpochScoring):
            if getattr(callback, "on_train", False):
                raise ValueError(
                    "EpochScoring(on_train=True) is not supported; pass the training signals as "
                    "X_val and y_val, and on_train=False"
                )
            if not has_validation:
                raise ValueError(
                    "EpochScoring needs validation data: pass X_val and y_val, or set "
                    "validation_fraction"
                )
        checked.append(item)
    return checked


def needs_batches(callbacks: list[Any]) -> bool:
    """Whether callbacks of the user need an event for every batch, or the gradients."""
    for item in callbacks:
        callback = item[1] if isinstance(item, (tuple, list)) else item
        kind = callback if isinstance(callback, type) else type(callback)
        if issubclass(kind, EpochScoring):  # collects the outputs of the validation only
            continue
        if any(getattr(kind, event) is not getattr(Callback, event) for event in _BATCH_EVENTS):
            return True
    return False
