"""Simulated data sets: by parameters, or by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from corrsk._utils.deprecation import RENAMED_NORMALIZE, renamed_parameters
from corrsk._utils.rng import RandomStateLike, Stream, block_generators, entropy
from corrsk._utils.strata import Strata
from corrsk._utils.validation import checked_count, lookup
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.noise_levels import NoiseLevels, SNRRange
from corrsk.simulation._source import SignalSource, fitted
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.tissue.prior import TissuePrior, resolve_prior

# Of every ten samples of a stratum seven train, two validate and one tests. Each
# part is spread out, so that any run of samples is split to within one sample.
PARTS = ("train", "validation", "test")
_PART_PATTERN = np.array([0, 0, 1, 0, 2, 0, 0, 1, 0, 0], dtype=np.int8)


@dataclass(frozen=True)
class DatasetDefinition:
    """What a data set is drawn from.

    Parameters
    ----------
    name, description : str
    prior : TissuePrior or str
    protocol : AcquisitionProtocol or str
    noise_levels : tuple of float or SNRRange
        As fractions of the noise reference, all equally frequent.
    noise_reference : {"m0", "max", "rms"}
    norm : {"l2", "rms", "max"} or None
        Norm by which each signal is divided.
    """

    name: str
    prior: TissuePrior | str
    protocol: AcquisitionProtocol | str
    noise_levels: tuple[float, ...] | SNRRange
    noise_reference: str
    description: str
    norm: str | None = "l2"


_PAPER_DATA = (
    "Signals of 1 to 4 compartments as in Endt, Lachermeier and Menzel, MIDL 2024, on the "
    "group's published 8 x 8 protocol, with Gaussian noise and divided by their 2-norm. "
)
DATASETS: dict[str, DatasetDefinition] = {
    definition.name: definition
    for definition in (
        DatasetDefinition(
            "midl2024", "midl2024", "ir-se-8x8", (0.01, 0.02, 0.03, 0.04, 0.05), "m0",
            _PAPER_DATA + "The noise is read literally: sigma = 1 to 5 % of M0.",
        ),
        DatasetDefinition(
            "midl2024-low-noise", "midl2024", "ir-se-8x8",
            (0.001, 0.002, 0.003, 0.004, 0.005), "m0",
            _PAPER_DATA + "The noise is a tenth of its literal reading, sigma = 0.1 to 0.5 % of "
            "M0, at which the paper's figures can be reached.",
        ),
        DatasetDefinition(
            "t1t2-detr", "t1t2-detr", "ir-se-8x8-tr20s", SNRRange(30.0, 150.0), "max",
            "Signals of 1 to 3 compartments as in the thesis t1t2-detr (2026) of the same group, "
            "on its 8 x 8 protocol with TR = 20 s: Gaussian noise of the largest absolute signal "
            "over an SNR of 30 to 150, M0 = 1 and no normalisation.",
            norm=None,
        ),
    )
}  # fmt: skip


def dataset_definition(name: str) -> DatasetDefinition:
    """The definition of a named data set.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the known ones.
    """
    return lookup(DATASETS, name, "data set")


@renamed_parameters(normalize=RENAMED_NORMALIZE)
def make_correlation_signals(
    n_samples: int = 1000,
    *,
    prior: TissuePrior | str = "midl2024",
    protocol: AcquisitionProtocol | str = "ir-se-8x8",
    noise_level: NoiseLevels = (0.01, 0.02, 0.03, 0.04, 0.05),
    noise_reference: str = "m0",
    noise_distribution: str = "gaussian",
    inversion_efficiency: float = 1.0,
    norm: str | None = "l2",
    random_state: RandomStateLike = None,
    return_tissue: bool = False,
    chunk_rows: int | None = None,
    n_jobs: int | None = None,
    verbose: bool = True,
) -> Any:
    """Draw tissue and simulate its signals, the way `make_blobs` makes blobs.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of voxels n.
    prior : TissuePrior or str, default="midl2024"
        What the tissue is drawn from.
    protocol : AcquisitionProtocol or str, default="ir-se-8x8"
        What is measured, N measurements.
    noise_level : float, sequence of float or SNRRange
        Noise level as a fraction. Of several, each is equally frequent, to
        within one, in all and within each compartment count; of a range, each
        voxel draws its own.
    noise_reference, noise_distribution, inversion_efficiency
        See :class:`CorrelationSignalGenerator`.
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which each signal is divided: its 2-norm, as in the paper, its root mean square,
        or its largest absolute value; None for none.
    random_state : int, RandomState, Generator or None
        The same integer gives the same bits for any `n_jobs`.
    return_tissue : bool, default=False
        Whether to return the noise levels and the tissue as well.
    chunk_rows : int, optional
        Return dask arrays of chunks of about so many rows (and a dask DataFrame),
        which are drawn when they are computed: for data larger than memory. The
        bits are those of the call without it. Needs the extra `corrsk[dask]`.
    n_jobs : int, optional
        Threads; None (default) for every core. Dask has workers of its own.
    verbose : bool, default=True
        Whether to show progress once it takes more than a few seconds.

    Returns
    -------
    X : ndarray of shape (n_samples, n_measurements), float32
        Signals in the grid order of the protocol.
    y : ndarray of shape (n_samples,)
        Number of compartments n_c.
    noise_level : ndarray of shape (n_samples,)
        Noise level of each signal. Only with `return_tissue`.
    tissue : DataFrame
        Tissue table with its noise_level column. Only with `return_tissue`.

    Raises
    ------
    ValueError
        If a parameter is out of range or a name is unknown.
    ImportError
        If `chunk_rows` is given and dask is not installed.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> X, y = make_correlation_signals(1000, random_state=0)
    >>> X.shape, X.dtype
    ((1000, 64), dtype('float32'))
    """
    checked_count("n_samples", n_samples, at_least=1)
    seed = entropy(random_state)
    generator = CorrelationSignalGenerator(
        protocol=protocol, noise_level=noise_level, noise_reference=noise_reference,
        noise_distribution=noise_distribution, inversion_efficiency=inversion_efficiency,
        random_state=seed, n_jobs=n_jobs, verbose=verbose,
    )  # fmt: skip
    source = _source(prior, generator, n_samples, norm)
    if chunk_rows is not None:
        from corrsk.simulation._dask import dask_signals

        drawn = dask_signals(source, chunk_rows)
        return drawn if return_tissue else drawn[:2]
    X, tissue = source.rows(slice(0, n_samples))
    return (X, tissue.n_c, tissue.noise_levels, tissue.table) if return_tissue else (X, tissue.n_c)


def load_dataset(
    name: str,
    n_samples: int = 1_000_000,
    random_state: RandomStateLike = 0,
    *,
    n_jobs: int | None = None,
    verbose: bool = True,
) -> Bunch:
    """Simulate a named data set.

    Parameters
    ----------
    name : {"midl2024", "midl2024-low-noise", "t1t2-detr"}
        The paper's data with noise read literally (1 to 5 % of M0), or with a
        tenth of it; or those of the thesis t1t2-detr (1 to 3 compartments).
    n_samples : int, default=1_000_000
        Number of signals n, at least 10; the paper has 10^6.
    random_state : int, RandomState, Generator or None, default=0
        The same integer gives the same bits for any `n_jobs`.
    n_jobs : int, optional
        Threads; None (default) for every core.
    verbose : bool, default=True
        Whether to show progress once it takes more than a few seconds.

    Returns
    -------
    Bunch
        data : ndarray of shape (n_samples, n_measurements), float32, signals, divided by their 2-norm
        where the definition says so;
        target : ndarray of shape (n_samples,), the compartment counts;
        noise_level : ndarray of shape (n_samples,);
        tissue : DataFrame, the tissue table with its noise_level column;
        train_indices, validation_indices, test_indices : ascending integers,
        70 / 20 / 10 %, stratified jointly by compartment count and noise level;
        feature_names : list of str; protocol : AcquisitionProtocol;
        name, DESCR : str.

    Raises
    ------
    ValueError
        If the name is unknown (the message lists the known ones) or n_samples
        is too small to split.

    Examples
    --------
    >>> from corrsk import load_dataset
    >>> data = load_dataset("midl2024", n_samples=1000)
    >>> len(data.train_indices), len(data.validation_indices), len(data.test_indices)
    (700, 200, 100)
    """
    return simulate_dataset(
        dataset_definition(name), n_samples, random_state, n_jobs=n_jobs, verbose=verbose
    )


def simulate_dataset(
    definition: DatasetDefinition,
    n_samples: int,
    random_state: RandomStateLike = 0,
    *,
    n_jobs: int | None = None,
    verbose: bool = True,
) -> Bunch:
    """Simulate a data set of one's own definition; see :func:`load_dataset`."""
    # so many that training, validation and test data each get some
    checked_count("n_samples", n_samples, at_least=len(_PART_PATTERN))
    seed = entropy(random_state)
    generator = CorrelationSignalGenerator(
        definition.protocol, definition.noise_levels, definition.noise_reference,
        random_state=seed, n_jobs=n_jobs, verbose=verbose,
    )  # fmt: skip
    part = np.empty(n_samples, dtype=_PART_PATTERN.dtype)

    def allocate_parts(first_block: int, rows: slice, strata: Strata) -> None:
        n_rows = rows.stop - rows.start
        rngs = block_generators(seed, Stream.SPLIT, first_block, n_rows)
        label, _ = strata.allocate(_PART_PATTERN.size, rngs)
        part[rows] = _PART_PATTERN[label]

    source = _source(definition.prior, generator, n_samples, definition.norm)
    data, tissue = source.rows(slice(0, n_samples), allocate_parts)
    indices = {f"{name}_indices": np.flatnonzero(part == i) for i, name in enumerate(PARTS)}
    return Bunch(
        data=data, target=tissue.n_c, noise_level=tissue.noise_levels, tissue=tissue.table,
        **indices,
        feature_names=generator.protocol_.feature_names, protocol=generator.protocol_,
        name=definition.name, DESCR=definition.description,
    )  # fmt: skip


def _source(
    prior: TissuePrior | str,
    generator: CorrelationSignalGenerator,
    n_samples: int,
    norm: str | None,
) -> SignalSource:
    prior = resolve_prior(prior)
    # before the long work: it checks the parameters
    return SignalSource(prior, fitted(generator, prior), n_samples, norm)
