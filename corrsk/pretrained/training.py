"""Training of the models that are shipped with corrsk, and the metrics of their cards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from corrsk._utils.counts import is_multicompartment, multicompartment_probability
from corrsk._utils.deprecation import removed_parameters, renamed_parameters
from corrsk._utils.environment import environment
from corrsk._utils.files import write_atomically
from corrsk._utils.locks import exclusive
from corrsk._utils.parallel import effective_n_jobs
from corrsk.evaluation import (
    bootstrap_interval,
    compartments_right,
    expected_calibration_error,
)
from corrsk.neural.classifier import ResidualMLPClassifier
from corrsk.neural.training.device import limited_threads, resolve_device
from corrsk.neural.training.prediction import device_name
from corrsk.persistence import load, save
from corrsk.pretrained import ModelCard, write_pretrained
from corrsk.pretrained.models import COMPARTMENTS, ModelDefinition, resolve_model
from corrsk.simulation.datasets import resolve_dataset, simulate_dataset
from corrsk.simulation.definition import DatasetDefinition
from corrsk.tissue.prior import resolve_prior
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.posterior import CompartmentPosterior
from corrsk.trained.regressor import CompartmentRegressor

_logger = logging.getLogger(__name__)

_TEST_SEED = 2  # of load_dataset, which is independent of all streams
_N_VALIDATION, _N_TEST = 20_000, 100_000
_N_POSTERIORS, _AT_A_TIME = 10_000, 1000  # of compartments: some milliseconds and 100 kB each
_N_RESAMPLES = 200
_COVERAGE = 0.9

_LIMITS_OF_ALL = (
    "Trained and tested on simulated signals only; the accuracy on measured signals is unknown.",
    "For the protocol above only. Column names or a protocol= of another protocol are refused; an "
    "array without protocol= is taken for this protocol, in its order.",
    "Predictions are confident even for tissue outside the ranges above, noise outside the levels "
    "above, and artefacts; predict_novelty detects most of these signals.",
    "Not a medical device.",
)
_LIMITS = (
    *_LIMITS_OF_ALL[:2],
    "The probabilities assume that all counts are equally frequent; pass class_prior= to "
    "predict_proba for other frequencies.",
    *_LIMITS_OF_ALL[2:],
)
_LIMITS_OF_COMPARTMENTS = (
    *_LIMITS_OF_ALL[:2],
    "The prior above is part of every answer: counts that are equally frequent, and tissue of its "
    "ranges.",
    "For signed signals; magnitudes need SignalPhaser first.",
    "The 90 % intervals are too narrow where their coverage above is below 90 %.",
    *_LIMITS_OF_ALL[2:],
)
_LIMIT_OF_M0 = (
    "For signals with M0 = 1 only: at M0 = 0.95 the accuracy is half of that at M0 = 1. Signals "
    "that cannot have M0 = 1 are refused; a model with a norm accepts signals of any scale."
)


@renamed_parameters(n_signals="n_samples", name="model")
@removed_parameters(say="the steps are logged to the logger 'corrsk' at level INFO")
def pretrain(
    model: DatasetDefinition | str,
    out: str | Path,
    *,
    n_samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    half_precision: bool = True,
    force: bool = False,
) -> ModelCard:
    """Train a model on a stream of fresh signals, and write the model and its card.

    An interrupted training is resumed by the same call.

    Parameters
    ----------
    model : DatasetDefinition or str
        Name of a shipped model, such as "midl2024" or "t1t2-detr-m0"; or the definition of
        other training data, whose name is that of the new model.
    out : path-like
        Folder for `<name>.safetensors`, `<name>.json` (the card), `<name>.md` (the
        card as Markdown), for a definition `<name>.config.json`, and, during the training,
        `<name>.checkpoint`.
    n_samples : int, optional
        Number of signals to train on; None (default) for that of the shipped model, or for
        40 million with a definition.
    seed : int, default=0
        Seed of the stream and the network.
    device : str, default="auto"
        See :class:`corrsk.ResidualMLPClassifier`.
    n_jobs : int, optional
        Number of threads; None (default) for every core.
    half_precision : bool, default=True
        Whether to store weight matrices in half precision; the metrics of the card are
        those of the stored weights.
    force : bool, default=False
        Whether to replace an existing model.

    Returns
    -------
    ModelCard
        Card of the model.

    Raises
    ------
    ValueError
        If the name is unknown or belongs to other data, the prior has a single compartment
        count, or the device is not available.
    FileExistsError
        If there is a model of this name, and `force` is False, or another process writes it.
    FileNotFoundError
        If the parent folder of `out` does not exist.
    """
    definition = resolve_model(model)
    definition.data.check_for_training()
    name = definition.name
    resolve_device(device)
    n_samples = definition.n_samples if n_samples is None else n_samples
    threads = effective_n_jobs(n_jobs)
    out = Path(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} does not exist")
    if definition.kind == COMPARTMENTS and device != "auto":
        raise ValueError(
            f"the training of {name} chooses its device itself; device must be 'auto', got "
            f"{device!r}"
        )
    out.mkdir(exist_ok=True)
    checkpoint = out / f"{name}.checkpoint"
    with exclusive(out / f"{name}.safetensors"), limited_threads(threads):
        if (out / f"{name}.json").exists() and not force:
            raise FileExistsError(
                f"{out} contains a model {name!r}; choose another folder, or replace the model "
                "(--force)"
            )
        _logger.info(f"training on {n_samples:,} signals of {name}")
        options: dict[str, Any] = {
            "n_samples": n_samples, "n_validation": _N_VALIDATION, "checkpoint": checkpoint,
            "random_state": seed, "n_jobs": threads,
        }  # fmt: skip
        trained: SimulationTrainedClassifier | CompartmentRegressor
        if definition.kind == COMPARTMENTS:
            trained = CompartmentRegressor.from_definition(definition.data, **options).fit()
            # predictions of the shipped model use the threads of its user
            trained.set_params(n_jobs=None)
            trained.network_.set_params(n_jobs=None)
        else:
            network = ResidualMLPClassifier.from_recipe("residual-mlp", device=device)
            trained = SimulationTrainedClassifier.from_definition(
                definition.data, network=network, **options
            ).fit()
        card = write_trained(
            definition, trained, out, threads=threads, half_precision=half_precision
        )
        checkpoint.unlink(missing_ok=True)
    return card


def write_trained(
    definition: ModelDefinition,
    model: SimulationTrainedClassifier | CompartmentRegressor,
    out: Path,
    *,
    threads: int,
    half_precision: bool,
) -> ModelCard:
    """Measure a trained model, and write the model and its card.

    Parameters
    ----------
    definition : ModelDefinition
        Definition of the model.
    model : SimulationTrainedClassifier or CompartmentRegressor
        The fitted model.
    out : Path
        An existing folder.
    threads : int
        Number of threads of the training.
    half_precision : bool
        Whether to store weight matrices in half precision.

    Returns
    -------
    ModelCard
        Card of the model.
    """
    _logger.info(f"evaluating on {_n_test(model):,} fresh signals")
    # the metrics are those of the stored weights, which may be rounded
    stored = out / f".{definition.name}-measured.partial.safetensors"
    try:
        save(model, stored, half_precision=half_precision)
        metrics = measure(load(stored), definition.dataset, n_jobs=threads)
    finally:
        stored.unlink(missing_ok=True)
    config = None
    if isinstance(definition.dataset, DatasetDefinition):
        config = f"{definition.name}.config.json"
        definition.dataset.to_file(out / config)
    card = _card(definition, model, metrics, threads, config)
    path = write_pretrained(model, card, out, half_precision=half_precision)
    card = ModelCard.from_json(path.with_suffix(".json"))
    with write_atomically(path.with_suffix(".md")) as partial:
        partial.write_text(card.to_markdown(), encoding="utf-8")
    return card


def _n_test(model: Any) -> int:
    return min(_N_TEST, _N_POSTERIORS) if isinstance(model, CompartmentRegressor) else _N_TEST


def _card(
    definition: ModelDefinition,
    model: SimulationTrainedClassifier | CompartmentRegressor,
    metrics: dict[str, dict[str, float]],
    threads: int,
    config: str | None,
) -> ModelCard:
    n_samples, seed = model.n_samples, model.random_state
    classes = model.classes_
    counts = ", ".join(map(str, classes[:-1])) + f" or {classes[-1]}"
    network: Any
    limits: tuple[str, ...]
    if isinstance(model, CompartmentRegressor):
        network, limits = model.network_, _LIMITS_OF_COMPARTMENTS
        title = f"Predicts the {counts} compartments of a voxel, with their uncertainty"
    else:
        network, limits = model[-1], _LIMITS
        title = f"Predicts whether a voxel has {counts} compartments"
    options = f"--samples {n_samples}" + (f" --seed {seed}" if seed else "")
    data = "" if config is None else f"--config {config} "
    machine = environment(threads)
    return ModelCard.from_pipeline(
        model,
        name=definition.name,
        title=f"{title}, from its correlation signal.",
        training={
            "command": f"corrsk pretrain {definition.name} {data}{options} --out models",
            "signals": n_samples,
            "epochs": network.n_iter_,
            "batch_size": network.batch_size,
            "optimizer": network.optimizer,
            "learning_rate": network.learning_rate,
            "seed": seed,
        },
        compute={
            "device": device_name(network.net_),
            "threads": threads,
            "minutes": round(sum(row["seconds"] for row in network.history_) / 60, 1),
            "machine": machine.get("processor") or machine.get("machine", "unknown"),
        },
        test_data=f"{_n_test(model):,} fresh signals of {resolve_dataset(definition.dataset).name}",
        metrics=metrics,
        limits=limits if definition.norm is not None else (_LIMIT_OF_M0, *limits),
    )


def measure(
    model: Any, dataset: DatasetDefinition | str, *, n_jobs: int | None = None
) -> dict[str, dict[str, float]]:
    """Measure metrics on fresh signals of a data set, with 95 % intervals.

    Parameters
    ----------
    model : classifier or CompartmentRegressor
        Fitted classifier of compartment counts, or regressor of compartments.
    dataset : DatasetDefinition or str
        Definition or name of the data set.
    n_jobs : int, optional
        Number of threads of the simulation; None (default) for every core.

    Returns
    -------
    dict of str to dict
        Metrics accuracy, binary_accuracy (P(n_c >= 2) > 0.5), log_loss and
        expected_calibration_error, each with value, low and high. Of a regressor also
        strict_accuracy (see :func:`corrsk.evaluation.compartments_right`), the shares of true
        values inside of the 90 % intervals of each property and fraction, of voxels with the right
        count, and the share of voxels with enough draws.
    """
    data = simulate_dataset(resolve_dataset(dataset), _n_test(model), _TEST_SEED, n_jobs=n_jobs)
    of_compartments: dict[str, NDArray[np.bool_]] = {}
    if isinstance(model, CompartmentRegressor):
        probabilities, of_compartments = _judged(model, data.data, data.tissue)
    else:
        probabilities = model.predict_proba(data.data)
    classes = model.classes_
    right = classes[probabilities.argmax(axis=1)] == data.target
    multi = multicompartment_probability(probabilities, classes) > 0.5
    binary = multi == is_multicompartment(data.target)
    own = probabilities[np.arange(len(right)), np.searchsorted(classes, data.target)]
    losses = -np.log(own.clip(1e-15))
    error = 1.96 * losses.std() / np.sqrt(losses.size)
    return {
        **_shares({"accuracy": right, "binary_accuracy": binary}),
        "log_loss": {
            "value": losses.mean(), "low": losses.mean() - error, "high": losses.mean() + error
        },
        "expected_calibration_error": _calibration(data.target, probabilities, classes),
        **_shares(of_compartments),
    }  # fmt: skip


def _shares(correct: Mapping[str, NDArray[np.bool_]]) -> dict[str, dict[str, float]]:
    """Shares of right answers, with bootstrap intervals."""
    found = {}
    for key, each in correct.items():
        low, high = bootstrap_interval([each])
        found[key] = {"value": float(each.mean()), "low": low, "high": high}
    return found


def _judged(
    model: CompartmentRegressor, signals: NDArray[Any], tissue: pd.DataFrame
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
    """Probabilities of the counts, and whether compartments, intervals and draws are right."""
    limits = {name: (r.low, r.high) for name, r in resolve_prior(model.prior).ranges.items()}
    probabilities, parts = [], []
    for start in range(0, len(signals), _AT_A_TIME):
        rows = slice(start, start + _AT_A_TIME)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # their share is a metric
            posterior = model.posterior(signals[rows])
        probabilities.append(posterior.probabilities)
        truth = tissue.iloc[rows].reset_index(drop=True)
        right = compartments_right(posterior.table(), truth, limits)
        parts.append(
            {"strict_accuracy": right, "share_of_reliable_voxels": posterior.reliable}
            | _covered(posterior, truth)
        )
    return np.concatenate(probabilities), {
        key: np.concatenate([part[key] for part in parts]) for key in parts[0]
    }


def _covered(posterior: CompartmentPosterior, truth: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Whether intervals have the true values, by quantity, where the count is right."""
    lower, upper = posterior.interval(_COVERAGE)
    last = list(posterior.ranges)[-1]  # compartments are in ascending order of this property
    n_c = (truth.filter(regex=r"^f_\d+$") > 0).sum(axis=1).to_numpy()
    inside: dict[str, list[NDArray[np.bool_]]] = {}
    for count in posterior.counts:
        rows = np.flatnonzero((lower["n_c"] == count).to_numpy() & (n_c == count))
        numbers = range(1, count + 1)
        order = np.argsort(truth[[f"{last}_{k}" for k in numbers]].to_numpy()[rows], axis=1)
        for name in (*posterior.ranges, "f"):
            columns = [f"{name}_{k}" for k in numbers]
            true = np.take_along_axis(truth[columns].to_numpy()[rows], order, axis=1)
            low, high = (each[columns].to_numpy()[rows] for each in (lower, upper))
            found = (low <= true) & (true <= high)
            # the fraction of a single compartment is 1
            kept = found if count > 1 or name != "f" else found[:0]
            inside.setdefault(f"coverage_of_{name}_at_90_percent", []).append(kept.ravel())
    return {key: np.concatenate(each) for key, each in inside.items()}


def _calibration(
    y: NDArray[Any], probabilities: NDArray[np.float64], classes: NDArray[Any]
) -> dict[str, float]:
    value = expected_calibration_error(y, probabilities, classes)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_N_RESAMPLES):
        rows = rng.integers(0, len(y), len(y))
        drawn.append(expected_calibration_error(y[rows], probabilities[rows], classes))
    # resampling increases a mean of absolute values: the interval is extended to the value
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}
