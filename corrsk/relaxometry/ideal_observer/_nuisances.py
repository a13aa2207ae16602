"""Nuisance parameters over which the ideal observer integrates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk.tissue.nuisances import Nuisances

_SUPPORTED = ("inversion_efficiency", "echo_loss")


@dataclass(frozen=True)
class NuisanceRange:
    """Range of a nuisance parameter, which all compartments of a voxel share.

    Parameters
    ----------
    name : str
        Name of the parameter.
    low, high : float
        Smallest and largest value, between which the parameter is uniformly distributed.
    """

    name: str
    low: float
    high: float

    @property
    def is_fixed(self) -> bool:
        """Whether the parameter has a single value, and no coordinate."""
        return self.low == self.high

    def from_unit(self, unit: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map coordinates in [0, 1) to values."""
        return self.low + (self.high - self.low) * unit.astype(np.float64)


def nuisance_ranges(nuisances: Nuisances | None, *, normalised: bool) -> tuple[NuisanceRange, ...]:
    """Ranges of the nuisance parameters that change the direction of a signal.

    Parameters
    ----------
    nuisances : Nuisances or None
        Nuisance parameters of a prior.
    normalised : bool
        Whether signals are divided by a norm, which makes their scale irrelevant.

    Returns
    -------
    tuple of NuisanceRange
        The ranges.

    Raises
    ------
    ValueError
        If there are parameters over which the ideal observer does not integrate.
    """
    names = () if nuisances is None else nuisances.names
    refused = [
        name for name in names if name not in _SUPPORTED and not (name == "scale" and normalised)
    ]
    if refused:
        raise ValueError(
            f"the ideal observer integrates over the nuisance parameters {', '.join(_SUPPORTED)} "
            "(and over the scale of signals with a norm), but the prior has ranges of "
            f"{', '.join(refused)}; pass a prior without them"
        )
    found = []
    for name in names:
        value = getattr(nuisances, name)
        low, high = value if isinstance(value, tuple) else (value, value)
        if name in _SUPPORTED:
            found.append(NuisanceRange(name, low, high))
    return tuple(found)
