"""Saving and loading of estimators."""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn import config_context
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EarlyStopping

import corrsk
from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    EchoTrain,
    IdealObserverClassifier,
    ModuleClassifier,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    Nuisances,
    PropertyRange,
    ProtocolAligner,
    ResidualMLPClassifier,
    SignalNormalizer,
    SignalNoveltyDetector,
    SNRRange,
    TissuePrior,
    load,
    make_correlation_signals,
    save,
)
from corrsk.baselines import make_baseline
from corrsk.physics import SliceProfile


@pytest.fixture(scope="module")
def tissue():
    return TissuePrior.named("midl2024").sample(300, random_state=0)


@pytest.fixture(scope="module")
def pipeline(tissue):
    protocol = AcquisitionProtocol.from_grid(ti=[50, 200, 800], te=[5, 20, 60, 90], tr=9000)
    return make_pipeline(
        CorrelationSignalGenerator(protocol, random_state=0),
        SignalNormalizer("max"),
        CorrelationCNNClassifier(
            protocol=protocol, max_epochs=2, random_state=0, class_weight={1: 2, 2: 1, 3: 1, 4: 1}
        ),
    ).fit(*tissue)


def test_a_saved_pipeline_loads_unchanged(pipeline, tissue, tmp_path):
    save(pipeline, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict_proba(tissue[0]), pipeline.predict_proba(tissue[0]))
    assert repr(again.get_params()) == repr(pipeline.get_params())
    assert again[0].protocol == pipeline[0].protocol
    assert again[-1].history_ == pipeline[-1].history_
    assert again[-1].classes_.dtype == pipeline[-1].classes_.dtype
    np.testing.assert_array_equal(again[0].feature_names_in_, pipeline[0].feature_names_in_)
    again.fit(*tissue)  # the loaded model can be trained again


@pytest.mark.parametrize(
    "estimator",
    [
        StandardScaler(),
        LogisticRegression(max_iter=1000),
        LinearDiscriminantAnalysis(),
        LinearDiscriminantAnalysis(n_components=1),
        LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto"),
    ],
)
def test_scikit_learn_estimators_keep_all_methods(estimator, tmp_path):
    X, y = make_correlation_signals(200, random_state=0, verbose=False)
    fitted = clone(estimator).fit(X, y)
    save(fitted, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert vars(again).keys() == vars(fitted).keys()
    for method in ("transform", "predict_proba", "decision_function"):
        if hasattr(fitted, method):
            expected = getattr(fitted, method)(X)
            np.testing.assert_array_equal(getattr(again, method)(X), expected)
    if hasattr(fitted, "get_feature_names_out"):
        expected = fitted.get_feature_names_out()
        np.testing.assert_array_equal(again.get_feature_names_out(), expected)


def test_settings_of_a_pipeline_are_saved(tissue, tmp_path):
    path = tmp_path / "model.safetensors"
    pipeline = make_pipeline(
        CorrelationSignalGenerator(
            AcquisitionProtocol.from_grid(ti=[50, 200, 800], te=np.arange(10, 130, 10)),
            random_state=0,
        ),
        "passthrough",
        CorrelationCNNClassifier(max_epochs=1, random_state=0),
        transform_input=["X_val"],
    ).set_output(transform="pandas")
    with config_context(enable_metadata_routing=True):
        pipeline[-1].set_fit_request(X_val=True, y_val=True)
        pipeline.fit(*tissue)
        save(pipeline, path)
        again = load(path)
        again.fit(*tissue, X_val=tissue[0], y_val=tissue[1])
    assert isinstance(again[0].transform(tissue[0]), pd.DataFrame)
    assert again[-1].grid_shape_ == pipeline[-1].grid_shape_ == (3, 12)
    assert again.transform_input == ["X_val"]
    assert again[-1].best_epoch_ == 1


@pytest.mark.parametrize("labels", [["a", "b", "c", "d"], [1.0, 2.0, 3.0, 4.0]])
def test_labels_and_names_are_saved(labels, tissue, tmp_path):
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(300, 36)))
    X.columns = [f"m{i}" for i in range(36)]
    y = np.array(labels)[tissue[1] - 1]
    model = CorrelationCNNClassifier(
        grid_shape=(6, 6), max_epochs=1, random_state=0, input_scaling=None
    ).fit(X, y)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.predict(X).dtype == y.dtype


def test_protocols_and_priors_of_stated_units_are_saved(tmp_path):
    rock = AcquisitionProtocol(ti=[0.1, 15, np.inf], te=[0.05, 2, 0.1], tr=[40, 50, 60], units="ms")
    prior = TissuePrior(
        {"T1": PropertyRange(0.5, 9, units="ms"), "T2": PropertyRange(0.1, 3, units="ms")},
        n_compartments=(1, 2),
    )
    aligner = ProtocolAligner(rock, prior=prior).fit(np.ones((2, 3)))
    save(aligner, tmp_path / "aligner")
    loaded = load(tmp_path / "aligner")
    assert loaded.protocol == rock
    assert loaded.prior == prior
    with safe_open(tmp_path / "aligner", "np") as file:
        assert "Infinity" not in "".join(file.metadata().values())


def test_echo_trains_series_and_nuisances_are_saved(tmp_path):
    train = EchoTrain(10.0, 150.0, profile=SliceProfile(0.99, 1.65, 1.96, 46.0))
    echoes = AcquisitionProtocol(te=[30, 10, 20], tr=3000, readout=train)
    inversion = AcquisitionProtocol(ti=[900, 50, 300], te=10, tr=9000)
    protocol = AcquisitionProtocol.concatenate([echoes, inversion], same_gain=False)
    prior = TissuePrior.named(
        "t1t2-detr",
        nuisances=Nuisances(
            inversion_efficiency=(0.8, 1.0), b1=(0.8, 1.1), offset=0.01, gain=(0.5, 2.0)
        ),
    )
    tissue, n_c = prior.sample(300, random_state=0)
    noise = SNRRange(20, 1000, scale="log")
    pipeline = make_pipeline(
        CorrelationSignalGenerator(protocol, noise, "max", "rician", random_state=0, verbose=False),
        ProtocolAligner(
            protocol, prior=prior, noise_level=noise, noise_reference="max",
            noise_distribution="rician",
        ),
        SignalNormalizer(),
        ResidualMLPClassifier(width=8, n_blocks=1, max_epochs=1, random_state=0, verbose=False),
    ).fit(tissue, n_c)  # fmt: skip
    save(pipeline, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict_proba(tissue), pipeline.predict_proba(tissue))
    generator, aligner = again[0], again[1]
    assert generator.protocol == aligner.protocol == protocol
    assert generator.protocol.feature_names == protocol.feature_names
    assert generator.protocol.readout == (train,) * 3 + (None,) * 3
    np.testing.assert_array_equal(generator.protocol.series, [0] * 3 + [1] * 3)
    assert generator.noise_level == aligner.noise_level == noise
    assert aligner.prior == prior
    assert aligner.prior.nuisances == prior.nuisances


def test_the_file_can_be_inspected(pipeline, tmp_path):
    save(pipeline, tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["correlationcnnclassifier.network.fc3.weight"].shape == (4, 32)
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        content = json.loads(file.metadata()["corrsk-estimator"])
    assert content["corrsk"] == corrsk.__version__
    assert content["libraries"]["numpy"] == np.__version__
    assert content["libraries"]["torch"] == version("torch")


def test_a_model_trained_on_a_gpu_loads_on_the_processor(tissue, pipeline, tmp_path):
    path = tmp_path / "model.safetensors"
    pipeline[-1].set_params(device="cuda:77")
    save(pipeline, path)
    pipeline[-1].set_params(device="auto")
    assert load(path).predict(tissue[0]).shape == (300,)


def test_unsupported_objects_are_not_saved(tissue, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(NotFittedError):
        save(CorrelationCNNClassifier(), path)
    with pytest.raises(TypeError, match="cannot save a GaussianNB"):
        save(GaussianNB().fit([[0], [1]], [0, 1]), path)
    generator = CorrelationSignalGenerator(random_state=np.random.default_rng(0)).fit(tissue[0])
    with pytest.raises(TypeError, match="random_state.*use an integer"):
        save(generator, path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="no folder .*absent"):
        save(CorrelationSignalGenerator(random_state=0).fit(tissue[0]), tmp_path / "absent" / "m")


def test_bad_files(pipeline, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError):
        load(path)
    for content in (b"", b"a shopping list", b"\x80\x04K\x05."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not an estimator saved by corrsk"):
            load(path)
    save_file({"x": np.zeros(2)}, path)
    with pytest.raises(ValueError, match="not an estimator saved by corrsk"):
        load(path)
    newer = {"format": "corrsk-estimator", "version": 99, "corrsk": "9.9", "estimator": {}}
    save_file({"x": np.zeros(2)}, path, metadata={"corrsk-estimator": json.dumps(newer)})
    with pytest.raises(ValueError, match=r"corrsk 9\.9.*update corrsk"):
        load(path)
    save(pipeline, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not an estimator saved by corrsk"):
        load(path)


@pytest.mark.parametrize("standardize", [True, False])
def test_files_of_the_first_version_are_read(tissue, tmp_path, standardize):
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])
    scaling = "standardize" if standardize else None
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, random_state=0, input_scaling=scaling
    )
    save(model.fit(X, tissue[1]), tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="np") as file:
        content = json.loads(file.metadata()["corrsk-estimator"])
    estimator, new = content["estimator"], ("network", "width", "n_blocks", "precision")
    estimator["parameters"] = {
        key: value
        for key, value in estimator["parameters"].items()
        if key not in (*new, "input_scaling")
    } | {"standardize": standardize}
    for name in ("class_count_", "class_prior_"):
        del estimator["fitted"][name]
    old = tmp_path / "old.safetensors"
    save_file(
        load_file(tmp_path / "new.safetensors"), old,
        metadata={"corrsk-estimator": json.dumps(content | {"version": 1})},
    )  # fmt: skip
    again = load(old)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    with pytest.raises(ValueError, match="older version"):
        again.predict_proba(X, class_prior=[1, 1, 1, 1])
    with pytest.raises(ValueError, match="older version"):
        again.partial_fit(X, tissue[1])


def test_metadata_requests_of_all_methods_are_saved(tissue, tmp_path):
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False
    )
    with config_context(enable_metadata_routing=True):
        model.set_predict_proba_request(class_prior=True).set_fit_request(X_val=True)
        model.set_predict_log_proba_request(class_prior=True)
        save(model.fit(X, tissue[1]), tmp_path / "model.safetensors")
        again = load(tmp_path / "model.safetensors")
        routing = again.get_metadata_routing()
    assert routing.predict_proba.requests == {"class_prior": True}
    assert routing.predict_log_proba.requests == {"class_prior": True}
    assert routing.fit.requests["X_val"] is True


class Hidden(torch.nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.first, self.last = torch.nn.Linear(64, hidden), torch.nn.Linear(hidden, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


@pytest.mark.parametrize(
    ("module", "arguments", "given"),
    [
        (Hidden(), {}, Hidden()),
        (Hidden, {"module__hidden": 5}, Hidden),
        (Hidden(6), {"input_scaling": None}, lambda: Hidden(6)),
        (None, {}, None),
    ],
)
def test_weights_of_a_module_are_saved_without_its_code(tissue, tmp_path, module, arguments, given):
    path = tmp_path / "model.safetensors"
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])
    own = ModuleClassifier(module, max_epochs=1, random_state=0, verbose=False, **arguments)
    model = make_pipeline(SignalNormalizer(), own).fit(X, tissue[1])
    save(model, path)
    again = load(path, module=given)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    if given is None:
        return
    with pytest.raises(ValueError, match=r"weights of the module .*test_estimators\.Hidden"):
        load(path)
    with pytest.raises(ValueError, match="do not match the network"):
        load(path, module=torch.nn.Linear(64, 4))


def test_load_refuses_a_superfluous_module(pipeline, tmp_path):
    save(pipeline, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has none"):
        load(tmp_path / "model.safetensors", module=Hidden)


@pytest.mark.parametrize(
    "model",
    [
        CorrelationCNNClassifier(protocol="ir-se-8x8", random_state=0, verbose=False),
        CorrelationCNNClassifier(
            protocol="ir-se-8x8", optimizer="sgd", learning_rate=0.1, random_state=0, verbose=False
        ),
        ResidualMLPClassifier(width=8, n_blocks=2, random_state=0, verbose=False),
        ModuleClassifier(Hidden, random_state=0, verbose=False),
    ],
    ids=["adamw", "sgd", "muon", "module"],
)
@pytest.mark.parametrize("half_precision", [False, True])
def test_partial_fit_continues_after_loading(tissue, tmp_path, model, half_precision):
    X, y = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0]), tissue[1]
    model = clone(model).partial_fit(X, y).partial_fit(X, y)
    save(model, tmp_path / "model.safetensors", half_precision=half_precision)
    module = Hidden if isinstance(model, ModuleClassifier) else None
    again = load(tmp_path / "model.safetensors", module=module)
    before = again.predict_proba(X)
    np.testing.assert_allclose(before, model.predict_proba(X), atol=0.02 if half_precision else 0)
    found, expected = again.partial_fit(X, y), model.partial_fit(X, y)
    atol = 0.02 if half_precision else 0
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=atol)
    assert not np.array_equal(found.predict_proba(X), before)


def test_a_fit_stores_no_optimiser(pipeline, tmp_path):
    save(pipeline, tmp_path / "model.safetensors")
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "optimizer" in name]


def test_classifiers_with_many_classes_are_saved(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 36)), np.arange(200) % 20
    model = CorrelationCNNClassifier((6, 6), max_epochs=1, random_state=0, verbose=False).fit(X, y)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(again.class_prior_, model.class_prior_)


def test_callbacks_are_not_saved(tissue, tmp_path):
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8",
        max_epochs=1,
        random_state=0,
        verbose=False,
        callbacks=[EarlyStopping("train_loss")],
    ).fit(X, tissue[1])
    with pytest.warns(UserWarning, match="callbacks .* not saved"):
        save(model, tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").callbacks is None


@pytest.mark.parametrize("labels", [(1, 2, 3, 4), ("1", "2", "3", "4")])
@pytest.mark.parametrize(
    "model",
    [
        MultiExponentialClassifier(
            "ir-se-8x8", n_starts=2, max_steps=3, random_state=0, verbose=False
        ),
        NNLSPeakClassifier("ir-se-8x8", n_bins=5, regularization=1e-3, verbose=False),
        IdealObserverClassifier(
            protocol="ir-se-8x8",
            noise_level=0.1,
            n_particles=64,
            n_runs=2,
            random_state=0,
            verbose=False,
        ),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_model_based_classifiers_are_saved(tissue, tmp_path, model, labels):
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    X = CorrelationSignalGenerator(protocol, random_state=0).fit_transform(tissue[0])
    X = pd.DataFrame(X[:20], columns=protocol.feature_names)
    y = np.array(labels)[tissue[1][:20] - 1]
    assert len(np.unique(y)) == 4
    model = clone(model).fit(X, y)
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.classes_.tolist() == model.classes_.tolist()
    assert again.protocol_ == model.protocol_
    assert again.feature_names_in_.tolist() == protocol.feature_names


def test_a_model_without_a_seed_is_not_saved(tissue, tmp_path):
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])
    model = MultiExponentialClassifier("ir-se-8x8", verbose=False).fit(X, tissue[1])
    with pytest.raises(ValueError, match="integer random_state"):
        save(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["logistic", "lda"])
def test_linear_baselines_are_saved(tissue, tmp_path, name):
    X = CorrelationSignalGenerator(noise_level=0.05, random_state=0).fit_transform(tissue[0])
    model = make_baseline(name, random_state=0).fit(X, tissue[1])
    save(model, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        load(tmp_path / "model.safetensors").predict_proba(X), model.predict_proba(X)
    )


def test_other_learners_point_to_joblib_and_their_own_formats(tissue, tmp_path):
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])
    model = make_pipeline(SignalNormalizer(), GaussianNB()).fit(X, tissue[1])
    with pytest.raises(TypeError, match=r"a GaussianNB; .*joblib\.dump.*their own formats"):
        save(model, tmp_path / "model.safetensors")


def test_a_saved_residual_mlp_loads_unchanged(tissue, tmp_path):
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])
    model = ResidualMLPClassifier.from_recipe(
        "residual-mlp", max_epochs=1, width=16, n_blocks=2, random_state=0, verbose=False
    ).fit(X, tissue[1])
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    prior = [0.7, 0.1, 0.1, 0.1]
    np.testing.assert_array_equal(
        again.predict_proba(X, class_prior=prior), model.predict_proba(X, class_prior=prior)
    )


@pytest.mark.parametrize("n_samples", [20, 300])  # the arrays of few signals are empty
def test_a_saved_novelty_detector_loads_unchanged(tissue, tmp_path, n_samples):
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])[:n_samples]
    detector = SignalNoveltyDetector(n_clusters=2, random_state=0, verbose=False).fit(X)
    save(detector, tmp_path / "detector.safetensors")
    again = load(tmp_path / "detector.safetensors")
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))
    np.testing.assert_array_equal(again.predict(X), detector.predict(X))
    pd.testing.assert_frame_equal(again.explain(X), detector.explain(X))


GRID = AcquisitionProtocol.from_grid(ti=[50, 200, 800], te=np.arange(10, 80, 10))
_ORDER = np.random.default_rng(0).permutation(21)
SCAN = AcquisitionProtocol({"TI": GRID.ti[_ORDER], "TE": GRID.te[_ORDER]})


def as_written_by_version_3(path, **fitted):
    """Turn a file into that of version 3, whose fitted protocols were in grid order."""
    with safe_open(path, framework="np") as file:
        content = json.loads(file.metadata()["corrsk-estimator"])
    content["version"] = 3
    del content["estimator"]["fitted"]["protocol_"]
    content["estimator"]["fitted"].pop("layout_", None)
    content["estimator"]["fitted"] |= fitted
    save_file(load_file(path), path, metadata={"corrsk-estimator": json.dumps(content)})


def stored(protocol):
    plain = protocol.to_dict()
    return {"protocol": plain["contrasts"], "tr": plain["tr"]}


def test_files_of_version_3_keep_their_order_of_columns(tissue, tmp_path):
    path = tmp_path / "old.safetensors"
    settings = {"noise_level": 0.02, "random_state": 0}
    save(CorrelationSignalGenerator(SCAN, **settings).fit(tissue[0]), path)
    in_own_order = load(path).transform(tissue[0])
    as_written_by_version_3(path, protocol_=stored(GRID))
    old = load(path)
    expected = CorrelationSignalGenerator(GRID, **settings).fit(tissue[0]).transform(tissue[0])
    np.testing.assert_array_equal(old.transform(tissue[0]), expected)  # in grid order, as then
    np.testing.assert_array_equal(SCAN.to_grid(in_own_order), expected)
    np.testing.assert_array_equal(  # the same after a new fit
        clone(old).fit_transform(tissue[0]),
        CorrelationSignalGenerator(GRID, **settings).fit_transform(tissue[0]),
    )
    X = expected
    scanned = SCAN.to_scan_order(X)
    save(ProtocolAligner(SCAN).fit(scanned), path)
    np.testing.assert_array_equal(load(path).transform(scanned), scanned)
    order = {"array": list(range(21)), "dtype": "<i8"}
    as_written_by_version_3(
        path, protocol_=stored(GRID), measured_protocol_=stored(GRID), order_=order
    )
    old = load(path)
    np.testing.assert_array_equal(old.transform(X), X)
    named = pd.DataFrame(scanned, columns=SCAN.feature_names)
    np.testing.assert_array_equal(old.transform(named), X)
    np.testing.assert_array_equal(clone(old).fit(X).transform(X), X)


def test_the_order_of_columns_is_saved(tissue, tmp_path):
    path = tmp_path / "model.safetensors"
    pipeline = make_pipeline(
        CorrelationSignalGenerator(SCAN, random_state=0),
        CorrelationCNNClassifier(max_epochs=1, random_state=0, verbose=False),
    ).set_output(transform="pandas")
    save(pipeline.fit(*tissue), path)
    again = load(path)
    np.testing.assert_array_equal(again.predict_proba(tissue[0]), pipeline.predict_proba(tissue[0]))
    assert again[0].protocol_.feature_names == SCAN.feature_names
    assert again[-1].grid_shape_ == (3, 7)


def test_the_global_output_of_transformers_does_not_matter(tmp_path):
    X, y = make_correlation_signals(200, random_state=0)
    network = ResidualMLPClassifier(width=8, n_blocks=1, max_epochs=1, random_state=0)
    model = make_pipeline(SignalNormalizer(), network).fit(X, y)
    save(model, tmp_path / "arrays.safetensors")
    expected, named = model.predict_proba(X), clone(model)
    with config_context(transform_output="pandas"):  # warnings are errors
        loaded = load(tmp_path / "arrays.safetensors")
        np.testing.assert_array_equal(loaded.predict_proba(X), expected)
        # a model whose steps were fitted to named columns still passes them on
        save(named.fit(X, y), tmp_path / "names.safetensors")
        loaded = load(tmp_path / "names.safetensors")
        np.testing.assert_array_equal(loaded.predict_proba(X), named.predict_proba(X))


def test_a_chosen_output_is_kept(tmp_path):
    X, y = make_correlation_signals(200, random_state=0)
    network = ResidualMLPClassifier(width=8, n_blocks=1, max_epochs=1, random_state=0)
    model = make_pipeline(SignalNormalizer(), network).fit(X, y)
    model[0].set_output(transform="pandas")
    save(model, tmp_path / "model.safetensors")
    assert isinstance(load(tmp_path / "model.safetensors")[:1].transform(X), pd.DataFrame)
