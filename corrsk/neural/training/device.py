"""State of torch that a training uses: device, threads and random numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from corrsk._utils.parallel import in_worker, share_of_cores

# torch's layers draw from one generator, which all threads of a process share
_global_generator = threading.RLock()

_lock = threading.Lock()
_limits_held = 0
# this call also fixes the number of threads of the importing thread before a limit is set
_unlimited = torch.get_num_threads()


class _Thread(threading.local):
    limits_held = 0


_this_thread = _Thread()


def resolve_device(device: str) -> torch.device:
    """Return the torch device for "auto", "cpu", "cuda" or "cuda:N".

    "auto" is a GPU if available, otherwise the processor.

    Raises
    ------
    ValueError
        If the name is invalid or the device is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = str(device).partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} is not available: torch finds {torch.cuda.device_count()} CUDA "
            "devices; use device='auto' or 'cpu'"
        )
    return torch.device(device)


@contextmanager
def limited_threads(n_threads: int) -> Iterator[None]:
    """Limit the number of torch threads for the work of this thread.

    The limit does not apply to other threads. However, torch initialises a new thread
    with the number that any thread has set last. A thread whose first use of torch is
    here, during the limit of another thread, must therefore restore the number without
    limit.
    """
    global _limits_held, _unlimited
    with _lock:
        before = torch.get_num_threads()
        if _limits_held == 0:
            _unlimited = before
        elif _this_thread.limits_held == 0:
            before = _unlimited
        torch.set_num_threads(n_threads)
        _limits_held += 1
    _this_thread.limits_held += 1
    try:
        yield
    finally:
        _this_thread.limits_held -= 1
        with _lock:
            _limits_held -= 1
            torch.set_num_threads(before)


@contextmanager
def share_of_threads() -> Iterator[None]:
    """In a worker, limit the number of torch threads to the worker's share of the cores."""
    if not in_worker():
        yield
        return
    with limited_threads(min(share_of_cores(), torch.get_num_threads())):
        yield


@contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator; restore its state at the end. One thread at a time."""
    with (
        _global_generator,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        # not torch.manual_seed, which would seed all GPUs, also those of other processes
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
