"""The signal of a voxel with several compartments."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from array_api_compat import device

from corrsk.physics._arrays import Array, promote
from corrsk.physics.contrasts import CONTRASTS


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
    xp, fractions = promote(fractions)
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
