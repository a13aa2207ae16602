"""
Data sets, streams and files
============================

The simulated data sets by name, one of your own with the same split, a stream of fresh signals,
and files that the published code reads.
"""

import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np

from corrsk import SignalStream, load_dataset, make_correlation_signals
from corrsk.acquisition import resolve_protocol
from corrsk.simulation import (
    DATASETS,
    DatasetDefinition,
    dataset_definition,
    read_dataset_mat,
    resolve_dataset,
    simulate_dataset,
    write_dataset,
)
from corrsk.tissue import Lobe, LobePrior, PropertyRange, resolve_prior

# %%
# By name
# -------
# ``load_dataset`` gives the paper's split: 70 % training, 20 % validation, 10 % test signals, with
# counts and noise levels equally frequent in each.

for name, definition in DATASETS.items():
    print(textwrap.fill(f"{name}: {definition.description}", 90, subsequent_indent="    "))
data = load_dataset("midl2024-low-noise", n_samples=20_000)
for part in ("train", "validation", "test"):
    rows = data[f"{part}_indices"]
    print(f"{part}: {len(rows)} signals, counts {np.bincount(data.target[rows])[1:]}")

# %%
# One of your own
# ---------------
# A definition is a prior, a protocol and noise; each may be a name or an object.

published: DatasetDefinition = dataset_definition("midl2024")
prior = resolve_prior(published.prior)
for name, values in prior.ranges.items():
    print(name, values)
print(resolve_protocol(published.protocol))
own = replace(published, name="half-noise", noise_levels=(0.005, 0.01, 0.02))
data = simulate_dataset(own, 5_000, random_state=0)
for name in ("data", "target", "noise_level"):
    print(f"{name}: {data[name].shape}")

# %%
# Compartments with a single T2 are a simplification. A prior of lobes has continuous distributions;
# its tissue tables hold their nodes, and ``lobes_of`` gives fractions, means and widths.

myelin = Lobe("myelin", PropertyRange(15, 35), PropertyRange(1, 3), fraction=(0.05, 0.25))
cells = Lobe("cells", PropertyRange(60, 90), PropertyRange(6, 12))
white_matter = replace(
    dataset_definition("canales2021"), name="perfect-pulses", prior=LobePrior((myelin, cells))
)
lobes = simulate_dataset(white_matter, 1_000, random_state=0)
print(white_matter.prior.lobes_of(lobes.tissue).head(3).round(2).to_string())

# %%
# In a file, as YAML or JSON, a definition serves every command: ``corrsk compare --config
# knee.yaml``. Wrong entries are errors that list the right ones.

KNEE = """\
prior:
  ranges:
    T1: {low: 200, high: 2000, scale: log}
    T2: {low: 5, high: 100, scale: log}
  n_compartments: [1, 2]
protocol:
  grid: {TI: [50, 200, 800, 2000], TE: [5, 15, 40, 90]}
  tr: 8000
noise: {snr: [50, 200], reference: max, distribution: rician}
inversion_efficiency: 0.95
"""

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "knee.yaml"
    path.write_text(KNEE)
    knee = DatasetDefinition.from_file(path)
    path.write_text(KNEE.replace("reference", "refernce"))
    try:
        DatasetDefinition.from_file(path)
    except ValueError as error:
        print(error)
print(resolve_dataset(knee).name, knee.to_dict()["noise"])
print(simulate_dataset(knee, 1_000, random_state=0).data.shape)
stream_of_knee = SignalStream.from_definition(knee, random_state=0)

# %%
# Signals without a split
# -----------------------

X, n_c, noise_level, tissue = make_correlation_signals(1_000, random_state=0, return_tissue=True)
print("signals:", X.shape, "each count:", np.bincount(n_c)[1:])
print("noise levels:", np.unique(noise_level))
print("tissue:", *tissue.columns)

# %%
# Fresh signals without end
# -------------------------
# A chunk is determined by the seed and its number: networks train on a stream without storing it.

stream = SignalStream.named("midl2024", random_state=0)
X, n_c = stream.draw(0, 2_000)
again, _ = stream.draw(0, 2_000)
print("reproducible:", np.array_equal(X, again))

# %%
# Files
# -----
# The suffix selects the format; ``.mat`` has the layout of the published code.

with tempfile.TemporaryDirectory() as folder:
    for suffix in (".npz", ".mat"):
        path = Path(folder) / f"signals{suffix}"
        write_dataset(data, path)
        print(path.name, f"{path.stat().st_size / 1e6:.2f} MB")
    stored = read_dataset_mat(Path(folder) / "signals.mat")
print("from .mat:", stored.data.shape, "of grid", stored.grid_shape)
