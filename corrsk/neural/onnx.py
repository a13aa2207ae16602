"""Export of a trained network to an ONNX file, which runs without torch."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from corrsk._utils.extras import require
from corrsk._utils.files import write_atomically
from corrsk.neural.training.net import SignalNet


class _Probabilities(nn.Module):
    """Network with probabilities as outputs in place of logits."""

    def __init__(self, network: nn.Module, order: Tensor | None) -> None:
        super().__init__()
        self.network = network
        self.order = order

    def forward(self, signals: Tensor) -> Tensor:
        if self.order is not None:
            signals = signals.index_select(1, self.order)
        return torch.softmax(self.network(signals), dim=1)


def write_onnx(
    net: SignalNet,
    path: str | Path,
    *,
    n_features: int,
    classes: Iterable[object],
    order: NDArray[np.intp] | None = None,
) -> None:
    """Write a network with a softmax output to an ONNX file.

    Parameters
    ----------
    net : SignalNet
        The trained net.
    path : path-like
        Name of the file, which is written atomically.
    n_features : int
        Number of measurements of the network's input.
    classes : iterable of labels
        Labels of the output columns, stored in the metadata of the file.
    order : ndarray of int, shape (n_features,), optional
        Position of each input of the network among the measurements.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    """
    require("onnx", "onnxscript", extra="onnx", purpose="to_onnx")
    positions = None if order is None else torch.as_tensor(order)
    network = _Probabilities(copy.deepcopy(net.module_).cpu(), positions).eval()
    with write_atomically(path) as partial, _quiet():
        program = torch.onnx.export(
            network, (torch.zeros(2, n_features),),
            dynamic_shapes=({0: torch.export.Dim("n")},),
            input_names=["signals"], output_names=["probabilities"], verbose=False, dynamo=True,
        )  # fmt: skip
        assert program is not None
        program.model.metadata_props["classes"] = json.dumps(list(classes))
        program.save(partial)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages, which concern other models and its internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
