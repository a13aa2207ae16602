"""
Calibration, abstention, novelty and class prior
================================================

A classifier answers every signal. Here its probabilities are checked, uncertain answers are left
out, a detector warns of voxels that differ from all simulated ones, and the probabilities are
re-weighted for tissue in which one compartment is the rule.
"""

import textwrap
import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from corrsk import (
    CorrelationSignalGenerator,
    MeasuredSignalWarning,
    SignalNoveltyDetector,
    TissuePrior,
    load_pretrained,
)
from corrsk.evaluation import (
    AccuracyCoverageDisplay,
    ReliabilityDisplay,
    Task,
    abstain,
    accuracy_coverage_curve,
    area_under_risk_coverage,
    calibration_by_noise_level,
    expected_calibration_error,
    multicompartment_probability,
    reliability_table,
    threshold_for_accuracy,
)

NOISE_LEVELS = (0.001, 0.003, 0.005)


def simulate(n_samples, noise_levels, seed):
    """Signals of M0 = 1, their counts and their noise levels."""
    tissue, n_c = TissuePrior.named("midl2024").sample(
        n_samples, random_state=seed, noise_level=noise_levels
    )
    signals = CorrelationSignalGenerator(random_state=seed).fit_transform(tissue)
    return signals, n_c, tissue["noise_level"]


# %%
# Calibration
# -----------
# Of all answers with probability 0.8, about 80 % should be right.

classifier = load_pretrained("midl2024-low-noise")
X, n_c, noise_level = simulate(15_000, NOISE_LEVELS, seed=1)
probabilities = classifier.predict_proba(X)
classes = classifier.classes_
for task in Task:
    error = expected_calibration_error(n_c, probabilities, classes, task=task)
    print(f"calibration error, {task}: {error:.4f}")
print(calibration_by_noise_level(n_c, probabilities, noise_level, classes).round(4).to_string())
print(reliability_table(n_c, probabilities, classes, n_bins=5).round(3).to_string())
several = multicompartment_probability(probabilities, classes)
print(f"P(more than one): mean {several.mean():.3f}, frequency {(n_c > 1).mean():.3f}")

figure, (reliability, coverage) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
ReliabilityDisplay.from_predictions(
    n_c, probabilities, classes=classes, dataset="held-out signals", ax=reliability
)
AccuracyCoverageDisplay.from_predictions(
    n_c, probabilities, classes=classes, dataset="held-out signals", ax=coverage
)
plt.show()

# %%
# Abstention
# ----------
# From which probability on are 80 % of the answers right, and how many signals are answered then?

threshold = threshold_for_accuracy(n_c, probabilities, 0.8, classes)
share, accuracy, _ = accuracy_coverage_curve(n_c, probabilities, classes)
print(f"p >= {threshold:g}: {np.mean(probabilities.max(axis=1) >= threshold):.0%} answered")
print(f"accuracy of the surest tenth: {accuracy[np.searchsorted(share, 0.1)]:.3f}")
print(f"area under risk over coverage: {area_under_risk_coverage(n_c, probabilities, classes):.3f}")

# %%
# Novelty
# -------
# An "image": a third of it as simulated, a third with five times the noise, and a third in which a
# quarter of the measurements lost a part of their signal. The detector is fitted to signals of the
# prior, and gives each voxel a p-value and a reason.

detector = SignalNoveltyDetector(false_alarm_rate=0.01, n_clusters=16, random_state=0)
normalize = classifier[1].transform
detector.fit(normalize(simulate(15_000, NOISE_LEVELS, seed=0)[0]))

shape = (60, 20)
good = simulate(1200, NOISE_LEVELS, seed=2)[0]
noisy = simulate(1200, (0.025,), seed=3)[0]
moved = good.copy()
moved[np.random.default_rng(0).random(moved.shape) < 0.25] *= 0.8
image = np.concatenate([part.reshape(*shape, -1) for part in (good, noisy, moved)], axis=1)
voxels = image.reshape(-1, image.shape[-1])

reasons = detector.explain(normalize(voxels))
print(reasons["reason"].value_counts().to_string())
with warnings.catch_warnings(record=True) as caught:  # of the image as a whole
    warnings.simplefilter("always", MeasuredSignalWarning)
    answers = abstain(classifier.predict_proba(voxels), classes, threshold)
print(textwrap.fill(f"Warning: {caught[0].message}", 90))

figure, (answered, warned) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
colours = ListedColormap(["white", "#4477aa", "#66ccee", "#ccbb44", "#ee6677"])
shown = answered.imshow(answers.reshape(image.shape[:2]), cmap=colours, vmin=-0.5, vmax=4.5)
answered.set_title(f"counts with p ≥ {threshold:g}")
figure.colorbar(shown, ax=answered, ticks=range(5)).ax.set_yticklabels(["?", *"1234"])
p_values = np.log10(reasons["p_value"].to_numpy()).reshape(image.shape[:2])
figure.colorbar(warned.imshow(p_values, cmap="magma"), ax=warned)
warned.set_title("log10 of the p-value")
for ax in (answered, warned):
    ax.set(xticks=[10, 30, 50], yticks=[])
    ax.set_xticklabels(["as simulated", "5 x noise", "artefact"])
plt.show()

# %%
# Class prior
# -----------
# The counts were equally frequent in the training. Where most voxels have one compartment, the
# probabilities are re-weighted.

expected = {1: 0.7, 2: 0.1, 3: 0.1, 4: 0.1}
for name, class_prior in {"25 % each": None, "70 % single": expected}.items():
    p = classifier.predict_proba(good, class_prior=class_prior)
    print(f"mean probability of n_c = 1..4, {name}:", p.mean(axis=0).round(2))
