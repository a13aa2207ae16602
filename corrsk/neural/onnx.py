"""A trained network as an ONNX file, for where there is no torch."""

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
from corrsk.neural.training.net import SignalNet


class _Probabilities(nn.Module):
    """Probabilities in place of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, signals: Tensor) -> Tensor:
        return torch.softmax(self.network(signals), dim=1)


def write_onnx(
    net: SignalNet, path: str | Path, *, n_features: int, classes: Iterable[object]
) -> None:
    """Write a net's probabilities as a graph of ONNX.

    Parameters
    ----------
    net : SignalNet
    path : path-like
        Of the file, which appears whole or not at all.
    n_features : int
    classes : iterable of labels
        What the columns of the output stand for; kept in the file's metadata.

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
    """Without the exporter's remarks, which are about other models and its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
