"""Count compartments with a model that comes with corrsk, without training one.

Writes use_pretrained.csv. The model is told what the signals' columns measure: the
same protocol is accepted in any order, one with a long repetition time with a
note that says what it costs, and another list of inversion times is refused.
"""

import warnings

import numpy as np
import pandas as pd

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    ProtocolMismatchError,
    TissuePrior,
    load_pretrained,
    model_card,
)

MODEL = "midl2024-low-noise"

card = model_card(MODEL)  # print(card) shows all of it
print(f"{card.name}: {card.title}")
print(f"trained by `{card.training['command']}`; its limits:")
for limit in card.limits:
    print("-", limit)

# Yours would be AcquisitionProtocol.from_mat("ti_te_dict.mat") and an array (n, 64) of
# signals. Here a scanner measures in an order of its own, every 20 s.
known = AcquisitionProtocol.named("ir-se-8x8")
shuffled = np.random.default_rng(0).permutation(known.n_measurements)
protocol = AcquisitionProtocol(ti=known.ti[shuffled], te=known.te[shuffled], tr=20_000)

tissue, n_c = TissuePrior.named("midl2024").sample(2000, random_state=0)
scanner = CorrelationSignalGenerator(protocol, noise_level=0.003, random_state=0)
measured = protocol.to_scan_order(scanner.fit_transform(tissue))

with warnings.catch_warnings(record=True) as notes:
    warnings.simplefilter("always")
    model = load_pretrained(MODEL, protocol)
print("\nNote:", notes[0].message)

counts = model.predict(measured)
several = model.predict_proba(measured)[:, 1:].sum(axis=1)
table = pd.crosstab(pd.Series(n_c, name="compartments"), pd.Series(counts, name="answer"))
table["P(more than one)"] = pd.Series(several).groupby(n_c).mean().round(3)
print(f"\nAccuracy {np.mean(counts == n_c):.3f}\n{table.to_string()}")
table.to_csv("use_pretrained.csv")
print("wrote use_pretrained.csv")

# Signals measured at other inversion times would get wrong answers, of which nothing warned.
other = AcquisitionProtocol.from_grid(ti=np.geomspace(30, 2500, 8), te=np.unique(known.te))
try:
    load_pretrained(MODEL, other)
except ProtocolMismatchError as error:
    print("\nRefused:", error)
