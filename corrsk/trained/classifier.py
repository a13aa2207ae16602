"""Classifier of measured signals that is trained by simulation alone."""

from __future__ import annotations

import os
from dataclasses import replace
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import config_context
from sklearn.base import ClassifierMixin, _fit_context, clone
from sklearn.metrics import accuracy_score
from sklearn.utils import assert_all_finite
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from corrsk import physics
from corrsk._utils.class_prior import ClassPrior, checked_class_prior
from corrsk._utils.counts import (
    is_multicompartment,
    most_probable,
    multicompartment_probability,
)
from corrsk._utils.probabilities import log_probabilities
from corrsk._utils.rng import RandomStateLike, entropy
from corrsk._utils.validation import (
    EFFICIENCY,
    N_JOBS,
    NOT_NEGATIVE,
    POSITIVE_INTEGER,
    RANDOM_STATE,
    as_numpy,
)
from corrsk.acquisition.compatibility import ProtocolComparison
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.neural._base import NetworkClassifier, class_index
from corrsk.neural.classifier import classifier_from_recipe
from corrsk.neural.recipes import RECIPES
from corrsk.novelty.detector import SignalNoveltyDetector
from corrsk.physics.noise_levels import NoiseLevels, SNRRange
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.preprocessing.pipeline import SignalPipeline
from corrsk.simulation.datasets import dataset_definition, simulate_dataset
from corrsk.simulation.definition import DatasetDefinition
from corrsk.simulation.streams import SignalStream
from corrsk.tissue.prior import TissuePrior
from corrsk.trained._base import SimulationTrained

# of simulate_dataset, which is independent of all streams; pretrained models are tested with 2
_VALIDATION_SEED, _COST_SEED = 1, 4
_N_JUDGED = 10_000  # voxels for the loss of accuracy on a close protocol


class SimulationTrainedClassifier(ClassifierMixin, SimulationTrained):
    """Classifier of measured signals, trained on simulated signals of your protocol.

    One object for a whole model: protocol, prior, noise and norm of the simulation, the network
    that is trained on it, and a detector of signals unlike the simulated ones. :meth:`fit`
    needs no data. Predictions take measured signals of any scale (unless `norm` is None) and in any
    order, refuse signals of other protocols, and warn before they answer if a whole batch cannot
    be what the model was made for. :func:`corrsk.save` writes the object to one file, and
    :func:`corrsk.load_pretrained` returns such objects.

    Parameters
    ----------
    protocol : AcquisitionProtocol or str, default="ir-se-8x8"
        Protocol of the scanner.
    prior : TissuePrior or str, default="midl2024"
        Distribution of the tissue.
    noise_level : float, sequence of float or SNRRange
        Noise levels as parts of the noise reference, or a range of signal-to-noise ratios.
    noise_reference : {"m0", "max", "rms", "first"}, default="m0"
        Reference of the noise level; see :func:`corrsk.physics.noise_sigma`.
    noise_distribution : {"gaussian", "rician"}, default="gaussian"
        "gaussian" is for signed signals, "rician" for magnitudes. A model for magnitudes takes
        signed signals, too, by their absolute values.
    inversion_efficiency : float, default=1.0
        Inversion efficiency eta in (0, 1].
    norm : {"l2", "rms", "max"} or None, default="l2"
        Norm by which each signal is divided. None is for signals with M0 = 1 only.
    n_samples : int, default=10_000_000
        Number of simulated signals that the network is trained on, each used once; about three
        minutes on two idle cores.
    n_validation : int, default=20_000
        Number of further simulated signals, on which the best epoch is chosen; at least 10.
    network : str or network classifier, default="residual-mlp"
        Name of a recipe (see :meth:`corrsk.ResidualMLPClassifier.from_recipe`), or an unfitted
        classifier such as ``CorrelationCNNClassifier(max_epochs=20)``, which is cloned. Its
        `random_state` and `checkpoint` must be None and its `warm_start` False: those of this
        object are used.
    novelty : bool or SignalNoveltyDetector, default=True
        Whether to fit a :class:`corrsk.SignalNoveltyDetector`; or an unfitted one, which is
        cloned.
    checkpoint : path-like or None, default=None
        File for the state of the training. After an interruption (Ctrl-C), the same `fit`, also in
        a new process, resumes the training with bit-identical results. A checkpoint needs an
        integer `random_state`.
    random_state : int, RandomState, Generator or None, default=None
        Seed of the training signals and the network.
    n_jobs : int or None, default=None
        Number of threads of simulation, training and predictions, if the network has none of its
        own; None for the defaults of each.
    verbose : bool, default=True
        Whether to show progress if the training takes more than a few seconds.
    n_coils : int, default=1
        Number of coils of Rician noise; see :class:`corrsk.CorrelationSignalGenerator`.

    Attributes
    ----------
    pipeline_ : SignalPipeline
        Fitted steps: :class:`corrsk.ProtocolAligner`, :class:`corrsk.SignalNormalizer` and the
        network. ``model[-1]`` is the network, ``model[1:]`` the steps for aligned signals.
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
    corrsk.load_pretrained : Models that come with corrsk.

    Notes
    -----
    `fit` accepts signals and labels, so that scikit-learn's searches over the parameters of the
    simulation can score with them: it compares them with protocol and prior, but does not train on
    them.

    Examples
    --------
    >>> from corrsk import AcquisitionProtocol, SimulationTrainedClassifier, SNRRange
    >>> protocol = AcquisitionProtocol.from_grid(ti=[50, 300, 800, 2000], te=[10, 30, 60, 120])
    >>> model = SimulationTrainedClassifier(
    ...     protocol, noise_level=SNRRange(50, 150), noise_reference="max",
    ...     n_samples=4000, n_validation=500, novelty=False, random_state=0,
    ... ).fit()
    >>> model.predict_proba([[1000.0 - 50 * k for k in range(16)]]).shape  # doctest: +SKIP
    (1, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "protocol": [AcquisitionProtocol, str],
        "prior": [TissuePrior, str],
        "noise_level": [NOT_NEGATIVE, "array-like", SNRRange],
        "noise_reference": [StrOptions(set(physics.NOISE_REFERENCES))],
        "noise_distribution": [StrOptions(set(physics.NOISE_DISTRIBUTIONS))],
        "inversion_efficiency": EFFICIENCY,
        "norm": [StrOptions(set(physics.NORMS)), None],
        "n_samples": [POSITIVE_INTEGER],
        "n_validation": [Interval(Integral, 10, None, closed="left")],
        "network": [StrOptions(set(RECIPES)), NetworkClassifier],
        "novelty": ["boolean", SignalNoveltyDetector],
        "checkpoint": [str, os.PathLike, None],
        "random_state": RANDOM_STATE,
        "n_jobs": N_JOBS,
        "verbose": ["verbose"],
        "n_coils": [Integral],
    }

    def __init__(
        self,
        protocol: AcquisitionProtocol | str = "ir-se-8x8",
        prior: TissuePrior | str = "midl2024",
        noise_level: NoiseLevels = (0.01, 0.02, 0.03, 0.04, 0.05),
        noise_reference: str = "m0",
        noise_distribution: str = "gaussian",
        inversion_efficiency: float = 1.0,
        norm: str | None = "l2",
        n_samples: int = 10_000_000,
        n_validation: int = 20_000,
        network: str | NetworkClassifier = "residual-mlp",
        novelty: bool | SignalNoveltyDetector = True,
        checkpoint: Any = None,
        random_state: RandomStateLike = None,
        n_jobs: int | None = None,
        verbose: bool = True,
        n_coils: int = 1,
    ) -> None:
        self.protocol = protocol
        self.prior = prior
        self.noise_level = noise_level
        self.noise_reference = noise_reference
        self.noise_distribution = noise_distribution
        self.inversion_efficiency = inversion_efficiency
        self.norm = norm
        self.n_samples = n_samples
        self.n_validation = n_validation
        self.network = network
        self.novelty = novelty
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.n_coils = n_coils

    # -- from and to other objects ---------------------------------------------

    @classmethod
    def from_definition(cls, definition: DatasetDefinition | str, **params: Any) -> Self:
        """Create an unfitted classifier for the signals of a data set.

        Parameters
        ----------
        definition : DatasetDefinition or str
            Prior, protocol, noise and norm, for example of a file
            (:meth:`corrsk.simulation.DatasetDefinition.from_file`); or the name of a data set (see
            :func:`corrsk.load_dataset`).
        **params : object
            Further parameters.

        Returns
        -------
        SimulationTrainedClassifier
            The unfitted classifier.

        Raises
        ------
        ValueError
            If there is no data set of this name.
        """
        if isinstance(definition, str):
            definition = dataset_definition(definition)
        return cls(
            definition.protocol, definition.tissue_prior, definition.noise_levels,
            definition.noise_reference, definition.noise_distribution,
            definition.inversion_efficiency, definition.norm, n_coils=definition.n_coils, **params,
        )  # fmt: skip

    @classmethod
    def from_network(
        cls, definition: DatasetDefinition, network: NetworkClassifier, **params: Any
    ) -> Self:
        """Create a fitted classifier of a network that was fitted before.

        Parameters
        ----------
        definition : DatasetDefinition
            Definition of the training signals.
        network : ResidualMLPClassifier, CorrelationCNNClassifier or ModuleClassifier
            Network fitted to signals in the order of the definition's protocol, divided by the
            norm of the definition.
        **params : object
            Further parameters.

        Returns
        -------
        SimulationTrainedClassifier
            The fitted classifier, without a novelty detector (see :meth:`fit_novelty`).
        """
        check_is_fitted(network)
        seed = network.random_state
        unfitted = clone(network).set_params(random_state=None, checkpoint=None, warm_start=False)
        given = {
            "network": unfitted, "novelty": False, "verbose": network.verbose,
            "random_state": seed if isinstance(seed, int) else None,
        }  # fmt: skip
        model = cls.from_definition(definition, **given | params)
        model.novelty_ = None
        model._set_network(network)
        return model

    def __getitem__(self, index: int | str | slice) -> Any:
        """Return a step of the fitted pipeline, or a part of the pipeline."""
        check_is_fitted(self)
        return self.pipeline_[index]

    # -- training ----------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike | None = None, y: ArrayLike | None = None) -> Self:
        """Train the network, and fit the novelty detector, on simulated signals.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), optional
            Signals of the protocol. They are compared with the protocol only, so that searches of
            scikit-learn, which score with other signals, can pass them.
        y : array of shape (n_samples,), optional
            Their labels, which are compared with the compartment counts of the prior only.

        Returns
        -------
        SimulationTrainedClassifier
            The fitted classifier itself.

        Raises
        ------
        ProtocolMismatchError
            If X is given and has another protocol; a ValueError.
        ValueError
            If a parameter is invalid or contradicts another one, the prior has a single
            compartment count, or lacks a range or the gain of several series, the labels are no
            counts of the prior, or the training diverges.
        KeyboardInterrupt
            After Ctrl-C; with a checkpoint, the same `fit` resumes the training.
        """
        for attribute in ("pipeline_", "novelty_"):
            if hasattr(self, attribute):
                delattr(self, attribute)
        definition = self.definition
        self._check_definition()
        seed = entropy(self.random_state)
        network = self._unfitted_network(seed)
        stream = SignalStream.from_definition(definition, seed)
        self._check_given(X, y, stream.classes)
        validation = self._simulated(self.n_validation, _VALIDATION_SEED)
        network.fit_stream(stream, self.n_samples, X_val=validation.data, y_val=validation.target)
        self.novelty_ = None
        self._set_network(network.set_params(checkpoint=None))
        if self.novelty is not False:
            self.fit_novelty()
        return self

    def _unfitted_network(self, seed: int) -> NetworkClassifier:
        if isinstance(self.network, str):
            network = classifier_from_recipe(self.network)
        else:
            network = clone(self.network)
            wanted = {"random_state": None, "checkpoint": None, "warm_start": False}
            for name, value in wanted.items():
                if getattr(network, name) is not value:
                    raise ValueError(
                        f"network has {name}={getattr(network, name)!r}, but must have {value}; "
                        f"random_state and checkpoint are parameters of {type(self).__name__}"
                    )
        network.set_params(
            # a checkpoint needs the integer that the user passed
            random_state=seed if self.checkpoint is None else self.random_state,
            checkpoint=self.checkpoint,
            n_jobs=self.n_jobs if network.n_jobs is None else network.n_jobs,
            verbose=bool(self.verbose and network.verbose),
        )
        return network

    def _check_given(self, X: Any, y: Any, classes: NDArray[Any]) -> None:
        """Compare signals and labels, if given, with the protocol and the prior."""
        if X is None and y is None:
            return
        if X is not None:
            self._fitted_aligner().transform(X)
        if y is not None:
            labels = column_or_1d(as_numpy(y), warn=True)
            assert_all_finite(labels, input_name="y")
            check_classification_targets(labels)
            class_index(labels, classes, "y", "the compartment counts of the prior")
            if X is not None:
                check_consistent_length(X, labels)

    def _set_network(self, network: NetworkClassifier) -> None:
        """Store a fitted network behind an aligner and a normaliser."""
        aligner = self._fitted_aligner()
        any_signals = np.ones((1, aligner.n_features_in_))
        steps = (aligner, SignalNormalizer(self.norm).fit(any_signals), network)
        pipeline = SignalPipeline([(type(step).__name__.lower(), step) for step in steps])
        with config_context(enable_metadata_routing=True):
            # with metadata routing, a Pipeline passes only requested parameters on
            network.set_predict_request(class_prior=True)
            network.set_predict_proba_request(class_prior=True)
        # arrays between the steps, which were fitted to arrays, for any global transform_output
        self.pipeline_ = pipeline.set_output(transform="default")

    # -- protocols ----------------------------------------------------------------

    def _measured_cost(self, comparison: ProtocolComparison) -> str:
        """Describe the loss of accuracy on another protocol, on voxels with the same noise."""
        found = []
        for protocol, order in (
            (comparison.trained, slice(None)),
            (comparison.measured, list(comparison.order or ())),
        ):
            definition = replace(self.definition, protocol=protocol)
            voxels = simulate_dataset(definition, _N_JUDGED, _COST_SEED, verbose=False)
            found.append(self.pipeline_[-1].predict(voxels.data[:, order]) == voxels.target)
        trained, measured = found
        lost = 100 * (trained.astype(float) - measured)
        error = 1.96 * lost.std() / np.sqrt(lost.size)
        return (
            f"On {_N_JUDGED:,} simulated voxels the accuracy of the model is "
            f"{100 * measured.mean():.1f} % with this protocol and {100 * trained.mean():.1f} % "
            "with the trained protocol: a loss of "
            f"{lost.mean():.2f} +- {error:.2f} percentage points"
        )

    # -- predictions ----------------------------------------------------------------

    def predict_proba(
        self,
        X: ArrayLike,
        class_prior: ClassPrior | None = None,
        protocol: AcquisitionProtocol | str | None = None,
    ) -> NDArray[np.float64]:
        """Predict the probability of each compartment count.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals. Columns with names (TI50_TE4.5, ..) may have any order. Also a
            volume, an array of shape (.., n_measurements). A model of magnitudes
            (`noise_distribution` "rician") takes the absolute values of signed signals.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            Frequency of each count in the tissue of the signals, up to a common factor; by
            default, the counts are equally frequent, as in the training.
        protocol : AcquisitionProtocol or str, optional
            Protocol of the columns, in their order, whose TR is compared too. None (default) for
            the trained protocol, or for columns with names; names without TR have the trained TR.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of `classes_`; NaN for voxels without signal (all zero, or
            with NaN). Of a volume maps of shape (.., n_classes).

        Raises
        ------
        ProtocolMismatchError
            If the signals have another protocol; a ValueError.
        ValueError
            If the signals are complex or infinite, their columns are not understood, `norm` is
            None and they cannot have M0 = 1, or `class_prior` does not match the classes.

        Warns
        -----
        MeasuredSignalWarning
            If a whole batch cannot be what the model was made for: magnitudes for a model of signed
            signals, noise outside the trained range, or mostly novel voxels.
        NoSignalWarning
            If voxels have no signal; once, with their number.
        ProtocolWarning
            If the protocol of the signals is close to the trained one.
        """
        pipeline, voxels = self._voxels(X, protocol)
        if class_prior is not None:  # an invalid prior is an error before the prediction starts
            checked_class_prior(class_prior, self.classes_)

        def probabilities(signals: Any) -> NDArray[np.float64]:
            aligned = self._checked(pipeline, signals)
            found: NDArray[np.float64] = pipeline[-1].predict_proba(
                pipeline[1].transform(aligned), class_prior
            )
            return found

        return voxels.answer(probabilities, len(self.classes_))

    def predict_log_proba(
        self,
        X: ArrayLike,
        class_prior: ClassPrior | None = None,
        protocol: AcquisitionProtocol | str | None = None,
    ) -> NDArray[np.float64]:
        """Predict the logarithm of the probability of each compartment count.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict_proba`.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Natural logarithms of the probabilities of :meth:`predict_proba`.
        """
        return log_probabilities(self.predict_proba(X, class_prior, protocol))

    def predict(
        self,
        X: ArrayLike,
        class_prior: ClassPrior | None = None,
        protocol: AcquisitionProtocol | str | None = None,
    ) -> NDArray[Any]:
        """Predict the most probable compartment count.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict_proba`, also for errors and warnings.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Counts; 0 for voxels without signal.
        """
        return most_probable(self.predict_proba(X, class_prior, protocol), self.classes_)

    def predict_multicompartment_proba(
        self,
        X: ArrayLike,
        class_prior: ClassPrior | None = None,
        protocol: AcquisitionProtocol | str | None = None,
    ) -> NDArray[np.float64]:
        """Predict the probability of more than one compartment, P(n_c >= 2).

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict_proba`, also for errors and warnings.
        class_prior : mapping of label to float, or array of shape (n_classes,), optional
            See :meth:`predict_proba`.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Sum of the probabilities of the counts >= 2; NaN for voxels without signal.
        """
        check_is_fitted(self)
        is_multicompartment(self.classes_)  # other labels are an error before the prediction
        return multicompartment_probability(
            self.predict_proba(X, class_prior, protocol), self.classes_
        )

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy of the predicted counts, where voxels without signal count as errors.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict_proba`.
        y : array of shape (n_samples,), or of the shape of the volume
            Reference counts.
        sample_weight : array like y, optional
            Weight of each voxel.

        Returns
        -------
        float
            Share of the right counts.
        """
        weight = None if sample_weight is None else np.ravel(sample_weight)
        labels = self.predict(X).ravel()
        return float(accuracy_score(np.ravel(y), labels, sample_weight=weight))

    # -- scikit-learn -----------------------------------------------------------------

    @property
    def classes_(self) -> NDArray[Any]:
        """Compartment counts of the prior, ascending."""
        classes: NDArray[Any] = self.pipeline_.classes_
        return classes
