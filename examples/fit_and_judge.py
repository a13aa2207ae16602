"""
Fit the CNN in a Pipeline and judge it
======================================

Simulate tissue, train the paper's network, compute the figures of merit of both questions (how
many compartments? more than one?), beside those of the paper, and save the model. ``corrsk
reproduce`` runs the experiment at the paper's size.
"""

import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

import corrsk
from corrsk import (
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    SignalNormalizer,
    TissuePrior,
)
from corrsk.evaluation import (
    AccuracyOverNoiseDisplay,
    CountRocDisplay,
    Evaluation,
    LossCurveDisplay,
    Reference,
    evaluate,
    plot_confusion_matrices,
    results_table,
)
from corrsk.workflows.paper import PAPER, PAPER_NOTE

# %%
# Tissue
# ------
# With its noise level in the table, every voxel can be judged by it afterwards.

tissue, n_c = TissuePrior.named("midl2024").sample(
    30_000, random_state=0, noise_level=(0.001, 0.002, 0.003, 0.004, 0.005)
)
train, test, n_c_train, n_c_test = train_test_split(
    tissue, n_c, test_size=0.2, stratify=n_c, random_state=0
)

# %%
# Training
# --------
# The pipeline simulates, normalises and classifies. The steps hand on arrays, so that the CNN needs
# the protocol as well.

pipeline = make_pipeline(
    CorrelationSignalGenerator(protocol="ir-se-8x8", random_state=0),
    SignalNormalizer(),
    CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=6, random_state=0),
)
pipeline.fit(train, n_c_train)
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
LossCurveDisplay.from_estimator(pipeline[-1], dataset="low noise, small training", ax=ax)
plt.show()

# %%
# Figures of merit
# ----------------
# A reference puts published results beside one's own. The paper trained on 700,000 signals.

probabilities = pipeline.predict_proba(test)
evaluation: Evaluation = evaluate(
    n_c_test, probabilities, noise_level=test["noise_level"], dataset="low noise, small training"
)
paper: Reference = PAPER
print(results_table(evaluation, paper).to_string())
print(textwrap.fill(PAPER_NOTE, 90))

# %%
figure, (roc, noise) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
CountRocDisplay.from_predictions(n_c_test, probabilities, dataset=evaluation.dataset, ax=roc)
AccuracyOverNoiseDisplay(evaluation).plot(ax=noise)
plt.show()

# %%
# The confusion matrices, those of the paper below, are a figure of their own.

matrices = plot_confusion_matrices(evaluation, reference=paper)
matrices

# %%
# Save, load, and apply to measured signals
# -----------------------------------------
# The file is in the safetensors format, without pickle. On measured signals the fitted steps after
# the generator are used. Here the signals are simulated; yours would be an array of shape
# (n_samples, 64) in the order of the generator's protocol. Of signals in scanner order
# ``AcquisitionProtocol.from_mat("ti_te_dict.mat").to_grid(signals)`` has the order of "ir-se-8x8".

measured = pipeline[:1].transform(test[:5])
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.safetensors"
    corrsk.save(pipeline, path)
    loaded = corrsk.load(path)
    # a damaged file is refused: its digests are those of the parts that were saved
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    try:
        corrsk.load(path)
    except corrsk.InvalidFileError as error:
        print(str(error).replace(str(path), path.name))
print("corrsk", corrsk.__version__, type(loaded[-1]).__name__)
several = loaded[1:].predict_proba(measured)[:, 1:].sum(axis=1)
print("P(more than one compartment):", several.round(2))
print("true:", np.asarray(n_c_test[:5]))
