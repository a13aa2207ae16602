"""Named trainings: parameters of the classifier."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0,
        "learning_rate": 1.0, "learning_rate_schedule": "steps",
        "max_epochs": 3000, "batch_size": 10_000, "dropout": 0.2,
        "input_scaling": None, "softmax_before_loss": True,
    },
    "residual-mlp": {
        "network": "residual-mlp", "input_scaling": "half-whiten",
        "optimizer": "muon", "learning_rate": 5e-3, "batch_size": 2000,
        "precision": "auto",
    },
}  # fmt: skip
