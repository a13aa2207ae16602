"""Fresh signals, drawn chunk by chunk as the network trains: by the processor, or by a GPU."""

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

_CHUNK_ROWS = 65_536  # 17 MB of signals of 64 measurements; two chunks wait, one is trained on
_AHEAD = 2
DRAWING_DEVICES = {"cuda"}  # kinds of devices that draw the signals they train on

Chunk = tuple[Tensor, Tensor]  # signals and their class indices
Draw = Callable[[int, int], Chunk]


@dataclass(frozen=True)
class StreamPlan:
    """How a stream is divided: epochs of equal chunks of whole batches.

    Parameters
    ----------
    n_epochs, n_chunks, chunk_rows : int
        Epochs, chunks of an epoch, signals of a chunk.
    """

    n_epochs: int
    n_chunks: int
    chunk_rows: int

    @classmethod
    def from_n_samples(cls, n_samples: int, n_epochs: int, batch_size: int) -> StreamPlan:
        """Plan at least `n_samples` signals in all, rounded up to whole batches in equal chunks."""
        batches = math.ceil(n_samples / n_epochs / batch_size)
        n_chunks = math.ceil(batches * batch_size / max(_CHUNK_ROWS, batch_size))
        return cls(n_epochs, n_chunks, math.ceil(batches / n_chunks) * batch_size)

    @property
    def epoch_rows(self) -> int:
        """Number of signals of an epoch."""
        return self.n_chunks * self.chunk_rows


class StreamedSignals(Dataset[tuple[Tensor, Tensor]]):
    """The signals of one epoch after the other, never the same.

    A context manager, within which a thread may draw ahead. Only one iteration goes on at
    a time: the chunks have their numbers, by which they have their bits, in the order
    in which they are asked for.

    Parameters
    ----------
    draw : callable
        From the number of a chunk and how many signals it has to these and their
        class indices, shapes (n, N) and (n,).
    plan : StreamPlan
    device : torch.device
        Where to train.
    in_thread : bool
        Whether a thread draws ahead: where the processor draws for a GPU.
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
        """Prepare the signals of a stream, which a GPU draws itself.

        The processor draws streams of a subclass with a `draw` of its own, and of contrasts
        that know numpy's arrays alone.
        """
        if device.type in DRAWING_DEVICES and type(stream).draw is SignalStream.draw:
            on_device = DeviceStream(stream, device)
            with suppress(TypeError):  # numpy's, of a tensor on a GPU
                on_device.draw(0, 1)
                return cls(on_device.draw, plan, device, in_thread=False)
        # to be asked in this thread: others do not know that they are a worker's
        n_jobs = min(share_of_cores(), torch.get_num_threads())

        def draw(chunk: int, n: int) -> Chunk:
            X, n_c = stream.draw(chunk, n, n_jobs=n_jobs)
            return torch.from_numpy(X), torch.from_numpy(np.searchsorted(stream.classes, n_c))

        # a processor that trains had better draw in between: its cores are all busy, and a
        # thread beside those of torch, which wait actively for each other, holds them up
        return cls(draw, plan, device, in_thread=device.type != "cpu")

    def __len__(self) -> int:
        return self.plan.epoch_rows

    def __enter__(self) -> StreamedSignals:
        self._beside = _BesideTraining(self.device) if self.device.type == "cuda" else None
        # its thread starts with the first chunk that it is given
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="corrsk-stream")
        self._ahead: deque[Future[Chunk]] = deque()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def sample(self) -> Tensor:
        """The signals of the first chunk, on the device, to scale a network's input by."""
        return self._draw(0, self.plan.chunk_rows)[0].to(self.device)

    def start_at(self, epoch: int) -> None:
        """Go on with the first chunk of an epoch, counted from 0."""
        self._next = epoch * self.plan.n_chunks

    def epoch(self) -> Iterator[Chunk]:
        """The chunks of the next epoch, on the device."""
        for _ in range(self.plan.n_chunks):
            chunk = self._chunk_from_thread() if self._in_thread else self._chunk_drawn_here()
            yield chunk() if self._beside is None else self._beside.made(chunk)

    def _chunk_from_thread(self) -> Callable[[], Chunk]:
        # the thread looks beyond the epoch's end, so that no epoch starts with waiting
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
    """Lets a GPU make chunks, each while the one before is trained on.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._making = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._trained: deque[torch.cuda.Event] = deque()

    def made(self, make: Callable[[], Chunk]) -> Chunk:
        """The next chunk: a draw on the device, or a copy of one in pinned memory."""
        training = torch.cuda.current_stream(self.device)
        # by now all work on the chunk before is queued; no more than that may be, or chunks
        # that wait would fill the memory. blocking: the cores are for the simulation
        trained = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        trained.record(training)
        self._trained.append(trained)
        if len(self._trained) > 1:
            self._trained.popleft().synchronize()
        with torch.cuda.stream(self._making):
            X, y = make()
        training.wait_stream(self._making)
        for tensor in (X, y):
            tensor.record_stream(training)  # its memory is not free before that is done
        return X, y


class StreamBatches:
    """Iterate over the batches of a stream's next epoch.

    Parameters
    ----------
    dataset : StreamedSignals
    batch_size : int
    """

    def __init__(self, dataset: StreamedSignals, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        for X, y in self.dataset.epoch():
            for start in range(0, len(X), self.batch_size):
                rows = slice(start, start + self.batch_size)
                yield Batch(X[rows], y[rows])
