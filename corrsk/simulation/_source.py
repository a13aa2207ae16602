"""Tissue and signals whose row ranges can be drawn independently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.parallel import blocks_of_run, for_each_run
from corrsk._utils.rng import Stream, entropy
from corrsk._utils.strata import Strata
from corrsk.acquisition.nuisances import check_nuisances
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.physics import NORMS
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.tissue.sampling import SampledPrior, TissueRows
from corrsk.tissue.table import NOISE_LEVEL_COLUMN


def check_measurable(prior: SampledPrior, protocol: AcquisitionProtocol) -> None:
    """Check that a prior fits a protocol: a range for each property, and no idle nuisance.

    Raises
    ------
    ValueError
        If a range is missing, or a nuisance parameter of the prior has no effect on the signals.
    """
    missing = [name for name in protocol.tissue_properties if name not in prior.ranges]
    if missing:
        raise ValueError(
            f"the protocol measures {', '.join(missing)}, but the prior has no range for "
            f"{', '.join(missing)}; it has ranges for {', '.join(prior.ranges)}"
        )
    if prior.nuisances is not None:
        check_nuisances(prior.nuisances, protocol)


def fitted(
    generator: CorrelationSignalGenerator, prior: SampledPrior
) -> CorrelationSignalGenerator:
    """Validate the generator's parameters, and fit it to the tissue table of a prior."""
    check_measurable(prior, resolve_protocol(generator.protocol))
    return generator._fit_columns([*prior.columns, NOISE_LEVEL_COLUMN])


@dataclass(frozen=True)
class SignalSource:
    """Simulated signals whose row ranges can be drawn independently.

    Parameters
    ----------
    prior : SampledPrior
        Distribution of the tissue.
    generator : CorrelationSignalGenerator
        Generator fitted on tissue of the prior. Its integer `random_state` seeds the
        tissue too.
    n_samples : int
        Number of all rows.
    norm : str or None
        Norm by which each signal is divided.
    """

    prior: SampledPrior
    generator: CorrelationSignalGenerator
    n_samples: int
    norm: str | None

    def __post_init__(self) -> None:
        if self.norm is not None and self.norm not in NORMS:
            valid = ", ".join(map(repr, NORMS))
            raise ValueError(f"norm must be one of {valid} or None; got {self.norm!r}")

    def rows(
        self, rows: slice, allocate_more: Callable[[int, slice, Strata], None] | None = None
    ) -> tuple[NDArray[np.float32], TissueRows]:
        """Draw the signals and tissue of rows that start at a multiple of `BLOCK_ROWS`.

        The result is bit-identical to that of :meth:`SampledPrior.sample` and `fit_transform`.
        Each block is simulated and normalised while its tissue is in the cache; the validation
        of the tissue table is omitted. `allocate_more` is called with the first block of
        consecutive blocks, their rows, and their strata of count and noise level.
        """
        generator = self.generator
        drawn = TissueRows(
            self.prior, rows, self.n_samples, entropy(generator.random_state),
            generator.noise_level,
        )  # fmt: skip
        simulate = generator._block_simulator(Stream.FIT_TRANSFORM, self.norm)
        X = np.empty((len(drawn.n_c), generator.protocol_.n_measurements), generator.dtype)

        def draw(first_block: int, run: slice) -> None:
            strata = drawn.draw(first_block, run)
            if allocate_more is not None:
                allocate_more(first_block, run, strata)
            for block, part in blocks_of_run(first_block, run):
                simulate(block, drawn.values[part], X[part])

        for_each_run(
            draw, len(X), first_row=rows.start, n_jobs=generator.n_jobs,
            description="simulating", verbose=generator.verbose,
        )  # fmt: skip
        return X, drawn
