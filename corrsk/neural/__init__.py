"""Networks, training and the network estimators; the only package that imports torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from corrsk.neural import _openmp  # noqa: F401  (before any other module imports torch)

if TYPE_CHECKING:
    from corrsk.neural.classifier import (
        CorrelationCNNClassifier,
        ModuleClassifier,
        ResidualMLPClassifier,
    )
    from corrsk.neural.onnx import to_onnx

__all__ = ["CorrelationCNNClassifier", "ModuleClassifier", "ResidualMLPClassifier", "to_onnx"]


def __getattr__(name: str) -> Any:
    # lazy, so that the modules of the package can be imported one by one
    if name in __all__:
        module = "onnx" if name == "to_onnx" else "classifier"
        return getattr(importlib.import_module(f"corrsk.neural.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
