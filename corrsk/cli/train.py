"""Command `corrsk train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corrsk.cli.options import Device, Jobs
from corrsk.cli.output import clear_errors, logger


def train(
    config: Annotated[
        Path,
        typer.Argument(
            help="Configuration, a .json, .yaml or .toml file with the entries prior, protocol, "
            "noise, inversion_efficiency and norm, and optionally training (samples or minutes, "
            "seed, network, novelty, validation); see the user guide, Measured images."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File of the model, .safetensors.")],
    samples: Annotated[
        int | None,
        typer.Option(
            help="Number of simulated signals, each used once.",
            show_default="that of the configuration, or 10000000",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Duration in place of a number of signals: the speed is measured for some "
            "seconds, and the number of signals that follows is stored in the model."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Random seed.", show_default="that of the configuration, or 0"),
    ] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the interrupted training beside --out.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing model.")] = False,
) -> None:
    """Train a model for your protocol, tissue and noise, by simulation.

    The model is one file, for corrsk map --model and corrsk.load, with all settings of its
    training and a detector of unusual signals.
    """
    stopped = f"stopped; the same command with --resume resumes the training (checkpoint at {out})"
    with clear_errors(stopped):
        from corrsk.workflows.training import TrainingConfiguration
        from corrsk.workflows.training import train as run

        configuration = TrainingConfiguration.from_file(
            config, samples=samples, minutes=minutes, seed=seed
        )
        model = run(configuration, out, device=device, n_jobs=jobs, resume=resume, force=force)
        network = model[-1]
        logger.info(
            "%s: %s signals in %s epochs of batches of %s", out, f"{model.n_samples:,}",
            network.n_iter_, network.batch_size,
        )  # fmt: skip
