"""Stacked networks agree with single trainings, with the interface of GridSearchCV."""

from __future__ import annotations

import gc
import pickle
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, ShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from corrsk import (
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    ResidualMLPClassifier,
    SignalNormalizer,
    StackedGridSearchCV,
    TissuePrior,
    make_correlation_signals,
)
from corrsk.model_selection import _prefetch as ahead
from corrsk.neural.gpu import stack as stacked
from corrsk.neural.gpu.stacked_networks import (
    StackedDropout,
    inner_network,
    stacked_cnn,
    stacked_mlp,
)
from corrsk.neural.networks import CorrelationCNN, ResidualMLP
from corrsk.neural.training.fitting import train_network
from corrsk.neural.training.prediction import predict_probabilities, weights_of
from corrsk.neural.training.sources import ArraySource
from tests._helpers import make_classifier, make_settings

CPU = torch.device("cpu")
SETTINGS = make_settings(learning_rate=0.003, n_blocks=2, restore_best=True)


@pytest.fixture(scope="module")
def signals():
    return make_correlation_signals(2000, noise_level=0.003, random_state=0, verbose=False)


@pytest.fixture(scope="module")
def arrays(signals):
    X, y = signals
    return X[:650].astype(np.float32), y[:650] - 1


def trained_alone(settings, split):
    return train_network(settings, ArraySource(*split), None, device=CPU)


def no_dropout(x):
    return x


# -- the networks ------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_features", "make", "stacked_forward"),
    [
        (64, lambda: CorrelationCNN(4, (8, 8)), stacked_cnn),
        (63, lambda: CorrelationCNN(3, (7, 9)), stacked_cnn),
        (28, lambda: CorrelationCNN(4, (4, 8)), stacked_cnn),  # padding, missing columns
        (128, lambda: CorrelationCNN(4, (8, 8, 2)), stacked_cnn),
        (20, lambda: ResidualMLP(20, 4, 16, 2), stacked_mlp),
    ],
)
def test_stacked_networks_give_the_logits_of_single_networks(n_features, make, stacked_forward):
    torch.manual_seed(0)
    networks = [make().eval() for _ in range(3)]
    for network in networks:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # no weight at its initial value of zero
    x = torch.randn(3, 50, n_features)
    weights = {
        name: torch.stack([dict(network.named_parameters())[name] for network in networks])
        for name, _ in networks[0].named_parameters()
    }
    together = stacked_forward(networks[0], weights, x, no_dropout)
    alone = torch.stack([network(part) for network, part in zip(networks, x, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_dropout_masks_do_not_depend_on_the_stack():
    x = torch.ones(4, 1000, 32)
    rates, seeds = [0.5, 0.5, 0.1, 0.0], [0, 1, 0, 2]
    dropout = StackedDropout(rates, seeds, 1000, CPU)
    first, second = dropout(x), dropout(x)
    for dropped, rate in zip(first, rates, strict=True):
        assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
        assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(first[0], first[1])  # another candidate
    assert not torch.equal(first[0], second[0])  # another step
    # independent of the other members and of the size of the batch
    by_itself = StackedDropout(rates[2:3], seeds[2:3], 1000, CPU)
    assert torch.equal(by_itself(x[2:3])[0], first[2])
    assert torch.equal(by_itself(x[2:3, :10])[0], second[2, :10])


# -- a stack against single trainings ----------------------------------------

DIFFERENCES = [
    {},
    {"learning_rate": 0.001, "learning_rate_schedule": "constant"},
    {"weight_decay": 0.3, "seed": 1},
    {"momentum": 0.5, "learning_rate_schedule": "steps"},
    {"softmax_before_loss": True},
    {"class_weights": (0.5, 1.5, 1.5, 0.5), "seed": 2},
]


@pytest.mark.parametrize(
    "common",
    [
        {},
        {"optimizer": "sgd", "learning_rate": 0.1},
        {"network": "residual-mlp", "input_scaling": "half-whiten"},
        {"input_scaling": None, "grid_shape": (4, 16)},
    ],
)
def test_members_of_a_stack_equal_single_trainings(arrays, common):
    X, y = arrays
    # three data sets of two sizes: the last batches differ in size
    splits = [arrays, (X[:-7], y[:-7]), (X[7:], y[7:])]
    members = [
        (replace(SETTINGS, **common | changes), splits[i % 3])
        for i, changes in enumerate(DIFFERENCES)
    ]
    assert len({stacked.stack_key(each, len(split[0])) for each, split in members}) == 1
    outcomes = stacked.train_stack(members, device=CPU)
    for member, (net, history) in zip(members, outcomes, strict=True):
        expected, expected_history = trained_alone(*member)
        for name, weights in weights_of(expected).items():
            found = weights_of(net)[name]
            np.testing.assert_allclose(found, weights, atol=1e-4, err_msg=name)
        assert net.is_trimmed
        assert [list(row) for row in history] == [list(row) for row in expected_history]
        for row, expected_row in zip(history, expected_history, strict=True):
            assert row["epoch"] == expected_row["epoch"]
            assert row["train_loss"] == pytest.approx(expected_row["train_loss"], rel=1e-5)
            assert row["learning_rate"] == pytest.approx(expected_row["learning_rate"])


def test_bfloat16_stacks_agree_within_rounding(arrays):
    settings = replace(SETTINGS, precision="bfloat16")
    (net, _), _ = stacked.train_stack([(settings, arrays)] * 2, device=CPU)
    expected = predict_probabilities(trained_alone(settings, arrays)[0], arrays[0])
    exact = predict_probabilities(trained_alone(SETTINGS, arrays)[0], arrays[0])
    found = predict_probabilities(net, arrays[0])
    assert np.abs(found - exact).max() > 0
    assert np.abs(found - expected).max() < 0.02


def test_dropout_in_a_stack_increases_the_training_loss(arrays):
    settings = [replace(SETTINGS, dropout=rate, max_epochs=4) for rate in (0.0, 0.3, 0.3)]
    settings[2] = replace(settings[2], seed=1)
    outcomes = stacked.train_stack([(each, arrays) for each in settings], device=CPU)
    losses = [history[-1]["train_loss"] for _, history in outcomes]
    assert losses[0] < min(losses[1:])  # dropout increases the training loss
    alone = trained_alone(settings[0], arrays)[1][-1]["train_loss"]
    assert losses[0] == pytest.approx(alone, rel=1e-4)
    again = stacked.train_stack([(settings[1], arrays)] * 2, device=CPU)
    assert again[0][1][-1]["train_loss"] == pytest.approx(losses[1], rel=1e-5)


def test_a_diverging_member_does_not_affect_the_others(arrays):
    wild = replace(SETTINGS, optimizer="sgd", learning_rate=1e30)
    tame = replace(SETTINGS, optimizer="sgd", learning_rate=0.01)
    error, (net, _) = stacked.train_stack([(wild, arrays), (tame, arrays)], device=CPU)
    with pytest.raises(ValueError, match="diverged") as alone:
        trained_alone(wild, arrays)
    assert type(error) is ValueError
    assert str(error) == str(alone.value)
    weights = weights_of(trained_alone(tame, arrays)[0])
    for name, found in weights_of(net).items():
        np.testing.assert_allclose(found, weights[name], atol=1e-5)


def test_a_stack_of_diverged_networks_ends_early(arrays):
    wild = replace(SETTINGS, optimizer="sgd", learning_rate=1e30, max_epochs=10**6)
    outcomes = stacked.train_stack([(wild, arrays)] * 2, device=CPU)
    assert all(isinstance(error, ValueError) for error in outcomes)


def test_a_stack_that_exceeds_the_memory_is_trained_in_halves(arrays, monkeypatch):
    sizes, trained = [], stacked._trained

    def with_little_memory(members, *rest):
        sizes.append(len(members))
        if len(members) > 2:
            raise torch.OutOfMemoryError("full")
        return trained(members, *rest)

    monkeypatch.setattr(stacked, "_trained", with_little_memory)
    members = [(replace(SETTINGS, seed=seed), arrays) for seed in range(5)]
    outcomes = stacked.train_stack(members, device=CPU)
    assert sizes == [5, 2, 3, 1, 2]
    for member, (net, _) in zip(members, outcomes, strict=True):
        first = inner_network(net.module_).conv1.weight.detach()
        expected = inner_network(trained_alone(*member)[0].module_).conv1.weight.detach()
        torch.testing.assert_close(first, expected, rtol=0, atol=1e-4)

    def without_memory(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(stacked, "_trained", without_memory)
    assert {type(error) for error in stacked.train_stack(members, device=CPU)} == {
        torch.OutOfMemoryError
    }


def test_a_network_that_exceeds_the_memory_frees_it(arrays, monkeypatch):
    stacks = []

    def train_epoch(stack):
        stacks.append(weakref.ref(stack))
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(stacked._Stack, "train_epoch", train_epoch)
    members = [(replace(SETTINGS, seed=seed), arrays) for seed in range(2)]
    errors = stacked.train_stack(members, device=CPU)
    gc.collect()
    assert [str(error) for error in errors] == ["full", "full"]
    assert [stack() for stack in stacks] == [None] * 3


@pytest.mark.parametrize("name", sorted(set(ahead.STACKABLE) - {"random_state", "class_weight"}))
def test_parameters_that_may_differ_are_not_in_the_stack_key(name):
    other = {"learning_rate_schedule": "steps", "softmax_before_loss": True}.get(name, 0.123)
    changed = replace(SETTINGS, **{name: other})
    assert changed != SETTINGS
    assert stacked.stack_key(changed, 100) == stacked.stack_key(SETTINGS, 100)
    assert stacked.stack_key(replace(SETTINGS, seed=7, class_weights=(2, 1, 1, 0)), 100) == (
        stacked.stack_key(SETTINGS, 100)
    )


# -- the search --------------------------------------------------------------


def classifier(network="cnn", **changes):
    settings = {
        "network": network, "max_epochs": 2, "batch_size": 100, "backend": "torch",
        "device": "cpu", "random_state": 0, "verbose": False,
    }  # fmt: skip
    return make_classifier(**settings | changes)


GRID = [
    {"learning_rate": [0.001, 0.004], "weight_decay": [0.0, 0.3]},
    {"class_weight": ["balanced"], "random_state": [1]},
]


@pytest.fixture
def stacks(monkeypatch):
    """Record of the sizes of the trained stacks."""
    sizes = []

    def counting(members, **options):
        sizes.append(len(members))
        return stacked.train_stack(members, **options)

    monkeypatch.setattr(ahead, "train_stack", counting)
    return sizes


@pytest.fixture
def single_fits(monkeypatch):
    """Record of the settings of single trainings."""
    settings = []

    def counting(*args, **options):
        settings.append(args[0])
        return train_network(*args, **options)

    monkeypatch.setattr("corrsk.neural._base.train_network", counting)
    return settings


def assert_same_results(found, expected, atol=0.002):
    """Compare scores; rounding may change the prediction of one signal per fold."""
    assert list(found) == list(expected)
    assert found["params"] == expected["params"]
    for key, values in expected.items():
        if key == "params":
            continue
        assert found[key].dtype == values.dtype, key
        if "score" in key and "time" not in key and "rank" not in key:
            np.testing.assert_allclose(found[key], values, atol=atol, err_msg=key)
        elif key.startswith("param_"):
            np.testing.assert_array_equal(found[key].mask, values.mask, err_msg=key)
            assert found[key].tolist() == values.tolist(), key


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_train_score": True, "scoring": ["accuracy", "neg_log_loss"], "refit": "accuracy"},
        {"refit": False, "n_jobs": 2, "max_stack": 4},
    ],
)
def test_results_equal_those_of_grid_search(signals, stacks, single_fits, options):
    search = StackedGridSearchCV(classifier(), GRID, cv=3, stack=True, **options).fit(*signals)
    assert stacks == ([4, 4, 4, 3] if "max_stack" in options else [15])
    assert len(single_fits) == (options.get("refit", True) is not False)
    plain = {key: value for key, value in options.items() if key not in ("max_stack", "n_jobs")}
    expected = GridSearchCV(classifier(), GRID, cv=3, **plain).fit(*signals)
    assert_same_results(search.cv_results_, expected.cv_results_)
    new = {"stack", "max_stack"}
    assert vars(search).keys() - new == vars(expected).keys()
    assert search.multimetric_ == expected.multimetric_
    if options.get("refit", True):
        assert type(search.best_estimator_) is CorrelationCNNClassifier
        assert (
            search.best_score_
            == search.cv_results_[
                "mean_test_score" if not search.multimetric_ else "mean_test_accuracy"
            ].max()
        )
        proba = search.best_estimator_.predict_proba(signals[0][:5])
        alone = classifier(**search.best_params_).fit(*signals).predict_proba(signals[0][:5])
        np.testing.assert_array_equal(proba, alone)
        assert pickle.loads(pickle.dumps(search)).best_params_ == search.best_params_
    else:
        assert not hasattr(search, "best_estimator_")


@pytest.mark.slow
def test_residual_mlps_are_stacked(signals, stacks):
    grid = {"learning_rate": [0.001, 0.004], "dropout": [0.0, 0.1]}
    mlp = classifier("residual-mlp", width=16, optimizer="adamw")
    search = StackedGridSearchCV(mlp, grid, cv=2, stack=True).fit(*signals)
    assert stacks == [8]
    assert type(search.best_estimator_) is ResidualMLPClassifier
    expected = GridSearchCV(mlp, grid | {"dropout": [0.0]}, cv=2).fit(*signals)
    found = search.cv_results_["mean_test_score"][search.cv_results_["param_dropout"] == 0]
    np.testing.assert_allclose(found, expected.cv_results_["mean_test_score"], atol=0.002)


def test_a_scorer_receives_a_fitted_classifier(signals):
    seen = []

    def score(model, X, y):
        seen.append(model)
        return model.score(X, y)

    StackedGridSearchCV(
        classifier(), {"learning_rate": [0.001, 0.01]}, cv=2, stack=True, scoring=score, refit=False
    ).fit(*signals)
    expected = vars(classifier().fit(*signals))
    assert len(seen) == 4
    for model in seen:
        assert type(model) is CorrelationCNNClassifier
        assert vars(model).keys() == expected.keys()
        assert (model.n_iter_, model.best_epoch_, len(model.history_)) == (2, None, 2)
        np.testing.assert_allclose(model.class_prior_, expected["class_prior_"], atol=0.001)


@pytest.mark.slow
def test_the_time_of_the_stack_is_divided_among_fit_times(signals, monkeypatch):
    def slow(members, **options):
        time.sleep(0.8)
        return stacked.train_stack(members, **options)

    monkeypatch.setattr(ahead, "train_stack", slow)
    search = StackedGridSearchCV(classifier(), GRID, cv=2, stack=True, refit=False)
    start = time.perf_counter()
    times = search.fit(*signals).cv_results_["mean_fit_time"]
    wall = time.perf_counter() - start
    assert times.min() > 0.8 / 10
    assert 2 * times.sum() < wall


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, None])
def test_steps_before_the_classifier_are_fitted_once_per_fold(
    stacks, single_fits, monkeypatch, seed
):
    table = TissuePrior.named("midl2024").sample(900, random_state=0)
    simulations, fit_transform = [], CorrelationSignalGenerator.fit_transform

    def counting(self, X, y=None):
        simulations.append(self.noise_level)
        return fit_transform(self, X, y)

    monkeypatch.setattr(CorrelationSignalGenerator, "fit_transform", counting)
    pipeline = make_pipeline(
        CorrelationSignalGenerator(random_state=seed), SignalNormalizer(),
        # in place: changes by one candidate must not reach the signals of another
        FunctionTransformer(lambda X: np.multiply(X, 2, out=X)), classifier(random_state=seed),
    )  # fmt: skip
    grid = {
        "correlationsignalgenerator__noise_level": [0.001, 0.05],
        "correlationcnnclassifier__learning_rate": [0.001, 0.004],
    }
    search = StackedGridSearchCV(pipeline, grid, cv=3, stack=True)
    search.fit(*table)
    assert stacks == [12]
    assert sorted(simulations[:-1]) == [0.001] * 3 + [0.05] * 3
    assert len(simulations) - 1 == 6  # and one for the final fit
    assert len(single_fits) == 1
    assert search.estimator is pipeline
    assert type(search.best_estimator_) is Pipeline
    assert type(search.best_estimator_[-1]) is CorrelationCNNClassifier
    assert search.best_estimator_.memory is None
    assert len(np.unique(search.cv_results_["split0_test_score"])) > 1
    if seed is not None:
        expected = GridSearchCV(pipeline, grid, cv=3).fit(*table)
        assert_same_results(search.cv_results_, expected.cv_results_, atol=0.004)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["generator", "random", "groups"])
def test_splits_are_drawn_once(signals, stacks, kind):
    X, y = signals
    cv = {
        "generator": lambda: iter(list(KFold(3).split(X))),
        "random": lambda: ShuffleSplit(3, random_state=np.random.RandomState(0)),
        "groups": lambda: GroupKFold(3),
    }[kind]
    groups = {"groups": np.arange(len(y)) // 50} if kind == "groups" else {}
    grid = {"learning_rate": [0.001, 0.004]}
    given = cv()
    search = StackedGridSearchCV(classifier(), grid, cv=given, stack=True, refit=False)
    search.fit(X, y, **groups)
    assert search.cv is given
    assert sum(stacks) == 6  # folds of groups have different numbers of batches
    expected = GridSearchCV(classifier(), grid, cv=cv(), refit=False).fit(X, y, **groups)
    assert_same_results(search.cv_results_, expected.cv_results_)


def test_fits_without_a_seed_differ(signals, single_fits):
    grid = {"learning_rate": [0.003, 0.003, 0.003]}
    search = StackedGridSearchCV(
        classifier(random_state=None), grid, cv=2, stack=True, refit=False, scoring="neg_log_loss"
    )
    scores = search.fit(*signals).cv_results_["split0_test_score"]
    assert not single_fits
    assert len(np.unique(scores)) == 3


@pytest.mark.slow
def test_other_parameters_are_in_separate_stacks(signals, stacks, single_fits):
    grid = [
        {"batch_size": [100, 200], "learning_rate": [0.001, 0.004]},
        {"max_epochs": [1], "class_weight": ["balanced"]},
        {"optimizer": ["muon"]},
        {"validation_fraction": [0.2], "dropout": [0.0, 0.1]},
        {"backend": ["torch"], "n_iter_no_change": [5]},
    ]
    search = StackedGridSearchCV(classifier(), grid, cv=2, stack=True, refit=False).fit(*signals)
    assert sorted(stacks) == [2, 4, 4]
    assert [settings.optimizer for settings in single_fits].count("muon") == 2
    assert len(single_fits) == 2 + 4 + 2
    expected = GridSearchCV(classifier(), grid, cv=2, refit=False).fit(*signals)
    assert_same_results(search.cv_results_, expected.cv_results_)


class Subclass(CorrelationCNNClassifier):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "grid", "options"),
    [
        (DummyClassifier(random_state=0), {"strategy": ["prior", "uniform"]}, {"stack": True}),
        (
            Subclass(protocol="ir-se-8x8", max_epochs=1, random_state=0),
            {"learning_rate": [0.001, 0.01]}, {"stack": True},
        ),
        (
            classifier(CorrelationCNN()), {"learning_rate": [0.001, 0.01]}, {"stack": True},
        ),
        (classifier(), {"learning_rate": [0.001, 0.01]}, {"stack": False}),
        (classifier(device="cpu"), {"learning_rate": [0.001, 0.01]}, {"stack": "auto"}),
        (
            Pipeline([("scale", StandardScaler()), ("model", classifier())]),
            {"model": [DummyClassifier(), classifier(learning_rate=0.001)]}, {"stack": True},
        ),
    ],
)  # fmt: skip
def test_candidates_that_cannot_be_stacked_are_fitted_separately(
    signals, stacks, estimator, grid, options
):
    search = StackedGridSearchCV(estimator, grid, cv=2, **options).fit(*signals)
    assert stacks == []
    expected = GridSearchCV(estimator, grid, cv=2).fit(*signals)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    assert type(search.best_estimator_) is type(expected.best_estimator_)


def test_a_failed_stack_is_trained_one_by_one(signals, single_fits, monkeypatch):
    def fail(members, **options):
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(ahead, "train_stack", fail)
    grid = {"learning_rate": [0.001, 0.01]}
    search = StackedGridSearchCV(classifier(), grid, cv=2, refit=False, stack=True)
    with pytest.warns(UserWarning, match="trained separately instead: RuntimeError: CUBLAS"):
        search.fit(*signals)
    assert len(single_fits) == 4
    expected = GridSearchCV(classifier(), grid, cv=2, refit=False).fit(*signals)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )


def test_fits_with_fit_parameters_are_not_stacked(signals, stacks):
    X, y = signals
    search = StackedGridSearchCV(classifier(), {"weight_decay": [0.1, 0.2]}, cv=2, stack=True)
    search.fit(X, y, X_val=X, y_val=y)
    assert stacks == []
    assert "valid_loss" in search.best_estimator_.history_[0]


WILD = {"learning_rate": [0.01, 1e30], "momentum": [0.0, 0.9]}


@pytest.mark.slow
def test_a_diverging_candidate_gets_the_error_score(signals, stacks):
    found, expected = (
        kind(classifier(optimizer="sgd"), WILD, cv=2, error_score=-1.0, **options)
        for kind, options in ((StackedGridSearchCV, {"stack": True}), (GridSearchCV, {}))
    )
    for search in (found, expected):
        with pytest.warns(FitFailedWarning, match=r"(?s)4 fits failed.*training diverged"):
            search.fit(*signals)
    assert stacks == [8]
    assert_same_results(found.cv_results_, expected.cv_results_)
    found.set_params(error_score="raise")
    with pytest.raises(ValueError, match="the training diverged"):
        found.fit(*signals)
    assert type(found.estimator) is CorrelationCNNClassifier
    assert not hasattr(found, "_prefetched")


@pytest.mark.parametrize(
    "grid",
    [
        {"learning_rate": [0.01, -1.0]},
        {"class_weight": [None, {9: 1.0}, "evenly"]},
        {"batch_size": [100, "large"]},
        {"device": ["cpu", "abacus"]},
    ],
)
def test_a_wrong_candidate_fails_as_in_grid_search(signals, grid):
    found, expected = (
        kind(classifier(), grid, cv=2, error_score=0.0, refit=False, **options)
        for kind, options in ((StackedGridSearchCV, {"stack": True}), (GridSearchCV, {}))
    )
    for search in (found, expected):
        with pytest.warns(FitFailedWarning):
            search.fit(*signals)
    assert_same_results(found.cv_results_, expected.cv_results_)
    assert (found.cv_results_["mean_test_score"] == 0).sum() == len(next(iter(grid.values()))) - 1


def test_errors_of_the_search_itself(signals):
    search = StackedGridSearchCV(classifier(), {"lr": [0.1]}, stack=True)
    with pytest.raises(ValueError, match="Invalid parameter 'lr'"):
        search.fit(*signals)
    with pytest.raises(ValueError, match="'stack' parameter"):
        search.set_params(stack="often").fit(*signals)
    with pytest.raises(ValueError, match="'max_stack' parameter"):
        search.set_params(stack=True, max_stack=0).fit(*signals)
    assert type(search.estimator) is CorrelationCNNClassifier
