"""Residual variance of the voxels of an image: a scale in common, and a spread around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import f

Array = NDArray[np.float64]

_FEWEST = 30  # voxels for an estimate of both parameters
# Of the variances of the voxels. Voxels with more than one compartment are above the second one.
_QUANTILES = (0.5, 0.8)
_LEAST, _MOST = 0.5, 1e3  # degrees of freedom; more are indistinguishable from a common variance
_TOO_DIFFERENT = 4.0  # ratio of typical variances: a factor of two in the noise


@dataclass(frozen=True)
class ResidualVariance:
    """Distribution of the residual variance over the voxels of an image.

    The variance of a voxel is ``sigma^2 peak^2 freedom / chi^2`` with a chi-square variable of
    `freedom` degrees of freedom and the largest absolute signal of the voxel, `peak`. It is that
    of the noise and of what the signal model lacks.

    Parameters
    ----------
    sigma : float
        Scale of the standard deviation, relative to the largest absolute signal of a voxel.
    freedom : float
        Degrees of freedom: many if all voxels have the same variance, few if it varies.

    Notes
    -----
    With this distribution as the prior of the variance of a voxel, `freedom` measurements with
    the variance of the image are added to those of the voxel: Smyth, Stat. Appl. Genet. Mol. Biol.
    3, 3 (2004), for tests of many genes with few arrays each.
    """

    sigma: float
    freedom: float

    @classmethod
    def from_residuals(cls, relative: Array, freedom: int) -> ResidualVariance | None:
        """Estimate the distribution from the residuals of fits that mostly explain their signals.

        Parameters
        ----------
        relative : ndarray of shape (V,)
            Residual sums of squares, relative to the square of the largest signal of each voxel.
        freedom : int
            Degrees of freedom of each residual.

        Returns
        -------
        ResidualVariance or None
            The distribution; None if there are too few voxels or no residuals.

        Notes
        -----
        The variances of the voxels over ``sigma^2`` have an F distribution, whose median and 80 %
        quantile are those of the voxels. Fewer than half of the voxels with other residuals cannot
        make the scale arbitrary, and they lower the degrees of freedom, which gives the
        distribution less weight.
        """
        relative = relative[np.isfinite(relative)]
        if freedom < 1 or len(relative) < _FEWEST:
            return None
        middle, high = (float(q) for q in np.quantile(relative / freedom, _QUANTILES))
        if not middle > 0:
            return None

        def excess(logarithm: float) -> float:
            quantiles = f.ppf(_QUANTILES, freedom, np.exp(logarithm))
            return float(np.log(quantiles[1] / quantiles[0]) - np.log(high / middle))

        ends = float(np.log(_LEAST)), float(np.log(_MOST))
        if excess(ends[0]) <= 0:
            found = _LEAST
        elif excess(ends[1]) >= 0:
            found = _MOST
        else:
            found = float(np.exp(brentq(excess, *ends)))
        return cls(float(np.sqrt(middle / f.ppf(0.5, freedom, found))), found)

    def squares(self, signals: Array) -> Array:
        """Sum of squares (V, 1) that the image adds to the residuals of signals (V, N)."""
        peaks = np.abs(signals).max(axis=1, keepdims=True)
        return np.asarray(self.freedom * self.sigma**2 * peaks**2)

    def differs(self, relative: Array, freedom: Array) -> float | None:
        """Compare the residuals of a batch with those of the image.

        Parameters
        ----------
        relative : ndarray of shape (V,)
            Residual sums of squares, relative to the square of the largest signal of each voxel.
        freedom : ndarray of shape (V,)
            Degrees of freedom of each residual.

        Returns
        -------
        float or None
            Ratio of the typical standard deviation to that of the image, if the variance differs by
            a factor of 4 or more; None if it does not, or if most voxels have no degree of
            freedom.
        """
        usable = freedom > 0
        if 2 * usable.sum() < len(usable):
            return None
        relative, freedom = relative[usable], freedom[usable]
        usual = self.sigma**2 * f.ppf(0.5, freedom, self.freedom)
        ratio = float(np.median(relative / freedom / usual))
        return float(np.sqrt(ratio)) if not 1 / _TOO_DIFFERENT < ratio < _TOO_DIFFERENT else None
