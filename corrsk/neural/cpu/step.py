"""Training steps of the paper's CNN with compiled kernels in place of torch's autograd."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corrsk._utils.extras import install_command
from corrsk.neural._grid import MIN_GRID_SIDE
from corrsk.neural.networks import CorrelationCNN, StandardizedNetwork
from corrsk.neural.training.device import limited_threads
from corrsk.neural.training.net import Batch, SignalNet, SignalRows, views_like
from corrsk.neural.training.settings import (
    ClassifierSettings,
    TrainingSettings,
    wants_bfloat16,
)
from corrsk.neural.training.steps import train_by_batches

_PUBLISHED_GRID = (8, 8)  # has kernels of its own
_MAX_SLICES = 16  # per batch; slices are shared by the threads and fix the order of sums


def obstacle(settings: TrainingSettings, device: torch.device) -> str | None:
    """Reason why the compiled kernels cannot run a training, or None if possible."""
    if not isinstance(settings, ClassifierSettings):
        return "the compiled kernels train only classifiers"
    if device.type != "cpu":
        return f"the compiled kernels run on the processor, not on {device}"
    if settings.network != "cnn":
        return "the compiled kernels are only for the paper's CNN"
    if settings.n_features > math.prod(settings.grid_shape):
        return (
            f"{settings.n_features} measurements have no place on a grid of "
            f"{' x '.join(map(str, settings.grid_shape))}"
        )
    if settings.input_scaling == "half-whiten" or wants_bfloat16(settings.precision, device):
        return "the compiled kernels need precision float32 and no half-whitening"
    if importlib.util.find_spec("numba") is None:
        return f"the compiled kernels need numba: {install_command('fast')}"
    try:
        cnn_kernels = _kernels()
    except Exception as error:  # for example a numpy that is too new, or no folder for the cache
        return f"numba cannot be used here: {error}"
    if settings.n_classes > cnn_kernels.MAX_CLASSES:
        return (
            f"the compiled kernels support up to {cnn_kernels.MAX_CLASSES} classes, not "
            f"{settings.n_classes}"
        )
    return None


def _kernels() -> Any:
    from numba.core import config

    if getattr(config, "DISABLE_JIT", 0):  # from numba's environment variables
        raise RuntimeError("NUMBA_DISABLE_JIT turns the compilation off")
    from corrsk.neural.cpu import cnn_kernels

    return cnn_kernels


def resolve_backend(
    settings: TrainingSettings, device: torch.device, module: torch.nn.Module | None = None
) -> str:
    """Return the backend of a training, "torch" or "numba".

    Parameters
    ----------
    settings : TrainingSettings
        Settings of the training.
    device : torch.device
        Device of the training.
    module : torch.nn.Module, optional
        Module of an earlier training that is continued; the settings may have changed since.

    Returns
    -------
    str
        The backend.

    Raises
    ------
    ValueError
        If the settings require the compiled kernels, but these cannot run the training.
    """
    if settings.backend == "torch":
        return "torch"
    reason = obstacle(settings, device)
    if reason is None and module is not None:
        network = cnn_on_processor(module)
        if network is None or network.grid_shape != tuple(settings.grid_shape):
            reason = "the training continues with another network, or on another device"
    if reason is None:
        return "numba"
    if settings.backend == "numba":
        raise ValueError(f"backend='numba' is not for this training: {reason}")
    return "torch"


def cnn_on_processor(module: torch.nn.Module) -> CorrelationCNN | None:
    """Return the paper's CNN of a module on the processor, or None for other modules."""
    network = module.network if isinstance(module, StandardizedNetwork) else module
    if type(network) is not CorrelationCNN:
        return None
    on_processor = all(parameter.device.type == "cpu" for parameter in network.parameters())
    return network if on_processor else None


def _layout(
    grid_shape: tuple[int, ...], n_features: int
) -> tuple[tuple[int, int, int], NDArray[np.int64]]:
    """Arrangement of the measurements of a grid in the working memory of the kernels.

    The pooling ignores the last row or column of an odd number of outputs of the second
    convolution. The outputs of the first convolution and the measurements that only these depend
    on have no influence, and are left out here.

    Parameters
    ----------
    grid_shape : tuple of int
        Layout (n_ti, n_te) or (n_ti, n_te, n_channels) of the measurements.
    n_features : int
        Number of measurements, at most that of the grid points; the other points are zero.

    Returns
    -------
    shape : tuple of int
        Rows and columns of the pooling, and number of channels.
    places : ndarray of shape (n_used, 2), int64
        Column of each measurement that is used, and its position in (channel, row, column) order.
    """
    rows, columns, *rest = grid_shape
    shape = (
        (max(rows, MIN_GRID_SIDE) - 4) // 2,
        (max(columns, MIN_GRID_SIDE) - 4) // 2,
        rest[0] if rest else 1,
    )
    height, width = 2 * shape[0] + 4, 2 * shape[1] + 4
    feature = np.arange(n_features)
    i, j, channel = np.unravel_index(feature, (rows, columns, shape[2]))
    places = np.stack([feature, (channel * height + i) * width + j], axis=1)
    return shape, places[(i < height) & (j < width)]


class NumbaStep:
    """Training steps with compiled kernels; see :class:`corrsk.neural.training.net.Step`.

    Parameters
    ----------
    net : SignalNet
        Initialised net with the paper's CNN.
    settings : ClassifierSettings
        Settings of the training.
    """

    def __init__(self, net: SignalNet, settings: ClassifierSettings) -> None:
        self._net = net
        self._gradients = CompiledGradients(net.module_, settings)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # torch's threads would wait actively for work, on the cores of the kernels' threads
            stack.enter_context(limited_threads(1))
            stack.enter_context(self._gradients)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def train_epoch(self, batches: Iterable[Batch]) -> tuple[Any, int]:
        """Train one epoch."""
        return train_by_batches(self._net, batches, self)

    def __call__(self, X: SignalRows, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Train on one batch; return its mean loss."""
        loss = self._gradients(X, y, weight)
        self._net.optimizer_.step()
        return loss

    def logits(self, X: Tensor) -> Tensor:
        """Return the outputs of the network for signals (n_samples, n_measurements)."""
        return self._gradients.logits(X)


class CompiledGradients:
    """Loss of a batch, and gradients, which are written to the `grad` of the parameters.

    This context manager has a pool of threads: as many as torch would use, up to one for each
    slice of a batch. The results do not depend on the number of threads.

    Parameters
    ----------
    module : CorrelationCNN, or StandardizedNetwork with a CorrelationCNN
        Module on the processor.
    settings : ClassifierSettings
        Settings of the training.
    """

    def __init__(self, module: torch.nn.Module, settings: ClassifierSettings) -> None:
        self._kernels = _kernels()
        network = cnn_on_processor(module)
        if network is None:
            raise ValueError(f"the kernels cannot train {module!r}")
        mean = np.zeros(settings.n_features, np.float32)
        inverse_scale = np.ones(settings.n_features, np.float32)
        if isinstance(module, StandardizedNetwork):
            mean, inverse_scale = module.mean.numpy(), (1 / module.scale).numpy()
        self._input: tuple[Any, ...] = mean, inverse_scale
        self._functions = self._kernels.add_gradients, self._kernels.write_logits
        scratch = self._kernels.SCRATCH
        if network.grid_shape != _PUBLISHED_GRID or mean.size != math.prod(_PUBLISHED_GRID):
            shape, places = _layout(network.grid_shape, mean.size)
            starts = self._kernels.scratch_starts(shape)
            self._input += places, shape, starts
            self._functions = self._kernels.add_grid_gradients, self._kernels.write_grid_logits
            scratch = int(starts[-1])
        weights = settings.class_weights or (1.0,) * settings.n_classes
        self._class_weights = np.array(weights, dtype=np.float32)
        # of fixed types, because numba compiles again for another type
        self._softmax_first = bool(settings.softmax_before_loss)
        # the rate of the network, as with torch: the settings may have changed since
        self._dropout = float(network.dropout.p)
        self._parameters = list(network.parameters())
        n_weights = sum(parameter.numel() for parameter in self._parameters)
        self._weights, self._gradient = torch.zeros(n_weights), torch.zeros(n_weights)
        self._partial = np.zeros((_MAX_SLICES, n_weights), np.float32)
        # read here, before `NumbaStep` limits torch to one thread
        self._n_threads = min(torch.get_num_threads(), _MAX_SLICES)
        # torch's memory is aligned to cache lines, numpy's may not be (up to a quarter slower)
        self._scratch = torch.zeros(self._n_threads, scratch).numpy()
        self._equal_weights = np.ones(1, np.float32)

    def __enter__(self) -> CompiledGradients:
        with ExitStack() as stack:
            if self._n_threads > 1:
                self._pool = stack.enter_context(ThreadPoolExecutor(self._n_threads - 1))
            # the first call on a machine compiles: before the first epoch, and before the module
            # changes, because an interruption is possible
            first = torch.zeros(1, dtype=torch.int64)
            rows = SignalRows(torch.zeros(1, self._input[0].size), first)
            self._add_gradients(rows, first, self._weights_of(1), 1, 1, np.uint64(0))
            self._stack = stack.pop_all()
        # the kernels need all weights in one vector, which the parameters share meanwhile
        for parameter, weights, gradient in zip(
            self._parameters,
            views_like(self._weights, self._parameters),
            views_like(self._gradient, self._parameters),
            strict=True,
        ):
            parameter.data, parameter.grad = weights.copy_(parameter.data), gradient
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()

    def __call__(self, X: Tensor | SignalRows, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Set the gradients for signals and class indices of a batch; return the mean loss."""
        if isinstance(X, Tensor):
            X = SignalRows(X, torch.arange(len(X)))
        blocks = -(-len(y) // self._kernels.BLOCK)
        slice_blocks = -(-blocks // min(blocks, _MAX_SLICES))
        n_slices = -(-blocks // slice_blocks)
        # from torch's generator, whose state is in checkpoints, so that the masks continue
        seed = np.uint64(int(torch.randint(2**62, ())) if self._dropout else 0)
        weights = self._weights_of(len(y)) if weight is None else weight.numpy()
        losses = self._add_gradients(X, y, weights, n_slices, slice_blocks, seed)
        np.sum(self._partial[:n_slices], axis=0, out=self._gradient.numpy())
        return torch.tensor(losses.sum() / len(y))

    def _add_gradients(
        self,
        X: SignalRows,
        y: Tensor,
        signal_weights: NDArray[np.float32],
        n_slices: int,
        slice_blocks: int,
        seed: np.uint64,
    ) -> NDArray[np.float64]:
        """Return the loss of each slice; write the gradients to `_partial`."""
        signals, rows, labels = _as_array(X.signals), X.index.numpy(), y.numpy()
        weights, losses = self._weights.numpy(), np.zeros(n_slices)
        add_gradients, _ = self._functions

        def work(thread: int) -> None:
            add_gradients(
                signals, rows, labels, signal_weights, *self._input, weights,
                self._class_weights, self._softmax_first, self._dropout, seed, thread,
                self._n_threads, slice_blocks, self._scratch[thread], self._partial[:n_slices],
                losses,
            )  # fmt: skip

        self._share(work, n_slices)
        return losses

    def logits(self, X: Tensor) -> Tensor:
        """Return the outputs of the network, (n_samples, n_classes), for signals."""
        found = np.empty((len(X), len(self._class_weights)), np.float32)
        signals, weights = _as_array(X), self._weights.numpy()
        _, write_logits = self._functions

        def work(thread: int) -> None:
            write_logits(
                signals, *self._input, weights, thread, self._n_threads, self._scratch[thread],
                found,
            )  # fmt: skip

        self._share(work, -(-len(X) // self._kernels.BLOCK))
        return torch.from_numpy(found)

    def _weights_of(self, n: int) -> NDArray[np.float32]:
        """Return equal weights for n signals."""
        if self._equal_weights.size < n:
            self._equal_weights = np.ones(n, np.float32)
        return self._equal_weights[:n]

    def _share(self, work: Callable[[int], None], n_parts: int) -> None:
        """Run ``work(thread)`` in up to `n_parts` threads, including this one."""
        others = [self._pool.submit(work, k) for k in range(1, min(self._n_threads, n_parts))]
        work(0)
        for other in others:
            other.result()


def _as_array(X: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = X.flatten(1).contiguous().numpy()
    return array
