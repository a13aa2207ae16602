"""Command `corrsk simulate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from corrsk._utils.locks import exclusive
from corrsk.cli.options import Config, Dataset, Jobs, Protocol, Samples, Seed, chosen_dataset
from corrsk.cli.output import clear_errors, logger
from corrsk.physics.noise_levels import SNRRange, checked_noise_levels
from corrsk.simulation.datasets import resolve_dataset, simulate_dataset
from corrsk.simulation.definition import protocol_or_name
from corrsk.simulation.files import SUFFIXES, check_suffix, write_dataset


def simulate(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Argument(help=f"File to write; its suffix sets the format: {', '.join(SUFFIXES)}."),
    ],
    dataset: Dataset = "midl2024",
    config: Config = None,
    samples: Samples = 1_000_000,
    protocol: Protocol = None,
    noise_level: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            help="Noise level in place of those of the data set, as a fraction (0.01 is 1 %). "
            "Repeat the option for several levels, which are equally frequent.",
        ),
    ] = None,
    noise_reference: Annotated[
        str | None,
        typer.Option(
            help="Reference of the noise level: m0, max (largest absolute signal) or rms."
        ),
    ] = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Simulate a data set and write it to a file.

    An .npz file contains arrays (data, target, noise_level, tissue, indices of the 70/20/10
    split), a .parquet file one row per signal, a .mat file the layout of the code published with
    the paper (input_train, label_train, ..).
    """
    with clear_errors("stopped; nothing was written"):
        check_suffix(out)
        if not out.parent.is_dir():
            raise FileNotFoundError(f"the folder {out.parent} does not exist")
        definition = resolve_dataset(chosen_dataset(context, dataset, config))
        changes: dict[str, Any] = {}
        if protocol is not None:
            changes["protocol"] = protocol_or_name(protocol)
        if noise_level:
            changes["noise_levels"] = tuple(noise_level)
        if noise_reference is not None:
            changes["noise_reference"] = noise_reference
        if changes:
            changes["name"] = f"{definition.name} with other {' and '.join(changes)}"
            definition = dataclasses.replace(definition, **changes)
        with exclusive(out):
            if out.exists() and not force:
                raise FileExistsError(f"{out} exists; choose another name or pass --force")
            logger.info("simulating %s signals of %s", f"{samples:,}", definition.name)
            data = simulate_dataset(definition, samples, seed, n_jobs=jobs)
            if out.suffix == ".mat" and not _whole_percents(definition.noise_levels):
                logger.info(
                    "note: the published code requires noise levels in whole percents; its plots "
                    "over the noise level round those of this data set to 0"
                )
            logger.info("writing %s", out)
            write_dataset(data, out)


def _whole_percents(levels: float | tuple[float, ...] | SNRRange) -> bool:
    checked = checked_noise_levels(levels)
    return not isinstance(checked, SNRRange) and not any(round(100 * x, 9) % 1 for x in checked)
