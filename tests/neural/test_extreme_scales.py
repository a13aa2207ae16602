"""Signals of extreme scales, and constant ones, as input of networks and of the noise estimate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corrsk import (
    CorrelationCNNClassifier,
    ResidualMLPClassifier,
    estimate_noise,
    make_correlation_signals,
)
from corrsk.neural.networks import StandardizedNetwork


@pytest.fixture(scope="module")
def signals():
    return make_correlation_signals(200, random_state=0, verbose=False)


@pytest.mark.parametrize("exponent", [-37, -30, -19, 19, 30, 37])
def test_columns_of_any_scale_are_standardised(signals, exponent):
    X = torch.from_numpy(signals[0])
    scaled = X * 10.0**exponent
    network = StandardizedNetwork.from_signals(torch.nn.Identity(), X)
    again = StandardizedNetwork.from_signals(torch.nn.Identity(), scaled)
    torch.testing.assert_close(again(scaled), network(X), atol=1e-3, rtol=1e-3)


def test_an_extreme_column_leaves_the_bits_of_the_others(signals):
    X = torch.from_numpy(signals[0])
    scales = torch.ones(64)
    scales[3], scales[5], scales[7] = 1e-30, 1e30, 0
    network = StandardizedNetwork.from_signals(torch.nn.Identity(), X)
    again = StandardizedNetwork.from_signals(torch.nn.Identity(), X * scales)
    ordinary = scales == 1
    assert torch.equal(again.mean[ordinary], network.mean[ordinary])
    assert torch.equal(again.scale[ordinary], network.scale[ordinary])
    torch.testing.assert_close(again.scale[[3, 5]], network.scale[[3, 5]] * scales[[3, 5]])
    assert again.scale[7] == 1


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("factor", [1e-30, 1e25])
def test_a_network_learns_from_signals_of_any_scale(signals, backend, factor):
    X, y = signals
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=2, random_state=0, backend=backend, verbose=False
    )
    expected = model.fit(X, y).predict_proba(X)
    scaled = X * np.float32(factor)
    np.testing.assert_allclose(model.fit(scaled, y).predict_proba(scaled), expected, atol=1e-3)


@pytest.mark.parametrize("cls", [CorrelationCNNClassifier, ResidualMLPClassifier])
def test_signals_that_single_precision_rounds_to_zero_are_refused(signals, cls):
    X, y = signals
    model = cls(max_epochs=1, random_state=0, verbose=False)
    with pytest.raises(ValueError, match=r"too small for single precision .* largest is \d"):
        model.fit(X.astype(np.float64) * 1e-50, y)


@pytest.mark.parametrize("level", [1e-20, 1.0])
@pytest.mark.parametrize("input_scaling", ["standardize", "half-whiten", None])
def test_constant_signals_give_finite_probabilities(level, input_scaling):
    X, y = np.full((100, 64), level, np.float32), np.arange(100) % 4 + 1
    model = ResidualMLPClassifier(
        width=8, n_blocks=1, max_epochs=1, input_scaling=input_scaling, random_state=0,
        verbose=False,
    )  # fmt: skip
    assert np.isfinite(model.fit(X, y).predict_proba(X)).all()


@pytest.mark.parametrize("factor", [1e-160, 1e200, 1e300])
def test_the_noise_of_signals_beyond_double_precision_is_refused(signals, factor):
    with pytest.raises(ValueError, match="scale the signals to the order of 1"):
        estimate_noise(signals[0].astype(np.float64) * factor, "ir-se-8x8")
