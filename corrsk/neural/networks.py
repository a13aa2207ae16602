"""Torch modules of the networks that count compartments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from corrsk.neural._grid import MIN_GRID_SIDE
from corrsk.neural.training.device import limited_threads

# layers of torch that draw random numbers in training and have no rate
_DRAWING = (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


class CorrelationCNN(nn.Module):
    """The convolutional network of Endt, Lachermeier and Menzel, MIDL 2024.

    Two 3 x 3 convolutions without padding (6 and 16 channels, ReLU), 2 x 2
    max-pooling, dropout, two fully connected layers of 32 nodes (ReLU,
    dropout) and a linear output layer: 4,208 parameters for 4 classes on an
    8 x 8 grid. The outputs are logits; the prediction applies the softmax, and
    so does the loss in the published training.

    Parameters
    ----------
    n_classes : int, default=4
        Number of classes.
    grid_shape : tuple of int, default=(8, 8)
        Layout (n_ti, n_te) of the columns, TI-major. A third entry (n_b) is the
        number of input channels. Sides below 6 are padded with zeros up to 6.
    dropout : float, default=0.2
        Dropout rate, after the pooling and after each fully connected layer.

    Raises
    ------
    ValueError
        If `grid_shape` does not have two or three positive entries.
    """

    def __init__(
        self, n_classes: int = 4, grid_shape: tuple[int, ...] = (8, 8), dropout: float = 0.2
    ) -> None:
        super().__init__()
        if len(grid_shape) not in (2, 3) or min(grid_shape) < 1:
            raise ValueError(
                f"grid_shape must have two or three positive entries, got {grid_shape}"
            )
        self.grid_shape = tuple(grid_shape)
        rows, columns, *channels = self.grid_shape
        height, width = max(rows, MIN_GRID_SIDE), max(columns, MIN_GRID_SIDE)
        self._padding = (0, width - columns, 0, height - rows)
        self.conv1 = nn.Conv2d(channels[0] if channels else 1, 6, kernel_size=3)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=3)
        self.fc1 = nn.Linear(16 * ((height - 4) // 2) * ((width - 4) // 2), 32)
        self.fc2 = nn.Linear(32, 32)
        self.fc3 = nn.Linear(32, n_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of signals.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_measurements)
            Signals. If the grid has more than n_measurements points, the rest is zero.

        Returns
        -------
        Tensor of shape (n_samples, n_classes)
            Logits.
        """
        x = self.dropout(F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(self._grid(x))))), 2))
        x = self.dropout(F.relu(self.fc1(x.flatten(1))))
        x = self.dropout(F.relu(self.fc2(x)))
        return self.fc3(x)

    def _grid(self, x: Tensor) -> Tensor:
        """Arrange signals as images (n_samples, n_channels, height, width)."""
        x = x.flatten(1)
        missing = math.prod(self.grid_shape) - x.shape[1]
        if missing:
            x = F.pad(x, (0, missing))
        x = x.view(-1, *self.grid_shape)
        x = x.movedim(-1, 1) if len(self.grid_shape) == 3 else x.unsqueeze(1)
        return F.pad(x, self._padding) if any(self._padding) else x


class ResidualBlock(nn.Module):
    """Residual block ``x + W2 gelu(W1 norm(x))``, with W2 = 0 at the start.

    Pre-normalised residual block after He et al., ECCV 2016 (arXiv:1603.05027),
    with layer norm and GELU. Because blocks start as the identity, a deep network
    trains as stably as a shallow one.

    Parameters
    ----------
    width : int
        Number of inputs and outputs.
    dropout : float
        Dropout rate after the GELU.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Parameters
        ----------
        x : Tensor of shape (n_samples, width)
            Activations.

        Returns
        -------
        Tensor of shape (n_samples, width)
            Activations.
        """
        update: Tensor = self.fc2(self.dropout(F.gelu(self.fc1(self.norm(x)))))
        return x + update


class ResidualMLP(nn.Module):
    """Multilayer perceptron with residual blocks, for any protocol.

    The measurements need not form a grid, and their order is arbitrary. With 64
    measurements, 4 classes and the defaults, the network has 414,468 parameters and
    needs 2.5 MFLOP per signal and training step, 22 times as much as the paper's CNN.

    Parameters
    ----------
    n_features : int
        Number of measurements.
    n_classes : int, default=4
        Number of classes.
    width : int, default=256
        Width of the blocks.
    n_blocks : int, default=3
        Number of residual blocks, of two linear layers each.
    dropout : float, default=0.0
        Dropout rate within the blocks.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int = 4,
        width: int = 256,
        n_blocks: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.lift = nn.Linear(n_features, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, dropout) for _ in range(n_blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of signals.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_measurements)
            Signals.

        Returns
        -------
        Tensor of shape (n_samples, n_classes)
            Logits.
        """
        logits: Tensor = self.head(self.norm(self.blocks(F.gelu(self.lift(x.flatten(1))))))
        return logits


@dataclass(frozen=True)
class NetworkShape:
    """Dimensions of a named network.

    Parameters
    ----------
    n_features, n_classes : int
        Number of measurements and of classes.
    grid_shape : tuple of int
        Layout of the measurements, for the CNN.
    width, n_blocks : int
        Width and number of blocks of the residual MLP.
    dropout : float
        Dropout rate.
    """

    n_features: int
    n_classes: int
    grid_shape: tuple[int, ...]
    width: int
    n_blocks: int
    dropout: float


NETWORKS: dict[str, Callable[[NetworkShape], nn.Module]] = {
    "cnn": lambda shape: CorrelationCNN(shape.n_classes, shape.grid_shape, shape.dropout),
    "residual-mlp": lambda shape: ResidualMLP(
        shape.n_features, shape.n_classes, shape.width, shape.n_blocks, shape.dropout
    ),
    "linear": lambda shape: nn.Linear(shape.n_features, shape.n_classes),
}


class StandardizedNetwork(nn.Module):
    """Network with a fixed shift and scale of each input column.

    Parameters
    ----------
    network : torch.nn.Module
        Network with standardised signals (n_samples, n_measurements) as input.
    mean, scale : Tensor of shape (n_measurements,)
        Subtrahend and divisor of each column: buffers, which are saved but not trained.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    @classmethod
    def from_signals(cls, network: nn.Module, X: Tensor) -> StandardizedNetwork:
        """Put a standardisation in front of a network: mean 0 and variance 1 of each column.

        Parameters
        ----------
        network : torch.nn.Module
            Network with standardised signals (n_samples, n_measurements) as input.
        X : Tensor of shape (n_samples, n_measurements)
            Signals that define mean and scale.

        Returns
        -------
        StandardizedNetwork
            The network with its standardisation.
        """
        mean, deviation = _mean_and_deviation(X)
        # a constant column becomes 0
        return cls(network, mean, torch.where(deviation > 0, deviation, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs of the network for signals.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_measurements)
            Signals, not standardised.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
            Outputs of the network.
        """
        logits: Tensor = self.network((x.flatten(1) - self.mean) / self.scale)
        return logits


def _mean_and_deviation(X: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, in the precision of X.

    The deviation of a constant column is exactly 0. Sums over rows as products with a vector
    of ones, a few rows at a time, take a sixth of the time of `torch.var_mean`, which needs
    half as long as an epoch of the compiled kernels. They are computed in one thread, because on
    some processors the rounding of the products depends on the number of threads, and the compiled
    kernels give the same bits for any number. Columns whose squares over- or underflow in the
    precision of X are summed in double precision.
    """
    mean, variance = _mean_and_variance(X, lambda rows: rows)
    deviation = variance.to(X.dtype).sqrt()
    limits = torch.finfo(X.dtype)
    # smaller ones have lost digits; the variance of constant columns is 0
    ordinary = (variance >= limits.smallest_normal / limits.eps) & (variance <= limits.max)
    if not ordinary.all():
        exact_mean, exact = _mean_and_variance(X, Tensor.double)
        mean = torch.where(ordinary, mean, exact_mean.to(X.dtype))
        deviation = torch.where(ordinary, deviation, exact.sqrt().to(X.dtype))
    return mean, deviation


def _mean_and_variance(X: Tensor, of_rows: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean in the precision of `of_rows`, and variance in double precision, of each column."""
    some_rows = 4096
    first = of_rows(X[:1])[0]
    ones = first.new_ones(1, min(some_rows, len(X)))

    def column_sums(of: Callable[[Tensor], Tensor]) -> Tensor:
        return sum(
            (
                (ones[:, : len(rows)] @ of(of_rows(rows)))[0].double()
                for rows in torch.split(X, some_rows)
            ),
            X.new_zeros(X.shape[1], dtype=torch.float64),
        )

    with limited_threads(1):
        # differences from the first row, so that the mean of a constant column is exact
        mean = (first + column_sums(lambda rows: rows - first) / len(X)).to(first.dtype)
        variance = column_sums(lambda rows: (rows - mean).square_()) / len(X)
    return mean, variance


class HalfWhitenedNetwork(nn.Module):
    """Network with half-whitened principal components as input.

    Each principal component is divided by the square root of its standard deviation:
    standard deviations that span three decades then span one and a half. The difference
    between three and four compartments is in small components. Without whitening, a network
    learns these components late; with full whitening (equal standard deviations), it learns
    the noise of the smallest components.

    Parameters
    ----------
    network : torch.nn.Module
        Network with the components (n_samples, n_measurements), in descending order, as input.
    mean : Tensor of shape (n_measurements,)
        Mean signal, subtracted first.
    matrix : Tensor of shape (n_measurements, n_measurements)
        The components are ``(x - mean) @ matrix``. Mean and matrix are buffers, which are
        saved but not trained.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @classmethod
    def from_signals(cls, network: nn.Module, X: Tensor) -> HalfWhitenedNetwork:
        """Put a half-whitening in front of a network: components with mean square 1 overall.

        Parameters
        ----------
        network : torch.nn.Module
            Network with the components (n_samples, n_measurements) as input.
        X : Tensor of shape (n_samples, n_measurements)
            Signals that define mean and components.

        Returns
        -------
        HalfWhitenedNetwork
            The network with its half-whitening.
        """
        values = X.double()
        mean = values.mean(dim=0)
        covariance = (values - mean).T.cov(correction=0)
        # the covariance of a single feature is a number
        variances, components = torch.linalg.eigh(covariance.reshape(mean.numel(), mean.numel()))
        if variances.max() <= 0:  # constant signals have no components
            return cls(network, mean.to(X.dtype), torch.zeros_like(components, dtype=X.dtype))
        # in constant directions the variance is a rounding error
        variances = variances.clamp(min=max(float(variances.max()) * 1e-12, 1e-300)).flip(0)
        matrix = components.flip(1) * variances**-0.25 / variances.sqrt().mean().sqrt()
        return cls(network, mean.to(X.dtype), matrix.to(X.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs of the network for signals.

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_measurements)
            Signals, not whitened.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
            Outputs of the network.
        """
        # in single precision also if the network computes in bfloat16, because small components
        # are differences of large values
        with torch.autocast(x.device.type, enabled=False):
            components = (x.flatten(1) - self.mean) @ self.matrix
        logits: Tensor = self.network(components)
        return logits


def n_multiplications(module: nn.Module) -> int:
    """Approximate number of multiplications per signal of a forward pass.

    Each weight is used once, but those of the CNN's convolutions once per position; the
    convolutions of other modules are not recognised.
    """
    total = sum(parameter.numel() for parameter in module.parameters())
    for part in module.modules():
        if isinstance(part, CorrelationCNN):
            height, width = (max(side, MIN_GRID_SIDE) for side in part.grid_shape[:2])
            total += part.conv1.weight.numel() * ((height - 2) * (width - 2) - 1)
            total += part.conv2.weight.numel() * ((height - 4) * (width - 4) - 1)
    return total


def is_of_known_parts(module: nn.Module) -> bool:
    """Whether a module consists only of layers of torch and corrsk, without hooks."""
    return all(
        type(part).__module__.startswith(("torch.nn.", "corrsk."))
        and not (part._forward_hooks or part._forward_pre_hooks or part._backward_hooks)
        for part in module.modules()
    )


def draws_in_training(module: nn.Module) -> bool:
    """Whether a forward pass in training may draw from torch's global generator."""
    parts = list(module.modules())
    if not is_of_known_parts(module):
        return True  # a module of the user may draw random numbers anywhere
    # p of a dropout layer, or dropout of an attention or recurrent layer
    rates = [getattr(part, name, 0) for part in parts for name in ("p", "dropout")]
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates) or any(
        isinstance(part, _DRAWING) for part in parts
    )
