"""Markov random field on the probabilities of neighbouring voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corrsk.spatial._neighbours import checked_voxel_size, pair_slices

_SMALLEST = 1e-6  # probability, so that the logarithm is finite
_MOST_STEPS = 50
_TOLERANCE = 1e-3


def mean_field(
    probabilities: ArrayLike,
    *,
    coupling: float = 1.0,
    mask: ArrayLike | None = None,
    voxel_size: Any = None,
    similarity: Any = None,
) -> NDArray[np.float64]:
    """Mean-field solution of a Potts model on the probabilities of neighbouring voxels.

    Parameters
    ----------
    probabilities : array of shape (n_x, n_y, n_classes) or (n_x, n_y, n_z, n_classes)
        Probabilities of each voxel by itself; voxels with NaN are left out.
    coupling : float, default=1.0
        Strength of the neighbours: log odds that a voxel has the class of its neighbours, if all of
        them agree with certainty.
    mask : array of bool, shape (n_x, n_y) or (n_x, n_y, n_z), optional
        Voxels to use; None (default) for all.
    voxel_size : float or sequence of float, optional
        Edges of a voxel along each axis; None (default) for cubes. Neighbours share a face, and
        have weights in inverse proportion to the squared distance.
    similarity : callable, optional
        Function of the slices of the first and second voxels of all pairs along an axis, which
        returns weights from 0 (a border is between them) to 1. None (default) for 1.

    Returns
    -------
    ndarray of float, of the shape of the probabilities
        Probabilities, NaN in other voxels.

    Raises
    ------
    ValueError
        If shapes are invalid, or the coupling is negative.

    Notes
    -----
    Fixed point of ``q_i(c) ~ p_i(c) exp(coupling sum_j w_ij q_j(c) / sum_j d_ij)``, where d_ij are
    the weights by distance and w_ij those times the similarity (Zhang, IEEE Trans. Signal Process.
    40, 2570, 1992). A voxel between different neighbours keeps its own probabilities. The
    probabilities of neighbours are taken as independent; if these share their errors, the result is
    too confident.

    Examples
    --------
    >>> import numpy as np
    >>> from corrsk.spatial import mean_field
    >>> p = np.full((3, 3, 2), [0.9, 0.1])
    >>> p[1, 1] = [0.4, 0.6]
    >>> mean_field(p, coupling=2.0)[1, 1].round(2)
    array([0.82, 0.18])
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim not in (3, 4):
        raise ValueError(
            "probabilities must have shape (n_x, n_y, n_classes) or (n_x, n_y, n_z, n_classes), "
            f"got {p.shape}"
        )
    if not 0 <= coupling < np.inf:
        raise ValueError(f"coupling must be a number of at least 0, got {coupling!r}")
    shape = p.shape[:-1]
    size = checked_voxel_size(voxel_size, len(shape))
    inside = np.asarray(np.isfinite(p).all(axis=-1))
    if mask is not None:
        given = np.asarray(mask)
        if given.shape != shape:
            raise ValueError(f"mask must have the shape {shape} of the voxels, got {given.shape}")
        inside &= given.astype(bool)
    own = np.log(np.maximum(np.where(inside[..., None], p, 1), _SMALLEST))
    links = []
    total = np.zeros(shape)
    for offset in _faces(shape):
        one, other = pair_slices(offset, shape)
        by_distance = 1 / float((offset * size) @ (offset * size))
        weight = by_distance * (inside[one] & inside[other])
        total[one] += weight
        total[other] += weight
        links.append(
            (one, other, weight if similarity is None else weight * similarity(one, other))
        )
    scale = coupling / np.where(total > 0, total, 1)
    q = _softmax(own)
    for _ in range(_MOST_STEPS):
        field = np.zeros_like(q)
        for one, other, weight in links:
            field[one] += weight[..., None] * q[other]
            field[other] += weight[..., None] * q[one]
        # half of the change, since alternating updates of neighbours may oscillate
        new = 0.5 * (q + _softmax(own + scale[..., None] * field))
        change = float(np.abs(new - q).max())
        q = new
        if change < _TOLERANCE:
            break
    q[~inside] = np.nan
    return q


def _faces(shape: tuple[int, ...]) -> NDArray[np.intp]:
    return np.eye(len(shape), dtype=np.intp)[np.asarray(shape) > 1]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
