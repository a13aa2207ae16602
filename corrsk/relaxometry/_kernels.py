"""Factorised kernels of a protocol as functions of the logarithms of tissue properties.

On a full grid of scan parameters the signal of a compartment is an outer
product of one-dimensional kernels, and so is each derivative of the signal. Inner
products of two such signals are products of short inner products, one per
axis. A scattered protocol has a single axis, along which all kernels are
multiplied; the algorithms are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.axes import Axis, measurement_axes
from corrsk.physics.contrasts import tissue_quantity
from corrsk.tissue.ranges import PropertyRange

Array = NDArray[np.float64]

# T1 and T2: ranges of the paper's prior. D: from hindered water in tissue to above free
# water at body temperature (3 um^2/ms).
DEFAULT_BOUNDS: dict[str, tuple[float, float]] = {
    "T1": (50.0, 5000.0),
    "T2": (5.0, 500.0),
    "D": (0.05, 5.0),
}
# Step of central differences in the logarithm: the truncation error (h^2 / 6) and the
# rounding error (1e-16 / h) are negligible for a Gauss-Newton step.
_STEP = 1e-4


def checked_bounds(
    bounds: Mapping[str, tuple[float, float] | PropertyRange] | None, properties: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Range of each tissue property, from `bounds` or the defaults.

    Raises
    ------
    ValueError
        If a range is neither a pair 0 < low < high nor a PropertyRange, is not plausible in the
        unit of the property, is missing, or if the protocol does not measure the property.
    """
    given = dict(bounds or {})
    unknown = [name for name in given if name not in properties]
    if unknown:
        raise ValueError(
            f"bounds has {', '.join(map(repr, unknown))}, but the protocol measures "
            f"{', '.join(properties)}"
        )
    checked = {}
    for name in properties:
        pair = given.get(name, DEFAULT_BOUNDS.get(name))
        if pair is None:
            raise ValueError(f"bounds must have the range of {name}, which has no default")
        is_range = isinstance(pair, PropertyRange)
        if isinstance(pair, PropertyRange):
            pair.check_units(name)
            pair = (pair.low, pair.high)
        try:
            low, high = (float(value) for value in pair)
        except (TypeError, ValueError):
            low = high = math.nan
        if not 0 < low < high < math.inf:
            raise ValueError(
                f"the bounds of {name} must be a pair (low, high) with 0 < low < high, got {pair!r}"
            )
        if not is_range:  # the unit of a range may have been stated
            tissue_quantity(name).check(high, "PropertyRange(low, high, units={unit!r})")
        checked[name] = (low, high)
    return checked


class KernelModel:
    """Kernels of a protocol as functions of theta, the logarithms of the tissue properties.

    Parameters
    ----------
    protocol : AcquisitionProtocol
        Protocol in grid order, with N measurements.
    bounds : mapping of str to (low, high)
        Range of each tissue property that the protocol measures.
    inversion_efficiency : float
        Inversion efficiency eta in (0, 1].

    Attributes
    ----------
    properties : tuple of str
        Names of the P tissue properties, such as ("T1", "T2").
    low, high : ndarray of shape (P,)
        Bounds of theta.
    shape : tuple of int
        Number of points of each axis; their product is N.
    """

    def __init__(
        self,
        protocol: AcquisitionProtocol,
        bounds: Mapping[str, tuple[float, float]],
        inversion_efficiency: float = 1.0,
    ) -> None:
        self.properties = protocol.tissue_properties
        self.low, self.high = np.log([bounds[name] for name in self.properties]).T
        self._axes = measurement_axes(
            protocol.contrasts, grid=protocol.grid_shape is not None, tr=protocol.tr,
            inversion_efficiency=inversion_efficiency,
        )  # fmt: skip
        self._properties_of = [  # of each axis, as positions among the model's
            tuple(self.properties.index(factor.contrast.tissue) for factor in axis.factors)
            for axis in self._axes
        ]
        self.shape = tuple(axis.size for axis in self._axes)

    def factors(self, theta: Array, *, derivatives: bool = False) -> list[Array]:
        """Kernels along each axis, and the derivatives with respect to theta.

        Parameters
        ----------
        theta : ndarray of shape (B, K, P)
            Logarithms of the properties of K compartments.
        derivatives : bool
            Whether to return the derivatives too.

        Returns
        -------
        list of ndarray of shape (B, q K, n_axis)
            The K kernels, followed with `derivatives` by the K derivatives for each
            property of the axis.
        """
        return [
            self._along(axis, columns, theta, derivatives)
            for axis, columns in zip(self._axes, self._properties_of, strict=True)
        ]

    def _along(
        self, axis: Axis, columns: tuple[int, ...], theta: Array, derivatives: bool
    ) -> Array:
        K = theta.shape[1]
        values, slopes = [], []
        for factor, column in zip(axis.factors, columns, strict=True):
            logs = theta[..., column]
            if derivatives:
                logs = np.concatenate([logs, logs + _STEP, logs - _STEP], axis=1)
            kernel = factor.kernel(np.exp(logs)[..., None])
            if factor.positions.size != factor.levels.size or len(axis.factors) > 1:
                kernel = kernel[..., factor.positions]
            values.append(kernel[:, :K])
            if derivatives:
                slopes.append((kernel[:, K : 2 * K] - kernel[:, 2 * K :]) / (2 * _STEP))
        blocks = [math.prod(values[1:], start=values[0])]
        for index, slope in enumerate(slopes):  # the product rule
            blocks.append(math.prod(values[:index] + values[index + 1 :], start=slope))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    def columns(self, K: int) -> list[NDArray[np.intp]]:
        """Rows of the factor of each axis that form the columns of [Phi, D].

        Phi has K columns, one per compartment; D has P K columns, the derivatives with
        respect to the first property of each compartment, then the second, ..
        """
        base = np.arange(K)
        indices = []
        for properties in self._properties_of:
            blocks = [base]
            for column in range(len(self.properties)):
                own = properties.index(column) + 1 if column in properties else 0
                blocks.append(base + own * K)
            indices.append(np.concatenate(blocks))
        return indices

    def gram(self, factors: Sequence[Array], columns: Sequence[NDArray[np.intp]]) -> Array:
        """Inner products of the columns, shape (B, J, J), as a Hadamard product over the axes."""
        gram = None
        for factor, index in zip(factors, columns, strict=True):
            along = np.matmul(factor, factor.transpose(0, 2, 1))[:, index[:, None], index]
            gram = along if gram is None else np.multiply(gram, along, out=gram)
        assert gram is not None
        return gram

    def project(
        self, factors: Sequence[Array], columns: Sequence[NDArray[np.intp]], x: Array
    ) -> Array:
        """Inner products of the columns with signals x of shape (B, N): shape (B, J)."""
        size = self.shape[-1]
        partial = np.matmul(x.reshape(len(x), -1, size), factors[-1].transpose(0, 2, 1))
        partial = partial[..., columns[-1]]
        for factor, index, size in zip(
            factors[-2::-1], columns[-2::-1], self.shape[-2::-1], strict=True
        ):
            partial = partial.reshape(len(x), -1, size, len(index))
            partial = np.einsum("brnj,bjn->brj", partial, factor[:, index])
        return partial.reshape(len(x), -1)

    def signals(self, factors: Sequence[Array], amplitudes: Array) -> Array:
        """Signals ``Phi a``, shape (B, N), from factors (B, K, n_axis) and amplitudes (B, K)."""
        B, K = amplitudes.shape
        outer = amplitudes[:, :, None]
        for factor in factors[:-1]:
            outer = (outer[..., None] * factor[:, :K, None, :]).reshape(B, K, -1)
        return np.matmul(outer.transpose(0, 2, 1), factors[-1][:, :K]).reshape(B, -1)

    def grid(self, n_points: Sequence[int]) -> tuple[list[Array], Array]:
        """Log-spaced values of each property between its bounds, and all combinations of values.

        Returns
        -------
        axes : list of ndarray of shape (n_p,)
            Values in the units of the properties.
        theta : ndarray of shape (M, P)
            Logarithms of all combinations, in C order.
        """
        logs = [
            np.linspace(low, high, n)
            for low, high, n in zip(self.low, self.high, n_points, strict=True)
        ]
        mesh = np.meshgrid(*logs, indexing="ij")
        return [np.exp(axis) for axis in logs], np.stack([m.ravel() for m in mesh], axis=-1)

    def dictionary(self, theta: Array) -> Array:
        """Signals of single compartments of amplitude 1: (M, P) to (M, N)."""
        factors = self.factors(theta[:, None, :])
        return self.signals(factors, np.ones((len(theta), 1)))
