"""Non-negative least squares with a penalty of differences, by block principal pivoting.

Minimises ``||x - K s||^2 + alpha ||L s||^2`` over s >= 0, where L takes first or second differences
along each axis of the grid of s; beyond the grid s is zero. Unlike ``||s||^2``, such a penalty
couples the cells, and the problem is solved for the cells themselves: Portugal, Judice and Vicente,
Math. Comput. 63, 625 (1994). Each step solves one linear system for all cells that are not zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._nnls import CompressedProblem

PENALTIES = ("identity", "first-difference", "second-difference")
_MAX_STEPS = 300
_BLOCK_STEPS = 3  # steps without progress until cells change one by one
_ROUNDING = 1e-11


class PenaltySolver(CompressedProblem):
    """Solver with the methods of :class:`corrsk.relaxometry._nnls.DualSolver`.

    Solutions are spectra, in units in which the largest singular value of the kernel is 1.

    Parameters
    ----------
    model : KernelModel
        Kernels of the protocol.
    n_points : sequence of int
        Number of grid points of each tissue property; the spectrum has M cells.
    penalty : {"first-difference", "second-difference"}
        Operator L.
    """

    def __init__(self, model: KernelModel, n_points: Sequence[int], penalty: str) -> None:
        super().__init__(model, n_points)
        self._gram = self._kernel.T @ self._kernel
        self._penalty = sum_of_differences(n_points, 1 if penalty == "first-difference" else 2)

    def spectrum(self, solution: Array) -> Array:
        """Spectra in the units of the signals: (V, M) to (V, M)."""
        return solution / self.scale

    def solve_all(self, data: Array, alpha: float) -> Array:
        """Solutions for one alpha, without a first guess."""
        return self.solve(data, np.full(len(data), alpha))

    def solve(self, data: Array, alpha: Array, start: Array | None = None) -> Array:
        """Solution (V, M) for each signal.

        Parameters
        ----------
        data : ndarray of shape (V, r)
            From :meth:`compress`.
        alpha : ndarray of shape (V,)
            Regularisation relative to the largest squared singular value.
        start : ndarray of shape (V, M), optional
            Solutions for other regularisations, whose cells are the first guess.

        Returns
        -------
        ndarray of shape (V, M)
            NaN where the iteration does not converge.
        """
        right = data @ self._kernel
        result = np.full(right.shape, np.nan)
        for row, b in enumerate(right):
            if not np.isfinite(b).all():
                continue
            matrix = self._gram + alpha[row] * self._penalty
            inside = np.zeros(b.size, dtype=bool) if start is None else start[row] > 0
            found = _pivot(matrix, b, inside)
            if found is None:  # rounding errors of nearly singular systems may cycle
                found = _by_active_sets(matrix, b)
            if found is not None:
                result[row] = found
        return result

    def rss(self, data: Array, solution: Array, alpha: Array, rest: Array) -> Array:
        """Residual sums of squares of solutions; `data` and `rest` are from :meth:`compress`."""
        difference = data - solution @ self._kernel.T
        return np.asarray(np.einsum("vr,vr->v", difference, difference) + rest)

    def penalty(self, solution: Array) -> Array:
        """Penalties ``||L s||^2`` (V,)."""
        return np.asarray(np.einsum("vm,vm->v", solution @ self._penalty, solution))

    def freedom(self, solution: Array, alpha: Array) -> tuple[Array, Array]:
        """Effective degrees of freedom, and ``log |1 + K_A (alpha P_A)^-1 K_A^T|``, (V,).

        P is L^T L, and the index A means the cells that are not zero.
        """
        freedom, determinant = np.full(len(solution), np.nan), np.full(len(solution), np.nan)
        for row, values in enumerate(solution):
            cells = np.flatnonzero(values > 0)
            if not np.isfinite(values).all():
                continue
            gram = self._gram[np.ix_(cells, cells)]
            penalty = alpha[row] * self._penalty[np.ix_(cells, cells)]
            freedom[row] = np.trace(np.linalg.solve(gram + penalty, gram))
            determinant[row] = np.linalg.slogdet(gram + penalty)[1] - np.linalg.slogdet(penalty)[1]
        return freedom, determinant


def sum_of_differences(shape: Sequence[int], order: int) -> Array:
    """Matrix P of ``s^T P s``, the sum of squared differences along the axes of a grid.

    Parameters
    ----------
    shape : sequence of int
        Shape of the grid, with M cells.
    order : {1, 2}
        Order of the differences. Beyond the grid s is zero.

    Returns
    -------
    ndarray of shape (M, M)
        The sum over the axes.
    """
    total = np.zeros((math.prod(shape),) * 2)
    for axis, size in enumerate(shape):
        differences = np.diff(np.eye(size + 2 * order), n=order, axis=0)[:, order:-order]
        before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        own = differences.T @ differences
        total += np.kron(np.kron(np.eye(before), own), np.eye(after))
    return total


def _by_active_sets(matrix: Array, b: Array) -> Array | None:
    """The same minimum as :func:`_pivot` by the method of Lawson and Hanson, which is slower."""
    try:
        root = np.linalg.cholesky(matrix)
        s, _ = nnls(root.T, np.linalg.solve(root, b), maxiter=30 * b.size)
    except (np.linalg.LinAlgError, RuntimeError):
        return None
    return np.asarray(s)


def _pivot(matrix: Array, b: Array, inside: NDArray[np.bool_]) -> Array | None:
    """Minimum of ``s^T H s / 2 - b^T s`` over s >= 0; None if the iteration does not converge."""
    fewest, patience = b.size + 1, _BLOCK_STEPS
    limit = _ROUNDING * float(np.abs(b).max(initial=0.0))
    for _ in range(_MAX_STEPS):
        s = np.zeros(b.size)
        cells = np.flatnonzero(inside)
        if cells.size:
            try:
                s[cells] = np.linalg.solve(matrix[np.ix_(cells, cells)], b[cells])
            except np.linalg.LinAlgError:
                return None
        gradient = matrix[:, cells] @ s[cells] - b
        small = _ROUNDING * float(np.abs(s).max(initial=0.0))
        wrong = np.where(inside, s < -small, gradient < -limit)
        n_wrong = int(wrong.sum())
        if not n_wrong:
            return np.maximum(s, 0.0)
        if n_wrong < fewest:
            fewest, patience = n_wrong, _BLOCK_STEPS
        elif patience:
            patience -= 1
        else:  # the largest wrong cell alone, which ends in finitely many steps
            last = int(np.flatnonzero(wrong)[-1])
            wrong[:] = False
            wrong[last] = True
        inside = inside ^ wrong
    return None
