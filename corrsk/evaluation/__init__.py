"""Evaluation of classifiers of compartment counts: metrics, tables and figures."""

from corrsk._utils.counts import multicompartment_probability
from corrsk._utils.deprecation import renamed_attributes
from corrsk.evaluation.calibration import (
    calibration_by_noise_level,
    expected_calibration_error,
    reliability_table,
)
from corrsk.evaluation.ceiling import accuracy_ceiling, known_ceiling, regret
from corrsk.evaluation.compartments import compartment_metrics, compartments_right
from corrsk.evaluation.displays import (
    AccuracyOverNoiseDisplay,
    CountRocDisplay,
    LossCurveDisplay,
    plot_confusion_matrices,
)
from corrsk.evaluation.evaluation import Evaluation, Reference, evaluate, results_table
from corrsk.evaluation.intervals import (
    McNemarResult,
    bootstrap_difference,
    bootstrap_interval,
    mcnemar_test,
)
from corrsk.evaluation.map_displays import CountMapDisplay, MulticompartmentDisplay
from corrsk.evaluation.posterior_display import CompartmentPosteriorDisplay
from corrsk.evaluation.predictions import predict_multicompartment_proba
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
from corrsk.evaluation.tasks import Task
from corrsk.evaluation.trust_displays import AccuracyCoverageDisplay, ReliabilityDisplay

__all__ = [
    "SCORERS",
    "AccuracyCoverageDisplay",
    "AccuracyOverNoiseDisplay",
    "CompartmentPosteriorDisplay",
    "CountMapDisplay",
    "CountRocDisplay",
    "Evaluation",
    "LossCurveDisplay",
    "McNemarResult",
    "MulticompartmentDisplay",
    "MulticompartmentScorer",
    "Reference",
    "ReliabilityDisplay",
    "Task",
    "abstain",
    "accuracy_coverage_curve",
    "area_under_risk_coverage",
    "accuracy_ceiling",
    "bootstrap_difference",
    "bootstrap_interval",
    "calibration_by_noise_level",
    "compartment_metrics",
    "compartments_right",
    "evaluate",
    "known_ceiling",
    "expected_calibration_error",
    "mcnemar_test",
    "multicompartment_accuracy",
    "multicompartment_balanced_accuracy",
    "multicompartment_neg_log_loss",
    "multicompartment_probability",
    "multicompartment_roc_auc",
    "plot_confusion_matrices",
    "predict_multicompartment_proba",
    "reliability_table",
    "regret",
    "results_table",
    "threshold_for_accuracy",
]

# published results moved to the workflows
__getattr__ = renamed_attributes(
    __name__,
    PAPER="corrsk.workflows.paper.PAPER.name",
    PAPER_BINARY_CONFUSION_MATRIX="corrsk.workflows.paper.PAPER.binary_confusion_matrix",
    PAPER_CONFUSION_MATRIX="corrsk.workflows.paper.PAPER.confusion_matrix",
    PAPER_METRICS="corrsk.workflows.paper.PAPER.metrics",
    PAPER_NOTE="corrsk.workflows.paper.PAPER_NOTE",
    T1T2_DETR_ACCURACY="corrsk.workflows.paper.T1T2_DETR_ACCURACY",
    is_papers_problem="corrsk.workflows.paper.PAPER.applies_to",
)
