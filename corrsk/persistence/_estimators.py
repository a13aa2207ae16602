"""Estimators as plain values and tensors, and back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._metadata_requests import SIMPLE_METHODS
from sklearn.utils.validation import check_is_fitted

from corrsk._utils.files import refuse_misfits
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.baselines import EncodedLabelsClassifier, ScaledBatchClassifier
from corrsk.imaging import SignalMasker
from corrsk.neural._base import NetworkClassifier, NetworkEstimator
from corrsk.neural.classifier import (
    NETWORK_CLASSIFIERS,
    CorrelationCNNClassifier,
    ModuleClassifier,
    ResidualMLPClassifier,
)
from corrsk.neural.mixtures import MixtureNetwork
from corrsk.neural.networks import NetworkShape
from corrsk.neural.training.device import resolve_device
from corrsk.neural.training.prediction import (
    OPTIMIZER_PREFIX,
    optimizer_state,
    restore_optimizer,
    restored_net,
    weights_of,
)
from corrsk.novelty.detector import SignalNoveltyDetector
from corrsk.persistence._files import read_file, write_file
from corrsk.persistence._fitted import check_fitted, check_names
from corrsk.persistence._learners import LEARNERS, SKOPS, decode_learner, encode_learner
from corrsk.persistence._values import decode_value, encode_value
from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.normalizer import SignalNormalizer
from corrsk.preprocessing.phaser import SignalPhaser
from corrsk.preprocessing.pipeline import SignalPipeline
from corrsk.relaxometry import (
    IdealObserverClassifier,
    MultiExponentialClassifier,
    NNLSPeakClassifier,
    NNLSSpectrum,
)
from corrsk.relaxometry._base import _VoxelModel
from corrsk.simulation.generator import CorrelationSignalGenerator
from corrsk.spatial import SpatialClassifier
from corrsk.trained.classifier import SimulationTrainedClassifier
from corrsk.trained.regressor import CompartmentRegressor

_OWN_ORDER = 4  # up to version 3, output columns were in grid order whatever the protocol
# The classes that can be saved, by name. All are stored by parameters and fitted attributes, in
# addition networks by their weights, and model-based classifiers by another `fit` on their classes.
# Estimators among the parameters and attributes are stored likewise.
SAVED_CLASSES: dict[str, type[BaseEstimator]] = {
    cls.__name__: cls
    for cls in (
        CorrelationSignalGenerator, SignalPhaser, SignalNormalizer, ProtocolAligner,
        SignalNoveltyDetector, *NETWORK_CLASSIFIERS.values(), SimulationTrainedClassifier,
        CompartmentRegressor, MixtureNetwork,
        MultiExponentialClassifier, NNLSPeakClassifier, IdealObserverClassifier, NNLSSpectrum,
        SignalMasker, SpatialClassifier, FrozenEstimator,
        # of the baselines those whose fitted attributes are plain arrays or other estimators;
        # those with further objects are in LEARNERS
        StandardScaler, LogisticRegression, LinearDiscriminantAnalysis, EncodedLabelsClassifier,
        ScaledBatchClassifier,
    )
}  # fmt: skip
_PIPELINES: dict[str, type[Pipeline]] = {cls.__name__: cls for cls in (Pipeline, SignalPipeline)}
_PARAMETER, _STORED = "parameter", "stored"  # first part of the names of their tensors
_SHARED = "shared"  # parameters that are a fitted attribute too, such as frozen classifiers
# parameters without a meaning on another machine, or that are code
_NOT_STORED = ("checkpoint", "callbacks")


def save(estimator: BaseEstimator, path: str | Path, *, half_precision: bool = False) -> None:
    """Save a fitted estimator to a file, which is written atomically.

    Parameters
    ----------
    estimator : estimator
        Fitted estimator of corrsk, of the baselines but "lightgbm" and "xgboost", a FrozenEstimator
        of these, or a fitted Pipeline of such estimators. Baselines other than "logistic" and "lda"
        need the extra `corrsk[skops]`, load with the versions of scikit-learn that restore their
        predictions, and are stored without the state of their training. The state of the optimiser
        of a network is stored if `partial_fit` has trained it last. Of a ModuleClassifier, the
        weights and the name of the module are stored, but no code; :func:`load` needs the module.
        Masks that are images are stored with their affine and header; a mask that is a path is
        stored as this path.
    path : path-like
        The file; ".safetensors" is the usual suffix.
    half_precision : bool, default=False
        Whether to store the weight matrices in half precision (float16), which
        halves the size of the file and rounds each weight to 11 bits. :func:`load` returns
        weights in single precision. Biases and scales are stored in single precision.

    Raises
    ------
    TypeError
        If the estimator cannot be stored, such as that of "xgboost", or has a parameter that cannot
        be stored, such as a random generator.
    ImportError
        If the estimator needs skops, which is not installed.
    ValueError
        If a weight is too large for half precision, or a model-based classifier draws random
        numbers without a seed.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Warns
    -----
    UserWarning
        If callbacks are not stored.
    """
    check_is_fitted(estimator)
    tensors: dict[str, NDArray[Any]] = {}
    encoded = _encode_estimator(estimator, "", tensors)
    if half_precision:
        tensors = {name: _halved(name, values) for name, values in tensors.items()}
    write_file(path, encoded, tensors)


def load(path: str | Path, *, module: Any = None) -> Any:
    """Load a fitted estimator from a file written by :func:`save`.

    Parameters
    ----------
    path : path-like
        The file.
    module : torch.nn.Module, or class of modules, optional
        The parameter `module` of a ModuleClassifier in the file, whose code is not in the file.
        Its weights are replaced by those of the file.

    Returns
    -------
    estimator
        The fitted estimator, on the device given by its parameter `device` (on the
        processor if that device is not available).

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ImportError
        If the file needs skops, which is not installed.
    InvalidFileError
        If the file was not written by :func:`save`, was written by a newer version of corrsk, is
        damaged, or does not match `module`; a ValueError.
    ValueError
        If `module` is missing or superfluous.
    """
    content, number, tensors = read_file(path)
    with refuse_misfits(path, "an estimator saved by corrsk"):
        encoded = content["estimator"]
        name = _module_in(encoded)
    if module is not None and name is None:
        raise ValueError(f"module is for files with a ModuleClassifier; {path} has none")
    if module is None and name is not None:
        raise ValueError(
            f"{path} has the weights of the module {name}, but not its code; pass it to load as "
            "module="
        )
    with refuse_misfits(path, "an estimator saved by corrsk"):
        return _decode_estimator(encoded, "", tensors, module, number)


def _halved(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Convert matrices to half precision; vectors are too small to matter."""
    # the squares in the state of an optimiser may be too small for half precision
    if values.dtype != np.float32 or values.ndim < 2 or OPTIMIZER_PREFIX in name:
        return values
    if SKOPS in name.split("."):  # such as stored signals, which are no weights
        return values
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ValueError(
            f"{name} contains a weight too large for half precision; pass half_precision=False"
        )
    return values.astype(np.float16)


def _encode_estimator(
    estimator: Any, prefix: str, tensors: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    if estimator is None or estimator == "passthrough":
        return {"class": "passthrough"}
    if isinstance(estimator, Pipeline):
        kind = SignalPipeline if isinstance(estimator, SignalPipeline) else Pipeline
        steps = [
            [name, _encode_estimator(step, f"{prefix}{name}.", tensors)]
            for name, step in estimator.steps
        ]
        return {
            "class": kind.__name__, "steps": steps,
            "transform_input": estimator.transform_input, "verbose": estimator.verbose,
        }  # fmt: skip
    if isinstance(estimator, FrozenEstimator):  # it has the attributes of what it contains
        inner = _encode_estimator(estimator.estimator, f"{prefix}estimator.", tensors)
        return {"class": FrozenEstimator.__name__, "estimator": inner}
    name = type(estimator).__name__
    if LEARNERS.get(name) is type(estimator):
        return encode_learner(estimator, prefix, tensors)
    if SAVED_CLASSES.get(name) is not type(estimator):
        raise TypeError(
            f"cannot save a {name}; corrsk saves {', '.join([*SAVED_CLASSES, *LEARNERS])}, and a "
            "Pipeline or SignalPipeline of them. For other estimators use joblib.dump, whose files "
            "execute code when they are loaded, or their own formats"
        )
    seed = getattr(estimator, "random_state", 0)
    if isinstance(estimator, _VoxelModel) and seed is None:
        raise ValueError(
            f"a saved {name} needs an integer random_state, because the loaded one would draw "
            "other random numbers; got random_state=None"
        )
    fitted = {
        key: value
        for key, value in vars(estimator).items()
        if key.endswith("_") and not key.startswith("_") and key != "net_"
    }
    parameters = estimator.get_params(deep=False)
    shared = _shared(parameters, fitted)
    parameters = {key: value for key, value in parameters.items() if key not in shared}
    lists = {
        key: fitted.pop(key) if key in fitted else parameters.pop(key)
        for key, value in (parameters | fitted).items()
        if _is_list_of_estimators(value)
    }
    parts = {
        key: fitted.pop(key) if key in fitted else parameters.pop(key)
        for key, value in (parameters | fitted).items()
        if isinstance(value, BaseEstimator)
    }
    if parameters.get("callbacks"):
        warnings.warn("the callbacks of the classifier are not saved", stacklevel=3)
    parameters = {key: value for key, value in parameters.items() if key not in _NOT_STORED}

    def encode(values: Mapping[str, Any], place: str) -> dict[str, Any]:
        return {
            key: encode_value(each, key, f"{place}{key}", tensors) for key, each in values.items()
        }

    network: dict[str, Any] = {}
    if hasattr(estimator, "net_"):
        tensors |= {prefix + key: values for key, values in weights_of(estimator.net_).items()}
        state, content = optimizer_state(estimator.net_)
        tensors |= {prefix + key: values for key, values in state.items()}
        network = {"optimizer": content}
    if isinstance(estimator, ModuleClassifier) and parameters["module"] is not None:
        network["module"] = _name_of_module(parameters.pop("module"))
    further: dict[str, Any] = {}
    if hasattr(estimator, "_stored"):
        further[_STORED] = encode(estimator._stored(), f"{prefix}{_STORED}.")
    if lists:
        further["lists"] = {
            key: [
                _encode_estimator(each, f"{prefix}{key}.{k}.", tensors)
                for k, each in enumerate(several)
            ]
            for key, several in lists.items()
        }
    if shared:
        further[_SHARED] = shared
    return {
        "class": name,
        **network,
        "parameters": encode(parameters, f"{prefix}{_PARAMETER}."),
        "fitted": encode(fitted, prefix),
        **further,
        # settings of set_output and set_fit_request, which change the behaviour of a Pipeline
        "output": getattr(estimator, "_sklearn_output_config", {}).get("transform"),
        "requests": _requests(estimator),
        "parts": {
            key: _encode_estimator(part, f"{prefix}{key}.", tensors) for key, part in parts.items()
        },
    }


def _is_list_of_estimators(value: Any) -> bool:
    several = isinstance(value, (list, tuple)) and len(value) > 0
    return several and all(isinstance(each, BaseEstimator) for each in value)


def _shared(parameters: Mapping[str, Any], fitted: Mapping[str, Any]) -> dict[str, str]:
    """Parameters with the same estimators as a fitted attribute, which are stored once."""
    found = {}
    for key, value in parameters.items():
        own = value if _is_list_of_estimators(value) else [value]
        for name, other in fitted.items():
            same = _is_list_of_estimators(other) and len(own) == len(other)
            if same and all(a is b for a, b in zip(own, other, strict=True)):
                found[key] = name if own is value else f"{name}.0"
    return found


def _name_of_module(module: Any) -> str:
    """Name of a module's class or function, for the message of a later :func:`load`."""
    named = module if hasattr(module, "__qualname__") else type(module)
    return f"{named.__module__}.{named.__qualname__}"


def _module_in(content: dict[str, Any]) -> str | None:
    """Return the name of a module whose weights are in a file; None without one."""
    if "module" in content:
        return str(content["module"])
    if content["class"] in _PIPELINES:
        within = [step for _, step in content["steps"]]
    elif content["class"] == FrozenEstimator.__name__:
        within = [content["estimator"]]
    else:
        within = list(content.get("parts", {}).values())
        within += [each for own in content.get("lists", {}).values() for each in own]
    return next((name for name in map(_module_in, within) if name is not None), None)


def _requests(estimator: BaseEstimator) -> dict[str, dict[str, Any]]:
    """Metadata requests of an estimator (set_fit_request and similar), by method."""
    routing = estimator.get_metadata_routing()
    requests = {
        method: {
            key: value
            for key, value in getattr(routing, method).requests.items()
            if value is not None
        }
        for method in SIMPLE_METHODS
    }
    return {method: wanted for method, wanted in requests.items() if wanted}


def _decode_estimator(
    content: dict[str, Any],
    prefix: str,
    tensors: dict[str, NDArray[Any]],
    module: Any,
    version: int,
    *,
    is_parameter: bool = False,
) -> Any:
    """Restore an estimator, which must be fitted unless it is a parameter of another one."""
    if content["class"] == "passthrough":
        return "passthrough"
    if content["class"] in _PIPELINES:
        steps = [
            (name, _decode_estimator(step, f"{prefix}{name}.", tensors, module, version))
            for name, step in content["steps"]
        ]
        pipeline = _PIPELINES[content["class"]](
            steps, transform_input=content["transform_input"], verbose=content["verbose"]
        )
        pipeline._validate_params()
        pipeline._validate_steps()
        _fix_outputs([step for _, step in steps])
        return pipeline
    if content["class"] == FrozenEstimator.__name__:
        inner = _decode_estimator(
            content["estimator"], f"{prefix}estimator.", tensors, module, version
        )
        return FrozenEstimator(inner)
    if content["class"] in LEARNERS:
        return decode_learner(content, tensors, is_parameter=is_parameter)
    parameters = {key: decode_value(value, tensors) for key, value in content["parameters"].items()}
    if version < _OWN_ORDER and isinstance(parameters.get("protocol"), AcquisitionProtocol):
        parameters["protocol"] = parameters["protocol"].in_grid_order()
    cls = SAVED_CLASSES[content["class"]]
    if "module" in content:
        parameters["module"] = module
    if cls is CorrelationCNNClassifier:
        cls, parameters = _current_classifier(parameters)
    names = cls._get_param_names()
    parts = {
        key: _decode_estimator(
            part, f"{prefix}{key}.", tensors, module, version, is_parameter=key in names
        )
        for key, part in content.get("parts", {}).items()
    }
    for key, several in content.get("lists", {}).items():
        parts[key] = [
            _decode_estimator(
                each, f"{prefix}{key}.{k}.", tensors, module, version, is_parameter=key in names
            )
            for k, each in enumerate(several)
        ]
    for key, place in content.get(_SHARED, {}).items():
        own, _, number = place.partition(".")
        parts[key] = parts[own][int(number)] if number else parts[own]
    estimator = cls(**parameters | {key: parts.pop(key) for key in parts.keys() & set(names)})
    estimator._validate_params()
    is_fitted = bool(content["fitted"] or parts) or not is_parameter
    if is_fitted:
        check_names(cls.__name__, content["fitted"].keys() | parts.keys())
    for key, part in parts.items():
        setattr(estimator, key, part)
    for key, value in content["fitted"].items():
        setattr(estimator, key, decode_value(value, tensors))
    if _STORED in content:
        stored = {key: decode_value(value, tensors) for key, value in content[_STORED].items()}
        estimator._restore(stored)
    if is_fitted:
        check_fitted(estimator)
    if content["output"] is not None:
        if content["output"] not in ("default", "pandas", "polars"):
            raise ValueError(f"the output {content['output']!r:.60} is unknown")
        estimator.set_output(transform=content["output"])
    # files of version 1 have requests of fit only
    requests = content.get("requests") or {"fit": content.get("fit_request")}
    with config_context(enable_metadata_routing=True):
        for method, wanted in requests.items():
            if wanted:
                getattr(estimator, f"set_{method}_request")(**wanted)
    if isinstance(estimator, NetworkEstimator) and "n_features_in_" in content["fitted"]:
        own = {
            key.removeprefix(prefix): values
            for key, values in tensors.items()
            if key.startswith(prefix) and not _is_other(key.removeprefix(prefix), content)
        }
        _restore_net(estimator, own, content.get("optimizer"))
    if isinstance(estimator, _VoxelModel):
        _fit_again(estimator)
    if isinstance(estimator, LinearDiscriminantAnalysis):
        _restore_components(estimator)
    return estimator


def _is_other(name: str, content: dict[str, Any]) -> bool:
    """Whether a tensor belongs to a parameter or attribute, and is no weight."""
    return name.split(".")[0] in {*content["fitted"], _PARAMETER, _STORED}


def _restore_net(
    estimator: NetworkEstimator, tensors: dict[str, NDArray[Any]], optimizer: Any
) -> None:
    """Restore the net of a classifier, and its optimiser if stored."""
    try:
        device = resolve_device(estimator.device)
    except ValueError:
        device = resolve_device("cpu")
    architecture: dict[str, Any] = {
        "grid_shape": (), "width": 0, "n_blocks": 0, "dropout": 0.0,
        **estimator._architecture(),
    }  # fmt: skip
    network = architecture.pop("network")
    shape = NetworkShape(
        n_features=estimator.n_features_in_, n_classes=estimator._n_outputs, **architecture
    )
    weights = {key: value for key, value in tensors.items() if not key.startswith(OPTIMIZER_PREFIX)}
    net = restored_net(weights, network, shape, device)
    if optimizer is not None:
        settings = estimator._settings(estimator.class_count_, 0, 1)
        net = restore_optimizer(net, settings, optimizer, tensors)
    estimator.net_ = net


def _fit_again(estimator: Any) -> None:
    """Restore a model-based estimator, whose `fit` depends on the classes and columns only."""
    classes = getattr(estimator, "classes_", None)
    X: Any = np.ones((1 if classes is None else len(classes), estimator.n_features_in_))
    if hasattr(estimator, "feature_names_in_"):
        X = pd.DataFrame(X, columns=estimator.feature_names_in_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first fit has warned
        calibration = getattr(estimator, "calibration_", None)
        estimator.fit(X, classes)
        if calibration is not None:
            estimator._use_calibration(calibration)


def _restore_components(estimator: LinearDiscriminantAnalysis) -> None:
    """Restore the number of components of `transform`, which scikit-learn keeps privately."""
    most = min(len(estimator.classes_) - 1, estimator.n_features_in_)
    count = most if estimator.n_components is None else estimator.n_components
    estimator._max_components = estimator._n_features_out = count


def _fix_outputs(steps: list[Any]) -> None:
    """Let a step return arrays if the next step was fitted to an array.

    With scikit-learn's global `transform_output`, the next step would get a table with names that
    it does not have, and warn in each prediction. The setting of `set_output` has precedence.
    """
    fitted = [step for step in steps if step != "passthrough"]
    for step, following in pairwise(fitted):
        while isinstance(step, Pipeline):
            step = step[-1]
        chosen = "transform" in getattr(step, "_sklearn_output_config", {})
        if not chosen and not hasattr(following, "feature_names_in_"):
            step.set_output(transform="default")


def _current_classifier(
    parameters: dict[str, Any],
) -> tuple[type[NetworkClassifier], dict[str, Any]]:
    """Convert the parameters in a file of any version to a current class and its parameters."""
    given = dict(parameters)
    if "standardize" in given:  # version 1
        given["input_scaling"] = "standardize" if given.pop("standardize") else None
    if "kernel" in given:  # versions 1 and 2 had one class for all networks
        given["backend"] = "numba" if given["kernel"] == "compiled" else given["kernel"]
    if given.get("optimizer") != "sgd" and "momentum" in given:
        given["momentum"] = None  # earlier versions had 0.9, without effect
    network = given.get("network", "cnn")
    cls = ResidualMLPClassifier if network == "residual-mlp" else CorrelationCNNClassifier
    names = cls._get_param_names()
    return cls, {name: value for name, value in given.items() if name in names}
