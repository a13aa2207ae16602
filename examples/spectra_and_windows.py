"""
Spectra and their windows
=========================

A spectrum has no number of compartments: it shows how much of the signal has which T1 and T2. Noise
and the width of a peak cannot be separated without a penalty, and the weight of the penalty is a
choice. Here five rules make it, and the fraction of short T2 shows what the choice costs.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    EchoTrain,
    MultiExponentialClassifier,
    NNLSSpectrum,
)
from corrsk.relaxometry import Spectra

# %%
# White matter in 32 echoes
# -------------------------
# Myelin water has a T2 of 20 ms and 15 % of the signal. The refocusing pulses of the scanner reach
# 150 degrees. The analysis has the nominal angle of 180 degrees, and searches the true one. With a
# wrong angle the myelin water is lost, and the residual is five times the noise.
te = 10.0 * np.arange(1, 33)
scanner = AcquisitionProtocol(te=te, tr=3000, readout=EchoTrain(10.0, 150.0))
nominal = AcquisitionProtocol(te=te, tr=3000, readout=EchoTrain(10.0, 180.0))
tissue = pd.DataFrame({"T2_1": [20.0], "T2_2": [80.0], "f_1": [0.15], "f_2": [0.85]})
tissue = pd.concat([tissue] * 200, ignore_index=True)
sigma = 0.002
signals = CorrelationSignalGenerator(scanner, noise_level=sigma, random_state=0).fit_transform(
    tissue
)

settings = {"n_bins": 60, "bounds": {"T2": (10, 2000)}, "verbose": False}
model = NNLSSpectrum(nominal, b1=(0.6, 1.0), b1_scope="image", **settings).fit(signals)
spectra: Spectra = model.invert(signals)
print(f"refocusing angle: {180 * spectra.b1[0]:.0f} degrees")
print(f"noise {sigma}; voxels that no spectrum explains: {spectra.misfit.mean():.0%}")
perfect = NNLSSpectrum(nominal, **settings).fit(signals).invert(signals)
myelin = {"myelin water": {"T2": (0, 40)}}
for name, found in {"angle searched": spectra, "perfect pulses": perfect}.items():
    fraction = found.window_fractions(myelin)["myelin water"]
    print(f"{name}: {fraction.mean():.3f} +- {fraction.std():.3f} (truth 0.150), "
          f"residual {found.residual.mean():.4f}")  # fmt: skip

# %%
# How uncertain is the fraction of a single voxel? The bootstrap inverts its spectrum again with
# other noise.
draws = [each.window_fractions(myelin)["myelin water"]
         for each in model.bootstrap(signals[:3], n_draws=20, random_state=0)]  # fmt: skip
print("standard errors of three voxels:", np.std(draws, axis=0).round(3))

# %%
# Which weight?
# -------------
# "discrepancy" needs the noise, which :func:`corrsk.estimate_noise` finds. The penalty of second
# differences prefers smooth spectra to small ones.
rows = {}
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for rule in ("chi2", "discrepancy", "l-curve", "gcv", "evidence"):
    for penalty in ("identity", "second-difference"):
        model = NNLSSpectrum(
            scanner, penalty=penalty, regularization=rule, noise_level=sigma, **settings
        ).fit(signals)
        found = model.invert(signals[:60])
        error = found.window_fractions(myelin)["myelin water"] - 0.15
        rows[rule, penalty] = [np.median(found.weight), error.mean(), error.abs().mean()]
        if penalty == "identity":
            ax.plot(found.axes["T2"], found.amplitudes.mean(axis=0), label=rule)
columns = ["weight", "mean error", "mean absolute error"]
print(pd.DataFrame(rows, index=columns).T.to_string(float_format="{:.2g}".format))
ax.set(xscale="log", xlabel="T2 (ms)", ylabel="mean amplitude")
ax.legend()
plt.show()

# %%
# T1 and T2 together
# ------------------
# Peaks are a tissue table, such as that of fits; a window may limit both properties. As a
# transformer, the model gives the cells of the spectrum as features.
grid = AcquisitionProtocol.named("ir-se-8x8")
two = pd.DataFrame({"T1_1": [500.0], "T1_2": [1500.0], "T2_1": [30.0], "T2_2": [150.0],
                    "f_1": [0.4], "f_2": [0.6]})  # fmt: skip
voxel = CorrelationSignalGenerator(grid, noise_level=0.001, random_state=0).fit_transform(two)
model = NNLSSpectrum(grid, bounds="midl2024", verbose=False).fit(voxel)
found = model.invert(voxel)
print(found.peaks(n_peaks=2).to_string(float_format="{:.3g}".format))
windows = {"short": {"T1": (0, 900), "T2": (0, 60)}, "long": {"T1": (900, 5000)}}
print(found.window_fractions(windows).round(3).to_string(index=False))
print("mean T2:", found.geometric_mean("T2").round(1), "ms;", model.transform(voxel).shape)

# %%
# A prior for the spectrum
# ------------------------
# Many spectra explain a signal, and the penalty prefers the smallest one, whose peaks are wide. The
# fits of one to three compartments, weighted by the probabilities of these counts, have a spectrum
# too. As a prior, it takes the place of zero in the penalty.
fits = MultiExponentialClassifier(
    grid, bounds="midl2024", criterion="bic", counts=(1, 2, 3), random_state=0, verbose=False
)
with_prior = NNLSSpectrum(
    grid, bounds="midl2024", prior=fits, chi2_factor=1.1, verbose=False
).fit(voxel)  # fmt: skip
alone = with_prior.prior_.predict_spectrum(voxel, with_prior.axes_)
shown = {"without a prior": found, "with the fits as prior": with_prior.invert(voxel)}
for name, spectrum in shown.items():
    short = spectrum.window_fractions(windows)["short"][0]
    print(f"{name}: short {short:.3f} (truth 0.400), T2 {spectrum.geometric_mean('T2')[0]:.0f} ms")
print(f"amplitude of the prior: {alone.sum():.3f}")

figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
for ax, (name, spectrum) in zip(axes, shown.items(), strict=True):
    values = spectrum.axes["T2"], spectrum.axes["T1"], spectrum.amplitudes[0]
    mesh = ax.pcolormesh(*values, shading="nearest")
    ax.plot(two[["T2_1", "T2_2"]].iloc[0], two[["T1_1", "T1_2"]].iloc[0], "rx", ms=9)
    ax.set(xscale="log", yscale="log", xlabel="T2 (ms)", ylabel="T1 (ms)", title=name)
    figure.colorbar(mesh, ax=ax, label="amplitude (M0 = 1)")
plt.show()
