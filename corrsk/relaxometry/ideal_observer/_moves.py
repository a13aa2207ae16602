"""Moves of Markov chains in tissue space: proposals, and whether the prior allows them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from corrsk.tissue.fractions import FRACTION_LAWS
from corrsk.tissue.prior import TissuePrior

Units = NDArray[np.float32]

BELOW_ONE = np.float32(1 - 2**-24)
_REDRAW, _KEEP, _SWAP = 0.15, 0.05, 0.05  # fractions of the moves
_CONDITIONAL = 0.7  # of the moves draw the fractions from their conditional distribution
_STRETCH = (0.3, 0.6, 1.0)  # of the optimal step for a normal distribution
_JITTER = (0.5, 2.0, 6.0)  # in grid points
_CONTINUOUS_JITTER = 1e-4  # of the width of the prior
_NUISANCES_ALONE = 0.2  # of the moves of voxels with nuisance parameters


@dataclass(frozen=True)
class Move:
    """Kind of proposal, the same for all chains in a step.

    Parameters
    ----------
    redrawn : tuple of int
        Coordinates that are redrawn from the prior.
    stepped : tuple of int
        Coordinates that move along the difference of two other states.
    length : float
        Length of the step, as a multiple of the difference.
    jitter : float
        Random displacement of coordinates on a grid, in grid points.
    weights : bool
        Whether the weights of the fractions move along the difference too.
    conditional : bool
        Whether the fractions are drawn from their conditional distribution.
    shifts : tuple of int
        Offsets of the indices of the two other states.
    swapped : int, optional
        Index of a compartment that exchanges all properties with the next one, except the
        property that defines the order.
    """

    redrawn: tuple[int, ...]
    stepped: tuple[int, ...]
    length: float
    jitter: float
    weights: bool
    conditional: bool
    shifts: tuple[int, int]
    swapped: int | None = None

    @property
    def n_uniforms(self) -> int:
        """Number of uniform random numbers per state for the properties."""
        return len(self.redrawn) + len(self.stepped)


class MoveSet:
    """Moves for voxels with K compartments, and the prior of these voxels.

    States are coordinates ``units`` of shape (P + Q, K, V, C), uniform in [0, 1)
    for each of P properties and Q nuisance parameters, and weights (K, V, C) that sum to 1, the
    fractions being ``min_fraction + (1 - K min_fraction) weights``. Since compartments are
    exchangeable, states have their compartments in ascending
    order of one property, and moves that violate this order are not allowed. The position
    within the grid cell resolves ties on grids. Compartments share the nuisance parameters:
    only the coordinate of the first compartment is used, and does not move with the compartments.

    Parameters
    ----------
    prior : TissuePrior
        Prior with the single count K.
    order : int
        Index of the property that orders the compartments.
    n_nuisances : int, default=0
        Number Q of nuisance parameters.

    Notes
    -----
    Most moves step along the difference of two states of the initial population of
    the chains (differential evolution: ter Braak, Stat. Comput.
    16, 239 (2006)), in a random subset of the coordinates (Vrugt et al., Int. J.
    Nonlinear Sci. Numer. Simul. 10, 273 (2009)). The initial population does not
    change while the chains move, so that each step is a Metropolis step.
    """

    def __init__(self, prior: TissuePrior, order: int, n_nuisances: int = 0) -> None:
        (self.K,) = prior.n_compartments
        self.order = order
        self._ranges = tuple(prior.ranges.values())
        self._names = tuple(prior.ranges)
        self._prior = prior
        self.n_properties = len(self._ranges)
        self._Q = n_nuisances
        self.min_fraction = prior.min_fraction
        self.free = 1.0 - self.K * prior.min_fraction
        # whether the fractions are random
        self._law = FRACTION_LAWS[prior.fraction_law]
        self.weighted = self.K > 1 and self._law.is_random and self.free > 1e-9

    def choose(self, rng: Generator, n_chains: int) -> Move:
        """Draw a kind of move, independent of the states."""
        K, P = self.K, self.n_properties
        first = int(rng.integers(1, n_chains))
        second = (first + int(rng.integers(1, n_chains))) % n_chains
        shifts = (first, second)
        conditional = self.weighted and rng.random() < _CONDITIONAL
        kind = rng.random()
        jitter = float(rng.choice(_JITTER))
        properties = self._some(rng, P)
        nuisances = self._some_nuisances(rng)
        alone = bool(nuisances) and rng.random() < _NUISANCES_ALONE
        if kind < _REDRAW and alone:
            return Move(nuisances, (), 0.0, jitter, False, conditional, shifts)
        if kind < _REDRAW:
            i = int(rng.integers(K))
            redrawn = tuple(p * K + i for p in properties)
            return Move(redrawn, (), 0.0, jitter, False, conditional, shifts)
        if conditional and kind < _REDRAW + _KEEP:
            return Move((), (), 0.0, jitter, False, True, shifts)
        if K > 1 and kind < _REDRAW + _KEEP + _SWAP:
            swapped = int(rng.integers(K - 1))
            return Move((), (), 0.0, jitter, False, conditional, shifts, swapped)
        share = (int(rng.integers(K)) + 1) / K
        compartments = [i for i in range(K) if rng.random() < share] or [int(rng.integers(K))]
        stepped = tuple(p * K + i for p in properties for i in compartments)
        stepped = nuisances if alone else stepped + nuisances
        weights = self.weighted and not conditional and bool(rng.random() < 0.7)
        if weights and rng.random() < 0.15:
            stepped = ()
        dimensions = len(stepped) + (K - 1 if weights else 0)
        length = 2.38 / math.sqrt(2 * dimensions) * float(rng.choice(_STRETCH))
        if rng.random() < 0.1:
            length = 1.0  # from one mode to another
        return Move((), stepped, length, jitter, weights, conditional, shifts)

    @staticmethod
    def _some(rng: Generator, P: int) -> list[int]:
        """Draw indices of properties: all with probability 0.5, otherwise a random subset."""
        if P == 1 or rng.random() < 0.5:
            return list(range(P))
        return [p for p in range(P) if rng.random() < 0.5] or [int(rng.integers(P))]

    def _some_nuisances(self, rng: Generator) -> tuple[int, ...]:
        """Draw coordinates of nuisance parameters; no random number is drawn without these."""
        if not self._Q or rng.random() < 0.3:
            return ()
        return tuple((self.n_properties + q) * self.K for q in self._some(rng, self._Q))

    def propose(
        self,
        move: Move,
        units: Units,
        weights: Units,
        other_units: Units,
        other_weights: Units,
        uniforms: Units,
    ) -> tuple[Units, Units, NDArray[np.bool_]]:
        """Propose states, and check whether the prior allows these (before a conditional draw).

        Parameters
        ----------
        move : Move
            Kind of proposal.
        units, weights : ndarray of shapes (P + Q, K, V, C), (K, V, C)
            Current states.
        other_units, other_weights : ndarray of the same shapes
            Differences of two other states.
        uniforms : ndarray of shape (n_uniforms, V, C)
            Uniform random numbers.

        Returns
        -------
        units, weights, allowed : ndarray
            Proposed states, and a mask of shape (V, C). States that are not allowed are replaced
            by arbitrary states of the prior.
        """
        proposed = units.copy()
        flat = proposed.reshape(-1, *units.shape[2:])
        others = other_units.reshape(flat.shape)
        for index, uniform in zip(move.redrawn, uniforms, strict=False):
            p, i = divmod(index, self.K)
            if p == self.order:  # between its neighbours, which do not move
                low = units[p, i - 1] if i else np.float32(0)
                high = units[p, i + 1] if i + 1 < self.K else np.float32(1)
                uniform = low + uniform * (high - low)
            flat[index] = uniform
        for index, uniform in zip(move.stepped, uniforms[len(move.redrawn) :], strict=True):
            p = index // self.K
            n = self._ranges[p].n_values if p < self.n_properties else math.inf
            width = 2 * _CONTINUOUS_JITTER if math.isinf(n) else move.jitter / n
            flat[index] += np.float32(move.length) * others[index]
            flat[index] += (uniform - np.float32(0.5)) * np.float32(width)
        if move.swapped is not None:
            i, j = move.swapped, move.swapped + 1
            own = proposed[: self.n_properties]
            own[:, [i, j]] = own[:, [j, i]]
            proposed[self.order] = units[self.order]
            if self.weighted:
                weights = weights.copy()
                weights[[i, j]] = weights[[j, i]]
        allowed = np.asarray(((flat >= 0) & (flat < 1)).all(axis=0))
        ordered = proposed[self.order]
        for i in range(self.K - 1):
            allowed &= ordered[i] < ordered[i + 1]
        np.clip(flat, 0, BELOW_ONE, out=flat)
        if move.weights:
            weights = weights + np.float32(move.length) * other_weights
            allowed &= (weights >= 0).all(axis=0)
            np.clip(weights, 0, 1, out=weights)
        self._restrict(proposed, allowed)
        return proposed, weights, allowed

    def _restrict(self, units: Units, allowed: NDArray[np.bool_]) -> None:
        """Disallow states that violate the prior's conditions on properties or compartments."""
        prior = self._prior
        if prior.t2_below_t1:
            t1, t2 = (self._values(name, units) for name in ("T1", "T2"))
            allowed &= (t2 < t1).all(axis=0)
        if not prior.with_replacement:
            for unit, values in zip(units[: self.n_properties], self._ranges, strict=True):
                if values.step is None:
                    continue  # two values of a continuous range are never equal
                index = values.cells(unit)
                for i in range(self.K):
                    for j in range(i):
                        allowed &= index[i] != index[j]

    def _values(self, name: str, units: Units) -> NDArray[np.float64]:
        p = self._names.index(name)
        unit = units[p] if self._ranges[p].step is not None else units[p].astype(np.float64)
        return np.asarray(self._ranges[p].from_unit(unit))

    def fractions(self, weights: Units) -> list[NDArray[np.float64]]:
        """Convert weights (K, V, C) to K fractions (V, C)."""
        return [self.min_fraction + self.free * w.astype(np.float64) for w in weights]

    def weights(self, fractions: list[NDArray[np.float64]]) -> Units:
        """Convert K fractions (V, C) to weights (K, V, C)."""
        weights = (np.stack(fractions) - self.min_fraction) / self.free
        return np.clip(weights, 0, 1).astype(np.float32)

    def log_prior(self, weights: Units) -> NDArray[np.float64] | float:
        """Logarithm of the prior density of weights, up to a constant."""
        return self._law.log_density(weights) if self.weighted else 0.0
