"""Part of the maps that a report shows, and the voxels whose signals it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corrsk.imaging import Grid
from corrsk.imaging.grid import Slices

_MARGIN = 2  # voxels around the mask


@dataclass(frozen=True)
class Detail:
    """Every n-th voxel of a box of a grid.

    Parameters
    ----------
    where : tuple of slice
        Start, stop and step along each axis.
    """

    where: Slices

    @classmethod
    def from_mask(cls, mask: NDArray[np.bool_], grid: Grid, most: int) -> Detail:
        """Choose the box of the mask, and steps such that few enough voxels are left.

        Parameters
        ----------
        mask : ndarray of bool, shape (n_x, n_y, n_z)
            Mapped voxels, at least one.
        grid : Grid
            The voxels.
        most : int
            Largest number of voxels.

        Returns
        -------
        Detail
            The part.
        """
        found = []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            places = np.flatnonzero(mask.any(axis=others))
            stop = min(mask.shape[axis], int(places[-1]) + 1 + _MARGIN)
            found.append(slice(max(0, int(places[0]) - _MARGIN), stop, 1))
        detail = cls((found[0], found[1], found[2]))
        while detail.n_voxels > most:
            detail = detail.coarser(grid)
        return detail

    def coarser(self, grid: Grid) -> Detail:
        """Leave out voxels along the axis with the finest steps.

        Parameters
        ----------
        grid : Grid
            The voxels.

        Returns
        -------
        Detail
            The part, with a larger step along one axis.
        """
        sides = np.linalg.norm(grid.affine[:3, :3], axis=0)
        distances = [
            side * one.step if n > 1 else np.inf
            for side, one, n in zip(sides, self.where, self.shape, strict=True)
        ]
        where = list(self.where)
        axis = int(np.argmin(distances))
        one = where[axis]
        where[axis] = slice(one.start, one.stop, one.step + 1)
        return Detail((where[0], where[1], where[2]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        lengths = [len(range(one.start, one.stop, one.step)) for one in self.where]
        return lengths[0], lengths[1], lengths[2]

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    @property
    def start(self) -> list[int]:
        """First voxel along each axis."""
        return [one.start for one in self.where]

    @property
    def steps(self) -> list[int]:
        """Step along each axis."""
        return [one.step for one in self.where]

    def describe(self) -> str:
        """Describe the voxels that are left out.

        Returns
        -------
        str
            One sentence.
        """
        coarse = _coarse(self.steps)
        if not coarse:
            return "Every mapped voxel is in the viewer."
        return (
            f"To keep this file small, the viewer has every {coarse} only; the "
            "files of the maps have all voxels."
        )


def _coarse(steps: Sequence[int]) -> str:
    """Text on the steps above 1, to be preceded by "every"."""
    return " and every ".join(
        f"{_ordinal(step)} voxel along {name}"
        for step, name in zip(steps, "xyz", strict=True)
        if step > 1
    )


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


@dataclass(frozen=True, eq=False)
class Chosen:
    """Voxels whose signals a report has.

    Parameters
    ----------
    places : ndarray of int, shape (n_chosen, 3)
        Voxels in the part of a :class:`Detail`, in C order.
    slices : tuple of int
        Their slices, in the numbers of the images.
    axis : int
        Axis of the slices.
    steps : tuple of int
        Steps between the voxels along each axis in a slice, in voxels of the images.
    """

    places: NDArray[np.intp]
    slices: tuple[int, ...]
    axis: int
    steps: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def from_mask(cls, mask: NDArray[np.bool_], detail: Detail, axis: int, most: int) -> Chosen:
        """Choose whole slices, from the middle one; of a large one every n-th voxel.

        Parameters
        ----------
        mask : ndarray of bool
            Mapped voxels of the part.
        detail : Detail
            The part.
        axis : int
            Axis along which slices are cut.
        most : int
            Largest number of voxels.

        Returns
        -------
        Chosen
            The voxels.
        """
        per_slice = mask.sum(axis=tuple(other for other in range(3) if other != axis))
        filled = np.flatnonzero(per_slice)
        middle = int(filled[filled.size // 2])
        numbers = [middle]
        for n in range(filled.size, 1, -1):  # as many evenly spaced ones as possible
            spread = filled[np.unique(np.linspace(0, filled.size - 1, n + 2).round().astype(int))]
            spread = spread[1:-1] if n < filled.size else filled
            if per_slice[spread].sum() <= most and spread.size:
                numbers = [int(one) for one in spread]
                break
        kept = np.zeros_like(mask)
        index: list[slice | list[int]] = [slice(None)] * 3
        index[axis] = numbers
        kept[tuple(index)] = mask[tuple(index)]
        every = places = np.argwhere(kept)
        steps, others = [1, 1, 1], [other for other in range(3) if other != axis]
        while len(places) > most:
            finer = others[0] if steps[others[0]] <= steps[others[1]] else others[1]
            steps[finer] += 1
            places = every[(every % steps == 0)[:, others].all(axis=1)]
        if not len(places):
            places = every[:1]
        one = detail.where[axis]
        slices = tuple(one.start + one.step * k for k in numbers)
        in_images = [step * of_part for step, of_part in zip(steps, detail.steps, strict=True)]
        in_images[axis] = 1  # the slices have numbers
        return cls(places, slices, axis, (in_images[0], in_images[1], in_images[2]))

    def describe(self, n_mapped: int) -> str:
        """Describe which voxels these are.

        Parameters
        ----------
        n_mapped : int
            Number of mapped voxels of the images.

        Returns
        -------
        str
            One sentence.
        """
        if n_mapped == 1:
            return "This file has the signal of the mapped voxel."
        if len(self.places) == n_mapped:
            return f"This file has the signals of all {n_mapped:,} mapped voxels."
        coarse = _coarse(self.steps)
        which = f"every {coarse}" if coarse else "all voxels"
        names = ", ".join(map(str, self.slices))
        return (
            f"This file has the signals of {len(self.places):,} of the {n_mapped:,} mapped voxels: "
            f"{which} of slice{'s' if len(self.slices) > 1 else ''} {names} along "
            f"{'xyz'[self.axis]}."
        )
