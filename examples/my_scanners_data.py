"""
My scanner's data
=================

A scanner inverts imperfectly, refocuses imperfectly, returns magnitudes, and measures inversion
recovery and echo trains with different gains. A count that takes all this for perfect is wrong
without a sign of it. Here two series of one slice become one protocol, the pulses are found from
the voxels of the image, and the compartments of each voxel are counted with these pulses.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    EchoTrain,
    MultiExponentialClassifier,
    Nuisances,
    TissuePrior,
)
from corrsk.physics import SliceProfile
from corrsk.relaxometry import CalibrationWarning, PulseCalibration

# %%
# The protocol: 6 inversion times, and 16 echoes of a train. What the scanner's console shows are
# echo times and spacing; the flip angles across the slice are unknown.
inversion = AcquisitionProtocol(ti=[50, 150, 400, 900, 1800, 3000], te=10, tr=6000)
te = 10.0 * np.arange(1, 17)
nominal = AcquisitionProtocol.concatenate(
    [inversion, AcquisitionProtocol(te=te, tr=3000, readout=EchoTrain(10.0))], same_gain=False
)
print(nominal)

# %%
# The "measured" image: magnitudes of eight tissues, a quarter of the voxels with a second
# compartment. The analysis uses neither efficiency, nor pulses, nor gain.
pulses = EchoTrain(10.0, 155.0, profile=SliceProfile(0.95, 1.8, 1.5, 12.0))
truth = AcquisitionProtocol.concatenate(
    [inversion, AcquisitionProtocol(te=te, tr=3000, readout=pulses)], same_gain=False
)
rng = np.random.default_rng(0)
n_voxels = 96
tissue, _ = TissuePrior.named("t1t2-detr", n_compartments=(1, 2)).sample(n_voxels, random_state=0)
t2 = np.geomspace(30, 200, 8)[rng.integers(0, 8, n_voxels)]
n_c = np.where(np.arange(n_voxels) % 4 == 0, 2, 1)
tissue = tissue.assign(
    T1_1=np.minimum(8 * t2, 1500), T2_1=t2, f_1=np.where(n_c == 2, 0.6, 1.0),
    T1_2=2500.0, T2_2=400.0, f_2=np.where(n_c == 2, 0.4, 0.0),
    inversion_efficiency=0.95, gain=1.3, scale=800.0,
)  # fmt: skip
X = CorrelationSignalGenerator(
    truth, noise_level=0.003, noise_distribution="rician", random_state=0, verbose=False
).fit_transform(tissue)

# %%
# First as if all pulses were perfect, and the gains equal. The classifier warns of voxels that it
# cannot explain; the warning is hidden here.
settings = {"criterion": "bic", "counts": (1, 2, 3), "random_state": 0, "verbose": False}
perfect = AcquisitionProtocol.concatenate([inversion, AcquisitionProtocol(te=te, tr=3000)])
naive = MultiExponentialClassifier(perfect, noise_distribution="rician", **settings).fit(X)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    naive_counts = naive.predict(X)

# %%
# Then with pulses that :meth:`~corrsk.MultiExponentialClassifier.calibrate` finds from all voxels,
# by two rounds of fits of one compartment that leave out voxels with more. What differs from voxel
# to voxel is fitted in each voxel: the inversion efficiency here. If most voxels had several
# compartments, the pulses would take up a part of these, which is a CalibrationWarning; here it
# would be an error.
model = MultiExponentialClassifier(
    nominal, noise_distribution="rician", nuisances=Nuisances(inversion_efficiency=(0.7, 1.0)),
    min_fraction=0.05, **settings,
).fit(X)  # fmt: skip
with warnings.catch_warnings():
    warnings.simplefilter("error", CalibrationWarning)
    calibration: PulseCalibration = model.calibrate(X).calibration_
print(calibration)
counts = model.predict(X)
for name, found in {"perfect pulses": naive_counts, "calibrated": counts}.items():
    print(f"{name}: {(found == n_c).mean():.0%} of the voxels counted right")

# %%
# The residuals of one compartment show why. With perfect pulses they alternate from echo to echo,
# and the noise that this leaves hides real second compartments. (One compartment does not explain
# the voxels that have two; the classifier warns of these.)
one = n_c == 1
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    table = model.estimate_compartments(X, 1)
t1, t2 = table["T1_1"].to_numpy(), table["T2_1"].to_numpy()
found_train = next(train for train in calibration.protocol.readout if train is not None)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for amplitudes, label in (
    (np.exp(-te / t2[:, None]), "perfect pulses"),
    (found_train.amplitudes(16, t1, t2), "calibrated"),
):
    measured = X[:, 6:]
    scale = (measured * amplitudes).sum(1) / (amplitudes**2).sum(1)
    residual = (measured - scale[:, None] * amplitudes) / measured.max(axis=1, keepdims=True)
    left.plot(te, 100 * residual[one].mean(axis=0), "o-", ms=3, label=label)
left.set(xlabel="echo time (ms)", ylabel="mean residual (% of the signal)")
left.legend()
for shift, (label, found) in zip(
    (-0.2, 0.2), {"perfect pulses": naive_counts, "calibrated": counts}.items(), strict=True
):
    shares = [(found[n_c == k] == k).mean() for k in (1, 2)]
    right.bar(np.arange(1, 3) + shift, shares, width=0.4, label=label)
right.set(xlabel="compartments", ylabel="share counted right", xticks=[1, 2])
plt.show()
