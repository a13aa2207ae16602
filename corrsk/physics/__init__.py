"""The signal model: kernels, voxel signals, noise and normalisation.

Pure functions of arrays. The functions accept arrays of numpy, torch and every other library
that `array-api-compat` supports, and return arrays of the same library: the same code simulates
on a processor and on a GPU. Times are in milliseconds, b-values in ms/um^2, diffusivities in
um^2/ms.

A *contrast* consists of a scan parameter, the tissue property that the parameter encodes, and the
one-dimensional kernel of both. The signal of a compartment is the product of its kernels, the
signal of a voxel the sum over its compartments. A new contrast needs one kernel function and one
call of :func:`register_contrast`.
"""

from corrsk.physics.contrasts import (
    CONTRASTS,
    Contrast,
    check_tissue_unit,
    diffusion,
    inversion_recovery,
    register_contrast,
    saturation_recovery,
    spin_echo,
)
from corrsk.physics.echo_trains import (
    EchoTrain,
    SliceProfile,
    echo_train,
    echo_train_of_slice,
)
from corrsk.physics.magnitudes import magnitude_log_likelihood, magnitude_mean
from corrsk.physics.noise import (
    NOISE_DISTRIBUTIONS,
    NOISE_REFERENCES,
    NORMS,
    add_gaussian_noise,
    add_noncentral_chi_noise,
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
    "EchoTrain",
    "SignalModel",
    "SliceProfile",
    "add_gaussian_noise",
    "add_noncentral_chi_noise",
    "add_rician_noise",
    "check_tissue_unit",
    "correlation_signals",
    "diffusion",
    "echo_train",
    "echo_train_of_slice",
    "inversion_recovery",
    "magnitude_log_likelihood",
    "magnitude_mean",
    "noise_sigma",
    "normalize_signals",
    "register_contrast",
    "saturation_recovery",
    "signal_norm",
    "spin_echo",
]
