"""Measured voxels: volumes as rows of signals, and voxels without signal."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing

from corrsk._utils.validation import as_numpy, layout_of


class NoSignalWarning(UserWarning):
    """Warning that voxels have no signal (all zero, or NaN), so that their results are NaN."""


@dataclass(frozen=True)
class Voxels:
    """Signals of the voxels of an input of any layout, and a mask of the voxels without signal.

    Parameters
    ----------
    signals : array or DataFrame of shape (n_with_signal, n_measurements)
        Rows of the voxels with signal.
    dark : ndarray of bool, shape (n_voxels,)
        Mask of the voxels without signal.
    shape : tuple of int
        Shape of the maps of results: (n_voxels,), or that of the volume.
    """

    signals: Any
    dark: NDArray[np.bool_]
    shape: tuple[int, ...]

    @classmethod
    def from_checked(cls, X: Any, estimator: Any, check: Callable[[Any], NDArray[Any]]) -> Voxels:
        """Validate the input of a prediction, which must be finite; leave out signals of zeros.

        Parameters
        ----------
        X : array or DataFrame
            Signals, shape (n_samples, n_measurements), (n_samples, n_ti, n_te), or a volume of
            shape (.., n_measurements).
        estimator : estimator
            The fitted estimator; see :func:`as_rows`.
        check : callable
            Validation of the estimator, from the rows of X to finite signals.

        Returns
        -------
        Voxels
            The voxels.

        Raises
        ------
        ValueError
            If `check` refuses the rows.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        rows, shape = as_rows(X, estimator)
        return cls.from_rows(check(rows), shape)

    @classmethod
    def from_measured(cls, X: Any, estimator: Any) -> Voxels:
        """Leave out the voxels of zeros and with NaN, before any other validation.

        Parameters
        ----------
        X : array or DataFrame
            See :meth:`from_checked`.
        estimator : estimator
            The fitted estimator; see :func:`as_rows`.

        Returns
        -------
        Voxels
            The voxels, whose signals have the type of X.

        Warns
        -----
        NoSignalWarning
            If voxels have no signal; once, with their number.
        """
        rows, shape = as_rows(np.asarray(X) if isinstance(X, (list, tuple)) else X, estimator)
        return cls.from_rows(rows, shape)

    @classmethod
    def from_rows(cls, rows: Any, shape: tuple[int, ...] | None = None) -> Voxels:
        """Leave out the rows without signal; see :meth:`from_checked`."""
        dark = without_signal(rows)
        if dark.any():
            warn_of_voxels_without_signal(dark)
            rows = _safe_indexing(rows, np.flatnonzero(~dark))
        return cls(rows, dark, dark.shape if shape is None else shape)

    def answer(
        self, function: Callable[[Any], NDArray[Any]], n_outputs: int
    ) -> NDArray[np.float64]:
        """Apply a function to the signals, and return maps.

        Parameters
        ----------
        function : callable
            Function from signals to results of shape (n_with_signal, n_outputs).
        n_outputs : int
            Number of results of each voxel.

        Returns
        -------
        ndarray of shape (.., n_outputs)
            The results; NaN for voxels without signal.
        """
        if self.dark.size and self.dark.all():
            return self.fill(np.empty((0, n_outputs)))
        return self.fill(np.asarray(function(self.signals)))

    def fill(self, values: NDArray[Any], missing: Any = np.nan) -> NDArray[Any]:
        """Arrange values of the voxels with signal as maps.

        Parameters
        ----------
        values : ndarray of shape (n_with_signal, ..)
            Values of the voxels with signal.
        missing : object, default=nan
            Value of the voxels without signal.

        Returns
        -------
        ndarray of shape (.., ..)
            Maps of the shape of the voxels, with the further axes of `values`.
        """
        if self.dark.any():
            every = np.full((self.dark.size, *values.shape[1:]), missing, values.dtype)
            every[~self.dark] = values
            values = every
        return values.reshape(*self.shape, *values.shape[1:])


def as_rows(X: Any, estimator: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Reshape a volume to rows of signals.

    Parameters
    ----------
    X : array or DataFrame
        Any input of an estimator.
    estimator : estimator
        Fitted estimator with `n_features_in_`, the number of measurements, and possibly `layout_`,
        the shape of each signal: such signals are no volume. Of a Pipeline, `layout_` is that of
        its first step.

    Returns
    -------
    rows : array or DataFrame
        Shape (n_voxels, n_measurements) if X has three axes or more, the last has n_measurements
        entries, and its signals have another shape than those of `fit`; otherwise X itself.
    shape : tuple of int or None
        Shape of the volume; None if X is none.
    """
    X = as_numpy(X)
    layout = layout_of(X)
    n_features = estimator.n_features_in_
    # the axes of an array with names (of xarray) may have any order
    if layout is None or layout[-1] != n_features or hasattr(X, "dims"):
        return X, None
    first = estimator
    while hasattr(first, "steps"):
        first = first.steps[0][1]
    if layout == getattr(first, "layout_", None):  # axes of length 1
        return X, None
    shape = (len(X), *layout[:-1])
    return (X if hasattr(X, "reshape") else np.asarray(X)).reshape(-1, n_features), shape


def warn_if_volume(X: Any, y: Any) -> None:
    """Warn in `fit` that X is probably a volume, if neither labels nor a protocol decide.

    Parameters
    ----------
    X : array or DataFrame
        Signals.
    y : array or None
        Labels.

    Warns
    -----
    UserWarning
        If there are no labels, X has three axes or more, and each sample would have more
        measurements than there are samples.
    """
    layout = layout_of(X)
    # the axes of an array with names (of xarray) may have any order
    if layout is None or y is not None or hasattr(X, "dims"):
        return
    if math.prod(layout) <= len(X) or math.prod(layout[:-1]) == 1:
        return
    warnings.warn(
        f"X of shape {(len(X), *layout)} is taken for {len(X)} signals of {math.prod(layout)} "
        f"measurements; if X is a volume, pass one row for each voxel, X.reshape(-1, {layout[-1]})",
        UserWarning,
        stacklevel=user_level(),
    )


def without_signal(rows: Any) -> NDArray[np.bool_]:
    """Mask of the rows that are all zero or contain NaN; False for rows that are no numbers."""
    values = _numbers(rows)
    if values is None or values.ndim < 2:  # the validation of the estimator raises the error
        return np.zeros(getattr(rows, "shape", (0,))[0], dtype=bool)
    values = values.reshape(len(values), math.prod(values.shape[1:]))
    dark = np.asarray(~values.any(axis=1))
    # a sum is faster than a mask of all values, and NaN if one of them is
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = np.flatnonzero(~np.isfinite(values.sum(axis=1)))
    dark[suspicious] |= np.isnan(values[suspicious]).any(axis=1)
    return dark


def has_nan(X: Any) -> bool:
    """Return whether an array or DataFrame of numbers contains NaN."""
    values = _numbers(X)
    return values is not None and bool(np.isnan(values).any())


def _numbers(X: Any) -> NDArray[Any] | None:
    """Numbers as an array; None for other input."""
    try:
        values = np.asarray(X)
        if values.dtype.kind not in "fiubc":
            values = values.astype(np.float64)
    except (TypeError, ValueError):
        return None
    return values


def warn_of_voxels_without_signal(dark: NDArray[np.bool_]) -> None:
    """Warn of the number of voxels without signal."""
    warnings.warn(
        f"{int(dark.sum())} of {dark.size} voxels have no signal (all zero, or NaN); their "
        "results are NaN",
        NoSignalWarning,
        stacklevel=user_level(),
    )


def user_level() -> int:
    """Stack level, for the caller's warning, of the function that called corrsk."""
    level, frame = 1, sys._getframe(1)
    inside = ("corrsk.", "sklearn.")
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(inside):
        level, frame = level + 1, frame.f_back
    return level
