"""Helpers shared by several test files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corrsk import CorrelationCNNClassifier, ModuleClassifier, ResidualMLPClassifier
from corrsk.neural.training.settings import ClassifierSettings

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def make_classifier(network: Any = "cnn", **parameters: Any) -> Any:
    """Return the classifier for a network's name or for a module; the CNN for "ir-se-8x8"."""
    if network == "cnn":
        protocol = "auto" if "grid_shape" in parameters else "ir-se-8x8"
        return CorrelationCNNClassifier(**{"protocol": protocol} | parameters)
    if network == "residual-mlp":
        return ResidualMLPClassifier(**parameters)
    return ModuleClassifier(network, **parameters)


def make_settings(**changes: Any) -> ClassifierSettings:
    """Return the settings of a short training of the paper's CNN."""
    settings: dict[str, Any] = {
        "network": "cnn", "grid_shape": (8, 8), "width": 16, "n_blocks": 1, "dropout": 0.0,
        "n_features": 64, "n_classes": 4, "input_scaling": "standardize", "optimizer": "adamw",
        "learning_rate": 0.01, "learning_rate_schedule": "one-cycle", "weight_decay": 0.01,
        "max_epochs": 2, "batch_size": 100, "precision": "float32", "backend": "torch",
        "patience": None, "restore_best": False, "seed": 0,
    }  # fmt: skip
    return ClassifierSettings(**settings | changes)
