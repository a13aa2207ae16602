"""Picture of one slice of the maps of a subject."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from corrsk._utils.files import write_atomically
from corrsk.imaging import MeasuredImages, Slab

_COLUMNS = 4
_TITLES = {
    "labels": "compartments", "multicompartment": "P(more than one)", "entropy": "entropy (bit)",
    "novelty": "novel", "noise": "noise", "T1": "T1 (s)", "T2": "T2 (s)", "D": "D (um²/ms)",
    "misfit": "not explained",
}  # fmt: skip
_COUNTS = ("#ffffff00", "#3b6fb6", "#f2a93b", "#c8443c", "#6a3d9a", "#2b8a5a")
_RANGES = {"multicompartment": (0.0, 1.0), "novelty": (0.0, 1.0), "misfit": (0.0, 1.0)}


def _span(inside: NDArray[np.bool_]) -> slice:
    """Range of the mapped voxels along an axis, with a margin."""
    places = np.flatnonzero(inside)
    if not places.size:
        return slice(0, inside.size)
    return slice(max(0, int(places[0]) - 2), min(inside.size, int(places[-1]) + 3))


class Preview:
    """Slice through the middle of the mapped voxels, collected while slabs are mapped.

    Parameters
    ----------
    images : MeasuredImages
        The images.
    mask : ndarray of bool, shape (n_x, n_y, n_z)
        Voxels that are mapped.
    """

    def __init__(self, images: MeasuredImages, mask: NDArray[np.bool_]) -> None:
        grid = images.grid
        self._axis = grid.slab_axis if min(grid.shape) > 1 else int(np.argmin(grid.shape))
        other = tuple(axis for axis in range(3) if axis != self._axis)
        per_slice = mask.sum(axis=other)
        places = np.flatnonzero(per_slice)
        middle = places[places.size // 2] if places.size else grid.shape[self._axis] // 2
        self._index = int(middle)
        sides = np.linalg.norm(grid.affine[:3, :3], axis=0)[list(other)]
        self._aspect = float(sides[1] / sides[0]) if sides.all() else 1.0
        self._shape = tuple(grid.shape[axis] for axis in other)
        self._name = images.name
        slice_mask = np.take(mask, self._index, axis=self._axis)
        self._shown = tuple(_span(slice_mask.any(axis=1 - k)) for k in range(2))
        self._slices: dict[str, NDArray[Any]] = {}

    def add(self, slab: Slab, maps: Mapping[str, NDArray[Any]]) -> None:
        """Keep the slice of a slab that contains it.

        Parameters
        ----------
        slab : Slab
            The slab.
        maps : mapping of str to ndarray
            Values of its voxels.
        """
        where = slab.where[self._axis]
        if not where.start <= self._index < where.stop or not slab.n_voxels:
            return
        signals = slab.signals.to_numpy().astype(np.float64)
        shown = {"strength": np.sqrt((signals**2).mean(axis=1))}
        shown |= {key: values for key, values in maps.items() if key in _TITLES}
        others = [axis for axis in range(3) if axis != self._axis]
        place = tuple(slab.where[axis] for axis in others)
        for key, values in shown.items():
            filled = slab.fill(values.astype(np.float64))
            picture = self._slices.setdefault(key, np.full(self._shape, np.nan))
            picture[place] = np.take(filled, self._index - where.start, axis=self._axis)

    def write(self, path: Path) -> None:
        """Draw the slices to a PNG file.

        Parameters
        ----------
        path : Path
            The file.
        """
        n = len(self._slices)
        columns = min(_COLUMNS, max(n, 1))
        rows = -(-n // columns)
        width, height = (span.stop - span.start for span in self._shown)
        height = height * self._aspect / width
        size = (3.1 * columns, 0.5 + rows * (0.35 + 2.6 * min(max(height, 0.4), 2.0)))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, (key, picture) in zip(axes, self._slices.items(), strict=False):
            self._draw(figure, axis, key, picture[self._shown])
        figure.suptitle(f"{self._name}, slice {self._index} of axis {'xyz'[self._axis]}")
        with write_atomically(path) as partial:
            figure.savefig(partial, dpi=110, format="png")

    def _draw(self, figure: Figure, axis: Any, key: str, picture: NDArray[Any]) -> None:
        finite = picture[np.isfinite(picture)]
        options: dict[str, Any] = {"origin": "lower", "aspect": self._aspect}
        if key == "labels":
            counts = max(int(finite.max(initial=1)), 1)
            colors = ListedColormap(_COUNTS[: counts + 1])
            bounds = np.arange(counts + 2) - 0.5
            shown = axis.imshow(
                picture.T, cmap=colors, norm=BoundaryNorm(bounds, colors.N),
                interpolation="nearest", **options,
            )  # fmt: skip
            bar = figure.colorbar(shown, ax=axis, shrink=0.7, ticks=np.arange(1, counts + 1))
            bar.ax.set_ylim(0.5, counts + 0.5)
        else:
            low, high = _RANGES.get(key, (0.0, 1.0))
            if key not in _RANGES and finite.size:
                # a few voxels at a bound must not set the range
                high = float(min(np.percentile(finite, 98), 4 * np.median(finite))) or 1.0
                high = max(high, float(np.finfo(np.float32).tiny))
            cmap = "gray" if key == "strength" else "viridis"
            shown = axis.imshow(
                picture.T, cmap=cmap, vmin=low, vmax=high, interpolation="nearest", **options
            )
            figure.colorbar(shown, ax=axis, shrink=0.7)
        axis.set_title(_TITLES.get(key, "signal"), fontsize=10)
