"""Probabilities of counts from runs of evidence, and the reliability of the probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

Array = NDArray[np.float64]

LARGEST_STANDARD_ERROR = 0.1  # of a reliable probability
_UNEXPLAINED = 1e-6  # prior probability of signals that no tissue of the prior explains


# probabilities vanish where the evidence is small, whatever error state users set
_vanishing = np.errstate(under="ignore")


@dataclass(frozen=True)
class CountPosterior:
    """Posterior of the compartment counts of n_samples voxels, or of the voxels of a volume.

    Arrays of a volume have its shape in place of (n_samples,).

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Labels, in the order of the columns.
    run_log_evidence : ndarray of shape (n_runs, n_samples, n_classes)
        Logarithm of the evidence ``p(x | n_c)`` from each run; for normalised
        signals the density on the unit sphere. NaN for voxels without a signal.
    log_unexplained : ndarray of shape (n_samples,), optional
        Logarithm of the density of each signal if it were noise without tissue; without it no
        voxel is `unexplained`.

    Notes
    -----
    The evidence of a count is the mean over the runs, which are all
    unbiased; probabilities are ratios of the evidence, with equally likely counts. Since each
    run has its own particles, the spread between the runs determines the errors.
    """

    classes: NDArray[Any]
    run_log_evidence: Array
    log_unexplained: Array | None = None

    def reshape(self, shape: tuple[int, ...]) -> CountPosterior:
        """Arrange the voxels as maps.

        Parameters
        ----------
        shape : tuple of int
            Shape of the maps, with as many voxels.

        Returns
        -------
        CountPosterior
            The posterior, with arrays of this shape in place of (n_samples,).
        """
        n_runs, n_classes = len(self.run_log_evidence), len(self.classes)
        evidence = self.run_log_evidence.reshape(n_runs, *shape, n_classes)
        unexplained = self.log_unexplained
        if unexplained is not None:
            unexplained = unexplained.reshape(shape)
        return CountPosterior(self.classes, evidence, unexplained)

    @property
    @_vanishing
    def log_evidence(self) -> Array:
        """Logarithm of the mean evidence over the runs, (n_samples, n_classes)."""
        n_runs = len(self.run_log_evidence)
        return np.asarray(logsumexp(self.run_log_evidence, axis=0) - np.log(n_runs))

    @property
    def probabilities(self) -> Array:
        """Probabilities ``P(n_c | x)``, (n_samples, n_classes)."""
        return _normalised(self.log_evidence)

    @property
    def run_probabilities(self) -> Array:
        """Probabilities from each single run, (n_runs, n_samples, n_classes)."""
        return _normalised(self.run_log_evidence)

    @property
    @_vanishing
    def log_evidence_error(self) -> Array:
        """Standard error of `log_evidence`, (n_samples, n_classes).

        ``sqrt(v / (1 - v))`` with v the squared standard error of the mean
        evidence over the square of the mean. If a single run contributes the whole mean, v is 1,
        its maximum, and the error is infinite. A run with a smaller evidence than the other runs
        has little effect.
        """
        n_runs = len(self.run_log_evidence)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            share = np.exp(self.run_log_evidence - self.log_evidence)
            v = np.minimum(share.var(axis=0, ddof=1) / n_runs, 1.0)
            return np.asarray(np.sqrt(v / (1.0 - v)))

    @property
    @_vanishing
    def standard_error(self) -> Array:
        """Monte-Carlo standard error of `probabilities`, (n_samples, n_classes); at most 0.5.

        Jackknife over the runs of each count, which are independent samples
        (Efron and Stein, Ann. Statist. 9, 586 (1981)). Unlike the
        propagation of small errors, the jackknife detects a probability of 1 that
        depends on a single run.
        """
        n_runs, *shape, K = self.run_log_evidence.shape
        variance = np.zeros((*shape, K))
        for k in range(K):
            without = []
            for run in range(n_runs):
                others = np.delete(self.run_log_evidence[..., k], run, axis=0)
                evidence = self.log_evidence
                evidence[..., k] = logsumexp(others, axis=0) - np.log(n_runs - 1)
                without.append(_normalised(evidence))
            variance += (n_runs - 1) * np.var(without, axis=0)
        return np.asarray(np.minimum(np.sqrt(variance), 0.5))

    @property
    @_vanishing
    def effective_sample_size(self) -> Array:
        """Number of posterior draws of n_c with the same accuracy, (n_samples,).

        ``sum_k p_k (1 - p_k) / sum_k SE_k^2``: the mean squared error of the
        frequencies in m draws is ``sum_k p_k (1 - p_k) / m``. Infinite if all
        standard errors are 0.
        """
        p = self.probabilities
        squared = (self.standard_error**2).sum(axis=-1)
        with np.errstate(divide="ignore"):
            size = (p * (1 - p)).sum(axis=-1) / squared
        return np.asarray(np.where(squared > 0, size, np.where(np.isnan(squared), np.nan, np.inf)))

    @property
    def trustworthy(self) -> NDArray[np.bool_]:
        """Mask of reliable voxels, (n_samples,): all standard errors are at most 0.1.

        False for voxels without a signal.
        """
        with np.errstate(invalid="ignore"):
            return np.asarray((self.standard_error <= LARGEST_STANDARD_ERROR).all(axis=-1))

    @property
    def probability_unexplained(self) -> Array:
        """Probability that no tissue of the prior explains the signal, (n_samples,).

        The posterior of the hypothesis that the signal is noise without tissue, with a prior
        probability of 1e-6. 0 without `log_unexplained`, NaN for voxels without a signal.
        """
        with np.errstate(under="ignore"):  # terms that do not matter, and a probability of 0
            evidence = np.asarray(logsumexp(self.log_evidence, axis=-1)) - np.log(len(self.classes))
            if self.log_unexplained is None:
                return np.where(np.isnan(evidence), np.nan, 0.0)
            odds = np.log(_UNEXPLAINED) + self.log_unexplained - evidence
            return np.asarray(expit(odds))

    @property
    def unexplained(self) -> NDArray[np.bool_]:
        """Mask of voxels that no tissue of the prior explains, (n_samples,).

        The probability is above a half: a flipped sign, magnitude images, another protocol, tissue
        beyond the ranges, or a wrong noise level.
        """
        with np.errstate(invalid="ignore"):
            return np.asarray(self.probability_unexplained > 0.5)


@_vanishing
def _normalised(log_evidence: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.exp(log_evidence - logsumexp(log_evidence, axis=-1, keepdims=True)))
