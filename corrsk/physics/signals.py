"""The signal of a voxel with several compartments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from corrsk.physics._arrays import NUMPY, Array, promote
from corrsk.physics.axes import measurement_axes


def correlation_signals(
    measurements: Mapping[str, Array],
    tissue: Mapping[str, Array],
    fractions: Array,
    *,
    tr: Array | None = None,
    inversion_efficiency: float = 1.0,
) -> Array:
    """Noise-free signals of voxels with several compartments, for M0 = 1.

    Parameters
    ----------
    measurements : mapping of str to array of shape (n_measurements,)
        Scan parameters by name ("TI", "TE", "b"): one entry per measurement,
        in any order, such as `AcquisitionProtocol.contrasts`.
    tissue : mapping of str to array of shape (n_samples, n_compartments)
        Tissue properties ("T1", "T2", "D"), one for each scan parameter. The values of
        absent compartments are ignored.
    fractions : array of shape (n_samples, n_compartments)
        Signal fractions; 0 marks an absent compartment.
    tr : float or array of shape (n_measurements,), optional
        Repetition time in ms; see :func:`inversion_recovery`.
    inversion_efficiency : float, default=1.0
        See :func:`inversion_recovery`.

    Returns
    -------
    array of shape (n_samples, n_measurements)
        ``sum_i f_i prod_k kernel_k(parameter_k, property_k,i)``, in the order
        of the measurements, in the dtype and on the device of `fractions`.

    Raises
    ------
    KeyError
        If a scan parameter is unknown or its tissue property is missing.

    Notes
    -----
    Eq. 1 of Endt et al., MIDL 2024, if the contrasts are TI and TE, TR is
    None and the inversion efficiency 1.
    """
    model = SignalModel(measurements, tr=tr, inversion_efficiency=inversion_efficiency)
    return model(tissue, fractions)


class SignalModel:
    """Function :func:`correlation_signals` for fixed measurements, for repeated calls.

    Parameters
    ----------
    measurements : mapping of str to array of shape (n_measurements,)
        Scan parameters by name; see :func:`correlation_signals`.
    tr : float or array of shape (n_measurements,), optional
        Repetition time in ms; see :func:`inversion_recovery`.
    inversion_efficiency : float, default=1.0
        See :func:`inversion_recovery`.

    Raises
    ------
    KeyError
        If a scan parameter is unknown.
    """

    def __init__(
        self,
        measurements: Mapping[str, Array],
        *,
        tr: Array | None = None,
        inversion_efficiency: float = 1.0,
    ) -> None:
        (axis,) = measurement_axes(
            measurements, grid=False, tr=tr, inversion_efficiency=inversion_efficiency
        )
        self._factors = axis.factors  # in the order of the axes of a grid: TI, TE, b
        self._tables: dict[tuple[int, Any, bool], np.ndarray] = {}
        shape = tuple(factor.levels.size for factor in self._factors)
        # a scattered protocol: its levels span a grid much larger than the protocol
        self._scattered = len(shape) == 1 or math.prod(shape) > 2 * axis.size
        self._in_grid: np.ndarray | None = None
        if not self._scattered:
            in_grid = np.ravel_multi_index(tuple(f.positions for f in self._factors), shape)
            if not np.array_equal(in_grid, np.arange(math.prod(shape))):
                self._in_grid = in_grid

    def __call__(self, tissue: Mapping[str, Array], fractions: Array) -> Array:
        """Noise-free signals; see :func:`correlation_signals`."""
        xp, fractions = promote(fractions)
        present, ones = fractions > 0, xp.ones_like(fractions)
        # any finite value is valid where the fraction is 0, but not NaN
        complete = {
            name: xp.where(present, xp.astype(tissue[name], fractions.dtype, copy=False), ones)
            for name in (factor.contrast.tissue for factor in self._factors)
        }
        return self.of_complete_tissue(complete, fractions)

    def of_complete_tissue(self, tissue: Mapping[str, Array], fractions: Array) -> Array:
        """Noise-free signals of tissue without NaN, whose dtype is that of `fractions`.

        Parameters
        ----------
        tissue : mapping of str to array of shape (n_samples, n_compartments)
            Tissue properties; finite values for absent compartments too.
        fractions : array of shape (n_samples, n_compartments)
            Signal fractions; 0 marks an absent compartment.

        Returns
        -------
        array of shape (n_samples, n_measurements)
            As :func:`correlation_signals` returns.
        """
        xp, fractions = promote(fractions)
        properties = [tissue[factor.contrast.tissue] for factor in self._factors]
        signals = self._of_scattered if self._scattered else self._of_grid
        return signals(xp, properties, fractions)

    def _of_scattered(self, xp: Any, properties: list[Array], fractions: Array) -> Array:
        product = fractions[..., None]
        for axis, values in enumerate(properties):
            index = xp.asarray(self._factors[axis].positions, device=device(fractions))
            product = product * xp.take(self._kernel(xp, axis, values), index, axis=-1)
        return xp.sum(product, axis=-2)

    def _of_grid(self, xp: Any, properties: list[Array], fractions: Array) -> Array:
        # The sum over compartments is a matrix product of the last kernel with the outer product
        # of the other kernels. numpy is fastest with the compartments as the last axis of the
        # outer product, and the BLAS accepts this layout.
        n = fractions.shape[0]
        *others, last = properties
        outer = self._kernel_by_level(xp, 0, others[0]) * fractions
        for axis, values in enumerate(others[1:], start=1):
            kernel = self._kernel_by_level(xp, axis, values)
            outer = xp.reshape(outer[:, None] * kernel, (-1, *fractions.shape))
        grid = xp.matmul(xp.permute_dims(outer, (1, 0, 2)), self._kernel(xp, len(others), last))
        grid = xp.reshape(grid, (n, -1))
        if self._in_grid is None:
            return grid
        return xp.take(grid, xp.asarray(self._in_grid, device=device(fractions)), axis=-1)

    def _kernel_by_level(self, xp: Any, axis: int, values: Array) -> Array:
        """Kernel of an axis, shape (levels, n, C)."""
        found = _places(xp, values)
        if found is not None:
            table = self._table(axis, values.dtype, found.largest, levels_first=True)
            # clip: numpy's own check of the indices takes longer, and all are within the table
            return np.take(table, found.places, axis=1, mode="clip")
        like = _array_like(xp, values)
        return self._factors[axis].kernel(values, lambda levels: like(levels)[:, None, None])

    def _kernel(self, xp: Any, axis: int, values: Array) -> Array:
        """Kernel of an axis, shape (n, C, levels)."""
        found = _places(xp, values)
        if found is not None:
            table = self._table(axis, values.dtype, found.largest, levels_first=False)
            return np.take(table, found.places, axis=0, mode="clip")
        # repeated instead of broadcast: numpy's inner loops are as long as the last axis
        factor, like = self._factors[axis], _array_like(xp, values)
        repeated = xp.repeat(values, factor.levels.size, axis=-1)
        kernel = factor.kernel(repeated, lambda levels: xp.tile(like(levels), (values.shape[-1],)))
        return xp.reshape(kernel, (*values.shape, -1))

    def _table(self, axis: int, dtype: Any, largest: int, *, levels_first: bool) -> np.ndarray:
        """Kernel of an axis for the numbers 0, 1, .. to at least `largest`."""
        key = (axis, dtype, levels_first)
        table = self._tables.get(key)
        if table is None or largest >= table.shape[int(levels_first)]:
            numbers = np.arange(largest + 1, dtype=dtype)
            with np.errstate(all="ignore"):  # at 0 some kernels are infinite
                like = _array_like(np, numbers)
                table = self._factors[axis].kernel(numbers, lambda levels: like(levels)[:, None])
            table = self._tables[key] = table if levels_first else np.ascontiguousarray(table.T)
        return table


def _array_like(xp: Any, values: Array) -> Callable[[np.ndarray], Array]:
    """Function that converts numpy arrays to the library, dtype and device of `values`."""
    return lambda levels: xp.asarray(levels, dtype=values.dtype, device=device(values))


class _Places(NamedTuple):
    """Integers as indices of a table."""

    places: np.ndarray
    largest: int


def _places(xp: Any, values: Array) -> _Places | None:
    """Values as indices of a table, if all are integers and the table is smaller than `values`.

    Only for numpy arrays: the check of arrays on a GPU would wait for the GPU.
    """
    if xp is not NUMPY or not values.size:
        return None
    with np.errstate(invalid="ignore"):
        places = values.astype(np.intp)
    largest = int(places.view(np.uintp).max())  # negative values become the largest
    if largest >= values.size or not (places == values).all():
        return None
    return _Places(places, largest)
