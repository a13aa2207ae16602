"""Settings of a comparison: models, training sizes, seeds and data."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Any

from corrsk._utils.deprecation import renamed_parameters
from corrsk._utils.rng import STREAMS_VERSION
from corrsk._utils.validation import checked_count
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.physics.noise_levels import SNRRange, checked_noise_levels
from corrsk.simulation.datasets import resolve_dataset
from corrsk.simulation.definition import DatasetDefinition
from corrsk.tissue.prior import resolve_prior
from corrsk.workflows._runs import CONFIG, data_identity
from corrsk.workflows.comparison.models import resolve_models
from corrsk.workflows.comparison.runs import Run

_TRAIN_SHARE = 0.7
_SMALLEST_TRAINING = 50  # signals, enough for every class to occur


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of a comparison: models, training sizes, seeds and data.

    Parameters
    ----------
    dataset : DatasetDefinition or str
        Definition of the data, or the name of a data set.
    models : tuple of str or None
        Names of `MODELS`; None for all.
    train_sizes : tuple of int
        Numbers of training signals.
    n_seeds : int
        Number of repetitions, with seeds 0, 1, .. for data and models.
    n_samples : int
        Number of signals to simulate for each seed; 70 % are for training and
        10 % for testing.
    n_test_samples : int or None
        Largest number of test signals; None for all.
    protocol : AcquisitionProtocol or None
        Protocol in place of that of the data set.
    limits : bool
        Whether to skip models beyond the training size that takes minutes.
    """

    dataset: DatasetDefinition | str = "midl2024"
    models: tuple[str, ...] | None = None
    train_sizes: tuple[int, ...] = (1000, 10_000, 100_000)
    n_seeds: int = 1
    n_samples: int = 1_000_000
    n_test_samples: int | None = None
    protocol: AcquisitionProtocol | None = None
    limits: bool = True

    def check(self) -> None:
        """Validate the settings before any long computation.

        Raises
        ------
        TypeError
            If a number is not an integer.
        ValueError
            If a name is unknown or belongs to other data, the prior has a single compartment count
            or no range for a property that the protocol measures, a number is too small, or a
            training size exceeds the data.
        """
        self.definition.check_for_training()
        resolve_models(self.models)
        checked_count("n_samples", self.n_samples, at_least=1000)
        checked_count("n_seeds", self.n_seeds, at_least=1)
        if self.n_test_samples is not None:
            checked_count("n_test_samples", self.n_test_samples, at_least=10)
        if not self.train_sizes:
            raise ValueError("train_sizes must not be empty; pass sizes such as 10000")
        available = int(_TRAIN_SHARE * self.n_samples)
        for size in self.train_sizes:
            checked_count("each of train_sizes", size, at_least=_SMALLEST_TRAINING)
            if size > available:
                raise ValueError(
                    f"a training size of {size:,} is larger than the data: of {self.n_samples:,} "
                    f"signals, {available:,} are for training; choose smaller sizes or "
                    f"--samples {-int(-size / _TRAIN_SHARE // 1000) * 1000}"
                )

    @property
    def definition(self) -> DatasetDefinition:
        """Definition of the data set, with the protocol of the settings if there is one.

        The protocol is in grid order, which the CNN needs.
        """
        definition = resolve_dataset(self.dataset)
        if self.protocol is not None:
            definition = dataclasses.replace(
                definition, name=f"{definition.name} on another protocol", protocol=self.protocol
            )
        if isinstance(definition.protocol, str):
            return definition
        return dataclasses.replace(definition, protocol=definition.protocol.in_grid_order())

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that a resumed comparison must share; models, sizes and seeds may be added."""
        definition = self.definition
        protocol = resolve_protocol(definition.protocol).to_dict()
        data = {
            "kind": "comparison",
            "dataset": self.dataset if isinstance(self.dataset, str) else definition.name,
            "random_streams": STREAMS_VERSION,
            "samples": self.n_samples,
            "test_samples": self.n_test_samples,
        }
        if not isinstance(self.dataset, str):
            return data | {"config": data_identity(definition)}
        return data | {
            "prior": repr(resolve_prior(definition.prior)),
            "noise": [definition.noise_reference, *_described(definition.noise_levels)],
            "protocol": protocol["contrasts"]
            | {key: protocol[key] for key in ("tr", "readout", "series") if key in protocol},
        }

    def runs(self) -> list[Run]:
        """List all runs, small training sizes first, so that an early stop leaves most results.

        Returns
        -------
        list of Run
            The runs, those of model-based methods last.
        """
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


# for one release; applied here, because a dataclass generates its __init__
ComparisonSettings.__init__ = renamed_parameters(  # type: ignore[method-assign]
    samples="n_samples", test_samples="n_test_samples"
)(ComparisonSettings.__init__)


def _described(levels: float | tuple[float, ...] | SNRRange) -> list[Any]:
    checked = checked_noise_levels(levels)
    return [repr(checked)] if isinstance(checked, SNRRange) else checked.tolist()


def about(settings: ComparisonSettings) -> str:
    """Describe the data in one sentence, for reports."""
    name = resolve_dataset(settings.dataset).name
    protocol = "" if settings.protocol is None else f" on the protocol {settings.protocol}"
    test = settings.n_test_samples or round(0.1 * settings.n_samples)
    return (
        f"{settings.n_samples:,} simulated signals of {name}{protocol} for each of "
        f"{settings.n_seeds} seeds, tested on up to {test:,} test signals."
    )


def command_line(settings: ComparisonSettings, device: str, n_jobs: int | None) -> str:
    """Return the command line of a comparison with these settings."""
    named = isinstance(settings.dataset, str)
    options = {
        "dataset": settings.dataset if named else None,
        "config": None if named else CONFIG,
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
