"""
Magnitude, complex or signed signals
====================================

After an inversion, signals are negative until their null. Scanners often store magnitudes, which
lack the sign, or complex images. A model of signed signals needs the signs back.
"""

import matplotlib.pyplot as plt
import numpy as np

from corrsk import (
    AcquisitionProtocol,
    CorrelationSignalGenerator,
    MultiExponentialClassifier,
    SignalNormalizer,
    SignalPhaser,
    SignalPipeline,
    TissuePrior,
)
from corrsk.preprocessing import (
    PhasedSignals,
    RestoredPolarity,
    phase_signals,
    restore_polarity,
    signal_kind,
)

# %%
# Signals at an SNR of 100, each voxel with a phase of its own, as a coil gives it.

protocol = AcquisitionProtocol.named("ir-se-8x8")
prior = TissuePrior.named("t1t2-detr", n_compartments=(1, 2))
tissue, n_c = prior.sample(400, random_state=0)
clean = CorrelationSignalGenerator(protocol, noise_level=0, random_state=0).fit_transform(tissue)
rng = np.random.default_rng(0)
sigma = 1 / 100
noise = rng.normal(scale=sigma, size=(2, *clean.shape))
phase = rng.uniform(-np.pi, np.pi, len(clean))
complex_signals = (clean + noise[0] + 1j * noise[1]) * np.exp(1j * phase)[:, None]
magnitudes = np.abs(complex_signals)

for signals in (clean + noise[0], magnitudes, complex_signals):
    print(signal_kind(signals, protocol))

# %%
# Complex signals: one rotation of each voxel makes them real. The imaginary part is noise then.

phased: PhasedSignals = phase_signals(complex_signals, protocol)
error = np.angle(np.exp(1j * (phased.phase - phase)))
print(f"error of the phase: {np.degrees(np.median(np.abs(error))):.2f} degrees (median)")
print(f"noise: {np.median(phased.sigma):.4f}, true {sigma}")

# %%
# Magnitudes: each echo time has its own null, where the sign changes. The signs of a voxel are
# found together, from what signals of tissue look like. Values within the noise have no sign, and
# are lowered, because the noise of magnitudes has a floor.

restored: RestoredPolarity = restore_polarity(magnitudes, protocol, inversion_efficiency=1.0)
wrong = (restored.signals * clean < 0) & (np.abs(clean) > 2 * sigma)
print(f"voxels with all signs right: {1 - wrong.any(axis=1).mean():.3f}")
print(f"of high confidence: {(restored.confidence > 0.95).mean():.2f}")

# %%
# A classifier of signed signals, applied to each kind: in a Pipeline, a
# :class:`~corrsk.SignalPhaser` finds the kind, and converts the signals.

fits = MultiExponentialClassifier(
    protocol, bounds=prior, criterion="bic", counts=(1, 2), n_starts=4, max_steps=20,
    random_state=0,
)  # fmt: skip
model = SignalPipeline(
    [("phaser", SignalPhaser()), ("normalizer", SignalNormalizer()), ("fits", fits)]
).fit(clean + noise[0])
accuracy = {
    "signed": model.score(clean + noise[0], n_c),
    "complex": model.score(complex_signals, n_c),
    "magnitude,\nas if signed": model[1:].score(magnitudes, n_c),
}
model.set_params(phaser__kind="magnitude")  # the kind is known: no guess, no warning
accuracy["magnitude,\nrestored"] = model.score(magnitudes, n_c)
for name, value in accuracy.items():
    print(f"{name.replace(chr(10), ' ')}: accuracy {value:.2f}")

# %%
# One voxel of two compartments: the null moves with the echo time.

negative = (clean < 0).reshape(-1, 8, 8).sum(axis=1)
voxel = int(np.flatnonzero(n_c == 2)[np.ptp(negative[n_c == 2], axis=1).argmax()])
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(3, 2))
ti, te = protocol.ti[::8], protocol.te[:8]
for column, color in ((0, "C0"), (4, "C1")):
    at = np.arange(column, 64, 8)
    left.plot(ti, restored.signals[voxel, at], "o", color=color, label=f"TE {te[column]:g} ms")
    left.plot(ti, magnitudes[voxel, at], "x", color=color)
    left.plot(ti, clean[voxel, at], color=color, linewidth=1)
left.axhline(0, color="0.6", linewidth=0.8)
left.set(xscale="log", xlabel="TI (ms)", ylabel="signal / M0")
left.set_title("magnitude (x), restored (o), true (line)", fontsize=10)
left.legend(frameon=False)
right.bar(list(accuracy), list(accuracy.values()), color=["C2", "C2", "C3", "C2"])
right.set_ylim(0.4, 1)
right.set_title("count accuracy (one or two compartments)", fontsize=10)
right.tick_params(axis="x", labelsize=7)
figure.tight_layout()
