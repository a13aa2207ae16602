"""Train a network: on arrays, on a stream of fresh signals, or a little further."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from corrsk.neural.cpu.step import resolve_kernel, training_kernel
from corrsk.neural.gpu import stream as device_stream
from corrsk.neural.gpu.graphs import GRAPHS, graphed_training, resolve_training_kernel
from corrsk.neural.training.callbacks import BestEpoch, EpochProgress, LearningRateSchedule
from corrsk.neural.training.checkpoint import TrainingCheckpoint, fingerprint, history_rows
from corrsk.neural.training.device import share_of_threads
from corrsk.neural.training.modules import draws_in_training, module_in_words
from corrsk.neural.training.net import SignalNet, TensorSignals, WholeBatches, as_tensor
from corrsk.neural.training.prediction import PREDICT_ROWS
from corrsk.neural.training.randomness import own_random_numbers
from corrsk.neural.training.schedules import SCHEDULES
from corrsk.neural.training.settings import (
    FURTHER_STREAM,
    ORDER_STREAM,
    WEIGHTS_STREAM,
    TrainingSettings,
    apply_settings,
    untrained_net,
)
from corrsk.neural.training.streaming import StreamBatches, StreamedSignals, StreamPlan
from corrsk.simulation.streams import SignalStream

Split = tuple[NDArray[np.float32], NDArray[np.int64]]  # signals, class indices
History = list[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """Where a training's signals come from: arrays, or a stream.

    Parameters
    ----------
    arrays : (array of shape (n, N), array of shape (n,)), optional
        Signals and class indices.
    stream : SignalStream, optional
    plan : StreamPlan, optional
        How the stream is divided.
    """

    arrays: Split | None = None
    stream: SignalStream | None = None
    plan: StreamPlan | None = None


@share_of_threads()
def train_network(
    settings: TrainingSettings,
    source: Source,
    validation: Split | None,
    *,
    device: torch.device,
    progress_delay: float = math.inf,
    checkpoint: str | Path | None = None,
) -> tuple[SignalNet, History]:
    """Train a network from its first weights to the end.

    Parameters
    ----------
    settings : TrainingSettings
    source : Source
        Of the signals to train on.
    validation : (array of shape (n, N), array of shape (n,)) or None
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
    settings = replace(settings, kernel=resolve_training_kernel(settings, device))
    held_out = None if validation is None else _tensors(validation, device)
    order = torch.Generator(device).manual_seed(settings.stream_seed(ORDER_STREAM))
    best = BestEpoch(
        "train_loss" if held_out is None else "valid_loss",
        settings.restore_best and held_out is not None,
        settings.patience,
    )
    progress = EpochProgress(settings.max_epochs, progress_delay)
    with ExitStack() as drawing, _opened(source, settings, device, order) as (signals, options):
        schedule = LearningRateSchedule(
            SCHEDULES[settings.learning_rate_schedule], settings.learning_rate,
            settings.max_epochs * math.ceil(len(signals) / settings.batch_size),
        )  # fmt: skip
        stateful = [schedule, best]
        keeper = state = None
        if checkpoint is not None:
            identity = _identity(settings, source, validation, device)
            keeper = TrainingCheckpoint(checkpoint, identity, stateful, order)
            state = keeper.read()  # a foreign file is refused before any work
        drawing.enter_context(own_random_numbers(settings.stream_seed(WEIGHTS_STREAM), device))
        net = untrained_net(
            settings, signals.X if isinstance(signals, TensorSignals) else signals.sample(),
            iterator_valid=WholeBatches,
            iterator_valid__batch_size=_validation_rows(settings, device),
            # the checkpoint comes last: it keeps what the others make of the epoch
            callbacks=[
                (type(callback).__name__, callback)
                for callback in [*stateful, progress, keeper]
                if callback is not None
            ],
            **options,
        )  # fmt: skip
        if keeper is not None and state is not None:
            keeper.restore(net, state)
        if isinstance(signals, StreamedSignals):
            signals.start_at(len(net.history))
        with graphed_training(settings, net, signals, order, schedule):
            # GPUs train one network at a time: no other thread may use one during a capture
            if device.type not in GRAPHS and not draws_in_training(net.module_):
                drawing.close()  # nothing draws any more, so that fits in other threads may begin
            try:
                with training_kernel(settings, net):
                    net.train(signals, held_out, settings.max_epochs - len(net.history))
            finally:
                progress.close()
    history = history_rows(net)
    net.trim_for_prediction()  # the optimiser, callbacks and skorch's history go
    return net, history


@share_of_threads()
def train_further(
    settings: TrainingSettings,
    split: Split,
    *,
    net: SignalNet | None,
    call: int,
    device: torch.device,
) -> tuple[SignalNet, dict[str, Any]]:
    """One pass over some signals, at the full learning rate.

    Parameters
    ----------
    settings : TrainingSettings
    split : (array of shape (n, N), array of shape (n,))
        Signals and class indices.
    net : SignalNet or None
        What to train further; None for a new one, scaled by these signals.
    call : int
        Number of earlier calls, which keys the random numbers.
    device : torch.device

    Returns
    -------
    net : SignalNet
        Keeps its optimiser, for the next call.
    row : dict
        What the history says of this pass.
    """
    module = None if net is None else net.module_
    settings = replace(settings, kernel=resolve_kernel(settings, device, module))
    signals = _tensors(split, device)
    order = torch.Generator(device).manual_seed(
        settings.stream_seed(FURTHER_STREAM, call, ORDER_STREAM)
    )
    with own_random_numbers(settings.stream_seed(FURTHER_STREAM, call, WEIGHTS_STREAM), device):
        if net is None or net.is_trimmed:
            earlier, net = net, untrained_net(settings, signals.X, callbacks=[])
            if earlier is not None:
                net.module_.load_state_dict(earlier.module_.state_dict())
        else:
            apply_settings(settings, net)
        # not by set_params, which would initialise again what depends on them
        net.iterator_train, net.iterator_train__shuffle = WholeBatches, True
        net.iterator_train__generator, net.batch_size = order, settings.batch_size
        net.iterator_train__gather = settings.kernel != "compiled"
        with training_kernel(settings, net):
            net.train(signals, None, 1)
    net.iterator_train__generator = None  # a generator of torch's cannot be pickled
    return net, history_rows(net)[-1]


@contextmanager
def _opened(
    source: Source, settings: TrainingSettings, device: torch.device, order: torch.Generator
) -> Iterator[tuple[TensorSignals | StreamedSignals, dict[str, Any]]]:
    """The data set that skorch iterates over, and how."""
    if source.arrays is not None:
        yield (
            _tensors(source.arrays, device),
            {
                "iterator_train": WholeBatches,
                "iterator_train__shuffle": True,
                "iterator_train__generator": order,
                "iterator_train__gather": settings.kernel != "compiled",
            },
        )
        return
    assert source.stream is not None
    assert source.plan is not None
    with StreamedSignals.of(source.stream, source.plan, device) as signals:
        yield signals, {"iterator_train": StreamBatches}


def _validation_rows(settings: TrainingSettings, device: torch.device) -> int:
    """Signals to be validated on at a time: many where threads, or a GPU, share them."""
    shared = settings.kernel == "compiled" or device.type != "cpu"
    return 16 * PREDICT_ROWS if shared else PREDICT_ROWS


def _identity(
    settings: TrainingSettings, source: Source, validation: Split | None, device: torch.device
) -> str:
    """What a training is of, so that its checkpoint is known again."""
    arrays = [*(source.arrays or ()), *(validation or ())]
    told: dict[str, Any] = {"stream": {}, "plan": source.plan and asdict(source.plan)}
    if source.stream is not None:
        told["stream"] = source.stream.identity
        if type(source.stream) is not SignalStream:  # may draw in a way of its own
            told["drawn by"] = type(source.stream).__qualname__
    if isinstance(settings.network, nn.Module):
        tensors = [*settings.network.parameters(), *settings.network.buffers()]
        arrays += [tensor.detach().cpu().numpy() for tensor in tensors]
        told["module"] = module_in_words(settings.network)
        settings = replace(settings, network="module")
    told = asdict(settings) | told
    del told["n_features"]  # the arrays, or the stream, say it
    if settings.kernel == "torch":
        del told["kernel"]  # which makes the bits that it made before there was a choice
    if device.type != "cpu":
        # its generators have other states, give another order, and draw other streams
        told["device"] = device.type, device_stream.VERSION
    return fingerprint(told, *arrays)


def _tensors(split: Split, device: torch.device) -> TensorSignals:
    X, y = split
    return TensorSignals(as_tensor(X).to(device), torch.from_numpy(y).to(device))
