"""Layout of the columns of signals on a grid, for the convolutional network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from corrsk.acquisition.protocol import AcquisitionProtocol, protocol_of_columns

MIN_GRID_SIDE = 6  # two 3 x 3 convolutions and a 2 x 2 pooling reduce 6 x 6 to one pixel
_PUBLISHED_GRID = (8, 8)


def resolve_grid(
    grid_shape: Sequence[int] | str,
    n_columns: int,
    layout: tuple[int, ...] | None = None,
    protocol: AcquisitionProtocol | None = None,
) -> tuple[int, ...]:
    """Shape of the grid for the columns of signals.

    Parameters
    ----------
    grid_shape : sequence of int or "auto"
        Parameter of the estimator.
    n_columns : int
        Number of columns.
    layout : tuple of int, optional
        Shape of each signal, if X has more than two dimensions.
    protocol : AcquisitionProtocol, optional
        Protocol of the columns, in their order, if known.

    Returns
    -------
    tuple of int
        The given `grid_shape`; for "auto" the grid of the protocol, otherwise the layout, otherwise
        the published 8 x 8 grid for 64 columns, otherwise a square, otherwise the smallest grid of
        at least 6 x 6 with room for the columns. A single series is a grid with one row.

    Raises
    ------
    ValueError
        If `grid_shape`, the layout, the protocol and the number of columns contradict each other,
        or the measurements of the protocol are not a full grid, or not in grid order.

    Warns
    -----
    UserWarning
        If the layout is guessed.
    """
    of_protocol = None if protocol is None else _grid_of_protocol(protocol, n_columns)
    if grid_shape != "auto":
        sides: tuple[Any, ...] = tuple(grid_shape)
        if (
            not all(isinstance(side, Integral) and int(side) > 0 for side in sides)
            or len(sides) not in (1, 2, 3)
            or math.prod(sides) != n_columns
        ):
            raise ValueError(
                f"grid_shape {sides} does not match the {n_columns} columns of X; give one to "
                f"three positive integers with the product {n_columns}, or 'auto'"
            )
        given = sides if len(sides) > 1 else (1, *sides)
        _check_equal("grid_shape", given, "the grid of the protocol", of_protocol)
        return given
    of_signals = _merged(layout) if layout is not None and len(layout) > 1 else None
    if of_signals is not None and of_protocol is not None:
        _check_equal(
            "the shape of each signal", of_signals, "the grid of the protocol", of_protocol
        )
    known = of_protocol or of_signals
    if known is not None:
        return known
    guess = _guessed(n_columns)
    if guess != _PUBLISHED_GRID or n_columns != math.prod(guess):
        warnings.warn(
            f"the layout of the {n_columns} columns is unknown, and a grid of {guess} is a guess; "
            "pass protocol= (the protocol of the columns, such as that of the generator), "
            "grid_shape=, signals of shape (n_samples, n_ti, n_te), or a DataFrame whose columns "
            "have names such as TI50_TE4.5",
            stacklevel=2,
        )
    return guess


def grid_in_fingerprint(
    n_columns: int, layout: tuple[int, ...] | None, feature_names: Iterable[str] | None
) -> tuple[int, ...]:
    """Grid in the checkpoints of networks that do not need one, as in those of earlier versions."""
    protocol = protocol_of_columns(feature_names)
    in_order = protocol is not None and _is_in_grid_order(protocol)
    known = layout or (protocol.grid_shape if protocol is not None and in_order else None)
    return _merged(known) if known is not None and len(known) > 1 else _guessed(n_columns)


def _grid_of_protocol(protocol: AcquisitionProtocol, n_columns: int) -> tuple[int, ...]:
    if protocol.n_measurements != n_columns:
        raise ValueError(
            f"X has {n_columns} columns, but the protocol has {protocol.n_measurements} "
            f"measurements: {protocol!r}"
        )
    if protocol.grid_shape is None:
        raise ValueError(
            f"the {n_columns} measurements of {protocol!r} are no full grid, which the "
            "convolutions of the network need; use ResidualMLPClassifier, which takes any protocol"
        )
    if not _is_in_grid_order(protocol):
        raise ValueError(
            f"the columns of X, those of {protocol!r}, are not in grid order; reorder the columns "
            "with protocol.to_grid(X), or use ResidualMLPClassifier, which takes any order"
        )
    grid = protocol.grid_shape
    return _merged(grid) if len(grid) > 1 else (1, *grid)


def _is_in_grid_order(protocol: AcquisitionProtocol) -> bool:
    return protocol.in_grid_order().feature_names == protocol.feature_names


def _check_equal(
    name: str, shape: tuple[int, ...], other_name: str, other: tuple[int, ...] | None
) -> None:
    if other is not None and shape != other:
        raise ValueError(f"{name} is {shape}, but {other_name} is {other}")


def _merged(layout: tuple[int, ...]) -> tuple[int, ...]:
    """Merge the axes after the second into a third one."""
    return layout if len(layout) < 4 else (*layout[:2], math.prod(layout[2:]))


def _guessed(n_columns: int) -> tuple[int, int]:
    side = math.isqrt(n_columns)
    return (side, side) if side * side == n_columns else smallest_grid(n_columns)


def smallest_grid(n_columns: int) -> tuple[int, int]:
    """Smallest grid of at least 6 x 6 with room for `n_columns`; the squarest if several."""
    shapes = [
        (rows, max(rows, -(-n_columns // rows)))
        for rows in range(MIN_GRID_SIDE, max(MIN_GRID_SIDE, math.isqrt(n_columns) + 1) + 1)
    ]
    return min(shapes, key=lambda shape: (math.prod(shape), shape[1] - shape[0]))
