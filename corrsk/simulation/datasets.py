"""Simulated data sets, by parameters or by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import Bunch

from corrsk._utils.deprecation import RENAMED_NORMALIZE, renamed_parameters
from corrsk._utils.rng import RandomStateLike, Stream, block_generators, entropy
from corrsk._utils.strata import Strata
from corrsk._utils.validation import checked_count, lookup
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.echo_trains import EchoTrain
from corrsk.physics.noise_levels import NoiseLevels, SNRRange
from corrsk.simulation._source import SignalSource, fitted
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.tissue.lobes import Lobe, LobePrior, sampled_prior
from corrsk.tissue.nuisances import Nuisances
from corrsk.tissue.prior import TissuePrior
from corrsk.tissue.ranges import PropertyRange
from corrsk.tissue.sampling import SampledPrior

# Of ten samples of a stratum seven are for training, two for validation and one for testing. The
# parts are interleaved, so that any consecutive samples are split to within one sample.
PARTS = ("train", "validation", "test")
_PART_PATTERN = np.array([0, 0, 1, 0, 2, 0, 0, 1, 0, 0], dtype=np.int8)


_PAPER_DATA = (
    "Signals of 1 to 4 compartments as in Endt, Lachermeier and Menzel, MIDL 2024, on the "
    "group's published 8 x 8 protocol, with Gaussian noise and divided by their 2-norm. "
)
# of pulses that differ between voxels; ranges that include water and short-T2 tissue
_SCANNER_PRIOR = TissuePrior(
    ranges={
        "T1": PropertyRange(50.0, 5000.0, scale="log"),
        "T2": PropertyRange(5.0, 2000.0, scale="log"),
    },
    n_compartments=(1, 2, 3),
    t2_below_t1=True,
    nuisances=Nuisances(inversion_efficiency=(0.8, 1.0), echo_loss=(0.0, 0.05)),
)
_SCANNER_NOISE = SNRRange(20.0, 1000.0, scale="log")
_SCANNER_DATA = (
    "Signals of 1 to 3 compartments as scanners measure them, on the 8 x 8 protocol of Endt, "
    "Lachermeier and Menzel, MIDL 2024: T1 of 50 to 5000 ms and T2 of 5 to 2000 ms, log-uniform "
    "with T2 < T1, an inversion efficiency of 0.8 to 1 and a loss of 0 to 5 % per echo in each "
    "voxel, the largest absolute signal over an SNR of 20 to 1000 (log-uniform), and divided by "
    "their 2-norm. "
)
# white matter: myelin water, and the water inside and outside of cells
_CANALES_PRIOR = LobePrior(
    (
        Lobe("myelin", PropertyRange(15.0, 35.0), PropertyRange(1.0, 3.0), (0.05, 0.25)),
        Lobe("cells", PropertyRange(60.0, 90.0), PropertyRange(6.0, 12.0)),
    ),
    nuisances=Nuisances(b1=(0.5, 1.0)),
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
        DatasetDefinition(
            "scanner-ir-se-8x8", _SCANNER_PRIOR, "ir-se-8x8", _SCANNER_NOISE, "max",
            _SCANNER_DATA + "Gaussian noise, for phased, signed signals.",
        ),
        DatasetDefinition(
            "scanner-ir-se-8x8-magnitude", _SCANNER_PRIOR, "ir-se-8x8", _SCANNER_NOISE, "max",
            _SCANNER_DATA + "Rician noise, for magnitude images.",
            noise_distribution="rician",
        ),
        DatasetDefinition(
            "canales2021", _CANALES_PRIOR,
            AcquisitionProtocol(te=10.0 * np.arange(1, 33), tr=3000, readout=EchoTrain(10.0)),
            SNRRange(50.0, 150.0), "first",
            "Myelin water as in Canales-Rodriguez et al., Med. Image Anal. 69, 101959 (2021): two "
            "Gaussian lobes of T2 (5 to 25 % of the signal around 15 to 35 ms, the rest around 60 "
            "to 90 ms), 32 echoes of 10 ms with a refocusing angle of 90 to 180 degrees in each "
            "voxel, Rician noise of the first echo over an SNR of 50 to 150, M0 = 1 and no "
            "normalisation. Their other data have an SNR of 150 to 300, and no noise.",
            norm=None, noise_distribution="rician",
        ),
    )
}  # fmt: skip


def dataset_definition(name: str) -> DatasetDefinition:
    """Return the definition of a named data set.

    Parameters
    ----------
    name : str
        Name of the data set; see :func:`load_dataset`.

    Returns
    -------
    DatasetDefinition
        The definition.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid names.
    """
    return lookup(DATASETS, name, "data set")


def resolve_dataset(dataset: DatasetDefinition | str) -> DatasetDefinition:
    """Return the definition of a data set, given the definition or the name of the data set.

    Parameters
    ----------
    dataset : DatasetDefinition or str
        A definition, or the name of a data set; see :func:`load_dataset`.

    Returns
    -------
    DatasetDefinition
        The definition.

    Raises
    ------
    ValueError
        If the name is unknown, or another definition has the name of a data set of corrsk, whose
        published results and models would be taken for those of the definition.
    TypeError
        If `dataset` is neither a definition nor a name.
    """
    if isinstance(dataset, str):
        return dataset_definition(dataset)
    if not isinstance(dataset, DatasetDefinition):
        raise TypeError(
            f"dataset must be a DatasetDefinition or the name of a data set "
            f"({', '.join(DATASETS)}), got {type(dataset).__name__}"
        )
    known = DATASETS.get(dataset.name)
    if known is not None and known.resolved().to_dict() != dataset.resolved().to_dict():
        raise ValueError(
            f"the name {dataset.name!r} belongs to another data set; choose a name other than "
            f"{', '.join(DATASETS)}"
        )
    return dataset


@renamed_parameters(normalize=RENAMED_NORMALIZE)
def make_correlation_signals(
    n_samples: int = 1000,
    *,
    prior: SampledPrior | str = "midl2024",
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
    n_coils: int = 1,
) -> Any:
    """Draw tissue and simulate its signals.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of voxels.
    prior : TissuePrior, LobePrior or str, default="midl2024"
        Distribution of the tissue.
    protocol : AcquisitionProtocol or str, default="ir-se-8x8"
        Acquisition protocol.
    noise_level : float, sequence of float or SNRRange
        Noise level as a fraction. Several levels are equally frequent, to
        within one voxel, overall and within each compartment count; from a range every
        voxel draws its own level.
    noise_reference : {"m0", "max", "rms", "first"}, default="m0"
        Reference of the noise level; see :class:`CorrelationSignalGenerator`.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        Distribution of the noise; see :class:`CorrelationSignalGenerator`.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which each signal is divided: the 2-norm, as in the paper, the root mean square,
        or the largest absolute value; None for no normalisation.
    random_state : int, RandomState, Generator or None
        Seed. An integer makes the result bit-identical for any `n_jobs`.
    return_tissue : bool, default=False
        Whether to return the noise levels and the tissue as well.
    chunk_rows : int, optional
        Return dask arrays (and a dask DataFrame) with chunks of about this number of rows, which
        are simulated when computed: for data larger than memory. The result is bit-identical
        to that without chunks. Requires the extra `corrsk[dask]`.
    n_jobs : int, optional
        Number of threads; None uses every core. With `chunk_rows` dask controls the parallelism.
    verbose : bool, default=True
        Whether to show progress once the simulation takes a few seconds.
    n_coils : int, default=1
        Number of coils of Rician noise; see :class:`CorrelationSignalGenerator`.

    Returns
    -------
    X : ndarray of shape (n_samples, n_measurements), float32
        Signals, with columns in the order of the protocol.
    y : ndarray of shape (n_samples,)
        Number of compartments n_c.
    noise_level : ndarray of shape (n_samples,)
        Noise level of each signal. Only with `return_tissue`.
    tissue : DataFrame
        Tissue table with a column noise_level. Only with `return_tissue`.

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
        random_state=seed, n_jobs=n_jobs, verbose=verbose, n_coils=n_coils,
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
    name : str
        "midl2024" or "midl2024-low-noise", the data of the paper with the literal noise levels
        (1 to 5 % of M0) or a tenth of these levels; "t1t2-detr", the data of the thesis t1t2-detr
        (1 to 3 compartments); "scanner-ir-se-8x8" or "scanner-ir-se-8x8-magnitude", data with
        imperfect pulses that differ between voxels, and wide ranges of tissue and noise, for phased
        signals or magnitude images; "canales2021", myelin water: continuous distributions of T2,
        whose fractions :meth:`corrsk.tissue.LobePrior.lobes_of` gives.
    n_samples : int, default=1_000_000
        Number of signals, at least 10; the paper has 10^6.
    random_state : int, RandomState, Generator or None, default=0
        Seed. An integer makes the result bit-identical for any `n_jobs`.
    n_jobs : int, optional
        Number of threads; None uses every core.
    verbose : bool, default=True
        Whether to show progress once the simulation takes a few seconds.

    Returns
    -------
    Bunch
        The data set, with these attributes:

        - data: ndarray of shape (n_samples, n_measurements), float32, the signals divided by the
          norm of the definition;
        - target: ndarray of shape (n_samples,), the compartment counts;
        - noise_level: ndarray of shape (n_samples,);
        - tissue: DataFrame, the tissue table with a column noise_level;
        - train_indices, validation_indices, test_indices: ndarrays of ascending integers,
          70 / 20 / 10 %, stratified jointly by compartment count and noise level;
        - feature_names: list of str;
        - protocol: AcquisitionProtocol;
        - name, DESCR: str; definition: DatasetDefinition.

    Raises
    ------
    ValueError
        If the name is unknown (the message lists the valid names) or n_samples
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
    """Simulate a data set from its definition.

    Parameters
    ----------
    definition : DatasetDefinition
        Definition of the data set.
    n_samples : int
        Number of signals, at least 10.
    random_state : int, RandomState, Generator or None, default=0
        Seed. An integer makes the result bit-identical for any `n_jobs`.
    n_jobs : int, optional
        Number of threads; None uses every core.
    verbose : bool, default=True
        Whether to show progress once the simulation takes a few seconds.

    Returns
    -------
    Bunch
        The data set; see :func:`load_dataset`.

    Raises
    ------
    ValueError
        If n_samples is too small to split.
    """
    # enough samples for non-empty training, validation and test data
    checked_count("n_samples", n_samples, at_least=len(_PART_PATTERN))
    seed = entropy(random_state)
    generator = CorrelationSignalGenerator(
        definition.protocol, definition.noise_levels, definition.noise_reference,
        definition.noise_distribution, definition.inversion_efficiency,
        random_state=seed, n_jobs=n_jobs, verbose=verbose, n_coils=definition.n_coils,
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
        name=definition.name, DESCR=definition.description, definition=definition,
    )  # fmt: skip


def _source(
    prior: SampledPrior | str,
    generator: CorrelationSignalGenerator,
    n_samples: int,
    norm: str | None,
) -> SignalSource:
    drawn_from = sampled_prior(prior)
    # `fitted` validates the parameters before the simulation starts
    return SignalSource(drawn_from, fitted(generator, drawn_from), n_samples, norm)
