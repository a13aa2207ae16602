"""Export of a trained network to an ONNX file, which runs without torch."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from corrsk._utils.extras import require
from corrsk._utils.files import write_atomically
from corrsk.neural.training.device import standard_torch
from corrsk.neural.training.net import SignalNet
from corrsk.preprocessing.aligner import ProtocolAligner
from corrsk.preprocessing.normalizer import SignalNormalizer


class _Probabilities(nn.Module):
    """Network with probabilities as outputs in place of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, signals: Tensor) -> Tensor:
        return torch.softmax(self.network(signals), dim=1)


class _Reordered(nn.Module):
    """Columns in the order of the next step."""

    order: Tensor

    def __init__(self, order: NDArray[np.intp]) -> None:
        super().__init__()
        self.register_buffer("order", torch.from_numpy(np.asarray(order, np.int64)))

    def forward(self, signals: Tensor) -> Tensor:
        return signals.index_select(1, self.order)


class _Magnitude(nn.Module):
    """Absolute values, for a model of magnitudes."""

    def forward(self, signals: Tensor) -> Tensor:
        return signals.abs()


class _Normalized(nn.Module):
    """Signals divided by their norm; a signal that is all zero stays zero."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, signals: Tensor) -> Tensor:
        largest = signals.abs().amax(dim=1, keepdim=True)
        # first by the largest value, so that no square overflows
        scaled = signals / torch.where(largest > 0, largest, torch.ones_like(largest))
        if self.norm == "max":
            return scaled
        squared = (scaled * scaled).sum(dim=1, keepdim=True)
        if self.norm == "rms":
            squared = squared / signals.shape[1]
        norm = squared.sqrt()
        return scaled / torch.where(norm > 0, norm, torch.ones_like(norm))


class _Answered(nn.Module):
    """Steps, with NaN as answer to signals that are all zero, NaN or infinite.

    Networks answer zeros with confident probabilities, and some runtimes replace NaN by numbers.
    """

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.Sequential(*steps)

    def forward(self, signals: Tensor) -> Tensor:
        zero = signals.abs().amax(dim=1, keepdim=True) == 0
        unusable = (signals.isnan() | signals.isinf()).any(dim=1, keepdim=True)
        answer = self.steps(signals)
        return torch.where(zero | unusable, torch.full_like(answer, torch.nan), answer)


def to_onnx(estimator: Any, path: str | Path) -> None:
    """Write a trained network, with the steps before it, as an ONNX file.

    The file runs without torch and corrsk.

    Parameters
    ----------
    estimator : SimulationTrainedClassifier, Pipeline or network classifier
        Fitted model, such as a pretrained one; fitted Pipeline of a ProtocolAligner, a
        SignalNormalizer (each of them optional) and a network classifier; or a fitted network
        classifier.
    path : path-like
        Name of the file, which is written atomically.

    Raises
    ------
    ImportError
        If the libraries of the extra `onnx` are not installed.
    TypeError
        If the estimator has other steps.
    FileNotFoundError
        If the folder of the file does not exist.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Warns
    -----
    UserWarning
        If the model is for signals with M0 = 1 (a ProtocolAligner with `norm` None): the check of
        M0 is not in the file, which answers signals of any scale.

    Notes
    -----
    The input of the file is "signals", float32 of shape (n_samples, n_measurements): the columns
    of the Pipeline, with a ProtocolAligner those of its measured protocol. The output is
    "probabilities", float32 of shape (n_samples, n_classes): NaN for signals that are all zero, as
    of `predict_proba`, and for signals with NaN or infinite values. The metadata contain as JSON
    the labels, under "classes", and with a ProtocolAligner the names of the columns, under
    "columns".

    Examples
    --------
    >>> from corrsk import load_pretrained, to_onnx
    >>> to_onnx(load_pretrained("midl2024"), "midl2024.onnx")  # doctest: +SKIP
    """
    # a SimulationTrainedClassifier has its steps in a pipeline
    estimator = getattr(estimator, "pipeline_", estimator)
    steps = [estimator]
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps]
    classifier, columns, needs_unit_m0 = steps[-1], None, False
    if not hasattr(classifier, "to_onnx"):
        raise TypeError(
            f"to_onnx needs a network classifier or a Pipeline that ends in one; got "
            f"{type(classifier).__name__}"
        )
    before: list[nn.Module] = []
    for step in steps[:-1]:
        if step is None or step == "passthrough":
            continue
        if not isinstance(step, ProtocolAligner | SignalNormalizer):
            raise TypeError(
                f"to_onnx supports the steps ProtocolAligner and SignalNormalizer, not "
                f"{type(step).__name__}"
            )
        check_is_fitted(step)
        if isinstance(step, ProtocolAligner):
            before.append(_Reordered(step.order_))
            if step.noise_distribution == "rician":
                before.append(_Magnitude())
            columns = step.measured_protocol_.feature_names
            needs_unit_m0 = step.norm is None
        elif step.norm is not None:
            before.append(_Normalized(step.norm))
    check_is_fitted(classifier)
    order = getattr(classifier, "column_order_", None)
    if order is not None:
        before.append(_Reordered(order))
    metadata = {"classes": classifier.classes_.tolist()}
    if columns is not None:
        metadata["columns"] = columns
    write_onnx(
        classifier.net_, path, n_features=classifier.n_features_in_, metadata=metadata,
        before=before,
    )  # fmt: skip
    if needs_unit_m0:
        warnings.warn(
            "the model is for signals with M0 = 1, which the file does not check: it answers "
            "signals of another scale with wrong probabilities. Divide signals by their M0, or "
            "export a model for signals of any scale",
            stacklevel=2,
        )


@standard_torch()
def write_onnx(
    net: SignalNet,
    path: str | Path,
    *,
    n_features: int,
    metadata: Mapping[str, Any],
    before: Sequence[nn.Module] = (),
) -> None:
    """Write a network with a softmax output, and NaN for unusable signals, to an ONNX file.

    Parameters
    ----------
    net : SignalNet
        The trained net.
    path : path-like
        Name of the file, which is written atomically.
    n_features : int
        Number of measurements of the network's input.
    metadata : mapping
        Entries of the metadata of the file, which are stored as JSON.
    before : sequence of torch.nn.Module
        Steps before the network.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    """
    require("onnx", "onnxscript", extra="onnx", purpose="to_onnx")
    probabilities = _Probabilities(copy.deepcopy(net.module_).cpu())
    network = _Answered([*before, probabilities]).eval()
    with write_atomically(path) as partial, _quiet():
        program = torch.onnx.export(
            network, (torch.zeros(2, n_features),),
            dynamic_shapes=({0: torch.export.Dim("n")},),
            input_names=["signals"], output_names=["probabilities"], verbose=False, dynamo=True,
        )  # fmt: skip
        assert program is not None
        for name, value in metadata.items():
            program.model.metadata_props[name] = json.dumps(value)
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
