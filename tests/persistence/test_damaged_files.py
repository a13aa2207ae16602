"""Damaged, hostile and incomplete files of estimators."""

from __future__ import annotations

import json
import re
import resource
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from corrsk import (
    CorrelationCNNClassifier,
    IdealObserverClassifier,
    ResidualMLPClassifier,
    SignalNormalizer,
    SignalNoveltyDetector,
    load,
    make_correlation_signals,
    save,
)
from corrsk._utils.files import InvalidFileError
from corrsk.persistence._estimators import SAVED_CLASSES
from corrsk.persistence._files import _digests
from corrsk.persistence._fitted import fitted_names

ENTRY = "corrsk-estimator"


@pytest.fixture(scope="module")
def signals():
    return make_correlation_signals(200, random_state=0, verbose=False)


@pytest.fixture(scope="module")
def file(signals, tmp_path_factory):
    """File of a small network with its optimiser, behind a normaliser."""
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    network = ResidualMLPClassifier(width=4, n_blocks=1, random_state=0, verbose=False)
    model = make_pipeline(SignalNormalizer(), network).fit(*signals)
    model[-1].set_params(max_epochs=1).partial_fit(*signals)
    save(model, path)
    return path


def edited(source, target, edit, digests=True, version=None):
    """Copy a file with an edit of its estimator and tensors, and with true digests."""
    with safe_open(source, framework="np") as opened:
        content = json.loads(opened.metadata()[ENTRY])
    tensors = load_file(source)
    estimator = content["estimator"]
    network = estimator["steps"][-1][1] if "steps" in estimator else estimator
    edit(network, tensors)
    if version is not None:
        content["version"] = version
    text = json.dumps(content)
    metadata = {ENTRY: text}
    if digests:
        metadata["digests"] = json.dumps(_digests(text, tensors))
    save_file(tensors, target, metadata=metadata)
    return target


def test_every_flipped_bit_is_found(file, tmp_path):
    original = file.read_bytes()
    path = tmp_path / "damaged.safetensors"
    rng = np.random.default_rng(0)
    for position in rng.choice(len(original), 300, replace=False):
        content = bytearray(original)
        content[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        with pytest.raises(InvalidFileError, match=re.escape(str(path))):
            load(path)


def test_files_without_digests_are_those_of_earlier_versions(file, signals, tmp_path):
    def nothing(network, tensors):
        pass

    path = tmp_path / "old.safetensors"
    edited(file, path, nothing, digests=False, version=5)
    X = signals[0]
    np.testing.assert_array_equal(load(path).predict_proba(X), load(file).predict_proba(X))
    edited(file, path, nothing, digests=False)
    with pytest.raises(InvalidFileError, match="has no digests"):
        load(path)


def test_the_damaged_part_is_named(file, tmp_path):
    name = "residualmlpclassifier.network.head.bias"
    tensors = load_file(file)
    tensors[name] += 1
    with safe_open(file, framework="np") as opened:
        save_file(tensors, tmp_path / "m", metadata=opened.metadata())
    with pytest.raises(InvalidFileError, match=f"damaged: {name} differs from what was saved"):
        load(tmp_path / "m")


def put(*keys, value):
    """Edit of one entry of the encoded network."""

    def edit(network, tensors):
        *within, last = keys
        for key in within:
            network = network[key]
        network[last] = value

    return edit


def without(*keys):
    def edit(network, tensors):
        *within, last = keys
        for key in within:
            network = network[key]
        del network[last]

    return edit


def tensor(name, change):
    def edit(network, tensors):
        key = next(key for key in tensors if key.endswith(name))
        tensors[key] = np.ascontiguousarray(change(tensors[key]))

    return edit


def with_nan(values):
    return np.where(np.arange(values.size).reshape(values.shape) == 0, np.nan, values)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


EDITS = {
    "nan": (tensor("head.weight", with_nan), "head.weight is not finite"),
    "shape": (tensor("head.weight", lambda w: w[:, :-1]), "do not match the network"),
    "type": (tensor("head.weight", lambda w: w.astype(float)), "do not match the network"),
    "state": (tensor("optimizer/1", lambda w: w[:0]), "has the shape"),
    "state of NaN": (tensor("optimizer/1", with_nan), "is not finite"),
    "no state": (put("optimizer", value={"pairs": []}), "missing"),
    "odd state": (put("optimizer", value=[1, 2]), "is damaged"),
    "width": (put("parameters", "width", value=30000), "do not match the network"),
    "width of text": (put("parameters", "width", value="4"), "width"),
    "blocks": (put("parameters", "n_blocks", value=10**9), "not enough weights"),
    "features": (put("fitted", "n_features_in_", value=10**9), "do not match|features"),
    "huge number": (put("fitted", "n_features_in_", value=10**39), "is damaged"),
    "method": (put("fitted", "predict", value=5), "no fitted attribute 'predict'"),
    "private": (put("fitted", "__class__", value=5), "no fitted attribute"),
    "foreign": (put("fitted", "coef_", value=5), "no fitted attribute 'coef_'"),
    "order of classes": (
        put("fitted", "classes_", value={"array": [4, 3, 2, 1], "dtype": "<i8"}),
        "classes_ .* must be ascending and distinct",
    ),
    "same classes": (
        put("fitted", "classes_", value={"array": [1, 2, 2, 4], "dtype": "<i8"}),
        "classes_ .* must be ascending and distinct",
    ),
    "classes of other kinds": (
        put("fitted", "classes_", value={"array": [1, [2], 3, None], "dtype": "object"}),
        "damaged",
    ),
    "a fifth class": (
        put("fitted", "classes_", value={"array": [1, 2, 3, 4, 5], "dtype": "<i8"}), "damaged"
    ),
    "no classes": (without("fitted", "classes_"), "classes_"),
    "no features": (without("fitted", "n_features_in_"), "n_features_in_"),
    "prior": (
        put("fitted", "class_prior_", value={"array": [0.5, 0.5], "dtype": "<f8"}), "contradicts"
    ),
    "type of an array": (
        put("fitted", "class_prior_", value={"array": [], "dtype": "U99999999"}), "type 'U9"
    ),
    "layout": (put("fitted", "layout_", value={"tuple": [-8, 8]}), "layout_"),
    "protocol": (put("fitted", "protocol_", value=5), "protocol_"),
    "parameters": (put("parameters", value=[1]), "is damaged"),
    "unknown parameter": (put("parameters", "size", value=1), "size"),
    "class": (put("class", value="GaussianNB"), "GaussianNB"),
    "no class": (without("class"), "'class' is missing"),
    "nested": (put("parameters", "width", value=nested(900)), "is damaged"),
    "requests": (put("requests", value={"__init__": {"x": True}}), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_files_with_other_content_are_refused(file, tmp_path, name):
    edit, reason = EDITS[name]
    path = edited(file, tmp_path / "edited.safetensors", edit)
    with pytest.raises(InvalidFileError, match=reason) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is that of Linux")
def test_sizes_are_checked_before_memory_is_allocated(file, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = edited(file, tmp_path / "m", put("parameters", "width", value=30_000))
    with pytest.raises(InvalidFileError):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; 14 GB before


@pytest.mark.parametrize("version", [None, "9", 0, -1, True, 1.5, [1]])
def test_odd_versions_are_refused(file, tmp_path, version):
    text = json.dumps({"format": ENTRY, "corrsk": "1", "version": version, "estimator": {}})
    save_file({"x": np.zeros(2)}, tmp_path / "m", metadata={ENTRY: text})
    with pytest.raises(InvalidFileError, match="version of its format"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    "text", ["[" * 100_000 + "]" * 100_000, '{"version": 1' + "0" * 400 + "}", "[]", "null", ""]
)
def test_odd_headers_are_refused(tmp_path, text):
    save_file({"x": np.zeros(2)}, tmp_path / "m", metadata={ENTRY: text})
    with pytest.raises(InvalidFileError, match=re.escape(str(tmp_path / "m"))):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("model", "key"),
    [
        (LogisticRegression(), "coef_"),
        (SignalNoveltyDetector(n_clusters=1, random_state=0, verbose=False), "subspace_"),
    ],
)
def test_shapes_of_fitted_arrays_are_checked(signals, tmp_path, model, key):
    save(model.fit(*signals), tmp_path / "good")
    path = edited(tmp_path / "good", tmp_path / "m", tensor(key, lambda values: values[:, 1:]))
    with pytest.raises(InvalidFileError, match="contradicts"):
        load(path)
    path = edited(tmp_path / "good", tmp_path / "m", without("fitted", key))
    with pytest.raises(InvalidFileError, match=f"lacks the fitted attribute '{key}'"):
        load(path)


def test_a_protocol_of_unknown_units_is_refused(signals, tmp_path):
    model = IdealObserverClassifier(
        protocol="ir-se-8x8", noise_level=0.1, n_particles=64, n_runs=2, random_state=0
    )
    save(model.fit(*signals), tmp_path / "good")
    for value in ({"protocol": "x", "tr": None}, {"protocol": {"TI": [1], "TE": [1]}}, {"x": 1}):
        path = edited(tmp_path / "good", tmp_path / "m", put("fitted", "protocol_", value=value))
        with pytest.raises(InvalidFileError, match="is damaged"):
            load(path)


def test_a_wrong_class_of_weights_is_refused(signals, tmp_path):
    model = CorrelationCNNClassifier(
        protocol="ir-se-8x8", max_epochs=1, random_state=0, verbose=False
    )
    save(model.fit(*signals), tmp_path / "good")
    edit = put("fitted", "grid_shape_", value={"tuple": [10**6, 10**6]})
    with pytest.raises(InvalidFileError, match="do not match the network"):
        load(edited(tmp_path / "good", tmp_path / "m", edit))


def test_the_allowed_names_are_those_of_the_documentation():
    for name, cls in SAVED_CLASSES.items():
        if cls is FrozenEstimator:  # it has none of its own
            continue
        text = cls.__doc__.partition("Attributes\n")[2].partition("\n    Notes\n")[0]
        documented = set(re.findall(r"^    (\w+_) :", text, re.MULTILINE)) - {"net_"}
        documented = {
            each for each in documented if not isinstance(getattr(cls, each, None), property)
        }
        assert documented <= fitted_names(name), name


def test_two_files_of_one_estimator_are_equal(signals, tmp_path):
    model = make_pipeline(SignalNormalizer(), LogisticRegression()).fit(*signals)
    files = []
    for number in range(6):  # safetensors draws the order of the entries of its metadata
        save(model, tmp_path / f"{number}.safetensors")
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1
