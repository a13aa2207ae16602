"""Scores, displays, confidence intervals and scorers."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
from sklearn import config_context
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, check_scoring, make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline

from corrsk import (
    CorrelationSignalGenerator,
    MultiExponentialClassifier,
    NoSignalWarning,
    ResidualMLPClassifier,
    SignalNormalizer,
    SignalPipeline,
    TissuePrior,
    make_correlation_signals,
)
from corrsk.evaluation import (
    SCORERS,
    AccuracyCoverageDisplay,
    AccuracyOverNoiseDisplay,
    CountRocDisplay,
    Evaluation,
    LossCurveDisplay,
    MulticompartmentScorer,
    ReliabilityDisplay,
    bootstrap_difference,
    bootstrap_interval,
    evaluate,
    expected_calibration_error,
    mcnemar_test,
    multicompartment_accuracy,
    multicompartment_probability,
    plot_confusion_matrices,
    predict_multicompartment_proba,
    results_table,
)
from corrsk.workflows.paper import PAPER

Y = np.array([1, 1, 2, 3, 4, 2])
P = np.array(
    [
        [0.9, 0.1, 0.0, 0.0],
        [0.2, 0.5, 0.3, 0.0],
        [0.4, 0.3, 0.2, 0.1],  # argmax gives one compartment, P > 0.5 gives several
        [0.1, 0.2, 0.6, 0.1],
        [0.0, 0.1, 0.5, 0.4],
        [0.6, 0.4, 0.0, 0.0],
    ]
)


def test_scores_equal_values_computed_by_hand():
    result = evaluate(Y, P, noise_level=[0.01, 0.01, 0.01, 0.02, 0.02, 0.02], dataset="six")
    m = result.metrics
    # predicted: 1 2 1 3 3 1
    assert m["accuracy"] == pytest.approx(2 / 6)
    assert m["binary_argmax_accuracy"] == pytest.approx(3 / 6)
    assert m["binary_accuracy"] == pytest.approx(4 / 6)
    assert m["precision_1"] == pytest.approx(1 / 3)
    assert m["recall_1"] == pytest.approx(1 / 2)
    assert m["f1_1"] == pytest.approx(0.4)
    assert m["recall_macro"] == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert m["binary_precision_single"] == pytest.approx(1 / 2)
    assert m["binary_recall_multi"] == pytest.approx(3 / 4)
    assert m["binary_argmax_recall_single"] == pytest.approx(1 / 2)
    assert m["log_loss"] == pytest.approx(-np.log([0.9, 0.2, 0.3, 0.6, 0.4, 0.4]).mean())
    assert m["roc_auc_1"] == roc_auc_score(Y == 1, P[:, 0])
    assert m["roc_auc_macro"] == roc_auc_score(Y, P, multi_class="ovr")
    assert m["binary_roc_auc"] == pytest.approx(m["roc_auc_1"])
    assert result.confusion_matrix.tolist() == [
        [1, 1, 0, 0], [2, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]
    ]  # fmt: skip
    assert result.binary_confusion_matrix.tolist() == [[1, 1], [1, 3]]
    assert result.binary_argmax_confusion_matrix.tolist() == [[1, 1], [2, 2]]
    assert result.by_noise_level["accuracy"].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert result.by_noise_level["n_samples"].tolist() == [3, 3]


def test_rounding_does_not_give_probabilities_above_one():
    rows = np.array([[0.0, 0.5, 0.25, np.nextafter(0.25, 1)], [1.0, 0.0, 0.0, 0.0]])
    rows[0, 1] = np.nextafter(0.5, 1)
    assert rows[0, 1:].sum() > 1  # by rounding
    result = evaluate([2, 1], rows, classes=[1, 2, 3, 4])
    assert np.isfinite(result.metrics["binary_log_loss"])


def test_calibration_errors_have_one_definition():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 5000)
    y = 1 + (p.cumsum(axis=1) < rng.random((5000, 1))).sum(axis=1)
    sharper = p**2 / (p**2).sum(axis=1, keepdims=True)
    metrics = evaluate(y, sharper).metrics
    for name, task in {
        "calibration_error": "count", "binary_calibration_error": "multicompartment"
    }.items():  # fmt: skip
        expected = expected_calibration_error(y, sharper, task=task)
        assert metrics[name] == pytest.approx(expected, rel=1e-12)
        assert metrics[name] > 2 * evaluate(y, p).metrics[name]


def test_the_papers_scores_agree_with_its_confusion_matrix():
    matrix = PAPER.confusion_matrix
    assert matrix.sum(axis=1).tolist() == [25_000] * 4
    recall = np.diag(matrix) / matrix.sum(axis=1)
    precision = np.diag(matrix) / matrix.sum(axis=0)
    assert np.trace(matrix) / matrix.sum() == pytest.approx(PAPER.metrics["accuracy"], abs=5e-4)
    assert recall.mean() == pytest.approx(PAPER.metrics["recall_macro"], abs=5e-3)
    assert precision.mean() == pytest.approx(PAPER.metrics["precision_macro"], abs=5e-3)
    binary = PAPER.binary_confusion_matrix
    assert np.trace(binary) / binary.sum() == pytest.approx(
        PAPER.metrics["binary_argmax_accuracy"], abs=5e-4
    )
    assert recall[0] == pytest.approx(PAPER.metrics["binary_argmax_recall_single"], abs=5e-3)
    assert precision[0] == pytest.approx(PAPER.metrics["binary_argmax_precision_single"], abs=5e-3)
    names = evaluate(Y, P).metrics
    assert set(PAPER.metrics) <= set(names)


def test_table_and_json(tmp_path):
    result = evaluate(Y, P, dataset="six", noise_level=[0.01] * 6)
    frame = result.to_frame(PAPER)
    assert frame.loc["accuracy", "six"] == result.metrics["accuracy"]
    assert frame.loc["accuracy", PAPER.name] == 0.612
    assert list(result.to_frame()) == ["six"]
    shown = results_table(result, PAPER)
    assert shown.loc["4-class accuracy", PAPER.name] == "0.612"
    assert shown.loc["AUC, n_c = 1", PAPER.name] == "0.98"
    assert shown.loc["log loss", PAPER.name] == ""
    result.to_json(tmp_path / "metrics.json", run={"seed": 0})
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["dataset"] == "six"
    assert content["run"] == {"seed": 0}
    again = Evaluation.from_json(tmp_path / "metrics.json")
    assert again.metrics == result.metrics
    np.testing.assert_array_equal(again.confusion_matrix, result.confusion_matrix)
    assert again.by_noise_level.astype(float).equals(result.by_noise_level.astype(float))
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="not an evaluation"):
        Evaluation.from_json(tmp_path / "metrics.json")


def test_order_of_classes_precision_and_label_type_do_not_matter():
    expected = evaluate(Y, P).metrics
    assert evaluate(Y, P[:, ::-1], classes=[4, 3, 2, 1]).metrics == expected
    assert evaluate(Y.astype(str), P, classes=["1", "2", "3", "4"]).metrics == expected
    single = evaluate(Y.astype(float), P.astype(np.float32)).metrics
    assert single.keys() == expected.keys()
    assert single["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-6)


def test_a_reference_of_other_classes_is_refused():
    three = evaluate(Y[Y < 4], P[Y < 4][:, :3] / P[Y < 4][:, :3].sum(axis=1, keepdims=True))
    assert not PAPER.applies_to(three.classes)
    for show in (three.to_frame, lambda r: results_table(three, r),
                 lambda r: plot_confusion_matrices(three, reference=r)):  # fmt: skip
        with pytest.raises(ValueError, match=r"classes \[1, 2, 3, 4\], not for \['1', '2', '3'\]"):
            show(PAPER)


def test_names_moved_to_the_paper_module_warn():
    import corrsk.evaluation

    for old, new in {
        "PAPER": PAPER.name, "PAPER_METRICS": PAPER.metrics,
        "PAPER_CONFUSION_MATRIX": PAPER.confusion_matrix,
        "is_papers_problem": PAPER.applies_to,
    }.items():  # fmt: skip
        with pytest.warns(DeprecationWarning, match="corrsk.workflows.paper.PAPER"):
            assert np.all(getattr(corrsk.evaluation, old) == new)
    with pytest.raises(AttributeError, match="no attribute 'NONE'"):
        corrsk.evaluation.NONE  # noqa: B018


def test_a_class_missing_from_the_test_data_gives_nan_and_null(tmp_path):
    result = evaluate(np.array([1, 2, 1]), P[:3], classes=[1, 2, 3, 4])
    assert np.isnan(result.metrics["roc_auc_3"])
    result.to_json(tmp_path / "metrics.json")
    assert "NaN" not in (tmp_path / "metrics.json").read_text()
    assert np.isnan(Evaluation.from_json(tmp_path / "metrics.json").metrics["roc_auc_3"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": P[:, :3]}, "a column for each of the 4 classes"),
        ({"probabilities": P * 2}, "must sum to 1"),
        ({"probabilities": np.where(P == 0.9, np.nan, P)}, "NaN"),
        ({"y": Y[1:]}, "inconsistent numbers"),
        ({"y": Y - 1, "classes": [0, 1, 2, 3]}, "must be compartment counts"),
        ({"classes": [1, 2, 3, 4, 4]}, "a column for each of the 5"),
        ({"noise_level": [0.1, np.nan, 0.1, 0.1, 0.1, 0.1]}, "noise_level contains NaN"),
        ({"classes": [1, 2, 3, 5]}, r"y contains \[4\]"),
        ({"y": Y[:0], "probabilities": P[:0], "classes": [1, 2, 3, 4]}, "y is empty"),
    ],
)
def test_bad_input(change, message):
    arguments = {"y": Y, "probabilities": P} | change
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)


@pytest.mark.slow
def test_scorers_in_a_search(small_data):
    X, y = small_data.data[:600], small_data.target[:600]
    forest = RandomForestClassifier(n_estimators=10, random_state=0)
    search = GridSearchCV(
        forest, {"max_depth": [1, 6]}, refit="multicompartment_roc_auc", cv=2, error_score="raise",
        scoring=pickle.loads(pickle.dumps(SCORERS)),  # as a worker process receives them
    ).fit(X, y)  # fmt: skip
    assert search.best_params_ == {"max_depth": 6}
    for name in SCORERS:
        assert np.isfinite(search.cv_results_[f"mean_test_{name}"]).all()
    weighted = GridSearchCV(forest, {"max_depth": [2]}, scoring=SCORERS, refit=False, cv=2)
    weighted.fit(X, y, sample_weight=np.ones(len(y)))
    several = (y > 1).astype(float)  # weights 0 for signals of one compartment
    assert multicompartment_accuracy(
        DummyClassifier().fit(X, y), X, y, sample_weight=several
    ) == pytest.approx(1)
    scores = cross_validate(DummyClassifier(), X, y, scoring=SCORERS, cv=2)
    # the prior alone gives "several", the majority
    assert scores["test_multicompartment_accuracy"].mean() == pytest.approx(np.mean(y > 1))
    assert scores["test_multicompartment_balanced_accuracy"].mean() == pytest.approx(0.5)
    fitted = forest.fit(X, y)
    several = 1 - fitted.predict_proba(X)[:, 0]
    assert multicompartment_accuracy(fitted, X, y) == np.mean((several > 0.5) == (y > 1))


# -- figures ------------------------------------------------------------------


def texts(ax):
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_confusion_matrices_are_shown_beside_a_reference():
    result = evaluate(Y, P, dataset="six")
    figure = plot_confusion_matrices(result, reference=PAPER)
    titles = [ax.get_title() for ax in figure.axes]
    names = [title.split("\n")[0] for title in titles]
    assert names == ["six", "six", PAPER.name, PAPER.name]
    shown = [text.get_text() for text in figure.axes[3].texts]
    assert "88.2%\n22,061" in shown
    assert len(plot_confusion_matrices(result).axes) == 2
    with pytest.warns(FutureWarning, match=r"paper of plot_confusion_matrices is ignored.*refer"):
        assert len(plot_confusion_matrices(result, paper=True).axes) == 2


def test_roc_display():
    display = CountRocDisplay.from_predictions(Y, P, dataset="six", reference=PAPER)
    assert "six" in display.ax_.get_title()
    assert any("n_c = 2" in text and "published: 0.81" in text for text in texts(display.ax_))
    assert sum("average" in text for text in texts(display.ax_)) == 2
    areas = {name: area for name, (_, _, area) in display.curves.items()}
    expected = evaluate(Y, P).metrics
    for name in ("1", "2", "3", "4", "micro", "macro"):
        assert areas[name] == pytest.approx(expected[f"roc_auc_{name}"])


def test_roc_of_some_of_the_classes():
    display = CountRocDisplay.from_predictions([1, 2, 2], P[[0, 1, 3]], classes=[1, 2, 3, 4])
    assert set(display.curves) == {"1", "2", "micro"}  # a macro average needs all classes
    with pytest.raises(ValueError, match="at least two classes"):
        CountRocDisplay.from_predictions([1, 1], P[:2], classes=[1, 2, 3, 4])


def test_figures_of_two_classes_show_each_result_once():
    y, one = np.array([1, 1, 3, 3, 3]), np.array([0.9, 0.4, 0.2, 0.6, 0.1])
    rows = np.column_stack([one, 1 - one])
    result = evaluate(y, rows, noise_level=[0.01, 0.02, 0.01, 0.02, 0.02])
    (ax,) = plot_confusion_matrices(result).axes
    shown = [text.get_text() for text in ax.texts]
    assert shown == ["50.0%\n1", "50.0%\n1", "33.3%\n1", "66.7%\n2"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "3"]
    display = CountRocDisplay.from_predictions(y, rows)
    area = result.metrics["binary_roc_auc"]
    assert texts(display.ax_)[0] == f"n_c = 3: AUC {area:.3f}"
    assert len(display.ax_.get_lines()) == 2  # the curve, and chance
    accuracy = AccuracyOverNoiseDisplay(result).plot().ax_
    assert len(accuracy.containers) == 1
    # two counts of several compartments are another task than "more than one"
    several = evaluate(np.array([2, 2, 3]), rows[:3], classes=[2, 3])
    assert len(plot_confusion_matrices(several).axes) == 2


@pytest.mark.parametrize(("unit", "shown"), [("percent", ["1", "4"]), ("snr", ["100", "25"])])
def test_noise_in_the_unit_of_the_data(unit, shown, tmp_path):
    level = [0.01, 0.01, 0.01, 0.04, 0.04, 0.04]
    evaluate(Y, P, noise_level=level, noise_unit=unit).to_json(tmp_path / "evaluation.json")
    result = Evaluation.from_json(tmp_path / "evaluation.json")
    ax = AccuracyOverNoiseDisplay(result).plot().ax_
    assert ax.get_xlabel().startswith("SNR" if unit == "snr" else "noise level (%")
    assert [text.get_text() for text in ax.get_xticklabels()] == shown
    np.testing.assert_allclose(ax.containers[0][0].get_xdata(), np.array(shown, float))
    for display in (ReliabilityDisplay, AccuracyCoverageDisplay):
        drawn = display.from_predictions(Y, P, noise_level=level, noise_unit=unit)
        labels = " ".join(texts(drawn.ax_))
        assert ("SNR 25" if unit == "snr" else "noise 4 %") in labels


def test_bad_units_of_noise():
    with pytest.raises(ValueError, match="unknown noise_unit 'dB'; known noise_units: percent, s"):
        evaluate(Y, P, noise_unit="dB")
    with pytest.raises(ValueError, match="unknown noise_unit"):
        ReliabilityDisplay.from_predictions(Y, P, noise_unit="dB")
    with pytest.raises(ValueError, match="needs positive noise levels"):
        AccuracyOverNoiseDisplay.from_predictions(Y, P, np.zeros(6), noise_unit="snr")


def test_displays_from_estimator_on_given_axes(small_data):
    from matplotlib.figure import Figure

    from corrsk import CorrelationCNNClassifier

    X, y = small_data.data[:500], small_data.target[:500]
    model = CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=3, random_state=0).fit(
        X, y, X_val=X[:99], y_val=y[:99]
    )
    axes = Figure().subplots(1, 3)
    assert CountRocDisplay.from_estimator(model, X, y, dataset="here", ax=axes[0]).ax_ is axes[0]
    over_noise = AccuracyOverNoiseDisplay.from_estimator(
        model, X, y, small_data.noise_level[:500], dataset="here", ax=axes[1]
    )
    lines = over_noise.ax_.get_lines()
    np.testing.assert_allclose(lines[0].get_xdata(), [0.1, 0.2, 0.3, 0.4, 0.5])
    loss = LossCurveDisplay.from_estimator(model, dataset="here", ax=axes[2])
    np.testing.assert_allclose(
        loss.ax_.get_lines()[0].get_ydata(), [row["train_loss"] for row in model.history_]
    )
    assert all("here" in ax.get_title() for ax in axes)
    AccuracyOverNoiseDisplay.from_predictions(y, model.predict_proba(X), np.ones(500))
    with pytest.raises(ValueError, match="no noise levels"):
        AccuracyOverNoiseDisplay(evaluate(Y, P))


def test_signals_without_a_result_count_as_guesses():
    """Rows of NaN (voxels without a fit) are counted, and scored as guesses."""
    rows = P.copy()
    rows[[0, 3]] = np.nan
    result = evaluate(Y, rows)
    guessed = P.copy()
    guessed[[0, 3]] = 0.25
    assert result.n_failed == 2
    assert result.metrics == pytest.approx(evaluate(Y, guessed).metrics)
    rows[1, 0] = np.nan
    with pytest.raises(ValueError, match="partly NaN"):
        evaluate(Y, rows)


def test_bootstrap_interval():
    rng = np.random.default_rng(0)
    answers = rng.random(4000) < 0.8
    low, high = bootstrap_interval([answers], random_state=1)
    # compared with resampling of the predictions
    resampled = rng.choice(answers, (4000, answers.size)).mean(axis=1)
    assert [low, high] == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=1e-3)
    assert bootstrap_interval([answers], random_state=1) == (low, high)
    wide = bootstrap_interval([answers], level=0.99, random_state=1)
    assert wide[0] < low < high < wide[1]
    # the mean over two test sets has a smaller interval
    twice = bootstrap_interval([answers, answers])
    assert twice[1] - twice[0] == pytest.approx((high - low) / np.sqrt(2), rel=0.1)
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="at least one test set"):
            bootstrap_interval(nothing)


def test_mcnemar():
    first = np.array([True] * 8 + [False] * 2 + [True] * 50)
    second = np.array([False] * 8 + [True] * 2 + [True] * 50)
    result = mcnemar_test(first, second)
    assert (result.only_first, result.only_second) == (8, 2)
    # twice the probability of at most 2 heads of 10
    assert result.p_value == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert mcnemar_test(first, first).p_value == 1
    with pytest.raises(ValueError, match="two arrays of the same shape"):
        mcnemar_test(first, second[:-1])


def test_bootstrap_of_a_difference():
    rng = np.random.default_rng(0)
    first = rng.random(3000) < 0.8
    second = np.where(rng.random(3000) < 0.9, first, ~first)
    difference, low, high = bootstrap_difference([(first, second)], random_state=1)
    assert difference == pytest.approx(first.mean() - second.mean())
    rows = rng.integers(0, 3000, (4000, 3000))
    resampled = first[rows].mean(axis=1) - second[rows].mean(axis=1)
    assert [low, high] == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=1e-3)
    assert bootstrap_difference([(first, first)]) == (0, 0, 0)
    for nothing in ([], [([], [])]):
        with pytest.raises(ValueError, match="a difference needs"):
            bootstrap_difference(nothing)


class Counting(LogisticRegression):
    """Classifier that counts the calls of `predict_proba`."""

    calls = 0

    def predict_proba(self, X):
        type(self).calls += 1
        return super().predict_proba(X)


@pytest.mark.parametrize("counts", [[1, 2, 3, 4], [1, 3]])
def test_one_prediction_serves_all_scorers_of_probabilities(small_data, counts):
    rows = np.flatnonzero(np.isin(small_data.target, counts))[:200]
    X, y = small_data.data[rows], small_data.target[rows]
    scoring = {name: scorer for name, scorer in SCORERS.items() if name != "accuracy"}
    Counting.calls = 0
    together = cross_validate(Counting(), X, y, scoring=scoring, cv=2, error_score="raise")
    assert Counting.calls == 2  # one for each fold
    for name, scorer in scoring.items():
        alone = cross_validate(Counting(), X, y, scoring=scorer, cv=2, error_score="raise")
        np.testing.assert_allclose(together[f"test_{name}"], alone["test_score"], rtol=1e-12)
    # another scorer's positive label does not change them
    scoring = {"brier": make_scorer(
        brier_score_loss, response_method="predict_proba", pos_label=counts[0]
    )} | scoring  # fmt: skip
    if len(counts) == 2:
        mixed = cross_validate(Counting(), X, y, scoring=scoring, cv=2, error_score="raise")
        np.testing.assert_array_equal(mixed["test_neg_log_loss"], together["test_neg_log_loss"])


def test_scorers_with_metadata_routing(small_data):
    X, y = small_data.data[:200], small_data.target[:200]
    weight = (y > 1).astype(float)
    with config_context(enable_metadata_routing=True):
        scorer = MulticompartmentScorer("accuracy", multicompartment_accuracy.score)
        scorer.set_score_request(sample_weight=True)
        scores = cross_validate(
            DummyClassifier().set_fit_request(sample_weight=False), X, y, scoring=scorer, cv=2,
            params={"sample_weight": weight}, error_score="raise",
        )  # fmt: skip
    assert scores["test_score"].tolist() == [1, 1]


class HalfAnswered(DummyClassifier):
    """Classifier with NaN for every second signal."""

    def predict_proba(self, X):
        probabilities = super().predict_proba(X)
        probabilities[::2] = np.nan
        return probabilities


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_count_signals_without_a_result_as_guesses(name):
    model = HalfAnswered(strategy="prior").fit(np.ones((6, 1)), Y)
    scorer = check_scoring(model, SCORERS[name])
    if name == "accuracy":  # from `predict`, which has no NaN
        return
    rows = DummyClassifier(strategy="prior").fit(np.ones((6, 1)), Y).predict_proba(np.ones((6, 1)))
    rows[::2] = 0.25
    result = evaluate(Y, rows).metrics
    expected = {
        "neg_log_loss": -result["log_loss"],
        "multicompartment_accuracy": result["binary_accuracy"],
        "multicompartment_roc_auc": result["binary_roc_auc"],
        "multicompartment_neg_log_loss": -result["binary_log_loss"],
    }
    score = scorer(model, np.ones((6, 1)), Y)
    assert np.isfinite(score)
    if name in expected:
        assert score == pytest.approx(expected[name])


@pytest.mark.parametrize(
    "labels", [[False, True], [0, 1], ["0", "1"]], ids=["bool", "numbers", "numbers as text"]
)
def test_labels_of_one_compartment_or_several(labels):
    labels, several = np.array(labels), (Y >= 2).astype(int)
    rows = np.column_stack([P[:, 0], P[:, 1:].sum(axis=1)])
    result = evaluate(labels[several], rows, classes=labels)
    as_counts = evaluate(several + 1, rows, classes=[1, 2])
    assert result.metrics == as_counts.metrics
    assert result.metrics["binary_accuracy"] == evaluate(Y, P).metrics["binary_accuracy"]
    # the classes decide, not the labels that happen to occur
    only = evaluate(labels[[1, 1]], rows[3:5], classes=labels)
    assert only.metrics["accuracy"] == 1
    assert only.confusion_matrix.tolist() == [[0, 0], [0, 2]]
    np.testing.assert_allclose(multicompartment_probability(rows, labels), rows[:, 1])
    assert expected_calibration_error(labels[several], rows, labels) == pytest.approx(
        as_counts.metrics["calibration_error"]
    )


def test_binary_labels_from_training_to_scores():
    X, n_c = make_correlation_signals(600, noise_level=0.002, random_state=0)
    model = LogisticRegression(max_iter=300)
    for y in (n_c >= 2, (n_c >= 2).astype(int)):
        fitted = model.fit(X, y)
        result = Evaluation.from_estimator(fitted, X, y)
        assert result.metrics["accuracy"] == fitted.score(X, y)
        assert multicompartment_accuracy(fitted, X, y) == fitted.score(X, y)
        assert multicompartment_accuracy(fitted, X[y == 1], y[y == 1]) <= 1
        np.testing.assert_array_equal(
            predict_multicompartment_proba(fitted, X), fitted.predict_proba(X)[:, 1]
        )
    network = ResidualMLPClassifier(width=8, n_blocks=1, max_epochs=1, random_state=0)
    network.fit(X, n_c >= 2)
    np.testing.assert_array_equal(
        network.predict_multicompartment_proba(X), network.predict_proba(X)[:, 1]
    )


@pytest.mark.parametrize(
    ("y", "classes", "shown"),
    [
        (["several", "single"], None, r"\['several', 'single'\]; convert .* labels == 'several'"),
        ([0, 1, 2], None, r"\['0', '1', '2'\]"),
        ([1, 2], [0, 1], r"got \['1', '2'\] for the classes \['0', '1'\]"),
        ([True, False], [1, 2], r"got \['False', 'True'\] for the classes \['1', '2'\]"),
        ([1.5, 2], None, "1.5"),
    ],
)
def test_labels_of_neither_task(y, classes, shown):
    rows = np.full((len(y), 2 if classes else len(set(y))), 0.5)
    with pytest.raises(ValueError, match=f"compartment counts .* or binary .*{shown}"):
        evaluate(y, rows / rows.sum(axis=1, keepdims=True), classes=classes)


@pytest.mark.parametrize("kind", ["learner", "network", "pipeline", "signal pipeline"])
def test_measured_voxels_without_signal_are_counted_once(kind):
    X, y = make_correlation_signals(400, noise_level=0.002, random_state=0)
    network = ResidualMLPClassifier(width=8, n_blocks=1, max_epochs=1, random_state=0)
    model = {
        "learner": LogisticRegression(max_iter=300), "network": network,
        "pipeline": make_pipeline(SignalNormalizer(), network),
        "signal pipeline": SignalPipeline([("norm", SignalNormalizer()), ("net", network)]),
    }[kind].fit(X, y)  # fmt: skip
    measured = X.copy()
    measured[3] = 0
    measured[7, 2] = np.nan
    expected = model.predict_proba(np.delete(X, [3, 7], axis=0))
    with pytest.warns(NoSignalWarning, match="2 of 400 voxels have no signal") as caught:
        result = Evaluation.from_estimator(model, measured, y)
    assert len(caught) == 1
    assert result.n_failed == 2
    rows = np.insert(expected, [3, 6], 0.25, axis=0)
    assert result.metrics == pytest.approx(evaluate(y, rows).metrics)
    with pytest.warns(NoSignalWarning):
        several = predict_multicompartment_proba(model, measured)
    assert np.flatnonzero(np.isnan(several)).tolist() == [3, 7]
    with pytest.warns(NoSignalWarning):
        score = SCORERS["neg_log_loss"](model, measured, y)
    assert score == pytest.approx(-result.metrics["log_loss"])
    with pytest.warns(NoSignalWarning):
        CountRocDisplay.from_estimator(model, measured, y)


def test_nan_of_absent_compartments_is_no_missing_signal():
    tissue, n_c = TissuePrior.named("midl2024").sample(300, random_state=0)
    assert tissue.isna().any(axis=1).any()
    pipeline = make_pipeline(
        CorrelationSignalGenerator(random_state=0), SignalNormalizer(), LogisticRegression()
    ).fit(tissue, n_c)
    assert Evaluation.from_estimator(pipeline, tissue, n_c).n_failed == 0


@pytest.mark.parametrize("search", [False, True])
def test_an_error_in_a_tissue_table_is_no_missing_signal(search):
    tissue, n_c = TissuePrior.named("midl2024").sample(300, random_state=0)
    pipeline = make_pipeline(
        CorrelationSignalGenerator(random_state=0), SignalNormalizer(),
        LogisticRegression(max_iter=300),
    )  # fmt: skip
    model = GridSearchCV(pipeline, {"logisticregression__C": [1.0]}, cv=2) if search else pipeline
    model.fit(tissue, n_c)
    row = int(tissue.isna().any(axis=1).to_numpy().argmax())
    negative, absent = tissue.copy(), tissue.copy()
    negative.loc[row, "T1_1"] = -5
    absent.loc[row, "T1_1"] = np.nan  # of a compartment with f > 0
    for bad in (negative, absent):
        for use in (
            Evaluation.from_estimator, multicompartment_accuracy, SCORERS["neg_log_loss"],
            CountRocDisplay.from_estimator, lambda m, X, _: predict_multicompartment_proba(m, X),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=f"row {row} of the tissue table"):
                use(model, bad, n_c)


class OfMagnitudes(HistGradientBoostingClassifier):
    """Learner that accepts NaN, and refuses negative signals."""

    def predict_proba(self, X):
        if (np.asarray(X) < 0).any():
            raise ValueError("negative signals")
        return super().predict_proba(X)


def test_other_errors_of_a_learner_that_accepts_nan_are_errors():
    X, y = make_correlation_signals(200, noise_level=0.002, random_state=0)
    X = np.abs(X)
    model = OfMagnitudes(max_iter=2).fit(X, y)
    X[3, 4] = np.nan
    assert Evaluation.from_estimator(model, X, y).n_failed == 0
    X[3, 5] = -1
    for use in (Evaluation.from_estimator, multicompartment_accuracy):
        with pytest.raises(ValueError, match="negative signals"):
            use(model, X, y)


def test_parameters_of_the_prediction():
    X, y = make_correlation_signals(200, noise_level=0.002, random_state=0)
    network = ResidualMLPClassifier(width=8, n_blocks=1, max_epochs=1, random_state=0)
    piped = make_pipeline(SignalNormalizer(), network)
    prior = {1: 0.7, 2: 0.1, 3: 0.1, 4: 0.1}
    for model in (network.fit(X, y), piped.fit(X, y)):
        expected = model.predict_proba(X, class_prior=prior)[:, 1:].sum(axis=1)
        assert np.abs(expected - predict_multicompartment_proba(model, X)).max() > 0.1
        measured = X.copy()
        measured[5, 2] = np.nan
        with pytest.warns(NoSignalWarning, match="1 of 200"):
            got = predict_multicompartment_proba(model, measured, class_prior=prior)
        assert np.isnan(got[5])
        np.testing.assert_allclose(np.delete(got, 5), np.delete(expected, 5), rtol=1e-12)


@pytest.mark.parametrize("kind", ["classifier", "pipeline", "signal pipeline", "search"])
def test_codes_of_counts_are_no_binary_labels(kind):
    X, n_c = make_correlation_signals(40, noise_level=0.001, random_state=0)
    X, n_c = X[n_c < 3], n_c[n_c < 3]
    codes = n_c - 1
    method = MultiExponentialClassifier(
        "ir-se-8x8", counts=(2, 3), n_starts=1, max_steps=5, random_state=0, verbose=False
    )
    model = {
        "classifier": method,
        "pipeline": make_pipeline(SignalNormalizer(), method),
        "signal pipeline": SignalPipeline([("norm", SignalNormalizer()), ("fit", method)]),
        "search": GridSearchCV(method, {"n_starts": [1]}, cv=2),
    }[kind]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        model.fit(X, codes)
        assert model.classes_.tolist() == [0, 1]
        np.testing.assert_allclose(predict_multicompartment_proba(model, X), 1)  # 2 or 3
        if kind == "signal pipeline":
            np.testing.assert_allclose(model.predict_multicompartment_proba(X), 1)
        result = Evaluation.from_estimator(model, X, codes)
        assert result.classes.tolist() == [2, 3]
        assert result.metrics["accuracy"] == np.mean(model.predict(X) == codes)
        assert result.metrics["binary_accuracy"] == 1
        assert multicompartment_accuracy(model, X, codes) == 1
        loss = SCORERS["neg_log_loss"](model, X, codes)
        assert loss == pytest.approx(-result.metrics["log_loss"])
        # reference counts are possible too
        again = Evaluation.from_estimator(model, X, codes + 2)
        assert again.metrics == pytest.approx(result.metrics, nan_ok=True)


def test_volumes_of_any_classifier():
    X, y = make_correlation_signals(240, noise_level=0.002, random_state=0)
    model = LogisticRegression(max_iter=300).fit(X, y)
    maps = predict_multicompartment_proba(model, X.reshape(4, 30, 2, 64))
    assert maps.shape == (4, 30, 2)
    np.testing.assert_array_equal(maps.ravel(), predict_multicompartment_proba(model, X))


def test_noise_level_groups_of_a_range_with_many_equal_levels():
    rng = np.random.default_rng(0)
    y = rng.integers(1, 5, 1000)
    level = np.where(rng.random(1000) < 0.6, 0.01, rng.uniform(0.01, 0.05, 1000))
    table = evaluate(y, np.full((1000, 4), 0.25), noise_level=level).by_noise_level
    assert 1 <= len(table) <= 5
    assert table["n_samples"].sum() == 1000


def test_the_calibration_error_is_that_of_the_largest_probability():
    # 70 % of the signals have one compartment, as predicted for each
    y = np.repeat([1, 2, 3], [70, 20, 10])
    probabilities = np.tile([0.7, 0.2, 0.1], (100, 1))
    assert expected_calibration_error(y, probabilities) == pytest.approx(0, abs=1e-12)
    assert evaluate(y, probabilities).metrics["calibration_error"] == pytest.approx(0, abs=1e-12)
    sure = np.tile([0.9, 0.06, 0.04], (100, 1))
    assert expected_calibration_error(y, sure) == pytest.approx(0.2)


def test_the_mean_area_of_classes_that_are_absent_is_unknown():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1]])
    metrics = evaluate([1, 2, 1], probabilities, classes=[1, 2, 3]).metrics
    assert np.isnan(metrics["roc_auc_3"])
    assert np.isnan(metrics["roc_auc_macro"])
    assert metrics["roc_auc_1"] == 1
