"""Volumes: one measurement each, in a file, an array, or two files of complex signals."""

from __future__ import annotations

import gzip
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.wording import worded
from corrsk.imaging._nifti import (
    check_sum,
    from_file,
    is_packed,
    open_image,
    read_values,
    unpacked,
)
from corrsk.imaging.grid import Slices, spatial_shape

_MOST_OPEN = 400  # files; systems allow a process a thousand or fewer
_FULL_TURN = 2 * np.pi
_ROUNDING = 1.01  # phases of 2 pi in integers with a scale factor


class Volume(Protocol):
    """Source of the values of one measurement."""

    def read(self, where: Slices, files: OpenFiles) -> NDArray[Any]:
        """Read a slab; see :meth:`FileVolume.read`."""

    @property
    def files(self) -> tuple[str, ...]:
        """Files of the values."""


class OpenFiles:
    """Image files that stay open while the slabs of a set of volumes are read.

    Decompressing starts anew with every opening, so that slabs in ascending order need open files.

    Parameters
    ----------
    n_slabs : int, default=1
        Number of slabs. For several slabs, a compressed file of several volumes is decompressed
        once into a temporary file, because every slab reads a part of each volume.
    """

    def __init__(self, n_slabs: int = 1) -> None:
        self._unpacks = n_slabs > 1
        self._proxies: dict[Path, Any] = {}
        self._packed: dict[Path, IO[bytes] | None] = {}  # None for files that are not kept open
        self._files = ExitStack()

    def proxy(self, path: Path) -> Any:
        """Array proxy of a file."""
        if path not in self._proxies:
            keep_open, packed = len(self._proxies) < _MOST_OPEN, is_packed(path)
            proxy = open_image(path, keep_open=keep_open and not packed, check=False).dataobj
            if not keep_open:
                if packed:
                    self._packed[path] = None
                return proxy
            several = len(proxy.shape) > 3 and proxy.shape[3] > 1
            if packed and self._unpacks and several:
                # without a name, so that it vanishes however the process ends
                file = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
                proxy = unpacked(path, proxy, file)
            elif packed:
                opened: Any = self._files.enter_context(gzip.open(path, "rb"))  # noqa: SIM115
                self._packed[path] = opened
                proxy = from_file(proxy, opened)
            self._proxies[path] = proxy
        return self._proxies[path]

    def check_sums(self) -> None:
        """Compare the checksums of the compressed files, after all values have been read.

        Raises
        ------
        ValueError
            If a file is damaged.
        """
        for path, file in self._packed.items():
            check_sum(path, file)

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        self._proxies.clear()
        self._packed.clear()
        with suppress(OSError):  # of a full disk, which is reported where the values are written
            self._files.close()


@dataclass(frozen=True)
class FileVolume:
    """Volume of an image file.

    Parameters
    ----------
    path : Path
        The file.
    index : int
        Position of the volume along the fourth axis; 0 in a file with three axes.
    """

    path: Path
    index: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        """The file."""
        return (str(self.path),)

    def read(self, where: Slices, files: OpenFiles) -> NDArray[Any]:
        """Read a slab, with scale factors.

        Parameters
        ----------
        where : tuple of slice
            The slab.
        files : OpenFiles
            Files that stay open.

        Returns
        -------
        ndarray of shape (n_x, n_y, n_z)
            Values of the slab.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        return _slab(files.proxy(self.path), self.index, where, str(self.path))


@dataclass(frozen=True, eq=False)
class ArrayVolume:
    """Volume of values in memory.

    Parameters
    ----------
    values : array or nibabel array proxy, shape (n_x, n_y, n_z, n_measurements)
        Values; shorter shapes lack axes of length 1.
    index : int
        Position of the volume along the last axis.
    name : str
        File of the values, if any.
    """

    values: Any
    index: int = 0
    name: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The file of the values, if any."""
        return (self.name,) if self.name else ()

    def read(self, where: Slices, files: OpenFiles) -> NDArray[Any]:
        """Read a slab; see :meth:`FileVolume.read`."""
        return _slab(self.values, self.index, where, self.name or "the image")


@dataclass(frozen=True)
class ComplexVolume:
    """Volume of complex signals in two volumes.

    Parameters
    ----------
    first, second : Volume
        Magnitude and phase in radians, or real and imaginary part.
    polar : bool
        Whether the two are magnitude and phase.
    """

    first: Volume
    second: Volume
    polar: bool

    @property
    def files(self) -> tuple[str, ...]:
        """Files of both volumes."""
        return (*self.first.files, *self.second.files)

    def read(self, where: Slices, files: OpenFiles) -> NDArray[Any]:
        """Read a slab; see :meth:`FileVolume.read`."""
        first = self.first.read(where, files)
        second = self.second.read(where, files)
        if not self.polar:
            return np.asarray(first + 1j * second)
        largest = float(np.abs(second[np.isfinite(second)]).max(initial=0.0))
        if largest > _FULL_TURN * _ROUNDING:
            name = ", ".join(self.second.files) or "the image"
            raise ValueError(
                f"the phase of {name} has values of {largest:g}, but must be in radians (at most "
                "2 pi); convert it, or read the magnitude alone with "
                + worded("select={'part': 'mag'}", "--select part=mag")
            )
        return np.asarray(first * np.exp(1j * second))


def _slab(values: Any, index: int, where: Slices, name: str) -> NDArray[Any]:
    n_axes = len(values.shape)
    slicer: tuple[Any, ...] = where[: min(n_axes, 3)]
    if n_axes > 3:
        slicer += (index,) + (0,) * (n_axes - 4)
    found = read_values(values, slicer, name)
    return found.reshape(spatial_shape(found.shape))
