"""Proposals of fractions from their conditional distribution given the tissue properties.

For fixed properties the misfit is a quadratic form of the fractions,
``f' Q f`` on the plane ``sum f = 1``: with ``phi_i`` the compartments' signals,
``Q_ij = phi_i . phi_j - (x . phi_i)(x . phi_j)`` for signals x of norm 1 and
unknown scale, ``(phi_i - x) . (phi_j - x)`` for a given scale. The corresponding
distribution of the fractions is a normal distribution truncated at the smallest fraction. The
fractions are proposed one after the other, each from its conditional distribution without
the truncation of the later fractions (Geweke, Hajivassiliou and Keane; see
Hajivassiliou, McFadden and Ruud, J. Econometrics 72, 85 (1996)); an acceptance
step, or a weight, corrects for this approximation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from corrsk.relaxometry.ideal_observer._forms import Forms
from corrsk.relaxometry.ideal_observer._likelihood import NoiseModel

Array = NDArray[np.float64]

_LOG_2PI = math.log(2 * math.pi)
_INFLATION = 1.1  # of the standard deviations: a proposal needs longer tails than the target
_FARTHEST = 30.0  # standard deviations; beyond 37 the tail of a normal distribution is 0
_RIDGE = 1e-4  # of the noise variance: the curvature is 0 for two equal compartments


@dataclass(frozen=True)
class FractionProposal:
    """Distribution of K fractions given the properties, for V x C states.

    Parameters
    ----------
    slopes : list of K - 1 arrays (V, C)
        Linear coefficients of the quadratic form of the first K - 1 fractions.
    curvatures : list of lists of arrays (V, C)
        Quadratic coefficients, after elimination of the later fractions.
    variance : ndarray of shape (V, C)
        Variance of the noise over the inverse temperature.
    min_fraction : float
        Smallest fraction.
    """

    slopes: list[Array]
    curvatures: list[list[Array]]
    variance: Array
    min_fraction: float

    def draw(self, uniforms: NDArray[np.floating[Any]]) -> tuple[list[Array], Array]:
        """Draw fractions from uniforms (K - 1, V, C); returns fractions and log density."""
        return self._walk(uniforms, None)

    def log_density(self, fractions: list[Array]) -> Array:
        """Logarithm of the density of K fractions (V, C)."""
        return self._walk(None, fractions)[1]

    def _walk(
        self, uniforms: NDArray[np.floating[Any]] | None, given: list[Array] | None
    ) -> tuple[list[Array], Array]:
        K = len(self.slopes) + 1
        fractions: list[Array] = []
        left: Array = np.ones_like(self.variance)
        density = np.full_like(self.variance, -0.5 * (K - 1) * _LOG_2PI)
        for m in range(K - 1):
            mean = self.slopes[m].copy()
            for a in range(m):
                mean += self.curvatures[m][a] * fractions[a]
            inverse = 1.0 / self.curvatures[m][m]
            mean *= -inverse
            deviation = np.sqrt(self.variance * inverse)
            deviation *= _INFLATION
            most = left - (K - 1 - m) * self.min_fraction
            low = (self.min_fraction - mean) / deviation
            high = (most - mean) / deviation
            # intervals in the right tail are mirrored: the left tail has no cancellation
            sign = np.where(low + high > 0, -1.0, 1.0)
            low, high = np.where(sign < 0, -high, low), np.where(sign < 0, -low, high)
            # for an interval too far in the tail any proposal within the interval is valid
            shift = np.maximum(-_FARTHEST - high, 0.0)
            low += shift
            high += shift
            below = ndtr(low)
            mass = np.maximum(ndtr(high) - below, 1e-300)
            if uniforms is not None:
                z = np.clip(ndtri(below + uniforms[m] * mass), low, high)
                drawn = mean + deviation * sign * (z - shift)
                np.clip(drawn, self.min_fraction, most, out=drawn)
            else:
                assert given is not None
                drawn = given[m]
            z = (drawn - mean) / deviation * sign + shift
            density -= 0.5 * z * z
            density -= np.log(deviation * mass)
            fractions.append(drawn)
            left = left - drawn
        fractions.append(left)
        return fractions, density


def fraction_proposal(
    forms: Forms,
    noise: NoiseModel,
    signal_squared: Array | float,
    temperature: Array,
    min_fraction: float,
) -> FractionProposal:
    """Proposal of fractions from the inner products of K >= 2 compartments.

    Parameters
    ----------
    forms : Forms
        Inner products.
    noise : NoiseModel
        Noise of the signals.
    signal_squared : ndarray of shape (V, 1)
        Squared norm ``|x|^2``.
    temperature : ndarray of shape (V, 1)
        Power of the likelihood, in (0, 1].
    min_fraction : float
        Smallest fraction.
    """
    c, last = forms.c, len(forms.c) - 1
    Q = [
        [
            forms.M[i][j] - c[i] * c[j]
            if noise.normalize
            else forms.M[i][j] - c[i] - c[j] + signal_squared
            for j in range(i + 1)
        ]
        for i in range(last + 1)
    ]
    # the last fraction is 1 minus the other fractions
    slopes = [Q[last][a] - Q[last][last] for a in range(last)]
    H = [[Q[a][b] - slopes[a] - Q[last][b] for b in range(a + 1)] for a in range(last)]
    ridge = _RIDGE * noise.smallest_variance
    misfit = Q[last][last]
    for m in range(last - 1, -1, -1):
        H[m][m] = np.maximum(H[m][m], ridge)
        inverse = 1.0 / H[m][m]
        misfit = misfit - slopes[m] * slopes[m] * inverse
        for a in range(m):
            factor = H[m][a] * inverse
            slopes[a] = slopes[a] - factor * slopes[m]
            for b in range(a + 1):
                H[a][b] = H[a][b] - factor * H[m][b]
    variance = noise.proposal_variance(misfit, last + 1) / temperature
    return FractionProposal(slopes, H, variance, min_fraction)
