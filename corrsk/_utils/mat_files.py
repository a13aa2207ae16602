"""Reader of MATLAB files that checks their headers before scipy reads them.

A wrong header, such as the flag of complex numbers in an array of real ones, ends the process in
the compiled reader of scipy 1.17. The format is version 5 of "MAT-File Format", The MathWorks.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from corrsk._utils.files import InvalidFileError, existing_file

_COMPRESSED, _MATRIX, _INT8, _INT32, _UINT32 = 15, 14, 1, 5, 6
# bytes of each value by type of data: integers, single, double, long integers, text
_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
_NUMBERS = range(6, 16)  # classes of double, single and integer arrays
_TEXT = 4
_COMPLEX = 0x800
_MOST_AXES = 32
_CHUNK = 1 << 20


def read_mat(path: str | Path) -> dict[str, Any]:
    """Read the arrays of numbers and text of a MATLAB file (up to version 7).

    Parameters
    ----------
    path : path-like
        The file. Its cells, structures and objects are skipped.

    Returns
    -------
    dict of str to ndarray
        The arrays by name.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    InvalidFileError
        If the file is truncated or damaged, in the HDF5-based version 7.3, or not a MATLAB file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import matfile_version

    path = existing_file(path)
    try:
        major, _ = matfile_version(path)
        if major == 2:
            raise InvalidFileError(
                f"{path} is a MATLAB v7.3 (HDF5) file; save it with save(..., '-v7')"
            )
        names = None
        if major == 1:
            with path.open("rb") as file:
                names = _checked_names(file, path.stat().st_size)
        content = loadmat(path, variable_names=names)
    except InvalidFileError:
        raise
    except Exception as error:  # scipy raises many types of errors for damaged files
        raise InvalidFileError(
            f"{path} is not a readable MATLAB file (it may be truncated): {error}"
        ) from error
    return {key: value for key, value in content.items() if not key.startswith("__")}


class _Part:
    """Bytes of an element: a part of a file, decompressed where needed."""

    def __init__(self, file: BinaryIO, size: int, *, compressed: bool) -> None:
        self._file, self._left = file, size
        self._inflater = zlib.decompressobj() if compressed else None
        self._pending = b""

    def read(self, size: int) -> bytes:
        """Read this number of bytes."""
        found = bytearray()
        while len(found) < size:
            piece = self._some(min(size - len(found), _CHUNK))
            if not piece:
                raise ValueError("an array ends early")
            found += piece
        return bytes(found)

    def skip(self, size: int) -> None:
        """Read and forget this number of bytes."""
        while size > 0:
            size -= len(self.read(min(size, _CHUNK)))

    def _some(self, most: int) -> bytes:
        if self._inflater is None:
            piece = self._file.read(min(most, self._left))
            self._left -= len(piece)
            return piece
        while True:
            if not self._pending and self._left:
                self._pending = self._file.read(min(_CHUNK, self._left))
                self._left -= len(self._pending)
            piece = self._inflater.decompress(self._pending, most)
            ended = not self._pending or self._inflater.eof
            self._pending = self._inflater.unconsumed_tail
            if piece or ended:
                return piece


def _checked_names(file: BinaryIO, size: int) -> list[str]:
    """Names of the arrays of numbers and text, whose headers are right."""
    header = file.read(128)
    order = {b"IM": "<", b"MI": ">"}.get(header[126:])
    if order is None:
        raise ValueError("the mark of the byte order is wrong")
    names = []
    while file.tell() < size:
        start = file.tell()
        kind, length = struct.unpack(f"{order}II", _exactly(file, 8))
        if length > size - start - 8:
            raise ValueError("an array is longer than the file")
        if kind == _COMPRESSED:
            part = _Part(file, length, compressed=True)
            kind, inner = struct.unpack(f"{order}II", part.read(8))
        else:
            part, inner = _Part(file, length, compressed=False), length
        if kind != _MATRIX:
            raise ValueError(f"an element has the type {kind}")
        name = _checked_name(part, order, inner)
        if name in names:
            raise ValueError(f"there are two arrays {name}")
        if name is not None:
            names.append(name)
        file.seek(start + 8 + length)
    return names


def _exactly(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) < size:
        raise ValueError("the file ends early")
    return found


def _checked_name(part: _Part, order: str, size: int) -> str | None:
    """Name of an array of numbers or text with a right header; None for other arrays."""
    if size == 0:  # an empty element, which scipy skips
        return None
    if _tag(part, order) != (_UINT32, 8, None):
        raise ValueError("the flags of an array are damaged")
    (flags,) = struct.unpack(f"{order}I4x", part.read(8))
    array_class = flags & 0xFF
    if array_class not in _NUMBERS and array_class != _TEXT:
        return None
    kind, length, short = _tag(part, order)
    if kind != _INT32 or length % 4 or not 8 <= length <= 4 * _MOST_AXES or short is not None:
        raise ValueError("the shape of an array is damaged")
    shape = struct.unpack(f"{order}{length // 4}i", part.read(length))
    part.skip(-length % 8)
    if min(shape) < 0:
        raise ValueError("the shape of an array is negative")
    kind, length, short = _tag(part, order)
    if kind != _INT8 or length > 4 * 63:
        raise ValueError("the name of an array is damaged")
    name = (part.read(length + -length % 8) if short is None else short)[:length]
    n_parts = 2 if flags & _COMPLEX else 1
    for _ in range(n_parts):
        kind, length, short = _tag(part, order)
        if kind not in _SIZES:
            raise ValueError(f"the values of an array have the type {kind}")
        # characters of text may take several bytes
        if array_class != _TEXT and length != math.prod(shape) * _SIZES[kind]:
            raise ValueError(f"an array of the shape {shape} has {length} bytes of values")
        if length > size:
            raise ValueError("the values of an array are longer than the array")
        if short is None:
            part.skip(length + -length % 8)
    return name.decode("latin-1")


def _tag(part: _Part, order: str) -> tuple[int, int, bytes | None]:
    """Type and length of a part of an array, and its values if they are within the tag."""
    kind, length = struct.unpack(f"{order}II", tag := part.read(8))
    if kind >> 16 == 0:
        return kind, length, None
    kind, length = kind & 0xFFFF, kind >> 16
    if length > 4:
        raise ValueError("a short element has more than 4 bytes")
    return kind, length, tag[4 : 4 + length]
