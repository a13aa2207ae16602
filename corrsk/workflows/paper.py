"""Published results of the paper and of the thesis t1t2-detr, for comparison with corrsk.

Source of the paper's results: Endt, Lachermeier and Menzel, "Classification of multiparametric
correlation MRI signals using deep neural networks", MIDL 2024, Fig. 2 and section 3; test set of
10^5 signals.
"""

from __future__ import annotations

import numpy as np

from corrsk.evaluation.evaluation import Reference

__all__ = ["PAPER", "PAPER_NOTE", "T1T2_DETR_ACCURACY"]

# Rows are the reference n_c = 1..4, columns the predicted. Binary metrics are by argmax.
PAPER = Reference(
    name="Endt et al., MIDL 2024",
    classes=(1, 2, 3, 4),
    metrics={
        "accuracy": 0.612,
        "precision_macro": 0.60,
        "recall_macro": 0.61,
        "roc_auc_1": 0.98,
        "roc_auc_2": 0.81,
        "roc_auc_3": 0.72,
        "roc_auc_4": 0.86,
        "roc_auc_micro": 0.87,
        "roc_auc_macro": 0.84,
        "binary_argmax_accuracy": 0.941,
        "binary_argmax_precision_single": 0.88,
        "binary_argmax_recall_single": 0.88,
    },
    confusion_matrix=np.array(
        [
            [22061, 2939, 0, 0],
            [2583, 15945, 4540, 1932],
            [339, 8285, 6389, 9987],
            [57, 3343, 4781, 16819],
        ]
    ),
)

PAPER_NOTE = (
    "The results of the paper agree with a noise level of a tenth of the literal reading of its "
    "text: with 1 to 5 % of M0 (`midl2024`) they exceed the estimated ceiling of any classifier on "
    "this protocol; with 0.1 to 0.5 % of M0 (`midl2024-low-noise`) classifiers reach these "
    "results. The results of the paper are shown beside those on any data, but are comparable "
    "with those on `midl2024-low-noise` only."
)

# Count accuracy of the detection transformer in the thesis t1t2-detr (2026, of the same group), by
# SNR; None is the test data of the thesis, whose SNR is uniform in 30..150 (mean of 4 seeds).
T1T2_DETR_ACCURACY: dict[float | None, float] = {
    None: 0.764,
    20: 0.625,
    40: 0.721,
    60: 0.758,
    100: 0.779,
    150: 0.780,
}
