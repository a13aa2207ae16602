"""Simultaneous evaluation of many networks of one shape, with a first axis for models.

Signals have the shape (n_models, n_samples, n_measurements), weights the shape (n_models, ...).
Convolutions, too, are batched matrix products: a few large kernels on a GPU, whereas separate
networks have many small kernels, whose launch takes longer than their execution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corrsk.neural.networks import (
    CorrelationCNN,
    HalfWhitenedNetwork,
    ResidualMLP,
    StandardizedNetwork,
)

Weights = Mapping[str, Tensor]  # by name in the network; shape (n_models, ...)


class StackedDropout:
    """Dropout with a rate and a seed for each model.

    Models with the same seed share their random numbers, as in separate trainings. The masks
    of a model do not depend on the other models of the stack.

    Parameters
    ----------
    rates : sequence of float
        Dropout rate of each model.
    seeds : sequence of int
        Seed of each model.
    batch_size : int
        Number of signals for which random numbers are drawn, also for smaller batches.
    device : torch.device
        Device of the training.
    """

    def __init__(
        self, rates: Sequence[float], seeds: Sequence[int], batch_size: int, device: torch.device
    ) -> None:
        self._any = any(rates)
        self._rates = torch.tensor(rates, dtype=torch.float32, device=device)[:, None, None]
        drawers = {seed: torch.Generator(device).manual_seed(seed) for seed in seeds}
        self._drawers = list(drawers.values())
        position = {seed: i for i, seed in enumerate(drawers)}
        self._drawer_of = torch.tensor([position[seed] for seed in seeds], device=device)
        self._batch_size = batch_size

    def __call__(self, x: Tensor) -> Tensor:
        """Apply dropout to activations (n_models, n_samples, width)."""
        if not self._any:
            return x
        shape = (self._batch_size, x.shape[-1])
        drawn = torch.stack(
            [torch.rand(shape, generator=drawer, device=x.device) for drawer in self._drawers]
        )
        kept = drawn[self._drawer_of, : x.shape[1]] >= self._rates
        return x * (kept / (1 - self._rates))


def stacked_cnn(
    network: CorrelationCNN, weights: Weights, x: Tensor, dropout: Callable[[Tensor], Tensor]
) -> Tensor:
    """Compute the logits of stacked :class:`corrsk.neural.networks.CorrelationCNN`.

    Parameters
    ----------
    network : CorrelationCNN
        Any network of the stack, for the layout of the grid.
    weights : mapping of str to Tensor
        Weights by name, each of shape (n_models, ...).
    x : Tensor of shape (n_models, n_samples, n_measurements)
        Signals.
    dropout : StackedDropout
        Dropout of the stack.

    Returns
    -------
    Tensor of shape (n_models, n_samples, n_classes)
        Logits.
    """
    images = network._grid(x.flatten(0, 1))
    images = images.view(*x.shape[:2], *images.shape[1:])
    images = F.relu(_convolved(images, weights["conv1.weight"], weights["conv1.bias"]))
    images = F.relu(_convolved(images, weights["conv2.weight"], weights["conv2.bias"]))
    pooled = F.max_pool2d(images.flatten(0, 1), 2)
    x = dropout(pooled.reshape(*x.shape[:2], -1))
    x = dropout(F.relu(_linear(x, weights, "fc1")))
    x = dropout(F.relu(_linear(x, weights, "fc2")))
    return _linear(x, weights, "fc3")


def _convolved(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve images (n_models, n_samples, n_channels, height, width), 3 x 3, no padding."""
    patches = images.unfold(3, 3, 1).unfold(4, 3, 1)  # (models, n, channels, rows, columns, 3, 3)
    models, n, _, rows, columns, *_ = patches.shape
    # channels last, as in the output of the convolution before, so that copies are contiguous
    patches = patches.permute(0, 1, 3, 4, 5, 6, 2).reshape(models, n * rows * columns, -1)
    matrix = weight.permute(0, 3, 4, 2, 1).flatten(1, 3)
    convolved = torch.baddbmm(bias[:, None], patches, matrix)
    return convolved.view(models, n, rows, columns, -1).permute(0, 1, 4, 2, 3)


def stacked_mlp(
    network: ResidualMLP, weights: Weights, x: Tensor, dropout: Callable[[Tensor], Tensor]
) -> Tensor:
    """Compute the logits of stacked :class:`corrsk.neural.networks.ResidualMLP`.

    Parameters and returned value are those of :func:`stacked_cnn`.
    """
    x = F.gelu(_linear(x, weights, "lift"))
    for block in range(len(network.blocks)):
        name = f"blocks.{block}"
        hidden = F.gelu(_linear(_normalized(x, weights, f"{name}.norm"), weights, f"{name}.fc1"))
        x = x + _linear(dropout(hidden), weights, f"{name}.fc2")
    return _linear(_normalized(x, weights, "norm"), weights, "head")


def _linear(x: Tensor, weights: Weights, layer: str) -> Tensor:
    return torch.baddbmm(weights[f"{layer}.bias"][:, None], x, weights[f"{layer}.weight"].mT)


def _normalized(x: Tensor, weights: Weights, layer: str) -> Tensor:
    scaled = F.layer_norm(x, x.shape[-1:])
    return scaled * weights[f"{layer}.weight"][:, None] + weights[f"{layer}.bias"][:, None]


STACKED_NETWORKS: dict[str, Callable[[Any, Weights, Tensor, StackedDropout], Tensor]] = {
    "cnn": stacked_cnn,
    "residual-mlp": stacked_mlp,
}


def inner_network(module: nn.Module) -> nn.Module:
    """Return the network of a module without its input scaling."""
    if isinstance(module, StandardizedNetwork | HalfWhitenedNetwork):
        return module.network
    return module


def scaled_input(module: nn.Module, X: Tensor) -> Tensor:
    """Apply the input scaling of a module to signals (n_samples, n_measurements)."""
    front: nn.Module = nn.Identity()
    if isinstance(module, StandardizedNetwork):
        front = StandardizedNetwork(front, module.mean, module.scale)
    elif isinstance(module, HalfWhitenedNetwork):
        front = HalfWhitenedNetwork(front, module.mean, module.matrix)
    scaled: Tensor = front(X)
    return scaled
