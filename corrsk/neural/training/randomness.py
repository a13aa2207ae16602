"""Temporary seed of torch's global random number generator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# torch's layers draw from one generator, which all threads of a process share
_global_generator = threading.RLock()


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
