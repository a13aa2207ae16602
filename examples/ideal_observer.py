"""
How good can a classifier get?
==============================

The simulation defines the problem completely, so there is a best possible classifier: Bayes' rule
under the prior. Its accuracy is the ceiling of every other classifier, and what a classifier loses
against it is the regret.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from corrsk import IdealObserverClassifier, load_pretrained, make_correlation_signals
from corrsk.evaluation import Task, accuracy_ceiling, known_ceiling, regret
from corrsk.relaxometry import CountPosterior

NOISE_LEVELS = (0.01, 0.02, 0.03, 0.04, 0.05)
X, n_c = make_correlation_signals(16, noise_level=NOISE_LEVELS, random_state=3)

# %%
# The posterior of each voxel
# ---------------------------
# Sequential Monte Carlo over tissue, fractions, noise level and scale. Few particles and few voxels
# here; ``n_particles=8192, n_runs=8`` is the default. If the runs differ too much in a voxel, its
# result is not trustworthy, and a warning gives the number of such voxels.

warnings.simplefilter("ignore", ConvergenceWarning)  # their number is printed
observer = IdealObserverClassifier(
    "midl2024",
    "ir-se-8x8",
    noise_level=NOISE_LEVELS,
    n_particles=1024,
    n_runs=4,
    random_state=0,
    verbose=False,
).fit(X, n_c)
posterior: CountPosterior = observer.posterior(X)
print("trustworthy:", int(np.sum(posterior.trustworthy)), "of", len(X))

figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
left = np.zeros(len(X))
for label, p in zip(posterior.classes, posterior.probabilities.T, strict=True):
    ax.bar(range(len(X)), p, bottom=left, label=f"n_c = {label}")
    left += p
ax.set(xlabel="true count of the voxel", ylabel="posterior probability")
ax.set(ylim=(0, 1), yticks=(0, 0.25, 0.5, 0.75, 1))
ax.set_xticks(range(len(X)), n_c)
ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
plt.show()

# %%
# Ceiling and regret
# ------------------
# Monte-Carlo errors make the estimate ``upper`` too high and ``cross_fitted`` too low;
# ``corrected`` removes the leading part of the error. On sixteen voxels its interval is wide.

estimate = ["corrected", "corrected_low", "corrected_high"]
ceilings = accuracy_ceiling(posterior.run_log_evidence, posterior.classes, n_c)
print(ceilings[["n", "cross_fitted", "upper", *estimate]].round(3).to_string())
answers = load_pretrained("midl2024").predict(X)
lost = regret(posterior.run_log_evidence, posterior.classes, answers, task=Task.COUNT)
print("regret of the trained network:")
print(lost[["n", "cross_fitted", "upper", *estimate]].round(3).to_string())

# %%
# The record of a thousand voxels comes with corrsk; its first row is for all noise levels.

recorded = known_ceiling("midl2024")
counts = [name for name in recorded if not name.startswith("binary")]
print(recorded[counts].round(3).to_string(index=False))
