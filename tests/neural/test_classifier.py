"""The network classifiers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    ModuleClassifier,
    ResidualMLPClassifier,
    SignalNormalizer,
    TissuePrior,
)
from corrsk.evaluation import multicompartment_accuracy
from tests._helpers import make_classifier


def quick(network="cnn", **changes):
    parameters = {"max_epochs": 3, "random_state": 0, "verbose": False}
    return make_classifier(network, **parameters | changes)


def weights(model):
    return torch.cat([p.detach().ravel() for p in model.net_.module_.state_dict().values()])


@pytest.fixture(scope="module")
def train(small_data):
    return small_data.data[small_data.train_indices], small_data.target[small_data.train_indices]


@pytest.fixture(scope="module")
def test(small_data):
    return small_data.data[small_data.test_indices], small_data.target[small_data.test_indices]


@pytest.mark.slow
def test_classifier_learns_counts(train, test):
    model = quick(max_epochs=12).fit(*train)
    assert model.score(*test) > 0.45  # chance is 0.25
    assert multicompartment_accuracy(model, *test) > 0.8  # a constant prediction gives 0.75
    assert model.classes_.tolist() == [1, 2, 3, 4]
    assert model.grid_shape_ == (8, 8)
    assert model.n_iter_ == 12
    history = pd.DataFrame(model.history_)
    assert history["epoch"].tolist() == list(range(1, 13))
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert sum(p.numel() for p in model.net_.module_.parameters()) == 4208


def test_probabilities_sum_to_one_and_agree_with_predict(train, test):
    model = quick().fit(*train)
    P = model.predict_proba(test[0])
    assert P.dtype == np.float64
    np.testing.assert_allclose(P.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(
        model.predict_multicompartment_proba(test[0]), 1 - P[:, 0], rtol=1e-12
    )
    np.testing.assert_array_equal(model.predict(test[0]), P.argmax(axis=1) + 1)
    images = test[0].reshape(-1, 8, 8)
    np.testing.assert_array_equal(model.predict_proba(images), P)


def test_chunked_prediction_equals_a_single_prediction(train, test, monkeypatch):
    model = quick().fit(*train)
    expected = model.predict_proba(test[0])
    monkeypatch.setattr("corrsk.neural.training.prediction.PREDICT_ROWS", 7)
    np.testing.assert_allclose(model.predict_proba(test[0]), expected, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_same_seed_gives_bit_identical_results(train, dropout):
    state = torch.get_rng_state()
    one, two = (quick(dropout=dropout).fit(*train) for _ in range(2))
    assert torch.equal(weights(one), weights(two))
    assert torch.equal(torch.get_rng_state(), state)  # the user's random state is unchanged
    other = quick(dropout=dropout, random_state=1).fit(*train)
    assert not torch.equal(weights(one), weights(other))


@pytest.mark.slow
def test_validation_data_choose_the_best_epoch(train, test):
    # a too large learning rate, so that the last epoch is not the best
    settings = {"learning_rate": 0.1, "learning_rate_schedule": "constant", "max_epochs": 10}
    model = quick(**settings).fit(*train, X_val=test[0], y_val=test[1])
    losses = [row["valid_loss"] for row in model.history_]
    assert model.best_epoch_ == int(np.argmin(losses)) + 1 < 10
    P = model.predict_proba(test[0])
    loss = -np.log(P[np.arange(len(P)), test[1] - 1]).mean()
    # a real copy: the published code kept a reference to the model still in training
    assert loss == pytest.approx(min(losses), rel=1e-4)
    last = quick(**settings, restore_best=False).fit(*train, X_val=test[0], y_val=test[1])
    P = last.predict_proba(test[0])
    assert -np.log(P[np.arange(len(P)), test[1] - 1]).mean() == pytest.approx(losses[-1], rel=1e-4)


def test_early_stopping(train, test):
    model = quick(
        learning_rate=0.1, learning_rate_schedule="constant", max_epochs=200, n_iter_no_change=2
    ).fit(*train, X_val=test[0], y_val=test[1])
    assert model.n_iter_ == model.best_epoch_ + 2 < 200


def test_validation_fraction(train):
    model = quick(validation_fraction=0.25).fit(*train)
    assert "valid_accuracy" in model.history_[0]
    assert quick().fit(*train).best_epoch_ is None


def test_validation_labels_count_towards_accuracy(train, test):
    model = quick(restore_best=False).fit(*train, X_val=test[0], y_val=test[1])
    assert model.history_[-1]["valid_accuracy"] == pytest.approx(model.score(*test))


@pytest.mark.parametrize(
    "labels", [["one", "two", "three", "four"], [10, 20, 30, 40], [0, 1, 2, 3]]
)
def test_labels_of_any_type(train, test, labels):
    labels = np.array(labels)
    model = quick().fit(train[0], labels[train[1] - 1], X_val=test[0], y_val=labels[test[1] - 1])
    np.testing.assert_array_equal(model.classes_, np.sort(labels))
    assert set(model.predict(test[0])) <= set(labels.tolist())
    expected = quick().fit(*train, X_val=test[0], y_val=test[1])
    if sorted(labels.tolist()) == labels.tolist():
        np.testing.assert_array_equal(model.predict(test[0]), labels[expected.predict(test[0]) - 1])
    if labels[0] != 10:
        with pytest.raises(ValueError, match="must be compartment counts"):
            model.predict_multicompartment_proba(test[0])


def test_class_weight(train):
    X, y = train
    plain = quick(max_epochs=5).fit(X, y).predict(X)
    heavy = quick(max_epochs=5, class_weight={1: 1, 2: 1, 3: 20, 4: 1}).fit(X, y).predict(X)
    assert (heavy == 3).mean() > 0.9 > (plain == 3).mean()


def test_columns_with_names_are_reordered_to_the_grid():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 48)).astype(np.float32)
    y = np.arange(60) % 2
    protocol = AcquisitionProtocol.from_grid(ti=np.arange(100, 700, 100), te=np.arange(10, 90, 10))
    named = pd.DataFrame(X, columns=protocol.feature_names)
    expected = quick(protocol="auto").fit(named, y).predict_proba(named)
    mixed = named.iloc[:, rng.permutation(48)]
    for changes in ({"protocol": "auto"}, {"grid_shape": (6, 8)}):
        model = quick(**changes).fit(mixed, y, X_val=mixed[:9], y_val=y[:9])
        assert model.grid_shape_ == (6, 8)
        losses = [row["valid_loss"] for row in model.history_]
        on_grid = quick(**changes).fit(named, y, X_val=named[:9], y_val=y[:9])
        assert losses == [row["valid_loss"] for row in on_grid.history_]
        np.testing.assert_array_equal(model.predict_proba(mixed), expected)
        model.partial_fit(mixed, y)
        np.testing.assert_array_equal(
            model.predict_proba(mixed), on_grid.partial_fit(named, y).predict_proba(named)
        )
        with pytest.raises(ValueError, match="same order"):
            model.predict_proba(named)
    with pytest.raises(ValueError, match="'first' is not understood"):
        quick(protocol="auto").fit(named.rename(columns={"TI100_TE10": "first"}), y)
    # another network takes any columns
    quick("residual-mlp", max_epochs=1).fit(named.rename(columns={"TI100_TE10": "age"}), y)


def test_axes_are_compared_with_the_given_grid():
    X, y = np.random.default_rng(0).normal(size=(40, 48)), np.arange(40) % 2
    with pytest.raises(ValueError, match=r"\(n_samples, 4, 12\).*\(n_samples, 12, 4\)"):
        quick(grid_shape=(12, 4)).fit(X.reshape(-1, 4, 12), y)
    model = quick(max_epochs=1, grid_shape=(12, 4)).fit(X, y)
    with pytest.raises(ValueError, match=r"\(n_samples, 4, 12\).*\(n_samples, 12, 4\)"):
        model.predict(X.reshape(-1, 4, 12))


def test_paper_recipe():
    model = CorrelationCNNClassifier.from_recipe("paper")
    assert {
        "optimizer": "sgd", "momentum": 0.9, "learning_rate": 1.0,
        "learning_rate_schedule": "steps", "max_epochs": 3000, "batch_size": 10_000,
        "dropout": 0.2, "softmax_before_loss": True, "input_scaling": None,
    }.items() <= model.get_params().items()  # fmt: skip
    assert CorrelationCNNClassifier.from_recipe("paper", max_epochs=2).max_epochs == 2
    with pytest.raises(ValueError, match="known recipes: default, paper"):
        CorrelationCNNClassifier.from_recipe("papers")
    with pytest.raises(ValueError, match="known recipes: residual-mlp"):
        ResidualMLPClassifier.from_recipe("paper")


def test_paper_recipe_trains(train, test):
    model = CorrelationCNNClassifier.from_recipe(
        "paper", protocol="ir-se-8x8", max_epochs=5, batch_size=200, random_state=0, verbose=False
    ).fit(*train)
    rates = [row["learning_rate"] for row in model.history_]
    np.testing.assert_allclose(rates, 0.01 ** (np.arange(5) / 5))
    # softmax twice: the loss cannot fall below log(1 + 3 / e)
    assert min(row["train_loss"] for row in model.history_) > 0.743
    np.testing.assert_allclose(model.predict_proba(test[0]).sum(axis=1), 1)


def test_clone_pickle_deepcopy(train, test):
    model = quick().fit(*train)
    P = model.predict_proba(test[0])
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(twin.predict_proba(test[0]), P)
    assert not hasattr(clone(model), "net_")
    assert len(pickle.dumps(model)) < 100_000  # without data, optimiser or history of batches


BAD_INPUT = {
    "NaN": (lambda X, y: (np.where(X[0, 0] == X, np.nan, X), y), "NaN"),
    "infinity": (lambda X, y: (np.where(X[0, 0] == X, np.inf, X), y), "infinity"),
    "single class": (lambda X, y: (X, np.ones_like(y)), "at least two classes; got 1 class"),
    "lengths": (lambda X, y: (X, y[1:]), "inconsistent numbers of samples"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_data(train, case):
    change, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message):
        quick().fit(*change(*train))


def test_a_failed_fit_leaves_the_estimator_unfitted(train):
    model = quick(max_epochs=1).fit(*train)
    model.set_params(class_weight={9: 1})
    with pytest.raises(ValueError, match="class_weight"):
        model.fit(*train)
    with pytest.raises(NotFittedError):
        model.predict(train[0])


def test_a_diverging_training_is_an_error(train):
    with pytest.raises(ValueError, match="diverged.*lower learning_rate"):
        quick(optimizer="sgd", learning_rate=1e8).fit(*train)


def test_values_beyond_single_precision_are_an_error(train):
    model = quick(max_epochs=1).fit(*train)
    with pytest.raises(ValueError, match="too large"):
        model.predict_proba(np.full((5, 64), 1e300))


@pytest.mark.parametrize("weight", [0, -1])
def test_impossible_class_weights(train, weight):
    with pytest.raises(ValueError, match="negative or all zero"):
        quick(class_weight=dict.fromkeys([1, 2, 3, 4], weight)).fit(*train)


def test_wrong_number_of_columns(train):
    model = quick(max_epochs=1).fit(*train)
    with pytest.raises(ValueError, match="63 features.*64 features"):
        model.predict(train[0][:, :63])
    with pytest.raises(ValueError, match="does not match the 64 columns"):
        quick(grid_shape=(8, 9)).fit(*train)
    with pytest.raises(ValueError, match="does not match"):
        quick(grid_shape=(63,)).fit(*train)


def test_bad_validation_data(train, test):
    with pytest.raises(ValueError, match="both X_val and y_val"):
        quick().fit(*train, X_val=test[0])
    with pytest.raises(ValueError, match="600 signals but y_val has 599"):
        quick().fit(*train, X_val=test[0], y_val=test[1][1:])
    with pytest.raises(ValueError, match=r"labels that are not in y: \[5\]"):
        quick().fit(*train, X_val=test[0], y_val=test[1] // 4 * 5 + (test[1] < 4))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_epochs": 0}, "max_epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"dropout": 1}, "dropout"),
        ({"optimizer": "adagrad"}, "optimizer"),
        ({"learning_rate_schedule": "cosine"}, "learning_rate_schedule"),
        ({"device": "tpu"}, "'auto', 'cpu', 'cuda'"),
        ({"device": "cuda:99"}, "is not available"),
        ({"batch_size": "big"}, "batch_size"),
    ],
)
def test_bad_parameters(train, parameters, message):
    with pytest.raises(ValueError, match=message):
        quick(**parameters).fit(*train)


# -- other networks -----------------------------------------------------------


@pytest.mark.slow
def test_the_residual_mlp_trains_with_its_recipe(train, test):
    model = ResidualMLPClassifier.from_recipe(
        max_epochs=8, batch_size=100, width=64, random_state=0, verbose=False,
        precision="float32",
    ).fit(*train)  # fmt: skip
    assert model.score(*test) > 0.5  # measured 0.56; the CNN has 0.45 after 12 epochs
    assert set(model.net_.module_.state_dict()) > {"mean", "matrix"}
    columns = np.random.default_rng(0).permutation(64)
    other = clone(model).set_params(max_epochs=1)
    other.fit(train[0][:, columns[:50]], train[1])  # any number and order of columns
    assert other.predict(test[0][:, columns[:50]]).shape == test[1].shape


def test_a_module_of_the_user(train, test):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(32, 4)
    )
    before = [p.detach().clone() for p in module.parameters()]
    model = quick(module).fit(*train)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    again = clone(model).fit(*train)  # starting from the weights of the module
    assert torch.equal(weights(model), weights(again))
    assert model.predict_proba(test[0]).shape == (len(test[0]), 4)
    narrow = torch.nn.Linear(64, 3)
    with pytest.raises(ValueError, match=r"of shape \(2, 4\), one for each class"):
        quick(narrow).fit(*train)


class Gain(torch.nn.Module):
    """A module with a plain attribute."""

    def __init__(self, gain):
        super().__init__()
        self.gain = gain
        self.linear = torch.nn.Linear(64, 4)

    def forward(self, x):
        return self.gain * self.linear(x)


def test_a_checkpoint_depends_on_classes_and_attributes_of_a_module(train, tmp_path):
    one, two = Gain(1.0), Gain(50.0)
    two.load_state_dict(one.state_dict())
    fit = {"max_epochs": 1, "checkpoint": tmp_path / "checkpoint"}
    quick(one, **fit).fit(*train)
    assert quick(copy.deepcopy(one), **fit).fit(*train).n_iter_ == 1
    with pytest.raises(ValueError, match="other parameters"):
        quick(two, **fit).fit(*train)


def test_modules_that_cannot_be_trained_are_refused(train):
    with pytest.raises(TypeError, match=r"cannot create the torch module Linear\(\).*module__"):
        quick(torch.nn.Linear).fit(*train)
    with pytest.raises(TypeError, match="a function that returns a torch module; got 3"):
        quick(lambda: 3).fit(*train)
    with pytest.raises(ValueError, match="no parameters to train"):
        quick(torch.nn.Identity()).fit(*train)


def test_layers_with_random_numbers_do_not_change_the_users_random_state(train):
    module = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.RReLU(), torch.nn.Linear(8, 4))
    fits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        fits.append(weights(quick(module, max_epochs=1).fit(*train)))
        left = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.equal(left, torch.rand(1))
    assert torch.equal(*fits)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_optimizers(train, optimizer):
    model = quick(optimizer=optimizer, learning_rate=0.005).fit(*train)
    assert model.history_[-1]["train_loss"] < model.history_[0]["train_loss"]
    pickle.loads(pickle.dumps(model)).predict(train[0][:5])


@pytest.mark.slow
def test_training_in_bfloat16_gives_predictions_in_float32(train, test):
    full, half = (
        quick(
            "residual-mlp",
            width=32,
            precision=p,
            input_scaling="standardize",
            optimizer="adamw",
            learning_rate=0.01,
        ).fit(*train)
        for p in ("float32", "bfloat16")
    )
    assert all(p.dtype == torch.float32 for p in half.net_.module_.parameters())
    difference = np.abs(full.predict_proba(test[0]) - half.predict_proba(test[0])).mean()
    assert 0 < difference < 0.05
    assert not torch.equal(weights(full), weights(half))
    assert half.score(*test) == pytest.approx(full.score(*test), abs=0.06)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"input_scaling": "whiten"}, "input_scaling"),
        ({"input_scaling": "half-whiten"}, "input_scaling"),
        ({"precision": "float16"}, "precision"),
        ({"network": "residual-mlp", "width": 0}, "width"),
        ({"network": "residual-mlp", "n_blocks": -1}, "n_blocks"),
        ({"network": "residual-mlp", "backend": "numba"}, "backend"),
        ({"momentum": 0.5}, "momentum=0.5 is for optimizer='sgd'"),
    ],
)
def test_bad_networks(train, parameters, message):
    with pytest.raises(ValueError, match=message):
        quick(**parameters).fit(*train)


# -- tissue whose classes are not equally frequent -------------------------------


def test_class_prior(train, test):
    model = quick().fit(*train)
    X = test[0]
    plain = model.predict_proba(X)
    np.testing.assert_allclose(model.class_prior_, 0.25, atol=0.001)
    np.testing.assert_allclose(model.predict_proba(X, class_prior=model.class_prior_), plain)
    prior = {1: 7, 2: 1, 3: 1, 4: 1}
    shifted = model.predict_proba(X, class_prior=prior)
    expected = plain * [0.7, 0.1, 0.1, 0.1] / model.class_prior_
    np.testing.assert_allclose(shifted, expected / expected.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(
        model.predict(X, class_prior=prior), model.classes_[shifted.argmax(axis=1)]
    )
    np.testing.assert_allclose(
        model.predict_multicompartment_proba(X, class_prior=prior), 1 - shifted[:, 0]
    )
    pipeline = make_pipeline(SignalNormalizer(), quick()).fit(*train)
    assert (
        pipeline.predict_proba(X, class_prior=prior)[:, 0] >= pipeline.predict_proba(X)[:, 0]
    ).all()
    series = pd.Series({4: 1, 1: 7, 3: 1, 2: 1})  # as from value_counts: matched by label
    np.testing.assert_array_equal(model.predict_proba(X, class_prior=series), shifted)
    only = model.predict_proba(X, class_prior=[0, 1, 1, 0])
    assert (only[:, [0, 3]] == 0).all()


def test_class_prior_accounts_for_balanced_class_weights(train, test):
    X, y = train
    few = (y != 1) | (np.arange(len(y)) % 4 == 0)
    # balanced weights in the training: the prior of the probabilities is uniform
    model = quick(class_weight="balanced").fit(X[few], y[few])
    np.testing.assert_allclose(model.class_prior_, 0.25)
    assert quick().fit(X[few], y[few]).class_prior_[0] == pytest.approx(1 / 13, abs=0.01)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ([0.5, 0.5], "4 classes"),
        ({1: 1, 2: 1, 3: 1}, "lacks"),
        ([-1, 1, 1, 1], "not negative"),
    ],
)
def test_bad_class_priors(train, prior, message):
    model = quick(max_epochs=1).fit(*train)
    with pytest.raises(ValueError, match=message):
        model.predict_proba(train[0], class_prior=prior)


# -- with scikit-learn's tools ----------------------------------------------


@pytest.fixture(scope="module")
def tissue():
    return TissuePrior.named("midl2024").sample(1500, random_state=0)


@pytest.fixture
def pipeline():
    return make_pipeline(
        CorrelationSignalGenerator(noise_level=0.005, random_state=0),
        SignalNormalizer(),
        quick(),
    )


def test_pipeline(pipeline, tissue):
    pipeline.fit(*tissue)
    assert pipeline.predict_proba(tissue[0][:5]).shape == (5, 4)
    measured = CorrelationSignalGenerator(noise_level=0.005).fit_transform(tissue[0][:5])
    assert pipeline[1:].predict_proba(measured).shape == (5, 4)  # the same steps, measured signals
    scores = cross_val_score(pipeline, *tissue, cv=3, scoring=multicompartment_accuracy)
    assert np.isfinite(scores).all()
    with pytest.raises(ValueError, match="63 features"):
        pipeline[1:].predict(measured[:, :63])


@pytest.mark.slow
def test_grid_search_over_noise_and_network(pipeline, tissue):
    grid = {
        "correlationsignalgenerator__noise_level": [0.001, 0.05],
        "correlationcnnclassifier__learning_rate": [1e-3, 1e-2],
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(*tissue)
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert search.best_estimator_.predict(tissue[0][:3]).shape == (3,)


def test_a_pipeline_transforms_validation_data(small_data):
    train, valid = small_data.train_indices, small_data.validation_indices
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(
            SignalNormalizer(norm="max"),
            quick().set_fit_request(X_val=True, y_val=True),
            transform_input=["X_val"],
        )
        pipeline.fit(
            small_data.data[train], small_data.target[train],
            X_val=small_data.data[valid], y_val=small_data.target[valid],
        )  # fmt: skip
        accuracy = pipeline.score(small_data.data[valid], small_data.target[valid])
    losses = [row["valid_loss"] for row in pipeline[-1].history_]
    at_best = pipeline[-1].history_[int(np.argmin(losses))]["valid_accuracy"]
    # equal only if validation and training signals were normalised alike
    assert accuracy == pytest.approx(at_best)


# -- sample weights ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_sample_weights_shift_the_predictions(train, backend):
    if backend == "numba":
        pytest.importorskip("numba")
    X, y = train
    settings = {"max_epochs": 5, "batch_size": 100, "backend": backend}
    plain = quick(**settings).fit(X, y)
    weights = np.where(y == 3, 20.0, 1.0)
    heavy = quick(**settings).fit(X, y, sample_weight=weights)
    assert (heavy.predict(X) == 3).mean() > 0.9 > (plain.predict(X) == 3).mean()
    # equal to class weights, which also have mean 1 over the training signals
    by_class = quick(**settings, class_weight={1: 1, 2: 1, 3: 20, 4: 1}).fit(X, y)
    np.testing.assert_allclose(heavy.predict_proba(X), by_class.predict_proba(X), atol=1e-3)
    np.testing.assert_allclose(heavy.class_prior_, by_class.class_prior_, rtol=1e-6)
    equal = quick(**settings).fit(X, y, np.full(len(y), 7.0))
    assert torch.equal(*(torch.cat([p.detach().ravel() for p in m.net_.module_.parameters()])
                         for m in (plain, equal)))  # fmt: skip


@pytest.mark.slow
def test_both_backends_apply_sample_weights_equally(train):
    pytest.importorskip("numba")
    X, y = train
    weights = np.random.default_rng(0).exponential(size=len(y))
    losses = [
        quick(backend=backend, optimizer="sgd", learning_rate=0.01)
        .fit(X, y, sample_weight=weights)
        .history_[0]["train_loss"]
        for backend in ("torch", "numba")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda n: np.ones(n - 1), "sample_weight"),
        (lambda n: -np.ones(n), "[Nn]egative"),
        (lambda n: np.zeros(n), "zero"),
        (lambda n: np.full(n, np.nan), "NaN"),
    ],
)
def test_bad_sample_weights(train, weights, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(*train, sample_weight=weights(len(train[1])))


def test_partial_fit_accepts_sample_weights(train):
    X, y = train
    weights = np.where(y == 3, 20.0, 1.0)
    model = quick(learning_rate=1e-3)
    for _ in range(8):
        model.partial_fit(X, y, sample_weight=weights)
    assert (model.predict(X) == 3).mean() > 0.9


@pytest.mark.parametrize(
    ("counts", "fraction", "message"),
    [
        ({1: 50, 2: 50, 4: 1}, 0.1, "needs at least 2 signals of each label.* 1 signal with the "
         "label 4: .*X_val"),
        ({1: 50, 2: 1, 4: 1}, 0.1, "1 signal with the label 2 and 1 with 4:"),
        ({"1": 50, "2": 1}, 0.1, "1 signal with the label '2':"),
        ({1: 50, 2: 50, 4: 50}, 0.01, "leaves 2 validation signals for 3 classes; valid fractions: "
         "0.02 to 0.98"),
        ({1: 50, 2: 50, 4: 50}, 0.999, "leaves 0 training signals for 3 classes"),
        ({1: 2, 2: 2, 4: 1 + 1}, 0.9, "leaves 0 training signals"),
    ],
)  # fmt: skip
def test_a_rare_class_with_a_validation_fraction_is_named(train, counts, fraction, message):
    y = np.repeat(list(counts), list(counts.values()))
    with pytest.raises(ValueError, match=message):
        quick(validation_fraction=fraction).fit(train[0][: len(y)], y)


def test_the_smallest_validation_fraction_of_the_message_is_valid(train):
    y = np.repeat([1, 2, 4], 50)
    for fraction in (0.02, 0.98):
        quick(validation_fraction=fraction, batch_size=3).fit(train[0][:150], y)


def test_validation_data_with_a_validation_fraction_are_an_error(train, test):
    with pytest.raises(ValueError, match="with X_val and y_val leave it None"):
        quick(validation_fraction=0.2).fit(*train, X_val=test[0], y_val=test[1])


# -- names of earlier versions ------------------------------------------------------


def test_old_names_of_parameters_warn_and_work(train):
    X, y = train[0][:200], train[1][:200]
    with pytest.warns(FutureWarning, match="kernel of CorrelationCNNClassifier is now backend"):
        model = CorrelationCNNClassifier(kernel="compiled", max_epochs=1)
    assert model.get_params()["backend"] == "numba"
    with pytest.warns(FutureWarning, match="is now backend='torch'"):
        model.set_params(kernel="torch")
    assert model.backend == "torch"
    with pytest.warns(FutureWarning, match="use ResidualMLPClassifier"):
        mlp = CorrelationCNNClassifier(network="residual-mlp", width=7, max_epochs=1)
    assert type(mlp) is ResidualMLPClassifier
    assert (mlp.width, mlp.optimizer, mlp.input_scaling) == (7, "adamw", "standardize")
    assert clone(mlp).fit(X, y).predict(X).shape == (200,)
    with pytest.warns(FutureWarning, match="use ModuleClassifier"):
        own = CorrelationCNNClassifier(network=torch.nn.Linear(64, 4), max_epochs=1)
    assert own.fit(X, y).predict(X).shape == (200,)
    with pytest.warns(FutureWarning, match="width of CorrelationCNNClassifier is ignored"):
        assert "width" not in CorrelationCNNClassifier(width=7).get_params()
    with pytest.warns(FutureWarning, match="ResidualMLPClassifier.from_recipe"):
        recipe = CorrelationCNNClassifier.from_recipe("residual-mlp", max_epochs=2)
    assert recipe.get_params() == ResidualMLPClassifier.from_recipe(max_epochs=2).get_params()
    with pytest.raises(TypeError, match="the same parameter"):
        CorrelationCNNClassifier(kernel="torch", backend="torch")


# -- classes of modules ------------------------------------------------------------------


class Hidden(torch.nn.Module):
    def __init__(self, hidden=8, bias=True):
        super().__init__()
        self.first = torch.nn.Linear(64, hidden, bias=bias)
        self.last = torch.nn.Linear(hidden, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


def hidden_size(model):
    return model.net_.module_.network.first.out_features


def test_arguments_of_a_module_class_are_parameters(train):
    model = ModuleClassifier(Hidden, module__hidden=5, max_epochs=1, random_state=0, verbose=False)
    assert model.get_params()["module__hidden"] == 5
    assert "module__hidden=5" in repr(model)
    assert "module__hidden" in model._repr_html_()
    copied = clone(model).set_params(module__hidden=6, module__bias=False, max_epochs=2)
    assert model.get_params().keys() < copied.get_params().keys()
    assert hidden_size(model.fit(*train)) == 5
    assert hidden_size(copied.fit(*train)) == 6
    assert copied.n_iter_ == 2
    assert copied.net_.module_.network.first.bias is None
    # the seed draws the weights
    assert torch.equal(weights(model), weights(clone(model).fit(*train)))
    other = clone(model).set_params(random_state=1).fit(*train)
    assert not torch.equal(weights(model), weights(other))
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).predict(train[0]), model.predict(train[0])
    )


def test_arguments_of_a_module_class_can_be_searched(train):
    pipeline = make_pipeline(
        SignalNormalizer(), ModuleClassifier(Hidden, max_epochs=1, random_state=0, verbose=False)
    )
    search = GridSearchCV(pipeline, {"moduleclassifier__module__hidden": [2, 3]}, cv=2).fit(*train)
    chosen = search.best_params_["moduleclassifier__module__hidden"]
    assert hidden_size(search.best_estimator_[-1]) == chosen


def test_superfluous_arguments_of_a_module_are_refused(train):
    with pytest.raises(TypeError, match=r"unexpected parameters hidden.*prefix module__"):
        ModuleClassifier(Hidden, hidden=3)
    for module in (None, Hidden()):
        with pytest.raises(ValueError, match="module__hidden are arguments of a class"):
            ModuleClassifier(module, module__hidden=3, verbose=False).fit(*train)
    with pytest.raises(TypeError, match=r"Hidden\(width=3\)"):
        ModuleClassifier(Hidden, module__width=3, verbose=False).fit(*train)


def test_a_checkpoint_depends_on_the_arguments_of_a_module_class(train, tmp_path):
    def fit(**arguments):
        return ModuleClassifier(
            Hidden, max_epochs=1, random_state=0, verbose=False, checkpoint=tmp_path / "c",
            **arguments,
        ).fit(*train)  # fmt: skip

    fit(module__hidden=3)
    fit(module__hidden=3)
    with pytest.raises(ValueError, match="other parameters"):
        fit(module__hidden=4)


# -- warm start --------------------------------------------------------------------------


def test_a_warm_start_continues_from_the_weights(train, tmp_path):
    X, y = train
    model = quick(warm_start=True, learning_rate=1e-9, learning_rate_schedule="constant").fit(X, y)
    first = model.predict_proba(X)
    model.set_params(random_state=1).fit(2 * X, y)  # of another seed, but with hardly any step
    assert model.n_iter_ == len(model.history_) == 3
    np.testing.assert_allclose(model.predict_proba(X), first, atol=1e-4)
    cold = clone(model).set_params(warm_start=False).fit(X, y)
    assert np.abs(cold.predict_proba(X) - first).max() > 0.01


def test_a_warm_start_needs_the_same_classes_columns_and_network(train, tmp_path):
    X, y = train
    model = quick("residual-mlp", width=8, n_blocks=1, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"classes of the earlier fit, \[1, 2, 3, 4\]"):
        copy.deepcopy(model).fit(X[y > 1], y[y > 1])
    with pytest.raises(ValueError, match="64 columns of the earlier fit; X has 40"):
        copy.deepcopy(model).fit(X[:, :40], y)
    with pytest.raises(ValueError, match="another network or input scaling"):
        copy.deepcopy(model).set_params(width=9).fit(X, y)
    with pytest.raises(ValueError, match="checkpoint stores neither"):
        model.set_params(checkpoint=tmp_path / "c").fit(X, y)


# -- further -----------------------------------------------------------------------------


def test_log_probabilities(train):
    X, y = train
    model = quick().fit(X, y)
    np.testing.assert_array_equal(model.predict_log_proba(X), np.log(model.predict_proba(X)))
    prior = [0.7, 0.1, 0.1, 0.1]
    np.testing.assert_array_equal(
        model.predict_log_proba(X, class_prior=prior), np.log(model.predict_proba(X, prior))
    )
    assert (model.predict_log_proba(X, class_prior=[1, 0, 0, 0])[:, 1:] == -np.inf).all()


def test_boosting_passes_sample_weights(train):
    boosted = AdaBoostClassifier(quick(max_epochs=20), n_estimators=2, random_state=0).fit(*train)
    assert len(boosted.estimators_) == 2


def test_a_memorised_training_set_gives_a_warning():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2000, 20)).astype(np.float32), rng.integers(1, 3, 2000)
    parameters = {
        "width": 128, "n_blocks": 1, "batch_size": 200, "max_epochs": 30, "random_state": 0,
        "precision": "float32", "verbose": False,
    }  # fmt: skip
    with pytest.warns(UserWarning, match=r"memorised the 2,000 training signals.*fit_stream"):
        ResidualMLPClassifier(**parameters).fit(X, y)  # random labels can only be memorised
    ResidualMLPClassifier(**parameters).fit(X, y, X_val=X, y_val=y)
    ResidualMLPClassifier(**parameters | {"max_epochs": 2}).fit(X, y)


@pytest.mark.parametrize("network", ["cnn", "residual-mlp", torch.nn.Linear(1, 4)])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.filterwarnings("ignore:the layout of the:UserWarning")
def test_one_column(train, network, constant):
    X, y = train[0][:300, :1], train[1][:300]
    X = np.ones_like(X) if constant else X
    unknown = {"protocol": "auto"} if network == "cnn" else {}
    model = quick(network, **unknown).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.slow
def test_forward_selection_of_columns(train):
    model = ResidualMLPClassifier.from_recipe(max_epochs=2, random_state=0, verbose=False)
    selector = SequentialFeatureSelector(model, n_features_to_select=2, cv=2)
    selector.fit(train[0][:300, ::16], train[1][:300])
    assert selector.get_support().sum() == 2


def normalised_module():
    return torch.nn.Sequential(
        torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4)
    )


@pytest.mark.parametrize(("n", "batch_size"), [(33, 16), (33, 32), (17, 16), (17, 2)])
def test_the_last_batch_is_no_single_signal_for_batch_normalisation(train, n, batch_size):
    model = quick(normalised_module(), batch_size=batch_size)
    model.fit(train[0][:n], train[1][:n])
    model.partial_fit(train[0][:n], train[1][:n])
    assert model.predict(train[0][:1]).shape == (1,)


def test_batch_normalisation_of_single_signals_is_an_error(train):
    model = quick(normalised_module())
    with pytest.raises(ValueError, match="at least two signals per batch.*batch_size=1"):
        clone(model).set_params(batch_size=1).fit(*train)
    model.partial_fit(*train)
    with pytest.raises(ValueError, match="at least two signals per batch; got 1 signal"):
        model.partial_fit(train[0][:1], train[1][:1])


def test_a_module_that_drops_the_axis_of_single_signals_is_refused(train):
    class Squeezed(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).squeeze()

    with pytest.raises(ValueError, match=r"\(1, 64\) to outputs of shape \(1, 4\)"):
        quick(Squeezed(64, 4)).fit(*train)


def test_a_module_in_double_precision_is_trained_in_single_precision(train):
    module = torch.nn.Linear(64, 4)
    expected = quick(module).fit(*train).predict_proba(train[0][:5])
    found = quick(copy.deepcopy(module).double()).fit(*train).predict_proba(train[0][:5])
    np.testing.assert_array_equal(found, expected)
