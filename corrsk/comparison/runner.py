"""The comparison from its settings to its files; stopped at any time, it goes on."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from corrsk._checks import checked_count
from corrsk._parallel import effective_n_jobs
from corrsk._random import STREAMS_VERSION
from corrsk._runs import claim_folder, environment
from corrsk.acquisition import AcquisitionProtocol, resolve_protocol
from corrsk.comparison.cells import (
    Cell,
    CellResult,
    fingerprint,
    read_cell,
    write_cell,
)
from corrsk.comparison.report import write_report
from corrsk.comparison.rivals import BOOSTING_PACKAGES, RIVALS, Task, resolve_rivals
from corrsk.comparison.tables import noise_frame, results_frame, summary_frame
from corrsk.comparison.worker import Worker, Workplace
from corrsk.datasets import DatasetDefinition, dataset_definition
from corrsk.tissue import resolve_prior
from corrsk.training import resolve_device

_TRAIN_SHARE = 0.7
_SMALLEST_TRAINING = 50  # enough for every class to be there


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared, on what.

    Parameters
    ----------
    dataset : str
        Name of a data set.
    models : tuple of str or None
        Names of `RIVALS`; None for all.
    train_sizes : tuple of int
        Numbers of training signals.
    n_seeds : int
        Number of repetitions, each with data and rivals of its own seed 0, 1, ..
    samples : int
        Number of signals to simulate for each seed, of which 70 % train and
        10 % test.
    test_samples : int or None
        Number of test signals to judge on, at most; None for all.
    protocol : AcquisitionProtocol or None
        In place of the data set's.
    limits : bool
        Whether to skip models beyond the training size that they can bear.
    """

    dataset: str = "midl2024"
    models: tuple[str, ...] | None = None
    train_sizes: tuple[int, ...] = (1000, 10_000, 100_000)
    n_seeds: int = 1
    samples: int = 1_000_000
    test_samples: int | None = None
    protocol: AcquisitionProtocol | None = None
    limits: bool = True

    def check(self) -> None:
        """Refuse what cannot be run, before any long work.

        Raises
        ------
        TypeError, ValueError
        """
        dataset_definition(self.dataset)
        resolve_rivals(self.models)
        checked_count("samples", self.samples, at_least=1000)
        checked_count("n_seeds", self.n_seeds, at_least=1)
        if self.test_samples is not None:
            checked_count("test_samples", self.test_samples, at_least=10)
        if not self.train_sizes:
            raise ValueError("there is no training size; give at least one, such as 10000")
        available = int(_TRAIN_SHARE * self.samples)
        for size in self.train_sizes:
            checked_count("each of train_sizes", size, at_least=_SMALLEST_TRAINING)
            if size > available:
                raise ValueError(
                    f"a training size of {size:,} is larger than the data: of {self.samples:,} "
                    f"signals {available:,} are for training; take smaller sizes or "
                    f"--samples {-int(-size / _TRAIN_SHARE // 1000) * 1000}"
                )

    @property
    def definition(self) -> DatasetDefinition:
        """The data set, on the protocol of one's own if there is one."""
        definition = dataset_definition(self.dataset)
        if self.protocol is None:
            return definition
        return dataclasses.replace(
            definition, name=f"{definition.name} on another protocol", protocol=self.protocol
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must share: more models, sizes and seeds may be added."""
        definition = self.definition
        protocol = resolve_protocol(definition.protocol).in_grid_order()
        return {
            "kind": "comparison",
            "dataset": self.dataset,
            "prior": repr(resolve_prior(definition.prior)),
            "noise": [definition.noise_reference, *definition.noise_levels],
            "random_streams": STREAMS_VERSION,
            "samples": self.samples,
            "test_samples": self.test_samples,
            "protocol": {name: list(values) for name, values in protocol.contrasts.items()}
            | {"tr": protocol.tr},
        }

    def cells(self) -> list[Cell]:
        """All cells, small training sizes first, so that a run that is stopped has shown most."""
        rivals = resolve_rivals(self.models)
        sizes = sorted(set(self.train_sizes))
        return [
            Cell(rival.name, size, seed)
            for size in sizes
            for seed in range(self.n_seeds)
            for rival in rivals
            if rival.learns
        ] + [
            Cell(rival.name, 0, seed)
            for seed in range(self.n_seeds)
            for rival in rivals
            if not rival.learns
        ]


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    Parameters
    ----------
    results : DataFrame
        See :func:`corrsk.comparison.results_frame`.
    summary : DataFrame
        See :func:`corrsk.comparison.summary_frame`.
    noise : DataFrame
        See :func:`corrsk.comparison.tables.noise_frame`.
    """

    results: pd.DataFrame
    summary: pd.DataFrame
    noise: pd.DataFrame


def compare(
    settings: ComparisonSettings,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    n_jobs: int | None = None,
    console: Console | None = None,
) -> Comparison:
    """Train and judge every rival on the same data and write a folder.

    Parameters
    ----------
    settings : ComparisonSettings
    out : path-like
        Folder for the tables, figures and report.html. It must be new or empty,
        or with `resume` hold a comparison on the same data; its finished cells
        are not repeated, and models, training sizes and seeds may be added.
    resume : bool, default=False
    device : str, default="auto"
        See :class:`corrsk.CorrelationCNNClassifier`.
    n_jobs : int, optional
        Threads of each rival; None (default) for every core.
    console : rich.console.Console, optional
        Where progress is shown. Default: the standard error.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If a name is unknown (the message lists the known ones) or a training
        size is larger than the data.
    FileExistsError
        If the folder holds something else.
    """
    settings.check()
    resolve_device(device)
    threads = effective_n_jobs(n_jobs)
    out = Path(out)
    claim_folder(out, settings.identity, resume=resume)
    folder = out / "cells"
    folder.mkdir(exist_ok=True)
    n_test = settings.test_samples or settings.samples
    workplace = Workplace(settings.definition, settings.samples, n_test, threads, device, folder)
    for partial in folder.glob(".*.partial*"):  # of a process that was killed while it wrote
        partial.unlink()
    results: list[CellResult] = []
    try:
        _run_cells(settings, workplace, results, console or Console(stderr=True))
    finally:  # what was computed before Ctrl-C is worth a look as well
        if results:
            comparison = _report(settings, results, device, n_jobs, out)
    return comparison


def _report(
    settings: ComparisonSettings,
    results: list[CellResult],
    device: str,
    n_jobs: int | None,
    out: Path,
) -> Comparison:
    comparison = Comparison(results_frame(results), summary_frame(results), noise_frame(results))
    missing = len(settings.cells()) - len(results)
    run = {
        "dataset": settings.definition.name,
        "about": _about(settings)
        + (f" Stopped before its end: {missing} cells are missing." if missing else ""),
        "command": _command(settings, device, n_jobs),
        "environment": environment(effective_n_jobs(n_jobs), more_packages=BOOSTING_PACKAGES),
    }
    write_report(out, comparison.results, comparison.summary, comparison.noise, run)
    return comparison


def _run_cells(
    settings: ComparisonSettings, workplace: Workplace, results: list[CellResult], console: Console
) -> None:
    """Run the cells and append what comes of each to `results`."""
    cells = settings.cells()
    protocol = resolve_protocol(workplace.definition.protocol).in_grid_order()
    with _Board(cells, console) as board, Worker(workplace) as worker:
        for cell in cells:
            board.begin(cell)
            result = _without_running(cell, protocol, settings.limits, workplace.cells)
            if result is None:
                result = worker.run(cell, board.tick)
                write_cell(workplace.cells, result)
                if result.status == "done":
                    for checkpoint in workplace.cells.glob(f"{cell.stem}-*.checkpoint"):
                        checkpoint.unlink()
            results.append(result)
            board.end(result)


def _without_running(
    cell: Cell, protocol: AcquisitionProtocol, limits: bool, folder: Path
) -> CellResult | None:
    """The result of a cell that is known, or that cannot be; None if it must be run."""
    rival = RIVALS[cell.rival]
    obstacle = rival.obstacle(protocol)
    too_large = limits and rival.max_train is not None and cell.n_train > rival.max_train
    if obstacle is None and too_large:
        obstacle = f"takes long beyond {rival.max_train:,} training signals; --no-limits trains it"
    if obstacle is not None:
        return CellResult(cell, "skipped", obstacle, {})
    known = read_cell(folder, cell)
    if known is not None and known.content["estimator"] == fingerprint(
        rival, Task(protocol, cell.seed)
    ):
        return known
    return None


class _Board:
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
        self.cell, self.cell_started = cell, time.monotonic()
        self.tick()

    def tick(self) -> None:
        now, size = time.monotonic(), self.cell.n_train
        state = f"{f'{size:,} signals, ' if size else ''}seed {self.cell.seed}"
        self.progress.update(
            self.bars[self.cell.rival], state=f"{state}, {now - self.cell_started:.0f} s"
        )
        self.progress.update(self.whole, state=f"{now - self.started:.0f} s")

    def end(self, result: CellResult) -> None:
        state = "" if result.status == "done" else result.status
        self.progress.update(self.bars[result.cell.rival], advance=1, state=state)
        self.progress.update(self.whole, advance=1)
        if not self.console.is_terminal:  # a log wants lines, not bars
            self.console.print(_line(result), soft_wrap=True, highlight=False)

    def __enter__(self) -> _Board:
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


def _about(settings: ComparisonSettings) -> str:
    protocol = "" if settings.protocol is None else f" on the protocol {settings.protocol!r}"
    test = settings.test_samples or round(0.1 * settings.samples)
    return (
        f"{settings.samples:,} simulated signals of {settings.dataset}{protocol} for each of "
        f"{settings.n_seeds} seeds, judged on up to {test:,} test signals."
    )


def _command(settings: ComparisonSettings, device: str, n_jobs: int | None) -> str:
    options = {
        "dataset": settings.dataset,
        "models": settings.models and ",".join(settings.models),
        "train-sizes": ",".join(map(str, settings.train_sizes)),
        "seeds": settings.n_seeds,
        "samples": settings.samples,
        "test-samples": settings.test_samples,
        "protocol": None if settings.protocol is None else "PROTOCOL.json",
        "device": None if device == "auto" else device,
        "jobs": n_jobs,
    }
    given = [f"--{key} {shlex.quote(str(value))}" for key, value in options.items() if value]
    return f"corrsk benchmark {' '.join(given)}{'' if settings.limits else ' --no-limits'}"
