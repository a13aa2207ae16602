"""Folders of results, and the configuration of the run in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from corrsk._utils.files import read_json, write_json

CONFIGURATION = "run.json"


def claim_folder(out: Path, identity: dict[str, Any], *, resume: bool) -> None:
    """Claim a folder for a run, or refuse a folder with other content.

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
        If the folder contains other files, a run of another identity (the
        message lists the differences), or a run that is not to be resumed.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; choose a folder for the results")
    out.mkdir(parents=True, exist_ok=True)
    marker = out / CONFIGURATION
    others = sorted(path.name for path in out.iterdir() if path != marker)
    if others and not marker.exists():
        raise FileExistsError(
            f"{out} contains other files ({', '.join(others[:5])}"
            f"{', ..' if len(others) > 5 else ''}); choose a new or an empty folder"
        )
    if not others:  # a new folder, or a run that ended before its first result
        write_json(marker, identity)
        return
    try:
        before = read_json(marker)
    except ValueError as error:
        raise FileExistsError(f"{marker} is not readable; choose another folder") from error
    changed = [
        f"{key} was {before.get(key)!r} and is {identity.get(key)!r}"
        for key in {**before, **identity}
        if before.get(key) != identity.get(key)
    ]
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


def markdown_table(frame: pd.DataFrame) -> str:
    """Format a table of text cells as Markdown."""
    # tabulate must not drop the trailing zeros of formatted numbers
    return str(frame.to_markdown(disable_numparse=True))
