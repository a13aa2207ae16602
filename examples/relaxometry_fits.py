"""
Multi-exponential fits and T1-T2 spectra
========================================

Model-based counting of compartments, without training: fits of 1 to 3 compartments chosen by an
information criterion, and the peaks of a regularised non-negative spectrum.
"""

import matplotlib.pyplot as plt
import numpy as np

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    PropertyRange,
    TissuePrior,
)
from corrsk.evaluation import compartment_metrics, compartments_right

protocol = AcquisitionProtocol.named("ir-se-8x8")
prior = TissuePrior(
    ranges={
        "T1": PropertyRange(300, 3000, scale="log"),
        "T2": PropertyRange(15, 300, scale="log"),
    },
    n_compartments=(1, 2),
    min_fraction=0.2,
)
tissue, n_c = prior.sample(60, random_state=0)
signals = CorrelationSignalGenerator(protocol, noise_level=0.002, random_state=0).fit_transform(
    tissue
)

# %%
# Both methods are classifiers. ``fit`` checks the signals and learns nothing, so that ``counts``
# replaces labels. ``bounds`` takes the ranges of the prior; by default the bounds are what the
# protocol resolves.

counts = (1, 2)
fits = MultiExponentialClassifier(
    protocol, bounds=prior, criterion="bic", counts=counts, random_state=0
).fit(signals)
spectrum = NNLSPeakClassifier(protocol, n_bins=24, bounds=prior, counts=counts).fit(signals)
for name, model in {"multi-exponential": fits, "NNLS peaks": spectrum}.items():
    print(f"{name}: accuracy {model.score(signals, n_c):.2f}")

# %%
# The fit of one voxel
# --------------------

voxel = int(np.flatnonzero(n_c == 2)[1])
print("true:", tissue.iloc[voxel].dropna().round(2).to_dict())
estimated = fits.estimate_compartments(signals[[voxel]], 2)  # with chi2, misfit and at_bound
print(estimated.to_string(float_format="{:.4g}".format))

# %%
# Are the compartments right?
# ---------------------------
# A voxel is right if every true compartment is found once, with T1 and T2 within 7 % of the
# logarithmic range of the prior. ``compartments_right`` has this for each voxel, to compare
# methods on the same voxels; ``compartment_metrics`` has the errors as well.

limits = {"T1": (50.0, 3500.0), "T2": (5.0, 500.0)}
some = slice(50)
several = fits.estimate_compartments(signals[some])
right = compartments_right(several, tissue[some], limits)
print("right with 1, 2 compartments:", [f"{right[n_c[some] == k].mean():.2f}" for k in counts])
metrics = compartment_metrics(several, tissue[some], limits)
print({name: round(metrics[name], 3) for name in ("f1", "T1_error", "T2_error", "f_error")})

# %%
# Its spectrum
# ------------
# The crosses are the true compartments. The regularisation makes a peak as wide as the noise
# demands, so that close compartments merge.

density = spectrum.spectra(signals[[voxel]])[0]
t1, t2 = (spectrum.axes_[name] for name in ("T1", "T2"))
figure, ax = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
mesh = ax.pcolormesh(t2, t1, density, cmap="viridis", shading="nearest")
for i in (1, 2):
    ax.plot(tissue[f"T2_{i}"].iloc[voxel], tissue[f"T1_{i}"].iloc[voxel], "rx", ms=10)
ax.set(xscale="log", yscale="log", xlabel="T2 (ms)", ylabel="T1 (ms)")
figure.colorbar(mesh, ax=ax, label="amplitude (M0 = 1)")
plt.show()

# %%
# Two series of one slice
# -----------------------
# An inversion series and an echo series without inversion become one protocol and one matrix of
# signals. Each measurement keeps the TR of its series.

inversion = AcquisitionProtocol(ti=[50, 150, 400, 900, 1800, 4000], te=10, tr=9000)
echoes = AcquisitionProtocol(te=[10, 25, 50, 80, 120, 180], tr=3000)
both = AcquisitionProtocol.concatenate([inversion, echoes])
print(both)

single = TissuePrior(ranges=prior.ranges, n_compartments=(1,))
table, ones = single.sample(100, random_state=1)
signals = CorrelationSignalGenerator(both, noise_level=0.002, random_state=0).fit_transform(table)
estimated = MultiExponentialClassifier(both, random_state=0).fit(signals, ones)
estimated = estimated.estimate_compartments(signals)
for name in ("T1_1", "T2_1"):
    deviation = (estimated[name] / table[name] - 1).abs().median()
    print(f"{name}: median deviation {100 * deviation:.1f} %")
