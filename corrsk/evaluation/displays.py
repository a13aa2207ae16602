"""Figures: confusion matrices, ROC curves, accuracy over noise, losses.

Built on scikit-learn's displays where one exists. With a :class:`corrsk.evaluation.Reference`,
published results are drawn beside the evaluation. Every title names the data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay, auc, roc_curve

from corrsk._utils.deprecation import removed_parameters
from corrsk._utils.steps import without_codes
from corrsk.evaluation.calibration import checked_predictions
from corrsk.evaluation.evaluation import Evaluation, Reference, evaluate
from corrsk.evaluation.noise_units import NOISE_UNITS, in_noise_unit, shown_numbers
from corrsk.evaluation.predictions import measured_probabilities

_Curve = tuple[NDArray[np.float64], NDArray[np.float64], float]
_FALSE_POSITIVE_RATES = np.linspace(0, 1, 1001)
_BINARY_LABELS = ("1", "2 or more")


@removed_parameters(paper="pass reference=corrsk.workflows.paper.PAPER")
def plot_confusion_matrices(
    evaluation: Evaluation, *, reference: Reference | None = None
) -> Figure:
    """Plot both confusion matrices, and those of a reference below them.

    For two classes, 1 and another count, both matrices are equal, and one is drawn.

    Parameters
    ----------
    evaluation : Evaluation
        The results to show.
    reference : Reference, optional
        Published results for the same classes.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ValueError
        If the reference is for other classes.
    """
    binary = (
        f"{evaluation.dataset}\nP(n_c ≥ 2) > 0.5", evaluation.binary_confusion_matrix,
        _BINARY_LABELS,
    )  # fmt: skip
    counts = (
        f"{evaluation.dataset}\nn_c by argmax",
        evaluation.confusion_matrix,
        evaluation.classes,
    )
    shown: list[list[tuple[str, NDArray[np.int64], Any]]] = [[binary, counts]]
    if reference is not None:
        reference.check(evaluation.classes)
        published, binary_published = (
            reference.confusion_matrix, reference.binary_confusion_matrix
        )  # fmt: skip
        if published is not None and binary_published is not None:
            shown.append(
                [
                    (f"{reference.name}\nbinary, by argmax", binary_published, _BINARY_LABELS),
                    (f"{reference.name}\nn_c by argmax", published, evaluation.classes),
                ]
            )
    if evaluation.tasks_coincide:
        shown = [row[1:] for row in shown]
    figure, axes = _subplots(len(shown), len(shown[0]), size=(4.6, 4.2))
    for row, matrices in zip(axes, shown, strict=True):
        for ax, (title, matrix, labels) in zip(row, matrices, strict=True):
            _plot_confusion_matrix(ax, matrix, labels, title)
    return figure


def _plot_confusion_matrix(
    ax: Axes, matrix: NDArray[np.int64], labels: Sequence[Any], title: str
) -> None:
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(share, display_labels=labels)
    display.plot(ax=ax, cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": 1})
    for (row, column), text in np.ndenumerate(display.text_):
        text.set_text(f"{share[row, column]:.1%}\n{matrix[row, column]:,}")
        text.set_fontsize(8 if len(labels) > 2 else 10)
    ax.set(xlabel="predicted n_c", ylabel="reference n_c", title=title)


class CountRocDisplay:
    """One-vs-rest, micro- and macro-averaged ROC curves, as in Figure 2c of the paper.

    Usually created by :meth:`from_predictions` or :meth:`from_estimator`. For two classes the
    curves are reflections of each other, and that of the larger count is drawn alone.

    Parameters
    ----------
    curves : dict of str to (array, array, float)
        For each count, and for "micro" and "macro": false and true positive rates and the area
        under the curve.
    dataset : str
        Name of the data, for the title.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the plot.
    figure_ : matplotlib.figure.Figure
        Figure of the plot.
    """

    def __init__(self, curves: Mapping[str, _Curve], *, dataset: str = "unnamed data") -> None:
        self.curves = curves
        self.dataset = dataset

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, *, dataset: str = "unnamed data",
        reference: Reference | None = None, ax: Axes | None = None,
    ) -> CountRocDisplay:  # fmt: skip
        """Plot the ROC curves of a fitted classifier.

        Parameters
        ----------
        estimator : classifier
            Fitted classifier with `predict_proba` and `classes_`.
        X : array of shape (n_samples, n_measurements)
            Test signals.
        y : array of shape (n_samples,)
            Reference counts.
        dataset : str
            Name of the data, for the title.
        reference : Reference, optional
            Published areas for the same classes; see :meth:`plot`.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        CountRocDisplay
            The display.

        Raises
        ------
        ValueError
            For the same reasons as in :meth:`from_predictions`.
        """
        return cls.from_predictions(
            without_codes(estimator, y), measured_probabilities(estimator, X),
            classes=without_codes(estimator, estimator.classes_), dataset=dataset,
            reference=reference, ax=ax,
        )  # fmt: skip

    @classmethod
    def from_predictions(
        cls, y: ArrayLike, probabilities: ArrayLike, *, classes: ArrayLike | None = None,
        dataset: str = "unnamed data", reference: Reference | None = None, ax: Axes | None = None,
    ) -> CountRocDisplay:  # fmt: skip
        """Plot the ROC curves of predicted probabilities.

        Parameters
        ----------
        y : array of shape (n_samples,)
            Reference counts.
        probabilities : array of shape (n_samples, n_classes)
            Predicted probabilities; a row of NaN counts as a guess.
        classes : array of shape (n_classes,), optional
            The count of each column. Default: the distinct values of y, ascending.
        dataset : str
            Name of the data, for the title.
        reference : Reference, optional
            Published areas for the same classes; see :meth:`plot`.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        CountRocDisplay
            The display.

        Raises
        ------
        ValueError
            If the predictions are invalid (see :func:`corrsk.evaluation.evaluate`), `y` contains
            fewer than two of the classes, or the reference is for other classes.
        """
        y, rows, classes = checked_predictions(y, probabilities, classes)
        one_hot = y[:, None] == classes
        if one_hot.any(axis=0).sum() < 2:
            raise ValueError("ROC curves need signals of at least two classes in y")
        curves = {
            str(label): _roc(one_hot[:, k], rows[:, k])
            for k, label in enumerate(classes)
            if one_hot[:, k].any() and not one_hot[:, k].all()
        }
        each = list(curves.values())
        curves["micro"] = _roc(one_hot.ravel(), rows.ravel())
        if len(each) == classes.size:  # a macro average needs all classes, like the metric
            mean = np.mean([true for _, true, _ in each], axis=0)
            area = float(np.mean([area for *_, area in each]))
            curves["macro"] = (_FALSE_POSITIVE_RATES, mean, area)
        return cls(curves, dataset=dataset).plot(ax=ax, reference=reference)

    @removed_parameters(paper="pass reference=corrsk.workflows.paper.PAPER")
    def plot(
        self, ax: Axes | None = None, *, reference: Reference | None = None
    ) -> CountRocDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.
        reference : Reference, optional
            Published areas for the same classes, added to the legend.

        Returns
        -------
        CountRocDisplay
            The display itself.

        Raises
        ------
        ValueError
            If the reference is for other classes.
        """
        if reference is not None:
            reference.check(name for name in self.curves if name not in ("micro", "macro"))
        self.ax_ = _axes(6, 5.6) if ax is None else ax
        self.figure_ = figure_of(self.ax_)
        names = list(self.curves)
        two_classes = len(names) == 4 and "macro" in names
        if two_classes:  # the curves of both classes are reflections of each other
            names = names[1:2]
        for name in names:
            false, true, area = self.curves[name]
            average = name in ("micro", "macro")
            published = None if reference is None else reference.metrics.get(f"roc_auc_{name}")
            beside = "" if published is None else f" (published: {published:.2f})"
            shown = f"{name} average" if average else f"n_c = {name}"
            RocCurveDisplay(fpr=false, tpr=true).plot(
                ax=self.ax_, plot_chance_level=two_classes or name == "micro",
                curve_kwargs={
                    "label": f"{shown}: AUC {area:.3f}{beside}",
                    "linestyle": ":" if average else "-",
                },
            )  # fmt: skip
        self.ax_.set(
            title=f"{'ROC' if two_classes else 'ROC, one-vs-rest'}\n{self.dataset}",
            xlabel="false positive rate", ylabel="true positive rate",
        )  # fmt: skip
        self.ax_.legend(loc="lower right", fontsize=8)
        return self


def _roc(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> _Curve:
    false, true, _ = roc_curve(truth, score)
    # resampled: the curve of 10^5 signals has more points than a figure has pixels
    return _FALSE_POSITIVE_RATES, np.interp(_FALSE_POSITIVE_RATES, false, true), auc(false, true)


class AccuracyOverNoiseDisplay:
    """Count and binary accuracy over the noise level, with 95 % intervals.

    Parameters
    ----------
    evaluation : Evaluation
        Results by noise level.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the plot.
    figure_ : matplotlib.figure.Figure
        Figure of the plot.

    Raises
    ------
    ValueError
        If the evaluation has no noise levels.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        if evaluation.by_noise_level.empty:
            raise ValueError("the evaluation has no noise levels; pass noise_level to evaluate")
        self.evaluation = evaluation

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, noise_level: ArrayLike, *,
        dataset: str = "unnamed data", ax: Axes | None = None,
        noise_unit: str = "percent",
    ) -> AccuracyOverNoiseDisplay:  # fmt: skip
        """Plot the accuracies of a fitted classifier.

        Parameters
        ----------
        estimator : classifier
            Fitted classifier with `predict_proba` and `classes_`.
        X : array of shape (n_samples, n_measurements)
            Test signals.
        y : array of shape (n_samples,)
            Reference counts.
        noise_level : array of shape (n_samples,)
            Noise level of each signal.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.
        noise_unit : {"percent", "snr"}, default="percent"
            Unit of the noise levels on the axis; "snr" for data with a given
            signal-to-noise ratio.

        Returns
        -------
        AccuracyOverNoiseDisplay
            The display.
        """
        evaluation = Evaluation.from_estimator(
            estimator, X, y, noise_level=noise_level, dataset=dataset, noise_unit=noise_unit
        )
        return cls(evaluation).plot(ax=ax)

    @classmethod
    def from_predictions(
        cls, y: ArrayLike, probabilities: ArrayLike, noise_level: ArrayLike, *,
        classes: ArrayLike | None = None, dataset: str = "unnamed data", ax: Axes | None = None,
        noise_unit: str = "percent",
    ) -> AccuracyOverNoiseDisplay:  # fmt: skip
        """Plot the accuracies of predicted probabilities.

        Parameters
        ----------
        y : array of shape (n_samples,)
            Reference counts.
        probabilities : array of shape (n_samples, n_classes)
            Predicted probabilities.
        noise_level : array of shape (n_samples,)
            Noise level of each signal.
        classes : array of shape (n_classes,), optional
            The count of each column. Default: the distinct values of y, ascending.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.
        noise_unit : {"percent", "snr"}, default="percent"
            Unit of the noise levels on the axis; "snr" for data with a given
            signal-to-noise ratio.

        Returns
        -------
        AccuracyOverNoiseDisplay
            The display.
        """
        evaluation = evaluate(
            y, probabilities, classes=classes, noise_level=noise_level, dataset=dataset,
            noise_unit=noise_unit,
        )  # fmt: skip
        return cls(evaluation).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> AccuracyOverNoiseDisplay:
        """Draw the accuracies.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        AccuracyOverNoiseDisplay
            The display itself.
        """
        self.ax_ = _axes(6, 4.4) if ax is None else ax
        self.figure_ = figure_of(self.ax_)
        table = self.evaluation.by_noise_level
        noise = in_noise_unit(table.index, self.evaluation.noise_unit)
        lines = [
            ("binary_accuracy", "more than one compartment? P(n_c ≥ 2) > 0.5"),
            ("binary_argmax_accuracy", "more than one compartment? by argmax"),
            ("accuracy", "how many compartments?"),
        ]
        # with two classes, all three are equal
        for column, label in lines[-1:] if self.evaluation.tasks_coincide else lines:
            accuracy = table[column].to_numpy(dtype=np.float64)
            half_width = 1.96 * np.sqrt(accuracy * (1 - accuracy) / table["n_samples"])
            self.ax_.errorbar(
                noise, 100 * accuracy, 100 * half_width, marker="o", capsize=3, label=label
            )
        chance = 100 / self.evaluation.classes.size
        self.ax_.axhline(chance, color="grey", linestyle=":", label="chance (how many)")
        self.ax_.set(
            xlabel=NOISE_UNITS[self.evaluation.noise_unit], ylabel="accuracy (%)",
            title=f"Accuracy over noise level\n{self.evaluation.dataset}",
            ylim=(0, 100),
        )  # fmt: skip
        self.ax_.set_xticks(noise, shown_numbers(noise))
        self.ax_.legend(fontsize=8, loc="lower left")
        return self


class LossCurveDisplay:
    """Training and validation loss over the epochs.

    Parameters
    ----------
    history : list of dict
        The `history_` of a fitted network classifier.
    dataset : str
        Name of the data, for the title.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the plot.
    figure_ : matplotlib.figure.Figure
        Figure of the plot.
    """

    def __init__(self, history: Sequence[dict[str, Any]], *, dataset: str = "unnamed data") -> None:
        self.history = history
        self.dataset = dataset

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, dataset: str = "unnamed data", ax: Axes | None = None
    ) -> LossCurveDisplay:
        """Plot the losses of a fitted network classifier.

        Parameters
        ----------
        estimator : classifier
            Fitted classifier with `history_`.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        LossCurveDisplay
            The display.
        """
        return cls(estimator.history_, dataset=dataset).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> LossCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        LossCurveDisplay
            The display itself.
        """
        self.ax_ = _axes(6, 4.4) if ax is None else ax
        self.figure_ = figure_of(self.ax_)
        table = pd.DataFrame(list(self.history))
        self.ax_.plot(table["epoch"], table["train_loss"], label="training")
        if "valid_loss" in table:
            self.ax_.plot(table["epoch"], table["valid_loss"], label="validation")
            best = table.loc[table["valid_loss"].idxmin()]
            self.ax_.plot(
                best["epoch"], best["valid_loss"], "o", label=f"best epoch: {best['epoch']:.0f}"
            )
        self.ax_.set(xlabel="epoch", ylabel="cross-entropy", title=f"Loss curves\n{self.dataset}")
        self.ax_.xaxis.set_major_locator(MaxNLocator(integer=True))
        self.ax_.legend(fontsize=8)
        return self


def _axes(width: float, height: float) -> Axes:
    axes: Axes = _subplots(1, 1, size=(width, height))[1][0, 0]
    return axes


def _subplots(
    rows: int, columns: int, size: tuple[float, float]
) -> tuple[Figure, NDArray[np.object_]]:
    # a Figure without pyplot: nothing to close, no window, safe in threads
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def figure_of(ax: Axes) -> Figure:
    """Return the figure of axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure
