"""Inputs of the maps of a subject: digests of their files, and changes since an earlier run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corrsk._utils.files import sha256_of
from corrsk.imaging import MeasuredImages


def describe_inputs(
    images: MeasuredImages, mask: Path | None, atlas: Path | None
) -> dict[str, Any]:
    """Describe the inputs of a subject, in plain values.

    Parameters
    ----------
    images : MeasuredImages
        The images.
    mask, atlas : Path or None
        Files of the mask and of the labels.

    Returns
    -------
    dict
        `sources`, `mask` and `atlas` with the digest (SHA-256) of each file, and `protocol`.

    Raises
    ------
    OSError
        If a file is not readable.
    """
    return {
        "sources": [_file(Path(source)) for source in images.sources],
        "mask": None if mask is None else _file(mask),
        "atlas": None if atlas is None else _file(atlas),
        "protocol": json.loads(json.dumps(images.protocol.to_dict())),
    }


def _file(path: Path) -> dict[str, str]:
    return {"file": str(path.absolute()), "sha256": sha256_of(path)}


def changed_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Find what has changed between two descriptions, by content.

    Parameters
    ----------
    before, now : mapping
        Descriptions; see :func:`describe_inputs`. A renamed or moved file is no change.

    Returns
    -------
    list of str
        Names of the inputs that differ: of files for images, "mask", "atlas", "protocol".
    """
    old, new = _digests(before.get("sources") or ()), _digests(now["sources"])
    changed = [
        Path(one["file"]).name
        for k, one in enumerate(now["sources"])
        if k >= len(old) or old[k] != new[k]
    ]
    if not changed and len(old) > len(new):
        changed = [f"the number of images ({len(old)} before, {len(new)} now)"]
    elif len(changed) > 3:
        changed = [*changed[:2], f"{len(changed) - 2} more images"]
    for key in ("mask", "atlas"):
        if _digests([before.get(key)]) != _digests([now[key]]):
            changed.append(f"the {key}")
    if before.get("protocol") != now["protocol"]:
        changed.append("the protocol")
    return changed


def are_other_images(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether the images of two descriptions differ in their content and in their files."""
    files, digests = (
        [[one[key] for one in each["sources"]] for each in (before, now)]
        for key in ("file", "sha256")
    )
    return digests[0] != digests[1] and files[0] != files[1]


def _digests(files: Sequence[Mapping[str, str] | None]) -> list[str | None]:
    return [None if file is None else file.get("sha256") for file in files]
