"""Learning-rate schedules: factors as functions of the progress of the training.

A schedule maps the progress (float in [0, 1]) to a factor on the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

N_STEPS = 5
END_OF_STEPS = 0.01
_WARM_UP = 0.3
_START = 1 / 25
_END = 1e-4 / 25


def constant(progress: float) -> float:
    """Return the factor 1: a constant learning rate.

    Parameters
    ----------
    progress : float
        Progress of the training in [0, 1].

    Returns
    -------
    float
        Factor on the learning rate.
    """
    return 1.0


def steps(progress: float) -> float:
    """Return the factor of the published training: five steps, each by 0.01^(1/5).

    The last of the five steps would be at the end of the training. The last fifth of the
    training therefore has 0.025 of the first rate, as in the code published with the paper.

    Parameters
    ----------
    progress : float
        Progress of the training in [0, 1].

    Returns
    -------
    float
        Factor on the learning rate.
    """
    fallen = min(math.floor(progress * N_STEPS + 1e-9), N_STEPS - 1)
    return float(END_OF_STEPS ** (fallen / N_STEPS))


def one_cycle(progress: float) -> float:
    """Return the one-cycle factor: a cosine rise for 30 % of the training, then a cosine fall.

    Smith and Topin, "Super-convergence", arXiv:1708.07120 (2017), in the common form: from
    1/25 to 1 to 1/250,000 of the learning rate.

    Parameters
    ----------
    progress : float
        Progress of the training in [0, 1].

    Returns
    -------
    float
        Factor on the learning rate.
    """
    if progress < _WARM_UP:
        start, end, part = _START, 1.0, progress / _WARM_UP
    else:
        start, end, part = 1.0, _END, (progress - _WARM_UP) / (1 - _WARM_UP)
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "steps": steps,
    "one-cycle": one_cycle,
}
