"""Files of protocols: MATLAB vectors of the published code, and readable JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.files import read_json, read_mat, write_json
from corrsk.physics import CONTRASTS

_JSON_FORMAT = "corrsk-protocol"


def contrasts_from_mat(path: str | Path) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """Read the scan parameters of a MATLAB file and its TR.

    Raises
    ------
    FileNotFoundError, ValueError
        See :meth:`AcquisitionProtocol.from_mat`.
    """
    content = {key.lower(): value for key, value in read_mat(path).items()}
    contrasts = {
        name: np.ravel(content[name.lower()]) for name in CONTRASTS if name.lower() in content
    }
    if len(contrasts) < 2:
        raise ValueError(
            f"{path} holds no protocol: expected vectors 'ti' and 'te' (ms), optionally "
            f"'b' (ms/um^2) and 'tr' (ms); found {sorted(content) or 'nothing'}"
        )
    tr = np.ravel(content.get("tr", ()))
    if np.unique(tr).size <= 1:  # a vector of any length may repeat a single value
        return contrasts, tr[0] if tr.size else None
    return contrasts, tr


def read_protocol(path: str | Path) -> dict[str, Any]:
    """Read the plain values of a protocol from a JSON file.

    Raises
    ------
    FileNotFoundError, ValueError
        See :meth:`AcquisitionProtocol.from_json`.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("contrasts"), dict):
        raise ValueError(
            f"{path} is not a protocol: expected an object with the key 'contrasts', "
            'such as {"contrasts": {"TI": [...], "TE": [...]}, "tr": null}'
        )
    if content.get("format", _JSON_FORMAT) != _JSON_FORMAT or content.get("version", 1) != 1:
        raise ValueError(
            f"{path} is in the format {content.get('format')!r}, version "
            f"{content.get('version')}; this corrsk reads {_JSON_FORMAT!r}, version 1"
        )
    return {name: content.get(name) for name in ("contrasts", "tr", "units")}


def write_protocol(path: str | Path, content: dict[str, Any]) -> None:
    """Write the plain values of a protocol, with their units, to a JSON file."""
    write_json(path, {"format": _JSON_FORMAT, "version": 1} | content)
