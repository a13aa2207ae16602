"""The judgement: figures of merit, tables and figures of any classifier of counts."""

from corrsk._counts import multicompartment_probability
from corrsk.evaluation.displays import (
    AccuracyOverNoiseDisplay,
    CountRocDisplay,
    LossCurveDisplay,
    plot_confusion_matrices,
)
from corrsk.evaluation.intervals import (
    McNemarResult,
    bootstrap_difference,
    bootstrap_interval,
    mcnemar_test,
)
from corrsk.evaluation.published import (
    PAPER,
    PAPER_BINARY_CONFUSION_MATRIX,
    PAPER_CONFUSION_MATRIX,
    PAPER_METRICS,
    PAPER_NOTE,
)
from corrsk.evaluation.report import Evaluation, evaluate
from corrsk.evaluation.scorers import (
    SCORERS,
    MulticompartmentScorer,
    multicompartment_accuracy,
    multicompartment_balanced_accuracy,
    multicompartment_neg_log_loss,
    multicompartment_roc_auc,
)
from corrsk.evaluation.scores import expected_calibration_error
from corrsk.evaluation.tables import results_table

__all__ = [
    "PAPER",
    "PAPER_BINARY_CONFUSION_MATRIX",
    "PAPER_CONFUSION_MATRIX",
    "PAPER_METRICS",
    "PAPER_NOTE",
    "SCORERS",
    "AccuracyOverNoiseDisplay",
    "CountRocDisplay",
    "Evaluation",
    "LossCurveDisplay",
    "McNemarResult",
    "MulticompartmentScorer",
    "bootstrap_difference",
    "bootstrap_interval",
    "evaluate",
    "expected_calibration_error",
    "mcnemar_test",
    "multicompartment_accuracy",
    "multicompartment_balanced_accuracy",
    "multicompartment_neg_log_loss",
    "multicompartment_probability",
    "multicompartment_roc_auc",
    "plot_confusion_matrices",
    "results_table",
]
