"""
The signal model, step by step
==============================

The estimators simulate with pure functions of arrays. This script calls these functions one by
one: kernels, the signals of a voxel, noise, the norm, and a contrast of your own. They take numpy
arrays and torch tensors.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from corrsk import AcquisitionProtocol, SNRRange, make_correlation_signals
from corrsk.physics import (
    CONTRASTS,
    NOISE_DISTRIBUTIONS,
    NOISE_REFERENCES,
    NORMS,
    Contrast,
    SignalModel,
    SliceProfile,
    add_gaussian_noise,
    add_noncentral_chi_noise,
    add_rician_noise,
    check_tissue_unit,
    correlation_signals,
    diffusion,
    echo_train,
    echo_train_of_slice,
    inversion_recovery,
    magnitude_log_likelihood,
    magnitude_mean,
    noise_sigma,
    normalize_signals,
    register_contrast,
    saturation_recovery,
    signal_norm,
    spin_echo,
)

# %%
# Kernels
# -------
# One function per contrast: the signal of one compartment with M0 = 1.

ti, te, b = np.geomspace(20, 3000, 200), np.linspace(0, 300, 200), np.linspace(0, 5, 200)
curves = {
    "TI (ms)": (ti, inversion_recovery(ti, 800.0), inversion_recovery(ti, 800.0, tr=3000.0)),
    "TE (ms)": (te, spin_echo(te, 80.0)),
    r"b (ms/$\mu$m$^2$)": (b, diffusion(b, 1.0)),
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharey=True)
for ax, (label, (x, *signals)) in zip(axes, curves.items(), strict=True):
    for signal, style in zip(signals, ("-", "--"), strict=False):
        ax.plot(x, signal, style)
    ax.set(xlabel=label)
axes[0].set(ylabel="signal (M0 = 1)", xscale="log")
axes[0].legend(["T1 = 800 ms", "the same, TR = 3 s"])
axes[1].legend(["T2 = 80 ms"])
axes[2].legend([r"D = 1 $\mu$m$^2$/ms"])
plt.show()

# %%
# Echo trains
# -----------
# Single spin echoes decay exponentially. In a train of echoes, refocusing pulses below 180 degrees
# store magnetisation along the field, which returns in later echoes: extended phase graphs give the
# amplitudes, here also averaged over the profile of a slice. A protocol with ``readout=`` has such
# echoes: see :doc:`/gallery/imperfect_pulses`.

spacing, n_echoes = 5.0, 32
times = spacing * np.arange(1, n_echoes + 1)
profile = SliceProfile(
    refocusing_width=1.0, refocusing_steepness=1.7, excitation_width=2.0, excitation_steepness=6.0
)
trains = {
    "single echoes": spin_echo(times, 80.0),
    "train, 180 degrees": echo_train(n_echoes, spacing, 800.0, 80.0),
    "train, 130 degrees": echo_train(n_echoes, spacing, 800.0, 80.0, refocusing_angle=130.0),
    "train, slice profile": echo_train_of_slice(n_echoes, spacing, 800.0, 80.0, profile),
}
figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
for (label, signal), style in zip(trains.items(), ("-", ":", "o", "s"), strict=True):
    ax.plot(times, signal, style, label=label, markersize=3)
ax.set(xlabel="TE (ms)", ylabel="signal (M0 = 1)", yscale="log")
ax.legend()
plt.show()

# %%
# A voxel
# -------
# Two compartments, measured on the published 8 x 8 grid. A value in the wrong unit is an error;
# ``units`` states another unit, or that short times are meant.

protocol = AcquisitionProtocol.named("ir-se-8x8")
measurements = dict(protocol.contrasts)
tissue = {"T1": np.array([[600.0, 2500.0]]), "T2": np.array([[40.0, 200.0]])}
fractions = np.array([[0.3, 0.7]])
clean = correlation_signals(measurements, tissue, fractions)
# a model that is applied to many blocks of voxels holds the measurements
model = SignalModel(measurements)
print("equal:", np.allclose(model(tissue, fractions), clean))
try:
    check_tissue_unit("T1", largest=2.5)  # seconds
except ValueError as error:
    print(textwrap.fill(f"error: {error}", 90))
print(AcquisitionProtocol.from_grid(ti=[0.05, 0.4, 2.0], te=[0.01, 0.06], units="s"))
print(AcquisitionProtocol.from_grid(ti=[0.1, 1, 15], te=[0.05, 2], units="ms"))  # rock

# %%
# Noise and norm
# --------------
# A noise level is a part of M0, of the largest signal or of the root mean square. Magnitude images
# have Rician noise.

rng = np.random.default_rng(0)
normals = rng.standard_normal((2, *clean.shape))
for reference in NOISE_REFERENCES:
    print(
        f"3 % of {reference}: sigma = {float(noise_sigma(clean, 0.03, reference).ravel()[0]):.4f}"
    )
sigma = noise_sigma(clean, 0.03)
noisy = {
    "gaussian": add_gaussian_noise(clean, sigma, normals[0]),
    "rician": add_rician_noise(clean, sigma, normals[0], normals[1]),
}
for distribution in NOISE_DISTRIBUTIONS:
    print(f"{distribution}: smallest signal {noisy[distribution].min():.3f}")
for norm in NORMS:
    scaled = normalize_signals(noisy["gaussian"], norm)
    before, after = (signal_norm(signals, norm)[0] for signals in (noisy["gaussian"], scaled))
    print(f"{norm}: from {before:.3f} to {after:.3f}")

# %%
# The magnitudes of several coils (root of the sum of squares) have noncentral chi noise. Its mean
# stays above a weak signal, and the likelihood is what a fit to such data maximises.

real, *others = rng.standard_normal((2 * 4, *clean.shape))
of_coils = add_noncentral_chi_noise(clean, sigma, real, np.linalg.norm(others, axis=0))
weakest = np.abs(clean[:1]).argmin()
for n_coils in (1, 4):
    print(
        f"{n_coils} coils: a signal of {abs(clean[0, weakest]):.4f} is measured as "
        f"{magnitude_mean(clean[:1], sigma[:1], n_coils)[0, weakest]:.4f}"
    )
log_likelihood, slope = magnitude_log_likelihood(of_coils, clean, sigma, 4, derivative=True)
print(f"log-likelihood {log_likelihood.sum():.1f}")

# %%
# Noise levels may also be drawn from a range of signal-to-noise ratios.

X, n_c = make_correlation_signals(1000, noise_level=SNRRange(30, 150), random_state=0)
print(X.shape)

# %%
# A contrast of your own
# ----------------------
# One kernel and one registration; protocols, priors, tissue tables and generators then have it.
# Here a saturation pulse of duration tau (ms) lowers the signal to 30 %, at a rate k (1/ms).


def saturation(tau, rate):
    """Signal after saturation by an exponential rate in 1/ms."""
    return 0.3 + 0.7 * np.exp(-tau * rate)


if "tau" not in CONTRASTS:
    register_contrast(Contrast("tau", tissue="k", kernel=saturation, tissue_unit="1/ms"))
print(AcquisitionProtocol({"tau": [10, 20, 50, 100], "TE": [10, 10, 10, 10]}))

# %%
# Several scan parameters may encode the same property; a protocol has one of them. Saturation
# recovery takes the place of inversion recovery for T1:

if "TS" not in CONTRASTS:
    register_contrast(Contrast("TS", "T1", saturation_recovery, smallest_maximum=20))
print(AcquisitionProtocol({"TS": [100, 500, 2000, 100], "TE": [10, 10, 10, 40]}))
for name in ("tau", "TS"):  # this script leaves the registry as it was
    CONTRASTS.pop(name)
