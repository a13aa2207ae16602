"""Subspace of signals of norm 1, and the relation of its coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import PolynomialFeatures

LEAST_VARIANCE = 1e-13  # of the noise in a signal of norm 1: rounding to single precision
_ABOVE_NOISE, _SUBSPACE_STEPS = 1.06, 6
_LEADING = 7  # coordinates; the cubic polynomials of more would be too many
_RCOND = 1e-10


def noise_weighted_subspace(
    signals: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Basis of the signals, (n_measurements, d), and the strength of each direction, (d,).

    The strength is the mean square of the signals over that of the noise, descending.
    """
    n, n_columns = signals.shape
    # the noise is estimated from the remaining columns, which must be numerous enough
    most = max(1, min(n_columns - 4 if n_columns >= 8 else n_columns, n // 2))
    weight, d = np.ones(n), min(16, most)
    for _ in range(_SUBSPACE_STEPS):
        strength, directions = np.linalg.eigh((signals * weight[:, None]).T @ signals / n)
        strength, directions = strength[::-1], directions[:, ::-1]
        # with few or exact signals, the median is a rounding error of the largest strength
        rounding = max(np.finfo(float).eps * strength[0], np.finfo(float).tiny)
        noise = max(np.median(strength[n_columns // 2 :]), rounding)
        # no direction of pure noise exceeds this threshold in n signals (Marchenko and Pastur);
        # it is raised for the directions of the last step, whose strength is overestimated
        # because the variances in the weights are estimated from the other directions (inverse
        # chi-squared)
        threshold = np.full(n_columns, _ABOVE_NOISE * (1 + np.sqrt(n_columns / n)) ** 2)
        freedom = max(1, n_columns - d)
        threshold[:d] *= freedom / max(1, freedom - 2)
        d = int(np.clip((strength > threshold * noise).sum(), 1, most))
        basis = directions[:, :d]
        outside = signals - (signals @ basis) @ basis.T
        variance = (outside**2).sum(axis=1) / max(1, n_columns - d)
        weight = 1 / np.maximum(variance, LEAST_VARIANCE)
    return basis, strength[:d] / noise


@dataclass(frozen=True)
class CoordinateRelation:
    """Polynomials that predict the other coordinates of a signal from the leading ones.

    Parameters
    ----------
    coefficients : array of shape (p, d - m)
        Coefficients of the monomials up to third degree of the m leading coordinates, for each
        of the other coordinates.
    log_spread : array of shape (q + 1, d - m)
        Coefficients of the monomials up to second degree and of the logarithm of the noise
        variance, for the logarithm of the squared error.
    """

    coefficients: NDArray[Any]
    log_spread: NDArray[Any]

    @classmethod
    def fit(
        cls, coordinates: NDArray[np.float64], variance: NDArray[np.float64]
    ) -> CoordinateRelation:
        """Fit to coordinates of shape (n_samples, d) with noise variances of shape (n_samples,)."""
        n, d = coordinates.shape
        leading = min(_LEADING, d - 1)
        while leading > 0 and 10 * comb(leading + 3, 3) > n:
            leading -= 1
        if leading < 1:
            return cls(np.empty((0, 0)), np.empty((0, 0)))
        cubic, quadratic = _polynomials(coordinates[:, :leading])
        # weighted by the inverse standard deviation of the noise
        weight = variance[:, None] ** -0.5
        coefficients = np.linalg.lstsq(
            cubic * weight, coordinates[:, leading:] * weight, rcond=_RCOND
        )[0]
        error = coordinates[:, leading:] - cubic @ coefficients
        log_spread = np.linalg.lstsq(
            np.column_stack([quadratic, np.log(variance)]),
            _log_square(error, variance), rcond=_RCOND,
        )[0]  # fmt: skip
        return cls(coefficients, log_spread)

    def error(self, coordinates: NDArray[Any], variance: NDArray[Any]) -> NDArray[Any]:
        """Logarithm of the largest squared error over its spread, (n_samples,)."""
        if not self.coefficients.size:
            return np.zeros(len(coordinates))
        leading = coordinates.shape[1] - self.coefficients.shape[1]
        cubic, quadratic = _polynomials(coordinates[:, :leading])
        error = coordinates[:, leading:] - cubic @ self.coefficients
        spread = np.column_stack([quadratic, np.log(variance)]) @ self.log_spread
        largest: NDArray[Any] = (_log_square(error, variance) - spread).max(axis=1)
        return largest


def _log_square(error: NDArray[Any], variance: NDArray[Any]) -> NDArray[Any]:
    # the second term bounds the logarithm where the error is close to zero by chance
    logs: NDArray[Any] = np.log(error**2 + 1e-3 * variance[:, None])
    return logs


def _polynomials(leading: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Monomials up to third and up to second degree, the constant first."""
    # an array, also if scikit-learn's transform_output is "pandas" or "polars"
    cubic = PolynomialFeatures(3).set_output(transform="default").fit_transform(leading)
    return cubic, cubic[:, : comb(leading.shape[1] + 2, 2)]
