"""Torch's global random numbers, borrowed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# one generator serves all threads of a process, as torch's layers want it
_global_generator = threading.RLock()


@contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generator, which is the user's again afterwards; one thread at a time."""
    with (
        _global_generator,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        # not torch.manual_seed, which would seed every GPU, also those of others
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
