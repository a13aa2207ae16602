"""Maps of a subject: their names, types and sidecars, and the description of the data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from corrsk import __version__
from corrsk._utils.files import write_atomically, write_json
from corrsk.workflows._runs import CONFIGURATION
from corrsk.workflows.mapping.subjects import Subject

BIDS_VERSION = "1.10.0"
RAW = "raw"  # name of the data set of the images in URIs
REPORT = "report.json"
_IGNORED = (
    CONFIGURATION, "*_report.*", "*_preview.png", "*_statistics.tsv", "*_entropy.*",
    "*_noisemap.*", "*_fractionmap.*", "*_Dmap.*", "*_countmap.*", "*_residualmap.*",
    "*_weightmap.*", "*_anglemap.*", "*_spectrum.*",
)  # fmt: skip


@dataclass(frozen=True)
class Appearance:
    """How a map is shown in pictures, the viewer and tables.

    Parameters
    ----------
    title : str
        Name of the map.
    unit : str, default=""
        Unit of its values.
    kind : {"number", "probability", "mask", "labels"}, default="number"
        Meaning of its values: 0 to 1 for probabilities, 0 or 1 for masks, and compartment counts,
        or 0, for labels.
    """

    title: str
    unit: str = ""
    kind: str = "number"

    @property
    def text(self) -> str:
        """Name and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def is_mask(self) -> bool:
        """Whether the values are 0 and 1."""
        return self.kind == "mask"


@dataclass(frozen=True)
class MapSpec:
    """One map.

    Parameters
    ----------
    key : str
        Name of the map in tables, and of its file beside maps of a single image.
    bids_name : str
        Name of the file in BIDS, after the prefix of the subject.
    description : str
        Text for the sidecar.
    dtype : str
        "float32" or "uint8".
    n_maps : int or None
        Length of the fourth axis; None for three axes.
    entries : mapping
        Further entries of the sidecar, such as units.
    shown : Appearance or None
        Appearance in pictures and the report; None for maps that they leave out.
    """

    key: str
    bids_name: str
    description: str
    dtype: str = "float32"
    n_maps: int | None = None
    entries: Mapping[str, Any] = field(default_factory=dict)
    shown: Appearance | None = None

    @property
    def bytes_per_voxel(self) -> int:
        """Bytes of a voxel before compression."""
        return np.dtype(self.dtype).itemsize * (self.n_maps or 1)

    def path(self, out: Path, subject: Subject) -> Path:
        """Return the file of the map of a subject."""
        return named(out, subject, self.key, self.bids_name, ".nii.gz")


def named(out: Path, subject: Subject, key: str, bids_name: str, suffix: str) -> Path:
    """Return the path of a file of a subject."""
    name = key if subject.prefix is None else f"{subject.prefix}{bids_name}"
    return out / subject.folder / f"{name}{suffix}"


def report_path(out: Path, subject: Subject) -> Path:
    """Return the file of the record of a subject, which is written last."""
    return named(out, subject, "report", "report", ".json")


def html_path(out: Path, subject: Subject) -> Path:
    """Return the file of the HTML report of a subject."""
    return named(out, subject, "report", "report", ".html")


def sidecar(
    spec: MapSpec, subject: Subject, model: Mapping[str, Any], *, brain: bool = False
) -> dict[str, Any]:
    """Entries of the sidecar of a map.

    Parameters
    ----------
    spec : MapSpec
        The map.
    subject : Subject
        The subject.
    model : mapping
        Description of the model.
    brain : bool, default=False
        Whether the mask is one of the brain.

    Returns
    -------
    dict
        Description, units, model; and of images in BIDS their URIs and the entries that BIDS
        requires. The writer adds software, and the paths of other images.
    """
    content: dict[str, Any] = {"Description": spec.description, **spec.entries}
    content["Model"] = dict(model)
    if subject.data_set is not None:
        root = subject.data_set.absolute()
        content["Sources"] = [
            f"bids:{RAW}:{Path(source).absolute().relative_to(root).as_posix()}"
            for source in subject.images.sources
        ]
        content["SpatialReference"] = content["Sources"][0]
        suffix = spec.bids_name.rpartition("_")[2]
        if suffix == "mask":
            content["Type"] = "ROI"
        elif suffix.endswith("map"):
            content["SkullStripped"] = brain
    return content


def describe_data_set(out: Path, source: Path) -> None:
    """Write the files that make a folder of maps a derivative data set in BIDS.

    Parameters
    ----------
    out : Path
        Folder of the maps.
    source : Path
        Folder of the data set of the images.
    """
    link = Path(os.path.relpath(source.absolute(), out.absolute())).as_posix()
    content = {
        "Name": "corrsk maps of tissue compartments",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "corrsk", "Version": __version__}],
        "SourceDatasets": [{"URL": link}],
        "DatasetLinks": {RAW: link},
    }
    write_json(out / "dataset_description.json", content)
    _write_text(
        out / "README",
        "Maps of the number of tissue compartments of relaxation images, made by the command\n"
        "corrsk map. The sidecar of each map has its description, units, sources and model; the\n"
        "report of each subject has settings, digests, versions and warnings.\n",
    )
    _write_text(out / ".bidsignore", "\n".join(_IGNORED) + "\n")


def write_lookup(path: Path, classes: Mapping[int, str]) -> None:
    """Write the table of the labels of a segmentation."""
    rows = [f"{index}\t{name}" for index, name in classes.items()]
    _write_text(path, "\n".join(["index\tname", *rows]) + "\n")


def _write_text(path: Path, text: str) -> None:
    with write_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")
