"""Weighted draws from the posterior of the tissue, by importance sampling.

Proposals of all but the fractions are mixtures of Student's t distributions: at a mode of the
posterior and along the valley of tissues that explain the signal, with the curvature there, and the
wide ones that a network predicts. The fractions are drawn from their distribution given the other
coordinates, which is nearly a truncated normal distribution (see `_fractions`): a mixture in
all coordinates could not follow the curved valleys of fractions and properties. The mean weight is
the evidence of the count.

The proposals of further rounds are those of the first. Proposals that are fitted to a few hundred
unequal draws, with weights by the mixture of all rounds, make draws more equal, but miss the
tails: each such fit has its mass where draws were found, so that the weights of all draws
are too small, by 0.1 in the log evidence of three compartments, and intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtri
from scipy.stats import chi2, qmc

from corrsk._utils.normal_mixtures import NormalMixture, effective_number, factors_of
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.noise_levels import NoiseLevels
from corrsk.relaxometry.ideal_observer._forms import BoundModel, CompartmentModel, Forms
from corrsk.relaxometry.ideal_observer._fractions import fraction_proposal
from corrsk.relaxometry.ideal_observer._likelihood import NoiseModel
from corrsk.relaxometry.ideal_observer._modes import ModeFinder, compiled
from corrsk.relaxometry.ideal_observer._nuisances import nuisance_ranges
from corrsk.tissue.coordinates import Tissue, TissueCoordinates, normal_density
from corrsk.tissue.prior import TissuePrior

Array = NDArray[np.float64]

_FREEDOM = 6  # degrees of freedom of the proposals, whose tails exceed those of a posterior
_WIDER = 1.2  # variance of a proposal over that of Laplace's approximation
_OF_NETWORK = 0.4  # weight of the network's mixture beside the mode
_OF_VALLEY = 0.6  # weight of the components along the valley
_PULL = 5.0  # curvature with which a point of the valley stays near its start
_VALLEY_STEPS = 2
_FLATTENED = 0.5  # power of the posterior in the weights of points of the valley
_LEAST_WEIGHT = 1e-3  # of such a point, before the weights are normalised
_REACH = 3.0  # largest coordinate of a start
_N_HASHED, _HASHED_STEPS = 8, 1000
_N_MIDPOINTS = 16  # in each shared parameter
_N_SETS = 64  # sets of standard points; each voxel has its own set in each round


@dataclass(frozen=True)
class WeightedDraws:
    """Draws of the coordinates of K compartments in V voxels.

    Parameters
    ----------
    z : ndarray of shape (V, n, d)
        Coordinates.
    log_weights : ndarray of shape (V, n)
        Logarithms of the weights; their mean is the evidence. -inf for draws that a voxel
        does not have.
    scales : ndarray of shape (V, n)
        Most probable scale of the signal for each draw: M0 in the unit of the signals.
    n_draws : ndarray of int, shape (V,)
        Number of draws of each voxel.
    """

    z: Array
    log_weights: Array
    scales: Array
    n_draws: NDArray[np.int64]

    @property
    def log_evidence(self) -> Array:
        """Logarithm of the evidence of the count, (V,)."""
        return np.asarray(logsumexp(self.log_weights, axis=1) - np.log(self.n_draws))

    @property
    def effective(self) -> Array:
        """Effective number of draws, (V,)."""
        return effective_number(self.log_weights)


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
    n_valley : int, default=32
        Number of components along the valley.
    max_steps : int, default=8
        Largest number of steps to the mode.
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
        n_valley: int = 32,
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
        self._n_valley = n_valley
        self._n_draws, self._max_rounds, self._wanted = n_draws, max_rounds, wanted
        self._max_steps, self._seed = max_steps, seed
        self._finders = [ModeFinder(self._model, self._noise, own) for own in self.coordinates]
        # coordinates besides the fractions
        self._free = [
            np.delete(np.arange(own.n_dimensions), own.of_fractions) for own in self.coordinates
        ]

    @property
    def finders(self) -> tuple[ModeFinder, ...]:
        """Searches for the modes of each count."""
        return tuple(self._finders)

    def proposals(
        self, x: Array, index: int, wide: NormalMixture, keys: NDArray[np.uint64]
    ) -> NormalMixture:
        """Mixture of proposals for signals (V, N), in the coordinates besides the fractions.

        Its components are at a mode, along the valley of tissues that explain the signal, and the
        network's. Compartments that the signal hardly determines may lie anywhere, while the others
        follow them closely: a few wide components cannot cover such a valley, but points drawn
        from the network's mixture, and moved to the nearest tissue that explains the signal, can.
        """
        own, free, V = self.coordinates[index], self._free[index], len(x)
        start = wide.largest(1)
        mode = self._finders[index].find(x, start.means[:, 0], self._max_steps)
        factors = self._factors(mode.z, mode.curvature, index)
        mixture = NormalMixture(np.zeros((V, 1)), mode.z[:, None, free], factors[:, None]).joined(
            wide.marginal(free), _OF_NETWORK
        )
        if own.K == 1 or not self._n_valley:
            return mixture
        m, d = min(self._n_valley, self._n_draws), own.n_dimensions
        uniform, points, _ = self._standard(index, keys, self._max_rounds)
        starts = np.clip(wide.points(uniform[:, :m], points[:, :m]), -_REACH, _REACH)
        moved = self._finders[index].find(
            np.repeat(x, m, axis=0), starts.reshape(V * m, d), _VALLEY_STEPS,
            starts.reshape(V * m, d), _PULL,
        )  # fmt: skip
        factors = self._factors(moved.z, moved.curvature, index).reshape(V, m, free.size, free.size)
        behind = moved.cost.reshape(V, m)
        behind = behind - behind.min(axis=1, keepdims=True)
        weights = np.exp(-_FLATTENED * behind) + _LEAST_WEIGHT
        weights = np.log(weights / weights.sum(axis=1, keepdims=True))
        means = moved.z[:, free].reshape(V, m, free.size)
        return mixture.joined(NormalMixture(weights, means, factors), _OF_VALLEY)

    def _factors(self, z: Array, curvature: Array, index: int) -> Array:
        """Factors (B, k, k) of proposals at points (B, d) with the curvature of the posterior."""
        own, free = self.coordinates[index], self._free[index]
        covariance = np.linalg.inv(curvature) * _WIDER
        # a posterior within a cell of a grid is as wide as the cell
        cells = own.cell_widths**2 / 12
        if cells.any():
            widened = cells / np.maximum(normal_density(z), 1e-3) ** 2
            covariance += widened[:, :, None] * np.eye(own.n_dimensions)
        return factors_of(np.asarray(covariance[:, free[:, None], free], np.float64))

    def draw(
        self, x: Array, index: int, wide: NormalMixture, keys: NDArray[np.uint64],
        wanted: Array | float = 1.0,
    ) -> WeightedDraws:  # fmt: skip
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
        wanted : ndarray of shape (V,) or float, default=1.0
            Part of the effective number of draws that a voxel needs, in [0, 1].

        Returns
        -------
        WeightedDraws
            The draws.
        """
        bound, own, free = self._model.bind(x), self.coordinates[index], self._free[index]
        mixture = self.proposals(x, index, wide, keys)
        V, n, most = len(x), self._n_draws, self._max_rounds
        z = np.zeros((V, most, n, free.size))  # voxels with fewer rounds leave a part of it
        fractions = np.full((own.K, V, most, n), 1 / own.K)
        log_weights = np.full((V, most, n), -np.inf)
        scales = np.zeros((V, most, n))
        held = np.zeros(V, np.int64)  # rounds of each voxel
        enough = np.broadcast_to(self._wanted * wanted, V)
        going = np.arange(V)
        for number in range(most):
            uniform, points, of_fractions = self._standard(index, keys[going], number)
            here = mixture.take(going)
            new = here.points(uniform, points[..., free])
            target, drawn, scale = self._completed(bound, index, new, of_fractions, going)
            z[going, number], scales[going, number] = new, scale
            fractions[:, going, number] = drawn
            density = here.density(new, _FREEDOM, np.isfinite(target))
            log_weights[going, number] = target - np.log(np.maximum(density, 1e-300))
            held[going] += 1
            going = going[
                effective_number(log_weights[going].reshape(going.size, -1)) < enough[going]
            ]
            if not going.size:
                break
        used = int(held.max(initial=1))
        size = V, used * n
        every = np.empty((*size, own.n_dimensions))
        every[..., free] = z[:, :used].reshape(*size, free.size)
        every[..., own.of_fractions] = np.moveaxis(
            own.coordinates_of_fractions(fractions[:, :, :used].reshape(own.K, *size)), 0, -1
        )
        return WeightedDraws(
            every, log_weights[:, :used].reshape(size), scales[:, :used].reshape(size), held * n
        )

    def _completed(
        self, bound: BoundModel, index: int, z: Array, uniforms: Array, voxels: NDArray[np.intp]
    ) -> tuple[Array, Array, Array]:
        """Draw the fractions of coordinates (V, n, k) with uniform numbers (V, n, n_fractions).

        Returns the log of likelihood times prior density over the density of the fractions, (V, n),
        the fractions (K, V, n), and the scales (V, n).
        """
        own = self.coordinates[index]
        moved = np.ascontiguousarray(np.moveaxis(z, -1, 0))
        every = np.zeros((own.n_dimensions, *z.shape[:2]))
        every[self._free[index]] = moved
        tissue = own.tissue(every)
        allowed = own.log_prior(tissue, own.values(tissue)) > -np.inf
        found, scales = self._log_likelihood(
            bound, own, tissue, voxels, allowed, np.moveaxis(uniforms, -1, 0)
        )
        found += own.log_prior_of_allowed(tissue.fractions)
        found -= 0.5 * np.einsum("dvn,dvn->vn", moved, moved)
        found -= 0.5 * len(moved) * np.log(2 * np.pi)
        possible = allowed & ~np.isnan(found)
        return np.where(possible, found, -np.inf), tissue.fractions, np.nan_to_num(scales)

    def _log_likelihood(
        self, bound: BoundModel, own: TissueCoordinates, tissue: Tissue, voxels: NDArray[np.intp],
        wanted: NDArray[np.bool_], uniforms: Array | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Log likelihood of tissue in V voxels and n states, and scales; 0 for unwanted states.

        With uniform numbers (n_fractions, V, n), the fractions of the tissue are replaced by draws,
        and the result is multiplied by the density of flat fractions over that of the draws.
        """
        shape = tissue.fractions.shape[1:]
        shared = np.broadcast_to(tissue.shared[:, None], (own.Q, own.K, *shape))
        units = np.concatenate([tissue.units, shared])
        units = np.minimum(units.astype(np.float32), np.float32(1 - 2**-24))
        at: Any = ...
        squared = bound.signal_squared[voxels]
        found, scales = np.zeros(shape), np.ones(shape)
        with np.errstate(all="ignore"):
            if self._model.is_product and compiled() is not None:
                at, numbers = wanted, wanted.sum(axis=1)
                squared = np.repeat(squared[:, 0], numbers)
                forms: Forms = bound.listed_forms(units[:, :, wanted], voxels, numbers)
            else:
                forms = bound.forms(units, voxels)
            fractions = list(tissue.fractions[:, at])
            if uniforms is not None and own.n_fractions:
                proposal = fraction_proposal(
                    forms, self._noise, squared, np.ones(1), own.prior.min_fraction
                )
                fractions, density = proposal.draw(uniforms[:, at])
                tissue.fractions[:, at] = fractions
                found[at] = own.log_flat - density
            projection, norm = forms.projection(fractions), forms.squared(fractions)
            if self._noise.normalize:
                scales[at] = projection / norm
            found[at] += self._noise.log_likelihood(
                projection, norm, squared, forms.peak(fractions)
            )
        return np.where(wanted, found, 0.0), scales

    def log_joint(self, x: Array, index: int, values: Mapping[str, Array], f: Array) -> Array:
        """Log of likelihood times prior density (V,) of given compartments.

        Parameters
        ----------
        x : ndarray of shape (V, N)
            Signals.
        index : int
            Index of the count.
        values : mapping of str to ndarray of shape (K, V)
            Properties of the compartments.
        f : ndarray of shape (K, V)
            Signal fractions.
        """
        own = self.coordinates[index]
        shared = _midpoints(own.Q)
        n = shared.shape[1]
        z = own.coordinates(
            {name: np.repeat(each, n, axis=1) for name, each in values.items()},
            np.repeat(f, n, axis=1), np.tile(shared, len(x)),
            np.full((own.P, own.K, n * len(x)), 0.5),
        ).reshape(-1, len(x), n)  # fmt: skip
        bound = self._model.bind(x)
        every = np.ones(z.shape[1:], dtype=bool)
        likelihood, _ = self._log_likelihood(bound, own, own.tissue(z), np.arange(len(x)), every)
        mean = logsumexp(likelihood, axis=1) - np.log(n)
        return np.asarray(mean + own.log_density(values, f))

    def _standard(
        self, index: int, keys: NDArray[np.uint64], number: int
    ) -> tuple[Array, Array, Array]:
        """Uniform numbers (V, n), and standard points (V, n, d), for each voxel.

        Also other uniform numbers (V, n, n_fractions), which do not depend on the coordinates of
        the points besides the fractions.
        """
        own = self.coordinates[index]
        uniform, points, others = _standard_points(own.n_dimensions, self._n_draws, self._seed)
        # six bits of the key for each round, and other ones for each count
        chosen = (keys >> np.uint64((6 * number + 3 * index) % 58)) % np.uint64(_N_SETS)
        return uniform[chosen], points[chosen], others[..., own.of_fractions][chosen]


@lru_cache(maxsize=16)
def _standard_points(d: int, n: int, seed: int) -> tuple[Array, Array, Array]:
    """Sets of uniform numbers (n_sets, n) and points (n_sets, n, d) of a t distribution.

    Also the uniform numbers (n_sets, n, d) that the points are made of. Scrambled Sobol points
    (Owen, J. Complex. 14, 466 (1998)) of each set.
    """
    size = 1 << (n - 1).bit_length()
    uniform = np.empty((_N_SETS, n, d + 2))
    for each, child in zip(uniform, np.random.SeedSequence(seed).spawn(_N_SETS), strict=True):
        sobol: Any = qmc.Sobol(d + 2, scramble=True, rng=np.random.default_rng(child))
        each[:] = sobol.random(size)[:n]
    np.clip(uniform, 1e-9, 1 - 1e-9, out=uniform)
    scale = np.sqrt(chi2.ppf(uniform[..., 1], _FREEDOM) / _FREEDOM)
    others = uniform[..., 2:]
    return uniform[..., 0].copy(), ndtri(others) / scale[..., None], others


def _midpoints(Q: int) -> Array:
    """Midpoints (Q, n) of cells that fill the unit cube, for an average over shared parameters."""
    side = (np.arange(_N_MIDPOINTS) + 0.5) / _N_MIDPOINTS
    return np.array(np.meshgrid(*[side] * Q)).reshape(Q, -1) if Q else np.empty((0, 1))


def content_keys(signals: Array) -> NDArray[np.uint64]:
    """Hash (V,) of each signal (V, N), with which results do not depend on other voxels.

    Of a few rounded values, so that signals that differ by rounding have the same hash.
    """
    some = signals[:, :: -(-signals.shape[1] // _N_HASHED)]
    largest = np.abs(signals).max(axis=1, keepdims=True)
    rounded = np.round(some / np.where(largest > 0, largest, 1.0) * _HASHED_STEPS)
    key = np.zeros(len(signals), np.uint64)
    with np.errstate(over="ignore"):
        # multiply and mix: Steele, Lea and Flood, OOPSLA 2014 (SplitMix64)
        for column in rounded.astype(np.int64).astype(np.uint64).T:
            key = (key ^ column) + np.uint64(0x9E3779B97F4A7C15)
            key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            key ^= key >> np.uint64(31)
    return key
