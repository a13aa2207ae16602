"""Noise levels: one, several equally frequent ones, or a range of signal-to-noise ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import ArrayLike, NDArray

from corrsk.physics._arrays import Array


@dataclass(frozen=True, repr=False)
class SNRRange:
    """Noise levels whose signal-to-noise ratio lies between two bounds.

    Parameters
    ----------
    low, high : float
        Smallest and largest signal-to-noise ratio; the noise level is 1 / SNR, as a
        fraction of the noise reference.
    scale : {"linear", "log"}, default="linear"
        Whether the ratio or its logarithm is uniformly distributed; "log" for ranges of more than
        a factor of ten.

    Raises
    ------
    ValueError
        If the bounds are not ascending, the smallest is below 1, which noise levels in place of
        ratios are, or the scale is unknown.
    """

    low: float
    high: float
    scale: str = "linear"

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high < math.inf):
            raise ValueError(
                "a range of signal-to-noise ratios needs 0 < low <= high < infinity, got "
                f"{self.low} .. {self.high}"
            )
        if self.low < 1:
            raise ValueError(
                f"a signal-to-noise ratio of {self.low:g} is below 1; for noise levels as "
                "fractions pass them without SNRRange"
            )
        if self.scale not in ("linear", "log"):
            raise ValueError(f"scale must be 'linear' or 'log', got {self.scale!r}")

    def __repr__(self) -> str:
        # checkpoints hold the text of a range, which must not change where nothing has changed
        scale = "" if self.scale == "linear" else f", scale={self.scale!r}"
        return f"SNRRange(low={self.low!r}, high={self.high!r}{scale})"

    def sample(self, rng: Any, size: int) -> Array:
        """Draw noise levels.

        Parameters
        ----------
        rng : numpy Generator, or an adapter of another library with its methods
            Source of the random numbers.
        size : int
            Number of noise levels.

        Returns
        -------
        array of shape (size,)
            Noise levels, as fractions of the noise reference, in the array library of `rng`.
        """
        if self.scale == "log":
            drawn = rng.uniform(math.log(self.low), math.log(self.high), (size,))
            return array_namespace(drawn).exp(-drawn)
        return 1.0 / rng.uniform(self.low, self.high, (size,))

    @property
    def mean_square(self) -> float:
        """Mean of the squared noise levels."""
        if self.scale == "log" and self.high > self.low:
            return (self.low**-2 - self.high**-2) / (2 * math.log(self.high / self.low))
        return 1 / (self.low * self.high)


# one level, several equally frequent levels, or a range of signal-to-noise ratios
NoiseLevels = float | ArrayLike | SNRRange


def checked_noise_levels(noise_level: NoiseLevels) -> NDArray[np.float64] | SNRRange:
    """Convert noise levels to an array of shape (k,); a range is returned unchanged.

    Raises
    ------
    ValueError
        If there is no level, or a level is negative, NaN, infinite or above 1.
    """
    if isinstance(noise_level, SNRRange):
        return noise_level
    levels = np.atleast_1d(np.asarray(noise_level, dtype=np.float64))
    if levels.ndim > 1 or not levels.size or not (np.isfinite(levels) & (levels >= 0)).all():
        raise ValueError(
            "noise_level must be a number >= 0, a list of such numbers (0.01 is 1 %) or an "
            f"SNRRange, got {noise_level!r}"
        )
    if levels.max() > 1:
        raise ValueError(f"noise_level must not exceed 1: {above_one(levels.max())}")
    return levels


def above_one(level: float) -> str:
    """Text of what a noise level above 1 may mean, for messages.

    Parameters
    ----------
    level : float
        The noise level.

    Returns
    -------
    str
        The text.
    """
    return (
        f"a noise level is a fraction, got {level:g}; for {level:g} % pass {level / 100:g}, for a "
        f"signal-to-noise ratio of {level:g} pass 1/{level:g} or SNRRange({level:g}, {level:g})"
    )


def number_of_levels(noise_level: NoiseLevels) -> int:
    """Number of levels to allocate evenly; 1 for a range, from which every row draws a level."""
    levels = checked_noise_levels(noise_level)
    return 1 if isinstance(levels, SNRRange) else levels.size
