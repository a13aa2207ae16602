"""Simulation of training signals on the device of the training.

A GPU simulates a chunk of signals in less time than a copy to the GPU takes. The random numbers
differ from those of :meth:`SignalStream.draw` and between types of devices; the distributions
are the same.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from corrsk import physics
from corrsk._utils.rng import Stream, keyed_generator
from corrsk._utils.validation import checked_count
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.physics.noise import draw_other_channels
from corrsk.physics.noise_levels import SNRRange, checked_noise_levels
from corrsk.physics.signals import SIGNAL_NUISANCES
from corrsk.simulation.streams import SignalStream
from corrsk.tissue.fractions import FRACTION_LAWS, floored_fractions
from corrsk.tissue.prior import resolve_prior

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
        self.protocol = resolve_protocol(stream.protocol)
        # in grid order, so that signals and noise do not depend on the order of the protocol
        in_order = self.protocol.in_grid_order()
        self._model = physics.SignalModel(
            in_order.contrasts,
            tr=in_order.tr, inversion_efficiency=stream.inversion_efficiency,
            readout=in_order.readout,
        )  # fmt: skip

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
            Signals, with columns in the order of the protocol.
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
        y, level = self.allocate(n_samples, rng)
        counts = torch.as_tensor(self.stream.classes, device=self.device)
        tissue, fractions = self.tissue(counts[y], rng)
        nuisances = self._nuisances(n_samples, rng)
        X = self._model(
            tissue, fractions, {key: nuisances[key] for key in SIGNAL_NUISANCES if key in nuisances}
        )
        sigma = physics.noise_sigma(X, level, self.stream.noise_reference)
        normals = self._normals(n_samples, rng)
        if self.stream.noise_distribution == "rician":
            others = draw_other_channels(lambda: self._normals(n_samples, rng), self.stream.n_coils)
            X = physics.add_noncentral_chi_noise(X, sigma, normals, others)
        else:
            X = physics.add_gaussian_noise(X, sigma, normals, overwrite_normals=True)
        if "gain" in nuisances:
            # numbered in the order of the protocol: grid order may begin with the second series
            series = self.protocol.to_grid(self.protocol._series_of_each[None])[0]
            X = torch.where(
                torch.as_tensor(series, device=self.device) > 0, X * nuisances["gain"][:, None], X
            )
        if "scale" in nuisances:
            X = X * nuisances["scale"][:, None]
        if self.stream.norm is not None:
            X = physics.normalize_signals(X, self.stream.norm, overwrite_signals=True)
        return self.protocol.to_scan_order(X, copy=False), y

    def generator(self, chunk: int) -> torch.Generator:
        """Return the random generator of a chunk."""
        checked_count("chunk", chunk, at_least=0)
        seed = keyed_generator(self.stream.random_state, Stream.DEVICE_CHUNK, chunk)
        return torch.Generator(self.device).manual_seed(int(seed.integers(2**63 - 1)))

    def allocate(self, n_samples: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Allocate counts (as positions in the prior's counts) and noise levels, (n_samples,).

        The frequencies of the counts, of the levels, and of the levels within each count
        differ by at most one.
        """
        checked_count("n_samples", n_samples, at_least=1)
        n_counts = len(self.prior.n_compartments)
        order = torch.randperm(n_samples, generator=rng, device=self.device)
        count = order % n_counts
        levels = checked_noise_levels(self.stream.noise_level)
        if isinstance(levels, SNRRange):
            return count, levels.sample(_DeviceDraws(rng), n_samples)
        # the cycle of levels continues from one count to the next
        sizes = [len(range(k, n_samples, n_counts)) for k in range(n_counts)]
        before = torch.tensor([0, *accumulate(sizes)], device=self.device)
        position = before[count] + order // n_counts
        values = torch.as_tensor(levels, dtype=torch.float32, device=self.device)
        return count, values[position % len(levels)]

    def tissue(self, n_c: Tensor, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """Draw tissue properties and fractions, shapes (n_samples, n_compartments).

        An absent compartment has the fraction 0; its properties are arbitrary.
        """
        prior, draws = self.prior, _DeviceDraws(rng)
        present = torch.arange(prior.max_compartments, device=self.device) < n_c[:, None]
        properties = {
            name: values.float() for name, values in prior.draw_properties(draws, present).items()
        }
        weights = FRACTION_LAWS[prior.fraction_law].weights(draws, present.float()) * present
        fractions = floored_fractions(weights, n_c[:, None], prior.min_fraction, axis=1)
        return properties, fractions * present

    def _nuisances(self, n_samples: int, rng: torch.Generator) -> dict[str, Tensor]:
        ranges = self.prior.nuisances
        names = () if ranges is None else ranges.names
        return {name: ranges.draw(name, _DeviceDraws(rng), n_samples) for name in names}  # type: ignore[union-attr]

    def _normals(self, n_samples: int, rng: torch.Generator) -> Tensor:
        shape = (n_samples, self.protocol.n_measurements)
        return torch.randn(shape, generator=rng, device=self.device)


class _DeviceDraws:
    """Random numbers of a device under the names of numpy's Generator."""

    def __init__(self, rng: torch.Generator) -> None:
        self._rng = rng

    def random(self, size: tuple[int, ...]) -> Tensor:
        return torch.rand(size, generator=self._rng, device=self._rng.device)

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> Tensor:
        drawn = torch.empty(size, device=self._rng.device)
        return drawn.uniform_(low, high, generator=self._rng)

    def integers(self, low: int, high: int, size: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high, size, generator=self._rng, device=self._rng.device)

    def standard_exponential(self, size: tuple[int, ...]) -> Tensor:
        return torch.empty(size, device=self._rng.device).exponential_(generator=self._rng)
