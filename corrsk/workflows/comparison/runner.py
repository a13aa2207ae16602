"""Runner of the comparison, from settings to files; an interrupted comparison can be resumed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from corrsk._utils.files import MISFITS, InvalidFileError, read_json, write_json
from corrsk._utils.parallel import effective_n_jobs
from corrsk.neural.training.device import resolve_device
from corrsk.simulation.definition import DatasetDefinition
from corrsk.workflows._runs import claimed_folder, write_config
from corrsk.workflows.comparison.models import MODELS, BuildOptions
from corrsk.workflows.comparison.progress import RunProgress
from corrsk.workflows.comparison.report import write_report
from corrsk.workflows.comparison.runs import (
    Run,
    RunResult,
    fingerprint,
    read_run,
    stored_run,
    write_run,
)
from corrsk.workflows.comparison.settings import ComparisonSettings, about, command_line
from corrsk.workflows.comparison.tables import noise_frame, results_frame, summary_frame
from corrsk.workflows.comparison.worker import RunContext, Worker

_COMMANDS = "commands.json"  # the distinct commands that filled the folder
RUNS_FOLDER = "cells"  # name in folders of the first version


@dataclass(frozen=True)
class Comparison:
    """Results of a comparison as tables.

    Parameters
    ----------
    results : DataFrame
        Results of each run; see :func:`corrsk.workflows.comparison.results_frame`.
    summary : DataFrame
        Summary over the seeds; see :func:`corrsk.workflows.comparison.summary_frame`.
    noise : DataFrame
        Accuracies by noise level; see
        :func:`corrsk.workflows.comparison.tables.noise_frame`.
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
    """Train and test every model on the same data, and write a folder of results.

    Parameters
    ----------
    settings : ComparisonSettings
        Models, training sizes, seeds and data.
    out : path-like
        Folder for the tables, figures and report.html. The folder must be new or empty,
        or with `resume` contain a comparison on the same data, whose finished runs
        are not repeated. Later calls may add models, training sizes and seeds; the report
        covers all runs in the folder.
    resume : bool, default=False
        Whether to add to the comparison in `out`.
    device : str, default="auto"
        See :class:`corrsk.CorrelationCNNClassifier`.
    n_jobs : int, optional
        Number of threads of each model; None (default) for OMP_NUM_THREADS, or every core.
    console : rich.console.Console, optional
        Where to show the progress. Default: the standard error.

    Returns
    -------
    Comparison
        Tables of all runs in the folder.

    Raises
    ------
    ValueError
        If a name is unknown (the message lists the available names), a number is too small, or a
        training size is larger than the data.
    FileExistsError
        If another process uses the folder, or the folder contains other files, or a comparison
        that is not to be resumed.
    """
    settings.check()
    resolve_device(device)
    threads = effective_n_jobs(n_jobs)
    out = Path(out)
    with claimed_folder(out, settings.identity, resume=resume):
        write_config(out, settings.dataset)
        folder = out / RUNS_FOLDER
        folder.mkdir(exist_ok=True)
        n_test = settings.n_test_samples or settings.n_samples
        context = RunContext(
            settings.definition, settings.n_samples, n_test, threads, device, folder
        )
        results: list[RunResult] = []
        try:
            _execute_runs(settings, context, results, console or Console(stderr=True))
        finally:  # a report after Ctrl-C, too
            if results:
                command = command_line(settings, device, n_jobs)
                comparison = _report(settings, results, command, out)
        return comparison


def _report(
    settings: ComparisonSettings, results: list[RunResult], command: str, out: Path
) -> Comparison:
    """Report on these results and on those of earlier calls in the folder."""
    missing = len(settings.runs()) - len(results)
    results = results + _others(settings, {result.run for result in results}, out / RUNS_FOLDER)
    comparison = Comparison(results_frame(results), summary_frame(results), noise_frame(results))
    commands = [*(line for line in _earlier_commands(out) if line != command), command]
    write_json(out / _COMMANDS, commands)
    run = {
        "dataset": settings.definition.name,
        "config": settings.definition.to_dict(),
        "about": about(settings)
        + (f" Stopped early: {missing} runs are missing." if missing else ""),
        "commands": commands,
        "environment": _common_environment(results),
    }
    write_report(out, comparison.results, comparison.summary, comparison.noise, run)
    return comparison


def _earlier_commands(out: Path) -> list[str]:
    path = out / _COMMANDS
    try:
        commands = read_json(path) if path.exists() else []
    except InvalidFileError:
        commands = None
    if not isinstance(commands, list) or not all(isinstance(line, str) for line in commands):
        warnings.warn(f"{path} is damaged; the list of commands starts anew", stacklevel=2)
        return []
    return commands


def _others(settings: ComparisonSettings, known: set[Run], folder: Path) -> list[RunResult]:
    """Results of earlier calls other than the given runs."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json(path)
            run = stored_run(content)
        except MISFITS:
            continue
        if run.model in MODELS and run not in known:
            result = _known(run, settings.definition, folder)
            found += [] if result is None else [result]
    return found


def _known(run: Run, definition: DatasetDefinition, folder: Path) -> RunResult | None:
    """Stored result of a run with the current parameters of its model; None without one."""
    result = read_run(folder, run)
    now = fingerprint(MODELS[run.model], BuildOptions.from_definition(definition, run.seed))
    return result if result is not None and result.content["estimator"] == now else None


def _common_environment(results: list[RunResult]) -> dict[str, str]:
    """Versions and machines of the runs; distinct values are joined."""
    seen: dict[str, dict[str, None]] = {}
    for result in results:
        for key, value in result.content.get("environment", {}).items():
            seen.setdefault(key, {})[str(value)] = None
    return {key: " / ".join(values) for key, values in seen.items()}


def _execute_runs(
    settings: ComparisonSettings, context: RunContext, results: list[RunResult], console: Console
) -> None:
    """Execute the runs and append their results to `results`."""
    runs = settings.runs()
    with RunProgress(runs, console) as progress, Worker(context) as worker:
        for run in runs:
            progress.begin(run)
            result = _without_running(run, context.definition, settings.limits, context.runs)
            if result is None:
                result = worker.run(run, progress.tick)
                write_run(context.runs, result)
                if result.status == "done":
                    for checkpoint in context.runs.glob(f"{run.stem}-*.checkpoint"):
                        checkpoint.unlink()
            results.append(result)
            progress.end(result)


def _without_running(
    run: Run, definition: DatasetDefinition, limits: bool, folder: Path
) -> RunResult | None:
    """Result of a run that is stored or must be skipped; None if the run must be executed."""
    model = MODELS[run.model]
    obstacle = model.obstacle(BuildOptions.from_definition(definition, run.seed).protocol)
    too_large = limits and model.max_train is not None and run.n_train > model.max_train
    if obstacle is None and too_large:
        obstacle = (
            f"the training takes long beyond {model.max_train:,} signals; pass --no-limits to "
            "include it"
        )
    if obstacle is not None:
        return RunResult(run, "skipped", obstacle, {})
    return _known(run, definition, folder)
