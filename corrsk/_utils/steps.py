"""Parts of composite estimators: simulating steps."""

from __future__ import annotations

from typing import Any


def simulates_signals(estimator: Any) -> bool:
    """Return whether an estimator, or a part of a composite estimator, simulates its signals.

    The input of such an estimator is a tissue table, in which NaN marks absent compartments.

    Parameters
    ----------
    estimator : estimator
        An estimator, such as a Pipeline or a search of a Pipeline.

    Returns
    -------
    bool
        True if a :class:`corrsk.CorrelationSignalGenerator` is among the parts.
    """
    parts = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    # a mark, because evaluation and preprocessing do not import the simulation
    return any(getattr(part, "_simulates_signals", False) is True for part in (estimator, *parts))
