"""Echo trains with imperfect pulses: extended phase graphs, averaged over a slice profile."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from array_api_compat import device

from corrsk.physics._arrays import Array, promote

_TOLERANCE = 0.02  # of echo times, relative to the spacing: times in headers are rounded


def echo_train(
    n_echoes: int,
    echo_spacing: float,
    t1: Array,
    t2: Array,
    *,
    refocusing_angle: Array | float = 180.0,
    excitation_angle: Array | float = 90.0,
) -> Array:
    """Amplitudes of the echoes of a CPMG train, for M0 = 1.

    Parameters
    ----------
    n_echoes : int
        Number of echoes.
    echo_spacing : float
        Echo spacing in ms: twice the time between excitation and first refocusing pulse.
    t1, t2 : array
        Relaxation times in ms, broadcast against each other and the angles.
    refocusing_angle : array or float, default=180.0
        Flip angle of every refocusing pulse in degrees.
    excitation_angle : array or float, default=90.0
        Flip angle of the excitation pulse in degrees.

    Returns
    -------
    array of shape (..., n_echoes)
        Echo amplitudes, of the broadcast shape and one more axis. With a refocusing angle of 180
        and an excitation angle of 90 degrees echo n is ``exp(-n echo_spacing / T2)``.

    Raises
    ------
    ValueError
        If there is no echo, or the echo spacing is not positive.

    Notes
    -----
    Extended phase graph (Hennig, J. Magn. Reson. 78, 397 (1988); Weigel, J. Magn. Reson. Imaging
    41, 266 (2015)) for pulses that meet the conditions of Carr, Purcell, Meiboom and Gill: all
    refocusing pulses have the phase of the transverse magnetisation, and all intervals dephase
    equally. The states are then real, only odd orders occur at the pulses, and the longitudinal
    magnetisation that recovers during the train contributes to no echo.
    """
    if n_echoes < 1:
        raise ValueError(f"an echo train needs at least one echo, got n_echoes={n_echoes}")
    if not echo_spacing > 0:
        raise ValueError(f"the echo spacing must be positive (in ms), got {echo_spacing}")
    xp, t1, t2 = promote(t1, t2)
    # angles in the precision of the relaxation times: Python's numbers would become float64
    refocusing, excitation = (
        xp.asarray(angle, dtype=t2.dtype, device=device(t2)) * (math.pi / 180)
        for angle in (refocusing_angle, excitation_angle)
    )
    half, e1, e2 = (
        xp.exp(-echo_spacing / (2 * t2)), xp.exp(-echo_spacing / t1), xp.exp(-echo_spacing / t2)
    )  # fmt: skip
    cos, sin = xp.cos(refocusing), xp.sin(refocusing)
    kept, reversed_ = (1 + cos) / 2, (1 - cos) / 2
    first = half * xp.sin(excitation)
    shape = np.broadcast_shapes(*(tuple(a.shape) for a in (first, e1, e2, cos)))
    zero = xp.zeros_like(xp.broadcast_to(first, shape))
    # states of the orders 1, 3, 5, .. : dephasing, rephasing, longitudinal
    plus = [xp.broadcast_to(first, shape)]
    minus, longitudinal = [zero], [zero]
    echoes = []
    for echo in range(n_echoes):
        rotated = []
        # a state of order m reaches the echo m pulses later: higher orders are not needed
        for p, m, z in zip(
            plus[: n_echoes - echo], minus[: n_echoes - echo], longitudinal[: n_echoes - echo],
            strict=True,
        ):  # fmt: skip
            rotated.append(
                (
                    kept * p + reversed_ * m + sin * z,
                    reversed_ * p + kept * m - sin * z,
                    cos * z - sin * (p - m) / 2,
                )
            )
        plus, minus, longitudinal = (list(states) for states in zip(*rotated, strict=True))
        echoes.append(half * minus[0])
        plus = [e2 * state for state in (minus[0], *plus)]
        minus = [*(e2 * state for state in minus[1:]), zero, zero]
        longitudinal = [*(e1 * state for state in longitudinal), zero]
    return xp.stack(echoes, axis=-1)


@dataclass(frozen=True)
class SliceProfile:
    """Flip angles across a slice: super-Gaussian profiles of excitation and refocusing.

    The flip angle at the position z in [-1, 1] is ``angle exp(-(|z| / width)^steepness)``. The
    unit of z is half the thickness of the slab over which echoes are averaged.

    Parameters
    ----------
    refocusing_width, refocusing_steepness : float
        Profile of the refocusing pulses.
    excitation_width, excitation_steepness : float
        Profile of the excitation pulse.
    n_positions : int, default=16
        Number of positions in [0, 1] at which the echoes are computed (midpoint rule; the profile
        is symmetric).

    Raises
    ------
    ValueError
        If a number is not positive.
    """

    refocusing_width: float
    refocusing_steepness: float
    excitation_width: float
    excitation_steepness: float
    n_positions: int = 16

    def __post_init__(self) -> None:
        wrong = [name for name, value in vars(self).items() if not value > 0]
        if wrong:
            raise ValueError(f"a slice profile needs positive numbers; not positive: {wrong}")

    def relative_angles(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the refocusing and the excitation angle at the positions, 1 at the centre.

        Returns
        -------
        refocusing : ndarray of shape (n_positions,)
            Flip angles of a refocusing pulse, relative to the centre of the slice.
        excitation : ndarray of shape (n_positions,)
            Flip angles of the excitation pulse, relative to the centre of the slice.
        """
        z = (np.arange(self.n_positions) + 0.5) / self.n_positions
        return (
            np.exp(-((z / self.refocusing_width) ** self.refocusing_steepness)),
            np.exp(-((z / self.excitation_width) ** self.excitation_steepness)),
        )


@dataclass(frozen=True)
class EchoTrain:
    """Readout of a series by an echo train: spacing, pulses and slice profile.

    Parameters
    ----------
    spacing : float
        Echo spacing in ms; the echo times of the series are multiples of it.
    refocusing_angle : float, default=180.0
        Nominal flip angle of every refocusing pulse in degrees, at the centre of the slice.
    excitation_angle : float, default=90.0
        Nominal flip angle of the excitation pulse in degrees, at the centre of the slice.
    profile : SliceProfile, optional
        Flip angles across the slice; None (default) for equal angles everywhere.
    t1 : float, default=1000.0
        T1 in ms of the magnetisation that the train stores along the field, for protocols that
        do not measure T1. Its effect is small.

    Raises
    ------
    ValueError
        If the spacing, T1 or an angle is not positive, an angle exceeds 270 degrees, or the
        excitation angle is 180 degrees or more.
    """

    spacing: float
    refocusing_angle: float = 180.0
    excitation_angle: float = 90.0
    profile: SliceProfile | None = None
    t1: float = 1000.0

    def __post_init__(self) -> None:
        for name in ("spacing", "refocusing_angle", "excitation_angle", "t1"):
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or not 0 < value < math.inf:
                raise ValueError(f"{name} of an echo train must be positive, got {value!r}")
            object.__setattr__(self, name, float(value))
        if self.refocusing_angle > 270 or self.excitation_angle >= 180:
            raise ValueError(
                "the refocusing angle must be at most 270 degrees and the excitation angle below "
                f"180, got {self.refocusing_angle:g} and {self.excitation_angle:g}"
            )

    def echo_numbers(self, te: Array) -> np.ndarray:
        """Numbers of the echoes at echo times.

        Parameters
        ----------
        te : array of shape (n_measurements,)
            Echo times in ms.

        Returns
        -------
        ndarray of int, shape (n_measurements,)
            Numbers, from 1.

        Raises
        ------
        ValueError
            If an echo time is no multiple of the echo spacing, to within 2 % of the spacing.
        """
        ratio = np.asarray(te, np.float64) / self.spacing
        numbers = np.rint(ratio)
        wrong = (numbers < 1) | (np.abs(ratio - numbers) > _TOLERANCE)
        if wrong.any():
            raise ValueError(
                f"TE of {np.asarray(te)[wrong][0]:g} ms is no echo of a train with a spacing of "
                f"{self.spacing:g} ms: echo times must be multiples of the spacing"
            )
        return numbers.astype(np.int64)

    def amplitudes(self, n_echoes: int, t1: Array, t2: Array, b1: Array | float = 1.0) -> Array:
        """Echo amplitudes for M0 = 1.

        Parameters
        ----------
        n_echoes : int
            Number of echoes.
        t1, t2 : array
            Relaxation times in ms, broadcast against each other and `b1`.
        b1 : array or float, default=1.0
            Transmit field relative to the nominal one; it scales all flip angles.

        Returns
        -------
        array of shape (..., n_echoes)
            Amplitudes, relative to the transverse magnetisation after the excitation.
        """
        xp, t1, t2 = promote(t1, t2)
        b1 = xp.asarray(b1, dtype=t2.dtype, device=device(t2))
        angles = {
            "refocusing_angle": b1 * self.refocusing_angle,
            "excitation_angle": b1 * self.excitation_angle,
        }
        if self.profile is not None:
            return echo_train_of_slice(n_echoes, self.spacing, t1, t2, self.profile, **angles)
        echoes = echo_train(n_echoes, self.spacing, t1, t2, **angles)
        return echoes / xp.sin(angles["excitation_angle"] * (math.pi / 180))[..., None]


def echo_train_of_slice(
    n_echoes: int,
    echo_spacing: float,
    t1: Array,
    t2: Array,
    profile: SliceProfile,
    *,
    refocusing_angle: Array | float = 180.0,
    excitation_angle: Array | float = 90.0,
) -> Array:
    """Amplitudes of the echoes of a CPMG train, averaged over a slice profile, for M0 = 1.

    Parameters
    ----------
    n_echoes : int
        Number of echoes.
    echo_spacing : float
        Echo spacing in ms; see :func:`echo_train`.
    t1, t2 : array
        Relaxation times in ms; see :func:`echo_train`.
    profile : SliceProfile
        Flip angles across the slice.
    refocusing_angle, excitation_angle : array or float
        Flip angles at the centre of the slice in degrees.

    Returns
    -------
    array of shape (..., n_echoes)
        Mean echo amplitudes, divided by the mean transverse magnetisation after the excitation:
        with perfect refocusing at all positions echo n is ``exp(-n echo_spacing / T2)``.

    Notes
    -----
    Lebel and Wilman, Magn. Reson. Med. 64, 1005 (2010).
    """
    xp, t1, t2 = promote(t1, t2)
    like = {"dtype": t2.dtype, "device": device(t2)}
    refocusing, excitation = (
        xp.asarray(angle, **like)[..., None] * xp.asarray(relative, **like)
        for angle, relative in zip(
            (refocusing_angle, excitation_angle), profile.relative_angles(), strict=True
        )
    )
    echoes = echo_train(
        n_echoes, echo_spacing, t1[..., None], t2[..., None],
        refocusing_angle=refocusing, excitation_angle=excitation,
    )  # fmt: skip
    excited = xp.mean(xp.sin(excitation * (math.pi / 180)), axis=-1)
    return xp.mean(echoes, axis=-2) / excited[..., None]
