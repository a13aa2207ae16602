"""Networks, their training and the estimators around them; only this package imports torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrsk.neural.classifier import (
        CorrelationCNNClassifier,
        ModuleClassifier,
        ResidualMLPClassifier,
    )

__all__ = ["CorrelationCNNClassifier", "ModuleClassifier", "ResidualMLPClassifier"]


def __getattr__(name: str) -> Any:
    # lazily: a module of this package, such as the recipes, may be wanted without torch
    if name in __all__:
        return getattr(importlib.import_module("corrsk.neural.classifier"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
