"""Distribution of magnitudes: the noncentral chi distribution, Rician for one coil.

A magnitude is the root of the sum of squares of the real and imaginary parts of n coils, all with
Gaussian noise of standard deviation sigma. Its density (Constantinides, Atalar and McVeigh, Magn.
Reson. Med. 38, 852 (1997)) has modified Bessel functions, which need 100 ns and more per value and
which few array libraries have. Their scaled forms are smooth functions of
``t = alpha / sqrt(alpha^2 + z^2)`` between 0 and 1, for an alpha near the order. Polynomials of
degree 12 in t are exact to 1e-7 for every argument; their coefficients follow from scipy's
functions at the Chebyshev nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from operator import index
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.special import hyp1f1, ive, poch

from corrsk.physics._arrays import NUMPY, Array, promote

_DEGREE = 12
_MOST_COILS = 32  # scipy's functions overflow from about 50 on
_PIECE = 2**14  # values at a time in numpy: the intermediate arrays stay in the cache


def checked_coils(n_coils: Any, noise_distribution: str = "rician") -> int:
    """Return a number of coils as an int.

    Parameters
    ----------
    n_coils : int
        Number of coils.
    noise_distribution : {"gaussian", "rician"}, default="rician"
        Distribution of the noise of one coil.

    Returns
    -------
    int
        The number.

    Raises
    ------
    ValueError
        If it is not an integer from 1 to 32, or there are several coils without magnitudes.
    """
    try:
        number = index(n_coils)
    except TypeError:
        number = 0
    if isinstance(n_coils, (bool, np.bool_)) or not 1 <= number <= _MOST_COILS:
        raise ValueError(f"n_coils must be an integer from 1 to {_MOST_COILS}, got {n_coils!r}")
    if number > 1 and noise_distribution != "rician":
        raise ValueError(
            f"n_coils={number} needs noise_distribution='rician', the magnitudes of the coils; "
            f"got {noise_distribution!r}"
        )
    return number


def magnitude_mean(
    signals: Array, sigma: Array, n_coils: int = 1, *, derivative: bool = False
) -> Any:
    """Expected magnitude of signals with noise.

    Parameters
    ----------
    signals : array of shape (..., n_measurements)
        Signals without noise, combined from all coils; the sign has no effect.
    sigma : float or array of shape (...)
        Standard deviation of the noise of each channel (real or imaginary part of a coil).
    n_coils : int, default=1
        Number of coils; 1 is Rician noise.
    derivative : bool, default=False
        Whether to return the derivative with respect to the signals as well.

    Returns
    -------
    mean : array of the shape of the signals
        ``sigma sqrt(2) Gamma(n + 1/2) / Gamma(n) 1F1(-1/2; n; -S^2 / (2 sigma^2))``, with a
        relative error below 1e-6: ``sigma sqrt(pi / 2)`` for one coil without signal, and about
        ``S + (2 n - 1) sigma^2 / (2 S)`` for strong signals.
    derivative : array of the shape of the signals
        Only with `derivative`.

    Raises
    ------
    ValueError
        If `n_coils` is not an integer from 1 to 32.

    Notes
    -----
    Koay and Basser, J. Magn. Reson. 179, 317 (2006); Gudbjartsson and Patz, Magn. Reson. Med. 34,
    910 (1995) for one coil.

    Examples
    --------
    >>> import numpy as np
    >>> from corrsk.physics import magnitude_mean
    >>> magnitude_mean(np.array([[0.0, 1.0, 10.0]]), 1.0).round(3)
    array([[ 1.253,  1.549, 10.05 ]])
    """
    n = checked_coils(n_coils)
    xp, signals, sigma = promote(signals, sigma)
    results = _in_pieces(xp, partial(_mean, n, derivative), sigma, signals)
    return results if derivative else results[0]


def magnitude_log_likelihood(
    measured: Array, signals: Array, sigma: Array, n_coils: int = 1, *, derivative: bool = False
) -> Any:
    """Logarithm of the probability density of measured magnitudes.

    Parameters
    ----------
    measured : array of shape (..., n_measurements)
        Measured magnitudes.
    signals : array of shape (..., n_measurements)
        Signals without noise, combined from all coils; the sign has no effect.
    sigma : float or array of shape (...)
        Standard deviation of the noise of each channel (real or imaginary part of a coil),
        greater than 0.
    n_coils : int, default=1
        Number of coils; 1 is Rician noise.
    derivative : bool, default=False
        Whether to return the derivative with respect to the signals as well.

    Returns
    -------
    log_likelihood : array of the shape of the signals
        Logarithm of the density of each magnitude, with an error below 1e-6 (and the rounding
        error); minus infinity for magnitudes that are not positive.
    derivative : array of the shape of the signals
        ``(m R(m S / sigma^2) - S) / sigma^2`` with the ratio ``R = I_n / I_(n-1)`` of modified
        Bessel functions, which has an error below 1e-6. Only with `derivative`.

    Raises
    ------
    ValueError
        If `n_coils` is not an integer from 1 to 32.

    Notes
    -----
    The density is ``(S / sigma^2) (m / S)^n exp(-(m^2 + S^2) / (2 sigma^2)) I_(n-1)(m S /
    sigma^2)``: Constantinides, Atalar and McVeigh, Magn. Reson. Med. 38, 852 (1997); Gudbjartsson
    and Patz, Magn. Reson. Med. 34, 910 (1995) for one coil. By the expectation-maximisation
    algorithm, a least-squares fit to ``S + sigma^2 derivative = m R(m S / sigma^2)`` in place of m,
    repeated, never decreases the likelihood.

    Examples
    --------
    >>> import numpy as np
    >>> from corrsk.physics import magnitude_log_likelihood
    >>> magnitude_log_likelihood(np.array([[1.0, 2.0]]), np.array([[0.5, 1.9]]), 0.1).round(3)
    array([[-10.767,   0.91 ]])
    """
    n = checked_coils(n_coils)
    xp, measured, signals, sigma = promote(measured, signals, sigma)
    results = _in_pieces(xp, partial(_log_likelihood, n, derivative), sigma, signals, measured)
    return results if derivative else results[0]


def _mean(n: int, derivative: bool, xp: Any, sigma: Array, signals: Array) -> tuple[Array, ...]:
    alpha2, share, slope = _polynomials_of_mean(n)
    a = signals / sigma
    w2 = a * a + alpha2
    w = xp.sqrt(w2)
    t2 = alpha2 / w2
    mean = sigma * w * _polynomial(share, t2)
    return (mean, a / w * _polynomial(slope, t2)) if derivative else (mean,)


def _log_likelihood(
    n: int, derivative: bool, xp: Any, sigma: Array, signals: Array, measured: Array
) -> tuple[Array, ...]:
    alpha, of_log, of_ratio = _polynomials_of_bessel(n)
    u, a = measured / sigma, xp.abs(signals) / sigma
    z = u * a
    s = xp.sqrt(z * z + alpha * alpha)
    t = alpha / s
    # log(I_(n-1)(z) / z^(n-1)) = s - (n - 1/2) log s - log(2 pi) / 2 + t P(t), and with
    # (u - a)^2 / 2 in place of u^2 and a^2, z is subtracted: s - z = alpha^2 / (s + z)
    gap = u - a
    log_density = (
        (n - 0.5) * xp.log(xp.where(u > 0, u * u, xp.zeros_like(u)) / s)
        + t * (_polynomial(of_log, t) + alpha / (1 + z / s))
        - 0.5 * gap * gap
        - (xp.log(sigma) + 0.5 * math.log(2 * math.pi))
    )
    if not derivative:
        return (log_density,)
    # R = z / (s + n - 1/2) (1 + t^2 Q(t))
    ratio = z / (s + (n - 0.5)) * (1 + t * t * _polynomial(of_ratio, t))
    return log_density, xp.sign(signals) * (u * ratio - a) / sigma


def _in_pieces(
    xp: Any, function: Callable[..., tuple[Array, ...]], sigma: Array, *arrays: Array
) -> tuple[Array, ...]:
    """Apply a function of (xp, sigma, *arrays), to pieces of large numpy arrays."""
    sigma = xp.astype(sigma, arrays[0].dtype)
    if sigma.ndim:
        sigma = sigma[..., None]
    arrays = tuple(xp.broadcast_arrays(*arrays)) if len(arrays) > 1 else arrays
    size = math.prod(arrays[0].shape)
    # a logarithm of 0 is minus infinity, as it should be
    with np.errstate(divide="ignore"):
        if xp is not NUMPY or size <= _PIECE or arrays[0].ndim < 2:
            return function(xp, sigma, *arrays)
        shape = arrays[0].shape
        if sigma.ndim:
            sigma = np.broadcast_to(sigma, (*shape[:-1], 1)).reshape(-1, 1)
        arrays = tuple(array.reshape(-1, shape[-1]) for array in arrays)
        step = max(1, _PIECE // shape[-1])
        results: list[Array] = []
        for start in range(0, len(arrays[0]), step):
            rows = slice(start, start + step)
            of_rows = sigma[rows] if sigma.ndim else sigma
            pieces = function(xp, of_rows, *(array[rows] for array in arrays))
            results = results or [np.empty(arrays[0].shape, piece.dtype) for piece in pieces]
            for result, piece in zip(results, pieces, strict=True):
                result[rows] = piece
        return tuple(result.reshape(shape) for result in results)


def _polynomial(coefficients: Sequence[float], t: Array) -> Array:
    """Value of a polynomial by Horner's rule; its coefficients descend."""
    value = coefficients[0] * t + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * t + coefficient
    return value


def _fitted(nodes: NDArray[np.float64], values: NDArray[np.float64]) -> list[float]:
    """Descending coefficients of the polynomial of t through values at (nodes + 1) / 2."""
    in_nodes = chebyshev.cheb2poly(chebyshev.chebfit(nodes, values, len(nodes) - 1))
    polynomial = np.polynomial.Polynomial(in_nodes)(np.polynomial.Polynomial([-1.0, 2.0]))
    return [float(value) for value in polynomial.coef[::-1]]


@lru_cache(maxsize=_MOST_COILS)
def _polynomials_of_bessel(n: int) -> tuple[float, list[float], list[float]]:
    """Return alpha, and the polynomials P (of log I) and Q (of the ratio) for n coils."""
    alpha = n + 2.0  # best, or nearly so, for every n
    nodes = chebyshev.chebpts1(_DEGREE + 1)
    t = (nodes + 1) / 2
    s = alpha / t
    z = s * np.sqrt((1 - t) * (1 + t))
    scaled = ive(n - 1, z)
    log = np.log(scaled) - (n - 1) * np.log(z) + (z - s)
    of_log = (log + (n - 0.5) * np.log(s) + 0.5 * math.log(2 * math.pi)) / t
    of_ratio = (ive(n, z) / scaled * (s + n - 0.5) / z - 1) / t**2
    return alpha, _fitted(nodes, of_log), _fitted(nodes, of_ratio)


@lru_cache(maxsize=_MOST_COILS)
def _polynomials_of_mean(n: int) -> tuple[float, list[float], list[float]]:
    """Return alpha^2, and the polynomials of the mean and of its derivative in t^2.

    The mean over w, and the derivative times w / S, are close to 1 for
    ``w^2 = S^2 + alpha^2 = alpha^2 / t^2``, with signals in units of sigma.
    """
    alpha2 = 2 * n + 10.0
    nodes = chebyshev.chebpts1(_DEGREE + 1)
    t2 = (nodes + 1) / 2
    w2 = alpha2 / t2
    x, w = (w2 - alpha2) / 2, np.sqrt(w2)
    factor = math.sqrt(2) * poch(n, 0.5)
    mean = factor * hyp1f1(-0.5, n, -x)
    slope = factor / (2 * n) * hyp1f1(0.5, n + 1, -x)  # over S
    # with the constant term 1, so that strong signals are exact
    return (
        alpha2,
        [*_fitted(nodes, (mean / w - 1) / t2), 1.0],
        [*_fitted(nodes, (slope * w - 1) / t2), 1.0],
    )
