"""Training steps as CUDA graphs: captured once, then replayed.

A step of a small network consists of about a hundred kernels of a few microseconds each, whose
launch takes longer than their execution. Here a whole step, from the choice of the batch to the
new weights, is captured as one graph, and the training launches one graph per step. All values
that change from step to step are on the device: the order of the signals, the position in this
order, the learning rates of all steps and the number of the step. torch advances its random
numbers from replay to replay. The losses are summed on the device and read once per epoch.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from corrsk.neural.networks import NETWORKS, CorrelationCNN, ResidualMLP, is_of_known_parts
from corrsk.neural.training.callbacks import LearningRateSchedule
from corrsk.neural.training.net import SignalNet, TensorSignals
from corrsk.neural.training.settings import TrainingSettings, wants_bfloat16
from corrsk.neural.training.steps import TorchStep
from corrsk.neural.training.streaming import StreamedSignals

_WARM_UP_STEPS = 3  # before a capture, because libraries initialise in the first steps
_CLASSES = (CorrelationCNN, ResidualMLP)

Work = Callable[[], Any]


class Graphs(Protocol):
    """Implementation of the capture of steps."""

    def on_side_stream(self) -> AbstractContextManager[None]:
        """Return a context manager for the warm-up steps before the capture."""
        ...

    def capture(self, step: Work) -> Work:
        """Return a function that replays the step; the capture does not execute the step.

        The function keeps the step, and so all tensors of the step, alive.
        """
        ...


class CudaGraphs:
    """Capture of steps on a GPU.

    During a capture, PyTorch does not allow other work on a GPU in any thread of the process.

    Parameters
    ----------
    device : torch.device
        The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def on_side_stream(self) -> Iterator[None]:
        """Use the stream of the capture, because libraries have working memory per stream."""
        training = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(training)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            training.wait_stream(self._stream)

    def capture(self, step: Work) -> Work:
        """Capture a step as a graph; return the replay of the graph.

        After an error, the process can go on to draw random numbers and to capture.
        """
        graph = torch.cuda.CUDAGraph()
        # the outer context restores the current stream, which torch.cuda.graph does not after an
        # error. "thread_local": other threads of the user may allocate memory on the GPU
        with _no_garbage_collection(), torch.cuda.stream(torch.cuda.current_stream(self._device)):
            try:
                with torch.cuda.graph(
                    graph, stream=self._stream, capture_error_mode="thread_local"
                ):
                    step()
            except Exception:
                self._end_failed_capture()
                raise
        return _Replay(graph, step)

    def _end_failed_capture(self) -> None:
        """Capture something harmless.

        PyTorch ends the capture mode of its random generator only after a successful capture;
        before, every draw on the GPU would be an error.
        """
        with suppress(Exception):
            number = torch.zeros(1, device=self._device)
            with torch.cuda.graph(
                torch.cuda.CUDAGraph(), stream=self._stream, capture_error_mode="thread_local"
            ):
                number.add_(1)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and not within this context manager.

    A graph that is destroyed while another one is captured invalidates the capture ("operation
    not permitted when stream is capturing"), and the process may end with a segmentation fault.
    Graphs in cycles of references are destroyed by the garbage collection, at any time.
    """
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Replay:
    """Replay of a captured step.

    The tensors that the step refers to must exist as long as its graph: without them, the graph
    would read and write memory that belongs to others, or to nobody.

    Parameters
    ----------
    graph : torch.cuda.CUDAGraph
        The graph.
    step : callable
        The captured step.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, step: Work) -> None:
        self._graph = graph
        self._step = step

    def __call__(self) -> None:
        self._graph.replay()


GRAPHS: dict[str, Callable[[torch.device], Graphs]] = {"cuda": CudaGraphs}  # by type of device


def can_be_captured(settings: TrainingSettings) -> bool:
    """Whether the steps of a training can be captured.

    Only networks of corrsk can: a module of the user may wait for the GPU, or contain decisions
    on the processor, which a replay would not repeat.
    """
    network = settings.network
    if isinstance(network, str):
        return network in NETWORKS
    return isinstance(network, _CLASSES) and is_of_known_parts(network)


class CapturedStep(ABC):
    """Base class of captured training steps; see :class:`corrsk.neural.training.net.Step`.

    Enter this context manager while the training owns torch's global generator: only one thread
    at a time may capture graphs, and no other thread may draw from the generator meanwhile.

    Parameters
    ----------
    settings : TrainingSettings
        Settings of the training.
    net : SignalNet
        Net, initialised or restored from a checkpoint.
    signals : TensorSignals or StreamedSignals
        Signals on the device, or chunks that are copied to the device.
    order : torch.Generator
        Generator of the order of the signals, on the device; without effect for a stream.
    schedule : LearningRateSchedule
        Learning rates and number of steps.
    graphs : Graphs, optional
        Implementation of the capture; by default, that of the device.
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
        if self._schedule.step >= self._schedule.n_steps:  # finished training from a checkpoint
            return self
        try:
            self._allocate()
            self._prepare()
        except Exception as error:
            error.add_note(
                "The error occurred during the capture of the training step as a CUDA graph; "
                "backend='torch' trains without CUDA graphs (start a new process if necessary)."
            )
            raise
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Release the resources of the training."""

    @abstractmethod
    def train_epoch(self, batches: Any) -> tuple[Tensor, int]:
        """Train one epoch; the graphs gather the batches."""

    @abstractmethod
    def _prepare(self) -> None:
        """Capture the steps; signals and order have been allocated."""

    def _input(self, X: Tensor) -> Tensor:
        """Return what the captured steps read in place of signals (n_samples, n_measurements)."""
        return X

    def _allocate(self) -> None:
        """Set signals, targets, weights and order, which keep their addresses."""
        signals, device = self._signals, torch.device(self._net.device)
        self._weight: Tensor | None = None
        if isinstance(signals, TensorSignals):
            self._X, self._y, self._weight = self._input(signals.X), signals.y, signals.weight
        else:
            rows = signals.plan.chunk_rows
            self._X = torch.zeros(rows, self._settings.n_features, device=device)
            self._y = torch.zeros(rows, dtype=torch.int64, device=device)
        self._visits = torch.arange(len(self._X), device=device)  # order in an epoch

    def logits(self, X: Tensor) -> Tensor:
        """Return the outputs of the network for signals (n_samples, n_measurements)."""
        return self._plain.logits(X)

    def _passes(self) -> Iterator[None]:
        """Prepare the data of an epoch: a new order of the signals, or one chunk at a time."""
        if isinstance(self._signals, TensorSignals):
            self._visits.copy_(
                torch.randperm(len(self._X), generator=self._order, device=self._X.device)
            )
            yield
            return
        for X, y in self._signals.epoch():
            self._X.copy_(self._input(X))
            self._y.copy_(y)
            yield


class GraphedStep(CapturedStep):
    """Training steps by replays of captured steps of torch.

    Parameters are those of :class:`CapturedStep`; the learning rate of the optimiser becomes a
    tensor.
    """

    _replays: Mapping[int, Work] = MappingProxyType({})

    def __exit__(self, *_: object) -> None:
        self._net.module_.zero_grad()  # the gradients are in the memory of the graphs
        self._replays = {}  # their memory is free from now on, not after a garbage collection

    def _prepare(self) -> None:
        net, schedule, size = self._net, self._schedule, self._settings.batch_size
        device, n = torch.device(net.device), len(self._X)
        self._sizes = [min(size, n - start) for start in range(0, n, size)]  # sizes of the batches
        self._first = torch.arange(self._sizes[0], device=device)
        self._batch = self._first.clone()  # positions of the batch's signals in this order
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

    def train_epoch(self, batches: Any) -> tuple[Tensor, int]:
        """Train one epoch without waiting for the device; the graphs gather the batches."""
        self._total.zero_()
        n_signals = 0
        for _ in self._passes():
            self._batch.copy_(self._first)
            for size in self._sizes:
                self._replays[size]()
            self._schedule.step += len(self._sizes)
            n_signals += len(self._X)
        return self._total, n_signals

    def _take_step(self, size: int) -> None:
        rows = self._visits.index_select(0, self._batch[:size])
        torch.index_select(self._rates, 0, self._step, out=self._rate)
        weight = None if self._weight is None else self._weight.index_select(0, rows)
        loss = self._plain(self._X.index_select(0, rows), self._y.index_select(0, rows), weight)
        self._total.add_(loss.detach(), alpha=size)
        self._batch.add_(self._sizes[0])
        self._step.add_(1)

    def _captured(self, graphs: Graphs) -> dict[int, Work]:
        """Return the replay for each batch size."""
        steps = {size: partial(self._take_step, size) for size in self._sizes}
        self._set_capturable(False)  # torch warns if a capturable optimiser runs outside a graph
        with self._undone(), graphs.on_side_stream():
            for step in _WARM_UP_STEPS * list(steps.values()):
                self._batch.copy_(self._first)  # always the first batch: there may be only one
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
        """Undo all changes by steps within this context manager."""
        before = {id(tensor): (tensor, tensor.detach().clone()) for tensor in self._changing()}
        device = self._X.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
        with torch.no_grad():
            for tensor in self._changing():
                if id(tensor) in before:
                    tensor.copy_(before[id(tensor)][1])
                else:
                    tensor.zero_()  # momenta and step counts, which start at 0

    def _changing(self) -> Iterator[Tensor]:
        module = self._net.module_
        yield from (self._batch, self._step, self._total, *module.parameters(), *module.buffers())
        optimizer = self._net.optimizer_
        for part in getattr(optimizer, "parts", [optimizer]):
            for state in part.state.values():
                yield from state.values()
