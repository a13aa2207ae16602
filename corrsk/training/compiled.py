"""Training steps of the paper's CNN by compiled kernels, in place of torch's autograd."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from corrsk.networks import CorrelationCNN, StandardizedNetwork
from corrsk.training.device import limited_threads
from corrsk.training.net import SignalNet
from corrsk.training.settings import TrainingSettings, wants_bfloat16

KERNELS = ("auto", "torch", "compiled")
_GRID = (8, 8)
_MAX_SLICES = 16  # of a batch: what threads share, and the order in which gradients are summed


def obstacle(settings: TrainingSettings, device: torch.device) -> str | None:
    """Why the compiled kernels cannot do this training, or None if they can."""
    if device.type != "cpu":
        return f"they run on the processor, not on {device}"
    if settings.network != "cnn" or tuple(settings.grid_shape) != _GRID:
        return "they are for network='cnn' on an 8 x 8 grid alone"
    if settings.n_features != 64:
        return f"they take 64 measurements, not {settings.n_features}"
    if settings.input_scaling == "half-whiten" or wants_bfloat16(settings.precision, device):
        return "they compute in float32 on signals that are standardised or left as they are"
    if importlib.util.find_spec("numba") is None:
        return "they need numba: pip install 'corrsk[fast]'"
    try:
        cnn_kernels = _kernels()
    except Exception as error:  # a numpy that is too new for it, no folder for what it compiles
        return f"numba cannot be used here: {error}"
    if settings.n_classes > cnn_kernels.MAX_CLASSES:
        return f"they have room for {cnn_kernels.MAX_CLASSES} classes, not {settings.n_classes}"
    return None


def _kernels() -> Any:
    from numba.core import config

    if getattr(config, "DISABLE_JIT", 0):  # set when numba reads its environment
        raise RuntimeError("it is told not to compile, by NUMBA_DISABLE_JIT")
    from corrsk.training import cnn_kernels

    return cnn_kernels


def resolve_kernel(
    settings: TrainingSettings, device: torch.device, module: torch.nn.Module | None = None
) -> str:
    """The kernel that "auto" stands for, or the one that was asked for.

    Parameters
    ----------
    settings : TrainingSettings
    device : torch.device
    module : torch.nn.Module, optional
        What is trained further, if that is not new; the settings may have changed since.

    Raises
    ------
    ValueError
        If the compiled kernels are asked for and cannot do it.
    """
    if settings.kernel == "torch":
        return "torch"
    reason = obstacle(settings, device)
    if reason is None and module is not None and _papers_cnn(module) is None:
        reason = "what is trained further is another network, or elsewhere"
    if reason is None:
        return "compiled"
    if settings.kernel == "compiled":
        raise ValueError(f"kernel='compiled' is not for this training: {reason}")
    return "torch"


def _papers_cnn(module: torch.nn.Module) -> CorrelationCNN | None:
    """The network of a module that the kernels can train, or None."""
    network = module.network if isinstance(module, StandardizedNetwork) else module
    if type(network) is not CorrelationCNN or network.grid_shape != _GRID:
        return None
    on_processor = all(parameter.device.type == "cpu" for parameter in network.parameters())
    return network if on_processor else None


@contextmanager
def training_kernel(settings: TrainingSettings, net: SignalNet) -> Iterator[None]:
    """Let a net take its training steps with the kernel of the settings."""
    if settings.kernel != "compiled":
        yield
        return
    # torch's own threads wait actively for more work, on the cores that these ones want
    with CompiledStep(net.module_, settings) as step, limited_threads(1):
        net.compiled_step = step
        try:
            yield
        finally:
            net.compiled_step = None  # it has threads, and cannot be pickled


class CompiledStep:
    """The loss of a batch and its gradients, which the parameters get as their `grad`.

    A context manager, within which threads wait for work: as many as torch would use, up to
    one for each slice of a batch.
    The bits do not depend on their number.

    Parameters
    ----------
    module : CorrelationCNN, or StandardizedNetwork of one
    settings : TrainingSettings
    """

    def __init__(self, module: torch.nn.Module, settings: TrainingSettings) -> None:
        self._kernels = _kernels()
        network = _papers_cnn(module)
        if network is None:
            raise ValueError(f"the kernels cannot train {module!r}")
        mean, inverse_scale = np.zeros(64, np.float32), np.ones(64, np.float32)
        if isinstance(module, StandardizedNetwork):
            mean, inverse_scale = module.mean.numpy(), (1 / module.scale).numpy()
        self._scaling = mean, inverse_scale
        weights = settings.class_weights or (1.0,) * settings.n_classes
        self._class_weights = np.array(weights, dtype=np.float32)
        self._softmax_first = settings.softmax_before_loss
        # the network's own rate, as torch has it: the settings may have changed since
        self._dropout = network.dropout.p
        self._parameters = list(network.parameters())
        sizes = [parameter.numel() for parameter in self._parameters]
        self._gradient = torch.zeros(sum(sizes))
        self._gradients = [
            part.view_as(parameter)
            for part, parameter in zip(
                torch.split(self._gradient, sizes), self._parameters, strict=True
            )
        ]
        self._partial = np.zeros((_MAX_SLICES, sum(sizes)), np.float32)
        self._n_threads = min(torch.get_num_threads(), _MAX_SLICES)
        self._scratch = np.zeros((self._n_threads, self._kernels.SCRATCH), np.float32)

    def __enter__(self) -> CompiledStep:
        self._stack = ExitStack()
        if self._n_threads > 1:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(self._n_threads - 1))
        # the first call on a machine compiles, which is no part of the first epoch
        self._add_gradients(
            np.zeros((1, 64), np.float32), np.zeros(1, np.int64), 1, 1, np.uint64(0)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, X: Tensor, y: Tensor) -> Tensor:
        """Mean loss of signals (n, 64) with class indices (n,); gradients are set."""
        blocks = -(-len(y) // self._kernels.LANES)
        slice_blocks = -(-blocks // min(blocks, _MAX_SLICES))
        n_slices = -(-blocks // slice_blocks)
        # from torch's generator, so that a checkpoint's state goes on with the same masks
        seed = np.uint64(int(torch.randint(2**62, ())) if self._dropout else 0)
        losses = self._add_gradients(
            X.flatten(1).contiguous().numpy(), y.numpy(), n_slices, slice_blocks, seed
        )
        np.sum(self._partial[:n_slices], axis=0, out=self._gradient.numpy())
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return torch.tensor(losses.sum() / len(y))

    def _add_gradients(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.int64],
        n_slices: int,
        slice_blocks: int,
        seed: np.uint64,
    ) -> NDArray[np.float64]:
        """The losses of each slice; their gradients stand in `_partial`."""
        weights = parameters_to_vector(self._parameters).detach().numpy()
        losses = np.zeros(n_slices)

        def work(thread: int) -> None:
            self._kernels.add_gradients(
                X, y, *self._scaling, weights, self._class_weights, self._softmax_first,
                self._dropout, seed, thread, self._n_threads, slice_blocks,
                self._scratch[thread], self._partial[:n_slices], losses,
            )  # fmt: skip

        others = [self._pool.submit(work, k) for k in range(1, min(self._n_threads, n_slices))]
        work(0)
        for other in others:
            other.result()
        return losses
