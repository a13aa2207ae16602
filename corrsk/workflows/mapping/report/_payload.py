"""Data of a report's page: volumes of the viewer and voxels of the panel, as base64 text."""

from __future__ import annotations

import base64
import gzip
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgba
from numpy.typing import NDArray

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.evaluation.map_displays import COUNT_COLORS, PROBABILITY_COLORMAP
from corrsk.imaging import Grid, write_map
from corrsk.workflows.mapping.outputs import Appearance
from corrsk.workflows.mapping.preview import shown_range
from corrsk.workflows.mapping.report._fits import VoxelFits

_MASK_COLOR = "#d9480f"
_MOST_CURVES, _MOST_POINTS = 16, 256  # of the plot of the signals
_INT16 = 32_767
# The viewer interpolates between neighbouring colours, so that levels keep a distance from colours
# that they must not have: 0 is transparent, counts are 40 apart.
_FIRST, _LAST = 8, 255
_PER_COUNT = 40
_PARAMETER_UNITS = {"b": "ms/um²"}
_BACKGROUND = Appearance("signal")


@dataclass(frozen=True, eq=False)
class Shown:
    """A map as integers for the viewer: 0 is transparent.

    Parameters
    ----------
    key : str
        Name of the map, or "background".
    appearance : Appearance
        Its appearance.
    levels : ndarray of uint8, shape (n_x, n_y, n_z)
        The map.
    low, high : float
        Values of the levels 8 and 255; labels are 40 apart.
    """

    key: str
    appearance: Appearance
    levels: NDArray[np.uint8]
    low: float
    high: float

    @classmethod
    def from_map(
        cls, key: str, values: NDArray[Any], appearance: Appearance = _BACKGROUND
    ) -> Shown:
        """Convert a map.

        Parameters
        ----------
        key : str
            Name of the map.
        values : ndarray of shape (n_x, n_y, n_z)
            The map; NaN, and 0 of labels and masks, is transparent.
        appearance : Appearance
            Its appearance; that of the background by default.

        Returns
        -------
        Shown
            The converted map.
        """
        if appearance.kind == "labels":
            return cls(
                key, appearance, (_PER_COUNT * values).astype(np.uint8), 1, len(COUNT_COLORS)
            )
        if appearance.is_mask:
            return cls(key, appearance, np.where(values > 0, 255, 0).astype(np.uint8), 0, 1)
        low, high = shown_range(appearance.kind, values)
        if key == "background":
            low = min(float(np.nanmin(values, initial=0)), 0.0)
        scaled = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
        scaled = _FIRST + scaled * (_LAST - _FIRST)
        levels = np.where(np.isfinite(values), np.rint(scaled), 0)
        return cls(key, appearance, levels.astype(np.uint8), low, high)

    def lut(self) -> list[str]:
        """Colours of the levels 0 to 255 as hexadecimal text with opacity."""
        levels = np.arange(256)
        if self.appearance.kind == "labels":
            counts = np.clip(np.rint(levels / _PER_COUNT).astype(int), 1, len(COUNT_COLORS))
            colors: list[Any] = [COUNT_COLORS[count - 1] for count in counts]
        elif self.appearance.is_mask:
            colors = [_MASK_COLOR] * levels.size
        else:
            name = "gray" if self.key == "background" else PROBABILITY_COLORMAP
            parts = np.clip((levels - _FIRST) / (_LAST - _FIRST), 0, 1)
            colors = list(colormaps[name](parts))
        hexadecimal = [to_hex(to_rgba(color), keep_alpha=True) for color in colors]
        return [f"{color[:7]}00" if k < _FIRST // 2 else color
                for k, color in enumerate(hexadecimal)]  # fmt: skip

    def entry(self, grid: Grid) -> dict[str, Any]:
        """Entry of the page.

        Parameters
        ----------
        grid : Grid
            Grid of the map.

        Returns
        -------
        dict
            Plain values.
        """
        legend = []
        if self.appearance.kind == "labels":
            present = np.unique(self.levels[self.levels > 0]) // _PER_COUNT
            legend = [[str(count), COUNT_COLORS[count - 1]] for count in present]
        elif self.appearance.is_mask:
            legend = [[self.appearance.title, _MASK_COLOR]]
        return {
            "key": self.key, "title": self.appearance.text, "low": self.low,
            "high": self.high, "unit": self.appearance.unit, "lut": self.lut(),
            "legend": legend, "first": _FIRST, "nifti": nifti_text(self.levels, grid),
        }  # fmt: skip


def nifti_text(values: NDArray[Any], grid: Grid) -> str:
    """Write a map as compressed NIfTI, and return the file as base64 text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "map.nii")
        write_map(path, values, grid, dtype="uint8")
        return _text(path.read_bytes())


def _text(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def packed(values: NDArray[Any], dtype: str) -> dict[str, Any]:
    """Entry of an array: type, shape and its bytes in C order, compressed, as base64 text.

    Parameters
    ----------
    values : ndarray
        The values.
    dtype : {"uint8", "int16", "uint16", "float32"}
        Type in the page.

    Returns
    -------
    dict
        Entries dtype, shape and data.
    """
    array = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
    return {"dtype": dtype, "shape": list(array.shape), "data": _text(array.tobytes())}


def measurement_panels(protocol: AcquisitionProtocol) -> list[dict[str, Any]]:
    """Arrange the measurements in curves, in one panel for each series.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        The protocol.

    Returns
    -------
    list of dict
        For each panel the scan parameter of the horizontal axis (TE if it varies, else that with
        the most levels), its value and the curve of each shown measurement, labels and colours of
        the curves (one for each combination of the other parameters), and the positions of the
        measurements shown: of many, some curves and points.
    """
    series = np.zeros(protocol.n_measurements) if protocol.series is None else protocol.series
    numbers = np.unique(series)
    panels = []
    for number in numbers:
        own = np.flatnonzero(series == number)
        panel = _panel(
            {name: np.asarray(values)[own] for name, values in protocol.contrasts.items()},
            _MOST_POINTS // numbers.size,
        )
        panel["positions"] = own[panel["positions"]]
        panel["title"] = "" if numbers.size == 1 else f"series {int(number)}"
        panels.append(panel)
    return panels


def _panel(contrasts: Mapping[str, NDArray[Any]], most_points: int) -> dict[str, Any]:
    """Curves of one series."""
    levels = {name: np.unique(values[np.isfinite(values)]).size
              for name, values in contrasts.items()}  # fmt: skip
    across = "TE" if levels.get("TE", 0) > 1 else max(levels, key=lambda name: levels[name])
    x = np.asarray(contrasts[across], np.float64)
    varies = [name for name, values in contrasts.items()
              if name != across and np.unique(values).size > 1]  # fmt: skip
    table = np.column_stack([np.zeros(x.size), *(contrasts[name] for name in varies)])
    curves, of_each = np.unique(table, axis=0, return_inverse=True)
    of_each = of_each.ravel()
    kept = np.arange(len(curves))
    if kept.size > _MOST_CURVES:
        kept = np.unique(np.linspace(0, kept.size - 1, _MOST_CURVES).round().astype(int))
    per_curve = max(most_points // kept.size, 12)
    shown: list[int] = []
    of_shown: list[int] = []
    for rank, curve in enumerate(kept):
        own = np.flatnonzero((of_each == curve) & np.isfinite(x))
        own = own[np.argsort(x[own], kind="stable")]
        if own.size > per_curve:
            # early points carry most of a decay
            places = np.geomspace(1, own.size, per_curve).round().astype(int) - 1
            own = own[np.unique(places)]
        shown += own.tolist()
        of_shown += [rank] * own.size
    labels = [
        ", ".join(f"{name} {value:.4g}" for name, value in zip(varies, curve[1:], strict=True))
        or "signal"
        for curve in curves[kept]
    ]
    shades = colormaps["viridis"](np.linspace(0, 0.88, max(kept.size, 2)))
    positions = np.array(shown, np.intp)
    values = x[positions]
    return {
        "parameter": across, "unit": _PARAMETER_UNITS.get(across, "ms"), "x": values.tolist(),
        "curve": of_shown, "labels": labels,
        "colors": [to_hex(shade) for shade in shades[: kept.size]],
        "logarithmic": bool(values.min() > 0 and values.max() > 60 * values.min()),
        "group": ", ".join(f"{name} in {_PARAMETER_UNITS.get(name, 'ms')}" for name in varies),
        "positions": positions,
    }  # fmt: skip


def bytes_per_voxel(n_shown: int, bins: Sequence[int]) -> int:
    """Upper bound of the text of one voxel: measured and two fitted signals, and its spectrum."""
    return (3 * 2 * n_shown + math.prod(bins[:2]) + 320) * 4 // 3


def voxel_entries(
    places: NDArray[np.intp], signals: NDArray[Any], fits: VoxelFits,
    values: Mapping[str, NDArray[Any]], appearance: Mapping[str, Appearance],
    probabilities: NDArray[Any] | None, shown: NDArray[np.intp],
    compartments: NDArray[Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Entries of the voxels of the panel.

    Parameters
    ----------
    places : ndarray of int, shape (n_voxels, 3)
        Voxels in the part of the viewer.
    signals : ndarray of shape (n_voxels, n_measurements)
        Measured signals.
    fits : VoxelFits
        Fits and spectra.
    values : mapping of str to ndarray of shape (n_voxels,)
        Values of the maps.
    appearance : mapping of str to Appearance
        Their appearance.
    probabilities : ndarray of shape (n_voxels, n_classes) or None
        Probabilities of the counts.
    shown : ndarray of int
        Positions of the measurements of the panels.
    compartments : ndarray of shape (n_voxels, n_compartments, n_columns) or None, default=None
        Fraction of each compartment of the maps, and each property with its limits or its error.

    Returns
    -------
    dict
        Plain values; signals as integers of 16 bits relative to the largest of the voxel.
    """
    series = {"measured": signals[:, shown]}
    if fits.signals is not None and fits.signals_one is not None:
        series |= {"one": fits.signals_one[:, shown], "selected": fits.signals[:, shown]}
    scale = np.max([np.abs(np.nan_to_num(each)).max(axis=1) for each in series.values()], axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    arrays = {"place": packed(places, "uint16"), "scale": packed(scale, "float32")}
    for key, each in series.items():
        if np.isfinite(each).any():
            steps = np.rint(np.nan_to_num(each) / scale[:, None] * _INT16)
            arrays[key] = packed(steps, "int16")
    names = list(values)
    arrays["values"] = packed(np.column_stack([values[key] for key in names]), "float32")
    if probabilities is not None:
        arrays["probabilities"] = packed(probabilities, "float32")
    for key, table in (("tableOne", fits.one), ("tableSelected", fits.selected)):
        if table is not None:
            arrays[key] = packed(_compartments(table, fits.properties), "float32")
    if compartments is not None:
        arrays["compartments"] = packed(compartments, "float32")
    if fits.selected is not None:
        flags = fits.selected["misfit"] + 2 * fits.selected["at_bound"]
        arrays["flags"] = packed(flags.to_numpy(), "uint8")
    spectrum = None
    if fits.spectra is not None:
        arrays["spectrum"], spectrum = _spectra(fits)
    return {
        "arrays": arrays, "names": names,
        "titles": [appearance[key].text for key in names], "spectrum": spectrum,
        "properties": [[name, "um²/ms" if name == "D" else "ms"] for name in fits.properties],
    }  # fmt: skip


def _compartments(table: Any, properties: tuple[str, ...]) -> NDArray[Any]:
    """Fraction and properties of each compartment, (n_voxels, n_compartments, 1 + P)."""
    n = sum(name.startswith("f_") for name in table.columns)
    parts = [[table[f"{name}_{k}"].to_numpy() for name in ("f", *properties)]
             for k in range(1, n + 1)]  # fmt: skip
    return np.moveaxis(np.array(parts), -1, 0)


def _spectra(fits: VoxelFits) -> tuple[dict[str, Any], dict[str, Any]]:
    """Spectra over one or two properties, relative to their largest value."""
    assert fits.spectra is not None
    spectra = np.nan_to_num(fits.spectra)
    names = list(fits.axes)
    summed = names[2:]
    spectra = spectra.sum(axis=tuple(range(3, spectra.ndim)))
    largest = spectra.max(axis=tuple(range(1, spectra.ndim)), keepdims=True)
    levels = np.rint(255 * spectra / np.where(largest > 0, largest, 1))
    axes = [[name, [float(f"{value:.4g}") for value in fits.axes[name]]] for name in names[:2]]
    return packed(levels, "uint8"), {"axes": axes, "summed": summed}
