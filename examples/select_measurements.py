"""
Which of the 64 measurements matter?
====================================

Each measurement is a feature, so scikit-learn's backward elimination (RFE) drops the least useful
ones in turn. The signals are normalised within its learner: a measurement that is not acquired may
not enter the norm. Some of the protocols on the way are then simulated afresh and judged by a new
training.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import RFE
from sklearn.metrics import check_scoring, log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    SignalNormalizer,
    TissuePrior,
)
from corrsk.evaluation import SCORERS
from corrsk.model_selection import ProtocolSelection, selected_protocol

NOISE_LEVELS = (0.001, 0.002, 0.003, 0.004, 0.005)
STEP = 4
SIZES = (12, 20, 28, 40, 52, 64)

warnings.simplefilter("ignore", ConvergenceWarning)  # a few epochs are enough to compare


# %%
# The importance of a measurement
# -------------------------------


class LossWithout(ClassifierMixin, BaseEstimator):
    """Classifier that computes the importance of each measurement.

    The importance of a measurement is what the log loss on held-out signals grows by
    when its value is guessed from all others by a linear regression.
    """

    def __init__(self, classifier):
        self.classifier = classifier

    def fit(self, X, y):
        """Fit on one half of the signals and judge the measurements on the other."""
        fitted = clone(self.classifier).fit(X[::2], y[::2])
        self.classes_ = fitted.classes_
        X, y = X[1::2].astype(float), y[1::2]
        # all regressions at once: their residuals follow from the inverse of X'X
        inverse = np.linalg.inv(X.T @ X)
        guessed = X - X @ inverse / np.diag(inverse)
        losses = []
        for j in range(X.shape[1]):
            without = X.copy()
            without[:, j] = guessed[:, j]
            losses.append(log_loss(y, fitted.predict_proba(without)))
        self.feature_importances_ = np.array(losses) - log_loss(y, fitted.predict_proba(X))
        return self


# %%
# Elimination
# -----------
# The learner is fast and takes any protocol of at least 12 measurements.

learner = make_pipeline(
    SignalNormalizer(),
    PCA(12, whiten=True),  # leaves out most of the noise
    MLPClassifier((64, 64), batch_size=400, learning_rate_init=5e-3, max_iter=12, random_state=0),
)
protocol = AcquisitionProtocol.named("ir-se-8x8")
tissue, n_c = TissuePrior.named("midl2024").sample(5_000, random_state=0)
X = CorrelationSignalGenerator(protocol, noise_level=NOISE_LEVELS, random_state=0).fit_transform(
    tissue
)
elimination = RFE(LossWithout(learner), n_features_to_select=SIZES[0], step=STEP).fit(X, n_c)
kept: ProtocolSelection = selected_protocol(elimination, protocol)
print("kept to the end:", kept)
print(*kept.protocol.feature_names, sep="\n")

# ranking_ is 1 for those kept to the end, 2 for the last ones dropped, ..
kept_until = SIZES[0] + STEP * (elimination.ranking_ - 1)

# %%
# Judged afresh
# -------------
# Other tissue, other noise, a new training for each protocol.

prior = TissuePrior.named("midl2024")
train, n_c_train = prior.sample(6_000, random_state=1)
test, n_c_test = prior.sample(6_000, random_state=2)
judge = check_scoring(scoring=SCORERS)
table = {}
for size in SIZES:
    pipeline = make_pipeline(
        CorrelationSignalGenerator(
            protocol.subset(kept_until <= size), noise_level=NOISE_LEVELS, random_state=1
        ),
        *clone(learner),
    )
    scores = judge(pipeline.fit(train, n_c_train), test, n_c_test)
    table[size] = {
        "4-class accuracy": scores["accuracy"],
        "binary accuracy": scores["multicompartment_accuracy"],
        "log loss": -scores["neg_log_loss"],
    }
table = pd.DataFrame(table).T.rename_axis("measurements")
print(table.round(3).to_string())

figure = plt.figure(figsize=(11, 4.6), layout="constrained")
curves, grid = figure.subfigures(1, 2, width_ratios=(1, 1.1))
for ax, name in zip(curves.subplots(2, 1, sharex=True), table.columns[:2], strict=True):
    ax.plot(table.index, 100 * table[name], "o-")
    ax.axhline(100 * table[name].iloc[-1] - 1, ls="--", color="grey")
    ax.annotate(
        "one point below all 64",
        (SIZES[-1], 100 * table[name].iloc[-1] - 1),
        xytext=(0, 3), textcoords="offset points", ha="right", color="grey", fontsize=8,
    )  # fmt: skip
    ax.set(ylabel=f"{name} (%)", xticks=SIZES)
ax.set_xlabel("number of measurements")

ax = grid.subplots()
points = ax.scatter(
    protocol.te, protocol.ti, c=kept_until, s=330, marker="s",
    cmap="viridis_r", edgecolor="black", linewidth=0.5,
)  # fmt: skip
for te, ti, size in zip(protocol.te, protocol.ti, kept_until, strict=True):
    colour = "white" if size > 36 else "black"
    ax.annotate(size, (te, ti), ha="center", va="center", fontsize=8, color=colour)
ax.set(xscale="log", yscale="log", xlabel="TE (ms)", ylabel="TI (ms)")
ax.set(title="smallest protocol that a measurement is in")
ax.set_xticks(np.unique(protocol.te), [f"{te:g}" for te in np.unique(protocol.te)], minor=False)
ax.set_yticks(np.unique(protocol.ti), [f"{ti:g}" for ti in np.unique(protocol.ti)])
ax.minorticks_off()
ax.margins(0.08)
grid.colorbar(points, ax=ax, label="number of measurements")
plt.show()
