"""Displays of maps: number of compartments, and probability of more than one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from corrsk.evaluation.displays import figure_of
from corrsk.evaluation.predictions import predict_multicompartment_proba

COUNT_COLORS = ("#3b6fb6", "#f2a93b", "#c8443c", "#6a3d9a", "#2b8a5a")  # of 1, 2, .. compartments
PROBABILITY_COLORMAP = "viridis"
_GAP = 1  # voxels between the slices of a montage
_INCHES = 4.6
_TALLEST = 1.6


class _MapDisplay:
    """Montage of slices over a background; subclasses draw their map."""

    def __init__(
        self,
        values: Any,
        *,
        background: Any = None,
        slices: Sequence[int] | None = None,
        axis: int = 2,
        voxel_sizes: Sequence[float] | None = None,
        dataset: str = "unnamed data",
    ) -> None:
        if voxel_sizes is None:
            affine = getattr(values, "affine", None)
            sides = np.ones(3) if affine is None else np.linalg.norm(affine[:3, :3], axis=0)
            voxel_sizes = tuple(float(side) or 1.0 for side in sides)
        self.voxel_sizes = voxel_sizes
        if len(voxel_sizes) != 3 or min(voxel_sizes) <= 0:
            raise ValueError(f"voxel_sizes must be three positive numbers, got {voxel_sizes!r}")
        if axis not in (0, 1, 2):
            raise ValueError(f"axis must be 0, 1 or 2, got {axis!r}")
        self.axis = axis
        self._values = _volume(values, "the map")
        self.background = None if background is None else _volume(background, "the background")
        self._check_shape(self.background, "background")
        n_slices = self._values.shape[axis]
        self.slices = tuple(range(n_slices)) if slices is None else tuple(slices)
        outside = [number for number in self.slices if not 0 <= number < n_slices]
        if outside or not self.slices:
            raise ValueError(
                f"slices must be numbers from 0 to {n_slices - 1} along axis {axis}, got {slices!r}"
            )
        self.dataset = dataset

    def _check_shape(self, values: NDArray[Any] | None, name: str) -> None:
        if values is not None and values.shape != self._values.shape:
            raise ValueError(
                f"{name} has the shape {values.shape}, but the map has {self._values.shape}"
            )

    def _montage(self, volume: NDArray[Any]) -> NDArray[np.float64]:
        """Slices beside each other, the first of their axes to the right: (rows, columns)."""
        pictures = [np.take(volume, number, axis=self.axis).T for number in self.slices]
        height, width = pictures[0].shape
        columns = _columns(len(pictures), width * self._sides[0], height * self._sides[1])
        rows = -(-len(pictures) // columns)
        shape = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP)
        montage = np.full(shape, np.nan)
        for number, picture in enumerate(pictures):
            # the first slice is at the upper left; rows count from below
            row, column = rows - 1 - number // columns, number % columns
            top, left = row * (height + _GAP), column * (width + _GAP)
            montage[top : top + height, left : left + width] = picture
        return montage

    @property
    def _sides(self) -> tuple[float, float]:
        """Sizes of a voxel to the right and upwards in a picture."""
        first, second = (self.voxel_sizes[k] for k in range(3) if k != self.axis)
        return first, second

    def _start(self, ax: Axes | None) -> Axes:
        """Axes with the background."""
        right, up = self._sides
        if ax is None:
            height, width = self._montage(self._values).shape
            ratio = min(max(height * up / (width * right), 0.4), _TALLEST)
            figure = Figure(figsize=(_INCHES + 1.2, _INCHES * ratio + 0.5), layout="constrained")
            ax = figure.subplots()
        self.ax_ = ax
        self.figure_ = figure_of(ax)
        ax.set_axis_off()
        if self.background is not None:
            picture = self._montage(self.background)
            finite = picture[np.isfinite(picture)]
            high = float(np.percentile(finite, 99)) if finite.size else 1.0
            low = min(float(finite.min(initial=0)), 0.0)
            self._show(picture, cmap="gray", vmin=low, vmax=high if high > low else low + 1)
        return ax

    def _show(self, picture: NDArray[np.float64], **options: Any) -> Any:
        right, up = self._sides
        return self.ax_.imshow(
            picture, origin="lower", interpolation="nearest", aspect=up / right, **options
        )

    def _title(self, text: str) -> str:
        where = ""
        if self._values.shape[self.axis] > 1:
            numbers = ", ".join(map(str, self.slices))
            if len(self.slices) > 6:
                numbers = f"{self.slices[0]} to {self.slices[-1]}"
            name = "slice" if len(self.slices) == 1 else "slices"
            where = f", {name} {numbers} along {'xyz'[self.axis]}"
        return f"{text}\n{self.dataset}{where}"


class CountMapDisplay(_MapDisplay):
    """Map of the number of compartments, in one colour for each number.

    Usually created by :meth:`from_predictions` or :meth:`from_estimator`. Slices are drawn as they
    are stored: the first of their axes to the right, the second upwards.

    Parameters
    ----------
    labels : array of int or nibabel image, shape (n_x, n_y) or (n_x, n_y, n_z)
        Number of compartments of each voxel; 0, which is transparent, where there is none.
    background : array or nibabel image of the same shape, optional
        Image in grey levels below the map; None (default) for none.
    slices : sequence of int, optional
        Numbers of the slices of the montage; None (default) for all.
    axis : {0, 1, 2}, default=2
        Axis along which slices are cut.
    voxel_sizes : sequence of 3 float, optional
        Sides of a voxel in mm, for the aspect; None (default) for those of a nibabel image, and
        otherwise equal ones.
    dataset : str
        Name of the data, for the title.

    Attributes
    ----------
    labels : ndarray of int, shape (n_x, n_y, n_z)
        The map.
    ax_ : matplotlib.axes.Axes
        Axes of the plot.
    figure_ : matplotlib.figure.Figure
        Figure of the plot.

    Raises
    ------
    ValueError
        If the map has values that are no counts, the background has another shape, or a slice
        does not exist.
    """

    def __init__(
        self, labels: Any, *, background: Any = None, slices: Sequence[int] | None = None,
        axis: int = 2, voxel_sizes: Sequence[float] | None = None, dataset: str = "unnamed data",
    ) -> None:  # fmt: skip
        super().__init__(
            labels, background=background, slices=slices, axis=axis, voxel_sizes=voxel_sizes,
            dataset=dataset,
        )  # fmt: skip
        values = np.nan_to_num(self._values)
        if (values < 0).any() or (values != np.rint(values)).any():
            raise ValueError(
                "labels must be numbers of compartments, 0 where there is none; got values from "
                f"{values.min():g} to {values.max():g}"
            )
        if values.max(initial=0) > len(COUNT_COLORS):
            raise ValueError(
                f"labels must be at most {len(COUNT_COLORS)} compartments, got {values.max():g}"
            )
        self.labels = values.astype(np.int64)

    @classmethod
    def from_estimator(
        cls, estimator: Any, volume: ArrayLike, *, mask: ArrayLike | None = None,
        background: Any = None, slices: Sequence[int] | None = None, axis: int = 2,
        voxel_sizes: Sequence[float] | None = None, dataset: str = "unnamed data",
        ax: Axes | None = None,
    ) -> Self:  # fmt: skip
        """Map the counts that a fitted classifier predicts in a volume.

        Parameters
        ----------
        estimator : classifier
            Fitted classifier of compartment counts.
        volume : array of shape (n_x, n_y, n_z, n_measurements) or (n_x, n_y, n_measurements)
            Measured signals, with the measurements in the order of the classifier's columns.
        mask : array of bool, optional
            Voxels to map, without the axis of the measurements; None (default) for all voxels with
            a signal.
        background : array or nibabel image, optional
            Image below the map; None (default) for none.
        slices : sequence of int, optional
            Numbers of the slices; None (default) for all.
        axis : {0, 1, 2}, default=2
            Axis along which slices are cut.
        voxel_sizes : sequence of 3 float, optional
            Sides of a voxel in mm; None (default) for those of a nibabel image, or equal ones.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        CountMapDisplay
            The display.
        """
        rows, inside = _signals(volume, mask)
        labels = np.zeros(inside.shape, np.int64)
        labels[inside] = np.asarray(estimator.predict(rows))
        return cls(
            labels, background=background, slices=slices, axis=axis, voxel_sizes=voxel_sizes,
            dataset=dataset,
        ).plot(ax=ax)  # fmt: skip

    @classmethod
    def from_predictions(
        cls, labels: Any, *, background: Any = None, slices: Sequence[int] | None = None,
        axis: int = 2, voxel_sizes: Sequence[float] | None = None, dataset: str = "unnamed data",
        ax: Axes | None = None,
    ) -> Self:  # fmt: skip
        """Map given counts.

        Parameters
        ----------
        labels : array of int or nibabel image, shape (n_x, n_y) or (n_x, n_y, n_z)
            Number of compartments of each voxel, 0 where there is none.
        background : array or nibabel image, optional
            Image below the map; None (default) for none.
        slices : sequence of int, optional
            Numbers of the slices; None (default) for all.
        axis : {0, 1, 2}, default=2
            Axis along which slices are cut.
        voxel_sizes : sequence of 3 float, optional
            Sides of a voxel in mm; None (default) for those of a nibabel image, or equal ones.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        CountMapDisplay
            The display.
        """
        return cls(
            labels, background=background, slices=slices, axis=axis, voxel_sizes=voxel_sizes,
            dataset=dataset,
        ).plot(ax=ax)  # fmt: skip

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the map, with the number and share of the drawn voxels of each count.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        CountMapDisplay
            The display itself.
        """
        self._start(ax)
        picture = self._montage(self.labels)
        self._show(
            np.where(picture > 0, picture, np.nan), cmap=ListedColormap(COUNT_COLORS),
            norm=BoundaryNorm(np.arange(len(COUNT_COLORS) + 1) + 0.5, len(COUNT_COLORS)),
        )  # fmt: skip
        counts, numbers = np.unique(picture[picture > 0].astype(int), return_counts=True)
        handles = [
            Patch(
                facecolor=COUNT_COLORS[count - 1],
                label=f"{count}: {number:,} ({number / numbers.sum():.0%})",
            )
            for count, number in zip(counts, numbers, strict=True)
        ]
        if handles:
            self.ax_.legend(
                handles=handles, title="n_c: voxels", loc="upper center",
                bbox_to_anchor=(0.5, 0.0), ncols=min(3, len(handles)), frameon=False, fontsize=8,
                title_fontsize=8, handlelength=1.0, columnspacing=1.0,
            )  # fmt: skip
        self.ax_.set_title(self._title("number of compartments"), fontsize=10)
        return self


class MulticompartmentDisplay(_MapDisplay):
    """Map of the probability of more than one compartment, over an image.

    Usually created by :meth:`from_predictions` or :meth:`from_estimator`. Voxels outside of the
    mask (NaN) and voxels that are unlike the training are transparent. Slices are drawn as they are
    stored: the first of their axes to the right, the second upwards.

    Parameters
    ----------
    probability : array or nibabel image, shape (n_x, n_y) or (n_x, n_y, n_z)
        P(n_c >= 2) of each voxel; NaN where there is none.
    novelty : array of bool or nibabel image of the same shape, optional
        True where the signal is unlike the training, so that the probability has no basis; None
        (default) for nowhere.
    background : array or nibabel image of the same shape, optional
        Image in grey levels below the map; None (default) for none.
    slices : sequence of int, optional
        Numbers of the slices of the montage; None (default) for all.
    axis : {0, 1, 2}, default=2
        Axis along which slices are cut.
    voxel_sizes : sequence of 3 float, optional
        Sides of a voxel in mm, for the aspect; None (default) for those of a nibabel image, and
        otherwise equal ones.
    dataset : str
        Name of the data, for the title.

    Attributes
    ----------
    probability : ndarray of shape (n_x, n_y, n_z)
        The map, NaN where it is transparent.
    ax_ : matplotlib.axes.Axes
        Axes of the plot.
    figure_ : matplotlib.figure.Figure
        Figure of the plot.

    Raises
    ------
    ValueError
        If a probability is outside of [0, 1], the background or the novelty has another shape, or
        a slice does not exist.
    """

    def __init__(
        self, probability: Any, *, novelty: Any = None, background: Any = None,
        slices: Sequence[int] | None = None, axis: int = 2,
        voxel_sizes: Sequence[float] | None = None, dataset: str = "unnamed data",
    ) -> None:  # fmt: skip
        super().__init__(
            probability, background=background, slices=slices, axis=axis, voxel_sizes=voxel_sizes,
            dataset=dataset,
        )  # fmt: skip
        values = self._values.astype(np.float64)
        if (values < -1e-6).any() or (values > 1 + 1e-6).any():
            raise ValueError(
                f"probabilities must be from 0 to 1, got {np.nanmin(values):g} to "
                f"{np.nanmax(values):g}"
            )
        novel = None if novelty is None else _volume(novelty, "the novelty")
        self._check_shape(novel, "novelty")
        self.probability = values if novel is None else np.where(novel > 0, np.nan, values)

    @classmethod
    def from_estimator(
        cls, estimator: Any, volume: ArrayLike, *, mask: ArrayLike | None = None,
        novelty: Any = None, background: Any = None, slices: Sequence[int] | None = None,
        axis: int = 2, voxel_sizes: Sequence[float] | None = None, dataset: str = "unnamed data",
        ax: Axes | None = None,
    ) -> Self:  # fmt: skip
        """Map the probabilities that a fitted classifier predicts in a volume.

        Parameters
        ----------
        estimator : classifier
            Fitted classifier with `predict_proba` and `classes_`.
        volume : array of shape (n_x, n_y, n_z, n_measurements) or (n_x, n_y, n_measurements)
            Measured signals, with the measurements in the order of the classifier's columns.
        mask : array of bool, optional
            Voxels to map, without the axis of the measurements; None (default) for all voxels with
            a signal.
        novelty : array of bool or nibabel image, optional
            Voxels that are transparent; see :class:`MulticompartmentDisplay`.
        background : array or nibabel image, optional
            Image below the map; None (default) for none.
        slices : sequence of int, optional
            Numbers of the slices; None (default) for all.
        axis : {0, 1, 2}, default=2
            Axis along which slices are cut.
        voxel_sizes : sequence of 3 float, optional
            Sides of a voxel in mm; None (default) for those of a nibabel image, or equal ones.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        MulticompartmentDisplay
            The display.
        """
        rows, inside = _signals(volume, mask)
        probability = np.full(inside.shape, np.nan)
        probability[inside] = predict_multicompartment_proba(estimator, rows)
        return cls(
            probability, novelty=novelty, background=background, slices=slices, axis=axis,
            voxel_sizes=voxel_sizes, dataset=dataset,
        ).plot(ax=ax)  # fmt: skip

    @classmethod
    def from_predictions(
        cls, probability: Any, *, novelty: Any = None, background: Any = None,
        slices: Sequence[int] | None = None, axis: int = 2,
        voxel_sizes: Sequence[float] | None = None, dataset: str = "unnamed data",
        ax: Axes | None = None,
    ) -> Self:  # fmt: skip
        """Map given probabilities.

        Parameters
        ----------
        probability : array or nibabel image, shape (n_x, n_y) or (n_x, n_y, n_z)
            P(n_c >= 2) of each voxel; NaN where there is none.
        novelty : array of bool or nibabel image, optional
            Voxels that are transparent; see :class:`MulticompartmentDisplay`.
        background : array or nibabel image, optional
            Image below the map; None (default) for none.
        slices : sequence of int, optional
            Numbers of the slices; None (default) for all.
        axis : {0, 1, 2}, default=2
            Axis along which slices are cut.
        voxel_sizes : sequence of 3 float, optional
            Sides of a voxel in mm; None (default) for those of a nibabel image, or equal ones.
        dataset : str
            Name of the data, for the title.
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.

        Returns
        -------
        MulticompartmentDisplay
            The display.
        """
        return cls(
            probability, novelty=novelty, background=background, slices=slices, axis=axis,
            voxel_sizes=voxel_sizes, dataset=dataset,
        ).plot(ax=ax)  # fmt: skip

    def plot(self, ax: Axes | None = None, *, cmap: str | Colormap = PROBABILITY_COLORMAP) -> Self:
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to plot on. Default: those of a new figure.
        cmap : str or Colormap, default="viridis"
            Colours of the probabilities from 0 to 1.

        Returns
        -------
        MulticompartmentDisplay
            The display itself.
        """
        self._start(ax)
        shown = self._show(self._montage(self.probability), cmap=cmap, vmin=0.0, vmax=1.0)
        self.figure_.colorbar(shown, ax=self.ax_, shrink=0.7)
        self.ax_.set_title(self._title("P(more than one compartment)"), fontsize=10)
        return self


def _volume(values: Any, what: str) -> NDArray[Any]:
    """Array of three axes of a map or an image of nibabel."""
    array = np.asarray(getattr(values, "dataobj", values))
    if array.ndim not in (2, 3) or array.dtype.kind not in "biuf" or not array.size:
        raise ValueError(
            f"{what} must have real numbers in two or three axes, got the shape {array.shape} of "
            f"type {array.dtype}"
        )
    return array.reshape((*array.shape, 1)[:3])


def _signals(volume: ArrayLike, mask: ArrayLike | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Signals of the voxels of a volume, and their places."""
    array = np.asarray(volume)
    if array.ndim not in (3, 4):
        raise ValueError(
            "the volume must have two or three spatial axes and one of measurements, got the shape "
            f"{array.shape}"
        )
    inside = np.asarray(array.any(axis=-1) if mask is None else mask, bool)
    if inside.shape != array.shape[:-1]:
        raise ValueError(
            f"the mask has the shape {inside.shape}, but the volume has {array.shape[:-1]} voxels"
        )
    if not inside.any():
        raise ValueError("no voxel is mapped: the mask is empty, or all signals are zero")
    return array[inside], inside


def _columns(n: int, width: float, height: float) -> int:
    """Columns of a montage that make it about as high as wide."""
    return min(n, max(1, round(float(np.sqrt(n * height / width)))))
