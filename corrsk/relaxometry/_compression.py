"""Singular values of the kernel between a grid of tissue properties and the measurements.

On a grid of scan parameters the kernel is a Kronecker product of one kernel per contrast, and so is
its singular value decomposition (Venkataramanan, Song and Hurlimann, IEEE Trans. Signal Process.
50, 1017 (2002)): one small decomposition per axis, and products of the singular values. The kernel
of a scattered protocol is decomposed as a whole, from blocks of cells where there are more cells
than measurements. The whole kernel of measurements times cells is never stored then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from corrsk.relaxometry._kernels import Array, KernelModel

_BLOCK = 2**22  # entries of a block of signals: 32 MB


class CompressedKernel(NamedTuple):
    """Leading singular values and vectors of a kernel (N, M).

    left : (N, r), values : (r,), right : (r, M)
    """

    left: Array
    values: Array
    right: Array


def compress_kernel(model: KernelModel, n_points: Sequence[int], cutoff: float) -> CompressedKernel:
    """Singular value decomposition of the kernel of a grid of tissue properties.

    Parameters
    ----------
    model : KernelModel
        Kernels of the protocol, with N measurements.
    n_points : sequence of int
        Number of grid points of each property; the grid has M cells.
    cutoff : float
        Singular values above this fraction of the largest are kept.

    Returns
    -------
    CompressedKernel
        The r kept singular values in descending order, and their vectors.
    """
    if model.is_separable:
        return _kronecker(model.axis_kernels(n_points), cutoff)
    _, theta = model.grid(n_points)
    if len(theta) <= model.n_measurements:
        return _kept(*_svd(model.dictionary(theta).T), cutoff)
    return _in_blocks(model, theta, cutoff)


def _kronecker(kernels: Sequence[Array], cutoff: float) -> CompressedKernel:
    """Decomposition of a Kronecker product of kernels (n_axis, n_cells)."""
    parts = [_svd(kernel) for kernel in kernels]
    values = np.ones(())
    for _, own, _ in parts:
        values = np.multiply.outer(values, own)
    order = np.argsort(-values, axis=None, kind="stable")
    order = order[values.ravel()[order] > cutoff * values.max()]
    left, right = np.ones((1, order.size)), np.ones((order.size, 1))
    for (u, _, v), index in zip(parts, np.unravel_index(order, values.shape), strict=True):
        left = (left[:, None] * u[:, index]).reshape(-1, order.size)
        right = (right[:, :, None] * v[index][:, None]).reshape(order.size, -1)
    return CompressedKernel(left, values.ravel()[order], right)


def _in_blocks(model: KernelModel, theta: Array, cutoff: float) -> CompressedKernel:
    """Decomposition of a kernel with more cells than measurements, in blocks of cells.

    The triangle R of a QR decomposition of the transposed kernel has the left singular vectors and
    the singular values of the kernel, without the squares of a Gram matrix.
    """
    N = model.n_measurements
    size = max(N, _BLOCK // N)

    def blocks() -> Iterator[Array]:
        for start in range(0, len(theta), size):
            yield model.dictionary(theta[start : start + size])

    triangle = np.empty((0, N))
    for block in blocks():
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
    left, values, _ = _kept(*_svd(triangle.T), cutoff)
    right = np.concatenate([(block @ (left / values)).T for block in blocks()], axis=1)
    return CompressedKernel(left, values, right)


def _svd(kernel: Array) -> tuple[Array, Array, Array]:
    left, values, right = np.linalg.svd(kernel, full_matrices=False)
    return left, values, right


def _kept(left: Array, values: Array, right: Array, cutoff: float) -> CompressedKernel:
    keep = values > cutoff * values[0]
    return CompressedKernel(left[:, keep], values[keep], right[keep])
