"""Learners of scikit-learn that are stored by way of skops."""

from __future__ import annotations

import importlib.util
import json
import re

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from corrsk import InvalidFileError, ProtocolAligner, load, save
from corrsk._utils.files import parse_json
from corrsk.baselines import EncodedLabelsClassifier
from corrsk.persistence import _learners
from corrsk.persistence._files import _digests
from tests import fuzz

pytest.importorskip("skops")
ENTRY = "corrsk-estimator"


@pytest.fixture(scope="module")
def signals():
    return fuzz._signals()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of small learners."""
    folder = tmp_path_factory.mktemp("learners")
    for name in fuzz.LEARNERS:
        fuzz._write_learner(name)(folder / name)
    return folder


def edited(source, target, edit):
    """Copy a file of a pipeline with an edit of its learner, and with true digests."""
    with safe_open(source, framework="np") as file:
        content = json.loads(file.metadata()[ENTRY])
    tensors = load_file(source)
    learner = content["estimator"]["steps"][-1][1]
    learner = learner["parts"]["estimator_"] if "parts" in learner else learner
    edit(learner, tensors)
    text = json.dumps(content)
    metadata = {ENTRY: text, "digests": json.dumps(_digests(text, tensors))}
    save_file(tensors, target, metadata=metadata)
    return target


def attributes(learner):
    """Encoded attributes of a learner, a dictionary of nodes."""
    return learner["skops"]["content"]["content"]


def value(plain):
    return {
        "__class__": "str", "__module__": "builtins", "__loader__": "JsonNode",
        "content": json.dumps(plain), "is_json": True,
    }  # fmt: skip


@pytest.mark.parametrize("name", fuzz.LEARNERS)
def test_baselines_are_restored(signals, tmp_path, name):
    X, y = signals
    labels = np.array(["", "one", "two", "three", "four"])[y]  # not only numbers
    model = make_pipeline(ProtocolAligner("ir-se-8x8"), *fuzz.small_baseline(name)).fit(X, labels)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    for number, each in enumerate((model, model, again)):
        save(each[-1], tmp_path / str(number))
    assert len({(tmp_path / str(number)).read_bytes() for number in range(3)}) == 1
    assert again[0].protocol_ == model[0].protocol_
    again.fit(X, y)  # as the original


def test_two_classes_and_names_of_objects(signals, tmp_path):
    X, y = signals
    labels = np.array(["one", "more"], dtype=object)[(y > 1).astype(int)]
    for name in ("hist-gradient-boosting", "random-forest", "kernel-svm"):
        model = fuzz.small_baseline(name)
        save(model.fit(X, labels), tmp_path / "model")
        again = load(tmp_path / "model")
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
        assert again.classes_.dtype == object


def test_learners_within_others(signals, tmp_path):
    X, y = signals
    forest = RandomForestClassifier(n_estimators=2, max_depth=2, random_state=0)
    inside = EncodedLabelsClassifier(forest).fit(X, y + 2)
    for model in (FrozenEstimator(clone(forest).fit(X, y)), inside):
        save(model, tmp_path / "model")
        again = load(tmp_path / "model")
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert not hasattr(again.estimator, "estimators_")  # the parameter is not fitted
    np.testing.assert_array_equal(again.classes_, [3, 4, 5, 6])


def test_half_precision_is_for_networks(signals, tmp_path):
    X, y = signals
    model = KNeighborsClassifier(3, algorithm="brute").fit(X.astype(np.float32), y)
    save(model, tmp_path / "whole")
    save(model, tmp_path / "half", half_precision=True)
    assert (tmp_path / "half").read_bytes() == (tmp_path / "whole").read_bytes()


def test_parts_that_have_no_place_are_refused(signals, tmp_path):
    model = KNeighborsClassifier(3, algorithm="kd_tree").fit(*signals)
    with pytest.raises(TypeError, match="cannot save this KNeighborsClassifier: .*KDTree"):
        save(model, tmp_path / "model")
    forest = RandomForestClassifier(2, random_state=np.random.RandomState(0)).fit(*signals)
    with pytest.raises(TypeError, match=r"RandomForestClassifier: .*RandomState"):
        save(forest, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_the_extra_is_named_without_skops(files, signals, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "skops" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(ImportError, match=r"loading a KN.* needs skops: pip .*corrsk\[skops\]"):
        load(files / "knn")
    with pytest.raises(ImportError, match=r"saving a KN.* needs skops: pip .*corrsk\[skops\]"):
        save(fuzz.small_baseline("knn").fit(*signals), tmp_path / "model")


# -- hostile files -----------------------------------------------------------------------


def put(key, new):
    def edit(learner, tensors):
        attributes(learner)[key] = new
        attributes_of = learner["skops"]["content"]
        types = attributes_of["key_types"]["content"]
        types += [types[0]] * (len(attributes_of["content"]) - len(types))

    return edit


def node(loader, kind, **further):
    module, _, name = kind.rpartition(".")
    return {"__class__": name, "__module__": module, "__loader__": loader, **further}


HOSTILE_TYPES = {
    "function": node("FunctionNode", "os.system"),
    "partial": node("PartialNode", "functools.partial", content={}),
    "method": node("MethodNode", "builtins.str", content={"func": "format", "obj": value("x")}),
    "operator": node("OperatorFuncNode", "operator.attrgetter", attrs=value("x")),
    "type": node("TypeNode", "builtins.eval"),
    "call": node("ConstructorFromReduceNode", "builtins.exec", content=value("1")),
    "object": node("ObjectNode", "sklearn.pipeline.Pipeline"),
    "sparse": node("SparseMatrixNode", "scipy.sparse._csr.csr_matrix", type="scipy", file="x"),
    "other class": node("ObjectNode", "sklearn.naive_bayes.GaussianNB"),
    "loader of another type": node("TypeNode", "sklearn.tree._tree.Tree"),
    "unknown loader": node("NoNode", "builtins.str"),
    "old loader": node("CachedNode", "builtins.str"),
    "scalar of another type": node("NdArrayNode", "numpy.memmap", type="numpy", array=[1]),
}


@pytest.mark.parametrize("name", HOSTILE_TYPES)
def test_types_that_are_not_on_the_list_are_refused(files, tmp_path, name):
    path = edited(files / "random-forest", tmp_path / "m", put("verbose", HOSTILE_TYPES[name]))
    with pytest.raises(InvalidFileError, match=re.escape(str(path)) + ".*not one of the types"):
        load(path)


def tree_state(learner):
    """Encoded sizes and arrays of the first tree of a forest."""
    tree = attributes(learner)["estimators_"]["content"][0]
    return tree["content"]["content"]["tree_"]


def tree(key, new):
    """Edit of the state of the first tree."""

    def edit(learner, tensors):
        tree_state(learner)["content"]["content"][key] = new

    return edit


def nodes(change):
    """Edit of the nodes of the first tree."""

    def edit(learner, tensors):
        place = tree_state(learner)["content"]["content"]["nodes"]
        name = place["array"]["tensor"]
        found = _learners._decode_array(place, tensors).copy()
        change(found)
        tensors[name] = found.view(np.uint8).reshape(tensors[name].shape)

    return edit


def arguments(at, new):
    def edit(learner, tensors):
        tree_state(learner)["__reduce__"]["args"]["content"][at] = new

    return edit


def setting(field, new):
    def change(found):
        inner = np.flatnonzero(found["left_child"] != -1)
        found[field][inner[-1]] = new

    return change


FOREST_EDITS = {
    "a branch to nowhere": (nodes(setting("left_child", 10**6)), "leads to no node"),
    "a negative branch": (nodes(setting("right_child", -5)), "leads to no node"),
    "a circle": (nodes(setting("left_child", 0)), "leads to no node"),
    "half a leaf": (nodes(setting("right_child", -1)), "leads to no node"),
    "a feature": (nodes(setting("feature", 64)), "feature that does not exist"),
    "a negative feature": (nodes(setting("feature", -2)), "feature that does not exist"),
    "outputs": (arguments(2, value(10**9)), "several outputs"),
    "features": (arguments(0, value(10**9)), "another number of features"),
    "number of nodes": (tree("node_count", value(10**9)), "number of nodes"),
    "no number of nodes": (tree("node_count", value("x")), "number of nodes"),
    "trees": (put("n_estimators", value(10**9)), "number of trees"),
    "classes": (put("n_classes_", value(10**9)), "number of classes"),
    "processes": (put("n_jobs", value(10**9)), "n_jobs"),
    "a method": (put("predict", value(5)), "method or property 'predict'"),
    "a property": (put("estimators_samples_", value(5)), "method or property"),
    "measurements": (put("n_features_in_", value(10**9)), "n_features_in_"),
    "order of classes": (
        put("classes_", node("NdArrayNode", "numpy.ndarray", type="numpy",
                             array={"array": [4, 3, 2, 1], "dtype": "<i8"})),
        "ascending",
    ),
    "parameter": (put("criterion", value("x")), "criterion"),
    "nested value": (put("verbose", value([1])), "not a plain one"),
    "a number of a node": (put("verbose", value(0) | {"__id__": 1}), "has a number"),
    "another class": (
        lambda learner, tensors: learner.update({"class": "ExtraTreesClassifier"}),
        "is a RandomForestClassifier",
    ),
    "other predictions": (
        nodes(lambda found: found["threshold"].__imul__(-1)), "predicts otherwise"
    ),
    "no predictions": (lambda learner, tensors: learner.update(probe=None), "damaged"),
    "no description": (lambda learner, tensors: learner.update(skops=None), "damaged"),
    "protocol of skops": (lambda learner, tensors: learner["skops"].update(protocol=99), "skops"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREST_EDITS)
def test_hostile_forests_are_refused(files, tmp_path, name):
    edit, reason = FOREST_EDITS[name]
    path = edited(files / "random-forest", tmp_path / "m", edit)
    with pytest.raises(InvalidFileError, match=reason) as caught:
        load(path)
    assert str(path) in str(caught.value)


def boosted(change):
    """Edit of the nodes of the first tree of gradient boosting."""

    def edit(learner, tensors):
        first = attributes(learner)["_predictors"]["content"][0]["content"][0]
        place = first["content"]["content"]["nodes"]
        name = place["array"]["tensor"]
        found = _learners._decode_array(place, tensors).copy()
        change(found)
        tensors[name] = found.view(np.uint8).reshape(tensors[name].shape)

    return edit


def at_root(field, new):
    def change(found):
        found[field][0] = new

    return change


BOOSTING_EDITS = {
    "a branch": (boosted(at_root("left", 10**6)), "leads to no node"),
    "a circle": (boosted(at_root("right", 0)), "leads to no node"),
    "a feature": (boosted(at_root("feature_idx", 64)), "feature that does not exist"),
    "a negative feature": (boosted(at_root("feature_idx", -1)), "feature that does not exist"),
    "categories": (boosted(at_root("is_categorical", 1)), "divides categories"),
    "trees": (put("n_trees_per_iteration_", value(10**9)), "numbers of trees"),
    "preprocessor": (put("_preprocessor", value(1)), "first prediction"),
}


@pytest.mark.parametrize("name", BOOSTING_EDITS)
def test_hostile_boosting_is_refused(files, tmp_path, name):
    edit, reason = BOOSTING_EDITS[name]
    path = edited(files / "hist-gradient-boosting", tmp_path / "m", edit)
    with pytest.raises(InvalidFileError, match=reason):
        load(path)


@pytest.mark.parametrize("label", [-1, 4, 10**9])
def test_neighbours_without_a_class_are_refused(files, tmp_path, label):
    def edit(learner, tensors):
        name = attributes(learner)["_y"]["array"]["tensor"]
        tensors[name] = np.where(np.arange(60) == 7, label, tensors[name])

    path = edited(files / "knn", tmp_path / "m", edit)
    with pytest.raises(InvalidFileError, match="label that is not one of classes_"):
        load(path)


def test_another_scikit_learn_is_named(files, tmp_path):
    def edit(learner, tensors):
        learner["scikit-learn"] = "1.8.0"

    edited(files / "random-forest", tmp_path / "m", edit)
    load(tmp_path / "m")  # it predicts the same

    def other(learner, tensors):
        edit(learner, tensors)
        FOREST_EDITS["other predictions"][0](learner, tensors)

    edited(files / "random-forest", tmp_path / "m", other)
    with pytest.raises(InvalidFileError, match=r"saved with scikit-learn 1\.8\.0, .*install"):
        load(tmp_path / "m")


def test_flipped_bits_of_a_forest_are_found(files, tmp_path):
    original = (files / "random-forest").read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.choice(len(original), 60, replace=False):
        content = bytearray(original)
        content[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(InvalidFileError):
            load(tmp_path / "m")


def test_the_list_of_types_is_that_of_the_saved_learners(files):
    """No type is trusted that no baseline needs."""
    seen = set()
    for name in fuzz.LEARNERS:
        with safe_open(files / name, framework="np") as file:
            text = file.metadata()[ENTRY]
        seen |= _types(parse_json(text, "file"))
    trusted = {(loader, kind) for loader, kinds in _learners._TRUSTED.items() for kind in kinds}
    assert seen <= trusted
    # those of two classes, of other processors, and the trees of extra trees
    rest = {kind.rpartition(".")[2] for _, kind in trusted - seen}
    assert rest <= {
        "CyHalfBinomialLoss", "HalfBinomialLoss", "LogitLink", "ExtraTreesClassifier",
        "ExtraTreeClassifier", "bool", "float32", "int32", "uint32", "uint64",
    }  # fmt: skip


def _types(node):
    if isinstance(node, list):
        return set().union(*map(_types, node))
    if not isinstance(node, dict):
        return set()
    found = set().union(*map(_types, node.values()))
    if "__loader__" in node:
        found.add((node["__loader__"], f"{node['__module__']}.{node['__class__']}"))
    return found
