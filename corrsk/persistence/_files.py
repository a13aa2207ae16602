"""Files of tensors and JSON, with a digest of each part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from corrsk._utils.environment import versions
from corrsk._utils.files import (
    InvalidFileError,
    digest,
    existing_file,
    parse_json,
    write_atomically,
)

_FORMAT = "corrsk-estimator"
_DIGESTS = "digests"  # entry beside that of the format
_VERSION = 6
_WITH_DIGESTS = 6  # the first version that has them


def write_file(path: str | Path, estimator: Any, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write an encoded estimator and its tensors to a file, atomically.

    The file has the versions of corrsk and of the libraries, too.

    Parameters
    ----------
    path : path-like
        The file.
    estimator : object
        Plain values.
    tensors : mapping of str to ndarray
        Tensors by name.
    """
    libraries = versions()
    content = {
        "format": _FORMAT, "version": _VERSION, "corrsk": libraries.pop("corrsk"),
        "libraries": libraries, "estimator": estimator,
    }  # fmt: skip
    text = json.dumps(content)
    metadata = {_FORMAT: text, _DIGESTS: json.dumps(_digests(text, tensors))}
    # written by Python: safetensors' writer raises no OSError if the disk is full
    file = _in_order(to_bytes(dict(tensors), metadata=metadata))
    with write_atomically(path) as partial:
        partial.write_bytes(file)


def _in_order(file: bytes) -> bytes:
    """Sort the entries of the metadata, whose order safetensors draws, so that files are equal."""
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text + file[start:]


def read_file(path: str | Path) -> tuple[dict[str, Any], int, dict[str, NDArray[Any]]]:
    """Read an encoded estimator and its tensors.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    estimator : dict
        Plain values.
    version : int
        Version of the format.
    tensors : dict of str to ndarray
        Tensors by name; half precision is converted to single precision.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    InvalidFileError
        If the file has another format or a newer version of it, or is damaged.
    """
    path = existing_file(path)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            text = metadata[_FORMAT]
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        # the last three for types of tensors that numpy lacks
        raise InvalidFileError(
            f"{path} is not an estimator saved by corrsk, or is damaged or truncated: {error}"
        ) from error
    content = parse_json(text, f"the header of {path}")
    number = content.get("version") if isinstance(content, dict) else None
    if type(number) is not int or number < 1:
        raise InvalidFileError(
            f"{path} is not an estimator saved by corrsk: the version of its format is {number!r}, "
            f"not one of 1 to {_VERSION}"
        )
    if number > _VERSION:
        raise InvalidFileError(
            f"{path} was written by corrsk {content.get('corrsk')}, in a format newer than this "
            "version reads; update corrsk"
        )
    if number >= _WITH_DIGESTS or _DIGESTS in metadata:
        _check_digests(path, metadata, stored)
    for name, values in stored.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InvalidFileError(f"{path} is damaged: the tensor {name} is not finite")
    tensors = {
        name: values.astype(np.float32) if values.dtype == np.float16 else values
        for name, values in stored.items()
    }
    return content, number, tensors


def _digests(text: str, tensors: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Digests of the JSON text and of each tensor."""
    found = {
        name: digest(f"{values.dtype.str}{values.shape}".encode() + values.tobytes())
        for name, values in tensors.items()
    }
    return {_FORMAT: digest(text.encode()), **found}


def _check_digests(
    path: Path, metadata: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]
) -> None:
    given = parse_json(metadata.get(_DIGESTS, "null"), f"the list of digests of {path}")
    found = _digests(metadata[_FORMAT], tensors)
    if given == found:
        return
    if not isinstance(given, dict):
        raise InvalidFileError(f"{path} is damaged: it has no digests")
    wrong = [name for name in {**found, **given} if found.get(name) != given.get(name)]
    raise InvalidFileError(
        f"{path} is damaged: {', '.join(wrong[:5])} {'differs' if len(wrong) == 1 else 'differ'} "
        "from what was saved; save the estimator again, or download the file again"
    )
