"""Criteria that select the number of compartments of a fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from corrsk.relaxometry._kernels import Array

CRITERIA = ("bic", "aicc", "f-test")
# Squared rounding error of a signal of norm 1 in float32, the usual precision of signals. With
# smaller residuals a criterion would compare fits of rounding errors.
SMALLEST_RSS = float(np.finfo(np.float32).eps) ** 2


# Measurements beyond the fitted parameters that a criterion needs, itself included: an F-test one
# degree of freedom, BIC also one for the noise variance, AICc a positive N - k - 1.
_NEEDED = {"f-test": 1, "bic": 2, "aicc": 3}


def needed_measurements(n_fitted: NDArray[np.int64], criterion: str) -> NDArray[np.int64]:
    """Smallest number of measurements with which a criterion can select a fit.

    Parameters
    ----------
    n_fitted : ndarray of int
        Number of parameters of each fit, without the noise variance.
    criterion : {"bic", "aicc", "f-test"}
        Criterion.

    Returns
    -------
    ndarray of int
        Numbers of measurements.
    """
    return n_fitted + _NEEDED[criterion]


def information_criterion(
    rss: Array,
    n_measurements: int,
    n_parameters: NDArray[np.int64],
    criterion: str,
    squares: Array | float = 0.0,
    freedom: float = 0.0,
) -> Array:
    """BIC or AICc of least-squares fits with unknown noise variance.

    Parameters
    ----------
    rss : ndarray of shape (V, C)
        Residual sums of squares of C fits to each of V signals of norm 1.
    n_measurements : int
        Number of measurements N.
    n_parameters : ndarray of shape (C,)
        Number of parameters k of each fit, including the noise variance.
    criterion : {"bic", "aicc"}
        Bayesian or corrected Akaike information criterion.
    squares : ndarray of shape (V, 1) or float, default=0.0
        Sum of squares that a prior of the variance adds to the residuals.
    freedom : float, default=0.0
        Degrees of freedom of that prior, which add to the measurements as far as the variance is
        concerned.

    Returns
    -------
    ndarray of shape (V, C)
        ``N ln(RSS / N)`` plus ``k ln N`` (Schwarz, Ann. Stat. 6, 461 (1978)) or
        ``2 k + 2 k (k + 1) / (N - k - 1)`` (Hurvich and Tsai, Biometrika 76,
        297 (1989)), with the prior ``(N + freedom) ln((RSS + squares) / (N + freedom))`` and
        ``N + freedom`` in the second term of AICc. Infinite for fits with too many parameters for N
        measurements, except for the smallest fit.
    """
    N, k = n_measurements, n_parameters.astype(np.float64)
    enough = needed_measurements(n_parameters - 1, criterion) <= N
    total = N + freedom
    if criterion == "bic":
        penalty = k * np.log(N)
    else:
        penalty = 2 * k + 2 * k * (k + 1) / np.where(enough, total - k - 1, 1)
    penalty = np.where(enough | (k == k.min()), penalty, np.inf)
    return np.asarray(total * np.log((np.maximum(rss, SMALLEST_RSS) + squares) / total) + penalty)


def criterion_weights(values: Array) -> Array:
    """Weights ``exp(-delta / 2)``, normalised over the fits: (V, C) to (V, C).

    Burnham and Anderson, Model Selection and Multimodel Inference (2002). With
    BIC the weights approximate posterior probabilities under equal priors.
    """
    weights = np.exp(-0.5 * (values - values.min(axis=1, keepdims=True)))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def f_test_choice(
    rss: Array,
    n_measurements: int,
    n_parameters: NDArray[np.int64],
    alpha: float,
    squares: Array | float = 0.0,
    freedom: float = 0.0,
) -> NDArray[np.intp]:
    """Fit that a sequence of nested F-tests, from the smallest fit upwards, selects.

    Parameters
    ----------
    rss : ndarray of shape (V, C)
        Residual sums of squares of fits in ascending order of their numbers of parameters.
    n_measurements : int
        Number of measurements.
    n_parameters : ndarray of shape (C,)
        Number of parameters of each fit, without the noise variance.
    alpha : float
        Level of the tests: the next fit is selected if the F-test rejects the current fit.
    squares : ndarray of shape (V, 1) or float, default=0.0
        Sum of squares that a prior of the variance adds to the residuals.
    freedom : float, default=0.0
        Degrees of freedom of that prior, which add to those of the residuals.

    Returns
    -------
    ndarray of shape (V,)
        Index of the selected fit.

    Notes
    -----
    The F distribution is only approximate under the null hypothesis, since the properties of an
    additional compartment with amplitude 0 are undetermined.
    """
    rss = np.maximum(rss, SMALLEST_RSS) + squares
    chosen = np.zeros(len(rss), dtype=np.intp)
    going = np.isfinite(rss).all(axis=1)
    for index in range(1, rss.shape[1]):
        added = int(n_parameters[index] - n_parameters[index - 1])
        if needed_measurements(n_parameters[index], "f-test") > n_measurements:
            break
        spare = n_measurements - int(n_parameters[index]) + freedom
        decrease = np.maximum(rss[:, index - 1] - rss[:, index], 0.0)
        statistic = (decrease / added) / (rss[:, index] / spare)
        going = going & (fdtrc(added, spare, statistic) < alpha)
        chosen[going] = index
    return chosen
