"""Locks that keep two processes from writing the same results, and remains of killed ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout

from corrsk._utils.files import check_writable


@contextmanager
def exclusive(target: str | Path, *, related: bool = True) -> Iterator[None]:
    """Keep other processes from a file or folder of results, and remove remains of killed ones.

    The system releases the lock when its process ends, however it ends.

    Parameters
    ----------
    target : path-like
        An existing folder, whose whole content is locked, or a file in an existing folder.
    related : bool, default=True
        Whether the remains of files whose names begin with that of the file are removed, too, such
        as those of its checkpoint.

    Raises
    ------
    FileExistsError
        If another process, or another thread, holds the lock.
    OSError
        If the folder cannot be written to.
    """
    target = Path(target)
    path = lock_of(target)
    check_writable(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FileExistsError(
            f"another process is writing to {target}; wait until it ends, or choose another place"
        ) from None
    try:
        _remove(_partials(target, related))
        try:
            yield
        finally:
            _remove(_partials(target, related))  # of killed workers
    finally:
        # removed while it is held: those who open it then find that it has no name, and try again
        with suppress(OSError):
            path.unlink()
        lock.release()


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def lock_of(target: Path) -> Path:
    """File of the lock of a file or folder."""
    return target / ".lock" if target.is_dir() else target.with_name(f".{target.name}.lock")


def is_remain(path: Path) -> bool:
    """Whether a file is a lock, or was left by a process that was killed while writing."""
    name = path.name
    return name.startswith(".") and (name.endswith(".lock") or ".partial" in name)


def _partials(target: Path, related: bool) -> list[Path]:
    """Files that `write_atomically` left for a file, or anywhere in a folder."""
    if target.is_dir():
        return [path for path in target.rglob(".*.partial*") if path.is_file()]
    stem, suffix = escape(target.stem), escape(target.suffix)
    pattern = f".{stem}[-.]*.partial*" if related else f".{stem}-{'?' * 8}.partial{suffix}"
    return list(target.parent.glob(pattern))
