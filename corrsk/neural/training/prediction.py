"""Predictions of a trained net, its weights as arrays, and its restoration from arrays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corrsk.neural.networks import (
    NETWORKS,
    HalfWhitenedNetwork,
    NetworkShape,
    StandardizedNetwork,
)
from corrsk.neural.training.device import own_random_numbers, standard_torch
from corrsk.neural.training.net import CountLoss, SignalNet, as_tensor, make_net
from corrsk.neural.training.settings import (
    ModuleFactory,
    TrainingSettings,
    created_module,
    net_with_optimizer,
)
from corrsk.neural.training.states import check_tensor, check_weights, checked_optimizer_state

OPTIMIZER_PREFIX = "state of the optimizer/"  # in a name that no weight has
PREDICT_ROWS = 2048  # signals at a time: a few MB of activations, which fit in a cache
SMALL_PREDICTION = 2**27  # multiplications: a few milliseconds on one core
_PREDICT_VALUES = 2**18  # limit on their values: larger activations (32 MB) are freed each time


@standard_torch()
def predict_outputs(
    net: SignalNet, X: NDArray[np.floating[Any]], finish: Callable[[Tensor], Tensor]
) -> NDArray[np.float64]:
    """Compute the outputs of the network for signals, in chunks.

    Parameters
    ----------
    net : SignalNet
        Trained net.
    X : ndarray of shape (n_samples, n_measurements)
        Signals.
    finish : callable
        Function from the outputs of the network, in double precision, to the result, both of
        shape (n_rows, n_outputs).

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        Results of `finish`.

    Raises
    ------
    ValueError
        If X contains values that are too large for single precision.
    """
    device = _device_of(net)
    net.module_.eval()
    found: NDArray[np.float64] | None = None
    n_rows = min(PREDICT_ROWS, max(1, _PREDICT_VALUES // X.shape[1]))
    for start in range(0, X.shape[0], n_rows):
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(X[start : start + n_rows], dtype=np.float32)
        with torch.inference_mode():
            outputs = net.module_(as_tensor(rows).to(device))
        if not torch.isfinite(outputs).all():
            raise ValueError(
                "X contains values that are too large for single precision (float32); the largest "
                f"is {np.abs(X).max():.3g}"
            )
        if found is None:
            # allocated at once: small results between freed activations would fragment the
            # memory
            found = np.empty((X.shape[0], outputs.shape[1]))
        found[start : start + n_rows] = finish(outputs.double()).cpu().numpy()
    assert found is not None  # the estimator has refused an empty X
    return found


def predict_probabilities(net: SignalNet, X: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute the class probabilities of signals, shape (n_samples, n_classes).

    Raises
    ------
    ValueError
        If X contains values that are too large for single precision.
    """
    # in double precision, the sums of rows are as close to 1 as scikit-learn's metrics require
    return predict_outputs(net, X, lambda logits: torch.softmax(logits, dim=1))


def weights_of(net: SignalNet) -> dict[str, NDArray[Any]]:
    """Return the weights and buffers of a net by name."""
    return {
        name: tensor.detach().cpu().contiguous().numpy()
        for name, tensor in net.module_.state_dict().items()
    }


@standard_torch()
def restored_net(
    weights: dict[str, NDArray[Any]],
    network: str | nn.Module | ModuleFactory,
    shape: NetworkShape,
    device: torch.device,
) -> SignalNet:
    """Build a net for prediction from the name, shape and weights of its network.

    Parameters
    ----------
    weights : dict of str to ndarray
        Weights and buffers; see :func:`weights_of`.
    network : str, torch.nn.Module or ModuleFactory
        Name of the network, or the module of the user.
    shape : NetworkShape
        Shape of a named network.
    device : torch.device
        Device of the net.

    Returns
    -------
    SignalNet
        The net.

    Raises
    ------
    ValueError
        If the weights do not match the network, or are not finite.
    """
    stored = {name: torch.from_numpy(values) for name, values in weights.items()}
    if isinstance(network, str):
        _check_sizes(stored, network, shape)
    # copies, because products round differently where memory is not aligned as torch's is
    state = {name: tensor.clone() for name, tensor in stored.items()}
    # the initial weights, which are replaced, must not use random numbers of a training
    with own_random_numbers(0, torch.device("cpu")):
        module = NETWORKS[network](shape) if isinstance(network, str) else created_module(network)
    module = _with_scaling(module, state)
    _check_weights(state, module)
    module.load_state_dict(state)
    return _for_prediction(module, shape.n_classes, device)


def _with_scaling(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Put the input scaling of stored weights in front of a module."""
    if "scale" in state and "mean" in state and "network" in _prefixes(state):
        return StandardizedNetwork(module, state["mean"], state["scale"])
    if "matrix" in state and "mean" in state and "network" in _prefixes(state):
        return HalfWhitenedNetwork(module, state["mean"], state["matrix"])
    return module


def _check_weights(state: dict[str, Tensor], module: nn.Module) -> None:
    try:
        check_weights(state, module)
    except ValueError as error:
        raise ValueError(f"the weights do not match the network: {error}") from error


def _check_sizes(stored: dict[str, Tensor], network: str, shape: NetworkShape) -> None:
    """Check stored weights against a named network, before memory is allocated for it."""
    if shape.n_blocks > len(stored):
        raise ValueError(f"there are not enough weights for {shape.n_blocks} blocks")
    with torch.device("meta"), own_random_numbers(0, torch.device("cpu")):
        module = NETWORKS[network](shape)
    module = _with_scaling(module, stored)
    _check_weights(stored, module)
    for name in ("mean", "scale", "matrix"):  # of the input scaling
        sizes = {"matrix": (shape.n_features, shape.n_features)}.get(name, (shape.n_features,))
        if name in stored:
            check_tensor(name, stored[name], torch.empty(sizes, device="meta"))


def optimizer_state(net: SignalNet) -> tuple[dict[str, NDArray[Any]], Any]:
    """Return the state of a net's optimiser: tensors by name, and the other values.

    Parameters
    ----------
    net : SignalNet
        Net that `partial_fit` may continue to train.

    Returns
    -------
    tensors : dict of str to ndarray
        Tensors; empty for a net without an optimiser.
    content : object
        Plain values, with {"tensor": name} in place of a tensor; None without an optimiser.
    """
    tensors: dict[str, NDArray[Any]] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            name = f"{OPTIMIZER_PREFIX}{len(tensors)}"
            # copied: safetensors refuses shared memory
            tensors[name] = value.detach().cpu().contiguous().numpy().copy()
            return {"tensor": name}
        if isinstance(value, dict):
            return {"pairs": [[key, plain(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    if net.is_trimmed:
        return {}, None
    return tensors, plain(net.optimizer_.state_dict())


def restore_optimizer(
    net: SignalNet, settings: TrainingSettings, content: Any, tensors: dict[str, NDArray[Any]]
) -> SignalNet:
    """Return a net for further training, with a stored state of the optimiser.

    Parameters
    ----------
    net : SignalNet
        Net for prediction; see :func:`restored_net`.
    settings : TrainingSettings
        Settings of the training.
    content : object
        See :func:`optimizer_state`.
    tensors : dict of str to ndarray
        See :func:`optimizer_state`.

    Returns
    -------
    SignalNet
        The net.

    Raises
    ------
    ValueError
        If the state is that of another network, or is not finite.
    """

    def restored(value: Any) -> Any:
        if isinstance(value, list):
            return [restored(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "tensor" in value:
            return torch.from_numpy(tensors[value["tensor"]].copy())
        return {key: restored(item) for key, item in value["pairs"]}

    further = net_with_optimizer(settings, net.module_, _device_of(net))
    state = checked_optimizer_state(restored(content), further.optimizer_)
    further.optimizer_.load_state_dict(state)
    return further


def snapshot(net: SignalNet, n_classes: int | None) -> SignalNet:
    """Return a net for prediction with a copy of the present weights of a net in training."""
    module = copy.deepcopy(net.module_)
    return _for_prediction(module, n_classes, _device_of(net))


class _NoOptimizer:
    """Placeholder of a net that is not trained: torch's optimisers import its compiler, in seconds.

    Parameters
    ----------
    parameters : object
        Ignored, as are all options.
    """

    def __init__(self, parameters: Any, **options: Any) -> None:
        pass


def _for_prediction(module: nn.Module, n_classes: int | None, device: torch.device) -> SignalNet:
    net: SignalNet = make_net(module, CountLoss(), n_classes, device=device, optimizer=_NoOptimizer)
    net.trim_for_prediction()
    return net


def _prefixes(state: dict[str, Any]) -> set[str]:
    return {name.partition(".")[0] for name in state}


def device_name(net: SignalNet) -> str:
    """Name of the device of a net: "cpu", or the name of the GPU."""
    device = _device_of(net)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _device_of(net: SignalNet) -> torch.device:
    device: torch.device = next(net.module_.parameters()).device
    return device


def move_net(net: SignalNet, device: torch.device) -> None:
    """Move a trained net to a device, for predictions there."""
    net.module_.to(device)
    net.device = str(device)
