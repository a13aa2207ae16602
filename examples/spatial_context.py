"""
Spatial context
===============

A voxel has neighbours of the same tissue. Averages of like neighbours have less noise, which is
most of what limits the count of compartments. Here images with truth are made, and classified with
and without the neighbourhood.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator

from corrsk import SpatialClassifier, load_pretrained, make_parcel_phantom
from corrsk.spatial import (
    AveragedSignals,
    ParcelPhantom,
    SpatialContextWarning,
    average_like_neighbours,
    mean_field,
)

# %%
# The phantom: 12 parcels with tissue of the prior `midl2024`, two lesions of 30 voxels, and noise
# of 3 % of M0.
phantom: ParcelPhantom = make_parcel_phantom(
    (64, 64), n_parcels=12, noise_level=0.03, n_lesions=2, random_state=8
)
print(phantom.signals.shape, "counts:", np.unique(phantom.counts))

# %%
# Averages of like neighbours: the noise is estimated, and what remains of it is known for each
# voxel. Borders are not blurred, since voxels of other tissue have other signals.
averaged: AveragedSignals = average_like_neighbours(phantom.signals)
error = np.sqrt(np.mean((averaged.signals - phantom.clean) ** 2))
print(f"noise {averaged.noise:.4f}; it remains {averaged.sigma.mean():.4f}, real error {error:.4f}")

# %%
# Less noise needs a model that was trained with less noise. Of several models, each voxel gets the
# one for the noise that remains in it. A single model that does not cover this noise is a
# :class:`corrsk.spatial.SpatialContextWarning`.
models = [load_pretrained(name) for name in ("midl2024", "midl2024-low-noise")]
context = SpatialClassifier([FrozenEstimator(model) for model in models]).fit()
print("warning:", issubclass(SpatialContextWarning, UserWarning))
maps = {
    "truth": phantom.counts,
    "voxel by voxel": models[0].predict(phantom.signals),
    "like neighbours": context.predict(phantom.signals),
}

# %%
# A random field on the probabilities of single voxels changes little: neighbours of one tissue
# share their errors, and the field has no signals to average.
field = mean_field(models[0].predict_proba(phantom.signals), coupling=2.0)
maps["random field"] = models[0].classes_[field.argmax(axis=-1)]

colours = plt.get_cmap("viridis", 4)
fig, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
for axis, (title, counts) in zip(axes, maps.items(), strict=True):
    shown = axis.imshow(
        counts.T, origin="lower", vmin=0.5, vmax=4.5, cmap=plt.get_cmap("viridis", 4)
    )
    right = f"{(counts == phantom.counts).mean():.0%} right"
    axis.set(title=title if title == "truth" else f"{title}: {right}", xticks=[], yticks=[])
fig.colorbar(shown, ax=axes, ticks=[1, 2, 3, 4], label="compartments", shrink=0.8)
plt.show()
