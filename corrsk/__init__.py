"""Count the tissue compartments in multiparametric correlation MRI signals.

Simulation of multiparametric correlation signals, classification by the number of
sub-compartments, and evaluation, with scikit-learn estimators throughout. Times are
in ms, b-values in ms/um^2, diffusivities in um^2/ms.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrsk import (
        acquisition as acquisition,
    )
    from corrsk import (
        baselines as baselines,
    )
    from corrsk import (
        evaluation as evaluation,
    )
    from corrsk import (
        imaging as imaging,
    )
    from corrsk import (
        model_selection as model_selection,
    )
    from corrsk import (
        neural as neural,
    )
    from corrsk import (
        novelty as novelty,
    )
    from corrsk import (
        persistence as persistence,
    )
    from corrsk import (
        physics as physics,
    )
    from corrsk import (
        preprocessing as preprocessing,
    )
    from corrsk import (
        pretrained as pretrained,
    )
    from corrsk import (
        relaxometry as relaxometry,
    )
    from corrsk import (
        simulation as simulation,
    )
    from corrsk import (
        spatial as spatial,
    )
    from corrsk import (
        tissue as tissue,
    )
    from corrsk import (
        trained as trained,
    )
    from corrsk import (
        workflows as workflows,
    )
    from corrsk.acquisition import (
        AcquisitionProtocol,
        ProtocolMismatchError,
        ProtocolWarning,
        compare_protocols,
    )
    from corrsk.evaluation import predict_multicompartment_proba
    from corrsk.imaging import SignalMasker, load_images
    from corrsk.model_selection import StackedGridSearchCV
    from corrsk.neural import (
        CorrelationCNNClassifier,
        ModuleClassifier,
        ResidualMLPClassifier,
        to_onnx,
    )
    from corrsk.novelty import SignalNoveltyDetector
    from corrsk.persistence import InvalidFileError, load, save
    from corrsk.physics import EchoTrain
    from corrsk.physics.noise_levels import SNRRange
    from corrsk.preprocessing import (
        NoSignalWarning,
        ProtocolAligner,
        SignalNormalizer,
        SignalPhaser,
        SignalPipeline,
    )
    from corrsk.pretrained import load_pretrained, model_card, pretrained_names
    from corrsk.relaxometry import (
        IdealObserverClassifier,
        MultiExponentialClassifier,
        NNLSPeakClassifier,
        NNLSSpectrum,
        estimate_noise,
    )
    from corrsk.simulation import (
        CorrelationSignalGenerator,
        SignalStream,
        load_dataset,
        make_correlation_signals,
    )
    from corrsk.spatial import SpatialClassifier, make_parcel_phantom
    from corrsk.tissue import Nuisances, PropertyRange, TissuePrior
    from corrsk.trained import (
        CompartmentPosterior,
        CompartmentRegressor,
        MeasuredSignalWarning,
        SimulationTrainedClassifier,
    )

__version__ = version("corrsk")

# Everything is imported on first use: torch and scikit-learn take a second to import.
_MODULES = {
    "AcquisitionProtocol": "acquisition",
    "compare_protocols": "acquisition",
    "estimate_noise": "relaxometry",
    "CorrelationCNNClassifier": "neural",
    "CorrelationSignalGenerator": "simulation",
    "EchoTrain": "physics",
    "IdealObserverClassifier": "relaxometry",
    "InvalidFileError": "persistence",
    "load": "persistence",
    "load_dataset": "simulation",
    "load_images": "imaging",
    "load_pretrained": "pretrained",
    "make_correlation_signals": "simulation",
    "make_parcel_phantom": "spatial",
    "MeasuredSignalWarning": "trained",
    "model_card": "pretrained",
    "ModuleClassifier": "neural",
    "MultiExponentialClassifier": "relaxometry",
    "NNLSPeakClassifier": "relaxometry",
    "NNLSSpectrum": "relaxometry",
    "NoSignalWarning": "preprocessing",
    "Nuisances": "tissue",
    "predict_multicompartment_proba": "evaluation",
    "pretrained_names": "pretrained",
    "PropertyRange": "tissue",
    "ProtocolAligner": "preprocessing",
    "ProtocolMismatchError": "acquisition",
    "ProtocolWarning": "acquisition",
    "ResidualMLPClassifier": "neural",
    "save": "persistence",
    "SignalMasker": "imaging",
    "SignalNormalizer": "preprocessing",
    "SignalNoveltyDetector": "novelty",
    "SignalPhaser": "preprocessing",
    "SignalPipeline": "preprocessing",
    "SignalStream": "simulation",
    "CompartmentPosterior": "trained",
    "CompartmentRegressor": "trained",
    "SimulationTrainedClassifier": "trained",
    "SNRRange": "physics.noise_levels",
    "SpatialClassifier": "spatial",
    "StackedGridSearchCV": "model_selection",
    "TissuePrior": "tissue",
    "to_onnx": "neural",
}
_PACKAGES = (
    "acquisition",
    "baselines",
    "evaluation",
    "imaging",
    "model_selection",
    "neural",
    "novelty",
    "persistence",
    "physics",
    "preprocessing",
    "pretrained",
    "relaxometry",
    "simulation",
    "spatial",
    "tissue",
    "trained",
    "workflows",
)

__all__ = [
    "AcquisitionProtocol",
    "CorrelationCNNClassifier",
    "CorrelationSignalGenerator",
    "EchoTrain",
    "IdealObserverClassifier",
    "InvalidFileError",
    "MeasuredSignalWarning",
    "ModuleClassifier",
    "MultiExponentialClassifier",
    "NNLSPeakClassifier",
    "NNLSSpectrum",
    "NoSignalWarning",
    "Nuisances",
    "PropertyRange",
    "ProtocolAligner",
    "ProtocolMismatchError",
    "ProtocolWarning",
    "ResidualMLPClassifier",
    "SNRRange",
    "SignalMasker",
    "SignalNormalizer",
    "SignalNoveltyDetector",
    "SignalPhaser",
    "SignalPipeline",
    "SignalStream",
    "CompartmentPosterior",
    "CompartmentRegressor",
    "SimulationTrainedClassifier",
    "SpatialClassifier",
    "StackedGridSearchCV",
    "TissuePrior",
    "__version__",
    "compare_protocols",
    "estimate_noise",
    "load",
    "load_dataset",
    "load_images",
    "load_pretrained",
    "make_correlation_signals",
    "make_parcel_phantom",
    "model_card",
    "predict_multicompartment_proba",
    "pretrained_names",
    "save",
    "to_onnx",
]


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(importlib.import_module(f"corrsk.{_MODULES[name]}"), name)
        if name in _PACKAGES:
            return importlib.import_module(f"corrsk.{name}")
        raise AttributeError(f"module 'corrsk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_PACKAGES]
