"""Tables of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk.imaging import MeasuredImages
from corrsk.workflows.mapping.outputs import Appearance

_MOST_ROWS = 300  # of the table of the measurements


def counts_table(labels: NDArray[Any], mask: NDArray[np.bool_]) -> pd.DataFrame:
    """Number and share of the mapped voxels of each count.

    Parameters
    ----------
    labels : ndarray of int, shape (n_x, n_y, n_z)
        Number of compartments.
    mask : ndarray of bool of the same shape
        Mapped voxels.

    Returns
    -------
    DataFrame
        One row for each count; of voxels without an answer the count is "none".
    """
    counts, numbers = np.unique(labels[mask], return_counts=True)
    return pd.DataFrame(
        {
            "compartments": [str(count) if count else "none" for count in counts],
            "voxels": [f"{number:,}" for number in numbers],
            "share": [f"{number / mask.sum():.1%}" for number in numbers],
        }
    )


def summary_table(
    labels: NDArray[Any] | None, mask: NDArray[np.bool_], flags: Mapping[str, NDArray[Any]],
    values: Mapping[str, NDArray[Any]], appearance: Mapping[str, Appearance],
) -> pd.DataFrame:  # fmt: skip
    """Summary of the maps.

    Parameters
    ----------
    labels : ndarray of int or None
        Number of compartments of all voxels, if it is mapped.
    mask : ndarray of bool
        Mapped voxels.
    flags : mapping of str to ndarray
        Maps of 0 and 1 of all voxels, such as "novelty".
    values : mapping of str to ndarray
        Values of the mapped voxels of other maps.
    appearance : mapping of str to Appearance
        Appearance of the maps.

    Returns
    -------
    DataFrame
        Columns quantity and value.
    """
    rows = [("Mapped voxels", f"{mask.sum():,}")]
    if labels is not None:
        rows.append(("Share with more than one compartment", f"{(labels[mask] > 1).mean():.1%}"))
    if "multicompartment" in values:
        mean = np.nanmean(values["multicompartment"])
        rows.append(("Mean probability of more than one", f"{mean:.3f}"))
    rows += [
        (f"Share of voxels: {appearance[key].title}", f"{(flag[mask] > 0).mean():.1%}")
        for key, flag in flags.items()
    ]
    for key, found in values.items():
        finite = found[np.isfinite(found)]
        if key == "multicompartment" or not finite.size:
            continue
        low, middle, high = np.round(np.percentile(finite, [5, 50, 95]), 12) + 0.0  # no -0
        title = appearance[key].text
        title = title[0].upper() + title[1:]
        text = f"{_digits(middle)} ({_digits(low)} to {_digits(high)})"
        rows.append((f"{title}, median (5 % to 95 %)", text))
    return pd.DataFrame(rows, columns=["quantity", "value"])


def read_table(record: Mapping[str, Any], images: MeasuredImages) -> pd.DataFrame:
    """What was read, and with which settings.

    Parameters
    ----------
    record : mapping
        Record of the subject.
    images : MeasuredImages
        The images.

    Returns
    -------
    DataFrame
        Columns quantity and value.
    """
    shape = " x ".join(map(str, images.grid.shape))
    sides = np.linalg.norm(images.affine[:3, :3], axis=0)
    size = " x ".join(f"{side:.4g}" for side in sides)
    if images.grid.has_identity:
        size = "unknown (the affine is the identity)"
    model, mask = record["model"], record["mask"]
    name = model["Name"] if "Class" not in model else f"{model['Name']} ({model['Class']})"
    settings = record["settings"]
    rows = [
        ("Sources", _few([Path(source["file"]).name for source in record["sources"]])),
        ("Voxels", f"{shape}, {size}{'' if images.grid.has_identity else ' mm'}"),
        ("Protocol", str(images.protocol)),
        ("Signals", ", ".join(dict.fromkeys(record["signals"]))),
        ("Mask", f"{mask['n_voxels']:,} voxels, {mask['origin']} ({mask['file']})"),
        ("Model", name),
        *((f"Setting: {key.replace('_', ' ')}", _text(value)) for key, value in settings.items()),
        ("corrsk", record["versions"].get("corrsk", "unknown")),
        ("Started", record["started"]),
        ("Seconds", _text(record["seconds"])),
    ]
    return pd.DataFrame(rows, columns=["quantity", "value"])


def measurements_table(images: MeasuredImages) -> tuple[pd.DataFrame, str]:
    """Table of the measurements, and a sentence on rows that are left out."""
    frame = images.to_frame()
    if len(frame) <= _MOST_ROWS:
        return frame, ""
    return (
        frame.head(_MOST_ROWS),
        f"The first {_MOST_ROWS} of {len(frame):,} measurements; report.json has the protocol.",
    )


def statistics_table(path: Path, factors: Mapping[str, float]) -> pd.DataFrame:
    """Table of the maps for each label of an atlas, with four significant digits.

    Parameters
    ----------
    path : Path
        File of the table.
    factors : mapping of str to float
        Factors of the maps that the page has in other units.

    Returns
    -------
    DataFrame
        One row for each label.
    """
    frame = pd.read_csv(path, sep="\t")
    for name in frame.select_dtypes("float"):
        factor = factors.get(name.rpartition("_")[0], 1)
        frame[name] = ["" if np.isnan(value) else f"{factor * value:.4g}" for value in frame[name]]
    return frame


def _digits(value: float) -> str:
    """Text with three significant digits, and an exponent for very small and large values only."""
    return f"{float(f'{value:.3g}'):g}"


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown}, .. ({len(names)} files)"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
