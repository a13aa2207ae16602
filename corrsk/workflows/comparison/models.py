"""Models of the comparison, by name, and their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn.pipeline import make_pipeline

from corrsk._utils.extras import install_command
from corrsk._utils.validation import lookup
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.baselines import BASELINES, Baseline, make_baseline
from corrsk.neural.classifier import CorrelationCNNClassifier, ResidualMLPClassifier
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.relaxometry import MultiExponentialClassifier, NNLSPeakClassifier
from corrsk.simulation.definition import DatasetDefinition
from corrsk.tissue.prior import resolve_prior
from corrsk.tissue.ranges import PropertyRange

REFERENCE = "cnn"  # the model that McNemar's test compares with the others
BOOSTING_PACKAGES = ("lightgbm", "xgboost", "xgboost-cpu")
_MODEL_BASED_TEST_SIGNALS = 10_000
_EPOCHS_OF_THE_MLP = 10  # more epochs on the same signals overfit


@dataclass(frozen=True)
class BuildOptions:
    """Options of a model: protocol, seed, norm, tissue ranges and resources.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol in grid order.
    seed : int
        Seed of the model.
    norm : str or None
        Norm that signals are divided by.
    bounds : dict of str to PropertyRange or None
        Ranges of the tissue of the data set, for the model-based methods.
    n_jobs : int
        Number of threads.
    device : str
        Device of the networks.
    checkpoint : Path or None
        File for the state of an unfinished training.
    inversion_efficiency : float
        Inversion efficiency of the data, for model-based methods.
    """

    protocol: AcquisitionProtocol
    seed: int
    norm: str | None = "l2"
    bounds: dict[str, PropertyRange] | None = None
    n_jobs: int = 1
    device: str = "auto"
    checkpoint: Path | None = None
    inversion_efficiency: float = 1.0

    @classmethod
    def from_definition(cls, definition: DatasetDefinition, seed: int) -> BuildOptions:
        """Create options with the protocol, the norm and the ranges of a data set."""
        protocol = resolve_protocol(definition.protocol)
        ranges = resolve_prior(definition.prior).ranges
        return cls(
            protocol, seed, norm=definition.norm,
            inversion_efficiency=definition.inversion_efficiency,
            bounds={name: _span(ranges[name]) for name in protocol.tissue_properties},
        )  # fmt: skip


@dataclass(frozen=True)
class ComparedModel:
    """Model of the comparison.

    Parameters
    ----------
    name : str
        Name of the model.
    description : str
        Short description, for tables.
    kind : {"network", "learner", "model-based"}
        Kind of the model. A model-based method does not depend on training signals and runs once
        per seed, not once per training size.
    make : callable
        Function ``make(options)`` that returns the unfitted classifier.
    max_train : int or None
        Largest training size that takes minutes on two cores; None without a limit.
    max_test : int or None
        Largest number of test signals that takes minutes; None without a limit.
    probabilistic : bool
        Whether the probabilities differ from 0 and 1.
    obstacle : callable
        Function ``obstacle(protocol)`` that returns the reason why the model must be skipped, or
        None.
    """

    name: str
    description: str
    kind: str
    make: Callable[[BuildOptions], Any]
    max_train: int | None = None
    max_test: int | None = None
    probabilistic: bool = True
    obstacle: Callable[[AcquisitionProtocol], str | None] = lambda protocol: None

    @property
    def learns(self) -> bool:
        """Whether predictions depend on training signals."""
        return self.kind != "model-based"


def _span(values: PropertyRange) -> PropertyRange:
    """Bounds of a range, which must differ, with its stated unit."""
    low, high = values.low, values.high
    if low == high:
        low, high = low / 2, 2 * high
    return PropertyRange(low, high, units=values.units)


def resolve_models(names: Iterable[str] | None) -> list[ComparedModel]:
    """Return the models of the given names, in the order of `MODELS`.

    Parameters
    ----------
    names : iterable of str or None
        Names; None for all models.

    Returns
    -------
    list of ComparedModel
        The models.

    Raises
    ------
    ValueError
        If there is no name, or a name is unknown; the message lists the available names.
    """
    wanted = set(MODELS) if names is None else set(names)
    for name in sorted(wanted):
        lookup(MODELS, name, "model")
    if not wanted:
        raise ValueError(f"models must not be empty; known models: {', '.join(MODELS)}")
    return [model for name, model in MODELS.items() if name in wanted]


def _cnn(options: BuildOptions) -> Any:
    return make_pipeline(
        SignalNormalizer(options.norm),
        CorrelationCNNClassifier(
            grid_shape=options.protocol.grid_shape or "auto", device=options.device,
            checkpoint=options.checkpoint, random_state=options.seed, verbose=False,
        ),
    )  # fmt: skip


def _residual_mlp(options: BuildOptions) -> Any:
    return make_pipeline(
        SignalNormalizer(options.norm),
        ResidualMLPClassifier.from_recipe(
            max_epochs=_EPOCHS_OF_THE_MLP, device=options.device,
            checkpoint=options.checkpoint, random_state=options.seed, verbose=False,
        ),
    )  # fmt: skip


def _needs_a_grid(protocol: AcquisitionProtocol) -> str | None:
    if protocol.grid_shape is not None:
        return None
    return (
        f"the {protocol.n_measurements} measurements of the protocol are no full grid, which the "
        "convolutions of the CNN require; the model 'residual-mlp' takes any protocol"
    )


def _learner(baseline: Baseline) -> ComparedModel:
    def obstacle(protocol: AcquisitionProtocol) -> str | None:
        if baseline.installed:
            return None
        return f"the package {baseline.package} is not installed: {install_command('boosting')}"

    return ComparedModel(
        baseline.name, baseline.description, "learner",
        lambda options: make_baseline(
            baseline.name, random_state=options.seed, n_jobs=options.n_jobs, norm=options.norm
        ),
        max_train=baseline.max_train, obstacle=obstacle,
    )  # fmt: skip


def _multi_exponential(options: BuildOptions) -> Any:
    return make_pipeline(
        SignalNormalizer(),
        MultiExponentialClassifier(
            protocol=options.protocol,
            bounds=options.bounds,
            inversion_efficiency=options.inversion_efficiency,
            random_state=options.seed,
            n_jobs=options.n_jobs,
            verbose=False,
        ),
    )


def _nnls(options: BuildOptions) -> Any:
    return make_pipeline(
        SignalNormalizer(),
        NNLSPeakClassifier(
            protocol=options.protocol,
            bounds=options.bounds,
            inversion_efficiency=options.inversion_efficiency,
            n_jobs=options.n_jobs,
            verbose=False,
        ),
    )


MODELS: dict[str, ComparedModel] = {
    model.name: model
    for model in (
        ComparedModel(REFERENCE, "the paper's CNN", "network", _cnn, obstacle=_needs_a_grid),
        ComparedModel("residual-mlp", "residual MLP with Muon", "network", _residual_mlp),
        *(_learner(baseline) for baseline in BASELINES.values()),
        ComparedModel(
            "multi-exponential", "fits of 1 to K compartments, AICc", "model-based",
            _multi_exponential, max_test=_MODEL_BASED_TEST_SIGNALS,
        ),
        ComparedModel(
            "nnls", "peaks of the regularised NNLS spectrum", "model-based", _nnls,
            max_test=_MODEL_BASED_TEST_SIGNALS, probabilistic=False,
        ),
    )
}  # fmt: skip
