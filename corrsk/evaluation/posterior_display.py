"""Display of the posterior of the compartments of one voxel."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from corrsk.evaluation.displays import figure_of
from corrsk.evaluation.map_displays import COUNT_COLORS

_LARGEST_POINT = 60.0  # area in points^2, of a compartment with the whole signal


class CompartmentPosteriorDisplay:
    """Compartments drawn from the posterior of one voxel, as points over two properties.

    Usually created by :meth:`from_estimator`. Each draw has one point per compartment, whose area
    is the fraction and whose colour is the number of compartments of the draw. A cloud along a
    line shows what the signal leaves open.

    Parameters
    ----------
    draws : DataFrame
        Tissue table of draws of one voxel, with n_c, such as that of
        :meth:`corrsk.CompartmentRegressor.sample_posterior`.
    truth : DataFrame of one row, optional
        Tissue table of the truth or of a fit, drawn as crosses.
    properties : (str, str), default=("T1", "T2")
        Properties of the horizontal and vertical axis.
    degenerate : bool, default=False
        Whether the signal hardly determines a compartment, for the title.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes of the plot.
    figure_ : matplotlib.figure.Figure
        Figure of the plot.

    Raises
    ------
    ValueError
        If a table lacks the columns of the properties, or `truth` has several rows.
    """

    def __init__(
        self, draws: pd.DataFrame, *, truth: pd.DataFrame | None = None,
        properties: tuple[str, str] = ("T1", "T2"), degenerate: bool = False,
    ) -> None:  # fmt: skip
        self.draws, self.truth = draws, truth
        self.properties = properties
        self.degenerate = degenerate
        if truth is not None and len(truth) != 1:
            raise ValueError(f"truth must be a table of one voxel, got {len(truth)} rows")
        for table in (draws, truth):
            if table is not None:
                _points(table, properties)  # columns that are missing are an error

    @classmethod
    def from_estimator(
        cls, estimator: Any, x: Any, *, truth: pd.DataFrame | None = None, n_samples: int = 256,
        properties: tuple[str, str] = ("T1", "T2"), random_state: int = 0,
        ax: Axes | None = None,
    ) -> CompartmentPosteriorDisplay:  # fmt: skip
        """Plot the posterior of one signal.

        Parameters
        ----------
        estimator : CompartmentRegressor
            Fitted estimator with `posterior` and `sample_posterior`.
        x : array of shape (n_measurements,) or (1, n_measurements)
            Signal of one voxel.
        truth : DataFrame of one row, optional
            Tissue table of the truth or of a fit.
        n_samples : int, default=256
            Number of draws.
        properties : (str, str), default=("T1", "T2")
            Properties of the horizontal and vertical axis.
        random_state : int, default=0
            Seed of the draws.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        CompartmentPosteriorDisplay
            The display.
        """
        signal = np.atleast_2d(np.asarray(x))
        if len(signal) != 1:
            raise ValueError(f"x must be the signal of one voxel, got {len(signal)} rows")
        draws = estimator.sample_posterior(signal, n_samples, random_state=random_state)
        degenerate = bool(estimator.posterior(signal).degenerate[0])
        display = cls(draws, truth=truth, properties=properties, degenerate=degenerate)
        return display.plot(ax)

    def plot(self, ax: Axes | None = None) -> CompartmentPosteriorDisplay:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        CompartmentPosteriorDisplay
            The display itself.
        """
        if ax is None:
            ax = Figure(figsize=(4.8, 4.2), layout="constrained").add_subplot()
        for count in sorted(self.draws["n_c"].unique(), reverse=True):
            of_count = self.draws[self.draws["n_c"] == count]
            a, b, fractions = _points(of_count, self.properties)
            share = len(of_count) / len(self.draws)
            ax.scatter(
                a, b, s=_LARGEST_POINT * fractions, color=COUNT_COLORS[int(count) - 1], alpha=0.35,
                linewidths=0, label=f"{count} ({share:.0%})",
            )  # fmt: skip
        if self.truth is not None:
            a, b, _ = _points(self.truth, self.properties)
            ax.plot(a, b, "+", color="black", markersize=11, markeredgewidth=1.6, label="given")
        units = {"D": "µm²/ms"}
        labels = [f"{name} ({units.get(name, 'ms')})" for name in self.properties]
        ax.set(xscale="log", yscale="log", xlabel=labels[0], ylabel=labels[1])
        for axis in (ax.xaxis, ax.yaxis):  # a cloud spans little of a decade
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_locator(NullLocator())
        title = "posterior of a voxel"
        if self.degenerate:
            title += "\nhardly determined by the signal"
        ax.set_title(title)
        ax.legend(title="compartments", fontsize="small")
        self.ax_, self.figure_ = ax, figure_of(ax)
        return self


def _points(table: pd.DataFrame, properties: tuple[str, str]) -> tuple[Any, Any, Any]:
    """Two properties and the fraction of each compartment that is present."""
    numbers = [match[1] for name in table.columns if (match := re.fullmatch(r"f_(\d+)", str(name)))]
    wanted = [f"{name}_{k}" for name in (*properties, "f") for k in numbers or ["1"]]
    missing = [name for name in wanted if name not in table]
    if missing:
        raise ValueError(f"the table has no columns {', '.join(missing)}")
    a, b, f = (
        table[[f"{name}_{k}" for k in numbers]].to_numpy(dtype=np.float64).ravel()
        for name in (*properties, "f")
    )
    present = np.nan_to_num(f) > 0
    return a[present], b[present], f[present]
