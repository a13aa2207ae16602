"""Averages of neighbouring voxels whose signals are equal up to noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from corrsk import physics
from corrsk.spatial._magnitudes import with_floor_of
from corrsk.spatial._neighbours import Neighbours, Slices, checked_voxel_size, pair_slices

Array = NDArray[np.float32]

_FIRST = 4  # neighbours of the first step; their number doubles from step to step
_CONFIDENCE = 0.97  # of equal signals, that their weight is not reduced
_N_NOISE = 8  # directions without signal in which the correlation of the noise is measured
_REACH = 4.0  # voxels, beyond which noise is taken as uncorrelated
_VOLUME = (0, 12, 100, 600)  # voxels within a somewhat larger distance, by the number of axes
_CORRELATED = 1.5  # voxels that share their noise, from which on it spreads the eigenvalues
_LEAST_PAIRS = 200  # of voxels for an estimate of the correlation
_QUARTILE = 0.25  # of the differences of nearest neighbours, for the spread within a tissue
_EDGE = 1.05  # tolerance of the largest eigenvalue of noise
_KERNEL = 1.25  # radius at which the weight by distance is zero, of the radius of the step


class AveragedSignals(NamedTuple):
    """Averages of like neighbours and the noise that remains in them.

    Parameters
    ----------
    signals : ndarray of shape (.., n_measurements)
        Averaged signals; 0 outside the mask.
    sigma : ndarray of shape (..)
        Standard deviation of the noise that remains in each voxel; 0 outside the mask.
    n_averaged : ndarray of shape (..)
        Effective number of averaged voxels, (sum of weights)^2 / sum of squared weights.
    noise : float
        Standard deviation of the noise of the measured signals.
    n_components : int
        Number of principal components in which signals were compared.
    """

    signals: Array
    sigma: Array
    n_averaged: Array
    noise: float
    n_components: int


class Subspace(NamedTuple):
    """Directions with and without signal, of measured signals with white noise."""

    signal: NDArray[np.float64]  # (n_measurements, k)
    noise: NDArray[np.float64]  # (n_measurements, n_measurements - k)
    sigma: float

    @classmethod
    def from_signals(
        cls, rows: NDArray[Any], sigma: float | None, correlated: float = 1.0
    ) -> Subspace:
        """Find the directions whose variance exceeds that of noise.

        The largest eigenvalue of noise is the edge of the distribution of Marchenko and Pastur, for
        the number of voxels over the number `correlated` that share their noise.

        Raises
        ------
        ValueError
            If `sigma` is None and the noise cannot be estimated.
        """
        n, width = rows.shape
        values, vectors = np.linalg.eigh(rows.T.astype(np.float64) @ rows / n)
        spread = float((1 + np.sqrt(width * correlated / n)) ** 2 * _EDGE)
        if sigma is None:
            sigma = _noise_of(values, spread)
        k = int((values > sigma**2 * spread).sum())
        # half of the directions is the least from which the remaining noise is measured
        k = min(max(k, 1), max(1, width // 2))
        return cls(vectors[:, ::-1][:, :k], vectors[:, : width - k], float(sigma))


def _noise_of(values: NDArray[np.float64], spread: float) -> float:
    """Noise whose eigenvalues, without the larger ones of signals, have their own mean."""
    for k in range(len(values) // 2 + 1):
        mean = float(values[: len(values) - k].mean())
        if values[len(values) - k - 1] <= mean * spread:
            break
    else:
        mean = float(np.median(values[: len(values) // 2]))
    # rounding errors of signals without noise are no estimate
    if len(values) < 4 or not mean > 1e-12 * values[-1]:
        raise ValueError(
            f"the noise of signals with {len(values)} measurements cannot be estimated from these: "
            "nearly no variance is outside the signals; pass sigma, the standard deviation of the "
            "noise (see estimate_noise)"
        )
    return float(np.sqrt(mean))


def average_like_neighbours(
    volume: ArrayLike,
    *,
    sigma: float | None = None,
    mask: ArrayLike | None = None,
    voxel_size: Any = None,
    n_neighbors: int = 1000,
    noise_distribution: str = "gaussian",
) -> AveragedSignals:
    """Average each voxel with the neighbours whose signals are equal up to noise.

    Parameters
    ----------
    volume : array of shape (n_x, n_y, n_measurements) or (n_x, n_y, n_z, n_measurements)
        Measured signals, whose noise has the same standard deviation in all measurements.
    sigma : float, optional
        Standard deviation of the noise, in the unit of the signals. None (default) for an estimate
        from the directions without signal.
    mask : array of bool, shape (n_x, n_y) or (n_x, n_y, n_z), optional
        Voxels to use; None (default) for all. Voxels of zeros or with NaN are left out.
    voxel_size : float or sequence of float, optional
        Edges of a voxel along each axis, such as in mm; None (default) for cubes. Only ratios
        matter: neighbours are those within a ball.
    n_neighbors : int, default=1000
        Number of neighbours among which like ones are found: 1000 are a disc with a radius of 18
        voxels, or a ball with a radius of 6. The time is proportional to the number.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        "gaussian" for signed signals. "rician" for magnitudes, which need `sigma`, that of their
        real and imaginary parts. The average of magnitudes has the noise floor of single voxels,
        which is replaced by the floor for the noise that remains.

    Returns
    -------
    AveragedSignals
        Averages, and the noise that remains. It includes the effect of spatially correlated noise,
        whose correlation is measured in the directions without signal.

    Raises
    ------
    ValueError
        If shapes or parameters are invalid, no voxel is left, or the noise cannot be estimated.

    Notes
    -----
    Propagation and separation (Polzehl and Spokoiny, Probab. Theory Relat. Fields 135, 335, 2006):
    averages start with the nearest neighbours, and each step doubles their number. The weight of a
    pair falls with the squared difference of the averages of the step before, divided by its
    variance for equal signals: it is 1 up to the 97 % quantile of the chi-squared distribution,
    and 0 from twice this quantile on. Relaxation times and pulses vary within a tissue, too: the
    variance for equal signals is the larger one of that of noise and that of nearest neighbours,
    from the lower quartile of their squared differences. Because averages have less noise than
    signals, later steps separate tissues that single voxels cannot. Signals are compared in the
    principal components that exceed the noise (edge of Marchenko and Pastur; Veraart et al.,
    NeuroImage 142, 394, 2016),
    which have less noise than all measurements together. Averaging of voxels with similar signals
    in a fixed window was introduced to relaxometry as NESMA (Bouhrara et al., J. Magn. Reson.
    Imaging 49, 768, 2019).

    Examples
    --------
    >>> from corrsk.spatial import average_like_neighbours, make_parcel_phantom
    >>> phantom = make_parcel_phantom((32, 32), n_parcels=4, noise_level=0.03, random_state=0)
    >>> averaged = average_like_neighbours(phantom.signals, n_neighbors=200)
    >>> float(averaged.sigma.mean()) < 0.006
    True
    """
    if noise_distribution not in physics.NOISE_DISTRIBUTIONS:
        raise ValueError(
            f"noise_distribution must be one of {', '.join(physics.NOISE_DISTRIBUTIONS)}, got "
            f"{noise_distribution!r}"
        )
    if noise_distribution == "rician" and sigma is None:
        raise ValueError("averages of magnitudes need sigma; see estimate_noise")
    values, inside, size = _checked(volume, mask, voxel_size, n_neighbors, sigma)
    given = None if sigma is None else float(sigma)
    comparison = Comparison.from_image(values, inside, size, n_neighbors, given)
    return average_compared(values, inside, comparison, noise_distribution)


class Comparison(NamedTuple):
    """How the voxels of an image are compared: noise, its correlation, and neighbours.

    A part of an image is averaged as the whole with the comparison of the whole.

    Parameters
    ----------
    subspace : Subspace
        Directions with and without signal.
    correlated : float
        Number of voxels that share their noise.
    neighbours : Neighbours
        Half of the neighbours of a voxel.
    spread : float
        Variance of the signals of one tissue relative to that of noise, at least 1: relaxation
        times and pulses vary within a tissue.
    """

    subspace: Subspace
    correlated: float
    neighbours: Neighbours
    spread: float

    @classmethod
    def from_image(
        cls,
        values: Array,
        inside: NDArray[np.bool_],
        voxel_size: NDArray[np.float64],
        n_neighbors: int,
        sigma: float | None,
        shape: Sequence[int] | None = None,
    ) -> Comparison:
        """Find the noise of an image or of a part of it; `shape` is that of the whole image.

        Raises
        ------
        ValueError
            If `sigma` is None and the noise cannot be estimated.
        """
        subspace = Subspace.from_signals(values[inside], sigma)
        correlated = _correlated_voxels(values @ subspace.noise.astype(np.float32), inside)
        if correlated > _CORRELATED:
            subspace = Subspace.from_signals(values[inside], sigma, correlated)
            correlated = _correlated_voxels(values @ subspace.noise.astype(np.float32), inside)
        shape = inside.shape if shape is None else shape
        neighbours = Neighbours.nearest(shape, voxel_size, n_neighbors)
        return cls(subspace, correlated, neighbours, _spread(values, inside, subspace, neighbours))

    @property
    def steps(self) -> list[Neighbours]:
        """Neighbours of each step."""
        numbers = _numbers(2 * len(self.neighbours.offsets))
        return [self.neighbours.within(number) for number in numbers]

    @property
    def reach(self) -> NDArray[np.intp]:
        """Voxels along each axis on which the average of a voxel depends, on either side."""
        found = np.zeros(self.neighbours.offsets.shape[1], dtype=np.intp)
        for neighbours in self.steps:
            found += np.abs(neighbours.offsets).max(axis=0)
        return found


def average_compared(
    values: Array,
    inside: NDArray[np.bool_],
    comparison: Comparison,
    noise_distribution: str = "gaussian",
) -> AveragedSignals:
    """Average like neighbours of an image, or a part of one, by a given comparison.

    Parameters
    ----------
    values : ndarray of float32, shape (.., n_measurements)
        Signals, 0 outside.
    inside : ndarray of bool, shape (..)
        Voxels to use.
    comparison : Comparison
        Noise and neighbours.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        See :func:`average_like_neighbours`.

    Returns
    -------
    AveragedSignals
        Averages, and the noise that remains.
    """
    subspace, correlated = comparison.subspace, comparison.correlated
    k = subspace.signal.shape[1]
    compared = values @ subspace.signal.astype(np.float32)
    limit = float(chi2.ppf(_CONFIDENCE, k)) * subspace.sigma**2 * comparison.spread
    averages, variance = compared, np.ones(inside.shape, dtype=np.float32)
    n_averaged = variance
    steps = comparison.steps
    for number, neighbours in enumerate(steps, 1):
        source = values if number == len(steps) else compared
        averages, n_averaged = _step(source, averages, variance, inside, neighbours, limit)
        variance = np.minimum(correlated / n_averaged, 1)
    signals = averages if steps else values
    if noise_distribution == "rician":
        remaining = subspace.sigma * np.sqrt(variance[inside])
        signals[inside] = with_floor_of(signals[inside], subspace.sigma, remaining)
    sigmas = np.where(inside, subspace.sigma * np.sqrt(variance), 0).astype(np.float32)
    return AveragedSignals(signals, sigmas, n_averaged, subspace.sigma, k)


def like_neighbours(
    averaged: AveragedSignals, inside: NDArray[np.bool_]
) -> Callable[[Slices, Slices], Array]:
    """Weights of pairs of neighbours, which are 0 across the borders of tissues.

    Parameters
    ----------
    averaged : AveragedSignals
        Signals and their noise.
    inside : ndarray of bool, shape (..)
        Voxels to use.

    Returns
    -------
    callable
        Function from the slices of the first and second voxels of pairs to weights from 0 to 1; see
        the argument `similarity` of :func:`corrsk.spatial.mean_field`.
    """
    typical = float(np.median(averaged.sigma[inside]))
    subspace = Subspace.from_signals(averaged.signals[inside], typical)
    compared = averaged.signals @ subspace.signal.astype(np.float32)
    limit = float(chi2.ppf(_CONFIDENCE, compared.shape[-1]))
    variance = np.where(inside, averaged.sigma**2, 1)

    def similarity(one: Slices, other: Slices) -> Array:
        statistic = ((compared[one] - compared[other]) ** 2).sum(axis=-1)
        statistic /= limit * (variance[one] + variance[other])
        return np.clip(2 - statistic, 0, 1)

    return similarity


def _checked(
    volume: ArrayLike, mask: Any, voxel_size: Any, n_neighbors: Any, sigma: Any
) -> tuple[Array, NDArray[np.bool_], NDArray[np.float64]]:
    values = np.asarray(volume)
    if values.ndim not in (3, 4) or values.dtype.kind not in "fiu":
        raise ValueError(
            "volume must be real and have shape (n_x, n_y, n_measurements) or (n_x, n_y, n_z, "
            f"n_measurements), got {values.dtype} of shape {values.shape}"
        )
    if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, Integral) or n_neighbors < 0:
        raise ValueError(f"n_neighbors must be an integer of at least 0, got {n_neighbors!r}")
    if sigma is not None and not (isinstance(sigma, Real) and 0 < float(sigma) < np.inf):
        raise ValueError(f"sigma must be a positive number or None, got {sigma!r}")
    shape = values.shape[:-1]
    size = checked_voxel_size(voxel_size, len(shape))
    values = values.astype(np.float32)
    inside = np.isfinite(values).all(axis=-1) & values.any(axis=-1)
    if mask is not None:
        given = np.asarray(mask)
        if given.shape != shape:
            raise ValueError(f"mask must have the shape {shape} of the volume, got {given.shape}")
        inside &= given.astype(bool)
    if not inside.any():
        raise ValueError("no voxel of the mask has a signal")
    values[~inside] = 0
    return values, inside, size


def _numbers(whole: int) -> list[int]:
    """Numbers of neighbours of the steps, each about twice the one before."""
    if not whole:
        return []
    n_steps = max(1, int(np.ceil(np.log2(whole / _FIRST))) + 1)
    return [max(1, whole // 2**j) for j in range(n_steps)][::-1]


def _step(
    source: Array,
    averages: Array,
    variance: Array,
    inside: NDArray[np.bool_],
    neighbours: Neighbours,
    limit: float,
) -> tuple[Array, Array]:
    """Average the values of a source with weights from the averages of the step before."""
    radius = _KERNEL * neighbours.distances[-1]
    closeness = (1 - (neighbours.distances / radius) ** 2).astype(np.float32)
    if find_spec("numba") is not None:
        return _compiled_step(
            source, averages, variance, inside, neighbours.offsets, closeness, limit
        )
    total = source.copy()
    weights = np.ones(inside.shape, dtype=np.float32)
    squared = np.ones(inside.shape, dtype=np.float32)
    for offset, close in zip(neighbours.offsets, closeness, strict=True):
        one, other = pair_slices(offset, inside.shape)
        difference = averages[one] - averages[other]
        statistic = np.einsum("...k,...k->...", difference, difference)
        statistic /= limit * (variance[one] + variance[other])
        weight = np.clip(2 - statistic, 0, 1) * close
        weight *= inside[one] & inside[other]
        weights[one] += weight
        weights[other] += weight
        total[one] += weight[..., None] * source[other]
        total[other] += weight[..., None] * source[one]
        weight *= weight
        squared[one] += weight
        squared[other] += weight
    total /= weights[..., None]
    return total, weights**2 / squared


def _compiled_step(
    source: Array, averages: Array, variance: Array, inside: NDArray[np.bool_],
    offsets: NDArray[np.intp], closeness: Array, limit: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Run the step compiled, many times as fast; images of two axes get a third one."""
    from corrsk.spatial._kernel import step

    missing = 3 - inside.ndim
    shape = inside.shape + (1,) * missing
    total = np.empty((*shape, source.shape[-1]), np.float32)
    n_averaged = np.empty(shape, np.float32)
    step(
        np.ascontiguousarray(source).reshape(total.shape),
        np.ascontiguousarray(averages).reshape(*shape, -1),
        np.ascontiguousarray(variance).reshape(shape), inside.reshape(shape),
        np.pad(offsets, ((0, 0), (0, missing))).astype(np.int64), closeness, np.float32(limit),
        total, n_averaged,
    )  # fmt: skip
    return total.reshape(source.shape), n_averaged.reshape(inside.shape)


def _spread(
    values: Array, inside: NDArray[np.bool_], subspace: Subspace, neighbours: Neighbours
) -> float:
    """Variance of the signals of one tissue relative to that of noise.

    From the differences of nearest neighbours in the directions of signals, relative to those in
    the directions of noise, which have the same correlation. Their lower quartile is that of one
    tissue if more than half of the pairs are in one tissue.
    """
    signal, noise = (
        values @ part.astype(np.float32)
        for part in (subspace.signal, subspace.noise[:, -_N_NOISE:])
    )
    squares, floors = [], []
    for offset in neighbours.within(2).offsets:
        one, other = pair_slices(offset, inside.shape)
        both = inside[one] & inside[other]
        squares.append(((signal[one] - signal[other])[both] ** 2).sum(axis=-1))
        floors.append(((noise[one] - noise[other])[both] ** 2).mean(axis=-1))
    found = np.concatenate(squares) if squares else np.zeros(0)
    if found.size < _LEAST_PAIRS:
        return 1.0
    floor = float(np.concatenate(floors).mean(dtype=np.float64))
    expected = float(chi2.ppf(_QUARTILE, signal.shape[-1])) * floor
    return max(1.0, float(np.quantile(found, _QUARTILE)) / expected) if expected > 0 else 1.0


def _correlated_voxels(noise: Array, inside: NDArray[np.bool_]) -> float:
    """Number of voxels that share their noise: the sum of its spatial autocorrelation.

    The variance of an average of n voxels is that of one times this number over n. Signals that are
    too weak for a direction of their own have the same correlation at all short distances, which is
    subtracted.
    """
    part = np.where(inside[..., None], noise[..., -_N_NOISE:], 0)
    square = float((part**2).sum()) / inside.sum()
    if not square > 0:
        return 1.0
    places = Neighbours.nearest(
        inside.shape, np.ones(inside.ndim), int(_VOLUME[sum(n > 1 for n in inside.shape)])
    )
    found, numbers = [], []
    for offset in places.offsets:
        one, other = pair_slices(offset, inside.shape)
        pairs = int((inside[one] & inside[other]).sum())
        found.append(float(np.vdot(part[one], part[other])) / (max(pairs, 1) * square))
        numbers.append(pairs)
    correlation, pairs_of = np.array(found), np.array(numbers)
    far = places.distances > _REACH
    if not far.any() or pairs_of[far].sum() < _LEAST_PAIRS:
        return 1.0
    elsewhere = float(np.average(correlation[far], weights=pairs_of[far]))
    near = ~far & (pairs_of > 0)
    return max(1.0, 1 + 2 * float((correlation[near] - elsewhere).sum()))
