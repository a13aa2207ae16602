"""State of torch that a network uses: device, threads, global settings and random numbers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from corrsk._utils.parallel import effective_n_jobs, in_worker, share_of_cores

# torch's layers draw from one generator, which all threads of a process share
_global_generator = threading.RLock()

_lock = threading.Lock()
_limits_held = 0
_is_forked = False
# this call also fixes the number of threads of the importing thread before a limit is set
_unlimited = torch.get_num_threads()


class _Thread(threading.local):
    limits_held = 0
    has_own_number = False


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

    The limit does not apply to other threads, nor does it remain in those that begin to use torch
    during the limit; see :func:`restore_own_number`.
    """
    global _limits_held, _unlimited
    restore_own_number()
    with _lock:
        before = torch.get_num_threads()
        if _limits_held == 0:
            _unlimited = before
        torch.set_num_threads(1 if _is_forked else n_threads)
        _limits_held += 1
    _this_thread.limits_held += 1
    try:
        yield
    finally:
        _this_thread.limits_held -= 1
        with _lock:
            _limits_held -= 1
            torch.set_num_threads(before)


def restore_own_number() -> None:
    """Give this thread the number of torch threads that it would have without other threads.

    torch initialises a new thread with the number that any thread has set last, which may be the
    limit of another one. The number would change the rounding of results.
    """
    if _this_thread.has_own_number:
        return
    with _lock:
        if _limits_held and _this_thread.limits_held == 0:
            torch.set_num_threads(1 if _is_forked else _unlimited)
        else:
            torch.get_num_threads()  # which fixes the number of this thread
    _this_thread.has_own_number = True


@contextmanager
def share_of_threads() -> Iterator[None]:
    """In a worker, limit the number of torch threads to the worker's share of the cores.

    A limit that this thread has set before takes precedence. A forked process has one thread.
    """
    restore_own_number()
    if _is_forked:
        n_threads = 1
    elif in_worker() and _this_thread.limits_held == 0:
        n_threads = min(share_of_cores(), torch.get_num_threads())
    else:
        yield
        return
    with limited_threads(n_threads):
        yield


@contextmanager
def threads_for(n_jobs: int | None, *, small: bool) -> Iterator[None]:
    """Limit the number of torch threads to that of an estimator, for the work of this thread.

    Parameters
    ----------
    n_jobs : int or None
        Parameter of the estimator. None is one thread for small work, and otherwise torch's
        number, or in a worker its share of the cores.
    small : bool
        Whether threads would mostly wait for each other.
    """
    if n_jobs is None and not small:
        restore_own_number()
        yield
        return
    with limited_threads(1 if n_jobs is None else effective_n_jobs(n_jobs)):
        yield


def _after_fork() -> None:
    """Prepare a forked process: one thread, and locks that no other thread holds.

    The threads of OpenMP do not survive a fork, and the child would wait for them for ever.
    """
    global _is_forked, _limits_held, _lock, _global_generator
    _is_forked, _limits_held, _this_thread.limits_held = True, 0, 0
    _lock, _global_generator = threading.Lock(), threading.RLock()
    _process_settings.forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


class _ProcessSettings:
    """Context manager with torch's default data type, and single precision for matrix products.

    These settings hold for all threads of the process. If several threads need them at the same
    time, the first thread sets them and the last one restores those of the user.
    """

    # with tf32 or bfloat16, differences of large values, as in the half-whitening, are lost
    _PRECISIONS = (
        torch.backends.cuda.matmul,
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
        torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
    )

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start again without users."""
        self._lock = threading.Lock()
        self._users = 0
        self._changed: list[tuple[Any, str]] = []
        self._dtype = torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._dtype = torch.get_default_dtype()
                if self._dtype != torch.float32:
                    torch.set_default_dtype(torch.float32)
                self._changed = [
                    (product, product.fp32_precision)
                    for product in self._PRECISIONS
                    if product.fp32_precision not in ("none", "ieee")
                ]
                for product, _ in self._changed:
                    product.fp32_precision = "ieee"
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                if self._dtype != torch.float32:
                    torch.set_default_dtype(self._dtype)
                for product, precision in self._changed:
                    product.fp32_precision = precision


_process_settings = _ProcessSettings()


@contextmanager
def standard_torch() -> Iterator[None]:
    """Undo the global settings of torch that change results, for the work of this thread.

    Users and other packages set a default data type or device, a lower precision of matrix
    products, autocast, or a mode without gradients. Networks are built, trained and evaluated with
    torch's own defaults instead, and in a worker with the worker's share of the threads.
    """
    with ExitStack() as stack:
        stack.enter_context(_process_settings)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(share_of_threads())
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


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16.

    Without them, bfloat16 is slower than float32, on some processors many times.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(supported())
