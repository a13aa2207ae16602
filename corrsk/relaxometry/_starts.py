"""Initial values of fits: combinations of the atoms of a dictionary."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from corrsk._utils.rng import keyed_generator
from corrsk.relaxometry._kernels import Array, KernelModel
from corrsk.relaxometry._peaks import ascent
from corrsk.relaxometry._varpro import Fit

_MAX_ATOMS = 400
_N_TUPLES = 512
_STREAM = 11
_N_PATTERNS, _N_PER_PATTERN = 3, 3  # of signs of magnitudes, and initial values for each
_SPLIT = 0.5  # half the distance between the two parts of a split compartment, in the logarithm


class StartDictionary:
    """Dictionary of single compartments on a log grid, for the initial values of fits.

    Parameters
    ----------
    model : KernelModel
        Kernels of the protocol.
    counts : iterable of int
        Numbers K of compartments to fit.
    seed : int
        Seed of the tuples of atoms. All voxels share the tuples, so that the fit of a voxel
        depends on its signal only.
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
        self._patterns = np.unique(np.where(self._atoms < 0, -1.0, 1.0), axis=0)
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
        """Initial values of fits of K compartments.

        Parameters
        ----------
        x : ndarray of shape (V, N)
            Signals with norm 1.
        K : int
            Number of compartments.
        smaller : Fit or None
            Fit of K - 1 compartments to each signal; None if K is 1.
        n_starts : int
            Number of initial values from the dictionary.

        Returns
        -------
        ndarray of shape (V, S, K, P + Q)
            `n_starts` initial values, half of them smaller fits with an additional atom and half
            tuples of atoms, and the smaller fit with each compartment split. The Q nuisance
            parameters are those of the smaller fit, of tuples the usual ones, since a fit with
            too few compartments may have put them at a bound.
        """
        if smaller is None:  # the fit of one compartment has a single minimum
            return self._model.with_nuisances(self._best_tuples(x, K, 1))
        grown = self._grown(x, smaller, n_starts - n_starts // 2)
        tuples = self._model.with_nuisances(self._best_tuples(x, K, n_starts // 2))
        return np.concatenate([grown, tuples, self._split(smaller)], axis=1)

    def with_signs(self, magnitudes: Array) -> Array:
        """Magnitudes (V, N) with the signs of the single compartment nearest in magnitude."""
        best = (magnitudes @ np.abs(self._atoms).T).argmax(axis=1)
        return np.asarray(np.where(self._atoms[best] < 0, -magnitudes, magnitudes))

    def of_patterns(self, magnitudes: Array, K: int) -> tuple[Array, Array] | None:
        """Magnitudes with further signs, and initial values of fits to them.

        The signs of a mixture are not those of the single compartment nearest to it where its null
        lies elsewhere. The patterns are those of all single compartments (each position of the
        null); per voxel, those which the tuples of atoms fit best.

        Parameters
        ----------
        magnitudes : ndarray of shape (V, N)
            Magnitudes with norm 1.
        K : int
            Number of compartments.

        Returns
        -------
        signed : ndarray of shape (V, S, N)
            The magnitudes with signs.
        starts : ndarray of shape (V, S, K, P + Q)
            An initial value for each.
        None if all compartments have the same signs.
        """
        if len(self._patterns) < 2:
            return None
        gains, members = zip(
            *(
                self._best_of_tuples(magnitudes * pattern, K, _N_PER_PATTERN)
                for pattern in self._patterns
            ),
            strict=True,
        )
        gain = np.stack(gains, axis=1)  # (V, patterns, tuples)
        best = np.argsort(-gain[..., 0], axis=1, kind="stable")[:, :_N_PATTERNS]
        atoms = np.take_along_axis(np.stack(members, axis=1), best[:, :, None, None], axis=1)
        V, R, S = atoms.shape[:3]
        signed = np.repeat(magnitudes[:, None] * self._patterns[best], S, axis=1)
        theta = self._theta[atoms.reshape(V, R * S, K)]
        return signed, self._model.with_nuisances(theta)

    def _best_tuples(self, x: Array, K: int, n_starts: int) -> Array:
        """Tuples with the smallest residual, with amplitudes clipped at 0."""
        return self._theta[self._best_of_tuples(x, K, n_starts)[1]]

    def _best_of_tuples(self, x: Array, K: int, n_starts: int) -> tuple[Array, NDArray[np.int64]]:
        """Decrease of the residual (V, R), and the atoms (V, R, K), of the best tuples."""
        members, grams, inverses = self._tuples[K]
        h = (x @ self._atoms.T)[:, members].transpose(1, 0, 2)  # (R, V, K)
        a = np.maximum(h @ inverses, 0.0)
        gain = (a * (2 * h - a @ grams)).sum(axis=-1).T
        best = _largest(gain, n_starts)
        return np.take_along_axis(gain, best, axis=1), members[best]

    def _grown(self, x: Array, fit: Fit, n_starts: int) -> Array:
        """Smaller fits with an additional atom that reduces the residual most.

        Orthogonal least squares: the gain of an atom d is ``(d^T r)^2 / |d'|^2``
        with d' the component of d orthogonal to the fit. Local maxima of the gain take precedence
        over other atoms, since neighbouring atoms lead to the same fit.
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
        best = _largest(np.where(peak, gain, 1e-6 * gain), n_starts)
        kept = np.broadcast_to(fit.theta[:, None], (V, best.shape[1], K, P))
        nuisances = fit.theta[:, None, :1, len(self._model.properties) :]
        added = self._model.with_nuisances(self._theta[best][:, :, None], nuisances)
        return np.concatenate([kept, added], axis=2)

    def _split(self, fit: Fit) -> Array:
        """Fits with one compartment split in two, along every axis and diagonal."""
        P, model = len(self._model.properties), self._model
        low = np.concatenate([model.low, model.nuisance_low])
        high = np.concatenate([model.high, model.nuisance_high])
        splits = []
        for k in range(fit.theta.shape[1]):
            for direction in product((-1, 0, 1), repeat=P):
                if direction <= (0,) * len(direction):  # opposite directions are equivalent
                    continue
                shift = np.zeros(fit.theta.shape[2])
                shift[:P] = _SPLIT * np.array(direction)
                theta = np.concatenate([fit.theta, fit.theta[:, k : k + 1] + shift], axis=1)
                theta[:, k] -= shift
                splits.append(np.clip(theta, low, high))
        return np.stack(splits, axis=1)


def _largest(values: Array, n: int) -> NDArray[np.intp]:
    """Places (V, n) of the n largest values of each row (V, M), in descending order."""
    n = min(n, values.shape[1])
    found = np.argpartition(-values, n - 1, axis=1)[:, :n]
    found.sort(axis=1)  # of equal values the first, as in a stable sort
    order = np.argsort(-np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)
