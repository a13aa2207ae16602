"""Fit the CNN in a Pipeline on simulated tissue, judge it, apply it to measured signals.

Writes fit_and_judge.png. The numbers are those of a small training, one that
ends within a minute; `corrsk reproduce` runs the experiment at the paper's size.
"""

from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from corrsk import (
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    SignalNormalizer,
    TissuePrior,
)
from corrsk.evaluation import AccuracyOverNoiseDisplay, CountRocDisplay, evaluate

N_SAMPLES = 40_000
NOISE_LEVELS = (0.001, 0.002, 0.003, 0.004, 0.005)

# with its noise level in the table, every voxel can be judged by it afterwards
tissue, n_c = TissuePrior.named("midl2024").sample(
    N_SAMPLES, random_state=0, noise_level=NOISE_LEVELS
)
train, test, n_c_train, n_c_test = train_test_split(
    tissue, n_c, test_size=0.2, stratify=n_c, random_state=0
)

pipeline = make_pipeline(
    CorrelationSignalGenerator(protocol="ir-se-8x8", random_state=0),
    SignalNormalizer(),
    CorrelationCNNClassifier(max_epochs=8, random_state=0),
)
pipeline.fit(train, n_c_train)

probabilities = pipeline.predict_proba(test)
judgement = evaluate(
    n_c_test, probabilities, noise_level=test["noise_level"], dataset="low noise, small training"
)
print(judgement.to_frame().dropna().round(3).to_string())

figure = Figure(figsize=(11, 5), layout="constrained")
roc, noise = figure.subplots(1, 2)
CountRocDisplay.from_predictions(n_c_test, probabilities, dataset=judgement.dataset, ax=roc)
AccuracyOverNoiseDisplay(judgement).plot(ax=noise)
figure.savefig("fit_and_judge.png", dpi=120)
print("wrote fit_and_judge.png")

# On measured signals the fitted steps after the generator are used. Here they are
# simulated; yours would be an array (n, 64), brought to grid order by the protocol:
# measured = AcquisitionProtocol.from_mat("ti_te_dict.mat").to_grid(signals_in_scanner_order)
measured = pipeline[:1].transform(test[:5])
print(
    "P(more than one compartment):",
    pipeline[1:].predict_proba(measured)[:, 1:].sum(axis=1).round(2),
)
