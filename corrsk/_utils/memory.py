"""Memory that a result needs, compared with the memory that is free."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")  # of Linux; elsewhere a result that is too large fails by itself


def check_memory(n_bytes: int, what: str, advice: str) -> None:
    """Refuse a result that does not fit into memory, before any work.

    Parameters
    ----------
    n_bytes : int
        Size of the result.
    what : str
        The result, for the message, such as "the spectra of 10 voxels".
    advice : str
        What to change.

    Raises
    ------
    MemoryError
        If less memory is free. Where the system does not report it, nothing is refused.
    """
    free = _free()
    if free is not None and n_bytes > free:
        raise MemoryError(
            f"{what} need {n_bytes / 1e9:.3g} GB, but {free / 1e9:.3g} GB of memory are free; "
            f"{advice}"
        )


def _free() -> int | None:
    """Bytes that new results can have without swapping; None if unknown."""
    try:
        text = _MEMINFO.read_text(encoding="ascii")
        lines = dict(line.split(":") for line in text.splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
