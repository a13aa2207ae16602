"""Modes of the posterior of K compartments, and its curvature there, by Gauss-Newton steps.

In coordinates whose prior is standard normal, the posterior is that of a nonlinear
least-squares problem, ``|x - s S(z)|^2 / (2 sigma^2) + |z|^2 / 2``: what the signal does not
determine stays near the prior, without bounds. The scale s and the noise variance are eliminated.
Levenberg (1944) and Marquardt (1963); the curvature ``J^T J / sigma^2 + 1`` is that of Laplace's
approximation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        # a fit within a cell of a grid is no better than one at another place in the cell
        self._cells = coordinates.cell_widths**2 / 12

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
        signal, jacobian = self._signals(z)  # (B, N), (B, d, N)
        projection = np.einsum("bn,bn->b", x, signal)
        squared = np.maximum(np.einsum("bn,bn->b", signal, signal), 1e-12)
        if noise.normalize:
            scale = projection / squared
            misfit = np.maximum(squared - projection**2, 1e-14)
        else:
            scale = np.ones(len(x))
            difference = x - signal
            misfit = np.einsum("bn,bn->b", difference, difference)
        reference = noise.squared_reference(signal, squared)
        N = x.shape[1]
        variance = misfit / reference / max(1, N - own.n_dimensions)
        variance = np.clip(variance, *noise.range_of_levels) * reference
        # with the variance at its most probable value
        cost = 0.5 * misfit / variance + 0.5 * N * np.log(variance / reference)
        if not noise.normalize:
            cost += 0.5 * N * np.log(reference)
        away = z - centre
        cost += 0.5 * pull * np.einsum("db,db->b", away, away)
        residual = x - scale[:, None] * signal
        jacobian *= scale[:, None, None]
        # residual and variance in the units of x, whose scale is not that of the signals
        if noise.normalize:
            along = np.einsum("bdn,bn->bd", jacobian, signal) / squared[:, None]
            jacobian -= along[:, :, None] * signal[:, None, :]
            variance = variance / squared
        gradient = np.einsum("bdn,bn->bd", jacobian, residual) / variance[:, None] - pull * away.T
        curvature = np.matmul(jacobian, jacobian.transpose(0, 2, 1)) / variance[:, None, None]
        curvature += pull * np.eye(len(z))
        return cost, gradient, curvature

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


def _outer(along: list[Array]) -> Array:
    """Products (N, B) of kernels (n_axis, B) over all points of a grid."""
    product = along[0]
    for kernel in along[1:]:
        product = (product[:, None] * kernel).reshape(-1, kernel.shape[-1])
    return product
