"""
Simulate signals of your own protocol and tissue
================================================

Noise-free and noisy signals of one voxel for each compartment count, on a grid of inversion and
echo times.
"""

import matplotlib.pyplot as plt
import numpy as np

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    PropertyRange,
    TissuePrior,
)
from corrsk.tissue import FRACTION_LAWS

# %%
# The protocol
# ------------
# Every combination of these inversion and echo times, in ms. ``AcquisitionProtocol(ti=.., te=..)``
# takes any list of measurements in the order of the scan; ``from_mat`` and ``from_json`` read
# files.

protocol = AcquisitionProtocol.from_grid(
    ti=np.geomspace(50, 2500, 10), te=np.geomspace(6, 160, 8), tr=6000
)
print(protocol)

# %%
# The tissue
# ----------
# Log-uniform relaxation times with T2 < T1, up to three compartments. The fractions of a voxel are
# drawn uniformly among those that are at least 5 %; other distributions are available.

print("distributions of the fractions:", *FRACTION_LAWS)
prior = TissuePrior(
    ranges={
        "T1": PropertyRange(200, 3000, scale="log"),
        "T2": PropertyRange(10, 300, scale="log"),
    },
    n_compartments=(1, 2, 3),
    fraction_law="dirichlet",
    t2_below_t1=True,
)
tissue, n_c = prior.sample(1000, random_state=0)
print(tissue.assign(n_c=n_c).head(3).round(2).to_string())

# %%
# The signals
# -----------
# The same voxels, without noise and with noise of 3 % of the largest signal.

clean = CorrelationSignalGenerator(protocol, noise_level=0).fit_transform(tissue)
noisy = CorrelationSignalGenerator(
    protocol, noise_level=0.03, noise_reference="max", inversion_efficiency=0.95, random_state=0
).fit_transform(tissue)

figure, axes = plt.subplots(2, 3, figsize=(9, 5.6), layout="constrained", sharex=True, sharey=True)
for column, count in enumerate(prior.n_compartments):
    voxel = np.flatnonzero(n_c == count)[0]
    for row, (name, signals) in enumerate({"noise-free": clean, "noisy": noisy}.items()):
        ax = axes[row, column]
        image = ax.imshow(
            signals[voxel].reshape(protocol.grid_shape),
            cmap="RdBu_r",
            vmin=-1,
            vmax=1,
            aspect="auto",
        )
        ax.set_title(f"n_c = {count}, {name}", fontsize=9)
        ax.set_xticks(range(8), [f"{te:.0f}" for te in np.unique(protocol.te)], fontsize=8)
        ax.set_yticks(range(10), [f"{ti:.0f}" for ti in np.unique(protocol.ti)], fontsize=8)
        if row:
            ax.set_xlabel("TE (ms)")
        if not column:
            ax.set_ylabel("TI (ms)")
figure.colorbar(image, ax=axes, label="signal (M0 = 1)")
plt.show()
