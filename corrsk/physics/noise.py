"""Noise, and the norms that signals are divided by."""

from __future__ import annotations

from corrsk.physics._arrays import Array, promote

NOISE_REFERENCES = ("m0", "max", "rms")
NOISE_DISTRIBUTIONS = ("gaussian", "rician")
NORMS = ("l2", "rms", "max")


def noise_sigma(signals: Array, noise_level: Array, noise_reference: str = "m0") -> Array:
    """Standard deviation of the noise of each signal.

    Parameters
    ----------
    signals : array of shape (n, N)
        Noise-free signals for M0 = 1.
    noise_level : float or array of shape (n,)
        Noise level as a fraction: 0.01 is the paper's "1 %".
    noise_reference : {"m0", "max", "rms"}
        What the level is relative to: M0 (that is 1), the largest absolute
        value of the signal, or its root mean square.

    Returns
    -------
    array of shape (n,)

    Raises
    ------
    ValueError
        If `noise_reference` is not one of the three.
    """
    xp, signals, noise_level = promote(signals, noise_level)
    level = xp.astype(noise_level, signals.dtype)
    if noise_reference == "m0":
        return xp.broadcast_to(level, signals.shape[:1])
    if noise_reference in ("max", "rms"):
        return level * signal_norm(signals, noise_reference)
    raise ValueError(f"noise_reference must be one of {NOISE_REFERENCES}, got {noise_reference!r}")


def add_gaussian_noise(
    signals: Array, sigma: Array, normals: Array, *, overwrite_normals: bool = False
) -> Array:
    """``S + sigma z``: noise of a phased, real-valued signal.

    Parameters
    ----------
    signals, normals : array of shape (n, N)
        Signals, and standard normal draws.
    sigma : array of shape (n,)
        Standard deviations, from :func:`noise_sigma`.
    overwrite_normals : bool, default=False
        Whether the result may take the place of `normals`, which saves memory.

    Returns
    -------
    array of shape (n, N)
    """
    if not overwrite_normals:
        return signals + sigma[:, None] * normals
    normals *= sigma[:, None]
    normals += signals
    return normals


def add_rician_noise(signals: Array, sigma: Array, real: Array, imaginary: Array) -> Array:
    """``sqrt((S + sigma z1)^2 + (sigma z2)^2)``: noise of a magnitude image.

    Gudbjartsson and Patz, Magn. Reson. Med. 34, 910 (1995). Parameters as in
    :func:`add_gaussian_noise`, with one set of normal draws per channel. The
    result is never negative: the sign of inversion recovery is lost.
    """
    xp, signals = promote(signals)
    return xp.hypot(signals + sigma[:, None] * real, sigma[:, None] * imaginary)


def signal_norm(signals: Array, norm: str = "l2") -> Array:
    """Norm of each signal.

    Parameters
    ----------
    signals : array of shape (n, N)
    norm : {"l2", "rms", "max"}
        2-norm, root mean square (the 2-norm over sqrt(N)), or largest absolute
        value.

    Returns
    -------
    array of shape (n,)

    Raises
    ------
    ValueError
        If `norm` is not one of the three.
    """
    xp, signals = promote(signals)
    if norm == "max":
        return xp.max(xp.abs(signals), axis=-1)
    if norm in ("l2", "rms"):
        # vecdot squares and sums in one pass, which is what simulation waits for
        squared = xp.linalg.vecdot(signals, signals)
        return xp.sqrt(squared if norm == "l2" else squared / signals.shape[-1])
    raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")


def normalize_signals(
    signals: Array, norm: str = "l2", *, overwrite_signals: bool = False
) -> Array:
    """Divide each signal by its norm; a signal that is all zero stays zero.

    Parameters
    ----------
    signals : array of shape (n, N)
    norm : {"l2", "rms", "max"}
        See :func:`signal_norm`. The paper's is "l2".
    overwrite_signals : bool, default=False
        Whether the result may take the place of `signals`, which saves memory.

    Returns
    -------
    array of shape (n, N)
    """
    xp, signals = promote(signals)
    norms = signal_norm(signals, norm)
    norms = xp.where(norms > 0, norms, xp.ones_like(norms))[..., None]
    if not overwrite_signals:
        return signals / norms
    signals /= norms
    return signals
