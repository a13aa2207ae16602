"""The signal of a voxel with several compartments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from corrsk.physics._arrays import NUMPY, Array, promote
from corrsk.physics.axes import EchoFactor, Factor, Readout, measurement_axes

# nuisance parameters of each voxel that act on signals without noise
SIGNAL_NUISANCES = ("inversion_efficiency", "b1", "echo_loss", "offset")


def correlation_signals(
    measurements: Mapping[str, Array],
    tissue: Mapping[str, Array],
    fractions: Array,
    *,
    tr: Array | None = None,
    inversion_efficiency: Array | float = 1.0,
    readout: Readout = None,
    b1: Array | None = None,
    echo_loss: Array | None = None,
    offset: Array | None = None,
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
    inversion_efficiency : float or array of shape (n_samples,), default=1.0
        See :func:`inversion_recovery`.
    readout : EchoTrain or sequence of EchoTrain or None, optional
        Echo train of all measurements, or of each one; None (default) for single spin echoes.
    b1 : array of shape (n_samples,), optional
        Transmit field relative to the nominal one, which scales the flip angles of echo trains;
        None for 1.
    echo_loss : array of shape (n_samples,), optional
        Loss of signal from one echo time to the next, as a fraction: the echo time of rank n, from
        0, has ``(1 - loss)^n`` of the signal. None for 0.
    offset : array of shape (n_samples,), optional
        Constant that is added to all measurements, relative to M0; None for 0.

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
    each = np.ndim(inversion_efficiency) > 0
    model = SignalModel(
        measurements, tr=tr, inversion_efficiency=1.0 if each else inversion_efficiency,
        readout=readout,
    )  # fmt: skip
    nuisances = {
        "inversion_efficiency": inversion_efficiency if each else None, "b1": b1,
        "echo_loss": echo_loss, "offset": offset,
    }  # fmt: skip
    return model(
        tissue, fractions, {name: one for name, one in nuisances.items() if one is not None}
    )


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
    readout : EchoTrain or sequence of EchoTrain or None, optional
        Echo train of all measurements, or of each one; None (default) for single spin echoes.

    Raises
    ------
    KeyError
        If a scan parameter is unknown.
    ValueError
        If `tr` or `readout` has not one entry per measurement, or an echo time is no multiple of
        the spacing of its echo train.
    """

    def __init__(
        self,
        measurements: Mapping[str, Array],
        *,
        tr: Array | None = None,
        inversion_efficiency: float = 1.0,
        readout: Readout = None,
    ) -> None:
        (axis,) = measurement_axes(
            measurements, grid=False, tr=tr, inversion_efficiency=inversion_efficiency,
            readout=readout,
        )  # fmt: skip
        self._factors = axis.factors  # in the order of the axes of a grid: TI, TE, b
        te = np.asarray(measurements.get("TE", np.zeros(axis.size)))
        self._echo_ranks = np.unique(te, return_inverse=True)[1].ravel().astype(np.float64)
        self._tables: dict[tuple[int, Any, bool], np.ndarray] = {}
        shape = tuple(factor.levels.size for factor in self._factors)
        # a scattered protocol: its levels span a grid much larger than the protocol
        self._scattered = len(shape) == 1 or math.prod(shape) > 2 * axis.size
        self._in_grid: np.ndarray | None = None
        if not self._scattered:
            in_grid = np.ravel_multi_index(tuple(f.positions for f in self._factors), shape)
            if not np.array_equal(in_grid, np.arange(math.prod(shape))):
                self._in_grid = in_grid

    def __call__(
        self,
        tissue: Mapping[str, Array],
        fractions: Array,
        nuisances: Mapping[str, Array] | None = None,
    ) -> Array:
        """Noise-free signals; see :func:`correlation_signals`.

        Parameters
        ----------
        tissue : mapping of str to array of shape (n_samples, n_compartments)
            Tissue properties.
        fractions : array of shape (n_samples, n_compartments)
            Signal fractions; 0 marks an absent compartment.
        nuisances : mapping of str to array of shape (n_samples,), optional
            Nuisance parameters of each voxel: "inversion_efficiency" (in the place of that of the
            model), "b1", "echo_loss" and "offset".

        Returns
        -------
        array of shape (n_samples, n_measurements)
            Signals.
        """
        xp, fractions = promote(fractions)
        present, ones = fractions > 0, xp.ones_like(fractions)
        # any finite value is valid where the fraction is 0, but not NaN
        complete = {
            name: xp.where(present, xp.astype(tissue[name], fractions.dtype, copy=False), ones)
            for name in (factor.contrast.tissue for factor in self._factors)
        }
        return self.of_complete_tissue(complete, fractions, nuisances)

    def of_complete_tissue(
        self,
        tissue: Mapping[str, Array],
        fractions: Array,
        nuisances: Mapping[str, Array] | None = None,
    ) -> Array:
        """Noise-free signals of tissue without NaN, whose dtype is that of `fractions`.

        Parameters
        ----------
        tissue : mapping of str to array of shape (n_samples, n_compartments)
            Tissue properties; finite values for absent compartments too.
        fractions : array of shape (n_samples, n_compartments)
            Signal fractions; 0 marks an absent compartment.
        nuisances : mapping of str to array of shape (n_samples,), optional
            Nuisance parameters of each voxel: "inversion_efficiency" (in the place of that of the
            model), "b1", "echo_loss" and "offset".

        Returns
        -------
        array of shape (n_samples, n_measurements)
            As :func:`correlation_signals` returns.
        """
        xp, fractions = promote(fractions)
        like = _array_like(xp, fractions)
        given = {name: like(values) for name, values in (nuisances or {}).items()}
        properties = [tissue[factor.contrast.tissue] for factor in self._factors]
        voxels = _Voxels(tissue.get("T1"), fractions, given)
        signals = (self._of_scattered if self._scattered else self._of_grid)(xp, properties, voxels)
        if "echo_loss" in given:
            ranks = like(self._echo_ranks)
            signals = signals * (1 - given["echo_loss"][:, None]) ** ranks
        offset = given.get("offset")
        return signals if offset is None else signals + offset[:, None]

    def _of_scattered(self, xp: Any, properties: list[Array], voxels: _Voxels) -> Array:
        product = voxels.fractions[..., None]
        for axis, values in enumerate(properties):
            index = xp.asarray(self._factors[axis].positions, device=device(product))
            product = product * xp.take(self._kernel(xp, axis, values, voxels), index, axis=-1)
        return xp.sum(product, axis=-2)

    def _of_grid(self, xp: Any, properties: list[Array], voxels: _Voxels) -> Array:
        # The sum over compartments is a matrix product of the last kernel with the outer product
        # of the other kernels. numpy is fastest with the compartments as the last axis of the
        # outer product, and the BLAS accepts this layout.
        fractions = voxels.fractions
        n = fractions.shape[0]
        *others, last = properties
        outer = self._kernel_by_level(xp, 0, others[0], voxels) * fractions
        for axis, values in enumerate(others[1:], start=1):
            kernel = self._kernel_by_level(xp, axis, values, voxels)
            outer = outer[:, None] * kernel
            outer = xp.reshape(outer, (outer.shape[0] * outer.shape[1], *fractions.shape))
        grid = xp.matmul(
            xp.permute_dims(outer, (1, 0, 2)), self._kernel(xp, len(others), last, voxels)
        )
        grid = xp.reshape(grid, (n, grid.shape[1] * grid.shape[2]))
        if self._in_grid is None:
            return grid
        return xp.take(grid, xp.asarray(self._in_grid, device=device(fractions)), axis=-1)

    def _kernel_by_level(self, xp: Any, axis: int, values: Array, voxels: _Voxels) -> Array:
        """Kernel of an axis, shape (levels, n, C)."""
        factor = self._factors[axis]
        if isinstance(factor, EchoFactor):
            return xp.permute_dims(voxels.echoes(xp, factor, values), (2, 0, 1))
        efficiency = voxels.efficiency(factor)
        found = _places(xp, values) if efficiency is None else None
        if found is not None:
            table = self._table(axis, values.dtype, found.largest, levels_first=True)
            # clip: numpy's own check of the indices takes longer, and all are within the table
            return np.take(table, found.places, axis=1, mode="clip")
        like = _array_like(xp, values)
        more = None if efficiency is None else {"inversion_efficiency": efficiency[None, :, None]}
        return factor.kernel(values, lambda levels: like(levels)[:, None, None], more)

    def _kernel(self, xp: Any, axis: int, values: Array, voxels: _Voxels) -> Array:
        """Kernel of an axis, shape (n, C, levels)."""
        factor = self._factors[axis]
        if isinstance(factor, EchoFactor):
            return voxels.echoes(xp, factor, values)
        efficiency = voxels.efficiency(factor)
        found = _places(xp, values) if efficiency is None else None
        if found is not None:
            table = self._table(axis, values.dtype, found.largest, levels_first=False)
            return np.take(table, found.places, axis=0, mode="clip")
        # repeated instead of broadcast: numpy's inner loops are as long as the last axis
        like = _array_like(xp, values)
        more = None if efficiency is None else {"inversion_efficiency": efficiency[:, None]}
        repeated = xp.repeat(values, factor.levels.size, axis=-1)
        kernel = factor.kernel(
            repeated, lambda levels: xp.tile(like(levels), (values.shape[-1],)), more
        )
        return xp.reshape(kernel, (*values.shape, factor.levels.size))

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


class _Voxels(NamedTuple):
    """T1 (or None), fractions and nuisance parameters of the voxels of a call."""

    t1: Array | None
    fractions: Array
    nuisances: Mapping[str, Array]

    def efficiency(self, factor: Factor) -> Array | None:
        """Inversion efficiency of each voxel, if there is one and the kernel depends on it."""
        if not factor.contrast.longitudinal:
            return None
        return self.nuisances.get("inversion_efficiency")

    def echoes(self, xp: Any, factor: EchoFactor, t2: Array) -> Array:
        """Echo amplitudes (n, C, levels)."""
        b1 = self.nuisances.get("b1")
        if b1 is not None:
            b1 = xp.broadcast_to(b1[:, None], t2.shape)
        if xp is not NUMPY:
            return factor.echoes(self.t1, t2, b1)
        # most voxels have fewer compartments than the table has columns
        present = self.fractions > 0
        amplitudes = np.zeros((*t2.shape, factor.levels.size), t2.dtype)
        t1, b1 = (None if one is None else one[present] for one in (self.t1, b1))
        amplitudes[present] = factor.echoes(t1, t2[present], b1)
        return amplitudes


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
