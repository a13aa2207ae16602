"""Weighted draws from the posterior of the tissue, by adaptive importance sampling.

Proposals are mixtures of Student's t distributions: at a mode of the posterior and along the valley
of tissues that explain the signal, with the curvature there, and the wide ones that a network
predicts. Where the draws are unequal, the
mixture is fitted to them by a step of expectation and maximisation, and further draws follow
(Cappe, Douc, Guillin, Marin and Robert, Stat. Comput. 18, 447 (2008)). All draws are weighted by
the mixture of all proposals (Cornuet, Marin, Mira and Robert, Scand. J. Stat. 39, 798 (2012)), and
the mean weight is the evidence of the count.
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
from corrsk.relaxometry.ideal_observer._forms import BoundModel, CompartmentModel
from corrsk.relaxometry.ideal_observer._likelihood import NoiseModel
from corrsk.relaxometry.ideal_observer._modes import ModeFinder, compiled
from corrsk.relaxometry.ideal_observer._nuisances import nuisance_ranges
from corrsk.tissue.coordinates import Tissue, TissueCoordinates, normal_density
from corrsk.tissue.prior import TissuePrior

Array = NDArray[np.float64]

_FREEDOM = 6  # degrees of freedom of the proposals, whose tails exceed those of a posterior
_WIDER = 1.2  # variance of a proposal over that of Laplace's approximation
_WIDE_COMPONENTS = 2  # of the network
_OF_NETWORK = 0.4  # their weight beside the mode
_OF_VALLEY = 0.6  # weight of the components along the valley
_PULL = 5.0  # curvature with which a point of the valley stays near its start
_VALLEY_STEPS = 2
_FLATTENED = 0.5  # power of the posterior in the weights of points of the valley
_LEAST_WEIGHT = 1e-3  # of such a point, before the weights are normalised
_REACH = 3.0  # largest coordinate of a start
_KEPT = 0.15  # weight of the first mixture in a fitted one
_PRIOR_DRAWS = 50.0  # effective draws that mean and covariance of a component count for
_LIGHT = 1e-6  # weight of a draw, relative to all, below which a fit leaves it out
_NEGLIGIBLE = 1e-4  # weight below which a fitted component has hardly a draw, and is left out
_WINDOW = 3  # rounds whose draws are kept: the first proposals are the worst
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


@dataclass(frozen=True)
class _Round:
    """Proposals of a round: the first mixture, and after the first round also a fitted one.

    Parameters
    ----------
    rows : ndarray of int, shape (W,)
        Voxels, in ascending order.
    first : NormalMixture
        First mixture of these voxels.
    fitted : NormalMixture or None
        Fitted mixture.
    """

    rows: NDArray[np.intp]
    first: NormalMixture
    fitted: NormalMixture | None

    def points(self, uniform: Array, standard: Array) -> Array:
        """Points (W, n, d) of the proposals; see :meth:`NormalMixture.points`."""
        if self.fitted is None:
            return self.first.points(uniform, standard)
        return self.fitted.joined(self.first, _KEPT).points(uniform, standard)

    def density(
        self, going: NDArray[np.intp], z: Array, wanted: NDArray[np.bool_], of_first: Array
    ) -> Array:
        """Density (V, r, n) of the proposals of some voxels (V,) at wanted points (V, r, n, d).

        The density (V, r, n) of the first mixture is given.
        """
        if self.fitted is None:
            return of_first
        fitted = self.fitted.take(np.searchsorted(self.rows, going))
        found = fitted.density(
            z.reshape(len(z), -1, z.shape[-1]), _FREEDOM, wanted.reshape(len(z), -1)
        )
        return (1 - _KEPT) * found.reshape(of_first.shape) + _KEPT * of_first

    def next_round(self, going: NDArray[np.intp], z: Array, log_weights: Array) -> _Round:
        """Fit the proposals of some voxels to their weighted draws (V, n, d)."""
        largest = log_weights.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            weights = np.exp(log_weights - largest)
        weights = np.where(np.isfinite(largest), weights, 1.0)  # no draw may be possible
        weights /= weights.sum(axis=1, keepdims=True)
        weights[weights < _LIGHT] = 0.0
        at = np.searchsorted(self.rows, going)
        first = self.first.take(at)
        latest = first
        if self.fitted is not None:  # both, so that the number of components grows
            latest = self.fitted.take(at).joined(first, _KEPT)
        fitted = latest.fitted(z, weights, _FREEDOM, _PRIOR_DRAWS, _NEGLIGIBLE)
        return _Round(going, first, fitted)


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
        Largest number of rounds; the last three are kept.
    wanted : float, default=100
        Effective number of draws, with which a voxel needs no further round.
    n_valley : int, default=16
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
        n_valley: int = 16,
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

    @property
    def finders(self) -> tuple[ModeFinder, ...]:
        """Searches for the modes of each count."""
        return tuple(self._finders)

    def proposals(
        self, x: Array, index: int, wide: NormalMixture, keys: NDArray[np.uint64]
    ) -> NormalMixture:
        """First mixture of proposals for signals (V, N).

        Its components are at a mode, along the valley of tissues that explain the signal, and the
        network's. Compartments that the signal hardly determines may lie anywhere, while the others
        follow them closely: a few wide components cannot cover such a valley, but points drawn
        from the network's mixture, and moved to the nearest tissue that explains the signal, can.
        """
        own, V = self.coordinates[index], len(x)
        start = wide.largest(1)
        mode = self._finders[index].find(x, start.means[:, 0], self._max_steps)
        mixture = NormalMixture(
            np.zeros((V, 1)), mode.z[:, None], self._factors(mode.z, mode.curvature, own)[:, None]
        ).joined(wide.largest(_WIDE_COMPONENTS), _OF_NETWORK)
        if own.K == 1 or not self._n_valley:
            return mixture
        m, d = self._n_valley, own.n_dimensions
        uniform, points = self._standard(index, keys, self._max_rounds)
        starts = np.clip(wide.points(uniform[:, :m], points[:, :m]), -_REACH, _REACH)
        moved = self._finders[index].find(
            np.repeat(x, m, axis=0), starts.reshape(V * m, d), _VALLEY_STEPS,
            starts.reshape(V * m, d), _PULL,
        )  # fmt: skip
        factors = self._factors(moved.z, moved.curvature, own).reshape(V, m, d, d)
        behind = moved.cost.reshape(V, m)
        behind = behind - behind.min(axis=1, keepdims=True)
        weights = np.exp(-_FLATTENED * behind) + _LEAST_WEIGHT
        weights = np.log(weights / weights.sum(axis=1, keepdims=True))
        return mixture.joined(NormalMixture(weights, moved.z.reshape(V, m, d), factors), _OF_VALLEY)

    @staticmethod
    def _factors(z: Array, curvature: Array, own: TissueCoordinates) -> Array:
        """Factors (B, d, d) of proposals at points (B, d) with the curvature of the posterior."""
        covariance = np.linalg.inv(curvature) * _WIDER
        # a posterior within a cell of a grid is as wide as the cell
        cells = own.cell_widths**2 / 12
        if cells.any():
            widened = cells / np.maximum(normal_density(z), 1e-3) ** 2
            covariance += widened[:, :, None] * np.eye(own.n_dimensions)
        return factors_of(np.asarray(covariance))

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
        bound = self._model.bind(x)
        first = self.proposals(x, index, wide, keys)
        V, n, d = len(x), self._n_draws, self.coordinates[index].n_dimensions
        width = min(_WINDOW, self._max_rounds)
        z = np.zeros((V, width, n, d))  # voxels with fewer rounds leave a part of it
        target = np.full((V, width, n), -np.inf)
        scales = np.zeros((V, width, n))
        of_first = np.empty((V, width, n))  # density of the first mixture at the draws
        densities = np.zeros((V, width, width, n))  # of the proposals of each round
        held = np.zeros(V, np.int64)  # rounds in the window
        enough = np.broadcast_to(self._wanted * wanted, V)
        going = np.arange(V)
        window: dict[int, _Round] = {}
        latest = _Round(going, first, None)
        for number in range(self._max_rounds):
            slot, n_held = number % width, min(number + 1, width)
            new = latest.points(*self._standard(index, keys[going], number))
            z[going, slot] = new
            target[going, slot], scales[going, slot] = self._log_target(bound, index, new, going)
            possible = np.isfinite(target[going])
            of_first[going, slot] = latest.first.density(new, _FREEDOM, possible[:, slot])
            window[slot] = latest
            for other, each in window.items():
                # the new proposal at all draws, and earlier ones at the new draws
                at = slice(n_held) if other == slot else slice(slot, slot + 1)
                densities[going, other, at] = each.density(
                    going, z[going, at], possible[:, at], of_first[going, at]
                )
            held[going] = n_held
            weights = self._weights(target[going], densities[going], held[going])
            if number + 1 == self._max_rounds:
                break
            keep = effective_number(weights) < enough[going]
            if not keep.any():
                break
            going, weights = going[keep], weights[keep]
            here = z[going, :n_held].reshape(len(going), -1, d)
            latest = latest.next_round(going, here, weights[:, : n_held * n])
        weights = self._weights(target, densities, held)
        return WeightedDraws(
            z.reshape(V, width * n, d), weights, scales.reshape(V, width * n), held * n
        )

    @staticmethod
    def _weights(target: Array, densities: Array, held: NDArray[np.int64]) -> Array:
        """Log weights (V, n) of the draws of the window."""
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.log(np.maximum(densities.sum(axis=1), 1e-300) / held[:, None, None])
        return np.where(np.isfinite(target), target - mean, -np.inf).reshape(len(target), -1)

    def _log_target(
        self, bound: BoundModel, index: int, z: Array, voxels: NDArray[np.intp]
    ) -> tuple[Array, Array]:
        """Log of likelihood times prior density at coordinates (V, n, d), and scales, (V, n)."""
        own = self.coordinates[index]
        moved = np.ascontiguousarray(np.moveaxis(z, -1, 0))
        tissue = own.tissue(moved)
        found = own.log_prior(tissue, own.values(tissue))
        likelihood, scales = self._log_likelihood(bound, own, tissue, voxels, found > -np.inf)
        found += likelihood
        found -= 0.5 * np.einsum("dvn,dvn->vn", moved, moved)
        found -= 0.5 * own.n_dimensions * np.log(2 * np.pi)
        return np.where(np.isnan(found), -np.inf, found), np.nan_to_num(scales)

    def _log_likelihood(
        self, bound: BoundModel, own: TissueCoordinates, tissue: Tissue, voxels: NDArray[np.intp],
        wanted: NDArray[np.bool_],
    ) -> tuple[Array, Array]:  # fmt: skip
        """Log likelihood of tissue in V voxels and n states, and scales; 0 for unwanted states."""
        shape = tissue.fractions.shape[1:]
        units = np.concatenate(
            [
                tissue.units,
                np.broadcast_to(tissue.shared[:, None], (own.Q, own.K, *shape)),
            ]
        )
        units = np.minimum(units.astype(np.float32), np.float32(1 - 2**-24))
        if self._model.is_product and compiled() is not None:
            found, numbers, scales = np.zeros(shape), wanted.sum(axis=1), np.ones(shape)
            with np.errstate(all="ignore"):
                projection, squared, peak = bound.products(
                    units[:, :, wanted], tissue.fractions[:, wanted], voxels, numbers
                )
                x_squared = np.repeat(bound.signal_squared[voxels, 0], numbers)
                if self._noise.normalize:
                    scales[wanted] = projection / squared
                found[wanted] = self._noise.log_likelihood(projection, squared, x_squared, peak)
            return found, scales
        with np.errstate(all="ignore"):
            forms = bound.forms(units, voxels)
            fractions = list(tissue.fractions)
            projection, squared = forms.projection(fractions), forms.squared(fractions)
            scales = projection / squared if self._noise.normalize else np.ones(shape)
            likelihood = self._noise.log_likelihood(
                projection, squared, bound.signal_squared[voxels], forms.peak(fractions)
            )
        return np.where(wanted, likelihood, 0.0), scales

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

    def _standard(self, index: int, keys: NDArray[np.uint64], number: int) -> tuple[Array, Array]:
        """Uniform numbers (V, n) and standard points (V, n, d) for each voxel."""
        uniform, points = _standard_points(
            self.coordinates[index].n_dimensions, self._n_draws, self._seed
        )
        # six bits of the key for each round, and other ones for each count
        chosen = (keys >> np.uint64((6 * number + 3 * index) % 58)) % np.uint64(_N_SETS)
        return uniform[chosen], points[chosen]


@lru_cache(maxsize=16)
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
