"""Gaussian mixture of samples with given, sample-dependent noise variances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus

_LLOYD_STEPS = 20
_NEGLIGIBLE = 1e-3  # smaller responsibilities cost time without effect


@dataclass(frozen=True)
class NoisyMixture:
    """Density of noisy samples: each cluster is widened by the noise of the sample.

    A noise-free sample follows ``sum_k w_k N(mean_k, Q_k diag(v_k) Q_k^T)``; the observed sample
    has additional noise of variance s2 in every direction, where s2 is given for each sample.
    Samples with little noise are therefore compared with narrow clusters, and noisy samples with
    wide ones, unlike in an ordinary mixture.

    Parameters
    ----------
    weights : array of shape (n_clusters,)
        Weight of each cluster.
    means : array of shape (n_clusters, d)
        Centre of each cluster.
    variances : array of shape (n_clusters, d)
        Variances of the noise-free samples along the principal directions of each cluster.
    directions : array of shape (n_clusters, d, d)
        Principal directions of each cluster, as columns.

    Notes
    -----
    Bovy, Hogg and Roweis, "Extreme deconvolution", Ann. Appl. Stat. 5, 1657 (2011), with
    isotropic noise, for which one eigendecomposition per cluster serves all samples.
    """

    weights: NDArray[Any]
    means: NDArray[Any]
    variances: NDArray[Any]
    directions: NDArray[Any]

    @classmethod
    def fit(
        cls,
        samples: NDArray[np.float64],
        noise_variance: NDArray[np.float64],
        *,
        n_clusters: int,
        scale: NDArray[np.float64],
        n_steps: int,
        seed: int,
    ) -> NoisyMixture:
        """Fit a mixture by expectation-maximisation, from k-means++ centres.

        Parameters
        ----------
        samples : array of shape (n_samples, d)
            Noisy samples.
        noise_variance : array of shape (n_samples,)
            Positive noise variance of each sample.
        n_clusters : int
            Number of clusters.
        scale : array of shape (d,)
            Factors that make the columns comparable for the initial hard clustering.
        n_steps : int
            Number of iterations.
        seed : int
            Seed of the initial centres.
        """
        nearest = _clustered(samples * scale, n_clusters, seed)
        start = [np.flatnonzero(nearest == k) for k in range(n_clusters)]
        # the initial variances include the noise, which the first iteration subtracts
        mixture = cls._empty(n_clusters, samples.shape[1])
        for k, rows in enumerate(start):
            members = samples[rows] if rows.size else samples[:1]
            mixture.weights[k] = max(rows.size, 1) / len(samples)
            mixture.means[k] = members.mean(axis=0)
            off = members - mixture.means[k]
            mixture._set_covariance(k, off.T @ off / len(members))
        for _ in range(n_steps):
            mixture = mixture._improved(samples, noise_variance)
        return mixture

    @classmethod
    def _empty(cls, n_clusters: int, d: int) -> NoisyMixture:
        shapes = ((n_clusters,), (n_clusters, d), (n_clusters, d), (n_clusters, d, d))
        return cls(*(np.empty(shape) for shape in shapes))

    def _set_covariance(self, k: int, covariance: NDArray[np.float64]) -> None:
        variances, self.directions[k] = np.linalg.eigh(covariance)
        self.variances[k] = np.maximum(variances, 0)

    def _improved(
        self, samples: NDArray[np.float64], noise_variance: NDArray[np.float64]
    ) -> NoisyMixture:
        share, _ = self.responsibilities(self.log_joint(samples, noise_variance))
        better = self._empty(*self.means.shape)
        for k, directions in enumerate(self.directions):
            rows = np.flatnonzero(share[:, k] > _NEGLIGIBLE)
            total = share[rows, k].sum()
            if rows.size < 2 or total < 1:  # too few samples for an update
                better.weights[k] = total / len(samples)
                better.means[k], better.variances[k] = self.means[k], self.variances[k]
                better.directions[k] = directions
                continue
            # posterior mean and variance of the noise-free samples
            noise = noise_variance[rows, None]
            kept = self.variances[k] / (self.variances[k] + noise)
            clean = kept * ((samples[rows] - self.means[k]) @ directions)
            weight = share[rows, k, None] / total
            mean = (weight * clean).sum(axis=0)
            off = clean - mean
            covariance = (weight * off).T @ off + np.diag((weight * kept * noise).sum(axis=0))
            better.weights[k] = total / len(samples)
            better.means[k] = self.means[k] + directions @ mean
            better._set_covariance(k, directions @ covariance @ directions.T)
        return better

    def log_joint(self, samples: NDArray[Any], noise_variance: NDArray[Any]) -> NDArray[Any]:
        """Logarithm of weight times density of each cluster, (n_samples, n_clusters).

        A constant is omitted.
        """
        joint = np.empty((len(self.weights), len(samples)), dtype=samples.dtype)
        columns = np.ascontiguousarray(samples.T)  # numpy is twice as fast on long rows
        for k, directions in enumerate(self.directions):
            off = directions.T @ columns
            off -= (self.means[k] @ directions)[:, None]
            variance = self.variances[k][:, None] + noise_variance
            np.square(off, out=off)
            off /= variance
            off += np.log(variance, out=variance)
            np.sum(off, axis=0, out=joint[k])
        joint *= -0.5
        joint += np.log(np.maximum(self.weights, 1e-30)).astype(samples.dtype)[:, None]
        return joint.T

    @staticmethod
    def responsibilities(joint: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """Probability of each cluster, (n_samples, n_clusters), and the most probable one."""
        nearest = joint.argmax(axis=1)
        share = np.exp(joint - joint[np.arange(len(joint)), nearest][:, None])
        return share / share.sum(axis=1, keepdims=True), nearest

    def deviations(
        self, samples: NDArray[Any], noise_variance: NDArray[Any], nearest: NDArray[np.intp]
    ) -> NDArray[Any]:
        """Squared deviations from the given clusters over their variances, (n_samples, d)."""
        squared = np.empty_like(samples)
        for k in np.unique(nearest):
            rows = nearest == k
            off = (samples[rows] - self.means[k]) @ self.directions[k]
            squared[rows] = off**2 / (self.variances[k] + noise_variance[rows, None])
        return squared


def _clustered(points: NDArray[np.float64], n_clusters: int, seed: int) -> NDArray[np.intp]:
    """Cluster of each point, by Lloyd's algorithm.

    scikit-learn's implementation sums in an order that depends on the number of threads.
    """
    centres, _ = kmeans_plusplus(points, n_clusters, random_state=seed)
    for _ in range(_LLOYD_STEPS):
        nearest = ((centres**2).sum(axis=1) / 2 - points @ centres.T).argmin(axis=1)
        size = np.bincount(nearest, minlength=n_clusters)[:, None]
        sums = np.column_stack([np.bincount(nearest, column, n_clusters) for column in points.T])
        centres = np.where(size > 0, sums / np.maximum(size, 1), centres)
    return nearest
