"""Noise, and the norms of signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from corrsk.physics._arrays import NUMPY, Array, promote

NOISE_REFERENCES = ("m0", "max", "rms", "first")
NOISE_DISTRIBUTIONS = ("gaussian", "rician")
NORMS = ("l2", "rms", "max")


def noise_sigma(signals: Array, noise_level: Array, noise_reference: str = "m0") -> Array:
    """Standard deviation of the noise of each signal.

    Parameters
    ----------
    signals : array of shape (n_samples, n_measurements)
        Noise-free signals for M0 = 1.
    noise_level : float or array of shape (n_samples,)
        Noise level as a fraction: 0.01 is the paper's "1 %".
    noise_reference : {"m0", "max", "rms", "first"}
        Reference of the noise level: M0 (which is 1), the largest absolute
        value of the signal, the root mean square of the signal, or the absolute value of the
        first measurement (in grid order: of an echo train the first echo, which need not be the
        largest).

    Returns
    -------
    array of shape (n_samples,)
        Standard deviations.

    Raises
    ------
    ValueError
        If `noise_reference` is invalid.
    """
    xp, signals, noise_level = promote(signals, noise_level)
    level = xp.astype(noise_level, signals.dtype)
    if noise_reference == "m0":
        return xp.broadcast_to(level, signals.shape[:1])
    if noise_reference in ("max", "rms"):
        return level * signal_norm(signals, noise_reference)
    if noise_reference == "first":
        return level * xp.abs(signals[:, 0])
    raise ValueError(f"noise_reference must be one of {NOISE_REFERENCES}, got {noise_reference!r}")


def add_gaussian_noise(
    signals: Array, sigma: Array, normals: Array, *, overwrite_normals: bool = False
) -> Array:
    """Add Gaussian noise, the noise of phased, real-valued signals.

    Parameters
    ----------
    signals : array of shape (n_samples, n_measurements)
        Signals.
    sigma : array of shape (n_samples,)
        Standard deviations, from :func:`noise_sigma`.
    normals : array of shape (n_samples, n_measurements)
        Standard normal draws z.
    overwrite_normals : bool, default=False
        Whether to store the result in `normals`, which saves memory.

    Returns
    -------
    array of shape (n_samples, n_measurements)
        ``S + sigma z``.
    """
    if not overwrite_normals:
        return signals + sigma[:, None] * normals
    normals *= sigma[:, None]
    normals += signals
    return normals


def add_rician_noise(signals: Array, sigma: Array, real: Array, imaginary: Array) -> Array:
    """Add Rician noise, the noise of magnitude images.

    Parameters
    ----------
    signals : array of shape (n_samples, n_measurements)
        Signals.
    sigma : array of shape (n_samples,)
        Standard deviations of the noise of each channel, from :func:`noise_sigma`.
    real, imaginary : array of shape (n_samples, n_measurements)
        Standard normal draws z1 and z2 of the two channels.

    Returns
    -------
    array of shape (n_samples, n_measurements)
        ``sqrt((S + sigma z1)^2 + (sigma z2)^2)``. The result is never negative: the sign of
        inversion recovery is lost.

    Notes
    -----
    Gudbjartsson and Patz, Magn. Reson. Med. 34, 910 (1995).
    """
    return add_noncentral_chi_noise(signals, sigma, real, imaginary)


def add_noncentral_chi_noise(signals: Array, sigma: Array, real: Array, others: Array) -> Array:
    """Add noncentral chi noise, the noise of magnitudes of several coils (sum of squares).

    Parameters
    ----------
    signals : array of shape (n_samples, n_measurements)
        Signals S, combined from all coils: the root of the sum of squares of their signals.
    sigma : array of shape (n_samples,)
        Standard deviations of the noise of each channel (real or imaginary part of a coil), from
        :func:`noise_sigma`.
    real : array of shape (n_samples, n_measurements)
        Standard normal draws z of the channel that has the signal. Any direction in the space of
        the 2 n channels may have it, since the noise is the same in each direction.
    others : array of shape (n_samples, n_measurements)
        Root of the sum of squares of standard normal draws of the other 2 n - 1 channels.

    Returns
    -------
    array of shape (n_samples, n_measurements)
        ``sqrt((S + sigma z)^2 + (sigma others)^2)``, never negative.

    Notes
    -----
    Constantinides, Atalar and McVeigh, Magn. Reson. Med. 38, 852 (1997). The number n is that of
    coils without correlation of their noise; correlated coils act as fewer.

    Examples
    --------
    >>> import numpy as np
    >>> from corrsk.physics import add_noncentral_chi_noise
    >>> rng, n_coils = np.random.default_rng(0), 4
    >>> real, *others = rng.standard_normal((2 * n_coils, 1, 3))
    >>> others = np.linalg.norm(others, axis=0)
    >>> add_noncentral_chi_noise(np.zeros((1, 3)), np.array([0.1]), real, others).round(2)
    array([[0.34, 0.19, 0.17]])
    """
    xp, signals = promote(signals)
    return xp.hypot(signals + sigma[:, None] * real, sigma[:, None] * others)


def draw_other_channels(draw: Callable[[], Array], n_coils: int) -> Array:
    """Draw the noise of all channels but one, for :func:`add_noncentral_chi_noise`.

    Parameters
    ----------
    draw : callable
        Function that returns an array of new standard normal draws.
    n_coils : int
        Number of coils.

    Returns
    -------
    array of the shape of the draws
        Root of the sum of squares of the 2 n_coils - 1 channels; for one coil the draw itself,
        whose sign has no effect.
    """
    others = draw()
    if n_coils == 1:
        return others
    others = others * others
    for _ in range(2 * n_coils - 2):
        channel = draw()
        channel *= channel
        others += channel
    others **= 0.5
    return others


def signal_norm(signals: Array, norm: str = "l2") -> Array:
    """Norm of each signal.

    Parameters
    ----------
    signals : array of shape (n_samples, n_measurements)
        Signals.
    norm : {"l2", "rms", "max"}
        2-norm, root mean square (the 2-norm over sqrt(n_measurements)), or largest absolute
        value.

    Returns
    -------
    array of shape (n_samples,)
        Norms.

    Raises
    ------
    ValueError
        If `norm` is invalid.
    """
    xp, signals = promote(signals)
    norms = _norm(xp, signals, norm)
    scale = _scale_of_extreme(xp, signals, norms)
    if scale is None:
        return norms
    return scale * _norm(xp, signals / scale[..., None], norm)


def normalize_signals(
    signals: Array, norm: str = "l2", *, overwrite_signals: bool = False
) -> Array:
    """Divide each signal by its norm; a signal that is all zero stays zero.

    Parameters
    ----------
    signals : array of shape (n_samples, n_measurements)
        Signals.
    norm : {"l2", "rms", "max"}
        See :func:`signal_norm`. The paper uses "l2".
    overwrite_signals : bool, default=False
        Whether to store the result in `signals`, which saves memory.

    Returns
    -------
    array of shape (n_samples, n_measurements)
        Normalised signals.
    """
    xp, signals = promote(signals)
    norms = _norm(xp, signals, norm)
    scale = _scale_of_extreme(xp, signals, norms)
    if scale is not None:
        if overwrite_signals:
            signals /= scale[..., None]
        else:
            signals = signals / scale[..., None]
        norms = _norm(xp, signals, norm)
    norms = xp.where(norms > 0, norms, xp.ones_like(norms))[..., None]
    if not overwrite_signals:
        return signals / norms
    signals /= norms
    return signals


def _norm(xp: Any, signals: Array, norm: str) -> Array:
    if norm == "max":
        return xp.max(xp.abs(signals), axis=-1)
    if norm in ("l2", "rms"):
        # vecdot squares and sums in a single pass; this sum is a bottleneck of the simulation
        with np.errstate(over="ignore", under="ignore"):
            squared = xp.linalg.vecdot(signals, signals)
        return xp.sqrt(squared if norm == "l2" else squared / signals.shape[-1])
    raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")


def _scale_of_extreme(xp: Any, signals: Array, norms: Array) -> Array | None:
    """Divisor of each signal: 1, or the largest value where squares over- or underflow.

    None if no signal needs one. Arrays on a GPU always get the divisors, because a decision would
    wait for the GPU.
    """
    limits = xp.finfo(signals.dtype)
    # below, squares that are too small for full precision would contribute to the sum
    smallest = float(limits.smallest_normal / limits.eps) ** 0.5
    ordinary = (norms >= smallest) & (norms <= float(limits.max))
    if xp is NUMPY and ordinary.all():
        return None
    largest = xp.max(xp.abs(signals), axis=-1)
    # zero, NaN and infinite signals stay as they are
    possible = (largest > 0) & (largest <= float(limits.max))
    return xp.where(~ordinary & possible, largest, xp.ones_like(largest))
