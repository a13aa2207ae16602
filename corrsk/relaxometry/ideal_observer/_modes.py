"""Modes of the posterior of K compartments, and its curvature there, by Gauss-Newton steps.

In coordinates whose prior is standard normal, the posterior is that of a nonlinear
least-squares problem, ``|x - s S(z)|^2 / (2 sigma^2) + |z|^2 / 2``: what the signal does not
determine stays near the prior, without bounds. The scale s and the noise variance are eliminated.
Levenberg (1944) and Marquardt (1963); the curvature ``J^T J / sigma^2 + 1`` is that of Laplace's
approximation.

Where the signals of a compartment are outer products of two kernels, the steps are compiled, with
kernels from cubic splines of the coordinates; elsewhere, and without numba, they are of numpy, and
take several times as long.
"""

from __future__ import annotations

import math
from functools import cached_property
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

from corrsk._utils.extras import compiled_module
from corrsk.relaxometry.ideal_observer._forms import CompartmentModel
from corrsk.relaxometry.ideal_observer._likelihood import NoiseModel
from corrsk.tissue.coordinates import TissueCoordinates, normal_density

Array = NDArray[np.float64]

_STEP = 1e-4  # in units, for the derivatives of kernels
_DAMPING, _SMALLEST_DAMPING, _LARGEST_DAMPING = 1e-2, 1e-7, 1e6
_LONGEST = 1.5  # of a step in a coordinate, beyond which the signals are far from linear
_FARTHEST = 5.0  # largest coordinate
_CONVERGED = 2e-2  # gain of log density that a step would have: the curvature is that of the mode
_AS_EXPECTED = 0.75  # part of the expected gain, with which the damping is reduced
_N_CELLS = 400  # of the splines: the error of a kernel is below 1e-7
_REFERENCES = {"m0": 0, "rms": 1, "max": 2}  # of the noise, in the compiled steps


class Modes(NamedTuple):
    """Points of B problems after Gauss-Newton steps.

    z : (B, d), cost : (B,) the negative log posterior up to a constant, curvature : (B, d, d),
    forms : (B, 3) inner products of the signal S with x and with itself, and the largest absolute
    value of S, settled : (B,) whether a further step would gain little.
    """

    z: Array
    cost: Array
    curvature: Array
    forms: Array
    settled: NDArray[np.bool_]


class _Splines(NamedTuple):
    """Functions of coordinates as cubic splines; see the arguments of the compiled steps."""

    first: Array
    last: Array
    shares: Array
    spacing: float
    axes: NDArray[np.int64]


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
        self._model, self._noise, self.coordinates = model, noise, coordinates
        self._ranges = [values.continuous() for values in coordinates.ranges]
        # whether signals are outer products of the kernels of two properties
        self._is_product = (
            model.is_separable and len(model.shape) == 2 == coordinates.P and not coordinates.Q
        )

    def find(
        self, x: Array, z: Array, max_steps: int, centre: Array | None = None, pull: float = 1.0
    ) -> Modes:
        """Take steps from z of shape (B, d) for signals (B, N).

        The prior term is ``pull |z - centre|^2 / 2``, by default that of the prior. With the start
        as the centre, the steps lead to a near point that explains the signal, and what the
        signal does not determine stays where it is.
        """
        if not len(x):
            d = self.coordinates.n_dimensions
            none = np.empty((0, d)), np.empty(0), np.empty((0, d, d)), np.empty((0, 3))
            return Modes(*none, np.empty(0, dtype=bool))
        middle = np.zeros_like(z) if centre is None else centre
        kernels = compiled() if self._is_product else None
        if kernels is None:
            return self._find(x, z, max_steps, middle, pull)
        B, d = z.shape
        found = Modes(
            np.array(z, np.float64, order="C"), np.empty(B), np.empty((B, d, d)),
            np.empty((B, 3)), np.empty(B, dtype=bool),
        )  # fmt: skip
        own, noise = self.coordinates, self._noise
        kernels.find(
            *self._splines, own.prior.min_fraction, own.free, _REFERENCES[noise.reference],
            noise.normalize, np.array(noise.range_of_levels),
            np.array(
                [
                    _DAMPING, _SMALLEST_DAMPING, _LARGEST_DAMPING, _LONGEST, _FARTHEST, _CONVERGED,
                    _AS_EXPECTED,
                ]
            ),
            np.ascontiguousarray(x, np.float64).reshape(B, *self._model.shape),
            np.ascontiguousarray(middle, np.float64), float(pull), max_steps, *found,
        )  # fmt: skip
        return found

    @cached_property
    def _splines(self) -> _Splines:
        own, model = self.coordinates, self._model
        nodes = np.linspace(-_FARTHEST, _FARTHEST, _N_CELLS + 1)
        units = np.clip(ndtr(nodes), 0, 1 - 2.0**-53)
        along = self._along(np.stack([units, units]), np.empty((0, nodes.size)))
        first, last = (
            np.ascontiguousarray(CubicSpline(nodes, kernel.T).c.swapaxes(0, 1)) for kernel in along
        )
        shares = np.empty((own.n_fractions, _N_CELLS, 4))
        for m, each in enumerate(shares, start=1):
            each[:] = CubicSpline(nodes, own.share(units, m)).c.T
        axes = np.array([int(model.depends_on(1, p)) for p in range(2)])
        return _Splines(first, last, shares, 2 * _FARTHEST / _N_CELLS, axes)

    def log_evidence(self, x: Array, modes: Modes) -> Array:
        """Logarithm of the evidence (B,) of signals (B, N) by Laplace's approximation at modes.

        The likelihood at the mode is exact. What the prior excludes is not cut off.
        """
        if not len(x):
            return np.empty(0)
        projection, squared, peak = modes.forms.T
        likelihood = self._noise.log_likelihood(
            projection, squared, np.einsum("bn,bn->b", x, x), peak
        )
        # the powers of 2 pi of the prior and the integral cancel
        own = self.coordinates
        log_prior = own.log_prior_of_allowed(own.tissue(modes.z.T).fractions)
        log_prior = log_prior - 0.5 * (modes.z**2).sum(axis=1)
        return np.asarray(likelihood + log_prior - 0.5 * np.linalg.slogdet(modes.curvature)[1])

    def explains(self, x: Array, modes: Modes) -> NDArray[np.bool_]:
        """Whether noise of the levels of the model explains what modes leave of signals, (B,).

        The residual variance is at most six of its standard deviations above the largest level.
        """
        projection, norm, peak = modes.forms.T
        squared = np.maximum(norm, 1e-12)
        if self._noise.normalize:
            misfit = squared - projection**2
        else:
            misfit = np.einsum("bn,bn->b", x, x) - 2 * projection + norm
        freedom = max(1, x.shape[1] - self.coordinates.n_dimensions)
        variance = misfit / self._noise.squared_reference(peak, squared) / freedom
        most = self._noise.range_of_levels[1] * (1 + 6 * math.sqrt(2 / freedom))
        return np.asarray(variance <= most)

    def _find(self, x: Array, z: Array, max_steps: int, centre: Array, pull: float) -> Modes:
        """Steps of numpy."""
        flat, middle = z.T.copy(), centre.T
        cost, gradient, curvature, forms = self._at(x, flat, middle, pull)
        damping = np.full(len(x), _DAMPING)
        live = np.arange(len(x))
        for _ in range(max_steps):
            matrix = curvature[live]
            diagonal = np.einsum("bii->bi", matrix)
            matrix = matrix + (damping[live, None] * diagonal)[:, :, None] * np.eye(len(flat))
            step = np.linalg.solve(matrix, gradient[live][..., None])[..., 0]
            expected = 0.5 * np.einsum("bd,bd->b", step, gradient[live])
            large = expected >= _CONVERGED
            live, step, expected = live[large], step[large], expected[large]
            if not live.size:
                break
            step = np.clip(step, -_LONGEST, _LONGEST)
            trial = np.clip(flat[:, live] + step.T, -_FARTHEST, _FARTHEST)
            new_cost, *new = self._at(x[live], trial, middle[:, live], pull)
            gain = cost[live] - new_cost
            better = gain > 0
            moved = live[better]
            flat[:, moved] = trial[:, better]
            cost[moved] = new_cost[better]
            gradient[moved], curvature[moved], forms[moved] = (each[better] for each in new)
            reduced = np.maximum(damping[live] * 0.1, _SMALLEST_DAMPING)
            damping[live] = np.where(
                better,
                np.where(gain > _AS_EXPECTED * expected, reduced, damping[live]),
                damping[live] * 8,
            )
            live = live[damping[live] <= _LARGEST_DAMPING]
        settled = np.ones(len(x), dtype=bool)
        settled[live] = False
        return Modes(flat.T, cost, curvature, forms, settled)

    def _at(
        self, x: Array, z: Array, centre: Array, pull: float
    ) -> tuple[Array, Array, Array, Array]:
        """Cost (B,), negative gradient (B, d), curvature (B, d, d), forms (B, 3) at z (d, B)."""
        own, noise = self.coordinates, self._noise
        signal, jacobian = self._signals(z)  # (B, N), (B, d, N)
        projection = np.einsum("bn,bn->b", x, signal)
        norm = np.einsum("bn,bn->b", signal, signal)
        peak = np.abs(signal).max(axis=1)
        squared = np.maximum(norm, 1e-12)
        if noise.normalize:
            scale = projection / squared
            misfit = np.maximum(squared - projection**2, 1e-14)
        else:
            scale = np.ones(len(x))
            misfit = np.einsum("bn,bn->b", x, x) - 2 * projection + norm
            misfit = np.maximum(misfit, 0.0)
        reference = noise.squared_reference(peak, squared)
        N = x.shape[1]
        variance = misfit / reference / max(1, N - own.n_dimensions)
        variance = np.clip(variance, *noise.range_of_levels) * reference
        # with the variance at its most probable value
        cost = 0.5 * misfit / variance + 0.5 * N * np.log(variance / reference)
        if not noise.normalize:
            cost += 0.5 * N * np.log(reference)
        away = z - centre
        cost += 0.5 * pull * np.einsum("db,db->b", away, away)
        of_signal = np.einsum("bdn,bn->db", jacobian, x)
        with_signal = np.einsum("bdn,bn->db", jacobian, signal)
        curvature = np.matmul(jacobian, jacobian.transpose(0, 2, 1)).transpose(1, 2, 0)
        # the variance in the units of x, whose scale is not that of the signals
        if noise.normalize:  # only the parts of the derivatives that are orthogonal to the signal
            curvature = curvature - with_signal[:, None] * with_signal / squared
            variance = variance / squared
        gradient = scale * (of_signal - scale * with_signal) / variance - pull * away
        curvature = (curvature * (scale**2 / variance)).transpose(2, 0, 1)
        forms = np.stack([projection, norm, peak], axis=1)
        return cost, gradient.T, curvature + pull * np.eye(len(z)), forms

    def _signals(self, z: Array) -> tuple[Array, Array]:
        """Signals (B, N) and their derivatives (B, d, N) at coordinates z (d, B)."""
        own, model, K, B = self.coordinates, self._model, self.coordinates.K, z.shape[1]
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
    """Compiled steps, imported on first use; None without numba, for those of numpy."""
    return compiled_module("corrsk.relaxometry.ideal_observer._modes_compiled")


def _outer(along: list[Array]) -> Array:
    """Products (N, B) of kernels (n_axis, B) over all points of a grid."""
    product = along[0]
    for kernel in along[1:]:
        product = (product[:, None] * kernel).reshape(-1, kernel.shape[-1])
    return product
