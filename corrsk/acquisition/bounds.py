"""Bounds of the tissue properties: given, from a prior, or what the protocol resolves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.axes import Factor, measurement_axes
from corrsk.physics.contrasts import tissue_quantity
from corrsk.tissue.prior import TissuePrior, resolve_prior
from corrsk.tissue.ranges import PropertyRange

Bounds = Mapping[str, tuple[float, float] | PropertyRange] | TissuePrior | str | None

# Smallest resolved sensitivity, as a fraction of the largest, where the first level of the scan
# parameter has it (a decay that is nearly over) and elsewhere (a decay that has hardly begun). For
# an exponential the range is from a third of the shortest time, where 5 % of the signal are left,
# to 26 times the longest one, where 4 % are gone. Less at the fast end would add tissue without a
# signal, where spectra and fits put offsets and noise.
_FAST, _SLOW = 0.4, 0.1
# Twice the relaxation times of pure water at body temperature, about 4.5 s and 2.5 s: longer ones
# do not occur, and a fit should not move a compartment there.
_LARGEST = {"T1": 10_000.0, "T2": 5_000.0}
_DECADES, _POINTS_PER_DECADE = 12, 64  # of the search, on either side of 1


def checked_bounds(
    bounds: Bounds, protocol: AcquisitionProtocol, inversion_efficiency: float = 1.0
) -> dict[str, tuple[float, float]]:
    """Range of each tissue property that a protocol measures.

    Parameters
    ----------
    bounds : dict of str to (low, high) or PropertyRange, TissuePrior, str or None
        Ranges by property, or the prior (or its name) that has them. Properties without a range in
        the dictionary, and all properties for None, have the range that the protocol resolves.
    protocol : AcquisitionProtocol
        Protocol.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].

    Returns
    -------
    dict of str to (low, high)
        Ranges in the units of the properties.

    Raises
    ------
    ValueError
        If a range is neither a pair 0 < low < high nor a PropertyRange, can only be in the wrong
        unit, is missing in the prior, or if the protocol does not measure the property.
    """
    properties = protocol.tissue_properties
    if isinstance(bounds, (TissuePrior, str)):
        ranges = resolve_prior(bounds).ranges
        missing = [name for name in properties if name not in ranges]
        if missing:
            raise ValueError(
                f"the protocol measures {', '.join(missing)}, but the prior in bounds= has ranges "
                f"for {', '.join(ranges)} only"
            )
        given: dict[str, Any] = {name: ranges[name] for name in properties}
    else:
        given = dict(bounds or {})
    unknown = [name for name in given if name not in properties]
    if unknown:
        raise ValueError(
            f"bounds has {', '.join(map(repr, unknown))}, but the protocol measures "
            f"{', '.join(properties)}"
        )
    resolved = {} if len(given) == len(properties) else resolved_ranges(
        protocol, inversion_efficiency
    )  # fmt: skip
    checked = {}
    for name in properties:
        pair = given[name] if name in given else resolved[name]
        if name in resolved and name not in given and not resolved[name][0] < resolved[name][1]:
            raise ValueError(
                f"the protocol resolves no {name} up to {resolved[name][1]:g}, but only above "
                f"{resolved[name][0]:g}; pass bounds={{{name!r}: (low, high)}}"
            )
        is_range = isinstance(pair, PropertyRange)
        if isinstance(pair, PropertyRange):
            pair.check_units(name)
            pair = (pair.low, pair.high)
        try:
            low, high = (float(value) for value in pair)
        except (TypeError, ValueError):
            low = high = math.nan
        if not 0 < low < high < math.inf:
            raise ValueError(
                f"the bounds of {name} must be a pair (low, high) with 0 < low < high, got {pair!r}"
            )
        if name in given and not is_range:  # the unit of a range may have been stated
            tissue_quantity(name).check(high, "PropertyRange(low, high, units={unit!r})")
        checked[name] = (low, high)
    return checked


def resolved_ranges(
    protocol: AcquisitionProtocol, inversion_efficiency: float
) -> dict[str, tuple[float, float]]:
    """Range of each tissue property that a protocol resolves.

    The sensitivity to a property p is the largest ``|dk / d log p|`` of the kernel k over the
    levels of the scan parameter. The range holds the values with at least a tenth of the largest
    sensitivity, and 0.4 where the smallest level is the most sensitive one, rounded outwards to
    two digits: for echo times of 4.5 to 150 ms, T2 of 1.4 to 4100 ms. A shorter T2 has decayed
    before the first echo; a longer one has hardly decayed at the last. T1 ends at 10 s and T2 at
    5 s, twice the values of pure water at body temperature.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol.
    inversion_efficiency : float
        Inversion efficiency eta in (0, 1].

    Returns
    -------
    dict of str to (low, high)
        Ranges in the units of the properties; low > high if the protocol resolves only values
        beyond those of pure water.
    """
    (axis,) = measurement_axes(
        protocol.contrasts, grid=False, tr=protocol.tr, inversion_efficiency=inversion_efficiency
    )
    return {factor.contrast.tissue: _resolved_range(factor) for factor in axis.factors}


def _resolved_range(factor: Factor) -> tuple[float, float]:
    values = np.logspace(-_DECADES, _DECADES, 2 * _DECADES * _POINTS_PER_DECADE + 1)
    levels = factor.levels
    sensitivity, threshold = np.zeros(values.size), np.full(values.size, _FAST)
    with np.errstate(all="ignore"):  # most values are far outside the range
        kernel = factor.kernel(values, lambda of_levels: of_levels[:, None])
        used = levels > 0 if levels.size > 1 else np.ones(1, dtype=bool)
        first = levels[used][0]  # ascending
        for level, row in zip(levels[used], kernel[used], strict=True):
            slope = np.abs(np.gradient(row))
            threshold[(slope > sensitivity) & (level > first)] = _SLOW
            np.maximum(sensitivity, slope, out=sensitivity)
    seen = np.flatnonzero(sensitivity >= threshold * sensitivity.max())
    low = _rounded(values[max(seen[0] - 1, 0)], math.floor)
    high = _rounded(values[min(seen[-1] + 1, values.size - 1)], math.ceil)
    return low, min(high, _LARGEST.get(factor.contrast.tissue, math.inf))


def _rounded(value: float, direction: Callable[[float], int]) -> float:
    """Round to two digits, downwards with `math.floor` and upwards with `math.ceil`."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{direction(value / unit) * unit:.2g}")
