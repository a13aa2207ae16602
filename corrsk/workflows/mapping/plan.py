"""Plan of a run: settings, and the maps of each subject, before any value is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corrsk.imaging import load_images
from corrsk.imaging.bids import is_brain_mask
from corrsk.relaxometry.windows import Windows
from corrsk.workflows.mapping.inputs import describe_inputs
from corrsk.workflows.mapping.mapper import Mapper
from corrsk.workflows.mapping.models import (
    AUTO,
    LoadedModel,
    images_of_model,
    load_model,
    make_mapper,
)
from corrsk.workflows.mapping.notes import Notes
from corrsk.workflows.mapping.outputs import Appearance, MapSpec, named
from corrsk.workflows.mapping.spectra import plain_windows
from corrsk.workflows.mapping.statistics import LabelStatistics
from corrsk.workflows.mapping.subjects import Subject
from corrsk.workflows.mapping.survey import AUTO_MASK, NO_MASK

SLAB_BYTES = 48 * 1024**2  # signals of a slab; networks and detectors need a few times as much
MASK = MapSpec("mask", "desc-mapped_mask", "Voxels that are mapped.", "uint8")
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
        SimulationTrainedClassifier, CompartmentRegressor, SpatialClassifier,
        MultiExponentialClassifier or NNLSSpectrum, a Pipeline of a ProtocolAligner and a classifier
        (and a SignalMasker in front, whose mask is not used), or an estimator that predicts
        compartments with intervals (predict, predict_proba and predict_interval). "auto" is
        "scanner-ir-se-8x8" for signed signals and "scanner-ir-se-8x8-magnitude" for others.
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
    n_draws, max_rounds : int or None, default=None
        Parameters of a CompartmentRegressor, in place of those of the model.
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
    n_draws: int | None = None
    max_rounds: int | None = None
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
            "spectra": self.spectra, "n_draws": self.n_draws, "max_rounds": self.max_rounds,
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
class Planned:
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
        """The maps, with that of the mask."""
        return [*self.mapper.specs, MASK]

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
        sidecars = [path.with_name(f"{path.name}.json") for path in stems]
        tables = [*self.lookup_paths(out), self.statistics_path(out)]
        return [*maps, *sidecars, *tables, self.preview_path(out)]

    def statistics_path(self, out: Path) -> Path:
        """File of the table of the labels of an atlas."""
        return named(out, self.subject, "statistics", "statistics", ".tsv")

    def preview_path(self, out: Path) -> Path:
        """File of the picture."""
        return named(out, self.subject, "preview", "preview", ".png")

    def lookup_paths(self, out: Path) -> list[Path]:
        """File of the names of the compartment counts, beside their map, if there is one."""
        labels = [spec.path(out, self.subject) for spec in self.specs if spec.key == "labels"]
        return [path.with_name(path.name.removesuffix(".nii.gz") + ".tsv") for path in labels]

    def inputs(self) -> dict[str, Any]:
        """Digests of the input files, and the protocol."""
        return describe_inputs(self.subject.images, self.mask, self.atlas)


def plan_subjects(
    subjects: Sequence[Subject], settings: MapSettings, n_jobs: int, device: str
) -> tuple[LoadedModel, list[Planned]]:
    """Load the model and compare it, masks and atlases with the images of all subjects.

    Parameters
    ----------
    subjects : sequence of Subject
        The subjects.
    settings : MapSettings
        Settings of the run.
    n_jobs : int
        Number of threads.
    device : str
        Device of a network.

    Returns
    -------
    loaded : LoadedModel
        The model.
    planned : list of Planned
        One entry for each subject.

    Raises
    ------
    ValueError
        If there are no subjects, or the model, a mask or an atlas does not fit the images.
    """
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
                    spectra=settings.spectra, n_draws=settings.n_draws,
                    max_rounds=settings.max_rounds,
                )  # fmt: skip
                if n < n_all:
                    mapper.notes.insert(0, f"the model is for {n} of the {n_all} measurements, "
                                         "which are used; the others are not")  # fmt: skip
                brain = mask_file is not None and is_brain_mask(mask_file)
                one = Planned(subject, mapper, notes, mask_file, brain)
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


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
