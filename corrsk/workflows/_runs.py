"""Folders of results, and the configuration of the run in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from corrsk._utils.files import InvalidFileError, read_json, write_json
from corrsk._utils.locks import exclusive, is_remain
from corrsk.simulation.definition import DatasetDefinition

CONFIGURATION = "run.json"
_LONGEST = 200  # characters of two values in a message
CONFIG = "config.json"  # definition of the data, if it is not that of a named data set


def data_identity(definition: DatasetDefinition) -> dict[str, Any]:
    """Return what determines the data of a definition, for the identity of a run."""
    content = definition.resolved().to_dict()
    del content["description"]
    return content


def write_config(out: Path, dataset: DatasetDefinition | str) -> None:
    """Write the definition of the data to the folder of a run, unless it has a name."""
    if not isinstance(dataset, str):
        dataset.to_file(out / CONFIG)


@contextmanager
def claimed_folder(out: Path, identity: dict[str, Any], *, resume: bool) -> Iterator[None]:
    """Claim a folder for a run as long as it lasts, or refuse a folder with other content.

    An error that leaves the folder without a result removes what was made of it.

    Parameters
    ----------
    out : Path
        New or empty folder, or with `resume` a folder of a run of the same identity.
    identity : dict
        Configuration that a run shares with the runs that it can resume; plain values.
    resume : bool
        Whether to accept a folder of a run of the same identity.

    Raises
    ------
    FileExistsError
        If another process uses the folder, or the folder contains other files, a run of another
        identity (the message lists the differences), or a run that is not to be resumed.
    OSError
        If the folder cannot be made or written to.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; choose a folder for the results")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    marker = out / CONFIGURATION
    had_marker = marker.exists()
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(f"the folder {out} cannot be made: {error.strerror}") from error
        _refuse_other_files(out)
        with exclusive(out):
            _check_marker(out, identity, resume)
            yield
    except Exception:
        with suppress(OSError):
            if not had_marker and [path.name for path in out.iterdir()] == [marker.name]:
                marker.unlink()
            for folder in made:  # only empty ones are removed
                folder.rmdir()
        raise


def check_claim(out: Path, identity: dict[str, Any], *, resume: bool) -> None:
    """Refuse a folder that :func:`claimed_folder` would refuse, without a change of it.

    Parameters
    ----------
    out, identity, resume
        See :func:`claimed_folder`.

    Raises
    ------
    FileExistsError
        See :func:`claimed_folder`.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; choose a folder for the results")
    if out.exists():
        _refuse_other_files(out)
        if _other_files(out):
            _compare_marker(out, identity, resume)


def _other_files(out: Path) -> list[str]:
    """Names of the files and folders of a folder besides those of an empty run."""
    return sorted(
        path.name for path in out.iterdir() if path.name != CONFIGURATION and not is_remain(path)
    )


def _refuse_other_files(out: Path) -> None:
    others = _other_files(out)
    if others and not (out / CONFIGURATION).exists():
        raise FileExistsError(
            f"{out} contains other files ({', '.join(others[:5])}"
            f"{', ..' if len(others) > 5 else ''}); choose a new or an empty folder"
        )


def _check_marker(out: Path, identity: dict[str, Any], resume: bool) -> None:
    marker = out / CONFIGURATION
    _refuse_other_files(out)  # again, with the lock
    if not _other_files(out):  # a new folder, or a run that ended before its first result
        write_json(marker, identity)
        return
    _compare_marker(out, identity, resume)


def _compare_marker(out: Path, identity: dict[str, Any], resume: bool) -> None:
    marker = out / CONFIGURATION
    try:
        before = read_json(marker)
    except InvalidFileError as error:
        raise FileExistsError(f"{marker} is not readable; choose another folder") from error
    if not isinstance(before, dict):
        raise FileExistsError(f"{marker} is not the record of a run; choose another folder")
    changed = _differences(before, identity)
    if changed:
        raise FileExistsError(
            f"{out} contains a run of another configuration ({'; '.join(changed)}); "
            "choose another folder"
        )
    if not resume:
        raise FileExistsError(
            f"{out} contains a run of this configuration; resume the run (--resume) or choose "
            "another folder"
        )


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            values = f"was {old!r} and is {new!r}"
            changed.append(f"{prefix}{key} {values if len(values) <= _LONGEST else 'differs'}")
    return changed


def markdown_table(frame: pd.DataFrame) -> str:
    """Format a table of text cells as Markdown."""
    # tabulate must not drop the trailing zeros of formatted numbers
    return str(frame.to_markdown(disable_numparse=True))
