"""Layout of the columns of signals on a grid, for the convolutional network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corrsk.acquisition.protocol import (
    DEFAULT_PROTOCOL,
    AcquisitionProtocol,
    protocol_of_columns,
    resolve_protocol,
)
from corrsk.preprocessing.signals import check_layout, layout_of_protocol, warn_of_assumption

MIN_GRID_SIDE = 6  # two 3 x 3 convolutions and a 2 x 2 pooling reduce 6 x 6 to one pixel


class ColumnGrid(NamedTuple):
    """Grid of the columns of signals.

    Parameters
    ----------
    shape : tuple of int
        Shape of the grid.
    order : ndarray of int, shape (n_measurements,), or None
        ``X[:, order]`` is in grid order; None if X is.
    """

    shape: tuple[int, ...]
    order: NDArray[np.intp] | None = None


def resolve_grid(
    grid_shape: Sequence[int] | str,
    n_columns: int,
    layout: tuple[int, ...] | None = None,
    protocol: AcquisitionProtocol | None = None,
) -> ColumnGrid:
    """Grid of the columns of signals.

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
    ColumnGrid
        The given `grid_shape`; for "auto" the grid of the protocol, otherwise the layout, otherwise
        with a warning, a square (for 64 columns the published 8 x 8 grid), or the smallest grid of
        at least 6 x 6 with room for the columns. A single series is a grid with one row. The order
        is that of the protocol.

    Raises
    ------
    ValueError
        If `grid_shape`, the layout, the protocol and the number of columns contradict each other,
        or the measurements of the protocol are not a full grid.

    Warns
    -----
    ProtocolWarning
        If the grid is assumed, because neither a parameter, nor names, nor axes give it.
    """
    of_protocol = order = None
    if protocol is not None:
        of_protocol, order = _grid_of_protocol(protocol, n_columns), _grid_positions(protocol)
        layout_of_protocol(layout, protocol)
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
        check_layout(None if layout is None else _merged(layout), given, "grid_shape has")
        if of_protocol is not None and given != of_protocol:
            raise ValueError(
                f"grid_shape is {given}, but the grid of the protocol is {of_protocol}"
            )
        return ColumnGrid(given, order)
    known = of_protocol or (_merged(layout) if layout is not None and len(layout) > 1 else None)
    if known is not None:
        return ColumnGrid(known, order)
    guess = _guessed(n_columns)
    published = n_columns == resolve_protocol(DEFAULT_PROTOCOL).n_measurements
    warn_of_assumption(
        "layout", n_columns,
        f"a grid of {guess[0]} x {guess[1]}{f' as of {DEFAULT_PROTOCOL!r}' if published else ''}",
        "; or grid_shape=, or signals of shape (n_samples, n_ti, n_te). ResidualMLPClassifier "
        "takes measurements that are no grid",
    )  # fmt: skip
    return ColumnGrid(guess)


def grid_in_fingerprint(
    n_columns: int, layout: tuple[int, ...] | None, names: Iterable[str] | None
) -> tuple[int, ...]:
    """Grid in the checkpoints of networks that do not need one, as in those of earlier versions."""
    try:
        protocol = protocol_of_columns(names)
    except ValueError:  # such a network takes any columns
        protocol = None
    known = layout or (None if protocol is None else protocol.grid_layout)
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
    grid = protocol.grid_shape
    return _merged(grid) if len(grid) > 1 else (1, *grid)


def _grid_positions(protocol: AcquisitionProtocol) -> NDArray[np.intp] | None:
    if protocol.grid_layout is not None:
        return None
    order: NDArray[np.intp] = protocol.to_grid(np.arange(protocol.n_measurements)[None])[0]
    return order


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
