"""Run over subjects: from images to a folder of maps, slab by slab."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from corrsk._utils.environment import environment
from corrsk._utils.extras import require
from corrsk._utils.files import check_space, read_json, refuse_misfits, sha256_of, write_json
from corrsk._utils.parallel import PROGRESS_DELAY, effective_n_jobs
from corrsk.imaging import MapWriter
from corrsk.imaging.maps import write_map
from corrsk.neural.training.device import limited_threads, resolve_device
from corrsk.workflows._runs import check_claim, claimed_folder
from corrsk.workflows.mapping.cluster import n_workers, on_workers
from corrsk.workflows.mapping.inputs import are_other_images, changed_inputs
from corrsk.workflows.mapping.models import LoadedModel
from corrsk.workflows.mapping.outputs import (
    describe_data_set,
    html_path,
    report_path,
    sidecar,
    write_lookup,
)
from corrsk.workflows.mapping.plan import MASK, MapSettings, Planned, plan_subjects
from corrsk.workflows.mapping.preview import Preview
from corrsk.workflows.mapping.report import require_report, write_page
from corrsk.workflows.mapping.slabs import Slabs, SlabsHere, SlabsOnWorkers, n_slabs_of
from corrsk.workflows.mapping.subjects import Subject
from corrsk.workflows.mapping.survey import AUTO_MASK, Survey

_logger = logging.getLogger(__name__)


def describe_plan(
    subjects: Sequence[Subject],
    out: str | Path,
    settings: MapSettings,
    *,
    resume: bool = False,
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
    resume : bool, default=False
        Whether the run would add to an earlier one.
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
    FileExistsError
        If the run would refuse the folder.
    """
    loaded, planned = plan_subjects(subjects, settings, effective_n_jobs(n_jobs), "cpu")
    out = Path(out)
    check_claim(out, settings.identity(loaded), resume=resume)
    lines = []
    for one in planned:
        lines.append(one.subject.images.summary())
        if one.subject.images.mask is None and str(settings.mask) == AUTO_MASK:
            lines.append("mask of the maps: made of the images")
        lines += ["", "maps:"]
        lines += [f"  {spec.path(out, one.subject)}" for spec in one.specs]
        lines += [f"size of the maps: {one.describe_size()}"]
        further = {
            one.preview_path(out): settings.preview,
            one.statistics_path(out): one.statistics is not None,
            html_path(out, one.subject): settings.report,
        }
        lines += [f"  {path}" for path, wanted in further.items() if wanted]
        lines += [f"  {note}" for note in one.mapper.notes] + [""]
    context = ", with the neighbours of each voxel" if "Context" in loaded.description else ""
    return "\n".join([*lines, f"model: {loaded.description['Name']}{context}"])


def map_subjects(
    subjects: Sequence[Subject],
    out: str | Path,
    settings: MapSettings | None = None,
    *,
    resume: bool = False,
    n_jobs: int | None = None,
    device: str = "auto",
    client: Any = None,
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
        unless their images, mask, atlas or protocol have changed, or maps are missing; further ones
        are added.
    n_jobs : int or None, default=None
        Number of threads; None for every core.
    device : str, default="auto"
        Device of a network: "auto", "cpu", "cuda" or "cuda:N".
    client : dask.distributed.Client, optional
        Client of a cluster, whose workers map subjects, or slabs of a subject, one at a time, with
        `n_jobs` threads (None for their share of the cores). They need corrsk, and the same files
        in the same places. None (default) for this process.
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
        the values of images are unusable. A failed subject does not stop the others, and leaves
        no file.
    FileExistsError
        If another process uses the folder, or it has other files, a run of other settings or of
        another model, or maps of other images of a subject.
    OSError
        If the folder cannot be written to, or the disk has no space for the maps.
    ImportError
        If the extra `imaging` is not installed, or for reports `report`.

    Notes
    -----
    A map appears under its name when it is complete, its sidecar after it, and the record of a
    subject, and then its report, last: an interrupted run leaves whole maps only, and `resume`
    continues with the first subject without a record.
    """
    require("nibabel", extra="imaging", purpose="writing maps")
    settings = MapSettings() if settings is None else settings
    out, threads = Path(out), effective_n_jobs(n_jobs)
    if settings.report:
        require_report()
    if client is None:
        resolve_device(device)
    # on a cluster, the devices are those of the workers
    loaded, planned = plan_subjects(
        subjects, settings, threads, device if client is None else "cpu"
    )
    with claimed_folder(out, settings.identity(loaded), resume=resume):
        records = _finished(planned, out) if resume else {}
        if settings.report:
            _write_missing_pages(planned, out, records, settings, threads)
        pending = [one for one in planned if one.subject.name not in records]
        check_space(out, max((one.size for one in pending), default=0), "the maps")
        failed = []
        outcomes = (
            _mapped_here(pending, out, settings, loaded, threads, verbose)
            if client is None
            else _mapped_there(client, pending, subjects, out, settings, loaded, n_jobs, device,
                               verbose)
        )  # fmt: skip
        with closing(outcomes):
            for name, result in outcomes:
                if not isinstance(result, Exception):
                    records[name] = result
                    continue
                if len(planned) == 1 and isinstance(result, (ValueError, OSError)):
                    raise result
                text = str(result)
                if not isinstance(result, (ValueError, OSError)):  # such as a killed worker
                    text = f"{type(result).__name__}: {text}"
                _logger.error("%s: %s", name, text)
                failed.append(f"{name} ({text})")
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(planned)} subjects failed, the others are complete: "
                + "; ".join(failed)
            )
    return [records[one.subject.name] for one in planned]


_Outcomes = Generator[tuple[str, Any]]  # name of a subject, and its record or an error


def _mapped_here(
    pending: Sequence[Planned], out: Path, settings: MapSettings, loaded: LoadedModel,
    threads: int, verbose: bool,
) -> _Outcomes:  # fmt: skip
    for one in pending:
        try:
            with limited_threads(threads):
                result = _map_subject(one, out, settings, loaded, threads, verbose)
        except ValueError as error:  # of its images; a full disk ends the run
            yield one.subject.name, error
        else:
            yield one.subject.name, result


def _mapped_there(
    client: Any, pending: Sequence[Planned], subjects: Sequence[Subject], out: Path,
    settings: MapSettings, loaded: LoadedModel, n_jobs: int | None, device: str, verbose: bool,
) -> _Outcomes:  # fmt: skip
    """Map subjects on the workers of a cluster, which open the images and the model themselves.

    Where there are as many subjects as workers, a worker maps whole subjects; the slabs of the
    others, one subject after the other, are spread over all workers.
    """
    sent = settings.for_workers(loaded)
    before = {one.name: one for one in subjects}
    whole, spread = _allocated(pending, settings, n_workers(client))
    noted = {one.subject.name: one.notes for one in whole}
    tasks = {name: (before[name], out.absolute(), sent, n_jobs, device) for name in noted}
    with closing(on_workers(client, _map_in_worker, tasks, verbose=verbose)) as outcomes:
        for name, result in outcomes:
            if not isinstance(result, Exception):
                for warning in result["warnings"]:
                    noted[name].add(warning["category"], warning["message"])
                _logger.info("%s: mapped %s voxels", name, f"{result['mask']['n_voxels']:,}")
            yield name, result
    threads = effective_n_jobs(n_jobs)
    for one in spread:
        name = one.subject.name
        slabs = SlabsOnWorkers(client, one, before[name], sent, n_jobs, device)
        try:
            with limited_threads(threads):
                result = _map_subject(one, out, settings, loaded, threads, verbose, slabs)
        except Exception as error:  # also of a worker, such as one that was killed too often
            yield name, error
        else:
            _logger.info("%s: mapped %s voxels", name, f"{result['mask']['n_voxels']:,}")
            yield name, result


def _allocated(
    pending: Sequence[Planned], settings: MapSettings, workers: int
) -> tuple[list[Planned], list[Planned]]:
    """Subjects that one worker maps, and those whose slabs are spread over all workers.

    Spread are subjects larger than the equal share of a worker, and as many others as are left
    over if each worker maps the same number of subjects; those with one slab cannot be.
    """
    total = sum(one.subject.images.grid.n_voxels for one in pending)
    whole: list[Planned] = []
    spread: list[Planned] = []
    for one in pending:
        is_large = one.subject.images.grid.n_voxels * workers > total
        (spread if is_large and n_slabs_of(one, settings) > 1 else whole).append(one)
    divisible = [one for one in whole if n_slabs_of(one, settings) > 1]
    left = len(whole) % workers
    if left:
        spread += divisible[-left:]
    return [one for one in whole if one not in spread], spread


def _map_in_worker(
    subject: Subject, out: Path, settings: MapSettings, n_jobs: int | None, device: str
) -> dict[str, Any]:
    threads = effective_n_jobs(n_jobs)
    loaded, (one,) = plan_subjects([subject], settings, threads, device)
    with limited_threads(threads):
        return _map_subject(one, out, settings, loaded, threads, False)


def _finished(planned: Sequence[Planned], out: Path) -> dict[str, dict[str, Any]]:
    """Records of the subjects that were mapped before, of the same inputs, by subject."""
    found: dict[str, dict[str, Any]] = {}
    for one in planned:
        report = report_path(out, one.subject)
        if not report.exists():
            continue
        record, now = read_json(report), one.inputs()
        with refuse_misfits(report, "the record of a map", "; remove the file"):
            changed = changed_inputs(record, now)
            others = are_other_images(record, now)
            damaged = [
                name for name, digest in record.get("digests", {}).items()
                if not (out / name).exists() or sha256_of(out / name) != digest
            ]  # fmt: skip
        missing = not all(spec.path(out, one.subject).exists() for spec in one.specs)
        if damaged or missing:
            changed.append("maps that are missing or were changed")
        if not changed:
            _logger.info("%s: finished before (%s)", one.subject.name, report)
            found[one.subject.name] = record
            continue
        if others:
            raise FileExistsError(
                f"{report.parent} has maps of other images of {one.subject.name}: of "
                f"{_first_source(record)}, not of {_first_source(now)}; choose another folder"
            )
        _logger.warning(
            "%s: mapped again, because of changes since its maps were made: %s",
            one.subject.name, ", ".join(changed),
        )  # fmt: skip
    return found


def _first_source(inputs: Mapping[str, Any]) -> str:
    """File of the first image, with the number of further ones."""
    first, *others = (str(source["file"]) for source in inputs["sources"])
    return f"{first} and {len(others)} further files" if others else first


def _write_missing_pages(
    planned: Sequence[Planned], out: Path, records: dict[str, dict[str, Any]],
    settings: MapSettings, threads: int,
) -> None:  # fmt: skip
    """Write the reports of subjects that were mapped before without one."""
    with limited_threads(threads):
        for one in planned:
            if one.subject.name not in records or html_path(out, one.subject).exists():
                continue
            mapper = one.mapper
            if mapper.fits is not None or mapper.spectra is not None:  # with their calibration
                survey = SlabsHere(one, settings).survey()
                with one.notes.collect():
                    mapper.prepare(survey.sample, survey.mask)
            record = records[one.subject.name]
            write_page(one.subject, out, record, mapper=mapper, n_jobs=threads)


def _map_subject(
    one: Planned, out: Path, settings: MapSettings, loaded: LoadedModel, threads: int,
    verbose: bool, slabs: Slabs | None = None,
) -> dict[str, Any]:  # fmt: skip
    slabs = SlabsHere(one, settings) if slabs is None else slabs
    subject, mapper, notes = one.subject, one.mapper, one.notes
    images = subject.images
    started, begin = datetime.now(UTC), time.perf_counter()
    inputs = one.inputs()  # as they are before the long work
    survey = slabs.survey()
    if survey.n_dark:
        what = (
            "with NaN or infinite values in some volumes"
            if images.mask is None
            else "of the mask without signal (all zero, or NaN)"
        )
        notes.add("NoSignalWarning", f"voxels {what}, which are not mapped: {survey.n_dark:,}")
    n_before = len(mapper.notes)
    with notes.collect():
        mapper.prepare(survey.sample, survey.mask)
    for text in mapper.notes[n_before:]:
        notes.add("note", text)
    one.times["read"] = time.perf_counter() - begin
    _logger.info("%s: mapping %s voxels", subject.name, f"{survey.n_voxels:,}")
    if settings.spectra:
        _logger.info("%s: the maps need %s", subject.name, one.describe_size())
    preview = Preview(images, survey.mask, one.shown) if settings.preview else None
    with _discarded_on_error(one.files(out), out):
        # from here on, maps of other inputs count as unfinished
        for path in (report_path(out, subject), html_path(out, subject)):
            path.unlink(missing_ok=True)
        _write_maps(one, out, slabs, loaded, survey, preview, verbose)
        one.times["maps"] = time.perf_counter() - begin - one.times["read"]
        files = {spec.key: spec.path(out, subject) for spec in one.specs}
        if one.statistics is not None:
            files["statistics"] = one.statistics_path(out)
            one.statistics.write(files["statistics"])
        if preview is not None:
            files["preview"] = one.preview_path(out)
            preview.write(files["preview"])
        if subject.data_set is not None:
            describe_data_set(out, subject.data_set)
        one.times["total"] = time.perf_counter() - begin
        record = _record(one, out, settings, loaded, survey, inputs, files, threads, started)
        write_json(report_path(out, subject), record)
    if settings.report:  # after the record, so that an error in it costs no map
        _logger.info("%s: fits and spectra of the report", subject.name)
        write_page(subject, out, record, mapper=mapper, n_jobs=threads)
    return record


@contextmanager
def _discarded_on_error(files: Sequence[Path], out: Path) -> Iterator[None]:
    """Remove what a failed block has written of some files in one folder, below `out`."""
    folder = files[0].parent
    folder.mkdir(parents=True, exist_ok=True)

    def written(path: Path) -> int | None:
        return path.stat().st_mtime_ns if path.exists() else None

    before = {path: written(path) for path in files}
    try:
        yield
    except Exception:
        with suppress(OSError):
            for path in files:
                if written(path) != before[path]:
                    path.unlink()
            while folder != out:  # only empty folders are removed
                folder.rmdir()
                folder = folder.parent
        raise


def _record(
    one: Planned, out: Path, settings: MapSettings, loaded: LoadedModel, survey: Survey,
    inputs: dict[str, Any], files: dict[str, Path], threads: int, started: datetime,
) -> dict[str, Any]:  # fmt: skip
    return {
        "subject": one.subject.name,
        "warnings": one.notes.found,
        **inputs,
        "signals": list(one.subject.images.kinds),
        "mask": {
            "origin": survey.origin,
            "file": str(one.mask or settings.mask),
            "sha256": None if inputs["mask"] is None else inputs["mask"]["sha256"],
            "n_voxels": survey.n_voxels,
        },
        "model": loaded.description,
        "settings": one.mapper.settings,
        "maps": {key: path.relative_to(out).as_posix() for key, path in files.items()},
        "shown": {key: asdict(value) for key, value in one.shown.items()},
        "digests": {path.relative_to(out).as_posix(): sha256_of(path) for path in files.values()},
        "versions": environment(threads, more_packages=("nibabel", "scikit-image")),
        "started": started.isoformat(timespec="seconds"),
        "seconds": {key: round(value, 2) for key, value in one.times.items()},
    }


def _write_maps(
    one: Planned, out: Path, slabs: Slabs, loaded: LoadedModel, survey: Survey,
    preview: Preview | None, verbose: bool,
) -> None:  # fmt: skip
    subject, images = one.subject, one.subject.images
    with ExitStack() as files:
        writers = {
            spec.key: files.enter_context(
                MapWriter(
                    spec.path(out, subject), images, dtype=spec.dtype, n_maps=spec.n_maps,
                    sidecar=sidecar(spec, subject, loaded.description, brain=one.brain),
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
        for slab, maps in files.enter_context(closing(slabs.maps(survey))):
            if maps is None:
                for writer in writers.values():
                    writer.write(slab, None)
                continue
            for key, writer in writers.items():
                writer.write(slab, maps[key])
            if one.statistics is not None:
                one.statistics.add(slab, {key: maps[key] for key in writers})
            if preview is not None:
                preview.add(slab, maps)
            bar.update(slab.n_voxels)
    write_map(
        MASK.path(out, subject), survey.mask.astype("uint8"), images,
        sidecar=sidecar(MASK, subject, loaded.description) | {"Origin": survey.origin},
    )  # fmt: skip
    counts = {int(k): f"{k} compartment{'s' if k > 1 else ''}" for k in one.mapper.classes}
    for path in one.lookup_paths(out):
        write_lookup(path, counts)
