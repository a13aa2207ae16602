"""Regularised non-negative least squares for many signals at once.

Minimises ``||x - K s||^2 + alpha ||s||^2`` over s >= 0 in the space of the data:
Butler, Reeds and Dawson, SIAM J. Numer. Anal. 18, 381 (1981), with the kernel
compressed by its singular values (`corrsk.relaxometry._compression`). The solution is
``s = max(0, K^T c)`` where c solves ``(K A K^T + alpha) c = x`` with the diagonal matrix A that is
1 where s > 0. A Newton step solves this equation for the current A; the iteration has
converged exactly if A does not change. With the penalty ``alpha ||s - p||^2`` the solution is
``s = max(0, p + K^T c)`` with ``K s + alpha c = x``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.extras import compiled_module
from corrsk.relaxometry._compression import compress_kernel
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._linalg import solve_each

SMALLEST_ALPHA = 1e-8  # "nearly unregularised", relative to the largest squared singular value
ALL_VALUES = 1e-13  # singular values below this part of the largest are rounding errors
_MAX_STEPS = 300
_GRADIENT = 1e-9
_SPARSE = 1e-5  # up to this alpha, the way up from spectra of few cells is the shorter one

Mask = NDArray[np.bool_]


def compiled() -> ModuleType | None:
    """Compiled iterations, imported on first use; None without numba, for the ones of numpy.

    The iterations of numpy take about seven times as long.
    """
    return compiled_module("corrsk.relaxometry._nnls_compiled")


class CompressedProblem:
    """Least squares in the space of the singular values of a kernel.

    Subclasses have the methods `solve_all` and `rss`.

    Parameters
    ----------
    model : KernelModel
        Kernels of the protocol.
    n_points : sequence of int
        Number of grid points of each tissue property; the spectrum has M cells.
    cutoff : float, default=ALL_VALUES
        Singular values below this part of the largest one are left out. Those far below the square
        root of alpha change the residual little, but not the spectrum: noise along them reaches
        it, divided by alpha.
    """

    def __init__(
        self, model: KernelModel, n_points: Sequence[int], cutoff: float = ALL_VALUES
    ) -> None:
        left, values, right = compress_kernel(model, n_points, cutoff)
        self.scale = float(values[0])
        self._left = left
        self.n_measurements = len(left)
        # (r, M), with the largest singular value 1
        self._kernel = np.ascontiguousarray((values / self.scale)[:, None] * right)

    def compress(self, x: Array) -> tuple[Array, Array]:
        """Compressed data (V, r), and the residual sum of squares that no spectrum reduces (V,)."""
        data = x @ self._left
        rest = x - data @ self._left.T
        return data, np.einsum("vn,vn->v", rest, rest)

    def signals(self, spectra: Array) -> Array:
        """Signals (V, N) of spectra (V, M)."""
        return np.asarray((self.scale * spectra @ self._kernel.T) @ self._left.T)

    def fixed(self, x: Array, alpha: float) -> Array:
        """Solutions for one alpha of signals (V, N)."""
        data, _ = self.compress(x)
        return self.solve_all(data, alpha)

    def residual(self, x: Array, solution: Array, alpha: Array) -> Array:
        """Residual sums of squares (V,) of solutions for given alpha (V,)."""
        data, rest = self.compress(x)
        return self.rss(data, solution, alpha, rest)

    def solve_all(self, data: Array, alpha: float) -> Array:
        """Solutions for one alpha, without a first guess."""
        raise NotImplementedError

    def solve_largest(self, data: Array) -> Array | None:
        """Solutions for an alpha of 1; None if their residual never is small enough."""
        return None

    def rss(self, data: Array, solution: Array, alpha: Array, rest: Array) -> Array:
        """Residual sums of squares of solutions; `data` and `rest` are from :meth:`compress`."""
        raise NotImplementedError


class DualSolver(CompressedProblem):
    """Solver for the spectra of signals with a fixed kernel; solutions are dual ones c (V, r).

    Parameters
    ----------
    model, n_points, cutoff
        See :class:`CompressedProblem`.
    """

    @property
    def _cells(self) -> Array:
        return np.ascontiguousarray(self._kernel.T)

    def spectrum(self, dual: Array) -> Array:
        """Spectra ``s = max(0, K^T c)`` in the units of the signals: (V, r) to (V, M)."""
        return np.maximum(dual @ self._kernel, 0.0) / self.scale

    def solve(self, data: Array, alpha: Array, start: Array | None = None) -> Array:
        """Dual solution c for each signal.

        Parameters
        ----------
        data : ndarray of shape (V, r)
            From :meth:`compress`.
        alpha : ndarray of shape (V,)
            Regularisation relative to the largest squared singular value.
        start : ndarray of shape (V, r), optional
            Solutions for other regularisations, whose cells are the first guess. By default no
            cell is zero at first.

        Returns
        -------
        ndarray of shape (V, r)
            NaN where the iteration does not converge.
        """
        return self._solve(data, alpha, start, np.empty((0, self._kernel.shape[1])))

    def _solve(self, data: Array, alpha: Array, start: Array | None, prior: Array) -> Array:
        """Dual solutions of :meth:`solve` with a prior of shape (V, M), or (0, M) for zero."""
        M = self._kernel.shape[1]
        kernels = compiled()
        if kernels is None and not len(prior):
            prior = np.zeros((len(data), M))
        correlation = np.ones((len(data), M))
        if start is not None:
            np.matmul(start, self._kernel, out=correlation)
            if len(prior):
                correlation += prior
        result = np.full(data.shape, np.nan)
        if kernels is not None:
            kernels.newton(
                self._kernel, self._cells, data, alpha, prior, correlation, _MAX_STEPS, _GRADIENT,
                result,
            )  # fmt: skip
            return result
        active = correlation > 0
        live = np.arange(len(data))
        dual = self._newton_point(data, alpha, active, prior)
        correlation = dual @ self._kernel + prior
        whole = np.ones(len(data), dtype=bool)  # whether the last step was a full step
        for _ in range(_MAX_STEPS):
            now = correlation > 0
            spectrum = np.maximum(correlation, 0.0)
            gradient = spectrum @ self._kernel.T + alpha[:, None] * dual - data
            # rounding may change cells close to 0 in every step: the gradient is a second criterion
            done = (whole & (now == active).all(axis=1)) | (
                np.linalg.norm(gradient, axis=1) <= _GRADIENT * np.linalg.norm(data, axis=1)
            )
            result[live[done]] = dual[done]
            if done.any():
                go = ~done
                live, data, alpha, active = live[go], data[go], alpha[go], now[go]
                prior = prior[go]
                dual, correlation, spectrum = dual[go], correlation[go], spectrum[go]
                gradient = gradient[go]
            else:
                active = now
            if not live.size:
                break
            step = self._newton_point(data, alpha, active, prior) - dual
            dual, correlation, whole = self._search(data, alpha, dual, correlation, step, gradient)
        return result

    def _newton_point(self, data: Array, alpha: Array, active: Mask, prior: Array) -> Array:
        rank = data.shape[1]
        matrix = np.empty((len(data), rank, rank))
        # one product per voxel: most cells are zero, and products of all pairs of singular vectors
        # would need r^2 / 2 numbers for each cell
        for row, cells in enumerate(active):
            part = self._kernel[:, cells]
            np.matmul(part, part.T, out=matrix[row])
        matrix[:, np.arange(rank), np.arange(rank)] += alpha[:, None]
        right = data - np.where(active, prior, 0.0) @ self._kernel.T
        return solve_each(matrix, right[..., None])[..., 0]

    def _search(
        self,
        data: Array,
        alpha: Array,
        dual: Array,
        correlation: Array,
        step: Array,
        gradient: Array,
    ) -> tuple[Array, Array, Mask]:
        """Halve the Newton step until the convex dual function decreases sufficiently."""

        def value(dual: Array, correlation: Array, rows: NDArray[np.intp]) -> Array:
            spectrum = np.maximum(correlation, 0.0)
            return (
                0.5 * np.einsum("vm,vm->v", spectrum, spectrum)
                + 0.5 * alpha[rows] * np.einsum("vr,vr->v", dual, dual)
                - np.einsum("vr,vr->v", data[rows], dual)
            )

        change = step @ self._kernel
        slope = np.einsum("vr,vr->v", gradient, step)
        rows = np.arange(len(data))
        before = value(dual, correlation, rows)
        new_dual, new_correlation = dual + step, correlation + change
        whole = np.ones(len(data), dtype=bool)
        length = 1.0
        while rows.size and length > 1e-6:
            now = value(new_dual[rows], new_correlation[rows], rows)
            slack = 1e-12 * np.abs(before[rows])
            rows = rows[~(now <= before[rows] + 1e-4 * length * slope[rows] + slack)]
            length /= 2
            whole[rows] = False
            new_dual[rows] = dual[rows] + length * step[rows]
            new_correlation[rows] = correlation[rows] + length * change[rows]
        return new_dual, new_correlation, whole

    def solve_all(self, data: Array, alpha: float) -> Array:
        """Dual solutions for one alpha, without a first guess: (V, r) to (V, r)."""
        kernels = compiled()
        if kernels is None or alpha > _SPARSE:
            return self._descend(data, alpha)
        least = np.empty_like(data)
        smallest = min(alpha, SMALLEST_ALPHA)
        kernels.active_sets(self._kernel, self._cells, data, smallest, _MAX_STEPS, least)
        lost = np.isnan(least).any(axis=1)
        if lost.any():
            least[lost] = self._descend(data[lost], smallest)
        if alpha == smallest:
            return least
        return self.solve(data, np.full(len(data), alpha), least)

    def _descend(self, data: Array, alpha: float) -> Array:
        """Solutions by decades of alpha: each is a good first guess of the next."""
        dual = None
        for exponent in range(math.floor(-math.log10(alpha)) + 1 if alpha < 1 else 0):
            if 10.0**-exponent > alpha:
                dual = self.solve(data, np.full(len(data), 10.0**-exponent), dual)
        return self.solve(data, np.full(len(data), alpha), dual)

    def rss(self, data: Array, dual: Array, alpha: Array, rest: Array) -> Array:
        """Residual sums of squares of solutions; `data` and `rest` are from :meth:`compress`."""
        # at the solution the residual of the compressed data is alpha c
        return np.asarray(alpha**2 * np.einsum("vr,vr->v", dual, dual) + rest)

    def penalty(self, dual: Array) -> Array:
        """Penalties ``||s||^2`` (V,), in units in which the largest singular value is 1."""
        spectrum = np.maximum(dual @ self._kernel, 0.0)
        return np.asarray(np.einsum("vm,vm->v", spectrum, spectrum))

    def freedom(self, dual: Array, alpha: Array) -> tuple[Array, Array]:
        """Effective degrees of freedom, and log-determinant ``log |1 + K A K^T / alpha|``, (V,).

        Both are those of the linear problem with the cells that are not zero.
        """
        return self._freedom(dual, dual @ self._kernel > 0, alpha)

    def _freedom(self, dual: Array, active: Mask, alpha: Array) -> tuple[Array, Array]:
        rank = dual.shape[1]
        freedom, determinant = np.full(len(dual), np.nan), np.full(len(dual), np.nan)
        for row, cells in enumerate(active):
            part = self._kernel[:, cells]
            small = part.T @ part if part.shape[1] < rank else part @ part.T
            if not np.isfinite(dual[row]).all():
                continue
            values = np.maximum(np.linalg.eigvalsh(small), 0.0)
            freedom[row] = (values / (values + alpha[row])).sum()
            determinant[row] = np.log1p(values / alpha[row]).sum()
        return freedom, determinant


class PriorSolver(DualSolver):
    """Solver with the penalty ``alpha ||s - p||^2``, where each signal has its spectrum p.

    Signals, data and solutions have the spectrum as further columns: signals (V, N + M), data and
    solutions (V, r + M), so that rules for alpha select rows of both together.

    Parameters
    ----------
    solver : DualSolver
        Solver with the kernel.
    """

    def __init__(self, solver: DualSolver) -> None:
        self._base = solver
        self.scale, self.n_measurements = solver.scale, solver.n_measurements
        self._left, self._kernel = solver._left, solver._kernel

    def _parts(self, columns: Array) -> tuple[Array, Array]:
        """Own columns, and the spectra p, which are last."""
        M = self._kernel.shape[1]
        return np.ascontiguousarray(columns[:, :-M]), np.ascontiguousarray(columns[:, -M:])

    def compress(self, x: Array) -> tuple[Array, Array]:
        """Compressed data (V, r + M), and the residual sum of squares that is left (V,)."""
        signals, prior = self._parts(x)
        data, rest = super().compress(signals)
        return np.concatenate([data, self.scale * prior], axis=1), rest

    def spectrum(self, dual: Array) -> Array:
        """Spectra ``s = max(0, p + K^T c)`` in the units of the signals: (V, r + M) to (V, M)."""
        c, prior = self._parts(dual)
        return np.maximum(prior + c @ self._kernel, 0.0) / self.scale

    def solve(self, data: Array, alpha: Array, start: Array | None = None) -> Array:
        """Solutions (V, r + M); see :meth:`DualSolver.solve`."""
        own, prior = self._parts(data)
        first = None if start is None else self._parts(start)[0]
        return np.concatenate([self._solve(own, alpha, first, prior), prior], axis=1)

    def solve_all(self, data: Array, alpha: float) -> Array:
        """Solutions for one alpha, without a first guess: (V, r + M) to (V, r + M)."""
        if alpha > _SPARSE:
            return self._descend(data, alpha)
        # a small penalty hardly changes the cells, whatever p is
        own, prior = self._parts(data)
        first = self._base.solve_all(own, alpha)
        return self.solve(data, np.full(len(data), alpha), np.concatenate([first, prior], axis=1))

    def solve_largest(self, data: Array) -> Array:
        """Solutions for an alpha of 1, which are close to p."""
        start = data.copy()
        start[:, : -self._kernel.shape[1]] = 0.0
        return self.solve(data, np.ones(len(data)), start)

    def rss(self, data: Array, dual: Array, alpha: Array, rest: Array) -> Array:
        """Residual sums of squares of solutions; `data` and `rest` are from :meth:`compress`."""
        return super().rss(data, self._parts(dual)[0], alpha, rest)

    def penalty(self, dual: Array) -> Array:
        """Penalties ``||s - p||^2`` (V,), in units in which the largest singular value is 1."""
        c, prior = self._parts(dual)
        difference = np.maximum(c @ self._kernel, -prior)
        return np.asarray(np.einsum("vm,vm->v", difference, difference))

    def freedom(self, dual: Array, alpha: Array) -> tuple[Array, Array]:
        """Effective degrees of freedom and log-determinant; see :meth:`DualSolver.freedom`."""
        c, prior = self._parts(dual)
        return self._freedom(c, prior + c @ self._kernel > 0, alpha)
