"""Validation of parameters and signals, shared by all estimators and functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.random import Generator, RandomState
from numpy.typing import NDArray
from sklearn import config_context
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


def check_entries(
    what: str, content: Any, *, allowed: Iterable[str], required: Iterable[str] = ()
) -> None:
    """Raise an error if a value is not a mapping with valid keys.

    Parameters
    ----------
    what : str
        Type of the mapping, for the message.
    content : object
        The value.
    allowed : iterable of str
        All valid keys.
    required : iterable of str
        Keys that must be present.

    Raises
    ------
    ValueError
        If the value is not a mapping, or a key is unknown or missing.
    """
    allowed = list(allowed)
    valid = f"the entries of {what} are {', '.join(allowed)}"
    if not isinstance(content, Mapping):
        raise ValueError(f"{what} must be a mapping, got {content!r:.60}; {valid}")
    unknown = [str(key) for key in content if key not in allowed]
    if unknown:
        raise ValueError(f"unknown entries of {what}: {', '.join(unknown)}; {valid}")
    missing = [key for key in required if key not in content]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing)}; {valid}")


def check_number(name: str, value: Any) -> None:
    """Raise an error if a value is not a real number.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    value : object
        The value.

    Raises
    ------
    ValueError
        If the value is not a number, or is True or False.
    """
    if not is_number(value):
        raise ValueError(f"{name} must be a number, got {value!r}")


def is_number(value: Any) -> bool:
    """Whether a value is a real number, and neither True nor False."""
    return isinstance(value, Real) and not isinstance(value, bool)


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
    estimator: Any,
    X: Any,
    y: Any = "no_validation",
    *,
    reset: bool,
    nan_advice: str = "predict with SignalPipeline, whose results of such rows are NaN",
    **options: Any,
) -> Any:
    """Validate signals, and labels if given, for an estimator.

    Parameters
    ----------
    estimator : estimator
        The estimator, whose `n_features_in_` and `feature_names_in_` are set or compared.
    X : array or DataFrame, shape (n_samples, n_measurements) or (n_samples, n_ti, n_te)
        Signals, finite and real.
    y : array of shape (n_samples,), optional
        Labels; None is refused by an estimator that requires them.
    reset : bool
        Whether to set the attributes (in `fit`), or to compare with them.
    nan_advice : str
        Advice of the error for NaN in a prediction, besides leaving out rows.
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
        If the signals are complex or contain NaN or infinite values, the number or the names of
        the columns differ from those of `fit`, or y has another length than X.
    """
    X, y = as_numpy(X), as_numpy(y)
    refuse_unusable(X)
    refuse_volume(X, None if isinstance(y, str) else y)
    rows = flatten_signals(X)
    layout = layout_of(X)
    if layout is not None and not reset:
        _check_layout(estimator, layout, rows.shape[1])
    if not reset:
        rows = _with_names_of_fit(estimator, rows)
    # scikit-learn's check of finite values recommends imputation, and does not name the row
    options = {"dtype": FLOATS, "ensure_all_finite": False} | options
    # with array_api_dispatch, scikit-learn would return tensors; corrsk computes with numpy arrays
    with config_context(array_api_dispatch=False):
        checked = validate_data(estimator, rows, y, reset=reset, **options)
    _check_finite(
        estimator,
        checked[0] if isinstance(checked, tuple) else checked,
        "" if reset else f", or {nan_advice}",
    )
    return checked


def refuse_unusable(X: Any) -> None:
    """Refuse complex data, and a single signal without the axis of the voxels.

    The messages of scikit-learn would show all values.

    Parameters
    ----------
    X : array, DataFrame or list
        Input of an estimator.

    Raises
    ------
    ValueError
        If X is complex or has one dimension.
    """
    shape = getattr(X, "shape", None)
    if isinstance(X, (list, tuple)):
        try:
            X = np.asarray(X)
        except ValueError:  # a ragged list: scikit-learn's validation raises the error
            return
        shape = X.shape
    if shape is not None and len(shape) == 1:
        raise ValueError(
            f"X must have one row for each voxel, got an array of shape {tuple(shape)}. Reshape "
            "your data: X.reshape(1, -1) is one voxel"
        )
    dtypes = X.dtypes if hasattr(X, "columns") else [getattr(X, "dtype", None)]
    if any(getattr(dtype, "kind", "") == "c" for dtype in dtypes):
        raise ValueError(
            "Complex data not supported: SignalPhaser makes complex signals real by a phase "
            "correction. A model of magnitude (Rician) data takes abs(X), and X.real is right "
            "only for signals whose phase is corrected already"
        )


def refuse_volume(X: Any, y: Any) -> None:
    """Refuse a volume in `fit`, which takes one row of X for each label.

    Parameters
    ----------
    X : array or DataFrame
        Signals.
    y : array or None
        Labels; without labels, a volume cannot be distinguished from (n_samples, n_ti, n_te).

    Raises
    ------
    ValueError
        If X has a label for each vector along its last axis.
    """
    layout = layout_of(X)
    if layout is None or y is None:
        return
    volume, labelled = (len(X), *layout[:-1]), np.shape(y)
    if (len(labelled) > 1 and labelled == volume) or (
        len(labelled) == 1 and labelled[0] == math.prod(volume) != len(X)
    ):
        raise ValueError(
            f"X has the shape {(*volume, layout[-1])} and y the shape {labelled}: a volume. fit "
            f"takes one row for each voxel, X.reshape(-1, {layout[-1]}) and y.reshape(-1)"
        )


def _check_layout(estimator: Any, layout: tuple[int, ...], n_columns: int) -> None:
    expected = getattr(estimator, "n_features_in_", n_columns)
    if n_columns != expected:
        shape = ", ".join(map(str, layout))
        raise ValueError(
            f"X has {n_columns} features, but {type(estimator).__name__} is expecting {expected} "
            f"features as input: X has the shape (n_samples, {shape}). Valid are (n_samples, "
            f"{expected}), (n_samples, n_ti, n_te) with {expected} measurements, or a volume whose "
            f"last axis has {expected} entries"
        )


def _check_finite(estimator: Any, signals: NDArray[Any], advice: str) -> None:
    if signals.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(signals.sum()):  # as scikit-learn does: faster than a mask of all values
            return
    wrong = ~np.isfinite(signals).all(axis=1)
    if not wrong.any():
        return
    row = int(wrong.argmax())
    kind = (
        "NaN"
        if np.isnan(signals[row]).any()
        else f"infinity, or a value too large for {signals.dtype},"
    )
    raise ValueError(
        f"X contains {kind} in row {row}, the first of {int(wrong.sum())} such rows of "
        f"{len(signals)}; {type(estimator).__name__} needs finite signals: leave out these rows"
        + (advice if kind == "NaN" else "")
    )


def as_numpy(X: Any) -> Any:
    """Return a tensor on another device, or with gradients, as an array; other objects unchanged.

    Parameters
    ----------
    X : object
        Array, tensor, DataFrame or list.

    Returns
    -------
    object
        The array, or the object itself.
    """
    return np.asarray(X.detach().cpu()) if hasattr(X, "detach") and hasattr(X, "cpu") else X


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
