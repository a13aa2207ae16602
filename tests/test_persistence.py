"""Saving and loading of estimators."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    CorrelationSignalGenerator,
    ModuleClassifier,
    ResidualMLPClassifier,
    SignalNormalizer,
    SignalNoveltyDetector,
    TissuePrior,
    load,
    save,
)


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


def test_the_file_can_be_inspected(pipeline, tmp_path):
    save(pipeline, tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["correlationcnnclassifier.network.fc3.weight"].shape == (4, 32)


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
    with pytest.raises(TypeError, match="cannot save a LogisticRegression"):
        save(LogisticRegression().fit([[0], [1]], [0, 1]), path)
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
    model = CorrelationCNNClassifier(max_epochs=1, random_state=0, input_scaling=scaling)
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
    model = CorrelationCNNClassifier(max_epochs=1, random_state=0, verbose=False)
    with config_context(enable_metadata_routing=True):
        model.set_predict_proba_request(class_prior=True).set_fit_request(X_val=True)
        save(model.fit(X, tissue[1]), tmp_path / "model.safetensors")
        again = load(tmp_path / "model.safetensors")
        routing = again.get_metadata_routing()
    assert routing.predict_proba.requests == {"class_prior": True}
    assert routing.fit.requests["X_val"] is True


def test_a_module_of_the_user_cannot_be_saved(tissue, tmp_path):
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])
    model = ModuleClassifier(torch.nn.Linear(64, 4), max_epochs=1, verbose=False)
    with pytest.raises(TypeError, match="cannot save a ModuleClassifier"):
        save(model.fit(X, tissue[1]), tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


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


def test_a_saved_novelty_detector_loads_unchanged(tissue, tmp_path):
    X = CorrelationSignalGenerator(random_state=0).fit_transform(tissue[0])
    detector = SignalNoveltyDetector(n_clusters=2, random_state=0, verbose=False).fit(X)
    save(detector, tmp_path / "detector.safetensors")
    again = load(tmp_path / "detector.safetensors")
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))
    np.testing.assert_array_equal(again.predict(X), detector.predict(X))
    pd.testing.assert_frame_equal(again.explain(X), detector.explain(X))
