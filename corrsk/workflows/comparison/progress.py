"""How far a comparison is."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from corrsk.workflows.comparison.cells import Cell, CellResult


class Board:
    """Progress: a bar for the whole, one for each model, and what runs now."""

    def __init__(self, cells: Sequence[Cell], console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"), console=console,
        )  # fmt: skip
        names = list(dict.fromkeys(cell.rival for cell in cells))
        self.whole = self.progress.add_task("all", total=len(cells), state="")
        self.bars = {
            name: self.progress.add_task(
                name, total=sum(cell.rival == name for cell in cells), state=""
            )
            for name in names
        }
        self.cell, self.started, self.cell_started = cells[0], time.monotonic(), 0.0

    def begin(self, cell: Cell) -> None:
        """Show that a cell begins."""
        self.cell, self.cell_started = cell, time.monotonic()
        self.tick()

    def tick(self) -> None:
        """Show the time that went by."""
        now, size = time.monotonic(), self.cell.n_train
        state = f"{f'{size:,} signals, ' if size else ''}seed {self.cell.seed}"
        self.progress.update(
            self.bars[self.cell.rival], state=f"{state}, {now - self.cell_started:.0f} s"
        )
        self.progress.update(self.whole, state=f"{now - self.started:.0f} s")

    def end(self, result: CellResult) -> None:
        """Show what came of a cell."""
        state = "" if result.status == "done" else result.status
        self.progress.update(self.bars[result.cell.rival], advance=1, state=state)
        self.progress.update(self.whole, advance=1)
        if not self.console.is_terminal:  # a log wants lines, not bars
            self.console.print(_line(result), soft_wrap=True, highlight=False)

    def __enter__(self) -> Board:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def _line(result: CellResult) -> str:
    if result.status != "done":
        return f"{result.cell.stem}: {result.status}, {result.reason}"
    metrics = result.content["metrics"]
    return (
        f"{result.cell.stem}: {100 * metrics['accuracy']:.1f} % / "
        f"{100 * metrics['binary_accuracy']:.1f} % binary, "
        f"fit {result.content['seconds_fit']:.1f} s"
    )
