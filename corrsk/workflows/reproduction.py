"""Reproduction of the paper's experiment: simulate, fit, evaluate, write a folder of results."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import sklearn
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import Bunch

from corrsk._utils.deprecation import removed_parameters, renamed_parameters
from corrsk._utils.environment import environment
from corrsk._utils.extras import require
from corrsk._utils.files import write_atomically
from corrsk._utils.parallel import effective_n_jobs
from corrsk._utils.validation import checked_count, lookup
from corrsk.acquisition.protocol import resolve_protocol
from corrsk.evaluation import (
    AccuracyOverNoiseDisplay,
    CountRocDisplay,
    Evaluation,
    LossCurveDisplay,
    Reference,
    evaluate,
    plot_confusion_matrices,
    results_table,
)
from corrsk.evaluation.evaluation import SHOWN_METRICS
from corrsk.evaluation.noise_units import noise_label
from corrsk.neural._base import NetworkClassifier
from corrsk.neural.classifier import CorrelationCNNClassifier, classifier_from_recipe
from corrsk.neural.recipes import RECIPES
from corrsk.neural.training.device import limited_threads, resolve_device
from corrsk.neural.training.prediction import device_name
from corrsk.persistence import save
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.simulation.datasets import resolve_dataset, simulate_dataset
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.files import read_dataset_mat
from corrsk.workflows._runs import (
    CONFIG,
    claimed_folder,
    data_identity,
    markdown_table,
    write_config,
)
from corrsk.workflows.paper import PAPER, PAPER_NOTE

__all__ = ["RECIPES", "Configuration", "paper_reference", "reproduce"]

_logger = logging.getLogger(__name__)

METRICS = "metrics.json"
REPORT = "report.md"
MODEL = "model.safetensors"
CHECKPOINT = "training.checkpoint"
_STORED_ORDER = ("dataset", "mat", "samples", "recipe", "epochs", "seed")
_SMALLEST_RUN = 100  # signals, of which ten are test signals, with every class among them
_HELD_OUT = 0.2 / 0.9  # validation fraction of training data without validation data, as published


@dataclass(frozen=True)
class Configuration:
    """Configuration of a reproduction; runs of the same configuration give the same result.

    Parameters
    ----------
    dataset : DatasetDefinition or str
        Definition of the data, or the name of a data set; ignored if `mat` is given.
    mat : str or None
        Data file in the .mat layout of the published code, in place of simulated data.
    n_samples : int
        Number of signals to simulate.
    recipe : str
        Name of a training recipe.
    epochs : int or None
        Number of epochs; None for that of the recipe.
    seed : int
        Seed of the data and of the training.
    """

    dataset: DatasetDefinition | str = "midl2024-low-noise"
    mat: str | None = None
    n_samples: int = 1_000_000
    recipe: str = "default"
    epochs: int | None = None
    seed: int = 0

    @property
    def norm(self) -> str | None:
        """Norm that signals are divided by; the 2-norm, as in the paper, for a data file."""
        return "l2" if self.mat else resolve_dataset(self.dataset).norm

    def check(self) -> None:
        """Validate the configuration before any long computation.

        Raises
        ------
        ValueError
            If a name is unknown or belongs to other data, the prior has a single compartment
            count, the recipe is a CNN's and the protocol no grid, or a number is too small.
        """
        definition = resolve_dataset(self.dataset)
        definition.check_for_training()
        recipe = lookup(RECIPES, self.recipe, "recipe")
        protocol = resolve_protocol(definition.protocol)
        if recipe.estimator == CorrelationCNNClassifier.__name__ and protocol.grid_shape is None:
            raise ValueError(
                f"the recipe {self.recipe!r} needs a protocol on a full grid, not {protocol}; the "
                "recipe 'residual-mlp' takes any protocol"
            )
        checked_count("n_samples", self.n_samples, at_least=_SMALLEST_RUN)
        checked_count("seed", self.seed, at_least=0)
        if self.epochs is not None:
            checked_count("epochs", self.epochs, at_least=1)

    def as_stored(self) -> dict[str, Any]:
        """Return the configuration under the names of the files and of the command line.

        Returns
        -------
        dict of str to object
            Values by name.
        """
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        content["samples"] = content.pop("n_samples")
        stored = {name: content[name] for name in _STORED_ORDER}
        if not isinstance(self.dataset, str):
            stored |= {"dataset": self.dataset.name, "config": self.dataset.to_dict()}
        return stored

    def identity(self) -> dict[str, Any]:
        """Return the configuration that a resumed run must share with the first run.

        Returns
        -------
        dict of str to object
            Values by name, with a checksum of the data file.
        """
        content = self.as_stored()
        if self.mat is not None:
            digest = hashlib.blake2b(Path(self.mat).read_bytes()).hexdigest()[:32]
            content |= {"mat": digest, "dataset": None, "samples": None}
        elif not isinstance(self.dataset, str):
            content["config"] = data_identity(self.dataset)
        return content


# for one release; applied here, because a dataclass generates its __init__
Configuration.__init__ = renamed_parameters(samples="n_samples")(  # type: ignore[method-assign]
    Configuration.__init__
)


@removed_parameters(say="the steps are logged to the logger 'corrsk' at level INFO")
def reproduce(
    configuration: Configuration,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    n_jobs: int | None = None,
) -> Evaluation:
    """Run the paper's experiment and write a folder of results.

    Parameters
    ----------
    configuration : Configuration
        Data, training and seed.
    out : path-like
        Folder for report.md, metrics.json, history.csv, the figures and
        model.safetensors. The folder must be new or empty, or with `resume` contain a run
        of the same configuration.
    resume : bool, default=False
        Whether to resume an interrupted run.
    device : str, default="auto"
        See :class:`corrsk.CorrelationCNNClassifier`.
    n_jobs : int, optional
        Number of threads; None (default) for OMP_NUM_THREADS, or every core.

    Returns
    -------
    Evaluation
        Results on the test data.

    Raises
    ------
    ValueError
        If the configuration is invalid, the device is not available, or the .mat file is not
        readable.
    FileExistsError
        If another process uses the folder, or the folder contains other files, or a run that is
        not to be resumed.
    """
    configuration.check()
    resolve_device(device)
    require("tabulate", extra="cli", purpose="the report")
    threads = effective_n_jobs(n_jobs)
    out = Path(out)
    # the data file is read before the folder is claimed: an invalid file leaves no folder behind
    data = None if configuration.mat is None else _read(configuration.mat)
    with claimed_folder(out, configuration.identity(), resume=resume):
        if data is None:
            write_config(out, configuration.dataset)
        if (out / METRICS).exists():
            _logger.info(f"{out} contains a finished run of this configuration")
            return Evaluation.from_json(out / METRICS)
        with limited_threads(threads):
            if data is None:
                data = _simulate(configuration, threads)
            return _run(configuration, data, out, device, threads)


def paper_reference(evaluation: Evaluation) -> Reference | None:
    """Return the published results of the paper if they apply to an evaluation.

    Parameters
    ----------
    evaluation : Evaluation
        Results to compare with the paper.

    Returns
    -------
    Reference or None
        None if the evaluation has other classes.
    """
    return PAPER if PAPER.applies_to(evaluation.classes) else None


def _run(
    configuration: Configuration,
    data: Bunch,
    out: Path,
    device: str,
    threads: int,
) -> Evaluation:
    model = _fit(configuration, data, out, device)
    classifier = model[-1]
    _logger.info(f"evaluating on {len(data.test_indices):,} test signals")
    started = time.perf_counter()
    test = data.test_indices
    probabilities = model.predict_proba(_signals(data, test, classifier))
    predicting = time.perf_counter() - started
    levels = data.noise_level[test]
    evaluation = evaluate(
        data.target[test], probabilities, classes=model.classes_,
        noise_level=None if np.isnan(levels).any() else levels, dataset=data.name,
        noise_unit=data.definition.noise_unit if "definition" in data else "percent",
    )  # fmt: skip

    _write_figures(evaluation, classifier, data.target[test], probabilities, out)
    with write_atomically(out / "history.csv") as partial:
        pd.DataFrame(classifier.history_).to_csv(partial, index=False)
    save(model, out / MODEL)
    run = {
        "configuration": configuration.as_stored(),
        "parameters": {
            key: value
            for key, value in classifier.get_params().items()
            if key not in ("checkpoint", "verbose", "n_jobs", "protocol")
        },
        "n_train": len(data.train_indices),
        # times of the epochs, including those before an interruption
        "seconds": {
            "fit": round(sum(row["seconds"] for row in classifier.history_), 2),
            "predict": round(predicting, 2),
        },
        "n_epochs": classifier.n_iter_,
        "environment": environment(threads) | {"device": device_name(classifier.net_)},
    }
    with write_atomically(out / REPORT) as partial:
        partial.write_text(_report(evaluation, run), encoding="utf-8")
    # written last, because this file marks the run as finished
    evaluation.to_json(
        out / METRICS, paper={"source": PAPER.name, "metrics": dict(PAPER.metrics)}, run=run
    )
    (out / CHECKPOINT).unlink(missing_ok=True)
    return evaluation


def _read(path: str) -> Bunch:
    _logger.info(f"reading {path}")
    return read_dataset_mat(path)


def _simulate(configuration: Configuration, threads: int) -> Bunch:
    definition = resolve_dataset(configuration.dataset)
    _logger.info(f"simulating {configuration.n_samples:,} signals of {definition.name}")
    return simulate_dataset(definition, configuration.n_samples, configuration.seed, n_jobs=threads)


def _fit(configuration: Configuration, data: Bunch, out: Path, device: str) -> Pipeline:
    changes: dict[str, Any] = {}
    if configuration.epochs is not None:
        changes["max_epochs"] = configuration.epochs
    train, validation = data.train_indices, data.get("validation_indices")
    if RECIPES[configuration.recipe].estimator == CorrelationCNNClassifier.__name__:
        changes["grid_shape"] = data.protocol.grid_shape if "protocol" in data else data.grid_shape
    classifier = classifier_from_recipe(
        configuration.recipe, device=device, random_state=configuration.seed,
        validation_fraction=_HELD_OUT if validation is None else None,
        checkpoint=out / CHECKPOINT, **changes,
    )  # fmt: skip
    _logger.info(
        f"training on {len(train):,} signals for {classifier.max_epochs} epochs "
        f"(recipe {configuration.recipe!r})"
    )
    X = _signals(data, train, classifier)
    with sklearn.config_context(enable_metadata_routing=True):
        normalizer = SignalNormalizer(configuration.norm)
        if isinstance(X, pd.DataFrame):
            normalizer.set_output(transform="pandas")
        pipeline = make_pipeline(
            normalizer,
            classifier.set_fit_request(X_val=True, y_val=True),
            transform_input=["X_val"],
        )
        routed = {}
        if validation is not None:
            X_val = _signals(data, validation, classifier)
            routed = {"X_val": X_val, "y_val": data.target[validation]}
        return pipeline.fit(X, data.target[train], **routed)


def _signals(
    data: Bunch, rows: NDArray[np.integer[Any]], classifier: NetworkClassifier
) -> NDArray[np.floating[Any]] | pd.DataFrame:
    """Signals of a part; with names, by which the CNN finds a grid that is in another order."""
    signals = data.data[rows]
    in_grid_order = "protocol" not in data or data.protocol.grid_layout is not None
    if in_grid_order or not isinstance(classifier, CorrelationCNNClassifier):
        return cast("NDArray[np.floating[Any]]", signals)
    return pd.DataFrame(signals, columns=data.feature_names)


def _write_figures(
    evaluation: Evaluation,
    classifier: NetworkClassifier,
    y: Any,
    probabilities: Any,
    out: Path,
) -> None:
    name = evaluation.dataset
    reference = paper_reference(evaluation)
    figures = {
        "confusion_matrices": plot_confusion_matrices(evaluation, reference=reference),
        "roc_curves": CountRocDisplay.from_predictions(
            y, probabilities, classes=evaluation.classes, dataset=name, reference=reference
        ).figure_,
        "loss_curves": LossCurveDisplay.from_estimator(classifier, dataset=name).figure_,
    }
    if not evaluation.by_noise_level.empty:
        figures["accuracy_over_noise"] = AccuracyOverNoiseDisplay(evaluation).plot().figure_
    for stem, figure in figures.items():
        with write_atomically(out / f"{stem}.png") as partial:
            figure.savefig(partial, dpi=150)


def _noise_table(evaluation: Evaluation) -> pd.DataFrame:
    """Accuracies by noise level as text, with the headings of the table of results."""
    table = evaluation.by_noise_level
    shown = pd.DataFrame(
        {
            SHOWN_METRICS[name].format(K=evaluation.classes.size): table[name].map("{:.4f}".format)
            for name in ("accuracy", "binary_accuracy", "binary_argmax_accuracy")
        }
    ).assign(signals=table["n_samples"].map("{:,}".format))
    labels = [noise_label(level, evaluation.noise_unit) for level in table.index]
    return shown.set_index(pd.Index(labels, name="noise level"))


def _report(evaluation: Evaluation, run: dict[str, Any]) -> str:
    configuration, parts = dict(run["configuration"]), []
    if configuration.get("config") is not None:
        configuration |= {"dataset": None, "config": CONFIG}
    environment = ", ".join(f"{key} {value}" for key, value in run["environment"].items())
    options = [
        f"--{key} {value}"
        for key, value in configuration.items()
        if value is not None and not (configuration["mat"] and key in ("dataset", "samples"))
    ]
    parts.append(f"# How many compartments? {evaluation.dataset}")
    parts.append(
        f"{run['n_train']:,} training and {evaluation.n_samples:,} test signals; "
        f"{run['n_epochs']} epochs of training took {run['seconds']['fit']:.0f} s. Command:\n\n"
        f"    corrsk reproduce {' '.join(options)}\n\n({environment})."
    )
    reference = paper_reference(evaluation)
    table = markdown_table(results_table(evaluation, reference))
    if reference is not None:
        note = "The results of the paper are for its own data, which may differ from this file."
        parts.append("## Results, and those of the paper\n\n" + table)
        parts.append(note if configuration["mat"] else PAPER_NOTE)
    else:
        parts.append("## Results\n\n" + table)
    if not evaluation.by_noise_level.empty:
        parts.append("## Accuracy over noise level\n\n" + markdown_table(_noise_table(evaluation)))
        parts.append("![accuracy over noise level](accuracy_over_noise.png)")
    parts.append("## Confusion matrices\n\n![confusion matrices](confusion_matrices.png)")
    parts.append("## ROC curves\n\n![ROC curves](roc_curves.png)")
    parts.append("## Training\n\n![loss curves](loss_curves.png)")
    parts.append(
        "## The model\n\n"
        "    import corrsk\n"
        f'    model = corrsk.load("{MODEL}")\n'
        "    model.predict_proba(measured)   # (n_samples, n_measurements), in grid order"
    )
    return "\n\n".join(parts) + "\n"
