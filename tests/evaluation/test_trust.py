"""Calibration, abstaining and class priors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.figure import Figure
from sklearn.dummy import DummyClassifier

from corrsk._utils.class_prior import checked_class_prior, reweighted
from corrsk.evaluation import (
    AccuracyCoverageDisplay,
    ReliabilityDisplay,
    abstain,
    accuracy_coverage_curve,
    area_under_risk_coverage,
    calibration_by_noise_level,
    evaluate,
    expected_calibration_error,
    reliability_table,
    threshold_for_accuracy,
)
from corrsk.evaluation.calibration import clopper_pearson

CLASSES = np.array([1, 2, 3, 4])


def drawn(n, seed=0, sharpness=1.0):
    """Return counts drawn from probabilities, which are therefore calibrated, and these."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.5] * 4, n)
    y = 1 + (rng.random(n)[:, None] > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    p = p**sharpness
    return y, p / p.sum(axis=1, keepdims=True)


def probabilities(max_rows=30):
    """Strategy for rows that sum to 1, with few digits, so that some are equal."""
    rows = arrays(
        np.int64, st.tuples(st.integers(1, max_rows), st.just(4)), elements=st.integers(0, 5)
    )
    return rows.map(lambda r: (r + 1) / (r + 1).sum(axis=1, keepdims=True))  # fmt: skip


# -- calibration ---------------------------------------------------------------


def test_calibration_error_by_hand():
    # two bins of two: 0.5 and 0.6, one right of two; 0.8 and 0.9, both right
    p = [[0.5, 0.5], [0.4, 0.6], [0.8, 0.2], [0.1, 0.9]]
    table = reliability_table([1, 1, 1, 2], p, [1, 2], n_bins=2)
    assert table["predicted"].tolist() == pytest.approx([0.55, 0.85])
    assert table["observed"].tolist() == [0.5, 1.0]
    assert table["n_samples"].tolist() == [2, 2]
    assert expected_calibration_error([1, 1, 1, 2], p, [1, 2], n_bins=2) == pytest.approx(
        (0.05 + 0.15) / 2
    )
    # P(n_c >= 2) = 0.2 and 0.5, 0.6 and 0.9
    table = reliability_table([1, 1, 1, 2], p, [1, 2], n_bins=2, task="multicompartment")
    assert table["predicted"].tolist() == pytest.approx([0.35, 0.75])
    assert table["observed"].tolist() == [0, 0.5]


@pytest.mark.parametrize("task", ["count", "multicompartment"])
def test_calibrated_probabilities_have_a_small_error_and_others_a_large_one(task):
    y, p = drawn(200_000)
    assert expected_calibration_error(y, p, CLASSES, task=task) < 0.006
    y, p = drawn(200_000, sharpness=2)
    assert expected_calibration_error(y, p, CLASSES, task=task) > 0.05


def test_bins_have_equal_sizes_and_intervals_contain_the_truth():
    y, p = drawn(150_000)
    table = reliability_table(y, p, CLASSES)
    assert len(table) == 15
    assert np.ptp(table["n_samples"]) <= 1
    assert (table["predicted"].diff()[1:] > 0).all()
    inside = (table["low"] < table["predicted"]) & (table["predicted"] < table["high"])
    assert inside.sum() >= 12


@settings(max_examples=50, deadline=None)
@given(p=probabilities(), n_bins=st.integers(1, 20), seed=st.integers(0, 99))
def test_calibration_error_does_not_depend_on_the_order(p, n_bins, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(1, 5, len(p))
    rows, columns = rng.permutation(len(p)), rng.permutation(4)
    error = expected_calibration_error(y, p, CLASSES, n_bins=n_bins)
    assert 0 <= error <= 1
    shuffled = expected_calibration_error(
        y[rows], p[rows][:, columns], CLASSES[columns], n_bins=n_bins
    )
    if not _tied(p).any():  # the prediction of equally probable classes is the smallest count
        assert shuffled == pytest.approx(error, abs=1e-12)
    table = reliability_table(y, p, CLASSES, n_bins=n_bins)
    assert table["n_samples"].sum() == len(p)
    assert (table["n_samples"] > 0).all()


def _tied(p):
    ordered = np.sort(p, axis=1)
    return np.isclose(ordered[:, -1], ordered[:, -2])


def test_signals_without_a_result_count_as_guesses_as_in_the_evaluation():
    y, p = drawn(2000)
    p[::7] = np.nan
    guessed = np.where(np.isnan(p), 0.25, p)
    assert expected_calibration_error(y, p) == expected_calibration_error(y, guessed)
    coverage, accuracy, thresholds = accuracy_coverage_curve(y, p, CLASSES)
    assert (coverage[-1], thresholds[-1]) == (1, 0.25)
    assert accuracy[-1] == evaluate(y, p, classes=CLASSES).metrics["accuracy"]


def test_calibration_by_noise_level():
    y, p = drawn(40_000)
    level = np.repeat([0.01, 0.05], 20_000)
    _, p[20_000:] = drawn(40_000, sharpness=3)[0], drawn(40_000, sharpness=3)[1][20_000:]
    table = calibration_by_noise_level(y, p, level, CLASSES)
    assert table.index.tolist() == [0.01, 0.05]
    assert table["n_samples"].tolist() == [20_000, 20_000]
    assert table.loc[0.01, "calibration_error"] < 0.02 < 0.1 < table.loc[0.05, "calibration_error"]
    assert table.loc[0.01, "binary_calibration_error"] < 0.02
    assert table["accuracy"].mean() == pytest.approx(np.mean(CLASSES[p.argmax(axis=1)] == y))
    drawn_levels = np.random.default_rng(0).uniform(0.01, 0.05, y.size)
    assert calibration_by_noise_level(y, p, drawn_levels)["n_samples"].tolist() == [8000] * 5
    with pytest.raises(ValueError, match="NaN"):
        calibration_by_noise_level(y, p, np.full(y.size, np.nan))


@pytest.mark.parametrize(
    ("y", "p", "classes", "message"),
    [
        ([1, 2], [[0.5, 0.5]], None, "inconsistent"),
        ([1, 2], [[0.5, 0.6], [0.5, 0.5]], None, "sum to 1"),
        ([1, 2], [[0.5, 0.5], [0.5, np.nan]], None, "partly NaN"),
        ([1, 3], [[0.5, 0.5], [0.5, 0.5]], [1, 2], r"\[3\]"),
        ([1, 2], [[0.5, 0.5], [0.5, 0.5]], [1, 2, 3], "column for each"),
        ([1, 1], [[0.5, 0.5], [0.5, 0.5]], [1, 1], "must be distinct"),
        ([], np.empty((0, 2)), [1, 2], "y is empty"),
        (["a", "b"], [[0.5, 0.5], [0.5, 0.5]], None, "counts"),
    ],
)
def test_bad_predictions_are_refused(y, p, classes, message):
    for function in (expected_calibration_error, accuracy_coverage_curve):
        with pytest.raises(ValueError, match=message):
            function(y, p, classes)


def test_noise_levels_are_fractions():
    y, p = drawn(30)
    with pytest.raises(ValueError, match=r"noise_level must not exceed 1.*1/50"):
        calibration_by_noise_level(y, p, np.full(30, 50.0))


def test_unknown_task():
    with pytest.raises(ValueError, match="task must be one of"):
        reliability_table([1, 2], [[0.5, 0.5]] * 2, task="both")


def test_clopper_pearson_against_scipy():
    from scipy.stats import binomtest

    low, high = clopper_pearson([0, 3, 10], [10, 10, 10], 0.025)
    for k, a, b in zip([0, 3, 10], low, high, strict=True):
        exact = binomtest(k, 10).proportion_ci(0.95)
        assert (a, b) == pytest.approx((exact.low, exact.high))


# -- abstaining ------------------------------------------------------------------


def test_accuracy_over_coverage_by_hand():
    p = [[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.6, 0.4]]
    coverage, accuracy, thresholds = accuracy_coverage_curve([1, 2, 2, 1], p)
    assert thresholds.tolist() == [0.9, 0.8, 0.6]
    assert coverage.tolist() == [0.25, 0.75, 1]
    assert accuracy.tolist() == [1, pytest.approx(2 / 3), 0.75]
    # wrong of the first 1, 2, 3, 4: 0, half of one, 1, 1
    assert area_under_risk_coverage([1, 2, 2, 1], p) == pytest.approx(
        (0 + 0.5 / 2 + 1 / 3 + 1 / 4) / 4
    )


def test_confident_predictions_are_more_accurate():
    y, p = drawn(50_000)
    coverage, accuracy, thresholds = accuracy_coverage_curve(y, p, CLASSES)
    every_tenth = accuracy[np.searchsorted(coverage, np.arange(1, 11) / 10)]
    assert (np.diff(every_tenth) < 0).all()
    answered = (thresholds >= 0.8).sum()
    assert np.isclose(coverage[answered - 1], (p.max(axis=1) >= 0.8).mean())
    random = np.random.default_rng(0).permutation(len(y))
    assert area_under_risk_coverage(y, p) < 0.6 * area_under_risk_coverage(y[random], p)


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.75, 0.9])
def test_the_accuracy_above_the_threshold_is_as_requested(accuracy):
    """In 100 repetitions the accuracy at the threshold falls short in fewer than 5 %."""
    truth, p_truth = drawn(400_000, seed=999)
    top, right = p_truth.max(axis=1), CLASSES[p_truth.argmax(axis=1)] == truth
    short = 0
    for seed in range(100):
        threshold = threshold_for_accuracy(*drawn(20_000, seed=seed), accuracy, CLASSES)
        short += right[top >= threshold].mean() < accuracy
    assert short <= 5
    # the accuracy is close to the limit for many signals
    y, p = drawn(400_000)
    threshold = threshold_for_accuracy(y, p, accuracy, CLASSES)
    assert right[top >= threshold].mean() < accuracy + 0.01


def test_an_unreachable_accuracy_is_an_error_with_the_best_one():
    y, p = drawn(500)
    with pytest.raises(ValueError, match=r"99.9%.*guarantees \d.* of the signals"):
        threshold_for_accuracy(y, p, 0.999)
    with pytest.raises(ValueError, match="between 0 and 1"):
        threshold_for_accuracy(y, p, 90)
    assert threshold_for_accuracy(y, p, 0.01) == 0.25  # no signal is rejected


def test_abstaining():
    p = [[0.7, 0.3], [0.5, 0.5], [np.nan, np.nan], [0.1, 0.9]]
    assert abstain(p, [1, 2], 0.7).tolist() == [1, 0, 0, 2]
    assert abstain(p, [1, 2], 0).tolist() == [1, 1, 0, 2]
    assert abstain(p, [1, 2], 0.95, abstained=-1).tolist() == [-1] * 4
    with pytest.raises(ValueError, match="is a class"):
        abstain(p, [0, 1], 0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        abstain(p, [1, 2], float("nan"))
    with pytest.raises(ValueError, match="n_classes"):
        abstain(p, [1, 2, 3], 0.5)


@settings(max_examples=50, deadline=None)
@given(p=probabilities(), threshold=st.floats(0, 1))
def test_abstaining_agrees_with_the_accuracy_coverage_curve(p, threshold):
    y = np.resize(CLASSES, len(p))
    coverage, accuracy, thresholds = accuracy_coverage_curve(y, p, CLASSES)
    labels = abstain(p, CLASSES, threshold)
    answered = labels != 0
    last = (thresholds >= threshold).sum()
    assert answered.mean() == pytest.approx(coverage[last - 1] if last else 0)
    if last:
        assert (labels == y)[answered].mean() == pytest.approx(accuracy[last - 1])


# -- displays --------------------------------------------------------------------


def test_displays():
    y, p = drawn(3000)
    level = np.resize([0.01, 0.02], y.size)
    shown = {"classes": CLASSES, "noise_level": level, "dataset": "drawn"}
    for display_class, n_lines in ((ReliabilityDisplay, 4), (AccuracyCoverageDisplay, 3)):
        display = display_class.from_predictions(y, p, **shown)
        texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
        assert len(texts) == n_lines
        assert any("noise 2 %" in text for text in texts)
        assert "drawn" in display.ax_.get_title()
        ax = Figure().subplots()
        again = display.plot(ax=ax)
        assert again.figure_ is ax.figure
        model = DummyClassifier(strategy="prior").fit(p, y)
        display_class.from_estimator(model, p, y, dataset="guessed")
    binary = ReliabilityDisplay.from_predictions(y, p, task="multicompartment")
    assert binary.ax_.get_xlabel() == "P(n_c ≥ 2)"
    with pytest.raises(ValueError, match="task"):
        ReliabilityDisplay({}, task="both")


def test_reliability_display_names_the_error():
    y, p = drawn(5000)
    display = ReliabilityDisplay.from_predictions(y, p)
    error = expected_calibration_error(y, p)
    assert f"{error:.4f}" in display.ax_.get_legend().get_texts()[-1].get_text()


# -- class prior -----------------------------------------------------------------


def test_class_prior_of_a_mapping_or_an_array():
    assert checked_class_prior({2: 1, 1: 3}, [1, 2]).tolist() == [0.75, 0.25]
    assert checked_class_prior({np.int64(1): 1, 2: 0}, np.array([1, 2])).tolist() == [1, 0]
    assert checked_class_prior([1e308, 1e308], [1, 2]).tolist() == [0.5, 0.5]
    assert checked_class_prior({"1": 1, "2": 1}, np.array(["1", "2"])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({1: 1, 2: 1, 5: 1}, r"\[5\]"),
        ({1: 1}, r"lacks the classes \[2\]"),
        ([1, 1, 1], "each of the 2"),
        ([[1, 1]], "each of the 2"),
        ([1, -1], "negative"),
        ([0, 0], "positive"),
        ([1, np.nan], "finite"),
        ([1, np.inf], "finite"),
        (["a", "b"], "numbers"),
        ({1: None, 2: 1}, "finite"),
        (0.5, "each of the 2"),
    ],
)
def test_bad_class_priors_are_refused(prior, message):
    with pytest.raises(ValueError, match=message):
        checked_class_prior(prior, [1, 2])


weights = st.lists(st.floats(0.01, 100), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(p=probabilities(), first=weights, second=weights)
def test_reweighting_is_reversible(p, first, second):
    there = reweighted(p, CLASSES, second, first)
    assert np.allclose(there.sum(axis=1), 1)
    assert np.allclose(reweighted(there, CLASSES, first, second), p)
    assert np.allclose(reweighted(p, CLASSES, first, first), p)
    # odds change by the ratio of the priors
    odds = (there[:, 0] / there[:, 1]) / (p[:, 0] / p[:, 1])
    assert np.allclose(odds, (second[0] / first[0]) / (second[1] / first[1]))


def test_reweighted_probabilities_are_calibrated_under_the_new_prior():
    """Simulation: normal evidence, class frequencies different from the training."""
    rng = np.random.default_rng(0)
    other = np.array([0.7, 0.1, 0.1, 0.1])
    y = rng.choice(CLASSES, 200_000, p=other)
    evidence = rng.normal(y, 1.0)
    likelihood = np.exp(-((evidence[:, None] - CLASSES) ** 2) / 2)
    trained = likelihood / likelihood.sum(axis=1, keepdims=True)
    prior = dict(zip(CLASSES.tolist(), other, strict=True))
    asked = reweighted(trained, CLASSES, prior, [1, 1, 1, 1])
    assert expected_calibration_error(y, trained, CLASSES) > 0.05
    assert expected_calibration_error(y, asked, CLASSES) < 0.006
    assert np.mean(CLASSES[asked.argmax(axis=1)] == y) > 0.1 + np.mean(
        CLASSES[trained.argmax(axis=1)] == y
    )


def test_reweighting_of_rows_without_evidence_and_of_nan():
    p = [[1.0, 0.0, 0.0], [np.nan] * 3, [0.5, 0.5, 0.0]]
    result = reweighted(p, [1, 2, 3], [0, 3, 1], [1, 1, 1])
    assert result[0].tolist() == [0, 0.75, 0.25]  # no evidence: the prior
    assert np.isnan(result[1]).all()
    assert result[2].tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="in the training"):
        reweighted(p, [1, 2, 3], [1, 1, 1], [1, 1, 0])
    with pytest.raises(ValueError, match="column"):
        reweighted([[0.5, 0.5]], [1, 2, 3], [1, 1, 1], [1, 1, 1])
