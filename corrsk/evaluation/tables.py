"""The results in words, as the report and the terminal show them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from corrsk.evaluation.published import PAPER
from corrsk.evaluation.report import Evaluation

SHOWN_METRICS = {
    "accuracy": "{K}-class accuracy",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "roc_auc_1": "AUC, n_c = 1",
    "roc_auc_2": "AUC, n_c = 2",
    "roc_auc_3": "AUC, n_c = 3",
    "roc_auc_4": "AUC, n_c = 4",
    "roc_auc_micro": "AUC (micro)",
    "roc_auc_macro": "AUC (macro)",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
    "binary_accuracy": "binary accuracy (P > 0.5)",
    "binary_argmax_accuracy": "binary accuracy (argmax)",
    "binary_argmax_precision_single": "precision, n_c = 1 (argmax)",
    "binary_argmax_recall_single": "recall, n_c = 1 (argmax)",
}


def results_table(evaluation: Evaluation) -> pd.DataFrame:
    """The shown metrics in words, ours beside the paper's, as text."""
    frame = evaluation.to_frame()
    frame = frame.loc[[name for name in SHOWN_METRICS if name in frame.index]]
    shown = [SHOWN_METRICS[name].format(K=evaluation.classes.size) for name in frame.index]
    frame.index = pd.Index(shown, name="")
    frame[evaluation.dataset] = [f"{value:.3f}" for value in frame[evaluation.dataset]]
    if PAPER in frame:  # its two or three digits: no more are shown than it has
        frame[PAPER] = ["" if np.isnan(value) else _as_printed(value) for value in frame[PAPER]]
    return frame


def _as_printed(value: float) -> str:
    return f"{value:.2f}" if round(value, 2) == value else f"{value:.3f}"
