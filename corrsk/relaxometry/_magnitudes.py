"""Fits to magnitudes: the Rician likelihood, by expectation and maximisation."""

from __future__ import annotations

import numpy as np
from scipy.special import i0e, i1e

from corrsk.physics import magnitude_mean
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._varpro import Fit, levenberg_marquardt

_N_ROUNDS = 4
_STEPS = 8  # of each round; the next round changes the signals anyway


def fit_magnitudes(
    model: KernelModel, magnitudes: Array, fit: Fit, n_fitted: int, *, max_steps: int, tol: float
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
    The likelihood of Rice (Gudbjartsson and Patz, Magn. Reson. Med. 34, 910 (1995)) with the phase
    as the missing quantity of expectation and maximisation (Dempster, Laird and Rubin, J. R. Stat.
    Soc. B 39, 1 (1977)). The noise variance is that of the residuals.
    """
    N = magnitudes.shape[1]
    best = fit
    signed, best = _expected(model, magnitudes, best, max(N - n_fitted, 1))
    for _ in range(_N_ROUNDS):
        tried = levenberg_marquardt(
            model, signed, best.theta, max_steps=min(max_steps, _STEPS), tol=tol
        )
        signed_after, tried = _expected(model, magnitudes, tried, max(N - n_fitted, 1))
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


def _expected(model: KernelModel, magnitudes: Array, fit: Fit, freedom: int) -> tuple[Array, Fit]:
    """Expected real parts under fits, and the fits with residuals from expected magnitudes."""
    signals = model.signals(model.factors(fit.theta), fit.amplitudes)
    size = np.abs(signals)
    variance = np.maximum(((magnitudes - size) ** 2).sum(axis=1) / freedom, 1e-14)[:, None]
    expected = magnitude_mean(size, np.sqrt(variance[:, 0]))
    rss = ((magnitudes - expected) ** 2).sum(axis=1)
    variance = np.maximum(rss[:, None] / freedom, 1e-14)
    z = magnitudes * size / variance
    ratio = i1e(z) / i0e(z)
    signs = np.where(signals < 0, -1.0, 1.0)
    return signs * magnitudes * ratio, fit._replace(rss=rss)
