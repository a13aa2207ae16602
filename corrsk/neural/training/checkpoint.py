"""Checkpoints, from which an interrupted training is resumed."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from corrsk._utils.files import InvalidFileError, digest, refuse_misfits, write_atomically
from corrsk._utils.locks import exclusive
from corrsk.neural.training.callbacks import TrainingCallback
from corrsk.neural.training.net import history_rows
from corrsk.neural.training.states import check_weights, checked_optimizer_state

_MAGIC = b"corrsk checkpoint 2 "  # followed by a digest of the rest of the file, and a newline
_KEYS = {
    "identity", "module", "optimizer", "callbacks", "history", "order", "rng", "cuda_rng"
}  # fmt: skip
INTERVAL = 10.0  # least number of seconds between checkpoints, because epochs may be short


def fingerprint(settings: dict[str, Any], *arrays: NDArray[Any]) -> str:
    """Fingerprint of a training: hash of its settings and data."""
    found = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode())
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:32]


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
    return _MAGIC + digest(content).encode() + b"\n"


def _loaded(path: Path, content: bytes) -> dict[str, Any]:
    """State in the content of a checkpoint file."""
    if content.startswith(_MAGIC):
        end = content.find(b"\n") + 1
        header, content = content[:end], content[end:]
        if header != _header(content):
            raise InvalidFileError(
                f"the checkpoint {path} is damaged: its digest is not that of its content; remove "
                "the file to train from the start"
            )
    try:
        state: Any = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        # the first format had no digest
        if set(state) - {"format"} != _KEYS or state.get("format", 1) != 1:
            raise ValueError("other content")
    except Exception as error:  # torch raises many types of errors for other files
        raise InvalidFileError(
            f"{path} is not a training checkpoint of this version of corrsk; "
            "remove the file to train from the start"
        ) from error
    return dict(state)


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

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other trainings from the file, and remove what killed ones left of it.

        Raises
        ------
        FileExistsError
            If another training uses the file.
        ValueError
            If its folder does not exist, or the file is a folder.
        """
        if not self.path.parent.is_dir():
            raise ValueError(f"there is no folder {self.path.parent} for the checkpoint")
        if self.path.is_dir():
            raise ValueError(f"the checkpoint {self.path} is a folder; it must be a file")
        with exclusive(self.path.resolve(), related=False):
            yield

    def read(self) -> dict[str, Any] | None:
        """Read the state from the file; return None if there is no file.

        Raises
        ------
        InvalidFileError
            If the file is not a checkpoint, or is damaged.
        ValueError
            If the file belongs to another training.
        """
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
        InvalidFileError
            If the state does not fit the net. torch's fused optimisers do not check the tensors
            of their state, and would write beyond tensors that are too small.
        """
        with refuse_misfits(
            self.path, "a checkpoint of this training", "; remove the file to train from the start"
        ):
            check_weights(state["module"], net.module_)
            optimizer = checked_optimizer_state(state["optimizer"], net.optimizer_)
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
