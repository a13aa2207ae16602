"""What is compared, on what."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Any

from corrsk._utils.deprecation import renamed_parameters
from corrsk._utils.rng import STREAMS_VERSION
from corrsk._utils.validation import checked_count
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.physics.noise_levels import SNRRange
from corrsk.simulation.datasets import DatasetDefinition, dataset_definition
from corrsk.tissue.prior import resolve_prior
from corrsk.workflows.comparison.models import resolve_models
from corrsk.workflows.comparison.runs import Run

_TRAIN_SHARE = 0.7
_SMALLEST_TRAINING = 50  # enough for every class to be there


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared, on what.

    Parameters
    ----------
    dataset : str
        Name of a data set.
    models : tuple of str or None
        Names of `MODELS`; None for all.
    train_sizes : tuple of int
        Numbers of training signals.
    n_seeds : int
        Number of repetitions, each with data and models of its own seed 0, 1, ..
    n_samples : int
        Number of signals to simulate for each seed, of which 70 % train and
        10 % test.
    n_test_samples : int or None
        Number of test signals to judge on, at most; None for all.
    protocol : AcquisitionProtocol or None
        In place of the data set's.
    limits : bool
        Whether to skip models beyond the training size that they can bear.
    """

    dataset: str = "midl2024"
    models: tuple[str, ...] | None = None
    train_sizes: tuple[int, ...] = (1000, 10_000, 100_000)
    n_seeds: int = 1
    n_samples: int = 1_000_000
    n_test_samples: int | None = None
    protocol: AcquisitionProtocol | None = None
    limits: bool = True

    def check(self) -> None:
        """Refuse what cannot be run, before any long work.

        Raises
        ------
        TypeError, ValueError
        """
        dataset_definition(self.dataset)
        resolve_models(self.models)
        checked_count("n_samples", self.n_samples, at_least=1000)
        checked_count("n_seeds", self.n_seeds, at_least=1)
        if self.n_test_samples is not None:
            checked_count("n_test_samples", self.n_test_samples, at_least=10)
        if not self.train_sizes:
            raise ValueError("there is no training size; give at least one, such as 10000")
        available = int(_TRAIN_SHARE * self.n_samples)
        for size in self.train_sizes:
            checked_count("each of train_sizes", size, at_least=_SMALLEST_TRAINING)
            if size > available:
                raise ValueError(
                    f"a training size of {size:,} is larger than the data: of {self.n_samples:,} "
                    f"signals {available:,} are for training; take smaller sizes or "
                    f"--samples {-int(-size / _TRAIN_SHARE // 1000) * 1000}"
                )

    @property
    def definition(self) -> DatasetDefinition:
        """The data set, on the protocol of one's own if there is one."""
        definition = dataset_definition(self.dataset)
        if self.protocol is None:
            return definition
        return dataclasses.replace(
            definition, name=f"{definition.name} on another protocol", protocol=self.protocol
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must share: more models, sizes and seeds may be added."""
        definition = self.definition
        protocol = resolve_protocol(definition.protocol).in_grid_order()
        return {
            "kind": "comparison",
            "dataset": self.dataset,
            "prior": repr(resolve_prior(definition.prior)),
            "noise": [definition.noise_reference, *_described(definition.noise_levels)],
            "random_streams": STREAMS_VERSION,
            "samples": self.n_samples,
            "test_samples": self.n_test_samples,
            "protocol": {name: list(values) for name, values in protocol.contrasts.items()}
            | {"tr": protocol.tr},
        }

    def runs(self) -> list[Run]:
        """All runs, small training sizes first, so that a run that is stopped has shown most."""
        models = resolve_models(self.models)
        sizes = sorted(set(self.train_sizes))
        return [
            Run(model.name, size, seed)
            for size in sizes
            for seed in range(self.n_seeds)
            for model in models
            if model.learns
        ] + [
            Run(model.name, 0, seed)
            for seed in range(self.n_seeds)
            for model in models
            if not model.learns
        ]


# for one release; a dataclass writes its own __init__
ComparisonSettings.__init__ = renamed_parameters(  # type: ignore[method-assign]
    samples="n_samples", test_samples="n_test_samples"
)(ComparisonSettings.__init__)


def _described(levels: tuple[float, ...] | SNRRange) -> tuple[Any, ...]:
    return (repr(levels),) if isinstance(levels, SNRRange) else levels


def about(settings: ComparisonSettings) -> str:
    """The data and the judgement in a sentence, for reports."""
    protocol = "" if settings.protocol is None else f" on the protocol {settings.protocol!r}"
    test = settings.n_test_samples or round(0.1 * settings.n_samples)
    return (
        f"{settings.n_samples:,} simulated signals of {settings.dataset}{protocol} for each of "
        f"{settings.n_seeds} seeds, judged on up to {test:,} test signals."
    )


def command_line(settings: ComparisonSettings, device: str, n_jobs: int | None) -> str:
    """The command that runs a comparison of these settings."""
    options = {
        "dataset": settings.dataset,
        "models": settings.models and ",".join(settings.models),
        "train-sizes": ",".join(map(str, settings.train_sizes)),
        "seeds": settings.n_seeds,
        "samples": settings.n_samples,
        "test-samples": settings.n_test_samples,
        "protocol": None if settings.protocol is None else "PROTOCOL.json",
        "device": None if device == "auto" else device,
        "jobs": n_jobs,
    }
    given = [f"--{key} {shlex.quote(str(value))}" for key, value in options.items() if value]
    return f"corrsk compare {' '.join(given)}{'' if settings.limits else ' --no-limits'}"
