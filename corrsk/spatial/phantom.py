"""Phantoms of parcels of tissue, simulated with their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter
from scipy.spatial import cKDTree

from corrsk import physics
from corrsk._utils.rng import RandomStateLike, entropy, keyed_generator
from corrsk._utils.validation import check_number, checked_count
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.spatial._neighbours import checked_voxel_size
from corrsk.tissue.prior import TissuePrior, resolve_prior

Array = NDArray[np.float32]

_FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian with standard deviation 1
_PLACES, _NOISE, _VARIATION = 0, 1, 2  # random streams of a phantom


@dataclass(frozen=True, eq=False)
class ParcelPhantom:
    """Images of parcels of tissue with noise, and their truth.

    Parameters
    ----------
    signals : ndarray of float32, shape (.., n_measurements)
        Signals with noise, for M0 = 1.
    clean : ndarray of float32, shape (.., n_measurements)
        Signals without noise.
    parcels : ndarray of int, shape (..)
        Index of the parcel of each voxel: the row of `tissue`. Of a voxel with several, the one
        that contains most of it.
    counts : ndarray of int, shape (..)
        Number of compartments of the tissue of the parcel.
    lesions : ndarray of bool, shape (..)
        Voxels of lesions, which are parcels of their own.
    shares : ndarray of float32, shape (..)
        Part of the voxel inside its parcel; 1 without partial volume.
    tissue : DataFrame of shape (n_parcels + n_lesions, n_columns)
        Tissue of the parcels.
    sigma : float
        Standard deviation of the noise (of magnitudes, of their real and imaginary parts).
    protocol : AcquisitionProtocol
        Protocol of the measurements.
    voxel_size : ndarray of shape (n_axes,)
        Edges of a voxel.
    """

    signals: Array
    clean: Array
    parcels: NDArray[np.int64]
    counts: NDArray[np.int64]
    lesions: NDArray[np.bool_]
    shares: Array
    tissue: pd.DataFrame
    sigma: float
    protocol: AcquisitionProtocol
    voxel_size: NDArray[np.float64]

    @property
    def borders(self) -> NDArray[np.bool_]:
        """Voxels with a voxel of another parcel among those that share a face, edge or corner."""
        return np.asarray(minimum_filter(self.parcels, 3) != maximum_filter(self.parcels, 3))

    def parcel_means(self) -> tuple[Array, NDArray[np.int64]]:
        """Average the signals over each parcel, for an oracle that has the parcels.

        Returns
        -------
        means : ndarray of float32, shape (n_parcels + n_lesions, n_measurements)
            Averages of the voxels that are wholly in the parcel, or of all its voxels if there is
            none; NaN for parcels without voxels.
        n_voxels : ndarray of int, shape (n_parcels + n_lesions,)
            Numbers of the averaged voxels.
        """
        flat, pure = self.parcels.ravel(), self.shares.ravel() == 1
        length = len(self.tissue)
        used = pure | (np.bincount(flat[pure], minlength=length) == 0)[flat]
        numbers = np.bincount(flat[used], minlength=length)
        signals = self.signals.reshape(len(flat), -1)[used].astype(np.float64)
        sums = [np.bincount(flat[used], column, minlength=length) for column in signals.T]
        with np.errstate(invalid="ignore"):
            means = np.stack(sums, axis=1) / numbers[:, None]
        return means.astype(np.float32), numbers


def make_parcel_phantom(
    shape: Sequence[int] = (128, 128),
    *,
    n_parcels: int = 40,
    prior: TissuePrior | str = "midl2024",
    protocol: AcquisitionProtocol | str = "ir-se-8x8",
    noise_level: float = 0.03,
    noise_distribution: str = "gaussian",
    noise_fwhm: float = 0.0,
    variation: float = 0.0,
    partial_volume: int = 1,
    n_lesions: int = 0,
    lesion_voxels: int = 30,
    voxel_size: Any = None,
    random_state: RandomStateLike = None,
) -> ParcelPhantom:
    """Simulate images of Voronoi parcels, each with one tissue of a prior.

    Parameters
    ----------
    shape : sequence of int, default=(128, 128)
        Voxels along two or three axes.
    n_parcels : int, default=40
        Number of parcels: the voxels nearest to each of as many random centres.
    prior : TissuePrior or str, default="midl2024"
        Distribution of the tissue of the parcels, whose counts are balanced.
    protocol : AcquisitionProtocol or str, default="ir-se-8x8"
        Acquisition protocol.
    noise_level : float, default=0.03
        Standard deviation of the noise as a fraction of M0.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        Gaussian noise of signed signals, or Rician noise of magnitudes.
    noise_fwhm : float, default=0.0
        Full width at half maximum in voxels of the filter that correlates the noise of neighbouring
        voxels, whose standard deviation is unchanged; 0 is white noise.
    variation : float, default=0.0
        Standard deviation of the logarithm of each relaxation time within a parcel, independent
        between voxels and compartments; 0.02 are about 2 %.
    partial_volume : int, default=1
        Number of points along each axis at which the parcel of a voxel is determined: voxels at
        borders mix the signals of their parcels. 1 is one parcel for each voxel.
    n_lesions : int, default=0
        Number of lesions: small discs or balls with a tissue of their own.
    lesion_voxels : int, default=30
        Number of voxels of each lesion, up to the discreteness of the grid.
    voxel_size : float or sequence of float, optional
        Edges of a voxel along each axis; None (default) for cubes. Parcels have no preferred
        direction in these units.
    random_state : int, RandomState, Generator or None, default=None
        Seed. Phantoms of one seed that differ in noise, variation or partial volume have the same
        parcels and tissue.

    Returns
    -------
    ParcelPhantom
        Images and truth.

    Raises
    ------
    ValueError
        If a parameter is invalid.

    Examples
    --------
    >>> from corrsk.spatial import make_parcel_phantom
    >>> phantom = make_parcel_phantom((24, 24, 8), n_parcels=6, random_state=0)
    >>> phantom.signals.shape, phantom.counts.shape
    ((24, 24, 8, 64), (24, 24, 8))
    """
    shape = _checked_shape(shape)
    checked_count("n_parcels", n_parcels, at_least=1)
    checked_count("partial_volume", partial_volume, at_least=1)
    checked_count("n_lesions", n_lesions, at_least=0)
    checked_count("lesion_voxels", lesion_voxels, at_least=1)
    for name, value in (
        ("noise_level", noise_level),
        ("noise_fwhm", noise_fwhm),
        ("variation", variation),
    ):
        check_number(name, value)
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    if noise_distribution not in physics.NOISE_DISTRIBUTIONS:
        raise ValueError(
            f"noise_distribution must be one of {', '.join(physics.NOISE_DISTRIBUTIONS)}, got "
            f"{noise_distribution!r}"
        )
    size = checked_voxel_size(voxel_size, len(shape))
    seed = entropy(random_state)
    tissue, counts = resolve_prior(prior).sample(n_parcels + n_lesions, random_state=seed)
    simulate = CorrelationSignalGenerator(protocol, noise_level=0.0, verbose=False)
    geometry = _Geometry.draw(shape, size, n_parcels, n_lesions, lesion_voxels, seed)
    pure = simulate.fit_transform(tissue)
    factors = _factors(tissue, variation, shape, seed)
    points = _points(partial_volume, len(shape))
    clean = np.zeros((*shape, pure.shape[1]), dtype=np.float32)
    labels = []
    for point in points:
        label = geometry.labels(point)
        labels.append(label)
        clean += (pure[label] if factors is None else _varied(simulate, tissue, label, factors)) / (
            len(points)
        )
    parcels, shares = _majority(np.stack(labels))
    signals = _with_noise(clean, float(noise_level), noise_distribution, float(noise_fwhm), seed)
    return ParcelPhantom(
        signals, clean, parcels, np.asarray(counts)[parcels], parcels >= n_parcels, shares,
        tissue.reset_index(drop=True), float(noise_level), resolve_protocol(protocol), size,
    )  # fmt: skip


def _checked_shape(shape: Any) -> tuple[int, ...]:
    given = tuple(np.atleast_1d(np.asarray(shape, dtype=object)).tolist())
    if len(given) not in (2, 3) or not all(isinstance(n, Integral) and int(n) >= 1 for n in given):
        raise ValueError(f"shape must be two or three positive integers, got {shape!r}")
    return tuple(int(n) for n in given)


@dataclass(frozen=True)
class _Geometry:
    """Centres of parcels and lesions in units of length."""

    shape: tuple[int, ...]
    size: NDArray[np.float64]
    centres: NDArray[np.float64]  # (n_parcels, n_axes)
    lesions: NDArray[np.float64]  # (n_lesions, n_axes)
    radius: float

    @classmethod
    def draw(
        cls,
        shape: tuple[int, ...],
        size: NDArray[np.float64],
        n_parcels: int,
        n_lesions: int,
        lesion_voxels: int,
        seed: int,
    ) -> _Geometry:
        rng = keyed_generator(seed, 7, _PLACES)
        extent = np.asarray(shape) * size
        centres = rng.random((n_parcels, len(shape))) * extent
        volume = lesion_voxels * float(np.prod(size))
        radius = np.sqrt(volume / np.pi) if len(shape) == 2 else np.cbrt(0.75 * volume / np.pi)
        low = np.minimum(radius, extent / 2)
        lesions = low + rng.random((n_lesions, len(shape))) * (extent - 2 * low)
        return cls(shape, size, centres, lesions, float(radius))

    def labels(self, point: NDArray[np.float64]) -> NDArray[np.int64]:
        """Parcel at a point of each voxel, whose coordinates are from 0 to 1."""
        axes = [
            (np.arange(n) + p) * edge
            for n, p, edge in zip(self.shape, point, self.size, strict=True)
        ]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        labels = np.asarray(cKDTree(self.centres).query(places)[1], dtype=np.int64)
        for k, centre in enumerate(self.lesions):
            labels[((places - centre) ** 2).sum(axis=-1) <= self.radius**2] = len(self.centres) + k
        return labels


def _points(n: int, n_axes: int) -> NDArray[np.float64]:
    along = (np.arange(n) + 0.5) / n
    return np.stack(np.meshgrid(*[along] * n_axes, indexing="ij"), axis=-1).reshape(-1, n_axes)


def _factors(
    tissue: pd.DataFrame, variation: float, shape: tuple[int, ...], seed: int
) -> NDArray[np.float64] | None:
    """Factors of the relaxation times of each voxel, (n_voxels, n_columns)."""
    if not variation:
        return None
    rng = keyed_generator(seed, 7, _VARIATION)
    normals = rng.standard_normal((int(np.prod(shape)), tissue.shape[1]))
    fixed = np.array([not str(name).startswith(("T1", "T2", "D")) for name in tissue.columns])
    return np.where(fixed, 1.0, np.exp(variation * normals))


def _varied(
    simulate: CorrelationSignalGenerator,
    tissue: pd.DataFrame,
    label: NDArray[np.int64],
    factors: NDArray[np.float64],
) -> Array:
    values = tissue.to_numpy(dtype=np.float64)[label.ravel()] * factors
    found = simulate.transform(pd.DataFrame(values, columns=tissue.columns))
    return np.asarray(found, dtype=np.float32).reshape(*label.shape, -1)


def _majority(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Most frequent label of each voxel, and its share; of equal ones, the first."""
    best, most = labels[0].copy(), np.zeros(labels.shape[1:], dtype=np.int64)
    for label in labels:
        number = (labels == label).sum(axis=0)
        better = number > most
        best[better], most[better] = label[better], number[better]
    return best, (most / len(labels)).astype(np.float32)


def _with_noise(clean: Array, sigma: float, distribution: str, fwhm: float, seed: int) -> Array:
    rng = keyed_generator(seed, 7, _NOISE)

    def normals() -> Array:
        drawn = rng.standard_normal(clean.shape, dtype=np.float32)
        if not fwhm:
            return drawn
        width = (*[fwhm / _FWHM] * (clean.ndim - 1), 0)
        impulse = np.zeros((*clean.shape[:-1], 1))
        impulse[(*[0] * (clean.ndim - 1), 0)] = 1
        norm = np.sqrt((gaussian_filter(impulse, width, mode="wrap") ** 2).sum())
        return np.asarray(gaussian_filter(drawn, width, mode="wrap") / norm, dtype=np.float32)

    rows = clean.reshape(-1, clean.shape[-1])
    sigmas = np.full(len(rows), sigma, dtype=np.float32)
    if distribution == "gaussian":
        found = physics.add_gaussian_noise(rows, sigmas, normals().reshape(rows.shape))
    else:
        real, imaginary = (normals().reshape(rows.shape) for _ in range(2))
        found = physics.add_rician_noise(rows, sigmas, real, imaginary)
    return np.asarray(found, dtype=np.float32).reshape(clean.shape)
