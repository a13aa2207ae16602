"""Random streams of the simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from corrsk._utils.rng import STREAMS_VERSION, fill_with_normals, keyed_generator

SIZES = [0, 1, 2, 7, 1000, 4099]


def box_muller(uniform):
    """Box-Muller transform of the two halves of uniform draws, in float64."""
    radius, angle = np.split(uniform.astype(np.float64), 2)
    length = np.sqrt(-2 * np.log(1 - radius))
    return np.concatenate([length * np.cos(2 * np.pi * angle), length * np.sin(2 * np.pi * angle)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
def test_normals_use_the_uniform_draws_of_numpy(monkeypatch, dtype, size):
    monkeypatch.setattr("corrsk._utils.rng.PIECE", 256)
    ours, numpys = keyed_generator(0, 1), keyed_generator(0, 1)
    for _ in range(2):  # the second call continues after the draws of the first
        got = np.empty(size, dtype)
        fill_with_normals(ours, got)
        uniform = numpys.random(size + size % 2, dtype=dtype)
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(got, box_muller(uniform)[:size], rtol=tolerance, atol=tolerance)
    assert ours.integers(2**63) == numpys.integers(2**63)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_are_bit_identical_for_any_piece_size(monkeypatch, dtype):
    whole, pieces = np.empty((2, 33, 31), dtype)
    fill_with_normals(keyed_generator(5), whole)
    monkeypatch.setattr("corrsk._utils.rng.PIECE", 100)
    fill_with_normals(keyed_generator(5), pieces)
    np.testing.assert_array_equal(pieces, whole)


def test_normals_are_normal_and_uncorrelated():
    draws = np.empty((2, 100_000), np.float32)
    fill_with_normals(keyed_generator(3), draws)
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
    # both rows are computed from the same radii and angles
    assert abs(np.corrcoef(draws)[0, 1]) < 0.01
    assert abs(np.corrcoef(draws**2)[0, 1]) < 0.01


def test_the_draws_of_a_seed_match_streams_version():
    """A change of these numbers must come with an increase of `STREAMS_VERSION`."""
    draws = np.empty(4, np.float32)
    fill_with_normals(keyed_generator(0, 1, 2), draws)
    assert STREAMS_VERSION == 2
    np.testing.assert_allclose(draws, [-0.2223208, 0.3170185, -0.6374877, 1.041703], rtol=1e-5)
