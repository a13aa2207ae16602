"""Criteria that choose among fits of different size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from corrsk.relaxometry._kernels import Array

CRITERIA = ("bic", "aicc", "f-test")
# Of a signal of norm 1: what rounding it to float32, in which signals come, leaves behind.
# Smaller residuals would let a criterion choose among fits of rounding errors.
SMALLEST_RSS = float(np.finfo(np.float32).eps) ** 2


def information_criterion(
    rss: Array, n_measurements: int, n_parameters: NDArray[np.int64], criterion: str
) -> Array:
    """BIC or AICc of least-squares fits with unknown noise variance.

    Parameters
    ----------
    rss : ndarray of shape (V, C)
        Residual sums of squares of C fits to each of V signals of norm 1.
    n_measurements : int
        N.
    n_parameters : ndarray of shape (C,)
        Parameters k of each fit, the noise variance included.
    criterion : {"bic", "aicc"}

    Returns
    -------
    ndarray of shape (V, C)
        ``N ln(RSS / N)`` plus ``k ln N`` (Schwarz, Ann. Stat. 6, 461 (1978)) or
        ``2 k + 2 k (k + 1) / (N - k - 1)`` (Hurvich and Tsai, Biometrika 76,
        297 (1989)). Infinite where a fit has too many parameters for N
        measurements, unless it is the smallest of the C.
    """
    N, k = n_measurements, n_parameters.astype(np.float64)
    if criterion == "bic":
        spare = N - k
        penalty = k * np.log(N)
    else:
        spare = N - k - 1
        penalty = 2 * k + 2 * k * (k + 1) / np.where(spare > 0, spare, 1)
    penalty = np.where((spare > 0) | (k == k.min()), penalty, np.inf)
    return N * np.log(np.maximum(rss, SMALLEST_RSS) / N) + penalty


def criterion_weights(values: Array) -> Array:
    """``exp(-delta / 2)``, normalised over the fits: (V, C) to (V, C).

    Burnham and Anderson, Model Selection and Multimodel Inference (2002). With
    BIC they approximate posterior probabilities under equal priors.
    """
    weights = np.exp(-0.5 * (values - values.min(axis=1, keepdims=True)))
    return weights / weights.sum(axis=1, keepdims=True)


def f_test_choice(
    rss: Array, n_measurements: int, n_parameters: NDArray[np.int64], alpha: float
) -> NDArray[np.intp]:
    """The fit at which a chain of nested F-tests, upwards, stops.

    Parameters
    ----------
    rss : ndarray of shape (V, C)
        Of fits in ascending order of their parameters.
    n_measurements : int
    n_parameters : ndarray of shape (C,)
        Parameters of each fit, the noise variance not included.
    alpha : float
        The next fit is taken if the F-test rejects the present one at this level.

    Returns
    -------
    ndarray of shape (V,)
        Index of the chosen fit.

    Notes
    -----
    A further compartment of amplitude 0 leaves its times undetermined, so that
    F holds only roughly under the null hypothesis.
    """
    rss = np.maximum(rss, SMALLEST_RSS)
    chosen = np.zeros(len(rss), dtype=np.intp)
    going = np.isfinite(rss).all(axis=1)
    for index in range(1, rss.shape[1]):
        added = int(n_parameters[index] - n_parameters[index - 1])
        spare = n_measurements - int(n_parameters[index])
        if spare <= 0:
            break
        decrease = np.maximum(rss[:, index - 1] - rss[:, index], 0.0)
        statistic = (decrease / added) / (rss[:, index] / spare)
        going = going & (fdtrc(added, spare, statistic) < alpha)
        chosen[going] = index
    return chosen
