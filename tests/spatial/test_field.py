"""Mean field: neighbours, borders, and certainty."""

from __future__ import annotations

import numpy as np
import pytest

from corrsk.spatial import mean_field


def two_halves():
    p = np.full((6, 6, 2), [0.9, 0.1])
    p[:, 3:] = [0.1, 0.9]
    return p


def test_without_coupling_the_probabilities_are_unchanged():
    p = two_halves()
    np.testing.assert_allclose(mean_field(p, coupling=0.0), p, atol=1e-3)


def test_a_doubtful_voxel_follows_its_neighbours_by_the_coupling():
    p = np.full((5, 5, 2), [1.0, 0.0])
    p[2, 2] = [0.5, 0.5]
    found = mean_field(p, coupling=1.0)[2, 2]
    # the coupling is the log odds if all neighbours agree
    assert np.log(found[0] / found[1]) == pytest.approx(1.0, abs=0.01)


def test_similarity_separates_neighbours():
    p = two_halves()
    p[2, 3] = [0.6, 0.4]
    joined = mean_field(p, coupling=3.0)
    label = np.arange(6) >= 3

    def similarity(one, other):
        side = np.broadcast_to(label, (6, 6))
        return (side[one] == side[other]).astype(float)

    separated = mean_field(p, coupling=3.0, similarity=similarity)
    assert separated[2, 3, 1] > joined[2, 3, 1]


def test_thick_slices_and_the_mask_are_respected():
    p = np.full((3, 3, 3, 2), 0.5)
    p[1, 1, 0] = p[1, 1, 2] = [0.99, 0.01]
    cubes, thick = mean_field(p, coupling=2.0), mean_field(p, coupling=2.0, voxel_size=(1, 1, 4))
    assert cubes[1, 1, 1, 0] > thick[1, 1, 1, 0] > 0.5
    mask = np.ones((3, 3, 3), dtype=bool)
    mask[:, :, 0] = False
    masked = mean_field(p, coupling=2.0, mask=mask)
    assert np.isnan(masked[:, :, 0]).all()
    np.testing.assert_allclose(masked[mask].sum(axis=-1), 1)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 2), {}, "probabilities must have shape"),
        ((4, 4, 2), {"coupling": -1.0}, "coupling"),
        ((4, 4, 2), {"mask": np.ones((2, 2))}, "mask must have the shape"),
    ],
)
def test_invalid_parameters_are_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        mean_field(np.full(shape, 0.5), **options)
