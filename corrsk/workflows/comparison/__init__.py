"""Rivals side by side: the CNN, classical learners and model-based methods on the same data."""

from corrsk.workflows.comparison.rivals import RIVALS, Rival
from corrsk.workflows.comparison.runner import Comparison, compare
from corrsk.workflows.comparison.settings import ComparisonSettings
from corrsk.workflows.comparison.tables import results_frame, summary_frame

__all__ = [
    "RIVALS",
    "Comparison",
    "ComparisonSettings",
    "Rival",
    "compare",
    "results_frame",
    "summary_frame",
]
