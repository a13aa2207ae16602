"""Simulation of signals during the training, chunk by chunk, on the processor or a GPU."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from corrsk._utils.parallel import share_of_cores
from corrsk.neural.gpu.stream import DeviceStream
from corrsk.neural.training.net import Batch
from corrsk.simulation.streams import SignalStream
from corrsk.simulation.targets import StreamTargets

CHUNK_ROWS = 65_536  # 17 MB for 64 measurements; two chunks wait while one is in training
_AHEAD = 2
DRAWING_DEVICES = {"cuda"}  # types of devices that simulate their training signals

Chunk = tuple[Tensor, Tensor]  # signals and their class indices
Draw = Callable[[int, int], Chunk]


@dataclass(frozen=True)
class StreamPlan:
    """Division of a stream into epochs of equal chunks of whole batches.

    Parameters
    ----------
    n_epochs, n_chunks, chunk_rows : int
        Number of epochs, of chunks per epoch, and of signals per chunk.
    """

    n_epochs: int
    n_chunks: int
    chunk_rows: int

    @classmethod
    def from_n_samples(cls, n_samples: int, n_epochs: int, batch_size: int) -> StreamPlan:
        """Plan at least `n_samples` signals, rounded up to whole batches in equal chunks."""
        batches = math.ceil(n_samples / n_epochs / batch_size)
        n_chunks = math.ceil(batches * batch_size / max(CHUNK_ROWS, batch_size))
        return cls(n_epochs, n_chunks, math.ceil(batches / n_chunks) * batch_size)

    @property
    def epoch_rows(self) -> int:
        """Number of signals of an epoch."""
        return self.n_chunks * self.chunk_rows


class StreamedSignals(Dataset[tuple[Tensor, Tensor]]):
    """Data set of fresh signals for each epoch.

    Within this context manager, a thread may draw in advance. Only one iteration may run at
    a time, because the number of a chunk, which determines its random numbers, is the number
    of chunks requested before.

    Parameters
    ----------
    draw : callable
        Function from the number of a chunk and its number of signals to signals and class
        indices, shapes (n_samples, n_measurements) and (n_samples,).
    plan : StreamPlan
        Division of the stream.
    device : torch.device
        Device of the training.
    in_thread : bool
        Whether a thread draws in advance, for a processor that draws for a GPU.
    """

    def __init__(
        self, draw: Draw, plan: StreamPlan, device: torch.device, *, in_thread: bool
    ) -> None:
        self.plan = plan
        self.device = device
        self._draw = draw
        self._in_thread = in_thread
        self._next = 0

    @classmethod
    def from_stream(
        cls, stream: SignalStream, plan: StreamPlan, device: torch.device
    ) -> StreamedSignals:
        """Prepare the signals of a stream; a GPU draws the signals if possible.

        The processor draws the signals of subclasses with their own `draw`, and of contrasts
        whose functions accept only numpy arrays.
        """
        if device.type in DRAWING_DEVICES and type(stream).draw is SignalStream.draw:
            on_device = DeviceStream(stream, device)
            with suppress(TypeError):  # from numpy functions of a tensor on a GPU
                on_device.draw(0, 1)
                return cls(on_device.draw, plan, device, in_thread=False)
        # must be computed in this thread, because other threads do not count as worker threads
        n_jobs = min(share_of_cores(), torch.get_num_threads())

        def draw(chunk: int, n: int) -> Chunk:
            X, n_c = stream.draw(chunk, n, n_jobs=n_jobs)
            return torch.from_numpy(X), torch.from_numpy(np.searchsorted(stream.classes, n_c))

        # a training on the processor draws between steps: all cores are busy, and torch's
        # threads, which wait actively for each other, would be delayed by another thread
        return cls(draw, plan, device, in_thread=device.type != "cpu")

    @classmethod
    def from_targets(
        cls, targets: StreamTargets, plan: StreamPlan, device: torch.device
    ) -> StreamedSignals:
        """Prepare the signals of a stream with their tissue, which the processor draws."""
        n_jobs = min(share_of_cores(), torch.get_num_threads())  # as above

        def draw(chunk: int, n: int) -> Chunk:
            X, y = targets.draw(chunk, n, n_jobs=n_jobs)
            return torch.from_numpy(X), torch.from_numpy(y)

        return cls(draw, plan, device, in_thread=device.type != "cpu")

    def __len__(self) -> int:
        return self.plan.epoch_rows

    def __enter__(self) -> StreamedSignals:
        self._beside = _BesideTraining(self.device) if self.device.type == "cuda" else None
        # the thread of the pool starts with the first submitted chunk
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="corrsk-stream")
        self._ahead: deque[Future[Chunk]] = deque()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def sample(self) -> Tensor:
        """Return the signals of the first chunk on the device, for the input scaling."""
        return self._draw(0, self.plan.chunk_rows)[0].to(self.device)

    def start_at(self, epoch: int) -> None:
        """Continue with the first chunk of an epoch, counted from 0."""
        self._next = epoch * self.plan.n_chunks

    def epoch(self) -> Iterator[Chunk]:
        """Iterate over the chunks of the next epoch, on the device."""
        for _ in range(self.plan.n_chunks):
            chunk = self._chunk_from_thread() if self._in_thread else self._chunk_drawn_here()
            yield chunk() if self._beside is None else self._beside.made(chunk)

    def _chunk_from_thread(self) -> Callable[[], Chunk]:
        # the thread draws beyond the end of the epoch, so that the next epoch need not wait
        end = self.plan.n_epochs * self.plan.n_chunks
        while len(self._ahead) < _AHEAD and self._next < end:
            self._ahead.append(self._pool.submit(self._drawn, self._next))
            self._next += 1
        X, y = self._ahead.popleft().result()
        return lambda: (X.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True))

    def _drawn(self, number: int) -> Chunk:
        X, y = self._draw(number, self.plan.chunk_rows)
        return (X.pin_memory(), y.pin_memory()) if self.device.type == "cuda" else (X, y)

    def _chunk_drawn_here(self) -> Callable[[], Chunk]:
        number, self._next = self._next, self._next + 1
        return lambda: self._draw(number, self.plan.chunk_rows)


class _BesideTraining:
    """Simulation or copy of a chunk on a GPU during the training on the chunk before.

    Parameters
    ----------
    device : torch.device
        The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._making = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._trained: deque[torch.cuda.Event] = deque()

    def made(self, make: Callable[[], Chunk]) -> Chunk:
        """Return the next chunk, drawn on the device or copied from pinned memory."""
        training = torch.cuda.current_stream(self.device)
        # all work on the chunk before is in the queue; more work must not be queued, because
        # waiting chunks would fill the memory. blocking: frees the core for the simulation
        trained = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        trained.record(training)
        self._trained.append(trained)
        if len(self._trained) > 1:
            self._trained.popleft().synchronize()
        with torch.cuda.stream(self._making):
            X, y = make()
        training.wait_stream(self._making)
        for tensor in (X, y):
            tensor.record_stream(training)  # keeps the memory until the training is done with it
        return X, y


class StreamBatches:
    """Iterate over the batches of a stream's next epoch.

    Parameters
    ----------
    dataset : StreamedSignals
        The signals.
    batch_size : int
        Number of signals of a batch.
    """

    def __init__(self, dataset: StreamedSignals, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        for X, y in self.dataset.epoch():
            for start in range(0, len(X), self.batch_size):
                rows = slice(start, start + self.batch_size)
                yield Batch(X[rows], y[rows])
