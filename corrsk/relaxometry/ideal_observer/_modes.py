"""Modes of the posterior of K compartments, and its curvature there, by Gauss-Newton steps.

In coordinates whose prior is standard normal, the posterior is that of a nonlinear
least-squares problem, ``|x - s S(z)|^2 / (2 sigma^2) + |z|^2 / 2``: what the signal does not
determine stays near the prior, without bounds. The scale s and the noise variance are eliminated.
Levenberg (1944) and Marquardt (1963); the curvature ``J^T J / sigma^2 + 1`` is that of Laplace's
approximation.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.extras import compiled_module
from corrsk.relaxometry.ideal_observer._forms import CompartmentModel
from corrsk.relaxometry.ideal_observer._likelihood import NoiseModel
from corrsk.tissue.coordinates import TissueCoordinates, normal_density

Array = NDArray[np.float64]

_STEP = 1e-4  # in units, for the derivatives of kernels
_DAMPING, _LARGEST_DAMPING = 1e-2, 1e6
_LONGEST = 1.5  # of a step in a coordinate, beyond which the signals are far from linear
_FARTHEST = 5.0  # largest coordinate
_CONVERGED = 1e-2  # decrease of the log density: the curvature is that of the mode


class Modes(NamedTuple):
    """Points of B problems after Gauss-Newton steps.

    z : (B, d), cost : (B,) the negative log posterior up to a constant, curvature : (B, d, d)
    """

    z: Array
    cost: Array
    curvature: Array


class _Products(NamedTuple):
    """Inner products of B signals S with signals x, and of their derivatives in d coordinates.

    projection : (B,) with x, squared : (B,) of S, peak : (B,) the largest absolute value of S,
    of_signal : (d, B) of the derivatives with x, with_signal : (d, B) with S, among : (d, d, B)
    """

    projection: Array
    squared: Array
    peak: Array
    of_signal: Array
    with_signal: Array
    among: Array


class ModeFinder:
    """Gauss-Newton steps to the modes of the posterior of K compartments.

    Parameters
    ----------
    model : CompartmentModel
        Signals of compartments.
    noise : NoiseModel
        Noise of the signals.
    coordinates : TissueCoordinates
        Coordinates of K compartments; their ranges are taken as continuous.
    """

    def __init__(
        self, model: CompartmentModel, noise: NoiseModel, coordinates: TissueCoordinates
    ) -> None:
        self._model, self._noise, self._own = model, noise, coordinates
        self._ranges = [values.continuous() for values in coordinates.ranges]
        # whether signals are outer products of the kernels of two properties
        self._is_product = (
            model.is_separable and len(model.shape) == 2 == coordinates.P and not coordinates.Q
        )
        if self._is_product:
            self._axes = np.array([int(model.depends_on(1, p)) for p in range(2)])

    def find(
        self, x: Array, z: Array, max_steps: int, centre: Array | None = None, pull: float = 1.0
    ) -> Modes:
        """Take steps from z of shape (B, d) for signals (B, N).

        The prior term is ``pull |z - centre|^2 / 2``, by default that of the prior. With the start
        as the centre, the steps lead to a near point that explains the signal, and what the
        signal does not determine stays where it is.
        """
        flat = z.T.copy()
        middle = np.zeros_like(flat) if centre is None else centre.T
        cost, gradient, curvature = self._at(x, flat, middle, pull)
        damping = np.full(len(x), _DAMPING)
        live = np.arange(len(x))
        for _ in range(max_steps):
            matrix = curvature[live]
            diagonal = np.einsum("bii->bi", matrix)
            matrix = matrix + (damping[live, None] * diagonal)[:, :, None] * np.eye(len(flat))
            step = np.linalg.solve(matrix, gradient[live][..., None])[..., 0]
            step = np.clip(step, -_LONGEST, _LONGEST)
            trial = np.clip(flat[:, live] + step.T, -_FARTHEST, _FARTHEST)
            new_cost, new_gradient, new_curvature = self._at(x[live], trial, middle[:, live], pull)
            gain = cost[live] - new_cost
            better = gain > 0
            moved = live[better]
            flat[:, moved] = trial[:, better]
            cost[moved], gradient[moved] = new_cost[better], new_gradient[better]
            curvature[moved] = new_curvature[better]
            damping[live] = np.where(
                better, np.maximum(damping[live] * 0.1, 1e-7), damping[live] * 8
            )
            done = (better & (gain < _CONVERGED)) | (damping[live] > _LARGEST_DAMPING)
            live = live[~done]
            if not live.size:
                break
        return Modes(flat.T, cost, curvature)

    def _at(self, x: Array, z: Array, centre: Array, pull: float) -> tuple[Array, Array, Array]:
        """Cost (B,), negative gradient (B, d) and curvature (B, d, d) at z (d, B)."""
        own, noise = self._own, self._noise
        products = self._products(x, z)
        projection, squared = products.projection, np.maximum(products.squared, 1e-12)
        if noise.normalize:
            scale = projection / squared
            misfit = np.maximum(squared - projection**2, 1e-14)
        else:
            scale = np.ones(len(x))
            misfit = np.einsum("bn,bn->b", x, x) - 2 * projection + products.squared
            misfit = np.maximum(misfit, 0.0)
        reference = noise.squared_reference(products.peak, squared)
        N = x.shape[1]
        variance = misfit / reference / max(1, N - own.n_dimensions)
        variance = np.clip(variance, *noise.range_of_levels) * reference
        # with the variance at its most probable value
        cost = 0.5 * misfit / variance + 0.5 * N * np.log(variance / reference)
        if not noise.normalize:
            cost += 0.5 * N * np.log(reference)
        away = z - centre
        cost += 0.5 * pull * np.einsum("db,db->b", away, away)
        of_signal, with_signal = products.of_signal, products.with_signal
        curvature = products.among
        # the variance in the units of x, whose scale is not that of the signals
        if noise.normalize:  # only the parts of the derivatives that are orthogonal to the signal
            curvature = curvature - with_signal[:, None] * with_signal / squared
            variance = variance / squared
        gradient = scale * (of_signal - scale * with_signal) / variance - pull * away
        curvature = (curvature * (scale**2 / variance)).transpose(2, 0, 1)
        return cost, gradient.T, curvature + pull * np.eye(len(z))

    def _products(self, x: Array, z: Array) -> _Products:
        """Inner products of the signals at z (d, B), their derivatives, and x (B, N)."""
        kernels = compiled() if self._is_product else None
        if kernels is None:
            signal, jacobian = self._signals(z)  # (B, N), (B, d, N)
            return _Products(
                np.einsum("bn,bn->b", x, signal), np.einsum("bn,bn->b", signal, signal),
                np.abs(signal).max(axis=1), np.einsum("bdn,bn->db", jacobian, x),
                np.einsum("bdn,bn->db", jacobian, signal),
                np.matmul(jacobian, jacobian.transpose(0, 2, 1)).transpose(1, 2, 0),
            )  # fmt: skip
        own, (d, B), shape = self._own, z.shape, self._model.shape
        tissue = own.tissue(z)
        n = own.P * own.K
        of_fractions = np.zeros((own.K, 0, B))
        if own.n_fractions:
            of_fractions = own.derivative_of_fractions(z[n : n + own.n_fractions])
        units = np.clip(tissue.units.reshape(own.P, -1), _STEP, 1 - _STEP)
        ends = np.concatenate([units, units + _STEP, units - _STEP], axis=1)
        along = [
            kernel.reshape(len(kernel), 3, own.K, B)
            for kernel in self._along(ends, np.empty((0, ends.shape[1])))
        ]
        weight = (normal_density(z[:n]).reshape(own.P, own.K, B) * tissue.fractions).reshape(n, B)
        found = _Products(
            np.empty(B), np.empty(B), np.empty(B if self._noise.reference == "max" else 0),
            np.empty((d, B)), np.empty((d, B)), np.empty((d, d, B)),
        )  # fmt: skip
        kernels.products(
            *along, 2 * _STEP, np.ascontiguousarray(x.T).reshape(*shape, B), tissue.fractions,
            of_fractions, weight, self._axes, *found,
        )  # fmt: skip
        return found

    def _signals(self, z: Array) -> tuple[Array, Array]:
        """Signals (B, N) and their derivatives (B, d, N) at coordinates z (d, B)."""
        own, model, K, B = self._own, self._model, self._own.K, z.shape[1]
        tissue, density = own.tissue(z), normal_density(z)
        jacobian = np.zeros((own.n_dimensions, model.n_measurements, B))
        signal = np.zeros((model.n_measurements, B))
        fractions = slice(own.P * K, own.P * K + own.n_fractions)
        of_fractions = own.derivative_of_fractions(z[fractions]) if own.n_fractions else None
        # all compartments together, as (P, K B)
        units = np.clip(tissue.units.reshape(own.P, -1), _STEP, 1 - _STEP)
        shared = np.clip(np.tile(tissue.shared, K), _STEP, 1 - _STEP)
        along = self._along(units, shared)
        weight = tissue.fractions.reshape(-1)
        slopes = [
            weight * density[p * K : (p + 1) * K].reshape(-1) * slope
            for p, slope in enumerate(self._slopes(along, units, shared))
        ]
        whole = _outer(along)
        for k in range(K):
            part = slice(k * B, (k + 1) * B)
            signal += tissue.fractions[k] * whole[:, part]
            for p, slope in enumerate(slopes):
                jacobian[p * K + k] = slope[:, part]
            if of_fractions is not None:
                jacobian[fractions] += of_fractions[k][:, None] * whole[:, part]
        for q, row in enumerate(range(fractions.stop, own.n_dimensions)):
            ends = []
            for step in (_STEP, -_STEP):
                moved = shared.copy()
                moved[q] += step
                ends.append(_outer(self._along(units, moved)))
            slope = weight * (ends[0] - ends[1]) / (2 * _STEP)
            jacobian[row] = density[row] * slope.reshape(-1, K, B).sum(axis=1)
        return np.ascontiguousarray(signal.T), np.ascontiguousarray(jacobian.transpose(2, 0, 1))

    def _along(self, units: Array, shared: Array) -> list[Array]:
        """Kernels (n_axis, C) along each axis for units (P, C) and shared coordinates (Q, C)."""
        values = [own.from_unit(u[None]) for own, u in zip(self._ranges, units, strict=True)]
        kernels = self._model.kernels(values, self._model.shared_values(shared))
        return [kernel[0] for kernel in kernels]

    def _slopes(self, along: list[Array], units: Array, shared: Array) -> list[Array]:
        """Derivatives (N, C) of the signals of compartments with respect to each unit."""
        found = []
        together = self._model.is_separable  # each axis changes with one property alone
        for p in range(len(units)):
            if p == 0 or not together:
                ends = []
                for step in (_STEP, -_STEP):
                    moved = units.copy()
                    moved[slice(None) if together else p] += step
                    ends.append(self._along(moved, shared))
            total: Array | float = 0.0
            for axis in range(len(along)):
                if self._model.depends_on(axis, p):
                    parts = list(along)
                    parts[axis] = (ends[0][axis] - ends[1][axis]) / (2 * _STEP)
                    total = total + _outer(parts)
            found.append(np.broadcast_to(total, (self._model.n_measurements, units.shape[1])))
        return found


def compiled() -> ModuleType | None:
    """Compiled inner products, imported on first use; None without numba, for those of numpy.

    Those of numpy take about five times as long.
    """
    return compiled_module("corrsk.relaxometry.ideal_observer._products_compiled")


def _outer(along: list[Array]) -> Array:
    """Products (N, B) of kernels (n_axis, B) over all points of a grid."""
    product = along[0]
    for kernel in along[1:]:
        product = (product[:, None] * kernel).reshape(-1, kernel.shape[-1])
    return product
