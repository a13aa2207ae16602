"""Figures of the comparison."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from corrsk.evaluation import known_ceiling
from corrsk.evaluation.noise_units import NOISE_UNITS, in_noise_unit, shown_numbers
from corrsk.workflows.comparison.models import MODELS, REFERENCE
from corrsk.workflows.comparison.tables import best_rows

CEILING = "best possible"
_QUESTIONS = {
    "accuracy": "how many compartments?",
    "binary_accuracy": "more than one compartment? P(n_c ≥ 2) > 0.5",
}


def _questions(summary: pd.DataFrame) -> dict[str, str]:
    """Titles by metric; a single one if both accuracies of every model are equal."""
    done = summary[summary["n_seeds"] > 0]
    if (done["accuracy"] == done["binary_accuracy"]).all():
        return {"accuracy": _QUESTIONS["accuracy"]}
    return _QUESTIONS


def _styles() -> dict[str, dict[str, Any]]:
    colors, markers = colormaps["tab20"].colors, cycle("osD^vP*X<>ph")  # type: ignore[attr-defined]
    # tab20 alternates dark and light tones of each hue: use the dark ones first
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return {
        name: {
            "color": "black" if name == REFERENCE else colors[order[i % 20]],
            "marker": next(markers),
            "linewidth": 2.2 if name == REFERENCE else 1.3,
            "zorder": 3 if name == REFERENCE else 2,
        }
        for i, name in enumerate(MODELS)
    }


def plot_learning_curves(summary: pd.DataFrame, *, dataset: str) -> Figure:
    """Plot both accuracies over the training size and over the time of `fit`.

    Model-based methods are horizontal lines. Error bars are 95 % intervals. For two classes, 1 and
    another count, both accuracies are equal, and one is drawn.

    Parameters
    ----------
    summary : DataFrame
        See :func:`corrsk.workflows.comparison.summary_frame`.
    dataset : str
        Name of the data, for the title.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    questions = _questions(summary)
    figure = Figure(figsize=(13, 4.75 * len(questions)), layout="constrained")
    axes = figure.subplots(len(questions), 2, sharex="col", sharey="row", squeeze=False)
    done = summary[summary["n_seeds"] > 0]
    styles = _styles()
    for row, (metric, question) in zip(axes, questions.items(), strict=True):
        for ax, over in zip(row, ("n_train", "seconds_fit"), strict=True):
            for name, group in done.groupby("model", sort=False):
                _plot_curve(ax, group, over, metric, styles[str(name)], str(name))
            _draw_ceiling(ax, dataset, metric)
            ax.set_xscale("log")
            ax.grid(alpha=0.3)
            ax.set_title(question)
        row[0].set_ylabel("accuracy (%)")
    for ax in axes[0]:
        _leave_out_the_tail(ax, 100 * done["accuracy"])
    sizes = sorted(done.loc[done["n_train"] > 0, "n_train"].unique())
    axes[-1, 0].set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes[-1, 0].xaxis.set_minor_locator(NullLocator())
    axes[-1, 0].set_xlabel("training signals")
    axes[-1, 1].set_xlabel("time of fit (s)")
    figure.suptitle(f"Accuracy on {dataset}, over training size and over time of fit")
    _legend(figure, axes[0, 0])
    return figure


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    order = [*MODELS, CEILING]  # matplotlib would list error bars after lines
    pairs = sorted(
        zip(handles, labels, strict=True), key=lambda pair: order.index(pair[1].split(" (")[0])
    )
    figure.legend(*zip(*pairs, strict=True), loc="outside right center", fontsize=9)


def _plot_curve(
    ax: Axes, group: pd.DataFrame, over: str, metric: str, style: dict[str, Any], name: str
) -> None:
    value = 100 * group[metric].to_numpy(dtype=np.float64)
    if not MODELS[name].learns:
        line = {"color": style["color"], "linewidth": style["linewidth"], "linestyle": "--"}
        ax.axhline(value[-1], label=name, **line)
        return
    low = value - 100 * group[f"{metric}_low"].to_numpy(dtype=np.float64)
    high = 100 * group[f"{metric}_high"].to_numpy(dtype=np.float64) - value
    ax.errorbar(
        group[over].to_numpy(dtype=np.float64), value, np.clip([low, high], 0, None), capsize=2,
        markersize=5, label=name, **style,
    )  # fmt: skip


def _draw_ceiling(ax: Axes, dataset: str, metric: str, *, noise_unit: str | None = None) -> None:
    """Draw the accuracy of the best possible classifier, between its two estimates.

    With the unit of an axis of noise levels, the accuracy is drawn over that axis.
    """
    ceiling = known_ceiling(dataset)
    if ceiling is None:
        return
    best, low, high = (100 * ceiling[metric + end] for end in ("", "_low", "_high"))
    style: dict[str, Any] = {"color": "tab:gray", "zorder": 1}
    if noise_unit is not None:
        x = in_noise_unit(ceiling["noise_level"][1:], noise_unit)
        ax.plot(x, best[1:], "k:", label=CEILING, zorder=1)
        ax.fill_between(x, low[1:], high[1:], alpha=0.25, linewidth=0, **style)
    else:
        ax.axhline(best[0], color="black", linestyle=":", label=CEILING, zorder=1)
        ax.axhspan(low[0], high[0], alpha=0.25, linewidth=0, **style)


def _leave_out_the_tail(ax: Axes, values: pd.Series) -> None:
    """Limit the axis to its crowded upper part if a few values are far below."""
    if len(values):
        bottom = max(values.min(), values.max() - 40) - 1.5
        ax.set_ylim(bottom=bottom)


def plot_accuracy_over_noise(
    noise: pd.DataFrame, summary: pd.DataFrame, *, dataset: str, noise_unit: str = "percent"
) -> Figure:
    """Plot both accuracies over the noise level, each model at its largest training size.

    For two classes, 1 and another count, both accuracies are equal, and one is drawn.

    Parameters
    ----------
    noise : DataFrame
        See :func:`corrsk.workflows.comparison.tables.noise_frame`.
    summary : DataFrame
        See :func:`corrsk.workflows.comparison.summary_frame`.
    dataset : str
        Name of the data, for the title.
    noise_unit : {"percent", "snr"}, default="percent"
        Unit of the noise levels on the axis.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    questions = _questions(summary)
    figure = Figure(figsize=(1 + 6 * len(questions), 5.2), layout="constrained")
    axes = figure.subplots(1, len(questions), squeeze=False)[0]
    best = best_rows(summary)
    styles = _styles()
    for ax, (metric, question) in zip(axes, questions.items(), strict=True):
        for name, n_train in zip(best["model"], best["n_train"], strict=True):
            rows = noise[(noise["model"] == name) & (noise["n_train"] == n_train)]
            if len(rows):
                style = styles[name] | ({} if MODELS[name].learns else {"linestyle": "--"})
                label = f"{name} ({n_train:,})" if n_train else name
                ax.plot(
                    in_noise_unit(rows["noise_level"], noise_unit), 100 * rows[metric],
                    markersize=5, label=label, **style,
                )  # fmt: skip
        _draw_ceiling(ax, dataset, metric, noise_unit=noise_unit)
        ax.set(title=question, xlabel=NOISE_UNITS[noise_unit], ylabel="accuracy (%)")
        levels = in_noise_unit(np.unique(noise["noise_level"]), noise_unit)
        if levels.size < 12:
            ax.set_xticks(levels, shown_numbers(levels))
        ax.grid(alpha=0.3)
    figure.suptitle(f"Accuracy over noise level on {dataset} (training signals in brackets)")
    _legend(figure, axes[0])
    return figure
