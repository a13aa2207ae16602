"""Tissue of the signals of a stream, as coordinates that a network can learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.rng import Stream, keyed_generator
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.simulation.streams import SignalStream
from corrsk.tissue.coordinates import TissueCoordinates
from corrsk.tissue.nuisances import Nuisances
from corrsk.tissue.prior import resolve_prior

# parameters that all compartments share and that change the shape of a signal, not only its size
SHARED = ("inversion_efficiency", "b1", "echo_loss", "offset", "gain")


@dataclass(frozen=True)
class StreamTargets:
    """Signals of a stream with the index of the count and the coordinates of the tissue.

    Parameters
    ----------
    stream : SignalStream
        The stream.
    coordinates : tuple of TissueCoordinates
        Coordinates of each count.
    shared : tuple of str
        Names of the nuisance parameters among the coordinates.
    """

    VALIDATION = -1  # number of the chunk that no training has

    stream: SignalStream
    coordinates: tuple[TissueCoordinates, ...]
    shared: tuple[str, ...]

    @classmethod
    def from_stream(cls, stream: SignalStream) -> StreamTargets:
        """Return the targets of a stream."""
        prior = resolve_prior(stream.prior)
        shared = shared_parameters(prior.nuisances)
        coordinates = tuple(TissueCoordinates(prior, K, len(shared)) for K in prior.n_compartments)
        return cls(stream, coordinates, shared)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Number of coordinates of each count."""
        return tuple(each.n_dimensions for each in self.coordinates)

    @property
    def n_measurements(self) -> int:
        """Number of measurements of a signal."""
        return resolve_protocol(self.stream.protocol).n_measurements

    def draw(
        self, chunk: int, n_samples: int, *, n_jobs: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw a chunk of signals and targets.

        Parameters
        ----------
        chunk : int
            Number of the chunk; `VALIDATION` for signals that no chunk of a training has.
        n_samples : int
            Number of signals.
        n_jobs : int, optional
            Number of threads; None uses every core.

        Returns
        -------
        X : ndarray of shape (n_samples, n_measurements)
            Signals.
        targets : ndarray of shape (n_samples, 1 + n_coordinates)
            Index of the count, then the coordinates; 0 where a count has fewer.
        """
        # the chunks of a training have small numbers
        number = 2**31 if chunk == self.VALIDATION else chunk
        X, rows = self.stream.draw_rows(number, n_samples, n_jobs=n_jobs)
        prior = resolve_prior(self.stream.prior)
        columns = dict(zip(rows.columns, rows.values.T, strict=True))
        targets = np.zeros((n_samples, 1 + max(self.dimensions)), np.float32)
        rng = keyed_generator(self.stream.random_state, Stream.CELLS, number)
        for index, own in enumerate(self.coordinates):
            here = np.flatnonzero(rows.n_c == own.K)
            names = [f"{{}}_{k + 1}" for k in range(own.K)]
            values = {
                q: np.stack([columns[name.format(q)][here] for name in names])
                for q in (*own.names, "f")
            }
            shared = np.array(
                [self._unit(prior.nuisances, q, columns[q][here]) for q in self.shared]
            )
            z = own.coordinates(
                values, values["f"], shared.reshape(len(self.shared), here.size),
                rng.random((own.P, own.K, here.size)),
            )  # fmt: skip
            targets[here, 0] = index
            targets[here, 1 : 1 + len(z)] = z.T
        return X, targets

    @staticmethod
    def _unit(nuisances: Nuisances | None, name: str, values: NDArray[Any]) -> NDArray[Any]:
        assert nuisances is not None
        return nuisances.to_unit(name, values)


def shared_parameters(nuisances: Nuisances | None) -> tuple[str, ...]:
    """Names of the parameters with a range that change the shape of a signal."""
    names = () if nuisances is None else nuisances.names
    return tuple(
        name for name in names if name in SHARED and isinstance(getattr(nuisances, name), tuple)
    )
