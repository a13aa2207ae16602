"""Weighted draws from the posterior of the tissue, by adaptive importance sampling.

Proposals are mixtures of Student's t distributions: at the modes of the posterior with the
curvature there, and the wide ones that a network predicts. Where the draws are unequal, the
mixture is fitted to them by a step of expectation and maximisation, and further draws follow
(Cappe, Douc, Guillin, Marin and Robert, Stat. Comput. 18, 447 (2008)). All draws are weighted by
the mixture of all proposals (Cornuet, Marin, Mira and Robert, Scand. J. Stat. 39, 798 (2012)), and
the mean weight is the evidence of the count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtri
from scipy.stats import chi2, qmc

from corrsk._utils.normal_mixtures import NormalMixture
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.noise_levels import NoiseLevels
from corrsk.relaxometry.ideal_observer._forms import BoundModel, CompartmentModel
from corrsk.relaxometry.ideal_observer._likelihood import NoiseModel
from corrsk.relaxometry.ideal_observer._modes import ModeFinder
from corrsk.relaxometry.ideal_observer._nuisances import nuisance_ranges
from corrsk.tissue.coordinates import TissueCoordinates
from corrsk.tissue.prior import TissuePrior

Array = NDArray[np.float64]

_FREEDOM = 6  # degrees of freedom of the proposals, whose tails exceed those of a posterior
_WIDER = 1.2  # variance of a proposal over that of Laplace's approximation
_OF_NETWORK = 0.4  # weight of the network's components
_WIDE_COMPONENTS = 4  # of the network
_LEAST = 0.05  # weight that each mode keeps
_KEPT = 0.15  # weight of the first mixture in a fitted one
_PRIOR_DRAWS = 8.0  # effective draws that the covariance of a component counts for
_N_SETS = 64  # sets of standard points; each voxel has its own set


@dataclass(frozen=True)
class WeightedDraws:
    """Draws of the coordinates of K compartments in V voxels.

    Parameters
    ----------
    z : ndarray of shape (V, n, d)
        Coordinates.
    log_weights : ndarray of shape (V, n)
        Logarithms of the weights, the mean of which is the evidence; -inf for draws that a voxel
        does not have.
    n_draws : ndarray of int, shape (V,)
        Number of draws of each voxel.
    """

    z: Array
    log_weights: Array
    n_draws: NDArray[np.int64]

    @property
    def log_evidence(self) -> Array:
        """Logarithm of the evidence of the count, (V,)."""
        return np.asarray(logsumexp(self.log_weights, axis=1) - np.log(self.n_draws))

    @property
    def effective(self) -> Array:
        """Effective number of draws, (V,)."""
        return effective_number(self.log_weights)


def effective_number(log_weights: Array) -> Array:
    """Effective number of draws (V,) with weights (V, n): the squared sum over that of squares."""
    with np.errstate(invalid="ignore"):
        largest = log_weights.max(axis=1, keepdims=True)
        weights = np.exp(log_weights - np.where(np.isfinite(largest), largest, 0.0))
    total = weights.sum(axis=1)
    return np.asarray(total**2 / np.maximum((weights**2).sum(axis=1), 1e-300))


class ImportanceSampler:
    """Sampler of the posterior of K compartments.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol in grid order.
    prior : TissuePrior
        Distribution of the tissue.
    noise_level : float, sequence of float or SNRRange
        Noise levels.
    noise_reference : {"m0", "max", "rms"}
        Reference of the noise level.
    normalize : bool
        Whether signals have norm 1, and an unknown scale.
    inversion_efficiency : float, default=1.0
        Inversion efficiency.
    n_draws : int, default=256
        Number of draws of a round.
    max_rounds : int, default=3
        Largest number of rounds.
    wanted : float, default=100
        Effective number of draws, with which a voxel needs no further round.
    n_modes : int, default=2
        Number of modes that are searched for in each voxel.
    max_steps : int, default=8
        Largest number of steps to a mode.
    seed : int, default=0
        Seed of the standard points.
    """

    def __init__(
        self,
        protocol: AcquisitionProtocol,
        prior: TissuePrior,
        noise_level: NoiseLevels,
        noise_reference: str,
        normalize: bool,
        inversion_efficiency: float = 1.0,
        *,
        n_draws: int = 256,
        max_rounds: int = 3,
        wanted: float = 100.0,
        n_modes: int = 2,
        max_steps: int = 8,
        seed: int = 0,
    ) -> None:
        nuisances = nuisance_ranges(prior.nuisances, normalised=normalize)
        self._noise = NoiseModel(noise_level, noise_reference, normalize, protocol.n_measurements)
        self._model = CompartmentModel(
            protocol, prior.ranges, inversion_efficiency, peak=noise_reference == "max",
            nuisances=nuisances,
        )  # fmt: skip
        n_shared = sum(not each.is_fixed for each in nuisances)
        self.coordinates = tuple(
            TissueCoordinates(prior, K, n_shared) for K in prior.n_compartments
        )
        self._n_draws, self._max_rounds, self._wanted = n_draws, max_rounds, wanted
        self._n_modes, self._max_steps, self._seed = n_modes, max_steps, seed
        self._finders = [ModeFinder(self._model, self._noise, own) for own in self.coordinates]
        self._points: dict[int, tuple[Array, Array]] = {}

    def proposals(self, x: Array, index: int, wide: NormalMixture) -> NormalMixture:
        """Mixture at the modes and of the network's components, for signals (V, N)."""
        V, own = len(x), self.coordinates[index]
        starts = wide.largest(self._n_modes)
        n = starts.means.shape[1]
        modes = self._finders[index].find(
            np.repeat(x, n, axis=0), starts.means.reshape(V * n, -1), self._max_steps
        )
        covariance = np.linalg.inv(modes.curvature) * _WIDER
        # a posterior within a cell of a grid is as wide as the cell
        cells = own.cell_widths**2 / 12
        if cells.any():
            from corrsk.tissue.coordinates import normal_density

            widened = cells / np.maximum(normal_density(modes.z), 1e-3) ** 2
            covariance += widened[:, :, None] * np.eye(own.n_dimensions)
        factors = np.linalg.cholesky(np.linalg.inv(covariance)).reshape(V, n, *covariance.shape[1:])
        log_det = np.linalg.slogdet(modes.curvature)[1]
        weights = (-modes.cost - 0.5 * log_det).reshape(V, n)
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        weights = weights / weights.sum(axis=1, keepdims=True) + _LEAST
        weights = np.log(weights / weights.sum(axis=1, keepdims=True))
        narrow = NormalMixture(weights, modes.z.reshape(V, n, -1), factors)
        return narrow.joined(wide.largest(_WIDE_COMPONENTS), _OF_NETWORK)

    def draw(
        self, x: Array, index: int, wide: NormalMixture, keys: NDArray[np.uint64]
    ) -> WeightedDraws:
        """Draw from the posterior of the count with this index.

        Parameters
        ----------
        x : ndarray of shape (V, N)
            Signals, of norm 1 if normalised.
        index : int
            Index of the count.
        wide : NormalMixture
            Mixture that a network predicts for each signal.
        keys : ndarray of uint64, shape (V,)
            Random numbers of the voxels, which choose the standard points.

        Returns
        -------
        WeightedDraws
            The draws.
        """
        bound = self._model.bind(x)
        first = self.proposals(x, index, wide)
        V, n, d = len(x), self._n_draws, self.coordinates[index].n_dimensions
        z = np.empty((V, self._max_rounds * n, d))
        target = np.full((V, self._max_rounds * n), -np.inf)
        proposed = np.zeros((V, self._max_rounds * n))  # sum of the proposals' densities
        weights = np.full_like(target, -np.inf)
        n_draws = np.zeros(V, np.int64)
        going = np.arange(V)
        earlier: list[tuple[NDArray[np.intp], NormalMixture]] = []
        mixture = first
        for number in range(self._max_rounds):
            part = slice(number * n, (number + 1) * n)
            points = self._standard(index, keys[going], number)
            z[going, part] = mixture.points(*points)
            new = z[going, part]
            target[going, part] = self._log_target(bound, index, new, going)
            earlier.append((going, mixture))
            # the new mixture at all points, the earlier ones at the new points
            here = proposed[going, : part.stop]
            here += mixture.density(z[going, : part.stop], _FREEDOM)
            for rows, other in earlier[:-1]:
                place = np.searchsorted(rows, going)
                here[:, part] += other.take(place).density(new, _FREEDOM)
            proposed[going, : part.stop] = here
            n_draws[going] += n
            mean = np.log(here / (number + 1))
            weights[going, : part.stop] = target[going, : part.stop] - mean
            if number + 1 == self._max_rounds:
                break
            enough = effective_number(weights[going, : part.stop]) >= self._wanted
            if enough.all():
                break
            keep = np.flatnonzero(~enough)
            going, mixture = going[keep], mixture.take(keep)
            mixture = _fitted(
                mixture, first.take(going), z[going, : part.stop], weights[going, : part.stop]
            )
        used = int(n_draws.max())
        return WeightedDraws(z[:, :used], weights[:, :used], n_draws)

    def _log_target(
        self, bound: BoundModel, index: int, z: Array, voxels: NDArray[np.intp]
    ) -> Array:
        """Log of likelihood times prior density (V, n) at coordinates (V, n, d)."""
        own = self.coordinates[index]
        moved = np.ascontiguousarray(np.moveaxis(z, -1, 0))
        tissue = own.tissue(moved)
        units = np.concatenate(
            [
                tissue.units,
                np.broadcast_to(tissue.shared[:, None], (own.Q, own.K, *z.shape[:2])),
            ]
        )
        with np.errstate(all="ignore"):
            forms = bound.forms(
                np.minimum(units.astype(np.float32), np.float32(1 - 2**-24)), voxels
            )
            fractions = list(tissue.fractions)
            found = self._noise.log_likelihood(
                forms.projection(fractions), forms.squared(fractions),
                bound.signal_squared[voxels], forms.peak(fractions),
            )  # fmt: skip
            found += own.log_prior(tissue, own.values(tissue))
        found -= 0.5 * np.einsum("dvn,dvn->vn", moved, moved)
        found -= 0.5 * own.n_dimensions * np.log(2 * np.pi)
        return np.where(np.isnan(found), -np.inf, found)

    def _standard(self, index: int, keys: NDArray[np.uint64], number: int) -> tuple[Array, Array]:
        """Uniform numbers (V, n) and standard points (V, n, d) for each voxel."""
        if index not in self._points:
            self._points[index] = _standard_points(
                self.coordinates[index].n_dimensions, self._n_draws, self._seed + index
            )
        uniform, points = self._points[index]
        chosen = (keys >> np.uint64(6 * number)) % np.uint64(_N_SETS)
        return uniform[chosen], points[chosen]


def _standard_points(d: int, n: int, seed: int) -> tuple[Array, Array]:
    """Sets of uniform numbers (n_sets, n) and points (n_sets, n, d) of a t distribution.

    Scrambled Sobol points (Owen, J. Complex. 14, 466 (1998)) of each set.
    """
    size = 1 << (n - 1).bit_length()
    uniform = np.empty((_N_SETS, n, d + 2))
    for each, child in zip(uniform, np.random.SeedSequence(seed).spawn(_N_SETS), strict=True):
        sobol: Any = qmc.Sobol(d + 2, scramble=True, rng=np.random.default_rng(child))
        each[:] = sobol.random(size)[:n]
    np.clip(uniform, 1e-9, 1 - 1e-9, out=uniform)
    scale = np.sqrt(chi2.ppf(uniform[..., 1], _FREEDOM) / _FREEDOM)
    return uniform[..., 0].copy(), ndtri(uniform[..., 2:]) / scale[..., None]


def _fitted(
    mixture: NormalMixture, first: NormalMixture, z: Array, log_weights: Array
) -> NormalMixture:
    """One step of expectation and maximisation on weighted draws (V, n, d)."""
    largest = log_weights.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        weights = np.exp(log_weights - largest)
    weights = np.where(np.isfinite(largest), weights, 1.0)  # no draw may be possible
    weights /= weights.sum(axis=1, keepdims=True)
    shares = mixture.components(z, _FREEDOM)
    shares *= weights / shares.sum(axis=0)
    total = shares.sum(axis=2).T  # (V, M)
    safe = np.maximum(total, 1e-300)
    effective = total / np.maximum((weights**2).sum(axis=1), 1e-300)[:, None]
    trust = (effective / (effective + _PRIOR_DRAWS))[..., None]
    d = z.shape[-1]
    means = np.empty_like(mixture.means)
    covariances = np.empty_like(mixture.factors)
    inverse = np.linalg.inv(mixture.factors)
    before = np.matmul(inverse.transpose(0, 1, 3, 2), inverse)
    for m in range(means.shape[1]):
        each = shares[m]
        mean = np.matmul(each[:, None], z)[:, 0] / safe[:, m, None]
        centred = z - mean[:, None]
        scatter = np.matmul((centred * each[..., None]).transpose(0, 2, 1), centred)
        part = trust[:, m]
        moved = mean - mixture.means[:, m]
        means[:, m] = mixture.means[:, m] + part * moved
        covariances[:, m] = (
            part[..., None] * scatter / safe[:, m, None, None]
            + (1 - part[..., None]) * before[:, m]
            + (part * (1 - part))[..., None] * moved[:, :, None] * moved[:, None, :]
        )
    covariances += 1e-12 * np.eye(d)
    factors = np.linalg.cholesky(np.linalg.inv(covariances))
    with np.errstate(divide="ignore"):
        moved_weights = np.log(np.maximum(total, 1e-4 / total.shape[1]))
    fitted = NormalMixture(
        moved_weights - logsumexp(moved_weights, axis=1, keepdims=True), means, factors
    )
    return fitted.joined(first, _KEPT)


def content_keys(signals: Array) -> NDArray[np.uint64]:
    """Hash (V,) of each signal (V, N), with which results do not depend on other voxels."""
    bits = np.ascontiguousarray(signals, dtype=np.float64).view(np.uint64)
    key = np.zeros(len(bits), np.uint64)
    with np.errstate(over="ignore"):
        for column in bits.T:  # multiply and mix: Steele et al., OOPSLA 2014 (SplitMix64)
            key = (key ^ column) + np.uint64(0x9E3779B97F4A7C15)
            key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            key ^= key >> np.uint64(31)
    return key


def sequence_of_counts(coordinates: Sequence[TissueCoordinates]) -> tuple[int, ...]:
    """Return the count of each of the coordinates."""
    return tuple(own.K for own in coordinates)
