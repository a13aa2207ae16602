"""Export to ONNX."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from corrsk import (
    AcquisitionProtocol,
    CorrelationCNNClassifier,
    NoSignalWarning,
    ProtocolAligner,
    ResidualMLPClassifier,
    SignalNormalizer,
    SimulationTrainedClassifier,
    load_pretrained,
    make_correlation_signals,
    to_onnx,
)
from tests._helpers import make_classifier

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def signals():
    return make_correlation_signals(300, random_state=0, verbose=False)


def answers(path, X):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"signals": X})[0], session


def assert_unusable_signals_have_no_answer(path, model, X):
    X = np.array(X[:6], np.float32)
    X[1] = 0
    X[2, 3], X[3, 0], X[4, -1] = np.nan, np.inf, -np.inf
    found, _ = answers(path, X)
    assert np.isnan(found[1:5]).all()
    with pytest.warns(NoSignalWarning):
        expected = model.predict_proba(X[[0, 1, 5]])
    np.testing.assert_allclose(found[[0, 1, 5]], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input_scaling": None, "dropout": 0.3},
        {"network": "residual-mlp", "input_scaling": "half-whiten", "width": 16},
        {"grid_shape": (4, 16)},  # padded
    ],
)
def test_onnx_runtime_gives_the_same_probabilities(signals, changes, tmp_path):
    X, y = signals
    options = {"max_epochs": 1, "random_state": 0, "verbose": False, **changes}
    model = make_classifier(**options).fit(X, y)
    path = tmp_path / "model.onnx"
    model.to_onnx(path)
    for n in (1, 7, 300):  # any number of signals
        found, session = answers(path, X[:n])
        np.testing.assert_allclose(found, model.predict_proba(X[:n]), atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == [1, 2, 3, 4]
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    np.testing.assert_array_equal(  # the model is unchanged
        model.predict_proba(X), make_classifier(**options).fit(X, y).predict_proba(X)
    )


@pytest.mark.slow
def test_columns_keep_the_order_of_fit(signals, tmp_path):
    X, y = signals
    protocol = AcquisitionProtocol.named("ir-se-8x8")
    frame = pd.DataFrame(X, columns=protocol.feature_names).iloc[:, ::-1]
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False
    ).fit(frame, y)
    model.to_onnx(tmp_path / "model.onnx")
    found, _ = answers(tmp_path / "model.onnx", np.ascontiguousarray(X[:, ::-1]))
    np.testing.assert_allclose(found, model.predict_proba(frame), atol=1e-5)


@pytest.mark.slow
def test_a_shipped_model_can_be_exported(signals, tmp_path):
    model = load_pretrained("midl2024")
    model[-1].to_onnx(tmp_path / "model.onnx")
    found, _ = answers(tmp_path / "model.onnx", signals[0])
    np.testing.assert_allclose(found, model.predict_proba(signals[0]), atol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "rms", "max", None])
def test_a_pipeline_is_exported_as_a_whole(signals, norm, tmp_path):
    X, y = signals
    grid = AcquisitionProtocol.named("ir-se-8x8")
    order = np.random.default_rng(0).permutation(64)
    measured = AcquisitionProtocol(ti=grid.ti[order], te=grid.te[order])
    model = make_pipeline(
        ProtocolAligner(measured_protocol=measured), "passthrough", SignalNormalizer(norm),
        CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False),
    )  # fmt: skip
    X = X[:, order]
    model.fit(X, y)
    path = tmp_path / "model.onnx"
    to_onnx(model, path)
    X = X.astype(np.float32)
    given = np.concatenate([1e15 * X[:50], X[50:100]]) if norm else X[:100]  # any scale
    found, session = answers(path, given)
    np.testing.assert_allclose(found, model.predict_proba(X[:100]), atol=1e-5)
    assert_unusable_signals_have_no_answer(path, model, X)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["columns"]) == measured.feature_names
    assert json.loads(metadata["classes"]) == [1, 2, 3, 4]


def test_a_model_of_magnitudes_is_exported_with_the_absolute_values(signals, tmp_path):
    X, _ = signals
    model = SimulationTrainedClassifier(
        noise_distribution="rician", n_samples=400, n_validation=20, novelty=False,
        network=ResidualMLPClassifier(width=8, n_blocks=1, max_epochs=1),
        random_state=0, verbose=False,
    ).fit()  # fmt: skip
    to_onnx(model, tmp_path / "model.onnx")
    for scale in (1, -1000):
        found, _ = answers(tmp_path / "model.onnx", (scale * X).astype(np.float32))
        np.testing.assert_allclose(found, model.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("network", ["cnn", "residual-mlp"])
def test_signals_without_an_answer(signals, network, tmp_path):
    X, y = signals
    model = make_classifier(network=network, max_epochs=1, random_state=0, verbose=False).fit(X, y)
    model.to_onnx(tmp_path / "model.onnx")
    assert_unusable_signals_have_no_answer(tmp_path / "model.onnx", model, X)


def test_the_export_of_a_model_for_unit_m0_warns(tmp_path):
    X, y = make_correlation_signals(300, random_state=0, norm=None, verbose=False)
    model = make_pipeline(
        ProtocolAligner(norm=None),
        CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False),
    ).fit(X, y)
    with pytest.warns(UserWarning, match="M0 = 1, which the file does not check"):
        to_onnx(model, tmp_path / "model.onnx")
    found, _ = answers(tmp_path / "model.onnx", X.astype(np.float32))
    np.testing.assert_allclose(found, model.predict_proba(X.astype(np.float32)), atol=1e-5)


def test_other_pipelines_are_not_exported(signals, tmp_path):
    cnn = CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, verbose=False)
    model = make_pipeline(StandardScaler(), cnn).fit(*signals)
    with pytest.raises(TypeError, match="not StandardScaler"):
        to_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(TypeError, match="network classifier.*SignalNormalizer"):
        to_onnx(SignalNormalizer(), tmp_path / "model.onnx")
    with pytest.raises(NotFittedError):
        to_onnx(make_pipeline(SignalNormalizer(), cnn), tmp_path / "model.onnx")


def test_a_failed_export_leaves_no_file(signals, tmp_path, monkeypatch):
    model = CorrelationCNNClassifier(protocol="ir-se-8x8", max_epochs=1, verbose=False)
    with pytest.raises(NotFittedError):
        model.to_onnx(tmp_path / "model.onnx")
    model.fit(*signals)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        model.to_onnx(tmp_path / "nowhere" / "model.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(ImportError, match=r"pip install 'corrsk\[onnx\]'"):
        model.to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
