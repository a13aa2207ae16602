"""Where fits start: combinations of atoms of a dictionary."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np

from corrsk._utils.rng import keyed_generator
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._peaks import ascent
from corrsk.relaxometry._varpro import Fit

_MAX_ATOMS = 400
_N_TUPLES = 512
_STREAM = 11
_SPLIT = 0.5  # half the distance of the halves, in the logarithm


class StartDictionary:
    """Single compartments on a log grid, and tuples of them to start fits from.

    Parameters
    ----------
    model : KernelModel
    counts : iterable of int
        The numbers K of compartments that will be fitted.
    seed : int
        The tuples are drawn once, so that every voxel is tried with the same
        and its fit depends on nothing but its signal.
    """

    def __init__(self, model: KernelModel, counts: Iterable[int], seed: int) -> None:
        P = len(model.properties)
        n = max(2, int(_MAX_ATOMS ** (1 / P) + 1e-9))
        self._model = model
        self._shape = (n,) * P
        _, self._theta = model.grid(self._shape)
        atoms = model.dictionary(self._theta)
        norms = np.linalg.norm(atoms, axis=1, keepdims=True)
        self._atoms = atoms / np.where(norms > 0, norms, 1.0)
        gram = self._atoms @ self._atoms.T
        self._tuples = {}
        for K in counts:
            if K == 1:
                members = np.arange(len(atoms))[:, None]
            else:
                rng = keyed_generator(seed, _STREAM, K)
                members = rng.integers(0, len(atoms), (_N_TUPLES, K))
            grams = gram[members[:, :, None], members[:, None, :]]
            self._tuples[K] = members, grams, np.linalg.inv(grams + 1e-6 * np.eye(K))

    def starts(self, x: Array, K: int, smaller: Fit | None, n_starts: int) -> Array:
        """Where to start fits of K compartments.

        Parameters
        ----------
        x : ndarray of shape (V, N)
            Signals of norm 1.
        K : int
        smaller : Fit or None
            Of K - 1 compartments to each signal; None where K is 1.
        n_starts : int

        Returns
        -------
        ndarray of shape (V, S, K, P)
            Half of `n_starts` tuples of atoms, half fits grown by an atom, and
            the splits of the smaller fit.
        """
        if smaller is None:
            return self._best_tuples(x, K, 1)  # a single compartment has a single basin
        grown = self._grown(x, smaller, n_starts - n_starts // 2)
        tuples = self._best_tuples(x, K, n_starts // 2)
        return np.concatenate([grown, tuples, self._split(smaller)], axis=1)

    def _best_tuples(self, x: Array, K: int, n_starts: int) -> Array:
        """The tuples with the smallest residual, their amplitudes clipped at 0."""
        members, grams, inverses = self._tuples[K]
        h = (x @ self._atoms.T)[:, members].transpose(1, 0, 2)  # (R, V, K)
        a = np.maximum(h @ inverses, 0.0)
        gain = (a * (2 * h - a @ grams)).sum(axis=-1).T
        best = np.argsort(-gain, axis=1, kind="stable")[:, :n_starts]
        return self._theta[members[best]]

    def _grown(self, x: Array, fit: Fit, n_starts: int) -> Array:
        """A fit with a further atom, of those that lower its residual most locally.

        Orthogonal least squares: the gain of an atom d is ``(d^T r)^2 / |d'|^2``
        with d' what the fit cannot reach of d. Only local maxima of the gain
        are taken as long as there are any: their neighbours lead to the same fit.
        """
        V, K, P = fit.theta.shape
        factors = self._model.factors(fit.theta.reshape(V * K, 1, P))
        phi = self._model.signals(factors, np.ones((V * K, 1))).reshape(V, K, -1)
        residual = x - np.matmul(fit.amplitudes[:, None, :], phi)[:, 0]
        present = (fit.amplitudes > 0)[:, :, None]
        basis, _ = np.linalg.qr(np.where(present, phi, 0.0).transpose(0, 2, 1))
        overlap = np.matmul(self._atoms, basis)  # (V, M, K)
        left = np.maximum(1 - np.einsum("vmk,vmk->vm", overlap, overlap), 1e-4)
        gain = np.maximum(residual @ self._atoms.T, 0.0) ** 2 / left
        peak = ascent(gain.reshape(V, *self._shape)) == np.arange(gain.shape[1])
        best = np.argsort(np.where(peak, -gain, -1e-6 * gain), axis=1, kind="stable")
        best = best[:, :n_starts]
        kept = np.broadcast_to(fit.theta[:, None], (V, best.shape[1], K, P))
        return np.concatenate([kept, self._theta[best][:, :, None]], axis=2)

    def _split(self, fit: Fit) -> Array:
        """Each compartment of a fit split in two, along every axis and diagonal."""
        low, high = self._model.low, self._model.high
        splits = []
        for k in range(fit.theta.shape[1]):
            for direction in product((-1, 0, 1), repeat=fit.theta.shape[2]):
                if direction <= (0,) * len(direction):  # the opposite ones give the same
                    continue
                shift = _SPLIT * np.array(direction)
                theta = np.concatenate([fit.theta, fit.theta[:, k : k + 1] + shift], axis=1)
                theta[:, k] -= shift
                splits.append(np.clip(theta, low, high))
        return np.stack(splits, axis=1)
