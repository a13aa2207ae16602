"""Where to compute."""

from __future__ import annotations

import torch


def resolve_device(device: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N".

    "auto" is the GPU if there is one, else the processor.

    Raises
    ------
    ValueError
        If the name is none of these, or there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = str(device).partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA "
            "devices; use device='auto' or 'cpu'"
        )
    return torch.device(device)


def set_threads(n_threads: int) -> None:
    """Let torch use `n_threads` threads in this process."""
    torch.set_num_threads(n_threads)
