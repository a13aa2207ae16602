"""The values that a tissue property may take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


@dataclass(frozen=True)
class PropertyRange:
    """The values that a tissue property may take, all equally likely.

    Parameters
    ----------
    low, high : float
        Smallest and largest value, in ms (T1, T2) or um^2/ms (D).
    step : float, optional
        Spacing of a grid low, low + step, .., high; None for a continuous range.
    scale : {"linear", "log"}
        Uniform in the value, or in its logarithm (continuous ranges only).

    Raises
    ------
    ValueError
        If the bounds are not positive and ascending, or the rest contradicts.
    """

    low: float
    high: float
    step: float | None = None
    scale: str = "linear"

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high < math.inf):
            raise ValueError(
                f"a range needs 0 < low <= high < infinity, got {self.low} .. {self.high}"
            )
        if self.scale not in ("linear", "log"):
            raise ValueError(f"scale must be 'linear' or 'log', got {self.scale!r}")
        if self.step is not None:
            if self.scale == "log":
                raise ValueError("a range with a step is linear; drop step or scale='log'")
            if not (self.step > 0):
                raise ValueError(f"step must be positive, got {self.step}")
            steps = (self.high - self.low) / self.step
            if abs(steps - round(steps)) > 1e-6:
                raise ValueError(
                    f"high - low must be a multiple of step: {self.low} .. {self.high} "
                    f"in steps of {self.step}"
                )

    @property
    def n_values(self) -> float:
        """Number of distinct values; infinite for a continuous range."""
        if self.step is None:
            return math.inf if self.high > self.low else 1
        return round((self.high - self.low) / self.step) + 1

    def continuous(self) -> PropertyRange:
        """The range without its grid, half a step further on either side.

        Each value of the grid then stands for a cell of its own size. A range that is
        continuous stays as it is; the lower end of a grid that starts within half a step
        of 0 goes half of the way to 0.
        """
        if self.step is None:
            return self
        low = self.low - self.step / 2 if self.low > self.step / 2 else self.low / 2
        return replace(self, low=low, high=self.high + self.step / 2, step=None)

    def sample(self, rng: Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
        """Draw values, shape `size`."""
        if self.step is not None:
            return np.asarray(self.low + self.step * rng.integers(0, int(self.n_values), size))
        if self.scale == "log":
            return np.exp(rng.uniform(math.log(self.low), math.log(self.high), size))
        return rng.uniform(self.low, self.high, size)

    def sample_distinct(self, rng: Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Draw values that differ within each row of `shape`."""
        if self.step is None:
            return self.sample(rng, shape)  # two draws are never equal
        drawn = np.empty(shape, dtype=np.int64)
        for column in range(shape[1]):
            # the k-th of the values that the row has left
            k = rng.integers(0, int(self.n_values) - column, shape[0])
            for taken in np.sort(drawn[:, :column], axis=1).T:
                k += k >= taken
            drawn[:, column] = k
        return np.asarray(self.low + self.step * drawn, dtype=np.float64)
