"""Count the tissue compartments in multiparametric correlation MRI signals.

Simulates multiparametric correlation signals, classifies them by the number of
sub-compartments, and judges the answers; scikit-learn estimators throughout.
Times are in ms, b-values in ms/um^2, diffusivities in um^2/ms.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.noise_levels import SNRRange
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.simulation.datasets import load_dataset, make_correlation_signals
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.simulation.streams import SignalStream
from corrsk.tissue.prior import TissuePrior
from corrsk.tissue.ranges import PropertyRange

if TYPE_CHECKING:
    from corrsk.acquisition.compatibility import (
        ProtocolMismatchError,
        ProtocolWarning,
        compare_protocols,
    )
    from corrsk.model_selection.stacked_search import StackedGridSearchCV
    from corrsk.neural.classifier import (
        CorrelationCNNClassifier,
        ModuleClassifier,
        ResidualMLPClassifier,
    )
    from corrsk.novelty.detector import SignalNoveltyDetector
    from corrsk.persistence import load, save
    from corrsk.preprocessing.aligner import ProtocolAligner
    from corrsk.pretrained import load_pretrained, model_card, pretrained_names
    from corrsk.relaxometry import (
        IdealObserverClassifier,
        MultiExponentialClassifier,
        NNLSPeakClassifier,
    )

__version__ = version("corrsk")

# torch and scikit-learn's learners take a second; who only simulates need not wait for them
_LAZY = {
    "CorrelationCNNClassifier": "corrsk.neural",
    "ModuleClassifier": "corrsk.neural",
    "ResidualMLPClassifier": "corrsk.neural",
    "IdealObserverClassifier": "corrsk.relaxometry",
    "MultiExponentialClassifier": "corrsk.relaxometry",
    "NNLSPeakClassifier": "corrsk.relaxometry",
    "ProtocolAligner": "corrsk.preprocessing",
    "ProtocolMismatchError": "corrsk.acquisition",
    "ProtocolWarning": "corrsk.acquisition",
    "SignalNoveltyDetector": "corrsk.novelty",
    "StackedGridSearchCV": "corrsk.model_selection",
    "compare_protocols": "corrsk.acquisition",
    "load": "corrsk.persistence",
    "load_pretrained": "corrsk.pretrained",
    "model_card": "corrsk.pretrained",
    "pretrained_names": "corrsk.pretrained",
    "save": "corrsk.persistence",
}

__all__ = [
    "AcquisitionProtocol",
    "CorrelationCNNClassifier",
    "CorrelationSignalGenerator",
    "IdealObserverClassifier",
    "ModuleClassifier",
    "MultiExponentialClassifier",
    "NNLSPeakClassifier",
    "PropertyRange",
    "ProtocolAligner",
    "ProtocolMismatchError",
    "ProtocolWarning",
    "ResidualMLPClassifier",
    "SNRRange",
    "SignalNormalizer",
    "SignalNoveltyDetector",
    "SignalStream",
    "StackedGridSearchCV",
    "TissuePrior",
    "__version__",
    "compare_protocols",
    "load",
    "load_dataset",
    "load_pretrained",
    "make_correlation_signals",
    "model_card",
    "pretrained_names",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'corrsk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
