"""Density of a signal that was divided by its norm."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.special import logsumexp

Array = NDArray[np.float64]

_NODES = np.linspace(-5.0, 3.2, 165)
_SPACING = 0.02  # of the spline, in asinh(t / sqrt(N)): the error is below 1e-7
_FINE = 0.002  # of the tables, in this variable, for 64 measurements: the error is below 5e-5
_FARTHEST = 1e3  # largest |x . S| / (reference sqrt(N)) of the tables, far above 1


def log_radial_integral(t: ArrayLike, n_measurements: int) -> Array:
    """Logarithm of ``int_0^inf u^(N - 1) exp(-(u - t)^2 / 2) du``.

    A signal ``y ~ N(S, sigma^2 I)`` of N measurements has the direction
    ``x = y / |y|`` with the density ``int r^(N - 1) N(r x; S, sigma^2 I) dr`` on
    the unit sphere, which is ``(2 pi)^(-N / 2) exp(-(|S|^2 - (x . S)^2) / (2 sigma^2))``
    times this integral at ``t = x . S / sigma``.

    Parameters
    ----------
    t : array
        Shift of the normal distribution.
    n_measurements : int
        Number of measurements N.

    Returns
    -------
    ndarray of the shape of t
        Logarithms of the integral.

    Notes
    -----
    With u = exp(v) the integrand is smooth and decays on both sides, so that
    the trapezoidal rule converges faster than any power. The nodes are
    ``v = v0 + s sinh(xi)`` around the mode ``u0^2 - t u0 = N`` with
    ``s^-2 = u0^2 + N``, which covers the slow decay towards u = 0 for small N.
    """
    t = np.asarray(t, dtype=np.float64)[..., None]
    N = n_measurements
    root = np.sqrt(t * t + 4.0 * N)
    # the form of the root of a quadratic equation without cancellation
    mode = np.where(t > 0, 0.5 * (t + root), 2.0 * N / (root - t))
    width = 1.0 / np.sqrt(mode**2 + N)
    v = np.log(mode) + width * np.sinh(_NODES)
    # (u - t)^2 / 2 minus its value at the mode, without the difference of large numbers
    u = np.exp(v)
    exponent = N * (v - np.log(mode)) - 0.5 * (u - mode) * (u + mode - 2 * t)
    weights = np.log(width * np.cosh(_NODES) * (_NODES[1] - _NODES[0]))
    with np.errstate(under="ignore"):  # the ends of the integral vanish
        integral = logsumexp(exponent + weights, axis=-1)
    return np.asarray(integral + (N * np.log(mode) - 0.5 * (mode - t) ** 2)[..., 0])


class RadialTables:
    """Tables of :func:`log_radial_integral` at ``t = b / level`` for several noise levels.

    Parameters
    ----------
    levels : ndarray of shape (J,)
        Noise levels.
    n_measurements : int
        Number of measurements N.
    """

    def __init__(self, levels: Array, n_measurements: int) -> None:
        root = np.sqrt(n_measurements)
        # common variable of all levels: y = asinh(b / scale)
        self._scale = root * float(levels.min())
        last = np.arcsinh(_FARTHEST * root / self._scale)
        spacing = _FINE * min(1.0, np.sqrt(64 / n_measurements))
        half = int(np.ceil(last / spacing))
        self._per_unit, self._zero, self._last = 1.0 / spacing, half, 2 * half - 1
        b = self._scale * np.sinh(spacing * np.arange(-half, half + 1))
        knots = np.linspace(-last - 0.1, last + 0.1, int(2 * last / _SPACING) + 2)
        spline = CubicSpline(knots, log_radial_integral(root * np.sinh(knots), n_measurements))
        # the smallest level has the largest t, the end of the spline
        self.tables = [spline(np.arcsinh(b / level / root)) for level in levels]

    def positions(self, b: Array) -> tuple[NDArray[np.intp], Array]:
        """Positions of values b (any shape) in the tables: index and remainder."""
        y = np.arcsinh(b / self._scale)
        y *= self._per_unit
        y += self._zero
        np.clip(y, 0, self._last, out=y)
        index = y.astype(np.intp)
        y -= index
        return index, y

    def look_up(self, table: Array, index: NDArray[np.intp], remainder: Array) -> Array:
        """Interpolate a table linearly."""
        low = table.take(index)
        difference = table[1:].take(index)
        difference -= low
        difference *= remainder
        difference += low
        return difference
