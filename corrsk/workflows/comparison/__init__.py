"""Comparison of the CNN with classical learners and model-based methods on the same data."""

from corrsk._utils.extras import require

require("rich", "jinja2", "tabulate", extra="cli", purpose="the comparison of models")

from corrsk.workflows.comparison.models import MODELS, ComparedModel  # noqa: E402
from corrsk.workflows.comparison.runner import Comparison, compare  # noqa: E402
from corrsk.workflows.comparison.settings import ComparisonSettings  # noqa: E402

__all__ = [
    "MODELS",
    "ComparedModel",
    "Comparison",
    "ComparisonSettings",
    "compare",
]
