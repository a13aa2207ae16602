"""
Which compartments
==================

How many compartments a voxel has is the first answer. :class:`corrsk.CompartmentRegressor` gives
the posterior of their number, T1, T2 and fractions: the most probable compartments, intervals,
draws, densities and expected spectra, each with what the signal leaves open.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from corrsk import CompartmentPosterior, CompartmentRegressor, SignalStream
from corrsk.evaluation import CompartmentPosteriorDisplay, compartments_right
from corrsk.simulation import dataset_definition
from corrsk.trained import CompartmentModes

# %%
# Train
# -----
# A network proposes compartments, and the likelihood of the signal weights the proposals. The
# training needs no data. These 60,000 signals take some seconds; with few of them the network
# proposes less well, and more draws have little weight. Ten million, the default, take a quarter of
# an hour on two cores.
definition = dataset_definition("t1t2-detr")
model = CompartmentRegressor.from_definition(
    definition, n_samples=60_000, n_validation=1000, max_epochs=10, batch_size=500, width=128,
    n_draws=512, novelty=False, random_state=0, verbose=False,
).fit()  # fmt: skip

# %%
# Predict
# -------
# The table has the compartments of the smallest expected loss: here, as many voxels as possible
# with the right number of compartments, all of them within 7 % of the logarithmic ranges.
# `confidence` is the probability that this is so.
stream = SignalStream.from_definition(definition, random_state=7)
signals, rows = stream.draw_rows(0, 60)
truth = rows.table
table = model.predict(signals)
print(table.head(4).round(2).to_string())
limits = {"T1": (50, 3500), "T2": (5, 500)}
right = compartments_right(table, truth, limits)
print(f"all compartments right: {right.mean():.0%}, expected {table['confidence'].mean():.0%}")

# %%
# Other losses give other answers: "median" the most probable number and the medians, "w1" the
# compartments whose distribution is nearest to the true one.
for loss in ("strict", "median", "w1"):
    found = model.predict(signals[:20], loss)
    print(f"{loss:>7}: {compartments_right(found, truth[:20], limits).mean():.0%} right")

# %%
# Without draws the compartments are those of the modes of the posterior: some twenty times as fast,
# with the same compartments in most voxels, and without intervals.
modes: CompartmentModes = model.modes(signals)
quick = modes.table()
print(f"modes: {compartments_right(quick, truth, limits).mean():.0%} right, the same number in "
      f"{(quick['n_c'] == table['n_c']).mean():.0%} of the voxels")  # fmt: skip

# %%
# How sure
# --------
# Intervals hold the truth with their probability. A flag marks voxels whose signal hardly
# determines a compartment.
lower, upper = model.predict_interval(signals, coverage=0.9)
one = (rows.n_c == 1) & (lower["n_c"] == 1)
inside = (lower["T2_1"] <= truth["T2_1"]) & (truth["T2_1"] <= upper["T2_1"])
print(f"T2 of single compartments within 90 % intervals: {inside[one].mean():.0%} of {one.sum()}")
posterior: CompartmentPosterior = model.posterior(signals)
print(f"hardly determined: {posterior.degenerate.mean():.0%}, reliable draws: "
      f"{posterior.reliable.mean():.0%}")  # fmt: skip

# %%
# The table is one answer. Candidates are all compartments that a voxel may have, each with its
# probability, so that the threshold can be chosen later.
candidates = posterior.candidates()
names = [column for column in candidates if column.startswith("confidence_")]
for threshold in (0.5, 0.1):
    print(
        f"compartments above {threshold}: {(candidates[names] >= threshold).sum(axis=1).mean():.2f}"
    )

# %%
# Draws of two voxels: the left one is well determined, the right one is not. Crosses are the truth.
sure = int(np.argmax(table["confidence"].where(rows.n_c == 2, 0)))
unsure = int(np.argmax(posterior.degenerate))
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, voxel in zip(axes, (sure, unsure), strict=True):
    CompartmentPosteriorDisplay.from_estimator(
        model, signals[voxel], truth=truth[voxel : voxel + 1], ax=ax
    )
plt.show()

# %%
# The fraction of signal with a short T2, with its interval. Draws as a table go into whatever else
# follows, here its standard deviation.
windows = {"short": {"T2": (0, 40)}}
print(model.posterior(signals[:3]).window_fractions(windows, coverage=0.9).round(3))
draws = model.sample_posterior(signals[:3], n_samples=256, random_state=0)
names = [1, 2, 3]
short = sum(draws[f"f_{k}"].where(draws[f"T2_{k}"] < 40, 0) for k in names)
print(short.groupby(np.arange(len(draws)) // 256).std().round(3).tolist())

# %%
# Spectra and densities
# ---------------------
# The expected spectrum needs no penalty: the prior is that of the training.
grid = {"T1": np.geomspace(50, 3500, 32), "T2": np.geomspace(5, 500, 32)}
spectrum = model.predict_spectrum(signals[unsure : unsure + 1], grid)[0]
figure, ax = plt.subplots(figsize=(4.4, 3.8), layout="constrained")
ax.pcolormesh(grid["T1"], grid["T2"], spectrum.T, cmap="Greys")
ax.set(xscale="log", yscale="log", xlabel="T1 (ms)", ylabel="T2 (ms)")
plt.show()

# %%
# The spectrum of one property alone can be sharper: :meth:`~corrsk.CompartmentPosterior.marginal`
# has the smallest expected Wasserstein distance to the truth.
t2 = grid["T2"]
median = posterior.take(slice(unsure, unsure + 1)).marginal("T2", t2)[0]
figure, ax = plt.subplots(figsize=(4.4, 3), layout="constrained")
ax.step(t2, spectrum.sum(axis=0) / spectrum.sum(), where="mid", label="mean of the posterior")
ax.step(t2, median, where="mid", label="smallest expected distance")
ax.set(xscale="log", xlabel="T2 (ms)", ylabel="fraction of the signal")
ax.legend(loc="upper left")
plt.show()

# %%
# The log density of the true compartments is what compares models; its mean is the score.
print("log density of the first voxels:", model.log_prob(signals[:4], truth[:4]).round(1))
print(f"score: {model.score(signals, truth):.2f}")
counts = pd.Series(model.predict_proba(signals).argmax(axis=1) + 1)
print(pd.crosstab(rows.n_c, counts, rownames=["n_c"], colnames=["predicted"]))
