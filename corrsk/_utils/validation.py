"""Checks of parameters that several modules make."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def lookup(registry: Mapping[str, T], name: str, kind: str) -> T:
    """The entry of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists the known names.
    """
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}; known {kind}s: {', '.join(registry)}")
    return registry[name]


def checked_count(name: str, value: Any, *, at_least: int) -> None:
    """Refuse what is not an integer of at least `at_least`.

    Raises
    ------
    TypeError, ValueError
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")


def flatten_signals(X: Any) -> Any:
    """(n, n_ti, n_te) and deeper arrays as (n, N); everything else as it is."""
    layout = layout_of(X)
    if layout is None:
        return X
    X = X if hasattr(X, "reshape") else np.asarray(X)
    return X.reshape(X.shape[0], -1)


def layout_of(X: Any) -> tuple[int, ...] | None:
    """The shape (n_ti, n_te, ..) of each signal, if X has more than two dimensions."""
    shape = getattr(X, "shape", None)
    if isinstance(X, (list, tuple)):
        try:
            shape = np.shape(X)
        except ValueError:  # a ragged list, which scikit-learn's validation explains
            return None
    return tuple(shape[1:]) if shape is not None and len(shape) > 2 else None
