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

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_array_api_obj

Array = Any  # an array of any kind that array-api-compat knows

NOISE_REFERENCES = ("m0", "max", "rms")
NOISE_DISTRIBUTIONS = ("gaussian", "rician")
NORMS = ("l2", "rms", "max")


def _promote(*values: Any) -> tuple[Any, ...]:
    """Namespace of `values` and the values as floating arrays of one kind."""
    arrays = [value for value in values if is_array_api_obj(value)]
    xp = array_namespace(*arrays) if arrays else np
    like = {"device": device(arrays[0])} if arrays else {}
    floating = []
    for value in values:
        array = value if is_array_api_obj(value) else xp.asarray(value, **like)
        if not xp.isdtype(array.dtype, "real floating"):
            array = xp.astype(array, xp.float64)
        floating.append(array)
    return (xp, *floating)


def inversion_recovery(
    ti: Array, t1: Array, *, tr: float | None = None, inversion_efficiency: float = 1.0
) -> Array:
    """Longitudinal magnetisation after an inversion pulse, for M0 = 1.

    Parameters
    ----------
    ti : array
        Inversion times in ms, broadcast against `t1`.
    t1 : array
        Longitudinal relaxation times in ms.
    tr : float, optional
        Repetition time in ms, from inversion to inversion; None for full
        recovery before each inversion.
    inversion_efficiency : float, default=1.0
        eta in (0, 1]; 1 is a perfect 180 degree inversion.

    Returns
    -------
    array
        ``1 - (1 + eta) exp(-TI/T1) + eta exp(-TR/T1)``, of the broadcast shape.

    Notes
    -----
    With TR infinite and eta = 1 this is the bracket of Eq. 1 in Endt,
    Lachermeier and Menzel, MIDL 2024. The steady state with TR holds for a
    90 degree excitation that is spoiled after each readout, and TE << TR:
    recovery from zero over TR - TI, inversion by -eta, recovery over TI.
    """
    xp, ti, t1 = _promote(ti, t1)
    signal = 1 - (1 + inversion_efficiency) * xp.exp(-ti / t1)
    if tr is None:
        return signal
    return signal + inversion_efficiency * xp.exp(-tr / t1)


def spin_echo(te: Array, t2: Array) -> Array:
    """Transverse decay ``exp(-TE / T2)`` of a spin echo; TE and T2 in ms."""
    xp, te, t2 = _promote(te, t2)
    return xp.exp(-te / t2)


def diffusion(b: Array, diffusivity: Array) -> Array:
    """Free diffusion ``exp(-b D)``; b in ms/um^2, D in um^2/ms.

    Stejskal and Tanner, J. Chem. Phys. 42, 288 (1965).
    """
    xp, b, diffusivity = _promote(b, diffusivity)
    return xp.exp(-b * diffusivity)


@dataclass(frozen=True)
class Contrast:
    """A scan parameter, the tissue property it probes, and their kernel.

    Parameters
    ----------
    parameter, tissue : str
        Names of the scan parameter ("TI") and of the tissue property ("T1").
    kernel : callable
        ``kernel(parameter, tissue)`` on broadcast arrays. Where
        `longitudinal` is true it also takes `tr` and `inversion_efficiency`.
    unit, tissue_unit : str
        Units of the two.
    smallest_maximum, largest_minimum : float
        Bounds that only a wrong unit can break: a protocol whose largest value
        lies below the one, or whose smallest lies above the other, is refused.
    wrong_unit : str
        The unit that breaking these bounds betrays, for the error message.
    zero_allowed : bool
        Whether the scan parameter may be 0 (a b-value may, a TE may not).
    longitudinal : bool
        Whether the kernel depends on TR and the inversion efficiency.
    """

    parameter: str
    tissue: str
    kernel: Callable[..., Array]
    unit: str = "ms"
    tissue_unit: str = "ms"
    smallest_maximum: float = 0.0
    largest_minimum: float = math.inf
    wrong_unit: str = "seconds"
    zero_allowed: bool = False
    longitudinal: bool = False


CONTRASTS: dict[str, Contrast] = {}


def register_contrast(contrast: Contrast) -> None:
    """Make `contrast` known to protocols, priors, tissue tables and generators.

    Its order of registration is the order of the axes of a grid: TI, TE, b,
    then what was added. Registration is per process: put it at the top level
    of a module that worker processes import too.

    Raises
    ------
    ValueError
        If another contrast has the scan parameter or the tissue property.
    """
    for known in CONTRASTS.values():
        if known != contrast and (
            known.parameter == contrast.parameter or known.tissue == contrast.tissue
        ):
            raise ValueError(
                f"the contrast ({known.parameter}, {known.tissue}) is registered already; "
                f"({contrast.parameter}, {contrast.tissue}) needs names of its own"
            )
    CONTRASTS[contrast.parameter] = contrast


register_contrast(
    Contrast("TI", "T1", inversion_recovery, smallest_maximum=20.0, longitudinal=True)
)
register_contrast(Contrast("TE", "T2", spin_echo, smallest_maximum=1.0))
register_contrast(
    Contrast(
        "b",
        "D",
        diffusion,
        unit="ms/um^2",
        tissue_unit="um^2/ms",
        largest_minimum=100.0,
        wrong_unit="s/mm^2",
        zero_allowed=True,
    )
)


def correlation_signals(
    measurements: Mapping[str, Array],
    tissue: Mapping[str, Array],
    fractions: Array,
    *,
    tr: float | None = None,
    inversion_efficiency: float = 1.0,
) -> Array:
    """Noise-free signals of voxels with several compartments, for M0 = 1.

    Parameters
    ----------
    measurements : mapping of str to array of shape (N,)
        Scan parameters by name ("TI", "TE", "b"): one entry per measurement,
        in any order. `AcquisitionProtocol.contrasts` is one.
    tissue : mapping of str to array of shape (n, C)
        For each scan parameter the tissue property it probes ("T1", "T2",
        "D"). What an absent compartment holds is not looked at.
    fractions : array of shape (n, C)
        Signal fractions; 0 marks an absent compartment.
    tr, inversion_efficiency : float
        See :func:`inversion_recovery`.

    Returns
    -------
    array of shape (n, N)
        ``sum_i f_i prod_k kernel_k(parameter_k, property_k,i)``, in the order
        of the measurements, in the dtype and on the device of `fractions`.

    Raises
    ------
    KeyError
        If a scan parameter is unknown or its tissue property is missing.

    Notes
    -----
    Eq. 1 of Endt et al., MIDL 2024, where the contrasts are TI and TE, TR is
    None and the efficiency 1.
    """
    xp, fractions = _promote(fractions)
    present = fractions > 0
    levels, positions = _factorise(measurements)
    shape = tuple(len(values) for values in levels.values())

    kernels = []
    for name, values in levels.items():
        contrast = CONTRASTS[name]
        properties = xp.astype(tissue[contrast.tissue], fractions.dtype)
        # Any finite value will do where the fraction is 0; NaN would not.
        properties = xp.where(present, properties, xp.ones_like(properties))
        scan = xp.asarray(values, dtype=fractions.dtype, device=device(fractions))
        options = (
            {"tr": tr, "inversion_efficiency": inversion_efficiency}
            if contrast.longitudinal
            else {}
        )
        kernels.append(contrast.kernel(scan, properties[..., None], **options))

    kernels[0] = kernels[0] * fractions[..., None]
    n_measurements = len(next(iter(positions.values())))
    if math.prod(shape) > 2 * n_measurements:
        # A scattered protocol: its levels span a grid much larger than itself.
        product = None
        for kernel, index in zip(kernels, positions.values(), strict=True):
            index = xp.asarray(index, device=device(fractions))
            taken = xp.take(kernel, index, axis=-1)
            product = taken if product is None else product * taken
        return xp.sum(product, axis=-2)

    # A grid or nearly one: the sum over compartments is a matrix product of
    # the last kernel with the outer product of the others.
    outer = kernels[0]
    for kernel in kernels[1:-1]:
        outer = xp.reshape(outer[..., :, None] * kernel[..., None, :], (*fractions.shape, -1))
    if len(kernels) == 1:
        grid = xp.sum(outer, axis=-2)
    else:
        grid = xp.reshape(
            xp.matmul(xp.matrix_transpose(outer), kernels[-1]), (fractions.shape[0], -1)
        )
    flat = np.ravel_multi_index(tuple(positions.values()), shape)
    if np.array_equal(flat, np.arange(grid.shape[-1])):
        return grid
    return xp.take(grid, xp.asarray(flat, device=device(fractions)), axis=-1)


def _factorise(
    measurements: Mapping[str, Array],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Distinct values of each scan parameter, and where each measurement lies."""
    unknown = [name for name in measurements if name not in CONTRASTS]
    if unknown or not measurements:
        raise KeyError(f"unknown scan parameters {unknown}; known are {sorted(CONTRASTS)}")
    levels, positions = {}, {}
    for name in CONTRASTS:  # the axes of a grid stand in one order: TI, TE, b
        if name in measurements:
            levels[name], positions[name] = np.unique(
                np.asarray(measurements[name], dtype=np.float64), return_inverse=True
            )
    return levels, positions


def noise_sigma(signals: Array, noise_level: Array, noise_reference: str = "m0") -> Array:
    """Standard deviation of the noise of each signal.

    Parameters
    ----------
    signals : array of shape (n, N)
        Noise-free signals for M0 = 1.
    noise_level : float or array of shape (n,)
        Noise level as a fraction: 0.01 is the paper's "1 %".
    noise_reference : {"m0", "max", "rms"}
        What the level is relative to: M0 (that is 1), the largest absolute
        value of the signal, or its root mean square.

    Returns
    -------
    array of shape (n,)

    Raises
    ------
    ValueError
        If `noise_reference` is not one of the three.
    """
    xp, signals, noise_level = _promote(signals, noise_level)
    level = xp.astype(noise_level, signals.dtype)
    if noise_reference == "m0":
        return xp.broadcast_to(level, signals.shape[:1])
    if noise_reference in ("max", "rms"):
        return level * signal_norm(signals, noise_reference)
    raise ValueError(f"noise_reference must be one of {NOISE_REFERENCES}, got {noise_reference!r}")


def add_gaussian_noise(
    signals: Array, sigma: Array, normals: Array, *, overwrite_normals: bool = False
) -> Array:
    """``S + sigma z``: noise of a phased, real-valued signal.

    Parameters
    ----------
    signals, normals : array of shape (n, N)
        Signals, and standard normal draws.
    sigma : array of shape (n,)
        Standard deviations, from :func:`noise_sigma`.
    overwrite_normals : bool, default=False
        Whether the result may take the place of `normals`, which saves memory.

    Returns
    -------
    array of shape (n, N)
    """
    if not overwrite_normals:
        return signals + sigma[:, None] * normals
    normals *= sigma[:, None]
    normals += signals
    return normals


def add_rician_noise(signals: Array, sigma: Array, real: Array, imaginary: Array) -> Array:
    """``sqrt((S + sigma z1)^2 + (sigma z2)^2)``: noise of a magnitude image.

    Gudbjartsson and Patz, Magn. Reson. Med. 34, 910 (1995). Parameters as in
    :func:`add_gaussian_noise`, with one set of normal draws per channel. The
    result is never negative: the sign of inversion recovery is lost.
    """
    xp, signals = _promote(signals)
    return xp.hypot(signals + sigma[:, None] * real, sigma[:, None] * imaginary)


def signal_norm(signals: Array, norm: str = "l2") -> Array:
    """Norm of each signal.

    Parameters
    ----------
    signals : array of shape (n, N)
    norm : {"l2", "rms", "max"}
        2-norm, root mean square (the 2-norm over sqrt(N)), or largest absolute
        value.

    Returns
    -------
    array of shape (n,)

    Raises
    ------
    ValueError
        If `norm` is not one of the three.
    """
    xp, signals = _promote(signals)
    if norm == "max":
        return xp.max(xp.abs(signals), axis=-1)
    if norm in ("l2", "rms"):
        # vecdot squares and sums in one pass, which is what simulation waits for
        squared = xp.linalg.vecdot(signals, signals)
        return xp.sqrt(squared if norm == "l2" else squared / signals.shape[-1])
    raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")


def normalize_signals(signals: Array, norm: str = "l2") -> Array:
    """Divide each signal by its norm; a signal that is all zero stays zero.

    Parameters
    ----------
    signals : array of shape (n, N)
    norm : {"l2", "rms", "max"}
        See :func:`signal_norm`. The paper's is "l2".

    Returns
    -------
    array of shape (n, N)
    """
    xp, signals = _promote(signals)
    norms = signal_norm(signals, norm)
    return signals / xp.where(norms > 0, norms, xp.ones_like(norms))[..., None]
