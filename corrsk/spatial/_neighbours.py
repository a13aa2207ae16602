"""Pairs of neighbouring voxels of a grid, in order of their distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Slices = tuple[slice, ...]


class Neighbours(NamedTuple):
    """Half of the offsets of a voxel's neighbours; the other half has the opposite sign.

    Parameters
    ----------
    offsets : ndarray of int, shape (n_offsets, n_axes)
        Offsets in voxels.
    distances : ndarray of shape (n_offsets,)
        Distances in the unit of the voxel size, ascending.
    """

    offsets: NDArray[np.intp]
    distances: NDArray[np.float64]

    @classmethod
    def nearest(
        cls, shape: Sequence[int], voxel_size: NDArray[np.float64], number: int
    ) -> Neighbours:
        """Find about `number` nearest neighbours; those of equal distance are all included."""
        axes = np.asarray(shape) > 1
        if not axes.any() or number < 1:
            return cls(np.zeros((0, len(shape)), dtype=np.intp), np.zeros(0))
        # the ball whose volume is that number of voxels, and some more
        size = voxel_size[axes]
        n_axes = int(axes.sum())
        ball = {1: 2.0, 2: np.pi, 3: 4 * np.pi / 3}[n_axes]
        radius = float(((number + 1) * np.prod(size) / ball) ** (1 / n_axes)) + size.max()
        reach = np.where(axes, np.minimum(radius // voxel_size, np.asarray(shape) - 1), 0)
        grid = np.stack(
            np.meshgrid(*(np.arange(-r, r + 1) for r in reach.astype(int)), indexing="ij"), axis=-1
        ).reshape(-1, len(shape))
        first = np.argmax(grid != 0, axis=1)
        grid = grid[grid[np.arange(len(grid)), first] > 0]
        squared = ((grid * voxel_size) ** 2).sum(axis=1)
        order = np.argsort(squared, kind="stable")
        grid, distance = grid[order], np.sqrt(squared[order])
        last = min(max(1, -(-number // 2)), len(distance)) - 1
        kept = distance <= distance[last] * (1 + 1e-9)
        return cls(grid[kept], distance[kept])

    def within(self, number: int) -> Neighbours:
        """Keep about `number` nearest neighbours."""
        if not len(self.distances):
            return self
        last = min(max(1, -(-number // 2)), len(self.distances)) - 1
        kept = self.distances <= self.distances[last] * (1 + 1e-9)
        return Neighbours(self.offsets[kept], self.distances[kept])


def pair_slices(offset: NDArray[np.intp], shape: Sequence[int]) -> tuple[Slices, Slices]:
    """Slices of the first and the second voxels of all pairs with an offset."""
    first, second = [], []
    for step, length in zip(offset.tolist(), shape, strict=True):
        first.append(slice(max(0, -step), length - max(0, step)))
        second.append(slice(max(0, step), length - max(0, -step)))
    return tuple(first), tuple(second)


def checked_voxel_size(voxel_size: Any, n_axes: int) -> NDArray[np.float64]:
    """Edges of a voxel, one for each axis.

    Raises
    ------
    ValueError
        If there is neither one positive number nor one for each axis.
    """
    if voxel_size is None:
        return np.ones(n_axes)
    size = np.asarray(voxel_size, dtype=np.float64)
    if size.ndim == 0:
        size = np.full(n_axes, size)
    if size.shape != (n_axes,) or not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError(
            f"voxel_size must be a positive number, or one for each of the {n_axes} axes, got "
            f"{voxel_size!r}"
        )
    return size
