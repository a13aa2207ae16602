"""Ranges of tissue properties."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from array_api_compat import array_namespace

from corrsk._utils.rng import RandomDraws
from corrsk._utils.validation import check_number
from corrsk.physics._arrays import Array, promote
from corrsk.physics.contrasts import tissue_quantity
from corrsk.physics.units import shifted, unit_and_power


@dataclass(frozen=True)
class PropertyRange:
    """Range of a tissue property, with a uniform distribution over its values.

    Parameters
    ----------
    low, high : float
        Smallest and largest value, in ms (T1, T2) or um^2/ms (D).
    step : float, optional
        Spacing of a grid low, low + step, .., high; None for a continuous range.
    scale : {"linear", "log"}
        Whether the value or its logarithm is uniformly distributed; "log" requires a continuous
        range.
    units : str, optional
        Unit of the values: "ms", "s" or "us" for a time, "um^2/ms", "um^2/s" or "mm^2/s" for a
        diffusivity; the values are converted to ms and um^2/ms. A stated unit is believed: pass
        ``units="ms"`` for times that are shorter than usual. By default, values are in ms and
        um^2/ms, and a prior refuses those that are not plausible in its units.

    Raises
    ------
    ValueError
        If the bounds are not positive numbers and ascending, `step` and `scale` contradict them,
        or the unit is unknown.

    Examples
    --------
    >>> from corrsk import PropertyRange
    >>> PropertyRange(0.0002, 0.009, scale="log", units="s")
    PropertyRange(low=0.2, high=9.0, step=None, scale='log')
    """

    low: float
    high: float
    step: float | None = None
    scale: str = "linear"
    # afterwards the unit of corrsk, or None if it was not stated; no part of the distribution
    units: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number("low of a range", self.low)
        check_number("high of a range", self.high)
        if self.step is not None:
            check_number("step of a range", self.step)
        if self.units is not None:
            own, power = unit_and_power(self.units)
            object.__setattr__(self, "units", own)
            if power:
                for name in ("low", "high") if self.step is None else ("low", "high", "step"):
                    object.__setattr__(self, name, shifted(getattr(self, name), power))
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

    def check_units(self, name: str) -> None:
        """Refuse a range of a tissue property whose values are in another unit.

        Parameters
        ----------
        name : str
            Tissue property, such as "T1".

        Raises
        ------
        ValueError
            If the stated unit is none of the property, or no unit was stated and the largest
            value is not plausible.
        """
        quantity = tissue_quantity(name)
        if self.units is None:
            quantity.check(self.high)
        elif self.units != quantity.unit:
            raise ValueError(
                f"the range of {name} is in {self.units}; {name} is a quantity in {quantity.unit}"
            )

    @property
    def n_values(self) -> float:
        """Number of distinct values; infinite for a continuous range."""
        if self.step is None:
            return math.inf if self.high > self.low else 1
        return round((self.high - self.low) / self.step) + 1

    def continuous(self) -> PropertyRange:
        """Continuous range that covers the grid cells of this range.

        The range is extended by half a step at both ends, so that every grid point corresponds
        to a cell of the same width. If the lower end would not be positive, the lower bound is
        halved instead.

        Returns
        -------
        PropertyRange
            The range itself if it is continuous already.
        """
        if self.step is None:
            return self
        low = self.low - self.step / 2 if self.low > self.step / 2 else self.low / 2
        return replace(self, low=low, high=self.high + self.step / 2, step=None)

    def sample(self, rng: RandomDraws, size: tuple[int, ...]) -> Array:
        """Draw values.

        Parameters
        ----------
        rng : numpy Generator, or an adapter of another library with its methods
            Source of the random numbers.
        size : tuple of int
            Shape of the result.

        Returns
        -------
        array of shape `size`
            Values in the array library of `rng`.
        """
        if self.step is not None:
            return self._at(rng.integers(0, int(self.n_values), size))
        if self.scale == "log":
            drawn = rng.uniform(math.log(self.low), math.log(self.high), size)
            return array_namespace(drawn).exp(drawn)
        return rng.uniform(self.low, self.high, size)

    def sample_distinct(self, rng: RandomDraws, size: tuple[int, int]) -> Array:
        """Draw values that differ within each row.

        Parameters
        ----------
        rng : numpy Generator, or an adapter of another library with its methods
            Source of the random numbers.
        size : tuple of int
            Shape of the result: rows, and values in each row.

        Returns
        -------
        array of shape `size`
            Values in the array library of `rng`.
        """
        if self.step is None:
            return self.sample(rng, size)  # two draws are never equal
        cells: list[Array] = []
        for column in range(size[1]):
            # the k-th of the values that the row has not drawn yet
            k = rng.integers(0, int(self.n_values) - column, size[:1])
            xp = array_namespace(k)
            if cells:
                for taken in xp.sort(xp.stack(cells), axis=0):
                    k += k >= taken
            cells.append(k)
        return self._at(xp.stack(cells, axis=1))

    def _at(self, cells: Array) -> Array:
        """Values of grid points, in float64 on every device for identical rounding."""
        xp = array_namespace(cells)
        return xp.astype(cells, xp.float64) * self.step + self.low

    def from_unit(self, unit: Array) -> Array:
        """Map coordinates in [0, 1), in which the values are uniformly distributed, to values.

        Parameters
        ----------
        unit : array
            Coordinates, in any array library.

        Returns
        -------
        array
            Values of the shape of `unit`: float64 for a range with a step, else the dtype of
            `unit`.
        """
        xp, unit = promote(unit)
        if self.step is not None:
            return self._at(self.cells(unit))
        if self.scale == "log":
            return self.low * xp.exp(math.log(self.high / self.low) * unit)
        return unit * (self.high - self.low) + self.low

    def cells(self, unit: Array) -> Array:
        """Map coordinates in [0, 1) to indices of the grid points of a range with a step.

        Parameters
        ----------
        unit : array
            Coordinates, in any array library.

        Returns
        -------
        array of int64
            Indices 0..n_values - 1, of the shape of `unit`.
        """
        xp, unit = promote(unit)
        scaled = unit * self.n_values
        # in single precision the product may round up to n_values
        scaled = xp.where(scaled < self.n_values, scaled, self.n_values - 1.0)
        return xp.astype(scaled, xp.int64)

    def to_unit(self, values: Array, within: Array) -> Array:
        """Map values to coordinates in [0, 1), the inverse of :meth:`from_unit`.

        Parameters
        ----------
        values : array
            Values of the range.
        within : array
            Uniform numbers in [0, 1) of the same shape: the position within the cell of a grid
            point, and the coordinate in a range of a single value.

        Returns
        -------
        array
            Coordinates of the shape of `values`.
        """
        xp, values = promote(values)
        if self.step is not None:
            return (xp.round((values - self.low) / self.step) + within) / self.n_values
        if self.high == self.low:
            return within
        if self.scale == "log":
            return xp.log(values / self.low) / math.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)
