"""The judgement: figures of merit, tables and figures of any classifier of counts."""

from corrsk._utils.counts import multicompartment_probability
from corrsk.evaluation.calibration import (
    calibration_by_noise_level,
    expected_calibration_error,
    reliability_table,
)
from corrsk.evaluation.ceiling import accuracy_ceiling, known_ceiling, regret
from corrsk.evaluation.displays import (
    AccuracyOverNoiseDisplay,
    CountRocDisplay,
    LossCurveDisplay,
    plot_confusion_matrices,
)
from corrsk.evaluation.evaluation import Evaluation, evaluate, results_table
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
    T1T2_DETR_ACCURACY,
    is_papers_problem,
)
from corrsk.evaluation.scorers import (
    SCORERS,
    MulticompartmentScorer,
    multicompartment_accuracy,
    multicompartment_balanced_accuracy,
    multicompartment_neg_log_loss,
    multicompartment_roc_auc,
)
from corrsk.evaluation.selective import (
    abstain,
    accuracy_coverage_curve,
    area_under_risk_coverage,
    threshold_for_accuracy,
)
from corrsk.evaluation.trust_displays import AccuracyCoverageDisplay, ReliabilityDisplay

__all__ = [
    "PAPER",
    "PAPER_BINARY_CONFUSION_MATRIX",
    "PAPER_CONFUSION_MATRIX",
    "PAPER_METRICS",
    "PAPER_NOTE",
    "SCORERS",
    "T1T2_DETR_ACCURACY",
    "AccuracyCoverageDisplay",
    "AccuracyOverNoiseDisplay",
    "CountRocDisplay",
    "Evaluation",
    "LossCurveDisplay",
    "McNemarResult",
    "MulticompartmentScorer",
    "ReliabilityDisplay",
    "abstain",
    "accuracy_coverage_curve",
    "area_under_risk_coverage",
    "accuracy_ceiling",
    "bootstrap_difference",
    "bootstrap_interval",
    "calibration_by_noise_level",
    "evaluate",
    "is_papers_problem",
    "known_ceiling",
    "expected_calibration_error",
    "mcnemar_test",
    "multicompartment_accuracy",
    "multicompartment_balanced_accuracy",
    "multicompartment_neg_log_loss",
    "multicompartment_probability",
    "multicompartment_roc_auc",
    "plot_confusion_matrices",
    "reliability_table",
    "regret",
    "results_table",
    "threshold_for_accuracy",
]
