"""Answer only where it is safe, warn of voxels that nothing explains, and say what is frequent.

A classifier answers whatever it is shown. Here it leaves out what it is unsure of, a
detector warns of voxels that are unlike all simulated ones, and the probabilities are
re-weighted for tissue in which one compartment is the rule. Writes abstain_and_warn.png.
"""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from corrsk import CorrelationCNNClassifier, SignalNoveltyDetector, make_correlation_signals
from corrsk.evaluation import AccuracyCoverageDisplay, abstain, threshold_for_accuracy

NOISE_LEVELS = (0.001, 0.003, 0.005)
ACCURACY = 0.75

X, n_c = make_correlation_signals(40_000, noise_level=NOISE_LEVELS, random_state=0)
X_held_out, n_c_held_out = make_correlation_signals(
    20_000, noise_level=NOISE_LEVELS, random_state=1
)
classifier = CorrelationCNNClassifier(max_epochs=6, random_state=0).fit(X, n_c)
detector = SignalNoveltyDetector(false_alarm_rate=0.01, n_clusters=32, random_state=0).fit(X)

# above which probability are answers right in 75 % of all cases?
probabilities = classifier.predict_proba(X_held_out)
threshold = threshold_for_accuracy(n_c_held_out, probabilities, ACCURACY, classifier.classes_)
print(f"answers of p >= {threshold:g} are {ACCURACY:.0%} accurate")

# an "image": a third of it as simulated, a third with five times the noise, and a third
# in which a quarter of the measurements lost a part of their signal
rng = np.random.default_rng(0)
shape = (60, 20)
good, n_c_good = make_correlation_signals(1200, noise_level=NOISE_LEVELS, norm=None, random_state=2)
noisy, _ = make_correlation_signals(1200, noise_level=0.025, norm=None, random_state=3)
moved = good.copy()
moved[rng.random(moved.shape) < 0.25] *= 0.8
image = np.concatenate([part.reshape(*shape, -1) for part in (good, noisy, moved)], axis=1)
voxels = image.reshape(-1, image.shape[-1])
voxels = voxels / np.linalg.norm(voxels, axis=1, keepdims=True)

probabilities = classifier.predict_proba(voxels)
answers = abstain(probabilities, classifier.classes_, threshold)
warnings = detector.explain(voxels)
print(warnings["reason"].value_counts().to_string())

# most voxels of this tissue have one compartment; in the training each count had 25 %
expected = {1: 0.7, 2: 0.1, 3: 0.1, 4: 0.1}
reweighted = classifier.predict_proba(voxels, class_prior=expected)
for name, p in {"25 % each": probabilities, "70 % single": reweighted}.items():
    print(f"mean probability of n_c = 1..4, {name}:", p.mean(axis=0).round(2))

figure = Figure(figsize=(12, 4.2), layout="constrained")
curve, answered, warned = figure.subplots(1, 3)
AccuracyCoverageDisplay.from_estimator(
    classifier, X_held_out, n_c_held_out, dataset="held-out signals", ax=curve
)
colours = ListedColormap(["white", "#4477aa", "#66ccee", "#ccbb44", "#ee6677"])
answers_shown = answered.imshow(answers.reshape(image.shape[:2]), cmap=colours, vmin=-0.5, vmax=4.5)
answered.set_title(f"answers of p ≥ {threshold:g}")
figure.colorbar(answers_shown, ax=answered, ticks=range(5)).ax.set_yticklabels(["?", *"1234"])
odd = np.log10(warnings["p_value"].to_numpy()).reshape(image.shape[:2])
warnings_shown = warned.imshow(odd, cmap="magma")
warned.set_title("how usual: log10 of the p-value")
figure.colorbar(warnings_shown, ax=warned)
for ax in (answered, warned):
    ax.set(xticks=[10, 30, 50], yticks=[])
    ax.set_xticklabels(["as simulated", "5 x noise", "artefact"])
figure.savefig("abstain_and_warn.png", dpi=120)
print("wrote abstain_and_warn.png")
