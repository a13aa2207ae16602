"""Noise of measured signals: from the misfit of all mixtures, background, or repeats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from corrsk import physics
from corrsk._utils.validation import as_numpy
from corrsk._utils.voxels import without_signal
from corrsk.acquisition.bounds import Bounds, checked_bounds
from corrsk.acquisition.labels import column_names, in_protocol_order, with_column_names
from corrsk.acquisition.nuisances import check_one_scale
from corrsk.acquisition.protocol import (
    AcquisitionProtocol,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.physics.magnitudes import checked_coils
from corrsk.physics.noise_levels import SNRRange
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._subspace import squares_outside

_MOST_VOXELS = 20_000  # evenly spaced ones of larger data
_N_JUDGED = 1000  # voxels for the distribution of M0, and with weak magnitudes
_MAX_CELLS = 576  # of the grid of tissue properties that stands for all mixtures
# Part of a signal outside the subspace, in standard deviations of the noise: a variance of 1 %
_LEAKAGE = 0.1
_CUTOFF = 1e-7  # singular values below this part of the largest are rounding errors
_LARGEST = 1e100  # value of a signal, whose square must not over- or underflow
_STRONG = 5.0  # SNR from which a magnitude has nearly Gaussian noise: its variance is 2 % smaller
_NEAR_ZERO = 0.02  # of the root mean square: the sign of smaller magnitudes is uncertain
_MOST_STEPS = 20  # of the choice of rank, measurements and sigma; a few are usual
_STRONG_SHARE = 0.6  # of the voxels with a strong signal, from which on a measurement is used
_QUANTILES = (0.05, 0.5, 0.95)


class Levels(NamedTuple):
    """Noise levels of the voxels, as fractions of a reference.

    Parameters
    ----------
    low, median, high : float
        5 %, 50 % and 95 % quantile over the voxels.
    """

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise of measured signals, by :func:`corrsk.estimate_noise`.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise in units of the signals; of magnitudes, that of the real
        and imaginary parts of each coil.
    method : {"residuals", "background", "repeats"}
        Origin of the estimate.
    noise_distribution : {"gaussian", "rician"}
        As passed; by default Gaussian if there are negative signals, otherwise Rician, the noise
        of magnitudes. The difference matters for signals within a few sigma of 0 only.
    n_voxels : int
        Number of voxels of the estimate.
    n_values : int
        Number of independent values of the estimate. The relative standard error of sigma is
        about ``1 / sqrt(2 n_values)``, and up to twice as large for robust estimates.
    levels : mapping of str to Levels
        Noise levels of the voxels by noise reference: "max", "rms" and, with a protocol, "m0".
    model_error : float
        Root mean square of the part of the signals, as a fraction of the largest signal of the
        voxel, that is neither a mixture of compartments nor noise, such as imperfect
        refocusing; 0 for estimates without a protocol.
    """

    sigma: float
    method: str
    noise_distribution: str
    n_voxels: int
    n_values: int
    levels: Mapping[str, Levels]
    model_error: float = 0.0

    @property
    def noise_level(self) -> float:
        """Median noise level as a fraction of :attr:`noise_reference`."""
        return self.levels[self.noise_reference].median

    @property
    def noise_reference(self) -> str:
        """Reference of :attr:`noise_level`: "m0", or "max" without a protocol."""
        return "m0" if "m0" in self.levels else "max"

    @property
    def snr(self) -> float:
        """Median of the largest signal of a voxel over sigma."""
        return 1 / self.levels["max"].median

    def snr_range(self, noise_reference: str = "max") -> SNRRange:
        """Range of the signal-to-noise ratios of nine tenths of the voxels.

        Parameters
        ----------
        noise_reference : {"m0", "max", "rms"}, default="max"
            Reference of the ratios: pass it to the generator, too.

        Returns
        -------
        SNRRange
            The range, for the noise level of :class:`corrsk.CorrelationSignalGenerator`.

        Raises
        ------
        ValueError
            If the estimate has no levels of this reference, or the ratios are below 1.
        """
        if noise_reference not in self.levels:
            raise ValueError(
                f"noise_reference must be one of {', '.join(self.levels)} for this estimate (m0 "
                f"needs a protocol), got {noise_reference!r}"
            )
        low, _, high = self.levels[noise_reference]
        return SNRRange(1 / high, 1 / low)

    def __str__(self) -> str:
        of = {"m0": "M0", "max": "the largest signal", "rms": "the root mean square signal"}
        lines = [
            f"sigma = {self.sigma:.4g} ({self.noise_distribution}; from {self.method}, "
            f"{self.n_voxels} voxels)"
        ]
        lines += [
            f"{100 * level.median:.3g} % of {of[name]} ({100 * level.low:.3g} to "
            f"{100 * level.high:.3g} % in nine tenths of the voxels)"
            for name, level in self.levels.items()
        ]
        if self.model_error > 0.5 * self.levels["max"].median:
            lines.append(
                f"{100 * self.model_error:.2g} % of the largest signal are neither noise nor a "
                "mixture of compartments: the signal model lacks something"
            )
        return "\n".join(lines)


def estimate_noise(
    X: Any,
    protocol: AcquisitionProtocol | str | None = None,
    *,
    mask: ArrayLike | None = None,
    background: ArrayLike | None = None,
    repeats: ArrayLike | None = None,
    bounds: Bounds = None,
    noise_distribution: str = "auto",
    n_coils: int = 1,
) -> NoiseEstimate:
    """Estimate the noise of measured signals.

    Parameters
    ----------
    X : array or DataFrame of shape (n_voxels, n_measurements) or (.., n_measurements)
        Signals, or a volume. Voxels of zeros or with NaN are left out.
    protocol : AcquisitionProtocol or str, optional
        Protocol of the columns, or its name; None (default) for that of the names of the columns,
        such as TI50_TE4.5, if any. Echo trains and an imperfect inversion need no entry.
    mask : array of bool, shape (n_voxels,) or (..), optional
        Voxels with signal to use; None (default) for all.
    background : array, optional
        Mask (bool) of voxels without signal, of the shape of `mask`; or measured values of such
        voxels, of any shape. If given, the noise is estimated from these.
    repeats : array of shape (n_measurements,), optional
        Label of each measurement; equal labels are repeats of the same measurement. If given, or
        if the protocol has repeats and there is no background, the noise is estimated from their
        differences.
    bounds : dict of str to (low, high), TissuePrior, str or None, default=None
        Ranges of T1, T2, .. in the tissue, or a prior; None (default) for what the protocol
        resolves. Narrower ranges leave more of the signals to noise, which protocols of
        few measurements need.
    noise_distribution : {"auto", "gaussian", "rician"}, default="auto"
        Gaussian for phased, signed signals; Rician for magnitudes.
    n_coils : int, default=1
        Number of coils of magnitudes (root of the sum of squares). Only a background needs it:
        strong signals of any number of coils have the same noise.

    Returns
    -------
    NoiseEstimate
        Standard deviation and noise levels, for the parameters of
        :class:`corrsk.CorrelationSignalGenerator`; :func:`corrsk.pretrained.model_advice` names
        the shipped model for it.

    Raises
    ------
    ValueError
        If neither a protocol, background nor repeats are given, the shapes differ, no voxel is
        left, the protocol has series of unknown relative scale, or it has too few measurements:
        every set of its values may be a mixture of compartments without noise. Magnitudes of an
        inversion recovery need more measurements than signed signals, whose signs are not lost.

    Notes
    -----
    Without background and repeats, the noise is the part of the signals outside of the subspace of
    all mixtures of compartments, with the smallest rank that leaves a tenth of the noise or less
    outside. If there are many voxels, it is the median eigenvalue of the covariance of this part:
    what the signal model lacks is in few directions and does not raise the median. In a volume,
    neighbours are subtracted first, which removes errors that they have in common. Magnitudes
    below an SNR of 5 are left out, since their noise is not Gaussian.

    Examples
    --------
    >>> from corrsk import estimate_noise, make_correlation_signals
    >>> X, _ = make_correlation_signals(1000, noise_level=0.02, norm=None, random_state=0)
    >>> print(round(estimate_noise(X, "ir-se-8x8").sigma, 3))
    0.02
    """
    n_coils = checked_coils(n_coils)
    if noise_distribution not in ("auto", *physics.NOISE_DISTRIBUTIONS):
        raise ValueError(
            "noise_distribution must be one of auto, "
            f"{', '.join(physics.NOISE_DISTRIBUTIONS)}; got {noise_distribution!r}"
        )
    values, protocol = _values_and_protocol(X, protocol)
    n = values.shape[-1]
    inside = _mask_of(mask, values, "mask") & ~without_signal(values.reshape(-1, n)).reshape(
        values.shape[:-1]
    )
    dark = None if background is None else _background(background, values)
    if background is not None and np.asarray(background).dtype.kind == "b":
        inside &= ~np.asarray(background, dtype=bool)
    if not inside.any():
        raise ValueError("no voxel has a signal: all are zero, NaN, or outside of the mask")
    signals = values[inside].astype(np.float64)
    if not np.isfinite(signals).all():
        raise ValueError("X has infinite values")
    largest = float(np.abs(signals).max())
    if not 1 / _LARGEST < largest < _LARGEST:
        raise ValueError(
            f"the largest value of X is {largest:.3g}, whose square is beyond double precision: "
            "scale the signals to the order of 1"
        )
    if noise_distribution == "auto":
        noise_distribution = "gaussian" if (signals < 0).any() else "rician"
    magnitudes = noise_distribution == "rician"
    if magnitudes and (signals < 0).any():
        raise ValueError(f"magnitudes are not negative, but X has {signals.min():.4g}")
    labels = None if dark is not None else _repeats(repeats, protocol, n)
    signals = signals[:: -(-len(signals) // _MOST_VOXELS)]
    model_error = 0.0
    if protocol is not None:
        check_one_scale(protocol)
        ranges = checked_bounds(bounds, protocol)
        perfect = _atoms(protocol, ranges, 1.0)
    if dark is not None:
        method, found = "background", _of_background(*dark, magnitudes, n_coils)
    elif labels is not None:
        method, found = "repeats", _of_repeats(signals, labels, magnitudes)
    elif protocol is not None:
        method = "residuals"
        inverted = "TI" in protocol.contrasts
        # mixtures of both are those of every inversion efficiency
        atoms = np.concatenate([perfect, _atoms(protocol, ranges, 0.5)]) if inverted else perfect
        found, model_error = _of_residuals(values, inside, atoms, magnitudes, inverted)
    else:
        raise ValueError(
            "estimate_noise needs a protocol, background= (voxels without signal) or repeats= "
            "(labels of equal measurements)"
        )
    sigma = found.sigma
    references = {name: np.asarray(physics.signal_norm(signals, name)) for name in ("max", "rms")}
    if protocol is not None:
        references = {"m0": _m0(signals, perfect, magnitudes)} | references
    levels = {
        name: Levels(*(float(q) for q in np.quantile(sigma / norms[norms > 0], _QUANTILES)))
        for name, norms in references.items()
    }
    return NoiseEstimate(
        sigma, method, noise_distribution, found.n_voxels, found.n_values,
        MappingProxyType(levels), model_error,
    )  # fmt: skip


class _Found(NamedTuple):
    sigma: float
    n_voxels: int
    n_values: int


def _values_and_protocol(
    X: Any, protocol: AcquisitionProtocol | str | None
) -> tuple[NDArray[Any], AcquisitionProtocol | None]:
    X = with_column_names(X)
    if protocol is None:
        protocol = protocol_of_columns(column_names(X))
    else:
        protocol = resolve_protocol(protocol)
        X = in_protocol_order(X, protocol)
    values = np.asarray(as_numpy(X))
    if values.ndim < 2 or values.dtype.kind not in "fiu":
        raise ValueError(
            "X must be real signals of shape (n_voxels, n_measurements) or a volume of shape "
            f"(.., n_measurements), got {values.dtype} of shape {values.shape}"
        )
    if protocol is not None and values.shape[-1] != protocol.n_measurements:
        raise ValueError(
            f"the last axis of X has {values.shape[-1]} entries, but the protocol has "
            f"{protocol.n_measurements} measurements"
        )
    return values, protocol


def _mask_of(mask: ArrayLike | None, values: NDArray[Any], name: str) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(values.shape[:-1], dtype=bool)
    array = np.asarray(mask)
    if array.shape != values.shape[:-1]:
        raise ValueError(
            f"{name} has the shape {array.shape}, but the voxels of X have {values.shape[:-1]}"
        )
    return array != 0


def _background(background: ArrayLike, values: NDArray[Any]) -> tuple[Array, int]:
    """Values of the background that are not zero (masked by the scanner), and number of voxels."""
    array = np.asarray(background)
    if array.dtype.kind == "b":
        array = values[_mask_of(array, values, "background")]
    used = np.isfinite(array) & (array != 0)
    dark = array[used].astype(np.float64)
    if dark.size < 10:
        raise ValueError(
            f"the background has {dark.size} values that are not zero; at least 10 are needed "
            "(a scanner that masks its images leaves no noise in the background)"
        )
    return dark, int(used.any(axis=-1).sum()) if used.ndim > 1 else dark.size


def _repeats(
    repeats: ArrayLike | None, protocol: AcquisitionProtocol | None, n: int
) -> NDArray[np.intp] | None:
    if repeats is not None:
        labels = np.asarray(repeats)
        if labels.shape != (n,):
            raise ValueError(f"repeats must have {n} labels, one per measurement, got {repeats!r}")
    elif protocol is not None:
        # the same echo time of a single echo and of an echo train is no repeat
        _, train = np.unique([repr(one) for one in protocol._readout_of_each], return_inverse=True)
        rows = np.stack([*protocol.contrasts.values(), protocol._tr_of_each, train], axis=1)
        _, labels = np.unique(rows, axis=0, return_inverse=True)
    else:
        return None
    _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.max() > 1:
        return np.asarray(number)
    if repeats is not None:
        raise ValueError("repeats has no label twice")
    return None


def _of_background(values: Array, n_voxels: int, magnitudes: bool, n_coils: int) -> _Found:
    # medians, since the background may have ghosts; dipy's PIESNO, which also finds the
    # background, would be a large requirement for this line
    freedom = 2 * n_coils if magnitudes else 1
    sigma = math.sqrt(np.median(values**2) / chi2.median(freedom))
    return _Found(sigma, n_voxels, values.size)


def _of_repeats(signals: Array, labels: NDArray[np.intp], magnitudes: bool) -> _Found:
    groups = [signals[:, labels == k] for k in range(labels.max() + 1)]
    groups = [group for group in groups if group.shape[1] > 1]
    parts, freedoms, means = [], [], []
    for group in groups:
        parts.append(group.var(axis=1, ddof=1))
        freedoms.append(group.shape[1] - 1)
        means.append(group.mean(axis=1))
    variance, mean = np.stack(parts, axis=1), np.stack(means, axis=1)
    ratio = variance / [chi2.median(freedom) / freedom for freedom in freedoms]
    strong = np.ones(mean.shape, dtype=bool)
    for _ in range(20 if magnitudes else 1):
        sigma = math.sqrt(np.median(ratio[strong]))
        narrower = mean > _STRONG * sigma
        if not magnitudes or not narrower.any() or (narrower == strong).all():
            break
        strong = narrower
    if not sigma > 0:
        raise ValueError("the repeats are equal: there is no noise between them")
    values = int((strong * np.asarray(freedoms)).sum())
    return _Found(sigma, int(strong.any(axis=1).sum()), values)


class _Mixtures:
    """Subspaces of the mixtures of all compartments of a protocol.

    Parameters
    ----------
    atoms : ndarray of shape (M, N)
        Signals of single compartments.

    Attributes
    ----------
    basis : ndarray of shape (N, r)
        Orthonormal vectors, the most important first.
    leakage : ndarray of shape (r + 1,)
        Root mean square, per remaining dimension, of the part of the compartments outside the
        first k vectors, as a fraction of their root mean square.
    """

    def __init__(self, atoms: Array) -> None:
        self.basis, values, _ = np.linalg.svd(atoms.T, full_matrices=False)
        N = len(self.basis)
        beyond = np.append(np.cumsum(values[::-1] ** 2)[::-1], 0.0)
        spare = np.maximum(N - np.arange(beyond.size), 1)
        self.leakage = np.sqrt(beyond / spare / (beyond[0] / N))

    def rank(self, relative_sigma: float) -> int | None:
        """Smallest rank that leaves little but noise outside; None if there is none."""
        allowed = np.flatnonzero(self.leakage[: len(self.basis)] <= _LEAKAGE * relative_sigma)
        return int(allowed[0]) if allowed.size else None


def _atoms(
    protocol: AcquisitionProtocol,
    bounds: Mapping[str, tuple[float, float]],
    inversion_efficiency: float,
) -> Array:
    """Signals of single compartments on a grid of tissue properties, (M, N)."""
    model = KernelModel(protocol.in_grid_order(), bounds, inversion_efficiency)
    P = len(model.properties)
    _, theta = model.grid((max(6, int(_MAX_CELLS ** (1 / P) + 1e-9)),) * P)
    return np.asarray(protocol.to_scan_order(model.dictionary(theta)))


def _of_residuals(
    values: NDArray[Any],
    inside: NDArray[np.bool_],
    atoms: Array,
    magnitudes: bool,
    recovers: bool,
) -> tuple[_Found, float]:
    """Noise outside the mixtures, and the root mean square of what is neither.

    Parameters
    ----------
    values : ndarray of shape (.., N)
        Signals.
    inside : ndarray of bool, shape (..)
        Voxels to use.
    atoms : ndarray of shape (M, N)
        Signals of single compartments.
    magnitudes : bool
        Whether the signals are magnitudes.
    recovers : bool
        Whether magnitudes have lost the signs of an inversion recovery.
    """
    N = atoms.shape[1]
    signals, pairs = _thinned(values, inside)
    if magnitudes and recovers:
        signals = _signed(signals, atoms)
    # with fewer remaining dimensions, some signs would make a mixture of nearly all magnitudes
    least = 3 if magnitudes and recovers else 1
    sigma, weak, columns = 0.0, 0.0, np.ones(N, dtype=bool)
    mixtures, rank = _Mixtures(atoms), N - 1
    rms = float(np.sqrt(np.mean(signals**2)))
    near_zero = _NEAR_ZERO * rms if recovers else 0.0
    for step in range(_MOST_STEPS):
        weakest = max(_STRONG * weak, near_zero) if magnitudes else 0.0
        residuals = _residuals(signals[:, columns], mixtures.basis[:, :rank], weakest)
        if residuals is None:
            break
        before, sigma = sigma, residuals.sigma
        # damped, since the choice of strong signals moves the estimate a little
        weak = math.sqrt(weak * sigma) if weak else sigma
        if magnitudes and step < _MOST_STEPS // 2:
            strong = (np.abs(signals) > _STRONG * weak).mean(axis=0) > _STRONG_SHARE
            if not (strong == columns).all():
                if strong.sum() < 2:
                    break
                columns = strong
                mixtures = _Mixtures(atoms[:, columns])
                rms = float(np.sqrt(np.mean(signals[:, columns] ** 2)))
        smaller = mixtures.rank(sigma / rms)
        if smaller is None or columns.sum() - smaller < least:
            break
        if step >= _MOST_STEPS // 2:  # two ranks may take turns
            smaller = max(smaller, rank)
        accuracy = 1 / math.sqrt(2 * residuals.found.n_values)
        if smaller == rank and abs(sigma - before) <= accuracy * sigma:
            return _without_model_error(
                signals[:, columns], pairs, mixtures.basis[:, rank:], residuals
            )
        rank = smaller
    raise ValueError(
        f"the {N} measurements of the protocol are too few for noise of about "
        f"{100 * sigma / rms:.2g} % of the signals or less: nearly every set of values is a "
        "mixture of compartments. Pass background= or repeats=, or bounds= of the tissue"
    )


class _Residuals(NamedTuple):
    sigma: float
    found: _Found
    complete: NDArray[np.bool_]  # voxels without weak signals


def _thinned(
    values: NDArray[Any], inside: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.intp] | None]:
    """Signals of the voxels, and of volumes the rows of pairs of neighbours, (n_pairs, 2)."""
    signals = values[inside].astype(np.float64)
    step = -(-len(signals) // _MOST_VOXELS)
    if inside.ndim == 1:
        return signals[::step], None
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(len(signals))
    pairs = []
    for axis in range(inside.ndim):
        along = np.moveaxis(number, axis, 0)
        # every voxel is in one pair at most along an axis
        first, second = along[: len(along) // 2 * 2 : 2], along[1::2]
        pairs.append(np.stack([first.ravel(), second.ravel()], axis=1))
        if inside.shape[axis] > 1:
            break
    both = np.concatenate(pairs)
    both = both[(both >= 0).all(axis=1)]
    return signals, both if len(both) else None


def _signed(signals: Array, atoms: Array) -> Array:
    """Give magnitudes of an inversion recovery the signs of the mixture that fits them."""
    norms = np.linalg.norm(atoms, axis=1)
    unit = atoms[norms > 0] / norms[norms > 0, None]
    signs = np.sign(unit[np.argmax(signals @ np.abs(unit).T, axis=1)])
    # of the most similar compartment, then of fits that are less and less smooth, since a mixture
    # has another zero at each echo time
    basis = _Mixtures(atoms).basis
    for share in (8, 6, 5, 4, 3):
        smooth = basis[:, : max(1, atoms.shape[1] // share)]
        for _ in range(3):
            signs = np.where((signs * signals) @ smooth @ smooth.T < 0, -1.0, 1.0)
    return signs * signals


def _residuals(signals: Array, basis: Array, weakest: float) -> _Residuals | None:
    """Noise outside a subspace; signals below `weakest` are left out."""
    # by the fit, because a choice by the measured values would leave out their noise below
    strong = np.abs(signals @ basis @ basis.T) > weakest
    complete = strong.all(axis=1) if weakest else np.ones(len(signals), dtype=bool)
    squares, spare = squares_outside(signals[complete], basis)
    freedom = np.full(len(squares), spare)
    rest = np.flatnonzero(~complete)
    if rest.size:
        rest = rest[:: -(-rest.size // _N_JUDGED)]
        left, values, _ = np.linalg.svd(strong[rest][:, :, None] * basis, full_matrices=False)
        left = left * (values > 1e-6)[:, None, :]
        x = np.where(strong[rest], signals[rest], 0.0)
        fitted = np.einsum("vnk,vk->vn", left, np.einsum("vnk,vn->vk", left, x))
        squares = np.append(squares, np.sum((x - fitted) ** 2, axis=1))
        freedom = np.append(freedom, strong[rest].sum(axis=1) - (values > 1e-6).sum(axis=1))
    usable = freedom > 0
    if not usable.any():
        return None
    sigma = math.sqrt(np.median(squares[usable] / chi2.median(freedom[usable])))
    if not sigma > 0:
        return None
    found = _Found(sigma, int(usable.sum()), int(freedom[usable].sum()))
    return _Residuals(sigma, found, np.asarray(complete))


def _without_model_error(
    signals: Array, pairs: NDArray[np.intp] | None, outside: Array, residuals: _Residuals
) -> tuple[_Found, float]:
    """Remove from the residuals what the signal model lacks, if there are enough voxels.

    It is in few directions, whereas noise is the same in all of them, and neighbours in a volume
    have nearly the same: the noise is the median eigenvalue of the covariance of the residuals of
    neighbours. The median of the distribution of Marchenko and Pastur is 1 - c / 3 nearly for
    c = d / n.
    """
    found, complete = residuals.found, residuals.complete
    part = signals @ outside
    d = outside.shape[1]
    candidates = [part[complete]]
    if pairs is not None:
        kept = pairs[complete[pairs].all(axis=1)]
        candidates.append((part[kept[:, 0]] - part[kept[:, 1]]) / math.sqrt(2))
    sigma = found.sigma
    for rows in candidates:
        if d < 4 or len(rows) < 10 * d:
            continue
        # without the tenth of the voxels with the largest residuals, such as those that moved
        squares = np.sum(rows**2, axis=1)
        limit = chi2.ppf(0.9, d)
        rows = rows[squares <= np.quantile(squares, 0.9)]
        shrinkage = chi2.cdf(limit, d + 2) / 0.9
        eigenvalues = np.linalg.eigvalsh(rows.T @ rows / len(rows)) / shrinkage
        median = np.median(eigenvalues) / (1 - d / len(rows) / 3)
        if median < 0.9 * sigma**2:  # more than the error of the estimates
            sigma = math.sqrt(median)
            found = _Found(sigma, len(rows), len(rows) * d // 2)
    largest = np.median(np.abs(signals).max(axis=1))
    error = math.sqrt(max(residuals.sigma**2 - sigma**2, 0.0)) / float(largest)
    return found, error


def _m0(signals: Array, atoms: Array, magnitudes: bool) -> Array:
    """M0 of the voxels from the single compartment of the most similar signal.

    A fit of several compartments would estimate M0 much less precisely: compartments that cancel
    each other, or decay before the first echo, may have any amplitude.
    """
    chosen = signals[:: -(-len(signals) // _N_JUDGED)]
    # compartments with less than a third of their M0 in the largest signal are such
    atoms = atoms[np.abs(atoms).max(axis=1) > 1 / 3]
    norms = np.linalg.norm(atoms, axis=1)
    unit = (np.abs(atoms) if magnitudes else atoms) / norms[:, None]
    match = chosen @ unit.T
    # of equally similar ones, such as every T2 at a single TE, the one that decays least
    best = (match * (1 + 1e-3 * norms / norms.max())).argmax(axis=1)
    return match[np.arange(len(best)), best] / norms[best]
