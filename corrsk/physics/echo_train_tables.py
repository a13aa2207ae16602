"""Tables of echo trains, from which the echoes of many voxels are interpolated."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.polynomial import chebyshev
from scipy.interpolate import BSpline, make_interp_spline

from corrsk.physics._arrays import NUMPY, Array
from corrsk.physics.echo_trains import EchoTrain, echo_train

# Steps of the tables, in ln T2 and in B1, for an interpolation error below 1e-4 of M0
_T2_STEP, _B1_STEP = 0.04, 0.005
# Number of T2 at which echo trains are computed; splines yield the table from these
_T2_POINTS = 60
_B1_MARGIN = 0.05  # ranges of B1 are extended to multiples of this number, to share tables
_PIECE = 512
_DEGREE_ERROR = 3e-5  # of M0: the largest last coefficient of the polynomials in exp(-spacing / T1)
_LARGEST_DEGREE = 16


class EchoTrainTable:
    """Echoes of a train as a function of T1, T2 and B1, by interpolation.

    Parameters
    ----------
    train : EchoTrain
        The echo train.
    echoes : array of int, shape (n_echoes,)
        Numbers of the echoes, from 1.

    Notes
    -----
    The table has the difference between the echoes and ``exp(-TE / T2)``, which is smooth and
    small: linear interpolation in ln T2 and B1, and polynomials in ``exp(-spacing / T1)``. Echo n
    is exactly a polynomial of degree n - 1 at most in this number. The error is below 1e-4 of M0.
    """

    def __init__(self, train: EchoTrain, echoes: Array) -> None:
        self.train = train
        self.echoes = tuple(int(number) for number in echoes)
        self._on_device: dict[Any, tuple[_Table, Array]] = {}

    def __call__(self, t1: Array, t2: Array, b1: Array | None = None) -> Array:
        """Echo amplitudes for M0 = 1.

        Parameters
        ----------
        t1, t2 : array
            Relaxation times in ms, of equal shapes.
        b1 : array, optional
            Transmit field relative to the nominal one, broadcast against `t2`; None for 1.

        Returns
        -------
        array of shape (..., n_echoes)
            Amplitudes, in the dtype and on the device of `t2`.
        """
        xp = array_namespace(t2)
        shape = tuple(t2.shape)
        t1, t2 = (xp.reshape(xp.broadcast_to(time, shape), (-1,)) for time in (t1, t2))
        if b1 is not None:
            b1 = xp.reshape(xp.broadcast_to(b1, shape), (-1,))
        table, values = self._table_for(xp, t2, b1)
        te = xp.asarray(
            np.asarray(self.echoes) * self.train.spacing, dtype=t2.dtype, device=device(t2)
        )
        result = xp.exp(-te / t2[:, None])
        # numpy is fastest while the rows of the table and the weights stay in the cache
        size = _PIECE if xp is NUMPY else max(t2.shape[0], 1)
        for start in range(0, t2.shape[0], size):
            part = slice(start, start + size)
            rows, weights = table.interpolation(xp, t2[part], None if b1 is None else b1[part])
            powers = _chebyshev(xp, 2 * xp.exp(-self.train.spacing / t1[part]) - 1, table.degree)
            n = rows.shape[0]
            weights = xp.reshape(weights[:, :, None] * powers[:, None, :], (n, 1, -1))
            near = xp.reshape(
                xp.take(values, xp.reshape(rows, (-1,)), axis=0), (n, -1, len(self.echoes))
            )
            result[part] += xp.matmul(weights, near)[:, 0]
        return xp.reshape(result, (*shape, len(self.echoes)))

    def _table_for(self, xp: Any, like: Array, b1: Array | None) -> tuple[_Table, Array]:
        span = (1.0, 1.0)
        if b1 is not None:
            low, high = float(xp.min(b1)), float(xp.max(b1))
            span = (
                math.floor(low / _B1_MARGIN + 1e-6) * _B1_MARGIN,
                math.ceil(high / _B1_MARGIN - 1e-6) * _B1_MARGIN,
            )
        key = (xp.__name__, like.dtype, str(device(like)), b1 is None)
        held = self._on_device.get(key)
        if held is None or not held[0].covers(span):
            if held is not None:  # so that ranges that grow do not build a table each time
                span = (min(span[0], held[0].span[0]), max(span[1], held[0].span[1]))
            table = _table(self.train, self.echoes, *(round(end, 6) for end in span))
            values = xp.asarray(table.values, dtype=like.dtype, device=device(like))
            held = self._on_device[key] = (table, values)
        return held


class _Table:
    """Values of a table, of shape (n_b1 n_t2, (degree + 1) n_echoes)."""

    def __init__(self, train: EchoTrain, echoes: tuple[int, ...], low: float, high: float) -> None:
        n_echoes, spacing = max(echoes), train.spacing
        # below the shortest T2 no echo is left, and above the longest one nothing changes
        shortest, longest = spacing / 15, 3000 * spacing * max(1, n_echoes / 8)
        log_t2 = np.linspace(math.log(shortest), math.log(longest), _T2_POINTS)
        self.span = (low, high)
        self.log_t2, self.n_t2 = log_t2[0], math.ceil((log_t2[-1] - log_t2[0]) / _T2_STEP) + 1
        finer = np.minimum(self.log_t2 + _T2_STEP * np.arange(self.n_t2), log_t2[-1])
        self.b1 = low
        self.n_b1 = math.ceil((high - low) / _B1_STEP - 1e-6) + 1
        b1 = np.minimum(low + _B1_STEP * np.arange(self.n_b1), high)

        step = min(5.4, max(1.8, 43 / n_echoes))
        angles = np.linspace(0, high * train.refocusing_angle, 8 + math.ceil(180 * high / step))
        self.degree = _degree(train, n_echoes, np.exp(log_t2[::6]), angles[-1])
        coefficients = _coefficients(train, n_echoes, np.exp(log_t2), angles, self.degree)
        of_angle = make_interp_spline(angles, np.eye(angles.size), 5)
        coefficients = np.tensordot(
            angle_weights(train, angles[-1], of_angle, b1), coefficients, axes=1
        )
        decay = np.exp(-np.arange(1, n_echoes + 1) * spacing / np.exp(log_t2)[:, None])
        coefficients[:, :, 0] -= decay
        chosen = coefficients[..., np.asarray(echoes) - 1]
        self.values = make_interp_spline(log_t2, chosen, 5, axis=1)(finer).reshape(
            self.n_b1 * self.n_t2, -1
        )

    def covers(self, span: tuple[float, float]) -> bool:
        """Return whether the table has a range of B1."""
        return self.span[0] <= span[0] + 1e-6 and span[1] - 1e-6 <= self.span[1]

    def interpolation(self, xp: Any, t2: Array, b1: Array | None) -> tuple[Array, Array]:
        """Rows between which values of T2 and B1 (n,) lie, and their weights: (n, 2) or (n, 4)."""
        rows, weights = _neighbours(xp, (xp.log(t2) - self.log_t2) / _T2_STEP, self.n_t2)
        if b1 is None:
            return rows, weights
        steps, shares = _neighbours(xp, (b1 - self.b1) / _B1_STEP, self.n_b1)
        rows = xp.reshape(rows[:, :, None] + steps[:, None, :] * self.n_t2, (t2.shape[0], -1))
        return rows, xp.reshape(weights[:, :, None] * shares[:, None, :], rows.shape)


@lru_cache(maxsize=16)
def _table(train: EchoTrain, echoes: tuple[int, ...], low: float, high: float) -> _Table:
    return _Table(train, echoes, low, high)


def angle_weights(
    train: EchoTrain, largest_angle: float, of_angle: BSpline, b1: np.ndarray
) -> np.ndarray:
    """Weights of echo trains of single angles in the average over the slice.

    The excitation only scales a train, by the sine of its angle.

    Parameters
    ----------
    train : EchoTrain
        Pulses and slice profile.
    largest_angle : float
        Largest of the refocusing angles in degrees; larger ones of the slice become this one.
    of_angle : BSpline
        Spline through the identity matrix at the n_angles refocusing angles.
    b1 : ndarray of shape (n_b1,)
        Transmit field relative to the nominal one.

    Returns
    -------
    ndarray of shape (n_b1, n_angles)
        Weights.
    """
    refocusing, excitation = np.ones(1), np.ones(1)
    if train.profile is not None:
        refocusing, excitation = train.profile.relative_angles()
    excited = np.sin(np.radians(train.excitation_angle) * b1[:, None] * excitation)
    wanted = train.refocusing_angle * b1[:, None] * refocusing
    weights = np.einsum("bz,bza->ba", excited, of_angle(np.minimum(wanted, largest_angle)))
    return np.asarray(weights / excited.sum(axis=1, keepdims=True))


def _degree(train: EchoTrain, n_echoes: int, t2: np.ndarray, largest_angle: float) -> int:
    """Smallest sufficient degree of the polynomials."""
    angles = largest_angle * np.linspace(0.3, 1, 8)
    degree = min(n_echoes - 1, 4)
    while degree < min(n_echoes - 1, _LARGEST_DEGREE):
        last = _coefficients(train, n_echoes, t2, angles, degree)[:, :, -2:]
        if np.abs(last).max() < _DEGREE_ERROR:
            break
        degree = min(degree + 2, n_echoes - 1)
    return degree


def _coefficients(
    train: EchoTrain, n_echoes: int, t2: np.ndarray, angles: np.ndarray, degree: int
) -> np.ndarray:
    """Chebyshev coefficients of echo trains, shape (n_angles, n_t2, degree + 1, n_echoes)."""
    nodes = chebyshev.chebpts1(degree + 1)
    t1 = -train.spacing / np.log((nodes + 1) / 2)
    inverse = np.linalg.inv(chebyshev.chebvander(nodes, degree))
    return np.stack(
        [
            inverse @ echo_train(n_echoes, train.spacing, t1, t2[:, None], refocusing_angle=angle)
            for angle in angles
        ]
    )


def _neighbours(xp: Any, place: Array, n: int) -> tuple[Array, Array]:
    """Indices of both neighbours of places in a table of n rows, and their weights: (.., 2)."""
    place = xp.clip(place, 0.0, n - 1.0)
    lower = xp.clip(xp.floor(place), 0.0, max(n - 2.0, 0.0))
    above, row = place - lower, xp.astype(lower, xp.int64)
    upper = row + 1 if n > 1 else row
    return xp.stack([row, upper], axis=-1), xp.stack([1 - above, above], axis=-1)


def _chebyshev(xp: Any, x: Array, degree: int) -> Array:
    """Chebyshev polynomials of degrees 0, 1, .., `degree` at x of shape (n,)."""
    values = [xp.ones_like(x), x]
    for _ in range(degree - 1):
        values.append(2 * x * values[-1] - values[-2])
    return xp.stack(values[: degree + 1], axis=-1)
