"""Learning-rate schedules: pure functions of how far the training has come."""

from __future__ import annotations

import math
from collections.abc import Callable

N_STEPS = 5
END_OF_STEPS = 0.01
_WARM_UP = 0.3
_START = 1 / 25
_END = 1e-4 / 25


def constant(progress: float) -> float:
    """Always the full learning rate."""
    return 1.0


def steps(progress: float) -> float:
    """The published training's: five steps, each by a factor 0.01^(1/5).

    The last step would fall at the end of the training, so that its last fifth
    runs at 0.025 of the first rate, as in the code published with the paper.
    """
    fallen = min(math.floor(progress * N_STEPS + 1e-9), N_STEPS - 1)
    return float(END_OF_STEPS ** (fallen / N_STEPS))


def one_cycle(progress: float) -> float:
    """Up on a cosine for 30 % of the training, then down on a cosine to nearly 0.

    Smith and Topin, "Super-convergence", arXiv:1708.07120 (2017), in the form
    that is in common use: from 1/25 to 1 to 1/250,000 of the learning rate.
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
