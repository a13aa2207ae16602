"""Command `corrsk pretrain`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from corrsk.cli.options import NAMES, Config, Device, Jobs, Seed
from corrsk.cli.output import clear_errors, logger
from corrsk.simulation.definition import DatasetDefinition


def pretrain(
    name: Annotated[
        str,
        typer.Argument(
            help=f"Model: {NAMES}, each for signals of any scale of the data set of its name; "
            "t1t2-detr-m0, for signals of t1t2-detr with M0 = 1; or "
            "scanner-ir-se-8x8-compartments, of compartments; with --config, the name of the new "
            "model."
        ),
    ],
    config: Config = None,
    out: Annotated[Path, typer.Option(help="Folder for the model and its card.")] = Path("models"),
    samples: Annotated[
        int | None,
        typer.Option(
            min=1000,
            help="Number of signals to train on, each used once.",
            show_default="that of the shipped model; 40000000 with --config",
        ),
    ] = None,
    signals: Annotated[int | None, typer.Option(min=1000, hidden=True)] = None,
    seed: Seed = 0,
    device: Device = "auto",
    jobs: Jobs = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing model.")] = False,
) -> None:
    """Train one of the models shipped with corrsk, or a model for other data.

    The model is trained on a stream of fresh signals.

    Writes NAME.safetensors, for load_pretrained(NAME, folder=OUT), and the model card NAME.json
    and NAME.md. The same command resumes an interrupted training.
    """
    from corrsk.pretrained.training import pretrain as run

    with clear_errors(f"stopped; the same command resumes the training (checkpoint in {out})"):
        if signals is not None:
            logger.warning(
                "--signals is deprecated and will be removed in the next release; use --samples"
            )
            if samples is not None:
                raise ValueError("--signals and --samples are the same option; pass only --samples")
            samples = signals
        model: DatasetDefinition | str = name
        if config is not None:
            model = dataclasses.replace(DatasetDefinition.from_file(config), name=name)
        card = run(
            model, out, n_samples=samples, seed=seed, device=device, n_jobs=jobs, force=force
        )
        for metric, figure in card.metrics.items():
            typer.echo(
                f"{metric.replace('_', ' ')}: {figure['value']:.4f} "
                f"({figure['low']:.4f} to {figure['high']:.4f})"
            )
