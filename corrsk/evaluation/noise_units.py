"""Noise levels in figures and tables: as percentages, or as signal-to-noise ratios."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corrsk._utils.validation import lookup

NOISE_UNITS = {
    "percent": "noise level (% of the noise reference)",
    "snr": "SNR (noise reference / standard deviation of the noise)",
}


def checked_noise_unit(noise_unit: str) -> str:
    """Return the unit of noise levels if it is valid.

    Raises
    ------
    ValueError
        If the unit is unknown.
    """
    lookup(NOISE_UNITS, noise_unit, "noise_unit")
    return noise_unit


def in_noise_unit(noise_level: ArrayLike, noise_unit: str) -> NDArray[np.float64]:
    """Convert noise levels, as fractions, to percentages or signal-to-noise ratios.

    Raises
    ------
    ValueError
        If a level is 0 and the unit "snr".
    """
    levels = np.asarray(noise_level, dtype=np.float64)
    if noise_unit == "percent":
        return 100 * levels
    if not (levels > 0).all():
        raise ValueError("noise_unit='snr' needs positive noise levels; 'percent' shows level 0")
    return 1 / levels


def noise_label(noise_level: float, noise_unit: str) -> str:
    """Format a noise level, as a fraction, for labels."""
    value = f"{float(in_noise_unit(noise_level, noise_unit)):.3g}"
    return f"{value} %" if noise_unit == "percent" else f"SNR {value}"
