"""Simulation of training signals on the device of the training.

A GPU simulates a chunk of signals in less time than a copy to the GPU takes. The random numbers
differ from those of :meth:`SignalStream.draw` and between types of devices; the distributions
are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from corrsk import physics
from corrsk._utils.rng import Stream, keyed_generator
from corrsk._utils.validation import checked_count
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.physics.noise_levels import SNRRange, checked_noise_levels
from corrsk.simulation.streams import SignalStream
from corrsk.tissue.prior import MAX_REDRAWS, resolve_prior
from corrsk.tissue.ranges import PropertyRange

VERSION = 1  # increases when the draws of a seed change


class DeviceStream:
    """Simulation of the chunks of a stream on a device.

    Parameters
    ----------
    stream : SignalStream
        The stream.
    device : torch.device
        Device of the simulation.
    """

    def __init__(self, stream: SignalStream, device: torch.device) -> None:
        self.stream = stream
        self.device = device
        self.prior = resolve_prior(stream.prior)
        protocol = resolve_protocol(stream.protocol)
        self._model = physics.SignalModel(
            protocol.contrasts, tr=protocol.tr, inversion_efficiency=stream.inversion_efficiency
        )
        self._n_measurements = protocol.n_measurements

    def draw(self, chunk: int, n_samples: int) -> tuple[Tensor, Tensor]:
        """Simulate the signals of one chunk, with their classes.

        Parameters
        ----------
        chunk : int
            Number of the chunk, from 0 on.
        n_samples : int
            Number of signals; chunks of another length have other signals.

        Returns
        -------
        X : Tensor of shape (n_samples, n_measurements), float32
            Signals in the grid order of the protocol.
        y : Tensor of shape (n_samples,), int64
            Positions of the counts n_c in `stream.classes`.

        Raises
        ------
        ValueError
            If `chunk` is negative, `n_samples` is not positive, or almost all draws violate the
            prior's condition t2_below_t1.
        TypeError
            If a contrast accepts only numpy arrays and the device is a GPU.
        """
        rng = self.generator(chunk)
        y, level = self.deal(n_samples, rng)
        counts = torch.as_tensor(self.stream.classes, device=self.device)
        tissue, fractions = self.tissue(counts[y], rng)
        X = self._model(tissue, fractions)
        sigma = physics.noise_sigma(X, level, self.stream.noise_reference)
        normals = self._normals(n_samples, rng)
        if self.stream.noise_distribution == "rician":
            X = physics.add_rician_noise(X, sigma, normals, self._normals(n_samples, rng))
        else:
            X = physics.add_gaussian_noise(X, sigma, normals, overwrite_normals=True)
        if self.stream.normalize:
            X = physics.normalize_signals(X, overwrite_signals=True)
        return X, y

    def generator(self, chunk: int) -> torch.Generator:
        """Return the random generator of a chunk."""
        checked_count("chunk", chunk, at_least=0)
        seed = keyed_generator(self.stream.random_state, Stream.DEVICE_CHUNK, chunk)
        return torch.Generator(self.device).manual_seed(int(seed.integers(2**63 - 1)))

    def deal(self, n_samples: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Allocate counts (as positions in the prior's counts) and noise levels, (n_samples,).

        The frequencies of the counts, of the levels, and of the levels within each count
        differ by at most one.
        """
        checked_count("n_samples", n_samples, at_least=1)
        n_counts = len(self.prior.n_compartments)
        card = torch.randperm(n_samples, generator=rng, device=self.device)
        count = card % n_counts
        levels = checked_noise_levels(self.stream.noise_level)
        if isinstance(levels, SNRRange):
            return count, 1 / self._uniform(levels.low, levels.high, (n_samples,), rng)
        # the cycle of levels continues from one count to the next
        sizes = [len(range(k, n_samples, n_counts)) for k in range(n_counts)]
        before = torch.tensor([0, *accumulate(sizes)], device=self.device)
        turn = before[count] + card // n_counts
        values = torch.as_tensor(levels, dtype=torch.float32, device=self.device)
        return count, values[turn % len(levels)]

    def tissue(self, n_c: Tensor, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Draw tissue properties and fractions, shapes (n_samples, n_compartments).

        An absent compartment has the fraction 0; its properties are arbitrary.
        """
        prior, shape = self.prior, (len(n_c), self.prior.max_compartments)
        present = torch.arange(shape[1], device=self.device) < n_c[:, None]
        properties = self._properties(shape, rng)
        if prior.t2_below_t1:
            self._redraw_until_t2_below_t1(properties, present, rng)
        weights = _WEIGHTS[prior.fraction_law](shape, rng) * present
        weights /= weights.sum(dim=1, keepdim=True)
        free = 1 - prior.min_fraction * n_c[:, None]
        return properties, (prior.min_fraction + free * weights) * present

    def _properties(self, shape: tuple[int, int], rng: torch.Generator) -> dict[str, Tensor]:
        return {
            name: self._grid_values(values, shape, rng)
            if values.step is not None
            else self._continuous_values(values, shape, rng)
            for name, values in self.prior.ranges.items()
        }

    def _grid_values(
        self, values: PropertyRange, shape: tuple[int, int], rng: torch.Generator
    ) -> Tensor:
        n_values, step = int(values.n_values), values.step
        assert step is not None
        if self.prior.with_replacement:
            place = torch.randint(n_values, shape, generator=rng, device=self.device)
        else:
            place = torch.empty(shape, dtype=torch.int64, device=self.device)
            for column in range(shape[1]):
                # the k-th of the values that the row has not used yet
                k = torch.randint(n_values - column, shape[:1], generator=rng, device=self.device)
                for taken in place[:, :column].sort(dim=1).values.T:
                    k += k >= taken
                place[:, column] = k
        # in float64, for the same rounding as on the processor
        return (values.low + step * place.double()).float()

    def _continuous_values(
        self, values: PropertyRange, shape: tuple[int, int], rng: torch.Generator
    ) -> Tensor:
        if values.scale == "log":
            return self._uniform(math.log(values.low), math.log(values.high), shape, rng).exp()
        return self._uniform(values.low, values.high, shape, rng)

    def _redraw_until_t2_below_t1(
        self, properties: dict[str, Tensor], present: Tensor, rng: torch.Generator
    ) -> None:
        for _ in range(MAX_REDRAWS):
            wrong = (present & (properties["T2"] >= properties["T1"])).any(dim=1)
            rejected = wrong.nonzero()[:, 0]
            if not len(rejected):
                return
            again = self._properties((len(rejected), present.shape[1]), rng)
            for name, values in again.items():
                properties[name][rejected] = values
        raise ValueError(
            "t2_below_t1 leaves too little of the ranges of T1 and T2: no valid voxel in "
            f"{MAX_REDRAWS} draws"
        )

    def _uniform(
        self, low: float, high: float, shape: tuple[int, ...], rng: torch.Generator
    ) -> Tensor:
        return torch.empty(shape, device=self.device).uniform_(low, high, generator=rng)

    def _normals(self, n_samples: int, rng: torch.Generator) -> Tensor:
        shape = (n_samples, self._n_measurements)
        return torch.randn(shape, generator=rng, device=self.device)


def _flat_dirichlet(shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    return torch.empty(shape, device=rng.device).exponential_(generator=rng)


def _normalized_uniform(shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    return 1 - torch.rand(shape, generator=rng, device=rng.device)  # the sum is never 0


def _equal(shape: tuple[int, int], rng: torch.Generator) -> Tensor:
    return torch.ones(shape, device=rng.device)


# the same laws as `corrsk.tissue.FRACTION_LAWS`
_WEIGHTS: dict[str, Callable[[tuple[int, int], torch.Generator], Tensor]] = {
    "dirichlet": _flat_dirichlet,
    "normalized-uniform": _normalized_uniform,
    "equal": _equal,
}
