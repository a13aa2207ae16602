"""One evaluation: all figures of merit of one model on one test set."""

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

from corrsk._utils.counts import is_multicompartment, multicompartment_probability
from corrsk._utils.files import read_json, write_json
from corrsk.evaluation.calibration import checked_predictions, grouped_noise_levels
from corrsk.evaluation.metrics import binary_metrics, count_metrics

_FORMAT = "corrsk-evaluation"


@dataclass(frozen=True, eq=False)
class Reference:
    """Published figures of a classifier, to show beside an evaluation.

    Parameters
    ----------
    name : str
        Source of the figures, for headings.
    classes : tuple of int
        The compartment counts that they are for.
    metrics : mapping of str to float
        By the names of `Evaluation.metrics`.
    confusion_matrix : array of shape (K, K), optional
        Rows are the reference, columns the prediction.

    Attributes
    ----------
    binary_confusion_matrix : ndarray of shape (2, 2) or None
        One compartment, more than one; by argmax.
    """

    name: str
    classes: tuple[int, ...]
    metrics: Mapping[str, float]
    confusion_matrix: NDArray[np.int64] | None = None

    @property
    def binary_confusion_matrix(self) -> NDArray[np.int64] | None:
        """One compartment, more than one, from the confusion matrix; None without one."""
        if self.confusion_matrix is None:
            return None
        several = is_multicompartment(self.classes)
        side = np.stack([~several, several]).astype(np.int64)
        binary: NDArray[np.int64] = side @ self.confusion_matrix @ side.T
        return binary

    def applies_to(self, classes: Iterable[Any]) -> bool:
        """Whether the figures are for these classes, and may be shown beside theirs."""
        return {str(label) for label in classes} == {str(label) for label in self.classes}

    def check(self, classes: Iterable[Any]) -> None:
        """Refuse to show the figures beside those of other classes.

        Raises
        ------
        ValueError
        """
        classes = list(classes)
        if not self.applies_to(classes):
            raise ValueError(
                f"the reference {self.name!r} is for the classes {list(self.classes)}, not for "
                f"{[str(label) for label in classes]}"
            )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The judgement of one model on one test set.

    Made by :func:`evaluate` or :meth:`from_estimator`.

    Attributes
    ----------
    dataset : str
        Name of the test data.
    n_samples : int
        Number of test signals.
    n_failed : int
        How many of them got no answer (NaN probabilities), as those of a voxel
        that a model-based method could not fit. They count as guesses: every
        class is equally probable.
    classes : ndarray of shape (K,)
        The compartment counts.
    metrics : dict of str to float
        See :func:`corrsk.evaluation.metrics.count_metrics` and
        :func:`corrsk.evaluation.metrics.binary_metrics`.
    confusion_matrix : ndarray of shape (K, K)
        Rows are the reference, columns the prediction.
    binary_confusion_matrix, binary_argmax_confusion_matrix : ndarray of shape (2, 2)
        One compartment, more than one; by P(n_c >= 2) > 0.5 and by argmax.
    by_noise_level : DataFrame
        For each noise level: accuracy, both binary accuracies, n_samples. Of
        more than 20 levels for each fifth of the samples, by its median level.
        Empty if no noise levels were given.
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

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        noise_level: ArrayLike | None = None,
        dataset: str = "unnamed data",
    ) -> Evaluation:
        """Evaluate a fitted classifier with `predict_proba` and `classes_`.

        Parameters as in :func:`evaluate`; X of shape (n, ..) is what the
        estimator takes.
        """
        return evaluate(
            y, estimator.predict_proba(X), classes=estimator.classes_,
            noise_level=noise_level, dataset=dataset,
        )  # fmt: skip

    def to_frame(self, reference: Reference | None = None) -> pd.DataFrame:
        """One row per metric: the value and, with a reference, that of the reference.

        Parameters
        ----------
        reference : Reference, optional
            Published figures for the same classes.

        Returns
        -------
        DataFrame
            One column named after the data set, and one named after the reference.

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
        """Write everything as one JSON file; `more` are further keys of it."""
        content = {
            "format": _FORMAT, "version": 1, "dataset": self.dataset,
            "n_samples": self.n_samples, "n_failed": self.n_failed,
            "classes": self.classes.tolist(),
            "metrics": self.metrics,
            "confusion_matrix": self.confusion_matrix.tolist(),
            "binary_confusion_matrix": self.binary_confusion_matrix.tolist(),
            "binary_argmax_confusion_matrix": self.binary_argmax_confusion_matrix.tolist(),
            "by_noise_level": self.by_noise_level.reset_index().to_dict(orient="records"),
            **more,
        }  # fmt: skip
        write_json(path, content)

    @classmethod
    def from_json(cls, path: str | Path) -> Evaluation:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        ValueError
            If the file is not an evaluation.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{path} is not an evaluation written by corrsk")
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
        )  # fmt: skip


def evaluate(
    y: ArrayLike,
    probabilities: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    noise_level: ArrayLike | None = None,
    dataset: str = "unnamed data",
) -> Evaluation:
    """Judge predicted probabilities of compartment counts.

    Parameters
    ----------
    y : array of shape (n,)
        Reference counts.
    probabilities : array of shape (n, K)
        Predicted probabilities; rows sum to 1. A row of NaN is a signal without
        an answer, which counts as a guess: every class equally probable.
    classes : array of shape (K,), optional
        The count that each column stands for. Default: the distinct values of
        y, ascending.
    noise_level : array of shape (n,), optional
        Noise level of each signal, for accuracy per level.
    dataset : str
        Name of the data, which every table and figure shows.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If the shapes do not belong together, labels are unknown or not counts,
        or the probabilities are none (partly NaN, negative, rows not summing to 1).
    """
    given = np.asarray(probabilities, dtype=np.float64)
    y, rows, classes = checked_predictions(y, given, classes)
    check_consistent_length(y, noise_level)
    if noise_level is not None and np.isnan(np.asarray(noise_level, dtype=np.float64)).any():
        raise ValueError("noise_level holds NaN; leave it out where it is not known")
    n_failed = int(np.isnan(given).all(axis=1).sum())
    # single precision leaves sums of 1 + 1e-7; what rounding leaves is no reason to break ties
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
    """The most important metrics as text, for reports and the terminal.

    Parameters
    ----------
    evaluation : Evaluation
    reference : Reference, optional
        Published figures for the same classes, for a column of their own.

    Returns
    -------
    DataFrame of str

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
    if reference is not None:  # with its two or three digits, not more
        published = frame[reference.name]
        frame[reference.name] = ["" if np.isnan(x) else _as_printed(x) for x in published]
    return frame


def _as_printed(value: float) -> str:
    return f"{value:.2f}" if round(value, 2) == value else f"{value:.3f}"
