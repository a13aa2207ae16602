"""Export of a trained network to an ONNX file, which runs without torch."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from corrsk._utils.extras import require
from corrsk._utils.files import write_atomically
from corrsk.neural.training.device import standard_torch
from corrsk.neural.training.net import SignalNet


class _Probabilities(nn.Module):
    """Network with probabilities as outputs in place of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, signals: Tensor) -> Tensor:
        return torch.softmax(self.network(signals), dim=1)


@standard_torch()
def write_onnx(
    net: SignalNet, path: str | Path, *, n_features: int, classes: Iterable[object]
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

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    """
    require("onnx", "onnxscript", extra="onnx", purpose="to_onnx")
    network = _Probabilities(copy.deepcopy(net.module_).cpu()).eval()
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
