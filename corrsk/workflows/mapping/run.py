"""Run over subjects: from images to a folder of maps, slab by slab."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from corrsk._utils.environment import environment
from corrsk._utils.extras import require
from corrsk._utils.files import check_space, read_json, refuse_misfits, sha256_of, write_json
from corrsk._utils.parallel import PROGRESS_DELAY, effective_n_jobs
from corrsk.imaging import MapWriter, Slab, load_images
from corrsk.imaging.bids import is_brain_mask
from corrsk.imaging.maps import write_map
from corrsk.neural.training.device import limited_threads, resolve_device
from corrsk.relaxometry.spectra import Windows
from corrsk.workflows._runs import check_claim, claimed_folder
from corrsk.workflows.mapping.cluster import on_workers
from corrsk.workflows.mapping.inputs import are_other_images, changed_inputs, describe_inputs
from corrsk.workflows.mapping.mapper import Mapper
from corrsk.workflows.mapping.models import (
    AUTO,
    LoadedModel,
    images_of_model,
    load_model,
    make_mapper,
)
from corrsk.workflows.mapping.notes import Notes
from corrsk.workflows.mapping.outputs import (
    Appearance,
    MapSpec,
    describe_data_set,
    html_path,
    named,
    report_path,
    sidecar,
    write_lookup,
)
from corrsk.workflows.mapping.preview import STRENGTH, Preview
from corrsk.workflows.mapping.report import require_report, write_page
from corrsk.workflows.mapping.spectra import plain_windows
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
        fits, "spectrum" or a JSON, YAML or TOML file with parameters of
        :class:`corrsk.NNLSSpectrum` and `windows` for spectra; or a fitted
        SimulationTrainedClassifier, SpatialClassifier, MultiExponentialClassifier or NNLSSpectrum,
        or an estimator that predicts compartments with intervals (predict, predict_proba and
        predict_interval). "auto" is "scanner-ir-se-8x8" for signed signals and
        "scanner-ir-se-8x8-magnitude" for others.
    mask : path-like or str, default="auto"
        File of a mask; "auto" for that of the images or one made of them; "none" for all voxels
        with a signal. ``{subject}`` in a path is replaced by the name of the subject.
    atlas : path-like, optional
        File of integer labels, for a table of the maps; ``{subject}`` as in `mask`.
    preview : bool, default=False
        Whether to draw a picture of a slice.
    report : bool, default=False
        Whether to write a report, one HTML file with a slice viewer; see :func:`write_report`.
    n_compartments : int or None, default=None
        Largest number of compartments of the fits "multi-exponential"; None for 3, or 2 where the
        measurements are too few.
    context : bool, default=False
        Whether a network uses the neighbours of each voxel; see :class:`corrsk.SpatialClassifier`,
        which can be the model itself, too. Slabs then have margins.
    windows : mapping or None, default=None
        Windows of spectra, in place of those of the model's file; see
        :meth:`corrsk.relaxometry.Spectra.window_fractions`.
    spectra : bool, default=False
        Whether to write the spectra, too: a file of up to some kB for each voxel.
    slab_bytes : int, default=50331648
        Size of the signals that are read at a time.
    """

    model: Any = AUTO
    mask: str | Path = AUTO_MASK
    atlas: str | Path | None = None
    preview: bool = False
    report: bool = False
    n_compartments: int | None = None
    context: bool = False
    windows: Windows | None = None
    spectra: bool = False
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
            "n_compartments": self.n_compartments, "context": self.context,
            "windows": None if self.windows is None else plain_windows(self.windows),
            "spectra": self.spectra,
        }  # fmt: skip

    def for_workers(self, model: LoadedModel) -> MapSettings:
        """Return the same settings for workers that run in other folders.

        Parameters
        ----------
        model : LoadedModel
            The model, also in place of "auto".

        Returns
        -------
        MapSettings
            Settings with absolute paths.
        """
        mask, atlas = self.mask, self.atlas
        if str(mask) not in (AUTO_MASK, NO_MASK):
            mask = Path(mask).absolute()
        if atlas is not None:
            atlas = Path(atlas).absolute()
        return replace(self, model=model.source, mask=mask, atlas=atlas)


@dataclass(eq=False)
class _Planned:
    """A subject with its maps, before its values are read."""

    subject: Subject
    mapper: Mapper
    notes: Notes
    mask: Path | None = None
    brain: bool = False  # whether the mask is one of the brain
    atlas: Path | None = None
    statistics: LabelStatistics | None = None
    times: dict[str, float] = field(default_factory=dict)

    @property
    def specs(self) -> list[MapSpec]:
        return [*self.mapper.specs, _MASK]

    @property
    def shown(self) -> dict[str, Appearance]:
        """Appearance of the maps of the pictures and the report, by their key."""
        return {spec.key: spec.shown for spec in self.mapper.specs if spec.shown is not None}

    @property
    def size(self) -> int:
        """Bytes of the maps before their compression."""
        per_voxel = sum(spec.bytes_per_voxel for spec in self.mapper.specs)
        return self.subject.images.grid.n_voxels * per_voxel

    def describe_size(self) -> str:
        """Size of the maps before their compression, in words."""
        spectra = [spec for spec in self.mapper.specs if spec.key == "spectra"]
        text = f"{_bytes(self.size)} before compression"
        if spectra:
            own = spectra[0].bytes_per_voxel * self.subject.images.grid.n_voxels
            text += f", {_bytes(own)} of which are the spectra"
        return text

    def files(self, out: Path) -> list[Path]:
        """Files of the subject but its record: maps, sidecars, lookup table, table, picture."""
        maps = [spec.path(out, self.subject) for spec in self.specs]
        stems = [path.with_name(path.name.removesuffix(".nii.gz")) for path in maps]
        return [
            *maps, *(path.with_name(f"{path.name}.json") for path in stems), *_lookup(self, out),
            _statistics(self, out), _preview(self, out),
        ]  # fmt: skip

    def inputs(self) -> dict[str, Any]:
        """Digests of the input files, and the protocol."""
        return describe_inputs(self.subject.images, self.mask, self.atlas)


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
    loaded, planned = _plan(subjects, settings, effective_n_jobs(n_jobs), "cpu")
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
            _preview(one, out): settings.preview,
            _statistics(one, out): one.statistics is not None,
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
        Client of a cluster, whose workers map one subject each at a time, with `n_jobs` threads
        (None for their share of the cores). They need corrsk, and the same files in the same
        places. None (default) for this process.
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
    loaded, planned = _plan(subjects, settings, threads, device if client is None else "cpu")
    with claimed_folder(out, settings.identity(loaded), resume=resume):
        records = _finished(planned, out) if resume else {}
        if settings.report:
            _write_missing_pages(planned, out, records, threads)
        pending = [one for one in planned if one.subject.name not in records]
        check_space(out, max((one.size for one in pending), default=0), "the maps")
        failed = []
        outcomes = (
            _mapped_here(pending, out, settings, loaded, threads, verbose)
            if client is None
            else _mapped_there(client, pending, subjects, out, settings, loaded, n_jobs, device,
                               verbose)
        )  # fmt: skip
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


_Outcomes = Iterator[tuple[str, Any]]  # name of a subject, and its record or an error


def _mapped_here(
    pending: Sequence[_Planned], out: Path, settings: MapSettings, loaded: LoadedModel,
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
    client: Any, pending: Sequence[_Planned], subjects: Sequence[Subject], out: Path,
    settings: MapSettings, loaded: LoadedModel, n_jobs: int | None, device: str, verbose: bool,
) -> _Outcomes:  # fmt: skip
    """Map subjects on the workers of a cluster, which open the images and the model themselves."""
    sent = settings.for_workers(loaded)
    noted = {one.subject.name: one.notes for one in pending}
    tasks = {
        subject.name: (subject, out.absolute(), sent, n_jobs, device)
        for subject in subjects
        if subject.name in noted
    }
    for name, result in on_workers(client, _map_in_worker, tasks, verbose=verbose):
        if not isinstance(result, Exception):
            for warning in result["warnings"]:
                noted[name].add(warning["category"], warning["message"])
            _logger.info("%s: mapped %s voxels", name, f"{result['mask']['n_voxels']:,}")
        yield name, result


def _map_in_worker(
    subject: Subject, out: Path, settings: MapSettings, n_jobs: int | None, device: str
) -> dict[str, Any]:
    threads = effective_n_jobs(n_jobs)
    loaded, (one,) = _plan([subject], settings, threads, device)
    with limited_threads(threads):
        return _map_subject(one, out, settings, loaded, threads, False)


def _finished(planned: Sequence[_Planned], out: Path) -> dict[str, dict[str, Any]]:
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
                f"{report.parent} has maps of other images of {one.subject.name}; choose another "
                "folder"
            )
        _logger.warning(
            "%s: mapped again, because of changes since its maps were made: %s",
            one.subject.name, ", ".join(changed),
        )  # fmt: skip
    return found


def _write_missing_pages(
    planned: Sequence[_Planned], out: Path, records: dict[str, dict[str, Any]], threads: int
) -> None:
    """Write the reports of subjects that were mapped before without one."""
    with limited_threads(threads):
        for one in planned:
            if one.subject.name in records and not html_path(out, one.subject).exists():
                write_page(one.subject, out, records[one.subject.name], n_jobs=threads)


def _plan(
    subjects: Sequence[Subject], settings: MapSettings, n_jobs: int, device: str
) -> tuple[LoadedModel, list[_Planned]]:
    """Load the model and compare it, masks and atlases with the images of all subjects."""
    if not subjects:
        raise ValueError("there are no subjects to map")
    loaded = load_model(settings.model, [one.images for one in subjects], context=settings.context)
    planned = []
    for subject in subjects:
        notes = Notes(subject.name)
        for category, text in subject.warnings:
            notes.add(category, text)
        mask_file = None
        try:
            with notes.collect():
                if str(settings.mask) not in (AUTO_MASK, NO_MASK):
                    path = str(settings.mask).replace(_SUBJECT, subject.name)
                    subject = replace(subject, images=load_images(subject.images, mask=path))
                    mask_file = Path(path)
                used = images_of_model(loaded, subject.images)
                n, n_all = used.protocol.n_measurements, subject.images.protocol.n_measurements
                subject = replace(subject, images=used)
                mapper = make_mapper(
                    loaded, used, n_jobs=n_jobs, device=device,
                    n_compartments=settings.n_compartments, windows=settings.windows,
                    spectra=settings.spectra,
                )  # fmt: skip
                if n < n_all:
                    mapper.notes.insert(0, f"the model is for {n} of the {n_all} measurements, "
                                         "which are used; the others are not")  # fmt: skip
                brain = mask_file is not None and is_brain_mask(mask_file)
                one = _Planned(subject, mapper, notes, mask_file, brain)
                if settings.atlas is not None:
                    atlas = str(settings.atlas).replace(_SUBJECT, subject.name)
                    one.atlas = Path(atlas)
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
    inputs = one.inputs()  # as they are before the long work
    mode = NO_MASK if str(settings.mask) == NO_MASK else AUTO_MASK
    survey = survey_images(images, mode, slab_bytes=settings.slab_bytes)
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
        _write_maps(one, out, settings, loaded, survey, preview, verbose)
        one.times["maps"] = time.perf_counter() - begin - one.times["read"]
        files = {spec.key: spec.path(out, subject) for spec in one.specs}
        if one.statistics is not None:
            files["statistics"] = _statistics(one, out)
            one.statistics.write(files["statistics"])
        if preview is not None:
            files["preview"] = _preview(one, out)
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


def _statistics(one: _Planned, out: Path) -> Path:
    return named(out, one.subject, "statistics", "statistics", ".tsv")


def _preview(one: _Planned, out: Path) -> Path:
    return named(out, one.subject, "preview", "preview", ".png")


def _lookup(one: _Planned, out: Path) -> list[Path]:
    """Table of the labels, beside their map, if there are any."""
    labels = [spec.path(out, one.subject) for spec in one.specs if spec.key == "labels"]
    return [path.with_name(path.name.removesuffix(".nii.gz") + ".tsv") for path in labels]


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


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
    one: _Planned, out: Path, settings: MapSettings, loaded: LoadedModel, survey: Survey,
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
    one: _Planned, out: Path, settings: MapSettings, loaded: LoadedModel, survey: Survey,
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
        size = one.mapper.slab_bytes(settings.slab_bytes)
        for slab in images.slabs(survey.mask, max_bytes=size, margin=one.mapper.margin):
            if not slab.n_voxels:
                for writer in writers.values():
                    writer.write(slab, None)
                continue
            with one.notes.collect():
                maps = one.mapper.compute(slab)
            if preview is not None:
                maps[STRENGTH] = _strength(slab)
            for key, writer in writers.items():
                writer.write(slab, maps[key])
            if one.statistics is not None:
                one.statistics.add(slab, {key: maps[key] for key in writers})
            if preview is not None:
                preview.add(slab, maps)
            bar.update(slab.n_voxels)
    write_map(
        _MASK.path(out, subject), survey.mask.astype("uint8"), images,
        sidecar=sidecar(_MASK, subject, loaded.description) | {"Origin": survey.origin},
    )  # fmt: skip
    counts = {int(k): f"{k} compartment{'s' if k > 1 else ''}" for k in one.mapper.classes}
    for path in _lookup(one, out):
        write_lookup(path, counts)


def _strength(slab: Slab) -> NDArray[np.float64]:
    """Root mean square of the measurements of each voxel."""
    signals = slab.signals.to_numpy()
    total = np.einsum("vn,vn->v", signals, signals, dtype=np.float64)
    return np.asarray(np.sqrt(total / signals.shape[1]))
