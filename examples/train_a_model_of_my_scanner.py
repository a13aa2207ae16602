"""
Train a model of my scanner
===========================

A model for signals of your own protocol needs no data to train on: it is fitted to simulated
signals. One object holds protocol, tissue, noise, network and novelty detector, takes signals as
the scanner gives them, and refuses or warns where they are not what it was made for. The trainings
here are shortened to seconds; the defaults take some minutes.
"""

import tempfile
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    MeasuredSignalWarning,
    NoSignalWarning,
    PropertyRange,
    ProtocolMismatchError,
    ResidualMLPClassifier,
    SignalNoveltyDetector,
    SimulationTrainedClassifier,
    SNRRange,
    TissuePrior,
    load,
    save,
)

# %%
# Protocol, tissue and noise
# --------------------------
# The protocol may also be read from a file; the noise is a range of signal-to-noise ratios, here of
# the largest signal of a voxel.

protocol = AcquisitionProtocol.from_grid(
    ti=[40, 120, 350, 900, 2200], te=[8, 20, 45, 90, 160], tr=6000
)
prior = TissuePrior(
    n_compartments=(1, 2, 3),
    ranges={
        "T1": PropertyRange(150, 4000, scale="log"),
        "T2": PropertyRange(10, 1000, scale="log"),
    },
    t2_below_t1=True,
)
model = SimulationTrainedClassifier(
    protocol,
    prior,
    noise_level=SNRRange(50, 200),
    noise_reference="max",
    n_samples=80_000,  # default: 10 million, a few minutes
    network=ResidualMLPClassifier(width=48, n_blocks=1, max_epochs=8, batch_size=1000),
    novelty=SignalNoveltyDetector(n_clusters=8),  # default: 64 clusters
    random_state=0,
)

# %%
# Training
# --------
# Interrupted with Ctrl-C, the same call resumes the training from the checkpoint.

with tempfile.TemporaryDirectory() as folder:
    model.set_params(checkpoint=Path(folder) / "mine.checkpoint").fit()
model.set_params(checkpoint=None)
print("trained to count", model.classes_, "compartments")

# %%
# Measured signals
# ----------------
# A scanner has its own units and order. Here its signals are simulated, of the same tissue: 1200
# units for M0 = 1, columns in random order.

tissue, n_c = prior.sample(2000, random_state=1)
generator = CorrelationSignalGenerator(protocol, SNRRange(50, 200), "max", random_state=1)
signals = 1200 * generator.fit_transform(tissue)
shuffled = np.random.default_rng(0).permutation(protocol.n_measurements)
measured = pd.DataFrame(signals, columns=protocol.feature_names).iloc[:, shuffled]
scanned = AcquisitionProtocol(ti=protocol.ti[shuffled], te=protocol.te[shuffled], tr=protocol.tr)

counts = model.predict(measured)  # columns by name
same = np.array_equal(counts, model.predict(measured.to_numpy(), protocol=scanned))
print(f"accuracy {np.mean(counts == n_c):.2f}; the same with the protocol of the columns: {same}")

# %%
# A volume gives maps: 0 compartments and no probability where there is no signal.

volume = signals[:1600].reshape(8, 20, 10, 25).copy()
volume[0] = 0  # background
with warnings.catch_warnings():
    warnings.simplefilter("ignore", NoSignalWarning)
    count_map = model.predict(volume)
    several = model.predict_multicompartment_proba(volume)
    # in this organ, one compartment is the rule
    usual = model.predict_proba(volume, class_prior={1: 0.8, 2: 0.15, 3: 0.05})
print("maps", count_map.shape, several.shape, usual.shape, "counts", np.unique(count_map))
print(f"mean P(more than one) {np.nanmean(several):.2f}, with the prior of the organ "
      f"{1 - np.nanmean(usual[..., 0]):.2f}")  # fmt: skip

# %%
# What the model was not made for
# -------------------------------
# Another protocol is refused, here another TR.

fast = AcquisitionProtocol(protocol.contrasts, tr=2500)
try:
    model.predict(signals, protocol=fast)
except ProtocolMismatchError as error:
    print(textwrap.fill(f"Refused: {error}", 90))

# %%
# A batch that cannot be right is answered, but with a warning before: magnitude images, noise
# outside of the range of the training, signals of other tissue or with artefacts.

generator.set_params(noise_level=0.1)
artefact = signals.copy()
artefact[:, 7] *= 0.5
for what, batch in {
    "magnitudes": np.abs(signals),
    "noise of 10 %": generator.fit_transform(tissue),
    "one measurement halved": artefact,
}.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MeasuredSignalWarning)
        model.predict(batch)
    message = caught[0].message if caught else "none"
    print(textwrap.fill(f"Warning of {what}: {message}", 90))

# %%
# Single voxels have a p-value: the probability that a simulated signal is as unusual.

mixed = np.vstack([signals[:3], artefact[:3]])
print("p-values", model.predict_novelty(mixed).round(3))

# %%
# Search
# ------
# The parameters of the simulation are parameters of a search, which scores with signals of known
# counts. They are not trained on.

short = model.network.set_params(max_epochs=2)
search = GridSearchCV(
    model.set_params(n_samples=10_000, n_validation=500, network=short, novelty=False),
    {"noise_level": [SNRRange(50, 200), SNRRange(2, 5)]},
    cv=2,
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", MeasuredSignalWarning)  # of the candidate that does not fit
    best = search.fit(signals, n_c).best_params_["noise_level"]
print("the better range of the training:", best)

# %%
# One file
# --------

with tempfile.TemporaryDirectory() as folder:
    save(model, Path(folder) / "mine.safetensors")
    loaded = load(Path(folder) / "mine.safetensors")
print(f"the loaded model gives the same map: {np.array_equal(loaded.predict(signals), counts)}")
