"""Network that predicts a distribution of the tissue: mixtures of normal distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from corrsk._utils.normal_mixtures import NormalMixture
from corrsk._utils.rng import RandomStateLike
from corrsk._utils.validation import POSITIVE_INTEGER
from corrsk.neural._base import NetworkEstimator
from corrsk.neural.training.device import resolve_device
from corrsk.neural.training.prediction import predict_outputs
from corrsk.neural.training.settings import TrainingSettings
from corrsk.neural.training.sources import StreamSource
from corrsk.neural.training.streaming import StreamPlan
from corrsk.simulation.streams import SignalStream
from corrsk.simulation.targets import StreamTargets

Array = NDArray[np.float64]

_LARGEST_LOG = 9.0  # of the inverse of a standard deviation; smaller ones are not resolved
_SPREAD = 0.7  # standard deviation of the places of the components before the training


def n_mixture_outputs(dimensions: Sequence[int], n_components: int) -> int:
    """Return the number of outputs of a network: logits of counts, and the mixture of each."""
    return len(dimensions) + sum(n_components * _per_component(d) for d in dimensions)


def _per_component(d: int) -> int:
    return 1 + d + d * (d + 1) // 2


def _parts_of(outputs: Tensor, dimensions: Sequence[int], n_components: int) -> list[Tensor]:
    """Outputs of each count, shape (n_samples, n_components, n_parameters)."""
    sizes = [n_components * _per_component(d) for d in dimensions]
    parts = torch.split(outputs[:, len(dimensions) :], sizes, dim=1)
    return [part.reshape(len(outputs), n_components, -1) for part in parts]


def _mixture_of(part: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log weights, means, factors L, and log determinants of L.

    The outputs of a component are a logit, the mean less a constant place, and the logarithms of
    the diagonal of L and its other entries. The constant places, different for each component,
    let the components differ before the training.
    """
    logs = _LARGEST_LOG * torch.tanh(part[..., 1 + d : 1 + 2 * d] / _LARGEST_LOG)
    # entries of L at their places in the rows of a matrix; the last entry is 0
    entries = torch.cat([logs.exp(), part[..., 1 + 2 * d :], part.new_zeros(*part.shape[:2], 1)], 2)
    places = np.full((d, d), entries.shape[-1] - 1)
    places[np.diag_indices(d)] = np.arange(d)
    below = np.tril_indices(d, -1)
    places[below] = np.arange(d, d + len(below[0]))
    factors = entries.index_select(2, torch.from_numpy(places.ravel()).to(part.device))
    factors = factors.reshape(*part.shape[:2], d, d)
    means = part[..., 1 : 1 + d] + _places(part.shape[1], d).to(part)
    return torch.log_softmax(part[..., 0], 1), means, factors, logs.sum(2)


@cache
def _places(n_components: int, d: int) -> Tensor:
    return _SPREAD * torch.from_numpy(np.random.default_rng(d).standard_normal((n_components, d)))


class MixtureLoss(nn.Module):
    """Negative log density of count and coordinates: cross-entropy and that of the mixture.

    Parameters
    ----------
    dimensions : tuple of int
        Number of dimensions of the mixture of each count.
    n_components : int
        Number of components of each mixture.
    """

    def __init__(self, dimensions: tuple[int, ...], n_components: int) -> None:
        super().__init__()
        self.dimensions, self.n_components = dimensions, n_components

    def forward(
        self, outputs: Tensor, target: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        """Compute the mean loss.

        Parameters
        ----------
        outputs : Tensor of shape (n_samples, n_outputs)
            Outputs of the network.
        target : Tensor of shape (n_samples, 1 + n_coordinates)
            Index of the count and coordinates; superfluous coordinates are not used.
        sample_weight : None
            Not used.

        Returns
        -------
        Tensor
            The mean loss, a scalar.
        """
        count = target[:, 0].long()
        total = F.cross_entropy(outputs[:, : len(self.dimensions)], count, reduction="sum")
        parts = _parts_of(outputs, self.dimensions, self.n_components)
        for index, (part, d) in enumerate(zip(parts, self.dimensions, strict=True)):
            rows = torch.nonzero(count == index).ravel()
            if not rows.numel():
                continue
            weights, means, factors, log_det = _mixture_of(part.index_select(0, rows), d)
            z = target.index_select(0, rows)[:, None, 1 : 1 + d]
            y = torch.matmul((z - means)[:, :, None], factors)[:, :, 0]
            log_density = torch.logsumexp(weights + log_det - 0.5 * y.square().sum(2), 1)
            total = total - log_density.sum() + 0.5 * d * math.log(2 * math.pi) * len(rows)
        return total / len(target)


@dataclass(frozen=True, kw_only=True)
class MixtureSettings(TrainingSettings):
    """Settings of the training of a :class:`MixtureNetwork`.

    Parameters
    ----------
    dimensions : tuple of int
        Number of dimensions of the mixture of each count.
    n_components : int
        Number of components of each mixture.
    """

    dimensions: tuple[int, ...]
    n_components: int

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the network."""
        return n_mixture_outputs(self.dimensions, self.n_components)

    def loss(self) -> MixtureLoss:
        """Return the negative log density."""
        return MixtureLoss(self.dimensions, self.n_components)


class MixtureNetwork(NetworkEstimator):
    """Estimator of the distribution of tissue coordinates, trained on a stream.

    Parameters are those of :class:`corrsk.ResidualMLPClassifier`, and the number of components.

    Parameters
    ----------
    width, n_blocks : int
        Width and number of the residual blocks.
    n_components : int, default=8
        Number of components of the mixture of each count.
    learning_rate, weight_decay : float
        Settings of Muon.
    max_epochs, batch_size : int
        Number of epochs, and of signals of a batch.
    device : str, default="auto"
        Device of the training and the predictions.
    checkpoint : path-like or None
        File for the state of the training.
    random_state : int, RandomState, Generator or None
        Seed.
    n_jobs : int or None
        Number of threads.
    verbose : bool, default=True
        Whether to show progress.
    """

    # of the base class, without a choice
    input_scaling = "half-whiten"
    optimizer = "muon"
    learning_rate_schedule = "one-cycle"
    momentum = None
    precision = "auto"
    backend = "torch"
    validation_fraction = None
    n_iter_no_change = None
    restore_best = True
    _architecture_name = "compartment-mixture"
    _parameter_constraints: dict[str, list[Any]] = {
        name: constraint
        for name, constraint in NetworkEstimator._parameter_constraints.items()
        if name
        in (
            "learning_rate", "weight_decay", "max_epochs", "batch_size", "device", "checkpoint",
            "random_state", "n_jobs", "verbose",
        )
    } | {
        "width": [POSITIVE_INTEGER],
        "n_blocks": [POSITIVE_INTEGER],
        "n_components": [POSITIVE_INTEGER],
    }  # fmt: skip

    def __init__(
        self,
        width: int = 256,
        n_blocks: int = 3,
        n_components: int = 8,
        learning_rate: float = 0.005,
        weight_decay: float = 0.01,
        max_epochs: int = 40,
        batch_size: int = 2000,
        device: str = "auto",
        checkpoint: Any = None,
        random_state: RandomStateLike = None,
        n_jobs: int | None = None,
        verbose: bool = True,
    ) -> None:
        self.width = width
        self.n_blocks = n_blocks
        self.n_components = n_components
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.device = device
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def fit_stream(self, stream: SignalStream, n_samples: int, n_validation: int = 20_000) -> Self:
        """Train the network on simulated signals, each used once.

        Parameters
        ----------
        stream : SignalStream
            Source of signals and tissue.
        n_samples : int
            Number of signals, rounded up to whole batches.
        n_validation : int, default=20_000
            Number of further signals, on which the best epoch is chosen.

        Returns
        -------
        MixtureNetwork
            The fitted network itself.
        """
        self._reset()
        device = resolve_device(self.device)
        seed = self._checked_seed()
        targets = StreamTargets.from_stream(stream)
        self.dimensions_ = targets.dimensions
        self.n_features_in_ = targets.n_measurements
        settings = MixtureSettings(
            **self._common_settings(seed, n_samples // self.max_epochs),
            dimensions=self.dimensions_, n_components=self.n_components,
        )  # fmt: skip
        plan = StreamPlan.from_n_samples(n_samples, self.max_epochs, settings.batch_size)
        validation = targets.draw(targets.VALIDATION, n_validation)
        source = StreamSource(stream, plan, targets)
        return self._train(settings, source, validation, device)

    def _architecture(self) -> dict[str, Any]:
        return {
            "network": "residual-mlp", "grid_shape": (),
            "width": self.width, "n_blocks": self.n_blocks, "dropout": 0.0,
        }  # fmt: skip

    @property
    def _n_outputs(self) -> int:
        return n_mixture_outputs(self.dimensions_, self.n_components)

    def predict_mixtures(self, X: NDArray[np.floating[Any]]) -> tuple[Array, list[NormalMixture]]:
        """Predict the probabilities of the counts, and a mixture of each count.

        Parameters
        ----------
        X : ndarray of shape (V, n_measurements)
            Signals, as those of the stream.

        Returns
        -------
        log_proba : ndarray of shape (V, n_counts)
            Logarithms of the probabilities of the counts.
        mixtures : list of NormalMixture
            Distribution of the coordinates of each count.
        """
        log_proba, parts = self._predicted(X)
        mixtures = []
        for part, d in zip(parts, self.dimensions_, strict=True):
            weights, means, factors, _ = _mixture_of(part, d)
            mixtures.append(NormalMixture(weights.numpy(), means.numpy(), factors.numpy()))
        return log_proba, mixtures

    def predict_places(self, X: NDArray[np.floating[Any]]) -> tuple[Array, list[Array]]:
        """Predict the probabilities of the counts, and the most probable place of each count.

        Parameters
        ----------
        X : ndarray of shape (V, n_measurements)
            Signals, as those of the stream.

        Returns
        -------
        log_proba : ndarray of shape (V, n_counts)
            Logarithms of the probabilities of the counts.
        places : list of ndarray of shape (V, d)
            Mean of the component of the largest weight of each count.
        """
        log_proba, parts = self._predicted(X)
        places = []
        for part, d in zip(parts, self.dimensions_, strict=True):
            largest = part[:, :, 0].argmax(1)
            rows = torch.arange(len(part))
            place = part[rows, largest, 1 : 1 + d] + _places(part.shape[1], d)[largest]
            places.append(place.numpy())
        return log_proba, places

    def _predicted(self, X: NDArray[np.floating[Any]]) -> tuple[Array, list[Tensor]]:
        """Logarithms of the probabilities of the counts, and the outputs of each mixture."""
        with self._threads_for_prediction(X):
            outputs = torch.from_numpy(predict_outputs(self.net_, X, lambda values: values))
        log_proba = torch.log_softmax(outputs[:, : len(self.dimensions_)], 1).numpy()
        return log_proba, _parts_of(outputs, self.dimensions_, self.n_components)
