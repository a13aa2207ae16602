"""Command `corrsk map`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from corrsk._utils.files import check_writable, write_json
from corrsk.cli.options import Device, Jobs
from corrsk.cli.output import clear_errors, logger

_FEWEST_DRAWS = 16  # of CompartmentRegressor
_PARTICIPANT = "participant"


def map_command(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[IN]",
            help="Image file (4D NIfTI or .npz), or a folder in BIDS.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OUT]",
            show_default=False,
            help="Folder for the maps: new, empty, or one to --resume.",
        ),
    ] = None,
    level: Annotated[
        str | None,
        typer.Argument(
            metavar="[participant]",
            show_default=False,
            help="Level of the analysis, as BIDS apps have it: 'participant'.",
        ),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option("-i", "--in", help="In place of IN; repeat the option for several files."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="In place of OUT.", show_default=False)
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Name of a shipped model (scanner-ir-se-8x8, scanner-ir-se-8x8-magnitude, for "
            "compartments scanner-ir-se-8x8-compartments, ..), a file written by corrsk train or "
            "corrsk.save, 'multi-exponential' for fits, 'spectrum' "
            "or a .json, .yaml or .toml file of its settings for regularised spectra, or 'auto': "
            "the shipped model for magnitudes or for signed signals, as the images are."
        ),
    ] = "auto",
    compartments: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=6,
            help="Largest number of compartments of 'multi-exponential'.",
            show_default="3, or 2 where the measurements are too few",
        ),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LIMITS",
            help="Part of the spectra whose fraction is mapped, with limits in ms (D in um^2/ms), "
            "such as 'myelin water=T2:0-40' or 'short=T1:0-600,T2:0-40'; repeat the option for "
            "several.",
        ),
    ] = None,
    spectra: Annotated[
        bool,
        typer.Option(
            "--spectra",
            help="Write the spectra, too: a large file, whose size --dry prints.",
        ),
    ] = False,
    draws: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of draws of each round and count of a model of compartments: more draws "
            "make fewer voxels unreliable, and take more time. With 0 the maps are those of the "
            "modes of the posterior, without intervals, in a fraction of the time.",
            show_default="that of the model",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10,
            help="Largest number of rounds of a model of compartments.",
            show_default="that of the model",
        ),
    ] = None,
    times: Annotated[
        str | None,
        typer.Option(
            help="Protocol of the volumes: a .json, .mat, .txt, .csv or .tsv file, or a name. "
            "Default: the sidecars of the images."
        ),
    ] = None,
    mask: Annotated[
        str,
        typer.Option(
            help="File of a mask; {subject} in it is the name of each subject. 'auto': a mask made "
            "of the images; 'none': all voxels with a signal."
        ),
    ] = "auto",
    participant_label: Annotated[
        list[str] | None,
        typer.Option(
            "--participant-label",
            "--participant_label",
            help="Participants of a folder in BIDS, separated by commas. Default: all.",
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            help="Entity or suffix of the files of a folder in BIDS, such as suffix=MESE or "
            "part=mag; repeat the option for several."
        ),
    ] = None,
    join: Annotated[
        bool,
        typer.Option("--join", help="Map all sets of a subject together, as series of its voxels."),
    ] = False,
    te: Annotated[
        float | None,
        typer.Option(
            help="Echo time in ms of sets to --join whose sidecars have none, such as IRT1.",
            show_default=False,
        ),
    ] = None,
    statistics: Annotated[
        str | None,
        typer.Option(
            metavar="ATLAS",
            help="Image of integer labels: write a table of the maps for each. {subject} in the "
            "path is the name of each subject.",
        ),
    ] = None,
    context: Annotated[
        bool,
        typer.Option(
            "--context",
            help="Use the neighbours of each voxel for the number of compartments (networks).",
        ),
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Draw a slice of the maps to a PNG file.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write an HTML page for each subject, with a slice viewer, signals, fits, "
            "spectra, tables and warnings.",
        ),
    ] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="JSON file for the records of all subjects: sources with digests, settings, "
            "versions, warnings, times. Each subject has its own beside its maps anyway.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Scheduler of a dask cluster (tcp://host:8786, or its file), whose workers map "
            "subjects, and slabs of large ones; they need corrsk and the same files. --jobs are "
            "threads of a worker.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in OUT, or add subjects to it; same settings. Subjects whose "
            "images, mask, atlas or protocol have changed are mapped again.",
        ),
    ] = False,
    dry: Annotated[
        bool,
        typer.Option("--dry", help="Print what is read and what would be written, and stop."),
    ] = False,
) -> None:
    """Map the tissue compartments of measured images.

    Writes, with the geometry of the images: the most probable number of compartments, the
    probability of each number and of more than one, entropy, novelty, noise, and T1 and T2 of one
    compartment; with fits also the compartments and their standard errors, with a model of
    compartments their intervals, and where its answers are unreliable. Spectra give fractions
    in windows, the number of peaks, M0, geometric means, misfit and the weight of the penalty. A
    sidecar beside each map has its units, sources and model.

    As BIDS app: corrsk map BIDS OUT participant --participant-label 01. Maps of a folder in BIDS
    are a derivative data set in BIDS.
    """
    target = out or folder
    stopped = f"stopped; the same command with --resume continues (complete maps in {target})"
    with clear_errors(stopped):
        from corrsk.workflows.mapping import (
            MapSettings,
            connected,
            describe_plan,
            find_subjects,
            map_subjects,
        )
        from corrsk.workflows.mapping.spectra import parse_windows

        sources = _sources(source, inputs)
        if target is None or (out is not None and folder is not None):
            raise ValueError("the folder of the maps is needed once: OUT or -o OUT")
        if level not in (None, _PARTICIPANT):
            raise ValueError(f"the level of the analysis must be 'participant', got {level!r}")
        if manifest is not None:
            _check_manifest(manifest)
        subjects = find_subjects(
            sources, times=times, participants=_listed(participant_label),
            select=_selection(select), join=join, te=te,
        )  # fmt: skip
        _check_draws(draws, rounds)
        settings = MapSettings(
            model=model,
            mask=mask,
            atlas=statistics,
            preview=preview,
            report=report,
            n_compartments=compartments,
            context=context,
            windows=parse_windows(window),
            spectra=spectra,
            n_draws=draws,
            max_rounds=rounds,
        )
        if dry:
            typer.echo(describe_plan(subjects, target, settings, resume=resume, n_jobs=jobs))
            return
        with nullcontext() if dask is None else connected(dask) as client:
            records = map_subjects(
                subjects, target, settings, resume=resume, n_jobs=jobs, device=device,
                client=client,
            )  # fmt: skip
        if manifest is not None:
            write_json(manifest, records)
        logger.info("maps: %s", target)


def _check_draws(draws: int | None, rounds: int | None) -> None:
    if draws is not None and 0 < draws < _FEWEST_DRAWS:
        raise ValueError(
            f"--draws must be at least {_FEWEST_DRAWS}, or 0 for no draws; got {draws}"
        )
    if draws == 0 and rounds is not None:
        raise ValueError("--rounds are rounds of draws, which --draws 0 does not have; leave one")


def _check_manifest(manifest: Path) -> None:
    if not manifest.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {manifest.parent} for the manifest")
    if manifest.is_dir():
        raise IsADirectoryError(f"the manifest {manifest} is a folder; choose a file")
    check_writable(manifest.parent)


def _sources(source: Path | None, inputs: list[Path] | None) -> list[Path]:
    if (source is None) == (not inputs):
        raise ValueError("the images are needed once: IN or -i IN")
    return [source] if source is not None else list(inputs or ())


def _listed(labels: list[str] | None) -> list[str] | None:
    found = [label for text in labels or () for label in text.split(",") if label]
    return found or None


def _selection(select: list[str] | None) -> dict[str, list[str]] | None:
    if not select:
        return None
    chosen: dict[str, list[str]] = {}
    for item in select:
        key, mark, value = item.partition("=")
        if not mark or not key:
            raise ValueError(
                f"--select needs an entity and its value, as suffix=MESE; got {item!r}"
            )
        chosen.setdefault(key, []).append(value)
    return chosen
