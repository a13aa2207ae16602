"""Picture of one slice of the maps of a subject."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from corrsk._utils.files import write_atomically
from corrsk.evaluation import CountMapDisplay, MulticompartmentDisplay
from corrsk.imaging import MeasuredImages, Slab
from corrsk.workflows.mapping.outputs import Appearance

_COLUMNS = 4
_MASK_COLORS = ("#e4e4e4", "#d9480f")  # of 0 and 1
STRENGTH = "strength"  # root mean square of the measurements, shown in grey


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
    shown : mapping of str to Appearance
        Maps of the picture.
    """

    def __init__(
        self, images: MeasuredImages, mask: NDArray[np.bool_], shown: Mapping[str, Appearance]
    ) -> None:
        self._appearance = {STRENGTH: Appearance("signal"), **shown}
        grid = images.grid
        self._axis = grid.view_axis
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
            Values of its voxels, with the strength of their signals.
        """
        where = slab.where[self._axis]
        if not where.start <= self._index < where.stop or not slab.n_voxels:
            return
        others = [axis for axis in range(3) if axis != self._axis]
        place = tuple(slab.where[axis] for axis in others)
        for key in self._appearance:
            filled = slab.fill(maps[key].astype(np.float64))
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
        options: dict[str, Any] = {"voxel_sizes": (1.0, self._aspect, 1.0)}
        appearance = self._appearance[key]
        if appearance.kind == "labels":
            CountMapDisplay(np.nan_to_num(picture), **options).plot(axis)
        elif key == "multicompartment":
            novelty = self._slices.get("novelty")
            if novelty is not None:
                options["novelty"] = np.nan_to_num(novelty[self._shown])
            background = self._slices[STRENGTH][self._shown]
            MulticompartmentDisplay(picture, background=background, **options).plot(axis)
        else:
            low, high = shown_range(appearance.kind, picture)
            colors: Any = "gray" if key == STRENGTH else "viridis"
            if appearance.is_mask:
                low, high, colors = -0.5, 1.5, ListedColormap(_MASK_COLORS)
            shown = axis.imshow(
                picture.T, cmap=colors, vmin=low, vmax=high, origin="lower",
                aspect=self._aspect, interpolation="nearest",
            )  # fmt: skip
            ticks = [0, 1] if appearance.is_mask else None
            bar = figure.colorbar(shown, ax=axis, shrink=0.7, ticks=ticks)
            if appearance.is_mask:
                bar.set_ticklabels(["no", "yes"])
        axis.set_title(appearance.text, fontsize=10)


def shown_range(kind: str, values: NDArray[Any]) -> tuple[float, float]:
    """Choose the range of the colours of a map.

    Parameters
    ----------
    kind : str
        Kind of the map; see :class:`Appearance`.
    values : ndarray
        Its values, with NaN where it has none.

    Returns
    -------
    low, high : float
        0 to 1 of probabilities and masks; of others 0 to a high quantile, because a few voxels at
        a bound must not set the range.
    """
    if kind in ("probability", "mask"):
        return 0.0, 1.0
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    high = float(min(np.percentile(finite, 98), 4 * np.median(finite)))
    return 0.0, max(high, float(np.finfo(np.float32).tiny)) if high else 1.0
