"""The ideal observer: Bayes' rule under the prior that signals are simulated from."""

from __future__ import annotations

import hashlib
import warnings
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
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics import NOISE_REFERENCES, NORMS
from corrsk.physics.noise_levels import NoiseLevels, SNRRange
from corrsk.relaxometry._base import _CompartmentCounter
from corrsk.relaxometry._voxels import signal_norms
from corrsk.relaxometry.ideal_observer._forms import Array, CompartmentModel
from corrsk.relaxometry.ideal_observer._likelihood import NoiseModel
from corrsk.relaxometry.ideal_observer._tempering import EvidenceSampler
from corrsk.relaxometry.ideal_observer.posterior import CountPosterior
from corrsk.tissue.prior import TissuePrior, resolve_prior

_CHUNK_STATES = 8192  # states of all voxels of a chunk at one step: they shall fit in a cache
_MAX_COMPARTMENTS = 12  # far beyond what 64 measurements can tell apart


class IdealObserverClassifier(_CompartmentCounter):
    """Count compartments by Bayes' rule, under the prior that the signals come from.

    The simulator defines the problem completely: tissue is drawn from a prior,
    noise is added, and no classifier can do better on average than to answer
    with ``P(n_c | x)``. Its parameters are those of the simulator. Nothing is
    learnt: `fit` takes from y only which counts are possible.

    Parameters
    ----------
    prior : TissuePrior or str, default="midl2024"
        What tissue is drawn from.
    protocol : AcquisitionProtocol or str, default="auto"
        What the columns of X measure, in grid order; a name stands for a
        protocol that corrsk ships. "auto" reads it from the column names
        (TI50_TE4.5); without such names 64 columns are taken for "ir-se-8x8".
    noise_level : float, sequence of float or SNRRange, default=(0.01, 0.02, 0.03, 0.04, 0.05)
        The level of the Gaussian noise as a fraction of the reference; of
        several, all equally likely, the observer does not know which it was.
    noise_reference : {"m0", "max", "rms"}, default="m0"
        What the level is relative to, see :func:`corrsk.physics.noise_sigma`.
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which each signal was divided after the noise was added. The scale
        of X is then arbitrary, and only the direction of a signal enters the
        likelihood, for any norm; None for signals with M0 = 1.
    inversion_efficiency : float, default=1.0
        eta in (0, 1].
    n_particles : int, default=8192
        Particles of each run at each temperature.
    n_runs : int, default=8
        Runs for each voxel and count that are independent of each other, at
        least 2. Standard errors come from their spread.
    random_state : int, RandomState, Generator or None, default=None
        Seed. With an integer a signal gets the same answer to the bit, for any
        `n_jobs` and in the company of any other signals.
    n_jobs : int or None, default=None
        Threads; None uses every core (one within a joblib worker).
    verbose : bool, default=True
        Whether to show progress once it takes a few seconds.

    Attributes
    ----------
    classes_ : ndarray
        The labels in y, sorted.
    protocol_ : AcquisitionProtocol
        The protocol in grid order: that of the columns.
    n_features_in_ : int
    feature_names_in_ : ndarray of str

    Notes
    -----
    The evidence of each count, ``p(x | n_c) = int L(x | tissue) p(tissue | n_c)``,
    is computed by sequential Monte Carlo from the prior to the posterior (see
    `corrsk.relaxometry.ideal_observer._tempering`), in `n_runs` runs. The noise level and, for
    normalised signals, the scale are integrated out in the likelihood. Counts
    are equally likely. Noise is Gaussian; magnitude images (Rician noise) have
    no likelihood of this form.

    With the defaults a voxel takes about half a second to a second of one
    core. Signals with less noise than 0.1 % of M0 need more particles. Voxels
    whose answer is not to be trusted are counted in one ConvergenceWarning, and
    `posterior` tells which. Voxels that are all zero have NaN for probabilities.

    Examples
    --------
    >>> from corrsk import make_correlation_signals
    >>> from corrsk.relaxometry import IdealObserverClassifier
    >>> X, y = make_correlation_signals(8, noise_level=0.1, random_state=0)
    >>> observer = IdealObserverClassifier(
    ...     noise_level=0.1, n_particles=2048, random_state=0
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
        "noise_reference": [StrOptions(set(NOISE_REFERENCES))],
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

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probability of each count, ``P(n_c | x)``.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals in the grid order of the protocol.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. NaN in the rows of signals that are all
            zero.

        Warns
        -----
        ConvergenceWarning
            Once, with the number of voxels without an answer and of those
            whose answer is not to be trusted.
        """
        return self.posterior(X).probabilities

    def posterior(self, X: ArrayLike) -> CountPosterior:
        """Probabilities with their Monte-Carlo errors.

        Parameters
        ----------
        X : array of shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
            Signals in the grid order of the protocol.

        Returns
        -------
        CountPosterior
            With probabilities, standard_error, log_evidence (n_samples, n_classes),
            effective_sample_size, trustworthy (n_samples,), and what each run says.

        Warns
        -----
        ConvergenceWarning
            As :meth:`predict_proba`.
        """
        signals = self._checked_signals(X).astype(np.float64)
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
        posterior = CountPosterior(self.classes_, evidence)
        self._warn(posterior, len(signals) - possible.size)
        return posterior

    @staticmethod
    def _warn(posterior: CountPosterior, n_without: int) -> None:
        n = posterior.run_log_evidence.shape[1]
        untrusted = int((~posterior.trustworthy).sum()) - n_without
        problems = []
        if n_without:
            problems.append(
                f"{n_without} of {n} voxels have no answer (a signal that is all zero) and NaN "
                "for their probabilities"
            )
        if untrusted:
            problems.append(
                f"the answers for {untrusted} of {n} voxels are not to be trusted, since the runs "
                "differ (see `posterior`); more n_particles or n_runs make them better"
            )
        if problems:
            warnings.warn("; ".join(problems), ConvergenceWarning, stacklevel=4)

    # -- solving ------------------------------------------------------------------

    def _set_up(self, protocol: AcquisitionProtocol, counts: NDArray[np.int64]) -> None:
        prior = resolve_prior(self.prior)
        missing = [name for name in protocol.tissue_properties if name not in prior.ranges]
        if missing:
            raise ValueError(
                f"the protocol measures {', '.join(missing)}, but the prior has ranges for "
                f"{', '.join(prior.ranges)} only"
            )
        unknown = [int(count) for count in counts if count not in prior.n_compartments]
        if unknown:
            raise ValueError(
                f"y holds counts that the prior never draws: {', '.join(map(str, unknown))}; it "
                f"draws {', '.join(map(str, prior.n_compartments))}"
            )
        if counts.max() > _MAX_COMPARTMENTS:
            raise ValueError(
                f"the ideal observer counts up to {_MAX_COMPARTMENTS} compartments; y holds "
                f"{counts.max()}"
            )
        N = protocol.n_measurements
        noise = NoiseModel(self.noise_level, self.noise_reference, self.norm is not None, N)
        self._seed = entropy(self.random_state)
        self._compartments = CompartmentModel(
            protocol, prior.ranges, self.inversion_efficiency, peak=self.noise_reference == "max"
        )
        self._samplers = [
            EvidenceSampler(
                prior,
                int(K),
                noise,
                self.n_particles,
                self.n_runs,
                self._seed,
                self._compartments.last_probed,
            )
            for K in counts
        ]
        for K in counts:  # a prior that leaves next to nothing to draw says so here
            replace(prior, n_compartments=(int(K),)).sample(1, 0, verbose=False)
        states = self._samplers[0].n_runs * self._samplers[0].n_chains
        self._chunk_voxels = max(1, _CHUNK_STATES // states)

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
    """A signal's own stream, wherever it stands among others."""
    digest = hashlib.blake2b(signal.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
