"""Evaluation of one model on one test set: all metrics, and published ones beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import confusion_matrix
from sklearn.utils import check_consistent_length

from corrsk._utils.counts import is_multicompartment, multicompartment_probability, tasks_coincide
from corrsk._utils.files import InvalidFileError, read_json, refuse_misfits, write_json
from corrsk._utils.steps import without_codes
from corrsk.evaluation.calibration import checked_predictions, grouped_noise_levels
from corrsk.evaluation.metrics import binary_metrics, count_metrics
from corrsk.evaluation.noise_units import checked_noise_unit
from corrsk.evaluation.predictions import measured_probabilities

_FORMAT = "corrsk-evaluation"


@dataclass(frozen=True, eq=False)
class Reference:
    """Published results of a classifier, for comparison with an evaluation.

    Parameters
    ----------
    name : str
        Source of the results, used in headings.
    classes : tuple of int
        The compartment counts that the classifier distinguishes.
    metrics : mapping of str to float
        Published metrics, under the names of `Evaluation.metrics`.
    confusion_matrix : array of shape (n_classes, n_classes), optional
        Published confusion matrix: rows are reference counts, columns predicted counts.

    Attributes
    ----------
    binary_confusion_matrix : ndarray of shape (2, 2) or None
        Confusion matrix of one compartment against several, by argmax.
    """

    name: str
    classes: tuple[int, ...]
    metrics: Mapping[str, float]
    confusion_matrix: NDArray[np.int64] | None = None

    @property
    def binary_confusion_matrix(self) -> NDArray[np.int64] | None:
        """Confusion matrix of one compartment against several; None without a confusion matrix."""
        if self.confusion_matrix is None:
            return None
        several = is_multicompartment(self.classes)
        side = np.stack([~several, several]).astype(np.int64)
        binary: NDArray[np.int64] = side @ self.confusion_matrix @ side.T
        return binary

    def applies_to(self, classes: Iterable[Any]) -> bool:
        """Return whether the reference is for the given classes.

        Parameters
        ----------
        classes : iterable
            Class labels, in any order.

        Returns
        -------
        bool
            True if the classes are those of the reference.
        """
        return {str(label) for label in classes} == {str(label) for label in self.classes}

    def check(self, classes: Iterable[Any]) -> None:
        """Refuse a comparison with an evaluation of other classes.

        Parameters
        ----------
        classes : iterable
            Class labels of the evaluation, in any order.

        Raises
        ------
        ValueError
            If the reference is for other classes.
        """
        classes = list(classes)
        if not self.applies_to(classes):
            raise ValueError(
                f"the reference {self.name!r} is for the classes {list(self.classes)}, not for "
                f"{[str(label) for label in classes]}"
            )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of one model on one test set.

    Usually created by :func:`evaluate` or :meth:`from_estimator`.

    Parameters
    ----------
    dataset : str
        Name of the test data.
    n_samples : int
        Number of test signals.
    n_failed : int
        Number of test signals without a prediction (NaN probabilities), such as voxels that a
        model-based method could not fit. These signals count as guesses: every class is equally
        probable.
    classes : ndarray of shape (n_classes,)
        The compartment counts; 1 and 2 (two or more) of binary labels.
    metrics : dict of str to float
        See :func:`corrsk.evaluation.metrics.count_metrics` and
        :func:`corrsk.evaluation.metrics.binary_metrics`.
    confusion_matrix : ndarray of shape (n_classes, n_classes)
        Confusion matrix: rows are reference counts, columns predicted counts.
    binary_confusion_matrix : ndarray of shape (2, 2)
        Confusion matrix of one compartment against several, by P(n_c >= 2) > 0.5.
    binary_argmax_confusion_matrix : ndarray of shape (2, 2)
        Confusion matrix of one compartment against several, by argmax.
    by_noise_level : DataFrame
        Columns accuracy, binary_accuracy, binary_argmax_accuracy and n_samples for each noise
        level. If there are more than 20 levels, each row is a fifth of the samples with its
        median level. Empty without noise levels.
    noise_unit : {"percent", "snr"}, default="percent"
        Unit of the noise levels in figures and tables; "snr" for data with a given
        signal-to-noise ratio.
    """

    dataset: str
    n_samples: int
    n_failed: int
    classes: NDArray[Any]
    metrics: dict[str, float]
    confusion_matrix: NDArray[np.int64]
    binary_confusion_matrix: NDArray[np.int64]
    binary_argmax_confusion_matrix: NDArray[np.int64]
    by_noise_level: pd.DataFrame = field(repr=False)
    noise_unit: str = "percent"

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        noise_level: ArrayLike | None = None,
        dataset: str = "unnamed data",
        noise_unit: str = "percent",
    ) -> Evaluation:
        """Evaluate a fitted classifier.

        Parameters
        ----------
        estimator : classifier
            Fitted classifier with `predict_proba` and `classes_`.
        X : array or DataFrame of shape (n_samples, ...)
            Input of the estimator, usually signals. Voxels without signal (all zero, or with NaN
            if the estimator refuses NaN) count as guesses.
        y : array of shape (n_samples,)
            Reference counts or binary labels; see :func:`evaluate`. For a classifier with
            `counts_` that was fitted to codes 0, 1, .., also these codes.
        noise_level : array of shape (n_samples,), optional
            Noise level of each signal, for the accuracy by level.
        dataset : str
            Name of the data, shown in every table and figure.
        noise_unit : {"percent", "snr"}, default="percent"
            Unit of the noise levels in figures and tables; "snr" for data with a given
            signal-to-noise ratio.

        Returns
        -------
        Evaluation
            The results.

        Raises
        ------
        ValueError
            For the same reasons as in :func:`evaluate`.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        return evaluate(
            without_codes(estimator, y), measured_probabilities(estimator, X),
            classes=without_codes(estimator, estimator.classes_),
            noise_level=noise_level, dataset=dataset, noise_unit=noise_unit,
        )  # fmt: skip

    @property
    def tasks_coincide(self) -> bool:
        """Whether the number of compartments and more than one compartment are the same task."""
        return tasks_coincide(self.classes)

    def to_frame(self, reference: Reference | None = None) -> pd.DataFrame:
        """Table of all metrics, with those of a reference beside them.

        Parameters
        ----------
        reference : Reference, optional
            Published results for the same classes.

        Returns
        -------
        DataFrame
            One row per metric; one column named after the data set, and one named after the
            reference.

        Raises
        ------
        ValueError
            If the reference is for other classes.
        """
        frame = pd.DataFrame({self.dataset: self.metrics})
        if reference is not None:
            reference.check(self.classes)
            frame[reference.name] = pd.Series(reference.metrics).reindex(frame.index)
        frame.index.name = "metric"
        return frame

    def to_json(self, path: str | Path, **more: Any) -> None:
        """Write the evaluation to a JSON file.

        Parameters
        ----------
        path : path-like
            The file to write.
        **more : dict
            Further entries of the file.
        """
        content = {
            "format": _FORMAT, "version": 1, "dataset": self.dataset,
            "n_samples": self.n_samples, "n_failed": self.n_failed,
            "classes": self.classes.tolist(),
            "metrics": self.metrics,
            "confusion_matrix": self.confusion_matrix.tolist(),
            "binary_confusion_matrix": self.binary_confusion_matrix.tolist(),
            "binary_argmax_confusion_matrix": self.binary_argmax_confusion_matrix.tolist(),
            "by_noise_level": self.by_noise_level.reset_index().to_dict(orient="records"),
            "noise_unit": self.noise_unit,
            **more,
        }  # fmt: skip
        write_json(path, content)

    @classmethod
    def from_json(cls, path: str | Path) -> Evaluation:
        """Read an evaluation from a file written by :meth:`to_json`.

        Parameters
        ----------
        path : path-like
            The file to read.

        Returns
        -------
        Evaluation
            The stored results.

        Raises
        ------
        InvalidFileError
            If the file is not an evaluation, or is damaged.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InvalidFileError(f"{path} is not an evaluation written by corrsk")
        with refuse_misfits(path, "an evaluation written by corrsk"):
            return cls._from_content(content)

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Evaluation:
        levels = pd.DataFrame(content["by_noise_level"])
        return cls(
            dataset=content["dataset"], n_samples=content["n_samples"],
            n_failed=content.get("n_failed", 0),
            classes=np.asarray(content["classes"]),
            metrics={
                name: math.nan if value is None else value
                for name, value in content["metrics"].items()
            },
            confusion_matrix=np.asarray(content["confusion_matrix"]),
            binary_confusion_matrix=np.asarray(content["binary_confusion_matrix"]),
            binary_argmax_confusion_matrix=np.asarray(content["binary_argmax_confusion_matrix"]),
            by_noise_level=levels.set_index("noise_level") if len(levels) else _no_levels(),
            noise_unit=content.get("noise_unit", "percent"),
        )  # fmt: skip


def evaluate(
    y: ArrayLike,
    probabilities: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    noise_level: ArrayLike | None = None,
    dataset: str = "unnamed data",
    noise_unit: str = "percent",
) -> Evaluation:
    """Evaluate predicted probabilities of compartment counts.

    Parameters
    ----------
    y : array of shape (n_samples,)
        Reference counts; or binary labels, False and True or 0 and 1, of voxels with one
        compartment and with more, which are evaluated as the counts 1 and 2.
    probabilities : array of shape (n_samples, n_classes)
        Predicted probabilities; rows sum to 1. A row of NaN is a signal without a prediction; it
        counts as a guess, with every class equally probable.
    classes : array of shape (n_classes,), optional
        The label of each column. Default: the distinct values of y, ascending.
    noise_level : array of shape (n_samples,), optional
        Noise level of each signal, for the accuracy by level.
    dataset : str
        Name of the data, shown in every table and figure.
    noise_unit : {"percent", "snr"}, default="percent"
        Unit of the noise levels in figures and tables; "snr" for data with a given
        signal-to-noise ratio.

    Returns
    -------
    Evaluation
        The results.

    Raises
    ------
    ValueError
        If shapes are inconsistent, labels are neither counts nor binary or not among the classes,
        or a row of the probabilities is partly NaN, has a negative entry or does not sum to 1; or
        the unit is unknown.
    """
    checked_noise_unit(noise_unit)
    given = np.asarray(probabilities, dtype=np.float64)
    y, rows, classes = checked_predictions(y, given, classes)
    check_consistent_length(y, noise_level)
    if noise_level is not None and np.isnan(np.asarray(noise_level, dtype=np.float64)).any():
        raise ValueError("noise_level contains NaN; omit noise_level if it is unknown")
    n_failed = int(np.isnan(given).all(axis=1).sum())
    # single precision leaves sums of 1 + 1e-7, which are corrected; sums within double
    # precision are left alone, because a division would break ties
    totals = rows.sum(axis=1, keepdims=True)
    rows = rows / np.where(np.abs(totals - 1) < 1e-9, 1.0, totals)
    several = is_multicompartment(y)
    predicted = classes[rows.argmax(axis=1)]
    answer = multicompartment_probability(rows, classes) > 0.5
    by_argmax = is_multicompartment(predicted)
    return Evaluation(
        dataset=dataset,
        n_samples=int(y.size),
        n_failed=n_failed,
        classes=classes,
        metrics=count_metrics(y, rows, classes) | binary_metrics(y, rows, classes),
        confusion_matrix=confusion_matrix(y, predicted, labels=classes),
        binary_confusion_matrix=confusion_matrix(several, answer, labels=[False, True]),
        binary_argmax_confusion_matrix=confusion_matrix(several, by_argmax, labels=[False, True]),
        by_noise_level=_by_noise_level(
            noise_level,
            {
                "accuracy": predicted == y,
                "binary_accuracy": answer == several,
                "binary_argmax_accuracy": by_argmax == several,
            },
        ),
        noise_unit=noise_unit,
    )


def _by_noise_level(
    noise_level: ArrayLike | None, correct: Mapping[str, NDArray[np.bool_]]
) -> pd.DataFrame:
    if noise_level is None:
        return _no_levels()
    levels = grouped_noise_levels(noise_level, len(correct["accuracy"]))
    groups = pd.DataFrame(correct).groupby(pd.Index(levels, name="noise_level"))
    table = groups.mean()
    table["n_samples"] = groups.size()
    return table


def _no_levels() -> pd.DataFrame:
    columns = ["accuracy", "binary_accuracy", "binary_argmax_accuracy", "n_samples"]
    return pd.DataFrame(columns=columns, index=pd.Index([], name="noise_level"))


SHOWN_METRICS = {
    "accuracy": "{K}-class accuracy",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "roc_auc_1": "AUC, n_c = 1",
    "roc_auc_2": "AUC, n_c = 2",
    "roc_auc_3": "AUC, n_c = 3",
    "roc_auc_4": "AUC, n_c = 4",
    "roc_auc_micro": "AUC (micro)",
    "roc_auc_macro": "AUC (macro)",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
    "binary_accuracy": "binary accuracy (P > 0.5)",
    "binary_argmax_accuracy": "binary accuracy (argmax)",
    "binary_argmax_precision_single": "precision, n_c = 1 (argmax)",
    "binary_argmax_recall_single": "recall, n_c = 1 (argmax)",
}


def results_table(evaluation: Evaluation, reference: Reference | None = None) -> pd.DataFrame:
    """Table of the most important metrics as text, for reports and the terminal.

    Parameters
    ----------
    evaluation : Evaluation
        The results to show.
    reference : Reference, optional
        Published results for the same classes, shown in a second column.

    Returns
    -------
    DataFrame of str
        One row per metric.

    Raises
    ------
    ValueError
        If the reference is for other classes.
    """
    frame = evaluation.to_frame(reference)
    frame = frame.loc[[name for name in SHOWN_METRICS if name in frame.index]]
    shown = [SHOWN_METRICS[name].format(K=evaluation.classes.size) for name in frame.index]
    frame.index = pd.Index(shown, name="")
    frame[evaluation.dataset] = [f"{value:.3f}" for value in frame[evaluation.dataset]]
    if reference is not None:  # with the two or three digits that were published
        published = frame[reference.name]
        frame[reference.name] = ["" if np.isnan(x) else _as_printed(x) for x in published]
    return frame


def _as_printed(value: float) -> str:
    return f"{value:.2f}" if round(value, 2) == value else f"{value:.3f}"
