"""Classifier trained by simulation: fit, measured signals, searches and files."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from torch import nn

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    ModuleClassifier,
    NoSignalWarning,
    PropertyRange,
    ProtocolMismatchError,
    ProtocolWarning,
    ResidualMLPClassifier,
    SignalNoveltyDetector,
    SimulationTrainedClassifier,
    SNRRange,
    TissuePrior,
    load,
    load_pretrained,
    make_correlation_signals,
    predict_multicompartment_proba,
    save,
)
from corrsk.neural.training.callbacks import EpochProgress
from corrsk.pretrained.models import COUNTS, MODELS
from corrsk.pretrained.store import SHIPPED_FOLDER
from corrsk.simulation import DatasetDefinition, dataset_definition, simulate_dataset

PROTOCOL = AcquisitionProtocol.from_grid(ti=[40, 150, 500, 1800], te=[8, 20, 50, 120], tr=6000)
PRIOR = TissuePrior(
    n_compartments=(1, 2, 3),
    ranges={
        "T1": PropertyRange(150, 4000, scale="log"),
        "T2": PropertyRange(10, 1000, scale="log"),
    },
)
DEFINITION = DatasetDefinition("mine", PRIOR, PROTOCOL, SNRRange(50, 200), "max")
SMALL = {
    "n_samples": 4000, "n_validation": 200, "random_state": 0, "verbose": False,
    "network": ResidualMLPClassifier(width=16, n_blocks=1, max_epochs=3, batch_size=200),
    "novelty": SignalNoveltyDetector(n_clusters=4),
}  # fmt: skip


def small(definition=DEFINITION, **changes):
    return SimulationTrainedClassifier.from_definition(definition, **SMALL | changes)


@pytest.fixture(scope="module")
def model():
    return small().fit()


@pytest.fixture(scope="module")
def measured():
    """Signals in the units of a scanner, and their counts."""
    data = simulate_dataset(replace(DEFINITION, norm=None), 300, random_state=9, verbose=False)
    return 1500 * data.data, data.target


# -- training -------------------------------------------------------------------------


def test_a_fit_needs_no_data(model):
    data = simulate_dataset(replace(DEFINITION, norm=None), 2000, random_state=9, verbose=False)
    X, n_c = 1500 * data.data, data.target
    assert model.classes_.tolist() == [1, 2, 3]
    assert model.n_features_in_ == 16
    assert is_classifier(model)
    assert model.score(X, n_c) > 0.39  # guessing: 0.33, and five standard errors of 0.011
    assert set(model.predict(X)) <= {1, 2, 3}


def test_a_seed_makes_a_fit_bit_identical(model, measured):
    X, _ = measured
    again = small(n_jobs=1).fit()
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(again.predict_novelty(X), model.predict_novelty(X))
    other = small(random_state=1, novelty=False).fit()
    assert (other.predict_proba(X) != model.predict_proba(X)).any()


def test_an_interrupted_fit_is_resumed(model, measured, tmp_path, monkeypatch):
    monkeypatch.setattr("corrsk.neural.training.checkpoint.INTERVAL", 0)
    on_epoch_end = EpochProgress.on_epoch_end
    epochs = []

    def interrupt(self, net, **kwargs):
        epochs.append(len(net.history))
        if epochs == [1, 2]:
            raise KeyboardInterrupt
        on_epoch_end(self, net, **kwargs)

    monkeypatch.setattr(EpochProgress, "on_epoch_end", interrupt)
    path = tmp_path / "mine.checkpoint"
    stopped = small(checkpoint=path)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    assert path.exists()
    with pytest.raises(NotFittedError):
        stopped.predict(measured[0])
    resumed = small(checkpoint=path).fit()
    assert epochs.count(1) == 1  # the first epoch was not repeated
    np.testing.assert_array_equal(
        resumed.predict_proba(measured[0]), model.predict_proba(measured[0])
    )


def test_signals_in_fit_are_compared_and_not_trained_on(model, measured):
    X, n_c = measured
    again = small(novelty=False).fit(X[:40], n_c[:40])
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    with pytest.raises(ValueError, match="15 features"):
        small().fit(X[:, :15], n_c)
    with pytest.raises(ValueError, match=r"not in the compartment counts of the prior: \[4\]"):
        small().fit(X, n_c + 1)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        small().fit(X, n_c[:-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": ResidualMLPClassifier(random_state=3)}, "network has random_state=3"),
        ({"network": ResidualMLPClassifier(checkpoint="x")}, "network has checkpoint='x'"),
        ({"network": ResidualMLPClassifier(warm_start=True)}, "network has warm_start=True"),
        ({"network": "resnet"}, "'network' parameter"),
        ({"prior": TissuePrior(ranges=PRIOR.ranges, n_compartments=(2,))}, "2 compartments only"),
        ({"prior": TissuePrior(ranges={"T1": PropertyRange(50, 60)})}, "no range for T2"),
        ({"checkpoint": "x", "random_state": None}, "a checkpoint needs an integer random_state"),
        ({"noise_level": -1.0}, "'noise_level' parameter"),
        ({"n_validation": 5}, "'n_validation' parameter"),
    ],
)
def test_parameters_that_cannot_be_right(changes, message):
    with pytest.raises(ValueError, match=message):
        small().set_params(**changes).fit()


def test_series_of_unknown_gain_are_not_taken_for_equal():
    series = [AcquisitionProtocol(ti=[50, 500], te=10), AcquisitionProtocol(ti=[50, 500], te=90)]
    joined = AcquisitionProtocol.concatenate(series, same_gain=False)
    with pytest.raises(ValueError, match="2 series, whose relative scale is unknown"):
        SimulationTrainedClassifier(joined, "t1t2-detr", 0.01).fit()


def test_a_definition_may_be_a_name():
    own = SimulationTrainedClassifier.from_definition("t1t2-detr")
    assert own.definition.noise_reference == dataset_definition("t1t2-detr").noise_reference
    with pytest.raises(ValueError, match="no-data"):
        SimulationTrainedClassifier.from_definition("no-data")


def test_other_networks(measured, tmp_path):
    X, _ = measured
    grid = small(
        novelty=False, network=CorrelationCNNClassifier(max_epochs=1, batch_size=500)
    ).fit()
    assert grid.predict(X.reshape(-1, 4, 4)).shape == (300,)
    own = small(novelty=False, network=ModuleClassifier(nn.Linear(16, 3), max_epochs=2)).fit()
    save(own, tmp_path / "own")
    again = load(tmp_path / "own", module=nn.Linear(16, 3))
    np.testing.assert_array_equal(again.predict_proba(X), own.predict_proba(X))


# -- measured signals -----------------------------------------------------------------


def test_signals_of_any_scale_and_order(model, measured):
    X, _ = measured
    expected = model.predict_proba(X)
    for scale in (1e-12, 1e-3, 1e6):
        np.testing.assert_allclose(model.predict_proba(X * scale), expected, atol=1e-4)
    order = np.random.default_rng(0).permutation(16)
    named = pd.DataFrame(X, columns=PROTOCOL.feature_names).iloc[:, order]
    np.testing.assert_array_equal(model.predict_proba(named), expected)
    scanned = AcquisitionProtocol(ti=PROTOCOL.ti[order], te=PROTOCOL.te[order], tr=6000)
    shuffled = named.to_numpy()
    np.testing.assert_array_equal(model.predict_proba(shuffled, protocol=scanned), expected)
    matched = model.matched_to(scanned)
    np.testing.assert_array_equal(matched.predict_proba(shuffled), expected)
    np.testing.assert_array_equal(
        model.predict_novelty(shuffled, protocol=scanned), model.predict_novelty(X)
    )
    np.testing.assert_array_equal(model.predict_proba(X), expected)  # the model is unchanged


def test_volumes_and_voxels_without_signal(model, measured):
    X, n_c = measured
    volume = X.reshape(5, 6, 10, 16).copy()
    volume[0, 0] = 0
    volume[1, 0, 0, 3] = np.nan
    dark = np.zeros((5, 6, 10), dtype=bool)
    dark[0, 0] = dark[1, 0, 0] = True
    for method in ("predict_proba", "predict_log_proba", "predict_multicompartment_proba",
                   "predict_novelty"):  # fmt: skip
        with pytest.warns(NoSignalWarning, match="11 of 300") as caught:
            found = getattr(model, method)(volume)
        assert len(caught) == 1
        rows = getattr(model, method)(X).reshape(found.shape)
        assert np.isnan(found[dark]).all()
        # products of other numbers of rows round differently on some processors
        np.testing.assert_allclose(found[~dark], rows[~dark], rtol=2e-3, atol=1e-6)
    with pytest.warns(NoSignalWarning):
        counts = model.predict(volume)
    np.testing.assert_array_equal(counts, np.where(dark, 0, model.predict(X).reshape(5, 6, 10)))
    with pytest.warns(NoSignalWarning):
        score = model.score(volume, n_c.reshape(5, 6, 10))
    assert score == pytest.approx(np.mean(counts.ravel() == n_c))


def test_another_class_prior(model, measured):
    X, _ = measured
    prior = np.array([0.7, 0.2, 0.1])
    expected = model.predict_proba(X) * prior
    expected /= expected.sum(axis=1, keepdims=True)
    found = model.predict_proba(X, class_prior={1: 7, 2: 2, 3: 1})
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        model.predict_multicompartment_proba(X, class_prior=prior), 1 - found[:, 0], atol=1e-6
    )
    np.testing.assert_array_equal(
        model.predict(X, class_prior=prior), model.classes_[found.argmax(axis=1)]
    )
    np.testing.assert_allclose(
        predict_multicompartment_proba(model, X), model.predict_multicompartment_proba(X)
    )
    with pytest.raises(ValueError, match="class"):
        model.predict(X, class_prior={1: 1, 2: 1})


def test_other_protocols_are_refused(model, measured):
    X, _ = measured
    other = AcquisitionProtocol(ti=1.2 * PROTOCOL.ti, te=PROTOCOL.te, tr=6000)
    with pytest.raises(ProtocolMismatchError, match="TI 48 in place of 40"):
        model.predict(pd.DataFrame(X, columns=other.feature_names))
    for method in (model.predict_proba, model.predict_novelty):
        with pytest.raises(ProtocolMismatchError, match="TI 48 in place of 40"):
            method(X, protocol=other)
    with pytest.raises(ProtocolMismatchError):
        model.matched_to(other)
    with pytest.raises(ValueError, match="15 features"):
        model.predict(X[:, :15])


def test_a_single_tr_is_compared(model, measured):
    X, _ = measured
    fast = AcquisitionProtocol(PROTOCOL.contrasts, tr=2000)
    assert not any("TR" in name for name in fast.feature_names)
    plain = pd.DataFrame(X, columns=PROTOCOL.feature_names)
    for table, protocol in (
        (X, fast), (plain, fast), (plain.add_suffix("_TR2000"), None),
        (plain.add_suffix("_TR2000"), fast),
    ):  # fmt: skip
        with pytest.raises(ProtocolMismatchError, match="TR 2000 ms in place of TR 6000 ms"):
            model.predict(table, protocol=protocol)
    expected = model.predict(X)
    np.testing.assert_array_equal(model.predict(plain.add_suffix("_TR6000")), expected)
    np.testing.assert_array_equal(model.predict(plain, protocol=PROTOCOL), expected)


def test_a_close_protocol_warns_with_its_cost(model, measured):
    X, _ = measured
    close = AcquisitionProtocol(ti=PROTOCOL.ti, te=PROTOCOL.te, tr=6100)
    with pytest.warns(ProtocolWarning, match="TR 6100 ms") as caught:
        found = model.predict(X, protocol=close)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(found, model.predict(X))
    with pytest.warns(ProtocolWarning, match="percentage points") as caught:
        matched = model.matched_to(close)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(matched.predict(X), found)  # without another warning


def test_complex_signals_are_refused(model, measured):
    X, _ = measured
    with pytest.raises(ValueError, match=r"complex.*phase.*noise_distribution='rician'"):
        model.predict(X.astype(complex))
    with pytest.raises(ValueError, match="complex"):
        model.predict(pd.DataFrame(X * 1j, columns=PROTOCOL.feature_names))


def test_a_model_of_magnitudes_takes_signed_signals_by_their_absolute_values(measured):
    X, _ = measured
    magnitudes = small(replace(DEFINITION, noise_distribution="rician")).fit()
    expected = magnitudes.predict_proba(np.abs(X))
    np.testing.assert_array_equal(magnitudes.predict_proba(X), expected)
    np.testing.assert_array_equal(
        magnitudes.predict_novelty(X), magnitudes.predict_novelty(np.abs(X))
    )
    with pytest.raises(ValueError, match=r"complex.*or pass np\.abs\(X\)"):
        magnitudes.predict(X.astype(complex))


def test_a_model_without_a_norm_refuses_signals_of_another_scale(measured):
    X, _ = measured
    known = small(replace(DEFINITION, norm=None), novelty=False).fit()
    known.predict(X / 1500)
    with pytest.raises(ValueError, match="with M0 = 1"):
        known.predict(X)


def test_a_model_without_a_detector(measured):
    X, _ = measured
    model = small(novelty=False).fit()
    assert model.novelty_ is None
    with pytest.raises(ValueError, match=r"fit_novelty\(\)"):
        model.predict_novelty(X)
    assert model.fit_novelty().predict_novelty(X).shape == (300,)


def test_the_p_values_are_uniform_on_signals_of_the_simulation(model):
    data = simulate_dataset(DEFINITION, 2000, random_state=11, verbose=False)
    p = model.predict_novelty(data.data)
    # calibrated on 2,000 signals: four standard errors of the difference of two shares
    for share in (0.1, 0.5):
        assert abs(np.mean(p < share) - share) < 4 * np.sqrt(share * (1 - share) / 1000)


# -- scikit-learn and files -------------------------------------------------------------


def test_searches_over_the_simulation(measured):
    X, n_c = measured
    grid = {"noise_level": [SNRRange(50, 200), SNRRange(2, 4)], "network__max_epochs": [3]}
    search = GridSearchCV(small(novelty=False), grid, cv=2, error_score="raise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the candidate with other noise
        search.fit(X, n_c)
    assert search.best_params_["noise_level"] == SNRRange(50, 200)
    assert search.best_estimator_.network.max_epochs == 3


def test_clones_and_nested_parameters(model):
    copied = clone(model)
    assert repr(copied) == repr(model)
    with pytest.raises(NotFittedError):
        copied.predict(np.ones((1, 16)))
    copied.set_params(network__width=8, novelty__n_clusters=2)
    assert (copied.network.width, model.network.width) == (8, 16)
    assert copied.novelty.n_clusters == 2


def test_one_file_has_the_whole_model(model, measured, tmp_path):
    X, _ = measured
    save(model, tmp_path / "mine.safetensors")
    loaded = load(tmp_path / "mine.safetensors")
    assert type(loaded) is SimulationTrainedClassifier
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(loaded.predict_novelty(X), model.predict_novelty(X))
    assert loaded.definition == model.definition
    assert repr(loaded) == repr(model)  # it can be fitted again
    other = AcquisitionProtocol(PROTOCOL.contrasts, tr=2000)
    with pytest.raises(ProtocolMismatchError):
        loaded.predict(X, protocol=other)


def test_a_network_that_was_fitted_before(measured):
    X, _ = measured
    data = simulate_dataset(DEFINITION, 1000, random_state=2, verbose=False)
    network = ResidualMLPClassifier(width=16, n_blocks=1, max_epochs=2, random_state=4)
    network.fit(data.data, data.target)
    model = SimulationTrainedClassifier.from_network(DEFINITION, network)
    assert model.random_state == 4
    assert replace(model.definition, name="mine") == DEFINITION
    normalised = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), network.predict_proba(normalised), atol=1e-5)
    with pytest.raises(NotFittedError):
        SimulationTrainedClassifier.from_network(DEFINITION, clone(network))


@pytest.mark.parametrize("name", [m.name for m in MODELS.values() if m.kind == COUNTS])
def test_shipped_models_are_of_the_same_kind_and_unchanged(name):
    model = load_pretrained(name)
    stored = load(SHIPPED_FOLDER / f"{name}.safetensors")
    assert type(model) is SimulationTrainedClassifier
    assert isinstance(stored, Pipeline | SimulationTrainedClassifier)  # files of two versions
    data = simulate_dataset(
        dataset_definition(name.removesuffix("-m0")), 200, random_state=3, verbose=False
    )
    np.testing.assert_array_equal(model.predict_proba(data.data), stored.predict_proba(data.data))
    np.testing.assert_array_equal(model.predict(data.data), stored.predict(data.data))
    assert (
        model.definition.resolved().to_dict()["prior"]
        == data.definition.resolved().to_dict()["prior"]
    )


def test_steps_of_the_model(model, measured):
    X, _ = measured
    assert type(model[-1]) is ResidualMLPClassifier
    np.testing.assert_array_equal(model[1:].predict_proba(X), model.predict_proba(X))
    with pytest.raises(NotFittedError):
        small()[0]


def test_default_signals_are_those_of_the_shipped_model():
    X, _ = make_correlation_signals(5, random_state=0)
    default = SimulationTrainedClassifier()
    shipped = load_pretrained("midl2024")
    assert default.definition.resolved() == replace(
        shipped.definition.resolved(), name=default.definition.name
    )
    assert shipped.predict(X).shape == (5,)


def test_the_coils_of_a_definition_are_kept():
    definition = replace(DEFINITION, noise_distribution="rician", n_coils=4)
    model = SimulationTrainedClassifier.from_definition(definition)
    assert model.definition.n_coils == 4
    assert model._fitted_aligner().n_coils == 4
