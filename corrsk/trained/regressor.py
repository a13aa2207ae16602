"""Regressor of the compartments of measured signals: their number, properties and fractions."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from corrsk import physics
from corrsk._utils.counts import multicompartment_probability
from corrsk._utils.memory import check_memory
from corrsk._utils.normal_mixtures import NormalMixture
from corrsk._utils.parallel import for_each_chunk, one_blas_thread
from corrsk._utils.rng import RandomStateLike, Stream, entropy, keyed_generator
from corrsk._utils.validation import (
    EFFICIENCY,
    N_JOBS,
    NOT_NEGATIVE,
    POSITIVE_INTEGER,
    RANDOM_STATE,
    checked_count,
)
from corrsk._utils.voxels import Voxels, user_level
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.neural.mixtures import MixtureNetwork
from corrsk.novelty.detector import SignalNoveltyDetector
from corrsk.physics.noise_levels import NoiseLevels, SNRRange
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.preprocessing.pipeline import SignalPipeline
from corrsk.relaxometry._lines import checked_grid
from corrsk.relaxometry.ideal_observer._likelihood import OBSERVED_REFERENCES
from corrsk.relaxometry.ideal_observer.importance import (
    ImportanceSampler,
    WeightedDraws,
    content_keys,
)
from corrsk.relaxometry.spectrum import check_spectra
from corrsk.simulation.datasets import dataset_definition
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.streams import SignalStream
from corrsk.tissue.coordinates import TissueCoordinates
from corrsk.tissue.prior import TissuePrior, resolve_prior
from corrsk.trained._base import SimulationTrained
from corrsk.trained.modes import LOSSES_OF_MODES, CompartmentModes
from corrsk.trained.posterior import (
    CompartmentPosterior,
    CountDraws,
    checked_coverage,
    checked_loss,
)

Array = NDArray[np.float64]

# voxels of a chunk: draws fit in a cache; without draws, the outputs of the network
_CHUNK_VOXELS = {"sampling": 128, "laplace": 1024}
_SUM_TOLERANCE = 1e-3  # of the fractions of a table
_IMPROBABLE = math.log(2e-3)  # counts below this probability by the network are not sampled
_NEGLIGIBLE = math.log(1e-2)  # probability of a count whose error hardly matters
_NETWORK_VARIANCE = 0.1  # of the logarithm of a probability by the network
_PROBABLE = 0.1  # counts below this probability need fewer effective draws

_samplers: WeakKeyDictionary[Any, tuple[Any, ImportanceSampler]] = WeakKeyDictionary()


class CompartmentRegressor(SimulationTrained):
    """Posterior of the number, properties and fractions of the compartments of measured signals.

    Bayes' rule under the prior of the simulation, as :class:`corrsk.IdealObserverClassifier`, but a
    thousand times as fast: a network, trained on simulated signals, proposes compartments, steps
    of Gauss and Newton move the proposals to the modes of the posterior, and draws around these
    modes are weighted by the exact likelihood of the signal, whose scale is unknown. Errors of the
    network thus make the draws fewer, not wrong.

    :meth:`fit` needs no data. Predictions take measured signals as those of
    :class:`corrsk.SimulationTrainedClassifier`.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="ir-se-8x8"
        Protocol of the scanner.
    prior : TissuePrior or str, default="midl2024"
        Distribution of the tissue. Its nuisance parameters may be the inversion efficiency and
        the loss per echo; all draws are averaged over them.
    noise_level : float, sequence of float or SNRRange
        Noise levels as parts of the noise reference, or a range of signal-to-noise ratios; above 0.
    noise_reference : {"m0", "max", "rms"}, default="m0"
        Reference of the noise level; see :func:`corrsk.physics.noise_sigma`.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which each signal is divided. None is for signals with M0 = 1 only.
    n_samples : int, default=10_000_000
        Number of simulated signals that the network is trained on, each used once.
    n_validation : int, default=20_000
        Number of further simulated signals, on which the best epoch is chosen; at least 10.
    width, n_blocks : int, default=256 and 3
        Width and number of the residual blocks of the network.
    n_components : int, default=8
        Number of normal distributions that the network mixes for each count.
    max_epochs, batch_size : int, default=40 and 2000
        Number of epochs of equal size, and of signals of a batch.
    n_draws : int, default=256
        Number of draws of each round and count.
    max_rounds : int, default=3
        Largest number of rounds. Voxels whose draws have unequal weights have further rounds.
    method : {"sampling", "laplace"}, default="sampling"
        "sampling": weighted draws from the posterior. "laplace": no draws, but a normal
        distribution at the mode of each count, whose evidence is that of Laplace's approximation.
        It is about twenty times as fast, and serves :meth:`predict` (with the losses "strict" and
        "median"), :meth:`predict_proba` and :meth:`predict_multicompartment_proba`; methods that
        need the whole posterior are refused. It may be changed after :meth:`fit`.
    novelty : bool or SignalNoveltyDetector, default=True
        Whether to fit a :class:`corrsk.SignalNoveltyDetector`; or an unfitted one, which is
        cloned.
    checkpoint : path-like or None, default=None
        File for the state of the training; see :class:`corrsk.SimulationTrainedClassifier`.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the training, and of the draws.
    n_jobs : int or None, default=None
        Number of threads; None for the defaults.
    verbose : bool, default=True
        Whether to show progress if the work takes more than a few seconds.

    Attributes
    ----------
    pipeline_ : SignalPipeline
        Fitted :class:`corrsk.ProtocolAligner` and :class:`corrsk.SignalNormalizer`.
    network_ : MixtureNetwork
        Fitted network.
    novelty_ : SignalNoveltyDetector or None
        Fitted detector, whose signals are in the order of `protocol`.
    classes_ : ndarray of shape (n_classes,)
        The compartment counts of the prior.
    n_features_in_ : int
        Number of measurements.
    layout_ : tuple of int or None
        Shape of the grid of the measured protocol, if it is one.

    See Also
    --------
    corrsk.IdealObserverClassifier : Sequential Monte Carlo without a training.
    corrsk.MultiExponentialClassifier : Maximum likelihood without a prior.

    Notes
    -----
    The evidence of a count is the mean weight of its draws. The logarithms of the probabilities of
    the counts are means of those of the evidence and of the network, weighted by the inverse
    variances of both, which for evidence follow from the effective number of draws. Draws have
    weights of the likelihood times the prior over the density of the proposals; see the module
    `corrsk.relaxometry.ideal_observer.importance`. The result of a voxel depends on its signal
    only.

    With ``method="laplace"``, the logarithms of the probabilities are means of those of Laplace's
    approximation (weight 0.7) and of the network (0.3). The decision "strict" takes the count with
    the largest product of its probability and of the mass of its normal distribution within the
    tolerance. What the prior excludes (T2 above T1, say) is not cut off; modes there are
    unreliable.

    Examples
    --------
    >>> from corrsk import AcquisitionProtocol, CompartmentRegressor, SNRRange
    >>> protocol = AcquisitionProtocol.from_grid(ti=[50, 300, 800, 2000], te=[10, 30, 60, 120])
    >>> model = CompartmentRegressor(
    ...     protocol, "t1t2-detr", noise_level=SNRRange(50, 150), noise_reference="max",
    ...     n_samples=8000, n_validation=500, novelty=False, random_state=0,
    ... ).fit()
    >>> table = model.predict([[1000.0 - 50 * k for k in range(16)]])  # doctest: +SKIP
    >>> list(table.columns)  # doctest: +SKIP
    ['T1_1', 'T1_2', 'T1_3', 'T2_1', 'T2_2', 'T2_3', 'f_1', 'f_2', 'f_3', 'n_c', 'scale', ...]
    """

    network_: MixtureNetwork

    _parameter_constraints: dict[str, list[Any]] = {
        "protocol": [AcquisitionProtocol, str],
        "prior": [TissuePrior, str],
        "noise_level": [NOT_NEGATIVE, "array-like", SNRRange],
        "noise_reference": [StrOptions(set(OBSERVED_REFERENCES))],
        "inversion_efficiency": EFFICIENCY,
        "norm": [StrOptions(set(physics.NORMS)), None],
        "n_samples": [POSITIVE_INTEGER],
        "n_validation": [Interval(Integral, 10, None, closed="left")],
        "width": [POSITIVE_INTEGER],
        "n_blocks": [POSITIVE_INTEGER],
        "n_components": [POSITIVE_INTEGER],
        "max_epochs": [POSITIVE_INTEGER],
        "batch_size": [POSITIVE_INTEGER],
        "n_draws": [Interval(Integral, 16, None, closed="left")],
        "max_rounds": [Interval(Integral, 1, 10, closed="both")],
        "method": [StrOptions(set(_CHUNK_VOXELS))],
        "novelty": ["boolean", SignalNoveltyDetector],
        "checkpoint": [str, os.PathLike, None],
        "random_state": RANDOM_STATE,
        "n_jobs": N_JOBS,
        "verbose": ["verbose"],
    }

    # of the base class: the likelihood of magnitudes is not that of the sampler
    noise_distribution = "gaussian"
    n_coils = 1

    def __init__(
        self,
        protocol: AcquisitionProtocol | str = "ir-se-8x8",
        prior: TissuePrior | str = "midl2024",
        noise_level: NoiseLevels = (0.01, 0.02, 0.03, 0.04, 0.05),
        noise_reference: str = "m0",
        inversion_efficiency: float = 1.0,
        norm: str | None = "l2",
        n_samples: int = 10_000_000,
        n_validation: int = 20_000,
        width: int = 256,
        n_blocks: int = 3,
        n_components: int = 8,
        max_epochs: int = 40,
        batch_size: int = 2000,
        n_draws: int = 256,
        max_rounds: int = 3,
        method: str = "sampling",
        novelty: bool | SignalNoveltyDetector = True,
        checkpoint: Any = None,
        random_state: RandomStateLike = None,
        n_jobs: int | None = None,
        verbose: bool = True,
    ) -> None:
        self.protocol = protocol
        self.prior = prior
        self.noise_level = noise_level
        self.noise_reference = noise_reference
        self.inversion_efficiency = inversion_efficiency
        self.norm = norm
        self.n_samples = n_samples
        self.n_validation = n_validation
        self.width = width
        self.n_blocks = n_blocks
        self.n_components = n_components
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.n_draws = n_draws
        self.max_rounds = max_rounds
        self.method = method
        self.novelty = novelty
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    @classmethod
    def from_definition(cls, definition: DatasetDefinition | str, **params: Any) -> Self:
        """Create an unfitted regressor for the signals of a data set.

        Parameters
        ----------
        definition : DatasetDefinition or str
            Prior, protocol, noise and norm; or the name of a data set (see
            :func:`corrsk.load_dataset`).
        **params : object
            Further parameters.

        Returns
        -------
        CompartmentRegressor
            The unfitted regressor.

        Raises
        ------
        ValueError
            If the noise of the data set is that of magnitudes, or there is no data set of this
            name.
        """
        if isinstance(definition, str):
            definition = dataset_definition(definition)
        if definition.noise_distribution != "gaussian":
            raise ValueError(
                "CompartmentRegressor has the likelihood of signed signals, but the noise of the "
                f"data set is {definition.noise_distribution!r}; restore the signs of magnitudes "
                "with SignalPhaser, and use a definition with Gaussian noise"
            )
        return cls(
            definition.protocol, definition.tissue_prior, definition.noise_levels,
            definition.noise_reference, definition.inversion_efficiency, definition.norm, **params,
        )  # fmt: skip

    # -- training ----------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike | None = None, y: Any = None) -> Self:
        """Train the network, and fit the novelty detector, on simulated signals.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), optional
            Signals of the protocol, which are compared with the protocol only.
        y : object, optional
            Not used.

        Returns
        -------
        CompartmentRegressor
            The fitted regressor itself.

        Raises
        ------
        ProtocolMismatchError
            If X is given and has another protocol; a ValueError.
        ValueError
            If a parameter is invalid or contradicts another one, the prior lacks a range or has
            nuisance parameters over which no average is possible, the protocol has several series
            of unknown gain, a noise level is 0, or the training diverges.
        KeyboardInterrupt
            After Ctrl-C; with a checkpoint, the same `fit` resumes the training.
        """
        for attribute in ("pipeline_", "novelty_", "network_", "seed_"):
            if hasattr(self, attribute):
                delattr(self, attribute)
        self._check_definition()
        checked_count("n_samples", self.n_samples, at_least=self.max_epochs)
        seed = entropy(self.random_state)
        self._new_sampler(seed)  # an error before the training
        if X is not None:
            self._fitted_aligner().transform(X)
        network = MixtureNetwork(
            self.width, self.n_blocks, self.n_components, max_epochs=self.max_epochs,
            batch_size=self.batch_size, checkpoint=self.checkpoint,
            # a checkpoint needs the integer that the user passed
            random_state=seed if self.checkpoint is None else self.random_state,
            n_jobs=self.n_jobs, verbose=self.verbose,
        )  # fmt: skip
        stream = SignalStream.from_definition(self.definition, seed)
        network.fit_stream(stream, self.n_samples, self.n_validation)
        self.novelty_ = None
        self.seed_ = seed
        self.network_ = network.set_params(checkpoint=None)
        self._set_steps()
        if self.novelty is not False:
            self.fit_novelty()
        return self

    def _set_steps(self) -> None:
        """Store the steps before the network."""
        aligner = self._fitted_aligner()
        steps = (aligner, SignalNormalizer(self.norm).fit(np.ones((1, aligner.n_features_in_))))
        pipeline = SignalPipeline([(type(step).__name__.lower(), step) for step in steps])
        self.pipeline_ = pipeline.set_output(transform="default")

    @property
    def _sampler(self) -> ImportanceSampler:
        """Sampler of the current parameters, kept from one prediction to the next."""
        given = (self.n_draws, self.max_rounds, self.method, self.seed_)
        kept = _samplers.get(self)
        if kept is None or kept[0] != given:
            self._validate_params()  # they may have changed since fit
            # not an attribute: predictions leave the estimator as it is, and files small
            kept = _samplers[self] = given, self._new_sampler(self.seed_)
        return kept[1]

    def _new_sampler(self, seed: int) -> ImportanceSampler:
        return ImportanceSampler(
            resolve_protocol(self.definition.protocol).in_grid_order(), resolve_prior(self.prior),
            self.noise_level, self.noise_reference, self.norm is not None,
            self.inversion_efficiency, n_draws=self.n_draws, max_rounds=self.max_rounds, seed=seed,
        )  # fmt: skip

    # -- predictions ----------------------------------------------------------------

    def posterior(
        self, X: ArrayLike, protocol: AcquisitionProtocol | str | None = None
    ) -> CompartmentPosterior:
        """Draw from the posterior of each voxel.

        All other predictions are summaries of this result, made for a part of the voxels at a time:
        a few hundred draws of a voxel need about 100 kB.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements)
            Measured signals; see :meth:`predict`. All must have a signal.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict`.

        Returns
        -------
        CompartmentPosterior
            The posterior.

        Raises
        ------
        ProtocolMismatchError
            If the signals have another protocol; a ValueError.
        ValueError
            As for :meth:`predict`, and if a voxel has no signal.
        MemoryError
            If the draws would not fit into memory.
        """
        self._check_draws("posterior")
        pipeline, voxels = self._lit_voxels(X, protocol)
        counts = np.asarray(self.classes_)
        n_bytes = 8 * self.n_draws * self.max_rounds * int((3 * counts + 1).sum())
        check_memory(
            n_bytes * len(voxels.dark), f"the draws of {len(voxels.dark)} voxels",
            "pass fewer voxels at a time, or use predict, predict_interval or sample_posterior",
        )  # fmt: skip
        return CompartmentPosterior.concatenate(self._parts(pipeline, voxels, "sampling"))

    def modes(
        self, X: ArrayLike, protocol: AcquisitionProtocol | str | None = None
    ) -> CompartmentModes:
        """Normal approximation of the posterior at the mode of each count.

        It has the answers of ``method="laplace"``, whatever the method is, from one computation.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements)
            Measured signals; see :meth:`predict`. All must have a signal.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict`.

        Returns
        -------
        CompartmentModes
            The approximation, with `table`, `probabilities`, `reliable` and `inverted`.

        Raises
        ------
        ProtocolMismatchError
            If the signals have another protocol; a ValueError.
        ValueError
            As for :meth:`predict`, and if a voxel has no signal.
        """
        pipeline, voxels = self._lit_voxels(X, protocol)
        return CompartmentModes.concatenate(self._parts(pipeline, voxels, "laplace"))

    def _lit_voxels(
        self, X: ArrayLike, protocol: AcquisitionProtocol | str | None
    ) -> tuple[SignalPipeline, Voxels]:
        """Voxels that all have a signal, and the steps for their protocol."""
        pipeline, voxels = self._voxels(X, protocol)
        if voxels.dark.any():
            raise ValueError(
                f"{int(voxels.dark.sum())} of {voxels.dark.size} voxels have no signal, and no "
                "posterior; leave them out"
            )
        return pipeline, voxels

    def _parts(self, pipeline: SignalPipeline, voxels: Voxels, method: str) -> list[Any]:
        """Posteriors of groups of voxels, in their order."""
        parts: dict[int, Any] = {}

        def keep(rows: slice, posterior: Any, x: Array) -> None:
            parts[rows.start] = posterior

        self._for_each(pipeline, self._checked(pipeline, voxels.signals), keep, method)
        return [parts[start] for start in sorted(parts)]

    def _for_each(
        self,
        pipeline: SignalPipeline,
        aligned: NDArray[Any],
        use: Callable[[slice, Any, Array], object],
        method: str | None = None,
    ) -> None:
        """Pass the posterior of a few voxels at a time to a function."""
        protocol, sampler = resolve_protocol(self.definition.protocol), self._sampler
        method = self.method if method is None else method
        counted: list[tuple[int, int]] = []  # doubtful and inverted voxels

        def work(rows: slice) -> None:
            signals = pipeline[1].transform(aligned[rows])
            x = protocol.to_grid(signals.astype(np.float64), copy=False)
            # M0 in the unit of the measured signals
            size = np.ones(len(x))
            if self.norm is not None:
                x = x / np.linalg.norm(x, axis=1, keepdims=True)
                size = np.linalg.norm(aligned[rows].astype(np.float64), axis=1)
            if method == "laplace":
                log_proba, places = self.network_.predict_places(signals)
                posterior: Any = CompartmentModes.find(
                    sampler.finders, x, log_proba, places, _worth_a_search(log_proba), size,
                    self.norm is not None,
                )  # fmt: skip
            else:
                log_proba, wide = self.network_.predict_mixtures(signals)
                posterior = self._posterior_of(sampler, x, log_proba, wide, size)
            inverted = posterior.inverted
            counted.append((int((~posterior.reliable & ~inverted).sum()), int(inverted.sum())))
            use(rows, posterior, x)

        with one_blas_thread:
            for_each_chunk(
                work, len(aligned), _CHUNK_VOXELS[method], n_jobs=self.n_jobs,
                description="compartments", unit="voxels", verbose=self.verbose,
            )  # fmt: skip
        doubtful, inverted = (sum(each) for each in zip(*counted, strict=True))
        if doubtful:
            why = {
                "sampling": "few of its draws have most of the weight (see `posterior`); increase "
                "n_draws",
                "laplace": "no mode was found that explains the signal and that the prior allows; "
                "use method='sampling'",
            }
            warnings.warn(
                f"the posterior of {doubtful} of {len(aligned)} voxels is unreliable, since "
                f"{why[method]}",
                ConvergenceWarning,
                stacklevel=user_level(),
            )
        if inverted:
            warnings.warn(
                f"{inverted} of {len(aligned)} voxels have signals of the wrong sign: the scale "
                "(M0) that explains them best is negative, and their posterior is unreliable; "
                "change the sign of these signals, or correct their phase with SignalPhaser",
                ConvergenceWarning,
                stacklevel=user_level(),
            )

    def _check_draws(self, what: str) -> None:
        """Refuse what needs draws if there are none."""
        self._validate_params()  # they may have changed since fit
        if self.method == "laplace":
            raise ValueError(
                f"{what} needs draws from the posterior, which method='laplace' does not have; use "
                "set_params(method='sampling')"
            )

    def _posterior_of(
        self,
        sampler: ImportanceSampler,
        x: Array,
        log_proba: Array,
        wide: list[NormalMixture],
        size: Array,
    ) -> CompartmentPosterior:
        """Posterior of signals in grid order, from the predictions of the network."""
        keys = content_keys(x)
        likely = _worth_a_search(log_proba)
        evidence = np.full(log_proba.shape, -np.inf)
        effective = np.zeros(log_proba.shape)
        draws = []
        for index, mixture in enumerate(wide):
            rows = np.flatnonzero(likely[:, index])
            found = None
            if rows.size:
                wanted = np.minimum(1.0, np.exp(log_proba[rows, index]) / _PROBABLE)
                found = sampler.draw(x[rows], index, mixture.take(rows), keys[rows], wanted)
                evidence[rows, index] = found.log_evidence
                effective[rows, index] = found.effective
            draws.append(_count_draws(sampler.coordinates[index], size, rows, found))
        # counts that were not sampled keep the probability of the network
        total = logsumexp(evidence, axis=1, keepdims=True)
        evidence = np.where(likely, evidence, total + log_proba)
        rest = np.where(likely, -np.inf, log_proba)
        left = np.log1p(-np.exp(logsumexp(rest, axis=1, keepdims=True)))
        # both are estimates of the same probabilities with independent errors: their mean, weighted
        # by the inverse variances
        sampled = log_softmax(np.where(likely, evidence, -np.inf), axis=1)
        counted = likely & (sampled > _NEGLIGIBLE)
        variance = (counted / np.maximum(effective, 1.0)).sum(axis=1, keepdims=True)
        share = variance / (variance + _NETWORK_VARIANCE)
        joint = np.where(likely, (1 - share) * sampled + share * log_proba, -np.inf)
        log_proba = np.where(likely, log_softmax(joint, axis=1) + left, log_proba)
        best = log_proba.argmax(axis=1)
        return CompartmentPosterior(
            tuple(int(K) for K in self.classes_), log_proba, evidence, draws, self._ranges,
            effective[np.arange(len(best)), best],
        )  # fmt: skip

    @property
    def protocol_(self) -> AcquisitionProtocol:
        """Protocol of the measured signals."""
        check_is_fitted(self)
        protocol: AcquisitionProtocol = self.pipeline_[0].measured_protocol_
        return protocol

    @property
    def _ranges(self) -> dict[str, tuple[float, float]]:
        ranges = resolve_prior(self.prior).ranges
        return {name: (values.low, values.high) for name, values in ranges.items()}

    @property
    def classes_(self) -> NDArray[np.int64]:
        """Compartment counts of the prior, ascending."""
        check_is_fitted(self)
        return np.asarray(resolve_prior(self.prior).n_compartments)

    def predict(
        self,
        X: ArrayLike,
        loss: str = "strict",
        protocol: AcquisitionProtocol | str | None = None,
    ) -> pd.DataFrame:
        """Estimate the compartments of each voxel.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals. Columns with names (TI50_TE4.5, ..) may have any order. Also a
            volume, an array of shape (.., n_measurements).
        loss : {"strict", "median", "w1"}, default="strict"
            What the estimates minimise; see :meth:`corrsk.CompartmentPosterior.table`.
        protocol : AcquisitionProtocol or str, optional
            Protocol of the columns, in their order, whose TR is compared too. None (default) for
            the trained protocol, or for columns with names.

        Returns
        -------
        DataFrame of n_samples rows
            Tissue table, T1_1.., T2_1.., f_1.., with compartments in ascending order of T2, and
            n_c and confidence; see :meth:`corrsk.CompartmentPosterior.table`. Of a volume one row
            per voxel, in the order of ``X.reshape(-1, n_measurements)``. Voxels without signal (all
            zero, or with NaN) have n_c = 0, f = 0 and NaN.

        Raises
        ------
        ProtocolMismatchError
            If the signals have another protocol; a ValueError.
        ValueError
            If the loss is unknown, or as for
            :meth:`corrsk.SimulationTrainedClassifier.predict_proba`.

        Warns
        -----
        MeasuredSignalWarning
            If a whole batch cannot be what the model was made for.
        ConvergenceWarning
            If the draws of voxels are too unequal for a reliable posterior, or signals have the
            wrong sign; once each, with the number of voxels.
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        checked_loss(loss)
        if loss not in LOSSES_OF_MODES:
            self._check_draws(f"the loss {loss!r}")
        return self._tables(X, protocol, lambda posterior, _: posterior.table(loss))

    def predict_interval(
        self,
        X: ArrayLike,
        coverage: float = 0.9,
        loss: str = "strict",
        protocol: AcquisitionProtocol | str | None = None,
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Estimate intervals of the properties and fractions, given the predicted count.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict`, also for errors and warnings.
        coverage : float, default=0.9
            Posterior probability of each interval, in (0, 1).
        loss : {"strict", "median", "w1"}, default="strict"
            The intervals are those of the count that :meth:`predict` chooses with this loss.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict`.

        Returns
        -------
        lower : DataFrame of n_samples rows
            Tissue table of the lower ends, T1_1.., T2_1.., f_1.. and n_c; NaN for absent
            compartments.
        upper : DataFrame of n_samples rows
            Tissue table of the upper ends.
        """
        checked_coverage(coverage)
        checked_loss(loss)
        self._check_draws("predict_interval")

        def both(posterior: CompartmentPosterior, _: Array) -> pd.DataFrame:
            return pd.concat(posterior.interval(coverage, loss), axis=1, keys=["lower", "upper"])

        ends = self._tables(X, protocol, both)
        return ends["lower"], ends["upper"]

    def sample_posterior(
        self,
        X: ArrayLike,
        n_samples: int = 256,
        random_state: RandomStateLike = None,
        protocol: AcquisitionProtocol | str | None = None,
    ) -> pd.DataFrame:
        """Draw compartments from the posterior of each voxel.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict`, also for errors and warnings.
        n_samples : int, default=256
            Number of draws of each voxel. They are resampled from the weighted draws, so that
            draws may be equal.
        random_state : int, RandomState, Generator or None, default=None
            Seed; None for that of the model. The draws of a voxel depend on the seed and on the
            other voxels of the call.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict`.

        Returns
        -------
        DataFrame of n_voxels * n_samples rows
            Tissue table and n_c of each draw; the draws of a voxel are in consecutive rows.
        """
        checked_count("n_samples", n_samples, at_least=1)
        check_is_fitted(self)
        self._check_draws("sample_posterior")
        seed = self.seed_ if random_state is None else entropy(random_state)

        def drawn(posterior: CompartmentPosterior, x: Array) -> pd.DataFrame:
            key = int(content_keys(x[:1])[0]) if len(x) else 0
            return posterior.samples(n_samples, keyed_generator(seed, Stream.DRAW, key))

        return self._tables(X, protocol, drawn, n_samples)

    def predict_spectrum(
        self,
        X: ArrayLike,
        grid: Mapping[str, ArrayLike],
        protocol: AcquisitionProtocol | str | None = None,
    ) -> Array:
        """Expected spectrum of each voxel.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict`, also for errors and warnings.
        grid : mapping of str to array of shape (n_bins,)
            Values of each property along the axes of the spectra, ascending, such as `axes_` of
            :class:`corrsk.NNLSSpectrum`; see :meth:`corrsk.CompartmentPosterior.spectrum`.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict`.

        Returns
        -------
        ndarray of shape (n_samples, n_1, n_2, ..)
            Expected amplitudes in the unit of X, whose sum is the expected M0; NaN for voxels
            without signal.

        Raises
        ------
        ValueError
            If the grid has other properties, no ascending positive values, or values that are all
            outside of the prior.
        MemoryError
            If the spectra would not fit into memory.
        """
        self._check_draws("predict_spectrum")
        axes = checked_grid(grid, list(self._ranges))
        for name, values in axes.items():
            low, high = self._ranges[name]
            if values[0] > high or values[-1] < low:
                raise ValueError(
                    f"the bins of {name}, {values[0]:g} to {values[-1]:g}, lie outside of the "
                    f"prior, {low:g} to {high:g}"
                )
        shape = tuple(values.size for values in axes.values())
        n_bins = math.prod(shape)
        pipeline, voxels = self._voxels(X, protocol)
        check_spectra(voxels.dark.size, shape)

        def spectra(rows: slice, posterior: CompartmentPosterior, x: Array) -> Array:
            return posterior.spectrum(axes).reshape(-1, n_bins)

        return self._maps(pipeline, voxels, n_bins, spectra).reshape(*voxels.shape, *shape)

    def predict_proba(
        self, X: ArrayLike, protocol: AcquisitionProtocol | str | None = None
    ) -> Array:
        """Predict the probability of each compartment count.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict`, also for errors and warnings.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`; NaN for voxels without signal. Of a volume
            maps of shape (.., n_classes).
        """
        return self._maps(
            *self._voxels(X, protocol), len(self.classes_), lambda _, each, x: each.probabilities
        )

    def predict_multicompartment_proba(
        self, X: ArrayLike, protocol: AcquisitionProtocol | str | None = None
    ) -> Array:
        """Predict the probability of more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict`, also for errors and warnings.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Sum of the probabilities of the counts >= 2; NaN for voxels without signal.
        """
        return multicompartment_probability(self.predict_proba(X, protocol), self.classes_)

    def log_prob(
        self,
        X: ArrayLike,
        tissue: pd.DataFrame,
        protocol: AcquisitionProtocol | str | None = None,
    ) -> Array:
        """Logarithm of the posterior density at given compartments, such as the true ones.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict`, also for errors and warnings.
        tissue : DataFrame of n_samples rows
            Tissue table with T1_1.., T2_1.., f_1.. in ms, um^2/ms and fractions; absent
            compartments have f = 0 or NaN. Other columns are ignored.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Log probability of the count, plus the log density of the set of compartments given the
            count, in 1 / ms for each time, ms / um^2 for each diffusivity, and per unit of each
            fraction but one. Of a property with a step in the prior it is a probability. -inf where
            the prior does not allow the compartments; NaN for voxels without signal.

        Raises
        ------
        ValueError
            If the table has another number of rows, lacks columns, has more compartments than the
            prior, or its fractions do not sum to 1; or as for :meth:`predict`.
        """
        self._check_draws("log_prob")
        pipeline, voxels = self._voxels(X, protocol)
        truth = self._checked_tissue(tissue, voxels.dark.size)[:, ~voxels.dark]

        def densities(rows: slice, posterior: CompartmentPosterior, x: Array) -> Array:
            return self._log_density(x, truth[:, rows], posterior)[:, None]

        return self._maps(pipeline, voxels, 1, densities).ravel()

    def score(
        self,
        X: ArrayLike,
        y: pd.DataFrame,
        protocol: AcquisitionProtocol | str | None = None,
    ) -> float:
        """Mean log density of true compartments; larger is better.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals; see :meth:`predict`.
        y : DataFrame of n_samples rows
            Tissue table of the truth; see :meth:`log_prob`.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict`.

        Returns
        -------
        float
            Mean of :meth:`log_prob` over the voxels with signal.
        """
        return float(np.nanmean(self.log_prob(X, y, protocol)))

    def _checked_tissue(self, tissue: pd.DataFrame, n_rows: int) -> Array:
        """Properties and fractions (P + 1, n_rows, K_max) of a tissue table; NaN where absent."""
        names, most = tuple(self._ranges), int(self.classes_.max())
        if not isinstance(tissue, pd.DataFrame) or len(tissue) != n_rows:
            what = f"{len(tissue)} rows" if isinstance(tissue, pd.DataFrame) else type(tissue)
            raise ValueError(f"tissue must be a DataFrame of {n_rows} rows, got {what}")
        given = [name for name in tissue.columns if re.fullmatch(r"[A-Za-z]\w*_\d+", str(name))]
        numbers = sorted({int(name.rsplit("_", 1)[1]) for name in given if name[:2] == "f_"})
        wanted = [f"{name}_{k}" for name in (*names, "f") for k in numbers or [1]]
        missing = [name for name in wanted if name not in tissue]
        if missing:
            raise ValueError(
                f"the tissue table has no columns {', '.join(missing)}; the model needs "
                f"{', '.join((*names, 'f'))} of each compartment"
            )
        values = np.stack(
            [
                tissue[[f"{name}_{k}" for k in numbers]].to_numpy(dtype=np.float64)
                for name in (*names, "f")
            ]
        )
        present = np.nan_to_num(values[-1]) > 0
        if not present.any(axis=1).all():
            raise ValueError(f"row {int((~present.any(axis=1)).argmax())} has no compartment")
        if present.sum(axis=1).max() > most:
            raise ValueError(
                f"the tissue table has voxels of {present.sum(axis=1).max()} compartments, but the "
                f"model has up to {most}"
            )
        wrong = present & ~np.all((values > 0) & np.isfinite(values), axis=0)
        if wrong.any():
            row, k = (int(each) for each in np.argwhere(wrong)[0])
            raise ValueError(
                f"compartment {numbers[k]} of row {row} has a fraction, but its "
                f"{', '.join(names)} are {', '.join(f'{v:g}' for v in values[:-1, row, k])}; they "
                "must be positive"
            )
        total = np.where(present, values[-1], 0.0).sum(axis=1)
        if np.abs(total - 1).max() > _SUM_TOLERANCE:
            row = int(np.abs(total - 1).argmax())
            raise ValueError(f"the fractions of row {row} sum to {total[row]:g}, not to 1")
        # the present compartments first
        order = np.argsort(~present, axis=1, kind="stable")[:, :most]
        ordered = np.stack([np.take_along_axis(each, order, axis=1) for each in values])
        ordered[:, ~np.take_along_axis(present, order, axis=1)] = np.nan
        return ordered

    def _log_density(self, x: Array, truth: Array, posterior: CompartmentPosterior) -> Array:
        """Log posterior density (V,) of compartments (P + 1, V, K_max)."""
        found = np.full(len(x), -np.inf)
        counts = np.isfinite(truth[-1]).sum(axis=1)
        for index, K in enumerate(posterior.counts):
            rows = np.flatnonzero(counts == K)
            if not rows.size:
                continue
            part = np.moveaxis(truth[:, rows, :K], -1, 1)  # (P + 1, K, V)
            values = dict(zip(self._ranges, part[:-1], strict=True))
            density = self._sampler.log_joint(x[rows], index, values, part[-1])
            found[rows] = (
                density - posterior.log_evidence[rows, index] + posterior.log_proba[rows, index]
            )
        return found

    def _maps(
        self,
        pipeline: SignalPipeline,
        voxels: Voxels,
        n_outputs: int,
        summary: Callable[[slice, Any, Array], Array],
    ) -> Array:
        """Maps (.., n_outputs) of a summary (n_rows, n_outputs) of the posterior of some rows."""

        def every(signals: Any) -> Array:
            found = np.empty((len(signals), n_outputs))

            def use(rows: slice, posterior: Any, x: Array) -> None:
                found[rows] = summary(rows, posterior, x)

            self._for_each(pipeline, self._checked(pipeline, signals), use)
            return found

        return voxels.answer(every, n_outputs)

    def _tables(
        self,
        X: ArrayLike,
        protocol: AcquisitionProtocol | str | None,
        table_of: Callable[[Any, Array], pd.DataFrame],
        n_rows: int = 1,
    ) -> pd.DataFrame:
        """Join the tables of a few voxels at a time, of `n_rows` rows for each voxel."""
        pipeline, voxels = self._voxels(X, protocol)
        parts: dict[int, pd.DataFrame] = {}
        if not voxels.dark.all():
            aligned = self._checked(pipeline, voxels.signals)

            def use(rows: slice, posterior: Any, x: Array) -> None:
                parts[rows.start] = table_of(posterior, x)

            self._for_each(pipeline, aligned, use)
            table = pd.concat([parts[start] for start in sorted(parts)], ignore_index=True)
        else:  # a table of one voxel has the columns
            none = np.empty((0, len(self.classes_)))
            no_draws = [
                _count_draws(own, np.empty(0), np.empty(0, np.intp), None)
                for own in self._sampler.coordinates
            ]
            counts = tuple(int(K) for K in self.classes_)
            empty = CompartmentPosterior(counts, none, none, no_draws, self._ranges, np.empty(0))
            table = table_of(empty, np.empty((0, self.n_features_in_)))
        if not voxels.dark.any():
            return table
        place = np.flatnonzero(~np.repeat(voxels.dark, n_rows))
        every = table.set_axis(place).reindex(np.arange(voxels.dark.size * n_rows))
        # of the voxels without signal; an interval of a fraction has no value
        numbers: list[Any] = [name for name in every.columns if "n_c" in (name, name[-1])]
        absent: list[Any] = [name for name in every.columns if name[:2] == "f_"]
        dark = np.repeat(voxels.dark, n_rows)
        every.loc[dark, [*absent, *numbers]] = 0
        return every.astype(dict.fromkeys(numbers, np.int64))


def _worth_a_search(log_proba: Array) -> NDArray[np.bool_]:
    """Counts (V, n_counts) that are not improbable by the network."""
    return np.asarray(log_proba >= np.minimum(_IMPROBABLE, log_proba.max(axis=1, keepdims=True)))


def _count_draws(
    own: TissueCoordinates, size: Array, rows: NDArray[np.intp], found: WeightedDraws | None
) -> CountDraws:
    """Draws of a count in all voxels, with weights of 0 where it was not sampled."""
    n = 1 if found is None else found.log_weights.shape[1]
    log_weights = np.full((size.size, n), -np.inf)
    z = np.zeros((own.n_dimensions, size.size, n))
    scales = np.zeros((size.size, n))
    if found is not None:
        scales[rows] = found.scales * size[rows, None]
        log_weights[rows] = found.log_weights
        z[:, rows] = np.moveaxis(found.z, -1, 0)
    tissue = own.tissue(z)
    values = {name: np.moveaxis(v, 0, -1) for name, v in own.values(tissue).items()}
    return CountDraws(values, np.moveaxis(tissue.fractions, 0, -1), log_weights, scales)
