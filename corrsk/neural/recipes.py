"""Named trainings: an estimator and its parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """A named training.

    Parameters
    ----------
    estimator : str
        Class name of the estimator.
    parameters : dict
        Parameters of the estimator that differ from its defaults.
    """

    estimator: str
    parameters: dict[str, Any] = field(default_factory=dict)


RECIPES: dict[str, Recipe] = {
    "default": Recipe("CorrelationCNNClassifier"),
    "paper": Recipe(
        "CorrelationCNNClassifier",
        {
            "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0,
            "learning_rate": 1.0, "learning_rate_schedule": "steps",
            "max_epochs": 3000, "batch_size": 10_000, "dropout": 0.2,
            "input_scaling": None, "softmax_before_loss": True,
        },
    ),
    "residual-mlp": Recipe("ResidualMLPClassifier", {"batch_size": 2000}),
}  # fmt: skip
