"""Who is compared: every model by its name, and what it can bear."""

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
from corrsk.simulation.datasets import DatasetDefinition

REFERENCE = "cnn"  # whom McNemar's test pairs the others with
BOOSTING_PACKAGES = ("lightgbm", "xgboost", "xgboost-cpu")
_MODEL_BASED_TEST_SIGNALS = 10_000
_EPOCHS_OF_THE_MLP = 10  # of signals that come again: more of them it learns by heart


@dataclass(frozen=True)
class BuildOptions:
    """What a model is built for.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        In grid order.
    seed : int
    norm : str or None
        What signals are divided by.
    n_jobs : int
        Number of threads.
    device : str
    checkpoint : Path or None
        Where a long training may keep its state.
    """

    protocol: AcquisitionProtocol
    seed: int
    norm: str | None = "l2"
    n_jobs: int = 1
    device: str = "auto"
    checkpoint: Path | None = None

    @classmethod
    def from_definition(cls, definition: DatasetDefinition, seed: int) -> BuildOptions:
        """The options of a data set: on its protocol, normalised as it is."""
        protocol = resolve_protocol(definition.protocol).in_grid_order()
        return cls(protocol, seed, norm=definition.norm)


@dataclass(frozen=True)
class ComparedModel:
    """A classifier of the comparison.

    Parameters
    ----------
    name, description : str
    kind : {"network", "learner", "model-based"}
        A model-based method learns nothing: it is judged once per seed, not
        once per training size.
    probabilistic : bool
        Whether its probabilities are more than certainties, 0 or 1.
    make : callable
        ``make(options)`` gives the classifier, unfitted.
    max_train : int or None
        The training size up to which it ends within minutes on two cores.
    max_test : int or None
        How many test signals it can judge within minutes.
    obstacle : callable
        ``obstacle(protocol)`` says why it cannot take part; None if it can.
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
        """Whether its answers depend on training signals."""
        return self.kind != "model-based"


def resolve_models(names: Iterable[str] | None) -> list[ComparedModel]:
    """The models of those names, in the order of `MODELS`; None for all.

    Raises
    ------
    ValueError
        If a name is unknown; the message lists the known ones.
    """
    wanted = set(MODELS) if names is None else set(names)
    for name in sorted(wanted):
        lookup(MODELS, name, "model")
    if not wanted:
        raise ValueError(f"there is no model to compare; known models: {', '.join(MODELS)}")
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
        f"the protocol's {protocol.n_measurements} measurements are no full grid, which the "
        "CNN's convolutions need; the model 'mlp' takes any protocol"
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
            random_state=options.seed,
            n_jobs=options.n_jobs,
            verbose=False,
        ),
    )


def _nnls(options: BuildOptions) -> Any:
    return make_pipeline(
        SignalNormalizer(),
        NNLSPeakClassifier(protocol=options.protocol, n_jobs=options.n_jobs, verbose=False),
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
