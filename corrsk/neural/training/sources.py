"""Sources of the signals of a training: arrays, or a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from corrsk.neural.training.net import TensorSignals, WholeBatches, as_tensor
from corrsk.neural.training.settings import TrainingSettings
from corrsk.neural.training.streaming import StreamBatches, StreamedSignals, StreamPlan
from corrsk.simulation.streams import SignalStream
from corrsk.simulation.targets import StreamTargets

Split = tuple[NDArray[np.float32], NDArray[Any]]  # signals, targets


class Source(Protocol):
    """Source of the signals of a training."""

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Arrays that are part of the training's fingerprint."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Other parts of the training's fingerprint, in types that JSON can represent."""
        ...

    def opened(
        self, settings: TrainingSettings, device: torch.device, order: torch.Generator
    ) -> Any:
        """Return a context manager: data set, and parameters of skorch's iterator."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Signals in arrays.

    Parameters
    ----------
    X : array of shape (n_samples, n_measurements)
        Signals.
    y : array of shape (n_samples,)
        Class indices, or targets of a regression.
    sample_weight : array of shape (n_samples,), optional
        Sample weights with mean 1.
    """

    X: NDArray[np.float32]
    y: NDArray[Any]
    sample_weight: NDArray[np.float32] | None = None

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Signals, targets, and sample weights if given."""
        weights = () if self.sample_weight is None else (self.sample_weight,)
        return (self.X, self.y, *weights)

    @property
    def description(self) -> dict[str, Any]:
        """Description without a stream."""
        return {"stream": {}, "plan": None}

    @contextmanager
    def opened(
        self, settings: TrainingSettings, device: torch.device, order: torch.Generator
    ) -> Iterator[tuple[TensorSignals, dict[str, Any]]]:
        """Yield the signals on the device, and the parameters of skorch's iterator."""
        signals = tensor_signals((self.X, self.y), device, self.sample_weight)
        yield (
            signals,
            {
                "iterator_train": WholeBatches,
                "iterator_train__shuffle": True,
                "iterator_train__generator": order,
                "iterator_train__gather": settings.backend != "numba",
            },
        )


@dataclass(frozen=True, eq=False)
class StreamSource:
    """Signals of a stream, each used once.

    Parameters
    ----------
    stream : SignalStream
        The stream.
    plan : StreamPlan
        Division of the stream into epochs and chunks.
    targets : StreamTargets, optional
        Tissue of the stream as targets, in place of the counts.
    """

    stream: SignalStream
    plan: StreamPlan
    targets: StreamTargets | None = None

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Empty tuple, because a stream has no arrays."""
        return ()

    @property
    def description(self) -> dict[str, Any]:
        """Description of the stream and of its division."""
        described: dict[str, Any] = {"stream": self.stream.identity, "plan": asdict(self.plan)}
        if self.targets is not None:
            described["targets"] = [*self.targets.dimensions, *self.targets.shared]
        if type(self.stream) is not SignalStream:  # a subclass may draw other signals
            described["drawn by"] = type(self.stream).__qualname__
        return described

    @contextmanager
    def opened(
        self, settings: TrainingSettings, device: torch.device, order: torch.Generator
    ) -> Iterator[tuple[StreamedSignals, dict[str, Any]]]:
        """Yield the streamed signals, and the parameters of skorch's iterator."""
        drawn = (
            StreamedSignals.from_stream(self.stream, self.plan, device)
            if self.targets is None
            else StreamedSignals.from_targets(self.targets, self.plan, device)
        )
        with drawn as signals:
            yield signals, {"iterator_train": StreamBatches}


def tensor_signals(
    split: Split, device: torch.device, sample_weight: NDArray[np.float32] | None = None
) -> TensorSignals:
    """Return arrays as tensors on a device."""
    X, y = split
    weight = None if sample_weight is None else as_tensor(sample_weight).to(device)
    return TensorSignals(as_tensor(X).to(device), torch.from_numpy(y).to(device), weight)
