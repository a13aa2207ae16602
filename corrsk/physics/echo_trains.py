"""Echo trains with imperfect pulses: extended phase graphs, averaged over a slice profile."""

from __future__ import annotations

import math

import numpy as np
from array_api_compat import device

from corrsk.physics._arrays import Array, promote


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
