"""Posterior of the compartments of voxels as a normal distribution at the mode of each count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import log_softmax, ndtri
from scipy.stats import qmc

from corrsk.relaxometry.ideal_observer._modes import ModeFinder, Modes
from corrsk.tissue.coordinates import TissueCoordinates
from corrsk.trained.posterior import TOLERANCE, compiled, decided_table, with_confidences

Array = NDArray[np.float64]

LOSSES_OF_MODES = ("strict", "median")
_MAX_STEPS = 20
_N_POINTS = 64  # of a normal distribution, by which the masses of boxes are found
_OF_NETWORK = 0.3  # weight of the network in the log probabilities of the counts
_NEGLIGIBLE = 1e-3  # probability of a count that is left out of the confidences
_LEAST_MASS = 0.01  # added to the mass of a box: a posterior may be wider than its normal form


@dataclass(frozen=True)
class CountModes:
    """Modes of K compartments in some of V voxels.

    Parameters
    ----------
    coordinates : TissueCoordinates
        Coordinates of K compartments.
    rows : ndarray of int, shape (B,)
        The voxels, ascending.
    modes : Modes
        Modes in the coordinates.
    explained : ndarray of bool, shape (B,)
        Whether noise explains what the modes leave of the signals.
    """

    coordinates: TissueCoordinates
    rows: NDArray[np.intp]
    modes: Modes
    explained: NDArray[np.bool_]

    @cached_property
    def parameters(self) -> Array:
        """Properties and fractions (B, P + 1, K) at the modes."""
        own = self.coordinates
        tissue = own.tissue(np.ascontiguousarray(self.modes.z.T))
        every = [
            *(each.continuous().from_unit(u) for each, u in zip(own.ranges, tissue.units)),  # noqa: B905
            tissue.fractions,
        ]
        return np.moveaxis(np.stack(every), -1, 0)

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Whether the prior allows the modes, (B,)."""
        own = self.coordinates
        values = dict(zip(own.names, np.moveaxis(self.parameters[:, :-1], 0, -1), strict=True))
        return own.allowed(values)

    def boxes(self, parameters: Array) -> tuple[Array, Array]:
        """Limits (B, P, K) of the coordinates within the tolerance of the modes' parameters."""
        lower = np.full((len(parameters), self.coordinates.P, self.coordinates.K), -np.inf)
        upper = -lower
        for p, each in enumerate(self.coordinates.ranges):
            if each.low == each.high:
                continue
            for ends, side in ((lower, -TOLERANCE), (upper, TOLERANCE)):
                values = parameters[:, p] * (each.high / each.low) ** side
                units = each.continuous().to_unit(values, values)
                ends[:, p] = ndtri(np.clip(units, 0, 1))
        return lower, upper

    def joint_masses(self, lower: Array, upper: Array) -> Array:
        """Masses (B,) with each compartment in its box, of boxes (B, P, K)."""
        kernels = compiled()
        if kernels is None:
            inside = self._inside(np.arange(len(lower)), lower, upper)
            own = range(self.coordinates.K)
            return np.asarray(inside[:, own, own].all(axis=1).mean(axis=1))
        joint = np.empty(len(lower))
        self._compiled_masses(kernels, slice(None), lower, upper, joint[:, None][:, :0], joint)
        return joint

    def masses(self, at: NDArray[np.intp], lower: Array, upper: Array) -> Array:
        """Masses (A, C) with any compartment in a box, of boxes (A, P, C) of some of the voxels."""
        kernels = compiled()
        if kernels is None:
            return np.asarray(self._inside(at, lower, upper).any(axis=1).mean(axis=2))
        each = np.empty((len(lower), lower.shape[2]))
        self._compiled_masses(kernels, at, lower, upper, each, np.empty(0))
        return each

    def _compiled_masses(
        self, kernels: ModuleType, at: NDArray[np.intp] | slice, lower: Array, upper: Array,
        each: Array, joint: Array,
    ) -> None:  # fmt: skip
        own = self.coordinates
        points = _normal_points(own.n_dimensions)
        z, curvature = self.modes.z[at], self.modes.curvature[at]
        kernels.normal_masses(own.K, z, curvature, points, lower, upper, each, joint)

    def _inside(self, at: NDArray[np.intp], lower: Array, upper: Array) -> NDArray[np.bool_]:
        """Whether each of K compartments lies in each box (A, P, C), by points: (A, K, C, n)."""
        own, points = self.coordinates, _normal_points(self.coordinates.n_dimensions)
        factors = np.linalg.cholesky(self.modes.curvature[at]).swapaxes(1, 2)
        z = self.modes.z[at][:, :, None] + np.linalg.solve(factors, points[None])
        z = z[:, : own.P * own.K].reshape(len(at), own.P, own.K, 1, -1)
        low, high = lower[:, :, None, :, None], upper[:, :, None, :, None]
        return np.asarray(((low <= z) & (z <= high)).all(axis=1))


@dataclass(frozen=True)
class CompartmentModes:
    """Normal approximation of the posterior of the compartments of V voxels.

    Returned by :meth:`corrsk.CompartmentRegressor.modes`. It has the decisions of
    :class:`corrsk.CompartmentPosterior` that need no draws.

    Parameters
    ----------
    log_proba : ndarray of shape (V, n_counts)
        Logarithms of the probabilities of the counts.
    modes : list of CountModes
        Modes of each count, of the voxels in which the count has been searched for.
    size : ndarray of shape (V,)
        Norm of each signal in its own unit; 1 for signals without a norm.
    normalize : bool
        Whether the scale of the signals is unknown.
    """

    log_proba: Array
    modes: list[CountModes]
    size: Array
    normalize: bool

    @classmethod
    def find(
        cls,
        finders: Sequence[ModeFinder],
        x: Array,
        log_proba: Array,
        places: Sequence[Array],
        likely: NDArray[np.bool_],
        size: Array,
        normalize: bool,
    ) -> CompartmentModes:
        """Find modes of signals in grid order, from the predictions of a network.

        Parameters
        ----------
        finders : sequence of ModeFinder
            Search of each count.
        x : ndarray of shape (V, N)
            Signals, of norm 1 if normalised.
        log_proba : ndarray of shape (V, n_counts)
            Logarithms of the probabilities of the counts by the network.
        places : sequence of ndarray of shape (V, d)
            Starts of the search of each count.
        likely : ndarray of bool, shape (V, n_counts)
            Counts to search for; the others keep the probabilities of the network.
        size : ndarray of shape (V,)
            Norm of each signal in its own unit.
        normalize : bool
            Whether the scale of the signals is unknown.

        Returns
        -------
        CompartmentModes
            The modes.
        """
        evidence = np.full(log_proba.shape, -np.inf)
        found = []
        for index, (finder, place) in enumerate(zip(finders, places, strict=True)):
            rows = np.flatnonzero(likely[:, index])
            modes = finder.find(x[rows], place[rows], _MAX_STEPS)
            evidence[rows, index] = finder.log_evidence(x[rows], modes)
            explained = finder.explains(x[rows], modes)
            found.append(CountModes(finder.coordinates, rows, modes, explained))
        searched = log_softmax(evidence, axis=1)
        joint = np.where(likely, (1 - _OF_NETWORK) * searched + _OF_NETWORK * log_proba, -np.inf)
        left = np.log(np.where(likely, np.exp(log_proba), 0.0).sum(axis=1, keepdims=True))
        return cls(
            np.where(likely, log_softmax(joint, axis=1) + left, log_proba), found, size, normalize
        )

    @classmethod
    def concatenate(cls, parts: Sequence[CompartmentModes]) -> CompartmentModes:
        """Join the modes of groups of voxels.

        Parameters
        ----------
        parts : sequence of CompartmentModes
            Modes of the same model.

        Returns
        -------
        CompartmentModes
            The modes of all voxels.
        """
        first = np.cumsum([0, *(len(part.size) for part in parts)])
        joined = []
        for each in zip(*(part.modes for part in parts), strict=True):
            rows = [one.rows + start for one, start in zip(each, first[:-1], strict=True)]
            modes = Modes(*map(np.concatenate, zip(*(one.modes for one in each), strict=True)))
            explained = np.concatenate([one.explained for one in each])
            joined.append(CountModes(each[0].coordinates, np.concatenate(rows), modes, explained))
        return cls(
            np.concatenate([part.log_proba for part in parts]), joined,
            np.concatenate([part.size for part in parts]), parts[0].normalize,
        )  # fmt: skip

    @property
    def probabilities(self) -> Array:
        """Probabilities of the counts, (V, n_counts)."""
        return np.asarray(np.exp(self.log_proba))

    @property
    def reliable(self) -> NDArray[np.bool_]:
        """Whether the mode of the most probable count was found, and is possible, (V,).

        Steps towards a mode may not have ended, or end where the prior has no tissue, with a
        negative scale, or where noise does not explain the rest of the signal.
        """
        settled = self._of_best(
            [each.modes.settled & each.explained & each.allowed for each in self.modes]
        )
        return settled & ~self.inverted

    @property
    def inverted(self) -> NDArray[np.bool_]:
        """Whether the scale at the mode of the most probable count is negative, (V,)."""
        return self._of_best([each.modes.forms[:, 0] < 0 for each in self.modes])

    def _of_best(self, masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Masks (V,) of the most probable counts, from those (B,) of the voxels of each count."""
        found = np.zeros(self.log_proba.shape, dtype=bool)
        for index, (each, mask) in enumerate(zip(self.modes, masks, strict=True)):
            found[each.rows, index] = mask
        best = self.log_proba.argmax(axis=1)
        return np.asarray(found[np.arange(len(best)), best])

    def table(self, loss: str = "strict") -> pd.DataFrame:
        """Compartments of each voxel: those of the mode of a count.

        Parameters
        ----------
        loss : {"strict", "median"}, default="strict"
            "strict": the count with the largest product of its probability and of the mass of its
            normal distribution within the tolerance of the mode. "median": the most probable count.

        Returns
        -------
        DataFrame of V rows
            As for :meth:`corrsk.CompartmentPosterior.table`.

        Raises
        ------
        ValueError
            If the loss is another one, such as one that needs draws.
        """
        if loss not in LOSSES_OF_MODES:
            names = " or ".join(map(repr, LOSSES_OF_MODES))
            raise ValueError(f"loss must be {names} without draws; got {loss!r}")
        probabilities = self.probabilities
        V, n_counts = probabilities.shape
        K_max, P = max(each.coordinates.K for each in self.modes), self.modes[0].coordinates.P
        parameters = np.full((n_counts, V, P + 1, K_max), np.nan)
        parameters[:, :, -1] = 0.0
        boxes = np.full((2, n_counts, V, P, K_max), np.nan)
        masses, scales = np.zeros((V, n_counts)), np.zeros((V, n_counts))
        for index, each in enumerate(self.modes):
            own, rows, K = each.parameters, each.rows, each.coordinates.K
            parameters[index, rows, :, :K] = own
            lower, upper = each.boxes(own)
            boxes[0, index, rows, :, :K], boxes[1, index, rows, :, :K] = lower, upper
            masses[rows, index] = each.joint_masses(lower, upper)
            forms = each.modes.forms
            scales[rows, index] = forms[:, 0] / np.maximum(forms[:, 1], 1e-12)
        expected = probabilities * (masses + _LEAST_MASS)
        chosen = (expected if loss == "strict" else probabilities).argmax(axis=1)
        at = np.arange(V)
        best, (lower, upper) = parameters[chosen, at], boxes[:, chosen, at]
        near = np.zeros((V, K_max))
        for index, each in enumerate(self.modes):
            some = np.flatnonzero(probabilities[each.rows, index] > _NEGLIGIBLE)
            rows = each.rows[some]
            share = each.masses(some, lower[rows], upper[rows])
            near[rows] += probabilities[rows, index, None] * share
        order = np.argsort(best[:, self.modes[0].coordinates.order], axis=1)  # NaN come last
        best = np.take_along_axis(best, order[:, None], axis=2)
        near = np.take_along_axis(near, order, axis=1)
        sure = probabilities * (masses if loss == "strict" else 1.0)
        table = decided_table(
            best, np.array([each.coordinates.K for each in self.modes])[chosen],
            self.size * (scales[at, chosen] if self.normalize else 1.0), sure[at, chosen],
            self.modes[0].coordinates.names,
        )  # fmt: skip
        return with_confidences(table, near)


@lru_cache(maxsize=16)
def _normal_points(d: int) -> Array:
    """Points (d, n) of the standard normal distribution: scrambled Sobol points."""
    sobol: Any = qmc.Sobol(d, scramble=True, rng=np.random.default_rng(d))
    return np.ascontiguousarray(ndtri(np.clip(sobol.random(_N_POINTS), 1e-9, 1 - 1e-9)).T)
