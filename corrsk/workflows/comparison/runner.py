"""The comparison from its settings to its files; stopped at any time, it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from corrsk._utils.files import read_json, write_json
from corrsk._utils.parallel import effective_n_jobs
from corrsk.neural.training import resolve_device
from corrsk.simulation.datasets import DatasetDefinition
from corrsk.workflows._runs import claim_folder
from corrsk.workflows.comparison.cells import (
    Cell,
    CellResult,
    fingerprint,
    read_cell,
    write_cell,
)
from corrsk.workflows.comparison.progress import Board
from corrsk.workflows.comparison.report import write_report
from corrsk.workflows.comparison.rivals import RIVALS, Task
from corrsk.workflows.comparison.settings import ComparisonSettings, about, command_line
from corrsk.workflows.comparison.tables import noise_frame, results_frame, summary_frame
from corrsk.workflows.comparison.worker import CellContext, Worker

_COMMANDS = "commands.json"  # that filled the folder, each once


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    Parameters
    ----------
    results : DataFrame
        See :func:`corrsk.comparison.results_frame`.
    summary : DataFrame
        See :func:`corrsk.workflows.comparison.summary_frame`.
    noise : DataFrame
        See :func:`corrsk.workflows.comparison.tables.noise_frame`.
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
        are not repeated. Models, training sizes and seeds may be added, call by
        call: the report is on all that the folder holds.
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
    context = CellContext(settings.definition, settings.samples, n_test, threads, device, folder)
    for partial in folder.glob(".*.partial*"):  # of a process that was killed while it wrote
        partial.unlink()
    results: list[CellResult] = []
    try:
        _run_cells(settings, context, results, console or Console(stderr=True))
    finally:  # what was computed before Ctrl-C is worth a look as well
        if results:
            comparison = _report(settings, results, command_line(settings, device, n_jobs), out)
    return comparison


def _report(
    settings: ComparisonSettings, results: list[CellResult], command: str, out: Path
) -> Comparison:
    """Report on these results and on all that earlier calls left in the folder."""
    missing = len(settings.cells()) - len(results)
    results = results + _others(settings, {result.cell for result in results}, out / "cells")
    comparison = Comparison(results_frame(results), summary_frame(results), noise_frame(results))
    commands = read_json(out / _COMMANDS) if (out / _COMMANDS).exists() else []
    commands = [*(line for line in commands if line != command), command]
    write_json(out / _COMMANDS, commands)
    run = {
        "dataset": settings.definition.name,
        "about": about(settings)
        + (f" Stopped before its end: {missing} cells are missing." if missing else ""),
        "commands": commands,
        "environment": _common_environment(results),
    }
    write_report(out, comparison.results, comparison.summary, comparison.noise, run)
    return comparison


def _others(settings: ComparisonSettings, known: set[Cell], folder: Path) -> list[CellResult]:
    """What earlier calls computed beside the cells of this one."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json(path)
            cell = Cell(content["rival"], content["n_train"], content["seed"])
        except (ValueError, KeyError, TypeError):
            continue
        if cell.rival in RIVALS and cell not in known:
            result = _known(cell, settings.definition, folder)
            found += [] if result is None else [result]
    return found


def _known(cell: Cell, definition: DatasetDefinition, folder: Path) -> CellResult | None:
    """A cell that is done, with the parameters that its rival has now."""
    result = read_cell(folder, cell)
    now = fingerprint(RIVALS[cell.rival], Task.of(definition, cell.seed))
    return result if result is not None and result.content["estimator"] == now else None


def _common_environment(results: list[CellResult]) -> dict[str, str]:
    """Versions and machines of the cells; several stand side by side."""
    seen: dict[str, dict[str, None]] = {}
    for result in results:
        for key, value in result.content.get("environment", {}).items():
            seen.setdefault(key, {})[str(value)] = None
    return {key: " / ".join(values) for key, values in seen.items()}


def _run_cells(
    settings: ComparisonSettings, context: CellContext, results: list[CellResult], console: Console
) -> None:
    """Run the cells and append what comes of each to `results`."""
    cells = settings.cells()
    with Board(cells, console) as board, Worker(context) as worker:
        for cell in cells:
            board.begin(cell)
            result = _without_running(cell, context.definition, settings.limits, context.cells)
            if result is None:
                result = worker.run(cell, board.tick)
                write_cell(context.cells, result)
                if result.status == "done":
                    for checkpoint in context.cells.glob(f"{cell.stem}-*.checkpoint"):
                        checkpoint.unlink()
            results.append(result)
            board.end(result)


def _without_running(
    cell: Cell, definition: DatasetDefinition, limits: bool, folder: Path
) -> CellResult | None:
    """The result of a cell that is known, or that cannot be; None if it must be run."""
    rival = RIVALS[cell.rival]
    obstacle = rival.obstacle(Task.of(definition, cell.seed).protocol)
    too_large = limits and rival.max_train is not None and cell.n_train > rival.max_train
    if obstacle is None and too_large:
        obstacle = f"takes long beyond {rival.max_train:,} training signals; --no-limits trains it"
    if obstacle is not None:
        return CellResult(cell, "skipped", obstacle, {})
    return _known(cell, definition, folder)
