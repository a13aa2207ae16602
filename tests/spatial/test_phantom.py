"""Parcels of tissue: truth, options, and reproducibility."""

from __future__ import annotations

import numpy as np
import pytest

from corrsk import AcquisitionProtocol
from corrsk.spatial import make_parcel_phantom

PROTOCOL = AcquisitionProtocol.from_grid(ti=[50, 300, 900, 2000], te=[10, 40, 100, 200])


def make(shape=(32, 32), **options):
    options = {"n_parcels": 6, "protocol": PROTOCOL, "random_state": 3} | options
    return make_parcel_phantom(shape, **options)


def test_a_parcel_has_one_signal_and_the_count_of_its_tissue():
    phantom = make(noise_level=0.0)
    for parcel in np.unique(phantom.parcels):
        own = phantom.signals[phantom.parcels == parcel]
        assert np.ptp(own, axis=0).max() == 0
        fractions = phantom.tissue.loc[parcel].filter(like="f_")
        assert set(phantom.counts[phantom.parcels == parcel]) == {int((fractions > 0).sum())}


def test_one_seed_has_one_phantom_and_noise_leaves_the_truth():
    first, second, noisy = make(), make(), make(noise_level=0.05)
    np.testing.assert_array_equal(first.signals, second.signals)
    np.testing.assert_array_equal(first.clean, noisy.clean)
    assert not np.array_equal(first.signals, noisy.signals)
    assert not np.array_equal(first.parcels, make(random_state=4).parcels)


@pytest.mark.parametrize("fwhm", [0.0, 2.0])
def test_the_noise_has_its_standard_deviation_and_correlation(fwhm):
    phantom = make((96, 96), noise_level=0.02, noise_fwhm=fwhm)
    noise = phantom.signals - phantom.clean
    # 9216 x 16 values; with the filter about a tenth of these are independent
    assert noise.std() == pytest.approx(0.02, rel=0.04)
    correlation = np.mean(noise[1:] * noise[:-1]) / 0.02**2
    # of two voxels, the Gaussian exp(-1 / (4 s^2)) with s = FWHM / 2.355
    expected = np.exp(-1 / (4 * (fwhm / 2.3548) ** 2)) if fwhm else 0.0
    assert correlation == pytest.approx(expected, abs=0.05)


def test_magnitudes_are_positive_with_the_noise_floor():
    phantom = make(noise_level=0.05, noise_distribution="rician")
    assert (phantom.signals >= 0).all()
    assert (phantom.clean < 0).any()


def test_partial_volume_mixes_the_signals_at_borders_only():
    sharp, mixed = make(noise_level=0.0), make(noise_level=0.0, partial_volume=3)
    assert (sharp.shares == 1).all()
    inside = mixed.shares == 1
    assert 0 < (~inside).mean() < 0.5
    np.testing.assert_allclose(mixed.clean[inside], sharp.clean[inside], atol=1e-6)
    assert mixed.borders[~inside].mean() > 0.9


def test_variation_changes_the_signals_within_a_parcel():
    phantom = make(noise_level=0.0, variation=0.05)
    parcel = phantom.signals[phantom.parcels == phantom.parcels[0, 0]]
    assert 0 < parcel.std(axis=0).max() < 0.05


def test_lesions_are_parcels_of_their_own():
    phantom = make((48, 48), n_lesions=2, lesion_voxels=30)
    assert set(phantom.parcels[phantom.lesions]) == {6, 7}
    assert 40 <= phantom.lesions.sum() <= 80


def test_parcels_of_thick_slices_have_no_preferred_direction():
    phantom = make((24, 24, 6), n_parcels=1, n_lesions=1, lesion_voxels=60, voxel_size=(1, 1, 4))
    x, _, z = np.nonzero(phantom.lesions)
    assert np.ptp(x) > 2 * np.ptp(z)


def test_means_of_parcels_leave_out_mixed_voxels():
    phantom = make(noise_level=0.0, partial_volume=3)
    means, numbers = phantom.parcel_means()
    assert numbers.sum() == (phantom.shares == 1).sum()
    inside = phantom.shares == 1
    np.testing.assert_allclose(means[phantom.parcels[inside]], phantom.clean[inside], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (8,)}, "two or three positive"),
        ({"n_parcels": 0}, "n_parcels"),
        ({"noise_level": -0.1}, "noise_level must be a finite number of at least 0, got -0.1"),
        ({"noise_distribution": "poisson"}, "gaussian, rician, got 'poisson'"),
        ({"voxel_size": (1, 0)}, "voxel_size"),
    ],
)
def test_invalid_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
