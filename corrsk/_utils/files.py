"""Atomic writing of files, and readers with clear errors."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

# of content with other types, keys, numbers or shapes than expected; RecursionError is included
MISFITS = ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError
_MOST_DIGITS = 40  # of an integer: more than those of a random seed (128 bits)


class InvalidFileError(ValueError):
    """Error for a file that is damaged, or not of the expected kind.

    Raised by every function and class of corrsk that reads a file: models, checkpoints, cards,
    protocols, definitions of data, images and results. The message has the name of the file and
    the reason.

    Examples
    --------
    >>> from corrsk import InvalidFileError
    >>> issubclass(InvalidFileError, ValueError)
    True
    """


@contextmanager
def refuse_misfits(path: str | Path, kind: str | None, advice: str = "") -> Iterator[None]:
    """Raise one type of error for all errors that the content of a file causes in the block.

    Parameters
    ----------
    path : path-like
        The file, for the message.
    kind : str or None
        Expected content with an article, such as "a model card"; None for a file written by hand,
        whose author needs the reason only.
    advice : str, optional
        End of the message.

    Raises
    ------
    InvalidFileError
        If the block raises an error of one of the types `MISFITS`.
    """
    try:
        yield
    except InvalidFileError:
        raise
    except MISFITS as error:
        reason = f"{error} is missing" if type(error) is KeyError else str(error)
        what = path if kind is None else f"{path} is not {kind}, or is damaged"
        raise InvalidFileError(f"{what}: {reason}{advice}") from error


def digest(content: bytes) -> str:
    """Digest of 32 hexadecimal digits, which finds damage but not intent."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits, by which others can recognise it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    if path.is_symlink():  # the file that the link leads to is replaced, not the link
        path = path.resolve()
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
    text = json.dumps(without_nan(content), indent=1, allow_nan=False)
    with write_atomically(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """Plain values with None in the place of NaN and infinite numbers, which JSON lacks."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, np.generic):
        return without_nan(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_json(
    text: str | bytes, source: str | Path, pairs_hook: Callable[[list[Any]], Any] | None = None
) -> Any:
    """Parse JSON text.

    Parameters
    ----------
    text : str or bytes
        The text, in UTF-8 if it is bytes.
    source : path-like
        The file that the text is from, for messages.
    pairs_hook : callable, optional
        See `object_pairs_hook` of :func:`json.loads`.

    Returns
    -------
    object
        The content.

    Raises
    ------
    InvalidFileError
        If the text is not JSON, is nested too deeply, or has an integer of more than 40 digits.
    """
    try:
        return json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=pairs_hook,
            parse_int=_integer,
        )
    except RecursionError as error:
        raise InvalidFileError(f"{source} is not a JSON file: it is nested too deeply") from error
    except ValueError as error:  # of JSON, UTF-8 or numbers
        raise InvalidFileError(f"{source} is not a JSON file: {error}") from error


def _integer(digits: str) -> int:
    # larger ones cannot be converted to other types of numbers, and take long to parse
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer has {len(digits)} digits ({digits[:10]}..)")
    return int(digits)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    InvalidFileError
        If the content is not JSON; see :func:`parse_json`.
    """
    return parse_json(existing_file(path).read_bytes(), path)
