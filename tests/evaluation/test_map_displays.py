"""Displays of maps."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from corrsk.evaluation import CountMapDisplay, MulticompartmentDisplay
from corrsk.evaluation.map_displays import COUNT_COLORS

LABELS = np.zeros((6, 4, 3), int)
LABELS[1:4, 1:3] = 1
LABELS[4, 1:3, 1] = 3


class Rule:
    """Classifier with an answer that is easy to check: n_c is the first measurement."""

    classes_ = np.array([1, 3])

    def predict(self, rows):
        return np.asarray(rows)[:, 0].astype(int)

    def predict_proba(self, rows):
        return np.eye(2)[(self.predict(rows) == 3).astype(int)]


def drawn(display):
    """Colours of the pixels of the upper picture, (rows, columns, 4)."""
    picture = display.ax_.images[-1]
    return picture.to_rgba(picture.get_array())


def test_counts_have_their_colours_and_their_numbers_in_the_legend():
    display = CountMapDisplay.from_predictions(LABELS, slices=[1], dataset="mine")
    colours = drawn(display)
    assert colours.shape[:2] == (4, 6)  # the first axis is to the right
    np.testing.assert_allclose(colours[1, 2], to_rgba(COUNT_COLORS[0]), atol=0.01)
    np.testing.assert_allclose(colours[1, 4], to_rgba(COUNT_COLORS[2]), atol=0.01)
    assert colours[0, 0, 3] == 0  # no count
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["1: 6 (75%)", "3: 2 (25%)"]
    assert "mine, slice 1 along z" in display.ax_.get_title()


def test_a_montage_has_every_slice_once():
    background = np.arange(LABELS.size, dtype=float).reshape(LABELS.shape)
    display = CountMapDisplay.from_predictions(LABELS, background=background)
    grey, counts = (image.get_array() for image in display.ax_.images)
    shown = np.asarray(grey.compressed())
    np.testing.assert_array_equal(np.sort(shown[np.isfinite(shown)]), np.arange(LABELS.size))
    assert (np.ma.filled(counts, 0) > 0).sum() == (LABELS > 0).sum()


def test_voxel_sizes_are_the_aspect():
    display = CountMapDisplay.from_predictions(LABELS, axis=1, voxel_sizes=(2.0, 1.0, 5.0))
    assert display.ax_.get_aspect() == 2.5

    class Image:
        dataobj, affine = LABELS, np.diag([2.0, 1, 5, 1])

    assert CountMapDisplay(Image()).voxel_sizes == (2.0, 1.0, 5.0)


def test_probabilities_are_transparent_where_novel_or_outside():
    probability = np.where(LABELS > 0, 0.25, np.nan)
    probability[4] = 1.0
    novelty = np.zeros(LABELS.shape, np.uint8)
    novelty[1, 1] = 1
    ax = Figure().subplots()
    display = MulticompartmentDisplay.from_predictions(
        probability, novelty=novelty, background=np.ones(LABELS.shape), slices=[1], ax=ax
    )
    assert display.ax_ is ax
    alpha = drawn(display)[..., 3]
    assert alpha[0, 0] == 0  # outside
    assert alpha[1, 1] == 0  # novel
    assert alpha[2, 1] == 1
    assert np.isnan(display.probability[1, 1]).all()
    assert len(ax.images) == 2


def test_from_estimator_maps_a_volume():
    volume = np.stack([LABELS, LABELS > 0], axis=-1).astype(float)
    display = CountMapDisplay.from_estimator(Rule(), volume)
    np.testing.assert_array_equal(display.labels, LABELS)
    display = MulticompartmentDisplay.from_estimator(Rule(), volume)
    expected = np.where(LABELS > 0, LABELS == 3, np.nan)
    np.testing.assert_array_equal(display.probability, expected)
    with pytest.raises(ValueError, match="no voxel is mapped"):
        CountMapDisplay.from_estimator(Rule(), 0 * volume)
    with pytest.raises(ValueError, match="mask has the shape"):
        MulticompartmentDisplay.from_estimator(Rule(), volume, mask=np.ones(4))


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (LABELS + 0.5, {}, "must be numbers of compartments"),
        (LABELS * 9, {}, "at most 5 compartments"),
        (LABELS, {"slices": [3]}, "numbers from 0 to 2 along axis 2"),
        (LABELS, {"slices": []}, "numbers from 0 to 2 along axis 2"),
        (LABELS, {"background": np.ones((2, 2))}, r"background has the shape \(2, 2, 1\)"),
        (LABELS, {"axis": 3}, "axis must be 0, 1 or 2"),
        (LABELS, {"voxel_sizes": (1, 1)}, "three positive numbers"),
        (np.ones(4), {}, "two or three axes"),
    ],
)
def test_bad_maps_are_refused(labels, options, message):
    with pytest.raises(ValueError, match=message):
        CountMapDisplay(labels, **options)


def test_probabilities_outside_of_their_range_are_refused():
    with pytest.raises(ValueError, match="from 0 to 1, got 0 to 3"):
        MulticompartmentDisplay(LABELS)
    with pytest.raises(ValueError, match="novelty has the shape"):
        MulticompartmentDisplay(LABELS > 0, novelty=np.ones((2, 2)))
