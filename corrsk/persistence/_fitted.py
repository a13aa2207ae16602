"""Fitted attributes that a file may have, and their checks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.preprocessing import StandardScaler

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.neural._base import NetworkClassifier
from corrsk.neural.mixtures import MixtureNetwork
from corrsk.novelty.detector import SignalNoveltyDetector
from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.preprocessing.pipeline import SignalPipeline
from corrsk.relaxometry import NNLSSpectrum
from corrsk.simulation.streams import SignalStream
from corrsk.simulation.targets import StreamTargets
from corrsk.spatial import SpatialClassifier
from corrsk.trained._base import SimulationTrained
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.regressor import CompartmentRegressor

# Arrays of numbers, with their shape: n features, c classes, r rows of coefficients (one of two
# classes); a number that several arrays share has one letter
_NETWORK_ARRAYS = {"class_count_": "c", "class_prior_": "c"}
_ARRAYS: dict[str, dict[str, str]] = {
    "CorrelationCNNClassifier": _NETWORK_ARRAYS,
    "ResidualMLPClassifier": _NETWORK_ARRAYS,
    "ModuleClassifier": _NETWORK_ARRAYS,
    "SignalNoveltyDetector": {
        "subspace_": "nd", "cluster_weights_": "k", "cluster_means_": "kd",
        "cluster_variances_": "kd", "cluster_directions_": "kdd", "cluster_log_noise_": "k",
        "relation_": "tf", "relation_log_spread_": "uf", "tail_probabilities_": "q",
        "quantiles_": "sq",
    },
    "StandardScaler": {"mean_": "n", "scale_": "n", "var_": "n"},
    "LogisticRegression": {"coef_": "rn", "intercept_": "r"},
    "LinearDiscriminantAnalysis": {
        "coef_": "rn", "intercept_": "r", "covariance_": "nn", "means_": "cn", "priors_": "c",
        "scalings_": "ns", "xbar_": "n", "explained_variance_ratio_": "e",
    },
}  # fmt: skip
# optional: without a mean or variance to subtract, of one solver, or missing in early files
_OPTIONAL = {
    "mean_", "scale_", "var_", "covariance_", "xbar_", "explained_variance_ratio_", "class_count_",
    "class_prior_",
}  # fmt: skip
_MAY_BE_EMPTY = ("relation_", "relation_log_spread_")
_NETWORK_OTHERS = ("history_", "n_iter_", "best_epoch_", "column_order_", "grid_shape_")
_COUNTER_OTHERS = ("counts_", "bounds_", "axes_", "calibration_")
_OTHERS: dict[str, tuple[str, ...]] = {
    "CorrelationSignalGenerator": (),
    "SignalPhaser": ("kind_",),
    "SignalNormalizer": (),
    "ProtocolAligner": ("measured_protocol_", "order_"),
    "SignalNoveltyDetector": ("offset_", "n_calibration_"),
    "CorrelationCNNClassifier": _NETWORK_OTHERS,
    "ResidualMLPClassifier": _NETWORK_OTHERS,
    "ModuleClassifier": _NETWORK_OTHERS,
    "SimulationTrainedClassifier": ("pipeline_", "novelty_"),
    "CompartmentRegressor": ("pipeline_", "novelty_", "network_", "seed_"),
    "MixtureNetwork": ("history_", "n_iter_", "best_epoch_", "dimensions_"),
    "SignalMasker": ("n_elements_",),
    "SpatialClassifier": ("estimators_",),
    "MultiExponentialClassifier": _COUNTER_OTHERS,
    "NNLSPeakClassifier": _COUNTER_OTHERS,
    "IdealObserverClassifier": _COUNTER_OTHERS,
    "NNLSSpectrum": ("bounds_", "axes_", "calibration_", "prior_"),
    "StandardScaler": ("n_samples_seen_",),
    "LogisticRegression": ("n_iter_",),
    "LinearDiscriminantAnalysis": (),
    "EncodedLabelsClassifier": ("estimator_",),
    "ScaledBatchClassifier": ("estimator_",),
}
# of those without an array that every file has
_REQUIRED: dict[str, tuple[str, ...]] = {
    "CorrelationSignalGenerator": ("protocol_", "feature_names_in_"),
    "SignalPhaser": ("protocol_", "kind_"),
    "ProtocolAligner": ("protocol_", "measured_protocol_", "order_"),
    "SignalNoveltyDetector": ("offset_", "n_calibration_"),
    "CorrelationCNNClassifier": ("grid_shape_",),
    "SimulationTrainedClassifier": ("pipeline_", "novelty_"),
    "CompartmentRegressor": ("pipeline_", "novelty_", "network_", "seed_"),
    "MixtureNetwork": ("dimensions_",),
    "SignalMasker": ("n_elements_",),
    "SpatialClassifier": ("estimators_",),
    "EncodedLabelsClassifier": ("estimator_",),
    "ScaledBatchClassifier": ("estimator_",),
}
_TYPES: dict[str, type] = {
    "offset_": float, "n_calibration_": int, "kind_": str, "n_elements_": int
}  # fmt: skip
# classes whose number of features is that of an estimator within
_OF_PARTS = ("SimulationTrainedClassifier", "CompartmentRegressor", "SpatialClassifier")
_MOST_SCALED = 1e30  # far above any scaled signal, and below the largest single-precision number
_WITH_ONE_INSIDE = ("EncodedLabelsClassifier", "ScaledBatchClassifier")
_OF_ALL = ("n_features_in_", "feature_names_in_", "layout_", "protocol_", "classes_")


def fitted_names(class_name: str) -> set[str]:
    """Names of the fitted attributes that a file may have for a class."""
    return {*_OF_ALL, *_ARRAYS.get(class_name, ()), *_OTHERS[class_name]}


def check_names(class_name: str, given: set[str]) -> None:
    """Check the names of the fitted attributes of a class in a file.

    Raises
    ------
    ValueError
        If the class has no such attribute, or lacks one.
    """
    unknown = given - fitted_names(class_name)
    if unknown:
        raise ValueError(f"{class_name} has no fitted attribute {min(unknown)!r}")
    missing = set(_ARRAYS.get(class_name, ())) - _OPTIONAL - given
    missing |= set(_REQUIRED.get(class_name, ())) - given
    if class_name not in _OF_PARTS:
        missing |= {"n_features_in_"} - given
    if missing:
        raise ValueError(f"{class_name} lacks the fitted attribute {min(missing)!r}")


def check_fitted(estimator: BaseEstimator) -> None:
    """Check the values of the fitted attributes of an estimator from a file.

    Raises
    ------
    ValueError
        If the attributes contradict each other, or are not of the expected type.
    """
    name, values = type(estimator).__name__, vars(estimator)
    if isinstance(estimator, SimulationTrainedClassifier):
        _check_parts(estimator)
        return
    if isinstance(estimator, CompartmentRegressor):
        _check_regressor(estimator)
        return
    if isinstance(estimator, SpatialClassifier):
        _check_several(estimator)
        return
    n = values["n_features_in_"]
    if type(n) is not int or n < 1:
        raise ValueError(f"n_features_in_ of {name} must be a positive integer, got {n!r:.60}")
    sizes = {"n": n}
    if "classes_" in values:
        check_classes(values["classes_"], name)
        sizes["c"] = len(values["classes_"])
        sizes["r"] = 1 if sizes["c"] == 2 else sizes["c"]
    elif hasattr(type(estimator), "predict_proba"):
        raise ValueError(f"{name} lacks the fitted attribute 'classes_'")
    if "feature_names_in_" in values:
        names = values["feature_names_in_"]
        plain = isinstance(names, np.ndarray) and names.shape == (n,)
        if not plain or not all(isinstance(one, str) for one in names):
            raise ValueError(f"feature_names_in_ of {name} must be {n} names")
    for key, letters in _ARRAYS.get(name, {}).items():
        if key not in values or (name == "StandardScaler" and values[key] is None):
            continue
        # up to version 5, files have no shape of the empty arrays of a detector of few signals
        if not (key in _MAY_BE_EMPTY and np.shape(values[key]) == (0,)):
            _check_array(values[key], f"{key} of {name}", letters, sizes)
    for key, kind in _TYPES.items():
        value: Any = values.get(key, kind())
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{key} of {name} is {value!r:.60}")
    if isinstance(estimator, NNLSSpectrum) and estimator.prior is not None:
        prior = values.get("prior_")
        if not hasattr(prior, "predict_spectrum") or prior.n_features_in_ != n:
            raise ValueError(f"prior_ of {name} must be a fitted model of {n} measurements")
    if isinstance(estimator, StandardScaler):
        needed = {"mean_": estimator.with_mean, "scale_": estimator.with_std}
        missing = [key for key, used in needed.items() if used and values.get(key) is None]
        if missing:
            raise ValueError(f"{name} lacks the fitted attribute {missing[0]!r}")
        _check_scaler(values)
    if name in _WITH_ONE_INSIDE:
        _check_inner(estimator)
    for key in ("layout_", "grid_shape_"):
        _check_layout(values.get(key), f"{key} of {name}")
    for key in ("order_", "column_order_"):
        order = values.get(key)
        if order is not None and not _is_order(order, n):
            raise ValueError(f"{key} of {name} must be an order of {n} columns")
    for key in ("protocol_", "measured_protocol_"):
        protocol = values.get(key)
        if protocol is not None and not isinstance(protocol, AcquisitionProtocol):
            raise ValueError(f"{key} of {name} must be a protocol")
        # the features of a generator are columns of a tissue table
        if protocol is None or name == "CorrelationSignalGenerator":
            continue
        if protocol.n_measurements != n:
            raise ValueError(f"{key} of {name} must have {n} measurements")


def _is_order(order: Any, n: int) -> bool:
    # the size first, because n may be anything
    return np.shape(order) == (n,) and np.array_equal(np.sort(order), np.arange(n))


def _check_parts(model: SimulationTrainedClassifier) -> None:
    pipeline = getattr(model, "pipeline_", None)
    steps = [step for _, step in pipeline.steps] if isinstance(pipeline, SignalPipeline) else []
    wanted = (ProtocolAligner, SignalNormalizer, NetworkClassifier)
    if len(steps) != 3 or not all(map(isinstance, steps, wanted)):
        raise ValueError(
            "pipeline_ of SimulationTrainedClassifier must be a SignalPipeline of ProtocolAligner, "
            "SignalNormalizer and a network"
        )
    _check_novelty(model)


def _check_novelty(model: SimulationTrained) -> None:
    if not isinstance(getattr(model, "novelty_", None), SignalNoveltyDetector | None):
        raise ValueError(f"novelty_ of {type(model).__name__} must be a SignalNoveltyDetector")


def _check_regressor(model: CompartmentRegressor) -> None:
    pipeline = getattr(model, "pipeline_", None)
    steps = [step for _, step in pipeline.steps] if isinstance(pipeline, SignalPipeline) else []
    if len(steps) != 2 or not all(map(isinstance, steps, (ProtocolAligner, SignalNormalizer))):
        raise ValueError(
            "pipeline_ of CompartmentRegressor must be a SignalPipeline of ProtocolAligner and "
            "SignalNormalizer"
        )
    network, seed = model.network_, model.seed_
    if not isinstance(network, MixtureNetwork):
        raise ValueError("network_ of CompartmentRegressor must be a MixtureNetwork")
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed_ of CompartmentRegressor must be a number, got {seed!r:.60}")
    targets = StreamTargets.from_stream(SignalStream.from_definition(model.definition))
    if network.dimensions_ != targets.dimensions:
        raise ValueError("network_ of CompartmentRegressor is for another prior")
    if network.n_features_in_ != targets.n_measurements:
        raise ValueError("network_ of CompartmentRegressor is for another protocol")
    _check_novelty(model)


def _check_inner(model: Any) -> None:
    inner, n_classes = model.estimator_, len(model.classes_)
    # the classes of the inner one may be positions of the labels
    if not is_classifier(inner) or len(inner.classes_) != n_classes:
        raise ValueError(f"estimator_ must be a classifier of {n_classes} classes")
    if inner.n_features_in_ != model.n_features_in_:
        raise ValueError(f"estimator_ must be a classifier of {model.n_features_in_} measurements")


def _check_several(model: SpatialClassifier) -> None:
    several = model.estimators_
    if not isinstance(several, list) or not several or not all(map(is_classifier, several)):
        raise ValueError("estimators_ of SpatialClassifier must be a list of classifiers")
    for each in several[1:]:
        if not np.array_equal(each.classes_, several[0].classes_):
            raise ValueError("the classifiers of SpatialClassifier must have the same classes")


def check_classes(classes: Any, name: str) -> None:
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or not classes.size:
        raise ValueError(f"classes_ of {name} must be a list of labels")
    plain = classes.dtype.kind in "biufU" or all(isinstance(one, str) for one in classes)
    if not plain or (classes.dtype.kind == "f" and not np.isfinite(classes).all()):
        raise ValueError(f"classes_ of {name} must be numbers or texts")
    if not np.array_equal(np.unique(classes), classes):
        raise ValueError(f"classes_ of {name} must be ascending and distinct, got {classes!r:.60}")


def _check_scaler(values: dict[str, Any]) -> None:
    """Check that scaled signals are numbers of single precision."""
    mean, scale = values.get("mean_"), values.get("scale_")
    if scale is None:
        scale = 1.0
    shift = 0.0 if mean is None else np.abs(mean)
    if np.any(scale <= 0) or np.any(shift / _MOST_SCALED > scale):
        raise ValueError("scale_ of StandardScaler must be positive, and mean_ of a similar size")


def _check_array(values: Any, what: str, letters: str, sizes: dict[str, int]) -> None:
    plain = isinstance(values, np.ndarray) and values.dtype.kind == "f"
    if not plain or values.ndim != len(letters) or not np.isfinite(values).all():
        raise ValueError(f"{what} must be an array of {len(letters)} axes of finite numbers")
    for letter, size in zip(letters, values.shape, strict=True):
        if sizes.setdefault(letter, size) != size:
            raise ValueError(f"{what} has the shape {values.shape}, which contradicts other parts")


def _check_layout(layout: Any, what: str) -> None:
    if layout is None:
        return
    plain = isinstance(layout, tuple) and all(type(side) is int for side in layout)
    if not plain or not layout or min(layout) < 1:
        raise ValueError(f"{what} must be positive integers, got {layout!r:.60}")
