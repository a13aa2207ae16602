"""Command `corrsk compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corrsk.acquisition.protocol import resolve_protocol
from corrsk.cli.options import Config, Dataset, Device, Jobs, Protocol, Samples, chosen_dataset
from corrsk.cli.output import clear_errors, logger, print_table
from corrsk.simulation.definition import protocol_or_name


def compare(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="Folder for the results: new, empty, or one to --resume.")
    ] = Path("corrsk-compare"),
    dataset: Dataset = "midl2024",
    config: Config = None,
    models: Annotated[
        str,
        typer.Option(help="Models to compare, separated by commas, or 'all'; see --list."),
    ] = "all",
    train_sizes: Annotated[
        str, typer.Option(help="Numbers of training signals, separated by commas.")
    ] = "1000,10000,100000",
    seeds: Annotated[
        int, typer.Option(min=1, help="Repetitions, each with its own seed for data and models.")
    ] = 1,
    samples: Samples = 1_000_000,
    test_samples: Annotated[
        int | None,
        typer.Option(min=10, help="Largest number of test signals. Default: all."),
    ] = None,
    protocol: Protocol = None,
    device: Device = "auto",
    jobs: Jobs = None,
    limits: Annotated[
        bool,
        typer.Option(
            "--limits/--no-limits",
            help="Whether to skip slow models on training sizes that would take hours.",
        ),
    ] = True,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Add to the comparison in --out: missing runs, and further models, training sizes "
            "and seeds.",
        ),
    ] = False,
    show_models: Annotated[bool, typer.Option("--list", help="List the models and exit.")] = False,
) -> None:
    """Compare the CNN with classical learners and model-based methods.

    All models are trained on the same simulated signals and tested on the same test signals.
    Writes tables (CSV, JSON, Markdown), figures and report.html, a self-contained page. If a
    model fails, the tables show the error.
    """
    stopped = f"stopped; the same command with --resume resumes the comparison (results in {out})"
    with clear_errors(stopped):
        from corrsk.workflows.comparison import MODELS, ComparisonSettings
        from corrsk.workflows.comparison import compare as run
        from corrsk.workflows.comparison.tables import SHORT_COLUMNS, best_rows, readable

        if show_models:
            for model in MODELS.values():
                typer.echo(f"{model.name:24}{model.description} ({model.kind})")
            return
        settings = ComparisonSettings(
            dataset=chosen_dataset(context, dataset, config),
            models=None if models == "all" else tuple(_names(models)),
            train_sizes=tuple(_numbers("--train-sizes", train_sizes)), n_seeds=seeds,
            n_samples=samples, n_test_samples=test_samples,
            protocol=None if protocol is None else resolve_protocol(protocol_or_name(protocol)),
            limits=limits,
        )  # fmt: skip
        comparison = run(settings, out, resume=resume, device=device, n_jobs=jobs)
        best = readable(best_rows(comparison.summary))[SHORT_COLUMNS].set_index("model")
        print_table("model", best)
        logger.info("report: %s", out / "report.html")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(number.replace("_", "")) for number in _names(text)]
    except ValueError:
        raise ValueError(
            f"{option} must be integers separated by commas, such as 1000,10000; got {text!r}"
        ) from None
