"""Train, restore and apply a network: all that an estimator asks of torch."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corrsk import _random
from corrsk.networks import CorrelationCNN, StandardizedNetwork
from corrsk.training.callbacks import BestEpoch, EpochProgress, LearningRateSchedule
from corrsk.training.checkpoint import TrainingCheckpoint, fingerprint, history_rows
from corrsk.training.device import share_of_threads
from corrsk.training.net import CountLoss, SignalNet, TensorSignals, WholeBatches
from corrsk.training.schedules import SCHEDULES

_LARGEST_AUTO_BATCH = 500
PREDICT_ROWS = 16_384  # of activations at a time: about 50 MB on an 8 x 8 grid

Split = tuple[NDArray[np.float32], NDArray[np.int64]]  # signals, class indices
History = list[dict[str, Any]]

# one generator serves all threads of a process, as torch's layers want it
_global_generator = threading.RLock()


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the fields are parameters of the classifier.

    `class_weights` has one entry per class, `seed` is an integer, and
    `patience` is `n_iter_no_change`.
    """

    grid_shape: tuple[int, ...]
    n_classes: int
    dropout: float
    standardize: bool
    optimizer: str
    learning_rate: float
    learning_rate_schedule: str
    momentum: float
    weight_decay: float
    max_epochs: int
    batch_size: int
    softmax_before_loss: bool
    class_weights: tuple[float, ...] | None
    patience: int | None
    restore_best: bool
    seed: int


def resolve_batch_size(batch_size: int | str, n_samples: int) -> int:
    """The batch size that a parameter, an integer or "auto", stands for."""
    if batch_size == "auto":
        # small data want small batches, or an epoch has no steps to learn in
        batch_size = max(16, min(_LARGEST_AUTO_BATCH, n_samples // 100))
    return min(n_samples, int(batch_size))


@share_of_threads()
def train_network(
    settings: TrainingSettings,
    train: Split,
    validation: Split | None,
    *,
    device: torch.device,
    progress_delay: float = math.inf,
    checkpoint: str | Path | None = None,
) -> tuple[SignalNet, History]:
    """Train a :class:`CorrelationCNN`.

    Parameters
    ----------
    settings : TrainingSettings
    train, validation : (array of shape (n, N), array of shape (n,))
        Signals and class indices.
    device : torch.device
    progress_delay : float
        Seconds of training before a progress bar appears.
    checkpoint : path-like, optional
        File to keep the state in, and to go on from.

    Returns
    -------
    net : SignalNet
        Trained, and stripped of all that only training needs.
    history : list of dict
        One row per epoch.

    Raises
    ------
    ValueError
        If the checkpoint is of another training.

    Notes
    -----
    Trainings in several threads of one process give the bits that each gives alone.
    For this, trainings with dropout take turns, since dropout draws from torch's
    global generator all the time; without it only the first weights are drawn.
    """
    signals = _tensors(train, device)
    held_out = None if validation is None else _tensors(validation, device)
    order = torch.Generator().manual_seed(_seed(settings, 0))
    schedule = LearningRateSchedule(
        SCHEDULES[settings.learning_rate_schedule], settings.learning_rate,
        settings.max_epochs * math.ceil(len(signals) / settings.batch_size),
    )  # fmt: skip
    best = BestEpoch(
        "train_loss" if held_out is None else "valid_loss",
        settings.restore_best and held_out is not None,
        settings.patience,
    )
    stateful = [schedule, best]
    progress = EpochProgress(settings.max_epochs, progress_delay)
    keeper = state = None
    if checkpoint is not None:
        identity = fingerprint(asdict(settings), *train, *(validation or ()))
        keeper = TrainingCheckpoint(checkpoint, identity, stateful, order)
        state = keeper.read()  # a foreign file is refused before any work

    with ExitStack() as drawing:
        drawing.enter_context(_own_random_numbers(_seed(settings, 1), device))
        net = SignalNet(
            module=_network(settings, signals.X),
            criterion=CountLoss(_weights(settings), settings.softmax_before_loss),
            max_epochs=settings.max_epochs,
            batch_size=settings.batch_size,
            iterator_train=WholeBatches,
            iterator_train__shuffle=True,
            iterator_train__generator=order,
            iterator_valid=WholeBatches,
            iterator_valid__batch_size=PREDICT_ROWS,
            device=device,
            train_split=None,
            verbose=0,
            # the checkpoint comes last: it keeps what the others make of the epoch
            callbacks=[
                (type(callback).__name__, callback)
                for callback in [*stateful, progress, keeper]
                if callback is not None
            ],
            lr=settings.learning_rate,
            **_optimizer(settings),
        )
        net.initialize()
        if keeper is not None and state is not None:
            keeper.restore(net, state)
        if settings.dropout == 0:
            drawing.close()  # nothing draws any more, so that fits in other threads may begin
        try:
            net.train(signals, held_out, settings.max_epochs - len(net.history))
        finally:
            progress.close()
    history = history_rows(net)
    net.trim_for_prediction()  # the optimiser, callbacks and skorch's history go
    return net, history


@share_of_threads()
def predict_probabilities(net: SignalNet, X: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Class probabilities of signals, shape (n, n_classes), chunk by chunk.

    Raises
    ------
    ValueError
        If values are too large for single precision.
    """
    device = _device_of(net)
    net.module_.eval()
    chunks = []
    for start in range(0, X.shape[0], PREDICT_ROWS):
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(X[start : start + PREDICT_ROWS], dtype=np.float32)
        with torch.inference_mode():
            logits = net.module_(_tensor(rows).to(device))
        if not torch.isfinite(logits).all():
            raise ValueError("X holds values that are too large for single precision")
        # in double precision the rows sum to 1 as scikit-learn's metrics want them to
        chunks.append(torch.softmax(logits.double(), dim=1).cpu().numpy())
    return np.concatenate(chunks)


def weights_of(net: SignalNet) -> dict[str, NDArray[Any]]:
    """The weights and buffers of a net by name."""
    return {
        name: tensor.detach().cpu().contiguous().numpy()
        for name, tensor in net.module_.state_dict().items()
    }


def restored_net(
    weights: dict[str, NDArray[Any]],
    *,
    n_classes: int,
    grid_shape: tuple[int, ...],
    dropout: float,
    device: torch.device,
) -> SignalNet:
    """A net for prediction with the given weights."""
    state = {name: torch.from_numpy(values) for name, values in weights.items()}
    # its first weights, which are replaced, must not come between those of a training
    with _own_random_numbers(0, torch.device("cpu")):
        network: torch.nn.Module = CorrelationCNN(n_classes, grid_shape, dropout)
    if "mean" in state:
        network = StandardizedNetwork(network, state["mean"], state["scale"])
    network.load_state_dict(state)
    net = SignalNet(
        module=network, criterion=CountLoss(), device=device, train_split=None, verbose=0
    )
    net.initialize()
    net.trim_for_prediction()
    return net


def device_name(net: SignalNet) -> str:
    """What a net computes on: "cpu", or the name of the GPU."""
    device = _device_of(net)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def _own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator, which is the user's again afterwards; one thread at a time."""
    with (
        _global_generator,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        # not torch.manual_seed, which would seed every GPU, also those of others
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _device_of(net: SignalNet) -> torch.device:
    device: torch.device = next(net.module_.parameters()).device
    return device


def _network(settings: TrainingSettings, X: torch.Tensor) -> torch.nn.Module:
    network = CorrelationCNN(settings.n_classes, settings.grid_shape, settings.dropout)
    if not settings.standardize:
        return network
    variance, mean = torch.var_mean(X, dim=0, correction=0)
    scale = torch.where(variance > 0, variance.sqrt(), 1.0)  # a constant column becomes 0
    return StandardizedNetwork(network, mean, scale)


def _weights(settings: TrainingSettings) -> torch.Tensor | None:
    if settings.class_weights is None:
        return None
    return torch.tensor(settings.class_weights, dtype=torch.float32)


def _optimizer(settings: TrainingSettings) -> dict[str, Any]:
    # fused: one kernel for all weights, where the default has one per weight and operation
    options: dict[str, Any] = {
        "optimizer__weight_decay": settings.weight_decay,
        "optimizer__fused": True,
    }
    if settings.optimizer == "sgd":
        return options | {"optimizer": torch.optim.SGD, "optimizer__momentum": settings.momentum}
    return options | {"optimizer": torch.optim.AdamW}


def _seed(settings: TrainingSettings, stream: int) -> int:
    return int(_random.generator(settings.seed, stream).integers(2**63 - 1))


def _tensors(split: Split, device: torch.device) -> TensorSignals:
    X, y = split
    return TensorSignals(_tensor(X).to(device), torch.from_numpy(y).to(device))


def _tensor(array: NDArray[np.float32]) -> torch.Tensor:
    # torch warns of arrays that it must not write to, such as memory maps
    return torch.from_numpy(array if array.flags.writeable else array.copy())
