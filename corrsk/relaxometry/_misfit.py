"""Noise and misfit of signals whose noise level is unknown.

Signals of any number of compartments, with amplitudes of either sign, lie close to a subspace of
far fewer dimensions than measurements: that of the leading singular vectors of the kernel. The
part of a signal outside the subspace is noise, whichever model is fitted to the inside, and its
variance is that of the noise. The residual of a fit has this variance if the fit explains the
signal. This is the classical test for lack of fit against a pure error, with an F distribution
(Draper and Smith, Applied Regression Analysis, 3rd ed. (1998), chapter 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from corrsk.acquisition.bounds import resolved_ranges
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.relaxometry._compression import compress_kernel
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._subspace import squares_outside

# Probability of a misfit for signals that a fit explains: one false alarm in a million voxels.
_LEVEL = 1e-6
# Singular values of the subspace, as fractions of the largest. Those below the larger one leave
# about 1e-4 of a signal outside, less than usual noise; where measurements abound more are used.
_CUTOFF, _SMALL_CUTOFF = 1e-3, 1e-5
_SMALLEST_RESIDUAL = 1e-5  # of a signal of norm 1: smaller residuals are no misfit
_MAX_CELLS = 2304  # of the grid of the subspace: 48 x 48


class Misfit(NamedTuple):
    """Misfit of fits to V signals.

    chi2 : (V, C), reduced; NaN without an estimate of the noise
    significant : (V, C), whether the residual exceeds the noise
    inside : (V, C), sum of squares of the residual inside the subspace of all mixtures
    rank : dimensions of this subspace
    """

    chi2: Array
    significant: NDArray[np.bool_]
    inside: Array
    rank: int

    @property
    def unexplained(self) -> NDArray[np.bool_]:
        """Signals (V,) that no fit explains."""
        return np.asarray(self.significant.all(axis=1))

    def spread(self, weights: Array, remainder: Array) -> Array:
        """Mix the weights of signals that no fit explains with others.

        A criterion compares fits as if their residuals were noise, so that tiny differences
        between wrong fits of a precise signal decide with certainty. The weights therefore count
        with the share of the noise in the residual variance of the best fit, ``1 / chi2``.

        Parameters
        ----------
        weights : ndarray of shape (V, K)
            Weights of K counts with sum 1.
        remainder : ndarray of shape (K,) or (V, K)
            Weights of what the noise does not explain, with sum 1.

        Returns
        -------
        ndarray of shape (V, K)
            Weights, unchanged where any fit explains the signal.
        """
        chi2 = np.where(np.isnan(self.chi2), np.inf, self.chi2).min(axis=1)
        share = np.where(self.unexplained, 1 / np.maximum(chi2, 1.0), 1.0)[:, None]
        return np.asarray(share * weights + (1 - share) * remainder)

    def in_proportion(self) -> Array:
        """Weights (V, C) of fits in inverse proportion to their residual inside the subspace."""
        inside = np.maximum(np.nan_to_num(self.inside, posinf=1.0), _SMALLEST_RESIDUAL**2)
        weights = 1 / np.sqrt(inside)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))


class NoiseSubspace:
    """Part of signals that no mixture of compartments changes.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol in grid order.
    bounds : mapping of str to (low, high)
        Ranges of the tissue properties of the fits. The mixtures also cover the ranges that the
        protocol resolves, so that compartments beyond the bounds are misfit and not noise.
    inversion_efficiency : float
        Inversion efficiency eta in (0, 1].
    with_offset : bool, default=False
        Whether a constant that is added to a signal is no noise either.
    """

    def __init__(
        self,
        protocol: AcquisitionProtocol,
        bounds: Mapping[str, tuple[float, float]],
        inversion_efficiency: float,
        *,
        with_offset: bool = False,
    ) -> None:
        resolved = resolved_ranges(protocol, inversion_efficiency)
        wide = {
            name: (min(low, resolved[name][0]), max(high, resolved[name][1]))
            for name, (low, high) in bounds.items()
        }
        model = KernelModel(protocol, wide, inversion_efficiency)
        P, N = len(model.properties), protocol.n_measurements
        n_points = (max(4, int(_MAX_CELLS ** (1 / P) + 1e-9)),) * P
        left, values, _ = compress_kernel(model, n_points, _SMALL_CUTOFF)
        rank = max(int((values > _CUTOFF * values[0]).sum()), min(values.size, N // 2))
        self._basis = left[:, :rank]
        if with_offset and rank < N:
            self._basis, _ = np.linalg.qr(np.column_stack([self._basis, np.ones(N)]))
            rank += 1
        self._N, self._rank = N, rank

    def misfit(self, x: Array, rss: Array, n_fitted: NDArray[np.int64], amplitude: Array) -> Misfit:
        """Compare the residuals of fits with the noise.

        Parameters
        ----------
        x : ndarray of shape (V, N)
            Signals with norm 1.
        rss : ndarray of shape (V, C)
            Residual sums of squares of C fits to each signal.
        n_fitted : ndarray of int, shape (C,)
            Number of parameters of each fit.
        amplitude : ndarray of shape (V, C)
            Sum of the amplitudes of each fit. A fit with amplitude 0 explains no signal, whatever
            the noise.

        Returns
        -------
        Misfit
            Reduced chi2, the residual variance divided by that of the noise, and its significance.
        """
        spare = self._N - self._rank
        empty = ~(amplitude > 0) & np.isfinite(rss)
        with np.errstate(all="ignore"):
            noise, _ = squares_outside(x, self._basis)
            noise = np.maximum(noise[:, None], _SMALLEST_RESIDUAL**2)
            freedom = np.maximum(self._N - n_fitted, 0)
            chi2 = (rss / freedom) / (noise / spare)
            between = np.maximum(self._rank - n_fitted, 0)
            statistic = np.maximum(rss - noise, 0.0) / between / (noise / spare)
            probability = fdtrc(between, spare, statistic)
        chi2 = np.where((spare > 0) & (freedom > 0), chi2, np.nan)
        testable = (spare > 0) & (between > 0)
        significant = (testable & (probability < _LEVEL)) | empty
        inside = np.maximum(rss - noise, 0.0)
        return Misfit(chi2, significant, inside, self._rank)
