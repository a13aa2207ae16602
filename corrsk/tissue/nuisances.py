"""Nuisance parameters: what differs between voxels besides the tissue."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from corrsk._utils.rng import RandomDraws
from corrsk._utils.validation import check_entries, is_number
from corrsk.physics._arrays import Array

Span = float | tuple[float, float]

# Smallest and largest value of each parameter, and whether its logarithm is uniformly distributed.
# The largest B1 keeps the largest refocusing angle below 540 degrees. The efficiency of a pulse is
# at most 1, but fits need more where the inversion times are shorter than stated.
_ALLOWED = {
    "inversion_efficiency": (0.0, 2.0, False),
    "b1": (0.0, 2.0, False),
    "echo_loss": (0.0, 0.9, False),
    "offset": (-1.0, 1.0, False),
    "scale": (0.0, math.inf, True),
    "gain": (0.0, math.inf, True),
}
# an apparent efficiency above 1 is for fits; no pulse has it, so that signals are not simulated so
_LARGEST_SIMULATED = {"inversion_efficiency": 1.0}
_POSITIVE = ("inversion_efficiency", "b1", "scale", "gain")


NUISANCE_COLUMNS = tuple(_ALLOWED)


@dataclass(frozen=True)
class Nuisances:
    """Ranges of the nuisance parameters of voxels.

    Each parameter is a number, the value in every voxel, or a pair (smallest, largest). It is
    uniformly distributed between both, a scale or gain in its logarithm. Parameters that are None
    are not drawn: voxels then have the value in parentheses.

    Parameters
    ----------
    inversion_efficiency : float or (float, float), optional
        Inversion efficiency eta in (0, 2] (that of the generator). More than 1 is an apparent
        efficiency: of fits to scans whose inversion times are shorter than stated, or noisy.
    b1 : float or (float, float), optional
        Transmit field relative to the nominal one; scales the flip angles of echo trains (1).
    echo_loss : float or (float, float), optional
        Loss of signal from one echo time to the next, as a fraction, of imperfect refocusing pulses
        where the protocol does not state an echo train (0). The echo time of rank n, from 0, has
        ``(1 - loss)^n`` of the signal.
    offset : float or (float, float), optional
        Constant that is added to all measurements, relative to M0 (0).
    scale : float or (float, float), optional
        Factor of all measurements and their noise: M0 times the receiver gain (1).
    gain : float or (float, float), optional
        Factor of the measurements of the second of two series, with their noise, relative to those
        of the first (1).

    Raises
    ------
    ValueError
        If a value is no number, beyond the allowed range, or a range is descending.

    Examples
    --------
    >>> from corrsk import Nuisances, TissuePrior
    >>> nuisances = Nuisances(inversion_efficiency=(0.8, 1.0), scale=(100, 1000))
    >>> tissue, _ = TissuePrior.named("midl2024", nuisances=nuisances).sample(2, random_state=0)
    >>> list(tissue.columns[-2:])
    ['inversion_efficiency', 'scale']
    """

    inversion_efficiency: Span | None = None
    b1: Span | None = None
    echo_loss: Span | None = None
    offset: Span | None = None
    scale: Span | None = None
    gain: Span | None = None

    def __post_init__(self) -> None:
        for name, (least, largest, _) in _ALLOWED.items():
            value = getattr(self, name)
            if value is None:
                continue
            pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
            if len(pair) != 2 or not all(map(is_number, pair)):
                raise ValueError(
                    f"{name} must be a number or a pair (smallest, largest), got {value!r}"
                )
            low, high = map(float, pair)
            above = low > least if name in _POSITIVE else low >= least
            if not (above and low <= high <= largest and math.isfinite(high)):
                allowed = f"{'above' if name in _POSITIVE else 'at least'} {least:g}"
                if math.isfinite(largest):
                    allowed += f" and at most {largest:g}"
                raise ValueError(f"{name} must be ascending and {allowed}, got {value!r}")
            object.__setattr__(self, name, low if low == high else (low, high))

    @staticmethod
    def check_values(name: str, values: Any) -> Any:
        """Find values of a parameter with which no signal is simulated.

        Parameters
        ----------
        name : str
            Name of the parameter.
        values : ndarray of shape (n_samples,)
            Values.

        Returns
        -------
        ndarray of bool, shape (n_samples,)
            True where a value is NaN, infinite or beyond the allowed range.
        """
        least, largest, _ = _ALLOWED[name]
        largest = _LARGEST_SIMULATED.get(name, largest)
        above = values > least if name in _POSITIVE else values >= least
        return ~(above & (values <= largest) & np.isfinite(values))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that are drawn."""
        return tuple(item.name for item in fields(self) if getattr(self, item.name) is not None)

    def draw(self, name: str, rng: RandomDraws, n_samples: int) -> Array:
        """Draw a parameter.

        Parameters
        ----------
        name : str
            Name of a parameter that is not None.
        rng : numpy Generator, or an adapter of another library with its methods
            Source of the random numbers.
        n_samples : int
            Number of voxels.

        Returns
        -------
        array of shape (n_samples,)
            Values in the array library of `rng`.
        """
        value = getattr(self, name)
        low, high = value if isinstance(value, tuple) else (value, value)
        if not _ALLOWED[name][2]:
            return rng.uniform(low, high, (n_samples,))
        drawn = rng.uniform(math.log(low), math.log(high), (n_samples,))
        return array_namespace(drawn).exp(drawn)

    def to_unit(self, name: str, values: Any) -> Any:
        """Map values of a parameter with a range to numbers that are uniform in [0, 1).

        Parameters
        ----------
        name : str
            Name of a parameter with a range.
        values : ndarray
            Values.

        Returns
        -------
        ndarray
            Numbers of the shape of `values`.
        """
        low, high = getattr(self, name)
        if _ALLOWED[name][2]:
            return np.log(values / low) / math.log(high / low)
        return (values - low) / (high - low)

    def to_dict(self) -> dict[str, Any]:
        """Convert the ranges to plain values, for files.

        Returns
        -------
        dict
            A number or a list of two numbers for each parameter that is not None.
        """
        given = {name: getattr(self, name) for name in self.names}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Nuisances:
        """Create the ranges that :meth:`to_dict` converted.

        Parameters
        ----------
        content : mapping
            A number or a pair for each parameter.

        Returns
        -------
        Nuisances
            The ranges.

        Raises
        ------
        ValueError
            If there is an unknown parameter, or a value is invalid.
        """
        check_entries("nuisances", content, allowed=[item.name for item in fields(cls)])
        return cls(**content)
