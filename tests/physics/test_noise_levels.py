"""Ranges of signal-to-noise ratios."""

import numpy as np
import pytest

from corrsk import SNRRange
from corrsk.physics.noise_levels import checked_noise_levels


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_the_mean_square_is_that_of_the_draws(scale):
    levels = SNRRange(20, 400, scale=scale)
    drawn = levels.sample(np.random.default_rng(0), 200_000)
    assert 1 / 400 <= drawn.min() <= drawn.max() <= 1 / 20
    # the standard error of the mean is below 1 %
    np.testing.assert_allclose(np.mean(drawn**2), levels.mean_square, rtol=0.05)


def test_log_ranges_are_uniform_in_the_logarithm():
    drawn = SNRRange(10, 1000, scale="log").sample(np.random.default_rng(0), 100_000)
    np.testing.assert_allclose(
        np.quantile(-np.log10(drawn), [0.25, 0.5, 0.75]), [1.5, 2, 2.5], atol=0.03
    )


def test_the_text_of_linear_ranges_has_no_scale():
    assert repr(SNRRange(30.0, 150.0)) == "SNRRange(low=30.0, high=150.0)"
    assert eval(repr(SNRRange(30.0, 150.0, scale="log"))) == SNRRange(30.0, 150.0, scale="log")


def test_unknown_scales_are_refused():
    with pytest.raises(ValueError, match="scale must be"):
        SNRRange(30, 150, scale="log10")


def test_linear_ranges_are_uniform_in_the_ratio():
    drawn = SNRRange(10, 1000).sample(np.random.default_rng(0), 100_000)
    # a uniform noise level would have a median ratio of 20
    np.testing.assert_allclose(
        np.quantile(1 / drawn, [0.25, 0.5, 0.75]), [257.5, 505, 752.5], rtol=0.03
    )


@pytest.mark.parametrize("levels", [[], -0.01, [0.01, -0.01], np.nan, [np.inf], [[0.01]]])
def test_levels_that_are_no_numbers_from_zero_are_refused(levels):
    with pytest.raises(ValueError, match="a number >= 0, a list of such numbers"):
        checked_noise_levels(levels)


def test_levels_are_a_list():
    assert checked_noise_levels(0.0).tolist() == [0.0]
    assert checked_noise_levels([0.01, 1.0]).tolist() == [0.01, 1.0]
