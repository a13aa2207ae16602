"""Table of the maps for each label of an atlas, in one pass over slabs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from corrsk._utils.files import write_atomically
from corrsk.imaging import MeasuredImages, Slab


class LabelStatistics:
    """Sums of the maps over the voxels of each label of an atlas.

    Parameters
    ----------
    atlas : path-like, nibabel image or array
        Integer labels on the grid of the images; 0 is no label.
    images : MeasuredImages
        The images.
    classes : ndarray of int
        Compartment counts.

    Raises
    ------
    ValueError
        If the atlas has another shape or affine, no label, or values that are no integers.
    """

    def __init__(self, atlas: Any, images: MeasuredImages, classes: NDArray[Any]) -> None:
        values = images.read_map(atlas)
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise ValueError(f"the atlas {atlas} has values that are no integers")
        self.labels, index = np.unique(values.astype(np.int64), return_inverse=True)
        self._index = index.reshape(values.shape)
        if not self.labels.any():
            raise ValueError(f"the atlas {atlas} has no label: all values are 0")
        self._classes = classes
        self._size = np.bincount(index.ravel(), minlength=self.labels.size)
        self._mapped = np.zeros(self.labels.size, np.int64)
        self._of_class = np.zeros((self.labels.size, classes.size), np.int64)
        self._sums: dict[str, NDArray[np.float64]] = {}  # number, sum, sum of squares

    def add(self, slab: Slab, maps: Mapping[str, NDArray[Any]]) -> None:
        """Add the maps of a slab.

        Parameters
        ----------
        slab : Slab
            The slab.
        maps : mapping of str to ndarray
            Values of its voxels; those with several values are left out.
        """
        index = self._index[slab.where][slab.mask]
        n = self.labels.size
        self._mapped += np.bincount(index, minlength=n)
        for k, count in enumerate(self._classes):
            self._of_class[:, k] += np.bincount(index[maps["labels"] == count], minlength=n)
        for key, values in maps.items():
            if values.ndim > 1 or key == "labels":
                continue
            finite = np.isfinite(values)
            own, kept = values[finite].astype(np.float64), index[finite]
            sums = self._sums.setdefault(key, np.zeros((3, n)))
            for row, weights in enumerate((np.ones_like(own), own, own**2)):
                sums[row] += np.bincount(kept, weights=weights, minlength=n)

    def to_frame(self) -> pd.DataFrame:
        """Return the table.

        Returns
        -------
        DataFrame
            One row for each label but 0: number of voxels and of mapped ones, share of each
            compartment count among these, and mean and standard deviation of each map.
        """
        mapped = np.maximum(self._mapped, 1)
        columns: dict[str, Any] = {
            "label": self.labels, "n_voxels": self._size, "n_mapped": self._mapped
        }  # fmt: skip
        for k, count in enumerate(self._classes):
            columns[f"share_{count}"] = self._of_class[:, k] / mapped
        for key, (number, total, squares) in self._sums.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = total / number
                spread = np.sqrt(np.maximum(squares / number - mean**2, 0))
            columns[f"{key}_mean"], columns[f"{key}_sd"] = mean, spread
        frame = pd.DataFrame(columns)
        shares = [f"share_{count}" for count in self._classes]
        frame.loc[frame["n_mapped"] == 0, shares] = np.nan
        return frame[frame["label"] != 0].reset_index(drop=True)

    def write(self, path: Any) -> None:
        """Write the table as tab-separated text, with n/a for missing values."""
        with write_atomically(path) as partial:
            self.to_frame().to_csv(
                partial, sep="\t", index=False, na_rep="n/a", float_format="%.6g"
            )
