"""
Count compartments with a trained model
=======================================

Four networks come with corrsk. The model is loaded with the protocol of your signals: the same
protocol is accepted in any order, a close one (here with a long repetition time) with a warning
that measures its cost, and other inversion times are refused.
"""

import tempfile
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    NoSignalWarning,
    ProtocolAligner,
    ProtocolMismatchError,
    ProtocolWarning,
    SignalPipeline,
    SimulationTrainedClassifier,
    TissuePrior,
    compare_protocols,
    load_pretrained,
    model_card,
    predict_multicompartment_proba,
    pretrained_names,
    to_onnx,
)
from corrsk.acquisition import ProtocolComparison, protocol_of_columns
from corrsk.pretrained import ModelCard, write_pretrained
from corrsk.simulation import dataset_definition

# %%
# The models and their cards
# --------------------------
# ``print(card)`` shows the whole card.

print("available:", *pretrained_names())
MODEL = "midl2024-low-noise"
card: ModelCard = model_card(MODEL)
print(f"{card.name}: {card.title}")
print(f"trained by `{card.training['command']}`; its limits:")
for limit in card.limits:
    print(textwrap.fill(limit, 90, initial_indent="- ", subsequent_indent="  "))

# %%
# Signals of a scanner
# --------------------
# Yours would be ``AcquisitionProtocol.from_mat("ti_te_dict.mat")`` and an array of shape
# (n_samples, 64). Here a scanner measures in an order of its own, every 20 s.

trained = AcquisitionProtocol.named("ir-se-8x8")
shuffled = np.random.default_rng(0).permutation(trained.n_measurements)
protocol = AcquisitionProtocol(ti=trained.ti[shuffled], te=trained.te[shuffled], tr=20_000)

tissue, n_c = TissuePrior.named("midl2024").sample(2000, random_state=0)
scanner = CorrelationSignalGenerator(protocol, noise_level=0.003, random_state=0)
measured = scanner.fit_transform(tissue)  # columns in the order of the protocol

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", ProtocolWarning)
    model = load_pretrained(MODEL, protocol)
print(textwrap.fill(f"Warning: {caught[0].message}", 90))

# %%
# The counts
# ----------

counts = model.predict(measured)
several = model.predict_proba(measured)[:, 1:].sum(axis=1)
table = pd.crosstab(pd.Series(n_c, name="compartments"), pd.Series(counts, name="predicted"))
table["P(more than one)"] = pd.Series(several).groupby(n_c).mean().round(3)
print(f"accuracy {np.mean(counts == n_c):.3f}\n{table.to_string()}")

# %%
# A volume
# --------
# An array whose last axis has the measurements gives maps. Voxels without signal, all zero or with
# NaN, have no probability; their label is 0.

volume = measured[:800].reshape(10, 20, 4, 64).copy()
volume[0] = 0  # background
volume[1, 0, 0] = np.nan  # a voxel outside of the field of view
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", NoSignalWarning)
    count_map = model.predict(volume)
    several_map = model.predict_multicompartment_proba(volume)
print("Warning:", caught[0].message)
print("maps", count_map.shape, several_map.shape, "of the counts", np.unique(count_map))

# %%
# The classifier alone, or any other, needs the function of the same name. Steps fitted behind a
# generator become a pipeline for measured voxels.

own_steps = SignalPipeline(model[1:].steps)
aligned = protocol.to_grid(measured)
rows = predict_multicompartment_proba(own_steps, aligned)
bright = ~np.isnan(several_map.ravel())
difference = np.abs(rows[:800] - several_map.ravel())[bright].max()
print(f"largest difference of a probability: {difference:.0e}")

# %%
# Another protocol
# ----------------
# Predictions for signals of other inversion times would be wrong without any sign of it, so such a
# protocol is refused.

other = AcquisitionProtocol.from_grid(ti=np.geomspace(30, 2500, 8), te=np.unique(trained.te))
try:
    load_pretrained(MODEL, other)
except ProtocolMismatchError as error:
    print(textwrap.fill(f"Refused: {error}", 90))
comparison: ProtocolComparison = compare_protocols(trained, other, noise_level=0.003)
print(f"{comparison.verdict}: {comparison.typical_difference:.1f} standard deviations of the noise")

# %%
# Columns by name
# ---------------
# The first step of the model brings columns into the order of the trained protocol. A DataFrame
# whose columns are named such as ``TI50_TE4.5`` or ``TI=50 ms, TE=4.5 ms`` needs no protocol. An
# array without a protocol is taken for signals of the trained protocol, in its order.

named = pd.DataFrame(measured, columns=protocol.feature_names)
print("columns describe the grid:", protocol_of_columns(named.columns).in_grid_order().grid_shape)
aligner = ProtocolAligner(trained).fit(np.ones((1, trained.n_measurements)))
print("equal:", np.array_equal(aligner.transform(named), protocol.to_grid(measured)))

# %%
# A model of your own
# -------------------
# The next example trains one. ``corrsk pretrain`` does so from the shell and writes its card. From
# Python, ``from_network`` makes a model of a network that was fitted before, and
# ``write_pretrained`` writes both files.

own = SimulationTrainedClassifier.from_network(dataset_definition(MODEL), model[-1])
with tempfile.TemporaryDirectory() as folder:
    print("wrote", write_pretrained(own, card, folder).name)
    print("read", type(load_pretrained(MODEL, folder=folder)[-1]).__name__)

# %%
# Without torch
# -------------
# The whole pipeline, from measured columns to probabilities, as an ONNX file for other runtimes.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.onnx"
    try:
        to_onnx(model, path)
        print(f"wrote {path.name}, {path.stat().st_size / 1e6:.1f} MB")
    except ImportError as error:
        print(error)
