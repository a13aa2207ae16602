"""Fits to magnitudes: the noncentral chi likelihood, by expectation and maximisation."""

from __future__ import annotations

import numpy as np

from corrsk.physics import magnitude_log_likelihood, magnitude_mean
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._varpro import Fit, levenberg_marquardt

_N_ROUNDS = 4
_LEAST_VARIANCE = 1e-14
_STEPS = 8  # of each round; the next round changes the signals anyway


def fit_magnitudes(
    model: KernelModel,
    magnitudes: Array,
    fit: Fit,
    n_fitted: int,
    *,
    variance: Array | None = None,
    n_coils: int = 1,
    max_steps: int,
    tol: float,
) -> tuple[Array, Fit]:
    """Improve fits of signed signals to fits of magnitudes.

    Parameters
    ----------
    model : KernelModel
        Kernels of the protocol.
    magnitudes : ndarray of shape (V, N)
        Magnitudes with norm 1.
    fit : Fit
        Fits to the magnitudes with some signs.
    n_fitted : int
        Number of parameters of a fit.
    variance : ndarray of shape (V,), optional
        First estimate of the noise variance; None (default) for that of the residuals.
    n_coils : int, default=1
        Number of coils whose magnitudes are combined; 1 is Rician noise.
    max_steps, tol : int and float
        See :func:`levenberg_marquardt`.

    Returns
    -------
    signed : ndarray of shape (V, N)
        Expected real parts of the magnitudes under the fits.
    fit : Fit
        Fits, whose `rss` are the residuals from the expected magnitudes.

    Notes
    -----
    The likelihood of Rice (Gudbjartsson and Patz, Magn. Reson. Med. 34, 910 (1995)), of several
    coils the noncentral chi likelihood (Constantinides, Atalar and McVeigh, Magn. Reson. Med. 38,
    852 (1997)), with the phases as the missing quantities of expectation and maximisation
    (Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1 (1977)). The noise variance is that of the
    residuals.
    """
    N = magnitudes.shape[1]
    freedom = max(N - n_fitted, 1)
    signed, best = _expected(model, magnitudes, fit, freedom, variance, n_coils)
    for _ in range(_N_ROUNDS):
        tried = levenberg_marquardt(
            model, signed, best.theta, max_steps=min(max_steps, _STEPS), tol=tol
        )
        signed_after, tried = _expected(model, magnitudes, tried, freedom, variance, n_coils)
        better = tried.rss < best.rss
        if not better.any():
            break
        signed = np.where(better[:, None], signed_after, signed)
        best = Fit(
            np.where(better[:, None, None], tried.theta, best.theta),
            np.where(better[:, None], tried.amplitudes, best.amplitudes),
            np.where(better, tried.rss, best.rss),
        )
    return signed, best


def _expected(
    model: KernelModel,
    magnitudes: Array,
    fit: Fit,
    freedom: int,
    variance: Array | None,
    n_coils: int,
) -> tuple[Array, Fit]:
    """Expected real parts under fits, and the fits with residuals from expected magnitudes."""
    signals = model.signals(model.factors(fit.theta), fit.amplitudes)
    size = np.abs(signals)
    if variance is None:
        variance = ((magnitudes - size) ** 2).sum(axis=1) / freedom
    sigma = np.sqrt(np.maximum(variance, _LEAST_VARIANCE))
    rss = ((magnitudes - magnitude_mean(size, sigma, n_coils)) ** 2).sum(axis=1)
    variance = np.maximum(rss / freedom, _LEAST_VARIANCE)
    _, slope = magnitude_log_likelihood(
        magnitudes, size, np.sqrt(variance), n_coils, derivative=True
    )
    signs = np.where(signals < 0, -1.0, 1.0)
    return signs * (size + variance[:, None] * slope), fit._replace(rss=rss)


def without_floor(magnitudes: Array, variance: Array, n_coils: int) -> Array:
    """Magnitudes (V, N) less the mean square of noise of variance (V,) in each channel.

    Gudbjartsson and Patz, Magn. Reson. Med. 34, 910 (1995), for several coils.
    """
    floor = 2 * n_coils * variance[:, None]
    return np.asarray(np.sqrt(np.maximum(magnitudes**2 - floor, 0.0)))
