"""First pass over the images of a subject: mask, sample of voxels, and unusable volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrsk.imaging import MeasuredImages, Slab
from corrsk.imaging.automask import tissue_mask

AUTO_MASK, NO_MASK = "auto", "none"
_N_SAMPLED = 12_000  # voxels, evenly spaced over all slabs
_FEWEST_JUDGED = 8  # voxels, from which equal values are no coincidence


@dataclass(frozen=True, eq=False)
class Survey:
    """Voxels of a subject to map.

    Parameters
    ----------
    mask : ndarray of bool, shape (n_x, n_y, n_z)
        Voxels with a signal that are mapped.
    sample : ndarray of shape (n_sampled, n_measurements)
        Signals of some of them.
    n_dark : int
        Number of voxels of a given mask without signal; without a given mask, of voxels with NaN or
        infinite values beside others.
    origin : str
        Origin of the mask, for the record.
    """

    mask: NDArray[np.bool_]
    sample: NDArray[Any]
    n_dark: int
    origin: str

    @property
    def n_voxels(self) -> int:
        """Number of voxels to map."""
        return int(self.mask.sum())


def survey_images(images: MeasuredImages, mask: str, *, slab_bytes: int) -> Survey:
    """Read all images once, slab by slab.

    Parameters
    ----------
    images : MeasuredImages
        The images; their own mask has precedence over a made one.
    mask : {"auto", "none"}
        Whether to make a mask if the images have none.
    slab_bytes : int
        Size of a slab.

    Returns
    -------
    Survey
        The voxels.

    Raises
    ------
    ValueError
        If no voxel has a signal, a volume has the same value in all voxels, or a file is damaged.
    """
    makes = images.mask is None and mask == AUTO_MASK
    kept = np.zeros(images.grid.shape, bool)
    strength = np.zeros(images.grid.shape, np.float32) if makes else None
    places: list[NDArray[np.intp]] = []
    rows: list[NDArray[Any]] = []
    low = high = None
    n_dark = 0
    every = max(1, images.grid.n_voxels // _N_SAMPLED)
    for slab in images.slabs(max_bytes=slab_bytes):
        n_dark += slab.n_dark
        kept[slab.where] = slab.mask
        if not slab.n_voxels:
            continue
        signals = slab.signals.to_numpy()
        if strength is not None:
            size = np.sqrt(np.einsum("vn,vn->v", signals, signals.conj()).real / signals.shape[1])
            strength[slab.where] = np.nan_to_num(slab.fill(size))
        chosen = slice(None, None, every)
        # copies, because views would keep the positions and signals of all voxels in memory
        places.append(_positions(slab, images.grid.shape)[chosen].copy())
        rows.append(signals[chosen].copy())
        real = signals.real if signals.dtype.kind == "c" else signals
        first, last = real.min(axis=0), real.max(axis=0)
        low = first if low is None else np.minimum(low, first)
        high = last if high is None else np.maximum(high, last)
    if low is None or high is None:
        where = "its mask" if images.mask is not None else "it"
        raise ValueError(
            f"{images.name} has no voxel with a signal in {where}: the values are zero, NaN or "
            "infinite"
        )
    constant = np.flatnonzero(low == high)
    if constant.size and kept.sum() >= _FEWEST_JUDGED:
        verb = "has" if constant.size == 1 else "have"
        raise ValueError(
            f"{constant.size} of the {low.size} volumes of {images.name} {verb} the same value in "
            f"all voxels; the first is volume {int(constant[0])}, with {low[constant[0]]:g}"
        )
    origin = "all voxels with a signal" if images.mask is None else "given"
    if strength is not None:
        kept = tissue_mask(strength)
        origin = "made of the images (threshold of Li, largest parts, filled holes)"
    inside = kept.ravel()[np.concatenate(places)]
    sample = np.concatenate(rows)[inside]
    return Survey(kept, sample, n_dark, origin)


def _positions(slab: Slab, shape: tuple[int, int, int]) -> NDArray[np.intp]:
    """Flat positions of the voxels of a slab in the whole grid."""
    inside = np.nonzero(slab.mask)
    starts = (each.start for each in slab.where)
    return np.ravel_multi_index(
        tuple(places + start for places, start in zip(inside, starts, strict=True)), shape
    )
