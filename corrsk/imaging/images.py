"""Measured images: volumes with their protocol, read slab by slab."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, DTypeLike, NDArray

from corrsk._utils.voxels import NoSignalWarning, user_level
from corrsk._utils.wording import worded
from corrsk.acquisition.labels import signals_table
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.imaging._masks import read_map, read_mask
from corrsk.imaging._volumes import OpenFiles, Volume
from corrsk.imaging.grid import Grid, Slices
from corrsk.physics.contrasts import REPETITION_TIME
from corrsk.preprocessing.kind import UNDECIDED, signal_kind

SLAB_BYTES = 128 * 1024**2  # of the signals of a slab; a read needs a few times as much
_N_JUDGED = 500  # voxels for the kind of the signals
_MOST_JUDGED = 256  # measurements for it, evenly spaced ones of long echo trains
_FEWEST_JUDGED = 8  # voxels, from which equal values are no coincidence
_MOST_LISTED = 60  # rows of the table of a summary; longer ones lack their middle


@dataclass(frozen=True, eq=False)
class Measurement:
    """One volume of measured images, and its source.

    Parameters
    ----------
    volume : Volume
        Source of the values.
    number : int
        Position in a file of several volumes.
    unit : str
        Unit of the times in the source, such as "s".
    kind : str or None
        Kind of the signals that the source states, if it does.
    """

    volume: Volume
    number: int = 0
    unit: str = REPETITION_TIME.unit
    kind: str | None = None


@dataclass(frozen=True, eq=False)
class Slab:
    """Signals of some slices of measured images.

    Parameters
    ----------
    where : tuple of slice
        Place of the slab in the grid.
    mask : ndarray of bool, shape (n_x, n_y, n_z)
        Voxels of the slab that have a row in `signals`.
    signals : DataFrame of shape (n_voxels, n_measurements)
        Signals, named and with the protocol, as :meth:`corrsk.SignalMasker.transform` returns
        them.
    n_dark : int
        Voxels of the mask that are left out, those of the surroundings included: all zero, or with
        NaN.
    around : Surroundings or None
        The slab with margins, if these were asked for.
    """

    where: Slices
    mask: NDArray[np.bool_]
    signals: pd.DataFrame
    n_dark: int
    around: Surroundings | None = None

    @property
    def n_voxels(self) -> int:
        """Number of rows of `signals`; 0 in a slab without voxels of the mask."""
        return len(self.signals)

    def fill(self, values: Any) -> NDArray[Any]:
        """Arrange results of the signals in space.

        Parameters
        ----------
        values : array of shape (n_voxels,) or (n_voxels, n_maps)
            Results.

        Returns
        -------
        ndarray of shape (n_x, n_y, n_z) or (n_x, n_y, n_z, n_maps)
            Results of the slab; 0 (integers) or NaN (numbers) elsewhere.

        Raises
        ------
        ValueError
            If there is not one row for each voxel.
        """
        return fill_mask(values, self.mask)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """A slab together with the slices before and after it.

    Parameters
    ----------
    slab : Slab
        The larger slab.
    own : ndarray of bool, shape (n_voxels,)
        Rows of the larger slab that are those of the smaller one.
    """

    slab: Slab
    own: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MeasuredImages:
    """Images of one subject, with the protocol of their measurements, before any value is read.

    :func:`corrsk.imaging.load_images` creates these objects. Values are read slab by slab, when
    they are needed.

    Parameters
    ----------
    measurements : tuple of Measurement
        The volumes, in the order of the protocol.
    protocol : AcquisitionProtocol
        The protocol.
    grid : Grid
        The voxels.
    mask : ndarray of bool, shape (n_x, n_y, n_z), or None
        Voxels to use; None for all voxels with a signal.
    name : str
        Name of the images, for messages.

    Attributes
    ----------
    shape : tuple of int
        (n_x, n_y, n_z, n_measurements).
    affine : ndarray of shape (4, 4)
        Affine from voxel indices to positions in mm.
    sources : tuple of str
        Files of the values, without duplicates.
    kinds : tuple of str
        Kind of the signals of each series: "signed", "magnitude", "complex" or "undecided"; see
        :func:`corrsk.preprocessing.signal_kind`. As the sources state it, or found in voxels of
        the middle slice, which are read on first use.

    Raises
    ------
    ValueError
        If the number of volumes is not that of the protocol's measurements.
    """

    measurements: tuple[Measurement, ...]
    protocol: AcquisitionProtocol
    grid: Grid
    mask: NDArray[np.bool_] | None = None
    name: str = "the images"

    def __post_init__(self) -> None:
        found, needed = len(self.measurements), self.protocol.n_measurements
        if found != needed:
            raise ValueError(
                f"{self.name} has {found} volumes, but the protocol has {needed} measurements, "
                f"{self.protocol!r}"
            )

    # -- content ---------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of voxels along each axis, and of measurements."""
        return (*self.grid.shape, self.protocol.n_measurements)

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine from voxel indices to positions in mm."""
        return self.grid.affine

    @property
    def sources(self) -> tuple[str, ...]:
        """Files of the values, without duplicates."""
        return tuple(dict.fromkeys(file for one in self.measurements for file in one.volume.files))

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Kind of the signals of each series."""
        numbers = self.protocol._series_of_each
        found = []
        for series in range(numbers.max() + 1):
            own = np.flatnonzero(numbers == series)
            stated = {self.measurements[j].kind for j in own}
            kind = stated.pop() if len(stated) == 1 else None
            found.append(self._found_kind(own) if kind is None else kind)
        return tuple(found)

    def _found_kind(self, own: NDArray[np.intp]) -> str:
        """Kind of the signals of some measurements, from voxels of the middle slice."""
        own = own[:: -(-own.size // _MOST_JUDGED)]
        values = self._middle(own)
        rows = values.reshape(-1, own.size)
        rows = rows[np.isfinite(rows).all(axis=1)]
        strength = np.abs(rows).max(axis=1, initial=0)
        rows = rows[strength > 0.2 * strength.max(initial=0)]
        if not len(rows):
            return UNDECIDED
        rows = rows[:: -(-len(rows) // _N_JUDGED)]
        return signal_kind(rows, self.protocol.subset(own))

    def _middle(self, own: NDArray[np.intp]) -> NDArray[Any]:
        slices = list(self.grid.slabs(1))
        with OpenFiles() as files:
            return self._read(slices[len(slices) // 2], files, own)

    def to_frame(self) -> pd.DataFrame:
        """Table of the measurements: what is read, from which file.

        Returns
        -------
        DataFrame of shape (n_measurements, n_columns)
            `file` and `volume` (position in the file, from 0), TI, TE and TR in ms and b in ms/um^2
            (those of the protocol), `units` (of the times in the source), `series` and `signal`
            (kind of the signals).
        """
        protocol = self.protocol
        numbers = protocol._series_of_each
        columns: dict[str, Any] = {
            "file": [_short(one.volume.files) for one in self.measurements],
            "volume": [one.number for one in self.measurements],
            **{name: np.array(values) for name, values in protocol.contrasts.items()},
        }
        if protocol.tr is not None:
            columns["TR"] = protocol._tr_of_each
        columns["units"] = [one.unit for one in self.measurements]
        columns["series"] = numbers
        columns["signal"] = [self.kinds[number] for number in numbers]
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Describe what is read, before it is: grid, protocol, mask and the table of the volumes.

        Returns
        -------
        str
            A few lines and the table of :meth:`to_frame`, of long ones the beginning and the end.
        """
        grid = self.grid
        sides = " x ".join(f"{side:.4g}" for side in np.linalg.norm(grid.affine[:3, :3], axis=0))
        voxels = f"{grid.n_voxels:,} voxels ({' x '.join(map(str, grid.shape))}, {sides} mm)"
        mask = "none: all voxels with a signal"
        if self.mask is not None:
            mask = f"{int(self.mask.sum()):,} voxels"
        kinds = ", ".join(dict.fromkeys(self.kinds))
        return "\n".join(
            [
                f"{self.name}: {voxels}",
                f"protocol: {self.protocol}",
                f"signals: {kinds}",
                f"mask: {mask}",
                *(["affine: the identity, so that position and sizes of the voxels are unknown"]
                  if grid.has_identity else []),
                "times in ms, b in ms/um^2",
                self.to_frame().to_string(index=False, max_rows=_MOST_LISTED),
            ]
        )  # fmt: skip

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.grid.shape))
        return f"MeasuredImages({self.name}: {shape} voxels, {self.protocol})"

    def __array__(self, *arguments: Any, **options: Any) -> NDArray[Any]:
        raise TypeError(
            "measured images are no array, which would lose their protocol: pass the rows of "
            "SignalMasker().fit_transform(images), make SignalMasker the first step of a "
            "Pipeline of scikit-learn, or pass images.to_array()"
        )

    # -- other images ----------------------------------------------------------

    def with_protocol(self, protocol: AcquisitionProtocol) -> MeasuredImages:
        """Return the same images with another protocol, such as one with TE, TR or a readout.

        Parameters
        ----------
        protocol : AcquisitionProtocol
            The protocol, in the order of the volumes.

        Returns
        -------
        MeasuredImages
            The images.

        Raises
        ------
        ValueError
            If the number of volumes is not that of the protocol's measurements.
        """
        return replace(self, protocol=protocol)

    def subset(self, selection: ArrayLike) -> MeasuredImages:
        """Return the images of some measurements, such as some echoes of a long train.

        Parameters
        ----------
        selection : array of bool, shape (n_measurements,), or array of int
            Mask over the measurements, or their positions; see
            :meth:`corrsk.AcquisitionProtocol.subset`.

        Returns
        -------
        MeasuredImages
            The images, in the order of these.

        Raises
        ------
        ValueError
            If the selection is invalid.
        """
        protocol = self.protocol.subset(selection)
        chosen = np.asarray(selection)
        kept = np.flatnonzero(chosen) if chosen.dtype == bool else np.sort(chosen)
        return replace(
            self, protocol=protocol, measurements=tuple(self.measurements[j] for j in kept)
        )

    def with_mask(self, mask: Any) -> MeasuredImages:
        """Return the same images with a mask.

        Parameters
        ----------
        mask : path-like, nibabel image, array or None
            Mask of the shape of the voxels, up to axes of length 1, with 0 outside and one other
            value inside; None for all voxels with a signal.

        Returns
        -------
        MeasuredImages
            The images.

        Raises
        ------
        ValueError
            If the mask is empty, has more than two values, or another shape or affine.

        Warns
        -----
        UserWarning
            If the affine of the mask, or that of the images, is the identity and the other one
            is not: their positions cannot be compared.
        """
        return replace(self, mask=None if mask is None else read_mask(mask, self.grid, self.name))

    @classmethod
    def concatenate(
        cls, series: Iterable[MeasuredImages], *, same_gain: bool = False
    ) -> MeasuredImages:
        """Join series of measurements of the same voxels.

        Parameters
        ----------
        series : iterable of MeasuredImages
            The series, in the order of the columns of their signals.
        same_gain : bool, default=False
            Whether the signals of all series have the same scale. By default, the relative scale of
            the series is unknown; see :meth:`corrsk.AcquisitionProtocol.concatenate`.

        Returns
        -------
        MeasuredImages
            All measurements, in the voxels that all masks share.

        Raises
        ------
        ValueError
            If there is no series, the voxels differ, the masks share no voxel, or a series lacks a
            scan parameter that every measurement has.
        """
        parts = list(series)
        if not parts:
            raise ValueError("concatenate needs at least one series of images")
        first = parts[0]
        for other in parts[1:]:
            differs = first.grid.difference(other.grid)
            if differs is not None:
                raise ValueError(
                    f"{other.name} has other voxels than {first.name}: {differs}; series of one "
                    "slice must have one grid (register or resample them before)"
                )
        try:
            protocol = AcquisitionProtocol.concatenate(
                [one.protocol for one in parts], same_gain=same_gain
            )
        except ValueError as error:
            names = ", ".join(f"series {k} is {one.name}" for k, one in enumerate(parts))
            raise ValueError(
                f"{error}; {names}: "
                + worded("pass it with images.with_protocol(..) before", "add it to the sidecars")
            ) from error
        masks = [one.mask for one in parts if one.mask is not None]
        mask = np.logical_and.reduce(masks) if masks else None
        if mask is not None and not mask.any():
            raise ValueError("the masks of the series share no voxel")
        measurements = tuple(each for one in parts for each in one.measurements)
        name = " + ".join(one.name for one in parts)
        return cls(measurements, protocol, first.grid, mask, name)

    # -- values ----------------------------------------------------------------

    def read_map(self, source: Any) -> NDArray[Any]:
        """Read a map of the same voxels, such as labels.

        Parameters
        ----------
        source : path-like, nibabel image or array
            Map of shape (n_x, n_y, n_z), up to axes of length 1.

        Returns
        -------
        ndarray of shape (n_x, n_y, n_z)
            The map.

        Raises
        ------
        ValueError
            If the map has another shape or affine.

        Warns
        -----
        UserWarning
            If one of the affines is the identity; see :meth:`with_mask`.
        """
        return read_map(source, self.grid, self.name, "the map")[0]

    def to_array(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Read all values.

        Parameters
        ----------
        dtype : dtype, default=float32
            Type of the values; complex signals have the complex type of this precision.

        Returns
        -------
        ndarray of shape (n_x, n_y, n_z, n_measurements)
            The values; the volume that predictions accept.

        Raises
        ------
        ValueError
            If a file is damaged.
        """
        every = np.arange(self.protocol.n_measurements)
        whole = tuple(slice(0, n) for n in self.grid.shape)
        with OpenFiles() as files:
            values = self._read((whole[0], whole[1], whole[2]), files, every, dtype)
            files.check_sums()
            return values

    def read_measurement(self, number: int) -> NDArray[Any]:
        """Read the values of one measurement.

        Parameters
        ----------
        number : int
            Position of the measurement in the protocol, from 0.

        Returns
        -------
        ndarray of shape (n_x, n_y, n_z)
            The values, in single precision.

        Raises
        ------
        ValueError
            If a file is damaged.
        """
        whole = tuple(slice(0, n) for n in self.grid.shape)
        with OpenFiles() as files:
            values = self._read((whole[0], whole[1], whole[2]), files, np.array([number]))
        return values[..., 0]

    def slabs(
        self, mask: NDArray[np.bool_] | None = None, *, max_bytes: int = SLAB_BYTES,
        dtype: DTypeLike = np.float32, margin: int = 0,
    ) -> Iterator[Slab]:  # fmt: skip
        """Read the signals slab by slab, in ascending order along the last axis.

        Parameters
        ----------
        mask : ndarray of bool, shape (n_x, n_y, n_z), optional
            Voxels to use; None (default) for the mask of the images.
        max_bytes : int, default=134217728
            Largest size of the values of a slab; a slab has at least one slice. A read needs a few
            times as much memory, and, for several slabs of a compressed file, disk space
            for its values in the folder of temporary files.
        dtype : dtype, default=float32
            Type of the signals.
        margin : int, default=0
            Number of slices on either side that are read, too, as `around` of the slab;
            `max_bytes` is without them.

        Yields
        ------
        Slab
            Signals of the voxels of the mask that are neither all zero nor have NaN.

        Raises
        ------
        ValueError
            If a file is damaged.
        """
        with SlabReader(self, mask, max_bytes=max_bytes, dtype=dtype, margin=margin) as reader:
            for number in range(reader.n_slabs):
                yield reader.read(number)
            reader.check_sums()

    def slab(self, where: Slices, mask: NDArray[np.bool_] | None = None) -> Slab:
        """Read one slab.

        Parameters
        ----------
        where : tuple of slice
            Place of the slab.
        mask : ndarray of bool, shape (n_x, n_y, n_z), optional
            Voxels to use; None (default) for the mask of the images.

        Returns
        -------
        Slab
            Signals; see :meth:`slabs`.
        """
        mask = self.mask if mask is None else mask
        with OpenFiles() as files:
            values = self._read(where, files, np.arange(self.protocol.n_measurements))
        return self._slab(where, None if mask is None else mask[where], values)

    def _widened(self, where: Slices, margin: int) -> Slices:
        axis = self.grid.slab_axis
        own, n = where[axis], self.grid.shape[axis]
        wide = list(where)
        wide[axis] = slice(max(0, own.start - margin), min(n, own.stop + margin))
        return wide[0], wide[1], wide[2]

    def _slab(self, where: Slices, inside: NDArray[np.bool_] | None, values: NDArray[Any]) -> Slab:
        kept = np.ones(values.shape[:3], bool) if inside is None else inside.copy()
        rows = values.reshape(-1, values.shape[-1]) if inside is None else values[inside]
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(rows.sum(axis=1))
        finite[~finite] = np.isfinite(rows[~finite]).all(axis=1)
        bright = finite & rows.any(axis=1)
        # without a mask, voxels of zeros, or of NaN alone, are background
        lost = ~np.isnan(rows[~finite]).all(axis=1) if inside is None else ~bright
        n_dark = int(lost.sum())
        kept[kept] = bright
        rows = rows if bright.all() else rows[bright]
        return Slab(where, kept, signals_table(rows, self.protocol), n_dark)

    def signals(
        self, mask: NDArray[np.bool_] | None = None, *, dtype: DTypeLike = np.float32
    ) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
        """Read the signals of all voxels of a mask.

        Parameters
        ----------
        mask : ndarray of bool, shape (n_x, n_y, n_z), optional
            Voxels to use; None (default) for the mask of the images.
        dtype : dtype, default=float32
            Type of the signals.

        Returns
        -------
        signals : DataFrame of shape (n_voxels, n_measurements)
            Signals of the voxels that are neither all zero nor have NaN, in the order of the
            voxels in memory (C order). Columns have the names of the measurements, and
            ``signals.attrs["protocol"]`` is the protocol, which :class:`corrsk.ProtocolAligner`
            compares with that of a model.
        mask : ndarray of bool, shape (n_x, n_y, n_z)
            The voxels of the rows.

        Raises
        ------
        ValueError
            If a file is damaged, no voxel of the mask has a signal, or a volume has the same value
            in all of them.

        Warns
        -----
        NoSignalWarning
            If voxels of the mask have no signal (all zero, or NaN), or, without a mask, voxels have
            NaN among other values; once, with their number.
        """
        kept = np.zeros(self.grid.shape, bool)
        parts, n_dark = [], 0
        for slab in self.slabs(mask, dtype=dtype):
            kept[slab.where] = slab.mask
            parts.append((slab.where, slab.mask, slab.signals.to_numpy()))
            n_dark += slab.n_dark
        n_voxels = int(kept.sum())
        if n_dark:
            warnings.warn(
                f"{n_dark} of {n_voxels + n_dark} voxels of {self.name} have no signal (all zero, "
                "or NaN); their results are NaN",
                NoSignalWarning,
                stacklevel=user_level(),
            )
        if not n_voxels:
            where = "its mask" if (self.mask if mask is None else mask) is not None else "it"
            raise ValueError(
                f"{self.name} has no voxel with a signal in {where}: the values are zero, NaN or "
                "infinite"
            )
        if len(parts) == 1:
            values = parts[0][2]
        else:
            # rows of a slab are not contiguous in the order of all voxels
            place = np.empty(self.grid.shape, np.int64)
            place[kept] = np.arange(n_voxels)
            values = np.empty((n_voxels, self.protocol.n_measurements), parts[0][2].dtype)
            while parts:
                at, inside, rows = parts.pop()
                values[place[at][inside]] = rows
        self._refuse_constant(values)
        # results are arranged in the same voxels, without another pass through the files
        self.__dict__["_kept"] = (mask, kept)
        return signals_table(values, self.protocol), kept

    def voxels_with_signal(self, mask: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Find the voxels of a mask that have a row in :meth:`signals`.

        Parameters
        ----------
        mask : ndarray of bool, shape (n_x, n_y, n_z), optional
            Voxels to use; None (default) for the mask of the images.

        Returns
        -------
        ndarray of bool, shape (n_x, n_y, n_z)
            The voxels. All signals are read, unless those of the same mask were read before.

        Raises
        ------
        ValueError
            See :meth:`signals`.

        Warns
        -----
        NoSignalWarning
            See :meth:`signals`.
        """
        before, kept = self.__dict__.get("_kept", (None, None))
        same = mask is before or (
            mask is not None and before is not None and np.array_equal(mask, before)
        )
        return kept if kept is not None and same else self.signals(mask)[1]

    def _refuse_constant(self, values: NDArray[Any]) -> None:
        if len(values) < _FEWEST_JUDGED:
            return
        constant = np.flatnonzero((values == values[0]).all(axis=0))
        if constant.size:
            first = int(constant[0])
            one = self.measurements[first]
            raise ValueError(
                f"{constant.size} of the {values.shape[1]} volumes of {self.name} have the same "
                f"value in all {len(values)} voxels; the first is volume {one.number} of "
                f"{_short(one.volume.files)}, with {values[0, first]:g}"
            )

    def _type(self, dtype: DTypeLike) -> np.dtype[Any]:
        is_complex = any(one.kind == "complex" for one in self.measurements)
        return np.result_type(dtype, np.complex64) if is_complex else np.dtype(dtype)

    def _read(
        self, where: Slices, files: OpenFiles, own: NDArray[np.intp],
        dtype: DTypeLike = np.float32,
    ) -> NDArray[Any]:  # fmt: skip
        """Values of some measurements in a slab, shape (n_x, n_y, n_z, n_measurements)."""
        shape = tuple(each.stop - each.start for each in where)
        # volume by volume in memory first: writing every n-th value is slow
        values = np.empty((own.size, *shape), self._type(dtype))
        for row, position in enumerate(own):
            read = self.measurements[position].volume.read(where, files)
            if read.dtype.kind not in "biufc" or (
                read.dtype.kind == "c" and values.dtype.kind != "c"
            ):
                raise ValueError(
                    f"{_short(self.measurements[position].volume.files)} has values of type "
                    f"{read.dtype}, not real numbers"
                )
            values[row] = read
        return np.ascontiguousarray(np.moveaxis(values, 0, -1))


class SlabReader:
    """Reader of the slabs of images in any order, whose files stay open.

    A context manager; see :meth:`MeasuredImages.slabs`, which reads all slabs in their order.

    Parameters
    ----------
    images : MeasuredImages
        The images.
    mask : ndarray of bool, shape (n_x, n_y, n_z), optional
        Voxels to use; None (default) for the mask of the images.
    max_bytes, dtype, margin
        See :meth:`MeasuredImages.slabs`.
    """

    def __init__(
        self, images: MeasuredImages, mask: NDArray[np.bool_] | None = None, *,
        max_bytes: int = SLAB_BYTES, dtype: DTypeLike = np.float32, margin: int = 0,
    ) -> None:  # fmt: skip
        self._images, self._dtype, self._margin = images, images._type(dtype), margin
        self._mask = images.mask if mask is None else mask
        self._every = np.arange(images.protocol.n_measurements)
        grid = images.grid
        per_slice = grid.n_voxels // grid.shape[grid.slab_axis]
        one = per_slice * self._every.size * self._dtype.itemsize
        self._places = list(grid.slabs(max(1, int(max_bytes // max(one, 1)))))
        self._files = OpenFiles(self.n_slabs)

    @property
    def n_slabs(self) -> int:
        """Number of slabs."""
        return len(self._places)

    def read(self, number: int) -> Slab:
        """Read a slab.

        Parameters
        ----------
        number : int
            Number of the slab, from 0, in ascending order along the last axis.

        Returns
        -------
        Slab
            Signals; without reading a file if no voxel of the mask is in the slab.

        Raises
        ------
        ValueError
            If a file is damaged.
        """
        images, mask, where = self._images, self._mask, self._places[number]
        inside = None if mask is None else mask[where]
        if inside is not None and not inside.any():
            empty = np.empty((0, self._every.size), self._dtype)
            return Slab(where, inside, signals_table(empty, images.protocol), 0)
        wide = images._widened(where, self._margin) if self._margin else where
        kept = None if mask is None else mask[wide]
        values = images._read(wide, self._files, self._every, self._dtype)
        slab = images._slab(wide, kept, values)
        return _core(slab, where) if self._margin else slab

    def check_sums(self) -> None:
        """Compare the checksums of the compressed files, after all slabs have been read."""
        self._files.check_sums()

    def __enter__(self) -> Self:
        self._files.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.__exit__(*exception)


def _core(around: Slab, where: Slices) -> Slab:
    """The part of a slab at a place, with the slab as its surroundings."""
    local = tuple(
        slice(own.start - wide.start, own.stop - wide.start)
        for own, wide in zip(where, around.where, strict=True)
    )
    core = np.zeros(around.mask.shape, bool)
    core[local] = True
    own = core[around.mask]
    signals = around.signals[own]
    signals.attrs = around.signals.attrs
    return Slab(where, around.mask[local], signals, around.n_dark, Surroundings(around, own))


def fill_mask(values: Any, mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Arrange results of the voxels of a mask in space; see :meth:`Slab.fill`."""
    values = np.asarray(values)
    n_voxels = int(mask.sum())
    if values.ndim not in (1, 2) or len(values) != n_voxels:
        raise ValueError(
            f"results must have shape ({n_voxels},) or ({n_voxels}, n_maps), one row for each "
            f"voxel of the mask; got {values.shape}"
        )
    if values.dtype.kind not in "biufc":
        raise ValueError(f"an image needs numbers, got results of type {values.dtype}")
    missing = np.nan if values.dtype.kind in "fc" else 0
    maps = np.full((*mask.shape, *values.shape[1:]), missing, values.dtype)
    maps[mask] = values
    return maps


def _short(files: tuple[str, ...]) -> str:
    """Names of files without their folders."""
    return " + ".join(file.replace("\\", "/").rsplit("/", 1)[-1] for file in files) or "in memory"
