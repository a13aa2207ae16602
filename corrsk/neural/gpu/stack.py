"""Simultaneous training of many networks of one shape, with hyperparameters per model.

The weights of all models are one tensor of shape (n_models, n_weights). A step consists of one
forward pass, one backward pass and one update of this tensor. The models are independent, so
that each has the result of a separate training, and a diverged model does not affect the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from tqdm.auto import tqdm

from corrsk._utils.rng import Stream
from corrsk.neural.gpu import fused
from corrsk.neural.gpu.graphs import GRAPHS
from corrsk.neural.gpu.stacked_networks import (
    STACKED_NETWORKS,
    StackedDropout,
    inner_network,
    scaled_input,
)
from corrsk.neural.training.device import own_random_numbers, standard_torch
from corrsk.neural.training.net import (
    SignalNet,
    TensorSignals,
    WholeBatches,
    as_tensor,
    divergence,
    views_like,
)
from corrsk.neural.training.schedules import SCHEDULES
from corrsk.neural.training.settings import (
    ClassifierSettings,
    untrained_net,
    wants_bfloat16,
)
from corrsk.neural.training.sources import Split

History = list[dict[str, Any]]
Member = tuple[ClassifierSettings, Split]  # settings and data of one training of a stack
Outcome = tuple[SignalNet, History] | Exception


def stack_key(settings: ClassifierSettings, n_samples: int) -> Hashable:
    """Key of a training; trainings with equal keys can be members of one stack."""
    shared = replace(
        settings, learning_rate=1.0, learning_rate_schedule="constant", momentum=0.0,
        weight_decay=0.0, dropout=0.0, softmax_before_loss=False, class_weights=None, seed=0,
    )  # fmt: skip
    return shared, math.ceil(n_samples / settings.batch_size)


@standard_torch()
def train_stack(
    members: Sequence[Member], *, device: torch.device, progress_delay: float = math.inf
) -> list[Outcome]:
    """Train networks simultaneously from their initial weights to the last epoch.

    Parameters
    ----------
    members : sequence of (ClassifierSettings, (array, array))
        Settings, signals (n_samples, n_measurements) and class indices (n_samples,) of each
        training, all with the same :func:`stack_key`. Members with the same data must have the
        same array objects.
    device : torch.device
        Device of the training.
    progress_delay : float
        Time in seconds before a progress bar appears.

    Returns
    -------
    list of (SignalNet, list of dict) or Exception
        For each member the result of :func:`corrsk.neural.training.fitting.train_network`, or the
        error of the training: a ValueError if the training diverged.

    Notes
    -----
    Initial weights, order of the signals and updates of a member are those of a separate
    training; the order of sums and the random numbers of dropout differ. If a stack does not fit
    in the memory of a GPU, its halves are trained one after the other.
    """
    try:
        return _trained(members, device, progress_delay)
    except torch.OutOfMemoryError as error:
        message = str(error)
    # after the handler, because its error refers to the stack and would keep the memory
    torch.cuda.empty_cache()
    if len(members) == 1:
        return [torch.OutOfMemoryError(message)]
    middle = len(members) // 2
    return [
        outcome
        for half in (members[:middle], members[middle:])
        for outcome in train_stack(half, device=device, progress_delay=progress_delay)
    ]


def _trained(
    members: Sequence[Member], device: torch.device, progress_delay: float
) -> list[Outcome]:
    stack = _Stack(members, device)
    with tqdm(
        total=stack.n_epochs, desc=f"training {len(members)} networks", unit="epoch",
        delay=progress_delay,
    ) as bar:  # fmt: skip
        while not stack.is_done():
            stack.train_epoch()
            bar.update()
    return stack.outcomes()


class _Stack:
    """Networks in training; the parameters are those of :func:`train_stack`."""

    def __init__(self, members: Sequence[Member], device: torch.device) -> None:
        self._settings = [settings for settings, _ in members]
        common = self._settings[0]
        splits = {id(X): (X, y) for _, (X, y) in members}
        data = {
            key: (as_tensor(X).to(device), torch.from_numpy(y).to(device))
            for key, (X, y) in splits.items()
        }
        self._nets = []
        for settings, (X, _) in members:
            with own_random_numbers(settings.stream_seed(Stream.WEIGHTS), device):
                net = untrained_net(
                    settings, data[id(X)][0], iterator_valid=WholeBatches, callbacks=[]
                )
            self._nets.append(net)
        modules = {id(X): net.module_ for net, (_, (X, _)) in zip(self._nets, members, strict=True)}
        scaled = {key: (scaled_input(modules[key], X), y) for key, (X, y) in data.items()}
        self._batches = _StackedBatches(
            scaled, [id(X) for _, (X, _) in members],
            [settings.stream_seed(Stream.ORDER) for settings in self._settings], common.batch_size,
            device,
        )  # fmt: skip
        networks = [inner_network(net.module_) for net in self._nets]
        self._weights = _StackedWeights(networks)
        self.n_epochs = common.max_epochs
        common_parts = self._settings, self._weights, self._batches
        self._epochs: _Epochs = (
            _FusedEpochs(*common_parts, self._learning_rates(), device)
            if fused.obstacle(common, device) is None
            else _TorchEpochs(*common_parts, networks[0], device)
        )
        self._histories: list[History] = [[] for _ in members]
        self._errors: dict[int, Exception] = {}

    def is_done(self) -> bool:
        """Whether all epochs are trained or all networks have diverged."""
        return len(self._histories[0]) == self.n_epochs or len(self._errors) == len(self._nets)

    def train_epoch(self) -> None:
        """Train one epoch; the losses are read once, at the end."""
        start = time.perf_counter()
        epoch = len(self._histories[0])
        rates = self._learning_rates(epoch, epoch + 1)
        total = self._epochs.train(rates)
        means = (total / self._batches.sizes).tolist()
        seconds = (time.perf_counter() - start) / len(self._nets)
        for model, (history, loss, rate) in enumerate(
            zip(self._histories, means, rates[-1], strict=True)
        ):
            epoch = len(history) + 1
            if not math.isfinite(loss) and model not in self._errors:
                self._errors[model] = divergence("train", epoch, loss)
            history.append(
                {"epoch": epoch, "train_loss": loss, "seconds": seconds, "learning_rate": rate}
            )

    def _learning_rates(self, first: int = 0, last: int | None = None) -> list[list[float]]:
        """Return the learning rates for each step of some epochs: one for each model."""
        per_epoch = self._batches.n_steps
        last = self.n_epochs if last is None else last
        return [
            [
                settings.learning_rate
                * SCHEDULES[settings.learning_rate_schedule](step / (self.n_epochs * per_epoch))
                for settings in self._settings
            ]
            for step in range(first * per_epoch, last * per_epoch)
        ]

    def outcomes(self) -> list[Outcome]:
        """Return net and history, or the error, of each network."""
        self._epochs.release()
        self._weights.write_back()
        outcomes: list[Outcome] = []
        for model, (net, history) in enumerate(zip(self._nets, self._histories, strict=True)):
            net.trim_for_prediction()
            outcomes.append(self._errors.get(model) or (net, history))
        return outcomes


class _Epochs(Protocol):
    """Implementation of the training of a stack."""

    def train(self, rates: list[list[float]]) -> Tensor:
        """Train one epoch.

        Parameters
        ----------
        rates : list of list of float
            Learning rates (n_steps, n_models) of the epoch.

        Returns
        -------
        Tensor of shape (n_models,)
            Sums of the losses.
        """
        ...

    def release(self) -> None:
        """Release the memory of the training."""
        ...


class _TorchEpochs:
    """Training of a stack by torch's autograd.

    Parameters
    ----------
    settings : sequence of ClassifierSettings
        Settings of each model.
    weights : _StackedWeights
        Weights, which are updated in place.
    batches : _StackedBatches
        Batches.
    network : torch.nn.Module
        Any network of the stack.
    device : torch.device
        Device of the training.
    """

    def __init__(
        self,
        settings: Sequence[ClassifierSettings],
        weights: _StackedWeights,
        batches: _StackedBatches,
        network: nn.Module,
        device: torch.device,
    ) -> None:
        common = settings[0]
        self._weights, self._batches, self._network = weights, batches, network
        self._forward = STACKED_NETWORKS[str(common.network)]
        self._dropout = StackedDropout(
            [each.dropout for each in settings],
            [each.stream_seed(Stream.DROPOUT) for each in settings],
            common.batch_size, device,
        )  # fmt: skip
        self._loss = _StackedLoss(settings, device)
        self._optimizer = STACKED_OPTIMIZERS[common.optimizer](weights.rows, settings)
        self._autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=wants_bfloat16(common.precision, device),
            cache_enabled=False,  # see TorchStep
        )  # fmt: skip

    def train(self, rates: list[list[float]]) -> Tensor:
        """Train one epoch; see :class:`_Epochs`."""
        total = torch.zeros_like(self._batches.sizes, dtype=torch.float64)
        rates_there = torch.tensor(rates, dtype=torch.float32, device=total.device)
        for (x, y, counted), rate in zip(self._batches.epoch(), rates_there, strict=True):
            with self._autocast:
                logits = self._forward(self._network, self._weights.by_name(), x, self._dropout)
            losses = self._loss(logits.float(), y) * counted
            (gradient,) = torch.autograd.grad(
                (losses.sum(dim=1) / counted.sum(dim=1)).sum(), self._weights.rows
            )
            with torch.no_grad():
                self._optimizer.step(gradient, rate[:, None])
                total += losses.sum(dim=1)
        return total

    def release(self) -> None:
        """Release nothing: there are no graphs."""


class _FusedEpochs:
    """Training of a stack by the kernels of :mod:`corrsk.neural.gpu.fused`.

    Parameters
    ----------
    settings, weights, batches, device
        See :class:`_TorchEpochs`.
    rates : list of list of float
        Learning rates (n_steps, n_models) of the whole training.
    """

    def __init__(
        self,
        settings: Sequence[ClassifierSettings],
        weights: _StackedWeights,
        batches: _StackedBatches,
        rates: list[list[float]],
        device: torch.device,
    ) -> None:
        self._batches = batches
        self._networks = fused.FusedNetworks(
            settings, weights.rows.detach(), batches.signals, rates, visits=batches.orders,
            order_of=batches.order_of, first_rows=batches.first_rows, sizes=batches.sizes.tolist(),
        )  # fmt: skip
        self._networks.capture(GRAPHS[device.type](device))

    def train(self, rates: list[list[float]]) -> Tensor:
        """Train one epoch; the learning rates are those of the whole training."""
        self._batches.shuffle()
        self._networks.totals.zero_()
        self._networks.train_pass()
        return self._networks.totals

    def release(self) -> None:
        """Release the graphs."""
        self._networks.release()


class _StackedBatches:
    """Batches of all models.

    Parameters
    ----------
    data : mapping of a key to (Tensor, Tensor)
        Signals (n_samples, n_measurements) and class indices (n_samples,) of each data set; data
        sets may differ in size, but not in number of batches.
    keys : sequence
        Key of the data set of each model.
    seeds : sequence of int
        Seed of the order of the signals of each model.
    batch_size : int
        Number of signals of a batch.
    device : torch.device
        Device of the training.
    """

    def __init__(
        self,
        data: Mapping[int, tuple[Tensor, Tensor]],
        keys: Sequence[int],
        seeds: Sequence[int],
        batch_size: int,
        device: torch.device,
    ) -> None:
        X = torch.cat([X for X, _ in data.values()])
        self.signals = TensorSignals(X, torch.cat([y for _, y in data.values()]))
        first_row, rows = {}, 0
        for key, (X, _) in data.items():
            first_row[key], rows = rows, rows + len(X)
        self.first_rows = [first_row[key] for key in keys]
        sizes = [len(data[key][0]) for key in keys]
        self.sizes = torch.tensor(sizes, device=device)
        self._largest, self._batch_size = max(sizes), batch_size
        # models with the same seed and size share the order of their signals
        orders = list(zip(seeds, sizes, strict=True))
        self._shufflers = {
            (seed, size): torch.Generator(device).manual_seed(seed) for seed, size in orders
        }
        position = {order: i for i, order in enumerate(self._shufflers)}
        self.order_of = [position[order] for order in orders]
        # orders of the signals in an epoch, shape (n_orders, n_samples)
        self.orders = torch.zeros(
            len(self._shufflers), self._largest, dtype=torch.int64, device=device
        )

    @property
    def n_steps(self) -> int:
        """Number of batches of an epoch."""
        return math.ceil(self._largest / self._batch_size)

    def shuffle(self) -> None:
        """Draw the orders of the next epoch."""
        for row, ((_, size), shuffler) in zip(self.orders, self._shufflers.items(), strict=True):
            row[:size] = torch.randperm(size, generator=shuffler, device=row.device)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Iterate over the batches of an epoch.

        Yields
        ------
        X : Tensor of shape (n_models, n_samples, n_measurements)
            Signals. If the last batch of a model is smaller than those of others, repetitions of
            its first signal fill the batch.
        y : Tensor of shape (n_models, n_samples)
            Class indices.
        counted : Tensor of bool, shape (n_models, n_samples)
            Mask without the repetitions.
        """
        device = self.orders.device
        self.shuffle()
        first_rows = torch.tensor(self.first_rows, device=device)[:, None]
        order_of = torch.tensor(self.order_of, device=device)
        positions = torch.arange(self._largest, device=device)
        for start in range(0, self._largest, self._batch_size):
            part = slice(start, start + self._batch_size)
            rows = self.orders[:, part][order_of] + first_rows
            yield (
                self.signals.X.index_select(0, rows.flatten()).view(*rows.shape, -1),
                self.signals.y.index_select(0, rows.flatten()).view_as(rows),
                positions[part] < self.sizes[:, None],
            )


class _StackedWeights:
    """Weights of networks of one shape, one network per row.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        The networks.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._networks = networks
        self._shapes = {name: weight.shape for name, weight in networks[0].named_parameters()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        vectors = [parameters_to_vector(network.parameters()) for network in networks]
        self.rows = torch.stack(vectors).detach().requires_grad_()

    def by_name(self) -> dict[str, Tensor]:
        """Return the weights by name, for :mod:`corrsk.neural.gpu.stacked_networks`."""
        parts = torch.split(self.rows, self._sizes, dim=1)
        return {
            name: part.view(-1, *shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the weights to the networks."""
        for network, row in zip(self._networks, self.rows, strict=True):
            parameters = list(network.parameters())
            for weight, part in zip(parameters, views_like(row, parameters), strict=True):
                weight.copy_(part)


class _StackedLoss:
    """Loss of every signal, with the settings of each model.

    See :class:`corrsk.neural.training.net.CountLoss`.

    Parameters
    ----------
    settings : sequence of ClassifierSettings
        Settings of each model.
    device : torch.device
        Device of the training.
    """

    def __init__(self, settings: Sequence[ClassifierSettings], device: torch.device) -> None:
        softmax = [each.softmax_before_loss for each in settings]
        self._any_softmax = any(softmax)
        self._softmax = torch.tensor(softmax, device=device)[:, None, None]
        self._class_weights: Tensor | None = None
        if any(each.class_weights is not None for each in settings):
            equal = (1.0,) * settings[0].n_classes
            self._class_weights = torch.tensor(
                [each.class_weights or equal for each in settings], dtype=torch.float32,
                device=device,
            )  # fmt: skip

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return losses (n_models, n_samples) for logits (n_models, n_samples, n_classes)."""
        if self._any_softmax:
            logits = torch.where(self._softmax, torch.softmax(logits, dim=-1), logits)
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y)
        return losses if self._class_weights is None else losses * self._class_weights.gather(1, y)


class _Optimizer(Protocol):
    def step(self, gradient: Tensor, rate: Tensor) -> None:
        """Update the weights; the learning rates have the shape (n_models, 1)."""
        ...


class _StackedAdamW:
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) as in torch, with rates per model.

    Parameters
    ----------
    weights : Tensor of shape (n_models, n_weights)
        Weights, which are updated in place.
    settings : sequence of ClassifierSettings
        Settings of each model.
    """

    _BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # torch's

    def __init__(self, weights: Tensor, settings: Sequence[ClassifierSettings]) -> None:
        self._weights = weights
        self._decay = _column([each.weight_decay for each in settings], weights)
        self._mean, self._square = torch.zeros_like(weights), torch.zeros_like(weights)
        self._n_steps = 0

    def step(self, gradient: Tensor, rate: Tensor) -> None:
        self._n_steps += 1
        self._weights.mul_(1 - rate * self._decay)
        self._mean.lerp_(gradient, 1 - self._BETA_1)
        self._square.mul_(self._BETA_2).addcmul_(gradient, gradient, value=1 - self._BETA_2)
        scale = self._square.sqrt().div_(math.sqrt(1 - self._BETA_2**self._n_steps))
        size = rate / (1 - self._BETA_1**self._n_steps)
        self._weights.addcdiv_(self._mean * size, scale.add_(self._EPSILON), value=-1)


class _StackedSGD:
    """Stochastic gradient descent with momentum as in torch, with rates per model.

    Parameters are those of :class:`_StackedAdamW`.
    """

    def __init__(self, weights: Tensor, settings: Sequence[ClassifierSettings]) -> None:
        self._weights = weights
        self._decay = _column([each.weight_decay for each in settings], weights)
        self._momentum = _column([each.momentum for each in settings], weights)
        self._velocity = torch.zeros_like(weights)

    def step(self, gradient: Tensor, rate: Tensor) -> None:
        descent = gradient + self._decay * self._weights
        self._velocity.mul_(self._momentum).add_(descent)
        self._weights.addcmul_(self._velocity, rate, value=-1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


STACKED_OPTIMIZERS: dict[str, Callable[[Tensor, Sequence[ClassifierSettings]], _Optimizer]] = {
    "adamw": _StackedAdamW,
    "sgd": _StackedSGD,
}
