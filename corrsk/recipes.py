"""Named trainings of the paper's network: parameters of the classifier."""

from __future__ import annotations

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0,
        "learning_rate": 1.0, "learning_rate_schedule": "steps",
        "max_epochs": 3000, "batch_size": 10_000, "dropout": 0.2,
        "standardize": False, "softmax_before_loss": True,
    },
}  # fmt: skip
