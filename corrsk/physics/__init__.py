"""The signal model: kernels, voxel signals, noise and normalisation.

Pure functions of arrays. They take numpy and torch arrays alike (any array
that `array-api-compat` knows) and return arrays of the same kind, so that the
same code simulates on a processor and on a GPU. Times are in milliseconds,
b-values in ms/um^2, diffusivities in um^2/ms.

A *contrast* pairs a scan parameter with the tissue property that it probes
and the one-dimensional kernel that joins the two. A compartment's signal is
the product of its kernels, a voxel's signal the sum over its compartments. A
further contrast costs one kernel function and one :func:`register_contrast`.
"""

from corrsk.physics.contrasts import (
    CONTRASTS,
    Contrast,
    check_tissue_unit,
    diffusion,
    inversion_recovery,
    register_contrast,
    spin_echo,
)
from corrsk.physics.noise import (
    NOISE_DISTRIBUTIONS,
    NOISE_REFERENCES,
    NORMS,
    add_gaussian_noise,
    add_rician_noise,
    noise_sigma,
    normalize_signals,
    signal_norm,
)
from corrsk.physics.signals import SignalModel, correlation_signals

__all__ = [
    "CONTRASTS",
    "NOISE_DISTRIBUTIONS",
    "NOISE_REFERENCES",
    "NORMS",
    "Contrast",
    "SignalModel",
    "add_gaussian_noise",
    "add_rician_noise",
    "check_tissue_unit",
    "correlation_signals",
    "diffusion",
    "inversion_recovery",
    "noise_sigma",
    "normalize_signals",
    "register_contrast",
    "signal_norm",
    "spin_echo",
]
