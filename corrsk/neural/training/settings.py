"""What a training is made of: settings, network, optimiser, precision."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

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

_LARGEST_AUTO_BATCH = 500
INPUT_SCALINGS = ("standardize", "half-whiten")
# keys of a training's random streams; 2 is the estimator's split
ORDER_STREAM, WEIGHTS_STREAM, FURTHER_STREAM, DROPOUT_STREAM = 0, 1, 3, 4
PRECISIONS = ("float32", "bfloat16", "auto")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the fields are parameters of the classifier.

    `network` is a name, or a module that is copied; `class_weights` has one entry
    per class, `seed` is an integer, and `patience` is `n_iter_no_change`.
    """

    network: str | nn.Module
    grid_shape: tuple[int, ...]
    width: int
    n_blocks: int
    dropout: float
    n_features: int
    n_classes: int
    input_scaling: str | None
    optimizer: str
    learning_rate: float
    learning_rate_schedule: str
    momentum: float
    weight_decay: float
    max_epochs: int
    batch_size: int
    precision: str
    kernel: str
    softmax_before_loss: bool
    class_weights: tuple[float, ...] | None
    patience: int | None
    restore_best: bool
    seed: int

    # those that have the name of the classifier's parameter and its value
    same_names: ClassVar[tuple[str, ...]] = (
        "network", "width", "n_blocks", "dropout", "input_scaling", "optimizer", "learning_rate",
        "learning_rate_schedule", "momentum", "weight_decay", "max_epochs", "precision",
        "kernel", "softmax_before_loss", "restore_best",
    )  # fmt: skip

    def stream_seed(self, *key: int) -> int:
        """An integer to seed one of the training's random streams with."""
        return int(keyed_generator(self.seed, *key).integers(2**63 - 1))


def resolve_batch_size(batch_size: int | str, n_samples: int) -> int:
    """The batch size that a parameter, an integer or "auto", stands for."""
    if batch_size == "auto":
        # small data want small batches, or an epoch has no steps to learn in
        batch_size = max(16, min(_LARGEST_AUTO_BATCH, n_samples // 100))
    return min(n_samples, int(batch_size))


def untrained_net(settings: TrainingSettings, X: Tensor, **options: Any) -> SignalNet:
    """The net of a training, initialised; `X` are signals to scale the input by.

    Raises
    ------
    ValueError
        If a module of the user's does not give one number per class.
    """
    net = SignalNet(
        module=_scaled_network(settings, X),
        criterion=_loss(settings),
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
    net.autocast = wants_bfloat16(settings.precision, X.device)
    net.initialize()
    if not isinstance(settings.network, str):
        _check_output(net.module_, X[:2], settings.n_classes)
    return net


def apply_settings(settings: TrainingSettings, net: SignalNet) -> None:
    """Let a net in training go on with other settings; network and optimiser stay what they are."""
    for group in net.optimizer_.param_groups:
        group["lr"], group["weight_decay"] = settings.learning_rate, settings.weight_decay
        if settings.optimizer == "sgd":
            group["momentum"] = settings.momentum
    net.criterion_ = _loss(settings).to(net.device)
    net.autocast = wants_bfloat16(settings.precision, torch.device(net.device))


def _loss(settings: TrainingSettings) -> CountLoss:
    weights = settings.class_weights
    return CountLoss(
        None if weights is None else torch.tensor(weights, dtype=torch.float32),
        settings.softmax_before_loss,
    )


def _scaled_network(settings: TrainingSettings, X: Tensor) -> nn.Module:
    if isinstance(settings.network, str):
        shape = NetworkShape(
            settings.n_features, settings.n_classes, settings.grid_shape, settings.width,
            settings.n_blocks, settings.dropout,
        )  # fmt: skip
        network = NETWORKS[settings.network](shape)
    else:
        check_module(settings.network)
        network = copy.deepcopy(settings.network)  # a parameter is never changed by a fit
    if settings.input_scaling == "half-whiten":
        return HalfWhitenedNetwork.fitted_to(network, X)
    if settings.input_scaling == "standardize":
        return StandardizedNetwork.fitted_to(network, X)
    return network


def _check_output(network: nn.Module, X: Tensor, n_classes: int) -> None:
    network.eval()
    with torch.inference_mode():
        shape = tuple(network(X).shape)
    if shape != (len(X), n_classes):
        raise ValueError(
            f"the network must turn signals of shape {tuple(X.shape)} into logits of shape "
            f"({len(X)}, {n_classes}), one for each class; its output has the shape {shape}"
        )


def wants_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a precision means bfloat16 there."""
    if precision != "auto":
        return precision == "bfloat16"
    # without instructions of its own for it, a machine is slower in bfloat16
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(supported())
