"""
How noisy are my data?
======================

The noise of measured signals decides which model is right for them. No mixture of compartments
explains the noise: the rest of the signal outside all mixtures has its standard deviation. A slice
of simulated magnitudes has the answer beside it.
"""

import matplotlib.pyplot as plt
import numpy as np

from corrsk import AcquisitionProtocol, CorrelationSignalGenerator, TissuePrior, estimate_noise
from corrsk.pretrained import model_advice
from corrsk.relaxometry import Levels, NoiseEstimate

# %%
# A slice
# -------
# Magnitudes of an 8 x 8 protocol in the units of a scanner, 1200 for M0, with 0.4 % of noise, and
# air around the tissue.

protocol = AcquisitionProtocol.named("ir-se-8x8")
tissue, _ = TissuePrior.named("t1t2-detr").sample(40 * 40, random_state=0)
scanner = CorrelationSignalGenerator(
    protocol, noise_level=0.004, noise_distribution="rician", random_state=0
)
volume = 1200 * scanner.fit_transform(tissue).reshape(40, 40, 64)
x, y = np.meshgrid(*2 * [np.linspace(-1, 1, 40)])
head = x**2 + y**2 < 0.9
noise_of_air = 1200 * 0.004 * np.random.default_rng(0).standard_normal((2, (~head).sum(), 64))
volume[~head] = np.hypot(*noise_of_air)

# %%
# Three ways
# ----------
# The part outside all mixtures, the air, or repeated measurements (here a second slice).

noise: NoiseEstimate = estimate_noise(volume, protocol, mask=head)
print(noise)
of_air = estimate_noise(volume, background=~head)
again = 1200 * scanner.transform(tissue).reshape(40, 40, 64)
of_repeats = estimate_noise(
    np.concatenate([volume, again], axis=-1)[head], repeats=np.tile(np.arange(64), 2)
)
for estimate in (noise, of_air, of_repeats):
    print(f"{estimate.method}: sigma = {estimate.sigma:.3f}, true {1200 * 0.004:.3f}")

# %%
# What to do with it
# ------------------
# The model for this noise; or the noise of your own training.

print(model_advice(noise))
level: Levels = noise.levels["max"]
print(f"largest signal over sigma: {1 / level.high:.0f} to {1 / level.low:.0f}")
own = CorrelationSignalGenerator(
    protocol, noise_level=noise.snr_range("max"), noise_reference="max",
    noise_distribution=noise.noise_distribution, random_state=0,
)  # fmt: skip
print("simulated with this noise:", own.fit_transform(tissue).shape)

# %%
# From 0.1 to 5 % of M0, for signed signals and for magnitudes.

levels = np.geomspace(0.001, 0.05, 5)
figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
for distribution, marker in (("gaussian", "o"), ("rician", "s")):
    found = [
        estimate_noise(
            CorrelationSignalGenerator(
                protocol, noise_level=value, noise_distribution=distribution, random_state=1
            ).fit_transform(tissue),
            protocol,
        ).sigma
        for value in levels
    ]
    ax.plot(100 * levels, 100 * np.array(found), marker, mfc="none", label=distribution)
ax.plot(100 * levels, 100 * levels, "k-", lw=0.7, zorder=0, label="equal")
ax.set(xscale="log", yscale="log", xlabel="true noise (% of M0)", ylabel="estimate (% of M0)")
ax.legend()
plt.show()
