"""Learners of scikit-learn with objects as fitted attributes, by way of skops.

skops describes an estimator as a tree of nodes in JSON, and restores it without pickle. A file has
this description, with arrays as tensors of the file. Before skops sees it, every node is checked:
its type is on the list below, which is shorter than that of skops, and the nodes of decision trees
lead to nodes and features that exist, because scikit-learn's compiled loops follow them unchecked.
Predictions for a few signals are stored too: a learner that another version of scikit-learn
restores differently is refused.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.kernel_approximation import Nystroem
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.extras import require
from corrsk._utils.files import MISFITS, parse_json
from corrsk.persistence._fitted import check_classes
from corrsk.persistence._values import decode_value, encode_value

LEARNERS: dict[str, type[BaseEstimator]] = {
    cls.__name__: cls
    for cls in (
        QuadraticDiscriminantAnalysis, KNeighborsClassifier, RandomForestClassifier,
        ExtraTreesClassifier, HistGradientBoostingClassifier, MLPClassifier, Nystroem,
        CalibratedClassifierCV,
    )
}  # fmt: skip
SKOPS = "skops"  # entry of the description, and part of the names of its tensors
_TREE = "sklearn.tree._tree.Tree"
_PREDICTOR = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
# the types that a file may name, by the loader of skops that restores them
_TRUSTED: dict[str, tuple[str, ...]] = {
    "JsonNode": ("builtins.str",),
    "TypeNode": ("builtins.str",),
    "DictNode": ("builtins.dict",),
    "ListNode": ("builtins.list",),
    "TupleNode": ("builtins.tuple",),
    "NdArrayNode": (
        "numpy.ndarray", "numpy.bool", "numpy.float32", "numpy.float64", "numpy.int32",
        "numpy.int64", "numpy.uint32", "numpy.uint64",
    ),
    "TreeNode": (_TREE,),
    "LossNode": (
        "sklearn._loss._loss.CyHalfBinomialLoss", "sklearn._loss._loss.CyHalfMultinomialLoss",
    ),
    "ObjectNode": (
        *(f"{cls.__module__}.{name}" for name, cls in LEARNERS.items()),
        _PREDICTOR,
        "sklearn._loss.link.Interval", "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit", "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfMultinomialLoss", "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.linear_model._stochastic_gradient.SGDClassifier",
        "sklearn.preprocessing._label.LabelBinarizer", "sklearn.preprocessing._label.LabelEncoder",
        "sklearn.tree._classes.DecisionTreeClassifier", "sklearn.tree._classes.ExtraTreeClassifier",
    ),
}  # fmt: skip
# the state of the training, which another `fit` sets anew
_OF_TRAINING = {
    "_best_coefs", "_best_intercepts", "_feature_subsample_rng", "_loss_function_", "_optimizer",
    "_random_seed", "_random_state", "_scorer",
}  # fmt: skip
_FIELDS = "fields"  # entry of an array with named fields, which no tensor has
_MOST_FEATURES = 100_000
_MOST_JOBS = 4096
_N_PROBES, _TOLERANCE = 3, 1e-6


def encode_learner(
    estimator: BaseEstimator, prefix: str, tensors: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """Encode a learner of `LEARNERS` as plain values and tensors.

    Parameters
    ----------
    estimator : estimator
        The learner, fitted or not.
    prefix : str
        Start of the names of its tensors.
    tensors : dict of str to ndarray
        Tensors of the file, to which those of the learner are added.

    Returns
    -------
    dict
        Plain values.

    Raises
    ------
    ImportError
        If skops is not installed.
    TypeError
        If a part of the learner cannot be stored.
    """
    name = type(estimator).__name__
    require("skops", extra="skops", purpose=f"saving a {name}")
    from skops.io import dumps
    from skops.io.exceptions import UnsupportedTypeException

    try:
        file = dumps(estimator)
    except (UnsupportedTypeException, TypeError) as error:
        raise TypeError(f"cannot save this {name}: {error}") from error
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        state = json.loads(archive.read("schema.json"))
        for number, node in enumerate(_arrays(_without_training(state))):
            values = np.load(io.BytesIO(archive.read(node.pop("file"))), allow_pickle=False)
            node["array"] = _encode_array(values, node, f"{prefix}{SKOPS}.{number}", tensors)
    try:
        _check_node(state, tensors)
    except ValueError as error:
        raise TypeError(f"cannot save this {name}: {error}") from error
    probe = f"{prefix}{SKOPS}.probe"
    outputs = _outputs(estimator) if _is_fitted(estimator) else None
    return {
        "class": name,
        SKOPS: state,
        "scikit-learn": sklearn.__version__,
        "probe": encode_value(outputs, "probe", probe, tensors),
    }


def decode_learner(
    content: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], *, is_parameter: bool
) -> Any:
    """Restore a learner from plain values and tensors, after checks of all of them.

    Parameters
    ----------
    content : mapping
        Plain values.
    tensors : mapping of str to ndarray
        Tensors of the file.
    is_parameter : bool
        Whether the learner is a parameter of another estimator, and may be unfitted.

    Returns
    -------
    estimator
        The learner.

    Raises
    ------
    ImportError
        If skops is not installed.
    ValueError
        If the content is not that of a learner, or predicts otherwise than the saved learner.
    """
    name, saved_by = content["class"], content["scikit-learn"]
    require("skops", extra="skops", purpose=f"loading a {name}")
    state = copy.deepcopy(content[SKOPS])
    _check_node(state, tensors)
    try:
        estimator = _restored(state, tensors)
        if type(estimator) is not LEARNERS[name]:
            raise ValueError(f"the {name} is a {type(estimator).__name__}")
        for part in _parts(estimator):
            _check_part(part)
        if content["probe"] is None and is_parameter:
            return estimator
        expected = np.asarray(decode_value(content["probe"], tensors))
        outputs = _outputs(estimator)
        if not np.allclose(outputs, expected, rtol=0, atol=_TOLERANCE):
            raise ValueError(f"the {name} predicts otherwise than the saved one")
    except MISFITS as error:
        if saved_by == sklearn.__version__:
            raise
        raise ValueError(
            f"this {name} was saved with scikit-learn {saved_by:.20}, and scikit-learn "
            f"{sklearn.__version__} does not restore it ({error}); install the former, or fit again"
        ) from error
    return estimator


def _is_fitted(estimator: Any) -> bool:
    return hasattr(estimator, "n_features_in_")


def _outputs(estimator: Any) -> NDArray[np.float64]:
    """Predictions for a few signals, which another version of scikit-learn must repeat.

    Raises
    ------
    ValueError
        If they are not finite numbers.
    """
    check_is_fitted(estimator)
    n = estimator.n_features_in_
    # `random` has the same bits on every processor
    X = np.random.default_rng(0).random((_N_PROBES, n)) - 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing names of columns
        method = getattr(estimator, "predict_proba", None) or estimator.transform
        outputs = np.asarray(method(X / np.sqrt(n)), dtype=np.float64)
    if not np.isfinite(outputs).all():
        raise ValueError(f"the {type(estimator).__name__} predicts numbers that are not finite")
    if hasattr(estimator, "classes_") and outputs.shape != (_N_PROBES, len(estimator.classes_)):
        raise ValueError(f"the {type(estimator).__name__} predicts an array of {outputs.shape}")
    return outputs


# -- arrays ----------------------------------------------------------------------------


def _arrays(node: Any) -> Iterator[dict[str, Any]]:
    """Nodes of arrays with a file, in order."""
    if isinstance(node, list):
        for each in node:
            yield from _arrays(each)
    elif isinstance(node, dict):
        if node.get("__loader__") == "NdArrayNode" and node.get("type") == "numpy":
            yield node
        else:
            for each in node.values():
                yield from _arrays(each)


def _encode_array(
    values: NDArray[Any], node: dict[str, Any], place: str, tensors: dict[str, NDArray[Any]]
) -> Any:
    if values.dtype.names is not None:  # as bytes, without the undefined ones between fields
        packed = np.dtype([(name, values.dtype[name].str) for name in values.dtype.names])
        node[_FIELDS] = [list(each) for each in packed.descr]
        values = values.astype(packed).view(np.uint8).reshape(len(values), packed.itemsize)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise TypeError("cannot save a learner with an array that is not finite")
    return encode_value(values.reshape(1) if values.ndim == 0 else values, "array", place, tensors)


def _decode_array(node: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    values = np.asarray(decode_value(node["array"], tensors))
    if _FIELDS in node:
        packed = np.dtype([(name, kind) for name, kind in node[_FIELDS]])
        _record(packed)
        if values.dtype != np.uint8 or values.ndim != 2 or values.shape[1] != packed.itemsize:
            raise ValueError("an array of nodes has another size than its fields")
        return np.ascontiguousarray(values).view(packed).reshape(len(values))
    if node["__class__"] != "ndarray":  # a single number
        return values.reshape(()).astype(node["__class__"])
    return values


def _record(packed: np.dtype[Any]) -> np.dtype[Any]:
    """Type of the nodes of trees in this version of scikit-learn that has given fields."""
    from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
    from sklearn.tree._tree import NODE_DTYPE

    for record in (NODE_DTYPE, PREDICTOR_RECORD_DTYPE):
        if [(name, record[name]) for name in record.names] == [
            (name, packed[name]) for name in packed.names or ()
        ]:
            return record
    raise ValueError("an array has fields that the nodes of this scikit-learn do not have")


# -- nodes of the description ----------------------------------------------------------


def _without_training(node: Any) -> Any:
    """Remove what prediction does not need, and numbers of objects, which differ in each run."""
    if isinstance(node, list):
        for each in node:
            _without_training(each)
    elif isinstance(node, dict):
        node.pop("__id__", None)
        if node.get("__loader__") == "DictNode":
            for key in _OF_TRAINING & node["content"].keys():
                del node["content"][key]
                node["key_types"]["content"].pop()
        for each in node.values():
            _without_training(each)
    return node


def _check_node(node: Any, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check a node of the description and those below it, before anything is made of them."""
    loader, kind = node["__loader__"], f"{node['__module__']}.{node['__class__']}"
    if kind not in _TRUSTED.get(loader, ()):
        raise ValueError(f"{kind:.80} ({loader!s:.20}) is not one of the types of a learner")
    if "__id__" in node:  # by which skops would take another node in place of this one
        raise ValueError("a node has a number")
    below: list[Any] = []
    match loader:
        case "JsonNode":
            if isinstance(parse_json(node["content"], "a value"), dict | list):
                raise ValueError("a value is not a plain one")
        case "ListNode" | "TupleNode":
            below = list(node["content"])
        case "DictNode":
            below = [*node["content"].values(), node["key_types"]]
            if len(node["key_types"]["content"]) != len(node["content"]):
                raise ValueError("a dictionary lacks the types of its keys")
        case "NdArrayNode" if node["type"] == "numpy":
            _decode_array(node, tensors)
        case "NdArrayNode":  # of objects, such as names of classes
            below = [*node["content"], node["shape"]]
        case "ObjectNode":
            below = [node["content"]] if "content" in node else []
        case "TreeNode" | "LossNode":
            below = [node["__reduce__"]["args"], node["content"]]
    for each in below:
        _check_node(each, tensors)
    if loader == "TreeNode":
        _check_tree(node, tensors)
    if kind == _PREDICTOR:
        _check_predictor(node, tensors)


def _check_tree(node: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check a decision tree: its sizes, and that each branch leads to a later node."""
    arguments = node["__reduce__"]["args"]["content"]
    state = node["content"]["content"]
    n_features, n_outputs = (json.loads(arguments[at]["content"]) for at in (0, 2))
    n_classes = _decode_array(arguments[1], tensors)
    nodes, values = (_decode_array(state[key], tensors) for key in ("nodes", "values"))
    if len(arguments) != 3 or n_outputs != 1 or n_classes.shape != (1,):
        raise ValueError("a tree has several outputs")
    if json.loads(state["node_count"]["content"]) != len(nodes):
        raise ValueError("a tree has another number of nodes than it declares")
    if values.shape != (len(nodes), 1, n_classes[0]):
        raise ValueError("a tree has values of another shape than its nodes")
    left, right = nodes["left_child"], nodes["right_child"]
    inner = left != -1
    _check_branches(left[inner], right[inner], np.flatnonzero(inner), len(nodes))
    _check_features(nodes["feature"][inner], n_features)


def _check_predictor(node: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check a tree of gradient boosting likewise; its features are checked with the learner."""
    nodes = _decode_array(node["content"]["content"]["nodes"], tensors)
    if nodes.dtype.names is None:
        raise ValueError("a tree has no nodes")
    inner = nodes["is_leaf"] == 0
    if nodes["is_categorical"].any():
        raise ValueError("a tree divides categories, but signals are numbers")
    left, right = (nodes[key].astype(np.int64)[inner] for key in ("left", "right"))
    _check_branches(left, right, np.flatnonzero(inner), len(nodes))


def _check_branches(
    left: NDArray[Any], right: NDArray[Any], own: NDArray[Any], n_nodes: int
) -> None:
    # a branch to an earlier node would be followed for ever
    if not n_nodes or any((side <= own).any() or (side >= n_nodes).any() for side in (left, right)):
        raise ValueError("a tree has a branch that leads to no node")


def _check_features(features: NDArray[Any], n_features: Any) -> None:
    if (features < 0).any() or (features >= n_features).any():
        raise ValueError("a tree divides a feature that does not exist")


# -- objects ---------------------------------------------------------------------------


def _restored(state: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Any:
    """Let skops restore a checked description."""
    from skops.io import loads

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, node in enumerate(_arrays(state)):
            values = io.BytesIO()
            array = _decode_array(node, tensors)
            if _FIELDS in node:
                array = array.astype(_record(array.dtype))
            np.save(values, array, allow_pickle=False)
            node["file"] = f"{number}.npy"
            archive.writestr(node["file"], values.getvalue())
        archive.writestr("schema.json", json.dumps(state))
    return loads(buffer.getvalue(), trusted=[each for kinds in _TRUSTED.values() for each in kinds])


def _parts(value: Any) -> Iterator[Any]:
    """The objects of a learner, itself included."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _parts(each)
    elif isinstance(value, dict):
        yield from _parts(list(value.values()))
    elif type(value).__module__.startswith("sklearn."):
        yield value
        yield from _parts(getattr(value, "__dict__", {}))


def _check_part(part: Any) -> None:
    """Check an object of a learner: its parameters, and what scikit-learn relies on."""
    name, values = type(part).__name__, getattr(part, "__dict__", {})
    hidden = [key for key in values if hasattr(type(part), key)]
    if hidden:
        raise ValueError(f"{name} has a method or property {hidden[0]!r}, which a file cannot set")
    if not hasattr(part, "get_params"):
        return
    if hasattr(part, "_parameter_constraints"):
        part._validate_params()
    n_jobs = values.get("n_jobs")
    if n_jobs is not None and not 0 < abs(n_jobs) <= _MOST_JOBS:
        raise ValueError(f"n_jobs of {name} is {n_jobs!r:.30}")
    if not _is_fitted(part):
        return
    n = part.n_features_in_
    if type(n) is not int or not 0 < n <= _MOST_FEATURES:
        raise ValueError(f"n_features_in_ of {name} is {n!r:.30}")
    if hasattr(type(part), "predict_proba"):
        check_classes(part.classes_, name)
    check = _CHECKS.get(name)
    if check is not None:
        check(part)


def _check_forest(forest: Any) -> None:
    trees, n_classes = forest.estimators_, len(forest.classes_)
    if not isinstance(trees, list) or not 0 < len(trees) == forest.n_estimators:
        raise ValueError("a forest has another number of trees than n_estimators")
    if forest.n_outputs_ != 1 or forest.n_classes_ != n_classes:
        raise ValueError("a forest has another number of classes than classes_")
    for each in trees:
        _check_decision_tree(each)
        if (each.n_features_in_, len(each.classes_)) != (forest.n_features_in_, n_classes):
            raise ValueError("a forest has a tree of other signals")


def _check_decision_tree(learner: Any) -> None:
    tree = learner.tree_
    if tree.n_features != learner.n_features_in_ or learner.n_outputs_ != 1:
        raise ValueError("a tree has another number of features than its learner")
    if not tree.max_n_classes == learner.n_classes_ == len(learner.classes_):
        raise ValueError("a tree has another number of classes than its learner")


def _check_boosting(learner: Any) -> None:
    n, n_classes = learner.n_features_in_, len(learner.classes_)
    n_trees = 1 if n_classes == 2 else n_classes
    if learner.n_trees_per_iteration_ != n_trees or learner._n_features != n:
        raise ValueError("gradient boosting has other numbers of trees or features")
    if np.shape(learner._baseline_prediction) != (1, n_trees) or learner._preprocessor is not None:
        raise ValueError("gradient boosting has another first prediction")
    categorical = learner._bin_mapper.is_categorical_
    if np.shape(categorical) != (n,) or np.any(categorical) or learner.is_categorical_ is not None:
        raise ValueError("gradient boosting has categories, but signals are numbers")
    if len(learner._bin_mapper.bin_thresholds_) != n:
        raise ValueError("gradient boosting has thresholds of other features")
    for several in learner._predictors:
        if len(several) != n_trees:
            raise ValueError("gradient boosting lacks a tree")
        for each in several:
            nodes = each.nodes
            _check_features(nodes["feature_idx"][nodes["is_leaf"] == 0], n)
            for bits in (each.binned_left_cat_bitsets, each.raw_left_cat_bitsets):
                if bits.dtype != np.uint32 or bits.ndim != 2:
                    raise ValueError("a tree has categories of another type")


def _check_neighbours(learner: Any) -> None:
    n_samples = learner.n_samples_fit_
    if learner._fit_method != "brute" or learner.outputs_2d_ or learner._tree is not None:
        raise ValueError("only nearest neighbours with algorithm='brute' are stored")
    if np.shape(learner._fit_X) != (n_samples, learner.n_features_in_):
        raise ValueError("the neighbours have another shape")
    labels = learner._y
    if np.shape(labels) != (n_samples,) or labels.dtype.kind not in "iu":
        raise ValueError("the neighbours have labels of another shape or type")
    if labels.min() < 0 or labels.max() >= len(learner.classes_):
        raise ValueError("a neighbour has a label that is not one of classes_")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "RandomForestClassifier": _check_forest,
    "ExtraTreesClassifier": _check_forest,
    "DecisionTreeClassifier": _check_decision_tree,
    "ExtraTreeClassifier": _check_decision_tree,
    "HistGradientBoostingClassifier": _check_boosting,
    "KNeighborsClassifier": _check_neighbours,
}
