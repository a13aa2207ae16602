"""Laws of the signal fractions of a voxel's compartments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.rng import RandomDraws
from corrsk.physics._arrays import Array


def _flat_dirichlet(rng: RandomDraws, present: Array) -> Array:
    return rng.standard_exponential(tuple(present.shape))


def _normalized_uniform(rng: RandomDraws, present: Array) -> Array:
    return 1.0 - rng.random(tuple(present.shape))  # in (0, 1]: the sum is never 0


def _equal(rng: RandomDraws, present: Array) -> Array:
    return present


def _flat(weights: NDArray[Any]) -> float:
    return 0.0


def _log_mean_of_flat(K: int) -> float:
    return 0.0


def _log_mean_of_normalized_uniform(K: int) -> float:
    return math.lgamma(K + 1)  # w has the density (max w)^-K / K, of flat weights (K - 1)!


def _log_normalized_uniform(weights: NDArray[Any]) -> NDArray[np.float64]:
    # w = v / t, v uniform, t the sum of v: int t^(K - 1) 1[t max w <= 1] dt = (max w)^-K / K
    largest: NDArray[np.float64] = weights.max(axis=0).astype(np.float64)
    return -len(weights) * np.log(largest)


@dataclass(frozen=True)
class FractionLaw:
    """Law of the fractions of n_c compartments: how to sample them, and their density.

    A fraction is ``min_fraction + (1 - n_c min_fraction) w``, where the weights w of a voxel
    sum to 1.

    Parameters
    ----------
    weights : callable
        ``weights(rng, present)`` draws positive weights of shape (n_samples, n_compartments),
        before their division by the sum; `present` is an array of that shape, 1 for a compartment
        and 0 elsewhere.
    log_density : callable
        ``log_density(w)`` returns the logarithm of the density of weights of shape
        (n_compartments, ..), up to a constant.
    log_mean : callable
        ``log_mean(K)`` returns the logarithm of the mean of this density over flat weights of K
        compartments: less this constant, `log_density` is relative to the density of flat weights.
    is_random : bool, default=True
        Whether the weights are random.
    """

    weights: Callable[[RandomDraws, Array], Array]
    log_density: Callable[[NDArray[Any]], NDArray[np.float64] | float]
    log_mean: Callable[[int], float] = _log_mean_of_flat
    is_random: bool = True


FRACTION_LAWS: dict[str, FractionLaw] = {
    "dirichlet": FractionLaw(_flat_dirichlet, _flat),
    "normalized-uniform": FractionLaw(
        _normalized_uniform, _log_normalized_uniform, _log_mean_of_normalized_uniform
    ),
    "equal": FractionLaw(_equal, _flat, is_random=False),
}


def floored_fractions(weights: Array, n_c: Array, min_fraction: float, *, axis: int) -> Array:
    """Turn weights into fractions of at least `min_fraction`, in place.

    Parameters
    ----------
    weights : array
        Weights of the compartments along `axis`; 0 for an absent compartment.
    n_c : array
        Number of compartments of each voxel, broadcastable to `weights`.
    min_fraction : float
        Smallest fraction of a compartment.
    axis : int
        Axis of the compartments.

    Returns
    -------
    array
        The fractions: `weights` itself. The caller must set the fractions of absent compartments,
        which are `min_fraction`, to 0.
    """
    weights /= weights.sum(axis=axis, keepdims=True)
    weights *= 1.0 - min_fraction * n_c
    weights += min_fraction
    return weights
