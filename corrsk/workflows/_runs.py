"""Folders of results: whose they are, and what made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from corrsk._utils.files import read_json, write_json

CONFIGURATION = "run.json"


def claim_folder(out: Path, identity: dict[str, Any], *, resume: bool) -> None:
    """Make a folder a run's own, or say why it cannot be.

    Parameters
    ----------
    out : Path
        New, empty, or with `resume` a folder of a run of the same identity.
    identity : dict
        What two runs must have in common for one to go on with the other; JSON.
    resume : bool

    Raises
    ------
    FileExistsError
        If the folder holds something else, a run of another identity (the
        message says what differs), or a run that is not resumed.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; choose a folder for the results")
    out.mkdir(parents=True, exist_ok=True)
    marker = out / CONFIGURATION
    others = sorted(path.name for path in out.iterdir() if path != marker)
    if others and not marker.exists():
        raise FileExistsError(
            f"{out} holds other files ({', '.join(others[:5])}"
            f"{', ..' if len(others) > 5 else ''}); choose a new or an empty folder"
        )
    if not others:  # new, or of a run that ended before it had computed anything to keep
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
            f"{out} holds a run of another configuration ({'; '.join(changed)}); "
            "choose another folder"
        )
    if not resume:
        raise FileExistsError(
            f"{out} holds a run of this configuration; resume it (--resume) or choose another "
            "folder"
        )


def markdown_table(frame: pd.DataFrame) -> str:
    """A table whose cells are text, as Markdown."""
    # the cells are text already: tabulate must not drop their trailing zeros
    return str(frame.to_markdown(disable_numparse=True))
