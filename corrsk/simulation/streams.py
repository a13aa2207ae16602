"""Unlimited streams of signals, simulated while a network trains."""

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
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.tissue.lobes import sampled_prior
from corrsk.tissue.sampling import SampledPrior, TissueRows


@dataclass(frozen=True)
class SignalStream:
    """Unlimited stream of labelled signals, in numbered chunks.

    Immutable. Data sets of :func:`corrsk.make_correlation_signals` with a small integer seed do
    not occur in a stream with any small integer seed, so that such data sets are independent test
    data.

    Parameters
    ----------
    prior : TissuePrior, LobePrior or str, default="midl2024"
        Distribution of the tissue.
    protocol : AcquisitionProtocol or str, default="ir-se-8x8"
        Acquisition protocol.
    noise_level : float, sequence of float or SNRRange
        Noise level; see :func:`corrsk.make_correlation_signals`.
    noise_reference : {"m0", "max", "rms", "first"}, default="m0"
        Reference of the noise level.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        Distribution of the noise.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which each signal is divided; see :class:`corrsk.SignalNormalizer`.
    random_state : int, default=0
        Seed. The chunk of a number and a length is bit-identical on every draw.
    n_coils : int, default=1
        Number of coils of Rician noise; see :class:`corrsk.CorrelationSignalGenerator`.

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

    prior: SampledPrior | str = "midl2024"
    protocol: AcquisitionProtocol | str = "ir-se-8x8"
    noise_level: NoiseLevels = (0.01, 0.02, 0.03, 0.04, 0.05)
    noise_reference: str = "m0"
    noise_distribution: str = "gaussian"
    inversion_efficiency: float = 1.0
    norm: str | None = "l2"
    random_state: int = 0
    n_coils: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "prior", sampled_prior(self.prior))
        object.__setattr__(self, "protocol", resolve_protocol(self.protocol))
        levels = checked_noise_levels(self.noise_level)
        if not isinstance(levels, SNRRange):
            object.__setattr__(self, "noise_level", tuple(levels.tolist()))
        checked_count("random_state", self.random_state, at_least=0)
        self.draw(0, 1)  # validates the other parameters before a training starts

    @classmethod
    def named(cls, name: str, random_state: int = 0) -> SignalStream:
        """Return the stream of a named data set.

        Parameters
        ----------
        name : str
            Name of the data set; see :func:`corrsk.load_dataset`.
        random_state : int, default=0
            Seed.

        Returns
        -------
        SignalStream
            The stream.

        Raises
        ------
        ValueError
            If the name is unknown; the message lists the valid names.
        """
        return cls.from_definition(dataset_definition(name), random_state)

    @classmethod
    def from_definition(cls, definition: DatasetDefinition, random_state: int = 0) -> SignalStream:
        """Return the stream of a data set with a definition.

        Parameters
        ----------
        definition : DatasetDefinition
            Definition of the data set.
        random_state : int, default=0
            Seed.

        Returns
        -------
        SignalStream
            The stream.
        """
        return cls(
            definition.prior, definition.protocol, definition.noise_levels,
            definition.noise_reference, definition.noise_distribution,
            definition.inversion_efficiency, definition.norm, random_state, definition.n_coils,
        )  # fmt: skip

    def draw(
        self, chunk: int, n_samples: int, *, n_jobs: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Draw the signals and counts of one chunk.

        Parameters
        ----------
        chunk : int
            Number of the chunk, from 0 on.
        n_samples : int
            Number of signals; chunks of different lengths have different signals.
        n_jobs : int, optional
            Number of threads; None uses every core.

        Returns
        -------
        X : ndarray of shape (n_samples, n_measurements), float32
            Signals, with columns in the order of the protocol.
        y : ndarray of shape (n_samples,)
            Number of compartments n_c.
        """
        X, tissue = self.draw_rows(chunk, n_samples, n_jobs=n_jobs)
        return X, tissue.n_c

    def draw_rows(
        self, chunk: int, n_samples: int, *, n_jobs: int | None = None
    ) -> tuple[NDArray[np.float32], TissueRows]:
        """Draw the signals of one chunk, with their tissue.

        Parameters
        ----------
        chunk : int
            Number of the chunk, from 0 on.
        n_samples : int
            Number of signals; see :meth:`draw`.
        n_jobs : int, optional
            Number of threads; None uses every core.

        Returns
        -------
        X : ndarray of shape (n_samples, n_measurements), float32
            Signals of :meth:`draw`.
        tissue : TissueRows
            The tissue: ``tissue.table`` is a tissue table with the noise level of each signal.
        """
        checked_count("chunk", chunk, at_least=0)
        checked_count("n_samples", n_samples, at_least=1)
        seed = keyed_generator(self.random_state, Stream.CHUNK, chunk).integers(2**63 - 1)
        generator = copy(self._generator)
        generator.random_state, generator.n_jobs = int(seed), n_jobs
        source = SignalSource(sampled_prior(self.prior), generator, n_samples, self.norm)
        return source.rows(slice(0, n_samples))

    @cached_property
    def _generator(self) -> CorrelationSignalGenerator:
        # fitted once, since fitting takes as long as the simulation of a few thousand signals
        generator = CorrelationSignalGenerator(
            self.protocol, self.noise_level, self.noise_reference, self.noise_distribution,
            self.inversion_efficiency, verbose=False, n_coils=self.n_coils,
        )  # fmt: skip
        return fitted(generator, sampled_prior(self.prior))

    @property
    def classes(self) -> NDArray[np.int64]:
        """Compartment counts of the prior, ascending."""
        return np.asarray(sampled_prior(self.prior).n_compartments)

    @property
    def grid_shape(self) -> tuple[int, ...] | None:
        """Grid shape of the protocol; None if the protocol is not a grid."""
        return resolve_protocol(self.protocol).grid_shape

    @property
    def identity(self) -> dict[str, Any]:
        """Description of everything that determines the signals, stored in checkpoints."""
        protocol = resolve_protocol(self.protocol).to_dict()
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.n_coils == 1:  # stored checkpoints lack it
            del content["n_coils"]
        # stored checkpoints have a flag for the norms l2 and None
        content["norm"] = {"l2": True, None: False}.get(self.norm, self.norm)
        return {
            "normalize" if name == "norm" else name: repr(value) for name, value in content.items()
        } | {
            "protocol": protocol["contrasts"]
            | {key: protocol[key] for key in ("tr", "readout", "series") if key in protocol},
            "random_streams": STREAMS_VERSION,
        }


# for one release; the dataclass decorator creates __init__
SignalStream.__init__ = renamed_parameters(  # type: ignore[method-assign]
    normalize=RENAMED_NORMALIZE
)(SignalStream.__init__)
