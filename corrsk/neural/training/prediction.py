"""Predictions of a trained net, its weights as arrays, and its restoration from arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corrsk.neural.networks import (
    NETWORKS,
    HalfWhitenedNetwork,
    NetworkShape,
    StandardizedNetwork,
)
from corrsk.neural.training.device import own_random_numbers, standard_torch
from corrsk.neural.training.net import CountLoss, SignalNet, as_tensor

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
    weights: dict[str, NDArray[Any]], network: str, shape: NetworkShape, device: torch.device
) -> SignalNet:
    """Build a net for prediction from the name, shape and weights of its network."""
    state = {name: torch.from_numpy(values) for name, values in weights.items()}
    # the initial weights, which are replaced, must not use random numbers of a training
    with own_random_numbers(0, torch.device("cpu")):
        module: torch.nn.Module = NETWORKS[network](shape)
    if "scale" in state:
        module = StandardizedNetwork(module, state["mean"], state["scale"])
    elif "matrix" in state:
        module = HalfWhitenedNetwork(module, state["mean"], state["matrix"])
    module.load_state_dict(state)
    net = SignalNet(
        module=module, criterion=CountLoss(), device=device, train_split=None, verbose=0
    )
    net.initialize()
    net.trim_for_prediction()
    return net


def device_name(net: SignalNet) -> str:
    """Name of the device of a net: "cpu", or the name of the GPU."""
    device = _device_of(net)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _device_of(net: SignalNet) -> torch.device:
    device: torch.device = next(net.module_.parameters()).device
    return device
