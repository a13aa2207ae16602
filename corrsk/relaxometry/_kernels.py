"""Factorised kernels of a protocol as functions of the logarithms of tissue properties.

On a full grid of scan parameters the signal of a compartment is an outer
product of one-dimensional kernels, and so is each derivative of the signal. Inner
products of two such signals are products of short inner products, one per
axis. A scattered protocol has a single axis, along which all kernels are
multiplied; the algorithms are the same.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.axes import Axis, EchoFactor, Factor, measurement_axes

Array = NDArray[np.float64]

# Step of central differences in the logarithm: the truncation error (h^2 / 6) and the
# rounding error (1e-16 / h) are negligible for a Gauss-Newton step.
_STEP = 1e-4
_DOUBLE = math.log(2.0)


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
    nuisances : mapping of str to (low, high), optional
        Ranges of Q nuisance parameters that all compartments of a voxel share, and which are
        fitted: "inversion_efficiency", "b1" (of echo trains), "offset" (relative to M0) and "gain"
        (of the second series).

    Attributes
    ----------
    properties : tuple of str
        Names of the P tissue properties, such as ("T1", "T2").
    low, high : ndarray of shape (P,)
        Bounds of theta.
    nuisances : tuple of str
        Names of the Q nuisance parameters.
    nuisance_low, nuisance_high, nuisance_start : ndarray of shape (Q,)
        Logarithms of the bounds and the initial values of the nuisance parameters, of an offset
        those of 1 + offset.
    shape : tuple of int
        Number of points of each axis; their product is N.
    n_measurements : int
        Number of measurements N.
    is_separable : bool
        Whether each axis has the kernel of a single property (always on a grid).
    """

    def __init__(
        self,
        protocol: AcquisitionProtocol,
        bounds: Mapping[str, tuple[float, float]],
        inversion_efficiency: float = 1.0,
        nuisances: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.properties = protocol.tissue_properties
        P = len(self.properties)
        given = dict(nuisances or {})
        self.nuisances = tuple(given)
        # theta has logarithms, which a quantity around 0 does not have
        shifts = np.array([name == "offset" for name in given], dtype=np.float64)
        ranges = np.array(list(given.values()), np.float64).reshape(-1, 2)
        self.nuisance_low, self.nuisance_high = np.log(ranges + shifts[:, None]).T
        usual = {"inversion_efficiency": inversion_efficiency}
        start = np.log([usual.get(name, 1.0) for name in given])
        self.nuisance_start = np.clip(start, self.nuisance_low, self.nuisance_high)
        self._place = {name: P + index for index, name in enumerate(given)}
        self._second: Array | None = None  # 1 for measurements of the second series
        if "gain" in given:
            self._second = np.minimum(protocol._series_of_each, 1).astype(np.float64)
        self.low, self.high = np.log([bounds[name] for name in self.properties]).T
        self._axes = measurement_axes(
            protocol.contrasts,
            # the kernel of an echo train depends on T1, which couples the axes of a grid
            grid=protocol.grid_shape is not None and protocol.readout is None
            and not {"gain", "offset"} & set(given),
            tr=protocol.tr,
            inversion_efficiency=inversion_efficiency, readout=protocol.readout,
        )  # fmt: skip
        self._properties_of = [  # of each axis, as positions among the model's
            tuple(self.properties.index(factor.contrast.tissue) for factor in axis.factors)
            for axis in self._axes
        ]
        # and those of nuisance parameters, behind the properties
        self._unknowns_of = [
            (*columns, *(self._place[name] for name in given if self._acts_on(name, axis)))
            for axis, columns in zip(self._axes, self._properties_of, strict=True)
        ]
        self._t1 = self.properties.index("T1") if "T1" in self.properties else None
        self.shape = tuple(axis.size for axis in self._axes)
        self.n_measurements = math.prod(self.shape)
        self.is_separable = all(
            len(axis.factors) == 1 and not isinstance(axis.factors[0], EchoFactor)
            for axis in self._axes
        )

    @staticmethod
    def _acts_on(name: str, axis: Axis) -> bool:
        if name == "inversion_efficiency":
            return any(factor.contrast.longitudinal for factor in axis.factors)
        if name == "b1":
            return any(isinstance(factor, EchoFactor) for factor in axis.factors)
        return True

    def with_nuisances(self, theta: Array, values: Array | None = None) -> Array:
        """Append nuisance parameters, by default the initial values, to theta (.., P)."""
        if not self.nuisances:
            return theta
        values = self.nuisance_start if values is None else values
        shape = (*theta.shape[:-1], len(self.nuisances))
        return np.concatenate([theta, np.broadcast_to(values, shape)], axis=-1)

    def at(self, **nuisances: float) -> KernelModel:
        """Return the same model with other initial values of nuisance parameters."""
        other = copy.copy(self)
        other.nuisance_start = self.nuisance_start.copy()
        for name, value in nuisances.items():
            index = self.nuisances.index(name)
            other.nuisance_start[index] = math.log(value + (name == "offset"))
        return other

    def nuisance_values(self, theta: Array) -> dict[str, Array]:
        """Values of the nuisance parameters from their part (.., Q) of theta."""
        return {
            name: np.exp(theta[..., index]) - (name == "offset")
            for index, name in enumerate(self.nuisances)
        }

    def factors(self, theta: Array, *, derivatives: bool = False) -> list[Array]:
        """Kernels along each axis, and the derivatives with respect to theta.

        Parameters
        ----------
        theta : ndarray of shape (B, K, P) or (B, K, P + Q)
            Logarithms of the properties of K compartments, and of the nuisance parameters (by
            default the initial values).
        derivatives : bool
            Whether to return the derivatives too.

        Returns
        -------
        list of ndarray of shape (B, q K, n_axis)
            The K kernels, followed with `derivatives` by the K derivatives for each
            property of the axis.
        """
        if theta.shape[-1] == len(self.properties):
            theta = self.with_nuisances(theta)
        return [self._along(number, theta, derivatives) for number in range(len(self._axes))]

    def _along(self, number: int, theta: Array, derivatives: bool) -> Array:
        axis, columns = self._axes[number], self._properties_of[number]
        K = theta.shape[1]
        values: list[Array] = []
        slopes: list[dict[int, Array]] = []
        for factor, column in zip(axis.factors, columns, strict=True):
            if isinstance(factor, EchoFactor) or (
                factor.contrast.longitudinal and "inversion_efficiency" in self._place
            ):
                value, own = self._joint(factor, column, theta, derivatives)
                values.append(value)
                slopes.append(own)
                continue
            logs = theta[..., column]
            if derivatives:
                logs = np.concatenate([logs, logs + _STEP, logs - _STEP], axis=1)
            kernel = factor.kernel(np.exp(logs)[..., None])
            if factor.positions.size != factor.levels.size or len(axis.factors) > 1:
                kernel = kernel[..., factor.positions]
            values.append(kernel[:, :K])
            if derivatives:
                slope = (kernel[:, K : 2 * K] - kernel[:, 2 * K :]) / (2 * _STEP)
                slopes.append({column: slope})
        kernel = math.prod(values[1:], start=values[0])
        of_unknown = {}
        for column in self._unknowns_of[number] if derivatives else ():  # the product rule
            terms = [
                math.prod(values[:index] + values[index + 1 :], start=own[column])
                for index, own in enumerate(slopes)
                if column in own
            ]
            if terms:
                of_unknown[column] = sum(terms[1:], start=terms[0])
        if "offset" in self._place:  # of the sum of all compartments, whose amplitudes are M0
            place = self._place["offset"]
            whole = np.exp(theta[..., place, None])
            kernel = kernel + (whole - 1)
            of_unknown[place] = np.broadcast_to(whole, kernel.shape)
        if self._second is not None:
            place = self._place["gain"]
            gain = np.exp(theta[..., place, None] * self._second)
            kernel = kernel * gain
            of_unknown = {column: slope * gain for column, slope in of_unknown.items()}
            of_unknown[place] = kernel * self._second
        if not derivatives:
            return kernel
        blocks = [kernel, *(of_unknown[column] for column in self._unknowns_of[number])]
        return np.concatenate(blocks, axis=1)

    def _joint(
        self, factor: Factor, column: int, theta: Array, derivatives: bool
    ) -> tuple[Array, dict[int, Array]]:
        """Kernel (B, K, n_axis) of several unknowns, and its derivatives by unknown."""
        K = theta.shape[1]
        is_train = isinstance(factor, EchoFactor)
        name = "b1" if is_train else "inversion_efficiency"
        depends = [column, *([self._t1] if is_train and self._t1 is not None else [])]
        depends += [self._place[name]] if name in self._place else []
        linear = not is_train  # the longitudinal magnetisation is linear in the efficiency
        moved = [theta]
        for index in depends if derivatives else ():
            doubled = linear and index == self._place[name]
            for step in (_DOUBLE,) if doubled else (_STEP, -_STEP):
                other = theta.copy()
                other[..., index] += step
                moved.append(other)
        every = np.concatenate(moved, axis=1)
        values = np.exp(every[..., column])
        nuisance = np.exp(every[..., self._place[name]]) if name in self._place else None
        if isinstance(factor, EchoFactor):
            t1 = None if self._t1 is None else np.exp(every[..., self._t1])
            echoes = factor.echoes(t1, values, nuisance)
        else:
            assert nuisance is not None
            more = {"inversion_efficiency": nuisance[..., None]}
            echoes = factor.kernel(values[..., None], more=more)
        echoes = echoes[..., factor.positions]
        parts = iter([echoes[:, start : start + K] for start in range(0, every.shape[1], K)])
        kernel = next(parts)
        slopes = {}
        for index in depends if derivatives else ():
            if linear and index == self._place[name]:  # twice the efficiency less the efficiency
                slopes[index] = next(parts) - kernel
            else:
                slopes[index] = (next(parts) - next(parts)) / (2 * _STEP)
        return kernel, slopes

    def columns(self, K: int) -> list[NDArray[np.intp]]:
        """Rows of the factor of each axis that form the columns of [Phi, D].

        Phi has K columns, one per compartment; D has (P + Q) K columns, the derivatives with
        respect to the first property of each compartment, then the second, .., and the nuisance
        parameters.
        """
        base = np.arange(K)
        indices = []
        for properties in self._unknowns_of:
            blocks = [base]
            for column in range(len(self.properties) + len(self.nuisances)):
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

    def axis_kernels(self, n_points: Sequence[int]) -> list[Array]:
        """Kernel of each axis on the grid of its property, of a separable model.

        The Kronecker product of the kernels is ``dictionary(grid(n_points)).T``, since axes and
        properties have the same order.

        Parameters
        ----------
        n_points : sequence of int
            Number of grid points of each property.

        Returns
        -------
        list of ndarray of shape (n_axis, n_p)
            The kernels.
        """
        kernels = []
        for number, (axis, column) in enumerate(zip(self._axes, self._properties_of, strict=True)):
            assert column == (number,)
            (factor,) = axis.factors
            logs = np.linspace(self.low[number], self.high[number], n_points[number])
            along = factor.kernel(np.exp(logs)[:, None])
            kernels.append(along[:, factor.positions].T)
        return kernels
