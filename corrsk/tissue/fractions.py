"""Laws by which the fractions of a voxel's compartments are drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


def _flat_dirichlet(rng: Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.standard_exponential(shape)


def _normalized_uniform(rng: Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return 1.0 - rng.random(shape)  # in (0, 1]: the sum is never 0


def _equal(rng: Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.ones(shape)


# Each law draws positive weights, which are then divided by their sum.
FRACTION_LAWS: dict[str, Callable[[Generator, tuple[int, int]], NDArray[np.float64]]] = {
    "dirichlet": _flat_dirichlet,
    "normalized-uniform": _normalized_uniform,
    "equal": _equal,
}
