"""Echo trains: closed forms, and a simulation of isochromats."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corrsk.physics.echo_trains import SliceProfile, echo_train, echo_train_of_slice


def rotation(axis, angle):
    """Rotation matrix about x (0) or y (1)."""
    c, s = np.cos(angle), np.sin(angle)
    if axis == 0:
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def bloch(n_echoes, spacing, t1, t2, refocusing, excitation, n_spins=256):
    """Mean of the transverse magnetisation of isochromats that a gradient dephases evenly."""
    refocusing, excitation = np.deg2rad(refocusing), np.deg2rad(excitation)
    magnetisation = rotation(1, excitation) @ np.array([0.0, 0.0, 1.0])
    spins = np.tile(magnetisation, (n_spins, 1))
    phase = 2 * np.pi * np.arange(n_spins) / n_spins
    c, s = np.cos(phase), np.sin(phase)
    e1, e2 = np.exp(-spacing / 2 / t1), np.exp(-spacing / 2 / t2)

    def wait(spins):
        x, y, z = spins.T
        return np.stack([e2 * (c * x - s * y), e2 * (s * x + c * y), 1 + e1 * (z - 1)], axis=1)

    echoes = []
    for _ in range(n_echoes):
        spins = wait(spins) @ rotation(0, refocusing).T
        spins = wait(spins)
        echoes.append(spins.mean(axis=0))
    echoes = np.array(echoes)
    np.testing.assert_allclose(echoes[:, 1], 0, atol=1e-12)
    return echoes[:, 0]


def test_perfect_pulses_give_exponential_decays():
    t1, t2 = np.array([500.0, 1200.0, 3000.0]), np.array([5.0, 80.0, 700.0])
    signal = echo_train(32, 10.0, t1, t2)
    assert signal.shape == (3, 32)
    np.testing.assert_allclose(signal, np.exp(-10 * np.arange(1, 33) / t2[:, None]), atol=1e-14)


@pytest.mark.parametrize("refocusing", [20.0, 90.0, 130.0, 175.0, 200.0])
@pytest.mark.parametrize(("t1", "t2"), [(60.0, 50.0), (1000.0, 80.0), (1e12, 1e12)])
def test_equals_the_mean_of_isochromats(refocusing, t1, t2):
    signal = echo_train(
        20, 8.0, t1, t2, refocusing_angle=refocusing, excitation_angle=0.6 * refocusing
    )
    expected = bloch(20, 8.0, t1, t2, refocusing, 0.6 * refocusing)
    np.testing.assert_allclose(signal, expected, atol=1e-12)


def test_first_two_echoes_have_closed_forms():
    # Hennig (1988): sin^2(a/2) of the first; the second has a stimulated echo
    a = np.deg2rad(120.0)
    first, second = echo_train(2, 10.0, 1e15, 1e15, refocusing_angle=120.0)
    assert first == pytest.approx(np.sin(a / 2) ** 2)
    assert second == pytest.approx(np.sin(a / 2) ** 4 + np.sin(a) ** 2 / 2)


def test_arguments_broadcast_and_keep_library_and_precision():
    t2 = torch.tensor([[20.0], [100.0]])
    angles = torch.tensor([120.0, 150.0, 180.0])
    signal = echo_train(5, 10.0, torch.tensor(1000.0), t2, refocusing_angle=angles)
    assert isinstance(signal, torch.Tensor)
    assert signal.shape == (2, 3, 5)
    assert signal.dtype == torch.float32
    one = echo_train(5, 10.0, 1000.0, 100.0, refocusing_angle=150.0)
    np.testing.assert_allclose(signal[1, 1], one, rtol=1e-5)


@pytest.mark.parametrize(("n_echoes", "spacing"), [(0, 10.0), (3, 0.0), (3, -1.0), (3, np.nan)])
def test_invalid_trains_are_refused(n_echoes, spacing):
    with pytest.raises(ValueError, match="echo"):
        echo_train(n_echoes, spacing, 1000.0, 100.0)


def test_a_slice_is_the_mean_of_its_positions():
    profile = SliceProfile(0.8, 3.0, 0.6, 2.0, n_positions=5)
    signal = echo_train_of_slice(
        6, 10.0, np.array([500.0, 1000.0]), np.array([40.0, 90.0]), profile, refocusing_angle=170.0
    )
    refocusing, excitation = profile.relative_angles()
    np.testing.assert_allclose(refocusing[2], np.exp(-((0.5 / 0.8) ** 3)))
    np.testing.assert_allclose(excitation[2], np.exp(-((0.5 / 0.6) ** 2)))
    for voxel, (t1, t2) in enumerate([(500.0, 40.0), (1000.0, 90.0)]):
        trains = [
            echo_train(6, 10.0, t1, t2, refocusing_angle=170 * r, excitation_angle=90 * e)
            for r, e in zip(refocusing, excitation, strict=True)
        ]
        expected = np.mean(trains, axis=0) / np.mean(np.sin(np.deg2rad(90 * excitation)))
        np.testing.assert_allclose(signal[voxel], expected, rtol=1e-12)


def test_a_wide_profile_of_perfect_pulses_gives_exponential_decays():
    signal = echo_train_of_slice(8, 10.0, 1000.0, 50.0, SliceProfile(1e6, 2.0, 0.5, 2.0))
    np.testing.assert_allclose(signal, np.exp(-10 * np.arange(1, 9) / 50), rtol=1e-6)


def test_profiles_without_width_are_refused():
    with pytest.raises(ValueError, match="refocusing_width"):
        SliceProfile(0.0, 2.0, 1.0, 2.0)
