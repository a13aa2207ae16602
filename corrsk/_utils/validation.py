"""Validation of parameters and signals, shared by all estimators and functions."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from numpy.random import Generator, RandomState
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import validate_data

T = TypeVar("T")

FLOATS = (np.float64, np.float32)

# constraints of parameters that many estimators have, for scikit-learn's `_parameter_constraints`
POSITIVE_INTEGER = Interval(Integral, 1, None, closed="left")
POSITIVE = Interval(Real, 0, None, closed="neither")
NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
EFFICIENCY = [Interval(Real, 0, 1, closed="right")]
RANDOM_STATE = [Interval(Integral, 0, None, closed="left"), RandomState, Generator, None]
N_JOBS = [Integral, None]


def lookup(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Return the entry of a registry that has the given name.

    Raises
    ------
    ValueError
        If there is none; the message lists the known names.
    """
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}; known {kind}s: {', '.join(registry)}")
    return registry[name]


def checked_count(name: str, value: Any, *, at_least: int) -> None:
    """Refuse a value that is not an integer of at least `at_least`.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is smaller.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")


def checked_signals(
    estimator: Any, X: Any, y: Any = "no_validation", *, reset: bool, **options: Any
) -> Any:
    """Validate signals, and labels if there are any, for an estimator.

    Parameters
    ----------
    estimator : estimator
        Its `n_features_in_` and `feature_names_in_` are set or compared.
    X : array or DataFrame of shape (n, N), or array of shape (n, n_ti, n_te)
        Signals.
    y : array of shape (n,), optional
        Labels; None is refused by an estimator that requires them.
    reset : bool
        Whether to set the attributes (in `fit`), or to compare with them.
    **options
        Of scikit-learn's `validate_data`; the default for `dtype` is float64 or float32,
        whichever X has.

    Returns
    -------
    ndarray of shape (n, N), or (ndarray of shape (n, N), ndarray of shape (n,))

    Raises
    ------
    ValueError
        If the signals hold NaN or infinite values, the number or the names of the columns are not
        those of `fit`, or y has another length.
    """
    options = {"dtype": FLOATS} | options
    return validate_data(estimator, flatten_signals(X), y, reset=reset, **options)


def flatten_signals(X: Any) -> Any:
    """Reshape arrays (n, n_ti, n_te) and deeper ones to (n, N); return all else as it is."""
    layout = layout_of(X)
    if layout is None:
        return X
    X = X if hasattr(X, "reshape") else np.asarray(X)
    return X.reshape(X.shape[0], -1)


def layout_of(X: Any) -> tuple[int, ...] | None:
    """Return the shape (n_ti, n_te, ..) of each signal, if X has more than two dimensions."""
    shape = getattr(X, "shape", None)
    if isinstance(X, (list, tuple)):
        try:
            shape = np.shape(X)
        except ValueError:  # a ragged list, which scikit-learn's validation explains
            return None
    return tuple(shape[1:]) if shape is not None and len(shape) > 2 else None
