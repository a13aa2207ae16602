"""Files .npz of signals with their times."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.archives import read_npz
from corrsk._utils.files import MISFITS, InvalidFileError, parse_json, refuse_misfits
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics import CONTRASTS
from corrsk.physics.contrasts import REPETITION_TIME, scan_quantities
from corrsk.physics.units import Units, units_by_name

_SIGNALS = ("S", "signals", "data")
_TR = REPETITION_TIME.name


class NpzContent(NamedTuple):
    """Signals of a file, with the measurements along the last axis.

    Attributes
    ----------
    signals : ndarray of shape (.., n_measurements)
        Signals.
    protocol : AcquisitionProtocol
        The protocol.
    affine : ndarray of shape (4, 4)
        Affine; the identity if the file has none.
    mask : ndarray or None
        Mask, if the file has one.
    """

    signals: NDArray[Any]
    protocol: AcquisitionProtocol
    affine: NDArray[np.float64]
    mask: NDArray[Any] | None


def content_of_npz(path: Path, given: AcquisitionProtocol | None, units: Units) -> NpzContent:
    """Read a file; see :func:`corrsk.imaging.load_images`.

    Parameters
    ----------
    path : Path
        The file.
    given : AcquisitionProtocol or None
        Protocol that replaces that of the file.
    units : str, mapping or None
        Units of vectors whose name has none.

    Returns
    -------
    NpzContent
        The content.

    Raises
    ------
    InvalidFileError
        If the file is damaged, has no signals or no times, or the lengths of the times do not fit
        the axes of the signals or fit them in two ways.
    """
    content = read_npz(path)
    names = [key for key in _SIGNALS if key in content]
    if not names:
        raise InvalidFileError(
            f"{path} has no signals under {', '.join(_SIGNALS)}; found {', '.join(content)}"
        )
    signals = content[names[0]]
    if signals.dtype.kind not in "biufc" or signals.ndim == 0:
        raise InvalidFileError(
            f"{names[0]} in {path} must be an array of numbers, not {signals.dtype}"
        )
    signals, protocol = _with_protocol(signals, content, given, units, path)
    affine = np.asarray(content.get("affine", np.eye(4)), dtype=np.float64)
    if affine.shape != (4, 4):
        raise InvalidFileError(f"affine in {path} must have shape (4, 4), got {affine.shape}")
    return NpzContent(signals, protocol, affine, content.get("mask"))


def _with_protocol(
    signals: NDArray[Any], content: dict[str, Any], given: AcquisitionProtocol | None,
    units: Units, path: Path,
) -> tuple[NDArray[Any], AcquisitionProtocol]:  # fmt: skip
    if given is not None:
        return signals, given
    if "protocol" in content:
        what = f"protocol in {path}"
        with refuse_misfits(what, None):
            plain = parse_json(str(content["protocol"]), what)
            return signals, AcquisitionProtocol.from_dict(plain)
    vectors, stated = _vectors(content, path)
    tr = vectors.pop(_TR, None)
    if not vectors:
        raise InvalidFileError(
            f"{path} has no times: expected `protocol`, or vectors such as ti_ms and te_ms; found "
            f"{', '.join(content)}"
        )
    stated = units_by_name(units, scan_quantities()) | stated
    lengths = [values.size for values in vectors.values()]
    as_list = set(lengths) <= {signals.shape[-1], 1}
    ends = signals.shape[-len(lengths) :] if signals.ndim >= len(lengths) else ()
    as_grid = list(ends) == lengths and len(lengths) > 1
    if as_grid and as_list:
        raise InvalidFileError(
            f"the vectors {', '.join(vectors)} of {path} are the levels of a grid or the values of "
            f"each measurement: signals of shape {signals.shape} fit both; pass the protocol"
        )
    try:
        if as_list:
            return signals, AcquisitionProtocol(
                vectors, tr=tr if tr is None or tr.size > 1 else tr[0], units=stated
            )
        if as_grid:
            mesh = np.meshgrid(*vectors.values(), indexing="ij")
            values = {key: each.ravel() for key, each in zip(vectors, mesh, strict=True)}
            flat = signals.reshape(*signals.shape[: -len(lengths)], -1)
            single = None if tr is None else tr[0] if tr.size == 1 else tr
            return flat, AcquisitionProtocol(values, tr=single, units=stated)
    except MISFITS as error:
        raise InvalidFileError(f"the times of {path} are invalid: {error}") from error
    raise InvalidFileError(
        f"the signals of {path} have shape {signals.shape}, which does not end in the lengths of "
        + ", ".join(f"{key} ({values.size})" for key, values in vectors.items())
    )


def _vectors(
    content: dict[str, Any], path: Path
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """Vectors of scan parameters and TR, in the order of the contrasts, and stated units."""
    quantities = scan_quantities()
    found: dict[str, NDArray[np.float64]] = {}
    stated: dict[str, str] = {}
    for name in (*CONTRASTS, _TR):
        for key, values in content.items():
            match = re.fullmatch(rf"{re.escape(name)}(?:_(.+))?", key, re.IGNORECASE)
            if match is None:
                continue
            unit = (match[1] or "").replace("_per_", "/")
            if unit and not quantities[name].has_unit(unit):
                continue
            if name in found:
                raise InvalidFileError(f"{path} has {name} twice")
            if np.asarray(values).dtype.kind not in "biuf":
                raise InvalidFileError(f"{key} in {path} must have numbers, not {values.dtype}")
            found[name] = np.ravel(values).astype(np.float64)
            if unit:
                stated[name] = unit
    return found, stated
