"""Validation of the scan parameters of a protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corrsk.physics import CONTRASTS
from corrsk.physics.contrasts import check_distinct_properties

_SHORTEST_TR = 60.0  # ms; smaller values can only be in seconds


def checked_contrasts(given: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    unknown = [name for name in given if name not in CONTRASTS]
    if unknown or not given:
        raise ValueError(
            f"a protocol must have scan parameters among {', '.join(CONTRASTS)}; "
            f"got {', '.join(map(repr, unknown)) or 'none'}"
        )
    check_distinct_properties(given)
    checked = {}
    for name, contrast in CONTRASTS.items():
        if name not in given:
            continue
        try:
            if np.iscomplexobj(given[name]):
                raise TypeError("complex")
            values = np.array(given[name], dtype=np.float64).ravel()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be a list of numbers in {contrast.unit}") from error
        if values.size == 0:
            raise ValueError(f"{name} is empty; a protocol needs at least one measurement")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinite values")
        if values.min() < 0 or (values.min() == 0 and not contrast.zero_allowed):
            bound = "not be negative" if contrast.zero_allowed else "be positive"
            raise ValueError(f"{name} must {bound}; the smallest is {values.min():g}")
        weighted = values[values > 0]  # b = 0 is valid in every unit
        if weighted.size and (
            weighted.max() < contrast.smallest_maximum or weighted.min() > contrast.largest_minimum
        ):
            raise ValueError(
                f"{name} must be in {contrast.unit}, but {weighted.min():g}..{weighted.max():g} "
                f"can only be in {contrast.wrong_unit}; multiply by "
                f"{1000 if contrast.smallest_maximum else 0.001:g}"
            )
        values.flags.writeable = False
        checked[name] = values
    lengths = {name: values.size for name, values in checked.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "all scan parameters must have one entry per measurement, but the lengths differ: "
            + ", ".join(f"{name} has {size}" for name, size in lengths.items())
            + "; for all combinations of levels use AcquisitionProtocol.from_grid"
        )
    return checked


def checked_tr(tr: float | None, contrasts: Mapping[str, NDArray[np.float64]]) -> float | None:
    if tr is None:
        return None
    try:
        tr = float(tr)
    except (TypeError, ValueError) as error:
        raise ValueError(f"tr must be a positive time in ms or None, got {tr!r}") from error
    if not math.isfinite(tr) or tr <= 0:
        raise ValueError(f"tr must be a positive time in ms or None, got {tr}")
    if tr < _SHORTEST_TR:
        raise ValueError(f"tr must be in ms, but {tr:g} can only be in seconds; multiply by 1000")
    if "TI" in contrasts and tr <= contrasts["TI"].max():
        raise ValueError(
            f"tr is the time from inversion to inversion and must exceed the largest TI "
            f"({contrasts['TI'].max():g} ms), got {tr:g} ms"
        )
    return tr
