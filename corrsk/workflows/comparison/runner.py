"""The comparison from its settings to its files; stopped at any time, it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from corrsk._utils.files import read_json, write_json
from corrsk._utils.parallel import effective_n_jobs
from corrsk.neural.training.device import resolve_device
from corrsk.simulation.datasets import DatasetDefinition
from corrsk.workflows._runs import claim_folder
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

_COMMANDS = "commands.json"  # that filled the folder, each once
RUNS_FOLDER = "cells"  # the name that folders of the first version have


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    Parameters
    ----------
    results : DataFrame
        See :func:`corrsk.workflows.comparison.results_frame`.
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
    """Train and judge every model on the same data and write a folder.

    Parameters
    ----------
    settings : ComparisonSettings
    out : path-like
        Folder for the tables, figures and report.html. It must be new or empty,
        or with `resume` hold a comparison on the same data; its finished runs
        are not repeated. Models, training sizes and seeds may be added, call by
        call: the report is on all that the folder holds.
    resume : bool, default=False
    device : str, default="auto"
        See :class:`corrsk.CorrelationCNNClassifier`.
    n_jobs : int, optional
        Threads of each model; None (default) for every core.
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
    folder = out / RUNS_FOLDER
    folder.mkdir(exist_ok=True)
    n_test = settings.n_test_samples or settings.n_samples
    context = RunContext(settings.definition, settings.n_samples, n_test, threads, device, folder)
    for partial in folder.glob(".*.partial*"):  # of a process that was killed while it wrote
        partial.unlink()
    results: list[RunResult] = []
    try:
        _execute_runs(settings, context, results, console or Console(stderr=True))
    finally:  # what was computed before Ctrl-C is worth a look as well
        if results:
            comparison = _report(settings, results, command_line(settings, device, n_jobs), out)
    return comparison


def _report(
    settings: ComparisonSettings, results: list[RunResult], command: str, out: Path
) -> Comparison:
    """Report on these results and on all that earlier calls left in the folder."""
    missing = len(settings.runs()) - len(results)
    results = results + _others(settings, {result.run for result in results}, out / RUNS_FOLDER)
    comparison = Comparison(results_frame(results), summary_frame(results), noise_frame(results))
    commands = read_json(out / _COMMANDS) if (out / _COMMANDS).exists() else []
    commands = [*(line for line in commands if line != command), command]
    write_json(out / _COMMANDS, commands)
    run = {
        "dataset": settings.definition.name,
        "about": about(settings)
        + (f" Stopped before its end: {missing} runs are missing." if missing else ""),
        "commands": commands,
        "environment": _common_environment(results),
    }
    write_report(out, comparison.results, comparison.summary, comparison.noise, run)
    return comparison


def _others(settings: ComparisonSettings, known: set[Run], folder: Path) -> list[RunResult]:
    """What earlier calls computed beside the runs of this one."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json(path)
            run = stored_run(content)
        except (ValueError, KeyError, TypeError):
            continue
        if run.model in MODELS and run not in known:
            result = _known(run, settings.definition, folder)
            found += [] if result is None else [result]
    return found


def _known(run: Run, definition: DatasetDefinition, folder: Path) -> RunResult | None:
    """A run that is done, with the parameters that its model has now."""
    result = read_run(folder, run)
    now = fingerprint(MODELS[run.model], BuildOptions.from_definition(definition, run.seed))
    return result if result is not None and result.content["estimator"] == now else None


def _common_environment(results: list[RunResult]) -> dict[str, str]:
    """Versions and machines of the runs; several stand side by side."""
    seen: dict[str, dict[str, None]] = {}
    for result in results:
        for key, value in result.content.get("environment", {}).items():
            seen.setdefault(key, {})[str(value)] = None
    return {key: " / ".join(values) for key, values in seen.items()}


def _execute_runs(
    settings: ComparisonSettings, context: RunContext, results: list[RunResult], console: Console
) -> None:
    """Run the runs and append what comes of each to `results`."""
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
    """The result of a run that is known, or that cannot be; None if it must be run."""
    model = MODELS[run.model]
    obstacle = model.obstacle(BuildOptions.from_definition(definition, run.seed).protocol)
    too_large = limits and model.max_train is not None and run.n_train > model.max_train
    if obstacle is None and too_large:
        obstacle = f"takes long beyond {model.max_train:,} training signals; --no-limits trains it"
    if obstacle is not None:
        return RunResult(run, "skipped", obstacle, {})
    return _known(run, definition, folder)
