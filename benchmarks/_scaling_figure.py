"""Figure of scaling.py, drawn from its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

# the colours of Okabe and Ito, suitable for colour-blind readers
STYLES = {
    "simulation": ("#0072B2", "o"),
    "CNN, epoch, torch": ("#D55E00", "s"),
    "CNN, epoch, numba": ("#E69F00", "D"),
    "CNN, prediction": ("#009E73", "^"),
    "MLP, epoch": ("#CC79A7", "v"),
    "MLP, prediction": ("#56B4E9", "P"),
    "logistic regression, fit": ("#000000", "X"),
    "CNN, grid search": ("#777777", "*"),
}


def draw(content: dict[str, Any]) -> Figure:
    """Draw the three panels of a record."""
    figure = Figure(figsize=(10.5, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    machine = content["machine"]
    cores = f"{machine['cores']} cores"
    for ax, panel, title, label in (
        (left, "samples", f"Number of signals\n({cores}, 64 measurements)", "signals"),
        (middle, "measurements", f"Size of the protocol\n({cores})", "measurements of a signal"),
        (
            right,
            "threads",
            "Cores\n(64 measurements; dotted: ideal)",
            "threads; of the search, workers",
        ),
    ):
        for name, rows in content[panel].items():
            colour, marker = STYLES[name]
            x, y = curve(rows, panel)
            ax.plot(x, y, color=colour, marker=marker, label=name, linewidth=1.6, markersize=6)
        ax.set(xscale="log", yscale="log", title=title, xlabel=label)
        ax.grid(alpha=0.3)
    left.set_ylabel("time per signal (µs)")
    mark_proportional(middle, curve(content["measurements"]["simulation"], "measurements"))
    mark_speed_up(right, content["threads"])
    for ax, panel in ((middle, "measurements"), (right, "threads")):
        ticks = sorted({row[panel] for rows in content[panel].values() for row in rows})
        ax.set_xticks(ticks, [f"{tick}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    shown = {
        label: handle
        for ax in (left, middle, right)
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    names = [name for name in STYLES if name in shown]
    figure.legend([shown[name] for name in names], names, loc="outside lower center", ncols=4)
    return figure


def curve(rows: Sequence[dict[str, Any]], over: str) -> tuple[list[int], list[float]]:
    return [row[over] for row in rows], [row["microseconds per signal"] for row in rows]


def mark_proportional(ax: Axes, simulation: tuple[list[int], list[float]]) -> None:
    """Draw a line for a cost proportional to the number of measurements, below the curves."""
    x, y = simulation
    line = [y[0] / 4 * each / x[0] for each in x]
    ax.plot(x, line, ":", color="gray", linewidth=1)
    third = len(x) // 3
    ax.annotate("in proportion", (x[third], line[third]), xytext=(6, -3), va="top", size=9,
                textcoords="offset points", color="dimgray")  # fmt: skip


def mark_speed_up(ax: Axes, panel: dict[str, Any]) -> None:
    """Draw dotted lines of ideal speed-up, and annotate the measured speed-ups."""
    lowest = 0.0
    for name, rows in sorted(panel.items(), key=lambda item: curve(item[1], "threads")[1][-1]):
        x, y = curve(rows, "threads")
        ax.plot(x, [y[0] * x[0] / each for each in x], ":", color=STYLES[name][0], linewidth=1)
        speed_up = rows[-1]["times as fast as with the first"]
        lowest = max(y[-1], lowest)
        ax.annotate(f"{speed_up:.2g}x", (x[-1], lowest), xytext=(8, 0), va="center", size=9,
                    textcoords="offset points", color=STYLES[name][0])  # fmt: skip
        lowest *= 1.3  # the next annotation is placed above this one
    ax.margins(x=0.2)
