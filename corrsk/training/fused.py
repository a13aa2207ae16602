"""Training steps of the paper's CNN by compiled kernels, in place of torch's autograd."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor

from corrsk.networks import CorrelationCNN, StandardizedNetwork
from corrsk.training.net import SignalNet
from corrsk.training.settings import TrainingSettings

KERNELS = ("auto", "torch", "fused")
_GRID = (8, 8)
_MAX_SLICES = 16  # of a batch: what threads share, and the order in which gradients are summed


def obstacle(settings: TrainingSettings, device: torch.device) -> str | None:
    """Why the compiled kernels cannot do this training, or None if they can."""
    if device.type != "cpu":
        return f"they run on the processor, not on {device}"
    if settings.network != "cnn" or tuple(settings.grid_shape) != _GRID:
        return "they are of the CNN of the paper on an 8 x 8 grid alone"
    if settings.input_scaling == "half-whiten" or settings.precision == "bfloat16":
        return "they compute in float32 on signals that are standardised or left as they are"
    if importlib.util.find_spec("numba") is None:
        return "they need numba: pip install 'corrsk[fast]'"
    from corrsk.training import cnn_kernels

    if settings.n_classes > cnn_kernels.MAX_CLASSES:
        return f"they have room for {cnn_kernels.MAX_CLASSES} classes, not {settings.n_classes}"
    return None


def resolve_kernel(settings: TrainingSettings, device: torch.device) -> str:
    """The kernel that "auto" stands for, or the one that was asked for.

    Raises
    ------
    ValueError
        If the compiled kernels are asked for and cannot do it.
    """
    if settings.kernel == "torch":
        return "torch"
    reason = obstacle(settings, device)
    if reason is None:
        return "fused"
    if settings.kernel == "fused":
        raise ValueError(f"kernel='fused' is not for this training: {reason}")
    return "torch"


@contextmanager
def training_kernel(settings: TrainingSettings, net: SignalNet) -> Iterator[None]:
    """Let a net take its training steps with the kernel of the settings."""
    if settings.kernel != "fused":
        yield
        return
    with FusedStep(net.module_, settings) as step:
        net.fused_step = step
        try:
            yield
        finally:
            net.fused_step = None  # it has threads, and cannot be pickled


class FusedStep:
    """The loss of a batch and its gradients, which the parameters get as their `grad`.

    A context manager, within which threads wait for work: as many as torch would use.
    The bits do not depend on their number.

    Parameters
    ----------
    module : CorrelationCNN, or StandardizedNetwork of one
    settings : TrainingSettings
    """

    def __init__(self, module: torch.nn.Module, settings: TrainingSettings) -> None:
        from corrsk.training import cnn_kernels

        self._kernels = cnn_kernels
        network = module.network if isinstance(module, StandardizedNetwork) else module
        assert type(network) is CorrelationCNN
        mean, inverse_scale = np.zeros(64, np.float32), np.ones(64, np.float32)
        if isinstance(module, StandardizedNetwork):
            mean, inverse_scale = module.mean.numpy(), (1 / module.scale).numpy()
        self._scaling = mean, inverse_scale
        self._parameters = list(network.parameters())
        weights = settings.class_weights or (1.0,) * settings.n_classes
        self._class_weights = np.array(weights, dtype=np.float32)
        self._softmax_first = settings.softmax_before_loss
        self._dropout = float(settings.dropout)
        self._weights = np.empty(sum(p.numel() for p in self._parameters), np.float32)
        self._gradient = torch.zeros(self._weights.size)
        parts = torch.split(self._gradient, [p.numel() for p in self._parameters])
        self._gradients = [part.view_as(p) for part, p in zip(parts, self._parameters, strict=True)]
        self._partial = np.zeros((_MAX_SLICES, self._weights.size), np.float32)
        self._n_threads = torch.get_num_threads()
        self._scratch = np.zeros((self._n_threads, cnn_kernels.SCRATCH), np.float32)

    def __enter__(self) -> FusedStep:
        self._stack = ExitStack()
        if self._n_threads > 1:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(self._n_threads - 1))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, X: Tensor, y: Tensor) -> Tensor:
        """Mean loss of signals (n, 64) with class indices (n,); gradients are set."""
        signals, targets = X.flatten(1).numpy(), y.numpy()
        blocks = -(-len(targets) // self._kernels.LANES)
        slice_blocks = -(-blocks // min(blocks, _MAX_SLICES))
        n_slices = -(-blocks // slice_blocks)
        partial, losses = self._partial[:n_slices], np.zeros(n_slices)
        at = 0
        for parameter in self._parameters:
            values = parameter.detach().numpy().ravel()
            self._weights[at : at + values.size] = values
            at += values.size
        # torch's generator, so that a checkpoint's state goes on with the same masks
        seed = np.uint64(int(torch.randint(2**62, ())) if self._dropout else 0)

        def work(thread: int) -> None:
            self._kernels.add_gradients(
                signals, targets, *self._scaling, self._weights, self._class_weights,
                self._softmax_first, self._dropout, seed, thread, self._n_threads, slice_blocks,
                self._scratch[thread], partial, losses,
            )  # fmt: skip

        others = [self._pool.submit(work, k) for k in range(1, min(self._n_threads, n_slices))]
        work(0)
        for other in others:
            other.result()
        np.sum(partial, axis=0, out=self._gradient.numpy())
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return torch.tensor(losses.sum() / len(targets))
