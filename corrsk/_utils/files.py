"""Atomic writing of files, and readers with clear errors."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` if the block succeeds.

    An interrupted or failed write (full disk, Ctrl-C) leaves an earlier file as it
    was, and no partial file beside it.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    OSError
        If the file cannot be written; a full disk is named with its folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    # the suffix stays, because writers of numpy and pandas choose the format by it
    handle, name = tempfile.mkstemp(
        dir=path.parent or None, prefix=f".{path.stem}-", suffix=f".partial{path.suffix}"
    )
    partial = Path(name)
    # mkstemp makes files that only their owner can read; set the permissions of open()
    umask = os.umask(0)
    os.umask(umask)
    try:
        os.close(handle)
        yield partial
        partial.chmod(0o666 & ~umask)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.errno in NO_SPACE and error.strerror:
            raise no_space(path.parent, path.name, error) from error
        raise


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def no_space(folder: str | Path, name: str, error: OSError) -> OSError:
    """Error of a full disk, in one sentence.

    Parameters
    ----------
    folder : path-like
        Folder on the disk.
    name : str
        Name of the file.
    error : OSError
        Error of the system.

    Returns
    -------
    OSError
        The error, with the number of the system's error.
    """
    found = OSError(f"there is no space for {name} in {folder} ({error.strerror})")
    found.errno = error.errno
    return found


def check_space(folder: str | Path, n_bytes: int, name: str) -> None:
    """Refuse to write more than a disk has space for.

    Parameters
    ----------
    folder : path-like
        Folder on the disk; it need not exist yet.
    n_bytes : int
        Size of the files to write.
    name : str
        Name of the files, in the plural, for the message.

    Raises
    ------
    OSError
        If there is too little space.
    """
    folder = Path(folder).absolute()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise OSError(
            f"{name} need {n_bytes / 1e6:,.3g} MB of space, but the disk of {folder} has "
            f"{free / 1e6:,.3g} MB left"
        )


def check_writable(folder: str | Path) -> None:
    """Refuse a folder in which no file can be created.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written to.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f"the folder {folder} cannot be written to: {error.strerror}") from error


def existing_file(path: str | Path) -> Path:
    """Return the path of an existing file.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


def write_json(path: str | Path, content: Any) -> None:
    """Write an indented JSON file atomically; NaN and infinite values become null."""
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False)
    with write_atomically(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, np.generic):
        return _without_nan(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the content is not JSON.
    """
    try:
        return json.loads(existing_file(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def read_mat(path: str | Path) -> dict[str, Any]:
    """Read the variables of a MATLAB file (up to version 7).

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is truncated, in the HDF5-based version 7.3, or not a MATLAB file.
    """
    from scipy.io import loadmat

    path = existing_file(path)
    try:
        content = loadmat(path)
    except NotImplementedError as error:
        raise ValueError(
            f"{path} is a MATLAB v7.3 (HDF5) file; save it with save(..., '-v7')"
        ) from error
    except Exception as error:  # scipy raises many types of errors for damaged files
        raise ValueError(
            f"{path} is not a readable MATLAB file (it may be truncated): {error}"
        ) from error
    return {key: value for key, value in content.items() if not key.startswith("__")}
