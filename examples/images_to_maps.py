"""
From images to maps
===================

A scanner leaves a folder of files; the goal is a map. Here two subjects with four slices
each, in BIDS, are opened with their times, masked into rows of signals, and mapped by a Pipeline
that starts with the images. The search for a parameter keeps the voxels of a subject together. The
maps have the geometry of the measured images.
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    ProtocolAligner,
    SignalMasker,
    SignalNormalizer,
    TissuePrior,
    load_images,
)
from corrsk.evaluation import CountMapDisplay, MulticompartmentDisplay
from corrsk.imaging import (
    BidsSet,
    Grid,
    MapWriter,
    MeasuredImages,
    Slab,
    find_bids_sets,
    write_map,
)

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

# %%
# The "measured" data: 6 inversion times and 6 echo times, one file for each combination. A voxel
# has one compartment, or two in the ring; the corners are background.
protocol = AcquisitionProtocol.from_grid(
    ti=[50, 150, 400, 900, 1800, 3500], te=[10, 25, 50, 90, 150, 250], tr=8000
)
prior = TissuePrior.named("t1t2-detr", n_compartments=(1, 2))
shape = (24, 20, 4)
affine = np.diag([2.0, 2.0, 5.0, 1.0])
affine[:3, 3] = [-24, -20, 0]
x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
radius = np.hypot(x, y)
truth = np.where(radius > 1, 0, np.where((radius > 0.4) & (radius < 0.75), 2, 1))


def measure(seed):
    """Images of shape (24, 20, 4, 36), with the noise of an SNR of 500."""
    tissue, n_c = prior.sample(8000, random_state=seed)
    rows = {k: iter(np.flatnonzero(n_c == k)) for k in (1, 2)}
    chosen = [next(rows[k]) for k in truth[truth > 0]]
    signals = CorrelationSignalGenerator(
        protocol, noise_level=0.002, random_state=seed, verbose=False
    ).fit_transform(tissue.iloc[chosen].reset_index(drop=True))
    values = np.zeros((*shape, protocol.n_measurements), np.float32)
    values[truth > 0] = 900 * signals
    return values


for number in (1, 2):
    anat = folder / f"sub-0{number}" / "anat"
    anat.mkdir(parents=True)
    values = measure(number)
    for k, (ti, te) in enumerate(zip(protocol.ti, protocol.te, strict=True)):
        name = f"sub-0{number}_acq-TI{k // 6 + 1}_echo-{k % 6 + 1}_MESE"
        nibabel.save(nibabel.Nifti1Image(values[..., k], affine), anat / f"{name}.nii.gz")
        sidecar = {"InversionTime": ti / 1e3, "EchoTime": te / 1e3, "RepetitionTime": 8.0}
        (anat / f"{name}.json").write_text(json.dumps(sidecar))

# %%
# Every subject is a set of files. Opening it reads headers and sidecars, whose seconds become
# milliseconds; values are read when they are needed. The summary shows what will be used.
sets: list[BidsSet] = find_bids_sets(folder)
subjects: list[MeasuredImages] = [load_images(each) for each in sets]
print("\n".join(subjects[0].summary().splitlines()[:10]))

# %%
# The masker turns images into rows and carries the protocol with them, so that the next step can
# compare it with that of its model.
masker = SignalMasker().fit(subjects)
X = masker.transform(subjects)
print(X.shape, list(X.columns[:3]))

# %%
# The whole way is one Pipeline. Trained on simulated signals, which pass the masker unchanged, it
# takes images. The hidden layer is chosen on the subjects, whose truth is part of this simulation:
# `groups` keeps the voxels of a subject in one fold, and ``by="slice"`` would do so for slices.
pipeline = make_pipeline(
    SignalMasker(),
    ProtocolAligner(protocol, prior=prior, noise_level=0.002),
    SignalNormalizer(),
    MLPClassifier((32,), early_stopping=True, max_iter=60, random_state=0),
)
labels = masker.transform_map([truth, truth])
search = GridSearchCV(
    pipeline, {"mlpclassifier__hidden_layer_sizes": [(8,), (32,)]}, cv=GroupKFold(2)
).fit(X, labels, groups=masker.groups())
print("chosen:", search.best_params_)

tissue, n_c = prior.sample(20_000, random_state=3)
simulated = CorrelationSignalGenerator(
    protocol, noise_level=0.002, random_state=3, verbose=False
).fit_transform(tissue)
model = search.best_estimator_.fit(simulated, n_c)
counts = model.predict(subjects[0])
image = masker.inverse_transform(np.concatenate([counts, model.predict(subjects[1])]))[0]
print("image of labels:", image.shape, image.get_data_dtype())

# %%
# Maps go to files with the geometry of the measured images, and sidecars with sources and versions.
# A file appears when it is complete. Large images are mapped slab by slab, in little memory.
write_map(folder / "sub-01_seg-nc_dseg.nii.gz", image, subjects[0], sidecar={})
with MapWriter(folder / "sub-01_p2_probseg.nii.gz", subjects[0], sidecar={"Units": "1"}) as writer:
    slab: Slab
    for slab in subjects[0].slabs(max_bytes=100_000):
        writer.write(slab, model.predict_proba(slab.signals)[:, 1])
print(json.loads((folder / "sub-01_p2_probseg.json").read_text())["Sources"][0])

# %%
# The map is read like any other; its grid is that of the images.
written = nibabel.load(folder / "sub-01_p2_probseg.nii.gz")
print("same voxels:", Grid.from_image(written).difference(subjects[0].grid) is None)
found = subjects[0].read_map(folder / "sub-01_seg-nc_dseg.nii.gz")
print(f"counted right: {(found == truth)[truth > 0].mean():.0%} of the voxels")

# Displays draw a slice, or a montage of several, over an image.
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
background = np.abs(subjects[0].read_measurement(0))
for axis, title, labels in zip(axes, ("truth", "counts"), (truth, found), strict=False):
    CountMapDisplay.from_predictions(labels, slices=[1], dataset=title, ax=axis)
MulticompartmentDisplay.from_predictions(
    written, background=background, slices=[1], dataset="sub-01", ax=axes[2]
)
plt.show()
temporary.cleanup()
