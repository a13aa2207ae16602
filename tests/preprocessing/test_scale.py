"""The check that signals have M0 = 1."""

from __future__ import annotations

import warnings

import pytest

from corrsk import ProtocolAligner, make_correlation_signals


@pytest.mark.parametrize("distribution", ["gaussian", "rician"])
@pytest.mark.parametrize("level", [0.001, 0.05, 0.2])
def test_simulated_signals_are_accepted_and_those_of_another_scale_are_not(distribution, level):
    noise = {"noise_level": level, "noise_distribution": distribution}
    X, _ = make_correlation_signals(300, norm=None, random_state=0, verbose=False, **noise)
    aligner = ProtocolAligner(norm=None, **noise).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert aligner.transform(X).shape == X.shape
    for scale in (0.5, 3):
        with pytest.raises(ValueError, match="with M0 = 1"):
            aligner.transform(scale * X)


def test_rician_signals_are_unusual_for_gaussian_noise():
    X, _ = make_correlation_signals(
        300, noise_level=0.05, noise_distribution="rician", norm=None, random_state=0, verbose=False
    )
    aligner = ProtocolAligner(noise_level=0.05, norm=None).fit(X)
    with pytest.warns(UserWarning, match="outside of"):  # magnitudes have no negative values
        aligner.transform(X)
    aligner.set_params(noise_distribution="rician").transform(X)
