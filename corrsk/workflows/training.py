"""Training of a model for measured images, from a configuration to one file."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corrsk._utils.configuration import read_configuration
from corrsk._utils.files import (
    MISFITS,
    InvalidFileError,
    read_json,
    refuse_misfits,
    write_json,
)
from corrsk._utils.locks import exclusive
from corrsk._utils.parallel import effective_n_jobs
from corrsk._utils.validation import check_entries, is_number
from corrsk.neural.classifier import classifier_from_recipe
from corrsk.neural.recipes import RECIPES
from corrsk.neural.training.device import limited_threads, resolve_device
from corrsk.persistence import save
from corrsk.simulation.definition import DatasetDefinition
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.workflows._runs import data_identity

__all__ = ["TrainingConfiguration", "train"]

_logger = logging.getLogger(__name__)

_ENTRIES = ("samples", "minutes", "seed", "network", "novelty", "validation")
_FEWEST = 10_000
_PROBE_SIGNALS, _PROBE_EPOCHS = 60_000, 3  # of an epoch
_DIGITS = 2  # of the number of signals that minutes become


@dataclasses.dataclass(frozen=True)
class TrainingConfiguration:
    """Data, size and network of a training.

    Parameters
    ----------
    data : DatasetDefinition
        Prior with its nuisance parameters, protocol, noise and norm.
    samples : int or None, default=None
        Number of simulated signals, each used once; None for `minutes`, or for 10 million.
    minutes : float or None, default=None
        Duration of the training, from which the number of signals follows by a measurement of
        the speed.
    seed : int, default=0
        Seed of the signals and the network.
    network : str, default="residual-mlp"
        Name of a recipe.
    novelty : bool, default=True
        Whether to fit a detector of unusual signals.
    validation : int, default=20000
        Number of further signals, on which the best epoch is chosen.

    Raises
    ------
    ValueError
        If a value is invalid, or both `samples` and `minutes` are given.
    """

    data: DatasetDefinition
    samples: int | None = None
    minutes: float | None = None
    seed: int = 0
    network: str = "residual-mlp"
    novelty: bool = True
    validation: int = 20_000

    def __post_init__(self) -> None:
        if self.samples is not None and self.minutes is not None:
            raise ValueError("samples and minutes both set the size of the training; pass one")
        if self.samples is not None and not _is_count(self.samples, _FEWEST):
            raise ValueError(f"samples must be an integer from {_FEWEST:,}, got {self.samples!r}")
        if self.minutes is not None and (not is_number(self.minutes) or self.minutes <= 0):
            raise ValueError(f"minutes must be a positive number, got {self.minutes!r}")
        if not _is_count(self.seed, 0):
            raise ValueError(f"seed must be an integer from 0, got {self.seed!r}")
        if not _is_count(self.validation, 10):
            raise ValueError(f"validation must be an integer from 10, got {self.validation!r}")
        if not isinstance(self.novelty, bool):
            raise ValueError(f"novelty must be true or false, got {self.novelty!r}")
        if self.network not in RECIPES:
            raise ValueError(f"network must be one of {', '.join(RECIPES)}; got {self.network!r}")
        self.data.check_for_training()

    @classmethod
    def from_file(cls, path: str | Path, **changes: Any) -> TrainingConfiguration:
        """Read a configuration from a JSON, YAML or TOML file.

        Parameters
        ----------
        path : path-like
            File with the entries of :meth:`corrsk.simulation.DatasetDefinition.from_file`, and
            optionally `training` with samples or minutes, seed, network, novelty, validation.
        **changes : object
            Values in place of those of `training`; None for no change.

        Returns
        -------
        TrainingConfiguration
            The configuration.

        Raises
        ------
        FileNotFoundError
            If the file, or that of the protocol, does not exist.
        InvalidFileError
            If the file is not readable, or an entry is unknown, missing or invalid.
        """
        path = Path(path)
        content = read_configuration(path)
        try:
            training = content.pop("training", {})
            check_entries("training", training, allowed=_ENTRIES, required=())
            data = DatasetDefinition._from_content({"name": path.stem} | content, path.parent)
            return cls(data, **_replaced(training, changes))
        except MISFITS as error:
            raise InvalidFileError(f"{path}: {error}") from error

    def identity(self) -> dict[str, Any]:
        """Return what a training shares with those that it can resume; plain values."""
        return {
            "data": data_identity(self.data), "samples": self.samples, "minutes": self.minutes,
            "seed": self.seed, "network": self.network, "novelty": self.novelty,
            "validation": self.validation,
        }  # fmt: skip


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _replaced(training: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in changes.items() if value is not None}
    kept = dict(training)
    if given.keys() & {"samples", "minutes"}:  # the size of the command replaces that of the file
        kept = {key: value for key, value in kept.items() if key not in ("samples", "minutes")}
    return kept | given


def train(
    configuration: TrainingConfiguration,
    out: str | Path,
    *,
    device: str = "auto",
    n_jobs: int | None = None,
    resume: bool = False,
    force: bool = False,
    verbose: bool = True,
) -> SimulationTrainedClassifier:
    """Train a model on simulated signals, and save it to one file.

    Parameters
    ----------
    configuration : TrainingConfiguration
        Data, size and network.
    out : path-like
        File of the model, ".safetensors". During the training there are a checkpoint and a record
        beside it, ".checkpoint" and ".checkpoint.json".
    device : str, default="auto"
        Device of the network: "auto", "cpu", "cuda" or "cuda:N".
    n_jobs : int or None, default=None
        Number of threads; None for every core.
    resume : bool, default=False
        Whether to resume an interrupted training of the same configuration.
    force : bool, default=False
        Whether to replace an existing model.
    verbose : bool, default=True
        Whether to show progress.

    Returns
    -------
    SimulationTrainedClassifier
        The fitted model; its parameters are the configuration, with the number of signals.

    Raises
    ------
    FileExistsError
        If another process writes the model; if it exists and `force` is False; or if there is an
        interrupted training, and `resume` is False or it has another configuration.
    FileNotFoundError
        If the folder of the model does not exist.
    ValueError
        If the device is not available, the suffix is another one, or the training diverges.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"the file of a model must end in .safetensors, got {out}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.parent} for the model")
    resolve_device(device)
    with exclusive(out):
        if out.exists() and not force:
            raise FileExistsError(f"{out} exists; choose another name, or replace it (--force)")
        checkpoint = out.with_suffix(".checkpoint")
        record = out.with_suffix(".checkpoint.json")
        threads = effective_n_jobs(n_jobs)
        with limited_threads(threads):
            n_samples = _resumed_samples(configuration, record, resume)
            if n_samples is None:
                n_samples = _chosen_samples(configuration, device, threads)
                # from here on the number is fixed, however fast a resumed training is
                write_json(
                    record, {"configuration": configuration.identity(), "samples": n_samples}
                )
            model = _unfitted(configuration, device, threads, n_samples, verbose)
            model.set_params(checkpoint=checkpoint)
            _logger.info("training on %s signals", f"{n_samples:,}")
            model.fit()
        model.set_params(checkpoint=None)
        save(model, out)
        checkpoint.unlink(missing_ok=True)
        record.unlink(missing_ok=True)
        return model


def _resumed_samples(
    configuration: TrainingConfiguration, record: Path, resume: bool
) -> int | None:
    if not record.exists():
        return None
    before = read_json(record)
    with refuse_misfits(record, "the record of a training", "; remove the file"):
        identity, samples = before["configuration"], int(before["samples"])
    if identity != configuration.identity():
        raise FileExistsError(
            f"{record} has an interrupted training of another configuration; choose another name, "
            "or remove it"
        )
    if not resume:
        raise FileExistsError(
            f"{record} has an interrupted training of this configuration; resume it (--resume), or "
            "remove it"
        )
    return samples


def _unfitted(
    configuration: TrainingConfiguration, device: str, threads: int, n_samples: int, verbose: bool
) -> SimulationTrainedClassifier:
    network = classifier_from_recipe(configuration.network).set_params(device=device)
    return SimulationTrainedClassifier.from_definition(
        configuration.data, n_samples=n_samples, n_validation=configuration.validation,
        network=network, novelty=configuration.novelty, random_state=configuration.seed,
        n_jobs=threads, verbose=verbose,
    )  # fmt: skip


def _chosen_samples(configuration: TrainingConfiguration, device: str, threads: int) -> int:
    """Number of signals of a training, by a measurement of the speed if minutes are given."""
    if configuration.samples is not None:
        return configuration.samples
    if configuration.minutes is None:
        return 10_000_000
    rate = _signals_per_second(configuration, device, threads)
    wanted = rate * configuration.minutes * 60
    found = max(_FEWEST, int(float(f"{wanted:.{_DIGITS - 1}e}")))
    _logger.info(
        "%s signals per second: %g minutes are %s signals",
        f"{rate:,.0f}", configuration.minutes, f"{found:,}",
    )  # fmt: skip
    return found


def _signals_per_second(configuration: TrainingConfiguration, device: str, threads: int) -> float:
    """Measure the speed of a training in some seconds, without its first epoch."""
    probe = dataclasses.replace(configuration, novelty=False)
    model = _unfitted(probe, device, threads, _PROBE_EPOCHS * _PROBE_SIGNALS, False)
    assert not isinstance(model.network, str)
    model.network.set_params(max_epochs=_PROBE_EPOCHS)
    history = model.fit()[-1].history_
    seconds = sum(row["seconds"] for row in history[1:])
    return (len(history) - 1) * _PROBE_SIGNALS / max(seconds, 1e-6)
