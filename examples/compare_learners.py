"""
Is a network needed? Classical learners and tests
=================================================

Classical learners as ready pipelines on the same signals, with confidence intervals and McNemar's
test, and the scorers of the question "more than one compartment?".
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import brier_score_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier

from corrsk import make_correlation_signals
from corrsk.baselines import (
    BASELINES,
    Baseline,
    EncodedLabelsClassifier,
    ScaledBatchClassifier,
    available_baselines,
    make_baseline,
)
from corrsk.evaluation import (
    SCORERS,
    McNemarResult,
    MulticompartmentScorer,
    bootstrap_difference,
    bootstrap_interval,
    mcnemar_test,
    multicompartment_accuracy,
    multicompartment_balanced_accuracy,
    multicompartment_neg_log_loss,
    multicompartment_roc_auc,
)

# %%
# The learners
# ------------
# Each normalises the signals and has settings that suit tens of measurements. LightGBM and XGBoost
# need ``pip install "corrsk[boosting]"``.

for name in available_baselines():
    baseline: Baseline = BASELINES[name]
    print(f"{name:24}{baseline.description}")

# %%
# The same signals for all
# ------------------------

noise = {"noise_level": (0.001, 0.003, 0.005)}
X, n_c = make_correlation_signals(4_000, random_state=0, **noise)
X_test, n_c_test = make_correlation_signals(4_000, random_state=1, **noise)
models = {
    name: make_baseline(name, random_state=0) for name in ("logistic", "qda", "extra-trees", "mlp")
}
# any classifier takes part: an MLP whose batch grows with the number of signals ..
models["mlp, scaled batch"] = ScaledBatchClassifier(
    MLPClassifier(learning_rate_init=0.01, max_iter=40, random_state=0)
)
# .. and a learner that is given the labels 0, 1, .. in place of the counts
models["nearest neighbours"] = EncodedLabelsClassifier(KNeighborsClassifier(10))
correct = {name: model.fit(X, n_c).predict(X_test) == n_c_test for name, model in models.items()}

names = sorted(correct, key=lambda name: correct[name].mean())
intervals = np.array([bootstrap_interval([correct[name]], n_resamples=1000) for name in names])
means = np.array([correct[name].mean() for name in names])
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.errorbar(100 * means, names, xerr=100 * np.abs(intervals.T - means), fmt="o", capsize=4)
ax.set(xlabel="4-class accuracy (%), 95 % interval")
plt.show()

# %%
# Is a difference real?
# ---------------------
# Both models answered the same signals, so the test is paired.

first, second = correct["mlp"], correct["extra-trees"]
test: McNemarResult = mcnemar_test(first, second)
difference, low, high = bootstrap_difference([(first, second)], n_resamples=1000)
interval = f"{100 * difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
print(f"{interval}, p = {test.p_value:.2g}")

# %%
# Scores of the question "more than one?"
# ---------------------------------------
# Each scorer takes (estimator, X, y), as searches and ``cross_validate`` need it. ``SCORERS`` has
# these scorers and those of the counts.

print(*SCORERS, sep="\n")
model = models["mlp"]
for scorer in (
    multicompartment_accuracy,
    multicompartment_balanced_accuracy,
    multicompartment_roc_auc,
    multicompartment_neg_log_loss,
):
    print(f"{scorer}: {scorer(model, X_test, n_c_test):.3f}")
brier = MulticompartmentScorer("brier", lambda y, p, weight: brier_score_loss(y, p))
print(f"one of your own, {brier}: {brier(model, X_test, n_c_test):.3f}")
