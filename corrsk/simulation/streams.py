"""Endless signals: drawn while a network trains on them, none of them twice."""

from __future__ import annotations

import dataclasses
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.deprecation import RENAMED_NORMALIZE, renamed_parameters
from corrsk._utils.rng import STREAMS_VERSION, Stream, keyed_generator
from corrsk._utils.validation import checked_count
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.physics.noise_levels import NoiseLevels, SNRRange, checked_noise_levels
from corrsk.simulation._source import SignalSource, fitted
from corrsk.simulation.datasets import dataset_definition
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.tissue.prior import TissuePrior, resolve_prior


@dataclass(frozen=True)
class SignalStream:
    """Labelled signals without end, in numbered chunks.

    An immutable value. Its parameters, but for the last, are those of
    :func:`corrsk.make_correlation_signals`. The data that such calls draw from a
    small integer seed are no part of the stream of any such seed, so that they can
    serve as test data.

    Parameters
    ----------
    prior : TissuePrior or str, default="midl2024"
    protocol : AcquisitionProtocol or str, default="ir-se-8x8"
    noise_level : float, sequence of float or SNRRange
    noise_reference, noise_distribution : str
    inversion_efficiency : float
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which each signal is divided; see :class:`corrsk.SignalNormalizer`.
    random_state : int, default=0
        Chunk number i of n signals has the same bits wherever it is drawn.

    Raises
    ------
    ValueError
        If a parameter is out of range or a name is unknown.

    Examples
    --------
    >>> from corrsk import SignalStream
    >>> stream = SignalStream.named("midl2024")
    >>> X, y = stream.draw(0, 1000)
    >>> X.shape
    (1000, 64)
    """

    prior: TissuePrior | str = "midl2024"
    protocol: AcquisitionProtocol | str = "ir-se-8x8"
    noise_level: NoiseLevels = (0.01, 0.02, 0.03, 0.04, 0.05)
    noise_reference: str = "m0"
    noise_distribution: str = "gaussian"
    inversion_efficiency: float = 1.0
    norm: str | None = "l2"
    random_state: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "prior", resolve_prior(self.prior))
        object.__setattr__(self, "protocol", resolve_protocol(self.protocol).in_grid_order())
        levels = checked_noise_levels(self.noise_level)
        if not isinstance(levels, SNRRange):
            object.__setattr__(self, "noise_level", tuple(levels.tolist()))
        checked_count("random_state", self.random_state, at_least=0)
        self.draw(0, 1)  # what is wrong with the other parameters shows here, not in a training

    @classmethod
    def named(cls, name: str, random_state: int = 0) -> SignalStream:
        """The stream of a named data set.

        Parameters
        ----------
        name : str
            Of :func:`corrsk.load_dataset`.
        random_state : int, default=0

        Raises
        ------
        ValueError
            If the name is unknown; the message lists the known ones.
        """
        definition = dataset_definition(name)
        return cls(
            definition.prior, definition.protocol, definition.noise_levels,
            definition.noise_reference, norm=definition.norm,
            random_state=random_state,
        )  # fmt: skip

    def draw(
        self, chunk: int, n_samples: int, *, n_jobs: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The signals and counts of one chunk.

        Parameters
        ----------
        chunk : int
            Its number, from 0 on.
        n_samples : int
            How many signals n; chunks of another length are other signals.
        n_jobs : int, optional
            Threads; None (default) for every core.

        Returns
        -------
        X : ndarray of shape (n_samples, n_measurements), float32
            Signals in the grid order of the protocol.
        y : ndarray of shape (n_samples,)
            Number of compartments n_c.
        """
        checked_count("chunk", chunk, at_least=0)
        checked_count("n_samples", n_samples, at_least=1)
        seed = keyed_generator(self.random_state, Stream.CHUNK, chunk).integers(2**63 - 1)
        generator = copy(self._generator)
        generator.random_state, generator.n_jobs = int(seed), n_jobs
        source = SignalSource(resolve_prior(self.prior), generator, n_samples, self.norm)
        X, tissue = source.rows(slice(0, n_samples))
        return X, tissue.n_c

    @cached_property
    def _generator(self) -> CorrelationSignalGenerator:
        # fitted once, which takes as long as a few thousand signals
        generator = CorrelationSignalGenerator(
            self.protocol, self.noise_level, self.noise_reference, self.noise_distribution,
            self.inversion_efficiency, verbose=False,
        )  # fmt: skip
        return fitted(generator, resolve_prior(self.prior))

    @property
    def classes(self) -> NDArray[np.int64]:
        """The counts of the prior, ascending."""
        return np.asarray(resolve_prior(self.prior).n_compartments)

    @property
    def grid_shape(self) -> tuple[int, ...] | None:
        """That of the protocol; None if it is no grid."""
        return resolve_protocol(self.protocol).grid_shape

    @property
    def identity(self) -> dict[str, Any]:
        """What the bits of the stream depend on, in words."""
        protocol = resolve_protocol(self.protocol)
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # stored checkpoints have the norms l2 and None as a flag
        content["norm"] = {"l2": True, None: False}.get(self.norm, self.norm)
        return {
            "normalize" if name == "norm" else name: repr(value) for name, value in content.items()
        } | {
            "protocol": {name: list(axis) for name, axis in protocol.contrasts.items()}
            | {"tr": protocol.tr},
            "random_streams": STREAMS_VERSION,
        }


# for one release; a dataclass writes its own __init__
SignalStream.__init__ = renamed_parameters(  # type: ignore[method-assign]
    normalize=RENAMED_NORMALIZE
)(SignalStream.__init__)
