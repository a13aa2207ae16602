"""Command `corrsk reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corrsk.cli.options import Config, Dataset, Device, Jobs, Samples, Seed, chosen_dataset
from corrsk.cli.output import clear_errors, logger, print_table


def reproduce(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="Folder for the results: new, empty, or one to --resume.")
    ] = Path("corrsk-reproduce"),
    dataset: Dataset = "midl2024-low-noise",
    config: Config = None,
    mat: Annotated[
        Path | None,
        typer.Option(
            help="Data file in place of simulated data, in the layout of the code published with "
            "the paper: input_train (n_samples, 1, n_ti, n_te), label_train, .."
        ),
    ] = None,
    samples: Samples = 1_000_000,
    recipe: Annotated[
        str,
        typer.Option(
            help="Training of the network: 'default' takes minutes, 'paper' is the published "
            "training (3000 epochs; hours without a GPU)."
        ),
    ] = "default",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of epochs. Default: that of the recipe.")
    ] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    seed: Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the interrupted run in --out.")
    ] = False,
) -> None:
    """Reproduce the experiment of the paper: simulate, fit, evaluate, write a report.

    Simulates voxels of 1 to 4 compartments, splits their signals 70/20/10, trains the CNN of the
    paper to count the compartments, and writes a folder with report.md, metrics.json, figures and
    the fitted model. The report compares the results with those of the paper.
    """
    from corrsk.evaluation import results_table
    from corrsk.workflows.reproduction import REPORT, Configuration, paper_reference
    from corrsk.workflows.reproduction import reproduce as run

    stopped = f"stopped; the same command with --resume resumes the run (results in {out})"
    with clear_errors(stopped):
        if mat is not None and config is not None:
            raise ValueError(f"--mat {mat} and --config {config} both define the data")
        configuration = Configuration(
            dataset=chosen_dataset(context, dataset, config), mat=None if mat is None else str(mat),
            n_samples=samples, recipe=recipe, epochs=epochs, seed=seed,
        )  # fmt: skip
        evaluation = run(configuration, out, resume=resume, device=device, n_jobs=jobs)
        table = results_table(evaluation, paper_reference(evaluation))
        print_table(f"test set of {evaluation.n_samples:,}", table)
        logger.info("report: %s", out / REPORT)
