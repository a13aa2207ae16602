"""Base class of models that are trained by simulation: definition, aligner and detector."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.pickles import EarlierPicklesMixin
from corrsk._utils.voxels import Voxels, user_level
from corrsk.acquisition.compatibility import ProtocolComparison
from corrsk.acquisition.labels import with_column_names
from corrsk.acquisition.nuisances import check_gains
from corrsk.acquisition.protocol import AcquisitionProtocol, resolve_protocol
from corrsk.novelty.detector import SignalNoveltyDetector
from corrsk.physics.noise_levels import NoiseLevels
from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.pipeline import SignalPipeline
from corrsk.simulation.datasets import simulate_dataset
from corrsk.simulation.definition import DatasetDefinition
from corrsk.tissue.prior import TissuePrior, resolve_prior
from corrsk.trained.expectation import expected_signals, warn_of_unexpected

_NOVELTY_SEED = 3  # of simulate_dataset, which is independent of all streams
_N_NOVELTY = 100_000  # largest number of signals for the novelty detector


class SimulationTrained(EarlierPicklesMixin, BaseEstimator):
    """Base class of models that are trained by simulation alone, for measured signals.

    A subclass has the parameters below in its `__init__`.
    """

    protocol: AcquisitionProtocol | str
    prior: TissuePrior | str
    noise_level: NoiseLevels
    noise_reference: str
    noise_distribution: str
    inversion_efficiency: float
    norm: str | None
    n_coils: int
    n_samples: int
    novelty: bool | SignalNoveltyDetector
    novelty_: SignalNoveltyDetector | None
    pipeline_: SignalPipeline
    n_jobs: int | None
    verbose: bool

    @property
    def definition(self) -> DatasetDefinition:
        """Definition of the training signals."""
        levels: Any = self.noise_level
        return DatasetDefinition(
            "the simulation", self.prior, self.protocol, levels, self.noise_reference,
            norm=self.norm, noise_distribution=self.noise_distribution,
            inversion_efficiency=self.inversion_efficiency, n_coils=self.n_coils,
        )  # fmt: skip

    # -- training ----------------------------------------------------------------

    def _check_definition(self) -> None:
        """Refuse a simulation that no model can be trained on, before any work."""
        definition = self.definition
        definition.check_for_training()
        nuisances = resolve_prior(definition.tissue_prior).nuisances
        check_gains(nuisances, resolve_protocol(definition.protocol))

    def fit_novelty(self) -> Self:
        """Fit the novelty detector alone, such as that of a model of `load_pretrained`.

        Returns
        -------
        SimulationTrainedClassifier or CompartmentRegressor
            The fitted model itself, with `novelty_`.
        """
        check_is_fitted(self)
        detector = (
            clone(self.novelty)
            if isinstance(self.novelty, SignalNoveltyDetector)
            else SignalNoveltyDetector(n_jobs=self.n_jobs, verbose=self.verbose)
        )
        if detector.random_state is None:
            detector.set_params(random_state=_NOVELTY_SEED)
        detector.set_params(protocol=resolve_protocol(self.protocol))
        self.novelty_ = detector.fit(
            self._simulated(min(self.n_samples, _N_NOVELTY), _NOVELTY_SEED).data
        )
        return self

    def _simulated(self, n_samples: int, seed: int) -> Any:
        return simulate_dataset(
            self.definition, max(10, n_samples), seed, n_jobs=self.n_jobs, verbose=self.verbose
        )

    def _fitted_aligner(self) -> ProtocolAligner:
        definition = self.definition
        aligner = ProtocolAligner(
            definition.protocol, prior=definition.tissue_prior, noise_level=definition.noise_levels,
            noise_reference=definition.noise_reference, norm=definition.norm,
            inversion_efficiency=definition.inversion_efficiency,
            noise_distribution=definition.noise_distribution, n_coils=definition.n_coils,
        )  # fmt: skip
        # the fit depends on the number of columns only
        return aligner.fit(np.ones((1, resolve_protocol(definition.protocol).n_measurements)))

    # -- protocols ----------------------------------------------------------------

    def compare(self, measured: AcquisitionProtocol | str) -> ProtocolComparison:
        """Compare the protocol of measured signals with the trained one, without refusing it.

        Parameters
        ----------
        measured : AcquisitionProtocol or str
            The protocol to compare.

        Returns
        -------
        ProtocolComparison
            The comparison.
        """
        return self._fitted_aligner().compare(measured)

    def matched_to(self, measured: AcquisitionProtocol | str) -> Self:
        """Return a copy for signals of a measured protocol, in its order.

        Parameters
        ----------
        measured : AcquisitionProtocol or str
            The protocol of the columns of the signals, in their order.

        Returns
        -------
        SimulationTrainedClassifier or CompartmentRegressor
            The fitted copy, which shares the network with the original.

        Raises
        ------
        ProtocolMismatchError
            If the protocol differs from the trained one; a ValueError.

        Warns
        -----
        ProtocolWarning
            If the protocol is close to the trained one. The warning gives the differences, and of
            a classifier the loss of accuracy, measured on simulated voxels.
        """
        check_is_fitted(self)
        comparison = self.compare(measured)
        note = self._measured_cost(comparison) if comparison.verdict == "close" else ""
        matched = copy.copy(self)
        matched.pipeline_ = self._pipeline_for(measured, note)
        return matched

    def _measured_cost(self, comparison: ProtocolComparison) -> str:
        """Describe the loss of a model on another protocol, if it is measured."""
        return ""

    # -- predictions ----------------------------------------------------------------

    def predict_novelty(
        self, X: ArrayLike, protocol: AcquisitionProtocol | str | None = None
    ) -> NDArray[np.float64]:
        """Predict how unusual each voxel is: the p-value of the novelty detector.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_measurements), or (n_samples, n_ti, n_te)
            Measured signals, or a volume; see :meth:`predict_proba`.
        protocol : AcquisitionProtocol or str, optional
            See :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,), or of the shape of the volume
            Probability that a simulated signal is at least as unusual; NaN for voxels without
            signal. Voxels with small values, such as below 0.01, are novel: their predictions have
            no basis.

        Raises
        ------
        ProtocolMismatchError
            If the signals have another protocol; a ValueError.
        ValueError
            If the model has no detector, or as for :meth:`predict_proba`.
        """
        pipeline, voxels = self._voxels(X, protocol)
        detector = self.novelty_
        if detector is None:
            raise ValueError(
                "the model has no novelty detector; fit_novelty() adds one, in a minute or less"
            )
        found = voxels.answer(
            lambda signals: detector.p_values(pipeline[0].transform(signals))[:, None], 1
        )
        return found[..., 0]

    def _pipeline_for(
        self, measured: AcquisitionProtocol | str | None, note: str = ""
    ) -> SignalPipeline:
        """Return the pipeline for signals of a measured protocol, in its order."""
        if measured is None:
            return self.pipeline_
        (name, aligner), *others = self.pipeline_.steps
        # the aligner counts its level from its caller
        matched = aligner.matched_to(measured, note=note, stacklevel=user_level())
        return SignalPipeline([(name, matched), *others])

    def _voxels(
        self, X: Any, protocol: AcquisitionProtocol | str | None
    ) -> tuple[SignalPipeline, Voxels]:
        """Return the pipeline for a protocol and the voxels with signal."""
        check_is_fitted(self)
        self._refuse_complex(X)
        pipeline = self._pipeline_for(protocol)
        return pipeline, Voxels.from_measured(with_column_names(X), pipeline)

    def _checked(self, pipeline: SignalPipeline, signals: Any) -> NDArray[Any]:
        """Bring signals into the order of the trained protocol; warn of unexpected ones."""
        aligned: NDArray[Any] = pipeline[0].transform(signals)
        warn_of_unexpected(aligned, expected_signals(self.definition), self.novelty_)
        return aligned

    def _refuse_complex(self, X: Any) -> None:
        kind = X.dtype if isinstance(getattr(X, "dtype", None), np.dtype) else np.asarray(X).dtype
        if kind.kind == "c":
            raise ValueError(
                "the signals are complex, but the model is for real signals; correct the phase of "
                "each voxel (SignalPhaser) and pass the real part"
                + (
                    ", or pass np.abs(X)"
                    if self.noise_distribution == "rician"
                    else "; magnitudes, np.abs(X), need a model trained with "
                    "noise_distribution='rician'"
                )
            )

    @property
    def n_features_in_(self) -> int:
        """Number of measurements."""
        return int(self.pipeline_.n_features_in_)

    @property
    def layout_(self) -> tuple[int, ...] | None:
        """Shape of the grid of the measured protocol; None if it is no grid."""
        layout: tuple[int, ...] | None = self.pipeline_[0].layout_
        return layout

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
