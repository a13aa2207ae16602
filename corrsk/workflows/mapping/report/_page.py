"""Page of a report: choice of its detail, and its content."""

from __future__ import annotations

import base64
import importlib.util
import io
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.extras import install_command, require
from corrsk._utils.files import read_json, write_atomically
from corrsk._utils.validation import checked_count
from corrsk._utils.voxels import NoSignalWarning
from corrsk.evaluation import CountMapDisplay, MulticompartmentDisplay
from corrsk.imaging.maps import read_part
from corrsk.workflows.mapping.mapper import TIME_UNITS
from corrsk.workflows.mapping.outputs import Appearance, html_path, report_path
from corrsk.workflows.mapping.report._detail import Chosen, Detail
from corrsk.workflows.mapping.report._fits import VoxelFits, fit_voxels
from corrsk.workflows.mapping.report._payload import (
    Shown,
    bytes_per_voxel,
    measurement_panels,
    voxel_entries,
)
from corrsk.workflows.mapping.report._tables import (
    counts_table,
    measurements_table,
    read_table,
    statistics_table,
    summary_table,
)
from corrsk.workflows.mapping.spectra import usual_bins
from corrsk.workflows.mapping.subjects import Subject

MAX_BYTES = 15_000_000
N_VOXELS = 2000  # of the panel; some 15 ms each on one core
_USUAL_BYTES = 2_800_000  # of a page without volumes and signals: mostly the viewer
_LEAST_BYTES = 100_000
_SHARE = 0.55  # of the volumes, in these and the signals
_RAW_BYTES = 8_000_000  # of the volumes, before they are compressed
_MOST_PICTURES = 9  # slices
_THIN = 0.4  # smallest extent of a part, relative to the largest, for the view in three planes
_VIEWER = "js/niivue.umd.js"
_TERMS = {
    "labels": "n_c: number of compartments.",
    "entropy": "Entropy of the probabilities: 0 bit for a certain answer.",
    "novelty": "Novel: 1 where the signal is unlike all simulated ones of the training, so that "
    "the other maps have no basis.",
    "misfit": "Not explained: 1 where the residual of the model exceeds the noise.",
    "noise": "Noise: standard deviation, in the unit of the images.",
    "M0": "M0: signal without relaxation, in the unit of the images.",
    "confidence": "Confidence: probability that the number of compartments and all their "
    "properties are right, within a tolerance.",
    "unreliable": "Unreliable: 1 where few draws of the posterior have most of the weight, no mode "
    "was found that explains the signal, or the signal has the opposite sign.",
    "degenerate": "Degenerate: 1 where the signal hardly determines a compartment.",
    "weight": "Weight: that of the penalty, relative to the largest squared singular value.",
    "b1": "Relative angle: of the refocusing pulses, 1 for the nominal one.",
}
_WHOLE = slice(None), slice(None), slice(None)


def require_report() -> None:
    """Raise an ImportError if the packages that a report needs are not installed."""
    require("jinja2", "nilearn", extra="report", purpose="an HTML report")
    _viewer()


def write_report(
    subject: Subject,
    out: str | Path,
    *,
    n_voxels: int = N_VOXELS,
    max_bytes: int = MAX_BYTES,
    n_jobs: int | None = None,
) -> Path:
    """Write the report of the maps of a subject: one HTML file, which needs no other file.

    The page has the warnings, tables, a slice viewer and, for some voxels, measured signal, fits,
    probabilities and spectrum. ``report.html#voxel=12,30,5`` opens it at a voxel.

    Parameters
    ----------
    subject : Subject
        The subject; see :func:`find_subjects`.
    out : path-like
        Folder of the maps, which :func:`map_subjects` has written.
    n_voxels : int, default=2000
        Largest number of voxels with signals, fits and spectra, from slices of the mapped part.
    max_bytes : int, default=15000000
        Largest size of the file. Of large images, the viewer leaves out voxels; the page has a
        sentence on it.
    n_jobs : int or None, default=None
        Number of threads; None for every core.

    Returns
    -------
    Path
        The file: report.html, or in BIDS sub-01_report.html, beside the maps.

    Raises
    ------
    FileNotFoundError
        If the subject has no maps in the folder, or a map is missing.
    ValueError
        If the record belongs to other images, or `max_bytes` is too small for any page.
    ImportError
        If the extra `report` is not installed.

    Notes
    -----
    The viewer is NiiVue (BSD-2-Clause), from the files of nilearn. The page needs no connection:
    its policy forbids the browser to load any address. Fits and spectra are computed for the page,
    whichever model made the maps; the reports of a run of multi-exponential fits or spectra have
    those of the run.
    """
    require_report()
    path = report_path(Path(out), subject)
    if not path.exists():
        raise FileNotFoundError(
            f"{Path(out)} has no maps of {subject.name} ({path} is missing); map the subject with "
            "map_subjects first"
        )
    record = read_json(path)
    if [source["file"] for source in record["sources"]] != subject.files:
        raise ValueError(f"{path} is the record of other images than {subject.images.name}")
    return write_page(
        subject, Path(out), record, n_voxels=n_voxels, max_bytes=max_bytes, n_jobs=n_jobs
    )


def write_page(
    subject: Subject,
    out: Path,
    record: Mapping[str, Any],
    *,
    mapper: Any = None,
    n_voxels: int = N_VOXELS,
    max_bytes: int = MAX_BYTES,
    n_jobs: int | None = None,
) -> Path:
    """Write the report of a record; see :func:`write_report`.

    Parameters
    ----------
    subject : Subject
        The subject.
    out : Path
        Folder of the maps.
    record : mapping
        Record of the subject.
    mapper : Mapper, optional
        Model of the run, whose fits are used if it has any.
    n_voxels, max_bytes, n_jobs
        See :func:`write_report`.

    Returns
    -------
    Path
        The file.
    """
    checked_count("n_voxels", n_voxels, at_least=1)
    page = _Page(subject, out, record, mapper, n_jobs)
    page.choose(n_voxels, max_bytes - _USUAL_BYTES)
    text = page.render()
    if len(text.encode()) > max_bytes:  # more pictures, tables or labels than usual
        page.choose(n_voxels, max_bytes - (len(text.encode()) - page.n_bytes))
        text = page.render()
    if len(text.encode()) > max_bytes:
        raise ValueError(
            f"the report needs {len(text.encode()):,} bytes, but max_bytes is {max_bytes:,}"
        )
    path = html_path(out, subject)
    with write_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


class _Page:
    """Content of a report, whose detail can be lowered."""

    def __init__(
        self, subject: Subject, out: Path, record: Mapping[str, Any], mapper: Any,
        n_jobs: int | None,
    ) -> None:  # fmt: skip
        self._subject, self._record, self._mapper = subject, record, mapper
        self._images, self._n_jobs = subject.images, n_jobs
        self._paths = {key: out / name for key, name in record["maps"].items()}
        missing = [path for path in self._paths.values() if not path.exists()]
        if missing:
            raise FileNotFoundError(f"there is no file {missing[0]}, which the record names")
        self._appearance = {
            key: Appearance(**one) for key, one in record["shown"].items() if key in self._paths
        }
        # as fits and spectra have them
        self._factors = {key: 1000 for key, one in self._appearance.items() if one.unit == "s"}
        for key in self._factors:
            self._appearance[key] = replace(self._appearance[key], unit="ms")
        self._mask = self._read("mask") > 0
        if not self._mask.any():
            raise ValueError(f"{self._paths['mask']} is empty: no voxel was mapped")
        self._keys = list(self._appearance)

    @property
    def _surest(self) -> str:
        """Name of a map that has a value wherever there is a signal."""
        return "multicompartment" if "multicompartment" in self._paths else "M0"

    def _read(self, key: str, where: Any = _WHOLE) -> NDArray[Any]:
        values = read_part(self._paths[key], where)
        return self._factors[key] * values if key in self._factors else values

    # -- detail ---------------------------------------------------------------

    def choose(self, n_voxels: int, n_bytes: int) -> None:
        """Choose the part of the maps that fits into a number of bytes, and fit its voxels."""
        if n_bytes < _LEAST_BYTES:
            raise ValueError(
                "max_bytes is too small: with the viewer, a report needs at least "
                f"{_USUAL_BYTES + _LEAST_BYTES:,} bytes, and more with large tables"
            )
        most = _RAW_BYTES // (len(self._keys) + 1)
        self._detail = Detail.from_mask(self._mask, self._images.grid, most)
        self._show()
        while self._volume_bytes > _SHARE * n_bytes:
            self._detail = self._detail.coarser(self._images.grid)
            self._show()
        self._choose_voxels(n_voxels, int((1 - _SHARE) * n_bytes))

    def _show(self) -> None:
        """Read the part of the maps, and convert it for the viewer."""
        where = self._detail.where
        self._maps = {key: self._read(key, where) for key in self._keys}
        grid = self._images.grid.part(where)
        shown = dict(self._maps)
        if "novelty" in shown:  # no basis for a probability there
            novel = shown["novelty"] > 0
            shown["multicompartment"] = np.where(novel, np.nan, shown["multicompartment"])
        self._entries = [
            Shown.from_map(key, shown[key], one).entry(grid)
            for key, one in self._appearance.items()
        ]
        sizes = [len(one["nifti"]) for one in self._entries]
        self._volume_bytes = sum(sizes) + max(sizes)  # and the background

    def _choose_voxels(self, n_voxels: int, n_bytes: int) -> None:
        """Choose voxels, read their signals, and compute their fits and spectra."""
        images, detail = self._images, self._detail
        # filled holes of a mask have no signal
        inside = self._mask[detail.where] & np.isfinite(self._maps[self._surest])
        if not inside.any():
            raise ValueError(f"no voxel of {images.name} that is left in the viewer has a signal")
        self._panels = measurement_panels(images.protocol)
        self._shown = np.concatenate([panel["positions"] for panel in self._panels])
        most = max(1, n_bytes // bytes_per_voxel(self._shown.size, self._bins()))
        self._chosen = Chosen.from_mask(inside, detail, images.grid.view_axis, min(n_voxels, most))
        places = tuple(self._chosen.places.T)
        kept = np.zeros(self._mask.shape, bool)
        kept[tuple(one.start + one.step * place
                   for one, place in zip(detail.where, places, strict=True))] = True  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoSignalWarning)  # an error follows
            signals, found = images.signals(kept)
        if (found != kept).any():
            raise ValueError(
                f"{int((kept & ~found).sum())} mapped voxels of {images.name} have no signal: the "
                "images have changed since they were mapped"
            )
        self._signals = signals.to_numpy()
        self._number = int(np.abs(self._signals).mean(axis=0).argmax())
        self._background = np.abs(images.read_measurement(self._number)[detail.where])
        settings, mapper = self._record["settings"], self._mapper
        efficiency = settings.get("inversion_efficiency")
        self._fits: VoxelFits = fit_voxels(
            images, self._signals, n_jobs=self._n_jobs,
            inversion_efficiency=tuple(efficiency) if isinstance(efficiency, list) else efficiency,
            fits=getattr(mapper, "fits", None), spectra=getattr(mapper, "spectra", None),
            order=getattr(mapper, "order", None),
        )  # fmt: skip

    def _bins(self) -> list[int]:
        """Number of bins along each property of the spectra."""
        model = getattr(self._mapper, "spectra", None)
        if model is not None:
            return [axis.size for axis in model.axes_.values()]
        n = len(self._images.protocol.tissue_properties)
        return [usual_bins(n)] * n

    # -- content ----------------------------------------------------------------

    def render(self) -> str:
        """Make the page of the chosen detail."""
        import jinja2

        images, record = self._images, self._record
        labels = self._read("labels") if "labels" in self._paths else None
        masks = [key for key, one in self._appearance.items() if one.is_mask]
        flags = {key: self._read(key) for key in masks}
        inside = self._mask[self._detail.where]
        values = {
            key: self._maps[key][inside] for key in self._keys if key not in ("labels", *masks)
        }
        data = self._data()
        measurements, cut = measurements_table(images)
        statistics = self._paths.get("statistics")
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, loader=jinja2.PackageLoader(__package__ or "", "."),
        )  # fmt: skip
        return environment.get_template("page.html").render(
            name=self._subject.name, record=record, warnings=record["warnings"],
            read=read_table(record, images),
            counts=None if labels is None else counts_table(labels, self._mask),
            summary=summary_table(labels, self._mask, flags, values, self._appearance),
            statistics=(
                None if statistics is None else statistics_table(statistics, self._factors)
            ),
            in_ms=bool(self._factors), terms=self._terms(),
            measurements=measurements, cut=cut, detail=self._detail.describe(),
            is_reduced=max(self._detail.steps) > 1,
            chosen=self._chosen.describe(int(self._mask.sum())), spreads=self._spreads,
            methods=self._methods(),
            pictures=self._pictures(), data=data,
            viewer=_viewer().replace("</script", "<\\/script"),
            versions={**record["versions"], "nilearn": version("nilearn")},
        )  # fmt: skip

    def _terms(self) -> list[str]:
        """Sentences on the maps of the page."""
        terms = [text for key, text in _TERMS.items() if key in self._appearance]
        if self._factors:
            terms.append("Relaxation times are in ms here, and in s in the files of the maps.")
        return terms

    def _methods(self) -> list[str]:
        shown, n = self._shown.size, self._images.protocol.n_measurements
        methods = list(self._fits.methods)
        if "context" in self._record["settings"]:
            methods.append(
                "Counts and probabilities use the neighbours of each voxel. Its signal, fits, "
                "spectrum, noise, T1 and T2 are its own, so that the number of fitted compartments "
                "may be another one."
            )
        if shown < n:
            methods.append(
                f"Curves have {shown} of the {n:,} measurements; fits and spectra use all."
            )
        return methods

    def _data(self) -> dict[str, Any]:
        """Data of the scripts of the page."""
        images, detail, places = self._images, self._detail, self._chosen.places
        grid = images.grid.part(detail.where)
        at = tuple(places.T)
        probabilities, classes = None, None
        if "probabilities" in self._paths:
            probabilities = self._read("probabilities", detail.where)[at]
            classes = self._classes(probabilities.shape[1])
        values = {key: self._maps[key][at].astype(np.float64) for key in self._keys}
        voxels = voxel_entries(
            places,
            self._signals,
            self._fits,
            values,
            self._appearance,
            probabilities,
            self._shown,
            self._compartments(at),
        )
        background = Shown.from_map("background", self._background).entry(grid)
        self.n_bytes = sum(len(one["nifti"]) for one in (background, *self._entries))
        self.n_bytes += sum(len(one["data"]) for one in voxels["arrays"].values())
        first = places[np.linalg.norm(places - places.mean(axis=0), axis=1).argmin()]
        extent = np.linalg.norm(grid.affine[:3, :3], axis=0) * grid.shape
        across = images.grid.view_axis if min(grid.shape) == 1 else int(extent.argmin())
        return {
            "shape": list(images.grid.shape), "start": detail.start, "steps": detail.steps,
            "part": list(grid.shape), "affine": grid.affine.tolist(),
            "plane": int(np.argmax(np.abs(grid.affine[:3, across]))),
            "single": min(grid.shape) == 1 or bool(extent.min() < _THIN * extent.max()),
            "first": first.tolist(), "voxels": voxels, "classes": classes,
            "volumes": {
                "background": background, "maps": self._entries,
                "measurement": images.protocol.feature_names[self._number],
            },
            "panels": [
                {key: value for key, value in panel.items() if key != "positions"}
                for panel in self._panels
            ],
        }  # fmt: skip

    @property
    def _spreads(self) -> tuple[str, ...]:
        """Names of the maps that each property of the compartments has, if these are maps."""
        name = self._images.protocol.tissue_properties[0]
        if f"{name}_compartments" not in self._paths:
            return ()
        for spreads in (("compartments", "lower", "upper"), ("compartments", "error")):
            if all(f"{name}_{key}" in self._paths for key in spreads):
                return spreads
        return ("compartments",)

    def _compartments(self, at: tuple[NDArray[np.intp], ...]) -> NDArray[Any] | None:
        """Fraction and properties with their limits or errors, of each compartment of the maps."""
        if not self._spreads:
            return None
        where = self._detail.where
        parts = [self._read("fractions", where)[at]]
        for name in self._images.protocol.tissue_properties:
            factor = 1000 if name in TIME_UNITS else 1
            parts += [factor * self._read(f"{name}_{key}", where)[at] for key in self._spreads]
        return np.stack(parts, axis=2)

    def _classes(self, n: int) -> list[str]:
        sidecar = self._paths["probabilities"]
        names = read_json(sidecar.with_name(sidecar.name.removesuffix(".nii.gz") + ".json"))
        labels: list[str] = names.get("LabelMap", [str(k + 1) for k in range(n)])
        return labels

    def _pictures(self) -> list[tuple[str, str]]:
        """Pictures of the counts and of P(more than one), as base64 text of PNG files."""
        images, detail = self._images, self._detail
        axis = images.grid.view_axis
        sides = np.linalg.norm(images.affine[:3, :3], axis=0) * detail.steps
        per_slice = self._mask[detail.where].any(axis=tuple(k for k in range(3) if k != axis))
        filled = np.flatnonzero(per_slice)
        places = np.linspace(0, filled.size - 1, min(filled.size, _MOST_PICTURES)).round()
        slices = filled[np.unique(places.astype(int))].tolist()
        options: dict[str, Any] = {
            "background": self._background, "slices": slices, "axis": axis,
            "voxel_sizes": [float(side) or 1.0 for side in sides],
        }  # fmt: skip
        numbers = [detail.start[axis] + detail.steps[axis] * k for k in slices]
        where = f"slice{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
        pictures: list[tuple[str, str]] = []
        labels = self._maps.get("labels")
        if labels is None:
            return pictures
        display: Any = CountMapDisplay(labels, **options).plot()
        pictures.append((f"Number of compartments, {where}", _png(display)))
        novelty = self._maps.get("novelty")
        display = MulticompartmentDisplay(
            self._maps["multicompartment"], novelty=novelty, **options
        ).plot()
        text = f"Probability of more than one compartment, {where}"
        if novelty is not None:
            text += "; transparent where the signal is novel"
        pictures.append((text, _png(display)))
        return pictures


def _png(display: Any) -> str:
    buffer = io.BytesIO()
    display.ax_.set_title("")  # the caption has the numbers of the slices of the images
    display.figure_.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _viewer() -> str:
    """Script of NiiVue, from the files of nilearn."""
    found = importlib.util.find_spec("nilearn")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "_assets" / _VIEWER
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ImportError(
        "the installed nilearn has no copy of NiiVue, which an HTML report needs: "
        f"{install_command('report')}"
    )
