"""Detector of signals that differ from all signals of the training prior."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from corrsk import physics
from corrsk._utils.parallel import for_each_chunk, one_blas_thread
from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.rng import RandomStateLike, entropy, keyed_generator
from corrsk._utils.validation import N_JOBS, POSITIVE_INTEGER, RANDOM_STATE, refuse_volume
from corrsk._utils.voxels import Voxels, warn_if_volume
from corrsk.acquisition.labels import with_column_names
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.novelty._mixture import NoisyMixture
from corrsk.novelty._subspace import LEAST_VARIANCE, CoordinateRelation, noise_weighted_subspace
from corrsk.novelty._tail import log_tail, upper_quantiles
from corrsk.preprocessing.signals import measured_signals, protocol_of_fit, signals_of_protocol

EXPLAINED, NO_SIGNAL = "explained", "no signal"
# reasons by priority, specific ones first: if the noise is too low, all other statistics are
# significant as well, and an outlying measurement or a wrong shape increases the apparent noise
REASONS = {
    "noise_below": "noise below the trained range",
    "spike": "single measurement off",
    "shape": "signal shape outside the prior",
    "relation": "signal shape outside the prior",
    "noise_above": "noise above the trained range",
}
_CHUNK_ROWS = 4096
_FIT_ROWS = 200_000  # largest number of signals to fit to; the others calibrate
_MIXTURE_ROWS = 50_000  # more do not improve the mixture and would cost minutes
_MIXTURE_STEPS = 20  # of expectation-maximisation
_STRONG = 10.0  # times the noise
_N_QUANTILES = 400


class SignalNoveltyDetector(OutlierMixin, EarlierPicklesMixin, BaseEstimator):
    """Detector of signals that differ from all signals of the training prior.

    A classifier predicts a count for any signal, also for signals of another protocol, with
    noise outside the trained range, or with artefacts. This detector models the distribution of
    the signals of the prior and computes a p-value for every voxel: the probability that a signal
    of the prior is at least as unusual. It has scikit-learn's interface of outlier detectors.

    Parameters
    ----------
    false_alarm_rate : float, default=0.01
        Fraction of signals of the prior that :meth:`predict` labels as outliers.
    n_clusters : int, default=64
        Number of clusters in the mixture that models the shapes of the signals (fewer
        for few training signals).
    random_state : int, RandomState, Generator or None, default=None
        Seed of the split into fitting and calibration signals, and of the initial cluster
        centres.
    n_jobs : int or None, default=None
        Number of threads for scoring; None uses every core (one within a joblib worker).
    verbose : bool, default=True
        Whether to show progress once the scoring takes a few seconds.
    protocol : AcquisitionProtocol or str, default="auto"
        Protocol of the columns of X, in their order, or the name of a protocol that corrsk ships.
        With a protocol, signals whose columns have names (TI50_TE4.5) are reordered. "auto"
        derives the protocol from the names of the columns of `fit`, if there are any; without a
        protocol all signals must have the columns of `fit`, without such names.

    Attributes
    ----------
    protocol_ : AcquisitionProtocol or None
        The protocol, in the order of the columns of `fit`; None if there is none.
    offset_ : float
        ``log(false_alarm_rate)``: the least score of an inlier.
    subspace_ : ndarray of shape (n_measurements, d)
        Orthonormal basis of the subspace of the signals of the prior.
    cluster_weights_ : ndarray of shape (n_clusters,)
        Weights of the mixture of the shapes.
    cluster_means_ : ndarray of shape (n_clusters, d)
        Centres of the mixture.
    cluster_variances_ : ndarray of shape (n_clusters, d)
        Variances of the mixture along the principal directions.
    cluster_directions_ : ndarray of shape (n_clusters, d, d)
        Principal directions of the mixture, as columns.
    cluster_log_noise_ : ndarray of shape (n_clusters,)
        Mean logarithm of the noise variance in each cluster.
    relation_ : ndarray of shape (p, d - m)
        Coefficients of the polynomials of the m leading coordinates that predict the other
        coordinates.
    relation_log_spread_ : ndarray of shape (q + 1, d - m)
        Coefficients of the polynomials that predict the logarithm of the squared error; the last
        row belongs to the logarithm of the noise variance.
    quantiles_ : ndarray of shape (6, n_quantiles)
        Quantiles of the five statistics and of their combination on the calibration signals, at
        `tail_probabilities_`.
    tail_probabilities_ : ndarray of shape (n_quantiles,)
        Descending probabilities; the last is ``1 / (n_calibration_ + 1)``.
    n_calibration_ : int
        Number of calibration signals.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    feature_names_in_ : ndarray of str
        Names of the measurements, if the signals of `fit` have names.

    Notes
    -----
    Every signal is first divided by its 2-norm, so that the signals may be normalised or not.
    Noise-free signals lie close to a subspace of few dimensions, which is estimated by
    a principal component analysis (uncentred, each signal weighted by the inverse of its
    noise variance, since the noisiest signals would dominate otherwise). Five statistics follow:

    - *noise_above, noise_below*: the energy outside the subspace is noise. Its logarithm
      is compared with that of signals of the same shape: a voxel of short T2 has a small
      signal and thus, after division by its norm, more noise.
    - *spike*: the largest studentised residual of a single measurement, relative to the
      noise of all others (Cook and Weisberg, Residuals and Influence in Regression, 1982).
    - *shape*: the squared distance to the most probable cluster of a Gaussian mixture
      in the subspace, in units of the width of the cluster and the noise of the signal.
    - *relation*: the seven leading coordinates in the subspace almost determine the others. Each
      of the others is predicted by a cubic polynomial of the leading ones; the statistic is the
      largest error relative to its spread for signals of that shape and noise. It detects
      deviations within wide clusters.

    Half of the training signals (all but 200,000 of more than 400,000) are held out and
    calibrate the p-value of each statistic. The result is the smallest of the five p-values;
    its distribution on the held-out signals corrects for the multiple tests (Westfall and Young,
    Resampling-Based Multiple Testing, 1993), so that the false-alarm rate on signals of the
    prior is the nominal one. This holds on average over the prior: the rates at single noise
    levels and counts may be higher or lower.

    Changes that turn one signal of the prior into another cannot be detected: scaling all TI
    equals shorter T1, a TR much longer than T1 has no effect, and an artefact may be smaller
    than the noise. An effect too small for single voxels may be significant in many: in a volume
    that fits the prior the fraction `false_alarm_rate` is flagged, so that 3 % instead of 1 % in
    10^4 voxels indicate another protocol.

    Voxels without signal (all zero, or with NaN) are outliers; their scores and p-values are NaN.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.novelty import SignalNoveltyDetector
    >>> X, _ = make_correlation_signals(4000, random_state=0)
    >>> detector = SignalNoveltyDetector(n_clusters=8, random_state=0).fit(X)
    >>> noisy, _ = make_correlation_signals(1000, noise_level=0.3, random_state=1)
    >>> bool((detector.predict(noisy) == -1).mean() > 0.9)
    True
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "false_alarm_rate": [Interval(Real, 0, 0.5, closed="neither")],
        "n_clusters": [POSITIVE_INTEGER],
        "random_state": RANDOM_STATE,
        "n_jobs": N_JOBS,
        "verbose": ["verbose"],
        "protocol": [AcquisitionProtocol, str],
    }

    def __init__(
        self,
        false_alarm_rate: float = 0.01,
        n_clusters: int = 64,
        random_state: RandomStateLike = None,
        n_jobs: int | None = None,
        verbose: bool = True,
        protocol: AcquisitionProtocol | str = "auto",
    ) -> None:
        self.false_alarm_rate = false_alarm_rate
        self.n_clusters = n_clusters
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.protocol = protocol

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> SignalNoveltyDetector:
        """Fit the detector to simulated signals of the prior.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals simulated from the prior, with noise: 10^5 or more. Signals
            that are all zero are ignored.
        y : array of shape (n_samples,), optional
            Ignored, but for its shape: a volume with labels is refused.

        Returns
        -------
        SignalNoveltyDetector
            The detector itself.

        Raises
        ------
        ValueError
            If fewer than two signals are not zero, a value is NaN or infinite, the columns or
            axes of X contradict the protocol, or X is a volume of a known protocol or with labels.

        Warns
        -----
        UserWarning
            If X without y and without a known protocol is probably a volume: three axes or more,
            and more measurements than signals.
        """
        refuse_volume(X, y)
        signals = self._checked(X, reset=True)
        given = None if self.protocol == "auto" else resolve_protocol(self.protocol)
        self.protocol_ = protocol_of_fit(self, given)
        if self.protocol_ is None:
            warn_if_volume(X, y)
        X = signals
        X = X[X.any(axis=1)]
        if len(X) < 2:
            raise ValueError(
                f"the detector needs at least two signals that are not all zero, got {len(X)}"
            )
        seed = entropy(self.random_state)
        order = keyed_generator(seed).permutation(len(X))
        n_fit = min(-(-len(X) // 2), _FIT_ROWS)
        signals = physics.normalize_signals(X[order[:n_fit]].astype(np.float64), "l2")
        with one_blas_thread:  # rounding would depend on the number of threads
            self.subspace_, strength = noise_weighted_subspace(signals)
            coordinates, residuals = self._split(signals)
            variance = self._noise_variance(residuals)
            self._fit_mixture(coordinates[:_MIXTURE_ROWS], variance[:_MIXTURE_ROWS], strength, seed)
            relation = CoordinateRelation.fit(coordinates, variance)
        self.relation_, self.relation_log_spread_ = relation.coefficients, relation.log_spread
        self._calibrate(X[order[n_fit:]])
        self.offset_ = float(np.log(self.false_alarm_rate))
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logarithm of the p-value of each signal: lower values are more unusual.

        The tail is extrapolated exponentially, down to -700, so that signals more unusual than
        all calibration signals can be ranked.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, processed in chunks. Also a volume, an array of shape (.., n_measurements).

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Logarithms of the p-values; NaN for voxels without signal.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        scores: NDArray[np.float64] = self._log_p_values(X).min(axis=-1)
        return scores

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Score of each signal minus `offset_`: negative for outliers.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, processed in chunks. Also a volume, an array of shape (.., n_measurements).

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Result of :meth:`score_samples` minus `offset_`; NaN for voxels without signal.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        check_is_fitted(self)
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Label signals: +1 for inliers, -1 for outliers.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, processed in chunks. Also a volume, an array of shape (.., n_measurements).

        Returns
        -------
        ndarray of int, shape (n_samples,), or of the shape of the volume
            Labels +1 and -1; -1 for voxels without signal.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X: ArrayLike) -> NDArray[np.float64]:
        """P-value of each signal: probability that a signal of the prior is as unusual.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, processed in chunks. Also a volume, an array of shape (.., n_measurements).

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            P-values, not below ``1 / (n_calibration_ + 1)``; NaN for voxels without signal. The
            p-values of signals of the prior are uniform.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        p = np.exp(self.score_samples(X))
        return np.maximum(p, 1 / (self.n_calibration_ + 1))

    def explain(self, X: ArrayLike) -> pd.DataFrame:
        """Table of the most probable reason why each signal is an outlier.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, processed in chunks. Also a volume, an array of shape (.., n_measurements).

        Returns
        -------
        DataFrame
            One row per signal, with the index of X if X is a DataFrame; of a volume one row per
            voxel, in the order of ``X.reshape(-1, n_measurements)``. Columns: p_value, as in
            :meth:`p_values`; reason: "explained" for an inlier, otherwise the first that applies
            of "no signal" (all zero, or NaN), "noise below the trained range", "single measurement
            off", "signal shape outside the prior" and "noise above the trained range"; measurement:
            the position of the measurement with the largest residual, counted from 0 in the
            columns of `fit`, and -1 without signal; and the p-value of each statistic, corrected
            for the multiple tests. A shape outside the subspace may be reported as noise.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        check_is_fitted(self)
        index = X.index if isinstance(X, pd.DataFrame) else None
        voxels = Voxels.from_measured(with_column_names(X), self)
        logs = voxels.answer(self._log_p_values_of, len(REASONS)).reshape(-1, len(REASONS))
        reason = np.full(len(logs), EXPLAINED, dtype=object)
        for k, name in reversed(list(enumerate(REASONS))):
            reason[logs[:, k] < self.offset_] = REASONS[name]
        reason[voxels.dark] = NO_SIGNAL
        least = 1 / (self.n_calibration_ + 1)
        worst = np.full(len(logs), -1)
        if not voxels.dark.all():
            worst[~voxels.dark] = self._largest_residuals(
                self._checked(voxels.signals, reset=False)
            )
        return pd.DataFrame(
            {
                "p_value": np.maximum(np.exp(logs.min(axis=1)), least),
                "reason": reason,
                "measurement": worst,
                **{name: np.maximum(np.exp(logs[:, k]), least) for k, name in enumerate(REASONS)},
            },
            index=index,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # -- the statistics -------------------------------------------------------

    def _checked(self, X: ArrayLike, *, reset: bool) -> NDArray[Any]:
        signals: NDArray[Any] = (
            measured_signals(self, X, reset=True, order="C", ensure_min_samples=2)
            if reset
            else signals_of_protocol(self, X, order="C")
        )
        return signals

    def _split(self, signals: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Coordinates in the subspace, (n_samples, d), and residuals outside the subspace."""
        basis = self.subspace_.astype(signals.dtype, copy=False)
        coordinates = signals @ basis
        return coordinates, signals - coordinates @ basis.T

    def _noise_variance(self, residuals: NDArray[Any]) -> NDArray[Any]:
        freedom = max(1, int(np.subtract(*self.subspace_.shape)))  # numpy's would give doubles
        return np.maximum((residuals**2).sum(axis=1) / freedom, LEAST_VARIANCE)

    def _studentised(self, residuals: NDArray[Any]) -> NDArray[Any]:
        """Absolute residual of each measurement over the noise of the others."""
        freedom = int(np.subtract(*self.subspace_.shape))
        left = 1 - (self.subspace_**2).sum(axis=1)
        # a measurement almost within the subspace has no meaningful residual
        factor = np.where(left > 1e-6, 1 / np.sqrt(np.maximum(left, 1e-6)), 0)
        squared = (residuals * factor.astype(residuals.dtype)) ** 2
        others = (residuals**2).sum(axis=1, keepdims=True) - squared
        return np.sqrt(squared / np.maximum(others / max(1, freedom - 1), LEAST_VARIANCE))

    def _fit_mixture(
        self,
        coordinates: NDArray[np.float64],
        variance: NDArray[np.float64],
        strength: NDArray[np.float64],
        seed: int,
    ) -> None:
        n, d = coordinates.shape
        # the initial clustering uses the directions in which signals differ, not the noise
        differ = strength >= min(_STRONG, strength[0])
        mixture = NoisyMixture.fit(
            coordinates, variance,
            # a cluster of d dimensions needs several samples per dimension
            n_clusters=max(1, min(self.n_clusters, n // (10 * (d + 1)))),
            scale=np.where(differ, 1 / np.sqrt((coordinates**2).mean(axis=0)), 0),
            n_steps=_MIXTURE_STEPS, seed=seed % 2**32,
        )  # fmt: skip
        self.cluster_weights_, self.cluster_means_ = mixture.weights, mixture.means
        self.cluster_variances_, self.cluster_directions_ = mixture.variances, mixture.directions
        share, _ = mixture.responsibilities(mixture.log_joint(coordinates, variance))
        members = np.maximum(share.sum(axis=0), 1e-30)
        self.cluster_log_noise_ = (np.log(variance) @ share) / members

    def _statistics(self, X: NDArray[Any]) -> NDArray[Any]:
        """Five statistics, (n_samples, 5); larger values are more unusual."""
        signals = physics.normalize_signals(X, "l2")
        coordinates, residuals = self._split(signals)
        variance = self._noise_variance(residuals)
        # computed in the precision of the signals: single precision is twice as fast
        mixture = NoisyMixture(
            *_as(X.dtype, self.cluster_weights_, self.cluster_means_,
                 self.cluster_variances_, self.cluster_directions_)
        )  # fmt: skip
        relation = CoordinateRelation(*_as(X.dtype, self.relation_, self.relation_log_spread_))
        share, nearest = mixture.responsibilities(mixture.log_joint(coordinates, variance))
        excess = np.log(variance) - share @ self.cluster_log_noise_
        statistics = {
            "spike": self._studentised(residuals).max(axis=1),
            "shape": mixture.deviations(coordinates, variance, nearest).sum(axis=1),
            "relation": relation.error(coordinates, variance),
            "noise_above": excess,
            "noise_below": -excess,
        }
        if np.subtract(*self.subspace_.shape) < 2:  # the residuals are rounding errors
            for name in ("spike", "noise_above", "noise_below"):
                statistics[name] = np.zeros(len(X))
        return np.column_stack([statistics[name] for name in REASONS])

    def _all_statistics(self, X: NDArray[Any]) -> NDArray[np.float64]:
        statistics = np.empty((len(X), len(REASONS)))

        def work(rows: slice) -> None:
            statistics[rows] = self._statistics(X[rows])

        with one_blas_thread:
            for_each_chunk(
                work, len(X), _CHUNK_ROWS, n_jobs=self.n_jobs, description="detecting outliers",
                unit="signals", verbose=self.verbose,
            )  # fmt: skip
        return statistics

    def _calibrate(self, X: NDArray[Any]) -> None:
        statistics = self._all_statistics(X)
        self.n_calibration_ = len(X)
        # dense at small p-values, down to the smallest that the sample resolves
        self.tail_probabilities_ = np.geomspace(1, 1 / (len(X) + 1), _N_QUANTILES)
        tail = self.tail_probabilities_
        each = [upper_quantiles(values, tail) for values in statistics.T]
        logs = [log_tail(q, tail, values) for q, values in zip(each, statistics.T, strict=True)]
        self.quantiles_ = np.array([*each, upper_quantiles(-np.min(logs, axis=0), tail)])

    def _log_p_values(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logarithms of the corrected p-values of the statistics, shape (.., 5)."""
        check_is_fitted(self)
        voxels = Voxels.from_measured(with_column_names(X), self)
        return voxels.answer(self._log_p_values_of, len(REASONS))

    def _log_p_values_of(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logarithms of the corrected p-values of voxels with signal, (n_samples, 5)."""
        signals = self._checked(X, reset=False)
        logs = np.empty((len(signals), len(REASONS)))
        for k, values in enumerate(self._all_statistics(signals).T):
            alone = log_tail(self.quantiles_[k], self.tail_probabilities_, values)
            logs[:, k] = log_tail(self.quantiles_[-1], self.tail_probabilities_, -alone)
        return logs

    def _largest_residuals(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """Position of the measurement with the largest residual, (n_samples,)."""
        worst = np.empty(len(X), dtype=np.int64)
        for start in range(0, len(X), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            _, residuals = self._split(physics.normalize_signals(X[rows], "l2"))
            worst[rows] = self._studentised(residuals).argmax(axis=1)
        return worst


def _as(dtype: Any, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
    return [array.astype(dtype, copy=False) for array in arrays]
