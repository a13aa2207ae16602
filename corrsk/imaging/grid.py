"""Grids of voxels: shape, affine, and the geometry of a NIfTI header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk.imaging._nifti import import_nibabel

Slices = tuple[slice, slice, slice]

_LARGEST_NIFTI1 = 32_767  # its header has 16 bits for the length of an axis
_TOLERANCE = 0.1  # of a voxel: headers round


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels of an image: their number along each axis, and their positions.

    Parameters
    ----------
    shape : tuple of int
        Number of voxels along the three axes.
    affine : ndarray of shape (4, 4)
        Affine from voxel indices to positions in mm; the identity if there is none.
    header : nibabel header or None
        Header whose geometry written maps have; None for the affine alone.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    header: Any = None

    @classmethod
    def from_image(cls, image: Any) -> Grid:
        """Grid of an image of nibabel; absent spatial axes have the length 1.

        Parameters
        ----------
        image : nibabel image
            The image.

        Returns
        -------
        Grid
            The grid.
        """
        affine = np.eye(4) if image.affine is None else np.asarray(image.affine, np.float64)
        return cls(spatial_shape(image.shape), affine, image.header.copy())

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def has_identity(self) -> bool:
        """Whether the affine is the identity, which files without a position have."""
        return np.array_equal(self.affine, np.eye(4))

    @property
    def slab_axis(self) -> int:
        """Last axis with more than one voxel, along which slabs are cut."""
        return max((axis for axis in range(3) if self.shape[axis] > 1), default=2)

    @property
    def view_axis(self) -> int:
        """Axis whose slices are shown as pictures: the last of one voxel, or `slab_axis`."""
        return max((axis for axis in range(3) if self.shape[axis] == 1), default=self.slab_axis)

    def difference(self, other: Grid) -> str | None:
        """Describe how another grid differs.

        Parameters
        ----------
        other : Grid
            The other grid.

        Returns
        -------
        str or None
            The difference; None if the shapes are equal and all corners agree to a tenth of a
            voxel.
        """
        if other.shape != self.shape:
            return f"shape {other.shape} in place of {self.shape}"
        distance = self.distance(other)
        if distance <= _TOLERANCE:
            return None
        return f"another affine: a corner lies {distance:.3g} voxels away"

    def distance(self, other: Grid) -> float:
        """Largest distance between corners of two grids of one shape.

        Parameters
        ----------
        other : Grid
            The other grid.

        Returns
        -------
        float
            The distance, in units of the smallest side of a voxel.
        """
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"))
        homogeneous = np.vstack([corners.reshape(3, -1), np.ones(8)])
        apart = ((self.affine - other.affine) @ homogeneous)[:3]
        sides = np.linalg.norm(self.affine[:3, :3], axis=0)
        smallest = sides[sides > 0].min() if (sides > 0).any() else 1.0
        return float(np.linalg.norm(apart, axis=0).max() / smallest)

    def part(self, where: Slices) -> Grid:
        """Grid of every n-th voxel of a part of this grid.

        Parameters
        ----------
        where : tuple of slice
            Start, stop and step along each axis.

        Returns
        -------
        Grid
            The grid, with the positions of its voxels and without header.
        """
        ranges = [range(*each.indices(n)) for each, n in zip(where, self.shape, strict=True)]
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [one.start for one in ranges]
        affine[:3, :3] *= [one.step for one in ranges]
        return Grid((len(ranges[0]), len(ranges[1]), len(ranges[2])), affine)

    def slabs(self, thickness: int) -> Iterator[Slices]:
        """Cut the grid along `slab_axis` into slabs.

        Parameters
        ----------
        thickness : int
            Largest number of slices of a slab.

        Yields
        ------
        tuple of slice
            Place of a slab, in ascending order.
        """
        axis = self.slab_axis
        for start in range(0, self.shape[axis], thickness):
            stop = min(start + thickness, self.shape[axis])
            where = [slice(0, n) for n in self.shape]
            where[axis] = slice(start, stop)
            yield where[0], where[1], where[2]

    def map_header(self, dtype: np.dtype[Any], n_maps: int | None = None) -> Any:
        """Header of a map with the geometry of the grid, in little-endian byte order.

        Parameters
        ----------
        dtype : dtype
            Type of the values.
        n_maps : int, optional
            Length of the fourth axis; None for three axes.

        Returns
        -------
        nibabel header
            Header of one NIfTI file.
        """
        nibabel = import_nibabel()
        wide = max((*self.shape, n_maps or 1)) > _LARGEST_NIFTI1
        header = (nibabel.Nifti2Header if wide else nibabel.Nifti1Header)(endianness="<")
        header.set_data_shape(self.shape if n_maps is None else (*self.shape, n_maps))
        header.set_data_dtype(dtype)
        own = self.header
        zooms = np.linalg.norm(self.affine[:3, :3], axis=0)
        zooms[zooms == 0] = 1.0  # a header needs positive sizes
        header.set_zooms((*zooms.tolist(), *(() if n_maps is None else (1.0,))))
        if hasattr(own, "get_qform"):
            space, _ = own.get_xyzt_units()
            header.set_xyzt_units(space)
            for form in ("qform", "sform"):
                matrix, code = getattr(own, f"get_{form}")(coded=True)
                if code > 0:
                    getattr(header, f"set_{form}")(matrix, int(code))
            if int(own["sform_code"]) == 0 and int(own["qform_code"]) == 0:
                header.set_sform(self.affine, 0)
        else:
            header.set_sform(self.affine, "aligned")
        header.set_slope_inter(1.0, 0.0)
        return header


def spatial_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Three spatial axes of the shape of an image, filled with axes of length 1."""
    first = (*(int(n) for n in shape[:3]), 1, 1, 1)
    return first[0], first[1], first[2]
