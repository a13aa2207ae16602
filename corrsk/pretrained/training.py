"""Train the models that come with corrsk, and measure what their cards say."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from corrsk._utils.counts import is_multicompartment, multicompartment_probability
from corrsk._utils.deprecation import removed_parameters, renamed_parameters
from corrsk._utils.environment import environment
from corrsk._utils.files import write_atomically
from corrsk._utils.parallel import effective_n_jobs
from corrsk.evaluation import bootstrap_interval, expected_calibration_error
from corrsk.neural.classifier import ResidualMLPClassifier
from corrsk.neural.training.device import limited_threads, resolve_device
from corrsk.neural.training.prediction import device_name
from corrsk.persistence import load, save
from corrsk.pretrained import ModelCard, pretrained_pipeline, write_pretrained
from corrsk.simulation.datasets import DatasetDefinition, dataset_definition, load_dataset
from corrsk.simulation.streams import SignalStream

_logger = logging.getLogger(__name__)

# those of the shipped models
N_SAMPLES = {"midl2024": 100_000_000, "midl2024-low-noise": 40_000_000, "t1t2-detr": 40_000_000}
_VALIDATION_SEED, _TEST_SEED = 1, 2  # of load_dataset, whose data no stream draws
_N_VALIDATION, _N_TEST = 20_000, 100_000
_N_RESAMPLES = 200

_LIMITS = (
    "Trained and tested on simulated signals alone; nothing is known of its accuracy on measured "
    "ones.",
    "For the protocol above: signals of another one are refused.",
    "Its probabilities presume that all counts are equally frequent; predict_proba takes "
    "class_prior= where they are not.",
    "Tissue beyond the ranges above, noise outside of the levels above and artefacts get "
    "confident answers all the same; SignalNoveltyDetector warns of most of them.",
    "Not a medical device.",
)


@renamed_parameters(n_signals="n_samples")
@removed_parameters(say="the steps are logged to the logger 'corrsk' at level INFO")
def pretrain(
    name: str,
    out: str | Path,
    *,
    n_samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    half_precision: bool = True,
    force: bool = False,
) -> ModelCard:
    """Train a model on the endless stream of a named data set, and write it with its card.

    A training that was cut off goes on where it was, if the call is the same.

    Parameters
    ----------
    name : str
        Of :func:`corrsk.load_dataset`.
    out : path-like
        Folder for `<name>.safetensors`, `<name>.json` (the card), `<name>.md` (the
        card for people) and, while it trains, `<name>.checkpoint`.
    n_samples : int, optional
        How many signals to train on; None (default) for as many as the model had that
        comes with corrsk.
    seed : int, default=0
        Of the stream and the network.
    device : str, default="auto"
        See :class:`corrsk.ResidualMLPClassifier`.
    n_jobs : int, optional
        Threads; None (default) for every core.
    half_precision : bool, default=True
        Whether to store weight matrices in half precision; the card's metrics are
        those of the stored weights.
    force : bool, default=False
        Whether to replace a model that is there.

    Returns
    -------
    ModelCard

    Raises
    ------
    ValueError
        If the name or the device is unknown.
    FileExistsError
        If there is a model of this name, and `force` is False.
    FileNotFoundError
        If there is no folder above `out`.
    """
    definition = dataset_definition(name)
    resolve_device(device)
    n_samples = N_SAMPLES[name] if n_samples is None else n_samples
    threads = effective_n_jobs(n_jobs)
    out = Path(out)
    if (out / f"{name}.json").exists() and not force:
        raise FileExistsError(f"{out} holds a model {name}; name another folder, or pass --force")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.parent}")
    out.mkdir(exist_ok=True)
    checkpoint = out / f"{name}.checkpoint"
    with limited_threads(threads):
        _logger.info(f"training on {n_samples:,} signals of {name}")
        classifier = train(
            name, n_samples, seed=seed, device=device, checkpoint=checkpoint, n_jobs=threads
        )
        pipeline = pretrained_pipeline(definition, classifier.set_params(checkpoint=None))
        _logger.info(f"judging on {_N_TEST:,} fresh signals")
        with TemporaryDirectory() as folder:
            # the figures are those of the weights as they will be read, rounded or not
            stored = Path(folder) / "stored.safetensors"
            save(pipeline, stored, half_precision=half_precision)
            metrics = measure(load(stored), name, n_jobs=threads)
        card = _card(definition, pipeline, metrics, n_samples, seed, threads)
        path = write_pretrained(pipeline, card, out, half_precision=half_precision)
    card = ModelCard.from_json(path.with_suffix(".json"))
    with write_atomically(path.with_suffix(".md")) as partial:
        partial.write_text(card.to_markdown(), encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    return card


def train(
    name: str,
    n_samples: int,
    *,
    seed: int = 0,
    device: str = "auto",
    checkpoint: Path | None = None,
    n_jobs: int | None = None,
    **changes: Any,
) -> ResidualMLPClassifier:
    """The classifier of :func:`pretrain`, fitted; `changes` are of its recipe."""
    validation = load_dataset(name, _N_VALIDATION, random_state=_VALIDATION_SEED, n_jobs=n_jobs)
    classifier = ResidualMLPClassifier.from_recipe(
        random_state=seed, device=device, checkpoint=checkpoint, **changes
    )
    return classifier.fit_stream(
        SignalStream.named(name, random_state=seed),
        n_samples,
        X_val=validation.data,
        y_val=validation.target,
    )


def _card(
    definition: DatasetDefinition,
    pipeline: Pipeline,
    metrics: dict[str, dict[str, float]],
    n_samples: int,
    seed: int,
    threads: int,
) -> ModelCard:
    classifier = pipeline[-1]
    counts = ", ".join(map(str, classifier.classes_[:-1])) + f" or {classifier.classes_[-1]}"
    options = f"--samples {n_samples}" + (f" --seed {seed}" if seed else "")
    machine = environment(threads)
    return ModelCard.from_pipeline(
        pipeline,
        name=definition.name,
        title=f"Tells whether a voxel has {counts} compartments, from its correlation signal.",
        training={
            "command": f"corrsk pretrain {definition.name} {options} --out models",
            "signals": n_samples,
            "epochs": classifier.n_iter_,
            "batch_size": classifier.batch_size,
            "optimizer": classifier.optimizer,
            "learning_rate": classifier.learning_rate,
            "seed": seed,
        },
        compute={
            "device": device_name(classifier.net_),
            "threads": threads,
            "minutes": round(sum(row["seconds"] for row in classifier.history_) / 60, 1),
            "machine": machine.get("processor") or machine.get("machine", "unknown"),
        },
        test_data=f"{_N_TEST:,} fresh signals of {definition.name}",
        metrics=metrics,
        limits=_LIMITS,
    )


def measure(
    pipeline: Pipeline, name: str, *, n_jobs: int | None = None
) -> dict[str, dict[str, float]]:
    """Metrics on fresh signals of a named data set, with 95 % intervals.

    Parameters
    ----------
    pipeline : Pipeline
        With `classes_` that are counts.
    name : str
    n_jobs : int, optional
        Threads to simulate with.

    Returns
    -------
    dict of str to dict
        accuracy, binary_accuracy (P(n_c >= 2) > 0.5), log_loss and
        expected_calibration_error, each with value, low and high.
    """
    data = load_dataset(name, _N_TEST, random_state=_TEST_SEED, n_jobs=n_jobs)
    probabilities = pipeline.predict_proba(data.data)
    classes = pipeline.classes_
    right = classes[probabilities.argmax(axis=1)] == data.target
    multi = multicompartment_probability(probabilities, classes) > 0.5
    binary = multi == is_multicompartment(data.target)
    own = probabilities[np.arange(len(right)), np.searchsorted(classes, data.target)]
    losses = -np.log(own.clip(1e-15))
    error = 1.96 * losses.std() / np.sqrt(losses.size)
    metrics = {
        key: {"value": correct.mean(), **dict(zip(("low", "high"), interval, strict=True))}
        for key, correct in (("accuracy", right), ("binary_accuracy", binary))
        for interval in [bootstrap_interval([correct])]
    }
    return metrics | {
        "log_loss": {
            "value": losses.mean(), "low": losses.mean() - error, "high": losses.mean() + error
        },
        "expected_calibration_error": _calibration(data.target, probabilities, classes),
    }  # fmt: skip


def _calibration(
    y: NDArray[Any], probabilities: NDArray[np.float64], classes: NDArray[Any]
) -> dict[str, float]:
    value = expected_calibration_error(y, probabilities, classes)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_N_RESAMPLES):
        rows = rng.integers(0, len(y), len(y))
        drawn.append(expected_calibration_error(y[rows], probabilities[rows], classes))
    # a mean of absolute values grows with resampling: the interval is widened to the value
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}
