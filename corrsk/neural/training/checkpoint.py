"""Checkpoints, from which an interrupted training is resumed."""

from __future__ import annotations

import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from corrsk._utils.files import write_atomically
from corrsk.neural.training.callbacks import TrainingCallback
from corrsk.neural.training.net import history_rows

_MAGIC = b"corrsk checkpoint 2 "  # followed by a digest of the rest of the file, and a newline
_KEYS = {
    "identity", "module", "optimizer", "callbacks", "history", "order", "rng", "cuda_rng"
}  # fmt: skip
# of states with other types, keys or shapes
_MISFITS = ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError
_STATE_NAMES = {"exp_avg", "exp_avg_sq", "momentum_buffer"}  # of AdamW, SGD and Muon
INTERVAL = 10.0  # least number of seconds between checkpoints, because epochs may be short


def fingerprint(settings: dict[str, Any], *arrays: NDArray[Any]) -> str:
    """Fingerprint of a training: hash of its settings and data."""
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def module_in_words(module: nn.Module) -> list[Any]:
    """Names, classes and public attributes of a module and its parts, for fingerprints.

    Tensors and the source code of the classes are not included.
    """
    return [
        [
            name,
            f"{type(part).__module__}.{type(part).__qualname__}",
            sorted(
                (key, getattr(value, "__qualname__", None) or repr(value))
                for key, value in vars(part).items()
                if not key.startswith("_") and key != "training"
            ),
        ]
        for name, part in module.named_modules()
    ]


def _header(content: bytes) -> bytes:
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return _MAGIC + digest.encode() + b"\n"


def _loaded(path: Path, content: bytes) -> dict[str, Any]:
    """State in the content of a checkpoint file."""
    if content.startswith(_MAGIC):
        end = content.find(b"\n") + 1
        header, content = content[:end], content[end:]
        if header != _header(content):
            raise ValueError(
                f"the checkpoint {path} is damaged: its digest is not that of its content; remove "
                "the file to train from the start"
            )
    try:
        state: Any = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        # the first format had no digest
        if set(state) - {"format"} != _KEYS or state.get("format", 1) != 1:
            raise ValueError("other content")
    except Exception as error:  # torch raises many types of errors for other files
        raise ValueError(
            f"{path} is not a training checkpoint of this version of corrsk; "
            "remove the file to train from the start"
        ) from error
    return dict(state)


def _check_weights(saved: Any, module: nn.Module) -> None:
    """Check that the weights of a checkpoint fit a module and are finite."""
    own = module.state_dict()
    if saved.keys() != own.keys():
        raise ValueError("it has the weights of another network")
    for name, tensor in saved.items():
        _check_tensor(name, tensor, own[name])


def _check_tensor(name: str, tensor: Any, like: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise ValueError(f"{name} is no tensor")
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise ValueError(
            f"{name} has the shape {tuple(tensor.shape)} and the type {tensor.dtype}, not "
            f"{tuple(like.shape)} and {like.dtype}"
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} is not finite")


def _checked_optimizer_state(saved: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """State of an optimiser from a checkpoint, with the optimiser's own settings.

    All tensors have the shape and type of their parameter, or are numbers.
    """
    parts = getattr(optimizer, "parts", None)
    if parts is not None:
        pairs = zip(saved["parts"], parts, strict=True)
        return {"parts": [_checked_optimizer_state(state, part) for state, part in pairs]}
    own = optimizer.state_dict()
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    numbers = [number for group in own["param_groups"] for number in group["params"]]
    if [group["params"] for group in saved["param_groups"]] != [
        group["params"] for group in own["param_groups"]
    ]:
        raise ValueError("its optimiser has other parameters")
    if not set(saved["state"]) <= set(numbers):
        raise ValueError("its optimiser has a state of unknown parameters")
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, tensor in saved["state"].get(number, {}).items():
            if name == "step":
                _check_tensor(name, tensor, torch.zeros(()))
            elif name not in _STATE_NAMES:
                raise ValueError(f"its optimiser has a state {name!r}")
            elif tensor is not None:
                _check_tensor(name, tensor, parameter)
    # the settings of a training are part of its fingerprint; only the tensors can differ
    return {"state": saved["state"], "param_groups": own["param_groups"]}


class TrainingCheckpoint(TrainingCallback):
    """Write the state of the training to a file every few seconds and after the last epoch.

    Parameters
    ----------
    path : path-like
        The checkpoint file, which is replaced atomically.
    identity : str
        Fingerprint of the training (settings and data), stored in the checkpoint.
    stateful : list of callbacks
        Callbacks with `state_dict` and `load_state_dict`.
    generator : torch.Generator
        Generator of the order of the signals.
    """

    def __init__(
        self, path: str | Path, identity: str, stateful: list[Any], generator: torch.Generator
    ) -> None:
        self.path = Path(path)
        self.identity = identity
        self.stateful = stateful
        self.generator = generator
        self.written_at = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """Read the state from the file; return None if there is no file.

        Raises
        ------
        ValueError
            If the file is not a checkpoint or belongs to another training.
        """
        if not self.path.parent.is_dir():
            raise ValueError(f"there is no folder {self.path.parent} for the checkpoint")
        if self.path.is_dir():
            raise ValueError(f"the checkpoint {self.path} is a folder; it must be a file")
        if not self.path.exists():
            return None
        content = self.path.read_bytes()
        state = _loaded(self.path, content)
        if state["identity"] != self.identity:
            raise ValueError(
                f"{self.path} is the checkpoint of a training with other parameters or other "
                "data, with another backend, or on another kind of device; remove the file, or "
                "choose another one"
            )
        return state

    def restore(self, net: Any, state: dict[str, Any]) -> None:
        """Set an initialised net, the callbacks and the generators to a state from the file.

        Raises
        ------
        ValueError
            If the state does not fit the net. torch's fused optimisers do not check the tensors
            of their state, and would write beyond tensors that are too small.
        """
        try:
            _check_weights(state["module"], net.module_)
            optimizer = _checked_optimizer_state(state["optimizer"], net.optimizer_)
            net.module_.load_state_dict(state["module"])
            net.optimizer_.load_state_dict(optimizer)
            for callback, saved in zip(self.stateful, state["callbacks"], strict=True):
                callback.load_state_dict(saved)
            for row in state["history"]:
                net.history.new_epoch()
                for key, value in row.items():
                    net.history.record(key, value)
            self.generator.set_state(state["order"])
            torch.set_rng_state(state["rng"])
            if state["cuda_rng"] is not None and self._on_gpu(net):
                torch.cuda.set_rng_state(state["cuda_rng"], net.device)
        except _MISFITS as error:
            raise ValueError(
                f"the checkpoint {self.path} does not fit its training, and may be damaged "
                f"({error}); remove the file to train from the start"
            ) from error

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        last = net.history[-1]["epoch"] == net.max_epochs
        if last or time.monotonic() - self.written_at > INTERVAL:
            self.write(net)

    @staticmethod
    def _on_gpu(net: Any) -> bool:
        return torch.device(net.device).type == "cuda"

    def write(self, net: Any) -> None:
        """Write the state of the training to the file."""
        state = {
            "identity": self.identity,
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.stateful],
            "history": history_rows(net),
            "order": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(net.device) if self._on_gpu(net) else None,
        }
        # through bytes, because torch's writer has a special exception for a full disk
        file = io.BytesIO()
        torch.save(state, file)
        content = file.getvalue()
        with write_atomically(self.path) as partial:
            partial.write_bytes(_header(content) + content)
        self.written_at = time.monotonic()
