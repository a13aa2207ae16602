"""NIfTI files: opening, completeness, and errors in one sentence."""

from __future__ import annotations

import gzip
import math
import tempfile
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.extras import require
from corrsk._utils.files import (
    MISFITS,
    NO_SPACE,
    InvalidFileError,
    existing_file,
    no_space,
    refuse_misfits,
)

ENDINGS = (".nii.gz", ".nii")
_UNREADABLE = (*MISFITS, EOFError, OSError, zlib.error)
_CHUNK = 1 << 22  # bytes


def import_nibabel() -> ModuleType:
    """Import nibabel, on first use.

    Raises
    ------
    ImportError
        If nibabel is not installed; the message has the command that installs it.
    """
    require("nibabel", extra="imaging", purpose="reading and writing NIfTI images")
    import nibabel

    return nibabel


def is_image(source: Any) -> bool:
    """Return whether an object is an image of nibabel."""
    return hasattr(source, "dataobj") and hasattr(source, "affine")


def image_to_plain(image: Any) -> dict[str, Any]:
    """Values, affine and header of an image of nibabel, as arrays."""
    header = header_to_plain(image.header)
    return {"values": np.asanyarray(image.dataobj), "affine": image.affine, "header": header}


def image_from_plain(content: dict[str, Any]) -> Any:
    """Image of :func:`image_to_plain`."""
    nibabel = import_nibabel()
    header = header_from_plain(content["header"])
    wide = isinstance(header, nibabel.Nifti2Header)
    kind = nibabel.Nifti2Image if wide else nibabel.Nifti1Image
    return kind(content["values"], content["affine"], header)


def header_to_plain(header: Any) -> NDArray[np.uint8] | None:
    """Bytes of a header of NIfTI; of other formats None."""
    nibabel = import_nibabel()
    if not isinstance(header, nibabel.Nifti1Header):  # NIfTI-2 is derived from it
        return None
    return np.frombuffer(header.binaryblock, np.uint8)


def header_from_plain(content: NDArray[np.uint8] | None) -> Any:
    """Header of :func:`header_to_plain`, without extensions."""
    if content is None:
        return None
    nibabel = import_nibabel()
    block = np.asarray(content, np.uint8).tobytes()
    wide = len(block) == nibabel.Nifti2Header.sizeof_hdr
    return (nibabel.Nifti2Header if wide else nibabel.Nifti1Header)(block)


def stem_of(path: Path) -> str:
    """Name of an image file without its ending."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def open_image(path: str | Path, *, keep_open: bool = False, check: bool = True) -> Any:
    """Open an image file, without its values.

    Parameters
    ----------
    path : path-like
        The file.
    keep_open : bool, default=False
        Whether the file stays open between reads, so that a compressed file is decompressed once
        if its parts are read in their order.
    check : bool, default=True
        Whether to check that the file is complete.

    Returns
    -------
    nibabel image
        The image.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is no image, or is truncated.
    """
    nibabel = import_nibabel()
    path = existing_file(path)
    try:
        image = nibabel.load(path, **({"keep_file_open": True} if keep_open else {}))
    except (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
        *_UNREADABLE,
    ) as error:
        raise InvalidFileError(
            f"{path} is not a readable image (it may be truncated): {_text(error)}"
        ) from error
    if min(image.shape, default=0) < 1:
        raise InvalidFileError(f"{path} has the shape {image.shape}, without values")
    if check:
        with refuse_misfits(path, "a readable image"):
            _check_complete(path, image)
    return image


def read_values(proxy: Any, slicer: tuple[Any, ...], name: str) -> NDArray[Any]:
    """Read a part of an image, with its scale factors.

    Parameters
    ----------
    proxy : nibabel array proxy or ndarray
        Values of the image.
    slicer : tuple of slice and int
        The part.
    name : str
        Name of the image, for the message.

    Returns
    -------
    ndarray
        Values, in the byte order of the machine.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    try:
        values = np.asanyarray(proxy[slicer])
    except _UNREADABLE as error:
        raise InvalidFileError(f"{name} is damaged or truncated: {_text(error)}") from error
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def unpacked(path: Path, proxy: Any, file: IO[bytes]) -> Any:
    """Array proxy of the decompressed content of a file.

    Parameters
    ----------
    path : Path
        Compressed file.
    proxy : nibabel array proxy
        Its values.
    file : file
        Empty file, to which the content is written.

    Returns
    -------
    nibabel array proxy
        The same values.

    Raises
    ------
    ValueError
        If the file is damaged.
    OSError
        If the disk is full.
    """
    with gzip.open(path, "rb") as compressed:
        while True:
            try:
                chunk = compressed.read(_CHUNK)
            except _UNREADABLE as error:
                raise InvalidFileError(f"{path} is damaged or truncated: {_text(error)}") from error
            if not chunk:
                break
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                what = f"the decompressed values of {path}"
                raise no_space(tempfile.gettempdir(), what, error) from error
    return from_file(proxy, file)


def from_file(proxy: Any, file: IO[bytes]) -> Any:
    """Array proxy of the same values in an open file.

    Parameters
    ----------
    proxy : nibabel array proxy
        The values.
    file : file
        File with the decompressed content.

    Returns
    -------
    nibabel array proxy
        The values.
    """
    spec = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
    return type(proxy)(file, spec)


def is_packed(path: Path) -> bool:
    """Return whether a file is a compressed NIfTI file."""
    return path.name.lower().endswith(ENDINGS[0])


def check_sum(path: Path, file: IO[bytes] | None = None) -> None:
    """Read a compressed file to its end, where its checksum is compared.

    Parameters
    ----------
    path : Path
        The file.
    file : file, optional
        The same file, open; only the rest of its content is read.

    Raises
    ------
    ValueError
        If the checksum is another one, or the file is damaged in another way.
    """
    try:
        with nullcontext(file) if file is not None else gzip.open(path, "rb") as content:
            while content.read(_CHUNK):
                pass
    except _UNREADABLE as error:
        raise ValueError(f"{path} is damaged: {_text(error)}") from error


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_complete(path: Path, image: Any) -> None:
    """Refuse a file that has fewer bytes than its header promises."""
    proxy = image.dataobj
    offset, dtype = getattr(proxy, "offset", None), getattr(proxy, "dtype", None)
    data_path = Path(image.file_map["image"].filename or path)
    if offset is None or dtype is None or not data_path.is_file():
        return
    needed = int(offset) + math.prod(map(int, image.shape)) * dtype.itemsize
    if data_path.suffix.lower() != ".gz":
        found = data_path.stat().st_size
    elif _last_size(data_path) == needed % (1 << 32):
        return
    else:  # truncated, or compressed in several parts
        found = _decompressed_size(data_path, needed)
    if found < needed:
        raise InvalidFileError(
            f"{data_path} is truncated: its header describes {needed} bytes, the file has {found}"
        )


def _last_size(path: Path) -> int | None:
    """Size in the trailer of a compressed file, modulo 2^32."""
    if path.stat().st_size < 8:
        return None
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")


def _decompressed_size(path: Path, enough: int) -> int:
    """Number of bytes that can be decompressed, up to `enough`."""
    found = 0
    try:
        with gzip.open(path, "rb") as file:
            while found < enough and (chunk := file.read1(_CHUNK)):
                found += len(chunk)
    except _UNREADABLE:  # the rest is missing
        pass
    return found
