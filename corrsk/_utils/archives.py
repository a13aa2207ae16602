"""Reader of .npz files that checks sizes before it allocates memory."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from corrsk._utils.files import MISFITS, InvalidFileError, existing_file

_MOST_COMPRESSION = 1100  # deflate cannot compress further than by a factor of 1032
_UNREADABLE = (*MISFITS, EOFError, OSError, zipfile.BadZipFile, zlib.error)
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file, without pickle.

    Parameters
    ----------
    path : path-like
        The file.
    names : collection of str, optional
        Names of the arrays, all of which must exist; None (default) for all.

    Returns
    -------
    dict of str to ndarray
        The arrays.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    InvalidFileError
        If the file is damaged, or an array is of objects or larger than its part of the file.
    """
    path = existing_file(path)
    try:
        # opened here, because numpy leaves a damaged file open
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                _check_size(archive, member)
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in (arrays.files if names is None else names)}
    except _UNREADABLE as error:
        raise InvalidFileError(f"{path} is not a readable .npz file: {error}") from error


def _check_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    if member.file_size > _MOST_COMPRESSION * max(member.compress_size, 1):
        raise ValueError(f"the size of {member.filename} is wrong")
    with archive.open(member) as file:
        read_header = _HEADERS.get(npy.read_magic(file))
        if read_header is None:
            raise ValueError(f"{member.filename} has an unknown format")
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} is an array of objects")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename} has another size than its shape {shape}")
