"""Inner products of the signals of compartments, on which the likelihood depends.

The signal of a voxel is ``S = sum_i f_i phi_i``. With ``c_i = x . phi_i`` and
``M_ij = phi_i . phi_j`` the likelihood of a measured x follows from
``x . S = c . f`` and ``|S|^2 = f' M f``; the signals of a grid protocol, outer
products of short kernels, are never computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.axes import EchoFactor, Factor, measurement_axes
from corrsk.relaxometry.ideal_observer._nuisances import NuisanceRange
from corrsk.tissue.ranges import PropertyRange

Array = NDArray[np.float64]
Units = NDArray[np.float32]  # coordinates of tissue properties, in [0, 1)

_LARGEST_TABLE = (
    40_000  # largest number of combinations of the properties for a table of projections
)
_LARGEST_GRAM = 512  # largest number of values of one property


@dataclass(frozen=True)
class Forms:
    """Inner products of K compartments.

    Parameters
    ----------
    c : list of K arrays
        ``x . phi_i``.
    M : list of lists of arrays
        ``phi_i . phi_j``, the lower triangle: ``M[i][j]`` for j <= i.
    kernels : list of lists of arrays (V, n_axis, C)
        Kernels of each compartment along each axis; empty unless the peak
        of the signal is required.
    """

    c: list[Array]
    M: list[list[Array]]
    kernels: list[list[NDArray[Any]]]

    def projection(self, fractions: list[Array]) -> Array:
        """Projection ``x . S``."""
        total = fractions[0] * self.c[0]
        for f, c in zip(fractions[1:], self.c[1:], strict=True):
            total += f * c
        return total

    def squared(self, fractions: list[Array]) -> Array:
        """Squared norm ``|S|^2``."""
        total = np.zeros_like(self.c[0])
        for i, f in enumerate(fractions):
            inner = f * self.M[i][i]
            for j in range(i):
                inner += 2.0 * fractions[j] * self.M[i][j]
            inner *= f
            total += inner
        return total

    def peak(self, fractions: list[Array]) -> Array | None:
        """Peak ``max |S|`` in single precision; None without kernels."""
        if not self.kernels:
            return None
        *outer, _ = self.kernels[0]
        scaled = [f.astype(np.float32)[:, None] for f in fractions]
        largest = np.zeros(fractions[0].shape, np.float32)
        for where in itertools.product(*(range(kernel.shape[1]) for kernel in outer)):
            signal: NDArray[Any] | float = 0.0
            for f, kernels in zip(scaled, self.kernels, strict=True):
                *others, last = kernels
                for index, kernel in zip(where, others, strict=True):
                    f = f * kernel[:, index : index + 1]
                signal = signal + f * last
            np.maximum(largest, np.abs(signal).max(axis=1), out=largest)
        return largest.astype(np.float64)


class ListedForms(Forms):
    """Inner products of states that are listed voxel by voxel, arrays of shape (C,).

    `kernels` has the kernels (K, n_axis, C) of all compartments along both axes.
    """

    def peak(self, fractions: list[Array]) -> Array | None:
        """Peak ``max |S|``; None without kernels."""
        from corrsk.relaxometry.ideal_observer import _products_compiled

        if not self.kernels:
            return None
        first, last = self.kernels[0]
        found = np.empty(fractions[0].shape)
        _products_compiled.peaks(first, last, np.stack(fractions), found)
        return found


class CompartmentModel:
    """Signals of compartments as functions of coordinates with a uniform prior.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol in grid order, with N measurements.
    ranges : mapping of str to PropertyRange
        The P properties of the prior, including all properties that the protocol measures.
    inversion_efficiency : float
        Inversion efficiency eta in (0, 1].
    peak : bool
        Whether the peaks of signals are required.
    nuisances : sequence of NuisanceRange, default=()
        Nuisance parameters: the ranges of Q of them, and fixed values.

    Notes
    -----
    For a grid protocol and a prior on a grid, the projections of a voxel's
    signal are tabulated for all combinations of values, and the inner products of
    kernels for each axis. Otherwise kernels are evaluated for each
    compartment, along each axis of a grid or at the N points of a scattered
    protocol; with nuisance parameters always.
    """

    def __init__(
        self,
        protocol: AcquisitionProtocol,
        ranges: Mapping[str, PropertyRange],
        inversion_efficiency: float,
        peak: bool,
        nuisances: Sequence[NuisanceRange] = (),
    ) -> None:
        self._nuisances = tuple(nuisances)
        self._ranges = list(ranges.values())
        self._peak = peak
        names = list(ranges)
        axes = measurement_axes(
            protocol.contrasts,
            grid=protocol.grid_shape is not None and protocol.readout is None, tr=protocol.tr,
            inversion_efficiency=inversion_efficiency, readout=protocol.readout,
        )  # fmt: skip
        # a TR that changes within an axis couples the axes of a grid
        is_grid = (
            protocol.grid_shape is not None
            and protocol.readout is None
            and len(axes) == len(protocol.contrasts)
        )
        # each factor, with the index of its property
        self._axes = [
            [(names.index(factor.contrast.tissue), factor) for factor in axis.factors]
            for axis in axes
        ]
        self._t1 = names.index("T1") if "T1" in names else None
        self.last_probed = self._axes[-1][-1][0]
        self.shape = tuple(axis.size for axis in axes)
        sizes = [self._ranges[axis[0][0]].n_values for axis in self._axes]
        self.tabulated = (
            is_grid
            and not self._nuisances
            and all(self._ranges[axis[0][0]].step is not None for axis in self._axes)
            and math.prod(sizes) <= _LARGEST_TABLE
            and max(sizes) <= _LARGEST_GRAM
        )
        if self.tabulated:
            self._sizes = [int(size) for size in sizes]
            self._tables = []
            for axis, size in zip(self._axes, self._sizes, strict=True):
                index, factor = axis[0]
                values = self._ranges[index]
                grid = values.low + values.step * np.arange(size)  # type: ignore[operator]
                self._tables.append(factor.kernel(grid[:, None]))
            self._grams = [(table @ table.T).ravel() for table in self._tables]
            self._narrow = [np.ascontiguousarray(t.T, dtype=np.float32) for t in self._tables]

    def bind(self, x: Array) -> BoundModel:
        """Bind the model to the signals x of shape (V, N)."""
        return BoundModel(self, x)

    @property
    def n_measurements(self) -> int:
        """Number of measurements N."""
        return math.prod(self.shape)

    @property
    def is_separable(self) -> bool:
        """Whether each axis has the kernel of a single property."""
        return all(len(axis) == 1 and not isinstance(axis[0][1], EchoFactor) for axis in self._axes)

    @property
    def is_product(self) -> bool:
        """Whether signals are outer products of two kernels, which are evaluated."""
        return len(self.shape) == 2 and not self.tabulated

    def depends_on(self, axis: int, index: int) -> bool:
        """Whether the kernels along an axis depend on a property, also through an echo train."""
        return any(
            index == own or (isinstance(factor, EchoFactor) and index == self._t1)
            for own, factor in self._axes[axis]
        )

    def shared_values(self, shared: Array) -> dict[str, Array]:
        """Nuisance parameters (1, 1, C), or numbers, from their coordinates (Q, C)."""
        coordinates = iter(shared)
        return {
            each.name: np.asarray(each.low)
            if each.is_fixed
            else each.from_unit(next(coordinates))[None, None]
            for each in self._nuisances
        }

    def nuisances(self, units: Units) -> dict[str, Array]:
        """Nuisance parameters (V, 1, C), or numbers, from coordinates (P + Q, K, V, C)."""
        coordinates = iter(units[len(self._ranges) :])
        return {
            each.name: np.asarray(each.low)
            if each.is_fixed
            else each.from_unit(next(coordinates)[0])[:, None]
            for each in self._nuisances
        }

    def kernels(self, values: list[Array], nuisances: Mapping[str, Array]) -> list[Array]:
        """Kernels (V, n_axis, C) of one compartment with properties (V, C), along each axis."""
        efficiency = {
            name: value for name, value in nuisances.items() if name == "inversion_efficiency"
        }
        loss = nuisances.get("echo_loss")
        along = []
        for axis in self._axes:
            product = None
            for index, factor in axis:
                if isinstance(factor, EchoFactor):
                    t1 = None if self._t1 is None else values[self._t1]
                    kernel = factor.echoes(t1, values[index])[..., factor.positions]
                    kernel = np.ascontiguousarray(kernel.swapaxes(1, 2))
                else:
                    kernel = factor.kernel(
                        values[index][:, None, :], partial(_at_points, factor),
                        efficiency if factor.contrast.longitudinal else None,
                    )  # fmt: skip
                if loss is not None and factor.contrast.parameter == "TE":
                    ranks = np.unique(factor.levels, return_inverse=True)[1]
                    kernel = kernel * (1 - loss) ** ranks[factor.positions][:, None]
                product = kernel if product is None else np.multiply(product, kernel, out=product)
            assert product is not None
            along.append(product)
        return along


def _at_points(factor: Factor, levels: Array) -> Array:
    """Levels at each point of the axis, shape (n_axis, 1)."""
    return levels[factor.positions][:, None]


class BoundModel:
    """Compartment model together with the signals of V voxels."""

    def __init__(self, model: CompartmentModel, x: Array) -> None:
        self._model = model
        grid = x.reshape(len(x), *model.shape)
        self.signal_squared = (x * x).sum(axis=1)[:, None]
        if model.tabulated:
            # axis by axis: (V, .., n_axis) to (V, .., n_values)
            table = grid
            for kernel in model._tables:
                table = np.matmul(kernel, table.reshape(len(x), kernel.shape[1], -1))
                table = table.transpose(0, 2, 1)
            self._projections = np.ascontiguousarray(table).reshape(len(x), -1)
        else:
            self._grid = grid

    def forms(self, units: Units, voxels: NDArray[np.intp]) -> Forms:
        """Inner products for coordinates of tissue properties.

        Parameters
        ----------
        units : ndarray of shape (P + Q, K, V, C)
            C states of K compartments with P properties, and Q nuisance parameters, in each of V
            voxels.
        voxels : ndarray of int, shape (V,)
            Index of the signal of each voxel.

        Returns
        -------
        Forms
            Inner products, arrays of shape (V, C).
        """
        if self._model.tabulated:
            return self._looked_up(units, voxels)
        return self._evaluated(units, voxels)

    def listed_forms(
        self, units: Units, voxels: NDArray[np.intp], numbers: NDArray[np.int64]
    ) -> ListedForms:
        """Inner products of states that are listed voxel by voxel, from compiled functions.

        Parameters
        ----------
        units : ndarray of shape (P + Q, K, C)
            As for :meth:`forms`, with the states of each voxel side by side.
        voxels : ndarray of int, shape (V,)
            Index of the signal of each voxel.
        numbers : ndarray of int, shape (V,)
            Number of states of each voxel, of sum C.

        Returns
        -------
        ListedForms
            Inner products, arrays of shape (C,).
        """
        from corrsk.relaxometry.ideal_observer import _products_compiled

        model, (K, C) = self._model, units.shape[1:]
        values = [
            own.from_unit(u.astype(np.float64) if own.step is None else u)
            for u, own in zip(units[: len(model._ranges)], model._ranges, strict=True)
        ]
        first, last = model.kernels(values, model.nuisances(units[:, :, None]))
        projections, among = np.empty((K, C)), np.empty((K, K, C))
        ends = np.append(0, np.cumsum(numbers))
        # one layout, so that one function is compiled
        first, last = np.ascontiguousarray(first), np.ascontiguousarray(last)
        _products_compiled.forms(
            first, last, np.ascontiguousarray(self._grid[voxels]), ends, projections, among
        )
        kernels: list[list[NDArray[Any]]] = [[first, last]] if model._peak else []
        return ListedForms(list(projections), [list(among[i, : i + 1]) for i in range(K)], kernels)

    def _looked_up(self, units: Units, voxels: NDArray[np.intp]) -> Forms:
        model, K = self._model, units.shape[1]
        offset = (voxels * self._projections.shape[1])[:, None]
        ranges = [(axis[0][0], model._ranges[axis[0][0]]) for axis in model._axes]
        index = [[values.cells(units[p, i]) for i in range(K)] for p, values in ranges]
        flat = self._projections.reshape(-1)
        c, M = [], []
        rows = [[at[i] * size for i in range(K)] for at, size in zip(index, model._sizes)]  # noqa: B905
        for i in range(K):
            joint = index[0][i]
            for at, size in zip(index[1:], model._sizes[1:], strict=True):
                joint = joint * size + at[i]
            c.append(flat.take(joint + offset))
            line = []
            for j in range(i + 1):
                product = None
                for gram, row, at in zip(model._grams, rows, index, strict=True):
                    factor = gram.take(row[i] + at[j])
                    product = (
                        factor if product is None else np.multiply(product, factor, out=product)
                    )
                assert product is not None
                line.append(product)
            M.append(line)
        kernels: list[list[NDArray[Any]]] = []
        if model._peak:
            kernels = [
                [
                    table[:, at[i]].transpose(1, 0, 2)
                    for table, at in zip(model._narrow, index, strict=True)
                ]
                for i in range(K)
            ]
        return Forms(c, M, kernels)

    def _evaluated(self, units: Units, voxels: NDArray[np.intp]) -> Forms:
        model, K = self._model, units.shape[1]
        x = self._grid[voxels]
        nuisances = model.nuisances(units)
        kernels, c, M = [], [], []
        for i in range(K):
            values = [
                own.from_unit(u[i].astype(np.float64) if own.step is None else u[i])
                for u, own in zip(units[: len(model._ranges)], model._ranges, strict=True)
            ]
            along = model.kernels(values, nuisances)
            kernels.append(along)
            # matrix product for the last axis, then sums over the other axes
            left = np.matmul(x.reshape(len(x), -1, x.shape[-1]), along[-1])
            for size, kernel in zip(model.shape[-2::-1], along[-2::-1], strict=True):
                left = left.reshape(len(x), -1, size, left.shape[-1])
                left = (left * kernel[:, None]).sum(axis=2)
            c.append(left[:, 0])
            line = []
            for j in range(i + 1):
                product = None
                for one, other in zip(along, kernels[j], strict=True):
                    factor = np.einsum("vmc,vmc->vc", one, other)
                    product = (
                        factor if product is None else np.multiply(product, factor, out=product)
                    )
                assert product is not None
                line.append(product)
            M.append(line)
        narrow = (
            [[kernel.astype(np.float32) for kernel in along] for along in kernels]
            if model._peak
            else []
        )
        return Forms(c, M, narrow)
