"""Variable projection for sums of compartments, for batches of voxels and initial values.

Golub and Pereyra, SIAM J. Numer. Anal. 10, 413 (1973), in the variant of
Kaufman, BIT 15, 49 (1975), algorithm 2 of Ruhe and Wedin, SIAM Rev. 22, 318
(1980). The amplitudes a >= 0 are eliminated; Levenberg-Marquardt steps change
only theta, the logarithms of the tissue properties. With P the projector onto the
orthogonal complement of the compartments' signals, the Jacobian is -P D a, so
that J^T J is a Schur complement of the small Gram matrix of [Phi, D].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._linalg import RIDGE, nonnegative_amplitudes, solve_each

MAX_COMPARTMENTS = 8  # with negative amplitudes 2^8 supports are enumerated
_LONGEST_STEP = 1.5  # in the logarithm; the linearisation is invalid for longer steps
_DAMPING, _DAMPING_MAX = 1e-2, 1e8
_NO_RESIDUAL = 1e-24  # of a signal with norm 1: the fit is exact


class Fit(NamedTuple):
    """Fits of K compartments to V signals.

    theta : (V, K, P + Q), amplitudes : (V, K), rss : (V,)
    """

    theta: Array
    amplitudes: Array
    rss: Array

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Fit:
        """Select the fits of some signals."""
        return Fit(self.theta[rows], self.amplitudes[rows], self.rss[rows])


class _Linearised(NamedTuple):
    amplitudes: Array  # (B, K)
    rss: Array  # (B,)
    gradient: Array  # (B, P K + Q), gradient of half the residual sum of squares
    hessian: Array  # (B, P K + Q, P K + Q), J^T J


def linearise(model: KernelModel, theta: Array, x: Array) -> _Linearised:
    """Amplitudes, residual, gradient and Gauss-Newton matrix at theta.

    Parameters
    ----------
    model : KernelModel
        Kernels of the protocol.
    theta : ndarray of shape (B, K, P + Q)
        Logarithms of the tissue properties, and of the Q nuisance parameters, which all
        compartments share.
    x : ndarray of shape (B, N)
        Signals.
    """
    K, P = theta.shape[1:]
    columns = model.columns(K)
    value_columns = [index[:K] for index in columns]
    slope_columns = [index[K:] for index in columns]
    factors = model.factors(theta, derivatives=True)
    gram = model.gram(factors, columns)
    diagonal = np.einsum("bii->bi", gram)[:, :K]
    size = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))

    phi_phi = gram[:, :K, :K] / (size[:, :, None] * size[:, None, :])
    projection = model.project(factors, value_columns, x) / size
    scaled = nonnegative_amplitudes(phi_phi, projection)
    amplitudes = scaled / size
    # the residual itself, since rounding in ||x||^2 - h^T a is large for a good fit
    residual = x - model.signals(factors, amplitudes)
    rss = np.einsum("bn,bn->b", residual, residual)

    weight = np.tile(amplitudes, P)
    gradient = -model.project(factors, slope_columns, residual) * weight
    support = scaled > 0
    both = support[:, :, None] & support[:, None, :]
    phi_d = np.where(support[:, :, None], gram[:, :K, K:] / size[:, :, None], 0.0)
    masked = np.where(both, phi_phi, 0.0) + np.eye(K) * np.where(support, RIDGE, 1.0)[:, None]
    reached = np.matmul(phi_d.transpose(0, 2, 1), solve_each(masked, phi_d))
    hessian = (gram[:, K:, K:] - reached) * (weight[:, :, None] * weight[:, None, :])
    if model.nuisances:  # the derivative by a shared unknown is the sum over the compartments
        own = (P - len(model.nuisances)) * K
        gradient = _shared(gradient, own, K)
        hessian = _shared(_shared(hessian, own, K).transpose(0, 2, 1), own, K)
    return _Linearised(amplitudes, rss, gradient, hessian)


def _shared(values: Array, own: int, K: int) -> Array:
    """Sum entries (B, own + Q K, ..) of shared unknowns over K compartments: (B, own + Q, ..)."""
    shared = values[:, own:]
    sums = shared.reshape(len(values), -1, K, *values.shape[2:]).sum(axis=2)
    return np.concatenate([values[:, :own], sums], axis=1)


def _step(
    theta: Array, state: _Linearised, damping: Array, low: Array, high: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Damped Gauss-Newton step (B, P K), its predicted decrease, and whether it is a full step."""
    outwards = np.where(state.gradient > 0, theta <= low, theta >= high)
    free = ~(outwards | (state.gradient == 0))
    n = theta.shape[1]
    both = free[:, :, None] & free[:, None, :]
    matrix = np.where(both, state.hessian, 0.0)
    diagonal = np.einsum("bii->bi", matrix)
    floor = 1e-3 * diagonal.max(axis=1, keepdims=True)
    extra = np.where(free, damping[:, None] * np.maximum(diagonal, floor) + 1e-300, 1.0)
    gradient = np.where(free, state.gradient, 0.0)
    step = -solve_each(matrix + np.eye(n) * extra[:, None], gradient[..., None])[..., 0]
    cut = np.clip(np.clip(step, -_LONGEST_STEP, _LONGEST_STEP), low - theta, high - theta)
    curvature = np.einsum("bi,bij,bj->b", cut, matrix, cut)
    promised = -2 * np.einsum("bi,bi->b", gradient, cut) - curvature
    return cut, promised, (cut == step).all(axis=1)


def levenberg_marquardt(
    model: KernelModel, x: Array, theta: Array, *, max_steps: int, tol: float
) -> Fit:
    """Fit compartments from initial values.

    Parameters
    ----------
    model : KernelModel
        Kernels of the protocol.
    x : ndarray of shape (B, N)
        Signals with norm 1, one per problem.
    theta : ndarray of shape (B, K, P + Q)
        Initial values within the bounds.
    max_steps : int
        Largest number of steps.
    tol : float
        A problem has converged if the actual or predicted decrease of the residual sum of
        squares in a step is less than this fraction.

    Returns
    -------
    Fit
        Fits whose residuals are never larger than those of the initial values; NaN if the signal
        or the initial value yields no finite residual.
    """
    B, K, P = theta.shape
    order = (0, 2, 1)  # the unknowns are ordered by property, as the columns of D
    Q = len(model.nuisances)
    P -= Q
    flat = np.ascontiguousarray(theta[..., :P].transpose(order)).reshape(B, P * K)
    low, high = np.repeat(model.low, K), np.repeat(model.high, K)
    if Q:
        flat = np.concatenate([flat, theta[:, 0, P:]], axis=1)
        low = np.concatenate([low, model.nuisance_low])
        high = np.concatenate([high, model.nuisance_high])

    def of_compartments(flat: Array) -> Array:
        theta = flat[:, : P * K].reshape(-1, P, K).transpose(order)
        return model.with_nuisances(theta, flat[:, None, P * K :]) if Q else theta

    def at(flat: Array, x: Array) -> _Linearised:
        return linearise(model, of_compartments(flat), x)

    state = at(flat, x)
    result = Fit(flat.copy(), state.amplitudes.copy(), state.rss.copy())
    damping = np.full(B, _DAMPING)
    live = np.flatnonzero(np.isfinite(state.rss) & (state.rss > _NO_RESIDUAL))
    flat, x, damping = flat[live], x[live], damping[live]
    state = _Linearised(*(part[live] for part in state))
    for _ in range(max_steps):
        if not live.size:
            break
        step, promised, whole = _step(flat, state, damping, low, high)
        trial_at = flat + step
        trial = at(trial_at, x)
        better = trial.rss < state.rss
        gain = np.where(better, state.rss - trial.rss, 0.0)
        done = better & (gain <= tol * state.rss) & (promised <= 10 * tol * state.rss)
        # a step clipped at the bounds may predict no decrease although a shorter step would
        done |= whole & ~(promised > 0.1 * tol * state.rss)
        done |= ~np.isfinite(promised) | (trial.rss <= _NO_RESIDUAL)
        # Nielsen's rule in steps: the damping depends on the ratio of actual and predicted decrease
        kept = gain / np.where(promised > 0, promised, np.inf)
        damping *= np.where(kept > 0.75, 0.1, np.where(kept > 0.25, 0.5, 4.0))
        done |= damping > _DAMPING_MAX
        damping = np.maximum(damping, 1e-12)

        flat = np.where(better[:, None], trial_at, flat)
        for new, old in zip(trial, state, strict=True):
            np.copyto(old, new, where=better.reshape(-1, *(1,) * (new.ndim - 1)))
        moved = live[better]
        result.theta[moved] = flat[better]
        result.amplitudes[moved] = state.amplitudes[better]
        result.rss[moved] = state.rss[better]
        keep = ~done
        if not keep.all():
            live, flat, x, damping = live[keep], flat[keep], x[keep], damping[keep]
            state = _Linearised(*(part[keep] for part in state))
    return result._replace(theta=of_compartments(result.theta))
