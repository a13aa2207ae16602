"""
Count compartments with a trained model
=======================================

Three networks come with corrsk. The model is loaded with the protocol of your signals: the same
protocol is accepted in any order, a close one (here with a long repetition time) with a warning
that measures its cost, and other inversion times are refused.
"""

import tempfile
import textwrap
import warnings

import numpy as np
import pandas as pd

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    ProtocolAligner,
    ProtocolMismatchError,
    ProtocolWarning,
    TissuePrior,
    compare_protocols,
    load_pretrained,
    model_card,
    pretrained_names,
)
from corrsk.acquisition import ProtocolComparison, protocol_of_columns
from corrsk.pretrained import ModelCard, pretrained_pipeline, write_pretrained
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
# whose columns are named such as ``TI50_TE4.5`` or ``TI=50 ms, TE=4.5 ms`` needs no protocol.

named = pd.DataFrame(measured, columns=protocol.feature_names)
print("columns describe the grid:", protocol_of_columns(named.columns).in_grid_order().grid_shape)
aligner = ProtocolAligner(trained).fit(np.ones((1, trained.n_measurements)))
print("equal:", np.array_equal(aligner.transform(named), protocol.to_grid(measured)))

# %%
# A model of your own
# -------------------
# ``corrsk pretrain`` trains a model and writes its card. From Python, ``pretrained_pipeline`` puts
# a fitted network behind the two steps of a data set (aligner and normaliser), and
# ``write_pretrained`` writes both files.

own = pretrained_pipeline(dataset_definition(MODEL), model[-1])
with tempfile.TemporaryDirectory() as folder:
    print("wrote", write_pretrained(own, card, folder).name)
    print("read", type(load_pretrained(MODEL, folder=folder)[-1]).__name__)
