"""Averages of like neighbours: noise that remains, borders, masks, and voxel sizes."""

from __future__ import annotations

import numpy as np
import pytest

from corrsk.spatial import average_like_neighbours, make_parcel_phantom
from corrsk.spatial.averaging import Comparison, average_compared


def error(averaged, phantom):
    return np.sqrt(((averaged.signals - phantom.clean) ** 2).mean(axis=-1))


@pytest.mark.parametrize("fwhm", [0.0, 2.0])
def test_the_remaining_noise_is_that_of_the_averages(fwhm):
    phantom = make_parcel_phantom(
        (48, 48), n_parcels=5, noise_level=0.03, noise_fwhm=fwhm, random_state=0
    )
    averaged = average_like_neighbours(phantom.signals, n_neighbors=300)
    assert averaged.noise == pytest.approx(0.03, rel=0.05)
    real = np.sqrt(np.mean(error(averaged, phantom) ** 2))
    assert np.sqrt(np.mean(averaged.sigma**2)) == pytest.approx(real, rel=0.25)
    assert real < 0.03 / (8 if fwhm == 0 else 3)


def test_borders_are_not_blurred():
    phantom = make_parcel_phantom((48, 48), n_parcels=6, noise_level=0.01, random_state=1)
    averaged = average_like_neighbours(phantom.signals, n_neighbors=300)
    found = error(averaged, phantom)
    # the mean over a window would have errors of about the difference of the tissues
    assert found[phantom.borders].max() < 0.01
    assert np.median(found[phantom.borders]) < 1.6 * np.median(found[~phantom.borders])


def test_a_structure_of_two_voxels_survives():
    phantom = make_parcel_phantom((24, 24), n_parcels=2, noise_level=0.0, random_state=2)
    first, second = phantom.clean[phantom.parcels == 0][0], phantom.clean[phantom.parcels == 1][0]
    clean = np.broadcast_to(first, phantom.clean.shape).copy()
    clean[:, 11:13] = second
    noise = 0.02 * np.random.default_rng(0).standard_normal(clean.shape)
    averaged = average_like_neighbours(clean + noise, n_neighbors=300)
    thin = np.sqrt(((averaged.signals - clean) ** 2).mean(axis=-1))[:, 11:13]
    assert thin.mean() < 0.01


def test_voxels_outside_the_mask_have_no_influence():
    phantom = make_parcel_phantom((24, 24), n_parcels=3, random_state=0)
    mask = np.zeros((24, 24), dtype=bool)
    mask[4:20, 4:20] = True
    other = phantom.signals.copy()
    other[~mask] = 17
    other[0, 0] = np.nan
    first, second = (
        average_like_neighbours(values, sigma=0.03, mask=mask, n_neighbors=100)
        for values in (phantom.signals, other)
    )
    np.testing.assert_array_equal(first.signals, second.signals)
    assert not first.signals[~mask].any()
    assert not first.sigma[~mask].any()


def test_neighbours_are_those_within_a_ball():
    phantom = make_parcel_phantom((16, 16, 12), n_parcels=1, noise_level=0.05, random_state=0)
    changed = phantom.signals.copy()
    changed[8, 8, 6] += 0.1
    used = {}
    for size in ((1, 1, 1), (1, 1, 5)):
        # with so much noise, all signals are alike
        one, other = (
            average_like_neighbours(values, sigma=5.0, voxel_size=size, n_neighbors=80).signals
            for values in (phantom.signals, changed)
        )
        moved = np.abs(one - other).max(axis=-1) > 1e-5
        used[size] = [int(np.ptp(axis)) for axis in np.nonzero(moved)]
    assert used[1, 1, 1][0] == used[1, 1, 1][2]
    assert used[1, 1, 5][0] > 2 * used[1, 1, 5][2]


def test_averages_of_magnitudes_have_the_floor_of_the_remaining_noise():
    phantom = make_parcel_phantom(
        (40, 40), n_parcels=6, noise_level=0.05, noise_distribution="rician", random_state=1
    )
    averaged = average_like_neighbours(
        phantom.signals, sigma=0.05, noise_distribution="rician", n_neighbors=300
    )
    weak = np.abs(phantom.clean) < 0.02
    before = phantom.signals[weak].mean()
    assert before > 0.05
    assert averaged.signals[weak].mean() < 0.6 * before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma must be a positive number"),
        ({"n_neighbors": -1}, "n_neighbors"),
        ({"mask": np.ones((3, 3))}, "mask must have the shape"),
        ({"mask": np.zeros((8, 8))}, "no voxel"),
        ({"noise_distribution": "rician"}, "need sigma"),
        ({"noise_distribution": "poisson"}, "gaussian, rician"),
        ({"voxel_size": (1, 2, 3)}, "voxel_size"),
    ],
)
def test_invalid_parameters_are_refused(options, message):
    phantom = make_parcel_phantom((8, 8), n_parcels=1, random_state=0)
    with pytest.raises(ValueError, match=message):
        average_like_neighbours(phantom.signals, **options)


def test_signals_without_noise_need_sigma():
    phantom = make_parcel_phantom((8, 8), n_parcels=1, noise_level=0.0, random_state=0)
    with pytest.raises(ValueError, match="pass sigma"):
        average_like_neighbours(phantom.signals)


@pytest.mark.parametrize("shape", [(20, 17), (9, 8, 6)])
def test_the_compiled_step_equals_that_of_numpy(shape, monkeypatch):
    pytest.importorskip("numba")
    phantom = make_parcel_phantom(shape, n_parcels=3, noise_level=0.03, random_state=2)
    mask = np.ones(shape, bool)
    mask[2:5, 3:6] = False
    compiled = average_like_neighbours(phantom.signals, mask=mask, n_neighbors=100)
    monkeypatch.setattr("corrsk.spatial.averaging.find_spec", lambda name: None)
    plain = average_like_neighbours(phantom.signals, mask=mask, n_neighbors=100)
    # other orders of the sums
    np.testing.assert_allclose(compiled.signals, plain.signals, atol=1e-5)
    np.testing.assert_allclose(compiled.sigma, plain.sigma, rtol=1e-4)
    np.testing.assert_allclose(compiled.n_averaged, plain.n_averaged, rtol=1e-4)


def test_a_part_with_margins_is_averaged_as_the_whole():
    phantom = make_parcel_phantom((12, 10, 40), n_parcels=6, noise_level=0.03, random_state=2)
    values = phantom.signals.astype(np.float32)
    inside = np.ones(values.shape[:3], bool)
    size = np.ones(3)
    comparison = Comparison.from_image(values, inside, size, 50, None)
    reach = comparison.reach[2]
    assert 3 <= reach <= 10
    whole = average_compared(values, inside, comparison)
    part = slice(15 - reach, 20 + reach)
    found = average_compared(values[:, :, part], inside[:, :, part], comparison)
    core = slice(reach, reach + 5)
    np.testing.assert_allclose(found.signals[:, :, core], whole.signals[:, :, 15:20], atol=1e-5)
    np.testing.assert_allclose(found.sigma[:, :, core], whole.sigma[:, :, 15:20], rtol=1e-4)
    # a margin that is smaller than the reach changes the averages
    part = slice(15, 20)
    cut = average_compared(values[:, :, part], inside[:, :, part], comparison)
    assert np.abs(cut.signals - whole.signals[:, :, 15:20]).max() > 1e-4


def comparison_of(phantom):
    inside = np.ones(phantom.parcels.shape, bool)
    return Comparison.from_image(
        phantom.signals.astype(np.float32), inside, np.ones(inside.ndim), 200, None
    )


@pytest.mark.parametrize("fwhm", [0.0, 2.0])
def test_variation_within_a_tissue_is_measured_beside_the_noise(fwhm):
    given = {"n_parcels": 5, "noise_fwhm": fwhm, "random_state": 4}
    constant = make_parcel_phantom((48, 48), noise_level=0.01, **given)
    # one quartile of 2209 pairs, whose standard error is about 3 %
    assert comparison_of(constant).spread == pytest.approx(1, abs=0.15)
    varied = make_parcel_phantom((48, 48), noise_level=0.01, variation=0.1, **given)
    assert comparison_of(varied).spread > 1.5
    # without it, voxels of one tissue would be called unlike
    found = average_like_neighbours(varied.signals, n_neighbors=200)
    inside = np.ones(varied.parcels.shape, bool)
    strict = comparison_of(varied)._replace(spread=1.0)
    assert (
        found.n_averaged.mean()
        > 1.2
        * average_compared(varied.signals.astype(np.float32), inside, strict).n_averaged.mean()
    )
