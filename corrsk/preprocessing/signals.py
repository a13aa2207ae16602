"""Validation of measured signals: names of columns, and axes of scan parameters."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._set_output import _get_output_config

from corrsk._utils.validation import as_numpy, checked_signals, layout_of, refuse_unusable
from corrsk._utils.voxels import as_rows, user_level
from corrsk.acquisition.compatibility import ProtocolWarning
from corrsk.acquisition.labels import column_names, in_protocol_order, with_column_names
from corrsk.acquisition.protocol import (
    DEFAULT_PROTOCOL,
    AcquisitionProtocol,
    protocol_of_columns,
)

Layout = tuple[int, ...]


def measured_signals(
    estimator: Any, X: Any, y: Any = "no_validation", *, reset: bool, **options: Any
) -> Any:
    """Validate signals for an estimator, with the labels of their columns and axes.

    Sets or compares `layout_`, the shape of each signal if X has more than two dimensions.

    Parameters
    ----------
    estimator : estimator
        The estimator; see :func:`corrsk._utils.validation.checked_signals`.
    X : array, DataFrame or DataArray
        Signals; see :func:`corrsk.acquisition.labels.with_column_names`.
    y : array of shape (n_samples,), optional
        Labels.
    reset : bool
        Whether to set the attributes (in `fit`), or to compare with them.
    **options
        Options of scikit-learn's `validate_data`.

    Returns
    -------
    X : ndarray of shape (n_samples, n_measurements)
        Signals.
    y : ndarray of shape (n_samples,)
        Labels; returned only if given.

    Raises
    ------
    ValueError
        If the signals are invalid, or their layout differs from that of `fit`.
    """
    X = with_column_names(X)
    layout = layout_of(X)
    if not reset:
        check_layout(layout, getattr(estimator, "layout_", None), "the signals of fit have")
    checked = checked_signals(estimator, X, y, reset=reset, **options)
    if reset:
        estimator.layout_ = layout
    return checked


def real_or_complex_signals(estimator: Any, X: Any, *, reset: bool) -> NDArray[Any]:
    """Validate real or complex signals for an estimator.

    Parameters
    ----------
    estimator : estimator
        The estimator; see :func:`measured_signals`.
    X : array, DataFrame or DataArray
        Signals.
    reset : bool
        Whether to set the attributes (in `fit`), or to compare with them.

    Returns
    -------
    ndarray of shape (n_samples, n_measurements)
        Signals of type float32, float64, complex64 or complex128.

    Raises
    ------
    ValueError
        If the signals are invalid, or their layout differs from that of `fit`.
    """
    X = as_numpy(X)
    if not _is_complex(X):
        return np.asarray(measured_signals(estimator, X, reset=reset))
    X = with_column_names(X)
    if isinstance(X, (list, tuple)):
        X = np.asarray(X)
    # scikit-learn's validation takes real numbers only
    real, imaginary = (
        X.apply(part) if hasattr(X, "columns") else part(X) for part in (np.real, np.imag)
    )
    signals = np.asarray(measured_signals(estimator, real, reset=reset))
    return signals + np.asarray(1j, np.result_type(signals, 1j)) * measured_signals(
        estimator, imaginary, reset=False
    )


def _is_complex(X: Any) -> bool:
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        return any(getattr(dtype, "kind", "") == "c" for dtype in X.dtypes)
    if isinstance(X, (list, tuple)):
        try:
            X = np.asarray(X)
        except ValueError:  # a ragged list: the validation raises the error
            return False
    return getattr(getattr(X, "dtype", None), "kind", "") == "c"


def finite_signals(
    X: Any, protocol: AcquisitionProtocol, *, allow_complex: bool = False
) -> NDArray[Any]:
    """Validate signals for a function, with one measurement per entry of the last axis.

    Parameters
    ----------
    X : array of shape (.., n_measurements)
        Signals.
    protocol : AcquisitionProtocol
        Protocol of the signals.
    allow_complex : bool
        Whether complex signals are valid.

    Returns
    -------
    ndarray of shape (.., n_measurements)
        The signals, in double precision unless they are in single precision.

    Raises
    ------
    ValueError
        If the signals are complex and that is not allowed, NaN or infinite, no numbers, or their
        last axis does not have one entry per measurement.
    """
    X = as_numpy(X)
    is_complex = np.iscomplexobj(X)
    if not (allow_complex and is_complex):
        refuse_unusable(X)
    values = np.asarray(X)
    if is_complex:
        values = values if values.dtype == np.complex64 else values.astype(np.complex128)
    else:
        values = values if values.dtype == np.float32 else values.astype(np.float64)
    if values.ndim < 2 or values.shape[-1] != protocol.n_measurements:
        raise ValueError(
            f"X must have shape (n_samples, {protocol.n_measurements}) or be a volume of shape "
            f"(.., {protocol.n_measurements}), with one entry for each measurement of the "
            f"protocol; got {values.shape}"
        )
    if not np.isfinite(values).all():
        wrong = int((~np.isfinite(values)).any(axis=-1).sum())
        raise ValueError(
            f"X contains NaN or infinite values in {wrong} of {values[..., 0].size} signals; leave "
            "out these signals or set them to 0"
        )
    return values


def protocol_of_fit(
    estimator: Any, given: AcquisitionProtocol | None
) -> AcquisitionProtocol | None:
    """Protocol of the columns of `fit`, in their order, after :func:`measured_signals`.

    Sets `layout_` to the grid of the protocol, if there is one.

    Parameters
    ----------
    estimator : estimator
        The estimator.
    given : AcquisitionProtocol or None
        The protocol that the user passed; None if there is none.

    Returns
    -------
    AcquisitionProtocol or None
        The given protocol, in the order of the names of the columns if these describe
        measurements; otherwise the protocol of the names, if any.

    Raises
    ------
    ValueError
        If the number of columns, their names or the layout contradict the protocol.
    """
    named = protocol_of_columns(getattr(estimator, "feature_names_in_", None), given)
    protocol = named or given
    if protocol is None:
        return None
    if protocol.n_measurements != estimator.n_features_in_:
        raise ValueError(
            f"X has {estimator.n_features_in_} columns, but the protocol has "
            f"{protocol.n_measurements} measurements"
            + advice_for_volume(estimator.layout_, protocol)
        )
    estimator.layout_ = layout_of_protocol(estimator.layout_, protocol)
    return protocol


def warn_of_assumption(what: str, n_columns: int, assumed: str, otherwise: str = "") -> None:
    """Warn in `fit` that neither a parameter nor the names of the columns give their protocol.

    Parameters
    ----------
    what : {"layout", "protocol"}
        Unknown property of the columns.
    n_columns : int
        Number of columns.
    assumed : str
        The assumption.
    otherwise : str
        Further advice.

    Warns
    -----
    ProtocolWarning
        Always.
    """
    warnings.warn(
        f"the {what} of the {n_columns} columns is unknown, because X has no names of "
        f"measurements; {assumed} is assumed, in grid order (sorted by TI, then by TE, then by "
        f"b). Pass protocol= (the protocol of the generator or the scan, such as "
        f"{DEFAULT_PROTOCOL!r}), or a DataFrame whose columns have names such as TI50_TE4.5, "
        "which the steps of a Pipeline hand on after pipeline.set_output(transform='pandas')"
        f"{otherwise}",
        ProtocolWarning,
        stacklevel=user_level(),
    )


def signals_of_protocol(estimator: Any, X: Any, **options: Any) -> Any:
    """Validate signals for a fitted estimator, in the order of its `protocol_`.

    Parameters
    ----------
    estimator : estimator
        Fitted estimator with an attribute `protocol_`, which may be None.
    X : array, DataFrame or DataArray
        Signals. Columns whose names describe measurements are reordered if the signals of `fit`
        had no names; otherwise scikit-learn compares the names.
    **options
        Options of scikit-learn's `validate_data`.

    Returns
    -------
    ndarray of shape (n_samples, n_measurements)
        Signals.

    Raises
    ------
    ValueError
        If the signals are invalid, or their names or layout contradict the protocol. Also if they
        have names of measurements, those of fit had not, and the parameter `protocol` of the
        estimator gives no protocol. (Other estimators warn, as scikit-learn's do.)
    """
    X = with_column_names(X)
    protocol = getattr(estimator, "protocol_", None)  # absent in files of earlier versions
    if protocol is not None:
        layout_of_protocol(layout_of(X), protocol)
    if not hasattr(estimator, "feature_names_in_"):
        if protocol is not None:
            X = in_protocol_order(X, protocol)
        elif hasattr(estimator, "protocol"):
            named = protocol_of_columns(column_names(X))
            if named is not None:
                raise ValueError(
                    f"the columns of X have the names of measurements ({named.feature_names[0]}, "
                    "..), but the signals of fit had no names, and there is no protocol to compare "
                    "the names with; pass protocol=, the protocol of the signals of fit"
                )
    return measured_signals(estimator, X, reset=False, **options)


def volume_as_rows(transformer: Any, X: Any) -> tuple[Any, Layout | None]:
    """Reshape a volume to rows of signals for a transformer, whose output is a volume.

    Parameters
    ----------
    transformer : transformer
        Fitted transformer.
    X : array or DataFrame
        Signals or a volume.

    Returns
    -------
    rows : array or DataFrame
        Rows of signals; see :func:`corrsk._utils.voxels.as_rows`.
    shape : tuple of int or None
        Shape of the volume; None if X is none.

    Raises
    ------
    ValueError
        If X is a volume, and the output of the transformer is set to DataFrames.
    """
    rows, shape = as_rows(X, transformer)
    container = _get_output_config("transform", transformer)["dense"]
    if shape is not None and container != "default":
        raise ValueError(
            f"X is a volume of shape {(*shape, transformer.n_features_in_)}, but the output of "
            f"{type(transformer).__name__} is set to {container!r}, whose tables have two axes; "
            "use set_output(transform='default'), pass rows, "
            f"X.reshape(-1, {transformer.n_features_in_}), or predict with SignalPipeline"
        )
    return rows, shape


def advice_for_volume(layout: Layout | None, protocol: AcquisitionProtocol) -> str:
    """End of an error of `fit` for signals whose last axis alone has the protocol's measurements.

    Parameters
    ----------
    layout : tuple of int or None
        Shape of each signal, if the signals have more than two dimensions.
    protocol : AcquisitionProtocol
        The protocol.

    Returns
    -------
    str
        The advice; empty for signals that are no volume.
    """
    if layout is None or layout[-1] != protocol.n_measurements:
        return ""
    return (
        f": X of shape {_shape(layout)} is a volume; fit takes one row for each voxel, "
        f"X.reshape(-1, {layout[-1]})"
    )


def layout_of_protocol(layout: Layout | None, protocol: AcquisitionProtocol) -> Layout | None:
    """Layout of the signals of a protocol, compared with that of given signals.

    Parameters
    ----------
    layout : tuple of int or None
        Shape of each signal, if the signals have more than two dimensions.
    protocol : AcquisitionProtocol
        Protocol of the columns.

    Returns
    -------
    tuple of int or None
        The grid of the protocol if its measurements are a grid in grid order, else `layout`.

    Raises
    ------
    ValueError
        If the layout is not the grid of the protocol, or the protocol is a grid in another order.
    """
    grid = protocol.grid_layout
    if layout is not None and grid is None and protocol.grid_shape is not None:
        raise ValueError(
            f"signals with axes, of shape {_shape(layout)}, need a protocol in grid order, but "
            f"the measurements of {protocol!r} have another order; pass "
            "protocol.in_grid_order(), or signals of shape (n_samples, "
            f"{protocol.n_measurements}) in the order of the protocol"
        )
    axes = ", ".join(protocol.contrasts)
    check_layout(layout, grid, f"the protocol has a grid of {axes} of")
    return layout if grid is None else grid


def check_layout(layout: Layout | None, expected: Layout | None, whose: str) -> None:
    """Compare the layout of signals with the expected one, where both are known.

    Raises
    ------
    ValueError
        If they differ, apart from axes of length 1.
    """
    if layout is None or expected is None or _long(layout) == _long(expected):
        return
    if sorted(layout) == sorted(expected):
        advice = "exchange the axes of X"
    else:
        advice = f"predictions also take a volume whose last axis has {math.prod(expected)} entries"
    raise ValueError(
        f"X has the shape {_shape(layout)}, but {whose} the shape {_shape(expected)}; {advice}"
    )


def _long(layout: Layout) -> Layout:
    return tuple(side for side in layout if side != 1) if math.prod(layout) > 1 else layout


def _shape(layout: Layout) -> str:
    return f"({', '.join(map(str, ('n_samples', *layout)))})"
