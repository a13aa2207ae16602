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


def shown_numbers(values: NDArray[np.float64]) -> list[str]:
    """Format percentages or signal-to-noise ratios for axes, with three digits."""
    return [f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values]


def noise_label(noise_level: float, noise_unit: str) -> str:
    """Format a noise level, as a fraction, for labels."""
    (value,) = shown_numbers(in_noise_unit([noise_level], noise_unit))
    return f"{value} %" if noise_unit == "percent" else f"SNR {value}"
