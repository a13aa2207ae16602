"""Magnitudes of one and several coils: noise, mean, and likelihood, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

from corrsk import physics

COILS = [1, 2, 3, 4, 8, 16, 32]


def squared_distribution(n_coils, signal):
    """Distribution of the squared magnitude of sigma = 1."""
    return stats.chi2(2 * n_coils) if signal == 0 else stats.ncx2(2 * n_coils, signal**2)


@pytest.mark.parametrize("n_coils", [1, 2, 5])
@pytest.mark.parametrize("signal", [0.0, -2.0, 8.0])
def test_noise_is_noncentral_chi(n_coils, signal):
    rng = np.random.default_rng(0)
    real, *others = rng.standard_normal((2 * n_coils, 4000, 5))
    noisy = physics.add_noncentral_chi_noise(
        np.full(real.shape, signal * 0.3), np.full(len(real), 0.3), real,
        np.linalg.norm(others, axis=0),
    )  # fmt: skip
    cdf = squared_distribution(n_coils, signal).cdf
    assert stats.kstest((noisy.ravel() / 0.3) ** 2, cdf).pvalue > 1e-4


def test_noise_of_one_coil_is_rician_noise():
    rng = np.random.default_rng(0)
    signals, real, imaginary = rng.standard_normal((3, 10, 4))
    sigma = np.full(10, 0.2)
    np.testing.assert_array_equal(
        physics.add_noncentral_chi_noise(signals, sigma, real, np.abs(imaginary)),
        physics.add_rician_noise(signals, sigma, real, imaginary),
    )


SNR = np.concatenate([[0.0], np.geomspace(1e-3, 1e4, 300)])


@pytest.mark.parametrize("n_coils", COILS)
def test_mean(n_coils):
    factor = np.sqrt(2) * special.poch(n_coils, 0.5)
    expected = factor * special.hyp1f1(-0.5, n_coils, -(SNR**2) / 2)
    slope = SNR * factor / (2 * n_coils) * special.hyp1f1(0.5, n_coils + 1, -(SNR**2) / 2)
    for sign in (1, -1):
        mean, derivative = physics.magnitude_mean(
            sign * SNR[None] * 7.0, 7.0, n_coils, derivative=True
        )
        np.testing.assert_allclose(mean[0], 7 * expected, rtol=1e-6)
        np.testing.assert_allclose(derivative[0], sign * slope, rtol=1e-6)


def test_mean_of_rice_and_of_simulated_magnitudes():
    signals = np.array([[0.0, 0.3, 1.0, 5.0]])
    expected = [stats.rice(b).mean() for b in signals[0]]
    np.testing.assert_allclose(physics.magnitude_mean(signals, 1.0)[0], expected, rtol=1e-6)
    rng = np.random.default_rng(1)
    n = 100_000
    real, *others = rng.standard_normal((8, n, 4))
    noisy = physics.add_noncentral_chi_noise(
        np.repeat(signals, n, axis=0), np.ones(n), real, np.linalg.norm(others, axis=0)
    )
    error = (noisy.mean(axis=0) - physics.magnitude_mean(signals, 1.0, 4)[0]) / (
        noisy.std(axis=0) / np.sqrt(n)
    )
    assert np.abs(error).max() < 5  # by chance once in 400,000 runs


@pytest.mark.parametrize("n_coils", COILS)
@pytest.mark.parametrize("measured", [1e-3, 0.5, 1.0, 3.0, 20.0, 300.0, 1e4])
def test_log_likelihood(n_coils, measured):
    # no farther from the measured magnitude than scipy's densities are finite
    signals = np.concatenate([[0.0], SNR[np.abs(SNR - measured) < 15], [measured]])
    expected = [
        squared_distribution(n_coils, s).logpdf(measured**2) + np.log(2 * measured) for s in signals
    ]
    got, derivative = physics.magnitude_log_likelihood(
        measured, -signals[None], 1.0, n_coils, derivative=True
    )
    np.testing.assert_allclose(got[0], expected, rtol=1e-6, atol=1e-6)
    z = measured * signals[1:]
    small = z < 1e-4  # where the functions underflow
    z[small] = 1.0
    ratio = special.ive(n_coils, z) / special.ive(n_coils - 1, z)
    ratio[small] = (measured * signals[1:] / (2 * n_coils))[small]
    exact = measured * ratio - signals[1:]
    assert derivative[0, 0] == 0
    np.testing.assert_allclose(-derivative[0, 1:], exact, atol=1e-6 * (1 + measured))


def test_log_likelihood_of_one_coil_is_that_of_rice():
    rng = np.random.default_rng(0)
    measured, signals = rng.uniform(0, 10, (2, 50, 8))
    sigma = rng.uniform(0.5, 2, 50)
    expected = stats.rice.logpdf(measured, signals / sigma[:, None], scale=sigma[:, None])
    got = physics.magnitude_log_likelihood(measured, signals, sigma)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("n_coils", [1, 4])
def test_the_derivative_is_that_of_the_log_likelihood(n_coils):
    rng = np.random.default_rng(0)
    measured, signals = rng.uniform(0.1, 12, (2, 50, 8))
    sigma, step = np.full(50, 0.8), 1e-4
    up, down = (
        physics.magnitude_log_likelihood(measured, signals + h, sigma, n_coils)
        for h in (step, -step)
    )
    _, derivative = physics.magnitude_log_likelihood(
        measured, signals, sigma, n_coils, derivative=True
    )
    np.testing.assert_allclose((up - down) / (2 * step), derivative, atol=1e-4)


@pytest.mark.parametrize("n_coils", [1, 4])
def test_the_likelihood_of_simulated_magnitudes_finds_the_signal(n_coils):
    """Where the average magnitude is far above the signal, the likelihood is not biased."""
    rng = np.random.default_rng(0)
    true, n = 1.0, 20_000
    real, *others = rng.standard_normal((2 * n_coils, n, 1))
    noisy = physics.add_noncentral_chi_noise(
        np.full((n, 1), true), np.ones(n), real, np.linalg.norm(others, axis=0)
    )
    signal = 3.0
    for _ in range(100):  # expectation-maximisation
        _, derivative = physics.magnitude_log_likelihood(
            noisy, np.full_like(noisy, signal), 1.0, n_coils, derivative=True
        )
        signal += derivative.mean()
    # the standard error is 0.010 for one coil and 0.016 for four
    assert signal == pytest.approx(true, abs=0.08)
    assert noisy.mean() > 1.5


def test_magnitudes_that_are_impossible():
    signals = np.array([[0.0, 1.0, 2.0]])
    got = physics.magnitude_log_likelihood(np.array([[0.0, -1.0, 0.0]]), signals, 1.0)
    assert (got == -np.inf).all()


@pytest.mark.parametrize("n_coils", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_gives_the_values_of_numpy(n_coils, dtype):
    rng = np.random.default_rng(0)
    measured, signals = rng.uniform(0.1, 20, (2, 30, 8))
    sigma = rng.uniform(0.5, 2, 30)
    as_tensors = [torch.as_tensor(array).to(dtype) for array in (measured, signals, sigma)]
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {"rtol": 1e-10}
    for function, used in (
        (physics.magnitude_log_likelihood, slice(0, 3)),
        (physics.magnitude_mean, slice(1, 3)),
    ):
        expected = function(*(measured, signals, sigma)[used], n_coils, derivative=True)
        got = function(*as_tensors[used], n_coils, derivative=True)
        for ours, theirs in zip(got, expected, strict=True):
            assert ours.dtype == dtype
            np.testing.assert_allclose(ours.numpy(), theirs, **tolerance)


def test_torch_differentiates_the_log_likelihood():
    signals = torch.tensor([[0.5, 2.0, 9.0]], dtype=torch.float64, requires_grad=True)
    measured = torch.tensor([[1.0, 1.0, 10.0]], dtype=torch.float64)
    value, derivative = physics.magnitude_log_likelihood(measured, signals, 1.0, 2, derivative=True)
    value.sum().backward()
    np.testing.assert_allclose(signals.grad, derivative.detach(), atol=1e-5)


@pytest.mark.parametrize("shape", [(40_000, 3), (3, 5, 7), (7,)])
def test_shapes_and_broadcasting(shape):
    rng = np.random.default_rng(0)
    signals = rng.uniform(0, 5, shape)
    measured = signals + 0.1
    sigma = np.broadcast_to(0.5, shape[:-1])
    each = physics.magnitude_log_likelihood(measured, signals, sigma, 2)
    one = physics.magnitude_log_likelihood(measured, signals, 0.5, 2)
    flat = physics.magnitude_log_likelihood(measured.ravel(), signals.ravel(), 0.5, 2)
    assert each.shape == one.shape == shape
    np.testing.assert_allclose(each, one)
    np.testing.assert_allclose(one.ravel(), flat)


@pytest.mark.parametrize("n_coils", [0, 33, 1.5, "two", True])
def test_numbers_of_coils_that_are_refused(n_coils):
    signals = np.ones((1, 3))
    with pytest.raises(ValueError, match="n_coils must be an integer from 1 to 32, got"):
        physics.magnitude_mean(signals, 1.0, n_coils)
    with pytest.raises(ValueError, match="n_coils must be an integer from 1 to 32, got"):
        physics.magnitude_log_likelihood(signals, signals, 1.0, n_coils)
