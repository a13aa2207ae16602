"""Training of the paper's CNN on a GPU with the kernels of cnn_step.cu.

A training step is two kernels: the gradients of a batch, with all activations in the memory of
the processors, and the update of the weights. Both are captured in CUDA graphs of many steps.
One training, or many at once, with the same data or not, run through the same kernels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from corrsk._utils.rng import Stream
from corrsk.neural.gpu import nvrtc
from corrsk.neural.gpu.cnn_layout import CNNLayout
from corrsk.neural.gpu.graphs import CapturedStep, Graphs, Work
from corrsk.neural.gpu.stacked_networks import inner_network, scaled_input
from corrsk.neural.training.net import TensorSignals, views_like
from corrsk.neural.training.settings import (
    ClassifierSettings,
    TrainingSettings,
    wants_bfloat16,
)

_OPTIMIZERS = {"adamw": 1, "sgd": 2}
_BETAS = 0.9, 0.999  # of torch's AdamW
_MAX_CLASSES = 32
_STEPS_PER_GRAPH = 100
_MAX_BLOCKS = 4096  # of all networks; each has sums of 19 kB
_UPDATE_THREADS, _UPDATE_WEIGHTS = 512, 32  # of a block of `update_weights`

Launch = Callable[..., None]  # grid, block, args, shared_mem: as of torch's compiled kernels
Compile = Callable[[str, torch.device], Mapping[str, Launch]]


def _compiled_for_gpu(source: str, device: torch.device) -> Mapping[str, Launch]:
    return nvrtc.compile_kernels(source, ("add_gradients", "update_weights"), device)


COMPILERS: dict[str, Compile] = {"cuda": _compiled_for_gpu}  # by type of device


def obstacle(settings: TrainingSettings, device: torch.device) -> str | None:
    """Reason why the kernels cannot run a training, or None if possible."""
    if device.type not in COMPILERS:
        return f"the kernels run on a GPU, not on {device}"
    if not isinstance(settings, ClassifierSettings) or settings.network != "cnn":
        return "the kernels train only the paper's CNN"
    if settings.optimizer not in _OPTIMIZERS:
        return f"the kernels have no optimiser {settings.optimizer!r}"
    if wants_bfloat16(settings.precision, device):
        return "the kernels compute in float32"
    if settings.n_classes > _MAX_CLASSES:
        return f"the kernels support up to {_MAX_CLASSES} classes, not {settings.n_classes}"
    if device.type == "cuda" and not nvrtc.is_available():
        return "this PyTorch cannot compile kernels"
    if _fc1_is_shared(_layout(settings), device) is None:
        return f"a block of the kernels does not fit on {device} for a grid {settings.grid_shape}"
    return None


def _layout(settings: ClassifierSettings) -> CNNLayout:
    return CNNLayout(tuple(settings.grid_shape), settings.n_features, settings.n_classes)


def _shared_memory(device: torch.device) -> int:
    """Shared memory of a block, in bytes."""
    if device.type != "cuda":
        return 227 * 1024
    properties: Any = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 48 * 1024))


def _n_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _fc1_is_shared(layout: CNNLayout, device: torch.device) -> bool | None:
    """Whether the first linear layer can be in shared memory; None if no block fits."""
    for whole in (True, False):
        if layout.shared_bytes(4, whole_fc1=whole) <= _shared_memory(device):
            return whole
    return None


def _block_shape(
    layout: CNNLayout, batch_size: int, n_models: int, device: torch.device
) -> tuple[int, int, bool]:
    """Signals and threads of a block, and whether the first linear layer is in shared memory.

    Small batches are divided into small blocks, so that all processors of the GPU have work.
    """
    whole = bool(_fc1_is_shared(layout, device))
    enough = _n_processors(device)
    for n_signals, n_threads in ((16, 128), (8, 128)):
        blocks = n_models * math.ceil(batch_size / n_signals)
        # two blocks at a time on each processor
        fits = 2 * layout.shared_bytes(n_signals, whole_fc1=whole) <= _shared_memory(device)
        if blocks >= enough and fits:
            return n_signals, n_threads, whole
    return 4, 128, whole


class FusedNetworks:
    """Networks in training, with one row of weights for each.

    Parameters
    ----------
    settings : sequence of ClassifierSettings
        Settings of each network; they may differ in what the kernels take as arguments.
    weights : Tensor of shape (n_models, n_weights)
        Weights, which are updated in place.
    signals : TensorSignals
        Scaled signals (n_samples, n_measurements), class indices and sample weights.
    learning_rates : array of shape (n_steps, n_models)
        Learning rates of all steps.
    first_step : int
        Number of steps before.
    visits : Tensor of shape (n_orders, n_visits), int64
        Orders of the signals, which the caller changes from epoch to epoch.
    order_of, first_rows, sizes : sequence of int
        Order, first row and number of signals of each model.
    """

    def __init__(
        self,
        settings: Sequence[ClassifierSettings],
        weights: Tensor,
        signals: TensorSignals,
        learning_rates: Any,
        *,
        first_step: int = 0,
        visits: Tensor,
        order_of: Sequence[int] = (0,),
        first_rows: Sequence[int] = (0,),
        sizes: Sequence[int] | None = None,
    ) -> None:
        device, common, n_models = weights.device, settings[0], len(settings)
        self._device = device
        self.weights = weights
        self.first_moment, self.second_moment = (torch.zeros_like(weights) for _ in range(2))
        sizes = [len(signals.X)] if sizes is None else list(sizes)
        self._largest, self._batch_size = max(sizes), min(common.batch_size, max(sizes))
        layout = _layout(common)
        self._n_signals, self._n_threads, whole = _block_shape(
            layout, self._batch_size, n_models, device
        )
        self._shared = layout.shared_bytes(self._n_signals, whole_fc1=whole)
        constants = layout.constants() | {
            "SIGNALS": self._n_signals,
            "THREADS": self._n_threads,
            "OPTIMIZER": _OPTIMIZERS[common.optimizer],
            "WEIGHTED": int(signals.weight is not None),
            "WHOLE_FC1": int(whole),
            "SHARED_BYTES": self._shared,
        }
        kernels = COMPILERS[device.type](_source(constants), device)
        self._add_gradients, self._update = kernels["add_gradients"], kernels["update_weights"]
        configure = getattr(self._add_gradients, "set_shared_memory_config", None)
        if configure is not None:
            with torch.cuda.device(device):
                configure(self._shared)

        def on_device(values: Any, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.asarray(values), dtype=dtype).to(device)

        integers = functools.partial(on_device, dtype=torch.int64)
        numbers = functools.partial(on_device, dtype=torch.float32)
        equal = (1.0,) * common.n_classes
        steps = np.arange(1, len(learning_rates) + 1)
        corrections = np.stack([1 - _BETAS[0] ** steps, np.sqrt(1 - _BETAS[1] ** steps)], axis=1)
        positions = integers(layout.positions())
        self._packed = torch.zeros(n_models, layout.n_packed, device=device)
        self._packed[:, positions] = weights
        tiles = math.ceil(self._batch_size / self._n_signals)
        n_blocks = min(tiles, max(1, _MAX_BLOCKS // n_models))
        n_blocks = math.ceil(tiles / math.ceil(tiles / n_blocks))  # as many signals in each
        self._n_blocks = n_blocks
        self._counters = integers([0, first_step, first_step])
        self.totals = torch.zeros(n_models, dtype=torch.float64, device=device)
        self._sums = torch.zeros(n_models * n_blocks, layout.n_packed, device=device)
        self._losses = torch.zeros(n_models * n_blocks, device=device)
        no_weights = torch.zeros(1, device=device)
        self._n_visits = visits.shape[-1]
        # the arguments keep their tensors alive as long as a graph may use them
        self._arguments: list[Any] = [
            signals.X, signals.y, no_weights if signals.weight is None else signals.weight, visits,
            integers(order_of), integers(first_rows), integers(sizes), self._counters,
            integers([each.stream_seed(Stream.DROPOUT) for each in settings]),
            numbers([each.dropout for each in settings]),
            integers([each.softmax_before_loss for each in settings]),
            numbers([each.class_weights or equal for each in settings]), self._packed, self._sums,
            self._losses,
        ]  # fmt: skip
        self._update_arguments: list[Any] = [
            weights, self.first_moment, self.second_moment, self._packed, self._sums, self._losses,
            self.totals, on_device(layout.weights_at(), torch.int32), self._counters,
            numbers(learning_rates), numbers(corrections),
            numbers([each.weight_decay for each in settings]),
            numbers([each.momentum for each in settings]),
        ]  # fmt: skip
        self._replays: list[Work] = []
        self._n_updating = math.ceil(layout.n_packed / _UPDATE_WEIGHTS) + 1

    @property
    def n_steps(self) -> int:
        """Number of steps of an epoch."""
        return math.ceil(self._largest / self._batch_size)

    def take_step(self, batch_size: int) -> None:
        """Train on the next batch; does not wait for the device."""
        n_models = len(self.weights)
        tiles = math.ceil(batch_size / self._n_signals)
        n_blocks = min(self._n_blocks, tiles)
        self._add_gradients(
            grid=(n_blocks, n_models, 1), block=(self._n_threads, 1, 1),
            args=[
                *self._arguments, batch_size, self._n_visits, math.ceil(tiles / n_blocks)
            ],
            shared_mem=self._shared,
        )  # fmt: skip
        self._update(
            grid=(self._n_updating, n_models, 1), block=(_UPDATE_THREADS, 1, 1),
            args=[*self._update_arguments, n_blocks, self._batch_size],
        )  # fmt: skip

    def capture(self, graphs: Graphs) -> None:
        """Capture the steps of an epoch."""
        n_whole, rest = divmod(self._largest, self._batch_size)
        n_replays, n_others = divmod(n_whole, _STEPS_PER_GRAPH)

        def steps(sizes: Sequence[int]) -> Work:
            def take_steps() -> None:
                for size in sizes:
                    self.take_step(size)

            return graphs.capture(take_steps)

        self.release()
        if n_replays:
            self._replays += n_replays * [steps(_STEPS_PER_GRAPH * [self._batch_size])]
        others = n_others * [self._batch_size] + ([rest] if rest else [])
        if others:
            self._replays.append(steps(others))

    def release(self) -> None:
        """Release the graphs, which refer to this object."""
        self._replays = []

    def train_pass(self) -> None:
        """Train on all signals, in the present orders; does not wait for the device."""
        self._counters[0] = 0
        for replay in self._replays:
            replay()


def _source(constants: Mapping[str, int]) -> str:
    lines = [f"#define {name} {value}" for name, value in constants.items()]
    kernels = files("corrsk.neural.gpu").joinpath("cnn_step.cu").read_text(encoding="utf-8")
    return "\n".join([*lines, kernels])


class FusedStep(CapturedStep):
    """Training steps by fused kernels.

    Parameters are those of :class:`corrsk.neural.gpu.graphs.CapturedStep`, with settings without an
    :func:`obstacle`.
    """

    _settings: ClassifierSettings

    @torch.no_grad()
    def _input(self, X: Tensor) -> Tensor:
        return scaled_input(self._net.module_, X).contiguous()

    def _prepare(self) -> None:
        schedule = self._schedule
        self._parameters = list(inner_network(self._net.module_).parameters())
        with torch.no_grad():
            weights = parameters_to_vector(self._parameters)[None].clone()
        rates = [[schedule.rate(step)] for step in range(schedule.n_steps)]
        self._networks = FusedNetworks(
            [self._settings], weights, TensorSignals(self._X, self._y, self._weight), rates,
            first_step=schedule.step, visits=self._visits[None],
        )  # fmt: skip
        self._attach()
        self._networks.capture(self._graphs)

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_networks"):
            self._networks.release()
            for parameter in self._parameters:
                parameter.data = parameter.data.clone()

    def _attach(self) -> None:
        """Let the network and its optimiser use the memory of the kernels."""
        networks, optimizer = self._networks, self._net.optimizer_
        count = torch.zeros((), device=networks.weights.device)
        self._count = count.fill_(self._schedule.step)
        moments = {"adamw": ["exp_avg", "exp_avg_sq"], "sgd": ["momentum_buffer"]}
        names = moments[self._settings.optimizer]
        if self._settings.optimizer == "sgd" and self._settings.momentum == 0:
            names = []
        parts = zip(
            self._parameters,
            *(
                views_like(memory[0], self._parameters)
                for memory in (
                    networks.weights, networks.first_moment, networks.second_moment
                )
            ),
            strict=True,
        )  # fmt: skip
        for parameter, weight, *states in parts:
            parameter.data = weight
            state = optimizer.state[parameter]
            for name, memory in zip(names, states, strict=False):
                if state.get(name) is not None:  # from a checkpoint
                    memory.copy_(state[name])
                state[name] = memory
            if self._settings.optimizer == "adamw":
                state["step"] = self._count

    def train_epoch(self, batches: Any) -> tuple[Tensor, int]:
        """Train one epoch without waiting for the device; the kernels gather the batches."""
        networks, n_signals = self._networks, 0
        networks.totals.zero_()
        for _ in self._passes():
            networks.train_pass()
            self._schedule.step += networks.n_steps
            self._count += networks.n_steps
            n_signals += len(self._X)
        return networks.totals[0], n_signals
