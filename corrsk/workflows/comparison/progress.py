"""Progress of a comparison on the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from corrsk.workflows.comparison.runs import Run, RunResult


class RunProgress:
    """Progress bars of a comparison: all runs, the runs of each model, and the current run.

    Parameters
    ----------
    runs : sequence of Run
        The runs of the comparison.
    console : rich.console.Console
        Where to show the progress.
    """

    def __init__(self, runs: Sequence[Run], console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"), console=console,
        )  # fmt: skip
        names = list(dict.fromkeys(run.model for run in runs))
        self.whole = self.progress.add_task("all", total=len(runs), state="")
        self.bars = {
            name: self.progress.add_task(
                name, total=sum(run.model == name for run in runs), state=""
            )
            for name in names
        }
        self.run, self.started, self.run_started = runs[0], time.monotonic(), 0.0

    def begin(self, run: Run) -> None:
        """Show that a run begins."""
        self.run, self.run_started = run, time.monotonic()
        self.tick()

    def tick(self) -> None:
        """Update the elapsed time."""
        now, size = time.monotonic(), self.run.n_train
        state = f"{f'{size:,} signals, ' if size else ''}seed {self.run.seed}"
        self.progress.update(
            self.bars[self.run.model], state=f"{state}, {now - self.run_started:.0f} s"
        )
        self.progress.update(self.whole, state=f"{now - self.started:.0f} s")

    def end(self, result: RunResult) -> None:
        """Show the result of a run."""
        state = "" if result.status == "done" else result.status
        self.progress.update(self.bars[result.run.model], advance=1, state=state)
        self.progress.update(self.whole, advance=1)
        if not self.console.is_terminal:  # lines instead of bars in a log
            self.console.print(_line(result), soft_wrap=True, highlight=False)

    def __enter__(self) -> RunProgress:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def _line(result: RunResult) -> str:
    if result.status != "done":
        return f"{result.run.stem}: {result.status}, {result.reason}"
    metrics = result.content["metrics"]
    return (
        f"{result.run.stem}: {100 * metrics['accuracy']:.1f} % / "
        f"{100 * metrics['binary_accuracy']:.1f} % binary, "
        f"fit {result.content['seconds_fit']:.1f} s"
    )
