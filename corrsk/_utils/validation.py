"""Validation of parameters and signals, shared by all estimators and functions."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.random import Generator, RandomState
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import validate_data

T = TypeVar("T")

FLOATS = (np.float64, np.float32)

# constraints shared by many estimators, for scikit-learn's `_parameter_constraints`
POSITIVE_INTEGER = Interval(Integral, 1, None, closed="left")
POSITIVE = Interval(Real, 0, None, closed="neither")
NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
EFFICIENCY = [Interval(Real, 0, 1, closed="right")]
RANDOM_STATE = [Interval(Integral, 0, None, closed="left"), RandomState, Generator, None]
N_JOBS = [Integral, None]


def lookup(registry: Mapping[str, T], name: str, kind: str) -> T:
    """Return the entry of a registry with the given name.

    Parameters
    ----------
    registry : mapping
        Entries by name.
    name : str
        Name of the entry.
    kind : str
        Type of the entries, for the message.

    Returns
    -------
    object
        The entry.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the known names.
    """
    if name not in registry:
        raise ValueError(f"unknown {kind} {name!r}; known {kind}s: {', '.join(registry)}")
    return registry[name]


def checked_count(name: str, value: Any, *, at_least: int) -> None:
    """Raise an error if a value is not an integer of at least `at_least`.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    value : object
        The value.
    at_least : int
        The smallest valid value.

    Raises
    ------
    TypeError
        If the value is not an integer.
    ValueError
        If the value is smaller than `at_least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")


def checked_signals(
    estimator: Any, X: Any, y: Any = "no_validation", *, reset: bool, **options: Any
) -> Any:
    """Validate signals, and labels if given, for an estimator.

    Parameters
    ----------
    estimator : estimator
        The estimator, whose `n_features_in_` and `feature_names_in_` are set or compared.
    X : array or DataFrame, shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
        Signals.
    y : array of shape (n_samples,), optional
        Labels; None is refused by an estimator that requires them.
    reset : bool
        Whether to set the attributes (in `fit`), or to compare with them.
    **options
        Options of scikit-learn's `validate_data`. By default, `dtype` is that of X if it is float64
        or float32, otherwise float64.

    Returns
    -------
    X : ndarray of shape (n_samples, n_measurements)
        Signals.
    y : ndarray of shape (n_samples,)
        Labels; returned only if given.

    Raises
    ------
    ValueError
        If the signals contain NaN or infinite values, the number or the names of the columns differ
        from those of `fit`, or y has another length than X.
    """
    options = {"dtype": FLOATS} | options
    X = flatten_signals(X)
    if not reset:
        X = _with_names_of_fit(estimator, X)
    return validate_data(estimator, X, y, reset=reset, **options)


def _with_names_of_fit(estimator: Any, X: Any) -> Any:
    """Name the columns of an array as those of `fit`.

    An array has the order of `fit`, for which scikit-learn would warn in each step of a Pipeline:
    measured signals are arrays, also for a model that was trained on named columns.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or not isinstance(X, np.ndarray) or X.shape[1:] != names.shape:
        return X
    return pd.DataFrame(X, columns=names, copy=False)


def flatten_signals(X: Any) -> Any:
    """Reshape arrays of three or more dimensions to (n_samples, n_measurements)."""
    layout = layout_of(X)
    if layout is None:
        return X
    X = X if hasattr(X, "reshape") else np.asarray(X)
    return X.reshape(X.shape[0], -1)


def layout_of(X: Any) -> tuple[int, ...] | None:
    """Shape (n_ti, n_te, ..) of each signal if X has more than two dimensions, else None."""
    shape = getattr(X, "shape", None)
    if isinstance(X, (list, tuple)):
        try:
            shape = np.shape(X)
        except ValueError:  # a ragged list: scikit-learn's validation raises the error
            return None
    return tuple(shape[1:]) if shape is not None and len(shape) > 2 else None
