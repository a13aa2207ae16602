"""Training steps as CUDA graphs: captured once, and replayed without the processor.

A step of a small network is some hundred kernels of a few microseconds, which take longer to
launch than to run. Here all of a step, from the choice of its batch to the new weights, is
captured as one graph, so that to train is to launch one graph after the other. What changes
from step to step stands on the device: the order of the signals, the place in it, the learning
rates of all steps and the number of the step. torch's random numbers go on from replay to
replay by themselves. The losses are summed on the device and read once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from corrsk.neural.networks import NETWORKS, CorrelationCNN, ResidualMLP
from corrsk.neural.training.callbacks import LearningRateSchedule
from corrsk.neural.training.modules import is_of_known_parts
from corrsk.neural.training.net import SignalNet, TensorSignals
from corrsk.neural.training.settings import TrainingSettings, wants_bfloat16
from corrsk.neural.training.steps import TorchStep
from corrsk.neural.training.streaming import StreamedSignals

_WARM_UP_STEPS = 3  # before a capture: libraries set themselves up in the first steps
_CLASSES = (CorrelationCNN, ResidualMLP)

Work = Callable[[], Any]


class Graphs(Protocol):
    """What steps are captured with."""

    def on_side_stream(self) -> AbstractContextManager[None]:
        """Within it steps may run that come before the capture."""
        ...

    def capture(self, step: Work) -> Work:
        """What does all that a step does, again and again; the step itself is not done."""
        ...


class CudaGraphs:
    """Captures steps on a GPU.

    PyTorch allows no other work on a GPU meanwhile, in any thread of the process.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def on_side_stream(self) -> Iterator[None]:
        """On the stream that captures: libraries keep their working memory for each stream."""
        training = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(training)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            training.wait_stream(self._stream)

    def capture(self, step: Work) -> Work:
        """The replay of a graph of the step."""
        graph = torch.cuda.CUDAGraph()
        # torch's context leaves its stream the current one if the capture ends in an error.
        # "thread_local": threads of the user's may allocate memory on the GPU
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._device)),
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            step()
        return graph.replay


GRAPHS: dict[str, Callable[[torch.device], Graphs]] = {"cuda": CudaGraphs}  # by kind of device


def can_be_captured(settings: TrainingSettings, device: torch.device) -> bool:
    """Return whether the steps of a training can be captured.

    Only corrsk's own networks are: a module of the user may wait for the GPU, or decide something
    on the processor, which a replay would not do again.
    """
    network = settings.network
    own = is_of_known_parts(network) if isinstance(network, _CLASSES) else network in NETWORKS
    return own and device.type in GRAPHS


class GraphedStep:
    """Epochs of a training by replays of captured steps.

    See :class:`corrsk.neural.training.net.Step`. To be entered while torch's global generator is
    this training's own: graphs are captured by one thread at a time, and not while others draw
    from it.

    Parameters
    ----------
    settings : TrainingSettings
    net : SignalNet
        Initialised, or brought to the state of a checkpoint; the learning rate of its optimiser
        becomes a tensor.
    signals : TensorSignals or StreamedSignals
        On the device, or brought there chunk by chunk.
    order : torch.Generator
        Source of the order of signals, on the device; not for a stream.
    schedule : LearningRateSchedule
        The learning rates, and the count of steps.
    graphs : Graphs, optional
        Default: those of the device.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        net: SignalNet,
        signals: TensorSignals | StreamedSignals,
        order: torch.Generator,
        schedule: LearningRateSchedule,
        graphs: Graphs | None = None,
    ) -> None:
        device = torch.device(net.device)
        self._graphs = GRAPHS[device.type](device) if graphs is None else graphs
        self._plain = TorchStep(net, bfloat16=wants_bfloat16(settings.precision, device))
        self._settings = settings
        self._net, self._signals, self._order, self._schedule = net, signals, order, schedule

    def __enter__(self) -> Self:
        if self._schedule.step >= self._schedule.n_steps:  # a finished training, of a checkpoint
            return self
        try:
            self._prepare()
        except Exception as error:
            error.add_note(
                "This happened while the training step was captured as a CUDA graph; "
                "backend='torch' trains without, if need be in a new process."
            )
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._net.module_.zero_grad()  # the gradients lie in the memory of the graphs

    def _prepare(self) -> None:
        net, settings, schedule, signals = self._net, self._settings, self._schedule, self._signals
        device, size = torch.device(net.device), settings.batch_size
        # all that a graph reads or writes keeps its place in memory
        self._weight: Tensor | None = None
        if isinstance(signals, TensorSignals):
            self._X, self._y, self._weight = signals.X, signals.y, signals.weight
        else:
            rows = signals.plan.chunk_rows
            self._X = torch.zeros(rows, settings.n_features, device=device)
            self._y = torch.zeros(rows, dtype=torch.int64, device=device)
        n = len(self._X)
        self._sizes = [min(size, n - start) for start in range(0, n, size)]  # of the batches
        self._visits = torch.arange(n, device=device)  # signals in the order of their visit
        self._first = torch.arange(self._sizes[0], device=device)
        self._batch = self._first.clone()  # where in that order the signals of a batch stand
        self._rates = torch.tensor(
            [schedule.rate(step) for step in range(schedule.n_steps)],
            dtype=torch.float32, device=device,
        )  # fmt: skip
        self._rate = torch.zeros(1, device=device)
        self._step = torch.tensor([schedule.step], device=device)
        self._total = torch.zeros((), dtype=torch.float64, device=device)
        for group in net.optimizer_.param_groups:
            group["lr"] = self._rate[0]
        self._replays = self._captured(self._graphs)

    def logits(self, X: Tensor) -> Tensor:
        """Return the outputs of the network, as it is, for signals (n, N)."""
        return self._plain.logits(X)

    def train_epoch(self, batches: Any) -> tuple[Tensor, int]:
        """Train one epoch; the graphs gather the batches themselves.

        Nothing here waits for the device.
        """
        self._total.zero_()
        n_signals = 0
        for _ in self._passes():
            self._batch.copy_(self._first)
            for size in self._sizes:
                self._replays[size]()
            self._schedule.step += len(self._sizes)
            n_signals += len(self._X)
        return self._total, n_signals

    def _passes(self) -> Iterator[None]:
        """Bring what an epoch trains on to its place: all signals at once, or chunk by chunk."""
        if isinstance(self._signals, TensorSignals):
            self._visits.copy_(
                torch.randperm(len(self._X), generator=self._order, device=self._X.device)
            )
            yield
            return
        for X, y in self._signals.epoch():
            self._X.copy_(X)
            self._y.copy_(y)
            yield

    def _take_step(self, size: int) -> None:
        rows = self._visits.index_select(0, self._batch[:size])
        torch.index_select(self._rates, 0, self._step, out=self._rate)
        weight = None if self._weight is None else self._weight.index_select(0, rows)
        loss = self._plain(self._X.index_select(0, rows), self._y.index_select(0, rows), weight)
        self._total.add_(loss.detach(), alpha=size)
        self._batch.add_(self._sizes[0])
        self._step.add_(1)

    def _captured(self, graphs: Graphs) -> dict[int, Work]:
        """A replay for each size of a batch."""
        steps = {size: partial(self._take_step, size) for size in self._sizes}
        self._set_capturable(False)  # torch warns of steps that could be captured and are not
        with self._undone(), graphs.on_side_stream():
            for step in _WARM_UP_STEPS * list(steps.values()):
                self._batch.copy_(self._first)  # all of them the first: there may be no other
                self._step.zero_()
                step()
        self._set_capturable(True)
        return {size: graphs.capture(step) for size, step in steps.items()}

    def _set_capturable(self, capturable: bool) -> None:
        for group in self._net.optimizer_.param_groups:
            if "capturable" in group:
                group["capturable"] = capturable

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Bring all that steps change back to what it was before."""
        before = {id(tensor): (tensor, tensor.detach().clone()) for tensor in self._changing()}
        device = self._X.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
        with torch.no_grad():
            for tensor in self._changing():
                if id(tensor) in before:
                    tensor.copy_(before[id(tensor)][1])
                else:
                    tensor.zero_()  # momenta and counts of steps, which all start there

    def _changing(self) -> Iterator[Tensor]:
        module = self._net.module_
        yield from (self._batch, self._step, self._total, *module.parameters(), *module.buffers())
        optimizer = self._net.optimizer_
        for part in getattr(optimizer, "parts", [optimizer]):
            for state in part.state.values():
                yield from state.values()
