"""Validation of the scan parameters of a protocol."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corrsk.physics import CONTRASTS, EchoTrain
from corrsk.physics.axes import Readout, readout_of_each
from corrsk.physics.contrasts import (
    REPETITION_TIME,
    check_distinct_properties,
    scan_quantities,
)
from corrsk.physics.units import Units, units_by_name


def checked_contrasts(
    given: Mapping[str, ArrayLike], units: Units = None
) -> dict[str, NDArray[np.float64]]:
    unknown = [name for name in given if name not in CONTRASTS]
    if unknown or not given:
        raise ValueError(
            f"a protocol must have scan parameters among {', '.join(CONTRASTS)}; "
            f"got {', '.join(map(repr, unknown)) or 'none'}"
        )
    check_distinct_properties(given)
    quantities = scan_quantities()
    if isinstance(units, str):  # must be a unit of what is given
        quantities = {
            name: own for name, own in quantities.items() if name in (*given, REPETITION_TIME.name)
        }
    stated = units_by_name(units, quantities)
    checked = {}
    for name, contrast in CONTRASTS.items():
        if name not in given:
            continue
        values = _numbers(name, given[name], f"a list of numbers in {contrast.unit}")
        if values.size == 0:
            raise ValueError(f"{name} is empty; a protocol needs at least one measurement")
        if np.isnan(values).any():
            raise ValueError(f"{name} holds NaN")
        if np.isinf(values).any() and not (contrast.absent == np.inf and values.min() > -np.inf):
            raise ValueError(f"{name} holds infinite values")
        if values.min() < 0:
            raise ValueError(f"{name} must not be negative; the smallest is {values.min():g}")
        checked[name] = contrast.scan_quantity.converted(values, stated.get(name))
    size = max(values.size for values in checked.values())
    # a single number is the value of every measurement
    checked = {
        name: np.full(size, values) if values.ndim == 0 else values.ravel()
        for name, values in checked.items()
    }
    lengths = {name: values.size for name, values in checked.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "all scan parameters must have one entry per measurement, but the lengths differ: "
            + ", ".join(f"{name} has {size}" for name, size in lengths.items())
            + "; for all combinations of levels use AcquisitionProtocol.from_grid"
        )
    for values in checked.values():
        values.flags.writeable = False
    return checked


def checked_tr(
    tr: ArrayLike | None, contrasts: Mapping[str, NDArray[np.float64]], units: Units = None
) -> float | NDArray[np.float64] | None:
    if tr is None:
        return None
    size = next(iter(contrasts.values())).size
    wanted = f"a positive time in ms, a list of {size} such times (one per measurement) or None"
    values = _numbers("tr", tr, wanted)
    if values.shape not in ((), (1,), (size,)):
        raise ValueError(f"tr must be {wanted}; got shape {values.shape}")
    if not (values > 0).all():  # NaN included
        raise ValueError(f"tr must be {wanted}; got {values[~(values > 0)].ravel()[0]}")
    stated = units_by_name(units, scan_quantities())
    values = REPETITION_TIME.converted(values, stated.get(REPETITION_TIME.name)).ravel()
    if "TI" in contrasts:
        ti = contrasts["TI"]
        short = np.isfinite(ti) & (values <= ti)
        if short.any():
            first = int(np.argmax(short))
            raise ValueError(
                f"tr is the time from inversion to inversion and must exceed the largest TI "
                f"({ti[short].max():g} ms), got {np.broadcast_to(values, ti.shape)[first]:g} ms"
            )
    if (values == values[0]).all():  # infinity is full recovery
        return float(values[0]) if np.isfinite(values[0]) else None
    values.flags.writeable = False
    return values


def checked_readout(
    readout: Readout, contrasts: Mapping[str, NDArray[np.float64]]
) -> EchoTrain | tuple[EchoTrain | None, ...] | None:
    each = readout_of_each(readout, next(iter(contrasts.values())).size)
    if each is None:
        return None
    if "TE" not in contrasts:
        raise ValueError("an echo train needs echo times: pass TE")
    for train in dict.fromkeys(each):
        if train is not None:
            own = np.array([one == train for one in each])
            train.echo_numbers(contrasts["TE"][own])
    return each[0] if len(set(each)) == 1 else each


def checked_series(series: ArrayLike | None, n_measurements: int) -> NDArray[np.int64] | None:
    if series is None:
        return None
    given = np.asarray(series)
    if given.shape != (n_measurements,) or given.dtype.kind not in "iu":
        raise ValueError(
            f"series must have an integer for each of the {n_measurements} measurements, got "
            f"{reprlib.repr(series)}"
        )
    _, first, inverse = np.unique(given, return_index=True, return_inverse=True)
    if first.size == 1:
        return None
    # numbered in the order of their first measurements
    numbers = np.argsort(np.argsort(first))[inverse.ravel()].astype(np.int64)
    numbers.flags.writeable = False
    return numbers


def _numbers(name: str, given: Any, wanted: str) -> NDArray[np.float64]:
    try:
        if np.iscomplexobj(given):
            raise TypeError("complex")
        return np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be {wanted}, got {reprlib.repr(given)}") from error
