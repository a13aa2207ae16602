"""Layout of the columns of signals on a grid, for the convolutional network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from corrsk.acquisition.protocol import protocol_of_columns

MIN_GRID_SIDE = 6  # two 3 x 3 convolutions and a 2 x 2 pooling reduce 6 x 6 to one pixel


def resolve_grid(
    grid_shape: Sequence[int] | str,
    n_columns: int,
    layout: tuple[int, ...] | None = None,
    feature_names: Iterable[str] | None = None,
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
    feature_names : iterable of str, optional
        Names of the columns.

    Returns
    -------
    tuple of int
        The given `grid_shape`; for "auto" the layout, otherwise the grid of the feature
        names (TI50_TE4.5, in grid order), otherwise a square, otherwise the smallest
        grid of at least 6 x 6 with room for the columns.

    Raises
    ------
    ValueError
        If `grid_shape` does not match the number of columns.
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
        return shape
    known = layout or (None if feature_names is None else _grid_of_names(feature_names))
    if known is not None and len(known) > 1:
        # further axes are merged into the third
        return known if len(known) < 4 else (*known[:2], math.prod(known[2:]))
    side = math.isqrt(n_columns)
    return (side, side) if side * side == n_columns else smallest_grid(n_columns)


def _grid_of_names(names: Iterable[str] | None) -> tuple[int, ...] | None:
    """Grid shape from the names of columns, or None if they are not in grid order."""
    protocol = protocol_of_columns(names)
    if protocol is None:
        return None
    in_order = protocol.in_grid_order().feature_names == protocol.feature_names
    return protocol.grid_shape if in_order else None


def smallest_grid(n_columns: int) -> tuple[int, int]:
    """Smallest grid of at least 6 x 6 with room for `n_columns`; the squarest if several."""
    shapes = [
        (rows, max(rows, -(-n_columns // rows)))
        for rows in range(MIN_GRID_SIDE, max(MIN_GRID_SIDE, math.isqrt(n_columns) + 1) + 1)
    ]
    return min(shapes, key=lambda shape: (math.prod(shape), shape[1] - shape[0]))
