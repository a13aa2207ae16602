"""Reliability diagrams, and accuracy over coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from corrsk._utils.steps import without_codes
from corrsk.evaluation.calibration import (
    N_BINS,
    checked_predictions,
    grouped_noise_levels,
    reliability_table,
)
from corrsk.evaluation.displays import figure_of
from corrsk.evaluation.noise_units import checked_noise_unit, noise_label
from corrsk.evaluation.predictions import measured_probabilities
from corrsk.evaluation.selective import accuracy_coverage_curve
from corrsk.evaluation.tasks import Task

ALL = "all signals"
_CURVE_POINTS = 1000
_SHOWN_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
_LABELS = {
    "count": ("probability of the most probable n_c", "accuracy"),
    "multicompartment": ("P(n_c ≥ 2)", "share with more than one compartment"),
}


class ReliabilityDisplay:
    """Reliability diagram: observed frequency over predicted probability, in equal-mass bins.

    Usually created by :meth:`from_predictions` or :meth:`from_estimator`. The curve of a
    calibrated classifier lies on the diagonal, that of an overconfident one below the diagonal.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Results of :func:`corrsk.evaluation.reliability_table` for each group of signals. The
        curve of all signals has 95 % intervals.
    task : {"count", "multicompartment"}, default="count"
        Kind of the probabilities, for the axis labels.
    dataset : str
        Name of the data, for the title.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the plot.
    figure_ : matplotlib.figure.Figure
        Figure of the plot.

    See Also
    --------
    sklearn.calibration.CalibrationDisplay : for other binary classifiers.
    """

    def __init__(
        self, tables: Mapping[str, pd.DataFrame], *, task: str = Task.COUNT,
        dataset: str = "unnamed data",
    ) -> None:  # fmt: skip
        self.tables = tables
        self.task = Task.from_name(task)
        self.dataset = dataset

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, *, noise_level: ArrayLike | None = None,
        n_bins: int = N_BINS, task: str = Task.COUNT, dataset: str = "unnamed data",
        ax: Axes | None = None, noise_unit: str = "percent",
    ) -> ReliabilityDisplay:  # fmt: skip
        """Plot the reliability of a fitted classifier.

        Parameters
        ----------
        estimator : classifier
            Fitted classifier with `predict_proba` and `classes_`.
        X : array of shape (n_samples, n_measurements)
            Test signals.
        y : array of shape (n_samples,)
            Reference counts.
        noise_level : array of shape (n_samples,), optional
            Noise level of each signal; adds a curve for each level.
        n_bins : int, default=15
            Number of bins.
        task : {"count", "multicompartment"}, default="count"
            See :func:`corrsk.evaluation.expected_calibration_error`.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.
        noise_unit : {"percent", "snr"}, default="percent"
            Unit of the noise levels in the legend; "snr" for data with a given
            signal-to-noise ratio.

        Returns
        -------
        ReliabilityDisplay
            The display.
        """
        return cls.from_predictions(
            without_codes(estimator, y), measured_probabilities(estimator, X),
            classes=without_codes(estimator, estimator.classes_),
            noise_level=noise_level, n_bins=n_bins, task=task, dataset=dataset, ax=ax,
            noise_unit=noise_unit,
        )  # fmt: skip

    @classmethod
    def from_predictions(
        cls, y: ArrayLike, probabilities: ArrayLike, *, classes: ArrayLike | None = None,
        noise_level: ArrayLike | None = None, n_bins: int = N_BINS, task: str = Task.COUNT,
        dataset: str = "unnamed data", ax: Axes | None = None, noise_unit: str = "percent",
    ) -> ReliabilityDisplay:  # fmt: skip
        """Plot the reliability of predicted probabilities.

        Parameters
        ----------
        y : array of shape (n_samples,)
            Reference counts.
        probabilities : array of shape (n_samples, n_classes)
            Predicted probabilities.
        classes : array of shape (n_classes,), optional
            The count of each column. Default: the distinct values of y, ascending.
        noise_level : array of shape (n_samples,), optional
            Noise level of each signal; adds a curve for each level.
        n_bins : int, default=15
            Number of bins.
        task : {"count", "multicompartment"}, default="count"
            See :func:`corrsk.evaluation.expected_calibration_error`.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.
        noise_unit : {"percent", "snr"}, default="percent"
            Unit of the noise levels in the legend; "snr" for data with a given
            signal-to-noise ratio.

        Returns
        -------
        ReliabilityDisplay
            The display.
        """
        y, rows, labels = checked_predictions(y, probabilities, classes)
        tables = {
            name: reliability_table(y[at], rows[at], labels, n_bins=n_bins, task=task)
            for name, at in _groups(noise_level, y.size, noise_unit).items()
        }
        return cls(tables, task=task, dataset=dataset).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> ReliabilityDisplay:
        """Draw the diagram.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        ReliabilityDisplay
            The display itself.
        """
        self.ax_ = Figure((5.6, 5.2), layout="constrained").subplots() if ax is None else ax
        self.figure_ = figure_of(self.ax_)
        self.ax_.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
        colours = _colours(self.tables)
        for name, table in self.tables.items():
            gaps = (table["observed"] - table["predicted"]).abs()
            error = np.average(gaps, weights=table["n_samples"])
            label = f"{name}: calibration error {error:.4f}"
            x, observed = table["predicted"], table["observed"]
            if name == ALL:
                reach = [observed - table["low"], table["high"] - observed]
                self.ax_.errorbar(
                    x, observed, reach, marker="o", markersize=4, capsize=2, color="black",
                    label=label, zorder=3,
                )  # fmt: skip
            else:
                self.ax_.plot(
                    x, observed, marker=".", markersize=4, linewidth=0.8, color=colours[name],
                    label=label,
                )  # fmt: skip
        xlabel, ylabel = _LABELS[self.task]
        lowest = min(table[["predicted", "low"]].min().min() for table in self.tables.values())
        least = max(0.0, float(lowest) - 0.05)
        self.ax_.set(
            xlabel=xlabel, ylabel=ylabel, title=f"Reliability\n{self.dataset}",
            xlim=(least, 1.02), ylim=(least, 1.02), aspect="equal",
        )  # fmt: skip
        self.ax_.legend(fontsize=8, loc="upper left")
        return self


class AccuracyCoverageDisplay:
    """Accuracy over coverage, the share of signals whose confidence exceeds a threshold.

    Usually created by :meth:`from_predictions` or :meth:`from_estimator`.

    Parameters
    ----------
    curves : dict of str to (coverage, accuracy, thresholds)
        Results of :func:`corrsk.evaluation.accuracy_coverage_curve` for each group of signals.
    dataset : str
        Name of the data, for the title.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the plot.
    figure_ : matplotlib.figure.Figure
        Figure of the plot.
    """

    def __init__(
        self,
        curves: Mapping[str, Sequence[NDArray[np.float64]]],
        *,
        dataset: str = "unnamed data",
    ) -> None:
        self.curves = curves
        self.dataset = dataset

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, *, noise_level: ArrayLike | None = None,
        dataset: str = "unnamed data", ax: Axes | None = None, noise_unit: str = "percent",
    ) -> AccuracyCoverageDisplay:  # fmt: skip
        """Plot the curves of a fitted classifier.

        Parameters
        ----------
        estimator : classifier
            Fitted classifier with `predict_proba` and `classes_`.
        X : array of shape (n_samples, n_measurements)
            Test signals.
        y : array of shape (n_samples,)
            Reference counts.
        noise_level : array of shape (n_samples,), optional
            Noise level of each signal; adds a curve for each level.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.
        noise_unit : {"percent", "snr"}, default="percent"
            Unit of the noise levels in the legend; "snr" for data with a given
            signal-to-noise ratio.

        Returns
        -------
        AccuracyCoverageDisplay
            The display.
        """
        return cls.from_predictions(
            without_codes(estimator, y), measured_probabilities(estimator, X),
            classes=without_codes(estimator, estimator.classes_),
            noise_level=noise_level, dataset=dataset, ax=ax, noise_unit=noise_unit,
        )  # fmt: skip

    @classmethod
    def from_predictions(
        cls, y: ArrayLike, probabilities: ArrayLike, *, classes: ArrayLike | None = None,
        noise_level: ArrayLike | None = None, dataset: str = "unnamed data",
        ax: Axes | None = None, noise_unit: str = "percent",
    ) -> AccuracyCoverageDisplay:  # fmt: skip
        """Plot the curves of predicted probabilities.

        Parameters
        ----------
        y : array of shape (n_samples,)
            Reference counts.
        probabilities : array of shape (n_samples, n_classes)
            Predicted probabilities.
        classes : array of shape (n_classes,), optional
            The count of each column. Default: the distinct values of y, ascending.
        noise_level : array of shape (n_samples,), optional
            Noise level of each signal; adds a curve for each level.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.
        noise_unit : {"percent", "snr"}, default="percent"
            Unit of the noise levels in the legend; "snr" for data with a given
            signal-to-noise ratio.

        Returns
        -------
        AccuracyCoverageDisplay
            The display.
        """
        y, rows, labels = checked_predictions(y, probabilities, classes)
        curves = {
            name: accuracy_coverage_curve(y[at], rows[at], labels)
            for name, at in _groups(noise_level, y.size, noise_unit).items()
        }
        return cls(curves, dataset=dataset).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> AccuracyCoverageDisplay:
        """Draw the curves, with thresholds marked on that of all signals.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        AccuracyCoverageDisplay
            The display itself.
        """
        self.ax_ = Figure((6, 4.4), layout="constrained").subplots() if ax is None else ax
        self.figure_ = figure_of(self.ax_)
        colours = _colours(self.curves)
        for name, (coverage, accuracy, thresholds) in self.curves.items():
            # the curve of 10^6 signals has more points than a figure has pixels, and its first
            # few signals are dominated by chance
            x = np.linspace(min(0.01, coverage[-1]), 1, _CURVE_POINTS)
            y = np.interp(x, coverage, accuracy)
            every = name == ALL
            self.ax_.plot(
                100 * x, 100 * y, color="black" if every else colours[name],
                linewidth=1.8 if every else 1, label=name, zorder=3 if every else 2,
            )  # fmt: skip
            if every:
                self._mark_thresholds(coverage, accuracy, thresholds)
        self.ax_.set(
            xlabel="coverage: share of signals classified (%)", ylabel="accuracy (%)",
            title=f"Accuracy over coverage\n{self.dataset}", xlim=(0, 109),
        )  # fmt: skip
        self.ax_.grid(alpha=0.3)
        if len(self.curves) > 1:
            self.ax_.legend(fontsize=8, loc="lower left")
        return self

    def _mark_thresholds(
        self, coverage: NDArray[Any], accuracy: NDArray[Any], thresholds: NDArray[Any]
    ) -> None:
        for threshold in _SHOWN_THRESHOLDS:
            last = int(np.searchsorted(-thresholds, -threshold, side="right")) - 1
            if last < 0:
                continue
            point = (100 * coverage[last], 100 * accuracy[last])
            self.ax_.plot(*point, "o", color="black", markersize=4, zorder=4)
            self.ax_.annotate(
                f"p ≥ {threshold:g}", point, xytext=(4, 5), textcoords="offset points", fontsize=8
            )


def _groups(
    noise_level: ArrayLike | None, n_samples: int, noise_unit: str
) -> dict[str, NDArray[np.bool_]]:
    checked_noise_unit(noise_unit)
    groups = {ALL: np.ones(n_samples, dtype=bool)}
    if noise_level is None:
        return groups
    levels = grouped_noise_levels(noise_level, n_samples)
    prefix = "noise " if noise_unit == "percent" else ""
    return groups | {
        prefix + noise_label(level, noise_unit): levels == level for level in np.unique(levels)
    }


def _colours(groups: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in groups if name != ALL]
    tones = colormaps["viridis"](np.linspace(0.05, 0.9, max(1, len(names))))
    return dict(zip(names, tones, strict=False))
