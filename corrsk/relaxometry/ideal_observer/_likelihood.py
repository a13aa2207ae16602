"""Likelihood of a signal as a function of inner products with the noise-free signal."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from corrsk.physics.noise_levels import NoiseLevels, SNRRange, checked_noise_levels
from corrsk.relaxometry.ideal_observer._radial import RadialTables

Array = NDArray[np.float64]

_LOG_2PI = math.log(2 * math.pi)
_FEW_LEVELS = 16  # up to this number the mean over the levels of normalised signals is a sum
# nodes of the integral over the norm, and their distance in standard deviations of its logarithm
_NODES, _DISTANCE = np.arange(-5.0, 6.0), 0.9
_STRONG = 2.0  # least norm of a signal over that of its noise, with which the nodes suffice
_SPACING = 0.002  # of the table in the logarithm of the misfit: the error is below 5e-5
# bounds of the squared noise reference of signals with M0 = 1; only proposals depend on the bounds
_SQUARED_REFERENCE = {"m0": (1.0, 1.0), "max": (0.1, 1.0), "rms": (0.02, 1.0)}
OBSERVED_REFERENCES = tuple(_SQUARED_REFERENCE)


def noise_nodes(noise_level: NoiseLevels, n_measurements: int) -> tuple[Array, Array]:
    """Noise levels and the logarithms of their prior weights.

    For a range of signal-to-noise ratios s, uniform in s or log s, the levels 1 / s are
    the nodes of a Gauss-Legendre rule in log s. The likelihood has a peak in
    log s of width ``1 / sqrt(2 N)``; the rule has at least two nodes per width.

    Parameters
    ----------
    noise_level : float, sequence of float or SNRRange
        Noise level, several levels, or a range.
    n_measurements : int
        Number of measurements N.

    Returns
    -------
    levels, log_weights : ndarray of shape (J,)
        Levels and log weights.

    Raises
    ------
    ValueError
        If a level is not above 0: the likelihood is undefined without noise.
    """
    levels = checked_noise_levels(noise_level)
    if isinstance(levels, SNRRange):
        if levels.low == levels.high:
            return np.array([1.0 / levels.low]), np.zeros(1)
        low, high = math.log(levels.low), math.log(levels.high)
        widths = (high - low) * math.sqrt(2 * n_measurements)
        x, w = np.polynomial.legendre.leggauss(12 + math.ceil(2 * widths))
        log_s = low + (high - low) * (x + 1) / 2
        # uniform in s: ds = s d(log s)
        weights = w * np.exp(log_s) if levels.scale == "linear" else w
        return np.exp(-log_s), np.log(weights / weights.sum())
    if not (levels > 0).all():
        raise ValueError(
            "the ideal observer requires noise: every noise_level must be above 0, got "
            f"{noise_level!r}"
        )
    return levels, np.full(levels.size, -math.log(levels.size))


class NoiseModel:
    """Gaussian noise, marginalised over the noise levels.

    Parameters
    ----------
    noise_level : float, sequence of float or SNRRange
        One level, several equally likely levels, or a range of equally likely
        signal-to-noise ratios.
    noise_reference : {"m0", "max", "rms"}
        Reference of the noise level; see :func:`corrsk.physics.noise_sigma`.
    normalize : bool
        Whether signals were divided by their 2-norm after the noise was added.
    n_measurements : int
        Number of measurements N.

    Notes
    -----
    With sigma = level x reference the likelihood depends on the noise-free
    signal S only through ``x . S``, ``|S|^2`` and the reference:

    - not normalised: ``(2 pi sigma^2)^(-N / 2) exp(-|x - S|^2 / (2 sigma^2))``, whose
      mean over the levels is a function of ``|x - S|^2 / reference^2``, tabulated;
    - normalised: see `log_radial_integral`; the mean over the levels is a sum. For many levels,
      such as the nodes of a range, of signals that are at least twice as large as their noise, the
      order is reversed: the mean over the levels of the density of the signal before the
      normalisation, a tabulated function of ``|r x - S|^2 / reference^2``, is integrated over the
      norm r with the trapezoidal rule in log r. Its error is below 5e-3 where S explains x, and
      larger for S with negligible likelihood.
    """

    def __init__(
        self,
        noise_level: NoiseLevels,
        noise_reference: str,
        normalize: bool,
        n_measurements: int,
    ) -> None:
        assert noise_reference in OBSERVED_REFERENCES
        self.reference, self.normalize = noise_reference, normalize
        self._N = n_measurements
        self._levels, self._log_weights = noise_nodes(noise_level, n_measurements)
        self._precisions = 0.5 / self._levels**2
        low, high = _SQUARED_REFERENCE[noise_reference]
        self._variances = (low * self._levels.min() ** 2, high * self._levels.max() ** 2)
        # smallest norm of S over that of the noise; of signals relative to M0 it has no bound
        smallest = {"m0": 0.0, "max": 1.0, "rms": math.sqrt(n_measurements)}[noise_reference]
        smallest /= self._levels.max() * math.sqrt(n_measurements)
        self._reversed = self._levels.size > _FEW_LEVELS and smallest >= _STRONG
        if normalize and not self._reversed:
            self._radial = RadialTables(self._levels, n_measurements)
        elif self._levels.size > 1:
            self._tabulate()

    def _tabulate(self) -> None:
        # without the term of the smallest precision the remainder converges for large misfits
        least = self._precisions.min()
        first = 1e-3 / self._precisions.max()  # offset of the misfit before its logarithm
        last = 100.0 * self._N / least
        y = np.arange(math.log(first), math.log(last), _SPACING)
        misfit = np.maximum(np.exp(y) - first, 0.0)[:, None]
        log_level = self._log_weights - self._N * np.log(self._levels)
        self._table = logsumexp(log_level - misfit * (self._precisions - least), axis=1)
        self._first, self._least, self._origin = first, least, float(y[0])

    def misfit(self, projection: Array, squared: Array, signal_squared: Array | float) -> Array:
        """Misfit ``|S|^2 - (x . S)^2`` of normalised signals, else ``|x - S|^2``; at least 0."""
        if self.normalize:
            misfit = squared - projection * projection
        else:
            misfit = squared - 2.0 * projection
            misfit += signal_squared
        return np.maximum(misfit, 0.0, out=misfit)

    def squared_reference(self, peak: Array, squared: Array) -> Array:
        """Squared noise reference (B,) of signals with peaks ``max |S|`` and squared norms (B,).

        The peaks may be empty unless they are the reference.
        """
        if self.reference == "m0":
            return np.ones_like(squared)
        if self.reference == "rms":
            return squared / self._N
        return np.maximum(peak * peak, 1e-12)

    @property
    def range_of_levels(self) -> tuple[float, float]:
        """Smallest and largest variance relative to the squared reference."""
        return float(self._levels.min() ** 2), float(self._levels.max() ** 2)

    def proposal_variance(self, misfit: Array, n_fitted: int) -> Array:
        """Estimate the noise variance from a least-squares misfit with `n_fitted` parameters.

        Only proposals depend on this estimate.
        """
        return np.clip(misfit / max(1, self._N - n_fitted), *self._variances)

    @property
    def smallest_variance(self) -> float:
        """Lower bound of :meth:`proposal_variance`."""
        return self._variances[0]

    @property
    def largest_variance(self) -> float:
        """Upper bound of :meth:`proposal_variance`."""
        return self._variances[1]

    def log_likelihood(
        self,
        projection: Array,
        squared: Array,
        signal_squared: Array | float,
        peak: Array | None = None,
    ) -> Array:
        """Logarithm of the probability density of signals x.

        Parameters
        ----------
        projection : ndarray
            Projection ``x . S``.
        squared : ndarray
            Squared norm ``|S|^2``, of the same shape.
        signal_squared : ndarray or float
            Squared norm ``|x|^2``; not used for normalised signals, whose norm is 1.
        peak : ndarray, optional
            Peak ``max |S|``, for the reference "max".

        Returns
        -------
        ndarray
            Log density; for normalised signals on the unit sphere.
        """
        misfit = self.misfit(projection, squared, signal_squared)
        constant = -0.5 * self._N * _LOG_2PI
        log_reference: Array | float = 0.0
        if self.reference != "m0":
            if self.reference == "rms":
                reference_squared = squared / self._N
            else:
                assert peak is not None
                reference_squared = peak * peak
            # without a signal the noise vanishes too, and the likelihood is undefined
            reference_squared = np.maximum(reference_squared, 1e-12)
            misfit /= reference_squared
            if self.normalize:
                projection = projection / np.sqrt(reference_squared)
            else:
                log_reference = 0.5 * self._N * np.log(reference_squared)
        if self.normalize:
            over = self._over_norms if self._reversed else self._over_levels
            return over(projection, misfit) + constant
        if self._levels.size == 1:
            constant -= self._N * math.log(self._levels[0])
            return constant - log_reference - self._precisions[0] * misfit
        return self._mean_over_levels(misfit) + (constant - log_reference)

    def _mean_over_levels(self, misfit: Array) -> Array:
        y = np.log(misfit + self._first)
        y -= self._origin
        y /= _SPACING
        np.clip(y, 0, self._table.size - 2, out=y)
        index = y.astype(np.intp)
        y -= index
        low = self._table.take(index)
        y *= self._table[1:].take(index) - low
        y += low
        y -= self._least * misfit
        return y

    def _over_levels(self, projection: Array, misfit: Array) -> Array:
        index, remainder = self._radial.positions(projection)
        terms = []
        for table, weight, precision in zip(
            self._radial.tables, self._log_weights, self._precisions, strict=True
        ):
            term = self._radial.look_up(table, index, remainder)
            term -= precision * misfit
            term += weight
            terms.append(term)
        if len(terms) == 1:
            return terms[0]
        return _log_sum(terms)

    def _over_norms(self, projection: Array, misfit: Array) -> Array:
        N = self._N
        # precision of the most probable level, and the norm r with the largest r^N exp(..)
        squared = np.maximum(misfit, 1e-300)
        np.divide(N, squared, out=squared)
        np.clip(squared, 2 * self._precisions.min(), 2 * self._precisions.max(), out=squared)
        r = np.sqrt(projection * projection + 4 * N / squared)
        # the form of the root of a quadratic equation without cancellation
        r = np.where(projection > 0, 0.5 * (projection + r), 2 * N / (squared * (r - projection)))
        step = _DISTANCE / np.sqrt(squared * r * r + N)
        log_r = np.log(r)
        terms = []
        for node in _NODES:
            v = log_r + node * step
            difference = np.exp(v)
            difference -= projection
            difference *= difference
            difference += misfit
            v *= N
            v += self._mean_over_levels(difference)
            terms.append(v)
        total = _log_sum(terms)
        total += np.log(step)
        return total


def _log_sum(terms: list[Array]) -> Array:
    """Logarithm of the sum of exponentials; overwrites the terms."""
    largest = terms[0].copy()
    for term in terms[1:]:
        np.maximum(largest, term, out=largest)
    total = np.zeros_like(largest)
    for term in terms:
        term -= largest
        total += np.exp(term, out=term)
    np.log(total, out=total)
    total += largest
    return total
