"""Evidence by sequential Monte Carlo from the prior to the posterior."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from corrsk._utils.rng import Stream, keyed_generator
from corrsk.relaxometry.ideal_observer._forms import BoundModel, Units
from corrsk.relaxometry.ideal_observer._fractions import fraction_proposal
from corrsk.relaxometry.ideal_observer._likelihood import NoiseModel
from corrsk.relaxometry.ideal_observer._moves import BELOW_ONE, Move, MoveSet
from corrsk.tissue.prior import TissuePrior

Array = NDArray[np.float64]

_MAX_CHAINS = 64
_EFFECTIVE_SHARE = 0.3  # effective fraction of the particles after a step of the temperature
_MAX_TEMPERATURES = 300  # a few dozen suffice for a sigma of 0.01 % of M0
_SEARCH_PARTICLES = 2048
_BISECTIONS = 16


class EvidenceSampler:
    """Sampler of the evidence of K compartments, in independent runs.

    Parameters
    ----------
    prior : TissuePrior
        Distribution of the tissue.
    K : int
        Number of compartments.
    noise : NoiseModel
        Noise of the signals.
    n_particles : int
        Number of particles of each run at each temperature.
    n_runs : int
        Number of runs.
    seed : int
        Seed of the kinds of moves, which all voxels share.
    order : int
        Index of the property that orders the compartments.
    n_nuisances : int, default=0
        Number of nuisance parameters, whose coordinates follow those of the properties.

    Notes
    -----
    Waste-free sequential Monte Carlo (Dau and Chopin, J. R. Stat. Soc. B 84,
    114 (2022)): at each temperature a few particles are resampled and start
    Markov chains, and all states of the chains are the particles of the next
    temperature. The likelihood is raised to powers from 0 to 1; the next power
    is that with an effective sample size of 30 % of the particles (Jasra et al., Scand.
    J. Stat. 38, 1 (2011)).

    The runs of a voxel are independent except for the powers and for the steps
    of the chains: each run takes the lengths and directions of its steps from another run.
    """

    def __init__(
        self,
        prior: TissuePrior,
        K: int,
        noise: NoiseModel,
        n_particles: int,
        n_runs: int,
        seed: int,
        order: int,
        n_nuisances: int = 0,
    ) -> None:
        self._prior = replace(prior, n_compartments=(K,), nuisances=None)
        self._moves = MoveSet(self._prior, order, n_nuisances)
        self._n_nuisances = n_nuisances
        self._noise, self._seed = noise, seed
        self.K, self.n_runs = K, n_runs
        self.n_chains = max(4, min(_MAX_CHAINS, n_particles // 8))
        self._length = -(-n_particles // self.n_chains)

    def log_evidence(self, model: BoundModel, streams: list[Generator]) -> Array:
        """Logarithm of the evidence in each run.

        Parameters
        ----------
        model : BoundModel
            Compartment model with the signals of V voxels.
        streams : list of V Generators
            Random streams of the voxels, so that the result of a voxel does not depend on others.

        Returns
        -------
        ndarray of shape (V, n_runs)
            Log evidence.
        """
        return _Ladder(self, model, streams).climb()

    def draws(
        self, model: BoundModel, streams: list[Generator]
    ) -> tuple[Array, list[PosteriorDraws]]:
        """Log evidence as :meth:`log_evidence`, and weighted draws from each posterior."""
        kept: dict[int, PosteriorDraws] = {}
        evidence = _Ladder(self, model, streams, kept).climb()
        return evidence, [kept[voxel] for voxel in range(len(streams))]


class PosteriorDraws(NamedTuple):
    """Weighted draws from the posterior of a voxel.

    units : (P + Q, K, n) coordinates in [0, 1), fractions : (K, n), weights : (n,) of sum 1.
    """

    units: Array
    fractions: Array
    weights: Array


class _Ladder:
    """Particles of V voxels between prior and posterior, whose draws are kept if there is a place.

    The draws of voxels are stored in `kept` by the index of the voxel.
    """

    def __init__(
        self,
        sampler: EvidenceSampler,
        model: BoundModel,
        streams: list[Generator],
        kept: dict[int, PosteriorDraws] | None = None,
    ) -> None:
        self._moves, self._noise = sampler._moves, sampler._noise
        self._prior, self._seed = sampler._prior, sampler._seed
        self._n_nuisances = sampler._n_nuisances
        self._model, self._streams = model, streams
        self._R, self._M, self._L = sampler.n_runs, sampler.n_chains, sampler._length
        self._voxels = np.arange(len(streams))  # voxels that have not reached the posterior
        self._temperature = np.zeros(len(streams))
        self._kept = kept

    def climb(self) -> Array:
        V, R = len(self._streams), self._R
        log_evidence = np.zeros((V, R))
        units, weights, likelihood = self._draw_from_prior()
        step = 0
        while True:
            self._next_temperatures(likelihood, last=step == _MAX_TEMPERATURES)
            largest = likelihood.max(axis=2, keepdims=True)
            tempered = np.exp(self._increase[:, None, None] * (likelihood - largest))
            mean = tempered.mean(axis=2)
            log_evidence[self._voxels] += np.log(mean) + self._increase[:, None] * largest[..., 0]
            going = self._temperature[self._voxels] < 1
            if self._kept is not None:
                runs = np.exp(log_evidence - log_evidence.max(axis=1, keepdims=True))
                for at in np.flatnonzero(~going):
                    # each run has the weight of its evidence
                    voxel = int(self._voxels[at])
                    share = tempered[at] * (runs[voxel] / mean[at])[:, None]
                    self._kept[voxel] = PosteriorDraws(
                        units[:, :, at].astype(np.float64),
                        np.stack(self._moves.fractions(weights[:, at])),
                        share.ravel() / share.sum(),
                    )
            if not going.any():
                return log_evidence
            self._voxels = self._voxels[going]
            start = self._resample(tempered[going], np.flatnonzero(going), units, weights)
            rng = keyed_generator(self._seed, Stream.MOVES, self._moves.K, step)
            units, weights, likelihood = self._move(*start, rng)
            step += 1

    # -- temperatures --------------------------------------------------------------

    def _next_temperatures(self, likelihood: Array, *, last: bool) -> None:
        """Set the largest increase of each voxel's power with enough effective particles."""
        every = max(1, likelihood[0].size // _SEARCH_PARTICLES)
        some = likelihood.reshape(len(likelihood), -1)[:, ::every]
        some = some - some.max(axis=1, keepdims=True)
        largest = 1.0 - self._temperature[self._voxels]

        def enough(increase: Array) -> NDArray[np.bool_]:
            w = np.exp(increase[:, None] * some)
            share = w.sum(axis=1) ** 2 / (w * w).sum(axis=1) / some.shape[1]
            return np.asarray(share >= _EFFECTIVE_SHARE)

        done = enough(largest)
        high = np.log(largest)
        low = high - 30.0
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            good = enough(np.exp(middle))
            low, high = np.where(good, middle, low), np.where(good, high, middle)
        finish = done | last
        self._increase = np.where(finish, largest, np.exp(low))
        self._temperature[self._voxels] = np.where(
            finish, 1.0, self._temperature[self._voxels] + self._increase
        )

    def _resample(
        self, tempered: Array, kept: NDArray[np.intp], units: Units, weights: Units
    ) -> tuple[Units, Units]:
        """Resample M states of each run systematically, and sort their compartments."""
        V, R, n = tempered.shape
        M = self._M
        uniforms = np.array([self._streams[voxel].random((R, 1 + M)) for voxel in self._voxels])
        offset = uniforms[..., :1]
        cumulative = np.cumsum(tempered, axis=2)
        cumulative /= cumulative[..., -1:]
        # state k has the points (m + offset) / M up to its cumulative weight
        points = np.maximum(np.ceil(cumulative * M - offset), 0).astype(np.intp)
        points[..., -1] = M
        copies = np.diff(points, axis=2, prepend=0).ravel()
        chosen = np.repeat(np.arange(V * R * n), copies) % (R * n)
        # neighbouring states are related; shuffled, so that differences are those of any two states
        shuffled = uniforms[..., 1:].argsort(axis=2)
        chosen = np.take_along_axis(chosen.reshape(V, R, M), shuffled, axis=2)
        where = kept[:, None], chosen.reshape(V, R * M)
        units, weights = units[:, :, where[0], where[1]], weights[:, where[0], where[1]]
        order = units[self._moves.order].argsort(axis=0, kind="stable")
        own = units[: self._moves.n_properties]  # not the nuisance parameters
        own[:] = np.take_along_axis(own, order[None], axis=1)
        return units, np.take_along_axis(weights, order, axis=0)

    # -- states -------------------------------------------------------------------

    def _draw_from_prior(self) -> tuple[Units, Units, Array]:
        V, C, K = len(self._streams), self._R * self._M * self._L, self._moves.K
        ranges = list(self._prior.ranges.values())
        units = np.empty((len(ranges) + self._n_nuisances, K, V, C), np.float32)
        weights = np.empty((K, V, C), np.float32)
        n_c = np.full(C, K)
        drawn = np.empty((len(self._prior.columns), C))
        for v, stream in enumerate(self._streams):
            self._prior._draw(stream, n_c, drawn)
            groups = drawn.reshape(-1, K, C)
            for p, values in enumerate(ranges):
                unit = values.to_unit(groups[p], stream.random((K, C)))
                units[p, :, v] = np.minimum(unit.astype(np.float32), BELOW_ONE)
            for q in range(len(ranges), len(units)):
                stream.random(dtype=np.float32, out=units[q, 0, v])
                units[q, 1:, v] = 0.0  # not used
            if self._moves.weighted:
                weights[:, v] = (groups[-1] - self._moves.min_fraction) / self._moves.free
            else:
                weights[:, v] = 1.0 / K
        np.clip(weights, 0, 1, out=weights)
        likelihood = np.empty((V, C))
        for first in range(0, C, self._R * self._M):  # in parts that fit in the cache
            part = slice(first, first + self._R * self._M)
            forms = self._model.forms(units[..., part], self._voxels)
            fractions = self._moves.fractions(weights[..., part])
            likelihood[:, part] = self._noise.log_likelihood(
                forms.projection(fractions), forms.squared(fractions),
                self._model.signal_squared, forms.peak(fractions),
            )  # fmt: skip
        return units, weights, likelihood.reshape(V, self._R, -1)

    def _evaluate(
        self, units: Units, weights: Units, uniforms: Units | None
    ) -> tuple[Units, Array, Array | float, Array | float]:
        """Weights, log likelihood, log prior, and log density of the proposal of the fractions."""
        moves, noise = self._moves, self._noise
        squared = self._model.signal_squared[self._voxels]
        forms = self._model.forms(units, self._voxels)
        density: Array | float = 0.0
        fractions = None if uniforms is not None else moves.fractions(weights)
        if moves.weighted:
            temperature = self._temperature[self._voxels][:, None]
            proposal = fraction_proposal(forms, noise, squared, temperature, moves.min_fraction)
            if fractions is None:
                assert uniforms is not None
                fractions, density = proposal.draw(uniforms)
                weights = moves.weights(fractions)
            else:
                density = proposal.log_density(fractions)
        assert fractions is not None
        likelihood = noise.log_likelihood(
            forms.projection(fractions), forms.squared(fractions), squared, forms.peak(fractions)
        )
        return weights, likelihood, moves.log_prior(weights), density

    def _move(self, units: Units, weights: Units, rng: Generator) -> tuple[Units, Units, Array]:
        """Run Markov chains, and return all their states, including the initial states."""
        V, R, M, L, K = len(self._voxels), self._R, self._M, self._L, self._moves.K
        P = len(units)
        all_units = np.empty((P, K, V, R, L, M), np.float32)
        all_weights = np.empty((K, V, R, L, M), np.float32)
        all_likelihoods = np.empty((V, R, L, M))
        # Differences are taken from the states of the next run: the states of the same run include
        # copies and relatives of the moving state, on which a Metropolis step must not depend.
        partners = [
            np.roll(each, -1, axis=-2)
            for each in (units.reshape(P, K, V, R, M), weights.reshape(K, V, R, M))
        ]
        doubled = [np.concatenate([each, each], axis=-1) for each in partners]
        temperature = self._temperature[self._voxels][:, None]
        _, likelihood, log_prior, density = self._evaluate(units, weights, None)
        for step in range(L):
            if step:
                move = self._moves.choose(rng, M)
                uniforms = self._uniforms(move)
                new_units, new_weights, allowed = self._moves.propose(
                    move,
                    units,
                    weights,
                    self._differences(doubled[0], move, uniforms[1]),
                    self._differences(doubled[1], move, uniforms[1]),
                    uniforms[2 : 2 + move.n_uniforms],
                )
                drawn = uniforms[2 + move.n_uniforms :] if move.conditional else None
                new_weights, new_likelihood, new_prior, new_density = self._evaluate(
                    new_units, new_weights, drawn
                )
                log_ratio = temperature * (new_likelihood - likelihood) + (new_prior - log_prior)
                if move.conditional:
                    log_ratio += density - new_density
                # 1 - u is in (0, 1], where the logarithm is finite
                accepted = allowed & (np.log1p(-uniforms[0]) <= log_ratio)
                units = np.where(accepted, new_units, units)
                weights = np.where(accepted, new_weights, weights)
                likelihood = np.where(accepted, new_likelihood, likelihood)
                log_prior = np.where(accepted, new_prior, log_prior)
                density = np.where(accepted, new_density, density)
            all_units[..., step, :] = units.reshape(P, K, V, R, M)
            all_weights[..., step, :] = weights.reshape(K, V, R, M)
            all_likelihoods[..., step, :] = likelihood.reshape(V, R, M)
        C = R * L * M
        return (
            all_units.reshape(P, K, V, C),
            all_weights.reshape(K, V, C),
            all_likelihoods.reshape(V, R, L * M),
        )

    def _uniforms(self, move: Move) -> Units:
        """Uniforms (.., V, R M) for acceptance, direction, properties and fractions."""
        n = 2 + move.n_uniforms + (self._moves.K - 1 if move.conditional else 0)
        drawn = np.empty((len(self._voxels), n, self._R * self._M), np.float32)
        for voxel, out in zip(self._voxels, drawn, strict=True):
            self._streams[voxel].random(dtype=np.float32, out=out)
        return drawn.transpose(1, 0, 2)

    def _differences(self, doubled: Units, move: Move, uniform: Units) -> Units:
        """Differences of two states, with random signs.

        The two states do not change while the chains move: without random signs
        the proposal would not be reversible, as a Metropolis step requires.
        """
        first, second = (doubled[..., s : s + self._M] for s in move.shifts)
        difference = first - second
        flat = difference.reshape(*difference.shape[:-2], -1)
        return np.where(uniform < 0.5, -flat, flat)
