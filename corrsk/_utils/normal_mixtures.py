"""Mixtures of normal, or heavier-tailed, distributions for each of many voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from corrsk._utils.extras import compiled_module

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NormalMixture:
    """Mixture of M distributions in d dimensions, for each of V voxels.

    Parameters
    ----------
    log_weights : ndarray of shape (V, M)
        Logarithms of the weights of the components.
    means : ndarray of shape (V, M, d)
        Means.
    factors : ndarray of shape (V, M, d, d)
        Lower triangular matrices L: the inverse covariance is ``L L^T``.
    """

    log_weights: Array
    means: Array
    factors: Array

    def take(self, rows: NDArray[np.intp] | slice) -> NormalMixture:
        """Select the mixtures of some voxels."""
        return NormalMixture(self.log_weights[rows], self.means[rows], self.factors[rows])

    def largest(self, n: int) -> NormalMixture:
        """Keep the n components of the largest weights, with weights that sum to 1."""
        top = np.argsort(-self.log_weights, axis=1, kind="stable")[:, :n]
        weights = np.take_along_axis(self.log_weights, top, axis=1)
        weights = weights - logsumexp(weights, axis=1, keepdims=True)
        rows = np.arange(len(top))[:, None]
        return NormalMixture(weights, self.means[rows, top], self.factors[rows, top])

    def marginal(self, dimensions: NDArray[np.intp]) -> NormalMixture:
        """Mixture of some of the dimensions."""
        if len(dimensions) == self.means.shape[2]:
            return self
        covariances = covariances_of(self.factors)[..., dimensions[:, None], dimensions]
        return NormalMixture(self.log_weights, self.means[..., dimensions], factors_of(covariances))

    def joined(self, other: NormalMixture, share: float) -> NormalMixture:
        """Mixture of both, with `share` of the weight in the other one."""
        return NormalMixture(
            np.concatenate(
                [self.log_weights + math.log1p(-share), other.log_weights + math.log(share)], axis=1
            ),
            np.concatenate([self.means, other.means], axis=1),
            np.concatenate([self.factors, other.factors], axis=1),
        )

    def _constants(self, d: int, freedom: int) -> Array:
        """Weighted densities (V, M) at the means."""
        log_det = np.log(np.einsum("vmii->vmi", self.factors)).sum(axis=2)
        return np.asarray(np.exp(self.log_weights + log_det + _log_constant(d, freedom)))

    def components(self, z: Array, freedom: int) -> Array:
        """Weighted densities (M, V, n) of Student's t distributions at points (V, n, d).

        The tails fall by a power, so that densities far from a component do not vanish.
        """
        constant = self._constants(z.shape[-1], freedom)
        found = np.empty((self.log_weights.shape[1], *z.shape[:2]))
        for m, each in enumerate(found):
            y = np.matmul(z, self.factors[:, m])
            y -= np.matmul(self.means[:, m, None], self.factors[:, m])
            np.einsum("vnd,vnd->vn", y, y, out=each)
            each /= freedom
            each += 1.0
            np.reciprocal(each, out=each)
            _raise(each, freedom + z.shape[-1])
            each *= constant[:, m, None]
        return found

    def density(self, z: Array, freedom: int, wanted: NDArray[np.bool_] | None = None) -> Array:
        """Density (V, n) of Student's t distributions of the components at points (V, n, d).

        It may be 0 at points that are not `wanted`, a mask (V, n).
        """
        kernels = compiled()
        if kernels is None:
            return np.asarray(self.components(z, freedom).sum(axis=0))
        if wanted is None:
            wanted = np.ones(z.shape[:2], dtype=bool)
        wanted = np.ascontiguousarray(wanted)  # one layout, so that one function is compiled
        total = np.empty(z.shape[:2])
        constant = self._constants(z.shape[-1], freedom)
        kernels.density(constant, self.means, self.factors, z, wanted, freedom, total)
        return total

    def points(self, uniform: Array, standard: Array) -> Array:
        """Points (V, n, d) of the mixture.

        Parameters
        ----------
        uniform : ndarray of shape (V, n)
            Uniform numbers, which choose the components.
        standard : ndarray of shape (V, n, d)
            Points of the standard distribution of a component.
        """
        cumulative = np.cumsum(np.exp(self.log_weights), axis=1)
        cumulative /= cumulative[:, -1:]
        points = np.empty_like(standard)
        kernels = compiled()
        if kernels is not None:
            # one layout, so that one function is compiled
            uniform, standard = np.ascontiguousarray(uniform), np.ascontiguousarray(standard)
            kernels.points(cumulative, self.means, self.factors, uniform, standard, points)
            return points
        chosen = np.zeros(uniform.shape, np.intp)
        for bound in cumulative.T[:-1]:
            chosen += uniform > bound[:, None]
        inverse = np.linalg.inv(self.factors)  # standard points times L^-1 are points
        for m in range(self.log_weights.shape[1]):
            moved = np.matmul(standard, inverse[:, m])
            moved += self.means[:, m, None]
            np.copyto(points, moved, where=(chosen == m)[..., None])
        return points


def compiled() -> ModuleType | None:
    """Compiled functions, imported on first use; None without numba, for the ones of numpy.

    The functions of numpy take about ten times as long.
    """
    return compiled_module("corrsk._utils._mixtures_compiled")


def factors_of(covariances: Array) -> Array:
    """Lower triangular factors L (.., d, d) of the inverses ``L L^T`` of covariances."""
    kernels = compiled()
    if kernels is None:
        return np.asarray(np.linalg.cholesky(np.linalg.inv(covariances)))
    d = covariances.shape[-1]
    found = np.empty_like(covariances, order="C")
    kernels.inverse_factors(
        np.ascontiguousarray(covariances).reshape(-1, d, d), found.reshape(-1, d, d)
    )
    return found


def covariances_of(factors: Array) -> Array:
    """Covariances (.., d, d), whose inverses are ``L L^T``, of lower triangular factors L."""
    kernels = compiled()
    if kernels is None:
        inverse = np.linalg.inv(factors)
        return np.asarray(np.matmul(inverse.swapaxes(-1, -2), inverse))
    d = factors.shape[-1]
    found = np.empty_like(factors, order="C")
    kernels.covariances(np.ascontiguousarray(factors).reshape(-1, d, d), found.reshape(-1, d, d))
    return found


def _raise(values: Array, twice: int) -> None:
    """Raise values to the power twice / 2, in place; a general power takes ten times as long."""
    power, base = twice // 2, values.copy()
    if twice % 2:
        np.sqrt(values, out=values)
    else:
        values[:] = 1.0
    while power:
        if power % 2:
            values *= base
        power //= 2
        if power:
            base *= base


def _log_constant(d: int, freedom: int) -> float:
    half = 0.5 * freedom
    return math.lgamma(half + 0.5 * d) - math.lgamma(half) - 0.5 * d * math.log(freedom * math.pi)


def effective_number(log_weights: Array) -> Array:
    """Effective number of draws (V,) with weights (V, n): the squared sum over that of squares."""
    with np.errstate(invalid="ignore"):
        largest = log_weights.max(axis=1, keepdims=True)
        weights = np.exp(log_weights - np.where(np.isfinite(largest), largest, 0.0))
    total = weights.sum(axis=1)
    return np.asarray(total**2 / np.maximum((weights**2).sum(axis=1), 1e-300))
