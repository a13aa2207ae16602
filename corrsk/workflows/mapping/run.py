"""Run over subjects: from images to a folder of maps, slab by slab."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from corrsk._utils.environment import environment
from corrsk._utils.extras import require
from corrsk._utils.files import read_json, refuse_misfits, write_json
from corrsk._utils.parallel import PROGRESS_DELAY, effective_n_jobs
from corrsk.imaging import MapWriter, load_images
from corrsk.imaging.maps import write_map
from corrsk.neural.training.device import limited_threads, resolve_device
from corrsk.workflows._runs import claimed_folder
from corrsk.workflows.mapping.models import AUTO, LoadedModel, Mapper, load_model, make_mapper
from corrsk.workflows.mapping.notes import Notes
from corrsk.workflows.mapping.outputs import (
    MapSpec,
    describe_data_set,
    named,
    report_path,
    sidecar,
    write_lookup,
)
from corrsk.workflows.mapping.preview import Preview
from corrsk.workflows.mapping.statistics import LabelStatistics
from corrsk.workflows.mapping.subjects import Subject
from corrsk.workflows.mapping.survey import AUTO_MASK, NO_MASK, Survey, survey_images

_logger = logging.getLogger(__name__)

SLAB_BYTES = 48 * 1024**2  # signals of a slab; networks and detectors need a few times as much
_MASK = MapSpec("mask", "desc-mapped_mask", "Voxels that are mapped.", "uint8")
_SUBJECT = "{subject}"


@dataclass(frozen=True)
class MapSettings:
    """What a run maps, and how.

    Parameters
    ----------
    model : str, path-like or estimator, default="auto"
        Name of a shipped model, a file written by :func:`corrsk.save`, "multi-exponential" for
        fits, or a fitted SimulationTrainedClassifier or MultiExponentialClassifier. "auto" is
        "scanner-ir-se-8x8" for signed signals and "scanner-ir-se-8x8-magnitude" for others.
    mask : path-like or str, default="auto"
        File of a mask; "auto" for that of the images or one made of them; "none" for all voxels
        with a signal. ``{subject}`` in a path is replaced by the name of the subject.
    atlas : path-like, optional
        File of integer labels, for a table of the maps; ``{subject}`` as in `mask`.
    preview : bool, default=False
        Whether to draw a picture of a slice.
    slab_bytes : int, default=50331648
        Size of the signals that are read at a time.
    """

    model: Any = AUTO
    mask: str | Path = AUTO_MASK
    atlas: str | Path | None = None
    preview: bool = False
    slab_bytes: int = SLAB_BYTES

    def identity(self, model: LoadedModel) -> dict[str, Any]:
        """Return what a run shares with those that it can resume.

        Parameters
        ----------
        model : LoadedModel
            The model.

        Returns
        -------
        dict
            Plain values.
        """
        return {
            "command": "map", "model": model.description, "mask": str(self.mask),
            "atlas": None if self.atlas is None else str(self.atlas), "preview": self.preview,
        }  # fmt: skip


@dataclass(eq=False)
class _Planned:
    """A subject with its maps, before its values are read."""

    subject: Subject
    mapper: Mapper
    notes: Notes
    statistics: LabelStatistics | None = None
    times: dict[str, float] = field(default_factory=dict)

    @property
    def specs(self) -> list[MapSpec]:
        return [*self.mapper.specs, _MASK]


def describe_plan(
    subjects: Sequence[Subject],
    out: str | Path,
    settings: MapSettings,
    *,
    n_jobs: int | None = None,
) -> str:
    """Describe what a run would read and write, without reading images or writing files.

    Parameters
    ----------
    subjects : sequence of Subject
        The subjects.
    out : path-like
        Folder of the maps.
    settings : MapSettings
        Settings of the run.
    n_jobs : int or None, default=None
        Number of threads.

    Returns
    -------
    str
        For each subject the table of the volumes and the files of the maps; then the model.

    Raises
    ------
    ValueError
        If the model, a mask or an atlas does not fit the images.
    """
    loaded, planned = _plan(subjects, settings, effective_n_jobs(n_jobs), "cpu")
    lines = []
    for one in planned:
        lines += [one.subject.images.summary(), "", "maps:"]
        lines += [f"  {spec.path(Path(out), one.subject)}" for spec in one.specs]
        lines += [f"  {note}" for note in one.mapper.notes] + [""]
    return "\n".join([*lines, f"model: {loaded.description['Name']}"])


def map_subjects(
    subjects: Sequence[Subject],
    out: str | Path,
    settings: MapSettings | None = None,
    *,
    resume: bool = False,
    n_jobs: int | None = None,
    device: str = "auto",
    verbose: bool = True,
) -> list[dict[str, Any]]:
    """Map the tissue compartments of subjects, into a folder.

    Parameters
    ----------
    subjects : sequence of Subject
        The subjects; see :func:`find_subjects`.
    out : path-like
        Folder of the maps: new, empty, or with `resume` that of a run with the same settings.
    settings : MapSettings, optional
        Model, mask and further outputs; None (default) for the defaults.
    resume : bool, default=False
        Whether to add to a run of the same settings: subjects with a record are not mapped again,
        further ones are added.
    n_jobs : int or None, default=None
        Number of threads; None for every core.
    device : str, default="auto"
        Device of a network: "auto", "cpu", "cuda" or "cuda:N".
    verbose : bool, default=True
        Whether to show a progress bar.

    Returns
    -------
    list of dict
        Record of each subject, as in its file: sources with digests, settings, model, versions,
        warnings, maps and times.

    Raises
    ------
    ValueError
        If the model, a mask or an atlas does not fit the images (before any file is written), or
        the values of images are unusable. A failed subject does not stop the others.
    FileExistsError
        If another process uses the folder, or it has other files, or a run of other settings.
    ImportError
        If the extra `imaging` is not installed.

    Notes
    -----
    A map appears under its name when it is complete, its sidecar after it, and the record of a
    subject last: an interrupted run leaves whole maps only, and `resume` continues with the first
    subject without a record.
    """
    require("nibabel", extra="imaging", purpose="writing maps")
    settings = MapSettings() if settings is None else settings
    out, threads = Path(out), effective_n_jobs(n_jobs)
    resolve_device(device)
    loaded, planned = _plan(subjects, settings, threads, device)
    with claimed_folder(out, settings.identity(loaded), resume=resume):
        data_set = planned[0].subject.data_set
        if data_set is not None:
            describe_data_set(out, data_set)
        records, failed = [], []
        with limited_threads(threads):
            for one in planned:
                report = report_path(out, one.subject)
                if report.exists():
                    records.append(_finished(report, one.subject))
                    continue
                try:
                    records.append(_map_subject(one, out, settings, loaded, threads, verbose))
                except ValueError as error:
                    if len(planned) == 1:
                        raise
                    _logger.error("%s: %s", one.subject.name, error)
                    failed.append(f"{one.subject.name} ({error})")
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(planned)} subjects failed, the others are complete: "
                + "; ".join(failed)
            )
        return records


def _finished(report: Path, subject: Subject) -> dict[str, Any]:
    """Record of a subject that was mapped before, of the same images."""
    record: dict[str, Any] = read_json(report)
    with refuse_misfits(report, "the record of a map", "; remove the file"):
        sources = [source["file"] for source in record["sources"]]
    if sources != _files(subject):
        raise FileExistsError(
            f"{report.parent} has maps of other images of {subject.name}; choose another folder"
        )
    _logger.info("%s: finished before (%s)", subject.name, report)
    return record


def _files(subject: Subject) -> list[str]:
    return [str(Path(source).absolute()) for source in subject.images.sources]


def _plan(
    subjects: Sequence[Subject], settings: MapSettings, n_jobs: int, device: str
) -> tuple[LoadedModel, list[_Planned]]:
    """Load the model and compare it, masks and atlases with the images of all subjects."""
    if not subjects:
        raise ValueError("there are no subjects to map")
    loaded = load_model(settings.model, [one.images for one in subjects])
    planned = []
    for subject in subjects:
        notes = Notes(subject.name)
        for category, text in subject.warnings:
            notes.add(category, text)
        try:
            with notes.collect():
                if str(settings.mask) not in (AUTO_MASK, NO_MASK):
                    path = str(settings.mask).replace(_SUBJECT, subject.name)
                    subject = replace(subject, images=load_images(subject.images, mask=path))
                mapper = make_mapper(loaded, subject.images, n_jobs=n_jobs, device=device)
                one = _Planned(subject, mapper, notes)
                if settings.atlas is not None:
                    atlas = str(settings.atlas).replace(_SUBJECT, subject.name)
                    one.statistics = LabelStatistics(atlas, subject.images, mapper.classes)
        except ValueError as error:
            if len(subjects) == 1:
                raise
            raise type(error)(f"{subject.name}: {error}") from error
        for text in mapper.notes:
            notes.add("note", text)
        planned.append(one)
    return loaded, planned


def _map_subject(
    one: _Planned, out: Path, settings: MapSettings, loaded: LoadedModel, threads: int,
    verbose: bool,
) -> dict[str, Any]:  # fmt: skip
    subject, mapper, notes = one.subject, one.mapper, one.notes
    images = subject.images
    started, begin = datetime.now(UTC), time.perf_counter()
    folder = out / subject.folder
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    mode = NO_MASK if str(settings.mask) == NO_MASK else AUTO_MASK
    survey = survey_images(images, mode, slab_bytes=settings.slab_bytes)
    if survey.n_dark:
        notes.add(
            "NoSignalWarning",
            f"{survey.n_dark} voxels of the mask have no signal (all zero, or NaN); they are not "
            "mapped",
        )
    n_before = len(mapper.notes)
    with notes.collect():
        mapper.prepare(survey.sample)
    for text in mapper.notes[n_before:]:
        notes.add("note", text)
    one.times["read"] = time.perf_counter() - begin
    _logger.info("%s: mapping %s voxels", subject.name, f"{survey.n_voxels:,}")
    preview = Preview(images, survey.mask) if settings.preview else None
    _write_maps(one, out, settings, loaded, survey, preview, verbose)
    one.times["maps"] = time.perf_counter() - begin - one.times["read"]
    files = [spec.path(out, subject) for spec in one.specs]
    if one.statistics is not None:
        path = named(out, subject, "statistics", "statistics", ".tsv")
        one.statistics.write(path)
        files.append(path)
    if preview is not None:
        path = named(out, subject, "preview", "preview", ".png")
        preview.write(path)
        files.append(path)
    one.times["total"] = time.perf_counter() - begin
    record = {
        "subject": subject.name,
        "warnings": notes.found,
        "sources": [{"file": file, "sha256": _digest(Path(file))} for file in _files(subject)],
        "protocol": images.protocol.to_dict(),
        "signals": list(images.kinds),
        "mask": {"origin": survey.origin, "file": str(settings.mask), "n_voxels": survey.n_voxels},
        "model": loaded.description,
        "settings": mapper.settings,
        "maps": [path.relative_to(out).as_posix() for path in files],
        "versions": environment(threads, more_packages=("nibabel", "scikit-image")),
        "started": started.isoformat(timespec="seconds"),
        "seconds": {key: round(value, 2) for key, value in one.times.items()},
    }
    write_json(report_path(out, subject), record)
    return record


def _write_maps(
    one: _Planned, out: Path, settings: MapSettings, loaded: LoadedModel, survey: Survey,
    preview: Preview | None, verbose: bool,
) -> None:  # fmt: skip
    subject, images = one.subject, one.subject.images
    with ExitStack() as files:
        writers = {
            spec.key: files.enter_context(
                MapWriter(
                    spec.path(out, subject), images, dtype=spec.dtype, n_maps=spec.n_maps,
                    sidecar=sidecar(spec, subject, loaded.description),
                )
            )
            for spec in one.mapper.specs
        }  # fmt: skip
        bar = files.enter_context(
            tqdm(
                total=survey.n_voxels, desc=subject.name, unit="voxels", unit_scale=True,
                delay=PROGRESS_DELAY, disable=not verbose, leave=False,
            )
        )  # fmt: skip
        for slab in images.slabs(survey.mask, max_bytes=settings.slab_bytes):
            if not slab.n_voxels:
                for writer in writers.values():
                    writer.write(slab, None)
                continue
            with one.notes.collect():
                maps = one.mapper.compute(slab.signals.to_numpy())
            for key, writer in writers.items():
                writer.write(slab, maps[key])
            for sink in (one.statistics, preview):
                if sink is not None:
                    sink.add(slab, maps)
            bar.update(slab.n_voxels)
    write_map(
        _MASK.path(out, subject), survey.mask.astype("uint8"), images,
        sidecar=sidecar(_MASK, subject, loaded.description) | {"Origin": survey.origin},
    )  # fmt: skip
    labels = next(spec for spec in one.specs if spec.key == "labels")
    counts = {int(k): f"{k} compartment{'s' if k > 1 else ''}" for k in one.mapper.classes}
    lookup = labels.path(out, subject).name.removesuffix(".nii.gz") + ".tsv"
    write_lookup(out / subject.folder / lookup, counts)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of a run that was killed."""
    for path in folder.glob(".*-*.partial.*"):
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
