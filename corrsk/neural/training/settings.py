"""Settings of a training, and construction of the untrained net from settings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from corrsk._utils.rng import keyed_generator
from corrsk.neural.networks import (
    NETWORKS,
    HalfWhitenedNetwork,
    NetworkShape,
    StandardizedNetwork,
    n_multiplications,
)
from corrsk.neural.training.device import computes_in_bfloat16
from corrsk.neural.training.net import CountLoss, SignalNet, make_net
from corrsk.neural.training.optimizers import OPTIMIZERS

Settings = TypeVar("Settings", bound="TrainingSettings")

INPUT_SCALINGS = ("standardize", "half-whiten")
PRECISIONS = ("float32", "bfloat16", "auto")
BACKENDS = ("auto", "torch", "numba")
DEFAULT_MOMENTUM = 0.9
SMALL_STEP = 2**24  # multiplications: half a millisecond on one core


@dataclass(frozen=True)
class ModuleFactory:
    """Class of a module, and the arguments with which a training creates the module.

    Parameters
    ----------
    function : callable
        Class of a torch module, or a function that returns a module.
    arguments : dict
        Keyword arguments.
    """

    function: Callable[..., nn.Module]
    arguments: dict[str, Any]

    def __call__(self) -> nn.Module:
        """Create the module; weights are drawn from torch's global generator."""
        try:
            return self.function(**self.arguments)
        except TypeError as error:
            shown = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
            raise TypeError(
                f"cannot create the torch module {self.name}({shown}): {error}; parameters with "
                "the prefix module__ are its arguments"
            ) from error

    @property
    def name(self) -> str:
        """Name of the function."""
        return getattr(self.function, "__qualname__", repr(self.function))

    @property
    def description(self) -> list[Any]:
        """Name of the function and arguments, for fingerprints."""
        where = getattr(self.function, "__module__", None)
        return [where, self.name, sorted(self.arguments.items())]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of a training that do not depend on the type of target.

    Parameters
    ----------
    network : str, torch.nn.Module or ModuleFactory
        Name in :data:`corrsk.neural.networks.NETWORKS`, a module, which is copied, or a function
        that creates the module.
    grid_shape : tuple of int
        Layout of the columns, for the CNN.
    width, n_blocks : int
        Size of the residual MLP.
    dropout : float
        Dropout rate of a named network.
    n_features : int
        Number of measurements.
    input_scaling : {"standardize", "half-whiten"} or None
        Transformation of the signals before the network.
    optimizer : str
        Name in :data:`corrsk.neural.training.optimizers.OPTIMIZERS`.
    learning_rate : float
        Learning rate for a schedule factor of 1.
    learning_rate_schedule : str
        Name in :data:`corrsk.neural.training.schedules.SCHEDULES`.
    momentum : float
        Momentum of "sgd"; without effect on the other optimisers.
    weight_decay : float
        Weight decay of the optimiser.
    max_epochs, batch_size : int
        Number of epochs, and of signals of a batch.
    precision : {"float32", "bfloat16", "auto"}
        Precision of the matrix products in training.
    backend : {"auto", "torch", "numba", "graphs", "fused"}
        Implementation of the training step; on a GPU, "auto" becomes "fused" or "graphs" if
        possible.
    patience : int or None
        Number of epochs without a lower loss after which the training stops.
    restore_best : bool
        Whether to keep the weights of the epoch with the lowest validation loss.
    seed : int
        Seed of the random streams.
    """

    network: str | nn.Module | ModuleFactory
    grid_shape: tuple[int, ...]
    width: int = 256
    n_blocks: int = 3
    dropout: float = 0.0
    n_features: int
    input_scaling: str | None
    optimizer: str
    learning_rate: float
    learning_rate_schedule: str
    momentum: float = DEFAULT_MOMENTUM
    weight_decay: float
    max_epochs: int
    batch_size: int
    precision: str
    backend: str
    patience: int | None
    restore_best: bool
    seed: int

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the network."""
        raise NotImplementedError

    @property
    def is_classifier(self) -> bool:
        """Whether the outputs are the logits of classes."""
        return False

    def loss(self) -> nn.Module:
        """Return the loss: a module with outputs, targets and sample weights as input."""
        raise NotImplementedError

    def stream_seed(self, *key: int) -> int:
        """Return the seed of a random stream of the training."""
        return int(keyed_generator(self.seed, *key).integers(2**63 - 1))


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(TrainingSettings):
    """Settings of the training of a classifier.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    softmax_before_loss : bool
        Whether the loss applies softmax twice, as in the code published with the paper.
    class_weights : tuple of float or None
        Weight of each class in the loss.
    """

    n_classes: int
    softmax_before_loss: bool = False
    class_weights: tuple[float, ...] | None = None

    @property
    def n_outputs(self) -> int:
        """Number of classes."""
        return self.n_classes

    @property
    def is_classifier(self) -> bool:
        """True."""
        return True

    def loss(self) -> CountLoss:
        """Return the cross-entropy."""
        weights = self.class_weights
        return CountLoss(
            None if weights is None else torch.tensor(weights, dtype=torch.float32),
            self.softmax_before_loss,
        )


def resolve_batch_size(batch_size: int | str, n_samples: int, largest: int) -> int:
    """Return the batch size for a parameter that may be "auto".

    Parameters
    ----------
    batch_size : int or "auto"
        "auto" is a hundredth of the signals, but between 16 and `largest`.
    n_samples : int
        Number of training signals of an epoch.
    largest : int
        Largest batch size for "auto".

    Returns
    -------
    int
        Batch size, at most `n_samples`.
    """
    if batch_size == "auto":
        # small data sets need small batches for a sufficient number of steps per epoch
        batch_size = max(16, min(largest, n_samples // 100))
    return min(n_samples, int(batch_size))


def without_single_signals(settings: Settings, n_samples: int) -> Settings:
    """Enlarge batches, if necessary, so that batch normalisation never gets a single signal.

    Parameters
    ----------
    settings : TrainingSettings
        Settings of a training.
    n_samples : int
        Number of signals of an epoch, the last batch of which has the remainder.

    Returns
    -------
    TrainingSettings
        The settings; unchanged for networks without batch normalisation.

    Raises
    ------
    ValueError
        If the network has batch normalisation, and there is only one signal, or one per batch.
    """
    network = settings.network
    if isinstance(network, str) or not _has_batch_normalisation(network):
        return settings
    if min(settings.batch_size, n_samples) < 2:
        raise ValueError(
            "the batch normalisation of the module needs at least two signals per batch; got "
            f"{n_samples} signals and batch_size={settings.batch_size}"
        )
    size = settings.batch_size
    while n_samples % size == 1:
        size += 1
    return replace(settings, batch_size=size)


def _has_batch_normalisation(network: Any) -> bool:
    return isinstance(network, nn.Module) and any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules()
    )


def has_small_steps(settings: TrainingSettings) -> bool:
    """Whether training steps are so small that threads would mostly wait for each other."""
    network: Any = settings.network
    if isinstance(network, str):
        with torch.device("meta"):  # without memory and random numbers
            network = NETWORKS[network](_shape(settings))
    if not isinstance(network, nn.Module):
        return False
    # the backward pass has two products for each one of the forward pass
    return 3 * settings.batch_size * n_multiplications(network) < SMALL_STEP


def untrained_net(settings: TrainingSettings, X: Tensor, **options: Any) -> SignalNet:
    """Return the initialised net of a training.

    Parameters
    ----------
    settings : TrainingSettings
        Settings of the training.
    X : Tensor of shape (n_samples, n_measurements)
        Signals that define the input scaling.
    **options
        Further parameters of the net.

    Returns
    -------
    SignalNet
        The untrained net.

    Raises
    ------
    ValueError
        If a module of the user does not have one output for each class or target.
    """
    net = net_with_optimizer(settings, _scaled_network(settings, X), X.device, **options)
    if not isinstance(settings.network, str):
        _check_output(net.module_, X[:2], settings.n_outputs)
    return net


def net_with_optimizer(
    settings: TrainingSettings, module: nn.Module, device: torch.device, **options: Any
) -> SignalNet:
    """Return an initialised net with the loss and the optimiser of a training.

    Parameters
    ----------
    settings : TrainingSettings
        Settings of the training.
    module : torch.nn.Module
        Network with its input scaling.
    device : torch.device
        Device of the training.
    **options
        Further parameters of the net.

    Returns
    -------
    SignalNet
        The net.
    """
    net: SignalNet = make_net(
        module,
        settings.loss(),
        settings.n_outputs if settings.is_classifier else None,
        optimizer=OPTIMIZERS[settings.optimizer],
        optimizer__weight_decay=settings.weight_decay,
        optimizer__momentum=settings.momentum,
        lr=settings.learning_rate,
        max_epochs=settings.max_epochs,
        batch_size=settings.batch_size,
        device=device,
        **options,
    )
    return net


def apply_settings(settings: TrainingSettings, net: SignalNet) -> None:
    """Set the learning rate, weight decay, momentum and loss of a net in training."""
    for group in net.optimizer_.param_groups:
        group["lr"], group["weight_decay"] = settings.learning_rate, settings.weight_decay
        if settings.optimizer == "sgd":
            group["momentum"] = settings.momentum
    net.criterion_ = settings.loss().to(net.device)


def _scaled_network(settings: TrainingSettings, X: Tensor) -> nn.Module:
    if isinstance(settings.network, str):
        network = NETWORKS[settings.network](_shape(settings))
    else:
        network = created_module(settings.network)
    if settings.input_scaling == "half-whiten":
        return HalfWhitenedNetwork.from_signals(network, X)
    if settings.input_scaling == "standardize":
        return StandardizedNetwork.from_signals(network, X)
    return network


def _shape(settings: TrainingSettings) -> NetworkShape:
    return NetworkShape(
        settings.n_features, settings.n_outputs, settings.grid_shape, settings.width,
        settings.n_blocks, settings.dropout,
    )  # fmt: skip


def created_module(given: nn.Module | ModuleFactory) -> nn.Module:
    """Return a copy of a module, or the module that a factory creates.

    Parameters
    ----------
    given : torch.nn.Module or ModuleFactory
        Module of the user, or its factory.

    Returns
    -------
    torch.nn.Module
        Module that a training may change.

    Raises
    ------
    TypeError
        If the result is not a torch module.
    ValueError
        If the module has no parameters to train.
    """
    # a parameter is never changed by a fit
    network = given() if isinstance(given, ModuleFactory) else copy.deepcopy(given)
    if not isinstance(network, nn.Module):
        raise TypeError(
            "module must be a torch module, a class of torch modules, or a function that returns "
            f"a torch module; got {network!r}"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"the network {network!r} has no parameters to train")
    # a module made under another default data type of torch gets single precision, as the signals
    return network.float()


def _check_output(network: nn.Module, X: Tensor, n_outputs: int) -> None:
    network.eval()
    for signals in (X, X[:1]):  # the last batch of an epoch may be a single signal
        with torch.inference_mode():
            shape = tuple(network(signals).shape)
        if shape != (len(signals), n_outputs):
            raise ValueError(
                f"the network must map signals of shape {tuple(signals.shape)} to outputs of shape "
                f"({len(signals)}, {n_outputs}), one for each class; got outputs of shape {shape}"
            )


def wants_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are in bfloat16 for a given precision and device."""
    if precision != "auto":
        return precision == "bfloat16"
    return computes_in_bfloat16(device)
