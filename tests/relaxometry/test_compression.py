"""Singular values of kernels: separable, in blocks of cells, and of the whole kernel."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from corrsk import AcquisitionProtocol
from corrsk.acquisition.bounds import checked_bounds
from corrsk.relaxometry._compression import compress_kernel
from corrsk.relaxometry._kernels import KernelModel

rng = np.random.default_rng(0)
PROTOCOLS = {
    "grid": AcquisitionProtocol.from_grid(ti=np.geomspace(50, 3000, 7), te=[5, 10, 30, 90]),
    "grid with TR": AcquisitionProtocol.from_grid(ti=[50, 400, 2000], te=[5, 20, 80], tr=3000),
    "three-dimensional": AcquisitionProtocol.from_grid(
        ti=[50, 400, 2000], te=[5, 20, 80], b=[0, 0.5, 1, 3]
    ),
    "one contrast with repeats": AcquisitionProtocol(te=[5, 5, 20, 60, 60]),
    "scattered, more cells": AcquisitionProtocol(
        ti=rng.uniform(50, 3000, 20), te=rng.uniform(5, 150, 20)
    ).in_grid_order(),
    "scattered, more measurements": AcquisitionProtocol(
        ti=rng.uniform(50, 3000, 90), te=rng.uniform(5, 150, 90)
    ).in_grid_order(),
}


@pytest.mark.parametrize("which", PROTOCOLS)
def test_equals_the_decomposition_of_the_whole_kernel(which, monkeypatch):
    # several blocks of cells
    monkeypatch.setattr("corrsk.relaxometry._compression._BLOCK", 1000)
    protocol = PROTOCOLS[which]
    model = KernelModel(protocol, checked_bounds(None, protocol), 0.9)
    n_points = (6, 9, 5)[: len(model.properties)]
    kernel = model.dictionary(model.grid(n_points)[1]).T
    cutoff = 1e-5
    expected = np.linalg.svd(kernel, compute_uv=False)
    expected = expected[expected > cutoff * expected[0]]
    left, values, right = compress_kernel(model, n_points, cutoff)
    np.testing.assert_allclose(values, expected, rtol=1e-8)
    np.testing.assert_allclose(left.T @ left, np.eye(values.size), atol=1e-10)
    np.testing.assert_allclose(right @ right.T, np.eye(values.size), atol=1e-8)
    # the best approximation of this rank misses less than the largest singular value left out
    error = np.linalg.norm(kernel - (left * values) @ right, 2)
    assert error <= cutoff * values[0] * (1 + 1e-6)


def test_memory_does_not_grow_with_measurements_times_cells():
    protocol = AcquisitionProtocol.from_grid(
        ti=np.geomspace(50, 5000, 16), te=np.linspace(2, 2000, 1024)
    )
    model = KernelModel(protocol, checked_bounds(None, protocol))
    tracemalloc.start()
    compressed = compress_kernel(model, (32, 32), 3e-6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = 8 * protocol.n_measurements * 32**2
    kept = sum(part.nbytes for part in compressed)
    assert peak < 6 * kept < whole
