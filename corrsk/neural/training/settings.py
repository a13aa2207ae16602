"""Settings of a training, and the untrained net that they describe."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from corrsk._utils.rng import keyed_generator
from corrsk.neural.networks import (
    NETWORKS,
    HalfWhitenedNetwork,
    NetworkShape,
    StandardizedNetwork,
)
from corrsk.neural.training.modules import check_module
from corrsk.neural.training.net import CountLoss, SignalNet
from corrsk.neural.training.optimizers import OPTIMIZERS

INPUT_SCALINGS = ("standardize", "half-whiten")
PRECISIONS = ("float32", "bfloat16", "auto")
BACKENDS = ("auto", "torch", "numba")
DEFAULT_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings that a training has whatever it trains for.

    Parameters
    ----------
    network : str or torch.nn.Module
        Name in :data:`corrsk.neural.networks.NETWORKS`, or a module, of which a copy is trained.
    grid_shape : tuple of int
        Layout of the columns, for networks that see the signals on a grid.
    width, n_blocks : int
        Size of the residual MLP.
    dropout : float
        Dropout rate of a named network.
    n_features : int
        Number of measurements N.
    input_scaling : {"standardize", "half-whiten"} or None
    optimizer : str
        Name in :data:`corrsk.neural.training.optimizers.OPTIMIZERS`.
    learning_rate : float
    learning_rate_schedule : str
        Name in :data:`corrsk.neural.training.schedules.SCHEDULES`.
    momentum : float
        Momentum of "sgd"; without effect on the other optimisers.
    weight_decay : float
    max_epochs, batch_size : int
    precision : {"float32", "bfloat16", "auto"}
    backend : {"auto", "torch", "numba", "graphs"}
        Implementation of the training step; "graphs" is what "auto" stands for on a GPU.
    patience : int or None
        Number of epochs without a lower loss after which the training stops.
    restore_best : bool
        Whether to end with the weights of the epoch with the lowest validation loss.
    seed : int
    """

    network: str | nn.Module
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

    def loss(self) -> nn.Module:
        """Return the loss, a module that is called with outputs, targets and sample weights."""
        raise NotImplementedError

    def stream_seed(self, *key: int) -> int:
        """Return an integer to seed one of the training's random streams with."""
        return int(keyed_generator(self.seed, *key).integers(2**63 - 1))


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(TrainingSettings):
    """Settings of the training of a classifier.

    Parameters
    ----------
    n_classes : int
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

    def loss(self) -> CountLoss:
        """Return the cross-entropy."""
        weights = self.class_weights
        return CountLoss(
            None if weights is None else torch.tensor(weights, dtype=torch.float32),
            self.softmax_before_loss,
        )


def resolve_batch_size(batch_size: int | str, n_samples: int, largest: int) -> int:
    """Return the batch size that a parameter, an integer or "auto", stands for.

    Parameters
    ----------
    batch_size : int or "auto"
        "auto" is a hundredth of the signals, within 16 and `largest`.
    n_samples : int
        Number of training signals, of an epoch.
    largest : int
    """
    if batch_size == "auto":
        # small data want small batches, or an epoch has no steps to learn in
        batch_size = max(16, min(largest, n_samples // 100))
    return min(n_samples, int(batch_size))


def untrained_net(settings: TrainingSettings, X: Tensor, **options: Any) -> SignalNet:
    """Return the initialised net of a training.

    Parameters
    ----------
    settings : TrainingSettings
    X : Tensor of shape (n, N)
        Signals to scale the input by.
    **options
        Further parameters of the net.

    Raises
    ------
    ValueError
        If a module of the user does not have one output for each class or target.
    """
    net = SignalNet(
        module=_scaled_network(settings, X),
        criterion=settings.loss(),
        optimizer=OPTIMIZERS[settings.optimizer],
        optimizer__weight_decay=settings.weight_decay,
        optimizer__momentum=settings.momentum,
        lr=settings.learning_rate,
        max_epochs=settings.max_epochs,
        batch_size=settings.batch_size,
        device=X.device,
        train_split=None,
        verbose=0,
        **options,
    )
    net.initialize()
    if not isinstance(settings.network, str):
        _check_output(net.module_, X[:2], settings.n_outputs)
    return net


def apply_settings(settings: TrainingSettings, net: SignalNet) -> None:
    """Give a net in training other rates and another loss; network and optimiser stay."""
    for group in net.optimizer_.param_groups:
        group["lr"], group["weight_decay"] = settings.learning_rate, settings.weight_decay
        if settings.optimizer == "sgd":
            group["momentum"] = settings.momentum
    net.criterion_ = settings.loss().to(net.device)


def _scaled_network(settings: TrainingSettings, X: Tensor) -> nn.Module:
    if isinstance(settings.network, str):
        shape = NetworkShape(
            settings.n_features, settings.n_outputs, settings.grid_shape, settings.width,
            settings.n_blocks, settings.dropout,
        )  # fmt: skip
        network = NETWORKS[settings.network](shape)
    else:
        check_module(settings.network)
        network = copy.deepcopy(settings.network)  # a parameter is never changed by a fit
    if settings.input_scaling == "half-whiten":
        return HalfWhitenedNetwork.from_signals(network, X)
    if settings.input_scaling == "standardize":
        return StandardizedNetwork.from_signals(network, X)
    return network


def _check_output(network: nn.Module, X: Tensor, n_outputs: int) -> None:
    network.eval()
    with torch.inference_mode():
        shape = tuple(network(X).shape)
    if shape != (len(X), n_outputs):
        raise ValueError(
            f"the network must turn signals of shape {tuple(X.shape)} into outputs of shape "
            f"({len(X)}, {n_outputs}), one for each class; its output has the shape {shape}"
        )


def wants_bfloat16(precision: str, device: torch.device) -> bool:
    """Return whether matrix products of a precision are in bfloat16 on a device."""
    if precision != "auto":
        return precision == "bfloat16"
    # without instructions of its own for it, a machine is slower in bfloat16
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(supported())
