"""Coordinates of the tissue of a voxel in which the prior is a standard normal distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from corrsk.tissue.fractions import FRACTION_LAWS
from corrsk.tissue.prior import TissuePrior

Array = NDArray[np.float64]

_N_DRAWS = 400_000  # for the share of the allowed tissue, whose relative error is below 1e-2
_SEED = 20_240_611
_ON_GRID = 1e-3  # largest distance from a grid point, in steps, and of fractions from a bound
_FARTHEST = 6.0  # largest coordinate: the normal distribution has 1e-9 beyond


@dataclass(frozen=True)
class Tissue:
    """Tissue of K compartments in states of any shape.

    Parameters
    ----------
    units : ndarray of shape (P, K, ..)
        Coordinates of the properties in which the prior is uniform in [0, 1).
    fractions : ndarray of shape (K, ..)
        Signal fractions.
    shared : ndarray of shape (Q, ..)
        Coordinates in [0, 1) of what the compartments of a voxel share.
    """

    units: Array
    fractions: Array
    shared: Array


class TissueCoordinates:
    """Map between the tissue of K compartments and coordinates z, a priori standard normal.

    The order of the coordinates is that of the P properties, each for all compartments, then
    the K - 1 free fractions, then Q parameters that the compartments share. For each
    coordinate, the normal distribution function turns z into a number that is uniform in
    [0, 1) a priori: the unit of a property (:meth:`corrsk.PropertyRange.from_unit`), or the share
    of a fraction in what the fractions before it leave, ``1 - (1 - share)^m`` for m later
    fractions. In these coordinates ranges have no ends, which a step of an optimiser or the tail of
    a proposal could cross.

    Parameters
    ----------
    prior : TissuePrior
        Prior of the tissue.
    n_compartments : int
        Number K of compartments.
    n_shared : int, default=0
        Number Q of parameters that the compartments share.

    Notes
    -----
    Shares of a flat Dirichlet distribution by breaking a stick: Connor and Mosimann, J. Am. Stat.
    Assoc. 64, 194 (1969). The density of another law of the fractions, and the conditions of the
    prior, are those of :meth:`log_prior`.
    """

    def __init__(self, prior: TissuePrior, n_compartments: int, n_shared: int = 0) -> None:
        self.K = n_compartments
        self.prior = replace(prior, n_compartments=(n_compartments,), nuisances=None)
        self.names = tuple(prior.ranges)
        self.ranges = tuple(prior.ranges.values())
        self.P, self.Q = len(self.ranges), n_shared
        # compartments are exchangeable; they are in ascending order of T2
        self.order = self.names.index("T2") if "T2" in self.names else self.P - 1
        self.free = 1.0 - self.K * prior.min_fraction
        self._law = FRACTION_LAWS[prior.fraction_law]
        self.weighted = self.K > 1 and self._law.is_random and self.free > 1e-9
        self.n_fractions = self.K - 1 if self.weighted else 0

    @property
    def n_dimensions(self) -> int:
        """Number of coordinates."""
        return self.P * self.K + self.n_fractions + self.Q

    @property
    def of_fractions(self) -> slice:
        """Place of the fractions among the coordinates."""
        return slice(self.P * self.K, self.P * self.K + self.n_fractions)

    def tissue(self, z: Array) -> Tissue:
        """Tissue at coordinates z of shape (n_dimensions, ..)."""
        uniform = np.minimum(ndtr(z), 1 - 2.0**-53)
        place = self.of_fractions
        units = uniform[: place.start].reshape(self.P, self.K, *z.shape[1:])
        fractions = self._fractions(uniform[place], z.shape[1:])
        return Tissue(units, fractions, uniform[place.stop :])

    def _fractions(self, uniform: Array, shape: tuple[int, ...]) -> Array:
        fractions = np.empty((self.K, *shape))
        if not self.weighted:
            fractions[:] = 1.0 / self.K
            return fractions
        left = np.ones(shape)
        for k, each in enumerate(uniform):
            share = self.share(each, self.K - 1 - k)
            np.multiply(left, share, out=fractions[k])
            left = left - fractions[k]
        fractions[-1] = left
        fractions *= self.free
        fractions += self.prior.min_fraction
        return fractions

    @staticmethod
    def share(uniform: Array, m: int) -> Array:
        """Share of a fraction in what the fractions before it leave, with m later fractions."""
        if m == 1:
            return uniform
        return np.asarray(1.0 - (np.sqrt(1.0 - uniform) if m == 2 else (1 - uniform) ** (1 / m)))

    def derivative_of_fractions(self, z: Array) -> Array:
        """Derivatives (K, n_fractions, B) of the fractions with respect to their z (.., B)."""
        B = z.shape[-1]
        derivative = np.zeros((self.K, self.n_fractions, B))
        left, of_left = np.ones(B), np.zeros((self.n_fractions, B))
        uniform, density = ndtr(z), normal_density(z)
        for k in range(self.n_fractions):
            m = self.K - 1 - k
            share = self.share(uniform[k], m)
            slope = density[k] / m * np.maximum(1 - uniform[k], 1e-12) ** (1 / m - 1)
            derivative[k] = of_left * share
            derivative[k, k] += left * slope
            of_left = of_left * (1 - share)
            of_left[k] -= left * slope
            left = left * (1 - share)
        derivative[-1] = of_left
        return derivative * self.free

    def values(self, tissue: Tissue) -> dict[str, Array]:
        """Values (K, ..) of the properties by name, in ms and um^2/ms."""
        return {
            name: np.asarray(values.from_unit(unit))
            for name, values, unit in zip(self.names, self.ranges, tissue.units, strict=True)
        }

    def log_prior(self, tissue: Tissue, values: Mapping[str, Array]) -> Array:
        """Logarithm of the prior over the standard normal density, of ordered compartments.

        -inf where the compartments are not in ascending order, or the prior does not allow the
        tissue.
        """
        ordered = tissue.units[self.order]
        allowed = np.all(ordered[:-1] < ordered[1:], axis=0) & self.allowed(values)
        return np.where(allowed, self.log_prior_of_allowed(tissue.fractions), -np.inf)

    def log_prior_of_allowed(self, fractions: Array) -> Array | float:
        """:meth:`log_prior` of fractions (K, ..), if the prior allows the tissue."""
        correction = math.lgamma(self.K + 1) - self._log_allowed
        if not self.weighted:
            return correction
        weights = (fractions - self.prior.min_fraction) / self.free
        with np.errstate(divide="ignore"):
            return correction + self._law.log_density(weights) - self._law.log_mean(self.K)

    @property
    def log_flat(self) -> float:
        """Logarithm of the density of flat fractions, per unit of all fractions but one."""
        return math.lgamma(self.K) - self.n_fractions * math.log(self.free)

    def log_density(self, values: Mapping[str, Array], fractions: Array) -> Array:
        """Log density (B,) of a set of compartments with values (K, B) and fractions (K, B).

        Per unit of each property and of all fractions but one; of a property with a step or with a
        single value its probability. -inf where the prior does not allow the compartments.
        """
        total = np.full(fractions.shape[1], math.lgamma(self.K + 1) - self._log_allowed)
        allowed = self.allowed(values)
        for name, own in zip(self.names, self.ranges, strict=True):
            value = values[name]
            allowed &= np.all((value >= own.low) & (value <= own.high), axis=0)
            if own.step is not None:
                at = (value - own.low) / own.step
                allowed &= np.all(np.abs(at - np.round(at)) < _ON_GRID, axis=0)
                total -= self.K * math.log(own.n_values)
            elif own.high > own.low and own.scale == "log":
                total -= np.log(value * math.log(own.high / own.low)).sum(axis=0)
            elif own.high > own.low:
                total -= self.K * math.log(own.high - own.low)
        if self.weighted:
            weights = (fractions - self.prior.min_fraction) / self.free
            allowed &= np.all(weights > -_ON_GRID, axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                total += self._law.log_density(weights) - self._law.log_mean(self.K)
            total += self.log_flat
        else:
            allowed &= np.all(np.abs(fractions - 1 / self.K) < _ON_GRID, axis=0)
        return np.where(allowed, total, -np.inf)

    def allowed(self, values: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Whether the conditions of the prior hold for values (K, ..) inside of the ranges."""
        first = next(iter(values.values()))
        allowed = np.ones(first.shape[1:], dtype=bool)
        if self.prior.t2_below_t1:
            allowed &= np.all(values["T2"] < values["T1"], axis=0)
        if not self.prior.with_replacement:
            for name, own in zip(self.names, self.ranges, strict=True):
                if own.step is not None:
                    for i in range(self.K):
                        for j in range(i):
                            allowed &= values[name][i] != values[name][j]
        return allowed

    @cached_property
    def _log_allowed(self) -> float:
        """Logarithm of the share of independent draws that the prior allows."""
        if not self.prior.t2_below_t1 and self.prior.with_replacement:
            return 0.0
        rng = np.random.default_rng(_SEED)
        values = {
            name: np.asarray(own.from_unit(rng.random((self.K, _N_DRAWS))))
            for name, own in zip(self.names, self.ranges, strict=True)
        }
        return math.log(max(float(self.allowed(values).mean()), 0.5 / _N_DRAWS))

    def coordinates(
        self, values: Mapping[str, Array], fractions: Array, shared: Array, within: Array
    ) -> Array:
        """Coordinates (n_dimensions, B) of tissue, with its compartments sorted.

        Parameters
        ----------
        values : mapping of str to ndarray of shape (K, B)
            Values of the properties.
        fractions : ndarray of shape (K, B)
            Signal fractions.
        shared : ndarray of shape (Q, B)
            Coordinates in [0, 1) of what the compartments share.
        within : ndarray of shape (P, K, B)
            Uniform numbers in [0, 1): the positions within the cells of ranges with a step.
        """
        uniform = np.full((self.n_dimensions, fractions.shape[1]), 0.5)
        units = uniform[: self.P * self.K].reshape(self.P, self.K, -1)
        for unit, name, own, position in zip(units, self.names, self.ranges, within, strict=True):
            unit[:] = own.to_unit(values[name], position)
        order = np.argsort(units[self.order], axis=0, kind="stable")
        units[:] = np.take_along_axis(units, order[None], axis=1)
        fractions = np.take_along_axis(fractions, order, axis=0)
        uniform[self.n_dimensions - self.Q :] = shared
        z = _normal(uniform)
        z[self.of_fractions] = self.coordinates_of_fractions(fractions)
        return z

    def coordinates_of_fractions(self, fractions: Array) -> Array:
        """Coordinates (n_fractions, ..) of fractions (K, ..)."""
        uniform = np.empty((self.n_fractions, *fractions.shape[1:]))
        left = np.ones(fractions.shape[1:])
        for k in range(self.n_fractions):
            weight = (fractions[k] - self.prior.min_fraction) / self.free
            share = np.clip(weight / np.maximum(left, 1e-12), 0, 1)
            uniform[k] = 1 - (1 - share) ** (self.K - 1 - k)
            left = left - weight
        return _normal(uniform)

    @cached_property
    def cell_widths(self) -> Array:
        """Width (n_dimensions,) of a grid cell in units; 0 for continuous ranges."""
        widths = np.zeros(self.n_dimensions)
        for p, own in enumerate(self.ranges):
            if own.step is not None:
                widths[p * self.K : (p + 1) * self.K] = 1 / own.n_values
        return widths


def _normal(uniform: Array) -> Array:
    """Standard normal coordinates of numbers that are uniform in [0, 1]."""
    with np.errstate(divide="ignore"):
        return np.clip(ndtri(np.clip(uniform, 0, 1)), -_FARTHEST, _FARTHEST)


def normal_density(z: Array) -> Array:
    """Density of the standard normal distribution."""
    return np.asarray(np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))
