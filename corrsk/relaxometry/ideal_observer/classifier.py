"""The ideal observer: Bayes' rule under the prior of the simulated signals."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions

from corrsk._utils.deprecation import RENAMED_NORMALIZE, renamed_parameters
from corrsk._utils.parallel import for_each_chunk, one_blas_thread
from corrsk._utils.rng import RandomStateLike, entropy, keyed_generator
from corrsk._utils.validation import POSITIVE, RANDOM_STATE
from corrsk._utils.voxels import user_level, warn_of_voxels_without_signal
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics import NORMS
from corrsk.physics.noise_levels import NoiseLevels, SNRRange
from corrsk.relaxometry._base import _CompartmentCounter
from corrsk.relaxometry._voxels import signal_norms
from corrsk.relaxometry.ideal_observer._forms import Array, CompartmentModel
from corrsk.relaxometry.ideal_observer._likelihood import OBSERVED_REFERENCES, NoiseModel
from corrsk.relaxometry.ideal_observer._nuisances import nuisance_ranges
from corrsk.relaxometry.ideal_observer._tempering import EvidenceSampler
from corrsk.relaxometry.ideal_observer.posterior import CountPosterior
from corrsk.simulation._source import check_measurable
from corrsk.tissue.prior import TissuePrior, resolve_prior

_CHUNK_STATES = 8192  # states of all voxels of a chunk at one step, which should fit in the cache
_MAX_COMPARTMENTS = 12  # far more than 64 measurements can resolve


class IdealObserverClassifier(_CompartmentCounter):
    """Classifier by Bayes' rule under the prior of the signals.

    The simulation defines the problem completely: tissue is drawn from a prior, and
    noise is added. No classifier is better on average than the posterior
    ``P(n_c | x)``, which this classifier computes from the parameters of the simulation. The
    classifier is not trained: `fit` uses y only for the set of possible
    counts, which `counts` replaces.

    Parameters
    ----------
    prior : TissuePrior or str, default="midl2024"
        Distribution of the tissue, and ranges of the nuisance parameters inversion_efficiency
        and echo_loss of each voxel; with a norm also of its scale, which is then irrelevant.
    protocol : AcquisitionProtocol or str, default="auto"
        Protocol of the columns of X, in their order, or the name of a protocol that corrsk
        ships; columns with names (TI50_TE4.5) may have any order. "auto" derives the protocol from
        the names; without such names 64 columns are taken for "ir-se-8x8", with a warning.
    noise_level : float, sequence of float or SNRRange, default=(0.01, 0.02, 0.03, 0.04, 0.05)
        Level of the Gaussian noise as a fraction of the reference. The likelihood is averaged
        over several levels, which are equally likely, or over a range.
    noise_reference : {"m0", "max", "rms"}, default="m0"
        Reference of the noise level; see :func:`corrsk.physics.noise_sigma`.
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which each signal was divided after the noise was added. The scale
        of X is then arbitrary, and only the direction of a signal enters the
        likelihood, for any norm; None for signals with M0 = 1.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1] of all voxels; that of the prior's nuisance parameters
        has precedence.
    n_particles : int, default=8192
        Number of particles of each run at each temperature.
    n_runs : int, default=8
        Number of independent runs for each voxel and count, at
        least 2. Standard errors are computed from the spread of the runs.
    random_state : int, RandomState, Generator or None, default=None
        Seed. An integer makes the result of a signal bit-identical for any
        `n_jobs`, independent of the other signals in X.
    n_jobs : int or None, default=None
        Number of threads; None uses every core (one within a joblib worker).
    verbose : bool, default=True
        Whether to show progress once the solution takes a few seconds.
    counts : sequence of int, optional
        Possible compartment counts, such as (1, 2, 3). `fit` then needs no y; see
        :meth:`fit` for labels beside `counts`. None (default) takes the counts from y.

    Attributes
    ----------
    classes_ : ndarray
        The labels in y, or `counts`; see :meth:`fit`.
    counts_ : ndarray of int
        The compartment count of each class.
    protocol_ : AcquisitionProtocol
        The protocol, in the order of the columns of `fit`.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of each signal if the signals of `fit` have more than two dimensions or their grid is
        known, else None.
    feature_names_in_ : ndarray of str
        Names of the measurements, if the signals of `fit` have names.

    Notes
    -----
    The evidence of each count, ``p(x | n_c) = int L(x | tissue) p(tissue | n_c)``,
    is computed by sequential Monte Carlo from the prior to the posterior (see
    `corrsk.relaxometry.ideal_observer._tempering`), in `n_runs` runs. The noise level and, for
    normalised signals, the scale are integrated out in the likelihood; nuisance parameters are
    sampled with the tissue. Counts
    are equally likely. Noise is Gaussian; magnitude images (Rician noise) have
    no likelihood of this form.

    With the defaults a voxel takes about half a second to a second on one
    core. Signals with less noise than 0.1 % of M0 need more particles. One ConvergenceWarning
    has the number of voxels with unreliable probabilities; `posterior` has a mask of
    these voxels. The probabilities of voxels that are all zero are NaN, and their label is 0.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.relaxometry import IdealObserverClassifier
    >>> X, y = make_correlation_signals(8, noise_level=0.1, random_state=0)
    >>> observer = IdealObserverClassifier(
    ...     protocol="ir-se-8x8", noise_level=0.1, n_particles=2048, random_state=0
    ... ).fit(X, y)
    >>> observer.predict_proba(X).shape
    (8, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **{
            name: constraint
            for name, constraint in _CompartmentCounter._parameter_constraints.items()
            if name != "bounds"
        },
        "prior": [TissuePrior, str],
        "noise_level": [POSITIVE, "array-like", SNRRange],
        "noise_reference": [StrOptions(set(OBSERVED_REFERENCES))],
        "norm": [StrOptions(set(NORMS)), None],
        "n_particles": [Interval(Integral, 64, None, closed="left")],
        "n_runs": [Interval(Integral, 2, None, closed="left")],
        "random_state": RANDOM_STATE,
    }

    @renamed_parameters(normalize=RENAMED_NORMALIZE)
    def __init__(
        self,
        prior: TissuePrior | str = "midl2024",
        protocol: AcquisitionProtocol | str = "auto",
        noise_level: NoiseLevels = (0.01, 0.02, 0.03, 0.04, 0.05),
        noise_reference: str = "m0",
        norm: str | None = "l2",
        inversion_efficiency: float = 1.0,
        n_particles: int = 8192,
        n_runs: int = 8,
        random_state: RandomStateLike = None,
        n_jobs: int | None = None,
        verbose: bool = True,
        counts: Sequence[int] | None = None,
    ) -> None:
        self.prior = prior
        self.protocol = protocol
        self.noise_level = noise_level
        self.noise_reference = noise_reference
        self.norm = norm
        self.inversion_efficiency = inversion_efficiency
        self.n_particles = n_particles
        self.n_runs = n_runs
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.counts = counts

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probability of each count, ``P(n_c | x)``.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol. Also a volume, an array of shape
            (.., n_measurements).

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`; NaN for signals that are all
            zero, nearly equal ones for signals that no tissue of the prior explains. Of a volume
            maps of shape (.., n_classes).

        Warns
        -----
        NoSignalWarning
            If signals are all zero; once, with their number.
        ConvergenceWarning
            Once each, with the numbers of voxels that have unreliable probabilities, and that no
            tissue of the prior explains.
        """
        return super().predict_proba(X)

    def posterior(self, X: ArrayLike) -> CountPosterior:
        """Probabilities with their Monte-Carlo errors.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals, with columns in the order of the protocol. Also a volume, an array of shape
            (.., n_measurements).

        Returns
        -------
        CountPosterior
            Arrays probabilities, standard_error and log_evidence (n_samples, n_classes),
            effective_sample_size and trustworthy (n_samples,), and the results of each run; of a
            volume maps of shape (.., n_classes) and (..). NaN for signals that are all zero.

        Raises
        ------
        ValueError
            If a signal has NaN or infinite values, or the columns or axes of X contradict the
            protocol.

        Warns
        -----
        NoSignalWarning
            See :meth:`predict_proba`.
        ConvergenceWarning
            See :meth:`predict_proba`.
        """
        signals, shape = self._voxels(X)
        return self._posterior(signals).reshape(shape)

    def _class_probabilities(self, signals: NDArray[np.floating[Any]]) -> Array:
        posterior = self._posterior(signals)
        unexplained = posterior.unexplained[:, None]
        share = np.where(unexplained, posterior.probability_unexplained[:, None], 0.0)
        return np.asarray((1 - share) * posterior.probabilities + share / len(self.classes_))

    def _posterior(self, given: NDArray[np.floating[Any]]) -> CountPosterior:
        # in C order, since the last bit of a norm, on which the random stream of a signal depends,
        # differs between memory layouts
        signals = given.astype(np.float64, order="C")
        norms = signal_norms(signals)
        possible = np.flatnonzero((norms > 0) & np.isfinite(norms))
        if self.norm is not None:
            signals[possible] /= norms[possible, None]
        evidence = np.full((self.n_runs, len(signals), len(self.classes_)), np.nan)

        def chunk(part_of: slice) -> None:
            rows = possible[part_of]
            evidence[:, rows] = self._evidence(signals[rows])

        with one_blas_thread:
            for_each_chunk(
                chunk, possible.size, self._chunk_voxels, n_jobs=self.n_jobs,
                description="ideal observer", unit="voxels", verbose=self.verbose,
            )  # fmt: skip
        posterior = CountPosterior(self.classes_, evidence, self._log_unexplained(signals))
        if possible.size < len(signals):
            warn_of_voxels_without_signal(~np.isin(np.arange(len(signals)), possible))
        unexplained = int(posterior.unexplained.sum())
        untrusted = int((~posterior.trustworthy & ~posterior.unexplained)[possible].sum())
        if untrusted:
            warnings.warn(
                f"the probabilities of {untrusted} of {len(signals)} voxels are unreliable, since "
                "the runs differ (see `posterior`); increase n_particles or n_runs",
                ConvergenceWarning,
                stacklevel=user_level(),
            )
        if unexplained:
            warnings.warn(
                f"{unexplained} of {len(signals)} voxels are not explained by any tissue of the "
                "prior with this noise; possible causes are a flipped sign, magnitude images, "
                "another protocol, and tissue or noise beyond the prior. The probabilities of "
                "these voxels are nearly equal",
                ConvergenceWarning,
                stacklevel=user_level(),
            )
        return posterior

    # -- solving ------------------------------------------------------------------

    def _set_up(
        self,
        protocol: AcquisitionProtocol,
        counts: NDArray[np.int64],
        inversion_efficiency: float | None = None,
    ) -> None:
        prior = resolve_prior(self.prior)
        check_measurable(prior, protocol)
        nuisances = nuisance_ranges(prior.nuisances, normalised=self.norm is not None)
        unknown = [int(count) for count in counts if count not in prior.n_compartments]
        if unknown:
            raise ValueError(
                f"there are counts that the prior never draws: {', '.join(map(str, unknown))}; the "
                f"prior draws {', '.join(map(str, prior.n_compartments))}"
            )
        if counts.max() > _MAX_COMPARTMENTS:
            raise ValueError(
                f"the ideal observer supports up to {_MAX_COMPARTMENTS} compartments, got "
                f"the count {counts.max()}"
            )
        N = protocol.n_measurements
        noise = NoiseModel(self.noise_level, self.noise_reference, self.norm is not None, N)
        self._noise_model = noise
        self._seed = entropy(self.random_state)
        self._compartments = CompartmentModel(
            protocol, prior.ranges,
            self.inversion_efficiency if inversion_efficiency is None else inversion_efficiency,
            peak=self.noise_reference == "max", nuisances=nuisances,
        )  # fmt: skip
        self._samplers = [
            EvidenceSampler(
                prior,
                int(K),
                noise,
                self.n_particles,
                self.n_runs,
                self._seed,
                self._compartments.last_probed,
                sum(not each.is_fixed for each in nuisances),
            )
            for K in counts
        ]
        for K in counts:  # raises an error if the prior allows almost no tissue
            replace(prior, n_compartments=(int(K),)).sample(1, 0, verbose=False)
        states = self._samplers[0].n_runs * self._samplers[0].n_chains
        self._chunk_voxels = max(1, _CHUNK_STATES // states)

    def _log_unexplained(self, signals: Array) -> Array:
        """Log density (V,) of signals (V, N) that are noise without tissue.

        Every direction is equally likely; without normalisation the variance is that of the
        signal, but not less than that of the noise.
        """
        N = signals.shape[1]
        if self.norm is not None:
            area = math.log(2) + N / 2 * math.log(math.pi) - math.lgamma(N / 2)
            return np.full(len(signals), -area)
        squares = np.einsum("vn,vn->v", signals, signals)
        variance = np.maximum(squares / N, self._noise_model.largest_variance)
        return np.asarray(-N / 2 * np.log(2 * math.pi * variance) - squares / (2 * variance))

    def _evidence(self, signals: Array) -> Array:
        """Log evidence (n_runs, V, n_classes) of signals (V, N)."""
        keys = [_content_key(signal) for signal in signals]
        bound = self._compartments.bind(signals)
        evidence = np.empty((self.n_runs, len(signals), len(self._samplers)))
        with np.errstate(all="ignore"):
            for column, sampler in enumerate(self._samplers):
                streams = [keyed_generator(self._seed, *key, sampler.K) for key in keys]
                evidence[..., column] = sampler.log_evidence(bound, streams).T
        return evidence


def _content_key(signal: Array) -> tuple[int, int]:
    """Key of the random stream of a signal, independent of the other signals."""
    digest = hashlib.blake2b(signal.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
