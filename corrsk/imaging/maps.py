"""Maps in NIfTI files: written slab by slab, atomically, with a sidecar."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.files import write_atomically, write_json
from corrsk.imaging._nifti import ENDINGS, import_nibabel, open_image, read_values, stem_of
from corrsk.imaging.bids import dataset_folder
from corrsk.imaging.grid import Grid, Slices
from corrsk.imaging.images import MeasuredImages, Slab

_TYPES = ("float32", "uint8")
_COMPRESSION = 1  # of noisy numbers, higher levels save little
_CHUNK = 1 << 22  # bytes


class MapWriter:
    """Writer of one map, slab by slab, whose file appears when it is complete.

    A context manager. The values go to a temporary file in the folder of the map, which is
    compressed and renamed at the end; after an error or an interruption no part of the map is left
    under its name, and an earlier file is unchanged. The sidecar is written last, so that a map
    with a sidecar is complete.

    Parameters
    ----------
    path : path-like
        File to write, .nii or .nii.gz.
    images : MeasuredImages or Grid
        Measured images, whose geometry the map has and whose files the sidecar names.
    dtype : {"float32", "uint8"}, default="float32"
        Type of the values: uint8 for labels and masks.
    n_maps : int or None, default=None
        Length of the fourth axis, such as the number of classes; None for a map of three axes.
    sidecar : mapping or None, default=None
        Entries of the sidecar, such as ``{"Units": "s"}``, in addition to `Sources` and
        `GeneratedBy`; None for no sidecar.

    Raises
    ------
    ValueError
        If the path does not end in .nii or .nii.gz, or a parameter is invalid.
    FileNotFoundError
        If the folder does not exist.
    PermissionError
        If the folder cannot be written to.
    """

    def __init__(
        self,
        path: str | Path,
        images: MeasuredImages | Grid,
        *,
        dtype: str = "float32",
        n_maps: int | None = None,
        sidecar: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        if not self.path.name.lower().endswith(ENDINGS):
            raise ValueError(f"a map must end in {' or '.join(ENDINGS)}, got {self.path}")
        if dtype not in _TYPES:
            raise ValueError(f"dtype must be one of {', '.join(_TYPES)}, got {dtype!r}")
        if n_maps is not None and n_maps < 1:
            raise ValueError(f"n_maps must be at least 1, got {n_maps}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"there is no folder {self.path.parent} to write {self.path.name} to"
            )
        if not os.access(self.path.parent, os.W_OK):
            raise PermissionError(f"the folder {self.path.parent} cannot be written to")
        self.grid = images if isinstance(images, Grid) else images.grid
        self.sources = () if isinstance(images, Grid) else images.sources
        self.dtype: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
        self.n_maps = n_maps
        self.sidecar = sidecar
        self._files: ExitStack | None = None

    def __enter__(self) -> Self:
        import_nibabel()
        header = self.grid.map_header(self.dtype, self.n_maps)
        shape = self.grid.shape if self.n_maps is None else (*self.grid.shape, self.n_maps)
        self._written = np.zeros(self.grid.shape[self.grid.slab_axis], dtype=bool)
        self._files = ExitStack()
        try:
            # both temporary files are removed by their contexts if an error occurs
            target = self._files.enter_context(write_atomically(self.path))
            self._target = target
            values = target
            if self.path.name.lower().endswith(".gz"):
                values = self._files.enter_context(_temporary(target.with_suffix(".nii")))
            self._values_path = values
            self._offset = int(header.get_data_offset()) or header.single_vox_offset
            header.set_data_offset(self._offset)
            self._file = self._files.enter_context(values.open("w+b"))
            header.write_to(self._file)
            self._file.write(bytes(self._offset - self._file.tell()))
            self._file.truncate(self._offset + int(np.prod(shape, dtype=np.int64))
                                * self.dtype.itemsize)  # fmt: skip
        except BaseException as error:
            self._files.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, slab: Slab | Slices, values: Any) -> None:
        """Write the values of a slab.

        Parameters
        ----------
        slab : Slab or tuple of slice
            The slab, or its place in the grid.
        values : array or None
            Results of the voxels of a :class:`Slab`, shape (n_voxels,) or (n_voxels, n_maps); of
            a place, all its values, shape (n_x, n_y, n_z) or (n_x, n_y, n_z, n_maps). None for a
            slab without voxels: NaN, or 0 of type uint8.

        Raises
        ------
        ValueError
            If the shape is another one, or the values do not fit the type: labels of uint8 are
            integers from 0 to 255.
        """
        if isinstance(slab, Slab) and values is None:
            if slab.n_voxels:
                raise ValueError(f"the slab has {slab.n_voxels} voxels, but no values")
            tail = () if self.n_maps is None else (self.n_maps,)
            values = np.empty((0, *tail), self.dtype)
        # before the other voxels, whose NaN is no label
        values = self._converted(np.asarray(values))
        if isinstance(slab, Slab):
            where, values = slab.where, slab.fill(values)
        else:
            where = slab
        lengths = tuple(
            each.indices(n)[1] - each.indices(n)[0]
            for each, n in zip(where, self.grid.shape, strict=True)
        )
        expected = lengths if self.n_maps is None else (*lengths, self.n_maps)
        if values.shape != expected:
            raise ValueError(
                f"the values of the slab must have shape {expected}, got {values.shape}"
            )
        axis = self.grid.slab_axis
        if any(lengths[k] != self.grid.shape[k] for k in range(3) if k != axis):
            raise ValueError(f"a slab has whole slices along axis {axis}, got {where}")
        start = where[axis].indices(self.grid.shape[axis])[0]
        per_slice = self.grid.n_voxels // self.grid.shape[axis]
        volumes = [values] if self.n_maps is None else np.moveaxis(values, -1, 0)
        for number, volume in enumerate(volumes):
            position = number * self.grid.n_voxels + start * per_slice
            self._file.seek(self._offset + position * self.dtype.itemsize)
            self._file.write(volume.tobytes(order="F"))
        self._written[where[axis]] = True

    def _converted(self, values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype.kind not in "biuf":
            raise ValueError(f"a map needs real numbers, got {values.dtype}")
        if self.dtype.kind != "f" and values.size:
            whole = values.dtype.kind != "f" or bool((values == np.rint(values)).all())
            if not whole or values.min() < 0 or values.max() > 255:
                raise ValueError(
                    "labels of type uint8 are integers from 0 to 255, got values from "
                    f"{values.min():g} to {values.max():g}"
                )
        return values.astype(self.dtype)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        files, self._files = self._files, None
        if files is None:
            return
        if error is not None:
            files.__exit__(kind, error, traceback)
            return
        with files:
            if not self._written.all():
                raise ValueError(
                    f"{int(self._written.sum())} of the {self._written.size} slices of "
                    f"{self.path} were written; the map is incomplete and is not saved"
                )
            self._file.flush()
            if self._values_path != self._target:
                _compress(self._values_path, self._target)
        if self.sidecar is not None:
            content = map_sidecar(self.sources, self.path) | dict(self.sidecar)
            write_json(self.path.parent / f"{stem_of(self.path)}.json", content)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a path whose file is removed at the end."""
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _compress(source: Path, target: Path) -> None:
    # without name and time, so that equal maps are equal files
    with (
        source.open("rb") as values,
        target.open("wb") as file,
        gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as compressed,
    ):
        shutil.copyfileobj(values, compressed, _CHUNK)


def write_map(
    path: str | Path,
    values: Any,
    images: MeasuredImages | Grid,
    *,
    dtype: str | None = None,
    sidecar: Mapping[str, Any] | None = None,
) -> None:
    """Write a map with the geometry of measured images, atomically.

    Parameters
    ----------
    path : path-like
        File to write, .nii or .nii.gz.
    values : nibabel image or array of shape (n_x, n_y, n_z) or (n_x, n_y, n_z, n_maps)
        The map, such as :meth:`corrsk.SignalMasker.inverse_transform` returns it.
    images : MeasuredImages or Grid
        Measured images, whose geometry the map has and whose files the sidecar names.
    dtype : {"float32", "uint8"}, optional
        Type of the values; by default uint8 for integers, otherwise float32.
    sidecar : mapping, optional
        Entries of the sidecar; see :class:`MapWriter`.

    Raises
    ------
    ValueError
        If the shape is not that of the images, or the values do not fit the type.
    FileNotFoundError, PermissionError
        If the folder does not exist or cannot be written to.
    """
    array = np.asarray(getattr(values, "dataobj", values))
    if dtype is None:
        dtype = "float32" if array.dtype.kind == "f" else "uint8"
    n_maps = array.shape[3] if array.ndim == 4 else None
    writer = MapWriter(path, images, dtype=dtype, n_maps=n_maps, sidecar=sidecar)
    whole = [slice(0, n) for n in writer.grid.shape]
    with writer:
        writer.write((whole[0], whole[1], whole[2]), array)


def read_part(path: str | Path, where: Slices) -> NDArray[Any]:
    """Read every n-th voxel of a part of a map, without the rest of it in memory.

    Parameters
    ----------
    path : path-like
        File of the map.
    where : tuple of slice
        Start, stop and step along each spatial axis.

    Returns
    -------
    ndarray of shape (n_x, n_y, n_z) or (n_x, n_y, n_z, n_maps)
        The values.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged.
    """
    proxy = open_image(path).dataobj
    slicer = (*where, *(slice(None),) * (len(proxy.shape) - 3))
    return read_values(proxy, slicer, str(path))


def map_sidecar(sources: tuple[str, ...], path: Path) -> dict[str, Any]:
    """Entries of a map's sidecar: sources and software.

    Parameters
    ----------
    sources : tuple of str
        Files of the measured images.
    path : Path
        The map.

    Returns
    -------
    dict
        `Sources`: URIs of BIDS (``bids::sub-01/..``) for files of the same data set, otherwise
        paths relative to the folder of the map; and `GeneratedBy`.
    """
    own = dataset_folder(path)
    return {
        "Sources": [_uri(Path(source), own, path.parent) for source in sources],
        "GeneratedBy": [{"Name": "corrsk", "Version": version("corrsk")}],
    }


def _uri(source: Path, own: Path | None, folder: Path) -> str:
    source = source.absolute()
    if own is not None and source.is_relative_to(own):
        return f"bids::{source.relative_to(own).as_posix()}"
    try:
        return Path(os.path.relpath(source, folder.absolute())).as_posix()
    except ValueError:  # another drive
        return source.as_posix()
