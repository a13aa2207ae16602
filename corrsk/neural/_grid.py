"""Layout of the columns of signals on a grid, for the convolutional network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corrsk.acquisition.protocol import AcquisitionProtocol, protocol_of_columns
from corrsk.preprocessing.signals import check_layout

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
        The given `grid_shape`; for "auto" the layout, otherwise the grid of the protocol,
        otherwise a square, otherwise the smallest grid of at least 6 x 6 with room for the columns.
        The order is that of the protocol, if its grid has this shape.

    Raises
    ------
    ValueError
        If `grid_shape` does not match the number of columns or the layout, or if it is "auto" and
        the protocol is not a grid.
    """
    if grid_shape != "auto":
        shape: tuple[Any, ...] = tuple(grid_shape)
        if (
            not all(isinstance(side, Integral) and int(side) > 0 for side in shape)
            or len(shape) not in (2, 3)
            or math.prod(shape) != n_columns
        ):
            raise ValueError(
                f"grid_shape {shape} does not match the {n_columns} columns of X; give two or "
                f"three positive integers with the product {n_columns}, or 'auto'"
            )
        check_layout(None if layout is None else _merged(layout), shape, "grid_shape has")
        of_protocol = protocol is not None and protocol.grid_shape == shape
        return ColumnGrid(shape, _grid_positions(protocol) if of_protocol else None)
    if layout is not None and len(layout) > 1:
        return ColumnGrid(_merged(layout))
    if protocol is None:
        return ColumnGrid(_guessed(n_columns))
    if protocol.grid_shape is None:
        raise ValueError(
            f"the convolutional network needs measurements on a full grid, but the {n_columns} "
            f"columns are those of {protocol!r}; use ResidualMLPClassifier, which takes any "
            "protocol, or pass grid_shape="
        )
    if len(protocol.grid_shape) == 1:
        return ColumnGrid(_guessed(n_columns), _grid_positions(protocol))
    return ColumnGrid(_merged(protocol.grid_shape), _grid_positions(protocol))


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


def _grid_positions(protocol: AcquisitionProtocol | None) -> NDArray[np.intp] | None:
    if protocol is None or protocol.grid_layout is not None:
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
