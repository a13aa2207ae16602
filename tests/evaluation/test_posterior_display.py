"""Display of the posterior of a voxel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from corrsk.evaluation import CompartmentPosteriorDisplay

DRAWS = pd.DataFrame(
    {
        "T1_1": [500.0, 510.0, 490.0], "T1_2": [np.nan, 1500.0, 1400.0],
        "T2_1": [40.0, 42.0, 39.0], "T2_2": [np.nan, 120.0, 130.0],
        "f_1": [1.0, 0.4, 0.5], "f_2": [0.0, 0.6, 0.5], "n_c": [1, 2, 2],
    }
)  # fmt: skip


class Posterior:
    degenerate = np.array([True])


class Regressor:
    def sample_posterior(self, X, n_samples, random_state):
        return DRAWS

    def posterior(self, X):
        return Posterior()


def test_each_compartment_of_a_draw_has_a_point_of_its_fraction():
    display = CompartmentPosteriorDisplay(DRAWS, truth=DRAWS[1:2]).plot()
    two, one = display.ax_.collections
    np.testing.assert_allclose(one.get_offsets(), [[500, 40]])
    assert len(two.get_offsets()) == 4
    assert one.get_sizes()[0] == pytest.approx(2.5 * two.get_sizes()[0])
    (crosses,) = display.ax_.lines
    np.testing.assert_allclose(crosses.get_ydata(), [42, 120])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["2 (67%)", "1 (33%)", "given"]
    assert "hardly" not in display.ax_.get_title()


def test_an_estimator_is_shown_with_a_word_about_what_its_signal_leaves_open():
    display = CompartmentPosteriorDisplay.from_estimator(Regressor(), np.ones(4))
    assert "hardly determined" in display.ax_.get_title()
    with pytest.raises(ValueError, match="one voxel, got 2 rows"):
        CompartmentPosteriorDisplay.from_estimator(Regressor(), np.ones((2, 4)))


def test_tables_without_the_properties_are_refused():
    with pytest.raises(ValueError, match="no columns D_1, D_2"):
        CompartmentPosteriorDisplay(DRAWS, properties=("D", "T2"))
    with pytest.raises(ValueError, match="3 rows"):
        CompartmentPosteriorDisplay(DRAWS, truth=DRAWS)
