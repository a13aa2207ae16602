"""Training of a network on arrays or a stream, and its continuation by single passes."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from corrsk._utils.rng import Stream
from corrsk.neural.cpu.step import NumbaStep, cnn_on_processor, resolve_backend
from corrsk.neural.gpu import fused
from corrsk.neural.gpu import stream as gpu_stream
from corrsk.neural.gpu.graphs import GRAPHS, GraphedStep, can_be_captured
from corrsk.neural.networks import draws_in_training
from corrsk.neural.training.callbacks import (
    BestEpoch,
    EpochProgress,
    LearningRateSchedule,
    needs_batches,
)
from corrsk.neural.training.checkpoint import TrainingCheckpoint, fingerprint, module_in_words
from corrsk.neural.training.device import own_random_numbers, standard_torch
from corrsk.neural.training.net import SignalNet, Step, TensorSignals, WholeBatches, history_rows
from corrsk.neural.training.prediction import PREDICT_ROWS
from corrsk.neural.training.schedules import SCHEDULES
from corrsk.neural.training.settings import (
    ClassifierSettings,
    ModuleFactory,
    TrainingSettings,
    apply_settings,
    untrained_net,
    wants_bfloat16,
)
from corrsk.neural.training.sources import ArraySource, Source, Split, tensor_signals
from corrsk.neural.training.steps import TorchStep
from corrsk.neural.training.streaming import StreamedSignals

History = list[dict[str, Any]]

MICRO_BATCH = 3500  # number of signals for which the CNN's activations fit in the caches
# names of backends in fingerprints, as in the checkpoints of earlier versions
_STORED_BACKENDS = {"numba": "compiled", "graphs": "graphed", "fused": "fused"}


@standard_torch()
def train_network(
    settings: TrainingSettings,
    source: Source,
    validation: Split | None,
    *,
    device: torch.device,
    progress_delay: float = math.inf,
    checkpoint: str | Path | None = None,
    callbacks: list[Any] | None = None,
    earlier: SignalNet | None = None,
) -> tuple[SignalNet, History]:
    """Train a network from its initial weights to the last epoch.

    Parameters
    ----------
    settings : TrainingSettings
        Settings of the training.
    source : Source
        Source of the training signals.
    validation : (array of shape (n_samples, n_measurements), array of shape (n_samples,)) or None
        Signals and targets for the validation.
    device : torch.device
        Device of the training.
    progress_delay : float
        Time in seconds before a progress bar appears.
    checkpoint : path-like, optional
        File in which the state is stored, and from which an interrupted training is resumed.
    callbacks : list of callbacks or (name, callback), optional
        Callbacks of skorch, by the user.
    earlier : SignalNet, optional
        Net with the same network, from whose weights and input scaling the training starts.

    Returns
    -------
    net : SignalNet
        Trained net, without the parts that only the training needs.
    history : list of dict
        One row for each epoch.

    Raises
    ------
    ValueError
        If the checkpoint belongs to another training, or `earlier` has another network.
    FileExistsError
        If another training uses the checkpoint.

    Notes
    -----
    Simultaneous trainings in several threads of one process give the same bits as separate
    trainings. Trainings with dropout therefore wait for each other, because dropout draws from
    torch's global generator in every step; without dropout, only the initial weights are drawn
    from it.
    """
    guests = callbacks or []
    settings = replace(settings, backend=_backend(settings, device, guests))
    held_out = None if validation is None else tensor_signals(validation, device)
    order = torch.Generator(device).manual_seed(settings.stream_seed(Stream.ORDER))
    best = BestEpoch(
        "train_loss" if held_out is None else "valid_loss",
        settings.restore_best and held_out is not None,
        settings.patience,
    )
    progress = EpochProgress(settings.max_epochs, progress_delay)
    with (
        ExitStack() as claims,
        ExitStack() as drawing,
        source.opened(settings, device, order) as (signals, options),
    ):
        schedule = LearningRateSchedule(
            SCHEDULES[settings.learning_rate_schedule], settings.learning_rate,
            settings.max_epochs * math.ceil(len(signals) / settings.batch_size),
        )  # fmt: skip
        stateful = [schedule, best]
        keeper = state = None
        if checkpoint is not None:
            identity = _fingerprint(settings, source, validation, device)
            keeper = TrainingCheckpoint(checkpoint, identity, stateful, order)
            claims.enter_context(keeper.claimed())
            state = keeper.read()  # an invalid file is an error before the training starts
        drawing.enter_context(own_random_numbers(settings.stream_seed(Stream.WEIGHTS), device))
        net = untrained_net(
            settings, signals.X if isinstance(signals, TensorSignals) else signals.sample(),
            iterator_valid=WholeBatches,
            iterator_valid__batch_size=_validation_rows(settings, device),
            # those of the user before the best epoch, which may end the training; the checkpoint
            # comes last, so that it stores the updated state of the others
            callbacks=[
                (type(schedule).__name__, schedule), *guests,
                *(
                    (type(callback).__name__, callback)
                    for callback in (best, progress, keeper)
                    if callback is not None
                ),
            ],
            **options,
        )  # fmt: skip
        if earlier is not None:
            _start_from(net, earlier)
        if keeper is not None and state is not None:
            keeper.restore(net, state)
        if isinstance(signals, StreamedSignals):
            signals.start_at(len(net.history))
        # GPUs train one network at a time: no other thread may use a GPU during a capture
        if device.type not in GRAPHS and not draws_in_training(net.module_):
            drawing.close()  # no more draws, so that fits in other threads can start
        try:
            with _step(settings, net, signals, order, schedule) as step:
                net.train(signals, held_out, settings.max_epochs - len(net.history), step)
        finally:
            progress.close()
    history = history_rows(net)
    net.trim_for_prediction()  # deletes the optimiser, the callbacks and skorch's history
    return net, history


@standard_torch()
def train_further(
    settings: TrainingSettings,
    source: ArraySource,
    *,
    net: SignalNet | None,
    call: int,
    device: torch.device,
) -> tuple[SignalNet, dict[str, Any]]:
    """Continue a training with one pass over some signals, at the full learning rate.

    Parameters
    ----------
    settings : TrainingSettings
        Settings of the pass.
    source : ArraySource
        Source of the signals.
    net : SignalNet or None
        The net of the earlier calls; None for a new net, with an input scaling by these signals.
    call : int
        Number of earlier calls, part of the key of the random streams.
    device : torch.device
        Device of the training.

    Returns
    -------
    net : SignalNet
        Net with its optimiser, for the next call.
    row : dict
        Row of the history for this pass.
    """
    module = None if net is None else net.module_
    settings = replace(settings, backend=resolve_backend(settings, device, module))
    key = (Stream.FURTHER, call)
    order = torch.Generator(device).manual_seed(settings.stream_seed(*key, Stream.ORDER))
    seed = settings.stream_seed(*key, Stream.WEIGHTS)
    with (
        source.opened(settings, device, order) as (signals, options),
        own_random_numbers(seed, device),
    ):
        if net is None or net.is_trimmed:
            earlier, net = net, untrained_net(settings, signals.X, callbacks=[])
            if earlier is not None:
                _start_from(net, earlier)
        else:
            apply_settings(settings, net)
        # not by set_params, which would initialise the dependent parts again
        for name, value in options.items():
            setattr(net, name, value)
        net.batch_size = settings.batch_size
        with _batch_step(settings, net, device) as step:
            net.train(signals, None, 1, step)
    net.iterator_train__generator = None  # torch generators cannot be pickled
    return net, history_rows(net)[-1]


def _start_from(net: SignalNet, earlier: SignalNet) -> None:
    """Copy the weights and the input scaling of an earlier net."""
    try:
        net.module_.load_state_dict(earlier.module_.state_dict())
    except RuntimeError as error:
        raise ValueError(
            "the earlier fit has another network or input scaling, so that the training cannot "
            f"start from its weights: {error}"
        ) from error


def _backend(settings: TrainingSettings, device: torch.device, guests: list[Any]) -> str:
    """Backend of a whole training: for "auto" on a GPU, "fused" or "graphs" if possible."""
    if needs_batches(guests):
        if settings.backend not in ("auto", "torch"):
            raise ValueError(
                f"backend={settings.backend!r} has no events within a batch, which a callback "
                "uses; use backend='torch'"
            )
        return "torch"
    if settings.backend == "auto" and device.type in GRAPHS:
        if fused.obstacle(settings, device) is None:
            return "fused"
        if can_be_captured(settings):
            return "graphs"
    return resolve_backend(settings, device)


def _step(
    settings: TrainingSettings,
    net: SignalNet,
    signals: TensorSignals | StreamedSignals,
    order: torch.Generator,
    schedule: LearningRateSchedule,
) -> Step:
    """Step of a whole training."""
    if settings.backend == "fused":
        assert isinstance(settings, ClassifierSettings)
        return fused.FusedStep(settings, net, signals, order, schedule)
    if settings.backend == "graphs":
        return GraphedStep(settings, net, signals, order, schedule)
    return _batch_step(settings, net, torch.device(net.device))


def _batch_step(settings: TrainingSettings, net: SignalNet, device: torch.device) -> Step:
    """Step of a training that processes batch by batch."""
    if settings.backend == "numba":
        assert isinstance(settings, ClassifierSettings)
        return NumbaStep(net, settings)
    return TorchStep(
        net,
        bfloat16=wants_bfloat16(settings.precision, device),
        # the CNN processes each signal of a batch independently
        micro_batch=MICRO_BATCH if cnn_on_processor(net.module_) is not None else None,
    )


def _validation_rows(settings: TrainingSettings, device: torch.device) -> int:
    """Number of signals per validation step: larger if threads or a GPU process them."""
    shared = settings.backend == "numba" or device.type != "cpu"
    return 16 * PREDICT_ROWS if shared else PREDICT_ROWS


def _fingerprint(
    settings: TrainingSettings, source: Source, validation: Split | None, device: torch.device
) -> str:
    """Fingerprint of a training (settings and data), stored in its checkpoint.

    The fingerprint is the same as in earlier versions, whose checkpoints can be resumed.
    """
    arrays = [*source.arrays, *(validation or ())]
    described: dict[str, Any] = source.description
    if isinstance(settings.network, nn.Module):
        tensors = [*settings.network.parameters(), *settings.network.buffers()]
        arrays += [tensor.detach().cpu().numpy() for tensor in tensors]
        described["module"] = module_in_words(settings.network)
        settings = replace(settings, network="module")
    elif isinstance(settings.network, ModuleFactory):
        described["module"] = settings.network.description
        settings = replace(settings, network="module")
    described = asdict(settings) | described
    del described["n_features"]  # already given by the arrays or the stream
    backend = described.pop("backend")
    if backend != "torch":  # the only backend when checkpoints were introduced
        described["kernel"] = _STORED_BACKENDS[backend]
    if device.type != "cpu":
        # generators of a GPU have other states and give another order and other streams
        described["device"] = device.type, gpu_stream.VERSION
    return fingerprint(described, *arrays)
