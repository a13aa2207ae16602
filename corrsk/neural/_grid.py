"""How the columns of signals are laid out on a grid, for networks that need one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from corrsk.acquisition.protocol import protocol_of_columns

MIN_GRID_SIDE = 6  # two 3 x 3 convolutions and a 2 x 2 pooling leave one pixel of it


def resolve_grid(
    grid_shape: Sequence[int] | str,
    n_columns: int,
    layout: tuple[int, ...] | None = None,
    feature_names: Iterable[str] | None = None,
) -> tuple[int, ...]:
    """How to lay out columns on a grid.

    Parameters
    ----------
    grid_shape : sequence of int or "auto"
        What the user wants.
    n_columns : int
    layout : tuple of int, optional
        The shape of each signal, if it was more than a row of columns.
    feature_names : iterable of str, optional

    Returns
    -------
    tuple of int
        The grid that was asked for; for "auto" the layout, else the one that the
        feature names tell (TI50_TE4.5, in grid order), else a square, else the
        smallest grid of at least 6 x 6 that holds the columns.

    Raises
    ------
    ValueError
        If the grid that was asked for does not hold the columns.
    """
    if grid_shape != "auto":
        shape: tuple[Any, ...] = tuple(grid_shape)
        if (
            not all(isinstance(side, Integral) and int(side) > 0 for side in shape)
            or len(shape) not in (2, 3)
            or math.prod(shape) != n_columns
        ):
            raise ValueError(
                f"grid_shape {shape} does not lay out the {n_columns} columns of X; give two or "
                f"three positive integers whose product is {n_columns}, or 'auto'"
            )
        return shape
    known = layout or _grid_of_names(feature_names)
    if known is not None and len(known) > 1:
        # what goes beyond a third axis is gathered in it
        return known if len(known) < 4 else (*known[:2], math.prod(known[2:]))
    side = math.isqrt(n_columns)
    return (side, side) if side * side == n_columns else smallest_grid(n_columns)


def _grid_of_names(names: Iterable[str] | None) -> tuple[int, ...] | None:
    """The grid of columns whose names are in grid order."""
    protocol = protocol_of_columns(names)
    if protocol is None:
        return None
    in_order = protocol.in_grid_order().feature_names == protocol.feature_names
    return protocol.grid_shape if in_order else None


def smallest_grid(n_columns: int) -> tuple[int, int]:
    """The smallest grid of at least 6 x 6 that holds `n_columns`; of equals the squarest."""
    shapes = [
        (rows, max(rows, -(-n_columns // rows)))
        for rows in range(MIN_GRID_SIDE, max(MIN_GRID_SIDE, math.isqrt(n_columns) + 1) + 1)
    ]
    return min(shapes, key=lambda shape: (math.prod(shape), shape[1] - shape[0]))
